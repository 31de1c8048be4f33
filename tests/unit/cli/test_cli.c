/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "cli/cli_int.h"

/* ---- events ------------------------------------------------------------------------------------- */

static void collect(void *arg, struct view data)
{
	buf_addf(arg, "[%.*s]", VIEW_ARG(data));
}

static void test_sse(void **state)
{
	static const char text[] =
		"\xef\xbb\xbf: hi\r\ndata: a\r\n\r\nevent: x\ndata:b\ndata: c\n\n: ping\n\ndata\n\ndata: cut";
	for (size_t step = 1; step < sizeof text; step++) {
		AUTO(buf_done) struct buf got = BUF(4096);
		struct sse s;
		sse_init(&s, collect, &got);
		for (size_t i = 0; i < sizeof text - 1; i += step)
			sse_feed(&s, view_cut(view_of(text + i, sizeof text - 1 - i), step));
		sse_done(&s);
		assert_string_equal(buf_str(&got), "[a][b\nc][]");
	}
}

static void test_sse_bound(void **state)
{
	AUTO(buf_done) struct buf got = BUF(4096);
	AUTO(buf_done) struct buf big = BUF(8 * MIB);
	struct sse s;
	sse_init(&s, collect, &got);
	buf_adds(&big, "data: ");
	for (int i = 0; i < 5 * 1024 * 1024; i++)
		buf_addc(&big, 'x');
	buf_adds(&big, "\n\ndata: next\n\n");
	sse_feed(&s, buf_view(&big));
	sse_done(&s);
	assert_string_equal(buf_str(&got), "[next]");
}

static void delta(const char *json, const char *content, const char *error, bool done)
{
	struct chat_delta d;
	chat_delta_read(view_str(json), &d);
	assert_true(d.done == done);
	assert_string_equal(d.content ? d.content : "-", content);
	if (error)
		assert_non_null(strstr(d.error ? d.error : "-", error));
	else
		assert_null(d.error);
	chat_delta_done(&d);
}

static void test_delta(void **state)
{
	delta("{\"choices\":[{\"delta\":{\"content\":\"Hi \\u00e9\"}}]}", "Hi é", NULL, false);
	delta("{\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":null}}]}", "-", NULL, false);
	delta("{\"choices\":[],\"usage\":{}}", "-", NULL, false);
	delta("[DONE]", "-", NULL, true);
	delta("{\"error\":{\"message\":\"engine died\",\"code\":1}}", "-", "engine died", false);
	delta("{\"error\":\"plain\"}", "-", "plain", false);
	delta("{\"error\":{}}", "-", "no message", false);
	delta("{\"choi", "-", "not JSON", false);
	delta("[1,2]", "-", NULL, false);
	delta("", "-", "not JSON", false);
	struct chat_delta d;
	chat_delta_read(
		VIEW("{\"choices\":[{\"delta\":{\"reasoning_content\":\"hm\"},\"finish_reason\":\"stop\"}]}"),
		&d);
	assert_string_equal(d.reasoning, "hm");
	assert_string_equal(d.finish, "stop");
	chat_delta_done(&d);
}

/* ---- tables ------------------------------------------------------------------------------------- */

