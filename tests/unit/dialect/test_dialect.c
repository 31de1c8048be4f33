/* SPDX-License-Identifier: Apache-2.0
 *
 * Routes, errors in every dialect, nearest ids.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <yyjson.h>

#include "base/mem.h"
#include "dialect/dialect.h"

static void routes(void **state)
{
	static const struct {
		const char *method, *path;
		enum route_kind kind; /* ROUTE_NONE: unknown */
		enum dialect dialect;
		bool lease, starts;
	} rows[] = {
		{ "POST", "/v1/chat/completions", ROUTE_CHAT, DIALECT_OPENAI, true, true },
		{ "POST", "/v1/completions", ROUTE_COMPLETIONS, DIALECT_OPENAI, true, true },
		{ "POST", "/v1/responses", ROUTE_RESPONSES, DIALECT_OPENAI, true, true },
		{ "POST", "/v1/embeddings", ROUTE_EMBEDDINGS, DIALECT_OPENAI, true, true },
		{ "POST", "/v1/rerank", ROUTE_RERANK, DIALECT_OPENAI, true, true },
		{ "POST", "/v1/messages", ROUTE_MESSAGES, DIALECT_ANTHROPIC, true, true },
		{ "POST", "/v1/messages/count_tokens", ROUTE_COUNT_TOKENS, DIALECT_ANTHROPIC, false, true },
		{ "POST", "/completion", ROUTE_COMPLETION, DIALECT_NATIVE, true, true },
		{ "POST", "/infill", ROUTE_INFILL, DIALECT_NATIVE, true, true },
		{ "POST", "/tokenize", ROUTE_TOKENIZE, DIALECT_NATIVE, false, true },
		{ "POST", "/detokenize", ROUTE_DETOKENIZE, DIALECT_NATIVE, false, true },
		{ "POST", "/apply-template", ROUTE_APPLY_TEMPLATE, DIALECT_NATIVE, false, true },
		{ "POST", "/embedding", ROUTE_EMBEDDING, DIALECT_NATIVE, true, true },
		{ "GET", "/props", ROUTE_PROPS, DIALECT_NATIVE, false, false },
		{ "POST", "/v1/audio/transcriptions", ROUTE_TRANSCRIPTIONS, DIALECT_OPENAI, true, true },
		{ "POST", "/v1/audio/speech", ROUTE_SPEECH, DIALECT_OPENAI, true, true },
		{ "POST", "/v1/images/generations", ROUTE_IMAGES, DIALECT_OPENAI, true, true },
		{ "POST", "/v1/images/edits", ROUTE_IMAGE_EDITS, DIALECT_OPENAI, true, true },
		{ "GET", "/slots", ROUTE_SLOTS, DIALECT_NATIVE, false, false },
		{ "POST", "/slots/", ROUTE_NONE, DIALECT_NATIVE, false, false },
		{ "POST", "/upstream/chat/v1/x", ROUTE_UPSTREAM, DIALECT_NATIVE, true, true },
		{ "GET", "/upstream/chat/", ROUTE_UPSTREAM, DIALECT_NATIVE, false, false },
		{ "DELETE", "/upstream/chat/slots", ROUTE_UPSTREAM, DIALECT_NATIVE, false, false },
		{ "GET", "/v1/models", ROUTE_NONE, DIALECT_OPENAI, false, false },
		{ "POST", "/v1/chat/completions/", ROUTE_NONE, DIALECT_OPENAI, false, false },
		{ "POST", "/V1/chat/completions", ROUTE_NONE, DIALECT_NATIVE, false, false },
		{ "GET", "/upstream/", ROUTE_NONE, DIALECT_NATIVE, false, false },
		{ "GET", "/upstream//x", ROUTE_NONE, DIALECT_NATIVE, false, false },
		{ "GET", "/upstream", ROUTE_NONE, DIALECT_NATIVE, false, false },
		{ "GET", "", ROUTE_NONE, DIALECT_NATIVE, false, false },
		{ "POST", "/v1/messages/batches", ROUTE_NONE, DIALECT_ANTHROPIC, false, false },
		{ "POST", "/v1/messagesx", ROUTE_NONE, DIALECT_OPENAI, false, false },
		{ "POST", "/api/chat", ROUTE_NONE, DIALECT_OLLAMA, false, false },
		{ "POST", "/apiary", ROUTE_NONE, DIALECT_NATIVE, false, false },
	};
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct route r = { 0 };
		const char *allow = NULL;
		enum route_answer a =
			dialect_route(view_str(rows[i].method), view_str(rows[i].path), &r, &allow);
		assert_int_equal(a, rows[i].kind ? ROUTE_FOUND : ROUTE_UNKNOWN);
		assert_int_equal(dialect_of_path(view_str(rows[i].path)), rows[i].dialect);
		assert_int_equal(r.kind, rows[i].kind);
		assert_int_equal(r.takes_lease, rows[i].lease);
		assert_int_equal(r.starts_engine, rows[i].starts);
		assert_false(r.get && r.starts_engine); /* no GET starts an engine */
		assert_int_equal(r.form, r.kind == ROUTE_TRANSCRIPTIONS || r.kind == ROUTE_IMAGE_EDITS);
		if (rows[i].kind) {
			assert_int_equal(r.dialect, rows[i].dialect);
			assert_true(view_starts(view_str(rows[i].path), view_str(r.name)));
		}
	}
}

