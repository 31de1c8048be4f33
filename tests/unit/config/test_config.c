/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <yyjson.h>

#include "base/mem.h"
#include "config/config.h"

static const char *const plain_env[] = { "HOME=/home/u", "XDG_RUNTIME_DIR=/run/user/7", NULL };

static int load_with(const char *yaml, const char *const *env, const char *const *over, size_t nover,
	struct config **ret, struct config_errors *errs)
{
	struct config_source src = { .path = "corral.yaml",
		.text = view_str(yaml),
		.env = env,
		.overrides = over,
		.noverrides = nover };
	return config_load(&src, ret, errs);
}

static struct config *good_with(
	const char *yaml, const char *const *env, const char *const *over, size_t nover)
{
	AUTO(config_errors_done) struct config_errors errs = { 0 };
	struct config *c = NULL;
	if (load_with(yaml, env, over, nover, &c, &errs)) {
		AUTO(buf_done) struct buf b = BUF(1 * MIB);
		config_errors_print(&errs, false, &b);
		fail_msg("should load: %s", buf_str(&b));
	}
	assert_int_equal(errs.len, 0);
	return c;
}

static struct config *good(const char *yaml)
{
	return good_with(yaml, plain_env, NULL, 0);
}

static void bad(const char *yaml, struct config_errors *errs)
{
	struct config *c = NULL;
	if (load_with(yaml, plain_env, NULL, 0, &c, errs) != -EINVAL)
		fail_msg("should not load: %.500s", yaml);
	assert_null(c);
	assert_true(errs->len > 0);
}

/* The only mistake, at line:column, whose message holds each of the words. */
static void one_mistake(const char *yaml, unsigned line, unsigned column, const char *key, const char *words)
{
	AUTO(config_errors_done) struct config_errors errs = { 0 };
	AUTO(buf_done) struct buf b = BUF(1 * MIB);
	bad(yaml, &errs);
	config_errors_print(&errs, false, &b);
	if (errs.len != 1)
		fail_msg("%zu mistakes for\n%s\n%s", errs.len, yaml, buf_str(&b));
	if (errs.items[0].line != line || errs.items[0].column != column)
		fail_msg("not at %u:%u: %s", line, column, buf_str(&b));
	assert_string_equal(errs.items[0].key, key);
	for (struct view rest = view_str(words); rest.p;) {
		struct view w = view_split(rest, '|', &rest);
		if (view_search(view_str(errs.items[0].message), w) < 0)
			fail_msg("\"%.*s\" is not in: %s", VIEW_ARG(w), buf_str(&b));
	}
}

static void test_auto_that_was_written_is_auto(void **state)
{
	(void)state;
	struct config *c =
		good("pools: [{id: a, model: a.gguf, engine: {mode: auto, source: {ref: b6123}}}, {id: b, "
		     "model: b.gguf, engine: {mode: auto, runtime: docker}}]\n");
	assert_int_equal(c->pools[0].engine.mode, CONFIG_MODE_SOURCE);
	assert_int_equal(c->pools[1].engine.mode, CONFIG_MODE_AUTO);
	config_unref(c);
}

static void test_defaults(void **state)
{
	AUTO(config_unrefp) struct config *c = good("");
	assert_int_equal(c->npools, 0);
	assert_int_equal(c->listen.len, 1);
	assert_string_equal(c->listen.items[0], "127.0.0.1:8080");
	assert_string_equal(c->state_dir, "/home/u/.local/state/corral");
	assert_string_equal(c->runtime_dir, "/run/user/7/corral");
	assert_string_equal(c->models_dir, "/home/u/.local/share/corral/models");
	assert_true(c->body_max == 64 * MIB && c->body_spool_total == 4 * GIB);
	assert_int_equal(c->workers, 0);
	assert_int_equal(c->log_level, CONFIG_LEVEL_INFO);
	AUTO(config_unrefp) struct config *d = good("pools: [{id: a, model: a.gguf}]");
	const struct config_pool *p = &d->pools[0];
	assert_true(p->ctx == 0 && p->slots == 2 && p->replicas_min == 0 && p->replicas_max == 1);
	assert_true(!p->pinned && p->evict_cost == 1 && !p->memory && !p->host_cache && !p->never_with.len);
	assert_true(p->keep_alive_ms == 600000 && p->cancel_grace_ms == 2000 && p->start_timeout_ms == 0);
	assert_true(p->queue_capacity == 64 && p->queue_policy == CONFIG_POLICY_REJECT &&
		    p->queue_max_wait_ms == 600000);
	assert_true(p->progress.mode == CONFIG_PROGRESS_AUTO && p->progress.after_ms == 10000 &&
		    p->progress.every_ms == 5000);
	assert_true(p->canary == CONFIG_CANARY_AUTO && !p->preload && !p->is_default);
	assert_true(p->engine.kind == CONFIG_ENGINE_LLAMACPP && p->engine.mode == CONFIG_MODE_AUTO);
}

static void test_dirs(void **state)
{
	const char *service[] = { "STATE_DIRECTORY=/var/lib/c:/other", "RUNTIME_DIRECTORY=/run/c",
		"HOME=/root", NULL };
	AUTO(config_unrefp) struct config *c = good_with("", service, NULL, 0);
	assert_string_equal(c->state_dir, "/var/lib/c");
	assert_string_equal(c->runtime_dir, "/run/c");
	assert_string_equal(c->models_dir, "/var/lib/c/models");
	const char *xdg[] = { "XDG_STATE_HOME=/s", "XDG_DATA_HOME=relative", "HOME=/h", NULL };
	AUTO(config_unrefp) struct config *d = good_with("", xdg, NULL, 0);
	assert_string_equal(d->state_dir, "/s/corral");
	assert_string_equal(d->runtime_dir, "/s/corral/run");
	assert_string_equal(d->models_dir, "/h/.local/share/corral/models");
	AUTO(mem_freep)
	char *r = config_default_runtime_dir((const char *const[]){ "CORRAL_RUNTIME_DIR=/x", NULL });
	assert_string_equal(r, "/x");
}

