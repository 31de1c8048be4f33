/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <math.h>

#include "base/num.h"
#include "placement/sim_int.h"

static struct swap_waiting waiting(const struct sim *x, size_t model)
{
	size_t i = x->models[model].first;
	return (struct swap_waiting){ sim_mono(x->out[i].arrived_ms), x->s->requests[i].key };
}

static void look_again(struct sim *x, mono_t at)
{
	int64_t ms = at.ns == INT64_MAX ? INT64_MAX : (at.ns + 999999) / 1000000;
	if (ms == INT64_MAX || ms <= x->now || (x->looks_at > x->now && x->looks_at <= ms))
		return;
	x->looks_at = ms;
	sim_schedule(x, ms, LOOK, 0, 0);
}

/* Facts for the model that waits. drain: those that answer or are held count as idle: whose room would it be?
 */
static void facts(struct sim *x, size_t who, bool drain, struct fit_facts *ret)
{
	const struct swap_waiting w = waiting(x, who);
	size_t n = 0, nuses = 0;
	for (size_t d = 0; d < x->s->ndevices; d++) {
		struct ledger_view v;
		ledger_look(x->ledger, d, &v);
		x->devices[d].reserved = v.booked;
		x->devices[d].foreign = v.foreign;
		x->devices[d].replicas = (uint32_t)v.owners;
	}
	for (size_t i = 0; i < x->s->nmodels; i++) {
		const struct sim_model *c = &x->s->models[i];
		const struct model *m = &x->models[i];
		if (m->state == OUT || m->state == LEAVES)
			continue;
		mono_t until = MONO_NEVER;
		enum swap_turn turn = swap_turn(&m->swap, &w, &x->s->policy, sim_mono(x->now), &until);
		/* Requests of its own are about to start. */
		bool own = m->first != SIM_NONE && swap_admits(sim_mono(x->out[m->first].arrived_ms), &w,
							   &x->s->policy, sim_mono(x->now));
		bool busy = m->state == LOADS || (!drain && (turn != SWAP_NOW || own));
		if (turn == SWAP_HELD)
			look_again(x, until);
		double chance = 1 - exp(-m->rate * HORIZON_MS);
		x->replica_model[n] = i;
		x->replicas[n++] = (struct fit_replica){ .replica_id = c->id,
			.pool_id = c->id,
			.first_use = nuses,
			.nuses = m->nparts,
			.busy = busy,
			.pinned = c->pinned,
			.expired = c->keep_alive_ms && x->now - m->used_ms > c->keep_alive_ms && !m->running,
			.loss = chance * (double)c->load_ms / 1000 *
				(c->evict_cost > 0 ? c->evict_cost : 1) };
		for (size_t p = 0; p < m->nparts; p++)
			x->uses[nuses++] = (struct fit_use){ m->parts[p].device, m->parts[p].bytes };
	}
	*ret = (struct fit_facts){ x->devices, x->s->ndevices, x->replicas, n, x->uses, nuses, 0, NULL };
}

static void plan_for(struct sim *x, size_t who, bool drain, struct fit_facts *f, struct fit_plan *ret)
{
	const struct sim_model *c = &x->s->models[who];
	const struct fit_need need = { .whole = c->bytes, .host = c->host_bytes };
	const struct fit_want want = {
		.pool_id = c->id, .replica_id = c->id, .need = &need, .may_evict = true
	};
	facts(x, who, drain, f);
	fit_plan(f, &want, x->scratch, ret, NULL);
	x->ret->decisions++;
}

static bool load(struct sim *x, size_t who, const struct fit_plan *p)
{
	struct model *m = &x->models[who];
	m->nparts = 0;
	for (size_t i = 0; i < p->nparts; i++)
		m->parts[m->nparts++] = (struct ledger_part){ p->parts[i].device, p->parts[i].bytes };
	if (p->host != FIT_NONE && p->host_bytes)
		m->parts[m->nparts++] = (struct ledger_part){ p->host, p->host_bytes };
	m->generation++;
	if (ledger_reserve(x->ledger, sim_owner(x, who), m->parts, m->nparts, NULL)) {
		m->generation--;
		sim_breaks(x, "the ledger refuses what the planner placed", who);
		return false;
	}
	m->state = LOADS;
	m->swap = (struct swap_loaded){ 0 };
	m->contender = SIM_NONE;
	x->ret->loads++;
	x->ret->swaps += m->wanted;
	m->wanted = false;
	sim_uses(x, m, true);
	sim_schedule(x, x->now + x->s->models[who].load_ms, READY, who, m->generation);
	m->told = false;
	if (x->log)
		(void)buf_addf(x->log, "%" PRId64 " load %s: %s, device %zu\n", x->now, x->s->models[who].id,
			fit_how_text(p->how), p->nparts ? p->parts[0].device : p->host);
	return true;
}

static void tell_eviction(struct sim *x, size_t who, const struct fit_replica *v)
{
	if (!x->log)
		return;
	(void)buf_addf(x->log, "%" PRId64 " evict %s for %s: ", x->now, v->replica_id, x->s->models[who].id);
	if (v->expired)
		(void)buf_adds(x->log, "its keep_alive is over\n");
	else
		(void)buf_addf(x->log, "idle, and the least loss that makes room (%.1f s)\n", v->loss);
}

