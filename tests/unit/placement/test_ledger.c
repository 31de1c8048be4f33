/* SPDX-License-Identifier: Apache-2.0
 *
 * The ledger of reservations: its cases, and 10^5 random steps of machines whose memory is known exactly (the
 * seed is printed; CORRAL_TEST_SEED sets it).
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
#include "placement/ledger.h"

static struct ledger *l;
static mono_t now;

static int begin(UNUSED void **state)
{
	l = ledger_new();
	now = MONO_ZERO;
	return 0;
}
static int done(UNUSED void **state)
{
	ledger_freep(&l);
	return 0;
}

#define CASE(name) static void name(UNUSED void **state)

static struct ledger_owner owner(const char *id, uint64_t generation)
{
	return (struct ledger_owner){ id, generation };
}
static int reserve(const char *id, size_t device, uint64_t bytes)
{
	return ledger_reserve(l, owner(id, 1), &(struct ledger_part){ device, bytes }, 1, NULL);
}
static void after_ms(int64_t ms)
{
	now = mono_add_ms(now, ms);
	(void)ledger_tick(l, now);
}
static struct ledger_view look(size_t device)
{
	struct ledger_view v;
	ledger_look(l, device, &v);
	return v;
}
#define EXPECT(device, what, units) assert_true(look(device).what == (uint64_t)(units)*GIB)

CASE(a_reservation_takes_room_before_anything_is_used)
{
	size_t d = ledger_device(l, "home", "GPU-0", 24 * GIB);
	ledger_reading(l, d, 0, now);
	assert_int_equal(reserve("a", d, 20 * GIB), 0);
	EXPECT(d, booked, 20);
	EXPECT(d, free, 4);
	assert_int_equal(reserve("b", d, 5 * GIB), -ENOSPC);
	assert_int_equal(reserve("b", d, 4 * GIB), 0);
	EXPECT(d, free, 0);
}

CASE(says_what_is_missing_where)
{
	size_t d = ledger_device(l, "home", "0", 24 * GIB), e = ledger_device(l, "home", "1", 8 * GIB);
	struct ledger_part parts[] = { { d, 10 * GIB }, { e, 9 * GIB } }, missing;
	assert_int_equal(ledger_reserve(l, owner("a", 1), parts, 2, &missing), -ENOSPC);
	assert_true(missing.device == e && missing.bytes == 1 * GIB);
	EXPECT(d, booked, 0);
}

CASE(a_device_is_known_by_its_node_and_id)
{
	size_t d = ledger_device(l, "a", "0", 24 * GIB), e = ledger_device(l, "b", "0", 24 * GIB);
	assert_int_not_equal(d, e);
	assert_int_equal(ledger_device(l, "a", "0", 24 * GIB), d);
}

CASE(an_owner_reserves_once_and_each_generation_anew)
{
	size_t d = ledger_device(l, "home", "0", 24 * GIB);
	assert_int_equal(reserve("a", d, 1), 0);
	assert_int_equal(reserve("a", d, 1), -EEXIST);
	assert_int_equal(ledger_reserve(l, owner("a", 2), &(struct ledger_part){ d, 1 }, 1, NULL), 0);
	assert_int_equal(ledger_owners(l), 2);
}

CASE(parts_that_make_no_sense_are_refused)
{
	size_t d = ledger_device(l, "home", "0", 24 * GIB);
	struct ledger_part twice[] = { { d, 1 }, { d, 1 } };
	assert_int_equal(ledger_reserve(l, owner("a", 1), twice, 2, NULL), -EINVAL);
	assert_int_equal(ledger_reserve(l, owner("a", 1), twice, 0, NULL), -EINVAL);
	assert_int_equal(ledger_reserve(l, owner("a", 1), twice, LEDGER_PARTS_MAX + 1, NULL), -EINVAL);
	assert_int_equal(reserve("a", 7, 1), -EINVAL);
}

CASE(what_was_measured_is_booked)
{
	size_t d = ledger_device(l, "home", "0", 24 * GIB);
	assert_int_equal(reserve("a", d, 20 * GIB), 0);
	assert_int_equal(ledger_measured(l, owner("a", 1), d, 14 * GIB), 0);
	EXPECT(d, booked, 14);
	EXPECT(d, free, 10);
	assert_int_equal(ledger_measured(l, owner("a", 1), d, 15 * GIB), 0);
	EXPECT(d, booked, 15);
	assert_true(ledger_booked(l, owner("a", 1), d) == 15 * GIB);
}

CASE(strangers_hold_no_more_than_ours_leave)
{
	size_t d = ledger_device(l, "home", "0", 24 * GIB);
	struct ledger_view v;
	ledger_look(l, d, &v);
	assert_true(v.foreign_most == UINT64_MAX); /* nobody has looked */
	assert_int_equal(reserve("a", d, 10 * GIB), 0);
	ledger_reading(l, d, 12 * GIB, MONO_ZERO);
	EXPECT(d, foreign_most, 12); /* it may use nothing yet */
	assert_int_equal(ledger_measured(l, owner("a", 1), d, 10 * GIB), 0);
	EXPECT(d, foreign_most, 2);
}

