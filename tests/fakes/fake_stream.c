/* SPDX-License-Identifier: Apache-2.0
 *
 * Generated answers: the same tokens ("tok0 tok1 ...") in the shape of each dialect, streamed or whole.
 */
#include <stdio.h>
#include <sys/socket.h>

#include "fake_engine.h"

#define JSON "application/json; charset=utf-8"
#define CHUNK "\"created\":1700000000,\"id\":\"chatcmpl-fake\",\"model\":"
#define CHAT_CHUNK CHUNK "%s,\"object\":\"chat.completion.chunk\""

struct gen {
	struct resp r;
	const struct request *q;
	const struct behave *b;
	enum dialect d;
	int64_t n, n_prompt, sent;
	bool stream, want_usage;
	const char *finish;
	char model[512]; /* as JSON */
	struct buf event;
	int slot;
};

int64_t prompt_tokens(const struct request *q, const struct behave *b)
{
	static const char *const keys[] = { "messages", "prompt", "input", "content", "query",
		"input_prefix" };
	if (b->prompt_tokens >= 0)
		return b->prompt_tokens;
	for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
		struct view v = json_get(q->body, keys[i]);
		if (v.p)
			return (int64_t)v.n;
	}
	return 1;
}

static void token_text(const struct gen *g, int64_t i, char *out, size_t cap)
{
	int n = snprintf(out, cap, "tok%lld", (long long)i);
	size_t want = g->b->token_bytes > 0 ? (size_t)g->b->token_bytes : (size_t)n + 1, at = (size_t)n;
	while (at + 1 < want && at + 2 < cap)
		out[at++] = '.';
	out[at++] = ' ';
	out[at] = '\0';
}

static void whole_text(const struct gen *g, struct buf *out)
{
	char text[8192];
	for (int64_t i = 0; i < g->n; i++) {
		token_text(g, i, text, sizeof text);
		buf_adds(out, text);
	}
}

/* One event: built in g->event, sent as one HTTP chunk. */
static int event_send(struct gen *g, int mid)
{
	struct view v = buf_view(&g->event);
	int e = 0;
	if (mid <= AT_MID && fault_is_at(g->b, mid)) {
		e = resp_body(&g->r, view_cut(v, v.n / 2)) < 0 || resp_fault(&g->r, mid) < 0 ? -1 : 0;
		v = view_from(v, v.n / 2);
	}
	e = e < 0 || resp_body(&g->r, v) < 0 || resp_flush(&g->r) < 0 ? -1 : 0;
	buf_reset(&g->event);
	return e;
}

static void usage_add(struct gen *g, struct buf *o, const char *in, const char *out, bool total)
{
	buf_addf(o, "\"usage\":{\"%s\":%lld,\"%s\":%lld", out, (long long)g->n, in, (long long)g->n_prompt);
	if (total)
		buf_addf(o, ",\"total_tokens\":%lld", (long long)(g->n + g->n_prompt));
	buf_adds(o, "}");
}

static const char *stop_reason(const struct gen *g)
{
	return strcmp(g->finish, "stop") == 0     ? "end_turn"
	       : strcmp(g->finish, "length") == 0 ? "max_tokens"
						  : g->finish;
}

static int stream_open(struct gen *g)
{
	struct buf *o = &g->event;
	if (g->d == CHAT)
		buf_addf(o,
			"data: "
			"{\"choices\":[{\"finish_reason\":null,\"index\":0,\"delta\":{\"role\":\"assistant\","
			"\"content\":null}}]," CHAT_CHUNK "}\n\n",
			g->model);
	if (g->d == MESSAGES)
		buf_addf(o,
			"event: message_start\ndata: "
			"{\"type\":\"message_start\",\"message\":{\"id\":\"chatcmpl-fake\","
			"\"type\":\"message\",\"role\":\"assistant\",\"content\":[],\"model\":%s,\"stop_"
			"reason\":null,"
			"\"stop_sequence\":null,\"usage\":{\"cache_read_input_tokens\":0,\"input_tokens\":%"
			"lld,"
			"\"output_tokens\":0}}}\n\nevent: content_block_start\ndata: "
			"{\"type\":\"content_block_start\","
			"\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n",
			g->model, (long long)g->n_prompt);
	for (int i = 0; g->d == RESPONSES && i < 2; i++)
		buf_addf(o,
			"event: response.%s\ndata: "
			"{\"type\":\"response.%s\",\"response\":{\"id\":\"resp_fake\","
			"\"object\":\"response\",\"status\":\"in_progress\"}}\n\n",
			i ? "in_progress" : "created", i ? "in_progress" : "created");
	if (g->d == RESPONSES)
		buf_adds(o, "event: response.output_item.added\ndata: "
			    "{\"type\":\"response.output_item.added\",\"item\":"
			    "{\"content\":[],\"id\":\"msg_fake\",\"role\":\"assistant\",\"status\":\"in_"
			    "progress\","
			    "\"type\":\"message\"}}\n\nevent: response.content_part.added\ndata: {\"type\":"
			    "\"response.content_part.added\",\"item_id\":\"msg_fake\",\"part\":{\"type\":"
			    "\"output_text\","
			    "\"text\":\"\"}}\n\n");
	return g->event.len ? event_send(g, 0) : 0;
}

