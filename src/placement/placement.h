/* SPDX-License-Identifier: Apache-2.0
 *
 * Decides which node a wanted replica goes to, and which replica a request goes to. Pure: same facts,
 * same answer on every machine, in whatever order the facts are listed. No clock, no I/O, no logging, no
 * allocation: results go into the caller's arrays. The reason of each choice is in the decision.
 *
 * Feasibility first (node live, not draining, not cordoned for what is new, model there, engine
 * possible, room below the policy's bound), then: where it runs already, fewest replicas, least loaded,
 * first by node id. Wants are decided in order of (pool id, replica id); each one placed counts for the
 * next. Strings are borrowed for the call; decisions point into the facts by index.
 *
 * OPEN: devices and memory as candidates within a node; candidates get a device then.
 */
#ifndef PLACEMENT_PLACEMENT_H
#define PLACEMENT_PLACEMENT_H

#include "base/base.h"

#define PLACEMENT_NONE SIZE_MAX

struct placement_node {
	const char *node_id;
	bool live;     /* heard of in time */
	bool cordoned; /* nothing new; what runs stays */
	bool draining; /* what runs has to go, too */
};
struct placement_offer { /* what a node could do for a pool; none listed: it does not know the model */
	const char *node_id, *pool_id;
	bool model_present;
	bool engine_possible;
};
struct placement_running { /* a replica that is there and uses its node: started, not stopped or failed */
	const char *node_id, *pool_id, *replica_id;
	uint32_t slots, leases;
};
struct placement_want {
	const char *pool_id, *replica_id;
};
struct placement_facts {
	const struct placement_node *nodes; /* each id once */
	size_t nnodes;
	const struct placement_offer *offers;
	size_t noffers;
	const struct placement_running *running;
	size_t nrunning;
	const struct placement_want *wants; /* each replica id once */
	size_t nwants;
};
struct placement_policy {
	uint32_t replicas_per_node; /* 0 = no bound */
};

enum placement_reason {
	/* of the chosen one */
	PLACE_RUNS_HERE = 0,
	PLACE_ONLY_ONE, /* no other was feasible */
	PLACE_FEWEST_REPLICAS,
	PLACE_LEAST_LOADED,
	PLACE_FIRST_BY_ID,
	/* of those that could have taken it */
	PLACE_RUNS_ELSEWHERE,
	PLACE_MORE_REPLICAS,
	PLACE_MORE_LOADED,
	PLACE_LATER_BY_ID,
	/* of those that could not */
	PLACE_NODE_OFFLINE,
	PLACE_NODE_DRAINING,
	PLACE_NODE_CORDONED,
	PLACE_NO_MODEL,
	PLACE_NO_ENGINE,
	PLACE_NODE_FULL,
	/* of the decision */
	PLACE_NO_NODES, /* none is known */
	PLACE_NONE_FEASIBLE,
	PLACE_REASON_COUNT
};
const char *placement_reason_text(enum placement_reason r); /* "it runs here already", … */

struct placement_candidate {
	size_t node; /* index in facts.nodes */
	enum placement_reason reason;
};
struct placement_decision {
	size_t want; /* index in facts.wants */
	size_t node; /* index in facts.nodes, or PLACEMENT_NONE */
	enum placement_reason reason;
	const struct placement_candidate *candidates; /* every node once, by node id; the chosen one too */
	size_t ncandidates;
};

struct placement_load {
	uint64_t replicas, slots, leases;
};
/* What the caller provides; contents need not be set. */
struct placement_arrays {
	size_t *node_order, *want_order;        /* nnodes, nwants */
	struct placement_load *loads;           /* nnodes */
	struct placement_candidate *candidates; /* nnodes × nwants */
};
/* Fills ret[0..nwants-1], in order of (pool id, replica id). policy may be NULL. */
void placement_plan(const struct placement_facts *f, const struct placement_policy *policy,
	const struct placement_arrays *a, struct placement_decision *ret);

struct placement_replica {
	const char *replica_id;
	bool ready, draining;
	uint32_t slots_total, leases;
};
/* The replica a request goes to: ready, not draining, a free slot; least loaded (leases ÷ slots), then
 * first by id. Index, or PLACEMENT_NONE. */
size_t placement_pick_replica(const struct placement_replica *r, size_t n) MUST_CHECK;

#endif
