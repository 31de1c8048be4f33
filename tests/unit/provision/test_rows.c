/* SPDX-License-Identifier: Apache-2.0
 *
 * The engines of the table: their command lines, keys, arguments, metrics; their containers.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "provision/engine/engine_int.h"
#include "provision/engine/table.h"

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
		.model_path = "/m/folder",
		.socket_path = "/run/x/chat-0.1.sock",
		.port = 4711,
		.slots = 2,
		.key = "c0ffee",
		.files = "/run/x/chat-0.1",
		.cache_ram_mib = 512 };
}

struct row_case {
	enum engine_kind kind;
	const char *args, *env;
	unsigned gpus, share;
	uint32_t ctx;
};

/* The whole line of an engine of the table; NULL: refused, e says why. */
static char *row_line(const struct row_case *c, struct engine_launch *l, struct err *e)
{
	struct engine_def d = { .kind = c->kind };
	struct engine_build b = { .kind = c->kind, .program = mem_strdup("/opt/x") };
	struct engine_params p = params();
	p.ctx = c->ctx;
	p.gpus = c->gpus;
	p.share_permille = c->share;
	if (c->args)
		assert_int_equal(strv_shell_words(&d.args, view_str(c->args), NULL), 0);
	if (c->env)
		strv_add(&d.env, c->env);
	char *text = engine_launch_build(&b, &d, &p, l, e) == 0 ? joined(&l->argv) : NULL;
	engine_build_done(&b);
	engine_def_done(&d);
	return text;
}

static void expect_row(const struct row_case *c, const char *want)
{
	struct engine_launch l = { 0 };
	struct err e = { 0 };
	AUTO(mem_freep) char *got = row_line(c, &l, &e);
	if (!got)
		fail_msg("%s: %s", c->args ? c->args : "", e.msg);
	assert_string_equal(got, want);
	assert_null(strstr(got, "c0ffee")); /* the key is on no command line */
	engine_launch_done(&l);
}

static void refuse_row(const struct row_case *c, const char *why)
{
	struct engine_launch l = { 0 };
	struct err e = { 0 };
	AUTO(mem_freep) char *got = row_line(c, &l, &e);
	if (got)
		fail_msg("%s was taken: %s", c->args, got);
	if (!strstr(e.msg, why))
		fail_msg("%s: \"%s\" does not say \"%s\"", c->args ? c->args : c->env, e.msg, why);
}

static void starts_each_row_by_its_own_options(void **state)
{
	(void)state;
	expect_row(&(struct row_case){ .kind = ENGINE_VLLM, .ctx = 8192, .gpus = 2, .share = 850 },
		"/opt/x serve /m/folder --host 127.0.0.1 --port 4711 --served-model-name chat "
		"--max-model-len 8192 --max-num-seqs 2 --tensor-parallel-size 2 --gpu-memory-utilization "
		"0.850");
	expect_row(&(struct row_case){ .kind = ENGINE_VLLM },
		"/opt/x serve /m/folder --host 127.0.0.1 --port "
		"4711 --served-model-name chat --max-num-seqs 2");
	expect_row(&(struct row_case){ .kind = ENGINE_SGLANG, .ctx = 8192, .gpus = 4, .share = 500 },
		"/opt/x serve --model-path /m/folder --host 127.0.0.1 --port 4711 --served-model-name chat "
		"--context-length 8192 --max-running-requests 2 --tensor-parallel-size 4 "
		"--mem-fraction-static 0.450 --enable-metrics --config /run/x/chat-0.1.yaml");
	expect_row(&(struct row_case){ .kind = ENGINE_TGI, .ctx = 8192, .gpus = 2, .share = 2000 },
		"/opt/x --model-id /m/folder --hostname 127.0.0.1 --port 4711 --max-total-tokens 8192 "
		"--num-shard 2 --cuda-memory-fraction 1.000");
}

