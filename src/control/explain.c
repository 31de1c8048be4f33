/* SPDX-License-Identifier: Apache-2.0
 *
 * What would be placed where and why, as JSON: the planner's own answer, nothing is started for it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "base/mem.h"
#include "base/num.h"
#include "control/room_int.h"

typedef yyjson_mut_doc doc;
typedef yyjson_mut_val val;

struct question {
	struct control *c;
	struct control_pool *p;
	struct scene sc;
	struct room_want w;
	struct fit_plan plan;
	enum fit_reason *reasons;
};

/* ---- what would help ---------------------------------------------------------------------------------- */

/* Settings a person could change, the least painful first; how much of the cache is left, in 1024ths. */
static const struct smaller {
	const char *text;
	unsigned cache, per_slot; /* per_slot: the cache of one slot is enough */
} smaller[] = {
	{ "engine.args: [-ctk, q8_0, -ctv, q8_0]", 544, 0 },
	{ "half the ctx", 512, 0 },
	{ "half the ctx and engine.args: [-ctk, q8_0, -ctv, q8_0]", 272, 0 },
	{ "slots: 1", 1024, 1 },
	{ "slots: 1 and half the ctx", 512, 1 },
	{ "slots: 1, half the ctx and engine.args: [-ctk, q8_0, -ctv, q8_0]", 272, 1 },
};

/* Settings, and a model of about so much (in 1024ths) less weight as the last. */
enum { SMALLER_MODEL = 614 };

static void shrink(const struct question *q, size_t i, struct fit_need *need, struct fit_layer *layers)
{
	bool model = i == ARRAY_LEN(smaller);
	uint64_t cache = model ? 1024 : smaller[i].cache, weights = model ? SMALLER_MODEL : 1024;
	uint64_t slots = !model && smaller[i].per_slot ? MAX(q->p->cfg->slots, 1u) : 1;
	*need = q->w.need;
	need->layers = layers;
	for (size_t k = 0; k < need->nlayers; k++) {
		const struct fit_layer *l = &q->w.need.layers[k];
		layers[k] = (struct fit_layer){ l->weights / 1024 * weights, l->experts / 1024 * weights,
			l->cache / 1024 * cache / slots };
	}
}

static val *help_json(doc *d, const struct question *q)
{
	enum { N = ARRAY_LEN(smaller) + 1 };
	val *list = yyjson_mut_arr(d);
	size_t nlayers = q->w.need.nlayers;
	if (q->plan.how != FIT_NO || !nlayers)
		return list;
	struct fit_need needs[N];
	const struct fit_need *tried[N];
	AUTO(mem_freep) struct fit_layer *layers = mem_alloc(N * nlayers * sizeof *layers);
	for (size_t i = 0; i < N; i++) {
		shrink(q, i, &needs[i], layers + i * nlayers);
		tried[i] = &needs[i];
	}
	size_t first = fit_first_that_fits(&q->sc.facts, &q->w.fit, tried, N, q->sc.scratch);
	if (first < ARRAY_LEN(smaller))
		yyjson_mut_arr_add_str(d, list, smaller[first].text);
	else if (first < N)
		yyjson_mut_arr_add_str(
			d, list, "a smaller quantisation of the model: about 60 % of its size");
	if (q->w.fit.offload == FIT_OFFLOAD_NEVER)
		yyjson_mut_arr_add_str(d, list, "offload: auto (some of the model stays in host memory)");
	return list;
}

/* ---- devices and victims ------------------------------------------------------------------------------- */

static uint64_t taken_of(const struct question *q, size_t device)
{
	for (size_t i = 0; i < q->plan.nparts; i++)
		if (q->plan.parts[i].device == device)
			return q->plan.parts[i].bytes;
	return q->plan.how != FIT_NO && q->plan.host == device ? q->plan.host_bytes : 0;
}

static val *device_json(doc *d, const struct question *q, size_t i)
{
	const struct fit_device *f = &q->sc.devices[i];
	const struct wire_device *w = q->sc.wire[i];
	uint64_t held = f->reserved + f->foreign;
	val *o = yyjson_mut_obj(d);
	yyjson_mut_obj_add_strcpy(d, o, "node", f->node_id);
	yyjson_mut_obj_add_strcpy(d, o, "device", f->device_id);
	if (w->name)
		yyjson_mut_obj_add_strcpy(d, o, "name", w->name);
	if (w->kind)
		yyjson_mut_obj_add_strcpy(d, o, "kind", w->kind);
	yyjson_mut_obj_add_uint(d, o, "index", f->index);
	yyjson_mut_obj_add_uint(d, o, "capacity_bytes", f->capacity);
	yyjson_mut_obj_add_uint(d, o, "reserved_bytes", f->reserved);
	yyjson_mut_obj_add_uint(d, o, "foreign_bytes", f->foreign);
	yyjson_mut_obj_add_uint(d, o, "free_bytes", f->capacity > held ? f->capacity - held : 0);
	yyjson_mut_obj_add_uint(d, o, "needed_bytes", taken_of(q, i));
	yyjson_mut_obj_add_bool(d, o, "taken", taken_of(q, i) > 0);
	if (!taken_of(q, i) && f->kind != FIT_KIND_CPU)
		yyjson_mut_obj_add_str(d, o, "reason", fit_reason_text(q->reasons[i]));
	return o;
}

