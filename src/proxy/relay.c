/* SPDX-License-Identifier: Apache-2.0
 *
 * The answer's way back: bodies unchanged, framing ours, events whole, ends honest.
 *
 * An event stream's response is started with its first whole event, not with the engine's head: an engine
 * that dies between the two has relayed nothing, and the request moves on.
 */
#include <errno.h>
#include "base/mem.h"
#include "log/log.h"
#include "proxy/proxy_int.h"

static void start_answer(struct request *q, int64_t length)
{
	q->state = REQ_RELAY;
	progress_end(q);
	loop_timer_stop(&q->patience);
	lease_spoke(&q->lease, !q->events);
	if (!q->told)
		http_start(q->x, q->status, &q->head, length);
	if (q->events && q->sent == spool_size(&q->spool)) { /* never sent again, and it may go on for long */
		spool_forget(&q->spool);
		buf_done(&q->path);
		buf_done(&q->head);
	}
}

static void pass(struct request *q, struct view v)
{
	if (!v.n)
		return;
	q->bytes_out += v.n;
	life_out(q, v);
	if (http_body(q->x, v) && q->call) {
		http_call_pause(q->call);
		silence_pause(q, true);
	}
}

void relay_drained(struct request *q)
{
	if (q->call) {
		http_call_resume(q->call);
		silence_pause(q, false);
	}
}

static void note_first_byte(struct request *q)
{
	if (q->first_byte.ns)
		return;
	q->first_byte = mono_now();
	/* an engine's own failure proves nothing: the node's unit will tell */
	if (q->status < 500 && atomic_load_explicit(&q->replica->proving, memory_order_acquire))
		q->px->o.on_proved(q->px->o.arg, q->replica);
}

static bool is_json(const struct http_headers *h)
{
	struct view t = http_header_get(h, "content-type");
	return t.n >= 16 && view_eq_ci(view_cut(t, 16), VIEW("application/json"));
}

static void no_stream(struct request *q)
{
	struct api_error e = { .code = CODE_ENGINE_FAILED,
		.retriable = 0,
		.message =
			VIEW("The engine answered with something else than the stream that was asked for."),
		.hint = VIEW("Set progress.mode: off for this pool, or ask without \"stream\".") };
	request_fail(q, &e);
}

/* Whatever the engine says can only be told in the stream that began. */
static void head_after_progress(struct request *q, enum event_format f)
{
	if (q->status >= 400) {
		q->look_into = true;
		q->events = false;
	} else if (f != EVENTS_SSE) {
		no_stream(q);
	}
}

static void on_head(void *arg, struct http_call *c, int status, const struct http_headers *h)
{
	struct request *q = arg;
	q->status = status;
	note_first_byte(q);
	enum event_format f = event_format_of(http_header_get(h, "content-type"));
	q->events = f != EVENTS_NONE;
	event_split_init(&q->split, f);
	buf_reset(&q->hold);
	headers_to_client(q, h);
	q->answer_length = http_call_response_length(c);
	q->by_close = q->answer_length < 0 && !http_header_known(h, HTTP_H_TRANSFER_ENCODING).p;
	q->look_into = status >= 400 && is_json(h) && q->answer_length <= PROXY_ERROR_BODY_MAX;
	if (q->told) {
		head_after_progress(q, f);
		return;
	}
	if (status >= 500 && !q->look_into && retry_status(q))
		return;
	if (!q->events && !q->look_into)
		start_answer(q, q->answer_length);
}

/* Whole events go out, the tail waits. An event larger than the bound goes out as it comes. */
static void relay_events(struct request *q, struct view v)
{
	size_t whole = event_split_feed(&q->split, v);
	bool passed_bound = q->hold.len + (v.n - whole) > EVENT_HOLD_MAX;
	if (!whole && !passed_bound) {
		(void)buf_addv(&q->hold, v);
		return;
	}
	if (q->state != REQ_RELAY)
		start_answer(q, -1);
	if (q->split.tokens > q->tokens)
		silence_token(q);
	if (q->hold.len) {
		(void)buf_addv(
			&q->hold, view_cut(v, passed_bound ? v.n : whole)); /* one chunk for one event */
		pass(q, buf_view(&q->hold));
		buf_reset(&q->hold);
	} else {
		pass(q, view_cut(v, passed_bound ? v.n : whole));
	}
	if (!passed_bound)
		(void)buf_addv(&q->hold, view_from(v, whole));
}