CASE(more_than_there_is_room_for_is_told_and_not_booked)
{
	size_t d = ledger_device(l, "home", "0", 24 * GIB);
	assert_int_equal(reserve("a", d, 10 * GIB), 0);
	assert_int_equal(reserve("b", d, 10 * GIB), 0);
	assert_int_equal(ledger_measured(l, owner("a", 1), d, 16 * GIB), 0);
	EXPECT(d, booked, 24);
	EXPECT(d, over, 2);
	EXPECT(d, free, 0);
}

CASE(memory_of_strangers_is_what_is_used_less_ours)
{
	size_t d = ledger_device(l, "home", "0", 24 * GIB);
	ledger_reading(l, d, 3 * GIB, now);
	EXPECT(d, foreign, 3);
	EXPECT(d, free, 21);
	assert_int_equal(reserve("a", d, 10 * GIB), 0);
	ledger_reading(l, d, 8 * GIB, now); /* half loaded */
	EXPECT(d, foreign, 3);
	EXPECT(d, free, 11);
	ledger_reading(l, d, 12 * GIB, now);
	assert_int_equal(ledger_measured(l, owner("a", 1), d, 9 * GIB), 0);
	ledger_reading(l, d, 12 * GIB, now);
	EXPECT(d, foreign, 3);
	ledger_reading(l, d, 14 * GIB, now); /* a browser */
	EXPECT(d, foreign, 5);
	EXPECT(d, free, 10);
	ledger_reading(l, d, 10 * GIB, now);
	EXPECT(d, foreign, 1);
}

CASE(a_stranger_beyond_what_ours_may_use_is_seen_while_one_starts)
{
	size_t d = ledger_device(l, "home", "0", 24 * GIB);
	ledger_reading(l, d, 0, now);
	assert_int_equal(reserve("a", d, 10 * GIB), 0);
	ledger_reading(l, d, 12 * GIB, now);
	EXPECT(d, foreign, 2);
}

CASE(memory_is_booked_until_it_is_seen_to_return)
{
	size_t d = ledger_device(l, "home", "0", 24 * GIB);
	assert_int_equal(reserve("a", d, 20 * GIB), 0);
	assert_int_equal(ledger_measured(l, owner("a", 1), d, 20 * GIB), 0);
	ledger_reading(l, d, 20 * GIB, now);
	assert_int_equal(ledger_release(l, owner("a", 1), now), 0);
	EXPECT(d, booked, 20);
	assert_int_equal(look(d).returning, 1);
	ledger_reading(l, d, 12 * GIB, now);
	EXPECT(d, booked, 20);
	ledger_reading(l, d, 0, now);
	EXPECT(d, booked, 0);
	EXPECT(d, free, 24);
	assert_int_equal(ledger_owners(l), 0);
}

CASE(what_does_not_return_in_time_is_foreign_until_it_is_free)
{
	size_t d = ledger_device(l, "home", "0", 24 * GIB);
	assert_int_equal(reserve("a", d, 20 * GIB), 0);
	assert_int_equal(ledger_measured(l, owner("a", 1), d, 20 * GIB), 0);
	ledger_reading(l, d, 20 * GIB, now);
	assert_int_equal(ledger_release(l, owner("a", 1), now), 0);
	after_ms(1000);
	ledger_reading(l, d, 12 * GIB, now);
	assert_true(ledger_tick(l, now).ns == mono_add_ms(MONO_ZERO, LEDGER_RETURN_MS).ns);
	after_ms(3999);
	EXPECT(d, booked, 20);
	after_ms(1);
	EXPECT(d, booked, 0);
	EXPECT(d, foreign, 12);
	EXPECT(d, free, 12);
	ledger_reading(l, d, 0, now);
	EXPECT(d, foreign, 0);
	EXPECT(d, free, 24);
	assert_true(ledger_tick(l, now).ns == INT64_MAX);
}

