/* SPDX-License-Identifier: Apache-2.0
 *
 * What corral requests prints of answers, hostile ones included.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "base/map.h"
#include "cli/cli_int.h"

#define DONE(id)                                                                                             \
	"{\"id\":\"" id "\",\"pool\":\"p\",\"replica\":\"p-0\",\"state\":\"finished\",\"age_ms\":1500,"      \
	"\"queue_ms\":2.0,\"load_ms\":3.0,\"first_token_ms\":null,\"tokens_per_s\":12.34,\"status\":200,"    \
	"\"outcome\":\"complete\",\"waited_for\":\"p-0\"}"
#define QUEUED(id)                                                                                           \
	"{\"id\":\"" id                                                                                      \
	"\",\"pool\":\"p\",\"replica\":null,\"state\":\"queued\",\"age_ms\":5,\"queue_ms\":0,"               \
	"\"load_ms\":5,\"status\":null,\"outcome\":null,\"waited_for\":\"starting\\u001b[31m\"}"
#define LIST(items) VIEW("{\"requests\":[" items "]}")

static void the_newest_stands_last(void **state)
{
	(void)state;
	AUTO(buf_done) struct buf b = BUF(64 * KIB);
	assert_int_equal(requests_table(LIST(QUEUED("b") "," DONE("a")), false, &b), 0);
	assert_string_equal(buf_str(&b),
		"AGE  ID  POOL  REPLICA  STATE     QUEUE  FIRST TOKEN  TOKENS/S  STATUS  OUTCOME\n"
		"1s   a   p     p-0      finished  5ms    -            12.3      200     complete\n"
		"5ms  b   p     -        queued    5ms    -            -         -       waits: "
		"starting?[31m\n");
}

static void only_changes_are_told(void **state)
{
	(void)state;
	AUTO(map_done) struct map seen;
	AUTO(buf_done) struct buf b = BUF(64 * KIB);
	map_init(&seen);
	assert_int_equal(requests_changes(LIST(QUEUED("b") "," DONE("a")), &seen, true, &b), 0);
	assert_memory_equal(buf_str(&b), "{\"id\":\"a\"", 9);
	assert_non_null(strstr(buf_str(&b), "}\n{\"id\":\"b\""));
	buf_reset(&b);
	assert_int_equal(requests_changes(LIST(QUEUED("b") "," DONE("a")), &seen, false, &b), 0);
	assert_int_equal(b.len, 0);
	assert_int_equal(requests_changes(LIST(DONE("b") "," DONE("a")), &seen, false, &b), 0);
	assert_non_null(strstr(buf_str(&b), " b  "));
	assert_null(strstr(buf_str(&b), " a  "));
	assert_int_equal(map_len(&seen), 2);
	assert_int_equal(
		requests_changes(LIST(""), &seen, false, &b), 0); /* nothing is remembered for ever */
	assert_int_equal(map_len(&seen), 0);
}

static void other_answers_are_refused(void **state)
{
	(void)state;
	static const char *const bodies[] = { "", "{}", "[]", "{\"requests\":{}}", "{\"requests\":[" };
	AUTO(map_done) struct map seen;
	AUTO(buf_done) struct buf b = BUF(64 * KIB);
	map_init(&seen);
	for (size_t i = 0; i < ARRAY_LEN(bodies); i++) {
		assert_int_equal(requests_table(view_str(bodies[i]), false, &b), -EINVAL);
		assert_int_equal(requests_changes(view_str(bodies[i]), &seen, false, &b), -EINVAL);
	}
	assert_int_equal(
		requests_table(LIST("1,null,{\"id\":5,\"age_ms\":1e300,\"status\":-1}"), false, &b), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_newest_stands_last),
		cmocka_unit_test(only_changes_are_told),
		cmocka_unit_test(other_answers_are_refused),
	};
	return cmocka_run_group_tests_name("cli_requests", tests, NULL, NULL);
}
