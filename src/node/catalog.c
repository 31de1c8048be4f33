/* SPDX-License-Identifier: Apache-2.0
 *
 * The catalog's routes: what models and engines are here, and what may be done with a model.
 */
#include <stdio.h>
#include <stdlib.h>
#include <yyjson.h>

#include "base/mem.h"
#include "base/url.h"
#include "log/log.h"
#include "node/models_int.h"

enum { SMALL_BODY_MAX = 64 * 1024 };
#define PREFIX "/v1/node/catalog/models"

typedef yyjson_mut_doc doc;
typedef yyjson_mut_val val;

/* ---- who uses a model -----------------------------------------------------------------------------------
 */

static bool is_its_file(const struct catalog_model *m, const char *path)
{
	for (size_t i = 0; path && i < m->nfiles; i++)
		if (m->files[i].path && strcmp(m->files[i].path, path) == 0)
			return true;
	return false;
}

static bool is_called(const struct catalog_model *m, const char *ref)
{
	return strcmp(m->reference, ref) == 0 || strv_has(&m->references, ref);
}

/* By its name as it is written, in its normal form, or as the path of one of its files. */
static bool is_meant(struct node *n, const struct catalog_model *m, const char *text)
{
	struct model_ref r = { 0 };
	AUTO(mem_freep) char *shown = ref_shown(text);
	const char *dir = n->opts.fetch ? n->opts.fetch->models_dir : NULL;
	if (!shown || is_called(m, shown))
		return shown != NULL;
	bool meant = model_ref_parse(text, dir, &r, NULL) == 0 &&
		     (is_called(m, r.text) ||
			     (r.kind == MODEL_REF_FILE && is_its_file(m, r.text + strlen("file:"))));
	model_ref_done(&r);
	return meant;
}

static bool in_set(struct node *n, const struct catalog_model *m, const struct model_set *s)
{
	bool any = is_meant(n, m, s->ref) || is_meant(n, m, s->mmproj) || is_meant(n, m, s->draft);
	for (size_t i = 0; !any && i < s->lora.len; i++)
		any = is_meant(n, m, s->lora.items[i]);
	return any;
}

/* What a set became, and what is written out: --lora PATH, --lora=PATH. */
static bool in_args(const struct catalog_model *m, const struct strv *args)
{
	for (size_t i = 0; i < args->len; i++) {
		struct view value;
		(void)view_split(view_str(args->items[i]), '=', &value);
		if (is_its_file(m, args->items[i]) || is_its_file(m, value.p))
			return true;
	}
	return false;
}

static bool uses(struct node *n, const struct catalog_model *m, const struct node_pool *p)
{
	return is_its_file(m, p->model_path) || in_args(m, &p->engine.args) || in_set(n, m, &p->model);
}

struct catalog_use catalog_use_of(struct node *n, const struct catalog_model *m)
{
	struct catalog_use u = { 0 };
	struct map_entry *e;
	for (size_t i = 0; i < n->npools; i++) {
		if (!uses(n, m, &n->pools[i]->conf))
			continue;
		u.configured = true;
		u.pinned |= n->pools[i]->conf.pinned;
		u.pool = n->pools[i]->conf.id;
	}
	for (size_t i = 0; (e = map_next(&n->replicas, &i));) {
		const struct replica *r = e->value;
		bool runs = r->keeper || r->fetch || r->waits_plan;
		if (!runs || !(is_its_file(m, replica_model(r)->path) || in_args(m, &r->launch.argv) ||
				     (r->pool && uses(n, m, &r->pool->conf))))
			continue;
		u.serving = true;
		u.pool = r->pool_id;
	}
	return u;
}

/* ---- JSON ------------------------------------------------------------------------------------------------
 */

static void add_str(doc *d, val *o, const char *key, const char *s)
{
	if (s)
		yyjson_mut_obj_add_strcpy(d, o, key, s);
	else
		yyjson_mut_obj_add_null(d, o, key);
}

