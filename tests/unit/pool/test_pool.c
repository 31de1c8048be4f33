/* SPDX-License-Identifier: Apache-2.0
 *
 * One thread: order, priorities, policies, cancelling, leases, generations, closing. Grants come by the
 * loop, so each test runs it until a posted mark has passed.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/mem.h"
#include "pool/setup.h"

enum { WAITERS = 8 };

struct client {
	struct waiter w;
	struct lease lease;
	struct pool_replica *was_on; /* a reference */
	int grants, refusals, victims, order;
	struct pool_refusal why;
	enum waiter_end end;
};

struct world {
	struct loop *loop;
	struct pool *pool;
	struct client clients[WAITERS];
	int demands, granted; /* granted: counts up, so that order can be told */
};

static void on_demand(void *arg, struct pool *p)
{
	struct world *w = arg;
	w->demands++;
	pool_demand_seen(p);
}

static struct world *world_of(struct client *c);

static void on_grant(void *arg, struct lease l)
{
	struct client *c = arg;
	assert_null(c->lease.replica);
	c->lease = l;
	c->grants++;
	c->order = ++world_of(c)->granted;
}

static void on_refused(void *arg, const struct pool_refusal *why, enum waiter_end end)
{
	struct client *c = arg;
	c->refusals++;
	c->victims += end == WAITER_DROPPED;
	c->end = end;
	c->why = *why;
}

static struct world *only;

static struct world *world_of(struct client *c)
{
	(void)c;
	return only;
}

static void world_make(struct world *w, uint32_t capacity, enum pool_policy policy)
{
	*w = (struct world){ .loop = loop_new("pool") };
	only = w;
	struct pool_opts o = { .id = "p",
		.queue_capacity = capacity,
		.policy = policy,
		.max_wait_ms = 1000,
		.cancel_grace_ms = 100,
		.on_demand = on_demand,
		.arg = w };
	w->pool = pool_new(&o);
	for (int i = 0; i < WAITERS; i++)
		waiter_make(&w->clients[i].w, w->loop, on_grant, on_refused, &w->clients[i]);
}

static void world_end(struct world *w)
{
	for (int i = 0; i < WAITERS; i++)
		if (w->clients[i].lease.replica)
			assert_int_equal(lease_release(&w->clients[i].lease), 0);
	for (int i = 0; i < WAITERS; i++)
		pool_replica_unref(w->clients[i].was_on);
	for (int i = 0; i < 4; i++)
		pool_replica_unref(replica_take(w->pool, i, POOL_FATE_ENDED));
	pool_unref(w->pool);
	loop_free(w->loop);
}

static void stop(void *arg)
{
	loop_stop(arg);
}

/* Everything posted so far is delivered. */
static void turn(struct world *w)
{
	loop_post_call(w->loop, stop, w->loop);
	assert_int_equal(loop_run(w->loop), 0);
}

static void put(struct world *w, const char *id, uint64_t generation, uint32_t slots)
{
	struct pool_replica_facts f = {
		.id = id, .generation = generation, .address = "unix:/nowhere", .slots_total = slots
	};
	pool_replica_unref(pool_put_replica(w->pool, &f));
}

static enum pool_answer ask(struct world *w, int i, enum pool_priority prio, bool front)
{
	struct client *c = &w->clients[i];
	c->w.priority = prio;
	return pool_acquire(w->pool, &c->w, front, mono_now(), &c->lease, &c->why);
}

static struct pool_stats stats(struct world *w)
{
	struct pool_stats s;
	pool_get_stats(w->pool, &s);
	return s;
}

static void test_order(void **state)
{
	(void)state;
	struct world w;
	world_make(&w, 8, POOL_REJECT);
	put(&w, "p-0", 1, 1);
	assert_int_equal(ask(&w, 0, POOL_INTERACTIVE, false), POOL_GRANTED);
	assert_int_equal(w.demands, 0);
	assert_int_equal(ask(&w, 1, POOL_BATCH, false), POOL_QUEUED);
	assert_int_equal(ask(&w, 2, POOL_INTERACTIVE, false), POOL_QUEUED);
	assert_int_equal(ask(&w, 3, POOL_INTERACTIVE, false), POOL_QUEUED);
	assert_int_equal(ask(&w, 4, POOL_INTERACTIVE, true), POOL_QUEUED); /* sent again: first */
	assert_int_equal(pool_position(w.pool, &w.clients[4].w), 1);
	assert_int_equal(pool_position(w.pool, &w.clients[2].w), 2);
	assert_int_equal(pool_position(w.pool, &w.clients[1].w), 4);
	static const int want[] = { 0, 4, 2, 3, 1 };
	for (int i = 0; i + 1 < 5; i++) {
		assert_int_equal(lease_release(&w.clients[want[i]].lease), 0);
		turn(&w);
		assert_non_null(w.clients[want[i + 1]].lease.replica);
		assert_int_equal(stats(&w).leases, 1);
	}
	assert_int_equal(w.clients[1].order, 4);
	world_end(&w);
}