static int stream_token(struct gen *g, int64_t i)
{
	struct buf *o = &g->event;
	char t[8192];
	token_text(g, i, t, sizeof t);
	switch (g->d) {
	case CHAT:
		buf_addf(o,
			"data: "
			"{\"choices\":[{\"finish_reason\":null,\"index\":0,\"delta\":{\"content\":\"%s\"}}]"
			"," CHAT_CHUNK "}\n\n",
			t, g->model);
		break;
	case COMPLETIONS:
		buf_addf(o,
			"data: "
			"{\"choices\":[{\"text\":\"%s\",\"index\":0,\"logprobs\":null,\"finish_reason\":null}"
			"]," CHUNK "%s,\"object\":\"text_completion\"}\n\n",
			t, g->model);
		break;
	case NATIVE:
		buf_addf(o,
			"data: "
			"{\"index\":0,\"content\":\"%s\",\"tokens\":[%lld],\"stop\":false,\"id_slot\":-1,"
			"\"tokens_predicted\":%lld,\"tokens_evaluated\":%lld}\n\n",
			t, (long long)i, (long long)i + 1, (long long)g->n_prompt);
		break;
	case MESSAGES:
		buf_addf(o,
			"event: content_block_delta\ndata: "
			"{\"type\":\"content_block_delta\",\"index\":0,\"delta\":"
			"{\"type\":\"text_delta\",\"text\":\"%s\"}}\n\n",
			t);
		break;
	case RESPONSES:
		buf_addf(o,
			"event: response.output_text.delta\ndata: "
			"{\"type\":\"response.output_text.delta\",\"item_id\":"
			"\"msg_fake\",\"delta\":\"%s\"}\n\n",
			t);
		break;
	}
	return event_send(g, AT_MID - (int)i);
}

static void responses_item(struct gen *g, struct buf *o)
{
	buf_adds(o,
		"{\"type\":\"message\",\"status\":\"completed\",\"id\":\"msg_fake\",\"content\":[{\"type\":"
		"\"output_text\",\"annotations\":[],\"logprobs\":[],\"text\":\"");
	whole_text(g, o);
	buf_adds(o, "\"}],\"role\":\"assistant\"}");
}

static void responses_object(struct gen *g, struct buf *o)
{
	buf_addf(o,
		"{\"id\":\"resp_fake\",\"object\":\"response\",\"created_at\":1700000000,\"status\":"
		"\"completed\","
		"\"model\":%s,\"output\":[",
		g->model);
	responses_item(g, o);
	buf_adds(o, "],");
	usage_add(g, o, "input_tokens", "output_tokens", true);
	buf_adds(o, "}");
}

static void native_object(struct gen *g, struct buf *o, bool with_text)
{
	buf_adds(o, "{\"index\":0,\"content\":\"");
	if (with_text)
		whole_text(g, o);
	buf_addf(o,
		"\",\"tokens\":[],\"id_slot\":%d,\"stop\":true,\"model\":%s,\"tokens_predicted\":%lld,"
		"\"tokens_evaluated\":%lld,\"truncated\":false,\"stop_type\":\"%s\",\"stopping_word\":\"\"}",
		g->slot, g->model, (long long)g->n, (long long)g->n_prompt,
		strcmp(g->finish, "length") == 0 ? "limit" : "eos");
}