static void add_time(doc *d, val *o, const char *key, int64_t ms)
{
	char text[WALL_STR_LEN + 1];
	if (ms)
		wall_format(ms, text);
	add_str(d, o, key, ms ? text : NULL);
}

static val *files_json(doc *d, const struct catalog_model *m)
{
	val *list = yyjson_mut_arr(d);
	for (size_t i = 0; i < m->nfiles; i++) {
		val *o = yyjson_mut_obj(d);
		add_str(d, o, "role", m->files[i].role);
		add_str(d, o, "path", m->files[i].path);
		yyjson_mut_obj_add_uint(d, o, "size_bytes", m->files[i].size);
		add_str(d, o, "sha256", m->files[i].sha256);
		add_str(d, o, "url", m->files[i].url);
		yyjson_mut_arr_append(list, o);
	}
	return list;
}

static val *names_json(doc *d, const struct strv *l)
{
	val *list = yyjson_mut_arr(d);
	for (size_t i = 0; i < l->len; i++)
		yyjson_mut_arr_add_strcpy(d, list, l->items[i]);
	return list;
}

static val *model_json(doc *d, struct node *n, const struct catalog_model *m, bool whole)
{
	struct catalog_use u = catalog_use_of(n, m);
	val *o = yyjson_mut_obj(d);
	add_str(d, o, "id", m->id);
	add_str(d, o, "reference", m->reference);
	yyjson_mut_obj_add_val(d, o, "names", names_json(d, &m->references));
	add_str(d, o, "state", catalog_life_name(m->life));
	if (m->life == CATALOG_RETIRED) {
		add_str(d, o, "retired_by", m->life_by);
		add_time(d, o, "retired_at", m->life_ms);
	}
	add_str(d, o, "source", m->source);
	add_str(d, o, "revision", m->revision);
	yyjson_mut_obj_add_bool(d, o, "fetched", m->fetched);
	yyjson_mut_obj_add_uint(d, o, "size_bytes", m->size_bytes);
	add_str(d, o, "architecture", m->architecture);
	add_str(d, o, "name", m->name);
	add_str(d, o, "quant", m->quant);
	yyjson_mut_obj_add_uint(d, o, "n_params", m->n_params);
	yyjson_mut_obj_add_uint(d, o, "n_ctx_train", m->n_ctx_train);
	add_time(d, o, "created_at", m->created_ms);
	add_time(d, o, "used_at", m->used_ms);
	add_time(d, o, "verified_at", m->verified_ms);
	add_str(d, o, "problem", m->verify_problem);
	yyjson_mut_obj_add_bool(d, o, "serving", u.serving);
	yyjson_mut_obj_add_bool(d, o, "pinned", u.pinned);
	add_str(d, o, "pool", u.pool);
	if (whole)
		yyjson_mut_obj_add_val(d, o, "files", files_json(d, m));
	return o;
}

static void reply_doc(struct http_exchange *x, doc *d)
{
	size_t len = 0;
	char *text = yyjson_mut_write(d, 0, &len);
	yyjson_mut_doc_free(d);
	if (text)
		http_reply(x, 200, "application/json", NULL, view_of(text, len));
	else
		api_error(x, 500, "the answer cannot be written");
	free(text);
}

static void get_models(struct node *n, struct http_exchange *x)
{
	struct catalog_models all = { 0 };
	doc *d = yyjson_mut_doc_new(NULL);
	val *root = yyjson_mut_obj(d), *list = yyjson_mut_arr(d);
	yyjson_mut_doc_set_root(d, root);
	catalog_models(n->opts.catalog, &all);
	for (size_t i = 0; i < all.len; i++)
		yyjson_mut_arr_append(list, model_json(d, n, &all.items[i], false));
	catalog_models_done(&all);
	yyjson_mut_obj_add_val(d, root, "models", list);
	AUTO(mem_freep) char *problem = catalog_problem(n->opts.catalog);
	if (problem)
		add_str(d, root, "problem", problem);
	reply_doc(x, d);
}

