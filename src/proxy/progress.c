/* SPDX-License-Identifier: Apache-2.0
 *
 * What a stream is told while it waits: in the queue, for a start, for a repeat, for the end of a long
 * prompt. As long as no byte of an engine's answer was relayed, something is sent every progress.every from
 * progress.after on. With the first of it goes the head of a 200: from then on a failure is an event of the
 * stream, and an engine that dies still costs its client nothing.
 *
 * A request costs a place on its loop's list of quiet streams. One timer a loop looks at that list; it is
 * started by the first who has none, and fires in vain where all were answered meanwhile.
 */
#include <stdio.h>

#include "base/mem.h"
#include "proxy/proxy_int.h"

enum {
	LINE_MAX_BYTES = 8 * 1024,
	PLACES_MAX = 1000, /* above it nobody is told its place: finding it costs as much as there are */
};

enum form { FORM_NONE, FORM_CHUNK, FORM_TEXT, FORM_PING, FORM_COMMENT, FORM_REASONING };

static bool answers_events(const struct route *r)
{
	switch (r->kind) {
	case ROUTE_CHAT:
	case ROUTE_COMPLETIONS:
	case ROUTE_RESPONSES:
	case ROUTE_MESSAGES:
	case ROUTE_COMPLETION:
	case ROUTE_INFILL: return true;
	default: return false;
	}
}

static enum form form_of(const struct request *q, enum pool_progress_mode mode)
{
	struct view asked = http_header_get(http_headers(q->x), "x-corral-progress");
	if (mode == POOL_PROGRESS_OFF || !answers_events(&q->route))
		return FORM_NONE;
	if (mode == POOL_PROGRESS_COMMENT || view_eq_ci(asked, VIEW("comment")))
		return FORM_COMMENT;
	switch (q->route.kind) {
	case ROUTE_CHAT: return mode == POOL_PROGRESS_REASONING ? FORM_REASONING : FORM_CHUNK;
	case ROUTE_COMPLETIONS: return FORM_TEXT;
	case ROUTE_MESSAGES: return FORM_PING;
	default: return FORM_NONE;
	}
}

/* ---- what is told -------------------------------------------------------------------------------------- */

static int start_pct(const struct pool_start *s, mono_t now)
{
	if (s->pct >= 0 || !s->ready_by.ns || !mono_before(s->since, s->ready_by))
		return s->pct;
	int64_t pct = mono_ms_between(s->since, now) * 100 / MAX(mono_ms_between(s->since, s->ready_by), 1);
	return (int)MAX(MIN(pct, 99), 0);
}

static int64_t start_ms(const struct pool_start *s, mono_t now)
{
	int64_t spent = mono_ms_between(s->since, now);
	if (s->ready_by.ns)
		return MAX(mono_ms_between(now, s->ready_by), 1000);
	return s->pct > 0 && s->since.ns ? MAX(spent * (100 - s->pct) / s->pct, 1000) : 0;
}

static void queue_text(struct request *q, const struct pool_stats *s, char *out, size_t cap, int64_t *ret_ms)
{
	uint32_t place = 0, waiting = s->waiting[POOL_INTERACTIVE] + s->waiting[POOL_BATCH];
	if (waiting <= PLACES_MAX)
		place = pool_position(q->pool, &q->waiter);
	if (!place) {
		snprintf(out, cap, "waiting for %s", pool_id(q->pool));
		return;
	}
	snprintf(out, cap, "waiting for %s, place %u of %u", pool_id(q->pool), place, waiting);
	uint64_t granted = s->granted - MIN(q->granted_before, s->granted);
	if (granted) /* as fast as it went since this one waits */
		*ret_ms = MAX(mono_ms_between(q->queued, mono_now()) * place / (int64_t)granted, 1000);
}

void progress_text(struct request *q, char *out, size_t cap, int64_t *ret_ms)
{
	struct pool_start start;
	struct pool_stats s;
	mono_t now = mono_now();
	*ret_ms = 0;
	if (q->state != REQ_WAIT) {
		snprintf(out, cap, "%s reads the prompt", pool_id(q->pool));
		return;
	}
	pool_get_stats(q->pool, &s);
	pool_get_start(q->pool, &start);
	int pct = start_pct(&start, now);
	if (s.slots_total || !start.doing[0]) {
		queue_text(q, &s, out, cap, ret_ms);
		return;
	}
	*ret_ms = start_ms(&start, now);
	if (pct < 0)
		snprintf(out, cap, "%s %s%s%s", start.doing, pool_id(q->pool), start.more[0] ? ", " : "",
			start.more);
	else
		snprintf(out, cap, "%s %s %d %%%s%s", start.doing, pool_id(q->pool), pct,
			start.more[0] ? ", " : "", start.more);
}

/* ---- how it is told ------------------------------------------------------------------------------------ */

