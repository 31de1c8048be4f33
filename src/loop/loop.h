/* SPDX-License-Identifier: Apache-2.0
 *
 * One event loop on one thread, over libuv. The only folder that includes <uv.h>.
 *
 * Words: a round is one wake-up of the loop with everything it delivers. What libuv closes
 * asynchronously is hidden: a struct loop_timer, loop_watch or loop_proc may be freed by its owner as
 * soon as it is stopped, also inside its own callback.
 *
 * Every function is for the loop's own thread, except loop_post and loop_stop.
 */
#ifndef LOOP_LOOP_H
#define LOOP_LOOP_H

#include "base/clock.h"
#include "base/err.h"
#include "base/list.h"

struct loop;

/* name shows up as the thread's name in logs; copied. Ends the process when the kernel refuses. */
struct loop *loop_new(const char *name) MUST_CHECK;
/* The loop must have returned from loop_run. Posted and deferred work that is left is run once, offloaded
 * work is waited for, children that still run go on unwatched (their loop_proc is gone). */
void loop_free(struct loop *l);
const char *loop_name(const struct loop *l);
/* Runs until loop_stop. Returns 0 or a negative errno. */
int loop_run(struct loop *l);
/* From any thread, also from a signal watch. Idempotent. */
void loop_stop(struct loop *l);
/* The loop this thread is running, NULL outside. */
struct loop *loop_current(void);
/* The time of the current round; read once per round. */
mono_t loop_now(const struct loop *l);

/* ---- work for later --------------------------------------------------------------------------- */

typedef void loop_fn(void *arg);

/* A piece of work embedded in its owner; must stay in place until fn has been called or the work was
 * cancelled. Zero-initialise. */
struct loop_work {
	struct list node;
	loop_fn *fn;
	void *arg;
	bool queued;
};
/* Runs fn(arg) at the end of this round (work deferred meanwhile: in the same pass). Queued twice runs once.
 */
void loop_defer(struct loop *l, struct loop_work *w, loop_fn *fn, void *arg);
void loop_defer_cancel(struct loop_work *w);
/* free(p) at the end of the round: for what a callback further up the stack may still look at. */
void loop_defer_free(struct loop *l, void *p);
/* As loop_defer_free, with a destructor. Allocates. */
void loop_defer_call(struct loop *l, loop_fn *fn, void *arg);

/* From any thread: runs fn(arg) on the loop, in the order of posting per posting thread. w is the
 * caller's, must not be queued already, and is the caller's again when fn is called. */
void loop_post(struct loop *l, struct loop_work *w, loop_fn *fn, void *arg);
/* The same, allocating the work. */
void loop_post_call(struct loop *l, loop_fn *fn, void *arg);

/* ---- timers ------------------------------------------------------------------------------------ */

struct loop_timer {
	mono_t due;
	loop_fn *fn;
	void *arg;
	struct loop *loop;
	size_t index; /* place in the loop's heap + 1; 0 = not running */
};
/* One shot. Starting a running timer moves it. ms < 0 counts as 0; it never fires inside this call. */
void loop_timer_start(struct loop *l, struct loop_timer *t, int64_t ms, loop_fn *fn, void *arg);
void loop_timer_stop(struct loop_timer *t); /* harmless when it does not run or was only zeroed */
static inline bool loop_timer_active(const struct loop_timer *t)
{
	return t->index != 0;
}

/* ---- descriptors ------------------------------------------------------------------------------- */

enum { LOOP_READ = 1, LOOP_WRITE = 2, LOOP_HUP = 4 }; /* HUP: the peer closed its sending side */

struct loop_watch;
/* events: what is ready; an error on the descriptor is delivered as everything that was asked for. */
typedef void loop_watch_fn(void *arg, int events);
/* Level-triggered. The descriptor stays the caller's and must be closed after loop_watch_stop. */
int loop_watch_start(
	struct loop *l, struct loop_watch **w, int fd, int events, loop_watch_fn *fn, void *arg) MUST_CHECK;
int loop_watch_change(struct loop_watch *w, int events); /* 0 = nothing for now */
/* Stops, frees, and sets *w to NULL; NULL inside is allowed. */
void loop_watch_stop(struct loop_watch **w);

/* ---- signals ----------------------------------------------------------------------------------- */

struct loop_signal;
typedef void loop_signal_fn(void *arg, int signo);
int loop_signal_start(
	struct loop *l, struct loop_signal **s, int signo, loop_signal_fn *fn, void *arg) MUST_CHECK;
void loop_signal_stop(struct loop_signal **s);

/* ---- processes --------------------------------------------------------------------------------- */

struct loop_proc;
/* Called once, when the process has ended: exit code when signo is 0. The loop_proc is freed after it. */
typedef void loop_proc_fn(void *arg, int exit_code, int signo);

struct loop_spawn {
	const char *file;  /* searched in PATH when it has no slash */
	char *const *argv; /* NULL-terminated */
	char *const *env;  /* NULL-terminated, NULL = ours */
	const char *cwd;   /* NULL = ours */
	int fds[8];  /* descriptors the child gets as 0, 1, 2, …; -1 = /dev/null for 0..2, closed else */
	size_t nfds; /* at least 3 is used: missing ones count as -1 */
	bool new_session; /* setsid */
};
/* Every other descriptor of ours is O_CLOEXEC. on_exit may be NULL. */
int loop_spawn(struct loop *l, const struct loop_spawn *s, loop_proc_fn *on_exit, void *arg,
	struct loop_proc **ret, struct err *reterr) MUST_CHECK;
int loop_proc_pid(const struct loop_proc *p);
int loop_proc_kill(struct loop_proc *p, int signo); /* 0 or a negative errno */
/* The callback will not be called any more; the process goes on and is reaped when it ends. */
void loop_proc_forget(struct loop_proc **p);

/* Watches a process that is not our child by its pidfd; the callback comes once, when it has ended
 * (a zombie counts as ended). */
struct loop_pid;
typedef void loop_pid_fn(void *arg);
int loop_pid_watch(struct loop *l, struct loop_pid **ret, int pid, loop_pid_fn *fn, void *arg) MUST_CHECK;
void loop_pid_stop(struct loop_pid **p);
int loop_pid_kill(struct loop_pid *p, int signo); /* pidfd_send_signal: never hits a reused pid */

/* ---- work that blocks --------------------------------------------------------------------------- */

/* Runs work(arg) on a pool thread, then done(arg) on this loop. For name lookup and file work that
 * may block; never for anything that waits on a peer. */
void loop_offload(struct loop *l, loop_fn *work, loop_fn *done, void *arg);

/* ---- figures ------------------------------------------------------------------------------------ */

struct loop_stats {
	uint64_t rounds;
	uint64_t busy_ns;     /* time spent in callbacks */
	uint64_t max_busy_ns; /* the longest single round since the last reading by loop_stats_take */
};
/* From any thread. take resets max_busy_ns. */
struct loop_stats loop_stats_take(struct loop *l);

#endif
