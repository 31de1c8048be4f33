/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "placement/swap.h"

static struct swap_policy policy = { SWAP_MAX_WAIT_MS, SWAP_HOLD_MS, SWAP_HOLD_TOOL_CALLS };

#define CASE(name) static void name(UNUSED void **state)
static mono_t at(int64_t seconds)
{
	return mono_add_ms(MONO_ZERO, seconds * 1000);
}
/* One that answered a request of key at that second; by tool calls or not. */
static struct swap_loaded replied(int64_t second, bool tool_calls, uint64_t key)
{
	return (struct swap_loaded){
		.replied = true, .reply_at = at(second), .tool_calls = tool_calls, .key = key
	};
}
static void expect(const struct swap_loaded *l, int64_t since, uint64_t key, int64_t now, enum swap_turn turn,
	int64_t until)
{
	mono_t got;
	const struct swap_waiting w = { at(since), key };
	enum swap_turn is = swap_turn(l, &w, &policy, at(now), &got);
	if (is != turn)
		fail_msg("%s; expected: %s", swap_turn_text(is), swap_turn_text(turn));
	assert_true(got.ns == at(until).ns);
}

CASE(an_idle_one_leaves_at_once)
{
	struct swap_loaded l = replied(10, false, 1);
	expect(&l, 10, 2, 10, SWAP_NOW, 10);
}

CASE(one_that_never_answered_leaves_at_once)
{
	struct swap_loaded l = { 0 };
	expect(&l, 10, 2, 10, SWAP_NOW, 10);
}

CASE(a_busy_one_leaves_when_it_is_done)
{
	struct swap_loaded l = { .running = 1 };
	expect(&l, 10, 2, 20, SWAP_BUSY, 70);
}

CASE(after_tool_calls_the_next_turn_is_awaited)
{
	struct swap_loaded l = replied(10, true, 1);
	expect(&l, 11, 2, 12, SWAP_HELD, 20);
	expect(&l, 11, 2, 19, SWAP_HELD, 20);
	expect(&l, 11, 2, 20, SWAP_NOW, 20);
}

CASE(not_against_the_same_user)
{
	struct swap_loaded l = replied(10, true, 1);
	expect(&l, 11, 1, 12, SWAP_NOW, 12);
}

CASE(unknown_users_are_never_the_same)
{
	struct swap_loaded l = replied(10, true, 0);
	expect(&l, 11, 0, 12, SWAP_HELD, 20);
}

CASE(never_beyond_the_bound_of_who_waits)
{
	struct swap_loaded l = replied(68, true, 1);
	expect(&l, 10, 2, 69, SWAP_HELD, 70);
	expect(&l, 10, 2, 70, SWAP_NOW, 70);
}

CASE(held_after_every_reply_or_none)
{
	struct swap_loaded l = replied(10, false, 1);
	policy.hold_after = SWAP_HOLD_ALWAYS;
	expect(&l, 11, 2, 12, SWAP_HELD, 20);
	l.tool_calls = true;
	policy.hold_after = SWAP_HOLD_NEVER;
	expect(&l, 11, 2, 12, SWAP_NOW, 12);
	policy.hold_after = SWAP_HOLD_TOOL_CALLS;
}

CASE(later_requests_overtake_until_the_bound)
{
	const struct swap_waiting w = { at(10), 2 };
	assert_true(swap_admits(at(50), &w, &policy, at(50)));
	assert_true(swap_admits(at(69), &w, &policy, at(69)));
	assert_false(swap_admits(at(69), &w, &policy, at(70)));
	assert_true(swap_admits(at(10), &w, &policy, at(70)));
	assert_false(swap_admits(at(11), &w, &policy, at(70)));
	assert_true(swap_admits(at(9), &w, &policy, at(70)));
	assert_true(swap_due(&w, &policy).ns == at(70).ns);
}

CASE(without_a_bound_it_is_first_come_first_served)
{
	const struct swap_policy fcfs = { 0, 0, SWAP_HOLD_NEVER };
	const struct swap_waiting w = { at(10), 2 };
	assert_false(swap_admits(at(11), &w, &fcfs, at(11)));
	assert_true(swap_admits(at(9), &w, &fcfs, at(11)));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_idle_one_leaves_at_once),
		cmocka_unit_test(one_that_never_answered_leaves_at_once),
		cmocka_unit_test(a_busy_one_leaves_when_it_is_done),
		cmocka_unit_test(after_tool_calls_the_next_turn_is_awaited),
		cmocka_unit_test(not_against_the_same_user),
		cmocka_unit_test(unknown_users_are_never_the_same),
		cmocka_unit_test(never_beyond_the_bound_of_who_waits),
		cmocka_unit_test(held_after_every_reply_or_none),
		cmocka_unit_test(later_requests_overtake_until_the_bound),
		cmocka_unit_test(without_a_bound_it_is_first_come_first_served),
	};
	return cmocka_run_group_tests_name("swap", tests, NULL, NULL);
}
