/* SPDX-License-Identifier: Apache-2.0
 *
 * Inside the simulator: one run's state, shared by its files.
 *   simulate.c    events, requests, memory, and the run
 *   sim_decide.c  who is loaded, who leaves for it, whose request starts
 */
#ifndef PLACEMENT_SIM_INT_H
#define PLACEMENT_SIM_INT_H

#include "placement/ledger.h"
#include "placement/simulate.h"

enum { HORIZON_MS = 60000 }; /* a reuse within it would pay a reload */

enum event_kind { ARRIVE, READY, REPLY, RETURNED, FAIL, BACK, LOOK };
struct event {
	int64_t at;
	uint64_t seq; /* of equal times the first scheduled comes first */
	enum event_kind kind;
	size_t index;
	uint64_t generation; /* of the model; another: it is void */
};
struct heap {
	struct event *v;
	size_t n, cap;
	uint64_t seq;
};

enum model_state { OUT, LOADS, LOADED, LEAVES };
struct model {
	enum model_state state;
	uint64_t generation;
	size_t first; /* its queue, linked by `next` of requests; SIM_NONE: empty */
	uint32_t running;
	size_t contender; /* the model that waits for its room; SIM_NONE */
	bool wanted;      /* others had to leave for it */
	bool told;        /* that it waits */
	struct swap_loaded swap;
	int64_t used_ms; /* last arrival or reply */
	double rate;     /* requests per ms, decaying */
	size_t nparts;
	struct ledger_part parts[FIT_SPLIT_MAX + 1];
};
struct request {
	size_t next;
	enum { UNBORN, QUEUED, RUNNING, ENDED } state;
	unsigned crashes;
	int64_t bound_ms;
};
struct sim {
	const struct sim_setup *s;
	struct sim_outcome *out;
	struct sim_result *ret;
	struct buf *log;
	int64_t now;
	struct heap events;
	struct model *models;
	struct request *requests;
	size_t *followers; /* heads of lists of requests by what they follow, linked by `next` while unborn */
	size_t *order;     /* models that wait, oldest first */
	struct ledger *ledger;
	uint64_t *used; /* per device, as a driver would read it */
	struct fit_device *devices;
	uint32_t *away; /* per device: failures that keep it away */
	struct fit_replica *replicas;
	struct fit_use *uses;
	size_t *replica_model;
	void *scratch;
	int64_t looks_at; /* the earliest LOOK that is scheduled */
};

static inline mono_t sim_mono(int64_t ms)
{
	return mono_add_ms(MONO_ZERO, ms);
}

/* simulate.c */

/* Notes the first invariant that is broken. */
void sim_breaks(struct sim *x, const char *what, size_t index);
void sim_schedule(struct sim *x, int64_t at, enum event_kind kind, size_t index, uint64_t generation);
size_t sim_dequeue(struct sim *x, struct model *m);
void sim_start(struct sim *x, size_t model, size_t i);
void sim_answer(struct sim *x, size_t i, bool failed);
struct ledger_owner sim_owner(const struct sim *x, size_t model);
void sim_uses(struct sim *x, const struct model *m, bool more);
void sim_leave(struct sim *x, size_t model);

/* sim_decide.c */

/* Decides on everybody that waits, starts what may start, and checks that no device holds too much. */
void sim_settle(struct sim *x);

#endif
