/* SPDX-License-Identifier: Apache-2.0
 *
 * The circuit of a replica against a simple model: random interleavings of requests that are answered, fail,
 * leave and wait, of replicas that are found failing and answer again, and of time. After each step every
 * replica is as the model says, an open one got nothing, a half open one has one trial at the most, and
 * nobody waits whom a replica could take. The seed is printed; CORRAL_TEST_SEED repeats a run.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/mem.h"
#include "base/num.h"
#include "base/rnd.h"
#include "pool/setup.h"

enum { CLIENTS = 16, REPLICAS = 3, STEPS = 60000 };

struct client {
	struct waiter w;
	struct lease lease;
	uint64_t seen; /* the lease the model knows of */
	bool wanted;   /* false: it left while its grant was on its way */
	bool failed;   /* its answer is a failure */
};

struct model {
	struct pool_replica *r; /* a reference */
	char id[16];
	uint32_t slots, used, failures;
	enum pool_circuit circuit;
	mono_t until;
	uint64_t trial, first;
	bool down, loads;
};

struct world {
	struct loop *loop;
	struct pool *pool;
	struct rnd rnd;
	mono_t now;
	struct client clients[CLIENTS];
	struct model models[REPLICAS];
	uint64_t replicas;
	int more, demands, opens, closes, trials, passed_on, again; /* passed_on: a trial ended undecided */
};

/* ---- the model -------------------------------------------------------------------------------------------
 */

static struct model *model_of(struct world *w, const struct pool_replica *r)
{
	for (int i = 0; i < REPLICAS; i++)
		if (w->models[i].r == r)
			return &w->models[i];
	fail_msg("a lease on a replica that is not there");
	return NULL;
}

static void model_opens(struct world *w, struct model *m)
{
	w->opens++;
	w->again += m->circuit == CIRCUIT_HALF_OPEN;
	m->circuit = CIRCUIT_OPEN;
	m->until = mono_add_ms(w->now, 5000);
	m->failures = 0;
	m->trial = m->first = 0;
}

static void model_fails(struct world *w, struct model *m, uint64_t lease)
{
	if (m->circuit == CIRCUIT_CLOSED && ++m->failures == 5)
		model_opens(w, m);
	else if (m->circuit == CIRCUIT_HALF_OPEN && (!lease || (m->first && lease >= m->first)))
		model_opens(w, m);
}

static void model_answered(struct world *w, struct model *m, uint64_t lease)
{
	m->failures = 0;
	if (m->circuit != CIRCUIT_HALF_OPEN || !m->first || lease < m->first)
		return;
	w->closes++;
	m->circuit = CIRCUIT_CLOSED;
	m->trial = m->first = 0;
}

static void model_ends(struct world *w, struct model *m, uint64_t lease)
{
	m->used--;
	if (m->trial != lease)
		return;
	m->trial = 0;
	w->passed_on++;
}

static void model_grants(struct world *w, struct model *m, uint64_t lease)
{
	m->used++;
	assert_true(m->used <= m->slots);
	assert_false(m->down);
	assert_int_not_equal(m->circuit, CIRCUIT_OPEN);
	if (m->circuit != CIRCUIT_HALF_OPEN)
		return;
	assert_int_equal(m->trial, 0);
	m->trial = lease;
	m->first = m->first ? m->first : lease;
	m->until = m->r->circuit_until; /* five seconds after a time that only the pool knows */
	w->trials++;
}

static bool model_takes(const struct model *m)
{
	return !m->down && m->used < m->slots &&
	       (m->circuit == CIRCUIT_CLOSED || (m->circuit == CIRCUIT_HALF_OPEN && !m->trial));
}

/* ---- looking ---------------------------------------------------------------------------------------------
 */

static void compare(void *arg, const struct pool_replica *r)
{
	const struct model *m = model_of(arg, r);
	assert_int_equal(r->circuit, m->circuit);
	assert_int_equal(r->trial, m->trial);
	assert_int_equal(r->failures, m->failures);
	assert_int_equal(r->in_use + r->cooling, m->used);
	assert_int_equal(r->down, m->down);
	if (m->circuit == CIRCUIT_OPEN)
		assert_int_equal(r->circuit_until.ns, m->until.ns);
}

/* Leases that this step gave, also those that are on their way. */
static void see_grants(struct world *w)
{
	for (int i = 0; i < CLIENTS; i++) {
		struct client *c = &w->clients[i];
		const struct lease *l = c->lease.replica ? &c->lease : &c->w.lease;
		if (!l->replica || l->id == c->seen)
			continue;
		c->seen = l->id;
		c->failed = false;
		model_grants(w, model_of(w, l->replica), l->id);
	}
}

