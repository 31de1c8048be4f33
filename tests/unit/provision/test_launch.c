/* SPDX-License-Identifier: Apache-2.0
 *
 * Command lines, environments, templates, what may be shown, and what a log says.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#include "provision/engine/engine_int.h"
#include "wire/wire.h"

static char *joined(const struct strv *v)
{
	struct buf b = BUF(64 * KIB);
	for (size_t i = 0; i < v->len; i++)
		assert_int_equal(buf_addf(&b, "%s%s", i ? " " : "", v->items[i]), 0);
	return buf_take(&b);
}

static struct engine_params params(void)
{
	return (struct engine_params){ .pool_id = "chat",
		.replica_id = "chat-0",
		.model_path = "/m/a.gguf",
		.socket_path = "/run/x/chat-0.1.sock",
		.port = 4711,
		.ctx = 4096,
		.slots = 2,
		.devices = "auto",
		.cache_ram_mib = 512 };
}

/* The line after the program for args (a shell-like string); NULL: refused, e says why. */
static char *line_env(const char *args, const char *env, struct err *e)
{
	struct engine_def d = { .kind = ENGINE_LLAMACPP };
	struct engine_build b = { .kind = ENGINE_LLAMACPP,
		.mode = ENGINE_MODE_BINARY,
		.program = mem_strdup("/usr/bin/llama-server") };
	struct engine_params p = params();
	assert_int_equal(strv_shell_words(&d.args, view_str(args), NULL), 0);
	if (env)
		strv_add(&d.env, env);
	struct engine_launch l;
	char *text = NULL;
	if (engine_launch_build(&b, &d, &p, &l, e) == 0) {
		assert_string_equal(l.argv.items[0], "/usr/bin/llama-server");
		assert_string_equal(l.address, "unix:/run/x/chat-0.1.sock");
		assert_string_equal(l.health_path, "/health");
		assert_true(l.has_slots && l.uses_socket && !l.uses_port);
		text = joined(&l.argv);
		memmove(text, text + 22, strlen(text + 22) + 1);
		engine_launch_done(&l);
	}
	engine_build_done(&b);
	engine_def_done(&d);
	return text;
}

#define OURS                                                                                                 \
	"--model /m/a.gguf --host /run/x/chat-0.1.sock --alias chat --slots --metrics --cache-ram 512 "      \
	"--ctx-size 8192 "                                                                                   \
	"--parallel 2 --cors-origins localhost --no-cors-credentials"

static void expect(const char *args, const char *rest)
{
	struct err e = { 0 };
	AUTO(mem_freep) char *got = line_env(args, NULL, &e);
	AUTO(mem_freep) char *want = mem_fmt(OURS "%s%s", *rest ? " " : "", rest);
	if (!got)
		fail_msg("%s: %s", args, e.msg);
	assert_string_equal(got, want);
}

static void refuse(const char *args, const char *env, const char *why)
{
	struct err e = { 0 };
	AUTO(mem_freep) char *got = line_env(args, env, &e);
	if (got)
		fail_msg("%s was taken: %s", args, got);
	if (!strstr(e.msg, why))
		fail_msg("%s: \"%s\" does not say \"%s\"", args, e.msg, why);
}

static void passes_arguments_in_order(void **state)
{
	(void)state;
	expect("", "");
	expect("-ngl 99", "--gpu-layers 99");
	expect("--n-gpu-layers 99 -fa on", "--gpu-layers 99 --flash-attn on");
	expect("-fa -t 1", "--flash-attn --threads 1");
	expect("--gpu_layers=7", "--gpu-layers 7");
	expect("-t 1 -b 64 --threads 2", "--batch-size 64 --threads 2");
	expect("--embedding --pooling mean", "--embeddings --pooling mean");
	expect("--rerank", "--rerank");
	expect("--embeddings --reranking", "--embeddings --rerank");
	expect("-n -1", "--predict -1");
	expect("--lora a --lora b", "--lora a --lora b");
	expect("--kv-offload -nkvo", "--no-kv-offload");
	expect("--new-thing a b --x=y -t 3", "--new-thing a b --x=y --threads 3");
	expect("--chat-template-kwargs '{\"a\": 1}'", "--chat-template-kwargs {\"a\": 1}");
}

static void drops_what_says_the_same_as_ours(void **state)
{
	(void)state;
	expect("--slots --metrics -np 2 -c 8192 -a chat", "");
}