static void get_model(struct node *n, struct http_exchange *x, const char *id)
{
	struct catalog_model m = { 0 };
	if (catalog_model_find(n->opts.catalog, id, &m)) {
		api_error(x, 404, "there is no model %s in the catalog", id);
		return;
	}
	doc *d = yyjson_mut_doc_new(NULL);
	yyjson_mut_doc_set_root(d, model_json(d, n, &m, true));
	catalog_model_done(&m);
	reply_doc(x, d);
}

static val *steps_json(doc *d, struct node *n)
{
	struct catalog_steps all;
	val *list = yyjson_mut_arr(d);
	catalog_steps(n->opts.catalog, NULL, &all);
	for (size_t i = 0; i < all.len; i++) {
		const struct catalog_step *s = &all.items[i];
		val *o = yyjson_mut_obj(d);
		add_str(d, o, "plan", s->job);
		yyjson_mut_obj_add_uint(d, o, "step", s->ordinal + 1);
		add_str(d, o, "name", s->name);
		add_str(d, o, "state", catalog_step_state_name(s->state));
		add_time(d, o, "started_at", s->started_ms);
		add_time(d, o, "ended_at", s->ended_ms);
		add_str(d, o, "detail", s->detail);
		add_str(d, o, "log", s->log);
		yyjson_mut_arr_append(list, o);
	}
	catalog_steps_done(&all);
	return list;
}

static void get_engines(struct node *n, struct http_exchange *x)
{
	struct catalog_engines all = { 0 };
	doc *d = yyjson_mut_doc_new(NULL);
	val *root = yyjson_mut_obj(d), *list = yyjson_mut_arr(d);
	yyjson_mut_doc_set_root(d, root);
	catalog_engines(n->opts.catalog, &all);
	for (size_t i = 0; i < all.len; i++) {
		const struct catalog_engine *e = &all.items[i];
		val *o = yyjson_mut_obj(d);
		add_str(d, o, "id", e->id);
		add_str(d, o, "engine", e->engine);
		add_str(d, o, "version", e->version);
		add_str(d, o, "source", e->source);
		add_str(d, o, "commit", e->commit);
		add_str(d, o, "digest", e->digest);
		add_str(d, o, "flags", e->flags);
		add_str(d, o, "features", e->features);
		add_str(d, o, "state", e->state ? e->state : "ready");
		add_time(d, o, "created_at", e->created_ms);
		add_time(d, o, "used_at", e->used_ms);
		yyjson_mut_arr_append(list, o);
	}
	catalog_engines_done(&all);
	yyjson_mut_obj_add_val(d, root, "engines", list);
	yyjson_mut_obj_add_val(d, root, "steps", steps_json(d, n));
	reply_doc(x, d);
}

/* ---- what could go ---------------------------------------------------------------------------------------
 */

struct candidate {
	const struct catalog_model *m;
	struct catalog_use use;
	double worth; /* of keeping it: the smaller the sooner it goes */
};

static int64_t touched(const struct catalog_model *m)
{
	return MAX(m->used_ms, m->created_ms);
}

/* Those no pool names go first, then bytes × days without use. */
static int by_worth(const void *a, const void *b)
{
	const struct candidate *x = a, *y = b;
	if (x->use.configured != y->use.configured)
		return x->use.configured ? 1 : -1;
	if (x->worth < y->worth || x->worth > y->worth)
		return x->worth < y->worth ? -1 : 1;
	return strcmp(x->m->id, y->m->id);
}

static size_t pick(struct node *n, const struct catalog_models *all, struct candidate *to)
{
	size_t len = 0;
	int64_t now = wall_ms();
	for (size_t i = 0; i < all->len; i++) {
		const struct catalog_model *m = &all->items[i];
		struct catalog_use u = catalog_use_of(n, m);
		if (!m->fetched)
			continue;
		double days = (double)MAX(now - touched(m), (int64_t)60000) / 86400000;
		if (!u.serving && !u.pinned)
			to[len++] = (struct candidate){ m, u, -days * (double)m->size_bytes };
	}
	qsort(to, len, sizeof *to, by_worth);
	return len;
}

