/* SPDX-License-Identifier: Apache-2.0
 *
 * Room for what is to be started: reserved before the node is told, kept until the engine is gone. Where
 * there is none, idle replicas leave; where only busy ones could, they are waited for, at most swap.max_wait;
 * where nothing could ever make it fit, the pool says so. All of it is decided anew with every
 * reconciliation; nothing is remembered but who waits since when, and what is reserved.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/num.h"
#include "control/room_int.h"
#include "log/log.h"

/* What strangers hold may be what an engine has not given back yet: so long it is waited for. */
enum { STRANGERS_MS = 2 * LEDGER_RETURN_MS };
/* Who waits for memory is looked at again so often, whatever is told meanwhile. */
enum { AGAIN_MS = 1000 };
/* More than a driver's first answer may take (gpu/monitor.h). */
enum { DEVICES_MS = 15000 };

enum room_beside room_beside(struct control_pool *p, const struct control_variant *v,
	const struct registry_snapshot *snap, mono_t now)
{
	AUTO(scene_done) struct scene sc;
	AUTO(room_want_done) struct room_want w;
	struct fit_plan plan;
	scene_make(p->control, snap, &(struct swap_waiting){ .since = now }, now, &sc);
	room_want_make(snap, &sc, p, v, NULL, &w);
	if (!w.known || w.absent || w.stale || !sc.facts.ndevices)
		return w.stale ? BESIDE_UNTOLD : BESIDE_UNKNOWN;
	w.fit.may_evict = false;
	fit_plan(&sc.facts, &w.fit, sc.scratch, &plan, NULL);
	for (size_t i = 0; i < plan.nparts; i++)
		if (!sc.devices[plan.parts[i].device].capacity)
			return BESIDE_UNKNOWN;
	if (plan.how == FIT_HOST && !sc.devices[plan.host].capacity)
		return BESIDE_UNKNOWN;
	return plan.how != FIT_NO ? BESIDE_FITS : BESIDE_FITS_NOT;
}

static bool is_gone(const struct registry_replica *r)
{
	return !r || !r->online || r->facts.state == REPLICA_STOPPED || r->facts.state == REPLICA_ABSENT;
}

static bool has_waiting(const struct control_pool *p)
{
	struct pool_stats st;
	pool_get_stats(p->pool, &st);
	return st.waiting[POOL_INTERACTIVE] + st.waiting[POOL_BATCH] > 0;
}

static bool has_process(const struct registry_replica *r)
{
	return r && r->online &&
	       (r->facts.state == REPLICA_STARTING || r->facts.state == REPLICA_PROVING ||
		       r->facts.state == REPLICA_READY || r->facts.state == REPLICA_DRAINING);
}

/* ---- who leaves -------------------------------------------------------------------------------------- */

static void make_leave(struct control *c, const struct scene *sc, const struct control_slot *for_slot,
	size_t victim, mono_t now)
{
	struct control_slot *v = sc->slots[victim];
	struct control_pool *p = sc->pools[victim];
	if (v->role == SLOT_LEAVING)
		return;
	metric_inc(metrics_series(c->o.metrics, "corral_evictions_total", p->cfg->id, NULL));
	log_event(LOG_INFO, "evict", v->id,
		(struct log_field[]){ LOG_STR("pool_id", p->cfg->id), LOG_STR("replica_id", v->id),
			LOG_STR("for", for_slot->id), LOG_END },
		"Replica %s leaves to make room for %s.", v->id, for_slot->id);
	slot_leave(v, mono_add_ms(now, LEAVE_MS));
	control_wake(c);
}

/* ---- one that is to be started ------------------------------------------------------------------------ */

/* Whose turn it is gets what it was promised: those who decide after it leave so much of a device alone. */
struct claim {
	size_t device; /* of the ledger */
	uint64_t bytes;
};
struct deciding {
	struct control *c;
	const struct registry_snapshot *snap;
	mono_t now, next;
	struct claim *claims;
	size_t nclaims;
};

static void claim_one(struct deciding *d, const struct scene *sc, size_t device, uint64_t bytes)
{
	d->claims = mem_realloc(d->claims, (d->nclaims + 1) * sizeof *d->claims);
	d->claims[d->nclaims++] = (struct claim){ sc->booked[device], bytes };
}

