/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>
#include <sqlite3.h>

#include "base/fd.h"
#include "base/mem.h"
#include "gguf/learned.h"

/* ---- what the engine says --------------------------------------------------------------------------- */

static const char cpu_log[] =
	"0.00.000.001 I srv    load_model: loading model '/m.gguf'\n"
	"0.00.128.826 I llama_model_loader: - kv   2:  general.name str = load_tensors: CPU model buffer "
	"size = 9.00 MiB\n"
	"0.00.129.537 I load_tensors:   CPU_Mapped model buffer size =     0.65 MiB\n"
	"0.00.129.540 I load_tensors:   CPU_REPACK model buffer size =     2.00 MiB\n"
	"0.00.129.771 I llama_context: constructing llama_context\n"
	"0.00.129.786 I llama_context:        CPU  output buffer size =     0.25 MiB\n"
	"0.00.129.887 I llama_kv_cache:        CPU KV buffer size =     1.50 MiB\n"
	"0.00.129.888 I llama_kv_cache:        CPU KV buffer size =     0.50 MiB\n"
	"0.00.130.560 I llama_kv_cache: size =    1.50 MiB (  1024 cells,   3 layers)\n"
	"0.00.130.561 I llama_memory_recurrent:        CPU RS buffer size =     0.11 MiB\n"
	"0.00.137.924 I sched_reserve:        CPU compute buffer size =     9.00 MiB\n"
	"0.00.138.924 I sched_reserve:        CPU compute buffer size =     2.39 MiB\n"
	"0.00.148.827 I srv          init: init: chat template, example_format: '<|im_start|>system\n"
	"load_tensors:   CPU_Mapped model buffer size =     99.00 MiB\n";

static bool read_log(const char *text, size_t piece, struct learned *ret)
{
	struct learned_log l;
	struct view v = view_str(text);
	learned_log_init(&l);
	for (; v.n; v = view_from(v, piece))
		learned_log_feed(&l, view_cut(v, piece));
	return learned_log_end(&l, ret);
}

#define CENTI(x) ((uint64_t)(x)*MIB / 100)

static void test_a_log_of_the_cpu(void **state)
{
	(void)state;
	for (size_t piece = 1; piece < sizeof cpu_log; piece += 7) {
		struct learned l;
		assert_true(read_log(cpu_log, piece, &l));
		assert_true(l.told);
		assert_int_equal(l.n_devices, 0);
		assert_int_equal(l.host.weights, CENTI(65) + 2 * MIB);
		assert_int_equal(l.host.mapped, CENTI(65));
		assert_int_equal(l.host.kv, CENTI(150) + CENTI(50));
		assert_int_equal(l.host.recurrent, CENTI(11));
		assert_int_equal(l.host.output, CENTI(25));
		assert_int_equal(l.host.compute, CENTI(239));
		assert_int_equal(learned_sum(&l.host),
			CENTI(65) + 2 * MIB + CENTI(150) + CENTI(50) + CENTI(11) + CENTI(25) + CENTI(239));
	}
}

