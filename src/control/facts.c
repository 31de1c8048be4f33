/* SPDX-License-Identifier: Apache-2.0
 *
 * Facts to traffic: which replicas a pool has, what they may be given, and the sentences told about them.
 */
#include "control/control_int.h"

#include <string.h>

#include "log/log.h"

void slot_take_out(struct control_pool *p, struct control_slot *s, bool cut)
{
	if (!s->in_pool)
		return;
	s->in_pool = false;
	slot_note_talks(p, s);
	struct pool_replica *r = pool_take_replica(p->pool, s->id, control_fate_now(p, s->id, s->generation));
	if (r)
		p->control->o.on_replica_gone(p->control->o.arg, r, cut);
}

static bool answers(const struct registry_replica *r)
{
	return r && r->online && r->facts.address &&
	       (r->facts.state == REPLICA_READY || r->facts.state == REPLICA_PROVING);
}

/* The id a server knows the model by, where it minds: the pool's model where it serves that, else the one it
 * serves. */
static const char *remote_model(const struct control_pool *p, const struct wire_replica *f)
{
	enum config_engine_kind kind = p->cfg->engine.kind;
	if (kind == CONFIG_ENGINE_LLAMACPP || kind == CONFIG_ENGINE_COMMAND || !f->remote_models ||
		!f->remote_models[0])
		return NULL;
	for (size_t i = 0; f->remote_models[i]; i++)
		if ((p->cfg->model && strcmp(f->remote_models[i], p->cfg->model) == 0) ||
			strcmp(f->remote_models[i], p->cfg->id) == 0)
			return f->remote_models[i];
	return p->cfg->model ? p->cfg->model : f->remote_models[0];
}

static uint32_t load_of(const struct wire_replica *f)
{
	int64_t n = MAX(f->load_running, (int64_t)0);
	n = MIN(n, (int64_t)INT32_MAX) + MIN(MAX(f->load_waiting, (int64_t)0), (int64_t)INT32_MAX);
	return (uint32_t)n;
}

static void put_in(struct control_pool *p, struct control_slot *s, const struct wire_replica *f, bool proving)
{
	if (s->in_pool && s->generation != f->generation)
		slot_take_out(p, s, true);
	struct pool_replica_facts facts = {
		.id = s->id,
		.generation = f->generation,
		.address = f->address,
		.engine = f->engine,
		.engine_version = f->engine_version,
		.device = f->device_mask,
		.remote_model = remote_model(p, f),
		.key_file = f->key_file,
		.load_seq = f->load_seq,
		.load = load_of(f),
		.conn_idle_ms = f->conn_idle_ms,
		.conn_requests = f->conn_requests,
		.slots_total = f->slots_total ? f->slots_total : p->cfg->slots,
		.has_slots = f->has_slots,
		.proving = proving,
		.draining = !s->plan.wanted || p->op != OP_NONE, /* each waits for the last lease */
		.pid = f->pid,
	};
	if (!s->in_pool || s->generation != f->generation)
		slot_found_talks(s, f->kv_found);
	s->in_pool = true;
	s->generation = f->generation;
	struct pool_replica *old = pool_put_replica(p->pool, &facts);
	if (old) /* the same process at another address */
		p->control->o.on_replica_gone(p->control->o.arg, old, true);
}

static void read_one(void *arg, const struct pool_replica *r)
{
	struct control_slot *s = arg;
	if (strcmp(s->id, r->id) != 0)
		return;
	s->plan.leases = r->in_use + r->cooling;
	s->down = r->down;
}

/* Proving: a waiting request may be the canary; when none waits the node sends its own. A fresh one of a
 * reload always proves itself: no request pays for a model that does not work. */
static void prove(struct control_pool *p, struct control_slot *s, const struct wire_replica *f, bool waiting)
{
	bool by_request = p->cfg->canary == CONFIG_CANARY_AUTO && s->own_generation != f->generation &&
			  s->role != SLOT_FRESH;
	if (by_request && (waiting || s->in_pool)) {
		put_in(p, s, f, true);
		s->plan.leases = 0;
		pool_each_replica(p->pool, read_one, s);
		/* down: its canary found it failing, and what became of it is not known yet */
		if (s->plan.leases || s->down || s->proved_generation == f->generation)
			return;
		slot_take_out(p, s, false); /* whoever waited has left: nothing is being proved */
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
	bool force = (p->op_unloading && p->op_forced) ||
		     (s->role == SLOT_LEAVING && !mono_before(mono_now(), s->leave_by));
	if (!s->plan.leases || force || !answers(r))
		slot_take_out(p, s, s->plan.leases > 0);
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
	p->was_ready |= now == REPLICA_READY;
	if (now == REPLICA_READY && r->facts.load_ms > 0) {
		p->load_ms = r->facts.load_ms;
		metric_observe_ns(
			metrics_series(p->control->o.metrics, "corral_model_load_seconds", p->cfg->id, NULL),
			r->facts.load_ms * 1000000);
		if (r->facts.kv_restored_tokens)
			metric_add(metrics_series(p->control->o.metrics, "corral_kv_restored_tokens_total",
					   p->cfg->id, NULL),
				r->facts.kv_restored_tokens);
	}
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

void slot_apply_facts(
	struct control_pool *p, struct control_slot *s, const struct registry_replica *r, bool waiting)
{
	count_restarts(p, s, r); /* before the next success clears the cause */
	narrate(p, s, r);
	if (s->retired && r && r->facts.generation <= s->retired) {
		slot_take_out(p, s, true); /* whoever waits, waits for the next one */
		return;
	}
	s->retired = 0;
	if (!s->plan.wanted) {
		let_go(p, s, r);
		return;
	}
	if (!answers(r)) {
		if (s->in_pool)
			slot_take_out(p, s, r && r->online && r->facts.state != REPLICA_DRAINING);
		return;
	}
	if (r->facts.state == REPLICA_PROVING)
		prove(p, s, &r->facts, waiting);
	else
		put_in(p, s, &r->facts, false);
}
