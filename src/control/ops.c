/* SPDX-License-Identifier: Apache-2.0
 *
 * What an operator asks of a pool: start, stop, restart, drain, undrain, disable, enable. An operation that
 * waits for leases to end is one record on the pool; op_step moves it with every reconciliation.
 */
#include "control/control_int.h"

#include "log/log.h"

static const char *end_word(enum op_kind k)
{
	return k == OP_DRAIN ? "drained" : k == OP_DISABLE ? "disabled" : "unloaded";
}

static void finish_op(struct control_pool *p, mono_t now)
{
	control_done_fn *fn = p->op_done;
	void *arg = p->op_arg;
	struct control_done d = {
		.force_stopped = p->op_forced,
		.duration_ms = mono_ms_between(p->op_since, now),
		.final_leases = p->op_final_leases,
	};
	metric_observe_ns(metrics_series(p->control->o.metrics, "corral_drain_seconds", p->cfg->id, NULL),
		now.ns - p->op_since.ns);
	log_event(LOG_INFO, p->op == OP_DRAIN ? "drained" : "stopped", p->cfg->id,
		(struct log_field[]){ LOG_STR("pool_id", p->cfg->id), LOG_INT("duration_ms", d.duration_ms),
			LOG_BOOL("forced", d.force_stopped), LOG_END },
		"Pool %s is %s after %lld ms%s.", p->cfg->id, end_word(p->op), (long long)d.duration_ms,
		d.force_stopped ? ", with requests cut off at the deadline" : "");
	p->op = OP_NONE;
	p->op_unloading = p->op_forced = false;
	p->op_done = NULL;
	if (fn)
		fn(arg, &d);
	control_wake(p->control);
}

static bool all_gone(const struct registry_pool *rp)
{
	for (size_t i = 0; rp && i < rp->nreplicas; i++) {
		enum replica_state s = rp->replicas[i]->facts.state;
		if (rp->replicas[i]->online && s != REPLICA_STOPPED && s != REPLICA_ABSENT)
			return false;
	}
	return true;
}

static void begin_unloading(struct control_pool *p, const struct pool_stats *s)
{
	p->op_final_leases = s->leases;
	p->op_forced = s->leases + s->cooling > 0;
	if (p->op != OP_RESTART) {
		p->op_unloading = true;
		return;
	}
	for (size_t i = 0; i < p->nslots; i++) {
		struct control_slot *k = p->slots[i];
		if (k->role == SLOT_LEAVING)
			continue;
		k->restart_epoch++;
		if (k->in_pool)
			k->retired = k->generation;
	}
	p->op = OP_NONE;
	p->op_forced = false;
}

void op_step(struct control_pool *p, const struct pool_stats *s, const struct registry_pool *rp, mono_t now)
{
	if (p->op == OP_NONE)
		return;
	if (!p->op_unloading && (s->leases + s->cooling == 0 || !mono_before(now, p->op_deadline)))
		begin_unloading(p, s);
	else if (p->op_unloading && s->replicas == 0 && all_gone(rp))
		finish_op(p, now);
}

void op_give_up(struct control_pool *p)
{
	control_done_fn *fn = p->op_done;
	p->op_done = NULL;
	if (!fn)
		return;
	struct pool_stats s;
	pool_get_stats(p->pool, &s);
	fn(p->op_arg, &(struct control_done){ .duration_ms = mono_ms_between(p->op_since, mono_now()),
			      .final_leases = s.leases + s.cooling });
}

void op_end(struct control_pool *p)
{
	op_give_up(p);
	p->op = OP_NONE;
	p->op_unloading = p->op_forced = false;
}

static void begin_op(
	struct control_pool *p, enum op_kind kind, int64_t deadline_ms, control_done_fn *fn, void *arg)
{
	op_give_up(p); /* a newer wish takes over */
	if (kind != OP_NONE)
		reload_cancel(p, "The pool was asked to stop meanwhile.");
	p->op = kind;
	p->op_since = mono_now();
	p->op_deadline = mono_add_ms(p->op_since, deadline_ms);
	p->op_unloading = p->op_forced = false;
	p->op_final_leases = 0;
	p->op_done = fn;
	p->op_arg = arg;
	control_wake(p->control);
}

static void said(const struct control_pool *p, const char *verb, const char *by)
{
	log_event(LOG_INFO, verb, p->cfg->id,
		(struct log_field[]){ LOG_STR("pool_id", p->cfg->id), LOG_STR("by", by), LOG_END },
		"%s asks to %s pool %s.", by, verb, p->cfg->id);
}

