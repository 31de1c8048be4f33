/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>
#include <sqlite3.h>

#include "base/fd.h"
#include "base/mem.h"
#include "provision/catalog/catalog.h"

static char dir[64];
static char *path;

static int set_up(void **state)
{
	(void)state;
	snprintf(dir, sizeof dir, "/tmp/catalog.XXXXXX");
	assert_non_null(mkdtemp(dir));
	path = path_join(dir, CATALOG_NAME);
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	AUTO(mem_freep) char *cmd = mem_fmt("rm -rf %s", dir);
	assert_int_equal(system(cmd), 0);
	free(path);
	return 0;
}

static struct catalog *open_it(char **note)
{
	struct catalog *c = NULL;
	struct err e = { 0 };
	char *said = NULL;
	int r = catalog_open(path, &c, &said, &e);
	if (r)
		fail_msg("%s", e.msg);
	if (note)
		*note = said;
	else
		assert_null(said);
	return c;
}

static void put_model(struct catalog *c, const char *reference, const char *id)
{
	struct catalog_model m = { .reference = (char *)(uintptr_t)reference,
		.source = (char *)(uintptr_t) "Hugging Face",
		.revision = (char *)(uintptr_t) "0123abcd",
		.architecture = (char *)(uintptr_t) "llama",
		.quant = (char *)(uintptr_t) "Q4_K_M",
		.fetched = true,
		.size_bytes = 300,
		.n_params = 1000,
		.n_ctx_train = 4096 };
	struct catalog_file a = { (char *)(uintptr_t) "weights", (char *)(uintptr_t) "/m/a.gguf",
		(char *)(uintptr_t) "https://hub/a", (char *)(uintptr_t) "aa", 100 };
	struct catalog_file b = { (char *)(uintptr_t) "mmproj", (char *)(uintptr_t) "/m/b.gguf", NULL, NULL,
		200 };
	strv_add(&m.references, "org/repo");
	catalog_model_add_file(&m, &a);
	catalog_model_add_file(&m, &b);
	AUTO(mem_freep) char *got = catalog_model_put(c, &m);
	assert_string_equal(got, id);
	strv_done(&m.references);
	m.references = (struct strv){ 0 };
	for (size_t i = 0; i < m.nfiles; i++) {
		free(m.files[i].role);
		free(m.files[i].path);
		free(m.files[i].url);
		free(m.files[i].sha256);
	}
	free(m.files);
}

static void check_model(struct catalog *c, const char *key)
{
	struct catalog_model m;
	assert_int_equal(catalog_model_find(c, key, &m), 0);
	assert_string_equal(m.id, "org-repo-q4_k_m");
	assert_string_equal(m.reference, "hf:org/Repo:Q4_K_M");
	assert_string_equal(m.revision, "0123abcd");
	assert_true(m.fetched);
	assert_int_equal(m.nfiles, 2);
	assert_string_equal(m.files[0].role, "weights");
	assert_string_equal(m.files[0].sha256, "aa");
	assert_string_equal(m.files[1].path, "/m/b.gguf");
	assert_null(m.files[1].url);
	assert_int_equal(m.files[1].size, 200);
	assert_int_equal(m.n_ctx_train, 4096);
	assert_true(m.created_ms > 0);
	catalog_model_done(&m);
}

static void test_a_model_is_there_after_a_restart(void **state)
{
	(void)state;
	struct catalog *c = open_it(NULL);
	put_model(c, "hf:org/Repo:Q4_K_M", "org-repo-q4_k_m");
	check_model(c, "org-repo-q4_k_m");
	check_model(c, "hf:org/Repo:Q4_K_M");
	check_model(c, "org/repo");
	catalog_close(c);
	c = open_it(NULL);
	check_model(c, "org/repo");
	struct catalog_models all;
	catalog_models(c, &all);
	assert_int_equal(all.len, 1);
	catalog_models_done(&all);
	assert_true(catalog_model_remove(c, "org-repo-q4_k_m"));
	assert_false(catalog_model_remove(c, "org-repo-q4_k_m"));
	catalog_close(c);
	c = open_it(NULL);
	struct catalog_model m;
	assert_int_equal(catalog_model_find(c, "org/repo", &m), -ENOENT);
	catalog_close(c);
}

