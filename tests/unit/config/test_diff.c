/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "base/mem.h"
#include "config/config.h"

static struct config *load(const char *yaml)
{
	static const char *const env[] = { "HOME=/home/u", "XDG_RUNTIME_DIR=/run/user/7", NULL };
	struct config_source src = { .path = "corral.yaml", .text = view_str(yaml), .env = env };
	AUTO(config_errors_done) struct config_errors errs = { 0 };
	struct config *c = NULL;
	if (config_load(&src, &c, &errs)) {
		AUTO(buf_done) struct buf b = BUF(1 * MIB);
		config_errors_print(&errs, false, &b);
		fail_msg("should load: %s", buf_str(&b));
	}
	return c;
}

/* "kind pool keys" of each change, one a line. */
static char *diff_of(const struct config *from, const struct config *to)
{
	AUTO(config_diff_done) struct config_diff d;
	AUTO(buf_done) struct buf b = BUF(64 * KIB);
	config_diff(from, to, &d);
	for (size_t i = 0; i < d.len; i++) {
		assert_non_null(d.items[i].human);
		buf_addf(&b, "%s %s %s\n", config_change_kind_name(d.items[i].kind),
			d.items[i].pool ? d.items[i].pool : "-", d.items[i].keys ? d.items[i].keys : "-");
	}
	buf_adds(&b, "");
	return b.len ? buf_take(&b) : mem_strdup("");
}

static void expect(const char *from, const char *to, const char *changes)
{
	AUTO(config_unrefp) struct config *a = load(from);
	AUTO(config_unrefp) struct config *b = load(to);
	AUTO(mem_freep) char *got = diff_of(a, b);
	if (strcmp(got, changes) != 0)
		fail_msg("from %s\nto   %s\nexpected\n%sgot\n%s", from, to, changes, got);
	AUTO(mem_freep) char *none = diff_of(b, b);
	assert_string_equal(none, "");
}

/* Of the first pool. */
static void spec(const char *yaml, char out[CONFIG_SPEC_LEN + 1])
{
	AUTO(config_unrefp) struct config *c = load(yaml);
	config_pool_spec(&c->pools[0], out);
	assert_int_equal(strlen(out), CONFIG_SPEC_LEN);
}

static bool same_spec(const char *a, const char *b)
{
	char x[CONFIG_SPEC_LEN + 1], y[CONFIG_SPEC_LEN + 1];
	spec(a, x);
	spec(b, y);
	return strcmp(x, y) == 0;
}

#define POOL(rest) "pools: [{id: a, model: /m/a.gguf" rest "}]"

static void test_spec_is_of_the_engine(void **state)
{
	static const char *const other[] = { POOL(", ctx: 4096"), POOL(", slots: 3"),
		"pools: [{id: a, model: /m/b.gguf}]", POOL(", engine: {args: [--flash-attn, on]}"),
		POOL(", engine: {env: {A: b}}"), POOL(", engine: {path: /usr/bin/llama-server}"),
		POOL(", engine: {mode: package}"), POOL(", engine: {package: {suite: trixie}}"),
		POOL(", engine: {health: /ok}"), POOL(", engine: {kind: openai, url: 'http://h:1'}"),
		POOL(", engine: {kind: openai, url: 'http://h:2'}"), POOL(", engine: {command: [a, b]}"),
		POOL(", engine: {command: [ab]}"), POOL(", engine: {command: [a, b], stop_command: c}") };
	static const char *const same[] = { POOL(", aliases: [x, y]"), POOL(", default: true"),
		POOL(", queue: {capacity: 3, policy: drop-lru, max_wait: 3s}"), POOL(", keep_alive: never"),
		POOL(", progress: {mode: comment, after: 1s, every: 1s}"), POOL(", replicas: 3"),
		POOL(", preload: true"), POOL(", start_timeout: 9s"), POOL(", canary: never"),
		POOL(", cancel_grace: 7s"), "pools: [{id: b, model: /m/a.gguf}]" };
	for (size_t i = 0; i < ARRAY_LEN(other); i++) {
		if (same_spec(POOL(""), other[i]))
			fail_msg("needs another engine: %s", other[i]);
		for (size_t j = 0; j < i; j++)
			if (same_spec(other[j], other[i]))
				fail_msg("not the same engine: %s and %s", other[j], other[i]);
	}
	for (size_t i = 0; i < ARRAY_LEN(same); i++)
		if (!same_spec(POOL(""), same[i]))
			fail_msg("needs no other engine: %s", same[i]);
}

