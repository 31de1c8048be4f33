/* SPDX-License-Identifier: Apache-2.0
 *
 * The node's inside, for the files of this folder alone. Files: pools.c definitions of pools · replica.c the
 * state machine · verdict.c what follows an end · start.c build, command line, keeper · gate.c how many load
 * at once · kv.c, kv_restore.c conversations that outlive it · learn.c what it takes · adopt.c engines that
 * run already · prove.c readiness and canary · external.c servers that are not ours · desired.c what is
 * wanted · facts.c what is said · handoff.c the files about an engine · report.c the registry · tidy.c files
 * that are nobody's any more · api.c, logs.c, catalog.c, engines_*.c the routes (api_int.h) · stream.c
 * answers that last (stream_int.h) · models.c models that have to be fetched (models_int.h).
 */
#ifndef NODE_NODE_INT_H
#define NODE_NODE_INT_H

#include "base/list.h"
#include "base/map.h"
#include "http/client.h"
#include "http/server.h"
#include "node/node.h"
#include "provision/engine/steps.h"
#include "provision/engine/table.h"
#include "supervise/keeper.h"
#include "supervise/probe.h"

enum {
	NODE_TAIL_LINES_MAX = 10000,
	NODE_TAIL_BYTES_MAX = 4 * 1024 * 1024,
	NODE_ID_MAX = 128, /* of a replica, because it becomes a file's name */
};

/* A definition of a pool. The node refers to those of today's configuration, a replica to the one it was
 * started from: that one lives as long as the replica. */
enum { POOL_OLDER_MAX = 4 };
struct pool {
	unsigned refs;
	struct node_pool conf; /* strings are ours */
	struct strv own_args;  /* the engine's, without those for the model's files */
	struct engine_build build;
	bool have_build;
	struct wire_model model;
	struct wire_model *header; /* of one that is absent: what its header says; NULL: that is not known */
	/* Today's alone: its specs of before, the newest first, for a reload that turns back after the last
	 * engine of one of them has stopped. References. */
	struct pool *older[POOL_OLDER_MAX];
	size_t nolder;
};

/* What the one request of ours to the engine is about. */
enum replica_ask { ASK_NOTHING, ASK_CANARY, ASK_PROPS, ASK_MODELS };

struct failure { /* found by us, told once the engine has ended; cause NONE = none */
	enum wire_cause cause;
	char *message, *hint;
	bool unanswered; /* the engine said nothing: perhaps because it had died */
};

struct replica {
	char told_phase[24]; /* the last step of getting its engine that was logged, */
	int told_tenth;      /* and how far it was, in tenths */
	struct node *node;
	/* A reference: what it was last started from, or is to be. NULL: no definition of this node fits. */
	struct pool *pool;
	char *id, *pool_id;
	/* What its process was started from, also one of an earlier run; what was last tried to be started.
	 */
	char *spec, *model;
	struct wire_model own_model; /* of `model` */
	char *engine_version, *engine_why;
	bool no_definition; /* FAILED for want of a definition: tried again when others come */
	struct wire_want want;
	bool wanted;
	bool epoch_known; /* want.restart_epoch was compared with one before */
	uint32_t epoch;
	enum replica_state state;
	uint64_t generation;
	struct restart restart;
	struct loop_timer retry; /* BACKOFF, FAILED by the breaker */
	mono_t retry_at;
	struct loop_work work; /* reconcile at the end of the round */

	struct list gate; /* waits for its turn to load */
	bool loading;     /* counts among those that load */

	struct engine_job *job;
	struct engine_launch launch;
	struct keeper *keeper;
	bool external;               /* a server that is not ours is being watched */
	bool stopping;               /* we asked it to end */
	bool held;                   /* it may start again once its end has been told */
	bool proven;                 /* adopted from a run in which it had been ready */
	struct replica_kv *kv;       /* NULL: its conversations end with it */
	struct replica_learn *learn; /* NULL: nothing is learned of it */
	struct failure failure;
	char *socket_path;
	char *key,
		*key_file; /* what its engine asks of who talks to it, and where that stands; NULL: nothing */
	uint32_t ctx, slots; /* of this start */
	char *devices;       /* what it got: "cpu", "0,1" */
	char *device_words, *device_note;
	struct strv device_env;
	const char *gpu_kind;   /* "cuda", …, of its devices; NULL: not known */
	uint64_t device_memory; /* of the smallest device it got; 0: not known */
	bool on_cpu, cpu_only;  /* cpu_only: because that was asked for */
	bool waits_devices;     /* PROVISIONING until the driver has answered */
	bool ctx_promised;      /* ctx is known, so that a smaller one is a failure */