/* What a start takes back. Disabled stays until it is enabled. */
static void clear_marks(struct control *c, struct control_pool *p, const char *by)
{
	int64_t at = wall_ms();
	registry_pool_mark(c->o.registry, view_str(p->cfg->id), MARK_DRAINING, false, by, at);
	registry_pool_mark(c->o.registry, view_str(p->cfg->id), MARK_STOPPED, false, by, at);
}

bool control_refuses(struct control *c, struct control_pool *p, char *out, size_t cap)
{
	AUTO(registry_snapshot_unrefp)
	const struct registry_snapshot *s = registry_snapshot_ref(c->o.registry);
	const struct registry_pool *rp = registry_snapshot_pool(s, view_str(p->cfg->id));
	if (!rp || !rp->marks[MARK_DISABLED].by)
		return false;
	disabled_text(p, &rp->marks[MARK_DISABLED], out, cap);
	return true;
}

static bool is_disabled(struct control *c, struct control_pool *p)
{
	char text[512];
	return control_refuses(c, p, text, sizeof text);
}

void control_start(struct control *c, struct control_pool *p, const char *by)
{
	said(p, "start", by);
	if (is_disabled(c, p))
		return;
	clear_marks(c, p, by);
	if (p->op != OP_NONE && !p->op_unloading)
		begin_op(p, OP_NONE, 0, NULL, NULL);
	p->started = true;
	AUTO(registry_snapshot_unrefp)
	const struct registry_snapshot *s = registry_snapshot_ref(c->o.registry);
	const struct registry_pool *rp = registry_snapshot_pool(s, view_str(p->cfg->id));
	for (size_t i = 0; rp && i < rp->nreplicas; i++) {
		const struct wire_replica *f = &rp->replicas[i]->facts;
		struct control_slot *k = slot_find(p, view_str(f->replica_id));
		if (k && (f->state == REPLICA_FAILED || f->state == REPLICA_BACKOFF))
			k->restart_epoch++; /* a start forgets backoff and breaker */
	}
	control_wake(c);
}

void control_stop(struct control *c, struct control_pool *p, int64_t deadline_ms, const char *by,
	control_done_fn *fn, void *arg)
{
	(void)c;
	said(p, "stop", by);
	p->started = false;
	begin_op(p, OP_STOP, deadline_ms, fn, arg);
}

void control_restart(struct control *c, struct control_pool *p, int64_t deadline_ms, const char *by)
{
	said(p, "restart", by);
	if (is_disabled(c, p))
		return;
	clear_marks(c, p, by);
	p->started = true;
	begin_op(p, OP_RESTART, deadline_ms, NULL, NULL);
}

void control_drain(struct control *c, struct control_pool *p, int64_t deadline_ms, const char *by,
	control_done_fn *fn, void *arg)
{
	said(p, "drain", by);
	p->started = false;
	registry_pool_mark(c->o.registry, view_str(p->cfg->id), MARK_DRAINING, true, by, wall_ms());
	begin_op(p, OP_DRAIN, deadline_ms, fn, arg);
}

void control_undrain(struct control *c, struct control_pool *p, const char *by)
{
	said(p, "undrain", by);
	clear_marks(c, p, by);
	if (p->op == OP_DRAIN)
		begin_op(p, OP_NONE, 0, NULL, NULL);
	control_wake(c);
}

void control_disable(struct control *c, struct control_pool *p, int64_t deadline_ms, const char *by)
{
	said(p, "disable", by);
	p->started = false;
	registry_pool_mark(c->o.registry, view_str(p->cfg->id), MARK_DISABLED, true, by, wall_ms());
	begin_op(p, OP_DISABLE, deadline_ms, NULL, NULL);
}

void control_enable(struct control *c, struct control_pool *p, const char *by)
{
	said(p, "enable", by);
	registry_pool_mark(c->o.registry, view_str(p->cfg->id), MARK_DISABLED, false, by, wall_ms());
	if (p->op == OP_DISABLE)
		begin_op(p, OP_NONE, 0, NULL, NULL);
	control_wake(c);
}

void control_forget(struct control *c, struct control_pool *p, void *arg)
{
	for (size_t i = 0; i < c->npools; i++) {
		if (c->pools[i] != p)
			continue; /* it may be gone */
		if (p->op_arg == arg)
			p->op_done = NULL;
		reload_forget(p, arg);
	}
}