static void test_ids_are_unique_and_one_reference_is_one_model(void **state)
{
	(void)state;
	struct catalog *c = open_it(NULL);
	put_model(c, "hf:a/b-c", "a-b-c");
	put_model(c, "hf:a-b/c", "a-b-c-2");
	assert_int_equal(catalog_models_fetched(c), 300); /* of one path each */
	put_model(c, "hf:a/b-c", "a-b-c");
	put_model(c, "file:/data/My Model.gguf", "data-my-model.gguf");
	put_model(c, "***", "model");
	catalog_close(c);
}

/* An address with a signature in its query: found by all of it, and nothing of the signature is kept. */
static void test_no_signature_is_kept(void **state)
{
	(void)state;
	struct catalog *c = open_it(NULL);
	struct catalog_model m;
	put_model(c, "https://h/b.gguf?sig=S3CRET", "h-b.gguf-25da5e92d0563d0f");
	put_model(c, "https://h/b.gguf?sig=S3CRET", "h-b.gguf-25da5e92d0563d0f");
	put_model(c, "https://h/b.gguf?sig=other", "h-b.gguf-144b6555cbfa820d");
	assert_int_equal(catalog_model_find(c, "https://h/b.gguf?sig=S3CRET", &m), 0);
	assert_string_equal(m.reference, "https://h/b.gguf#25da5e92d0563d0f");
	catalog_model_done(&m);
	catalog_close(c);
	AUTO(mem_freep) char *cmd = mem_fmt("grep -q b.gguf %s && ! grep -i s3cret %s", path, path);
	assert_int_equal(system(cmd), 0);
}

static void put_one_file(struct catalog *c, const char *path_of, const char *url, const char *sha256)
{
	struct catalog_model m = { .reference = mem_strdup("hf:a/b") };
	struct catalog_file f = { (char *)(uintptr_t) "weights", (char *)(uintptr_t)path_of,
		(char *)(uintptr_t)url, (char *)(uintptr_t)sha256, 100 };
	catalog_model_add_file(&m, &f);
	free(catalog_model_put(c, &m));
	catalog_model_done(&m);
}

static void url_is(struct catalog *c, const char *url)
{
	struct catalog_model m;
	assert_int_equal(catalog_model_find(c, "hf:a/b", &m), 0);
	assert_true(str_same(m.files[0].url, url));
	catalog_model_done(&m);
}

static void test_where_a_file_came_from_is_kept(void **state)
{
	(void)state;
	struct catalog *c = open_it(NULL);
	put_one_file(c, "/m/a.gguf", "https://h/a.gguf", "aa");
	put_one_file(c, "/m/a.gguf", NULL, "aa"); /* it was here */
	url_is(c, "https://h/a.gguf");
	put_one_file(c, "/m/a.gguf", NULL, "bb"); /* something else is */
	url_is(c, NULL);
	put_one_file(c, "/m/a.gguf", "https://h/2", "bb");
	put_one_file(c, "/m/b.gguf", NULL, "bb");
	url_is(c, NULL);
	catalog_close(c);
}

/* What an operator decided survives that it is fetched again. */
static void test_retired_stays_retired(void **state)
{
	(void)state;
	char *by = NULL;
	struct catalog *c = open_it(NULL);
	put_model(c, "hf:org/Repo:Q4_K_M", "org-repo-q4_k_m");
	assert_false(catalog_model_retired(c, "org/repo", NULL));
	assert_true(catalog_model_set_life(c, "org-repo-q4_k_m", CATALOG_RETIRED, "key ci"));
	assert_false(catalog_model_set_life(c, "no-such", CATALOG_RETIRED, "key ci"));
	put_model(c, "hf:org/Repo:Q4_K_M", "org-repo-q4_k_m");
	assert_true(catalog_model_set_verified(c, "org-repo-q4_k_m", "a.gguf is not what it was"));
	catalog_close(c);
	c = open_it(NULL);
	assert_true(catalog_model_retired(c, "hf:org/Repo:Q4_K_M", &by));
	assert_string_equal(by, "key ci");
	free(by);
	struct catalog_model m;
	assert_int_equal(catalog_model_find(c, "org/repo", &m), 0);
	assert_string_equal(m.verify_problem, "a.gguf is not what it was");
	assert_true(m.verified_ms > 0 && m.life_ms > 0);
	catalog_model_done(&m);
	assert_true(catalog_model_set_life(c, "org-repo-q4_k_m", CATALOG_ACTIVE, "key ci"));
	assert_false(catalog_model_retired(c, "org/repo", NULL));
	catalog_close(c);
}