static void lets_the_pool_choose_the_prompt_cache(void **state)
{
	(void)state;
	struct err e = { 0 };
	AUTO(mem_freep) char *got = line_env("-cram 0", NULL, &e);
	assert_non_null(got);
	assert_null(strstr(got, "--cache-ram 512"));
	assert_non_null(strstr(got, "--cache-ram 0"));
}

static void refuses_contradictions(void **state)
{
	(void)state;
	refuse("-m /other.gguf", NULL, "the pool's `model`");
	refuse("-hf org/repo", NULL, "the pool's `model`");
	refuse("--gpt-oss-20b-default", NULL, "the pool's `model`");
	refuse("--host 0.0.0.0", NULL, "corral listens for the engine itself");
	refuse("--port 80", NULL, "corral listens");
	refuse("--alias other", NULL, "pool's id");
	refuse("--ctx_size=4096", NULL, "the pool's `ctx`");
	refuse("-np 4", NULL, "the pool's `slots`");
	refuse("--no-slots", NULL, "which slots are busy");
	refuse("--cors-origins '*'", NULL, "browsers");
	refuse("--api-key x", NULL, "has no key");
	refuse("--version", NULL, "prints something");
	refuse("stray", NULL, "where an option is expected");
	refuse("--slots stray", NULL, "where an option is expected");
	refuse("-t", NULL, "needs a value");
	refuse("", "LLAMA_ARG_HOST=0.0.0.0", "LLAMA_ARG_HOST");
	refuse("", "1X=2", "NAME=value");
	refuse("", "novalue", "NAME=value");
}

static void refuses_embeddings_without_pooling(void **state)
{
	(void)state;
	refuse("--embeddings", NULL, "SIGSEGV");
	refuse("--embeddings --pooling none", NULL, "--pooling none");
	refuse("--embeddings --pooling mean --pooling none", NULL, "SIGSEGV");
	refuse("", "LLAMA_ARG_EMBEDDINGS=1", "SIGSEGV");
}

static void keeps_the_product_of_ctx_and_slots_whole(void **state)
{
	(void)state;
	struct engine_def d = { .kind = ENGINE_LLAMACPP };
	struct engine_build b = { .kind = ENGINE_LLAMACPP, .program = mem_strdup("/x") };
	struct engine_params p = params();
	p.ctx = 1u << 31;
	p.slots = 4;
	p.cpu_only = true;
	struct engine_launch l;
	assert_int_equal(engine_launch_build(&b, &d, &p, &l, NULL), 0);
	assert_true(strv_has(&l.argv, "8589934592"));
	assert_true(strv_has(&l.argv, "--device") && strv_has(&l.argv, "none"));
	engine_launch_done(&l);
	engine_build_done(&b);
}

static void refuses_sockets_that_cannot_be(void **state)
{
	(void)state;
	struct engine_def d = { .kind = ENGINE_LLAMACPP };
	struct engine_build b = { .kind = ENGINE_LLAMACPP, .program = mem_strdup("/x") };
	struct engine_params p = params();
	struct engine_launch l;
	struct err e;
	char path[110];
	memset(path, 'a', sizeof path);
	path[0] = '/';
	memcpy(path + 103, ".sock", 6); /* 108 bytes */
	p.socket_path = path;
	assert_int_equal(engine_launch_build(&b, &d, &p, &l, &e), -ENAMETOOLONG);
	memcpy(path + 102, ".sock", 6); /* 107 */
	assert_int_equal(engine_launch_build(&b, &d, &p, &l, &e), 0);
	engine_launch_done(&l);
	p.socket_path = "/run/x";
	assert_int_equal(engine_launch_build(&b, &d, &p, &l, &e), -EINVAL);
	engine_build_done(&b);
}

