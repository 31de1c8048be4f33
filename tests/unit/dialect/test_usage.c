/* SPDX-License-Identifier: Apache-2.0
 *
 * Token counts as engines write them, at the ends of answers that are cut anywhere.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "dialect/usage.h"

static void engines_are_understood(void **state)
{
	(void)state;
	static const struct {
		const char *text;
		int64_t prompt, cached, output;
		int prompt_ms, per_second; /* whole numbers of them; -1: none */
	} rows[] = {
		{ "", -1, -1, -1, -1, -1 },
		/* llama-server, chat: usage and timings */
		{ "\"usage\":{\"completion_tokens\":12,\"prompt_tokens\":7,\"total_tokens\":19,"
		  "\"prompt_tokens_details\":{\"cached_tokens\":3}},\"timings\":{\"cache_n\":3,\"prompt_n\":"
		  "4,"
		  "\"prompt_ms\":15.25,\"prompt_per_token_ms\":3.8,\"prompt_per_second\":262.1,"
		  "\"predicted_n\":12,\"predicted_ms\":30.5,\"predicted_per_second\":393.75}}",
			7, 3, 12, 15, 393 },
		/* the same without usage */
		{ "\"timings\":{\"cache_n\":3,\"prompt_n\":4,\"prompt_ms\":15.25,\"predicted_n\":12,"
		  "\"predicted_per_second\":393.75}}",
			7, 3, 12, 15, 393 },
		/* llama-server, completion */
		{ "\"tokens_predicted\":5,\"tokens_evaluated\":9,\"tokens_cached\":13}", 9, -1, 5, -1, -1 },
		/* Anthropic: what was cached is not in input_tokens */
		{ "{\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":4,"
		  "\"cache_read_input_tokens\":30,\"output_tokens\":1}}}\n"
		  "{\"type\":\"message_delta\",\"usage\":{\"output_tokens\":25}}",
			34, 30, 25, -1, -1 },
		/* Responses */
		{ "\"usage\":{\"input_tokens\": 4, \"input_tokens_details\":{\"cached_tokens\":0},"
		  "\"output_tokens\": 8 }",
			4, 0, 8, -1, -1 },
		/* what the model says is no usage */
		{ "{\"content\":\"\\\"completion_tokens\\\":99,\\\"prompt_tokens\\\":98\"}", -1, -1, -1, -1,
			-1 },
		{ "\"usage\":{\"completion_tokens\":null,\"prompt_tokens\":-5,\"cached_tokens\":1e3}", -1, -1,
			-1, -1, -1 },
		{ "\"completion_tokens\":12345678901234567890}", -1, -1, -1, -1, -1 },
		/* cut in the middle of a number, or of a key */
		{ "ion_tokens\":3,\"prompt_tokens\":7,\"completion_tokens\":12", 7, -1, -1, -1, -1 },
		{ "\"predicted_n\":1,\"prompt_ms\":1.", -1, -1, 1, -1, -1 },
	};
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct usage u;
		usage_init(&u);
		usage_read(&u, view_str(rows[i].text));
		assert_int_equal(usage_prompt(&u), rows[i].prompt);
		assert_int_equal(usage_cached(&u), rows[i].cached);
		assert_int_equal(usage_output(&u), rows[i].output);
		assert_int_equal((int)u.prompt_ms, rows[i].prompt_ms);
		assert_int_equal((int)u.per_second, rows[i].per_second);
	}
}

/* However an answer is cut, no number is another one. */
static void no_cut_makes_another_number(void **state)
{
	(void)state;
	static const char text[] =
		"{\"a\":1},\"usage\":{\"prompt_tokens\":70,\"completion_tokens\":123},\"x\":1}";
	for (size_t from = 0; from < sizeof text; from++) {
		for (size_t to = from; to < sizeof text; to++) {
			char *copy = malloc(to - from + 1); /* just so large: a read past it is seen */
			struct usage u;
			memcpy(copy, text + from, to - from);
			usage_init(&u);
			usage_read(&u, view_of(copy, to - from));
			free(copy);
			assert_true(u.prompt == -1 || u.prompt == 70);
			assert_true(u.output == -1 || u.output == 123);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(engines_are_understood),
		cmocka_unit_test(no_cut_makes_another_number),
	};
	return cmocka_run_group_tests_name("usage", tests, NULL, NULL);
}
