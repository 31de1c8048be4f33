/* SPDX-License-Identifier: Apache-2.0
 *
 * Four loops on one pool lease, queue and release as fast as they can; CORRAL_TEST_SLOW=1 does it ten million
 * times. Nobody is granted a slot before one who waited for it already (no barging), and whoever waits is
 * granted one (no lost wake-up: else this does not end; and no look finds a free slot while somebody waits).
 *
 * Barging is seen by a clock that ticks with each request: a waiter that was in the queue at one tick, and a
 * grant with an earlier number to a request that began at a later one.
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

enum { THREADS = 4, ACTORS = 16, REPLICAS = 2, SLOTS = 6, SHORT = 200000, LONG = 10000000, RING = 4096 };
enum { AT_ONCE = 64 }; /* steps before the loop may deliver grants */

struct actor {
	struct worker *worker;
	struct waiter w;
	struct lease lease;
	uint32_t began, queued; /* ticks */
	bool waits, unwanted;   /* unwanted: it left while its grant was on its way */
};

struct worker {
	struct pool *pool;
	struct loop *loop;
	struct loop_work again;
	bool posted;
	pthread_t thread;
	struct rnd rnd;
	struct actor actors[ACTORS];
	uint64_t leases, queued, left, todo;
};

static atomic_uint ticks;
static atomic_uint barged, wasted, broken;
/* Of the last RING grants: lease id << 32 | tick at which its request began; batch ones apart. */
static atomic_uint_fast64_t given[POOL_PRIORITY_COUNT][RING];

static uint32_t tick(void)
{
	return atomic_fetch_add_explicit(&ticks, 1, memory_order_seq_cst);
}

static void note(const struct actor *a)
{
	uint64_t id = a->lease.id & UINT32_MAX;
	atomic_store(&given[a->w.priority][id % RING], id << 32 | a->began);
}

/* Looks at the grants before a's for one whose request began when a was waiting. A batch request may be
 * passed by an interactive one. */
static void look_back(const struct actor *a)
{
	uint32_t id = (uint32_t)a->lease.id;
	for (int p = (int)a->w.priority; p < (int)POOL_PRIORITY_COUNT; p++) {
		for (uint32_t k = 1; k <= 2 * THREADS * ACTORS && k < id; k++) {
			uint64_t g = atomic_load(&given[p][(id - k) % RING]);
			if ((uint32_t)(g >> 32) == id - k && (int32_t)((uint32_t)g - a->queued) > 0)
				atomic_fetch_add(&barged, 1);
		}
	}
}

static void work(void *arg);
static void go_on(struct worker *k);

static void give_back(struct actor *a)
{
	if (lease_release(&a->lease))
		atomic_fetch_add(&broken, 1);
	a->worker->leases++;
}

static void on_grant(void *arg, struct lease l)
{
	struct actor *a = arg;
	a->lease = l;
	a->waits = false;
	note(a);
	if (a->worker->queued++ % 16 == 0)
		look_back(a);
	if (a->unwanted || rnd_below(&a->worker->rnd, 8))
		give_back(a);
	a->unwanted = false;
	go_on(a->worker);
}

static void on_refused(void *arg, const struct pool_refusal *why, enum waiter_end end)
{
	(void)arg;
	(void)why;
	(void)end;
	atomic_fetch_add(&broken, 1);
}

static void ask(struct actor *a)
{
	struct pool_refusal why;
	a->w.priority = rnd_below(&a->worker->rnd, 8) ? POOL_INTERACTIVE : POOL_BATCH;
	a->began = tick();
	enum pool_answer answer = pool_acquire(a->worker->pool, &a->w, false, mono_now(), &a->lease, &why);
	a->waits = answer == POOL_QUEUED;
	if (a->waits)
		a->queued = tick();
	else if (answer == POOL_GRANTED)
		note(a);
	else
		atomic_fetch_add(&broken, 1);
}

static void step(struct worker *k, struct actor *a)
{
	if (a->lease.replica) {
		give_back(a);
	} else if (!a->waits) {
		ask(a);
	} else if (!a->unwanted && rnd_below(&k->rnd, 64) == 0) {
		k->left++;
		a->unwanted = !pool_cancel(k->pool, &a->w);
		a->waits = a->unwanted;
	}
}

