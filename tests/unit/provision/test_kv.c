/* SPDX-License-Identifier: Apache-2.0
 *
 * The bookkeeping of conversations on disk: names, which files are whole, what takes whose place, how much
 * there may be, and who may share.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "provision/engine/engine_int.h"
#include "provision/kv/kv.h"

static const char key[] = "0123456789abcdef", other_key[] = "fedcba9876543210";
static char root[] = "/tmp/corral-kv-XXXXXX";
static char *pool;            /* its folder */
static struct kv_whose whose; /* who saves */
#define NOBODY "-0000000000000000-0000000000000000"

static char *at(const char *k, const char *name)
{
	return mem_fmt("%s/%s/%s", pool, k, name);
}

static int make(void **state)
{
	(void)state;
	memcpy(strrchr(root, '-'), "-XXXXXX", 8);
	assert_non_null(mkdtemp(root));
	pool = path_join(root, "chat");
	AUTO(mem_freep) char *a = path_join(pool, key);
	AUTO(mem_freep) char *b = path_join(pool, other_key);
	return dir_make(a, 0700) ? -1 : dir_make(b, 0700);
}

static int unmake(void **state)
{
	(void)state;
	tree_remove(root);
	free(pool);
	return 0;
}

/* A file as llama-server writes it: the words, then `rest` bytes of cache. */
static void put_words(const char *k, const char *name, const uint32_t *words, size_t n, size_t rest)
{
	uint32_t head[] = { 0x67677371u, 4, (uint32_t)n };
	size_t len = sizeof head + n * sizeof *words + rest;
	AUTO(mem_freep) char *data = mem_alloc(len);
	AUTO(mem_freep) char *path = at(k, name);
	memcpy(data, head, sizeof head);
	memcpy(data + sizeof head, words, n * sizeof *words);
	assert_int_equal(file_write_atomic(path, view_of(data, len), 0644, false), 0);
}

static uint64_t size_of(const char *k, const char *name)
{
	AUTO(mem_freep) char *path = at(k, name);
	struct stat st;
	assert_int_equal(stat(path, &st), 0);
	return (uint64_t)st.st_size;
}

/* Saves `n` tokens that begin with `first`; the newer builds' list or the older plain one. */
static struct kv_file save(const char *k, uint32_t first, size_t n, bool listed, int64_t now_ms, size_t rest)
{
	uint32_t words[64] = { 0 };
	size_t from = 0;
	if (listed) {
		words[from++] = UINT32_MAX;
		words[from++] = 1;
		words[from++] = (uint32_t)n;
	}
	for (size_t i = 0; i < n; i++)
		words[from + i] = first + (uint32_t)i;
	put_words(k, "part.chat-0.0", words, from + n + listed, rest);
	struct kv_file f = { .tokens = n, .bytes = size_of(k, "part.chat-0.0"), .of = whose };
	assert_int_equal(kv_keep(pool, k, "part.chat-0.0", now_ms, &f), 0);
	return f;
}

static size_t count(const char *k)
{
	AUTO(kv_list_done) struct kv_list l;
	kv_list(pool, k, &l);
	return l.len;
}

