/* SPDX-License-Identifier: Apache-2.0
 *
 * Whether a server answers: readiness while it loads, then whether it goes on answering. The question
 * itself (an HTTP GET) is its owner's, by callback. On one loop; embedded in its owner.
 *
 *   OFF ──start──▶ LOADING ──OK──▶ LIVE ◀──OK── LOST
 *                     │              └─ failures in a row ─▶ ┘
 *                     └─ timeout ─▶ OFF (on_timeout)
 */
#ifndef SUPERVISE_PROBE_H
#define SUPERVISE_PROBE_H

#include "loop/loop.h"

enum probe_state { PROBE_OFF, PROBE_LOADING, PROBE_LIVE, PROBE_LOST, PROBE_STATE_COUNT };
enum probe_answer {
	PROBE_OK,
	PROBE_BUSY,   /* it answered that it is still loading: alive, not ready */
	PROBE_SILENT, /* refused, closed, timed out, or an answer that is none */
};

struct probe_ops {
	/* Ask now; exactly one probe_answered follows, at once or later, unless the probe is stopped. */
	void (*on_ask)(void *arg);
	void (*on_ready)(void *arg);   /* LOADING → LIVE and LOST → LIVE */
	void (*on_lost)(void *arg);    /* LIVE → LOST */
	void (*on_timeout)(void *arg); /* never got ready; may be NULL when there is no timeout */
};
struct probe_opts {
	int64_t timeout_ms;     /* LOADING at most so long; 0 = without end */
	int64_t load_every_ms;  /* 0 = by probe_delay_ms */
	int64_t live_every_ms;  /* 5 s */
	unsigned live_failures; /* 3 */
};

struct probe {
	struct loop *loop;
	const struct probe_ops *ops;
	void *arg;
	struct probe_opts opts;
	enum probe_state state;
	unsigned failures;
	bool asking;
	mono_t started;
	struct loop_timer next, deadline;
};

/* What to wait before asking again when it has been loading for so long: 1 % of it, at least 2 ms,
 * at most 250 ms, so that readiness is noticed within max(10 ms, 1 % of the load time). */
int64_t probe_delay_ms(int64_t loading_ms);

/* Asks at the end of the round. */
void probe_start(
	struct probe *p, struct loop *l, const struct probe_opts *o, const struct probe_ops *ops, void *arg);
/* Begins in LIVE: for a server that was known to be ready. */
void probe_start_live(
	struct probe *p, struct loop *l, const struct probe_opts *o, const struct probe_ops *ops, void *arg);
/* Another time-out of a start that is under way, counted from its beginning; harmless otherwise. */
void probe_timeout(struct probe *p, int64_t ms);
void probe_answered(struct probe *p, enum probe_answer a);
void probe_stop(struct probe *p);                /* harmless when it was only zeroed */
int64_t probe_loading_ms(const struct probe *p); /* since it was started */

#endif