static void gives_each_row_its_key_where_nobody_sees_it(void **state)
{
	(void)state;
	static const struct {
		enum engine_kind kind;
		const char *env, *file;
	} cases[] = {
		{ ENGINE_VLLM, "VLLM_API_KEY=c0ffee", NULL },
		{ ENGINE_TGI, "API_KEY=c0ffee", NULL },
		{ ENGINE_SGLANG, NULL, "api-key: c0ffee\n" },
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct engine_launch l = { 0 };
		struct err e;
		AUTO(mem_freep) char *line = row_line(&(struct row_case){ .kind = cases[i].kind }, &l, &e);
		assert_non_null(line);
		assert_true(l.uses_key && l.uses_port && !l.uses_socket && !l.has_slots);
		assert_string_equal(l.address, "http://127.0.0.1:4711");
		assert_string_equal(l.health_path, "/health");
		assert_int_equal(strv_has(&l.env, cases[i].env ? cases[i].env : "-"), cases[i].env != NULL);
		assert_int_equal(l.nfiles, cases[i].file ? 1 : 0);
		if (cases[i].file) {
			assert_string_equal(l.files[0].path, "/run/x/chat-0.1.yaml");
			assert_string_equal(l.files[0].text, cases[i].file);
		}
		if (cases[i].kind == ENGINE_TGI)
			assert_null(l.serves);
		else
			assert_string_equal(l.serves, "chat");
		engine_launch_done(&l);
	}
}

static void puts_arguments_of_rows_in_order(void **state)
{
	(void)state;
#define VLLM "/opt/x serve /m/folder --host 127.0.0.1 --port 4711 --served-model-name chat --max-num-seqs 2"
	struct row_case c = { .kind = ENGINE_VLLM };
	c.args = "--dtype=half --max_num_batched_tokens 512 --dtype bfloat16 --new-thing {\\\"a\\\":1}";
	expect_row(&c, VLLM " --max-num-batched-tokens 512 --dtype bfloat16 --new-thing {\"a\":1}");
	c.args = "--enable-prefix-caching --no-enable-prefix-caching";
	expect_row(&c, VLLM " --no-enable-prefix-caching");
	c.args = "-tp 2 --gpu-memory-utilization 0.7 --max-model-len 100";
	expect_row(&c, VLLM " --tensor-parallel-size 2 --gpu-memory-utilization 0.7 --max-model-len 100");
	c.args = "--served-model-name chat --max-num-seqs 2";
	expect_row(&c, VLLM);
	struct row_case s = { .kind = ENGINE_SGLANG, .args = "--tp 2 --tp-size 4" };
	expect_row(&s, "/opt/x serve --model-path /m/folder --host 127.0.0.1 --port 4711 --served-model-name "
		       "chat --max-running-requests 2 --enable-metrics --config /run/x/chat-0.1.yaml "
		       "--tensor-parallel-size 4");
}

static void refuses_contradictions_of_rows(void **state)
{
	(void)state;
	static const struct {
		struct row_case c;
		const char *why;
	} cases[] = {
		{ { .kind = ENGINE_VLLM, .args = "--model x" }, "the pool's `model`" },
		{ { .kind = ENGINE_VLLM, .args = "--port=80" }, "corral listens" },
		{ { .kind = ENGINE_VLLM, .args = "--por 80" }, "corral listens" },
		{ { .kind = ENGINE_VLLM, .args = "--api-key x" }, "makes a key for each start" },
		{ { .kind = ENGINE_VLLM, .args = "--uds /x.sock" }, "corral listens" },
		{ { .kind = ENGINE_VLLM, .args = "--served-model-name other" }, "pool's id" },
		{ { .kind = ENGINE_VLLM, .args = "--max-num-seqs 9" }, "`slots`" },
		{ { .kind = ENGINE_VLLM, .args = "-tp 4", .gpus = 2 }, "`gpus`" },
		{ { .kind = ENGINE_VLLM, .args = "--gpu-memory-utilization 0.9", .share = 500 }, "`memory`" },
		{ { .kind = ENGINE_VLLM, .args = "--max-model-len 9", .ctx = 4096 }, "`ctx`" },
		{ { .kind = ENGINE_VLLM, .env = "VLLM_API_KEY=x" }, "VLLM_API_KEY" },
		{ { .kind = ENGINE_VLLM, .args = "stray" }, "where an option is expected" },
		{ { .kind = ENGINE_SGLANG, .args = "--model x" }, "the pool's `model`" },
		{ { .kind = ENGINE_SGLANG, .args = "--config x" }, "engine.args" },
		{ { .kind = ENGINE_SGLANG, .args = "--grpc-mode" }, "HTTP" },
		{ { .kind = ENGINE_SGLANG, .args = "--nnodes 2" }, "one machine" },
		{ { .kind = ENGINE_TGI, .args = "-p 80" }, "corral listens" },
		{ { .kind = ENGINE_TGI, .env = "API_KEY=x" }, "API_KEY" },
		{ { .kind = ENGINE_TRITON, .args = "--x" }, "neither {port}" },
		{ { .kind = ENGINE_OPENAI }, "engine.args names neither" },
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++)
		refuse_row(&cases[i].c, cases[i].why);
}

