/* SPDX-License-Identifier: Apache-2.0
 *
 * Restart policy and probe delays: tables of cases, and a property over random histories.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "supervise/probe.h"
#include "supervise/restart.h"

static mono_t at(int64_t ms)
{
	return (mono_t){ ms * 1000000 };
}

static struct restart fresh(void)
{
	struct restart r;
	restart_init(&r, &RESTART_POLICY_DEFAULT, 1);
	return r;
}

static struct restart_verdict crash_at(struct restart *r, int64_t ms)
{
	restart_started(r);
	return restart_ended(r, at(ms), RESTART_END_CRASH);
}

static void backoff_doubles_up_to_a_minute(void **state)
{
	(void)state;
	struct restart r = fresh();
	const int64_t want[] = { 250, 500, 1000, 2000, 4000, 8000, 16000, 32000, 60000, 60000, 60000 };
	for (size_t i = 0; i < ARRAY_LEN(want); i++) {
		/* far enough apart for the breaker */
		struct restart_verdict v = crash_at(&r, (int64_t)i * 61000);
		assert_int_equal(v.what, RESTART_LATER);
		assert_in_range(v.delay_ms, want[i] * 9 / 10, want[i] * 11 / 10);
	}
}

static void same_seed_same_jitter(void **state)
{
	(void)state;
	struct restart a = fresh(), b = fresh();
	for (int i = 0; i < 20; i++)
		assert_int_equal(crash_at(&a, i * 61000).delay_ms, crash_at(&b, i * 61000).delay_ms);
}

static void a_long_healthy_run_forgets(void **state)
{
	(void)state;
	struct restart r = fresh();
	for (int i = 0; i < 4; i++)
		crash_at(&r, i * 61000);
	restart_started(&r);
	restart_ready(&r, at(300000));
	struct restart_verdict v = restart_ended(&r, at(300000 + 300000), RESTART_END_CRASH);
	assert_int_equal(v.what, RESTART_NOW);
	v = crash_at(&r, 700000);
	assert_int_equal(v.what, RESTART_LATER);
	assert_in_range(v.delay_ms, 225, 275);
}

static void a_short_run_does_not(void **state)
{
	(void)state;
	struct restart r = fresh();
	crash_at(&r, 0);
	crash_at(&r, 61000);
	restart_started(&r);
	restart_ready(&r, at(62000));
	struct restart_verdict v = restart_ended(&r, at(62000 + 299999), RESTART_END_CRASH);
	assert_int_equal(v.what, RESTART_LATER);
	assert_in_range(v.delay_ms, 900, 1100);
}

static void the_breaker_opens_tries_once_and_closes(void **state)
{
	(void)state;
	struct restart r = fresh();
	for (int i = 0; i < 4; i++)
		assert_int_equal(crash_at(&r, i * 1000).what, RESTART_LATER);
	struct restart_verdict v = crash_at(&r, 4000);
	assert_int_equal(v.what, RESTART_TRIAL);
	assert_int_equal(v.delay_ms, 300000);
	assert_int_equal(r.breaker, BREAKER_OPEN);
	/* the trial fails: open again */
	v = crash_at(&r, 305000);
	assert_int_equal(v.what, RESTART_TRIAL);
	/* the next one gets ready: closed, and the count starts anew */
	restart_started(&r);
	assert_int_equal(r.breaker, BREAKER_TRIAL);
	restart_ready(&r, at(700000));
	assert_int_equal(r.breaker, BREAKER_CLOSED);
	for (int i = 0; i < 4; i++)
		assert_int_equal(restart_ended(&r, at(700100 + i), RESTART_END_CRASH).what, RESTART_LATER);
	assert_int_equal(restart_ended(&r, at(700200), RESTART_END_CRASH).what, RESTART_TRIAL);
}

static void five_in_more_than_a_minute_are_no_breaker(void **state)
{
	(void)state;
	struct restart r = fresh();
	for (int i = 0; i < 50; i++)
		assert_int_equal(crash_at(&r, i * 15001).what, RESTART_LATER);
	r = fresh();
	for (int i = 0; i < 4; i++)
		assert_int_equal(crash_at(&r, i * 15000).what, RESTART_LATER);
	assert_int_equal(crash_at(&r, 4 * 15000).what, RESTART_TRIAL);
}