/* What comes after the last token, up to what a client takes for the end. */
static int stream_finish(struct gen *g)
{
	struct buf *o = &g->event;
	if (g->d == CHAT) {
		buf_addf(o,
			"data: {\"choices\":[{\"finish_reason\":\"%s\",\"index\":0,\"delta\":{}}]," CHAT_CHUNK
			"}\n\n",
			g->finish, g->model);
		if (g->want_usage) {
			buf_addf(o, "data: {\"choices\":[]," CHAT_CHUNK ",", g->model);
			usage_add(g, o, "prompt_tokens", "completion_tokens", true);
			buf_adds(o, "}\n\n");
		}
	}
	if (g->d == COMPLETIONS) {
		buf_addf(o,
			"data: "
			"{\"choices\":[{\"text\":\"\",\"index\":0,\"logprobs\":null,\"finish_reason\":\"%s\"}"
			"]," CHUNK "%s,\"object\":\"text_completion\",",
			g->finish, g->model);
		usage_add(g, o, "prompt_tokens", "completion_tokens", true);
		buf_adds(o, "}\n\n");
	}
	if (g->d == MESSAGES)
		buf_addf(o,
			"event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}\n\n"
			"event: message_delta\ndata: "
			"{\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"%s\","
			"\"stop_sequence\":null},\"usage\":{\"output_tokens\":%lld}}\n\n",
			stop_reason(g), (long long)g->n);
	if (g->d == RESPONSES) {
		buf_adds(o, "event: response.output_text.done\ndata: "
			    "{\"type\":\"response.output_text.done\",\"item_id\":"
			    "\"msg_fake\",\"text\":\"");
		whole_text(g, o);
		buf_adds(o, "\"}\n\nevent: response.output_item.done\ndata: "
			    "{\"type\":\"response.output_item.done\",\"item\":");
		responses_item(g, o);
		buf_adds(o, "}\n\n");
	}
	return g->event.len ? event_send(g, 0) : 0;
}

static int stream_close(struct gen *g)
{
	struct buf *o = &g->event;
	if (resp_fault(&g->r, AT_DONE) < 0)
		return -1;
	if (g->d == CHAT || g->d == COMPLETIONS)
		buf_adds(o, "data: [DONE]\n\n");
	if (g->d == MESSAGES)
		buf_adds(o, "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n");
	if (g->d == NATIVE || g->d == RESPONSES) {
		buf_adds(o, g->d == NATIVE
				    ? "data: "
				    : "event: response.completed\ndata: {\"type\":\"response.completed\","
				      "\"response\":");
		if (g->d == NATIVE)
			native_object(g, o, false);
		else
			responses_object(g, o);
		buf_adds(o, g->d == NATIVE ? "\n\n" : "}\n\n");
	}
	if (event_send(g, 0) < 0 || resp_end(&g->r) < 0)
		return -1;
	return resp_fault(&g->r, AT_END);
}

static void whole_object(struct gen *g, struct buf *o)
{
	if (g->d == NATIVE) {
		native_object(g, o, true);
	} else if (g->d == RESPONSES) {
		responses_object(g, o);
	} else if (g->d == MESSAGES) {
		buf_adds(o, "{\"id\":\"chatcmpl-fake\",\"type\":\"message\",\"role\":\"assistant\","
			    "\"content\":[{\"type\":"
			    "\"text\",\"text\":\"");
		whole_text(g, o);
		buf_addf(o, "\"}],\"model\":%s,\"stop_reason\":\"%s\",\"stop_sequence\":null,", g->model,
			stop_reason(g));
		usage_add(g, o, "input_tokens", "output_tokens", false);
		buf_adds(o, "}");
	} else {
		bool chat = g->d == CHAT;
		buf_addf(o, "{\"choices\":[{\"finish_reason\":\"%s\",\"index\":0,%s", g->finish,
			chat ? "\"message\":{\"role\":\"assistant\",\"content\":\""
			     : "\"logprobs\":null,\"text\":\"");
		whole_text(g, o);
		buf_addf(o, "\"%s}]," CHUNK "%s,\"object\":\"%s\",", chat ? "}" : "", g->model,
			chat ? "chat.completion" : "text_completion");
		usage_add(g, o, "prompt_tokens", "completion_tokens", true);
		buf_adds(o, "}");
	}
}

/* Silence before the first token; pings once the head is out. */
static int prefill(struct gen *g)
{
	int64_t end = now_us() + 1000 * g->b->prefill_ms;
	if (g->stream && g->b->prefill_head && (resp_head(&g->r) < 0 || resp_flush(&g->r) < 0))
		return -1;
	for (int64_t next = now_us(); g->stream && g->b->prefill_head && g->b->ping_ms > 0;) {
		next += 1000 * g->b->ping_ms;
		if (next >= end)
			break;
		if (conn_wait(g->r.conn, next) < 0 || resp_body(&g->r, VIEW(":\n\n")) < 0 ||
			resp_flush(&g->r) < 0)
			return -1;
	}
	return conn_wait(g->r.conn, end);
}

