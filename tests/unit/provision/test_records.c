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

#include "getting.h"
#include "provision/catalog/catalog.h"
#include "provision/engine/builds.h"

struct noted {
	struct world w;
	char *db;
	struct catalog *catalog;
	struct steps_store store;
};

static void open_catalog(struct noted *n)
{
	char *note = NULL;
	assert_int_equal(catalog_open(n->db, &n->catalog, &note, NULL), 0);
	n->store = steps_store_catalog(n->catalog);
	n->w.opts.records = &n->store;
}

static int setup(void **state)
{
	struct noted *n = NEW(struct noted);
	world_init(&n->w, "records");
	n->db = path_join(n->w.dir, "catalog.db");
	open_catalog(n);
	*state = n;
	return 0;
}

static int teardown(void **state)
{
	struct noted *n = *state;
	engine_job_cancel(&n->w.job); /* it writes into the catalog */
	catalog_close(n->catalog);
	world_done(&n->w);
	free(n->db);
	free(n);
	return 0;
}

static void read_again(struct noted *n, struct catalog_steps *ret)
{
	catalog_close(n->catalog); /* what is on the disk */
	open_catalog(n);
	catalog_steps(n->catalog, NULL, ret);
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
	struct noted *n = *state;
	struct world *w = &n->w;
	static const char *const names[] = { "fetch", "verify", "unpack", "install" };
	struct engine_def d = world_def(w, ENGINE_MODE_PACKAGE);
	struct catalog_steps s;
	char hash[STEPS_HASH_LEN + 1];
	AUTO(steps_done) struct steps plan = { 0 };
	fake_apt_set(w->dir, "fail", "E: no route to the archive");
	world_ensure(w, &d);
	assert_int_not_equal(w->err.code, 0);
	engine_plan(&d, ENGINE_MODE_PACKAGE, NULL, &plan);
	steps_hash(&plan, hash);
	read_again(n, &s);
	assert_int_equal(s.len, 1);
	assert_string_equal(s.items[0].job, hash);
	assert_string_equal(s.items[0].name, "fetch");
	assert_int_equal(s.items[0].state, STEP_FAILED);
	assert_string_equal(s.items[0].detail, w->err.msg);
	assert_log_has(s.items[0].log, "no route to the archive");
	catalog_steps_done(&s);

	fake_apt_set(w->dir, "fail", NULL);
	world_ensure(w, &d);
	assert_int_equal(w->err.code, 0);
	assert_int_equal(w->top_step, 4);
	assert_int_equal(w->steps, 4);
	read_again(n, &s);
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
	engine_outlook_read(d, &(struct engine_ensure_opts){ .prefix_dir = w->opts.prefix_dir }, &l);
	assert_true(l.here && l.bytes);
	assert_string_equal(l.name, name);
	engine_outlook_done(&l);
}

static void a_package_is_upgraded_and_gone_back_to(void **state)
{
	struct world *w = &((struct noted *)*state)->w;
	struct engine_def d = world_def(w, ENGINE_MODE_PACKAGE);
	struct engine_ensure_opts o = { .prefix_dir = w->opts.prefix_dir };
	struct err e = { 0 };
	char *now = NULL;
	world_ensure(w, &d);
	assert_current(w, &d, "package-0.7.0+dfsg-2");
	assert_int_equal(engine_rollback(&d, &o, &now, &e), -ENOENT);

	fake_apt_set(w->dir, "version", "0.8.0-1");
	world_ensure(w, &d); /* what is here stays until somebody asks for more */
	assert_current(w, &d, "package-0.7.0+dfsg-2");
	w->opts.look = true;
	world_ensure(w, &d);
	assert_string_equal(w->build.version, "0.8.0-1");
	assert_current(w, &d, "package-0.7.0+dfsg-2");
	w->opts.look = false;
	w->opts.upgrade = true;
	static const char *const others[] = { "0.9.0", "0.8", "0.8.0-", "", "0.7.0" };
	for (size_t i = 0; i < ARRAY_LEN(others); i++) {
		w->opts.upgrade_to = others[i];
		world_ensure(w, &d);
		assert_non_null(strstr(w->err.msg, "llama.cpp 0.8.0-1 alone"));
		assert_current(w, &d, "package-0.7.0+dfsg-2");
	}
	w->opts.upgrade_to = "0.8.0";
	world_ensure(w, &d);
	w->opts.upgrade_to = NULL;
	assert_int_equal(w->err.code, 0);
	assert_current(w, &d, "package-0.8.0-1");
	unsigned fetched = fake_apt_calls(w->dir, "fetch");
	world_ensure(w, &d); /* nothing newer */
	assert_int_equal(fake_apt_calls(w->dir, "fetch"), fetched);
	assert_current(w, &d, "package-0.8.0-1");

	struct engine_kepts all;
	size_t at = 9;
	engine_kepts_read(w->opts.prefix_dir, &all);
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
	engine_kepts_read(w->opts.prefix_dir, &all);
	assert_int_equal(engine_kepts_find(&all, "package-0.8", &at, &e), 0);
	assert_int_equal(engine_kept_remove(w->opts.prefix_dir, &all.items[at], &e), 0);
	engine_kepts_done(&all);
	assert_int_equal(engine_rollback(&d, &o, &now, &e), -ENOENT);
	assert_current(w, &d, "package-0.7.0+dfsg-2");
	engine_def_done(&d);
}

