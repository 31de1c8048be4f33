/* SPDX-License-Identifier: Apache-2.0
 *
 * The pool's inside. Invariants, under the lock: for each replica 0 <= in_use + cooling <= slots_total
 * (slots that shrank are given back as leases end), in_use places of leases are held; nobody waits while
 * a slot could be granted; being on a waiting list and WAITER_QUEUED are the same.
 */
#ifndef POOL_POOL_INT_H
#define POOL_POOL_INT_H

#include <pthread.h>

#include "pool/pool.h"

struct pool {
	struct pool_opts o;
	char *id;
	atomic_uint refs;
	atomic_bool demanded; /* on_demand was called and not seen yet */
	/* Of a request, SPEED_MEAN_SCALE times: prompt tokens read, tokens written; 0: not known. */
	atomic_uint_fast32_t mean_prefilled, mean_tokens;
	atomic_bool reads_measured;            /* of some replica it is known how fast it reads */
	atomic_int_fast64_t progress_after_ms; /* of o.progress, to be read without the lock; -1: off */
	atomic_bool keeps;                     /* o.keeps, likewise */
	pthread_mutex_t lock;
	/* under lock */
	struct list replicas; /* by id, ascending; a reference each */
	struct list
		waiting[POOL_PRIORITY_COUNT]; /* those who asked and were granted nothing yet, oldest first */
	uint32_t nwaiting[POOL_PRIORITY_COUNT];
	struct list due;   /* those whose grant or refusal is posted when the lock is let go */
	uint32_t nspecial; /* of them: with a doubt, a suspicion or a replica to avoid */
	struct {           /* the last POOL_BUDGET_SECONDS, by second modulo that */
		int64_t second;
		uint32_t requests, repeats;
	} budget[POOL_BUDGET_SECONDS];
	uint64_t next_lease;
	struct pool_refusal closed; /* code 0: open */
	bool closed_for_waiting;
	char status[POOL_STATUS_MAX];
	struct pool_start start;
	struct pool_stats stats; /* the running counts of it alone */
};

enum { SPEED_MEAN_SCALE = 16 };
/* ns, 18 minutes: multiplied by leases and slots it fits into 64 bits. */
#define SPEED_COST_MAX (UINT64_C(1) << 40)

/* grant.c, under the lock */
/* A slot for w now, or an empty lease. */
struct lease pool_grant(struct pool *p, struct waiter *w, mono_t now);
void pool_enqueue(struct pool *p, struct waiter *w, bool front);
void pool_leave_queue(struct pool *p, struct waiter *w);
struct waiter *pool_first_waiting(struct pool *p);
void pool_refuse(struct pool *p, struct waiter *w, const struct pool_refusal *why, enum waiter_end end);
/* What w waits to know of was_on, as far as it is known: false when w waits on or was refused. */
bool pool_settle(struct pool *p, struct waiter *w, mono_t now);
void pool_grant_waiting(struct pool *p, mono_t now);
void pool_count_request(struct pool *p, mono_t now);
bool pool_take_repeat(struct pool *p, mono_t now);

/* circuit.c, under the lock. True: it changed, which on_demand is to tell. */
bool circuit_failed(struct pool_replica *r, uint64_t lease, mono_t now); /* lease 0: of whichever */
bool circuit_spoke(struct pool_replica *r, uint64_t lease);

/* Granted while it is half open: the trial. Here and not in circuit.c: the way of every request passes it. */
static inline void circuit_try(struct pool_replica *r, uint64_t lease, mono_t now)
{
	r->trial = lease;
	r->first_trial = r->first_trial ? r->first_trial : lease;
	r->circuit_until = mono_add_ms(now, POOL_CIRCUIT_OPEN_MS);
}

/* It takes requests, busy or not. */
static inline bool replica_serves(const struct pool_replica *r)
{
	return !(r->down | r->draining | (r->circuit != CIRCUIT_CLOSED));
}

/* It is on trial, and nobody has it yet. */
static inline bool replica_to_try(const struct pool_replica *r)
{
	return r->circuit == CIRCUIT_HALF_OPEN && !r->trial && !r->down && !r->draining;
}

void pool_unlock_and_post(struct pool *p);
/* Lets the lock go and posts what is due; after anything that may have granted or refused. */
static inline void pool_unlock(struct pool *p)
{
	if (list_empty(&p->due))
		pthread_mutex_unlock(&p->lock);
	else
		pool_unlock_and_post(p);
}
void pool_demand(struct pool *p); /* without the lock */

#endif