CASE(without_readings_it_is_gone_at_its_deadline)
{
	size_t d = ledger_device(l, "home", "0", 24 * GIB);
	assert_int_equal(reserve("a", d, 20 * GIB), 0);
	assert_int_equal(ledger_release(l, owner("a", 1), now), 0);
	after_ms(LEDGER_RETURN_MS);
	EXPECT(d, free, 24);
}

CASE(one_that_never_used_anything_is_gone_at_once)
{
	size_t d = ledger_device(l, "home", "0", 24 * GIB), e = ledger_device(l, "home", "1", 24 * GIB);
	struct ledger_part parts[] = { { d, 10 * GIB }, { e, 9 * GIB } };
	ledger_reading(l, d, 0, now);
	assert_int_equal(ledger_reserve(l, owner("a", 1), parts, 2, NULL), 0);
	ledger_gone(l, owner("a", 1));
	EXPECT(d, free, 24);
	EXPECT(e, free, 24);
	ledger_gone(l, owner("a", 1));
	assert_int_equal(ledger_owners(l), 0);
}

CASE(one_that_starts_while_another_goes_has_its_own_room)
{
	size_t d = ledger_device(l, "home", "0", 24 * GIB);
	assert_int_equal(reserve("a", d, 20 * GIB), 0);
	assert_int_equal(ledger_measured(l, owner("a", 1), d, 20 * GIB), 0);
	ledger_reading(l, d, 20 * GIB, now);
	assert_int_equal(ledger_release(l, owner("a", 1), now), 0);
	assert_int_equal(reserve("b", d, 20 * GIB), -ENOSPC);
	ledger_reading(l, d, 0, now);
	assert_int_equal(reserve("b", d, 20 * GIB), 0);
}

CASE(a_release_twice_changes_nothing)
{
	size_t d = ledger_device(l, "home", "0", 24 * GIB);
	assert_int_equal(reserve("a", d, 20 * GIB), 0);
	assert_int_equal(ledger_release(l, owner("a", 1), now), 0);
	after_ms(3000);
	assert_int_equal(ledger_release(l, owner("a", 1), now), 0);
	assert_int_equal(ledger_measured(l, owner("a", 1), d, 1), -ENOENT);
	after_ms(2000);
	assert_int_equal(ledger_owners(l), 0);
	assert_int_equal(ledger_release(l, owner("a", 1), now), -ENOENT);
}

CASE(one_found_running_holds_what_it_holds)
{
	size_t d = ledger_device(l, "home", "0", 24 * GIB);
	struct ledger_part part = { d, 20 * GIB };
	assert_int_equal(ledger_adopt(l, owner("a", 3), &part, 1), 0);
	assert_int_equal(ledger_adopt(l, owner("b", 1), &part, 1), 0);
	EXPECT(d, booked, 24);
	EXPECT(d, over, 16);
	assert_int_equal(ledger_adopt(l, owner("b", 1), &part, 1), -EEXIST);
}

CASE(an_unknown_capacity_refuses_nothing)
{
	size_t d = ledger_device(l, "home", "0", 0);
	assert_int_equal(reserve("a", d, UINT64_MAX), 0);
	assert_int_equal(reserve("b", d, UINT64_MAX), 0);
	ledger_reading(l, d, UINT64_MAX, now);
	assert_int_equal(ledger_release(l, owner("a", 1), now), 0);
	after_ms(LEDGER_RETURN_MS);
	assert_true(look(d).booked == UINT64_MAX);
	ledger_gone(l, owner("b", 1));
	EXPECT(d, booked, 0);
}

