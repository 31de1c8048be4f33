/* SPDX-License-Identifier: Apache-2.0
 *
 * What pools, replicas, models and nodes look like from outside.
 */
#include <stdlib.h>
#include <math.h>
#include <string.h>

#include "api/json_int.h"
#include "base/mem.h"
#include "base/url.h"
#include "log/log.h"

static val *error_json(doc *d, const struct wire_error *e)
{
	if (!e || !e->message)
		return yyjson_mut_null(d);
	val *o = yyjson_mut_obj(d);
	char at[WALL_STR_LEN + 1];
	wall_format(e->at_ms, at);
	json_add_str(d, o, "message", e->message);
	json_add_str(d, o, "hint", e->hint);
	json_add_str(d, o, "cause", wire_cause_name(e->cause));
	json_add_str(d, o, "at", at);
	return o;
}

struct traffic_of {
	const char *id;
	enum pool_circuit circuit;
	struct pool_speed speed;
};

static void read_traffic(void *arg, const struct pool_replica *r)
{
	struct traffic_of *t = arg;
	if (strcmp(r->id, t->id) != 0)
		return;
	t->circuit = r->circuit;
	pool_replica_speed(r, &t->speed);
}

/* Of one that traffic does not know: closed, nothing failed there, nothing was measured. */
static void add_traffic(doc *d, val *o, struct pool *traffic, const char *replica_id)
{
	struct traffic_of t = { .id = replica_id,
		.speed = { .prefill_tokens_per_s = -1, .tokens_per_s = -1 } };
	pool_each_replica(traffic, read_traffic, &t);
	json_add_str(d, o, "circuit", pool_circuit_name(t.circuit));
	if (t.speed.prefill_tokens_per_s > 0)
		yyjson_mut_obj_add_real(
			d, o, "prefill_tokens_per_s", round(t.speed.prefill_tokens_per_s * 10) / 10);
	if (t.speed.tokens_per_s > 0)
		yyjson_mut_obj_add_real(d, o, "tokens_per_s", round(t.speed.tokens_per_s * 10) / 10);
}

/* What the engine says of itself. */
static void add_load(doc *d, val *o, const struct wire_replica *f)
{
	if (!f->load_seq)
		return;
	val *l = yyjson_mut_obj(d);
	if (f->load_running >= 0)
		yyjson_mut_obj_add_int(d, l, "running", f->load_running);
	if (f->load_waiting >= 0)
		yyjson_mut_obj_add_int(d, l, "waiting", f->load_waiting);
	if (f->load_used_permille >= 0)
		yyjson_mut_obj_add_real(d, l, "kv_used", f->load_used_permille / 1000.0);
	yyjson_mut_obj_add_val(d, o, "load", l);
}

static val *replica_json(doc *d, struct pool *traffic, const struct registry_replica *r)
{
	const struct wire_replica *f = &r->facts;
	val *o = yyjson_mut_obj(d);
	json_add_str(d, o, "id", f->replica_id);
	json_add_str(d, o, "state", r->online ? replica_state_name(f->state) : "offline");
	yyjson_mut_obj_add_uint(d, o, "generation", f->generation);
	if (f->pid > 0)
		yyjson_mut_obj_add_int(d, o, "pid", f->pid);
	json_add_str(d, o, "address", f->address);
	json_add_str(d, o, "node", r->node_id);
	json_add_str(d, o, "device", f->device_mask);
	if (f->device_note)
		json_add_str(d, o, "device_note", f->device_note);
	json_add_str(d, o, "engine", f->engine);
	json_add_str(d, o, "engine_version", f->engine_version);
	json_add_str(d, o, "engine_why", f->engine_why);
	yyjson_mut_obj_add_bool(d, o, "live", r->live);
	yyjson_mut_obj_add_bool(d, o, "ready", r->ready);
	yyjson_mut_obj_add_bool(d, o, "draining", r->draining);
	add_traffic(d, o, traffic, f->replica_id);
	yyjson_mut_obj_add_uint(d, o, "slots_total", f->slots_total);
	yyjson_mut_obj_add_uint(d, o, "leases", f->leases);
	add_load(d, o, f);
	yyjson_mut_obj_add_uint(d, o, "ctx", f->ctx);
	yyjson_mut_obj_add_uint(d, o, "restarts", f->restarts);
	if (f->load_ms > 0)
		yyjson_mut_obj_add_int(d, o, "load_ms", f->load_ms);
	if (f->kv_restored_tokens)
		yyjson_mut_obj_add_uint(d, o, "kv_restored_tokens", f->kv_restored_tokens);
	if (f->state == REPLICA_BACKOFF || f->state == REPLICA_FAILED)
		yyjson_mut_obj_add_int(d, o, "retry_in_ms", f->retry_in_ms);
	yyjson_mut_obj_add_val(d, o, "last_error", error_json(d, &f->last_error));
	if (f->phase) {
		val *p = yyjson_mut_obj(d);
		json_add_str(d, p, "phase", f->phase);
		yyjson_mut_obj_add_int(d, p, "pct", f->progress_pct);
		json_add_str(d, p, "text", f->progress_text);
		yyjson_mut_obj_add_val(d, o, "progress", p);
	}
	return o;
}