static void claim(struct deciding *d, const struct scene *sc, const struct fit_plan *plan)
{
	for (size_t i = 0; i < plan->nparts; i++)
		claim_one(d, sc, plan->parts[i].device, plan->parts[i].bytes);
	if (plan->how != FIT_NO && plan->host != FIT_NONE)
		claim_one(d, sc, plan->host, plan->host_bytes);
}

static void heed_claims(const struct deciding *d, struct scene *sc)
{
	for (size_t i = 0; i < d->nclaims; i++)
		for (size_t k = 0; k < sc->facts.ndevices; k++)
			if (sc->booked[k] == d->claims[i].device)
				sc->devices[k].reserved += d->claims[i].bytes;
}

static void ask_again(struct deciding *d, mono_t at)
{
	if (mono_before(at, d->next))
		d->next = at;
}

static void waits(struct deciding *d, struct control_pool *p, struct control_slot *s, const char *what)
{
	if (!s->waits)
		s->waits_since = d->now;
	s->waits = true;
	s->node = NULL;
	snprintf(p->room_text, sizeof p->room_text, "it waits for memory: %s", what);
}

/* Whether it would be there if nobody else used the devices it may have. */
static bool could_ever(const struct scene *sc, const struct room_want *w, uint64_t bytes)
{
	uint64_t sum = 0, most = 0;
	for (size_t i = 0; i < sc->facts.ndevices; i++) {
		const struct fit_device *d = &sc->devices[i];
		bool in = d->kind == FIT_KIND_CPU ? w->fit.cpu : bit_get(w->mask, i);
		uint64_t cap = d->limit ? MIN(d->limit, d->capacity) : d->capacity;
		if (!in)
			continue;
		sum += cap;
		most = MAX(most, cap ? cap : bytes);
	}
	return bytes <= (w->need.nlayers && !w->fit.share ? MAX(sum, most) : most);
}

static void refuse_room(struct control_pool *p, const struct scene *sc, const struct room_want *w,
	const struct fit_plan *plan)
{
	char need[32] = "?", has[32] = "?", lacks[32] = "?", foreign[32] = "?";
	const struct fit_device *d = plan->closest == FIT_NONE ? NULL : &sc->devices[plan->closest];
	uint64_t bytes = w->fit.share ? w->fit.share : fit_need_whole(&w->need);
	num_format_bytes(bytes, need, sizeof need);
	num_format_bytes(plan->missing, lacks, sizeof lacks);
	p->room_forever = !could_ever(sc, w, bytes);
	if (!d) {
		snprintf(p->room_text, sizeof p->room_text,
			"it needs %s of memory, and no device that it may use is there", need);
		return;
	}
	num_format_bytes(d->capacity, has, sizeof has);
	num_format_bytes(d->foreign, foreign, sizeof foreign);
	snprintf(p->room_text, sizeof p->room_text,
		"it needs %s of memory; %s %u comes closest with %s in all: %s are missing there%s%s%s", need,
		d->kind == FIT_KIND_CPU ? "host" : "device", d->index, has, lacks,
		d->foreign >= MIB ? ", programs that are not Corral's hold " : "",
		d->foreign >= MIB ? foreign : "",
		w->fit.offload == FIT_OFFLOAD_NEVER ? " (offload: never keeps all of it on devices)" : "");
}

static bool leaves(const struct control_slot *s)
{
	return s->role == SLOT_LEAVING || !s->plan.wanted;
}

/* Memory is on its way: an engine starts, or ends, or what it held is not seen to be free yet. */
static const char *unsettled(const struct deciding *d, const struct scene *sc, const struct control_slot *but)
{
	for (size_t i = 0; i < sc->facts.nreplicas; i++) {
		const struct control_slot *s = sc->slots[i];
		if (leaves(s))
			return "another engine is ending";
		if (s != but && !s->plan.ready && !s->plan.failed)
			return "another engine is being started";
	}
	if (d->c->returns_by.ns)
		return "what an engine held is being given back";
	return d->nclaims ? "it is another model's turn" : NULL;
}

static bool strangers_hold(const struct scene *sc, const struct room_want *w)
{
	for (size_t i = 0; i < sc->facts.ndevices; i++)
		if (sc->devices[i].kind != FIT_KIND_CPU && bit_get(w->mask, i) &&
			sc->devices[i].foreign >= MIB)
			return true;
	return false;
}

/* The host alone, and the model is larger than what is free of it: its pages come from the file as they are
 * needed. Slow, but it serves, as the engine by itself would. */
