/* SPDX-License-Identifier: Apache-2.0 */
#include "fit_scene.h"

#include <math.h>

#include "base/mem.h"

/* ---- cases --------------------------------------------------------------------------------------------- */

CASE(nobody_leaves_where_there_is_room)
{
	GPU(24);
	RUNS("a", 0, 10);
	WANT(14);
	PLAN();
	EXPECT("one 0:14");
}

CASE(an_idle_one_leaves)
{
	GPU(24);
	RUNS("a", 0, 20);
	WANT(10);
	PLAN();
	EXPECT("one 0:10 evict a");
}

CASE(a_busy_one_never_leaves)
{
	GPU(24);
	RUNS("a", 0, 20, BUSY);
	WANT(10);
	PLAN();
	EXPECT("no 0 short 6 later");
	EXPECT_WHY(0, FIT_FULL);
}

CASE(a_busy_one_never_leaves_though_expired)
{
	GPU(24);
	RUNS("a", 0, 20, BUSY, EXPIRED);
	WANT(10);
	PLAN();
	EXPECT("no 0 short 6 later");
}

CASE(a_pinned_one_never_leaves)
{
	GPU(24);
	RUNS("a", 0, 20, PINNED, EXPIRED);
	WANT(10);
	PLAN();
	EXPECT("no 0 short 6");
}

CASE(a_protected_one_stays)
{
	GPU(24);
	RUNS("a", 0, 10), RUNS("b", 0, 10, LOSS(100));
	WANT(10);
	WITH(protect, 0);
	PLAN();
	EXPECT("one 0:10 evict b");
}

CASE(nobody_leaves_where_eviction_is_off)
{
	GPU(24);
	RUNS("a", 0, 20, EXPIRED);
	WANT(10, NO_EVICTION);
	PLAN();
	EXPECT("no 0 short 6 later");
}

CASE(idle_only_leaves_when_its_time_is_over)
{
	GPU(24);
	RUNS("a", 0, 20, IDLE_ONLY);
	WANT(10);
	PLAN();
	EXPECT("no 0 short 6 later");
	s.replicas[0].expired = true;
	PLAN();
	EXPECT("one 0:10 evict a");
}

CASE(expired_ones_leave_first)
{
	GPU(24);
	RUNS("a", 0, 10, LOSS(1)), RUNS("b", 0, 10, LOSS(1000), EXPIRED);
	WANT(10);
	PLAN();
	EXPECT("one 0:10 evict b");
}

CASE(expired_ones_before_those_nobody_wants)
{
	GPU(24);
	RUNS("a", 0, 10, LOSS(0)), RUNS("b", 0, 10, EXPIRED);
	WANT(10);
	PLAN();
	EXPECT("one 0:10 evict b");
}

CASE(several_expired_before_one_that_is_not)
{
	GPU(24);
	RUNS("a", 0, 12, LOSS(0.1)), RUNS("b", 0, 4, EXPIRED), RUNS("c", 0, 4, EXPIRED),
		RUNS("d", 0, 4, EXPIRED);
	WANT(12);
	PLAN();
	EXPECT("one 0:12 evict b c d");
}

CASE(the_smallest_loss_leaves)
{
	GPU(24);
	RUNS("a", 0, 8, LOSS(3)), RUNS("b", 0, 8, LOSS(1)), RUNS("c", 0, 8, LOSS(2));
	WANT(8);
	PLAN();
	EXPECT("one 0:8 evict b");
	assert_true(fabs(s.plan.loss - 1) < 1e-9);
}

CASE(the_smallest_sum_leaves_not_the_smallest_first)
{
	GPU(24);
	RUNS("a", 0, 4, LOSS(1)), RUNS("b", 0, 20, LOSS(2));
	WANT(20);
	PLAN();
	EXPECT("one 0:20 evict b");
}