static const char whole[] = "x-common: &c {slots: 4, queue: {capacity: 7}}\n"
			    "listen:\n  - 127.0.0.1:0\n  - \"[::1]:9000\"\n  - /run/c.sock\n"
			    "state_dir: /s\nruntime_dir: ~/r/\nmodels_dir: m\n"
			    "gpu: none\nworkers: 3\n"
			    "body: {max: 1MiB, spool_total: 1.5GiB}\n"
			    "log:\n  format: json\n  level: debug\n"
			    "defaults: {ctx: 4096, keep_alive: 1h30m}\n"
			    "pools:\n"
			    "  - <<: *c\n"
			    "    id: chat\n"
			    "    model: {ref: /m/a.gguf}\n"
			    "    aliases: [gpt-4o-mini, \"a:b\"]\n"
			    "    default: true\n"
			    "    engine: {mode: binary, path: llama-server, args: \"--temp 0 --grammar 'a "
			    "b'\", env: {A: 1, B: x=y}}\n"
			    "    replicas: 2\n"
			    "    keep_alive: -1\n"
			    "    preload: true\n"
			    "    canary: never\n"
			    "    start_timeout: 90s\n"
			    "    queue: {policy: drop-lru, max_wait: 5s}\n"
			    "    progress: {mode: reasoning, after: 50ms}\n"
			    "  - id: ext\n"
			    "    engine: {kind: openai, urls: [\"http://127.0.0.1:1/\", \"unix:/x.sock\"]}\n"
			    "  - id: cmd\n"
			    "    ctx: auto\n"
			    "    engine:\n"
			    "      command: [prog, --port, \"{port}\"]\n"
			    "      stop_command: stop now\n"
			    "      env: [\"A=b c\"]\n"
			    "      health: /ok\n";

static void check_whole(const struct config *c)
{
	assert_int_equal(c->listen.len, 3);
	assert_string_equal(c->runtime_dir, "/home/u/r");
	assert_true(c->gpu == CONFIG_GPU_NONE && c->workers == 3);
	assert_true(c->body_max == MIB && c->body_spool_total == 1536 * MIB);
	assert_true(c->log_format == CONFIG_LOG_JSON && c->log_level == CONFIG_LEVEL_DEBUG);
	assert_int_equal(c->npools, 3);
	const struct config_pool *p = &c->pools[0];
	assert_string_equal(p->id, "chat");
	assert_string_equal(p->model, "/m/a.gguf");
	assert_int_equal(p->aliases.len, 2);
	assert_true(p->is_default && p->preload && p->canary == CONFIG_CANARY_NEVER);
	assert_true(p->slots == 4 && p->ctx == 4096);
	assert_true(p->replicas_min == 2 && p->replicas_max == 2);
	assert_true(p->keep_alive_ms == -1 && p->start_timeout_ms == 90000);
	assert_true(p->queue_policy == CONFIG_POLICY_DROP_LRU && p->queue_max_wait_ms == 5000);
	assert_true(p->progress.mode == CONFIG_PROGRESS_REASONING && p->progress.after_ms == 50);
	assert_int_equal(p->engine.args.len, 4);
	assert_string_equal(p->engine.args.items[3], "a b");
	assert_string_equal(p->engine.path, "llama-server");
	assert_int_equal(p->engine.env.len, 2);
	assert_string_equal(p->engine.env.items[1], "B=x=y");
	p = &c->pools[1];
	assert_true(p->engine.mode == CONFIG_MODE_EXTERNAL && p->replicas_max == 2 &&
		    p->keep_alive_ms == 5400000);
	assert_string_equal(p->engine.urls.items[0], "http://127.0.0.1:1");
	p = &c->pools[2];
	assert_true(p->engine.kind == CONFIG_ENGINE_COMMAND && p->ctx == 0);
	assert_int_equal(p->engine.command.len, 3);
	assert_int_equal(p->engine.stop_command.len, 2);
	assert_string_equal(p->engine.env.items[0], "A=b c");
	assert_ptr_equal(config_pool_find(c, VIEW("gpt-4o-mini")), &c->pools[0]);
	assert_ptr_equal(config_pool_find(c, VIEW("cmd")), &c->pools[2]);
	assert_null(config_pool_find(c, VIEW("none")));
}

static void test_every_type(void **state)
{
	AUTO(config_unrefp) struct config *c = good(whole);
	check_whole(c);
	/* A merge key is shallow: the pool's own queue replaces the merged one whole. */
	assert_int_equal(c->pools[0].queue_capacity, 64);
	char where[128];
	config_origin_text(c, NULL, "gpu", where, sizeof where);
	assert_string_equal(where, "corral.yaml:9");
	config_origin_text(c, &c->pools[0], "slots", where, sizeof where);
	assert_string_equal(where, "corral.yaml:1");
	config_origin_text(c, &c->pools[0], "canary", where, sizeof where);
	assert_string_equal(where, "corral.yaml:26");
	config_origin_text(c, &c->pools[1], "canary", where, sizeof where);
	assert_string_equal(where, "default");
}

