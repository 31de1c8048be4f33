/* SPDX-License-Identifier: Apache-2.0 */
#include "fit_scene.h"

/* ---- one device ---------------------------------------------------------------------------------------- */

CASE(goes_on_the_only_device)
{
	GPU(24), HOST(64);
	WANT(10);
	PLAN();
	EXPECT("one 0:10");
}

CASE(fills_a_device_to_the_last_byte)
{
	GPU(24);
	WANT(24);
	PLAN();
	EXPECT("one 0:24");
}

CASE(is_refused_for_a_byte)
{
	GPU(24);
	WANT(24);
	s.need.whole++;
	PLAN();
	EXPECT("no 0 short 0.00");
	assert_int_equal(s.plan.missing, 1);
	EXPECT_WHY(0, FIT_TOO_SMALL);
}

CASE(says_what_is_missing_on_the_device_that_came_closest)
{
	GPU(8), GPU(12);
	WANT(15);
	PLAN();
	EXPECT("no 1 short 3");
	EXPECT_WHY(0, FIT_TOO_SMALL);
	EXPECT_WHY(1, FIT_TOO_SMALL);
}

CASE(goes_where_the_most_is_free_after_placing)
{
	GPU(12), GPU(24);
	WANT(10);
	PLAN();
	EXPECT("one 1:10");
	EXPECT_WHY(0, FIT_LESS_GOOD);
}

CASE(goes_to_the_least_loaded_before_the_roomiest)
{
	GPU(24), GPU(48);
	RUNS("a", 1, 4);
	WANT(10);
	PLAN();
	EXPECT("one 0:10");
}

CASE(of_equal_devices_takes_the_first)
{
	GPU(24), GPU(24), GPU(24);
	WANT(10);
	PLAN();
	EXPECT("one 0:10");
	EXPECT_WHY(2, FIT_LESS_GOOD);
}

CASE(of_equal_devices_takes_the_faster)
{
	GPU(24, .speed = 50), GPU(24, .speed = 80);
	WANT(10);
	PLAN();
	EXPECT("one 1:10");
}

CASE(an_unknown_speed_counts_as_the_fastest)
{
	GPU(24, .speed = 50), GPU(24), GPU(24, .speed = 80);
	WANT(10);
	PLAN();
	EXPECT("one 1:10");
}

CASE(load_is_replicas_by_speed)
{
	GPU(48, .speed = 300), GPU(48, .speed = 100);
	RUNS("a", 0, 4), RUNS("b", 0, 4), RUNS("c", 1, 4);
	WANT(10);
	PLAN();
	EXPECT("one 0:10"); /* two thirds of a hundredth against one */
}

CASE(a_free_device_beats_a_faster_loaded_one)
{
	GPU(48, .speed = 900), GPU(24, .speed = 100);
	RUNS("a", 0, 4);
	WANT(10);
	PLAN();
	EXPECT("one 1:10");
}

CASE(skips_a_device_without_room_for_one_with)
{
	GPU(24), GPU(12);
	RUNS("a", 0, 20, BUSY);
	WANT(10);
	PLAN();
	EXPECT("one 1:10");
	EXPECT_WHY(0, FIT_FULL);
}

CASE(an_unknown_capacity_refuses_nothing)
{
	GPU(0);
	WANT(500);
	PLAN();
	EXPECT("one 0:500");
}

CASE(of_known_and_unknown_room_the_known_counts_as_more)
{
	GPU(0), GPU(24);
	WANT(10);
	PLAN();
	EXPECT("one 1:10");
}

CASE(an_unknown_need_goes_anywhere)
{
	GPU(24);
	RUNS("a", 0, 24, BUSY);
	WANT(0);
	PLAN();
	EXPECT("one 0:0");
}

CASE(nothing_without_a_device)
{
	HOST(64);
	WANT(10);
	PLAN();
	EXPECT("no device");
	EXPECT_WHY(0, FIT_OTHER_KIND);
}

CASE(nothing_at_all)
{
	WANT(10);
	PLAN();
	EXPECT("no device");
}

