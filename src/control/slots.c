/* SPDX-License-Identifier: Apache-2.0
 *
 * The replicas a pool has or wants. A slot keeps its place as long as its engine may run: "<pool>-<n>" with
 * the smallest n that is free, so that an engine that replaces another stands beside it.
 */
#include "control/control_int.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/num.h"
#include "log/log.h"

/* ---- what an engine is started from -------------------------------------------------------------------- */

bool variant_eq(const struct control_variant *a, const struct control_variant *b)
{
	return strcmp(a->spec, b->spec) == 0 && str_same(a->model, b->model);
}

void variant_set(struct control_variant *v, const char *spec, const char *model)
{
	snprintf(v->spec, sizeof v->spec, "%s", spec);
	mem_setstr(&v->model, model);
}

void variant_copy(struct control_variant *to, const struct control_variant *from)
{
	variant_set(to, from->spec, from->model);
}

void variant_done(struct control_variant *v)
{
	free(v->model);
	*v = (struct control_variant){ 0 };
}

struct control_variant variant_wanted(const struct control_pool *p)
{
	struct control_variant v = { 0 };
	variant_set(&v, p->spec, p->override);
	return v;
}

/* ---- slots --------------------------------------------------------------------------------------------- */

struct control_slot *slot_find(const struct control_pool *p, struct view id)
{
	for (size_t i = 0; i < p->nslots; i++)
		if (view_eqs(id, p->slots[i]->id))
			return p->slots[i];
	return NULL;
}

struct control_slot *slot_add(
	struct control_pool *p, uint32_t n, const struct control_variant *v, enum slot_role role)
{
	struct control_slot *s = NEW(struct control_slot);
	snprintf(s->id, sizeof s->id, "%s-%u", p->cfg->id, n);
	s->n = n;
	s->role = role;
	s->restart_epoch = p->epochs;
	variant_copy(&s->variant, v);
	p->slots = mem_realloc(p->slots, (p->nslots + 1) * sizeof(struct control_slot *));
	size_t at = p->nslots++;
	for (; at && p->slots[at - 1]->n > n; at--)
		p->slots[at] = p->slots[at - 1];
	p->slots[at] = s;
	return s;
}

static void slot_free(struct control *c, struct control_slot *s)
{
	variant_done(&s->variant);
	free(s->talks);
	free(s->kv_for);
	free(s->kv_found);
	slot_room_free(c, s, mono_now());
	free(s);
}

void slots_done(struct control_pool *p)
{
	for (size_t i = 0; i < p->nslots; i++)
		slot_free(p->control, p->slots[i]);
	free(p->slots);
	p->slots = NULL;
	p->nslots = 0;
}

const struct registry_replica *slot_replica(const struct registry_pool *rp, const struct control_slot *s)
{
	for (size_t i = 0; rp && i < rp->nreplicas; i++)
		if (strcmp(rp->replicas[i]->facts.replica_id, s->id) == 0)
			return rp->replicas[i];
	return NULL;
}

static bool is_gone(const struct registry_replica *r)
{
	return !r || r->facts.state == REPLICA_STOPPED || r->facts.state == REPLICA_ABSENT;
}

static bool n_is_taken(const struct control_pool *p, const struct registry_pool *rp, uint32_t n)
{
	struct control_slot probe;
	snprintf(probe.id, sizeof probe.id, "%s-%u", p->cfg->id, n);
	return slot_find(p, view_str(probe.id)) || !is_gone(slot_replica(rp, &probe));
}

uint32_t slot_free_n(const struct control_pool *p, const struct registry_pool *rp)
{
	uint32_t n = 0;
	while (n_is_taken(p, rp, n))
		n++;
	return n;
}

uint32_t slots_count(const struct control_pool *p, enum slot_role role, bool wanted_only)
{
	uint32_t k = 0;
	for (size_t i = 0; i < p->nslots; i++)
		k += p->slots[i]->role == role && (!wanted_only || p->slots[i]->plan.wanted);
	return k;
}