static void fills_templates_of_servers_it_does_not_know(void **state)
{
	(void)state;
	struct row_case c = { .kind = ENGINE_OPENAI, .args = "--listen 127.0.0.1:{port} -m {model}" };
	expect_row(&c, "/opt/x --listen 127.0.0.1:4711 -m /m/folder");
	struct engine_def d = { .kind = ENGINE_TRITON };
	strv_add(&d.args, "--openai-port={port}");
	bool port, socket;
	engine_needs(&d, NULL, &port, &socket);
	assert_true(port && !socket);
	engine_def_done(&d);
}

static void has_a_row_for_every_kind(void **state)
{
	(void)state;
	for (enum engine_kind k = ENGINE_LLAMACPP; k <= ENGINE_TRITON; k++) {
		const struct engine_row *row = engine_row(k);
		assert_int_equal(row == NULL, k == ENGINE_COMMAND);
		assert_true(!row || (row->kind == k && row->health && row->health[0] == '/'));
		assert_true(!row || !row->options || row->program);
		assert_true(!engine_row_starts(row) || (row->host && row->port && row->untried));
	}
}

static void reads_how_busy_an_engine_is(void **state)
{
	(void)state;
	static const struct {
		enum engine_kind kind;
		const char *text;
		int64_t running, waiting;
		int used;
	} cases[] = {
		{ ENGINE_VLLM,
			"# HELP vllm:num_requests_running Number of requests.\n"
			"vllm:num_requests_running{engine=\"0\",model_name=\"a}b\"} 3.0\n"
			"vllm:num_requests_running{engine=\"1\",model_name=\"a}b\"} 1.0\n"
			"vllm:num_requests_running_total 99\n"
			"vllm:num_requests_waiting{engine=\"0\"} 2.0\nvllm:kv_cache_usage_perc{} 0.25\n"
			"vllm:kv_cache_usage_perc{engine=\"1\"} 0.75\n",
			4, 2, 750 },
		{ ENGINE_VLLM, "vllm:gpu_cache_usage_perc{m=\"x\"} 1e-1\n", -1, -1, 100 },
		{ ENGINE_SGLANG,
			"sglang:num_running_reqs{} 1\nsglang:num_queue_reqs{} 0\nsglang:token_usage 0.28", 1,
			0, 280 },
		{ ENGINE_TGI, "tgi_batch_current_size 2\ntgi_queue_size 5\n", 2, 5, -1 },
		{ ENGINE_LLAMACPP, "llamacpp:requests_processing 1\nllamacpp:requests_deferred 7\n", 1, 7,
			-1 },
		{ ENGINE_TRITON, "nv_inference_pending_request_count{model=\"a\"} 1 1395066363000\n", -1, 1,
			-1 },
		{ ENGINE_VLLM, "vllm:num_requests_running{} NaN\nvllm:num_requests_waiting{} -3\n", -1, -1,
			-1 },
		{ ENGINE_OPENAI, "anything 1\n", -1, -1, -1 },
		{ ENGINE_VLLM, "", -1, -1, -1 },
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct engine_load l;
		bool known = engine_load_read(engine_row(cases[i].kind), view_str(cases[i].text), &l);
		assert_int_equal(l.running, cases[i].running);
		assert_int_equal(l.waiting, cases[i].waiting);
		assert_int_equal(l.used_permille, cases[i].used);
		assert_int_equal(known, l.running >= 0 || l.waiting >= 0 || l.used_permille >= 0);
	}
	AUTO(mem_freep) char *v = engine_version_read(VIEW("{\"version\": \"0.11.0\"}"));
	assert_string_equal(v, "0.11.0");
	assert_null(engine_version_read(VIEW("{\"version\": 3}")));
	assert_null(engine_version_read(VIEW("<html>")));
}

/* ---- containers ------------------------------------------------------------------------------------------
 */

