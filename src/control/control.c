/* SPDX-License-Identifier: Apache-2.0
 *
 * Life, and one reconciliation: facts in, wants and pool membership out.
 */
#include "control/control_int.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "log/log.h"
#include "placement/ledger.h"

/* ---- one pool ------------------------------------------------------------------------------------------ */

static void read_leases(void *arg, const struct pool_replica *r)
{
	struct control_slot *s = slot_find(arg, view_str(r->id));
	if (!s)
		return;
	s->plan.leases = r->in_use;
	s->plan.cooling = r->cooling;
	s->tools_at = (mono_t){ atomic_load_explicit(&r->tools_at, memory_order_acquire) };
	s->tools_owner = atomic_load_explicit(&r->tools_owner, memory_order_relaxed);
	if (mono_before(s->plan.busy_at, r->used_at))
		s->plan.busy_at = r->used_at;
}

void slots_read_leases(struct control_pool *p)
{
	for (size_t i = 0; i < p->nslots; i++)
		p->slots[i]->plan.leases = p->slots[i]->plan.cooling = 0;
	pool_each_replica(p->pool, read_leases, p);
}

static bool is_fetching(const struct wire_replica *f)
{
	return f->state == REPLICA_PROVISIONING && f->phase && strcmp(f->phase, "model_fetch") == 0;
}

static void describe(struct control_pool *p, const struct wire_replica *best, const struct pool_stats *st)
{
	char text[POOL_STATUS_MAX];
	if (!best && p->room_text[0])
		snprintf(text, sizeof text, "%.*s", (int)sizeof text - 1, p->room_text);
	else if (!best)
		snprintf(text, sizeof text, "no engine of it runs");
	else if (st->circuits && st->circuits == st->replicas)
		snprintf(text, sizeof text,
			"its engine lives and fails, and gets one request at a time to try it");
	else if (is_fetching(best))
		snprintf(text, sizeof text, "its model is being fetched");
	else if (best->phase && best->progress_pct >= 0)
		snprintf(text, sizeof text, "its engine is %s (%s, %d %%)", replica_state_name(best->state),
			best->phase, best->progress_pct);
	else
		snprintf(text, sizeof text, "its engine is %s", replica_state_name(best->state));
	pool_set_status(p->pool, text);
}

/* For those who wait (proxy/progress.c): how far the start is, by what the last one took. */
static void describe_start(struct control_pool *p, const struct wire_replica *best, mono_t now)
{
	struct pool_start s = { .pct = -1 };
	enum replica_state state = best ? best->state : REPLICA_ABSENT;
	bool starts = state == REPLICA_PROVISIONING || state == REPLICA_STARTING || state == REPLICA_PROVING;
	if (!starts) {
		p->start_generation = 0;
		pool_set_start(p->pool, &s);
		return;
	}
	if (p->start_generation != best->generation || p->start_state != state) {
		if (state != REPLICA_PROVING || p->start_generation != best->generation)
			p->start_since = now;
		p->start_generation = best->generation;
		p->start_state = state;
	}
	snprintf(s.doing, sizeof s.doing, "%s",
		is_fetching(best)               ? "fetching"
		: state == REPLICA_PROVISIONING ? "preparing"
						: "starting");
	if (is_fetching(best) && best->progress_text)
		snprintf(s.more, sizeof s.more, "%s", best->progress_text);
	s.pct = best->progress_pct;
	s.since = p->start_since;
	if (state != REPLICA_PROVISIONING && p->load_ms > 0)
		s.ready_by = mono_add_ms(p->start_since, p->load_ms);
	if (is_fetching(best) && best->progress_eta_ms > 0)
		s.ready_by = mono_add_ms(now, best->progress_eta_ms + p->load_ms);
	pool_set_start(p->pool, &s);
}

static mono_t sooner(mono_t a, mono_t b)
{
	return mono_before(a, b) ? a : b;
}