static bool serve_mapped(struct deciding *d, struct control_pool *p, struct control_slot *s,
	const struct scene *sc, const struct room_want *w)
{
	struct fit_plan plan;
	if (!room_plan_mapped(&sc->facts, sc->scratch, w, &plan) || !room_reserve(d->c, s, sc, w, &plan))
		return false;
	log_event(LOG_WARN, "mapped", s->id, (struct log_field[]){ LOG_STR("pool_id", p->cfg->id), LOG_END },
		"The model of %s is larger than the free memory of the host: it is read from its file as it "
		"is "
		"needed, which is slow.",
		s->id);
	return true;
}

static mono_t due(const struct deciding *d, const struct control_slot *s)
{
	struct swap_policy policy = room_swap_policy(d->c);
	return swap_due(&(struct swap_waiting){ .since = s->waits_since }, &policy);
}

/* Its bound is over, and an engine that it would take the place of still starts or ends. */
static void claim_in_time(
	struct deciding *d, const struct control_slot *s, struct scene *sc, const struct room_want *w)
{
	struct fit_plan plan;
	if (mono_before(d->now, due(d, s)))
		return;
	for (size_t i = 0; i < sc->facts.nreplicas; i++)
		sc->replicas[i].busy = sc->pools[i]->external;
	fit_plan(&sc->facts, &w->fit, sc->scratch, &plan, NULL);
	claim(d, sc, &plan);
}

/* Another replica of the pool serves, or is about to. */
static bool another_serves(const struct control_pool *p, const struct control_slot *than)
{
	for (size_t i = 0; i < p->nslots; i++)
		if (p->slots[i] != than && p->slots[i]->room && !leaves(p->slots[i]) &&
			!p->slots[i]->plan.failed)
			return true;
	return false;
}

/* One more is welcome where there is room for it, and nothing that is busy leaves for it; nor is anybody
 * refused because it is not there. */
static void do_without(struct deciding *d, struct control_pool *p, struct control_slot *s)
{
	s->node = NULL;
	s->waits = false;
	if (has_waiting(p))
		ask_again(d, mono_add_ms(d->now, AGAIN_MS));
}

/* Busy replicas would have to go. Until the bound is over they may go on as they like. */
static void wait_for_busy(struct deciding *d, struct control_pool *p, struct control_slot *s,
	struct scene *sc, const struct room_want *w)
{
	struct fit_plan plan;
	for (size_t i = 0; i < sc->facts.nreplicas; i++) { /* one that starts is let be */
		const struct control_slot *v = sc->slots[i];
		sc->replicas[i].busy = sc->pools[i]->external || (!v->in_pool && !leaves(v));
	}
	fit_plan(&sc->facts, &w->fit, sc->scratch, &plan, NULL);
	const char *what = unsettled(d, sc, s);
	if (plan.how == FIT_NO && what) {
		waits(d, p, s, what);
		claim_in_time(d, s, sc, w);
		ask_again(d, mono_add_ms(d->now, AGAIN_MS));
		return;
	}
	bool forever = !could_ever(sc, w, w->fit.share ? w->fit.share : fit_need_whole(&w->need));
	if (plan.how == FIT_NO && !forever && strangers_hold(sc, w)) {
		waits(d, p, s, "programs that are not Corral's hold it");
		mono_t until = mono_add_ms(s->waits_since, STRANGERS_MS);
		ask_again(d, until);
		if (mono_before(d->now, until))
			return;
	}
	if (plan.how == FIT_NO && serve_mapped(d, p, s, sc, w))
		return;
	if (plan.how == FIT_NO) {
		s->node = NULL;
		p->room_refused = true;
		refuse_room(p, sc, w, &plan);
		return;
	}
	waits(d, p, s, "those that hold it are busy");
	if (mono_before(d->now, due(d, s))) {
		ask_again(d, due(d, s));
		return;
	}
	claim(d, sc, &plan);
	for (size_t i = 0; i < plan.nvictims; i++)
		make_leave(d->c, sc, s, plan.victims[i], d->now);
}

/* Those that leave anyway give their memory back by themselves; others are asked to, once what was given back
 * can be seen. */