static void test_show_loads_again(void **state)
{
	AUTO(config_unrefp) struct config *c = good(whole);
	AUTO(buf_done) struct buf one = BUF(1 * MIB), json = BUF(1 * MIB);
	for (int flags = 0; flags <= CONFIG_SHOW_EFFECTIVE; flags += CONFIG_SHOW_EFFECTIVE) {
		buf_reset(&one);
		assert_int_equal(config_show(c, flags, &one), 0);
		AUTO(config_unrefp) struct config *d = good(buf_str(&one));
		check_whole(d);
	}
	assert_non_null(strstr(buf_str(&one), "# default"));
	assert_non_null(strstr(buf_str(&one), "# corral.yaml:9"));
	assert_int_equal(config_show(c, CONFIG_SHOW_JSON | CONFIG_SHOW_EFFECTIVE, &json), 0);
	yyjson_doc *doc = yyjson_read(json.data, json.len, 0);
	assert_non_null(doc);
	yyjson_val *root = yyjson_doc_get_root(doc);
	assert_string_equal(yyjson_get_str(yyjson_ptr_get(root, "/pools/1/engine/urls/1")), "unix:/x.sock");
	assert_int_equal(yyjson_get_int(yyjson_ptr_get(root, "/pools/0/slots")), 4);
	assert_string_equal(yyjson_get_str(yyjson_ptr_get(root, "/pools/0/queue/policy")), "drop-lru");
	assert_string_equal(
		yyjson_get_str(yyjson_obj_get(yyjson_obj_get(root, "sources"), "pools.chat.queue.policy")),
		"corral.yaml:28");
	yyjson_doc_free(doc);
}

static void test_show_masks_secrets(void **state)
{
	AUTO(config_unrefp)
	struct config *c = good("pools: [{id: a, model: a.gguf, engine: {args: --api-key s3cret --n_tokens 5 "
				"--api-key=s3cret, env: {HF_TOKEN: s3cret, A: seen}}}]");
	AUTO(buf_done) struct buf b = BUF(1 * MIB);
	for (int flags = 0; flags < 4; flags++)
		config_show(c, flags, &b);
	assert_null(strstr(buf_str(&b), "s3cret"));
	assert_non_null(strstr(buf_str(&b), "A=seen"));
	assert_string_equal(c->pools[0].engine.env.items[0], "HF_TOKEN=s3cret");
}

static void test_five_mistakes(void **state)
{
	AUTO(config_errors_done) struct config_errors errs = { 0 };
	AUTO(buf_done) struct buf b = BUF(1 * MIB);
	bad("listen: llm.lan:8080\n"
	    "log: {level: loud}\n"
	    "pools:\n"
	    "  - id: Chat\n"
	    "    model: a.gguf\n"
	    "    ctxx: 4096\n"
	    "    slots: many\n",
		&errs);
	static const struct {
		unsigned line, column;
		const char *key;
	} want[] = { { 1, 9, "listen" }, { 2, 14, "log.level" }, { 4, 9, "pools[0].id" },
		{ 6, 5, "pools[0].ctxx" }, { 7, 12, "pools[0].slots" } };
	assert_int_equal(errs.len, ARRAY_LEN(want));
	for (size_t i = 0; i < ARRAY_LEN(want); i++) {
		assert_int_equal(errs.items[i].line, want[i].line);
		assert_int_equal(errs.items[i].column, want[i].column);
		assert_string_equal(errs.items[i].key, want[i].key);
	}
	assert_int_equal(config_errors_print(&errs, false, &b), 0);
	const char *text = buf_str(&b);
	assert_non_null(strstr(text,
		"corral.yaml:7:12: pools[0].slots: found \"many\"; accepted: a number from 1 to 1024\n"
		"    7 |     slots: many\n"
		"      |            ^~~~\n"));
	assert_non_null(strstr(text, "the nearest one is \"ctx\""));
	assert_non_null(strstr(text, "accepted: debug, info, warn or error"));
}

static void test_mistakes(void **state)
{
	one_mistake("gpu: some", 1, 6, "gpu", "found \"some\"|auto, required, optional or none");
	one_mistake("gpu:", 1, 1, "gpu", "found nothing");
	one_mistake("budget: {device_bytes: [0]}", 1, 24, "budget.device_bytes", "found \"0\"|DEVICE=SIZE");
	one_mistake("budget: {device_bytes: [cpu=1GiB]}", 1, 24, "budget.device_bytes", "before the =");
	one_mistake("pools: [{id: a, model: a.gguf, never_with: [b]}]", 1, 44, "pools[0].never_with",
		"found \"b\"|ids of pools");
	one_mistake("pools: [{id: a, model: a.gguf, never_with: [a]}]", 1, 44, "pools[0].never_with",
		"this pool itself");
	one_mistake("gpu: [a]", 1, 6, "gpu", "found a list");
	one_mistake("log: json", 1, 6, "log", "a mapping");
	one_mistake("body:\n  max: 3 bananas\n", 2, 8, "body.max", "found \"3 bananas\"|64MiB");
	one_mistake("body:\n  max: 1\n", 2, 8, "body.max", "from 1.0 KiB");
	one_mistake("workers: 0", 1, 10, "workers", "1 to 256, or auto");
	one_mistake("workers: 1\nworkers: 2", 2, 1, "workers", "twice|line 1");
	one_mistake("log: {level: info}\nlog: {level: warn}", 2, 1, "log", "twice");
	one_mistake("pool: []", 1, 1, "pool", "nearest|pools");
	one_mistake("zzzzzz: 1", 1, 1, "zzzzzz", "listen, tls");
	one_mistake("log.level: info", 1, 1, "log.level", "no such key");
	one_mistake("- a", 1, 1, "", "found a list");
	one_mistake("pools: {id: a}", 1, 8, "pools", "a list of pools");
	one_mistake("pools: [a]", 1, 9, "pools[0]", "found a");
	one_mistake("defaults: 3", 1, 11, "defaults", "mapping");
	one_mistake("defaults: {id: a}", 1, 12, "defaults.id", "one pool alone");
	one_mistake("a: [", 2, 1, "", "not YAML");
	one_mistake("a: *b", 1, 5, "", "names no anchor");
	one_mistake("--- {}\n--- {}\n", 2, 1, "", "one document");
	one_mistake("a: 1\n%YAML 1.2", 2, 1, "", "directive");
	one_mistake("a: \xff", 1, 4, "", "UTF-8");
	one_mistake("{a: 1}: 2", 1, 1, "", "found a mapping where a key belongs");
}

