/* SPDX-License-Identifier: Apache-2.0
 *
 * Looks after replicas that need looking at: leases that cool (their client left), replicas that a request
 * found failing, replicas whose circuit is not closed, and replicas whose streams stand still. One struct
 * cooler a replica, there while there is something to look at.
 *
 * An engine that shows its slots is read soon after the first lease cools, and then no more often than
 * every 2 s: faster reading keeps a cancelled, non-streamed request of llama-server alive. 100 ms is the
 * time in which it notices a closed stream (1 to 70 ms measured).
 */
#include "control/control_int.h"
#include "control/fate.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log/log.h"

#include "base/mem.h"

enum {
	FIRST_LOOK_MS = 100,
	NEXT_LOOK_MS = 2000,
	DOWN_FIRST_MS = 20, /* twice that each time until a request is answered */
	DOWN_NEXT_MS = 500,
	VERDICT_MS = 2000, /* a replica that is down and of which no node says what became of it */
	WATCH_MAX_MS = 15000,
	TOKEN_GRAIN_MS = 100, /* token_at is written no more often */
	REACH_MS = 1000,      /* a request has reached its engine so long after the lease */
	LOOK_TIMEOUT_MS = 5000
};

enum pool_fate control_fate_now(struct control_pool *p, const char *replica_id, uint64_t generation)
{
	AUTO(registry_snapshot_unrefp)
	const struct registry_snapshot *s = registry_snapshot_ref(p->control->o.registry);
	const struct registry_replica *r =
		registry_snapshot_replica(s, view_str(p->cfg->id), view_str(replica_id));
	return control_fate(r ? &r->facts : NULL, generation);
}

struct cooler {
	struct cooler *next;
	struct control_pool *p;
	struct pool_replica *r; /* a reference */
	struct http_target *target;
	struct loop_timer slots_timer, down_timer, verdict_timer, circuit_timer;
	enum pool_circuit told; /* the state of its circuit that was narrated last */
	mono_t slots_asked;     /* when the look that is under way began */
	struct http_fetch *slots_fetch, *down_fetch;
	/* progress (hung.c) */
	mono_t watch_until; /* requests wait for tokens: looked at until then */
	bool over;          /* a request's time is over */
	bool counted;
	uint64_t counters;         /* of the last look that was answered */
	uint32_t looks;            /* so many since they last changed */
	int64_t over_ms, watch_ms; /* that time; between two looks otherwise */
	uint32_t due;              /* without /slots: what was cooling when the grace began */
};

static void cooler_free(struct cooler *k)
{
	loop_timer_stop(&k->slots_timer);
	loop_timer_stop(&k->down_timer);
	loop_timer_stop(&k->verdict_timer);
	loop_timer_stop(&k->circuit_timer);
	http_fetch_cancel(&k->slots_fetch);
	http_fetch_cancel(&k->down_fetch);
	http_target_free(k->target);
	pool_replica_unref(k->r);
	free(k);
}

static void cooler_drop(struct cooler *k)
{
	for (struct cooler **at = &k->p->coolers; *at; at = &(*at)->next) {
		if (*at == k) {
			*at = k->next;
			break;
		}
	}
	cooler_free(k);
}

void coolers_done(struct control_pool *p)
{
	while (p->coolers)
		cooler_drop(p->coolers);
}

struct counts {
	const struct pool_replica *r;
	mono_t reached; /* in: leases since then may not have reached the engine */
	uint32_t in_use, cooling, downs;
	bool down, there;
	enum pool_circuit circuit;
	mono_t circuit_until;
};

static void read_counts(void *arg, const struct pool_replica *r)
{
	struct counts *c = arg;
	if (r != c->r)
		return;
	for (uint32_t i = 0; i < r->nplaces; i++)
		c->in_use += r->leases[i].id && mono_before(r->leases[i].since, c->reached);
	c->cooling = r->cooling;
	c->down = r->down;
	c->downs = r->downs;
	c->circuit = r->circuit;
	c->circuit_until = r->circuit_until;
	c->there = true;
}

static struct counts counts_of(struct cooler *k)
{
	mono_t reached = k->slots_asked.ns ? mono_add_ms(k->slots_asked, -REACH_MS) : MONO_NEVER;
	struct counts c = { .r = k->r, .reached = reached };
	pool_each_replica(k->p->pool, read_counts, &c);
	return c;
}