	struct http_target *target;
	struct engine_load load; /* what it said last; load_seq rises with each answer */
	uint64_t load_seq;
	bool load_known;
	struct http_fetch *load_fetch;
	struct loop_timer load_timer;
	struct probe probe;
	struct http_fetch *probing, *asking;
	enum replica_ask ask;
	bool canary_waits;      /* for a request */
	unsigned canary_silent; /* times it got no answer at all */
	struct loop_timer canary_timer;
	char *probe_text; /* the last answer that was none, for people */

	struct wire_error last_error;
	char *phase, *progress_text;
	int progress_pct;
	int64_t progress_eta_ms;   /* of a fetch; -1: not known */
	struct fetch_watch *fetch; /* its model is being fetched */
	bool waits_plan;           /* PROVISIONING until control has seen what the model needs */
	bool refused;              /* FAILED: its model is not to be had as things stand */
	uint32_t restarts;
	int pid;
	uint64_t pid_start;
	int64_t started_at_ms, load_ms;
	char **remote_models;
};

struct stop_wait { /* a POST /v1/node/stop that waits for its answer */
	struct list node;
	struct http_exchange *x;
};

struct report {
	struct http_target *target;
	struct http_fetch *fetch;
	uint64_t devices_gen, figures_gen; /* of the message under way; 0: it has no devices */
	bool again;                        /* what an answer under way is to is old: register anew after it */
	bool registered, registering, dirty,
		waiting; /* waiting: the timer runs because the registry is away */
	unsigned failures;
	uint64_t seq;
	struct loop_timer timer, slow;
	struct loop_work work;
	bool away;
	mono_t away_since;
};

struct node {
	struct loop *loop;
	struct node_opts opts; /* strings are ours */
	struct restart_policy policy;
	char boot_id[BOOT_ID_LEN + 1];
	char *engines_dir, *builds_dir, *kv_dir, *socket_path, *address;
	int lock_fd, listen_fd;
	struct http_server *server;
	struct pool **pools; /* references, in the order of the configuration */
	size_t npools;
	struct map replicas; /* id → struct replica */
	struct rnd rnd;
	uint64_t fence, revision;
	bool told; /* somebody has said what is wanted */
	bool stopping, done;
	unsigned stopped, killed; /* since stopping */
	struct list stop_waits;
	struct loop_timer stop_deadline, orphan;
	struct report report;
	struct gpu_monitor *gpus;           /* NULL: nobody looks at devices */
	uint64_t devices_gen, devices_sent; /* rises when the set changes; what the registry knows */
	uint64_t figures_gen, figures_sent; /* the same of memory and load */
	mono_t devices_told;
	int64_t device_error_told_ms; /* wall clock of the last one in the log */
	struct loop_timer figures;
	struct loop_timer calm; /* an engine has ended not long ago */
	struct http_fetch *leaving;
	struct steps_store records; /* of the catalog: who remembers steps */
	struct list gate;           /* replicas that wait for their turn to load */
	struct loop_work gate_work;
	struct list fetches;        /* struct fetch: models that are being fetched */
	struct list streams;        /* of stream.c */
	struct list removals;       /* of catalog.c */
	struct list looks;          /* of engines_verbs.c */
	size_t nstreams[2];         /* of each kind */
	struct engine_sweep *sweep; /* old containers are being looked for */
	bool sweep_again;           /* and once more after that */
	struct list found;          /* keepers that are being taken over */
};

/* node.c */
void node_replica_gone(struct node *n); /* one fewer: is anything left to do? */
void node_orphan_check(struct node *n);

/* pools.c */
struct pool *node_pool_ref(struct pool *p);
void node_pool_drop(struct pool **p); /* NULL inside allowed */
/* Of today's configuration; NULL: none. Not a reference. */
struct pool *node_pool_find(struct node *n, const char *id);
/* The definition that has this spec, of today or one an engine was started from; spec NULL: today's, whatever
 * it is. A definition without a spec fits every one. NULL: none. Not a reference. */
struct pool *node_pool_find_spec(struct node *n, const char *id, const char *spec);
/* The replica starts from p (may be NULL) from now on. */
void replica_bind(struct replica *r, struct pool *p);
/* What is known of the model it is started from: of the file that stands in, else of the configured one. */
const struct wire_model *replica_model(const struct replica *r);
/* Reads again what there is at path (may be NULL); a file that is not there yet may come. */
void node_read_model(struct node *n, const struct node_pool *c, const char *path, struct wire_model *m);
/* Why so long a context cannot be had of the model: a sentence the caller frees; NULL = it can. */
char *node_ctx_problem(const struct node_pool *c, const struct wire_model *m, uint32_t ctx) MUST_CHECK;
void pools_set(struct node *n, const struct node_pool *pools, size_t npools);
void pools_done(struct node *n);