/* A slot that is free while somebody waits is for who waits, also when the grant is still on its way. */
static void test_no_barging(void **state)
{
	(void)state;
	struct world w;
	world_make(&w, 8, POOL_REJECT);
	put(&w, "p-0", 1, 1);
	assert_int_equal(ask(&w, 0, POOL_INTERACTIVE, false), POOL_GRANTED);
	assert_int_equal(ask(&w, 1, POOL_INTERACTIVE, false), POOL_QUEUED);
	assert_int_equal(lease_release(&w.clients[0].lease), 0);
	assert_int_equal(ask(&w, 2, POOL_INTERACTIVE, false), POOL_QUEUED);
	turn(&w);
	assert_int_equal(w.clients[1].grants, 1);
	assert_int_equal(w.clients[2].grants, 0);
	assert_true(pool_cancel(w.pool, &w.clients[2].w));
	world_end(&w);
}

static void test_full(void **state)
{
	(void)state;
	struct world w;
	world_make(&w, 1, POOL_REJECT);
	put(&w, "p-0", 1, 1);
	assert_int_equal(ask(&w, 0, POOL_INTERACTIVE, false), POOL_GRANTED);
	assert_int_equal(ask(&w, 1, POOL_INTERACTIVE, false), POOL_QUEUED);
	assert_int_equal(ask(&w, 2, POOL_INTERACTIVE, false), POOL_FULL);
	assert_int_equal(ask(&w, 3, POOL_INTERACTIVE, true), POOL_QUEUED); /* does not count */
	assert_int_equal(stats(&w).refused_full, 1);
	assert_true(pool_cancel(w.pool, &w.clients[1].w));
	assert_true(pool_cancel(w.pool, &w.clients[3].w));
	assert_false(pool_cancel(w.pool, &w.clients[3].w));
	world_end(&w);
}

static void test_drop_lru(void **state)
{
	(void)state;
	struct world w;
	world_make(&w, 2, POOL_DROP_LRU);
	put(&w, "p-0", 1, 1);
	assert_int_equal(ask(&w, 0, POOL_INTERACTIVE, false), POOL_GRANTED);
	assert_int_equal(ask(&w, 1, POOL_INTERACTIVE, false), POOL_QUEUED);
	assert_int_equal(ask(&w, 2, POOL_BATCH, false), POOL_QUEUED);
	assert_int_equal(ask(&w, 3, POOL_INTERACTIVE, false), POOL_QUEUED); /* the batch one goes */
	turn(&w);
	assert_int_equal(w.clients[2].victims, 1);
	assert_int_equal(ask(&w, 4, POOL_BATCH, false), POOL_FULL); /* batch never displaces interactive */
	assert_int_equal(ask(&w, 5, POOL_INTERACTIVE, false), POOL_QUEUED); /* the oldest goes */
	turn(&w);
	assert_int_equal(w.clients[1].victims, 1);
	assert_int_equal(stats(&w).dropped, 2);
	assert_true(pool_cancel(w.pool, &w.clients[3].w));
	assert_true(pool_cancel(w.pool, &w.clients[5].w));
	world_end(&w);
}

/* Who leaves with a grant on its way still gets it, and gives it back. */
static void test_cancel_races_grant(void **state)
{
	(void)state;
	struct world w;
	world_make(&w, 8, POOL_REJECT);
	put(&w, "p-0", 1, 1);
	assert_int_equal(ask(&w, 0, POOL_INTERACTIVE, false), POOL_GRANTED);
	assert_int_equal(ask(&w, 1, POOL_INTERACTIVE, false), POOL_QUEUED);
	assert_int_equal(ask(&w, 2, POOL_INTERACTIVE, false), POOL_QUEUED);
	assert_int_equal(lease_release(&w.clients[0].lease), 0);
	assert_false(pool_cancel(w.pool, &w.clients[1].w));
	turn(&w);
	assert_int_equal(w.clients[1].grants, 1);
	assert_int_equal(lease_release(&w.clients[1].lease), 0);
	turn(&w);
	assert_int_equal(w.clients[2].grants, 1);
	assert_int_equal(stats(&w).leases, 1);
	world_end(&w);
}

