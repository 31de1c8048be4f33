/* SPDX-License-Identifier: Apache-2.0
 *
 * Four loops ask, get, cancel, release and cool at once, report replicas as failing and wait for the verdict,
 * while a control thread changes replicas, gives verdicts, ends what cools, half opens circuits, and closes
 * and opens the pool. At each look: 0 <= leases + cooling <= slots for every replica, nobody beside a
 * suspect, and at most one that was granted while the circuit is half open; at the end nothing is held,
 * nobody waits, and every grant was released once.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>
#include <pthread.h>

#include "base/mem.h"
#include "base/rnd.h"
#include "pool/setup.h"

enum { THREADS = 4, ACTORS = 16, STEPS = 20000, REPLICAS = 3 };

struct actor {
	struct worker *worker;
	struct waiter w;
	struct lease lease;
	struct pool_replica *was_on; /* a reference */
	bool waiting, cancelled;     /* cancelled: a grant or refusal is on its way and is not wanted */
};

struct worker {
	struct pool *pool;
	struct loop *loop;
	struct loop_timer again;
	pthread_t thread;
	struct rnd rnd;
	struct actor actors[ACTORS];
	int steps;
	uint64_t grants, releases;
};

static atomic_int running, broken, crashed, alone, half_open;

static void give_back(struct actor *a)
{
	bool cool = rnd_below(&a->worker->rnd, 4) == 0;
	int r = cool ? lease_cool(&a->lease) : lease_release(&a->lease);
	a->worker->releases++;
	if (r || a->lease.replica)
		atomic_fetch_add(&broken, 1);
}

static void on_grant(void *arg, struct lease l)
{
	struct actor *a = arg;
	if (!a->waiting)
		atomic_fetch_add(&broken, 1);
	a->waiting = false;
	a->lease = l;
	a->worker->grants++;
	if (a->cancelled) {
		a->cancelled = false;
		give_back(a);
	}
}

static void on_refused(void *arg, const struct pool_refusal *why, enum waiter_end end)
{
	(void)why;
	struct actor *a = arg;
	if (end == WAITER_FAILED && !a->w.failures)
		atomic_fetch_add(&broken, 1);
	if (!a->waiting || (end == WAITER_CRASHED) != (a->w.crashes >= POOL_CRASHES_MAX))
		atomic_fetch_add(&broken, 1);
	if (end == WAITER_CRASHED)
		atomic_fetch_add(&crashed, 1);
	a->waiting = a->cancelled = false;
}

static void ask(struct actor *a, bool front)
{
	struct pool_refusal why;
	struct worker *k = a->worker;
	if (!front) { /* another request */
		a->w.priority = rnd_below(&k->rnd, 3) ? POOL_INTERACTIVE : POOL_BATCH;
		a->w.crashes = a->w.failures = 0;
		a->w.doubts = a->w.avoids = a->w.sent = false;
		a->w.was_on = NULL;
	}
	switch (pool_acquire(k->pool, &a->w, front, mono_now(), &a->lease, &why)) {
	case POOL_GRANTED: k->grants++; break;
	case POOL_QUEUED: a->waiting = true; break;
	case POOL_FULL:
	case POOL_CLOSED: break;
	}
}

/* Its replica failed it: again, with a doubt or away from it. */
static void fails(struct actor *a)
{
	struct worker *k = a->worker;
	pool_replica_unref(a->was_on);
	a->was_on = a->w.was_on = pool_replica_ref(a->lease.replica);
	a->w.sent = rnd_below(&k->rnd, 4);
	a->w.doubts = rnd_below(&k->rnd, 4);
	a->w.avoids = !a->w.doubts;
	if (a->w.doubts)
		pool_replica_down(a->was_on);
	give_back(a);
	ask(a, true);
}

static void step(struct actor *a)
{
	struct worker *k = a->worker;
	if (a->lease.replica) {
		if (rnd_below(&k->rnd, 4) == 0)
			lease_failed(&a->lease, mono_now());
		switch (rnd_below(&k->rnd, 6)) {
		case 0: fails(a); break;
		case 1: lease_spoke(&a->lease, rnd_below(&k->rnd, 2)); break;
		case 2: break;
		default: give_back(a);
		}
	} else if (!a->waiting) {
		ask(a, rnd_below(&k->rnd, 10) == 0 && !a->w.crashes && !a->w.doubts);
	} else if (!a->cancelled && rnd_below(&k->rnd, 3) == 0) {
		if (pool_cancel(k->pool, &a->w))
			a->waiting = false;
		else
			a->cancelled = true;
	}
}

