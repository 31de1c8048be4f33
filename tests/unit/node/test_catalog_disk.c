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

#include "base/fd.h"
#include "base/mem.h"
#include "node/models_int.h"

static char dir[64];

static int set_up(void **state)
{
	(void)state;
	snprintf(dir, sizeof dir, "/tmp/disk.XXXXXX");
	assert_non_null(mkdtemp(dir));
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	AUTO(mem_freep) char *cmd = mem_fmt("rm -rf %s", dir);
	assert_int_equal(system(cmd), 0);
	return 0;
}

static char *in_dir(const char *name)
{
	return path_join(dir, name);
}

static void make_file(const char *name)
{
	AUTO(mem_freep) char *path = in_dir(name);
	AUTO(mem_freep) char *folder = mem_strdup(path);
	*strrchr(folder, '/') = '\0';
	assert_int_equal(dir_make(folder, 0700), 0);
	assert_int_equal(file_write_atomic(path, VIEW("four"), 0600, false), 0);
}

static void make_link(const char *name, const char *to)
{
	AUTO(mem_freep) char *path = in_dir(name);
	AUTO(mem_freep) char *folder = mem_strdup(path);
	*strrchr(folder, '/') = '\0';
	assert_int_equal(dir_make(folder, 0700), 0);
	assert_int_equal(symlink(to, path), 0);
}

static bool there(const char *name)
{
	AUTO(mem_freep) char *path = in_dir(name);
	struct stat st;
	return lstat(path, &st) == 0;
}

static void add(struct catalog_model *m, const char *id, const char *name)
{
	AUTO(mem_freep) char *path = in_dir(name);
	struct catalog_file f = { .path = path, .size = 4 };
	mem_setstr(&m->id, id);
	mem_setstr(&m->reference, id);
	catalog_model_add_file(m, &f);
}

static void remove_it(struct catalog_model *m, const struct catalog_models *others)
{
	AUTO(strv_done) struct strv problems = { 0 };
	static const struct catalog_models none;
	(void)catalog_remove_files(m, others ? others : &none, &problems);
	assert_int_equal(problems.len, 0);
}

#define REPO "hub/models--o--r/"

static void test_a_blob_that_another_revision_needs_stays(void **state)
{
	(void)state;
	struct catalog_model m = { 0 }, older = { 0 };
	make_file(REPO "blobs/aa");
	make_link(REPO "snapshots/rev1/a.gguf", "../../blobs/aa");
	make_link(REPO "snapshots/rev2/a.gguf", "../../blobs/aa");
	add(&m, "m", REPO "snapshots/rev2/a.gguf");
	remove_it(&m, NULL);
	assert_false(there(REPO "snapshots/rev2"));
	assert_true(there(REPO "snapshots/rev1/a.gguf"));
	assert_true(there(REPO "blobs/aa"));
	add(&older, "older", REPO "snapshots/rev1/a.gguf");
	remove_it(&older, NULL);
	assert_false(there(REPO "blobs/aa"));
	assert_true(there(REPO "snapshots"));
	catalog_model_done(&m);
	catalog_model_done(&older);
}

static void test_what_another_model_names_stays(void **state)
{
	(void)state;
	struct catalog_model m = { 0 };
	struct catalog_model other = { 0 };
	make_file("models/shared.gguf");
	make_file("models/own.gguf");
	add(&m, "m", "models/shared.gguf");
	add(&m, "m", "models/own.gguf");
	add(&other, "other", "models/shared.gguf");
	struct catalog_models others = { &other, 1 };
	remove_it(&m, &others);
	assert_true(there("models/shared.gguf"));
	assert_false(there("models/own.gguf"));
	assert_true(there("models"));
	catalog_model_done(&m);
	catalog_model_done(&other);
}

/* Somebody's own link, and a link of the hub's that leads out of it: what they point to is not ours. */
static void test_what_a_link_points_to_elsewhere_stays(void **state)
{
	(void)state;
	struct catalog_model m = { 0 };
	make_file("elsewhere/file.gguf");
	make_link("models/link.gguf", "../elsewhere/file.gguf");
	make_link(REPO "snapshots/rev/out.gguf", "../../../../elsewhere/file.gguf");
	add(&m, "m", "models/link.gguf");
	add(&m, "m", REPO "snapshots/rev/out.gguf");
	remove_it(&m, NULL);
	assert_true(there("elsewhere/file.gguf"));
	assert_false(there("models/link.gguf"));
	assert_false(there(REPO "snapshots/rev/out.gguf"));
	catalog_model_done(&m);
}

static void write_note(const char *name, const char *more)
{
	AUTO(mem_freep) char *path = in_dir(name);
	AUTO(mem_freep) char *text = mem_fmt("%064d  %s\n%s", 7, "a.gguf", more);
	assert_int_equal(file_write_atomic(path, view_str(text), 0600, false), 0);
}

/* A note is ours where it says which file it is of. */
static void test_a_digest_that_was_noted_goes_too(void **state)
{
	(void)state;
	struct catalog_model m = { 0 };
	make_file("models/https/h/a.gguf");
	make_file("theirs/a.gguf");
	write_note("models/https/h/a.gguf.sha256", "# 1 4 5.6\n");
	write_note("theirs/a.gguf.sha256", "");
	add(&m, "m", "models/https/h/a.gguf");
	add(&m, "m", "theirs/a.gguf");
	remove_it(&m, NULL);
	assert_false(there("models/https/h/a.gguf"));
	assert_false(there("models/https/h/a.gguf.sha256"));
	assert_false(there("theirs/a.gguf"));
	assert_true(there("theirs/a.gguf.sha256"));
	catalog_model_done(&m);
}

static void test_folders_and_what_is_gone_are_left_alone(void **state)
{
	(void)state;
	struct catalog_model m = { 0 };
	make_file("models/folder/file");
	add(&m, "m", "models/folder");
	add(&m, "m", "models/gone.gguf");
	remove_it(&m, NULL);
	assert_true(there("models/folder/file"));
	catalog_model_done(&m);
}

static void test_a_file_is_in_a_store_or_not(void **state)
{
	(void)state;
	struct stores_roots r = { 0 };
	AUTO(mem_freep) char *loose = in_dir("models");
	AUTO(mem_freep) char *inside = in_dir("models/a.gguf");
	AUTO(mem_freep) char *out = in_dir("models/out.gguf");
	AUTO(mem_freep) char *beside = in_dir("models2/a.gguf");
	make_file("models/a.gguf");
	make_file("models2/a.gguf");
	make_link("models/out.gguf", "../models2/a.gguf");
	strv_add(&r.loose, loose);
	assert_true(catalog_in_stores(&r, inside));
	assert_false(catalog_in_stores(&r, beside));
	assert_false(catalog_in_stores(&r, out));
	assert_false(catalog_in_stores(&r, "/etc/passwd"));
	assert_false(catalog_in_stores(&r, "/nowhere/at.all"));
	stores_roots_done(&r);
}

#define T(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_a_blob_that_another_revision_needs_stays),
		T(test_what_another_model_names_stays),
		T(test_what_a_link_points_to_elsewhere_stays),
		T(test_a_digest_that_was_noted_goes_too),
		T(test_folders_and_what_is_gone_are_left_alone),
		T(test_a_file_is_in_a_store_or_not),
	};
	return cmocka_run_group_tests_name("catalog_disk", tests, NULL, NULL);
}
