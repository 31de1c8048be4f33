/* SPDX-License-Identifier: Apache-2.0
 *
 * The state tracker, and nothing more: which nodes are there, which replicas they run, live, ready,
 * leased, draining; marks an operator set on pools; the last error of each replica. It starts, stops
 * and probes nothing.
 *
 * One thread changes it (the control loop); snapshots and the store's status may be taken on any.
 * It has no clock: every call that needs time gets `now`, so that a simulator can run it.
 *
 * Vocabulary: a node is *registered* (this run knows its replicas), *online* (heard of within
 * offline_after_ms) or Offline. A replica is *live* when its engine's health was seen for this
 * generation, *ready* when live, Ready and its node online, *accepting* when ready and neither it nor
 * its pool drains. Bounds: 4096 nodes, WIRE_REPLICAS_MAX replicas, WIRE_POOLS_MAX pools.
 *
 * Store: SQLite on a thread of its own, one transaction for all that waits. Kept are nodes known, pool
 * marks and overrides, last errors and a floor of the revision; never heartbeats or lease counts. A store
 * that cannot write leaves the registry memory-only, says so in the status, and is tried again each second.
 */
#ifndef REGISTRY_REGISTRY_H
#define REGISTRY_REGISTRY_H

#include "base/buf.h"
#include "base/clock.h"
#include "base/strv.h"
#include "wire/wire.h"

struct registry;

enum { REGISTRY_NODES_MAX = 4096 };

struct registry_opts {
	const char *db_path;      /* NULL: memory only, on purpose */
	int64_t offline_after_ms; /* 0 = 30000 */
	int64_t heartbeat_ms;     /* 0 = 10000; told to nodes */
	uint64_t revision_min;    /* the first revision is above it (and above what the store knows) */
};
/* Opens the store and loads what it knows before it returns. Never fails for the store's sake. */
struct registry *registry_new(const struct registry_opts *o) MUST_CHECK;
void registry_free(struct registry *r); /* writes what waits; NULL allowed */

/* What nodes say. */

struct registry_heard {       /* what became of a message; done with registry_heard_done */
	bool dropped;         /* older than one that was heard before */
	struct strv unproven; /* replicas said to be Ready of whose generation no health was reported: kept
				 Proving */
	struct strv refused;  /* replicas another online node runs */
};
void registry_heard_done(struct registry_heard *h);

/* Idempotent. A new boot id or pid is a new process: what it does not list is gone; a replica it lists
 * with the same generation keeps its leases. What a registration calls Ready is taken as proven, for it
 * tells of a time that this registry did not see. -ENOSPC: a bound is reached. ret may be NULL. */
int registry_register(struct registry *r, const struct wire_node *n, mono_t now, struct registry_heard *ret,
	struct err *reterr) MUST_CHECK;
/* -ENOENT: unknown, or another process of that node is registered: register again. Ready is taken when
 * Proving was reported for the generation before, or the report has load_ms (time to the first healthy
 * answer). ret may be NULL. */
int registry_heartbeat(struct registry *r, const struct wire_node *n, mono_t now, struct registry_heard *ret,
	struct err *reterr) MUST_CHECK;
/* Idempotent: forgets the node and its replicas. True if it was known. */
bool registry_deregister(struct registry *r, struct view node_id);
/* Takes nodes Offline whose last heartbeat is offline_after_ms old. Returns when to call again. */
mono_t registry_tick(struct registry *r, mono_t now);

/* Leases. A lease is a slot in use: 0 ≤ leases ≤ slots, always. */

/* 0; -ENOENT unknown; -ESHUTDOWN it or its pool drains; -EHOSTDOWN not ready; -EAGAIN no free slot. */
int registry_lease_acquire(struct registry *r, struct view replica_id) MUST_CHECK;
/* 0; -ENOENT unknown; -EALREADY nothing is leased: counted, logged, not applied. */
int registry_lease_release(struct registry *r, struct view replica_id);
struct registry_leases {
	const char *replica_id;
	uint64_t generation; /* of another one: ignored */
	uint32_t leases;     /* clamped to the slots */
};
/* Counts kept elsewhere (the pools' own), all in one revision. */
void registry_report_leases(struct registry *r, const struct registry_leases *l, size_t n);

/* Marks. */

enum registry_mark { MARK_DRAINING, MARK_STOPPED, MARK_DISABLED, MARK_COUNT };
const char *registry_mark_name(enum registry_mark m); /* "draining", … */
/* Set by an operator on a pool, survives a restart. by and at_ms (wall clock) are kept for people.
 * Setting a mark that is set keeps who set it first. False: nothing changed. */
bool registry_pool_mark(struct registry *r, struct view pool_id, enum registry_mark m, bool on,
	const char *by, int64_t at_ms);