static void gives_a_clean_environment(void **state)
{
	(void)state;
	setenv("CORRAL_TEST_NOISE", "1", 1);
	setenv("HF_HOME", "/hf", 1);
	setenv("https_proxy", "http://proxy:1", 1);
	struct engine_def d = { .kind = ENGINE_LLAMACPP };
	strv_add(&d.env, "GGML_X=1");
	strv_add(&d.env, "GGML_X=2");
	struct engine_build b = { .kind = ENGINE_LLAMACPP, .program = mem_strdup("/x") };
	strv_add(&b.env, "GGML_X=0");
	struct engine_params p = params();
	AUTO(strv_done) struct strv devices = { 0 };
	strv_add(&devices, "CUDA_VISIBLE_DEVICES=0,1");
	p.device_env = &devices;
	struct engine_launch l;
	assert_int_equal(engine_launch_build(&b, &d, &p, &l, NULL), 0);
	AUTO(mem_freep) char *all = joined(&l.env);
	assert_null(strstr(all, "NOISE"));
	assert_true(strv_has(&l.env, "HF_HOME=/hf"));
	assert_true(strv_has(&l.env, "https_proxy=http://proxy:1"));
	assert_true(strv_has(&l.env, "GGML_X=2"));
	assert_false(strv_has(&l.env, "GGML_X=0"));
	assert_true(strv_has(&l.env, "CUDA_VISIBLE_DEVICES=0,1"));
	assert_non_null(strstr(all, "PATH="));
	engine_launch_done(&l);
	engine_build_done(&b);
	engine_def_done(&d);
}

static int command_line(const char *command, const char *stop, struct engine_launch *l, struct err *e)
{
	struct engine_def d = { .kind = ENGINE_COMMAND };
	struct engine_build b = { .kind = ENGINE_COMMAND, .program = mem_strdup("/bin/srv") };
	struct engine_params p = params();
	assert_int_equal(strv_shell_words(&d.command, view_str(command), NULL), 0);
	assert_int_equal(strv_shell_words(&d.stop_command, view_str(stop), NULL), 0);
	p.model_path = NULL;
	int r = engine_launch_build(&b, &d, &p, l, e);
	engine_build_done(&b);
	engine_def_done(&d);
	return r;
}

static void fills_templates_of_commands(void **state)
{
	(void)state;
	struct engine_launch l;
	struct err e;
	assert_int_equal(
		command_line(
			"srv --port={port} -p ${PORT} '{\"a\":{ctx}}' {id} {unknown} {slots} {devices} {",
			"stop {id} {port}", &l, &e),
		0);
	AUTO(mem_freep) char *got = joined(&l.argv);
	assert_string_equal(got, "/bin/srv --port=4711 -p 4711 {\"a\":4096} chat-0 {unknown} 2 auto {");
	AUTO(mem_freep) char *stop = joined(&l.stop_argv);
	assert_string_equal(stop, "stop chat-0 4711");
	assert_string_equal(l.address, "http://127.0.0.1:4711");
	assert_false(l.has_slots);
	engine_launch_done(&l);
	assert_int_equal(command_line("srv {socket}", "", &l, &e), 0);
	assert_string_equal(l.address, "unix:/run/x/chat-0.1.sock");
	engine_launch_done(&l);
	assert_int_equal(command_line("srv", "", &l, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "neither {port} nor {socket}"));
	assert_int_equal(command_line("srv {port} {model}", "", &l, &e), -ENOENT);
	assert_non_null(strstr(e.msg, "`model`"));
}

static void hides_secrets(void **state)
{
	(void)state;
	AUTO(strv_done) struct strv in = { 0 }, out = { 0 };
	const char *text =
		"srv --hf-token hf_aaaaaaaaaaaa --api-key=abc --api-key-file /f --image-min-tokens 4 "
		"http://u:p@host/x API_KEY=1 tokenizer.ggml.add_bos_token=bool:false --max-tokens 5 "
		"sk-0123456789";
	assert_int_equal(strv_shell_words(&in, view_str(text), NULL), 0);
	engine_argv_redact(&in, &out);
	AUTO(mem_freep) char *got = joined(&out);
	assert_string_equal(got,
		"srv --hf-token (redacted) --api-key=(redacted) --api-key-file /f --image-min-tokens 4 "
		"http://host/x API_KEY=(redacted) tokenizer.ggml.add_bos_token=bool:false --max-tokens 5 "
		"(redacted)");
}

