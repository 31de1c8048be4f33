/* SPDX-License-Identifier: Apache-2.0
 *
 * Models that take turns, in virtual time: what collating and holding are worth, and 10^5 random schedules
 * whose invariants hold (the seed is printed; CORRAL_TEST_SEED sets it, CORRAL_TEST_SCHEDULES how many).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/num.h"
#include "base/rnd.h"
#include "placement/simulate.h"

enum { MOST = 4096 };
static struct fit_device devices[8];
static struct sim_model models[12];
static struct sim_request requests[MOST];
static struct sim_failure failures[8];
static struct sim_outcome outcomes[MOST];
static struct sim_setup setup;
static struct sim_result result;
static const struct swap_policy collating = { SWAP_MAX_WAIT_MS, SWAP_HOLD_MS, SWAP_HOLD_TOOL_CALLS };
static const struct swap_policy fcfs = { 0, 0, SWAP_HOLD_NEVER };

#define CASE(name) static void name(UNUSED void **state)

static int clean(UNUSED void **state)
{
	setup = (struct sim_setup){ devices, 0, models, 0, requests, 0, failures, 0, collating };
	return 0;
}
static void device(uint64_t units)
{
	size_t i = setup.ndevices++;
	devices[i] = (struct fit_device){ .node_id = "home",
		.device_id = "gpu",
		.index = (uint32_t)i,
		.kind = 1,
		.usable = true,
		.capacity = units * GIB };
}
static size_t model(const char *id, uint64_t units, uint32_t slots)
{
	models[setup.nmodels] = (struct sim_model){
		.id = id, .bytes = units * GIB, .slots = slots, .load_ms = 4000, .return_ms = 200
	};
	return setup.nmodels++;
}
static size_t request(int64_t at_ms, size_t of, int64_t service_ms, uint64_t key)
{
	requests[setup.nrequests] = (struct sim_request){ at_ms, SIM_NONE, of, service_ms, key, false };
	return setup.nrequests++;
}
/* A turn that follows a reply which ended in tool calls. */
static size_t turn(size_t after, int64_t tool_ms, size_t of, int64_t service_ms, uint64_t key)
{
	requests[after].tool_calls = true;
	requests[setup.nrequests] = (struct sim_request){ tool_ms, after, of, service_ms, key, false };
	return setup.nrequests++;
}
static void run(const struct swap_policy *p)
{
	setup.policy = *p;
	assert_int_equal(simulate(&setup, outcomes, &result, NULL), 0);
	if (result.broken)
		fail_msg("%s: %zu", result.broken, result.broken_index);
}

CASE(one_request_loads_its_model_and_is_answered)
{
	device(24);
	request(0, model("a", 20, 2), 1000, 1);
	run(&collating);
	assert_int_equal(result.answered, 1);
	assert_int_equal(result.loads, 1);
	assert_int_equal(result.swaps, 0);
	assert_int_equal(outcomes[0].started_ms, 4000);
	assert_int_equal(outcomes[0].ended_ms, 5000);
}

CASE(two_that_fit_do_not_swap)
{
	device(24);
	size_t a = model("a", 12, 1), b = model("b", 12, 1);
	for (int i = 0; i < 10; i++) {
		request(i * 1000, a, 500, 1);
		request(i * 1000, b, 500, 2);
	}
	run(&collating);
	assert_int_equal(result.loads, 2);
	assert_int_equal(result.swaps, 0);
}

/* a b a a c a b c: the trace people show. */
CASE(requests_for_the_loaded_model_go_first)
{
	device(24);
	size_t a = model("a", 20, 1), b = model("b", 20, 1), c = model("c", 20, 1);
	const size_t trace[] = { a, b, a, a, c, a, b, c };
	for (size_t i = 0; i < ARRAY_LEN(trace); i++)
		request((int64_t)i * 100, trace[i], 1000, i);
	run(&collating);
	assert_int_equal(result.loads, 3);
	run(&fcfs);
	assert_int_equal(result.loads, 7);
}

/* Two clients that ask again at once, from start to end of which nothing of A's is idle. */
static void two_clients(size_t a)
{
	for (uint64_t key = 1; key <= 2; key++) {
		size_t last = request(key == 1 ? 0 : 5000, a, 2000, key);
		for (int i = 0; i < 100; i++) {
			last = turn(last, 1, a, 2000, key);
			requests[setup.nrequests - 2].tool_calls = false;
		}
	}
}