/* Two devices, a draft model with a context of its own, and an adapter. */
static void test_a_log_of_devices(void **state)
{
	(void)state;
	static const char log[] = "load_tensors:      CUDA1 model buffer size =   100.00 MiB\n"
				  "load_tensors:      CUDA0 model buffer size =   200.00 MiB\n"
				  "load_tensors:   CPU_Mapped model buffer size =    50.00 MiB\n"
				  "llama_context: constructing llama_context\n"
				  "llama_context:  CUDA_Host  output buffer size =     0.50 MiB\n"
				  "llama_kv_cache:      CUDA0 KV buffer size =    10.00 MiB\n"
				  "llama_kv_cache:      CUDA1 KV buffer size =    11.00 MiB\n"
				  "sched_reserve:      CUDA0 compute buffer size =    20.00 MiB\n"
				  "sched_reserve:      CUDA1 compute buffer size =    21.00 MiB\n"
				  "sched_reserve:  CUDA_Host compute buffer size =     3.00 MiB\n"
				  "load_tensors:      CUDA0 model buffer size =     5.00 MiB\n"
				  "llama_context: constructing llama_context\n"
				  "sched_reserve:      CUDA0 compute buffer size =     2.00 MiB\n"
				  "llama_adapter_lora_init_impl:      CUDA0 LoRA buffer size =     1.00 MiB\n"
				  "main: model loaded\n";
	struct learned l;
	assert_true(read_log(log, 1000, &l));
	assert_int_equal(l.n_devices, 2);
	assert_int_equal(l.device[0].weights, 206 * MIB);
	assert_int_equal(l.device[0].compute, 22 * MIB);
	assert_int_equal(l.device[0].kv, 10 * MIB);
	assert_int_equal(l.device[1].weights, 100 * MIB);
	assert_int_equal(l.device[1].compute, 21 * MIB);
	assert_int_equal(l.host.weights, 50 * MIB);
	assert_int_equal(l.host.compute, 3 * MIB);
	assert_int_equal(l.host.output, CENTI(50));
}

#define WHOLE                                                                                                \
	"load_tensors: CPU model buffer size = 1.00 MiB\nllama_context: constructing llama_context\n"        \
	"sched_reserve: CPU compute buffer size = 1.00 MiB\n"

static void test_a_log_that_tells_not_all(void **state)
{
	(void)state;
	static const char *const none[] = {
		"",
		"\n\n\n",
		WHOLE, /* it did not load to its end */
		"main: model loaded\n",
		"load_tensors: CPU model buffer size = 1.00 MiB\nmain: model loaded\n",
		"load_tensors: CPU model buffer size = 1.00 MiB\nllama_context: constructing llama_context\n"
		"main: model loaded\n",
		WHOLE "llama_context: constructing llama_context\nmain: model loaded\n",
		WHOLE "load_tensors: CUDA0 model buffer size = 1.00 MiB\n"
		      "load_tensors: Vulkan0 model buffer size = 1.00 MiB\nmain: model loaded\n",
		WHOLE "load_tensors: CUDA model buffer size = 1.00 MiB\nmain: model loaded\n",
		WHOLE "load_tensors: CUDA16 model buffer size = 1.00 MiB\nmain: model loaded\n",
		WHOLE
		"load_tensors: CUDA99999999999999999999 model buffer size = 1.00 MiB\nmain: model loaded\n",
		WHOLE
		"load_tensors: AVeryLongNameOfSomeDevice0 model buffer size = 1.00 MiB\nmain: model loaded\n",
		WHOLE "load_tensors: CPU other buffer size = 1.00 MiB\nmain: model loaded\n",
		WHOLE "load_tensors: CPU model buffer size = -1.00 MiB\nmain: model loaded\n",
		WHOLE "load_tensors: CPU model buffer size = nan MiB\nmain: model loaded\n",
		WHOLE "load_tensors: CPU model buffer size = 1.0 MiB\nmain: model loaded\n",
		WHOLE "load_tensors: CPU model buffer size = 99999999999999999.00 MiB\nmain: model loaded\n",
		WHOLE "load_tensors: CPU model buffer size = 1.00.00 MiB\nmain: model loaded\n",
	};
	for (size_t i = 0; i < ARRAY_LEN(none); i++) {
		struct learned l;
		assert_false(read_log(none[i], 1000, &l));
	}
	struct learned l;
	assert_true(read_log(WHOLE " buffer size = \n: buffer size = 1.00 MiB\nmain: model loaded\n", 9, &l));
}

static void test_a_line_without_end(void **state)
{
	(void)state;
	struct learned_log l;
	struct learned got;
	learned_log_init(&l);
	for (int i = 0; i < 100; i++)
		learned_log_feed(&l,
			VIEW("load_tensors: CPU model buffer size = 1.00 MiB and so on, without an end "));
	learned_log_feed(&l, VIEW("\n" WHOLE "main: model loaded\n"));
	assert_true(learned_log_end(&l, &got));
	assert_int_equal(got.host.weights, MIB);
}

