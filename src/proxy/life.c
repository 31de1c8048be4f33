/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/life.h"

#include <stdio.h>

#include "base/mem.h"
#include "proxy/proxy_int.h"

static double ms_of(int64_t ns)
{
	return (double)ns / 1e6;
}

/* Cut at cap - 1 bytes. */
static void copy(char *out, size_t cap, struct view v)
{
	size_t n = MIN(v.n, cap - 1);
	if (n)
		memcpy(out, v.p, n);
	out[n] = '\0';
}

void life_begin(struct request *q)
{
	struct life *l = &q->life;
	const struct net_peer *peer = http_peer(q->x);
	l->received_ms = wall_ms();
	usage_init(&l->usage);
	/* the loop's number in front: no two loops give the same id */
	uint64_t id = (uint64_t)(q->px->o.loop_index & 0xff) << 40 | (q->px->next_id++ & 0xffffffffffULL);
	for (size_t i = REQ_RECORD_ID_LEN; i-- > 0; id >>= 4)
		l->id[i] = "0123456789abcdef"[id & 15];
	l->id[REQ_RECORD_ID_LEN] = '\0';
	if (peer->is_unix)
		snprintf(l->client, sizeof l->client, "uid %d by unix socket", (int)peer->uid);
	else
		copy(l->client, sizeof l->client, view_str(peer->text));
}

void life_waits(struct request *q, bool unready)
{
	q->life.wait_began = mono_now();
	q->life.unready = unready;
}

/* How much of the wait that is under way was for an engine to come up: until the replica that is there now
 * (the one it got, or another) could take requests. */
static int64_t loading_ns(const struct request *q, struct pool_replica *got, mono_t now)
{
	const struct life *l = &q->life;
	if (!l->unready)
		return 0;
	struct pool_replica *r = got ? pool_replica_ref(got) : pool_any_replica(q->pool);
	int64_t until = r ? r->added_at.ns : now.ns;
	pool_replica_unref(r);
	return MAX(MIN(until, now.ns) - l->wait_began.ns, (int64_t)0);
}

void life_granted(struct request *q)
{
	struct life *l = &q->life;
	if (!l->wait_began.ns)
		return;
	mono_t now = mono_now();
	l->wait_ns += now.ns - l->wait_began.ns;
	l->load_ns += loading_ns(q, q->lease.replica, now);
	l->wait_began = MONO_ZERO;
}

void life_sent(struct request *q)
{
	q->life.sent = mono_now();
}

/* ---- the answer -------------------------------------------------------------------------------------------
 */

/* Of a stream's first event only the prompt's numbers count, unless it is the last one as well: it has not
 * told of all of the answer yet. Returns what comes after it. */
static struct view first_event(struct life *l, struct view v, enum event_format f, bool only)
{
	(void)usage_read(&l->usage, view_cut(v, LIFE_BEGINNING));
	if (only)
		return v;
	l->usage.output = l->usage.predicted_n = -1;
	l->usage.per_second = -1;
	bool comment;
	do {
		comment = v.n && v.p[0] == ':';
		v = view_from(v, event_first(f, v));
	} while (comment);
	return v;
}

void life_out(struct request *q, struct view v)
{
	struct life *l = &q->life;
	if (!l->first_token.ns && (!q->events || q->split.events)) { /* comments are no token */
		l->first_token = mono_now();
		if (q->events)
			v = first_event(l, v, q->split.format, q->split.terminal && q->split.events == 1);
		else
			(void)usage_read(&l->usage, view_cut(v, LIFE_BEGINNING));
	}
	usage_piece(&l->usage, &l->pieces, v, q->events && !q->split.passing);
}

/* ---- the record -------------------------------------------------------------------------------------------
 */

static enum req_record_state state_of(const struct request *q)
{
	switch (q->state) {
	case REQ_BODY: return REQ_RECORD_READING;
	case REQ_WAIT: return REQ_RECORD_QUEUED;
	case REQ_SENT: return REQ_RECORD_SENT;
	case REQ_RELAY: return REQ_RECORD_STREAMING;
	case REQ_OVER: break;
	}
	return REQ_RECORD_FINISHED;
}