static const char answer[] =
	"{\"pools\":[{\"id\":\"chat\",\"model\":\"chat.gguf\",\"state\":\"ready\",\"engine\":\"llamacpp\","
	"\"engine_version\":\"b1\","
	"\"ctx\":8192,\"slots_total\":4,\"slots_free\":3,\"leases\":1,\"waiting\":2,\"queue_capacity\":64,"
	"\"replicas\":["
	"{\"id\":\"chat-0\",\"state\":\"ready\",\"pid\":42,\"device\":\"cpu\",\"slots_total\":2,\"leases\":1,"
	"\"ctx\":8192},"
	"{\"id\":\"chat-1\",\"state\":\"starting\",\"pid\":43,\"device\":\"cpu\",\"slots_total\":2,"
	"\"leases\":0,\"ctx\":8192,"
	"\"progress\":{\"phase\":\"load\",\"pct\":40,\"text\":\"Loading.\"}}]},"
	"{\"id\":\"idle\",\"model\":\"b\\u001b[31m.gguf\",\"state\":\"stopped\",\"engine\":\"llamacpp\","
	"\"ctx\":0,\"slots_total\":2,"
	"\"slots_free\":2,\"leases\":0,\"waiting\":0,\"queue_capacity\":64,\"draining\":true,\"replicas\":[],"
	"\"last_error\":{\"message\":\"It \\u001b[2J died.\",\"hint\":\"Try "
	"again.\",\"at\":\"2026-01-02T03:04:05.000Z\"}}]}";

/* What was ordered is shown where nothing runs, and beside what still does. */
static void test_ps_orders(void **state)
{
	static const char orders[] =
		"{\"pools\":[{\"id\":\"a\",\"state\":\"unloaded\",\"disabled\":true,\"replicas\":[]},"
		"{\"id\":\"b\",\"state\":\"ready\",\"disabled\":false,\"reloading\":true,"
		"\"replicas\":[{\"id\":\"b-0\",\"state\":\"ready\"}]}]}";
	AUTO(buf_done) struct buf b = BUF(64 * KIB);
	assert_int_equal(replicas_table(view_str(orders), false, &b), 0);
	assert_non_null(strstr(buf_str(&b), "a     -        disabled "));
	assert_non_null(strstr(buf_str(&b), "b     b-0      ready, reloading"));
	buf_reset(&b);
	assert_int_equal(pools_table(view_str(orders), false, &b), 0);
	assert_non_null(strstr(buf_str(&b), "a     disabled "));
	assert_non_null(strstr(buf_str(&b), "b     reloading"));
}

static void test_ps(void **state)
{
	AUTO(buf_done) struct buf b = BUF(64 * KIB);
	assert_int_equal(replicas_table(view_str(answer), false, &b), 0);
	assert_string_equal(buf_str(&b),
		"POOL  REPLICA  STATE              LEASES  QUEUE  DEVICE  CTX   ENGINE       PID\n"
		"chat  chat-0   ready              1/2     2/64   cpu     8192  llamacpp b1  42\n"
		"chat  chat-1   starting load 40%  0/2     2/64   cpu     8192  llamacpp b1  43\n"
		"idle  -        stopped            0/2     0/64   -       auto  llamacpp     -\n");
	assert_int_equal(replicas_table(VIEW("{\"hello\":1}"), false, &b), -EINVAL);
	assert_int_equal(replicas_table(VIEW("<html>"), false, &b), -EINVAL);
	assert_int_equal(replicas_table((struct view){ 0 }, false, &b), -EINVAL);
}

static void test_pools(void **state)
{
	AUTO(buf_done) struct buf b = BUF(64 * KIB);
	assert_int_equal(pools_table(view_str(answer), false, &b), 0);
	assert_string_equal(buf_str(&b),
		"POOL  STATE     REPLICAS  FREE  WAITING  CTX   ENGINE    MODEL\n"
		"chat  ready     2         3/4   2        8192  llamacpp  chat.gguf\n"
		"idle  draining  0         2/2   0        auto  llamacpp  b?[31m.gguf\n");
	buf_reset(&b);
	assert_int_equal(pools_table(view_str(answer), true, &b), 0);
	assert_non_null(strstr(buf_str(&b), "\033[32mready\033[0m"));
	assert_null(strstr(buf_str(&b), "\033[31m.gguf"));
}