#define DIGEST "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static int box(enum engine_kind kind, bool docker, struct engine_params *p, const char *args, const char *env,
	struct engine_launch *l, struct err *e)
{
	struct engine_def d = { .kind = kind, .mode = ENGINE_MODE_CONTAINER };
	struct engine_build b = { .kind = kind,
		.mode = ENGINE_MODE_CONTAINER,
		.program = mem_strdup("/usr/bin/podman"),
		.docker = docker,
		.image = mem_strdup("reg.example/x@" DIGEST) };
	assert_int_equal(strv_shell_words(&d.args, view_str(args), NULL), 0);
	if (env)
		strv_add(&d.env, env);
	int r = engine_launch_build(&b, &d, p, l, e);
	engine_build_done(&b);
	engine_def_done(&d);
	return r;
}

/* The client's words, after the shell's script. */
static char *box_line(const struct engine_launch *l)
{
	struct strv tail = { .items = l->argv.items + 4, .len = l->argv.len - 4 };
	assert_string_equal(l->argv.items[0], "/bin/sh");
	assert_string_equal(l->argv.items[1], "-c");
	return joined(&tail);
}

static void runs_llama_server_in_a_container(void **state)
{
	(void)state;
	struct engine_params p = params();
	struct engine_launch l;
	struct err e = { 0 };
	p.model_path = "/m/a.gguf";
	p.ctx = 4096;
	p.gpu_kind = "cuda";
	p.devices = "GPU-1,GPU-2";
	if (box(ENGINE_LLAMACPP, false, &p, "-t 1", "MY_TOKEN=hush", &l, &e))
		fail_msg("%s", e.msg);
	AUTO(mem_freep) char *label = container_label("/run/x");
	AUTO(mem_freep) char *hash = mem_strdup(strchr(label, '=') + 1);
	AUTO(mem_freep)
	char *want = mem_fmt(
		"/usr/bin/podman %s corral.replica=chat-0 run --rm --pull=never --log-driver=none --name "
		"corral-%s-chat-0-1 --label=%s --label=corral.replica=chat-0 --publish=127.0.0.1:4711:4711 "
		"--security-opt=label=disable --device nvidia.com/gpu=GPU-1 --device nvidia.com/gpu=GPU-2 "
		"--mount type=bind,source=/m,target=/m,readonly --env-file /run/x/chat-0.1.env "
		"reg.example/x@" DIGEST " --model /m/a.gguf --host 0.0.0.0 --port 4711 --alias chat --slots "
		"--metrics --cache-ram 512 "
		"--ctx-size 8192 --parallel 2 --cors-origins localhost --no-cors-credentials --threads 1",
		label, hash, label);
	AUTO(mem_freep) char *got = box_line(&l);
	assert_string_equal(got, want);
	assert_string_equal(l.address, "http://127.0.0.1:4711");
	assert_true(l.uses_port && !l.uses_socket && l.uses_key && l.has_slots);
	assert_int_equal(l.nfiles, 1);
	assert_string_equal(l.files[0].path, "/run/x/chat-0.1.env");
	assert_non_null(strstr(l.files[0].text, "MY_TOKEN=hush\n"));
	assert_non_null(strstr(l.files[0].text, "LLAMA_API_KEY=c0ffee\n"));
	assert_null(strstr(l.files[0].text, "PATH="));
	assert_false(strv_has(&l.env, "MY_TOKEN=hush"));
	AUTO(mem_freep) char *stop = joined(&l.stop_argv);
	AUTO(mem_freep) char *want_stop = mem_fmt("/usr/bin/podman stop -t 4 corral-%s-chat-0-1", hash);
	assert_string_equal(stop, want_stop);
	engine_launch_done(&l);
}

static void gives_containers_their_devices(void **state)
{
	(void)state;
	static const struct {
		const char *kind, *devices;
		bool docker;
		const char *has, *has_not;
	} cases[] = {
		{ "cuda", "GPU-1,GPU-2", true, "--gpus \"device=GPU-1,GPU-2\"", "nvidia.com" },
		{ "cuda", "auto", true, "--gpus all", "device=" },
		{ "cuda", "auto", false, "--device=nvidia.com/gpu=all", "--gpus" },
		{ "amd", "0", false, "--device=/dev/kfd --device=/dev/dri --group-add=keep-groups",
			"nvidia" },
		{ "intel", "0", true, "--device=/dev/dri", "/dev/kfd" },
		{ NULL, "cpu", false, "--shm-size=8g", "/dev/dri" },
		{ NULL, "cpu", true, "--shm-size=8g", "label=disable" },
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct engine_params p = params();
		struct engine_launch l;
		struct err e = { 0 };
		p.gpu_kind = cases[i].kind;
		p.devices = cases[i].devices;
		assert_int_equal(box(ENGINE_VLLM, cases[i].docker, &p, "", NULL, &l, &e), 0);
		AUTO(mem_freep) char *line = box_line(&l);
		if (!strstr(line, cases[i].has) || strstr(line, cases[i].has_not))
			fail_msg("%s: not %s, or %s", line, cases[i].has, cases[i].has_not);
		engine_launch_done(&l);
	}
}

