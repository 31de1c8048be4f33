/* SPDX-License-Identifier: Apache-2.0 */
#include "supervise/probe.h"

enum { DELAY_MIN_MS = 2, DELAY_MAX_MS = 250 };

int64_t probe_delay_ms(int64_t loading_ms)
{
	return MIN(MAX(loading_ms / 100, (int64_t)DELAY_MIN_MS), (int64_t)DELAY_MAX_MS);
}

int64_t probe_loading_ms(const struct probe *p)
{
	return mono_ms_between(p->started, mono_now());
}

#define TO(s) (1u << PROBE_##s)
static const unsigned may_follow[] = {
	[PROBE_OFF] = TO(LOADING) | TO(LIVE),
	[PROBE_LOADING] = TO(LIVE) | TO(OFF),
	[PROBE_LIVE] = TO(LOST) | TO(OFF),
	[PROBE_LOST] = TO(LIVE) | TO(OFF),
};
static_assert(ARRAY_LEN(may_follow) == PROBE_STATE_COUNT, "one row per state");

/* The only writer of p->state. */
static void probe_set(struct probe *p, enum probe_state to)
{
	assert(may_follow[p->state] & (1u << to));
	p->state = to;
	p->failures = 0;
	if (to != PROBE_LOADING)
		loop_timer_stop(&p->deadline);
	if (to == PROBE_OFF) {
		loop_timer_stop(&p->next);
		p->asking = false;
	}
}

static void on_next(void *arg)
{
	struct probe *p = arg;
	p->asking = true;
	p->ops->on_ask(p->arg);
}

static void on_deadline(void *arg)
{
	struct probe *p = arg;
	probe_set(p, PROBE_OFF);
	p->ops->on_timeout(p->arg);
}

static void begin(
	struct probe *p, struct loop *l, const struct probe_opts *o, const struct probe_ops *ops, void *arg)
{
	probe_stop(p);
	p->loop = l;
	p->ops = ops;
	p->arg = arg;
	p->opts = *o;
	p->opts.live_every_ms = o->live_every_ms ? o->live_every_ms : 5000;
	p->opts.live_failures = o->live_failures ? o->live_failures : 3;
	p->started = mono_now();
}

void probe_start(
	struct probe *p, struct loop *l, const struct probe_opts *o, const struct probe_ops *ops, void *arg)
{
	begin(p, l, o, ops, arg);
	probe_set(p, PROBE_LOADING);
	loop_timer_start(l, &p->next, 0, on_next, p);
	if (o->timeout_ms > 0)
		loop_timer_start(l, &p->deadline, o->timeout_ms, on_deadline, p);
}

void probe_start_live(
	struct probe *p, struct loop *l, const struct probe_opts *o, const struct probe_ops *ops, void *arg)
{
	begin(p, l, o, ops, arg);
	probe_set(p, PROBE_LIVE);
	loop_timer_start(l, &p->next, p->opts.live_every_ms, on_next, p);
}

void probe_timeout(struct probe *p, int64_t ms)
{
	if (p->state != PROBE_LOADING)
		return;
	p->opts.timeout_ms = ms;
	if (ms > 0)
		loop_timer_start(
			p->loop, &p->deadline, MAX(ms - probe_loading_ms(p), (int64_t)0), on_deadline, p);
	else
		loop_timer_stop(&p->deadline);
}

void probe_stop(struct probe *p)
{
	if (p->state != PROBE_OFF)
		probe_set(p, PROBE_OFF);
}

static int64_t next_ms(const struct probe *p)
{
	if (p->state == PROBE_LIVE || p->state == PROBE_LOST)
		return p->opts.live_every_ms;
	return p->opts.load_every_ms ? p->opts.load_every_ms : probe_delay_ms(probe_loading_ms(p));
}

void probe_answered(struct probe *p, enum probe_answer a)
{
	if (p->state == PROBE_OFF || !p->asking)
		return;
	p->asking = false;
	bool tell_ready = a == PROBE_OK && p->state != PROBE_LIVE, tell_lost = false;
	if (tell_ready)
		probe_set(p, PROBE_LIVE);
	else if (a == PROBE_OK || a == PROBE_BUSY)
		p->failures = 0;
	else if (p->state == PROBE_LIVE && ++p->failures >= p->opts.live_failures) {
		probe_set(p, PROBE_LOST);
		tell_lost = true;
	}
	loop_timer_start(p->loop, &p->next, next_ms(p), on_next, p);
	/* Last: the owner may stop the probe in these. */
	if (tell_ready)
		p->ops->on_ready(p->arg);
	else if (tell_lost)
		p->ops->on_lost(p->arg);
}