static struct cooler *cooler_for(struct control_pool *p, struct pool_replica *r)
{
	for (struct cooler *k = p->coolers; k; k = k->next)
		if (k->r == r)
			return k;
	struct cooler *k = NEW(struct cooler);
	k->p = p;
	k->r = pool_replica_ref(r);
	k->target = http_target_new(p->control->o.loop, r->address,
		&(struct http_target_opts){ .idle_ms = 1000, .bearer = r->key }, NULL);
	k->next = p->coolers;
	p->coolers = k;
	return k;
}

static void look_at_slots(void *arg);

/* Nothing left to look at: the cooler goes. Called where no pointer to it is used afterwards. */
static void settle(struct cooler *k)
{
	struct counts c = counts_of(k);
	if (!c.there) {
		cooler_drop(k);
		return;
	}
	bool watched = k->over || mono_before(mono_now(), k->watch_until);
	if ((c.cooling || (watched && k->r->has_slots)) && !k->slots_fetch &&
		!loop_timer_active(&k->slots_timer))
		loop_timer_start(k->p->control->o.loop, &k->slots_timer,
			c.cooling || k->over ? NEXT_LOOK_MS : k->watch_ms, look_at_slots, k);
	if (!c.down)
		loop_timer_stop(&k->verdict_timer);
	if (!watched && !c.cooling && !c.down && c.circuit == CIRCUIT_CLOSED && k->told == CIRCUIT_CLOSED &&
		!k->slots_fetch && !k->down_fetch)
		cooler_drop(k);
}

/* ---- does it move? ------------------------------------------------------------------------------------- */

static void hangs(struct cooler *k)
{
	char text[256];
	snprintf(text, sizeof text, "it has made no progress for %lld s while requests wait for its tokens",
		(long long)k->over_ms / 1000);
	k->over = false;
	k->watch_until = MONO_ZERO;
	control_hung(k->p, k->r, text);
}

/* Something of it moved in the time that is allowed after all. */
static bool moved_lately(struct cooler *k)
{
	int64_t token = atomic_load_explicit(&k->r->token_at, memory_order_relaxed);
	int64_t moved = atomic_load_explicit(&k->r->moved_at, memory_order_relaxed);
	return mono_ms_between((mono_t){ MAX(token, moved) }, mono_now()) + TOKEN_GRAIN_MS < k->over_ms;
}

/* One look at the counters; busy -1: it did not answer, which is no movement. Two looks that are alike, at
 * least NEXT_LOOK_MS apart, while its time is over, and it hangs. */
static void judge_counters(struct cooler *k, int busy, uint64_t counters)
{
	mono_t now = mono_now();
	if (busy >= 0 && k->counted && counters != k->counters) {
		atomic_store_explicit(&k->r->moved_at, now.ns, memory_order_relaxed);
		k->over = false;
		k->looks = 0;
	}
	if (busy >= 0) {
		k->counted = true;
		k->counters = counters;
	}
	k->looks++;
	if (!k->over || busy == 0 || moved_lately(k)) { /* none is busy: nothing to be done there */
		k->over = false;
		return;
	}
	if (k->looks >= 2)
		hangs(k);
}

static void on_slots(void *arg, int status, struct view body, const struct err *e)
{
	struct cooler *k = arg;
	uint64_t counters = 0;
	k->slots_fetch = NULL;
	int busy = status == 200 ? slots_read(body, &counters) : -1;
	struct counts c = counts_of(k);
	if (busy >= 0) {
		/* Busy slots are first those of requests that run; what is more belongs to the cooling ones.
		 * A request that may not have been there yet when they were counted is not among them: better
		 * one look late than a slot granted twice. */
		uint32_t still = (uint32_t)busy > c.in_use ? (uint32_t)busy - c.in_use : 0;
		if (still < c.cooling)
			pool_cooled(k->r, c.cooling - still);
	}
	if (status || (e && e->code == -ETIMEDOUT)) /* else it is gone, which others say */
		judge_counters(k, busy, counters);
	settle(k);
}