static void starts_rows_in_containers_as_their_images_want(void **state)
{
	(void)state;
	static const struct {
		enum engine_kind kind;
		const char *inside;
	} cases[] = {
		{ ENGINE_VLLM,
			"@" DIGEST " --model /m/folder --host 0.0.0.0 --port 4711 --served-model-name chat" },
		{ ENGINE_SGLANG,
			"@" DIGEST " python3 -m sglang.launch_server --model-path /m/folder --host 0.0.0.0" },
		{ ENGINE_SGLANG,
			" --mount "
			"type=bind,source=/run/x/chat-0.1.yaml,target=/run/x/chat-0.1.yaml,readonly" },
		{ ENGINE_TGI, "@" DIGEST " --model-id /m/folder --hostname 0.0.0.0 --port 4711" },
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct engine_params p = params();
		struct engine_launch l;
		struct err e = { 0 };
		assert_int_equal(box(cases[i].kind, true, &p, "", NULL, &l, &e), 0);
		AUTO(mem_freep) char *line = box_line(&l);
		if (!strstr(line, cases[i].inside))
			fail_msg("%s: not %s", line, cases[i].inside);
		assert_null(strstr(line, "c0ffee"));
		engine_launch_done(&l);
	}
}

static void mounts_what_a_model_points_to(void **state)
{
	(void)state;
	char dir[] = "/tmp/test-box-XXXXXX";
	assert_non_null(mkdtemp(dir));
	AUTO(mem_freep) char *blobs = path_join(dir, "hub/blobs");
	AUTO(mem_freep) char *snap = path_join(dir, "hub/snapshots/abc");
	AUTO(mem_freep) char *links = path_join(dir, "links");
	assert_int_equal(dir_make(blobs, 0755) | dir_make(snap, 0755) | dir_make(links, 0755), 0);
	AUTO(mem_freep) char *blob = path_join(blobs, "1");
	AUTO(mem_freep) char *link = path_join(links, "a.gguf");
	assert_int_equal(file_write_atomic(blob, VIEW("x"), 0644, false), 0);
	assert_int_equal(symlink(blob, link), 0);
	struct engine_params p = params();
	struct engine_launch l;
	struct err e = { 0 };

	p.model_path = link; /* the folder of the link and that of the file */
	p.ctx = 4096;
	assert_int_equal(box(ENGINE_LLAMACPP, false, &p, "", NULL, &l, &e), 0);
	AUTO(mem_freep) char *line = box_line(&l);
	AUTO(mem_freep) char *one = mem_fmt("type=bind,source=%s,target=%s,readonly", links, links);
	AUTO(mem_freep) char *two = mem_fmt("type=bind,source=%s,target=%s,readonly", blobs, blobs);
	assert_true(strstr(line, one) && strstr(line, two));
	engine_launch_done(&l);

	p.model_path = snap; /* the whole repository */
	assert_int_equal(box(ENGINE_VLLM, false, &p, "", NULL, &l, &e), 0);
	AUTO(mem_freep) char *hub_line = box_line(&l);
	AUTO(mem_freep) char *hub = mem_fmt("type=bind,source=%s/hub,target=%s/hub,readonly", dir, dir);
	assert_non_null(strstr(hub_line, hub));
	engine_launch_done(&l);

	p.model_path = "/m,b/a";
	assert_true(box(ENGINE_VLLM, false, &p, "", NULL, &l, &e) < 0);
	assert_non_null(strstr(e.msg, "comma"));
	p.model_path = snap;
	assert_true(box(ENGINE_VLLM, false, &p, "", "X=a\nY=b", &l, &e) < 0);
	assert_non_null(strstr(e.msg, "line break"));
	tree_remove(dir);
}

