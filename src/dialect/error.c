/* SPDX-License-Identifier: Apache-2.0
 *
 * One error, in the words of each dialect.
 */
#include <stdio.h>

#include "dialect/dialect.h"

/* openai_code NULL: OpenAI has no word for it and `code` is null. */
static const struct code_row {
	const char *name;
	int status;
	bool retriable;
	const char *openai_type, *openai_code, *anthropic_type;
} codes[] = {
	[CODE_NONE] = { "NONE", 500, false, "server_error", NULL, "api_error" },
	[CODE_INVALID_PARAMS] = { "INVALID_PARAMS", 400, false, "invalid_request_error", NULL,
		"invalid_request_error" },
	[CODE_MODEL_NOT_FOUND] = { "MODEL_NOT_FOUND", 404, false, "invalid_request_error", "model_not_found",
		"not_found_error" },
	[CODE_CONTEXT_EXCEEDED] = { "CONTEXT_EXCEEDED", 400, false, "invalid_request_error",
		"context_length_exceeded", "invalid_request_error" },
	[CODE_DEADLINE_UNMET] = { "DEADLINE_UNMET", 400, false, "invalid_request_error", NULL,
		"invalid_request_error" },
	[CODE_UNAUTHENTICATED] = { "UNAUTHENTICATED", 401, false, "invalid_request_error", "invalid_api_key",
		"authentication_error" },
	[CODE_FORBIDDEN] = { "FORBIDDEN", 403, false, "permission_error", NULL, "permission_error" },
	[CODE_ADMISSION_REJECT] = { "ADMISSION_REJECT", 429, true, "rate_limit_error", "rate_limit_exceeded",
		"overloaded_error" },
	[CODE_QUEUE_FULL_DROP_LRU] = { "QUEUE_FULL_DROP_LRU", 429, true, "rate_limit_error",
		"rate_limit_exceeded", "overloaded_error" },
	[CODE_QUOTA_EXCEEDED] = { "QUOTA_EXCEEDED", 429, true, "rate_limit_error", "rate_limit_exceeded",
		"rate_limit_error" },
	[CODE_PAYLOAD_TOO_LARGE] = { "PAYLOAD_TOO_LARGE", 413, false, "invalid_request_error", NULL,
		"request_too_large" },
	[CODE_POOL_UNREADY] = { "POOL_UNREADY", 503, true, "server_error", NULL, "api_error" },
	[CODE_POOL_UNAVAILABLE] = { "POOL_UNAVAILABLE", 503, false, "server_error", NULL, "api_error" },
	[CODE_NO_CAPACITY] = { "NO_CAPACITY", 503, false, "server_error", NULL, "api_error" },
	[CODE_ENGINE_FAILED] = { "ENGINE_FAILED", 502, true, "server_error", NULL, "api_error" },
	[CODE_DECODE_TIMEOUT] = { "DECODE_TIMEOUT", 504, false, "server_error", NULL, "timeout_error" },
	[CODE_WORKER_RESET] = { "WORKER_RESET", 502, true, "server_error", NULL, "api_error" },
	[CODE_MODEL_RETIRED] = { "MODEL_RETIRED", 410, false, "invalid_request_error", "model_not_found",
		"not_found_error" },
	[CODE_UNTRUSTED_ARTIFACT] = { "UNTRUSTED_ARTIFACT", 422, false, "invalid_request_error", NULL,
		"invalid_request_error" },
	[CODE_DIGEST_MISMATCH] = { "DIGEST_MISMATCH", 422, false, "invalid_request_error", NULL,
		"invalid_request_error" },
	[CODE_CONFLICT] = { "CONFLICT", 409, false, "invalid_request_error", NULL, "invalid_request_error" },
	[CODE_CANCELLED] = { "CANCELLED", 499, false, "invalid_request_error", NULL, "api_error" },
	[CODE_INTERNAL] = { "INTERNAL", 500, false, "server_error", NULL, "api_error" },
};
static_assert(ARRAY_LEN(codes) == CODE_COUNT, "one row a code");

const char *corral_code_name(enum corral_code c)
{
	return codes[c].name;
}

int corral_code_status(enum corral_code c)
{
	return codes[c].status;
}

bool corral_code_retriable(enum corral_code c)
{
	return codes[c].retriable;
}

static bool retriable(const struct api_error *e)
{
	return e->retriable < 0 ? codes[e->code].retriable : e->retriable != 0;
}

static bool is_told_to_retry(int status)
{
	return status == 401 || status == 403 || status == 409 || status == 429 || status >= 500;
}

enum { RETRY_AFTER_MS = 1000 }; /* where nobody knows better */

static int64_t retry_after_ms(const struct api_error *e)
{
	if (e->retry_after_ms > 0 || !retriable(e))
		return e->retry_after_ms;
	return is_told_to_retry(e->status ? e->status : codes[e->code].status) ? RETRY_AFTER_MS : 0;
}

int api_error_status(enum dialect d, const struct api_error *e)
{
	if (e->status)
		return e->status;
	bool full = e->code == CODE_ADMISSION_REJECT || e->code == CODE_QUEUE_FULL_DROP_LRU;
	return d == DIALECT_ANTHROPIC && full ? 529 : codes[e->code].status;
}

