/* SPDX-License-Identifier: Apache-2.0 */
#include "fit_scene.h"

/* ---- over several devices ------------------------------------------------------------------------------ */

CASE(is_whole_on_one_device_rather_than_split)
{
	GPU(12), GPU(12), GPU(24);
	MODEL(20, 1);
	PLAN();
	EXPECT("one 2:20");
	EXPECT_LAYERS("21");
	assert_int_equal(s.plan.gpu_layers, 21);
}

CASE(is_split_where_no_device_holds_it)
{
	GPU(24), GPU(12);
	MODEL(30, 1);
	PLAN();
	EXPECT("split 0:20 1:10");
	EXPECT_LAYERS("20 11");
}

CASE(is_split_by_what_is_free)
{
	GPU(24), GPU(24, FOREIGN(12));
	MODEL(30, 1);
	PLAN();
	EXPECT("split 0:20 1:10");
}

CASE(is_split_in_whole_layers)
{
	GPU(10), GPU(10);
	MODEL(5, 3);
	PLAN();
	EXPECT("split 0:9 1:6");
	EXPECT_LAYERS("3 3");
}

CASE(layers_that_cannot_be_cut_do_not_fit)
{
	GPU(10), GPU(10);
	MODEL(3, 6);
	PLAN();
	EXPECT("no 0+1 short 2");
	MODEL(2, 9);
	PLAN();
	EXPECT("split 0:9 1:9");
}

CASE(the_output_goes_with_the_last_and_extras_with_the_first)
{
	GPU(16), GPU(16);
	MODEL(20, 1);
	NEEDS(output, 4), NEEDS(extra, 2);
	PLAN();
	EXPECT("split 0:13 1:13");
	EXPECT_LAYERS("11 10");
}

CASE(each_device_of_a_split_has_its_buffers)
{
	GPU(12), GPU(12);
	MODEL(18, 1);
	NEEDS(compute, 2), NEEDS(overhead, 1);
	PLAN();
	EXPECT("split 0:12 1:12");
	MODEL(19, 1);
	NEEDS(compute, 2), NEEDS(overhead, 1);
	PLAN();
	EXPECT("no 0+1 short 1");
}

CASE(takes_the_fewest_devices)
{
	GPU(12), GPU(12), GPU(24), GPU(24);
	MODEL(40, 1);
	PLAN();
	EXPECT("split 2:20 3:20");
}

CASE(prefers_devices_of_a_split)
{
	GPU(24), GPU(24), GPU(24), GPU(24);
	MODEL(40, 1);
	BITS(prefer, 0xa);
	PLAN();
	EXPECT("split 1:20 3:20");
}

CASE(a_split_stays_on_one_node)
{
	ON("a", 24), ON("b", 24);
	MODEL(40, 1);
	PLAN();
	EXPECT("no a/0 short 16");
}

CASE(a_split_stays_in_one_kind)
{
	DEVICE("home", CUDA, 24), DEVICE("home", ROCM, 24), HOST(64);
	MODEL(40, 1);
	PLAN();
	EXPECT("no 0 short 16");
}

CASE(a_split_is_of_the_kind_that_has_room)
{
	DEVICE("home", CUDA, 24), DEVICE("home", ROCM, 24), DEVICE("home", ROCM, 24), HOST(64);
	MODEL(40, 1);
	PLAN();
	EXPECT("split 1:20 2:20");
	EXPECT_WHY(0, FIT_OTHER_KIND);
}

CASE(a_split_before_somebody_leaves)
{
	GPU(24), GPU(24);
	RUNS("a", 0, 8), RUNS("b", 1, 8);
	MODEL(20, 1);
	PLAN();
	EXPECT("split 0:10 1:10");
}

CASE(one_device_by_eviction_before_a_split_by_eviction)
{
	GPU(24), GPU(24);
	RUNS("a", 0, 16), RUNS("b", 1, 20, LOSS(1));
	MODEL(20, 1);
	PLAN();
	EXPECT("one 0:20 evict a");
}

CASE(a_split_by_eviction)
{
	GPU(24), GPU(24);
	RUNS("a", 0, 16, LOSS(3)), RUNS("b", 1, 16, LOSS(2));
	MODEL(30, 1);
	PLAN();
	EXPECT("split 0:7 1:23 evict b");
}

CASE(a_split_needs_known_layers)
{
	GPU(24), GPU(24);
	WANT(40);
	PLAN();
	EXPECT("no 0 short 16");
}

CASE(sixteen_devices_are_the_most)
{
	for (int i = 0; i < 20; i++)
		GPU(10);
	MODEL(160, 1);
	PLAN();
	assert_int_equal(s.plan.how, FIT_SPLIT);
	assert_int_equal(s.plan.nparts, 16);
	MODEL(161, 1);
	PLAN();
	assert_int_equal(s.plan.how, FIT_NO);
}

