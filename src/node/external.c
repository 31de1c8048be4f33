/* SPDX-License-Identifier: Apache-2.0
 *
 * Servers that are not ours: no keeper, no start, no stop. They are asked every 5 s; three silences take
 * one out, an answer brings it back. What it serves is read each time it comes.
 */
#include <stdlib.h>
#include <yyjson.h>

#include "base/mem.h"
#include "base/num.h"
#include "log/log.h"
#include "node/node_int.h"
#include "provision/engine/table.h"

enum { MODELS_MAX = 4096, ASK_MS = 5000 };

/* Where requests go: people write the base URL with or without /v1. */
static char *base_url(const char *url)
{
	struct view v = view_str(url);
	while (v.n && v.p[v.n - 1] == '/')
		v.n--;
	if (view_ends(v, VIEW("/v1")))
		v.n -= 3;
	return mem_viewdup(v);
}

/* "<pool>-<n>" uses the n-th URL, and after the last one begins again: the number of a replica that replaces
 * another is any that is free. */
static const char *url_of(const struct replica *r)
{
	const struct strv *urls = &r->pool->conf.engine.urls;
	const char *dash = strrchr(r->id, '-');
	uint64_t i;
	if (!dash || num_u64(view_str(dash + 1), &i) || !urls->len)
		return NULL;
	return urls->items[i % urls->len];
}

static void bad(struct replica *r, const char *text)
{
	replica_error(r, CAUSE_BAD_ARGS, "correct `engine.url` or `engine.urls` of the pool", "%s", text);
	replica_fail(r);
}

void external_begin(struct replica *r)
{
	const struct engine_def *def = &r->pool->conf.engine;
	const struct engine_row *row = engine_row(def->kind);
	const char *url = url_of(r);
	if (!url) {
		AUTO(mem_freep)
		char *text = mem_fmt(
			"pool %s names %zu servers and none for %s", r->pool_id, def->urls.len, r->id);
		bad(r, text);
		return;
	}
	engine_launch_done(&r->launch);
	free(MEM_TAKE(r->key));
	free(MEM_TAKE(r->key_file));
	r->launch = (struct engine_launch){
		.address = base_url(url),
		.health_path = mem_strdup(def->health ? def->health
					  : row       ? row->health
						      : "/health"),
		.has_slots = def->kind == ENGINE_LLAMACPP,
	};
	struct err e = { 0 };
	struct http_target_opts o = { .idle_max = 1, .idle_ms = 1000, .connect_timeout_ms = ASK_MS };
	r->target = http_target_new(r->node->loop, r->launch.address, &o, &e);
	if (!r->target) {
		bad(r, e.msg);
		return;
	}
	r->slots = r->want.slots ? r->want.slots : r->pool->conf.slots;
	r->ctx = r->want.ctx ? r->want.ctx : r->pool->conf.ctx;
	r->generation =
		MAX(r->generation + 1, (uint64_t)(wall_ms() / 1000)); /* no record remembers the last one */
	r->external = true;
	r->started_at_ms = wall_ms();
	replica_set(r, REPLICA_STARTING);
	replica_progress(r, "engine_start", -1, "%s is asked whether it is there", r->launch.address);
	replica_watch(r);
}

static void doc_free(yyjson_doc **d)
{
	yyjson_doc_free(*d);
}

static void take_models(struct replica *r, yyjson_val *root)
{
	yyjson_val *data = yyjson_obj_get(root, "data"), *m;
	size_t i, max, n = 0;
	for (char **old = r->remote_models; old && *old; old++)
		free(*old);
	free(r->remote_models);
	r->remote_models = mem_alloc((MIN(yyjson_arr_size(data), (size_t)MODELS_MAX) + 1) * sizeof(char *));
	yyjson_arr_foreach(data, i, max, m)
	{
		const char *id = yyjson_get_str(yyjson_obj_get(m, "id"));
		if (id && n < MODELS_MAX && strlen(id) < 1024)
			r->remote_models[n++] = mem_strdup(id);
	}
}

static void on_props(void *arg, int status, struct view body, const struct err *e)
{
	(void)e;
	struct replica *r = arg;
	r->asking = NULL;
	AUTO(doc_free) yyjson_doc *d = status == 200 ? yyjson_read(body.p, body.n, 0) : NULL;
	yyjson_val *root = yyjson_doc_get_root(d);
	uint64_t slots = yyjson_get_uint(yyjson_obj_get(root, "total_slots"));
	uint64_t ctx =
		yyjson_get_uint(yyjson_obj_get(yyjson_obj_get(root, "default_generation_settings"), "n_ctx"));
	if (slots > 0 && slots <= 65536)
		r->slots = (uint32_t)slots;
	if (ctx > 0 && ctx <= UINT32_MAX)
		r->ctx = (uint32_t)ctx;
	replica_ready(r);
}

static void on_models(void *arg, int status, struct view body, const struct err *e)
{
	(void)e;
	struct replica *r = arg;
	r->asking = NULL;
	AUTO(doc_free) yyjson_doc *d = status == 200 ? yyjson_read(body.p, body.n, 0) : NULL;
	if (d)
		take_models(r, yyjson_doc_get_root(d));
	if (r->pool->conf.engine.kind != ENGINE_LLAMACPP) {
		replica_ready(r);
		return;
	}
	struct http_fetch_req q = { .method = "GET", .path = "/props", .timeout_ms = ASK_MS };
	r->asking = http_fetch(r->target, &q, on_props, r);
}

void external_discover(struct replica *r)
{
	struct http_fetch_req q = {
		.method = "GET", .path = "/v1/models", .timeout_ms = ASK_MS, .max_body = 4 * MIB
	};
	r->load_ms = MAX(probe_loading_ms(&r->probe), (int64_t)1); /* 0 would say: never healthy */
	http_fetch_cancel(&r->asking);
	r->ask = ASK_MODELS;
	r->asking = http_fetch(r->target, &q, on_models, r);
}