#define SHA "AB00000000000000000000000000000000000000000000000000000000000000"
#define POOL(rest) "pools:\n- {id: a, model: a.gguf, " rest "}\n"
static void test_pool_mistakes(void **state)
{
	one_mistake("pools:\n- {id: a}\n", 2, 3, "pools[0].model", "no valid model");
	one_mistake("pools:\n- {model: a}\n", 2, 3, "pools[0].id", "id: chat");
	one_mistake(POOL("model: {ref: b}"), 2, 26, "pools[0].model", "twice");
	one_mistake(POOL("engine: {kind: openai}"), 2, 3, "pools[0].engine.urls", "url: http");
	one_mistake(POOL("engine: {url: \"ftp://x\"}"), 2, 40, "pools[0].engine.urls",
		"found \"ftp://x\"|http://HOST");
	one_mistake(
		POOL("engine: {url: \"http://x/v1\"}"), 2, 40, "pools[0].engine.urls", "address alone|path");
	one_mistake(POOL("engine: {url: \"http://x:1\", path: /p}"), 2, 60, "pools[0].engine.path",
		"mode: binary");
	one_mistake(POOL("engine: {mode: binary, url: \"https://x/a.tar\"}"), 2, 54, "pools[0].engine.urls",
		"add sha256|sha256sum");
	one_mistake(POOL("engine: {url: \"https://x/a.tar\", sha256: 12}"), 2, 67, "pools[0].engine.sha256",
		"64 hexadecimal digits");
	one_mistake(POOL("engine: {sha256: ab}"), 2, 3, "pools[0].engine.path", "archive's url");
	one_mistake(POOL("engine: {mode: binary, url: x, sha256: " SHA "}"), 2, 54, "pools[0].engine.urls",
		"https://HOST/PATH");
	one_mistake(POOL("engine: {path: /p, program: x}"), 2, 54, "pools[0].engine.program",
		"inside the archive");
	one_mistake(
		POOL("engine: {mode: package, image: x}"), 2, 57, "pools[0].engine.image", "mode: container");
	one_mistake(POOL("engine: {runtime: docker, mode: package}"), 2, 44, "pools[0].engine.runtime",
		"mode: container");
	one_mistake(POOL("engine: {mode: package, source: {ref: b6123}}"), 2, 64, "pools[0].engine.source",
		"mode: source");
	one_mistake(POOL("engine: {kind: vllm, mode: package}"), 2, 53, "pools[0].engine.mode",
		"llama.cpp alone");
	one_mistake("pools:\n- {id: a, engine: {kind: vllm}}\n", 2, 3, "pools[0].model", "a folder");
	one_mistake(POOL("engine: {kind: triton}"), 2, 3, "pools[0].engine.urls", "url: http");
	one_mistake(POOL("engine: {kind: command}"), 2, 3, "pools[0].engine.command", "needs its command");
	one_mistake(POOL("engine: {kind: llamacpp, command: x}"), 2, 60, "pools[0].engine.command",
		"kind: command");
	one_mistake(POOL("engine: {args: \"a 'b\"}"), 2, 41, "pools[0].engine.args", "never closed");
	one_mistake(POOL("engine: {env: {1A: b}}"), 2, 41, "pools[0].engine.env", "letters");
	one_mistake(POOL("engine: {env: [A=1, A=2]}"), 2, 46, "pools[0].engine.env", "twice");
	one_mistake(POOL("engine: {health: ok}"), 2, 43, "pools[0].engine.health", "begins with /");
	one_mistake(POOL("engine: {package: {suit: sid}}"), 2, 45, "pools[0].engine.package.suit", "suite");
	one_mistake(POOL("replicas: {min: 3, max: 2}"), 2, 42, "pools[0].replicas.min",
		"min 3 is more than max 2");
	one_mistake(POOL("replicas: 0"), 2, 36, "pools[0].replicas", "1 to 64");
	one_mistake(POOL("keep_alive: soon"), 2, 38, "pools[0].keep_alive", "never or -1");
	one_mistake(POOL("preload: yes"), 2, 35, "pools[0].preload", "true or false");
	one_mistake(POOL("aliases: [a]"), 2, 35, "pools[0].aliases", "own name");
	one_mistake(POOL("default: true") "- {id: b, model: b, default: true}\n", 3, 30, "pools[1].default",
		"keep default");
	one_mistake(POOL("") "- {id: a, model: b}\n", 3, 8, "pools[1].id", "line 2");
	one_mistake(POOL("") "- {id: b, model: b, aliases: [a]}\n", 3, 30, "pools[1].aliases",
		"already the name");
	one_mistake("pools: [{id: a, model: ../x}]", 1, 24, "pools[0].model", "absolute");
	one_mistake(
		"pools: [{id: a, model: \"http://x/y.gguf\"}]", 1, 24, "pools[0].model", "over https: alone");
	one_mistake("pools: [{id: a, model: {ref: x/y, sha256: abc}}]", 1, 43, "pools[0].model.sha256",
		"64 hexadecimal digits");
	one_mistake("network: {allow_hosts: [\"https://x.org\"]}\n" POOL(""), 1, 24, "network.allow_hosts",
		"no scheme, no path");
	one_mistake("trust: {mode: paranoid}\n" POOL(""), 1, 15, "trust.mode", "permissive or strict");
}

