/* SPDX-License-Identifier: Apache-2.0 */
#include "supervise/restart.h"

#include <string.h>

void restart_init(struct restart *r, const struct restart_policy *p, uint64_t seed)
{
	*r = (struct restart){ .policy = *p };
	r->policy.breaker_failures = MIN(MAX(p->breaker_failures, 1u), (unsigned)RESTART_BREAKER_MAX);
	rnd_seed(&r->rnd, seed);
}

void restart_reset(struct restart *r)
{
	r->crashes = 0;
	r->nrecent = 0;
	r->breaker = BREAKER_CLOSED;
	r->ready = false;
}

void restart_started(struct restart *r)
{
	r->ready = false;
	if (r->breaker == BREAKER_OPEN)
		r->breaker = BREAKER_TRIAL;
}

void restart_ready(struct restart *r, mono_t now)
{
	r->ready = true;
	r->ready_at = now;
	if (r->breaker == BREAKER_TRIAL) {
		r->breaker = BREAKER_CLOSED;
		r->nrecent = 0;
	}
}

/* Remembers a crash; true: there were too many in the window. */
static bool too_many(struct restart *r, mono_t now)
{
	unsigned max = r->policy.breaker_failures;
	if (r->nrecent == max)
		memmove(r->recent, r->recent + 1, --r->nrecent * sizeof *r->recent);
	r->recent[r->nrecent++] = now;
	return r->nrecent == max && mono_ms_between(r->recent[0], now) <= r->policy.breaker_window_ms;
}

static int64_t backoff_ms(struct restart *r)
{
	int64_t ms = MIN(r->policy.base_ms, r->policy.max_ms);
	for (unsigned n = r->crashes; n && ms < r->policy.max_ms; n--)
		ms = MIN(ms * 2, r->policy.max_ms);
	double spread = (double)r->policy.jitter_pct / 100.0;
	return (int64_t)((double)ms * (1.0 + spread * (2.0 * rnd_unit(&r->rnd) - 1.0)));
}

static struct restart_verdict open_breaker(struct restart *r)
{
	r->breaker = BREAKER_OPEN;
	r->nrecent = 0;
	return (struct restart_verdict){ RESTART_TRIAL, r->policy.breaker_open_ms };
}

static struct restart_verdict crashed(struct restart *r, mono_t now, bool healthy)
{
	bool trial = r->breaker == BREAKER_TRIAL;
	if (healthy)
		r->crashes = 0;
	if (too_many(r, now) || trial)
		return open_breaker(r);
	if (healthy)
		return (struct restart_verdict){ RESTART_NOW, 0 };
	struct restart_verdict v = { RESTART_LATER, backoff_ms(r) };
	if (r->crashes < 64)
		r->crashes++;
	return v;
}

struct restart_verdict restart_ended(struct restart *r, mono_t now, enum restart_end how)
{
	bool ready = r->ready;
	bool healthy = ready && mono_ms_between(r->ready_at, now) >= r->policy.healthy_ms;
	r->ready = false;
	if (how == RESTART_END_STOPPED || how == RESTART_END_FATAL)
		return (struct restart_verdict){ RESTART_NEVER, 0 };
	if (how == RESTART_END_OUTSIDE && ready)
		return (struct restart_verdict){ RESTART_NOW, 0 };
	return crashed(r, now, healthy);
}
