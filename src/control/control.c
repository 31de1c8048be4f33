/* SPDX-License-Identifier: Apache-2.0
 *
 * One reconciliation: facts in, wants and pool membership out.
 */
#include "control/control_int.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "log/log.h"

enum { RETRY_FAILED_MS = 5000 };

const char *pool_state_name(enum pool_state s)
{
	static const char *const names[] = { "unloaded", "provisioning", "starting", "proving", "ready",
		"draining", "backoff", "failed" };
	return names[s];
}

/* ---- facts to traffic ---------------------------------------------------------------------------------- */

static void take_out(struct control_pool *p, struct control_slot *s, bool cut)
{
	if (!s->in_pool)
		return;
	s->in_pool = false;
	struct pool_replica *r = pool_take_replica(p->pool, s->id, control_fate_now(p, s->id, s->generation));
	if (r)
		p->control->o.on_replica_gone(p->control->o.arg, r, cut);
}

static bool answers(const struct registry_replica *r)
{
	return r && r->online && r->facts.address &&
	       (r->facts.state == REPLICA_READY || r->facts.state == REPLICA_PROVING);
}

/* The id an external server knows the model by: the pool's model where it serves that, else the one it
 * serves. */
static const char *remote_model(const struct control_pool *p, const struct wire_replica *f)
{
	if (p->cfg->engine.kind != CONFIG_ENGINE_OPENAI || !f->remote_models || !f->remote_models[0])
		return NULL;
	for (size_t i = 0; f->remote_models[i]; i++)
		if ((p->cfg->model && strcmp(f->remote_models[i], p->cfg->model) == 0) ||
			strcmp(f->remote_models[i], p->cfg->id) == 0)
			return f->remote_models[i];
	return p->cfg->model ? p->cfg->model : f->remote_models[0];
}

static void put_in(struct control_pool *p, struct control_slot *s, const struct wire_replica *f, bool proving)
{
	if (s->in_pool && s->generation != f->generation)
		take_out(p, s, true);
	struct pool_replica_facts facts = {
		.id = s->id,
		.generation = f->generation,
		.address = f->address,
		.engine = f->engine,
		.engine_version = f->engine_version,
		.device = f->device_mask,
		.remote_model = remote_model(p, f),
		.conn_idle_ms = f->conn_idle_ms,
		.conn_requests = f->conn_requests,
		.slots_total = f->slots_total ? f->slots_total : p->cfg->slots,
		.has_slots = f->has_slots,
		.proving = proving,
		.draining = !s->plan.wanted || p->op != OP_NONE, /* each waits for the last lease */
		.pid = f->pid,
	};
	s->in_pool = true;
	s->generation = f->generation;
	struct pool_replica *old = pool_put_replica(p->pool, &facts);
	if (old) /* the same process at another address */
		p->control->o.on_replica_gone(p->control->o.arg, old, true);
}

static void read_one(void *arg, const struct pool_replica *r)
{
	struct control_slot *s = arg;
	if (strcmp(s->id, r->id) == 0)
		s->plan.leases = r->in_use + r->cooling;
}

/* Proving: a waiting request may be the canary; when none waits the node sends its own. */
static void prove(struct control_pool *p, struct control_slot *s, const struct wire_replica *f, bool waiting)
{
	bool by_request = p->cfg->canary == CONFIG_CANARY_AUTO && s->own_generation != f->generation;
	if (by_request && (waiting || s->in_pool)) {
		put_in(p, s, f, true);
		s->plan.leases = 0;
		pool_each_replica(p->pool, read_one, s);
		if (s->plan.leases || s->proved_generation == f->generation)
			return;
		take_out(p, s, false); /* whoever waited has left: nothing is being proved */
	}
	if (s->own_generation == f->generation || p->cfg->canary != CONFIG_CANARY_AUTO)
		return;
	s->own_generation = f->generation;
	control_tell_proved(p->control, s->id, f->generation, "own");
}

