/* SPDX-License-Identifier: Apache-2.0
 *
 * Answers that last: fetching a model, verifying one, getting an engine. Server-sent events: `progress` as it
 * goes, at last `done` or `error`. A client that leaves ends its verification and the getting of its engine,
 * which the next one goes on with; a fetch goes on.
 */
#include <stdlib.h>
#include <yyjson.h>

#include "base/mem.h"
#include "log/log.h"
#include "node/models_int.h"
#include "node/stream_int.h"
#include "provision/catalog/tell.h"

struct work {
	struct stream s;
	struct fetch_watch *watch; /* a fetch */
	struct engine_job *job;    /* an engine, of the pool `id` */
	struct fetch_job *hash;    /* a verification, of */
	char *id;
	struct fetch_file *files;
	size_t nfiles;
};

static void release(struct stream *stream)
{
	struct work *w = CONTAINER_OF(stream, struct work, s);
	fetch_leave(&w->watch);
	fetch_cancel(&w->hash);
	engine_job_cancel(&w->job);
	for (size_t i = 0; i < w->nfiles; i++)
		fetch_file_done(&w->files[i]);
	free(w->files);
	free(w->id);
}

/* What is told while the client takes no more is left out: the next one says it all. */
static void send_event(struct work *w, const char *name, const struct buf *data)
{
	AUTO(buf_done) struct buf b = BUF(2 * TELL_JSON_MAX);
	(void)buf_addf(&b, "event: %s\ndata: %s\n\n", name, buf_str(data));
	stream_send(&w->s, buf_view(&b));
}

static void end(struct work *w, const char *name, const struct buf *data)
{
	send_event(w, name, data);
	stream_end(&w->s);
}

static void on_progress(void *arg, const struct fetch_progress *p)
{
	struct work *w = arg;
	AUTO(buf_done) struct buf b = BUF(TELL_JSON_MAX);
	if (w->s.full)
		return;
	tell_progress(p, &b);
	send_event(w, "progress", &b);
}

static void fail(struct work *w, enum fetch_why why, const char *message)
{
	AUTO(buf_done) struct buf b = BUF(TELL_JSON_MAX);
	tell_error(why, message, &b);
	end(w, "error", &b);
}

static struct work *work_new(struct node *n, struct http_exchange *x)
{
	static const struct stream_ops ops = { .kind = STREAM_WORK, .release = release };
	struct work *w = stream_new(n, x, &ops, sizeof *w);
	stream_start(&w->s, true);
	return w;
}

static bool too_many(struct node *n, struct http_exchange *x)
{
	if (stream_room(n, STREAM_WORK))
		return false;
	api_error(x, 503, "%d models are being fetched or verified already; wait for one of them",
		(int)NODE_STREAMS_MAX);
	return true;
}

/* ---- fetching ------------------------------------------------------------------------------------------ */

static void on_fetched(void *arg, const struct model_got *got, enum fetch_why why, const struct err *err)
{
	struct work *w = arg;
	AUTO(buf_done) struct buf b = BUF(TELL_JSON_MAX);
	w->watch = NULL;
	if (!got) {
		fail(w, why, err ? err->msg : fetch_why_name(why));
		return;
	}
	tell_got(w->s.owner->opts.catalog, got, &b);
	end(w, "done", &b);
}

struct pull {
	struct model_set set;
	char *sha256;
	enum model_want want;
};

static void pull_done(struct pull *p)
{
	model_set_done(&p->set);
	free(p->sha256);
}

static char *text_of(yyjson_val *o, const char *key)
{
	return mem_strdup(yyjson_get_str(yyjson_obj_get(o, key)));
}

/* What a caller of the API may name: a repository, a URL; a file only where models lie already. */
static int reference_check(struct node *n, const char *text, struct err *e)
{
	struct model_ref r = { 0 };
	const struct model_ensure_opts *o = n->opts.fetch;
	if (!text || (strcmp(text, "none") == 0))
		return 0;
	int rc = model_ref_parse(text, o ? o->models_dir : NULL, &r, e);
	if (!rc && r.kind == MODEL_REF_FILE && !(o && catalog_in_stores(o->roots, r.file)))
		rc = err_set(e, -EPERM,
			"%.300s lies in no folder of models (models_dir, the caches of Hugging Face, "
			"llama.cpp, "
			"Ollama and LM Studio); name it in corral.yaml instead",
			text);
	model_ref_done(&r);
	return rc;
}