static void add_taker(struct world *w, struct engine_takers *t, const char *id, const char *keyring)
{
	struct engine_taker *one = engine_takers_add(t, id);
	one->def = (struct engine_def){ .mode = ENGINE_MODE_PACKAGE, .package_keyring = mem_strdup(keyring) };
	one->opts = (struct engine_ensure_opts){ .prefix_dir = w->opts.prefix_dir };
}

static void a_build_is_free_when_no_pool_takes_it(void **state)
{
	struct noted *noted = *state;
	struct world *w = &noted->w;
	AUTO(mem_freep) char *ring = path_join(w->dir, "keyring.gpg");
	AUTO(engine_takers_done) struct engine_takers t = { 0 };
	struct engine_kepts all;
	struct err e = { 0 };
	size_t at = 9;
	add_taker(w, &t, "one", ring);
	add_taker(w, &t, "other", "/no/such/ring");
	add_taker(w, &t, "two", ring);
	world_ensure(w, &t.items[0].def);
	engine_takers_look(&t);
	engine_kepts_read(w->opts.prefix_dir, &all);
	assert_int_equal(all.len, 1);
	assert_int_equal(engine_kept_free(&all.items[0], &t, &e), -EBUSY);
	assert_string_equal(e.msg, "package-0.7.0+dfsg-2 is the current build of pool one, two");
	assert_false(engine_kept_taken(&all.items[0], engine_takers_find(&t, "other")));
	assert_null(engine_takers_find(&t, "nobody"));
	engine_kepts_done(&all);

	fake_apt_set(w->dir, "version", "0.8.0-1");
	w->opts.upgrade = true;
	world_ensure(w, &t.items[0].def);
	engine_takers_look(&t);
	engine_kepts_read(w->opts.prefix_dir, &all);
	assert_int_equal(engine_kepts_find(&all, "package-0.7", &at, &e), 0);
	assert_int_equal(engine_kept_free(&all.items[at], &t, &e), 0); /* what was before is nobody's */
	assert_int_equal(engine_kepts_find(&all, "package-0.8", &at, &e), 0);
	assert_int_equal(engine_kept_free(&all.items[at], &t, &e), -EBUSY);
	engine_kepts_done(&all);
}

static void a_program_that_does_not_run(void **state)
{
	struct noted *n = *state;
	struct world *w = &n->w;
	struct catalog_steps s;
	AUTO(mem_freep) char *program = path_join(w->dir, "llama-server");
	struct engine_def d = { .mode = ENGINE_MODE_BINARY, .path = mem_strdup(program) };
	assert_int_equal(file_write_atomic(program, VIEW("#!/bin/sh\nexit 3\n"), 0755, false), 0);
	world_ensure(w, &d);
	assert_non_null(strstr(w->err.msg, "exit code 3"));
	read_again(n, &s);
	assert_int_equal(s.len, 1);
	assert_string_equal(s.items[0].name, "verify");
	assert_int_equal(s.items[0].state, STEP_FAILED);
	catalog_steps_done(&s);
	assert_int_equal(file_write_atomic(program, VIEW("#!/bin/sh\necho version: 7\n"), 0755, false), 0);
	world_ensure(w, &d);
	assert_int_equal(w->err.code, 0);
	read_again(n, &s);
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
		T(a_build_is_free_when_no_pool_takes_it),
		T(a_program_that_does_not_run),
		cmocka_unit_test(each_mode_has_its_steps),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
