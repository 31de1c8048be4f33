/* SPDX-License-Identifier: Apache-2.0
 *
 * The rows. llama.cpp's is run by the tests; the others are written from what their projects document:
 *   vLLM    docs.vllm.ai: "CLI reference: serve", "OpenAI-compatible server" (VLLM_API_KEY, --api-key),
 *           "Production metrics", "Using Docker" (the image takes --model)
 *   SGLang  docs.sglang.io: "Server arguments" (--config takes a YAML file of them), "Production metrics"
 *           (only with --enable-metrics), "Install: using Docker" (the image has no entry point of its own)
 *   TGI     huggingface.co/docs/text-generation-inference: "Launcher arguments" (API_KEY), "Metrics"
 *   Triton  docs.nvidia.com, Triton Inference Server: "OpenAI-compatible frontend" (/health/ready, /metrics)
 * Their parsers (argparse, clap) and what else they take: everything that is not named here passes through.
 */
#include "provision/engine/table.h"

#include <math.h>
#include <stdlib.h>
#include <yyjson.h>

#include "provision/engine/engine_int.h"

#define SET_BY_US "corral listens for the engine itself; remove it"
#define ONE_MODEL "the pool's `model` says which model is served; remove it"
#define ONE_NAME "the engine answers under the pool's id; use the pool's `aliases` for other names"
#define OUR_KEY "corral makes a key for each start and keeps it off the command line; remove it"
#define BY_CTX "the pool's `ctx` (tokens per request) sets it"
#define BY_SLOTS "the pool's `slots` sets it"
#define BY_GPUS "the pool's `gpus` sets it"
#define BY_MEMORY "the pool's `memory` sets it"
#define OUR_METRICS "corral reads the engine's metrics; remove it"
#define NO_START "it prints something and ends; remove it"
#define ONE_HOST "an engine of corral runs on one machine; remove it"

static const struct engine_option vllm_list[] = {
	{ { "--model" }, ARG_VALUE, .ours = ONE_MODEL },
	{ { "--host" }, ARG_VALUE, .ours = SET_BY_US },
	{ { "--port" }, ARG_VALUE, .ours = SET_BY_US },
	{ { "--uds" }, ARG_VALUE, .ours = SET_BY_US },
	{ { "--root-path" }, ARG_VALUE, .ours = SET_BY_US },
	{ { "--ssl-keyfile" }, ARG_VALUE, .ours = SET_BY_US },
	{ { "--ssl-certfile" }, ARG_VALUE, .ours = SET_BY_US },
	{ { "--api-key" }, ARG_VALUE, .ours = OUR_KEY, .env = "VLLM_API_KEY" },
	{ { "--served-model-name" }, ARG_VALUE, .ours = ONE_NAME },
	{ { "--config" }, ARG_VALUE, .ours = "its options belong into engine.args; remove it" },
	{ { "--headless" }, ARG_FLAG, .ours = ONE_HOST },
	{ { "--nnodes" }, ARG_VALUE, .ours = ONE_HOST },
	{ { "--help", "-h" }, ARG_FLAG, .ours = NO_START },
	{ { "--version", "-v" }, ARG_FLAG, .ours = NO_START },
	{ { "--max-model-len" }, ARG_VALUE, .ours = BY_CTX, .if_set = true },
	{ { "--max-num-seqs" }, ARG_VALUE, .ours = BY_SLOTS },
	{ { "--tensor-parallel-size", "-tp" }, ARG_VALUE, .ours = BY_GPUS, .if_set = true },
	{ { "--pipeline-parallel-size", "-pp" }, ARG_VALUE },
	{ { "--data-parallel-size", "-dp" }, ARG_VALUE },
	{ { "--gpu-memory-utilization" }, ARG_VALUE, .ours = BY_MEMORY, .if_set = true },
	{ { "--max-num-batched-tokens" }, ARG_VALUE },
	{ { "--dtype" }, ARG_VALUE },
	{ { "--kv-cache-dtype" }, ARG_VALUE },
	{ { "--quantization", "-q" }, ARG_VALUE },
	{ { "--seed" }, ARG_VALUE },
	{ { "--block-size" }, ARG_VALUE },
	{ { "--swap-space" }, ARG_VALUE },
	{ { "--reasoning-parser" }, ARG_VALUE },
	{ { "--tool-call-parser" }, ARG_VALUE },
	{ { "--enable-auto-tool-choice" }, ARG_FLAG },
	{ { "--enforce-eager" }, ARG_FLAG, .family = "--enforce-eager" },
	{ { "--no-enforce-eager" }, ARG_FLAG, .family = "--enforce-eager" },
	{ { "--enable-prefix-caching" }, ARG_FLAG, .family = "--enable-prefix-caching" },
	{ { "--no-enable-prefix-caching" }, ARG_FLAG, .family = "--enable-prefix-caching" },
	{ { "--enable-chunked-prefill" }, ARG_FLAG, .family = "--enable-chunked-prefill" },
	{ { "--no-enable-chunked-prefill" }, ARG_FLAG, .family = "--enable-chunked-prefill" },
	{ { "--trust-remote-code" }, ARG_FLAG, .family = "--trust-remote-code" },
	{ { "--no-trust-remote-code" }, ARG_FLAG, .family = "--trust-remote-code" },
	{ { "--disable-log-stats" }, ARG_FLAG, .ours = OUR_METRICS },
	{ { "--lora-modules" }, ARG_VALUE, .repeats = true },
	{ { "--middleware" }, ARG_VALUE, .repeats = true },
};