/* Not wanted any more: nothing new is granted, and when the last lease has ended (or by force) it leaves. */
static void let_go(struct control_pool *p, struct control_slot *s, const struct registry_replica *r)
{
	if (!s->in_pool)
		return;
	if (answers(r))
		put_in(p, s, &r->facts, false);
	s->plan.leases = 0;
	pool_each_replica(p->pool, read_one, s);
	bool force = p->op_unloading && p->op_forced;
	if (!s->plan.leases || force || !answers(r))
		take_out(p, s, s->plan.leases > 0);
}

/* One sentence for every state a replica comes into: what /v1/events and the log tell. */
static void narrate(struct control_pool *p, struct control_slot *s, const struct registry_replica *r)
{
	enum replica_state now = r && r->online ? r->facts.state : REPLICA_ABSENT;
	if (now == s->told && (!r || r->facts.generation == s->told_generation))
		return;
	bool first = s->told == REPLICA_ABSENT && now == REPLICA_ABSENT;
	s->told = now;
	s->told_generation = r ? r->facts.generation : 0;
	if (first)
		return;
	if (now == REPLICA_READY && r->facts.load_ms > 0)
		metric_observe_ns(
			metrics_series(p->control->o.metrics, "corral_model_load_seconds", p->cfg->id, NULL),
			r->facts.load_ms * 1000000);
	const char *why =
		r && (now == REPLICA_FAILED || now == REPLICA_BACKOFF) ? r->facts.last_error.message : NULL;
	log_event(now == REPLICA_FAILED || now == REPLICA_BACKOFF ? LOG_WARN : LOG_INFO, "replica_state",
		s->id,
		(struct log_field[]){ LOG_STR("pool_id", p->cfg->id), LOG_STR("replica_id", s->id),
			LOG_STR("state", replica_state_name(now)),
			LOG_STR("engine", r ? r->facts.engine : NULL),
			LOG_STR("engine_version", r ? r->facts.engine_version : NULL),
			LOG_STR("hint", why ? r->facts.last_error.hint : NULL), LOG_END },
		"Replica %s is %s%s%s", s->id, replica_state_name(now), why ? ": " : ".", why ? why : "");
}

/* Starts after the first, by what made the last one necessary. */
static void count_restarts(struct control_pool *p, struct control_slot *s, const struct registry_replica *r)
{
	if (!r)
		return;
	if (r->facts.restarts > s->restarts_told)
		metric_add(metrics_series(p->control->o.metrics, "corral_engine_restarts_total", p->cfg->id,
				   wire_cause_name(r->facts.last_error.cause), NULL),
			r->facts.restarts - s->restarts_told);
	s->restarts_told = r->facts.restarts;
}

static void apply_facts(
	struct control_pool *p, struct control_slot *s, const struct registry_replica *r, bool waiting)
{
	count_restarts(p, s, r); /* before the next success clears the cause */
	narrate(p, s, r);
	if (s->retired && r && r->facts.generation <= s->retired) {
		take_out(p, s, true); /* whoever waits, waits for the next one */
		return;
	}
	s->retired = 0;
	if (!s->plan.wanted) {
		let_go(p, s, r);
		return;
	}
	if (!answers(r)) {
		if (s->in_pool)
			take_out(p, s, r && r->online && r->facts.state != REPLICA_DRAINING);
		return;
	}
	if (r->facts.state == REPLICA_PROVING)
		prove(p, s, &r->facts, waiting);
	else
		put_in(p, s, &r->facts, false);
}

/* ---- why a pool refuses ----------------------------------------------------------------------------------
 */

static bool for_good(const struct wire_replica *f)
{
	return f->state == REPLICA_FAILED;
}

/* A cause that may have gone by itself (a file that is there now) is looked at again when somebody asks. */
static bool worth_retrying(enum wire_cause c)
{
	return c == CAUSE_NO_MODEL || c == CAUSE_NO_ENGINE || c == CAUSE_BAD_MODEL || c == CAUSE_CANARY ||
	       c == CAUSE_START_TIMEOUT;
}

static void retry_failed(
	struct control_pool *p, struct control_slot *s, const struct wire_replica *f, mono_t now)
{
	if (f->retry_in_ms >= 0 || !p->demanded || !worth_retrying(f->last_error.cause))
		return;
	if (s->retried_at.ns && mono_ms_between(s->retried_at, now) < RETRY_FAILED_MS)
		return;
	s->retried_at = now;
	s->restart_epoch++;
}