static void test_a_model_to_fetch(void **state)
{
	(void)state;
	AUTO(buf_done) struct buf yaml = BUF(1 * MIB);
	AUTO(buf_done) struct buf again = BUF(1 * MIB);
	AUTO(config_unrefp)
	struct config *c = good("models_dir: /nowhere\n"
				"network: {allow_hosts: [huggingface.co, \"*.hf.co\", \"10.0.0.5:9000\"]}\n"
				"trust: {mode: strict, require_digest: true}\n"
				"fetch: {rate: 1MiB, headroom: 2GiB}\n"
				"pools:\n"
				"- {id: a, model: \"org/repo:Q4_K_M\"}\n"
				"- {id: b, model: {ref: org/repo, mmproj: none, lora: [x.gguf, hf:o/l]}}\n"
				"- {id: c, model: sub/file.gguf}\n"
				"- {id: d, model: \"ollama:llama3.2:3b\"}\n");
	assert_int_equal(c->trust.mode, CONFIG_TRUST_STRICT);
	assert_int_equal(c->network.allow_hosts.len, 3);
	assert_int_equal(c->fetch.rate, 1 * MIB);
	assert_int_equal(c->fetch.parallel, 4);
	assert_true(config_model_is_remote(c, c->pools[0].model));
	assert_true(config_model_is_remote(c, c->pools[1].model));
	assert_false(config_model_is_remote(c, c->pools[2].model));
	assert_true(config_model_is_remote(c, c->pools[3].model));
	assert_false(config_model_is_remote(c, "/abs/path"));
	assert_false(config_model_is_remote(c, "a/b/c"));
	assert_false(config_model_is_remote(c, "file"));
	assert_false(config_model_is_remote(c, NULL));
	assert_string_equal(c->pools[1].model, "org/repo");
	assert_string_equal(c->pools[1].model_set.mmproj, "none");
	assert_int_equal(c->pools[1].model_set.lora.len, 2);
	assert_int_equal(config_show(c, 0, &yaml), 0);
	AUTO(config_unrefp) struct config *d = good(buf_str(&yaml));
	assert_int_equal(config_show(d, 0, &again), 0);
	assert_string_equal(d->pools[1].model, "org/repo");
	assert_string_equal(d->pools[1].model_set.mmproj, "none");
	assert_string_equal(d->pools[0].model, "org/repo:Q4_K_M");
	char one[CONFIG_SPEC_LEN + 1], other[CONFIG_SPEC_LEN + 1];
	config_pool_spec(&c->pools[0], one);
	config_pool_spec(&c->pools[1], other);
	assert_string_not_equal(one, other);
}

static void test_door(void **state)
{
#define PEM "tls: {cert: a.pem, key: a.key}\n"
	AUTO(config_unrefp)
	struct config *c = good(PEM "listen: [127.0.0.1:80, \"https://[::1]:443\", /run/x.sock?mode=0660]\n"
				    "hosts: [llm.lan, Box]\ncors: {origins: [\"https://a.example\", "
				    "\"http://localhost:3000\", \"app://obsidian.md\", \"*\"]}\n");
	assert_true(view_ends(view_str(c->tls_cert), VIEW("/a.pem")) && c->tls_cert[0] == '/');
	assert_string_equal(c->hosts.items[1], "Box");
	assert_int_equal(c->cors_origins.len, 4);
	one_mistake(
		"listen: https://127.0.0.1:443", 1, 9, "listen", "https://127.0.0.1:443|certificate|tls:");
	one_mistake("tls: {cert: a.pem}", 1, 13, "tls.cert", "/a.pem|tls.key");
	one_mistake("tls: {key: a.key}", 1, 12, "tls.key", "/a.key|tls.cert");
	one_mistake(PEM "listen: [127.0.0.1:80, \"https://127.0.0.1:80\"]", 2, 9, "listen", "twice");
	static const char *const entries[] = { "https://8443", "https://127.0.0.1", "https:///run/x.sock",
		"ftp://127.0.0.1:1", "https://127.0.0.1:1/", "/x?mode=999", "/x?mode=6600", "/x?mode=66",
		"/x?a" };
	for (size_t i = 0; i < ARRAY_LEN(entries); i++) {
		AUTO(mem_freep) char *y = mem_fmt(PEM "listen: \"%s\"", entries[i]);
		one_mistake(y, 2, 9, "listen", entries[i]);
	}
	static const char *const hosts[] = { "http://a", "a:80", "a/b", ".a", "*.a", "a b" };
	for (size_t i = 0; i < ARRAY_LEN(hosts); i++) {
		AUTO(mem_freep) char *y = mem_fmt("hosts: [\"%s\"]", hosts[i]);
		one_mistake(y, 1, 8, "hosts", "without scheme and port");
	}
	static const char *const origins[] = { "a.example", "https://a.example/", "https://", "null", "://a",
		"https://*.a", "https://u@a" };
	for (size_t i = 0; i < ARRAY_LEN(origins); i++) {
		AUTO(mem_freep) char *y = mem_fmt("cors: {origins: \"%s\"}", origins[i]);
		one_mistake(y, 1, 17, "cors.origins", "without a path");
	}
#undef PEM
}

