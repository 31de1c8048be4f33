/* SPDX-License-Identifier: Apache-2.0
 *
 * /v1/requests: what every data loop has in flight, and what ended lately. The call is on the control loop;
 * a part of it is posted to each data loop, which copies its own list (or cancels) and posts the part back;
 * the last one back is when the answer is made. Nobody waits, and no loop reads another's memory.
 *
 * Memory: one struct req_record for each request in flight, at most LIVE_MAX a loop (4.7 MiB), and those that
 * are kept (1.1 MiB), while the answer is made.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/call.h"
#include "base/mem.h"
#include "base/num.h"
#include "role/orchestratord/orch_int.h"

enum { LIVE_MAX = 4096, ANSWER_MAX = 64 * 1024 * 1024 };

struct gather;
struct part {
	struct gather *g;
	struct data_loop *d;
	struct loop_work work;
	struct req_record *records;
	size_t n;
	unsigned cancelled;
	bool cut; /* there were more */
};
struct gather {
	struct orch *o;
	struct api_call *c; /* NULL: the client left */
	bool cancel;
	char id[132], by[160]; /* id empty: the list */
	char pool[POOL_ID_MAX + 1];
	bool by_state;
	enum req_record_state state;
	uint64_t slow_ms; /* 0: all; 1: slower than the pool's usual */
	uint64_t limit;   /* of those that ended */
	unsigned left;    /* parts that are not back */
	mono_t asked;
	struct part parts[LOOPS_MAX];
};

static void gather_free(struct gather *g)
{
	for (unsigned i = 0; i < LOOPS_MAX; i++)
		free(g->parts[i].records);
	free(g);
}

/* ---- the answer, on the control loop
 * ------------------------------------------------------------------------ */

struct found { /* all that was gathered, the newest first */
	struct req_record *all;
	size_t n, nlive;
	bool cut;
};

static void found_done(struct found *f)
{
	free(f->all);
}

static int newer_first(const void *a, const void *b)
{
	const struct req_record *x = a, *y = b;
	return x->arrived.ns < y->arrived.ns ? 1 : x->arrived.ns > y->arrived.ns ? -1 : strcmp(y->id, x->id);
}

static void collect(const struct gather *g, struct found *f)
{
	size_t n = 0;
	for (unsigned i = 0; i < g->o->nloops; i++)
		n += g->parts[i].n;
	f->all = mem_alloc((n + REQ_RECORDS_KEPT) * sizeof *f->all);
	for (unsigned i = 0; i < g->o->nloops; i++) {
		const struct part *p = &g->parts[i];
		if (p->n)
			memcpy(f->all + f->nlive, p->records, p->n * sizeof *f->all);
		f->nlive += p->n;
		f->cut |= p->cut;
	}
	f->n = f->nlive + req_records_copy(g->o->requests, f->all + f->nlive);
	/* One that ended after its loop was asked stands in both: what came last is true. Few did. */
	size_t late = f->nlive;
	while (late < f->n && !mono_before(f->all[late].ended, g->asked))
		late++;
	for (size_t i = 0; i < f->nlive; i++)
		for (size_t k = f->nlive; k < late; k++)
			if (strcmp(f->all[i].id, f->all[k].id) == 0)
				f->all[i].id[0] = '\0'; /* left out of every answer */
	qsort(f->all, f->n, sizeof *f->all, newer_first);
}

struct usuals { /* of pools that were asked for; pools are few */
	struct {
		const char *pool;
		struct req_record_usual usual;
	} at[64];
	size_t n;
};

static struct req_record_usual usual_of(struct usuals *us, const struct found *f, const char *pool)
{
	for (size_t i = 0; i < us->n; i++)
		if (strcmp(us->at[i].pool, pool) == 0)
			return us->at[i].usual;
	struct req_record_usual u = req_record_usual(f->all, f->n, pool);
	if (us->n < ARRAY_LEN(us->at)) {
		us->at[us->n].pool = pool;
		us->at[us->n++].usual = u;
	}
	return u;
}

static bool wanted(const struct gather *g, const struct req_record *r, const struct req_record_usual *u)
{
	if (!r->id[0] || (g->pool[0] && strcmp(g->pool, r->pool) != 0))
		return false;
	if (g->by_state && r->state != g->state)
		return false;
	if (g->slow_ms == 1)
		return req_record_is_slow(r, u);
	return !g->slow_ms || req_record_duration_ms(r) >= (double)g->slow_ms;
}

static void reply_list(struct gather *g, const struct found *f)
{
	AUTO(buf_done) struct buf b = BUF(ANSWER_MAX);
	struct usuals us = { 0 };
	mono_t now = mono_now();
	uint64_t ended = 0;
	bool first = true;
	(void)buf_adds(&b, "{\"requests\":[");
	for (size_t i = 0; i < f->n; i++) {
		const struct req_record *r = &f->all[i];
		struct req_record_usual u = usual_of(&us, f, r->pool);
		if (!wanted(g, r, &u) || (r->state == REQ_RECORD_FINISHED && ended++ >= g->limit))
			continue;
		(void)buf_adds(&b, first ? "" : ",");
		req_record_json(r, &u, now, &b);
		first = false;
	}
	(void)buf_addf(&b, "],\"kept\":%d,\"truncated\":%s}", REQ_RECORDS_KEPT, f->cut ? "true" : "false");
	api_reply_json(g->c, 200, buf_view(&b));
}