struct look { /* what the registry says of a pool's slots */
	const struct wire_replica *best, *failed;
	mono_t open; /* the failed one may be tried by who waits, from then on */
};

static struct look look_at_slots(
	struct control_pool *p, const struct registry_pool *rp, bool waiting, mono_t now)
{
	struct look l = { .open = MONO_NEVER };
	for (size_t i = 0; i < p->nslots; i++) {
		struct control_slot *s = p->slots[i];
		const struct registry_replica *r = slot_replica(rp, s);
		s->plan.failed = r && r->facts.state == REPLICA_FAILED;
		s->plan.ready = r && r->ready;
		if (r && s->plan.failed) {
			if (s->role != SLOT_LEAVING && !room_tries_smaller(p, s, &r->facts))
				l.failed = &r->facts;
			l.open = sooner(l.open, slot_retry_failed(p, rp, s, &r->facts, waiting, now));
		} else if (r && r->facts.state != REPLICA_STOPPED && r->facts.state != REPLICA_ABSENT &&
			   (s->role != SLOT_LEAVING || s->in_pool)) {
			l.best = &r->facts;
		}
	}
	return l;
}

static mono_t next_leave(const struct control_pool *p, mono_t now)
{
	mono_t next = MONO_NEVER;
	for (size_t i = 0; i < p->nslots; i++)
		if (p->slots[i]->role == SLOT_LEAVING && p->slots[i]->in_pool)
			next = sooner(next, p->slots[i]->leave_by);
	return mono_before(next, now) ? now : next;
}

/* Nothing of a kind that is not wanted any more runs: what comes next is of the wanted one. */
static void catch_up(struct control_pool *p, mono_t now)
{
	if (p->reload || p->removed || slots_count(p, SLOT_MAIN, true))
		return;
	struct control_variant v = variant_wanted(p);
	if (!variant_eq(&v, &p->variant))
		variant_switch(p, &v, mono_add_ms(now, LEAVE_MS));
	variant_done(&v);
}

static mono_t reconcile_pool(struct control_pool *p, const struct registry_snapshot *snap, mono_t now)
{
	struct pool_stats st;
	const struct registry_pool *rp = registry_snapshot_pool(snap, view_str(p->cfg->id));
	slots_adopt(p, rp, now);
	slots_read_leases(p);
	pool_get_stats(p->pool, &st);
	op_step(p, &st, rp, now);
	bool waiting = st.waiting[POOL_INTERACTIVE] + st.waiting[POOL_BATCH] > 0;
	struct look l = look_at_slots(p, rp, waiting, now);
	bool pauses = mono_before(now, l.open);
	decide_refusal(p, rp, pauses ? l.failed : NULL, l.best != NULL);
	catch_up(p, now);
	mono_t next = slots_plan(p, rp, &st, now);
	if (pauses)
		next = sooner(next, l.open);
	for (size_t i = 0; i < p->nslots; i++)
		slot_apply_facts(p, p->slots[i], slot_replica(rp, p->slots[i]), waiting);
	slots_tidy(p, rp);
	next = sooner(next, reload_step(p, rp, now));
	describe(p, l.best ? l.best : l.failed, &st);
	describe_start(p, l.best, now);
	p->demanded = false;
	if (p->op != OP_NONE && !p->op_unloading)
		next = sooner(next, p->op_deadline);
	return sooner(next, next_leave(p, now));
}

static void pool_gone(struct control_pool *p);

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
	for (size_t i = c->npools; i-- > 0;) {
		next = sooner(next, reconcile_pool(c->pools[i], s, now));
		if (c->pools[i]->removed && !c->pools[i]->nslots)
			pool_gone(c->pools[i]);
	}
	control_place(c, s);
	next = sooner(next, control_room(c, s, now));
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
	for (size_t i = 0; i < c->npools; i++) {
		op_give_up(c->pools[i]);
		reload_cancel(c->pools[i], "Corral is going down.");
	}
	kept_give_up(c);
}