/* ---- what is held by others ---------------------------------------------------------------------------- */

CASE(memory_of_strangers_counts)
{
	GPU(24, FOREIGN(16)), GPU(12);
	WANT(10);
	PLAN();
	EXPECT("one 1:10");
	EXPECT_WHY(0, FIT_TOO_SMALL);
}

CASE(strangers_do_not_leave)
{
	GPU(24, FOREIGN(10));
	RUNS("a", 0, 10);
	WANT(15);
	PLAN();
	EXPECT("no 0 short 1");
}

CASE(what_strangers_took_beyond_the_free_is_missing_first)
{
	GPU(24, FOREIGN(10));
	RUNS("a", 0, 10), RUNS("b", 0, 10);
	WANT(4);
	PLAN();
	EXPECT("one 0:4 evict a"); /* 24 - 10 - 20 + 10 = 4 */
}

CASE(headroom_stays_free)
{
	GPU(12), GPU(24);
	WANT(23, .headroom = 2 * GIB);
	PLAN();
	EXPECT("no 1 short 1");
	WANT(22, .headroom = 2 * GIB);
	PLAN();
	EXPECT("one 1:22");
}

CASE(headroom_is_not_asked_of_the_host)
{
	GPU(24), HOST(8);
	WANT(10, .headroom = 2 * GIB);
	NEEDS(host, 8);
	PLAN();
	EXPECT("one 0:10 host:8");
}

/* ---- an operator's bounds ------------------------------------------------------------------------------ */

CASE(an_operators_bound_of_a_device_holds)
{
	GPU(24, LIMIT(8)), GPU(12);
	WANT(10);
	PLAN();
	EXPECT("one 1:10");
	EXPECT_WHY(0, FIT_BUDGET);
}

CASE(what_ours_hold_counts_against_the_bound)
{
	GPU(24, LIMIT(12));
	RUNS("a", 0, 6);
	WANT(8);
	PLAN();
	EXPECT("one 0:8 evict a");
}

CASE(the_bound_of_replicas_makes_one_leave)
{
	GPU(24), HOST(64);
	s.replicas_max = 2;
	RUNS("a", 0, 4, LOSS(5)), RUNS("b", 0, 4, LOSS(1));
	WANT(4);
	PLAN();
	EXPECT("one 0:4 evict b");
}

CASE(the_bound_of_replicas_refuses_beside_busy_ones)
{
	GPU(24), HOST(64);
	s.replicas_max = 2;
	RUNS("a", 0, 4, BUSY), RUNS("b", 0, 4, PINNED);
	WANT(4);
	PLAN();
	assert_int_equal(s.plan.how, FIT_NO);
	EXPECT_WHY(0, FIT_BUDGET);
}

CASE(below_the_bound_of_replicas_nobody_leaves)
{
	GPU(24);
	s.replicas_max = 2;
	RUNS("a", 0, 4);
	WANT(4);
	PLAN();
	EXPECT("one 0:4");
}

CASE(the_bound_of_replicas_counts_each_node)
{
	ON("a", 24), ON("b", 24);
	s.replicas_max = 1;
	RUNS("x", 0, 4);
	WANT(4);
	PLAN();
	EXPECT("one b/0:4");
}

/* ---- masks, wishes ------------------------------------------------------------------------------------- */

CASE(nothing_leaves_the_mask)
{
	GPU(48), GPU(12);
	WANT(20);
	BITS(mask, 2);
	PLAN();
	EXPECT("no 1 short 8");
	EXPECT_WHY(0, FIT_NOT_IN_MASK);
}

CASE(a_mask_chooses)
{
	GPU(48), GPU(24), GPU(12);
	WANT(10);
	BITS(mask, 4);
	PLAN();
	EXPECT("one 2:10");
}

CASE(an_empty_mask_is_nowhere)
{
	GPU(48);
	WANT(10);
	BITS(mask, 0);
	PLAN();
	EXPECT("no device");
}