static void look(struct worker *k)
{
	struct pool_stats s;
	pool_get_stats(k->pool, &s);
	if (s.slots_free && s.waiting[POOL_INTERACTIVE] + s.waiting[POOL_BATCH])
		atomic_fetch_add(&wasted, 1);
	if (s.leases > REPLICAS * SLOTS)
		atomic_fetch_add(&broken, 1);
}

/* What there is to do but to wait for a grant: nothing, when all wait. Ends the loop when all is done. */
static void go_on(struct worker *k)
{
	bool waits = false, busy = false;
	for (int i = 0; i < ACTORS; i++) {
		waits |= k->actors[i].waits;
		busy |= !k->actors[i].waits;
	}
	if (k->leases >= k->todo) {
		for (int i = 0; i < ACTORS; i++)
			if (k->actors[i].lease.replica)
				give_back(&k->actors[i]);
		if (!waits)
			loop_stop(k->loop);
	} else if (busy && !k->posted) {
		k->posted = true;
		loop_post(k->loop, &k->again, work, k);
	}
}

static void work(void *arg)
{
	struct worker *k = arg;
	k->posted = false;
	for (int i = 0; i < AT_ONCE && k->leases < k->todo; i++)
		step(k, &k->actors[rnd_below(&k->rnd, ACTORS)]);
	look(k);
	go_on(k);
}

static void *run_worker(void *arg)
{
	struct worker *k = arg;
	go_on(k);
	(void)loop_run(k->loop);
	return NULL;
}

static struct pool *make_pool(void)
{
	struct pool_opts o = { .id = "p", .queue_capacity = THREADS * ACTORS, .max_wait_ms = 1000 };
	struct pool *p = pool_new(&o);
	for (int i = 0; i < REPLICAS; i++)
		replica_put(p, i, SLOTS);
	return p;
}

static void free_pool(struct pool *p)
{
	for (int i = 0; i < REPLICAS; i++)
		pool_replica_unref(replica_take(p, i, POOL_FATE_ENDED));
	pool_unref(p);
}

static void make_worker(struct worker *k, struct pool *p, uint64_t seed)
{
	const char *slow = getenv("CORRAL_TEST_SLOW");
	*k = (struct worker){ .pool = p,
		.loop = loop_new("load"),
		.todo = (unsigned)(slow && *slow ? LONG : SHORT) / THREADS };
	rnd_seed(&k->rnd, seed);
	for (int i = 0; i < ACTORS; i++) {
		struct actor *a = &k->actors[i];
		a->worker = k;
		waiter_make(&a->w, k->loop, on_grant, on_refused, a);
	}
}

static void test_load(void **state)
{
	(void)state;
	static struct worker workers[THREADS];
	struct pool *p = make_pool();
	uint64_t leases = 0, queued = 0, left = 0;
	mono_t began = mono_now();
	for (int i = 0; i < THREADS; i++) {
		make_worker(&workers[i], p, (uint64_t)i + 1);
		assert_int_equal(pthread_create(&workers[i].thread, NULL, run_worker, &workers[i]), 0);
	}
	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_join(workers[i].thread, NULL), 0);
	for (int i = 0; i < THREADS; i++) {
		leases += workers[i].leases;
		queued += workers[i].queued;
		left += workers[i].left;
		loop_free(workers[i].loop);
	}
	printf("# %llu leases, %llu of them from the queue, %llu left it; %lld ms\n",
		(unsigned long long)leases, (unsigned long long)queued, (unsigned long long)left,
		(long long)mono_ms_between(began, mono_now()));
	struct pool_stats s;
	pool_get_stats(p, &s);
	assert_int_equal(atomic_load(&barged), 0);
	assert_int_equal(atomic_load(&wasted), 0);
	assert_int_equal(atomic_load(&broken), 0);
	assert_true(queued > leases / 20 && left > 0);
	assert_int_equal(s.granted, leases);
	assert_int_equal(
		s.leases + s.waiting[POOL_INTERACTIVE] + s.waiting[POOL_BATCH] + s.double_releases, 0);
	free_pool(p);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_load) };
	return cmocka_run_group_tests_name("pool_load", tests, NULL, NULL);
}