static void test_double_release(void **state)
{
	(void)state;
	struct world w;
	world_make(&w, 8, POOL_REJECT);
	put(&w, "p-0", 1, 2);
	assert_int_equal(ask(&w, 0, POOL_INTERACTIVE, false), POOL_GRANTED);
	assert_int_equal(ask(&w, 1, POOL_INTERACTIVE, false), POOL_GRANTED);
	struct lease twice = { pool_replica_ref(w.clients[0].lease.replica), w.clients[0].lease.id };
	struct lease cooled_after = { pool_replica_ref(twice.replica), twice.id };
	assert_int_equal(lease_release(&w.clients[0].lease), 0);
	assert_int_equal(lease_release(&w.clients[0].lease), -EALREADY); /* empty */
	assert_int_equal(lease_release(&twice), -EALREADY);
	assert_int_equal(lease_cool(&cooled_after), -EALREADY);
	assert_int_equal(stats(&w).leases, 1);
	assert_int_equal(stats(&w).cooling, 0);
	assert_int_equal(stats(&w).double_releases, 2);
	world_end(&w);
}

static void test_cooling(void **state)
{
	(void)state;
	struct world w;
	world_make(&w, 8, POOL_REJECT);
	put(&w, "p-0", 1, 1);
	assert_int_equal(ask(&w, 0, POOL_INTERACTIVE, false), POOL_GRANTED);
	struct pool_replica *r = pool_replica_ref(w.clients[0].lease.replica);
	assert_int_equal(ask(&w, 1, POOL_INTERACTIVE, false), POOL_QUEUED);
	int before = w.demands;
	assert_int_equal(lease_cool(&w.clients[0].lease), 0);
	assert_int_equal(w.demands, before + 1); /* control looks after it */
	turn(&w);
	assert_int_equal(w.clients[1].grants, 0);
	assert_int_equal(stats(&w).cooling, 1);
	assert_int_equal(stats(&w).slots_free, 0);
	pool_cooled(r, 5); /* clamped */
	turn(&w);
	assert_int_equal(w.clients[1].grants, 1);
	assert_int_equal(stats(&w).cooling, 0);
	pool_replica_unref(r);
	world_end(&w);
}

/* A lease of a generation that is gone ends without touching the new one. */
static void test_generation(void **state)
{
	(void)state;
	struct world w;
	world_make(&w, 8, POOL_REJECT);
	put(&w, "p-0", 1, 1);
	assert_int_equal(ask(&w, 0, POOL_INTERACTIVE, false), POOL_GRANTED);
	assert_int_equal(ask(&w, 1, POOL_INTERACTIVE, false), POOL_QUEUED);
	struct pool_replica *old = pool_replica_ref(w.clients[0].lease.replica);
	put(&w, "p-0", 2, 1);
	turn(&w);
	assert_int_equal(w.clients[1].grants, 1);
	assert_true(atomic_load(&old->gone));
	assert_ptr_not_equal(w.clients[1].lease.replica, old);
	assert_int_equal(stats(&w).leases, 1);
	assert_int_equal(lease_cool(&w.clients[0].lease), 0);
	assert_int_equal(stats(&w).leases, 1);
	assert_int_equal(stats(&w).cooling, 0);
	pool_cooled(old, 1);
	pool_replica_unref(old);
	world_end(&w);
}

static void test_down_and_proving(void **state)
{
	(void)state;
	struct world w;
	world_make(&w, 8, POOL_REJECT);
	struct pool_replica_facts f = {
		.id = "p-0", .generation = 1, .address = "unix:/nowhere", .slots_total = 3, .proving = true
	};
	pool_replica_unref(pool_put_replica(w.pool, &f));
	assert_null(pool_any_replica(w.pool)); /* a proving one is for its canary */
	assert_int_equal(ask(&w, 0, POOL_INTERACTIVE, false), POOL_GRANTED);
	assert_int_equal(ask(&w, 1, POOL_INTERACTIVE, false), POOL_QUEUED);
	f.proving = false;
	pool_replica_unref(pool_put_replica(w.pool, &f));
	turn(&w);
	assert_int_equal(w.clients[1].grants, 1);
	struct pool_replica *r = pool_any_replica(w.pool);
	assert_non_null(r);
	pool_replica_down(r);
	assert_null(pool_any_replica(w.pool));
	assert_int_equal(ask(&w, 2, POOL_INTERACTIVE, false), POOL_QUEUED);
	pool_replica_up(r, mono_now());
	turn(&w);
	assert_int_equal(w.clients[2].grants, 1);
	pool_replica_unref(r);
	world_end(&w);
}