/* ---- keys
 * --------------------------------------------------------------------------------------------------- */

static struct gguf *header(const char *arch, uint64_t size)
{
	AUTO(buf_done) struct buf b = BUF(4 * KIB);
	struct gguf *g = NULL;
	const uint64_t counts[] = { 0, 1, strlen("general.architecture") };
	const uint32_t version = 3, type = GGUF_STRING;
	const uint64_t n = strlen(arch);
	assert_int_equal(buf_adds(&b, "GGUF"), 0);
	assert_int_equal(buf_add(&b, &version, 4) | buf_add(&b, counts, sizeof counts), 0);
	assert_int_equal(buf_adds(&b, "general.architecture") | buf_add(&b, &type, 4), 0);
	assert_int_equal(buf_add(&b, &n, 8) | buf_add(&b, arch, n), 0);
	while (b.len < 128)
		assert_int_equal(buf_addc(&b, '\0'), 0);
	assert_int_equal(gguf_parse("x", buf_view(&b), size, &g, NULL), 0);
	return g;
}

/* words: NULL-terminated. */
static struct learned_key key_of(
	const struct gguf *g, uint32_t devices, const char *const *words, const char *env)
{
	struct estimate_args a;
	struct learned_key k;
	struct estimate e = { .ctx = 4096, .slots = 2, .n_layers = 4 };
	const struct gguf *parts[] = { g };
	struct estimate_files f = { .parts = parts, .n_parts = 1 };
	AUTO(strv_done) struct strv w = { 0 }, v = { 0 };
	for (; *words; words++)
		strv_add(&w, *words);
	if (env)
		strv_add(&v, env);
	estimate_args_init(&a);
	a.n_devices = devices;
	assert_int_equal(estimate_args_read(&a, (const char *const *)w.items, w.len, NULL), 0);
	learned_key_make(&f, &a, &e, &w, &v, &k);
	estimate_args_done(&a);
	return k;
}
#define WORDS(...) ((const char *const[]){ __VA_ARGS__ __VA_OPT__(, ) NULL })

static bool same(struct learned_key a, struct learned_key b)
{
	return strcmp(a.model, b.model) == 0 && strcmp(a.args, b.args) == 0 && strcmp(a.place, b.place) == 0;
}

static void test_keys(void **state)
{
	(void)state;
	AUTO(gguf_freep)
	struct gguf *g = header("llama", 1000), *other = header("mamba", 1000),
		    *longer = header("llama", 1001), *again = header("llama", 1000);
	struct learned_key k = key_of(g, 0, WORDS(), NULL);
	assert_string_equal(k.place, "cpu");
	assert_int_equal(strlen(k.model), 32);
	assert_true(same(k, key_of(again, 0, WORDS(), NULL)));
	assert_false(same(k, key_of(other, 0, WORDS(), NULL)));
	assert_false(same(k, key_of(longer, 0, WORDS(), NULL)));
	assert_false(same(k, key_of(g, 1, WORDS(), NULL)));
	/* defaults that are spelt out, spellings, and what changes nothing */
	assert_true(same(k, key_of(g, 0, WORDS("-ctk", "f16", "--ubatch-size=512", "-fa", "auto"), NULL)));
	assert_true(same(k, key_of(g, 0, WORDS("-t", "3", "--seed", "1", "--alias=x", "--metrics"), NULL)));
	assert_true(same(k, key_of(g, 0, WORDS("-lv", "4", "-v"), "LLAMA_ARG_LOG_VERBOSITY=4")));
	assert_true(same(k, key_of(g, 0, WORDS(), "HOME=/x")));
	/* what does, or may */
	const char *const *const differ[] = { WORDS("-ctk", "q8_0"), WORDS("-ub", "256"), WORDS("-fa", "off"),
		WORDS("--swa-full"), WORDS("-kvu"), WORDS("--no-mmap"), WORDS("-nkvo"), WORDS("-ot", "a=CPU"),
		WORDS("--no-repack"), WORDS("--something", "new"), WORDS("--something", "newer"),
		WORDS("--pooling", "mean"), WORDS("--embeddings") };
	for (size_t i = 0; i < ARRAY_LEN(differ); i++) {
		assert_false(same(k, key_of(g, 0, differ[i], NULL)));
		for (size_t j = 0; j < i; j++)
			assert_false(same(key_of(g, 0, differ[j], NULL), key_of(g, 0, differ[i], NULL)));
	}
	assert_false(same(k, key_of(g, 0, WORDS(), "LLAMA_ARG_CACHE_TYPE_K=q8_0")));
	assert_false(same(k, key_of(g, 0, WORDS(), "GGML_CUDA_ENABLE_UNIFIED_MEMORY=1")));
}