static void test_spec_written_in_other_words(void **state)
{
	assert_true(same_spec(POOL(""), POOL(", ctx: auto, slots: 2, engine: {kind: llamacpp, mode: auto}")));
	assert_true(same_spec("defaults: {ctx: 4096}\n" POOL(""), POOL(", ctx: 4096")));
	assert_true(same_spec(POOL(""), "pools: [{model: {ref: 'file:/m/a.gguf'}, id: a}]"));
	assert_true(same_spec(POOL(", engine: {args: '-a \"b c\"'}"), POOL(", engine: {args: [-a, b c]}")));
	assert_true(same_spec(POOL(", engine: {args: []}"), POOL("")));
	/* An environment has no order, arguments have. */
	assert_true(same_spec(POOL(", engine: {env: {A: 1, B: 2}}"), POOL(", engine: {env: [B=2, A=1]}")));
	assert_false(same_spec(POOL(", engine: {env: {A: 1, B: 2}}"), POOL(", engine: {env: {A: 2, B: 1}}")));
	assert_false(same_spec(POOL(", engine: {args: [-a, -b]}"), POOL(", engine: {args: [-b, -a]}")));
	assert_false(same_spec(POOL(", engine: {args: [a, bc]}"), POOL(", engine: {args: [ab, c]}")));
	assert_false(same_spec(
		POOL(", engine: {path: /x, args: [a]}"), POOL(", engine: {path: /x, env: {A: a}}")));
}

/* Engines outlive the daemon and its upgrade: a fingerprint that changes replaces all of them. */
static void test_spec_stays(void **state)
{
	char s[CONFIG_SPEC_LEN + 1];
	spec(POOL(""), s);
	assert_string_equal(s, "c7b5bae3d6ceaafb");
	spec(POOL(", ctx: 4096, slots: 4, engine: {path: /usr/bin/llama-server, args: [-a, b], env: {K: v}}"),
		s);
	assert_string_equal(s, "c8dc43f19643c5d1");
}

static void test_nothing(void **state)
{
	static const char a[] = "pools:\n- {id: a, model: a.gguf}\n- {id: b, model: b.gguf, ctx: 4096}\n";
	expect(a, a, "");
	expect(a, "pools:\n- {id: b, model: b.gguf, ctx: 4096}\n- {id: a, model: a.gguf}\n", "");
	expect(a,
		"# a comma\nlisten: [127.0.0.1:8080]\ndefaults: {ctx: 4096}\npools:\n- {id: b, model: "
		"b.gguf}\n- {id: a, model: {ref: a.gguf}, ctx: auto}\n",
		"");
}

static void test_pools(void **state)
{
	expect("", POOL(""), "pool_added a -\n");
	expect(POOL(""), "", "pool_removed a -\n");
	expect("pools: [{id: a, model: a}, {id: b, model: b}, {id: c, model: c}]",
		"pools: [{id: d, model: d}, {id: c, model: x}, {id: a, model: a, preload: true}]",
		"pool_added d -\npool_engine c model\npool_live a preload\npool_removed b -\n");
	expect(POOL(""), POOL(", ctx: 4096, slots: 3, keep_alive: 1m"),
		"pool_engine a ctx, slots\npool_live a keep_alive\n");
	expect("defaults: {queue: {capacity: 1}}\n" POOL(""), POOL(""), "pool_live a queue.capacity\n");
	/* A name that goes from one pool to the other. */
	expect("pools: [{id: a, model: a, aliases: x}, {id: b, model: b}]",
		"pools: [{id: a, model: a}, {id: b, model: b, aliases: x}]",
		"pool_live a aliases\npool_live b aliases\n");
	expect(POOL(", aliases: [x, y]"), POOL(", aliases: [y, x]"), "pool_live a aliases\n");
	expect(POOL(", engine: {env: {A: 1, B: 2}}"), POOL(", engine: {env: {B: 2, A: 1}}"), "");
	expect(POOL(", engine: {kind: openai, url: 'http://h:1'}"),
		POOL(", engine: {kind: openai, urls: ['http://h:1', 'http://h:2']}"),
		"pool_engine a engine.urls\npool_live a replicas.max\n");
}

static void test_top(void **state)
{
	expect("", "log: {level: debug}\nlisten: 9000\nbody: {max: 1MiB}\nworkers: 3\n",
		"top_live - body.max\ntop_live - log.level\nnext_start - listen\nnext_start - workers\n");
	expect("", "state_dir: /s\nruntime_dir: /r\nmodels_dir: /m\ngpu: none\nlog: {format: json}\n",
		"next_start - state_dir\nnext_start - runtime_dir\nnext_start - models_dir\nnext_start - "
		"gpu\nnext_start - log.format\n");
	expect("", "body: {spool_total: 1GiB}", "top_live - body.spool_total\n");
}