static void evict(struct deciding *d, struct control_pool *p, struct control_slot *s, struct scene *sc,
	const struct fit_plan *plan)
{
	bool more = false;
	claim(d, sc, plan);
	for (size_t i = 0; i < plan->nvictims; i++)
		more |= !leaves(sc->slots[plan->victims[i]]);
	if (more && mono_before(d->now, d->c->returns_by)) {
		waits(d, p, s, "what an engine held is being given back");
		ask_again(d, d->c->returns_by);
		return;
	}
	waits(d, p, s, "another engine is ending");
	ask_again(d, mono_add_ms(d->now, AGAIN_MS));
	for (size_t i = 0; i < plan->nvictims; i++)
		make_leave(d->c, sc, s, plan->victims[i], d->now);
}

/* It is waited for so long. False: that is over, and what is known has to do. */
static bool wait_at_most(
	struct deciding *d, struct control_pool *p, struct control_slot *s, int64_t ms, const char *what)
{
	mono_t until = mono_add_ms(s->waits ? s->waits_since : d->now, ms);
	if (!mono_before(d->now, until))
		return false;
	waits(d, p, s, what);
	ask_again(d, until);
	return true;
}

/* A reload's fresh engine, for which there is no room now: the reload found that it fits, or gave an engine
 * up for it. Once nothing is on its way any more it is started as it is configured, and finds out itself. */
static void settle_fresh(struct deciding *d, struct control_pool *p, struct control_slot *s,
	const struct scene *sc, const struct room_want *w)
{
	const char *what = unsettled(d, sc, s);
	if (!what || !could_ever(sc, w, w->fit.share ? w->fit.share : fit_need_whole(&w->need)))
		return;
	if (wait_at_most(d, p, s, STRANGERS_MS, what))
		ask_again(d, mono_add_ms(d->now, AGAIN_MS));
}

static bool takes_avoided(const struct room_want *w, const struct fit_plan *plan)
{
	for (size_t i = 0; w->fit.avoid && i < plan->nparts; i++)
		if (bit_get(w->fit.avoid, plan->parts[i].device))
			return true;
	return false;
}

/* Who left for it is not to have left for nothing: the device it would rather have is about to be free. */
static bool wait_for_better(struct deciding *d, struct control_pool *p, struct control_slot *s,
	const struct room_want *w, const struct fit_plan *plan)
{
	if (!s->waits || !mono_before(d->now, d->c->returns_by) || !takes_avoided(w, plan))
		return false;
	waits(d, p, s, "what an engine held is being given back");
	ask_again(d, d->c->returns_by);
	return true;
}

/* Its model is to be fetched: what could never be served is told now, and everything else goes on. */
static void decide_absent(
	const struct scene *sc, const struct room_want *w, struct control_pool *p, struct control_slot *s)
{
	struct fit_plan plan;
	if (!w->header || !sc->facts.ndevices)
		return;
	s->header_seen =
		!w->known || !w->need.nlayers || w->stale || s->role == SLOT_FRESH || !room_never(sc, w);
	if (s->header_seen)
		return;
	fit_plan(&sc->facts, &w->fit, sc->scratch, &plan, NULL);
	s->node = NULL;
	p->room_refused = true;
	refuse_room(p, sc, w, &plan);
	p->room_forever = true;
}

static void decide_in(struct deciding *d, struct control_pool *p, struct control_slot *s, struct scene *sc,
	struct room_want *w)
{
	struct fit_plan plan;
	w->fit.replica_id = s->id;
	if (w->absent) {
		decide_absent(sc, w, p, s);
		return;
	}
	/* A node that never tells of devices is not waited for. */
	if (w->known && !sc->facts.ndevices) {
		(void)wait_at_most(d, p, s, DEVICES_MS, "its node's devices are not known yet");
		return;
	}
	if (!w->known)
		return; /* it is started as it is configured */
	if (s->role == SLOT_FRESH && w->stale)
		return; /* back to engines of which its node tells nothing any more */
	fit_plan(&sc->facts, &w->fit, sc->scratch, &plan, NULL);
	if (plan.how != FIT_NO && !plan.nvictims && wait_for_better(d, p, s, w, &plan))
		return;
	if (plan.how != FIT_NO && !plan.nvictims) {
		room_ctx_grow(p, sc, w, &plan, d->now);
		if (room_reserve(d->c, s, sc, w, &plan))
			return;
	}
	if (s->role == SLOT_FRESH && plan.how == FIT_NO) { /* its pool serves on: nobody waits for it */
		settle_fresh(d, p, s, sc, w);
		return;
	}
	if (plan.how == FIT_NO && plan.closest == FIT_NONE)
		return; /* no device that it may use is there: its node says why, with the driver's words */
	if (plan.how == FIT_NO && another_serves(p, s)) {
		do_without(d, p, s);
	} else if (plan.how == FIT_NO) {
		ask_again(d, sc->held_until);
		wait_for_busy(d, p, s, sc, w);
	} else
		evict(d, p, s, sc, &plan);
}