/* replica.c */
struct replica *replica_new(struct node *n, const char *id, const char *pool_id);
void replica_free(struct replica *r);
void replica_set(struct replica *r, enum replica_state to); /* the only writer of r->state */
void replica_kick(struct replica *r);                       /* reconcile at the end of the round */
void replica_reconcile(struct replica *r);
/* Whether something else is wanted than what was tried last: another model, another definition, or one where
 * there was none. */
bool replica_variant_changed(const struct replica *r);
void replica_quiet(struct replica *r);      /* ends probes, requests and connections of ours */
void replica_stop(struct replica *r);       /* ends whatever it does; STOPPED follows */
bool replica_idle(const struct replica *r); /* nothing runs and nothing is being made for it */
void replica_error(struct replica *r, enum wire_cause c, const char *hint, const char *fmt, ...) PRINTF(4, 5);
void replica_progress(struct replica *r, const char *phase, int pct, const char *fmt, ...) PRINTF(4, 5);
/* A start that cannot succeed by being tried again. */
void replica_fail(struct replica *r);
void replica_retry_in(struct replica *r, int64_t ms); /* begins again then, if it is still wanted */
void replica_release(struct replica *r);              /* its end has been told */
void replica_clear_failure(struct failure *f);
/* The engine must go because of c; the verdict follows its end. */
void replica_condemn(struct replica *r, enum wire_cause c, const char *hint, const char *fmt, ...)
	PRINTF(4, 5);

/* verdict.c */
/* An end that was no wish of ours: backoff, breaker or Failed. */
void replica_crashed(struct replica *r, enum restart_end how);
/* An end that was seen by nobody: e is what the keeper had written. */
void replica_ended_unseen(struct replica *r, const struct keeper_end *e);
extern const struct keeper_ops replica_keeper_ops;

/* devices.c */
void devices_init(struct node *n, const struct gpu_monitor_opts *o);
void devices_done(struct node *n);
/* What r may use becomes r->devices and what goes with it: 0. -EAGAIN: nobody knows yet, replica_provide is
 * called when it is known. Else r is FAILED. */
int devices_take(struct replica *r) MUST_CHECK;
void devices_busy(struct node *n);  /* a replica's state changed: how often to look */
void devices_ended(struct node *n); /* an engine has: its memory comes back */
/* Adds them when they are due (all: in any case). */
void devices_facts(struct node *n, bool all, struct wire_node *f);
/* What r's processes hold of the GPU of that index, as its driver says; 0: it does not say. */
uint64_t devices_used(const struct replica *r, uint32_t index);
const char *devices_kind(const struct node *n, uint32_t index); /* "cuda", …; "unknown" */
/* Of all devices and the host together; 0: not known, or no GPU is among them. */
uint64_t devices_memory(const struct node *n);
void devices_were_told(struct node *n, uint64_t devices_gen, uint64_t figures_gen);

/* start.c */
void replica_provide(struct replica *r); /* devices, then the engine's build, then the engine */
void replica_begin(struct replica *r);
void replica_launch(struct replica *r); /* its engine's program is there, and it is its turn */
int replica_launch_target(struct replica *r, const char *address, struct err *e) MUST_CHECK;
int64_t replica_start_timeout_ms(const struct replica *r);

/* kv.c */
typedef void kv_then(struct replica *r);
void kv_init(struct node *n);                      /* at the start, once pools are known */
void kv_launch(struct replica *r);                 /* its command line is there: adds where slots are saved */
const char *kv_key(const struct replica *r);       /* of the files it can share; NULL: none */
void kv_adopt(struct replica *r, const char *key); /* it was started with that; NULL allowed */
bool kv_worth_saving(const struct replica *r);     /* it is well and may hold conversations */
/* Its slots become files. True: keeper_stop follows by itself, within a bound. Of kv_worth_saving alone. */
bool kv_save(struct replica *r) MUST_CHECK;
/* Files go into its slots. True: then(r) follows; false: there is nothing to do. */
bool kv_restore(struct replica *r, kv_then *then) MUST_CHECK;
/* It crashed: what it had taken up is not given to the next one, or that might crash too. */
void kv_suspect(struct replica *r);
uint64_t kv_restored(const struct replica *r);   /* tokens, by this start */
char *kv_found(const struct replica *r);         /* as wire_replica.kv_found; the caller frees it */
bool kv_kept(const struct replica *r);           /* its conversations outlive it */
void kv_told(struct node *n, const char *talks); /* wire_desired.talks; NULL allowed */
bool kv_busy(const struct replica *r);           /* one of the two is under way */
void kv_cancel(struct replica *r);               /* nothing follows any more */
void kv_done(struct replica *r);