static const struct engine_option sglang_list[] = {
	{ { "--model-path", "--model" }, ARG_VALUE, .ours = ONE_MODEL },
	{ { "--host" }, ARG_VALUE, .ours = SET_BY_US },
	{ { "--port" }, ARG_VALUE, .ours = SET_BY_US },
	{ { "--fastapi-root-path" }, ARG_VALUE, .ours = SET_BY_US },
	{ { "--grpc-mode" }, ARG_FLAG, .ours = "corral speaks HTTP with the engine; remove it" },
	{ { "--ssl-keyfile" }, ARG_VALUE, .ours = SET_BY_US },
	{ { "--ssl-certfile" }, ARG_VALUE, .ours = SET_BY_US },
	{ { "--api-key" }, ARG_VALUE, .ours = OUR_KEY },
	{ { "--admin-api-key" }, ARG_VALUE, .ours = OUR_KEY },
	{ { "--config" }, ARG_VALUE,
		.ours = "corral passes one with the key; put its options into engine.args" },
	{ { "--served-model-name" }, ARG_VALUE, .ours = ONE_NAME },
	{ { "--enable-metrics" }, ARG_FLAG, .ours = "corral reads the engine's metrics" },
	{ { "--nnodes" }, ARG_VALUE, .ours = ONE_HOST },
	{ { "--node-rank" }, ARG_VALUE, .ours = ONE_HOST },
	{ { "--dist-init-addr", "--nccl-init-addr" }, ARG_VALUE, .ours = ONE_HOST },
	{ { "--help", "-h" }, ARG_FLAG, .ours = NO_START },
	{ { "--context-length" }, ARG_VALUE, .ours = BY_CTX, .if_set = true },
	{ { "--max-running-requests" }, ARG_VALUE, .ours = BY_SLOTS },
	{ { "--tensor-parallel-size", "--tp-size", "--tp" }, ARG_VALUE, .ours = BY_GPUS, .if_set = true },
	{ { "--pipeline-parallel-size", "--pp-size" }, ARG_VALUE },
	{ { "--data-parallel-size", "--dp-size", "--dp" }, ARG_VALUE },
	{ { "--mem-fraction-static" }, ARG_VALUE, .ours = BY_MEMORY, .if_set = true },
	{ { "--chunked-prefill-size" }, ARG_VALUE },
	{ { "--max-prefill-tokens" }, ARG_VALUE },
	{ { "--dtype" }, ARG_VALUE },
	{ { "--kv-cache-dtype" }, ARG_VALUE },
	{ { "--quantization" }, ARG_VALUE },
	{ { "--random-seed" }, ARG_VALUE },
	{ { "--schedule-policy" }, ARG_VALUE },
	{ { "--reasoning-parser" }, ARG_VALUE },
	{ { "--tool-call-parser" }, ARG_VALUE },
	{ { "--disable-cuda-graph" }, ARG_FLAG },
	{ { "--disable-radix-cache" }, ARG_FLAG },
	{ { "--trust-remote-code" }, ARG_FLAG },
};