CASE(two_cheap_ones_rather_than_a_dear_one)
{
	GPU(24);
	RUNS("a", 0, 8, LOSS(1)), RUNS("b", 0, 8, LOSS(1)), RUNS("c", 0, 8, LOSS(5));
	WANT(16);
	PLAN();
	EXPECT("one 0:16 evict a b");
}

CASE(of_equal_loss_the_fewest_leave)
{
	GPU(24);
	RUNS("a", 0, 4), RUNS("b", 0, 4), RUNS("c", 0, 16);
	WANT(12);
	PLAN();
	EXPECT("one 0:12 evict c");
}

CASE(of_equal_loss_the_largest_leaves)
{
	GPU(24);
	RUNS("a", 0, 10), RUNS("b", 0, 14);
	WANT(8);
	PLAN();
	EXPECT("one 0:8 evict b");
}

CASE(of_equal_ones_the_first_by_id_leaves)
{
	GPU(24);
	RUNS("b", 0, 12), RUNS("a", 0, 12);
	WANT(8);
	PLAN();
	EXPECT("one 0:8 evict a");
}

CASE(the_device_where_the_least_is_lost)
{
	GPU(24), GPU(24);
	RUNS("a", 0, 20, LOSS(9)), RUNS("b", 1, 20, LOSS(4));
	WANT(20);
	PLAN();
	EXPECT("one 1:20 evict b");
	EXPECT_WHY(0, FIT_NEEDS_EVICTION);
}

CASE(the_device_where_only_expired_ones_leave)
{
	GPU(24), GPU(24);
	RUNS("a", 0, 20, LOSS(0.5)), RUNS("b", 1, 10, EXPIRED), RUNS("c", 1, 10, EXPIRED);
	WANT(20);
	PLAN();
	EXPECT("one 1:20 evict b c");
}

CASE(only_those_on_the_right_device_leave)
{
	GPU(24), GPU(8);
	RUNS("a", 1, 8, EXPIRED), RUNS("b", 0, 20, LOSS(100));
	WANT(20);
	PLAN();
	EXPECT("one 0:20 evict b");
}

CASE(one_that_is_spread_leaves_all_its_devices)
{
	GPU(24), GPU(24);
	RUNS("a", 0, 20, LOSS(1)), ALSO(1, 20);
	MODEL(40, 1);
	PLAN();
	EXPECT("split 0:20 1:20 evict a");
}

CASE(a_spread_one_frees_what_two_would)
{
	GPU(20), GPU(20);
	RUNS("a", 0, 8, LOSS(3)), ALSO(1, 8);
	RUNS("b", 0, 8, LOSS(2)), RUNS("c", 1, 8, LOSS(2));
	MODEL(24, 1);
	PLAN();
	EXPECT("split 0:12 1:12 evict a");
}

CASE(what_may_not_run_beside_it_leaves)
{
	GPU(48);
	RUNS("a", 0, 10, LOSS(50)), RUNS("b", 0, 10);
	WANT(10);
	WITH(never_with, 0);
	PLAN();
	EXPECT("one 0:10 evict a");
}

CASE(what_may_not_run_beside_it_and_is_busy_refuses)
{
	GPU(48);
	RUNS("a", 0, 10, BUSY);
	WANT(10);
	WITH(never_with, 0);
	PLAN();
	assert_int_equal(s.plan.how, FIT_NO);
	EXPECT_WHY(0, FIT_NEVER_WITH);
}

CASE(what_may_not_run_beside_it_is_left_alone_on_another_node)
{
	ON("a", 48), ON("b", 24);
	RUNS("x", 0, 10);
	WANT(10);
	WITH(never_with, 0);
	PLAN();
	EXPECT("one b/0:10");
}

CASE(what_may_not_run_beside_it_may_not_on_another_device_either)
{
	GPU(24), GPU(24);
	RUNS("x", 0, 10);
	WANT(10);
	WITH(never_with, 0);
	PLAN();
	EXPECT("one 0:10 evict x");
}