void slot_leave(struct control_slot *s, mono_t by)
{
	if (s->role != SLOT_LEAVING)
		s->leave_by = by;
	s->role = SLOT_LEAVING;
	s->plan.wanted = false;
}

void variant_switch(struct control_pool *p, const struct control_variant *v, mono_t leave_by)
{
	variant_copy(&p->variant, v);
	for (size_t i = 0; i < p->nslots; i++)
		if (p->slots[i]->role == SLOT_MAIN && !variant_eq(&p->slots[i]->variant, &p->variant))
			slot_leave(p->slots[i], leave_by);
}

/* Those that left, and those above the maximum that do not run. */
void slots_tidy(struct control_pool *p, const struct registry_pool *rp)
{
	size_t kept = 0, mains = 0;
	size_t max = p->external ? p->cfg->engine.urls.len : MAX(p->cfg->replicas_max, p->cfg->replicas_min);
	for (size_t i = 0; i < p->nslots; i++) {
		struct control_slot *s = p->slots[i];
		bool main = s->role == SLOT_MAIN;
		mains += main;
		bool spare = s->role == SLOT_LEAVING || (main && mains > max);
		if (spare && !s->plan.wanted && !s->in_pool && !s->on_wire && is_gone(slot_replica(rp, s))) {
			p->epochs = MAX(p->epochs, s->restart_epoch);
			mains -= main;
			slot_free(p->control, s);
			continue;
		}
		p->slots[kept++] = s;
	}
	p->nslots = kept;
}

/* ---- engines that an earlier orchestratord left running --------------------------------------------------
 */

static bool runs(const struct registry_replica *r)
{
	enum replica_state s = r->facts.state;
	return r->online && (s == REPLICA_STARTING || s == REPLICA_PROVING || s == REPLICA_READY);
}

/* n of "<pool>-<n>"; -EINVAL: it is called otherwise. */
static int n_of(const struct control_pool *p, const char *replica_id, uint32_t *ret)
{
	size_t len = strlen(p->cfg->id);
	uint64_t n;
	if (strncmp(replica_id, p->cfg->id, len) != 0 || replica_id[len] != '-' ||
		num_u64(view_str(replica_id + len + 1), &n) || n > UINT32_MAX)
		return -EINVAL;
	*ret = (uint32_t)n;
	return 0;
}

static struct control_slot *adopt_one(struct control_pool *p, const struct wire_replica *f, mono_t now)
{
	uint32_t n;
	if (n_of(p, f->replica_id, &n))
		return NULL;
	struct control_variant v = { 0 };
	if (f->spec)
		variant_set(&v, f->spec, f->model);
	else
		variant_copy(&v, &p->variant); /* a node that does not say */
	struct control_slot *s = slot_add(p, n, &v, SLOT_MAIN);
	variant_done(&v);
	s->plan.wanted = true; /* as if it had just been used: keep_alive decides from here on */
	s->plan.busy_at = now;
	return s;
}

/* What runs in a place that was taken before its node said so: that counts, not what was meant to run. */
static void believe(struct control_slot *s, const struct wire_replica *f)
{
	bool same = f->spec && strcmp(s->variant.spec, f->spec) == 0 && str_same(s->variant.model, f->model);
	if (s->role == SLOT_MAIN && f->spec && !same)
		variant_set(&s->variant, f->spec, f->model);
}

/* An engine that serves and one of the wanted kind: whether the first may go at once. */
static bool has_ready_wanted(const struct control_pool *p, const struct registry_pool *rp)
{
	for (size_t i = 0; i < p->nslots; i++) {
		const struct registry_replica *r = slot_replica(rp, p->slots[i]);
		if (r && r->ready && p->slots[i]->plan.wanted &&
			variant_eq(&p->slots[i]->variant, &p->variant))
			return true;
	}
	return false;
}

