/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/rnd.h"
#include "placement/placement.h"

/* The scene macros set defaults that a case overrides. */
#pragma GCC diagnostic ignored "-Woverride-init"

/* The language of the cases: NODE, OFFER, RUNS and WANT set the scene, PLAN decides, EXPECT looks. */

enum { MOST = 16, MANY = 64 };
static struct scene {
	struct placement_node nodes[MOST];
	struct placement_offer offers[MANY];
	struct placement_running running[MANY];
	struct placement_want wants[MOST];
	size_t nnodes, noffers, nrunning, nwants;
	struct placement_policy policy;
	struct placement_decision ret[MOST];
	size_t node_order[MOST], want_order[MOST];
	struct placement_load loads[MOST];
	struct placement_candidate candidates[MOST * MOST];
} s;

static int clean(void **state)
{
	memset(&s, 0, sizeof s);
	return 0;
}

#define NODE(id, ...)                                                                                        \
	(s.nodes[s.nnodes++] = (struct placement_node){ .node_id = id, .live = true, ##__VA_ARGS__ })
#define OFFLINE .live = false
#define CORDONED .cordoned = true
#define DRAINING .draining = true
#define OFFER(node, pool, ...)                                                                               \
	(s.offers[s.noffers++] = (struct placement_offer){ .node_id = node,                                  \
		 .pool_id = pool,                                                                            \
		 .model_present = true,                                                                      \
		 .engine_possible = true,                                                                    \
		 ##__VA_ARGS__ })
#define RUNS(node, pool, replica, ...)                                                                       \
	(s.running[s.nrunning++] = (struct placement_running){                                               \
		 .node_id = node, .pool_id = pool, .replica_id = replica, .slots = 4, ##__VA_ARGS__ })
#define WANT(pool, replica) (s.wants[s.nwants++] = (struct placement_want){ pool, replica })
#define PER_NODE(n) (s.policy.replicas_per_node = (n))
#define PLAN() plan(&s)
#define EXPECT(replica, node, why) expect(replica, node, why)
#define EXPECT_NOT(replica, node, why) expect_not(replica, node, why)

static void plan(struct scene *x)
{
	const struct placement_facts f = { x->nodes, x->nnodes, x->offers, x->noffers, x->running,
		x->nrunning, x->wants, x->nwants };
	const struct placement_arrays a = { x->node_order, x->want_order, x->loads, x->candidates };
	placement_plan(&f, &x->policy, &a, x->ret);
}

static const struct placement_decision *decision(const char *replica)
{
	for (size_t i = 0; i < s.nwants; i++)
		if (strcmp(s.wants[s.ret[i].want].replica_id, replica) == 0)
			return &s.ret[i];
	fail_msg("no decision for %s", replica);
	return NULL;
}

static void expect(const char *replica, const char *node, enum placement_reason why)
{
	const struct placement_decision *d = decision(replica);
	const char *got = d->node == PLACEMENT_NONE ? "nowhere" : s.nodes[d->node].node_id;
	if (strcmp(got, node) != 0 || d->reason != why)
		fail_msg("%s: on %s because %s; expected on %s because %s", replica, got,
			placement_reason_text(d->reason), node, placement_reason_text(why));
	assert_int_equal(d->ncandidates, s.nnodes);
}

static void expect_not(const char *replica, const char *node, enum placement_reason why)
{
	const struct placement_decision *d = decision(replica);
	for (size_t i = 0; i < d->ncandidates; i++) {
		if (strcmp(s.nodes[d->candidates[i].node].node_id, node) != 0)
			continue;
		if (d->candidates[i].reason != why)
			fail_msg("%s on %s: %s; expected %s", replica, node,
				placement_reason_text(d->candidates[i].reason), placement_reason_text(why));
		return;
	}
	fail_msg("%s: %s is no candidate", replica, node);
}

#define CASE(name) static void name(void **state)

CASE(takes_the_only_node)
{
	NODE("a");
	OFFER("a", "p");
	WANT("p", "p-0");
	PLAN();
	EXPECT("p-0", "a", PLACE_ONLY_ONE);
}
CASE(says_that_no_node_is_known)
{
	WANT("p", "p-0");
	PLAN();
	EXPECT("p-0", "nowhere", PLACE_NO_NODES);
}
CASE(wants_nothing_decides_nothing)
{
	NODE("a");
	OFFER("a", "p");
	PLAN();
	assert_int_equal(s.nwants, 0);
}
CASE(not_on_an_offline_node)
{
	NODE("a", OFFLINE);
	OFFER("a", "p");
	WANT("p", "p-0");
	PLAN();
	EXPECT("p-0", "nowhere", PLACE_NONE_FEASIBLE);
	EXPECT_NOT("p-0", "a", PLACE_NODE_OFFLINE);
}
CASE(not_on_a_draining_node)
{
	NODE("a", DRAINING);
	NODE("b");
	OFFER("a", "p");
	OFFER("b", "p");
	WANT("p", "p-0");
	PLAN();
	EXPECT("p-0", "b", PLACE_ONLY_ONE);
	EXPECT_NOT("p-0", "a", PLACE_NODE_DRAINING);
}
CASE(nothing_new_on_a_cordoned_node)
{
	NODE("a", CORDONED);
	NODE("b");
	OFFER("a", "p");
	OFFER("b", "p");
	WANT("p", "p-0");
	PLAN();
	EXPECT("p-0", "b", PLACE_ONLY_ONE);
	EXPECT_NOT("p-0", "a", PLACE_NODE_CORDONED);
}
CASE(what_runs_on_a_cordoned_node_stays)
{
	NODE("a", CORDONED);
	NODE("b");
	OFFER("b", "p");
	RUNS("a", "p", "p-0");
	WANT("p", "p-0");
	PLAN();
	EXPECT("p-0", "a", PLACE_RUNS_HERE);
	EXPECT_NOT("p-0", "b", PLACE_RUNS_ELSEWHERE);
}
CASE(what_runs_on_a_draining_node_goes)
{
	NODE("a", DRAINING);
	NODE("b");
	OFFER("b", "p");
	RUNS("a", "p", "p-0");
	WANT("p", "p-0");
	PLAN();
	EXPECT("p-0", "b", PLACE_ONLY_ONE);
}
CASE(what_ran_on_an_offline_node_goes)
{
	NODE("a", OFFLINE);
	NODE("b");
	OFFER("b", "p");
	RUNS("a", "p", "p-0");
	WANT("p", "p-0");
	PLAN();
	EXPECT("p-0", "b", PLACE_ONLY_ONE);
	EXPECT_NOT("p-0", "a", PLACE_NODE_OFFLINE);
}
CASE(not_without_the_model)
{
	NODE("a");
	NODE("b");
	OFFER("a", "p", .model_present = false);
	OFFER("b", "p");
	WANT("p", "p-0");
	PLAN();
	EXPECT("p-0", "b", PLACE_ONLY_ONE);
	EXPECT_NOT("p-0", "a", PLACE_NO_MODEL);
}
CASE(a_node_that_does_not_know_the_pool_has_no_model)
{
	NODE("a");
	OFFER("a", "q");
	WANT("p", "p-0");
	PLAN();
	EXPECT_NOT("p-0", "a", PLACE_NO_MODEL);
}
CASE(not_without_an_engine)
{
	NODE("a");
	OFFER("a", "p", .engine_possible = false);
	WANT("p", "p-0");
	PLAN();
	EXPECT_NOT("p-0", "a", PLACE_NO_ENGINE);
}
CASE(stays_where_it_runs_though_busier)
{
	NODE("a");
	NODE("b");
	OFFER("a", "p");
	OFFER("b", "p");
	RUNS("b", "p", "p-0", .leases = 4);
	RUNS("b", "q", "q-0");
	WANT("p", "p-0");
	PLAN();
	EXPECT("p-0", "b", PLACE_RUNS_HERE);
	EXPECT_NOT("p-0", "a", PLACE_RUNS_ELSEWHERE);
}
CASE(a_sibling_does_not_hold_it)
{
	NODE("a");
	NODE("b");
	OFFER("a", "p");
	OFFER("b", "p");
	RUNS("a", "p", "p-0");
	WANT("p", "p-1");
	PLAN();
	EXPECT("p-1", "b", PLACE_FEWEST_REPLICAS);
	EXPECT_NOT("p-1", "a", PLACE_MORE_REPLICAS);
}
CASE(fewest_replicas_before_load)
{
	NODE("a");
	NODE("b");
	OFFER("a", "p");
	OFFER("b", "p");
	RUNS("a", "q", "q-0");
	RUNS("a", "q", "q-1");
	RUNS("b", "q", "q-2", .leases = 4);
	WANT("p", "p-0");
	PLAN();
	EXPECT("p-0", "b", PLACE_FEWEST_REPLICAS);
}
CASE(least_loaded_where_counts_are_equal)
{
	NODE("a");
	NODE("b");
	OFFER("a", "p");
	OFFER("b", "p");
	RUNS("a", "q", "q-0", .leases = 2);
	RUNS("b", "q", "q-1", .leases = 1);
	WANT("p", "p-0");
	PLAN();
	EXPECT("p-0", "b", PLACE_LEAST_LOADED);
	EXPECT_NOT("p-0", "a", PLACE_MORE_LOADED);
}
CASE(load_is_a_share_of_the_slots)
{
	NODE("a");
	NODE("b");
	OFFER("a", "p");
	OFFER("b", "p");
	RUNS("a", "q", "q-0", .slots = 2, .leases = 1);
	RUNS("b", "q", "q-1", .slots = 100, .leases = 10);
	WANT("p", "p-0");
	PLAN();
	EXPECT("p-0", "b", PLACE_LEAST_LOADED);
}
CASE(shares_are_compared_exactly)
{
	NODE("a");
	NODE("b");
	OFFER("a", "p");
	OFFER("b", "p");
	RUNS("a", "q", "q-0", .slots = UINT32_MAX, .leases = UINT32_MAX - 1);
	RUNS("b", "q", "q-1", .slots = UINT32_MAX - 1, .leases = UINT32_MAX - 2);
	WANT("p", "p-0");
	PLAN();
	EXPECT("p-0", "b", PLACE_LEAST_LOADED);
}
CASE(first_by_name_where_all_is_equal)
{
	NODE("b");
	NODE("a");
	NODE("c");
	OFFER("c", "p");
	OFFER("b", "p");
	OFFER("a", "p");
	WANT("p", "p-0");
	PLAN();
	EXPECT("p-0", "a", PLACE_FIRST_BY_ID);
	EXPECT_NOT("p-0", "b", PLACE_LATER_BY_ID);
}
CASE(replicas_of_one_plan_spread)
{
	NODE("a");
	NODE("b");
	OFFER("a", "p");
	OFFER("b", "p");
	WANT("p", "p-1");
	WANT("p", "p-0");
	WANT("p", "p-2");
	PLAN();
	EXPECT("p-0", "a", PLACE_FIRST_BY_ID);
	EXPECT("p-1", "b", PLACE_FEWEST_REPLICAS);
	EXPECT("p-2", "a", PLACE_FIRST_BY_ID);
}
CASE(decisions_come_in_order_of_pool_and_replica)
{
	NODE("a");
	OFFER("a", "p");
	OFFER("a", "o");
	WANT("p", "p-1");
	WANT("o", "o-7");
	WANT("p", "p-0");
	PLAN();
	assert_string_equal(s.wants[s.ret[0].want].replica_id, "o-7");
	assert_string_equal(s.wants[s.ret[1].want].replica_id, "p-0");
	assert_string_equal(s.wants[s.ret[2].want].replica_id, "p-1");
}
CASE(the_policy_bounds_a_node)
{
	NODE("a");
	OFFER("a", "p");
	WANT("p", "p-0");
	WANT("p", "p-1");
	PER_NODE(1);
	PLAN();
	EXPECT("p-0", "a", PLACE_ONLY_ONE);
	EXPECT("p-1", "nowhere", PLACE_NONE_FEASIBLE);
	EXPECT_NOT("p-1", "a", PLACE_NODE_FULL);
}
CASE(what_runs_is_kept_on_a_full_node)
{
	NODE("a");
	OFFER("a", "p");
	RUNS("a", "p", "p-0");
	RUNS("a", "p", "p-1");
	WANT("p", "p-1");
	PER_NODE(1);
	PLAN();
	EXPECT("p-1", "a", PLACE_RUNS_HERE);
}
CASE(a_replica_on_an_unknown_node_counts_for_none)
{
	NODE("a");
	OFFER("a", "p");
	RUNS("ghost", "p", "p-0");
	WANT("p", "p-0");
	PLAN();
	EXPECT("p-0", "a", PLACE_ONLY_ONE);
}
CASE(the_same_replica_id_of_another_pool_is_another)
{
	NODE("a");
	NODE("b");
	OFFER("a", "p");
	OFFER("b", "p");
	RUNS("b", "q", "x-0");
	WANT("p", "x-0");
	PLAN();
	EXPECT("x-0", "a", PLACE_FEWEST_REPLICAS);
}
CASE(the_finest_rule_that_was_needed_is_the_reason)
{
	NODE("a");
	NODE("b");
	NODE("c");
	OFFER("a", "p");
	OFFER("b", "p");
	OFFER("c", "p");
	RUNS("a", "q", "q-0", .leases = 1);
	RUNS("b", "q", "q-1", .leases = 3);
	RUNS("c", "q", "q-2");
	RUNS("c", "q", "q-3");
	WANT("p", "p-0");
	PLAN();
	EXPECT("p-0", "a", PLACE_LEAST_LOADED);
	EXPECT_NOT("p-0", "b", PLACE_MORE_LOADED);
	EXPECT_NOT("p-0", "c", PLACE_MORE_REPLICAS);
}
CASE(every_reason_has_words)
{
	for (int i = 0; i < PLACE_REASON_COUNT; i++)
		assert_true(strlen(placement_reason_text((enum placement_reason)i)) > 8);
}

/* Replicas for requests */

#define PICK(...)                                                                                            \
	placement_pick_replica((const struct placement_replica[]){ __VA_ARGS__ },                            \
		sizeof((const struct placement_replica[]){ __VA_ARGS__ }) /                                  \
			sizeof(struct placement_replica))

CASE(a_request_goes_to_a_ready_replica)
{
	assert_int_equal(placement_pick_replica(NULL, 0), PLACEMENT_NONE);
	assert_int_equal(PICK({ "p-0", false, false, 4, 0 }, { "p-1", true, false, 4, 3 }), 1);
	assert_int_equal(PICK({ "p-0", false, false, 4, 0 }), PLACEMENT_NONE);
}
CASE(a_request_avoids_draining_and_full_replicas)
{
	assert_int_equal(
		PICK({ "p-0", true, true, 4, 0 }, { "p-1", true, false, 4, 4 }, { "p-2", true, false, 4, 3 }),
		2);
	assert_int_equal(PICK({ "p-0", true, true, 4, 0 }, { "p-1", true, false, 0, 0 }), PLACEMENT_NONE);
}
CASE(a_request_goes_to_the_least_loaded_share)
{
	assert_int_equal(PICK({ "p-0", true, false, 2, 1 }, { "p-1", true, false, 8, 3 }), 1);
	assert_int_equal(PICK({ "p-0", true, false, UINT32_MAX, UINT32_MAX - 1 },
				 { "p-1", true, false, UINT32_MAX - 1, UINT32_MAX - 2 }),
		1);
}
CASE(equal_replicas_are_taken_by_name)
{
	assert_int_equal(PICK({ "p-2", true, false, 2, 1 }, { "p-0", true, false, 4, 2 },
				 { "p-1", true, false, 6, 3 }),
		1);
}

/* Whatever the order of the facts, the decisions are the same, to the last reason. */

static void shuffle(struct rnd *rnd, void *v, size_t n, size_t size)
{
	char *p = v, t[64];
	for (size_t i = n; i > 1; i--) {
		size_t j = rnd_below(rnd, i);
		memcpy(t, p + (i - 1) * size, size);
		memmove(p + (i - 1) * size, p + j * size, size);
		memcpy(p + j * size, t, size);
	}
}

static void random_scene(struct rnd *rnd)
{
	static const char *const nodes[] = { "a", "b", "c", "d", "e" }, *const pools[] = { "p", "q", "r" };
	static const char *const replicas[][3] = { { "p-0", "p-1", "p-2" }, { "q-0", "q-1", "q-2" },
		{ "r-0", "r-1", "r-2" } };
	clean(NULL);
	PER_NODE((uint32_t)rnd_below(rnd, 5));
	for (size_t n = 0; n < ARRAY_LEN(nodes); n++) {
		NODE(nodes[n], .live = rnd_below(rnd, 5), .cordoned = !rnd_below(rnd, 5),
			.draining = !rnd_below(rnd, 6));
		for (size_t p = 0; p < ARRAY_LEN(pools); p++)
			if (rnd_below(rnd, 5))
				OFFER(nodes[n], pools[p], .model_present = rnd_below(rnd, 6),
					.engine_possible = rnd_below(rnd, 6));
	}
	for (size_t p = 0; p < ARRAY_LEN(pools); p++)
		for (size_t k = 0; k < 3; k++) {
			if (rnd_below(rnd, 2))
				RUNS(nodes[rnd_below(rnd, 5)], pools[p], replicas[p][k],
					.leases = (uint32_t)rnd_below(rnd, 5));
			if (rnd_below(rnd, 4))
				WANT(pools[p], replicas[p][k]);
		}
}

static void permutations_change_nothing(void **state)
{
	struct rnd rnd;
	uint64_t seed = rnd_os_u64() % 1000000;
	printf("# seed %llu\n", (unsigned long long)seed);
	fflush(stdout);
	rnd_seed(&rnd, seed);
	for (int round = 0; round < 20000; round++) {
		random_scene(&rnd);
		PLAN();
		struct scene x = s;
		shuffle(&rnd, x.nodes, x.nnodes, sizeof x.nodes[0]);
		shuffle(&rnd, x.offers, x.noffers, sizeof x.offers[0]);
		shuffle(&rnd, x.running, x.nrunning, sizeof x.running[0]);
		shuffle(&rnd, x.wants, x.nwants, sizeof x.wants[0]);
		plan(&x);
		for (size_t i = 0; i < s.nwants; i++) {
			const struct placement_decision *a = &s.ret[i], *b = &x.ret[i];
			assert_string_equal(s.wants[a->want].replica_id, x.wants[b->want].replica_id);
			assert_int_equal(a->reason, b->reason);
			assert_int_equal(a->node == PLACEMENT_NONE, b->node == PLACEMENT_NONE);
			if (a->node != PLACEMENT_NONE) {
				assert_string_equal(s.nodes[a->node].node_id, x.nodes[b->node].node_id);
				assert_true(s.nodes[a->node].live && !s.nodes[a->node].draining);
			}
			for (size_t n = 0; n < s.nnodes; n++) {
				assert_string_equal(s.nodes[a->candidates[n].node].node_id,
					x.nodes[b->candidates[n].node].node_id);
				assert_int_equal(a->candidates[n].reason, b->candidates[n].reason);
			}
		}
	}
}

int main(void)
{
#define T(name) cmocka_unit_test_setup(name, clean)
	const struct CMUnitTest tests[] = {
		T(takes_the_only_node),
		T(says_that_no_node_is_known),
		T(wants_nothing_decides_nothing),
		T(not_on_an_offline_node),
		T(not_on_a_draining_node),
		T(nothing_new_on_a_cordoned_node),
		T(what_runs_on_a_cordoned_node_stays),
		T(what_runs_on_a_draining_node_goes),
		T(what_ran_on_an_offline_node_goes),
		T(not_without_the_model),
		T(a_node_that_does_not_know_the_pool_has_no_model),
		T(not_without_an_engine),
		T(stays_where_it_runs_though_busier),
		T(a_sibling_does_not_hold_it),
		T(fewest_replicas_before_load),
		T(least_loaded_where_counts_are_equal),
		T(load_is_a_share_of_the_slots),
		T(shares_are_compared_exactly),
		T(first_by_name_where_all_is_equal),
		T(replicas_of_one_plan_spread),
		T(decisions_come_in_order_of_pool_and_replica),
		T(the_policy_bounds_a_node),
		T(what_runs_is_kept_on_a_full_node),
		T(a_replica_on_an_unknown_node_counts_for_none),
		T(the_same_replica_id_of_another_pool_is_another),
		T(the_finest_rule_that_was_needed_is_the_reason),
		T(every_reason_has_words),
		T(a_request_goes_to_a_ready_replica),
		T(a_request_avoids_draining_and_full_replicas),
		T(a_request_goes_to_the_least_loaded_share),
		T(equal_replicas_are_taken_by_name),
		T(permutations_change_nothing),
	};
	return cmocka_run_group_tests_name("placement", tests, NULL, NULL);
}