static void test_engines_and_steps(void **state)
{
	(void)state;
	struct catalog *c = open_it(NULL);
	struct catalog_engine e = { .id = (char *)(uintptr_t) "llamacpp-b1-cpu",
		.engine = (char *)(uintptr_t) "llamacpp",
		.version = (char *)(uintptr_t) "b1",
		.source = (char *)(uintptr_t) "source",
		.commit = (char *)(uintptr_t) "abc",
		.folder = (char *)(uintptr_t) "/e/1" };
	catalog_engine_put(c, &e);
	for (uint32_t i = 12; i--;) {
		struct catalog_step s = { .job = (char *)(uintptr_t) "job-1",
			.ordinal = i,
			.name = (char *)(uintptr_t) "build",
			.state = i < 6 ? STEP_DONE : STEP_WAITING,
			.started_ms = i,
			.detail = (char *)(uintptr_t) "text" };
		catalog_step_put(c, &s);
	}
	catalog_close(c);
	c = open_it(NULL);
	struct catalog_engines all;
	catalog_engines(c, &all);
	assert_int_equal(all.len, 1);
	assert_string_equal(all.items[0].commit, "abc");
	assert_string_equal(all.items[0].folder, "/e/1");
	assert_null(all.items[0].digest);
	assert_true(all.items[0].created_ms > 0);
	catalog_engines_done(&all);
	struct catalog_steps steps;
	catalog_steps(c, "job-1", &steps);
	assert_int_equal(steps.len, 12);
	for (uint32_t i = 0; i < 12; i++) {
		assert_int_equal(steps.items[i].ordinal, i);
		assert_int_equal(steps.items[i].state, i < 6 ? STEP_DONE : STEP_WAITING);
	}
	catalog_steps_done(&steps);
	catalog_steps_remove(c, "job-1");
	assert_true(catalog_engine_remove(c, "llamacpp-b1-cpu"));
	assert_int_equal(catalog_flush(c, 10000), 0);
	catalog_close(c);
	c = open_it(NULL);
	catalog_steps(c, "job-1", &steps);
	assert_int_equal(steps.len, 0);
	catalog_steps_done(&steps);
	assert_int_equal(catalog_engine_find(c, "llamacpp-b1-cpu", &e), -ENOENT);
	catalog_close(c);
}

static void test_files_that_come_are_no_plans_steps(void **state)
{
	(void)state;
	struct catalog *c = open_it(NULL);
	struct catalog_steps all;
	char *url = NULL;
	catalog_coming_put(c, "/m/a.gguf", "https://h/a.gguf");
	catalog_coming_put(c, "/m/b.gguf", NULL);
	catalog_close(c);
	c = open_it(NULL);
	catalog_steps(c, NULL, &all);
	assert_int_equal(all.len, 0);
	catalog_steps_done(&all);
	assert_true(catalog_coming_find(c, "/m/a.gguf", &url));
	assert_string_equal(url, "https://h/a.gguf");
	free(url);
	assert_true(catalog_coming_find(c, "/m/b.gguf", &url));
	assert_null(url);
	assert_false(catalog_coming_find(c, "/m/c.gguf", &url));
	assert_null(url);
	catalog_coming_remove(c, "/m/a.gguf");
	catalog_coming_remove(c, "/m/c.gguf");
	catalog_close(c);
	c = open_it(NULL);
	assert_false(catalog_coming_find(c, "/m/a.gguf", &url));
	assert_true(catalog_coming_find(c, "/m/b.gguf", &url));
	catalog_close(c);
}

static void exec_sql(const char *sql)
{
	sqlite3 *db = NULL;
	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
	sqlite3_close(db);
}

static const char *self;

/* What another process does to an open catalog: it reads it and closes it again. */
static int visit(const char *file)
{
	sqlite3 *db = NULL;
	int rc = sqlite3_open(file, &db);
	rc = rc ? rc : sqlite3_exec(db, "SELECT * FROM steps", NULL, NULL, NULL);
	sqlite3_close(db);
	return rc;
}