static bool wind_up(struct worker *k)
{
	bool busy = false;
	for (int i = 0; i < ACTORS; i++) {
		struct actor *a = &k->actors[i];
		if (a->lease.replica)
			give_back(a);
		if (a->waiting && !a->cancelled) {
			if (pool_cancel(k->pool, &a->w))
				a->waiting = false;
			else
				a->cancelled = true;
		}
		busy = busy || a->waiting;
	}
	return busy;
}

static void work(void *arg)
{
	struct worker *k = arg;
	for (int i = 0; i < 50 && k->steps < STEPS; i++, k->steps++)
		step(&k->actors[rnd_below(&k->rnd, ACTORS)]);
	if (k->steps == STEPS && !wind_up(k))
		loop_stop(k->loop);
	else
		loop_timer_start(k->loop, &k->again, 0, work, k);
}

static void *run_worker(void *arg)
{
	struct worker *k = arg;
	loop_timer_start(k->loop, &k->again, 0, work, k);
	(void)loop_run(k->loop);
	atomic_fetch_sub(&running, 1);
	return NULL;
}

static void check(void *arg, const struct pool_replica *r)
{
	(void)arg;
	if (r->in_use + r->cooling > r->slots_total || r->cap > r->slots_total)
		atomic_fetch_add(&broken, 1);
	uint32_t held = 0, lonely = 0;
	for (uint32_t i = 0; i < r->nplaces; i++) {
		held += r->leases[i].id != 0;
		lonely += r->leases[i].id && r->leases[i].id == r->alone;
	}
	if (held != r->in_use || (r->alone && (held != 1 || lonely != 1)))
		atomic_fetch_add(&broken, 1);
	if (r->alone)
		atomic_fetch_add(&alone, 1);
}

static void put(struct pool *p, struct rnd *rnd, uint64_t *generations)
{
	char id[16];
	uint32_t i = (uint32_t)rnd_below(rnd, REPLICAS);
	snprintf(id, sizeof id, "p-%u", i);
	if (rnd_below(rnd, 8) == 0)
		generations[i]++;
	struct pool_replica_facts f = { .id = id,
		.generation = generations[i],
		.address = "unix:/nowhere",
		.slots_total = 1 + (uint32_t)rnd_below(rnd, 6),
		.proving = rnd_below(rnd, 6) == 0,
		.draining = rnd_below(rnd, 6) == 0 };
	pool_replica_unref(pool_put_replica(p, &f));
}

struct found {
	struct pool_replica *list[REPLICAS];
	int n;
};

/* What was granted on a replica before its circuit was half opened: none was meanwhile, while it was open. */
struct tried {
	const struct pool_replica *r;
	uint64_t newest; /* lease */
	bool half_open;
};

static void newest_lease(void *arg, const struct pool_replica *r)
{
	struct tried *t = arg;
	if (r != t->r)
		return;
	t->newest = 0;
	for (uint32_t i = 0; i < r->nplaces; i++)
		t->newest = MAX(t->newest, r->leases[i].id);
}

static void one_on_trial(void *arg, const struct pool_replica *r)
{
	struct tried *t = arg;
	uint32_t newer = 0;
	if (r != t->r || r->circuit != CIRCUIT_HALF_OPEN)
		return;
	for (uint32_t i = 0; i < r->nplaces; i++)
		newer += r->leases[i].id > t->newest;
	if (newer > 1 || (newer == 1) != (r->trial != 0))
		atomic_fetch_add(&broken, 1);
	t->half_open = true;
}

static void find_open(void *arg, const struct pool_replica *r)
{
	struct found *f = arg;
	if (r->circuit == CIRCUIT_OPEN && f->n < REPLICAS)
		f->list[f->n++] = pool_replica_ref((struct pool_replica *)(uintptr_t)r);
}

/* Nobody else half opens one, so what is seen open stays so until then. */
static void try_open_ones(struct pool *p)
{
	struct found f = { 0 };
	pool_each_replica(p, find_open, &f);
	for (int i = 0; i < f.n; i++) {
		struct tried t = { .r = f.list[i] };
		pool_each_replica(p, newest_lease, &t);
		pool_circuit_due(f.list[i], mono_add_ms(mono_now(), POOL_CIRCUIT_OPEN_MS + 1));
		for (int k = 0; k < 3; k++)
			pool_each_replica(p, one_on_trial, &t);
		atomic_fetch_add(&half_open, t.half_open);
		pool_replica_unref(f.list[i]);
	}
}

static void find_down(void *arg, const struct pool_replica *r)
{
	struct found *f = arg;
	if (r->down && f->n < REPLICAS)
		f->list[f->n++] = pool_replica_ref((struct pool_replica *)(uintptr_t)r);
}