static void test_trusted(void **state)
{
	AUTO(config_unrefp)
	struct config *c =
		good("auth: {trusted: [192.168.1.0/24, 10.0.0.7, \"fd00::/8\"]}\nkeys_file: keys\n");
	assert_int_equal(c->auth_trusted.len, 3);
	assert_non_null(c->keys_file);
	assert_int_equal(c->keys_file[0], '/');
	static const char *const bad[] = { "all", "10.0.0.0/33", "10.0.0/8", "fd00::/129", "10.0.0.0/",
		"a.lan" };
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		AUTO(mem_freep) char *y = mem_fmt("auth: {trusted: \"%s\"}", bad[i]);
		one_mistake(y, 1, 17, "auth.trusted", "192.168.1.0/24");
	}
}

static void test_listen(void **state)
{
	static const char *const fine[] = { "127.0.0.1:1", "127.9.9.9:1", "localhost:80",
		"http://127.0.0.1:80", "8080", "'[::1]:1'", "/a", "unix:/a", "0.0.0.0:1", "192.168.1.10:8080",
		"'[::]:80'", "'[fd00::1]:1'" };
	static const char *const not [] = { "x", "127.0.0.1", "127.0.0.1:70000", "::1:80", "[::1]",
		"http://80" };
	static const char *const names[] = { ":80", "example.com:80" };
	for (size_t i = 0; i < ARRAY_LEN(fine); i++) {
		AUTO(mem_freep) char *y = mem_fmt("listen: %s", fine[i]);
		AUTO(config_unrefp) struct config *c = good(y);
		assert_int_equal(c->listen.len, 1);
	}
	for (size_t i = 0; i < ARRAY_LEN(not ); i++) {
		AUTO(config_errors_done) struct config_errors errs = { 0 };
		AUTO(mem_freep) char *y = mem_fmt("listen: %s", not [i]);
		bad(y, &errs);
	}
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		AUTO(mem_freep) char *y = mem_fmt("listen: %s", names[i]);
		one_mistake(y, 1, 9, "listen", "0.0.0.0:8080|not looked up");
	}
	one_mistake("listen: []", 1, 9, "listen", "empty");
	one_mistake("listen: [8080, 8080]", 1, 9, "listen", "twice");
}

static void test_socket_length(void **state)
{
	char dir[128];
	memset(dir, 'd', sizeof dir);
	/* "/engines/" + id + "-" + "1" + "." + 10 digits + ".sock" = 27 + id */
	AUTO(mem_freep)
	char *fits = mem_fmt("runtime_dir: /%.*s\npools:\n- {id: abcd, model: m}\n", 107 - 27 - 4 - 1, dir);
	AUTO(config_unrefp) struct config *c = good(fits);
	assert_int_equal(c->npools, 1);
	AUTO(mem_freep)
	char *over = mem_fmt("runtime_dir: /%.*s\npools:\n- {id: abcde, model: m}\n", 107 - 27 - 4 - 1, dir);
	one_mistake(over, 3, 8, "pools[0].id", "up to 108 bytes|takes 107|shorten|81 bytes now|at most 80");
	AUTO(mem_freep) char *dir_alone = mem_fmt("runtime_dir: /%.*s\n", 95, dir);
	one_mistake(dir_alone, 1, 14, "runtime_dir", "at most 90");
}

static void test_environment(void **state)
{
	const char *env[] = { "HOME=/h", "CORRAL_LISTEN=127.0.0.1:1, /x.sock", "CORRAL_LOG_LEVEL=warn",
		"CORRAL_DEFAULTS_CTX=512", "CORRAL_URL=ignored", "CORRAL_GPU=", NULL };
	AUTO(config_unrefp)
	struct config *c =
		good_with("log: {level: debug}\npools: [{id: a, model: m}, {id: b, model: m, ctx: 1024}]",
			env, NULL, 0);
	assert_int_equal(c->listen.len, 2);
	assert_string_equal(c->listen.items[1], "/x.sock");
	assert_int_equal(c->log_level, CONFIG_LEVEL_WARN);
	assert_true(c->pools[0].ctx == 512 && c->pools[1].ctx == 1024);
	char where[128];
	config_origin_text(c, NULL, "log.level", where, sizeof where);
	assert_string_equal(where, "environment CORRAL_LOG_LEVEL");
	const char *wrong[] = { "CORRAL_WORKERS=lots", NULL };
	AUTO(config_errors_done) struct config_errors errs = { 0 };
	struct config *d = NULL;
	assert_int_equal(load_with("", wrong, NULL, 0, &d, &errs), -EINVAL);
	assert_int_equal(errs.len, 1);
	assert_string_equal(errs.items[0].key, "CORRAL_WORKERS");
	assert_null(errs.items[0].file);
}

static void test_overrides(void **state)
{
	const char *over[] = { "listen=127.0.0.1:0", "pools.a.b.ctx=2048", "defaults.slots=7",
		"pools.a.engine.args=--x 'y z'" };
	AUTO(config_unrefp)
	struct config *c = good_with("listen: 9000\npools: [{id: a, model: m}, {id: a.b, model: m}]",
		plain_env, over, ARRAY_LEN(over));
	assert_string_equal(c->listen.items[0], "127.0.0.1:0");
	assert_true(c->pools[0].ctx == 0 && c->pools[1].ctx == 2048 && c->pools[1].slots == 7);
	assert_int_equal(c->pools[0].engine.args.len, 2);
	const char *wrong[] = { "listn=1", "workers", "workers=x", "pools.z.ctx=1", "pools=1" };
	AUTO(config_errors_done) struct config_errors errs = { 0 };
	struct config *d = NULL;
	assert_int_equal(load_with("", plain_env, wrong, ARRAY_LEN(wrong), &d, &errs), -EINVAL);
	assert_int_equal(errs.len, ARRAY_LEN(wrong));
}

