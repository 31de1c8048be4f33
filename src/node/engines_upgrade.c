/* SPDX-License-Identifier: Apache-2.0
 *
 * What a pool's ref, tag or package is now, got beside: looked at before (which build each pool takes), got,
 * looked at again: who has another one. Server-sent events, at last `done {pool, version, why, pools,
 * bytes_before, bytes_now}` or `error {message, configured}`; configured: its engine is one that the
 * configuration names. A client that leaves ends it; the next one goes on from there.
 */
#include <stdlib.h>
#include <yyjson.h>

#include "base/mem.h"
#include "node/models_int.h"
#include "node/stream_int.h"
#include "provision/catalog/tell.h"

struct looking;
struct upgrade {
	struct stream s;
	struct engine_job *job;
	struct looking *looking;
	char *pool, *to;
	struct strv was; /* what each pool takes before: its id and the build's name, in turn */
	char *version, *why;
	uint64_t bytes;
};
struct looking {
	struct engines_look l;
	struct upgrade *of; /* NULL: the client left */
};

static void release(struct stream *stream)
{
	struct upgrade *u = CONTAINER_OF(stream, struct upgrade, s);
	engine_job_cancel(&u->job);
	if (u->looking)
		u->looking->of = NULL;
	strv_done(&u->was);
	free(u->pool);
	free(u->to);
	free(u->version);
	free(u->why);
}

static void tell(struct upgrade *u, const char *name, const struct buf *data)
{
	AUTO(buf_done) struct buf b = BUF(2 * TELL_JSON_MAX);
	(void)buf_addf(&b, "event: %s\ndata: %s\n\n", name, buf_str(data));
	stream_send(&u->s, buf_view(&b));
}

static void fail(struct upgrade *u, const char *message, bool configured)
{
	AUTO(buf_done) struct buf b = BUF(TELL_JSON_MAX);
	(void)buf_adds(&b, "{\"pool\":");
	(void)buf_add_json(&b, view_str(u->pool));
	(void)buf_adds(&b, ",\"message\":");
	(void)buf_add_json(&b, view_str(message));
	(void)buf_addf(&b, ",\"configured\":%s}", configured ? "true" : "false");
	tell(u, "error", &b);
	stream_end(&u->s);
}

static void look(struct upgrade *u, void (*over)(struct engines_look *l));

/* ---- 3. who has another one ------------------------------------------------------------------------------
 */

static void add_text(struct buf *b, const char *key, const char *text)
{
	(void)buf_addf(b, ",\"%s\":", key);
	(void)(text ? buf_add_json(b, view_str(text)) : buf_adds(b, "null"));
}

static const char *name_before(const struct upgrade *u, const char *pool)
{
	for (size_t i = 0; i + 1 < u->was.len; i += 2)
		if (strcmp(u->was.items[i], pool) == 0)
			return u->was.items[i + 1];
	return NULL; /* it has come since */
}

static void over_after(struct engines_look *l)
{
	struct looking *k = CONTAINER_OF(l, struct looking, l);
	struct upgrade *u = k->of;
	AUTO(buf_done) struct buf b = BUF(TELL_JSON_MAX);
	bool first = true;
	if (!u)
		return;
	u->looking = NULL;
	const struct engine_taker *own = engine_takers_find(&l->t, u->pool);
	(void)buf_adds(&b, "{\"pool\":");
	(void)buf_add_json(&b, view_str(u->pool));
	add_text(&b, "version", u->version);
	add_text(&b, "why", u->why);
	(void)buf_addf(&b, ",\"bytes_before\":%llu,\"bytes_now\":%llu,\"pools\":[",
		(unsigned long long)u->bytes, (unsigned long long)(own ? own->now.bytes : 0));
	for (size_t i = 0; i < l->t.len; i++) {
		const struct engine_taker *t = &l->t.items[i];
		const char *before = name_before(u, t->id);
		if (!before || strcmp(before, t->now.name ? t->now.name : "") == 0)
			continue;
		(void)buf_adds(&b, first ? "" : ",");
		(void)buf_add_json(&b, view_str(t->id));
		first = false;
	}
	(void)buf_adds(&b, "]}");
	tell(u, "done", &b);
	stream_end(&u->s);
}

