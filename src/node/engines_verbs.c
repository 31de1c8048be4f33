/* SPDX-License-Identifier: Apache-2.0
 *
 * Engines that lie here and the pools that take them: which those are, removing one that none takes, going
 * back to the build before. The disk is looked at on a thread, with copies.
 *
 *   GET    /v1/node/engines/{id}/pools     {pools}
 *   DELETE /v1/node/engines/{id}           {id, removed, removed_bytes}
 *   POST   /v1/node/engines/rollback {pool}          {engine, pools: those that have it now}
 *   POST   /v1/node/engines/upgrade {pool, to?}      engines_upgrade.c
 *
 * {id}: of a row of GET /v1/node/engines, or a build's name or its beginning; of /pools also "all".
 */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <yyjson.h>

#include "base/fd.h"
#include "base/mask.h"
#include "base/mem.h"
#include "log/log.h"
#include "node/models_int.h"

enum { SMALL_BODY_MAX = 64 * 1024 };
#define PREFIX "/v1/node/engines/"

/* ---- looking ---------------------------------------------------------------------------------------------
 */

bool pool_on_cpu(const struct node_pool *p)
{
	return mask_means_cpu(view_str(p->devices));
}

void *engines_look_new(struct node *n, size_t size)
{
	struct engines_look *l = mem_alloc(size);
	l->node = n;
	list_append(&n->looks, &l->list);
	l->prefix = mem_strdup(n->builds_dir);
	l->devices = mem_alloc(GPU_DEVICES_MAX * sizeof *l->devices);
	for (size_t i = 0; i < n->npools; i++) {
		const struct node_pool *p = &n->pools[i]->conf;
		struct engine_taker *t = engine_takers_add(&l->t, p->id);
		struct engine_ensure_opts o;
		engine_def_copy(&t->def, &p->engine);
		engines_opts(n, pool_on_cpu(p), l->devices, &o);
		t->opts = (struct engine_ensure_opts){ .prefix_dir = l->prefix,
			.allow_cpu = o.allow_cpu,
			.offline = o.offline,
			.devices = l->devices,
			.ndevices = o.ndevices,
			.cpu_instead = o.cpu_instead };
	}
	return l;
}

static void look_work(void *arg)
{
	struct engines_look *l = arg;
	engine_takers_look(&l->t);
	l->work(l);
}

static void look_over(void *arg)
{
	struct engines_look *l = arg;
	if (l->node) {
		list_remove(&l->list);
		l->over(l);
	}
	l->free(l);
	engine_takers_done(&l->t);
	free(l->devices);
	free(l->prefix);
	free(l);
}

void engines_look_start(struct engines_look *l)
{
	loop_offload(l->node->loop, look_work, look_over, l);
}

void engines_looks_done(struct node *n)
{
	struct list *l;
	while ((l = list_pop(&n->looks)))
		LIST_ENTRY(l, struct engines_look, list)->node = NULL;
}

/* ---- a question ------------------------------------------------------------------------------------------
 */

struct asked {
	struct engines_look l;
	struct http_exchange *x; /* NULL: the client left */
	char *id, *pool;
	struct catalog_engine row; /* of that id; id NULL: there is none */
	struct strv running;       /* what runs, and whose it is, in turn */
	struct err err;
	struct strv pools;
	char *name, *text;
	uint64_t bytes;
};

static void asked_free(struct engines_look *l)
{
	struct asked *q = CONTAINER_OF(l, struct asked, l);
	free(q->id);
	free(q->pool);
	free(q->name);
	free(q->text);
	catalog_engine_done(&q->row);
	strv_done(&q->running);
	strv_done(&q->pools);
}

static void asked_gone(void *arg)
{
	((struct asked *)arg)->x = NULL;
}

static const struct http_handler asked_handler = { .on_gone = asked_gone };

static bool lies_in(const char *path, const char *folder)
{
	return path && path_lies_in(path, folder);
}

static bool is_of(const struct catalog_engine *e, const struct engine_kept *k)
{
	return k->mode == ENGINE_MODE_CONTAINER ? str_same(e->digest, k->name) : lies_in(e->folder, k->path);
}

static int find(struct asked *q, const struct engine_kepts *all, size_t *ret)
{
	if (!q->row.id)
		return engine_kepts_find(all, q->id, ret, &q->err);
	for (size_t i = 0; i < all->len; i++)
		if (is_of(&q->row, &all->items[i]) && !all->items[i].last) {
			*ret = i;
			return 0;
		}
	for (size_t i = 0; i < all->len; i++)
		if (is_of(&q->row, &all->items[i])) {
			*ret = i;
			return 0;
		}
	return -ENOENT;
}

static int refuse(struct asked *q, int code, const char *text)
{
	return err_set(&q->err, code, "%s", text);
}

/* ---- whose it is -----------------------------------------------------------------------------------------
 */

