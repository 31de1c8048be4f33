/* SPDX-License-Identifier: Apache-2.0
 *
 * The reconciler: what the configuration and the traffic want against what the registry says there is.
 * It pushes the desired replicas of each node over the wire, puts ready replicas into the pools and takes
 * dying ones out, unloads what is idle, and carries out start, stop, restart and drain. Control loop only.
 *
 * It starts no process and keeps no second copy of facts: each reconciliation reads the registry's
 * snapshot and the pools' own counts.
 */
#ifndef CONTROL_CONTROL_H
#define CONTROL_CONTROL_H

#include "config/config.h"
#include "http/client.h"
#include "metrics/metrics.h"
#include "pool/pool.h"
#include "registry/registry.h"

struct control;

struct control_opts {
	struct loop *loop;
	struct config *config; /* a reference is taken */
	struct registry *registry;
	struct metrics *metrics;
	/* The set of pools changed (at the start, later by a reload): publish it to the data loops. */
	void (*on_pools)(void *arg);
	/* A replica left its pool: every data loop must let go of its connections (cut: also those in use).
	 * The reference is the callee's. */
	void (*on_replica_gone)(void *arg, struct pool_replica *r, bool cut);
	void *arg;
};
struct control *control_new(const struct control_opts *o) MUST_CHECK;
/* No pool may have a waiting request any more. */
void control_free(struct control *c);
/* Changes nothing by itself any more; what runs goes on. Before control_quiesce, when the daemon ends. */
void control_pause(struct control *c);
/* Takes every replica out of its pool and puts none in again: the daemon is ending. */
void control_quiesce(struct control *c);
/* Takes another configuration: pools are added, removed (their requests may end first), changed in place
 * (queue, keep_alive, aliases …), or get new engines one after the other (a changed spec), each new one Ready
 * before the old one goes where both fit. Publishes by on_pools. The node has taken it before. */
void control_set_config(struct control *c, struct config *cfg);
/* Looks at everything again at the end of this round. */
void control_wake(struct control *c);
/* From any thread: a request's first byte came from a proving replica. r's reference is passed on. */
void control_proved(struct control *c, struct pool_replica *r);
/* From any thread: a request on r has been silent for half (over: for all) of limit_ms. r's reference is
 * passed on. The engine's slots are looked at; when the time is over and nothing moves, it is hung and taken
 * out. */
void control_silent(struct control *c, struct pool_replica *r, bool over, int64_t limit_ms);

/* ---- what the API shows and asks --------------------------------------------------------------------- */

enum pool_state { /* of a pool as a whole, the best of its replicas */
	POOL_STATE_UNLOADED,
	POOL_STATE_PROVISIONING,
	POOL_STATE_STARTING,
	POOL_STATE_PROVING,
	POOL_STATE_READY,
	POOL_STATE_DRAINING,
	POOL_STATE_BACKOFF,
	POOL_STATE_FAILED,
};
const char *pool_state_name(enum pool_state s);

/* A struct control_pool stays valid until the configuration drops it and all of it has stopped: use it within
 * the call it was got in, and find it anew later. */
struct control_pool;
struct control_pool *control_pool_find(struct control *c, struct view id_or_alias);
struct control_pool *control_pool_at(struct control *c, size_t i); /* NULL after the last; by id */
const struct config_pool *control_pool_config(const struct control_pool *p);
struct pool *control_pool_traffic(const struct control_pool *p);
const char *control_pool_model(const struct control_pool *p); /* what it serves; NULL: its engine's own */
bool control_pool_reloading(const struct control_pool *p);
const struct wire_error *control_pool_reload_error(
	const struct control_pool *p);                        /* NULL: the last went well */
const struct config *control_config(const struct control *c); /* the one in force */
enum pool_state control_pool_state(struct control *c, struct control_pool *p);
/* It has `preload`, and neither was ready since this process began nor failed. */
bool control_pool_preloading(struct control *c, struct control_pool *p);
/* The node's own address for its provisioner API ("unix:…"), or NULL while none is online. */
const char *control_node_address(struct control *c);
/* Appends what the node has to know of whose conversations its engines hold, before it stops them, as far as
 * there is room. */
void control_talks(struct control *c, struct buf *b);
/* Puts the pools' lease counts into the registry; before anybody reads both. */
void control_report_leases(struct control *c);

struct control_done { /* how an operation ended */
	bool force_stopped;
	int64_t duration_ms;
	uint32_t final_leases;
};
typedef void control_done_fn(void *arg, const struct control_done *d);

/* Tells fn once, on the control loop, whether what was ordered so far is on the disk (at most 2 s; false: it
 * holds in memory, and is written when the disk takes it). May be called inside this call. */
typedef void control_kept_fn(void *arg, bool kept);
void control_when_kept(struct control *c, control_kept_fn *fn, void *arg);

/* True for a disabled pool, with the sentence that says by whom: start, restart and reload do nothing then.
 */
bool control_refuses(struct control *c, struct control_pool *p, char *out, size_t cap);
void control_start(struct control *c, struct control_pool *p, const char *by);
/* Lets leases end (deadline_ms), then unloads; the next request starts it again. fn may be NULL. */
void control_stop(struct control *c, struct control_pool *p, int64_t deadline_ms, const char *by,
	control_done_fn *fn, void *arg);
void control_restart(struct control *c, struct control_pool *p, int64_t deadline_ms, const char *by);
/* Refuses new leases until undrain or start, waits for none to be left, then unloads. */
void control_drain(struct control *c, struct control_pool *p, int64_t deadline_ms, const char *by,
	control_done_fn *fn, void *arg);
void control_undrain(struct control *c, struct control_pool *p, const char *by);
/* Keeps the pool down until enable, also over a restart of the daemon: requests are told who and when. Leases
 * that run may end (deadline_ms). start, restart and undrain do not take it back. */
void control_disable(struct control *c, struct control_pool *p, int64_t deadline_ms, const char *by);
void control_enable(struct control *c, struct control_pool *p, const char *by);

struct control_reload_done {
	bool ok;      /* false: the old engines serve on, and message says why */
	bool swapped; /* the old one had to stop first, because both did not fit */
	int64_t duration_ms;
	const char *message, *hint; /* sentences, valid during the call; hint may be NULL */
};
typedef void control_reload_fn(void *arg, const struct control_reload_done *d);
/* New engines for the pool, with `model` (an absolute path the caller has checked; NULL: the present one) in
 * place of the present model; kept over a restart of the daemon until the configuration's own model changes.
 * A pool of which nothing runs starts one engine as the proof. -EBUSY: another operation is under way
 * (reterr says which); -EOPNOTSUPP: it has no engine of ours, or no model. fn is called once, on the control
 * loop, after the call. */
int control_reload(struct control *c, struct control_pool *p, const char *model, const char *by,
	control_reload_fn *fn, void *arg, struct err *reterr) MUST_CHECK;
/* Appends a JSON object: what a replica of p needs, which device would take it and why not the others, who
 * would have to leave, what would make it fit, and what its replicas hold. 0 or -ENOBUFS. Nothing is changed.
 */
int control_explain(struct control *c, struct control_pool *p, struct buf *out) MUST_CHECK;
/* Forgets fn and arg of whatever operation or reload of p would call them: its client has left. */
void control_forget(struct control *c, struct control_pool *p, void *arg);

#endif
