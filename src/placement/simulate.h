/* SPDX-License-Identifier: Apache-2.0
 *
 * Models that take turns on devices, in virtual time, decided by the same code as in earnest: fit_plan
 * chooses places and victims, the ledger books memory, swap decides turns. One replica a model.
 * Deterministic: the same setup gives the same result.
 *
 * Invariants are checked at every event; what is broken first is in the result: memory booked beyond a
 * device, more running than slots, a busy or pinned model evicted, a request answered twice, lost, or started
 * later than its bound.
 *
 * The bound of a request: swap.max_wait, and then what may go before it: the requests that were there when it
 * came, each with a load and the return of memory of its own, what ran or loaded just then, and all of it
 * once more for each failure. With two models and one that keeps busy that is a load and a reply.
 */
#ifndef PLACEMENT_SIMULATE_H
#define PLACEMENT_SIMULATE_H

#include "base/buf.h"
#include "placement/fit.h"
#include "placement/swap.h"

struct sim_model {
	const char *id;
	uint64_t bytes, host_bytes;
	uint32_t slots;
	int64_t load_ms, return_ms; /* until it is ready; from its stop until its memory is free */
	int64_t keep_alive_ms;      /* 0: for ever */
	bool pinned;
	double evict_cost; /* 0: 1 */
};
#define SIM_NONE SIZE_MAX
struct sim_request {
	int64_t at_ms; /* since the start, or since the reply to `after` */
	size_t after;  /* an earlier request of the setup; SIM_NONE: by the clock */
	size_t model;
	int64_t service_ms;
	uint64_t key;
	bool tool_calls; /* its reply ends in them */
};
enum sim_failing {
	SIM_CRASH, /* an engine: index is the model */
	SIM_LOST,  /* a device, and the engines on it */
	SIM_GONE,  /* the node of that device, and all engines on it */
};
struct sim_failure {
	int64_t at_ms;
	size_t index;
	enum sim_failing what;
	int64_t back_ms; /* the device or node is there again; 0: it does not come back */
};
struct sim_setup {
	const struct fit_device
		*devices; /* as fit_plan wants them; reserved and replicas are the simulator's */
	size_t ndevices;
	const struct sim_model *models;
	size_t nmodels;
	const struct sim_request *requests;
	size_t nrequests;
	const struct sim_failure *failures;
	size_t nfailures;
	struct swap_policy policy;
};

struct sim_outcome { /* of a request */
	int64_t arrived_ms, started_ms, ended_ms;
	unsigned answers; /* 1 */
	bool failed;      /* no room for its model at all, or at two crashes */
};
struct sim_result {
	size_t answered, failed;
	size_t loads, evictions, refusals, decisions;
	size_t crashes; /* of engines, those of devices and nodes among them */
	size_t swaps;   /* loads for which another had to leave */
	int64_t end_ms;
	int64_t wait_ms[4];  /* mean, p50, p99, most: from arrival to start */
	double goodput;      /* answered per second */
	const char *broken;  /* the invariant that was, or NULL */
	size_t broken_index; /* of the request or model */
};

/* outcomes: nrequests. log: a line per load, eviction and refusal with its reason after a colon, and one when
 * a model begins to wait for another; or NULL. Fails with -EINVAL on a setup that makes no sense.
 */
int simulate(const struct sim_setup *s, struct sim_outcome *outcomes, struct sim_result *ret,
	struct buf *log) MUST_CHECK;

#endif