static void decide(struct deciding *d, struct control_pool *p, struct control_slot *s)
{
	AUTO(scene_done) struct scene sc;
	AUTO(room_want_done) struct room_want w;
	bool refused = p->room_refused;
	if (refused && p->room_decided) { /* what is true of one of its replicas is of all */
		s->node = NULL;
		return;
	}
	p->room_decided = true;
	struct pool_talk first = { 0 };
	(void)pool_waiting_talks(p->pool, &first, 1);
	scene_make(d->c, d->snap, &(struct swap_waiting){ s->waits ? s->waits_since : d->now, first.owner },
		d->now, &sc);
	heed_claims(d, &sc);
	room_speeds(d->c, p, &sc);
	room_want_make(d->snap, &sc, p, &s->variant, s->node, &w);
	p->room_refused = s->header_seen = false;
	p->room_text[0] = '\0';
	decide_in(d, p, s, &sc, &w);
	if (s->node)
		s->waits = false;
	if (p->room_refused && !refused) /* not with every look at the devices */
		log_event(LOG_WARN, "no_room", s->id,
			(struct log_field[]){ LOG_STR("pool_id", p->cfg->id), LOG_END },
			"Replica %s is not started: %s.", s->id, p->room_text);
	if (refused != p->room_refused)
		control_wake(d->c); /* who asks is told, or may ask again */
}

static void found(
	struct deciding *d, struct control_pool *p, struct control_slot *s, const struct registry_replica *r)
{
	AUTO(scene_done) struct scene sc;
	AUTO(room_want_done) struct room_want w;
	scene_make(d->c, d->snap, &(struct swap_waiting){ .since = d->now }, d->now, &sc);
	room_want_make(d->snap, &sc, p, &s->variant, r->node_id, &w);
	if (w.ctx)
		room_ctx_set(p, &w, r->facts.ctx);
	room_reserve_found(d->c, s, &sc, &w, r);
}

/* ---- all of them -------------------------------------------------------------------------------------- */

/* Its engine found less memory than was reserved for it: once more, with a plan that takes less of the
 * device. What was learned holds until the pool's engines are configured otherwise. */
bool room_tries_again(const struct control_slot *s, const struct wire_replica *f)
{
	return s->oom_generation && s->oom_generation == f->generation;
}

bool room_tries_smaller(
	const struct control_pool *p, const struct control_slot *s, const struct wire_replica *f)
{
	if (room_tries_again(s, f))
		return true;
	enum wire_cause cause = f->last_error.cause;
	bool oom = cause == CAUSE_OOM_VRAM || cause == CAUSE_OOM_HOST;
	bool again = p->ooms && strcmp(p->oom_spec, p->variant.spec) == 0;
	return oom && !again && s->room && !p->cfg->memory && s->role == SLOT_MAIN && s->plan.wanted;
}

static bool try_smaller(
	struct deciding *d, struct control_pool *p, struct control_slot *s, const struct wire_replica *f)
{
	enum wire_cause cause = f->last_error.cause;
	if (room_tries_again(s, f) || !room_tries_smaller(p, s, f))
		return false;
	s->oom_generation = f->generation;
	memcpy(p->oom_spec, p->variant.spec, sizeof p->oom_spec);
	p->ooms = 1;
	log_event(LOG_WARN, "oom", s->id,
		(struct log_field[]){
			LOG_STR("pool_id", p->cfg->id), LOG_STR("cause", wire_cause_name(cause)), LOG_END },
		"Replica %s ran out of %s memory where %s was reserved; it is tried once more with less.",
		s->id, cause == CAUSE_OOM_VRAM ? "the device's" : "the host's", "what was computed");
	slot_room_free(d->c, s, d->now);
	s->restart_epoch++;
	return true;
}