static void test_models(void **state)
{
	AUTO(buf_done) struct buf b = BUF(64 * KIB);
	const char *models =
		"{\"object\":\"list\",\"data\":[{\"id\":\"chat\",\"status\":{\"value\":\"loaded\"},"
		"\"meta\":{\"n_params\":7615616512,\"size\":4683073536,\"quant\":\"Q4_K_M\"},"
		"\"corral\":{\"use\":\"text\",\"source\":null}},"
		"{\"id\":\"bge\",\"status\":{\"value\":\"unloaded\"},\"meta\":{\"n_params\":137000000},"
		"\"corral\":{\"use\":\"embedding\",\"source\":\"Ollama\\u001b[2J\"}}]}";
	assert_int_equal(models_table(view_str(models), false, &b), 0);
	assert_string_equal(buf_str(&b),
		"MODEL  STATE     SIZE     PARAMETERS  QUANT   FOR        SOURCE\n"
		"chat   loaded    4.4 GiB  7.6B        Q4_K_M  text       configuration\n"
		"bge    unloaded  -        137M        -       embedding  Ollama?[2J\n");
	buf_reset(&b);
	assert_int_equal(models_table(VIEW("{\"data\":[]}"), false, &b), 0);
	assert_non_null(strstr(buf_str(&b), "No models are served."));
	assert_int_equal(models_table(VIEW("{}"), false, &b), -EINVAL);
}

static void test_catalog(void **state)
{
	(void)state;
	AUTO(buf_done) struct buf b = BUF(64 * KIB);
	const char *models =
		"{\"models\":[{\"id\":\"o-r\",\"reference\":\"hf:o/r\",\"state\":\"Active\",\"serving\":true,"
		"\"fetched\":true,\"size_bytes\":4683073248,\"architecture\":\"llama\","
		"\"verified_at\":\"2026-11-24T16:07:08.123Z\",\"used_at\":null}]}";
	assert_int_equal(catalog_table(view_str(models), false, &b), 0);
	assert_string_equal(buf_str(&b),
		"ID   STATE            SIZE     ARCHITECTURE  FILES    VERIFIED    USED  REFERENCE\n"
		"o-r  Active, serving  4.4 GiB  llama         fetched  2026-11-24  -     hf:o/r\n");
	buf_reset(&b);
	assert_int_equal(catalog_table(VIEW("{\"models\":[]}"), false, &b), 0);
	assert_non_null(strstr(buf_str(&b), "corral pull"));
	assert_int_equal(catalog_table(VIEW("{}"), false, &b), -EINVAL);
	buf_reset(&b);
	const char *gc =
		"{\"quota_bytes\":1048576,\"used_bytes\":2097152,\"over_bytes\":1048576,\"candidates\":["
		"{\"id\":\"o-r\",\"reference\":\"hf:o/r\",\"size_bytes\":1048576,\"needed\":true,"
		"\"pool\":null,\"used_at\":\"2026-11-24T16:07:08.123Z\"}]}";
	assert_int_equal(catalog_gc_page(view_str(gc), false, &b), 0);
	assert_non_null(strstr(buf_str(&b), "take 2.0 MiB; models_quota is 1.0 MiB, too much: 1.0 MiB.\n"));
	assert_non_null(strstr(buf_str(&b), "o-r *  1.0 MiB  2026-11-24  -     hf:o/r\n"));
	buf_reset(&b);
	assert_int_equal(catalog_gc_page(VIEW("{\"candidates\":[]}"), false, &b), 0);
	assert_non_null(strstr(buf_str(&b), "Nothing of it could go"));
	buf_reset(&b);
	assert_int_equal(
		catalog_detail(
			VIEW("{\"id\":\"a\",\"files\":[{\"role\":\"weights\",\"path\":\"/m\\u001b[2J\","
			     "\"size_bytes\":1024}]}"),
			false, &b),
		0);
	assert_non_null(strstr(buf_str(&b), "weights       /m?[2J\n"));
	assert_non_null(strstr(buf_str(&b), "1.0 KiB, sha256 not known"));
	assert_int_equal(catalog_detail(VIEW("{}"), false, &b), -EINVAL);
}