/* learn.c */
void learn_launch(struct replica *r); /* its command line is there: asks it to say what it takes */
void learn_ready(struct replica *r);  /* it has said all */
void learn_figures(struct node *n);   /* the driver's figures have changed */
void learn_done(struct replica *r);

/* gate.c */
void gate_enter(struct replica *r); /* replica_launch follows, at once or when others have loaded */
void gate_leave(struct replica *r); /* it loads no more, or wants to no more; harmless otherwise */

/* adopt.c */
int replica_adopt(struct replica *r, struct err *reterr);     /* 0, -ENOENT, -EAGAIN */
int adopt_all(struct node *n, struct err *reterr) MUST_CHECK; /* the engines found at the node's start */
void adopt_done(struct node *n);

/* tidy.c */
void tidy_files(struct node *n);   /* at the start, once ends have been read */
void tidy_records(struct node *n); /* once it is known what is wanted */

/* prove.c */
void replica_watch(struct replica *r); /* has a target: probe it */
void replica_prove(struct replica *r, bool by_request);
void replica_canary_own(struct replica *r);
void replica_ready(struct replica *r);

/* external.c */
void external_begin(struct replica *r);
void external_discover(struct replica *r);

/* secrets.c: files that hold what an engine's command line must not */
/* Writes what r->launch names, and r's key. */
int secrets_write(struct replica *r, struct err *reterr) MUST_CHECK;
void secrets_adopt(struct replica *r);        /* it was started by an earlier run */
void secrets_remove(const struct replica *r); /* its process has ended */
char *secrets_new_key(void) MUST_CHECK;
char *secrets_prefix(const struct replica *r) MUST_CHECK;
/* Whether name is that of such a file, and whose: "chat-0.7.key" → "chat-0"; NULL: none. */
char *secrets_owner(const char *name) MUST_CHECK;

/* load.c */
void load_ready(struct replica *r); /* it answers: how busy it is, is asked from now on */
void load_quiet(struct replica *r); /* nothing is asked or known any more */

/* boxes.c */
void boxes_sweep(struct node *n);                                   /* removes containers nobody watches */
int boxes_launch(struct replica *r, struct err *reterr) MUST_CHECK; /* before one is started */
void boxes_ended(struct replica *r);

/* desired.c */
void desired_apply(struct node *n, const struct wire_desired *d);
bool replica_id_valid(struct view id);

/* facts.c */
bool replica_reported(const struct replica *r);
void replica_facts(const struct replica *r, struct wire_replica *ret);
void node_facts(struct node *n, bool models, struct wire_node *ret);
char *replica_log_path(const struct node *n, const char *id);
/* Appends the end of an engine's log, at most max bytes; only what this generation wrote when gen is not 0.
 */
void replica_log_tail(const struct node *n, const char *id, uint64_t gen, struct buf *b);
/* The same of everything there is; fd is the current log (or -1) and stands behind it afterwards. */
void replica_log_read(const struct node *n, const char *id, int fd, struct buf *b);

/* handoff.c */
void handoff_begin(struct replica *r);                       /* a process of it is about to be started */
void handoff_write(struct replica *r);                       /* Ready */
void handoff_remove(struct replica *r);                      /* not Ready any more */
void handoff_forget(struct node *n, const char *replica_id); /* the process has ended: removes both files */
struct handoff {
	uint64_t generation;
	uint32_t slots, ctx;
	bool ready; /* it had been Ready */
	char *url, *health, *spec, *model, *engine_version, *engine_why, *devices, *kv_key;
};
void handoff_done(struct handoff *h);
/* What is written of this generation; -ENOENT: nothing. */
int handoff_read(
	const struct node *n, const char *replica_id, uint64_t generation, struct handoff *ret) MUST_CHECK;

/* report.c */
int report_init(struct node *n, struct err *reterr) MUST_CHECK;
void report_done(struct node *n);
void report_touch(struct node *n);         /* something changed */
void report_again(struct node *n);         /* the models changed: registers again */
void report_renew(struct node *n);         /* somebody asks us to register, now */
void report_touch_slow(struct node *n);    /* progress changed: at most every 50 ms */
bool report_pending(const struct node *n); /* something changed that was not sent yet */

#endif