static void wrong_method_names_the_right_one(void **state)
{
	struct route r;
	const char *allow = NULL;
	assert_int_equal(dialect_route(VIEW("GET"), VIEW("/v1/messages"), &r, &allow), ROUTE_WRONG_METHOD);
	assert_string_equal(allow, "POST");
	assert_int_equal(dialect_route(VIEW("post"), VIEW("/v1/messages"), &r, &allow), ROUTE_WRONG_METHOD);
	assert_int_equal(dialect_route(VIEW("PUT"), VIEW("/props"), &r, &allow), ROUTE_WRONG_METHOD);
	assert_string_equal(allow, "GET");
}

static void a_slot_is_one_route_whatever_its_number(void **state)
{
	struct route r;
	const char *allow;
	assert_int_equal(dialect_route(VIEW("POST"), VIEW("/slots/17"), &r, &allow), ROUTE_FOUND);
	assert_int_equal(r.kind, ROUTE_SLOT);
	assert_string_equal(r.name, "/slots/{id}");
	assert_false(r.takes_lease || r.starts_engine || r.get);
	assert_int_equal(dialect_route(VIEW("POST"), VIEW("/slots/17/x"), &r, &allow), ROUTE_UNKNOWN);
	assert_int_equal(dialect_route(VIEW("GET"), VIEW("/slots/17"), &r, &allow), ROUTE_WRONG_METHOD);
	assert_string_equal(allow, "POST");
}

static void upstream_is_taken_apart(void **state)
{
	struct route r;
	const char *allow;
	assert_int_equal(dialect_route(VIEW("GET"), VIEW("/upstream/my.pool/a/b"), &r, &allow), ROUTE_FOUND);
	assert_true(view_eqs(r.pool, "my.pool"));
	assert_true(view_eqs(r.rest, "/a/b"));
	assert_true(r.get);
	assert_string_equal(r.name, "/upstream");
	assert_int_equal(dialect_route(VIEW("POST"), VIEW("/upstream/p"), &r, &allow), ROUTE_FOUND);
	assert_true(view_eqs(r.rest, "/"));
}

