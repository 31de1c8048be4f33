/* SPDX-License-Identifier: Apache-2.0
 *
 * Every error in every dialect, as a status and in a stream: what a client's own parser finds in it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "base/mem.h"
#include "dialect/dialect.h"

static const struct row {
	enum corral_code code;
	const char *name;
	int status, anthropic_status;
	bool retriable;
	const char *type, *openai_code, *anthropic_type; /* openai_code NULL: null */
} rows[] = {
	{ CODE_INVALID_PARAMS, "INVALID_PARAMS", 400, 400, false, "invalid_request_error", NULL,
		"invalid_request_error" },
	{ CODE_MODEL_NOT_FOUND, "MODEL_NOT_FOUND", 404, 404, false, "invalid_request_error",
		"model_not_found", "not_found_error" },
	{ CODE_CONTEXT_EXCEEDED, "CONTEXT_EXCEEDED", 400, 400, false, "invalid_request_error",
		"context_length_exceeded", "invalid_request_error" },
	{ CODE_DEADLINE_UNMET, "DEADLINE_UNMET", 400, 400, false, "invalid_request_error", NULL,
		"invalid_request_error" },
	{ CODE_UNAUTHENTICATED, "UNAUTHENTICATED", 401, 401, false, "invalid_request_error",
		"invalid_api_key", "authentication_error" },
	{ CODE_FORBIDDEN, "FORBIDDEN", 403, 403, false, "permission_error", NULL, "permission_error" },
	{ CODE_ADMISSION_REJECT, "ADMISSION_REJECT", 429, 529, true, "rate_limit_error",
		"rate_limit_exceeded", "overloaded_error" },
	{ CODE_QUEUE_FULL_DROP_LRU, "QUEUE_FULL_DROP_LRU", 429, 529, true, "rate_limit_error",
		"rate_limit_exceeded", "overloaded_error" },
	{ CODE_QUOTA_EXCEEDED, "QUOTA_EXCEEDED", 429, 429, true, "rate_limit_error", "rate_limit_exceeded",
		"rate_limit_error" },
	{ CODE_PAYLOAD_TOO_LARGE, "PAYLOAD_TOO_LARGE", 413, 413, false, "invalid_request_error", NULL,
		"request_too_large" },
	{ CODE_POOL_UNREADY, "POOL_UNREADY", 503, 503, true, "server_error", NULL, "api_error" },
	{ CODE_POOL_UNAVAILABLE, "POOL_UNAVAILABLE", 503, 503, false, "server_error", NULL, "api_error" },
	{ CODE_NO_CAPACITY, "NO_CAPACITY", 503, 503, false, "server_error", NULL, "api_error" },
	{ CODE_ENGINE_FAILED, "ENGINE_FAILED", 502, 502, true, "server_error", NULL, "api_error" },
	{ CODE_DECODE_TIMEOUT, "DECODE_TIMEOUT", 504, 504, false, "server_error", NULL, "timeout_error" },
	{ CODE_WORKER_RESET, "WORKER_RESET", 502, 502, true, "server_error", NULL, "api_error" },
	{ CODE_MODEL_RETIRED, "MODEL_RETIRED", 410, 410, false, "invalid_request_error", "model_not_found",
		"not_found_error" },
	{ CODE_UNTRUSTED_ARTIFACT, "UNTRUSTED_ARTIFACT", 422, 422, false, "invalid_request_error", NULL,
		"invalid_request_error" },
	{ CODE_DIGEST_MISMATCH, "DIGEST_MISMATCH", 422, 422, false, "invalid_request_error", NULL,
		"invalid_request_error" },
	{ CODE_CONFLICT, "CONFLICT", 409, 409, false, "invalid_request_error", NULL,
		"invalid_request_error" },
	{ CODE_CANCELLED, "CANCELLED", 499, 499, false, "invalid_request_error", NULL, "api_error" },
	{ CODE_INTERNAL, "INTERNAL", 500, 500, false, "server_error", NULL, "api_error" },
};