static void work_pools(struct engines_look *l)
{
	struct asked *q = CONTAINER_OF(l, struct asked, l);
	struct engine_kepts all;
	size_t at = 0;
	bool every = strcmp(q->id, "all") == 0;
	engine_kepts_read(l->prefix, &all);
	int r = every ? 0 : find(q, &all, &at);
	if (r == -ENOENT && q->row.id)
		refuse(q, -EBUSY,
			"that engine is none that Corral got, or is not there any more: `corral engines ls` "
			"lists "
			"those it got");
	for (size_t i = 0; !r && i < l->t.len; i++)
		if (every || engine_kept_taken(&all.items[at], &l->t.items[i]))
			strv_add(&q->pools, l->t.items[i].id);
	engine_kepts_done(&all);
}

/* ---- removing --------------------------------------------------------------------------------------------
 */

static int check_running(struct asked *q, const struct engine_kept *k)
{
	for (size_t i = 0; i + 1 < q->running.len; i += 2) {
		const char *what = q->running.items[i];
		if (k->mode == ENGINE_MODE_CONTAINER ? strcmp(what, k->name) == 0 : lies_in(what, k->path))
			return err_set(&q->err, -EBUSY,
				"an engine of pool %s runs from %s: `corral reload %s` first",
				q->running.items[i + 1], k->name, q->running.items[i + 1]);
	}
	return 0;
}

static void work_drop(struct engines_look *l)
{
	struct asked *q = CONTAINER_OF(l, struct asked, l);
	struct engine_kepts all;
	size_t at = 0;
	engine_kepts_read(l->prefix, &all);
	int r = find(q, &all, &at);
	if (r == -ENOENT && q->row.id && q->row.folder && file_exists(q->row.folder))
		err_set(&q->err, -EBUSY,
			"%s was not got by Corral: it lies in %s, and who put it there removes it", q->id,
			q->row.folder);
	if (!r && (r = engine_kept_free(&all.items[at], &l->t, &q->err)) == 0)
		r = check_running(q, &all.items[at]);
	if (!r)
		r = engine_kept_remove(l->prefix, &all.items[at], &q->err);
	if (!r) {
		q->name = MEM_TAKE(all.items[at].name);
		q->text = MEM_TAKE(all.items[at].path);
		q->bytes = all.items[at].bytes;
	}
	engine_kepts_done(&all);
}

/* The catalog's rows that came out of it. */
static void forget_rows(struct node *n, const struct asked *q)
{
	struct catalog_engines all = { 0 };
	if (q->row.id)
		(void)catalog_engine_remove(n->opts.catalog, q->row.id);
	catalog_engines(n->opts.catalog, &all);
	for (size_t i = 0; q->name && i < all.len; i++)
		if (str_same(all.items[i].digest, q->name) || lies_in(all.items[i].folder, q->text))
			(void)catalog_engine_remove(n->opts.catalog, all.items[i].id);
	catalog_engines_done(&all);
}

/* ---- back ------------------------------------------------------------------------------------------------
 */

static void work_back(struct engines_look *l)
{
	struct asked *q = CONTAINER_OF(l, struct asked, l);
	struct engine_taker *t = engine_takers_find(&l->t, q->pool);
	if (!t) {
		err_set(&q->err, -ENOENT, "there is no pool %.80s", q->pool);
		return;
	}
	AUTO(strv_done) struct strv was = { 0 };
	for (size_t i = 0; i < l->t.len; i++)
		strv_add(&was, l->t.items[i].now.name ? l->t.items[i].now.name : "");
	if (engine_rollback(&t->def, &t->opts, &q->text, &q->err)) {
		q->err.code = -EBUSY; /* there is none: no mistake in the address */
		return;
	}
	engine_takers_look(&l->t);
	for (size_t i = 0; i < l->t.len; i++)
		if (strcmp(was.items[i], l->t.items[i].now.name ? l->t.items[i].now.name : "") != 0)
			strv_add(&q->pools, l->t.items[i].id);
}

/* ---- answers ---------------------------------------------------------------------------------------------
 */

static void add_pools(const struct asked *q, struct buf *b)
{
	(void)buf_adds(b, "\"pools\":[");
	for (size_t i = 0; i < q->pools.len; i++) {
		(void)buf_adds(b, i ? "," : "");
		(void)buf_add_json(b, view_str(q->pools.items[i]));
	}
	(void)buf_adds(b, "]}\n");
}

static bool answer_error(struct asked *q)
{
	if (!q->err.code)
		return false;
	int status = q->err.code == -ENOENT                            ? 404
		     : q->err.code == -EBUSY || q->err.code == -EEXIST ? 409
								       : 500;
	if (q->x)
		api_error(q->x, status, "%s", q->err.msg);
	return true;
}

static void over_pools(struct engines_look *l)
{
	struct asked *q = CONTAINER_OF(l, struct asked, l);
	AUTO(buf_done) struct buf b = BUF(SMALL_BODY_MAX);
	if (answer_error(q) || !q->x)
		return;
	(void)buf_addc(&b, '{');
	add_pools(q, &b);
	http_reply(q->x, 200, "application/json", NULL, buf_view(&b));
}