static int pull_read(struct call *c, struct pull *p, struct err *e)
{
	yyjson_doc *d = c->body.len ? yyjson_read(c->body.data, c->body.len, 0) : NULL;
	yyjson_val *o = yyjson_doc_get_root(d), *item;
	size_t i, max;
	p->set = (struct model_set){
		.ref = text_of(o, "reference"), .mmproj = text_of(o, "mmproj"), .draft = text_of(o, "draft")
	};
	p->sha256 = text_of(o, "sha256");
	p->want = yyjson_get_bool(yyjson_obj_get(o, "snapshot")) ? MODEL_ANY : MODEL_GGUF;
	yyjson_arr_foreach(yyjson_obj_get(o, "lora"), i, max, item)
	{
		if (yyjson_is_str(item) && p->set.lora.len < 64)
			strv_add(&p->set.lora, yyjson_get_str(item));
	}
	yyjson_doc_free(d);
	if (!p->set.ref || !*p->set.ref)
		return err_set(e, -EINVAL, "the body must be {\"reference\": \"org/repo:Q4_K_M\"}");
	int r = reference_check(c->node, p->set.ref, e);
	r = r ? r : reference_check(c->node, p->set.mmproj, e);
	r = r ? r : reference_check(c->node, p->set.draft, e);
	for (size_t k = 0; !r && k < p->set.lora.len; k++)
		r = reference_check(c->node, p->set.lora.items[k], e);
	return r;
}

void catalog_pull(struct call *c)
{
	struct node *n = c->node;
	AUTO(pull_done) struct pull p = { 0 };
	struct err e = { 0 };
	enum fetch_why why;
	int r = pull_read(c, &p, &e);
	if (r) {
		api_error(c->x, r == -EPERM ? 403 : 400, "%s", e.msg);
		return;
	}
	if (too_many(n, c->x))
		return;
	struct fetch_watch *watch = fetch_join(n, &p.set, p.sha256, p.want, &why, &e);
	if (!watch) {
		api_error(c->x, why == FETCH_REFUSED ? 403 : 507, "%s", e.msg);
		return;
	}
	struct work *w = work_new(n, c->x);
	watch->on_progress = on_progress;
	watch->on_done = on_fetched;
	watch->arg = w;
	w->watch = watch;
	fetch_insist(watch);
}

/* ---- verifying ----------------------------------------------------------------------------------------- */

static void keep_digests(struct catalog *c, const char *id, const struct fetch_result *res)
{
	struct catalog_model m = { 0 };
	if (catalog_model_find(c, id, &m))
		return;
	for (size_t i = 0; i < m.nfiles && i < res->nfiles; i++)
		if (!m.files[i].sha256 && res->files[i].sha256)
			m.files[i].sha256 = mem_strdup(res->files[i].sha256);
	free(catalog_model_put(c, &m));
	catalog_model_done(&m);
}

static void on_hashed(void *arg, const struct fetch_result *res, enum fetch_why why, const struct err *err)
{
	struct work *w = arg;
	struct catalog *c = w->s.owner->opts.catalog;
	w->hash = NULL;
	if (why != FETCH_OK) {
		const char *message = err ? err->msg : fetch_why_name(why);
		catalog_model_set_verified(c, w->id, message);
		log_error("verify", w->id, "Model %s is not what it was: %s.", w->id, message);
		fail(w, why, message);
		return;
	}
	keep_digests(c, w->id, res);
	catalog_model_set_verified(c, w->id, NULL);
	AUTO(buf_done) struct buf b = BUF(TELL_JSON_MAX);
	(void)buf_adds(&b, "{\"id\":");
	(void)buf_add_json(&b, view_str(w->id));
	(void)buf_addf(&b, ",\"files\":%zu}", res->nfiles);
	end(w, "done", &b);
}