/* ---- gpus: N, shares ----------------------------------------------------------------------------------- */

CASE(gets_as_many_devices_as_it_asks_for)
{
	GPU(24), GPU(24), GPU(24);
	MODEL(20, 1, .gpus = 2);
	PLAN();
	EXPECT("split 0:10 1:10");
}

CASE(one_device_asked_for_is_never_split)
{
	GPU(24), GPU(24);
	MODEL(30, 1, .gpus = 1);
	PLAN();
	EXPECT("no 0 short 6");
}

CASE(too_few_devices_are_refused)
{
	GPU(24);
	MODEL(20, 1, .gpus = 2);
	PLAN();
	assert_int_equal(s.plan.how, FIT_NO);
	EXPECT_WHY(0, FIT_TOO_FEW);
}

CASE(of_unknown_layers_each_device_gets_its_part)
{
	GPU(24), GPU(24);
	WANT(40, .gpus = 2);
	PLAN();
	EXPECT("split 0:20 1:20");
}

CASE(a_share_is_taken_of_one_device)
{
	GPU(24), GPU(12);
	WANT(40, .share = 11 * GIB);
	PLAN();
	EXPECT("share 0:11");
}

CASE(a_share_is_taken_of_each_device)
{
	GPU(24), GPU(8), GPU(24);
	WANT(40, .share = 20 * GIB, .gpus = 2);
	PLAN();
	EXPECT("share 0:20 2:20");
	EXPECT_WHY(1, FIT_TOO_SMALL);
}

CASE(a_share_goes_to_the_least_loaded)
{
	GPU(24), GPU(24), GPU(24);
	RUNS("a", 0, 2, BUSY);
	WANT(40, .share = 20 * GIB, .gpus = 2);
	PLAN();
	EXPECT("share 1:20 2:20");
}

CASE(a_share_makes_the_cheapest_leave)
{
	GPU(24), GPU(24), GPU(24), GPU(24);
	RUNS("a", 0, 20, LOSS(10)), ALSO(1, 20);
	RUNS("b", 2, 20, LOSS(1)), ALSO(3, 20);
	WANT(40, .share = 20 * GIB, .gpus = 2);
	PLAN();
	EXPECT("share 2:20 3:20 evict b");
}

CASE(a_share_that_is_too_large_is_refused)
{
	GPU(24), GPU(16);
	WANT(40, .share = 20 * GIB, .gpus = 2);
	PLAN();
	assert_int_equal(s.plan.how, FIT_NO);
}

/* ---- host memory --------------------------------------------------------------------------------------- */

CASE(host_memory_is_reserved)
{
	GPU(24), HOST(64);
	WANT(10);
	NEEDS(host, 3);
	PLAN();
	EXPECT("one 0:10 host:3");
	EXPECT_WHY(1, FIT_TAKEN);
}

CASE(host_memory_short_is_no_start)
{
	GPU(24), HOST(4);
	WANT(10);
	NEEDS(host, 5);
	PLAN();
	EXPECT("no host short 1");
	assert_true(s.plan.host_missing);
	EXPECT_WHY(0, FIT_HOST_FULL);
}

CASE(host_memory_is_made_free_by_eviction)
{
	GPU(24), HOST(8);
	RUNS("a", 0, 4, LOSS(1)), ALSO(1, 2);
	RUNS("b", 0, 4, LOSS(2)), ALSO(1, 5);
	WANT(10);
	NEEDS(host, 5);
	PLAN();
	EXPECT("one 0:10 host:5 evict b");
}

CASE(an_unknown_host_refuses_nothing)
{
	GPU(24);
	WANT(10);
	NEEDS(host, 500);
	PLAN();
	EXPECT("one 0:10 host:500");
}

CASE(goes_to_the_node_whose_host_has_room)
{
	DEVICE("a", CUDA, 24), DEVICE("a", FIT_KIND_CPU, 4), DEVICE("b", CUDA, 12),
		DEVICE("b", FIT_KIND_CPU, 64);
	WANT(10);
	NEEDS(host, 8);
	PLAN();
	EXPECT("one b/0:10 host:8");
	EXPECT_WHY(0, FIT_HOST_FULL);
}

CASE(the_host_serves_where_it_may)
{
	HOST(64);
	WANT(10, CPU_MAY);
	NEEDS(host, 2);
	PLAN();
	EXPECT("host:12");
}

CASE(the_host_serves_only_when_no_device_does)
{
	GPU(24), HOST(64);
	WANT(10, CPU_MAY);
	PLAN();
	EXPECT("one 0:10");
	RUNS("a", 0, 20, BUSY);
	PLAN();
	EXPECT("host:10");
}