static void set_refusal(struct control_pool *p, const struct pool_refusal *why, bool keep_waiting)
{
	if (p->refusal.code == why->code && strcmp(p->refusal.message, why->message) == 0)
		return;
	p->refusal = *why;
	pool_close(p->pool, why, keep_waiting);
}

static void refuse_failed(struct control_pool *p, const struct wire_replica *f)
{
	struct pool_refusal why = { .code = REFUSE_POOL_UNAVAILABLE,
		.retriable = f->retry_in_ms >= 0,
		.retry_after_ms = MAX(f->retry_in_ms, (int64_t)0) };
	snprintf(why.message, sizeof why.message, "Pool %s cannot serve: %s", p->cfg->id,
		f->last_error.message ? f->last_error.message : "its engine failed.");
	snprintf(why.hint, sizeof why.hint, "%s",
		f->last_error.hint ? f->last_error.hint : "`corral logs` shows what the engine said.");
	set_refusal(p, &why, false);
}

static void decide_refusal(struct control_pool *p, const struct registry_pool *rp,
	const struct wire_replica *failed, bool usable)
{
	if (rp && rp->marks[MARK_DRAINING].by) {
		struct pool_refusal why = {
			.code = REFUSE_POOL_UNAVAILABLE, .retriable = true, .retry_after_ms = 5000
		};
		snprintf(why.message, sizeof why.message,
			"Pool %s is being drained (by %s) and takes nothing new.", p->cfg->id,
			rp->marks[MARK_DRAINING].by);
		snprintf(why.hint, sizeof why.hint, "`corral undrain %s` takes it back.", p->cfg->id);
		set_refusal(p, &why, false);
	} else if (failed && !usable) {
		refuse_failed(p, failed);
	} else {
		set_refusal(p, &(struct pool_refusal){ 0 }, false);
	}
}

/* ---- one pool ---------------------------------------------------------------------------------------------
 */

static void read_leases(void *arg, const struct pool_replica *r)
{
	struct control_pool *p = arg;
	for (size_t i = 0; i < p->nslots; i++) {
		if (strcmp(p->slots[i].id, r->id) != 0)
			continue;
		p->slots[i].plan.leases = r->in_use;
		p->slots[i].plan.cooling = r->cooling;
		if (mono_before(p->slots[i].plan.busy_at, r->used_at))
			p->slots[i].plan.busy_at = r->used_at;
	}
}

static void describe(struct control_pool *p, const struct wire_replica *best)
{
	char text[POOL_STATUS_MAX];
	if (!best)
		snprintf(text, sizeof text, "no engine of it runs");
	else if (best->phase && best->progress_pct >= 0)
		snprintf(text, sizeof text, "its engine is %s (%s, %d %%)", replica_state_name(best->state),
			best->phase, best->progress_pct);
	else
		snprintf(text, sizeof text, "its engine is %s", replica_state_name(best->state));
	pool_set_status(p->pool, text);
}

static mono_t plan_pool(
	struct control_pool *p, const struct registry_pool *rp, const struct pool_stats *st, mono_t now)
{
	uint32_t n = (uint32_t)p->nslots;
	AUTO(mem_freep) struct plan_slot *plan = mem_alloc((n + 1) * sizeof *plan);
	for (uint32_t i = 0; i < n; i++)
		plan[i] = p->slots[i].plan;
	struct plan_facts f = {
		.now = now,
		.min = p->cfg->replicas_min,
		.max = p->cfg->replicas_max,
		.slots = p->cfg->slots,
		.keep_alive_ms = p->cfg->keep_alive_ms,
		.waiting = st->waiting[POOL_INTERACTIVE] + st->waiting[POOL_BATCH],
		/* a drain that still waits for leases keeps its replicas */
		.held = p->op_unloading || (rp && rp->held && p->op != OP_DRAIN),
		.start = p->started,
		.always = p->external,
	};
	p->started = p->started && f.held; /* a start while it unloads counts when that is over */
	mono_t next = plan_replicas(&f, plan, n);
	for (uint32_t i = 0; i < n; i++)
		p->slots[i].plan = plan[i];
	return next;
}