void control_quiesce(struct control *c)
{
	c->quiet = true;
	for (size_t i = 0; i < c->npools; i++) {
		struct control_pool *p = c->pools[i];
		coolers_done(p);
		for (size_t k = 0; k < p->nslots; k++)
			slot_take_out(p, p->slots[k], true);
	}
}

/* ---- demand, from any thread --------------------------------------------------------------------------- */

/* Shared by a pool of ours and the traffic's: requests may hold the latter when ours is gone. */
struct demand {
	atomic_uint refs;
	struct loop *loop;
	struct loop_work work;  /* one at a time: pool_demand_seen allows the next */
	struct control_pool *p; /* control loop; NULL: gone */
};

static void demand_unref(void *arg)
{
	struct demand *d = arg;
	if (atomic_fetch_sub_explicit(&d->refs, 1, memory_order_acq_rel) == 1)
		free(d);
}

static void demand_on_loop(void *arg)
{
	struct demand *d = arg;
	struct control_pool *p = d->p;
	if (p) {
		p->demanded = true;
		pool_demand_seen(p->pool);
		control_look_after(p);
		control_wake(p->control);
	}
	demand_unref(d);
}

static void on_demand(void *arg, struct pool *traffic)
{
	(void)traffic;
	struct demand *d = arg;
	atomic_fetch_add_explicit(&d->refs, 1, memory_order_relaxed);
	loop_post(d->loop, &d->work, demand_on_loop, d);
}

struct proved {
	struct control *c;
	struct pool_replica *r;
};