/* Too long to be looked into, which only shows now where no length was announced: it passes. */
static void hold_error(struct request *q, struct view v)
{
	size_t room = PROXY_ERROR_BODY_MAX - q->hold.len;
	if (q->told || v.n <= room) {
		(void)buf_addv(&q->hold, view_cut(v, room));
		return;
	}
	q->look_into = false;
	if (q->status >= 500 && retry_status(q))
		return;
	start_answer(q, q->answer_length);
	pass(q, buf_view(&q->hold));
	buf_reset(&q->hold);
	pass(q, v);
}

static void on_data(void *arg, struct view v)
{
	struct request *q = arg;
	silence_data(q);
	if (q->events)
		relay_events(q, v);
	else if (q->look_into)
		hold_error(q, v);
	else
		pass(q, v);
}

static void finish(struct request *q)
{
	struct http_exchange *x = q->x;
	q->x = NULL;
	http_end(x);
	request_record(q, q->status, q->status < 400 ? "complete" : "the engine's own error");
	request_over(q);
}

/* The answer broke off after bytes of it were relayed. */
static void broke_off(struct request *q, enum http_fail f, const struct err *e)
{
	if (q->events && q->split.terminal && !q->hold.len) { /* only the framing's end is missing */
		request_drop_lease(q, false);
		finish(q);
		return;
	}
	pool_replica_down(q->replica);
	request_drop_lease(q, f == HTTP_FAIL_PROTOCOL); /* then it is us who hung up */
	if (q->told_silent)
		request_failf(q, CODE_DECODE_TIMEOUT, "Send the request again.",
			"The engine of pool %s stood still in the middle of the answer.", pool_id(q->pool));
	else
		request_failf(q, CODE_WORKER_RESET, "Send the request again.",
			"The engine of pool %s ended in the middle of the answer: %s.", pool_id(q->pool),
			e->msg);
}

static void on_error(void *arg, enum http_fail f, const struct err *e)
{
	struct request *q = arg;
	q->call = NULL;
	if (f == HTTP_FAIL_TIMEOUT)
		silence_over(q);
	else if (q->state == REQ_RELAY)
		broke_off(q, f, e);
	else
		retry_error(q, f, e);
}

/* Its streams have a last event that one can know. */
static bool has_last_event(enum route_kind k)
{
	return k == ROUTE_CHAT || k == ROUTE_COMPLETIONS || k == ROUTE_RESPONSES || k == ROUTE_MESSAGES;
}

/* An engine that ends its answers by closing (HTTP/1.0) says with that that it is whole, or that it died. */
static bool ended_whole(const struct request *q)
{
	if (!q->by_close || q->split.terminal)
		return true;
	struct event_split last = q->split; /* its line may have no end, and the event no blank one */
	(void)event_split_feed(&last, VIEW("\n\n"));
	if (last.terminal)
		return true;
	if (has_last_event(q->route.kind))
		return false;
	return !q->hold.len || q->split.format == EVENTS_NDJSON;
}

static void on_end(void *arg)
{
	struct request *q = arg;
	if (q->events && !ended_whole(q)) {
		struct err e = { 0 };
		err_set(&e, -ECONNRESET, "it closed the connection before the stream's last event");
		on_error(q, HTTP_FAIL_BROKEN, &e);
		return;
	}
	q->call = NULL;
	q->answer_ended = true;
	if (q->look_into) {
		if ((q->status >= 500 && retry_status(q)) || failure_translated(q))
			return;
		start_answer(q, q->answer_length);
		pass(q, buf_view(&q->hold));
	} else if (q->events) {
		if (q->state != REQ_RELAY)
			start_answer(q, -1);
		pass(q, buf_view(&q->hold)); /* complete by the engine's own framing */
	}
	request_drop_lease(q, false);
	finish(q);
}

const struct http_call_ops relay_ops = {
	.on_head = on_head,
	.on_data = on_data,
	.on_end = on_end,
	.on_error = on_error,
	.on_writable = relay_writable,
};