static const struct engine_option tgi_list[] = {
	{ { "--model-id" }, ARG_VALUE, .ours = ONE_MODEL, .env = "MODEL_ID" },
	{ { "--hostname" }, ARG_VALUE, .ours = SET_BY_US, .env = "HOSTNAME" },
	{ { "--port", "-p" }, ARG_VALUE, .ours = SET_BY_US, .env = "PORT" },
	{ { "--api-key" }, ARG_VALUE, .ours = OUR_KEY, .env = "API_KEY" },
	{ { "--env", "-e" }, ARG_FLAG, .ours = NO_START },
	{ { "--help", "-h" }, ARG_FLAG, .ours = NO_START },
	{ { "--version", "-V" }, ARG_FLAG, .ours = NO_START },
	{ { "--max-total-tokens" }, ARG_VALUE, .ours = BY_CTX, .if_set = true },
	{ { "--num-shard" }, ARG_VALUE, .ours = BY_GPUS, .if_set = true },
	{ { "--sharded" }, ARG_VALUE },
	{ { "--cuda-memory-fraction" }, ARG_VALUE, .ours = BY_MEMORY, .if_set = true },
	{ { "--max-input-tokens", "--max-input-length" }, ARG_VALUE },
	{ { "--max-batch-prefill-tokens" }, ARG_VALUE },
	{ { "--max-batch-total-tokens" }, ARG_VALUE },
	{ { "--max-batch-size" }, ARG_VALUE },
	{ { "--max-concurrent-requests" }, ARG_VALUE },
	{ { "--dtype" }, ARG_VALUE },
	{ { "--kv-cache-dtype" }, ARG_VALUE },
	{ { "--quantize" }, ARG_VALUE },
	{ { "--speculate" }, ARG_VALUE },
	{ { "--trust-remote-code" }, ARG_FLAG },
};

static const struct engine_options vllm_options = { vllm_list, ARRAY_LEN(vllm_list), true };
static const struct engine_options sglang_options = { sglang_list, ARRAY_LEN(sglang_list), true };
static const struct engine_options tgi_options = { tgi_list, ARRAY_LEN(tgi_list), false };

static const struct engine_row rows[] = {
	{
		.kind = ENGINE_LLAMACPP,
		.program = "llama-server",
		.model = "--model",
		.image = "ghcr.io/ggml-org/llama.cpp:server",
		.key_env = "LLAMA_API_KEY",
		.health = "/health",
		.running = { "llamacpp:requests_processing" },
		.waiting = { "llamacpp:requests_deferred" },
		.used = { "llamacpp:kv_cache_usage_ratio" },
		.options = &llama_options,
	},
	{
		.kind = ENGINE_VLLM,
		.untried = true,
		.program = "vllm",
		.before = "serve",
		.image_model = "--model",
		.host = "--host",
		.port = "--port",
		.name = "--served-model-name",
		.ctx = "--max-model-len",
		.slots = "--max-num-seqs",
		.gpus = "--tensor-parallel-size",
		.share = "--gpu-memory-utilization",
		.share_permille = 1000,
		.image = "docker.io/vllm/vllm-openai:latest",
		.key_env = "VLLM_API_KEY",
		.health = "/health",
		.version = "/version",
		.shm = "8g",
		.running = { "vllm:num_requests_running" },
		.waiting = { "vllm:num_requests_waiting" },
		.used = { "vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc" }, /* 1 is all of it */
		.options = &vllm_options,
	},
	{
		.kind = ENGINE_SGLANG,
		.untried = true,
		.program = "sglang",
		.before = "serve",
		.image_before = "python3 -m sglang.launch_server",
		.model = "--model-path",
		.image_model = "--model-path",
		.host = "--host",
		.port = "--port",
		.name = "--served-model-name",
		.ctx = "--context-length",
		.slots = "--max-running-requests",
		.gpus = "--tensor-parallel-size",
		/* weights and KV cache alone: what it computes in comes on top */
		.share = "--mem-fraction-static",
		.share_permille = 900,
		.always = "--enable-metrics",
		.image = "docker.io/lmsysorg/sglang:latest",
		.key_config = "--config",
		.health = "/health",
		.version = "/server_info",
		.shm = "8g",
		.running = { "sglang:num_running_reqs" },
		.waiting = { "sglang:num_queue_reqs" },
		.used = { "sglang:token_usage" },
		.options = &sglang_options,
	},
	{
		/* No option for slots: --max-concurrent-requests refuses the one that comes a moment early.
		 * It takes any name for its model. */
		.kind = ENGINE_TGI,
		.untried = true,
		.program = "text-generation-launcher",
		.model = "--model-id",
		.image_model = "--model-id",
		.host = "--hostname",
		.port = "--port",
		.ctx = "--max-total-tokens",
		.gpus = "--num-shard",
		.share = "--cuda-memory-fraction",
		.share_permille = 1000,
		.image = "ghcr.io/huggingface/text-generation-inference:latest",
		.key_env = "API_KEY",
		.health = "/health",
		.version = "/info",
		.shm = "1g",
		.running = { "tgi_batch_current_size" },
		.waiting = { "tgi_queue_size" },
		.options = &tgi_options,
	},
	{
		/* Its OpenAI front end is started on a repository of models: by a command of the operator's.
		 */
		.kind = ENGINE_TRITON,
		.untried = true,
		.health = "/health/ready",
		.waiting = { "nv_inference_pending_request_count" },
	},
	{ .kind = ENGINE_OPENAI, .health = "/v1/models" },
};

