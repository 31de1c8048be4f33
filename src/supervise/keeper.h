/* SPDX-License-Identifier: Apache-2.0
 *
 * Keepers as their node sees them: start one, find those that are there, watch, stop. An engine is never
 * a child of this process: its keeper is, or was one of an earlier run. A keeper is found by its record,
 * believed only while its lock is held and its start time and boot id agree, and watched by pidfd, so
 * that a reused pid is never taken for it. What a keeper that was killed left behind (its engine's tree, a
 * socket) is swept before anything else is said or started. One loop; every callback comes from the loop.
 *
 *   LAUNCHING ── engine executed ──▶ RUNNING ── keeper_stop ──▶ STOPPING ──▶ ENDED
 *       └──────────── could not be started, or ended by itself ─────────────▶ ┘
 *
 * Files in engines_dir: <replica>.lock, <replica>.record. After ENDED the object stays until keeper_free.
 */
#ifndef SUPERVISE_KEEPER_H
#define SUPERVISE_KEEPER_H

#include "base/strv.h"
#include "loop/loop.h"
#include "supervise/record.h"

enum keeper_state { KEEPER_LAUNCHING, KEEPER_RUNNING, KEEPER_STOPPING, KEEPER_ENDED, KEEPER_STATE_COUNT };
const char *keeper_state_name(enum keeper_state s);

struct keeper_spec {
	const char *program; /* path of corral-keeper */
	const char *engines_dir, *replica_id;
	uint64_t generation;
	const char *log_path;    /* and <log_path>.1: at most twice log_max bytes */
	uint64_t log_max;        /* 0 = 8 MiB */
	const char *socket_path; /* removed after the engine's end; NULL = none */
	const char *cwd;         /* NULL = / */
	const struct strv *argv, *env;
	const struct strv *stop_argv; /* instead of SIGTERM; NULL or empty: SIGTERM */
	int64_t grace_ms;             /* between SIGTERM and SIGKILL */
	uint64_t nofile;              /* the engine's soft limit of descriptors; 0 = as ours */
};

struct keeper_end {
	bool started;                /* the engine was executed */
	bool known;                  /* record tells how it ended; false: the keeper itself was killed */
	bool busy;                   /* not started: another engine of this replica runs already */
	struct keeper_record record; /* when known */
	const char *message;         /* not started: why, a sentence; valid during the call */
};

struct keeper;
struct keeper_ops {
	void (*on_running)(void *arg);                         /* its record is there */
	void (*on_end)(void *arg, const struct keeper_end *e); /* the engine's whole tree is gone */
};

/* Starts a keeper in a session of its own. Everything in s is copied. */
int keeper_start(struct loop *l, const struct keeper_spec *s, const struct keeper_ops *ops, void *arg,
	struct keeper **ret, struct err *reterr) MUST_CHECK;
/* Takes over a keeper that runs. -ENOENT: none does. -EAGAIN: the lock is held, but no record belongs
 * to it yet: try again in a moment. */
int keeper_adopt(struct loop *l, const char *engines_dir, const char *replica_id,
	const struct keeper_ops *ops, void *arg, struct keeper **ret, struct err *reterr) MUST_CHECK;
/* SIGTERM: the keeper gives its engine the grace, then kills. Idempotent. */
void keeper_stop(struct keeper *k);
/* SIGKILL for the engine's tree at once. */
void keeper_kill(struct keeper *k);
/* Forgets it: no callback any more. A keeper that runs goes on. NULL inside is allowed. */
void keeper_free(struct keeper **k);

enum keeper_state keeper_state(const struct keeper *k);
/* NULL before RUNNING, and when the record cannot be read. */
const struct keeper_record *keeper_record(const struct keeper *k);

/* Calls fn for each replica that has a record in engines_dir. */
typedef void keeper_found_fn(void *arg, const char *replica_id);
int keeper_scan(const char *engines_dir, keeper_found_fn *fn, void *arg) MUST_CHECK;
/* Reads the last record of a replica, whoever wrote it; -ENOENT when there is none. */
int keeper_last(const char *engines_dir, const char *replica_id, struct keeper_record *ret,
	struct err *reterr) MUST_CHECK;
/* Whether a keeper of this replica holds its lock. */
bool keeper_runs(const char *engines_dir, const char *replica_id);
/* What is known of the end of one that keeper_adopt did not find (-ENOENT: its tree has been swept). No
 * process that the record names is signalled: its number may be another's by now. -EBUSY: it runs. -ENOENT:
 * there is no record. */
int keeper_bury(const char *engines_dir, const char *replica_id, struct keeper_end *ret,
	struct err *reterr) MUST_CHECK;
/* Removes lock and record of a replica that does not run; harmless otherwise. */
void keeper_clean(const char *engines_dir, const char *replica_id);

#endif