static void test_pool_detail(void **state)
{
	AUTO(buf_done) struct buf b = BUF(64 * KIB);
	const char *second = strstr(answer, "{\"id\":\"idle\"");
	assert_int_equal(pool_detail(view_of(second, strlen(second) - 2), &b), 0);
	assert_non_null(strstr(buf_str(&b), "last error   It ?[2J died.\n"));
	assert_non_null(strstr(buf_str(&b), "hint         Try again.\n"));
	assert_int_equal(pool_detail(VIEW("{}"), &b), -EINVAL);
}

static void test_api_errors(void **state)
{
	static const struct {
		const char *body, *message, *hint;
	} cases[] = {
		{ "{\"error\":{\"message\":\"no\",\"corral\":{\"hint\":\"do\"}}}", "no", "do" },
		{ "{\"error\":\"no\"}", "no", "" },
		{ "{\"error\":{\"message\":7}}", "", "" },
		{ "nonsense", "", "" },
		{ "", "", "" },
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		AUTO(buf_done) struct buf m = BUF(100);
		AUTO(buf_done) struct buf h = BUF(100);
		api_error_text(view_str(cases[i].body), &m, &h);
		assert_string_equal(buf_str(&m), cases[i].message);
		assert_string_equal(buf_str(&h), cases[i].hint);
	}
	AUTO(buf_done) struct buf p = BUF(100);
	path_add(&p, "a/b ?é.x");
	assert_string_equal(buf_str(&p), "a%2Fb%20%3F%C3%A9.x");
}

/* ---- a reload's answer ----------------------------------------------------------------------------- */

static void plan(const char *body, const char *text)
{
	AUTO(buf_done) struct buf b = BUF(64 * KIB);
	if (!text) {
		assert_int_equal(reload_plan(view_str(body), &b), -EINVAL);
		return;
	}
	assert_int_equal(reload_plan(view_str(body), &b), 0);
	assert_string_equal(buf_str(&b), text);
}

static void test_reload_plan(void **state)
{
	plan("{\"applied\":true,\"changes\":[],\"next_start\":[],\"warnings\":[]}", "Nothing changed.\n");
	plan("{\"applied\":true,\"changes\":[{\"kind\":\"pool_added\",\"human\":\"A.\"},{\"kind\":\"pool_"
	     "removed\","
	     "\"human\":\"B\\u001b[2J.\"}],\"next_start\":[{\"kind\":\"next_start\",\"human\":\"C.\"}],"
	     "\"warnings\":[{\"key\":\"k\",\"message\":\"m\"}]}",
		"+ A.\n- B?[2J.\n= C.\n! k: m\n2 changes applied.\n");
	plan("{\"applied\":false,\"changes\":[{\"kind\":\"top_live\",\"human\":\"A.\"}]}",
		"~ A.\n1 change; nothing was done (--dry-run).\n");
	plan("{\"changes\":[],\"next_start\":[{\"kind\":\"next_start\",\"human\":\"C.\"}]}",
		"= C.\nNothing changed that can be changed while it runs.\n");
	plan("{\"changes\":[{\"kind\":1},2,null]}", "~ \n~ \n~ \n3 changes; nothing was done (--dry-run).\n");
	plan("[]", NULL);
	plan("", NULL);
	plan("{\"changes\":1}", NULL);
}

/* ---- a file becomes a pool ------------------------------------------------------------------------ */

static void test_ids(void **state)
{
	static const struct {
		const char *path, *id;
	} cases[] = { { "/m/Qwen3 8B-Q4_K_M.gguf", "qwen3-8b-q4_k_m" }, { "a.gguf", "a" },
		{ "../._-x.gguf", "x" }, { "/é.gguf", "model" }, { "x--", "x" },
		{ "/m/A-00001-of-00003.gguf", "a" }, { "/m/a-0001-of-00003.gguf", "a-0001-of-00003" },
		{ "0123456789012345678901234567890123456789012345.gguf",
			"0123456789012345678901234567890123456789" } };
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		AUTO(mem_freep) char *id = config_id_of_file(cases[i].path, 40);
		assert_string_equal(id, cases[i].id);
	}
}