#define POOL_WITH(line) "gpu: auto\npools:\n  - id: a\n    model: a.gguf\n    " line "\n"

static void test_devices(void **state)
{
	AUTO(config_unrefp) struct config *plain = good(POOL_WITH("slots: 1"));
	assert_string_equal(plain->pools[0].devices, "auto");
	AUTO(config_unrefp) struct config *list = good(POOL_WITH("devices: 0,GPU-3f2a"));
	assert_string_equal(list->pools[0].devices, "0,GPU-3f2a");
	AUTO(config_unrefp) struct config *one = good(POOL_WITH("devices: 1"));
	assert_string_equal(one->pools[0].devices, "1");
	AUTO(config_unrefp) struct config *wish = good(POOL_WITH("prefer: 1\n    avoid: 0"));
	assert_string_equal(wish->pools[0].prefer, "1");
	assert_null(plain->pools[0].prefer);
	one_mistake(
		POOL_WITH("prefer: auto"), 5, 13, "pools[0].prefer", "found \"auto\"|0,1|leave the key out");
	one_mistake(POOL_WITH("avoid: 1,GPU-3f2a,1"), 5, 12, "pools[0].avoid", "1 is named twice");
	one_mistake(POOL_WITH("avoid: gpu"), 5, 12, "pools[0].avoid", "found \"gpu\"|indices");
	one_mistake(POOL_WITH("prefer: 0,1\n    avoid: 1"), 6, 12, "pools[0].avoid", "1 is preferred, too");
	one_mistake(POOL_WITH("devices: 0,0"), 5, 14, "pools[0].devices", "named twice");
	one_mistake(POOL_WITH("devices: gpu"), 5, 14, "pools[0].devices", "found \"gpu\"|auto, cpu, none");
	one_mistake("gpu: none\npools:\n  - {id: a, model: a.gguf, devices: 0}\n", 3, 37, "pools[0].devices",
		"gpu: none");
}

static void test_hostile(void **state)
{
	AUTO(buf_done) struct buf b = BUF(4 * MIB);
	AUTO(config_errors_done) struct config_errors errs = { 0 };
	for (int i = 0; i < 100000; i++)
		buf_addc(&b, '[');
	bad(buf_str(&b), &errs);
	config_errors_done(&errs);
	/* Aliases that would be 10^9 nodes when expanded. */
	buf_reset(&b);
	buf_adds(&b, "x-a0: &a0 {slots: 1}\n");
	for (int i = 1; i < 10; i++) {
		buf_addf(&b, "x-a%d: &a%d {<<: [", i, i);
		for (int j = 0; j < 10; j++)
			buf_addf(&b, "%s*a%d", j ? "," : "", i - 1);
		buf_adds(&b, "]}\n");
	}
	buf_adds(&b, "defaults: {<<: *a9}\n");
	bad(buf_str(&b), &errs);
	assert_int_equal(errs.len, 1);
	assert_non_null(strstr(errs.items[0].message, "merge keys"));
	config_errors_done(&errs);
	buf_reset(&b);
	buf_adds(&b, "listen: [");
	for (int i = 0; i < 300000; i++)
		buf_adds(&b, "a,");
	bad(buf_str(&b), &errs);
	config_errors_done(&errs);
	buf_reset(&b);
	for (int i = 0; i < 2 * 1024 * 1024; i++)
		buf_addc(&b, '#');
	bad(buf_str(&b), &errs);
	assert_non_null(strstr(errs.items[0].message, "larger than 1 MiB"));
	config_errors_done(&errs);
	buf_reset(&b);
	for (int i = 0; i < 1000; i++)
		buf_addf(&b, "wrong%d: 1\n", i);
	bad(buf_str(&b), &errs);
	assert_int_equal(errs.len, CONFIG_ERRORS_MAX);
	assert_int_equal(errs.dropped, 1000 - CONFIG_ERRORS_MAX);
}

static void test_bytes(void **state)
{
	struct config_source src = { .path = "x", .text = { "a: \0b", 5 }, .env = plain_env };
	AUTO(config_errors_done) struct config_errors errs = { 0 };
	struct config *c = NULL;
	assert_int_equal(config_load(&src, &c, &errs), -EINVAL);
	assert_non_null(strstr(errs.items[0].message, "NUL"));
	/* What is printed cannot drive the terminal. */
	AUTO(config_errors_done) struct config_errors more = { 0 };
	AUTO(buf_done) struct buf b = BUF(1 * MIB);
	bad("gpu: \"\\e[31mred\"\n", &more);
	config_errors_print(&more, false, &b);
	assert_null(memchr(b.data, 27, b.len));
}

static void test_files(void **state)
{
	struct config_source src = { .path = "/nonexistent/corral.yaml", .env = plain_env };
	AUTO(config_errors_done) struct config_errors errs = { 0 };
	struct config *c = NULL;
	assert_int_equal(config_load(&src, &c, &errs), -EINVAL);
	assert_int_equal(errs.len, 1);
	assert_non_null(strstr(errs.items[0].message, "No such file"));
	AUTO(config_unrefp) struct config *none = NULL;
	const char *env[] = { "HOME=/nonexistent", "CONFIGURATION_DIRECTORY=/nonexistent", NULL };
	struct config_source search = { .env = env };
	AUTO(config_errors_done) struct config_errors no_errs = { 0 };
	assert_int_equal(config_load(&search, &none, &no_errs), 0);
	assert_int_equal(none->files.len, 0);
}