static void add_chunk(
	struct request *q, const char *id, const char *object, struct view choice, struct buf *b)
{
	(void)buf_addf(b, "data: {\"id\":\"%s", id);
	(void)buf_adds(b, q->life.id);
	(void)buf_addf(b, "\",\"object\":\"%s\",\"created\":%lld,\"model\":", object,
		(long long)(q->life.received_ms / 1000));
	struct view model = view_of(q->scan.model, q->scan.model_len);
	(void)buf_add_json(b, model.n ? model : view_str(pool_id(q->pool)));
	(void)buf_adds(b, ",\"choices\":[{\"index\":0,");
	(void)buf_addv(b, choice);
	(void)buf_adds(b, ",\"finish_reason\":null}]}\n\n");
}

static void add_reasoning(struct request *q, const char *text, struct buf *b)
{
	AUTO(buf_done) struct buf choice = BUF(LINE_MAX_BYTES), line = BUF(LINE_MAX_BYTES);
	(void)buf_addf(&line, "%s\n", text);
	(void)buf_adds(&choice, "\"delta\":{\"reasoning_content\":");
	(void)buf_add_json(&choice, buf_view(&line));
	(void)buf_addc(&choice, '}');
	add_chunk(q, "chatcmpl-", "chat.completion.chunk", buf_view(&choice), b);
}

static void say(struct request *q, enum form f)
{
	AUTO(buf_done) struct buf b = BUF(2 * LINE_MAX_BYTES);
	char text[POOL_ID_MAX + 192] = "";
	int64_t ms;
	if (f == FORM_COMMENT || f == FORM_REASONING)
		progress_text(q, text, sizeof text, &ms);
	switch (f) {
	case FORM_NONE: return;
	case FORM_CHUNK: add_chunk(q, "chatcmpl-", "chat.completion.chunk", VIEW("\"delta\":{}"), &b); break;
	case FORM_TEXT:
		add_chunk(q, "cmpl-", "text_completion", VIEW("\"text\":\"\",\"logprobs\":null"), &b);
		break;
	case FORM_PING: (void)buf_adds(&b, "event: ping\ndata: {\"type\":\"ping\"}\n\n"); break;
	case FORM_COMMENT:
		(void)buf_addf(&b, ": %s\n", text);
		break; /* an empty line after it broke clients */
	case FORM_REASONING: add_reasoning(q, text, &b); break;
	}
	(void)http_body(q->x, buf_view(&b));
}

/* Where the engine's own head has come it is the one; an event may still be far off. */
static void start(struct request *q)
{
	if (!q->first_byte.ns) {
		buf_reset(&q->head);
		(void)http_header_add(&q->head, "Content-Type", VIEW("text/event-stream"));
		(void)http_header_add(&q->head, "Cache-Control", VIEW("no-cache"));
		headers_own(q, true, &q->head);
	}
	http_start(q->x, 200, &q->head, -1);
	q->told = true;
}

/* ---- when ---------------------------------------------------------------------------------------------- */

/* Its head is here, and what follows is not a stream of events. */
static bool other_answer(const struct request *q)
{
	return q->state == REQ_SENT && q->first_byte.ns &&
	       (q->status != 200 || q->split.format != EVENTS_SSE);
}

/* Tells q what is due; when the next thing will be. */
static mono_t tell(struct request *q, mono_t now)
{
	struct pool_opts o;
	if (mono_before(now, q->progress_due))
		return q->progress_due;
	pool_options(q->pool, &o);
	enum form f = form_of(q, o.progress.mode);
	if (f == FORM_NONE) {
		progress_end(q);
		return MONO_NEVER;
	}
	q->progress_due = mono_add_ms(now, MAX(o.progress.every_ms, (int64_t)1));
	if (other_answer(q) || http_unsent(q->x))
		return q->progress_due;
	if (!q->told)
		start(q);
	say(q, f);
	return q->progress_due;
}

static void look(void *arg);

static void look_at(struct proxy *px, mono_t due)
{
	loop_timer_start(px->o.loop, &px->progress, mono_ms_between(mono_now(), due) + 1, look, px);
}

static void look(void *arg)
{
	struct proxy *px = arg;
	mono_t now = mono_now(), next = MONO_NEVER;
	LIST_FOREACH(q, &px->quiet, struct request, quiet)
	{
		mono_t due = tell(q, now);
		next = mono_before(due, next) ? due : next;
	}
	if (next.ns != MONO_NEVER.ns)
		look_at(px, next);
}

void progress_begin(struct request *q)
{
	struct proxy *px = q->px;
	int64_t after = pool_progress_after_ms(q->pool);
	if (after < 0 || !q->scanning || !q->scan.stream)
		return;
	q->progress_due = mono_add_ms(loop_now(px->o.loop), after);
	list_append(&px->quiet, &q->quiet);
	if (!loop_timer_active(&px->progress) || mono_before(q->progress_due, px->progress.due))
		look_at(px, q->progress_due);
}

void progress_end(struct request *q)
{
	list_remove(&q->quiet);
}