CASE(two_that_keep_a_model_busy_leave_another_its_bound)
{
	device(24);
	size_t a = model("a", 20, 2), b = model("b", 20, 1);
	two_clients(a);
	run(&collating);
	int64_t alone = result.end_ms, load = 4000, back = 200, reply = 2000;
	size_t other = request(10000, b, 1000, 3);
	run(&collating);
	int64_t waited = outcomes[other].started_ms - outcomes[other].arrived_ms;
	assert_in_range(waited, SWAP_MAX_WAIT_MS, SWAP_MAX_WAIT_MS + reply + back + load);
	/* It costs the others two swaps, its own second, and the slot that empties first stands for a reply.
	 */
	assert_int_equal(result.loads, 3);
	assert_int_equal(result.evictions, 2);
	assert_in_range(result.end_ms - alone, 1, 2 * (back + load) + 1000 + reply);
}

static void two_agents(void)
{
	size_t a = model("a", 20, 1), b = model("b", 20, 1),
	       last[2] = { request(0, a, 3000, 1), request(500, b, 3000, 2) };
	for (int i = 0; i < 100; i++) {
		last[0] = turn(last[0], 2000, a, 3000, 1);
		last[1] = turn(last[1], 2000, b, 3000, 2);
	}
}

CASE(two_agents_swap_less_than_a_third_as_often)
{
	device(24);
	two_agents();
	run(&collating);
	size_t swaps = result.swaps;
	int64_t took = result.end_ms;
	assert_true(result.wait_ms[3] <= SWAP_MAX_WAIT_MS + 3000 + 4200);
	run(&fcfs);
	print_message("two agents: %zu swaps in %lld s, first come first served %zu in %lld s\n", swaps,
		(long long)took / 1000, result.swaps, (long long)result.end_ms / 1000);
	assert_true(3 * swaps < result.swaps);
	assert_true(took < result.end_ms);
}

CASE(a_user_who_moves_on_is_not_held_up)
{
	device(24);
	size_t a = model("a", 20, 2), b = model("b", 20, 1);
	request(0, a, 2000, 1);
	request(6100, a, 500, 1); /* its title */
	size_t chat = request(7000, b, 1000, 1);
	run(&collating);
	assert_int_equal(outcomes[chat].started_ms, 7000 + 200 + 4000);
}

CASE(a_tool_call_keeps_its_model)
{
	device(24);
	size_t a = model("a", 20, 1), b = model("b", 20, 1);
	size_t first = request(0, a, 2000, 1);
	size_t second = turn(first, 4000, a, 1000, 1);
	size_t other = request(7000, b, 1000, 2);
	run(&collating);
	assert_int_equal(outcomes[second].started_ms, 10000);
	assert_int_equal(outcomes[other].started_ms, 11000 + 200 + 4000);
	assert_int_equal(result.loads, 2);
}

CASE(a_turn_that_does_not_come_is_not_waited_for_longer)
{
	device(24);
	size_t a = model("a", 20, 1), b = model("b", 20, 1);
	size_t first = request(0, a, 2000, 1);
	requests[first].tool_calls = true;
	size_t other = request(7000, b, 1000, 2);
	run(&collating);
	assert_int_equal(outcomes[other].started_ms, 6000 + SWAP_HOLD_MS + 200 + 4000);
}

CASE(a_pinned_model_stays_and_the_other_is_told)
{
	device(24);
	size_t a = model("a", 20, 1), b = model("b", 20, 1);
	models[a].pinned = true;
	request(0, a, 1000, 1);
	size_t other = request(10000, b, 1000, 2);
	run(&collating);
	assert_true(outcomes[other].failed);
	assert_int_equal(result.evictions, 0);
}

CASE(a_model_that_fits_nowhere_is_refused_at_once)
{
	device(24);
	request(100, model("a", 30, 1), 1000, 1);
	run(&collating);
	assert_true(outcomes[0].failed);
	assert_int_equal(outcomes[0].ended_ms, 100);
}

CASE(a_crash_moves_its_request_once)
{
	device(24);
	size_t a = model("a", 20, 1);
	request(0, a, 5000, 1);
	failures[setup.nfailures++] = (struct sim_failure){ 6000, a, SIM_CRASH, 0 };
	run(&collating);
	assert_int_equal(result.answered, 1);
	assert_int_equal(outcomes[0].ended_ms, 6000 + 200 + 4000 + 5000);
	failures[setup.nfailures++] = (struct sim_failure){ 12000, a, SIM_CRASH, 0 };
	run(&collating);
	assert_true(outcomes[0].failed);
	assert_int_equal(outcomes[0].ended_ms, 12000);
}