static void killed_from_outside_counts_for_nothing(void **state)
{
	(void)state;
	struct restart r = fresh();
	for (int i = 0; i < 100; i++) {
		restart_started(&r);
		restart_ready(&r, at(i));
		assert_int_equal(restart_ended(&r, at(i), RESTART_END_OUTSIDE).what, RESTART_NOW);
	}
	assert_int_equal(r.crashes, 0);
	assert_int_equal(r.nrecent, 0);
	/* one that never got ready did not do well: a crash */
	restart_started(&r);
	assert_int_equal(restart_ended(&r, at(200), RESTART_END_OUTSIDE).what, RESTART_LATER);
}

static void stopped_and_fatal_do_not_restart(void **state)
{
	(void)state;
	struct restart r = fresh();
	restart_started(&r);
	assert_int_equal(restart_ended(&r, at(1), RESTART_END_STOPPED).what, RESTART_NEVER);
	assert_int_equal(restart_ended(&r, at(1), RESTART_END_FATAL).what, RESTART_NEVER);
	assert_int_equal(r.nrecent, 0);
}

static void reset_by_hand(void **state)
{
	(void)state;
	struct restart r = fresh();
	for (int i = 0; i < 5; i++)
		crash_at(&r, i);
	assert_int_equal(r.breaker, BREAKER_OPEN);
	restart_reset(&r);
	assert_int_equal(r.breaker, BREAKER_CLOSED);
	struct restart_verdict v = crash_at(&r, 10);
	assert_int_equal(v.what, RESTART_LATER);
	assert_in_range(v.delay_ms, 225, 275);
}

/* Whatever happens: a delay is never negative nor above the bounds, the breaker opens only after
 * enough crashes, and outside kills of a ready engine are always restarted at once. */
static void any_history_stays_in_bounds(void **state)
{
	(void)state;
	struct rnd rnd;
	rnd_seed(&rnd, 42);
	struct restart r = fresh();
	int64_t now = 0;
	unsigned since_closed = 0;
	for (int i = 0; i < 200000; i++) {
		now += (int64_t)rnd_below(&rnd, 20000);
		bool was_trial = r.breaker == BREAKER_OPEN, ready = rnd_below(&rnd, 3) == 0;
		restart_started(&r);
		if (ready) {
			restart_ready(&r, at(now));
			if (was_trial)
				since_closed = 0;
		}
		now += (int64_t)rnd_below(&rnd, 400000);
		enum restart_end how = rnd_below(&rnd, 4) ? RESTART_END_CRASH : RESTART_END_OUTSIDE;
		struct restart_verdict v = restart_ended(&r, at(now), how);
		bool counted = how == RESTART_END_CRASH || !ready;
		since_closed += counted;
		assert_true(v.delay_ms >= 0 && v.delay_ms <= 300000);
		if (!counted)
			assert_int_equal(v.what, RESTART_NOW);
		if (v.what == RESTART_LATER)
			assert_in_range(v.delay_ms, 225, 66000);
		if (v.what == RESTART_TRIAL) {
			assert_true((was_trial && !ready) || since_closed >= 5);
			since_closed = 0;
		}
		assert_true(v.what != RESTART_NEVER);
	}
}

static void probes_come_at_one_percent(void **state)
{
	(void)state;
	assert_int_equal(probe_delay_ms(0), 2);
	assert_int_equal(probe_delay_ms(199), 2);
	assert_int_equal(probe_delay_ms(1000), 10);
	assert_int_equal(probe_delay_ms(10000), 100);
	assert_int_equal(probe_delay_ms(600000), 250);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(backoff_doubles_up_to_a_minute),
		cmocka_unit_test(same_seed_same_jitter),
		cmocka_unit_test(a_long_healthy_run_forgets),
		cmocka_unit_test(a_short_run_does_not),
		cmocka_unit_test(the_breaker_opens_tries_once_and_closes),
		cmocka_unit_test(five_in_more_than_a_minute_are_no_breaker),
		cmocka_unit_test(killed_from_outside_counts_for_nothing),
		cmocka_unit_test(stopped_and_fatal_do_not_restart),
		cmocka_unit_test(reset_by_hand),
		cmocka_unit_test(any_history_stays_in_bounds),
		cmocka_unit_test(probes_come_at_one_percent),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
