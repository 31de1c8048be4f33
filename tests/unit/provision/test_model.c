/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include <cmocka.h>

#include "provision/engine/engine_int.h"
#include "provision/model/model.h"

static char dir[] = "/tmp/corral-model-XXXXXX";

static void put(const char *name, const char *text)
{
	AUTO(mem_freep) char *p = path_join(dir, name);
	assert_int_equal(file_write_atomic(p, view_str(text), 0600, false), 0);
}

static int make(void **state)
{
	(void)state;
	assert_non_null(mkdtemp(dir));
	put("a.gguf", "GGUF....");
	put("not.gguf", "hello");
	put("lfs.gguf", "version https://git-lfs");
	put("empty.gguf", "");
	for (int i = 1; i <= 3; i++) {
		AUTO(mem_freep) char *n = mem_fmt("big-%05d-of-00003.gguf", i);
		put(n, "GGUF1234");
		AUTO(mem_freep) char *m = mem_fmt("cut-%05d-of-00007.gguf", i + 1);
		put(m, "GGUF");
	}
	AUTO(mem_freep) char *sub = path_join(dir, "sub");
	return dir_make(sub, 0700);
}

static int unmake(void **state)
{
	(void)state;
	tree_remove(dir);
	return 0;
}

static void refuse(const char *ref, const char *models, const char *why)
{
	struct model_files f;
	struct err e = { 0 };
	if (model_resolve(ref, models, MODEL_GGUF, &f, &e) == 0)
		fail_msg("%s was taken", ref);
	if (!strstr(e.msg, why))
		fail_msg("%s: \"%s\" does not say \"%s\"", ref, e.msg, why);
}

static void finds_files(void **state)
{
	(void)state;
	AUTO(mem_freep) char *abs = path_join(dir, "a.gguf");
	AUTO(mem_freep) char *uri = mem_fmt("file:%s", abs);
	const char *refs[] = { "a.gguf", "a", abs, uri, "./a.gguf" };
	for (size_t i = 0; i < ARRAY_LEN(refs); i++) {
		struct model_files f;
		struct err e = { 0 };
		if (model_resolve(refs[i], dir, MODEL_GGUF, &f, &e) < 0)
			fail_msg("%s: %s", refs[i], e.msg);
		assert_int_equal(f.size_bytes, 8);
		assert_int_equal(f.parts.len, 1);
		assert_true(view_ends(view_str(f.path), VIEW("a.gguf")));
		model_files_done(&f);
	}
}

static void takes_split_files_whole(void **state)
{
	(void)state;
	const char *refs[] = { "big-00001-of-00003.gguf", "big-00003-of-00003.gguf" };
	for (size_t i = 0; i < ARRAY_LEN(refs); i++) {
		struct model_files f;
		assert_int_equal(model_resolve(refs[i], dir, MODEL_GGUF, &f, NULL), 0);
		assert_int_equal(f.size_bytes, 24);
		assert_int_equal(f.parts.len, 3);
		assert_true(view_ends(view_str(f.path), VIEW("big-00001-of-00003.gguf")));
		model_files_done(&f);
	}
	refuse("cut-00002-of-00007.gguf", dir, "4 are missing");
	refuse("cut-00001-of-00007.gguf", dir, "number 00001, 00005, 00006 and more");
}

static void says_what_was_looked_at(void **state)
{
	(void)state;
	AUTO(mem_freep) char *looked = mem_fmt("looked at %s/nothing.gguf", dir);
	refuse("nothing.gguf", dir, looked);
	refuse("nothing.gguf", dir, "a.gguf");
	refuse("org/repo", dir, "there are no .gguf files in");
	refuse("../a.gguf", dir, "leaves models_dir");
	refuse("sub/../../a.gguf", dir, "leaves models_dir");
	refuse("a.gguf", NULL, "models_dir is not set");
	refuse("hf:org/repo", dir, "would have to be fetched");
	refuse("file:a.gguf", dir, "not absolute");
	refuse("", dir, "empty");
	refuse("sub", dir, "is a folder");
	refuse("not.gguf", dir, "not a GGUF file");
	refuse("lfs.gguf", dir, "git-lfs");
	refuse("empty.gguf", dir, "empty file");
}

static void takes_folders_for_other_engines(void **state)
{
	(void)state;
	struct model_files f;
	assert_int_equal(model_resolve("sub", dir, MODEL_ANY, &f, NULL), 0);
	model_files_done(&f);
	assert_int_not_equal(model_resolve("gone", dir, MODEL_ANY, &f, NULL), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(finds_files),
		cmocka_unit_test(takes_split_files_whole),
		cmocka_unit_test(says_what_was_looked_at),
		cmocka_unit_test(takes_folders_for_other_engines),
	};
	return cmocka_run_group_tests(tests, make, unmake);
}