CASE(its_leaving_counts_for_the_room)
{
	GPU(24);
	RUNS("a", 0, 10, LOSS(50)), RUNS("b", 0, 10, LOSS(1));
	WANT(14);
	WITH(never_with, 0);
	PLAN();
	EXPECT("one 0:14 evict a");
}

CASE(more_than_its_leaving_may_be_needed)
{
	GPU(24);
	RUNS("a", 0, 4, LOSS(50)), RUNS("b", 0, 10, LOSS(3)), RUNS("c", 0, 10, LOSS(2));
	WANT(12);
	WITH(never_with, 0);
	PLAN();
	EXPECT("one 0:12 evict a c");
}

CASE(a_loss_that_is_no_number_counts_as_none)
{
	GPU(24);
	RUNS("a", 0, 20, LOSS(NAN)), RUNS("b", 0, 4, LOSS(-5));
	WANT(20);
	PLAN();
	EXPECT("one 0:20 evict a");
}

CASE(an_infinite_loss_leaves_last)
{
	GPU(24);
	RUNS("a", 0, 12, LOSS(INFINITY)), RUNS("b", 0, 12, LOSS(1e300));
	WANT(10);
	PLAN();
	EXPECT("one 0:10 evict b");
	WANT(20);
	PLAN();
	EXPECT("one 0:20 evict b a");
}

CASE(more_than_can_be_searched_leave_by_rule)
{
	static char ids[64][16];
	GPU(80);
	for (int i = 0; i < 40; i++) {
		(void)snprintf(ids[i], sizeof ids[i], "r%02d", i);
		RUNS(ids[i], 0, 2, LOSS(100 - i));
	}
	WANT(6);
	PLAN();
	EXPECT("one 0:6 evict r39 r38 r37");
}

CASE(one_leaves_rather_than_a_crowd)
{
	static char ids[64][16];
	GPU(88);
	for (int i = 0; i < 40; i++) {
		(void)snprintf(ids[i], sizeof ids[i], "r%02d", i);
		RUNS(ids[i], 0, 1, LOSS(1));
	}
	RUNS("big", 0, 48, LOSS(2));
	WANT(30);
	PLAN();
	EXPECT("one 0:30 evict big");
}

CASE(not_more_leave_than_the_bound)
{
	static char ids[128][16];
	GPU(100);
	for (int i = 0; i < 100; i++) {
		(void)snprintf(ids[i], sizeof ids[i], "r%02d", i);
		RUNS(ids[i], 0, 1);
	}
	WANT(64);
	PLAN();
	assert_int_equal(s.plan.nvictims, 64);
	WANT(65);
	PLAN();
	assert_int_equal(s.plan.how, FIT_NO);
}

/* ---- absurd numbers ------------------------------------------------------------------------------------ */

CASE(sums_that_overflow_fit_nowhere)
{
	GPU(24), HOST(64);
	MODEL(3, 1, OFFLOAD, CPU_MAY);
	s.layers[0].weights = s.layers[1].cache = UINT64_MAX - 5;
	assert_true(fit_need_whole(&s.need) == UINT64_MAX);
	PLAN();
	assert_int_equal(s.plan.how, FIT_NO);
}

CASE(more_reserved_than_there_is)
{
	GPU(24, .reserved = UINT64_MAX / 2), GPU(24, .foreign = UINT64_MAX);
	RUNS("a", 1, 1);
	WANT(1);
	PLAN();
	assert_int_equal(s.plan.how, FIT_NO);
}

CASE(a_headroom_larger_than_the_device)
{
	GPU(24);
	WANT(1, .headroom = UINT64_MAX);
	PLAN();
	EXPECT("no 0 short 1");
}

CASE(more_layers_than_can_be_divided)
{
	static struct fit_layer many[FIT_LAYERS_MAX + 1];
	GPU(24), GPU(24), HOST(64);
	for (size_t i = 0; i < ARRAY_LEN(many); i++)
		many[i].weights = 30 * MIB;
	WANT(0, OFFLOAD);
	s.need = (struct fit_need){ .layers = many, .nlayers = ARRAY_LEN(many) };
	PLAN();
	assert_int_equal(s.plan.how, FIT_NO);
	many[0].weights = 0;
	s.need.nlayers = 512;
	PLAN();
	assert_int_equal(s.plan.how, FIT_ONE);
}