CASE(one_leaves_a_device_before_the_host_serves)
{
	GPU(24), HOST(64);
	RUNS("a", 0, 20);
	WANT(10, CPU_MAY);
	PLAN();
	EXPECT("one 0:10 evict a");
}

CASE(the_host_makes_idle_ones_leave)
{
	HOST(16);
	RUNS("a", 0, 10);
	WANT(10, CPU_MAY);
	PLAN();
	EXPECT("host:10 evict a");
}

CASE(a_host_too_small_is_said)
{
	HOST(16);
	WANT(20, CPU_MAY);
	PLAN();
	EXPECT("no host short 4");
}

CASE(a_mask_without_the_host_keeps_it_from_serving)
{
	GPU(8), HOST(64);
	WANT(10, CPU_MAY);
	BITS(mask, 1);
	PLAN();
	EXPECT("no 0 short 2");
}

/* ---- offload ------------------------------------------------------------------------------------------- */

CASE(never_offloads_unless_it_may)
{
	GPU(24), HOST(64);
	MODEL(30, 1);
	PLAN();
	EXPECT("no 0 short 6");
}

CASE(whole_layers_go_to_the_host)
{
	GPU(24), HOST(64);
	MODEL(30, 1, OFFLOAD);
	PLAN();
	EXPECT("partial 25 0:24 host:6");
	EXPECT_LAYERS("25");
}

CASE(experts_go_to_the_host_first)
{
	GPU(24), HOST(64);
	MIXTURE(30, 0.5, 1.5, OFFLOAD);
	PLAN();
	EXPECT("experts 24 0:24 host:36"); /* 15 + 6 × 1.5 = 24 */
	assert_int_equal(s.plan.gpu_layers, 31);
}

CASE(as_few_experts_as_possible_go_to_the_host)
{
	GPU(24), GPU(12), HOST(64);
	MIXTURE(30, 0.5, 1.5, OFFLOAD);
	PLAN();
	assert_int_equal(s.plan.how, FIT_EXPERTS);
	assert_true(s.plan.cpu_experts <= 17);
	assert_int_equal(s.plan.nparts, 2);
}

CASE(then_whole_layers_of_a_mixture_do)
{
	GPU(8), HOST(64);
	MIXTURE(20, 1, 1, OFFLOAD);
	PLAN();
	EXPECT("partial 9 0:8 host:32");
	assert_int_equal(s.plan.cpu_experts, 20);
}

CASE(a_60_gb_mixture_on_24_and_12_with_64_of_host)
{
	GPU(24), GPU(12), HOST(64);
	MIXTURE(48, 0.0625, 1.1875, OFFLOAD);
	NEEDS(output, 1), NEEDS(compute, 1), NEEDS(host, 2), NEEDS(host_compute, 1);
	PLAN();
	assert_int_equal(s.plan.how, FIT_EXPERTS);
	assert_int_equal(s.plan.gpu_layers, 49);
	assert_int_equal(s.plan.nparts, 2);
	assert_in_range(s.plan.cpu_experts, 22, 25);
	assert_true(s.plan.parts[0].bytes <= 24 * GIB && s.plan.parts[1].bytes <= 12 * GIB);
	assert_true(s.plan.parts[0].bytes + s.plan.parts[1].bytes >= 34 * GIB);
	assert_true(s.plan.host_bytes <= 34 * GIB);
}

CASE(a_60_gb_mixture_is_refused_where_nothing_may_be_offloaded)
{
	GPU(24), GPU(12), HOST(64);
	MIXTURE(48, 0.0625, 1.1875);
	PLAN();
	EXPECT("no 0+1 short 24");
	EXPECT_WHY(0, FIT_TOO_SMALL);
}

CASE(an_offload_that_the_host_cannot_hold)
{
	GPU(24), HOST(16);
	MODEL(50, 1, OFFLOAD);
	PLAN();
	EXPECT("no host short 10");
}

CASE(an_offload_has_its_buffers_on_the_host)
{
	GPU(24), HOST(10);
	MODEL(30, 1, OFFLOAD);
	NEEDS(host, 1), NEEDS(host_compute, 3);
	PLAN();
	EXPECT("partial 25 0:24 host:10");
}

CASE(waits_for_busy_ones_rather_than_offload)
{
	GPU(24), HOST(64);
	RUNS("a", 0, 20, BUSY);
	MODEL(20, 1, OFFLOAD);
	PLAN();
	EXPECT("no 0 short 16 later");
	EXPECT_WHY(0, FIT_FULL);
}

CASE(offloads_beside_pinned_ones)
{
	GPU(24), HOST(64);
	RUNS("a", 0, 20, PINNED);
	MODEL(20, 1, OFFLOAD);
	PLAN();
	EXPECT("partial 5 0:4 host:16");
}