void slots_adopt(struct control_pool *p, const struct registry_pool *rp, mono_t now)
{
	bool foreign = false;
	if (p->removed || p->op_unloading || (rp && rp->held))
		return;
	for (size_t i = 0; rp && i < rp->nreplicas; i++) {
		const struct registry_replica *r = rp->replicas[i];
		if (!runs(r))
			continue;
		struct control_slot *s = slot_find(p, view_str(r->facts.replica_id));
		if (s)
			believe(s, &r->facts);
		else
			s = adopt_one(p, &r->facts, now);
		foreign |=
			s && s->role == SLOT_MAIN && s->plan.wanted && !variant_eq(&s->variant, &p->variant);
	}
	if (!foreign || p->reload)
		return;
	if (p->external || has_ready_wanted(p, rp))
		variant_switch(p, &p->variant, mono_add_ms(now, LEAVE_MS));
	else
		reload_for_config(p, rp, false);
}

/* ---- the plan ------------------------------------------------------------------------------------------ */

/* An external engine's n is the place of its URL, so a slot that still leaves holds up the next one. */
static void add_external(struct control_pool *p)
{
	for (uint32_t n = 0; n < p->cfg->engine.urls.len; n++) {
		char id[POOL_ID_MAX];
		snprintf(id, sizeof id, "%s-%u", p->cfg->id, n);
		if (!slot_find(p, view_str(id)))
			slot_add(p, n, &p->variant, SLOT_MAIN);
	}
}

static void keep_busy(struct control_pool *p, mono_t now)
{
	for (size_t i = 0; i < p->nslots; i++)
		if (p->slots[i]->plan.wanted)
			p->slots[i]->plan.busy_at = now;
}

static uint32_t collect(struct control_pool *p, struct control_slot **of, struct plan_slot *plan)
{
	uint32_t n = 0;
	for (size_t i = 0; i < p->nslots; i++) {
		if (p->slots[i]->role != SLOT_MAIN)
			continue;
		of[n] = p->slots[i];
		plan[n++] = p->slots[i]->plan;
	}
	return n;
}

mono_t slots_plan(
	struct control_pool *p, const struct registry_pool *rp, const struct pool_stats *st, mono_t now)
{
	if (p->removed)
		return MONO_NEVER;
	if (p->reload) { /* it alone decides what runs */
		keep_busy(p, now);
		return MONO_NEVER;
	}
	if (p->external)
		add_external(p);
	size_t max = MAX(p->cfg->replicas_max, p->cfg->replicas_min), room = p->nslots + max + 1;
	AUTO(mem_freep) struct plan_slot *plan = mem_alloc(room * sizeof *plan);
	AUTO(mem_freep) struct control_slot **of = mem_alloc(room * sizeof *of);
	uint32_t have = collect(p, of, plan), n = p->external ? have : (uint32_t)MAX(have, max);
	struct plan_facts f = {
		.now = now,
		.min = p->cfg->replicas_min,
		.max = p->cfg->replicas_max,
		.slots = p->cfg->slots,
		.keep_alive_ms = p->cfg->keep_alive_ms,
		.waiting = st->waiting[POOL_INTERACTIVE] + st->waiting[POOL_BATCH],
		/* a drain that still waits for leases keeps its replicas */
		.held = p->op_unloading || (rp && rp->held && p->op != OP_DRAIN && p->op != OP_DISABLE),
		.start = p->started,
		.always = p->external,
	};
	p->started = p->started && f.held; /* a start while it unloads counts when that is over */
	mono_t next = plan_replicas(&f, plan, n);
	for (uint32_t i = 0; i < n; i++) {
		if (i >= have && !plan[i].wanted)
			continue;
		struct control_slot *s =
			i < have ? of[i] : slot_add(p, slot_free_n(p, rp), &p->variant, SLOT_MAIN);
		s->plan = plan[i];
	}
	return next;
}
