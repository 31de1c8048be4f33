/* SPDX-License-Identifier: Apache-2.0
 *
 * Replicas of unlike speed: who gets the next request. Every choice follows from the state alone.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/mem.h"
#include "pool/setup.h"

static void on_grant(void *arg, struct lease l)
{
	(void)arg;
	(void)l;
	fail();
}

static void on_refused(void *arg, const struct pool_refusal *why, enum waiter_end end)
{
	(void)arg;
	(void)why;
	(void)end;
	fail();
}

enum { ASKED_MAX = 16 };

struct world {
	struct loop *loop;
	struct pool *pool;
	struct pool_replica *r[3];
	struct waiter waiters[ASKED_MAX];
	struct lease leases[ASKED_MAX];
	int asked;
};

static struct pool_replica *found;
static void find(void *arg, const struct pool_replica *r)
{
	if (strcmp(r->id, arg) == 0)
		found = (struct pool_replica *)(uintptr_t)r;
}

static struct world *world_make(int replicas, uint32_t slots)
{
	struct world *w = NEW(struct world);
	w->loop = loop_new("speed");
	struct pool_opts o = { .id = "p", .queue_capacity = 8, .max_wait_ms = 1000 };
	w->pool = pool_new(&o);
	for (int i = 0; i < replicas; i++) {
		char id[] = "p-0";
		id[2] = (char)('0' + i);
		replica_put(w->pool, i, slots);
		found = NULL;
		pool_each_replica(w->pool, find, id);
		assert_non_null(found);
		w->r[i] = found;
	}
	return w;
}

static void world_end(struct world *w)
{
	for (int i = 0; i < w->asked; i++)
		assert_int_equal(lease_release(&w->leases[i]), 0);
	for (int i = 0; i < 3 && w->r[i]; i++)
		pool_replica_unref(replica_take(w->pool, i, POOL_FATE_ENDED));
	pool_unref(w->pool);
	loop_free(w->loop);
	free(w);
}

static mono_t at(int64_t ms)
{
	return (mono_t){ 1 + ms * 1000000 };
}

/* The replicas that n requests in a row are sent to, all of them still running: "0010". */
static const char *next(struct world *w, int n, mono_t now)
{
	static char got[ASKED_MAX + 1];
	for (int i = 0; i < n; i++) {
		struct waiter *one = &w->waiters[w->asked];
		struct pool_refusal why;
		waiter_make(one, w->loop, on_grant, on_refused, NULL);
		assert_int_equal(
			pool_acquire(w->pool, one, false, now, &w->leases[w->asked], &why), POOL_GRANTED);
		got[i] = w->leases[w->asked++].replica->id[2];
	}
	got[n] = 0;
	return got;
}

static void served(struct world *w, int i, double prefill_per_s, double tokens_per_s, mono_t now)
{
	struct pool_served s = { .prefilled = 1000,
		.prefill_ms = prefill_per_s > 0 ? 1e6 / prefill_per_s : -1,
		.tokens = 100,
		.tokens_per_s = tokens_per_s };
	pool_replica_served(w->r[i], &s, now);
}

static void test_nothing_measured(void **state)
{
	(void)state;
	struct world *w = world_make(2, 4);
	assert_string_equal(next(w, 6, at(0)), "010101");
	world_end(w);
}

static void test_three_times_as_fast(void **state)
{
	(void)state;
	struct world *w = world_make(2, 4);
	served(w, 0, 1000, 30, at(0));
	served(w, 1, 2900, 87, at(0));
	assert_string_equal(next(w, 8, at(1)), "11011000"); /* three for one, until its slots are in use */
	world_end(w);
}

static void test_the_same_speed(void **state)
{
	(void)state;
	struct world *w = world_make(2, 4);
	served(w, 0, 1000, 30, at(0));
	served(w, 1, 1000, 30, at(0));
	assert_string_equal(next(w, 6, at(1)), "010101");
	world_end(w);
}

/* A fast reader is not a fast writer: what the pool's requests are like decides. */
static void test_what_is_asked_for_counts(void **state)
{
	(void)state;
	struct world *w = world_make(2, 4);
	served(w, 0, 10000, 20, at(0)); /* 0.1 s + 5 s */
	served(w, 1, 500, 50, at(0));   /* 2 s + 2 s */
	assert_string_equal(next(w, 1, at(1)), "1");
	struct pool_served long_prompts = { 20000, -1, 10, -1 };
	for (int i = 0; i < 40; i++)
		pool_replica_served(w->r[0], &long_prompts, at(2));
	served(w, 0, 10000, 20, at(3));
	served(w, 1, 500, 50, at(3));
	assert_string_equal(next(w, 2, at(4)), "00");
	world_end(w);
}

/* One that was never measured gets its first request before one that was gets its second. */
static void test_one_is_new(void **state)
{
	(void)state;
	struct world *w = world_make(3, 2);
	served(w, 0, 1000, 30, at(0));
	served(w, 1, 3000, 90, at(0));
	assert_string_equal(next(w, 4, at(1)), "2110");
	world_end(w);
}

static void test_it_is_forgotten(void **state)
{
	(void)state;
	struct world *w = world_make(2, 4);
	served(w, 0, 1000, 30, at(0));
	served(w, 1, 3000, 90, at(0));
	assert_string_equal(next(w, 2, at(POOL_SPEED_KEPT_MS + 1)), "01");
	world_end(w);
}

/* What engines tell is not always so: nothing of it changes a choice or overflows. */
static void test_nonsense(void **state)
{
	(void)state;
	struct world *w = world_make(2, 1024);
	static const struct pool_served bad[] = {
		{ -1, -1, -1, -1 },
		{ 0, 0, 0, 0 },
		{ INT64_MAX, 1e300, INT64_MAX, 1e-300 },
		{ 1000, __builtin_nan(""), 1000, __builtin_inf() },
	};
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		for (int k = 0; k < 2; k++)
			pool_replica_served(w->r[k], &bad[i], at(0));
	struct pool_speed s;
	pool_replica_speed(w->r[0], &s);
	assert_true(s.cost_ns <= UINT64_C(1) << 40);
	assert_string_equal(next(w, 4, at(1)), "0101");
	world_end(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nothing_measured),
		cmocka_unit_test(test_three_times_as_fast),
		cmocka_unit_test(test_the_same_speed),
		cmocka_unit_test(test_what_is_asked_for_counts),
		cmocka_unit_test(test_one_is_new),
		cmocka_unit_test(test_it_is_forgotten),
		cmocka_unit_test(test_nonsense),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