/* An engine that an earlier orchestratord left running is wanted as if it had just been used: its model is
 * loaded, and keep_alive decides from here on. */
static void meet(struct control_slot *s, const struct registry_replica *r, bool held, mono_t now)
{
	if (s->plan.wanted)
		s->met = true;
	if (s->met || !r || !r->online)
		return;
	s->met = true;
	enum replica_state st = r->facts.state;
	bool runs = st == REPLICA_STARTING || st == REPLICA_PROVING || st == REPLICA_READY;
	if (!runs || held)
		return;
	s->plan.wanted = true;
	s->plan.busy_at = now;
}

static mono_t reconcile_pool(struct control_pool *p, const struct registry_snapshot *snap, mono_t now)
{
	struct pool_stats st;
	const struct registry_pool *rp = registry_snapshot_pool(snap, view_str(p->cfg->id));
	for (size_t i = 0; i < p->nslots; i++)
		p->slots[i].plan.leases = p->slots[i].plan.cooling = 0;
	pool_each_replica(p->pool, read_leases, p);
	pool_get_stats(p->pool, &st);
	op_step(p, &st, rp, now);
	bool waiting = st.waiting[POOL_INTERACTIVE] + st.waiting[POOL_BATCH] > 0;
	const struct wire_replica *best = NULL, *failed = NULL;
	bool usable = false;
	for (size_t i = 0; i < p->nslots; i++) {
		struct control_slot *s = &p->slots[i];
		const struct registry_replica *r =
			registry_snapshot_replica(snap, view_str(p->cfg->id), view_str(s->id));
		meet(s, r, (rp && rp->held) || p->op_unloading, now);
		s->plan.failed = r && for_good(&r->facts);
		s->plan.ready = r && r->ready;
		if (r && s->plan.failed) {
			failed = &r->facts;
			retry_failed(p, s, &r->facts, now);
		} else if (r && r->facts.state != REPLICA_STOPPED && r->facts.state != REPLICA_ABSENT) {
			usable = true;
			best = &r->facts;
		}
	}
	decide_refusal(p, rp, failed, usable);
	mono_t next = plan_pool(p, rp, &st, now);
	for (size_t i = 0; i < p->nslots; i++) {
		struct control_slot *s = &p->slots[i];
		apply_facts(p, s, registry_snapshot_replica(snap, view_str(p->cfg->id), view_str(s->id)),
			waiting);
	}
	describe(p, best ? best : failed);
	p->demanded = false;
	if (p->op != OP_NONE && !p->op_unloading && mono_before(p->op_deadline, next))
		next = p->op_deadline;
	return next;
}

static void on_timer(void *arg)
{
	control_wake(arg);
}

static void reconcile(void *arg)
{
	struct control *c = arg;
	if (c->quiet)
		return;
	mono_t now = mono_now(), next = registry_tick(c->o.registry, now);
	const struct registry_snapshot *s = registry_snapshot_ref(c->o.registry);
	for (size_t i = 0; i < c->npools; i++) {
		mono_t due = reconcile_pool(&c->pools[i], s, now);
		if (mono_before(due, next))
			next = due;
	}
	control_place(c, s);
	control_push(c, s);
	registry_snapshot_unref(s);
	loop_timer_stop(&c->timer);
	if (next.ns != INT64_MAX)
		loop_timer_start(c->o.loop, &c->timer, mono_ms_between(now, next) + 1, on_timer, c);
}

void control_wake(struct control *c)
{
	loop_defer(c->o.loop, &c->wake, reconcile, c);
}

void control_pause(struct control *c)
{
	c->quiet = true;
	for (size_t i = 0; i < c->npools; i++)
		op_give_up(&c->pools[i]);
}

void control_quiesce(struct control *c)
{
	c->quiet = true;
	for (size_t i = 0; i < c->npools; i++) {
		coolers_done(&c->pools[i]);
		for (size_t k = 0; k < c->pools[i].nslots; k++)
			take_out(&c->pools[i], &c->pools[i].slots[k], true);
	}
}

/* ---- demand, from any thread
 * ------------------------------------------------------------------------------- */

