/* SPDX-License-Identifier: Apache-2.0
 *
 * Who gets which slot, under the pool's lock: the queue, the verdict on a replica that failed a request, the
 * replica a suspect has for itself, and the budget for repeats.
 */
#include "base/mem.h"
#include "pool/pool_int.h"

/* ---- the budget ------------------------------------------------------------------------------------ */

static size_t second_of(struct pool *p, mono_t now)
{
	int64_t second = now.ns / 1000000000;
	size_t i = (size_t)(second % POOL_BUDGET_SECONDS);
	if (p->budget[i].second != second) {
		p->budget[i].second = second;
		p->budget[i].requests = p->budget[i].repeats = 0;
	}
	return i;
}

void pool_count_request(struct pool *p, mono_t now)
{
	p->budget[second_of(p, now)].requests++;
}

bool pool_take_repeat(struct pool *p, mono_t now)
{
	uint64_t requests = 0, repeats = 0;
	size_t at = second_of(p, now);
	for (size_t i = 0; i < POOL_BUDGET_SECONDS; i++) {
		if (p->budget[at].second - p->budget[i].second >= POOL_BUDGET_SECONDS)
			continue;
		requests += p->budget[i].requests;
		repeats += p->budget[i].repeats;
	}
	if (repeats >= MAX(requests / 10, (uint64_t)POOL_BUDGET_MIN)) {
		p->stats.spent++;
		return false;
	}
	p->budget[at].repeats++;
	return true;
}

/* ---- the queue -------------------------------------------------------------------------------------- */

static bool is_suspect(const struct waiter *w)
{
	return w->crashes > 0;
}

/* Those that are sent again stand before the others, the older first. */
static struct list *place_in_front(struct list *head, const struct waiter *w)
{
	LIST_FOREACH(o, head, struct waiter, node)
	if (!o->again || mono_before(w->since, o->since))
		return &o->node;
	return head;
}

void pool_enqueue(struct pool *p, struct waiter *w, bool front)
{
	w->state = WAITER_QUEUED;
	w->again = front;
	struct list *head = &p->waiting[w->priority];
	list_append(front ? place_in_front(head, w) : head, &w->node); /* before that node */
	p->nwaiting[w->priority]++;
	w->special = w->doubts || w->avoids || is_suspect(w);
	p->nspecial += w->special;
}

void pool_leave_queue(struct pool *p, struct waiter *w)
{
	list_remove(&w->node);
	p->nwaiting[w->priority]--;
	p->nspecial -= w->special;
	w->special = false;
}

struct waiter *pool_first_waiting(struct pool *p)
{
	for (int i = 0; i < POOL_PRIORITY_COUNT; i++) {
		struct list *n = list_first(&p->waiting[i]);
		if (n)
			return LIST_ENTRY(n, struct waiter, node);
	}
	return NULL;
}

static void deliver(void *arg)
{
	struct waiter *w = arg;
	struct lease l = w->lease;
	AUTO(mem_freep) struct pool_refusal *why = MEM_TAKE(w->refusal);
	w->lease = (struct lease){ 0 };
	w->state = WAITER_IDLE;
	if (l.replica)
		w->on_grant(w->arg, l);
	else
		w->on_refused(w->arg, why, w->end);
}

static void post(struct pool *p, struct waiter *w)
{
	w->state = WAITER_POSTED;
	list_append(&p->due, &w->node);
}

/* Waking a loop is a system call: never with the mutex held. A waiter may be gone as soon as it is posted. */
void pool_unlock_and_post(struct pool *p)
{
	struct list due, *n;
	list_init(&due);
	list_splice(&due, &p->due);
	pthread_mutex_unlock(&p->lock);
	while ((n = list_pop(&due))) {
		struct waiter *w = LIST_ENTRY(n, struct waiter, node);
		loop_post(w->loop, &w->work, deliver, w);
	}
}

void pool_refuse(struct pool *p, struct waiter *w, const struct pool_refusal *why, enum waiter_end end)
{
	w->lease = (struct lease){ 0 };
	w->refusal = NEW(struct pool_refusal); /* seldom, so a waiter is small */
	*w->refusal = *why;
	w->end = end;
	post(p, w);
}