static void codes_and_their_statuses(void **state)
{
	static const struct {
		enum corral_code code;
		const char *name;
		int status;
	} rows[] = {
		{ CODE_INVALID_PARAMS, "INVALID_PARAMS", 400 },
		{ CODE_MODEL_NOT_FOUND, "MODEL_NOT_FOUND", 404 },
		{ CODE_CONTEXT_EXCEEDED, "CONTEXT_EXCEEDED", 400 },
		{ CODE_DEADLINE_UNMET, "DEADLINE_UNMET", 400 },
		{ CODE_UNAUTHENTICATED, "UNAUTHENTICATED", 401 },
		{ CODE_FORBIDDEN, "FORBIDDEN", 403 },
		{ CODE_ADMISSION_REJECT, "ADMISSION_REJECT", 429 },
		{ CODE_QUEUE_FULL_DROP_LRU, "QUEUE_FULL_DROP_LRU", 429 },
		{ CODE_QUOTA_EXCEEDED, "QUOTA_EXCEEDED", 429 },
		{ CODE_PAYLOAD_TOO_LARGE, "PAYLOAD_TOO_LARGE", 413 },
		{ CODE_POOL_UNREADY, "POOL_UNREADY", 503 },
		{ CODE_POOL_UNAVAILABLE, "POOL_UNAVAILABLE", 503 },
		{ CODE_NO_CAPACITY, "NO_CAPACITY", 503 },
		{ CODE_ENGINE_FAILED, "ENGINE_FAILED", 502 },
		{ CODE_DECODE_TIMEOUT, "DECODE_TIMEOUT", 504 },
		{ CODE_MODEL_RETIRED, "MODEL_RETIRED", 410 },
		{ CODE_UNTRUSTED_ARTIFACT, "UNTRUSTED_ARTIFACT", 422 },
		{ CODE_DIGEST_MISMATCH, "DIGEST_MISMATCH", 422 },
		{ CODE_CONFLICT, "CONFLICT", 409 },
		{ CODE_CANCELLED, "CANCELLED", 499 },
		{ CODE_INTERNAL, "INTERNAL", 500 },
	};
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		assert_string_equal(corral_code_name(rows[i].code), rows[i].name);
		assert_int_equal(corral_code_status(rows[i].code), rows[i].status);
		struct api_error e = { .code = rows[i].code, .retriable = -1 };
		assert_int_equal(api_error_status(DIALECT_OPENAI, &e), rows[i].status);
	}
	for (int c = CODE_INVALID_PARAMS; c < CODE_COUNT; c++)
		assert_non_null(corral_code_name((enum corral_code)c));
	struct api_error e = { .code = CODE_ADMISSION_REJECT };
	assert_int_equal(api_error_status(DIALECT_ANTHROPIC, &e), 529);
	e.code = CODE_QUEUE_FULL_DROP_LRU;
	assert_int_equal(api_error_status(DIALECT_ANTHROPIC, &e), 529);
	e.code = CODE_QUOTA_EXCEEDED;
	assert_int_equal(api_error_status(DIALECT_ANTHROPIC, &e), 429);
	e = (struct api_error){ .code = CODE_INVALID_PARAMS, .status = 415 };
	assert_int_equal(api_error_status(DIALECT_NATIVE, &e), 415);
}

static void bodies(void **state)
{
	struct api_error e = { .code = CODE_MODEL_NOT_FOUND,
		.retriable = -1,
		.message = VIEW("There is no \"x\"."),
		.hint = VIEW("Nearest: chat."),
		.request_id = VIEW("r-1") };
	AUTO(buf_done) struct buf b = BUF(64 * KIB);
	assert_int_equal(api_error_body(DIALECT_OPENAI, &e, &b), 0);
	assert_string_equal(buf_str(&b),
		"{\"error\":{\"message\":\"There is no \\\"x\\\".\",\"type\":\"invalid_request_error\","
		"\"param\":\"model\",\"code\":\"model_not_found\",\"corral\":{\"code\":\"MODEL_NOT_FOUND\","
		"\"retriable\":false,\"retry_after_ms\":null,\"pool_id\":null,\"hint\":\"Nearest: chat.\","
		"\"request_id\":\"r-1\"}}}");
	buf_reset(&b);
	assert_int_equal(api_error_body(DIALECT_ANTHROPIC, &e, &b), 0);
	assert_string_equal(buf_str(&b),
		"{\"type\":\"error\",\"error\":{\"type\":\"not_found_error\",\"message\":\"There is no "
		"\\\"x\\\". Nearest: chat.\"},\"request_id\":\"r-1\"}");
	buf_reset(&b);
	assert_int_equal(api_error_body(DIALECT_OLLAMA, &e, &b), 0);
	assert_string_equal(buf_str(&b), "{\"error\":\"There is no \\\"x\\\". Nearest: chat.\"}");
	buf_reset(&b);
	e = (struct api_error){ .code = CODE_ADMISSION_REJECT,
		.retriable = -1,
		.message = VIEW("Full."),
		.pool_id = VIEW("chat"),
		.retry_after_ms = 1500 };
	assert_int_equal(api_error_body(DIALECT_NATIVE, &e, &b), 0);
	assert_string_equal(buf_str(&b),
		"{\"error\":{\"message\":\"Full.\",\"type\":\"rate_limit_error\",\"param\":null,"
		"\"code\":\"rate_limit_exceeded\",\"corral\":{\"code\":\"ADMISSION_REJECT\","
		"\"retriable\":true,\"retry_after_ms\":1500,\"pool_id\":\"chat\",\"hint\":null,"
		"\"request_id\":null}}}");
	buf_reset(&b);
	assert_int_equal(api_error_body(DIALECT_ANTHROPIC, &e, &b), 0);
	assert_non_null(strstr(buf_str(&b), "\"overloaded_error\""));
	e.more = VIEW("\"errors\":[1]");
	buf_reset(&b);
	assert_int_equal(api_error_body(DIALECT_OPENAI, &e, &b), 0);
	assert_non_null(strstr(buf_str(&b), ",\"errors\":[1],\"corral\":{"));
	AUTO(buf_done) struct buf small = BUF(20);
	(void)buf_adds(&small, "kept");
	assert_int_equal(api_error_body(DIALECT_OPENAI, &e, &small), -ENOBUFS);
	assert_string_equal(buf_str(&small), "kept");
}