static void test_places(void **state)
{
	(void)state;
	AUTO(gguf_freep) struct gguf *g = header("llama", 1000);
	struct learned_key k = key_of(g, 1, WORDS(), NULL);
	assert_string_equal(k.place, "devices=1 layers=all");
	assert_true(same(k, key_of(g, 1, WORDS("-ngl", "99"), NULL)));
	assert_true(same(k, key_of(g, 1, WORDS("-ngl", "5"), NULL)));
	assert_string_equal(key_of(g, 1, WORDS("-ngl", "4"), NULL).place, "devices=1 layers=4");
	assert_string_equal(key_of(g, 1, WORDS("-ngl", "0"), NULL).place, "cpu");
	assert_string_equal(
		key_of(g, 1, WORDS("--cpu-moe"), NULL).place, "devices=1 layers=all cpu_experts=all");
	assert_string_equal(key_of(g, 2, WORDS("-ts", "3,1"), NULL).place, "devices=2 layers=all split=3,1");
}

/* ---- the ledger
 * ------------------------------------------------------------------------------------------------ */

struct folder {
	char dir[32], path[64];
};

static int set_up(void **state)
{
	struct folder *f = NEW(struct folder);
	snprintf(f->dir, sizeof f->dir, "/tmp/learned-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->path, sizeof f->path, "%s/" LEARNED_NAME, f->dir);
	*state = f;
	return 0;
}

static int tear_down(void **state)
{
	struct folder *f = *state;
	static const char *const names[] = { "", ".corrupt-1", ".corrupt-2" };
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		AUTO(mem_freep) char *p = mem_fmt("%s%s", f->path, names[i]);
		unlink(p);
	}
	assert_int_equal(rmdir(f->dir), 0);
	free(f);
	return 0;
}

static struct learned_key a_key(const char *model, const char *kind, const char *build)
{
	struct learned_key k = { 0 };
	snprintf(k.model, sizeof k.model, "%s", model);
	snprintf(k.args, sizeof k.args, "ctx=1");
	snprintf(k.place, sizeof k.place, "devices=2 layers=all");
	snprintf(k.kind, sizeof k.kind, "%s", kind);
	snprintf(k.build, sizeof k.build, "%s", build);
	return k;
}

static void put(struct folder *f, struct learned_key k, uint64_t weights, int64_t at)
{
	char *aside;
	struct err e = { 0 };
	struct learned l = { .told = true,
		.n_devices = 2,
		.host = { 6, 5, 4, 3, 2, 1 },
		.device[0] = { .weights = weights, .compute = 7 },
		.measured[1] = 1ull << 40,
		.learned_ms = at };
	assert_int_equal(learned_put(f->path, &k, &l, &aside, &e), 0);
	assert_null(aside);
}

static uint64_t found(struct folder *f, struct learned_key k)
{
	struct learned l;
	int r = learned_find(f->path, &k, &l, NULL);
	assert_true(r == 0 || r == -ENOENT);
	return r ? 0 : l.device[0].weights;
}