/* ---- 2. getting it ---------------------------------------------------------------------------------------
 */

static void on_progress(void *arg, const struct engine_progress *p)
{
	struct upgrade *u = arg;
	AUTO(buf_done) struct buf b = BUF(TELL_JSON_MAX);
	if (u->s.full)
		return;
	engines_progress_json(u->pool, p, &b);
	tell(u, "progress", &b);
}

static void on_done(void *arg, const struct engine_build *build, const struct err *err)
{
	struct upgrade *u = arg;
	u->job = NULL;
	if (!build) {
		fail(u, err ? err->msg : "no engine could be had", false);
		return;
	}
	engines_remember(u->s.owner, build);
	u->version = mem_strdup(build->version);
	u->why = mem_strdup(build->why);
	look(u, over_after);
}

static void get(struct upgrade *u)
{
	struct node *n = u->s.owner;
	struct pool *p = node_pool_find(n, u->pool);
	struct engine_ensure_opts o;
	AUTO(mem_freep) struct engine_device *devices = mem_alloc(GPU_DEVICES_MAX * sizeof *devices);
	if (!p) {
		fail(u, "the pool is not configured any more", false);
		return;
	}
	engines_opts(n, pool_on_cpu(&p->conf), devices, &o);
	o.again = o.upgrade = true;
	o.upgrade_to = u->to;
	u->job = engine_ensure(n->loop, &p->conf.engine, &o, on_progress, on_done, u);
}

/* ---- 1. what is here -------------------------------------------------------------------------------------
 */

static void over_before(struct engines_look *l)
{
	struct looking *k = CONTAINER_OF(l, struct looking, l);
	struct upgrade *u = k->of;
	struct err e = { 0 };
	if (!u)
		return;
	u->looking = NULL;
	const struct engine_taker *own = engine_takers_find(&l->t, u->pool);
	if (!own || engine_upgrade_check(&own->now, &e)) {
		fail(u, own ? e.msg : "the pool is not configured any more", own != NULL);
		return;
	}
	u->bytes = own->now.bytes;
	for (size_t i = 0; i < l->t.len; i++) {
		strv_add(&u->was, l->t.items[i].id);
		strv_add(&u->was, l->t.items[i].now.name ? l->t.items[i].now.name : "");
	}
	get(u);
}

static void no_work(struct engines_look *l)
{
	(void)l;
}

static void look(struct upgrade *u, void (*over)(struct engines_look *l))
{
	struct looking *k = engines_look_new(u->s.owner, sizeof *k);
	k->of = u;
	k->l.work = no_work;
	k->l.over = over;
	k->l.free = no_work;
	u->looking = k;
	engines_look_start(&k->l);
}

void engines_upgrade_pool(struct call *c)
{
	static const struct stream_ops ops = { .kind = STREAM_WORK, .release = release };
	struct node *n = c->node;
	yyjson_doc *d = c->body.len ? yyjson_read(c->body.data, c->body.len, 0) : NULL;
	yyjson_val *o = yyjson_doc_get_root(d), *to = yyjson_obj_get(o, "to");
	const char *pool = yyjson_get_str(yyjson_obj_get(o, "pool"));
	if (!pool || (to && !yyjson_is_str(to))) {
		api_error(c->x, 400, "the body must be {\"pool\": \"ID\", \"to\": \"REF\"}, or without `to`");
	} else if (!node_pool_find(n, pool)) {
		api_error(c->x, 404, "there is no pool %.80s", pool);
	} else if (!stream_room(n, STREAM_WORK)) {
		api_error(c->x, 503, "there are %d streams already; wait for one of them",
			(int)NODE_STREAMS_MAX);
	} else {
		struct upgrade *u = stream_new(n, c->x, &ops, sizeof *u);
		u->pool = mem_strdup(pool);
		u->to = mem_strdup(yyjson_get_str(to));
		stream_start(&u->s, true);
		look(u, over_before);
	}
	yyjson_doc_free(d);
}