CASE(a_lost_device_moves_its_request_to_another)
{
	device(24);
	device(24);
	size_t a = model("a", 20, 1);
	request(0, a, 5000, 1);
	request(20000, a, 1000, 1);
	failures[setup.nfailures++] = (struct sim_failure){ 6000, 0, SIM_LOST, 12000 };
	run(&collating);
	assert_int_equal(result.answered, 2);
	assert_int_equal(outcomes[0].ended_ms, 6000 + 200 + 4000 + 5000);
	assert_int_equal(result.loads, 2);
}

CASE(a_node_that_is_gone_is_not_used_till_it_is_back)
{
	device(24);
	device(24);
	devices[1].node_id = "other";
	size_t a = model("a", 20, 1);
	request(0, a, 1000, 1);
	request(10000, a, 1000, 1); /* both are away */
	request(30000, a, 1000, 1);
	failures[setup.nfailures++] = (struct sim_failure){ 8000, 0, SIM_GONE, 20000 };
	failures[setup.nfailures++] = (struct sim_failure){ 8000, 1, SIM_GONE, 0 };
	run(&collating);
	assert_true(!outcomes[0].failed && outcomes[1].failed && !outcomes[2].failed);
	assert_int_equal(outcomes[2].started_ms, 34000);
}

CASE(the_dearer_model_stays)
{
	device(24);
	size_t a = model("a", 10, 1), b = model("b", 10, 1), c = model("c", 10, 1);
	models[a].load_ms = 60000;
	request(0, a, 100, 1);
	request(0, b, 100, 1);
	request(100000, c, 100, 1);
	request(110000, a, 100, 1);
	run(&collating);
	assert_int_equal(result.loads, 3);
	assert_int_equal(outcomes[3].started_ms, 110000);
}

CASE(a_setup_that_makes_no_sense_is_refused)
{
	device(24);
	request(0, 3, 1000, 1);
	assert_int_equal(simulate(&setup, outcomes, &result, NULL), -EINVAL);
	clean(NULL);
	request(-5, model("a", 1, 1), 1000, 1);
	assert_int_equal(simulate(&setup, outcomes, &result, NULL), -EINVAL);
}

CASE(the_decisions_are_told)
{
	AUTO(buf_done) struct buf log = BUF(4 * KIB);
	device(24);
	request(0, model("a", 20, 1), 1000, 1);
	request(6000, model("b", 20, 1), 1000, 2);
	assert_int_equal(simulate(&setup, outcomes, &result, &log), 0);
	assert_string_equal(buf_str(&log),
		"0 load a: on one device, device 0\n"
		"6000 evict a for b: idle, and the least loss that makes room (3.4 s)\n"
		"6200 load b: on one device, device 0\n");
}

/* ---- random schedules ---------------------------------------------------------------------------------- */

static struct rnd rnd;
static int64_t below(int64_t n)
{
	return (int64_t)rnd_below(&rnd, (uint64_t)n);
}

static uint64_t happened[SIM_GONE + 1];

static void random_setup(void)
{
	static const char *const ids[] = { "a", "b", "c", "d", "e" };
	int64_t ndevices = 1 + below(3), nmodels = 2 + below(4), n = 2 + below(12), at = 0;
	clean(NULL);
	int64_t away = below(3) ? ndevices : below(ndevices); /* from there on they are another node's */
	for (int64_t i = 0; i < ndevices; i++) {
		device((uint64_t)(below(3) ? 24 : 12));
		devices[i].node_id = i < away ? "home" : "other";
	}
	if (below(2))
		devices[setup.ndevices++] = (struct fit_device){ .node_id = devices[ndevices - 1].node_id,
			.device_id = "host",
			.index = 9,
			.usable = true,
			.capacity = 16 * GIB };
	for (int64_t i = 0; i < nmodels; i++) {
		struct sim_model *m =
			&models[model(ids[i], (uint64_t)(4 + below(18)), (uint32_t)(1 + below(3)))];
		m->host_bytes = (uint64_t)below(6) * GIB;
		m->load_ms = 100 + below(20000);
		m->return_ms = below(2000);
		m->keep_alive_ms = below(2) ? 0 : 1000 + below(30000);
		m->pinned = below(12) == 0;
		m->evict_cost = (double)below(3);
	}
	for (int64_t i = 0; i < n; i++) {
		at += below(8000);
		size_t of = (size_t)below(nmodels);
		if (setup.nrequests && below(3) == 0)
			(void)turn((size_t)below((int64_t)setup.nrequests), below(15000), of, below(9000),
				(uint64_t)below(4));
		else
			(void)request(at, of, below(9000), (uint64_t)below(4));
	}
	for (int64_t i = below(3) ? 0 : 1 + below(3); i > 0; i--) {
		struct sim_failure *f = &failures[setup.nfailures++];
		*f = (struct sim_failure){ .at_ms = below(60000), .what = (enum sim_failing)below(3) };
		f->index = (size_t)below(f->what == SIM_CRASH ? nmodels : (int64_t)setup.ndevices);
		f->back_ms = f->what == SIM_CRASH || below(3) == 0 ? 0 : f->at_ms + below(30000);
		happened[f->what]++;
	}
	setup.policy =
		(struct swap_policy){ below(4) ? below(90000) : 0, below(20000), (enum swap_hold)below(3) };
}

