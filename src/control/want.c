/* SPDX-License-Identifier: Apache-2.0
 *
 * One replica's wish, as the planner takes it.
 */
#include <stdlib.h>
#include <string.h>

#include "base/mask.h"
#include "base/mem.h"
#include "control/room_int.h"

void room_want_done(struct room_want *w)
{
	free(w->layers);
	free(w->mask);
	free(w->prefer);
	free(w->avoid);
	free(w->never_with);
	free(w->siblings);
	free(w->protect);
	wire_need_done(&w->wire);
	*w = (struct room_want){ 0 };
}

/* Where its header was not read: the file and a tenth, for what is computed with it. */
static bool need_by_size(const struct wire_model *m, struct wire_need *n)
{
	if (!m || !m->size_bytes || m->size_bytes > UINT64_MAX / 2)
		return false;
	*n = (struct wire_need){ .source = "size", .kind = "unknown", .error_permille = 300 };
	n->whole = m->size_bytes + m->size_bytes / 10 + 256 * MIB;
	n->host_mapped = m->size_bytes;
	return true;
}

static bool need_of(const struct control_pool *p, const struct control_variant *v, const struct wire_model *m,
	struct wire_need *n)
{
	if (p->cfg->engine.kind != CONFIG_ENGINE_LLAMACPP || v->model)
		return false; /* another program, or a model of which nothing was told */
	if (m && m->need && wire_need_decode(view_str(m->need), n, NULL) == 0)
		return true;
	return need_by_size(m, n);
}

static void take_need(struct room_want *w)
{
	const struct wire_need *n = &w->wire;
	w->layers = mem_alloc((n->nlayers + 1) * sizeof *w->layers);
	for (uint32_t i = 0; i < n->nlayers; i++)
		w->layers[i] =
			(struct fit_layer){ n->layers[i].weights, n->layers[i].experts, n->layers[i].cache };
	w->need = (struct fit_need){
		.layers = w->layers,
		.nlayers = n->nlayers,
		.whole = n->whole,
		.output = n->output,
		.extra = n->extra,
		.compute = n->compute,
		.overhead = n->overhead,
		.host = n->host,
		.host_mapped = n->host_mapped,
		.host_compute = n->host_compute,
	};
}

/* Once it ran out of memory, so much more is thought to be needed: an eighth of the whole. */
static void learn_from_oom(const struct control_pool *p, struct room_want *w)
{
	if (!p->ooms || strcmp(p->oom_spec, p->variant.spec) != 0)
		return;
	uint64_t more = fit_need_whole(&w->need) / 8;
	w->need.overhead += more;
	w->need.whole += more;
	w->need.host += w->need.host / 8;
}

static bool is_gpu(const struct fit_device *d)
{
	return d->kind != FIT_KIND_CPU;
}

static bool names(const struct mask_id *id, const struct wire_device *d)
{
	return id->is_index ? id->index == d->index : d->uuid && view_starts(view_str(d->uuid), id->text);
}

/* The pool's devices as bits; whether the host alone may do. */
static void take_mask(const struct control_pool *p, const struct scene *sc, struct room_want *w)
{
	struct mask m;
	const char *text = p->cfg->devices ? p->cfg->devices : "auto";
	if (mask_parse(view_str(text), &m, NULL))
		m = (struct mask){ .kind = MASK_AUTO };
	enum config_gpu policy = p->config->gpu;
	bool any = false, usable = false;
	w->mask = mem_alloc(sc->words_devices * sizeof *w->mask);
	for (size_t i = 0; i < sc->facts.ndevices; i++) {
		const struct fit_device *d = &sc->devices[i];
		bool in = m.kind == MASK_AUTO && is_gpu(d) && !d->integrated;
		for (size_t k = 0; m.kind == MASK_LIST && k < m.len; k++)
			in |= is_gpu(d) && names(&m.ids[k], sc->wire[i]);
		any |= in;
		usable |= in && d->usable;
		in &= !p->cpu_engine;
		if (!is_gpu(d) || (in && policy != CONFIG_GPU_NONE))
			bit_set(w->mask,
				i); /* the host is no device of a mask: `cpu` says whether it may serve */
	}
	w->fit.mask = w->mask;
	w->fit.cpu = p->cpu_engine || m.kind == MASK_CPU || policy == CONFIG_GPU_NONE ||
		     (m.kind == MASK_AUTO && policy == CONFIG_GPU_AUTO && !any) ||
		     (m.kind == MASK_AUTO && policy == CONFIG_GPU_OPTIONAL && !usable);
}

