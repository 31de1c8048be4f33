/* SPDX-License-Identifier: Apache-2.0
 *
 * How many replicas a pool should have, and which: pure. The same facts give the same answer; no clock,
 * no I/O, no allocation.
 */
#ifndef CONTROL_PLAN_H
#define CONTROL_PLAN_H

#include "base/clock.h"

struct plan_slot { /* one possible replica */
	/* facts */
	uint32_t leases, cooling; /* of the replica traffic knows; 0 when it knows none */
	bool failed;              /* cannot serve, and will not by itself soon */
	bool ready;
	/* kept from one plan to the next */
	bool wanted;
	mono_t busy_at; /* when it last had a lease, or was wanted */
};

struct plan_facts {
	mono_t now;
	uint32_t min, max;     /* replicas */
	uint32_t slots;        /* of one replica */
	int64_t keep_alive_ms; /* -1 = for ever */
	uint32_t waiting;      /* requests in the queue */
	bool held;             /* draining, disabled, being stopped: nothing is wanted */
	bool start;            /* an operator or preload wants one */
	bool always;           /* an external engine: all are wanted */
};

/* Decides slot[i].wanted for the n possible replicas. Returns when to ask again (the next keep_alive to
 * run out), MONO_NEVER when only events matter. */
mono_t plan_replicas(const struct plan_facts *f, struct plan_slot *slots, uint32_t n);

#endif