struct pool_view {
	const struct config_pool *cfg;
	struct control_pool *p;
	const struct registry_pool *rp;
	const struct wire_replica
		*lead; /* the replica that speaks for the pool: a ready one, else the first */
	struct pool_stats st;
	enum pool_state state;
};

static struct pool_view view_pool(struct api *a, struct control_pool *p, const struct registry_snapshot *s)
{
	struct pool_view v = { .cfg = control_pool_config(p), .p = p };
	v.rp = registry_snapshot_pool(s, view_str(v.cfg->id));
	for (size_t i = 0; v.rp && i < v.rp->nreplicas; i++)
		if (!v.lead || (v.rp->replicas[i]->ready && v.lead->state != REPLICA_READY))
			v.lead = &v.rp->replicas[i]->facts;
	pool_get_stats(control_pool_traffic(p), &v.st);
	v.state = control_pool_state(a->o.control, p);
	return v;
}

static const struct wire_error *last_error(const struct pool_view *v)
{
	const struct wire_error *last = control_pool_reload_error(v->p);
	for (size_t i = 0; v->rp && i < v->rp->nreplicas; i++) {
		const struct wire_error *e = &v->rp->replicas[i]->facts.last_error;
		if (e->message && (!last || e->at_ms > last->at_ms))
			last = e;
	}
	return last;
}

static uint32_t restarts(const struct pool_view *v)
{
	uint32_t n = 0;
	for (size_t i = 0; v->rp && i < v->rp->nreplicas; i++)
		n += v->rp->replicas[i]->facts.restarts;
	return n;
}

static uint32_t ctx_of(const struct pool_view *v)
{
	if (v->lead && v->lead->ctx)
		return v->lead->ctx;
	if (v->rp && v->rp->model && v->rp->model->ctx)
		return v->rp->model->ctx;
	return v->cfg->ctx;
}

static void add_counts(doc *d, val *o, const struct pool_view *v)
{
	yyjson_mut_obj_add_uint(d, o, "slots_total", v->st.slots_total);
	yyjson_mut_obj_add_uint(d, o, "slots_free", v->st.slots_free);
	yyjson_mut_obj_add_uint(d, o, "leases", v->st.leases + v->st.cooling); /* a cooling one is one */
	yyjson_mut_obj_add_uint(d, o, "cooling", v->st.cooling);
	yyjson_mut_obj_add_uint(d, o, "waiting", v->st.waiting[POOL_INTERACTIVE] + v->st.waiting[POOL_BATCH]);
	yyjson_mut_obj_add_uint(d, o, "queue_capacity", v->cfg->queue_capacity);
}

static val *strings(doc *d, const struct strv *list)
{
	val *a = yyjson_mut_arr(d);
	for (size_t i = 0; i < list->len; i++)
		yyjson_mut_arr_add_strcpy(d, a, list->items[i]);
	return a;
}

static val *marks_json(doc *d, const struct registry_pool *rp)
{
	val *o = yyjson_mut_obj(d);
	for (enum registry_mark m = 0; rp && m < MARK_COUNT; m++) {
		if (!rp->marks[m].by)
			continue;
		char at[WALL_STR_LEN + 1];
		wall_format(rp->marks[m].at_ms, at);
		val *one = yyjson_mut_obj(d);
		json_add_str(d, one, "by", rp->marks[m].by);
		json_add_str(d, one, "at", at);
		yyjson_mut_obj_add_val(d, o, registry_mark_name(m), one);
	}
	return o;
}

static void json_add_ref(doc *d, val *o, const char *key, const char *ref)
{
	AUTO(mem_freep) char *shown = ref_shown(ref);
	json_add_str(d, o, key, shown);
}

/* A model an operator chose in place of the configured one. */
static val *override_json(doc *d, const struct registry_pool *rp)
{
	if (!rp || !rp->override.model)
		return yyjson_mut_null(d);
	val *o = yyjson_mut_obj(d);
	char at[WALL_STR_LEN + 1];
	wall_format(rp->override.at_ms, at);
	json_add_ref(d, o, "model", rp->override.model);
	json_add_ref(d, o, "configured", rp->override.configured);
	json_add_str(d, o, "by", rp->override.by);
	json_add_str(d, o, "at", at);
	return o;
}

