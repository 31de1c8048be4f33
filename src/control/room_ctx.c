/* SPDX-License-Identifier: Apache-2.0
 *
 * `ctx: auto`: where a replica goes is decided with the least context. Then it grows into what is free there:
 * the largest for which nobody leaves and no further device is taken; where other pools share the memory, or
 * it is the host's, at most half of what would be free. Replicas of a pool have the same; and what a pool had
 * of late it has again where that fits, for the sake of the conversations that were kept of it.
 */
#include <string.h>

#include "base/mem.h"
#include "control/room_int.h"

enum { LATE_MS = 3600000 };

static bool decode(const char *text, struct wire_need *ret)
{
	*ret = (struct wire_need){ 0 };
	return wire_need_decode(view_str(text), ret, NULL) == 0;
}

void room_ctx_note(struct control_pool *p, uint32_t ctx, mono_t now)
{
	p->auto_ctx = ctx;
	p->auto_at = now;
	memcpy(p->auto_spec, p->variant.spec, sizeof p->auto_spec);
}

void room_ctx_set(const struct control_pool *p, struct room_want *w, uint32_t ctx)
{
	for (size_t i = 0; w->larger && w->larger[i]; i++) {
		struct wire_need n;
		if (!decode(w->larger[i], &n))
			continue;
		if (n.ctx == ctx) {
			room_want_take(p, w, &n);
			w->ctx = ctx;
			return;
		}
		wire_need_done(&n);
	}
}

/* Of one that runs, or is about to. */
static uint32_t ctx_of_another(const struct control_pool *p, const struct control_variant *v)
{
	for (size_t i = 0; i < p->nslots; i++) {
		const struct control_slot *s = p->slots[i];
		if (s->room && s->room->ctx && s->role != SLOT_LEAVING && s->plan.wanted &&
			variant_eq(&s->variant, v))
			return s->room->ctx;
	}
	return 0;
}

void room_ctx_begin(const struct control_pool *p, const struct control_variant *v, const struct wire_model *m,
	struct room_want *w)
{
	w->ctx = m->ctx;
	w->larger = m->larger;
	uint32_t settled = ctx_of_another(p, v);
	if (!settled)
		return;
	room_ctx_set(p, w, settled);
	w->larger = NULL;
}

/* ---- growing ----------------------------------------------------------------------------------------- */

static bool shares(const struct control_pool *p, const struct fit_plan *plan)
{
	const struct control *c = p->control;
	size_t n = 0;
	for (size_t i = 0; i < c->npools; i++)
		n += !c->pools[i]->external && !c->pools[i]->removed;
	return n > 1 || plan->how == FIT_HOST;
}

static uint64_t free_of(const struct fit_device *d)
{
	uint64_t cap = d->limit ? MIN(d->limit, d->capacity) : d->capacity;
	uint64_t held = d->reserved + d->foreign;
	return cap > held ? cap - held : 0;
}

/* What stays free of what it is put on; UINT64_MAX: one of them does not tell. */
static uint64_t left_by(const struct scene *sc, const struct fit_plan *plan)
{
	bool host = plan->how == FIT_HOST && plan->host != FIT_NONE;
	uint64_t left = 0;
	for (size_t i = 0; i < plan->nparts + host; i++) {
		size_t d = host ? plan->host : plan->parts[i].device;
		uint64_t takes = host ? plan->host_bytes : plan->parts[i].bytes;
		uint64_t has = free_of(&sc->devices[d]);
		if (!sc->devices[d].capacity)
			return UINT64_MAX;
		left += has > takes ? has - takes : 0;
	}
	return left;
}

static uint64_t taken_by(const struct fit_plan *plan)
{
	uint64_t sum = plan->host_bytes;
	for (size_t i = 0; i < plan->nparts; i++)
		sum += plan->parts[i].bytes;
	return sum;
}

static uint64_t *mask_of(const struct scene *sc, const struct fit_plan *plan)
{
	uint64_t *mask = mem_alloc(sc->words_devices * sizeof *mask);
	for (size_t i = 0; i < plan->nparts; i++)
		bit_set(mask, plan->parts[i].device);
	if (plan->host != FIT_NONE)
		bit_set(mask, plan->host);
	return mask;
}

/* It goes where the least goes, and as that does; half: what it takes more is not more than stays free. */
static bool fits_as(const struct scene *sc, struct room_want *w, const struct fit_plan *least, bool half,
	struct fit_plan *ret)
{
	w->fit.need = &w->need;
	w->fit.may_evict = false;
	w->fit.offload = FIT_OFFLOAD_NEVER;
	fit_plan(&sc->facts, &w->fit, sc->scratch, ret, NULL);
	if (ret->how != least->how || ret->nparts != least->nparts)
		return false;
	uint64_t all = taken_by(ret), more = all - MIN(all, taken_by(least));
	return !half || more <= left_by(sc, ret);
}

/* The largest of the list that is at most so large; else nothing changes. */
static void grow_to(const struct control_pool *p, const struct scene *sc, struct room_want *w,
	struct fit_plan *plan, uint32_t most)
{
	AUTO(room_want_done) struct room_want tried = { .fit = w->fit, .mask = mask_of(sc, plan) };
	bool half = shares(p, plan);
	tried.fit.mask = tried.mask;
	for (size_t i = 0; w->larger[i]; i++) {
		struct wire_need n;
		struct fit_plan there;
		if (!decode(w->larger[i], &n))
			continue;
		uint32_t ctx = n.ctx;
		room_want_take(p, &tried, &n);
		if (ctx > most || !fits_as(sc, &tried, plan, half, &there))
			continue;
		room_ctx_set(p, w, ctx);
		*plan = there;
		return;
	}
}

void room_ctx_grow(const struct control_pool *p, const struct scene *sc, struct room_want *w,
	struct fit_plan *plan, mono_t now)
{
	bool whole = plan->how == FIT_ONE || plan->how == FIT_SPLIT || plan->how == FIT_HOST;
	bool was_too_much = p->ooms && strcmp(p->oom_spec, p->variant.spec) == 0;
	if (!w->larger || !whole || plan->nvictims || was_too_much)
		return;
	bool late = p->auto_ctx && strcmp(p->auto_spec, p->variant.spec) == 0 &&
		    mono_ms_between(p->auto_at, now) < LATE_MS;
	grow_to(p, sc, w, plan, late ? p->auto_ctx : UINT32_MAX);
}