/* The end of the last lease of a draining replica wakes control; leases may outlast a shrinking. */
static void test_draining_and_slots(void **state)
{
	(void)state;
	struct world w;
	world_make(&w, 8, POOL_REJECT);
	put(&w, "p-0", 1, 3);
	for (int i = 0; i < 3; i++)
		assert_int_equal(ask(&w, i, POOL_INTERACTIVE, false), POOL_GRANTED);
	put(&w, "p-0", 1, 1);
	assert_int_equal(stats(&w).slots_total, 3);
	assert_int_equal(lease_release(&w.clients[0].lease), 0);
	assert_int_equal(ask(&w, 3, POOL_INTERACTIVE, false), POOL_QUEUED);
	assert_int_equal(lease_release(&w.clients[1].lease), 0);
	put(&w, "p-0", 1, 1);
	assert_int_equal(stats(&w).slots_total, 1);
	assert_true(pool_cancel(w.pool, &w.clients[3].w));
	struct pool_replica_facts f = {
		.id = "p-0", .generation = 1, .address = "unix:/nowhere", .slots_total = 4, .draining = true
	};
	pool_replica_unref(pool_put_replica(w.pool, &f));
	assert_int_equal(stats(&w).slots_free, 0);
	int before = w.demands;
	assert_int_equal(lease_release(&w.clients[2].lease), 0);
	assert_int_equal(w.demands, before + 1);
	world_end(&w);
}

static void test_balance(void **state)
{
	(void)state;
	struct world w;
	world_make(&w, 8, POOL_REJECT);
	put(&w, "p-1", 1, 2);
	put(&w, "p-0", 1, 4);
	static const char *const want[] = { "p-0", "p-1", "p-0", "p-0", "p-1", "p-0" };
	for (int i = 0; i < 6; i++) {
		assert_int_equal(ask(&w, i, POOL_INTERACTIVE, false), POOL_GRANTED);
		/* 0/4=0/2; 1/4>0/2; 1/4<1/2; 2/4=1/2; 3/4>1/2; 3/4<2/2 (full) */
		assert_string_equal(w.clients[i].lease.replica->id, want[i]);
	}
	world_end(&w);
}

static void test_close(void **state)
{
	(void)state;
	struct world w;
	world_make(&w, 8, POOL_REJECT);
	assert_int_equal(ask(&w, 0, POOL_INTERACTIVE, false), POOL_QUEUED);
	struct pool_refusal why = { .code = 12, .retriable = true, .retry_after_ms = 7, .message = "No." };
	pool_close(w.pool, &why, true);
	turn(&w);
	assert_int_equal(w.clients[0].refusals, 0);
	int before = w.demands;
	assert_int_equal(ask(&w, 1, POOL_INTERACTIVE, false), POOL_CLOSED);
	assert_int_equal(w.clients[1].why.code, 12);
	assert_int_equal(w.demands, before + 1); /* who is refused asks for a look at the cause, too */
	pool_close(w.pool, &why, false);
	turn(&w);
	assert_int_equal(w.clients[0].refusals, 1);
	assert_int_equal(w.clients[0].victims, 0);
	assert_string_equal(w.clients[0].why.message, "No.");
	pool_close(w.pool, &(struct pool_refusal){ 0 }, false);
	assert_int_equal(ask(&w, 0, POOL_INTERACTIVE, false), POOL_QUEUED);
	put(&w, "p-0", 1, 1);
	turn(&w);
	assert_int_equal(w.clients[0].grants, 1);
	world_end(&w);
}

/* ---- sent again ------------------------------------------------------------------------------------------
 */

/* Its replica closed the connection before a byte came: down, and the request asks again. */
static enum pool_answer fails(struct world *w, int i, bool sent)
{
	struct client *c = &w->clients[i];
	pool_replica_unref(c->was_on);
	c->was_on = c->w.was_on = pool_replica_ref(c->lease.replica);
	c->w.sent = sent;
	c->w.doubts = true;
	pool_replica_down(c->was_on);
	assert_int_equal(lease_release(&c->lease), 0);
	return ask(w, i, POOL_INTERACTIVE, true);
}

static void take(struct world *w, const char *id, enum pool_fate fate)
{
	struct pool_replica *r = pool_take_replica(w->pool, id, fate);
	assert_non_null(r);
	pool_replica_unref(r);
	turn(w);
}

static const char *on(struct world *w, int i)
{
	return w->clients[i].lease.replica ? w->clients[i].lease.replica->id : "-";
}