/* Types of a status that was set by hand; they go before the code's own. */
static const char *anthropic_type(const struct api_error *e)
{
	switch (e->status) {
	case 404: return "not_found_error";
	case 413: return "request_too_large";
	case 504: return "timeout_error";
	default: return codes[e->code].anthropic_type;
	}
}

static const char *openai_type(const struct api_error *e)
{
	return e->status >= 500 ? "server_error" : codes[e->code].openai_type;
}

enum { MESSAGE_MAX = 16 * 1024 };

/* The sentence as this dialect's clients know it; with_hint where there is no field for the hint. */
static int add_message(enum dialect d, const struct api_error *e, bool with_hint, struct buf *b)
{
	AUTO(buf_done) struct buf m = BUF(MESSAGE_MAX);
	bool overflow = e->code == CODE_CONTEXT_EXCEEDED && e->n_ctx && e->n_prompt_tokens;
	unsigned long long prompt = e->n_prompt_tokens, ctx = e->n_ctx;
	int r = 0;
	if (overflow && d == DIALECT_ANTHROPIC)
		r = buf_addf(&m, "prompt is too long: %llu tokens > %llu maximum. ", prompt, ctx);
	if (!r && e->message.n)
		r = buf_addv(&m, view_cut(e->message, MESSAGE_MAX / 2));
	else if (!r && overflow)
		r = buf_addf(&m,
			"This model's maximum context length is %llu tokens; the request has %llu "
			"(exceeds the available context size).",
			ctx, prompt);
	else if (!r)
		r = buf_addf(&m, "The request failed (%s).", codes[e->code].name);
	if (!r && with_hint && e->hint.n) {
		r = buf_addc(&m, ' ');
		if (!r)
			r = buf_addv(&m, view_cut(e->hint, MESSAGE_MAX / 4));
	}
	return r ? r : buf_add_json(b, buf_view(&m));
}

/* "key": with a string, or null when it is empty; lead is what stands before the key. */
static int add_text(struct buf *b, const char *lead, struct view v)
{
	int r = buf_adds(b, lead);
	if (r)
		return r;
	return v.n ? buf_add_json(b, v) : buf_adds(b, "null");
}

static int add_corral(const struct api_error *e, struct buf *b)
{
	int64_t after = retry_after_ms(e);
	int r = buf_addf(b,
		"\"corral\":{\"code\":\"%s\",\"retriable\":%s,\"retry_after_ms\":", codes[e->code].name,
		retriable(e) ? "true" : "false");
	if (!r)
		r = after > 0 ? buf_addf(b, "%lld", (long long)after) : buf_adds(b, "null");
	if (!r)
		r = add_text(b, ",\"pool_id\":", e->pool_id);
	if (!r)
		r = add_text(b, ",\"hint\":", e->hint);
	if (!r)
		r = add_text(b, ",\"request_id\":", e->request_id);
	return r ? r : buf_addc(b, '}');
}

static struct view openai_code(const struct api_error *e)
{
	return view_str(codes[e->code].openai_code);
}

static int add_openai(enum dialect d, const struct api_error *e, struct buf *b)
{
	int r = buf_adds(b, "{\"error\":{\"message\":");
	if (!r)
		r = add_message(d, e, false, b);
	if (!r)
		r = buf_addf(b, ",\"type\":\"%s\"", openai_type(e));
	struct view param = e->param;
	if (!param.n && (e->code == CODE_MODEL_NOT_FOUND || e->code == CODE_MODEL_RETIRED))
		param = VIEW("model");
	if (!r)
		r = add_text(b, ",\"param\":", param);
	if (!r)
		r = add_text(b, ",\"code\":", openai_code(e));
	if (!r && e->code == CODE_CONTEXT_EXCEEDED && e->n_prompt_tokens)
		r = buf_addf(b, ",\"n_prompt_tokens\":%llu", (unsigned long long)e->n_prompt_tokens);
	if (!r && e->code == CODE_CONTEXT_EXCEEDED && e->n_ctx)
		r = buf_addf(b, ",\"n_ctx\":%llu", (unsigned long long)e->n_ctx);
	if (!r && e->more.n)
		r = buf_addf(b, ",%.*s", VIEW_ARG(e->more));
	if (!r)
		r = buf_addc(b, ',');
	if (!r)
		r = add_corral(e, b);
	return r ? r : buf_adds(b, "}}");
}

static int add_anthropic(const struct api_error *e, struct buf *b)
{
	int r = buf_addf(b, "{\"type\":\"error\",\"error\":{\"type\":\"%s\",\"message\":", anthropic_type(e));
	if (!r)
		r = add_message(DIALECT_ANTHROPIC, e, true, b);
	if (!r)
		r = add_text(b, "},\"request_id\":", e->request_id);
	return r ? r : buf_addc(b, '}');
}

static int add_ollama(const struct api_error *e, struct buf *b)
{
	int r = buf_adds(b, "{\"error\":");
	if (!r)
		r = add_message(DIALECT_OLLAMA, e, true, b);
	return r ? r : buf_addc(b, '}');
}

