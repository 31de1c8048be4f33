/* SPDX-License-Identifier: Apache-2.0
 *
 * Plans: the same input gives the same hash, and what is done stays done, through a file that a kill cannot
 * leave half-written.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fd.h"
#include "base/mem.h"
#include "provision/engine/steps.h"

static void plan_make(struct steps *s, const char *flags)
{
	steps_add(s, STEP_PREFLIGHT, "CPU", "Looking at this machine.");
	steps_add(s, STEP_FETCH, "repo b1", "Fetching %s.", "b1");
	steps_add(s, STEP_BUILD, flags, "Building.");
}

static void the_same_input_gives_the_same_hash(void **state)
{
	(void)state;
	char a[STEPS_HASH_LEN + 1], b[STEPS_HASH_LEN + 1];
	AUTO(steps_done) struct steps one = { 0 }, two = { 0 }, other = { 0 }, moved = { 0 };
	plan_make(&one, "X=ON");
	plan_make(&two, "X=ON");
	steps_hash(&one, a);
	steps_hash(&two, b);
	assert_string_equal(a, b);
	assert_string_equal(a, "ee16cc25af5d0da5"); /* also on another day, in another process */
	free(two.items[1].text);
	two.items[1].text = mem_strdup("said otherwise");
	steps_hash(&two, b);
	assert_string_equal(a, b);
	plan_make(&other, "X=OFF");
	steps_hash(&other, b);
	assert_string_not_equal(a, b);
	steps_add(&moved, STEP_PREFLIGHT, "CPU", "x"); /* the same texts, divided otherwise */
	steps_add(&moved, STEP_FETCH, "repo ", "x");
	steps_add(&moved, STEP_BUILD, "b1X=ON", "x");
	steps_hash(&moved, b);
	assert_string_not_equal(a, b);
}

static void what_is_done_stays_done(void **state)
{
	const char *dir = *state;
	AUTO(mem_freep) char *file = path_join(dir, "steps");
	AUTO(steps_done) struct steps s = { 0 }, other = { 0 };
	struct steps_store st = steps_store_file(file);
	plan_make(&s, "a");
	plan_make(&other, "b");
	assert_int_equal(steps_next(&s, &st), 0);
	for (size_t i = 0; i < s.len; i++) {
		assert_int_equal(steps_begin(&s, &st, i), 0);
		assert_int_equal(steps_next(&s, &st), i); /* begun, and killed: it is done again */
		assert_int_equal(steps_end(&s, &st, i, i == 1 ? "no\nroom" : NULL), 0);
		if (i == 1) {
			assert_int_equal(steps_next(&s, &st), 1);
			char plan[STEPS_HASH_LEN + 1];
			struct steps_record r = { 0 };
			steps_hash(&s, plan);
			assert_int_equal(st.read(st.arg, plan, 1, &r), 0);
			assert_int_equal(r.state, STEPS_FAILED);
			assert_string_equal(r.detail, "no room");
			assert_true(r.started_ms > 0 && r.ended_ms >= r.started_ms);
			steps_record_done(&r);
			assert_int_equal(steps_begin(&s, &st, i), 0);
			assert_int_equal(steps_end(&s, &st, i, NULL), 0);
		}
		assert_int_equal(steps_next(&s, &st), i + 1);
	}
	assert_int_equal(steps_next(&other, &st), 0); /* another plan knows nothing of it */
	assert_int_equal(steps_begin(&other, &st, 0), 0);
	assert_int_equal(steps_next(&s, &st), 0); /* and a file holds one */
}

static void a_damaged_file_is_no_plan(void **state)
{
	const char *dir = *state;
	AUTO(mem_freep) char *file = path_join(dir, "damaged");
	AUTO(steps_done) struct steps s = { 0 };
	struct steps_store st = steps_store_file(file);
	plan_make(&s, "a");
	char plan[STEPS_HASH_LEN + 1];
	steps_hash(&s, plan);
	AUTO(mem_freep)
	char *text = mem_fmt(
		"corral-steps 1 %s\n0\tpreflight\tdone\t1\t2\t\n1\tfetch\tdo\n99\tx\tdone\t1\t1\t\n\n", plan);
	assert_int_equal(file_write_atomic(file, view_str(text), 0600, false), 0);
	assert_int_equal(steps_next(&s, &st), 1);
	assert_int_equal(file_write_atomic(file, VIEW("\0\0\n\t\t\t\t\t\t"), 0600, false), 0);
	assert_int_equal(steps_next(&s, &st), 0);
}

static int setup(void **state)
{
	char dir[] = "/tmp/corral-steps-XXXXXX";
	assert_non_null(mkdtemp(dir));
	*state = mem_strdup(dir);
	return 0;
}

static int teardown(void **state)
{
	static const char *const names[] = { "steps", "damaged" };
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		AUTO(mem_freep) char *file = path_join(*state, names[i]);
		unlink(file);
	}
	rmdir(*state);
	free(*state);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_same_input_gives_the_same_hash),
		cmocka_unit_test(what_is_done_stays_done),
		cmocka_unit_test(a_damaged_file_is_no_plan),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
