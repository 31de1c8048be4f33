/* SPDX-License-Identifier: Apache-2.0
 *
 * One node: makes what orchestratord wants of this machine true and says what is. Serves the node's API
 * (wire/wire.h) on <runtime_dir>/provisioner.sock, starts engines under keepers, proves them, restarts
 * them, stops them, and reports to the registry. It has no engine as its child: ending this process
 * leaves every engine running, and the next one finds them by their keepers.
 *
 * One loop. Bounds: WIRE_BODY_MAX a body, WIRE_REPLICAS_MAX replicas, 64 followed logs at a time.
 *
 * Beyond the wire: GET /v1/node and /v1/node/replicas answer a struct wire_node; PUT /v1/node/replicas
 * answers the same; POST …/prove takes {"generation": N, "by": "request"|"own"}; GET …/logs takes
 * tail=N and follow=1; POST …/condemn takes {"generation": N, "cause": "hung", "message": "…"} and is 409 for
 * another generation; POST /v1/node/config/reload takes {"dry_run": B}, answers {"pools": N}, or 400 with
 * what is wrong in the file; POST /v1/node/stop takes {"deadline_ms": N, "talks": as in the desired set} and
 * answers {"stopped": N, "killed": N} when nothing is left. Errors are {"error": {"message": …}}. A replica
 * in PROVING has an address only while it waits for a request to be its canary.
 */
#ifndef NODE_NODE_H
#define NODE_NODE_H

#include "base/buf.h"
#include "gpu/monitor.h"
#include "loop/loop.h"
#include "provision/catalog/catalog.h"
#include "provision/engine/engine.h"
#include "provision/model/want.h"
#include "supervise/restart.h"
#include "wire/wire.h"

enum node_canary { NODE_CANARY_AUTO, NODE_CANARY_ALWAYS, NODE_CANARY_NEVER };

enum node_kv_save { NODE_KV_AUTO, NODE_KV_ON, NODE_KV_OFF };

struct node_pool {
	const char *id;
	struct engine_def engine;
	const char *model_path; /* absolute; NULL: the engine brings its own */
	/* What may have to be fetched, in place of model_path; ref NULL: nothing. The engine gets its files'
	 * arguments (--mmproj, …) before its own. */
	struct model_set model;
	const char *model_sha256; /* of its one file, as configured; NULL */
	uint32_t ctx;             /* tokens per request; 0 = auto: what read_model says */
	uint32_t slots;           /* 0 = 2 */
	enum node_canary canary;
	int64_t start_timeout_ms;   /* 0 = 5 min + 20 s for each GiB of the model */
	int64_t grace_ms;           /* between SIGTERM and SIGKILL: 0 = 5 s */
	const char *devices;        /* a mask (base/mask.h); NULL = "auto" */
	const char *prefer, *avoid; /* lists of devices; NULL: none. Checked here, the planner's to follow */
	const char *spec;           /* fingerprint of its configuration (config_pool_spec); NULL = none */
	enum node_kv_save kv_save;  /* whether conversations outlive the engine (provision/kv/kv.h) */
	uint64_t kv_max_bytes;      /* of disk they may take; 0 = by what is free */
	bool pinned;                /* its model is not removed */
	/* for engines of the table that are no llama.cpp: devices it is divided over, bytes it may take of
	 * each; 0: nobody said */
	uint32_t gpus;
	uint64_t memory;
	uint64_t cache_ram_mib; /* llama.cpp's prompt cache in host memory: 0 = 1 GiB */
};

/* Fills what is known of a pool's model: path, problem, sizes, the ctx that `auto` became. ret has pool_id
 * and path already. */
typedef void node_model_fn(void *arg, const struct node_pool *pool, struct wire_model *ret);

struct node_opts {
	const char *node_id, *version;
	const char *runtime_dir, *state_dir, *log_dir;
	const char *keeper_path;
	const char
		*registry_address; /* "unix:…" or "http://…"; NULL: reports to nobody and is never orphaned */
	const struct node_pool *pools; /* copied */
	size_t npools;
	bool allow_cpu, offline;
	uint32_t build_jobs; /* compilers at a time when an engine is built; 0 = auto */
	bool allow_package_installs;
	enum gpu_policy gpu;
	/* How devices are watched (on_change and arg are the node's own). NULL: nobody looks, masks are
	 * passed on as they are. */
	const struct gpu_monitor_opts *gpus;
	unsigned starting_max; /* engines loading at the same time; 0 = 2 */
	/* POST /v1/node/config/reload: reads the configuration again and, unless dry_run, calls
	 * node_set_pools. Negative: nothing was changed, and ret_why is the answer. NULL: the route is
	 * refused. */
	int (*on_reload)(void *arg, bool dry_run, struct buf *ret_why);
	uint64_t nofile;                      /* engines' soft limit of descriptors; 0 = as ours */
	const struct restart_policy *restart; /* NULL = RESTART_POLICY_DEFAULT */
	uint64_t seed;                        /* of the jitter */
	int64_t heartbeat_ms;                 /* 0 = 10 s */
	int64_t probe_every_ms;    /* of live engines and external servers, and the answer's time: 0 = 5 s */
	int64_t orphan_grace_ms;   /* without an orchestratord and an engine, end after: 0 = 10 s */
	node_model_fn *read_model; /* may be NULL */
	/* How models are fetched; the caller's, for the node's life (node_fetching_changed after a change of
	 * what is in it). NULL: a model that is not there is an error. */
	const struct model_ensure_opts *fetch;
	uint64_t models_quota;   /* bytes of disk that fetched models may take; 0: no bound */
	struct catalog *catalog; /* the caller's; NULL: nothing is kept of models */
	loop_fn *on_done;        /* nothing is left to do: the process may end. Called once, from the loop */
	void *arg;               /* for read_model and on_done */
};

struct node;
/* Takes the node's lock in runtime_dir, finds the engines that run, listens, reports. */
int node_new(struct loop *l, const struct node_opts *o, struct node **ret, struct err *reterr) MUST_CHECK;
/* Other pools than before (copied). Engines that run go on as they were started; an engine that has to be
 * started again while its own pool's spec is wanted still, is started from what it was started from. */
void node_set_pools(struct node *n, const struct node_pool *pools, size_t npools);
/* Policy or places are others now: what was refused may be had. */
void node_fetching_changed(struct node *n, uint64_t models_quota);
void node_set_starting_max(struct node *n, unsigned max); /* 0 = 2; holds for starts from now on */
/* Leaves engines as they are. NULL allowed. */
void node_free(struct node *n);
/* Stops every engine, kills what is left after the deadline, then on_done. */
void node_stop(struct node *n, int64_t deadline_ms);

/* The GPUs of a list that an engine could be built for; at most max. */
size_t node_build_devices(const struct gpu_list *l, struct engine_device *out, size_t max);

#endif