static void test_the_ledger(void **state)
{
	struct folder *f = *state;
	struct learned l;
	struct err e;
	struct stat st;
	struct learned_key any = a_key("m", "", ""), k = a_key("m", "cuda", "b1");
	assert_int_equal(learned_find(f->path, &k, &l, &e), -ENOENT);
	assert_false(file_exists(f->path));
	put(f, k, 10, 1000);
	assert_int_equal(stat(f->path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_int_equal(learned_find(f->path, &k, &l, &e), 0);
	assert_true(l.told);
	assert_int_equal(l.n_devices, 2);
	assert_int_equal(l.host.weights, 6);
	assert_int_equal(l.host.mapped, 5);
	assert_int_equal(l.host.output, 1);
	assert_int_equal(l.measured[1], 1ull << 40);
	assert_int_equal(l.learned_ms, 1000);
	assert_string_equal(l.build, "b1");
	assert_int_equal(found(f, a_key("m", "cuda", "b2")), 0);
	assert_int_equal(found(f, a_key("m", "amd", "b1")), 0);
	assert_int_equal(found(f, a_key("n", "", "")), 0);
	put(f, a_key("m", "amd", "b2"), 20, 2000);
	assert_int_equal(found(f, any), 20);
	assert_int_equal(found(f, a_key("m", "cuda", "")), 10);
	learned_used(f->path, &k, 3000);
	assert_int_equal(found(f, any), 10);
	put(f, k, 11, 4000);
	assert_int_equal(found(f, k), 11);
}

static void test_the_longest_unused_goes(void **state)
{
	struct folder *f = *state;
	char name[16];
	put(f, a_key("old", "cuda", "b"), 1, 1);
	put(f, a_key("used", "cuda", "b"), 2, 2);
	struct learned_key used = a_key("used", "cuda", "b");
	learned_used(f->path, &used, 1000000);
	for (int i = 0; i < LEARNED_ROWS_MAX; i++) {
		snprintf(name, sizeof name, "%d", i);
		put(f, a_key(name, "cuda", "b"), 3, 10 + i);
	}
	assert_int_equal(found(f, a_key("old", "", "")), 0);
	assert_int_equal(found(f, a_key("0", "", "")), 0);
	assert_int_equal(found(f, a_key("1", "", "")), 3);
	assert_int_equal(found(f, a_key("used", "", "")), 2);
}

static void write_file(struct folder *f, const char *text)
{
	assert_int_equal(file_write_atomic(f->path, view_str(text), 0600, false), 0);
}

static void test_a_damaged_file_is_set_aside(void **state)
{
	struct folder *f = *state;
	struct learned_key k = a_key("m", "cuda", "b");
	struct learned l = { .told = true };
	struct err e = { 0 };
	char *aside;
	AUTO(mem_freep) char *where = mem_fmt("%s.corrupt-1", f->path);
	write_file(f, "this is no database, and long enough to be taken for the head of one: ................"
		      "........................................................................");
	assert_int_equal(learned_find(f->path, &k, &l, &e), -EBADMSG);
	assert_true(file_exists(f->path));
	assert_int_equal(learned_put(f->path, &k, &l, &aside, &e), 0);
	assert_string_equal(aside, where);
	assert_true(file_exists(aside));
	assert_int_equal(learned_find(f->path, &k, &l, &e), 0);
	free(aside);
	/* cut in the middle: a page of it is gone */
	assert_int_equal(truncate(f->path, 5000), 0);
	int r = learned_put(f->path, &k, &l, &aside, &e);
	assert_int_equal(r, 0);
	free(aside);
	assert_int_equal(learned_find(f->path, &k, &l, &e), 0);
}

static void exec_sql(struct folder *f, const char *sql)
{
	sqlite3 *db;
	assert_int_equal(sqlite3_open(f->path, &db), SQLITE_OK);
	assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
	sqlite3_close(db);
}

static void test_a_file_of_somebody_else(void **state)
{
	struct folder *f = *state;
	struct learned_key k = a_key("m", "cuda", "b");
	struct learned l = { .told = true };
	struct err e = { 0 };
	char *aside;
	exec_sql(f, "CREATE TABLE notes (x)");
	assert_int_equal(learned_find(f->path, &k, &l, &e), -EBADMSG);
	assert_int_equal(learned_put(f->path, &k, &l, &aside, &e), 0);
	assert_non_null(aside);
	free(aside);
	exec_sql(f, "PRAGMA user_version = 2");
	assert_int_equal(learned_find(f->path, &k, &l, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "newer version"));
	assert_int_equal(learned_put(f->path, &k, &l, &aside, &e), -EINVAL);
	assert_null(aside);
}

static void test_rows_nobody_wrote(void **state)
{
	struct folder *f = *state;
	static const char *const values[] = { "", "host", "host=", "host=1/2/3", "host=1/0/0/0/0/0 ",
		"host=1/2/0/0/0/0", "host=1/0/0/0/0/0/0", "host=-1/0/0/0/0/0",
		"host=99999999999999999999/0/0/0/0/0", "host=1/0/0/0/0/0 1=1/0/0/0/0/0/0",
		"host=1/0/0/0/0/0 0=1/0/0/0/0/0", "measured", "measured host", "guest=1/0/0/0/0/0" };
	struct learned_key k = a_key("m", "cuda", "b");
	struct learned l;
	put(f, k, 10, 1);
	for (size_t i = 0; i < ARRAY_LEN(values); i++) {
		AUTO(mem_freep) char *sql = mem_fmt("UPDATE learned SET value = '%s'", values[i]);
		exec_sql(f, sql);
		assert_int_equal(learned_find(f->path, &k, &l, NULL), -ENOENT);
	}
	exec_sql(f, "UPDATE learned SET value = x'00ff'");
	assert_int_equal(learned_find(f->path, &k, &l, NULL), -ENOENT);
	exec_sql(f, "UPDATE learned SET value = 'measured host=1/0/0/0/0/0'");
	assert_int_equal(learned_find(f->path, &k, &l, NULL), 0);
	assert_false(l.told);
}

/* ---- what it makes of an estimate
 * --------------------------------------------------------------------------------- */

static void test_an_estimate_becomes_what_was_learned(void **state)
{
	(void)state;
	struct estimate e = { .n_devices = 1,
		.host = { .weights = 50, .overhead = 9, .total = 59 },
		.device[0] = { .weights = 100, .overhead = 30, .total = 130 },
		.error_permille = 20 };
	struct learned l = { .told = true,
		.n_devices = 1,
		.host = { .weights = 40, .mapped = 40, .compute = 2 },
		.device[0] = { .weights = 90, .kv = 5, .compute = 6 } };
	struct estimate x = e;
	learned_apply(&l, &x);
	assert_int_equal(x.device[0].total, 90 + 5 + 6 + 30);
	assert_int_equal(x.host.total, 40 + 2 + 9);
	assert_int_equal(x.host_mapped, 40);
	assert_int_equal(x.sum.total, x.host.total + x.device[0].total);
	assert_int_equal(x.error_permille, LEARNED_ERROR_PERMILLE);
	l.measured[0] = 200; /* what the driver says is the sum */
	x = e;
	learned_apply(&l, &x);
	assert_int_equal(x.device[0].total, 200);
	assert_int_equal(x.device[0].overhead, 200 - 101);
	l.told = false; /* nothing but that: the parts are the formula's */
	x = e;
	learned_apply(&l, &x);
	assert_int_equal(x.device[0].total, 200);
	assert_int_equal(x.device[0].weights, 100);
	assert_int_equal(x.host.total, 59);
}

#define WITH_FOLDER(t) cmocka_unit_test_setup_teardown(t, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_log_of_the_cpu),
		cmocka_unit_test(test_a_log_of_devices),
		cmocka_unit_test(test_a_log_that_tells_not_all),
		cmocka_unit_test(test_a_line_without_end),
		cmocka_unit_test(test_keys),
		cmocka_unit_test(test_places),
		cmocka_unit_test(test_an_estimate_becomes_what_was_learned),
		WITH_FOLDER(test_the_ledger),
		WITH_FOLDER(test_the_longest_unused_goes),
		WITH_FOLDER(test_a_damaged_file_is_set_aside),
		WITH_FOLDER(test_a_file_of_somebody_else),
		WITH_FOLDER(test_rows_nobody_wrote),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
