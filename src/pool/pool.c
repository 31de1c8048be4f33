/* SPDX-License-Identifier: Apache-2.0
 *
 * Asking, closing, and what is shown. Collect under the lock, act after it: a grant is decided under the
 * pool's mutex (grant.c) and posted to the waiter's loop.
 */
#include "pool/pool_int.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

static void take_progress(struct pool *p, const struct pool_progress *g)
{
	p->o.progress = *g;
	bool off = g->mode == POOL_PROGRESS_OFF || g->every_ms <= 0;
	atomic_store_explicit(&p->progress_after_ms, off ? -1 : g->after_ms, memory_order_relaxed);
}

int64_t pool_progress_after_ms(const struct pool *p)
{
	return atomic_load_explicit(&p->progress_after_ms, memory_order_relaxed);
}

struct pool *pool_new(const struct pool_opts *o)
{
	struct pool *p = NEW(struct pool);
	p->o = *o;
	p->id = mem_strdup(o->id);
	p->o.id = p->id;
	atomic_init(&p->refs, 1);
	atomic_init(&p->demanded, false);
	atomic_init(&p->mean_prefilled, 0);
	atomic_init(&p->mean_tokens, 0);
	atomic_init(&p->reads_measured, false);
	atomic_init(&p->keeps, o->keeps);
	take_progress(p, &o->progress);
	p->start.pct = -1;
	pthread_mutex_init(&p->lock, NULL);
	list_init(&p->replicas);
	list_init(&p->due);
	for (int i = 0; i < POOL_PRIORITY_COUNT; i++)
		list_init(&p->waiting[i]);
	return p;
}

struct pool *pool_ref(struct pool *p)
{
	atomic_fetch_add_explicit(&p->refs, 1, memory_order_relaxed);
	return p;
}

void pool_unref(struct pool *p)
{
	if (!p || atomic_fetch_sub_explicit(&p->refs, 1, memory_order_acq_rel) != 1)
		return;
	struct list *n;
	while ((n = list_pop(&p->replicas))) {
		struct pool_replica *r = LIST_ENTRY(n, struct pool_replica, node);
		atomic_store_explicit(&r->gone, true, memory_order_release);
		pool_replica_unref(r);
	}
	pthread_mutex_destroy(&p->lock);
	if (p->o.on_free)
		p->o.on_free(p->o.arg);
	free(p->id);
	free(p);
}

const char *pool_id(const struct pool *p)
{
	return p->id;
}

void pool_options(struct pool *p, struct pool_opts *ret)
{
	pthread_mutex_lock(&p->lock);
	*ret = p->o;
	pthread_mutex_unlock(&p->lock);
}

void pool_set_limits(struct pool *p, const struct pool_opts *o)
{
	pthread_mutex_lock(&p->lock);
	p->o.queue_capacity = o->queue_capacity;
	p->o.slots = o->slots;
	p->o.policy = o->policy;
	p->o.keeps = o->keeps;
	atomic_store_explicit(&p->keeps, o->keeps, memory_order_relaxed);
	p->o.max_wait_ms = o->max_wait_ms;
	p->o.cancel_grace_ms = o->cancel_grace_ms;
	p->o.stall_ms = o->stall_ms;
	p->o.first_token_ms = o->first_token_ms;
	take_progress(p, &o->progress);
	pthread_mutex_unlock(&p->lock);
}

void pool_demand_seen(struct pool *p)
{
	atomic_store_explicit(&p->demanded, false, memory_order_release);
}

bool pool_may_repeat(struct pool *p, mono_t now)
{
	pthread_mutex_lock(&p->lock);
	bool may = pool_take_repeat(p, now);
	pthread_mutex_unlock(&p->lock);
	return may;
}

void pool_demand(struct pool *p)
{
	if (p->o.on_demand && !atomic_exchange_explicit(&p->demanded, true, memory_order_acq_rel))
		p->o.on_demand(p->o.arg, p);
}

/* ---- asking ---------------------------------------------------------------------------------------- */

/* The oldest of those who wait for the first time: they stand behind the others. */
static struct waiter *oldest(struct list *head)
{
	LIST_FOREACH(w, head, struct waiter, node)
	if (!w->again)
		return w;
	return NULL;
}

/* Makes room by the policy; false: the newcomer is refused. */
static bool make_room(struct pool *p, enum pool_priority newcomer)
{
	if (p->o.policy != POOL_DROP_LRU)
		return false;
	struct waiter *victim = oldest(&p->waiting[POOL_BATCH]);
	if (!victim && newcomer == POOL_INTERACTIVE)
		victim = oldest(&p->waiting[POOL_INTERACTIVE]);
	if (!victim)
		return false;
	pool_leave_queue(p, victim);
	p->stats.dropped++;
	pool_refuse(p, victim, &(struct pool_refusal){ 0 }, WAITER_DROPPED);
	return true;
}

/* How many may wait now: the capacity, and those who will get a slot at once when the engine is there. */
static uint32_t waiting_max(struct pool *p)
{
	uint32_t total = 0, used = 0;
	LIST_FOREACH(r, &p->replicas, struct pool_replica, node)
	{
		total += r->slots_total;
		used += r->in_use + r->cooling;
	}
	total = MAX(total, p->o.slots);
	return p->o.queue_capacity + (total > used ? total - used : 0);
}

