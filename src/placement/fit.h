/* SPDX-License-Identifier: Apache-2.0
 *
 * Decides on which devices one replica goes, how its model is divided, and who has to leave for it. Pure:
 * same facts, same answer on every machine, in whatever order pools and replicas are listed. No clock, no
 * I/O, no logging, no allocation. Strings are borrowed for the call; the plan points into the facts by index.
 *
 * The order of what is tried (each step whole, before the next is thought of):
 *   1. the whole model on one device, as it is free now
 *   2. the whole model over several devices of one node and kind, whole layers by free bytes
 *   3. 1 after idle replicas left (eviction), 4. 2 after eviction
 *   (1 to 4 without the devices to avoid, then with them)
 *   5. offload: auto, where the whole would not do even if all but the pinned had left: a mixture of experts
 *      with experts of the first layers in host memory (no eviction, then with), then whole layers in host
 *      memory; as little of it as goes; numbers are explicit, nothing is left to the engine
 *   6. the host alone, where the policy lets the CPU serve
 * A model that would do once busy ones are done waits for that (ret.later) rather than start in half.
 * A pool that asks for `gpus: N` devices per replica, or whose engine takes a stated share of each (memory),
 * gets exactly N devices of one node and kind, each with that share.
 *
 * Among what can: the smallest loss, the least in host memory, the fewest devices, apart from replicas of the
 * same pool, preferred (the operator's wish, warm files), on a node without such replicas, least loaded
 * (replicas ÷ speed; an unknown speed counts as the fastest), most bytes free after placing, faster, first by
 * (node, index).
 *
 * Who leaves: expired ones first, then the smallest expected loss (chance of reuse × reload time) in sum, and
 * of equal ones the fewest, the largest, the first by id; pinned and busy ones never, nor one that starts.
 * Nobody leaves who could stay. Up to FIT_EXACT idle ones on the devices in question the smallest loss is
 * found by search (bounded in steps), beyond that it is the better of two greedy choices.
 *
 * Bounds: FIT_SPLIT_MAX devices a replica, FIT_LAYERS_MAX layers (a need with more is not divided),
 * FIT_VICTIMS_MAX that leave for one. An integrated device's memory is the host's: it is asked for there too.
 * Costs: a pass over the devices a step, one over replicas and their uses when somebody has to leave; with a
 * table (fit_table.h) a pass over the nodes and a look at those that can be the best.
 */
#ifndef PLACEMENT_FIT_H
#define PLACEMENT_FIT_H

#include "base/base.h"
#include "base/buf.h"

enum { FIT_SPLIT_MAX = 16, FIT_LAYERS_MAX = 1024, FIT_VICTIMS_MAX = 64, FIT_EXACT = 24 };
#define FIT_NONE SIZE_MAX

/* ---- what a replica needs ------------------------------------------------------------------------- */

struct fit_layer {        /* bytes, where this layer is */
	uint64_t weights; /* without experts */
	uint64_t experts; /* of a mixture: what can stay in host memory by itself */
	uint64_t cache;   /* keys and values, recurrent state: for all slots */
};
struct fit_need {
	const struct fit_layer *layers; /* nlayers; first to last */
	size_t nlayers;                 /* 0: not known; then `whole` counts */
	uint64_t whole;                 /* on one device, when nothing finer is known; 0: nothing is known */
	uint64_t output;                /* on the last device */
	uint64_t extra;                 /* on the first device: projector, draft model */
	uint64_t compute;               /* on each device */
	uint64_t overhead;              /* on each device: the vendor's runtime */
	uint64_t host;         /* in host memory wherever it goes: --cache-ram, compute, not mapped weights */
	uint64_t host_mapped;  /* page cache of its files: wished for, not reserved */
	uint64_t host_compute; /* more of it when layers stay in host memory */
};
/* All of it on one device. Sums that overflow stay at UINT64_MAX. */
uint64_t fit_need_whole(const struct fit_need *n);

/* ---- what there is -------------------------------------------------------------------------------- */

enum { FIT_KIND_CPU = 0 }; /* other kinds: any number; engines use devices of one kind at a time */

struct fit_device {
	const char *node_id, *device_id;
	uint32_t index; /* on its node */
	uint8_t kind;
	bool usable;   /* answers, and its node is live, not draining */
	bool cordoned; /* nothing new */
	bool integrated;
	uint64_t capacity; /* bytes; 0: not known, then nothing is refused for room */
	uint64_t reserved; /* by our replicas: reservation before Ready, what it measured after */
	uint64_t foreign;  /* held by strangers, and what left without being seen to return */
	uint64_t limit;    /* an operator's bound on what ours may hold there; 0: none */
	uint32_t speed;    /* tokens/s, relative; 0: not known */
	uint32_t replicas; /* of ours on it */
};
/* Devices of one node stand together, the host (FIT_KIND_CPU) last. */