/* By its id, else the newest with that correlation id. */
static const struct req_record *find(const struct found *f, const char *id)
{
	const struct req_record *by_correlation = NULL;
	for (size_t i = 0; i < f->n; i++) {
		if (strcmp(f->all[i].id, id) == 0)
			return &f->all[i];
		if (!by_correlation && f->all[i].id[0] && strcmp(f->all[i].correlation_id, id) == 0)
			by_correlation = &f->all[i];
	}
	return by_correlation;
}

static void reply_none(struct gather *g)
{
	api_failf(g->c, CODE_INVALID_PARAMS, 404,
		"GET /v1/requests lists those in flight and the last 1000 that ended.",
		"There is no request \"%s\".", g->id);
}

static void reply_one(struct gather *g, const struct found *f)
{
	const struct req_record *r = find(f, g->id);
	if (!r) {
		reply_none(g);
		return;
	}
	AUTO(buf_done) struct buf b = BUF(64 * KIB);
	struct req_record_usual u = req_record_usual(f->all, f->n, r->pool);
	req_record_json(r, &u, mono_now(), &b);
	api_reply_json(g->c, 200, buf_view(&b));
}

static void reply_cancel(struct gather *g, const struct found *f)
{
	unsigned n = 0;
	for (unsigned i = 0; i < g->o->nloops; i++)
		n += g->parts[i].cancelled;
	const struct req_record *r = find(f, g->id);
	if (n) {
		char text[64];
		int len = snprintf(text, sizeof text, "{\"cancelled\":%u}", n);
		api_reply_json(g->c, 200, view_of(text, (size_t)len));
	} else if (r) {
		api_failf(g->c, CODE_CONFLICT, 0, "", "The request \"%s\" has ended already: %s.", g->id,
			r->outcome);
	} else {
		reply_none(g);
	}
}

static void part_is_back(void *arg)
{
	struct gather *g = ((struct part *)arg)->g;
	if (--g->left)
		return;
	if (g->c) {
		AUTO(found_done) struct found f = { 0 };
		collect(g, &f);
		if (g->cancel)
			reply_cancel(g, &f);
		else if (g->id[0])
			reply_one(g, &f);
		else
			reply_list(g, &f);
	}
	gather_free(g);
}

/* ---- on a data loop
 * -------------------------------------------------------------------------------------------- */

static void take_part(void *arg)
{
	struct part *p = arg;
	struct proxy *px = p->d->proxy;
	if (p->g->cancel)
		p->cancelled = proxy_cancel(px, view_str(p->g->id), p->g->by);
	size_t max = MIN(proxy_running(px), (size_t)LIVE_MAX);
	p->cut = proxy_running(px) > max;
	p->records = mem_alloc(MAX(max, (size_t)1) * sizeof *p->records);
	p->n = proxy_records(px, p->records, max);
	loop_post(p->d->orch->loop, &p->work, part_is_back, p);
}

/* ---- the call
 * -------------------------------------------------------------------------------------------------- */

static void on_gone(void *arg)
{
	((struct gather *)arg)->c = NULL;
}

static bool number(const struct api_call *c, const char *key, uint64_t *ret)
{
	char text[32];
	return !http_query_get(view_str(c->query), key, text, sizeof text) ||
	       num_u64(view_str(text), ret) == 0;
}

/* False after the call was answered with 400. */
static bool read_query(struct gather *g)
{
	struct api_call *c = g->c;
	char state[32];
	g->limit = REQ_RECORDS_KEPT;
	if (!c->query)
		return true;
	if (!number(c, "slow", &g->slow_ms) || !number(c, "limit", &g->limit)) {
		api_failf(c, CODE_INVALID_PARAMS, 400, "",
			"slow is a number of milliseconds, or 1 for those slower than usual; limit is how "
			"many "
			"that ended.");
		return false;
	}
	(void)http_query_get(view_str(c->query), "pool", g->pool, sizeof g->pool);
	g->by_state = http_query_get(view_str(c->query), "state", state, sizeof state);
	if (!g->by_state || req_record_state_of(view_str(state), &g->state))
		return true;
	api_failf(c, CODE_INVALID_PARAMS, 400, "",
		"There is no state \"%s\"; there are reading, queued, sent, streaming and finished.", state);
	return false;
}

void requests_call(void *arg, struct api_call *c, struct view id)
{
	struct orch *o = arg;
	if (o->draining) { /* the loops are asked nothing any more */
		api_failf(c, CODE_POOL_UNAVAILABLE, 0, "", "The server is going down.");
		return;
	}
	struct gather *g = NEW(struct gather);
	g->o = o;
	g->c = c;
	g->asked = mono_now();
	g->cancel = c->method == HTTP_M_DELETE;
	snprintf(g->id, sizeof g->id, "%.*s", VIEW_ARG(id));
	snprintf(g->by, sizeof g->by, "%s", c->by);
	if (!read_query(g)) {
		gather_free(g);
		return;
	}
	c->on_gone = on_gone;
	c->arg = g;
	g->left = o->nloops;
	for (unsigned i = 0; i < o->nloops; i++) {
		struct part *p = &g->parts[i];
		p->g = g;
		p->d = &o->loops[i];
		loop_post(p->d->loop, &p->work, take_part, p);
	}
}