static enum pool_answer acquire_locked(
	struct pool *p, struct waiter *w, bool front, mono_t now, struct lease *ret, struct pool_refusal *why)
{
	if (p->closed.code) {
		*why = p->closed;
		return POOL_CLOSED;
	}
	if (!front)
		pool_count_request(p, now);
	if (pool_settle(p, w, now)) {
		*ret = pool_grant(p, w, now);
		if (ret->replica)
			return POOL_GRANTED;
	} else if (w->state == WAITER_POSTED) {
		return POOL_QUEUED; /* its refusal is on its way */
	}
	uint32_t waiting = p->nwaiting[POOL_INTERACTIVE] + p->nwaiting[POOL_BATCH];
	if (!front && waiting >= waiting_max(p) && !make_room(p, w->priority)) {
		p->stats.refused_full++;
		return POOL_FULL;
	}
	pool_enqueue(p, w, front);
	return POOL_QUEUED;
}

enum pool_answer pool_acquire(
	struct pool *p, struct waiter *w, bool front, mono_t now, struct lease *ret, struct pool_refusal *why)
{
	assert(w->state == WAITER_IDLE);
	if (!front)
		w->since = now;
	pthread_mutex_lock(&p->lock);
	enum pool_answer a = acquire_locked(p, w, front, now, ret, why);
	pool_unlock(p);
	if (a == POOL_QUEUED ||
		a == POOL_CLOSED) /* closed: a cause that may be gone is looked at when asked */
		pool_demand(p);
	return a;
}

bool pool_cancel(struct pool *p, struct waiter *w)
{
	pthread_mutex_lock(&p->lock);
	bool waited = w->state == WAITER_QUEUED;
	if (waited) {
		bool suspect = w->crashes > 0;
		pool_leave_queue(p, w);
		w->state = WAITER_IDLE;
		if (suspect) /* what was kept free for it is anybody's */
			pool_grant_waiting(p, mono_now());
	}
	pool_unlock(p);
	return waited;
}

uint32_t pool_position(struct pool *p, struct waiter *w)
{
	uint32_t n = 0;
	pthread_mutex_lock(&p->lock);
	if (w->state == WAITER_QUEUED) {
		if (w->priority == POOL_BATCH)
			n = p->nwaiting[POOL_INTERACTIVE];
		for (struct list *l = &w->node; l != &p->waiting[w->priority]; l = l->prev)
			n++;
	}
	pthread_mutex_unlock(&p->lock);
	return n;
}

void pool_close(struct pool *p, const struct pool_refusal *why, bool keep_waiting)
{
	pthread_mutex_lock(&p->lock);
	p->closed = *why;
	p->closed_for_waiting = why->code && !keep_waiting;
	struct waiter *w;
	while (p->closed_for_waiting && (w = pool_first_waiting(p))) {
		pool_leave_queue(p, w);
		pool_refuse(p, w, why, WAITER_CLOSED);
	}
	if (!why->code)
		pool_grant_waiting(p, mono_now());
	pool_unlock(p);
}

void pool_get_stats(struct pool *p, struct pool_stats *ret)
{
	pthread_mutex_lock(&p->lock);
	*ret = p->stats;
	ret->replicas = ret->slots_total = ret->slots_free = ret->leases = ret->cooling = ret->circuits = 0;
	LIST_FOREACH(r, &p->replicas, struct pool_replica, node)
	{
		ret->replicas++;
		ret->slots_total += r->slots_total;
		ret->leases += r->in_use;
		ret->cooling += r->cooling;
		uint32_t used = r->in_use + r->cooling;
		ret->circuits += r->circuit != CIRCUIT_CLOSED;
		if (replica_serves(r) && !r->alone && used < r->cap)
			ret->slots_free += r->cap - used;
	}
	for (int i = 0; i < POOL_PRIORITY_COUNT; i++)
		ret->waiting[i] = p->nwaiting[i];
	ret->closed = p->closed.code != 0;
	pthread_mutex_unlock(&p->lock);
}

void pool_set_status(struct pool *p, const char *text)
{
	pthread_mutex_lock(&p->lock);
	snprintf(p->status, sizeof p->status, "%s", text);
	pthread_mutex_unlock(&p->lock);
}

void pool_get_status(struct pool *p, char out[POOL_STATUS_MAX])
{
	pthread_mutex_lock(&p->lock);
	memcpy(out, p->status, sizeof p->status);
	pthread_mutex_unlock(&p->lock);
}

void pool_set_start(struct pool *p, const struct pool_start *s)
{
	pthread_mutex_lock(&p->lock);
	p->start = *s;
	pthread_mutex_unlock(&p->lock);
}

void pool_get_start(struct pool *p, struct pool_start *ret)
{
	pthread_mutex_lock(&p->lock);
	*ret = p->start;
	pthread_mutex_unlock(&p->lock);
}

struct pool_replica *pool_any_replica(struct pool *p)
{
	struct pool_replica *found = NULL;
	pthread_mutex_lock(&p->lock);
	LIST_FOREACH(r, &p->replicas, struct pool_replica, node)
	{
		if (replica_serves(r) && !r->alone &&
			!atomic_load_explicit(&r->proving, memory_order_relaxed)) {
			found = pool_replica_ref(r);
			break;
		}
	}
	pthread_mutex_unlock(&p->lock);
	return found;
}