/* ---- the verdict ------------------------------------------------------------------------------------- */

static bool give_up(struct pool *p, struct waiter *w, enum waiter_end end)
{
	if (w->state == WAITER_QUEUED)
		pool_leave_queue(p, w);
	pool_refuse(p, w, &(struct pool_refusal){ 0 }, end);
	return false;
}

static bool another_serves(struct pool *p, const struct pool_replica *than)
{
	LIST_FOREACH(r, &p->replicas, struct pool_replica, node)
	if (r != than && replica_serves(r))
		return true;
	return false;
}

/* One that serves, or is just being looked at because it failed, too. */
static bool another_may_serve(struct pool *p, const struct pool_replica *than)
{
	LIST_FOREACH(r, &p->replicas, struct pool_replica, node)
	if (r != than && !r->draining && r->circuit == CIRCUIT_CLOSED)
		return true;
	return false;
}

/* A request that r failed, which lives, is not sent again: to wait until r's circuit lets one through is to
 * try once more what failed already. */
static bool failed_for_good(struct pool *p, const struct waiter *w, const struct pool_replica *r)
{
	return w->failures >= POOL_FAILURES_MAX || (r->circuit != CIRCUIT_CLOSED && !another_may_serve(p, r));
}

bool pool_settle(struct pool *p, struct waiter *w, mono_t now)
{
	if (!w->doubts)
		return true;
	struct pool_replica *r = w->was_on;
	switch ((enum pool_fate)atomic_load_explicit(&r->fate, memory_order_acquire)) {
	case POOL_FATE_ENDED: break;
	case POOL_FATE_CRASHED:
		w->crashes += w->sent;
		if (w->crashes >= POOL_CRASHES_MAX) {
			p->stats.crashed++;
			return give_up(p, w, WAITER_CRASHED);
		}
		break;
	case POOL_FATE_UNKNOWN:
		if (r->down)
			return false;
		w->failures++;
		if (failed_for_good(p, w, r)) {
			p->stats.failed++;
			return give_up(p, w, WAITER_FAILED);
		}
		if (!pool_take_repeat(p, now))
			return give_up(p, w, WAITER_SPENT);
		w->avoids = true;
		break;
	}
	w->doubts = false;
	return true;
}

/* ---- granting ------------------------------------------------------------------------------------------ */

static bool avoids(struct pool *p, const struct waiter *w, const struct pool_replica *r)
{
	return w->avoids && r == w->was_on && another_serves(p, r);
}

/* The replica that is kept free for w, the first suspect who waits: of those it would take the one with the
 * fewest leases, which is empty soonest. Nothing new is granted on it, so that it does get empty. */
static struct pool_replica *emptiest(struct pool *p, const struct waiter *w)
{
	struct pool_replica *best = NULL;
	LIST_FOREACH(r, &p->replicas, struct pool_replica, node)
	if (replica_serves(r) && !avoids(p, w, r) &&
		(!best || r->in_use + r->cooling < best->in_use + best->cooling))
		best = r;
	return best;
}

static bool takes(struct pool *p, const struct pool_replica *r, const struct waiter *w)
{
	uint32_t used = r->in_use + r->cooling;
	if ((!replica_serves(r) && !replica_to_try(r)) || r->alone || used >= r->cap)
		return false;
	if (is_suspect(w) && used)
		return false;
	return !avoids(p, w, r);
}

static uint64_t cost_of(const struct pool_replica *r, mono_t now)
{
	uint64_t cost = atomic_load_explicit(&r->cost_ns, memory_order_relaxed);
	int64_t at = atomic_load_explicit(&r->measured_at, memory_order_relaxed);
	return cost && now.ns - at < POOL_SPEED_KEPT_MS * INT64_C(1000000) ? cost : 0;
}

/* Where both speeds are known: the one whose slots, with this request among them, have less to do for their
 * number. A card of three times the speed gets three requests for the other's one, and the first. Otherwise
 * the one of which a smaller part is busy; of two idle ones the one that is not known, so that it gets known.
 * Fractions are compared without dividing. */