static val *pool_json(doc *d, const struct pool_view *v)
{
	val *o = yyjson_mut_obj(d), *list = yyjson_mut_arr(d);
	json_add_str(d, o, "id", v->cfg->id);
	json_add_ref(d, o, "model", control_pool_model(v->p));
	yyjson_mut_obj_add_val(d, o, "aliases", strings(d, &v->cfg->aliases));
	yyjson_mut_obj_add_bool(d, o, "default", v->cfg->is_default);
	json_add_str(d, o, "state", pool_state_name(v->state));
	yyjson_mut_obj_add_bool(d, o, "ready", v->state == POOL_STATE_READY);
	yyjson_mut_obj_add_bool(d, o, "draining", v->rp && v->rp->marks[MARK_DRAINING].by);
	yyjson_mut_obj_add_bool(d, o, "disabled", v->rp && v->rp->marks[MARK_DISABLED].by);
	yyjson_mut_obj_add_bool(d, o, "reloading", control_pool_reloading(v->p));
	yyjson_mut_obj_add_val(d, o, "marks", marks_json(d, v->rp));
	yyjson_mut_obj_add_val(d, o, "override", override_json(d, v->rp));
	json_add_str(d, o, "engine",
		v->lead && v->lead->engine ? v->lead->engine : config_engine_kind_name(v->cfg->engine.kind));
	json_add_str(d, o, "engine_version", v->lead ? v->lead->engine_version : NULL);
	json_add_str(d, o, "engine_why", v->lead ? v->lead->engine_why : NULL);
	json_add_str(d, o, "device", v->lead ? v->lead->device_mask : NULL);
	yyjson_mut_obj_add_uint(d, o, "ctx", ctx_of(v));
	yyjson_mut_obj_add_uint(d, o, "slots", v->cfg->slots);
	add_counts(d, o, v);
	yyjson_mut_obj_add_uint(d, o, "restarts", restarts(v));
	yyjson_mut_obj_add_val(d, o, "last_error", error_json(d, last_error(v)));
	json_add_str(d, o, "model_problem", v->rp && v->rp->model ? v->rp->model->problem : NULL);
	for (size_t i = 0; v->rp && i < v->rp->nreplicas; i++)
		yyjson_mut_arr_append(list, replica_json(d, control_pool_traffic(v->p), v->rp->replicas[i]));
	yyjson_mut_obj_add_val(d, o, "replicas", list);
	return o;
}

void route_pools(struct api *a, struct api_call *c, const struct route_args *args)
{
	(void)args;
	control_report_leases(a->o.control);
	AUTO(registry_snapshot_unrefp)
	const struct registry_snapshot *s = registry_snapshot_ref(a->o.registry);
	doc *d = yyjson_mut_doc_new(NULL);
	val *root = yyjson_mut_obj(d), *list = yyjson_mut_arr(d);
	yyjson_mut_doc_set_root(d, root);
	yyjson_mut_obj_add_uint(d, root, "revision", s->revision);
	struct control_pool *p;
	for (size_t i = 0; (p = control_pool_at(a->o.control, i)); i++) {
		struct pool_view v = view_pool(a, p, s);
		yyjson_mut_arr_append(list, pool_json(d, &v));
	}
	yyjson_mut_obj_add_val(d, root, "pools", list);
	json_reply(c, d);
}

void route_pool(struct api *a, struct api_call *c, const struct route_args *args)
{
	struct control_pool *p = find_pool_or_fail(a, c, args->id);
	if (!p)
		return;
	control_report_leases(a->o.control);
	AUTO(registry_snapshot_unrefp)
	const struct registry_snapshot *s = registry_snapshot_ref(a->o.registry);
	doc *d = yyjson_mut_doc_new(NULL);
	struct pool_view v = view_pool(a, p, s);
	yyjson_mut_doc_set_root(d, pool_json(d, &v));
	json_reply(c, d);
}

bool api_pool_is_ready(struct api *a, struct control_pool *p)
{
	AUTO(registry_snapshot_unrefp)
	const struct registry_snapshot *s = registry_snapshot_ref(a->o.registry);
	return view_pool(a, p, s).state == POOL_STATE_READY;
}