/* NULL: no wish. What is not there is the node's to refuse. */
static uint64_t *wish_bits(const char *text, const struct scene *sc)
{
	struct mask m;
	if (!text || mask_parse(view_str(text), &m, NULL) || m.kind != MASK_LIST)
		return NULL;
	uint64_t *bits = mem_alloc(sc->words_devices * sizeof *bits);
	for (size_t i = 0; i < sc->facts.ndevices; i++)
		for (size_t k = 0; k < m.len; k++)
			if (is_gpu(&sc->devices[i]) && names(&m.ids[k], sc->wire[i]))
				bit_set(bits, i);
	return bits;
}

static bool has(const struct strv *v, const char *s)
{
	for (size_t i = 0; i < v->len; i++)
		if (strcmp(v->items[i], s) == 0)
			return true;
	return false;
}

static void take_others(const struct control_pool *p, const struct scene *sc, struct room_want *w)
{
	w->never_with = mem_alloc(sc->words_replicas * sizeof *w->never_with);
	w->siblings = mem_alloc(sc->words_replicas * sizeof *w->siblings);
	w->protect = mem_alloc(sc->words_replicas * sizeof *w->protect);
	for (size_t i = 0; i < sc->facts.nreplicas; i++) {
		const struct control_pool *q = sc->pools[i];
		const struct control_slot *s = sc->slots[i];
		if (q == p)
			bit_set(w->siblings, i);
		if (q == p && s->plan.wanted && s->role != SLOT_LEAVING)
			bit_set(w->protect, i); /* one replica does not leave for another */
		if (q != p && (has(&p->cfg->never_with, q->cfg->id) || has(&q->cfg->never_with, p->cfg->id)))
			bit_set(w->never_with, i);
	}
	w->fit.never_with = w->never_with;
	w->fit.siblings = w->siblings;
	w->fit.protect = w->protect;
}

void room_want_take(const struct control_pool *p, struct room_want *w, struct wire_need *n)
{
	wire_need_done(&w->wire);
	w->wire = *n;
	*n = (struct wire_need){ 0 };
	free(w->layers);
	take_need(w);
	learn_from_oom(p, w);
}

void room_want_make(const struct registry_snapshot *s, const struct scene *sc, struct control_pool *p,
	const struct control_variant *v, const char *node_id, struct room_want *ret)
{
	const struct registry_pool *rp = registry_snapshot_pool(s, view_str(p->cfg->id));
	*ret = (struct room_want){ 0 };
	const struct wire_model *m = rp ? rp->model : NULL;
	struct wire_need n = { 0 };
	ret->known = !p->external && (p->cfg->memory || need_of(p, v, m, &n));
	ret->absent = m && m->absent;
	ret->header = ret->absent && m->need;
	ret->stale = m && m->spec && v->spec[0] && strcmp(m->spec, v->spec) != 0;
	room_want_take(p, ret, &n);
	if (ret->known && !p->cfg->memory && !p->cfg->ctx && m)
		room_ctx_begin(p, v, m, ret);
	take_mask(p, sc, ret);
	take_others(p, sc, ret);
	ret->fit.prefer = ret->prefer = wish_bits(p->cfg->prefer, sc);
	ret->fit.avoid = ret->avoid = wish_bits(p->cfg->avoid, sc);
	ret->fit.need = &ret->need;
	ret->fit.pool_id = p->cfg->id;
	ret->fit.node_id = node_id;
	ret->fit.offload = p->cfg->offload == CONFIG_OFFLOAD_NEVER ? FIT_OFFLOAD_NEVER : FIT_OFFLOAD_AUTO;
	ret->fit.may_evict = true;
	ret->fit.gpus = p->cfg->gpus ? p->cfg->gpus : p->cfg->memory ? 1 : 0;
	ret->fit.share = p->cfg->memory;
}
