/* SPDX-License-Identifier: Apache-2.0
 *
 * What is remembered of a job's steps, and what each wrote: of the package mode with a fake apt, of a program
 * that is there, and the plans of all modes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include <cmocka.h>

#include "fake_apt.h"
#include "provision/catalog/catalog.h"
#include "provision/engine/builds.h"
#include "provision/engine/engine_int.h"

enum { DEADLINE_MS = 60000 };

struct world {
	char dir[64];
	char *prefix, *db;
	struct loop *loop;
	struct loop_timer deadline;
	struct engine_job *job;
	struct catalog *catalog;
	bool done, late;
	char *error, *version;
	unsigned top, of;
	bool upgrade, look;
};

static void on_progress(void *arg, const struct engine_progress *p)
{
	struct world *w = arg;
	w->top = MAX(w->top, p->step);
	w->of = MAX(w->of, p->steps);
}

static void on_done(void *arg, const struct engine_build *build, const struct err *err)
{
	struct world *w = arg;
	w->job = NULL;
	mem_setstr(&w->version, build ? build->version : NULL);
	w->done = true;
	mem_setstr(&w->error, err ? err->msg : NULL);
	loop_stop(w->loop);
}

static void on_deadline(void *arg)
{
	struct world *w = arg;
	w->late = true;
	loop_stop(w->loop);
}

static void ensure(struct world *w, const struct engine_def *d)
{
	struct steps_store store = steps_store_catalog(w->catalog);
	struct engine_ensure_opts o = { .prefix_dir = w->prefix,
		.allow_cpu = true,
		.records = &store,
		.upgrade = w->upgrade,
		.look = w->look };
	w->done = false;
	w->job = engine_ensure(w->loop, d, &o, on_progress, on_done, w);
	loop_timer_start(w->loop, &w->deadline, DEADLINE_MS, on_deadline, w);
	loop_run(w->loop);
	loop_timer_stop(&w->deadline);
	assert_true(w->done && !w->late);
}

static int setup(void **state)
{
	struct world *w = NEW(struct world);
	snprintf(w->dir, sizeof w->dir, "/tmp/corral-records-XXXXXX");
	assert_non_null(mkdtemp(w->dir));
	w->prefix = path_join(w->dir, "engines");
	w->db = path_join(w->dir, "catalog.db");
	w->loop = loop_new("test");
	char *note = NULL;
	assert_int_equal(catalog_open(w->db, &w->catalog, &note, NULL), 0);
	unsetenv("CORRAL_LLAMA_SERVER");
	unsetenv("CORRAL_PACKAGE_ARCHIVE");
	fake_apt_make(w->dir);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;
	engine_job_cancel(&w->job);
	catalog_close(w->catalog);
	loop_free(w->loop);
	tree_remove(w->dir);
	free(w->prefix);
	free(w->db);
	free(w->error);
	free(w->version);
	free(w);
	return 0;
}

static void read_again(struct world *w, struct catalog_steps *ret)
{
	char *note = NULL;
	catalog_close(w->catalog); /* what is on the disk */
	assert_int_equal(catalog_open(w->db, &w->catalog, &note, NULL), 0);
	catalog_steps(w->catalog, NULL, ret);
}

static void assert_log_has(const char *file, const char *text)
{
	AUTO(buf_done) struct buf b = BUF(1 * MIB);
	assert_non_null(file);
	assert_int_equal(file_read(file, &b), 0);
	if (!strstr(buf_str(&b), text))
		fail_msg("%s does not say \"%s\": %s", file, text, buf_str(&b));
}

static void a_package_leaves_its_steps_and_logs(void **state)
{
	struct world *w = *state;
	static const char *const names[] = { "fetch", "verify", "unpack", "install" };
	struct engine_def d = { .mode = ENGINE_MODE_PACKAGE };
	struct catalog_steps s;
	char hash[STEPS_HASH_LEN + 1];
	AUTO(steps_done) struct steps plan = { 0 };
	d.package_keyring = path_join(w->dir, "keyring.gpg");
	fake_apt_set(w->dir, "fail", "E: no route to the archive");
	ensure(w, &d);
	assert_non_null(w->error);
	engine_plan(&d, ENGINE_MODE_PACKAGE, NULL, &plan);
	steps_hash(&plan, hash);
	read_again(w, &s);
	assert_int_equal(s.len, 1);
	assert_string_equal(s.items[0].job, hash);
	assert_string_equal(s.items[0].name, "fetch");
	assert_int_equal(s.items[0].state, STEP_FAILED);
	assert_string_equal(s.items[0].detail, w->error);
	assert_log_has(s.items[0].log, "no route to the archive");
	catalog_steps_done(&s);

	fake_apt_set(w->dir, "fail", NULL);
	ensure(w, &d);
	assert_null(w->error);
	assert_int_equal(w->top, 4);
	assert_int_equal(w->of, 4);
	read_again(w, &s);
	assert_int_equal(s.len, ARRAY_LEN(names));
	for (size_t i = 0; i < s.len; i++) {
		assert_string_equal(s.items[i].name, names[i]);
		assert_int_equal(s.items[i].state, STEP_DONE);
		assert_true(s.items[i].started_ms && s.items[i].ended_ms >= s.items[i].started_ms);
		assert_null(s.items[i].detail);
	}
	assert_log_has(s.items[2].log, "Unpacking package 1 of 2.");
	catalog_steps_done(&s);
	engine_def_done(&d);
}

static void assert_current(struct world *w, const struct engine_def *d, const char *name)
{
	struct engine_outlook l;
	engine_outlook_read(d, &(struct engine_ensure_opts){ .prefix_dir = w->prefix }, &l);
	assert_true(l.here && l.bytes);
	assert_string_equal(l.name, name);
	engine_outlook_done(&l);
}