struct fit_replica { /* one that holds memory */
	const char *replica_id, *pool_id;
	size_t first_use, nuses; /* in facts.uses */
	bool busy;               /* a lease, a cooling slot, a waiting request of its own, or it starts */
	bool pinned;
	bool idle_only; /* leaves for others only when it is expired */
	bool expired;   /* its keep_alive is over */
	double loss;    /* expected, in seconds: chance of reuse × reload time × evict_cost */
};
struct fit_use {
	size_t device; /* in facts.devices */
	uint64_t bytes;
};
struct fit_facts {
	const struct fit_device *devices;
	size_t ndevices;
	const struct fit_replica *replicas;
	size_t nreplicas;
	const struct fit_use *uses;
	size_t nuses;
	uint32_t replicas_max; /* an operator's bound on replicas of ours on a node; 0: none */
	const struct fit_table
		*table; /* kept beside them, see fit_table.h; NULL: each call finds out itself */
};

/* ---- what is wanted ------------------------------------------------------------------------------- */

enum fit_offload { FIT_OFFLOAD_NEVER, FIT_OFFLOAD_AUTO };
struct fit_want {
	const char *pool_id, *replica_id;
	const struct fit_need *need;
	/* which devices: a bit each in the order of facts.devices; NULL: all that are not integrated */
	const uint64_t *mask, *prefer, *avoid;
	const char *node_id; /* NULL: any */
	enum fit_offload offload;
	bool cpu; /* the host alone may serve it */
	bool may_evict;
	/* A bit for each of facts.replicas, or NULL: those that must stay; those of its node that must go
	 * before it starts; those of the same pool. */
	const uint64_t *protect, *never_with, *siblings;
	uint32_t gpus;     /* devices per replica; 0: as many as it takes */
	uint64_t share;    /* bytes of each device, for engines that take a share; 0: from need */
	uint64_t headroom; /* bytes of each device that stay free */
};

/* ---- the answer ----------------------------------------------------------------------------------- */

enum fit_how {
	FIT_NO = 0,
	FIT_ONE,     /* whole, on one device */
	FIT_SPLIT,   /* whole, over several */
	FIT_EXPERTS, /* experts of some layers in host memory */
	FIT_PARTIAL, /* whole layers in host memory */
	FIT_HOST,    /* the host alone */
	FIT_SHARE,   /* a stated share of n devices */
};
enum fit_reason { /* of a device that was not taken */
	FIT_TAKEN = 0,
	FIT_NOT_IN_MASK,
	FIT_NOT_USABLE,
	FIT_CORDONED,
	FIT_INTEGRATED,
	FIT_OTHER_KIND,
	FIT_AVOIDED,
	FIT_TOO_SMALL,      /* would not do if it were empty */
	FIT_FULL,           /* and who holds it may not leave */
	FIT_NEEDS_EVICTION, /* would do if idle ones left, but another does without */
	FIT_HOST_FULL,
	FIT_BUDGET,     /* an operator's bound */
	FIT_OTHER_NODE, /* it was asked for on one node */
	FIT_NEVER_WITH, /* one it may not run with stays there */
	FIT_TOO_FEW,    /* so many devices as it asks for are not there */
	FIT_LESS_GOOD,  /* it could have been this one */
	FIT_REASON_COUNT
};
const char *fit_reason_text(enum fit_reason r);
const char *fit_how_text(enum fit_how h); /* "on one device", … */

struct fit_part {
	size_t device;
	uint32_t layers; /* whole layers; the output counts as one more on the last */
	uint64_t bytes;  /* to be reserved */
};
struct fit_plan {
	enum fit_how how;
	size_t nparts;
	struct fit_part parts[FIT_SPLIT_MAX]; /* in the order of their indices */
	uint32_t gpu_layers;                  /* layers on devices, output included; nlayers + 1: all */
	uint32_t cpu_experts;                 /* the first so many layers keep their experts in host memory */
	size_t host;                          /* the host's entry in facts.devices; FIT_NONE: there is none */
	uint64_t host_bytes;                  /* to be reserved there */
	size_t nvictims;
	size_t victims[FIT_VICTIMS_MAX]; /* in facts.replicas, in the order they should leave */
	double loss;                     /* of all of them */
	/* FIT_NO: the device that came closest, and how many bytes are missing there (after all evictions) */
	size_t closest;  /* FIT_NONE: no device may be used at all */
	size_t together; /* so many devices were thought of, closest is the roomiest; missing is of their sum
			  */
	uint64_t missing;
	bool host_missing; /* it is host memory that is missing; closest is the host */
	bool later;        /* it would do once those that are busy now had left */
};

/* ret_reasons: one per device, or NULL. scratch: see fit_scratch_bytes. */
void fit_plan(const struct fit_facts *f, const struct fit_want *w, void *scratch, struct fit_plan *ret,
	enum fit_reason *ret_reasons);
size_t fit_scratch_bytes(const struct fit_facts *f); /* of memory aligned for any type */

/* What would make it fit, for a person: tries the needs a caller computed for smaller settings, in order;
 * the first that fits without further evictions. Returns its index, or n. */
size_t fit_first_that_fits(const struct fit_facts *f, const struct fit_want *w,
	const struct fit_need *const *needs, size_t n, void *scratch);

#endif