CASE(many_thousand_owners)
{
	char id[24];
	size_t d = ledger_device(l, "home", "0", 24 * GIB);
	for (unsigned i = 0; i < 20000; i++) {
		(void)snprintf(id, sizeof id, "pool-%u", i);
		assert_int_equal(reserve(id, d, 1 * MIB), 0);
		if (i < 10000)
			continue;
		(void)snprintf(id, sizeof id, "pool-%u", i - 10000);
		ledger_gone(l, owner(id, 1));
	}
	assert_int_equal(ledger_owners(l), 10000);
	assert_true(look(d).booked == 10000 * MIB);
}

/* ---- what holds at every step -------------------------------------------------------------------------- */

enum { DEVICES = 4, ENGINES = 24 };
struct engine {
	enum { OUT, STARTS, RUNS, GOES } state;
	char id[16];
	uint64_t generation;
	size_t n;
	struct ledger_part parts[2]; /* reserved */
	uint64_t will[2], uses[2];   /* at the end of its start, and now */
};
static struct rnd rnd;
static struct engine engines[ENGINES];
static uint64_t capacity[DEVICES], strangers[DEVICES], leaked[DEVICES];

static uint64_t truth(size_t d)
{
	uint64_t sum = strangers[d] + leaked[d];
	for (size_t i = 0; i < ENGINES; i++)
		for (size_t k = 0; k < engines[i].n; k++)
			sum += engines[i].parts[k].device == d ? engines[i].uses[k] : 0;
	return sum;
}

static void step_start(struct engine *e)
{
	uint64_t part = rnd_below(&rnd, DEVICES);
	e->n = 1 + rnd_below(&rnd, 2);
	e->generation++;
	for (size_t k = 0; k < e->n; k++) {
		e->parts[k] = (struct ledger_part){ (part + k) % DEVICES, rnd_below(&rnd, 12 * GIB) };
		e->will[k] = e->parts[k].bytes - rnd_below(&rnd, e->parts[k].bytes / 4 + 1);
		e->uses[k] = 0;
	}
	if (ledger_reserve(l, owner(e->id, e->generation), e->parts, e->n, NULL) == 0)
		e->state = STARTS;
	else
		e->n = 0;
}

static void step_starting(struct engine *e)
{
	bool all = true;
	for (size_t k = 0; k < e->n; k++) {
		uint64_t more = 1 + rnd_below(&rnd, 6 * GIB);
		e->uses[k] += MIN(e->will[k] - e->uses[k], more);
		all &= e->uses[k] == e->will[k];
	}
	for (size_t k = 0; all && k < e->n; k++)
		assert_int_equal(
			ledger_measured(l, owner(e->id, e->generation), e->parts[k].device, e->uses[k]), 0);
	e->state = all ? RUNS : STARTS;
}

static void step_end(struct engine *e)
{
	assert_int_equal(ledger_release(l, owner(e->id, e->generation), now), 0);
	e->state = GOES;
}

static void step_going(struct engine *e, bool leaks)
{
	bool all = true;
	for (size_t k = 0; k < e->n; k++) {
		if (leaks && rnd_below(&rnd, 8) == 0) { /* a driver that hangs */
			leaked[e->parts[k].device] += e->uses[k];
			e->uses[k] = 0;
		}
		e->uses[k] -= rnd_below(&rnd, 3) ? e->uses[k] : 0;
		all &= e->uses[k] == 0;
	}
	if (!all)
		return;
	e->state = OUT;
	e->n = 0;
}

static void step_world(bool strange)
{
	size_t d = rnd_below(&rnd, DEVICES);
	now = mono_add_ms(now, (int64_t)rnd_below(&rnd, 1500));
	if (strange && rnd_below(&rnd, 8) == 0) {
		uint64_t used = truth(d) - strangers[d];
		strangers[d] = used < capacity[d] ? rnd_below(&rnd, capacity[d] - used) / 2 : 0;
	}
	if (strange && rnd_below(&rnd, 16) == 0)
		leaked[d] = 0;
	for (d = 0; d < DEVICES; d++)
		ledger_reading(l, d, truth(d), now);
	(void)ledger_tick(l, now);
}

static void check(bool strange)
{
	for (size_t d = 0; d < DEVICES; d++) {
		struct ledger_view v = look(d);
		assert_true(v.booked <= capacity[d]);
		assert_true(v.free <= capacity[d] - v.booked);
		assert_true(v.over == 0 || strange);
		/* Nothing that is there was sold: the world without strangers never runs over. */
		assert_true(strange || truth(d) <= capacity[d]);
		assert_true(strange || v.booked + v.foreign >= MIN(truth(d), capacity[d]));
	}
}