static void a_package_is_upgraded_and_gone_back_to(void **state)
{
	struct world *w = *state;
	struct engine_def d = { .mode = ENGINE_MODE_PACKAGE };
	struct engine_ensure_opts o = { .prefix_dir = w->prefix };
	struct err e = { 0 };
	char *now = NULL;
	d.package_keyring = path_join(w->dir, "keyring.gpg");
	ensure(w, &d);
	assert_current(w, &d, "package-0.7.0+dfsg-2");
	assert_int_equal(engine_rollback(&d, &o, &now, &e), -ENOENT);

	fake_apt_set(w->dir, "version", "0.8.0-1");
	ensure(w, &d); /* what is here stays until somebody asks for more */
	assert_current(w, &d, "package-0.7.0+dfsg-2");
	w->look = true;
	ensure(w, &d);
	assert_string_equal(w->version, "0.8.0-1");
	assert_current(w, &d, "package-0.7.0+dfsg-2");
	w->look = false;
	w->upgrade = true;
	ensure(w, &d);
	assert_null(w->error);
	assert_current(w, &d, "package-0.8.0-1");
	unsigned fetched = fake_apt_calls(w->dir, "fetch");
	ensure(w, &d); /* nothing newer */
	assert_int_equal(fake_apt_calls(w->dir, "fetch"), fetched);
	assert_current(w, &d, "package-0.8.0-1");

	struct engine_kepts all;
	size_t at = 9;
	engine_kepts_read(w->prefix, &all);
	assert_int_equal(all.len, 2);
	assert_int_equal(engine_kepts_find(&all, "package-0.8", &at, &e), 0);
	assert_true(all.items[at].current && !all.items[at].last);
	assert_int_equal(engine_kepts_find(&all, "package-0.7", &at, &e), 0);
	assert_true(all.items[at].last && all.items[at].bytes);
	engine_kepts_done(&all);

	for (int i = 0; i < 3; i++) {
		assert_int_equal(engine_rollback(&d, &o, &now, &e), 0);
		free(MEM_TAKE(now));
		assert_current(w, &d, i % 2 ? "package-0.8.0-1" : "package-0.7.0+dfsg-2");
	}
	engine_kepts_read(w->prefix, &all);
	assert_int_equal(engine_kepts_find(&all, "package-0.8", &at, &e), 0);
	assert_int_equal(engine_kept_remove(w->prefix, &all.items[at], &e), 0);
	engine_kepts_done(&all);
	assert_int_equal(engine_rollback(&d, &o, &now, &e), -ENOENT);
	assert_current(w, &d, "package-0.7.0+dfsg-2");
	engine_def_done(&d);
}

static void a_program_that_does_not_run(void **state)
{
	struct world *w = *state;
	struct catalog_steps s;
	AUTO(mem_freep) char *program = path_join(w->dir, "llama-server");
	struct engine_def d = { .mode = ENGINE_MODE_BINARY, .path = mem_strdup(program) };
	assert_int_equal(file_write_atomic(program, VIEW("#!/bin/sh\nexit 3\n"), 0755, false), 0);
	ensure(w, &d);
	assert_non_null(strstr(w->error, "exit code 3"));
	read_again(w, &s);
	assert_int_equal(s.len, 1);
	assert_string_equal(s.items[0].name, "verify");
	assert_int_equal(s.items[0].state, STEP_FAILED);
	catalog_steps_done(&s);
	assert_int_equal(file_write_atomic(program, VIEW("#!/bin/sh\necho version: 7\n"), 0755, false), 0);
	ensure(w, &d);
	assert_null(w->error);
	read_again(w, &s);
	assert_int_equal(s.len, 1);
	assert_int_equal(s.items[0].state, STEP_DONE);
	catalog_steps_done(&s);
	engine_def_done(&d);
}

static void each_mode_has_its_steps(void **state)
{
	(void)state;
	static const struct {
		enum engine_mode mode;
		const char *what, *steps;
	} rows[] = { { ENGINE_MODE_PACKAGE, NULL, "fetch verify unpack install " },
		{ ENGINE_MODE_CONTAINER, "example.org/a:b", "fetch verify " },
		{ ENGINE_MODE_BINARY, NULL, "fetch verify unpack install " },
		{ ENGINE_MODE_EXTERNAL, NULL, "" } };
	struct engine_def d = { .sha256 = mem_strdup("abc") };
	char first[STEPS_HASH_LEN + 1], again[STEPS_HASH_LEN + 1];
	strv_add(&d.urls, "https://example.org/a.tar.gz");
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		AUTO(steps_done) struct steps s = { 0 }, t = { 0 };
		AUTO(buf_done) struct buf b = BUF(1024);
		engine_plan(&d, rows[i].mode, rows[i].what, &s);
		engine_plan(&d, rows[i].mode, rows[i].what, &t);
		for (size_t k = 0; k < s.len; k++)
			(void)buf_addf(&b, "%s ", step_name(s.items[k].kind));
		assert_string_equal(buf_str(&b), rows[i].steps);
		steps_hash(&s, first);
		steps_hash(&t, again);
		assert_string_equal(first, again);
	}
	AUTO(steps_done) struct steps p = { 0 };
	engine_plan_pool("hf:org/repo", NULL, &p);
	assert_int_equal(p.len, 2);
	assert_int_equal(p.items[0].kind, STEP_MODEL_FETCH);
	assert_int_equal(p.items[1].kind, STEP_CANARY);
	engine_def_done(&d);
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
int main(void)
{
	const struct CMUnitTest tests[] = {
		T(a_package_leaves_its_steps_and_logs),
		T(a_package_is_upgraded_and_gone_back_to),
		T(a_program_that_does_not_run),
		cmocka_unit_test(each_mode_has_its_steps),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
