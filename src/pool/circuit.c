/* SPDX-License-Identifier: Apache-2.0
 *
 * The circuit of a replica: whether requests are sent to it after it failed some and lived.
 *
 *   closed     POOL_CIRCUIT_FAILURES in a row                  → open
 *   open       POOL_CIRCUIT_OPEN_MS over (pool_circuit_due)    → half open
 *   half open  the trial is answered → closed; it fails → open; it ends without either → the next has it;
 *              it lasts for POOL_CIRCUIT_OPEN_MS (an answer in one piece has its first byte at its end): the
 *              next has one too, and each of them decides
 */
#include "pool/pool_int.h"

const char *pool_circuit_name(enum pool_circuit c)
{
	switch (c) {
	case CIRCUIT_CLOSED: return "closed";
	case CIRCUIT_OPEN: return "open";
	case CIRCUIT_HALF_OPEN: return "half-open";
	}
	return "";
}

/* The only place where a circuit changes. */
static void set_circuit(struct pool_replica *r, enum pool_circuit c, mono_t until)
{
	r->circuit = c;
	r->circuit_until = until;
	r->failures = 0;
	r->trial = r->first_trial = 0;
}

/* While it is half open nothing but trials is granted. */
static bool is_trial(const struct pool_replica *r, uint64_t lease)
{
	return r->first_trial && lease >= r->first_trial;
}

bool circuit_failed(struct pool_replica *r, uint64_t lease, mono_t now)
{
	switch (r->circuit) {
	case CIRCUIT_CLOSED:
		if (++r->failures < POOL_CIRCUIT_FAILURES)
			return false;
		break;
	case CIRCUIT_OPEN: return false;
	case CIRCUIT_HALF_OPEN:
		if (lease && !is_trial(r, lease))
			return false;
		break;
	}
	set_circuit(r, CIRCUIT_OPEN, mono_add_ms(now, POOL_CIRCUIT_OPEN_MS));
	return true;
}

bool circuit_spoke(struct pool_replica *r, uint64_t lease)
{
	r->failures = 0;
	if (r->circuit != CIRCUIT_HALF_OPEN || !is_trial(r, lease))
		return false;
	set_circuit(r, CIRCUIT_CLOSED, MONO_ZERO);
	return true;
}

void pool_circuit_due(struct pool_replica *r, mono_t now)
{
	struct pool *p = r->pool;
	pthread_mutex_lock(&p->lock);
	if (r->circuit != CIRCUIT_CLOSED && !mono_before(now, r->circuit_until)) {
		if (r->circuit == CIRCUIT_OPEN)
			set_circuit(r, CIRCUIT_HALF_OPEN, MONO_ZERO);
		r->trial = 0;
		pool_grant_waiting(p, now);
	}
	pool_unlock(p);
}