static void test_config_for_file(void **state)
{
	const char *const env[] = { "HOME=/h", "XDG_RUNTIME_DIR=/r", NULL };
	struct config_source src = { .path = "x", .text = VIEW("gpu: none"), .env = env };
	AUTO(config_errors_done) struct config_errors errs = { 0 };
	AUTO(config_unrefp) struct config *base = NULL, *c = NULL;
	AUTO(buf_done) struct buf b = BUF(64 * KIB);
	assert_int_equal(config_load(&src, &base, &errs), 0);
	config_for_file(base, "/m/\"odd\": #name\n.gguf", "odd", &b);
	src.text = buf_view(&b);
	assert_int_equal(config_load(&src, &c, &errs), 0);
	assert_string_equal(c->pools[0].model, "/m/\"odd\": #name\n.gguf");
	assert_string_equal(c->runtime_dir, base->runtime_dir);
	assert_int_equal(c->gpu, CONFIG_GPU_NONE);
}

/* ---- arguments ------------------------------------------------------------------------------------ */

static struct {
	int calls, ready_fd;
	bool keep;
	char listen[128], role[64];
} seen;

static int fake_serve(const struct cli_serve_opts *o)
{
	seen.calls++;
	seen.ready_fd = o->ready_fd;
	seen.keep = o->keep_engines;
	snprintf(seen.listen, sizeof seen.listen, "%s|%s", o->config->listen.items[0],
		o->config->listen.len > 1 ? o->config->listen.items[1] : "");
	assert_true(o->source->noverrides <= 2);
	return 42;
}

static int fake_role(int argc, char **argv)
{
	snprintf(seen.role, sizeof seen.role, "%s %d", argv[0], argc);
	return 7;
}

static int call(const char *line)
{
	static const struct cli_roles roles = {
		.serve = fake_serve, .orchestratord = fake_role, .engine_provisioner = fake_role
	};
	AUTO(strv_done) struct strv argv = { 0 };
	memset(&seen, 0, sizeof seen);
	assert_int_equal(strv_shell_words(&argv, view_str(line), NULL), 0);
	return cli_main((int)argv.len, argv.items, &roles);
}

static void test_arguments(void **state)
{
	setenv("CORRAL_CONFIG", "/dev/null", 1);
	assert_int_equal(call("corral serve"), 42);
	assert_int_equal(seen.ready_fd, -1);
	assert_false(seen.keep);
	assert_string_equal(seen.listen, "127.0.0.1:8080|");
	assert_int_equal(call("corral serve --listen 127.0.0.1:0 --listen=/x.sock --ready-fd 1 "
			      "--keep-engines --set log.level=debug"),
		42);
	assert_string_equal(seen.listen, "127.0.0.1:0|/x.sock");
	assert_int_equal(seen.ready_fd, 1);
	assert_true(seen.keep);
	static const char *const wrong[] = { "corral serve --ready-fd 999", "corral serve --ready-fd x",
		"corral serve --listen", "corral serve --bogus", "corral serve x",
		"corral serve --listen llm.lan:1", "corral serve --set nope=1",
		"corral serve --config /nonexistent.yaml", "corral bogus", "corral logs",
		"corral logs a -n -1", "corral ps x", "corral drain a --deadline soon", "corral start",
		"corral start a --deadline 5s", "corral config", "corral config bogus", "corral run",
		"corral run a b c", "corral run a --max-tokens 0", "corral help bogus" };
	for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
		if (call(wrong[i]) != CLI_USAGE)
			fail_msg("%s should be a usage error", wrong[i]);
		assert_int_equal(seen.calls, 0);
	}
	static const char *const fine[] = { "corral", "corral help", "corral --help", "corral help run",
		"corral serve --help", "corral version --json", "corral --version", "corral config show",
		"corral config show --effective --json", "corral config check", "corral config reference",
		"corral config schema" };
	for (size_t i = 0; i < ARRAY_LEN(fine); i++)
		if (call(fine[i]) != CLI_OK)
			fail_msg("%s should do", fine[i]);
}

