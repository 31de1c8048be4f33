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

#include "base/buf.h"
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
		/* Ollama's last line */
		{ "\"done\":true,\"total_duration\":51,\"prompt_eval_count\":26,\"eval_count\":298,"
		  "\"eval_duration\":9}",
			26, -1, 298, -1, -1 },
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

static const char rest[] = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/* Pieces of any length, each in its own memory. */
static void an_answer_in_pieces_is_read_whole(void **state)
{
	(void)state;
	char text[512];
	int n = snprintf(text, sizeof text,
		"{\"usage\":{\"completion_tokens\":1},\"x\":\"%s%s\",\"usage\":{\"prompt_tokens\":70,"
		"\"completion_tokens\" : 1,\"cache_read_input_tokens\":  5,\"completion_tokens\":123}}",
		rest, rest);
	for (size_t step = 1; step <= (size_t)n; step++) {
		for (size_t first = 1; first <= step; first++) {
			struct usage u;
			struct usage_pieces p = { 0 };
			usage_init(&u);
			for (size_t i = 0, k = first; i < (size_t)n; i += k, k = step) {
				struct view v = view_cut(view_from(view_of(text, (size_t)n), i), k);
				char *copy = malloc(v.n);
				memcpy(copy, v.p, v.n);
				usage_piece(&u, &p, view_of(copy, v.n), false);
				free(copy);
			}
			assert_int_equal(u.prompt, 70);
			assert_int_equal(u.output, 123);
			assert_int_equal(u.cache_read, 5);
		}
	}
}

/* Events as they come, each a piece; two in one piece say the same. */
static void the_last_event_that_tells_counts(void **state)
{
	(void)state;
#define CHUNK "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}],\"object\":\"chat.completion.chunk\"}\n\n"
#define USED(n) "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":" n "}}\n\n"
	static const struct {
		const char *events[6];
		int64_t prompt, output;
	} rows[] = {
		{ { CHUNK, CHUNK, CHUNK }, -1, -1 },
		{ { CHUNK, CHUNK, CHUNK, USED("3"), "data: [DONE]\n\n" }, 7, 3 },
		/* in every event */
		{ { USED("1"), USED("2"), USED("2"), USED("3") }, 7, 3 },
		/* llama-server's /completion: all end alike, and the last one begins with its count */
		{ { "data: {\"tokens_predicted\":1,\"tokens_evaluated\":6,\"slot\":0}\n\n",
			  "data: {\"tokens_predicted\":2,\"tokens_evaluated\":6,\"slot\":0}\n\n",
			  "data: {\"tokens_predicted\":3,\"tokens_evaluated\":6,\"slot\":0}\n\n" },
			6, 3 },
		{ { "data: {\"tokens_predicted\":1,\"tokens_evaluated\":6}\n\n",
			  "data: {\"timings\":{\"predicted_n\":4}}\n\n" },
			6, 4 },
		/* OpenAI's chunks end with characters of no meaning */
		{ { "data: {\"choices\":[{}],\"obfuscation\":\"aXk3\"}\n\n",
			  "data: {\"choices\":[{}],\"obfuscation\":\"b4\"}\n\n",
			  "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":2},"
			  "\"obfuscation\":\"0Uc\"}\n\n" },
			7, 2 },
		{ { "event: content_block_delta\ndata: "
		    "{\"type\":\"content_block_delta\",\"delta\":{\"text\":\"a\"}}\n\n",
			  "event: content_block_stop\ndata: {\"type\":\"content_block_stop\"}\n\n",
			  "event: message_delta\ndata: "
			  "{\"type\":\"message_delta\",\"usage\":{\"output_tokens\":9}}\n\n",
			  "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n" },
			-1, 9 },
		{ { "{\"message\":{\"content\":\"a\"},\"done\":false}\n",
			  "{\"message\":{\"content\":\"b\"},\"done\":false}\n",
			  "{\"done\":true,\"prompt_eval_count\":7,\"eval_count\":2}\n" },
			7, 2 },
	};
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		for (size_t together = 1; together <= 3; together++) {
			struct usage u;
			struct usage_pieces p = { 0 };
			usage_init(&u);
			for (size_t e = 0; e < 6 && rows[i].events[e];) {
				AUTO(buf_done) struct buf piece = BUF(4 * KIB);
				for (size_t k = 0; k < together && e < 6 && rows[i].events[e]; k++, e++)
					(void)buf_adds(&piece, rows[i].events[e]);
				usage_piece(&u, &p, buf_view(&piece), true);
			}
			assert_int_equal(usage_prompt(&u), rows[i].prompt);
			assert_int_equal(usage_output(&u), rows[i].output);
		}
	}
}

/* A long event goes by in pieces, and the next one is whole. */
static void an_event_in_pieces_is_read(void **state)
{
	(void)state;
	struct usage u;
	struct usage_pieces p = { 0 };
	usage_init(&u);
	usage_piece(&u, &p, VIEW("data: {\"type\":\"response.completed\",\"usage\":{\"input_tok"), false);
	usage_piece(&u, &p, VIEW("ens\":4,\"output_tokens\":1"), false);
	usage_piece(&u, &p, VIEW("2}}\n\n"), true);
	assert_int_equal(usage_prompt(&u), 4);
	assert_int_equal(usage_output(&u), 12);
	u.output = -1; /* what went by is not read again */
	usage_piece(&u, &p, VIEW("data: [DONE]\n\n"), true);
	assert_int_equal(usage_output(&u), -1);
}

static bool calls_tools(const char *text)
{
	struct usage u;
	struct usage_pieces p = { 0 };
	usage_init(&u);
	usage_piece(&u, &p, view_str(text), true);
	return u.calls_tools;
}

static void calls_of_tools_are_seen(void **state)
{
	(void)state;
	assert_true(calls_tools(
		"data: {\"choices\":[{\"finish_reason\":\"tool_calls\",\"index\":0,\"delta\":{}}],"
		"\"usage\":{\"completion_tokens\":3,\"prompt_tokens\":4}}\n\n"));
	assert_true(calls_tools("event: message_delta\ndata: {\"delta\":{\"stop_reason\":\"tool_use\"},"
				"\"usage\":{\"output_tokens\":25}}\n\n"));
	assert_true(calls_tools("data: {\"response\":{\"output\":[{\"type\":\"function_call\"}],"
				"\"usage\":{\"output_tokens\":25}}}\n\n"));
	assert_false(calls_tools(
		"data: {\"choices\":[{\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":4}}"));
	assert_false(calls_tools("{\"content\":\"\\\"finish_reason\\\":\\\"tool_calls\\\"\",\"usage\":{"
				 "\"prompt_tokens\":4}}"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(calls_of_tools_are_seen),
		cmocka_unit_test(engines_are_understood),
		cmocka_unit_test(no_cut_makes_another_number),
		cmocka_unit_test(an_answer_in_pieces_is_read_whole),
		cmocka_unit_test(the_last_event_that_tells_counts),
		cmocka_unit_test(an_event_in_pieces_is_read),
	};
	return cmocka_run_group_tests_name("usage", tests, NULL, NULL);
}