static void look(struct world *w)
{
	see_grants(w);
	pool_each_replica(w->pool, compare, w);
	bool waits = false, takes = false;
	for (int i = 0; i < CLIENTS; i++)
		waits |= w->clients[i].w.state == WAITER_QUEUED;
	for (int i = 0; i < REPLICAS; i++)
		takes |= w->models[i].r && model_takes(&w->models[i]);
	assert_false(waits && takes);
}

/* ---- steps -----------------------------------------------------------------------------------------------
 */

static void end_lease(struct world *w, struct client *c)
{
	struct model *m = model_of(w, c->lease.replica);
	uint64_t id = c->lease.id;
	bool cools = rnd_below(&w->rnd, 4) == 0;
	if (cools && m->trial == id) { /* counted still, but the next has the trial */
		m->trial = 0;
		w->passed_on++;
	} else if (!cools) {
		model_ends(w, m, id);
	}
	assert_int_equal(cools ? lease_cool(&c->lease) : lease_release(&c->lease), 0);
}

static void on_grant(void *arg, struct lease l)
{
	struct client *c = arg;
	c->lease = l;
}

static void on_refused(void *arg, const struct pool_refusal *why, enum waiter_end end)
{
	(void)arg;
	(void)why;
	(void)end;
	fail_msg("nobody is refused here");
}

static void stop(void *arg)
{
	loop_stop(arg);
}

/* Grants on their way arrive; who left meanwhile gives them back, one by one. */
static void turn(struct world *w)
{
	loop_post_call(w->loop, stop, w->loop);
	assert_int_equal(loop_run(w->loop), 0);
	for (int i = 0; i < CLIENTS; i++) {
		struct client *c = &w->clients[i];
		if (!c->lease.replica || c->wanted)
			continue;
		end_lease(w, c);
		look(w);
	}
}

static void client_step(struct world *w, struct client *c)
{
	struct pool_refusal why;
	uint64_t what = rnd_below(&w->rnd, 8);
	if (c->w.state == WAITER_QUEUED || c->w.state == WAITER_POSTED) {
		if (what < 2 && c->wanted)
			c->wanted = !pool_cancel(w->pool, &c->w) && what; /* a grant on its way may be kept */
	} else if (!c->lease.replica) {
		c->wanted = true;
		(void)!pool_acquire(w->pool, &c->w, false, w->now, &c->lease, &why);
	} else if (what < 3) {
		struct model *m = model_of(w, c->lease.replica);
		if (!c->failed)
			model_fails(w, m, c->lease.id);
		c->failed = true;
		lease_failed(&c->lease, w->now);
	} else if (what < 5) {
		if (!c->failed)
			model_answered(w, model_of(w, c->lease.replica), c->lease.id);
		lease_spoke(&c->lease, true);
	} else {
		end_lease(w, c);
	}
}

static void replica_step(struct world *w, struct model *m)
{
	uint64_t what = rnd_below(&w->rnd, 10);
	if (what < 2) {
		m->loads = m->down && m->loads && what;
		m->loads = m->loads || (!m->down && what);
		m->down = true;
		(what ? pool_replica_loading : pool_replica_down)(m->r);
	} else if (what < 6) {
		if (m->down && !m->loads)
			model_fails(w, m, 0);
		m->down = false;
		pool_replica_up(m->r, w->now);
	} else if (what < 8) {
		uint32_t held = 0;
		for (int i = 0; i < CLIENTS; i++) {
			const struct client *c = &w->clients[i];
			held += c->lease.replica == m->r || (!c->lease.replica && c->w.lease.replica == m->r);
		}
		m->used = held;
		pool_cooled(m->r, 1000);
	} else {
		if (m->circuit == CIRCUIT_OPEN && !mono_before(w->now, m->until))
			m->circuit = CIRCUIT_HALF_OPEN;
		else if (m->trial && !mono_before(w->now, m->until)) {
			m->trial = 0; /* it lasts: another one, too */
			w->more++;
		}
		pool_circuit_due(m->r, w->now);
	}
}

static void step(struct world *w)
{
	switch (rnd_below(&w->rnd, 10)) {
	case 0: w->now = mono_add_ms(w->now, (int64_t)rnd_below(&w->rnd, 3000)); break;
	case 1:
	case 2: replica_step(w, &w->models[rnd_below(&w->rnd, w->replicas)]); break;
	case 3: turn(w); break;
	default: client_step(w, &w->clients[rnd_below(&w->rnd, CLIENTS)]);
	}
	look(w);
}

/* ---- the world -------------------------------------------------------------------------------------------
 */

static void on_demand(void *arg, struct pool *p)
{
	struct world *w = arg;
	w->demands++;
	pool_demand_seen(p);
}