static void get_gc(struct node *n, struct http_exchange *x)
{
	struct catalog_models all = { 0 };
	uint64_t used = catalog_models_fetched(n->opts.catalog), quota = n->opts.models_quota, freed = 0;
	catalog_models(n->opts.catalog, &all);
	AUTO(mem_freep) struct candidate *list = mem_alloc((all.len + 1) * sizeof *list);
	size_t len = pick(n, &all, list);
	uint64_t over = quota && used > quota ? used - quota : 0;
	doc *d = yyjson_mut_doc_new(NULL);
	val *root = yyjson_mut_obj(d), *arr = yyjson_mut_arr(d);
	yyjson_mut_doc_set_root(d, root);
	yyjson_mut_obj_add_uint(d, root, "quota_bytes", quota);
	yyjson_mut_obj_add_uint(d, root, "used_bytes", used);
	yyjson_mut_obj_add_uint(d, root, "over_bytes", over);
	for (size_t i = 0; i < len; i++) {
		val *o = yyjson_mut_obj(d);
		add_str(d, o, "id", list[i].m->id);
		add_str(d, o, "reference", list[i].m->reference);
		yyjson_mut_obj_add_uint(d, o, "size_bytes", list[i].m->size_bytes);
		add_time(d, o, "used_at", touched(list[i].m));
		add_str(d, o, "pool", list[i].use.pool);
		yyjson_mut_obj_add_bool(d, o, "needed", freed < over);
		freed += list[i].m->size_bytes;
		yyjson_mut_arr_append(arr, o);
	}
	catalog_models_done(&all);
	yyjson_mut_obj_add_val(d, root, "candidates", arr);
	reply_doc(x, d);
}

/* ---- removing --------------------------------------------------------------------------------------------
 */

struct removal {
	struct list list;
	struct node *node;       /* NULL: it is gone */
	struct http_exchange *x; /* NULL: the client left */
	struct catalog_model m;
	struct catalog_models others;
	struct strv problems;
	uint64_t bytes;
};

static void removal_work(void *arg)
{
	struct removal *v = arg;
	v->bytes = catalog_remove_files(&v->m, &v->others, &v->problems);
}

static void removal_answer(struct removal *v)
{
	if (v->problems.len) {
		api_error(v->x, 500, "%s", v->problems.items[0]);
		return;
	}
	AUTO(buf_done) struct buf b = BUF(4096);
	(void)buf_adds(&b, "{\"id\":");
	(void)buf_add_json(&b, view_str(v->m.id));
	(void)buf_addf(&b, ",\"removed_bytes\":%llu}\n", (unsigned long long)v->bytes);
	http_reply(v->x, 200, "application/json", NULL, buf_view(&b));
}

static void removal_over(void *arg)
{
	struct removal *v = arg;
	struct node *n = v->node;
	if (n) {
		list_remove(&v->list);
		if (!v->problems.len)
			catalog_model_remove(n->opts.catalog, v->m.id);
		log_info("model", v->m.id, "Model %s was removed.", v->m.reference);
		models_changed(n);
		if (v->x)
			removal_answer(v);
	}
	catalog_model_done(&v->m);
	catalog_models_done(&v->others);
	strv_done(&v->problems);
	free(v);
}

void catalog_removals_done(struct node *n)
{
	struct list *l;
	while ((l = list_pop(&n->removals)))
		LIST_ENTRY(l, struct removal, list)->node = NULL;
}

static void removal_gone(void *arg)
{
	((struct removal *)arg)->x = NULL;
}

static const struct http_handler removal_handler = { .on_gone = removal_gone };