const struct engine_row *engine_row(enum engine_kind k)
{
	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		if (rows[i].kind == k)
			return &rows[i];
	return NULL;
}

bool engine_row_starts(const struct engine_row *row)
{
	return row && row->kind != ENGINE_LLAMACPP && row->program;
}

/* ---- what it says of itself ---------------------------------------------------------------------------- */

/* The value of a sample line of that name ("name 3", "name{…} 3.0 1395066363000"); -1: another line. */
static double sample(struct view line, const char *name)
{
	struct view n = view_str(name);
	if (!view_starts(line, n))
		return -1;
	struct view rest = view_from(line, n.n);
	if (rest.n && rest.p[0] == '{') {
		size_t end = rest.n;
		while (end && rest.p[end - 1] != '}') /* a label's value may hold braces */
			end--;
		rest = view_from(rest, end);
	} else if (!rest.n || rest.p[0] != ' ') {
		return -1;
	}
	rest = view_trim(rest);
	rest = view_cut(rest, view_find(rest, ' '));
	char text[64];
	if (!rest.n || rest.n >= sizeof text)
		return -1;
	memcpy(text, rest.p, rest.n);
	text[rest.n] = '\0';
	char *end;
	double v = strtod(text, &end);
	return *end == '\0' && isfinite(v) && v >= 0 ? v : -1;
}

/* -1: none of the names is there. */
static double metric_find(struct view text, const char *const names[2], bool largest)
{
	for (size_t i = 0; i < 2 && names[i]; i++) {
		double sum = -1;
		for (struct view rest = text; rest.p;) {
			double v = sample(view_split(rest, '\n', &rest), names[i]);
			if (v >= 0)
				sum = largest ? fmax(sum, v) : fmax(sum, 0) + v;
		}
		if (sum >= 0)
			return sum;
	}
	return -1;
}

bool engine_load_read(const struct engine_row *row, struct view text, struct engine_load *ret)
{
	double running = metric_find(text, row->running, false);
	double waiting = metric_find(text, row->waiting, false);
	double used = metric_find(text, row->used, true);
	*ret = (struct engine_load){
		.running = running < 0 ? -1 : (int64_t)fmin(running, 1e9),
		.waiting = waiting < 0 ? -1 : (int64_t)fmin(waiting, 1e9),
		.used_permille = used < 0 ? -1 : (int)lround(fmin(used, 1) * 1000),
	};
	return running >= 0 || waiting >= 0 || used >= 0;
}

char *engine_version_read(struct view json)
{
	yyjson_doc *d = yyjson_read(json.p, json.n, 0);
	const char *v = yyjson_get_str(yyjson_obj_get(yyjson_doc_get_root(d), "version"));
	char *text = v && *v && strlen(v) <= 64 ? mem_strdup(v) : NULL;
	yyjson_doc_free(d);
	return text;
}