/* Verdicts: it crashed, it ended, it answers again. */
static void judge(struct pool *p, struct rnd *rnd)
{
	struct found f = { 0 };
	pool_each_replica(p, find_down, &f);
	for (int i = 0; i < f.n; i++) {
		switch (rnd_below(rnd, 3)) {
		case 0: pool_replica_fate(f.list[i], POOL_FATE_CRASHED); break;
		case 1: pool_replica_fate(f.list[i], POOL_FATE_ENDED); break;
		default: pool_replica_up(f.list[i], mono_now());
		}
		pool_replica_unref(f.list[i]);
	}
}

static void mend(struct pool *p, enum pool_fate fate)
{
	for (int i = 0; i < REPLICAS; i++) {
		struct pool_replica *r = replica_take(p, i, fate); /* the only way to get one by its name */
		if (!r)
			continue;
		pool_cooled(r, 1000);
		pool_replica_up(r, mono_now());
		pool_replica_unref(r);
	}
}

static void *run_control(void *arg)
{
	struct pool *p = arg;
	uint64_t generations[REPLICAS] = { 1, 1, 1 };
	struct rnd rnd;
	rnd_seed(&rnd, 99);
	static const struct pool_refusal closed = { .code = 12 };
	while (atomic_load(&running)) {
		put(p, &rnd, generations);
		pool_each_replica(p, check, NULL);
		if (rnd_below(&rnd, 200) == 0)
			pool_close(p, &closed, rnd_below(&rnd, 2));
		if (rnd_below(&rnd, 20) == 0)
			pool_close(p, &(struct pool_refusal){ 0 }, false);
		if (rnd_below(&rnd, 30) == 0)
			mend(p, rnd_below(&rnd, 2) ? POOL_FATE_CRASHED : POOL_FATE_UNKNOWN);
		if (rnd_below(&rnd, 4) == 0)
			judge(p, &rnd);
		if (rnd_below(&rnd, 4) == 0)
			try_open_ones(p);
		pool_demand_seen(p);
	}
	return NULL;
}

static atomic_uint demands;

static void on_demand(void *arg, struct pool *p)
{
	(void)arg;
	(void)p;
	atomic_fetch_add(&demands, 1);
}

static void worker_make(struct worker *k, struct pool *p, uint64_t seed)
{
	*k = (struct worker){ .pool = p, .loop = loop_new("worker") };
	rnd_seed(&k->rnd, seed);
	for (int i = 0; i < ACTORS; i++) {
		struct actor *a = &k->actors[i];
		a->worker = k;
		waiter_make(&a->w, k->loop, on_grant, on_refused, a);
	}
}

static void test_threads(void **state)
{
	(void)state;
	struct pool_opts o = { .id = "p",
		.queue_capacity = 20,
		.policy = POOL_DROP_LRU,
		.max_wait_ms = 1000,
		.on_demand = on_demand };
	struct pool *p = pool_new(&o);
	static struct worker workers[THREADS];
	pthread_t control;
	atomic_store(&running, THREADS);
	for (int i = 0; i < THREADS; i++) {
		worker_make(&workers[i], p, (uint64_t)i + 1);
		assert_int_equal(pthread_create(&workers[i].thread, NULL, run_worker, &workers[i]), 0);
	}
	assert_int_equal(pthread_create(&control, NULL, run_control, p), 0);
	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_join(workers[i].thread, NULL), 0);
	assert_int_equal(pthread_join(control, NULL), 0);
	uint64_t grants = 0, releases = 0;
	for (int i = 0; i < THREADS; i++) {
		grants += workers[i].grants;
		releases += workers[i].releases;
		loop_free(workers[i].loop);
		for (int k = 0; k < ACTORS; k++)
			pool_replica_unref(workers[i].actors[k].was_on);
	}
	assert_int_equal(atomic_load(&broken), 0);
	assert_true(grants > STEPS / 100);
	assert_int_equal(grants, releases);
	struct pool_stats s;
	pool_get_stats(p, &s);
	assert_int_equal(s.granted, grants);
	assert_int_equal(s.leases, 0);
	assert_int_equal(s.double_releases, 0);
	assert_int_equal(s.waiting[POOL_INTERACTIVE] + s.waiting[POOL_BATCH], 0);
	assert_true(atomic_load(&demands) > 0);
	assert_true(atomic_load(&crashed) > 0 && atomic_load(&alone) > 0 && atomic_load(&half_open) > 0);
	assert_int_equal(atomic_load(&crashed), s.crashed);
	mend(p, POOL_FATE_ENDED);
	pool_unref(p);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_threads) };
	return cmocka_run_group_tests_name("pool_threads", tests, NULL, NULL);
}
