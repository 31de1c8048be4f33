/* SPDX-License-Identifier: Apache-2.0
 *
 * Replacing engines, step by step, against a small model of a machine; and every way an engine may fail.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "control/bluegreen.h"

/* The machine: room for so many engines; leases end when the test says so. */
struct machine {
	uint32_t room;
	uint32_t old, accepted, leaving;
	enum bg_fresh fresh;
	struct bluegreen b;
	char did[64]; /* a letter an act: s start, a accept, l let go, t turn back, D done, F failed */
	uint32_t serving_min;
};

static struct bg_facts facts(const struct machine *m)
{
	uint32_t there = m->old + m->accepted + m->leaving + (m->fresh != BG_FRESH_NONE);
	return (struct bg_facts){ m->old, m->accepted, m->leaving, m->fresh, there < m->room };
}

static void apply(struct machine *m, enum bg_act act)
{
	static const char letters[] = "-saltDF";
	size_t n = strlen(m->did);
	assert_true(n + 1 < sizeof m->did);
	m->did[n] = letters[act];
	uint32_t was = m->old;
	switch (act) {
	case BG_START:
		assert_int_equal(m->fresh, BG_FRESH_NONE);
		m->fresh = BG_FRESH_COMING;
		break;
	case BG_ACCEPT:
		assert_int_equal(m->fresh, BG_FRESH_READY);
		m->fresh = BG_FRESH_NONE;
		m->accepted++;
		break;
	case BG_LET_GO:
		assert_true(m->old > 0);
		m->old--;
		m->leaving++;
		break;
	case BG_TURN_BACK:
	case BG_FAILED:
		assert_int_equal(m->fresh, BG_FRESH_FAILED);
		m->fresh = BG_FRESH_NONE;
		m->leaving++;
		if (act == BG_TURN_BACK) {
			m->old = m->accepted;
			m->accepted = was;
		}
		break;
	default: break;
	}
}

/* Until it waits or ends; true: it ended. */
static bool run(struct machine *m)
{
	for (int i = 0; i < 32; i++) {
		struct bg_facts f = facts(m);
		enum bg_act act = bluegreen_step(&m->b, &f);
		if (act == BG_WAIT)
			return false;
		apply(m, act);
		uint32_t serving = m->old + m->accepted;
		m->serving_min = serving < m->serving_min ? serving : m->serving_min;
		if (act == BG_DONE || act == BG_FAILED)
			return true;
	}
	fail_msg("it never waits: %s", m->did);
	return true;
}

/* r: the fresh one gets ready, f: it fails, g: what was let go is gone. Returns what was done. */
static void play(struct machine *m, const char *events)
{
	bool ended = run(m);
	for (; *events; events++) {
		assert_false(ended);
		if (*events == 'g')
			m->leaving = 0;
		else
			m->fresh = *events == 'r' ? BG_FRESH_READY : BG_FRESH_FAILED;
		ended = run(m);
	}
}

struct row {
	const char *name;
	uint32_t old, room;
	const char *events, *did;
	uint32_t serving_min;
	bool swapped, turned;
	uint32_t old_after, accepted_after;
};

static const struct row rows[] = {
	{ "nothing runs: one is the proof", 0, 9, "r", "saD", 0, false, false, 0, 1 },
	{ "nothing runs, and it fails", 0, 9, "f", "sF", 0, false, false, 0, 0 },
	{ "one, both fit", 1, 9, "r", "salD", 1, false, false, 0, 1 },
	{ "one, both fit, it fails: the old one is not touched", 1, 9, "f", "sF", 1, false, false, 1, 0 },
	{ "three, one after the other", 3, 9, "rrr", "salsalsalD", 3, false, false, 0, 3 },
	{ "one place more: each waits for the one before to be gone", 3, 4, "rgrgr", "salsalsalD", 3, false,
		false, 0, 3 },
	{ "one, no room: it goes first", 1, 1, "gr", "lsaD", 0, true, false, 0, 1 },
	{ "no room, and the new one fails: the old kind comes back", 1, 1, "gfgr", "lstsaD", 0, true, true, 0,
		1 },
	{ "no room, and nothing works any more", 1, 1, "gfgf", "lstsF", 0, true, true, 0, 0 },
	{ "two, no room: the other one serves meanwhile", 2, 2, "grgr", "lsalsaD", 1, true, false, 0, 2 },
	{ "two, no room, the first fails: the other one is of the old kind still", 2, 2, "gf", "lstD", 1,
		true, true, 0, 1 },
	{ "two, room, the second fails: the first is taken back when an old one is there", 2, 9, "rfr",
		"salstsalD", 2, false, true, 0, 2 },
	{ "nothing runs and no room either: the engine finds out", 0, 0, "r", "saD", 0, false, false, 0, 1 },
};

static void test_rows(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		const struct row *r = &rows[i];
		struct machine m = { .room = r->room, .old = r->old, .serving_min = r->old };
		play(&m, r->events);
		if (strcmp(m.did, r->did) != 0 || m.serving_min != r->serving_min ||
			m.b.swapped != r->swapped || m.b.turned != r->turned || m.old != r->old_after ||
			m.accepted != r->accepted_after)
			fail_msg("%s: did %s, at least %u serve, swapped %d, turned %d, %u old, %u accepted",
				r->name, m.did, m.serving_min, m.b.swapped, m.b.turned, m.old, m.accepted);
	}
}

/* Every order of events there is, with every number of engines and every amount of room: it ends, and
 * where nothing had to make room there is never less serving than one fewer than at the beginning. */
static void explore(struct machine m, int depth)
{
	if (run(&m)) {
		char last = m.did[strlen(m.did) - 1];
		assert_true(last == 'D' || last == 'F');
		if (last == 'D')
			assert_true(m.old == 0 && m.accepted > 0);
		if (last == 'F' && !m.b.turned)
			assert_true(m.accepted == 0);
		return;
	}
	assert_true(depth < 24);
	bool waits = false;
	if (m.fresh == BG_FRESH_COMING) {
		struct machine good = m, bad = m;
		good.fresh = BG_FRESH_READY;
		bad.fresh = BG_FRESH_FAILED;
		explore(good, depth + 1);
		explore(bad, depth + 1);
		waits = true;
	}
	if (m.leaving) {
		m.leaving--;
		explore(m, depth + 1);
		waits = true;
	}
	assert_true(waits); /* it never waits for nothing */
}

static void test_every_order(void **state)
{
	(void)state;
	for (uint32_t old = 0; old <= 3; old++)
		for (uint32_t room = 0; room <= old + 2; room++)
			explore((struct machine){ .room = room, .old = old, .serving_min = old }, 0);
}

/* A daemon that starts again in the middle finds old ones and a fresh one. */
static void test_fresh_one_is_there(void **state)
{
	(void)state;
	struct machine m = { .room = 2, .old = 1, .fresh = BG_FRESH_COMING, .serving_min = 1 };
	play(&m, "r");
	assert_string_equal(m.did, "alD");
	struct machine bad = { .room = 2, .old = 1, .fresh = BG_FRESH_COMING, .serving_min = 1 };
	play(&bad, "f");
	assert_string_equal(bad.did, "F");
	struct machine all = { .room = 2, .accepted = 1 };
	play(&all, "");
	assert_string_equal(all.did, "D");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rows),
		cmocka_unit_test(test_every_order),
		cmocka_unit_test(test_fresh_one_is_there),
	};
	return cmocka_run_group_tests_name("bluegreen", tests, NULL, NULL);
}