/* Takes back what was appended after from when r says it did not fit. */
static int whole_or_nothing(struct buf *b, size_t from, int r)
{
	if (r && b->data) {
		b->len = from;
		b->data[from] = '\0';
	}
	return r;
}

static int add_body(enum dialect d, const struct api_error *e, struct buf *b)
{
	switch (d) {
	case DIALECT_ANTHROPIC: return add_anthropic(e, b);
	case DIALECT_OLLAMA: return add_ollama(e, b);
	case DIALECT_OPENAI:
	case DIALECT_NATIVE: break;
	}
	return add_openai(d, e, b);
}

int api_error_body(enum dialect d, const struct api_error *e, struct buf *b)
{
	size_t from = b->len;
	return whole_or_nothing(b, from, add_body(d, e, b));
}

int api_error_headers(enum dialect d, const struct api_error *e, struct buf *b)
{
	int status = api_error_status(d, e);
	if (!is_told_to_retry(status))
		return 0;
	size_t from = b->len;
	int64_t after = retry_after_ms(e);
	int r = buf_addf(b, "x-should-retry: %s\r\n", retriable(e) ? "true" : "false");
	if (!r && after > 0)
		r = buf_addf(b, "Retry-After: %lld\r\nretry-after-ms: %lld\r\n",
			(long long)(after / 1000 + (after % 1000 != 0)), (long long)after);
	return whole_or_nothing(b, from, r);
}

static void add_id(struct buf *b, struct view name, struct view id)
{
	(void)buf_addv(b, name);
	(void)buf_addv(b, id);
	(void)buf_addv(b, VIEW("\r\n"));
}

void api_request_id_headers(enum dialect d, struct view id, struct buf *b)
{
	add_id(b, VIEW("X-Request-Id: "), id);
	if (d == DIALECT_ANTHROPIC)
		add_id(b, VIEW("Request-Id: "), id);
}

/* A response as the Responses API has it, with all the members its official client's type names. */
static int add_response(const struct api_error *e, const char *status, struct buf *b)
{
	int r = buf_adds(b, "\"response\":{\"id\":\"resp_");
	for (size_t i = 0; !r && i < e->request_id.n; i++)
		if (e->request_id.p[i] > ' ' && e->request_id.p[i] != '"' && e->request_id.p[i] != '\\')
			r = buf_addc(b, e->request_id.p[i]);
	if (!r)
		r = buf_addf(b, "\",\"object\":\"response\",\"created_at\":%lld,\"status\":\"%s\",\"model\":",
			(long long)e->created_s, status);
	if (!r)
		r = buf_add_json(b, e->model);
	return r ? r
		 : buf_adds(b, ",\"output\":[],\"instructions\":null,\"metadata\":{},"
			       "\"incomplete_details\":null,\"parallel_tool_calls\":true,"
			       "\"temperature\":null,\"tool_choice\":\"auto\",\"tools\":[],\"top_p\":null,"
			       "\"usage\":null,\"error\":");
}

/* One of the words of the Responses API where it has one; and context_length_exceeded, by which agents know
 * that they must compact. */
static const char *response_code(const struct api_error *e)
{
	if (codes[e->code].openai_code)
		return codes[e->code].openai_code;
	return api_error_status(DIALECT_OPENAI, e) < 500 ? "invalid_prompt" : "server_error";
}

/* The Responses API ends a failed stream with the response itself, failed. A client that was told of none
 * before takes no other event first. */
static int add_response_failed(const struct api_error *e, struct buf *b)
{
	int r = 0;
	if (!e->sequence) {
		r = buf_adds(b, "event: response.created\ndata: {\"type\":\"response.created\","
				"\"sequence_number\":0,");
		if (!r)
			r = add_response(e, "in_progress", b);
		if (!r)
			r = buf_adds(b, "null}}\n\n");
	}
	if (!r)
		r = buf_addf(b,
			"event: response.failed\ndata: "
			"{\"type\":\"response.failed\",\"sequence_number\":%llu,",
			(unsigned long long)(e->sequence ? e->sequence : 1));
	if (!r)
		r = add_response(e, "failed", b);
	if (!r)
		r = buf_addf(b, "{\"code\":\"%s\",\"message\":", response_code(e));
	if (!r)
		r = add_message(DIALECT_OPENAI, e, false, b);
	if (!r)
		r = buf_adds(b, "},");
	if (!r)
		r = add_corral(e, b);
	return r ? r : buf_adds(b, "}}\n\n");
}

int api_error_event(const struct route *rt, const struct api_error *e, struct buf *b)
{
	size_t from = b->len;
	int r;
	if (rt->kind == ROUTE_RESPONSES)
		return whole_or_nothing(b, from, add_response_failed(e, b));
	bool line = rt->dialect == DIALECT_OLLAMA;
	r = buf_adds(b, line ? "" : rt->dialect == DIALECT_ANTHROPIC ? "event: error\ndata: " : "data: ");
	if (!r)
		r = add_body(rt->dialect, e, b);
	if (!r)
		r = buf_adds(b, line ? "\n" : "\n\n");
	return whole_or_nothing(b, from, r);
}