/* A model file that stands in for the pool's configured one. Kept over a restart; whoever sets the pools
 * drops it when the configured model is another than `configured`. */
struct registry_override {
	const char *model;      /* absolute; NULL: none */
	const char *configured; /* what the configuration said then; may be NULL */
	const char *by;
	int64_t at_ms; /* wall clock */
};
/* o NULL: none any more. False: nothing changed. */
bool registry_pool_override(struct registry *r, struct view pool_id, const struct registry_override *o);
/* One replica; in memory alone, forgotten with the next generation. -ENOENT: unknown. */
int registry_drain_replica(struct registry *r, struct view replica_id, bool on);

/* Snapshots: immutable, sorted bytewise, shared. */

struct registry_node {
	const char *node_id, *boot_id, *version, *address;
	int pid;
	const struct wire_device *devices; /* in the order of their indices, the CPU last */
	size_t ndevices;
	bool online, registered; /* not registered: known from the store, has not come back yet */
	uint64_t revision;       /* of its last change */
};
struct registry_replica {
	struct wire_replica facts; /* leases and slots_free as accounted here */
	const char *node_id;
	bool online, live, ready, draining, accepting;
	uint64_t revision;
};
struct registry_pool_mark_info {
	const char *by; /* NULL: not set */
	int64_t at_ms;
};
struct registry_pool {
	const char *pool_id;
	struct registry_pool_mark_info marks[MARK_COUNT];
	struct registry_override override;
	bool held;                                      /* any mark is set: takes nothing new */
	const struct wire_model *model;                 /* NULL: no node told of one */
	const struct registry_replica *const *replicas; /* by replica id */
	size_t nreplicas;
	uint64_t revision; /* of its own last change, its replicas' apart */
};
struct registry_snapshot {
	uint64_t revision;
	const struct registry_pool *pools; /* by pool id */
	size_t npools;
	const struct registry_replica *const *replicas; /* by pool id, then replica id */
	size_t nreplicas;
	const struct registry_node *const *nodes; /* by node id */
	size_t nnodes;
};
/* Any thread; pairs with unref, on any thread, also after registry_free. */
const struct registry_snapshot *registry_snapshot_ref(struct registry *r) MUST_CHECK;
void registry_snapshot_unref(const struct registry_snapshot *s);   /* NULL allowed */
void registry_snapshot_unrefp(const struct registry_snapshot **s); /* for AUTO */
const struct registry_pool *registry_snapshot_pool(const struct registry_snapshot *s, struct view pool_id);
const struct registry_replica *registry_snapshot_replica(
	const struct registry_snapshot *s, struct view pool_id, struct view replica_id);

/* Called after each change, on the thread that made it, with the new snapshot (ref it to keep it). It
 * must not change the registry. */
typedef void registry_watch_fn(void *arg, const struct registry_snapshot *s);
void registry_watch(struct registry *r, registry_watch_fn *fn, void *arg);
void registry_unwatch(struct registry *r, registry_watch_fn *fn, void *arg);

/* The store. Any thread. */

struct registry_status {
	bool persistent;   /* a store was asked for */
	bool memory_only;  /* it cannot write (or none was asked for) */
	char problem[256]; /* why: a sentence; empty = none */
	size_t waiting;    /* rows not written yet */
	uint64_t written;  /* rows written */
	uint64_t double_releases;
};
void registry_status(struct registry *r, struct registry_status *ret);
/* Writes what waits and says whether it is on the disk: 0, -EIO (not written), -ETIMEDOUT. */
int registry_flush(struct registry *r, int64_t timeout_ms) MUST_CHECK;
/* The same without waiting: fn(arg, 0 or -EIO) is called once, on any thread (also this one, and also inside
 * this call), when what waits now is on the disk or an attempt to write it failed. At registry_free at last.
 */
typedef void registry_written_fn(void *arg, int r);
void registry_when_written(struct registry *r, registry_written_fn *fn, void *arg);

/* HTTP without a socket: whoever has one passes a request of /v1/registry/… and sends the answer.
 *   POST nodes · POST nodes/{id}/heartbeat · DELETE nodes/{id} · GET snapshot · GET watch?revision=N
 * watch answers what changed since N; when nothing did, wait is set (status 204): answer again after the
 * next change, or with the 204 when the client's patience ends. */
struct registry_reply {
	int status;
	struct buf body;   /* JSON; empty with 204 */
	char etag[24];     /* with quotes; empty = none */
	const char *allow; /* of a 405 */
	bool wait;
};
void registry_reply_done(struct registry_reply *ret);
/* Fills *ret (zeroed by the callee); returns 0, or -ENOENT when path is none of these (*ret has the 404). */
int registry_handle(struct registry *r, struct view method, struct view path, struct view query,
	struct view body, mono_t now, struct registry_reply *ret);

#endif