static void a_name_has_one_form(void **state)
{
	(void)state;
	static const char *const wrong[] = { "", ".kv", "1-2-3", "1-2-3.kv.", "1-2-3.KV",
		"01-2-3" NOBODY ".kv", "1-2-03" NOBODY ".kv", "1-0-3" NOBODY ".kv", "1-2-0" NOBODY ".kv",
		"-1-2-3" NOBODY ".kv", "1--2-3" NOBODY ".kv", "1-2-3-4" NOBODY ".kv", "1-2-3.kv ",
		"+1-2-3" NOBODY ".kv", "1-2" NOBODY ".kv", "99999999999999999999-2-3" NOBODY ".kv",
		"1-4294967296-3" NOBODY ".kv", "1-2-9223372036854775808" NOBODY ".kv", "1-2-3.tmp",
		"part.chat-0.0", "../1-2-3" NOBODY ".kv", "1-2-3/" NOBODY ".kv",
		"1-2-33333333333333333333333333333333333333333333333333333333333333" NOBODY ".kv", "1-2-3.kv",
		"1-2-3-0-0.kv", "1-2-3-00000000000000000-0000000000000000.kv",
		"1-2-3-000000000000000A-0000000000000000.kv", "1-2-3-0000000000000000-000000000000000.kv",
		"1-2-3-0000000000000000.kv" };
	struct kv_file f;
	for (size_t i = 0; i < ARRAY_LEN(wrong); i++)
		if (kv_name_parse(view_str(wrong[i]), &f))
			fail_msg("\"%s\" was taken", wrong[i]);
	assert_false(kv_name_parse(VIEW("1-2-3" NOBODY ".kv\0"), &f));
	assert_true(
		kv_name_parse(VIEW("1732791000123-2023-8318728-00000000000000ab-fedcba9876543210.kv"), &f));
	assert_true(f.saved_ms == 1732791000123 && f.tokens == 2023 && f.bytes == 8318728);
	assert_true(f.of.owner == 0xab && f.of.talk == 0xfedcba9876543210);
}

static void only_whole_files_count(void **state)
{
	(void)state;
	struct kv_file f = save(key, 10, 20, true, 1000, 100);
	AUTO(mem_freep) char *path = at(key, f.name);
	struct stat st;
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	AUTO(mem_freep) char *link = at(key, "2000-20-5" NOBODY ".kv");
	AUTO(mem_freep) char *dir = at(key, "2000-20-4096" NOBODY ".kv");
	AUTO(mem_freep) char *half = at(key, "2000-20-500" NOBODY ".kv");
	AUTO(mem_freep) char *stranger = at("not-a-key", "1-2-3.kv");
	AUTO(mem_freep) char *folder = path_join(pool, "not-a-key");
	assert_int_equal(symlink(path, link), 0);
	assert_int_equal(mkdir(dir, 0700), 0);
	assert_int_equal(file_write_atomic(half, VIEW("half"), 0600, false), 0);
	assert_int_equal(mkdir(folder, 0700), 0);
	assert_int_equal(file_write_atomic(stranger, VIEW("abc"), 0600, false), 0);
	assert_int_equal(count(key), 1);
	assert_int_equal(count(NULL), 1);
	assert_int_equal(count(other_key), 0);
	assert_int_equal(count("../chat/0123456789abcdef"), 0);
}

static void what_was_not_written_whole_is_refused(void **state)
{
	(void)state;
	uint32_t words[] = { 1, 2, 3 };
	put_words(key, "part.chat-0.0", words, 3, 100);
	uint64_t n = size_of(key, "part.chat-0.0");
	assert_int_equal(
		kv_keep(pool, key, "part.chat-0.0", 1, &(struct kv_file){ .tokens = 3, .bytes = n + 1 }),
		-EINVAL);
	assert_int_equal(kv_keep(pool, key, "part.chat-0.0", 1, &(struct kv_file){ .tokens = 0, .bytes = n }),
		-EINVAL);
	assert_int_equal(
		kv_keep(pool, "..", "part.chat-0.0", 1, &(struct kv_file){ .tokens = 3, .bytes = n }),
		-EINVAL);
	assert_int_equal(kv_keep(pool, key, "part.chat-0.9", 1, &(struct kv_file){ .tokens = 3, .bytes = n }),
		-ENOENT);
	assert_int_equal(count(key), 0);
	put_words(key, "part.chat-1.0", words, 3, 100);
	struct kv_file kept = save(key, 7, 3, false, 5, 9);
	put_words(key, "part.chat-0.0", words, 3, 100);
	kv_remove_unfinished(pool, key, "part.chat-0.");
	AUTO(mem_freep) char *mine = at(key, "part.chat-0.0");
	AUTO(mem_freep) char *another = at(key, "part.chat-1.0");
	AUTO(mem_freep) char *whole = at(key, kept.name);
	assert_false(file_exists(mine));
	assert_true(file_exists(another));
	kv_remove_unfinished(pool, key, "");
	assert_false(file_exists(another));
	assert_true(file_exists(whole));
}