CASE(nothing_breaks_in_any_schedule)
{
	const char *given = getenv("CORRAL_TEST_SEED"), *many = getenv("CORRAL_TEST_SCHEDULES");
	uint64_t seed = rnd_os_u64(), schedules = 100000, answered = 0, failed = 0, swaps = 0, crashes = 0;
	if (given)
		assert_int_equal(num_u64(view_str(given), &seed), 0);
	if (many)
		assert_int_equal(num_u64(view_str(many), &schedules), 0);
	print_message("seed %llu\n", (unsigned long long)seed);
	for (uint64_t i = 0; i < schedules; i++) {
		rnd_seed(&rnd, seed + i);
		random_setup();
		assert_int_equal(simulate(&setup, outcomes, &result, NULL), 0);
		if (result.broken)
			fail_msg("CORRAL_TEST_SEED=%llu: %s: %zu", (unsigned long long)(seed + i),
				result.broken, result.broken_index);
		answered += result.answered;
		failed += result.failed;
		swaps += result.swaps;
		crashes += result.crashes;
	}
	print_message("%llu answered, %llu failed, %llu swaps, %llu engines ended (%llu crashes, %llu "
		      "devices lost, "
		      "%llu nodes gone)\n",
		(unsigned long long)answered, (unsigned long long)failed, (unsigned long long)swaps,
		(unsigned long long)crashes, (unsigned long long)happened[SIM_CRASH],
		(unsigned long long)happened[SIM_LOST], (unsigned long long)happened[SIM_GONE]);
	for (size_t i = 0; i < ARRAY_LEN(happened); i++)
		assert_true(happened[i] > schedules / 10);
	assert_true(answered > 3 * schedules && swaps > schedules / 2 && crashes > schedules / 20);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(one_request_loads_its_model_and_is_answered, clean),
		cmocka_unit_test_setup(two_that_fit_do_not_swap, clean),
		cmocka_unit_test_setup(requests_for_the_loaded_model_go_first, clean),
		cmocka_unit_test_setup(two_that_keep_a_model_busy_leave_another_its_bound, clean),
		cmocka_unit_test_setup(two_agents_swap_less_than_a_third_as_often, clean),
		cmocka_unit_test_setup(a_user_who_moves_on_is_not_held_up, clean),
		cmocka_unit_test_setup(a_tool_call_keeps_its_model, clean),
		cmocka_unit_test_setup(a_turn_that_does_not_come_is_not_waited_for_longer, clean),
		cmocka_unit_test_setup(a_pinned_model_stays_and_the_other_is_told, clean),
		cmocka_unit_test_setup(a_model_that_fits_nowhere_is_refused_at_once, clean),
		cmocka_unit_test_setup(a_crash_moves_its_request_once, clean),
		cmocka_unit_test_setup(a_lost_device_moves_its_request_to_another, clean),
		cmocka_unit_test_setup(a_node_that_is_gone_is_not_used_till_it_is_back, clean),
		cmocka_unit_test_setup(the_dearer_model_stays, clean),
		cmocka_unit_test_setup(a_setup_that_makes_no_sense_is_refused, clean),
		cmocka_unit_test_setup(the_decisions_are_told, clean),
		cmocka_unit_test_setup(nothing_breaks_in_any_schedule, clean),
	};
	return cmocka_run_group_tests_name("simulate", tests, NULL, NULL);
}