static struct api_error error_of(const struct row *r)
{
	return (struct api_error){ .code = r->code,
		.retriable = -1,
		.message = VIEW("It\n\"says\"."),
		.hint = VIEW("Do this."),
		.pool_id = VIEW("chat"),
		.request_id = VIEW("r-1"),
		.model = VIEW("m"),
		.created_s = 1700000000 };
}

static void expect(const struct row *r, const char *what, yyjson_val *v, const char *want)
{
	const char *got = yyjson_get_str(v);
	if (want ? !got || strcmp(got, want) != 0 : !yyjson_is_null(v))
		fail_msg("%s: %s is %s, not %s", r->name, what, got ? got : "no text", want ? want : "null");
}

static yyjson_doc *parse(const struct row *r, struct view json)
{
	AUTO(mem_freep) char *text = mem_viewdup(json);
	yyjson_doc *d = yyjson_read(text, json.n, 0);
	if (!d)
		fail_msg("%s: no JSON: %.*s", r->name, VIEW_ARG(json));
	return d;
}

static void check_corral(const struct row *r, yyjson_val *c)
{
	expect(r, "corral.code", yyjson_obj_get(c, "code"), r->name);
	expect(r, "corral.pool_id", yyjson_obj_get(c, "pool_id"), "chat");
	expect(r, "corral.hint", yyjson_obj_get(c, "hint"), "Do this.");
	expect(r, "corral.request_id", yyjson_obj_get(c, "request_id"), "r-1");
	assert_int_equal(yyjson_get_bool(yyjson_obj_get(c, "retriable")), r->retriable);
	assert_int_equal(yyjson_is_uint(yyjson_obj_get(c, "retry_after_ms")), r->retriable);
}

static void check_body(const struct row *r, enum dialect d, struct view json)
{
	yyjson_doc *doc = parse(r, json);
	yyjson_val *root = yyjson_doc_get_root(doc), *e = yyjson_obj_get(root, "error");
	switch (d) {
	case DIALECT_OLLAMA: expect(r, "error", e, "It\n\"says\". Do this."); break;
	case DIALECT_ANTHROPIC:
		expect(r, "type", yyjson_obj_get(root, "type"), "error");
		expect(r, "request_id", yyjson_obj_get(root, "request_id"), "r-1");
		expect(r, "error.type", yyjson_obj_get(e, "type"), r->anthropic_type);
		expect(r, "error.message", yyjson_obj_get(e, "message"), "It\n\"says\". Do this.");
		assert_int_equal(yyjson_obj_size(root) + yyjson_obj_size(e), 3 + 2);
		break;
	default:
		expect(r, "error.message", yyjson_obj_get(e, "message"), "It\n\"says\".");
		expect(r, "error.type", yyjson_obj_get(e, "type"), r->type);
		expect(r, "error.code", yyjson_obj_get(e, "code"), r->openai_code);
		expect(r, "error.param", yyjson_obj_get(e, "param"),
			r->openai_code && strcmp(r->openai_code, "model_not_found") == 0 ? "model" : NULL);
		check_corral(r, yyjson_obj_get(e, "corral"));
	}
	yyjson_doc_free(doc);
}

static void every_error_as_a_status(void **state)
{
	(void)state;
	assert_int_equal(ARRAY_LEN(rows), CODE_COUNT - 1);
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		const struct row *r = &rows[i];
		struct api_error e = error_of(r);
		for (enum dialect d = DIALECT_OPENAI; d <= DIALECT_NATIVE; d++) {
			AUTO(buf_done) struct buf b = BUF(64 * KIB), h = BUF(4 * KIB);
			int status = d == DIALECT_ANTHROPIC ? r->anthropic_status : r->status;
			bool told = status == 401 || status == 403 || status == 409 || status == 429 ||
				    status >= 500;
			assert_int_equal(api_error_status(d, &e), status);
			assert_int_equal(api_error_body(d, &e, &b), 0);
			check_body(r, d, buf_view(&b));
			assert_int_equal(api_error_headers(d, &e, &h), 0);
			assert_string_equal(h.len ? buf_str(&h) : "",
				!told          ? ""
				: r->retriable ? "x-should-retry: true\r\nRetry-After: "
						 "1\r\nretry-after-ms: 1000\r\n"
					       : "x-should-retry: false\r\n");
		}
	}
}