static val *victims_json(doc *d, const struct question *q)
{
	val *list = yyjson_mut_arr(d);
	for (size_t i = 0; i < q->plan.nvictims; i++) {
		const struct fit_replica *r = &q->sc.replicas[q->plan.victims[i]];
		uint64_t bytes = 0;
		for (size_t k = 0; k < r->nuses; k++)
			bytes += q->sc.uses[r->first_use + k].bytes;
		val *o = yyjson_mut_arr_add_obj(d, list);
		yyjson_mut_obj_add_strcpy(d, o, "replica", r->replica_id);
		yyjson_mut_obj_add_uint(d, o, "bytes", bytes);
		yyjson_mut_obj_add_real(d, o, "expected_loss_s", r->loss);
		yyjson_mut_obj_add_str(d, o, "why",
			r->expired ? "its keep_alive is over" : "idle, and the least is lost with it");
	}
	return list;
}

/* ---- the whole ----------------------------------------------------------------------------------------- */

static val *need_json(doc *d, const struct question *q)
{
	const struct wire_need *n = &q->w.wire;
	if (!q->w.known || q->w.fit.share)
		return yyjson_mut_null(d);
	uint64_t weights = n->output, cache = 0;
	for (uint32_t i = 0; i < n->nlayers; i++) {
		weights += n->layers[i].weights + n->layers[i].experts;
		cache += n->layers[i].cache;
	}
	val *o = yyjson_mut_obj(d);
	yyjson_mut_obj_add_strcpy(d, o, "source", n->source);
	yyjson_mut_obj_add_strcpy(d, o, "kind", n->kind);
	yyjson_mut_obj_add_real(d, o, "error", n->error_permille / 1000.0);
	if (n->ctx)
		yyjson_mut_obj_add_uint(d, o, "ctx", n->ctx);
	yyjson_mut_obj_add_uint(d, o, "layers", n->nlayers);
	yyjson_mut_obj_add_uint(d, o, "weights_bytes", weights);
	yyjson_mut_obj_add_uint(d, o, "cache_bytes", cache);
	yyjson_mut_obj_add_uint(d, o, "compute_bytes", n->compute);
	yyjson_mut_obj_add_uint(d, o, "overhead_bytes", n->overhead);
	yyjson_mut_obj_add_uint(d, o, "host_bytes", n->host);
	yyjson_mut_obj_add_uint(d, o, "total_bytes", fit_need_whole(&q->w.need));
	return o;
}

static void summary(const struct question *q, char *out, size_t cap)
{
	char need[32], lacks[32];
	const char *id = q->p->cfg->id;
	num_format_bytes(q->w.fit.share ? q->w.fit.share : fit_need_whole(&q->w.need), need, sizeof need);
	num_format_bytes(q->plan.missing, lacks, sizeof lacks);
	if (q->p->external)
		snprintf(out, cap, "%s runs elsewhere; nothing is placed.", id);
	else if (!q->w.known)
		snprintf(out, cap,
			"What %s needs is not known (set `memory`): it is started as configured, and nothing "
			"is "
			"reserved.",
			id);
	else if (q->plan.how == FIT_NO && q->plan.closest != FIT_NONE)
		snprintf(out, cap, "%s needs %s and fits nowhere: %s are missing on %s %u.", id, need, lacks,
			q->sc.devices[q->plan.closest].kind == FIT_KIND_CPU ? "the host" : "device",
			q->sc.devices[q->plan.closest].index);
	else if (q->plan.how == FIT_NO)
		snprintf(out, cap, "%s needs %s, and there is no device it may use.", id, need);
	else
		snprintf(out, cap, "%s needs %s and goes %s%s.", id, need, fit_how_text(q->plan.how),
			q->plan.nvictims ? ", once others have left" : "");
}