/* While nobody knows what became of its replica it waits, and others pass it. */
static void test_waits_for_the_verdict(void **state)
{
	(void)state;
	static const enum pool_fate ends[] = { POOL_FATE_ENDED, POOL_FATE_UNKNOWN, POOL_FATE_CRASHED };
	for (size_t k = 0; k < ARRAY_LEN(ends); k++) {
		struct world w;
		world_make(&w, 8, POOL_REJECT);
		put(&w, "p-0", 1, 1);
		assert_int_equal(ask(&w, 0, POOL_INTERACTIVE, false), POOL_GRANTED);
		put(&w, "p-1", 1, 1);
		assert_int_equal(fails(&w, 0, true), POOL_QUEUED);
		assert_int_equal(ask(&w, 1, POOL_INTERACTIVE, false), POOL_GRANTED);
		assert_string_equal(on(&w, 1), "p-1");
		assert_int_equal(ask(&w, 2, POOL_INTERACTIVE, false), POOL_QUEUED);
		assert_int_equal(lease_release(&w.clients[1].lease), 0);
		turn(&w);
		assert_string_equal(on(&w, 2), "p-1"); /* it came later and has the slot */
		take(&w, "p-0", ends[k]);
		assert_int_equal(lease_release(&w.clients[2].lease), 0);
		turn(&w);
		assert_string_equal(on(&w, 0), "p-1");
		assert_int_equal(w.clients[0].w.crashes, ends[k] == POOL_FATE_CRASHED);
		assert_false(w.clients[0].w.doubts);
		world_end(&w);
	}
}

/* The verdict is there before the request asks. */
static void test_verdict_comes_first(void **state)
{
	(void)state;
	struct world w;
	world_make(&w, 8, POOL_REJECT);
	put(&w, "p-0", 1, 1);
	assert_int_equal(ask(&w, 0, POOL_INTERACTIVE, false), POOL_GRANTED);
	put(&w, "p-1", 1, 1);
	take(&w, "p-0", POOL_FATE_ENDED);
	assert_int_equal(fails(&w, 0, true), POOL_GRANTED);
	assert_int_equal(w.clients[0].w.crashes, 0);
	world_end(&w);
}

static void test_never_sent_is_no_suspect(void **state)
{
	(void)state;
	struct world w;
	world_make(&w, 8, POOL_REJECT);
	put(&w, "p-0", 1, 1);
	assert_int_equal(ask(&w, 0, POOL_INTERACTIVE, false), POOL_GRANTED);
	assert_int_equal(fails(&w, 0, false), POOL_QUEUED);
	take(&w, "p-0", POOL_FATE_CRASHED);
	put(&w, "p-0", 2, 1);
	turn(&w);
	assert_int_equal(w.clients[0].grants, 1);
	assert_int_equal(w.clients[0].w.crashes, 0);
	world_end(&w);
}

/* A suspect gets a replica of its own, which is kept free for it, and shares it after its first byte. */
static void test_suspect_runs_alone(void **state)
{
	(void)state;
	struct world w;
	world_make(&w, 8, POOL_REJECT);
	put(&w, "p-0", 1, 2);
	assert_int_equal(ask(&w, 0, POOL_INTERACTIVE, false), POOL_GRANTED);
	put(&w, "p-1", 1, 2);
	assert_int_equal(ask(&w, 1, POOL_INTERACTIVE, false), POOL_GRANTED);
	assert_string_equal(on(&w, 1), "p-1");
	assert_int_equal(fails(&w, 0, true), POOL_QUEUED);
	take(&w, "p-0", POOL_FATE_CRASHED);
	assert_string_equal(on(&w, 0), "-");                                /* somebody is on the only one */
	assert_int_equal(ask(&w, 2, POOL_INTERACTIVE, false), POOL_QUEUED); /* which is being kept free */
	assert_int_equal(lease_release(&w.clients[1].lease), 0);
	turn(&w);
	assert_string_equal(on(&w, 0), "p-1");
	assert_int_equal(w.clients[2].grants, 0);
	assert_int_equal(stats(&w).slots_free, 0);
	assert_null(pool_any_replica(w.pool));
	lease_spoke(&w.clients[0].lease, true);
	turn(&w);
	assert_string_equal(on(&w, 2), "p-1");
	world_end(&w);
}

/* What is kept for a suspect is one replica: others go on on the rest. */
static void test_suspect_keeps_one(void **state)
{
	(void)state;
	struct world w;
	world_make(&w, 8, POOL_REJECT);
	put(&w, "p-0", 1, 2);
	assert_int_equal(ask(&w, 0, POOL_INTERACTIVE, false), POOL_GRANTED);
	put(&w, "p-1", 1, 2);
	put(&w, "p-2", 1, 2);
	assert_int_equal(ask(&w, 1, POOL_INTERACTIVE, false), POOL_GRANTED);
	assert_int_equal(ask(&w, 2, POOL_INTERACTIVE, false), POOL_GRANTED);
	assert_int_equal(fails(&w, 0, true), POOL_QUEUED);
	take(&w, "p-0", POOL_FATE_CRASHED);
	assert_int_equal(ask(&w, 3, POOL_INTERACTIVE, false), POOL_GRANTED);
	assert_string_equal(on(&w, 3), "p-2"); /* p-1 is kept */
	assert_int_equal(ask(&w, 4, POOL_INTERACTIVE, false), POOL_QUEUED);
	assert_int_equal(lease_release(&w.clients[1].lease), 0);
	turn(&w);
	assert_string_equal(on(&w, 0), "p-1");
	assert_true(pool_cancel(w.pool, &w.clients[4].w));
	world_end(&w);
}