static void waits(const struct request *q, mono_t now, int64_t *ret_queue, int64_t *ret_load)
{
	const struct life *l = &q->life;
	int64_t wait = l->wait_ns, load = l->load_ns;
	if (l->wait_began.ns) {
		wait += now.ns - l->wait_began.ns;
		load += loading_ns(q, NULL, now);
	}
	*ret_load = MIN(load, wait);
	*ret_queue = wait - *ret_load;
}

/* From sending it until its head came (or until now); -1: it was not sent. */
static int64_t engine_ns(const struct request *q, mono_t now)
{
	if (!q->life.sent.ns)
		return -1;
	mono_t until = q->first_byte.ns ? q->first_byte : now;
	return MAX(until.ns - q->life.sent.ns, (int64_t)0);
}

/* Of the answer, -1: not known. An engine that told nothing has its stream's events counted. */
static int64_t output_tokens(const struct request *q, bool *ret_counted)
{
	int64_t told = usage_output(&q->life.usage);
	*ret_counted = told < 0 && q->events && q->split.events && q->status < 400;
	return *ret_counted ? (int64_t)q->split.events - q->split.terminal : told;
}

static void add_tokens(const struct request *q, struct req_record *r)
{
	const struct life *l = &q->life;
	const struct usage *u = &l->usage;
	double first = l->first_token.ns ? ms_of(l->first_token.ns - q->arrived.ns) : -1;
	r->prompt_tokens = usage_prompt(u);
	r->cached_tokens = usage_cached(u);
	r->output_tokens = output_tokens(q, &r->counted);
	r->first_token_ms = q->events || !l->first_token.ns ? first : -1; /* a whole answer has none */
	r->prefill_ms = u->prompt_ms;
	if (r->prefill_ms < 0 && q->events && l->first_token.ns)
		r->prefill_ms = ms_of(l->first_token.ns - l->sent.ns);
	r->tokens_per_s = u->per_second;
	int64_t since = q->events ? l->first_token.ns : l->sent.ns;
	int64_t tokens = r->output_tokens - q->events; /* the first one of a stream begins the time */
	if (r->tokens_per_s < 0 && tokens > 0 && since && r->ended.ns > since)
		r->tokens_per_s = (double)tokens * 1e9 / (double)(r->ended.ns - since);
}

uint64_t life_tokens(const struct request *q)
{
	bool counted;
	int64_t prompt = usage_prompt(&q->life.usage), output = output_tokens(q, &counted);
	return (uint64_t)(MAX(prompt, (int64_t)0) + MAX(output, (int64_t)0));
}

static void add_place(const struct request *q, struct req_record *r)
{
	const struct life *l = &q->life;
	copy(r->pool, sizeof r->pool, view_str(pool_id(q->pool)));
	if (l->wait_began.ns && l->unready) {
		char status[POOL_STATUS_MAX];
		pool_get_status(q->pool, status);
		copy(r->waited_for, sizeof r->waited_for, view_str(status));
	}
	if (!q->replica)
		return;
	copy(r->replica, sizeof r->replica, view_str(q->replica->id));
	copy(r->device, sizeof r->device, view_str(q->replica->device));
	if (!l->wait_began.ns && l->load_ns)
		copy(r->waited_for, sizeof r->waited_for, view_str(q->replica->id));
}

static void fill(const struct request *q, struct req_record *r, mono_t now)
{
	const struct life *l = &q->life;
	int64_t queue, load, engine = engine_ns(q, now);
	*r = (struct req_record){ .route = q->route.name,
		.state = state_of(q),
		.code = q->code,
		.status = q->first_byte.ns ? q->status : 0,
		.retries = q->attempts,
		.arrived = q->arrived,
		.ended = now,
		.received_ms = l->received_ms };
	copy(r->id, sizeof r->id, view_str(l->id));
	copy(r->correlation_id, sizeof r->correlation_id, view_str(q->id));
	copy(r->model, sizeof r->model, view_of(q->scan.model, q->scan.model_len));
	copy(r->client, sizeof r->client, view_str(l->client));
	if (q->key)
		copy(r->key, sizeof r->key, view_str(q->key->name));
	if (q->pool)
		add_place(q, r);
	waits(q, now, &queue, &load);
	r->queue_ms = ms_of(queue);
	r->load_ms = ms_of(load);
	r->engine_ms = engine < 0 ? -1 : ms_of(engine);
	add_tokens(q, r);
}