CASE(offloads_without_eviction_first)
{
	GPU(24), HOST(64);
	RUNS("a", 0, 10);
	MODEL(30, 1, OFFLOAD);
	PLAN();
	EXPECT("partial 15 0:14 host:16");
}

CASE(offloads_with_eviction_where_the_host_is_short)
{
	GPU(24), HOST(10);
	RUNS("a", 0, 10, LOSS(1)), RUNS("b", 0, 10, LOSS(2));
	MODEL(30, 1, OFFLOAD);
	PLAN();
	EXPECT("partial 25 0:24 host:6 evict a b");
}

CASE(a_pool_on_one_device_offloads_from_one)
{
	GPU(24), GPU(12), HOST(64);
	MODEL(30, 1, OFFLOAD, .gpus = 1);
	PLAN();
	EXPECT("partial 25 0:24 host:6");
}

CASE(an_offload_uses_all_its_devices)
{
	GPU(24), GPU(12), HOST(64);
	MODEL(50, 1, OFFLOAD);
	PLAN();
	EXPECT("partial 37 0:24 1:12 host:14");
	EXPECT_LAYERS("24 13");
}

CASE(the_host_alone_when_not_even_a_layer_fits)
{
	GPU(1), HOST(64);
	MODEL(10, 2, OFFLOAD, CPU_MAY);
	PLAN();
	EXPECT("host:20");
}

CASE(a_share_is_never_offloaded)
{
	GPU(24), HOST(64);
	MODEL(30, 1, OFFLOAD, .share = 30 * GIB);
	PLAN();
	EXPECT("no 0 short 6");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		UNIT(is_whole_on_one_device_rather_than_split),
		UNIT(is_split_where_no_device_holds_it),
		UNIT(is_split_by_what_is_free),
		UNIT(is_split_in_whole_layers),
		UNIT(layers_that_cannot_be_cut_do_not_fit),
		UNIT(the_output_goes_with_the_last_and_extras_with_the_first),
		UNIT(each_device_of_a_split_has_its_buffers),
		UNIT(takes_the_fewest_devices),
		UNIT(prefers_devices_of_a_split),
		UNIT(a_split_stays_on_one_node),
		UNIT(a_split_stays_in_one_kind),
		UNIT(a_split_is_of_the_kind_that_has_room),
		UNIT(a_split_before_somebody_leaves),
		UNIT(one_device_by_eviction_before_a_split_by_eviction),
		UNIT(a_split_by_eviction),
		UNIT(a_split_needs_known_layers),
		UNIT(sixteen_devices_are_the_most),
		UNIT(gets_as_many_devices_as_it_asks_for),
		UNIT(one_device_asked_for_is_never_split),
		UNIT(too_few_devices_are_refused),
		UNIT(of_unknown_layers_each_device_gets_its_part),
		UNIT(a_share_is_taken_of_one_device),
		UNIT(a_share_is_taken_of_each_device),
		UNIT(a_share_goes_to_the_least_loaded),
		UNIT(a_share_makes_the_cheapest_leave),
		UNIT(a_share_that_is_too_large_is_refused),
		UNIT(host_memory_is_reserved),
		UNIT(host_memory_short_is_no_start),
		UNIT(host_memory_is_made_free_by_eviction),
		UNIT(an_unknown_host_refuses_nothing),
		UNIT(goes_to_the_node_whose_host_has_room),
		UNIT(the_host_serves_where_it_may),
		UNIT(the_host_serves_only_when_no_device_does),
		UNIT(one_leaves_a_device_before_the_host_serves),
		UNIT(the_host_makes_idle_ones_leave),
		UNIT(a_host_too_small_is_said),
		UNIT(a_mask_without_the_host_keeps_it_from_serving),
		UNIT(never_offloads_unless_it_may),
		UNIT(whole_layers_go_to_the_host),
		UNIT(experts_go_to_the_host_first),
		UNIT(as_few_experts_as_possible_go_to_the_host),
		UNIT(then_whole_layers_of_a_mixture_do),
		UNIT(a_60_gb_mixture_on_24_and_12_with_64_of_host),
		UNIT(a_60_gb_mixture_is_refused_where_nothing_may_be_offloaded),
		UNIT(an_offload_that_the_host_cannot_hold),
		UNIT(an_offload_has_its_buffers_on_the_host),
		UNIT(waits_for_busy_ones_rather_than_offload),
		UNIT(offloads_beside_pinned_ones),
		UNIT(offloads_without_eviction_first),
		UNIT(offloads_with_eviction_where_the_host_is_short),
		UNIT(a_pool_on_one_device_offloads_from_one),
		UNIT(an_offload_uses_all_its_devices),
		UNIT(the_host_alone_when_not_even_a_layer_fits),
		UNIT(a_share_is_never_offloaded),
	};
	return cmocka_run_group_tests_name("fit_divide", tests, NULL, NULL);
}