static void test_a_visitor_takes_nothing_away(void **state)
{
	(void)state;
	struct catalog *c = open_it(NULL);
	AUTO(mem_freep) char *cmd = mem_fmt("%s --visit %s", self, path);
	for (uint32_t i = 0; i < 3; i++) {
		struct catalog_step s = { .job = (char *)(uintptr_t) "job",
			.ordinal = i,
			.name = (char *)(uintptr_t) "fetch",
			.log = (char *)(uintptr_t) "/l/fetch.log" };
		catalog_step_put(c, &s);
		assert_int_equal(catalog_flush(c, 10000), 0);
		assert_int_equal(system(cmd), 0);
		AUTO(mem_freep) char *wal = mem_fmt("%s-wal", path);
		assert_true(file_exists(wal)); /* the visitor was not the last one */
	}
	catalog_close(c);
	c = open_it(NULL);
	struct catalog_steps all;
	catalog_steps(c, NULL, &all);
	assert_int_equal(all.len, 3);
	assert_string_equal(all.items[2].log, "/l/fetch.log");
	catalog_steps_done(&all);
	catalog_close(c);
}

/* Waits until its input ends, so that all begin at once. */
static int note_one(const char *file, const char *reference)
{
	struct catalog *c = NULL;
	char *note = NULL, byte;
	struct catalog_model m = { .reference = (char *)(uintptr_t)reference, .fetched = true };
	if (read(STDIN_FILENO, &byte, 1) != 0 || catalog_open(file, &c, &note, NULL) || note)
		return 1;
	free(catalog_model_put(c, &m));
	int r = catalog_flush(c, 20000);
	catalog_close(c);
	return r ? 1 : 0;
}

enum { AT_ONCE = 6 };

static void all_begin_at_once(void)
{
	int gate[2];
	pid_t pids[AT_ONCE];
	assert_int_equal(pipe(gate), 0);
	for (int i = 0; i < AT_ONCE; i++) {
		AUTO(mem_freep) char *ref = mem_fmt("hf:o/m%d", i);
		pids[i] = fork();
		if (pids[i] == 0) {
			dup2(gate[0], STDIN_FILENO);
			close(gate[0]);
			close(gate[1]);
			execl(self, self, "--note", path, ref, NULL);
			_exit(127);
		}
		assert_true(pids[i] > 0);
	}
	close(gate[0]);
	close(gate[1]);
	for (int i = 0; i < AT_ONCE; i++) {
		int status;
		assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
		assert_int_equal(status, 0);
	}
}

static void they_are_all_there(void)
{
	struct catalog *c = open_it(NULL);
	struct catalog_models all;
	catalog_models(c, &all);
	assert_int_equal(all.len, AT_ONCE);
	catalog_models_done(&all);
	catalog_close(c);
}

static void test_processes_that_make_it_at_once_lose_nothing(void **state)
{
	(void)state;
	for (int round = 0; round < 4; round++) {
		AUTO(mem_freep) char *cmd = mem_fmt("rm -f %s*", path);
		assert_int_equal(system(cmd), 0);
		all_begin_at_once();
		they_are_all_there();
	}
}

static void test_processes_that_migrate_it_at_once_lose_nothing(void **state)
{
	(void)state;
	for (int round = 0; round < 4; round++) {
		catalog_close(open_it(NULL));
		exec_sql("DELETE FROM models; ALTER TABLE steps DROP COLUMN log; PRAGMA user_version = 1;");
		all_begin_at_once();
		they_are_all_there();
	}
}

static void test_a_newer_file_is_refused(void **state)
{
	(void)state;
	struct catalog *c = open_it(NULL);
	struct err e = { 0 };
	char *note = NULL;
	catalog_close(c);
	exec_sql("PRAGMA user_version = 99");
	assert_int_equal(catalog_open(path, &c, &note, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "a newer version of Corral (schema 99"));
	assert_non_null(strstr(e.msg, "move the file away"));
	assert_null(note);
	assert_true(file_exists(path));
}