static bool rather(const struct pool_replica *r, const struct pool_replica *than, mono_t now)
{
	uint64_t mine = (uint64_t)r->in_use + r->cooling + r->others;
	uint64_t theirs = (uint64_t)than->in_use + than->cooling + than->others;
	uint64_t cost = cost_of(r, now), other = cost_of(than, now);
	if (!cost || !other) {
		bool new = !cost &&other && !mine && !theirs;
		return new || mine * than->cap < theirs * r->cap;
	}
	return (mine + 1) * than->cap * cost < (theirs + 1) * r->cap * other;
}

/* Readiness, free slots, least loaded, then the smaller id, in whose order the list is: the same state gives
 * the same answer. */
static struct pool_replica *pick(
	struct pool *p, const struct waiter *w, const struct pool_replica *kept, mono_t now)
{
	struct pool_replica *best = NULL;
	LIST_FOREACH(r, &p->replicas, struct pool_replica, node)
	{
		if (r != kept && takes(p, r, w) && (!best || rather(r, best, now)))
			best = r;
	}
	return best;
}

static struct lease grant(struct pool *p, struct pool_replica *r, struct waiter *w, mono_t now)
{
	uint64_t id = ++p->next_lease;
	assert(r->in_use < r->slots_total && r->free_place);
	uint32_t place = r->free_place - 1;
	r->free_place = r->leases[place].next_free;
	r->leases[place] = (struct lease_facts){ .id = id, .since = now };
	r->in_use++;
	if (is_suspect(w))
		r->alone = id;
	w->trial = r->circuit != CIRCUIT_CLOSED;
	if (w->trial)
		circuit_try(r, id, now);
	w->was_on = NULL;
	w->avoids = w->doubts = w->sent = false;
	p->stats.granted++;
	p->stats.last_used = r->used_at = now;
	return (struct lease){ pool_replica_ref(r), id, place };
}

/* Whom a slot could be kept for: the first suspect who waits for nothing else. */
static struct pool_replica *kept_for_a_suspect(struct pool *p)
{
	for (int i = 0; p->nspecial && i < POOL_PRIORITY_COUNT; i++) {
		LIST_FOREACH(w, &p->waiting[i], struct waiter, node)
		if (is_suspect(w) && !w->doubts)
			return emptiest(p, w);
	}
	return NULL;
}

struct lease pool_grant(struct pool *p, struct waiter *w, mono_t now)
{
	struct pool_replica *r = pick(p, w, kept_for_a_suspect(p), now);
	return r ? grant(p, r, w, now) : (struct lease){ 0 };
}

static void settle_all(struct pool *p, mono_t now)
{
	for (int i = 0; p->nspecial && i < POOL_PRIORITY_COUNT; i++) {
		LIST_FOREACH(w, &p->waiting[i], struct waiter, node)
		(void)pool_settle(p, w, now);
	}
}

/* One list, first to last. False: nobody behind can have anything either. */
static bool grant_list(struct pool *p, struct list *head, struct pool_replica **kept, mono_t now)
{
	LIST_FOREACH(w, head, struct waiter, node)
	{
		if (w->doubts)
			continue;
		struct pool_replica *r = pick(p, w, *kept, now);
		if (r) {
			pool_leave_queue(p, w);
			w->lease = grant(p, r, w, now);
			post(p, w);
		} else if (is_suspect(w)) {
			*kept = *kept ? *kept : emptiest(p, w);
		} else if (!w->avoids) {
			return false;
		}
	}
	return true;
}

void pool_grant_waiting(struct pool *p, mono_t now)
{
	struct pool_replica *kept = NULL;
	if (!(p->nwaiting[POOL_INTERACTIVE] + p->nwaiting[POOL_BATCH]))
		return;
	settle_all(p, now);
	for (int i = 0; !p->closed_for_waiting && i < POOL_PRIORITY_COUNT; i++)
		if (!grant_list(p, &p->waiting[i], &kept, now))
			return;
}