void route_pool_health(struct api *a, struct api_call *c, const struct route_args *args)
{
	struct control_pool *p = find_pool_or_fail(a, c, args->id);
	if (!p)
		return;
	AUTO(registry_snapshot_unrefp)
	const struct registry_snapshot *s = registry_snapshot_ref(a->o.registry);
	struct pool_view v = view_pool(a, p, s);
	bool live = false;
	for (size_t i = 0; v.rp && i < v.rp->nreplicas; i++)
		live = live || (v.rp->replicas[i]->online && v.rp->replicas[i]->live);
	doc *d = yyjson_mut_doc_new(NULL);
	val *o = yyjson_mut_obj(d);
	yyjson_mut_doc_set_root(d, o);
	yyjson_mut_obj_add_bool(d, o, "live", live);
	yyjson_mut_obj_add_bool(d, o, "ready", v.state == POOL_STATE_READY);
	yyjson_mut_obj_add_bool(d, o, "draining", v.rp && v.rp->marks[MARK_DRAINING].by);
	yyjson_mut_obj_add_val(d, o, "last_error", error_json(d, last_error(&v)));
	yyjson_mut_obj_add_uint(d, o, "slots_total", v.st.slots_total);
	yyjson_mut_obj_add_uint(d, o, "slots_free", v.st.slots_free);
	json_reply(c, d);
}

/* ---- models
 * --------------------------------------------------------------------------------------------------- */

static const char *model_status(enum pool_state s, const struct wire_replica *lead)
{
	if (s == POOL_STATE_PROVISIONING && lead && lead->phase && strcmp(lead->phase, "model_fetch") == 0)
		return "downloading";
	switch (s) {
	case POOL_STATE_READY:
	case POOL_STATE_DRAINING: return "loaded";
	case POOL_STATE_PROVISIONING:
	case POOL_STATE_STARTING:
	case POOL_STATE_PROVING:
	case POOL_STATE_BACKOFF: return "loading";
	case POOL_STATE_FAILED: return "failed";
	default: return "unloaded";
	}
}

static val *modalities(doc *d, const struct wire_model *m)
{
	val *o = yyjson_mut_obj(d), *in = yyjson_mut_arr(d), *out = yyjson_mut_arr(d);
	yyjson_mut_arr_add_str(d, in, "text");
	if (m && m->vision)
		yyjson_mut_arr_add_str(d, in, "image");
	if (m && m->audio)
		yyjson_mut_arr_add_str(d, in, "audio");
	yyjson_mut_arr_add_str(d, out, "text");
	yyjson_mut_obj_add_val(d, o, "input_modalities", in);
	yyjson_mut_obj_add_val(d, o, "output_modalities", out);
	return o;
}

static val *model_json(doc *d, struct api *a, const struct pool_view *v)
{
	val *o = yyjson_mut_obj(d), *status = yyjson_mut_obj(d), *meta = yyjson_mut_obj(d),
	    *own = yyjson_mut_obj(d);
	const struct wire_model *m = v->rp ? v->rp->model : NULL;
	uint32_t ctx = ctx_of(v);
	json_add_str(d, o, "id", v->cfg->id);
	yyjson_mut_obj_add_str(d, o, "object", "model");
	yyjson_mut_obj_add_int(d, o, "created", a->started_s);
	yyjson_mut_obj_add_str(d, o, "owned_by", "corral");
	yyjson_mut_obj_add_val(d, o, "aliases", strings(d, &v->cfg->aliases));
	yyjson_mut_obj_add_str(d, status, "value", model_status(v->state, v->lead));
	if (v->lead && v->lead->phase && v->lead->progress_pct >= 0 && v->state != POOL_STATE_READY)
		yyjson_mut_obj_add_int(d, status, "progress", v->lead->progress_pct);
	yyjson_mut_obj_add_val(d, o, "status", status);
	if (ctx)
		yyjson_mut_obj_add_uint(d, meta, "n_ctx", ctx);
	if (m && m->path) {
		yyjson_mut_obj_add_uint(d, meta, "n_ctx_train", m->n_ctx_train);
		yyjson_mut_obj_add_uint(d, meta, "n_params", m->n_params);
		yyjson_mut_obj_add_uint(d, meta, "size", m->size_bytes);
		yyjson_mut_obj_add_uint(d, meta, "n_vocab", m->n_vocab);
		yyjson_mut_obj_add_uint(d, meta, "n_embd", m->n_embd);
		json_add_str(d, meta, "architecture", m->architecture);
		json_add_str(d, meta, "quant", m->quant);
	}
	yyjson_mut_obj_add_val(d, o, "meta", meta);
	if (ctx) {
		yyjson_mut_obj_add_uint(d, o, "max_model_len", ctx);
		yyjson_mut_obj_add_uint(d, o, "context_length", ctx);
	}
	yyjson_mut_obj_add_val(d, o, "architecture", modalities(d, m));
	json_add_str(d, own, "pool", v->cfg->id);
	yyjson_mut_obj_add_uint(d, own, "replicas", v->st.replicas);
	json_add_str(d, own, "device", v->lead ? v->lead->device_mask : NULL);
	json_add_str(d, own, "use", m && m->rerank ? "rerank" : m && m->embedding ? "embedding" : "text");
	json_add_str(d, own, "source", m ? m->source : NULL);
	json_add_str(d, own, "reference", m ? m->reference : NULL);
	json_add_str(d, own, "problem", m ? m->problem : NULL);
	yyjson_mut_obj_add_val(d, o, "corral", own);
	return o;
}

