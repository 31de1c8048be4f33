/* SPDX-License-Identifier: Apache-2.0
 *
 * The question two engines are compared by: what is read of an answer, and what is said of two.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "dialect/sample.h"

static struct sample answer(const char *text, const char *rate)
{
	struct sample s = { 0 };
	AUTO(mem_freep)
	char *body = mem_fmt("{\"choices\":[{\"message\":{\"content\":\"%s\"}}],"
			     "\"timings\":{\"predicted_per_second\":%s}}",
		text, rate);
	sample_read(200, view_str(body), &s);
	assert_true(s.asked && s.answered);
	assert_string_equal(s.text, text);
	return s;
}

static void says(struct sample *was, struct sample *now, const uint64_t bytes[2], const char *want)
{
	AUTO(buf_done) struct buf b = BUF(4096);
	sample_compare(was, now, bytes, &b);
	assert_string_equal(buf_str(&b), want);
}

static void what_is_read(void **state)
{
	(void)state;
	struct sample s = { 0 };
	static const char *const none[] = { "", "{", "[]", "{\"choices\":[]}", "{\"choices\":[{}]}" };
	for (size_t i = 0; i < ARRAY_LEN(none); i++) {
		sample_read(200, view_str(none[i]), &s);
		assert_true(s.asked && !s.answered);
	}
	sample_read(200,
		VIEW("{\"choices\":[{\"message\":{\"reasoning_content\":\"a\",\"content\":\"b\"}}]}"), &s);
	assert_true(s.answered);
	assert_string_equal(s.text, "ab");
	sample_read(500, VIEW("{\"choices\":[{\"message\":{\"content\":\"b\"}}]}"), &s);
	assert_false(s.answered);
	sample_done(&s);
	assert_false(s.asked);
}

static void what_is_said_of_two(void **state)
{
	(void)state;
	static const uint64_t both[2] = { 1024, 2048 }, new[2] = { 0, 2048 }, none[2] = { 0 };
	struct sample a = answer("one two", "10"), b = answer("one too", "12"), c = answer("one two", "0"),
		      silent = { 0 };
	says(&a, &b, both,
		"10.0 tokens/s before, 12.0 now (+20 %); 1.0 KiB on disk before, 2.0 KiB now; "
		"the first 32 greedy tokens differ from byte 5 on");
	says(&a, &c, none, "the same 7 bytes for the first 32 greedy tokens");
	says(&silent, &a, new,
		"2.0 KiB on disk; no engine ran before: there is nothing to compare with; the new one "
		"answers");
	sample_read(404, VIEW(""), &silent);
	says(&silent, &a, none, "it answered no chat before: there is nothing to compare with");
	sample_done(&silent);
	struct sample later = { 0 };
	sample_read(501, VIEW(""), &later); /* an embedding's engine */
	assert_true(sample_declined(&later) && !sample_busy(&later));
	says(&silent, &later, none, "it takes no chat: there is nothing to compare with");
	sample_read(429, VIEW(""), &later);
	assert_true(sample_busy(&later) && !sample_declined(&later));
	says(&a, &later, none, "the pool is too busy to be asked: nothing is compared");
	sample_read(502, VIEW(""), &later);
	assert_false(sample_busy(&later) || sample_declined(&later));
	sample_done(&later);
	sample_done(&a);
	sample_done(&b);
	sample_done(&c);
}

static void what_is_asked(void **state)
{
	(void)state;
	AUTO(buf_done) struct buf b = BUF(4096);
	sample_request("a\"b", &b);
	assert_non_null(strstr(buf_str(&b), "\"model\":\"a\\\"b\""));
	assert_non_null(strstr(buf_str(&b), "\"max_tokens\":32"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_read),
		cmocka_unit_test(what_is_said_of_two),
		cmocka_unit_test(what_is_asked),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