static val *runs_json(doc *d, const struct question *q)
{
	val *list = yyjson_mut_arr(d);
	for (size_t i = 0; i < q->p->nslots; i++) {
		const struct control_slot *s = q->p->slots[i];
		if (!s->room)
			continue;
		val *o = yyjson_mut_arr_add_obj(d, list);
		yyjson_mut_obj_add_strcpy(d, o, "replica", s->id);
		yyjson_mut_obj_add_str(d, o, "how", fit_how_text(s->room->how));
		if (s->room->ctx)
			yyjson_mut_obj_add_uint(d, o, "ctx", s->room->ctx);
		val *uses = yyjson_mut_obj_add_arr(d, o, "reserved");
		for (size_t k = 0; k < s->room->nuses; k++) {
			val *u = yyjson_mut_arr_add_obj(d, uses);
			yyjson_mut_obj_add_strcpy(d, u, "device", s->room->uses[k].device_id);
			yyjson_mut_obj_add_uint(d, u, "bytes", s->room->uses[k].bytes);
		}
	}
	return list;
}

static void ask(struct question *q, const struct registry_snapshot *snap)
{
	mono_t now = mono_now();
	for (size_t i = 0; i < q->c->npools; i++) /* whoever became idle wakes nobody */
		slots_read_leases(q->c->pools[i]);
	scene_make(q->c, snap, &(struct swap_waiting){ .since = now }, now, &q->sc);
	room_speeds(q->c, q->p, &q->sc);
	room_want_make(snap, &q->sc, q->p, &q->p->variant, NULL, &q->w);
	q->w.fit.replica_id = q->p->cfg->id;
	q->reasons = mem_alloc((q->sc.facts.ndevices + 1) * sizeof *q->reasons);
	q->plan = (struct fit_plan){ .closest = FIT_NONE, .host = FIT_NONE };
	if (q->w.known)
		fit_plan(&q->sc.facts, &q->w.fit, q->sc.scratch, &q->plan, q->reasons);
	if (q->plan.how != FIT_NO && !q->plan.nvictims)
		room_ctx_grow(q->p, &q->sc, &q->w, &q->plan, now);
}

static val *answer_json(doc *d, const struct question *q)
{
	char text[512];
	val *o = yyjson_mut_obj(d), *devices = yyjson_mut_arr(d);
	summary(q, text, sizeof text);
	yyjson_mut_obj_add_strcpy(d, o, "pool", q->p->cfg->id);
	yyjson_mut_obj_add_strcpy(d, o, "summary", text);
	yyjson_mut_obj_add_bool(d, o, "known", q->w.known);
	yyjson_mut_obj_add_bool(d, o, "fits", !q->w.known || q->plan.how != FIT_NO);
	yyjson_mut_obj_add_str(d, o, "how", fit_how_text(q->plan.how));
	yyjson_mut_obj_add_bool(d, o, "ctx_auto", q->w.ctx != 0);
	yyjson_mut_obj_add_val(d, o, "need", need_json(d, q));
	yyjson_mut_obj_add_uint(d, o, "gpu_layers", q->plan.gpu_layers);
	yyjson_mut_obj_add_uint(d, o, "cpu_expert_layers", q->plan.cpu_experts);
	yyjson_mut_obj_add_uint(d, o, "missing_bytes", q->plan.missing);
	for (size_t i = 0; q->w.known && i < q->sc.facts.ndevices; i++)
		yyjson_mut_arr_append(devices, device_json(d, q, i));
	yyjson_mut_obj_add_val(d, o, "devices", devices);
	yyjson_mut_obj_add_val(d, o, "evicts", victims_json(d, q));
	yyjson_mut_obj_add_val(d, o, "would_help", help_json(d, q));
	yyjson_mut_obj_add_val(d, o, "holds", runs_json(d, q));
	if (q->p->room_text[0])
		yyjson_mut_obj_add_strcpy(d, o, "waits", q->p->room_text);
	return o;
}

int control_explain(struct control *c, struct control_pool *p, struct buf *out)
{
	struct question q = { .c = c, .p = p };
	AUTO(registry_snapshot_unrefp)
	const struct registry_snapshot *s = registry_snapshot_ref(c->o.registry);
	doc *d = yyjson_mut_doc_new(NULL);
	ask(&q, s);
	yyjson_mut_doc_set_root(d, answer_json(d, &q));
	size_t n = 0;
	char *text = yyjson_mut_write(d, 0, &n);
	int r = text ? buf_add(out, text, n) : -ENOMEM;
	free(text);
	yyjson_mut_doc_free(d);
	free(q.reasons);
	room_want_done(&q.w);
	scene_done(&q.sc);
	return r;
}
