/* SPDX-License-Identifier: Apache-2.0
 *
 * What the turns of a conversation have in common, in every dialect, and that others do not have it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "dialect/dialect.h"

/* 0: it says of no conversation. The body comes in two pieces, cut at every place. */
static uint64_t key_of(const char *body)
{
	uint64_t key = 0;
	for (size_t cut = 0; cut < strlen(body); cut++) {
		struct body_scan s;
		body_scan_init(&s);
		assert_int_equal(body_scan_feed(&s, view_of(body, cut)), 0);
		assert_int_equal(body_scan_feed(&s, view_str(body + cut)), 0);
		assert_int_equal(body_scan_end(&s), 0);
		if (!s.talk_at)
			return 0;
		struct view first = talk_beginning(view_from(view_str(body), s.talk_at));
		uint64_t this = first.n ? talk_hash(3, first) : 0;
		assert_true(cut == 0 || this == key);
		key = this;
	}
	return key;
}

#define U(text) "{\"role\":\"user\",\"content\":\"" text "\"}"
#define A(text) "{\"role\":\"assistant\",\"content\":\"" text "\"}"
#define S(text) "{\"role\":\"system\",\"content\":\"" text "\"}"

static void turns_of_one_conversation_are_alike(void **state)
{
	(void)state;
	uint64_t one = key_of("{\"messages\":[" U("hi") "]}");
	assert_true(one != 0);
	assert_true(one ==
		    key_of("{\"model\":\"m\",\"messages\":[" U("hi") "," A("x") "," U("and") "],\"n\":1}"));
	assert_true(one == key_of("{\"messages\":[" U("hi") "  , " A("x") " ]}"));
	assert_true(one != key_of("{\"messages\":[" U("ho") "]}"));
	assert_true(one != key_of("{\"messages\":[" S("be kind") "," U("hi") "]}"));
	uint64_t two = key_of("{\"messages\":[" S("be kind") "," U("hi") "]}");
	assert_true(
		two == key_of("{\"messages\":[" S("be kind") "," U("hi") "," A("\\\"}]") "," U("go") "]}"));
	assert_true(two != key_of("{\"messages\":[" S("be kind") "," U("ho") "]}"));
}

static void parts_and_other_keys_are_read(void **state)
{
	(void)state;
	static const char first[] =
		"{\"content\":[{\"type\":\"text\",\"role\":\"user\",\"text\":\"a]}\"}],\"role\":\"";
	char a[512], b[512];
	snprintf(a, sizeof a, "{\"input\":[%ssystem\"},%suser\"}]}", first, first);
	snprintf(b, sizeof b, "{\"input\":[%ssystem\"},%suser\"},%sassistant\"}]}", first, first, first);
	assert_true(key_of(a) != 0 && key_of(a) == key_of(b));
	/* what is inside a part is no role of the message */
	snprintf(b, sizeof b, "{\"input\":[%ssystem\"},%sassistant\"},%suser\"}]}", first, first, first);
	assert_true(key_of(a) != key_of(b));
}

static void what_says_nothing_has_no_key(void **state)
{
	(void)state;
	assert_true(key_of("{\"prompt\":\"messages\"}") == 0);
	assert_true(key_of("{\"input\":\"one text\"}") == 0);
	assert_true(key_of("{\"a\":{\"messages\":[1]}}") == 0);
	assert_true(key_of("{\"messages\":7}") == 0);
	assert_true(key_of("{\"messages\":[]}") != 0); /* the engine will refuse it */
}

/* Pieces of whatever is looked at of a body: nothing is read behind them. */
static void what_is_cut_off_ends_there(void **state)
{
	(void)state;
	static const char body[] =
		": [{\"role\" : \"user\\\\\\\"\", \"content\":[{\"a\":[1,true,{}]}]},2,\"x\"]";
	for (size_t n = 0; n <= sizeof body - 1; n++) {
		char *copy = test_malloc(n + 1);
		memcpy(copy, body, n);
		struct view v = talk_beginning(view_of(copy, n));
		assert_true(v.n <= n);
		test_free(copy);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(turns_of_one_conversation_are_alike),
		cmocka_unit_test(parts_and_other_keys_are_read),
		cmocka_unit_test(what_says_nothing_has_no_key),
		cmocka_unit_test(what_is_cut_off_ends_there),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