CASE(a_preferred_device_is_taken_though_less_is_free)
{
	GPU(48), GPU(24);
	WANT(10);
	BITS(prefer, 2);
	PLAN();
	EXPECT("one 1:10");
}

CASE(a_preference_makes_nobody_leave)
{
	GPU(48), GPU(24);
	RUNS("a", 1, 20);
	WANT(10);
	BITS(prefer, 2);
	PLAN();
	EXPECT("one 0:10");
	EXPECT_WHY(1, FIT_NEEDS_EVICTION);
}

CASE(a_device_to_avoid_is_avoided)
{
	GPU(48), GPU(24);
	WANT(10);
	BITS(avoid, 1);
	PLAN();
	EXPECT("one 1:10");
	EXPECT_WHY(0, FIT_AVOIDED);
}

CASE(a_device_to_avoid_is_taken_when_nothing_else_does)
{
	GPU(48), GPU(8);
	WANT(10);
	BITS(avoid, 1);
	PLAN();
	EXPECT("one 0:10");
}

CASE(one_leaves_rather_than_a_device_to_avoid_is_taken)
{
	GPU(48), GPU(24);
	RUNS("a", 1, 20);
	WANT(10);
	BITS(avoid, 1);
	PLAN();
	EXPECT("one 1:10 evict a");
}

CASE(a_device_to_avoid_is_better_than_host_memory)
{
	GPU(48), GPU(8), HOST(64);
	MODEL(10, 1, OFFLOAD);
	BITS(avoid, 1);
	PLAN();
	EXPECT("one 0:10");
}

CASE(a_cordoned_device_takes_nothing_new)
{
	GPU(48, .cordoned = true), GPU(12);
	WANT(10);
	PLAN();
	EXPECT("one 1:10");
	EXPECT_WHY(0, FIT_CORDONED);
}

CASE(a_device_that_does_not_answer_takes_nothing)
{
	GPU(48, .usable = false), GPU(12);
	WANT(10);
	PLAN();
	EXPECT("one 1:10");
	EXPECT_WHY(0, FIT_NOT_USABLE);
}

CASE(an_integrated_device_is_not_taken_unasked)
{
	GPU(64, .integrated = true), HOST(64);
	WANT(10);
	PLAN();
	EXPECT("no device");
	EXPECT_WHY(0, FIT_INTEGRATED);
}

CASE(an_integrated_device_is_taken_when_named_and_counts_on_the_host)
{
	GPU(64, .integrated = true), HOST(64);
	WANT(10);
	NEEDS(host, 2);
	BITS(mask, 1);
	PLAN();
	EXPECT("one 0:10 host:12");
}

CASE(an_integrated_device_needs_the_hosts_room)
{
	GPU(64, .integrated = true), HOST(16);
	WANT(20);
	BITS(mask, 1);
	PLAN();
	assert_int_equal(s.plan.how, FIT_NO);
}

CASE(only_the_node_that_was_asked_for)
{
	ON("a", 48), ON("b", 12);
	WANT(10, .node_id = "b");
	PLAN();
	EXPECT("one b/0:10");
	EXPECT_WHY(0, FIT_OTHER_NODE);
}

CASE(of_equal_nodes_the_first_by_name)
{
	ON("b", 24), ON("a", 24);
	WANT(10);
	PLAN();
	EXPECT("one a/0:10");
}

/* ---- apart --------------------------------------------------------------------------------------------- */

CASE(replicas_of_a_pool_keep_apart)
{
	GPU(48), GPU(24);
	RUNS("new-1", 0, 10), RUNS("b", 1, 1), RUNS("c", 1, 1);
	WANT(10);
	WITH(siblings, 0);
	PLAN();
	EXPECT("one 1:10");
}

CASE(replicas_of_a_pool_share_a_device_rather_than_evict)
{
	GPU(48), GPU(24);
	RUNS("new-1", 0, 10), RUNS("b", 1, 20);
	WANT(10);
	WITH(siblings, 0);
	PLAN();
	EXPECT("one 0:10");
}