void cooler_silent(struct control_pool *p, struct pool_replica *r, bool over, int64_t limit_ms)
{
	struct cooler *k = cooler_for(p, r);
	struct loop *l = p->control->o.loop;
	if (over) {
		k->over_ms = limit_ms;
		if (!k->over)
			k->looks = MIN(k->looks, 1u); /* one at least is to come */
	}
	k->watch_ms = MIN(MAX(limit_ms / 20, (int64_t)NEXT_LOOK_MS), (int64_t)WATCH_MAX_MS);
	k->over = k->over || over;
	k->watch_until = mono_add_ms(mono_now(), limit_ms);
	if (!r->has_slots) { /* nothing can be looked at: its silence is all there is */
		if (k->over && !moved_lately(k) && counts_of(k).in_use)
			hangs(k);
		k->over = false;
		k->watch_until = MONO_ZERO;
		settle(k);
		return;
	}
	if (k->slots_fetch || (loop_timer_active(&k->slots_timer) && !over))
		return;
	/* no sooner than NEXT_LOOK_MS after the last look */
	int64_t since = k->slots_asked.ns ? mono_ms_between(k->slots_asked, mono_now()) : NEXT_LOOK_MS;
	loop_timer_start(l, &k->slots_timer, MAX(NEXT_LOOK_MS - since, (int64_t)0), look_at_slots, k);
}

static int64_t grace_ms(struct control_pool *p)
{
	struct pool_opts o;
	pool_options(p->pool, &o);
	return o.cancel_grace_ms;
}

static void grace_over(struct cooler *k)
{
	pool_cooled(k->r, k->due);
	k->due = 0;
	struct counts c = counts_of(k);
	if (c.cooling) { /* they cooled later: a grace of their own */
		k->due = c.cooling;
		loop_timer_start(k->p->control->o.loop, &k->slots_timer, grace_ms(k->p), look_at_slots, k);
	}
	settle(k);
}

static void look_at_slots(void *arg)
{
	struct cooler *k = arg;
	if (!k->r->has_slots) {
		grace_over(k);
		return;
	}
	if (k->slots_fetch || !k->target)
		return;
	struct http_fetch_req r = {
		.method = "GET", .path = "/slots", .max_body = 16 * MIB, .timeout_ms = LOOK_TIMEOUT_MS
	};
	k->slots_asked = mono_now();
	k->slots_fetch = http_fetch(k->target, &r, on_slots, k);
}

static void look_at_health(void *arg);

static void on_health(void *arg, int status, struct view body, const struct err *e)
{
	(void)body;
	(void)e;
	struct cooler *k = arg;
	k->down_fetch = NULL;
	if (status > 0 && status < 500) {
		log_info("up", k->r->id, "Replica %s answers again.", k->r->id);
		pool_replica_up(k->r, mono_now());
		settle(k);
		return;
	}
	if (!counts_of(k).there) {
		cooler_drop(k);
		return;
	}
	loop_timer_start(k->p->control->o.loop, &k->down_timer, DOWN_NEXT_MS, look_at_health, k);
}

static void look_at_health(void *arg)
{
	struct cooler *k = arg;
	if (k->down_fetch || !k->target)
		return;
	struct http_fetch_req r = { .method = "GET", .path = "/health", .timeout_ms = LOOK_TIMEOUT_MS };
	k->down_fetch = http_fetch(k->target, &r, on_health, k);
}

/* Nobody says why it does not answer, and requests wait to know. An engine that a node keeps was not seen to
 * crash; of one that nobody keeps the closed connection is all that can be known. */
static void verdict_due(void *arg)
{
	struct cooler *k = arg;
	enum pool_fate f = control_fate_now(k->p, k->r->id, k->r->generation);
	if (f == POOL_FATE_UNKNOWN)
		f = k->p->external ? POOL_FATE_CRASHED : POOL_FATE_ENDED;
	pool_replica_fate(k->r, f);
}

static int64_t down_first_ms(uint32_t downs)
{
	return MIN((int64_t)DOWN_FIRST_MS << MIN(downs ? downs - 1 : 0, 8u), (int64_t)DOWN_NEXT_MS);
}

struct found {
	struct control_pool *p;
	struct pool_replica *list[64];
	size_t n;
};