CASE(absurd_layers_of_a_split)
{
	GPU(24), GPU(24), HOST(64);
	MODEL(4, 12, OFFLOAD);
	NEEDS(host, 1);
	s.need.host = UINT64_MAX;
	PLAN();
	assert_int_equal(s.plan.how, FIT_NO);
	assert_true(s.plan.host_missing);
}

/* ---- the first that fits ------------------------------------------------------------------------------- */

CASE(tells_the_first_smaller_setting_that_fits)
{
	GPU(24);
	RUNS("a", 0, 10);
	WANT(30);
	struct fit_need smaller[3] = { { .whole = 20 * GIB }, { .whole = 14 * GIB }, { .whole = 5 * GIB } };
	const struct fit_need *needs[] = { &smaller[0], &smaller[1], &smaller[2] };
	struct fit_facts f;
	scene_facts(&f);
	s.want.need = &s.need;
	AUTO(mem_freep) void *scratch = mem_alloc(fit_scratch_bytes(&f));
	assert_int_equal(fit_first_that_fits(&f, &s.want, needs, 3, scratch), 1);
	assert_int_equal(fit_first_that_fits(&f, &s.want, needs, 1, scratch), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		UNIT(nobody_leaves_where_there_is_room),
		UNIT(an_idle_one_leaves),
		UNIT(a_busy_one_never_leaves),
		UNIT(a_busy_one_never_leaves_though_expired),
		UNIT(a_pinned_one_never_leaves),
		UNIT(a_protected_one_stays),
		UNIT(nobody_leaves_where_eviction_is_off),
		UNIT(idle_only_leaves_when_its_time_is_over),
		UNIT(expired_ones_leave_first),
		UNIT(expired_ones_before_those_nobody_wants),
		UNIT(several_expired_before_one_that_is_not),
		UNIT(the_smallest_loss_leaves),
		UNIT(the_smallest_sum_leaves_not_the_smallest_first),
		UNIT(two_cheap_ones_rather_than_a_dear_one),
		UNIT(of_equal_loss_the_fewest_leave),
		UNIT(of_equal_loss_the_largest_leaves),
		UNIT(of_equal_ones_the_first_by_id_leaves),
		UNIT(the_device_where_the_least_is_lost),
		UNIT(the_device_where_only_expired_ones_leave),
		UNIT(only_those_on_the_right_device_leave),
		UNIT(one_that_is_spread_leaves_all_its_devices),
		UNIT(a_spread_one_frees_what_two_would),
		UNIT(what_may_not_run_beside_it_leaves),
		UNIT(what_may_not_run_beside_it_and_is_busy_refuses),
		UNIT(what_may_not_run_beside_it_is_left_alone_on_another_node),
		UNIT(what_may_not_run_beside_it_may_not_on_another_device_either),
		UNIT(its_leaving_counts_for_the_room),
		UNIT(more_than_its_leaving_may_be_needed),
		UNIT(a_loss_that_is_no_number_counts_as_none),
		UNIT(an_infinite_loss_leaves_last),
		UNIT(more_than_can_be_searched_leave_by_rule),
		UNIT(one_leaves_rather_than_a_crowd),
		UNIT(not_more_leave_than_the_bound),
		UNIT(sums_that_overflow_fit_nowhere),
		UNIT(more_reserved_than_there_is),
		UNIT(a_headroom_larger_than_the_device),
		UNIT(more_layers_than_can_be_divided),
		UNIT(absurd_layers_of_a_split),
		UNIT(tells_the_first_smaller_setting_that_fits),
	};
	return cmocka_run_group_tests_name("fit_evict", tests, NULL, NULL);
}