CASE(replicas_of_a_pool_keep_apart_though_one_device_is_preferred)
{
	GPU(48), GPU(24);
	RUNS("new-1", 0, 10);
	WANT(10);
	WITH(siblings, 0);
	BITS(prefer, 1);
	PLAN();
	EXPECT("one 1:10");
}

CASE(replicas_of_a_pool_go_to_different_nodes)
{
	ON("a", 48), ON("a", 48), ON("b", 24);
	RUNS("new-1", 0, 10);
	WANT(10);
	WITH(siblings, 0);
	PLAN();
	EXPECT("one b/0:10");
}

CASE(warm_files_keep_it_on_a_node)
{
	ON("a", 48), ON("a", 48), ON("b", 24);
	RUNS("new-1", 0, 10);
	WANT(10);
	WITH(siblings, 0);
	BITS(prefer, 3);
	PLAN();
	EXPECT("one a/1:10");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		UNIT(goes_on_the_only_device),
		UNIT(fills_a_device_to_the_last_byte),
		UNIT(is_refused_for_a_byte),
		UNIT(says_what_is_missing_on_the_device_that_came_closest),
		UNIT(goes_where_the_most_is_free_after_placing),
		UNIT(goes_to_the_least_loaded_before_the_roomiest),
		UNIT(of_equal_devices_takes_the_first),
		UNIT(of_equal_devices_takes_the_faster),
		UNIT(an_unknown_speed_counts_as_the_fastest),
		UNIT(load_is_replicas_by_speed),
		UNIT(a_free_device_beats_a_faster_loaded_one),
		UNIT(skips_a_device_without_room_for_one_with),
		UNIT(an_unknown_capacity_refuses_nothing),
		UNIT(of_known_and_unknown_room_the_known_counts_as_more),
		UNIT(an_unknown_need_goes_anywhere),
		UNIT(nothing_without_a_device),
		UNIT(nothing_at_all),
		UNIT(memory_of_strangers_counts),
		UNIT(strangers_do_not_leave),
		UNIT(what_strangers_took_beyond_the_free_is_missing_first),
		UNIT(headroom_stays_free),
		UNIT(headroom_is_not_asked_of_the_host),
		UNIT(an_operators_bound_of_a_device_holds),
		UNIT(what_ours_hold_counts_against_the_bound),
		UNIT(the_bound_of_replicas_makes_one_leave),
		UNIT(the_bound_of_replicas_refuses_beside_busy_ones),
		UNIT(below_the_bound_of_replicas_nobody_leaves),
		UNIT(the_bound_of_replicas_counts_each_node),
		UNIT(nothing_leaves_the_mask),
		UNIT(a_mask_chooses),
		UNIT(an_empty_mask_is_nowhere),
		UNIT(a_preferred_device_is_taken_though_less_is_free),
		UNIT(a_preference_makes_nobody_leave),
		UNIT(a_device_to_avoid_is_avoided),
		UNIT(a_device_to_avoid_is_taken_when_nothing_else_does),
		UNIT(one_leaves_rather_than_a_device_to_avoid_is_taken),
		UNIT(a_device_to_avoid_is_better_than_host_memory),
		UNIT(a_cordoned_device_takes_nothing_new),
		UNIT(a_device_that_does_not_answer_takes_nothing),
		UNIT(an_integrated_device_is_not_taken_unasked),
		UNIT(an_integrated_device_is_taken_when_named_and_counts_on_the_host),
		UNIT(an_integrated_device_needs_the_hosts_room),
		UNIT(only_the_node_that_was_asked_for),
		UNIT(of_equal_nodes_the_first_by_name),
		UNIT(replicas_of_a_pool_keep_apart),
		UNIT(replicas_of_a_pool_share_a_device_rather_than_evict),
		UNIT(replicas_of_a_pool_keep_apart_though_one_device_is_preferred),
		UNIT(replicas_of_a_pool_go_to_different_nodes),
		UNIT(warm_files_keep_it_on_a_node),
	};
	return cmocka_run_group_tests_name("fit", tests, NULL, NULL);
}