static void find_needy(void *arg, const struct pool_replica *r)
{
	struct found *f = arg;
	if ((r->cooling || r->down || r->circuit != CIRCUIT_CLOSED) && f->n < ARRAY_LEN(f->list))
		f->list[f->n++] = pool_replica_ref((struct pool_replica *)(uintptr_t)r);
}

/* ---- circuits ------------------------------------------------------------------------------------------ */

static void tell_circuit(struct cooler *k, enum pool_circuit c)
{
	const char *id = k->r->id, *pool = k->p->cfg->id;
	struct log_field fields[] = { LOG_STR("pool_id", pool), LOG_STR("replica_id", id),
		LOG_STR("state", pool_circuit_name(c)), LOG_END };
	if (k->told == c)
		return;
	k->told = c;
	switch (c) {
	case CIRCUIT_OPEN:
		metric_inc(metrics_series(
			k->p->control->o.metrics, "corral_circuit_opens_total", pool, id, NULL));
		log_event(LOG_INFO, "circuit", id, fields,
			"Replica %s lives and failed %d requests in a row, or the one that tried it: it gets "
			"none "
			"for %d s.",
			id, POOL_CIRCUIT_FAILURES, POOL_CIRCUIT_OPEN_MS / 1000);
		return;
	case CIRCUIT_HALF_OPEN:
		log_event(LOG_INFO, "circuit", id, fields, "Replica %s gets one request, to try it.", id);
		return;
	case CIRCUIT_CLOSED:
		log_event(LOG_INFO, "circuit", id, fields, "Replica %s answers again and gets requests.", id);
	}
}

static void circuit_due(void *arg);

static void follow_circuit(struct cooler *k)
{
	struct counts c = counts_of(k);
	if (!c.there)
		return;
	tell_circuit(k, c.circuit);
	loop_timer_stop(&k->circuit_timer);
	if (c.circuit == CIRCUIT_CLOSED)
		return;
	int64_t ms = POOL_CIRCUIT_OPEN_MS; /* half open, and nobody asks: looked at again */
	if (c.circuit_until.ns)
		ms = MAX(mono_ms_between(mono_now(), c.circuit_until) + 1, (int64_t)1);
	loop_timer_start(k->p->control->o.loop, &k->circuit_timer, ms, circuit_due, k);
}

static void circuit_due(void *arg)
{
	struct cooler *k = arg;
	bool opens = counts_of(k).circuit == CIRCUIT_OPEN;
	pool_circuit_due(k->r, mono_now());
	if (opens)
		tell_circuit(k, CIRCUIT_HALF_OPEN); /* the trial may have begun, and even ended */
	follow_circuit(k);
	settle(k);
}

/* Also those that are closed again, of which nothing else is to be looked at. */
static void follow_circuits(struct control_pool *p)
{
	for (struct cooler *next, *k = p->coolers; k; k = next) {
		next = k->next;
		if (k->told == CIRCUIT_CLOSED)
			continue;
		follow_circuit(k);
		if (k->told == CIRCUIT_CLOSED)
			settle(k);
	}
}

void control_look_after(struct control_pool *p)
{
	struct loop *l = p->control->o.loop;
	follow_circuits(p);
	struct found f = { .p = p };
	pool_each_replica(p->pool, find_needy, &f);
	for (size_t i = 0; i < f.n; i++) {
		struct cooler *k = cooler_for(p, f.list[i]);
		struct counts c = counts_of(k);
		follow_circuit(k);
		if (c.cooling && !loop_timer_active(&k->slots_timer) && !k->slots_fetch) {
			k->due = c.cooling;
			loop_timer_start(l, &k->slots_timer, k->r->has_slots ? FIRST_LOOK_MS : grace_ms(p),
				look_at_slots, k);
		}
		if (c.down && !loop_timer_active(&k->down_timer) && !k->down_fetch)
			loop_timer_start(l, &k->down_timer, down_first_ms(c.downs), look_at_health, k);
		if (c.down && !loop_timer_active(&k->verdict_timer))
			loop_timer_start(l, &k->verdict_timer, VERDICT_MS, verdict_due, k);
		pool_replica_unref(f.list[i]);
	}
}