static void delete_model(struct node *n, struct http_exchange *x, const char *id)
{
	struct catalog_model m = { 0 };
	if (catalog_model_find(n->opts.catalog, id, &m)) {
		api_error(x, 404, "there is no model %s in the catalog", id);
		return;
	}
	struct catalog_use u = catalog_use_of(n, &m);
	if (u.serving || u.pinned) {
		api_error(x, 409,
			u.serving ? "pool %s is serving it; `corral stop %s` first"
				  : "pool %s is pinned; take `pinned` off it first (%s)",
			u.pool, u.pool);
		catalog_model_done(&m);
		return;
	}
	struct removal *v = NEW(struct removal);
	v->node = n;
	v->x = x;
	v->m = m;
	list_append(&n->removals, &v->list);
	catalog_models(n->opts.catalog, &v->others);
	http_handle(x, &removal_handler, v);
	loop_offload(n->loop, removal_work, removal_over, v);
}

/* ---- its state -------------------------------------------------------------------------------------------
 */

static void post_state(struct call *c)
{
	struct node *n = c->node;
	struct catalog_model m = { 0 };
	enum catalog_life life;
	yyjson_doc *d = c->body.len ? yyjson_read(c->body.data, c->body.len, 0) : NULL;
	yyjson_val *o = yyjson_doc_get_root(d);
	const char *word = yyjson_get_str(yyjson_obj_get(o, "state"));
	const char *by = yyjson_get_str(yyjson_obj_get(o, "by"));
	if (!word || catalog_life_parse(view_str(word), &life)) {
		api_error(c->x, 400, "the body must be {\"state\": \"Active\"} or \"Retired\"");
	} else if (catalog_model_find(n->opts.catalog, c->id, &m)) {
		api_error(c->x, 404, "there is no model %s in the catalog", c->id);
	} else {
		catalog_model_set_life(n->opts.catalog, m.id, life, by);
		log_info("model", m.id, "Model %s is %s now%s%s.", m.reference, catalog_life_name(life),
			by ? ", by " : "", by ? by : "");
		models_changed(n);
		get_model(n, c->x, m.id);
	}
	catalog_model_done(&m);
	yyjson_doc_free(d);
}

/* ---- routes ----------------------------------------------------------------------------------------------
 */

static bool model_route(struct node *n, struct http_exchange *x, struct view path, enum http_method m)
{
	struct view prefix = VIEW(PREFIX "/");
	if (!view_starts(path, prefix))
		return false;
	struct view verb, id = view_split(view_from(path, prefix.n), '/', &verb);
	AUTO(buf_done) struct buf name = BUF(1024);
	if (http_unescape(id, &name) || !name.len)
		return false;
	if (!verb.p && m == HTTP_M_GET)
		get_model(n, x, buf_str(&name));
	else if (!verb.p && m == HTTP_M_DELETE)
		delete_model(n, x, buf_str(&name));
	else if (view_eqs(verb, "verify") && m == HTTP_M_POST)
		api_with_body(n, x, buf_view(&name), SMALL_BODY_MAX, catalog_verify);
	else if (view_eqs(verb, "state") && m == HTTP_M_POST)
		api_with_body(n, x, buf_view(&name), SMALL_BODY_MAX, post_state);
	else
		return false;
	return true;
}

bool catalog_route(struct node *n, struct http_exchange *x, struct view path, enum http_method m)
{
	if (!n->opts.catalog)
		return false;
	if (view_eqs(path, PREFIX) && m == HTTP_M_GET)
		get_models(n, x);
	else if (view_eqs(path, "/v1/node/catalog/gc") && m == HTTP_M_GET)
		get_gc(n, x);
	else if (view_eqs(path, "/v1/node/engines") && m == HTTP_M_GET)
		get_engines(n, x);
	else if (view_eqs(path, "/v1/node/engines/provision") && m == HTTP_M_POST)
		api_with_body(n, x, VIEW(""), SMALL_BODY_MAX, engines_provision);
	else if (view_eqs(path, "/v1/node/catalog/pull") && m == HTTP_M_POST)
		api_with_body(n, x, VIEW(""), SMALL_BODY_MAX, catalog_pull);
	else
		return engines_route(n, x, path, m) || model_route(n, x, path, m);
	return true;
}