/* The whole event in b, the last one of a stream; its data. */
static struct view event_of(const struct row *r, struct view v, const char *name)
{
	AUTO(mem_freep) char *begins = name ? mem_fmt("event: %s\ndata: {", name) : mem_strdup("data: {");
	if (!view_starts(v, view_str(begins)) || !view_ends(v, VIEW("}\n\n")))
		fail_msg("%s: not an event %s: %.*s", r->name, name ? name : "", VIEW_ARG(v));
	struct event_split s;
	event_split_init(&s, EVENTS_SSE);
	assert_int_equal(event_split_feed(&s, v), v.n);
	assert_true(s.terminal && s.events == 1);
	v = view_from(v, strlen(begins) - 1);
	return view_cut(v, v.n - 2);
}

static void every_error_in_a_stream(void **state)
{
	(void)state;
	static const struct route kinds[] = { { .kind = ROUTE_CHAT, .dialect = DIALECT_OPENAI },
		{ .kind = ROUTE_COMPLETIONS, .dialect = DIALECT_OPENAI },
		{ .kind = ROUTE_COMPLETION, .dialect = DIALECT_NATIVE },
		{ .kind = ROUTE_MESSAGES, .dialect = DIALECT_ANTHROPIC } };
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct api_error e = error_of(&rows[i]);
		for (size_t k = 0; k < ARRAY_LEN(kinds); k++) {
			AUTO(buf_done) struct buf b = BUF(64 * KIB);
			bool named = kinds[k].dialect == DIALECT_ANTHROPIC;
			assert_int_equal(api_error_event(&kinds[k], &e, &b), 0);
			check_body(&rows[i], kinds[k].dialect,
				event_of(&rows[i], buf_view(&b), named ? "error" : NULL));
		}
		AUTO(buf_done) struct buf line = BUF(64 * KIB);
		struct route ollama = { .kind = ROUTE_CHAT, .dialect = DIALECT_OLLAMA };
		assert_int_equal(api_error_event(&ollama, &e, &line), 0);
		assert_true(view_ends(buf_view(&line), VIEW("}\n")));
		assert_null(memchr(line.data, '\n', line.len - 1));
		check_body(&rows[i], DIALECT_OLLAMA, view_cut(buf_view(&line), line.len - 1));
	}
}

static void check_response(const struct row *r, yyjson_val *root, const char *type, const char *status)
{
	/* what the official client's type has without a question mark */
	static const char *const members[] = { "id", "object", "created_at", "error", "incomplete_details",
		"instructions", "metadata", "model", "output", "parallel_tool_calls", "temperature",
		"tool_choice", "tools", "top_p", "status", "usage" };
	yyjson_val *p = yyjson_obj_get(root, "response");
	expect(r, "type", yyjson_obj_get(root, "type"), type);
	expect(r, "status", yyjson_obj_get(p, "status"), status);
	expect(r, "id", yyjson_obj_get(p, "id"), "resp_r-1");
	expect(r, "model", yyjson_obj_get(p, "model"), "m");
	for (size_t i = 0; i < ARRAY_LEN(members); i++)
		if (!yyjson_obj_get(p, members[i]))
			fail_msg("%s: the response has no %s", r->name, members[i]);
}