static void nobody_s_place_is_taken_by_another_key(void **state)
{
	(void)state;
	whose = (struct kv_whose){ 1, 5 };
	save(key, 100, 10, true, 1000, 50);
	whose = (struct kv_whose){ 2, 5 };
	save(key, 100, 20, true, 2000, 50);
	assert_int_equal(count(key), 2);
	whose = (struct kv_whose){ 1, 6 };
	save(key, 100, 20, true, 3000, 50);
	assert_int_equal(count(key), 2);
	whose = (struct kv_whose){ 0, 0 };
}

static void a_longer_one_takes_the_place_of_its_beginning(void **state)
{
	(void)state;
	for (int listed = 0; listed < 2; listed++) {
		save(key, 100, 10, listed, 1000, 50);
		save(key, 500, 10, listed, 1001, 50);       /* another */
		save(other_key, 100, 10, listed, 1002, 50); /* of another variant */
		struct kv_file f = save(key, 100, 20, listed, 1003, 50);
		AUTO(kv_list_done) struct kv_list l;
		kv_list(pool, key, &l);
		assert_int_equal(l.len, 2);
		assert_string_equal(l.items[0].name, f.name);
		assert_int_equal(l.items[1].tokens, 10);
		assert_int_equal(count(other_key), 1);
		save(key, 100, 15, listed, 1004, 50); /* turned back: both may be wanted */
		assert_int_equal(count(key), 3);
		kv_list_done(&l);
		kv_list(pool, NULL, &l);
		for (size_t i = 0; i < l.len; i++)
			kv_remove(pool, &l.items[i]);
		assert_int_equal(count(NULL), 0);
	}
}

static void hostile_files_have_no_tokens(void **state)
{
	(void)state;
	uint32_t huge[] = { UINT32_MAX, 1, UINT32_MAX }, more[] = { UINT32_MAX, 1, 9, 1, 2 },
		 few[] = { 5, 6, 7 };
	uint32_t *tokens;
	AUTO(mem_freep) char *path = at(key, "x");
	put_words(key, "x", huge, 3, 10);
	assert_int_equal(kv_tokens_read(path, &tokens, 100), 0);
	put_words(key, "x", more, 5, 10);
	assert_int_equal(kv_tokens_read(path, &tokens, 100), 0);
	put_words(key, "x", few, 3, 10);
	assert_int_equal(kv_tokens_read(path, &tokens, 2), 3);
	assert_true(tokens[0] == 5 && tokens[1] == 6);
	free(tokens);
	static const char n_too_large[] = "qsgg\4\0\0\0\xff\xff\xff\x7f\1\0\0\0\1\0\0\0\1\0\0\0";
	assert_int_equal(file_write_atomic(path, view_of(n_too_large, 24), 0600, false), 0);
	assert_int_equal(kv_tokens_read(path, &tokens, 100), 0);
	assert_int_equal(file_write_atomic(path, VIEW("qsgg"), 0600, false), 0);
	assert_int_equal(kv_tokens_read(path, &tokens, 100), 0);
	assert_int_equal(file_write_atomic(path, VIEW("GGUF-and-so-on-and-so-on-and-so-on"), 0600, false), 0);
	assert_int_equal(kv_tokens_read(path, &tokens, 100), 0);
	unlink(path);
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_int_equal(kv_tokens_read(path, &tokens, 100), 0); /* and is not waited for */
	assert_int_equal(kv_tokens_read("/dev/zero", &tokens, 100), 0);
}