static void pins_images_to_digests(void **state)
{
	(void)state;
	static const struct {
		const char *image, *digests, *want;
	} cases[] = {
		{ "reg.example/x:1", "[\"reg.example/x@" DIGEST "\"]", "reg.example/x@" DIGEST },
		{ "reg.example:5000/x", "[\"other/y@" DIGEST "\",\"reg.example:5000/x@" DIGEST "\"]",
			"reg.example:5000/x@" DIGEST },
		{ "docker.io/vllm/vllm-openai:latest", "[\"vllm/vllm-openai@" DIGEST "\"]",
			"docker.io/vllm/vllm-openai@" DIGEST },
		{ "vllm/vllm-openai", "[\"docker.io/vllm/vllm-openai@" DIGEST "\"]",
			"vllm/vllm-openai@" DIGEST },
		{ "a/b:1", "[]", NULL },
		{ "a/b:1", "null", NULL },
		{ "a/b:1", "[\"a/b@sha256:12\"]", NULL },
		{ "a/b:1", "not JSON", NULL },
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		AUTO(mem_freep) char *got = container_pin(cases[i].image, view_str(cases[i].digests));
		if (!str_same(got, cases[i].want))
			fail_msg("%s of %s: %s", cases[i].image, cases[i].digests, got ? got : "none");
	}
	static const char *const good[] = { "a", "reg.example:5000/a/b:tag", ("a/b@" DIGEST) };
	static const char *const bad[] = { "", "--privileged", "a b", "a@sha256:12", "a@md5:1", "a;b", "a,b",
		"a\n" };
	for (size_t i = 0; i < ARRAY_LEN(good); i++)
		assert_null(container_image_problem(good[i]));
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_non_null(container_image_problem(bad[i]));
}

static void make_program(const char *dir, const char *name, mode_t mode)
{
	AUTO(mem_freep) char *path = path_join(dir, name);
	AUTO(mem_freep) char *folder = mem_viewdup(view_of(path, (size_t)(strrchr(path, '/') - path)));
	assert_int_equal(dir_make(folder, 0755), 0);
	assert_int_equal(file_write_atomic(path, VIEW("x"), mode, false), 0);
	assert_int_equal(chmod(path, mode), 0);
}

static void finds_the_program_in_an_archive(void **state)
{
	(void)state;
	char dir[] = "/tmp/test-arc-XXXXXX";
	assert_non_null(mkdtemp(dir));
	make_program(dir, "build/bin/llama-server", 0755);
	make_program(dir, "build/bin/deep/er/llama-server", 0755);
	make_program(dir, "aaa/bin/llama-server", 0644); /* no program */
	make_program(dir, "named/x", 0755);
	AUTO(mem_freep) char *out = path_join(dir, "out");
	assert_int_equal(symlink("/bin/sh", out), 0);
	static const struct {
		const char *name, *want;
	} cases[] = { { "llama-server", "build/bin/llama-server" }, { "named/x", "named/x" },
		{ "x", "named/x" }, { "named/y", NULL }, { "nothing", NULL }, { "out", NULL },
		{ "../../bin/sh", NULL } };
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		AUTO(mem_freep) char *got = archive_find(dir, cases[i].name);
		AUTO(mem_freep) char *want = cases[i].want ? path_join(dir, cases[i].want) : NULL;
		if (!str_same(got, want))
			fail_msg("%s: %s", cases[i].name, got ? got : "none");
	}
	tree_remove(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(starts_each_row_by_its_own_options),
		cmocka_unit_test(gives_each_row_its_key_where_nobody_sees_it),
		cmocka_unit_test(puts_arguments_of_rows_in_order),
		cmocka_unit_test(refuses_contradictions_of_rows),
		cmocka_unit_test(fills_templates_of_servers_it_does_not_know),
		cmocka_unit_test(has_a_row_for_every_kind),
		cmocka_unit_test(reads_how_busy_an_engine_is),
		cmocka_unit_test(runs_llama_server_in_a_container),
		cmocka_unit_test(gives_containers_their_devices),
		cmocka_unit_test(starts_rows_in_containers_as_their_images_want),
		cmocka_unit_test(mounts_what_a_model_points_to),
		cmocka_unit_test(pins_images_to_digests),
		cmocka_unit_test(finds_the_program_in_an_archive),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
