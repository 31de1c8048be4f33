/* SPDX-License-Identifier: Apache-2.0
 *
 * The loop itself: rounds, deferred and posted work. Timers, descriptors and processes have files of
 * their own.
 */
#include "loop/loop_int.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/mem.h"

static _Thread_local struct loop *current_loop;

struct loop *loop_current(void)
{
	return current_loop;
}

static void must(int r, const char *what)
{
	if (r < 0) {
		fprintf(stderr, "corral: %s: %s\n", what, uv_strerror(r));
		abort();
	}
}

static void run_deferred(struct loop *l)
{
	struct list *n;
	while ((n = list_pop(&l->deferred))) {
		struct loop_work *w = LIST_ENTRY(n, struct loop_work, node);
		w->queued = false;
		w->fn(w->arg);
	}
}

static void run_posted(struct loop *l)
{
	struct list batch;
	list_init(&batch);
	pthread_mutex_lock(&l->post_lock);
	list_splice(&batch, &l->posted);
	pthread_mutex_unlock(&l->post_lock);
	struct list *n;
	while ((n = list_pop(&batch))) {
		struct loop_work *w = LIST_ENTRY(n, struct loop_work, node);
		w->queued = false;
		w->fn(w->arg);
	}
}

static void on_async(uv_async_t *a)
{
	struct loop *l = a->data;
	loop_note_wake(l);
	run_posted(l);
	if (atomic_load_explicit(&l->stopping, memory_order_acquire))
		uv_stop(&l->uv);
}

/* Everything this round brought has been delivered. */
static void end_round(struct loop *l)
{
	run_deferred(l);
	if (!l->round_open)
		return;
	l->round_open = false;
	uint64_t busy = (uint64_t)(mono_now().ns - l->now.ns);
	atomic_fetch_add_explicit(&l->rounds, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&l->busy_ns, busy, memory_order_relaxed);
	if (busy > atomic_load_explicit(&l->max_busy_ns, memory_order_relaxed))
		atomic_store_explicit(&l->max_busy_ns, busy, memory_order_relaxed);
}

/* After poll. */
static void on_check(uv_check_t *c)
{
	end_round(c->data);
}

/* Before poll: timers have a round of their own. */
static void on_prepare(uv_prepare_t *p)
{
	end_round(p->data);
}

void loop_note_wake(struct loop *l)
{
	if (l->round_open)
		return;
	l->round_open = true;
	l->now = mono_now();
}

struct loop *loop_new(const char *name)
{
	struct loop *l = NEW(struct loop);
	l->name = mem_strdup(name);
	list_init(&l->deferred);
	list_init(&l->posted);
	pthread_mutex_init(&l->post_lock, NULL);
	must(uv_loop_init(&l->uv), "event loop");
	must(uv_async_init(&l->uv, &l->async, on_async), "event loop wake-up");
	must(uv_check_init(&l->uv, &l->check), "event loop");
	must(uv_prepare_init(&l->uv, &l->prepare), "event loop");
	must(uv_timer_init(&l->uv, &l->tick), "event loop timer");
	l->async.data = l->check.data = l->prepare.data = l->tick.data = l;
	uv_check_start(&l->check, on_check);
	uv_prepare_start(&l->prepare, on_prepare);
	l->now = mono_now();
	return l;
}

void loop_free(struct loop *l)
{
	if (!l)
		return;
	run_posted(l);
	run_deferred(l);
	while (l->offloads) /* their threads hold memory of ours */
		uv_run(&l->uv, UV_RUN_ONCE);
	loop_close_procs(l);
	uv_close((uv_handle_t *)&l->async, NULL);
	uv_close((uv_handle_t *)&l->check, NULL);
	uv_close((uv_handle_t *)&l->prepare, NULL);
	uv_close((uv_handle_t *)&l->tick, NULL);
	/* Handles that were stopped are closing; give each its close callback. */
	for (int i = 0; i < 64 && uv_run(&l->uv, UV_RUN_NOWAIT) != 0; i++)
		;
	run_posted(l);
	run_deferred(l);
	if (uv_loop_close(&l->uv) == UV_EBUSY)
		fprintf(stderr, "corral: loop %s freed with open handles\n", l->name);
	pthread_mutex_destroy(&l->post_lock);
	free(l->heap);
	free(l->name);
	free(l);
}