static void checkpoints_come_with_a_version(void **state)
{
	(void)state;
	uint32_t words[] = { 5, 6, 7 };
	AUTO(mem_freep) char *path = at(key, "x");
	put_words(key, "x", words, 3, 10);
	assert_true(kv_has_checkpoints(path));
	static const char older[] = "qsgg\2\0\0\0\1\0\0\0\1\0\0\0\1\0\0\0\1\0\0\0";
	assert_int_equal(file_write_atomic(path, view_of(older, 24), 0600, false), 0);
	assert_false(kv_has_checkpoints(path));
	assert_int_equal(file_write_atomic(path, VIEW("qsgg\4"), 0600, false), 0);
	assert_false(kv_has_checkpoints(path));
	assert_false(kv_has_checkpoints("/nowhere"));
}

static void of_one_moment_all_are_kept(void **state)
{
	(void)state;
	struct kv_file a = save(key, 100, 10, true, 1000, 50), b = save(key, 500, 10, true, 1000, 50);
	assert_string_not_equal(a.name, b.name);
	assert_int_equal(count(key), 2);
	assert_int_equal(kv_touch(pool, &a, 3000), 0);
	AUTO(kv_list_done) struct kv_list l;
	kv_list(pool, key, &l);
	assert_string_equal(l.items[0].name, a.name);
	assert_int_equal(l.items[0].saved_ms, 3000);
	kv_remove(pool, &a);
	assert_int_equal(kv_touch(pool, &a, 4000), -ENOENT);
}

static void the_oldest_go_first_of_all_variants(void **state)
{
	(void)state;
	save(key, 100, 10, true, 1000, 100000);
	save(other_key, 200, 10, true, 2000, 100000);
	save(key, 300, 10, true, 3000, 100000);
	assert_true(kv_make_room(pool, 50000, 400000));
	assert_int_equal(count(NULL), 3);
	assert_true(kv_make_room(pool, 150000, 400000));
	assert_int_equal(count(NULL), 2);
	assert_int_equal(count(other_key), 1);
	assert_false(kv_make_room(pool, 400001, 400000)); /* never: nothing is removed for it */
	assert_int_equal(count(NULL), 2);
	assert_true(kv_make_room(pool, 400000, 400000));
	assert_int_equal(count(NULL), 0);
	assert_false(kv_make_room("/nowhere/at/all", 1, 400000));
}

static void the_budget_follows_the_disk(void **state)
{
	(void)state;
	struct kv_disk large = { 1000 * GIB, 2000 * GIB }, small = { 10 * GIB, 15 * GIB };
	assert_true(kv_budget(&large, 0, 0) == 8 * GIB);
	assert_true(kv_budget(&small, 0, 0) == GIB);
	assert_true(kv_budget(&small, 10 * GIB, 0) == 2 * GIB); /* as if they were not there */
	assert_true(kv_budget(&small, 0, 5) == 5);
	assert_true(kv_budget(&small, UINT64_MAX, 0) == 8 * GIB);
	assert_true(kv_reserve(&large) == GIB);
	assert_true(kv_reserve(&small) == 15 * GIB / 20);
}

static void a_start_tidies(void **state)
{
	(void)state;
	AUTO(strv_done) struct strv ids = { 0 };
	AUTO(mem_freep) char *gone = path_join(root, "gone");
	AUTO(mem_freep) char *gone_variant = path_join(gone, key);
	AUTO(mem_freep) char *gone_file = path_join(gone_variant, "5000-1-3" NOBODY ".kv");
	AUTO(mem_freep) char *part = at(key, "part.chat-0.1");
	assert_int_equal(dir_make(gone_variant, 0700), 0);
	assert_int_equal(file_write_atomic(gone_file, VIEW("abc"), 0600, false), 0);
	save(key, 100, 10, true, 1000, 10);
	save(key, 300, 10, true, 5000, 10);
	assert_int_equal(file_write_atomic(part, VIEW("abc"), 0600, false), 0);
	strv_add(&ids, "chat");
	kv_tidy(root, &ids, 6000, 2000);
	assert_int_equal(count(NULL), 1);
	assert_false(file_exists(part));
	assert_false(file_exists(gone));
	kv_tidy("/nowhere/at/all", &ids, 6000, 2000);
}