static void demand_on_loop(void *arg)
{
	struct control_pool *p = arg;
	p->demanded = true;
	pool_demand_seen(p->pool);
	control_look_after(p);
	control_wake(p->control);
}

static void on_demand(void *arg, struct pool *traffic)
{
	(void)traffic;
	struct control_pool *p = arg;
	loop_post(p->control->o.loop, &p->demand_work, demand_on_loop, p);
}

struct proved {
	struct control *c;
	struct pool_replica *r;
};

static void proved_on_loop(void *arg)
{
	struct proved *v = arg;
	struct control *c = v->c;
	for (size_t i = 0; i < c->npools; i++) {
		struct control_pool *p = &c->pools[i];
		if (p->pool != v->r->pool)
			continue;
		for (size_t k = 0; k < p->nslots; k++) {
			struct control_slot *s = &p->slots[k];
			if (strcmp(s->id, v->r->id) != 0 || s->proved_generation == v->r->generation)
				continue;
			s->proved_generation = v->r->generation;
			control_tell_proved(c, s->id, v->r->generation, "request");
		}
	}
	pool_replica_unref(v->r);
	free(v);
}

void control_proved(struct control *c, struct pool_replica *r)
{
	struct proved *v = NEW(struct proved);
	v->c = c;
	v->r = r;
	loop_post_call(c->o.loop, proved_on_loop, v);
}

/* ---- making
 * ------------------------------------------------------------------------------------------------- */

static void on_registry(void *arg, const struct registry_snapshot *s)
{
	(void)s;
	control_wake(arg);
}

static void pool_init(struct control *c, struct control_pool *p, const struct config_pool *cfg)
{
	p->control = c;
	p->cfg = cfg;
	p->external = cfg->engine.mode == CONFIG_MODE_EXTERNAL;
	struct pool_opts o = {
		.id = cfg->id,
		.queue_capacity = cfg->queue_capacity,
		.slots = cfg->slots,
		.policy = cfg->queue_policy == CONFIG_POLICY_DROP_LRU ? POOL_DROP_LRU : POOL_REJECT,
		.max_wait_ms = cfg->queue_max_wait_ms,
		.cancel_grace_ms = cfg->cancel_grace_ms,
		.on_demand = on_demand,
		.arg = p,
	};
	p->pool = pool_new(&o);
	p->nslots = p->external ? cfg->engine.urls.len : MAX(cfg->replicas_max, cfg->replicas_min);
	p->slots = mem_alloc(MAX(p->nslots, (size_t)1) * sizeof *p->slots);
	for (size_t i = 0; i < p->nslots; i++)
		snprintf(p->slots[i].id, sizeof p->slots[i].id, "%s-%zu", cfg->id, i);
	p->started = cfg->preload;
	map_put(&c->by_name, view_str(cfg->id), p);
	for (size_t i = 0; i < cfg->aliases.len; i++)
		map_put(&c->by_name, view_str(cfg->aliases.items[i]), p);
}

static int by_id(const void *a, const void *b)
{
	const struct control_pool *const *x = a, *const *y = b;
	return strcmp((*x)->cfg->id, (*y)->cfg->id);
}

static void sort_pools(struct control *c)
{
	c->by_id = mem_alloc((c->npools + 1) * sizeof(struct control_pool *));
	for (size_t i = 0; i < c->npools; i++)
		c->by_id[i] = &c->pools[i];
	qsort(c->by_id, c->npools, sizeof(struct control_pool *), by_id);
}

struct control *control_new(const struct control_opts *o)
{
	struct control *c = NEW(struct control);
	c->o = *o;
	c->config = config_ref(o->config);
	c->npools = c->config->npools;
	c->pools = mem_alloc(MAX(c->npools, (size_t)1) * sizeof *c->pools);
	map_init(&c->by_name);
	buf_init(&c->pushed, WIRE_BODY_MAX);
	buf_init(&c->pushing, WIRE_BODY_MAX);
	for (size_t i = 0; i < c->npools; i++)
		pool_init(c, &c->pools[i], &c->config->pools[i]);
	sort_pools(c);
	registry_watch(o->registry, on_registry, c);
	metrics_on_collect(o->metrics, control_collect, c);
	c->o.on_pools(c->o.arg);
	control_wake(c);
	return c;
}