static void proved_on_loop(void *arg)
{
	struct proved *v = arg;
	struct control *c = v->c;
	struct control_pool *p = map_gets(&c->all, pool_id(v->r->pool));
	struct control_slot *s = p && p->pool == v->r->pool ? slot_find(p, view_str(v->r->id)) : NULL;
	if (s && s->proved_generation != v->r->generation) {
		s->proved_generation = v->r->generation;
		control_tell_proved(c, s->id, v->r->generation, "request");
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

/* ---- making and freeing -------------------------------------------------------------------------------- */

static void on_registry(void *arg, const struct registry_snapshot *s)
{
	(void)s;
	control_wake(arg);
}

struct pool_opts pool_opts_of(struct control_pool *p)
{
	const struct config_pool *cfg = p->cfg;
	return (struct pool_opts){
		.id = cfg->id,
		.queue_capacity = cfg->queue_capacity,
		.slots = cfg->slots,
		.policy = cfg->queue_policy == CONFIG_POLICY_DROP_LRU ? POOL_DROP_LRU : POOL_REJECT,
		.max_wait_ms = cfg->queue_max_wait_ms,
		.cancel_grace_ms = cfg->cancel_grace_ms,
		.stall_ms = cfg->stall_timeout_ms,
		.first_token_ms = cfg->first_token_timeout_ms,
		.progress = { .mode = (enum pool_progress_mode)cfg->progress.mode,
			.after_ms = cfg->progress.after_ms,
			.every_ms = cfg->progress.every_ms },
		.keeps = cfg->engine.kind == CONFIG_ENGINE_LLAMACPP && cfg->kv.save != CONFIG_KV_OFF,
		.on_demand = on_demand,
		.on_free = demand_unref,
		.arg = p->demand,
	};
}

bool pool_is_held(const struct control_pool *p)
{
	AUTO(registry_snapshot_unrefp)
	const struct registry_snapshot *s = registry_snapshot_ref(p->control->o.registry);
	const struct registry_pool *rp = registry_snapshot_pool(s, view_str(p->cfg->id));
	return rp && rp->held;
}

/* What the registry kept, unless the configuration names another model since. */
static void read_override(struct control_pool *p)
{
	AUTO(registry_snapshot_unrefp)
	const struct registry_snapshot *s = registry_snapshot_ref(p->control->o.registry);
	const struct registry_pool *rp = registry_snapshot_pool(s, view_str(p->cfg->id));
	const struct registry_override *o = rp ? &rp->override : NULL;
	if (!o || !o->model)
		return;
	bool same = o->configured && p->cfg->model && strcmp(o->configured, p->cfg->model) == 0;
	if (same)
		p->override = mem_strdup(o->model);
	else
		registry_pool_override(p->control->o.registry, view_str(p->cfg->id), NULL);
}

struct control_pool *control_pool_add(struct control *c, struct config *cfg, const struct config_pool *pc)
{
	struct control_pool *p = NEW(struct control_pool);
	p->control = c;
	p->config = config_ref(cfg);
	p->cfg = pc;
	config_pool_spec(pc, p->spec);
	p->external = pc->engine.mode == CONFIG_MODE_EXTERNAL;
	p->demand = NEW(struct demand);
	*p->demand = (struct demand){ .loop = c->o.loop, .p = p };
	atomic_init(&p->demand->refs, 1); /* the traffic's */
	struct pool_opts o = pool_opts_of(p);
	p->pool = pool_new(&o);
	p->started = pc->preload;
	read_override(p);
	p->variant = variant_wanted(p);
	c->pools = mem_realloc(c->pools, (c->npools + 1) * sizeof(struct control_pool *));
	c->pools[c->npools++] = p;
	map_put(&c->all, view_str(pc->id), p);
	return p;
}

static void pool_free(struct control_pool *p)
{
	coolers_done(p);
	op_end(p);
	reload_cancel(p, "The pool is gone.");
	for (size_t k = 0; k < p->nslots; k++)
		pool_replica_unref(pool_take_replica(p->pool, p->slots[k]->id, POOL_FATE_ENDED));
	slots_done(p);
	p->demand->p = NULL;
	pool_unref(p->pool);
	variant_done(&p->variant);
	free(p->override);
	free(p->reload_error.message);
	free(p->reload_error.hint);
	config_unref(p->config);
	free(p);
}

/* Its last engine has ended. */
static void pool_gone(struct control_pool *p)
{
	struct control *c = p->control;
	log_event(LOG_INFO, "removed", p->cfg->id,
		(struct log_field[]){ LOG_STR("pool_id", p->cfg->id), LOG_END }, "Pool %s is gone.",
		p->cfg->id);
	registry_pool_override(c->o.registry, view_str(p->cfg->id), NULL);
	figures_forget(p);
	map_del(&c->all, view_str(p->cfg->id));
	for (size_t i = 0; i < c->npools; i++)
		if (c->pools[i] == p)
			c->pools[i] = c->pools[--c->npools];
	pool_free(p);
}

struct control *control_new(const struct control_opts *o)
{
	struct control *c = NEW(struct control);
	c->o = *o;
	map_init(&c->all);
	map_init(&c->by_name);
	list_init(&c->condemned);
	list_init(&c->kept);
	buf_init(&c->pushed, WIRE_BODY_MAX);
	buf_init(&c->pushing, WIRE_BODY_MAX);
	buf_init(&c->strays, WIRE_BODY_MAX);
	c->ledger = ledger_new();
	control_set_config(c, o->config);
	registry_watch(o->registry, on_registry, c);
	metrics_on_collect(o->metrics, control_collect, c);
	return c;
}

void control_free(struct control *c)
{
	if (!c)
		return;
	registry_unwatch(c->o.registry, on_registry, c);
	loop_timer_stop(&c->timer);
	hung_done(c);
	push_done(c);
	while (c->npools)
		pool_free(c->pools[--c->npools]);
	loop_defer_cancel(&c->wake);
	kept_done(c);
	ledger_freep(&c->ledger);
	free(c->awaited);
	free(c->by_id);
	free(c->pools);
	map_done(&c->by_name);
	map_done(&c->all);
	config_unref(c->config);
	free(c);
}