static void test_human(void **state)
{
	AUTO(config_unrefp) struct config *a = load(POOL(", engine: {env: {API_KEY: hunter2}}"));
	AUTO(config_unrefp)
	struct config *b = load("listen: 9000\n" POOL(
		", ctx: 4096, keep_alive: never, aliases: [x], engine: {args: [--api-key, hunter3]}"));
	AUTO(config_diff_done) struct config_diff d;
	config_diff(a, b, &d);
	assert_int_equal(d.len, 3);
	assert_string_equal(d.items[0].human, "Pool a: engine.args, engine.env, ctx from auto to 4096; its "
					      "engines are replaced one after the other.");
	assert_string_equal(d.items[1].human, "Pool a: aliases from nothing to x, keep_alive from 10m to "
					      "never, at once; its engines go on.");
	assert_string_equal(d.items[2].human, "listen from 127.0.0.1:8080 to 9000, when Corral starts again; "
					      "until then it stays as it is.");
}

/* What waits for the start stays as it was, and is listed until then; the rest is the new file's. */
static void test_over(void **state)
{
	AUTO(config_unrefp) struct config *first = load("listen: 8000\nmodels_dir: /m\n" POOL(""));
	AUTO(config_unrefp)
	struct config *next = load("listen: 9000\nmodels_dir: /n\nlog: {level: warn}\n" POOL(", ctx: 4096"));
	struct config *now = config_over(first, next);
	assert_string_equal(now->listen.items[0], "8000");
	assert_string_equal(now->models_dir, "/m");
	assert_int_equal(now->log_level, CONFIG_LEVEL_WARN);
	assert_int_equal(now->pools[0].ctx, 4096);
	AUTO(mem_freep) char *d = diff_of(now, next);
	assert_string_equal(d, "next_start - listen\nnext_start - models_dir\n");
	AUTO(config_unrefp) struct config *after = config_over(now, next);
	AUTO(mem_freep) char *again = diff_of(after, next);
	assert_string_equal(again, d);
	/* It stands alone. */
	next = config_unref(next);
	first = config_unref(first);
	char where[128];
	config_origin_text(now, &now->pools[0], "ctx", where, sizeof where);
	assert_string_equal(where, "corral.yaml:4");
	config_origin_text(now, NULL, "listen", where, sizeof where);
	assert_string_equal(where, "corral.yaml:1");
	now = config_unref(now);
}

/* ---- models that were found --------------------------------------------------------------------------- */

static struct config *with(const char *yaml, const struct config_found *list, size_t n)
{
	AUTO(config_unrefp) struct config *base = load(yaml);
	return config_with_found(base, list, n);
}

static void test_found_under_their_names(void **state)
{
	static const struct config_found list[] = {
		{ "llama3.2", "/o/blob", "Ollama", "ollama:llama3.2:latest" },
		{ "qwen", "/q.gguf", "Hugging Face cache", "hf:org/Qwen-GGUF:Q4_K_M" },
		{ "qwen", "/q2.gguf", "LM Studio", "hf:org/Qwen-GGUF:Q4_K_M" }, /* the name is taken */
		{ "other", "relative", "nowhere", "ollama:lost" },
		{ "x", "/x.gguf", "Ollama", "ollama:loose:latest" },
		{ "loose", "/l.gguf", "models_dir", "file:/l.gguf" },
		{ "y", "/y.gguf", "Ollama", "ollama:a b" },
	};
	AUTO(config_unrefp)
	struct config *c = with("defaults: {preload: true, replicas: {min: 1}}", list, ARRAY_LEN(list));
	assert_int_equal(c->npools, 6);
	assert_string_equal(config_pool_find(c, VIEW("llama3.2:latest"))->model, "/o/blob");
	assert_int_equal(c->pools[0].aliases.len, 1); /* the short name is its id already */
	assert_string_equal(config_pool_find(c, VIEW("org/Qwen-GGUF:Q4_K_M"))->model, "/q.gguf");
	assert_int_equal(c->pools[2].aliases.len, 0);
	assert_string_equal(config_pool_find(c, VIEW("loose"))->model, "/l.gguf");
	assert_null(config_pool_find(c, VIEW("/l.gguf")));
	assert_null(config_pool_find(c, VIEW("lost")));
	assert_null(config_pool_find(c, VIEW("a b")));
	for (size_t i = 0; i < c->npools; i++)
		assert_true(!c->pools[i].preload && !c->pools[i].replicas_min);
}