static void find(void *arg, const struct pool_replica *r)
{
	struct model *m = arg;
	if (strcmp(r->id, m->id) == 0)
		m->r = pool_replica_ref((struct pool_replica *)(uintptr_t)r);
}

static void world_make(struct world *w, uint64_t seed, int replicas)
{
	*w = (struct world){ .loop = loop_new("circuit"), .now = mono_now(), .replicas = (uint64_t)replicas };
	rnd_seed(&w->rnd, seed);
	struct pool_opts o = {
		.id = "p", .queue_capacity = CLIENTS, .max_wait_ms = 1000, .on_demand = on_demand, .arg = w
	};
	w->pool = pool_new(&o);
	for (int i = 0; i < CLIENTS; i++) {
		struct client *c = &w->clients[i];
		waiter_make(&c->w, w->loop, on_grant, on_refused, c);
	}
	for (int i = 0; i < replicas; i++) {
		struct model *m = &w->models[i];
		m->slots = 1 + (uint32_t)i;
		snprintf(m->id, sizeof m->id, "p-%d", i);
		replica_put(w->pool, i, m->slots);
		pool_each_replica(w->pool, find, m);
	}
}

static void world_end(struct world *w)
{
	for (int i = 0; i < CLIENTS; i++)
		if (w->clients[i].w.state == WAITER_QUEUED)
			assert_true(pool_cancel(w->pool, &w->clients[i].w));
	loop_post_call(w->loop, stop, w->loop);
	assert_int_equal(loop_run(w->loop), 0);
	for (int i = 0; i < CLIENTS; i++)
		if (w->clients[i].lease.replica)
			assert_int_equal(lease_release(&w->clients[i].lease), 0);
	for (int i = 0; i < REPLICAS; i++) {
		if (!w->models[i].r)
			continue;
		pool_replica_unref(pool_take_replica(w->pool, w->models[i].id, POOL_FATE_ENDED));
		pool_replica_unref(w->models[i].r);
	}
	pool_unref(w->pool);
	loop_free(w->loop);
}

static uint64_t seed_of_run(void)
{
	const char *env = getenv("CORRAL_TEST_SEED");
	uint64_t seed = 20261128;
	if (env)
		(void)num_u64(view_str(env), &seed);
	return seed;
}

static void test_model(void **state)
{
	(void)state;
	uint64_t seed = seed_of_run();
	for (int replicas = 1; replicas <= REPLICAS; replicas++, seed++) {
		struct world w;
		printf("# seed %llu, %d replicas\n", (unsigned long long)seed, replicas);
		world_make(&w, seed, replicas);
		for (int i = 0; i < STEPS; i++)
			step(&w);
		assert_true(w.opens > 50 && w.closes > 50 && w.passed_on > 50 && w.again > 50 && w.more > 50);
		assert_true(w.trials >= w.closes + w.passed_on);
		assert_true(w.demands >= w.opens + w.closes); /* each was told: nobody demands less */
		world_end(&w);
	}
}

/* ---- what people count on, one by one --------------------------------------------------------------------
 */

static void ask(struct world *w, int i)
{
	struct pool_refusal why;
	struct client *c = &w->clients[i];
	c->wanted = true;
	(void)!pool_acquire(w->pool, &c->w, false, w->now, &c->lease, &why);
}

static void fail_and_end(struct world *w, int i)
{
	lease_failed(&w->clients[i].lease, w->now);
	assert_int_equal(lease_release(&w->clients[i].lease), 0);
}

static void open_it(struct world *w)
{
	for (int i = 0; i < POOL_CIRCUIT_FAILURES; i++) {
		ask(w, 0);
		assert_int_equal(w->models[0].r->circuit, CIRCUIT_CLOSED);
		fail_and_end(w, 0);
	}
	assert_int_equal(w->models[0].r->circuit, CIRCUIT_OPEN);
}

/* Refused, and it answers the health check. */
static void open_on(struct world *w, struct pool_replica *r)
{
	for (int i = 0; i < POOL_CIRCUIT_FAILURES; i++) {
		pool_replica_down(r);
		pool_replica_up(r, w->now);
	}
	assert_int_equal(r->circuit, CIRCUIT_OPEN);
}

static void arrive(struct world *w)
{
	loop_post_call(w->loop, stop, w->loop);
	assert_int_equal(loop_run(w->loop), 0);
}