static void every_error_of_a_response(void **state)
{
	(void)state;
	struct route route = { .kind = ROUTE_RESPONSES, .dialect = DIALECT_OPENAI };
	for (size_t i = 0; i < ARRAY_LEN(rows) * 2; i++) {
		const struct row *r = &rows[i / 2];
		struct api_error e = error_of(r);
		AUTO(buf_done) struct buf b = BUF(64 * KIB);
		e.sequence = i % 2 ? 17 : 0;
		assert_int_equal(api_error_event(&route, &e, &b), 0);
		struct view v = buf_view(&b);
		if (!e.sequence) { /* no event came before: the client waits for this one */
			ssize_t end = view_search(v, VIEW("\n\n"));
			assert_true(end > 0);
			struct view created = VIEW("event: response.created\ndata: ");
			assert_true(view_starts(v, created));
			yyjson_doc *d = parse(r, view_from(view_cut(v, (size_t)end), created.n));
			check_response(r, yyjson_doc_get_root(d), "response.created", "in_progress");
			assert_int_equal(
				yyjson_get_int(yyjson_obj_get(yyjson_doc_get_root(d), "sequence_number")), 0);
			yyjson_doc_free(d);
			v = view_from(v, (size_t)end + 2);
		}
		yyjson_doc *d = parse(r, event_of(r, v, "response.failed"));
		yyjson_val *root = yyjson_doc_get_root(d), *p = yyjson_obj_get(root, "response"),
			   *error = yyjson_obj_get(p, "error");
		check_response(r, root, "response.failed", "failed");
		assert_int_equal(
			yyjson_get_int(yyjson_obj_get(root, "sequence_number")), e.sequence ? 17 : 1);
		expect(r, "error.message", yyjson_obj_get(error, "message"), "It\n\"says\".");
		expect(r, "error.code", yyjson_obj_get(error, "code"),
			r->openai_code    ? r->openai_code
			: r->status < 500 ? "invalid_prompt"
					  : "server_error");
		check_corral(r, yyjson_obj_get(p, "corral"));
		yyjson_doc_free(d);
	}
}

/* A status that was set by hand goes before the code's own. */
static void statuses_set_by_hand(void **state)
{
	(void)state;
	static const struct {
		enum corral_code code;
		int status;
		const char *openai, *anthropic;
	} cases[] = {
		{ CODE_INVALID_PARAMS, 404, "invalid_request_error", "not_found_error" },
		{ CODE_INVALID_PARAMS, 405, "invalid_request_error", "invalid_request_error" },
		{ CODE_INVALID_PARAMS, 408, "invalid_request_error", "invalid_request_error" },
		{ CODE_INVALID_PARAMS, 415, "invalid_request_error", "invalid_request_error" },
		{ CODE_INVALID_PARAMS, 421, "invalid_request_error", "invalid_request_error" },
		{ CODE_INVALID_PARAMS, 431, "invalid_request_error", "invalid_request_error" },
		{ CODE_DEADLINE_UNMET, 504, "server_error", "timeout_error" },
		{ CODE_ENGINE_FAILED, 500, "server_error", "api_error" },
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct api_error e = { .code = cases[i].code, .status = cases[i].status, .retriable = -1 };
		struct row r = { .name = corral_code_name(e.code) };
		for (int k = 0; k < 2; k++) {
			enum dialect d = k ? DIALECT_ANTHROPIC : DIALECT_OPENAI;
			AUTO(buf_done) struct buf b = BUF(64 * KIB);
			assert_int_equal(api_error_status(d, &e), cases[i].status);
			assert_int_equal(api_error_body(d, &e, &b), 0);
			yyjson_doc *doc = parse(&r, buf_view(&b));
			expect(&r, "type",
				yyjson_obj_get(yyjson_obj_get(yyjson_doc_get_root(doc), "error"), "type"),
				k ? cases[i].anthropic : cases[i].openai);
			yyjson_doc_free(doc);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_error_as_a_status),
		cmocka_unit_test(every_error_in_a_stream),
		cmocka_unit_test(every_error_of_a_response),
		cmocka_unit_test(statuses_set_by_hand),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