void catalog_verify(struct call *c)
{
	static const struct fetch_ops ops = { .on_progress = on_progress, .on_done = on_hashed };
	struct node *n = c->node;
	struct catalog_model m = { 0 };
	struct err e = { 0 };
	if (catalog_model_find(n->opts.catalog, c->id, &m)) {
		api_error(c->x, 404, "there is no model %s in the catalog", c->id);
		return;
	}
	if (too_many(n, c->x)) {
		catalog_model_done(&m);
		return;
	}
	struct work *w = work_new(n, c->x);
	w->id = mem_strdup(m.id);
	w->files = mem_alloc((m.nfiles + 1) * sizeof *w->files);
	for (size_t i = 0; i < m.nfiles; i++) {
		w->files[i].to = mem_strdup(m.files[i].path);
		w->files[i].sha256 = mem_strdup(m.files[i].sha256);
		w->files[i].size = m.files[i].size;
	}
	w->nfiles = m.nfiles;
	catalog_model_done(&m);
	struct fetch_request q = { .op = FETCH_HASH, .files = w->files, .nfiles = w->nfiles };
	const char *program = n->opts.fetch ? n->opts.fetch->fetch_program : NULL;
	if (fetch_start(n->loop, program, &q, &ops, w, &w->hash, &e))
		fail(w, FETCH_CRASHED, e.msg);
}

/* ---- an engine -------------------------------------------------------------------------------------------
 */

void engines_progress_json(const char *pool, const struct engine_progress *p, struct buf *b)
{
	(void)buf_adds(b, "{\"pool\":");
	(void)buf_add_json(b, view_str(pool));
	(void)buf_addf(b, ",\"phase\":\"%s\",\"percent\":", p->phase);
	(void)(p->pct < 0 ? buf_adds(b, "null") : buf_addf(b, "%d", p->pct));
	(void)buf_adds(b, ",\"eta_ms\":");
	(void)(p->eta_ms < 0 ? buf_adds(b, "null") : buf_addf(b, "%lld", (long long)p->eta_ms));
	if (p->total)
		(void)buf_addf(b, ",\"bytes\":%llu,\"total\":%llu", (unsigned long long)p->bytes,
			(unsigned long long)p->total);
	if (p->steps)
		(void)buf_addf(b, ",\"step\":%u,\"steps\":%u", p->step, p->steps);
	(void)buf_adds(b, ",\"text\":");
	(void)buf_add_json(b, view_str(p->text));
	(void)buf_addc(b, '}');
}

static void on_engine_progress(void *arg, const struct engine_progress *p)
{
	struct work *w = arg;
	AUTO(buf_done) struct buf b = BUF(TELL_JSON_MAX);
	if (w->s.full)
		return;
	engines_progress_json(w->id, p, &b);
	send_event(w, "progress", &b);
}

static void on_engine(void *arg, const struct engine_build *build, const struct err *err)
{
	struct work *w = arg;
	AUTO(buf_done) struct buf b = BUF(TELL_JSON_MAX);
	w->job = NULL;
	if (!build) {
		(void)buf_adds(&b, "{\"message\":");
		(void)buf_add_json(&b, view_str(err ? err->msg : "no engine could be had"));
		(void)buf_addc(&b, '}');
		end(w, "error", &b);
		return;
	}
	engines_remember(w->s.owner, build);
	(void)buf_adds(&b, "{\"pool\":");
	(void)buf_add_json(&b, view_str(w->id));
	(void)buf_adds(&b, ",\"version\":");
	if (build->version)
		(void)buf_add_json(&b, view_str(build->version));
	else
		(void)buf_adds(&b, "null");
	(void)buf_adds(&b, ",\"why\":");
	(void)buf_add_json(&b, view_str(build->why ? build->why : ""));
	(void)buf_addc(&b, '}');
	end(w, "done", &b);
}

void engines_provision(struct call *c)
{
	struct node *n = c->node;
	yyjson_doc *d = c->body.len ? yyjson_read(c->body.data, c->body.len, 0) : NULL;
	const char *id = yyjson_get_str(yyjson_obj_get(yyjson_doc_get_root(d), "pool"));
	struct pool *p = id ? node_pool_find(n, id) : NULL;
	if (!id)
		api_error(c->x, 400, "the body must be {\"pool\": \"ID\"}");
	else if (!p)
		api_error(c->x, 404, "there is no pool %.80s", id);
	else if (!too_many(n, c->x)) {
		struct work *w = work_new(n, c->x);
		struct engine_ensure_opts o;
		AUTO(mem_freep) struct engine_device *devices = mem_alloc(GPU_DEVICES_MAX * sizeof *devices);
		w->id = mem_strdup(id);
		engines_opts(n, pool_on_cpu(&p->conf), devices, &o);
		o.again = true;
		w->job = engine_ensure(n->loop, &p->conf.engine, &o, on_engine_progress, on_engine, w);
	}
	yyjson_doc_free(d);
}
