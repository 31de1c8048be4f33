/* SPDX-License-Identifier: Apache-2.0
 *
 * What an engine's own error becomes for the client: an overflow in the words that agents know, the
 * envelope of /v1/messages where the engine has another, an event of the stream where one began, the
 * headers that tell whether to ask again. All else of it passes as it is.
 */
#include <stdio.h>
#include <string.h>

#include <yyjson.h>

#include "proxy/proxy_int.h"

static enum corral_code code_of(int status)
{
	switch (status) {
	case 401: return CODE_UNAUTHENTICATED;
	case 403: return CODE_FORBIDDEN;
	case 404: return CODE_MODEL_NOT_FOUND;
	case 413: return CODE_PAYLOAD_TOO_LARGE;
	case 429: return CODE_ADMISSION_REJECT;
	default: return status >= 500 ? CODE_ENGINE_FAILED : CODE_INVALID_PARAMS;
	}
}

static struct api_error error_of(int status)
{
	int again = status == 429 || (status >= 500 && status != 501) ? 1 : 0;
	return (struct api_error){ .code = code_of(status), .status = status, .retriable = again };
}

void failure_headers(const struct request *q, const struct http_headers *h, struct buf *b)
{
	if (http_header_get(h, "x-should-retry").p)
		return;
	struct api_error e = error_of(q->status);
	if (http_header_get(h, "retry-after").p || http_header_get(h, "retry-after-ms").p) {
		if (e.retriable)
			(void)http_header_add(b, "x-should-retry", VIEW("true"));
		return;
	}
	(void)api_error_headers(q->route.dialect, &e, b);
}

/* What an engine's error says, in any of the shapes that are about. */
static struct view error_words(yyjson_val *root)
{
	static const char *const names[] = { "error", "message", "detail" };
	yyjson_val *e = yyjson_obj_get(root, "error");
	if (yyjson_is_obj(e))
		root = e;
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		yyjson_val *v = yyjson_obj_get(root, names[i]);
		if (yyjson_is_str(v) && yyjson_get_len(v))
			return view_of(yyjson_get_str(v), yyjson_get_len(v));
	}
	return (struct view){ 0 };
}

/* The engine has answered, whatever it was. */
static void answered(struct request *q, const struct api_error *e)
{
	if (q->status < 500 || q->status == 501)
		lease_spoke(&q->lease, true);
	request_drop_lease(q, false);
	request_fail(q, e);
}

/* llama-server's own words for an overflow are put into those that agents know (contract.md, 5). */
static bool context_exceeded(struct request *q, yyjson_val *root)
{
	yyjson_val *e = yyjson_obj_get(root, "error");
	const char *type = yyjson_get_str(yyjson_obj_get(e, "type"));
	uint64_t prompt = yyjson_get_uint(yyjson_obj_get(e, "n_prompt_tokens"));
	uint64_t ctx = yyjson_get_uint(yyjson_obj_get(e, "n_ctx"));
	if (!type || strcmp(type, "exceed_context_size_error") != 0 || !ctx)
		return false;
	char text[256];
	int n = snprintf(text, sizeof text,
		"This model's maximum context length is %llu tokens; the request has %llu (exceeds the "
		"available context size).",
		(unsigned long long)ctx, (unsigned long long)prompt);
	struct api_error err = { .code = CODE_CONTEXT_EXCEEDED,
		.retriable = 0,
		.message = view_of(text, (size_t)n),
		.n_prompt_tokens = prompt,
		.n_ctx = ctx,
		.hint = VIEW("Shorten the conversation, or raise ctx of the pool.") };
	answered(q, &err);
	return true;
}

/* Of an envelope that the client cannot read. */
static bool is_foreign(const struct request *q, yyjson_val *root)
{
	if (q->route.dialect != DIALECT_ANTHROPIC || !error_words(root).n)
		return false;
	const char *type = yyjson_get_str(yyjson_obj_get(root, "type"));
	return !type || strcmp(type, "error") != 0;
}

bool failure_translated(struct request *q)
{
	yyjson_doc *d = q->hold.len ? yyjson_read(q->hold.data, q->hold.len, 0) : NULL;
	yyjson_val *root = yyjson_doc_get_root(d);
	bool done = q->status < 500 && context_exceeded(q, root);
	if (!done && (q->told || is_foreign(q, root))) {
		struct view words = error_words(root);
		char status[64];
		int n = snprintf(status, sizeof status, "The engine answered with status %d.", q->status);
		struct api_error e = error_of(q->status);
		e.message = words.n ? words : view_of(status, (size_t)n);
		answered(q, &e);
		done = true;
	}
	yyjson_doc_free(d);
	return done;
}