static void test_found(void **state)
{
	static const struct config_found list[] = { { NULL, "/hub/one/Qwen3 8B-Q4_K_M.gguf",
							    "Hugging Face cache" },
		{ "llama3.2-3b", "/ollama/blobs/sha256-ab", "ollama:llama3.2:3b" },
		{ NULL, "/lm/two/qwen3-8b-Q4_K_M.gguf", "LM Studio" },
		{ NULL, "/lm/more/two/qwen3-8b-Q4_K_M.gguf", "LM Studio" },
		{ NULL, "/m/big-Q8_0-00001-of-00002.gguf", "models_dir" },
		{ "Not an id!", "/m/x.gguf", "models_dir" }, { NULL, "relative.gguf", "models_dir" },
		{ NULL, "/m/\xff.gguf", "models_dir" }, { NULL, "/é.gguf", "models_dir" } };
	static const char *const ids[] = { "qwen3-8b-q4_k_m", "llama3.2-3b", "two-qwen3-8b-q4_k_m",
		"qwen3-8b-q4_k_m-2", "big-q8_0", "not-an-id", "model" };
	AUTO(config_unrefp)
	struct config *c = with("defaults: {slots: 3, engine: {path: /e}}\nlisten: 9", list, ARRAY_LEN(list));
	assert_int_equal(c->npools, ARRAY_LEN(ids));
	for (size_t i = 0; i < ARRAY_LEN(ids); i++) {
		assert_string_equal(c->pools[i].id, ids[i]);
		assert_int_equal(c->pools[i].slots, 3);
		assert_int_equal(c->pools[i].engine.mode, CONFIG_MODE_BINARY);
	}
	assert_string_equal(c->pools[1].model, "/ollama/blobs/sha256-ab");
	assert_string_equal(c->listen.items[0], "9");
	char where[64], spec[CONFIG_SPEC_LEN + 1], same[CONFIG_SPEC_LEN + 1];
	config_origin_text(c, &c->pools[1], "model", where, sizeof where);
	assert_string_equal(where, "found: ollama:llama3.2:3b");
	/* What one side made goes over the wire as id and path, and gives the same there. */
	struct config_found again[ARRAY_LEN(ids)];
	for (size_t i = 0; i < ARRAY_LEN(ids); i++)
		again[i] = (struct config_found){ c->pools[i].id, c->pools[i].model, "somewhere", NULL };
	AUTO(config_unrefp)
	struct config *d =
		with("defaults: {slots: 3, engine: {path: /e}}\nlisten: 9", again, ARRAY_LEN(again));
	AUTO(mem_freep) char *diff = diff_of(c, d);
	assert_string_equal(diff, "");
	config_pool_spec(&c->pools[0], spec);
	config_pool_spec(&d->pools[0], same);
	assert_string_equal(spec, same);
}

static void test_found_is_not_wanted(void **state)
{
	static const struct config_found one[] = { { NULL, "/m/x.gguf", "models_dir" } };
	AUTO(config_unrefp) struct config *own = with(POOL(""), one, 1);
	assert_int_equal(own->npools, 1);
	assert_string_equal(own->pools[0].id, "a");
	AUTO(config_unrefp)
	struct config *external = with("defaults: {engine: {kind: openai, url: 'http://h:1'}}", one, 1);
	assert_int_equal(external->npools, 0);
	AUTO(config_unrefp) struct config *none = with("", NULL, 0);
	assert_int_equal(none->npools, 0);
}

/* The engine's socket has to fit into the system's bound. */
static void test_found_fits_its_socket(void **state)
{
	static const struct config_found list[] = {
		{ NULL, "/m/a-very-long-name-of-a-model-that-goes-on-and-on-a.gguf", "models_dir" },
		{ NULL, "/m/a-very-long-name-of-a-model-that-goes-on-and-on-b.gguf", "models_dir" }
	};
	char yaml[256] = "runtime_dir: /", tiny[256] = "runtime_dir: /";
	memset(yaml + strlen(yaml), 'r', 60);
	memset(tiny + strlen(tiny), 'r', 85);
	AUTO(config_unrefp) struct config *c = with(yaml, list, 2);
	assert_int_equal(c->npools, 2);
	assert_string_not_equal(c->pools[0].id, c->pools[1].id);
	assert_true(strlen(c->pools[0].id) < 30 && strlen(c->pools[0].id) > 8);
	AUTO(config_unrefp) struct config *none = with(tiny, list, 2);
	assert_int_equal(none->npools, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_spec_is_of_the_engine),
		cmocka_unit_test(test_spec_written_in_other_words),
		cmocka_unit_test(test_spec_stays),
		cmocka_unit_test(test_nothing),
		cmocka_unit_test(test_pools),
		cmocka_unit_test(test_top),
		cmocka_unit_test(test_human),
		cmocka_unit_test(test_over),
		cmocka_unit_test(test_found),
		cmocka_unit_test(test_found_under_their_names),
		cmocka_unit_test(test_found_is_not_wanted),
		cmocka_unit_test(test_found_fits_its_socket),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