/* A suspect that leaves the queue keeps nothing free any more: who waited behind it has the slots at once. */
static void test_suspect_leaves(void **state)
{
	(void)state;
	for (int k = 0; k < 2; k++) {
		struct world w;
		world_make(&w, 1, k ? POOL_DROP_LRU : POOL_REJECT);
		put(&w, "p-0", 1, 2);
		assert_int_equal(ask(&w, 0, POOL_INTERACTIVE, false), POOL_GRANTED);
		put(&w, "p-1", 1, 3);
		assert_int_equal(ask(&w, 1, POOL_INTERACTIVE, false), POOL_GRANTED);
		assert_int_equal(fails(&w, 0, true), POOL_QUEUED);
		take(&w, "p-0", POOL_FATE_CRASHED);
		assert_int_equal(ask(&w, 2, POOL_INTERACTIVE, false), POOL_QUEUED);
		assert_string_equal(on(&w, 0), "-");
		assert_true(pool_cancel(w.pool, &w.clients[0].w)); /* its client left */
		turn(&w);
		assert_string_equal(on(&w, 2), "p-1");
		assert_int_equal(ask(&w, 3, POOL_INTERACTIVE, false), POOL_GRANTED);
		world_end(&w);
	}
}

/* What is kept for a suspect is a replica that it would take. */
static void test_suspect_avoids(void **state)
{
	(void)state;
	struct world w;
	world_make(&w, 8, POOL_REJECT);
	put(&w, "p-0", 1, 1);
	put(&w, "p-1", 1, 2);
	assert_int_equal(ask(&w, 0, POOL_INTERACTIVE, false), POOL_GRANTED);
	assert_string_equal(on(&w, 0), "p-0");
	assert_int_equal(ask(&w, 1, POOL_INTERACTIVE, false), POOL_GRANTED);
	assert_string_equal(on(&w, 1), "p-1");
	/* it was in a crash before, and now p-0 answers it with a failure and lives on */
	struct client *c = &w.clients[0];
	c->w.crashes = 1;
	c->was_on = c->w.was_on = pool_replica_ref(c->lease.replica);
	c->w.avoids = true;
	assert_int_equal(lease_release(&c->lease), 0);
	assert_int_equal(ask(&w, 0, POOL_INTERACTIVE, true), POOL_QUEUED);
	assert_int_equal(ask(&w, 2, POOL_INTERACTIVE, false), POOL_GRANTED);
	assert_string_equal(on(&w, 2), "p-0"); /* p-1 is what is kept free */
	assert_int_equal(ask(&w, 3, POOL_INTERACTIVE, false), POOL_QUEUED);
	assert_int_equal(lease_release(&w.clients[1].lease), 0);
	turn(&w);
	assert_string_equal(on(&w, 0), "p-1");
	assert_true(pool_cancel(w.pool, &w.clients[3].w));
	world_end(&w);
}

/* A request that an engine failed is not dropped for a newcomer. */
static void test_sent_again_is_no_victim(void **state)
{
	(void)state;
	struct world w;
	world_make(&w, 1, POOL_DROP_LRU);
	put(&w, "p-0", 1, 1);
	assert_int_equal(ask(&w, 0, POOL_INTERACTIVE, false), POOL_GRANTED);
	assert_int_equal(fails(&w, 0, true), POOL_QUEUED);
	assert_int_equal(ask(&w, 1, POOL_INTERACTIVE, false), POOL_QUEUED);
	assert_int_equal(ask(&w, 2, POOL_INTERACTIVE, false), POOL_QUEUED);
	turn(&w);
	assert_int_equal(w.clients[0].victims, 0);
	assert_int_equal(w.clients[1].victims, 1);
	take(&w, "p-0", POOL_FATE_ENDED);
	put(&w, "p-0", 2, 1);
	turn(&w);
	assert_string_equal(on(&w, 0), "p-0");
	assert_true(pool_cancel(w.pool, &w.clients[2].w));
	world_end(&w);
}

static void test_second_crash_ends_it(void **state)
{
	(void)state;
	struct world w;
	world_make(&w, 8, POOL_REJECT);
	put(&w, "p-0", 1, 1);
	assert_int_equal(ask(&w, 0, POOL_INTERACTIVE, false), POOL_GRANTED);
	assert_int_equal(fails(&w, 0, true), POOL_QUEUED);
	take(&w, "p-0", POOL_FATE_CRASHED);
	put(&w, "p-0", 2, 1);
	turn(&w);
	assert_int_equal(w.clients[0].grants, 1);
	assert_int_equal(fails(&w, 0, true), POOL_QUEUED);
	pool_replica_fate(w.clients[0].was_on, POOL_FATE_CRASHED); /* before it is taken out */
	turn(&w);
	assert_int_equal(w.clients[0].refusals, 1);
	assert_int_equal(w.clients[0].end, WAITER_CRASHED);
	assert_int_equal(stats(&w).crashed, 1);
	assert_int_equal(stats(&w).waiting[POOL_INTERACTIVE], 0);
	world_end(&w);
}