static void over_drop(struct engines_look *l)
{
	struct asked *q = CONTAINER_OF(l, struct asked, l);
	AUTO(buf_done) struct buf b = BUF(SMALL_BODY_MAX);
	if (answer_error(q))
		return;
	forget_rows(l->node, q);
	log_info("engine", q->id, "Engine %s was removed.", q->name ? q->name : q->id);
	if (!q->x)
		return;
	(void)buf_adds(&b, "{\"id\":");
	(void)buf_add_json(&b, view_str(q->id));
	(void)buf_adds(&b, ",\"removed\":");
	(void)(q->name ? buf_add_json(&b, view_str(q->name)) : buf_adds(&b, "null"));
	(void)buf_addf(&b, ",\"removed_bytes\":%llu}\n", (unsigned long long)q->bytes);
	http_reply(q->x, 200, "application/json", NULL, buf_view(&b));
}

static void over_back(struct engines_look *l)
{
	struct asked *q = CONTAINER_OF(l, struct asked, l);
	AUTO(buf_done) struct buf b = BUF(SMALL_BODY_MAX);
	if (answer_error(q))
		return;
	log_info("engine", q->pool, "Pool %s goes back to %s.", q->pool, q->text);
	if (!q->x)
		return;
	(void)buf_adds(&b, "{\"engine\":");
	(void)buf_add_json(&b, view_str(q->text));
	(void)buf_addc(&b, ',');
	add_pools(q, &b);
	http_reply(q->x, 200, "application/json", NULL, buf_view(&b));
}

/* ---- routes ----------------------------------------------------------------------------------------------
 */

/* The file that a process runs from; NULL: it is gone, or another user's. */
static char *program_of(const struct keeper_record *rec)
{
	char link[64], path[PATH_MAX];
	snprintf(link, sizeof link, "/proc/%d/exe", rec->engine_pid);
	ssize_t n = rec->engine_pid > 0 ? readlink(link, path, sizeof path) : -1;
	if (n <= 0 || (size_t)n >= sizeof path)
		return NULL;
	path[n] = '\0';
	return mem_strdup(path);
}

/* What engines run from now, whatever the pools' engine is meanwhile. */
static void add_running(struct node *n, struct strv *ret)
{
	struct map_entry *e;
	for (size_t i = 0; (e = map_next(&n->replicas, &i));) {
		const struct replica *r = e->value;
		const struct engine_build *b = r->pool && r->pool->have_build ? &r->pool->build : NULL;
		const char *what = b && b->image        ? b->image
				   : r->launch.argv.len ? r->launch.argv.items[0]
				   : b                  ? b->program
							: NULL;
		if (!r->keeper)
			continue;
		/* Of one that was taken over the words are not known; the kernel knows its program. */
		AUTO(mem_freep) char *exe = r->launch.argv.len ? NULL : program_of(keeper_record(r->keeper));
		const char *both[] = { what, exe };
		for (size_t k = 0; k < ARRAY_LEN(both); k++) {
			if (!both[k])
				continue;
			strv_add(ret, both[k]);
			strv_add(ret, r->pool_id);
		}
	}
}

static void ask(struct node *n, struct http_exchange *x, const char *id, const char *pool,
	void (*work)(struct engines_look *l), void (*over)(struct engines_look *l))
{
	struct asked *q = engines_look_new(n, sizeof *q);
	q->l.work = work;
	q->l.over = over;
	q->l.free = asked_free;
	q->x = x;
	q->id = mem_strdup(id);
	q->pool = mem_strdup(pool);
	if (id && catalog_engine_find(n->opts.catalog, id, &q->row))
		q->row = (struct catalog_engine){ 0 };
	if (work == work_drop)
		add_running(n, &q->running);
	http_handle(x, &asked_handler, q);
	engines_look_start(&q->l);
}

static void post_rollback(struct call *c)
{
	yyjson_doc *d = c->body.len ? yyjson_read(c->body.data, c->body.len, 0) : NULL;
	const char *pool = yyjson_get_str(yyjson_obj_get(yyjson_doc_get_root(d), "pool"));
	if (pool)
		ask(c->node, c->x, NULL, pool, work_back, over_back);
	else
		api_error(c->x, 400, "the body must be {\"pool\": \"ID\"}");
	yyjson_doc_free(d);
}

bool engines_route(struct node *n, struct http_exchange *x, struct view path, enum http_method m)
{
	struct view prefix = VIEW(PREFIX), verb;
	if (!view_starts(path, prefix))
		return false;
	struct view id = view_split(view_from(path, prefix.n), '/', &verb);
	AUTO(buf_done) struct buf name = BUF(1024);
	if (http_unescape(id, &name) || !name.len)
		return false;
	if (!verb.p && m == HTTP_M_POST && view_eqs(id, "rollback"))
		api_with_body(n, x, VIEW(""), SMALL_BODY_MAX, post_rollback);
	else if (!verb.p && m == HTTP_M_POST && view_eqs(id, "upgrade"))
		api_with_body(n, x, VIEW(""), SMALL_BODY_MAX, engines_upgrade_pool);
	else if (!verb.p && m == HTTP_M_DELETE)
		ask(n, x, buf_str(&name), NULL, work_drop, over_drop);
	else if (view_eqs(verb, "pools") && m == HTTP_M_GET)
		ask(n, x, buf_str(&name), NULL, work_pools, over_pools);
	else
		return false;
	return true;
}
