/* SPDX-License-Identifier: Apache-2.0
 *
 * Whose conversations a replica holds, where its engine's are kept (kv_cache): what its last requests were,
 * and whether all it was ever asked came from one.
 */
#include "base/mem.h"
#include "pool/pool_int.h"

bool pool_keeps(const struct pool *p)
{
	return atomic_load_explicit(&p->keeps, memory_order_relaxed);
}

void pool_replica_asked(struct pool_replica *r, const struct pool_talk *t)
{
	pthread_mutex_lock(&r->pool->lock);
	r->several = r->several || (r->nasked && r->owner != t->owner);
	r->owner = t->owner;
	r->nasked++;
	pthread_mutex_unlock(&r->pool->lock);
}

void pool_replica_said(struct pool_replica *r, const struct pool_said *s)
{
	pthread_mutex_lock(&r->pool->lock);
	if (!r->said)
		r->said = mem_alloc(POOL_SAID_MAX * sizeof *r->said);
	r->said[r->nsaid++ % POOL_SAID_MAX] = *s;
	pthread_mutex_unlock(&r->pool->lock);
}

bool pool_get_talks(struct pool *p, const char *replica_id, struct pool_talks *ret)
{
	bool found = false;
	*ret = (struct pool_talks){ .n = 0 };
	pthread_mutex_lock(&p->lock);
	LIST_FOREACH(r, &p->replicas, struct pool_replica, node)
	{
		if (strcmp(r->id, replica_id) != 0)
			continue;
		found = true;
		ret->nasked = r->nasked;
		ret->nsaid = r->nsaid;
		ret->owner = r->owner;
		ret->several = r->several;
		for (uint64_t i = r->nsaid; i-- > 0 && ret->n < POOL_SAID_MAX;)
			ret->said[ret->n++] = r->said[i % POOL_SAID_MAX];
		break;
	}
	pthread_mutex_unlock(&p->lock);
	return found;
}

size_t pool_waiting_talks(struct pool *p, struct pool_talk *ret, size_t max)
{
	size_t n = 0;
	pthread_mutex_lock(&p->lock);
	for (int k = 0; k < POOL_PRIORITY_COUNT; k++) {
		LIST_FOREACH(w, &p->waiting[k], struct waiter, node)
		if (n < max)
			ret[n++] = w->talk;
	}
	pthread_mutex_unlock(&p->lock);
	return n;
}