/* It lives: another replica, while there is one; each time costs a repeat of the budget. */
static void test_live_failure(void **state)
{
	(void)state;
	struct world w;
	world_make(&w, 8, POOL_REJECT);
	put(&w, "p-0", 1, 1);
	assert_int_equal(ask(&w, 0, POOL_INTERACTIVE, false), POOL_GRANTED);
	put(&w, "p-1", 1, 1);
	assert_int_equal(ask(&w, 1, POOL_INTERACTIVE, false), POOL_GRANTED);
	assert_int_equal(fails(&w, 0, true), POOL_QUEUED);
	struct pool_replica *first = w.clients[0].was_on;
	pool_replica_up(first, mono_now());
	turn(&w);
	assert_string_equal(on(&w, 0), "-"); /* p-0 is free, but p-1 is there, if busy */
	assert_int_equal(ask(&w, 2, POOL_INTERACTIVE, false), POOL_GRANTED);
	assert_string_equal(on(&w, 2), "p-0");
	assert_int_equal(lease_release(&w.clients[2].lease), 0);
	pool_replica_down(w.clients[1].lease.replica); /* now p-0 is better than none */
	turn(&w);
	assert_string_equal(on(&w, 0), "p-0");
	int n = 1;
	for (; w.clients[0].refusals == 0 && n < 50; n++) {
		assert_int_equal(fails(&w, 0, true), POOL_QUEUED);
		pool_replica_up(w.clients[0].was_on, mono_now());
		turn(&w);
	}
	assert_int_equal(w.clients[0].end, WAITER_FAILED);
	assert_int_equal(n, POOL_FAILURES_MAX);
	assert_int_equal(stats(&w).failed, 1);
	world_end(&w);
}

struct named {
	const char *id;
	struct pool_replica *r;
};

static void find_named(void *arg, const struct pool_replica *r)
{
	struct named *n = arg;
	if (strcmp(r->id, n->id) == 0)
		n->r = (struct pool_replica *)(uintptr_t)r;
}

static void set_down(struct world *w, const char *id, bool down)
{
	struct named n = { .id = id };
	pool_each_replica(w->pool, find_named, &n);
	if (down)
		pool_replica_down(n.r);
	else
		pool_replica_up(n.r, mono_now());
}

/* Its circuit is not closed, and it is the only one: whom it failed does not wait for the trial, who has not
 * been there does. Where another takes requests, it is sent there; where one is just looked at, it waits. */
static void test_live_failure_of_the_only_one(void **state)
{
	(void)state;
	for (int another = 0; another < 3; another++) {
		struct world w;
		world_make(&w, 8, POOL_REJECT);
		put(&w, "p-0", 1, 2);
		assert_int_equal(ask(&w, 0, POOL_INTERACTIVE, false), POOL_GRANTED);
		struct pool_replica *r = w.clients[0].lease.replica;
		for (int i = 0; i < POOL_CIRCUIT_FAILURES - 1; i++) {
			pool_replica_down(r);
			pool_replica_up(r, mono_now());
		}
		assert_int_equal(r->circuit, CIRCUIT_CLOSED);
		if (another)
			put(&w, "p-1", 1, 2);
		if (another == 2)
			set_down(&w, "p-1", true);
		assert_int_equal(fails(&w, 0, true), POOL_QUEUED);
		pool_replica_up(r, mono_now());
		assert_int_equal(r->circuit, CIRCUIT_OPEN);
		turn(&w);
		if (another == 2) {
			assert_string_equal(on(&w, 0), "-");
			assert_int_equal(w.clients[0].refusals, 0);
			set_down(&w, "p-1", false);
			turn(&w);
		}
		assert_string_equal(on(&w, 0), another ? "p-1" : "-");
		assert_int_equal(w.clients[0].refusals, !another);
		assert_int_equal(w.clients[0].w.failures, 1);
		assert_int_equal(ask(&w, 1, POOL_INTERACTIVE, false), another ? POOL_GRANTED : POOL_QUEUED);
		if (!another) {
			assert_int_equal(w.clients[0].end, WAITER_FAILED);
			assert_true(pool_cancel(w.pool, &w.clients[1].w));
		}
		world_end(&w);
	}
}