static void overflow_reads_as_agents_know_it(void **state)
{
	struct api_error e = {
		.code = CODE_CONTEXT_EXCEEDED, .retriable = -1, .n_prompt_tokens = 33100, .n_ctx = 32768
	};
	AUTO(buf_done) struct buf b = BUF(64 * KIB);
	assert_int_equal(api_error_body(DIALECT_OPENAI, &e, &b), 0);
	assert_non_null(strstr(buf_str(&b),
		"\"This model's maximum context length is 32768 tokens; the request has 33100 "
		"(exceeds the available context size).\""));
	assert_non_null(strstr(buf_str(&b),
		"\"code\":\"context_length_exceeded\",\"n_prompt_tokens\":33100,\"n_ctx\":32768,"));
	buf_reset(&b);
	assert_int_equal(api_error_body(DIALECT_ANTHROPIC, &e, &b), 0);
	assert_non_null(strstr(
		buf_str(&b), "prompt is too long: 33100 tokens > 32768 maximum. This model's maximum"));
}

static void headers(void **state)
{
	AUTO(buf_done) struct buf b = BUF(4 * KIB);
	struct api_error e = { .code = CODE_POOL_UNREADY, .retriable = -1, .retry_after_ms = 1001 };
	assert_int_equal(api_error_headers(DIALECT_OPENAI, &e, &b), 0);
	assert_string_equal(
		buf_str(&b), "x-should-retry: true\r\nRetry-After: 2\r\nretry-after-ms: 1001\r\n");
	buf_reset(&b);
	e = (struct api_error){ .code = CODE_NO_CAPACITY, .retriable = -1 };
	assert_int_equal(api_error_headers(DIALECT_OPENAI, &e, &b), 0);
	assert_string_equal(buf_str(&b), "x-should-retry: false\r\n");
	buf_reset(&b);
	e = (struct api_error){ .code = CODE_ENGINE_FAILED, .retriable = 0 };
	assert_int_equal(api_error_headers(DIALECT_OPENAI, &e, &b), 0);
	assert_string_equal(buf_str(&b), "x-should-retry: false\r\n");
	buf_reset(&b);
	e = (struct api_error){ .code = CODE_MODEL_NOT_FOUND, .retriable = -1, .retry_after_ms = 5 };
	assert_int_equal(api_error_headers(DIALECT_OPENAI, &e, &b), 0);
	assert_int_equal(b.len, 0);
	e = (struct api_error){ .code = CODE_CONFLICT, .retriable = -1 };
	assert_int_equal(api_error_headers(DIALECT_OPENAI, &e, &b), 0);
	assert_string_equal(buf_str(&b), "x-should-retry: false\r\n");
}