void life_record(const struct request *q, struct req_record *r)
{
	fill(q, r, mono_now());
}

/* What its replica is chosen by from now on. */
static void tell_speed(const struct request *q, const struct req_record *r, mono_t now)
{
	if (!q->replica || r->status >= 400 || q->code)
		return;
	struct pool_served s = { .prefilled = r->prompt_tokens - MAX(r->cached_tokens, (int64_t)0),
		.prefill_ms = r->prefill_ms,
		.tokens = r->output_tokens,
		.tokens_per_s = r->tokens_per_s,
		.prompt = r->prompt_tokens };
	pool_replica_served(q->replica, &s, now);
}

void life_over(struct request *q, int status, const char *outcome, mono_t now)
{
	if (!q->px->o.records)
		return;
	/* One that waits looks into its pool, which has a lock of its own: it is filled in before. */
	bool waits_still = q->life.wait_began.ns != 0;
	struct req_record own, *r = waits_still ? &own : req_records_begin(q->px->o.records);
	fill(q, r, now);
	r->state = REQ_RECORD_FINISHED;
	r->status = q->code == CODE_CANCELLED ? 499 : status;
	copy(r->outcome, sizeof r->outcome, view_str(outcome));
	tell_speed(q, r, now);
	int64_t prompt = r->prompt_tokens, output = r->output_tokens, cached = r->cached_tokens;
	if (waits_still)
		req_records_add(q->px->o.records, r);
	else
		req_records_end(q->px->o.records);
	talk_over(q, prompt, output, cached);
}

/* "0.4": milliseconds with one decimal. */
static void add_ms(struct buf *b, struct view name, int64_t ns)
{
	uint64_t tenths = ((uint64_t)MAX(ns, (int64_t)0) + 50000) / 100000;
	(void)buf_addv(b, name);
	(void)buf_add_u64(b, tenths / 10);
	(void)buf_addc(b, '.');
	(void)buf_addc(b, (char)('0' + tenths % 10));
}

void life_headers(const struct request *q, struct buf *head)
{
	mono_t now = mono_now();
	int64_t queue, load, engine = engine_ns(q, now);
	if (!q->pool)
		return;
	(void)http_header_add(head, "X-Corral-Pool", view_str(pool_id(q->pool)));
	if (q->replica)
		(void)http_header_add(head, "X-Corral-Replica", view_str(q->replica->id));
	waits(q, now, &queue, &load);
	add_ms(head, VIEW("Server-Timing: queue;dur="), queue);
	add_ms(head, VIEW(", load;dur="), load);
	add_ms(head, VIEW(", engine;dur="), engine);
	(void)buf_addv(head, VIEW("\r\n"));
}

/* ---- all of a loop ----------------------------------------------------------------------------------------
 */

size_t proxy_records(struct proxy *px, struct req_record *out, size_t max)
{
	size_t n = 0;
	for (struct list *at = px->requests.prev; at != &px->requests && n < max; at = at->prev)
		life_record(LIST_ENTRY(at, struct request, node), &out[n++]);
	return n;
}

static void cancel(struct request *q, const char *by)
{
	char text[160];
	int n = snprintf(text, sizeof text, "This request was cancelled by %s.", by);
	struct api_error e = { .code = CODE_CANCELLED,
		.retriable = 0,
		.message = view_of(text, MIN((size_t)n, sizeof text - 1)),
		.hint = VIEW("Whoever runs this server ended it; ask them before sending it again.") };
	request_fail(q, &e);
}

unsigned proxy_cancel(struct proxy *px, struct view id, const char *by)
{
	unsigned n = 0;
	LIST_FOREACH(q, &px->requests, struct request, node)
	{
		if (!view_eqs(id, q->life.id) && !view_eqs(id, q->id))
			continue;
		cancel(q, by);
		n++;
	}
	return n;
}