static void reads_causes_out_of_logs(void **state)
{
	(void)state;
	static const struct {
		const char *log;
		enum wire_cause cause;
		const char *says;
	} cases[] = {
		{ "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 900.00 MiB on device 0: cudaMalloc "
		  "failed: out of memory\n"
		  "llama_model_load: error loading model: unable to allocate CUDA0 buffer\n",
			CAUSE_OOM_VRAM, "cudaMalloc failed" },
		{ "CUDA error: out of memory\n", CAUSE_OOM_VRAM, "GPU" },
		{ "ggml_vulkan: vk::Device::allocateMemory: ErrorOutOfDeviceMemory\n", CAUSE_OOM_VRAM,
			"GPU" },
		{ "ROCm error: out of memory\n", CAUSE_OOM_VRAM, "GPU" },
		{ "terminate called after throwing an instance of 'std::bad_alloc'\n", CAUSE_OOM_HOST,
			"memory" },
		{ "llama_model_load: error loading model: unable to allocate CPU buffer\n", CAUSE_OOM_HOST,
			"CPU buffer" },
		{ "vk: ErrorOutOfHostMemory\n", CAUSE_OOM_HOST, "memory" },
		{ "0.00.024.621 E llama_model_load: error loading model: error loading model architecture: "
		  "unknown model "
		  "architecture: 'zebra'\n0.1 E srv: failed to load model\n",
			CAUSE_BAD_MODEL, "'zebra'" },
		{ "0.00.024.621 E gguf_init_from_reader: invalid magic characters: 'abcd', expected 'GGUF'\n",
			CAUSE_BAD_MODEL, "not a GGUF file: \"gguf_init" },
		{ "common_fit_params: encountered an error while trying to fit params to free device memory: "
		  "failed to load model\n",
			CAUSE_BAD_MODEL, "cannot load" },
		{ "error: invalid argument: --bogus\n", CAUSE_BAD_ARGS, "--bogus" },
		{ "error while handling argument \"-c\": stoi\n", CAUSE_BAD_ARGS, "-c" },
		{ "srv: error: unrecognized arguments: --x\n", CAUSE_BAD_ARGS, "--x" },
		{ "ggml: no backends are loaded. hint: use ggml_backend_load()\n", CAUSE_NO_ENGINE,
			"back end" },
		{ "x: error while loading shared libraries: libfoo.so.1: cannot open shared object file\n",
			CAUSE_NO_ENGINE, "libfoo" },
		{ "couldn't bind HTTP server socket, hostname: x\n", CAUSE_EXIT, "listen" },
		{ "all is well\n\x01\xff\n", CAUSE_NONE, NULL },
		{ "", CAUSE_NONE, NULL },
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		AUTO(mem_freep) char *sentence = NULL, *hint = NULL;
		int cause = engine_log_cause(view_str(cases[i].log), &sentence, &hint);
		if (cause != (int)cases[i].cause)
			fail_msg("%s: cause %d, not %d", cases[i].log, cause, (int)cases[i].cause);
		if (cases[i].says && (!sentence || !strstr(sentence, cases[i].says) || !hint))
			fail_msg("%s: says %s", cases[i].log, sentence ? sentence : "nothing");
	}
}

static void numbers_its_causes_as_the_wire_does(void **state)
{
	(void)state;
	assert_int_equal(ENGINE_CAUSE_NONE, CAUSE_NONE);
	assert_int_equal(ENGINE_CAUSE_EXIT, CAUSE_EXIT);
	assert_int_equal(ENGINE_CAUSE_OOM_VRAM, CAUSE_OOM_VRAM);
	assert_int_equal(ENGINE_CAUSE_OOM_HOST, CAUSE_OOM_HOST);
	assert_int_equal(ENGINE_CAUSE_BAD_MODEL, CAUSE_BAD_MODEL);
	assert_int_equal(ENGINE_CAUSE_BAD_ARGS, CAUSE_BAD_ARGS);
	assert_int_equal(ENGINE_CAUSE_NO_ENGINE, CAUSE_NO_ENGINE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(passes_arguments_in_order),
		cmocka_unit_test(drops_what_says_the_same_as_ours),
		cmocka_unit_test(lets_the_pool_choose_the_prompt_cache),
		cmocka_unit_test(refuses_contradictions),
		cmocka_unit_test(refuses_embeddings_without_pooling),
		cmocka_unit_test(keeps_the_product_of_ctx_and_slots_whole),
		cmocka_unit_test(refuses_sockets_that_cannot_be),
		cmocka_unit_test(gives_a_clean_environment),
		cmocka_unit_test(fills_templates_of_commands),
		cmocka_unit_test(hides_secrets),
		cmocka_unit_test(reads_causes_out_of_logs),
		cmocka_unit_test(numbers_its_causes_as_the_wire_does),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