static void test_roles(void **state)
{
	assert_int_equal(call("/usr/sbin/orchestratord --x"), 7);
	assert_string_equal(seen.role, "/usr/sbin/orchestratord 2");
	assert_int_equal(call("corral engine-provisioner --x y"), 7);
	assert_string_equal(seen.role, "engine-provisioner 3");
}

static void test_models_are_checked(void **state)
{
	char dir[] = "/tmp/corral-cli-XXXXXX";
	assert_non_null(mkdtemp(dir));
	AUTO(mem_freep) char *model = path_join(dir, "bad.gguf");
	assert_int_equal(file_write_atomic(model, VIEW("not a model"), 0600, false), 0);
	AUTO(mem_freep)
	char *yaml = mem_fmt("models_dir: %s\npools:\n- {id: a, model: missing.gguf}\n"
			     "- {id: b, model: bad.gguf}\n- {id: c, engine: {url: \"http://127.0.0.1:1\"}}\n",
		dir);
	struct config_source src = { .path = "x.yaml", .text = view_str(yaml) };
	AUTO(config_errors_done) struct config_errors errs = { 0 };
	AUTO(config_unrefp) struct config *c = NULL;
	assert_int_equal(config_load(&src, &c, &errs), 0);
	assert_int_equal(models_check(c, &errs), -EINVAL);
	assert_int_equal(errs.len, 2);
	assert_true(errs.items[0].line == 3 && errs.items[0].column == 18);
	assert_non_null(strstr(errs.items[0].message, dir));
	assert_string_equal(errs.items[1].key, "pools.b.model");
	unlink(model);
	rmdir(dir);
}

static void test_nobody_answers(void **state)
{
	setenv("CORRAL_RUNTIME_DIR", "/nonexistent", 1);
	static const char *const all[] = { "corral ps", "corral pools", "corral pools a", "corral logs a",
		"corral stop a", "corral undrain a --json" };
	for (size_t i = 0; i < ARRAY_LEN(all); i++)
		assert_int_equal(call(all[i]), CLI_UNREACHABLE);
	assert_int_equal(call("corral run nosuchpool hi"), CLI_UNREACHABLE);
	unsetenv("CORRAL_RUNTIME_DIR");
}

static void test_every_command_has_examples(void **state)
{
	for (const struct command *c = cli_commands; c->name; c++) {
		AUTO(buf_done) struct buf b = BUF(64 * KIB);
		command_help(c, &b);
		AUTO(mem_freep) char *example = mem_fmt("  corral %s", c->name);
		assert_non_null(strstr(buf_str(&b), "Examples:\n"));
		if (strcmp(c->name, "run") != 0)
			assert_non_null(strstr(buf_str(&b), example));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sse),
		cmocka_unit_test(test_sse_bound),
		cmocka_unit_test(test_delta),
		cmocka_unit_test(test_ps),
		cmocka_unit_test(test_ps_orders),
		cmocka_unit_test(test_pools),
		cmocka_unit_test(test_models),
		cmocka_unit_test(test_catalog),
		cmocka_unit_test(test_pool_detail),
		cmocka_unit_test(test_api_errors),
		cmocka_unit_test(test_reload_plan),
		cmocka_unit_test(test_ids),
		cmocka_unit_test(test_config_for_file),
		cmocka_unit_test(test_arguments),
		cmocka_unit_test(test_roles),
		cmocka_unit_test(test_models_are_checked),
		cmocka_unit_test(test_nobody_answers),
		cmocka_unit_test(test_every_command_has_examples),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