void route_models(struct api *a, struct api_call *c, const struct route_args *args)
{
	(void)args;
	AUTO(registry_snapshot_unrefp)
	const struct registry_snapshot *s = registry_snapshot_ref(a->o.registry);
	doc *d = yyjson_mut_doc_new(NULL);
	val *root = yyjson_mut_obj(d), *list = yyjson_mut_arr(d);
	yyjson_mut_doc_set_root(d, root);
	yyjson_mut_obj_add_str(d, root, "object", "list");
	struct control_pool *p;
	for (size_t i = 0; (p = control_pool_at(a->o.control, i)); i++) {
		if (!api_may_use(a, c, p))
			continue;
		struct pool_view v = view_pool(a, p, s);
		yyjson_mut_arr_append(list, model_json(d, a, &v));
	}
	yyjson_mut_obj_add_val(d, root, "data", list);
	json_reply(c, d);
}

void route_model(struct api *a, struct api_call *c, const struct route_args *args)
{
	struct control_pool *p = find_pool_or_fail(a, c, args->id);
	if (!p)
		return;
	AUTO(registry_snapshot_unrefp)
	const struct registry_snapshot *s = registry_snapshot_ref(a->o.registry);
	doc *d = yyjson_mut_doc_new(NULL);
	struct pool_view v = view_pool(a, p, s);
	yyjson_mut_doc_set_root(d, model_json(d, a, &v));
	json_reply(c, d);
}

/* /props of a pool that runs nothing: no GET starts an engine. */
void route_props(struct api *a, struct api_call *c, const struct route_args *args)
{
	(void)args;
	char name[256];
	if (!c->query || !http_query_get(view_str(c->query), "model", name, sizeof name)) {
		api_failf(c, CODE_INVALID_PARAMS, 400, "", "Say which model with ?model=.");
		return;
	}
	struct control_pool *p = find_pool_or_fail(a, c, view_str(name));
	if (!p)
		return;
	AUTO(registry_snapshot_unrefp)
	const struct registry_snapshot *s = registry_snapshot_ref(a->o.registry);
	struct pool_view v = view_pool(a, p, s);
	doc *d = yyjson_mut_doc_new(NULL);
	val *o = yyjson_mut_obj(d), *settings = yyjson_mut_obj(d);
	yyjson_mut_doc_set_root(d, o);
	yyjson_mut_obj_add_bool(d, o, "loaded", false);
	yyjson_mut_obj_add_uint(d, settings, "n_ctx", ctx_of(&v));
	yyjson_mut_obj_add_val(d, o, "default_generation_settings", settings);
	yyjson_mut_obj_add_uint(d, o, "total_slots", v.cfg->slots);
	json_add_str(d, o, "model_alias", v.cfg->id);
	yyjson_mut_obj_add_val(d, o, "model", model_json(d, a, &v));
	json_reply(c, d);
}

void route_nodes(struct api *a, struct api_call *c, const struct route_args *args)
{
	(void)args;
	AUTO(registry_snapshot_unrefp)
	const struct registry_snapshot *s = registry_snapshot_ref(a->o.registry);
	doc *d = yyjson_mut_doc_new(NULL);
	val *root = yyjson_mut_obj(d), *list = yyjson_mut_arr(d);
	yyjson_mut_doc_set_root(d, root);
	for (size_t i = 0; i < s->nnodes; i++) {
		const struct registry_node *n = s->nodes[i];
		val *o = yyjson_mut_obj(d);
		json_add_str(d, o, "id", n->node_id);
		json_add_str(d, o, "state", n->online ? "online" : "offline");
		json_add_str(d, o, "version", n->version);
		yyjson_mut_obj_add_int(d, o, "pid", n->pid);
		yyjson_mut_arr_append(list, o);
	}
	yyjson_mut_obj_add_val(d, root, "nodes", list);
	json_reply(c, d);
}