const char *loop_name(const struct loop *l)
{
	return l->name;
}

int loop_run(struct loop *l)
{
	char short_name[16];
	snprintf(short_name, sizeof short_name, "%s", l->name);
	struct loop *outer = current_loop;
	if (getpid() != gettid())
		pthread_setname_np(pthread_self(), short_name);
	current_loop = l;
	l->now = mono_now();
	while (!atomic_load_explicit(&l->stopping, memory_order_acquire))
		uv_run(&l->uv, UV_RUN_DEFAULT);
	atomic_store_explicit(&l->stopping, false, memory_order_release); /* it may be run again */
	run_posted(l);
	run_deferred(l);
	current_loop = outer;
	return 0;
}

void loop_stop(struct loop *l)
{
	atomic_store_explicit(&l->stopping, true, memory_order_release);
	uv_async_send(&l->async);
}

mono_t loop_now(const struct loop *l)
{
	return l->now;
}

void loop_defer(struct loop *l, struct loop_work *w, loop_fn *fn, void *arg)
{
	if (w->queued)
		return;
	w->fn = fn;
	w->arg = arg;
	w->queued = true;
	list_append(&l->deferred, &w->node);
}

void loop_defer_cancel(struct loop_work *w)
{
	if (!w->queued)
		return;
	w->queued = false;
	list_remove(&w->node);
}

struct owned_work {
	struct loop_work work;
	loop_fn *fn;
	void *arg;
};

static void run_owned(void *arg)
{
	struct owned_work *o = arg;
	loop_fn *fn = o->fn;
	void *fn_arg = o->arg;
	free(o);
	fn(fn_arg);
}

void loop_defer_call(struct loop *l, loop_fn *fn, void *arg)
{
	struct owned_work *o = NEW(struct owned_work);
	o->fn = fn;
	o->arg = arg;
	loop_defer(l, &o->work, run_owned, o);
}

void loop_defer_free(struct loop *l, void *p)
{
	if (p)
		loop_defer_call(l, free, p);
}

void loop_post(struct loop *l, struct loop_work *w, loop_fn *fn, void *arg)
{
	w->fn = fn;
	w->arg = arg;
	w->queued = true;
	pthread_mutex_lock(&l->post_lock);
	bool first = list_empty(&l->posted);
	list_append(&l->posted, &w->node);
	pthread_mutex_unlock(&l->post_lock);
	if (first)
		uv_async_send(&l->async);
}

void loop_post_call(struct loop *l, loop_fn *fn, void *arg)
{
	struct owned_work *o = NEW(struct owned_work);
	o->fn = fn;
	o->arg = arg;
	loop_post(l, &o->work, run_owned, o);
}

struct offload {
	uv_work_t req;
	loop_fn *work, *done;
	void *arg;
};

static void offload_work(uv_work_t *req)
{
	struct offload *o = req->data;
	o->work(o->arg);
}

static void offload_done(uv_work_t *req, int status)
{
	(void)status;
	struct offload *o = req->data;
	struct loop *l = req->loop->data;
	loop_note_wake(l);
	l->offloads--;
	o->done(o->arg);
	free(o);
}

void loop_offload(struct loop *l, loop_fn *work, loop_fn *done, void *arg)
{
	struct offload *o = NEW(struct offload);
	o->req.data = o;
	o->work = work;
	o->done = done;
	o->arg = arg;
	l->uv.data = l;
	l->offloads++;
	must(uv_queue_work(&l->uv, &o->req, offload_work, offload_done), "work queue");
}

struct loop_stats loop_stats_take(struct loop *l)
{
	return (struct loop_stats){
		.rounds = atomic_load_explicit(&l->rounds, memory_order_relaxed),
		.busy_ns = atomic_load_explicit(&l->busy_ns, memory_order_relaxed),
		.max_busy_ns = atomic_exchange_explicit(&l->max_busy_ns, 0, memory_order_relaxed),
	};
}