static void print_of(
	const char *const *args, const char *const *env, const char *version, char out[KV_KEY_LEN + 1])
{
	AUTO(strv_done) struct strv argv = { 0 };
	AUTO(strv_done) struct strv e = { 0 };
	for (; *args; args++)
		strv_add(&argv, *args);
	for (; env && *env; env++)
		strv_add(&e, *env);
	kv_fingerprint(&argv, &e, version, out);
}

#define PRINT(out, ...) print_of((const char *const[]){ __VA_ARGS__, NULL }, NULL, "b1", out)

static void who_may_share(void **state)
{
	(void)state;
	AUTO(mem_freep) char *model = path_join(root, "m.gguf");
	assert_int_equal(file_write_atomic(model, VIEW("GGUF"), 0600, false), 0);
	char a[KV_KEY_LEN + 1], b[KV_KEY_LEN + 1];
	PRINT(a, "srv", "-m", model, "-c", "4096", "-t", "1", "--host", "/a.sock", "--metrics", "-ctk",
		"q8_0");
	PRINT(b, "srv", "-m", model, "-c", "4096", "--host=/b.sock", "-ngl", "99", "-ctk", "q8_0");
	assert_string_equal(a, b); /* where it runs and listens is no matter */
	PRINT(b, "srv", "-m", model, "-c", "8192", "-ctk", "q8_0");
	assert_string_not_equal(a, b);
	PRINT(b, "srv", "-m", model, "-c", "4096", "-ctk", "f16");
	assert_string_not_equal(a, b);
	const char *const args[] = { "srv", "-m", model, "-c", "4096", "-ctk", "q8_0", NULL };
	const char *const envs[] = { "PATH=/bin", "LLAMA_ARG_SWA_FULL=1", NULL }, *const plain[] = {
		"PATH=/x", NULL
	};
	print_of(args, plain, "b1", b);
	assert_string_equal(a, b);
	print_of(args, plain, "b2", b);
	assert_string_not_equal(a, b);
	print_of(args, envs, "b1", b);
	assert_string_not_equal(a, b);
	assert_int_equal(
		file_write_atomic(model, VIEW("GGUFX"), 0600, false), 0); /* another model of that name */
	print_of(args, plain, "b1", b);
	assert_string_not_equal(a, b);
	PRINT(a, "ab", "c");
	PRINT(b, "a", "bc");
	assert_string_not_equal(a, b);
}

static void a_model_that_cannot_be_read_has_no_shape(void **state)
{
	(void)state;
	AUTO(strv_done) struct strv argv = { 0 };
	AUTO(mem_freep) char *path = path_join(root, "no.gguf");
	struct kv_shape s;
	assert_true(kv_shape_read(path, &argv, 4096, 2, &s, NULL) < 0);
	assert_int_equal(file_write_atomic(path, VIEW("GGUF"), 0600, false), 0);
	assert_true(kv_shape_read(path, &argv, 4096, 2, &s, NULL) < 0);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, make, unmake)
int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_name_has_one_form),
		TEST(only_whole_files_count),
		TEST(what_was_not_written_whole_is_refused),
		TEST(nobody_s_place_is_taken_by_another_key),
		TEST(a_longer_one_takes_the_place_of_its_beginning),
		TEST(hostile_files_have_no_tokens),
		TEST(checkpoints_come_with_a_version),
		TEST(of_one_moment_all_are_kept),
		TEST(the_oldest_go_first_of_all_variants),
		TEST(the_budget_follows_the_disk),
		TEST(a_start_tidies),
		TEST(who_may_share),
		TEST(a_model_that_cannot_be_read_has_no_shape),
	};
	return cmocka_run_group_tests_name("kv", tests, NULL, NULL);
}