static void test_a_damaged_file_is_set_aside(void **state)
{
	(void)state;
	char *note = NULL;
	assert_int_equal(file_write_atomic(path, VIEW("this is no database, but it is long enough to be one"),
				 0600, false),
		0);
	struct catalog *c = open_it(&note);
	assert_non_null(note);
	assert_non_null(strstr(note, "catalog.db.corrupt-1"));
	free(note);
	put_model(c, "hf:org/Repo:Q4_K_M", "org-repo-q4_k_m");
	catalog_close(c);
	c = open_it(NULL);
	check_model(c, "org/repo");
	catalog_close(c);
}

/* It belongs to another program: nothing is written into it. */
static void test_another_programs_file_is_set_aside(void **state)
{
	(void)state;
	char *note = NULL;
	exec_sql("CREATE TABLE theirs (x)");
	struct catalog *c = open_it(&note);
	assert_non_null(strstr(note, "is no catalog"));
	free(note);
	catalog_close(c);
}

static void test_a_file_that_cannot_be_written_is_told_and_nothing_is_lost(void **state)
{
	(void)state;
	struct catalog *c = open_it(NULL);
	sqlite3 *db = NULL;
	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	assert_int_equal(sqlite3_exec(db, "BEGIN EXCLUSIVE", NULL, NULL, NULL), SQLITE_OK);
	put_model(c, "hf:org/Repo:Q4_K_M", "org-repo-q4_k_m");
	check_model(c, "org/repo");
	assert_int_equal(catalog_flush(c, 60000), -EIO);
	AUTO(mem_freep) char *problem = catalog_problem(c);
	assert_non_null(problem);
	assert_non_null(strstr(problem, "locked"));
	sqlite3_close(db);
	catalog_close(c);
	c = open_it(NULL);
	check_model(c, "org/repo");
	catalog_close(c);
}

static void test_in_memory_alone(void **state)
{
	(void)state;
	struct catalog *c = NULL;
	char *note = NULL;
	assert_int_equal(catalog_open(NULL, &c, &note, NULL), 0);
	put_model(c, "hf:org/Repo:Q4_K_M", "org-repo-q4_k_m");
	check_model(c, "org/repo");
	assert_int_equal(catalog_flush(c, 0), 0);
	catalog_close(c);
	assert_false(file_exists(path));
}

static void test_the_one_used_longest_ago_makes_room(void **state)
{
	(void)state;
	struct catalog *c = NULL;
	char *note = NULL;
	assert_int_equal(catalog_open(NULL, &c, &note, NULL), 0);
	for (int i = 0; i < CATALOG_MODELS_MAX; i++) {
		AUTO(mem_freep) char *ref = mem_fmt("hf:o/m%d", i);
		struct catalog_model m = { .reference = ref, .created_ms = i == 7 ? 1 : 1000 + i };
		free(catalog_model_put(c, &m));
	}
	struct catalog_model m = { .reference = (char *)(uintptr_t) "hf:o/new" };
	free(catalog_model_put(c, &m));
	struct catalog_model got;
	assert_int_equal(catalog_model_find(c, "hf:o/m7", &got), -ENOENT);
	assert_int_equal(catalog_model_find(c, "hf:o/m8", &got), 0);
	catalog_model_done(&got);
	catalog_close(c);
}

#define T(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
int main(int argc, char **argv)
{
	if (argc == 3 && strcmp(argv[1], "--visit") == 0)
		return visit(argv[2]);
	if (argc == 4 && strcmp(argv[1], "--note") == 0)
		return note_one(argv[2], argv[3]);
	self = argv[0];
	const struct CMUnitTest tests[] = {
		T(test_a_model_is_there_after_a_restart),
		T(test_ids_are_unique_and_one_reference_is_one_model),
		T(test_no_signature_is_kept),
		T(test_where_a_file_came_from_is_kept),
		T(test_retired_stays_retired),
		T(test_engines_and_steps),
		T(test_files_that_come_are_no_plans_steps),
		T(test_a_visitor_takes_nothing_away),
		T(test_processes_that_make_it_at_once_lose_nothing),
		T(test_processes_that_migrate_it_at_once_lose_nothing),
		T(test_a_newer_file_is_refused),
		T(test_a_damaged_file_is_set_aside),
		T(test_another_programs_file_is_set_aside),
		T(test_a_file_that_cannot_be_written_is_told_and_nothing_is_lost),
		T(test_in_memory_alone),
		T(test_the_one_used_longest_ago_makes_room),
	};
	return cmocka_run_group_tests_name("catalog", tests, NULL, NULL);
}