static void test_budget_is_spent(void **state)
{
	(void)state;
	struct world w;
	world_make(&w, 8, POOL_REJECT);
	put(&w, "p-0", 1, 1);
	assert_int_equal(ask(&w, 0, POOL_INTERACTIVE, false), POOL_GRANTED);
	for (int i = 0; i < POOL_BUDGET_MIN; i++)
		assert_true(pool_may_repeat(w.pool, mono_now()));
	assert_int_equal(fails(&w, 0, true), POOL_QUEUED);
	pool_replica_up(w.clients[0].was_on, mono_now());
	turn(&w);
	assert_int_equal(w.clients[0].end, WAITER_SPENT);
	assert_int_equal(stats(&w).spent, 1);
	world_end(&w);
}

/* A stream stands still: a prompt that began with it may be why; one that had its token, or came late, not.
 */
static void test_reads_prompt(void **state)
{
	(void)state;
	struct world w;
	world_make(&w, 8, POOL_REJECT);
	put(&w, "p-0", 1, 3);
	struct pool_refusal why;
	mono_t t = { 7000000000000 };
	for (int i = 0; i < 2; i++)
		assert_int_equal(pool_acquire(w.pool, &w.clients[i].w, false, mono_add_ms(t, i * 500),
					 &w.clients[i].lease, &why),
			POOL_GRANTED);
	struct pool_replica *r = w.clients[0].lease.replica;
	assert_true(pool_replica_reads_prompt(r, t, 1000));
	lease_spoke(&w.clients[0].lease, true);
	lease_spoke(&w.clients[1].lease, false); /* a byte, but no token */
	assert_true(pool_replica_reads_prompt(r, t, 1000));
	assert_false(pool_replica_reads_prompt(r, t, 100)); /* it came later than that */
	lease_spoke(&w.clients[1].lease, true);
	assert_false(pool_replica_reads_prompt(r, t, 1000));
	assert_int_equal(lease_cool(&w.clients[1].lease), 0); /* who knows what it still works on */
	assert_true(pool_replica_reads_prompt(r, t, 1000));
	pool_cooled(r, 1);
	world_end(&w);
}

static void test_budget(void **state)
{
	(void)state;
	struct world w;
	world_make(&w, 8, POOL_REJECT);
	mono_t t = { 7000000000000 };
	struct lease l;
	put(&w, "p-0", 1, 1);
	for (int i = 0; i < 300; i++) { /* 300 requests in three seconds: 30 repeats */
		assert_int_equal(pool_acquire(w.pool, &w.clients[0].w, false, mono_add_ms(t, i * 10), &l,
					 &w.clients[0].why),
			POOL_GRANTED);
		assert_int_equal(lease_release(&l), 0);
	}
	for (int i = 0; i < 30; i++)
		assert_true(pool_may_repeat(w.pool, mono_add_ms(t, 3000)));
	assert_false(pool_may_repeat(w.pool, mono_add_ms(t, 3000)));
	assert_false(pool_may_repeat(w.pool, mono_add_ms(t, 12000)));
	for (int i = 0; i < POOL_BUDGET_MIN; i++) /* all of it is more than ten seconds old */
		assert_true(pool_may_repeat(w.pool, mono_add_ms(t, 13000)));
	assert_false(pool_may_repeat(w.pool, mono_add_ms(t, 13000)));
	world_end(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_order),
		cmocka_unit_test(test_no_barging),
		cmocka_unit_test(test_full),
		cmocka_unit_test(test_drop_lru),
		cmocka_unit_test(test_cancel_races_grant),
		cmocka_unit_test(test_double_release),
		cmocka_unit_test(test_cooling),
		cmocka_unit_test(test_generation),
		cmocka_unit_test(test_down_and_proving),
		cmocka_unit_test(test_draining_and_slots),
		cmocka_unit_test(test_balance),
		cmocka_unit_test(test_close),
		cmocka_unit_test(test_waits_for_the_verdict),
		cmocka_unit_test(test_verdict_comes_first),
		cmocka_unit_test(test_never_sent_is_no_suspect),
		cmocka_unit_test(test_suspect_runs_alone),
		cmocka_unit_test(test_suspect_keeps_one),
		cmocka_unit_test(test_suspect_leaves),
		cmocka_unit_test(test_suspect_avoids),
		cmocka_unit_test(test_sent_again_is_no_victim),
		cmocka_unit_test(test_second_crash_ends_it),
		cmocka_unit_test(test_live_failure),
		cmocka_unit_test(test_live_failure_of_the_only_one),
		cmocka_unit_test(test_budget_is_spent),
		cmocka_unit_test(test_reads_prompt),
		cmocka_unit_test(test_budget),
	};
	return cmocka_run_group_tests_name("pool", tests, NULL, NULL);
}