static void interleave(bool strange)
{
	enum { STEPS = 100000 };
	const char *given = getenv("CORRAL_TEST_SEED");
	uint64_t seed = rnd_os_u64(), starts = 0;
	if (given)
		assert_int_equal(num_u64(view_str(given), &seed), 0);
	print_message("seed %llu\n", (unsigned long long)seed);
	rnd_seed(&rnd, seed);
	memset(engines, 0, sizeof engines);
	for (size_t d = 0; d < DEVICES; d++) {
		capacity[d] = (8 + rnd_below(&rnd, 24)) * GIB;
		strangers[d] = strange ? 0 : rnd_below(&rnd, 4 * GIB);
		leaked[d] = 0;
		char id[8];
		(void)snprintf(id, sizeof id, "%u", (unsigned)d);
		assert_int_equal(ledger_device(l, "home", id, capacity[d]), d);
		ledger_reading(l, d, truth(d), now);
	}
	for (size_t i = 0; i < ENGINES; i++)
		(void)snprintf(engines[i].id, sizeof engines[i].id, "e%u", (unsigned)i);
	for (int i = 0; i < STEPS; i++) {
		struct engine *e = &engines[rnd_below(&rnd, ENGINES)];
		if (rnd_below(&rnd, 4) == 0)
			step_world(strange);
		else if (e->state == OUT)
			step_start(e);
		else if (e->state != GOES && rnd_below(&rnd, 6) == 0)
			step_end(e); /* it crashes, or is stopped */
		else if (e->state == STARTS)
			step_starting(e);
		else if (e->state == GOES)
			step_going(e, strange);
		starts += e->state == STARTS;
		check(strange);
	}
	assert_true(starts > STEPS / 100);
	/* In the end all memory is as the devices show it. */
	for (size_t i = 0; i < ENGINES; i++)
		if (engines[i].state == STARTS || engines[i].state == RUNS)
			step_end(&engines[i]);
	for (size_t i = 0; i < ENGINES; i++)
		memset(engines[i].uses, 0, sizeof engines[i].uses);
	step_world(false);
	now = mono_add_ms(now, LEDGER_RETURN_MS);
	step_world(false);
	assert_int_equal(ledger_owners(l), 0);
	for (size_t d = 0; d < DEVICES; d++)
		assert_true(look(d).booked == 0 && look(d).foreign == truth(d));
}

CASE(nothing_is_sold_twice_at_any_step)
{
	interleave(false);
}

CASE(nor_when_strangers_come_and_drivers_hang)
{
	interleave(true);
}

#define UNIT(name) cmocka_unit_test_setup_teardown(name, begin, done)
int main(void)
{
	const struct CMUnitTest tests[] = {
		UNIT(a_reservation_takes_room_before_anything_is_used),
		UNIT(says_what_is_missing_where),
		UNIT(a_device_is_known_by_its_node_and_id),
		UNIT(an_owner_reserves_once_and_each_generation_anew),
		UNIT(parts_that_make_no_sense_are_refused),
		UNIT(what_was_measured_is_booked),
		UNIT(strangers_hold_no_more_than_ours_leave),
		UNIT(more_than_there_is_room_for_is_told_and_not_booked),
		UNIT(memory_of_strangers_is_what_is_used_less_ours),
		UNIT(a_stranger_beyond_what_ours_may_use_is_seen_while_one_starts),
		UNIT(memory_is_booked_until_it_is_seen_to_return),
		UNIT(what_does_not_return_in_time_is_foreign_until_it_is_free),
		UNIT(without_readings_it_is_gone_at_its_deadline),
		UNIT(one_that_never_used_anything_is_gone_at_once),
		UNIT(one_that_starts_while_another_goes_has_its_own_room),
		UNIT(a_release_twice_changes_nothing),
		UNIT(one_found_running_holds_what_it_holds),
		UNIT(an_unknown_capacity_refuses_nothing),
		UNIT(many_thousand_owners),
		UNIT(nothing_is_sold_twice_at_any_step),
		UNIT(nor_when_strangers_come_and_drivers_hang),
	};
	return cmocka_run_group_tests_name("ledger", tests, NULL, NULL);
}