static void test_open_waits(void **state)
{
	(void)state;
	struct world w;
	world_make(&w, 1, 1);
	struct pool_replica *r = w.models[0].r;
	open_it(&w);
	ask(&w, 1);
	ask(&w, 2);
	pool_circuit_due(r, mono_add_ms(w.now, POOL_CIRCUIT_OPEN_MS - 1));
	assert_int_equal(r->circuit, CIRCUIT_OPEN);
	assert_null(pool_any_replica(w.pool));
	w.now = mono_add_ms(w.now, POOL_CIRCUIT_OPEN_MS);
	pool_circuit_due(r, w.now);
	arrive(&w);
	assert_non_null(w.clients[1].lease.replica);
	assert_true(w.clients[1].w.trial);
	assert_null(w.clients[2].lease.replica);
	pool_circuit_due(r, mono_add_ms(w.now, POOL_CIRCUIT_OPEN_MS - 1));
	assert_int_equal(r->trial, w.clients[1].lease.id);
	assert_int_equal(lease_release(&w.clients[1].lease), 0); /* its client left */
	arrive(&w);
	assert_non_null(w.clients[2].lease.replica);
	lease_spoke(&w.clients[2].lease, true);
	assert_int_equal(r->circuit, CIRCUIT_CLOSED);
	assert_int_equal(lease_release(&w.clients[2].lease), 0);
	world_end(&w);
}

/* A trial that lasts holds nobody up for long, and decides all the same. */
static void test_trial_lasts(void **state)
{
	(void)state;
	for (int fails = 0; fails < 2; fails++) {
		struct world w;
		world_make(&w, 1, 2);
		struct pool_replica *r = w.models[1].r;
		pool_replica_unref(pool_take_replica(w.pool, "p-0", POOL_FATE_ENDED));
		open_on(&w, r);
		w.now = mono_add_ms(w.now, POOL_CIRCUIT_OPEN_MS);
		pool_circuit_due(r, w.now);
		for (int i = 1; i < 4; i++)
			ask(&w, i);
		assert_non_null(w.clients[1].lease.replica);
		pool_circuit_due(r, mono_add_ms(w.now, POOL_CIRCUIT_OPEN_MS));
		arrive(&w);
		assert_non_null(w.clients[2].lease.replica);
		assert_null(w.clients[3].lease.replica);
		assert_int_equal(r->circuit, CIRCUIT_HALF_OPEN);
		if (fails)
			lease_failed(&w.clients[1].lease, w.now);
		else
			lease_spoke(&w.clients[1].lease, true);
		assert_int_equal(r->circuit, fails ? CIRCUIT_OPEN : CIRCUIT_CLOSED);
		world_end(&w);
	}
}

/* While one is open the other has all of it, and a request that avoids the other waits for neither. */
static void test_open_goes_elsewhere(void **state)
{
	(void)state;
	struct world w;
	world_make(&w, 1, 2);
	ask(&w, 5); /* p-0 is the first in order: it is taken while p-1 is idle too */
	assert_ptr_equal(w.clients[5].lease.replica, w.models[0].r);
	open_on(&w, w.models[1].r);
	assert_false(pool_has_other(w.models[0].r));
	ask(&w, 1);
	assert_null(w.clients[1].lease.replica);
	assert_int_equal(lease_release(&w.clients[5].lease), 0);
	arrive(&w);
	assert_ptr_equal(w.clients[1].lease.replica, w.models[0].r);
	struct pool_stats s;
	pool_get_stats(w.pool, &s);
	assert_int_equal(s.circuits, 1);
	assert_int_equal(s.slots_free, 0);
	world_end(&w);
}

/* A model that is being loaded is no failure; an answer in between begins the row anew. */
static void test_no_failures(void **state)
{
	(void)state;
	struct world w;
	world_make(&w, 1, 1);
	struct pool_replica *r = w.models[0].r;
	for (int i = 0; i < 3 * POOL_CIRCUIT_FAILURES; i++) {
		pool_replica_loading(r);
		pool_replica_up(r, w.now);
	}
	for (int i = 0; i < 3 * POOL_CIRCUIT_FAILURES; i++) {
		ask(&w, 0);
		if (i % POOL_CIRCUIT_FAILURES == 0)
			lease_spoke(&w.clients[0].lease, true);
		else
			lease_failed(&w.clients[0].lease, w.now);
		lease_spoke(&w.clients[0].lease, false); /* the failure's own bytes are no success */
		assert_int_equal(lease_release(&w.clients[0].lease), 0);
	}
	assert_int_equal(r->circuit, CIRCUIT_CLOSED);
	assert_int_equal(r->failures, POOL_CIRCUIT_FAILURES - 1);
	world_end(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_open_waits),
		cmocka_unit_test(test_trial_lasts),
		cmocka_unit_test(test_open_goes_elsewhere),
		cmocka_unit_test(test_no_failures),
		cmocka_unit_test(test_model),
	};
	return cmocka_run_group_tests_name("circuit", tests, NULL, NULL);
}