static void test_reference(void **state)
{
	AUTO(buf_done) struct buf md = BUF(1 * MIB), js = BUF(1 * MIB);
	assert_int_equal(config_reference_markdown(&md), 0);
	assert_non_null(strstr(buf_str(&md), "| `queue.max_wait` |"));
	assert_non_null(strstr(buf_str(&md), "`CORRAL_BODY_SPOOL_TOTAL`"));
	assert_int_equal(config_schema_json(&js), 0);
	yyjson_doc *doc = yyjson_read(js.data, js.len, 0);
	assert_non_null(doc);
	yyjson_val *root = yyjson_doc_get_root(doc);
	assert_non_null(yyjson_ptr_get(root, "/allOf/0/properties/body/allOf/0/properties/max"));
	assert_non_null(yyjson_ptr_get(root, "/$defs/pool/properties/engine/allOf/0/properties/package"));
	assert_null(yyjson_ptr_get(root, "/$defs/defaults/properties/id"));
	yyjson_doc_free(doc);
}

static void test_errors_json(void **state)
{
	AUTO(config_errors_done) struct config_errors errs = { 0 };
	AUTO(buf_done) struct buf b = BUF(64 * KIB);
	bad("listen: \"\\x01\"\nnope: 1\n", &errs);
	assert_int_equal(config_errors_json(&errs, &b), 0);
	yyjson_doc *d = yyjson_read(b.data, b.len, 0);
	yyjson_val *second = yyjson_arr_get(yyjson_doc_get_root(d), 1);
	assert_int_equal(yyjson_arr_size(yyjson_doc_get_root(d)), 2);
	assert_string_equal(yyjson_get_str(yyjson_obj_get(second, "file")), "corral.yaml");
	assert_int_equal(yyjson_get_uint(yyjson_obj_get(second, "line")), 2);
	assert_int_equal(yyjson_get_uint(yyjson_obj_get(second, "column")), 1);
	assert_string_equal(yyjson_get_str(yyjson_obj_get(second, "key")), "nope");
	assert_string_equal(yyjson_get_str(yyjson_obj_get(second, "excerpt")), "nope: 1");
	yyjson_doc_free(d);
}

static char *runtime_dir_of(const char *yaml)
{
	struct config_source src = { .path = "corral.yaml", .text = view_str(yaml), .env = plain_env };
	return config_runtime_dir(&src);
}

/* Whoever asks the daemon has to find it although the file was broken meanwhile. */
static void test_runtime_dir_of_a_broken_file(void **state)
{
	AUTO(mem_freep) char *broken = runtime_dir_of("runtime_dir: /r\nnope: 1\npools: [{id: a}]\n");
	assert_string_equal(broken, "/r");
	AUTO(mem_freep) char *no_yaml = runtime_dir_of("runtime_dir: /r\n\"");
	assert_string_equal(no_yaml, "/run/user/7/corral");
}

static void test_places(void **state)
{
	const char *const env[] = { "HOME=/h", NULL }, *const named[] = { "HOME=/h", "CORRAL_CONFIG=/c.yaml",
		NULL };
	struct config_source src = { .env = env };
	AUTO(config_places_done) struct config_places p = { 0 };
	config_places(&src, &p);
	assert_int_equal(p.files.len, 3);
	assert_string_equal(p.files.items[0], "corral.yaml");
	assert_string_equal(p.files.items[1], "/h/.config/corral/corral.yaml");
	assert_string_equal(p.files.items[2], "/etc/corral/corral.yaml");
	assert_string_equal(p.folders.items[0], "/etc/corral/corral.d");
	config_places_done(&p);
	src.env = named;
	config_places(&src, &p);
	assert_int_equal(p.files.len, 1);
	assert_string_equal(p.files.items[0], "/c.yaml");
	assert_int_equal(p.folders.len, 0);
}

static void test_refs(void **state)
{
	struct config *c = good("");
	assert_ptr_equal(config_ref(c), c);
	assert_null(config_unref(c));
	assert_string_equal(c->listen.items[0], "127.0.0.1:8080");
	assert_null(config_unref(c));
	assert_null(config_unref(NULL));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_defaults),
		cmocka_unit_test(test_dirs),
		cmocka_unit_test(test_auto_that_was_written_is_auto),
		cmocka_unit_test(test_every_type),
		cmocka_unit_test(test_show_loads_again),
		cmocka_unit_test(test_show_masks_secrets),
		cmocka_unit_test(test_five_mistakes),
		cmocka_unit_test(test_mistakes),
		cmocka_unit_test(test_pool_mistakes),
		cmocka_unit_test(test_trusted),
		cmocka_unit_test(test_listen),
		cmocka_unit_test(test_a_model_to_fetch),
		cmocka_unit_test(test_door),
		cmocka_unit_test(test_socket_length),
		cmocka_unit_test(test_environment),
		cmocka_unit_test(test_overrides),
		cmocka_unit_test(test_devices),
		cmocka_unit_test(test_hostile),
		cmocka_unit_test(test_bytes),
		cmocka_unit_test(test_files),
		cmocka_unit_test(test_reference),
		cmocka_unit_test(test_errors_json),
		cmocka_unit_test(test_runtime_dir_of_a_broken_file),
		cmocka_unit_test(test_places),
		cmocka_unit_test(test_refs),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