/* The data lines of an event are JSON, the event is whole, and the splitter knows it as the last one. */
static void in_stream_events(void **state)
{
	static const struct {
		enum route_kind kind;
		enum dialect dialect;
		const char *starts;
	} rows[] = {
		{ ROUTE_CHAT, DIALECT_OPENAI, "data: {\"error\":{\"message\":\"It \\n died.\"," },
		{ ROUTE_COMPLETION, DIALECT_NATIVE, "data: {\"error\":" },
		{ ROUTE_UPSTREAM, DIALECT_NATIVE, "data: {\"error\":" },
		{ ROUTE_MESSAGES, DIALECT_ANTHROPIC,
			"event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"api_error\"," },
		{ ROUTE_RESPONSES, DIALECT_OPENAI,
			"event: response.failed\ndata: "
			"{\"type\":\"response.failed\",\"sequence_number\":17,\"response\":{" },
		{ ROUTE_CHAT, DIALECT_OLLAMA, "{\"error\":\"It \\n died.\"}\n" },
	};
	struct api_error e = {
		.code = CODE_WORKER_RESET, .retriable = -1, .message = VIEW("It \n died."), .sequence = 17
	};
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		AUTO(buf_done) struct buf b = BUF(64 * KIB);
		struct route r = { .kind = rows[i].kind, .dialect = rows[i].dialect };
		assert_int_equal(api_error_event(&r, &e, &b), 0);
		assert_true(view_starts(buf_view(&b), view_str(rows[i].starts)));
		assert_null(strstr(buf_str(&b), "[DONE]"));
		struct event_split s;
		event_split_init(&s, rows[i].dialect == DIALECT_OLLAMA ? EVENTS_NDJSON : EVENTS_SSE);
		assert_int_equal(event_split_feed(&s, buf_view(&b)), b.len);
		assert_true(s.terminal);
		assert_int_equal(s.events, 1);
		const char *data = strchr(buf_str(&b), '{');
		size_t n = strcspn(data, "\n");
		yyjson_doc *d = yyjson_read(data, n, 0);
		assert_non_null(d);
		yyjson_doc_free(d);
	}
}

static void nearest(void **state)
{
	static const char *const ids[] = { "chat", "coder", "chart", "embed", "qwen3-coder-30b", "Chat-Large",
		"" };
	static const struct {
		const char *wrong, *near;
	} rows[] = {
		{ "chta", "chat" }, /* a swap counts one */
		{ "CODER", "coder" },
		{ "chat", "chat, chart" },
		{ "zzzzz", "" },
		{ "", "" },
		{ "x", "" },
		{ "qwen3-coder-3b", "qwen3-coder-30b" },
	};
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		AUTO(buf_done) struct buf b = BUF(1024);
		dialect_nearest(view_str(rows[i].wrong), ids, ARRAY_LEN(ids), &b);
		assert_string_equal(buf_str(&b), rows[i].near);
	}
	static const char *const many[] = { "pool5", "pool4", "pool3", "pool2", "pool1" };
	AUTO(buf_done) struct buf b = BUF(1024);
	dialect_nearest(VIEW("pool9"), many, ARRAY_LEN(many), &b);
	assert_string_equal(buf_str(&b), "pool1, pool2, pool3");
	char longest[130];
	memset(longest, 'a', sizeof longest);
	longest[128] = '\0';
	const char *one = longest;
	buf_reset(&b);
	dialect_nearest(view_of(longest, 128), &one, 1, &b);
	assert_int_equal(b.len, 128);
	buf_reset(&b);
	dialect_nearest(view_of(longest, 129), &one, 1, &b);
	assert_int_equal(b.len, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(routes),
		cmocka_unit_test(a_slot_is_one_route_whatever_its_number),
		cmocka_unit_test(wrong_method_names_the_right_one),
		cmocka_unit_test(upstream_is_taken_apart),
		cmocka_unit_test(codes_and_their_statuses),
		cmocka_unit_test(bodies),
		cmocka_unit_test(overflow_reads_as_agents_know_it),
		cmocka_unit_test(headers),
		cmocka_unit_test(in_stream_events),
		cmocka_unit_test(nearest),
	};
	return cmocka_run_group_tests_name("dialect", tests, NULL, NULL);
}