/* Between the tokens; counts them where /slots and /fake/state look. */
static int tokens_run(struct gen *g)
{
	int64_t start = now_us();
	for (int64_t i = 0; i < g->n; i++) {
		if (conn_wait(g->r.conn, start + i * g->b->event_interval_us) < 0 ||
			resp_fault(&g->r, (int)i) < 0 || (g->stream && stream_token(g, i) < 0))
			return -1;
		__atomic_store_n(&fake.slot_tokens[g->slot], ++g->sent, __ATOMIC_RELAXED);
	}
	return resp_fault(&g->r, (int)g->n) < 0 || resp_fault(&g->r, AT_LAST) < 0 ? -1 : 0;
}

static int answer(struct gen *g)
{
	if (resp_fault(&g->r, AT_REQUEST) < 0 || prefill(g) < 0)
		return -1;
	if (g->stream) {
		if (resp_head(&g->r) < 0 || resp_flush(&g->r) < 0 || resp_fault(&g->r, AT_HEAD) < 0 ||
			stream_open(g) < 0 || tokens_run(g) < 0 || stream_finish(g) < 0)
			return -1;
		return stream_close(g);
	}
	if (tokens_run(g) < 0 || resp_fault(&g->r, AT_HEAD) < 0)
		return -1;
	whole_object(g, &g->event);
	if (resp_body(&g->r, buf_view(&g->event)) < 0 || resp_end(&g->r) < 0)
		return -1;
	return resp_fault(&g->r, AT_END);
}

static void gen_read(struct gen *g)
{
	static const char *const limits[] = { "max_tokens", "max_completion_tokens", "n_predict",
		"max_output_tokens" };
	struct view model = json_get(g->q->body, "model");
	int64_t limit = -1;
	for (size_t i = 0; i < ARRAY_LEN(limits); i++)
		limit = json_int(json_get(g->q->body, limits[i]), limit);
	g->n = limit >= 0 ? MIN(limit, g->b->tokens) : g->b->tokens;
	g->finish = g->b->finish[0] ? g->b->finish : g->n < g->b->tokens ? "length" : "stop";
	g->n_prompt = prompt_tokens(g->q, g->b);
	g->stream = json_true(json_get(g->q->body, "stream"));
	g->want_usage = json_true(json_get(json_get(g->q->body, "stream_options"), "include_usage"));
	if (model.n > 1 && model.p[0] == '"' && model.n < sizeof g->model)
		snprintf(g->model, sizeof g->model, "%.*s", VIEW_ARG(model));
	else
		snprintf(g->model, sizeof g->model, "\"%s\"", fake.opt.alias);
}

static bool fits(struct gen *g, struct conn *c)
{
	int64_t n_ctx = fake.opt.n_ctx / fake.opt.n_slots;
	struct buf o = BUF(1024);
	if (n_ctx <= 0 || g->n_prompt < n_ctx)
		return true;
	buf_addf(&o,
		"{\"error\":{\"code\":400,\"message\":\"request (%lld tokens) exceeds the available context "
		"size "
		"(%lld tokens), try increasing "
		"it\",\"type\":\"exceed_context_size_error\",\"n_prompt_tokens\":%lld,"
		"\"n_ctx\":%lld}}",
		(long long)g->n_prompt, (long long)n_ctx, (long long)g->n_prompt, (long long)n_ctx);
	respond(c, g->b, 400, JSON, buf_view(&o));
	buf_done(&o);
	return false;
}

void generate(struct conn *c, const struct request *q, const struct behave *b, enum dialect d)
{
	struct gen g = { .q = q, .b = b, .d = d, .event = BUF(256 * 1024 * 1024) };
	gen_read(&g);
	if (!fits(&g, c))
		return;
	g.slot = slot_take(c);
	if (g.slot < 0)
		return;
	resp_init(&g.r, c, b, 200, g.stream ? "text/event-stream" : JSON, g.stream);
	bool cancelled = answer(&g) < 0;
	if (cancelled)
		c->broken = true;
	if (cancelled && b->slot_linger_ms)
		shutdown(c->fd, SHUT_RDWR); /* the client sees the end now, the slot stays busy */
	resp_done(&g.r);
	pthread_mutex_lock(&fake.lock);
	fake.tokens += g.sent;
	pthread_mutex_unlock(&fake.lock);
	buf_done(&g.event);
	slot_give(g.slot, b, cancelled);
}
