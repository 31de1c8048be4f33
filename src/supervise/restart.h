/* SPDX-License-Identifier: Apache-2.0
 *
 * Restart policy: when an engine that ended may start again. Pure: time is an argument, jitter comes
 * from a seeded source, nothing is started here.
 *
 *   backoff   base · 2ⁿ up to max, ± jitter; n counts crashes since the last long healthy run. The first
 *             restart after a long healthy run is immediate.
 *   breaker   so many crashes in a window → open (no start at all) → one trial → closed when it gets
 *             ready, open again when it does not.
 *   killed from outside after it had been ready: at once, and counts for neither.
 */
#ifndef SUPERVISE_RESTART_H
#define SUPERVISE_RESTART_H

#include "base/clock.h"
#include "base/rnd.h"

enum { RESTART_BREAKER_MAX = 16 };

struct restart_policy {
	int64_t base_ms, max_ms;
	unsigned jitter_pct;
	int64_t healthy_ms;        /* a run ready for this long forgets the crashes before it */
	unsigned breaker_failures; /* at most RESTART_BREAKER_MAX */
	int64_t breaker_window_ms, breaker_open_ms;
};
#define RESTART_POLICY_DEFAULT                                                                               \
	((struct restart_policy){ .base_ms = 250,                                                            \
		.max_ms = 60000,                                                                             \
		.jitter_pct = 10,                                                                            \
		.healthy_ms = 300000,                                                                        \
		.breaker_failures = 5,                                                                       \
		.breaker_window_ms = 60000,                                                                  \
		.breaker_open_ms = 300000 })

enum breaker_state { BREAKER_CLOSED, BREAKER_OPEN, BREAKER_TRIAL };

struct restart {
	struct restart_policy policy;
	struct rnd rnd;
	unsigned crashes;                   /* n: since the last long healthy run */
	mono_t recent[RESTART_BREAKER_MAX]; /* the last crashes, oldest first */
	unsigned nrecent;
	enum breaker_state breaker;
	bool ready; /* this run has been ready */
	mono_t ready_at;
};

enum restart_end {
	RESTART_END_CRASH,
	RESTART_END_OUTSIDE, /* killed by somebody else */
	RESTART_END_STOPPED, /* by us, on purpose: no crash */
	RESTART_END_FATAL,   /* a cause that a restart cannot mend */
};
enum restart_what {
	RESTART_NOW,
	RESTART_LATER, /* after delay_ms */
	RESTART_TRIAL, /* the breaker is open: one trial after delay_ms */
	RESTART_NEVER, /* not by itself */
};
struct restart_verdict {
	enum restart_what what;
	int64_t delay_ms; /* LATER, TRIAL */
};

void restart_init(struct restart *r, const struct restart_policy *p, uint64_t seed);
/* A start is made: an open breaker becomes a trial. */
void restart_started(struct restart *r);
/* It got ready: a trial has succeeded. */
void restart_ready(struct restart *r, mono_t now);
/* It ended. An engine that had not been ready cannot be RESTART_END_OUTSIDE: that is a crash. */
struct restart_verdict restart_ended(struct restart *r, mono_t now, enum restart_end how);
/* By hand: forgets backoff and breaker. */
void restart_reset(struct restart *r);

#endif
