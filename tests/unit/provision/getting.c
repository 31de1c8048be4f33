/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "getting.h"

enum { DEADLINE_MS = 60000, POLL_MS = 5 };

void world_init(struct world *w, const char *name)
{
	*w = (struct world){ .deadline_ms = DEADLINE_MS };
	snprintf(w->dir, sizeof w->dir, "/tmp/corral-%s-XXXXXX", name);
	assert_non_null(mkdtemp(w->dir));
	w->loop = loop_new("test");
	w->opts = (struct engine_ensure_opts){
		.prefix_dir = path_join(w->dir, "engines"), .allow_cpu = true, .devices = w->devices
	};
	unsetenv("CORRAL_LLAMA_SERVER");
	unsetenv("CORRAL_PACKAGE_ARCHIVE");
	fake_apt_make(w->dir);
}

void world_done(struct world *w)
{
	engine_job_cancel(&w->job);
	loop_timer_stop(&w->deadline);
	loop_timer_stop(&w->poll);
	loop_free(w->loop);
	engine_build_done(&w->build);
	strv_done(&w->progress);
	if (w->dir[0])
		tree_remove(w->dir);
	free((char *)(uintptr_t)w->opts.prefix_dir);
}

struct engine_def world_def(const struct world *w, enum engine_mode mode)
{
	struct engine_def d = { .mode = mode };
	d.package_keyring = path_join(w->dir, "keyring.gpg");
	return d;
}

static void on_progress(void *arg, const struct engine_progress *p)
{
	struct world *w = arg;
	assert_false(w->inside);
	strv_addf(&w->progress, "%s: %s", p->phase, p->text);
	w->top_pct = MAX(w->top_pct, p->pct);
	w->top_step = MAX(w->top_step, p->step);
	w->steps = MAX(w->steps, p->steps);
	if (w->loud)
		fprintf(stderr, "# %lld %s %d %s\n", (long long)(mono_now().ns / 1000000), p->phase, p->pct,
			p->text);
}

static void on_done(void *arg, const struct engine_build *build, const struct err *err)
{
	struct world *w = arg;
	assert_false(w->inside);
	w->done = true;
	w->job = NULL;
	if (build)
		engine_build_copy(&w->build, build);
	else
		w->err = *err;
	loop_stop(w->loop);
}

void world_start(struct world *w, const struct engine_def *d)
{
	engine_build_done(&w->build);
	w->build = (struct engine_build){ 0 };
	w->err = (struct err){ 0 };
	w->done = false;
	w->inside = true;
	w->job = engine_ensure(w->loop, d, &w->opts, on_progress, on_done, w);
	w->inside = false;
}

static void on_deadline(void *arg)
{
	struct world *w = arg;
	w->late = true;
	loop_stop(w->loop);
}

void world_run(struct world *w)
{
	loop_timer_start(w->loop, &w->deadline, w->deadline_ms, on_deadline, w);
	loop_run(w->loop);
	loop_timer_stop(&w->deadline);
	if (w->late)
		fail_msg("nothing happened before the deadline");
}

static void poll_file(void *arg)
{
	struct world *w = arg;
	AUTO(mem_freep) char *p = path_join(w->dir, w->wait_for);
	if (file_exists(p))
		loop_stop(w->loop);
	else
		loop_timer_start(w->loop, &w->poll, POLL_MS, poll_file, w);
}

void world_run_until_file(struct world *w, const char *name)
{
	w->wait_for = name;
	loop_timer_start(w->loop, &w->poll, 1, poll_file, w);
	world_run(w);
}

void world_ensure(struct world *w, const struct engine_def *d)
{
	world_start(w, d);
	world_run(w);
	assert_true(w->done);
}
