/* SPDX-License-Identifier: Apache-2.0
 *
 * What the pool's tests set up alike: who waits, and replicas that are numbered.
 */
#ifndef TESTS_POOL_SETUP_H
#define TESTS_POOL_SETUP_H

#include <stdio.h>

#include "pool/pool.h"

static inline void waiter_make(struct waiter *w, struct loop *l, void (*on_grant)(void *, struct lease),
	void (*on_refused)(void *, const struct pool_refusal *, enum waiter_end), void *arg)
{
	*w = (struct waiter){ .loop = l, .on_grant = on_grant, .on_refused = on_refused, .arg = arg };
	list_init(&w->node);
}

/* "p-0", "p-1", … in their first generation. */
static inline void replica_put(struct pool *p, int i, uint32_t slots)
{
	char id[16];
	snprintf(id, sizeof id, "p-%d", i);
	struct pool_replica_facts f = {
		.id = id, .generation = 1, .address = "unix:/nowhere", .slots_total = slots
	};
	pool_replica_unref(pool_put_replica(p, &f));
}

/* Returns a reference, or NULL. */
static inline struct pool_replica *replica_take(struct pool *p, int i, enum pool_fate fate)
{
	char id[16];
	snprintf(id, sizeof id, "p-%d", i);
	return pool_take_replica(p, id, fate);
}

#endif
