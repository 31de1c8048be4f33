/* SPDX-License-Identifier: Apache-2.0
 *
 * Looks after replicas that need looking at: leases that cool (their client left), and replicas that a
 * request found failing. One struct cooler a replica, there while there is something to look at.
 *
 * An engine that shows its slots is read soon after the first lease cools, and then no more often than
 * every 2 s: faster reading keeps a cancelled, non-streamed request of llama-server alive. 100 ms is the
 * time in which it notices a closed stream (1 to 70 ms measured).
 */
#include "control/control_int.h"
#include "control/fate.h"

#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "log/log.h"

#include "base/mem.h"

enum {
	FIRST_LOOK_MS = 100,
	NEXT_LOOK_MS = 2000,
	DOWN_FIRST_MS = 20, /* twice that each time until a request is answered */
	DOWN_NEXT_MS = 500,
	VERDICT_MS = 2000, /* a replica that is down and of which no node says what became of it */
	REACH_MS = 1000,   /* a request has reached its engine so long after the lease */
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
	struct loop_timer slots_timer, down_timer, verdict_timer;
	mono_t slots_asked; /* when the look that is under way began */
	struct http_fetch *slots_fetch, *down_fetch;
	uint32_t due; /* without /slots: what was cooling when the grace began */
};

static void cooler_free(struct cooler *k)
{
	loop_timer_stop(&k->slots_timer);
	loop_timer_stop(&k->down_timer);
	loop_timer_stop(&k->verdict_timer);
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
};

static void read_counts(void *arg, const struct pool_replica *r)
{
	struct counts *c = arg;
	if (r != c->r)
		return;
	for (uint32_t i = 0; i < r->in_use; i++)
		c->in_use += mono_before(r->leases[i].since, c->reached);
	c->cooling = r->cooling;
	c->down = r->down;
	c->downs = r->downs;
	c->there = true;
}

static struct counts counts_of(struct cooler *k)
{
	struct counts c = { .r = k->r, .reached = mono_add_ms(k->slots_asked, -REACH_MS) };
	pool_each_replica(k->p->pool, read_counts, &c);
	return c;
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
	if (c.cooling && !k->slots_fetch && !loop_timer_active(&k->slots_timer))
		loop_timer_start(k->p->control->o.loop, &k->slots_timer, NEXT_LOOK_MS, look_at_slots, k);
	if (!c.down)
		loop_timer_stop(&k->verdict_timer);
	if (!c.cooling && !c.down && !k->slots_fetch && !k->down_fetch)
		cooler_drop(k);
}

static int busy_slots(struct view body)
{
	yyjson_doc *d = yyjson_read(body.p, body.n, 0);
	yyjson_val *list = yyjson_doc_get_root(d), *slot;
	int busy = yyjson_is_arr(list) ? 0 : -1;
	size_t i, n;
	yyjson_arr_foreach(list, i, n, slot) busy += yyjson_get_bool(yyjson_obj_get(slot, "is_processing"));
	yyjson_doc_free(d);
	return busy;
}

static void on_slots(void *arg, int status, struct view body, const struct err *e)
{
	(void)e;
	struct cooler *k = arg;
	k->slots_fetch = NULL;
	int busy = status == 200 && body.n ? busy_slots(body) : -1;
	struct counts c = counts_of(k);
	if (busy >= 0) {
		/* Busy slots are first those of requests that run; what is more belongs to the cooling ones.
		 * A request that may not have been there yet when they were counted is not among them: better
		 * one look late than a slot granted twice. */
		uint32_t still = (uint32_t)busy > c.in_use ? (uint32_t)busy - c.in_use : 0;
		if (still < c.cooling)
			pool_cooled(k->r, c.cooling - still);
	}
	settle(k);
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
		pool_replica_up(k->r);
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
	if ((r->cooling || r->down) && f->n < ARRAY_LEN(f->list))
		f->list[f->n++] = pool_replica_ref((struct pool_replica *)(uintptr_t)r);
}

static struct cooler *cooler_for(struct control_pool *p, struct pool_replica *r)
{
	for (struct cooler *k = p->coolers; k; k = k->next)
		if (k->r == r)
			return k;
	struct cooler *k = NEW(struct cooler);
	k->p = p;
	k->r = pool_replica_ref(r);
	k->target = http_target_new(
		p->control->o.loop, r->address, &(struct http_target_opts){ .idle_ms = 1000 }, NULL);
	k->next = p->coolers;
	p->coolers = k;
	return k;
}

void control_look_after(struct control_pool *p)
{
	struct loop *l = p->control->o.loop;
	struct found f = { .p = p };
	pool_each_replica(p->pool, find_needy, &f);
	for (size_t i = 0; i < f.n; i++) {
		struct cooler *k = cooler_for(p, f.list[i]);
		struct counts c = counts_of(k);
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