void control_free(struct control *c)
{
	if (!c)
		return;
	registry_unwatch(c->o.registry, on_registry, c);
	loop_timer_stop(&c->timer);
	loop_defer_cancel(&c->wake);
	push_done(c);
	for (size_t i = 0; i < c->npools; i++) {
		struct control_pool *p = &c->pools[i];
		coolers_done(p);
		for (size_t k = 0; k < p->nslots; k++)
			pool_replica_unref(pool_take_replica(p->pool, p->slots[k].id, POOL_FATE_ENDED));
		pool_unref(p->pool);
		free(p->slots);
	}
	free(c->by_id);
	free(c->pools);
	map_done(&c->by_name);
	config_unref(c->config);
	free(c);
}

struct control_pool *control_pool_find(struct control *c, struct view name)
{
	return map_get(&c->by_name, name);
}

struct control_pool *control_pool_at(struct control *c, size_t i)
{
	return i < c->npools ? c->by_id[i] : NULL;
}

const struct config_pool *control_pool_config(const struct control_pool *p)
{
	return p->cfg;
}

struct pool *control_pool_traffic(const struct control_pool *p)
{
	return p->pool;
}

static enum pool_state state_of(enum replica_state s)
{
	switch (s) {
	case REPLICA_READY: return POOL_STATE_READY;
	case REPLICA_PROVING: return POOL_STATE_PROVING;
	case REPLICA_STARTING: return POOL_STATE_STARTING;
	case REPLICA_PROVISIONING: return POOL_STATE_PROVISIONING;
	case REPLICA_DRAINING: return POOL_STATE_DRAINING;
	case REPLICA_BACKOFF: return POOL_STATE_BACKOFF;
	case REPLICA_FAILED: return POOL_STATE_FAILED;
	default: return POOL_STATE_UNLOADED;
	}
}

enum pool_state control_pool_state(struct control *c, struct control_pool *p)
{
	/* the best first */
	static const enum pool_state order[] = { POOL_STATE_READY, POOL_STATE_PROVING, POOL_STATE_STARTING,
		POOL_STATE_PROVISIONING, POOL_STATE_BACKOFF, POOL_STATE_FAILED, POOL_STATE_DRAINING,
		POOL_STATE_UNLOADED };
	AUTO(registry_snapshot_unrefp)
	const struct registry_snapshot *s = registry_snapshot_ref(c->o.registry);
	const struct registry_pool *rp = registry_snapshot_pool(s, view_str(p->cfg->id));
	unsigned seen = 1u << POOL_STATE_UNLOADED;
	for (size_t i = 0; rp && i < rp->nreplicas; i++)
		seen |= 1u << (rp->replicas[i]->online ? state_of(rp->replicas[i]->facts.state)
						       : POOL_STATE_UNLOADED);
	if ((rp && rp->marks[MARK_DRAINING].by) || p->op == OP_STOP)
		return seen & ((1u << POOL_STATE_READY) | (1u << POOL_STATE_DRAINING)) ? POOL_STATE_DRAINING
										       : POOL_STATE_UNLOADED;
	for (size_t i = 0; i < ARRAY_LEN(order); i++)
		if (seen & (1u << order[i]))
			return order[i];
	return POOL_STATE_UNLOADED;
}

static void report_one(void *arg, const struct pool_replica *r)
{
	struct registry_leases **at = arg;
	**at = (struct registry_leases){
		.replica_id = mem_strdup(r->id), .generation = r->generation, .leases = r->in_use + r->cooling
	};
	++*at;
}

void control_report_leases(struct control *c)
{
	size_t cap = 0;
	for (size_t i = 0; i < c->npools; i++)
		cap += c->pools[i].nslots;
	struct registry_leases *list = mem_alloc((cap + 1) * sizeof *list), *at = list;
	for (size_t i = 0; i < c->npools; i++)
		pool_each_replica(c->pools[i].pool, report_one, &at);
	registry_report_leases(c->o.registry, list, (size_t)(at - list));
	for (struct registry_leases *l = list; l < at; l++)
		free((char *)(uintptr_t)l->replica_id);
	free(list);
}