static void look_at(struct deciding *d, struct control_pool *p, struct control_slot *s)
{
	const struct registry_replica *r =
		slot_replica(registry_snapshot_pool(d->snap, view_str(p->cfg->id)), s);
	bool ended = is_gone(r) && !s->plan.wanted && !s->on_wire && !s->in_pool;
	bool failed = r && r->online && r->facts.state == REPLICA_FAILED && r->facts.retry_in_ms < 0 &&
		      s->room_epoch == s->restart_epoch && !room_tries_again(s, &r->facts);
	if (s->room && s->room->ctx && strcmp(s->variant.spec, p->variant.spec) == 0)
		room_ctx_note(p, s->room->ctx, d->now);
	if (s->room && s->room->on_gpu && has_process(r) && str_same(r->facts.device_mask, "cpu")) {
		p->cpu_engine = true; /* its engine cannot use what is there */
		slot_room_free(d->c, s, d->now);
	}
	if (failed && try_smaller(d, p, s, &r->facts))
		return;
	if (s->room && (ended || failed))
		slot_room_free(d->c, s, d->now);
	else if (!s->room && has_process(r))
		found(d, p, s, r);
}

static bool is_to_start(struct deciding *d, struct control_pool *p, struct control_slot *s)
{
	const struct registry_replica *r =
		slot_replica(registry_snapshot_pool(d->snap, view_str(p->cfg->id)), s);
	bool failed = r && r->online && r->facts.state == REPLICA_FAILED && s->room_epoch == s->restart_epoch;
	return s->node && s->plan.wanted && !s->room && !failed && !has_process(r) &&
	       (s->role == SLOT_MAIN || s->role == SLOT_ACCEPTED || s->role == SLOT_FRESH);
}

static bool anything_returns(struct control *c, const struct registry_snapshot *snap)
{
	AUTO(scene_done) struct scene sc;
	struct ledger_view v = { 0 };
	scene_make(c, snap, &(struct swap_waiting){ .since = MONO_ZERO }, MONO_ZERO, &sc);
	for (size_t i = 0; i < sc.facts.ndevices && !v.returning; i++)
		ledger_look(c->ledger, sc.booked[i], &v);
	return v.returning > 0;
}

struct turn {
	struct control_pool *p;
	struct control_slot *s;
	bool asked; /* somebody waits for it */
	size_t at;
};

/* Those somebody waits for, then those that wait for memory already, the longest first. Whoever left for one
 * of them comes back behind it. */
static int by_turn(const void *a, const void *b)
{
	const struct turn *x = a, *y = b;
	if (x->asked != y->asked)
		return x->asked ? -1 : 1;
	if (x->s->waits != y->s->waits)
		return x->s->waits ? -1 : 1;
	if (x->s->waits && x->s->waits_since.ns != y->s->waits_since.ns)
		return mono_before(x->s->waits_since, y->s->waits_since) ? -1 : 1;
	return x->at < y->at ? -1 : x->at > y->at;
}

static void decide_all(struct deciding *d)
{
	struct control *c = d->c;
	size_t n = 0, cap = 1;
	for (size_t i = 0; i < c->npools; i++)
		cap += c->pools[i]->nslots;
	AUTO(mem_freep) struct turn *turns = mem_alloc(cap * sizeof *turns);
	for (size_t i = 0; i < c->npools; i++) {
		struct control_pool *p = c->pools[i];
		p->room_decided = false;
		bool any = p->external, asked = !p->external && has_waiting(p);
		for (size_t k = 0; !p->external && k < p->nslots; k++) {
			any |= p->slots[k]->plan.wanted;
			if (is_to_start(d, p, p->slots[k]))
				turns[n] = (struct turn){ p, p->slots[k], asked, n }, n++;
			else
				p->slots[k]->waits = false;
		}
		if (!any)
			p->room_refused = false; /* the next who asks has it decided anew */
	}
	qsort(turns, n, sizeof *turns, by_turn);
	for (size_t i = 0; i < n; i++)
		decide(d, turns[i].p, turns[i].s);
}

mono_t control_room(struct control *c, const struct registry_snapshot *snap, mono_t now)
{
	struct deciding d = { .c = c, .snap = snap, .now = now, .next = MONO_NEVER };
	if (snap->revision != c->read_revision)
		scene_read(c, snap, now);
	c->read_revision = snap->revision;
	for (size_t i = 0; i < c->npools; i++)
		for (size_t k = 0; k < c->pools[i]->nslots && !c->pools[i]->external; k++)
			look_at(&d, c->pools[i], c->pools[i]->slots[k]);
	ask_again(&d, ledger_tick(c->ledger, now));
	if (c->returns_by.ns && !anything_returns(c, snap))
		c->returns_by = MONO_ZERO;
	decide_all(&d);
	free(d.claims);
	return d.next;
}