static void evict(struct sim *x, size_t who, const struct fit_plan *p)
{
	for (size_t i = 0; i < p->nvictims; i++) {
		size_t v = x->replica_model[p->victims[i]];
		if (x->models[v].running || x->s->models[v].pinned)
			sim_breaks(x, "a busy or pinned model was evicted", v);
		x->ret->evictions++;
		tell_eviction(x, who, &x->replicas[p->victims[i]]);
		sim_leave(x, v);
	}
	x->models[who].wanted = true;
}

static void refuse(struct sim *x, size_t who, const struct fit_plan *p)
{
	struct model *m = &x->models[who];
	char missing[32];
	num_format_bytes(p->missing, missing, sizeof missing);
	x->ret->refusals++;
	m->told = false;
	if (x->log && p->closest == FIT_NONE)
		(void)buf_addf(x->log, "%" PRId64 " no room for %s: no device is there\n", x->now,
			x->s->models[who].id);
	else if (x->log)
		(void)buf_addf(x->log, "%" PRId64 " no room for %s: device %zu lacks %s\n", x->now,
			x->s->models[who].id, p->closest, missing);
	while (m->first != SIM_NONE)
		sim_answer(x, sim_dequeue(x, m), true);
}

/* Once for each time it waits: for whom, and why that one does not leave. */
static void tell_wait(struct sim *x, size_t who, size_t victim)
{
	const struct model *v = &x->models[victim];
	const struct swap_waiting w = waiting(x, who);
	mono_t until;
	if (!x->log || x->models[who].told)
		return;
	x->models[who].told = true;
	enum swap_turn turn = swap_turn(&v->swap, &w, &x->s->policy, sim_mono(x->now), &until);
	const char *why = v->state == LOADS  ? "it is being loaded"
			  : turn == SWAP_NOW ? "its own requests go first"
					     : swap_turn_text(turn);
	(void)buf_addf(x->log, "%" PRId64 " %s waits for %s: %s\n", x->now, x->s->models[who].id,
		x->s->models[victim].id, why);
}

static bool anybody_leaves(const struct sim *x)
{
	for (size_t i = 0; i < x->s->nmodels; i++)
		if (x->models[i].state == LEAVES)
			return true;
	return false;
}

enum placed { PLACED, WAITS, NEVER };
static enum placed place(struct sim *x, size_t who)
{
	struct fit_facts f;
	struct fit_plan p;
	plan_for(x, who, false, &f, &p);
	if (p.how != FIT_NO && !p.nvictims)
		return load(x, who, &p) ? PLACED : WAITS;
	if (p.how != FIT_NO) {
		/* What returns may be enough. */
		if (!anybody_leaves(x))
			evict(x, who, &p);
		return WAITS;
	}
	/* Those whose room it would be are not given later requests once it is due. */
	plan_for(x, who, true, &f, &p);
	if (p.how == FIT_NO) {
		bool moves = p.later;
		for (size_t i = 0; i < x->s->nmodels; i++)
			moves |= x->models[i].state == LOADS || x->models[i].state == LEAVES;
		if (moves)
			return WAITS;
		refuse(x, who, &p);
		return NEVER;
	}
	for (size_t i = 0; i < p.nvictims; i++) {
		struct model *v = &x->models[x->replica_model[p.victims[i]]];
		if (v->contender == SIM_NONE)
			v->contender = who;
	}
	if (p.nvictims)
		tell_wait(x, who, x->replica_model[p.victims[0]]);
	struct swap_waiting w = waiting(x, who);
	look_again(x, swap_due(&w, &x->s->policy));
	return WAITS;
}

/* Models with requests that are not loaded, by their oldest one. */
static size_t order_waiting(struct sim *x)
{
	size_t n = 0;
	for (size_t i = 0; i < x->s->nmodels; i++) {
		x->models[i].contender = SIM_NONE;
		if (x->models[i].state != OUT || x->models[i].first == SIM_NONE)
			continue;
		int64_t since = x->out[x->models[i].first].arrived_ms;
		size_t at = n++;
		for (; at && x->out[x->models[x->order[at - 1]].first].arrived_ms > since; at--)
			x->order[at] = x->order[at - 1];
		x->order[at] = i;
	}
	return n;
}

static void admit(struct sim *x, size_t model)
{
	struct model *m = &x->models[model];
	while (m->state == LOADED && m->first != SIM_NONE && m->running < x->s->models[model].slots) {
		if (m->contender != SIM_NONE) {
			struct swap_waiting w = waiting(x, m->contender);
			if (!swap_admits(sim_mono(x->out[m->first].arrived_ms), &w, &x->s->policy,
				    sim_mono(x->now)))
				return;
		}
		sim_start(x, model, sim_dequeue(x, m));
	}
}

void sim_settle(struct sim *x)
{
	size_t n = order_waiting(x);
	for (size_t i = 0; i < n; i++) {
		size_t who = x->order[i];
		enum placed placed = place(x, who);
		if (placed != WAITS)
			continue;
		/* Nobody who came later takes the room that is made for it, or that it is due. */
		struct swap_waiting w = waiting(x, who);
		if (anybody_leaves(x) || !mono_before(sim_mono(x->now), swap_due(&w, &x->s->policy)))
			break;
	}
	for (size_t i = 0; i < x->s->nmodels; i++)
		admit(x, i);
	for (size_t d = 0; d < x->s->ndevices; d++) {
		struct ledger_view v;
		ledger_look(x->ledger, d, &v);
		if (v.capacity && (v.booked > v.capacity || x->used[d] > v.capacity))
			sim_breaks(x, "more memory is taken than there is", d);
	}
}
