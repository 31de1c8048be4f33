/* SPDX-License-Identifier: Apache-2.0
 *
 * What may be asked of a pool: start, stop, restart, drain, undrain, disable, enable, reload. What is to hold
 * over a restart of the daemon is on the disk before it is answered (`kept` says whether).
 */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <yyjson.h>

#include "api/api_int.h"
#include "base/fd.h"
#include "base/mem.h"
#include "base/stores.h"

enum { DEADLINE_MS = 30000 };

/* An answer that comes later; the client may leave before, and what was ordered goes on. */
struct waiting {
	struct api_call *call; /* NULL: the client left */
	struct api *api;
	char body[256]; /* of a 200 that waits for the disk */
};

static void client_left(void *arg)
{
	((struct waiting *)arg)->call = NULL;
}

static struct waiting *wait_for(struct api *a, struct api_call *c)
{
	struct waiting *w = NEW(struct waiting);
	w->call = c;
	w->api = a;
	if (c) {
		c->on_gone = client_left;
		c->arg = w;
	}
	return w;
}

static void on_kept(void *arg, bool kept)
{
	struct waiting *w = arg;
	if (w->call && w->body[0])
		api_reply_json(w->call, 200, view_str(w->body));
	else if (w->call)
		api_reply_json(w->call, 202,
			kept ? VIEW("{\"accepted\":true,\"kept\":true}")
			     : VIEW("{\"accepted\":true,\"kept\":false}"));
	free(w);
}

static void reply_when_kept(struct api *a, struct api_call *c)
{
	control_when_kept(a->o.control, on_kept, wait_for(a, c));
}

/* True after the call was answered with 409: a disabled pool stays down. */
static bool refuse_when_disabled(struct api *a, struct api_call *c, struct control_pool *p)
{
	char why[512], hint[POOL_ID_MAX + 64];
	if (!control_refuses(a->o.control, p, why, sizeof why))
		return false;
	snprintf(hint, sizeof hint, "`corral enable %s` takes it back.", control_pool_config(p)->id);
	api_failf(c, CODE_CONFLICT, 0, hint, "%s", why);
	return true;
}

void route_pool_start(struct api *a, struct api_call *c, const struct route_args *args)
{
	struct control_pool *p = find_pool_or_fail(a, c, args->id);
	if (!p || refuse_when_disabled(a, c, p))
		return;
	control_start(a->o.control, p, c->by);
	reply_when_kept(a, c);
}

void route_pool_stop(struct api *a, struct api_call *c, const struct route_args *args)
{
	int64_t ms;
	struct control_pool *p = find_pool_or_fail(a, c, args->id);
	if (!p || !read_deadline(c, DEADLINE_MS, &ms))
		return;
	control_stop(a->o.control, p, ms, c->by, NULL, NULL);
	api_reply_json(c, 202, VIEW("{\"accepted\":true}"));
}

void route_pool_restart(struct api *a, struct api_call *c, const struct route_args *args)
{
	int64_t ms;
	struct control_pool *p = find_pool_or_fail(a, c, args->id);
	if (!p || !read_deadline(c, DEADLINE_MS, &ms) || refuse_when_disabled(a, c, p))
		return;
	control_restart(a->o.control, p, ms, c->by);
	reply_when_kept(a, c);
}

void route_pool_undrain(struct api *a, struct api_call *c, const struct route_args *args)
{
	struct control_pool *p = find_pool_or_fail(a, c, args->id);
	if (!p)
		return;
	control_undrain(a->o.control, p, c->by);
	reply_when_kept(a, c);
}

void route_pool_disable(struct api *a, struct api_call *c, const struct route_args *args)
{
	int64_t ms;
	struct control_pool *p = find_pool_or_fail(a, c, args->id);
	if (!p || !read_deadline(c, DEADLINE_MS, &ms))
		return;
	control_disable(a->o.control, p, ms, c->by);
	reply_when_kept(a, c);
}

void route_pool_enable(struct api *a, struct api_call *c, const struct route_args *args)
{
	struct control_pool *p = find_pool_or_fail(a, c, args->id);
	if (!p)
		return;
	control_enable(a->o.control, p, c->by);
	reply_when_kept(a, c);
}

static void on_drained(void *arg, const struct control_done *d)
{
	struct waiting *w = arg;
	snprintf(w->body, sizeof w->body,
		"{\"force_stopped\":%s,\"duration_ms\":%lld,\"final_lease_count\":%u}",
		d->force_stopped ? "true" : "false", (long long)d->duration_ms, d->final_leases);
	control_when_kept(w->api->o.control, on_kept, w);
}

void route_pool_drain(struct api *a, struct api_call *c, const struct route_args *args)
{
	int64_t ms;
	struct control_pool *p = find_pool_or_fail(a, c, args->id);
	if (!p || !read_deadline(c, DEADLINE_MS, &ms) || refuse_when_draining(a, c))
		return;
	control_drain(a->o.control, p, ms, c->by, on_drained, wait_for(a, c));
}

/* ---- reload ----------------------------------------------------------------------------------------------
 */

/* In it, or it itself. */
static bool lies_in(const char *path, const char *folder)
{
	char real[PATH_MAX];
	if (!folder || !realpath(folder, real))
		return false;
	return path_lies_in(path, real);
}

static bool lies_in_one_of(const char *path, const struct strv *folders)
{
	for (size_t i = 0; i < folders->len; i++)
		if (lies_in(path, folders->items[i]))
			return true;
	return false;
}

static bool lies_in_a_store(const char *path, const char *models_dir)
{
	AUTO(stores_roots_done) struct stores_roots r;
	stores_roots_default(&r, NULL, models_dir);
	return lies_in_one_of(path, &r.loose) || lies_in_one_of(path, &r.hub) ||
	       lies_in_one_of(path, &r.llamacpp) || lies_in_one_of(path, &r.ollama) ||
	       lies_in_one_of(path, &r.lmstudio);
}

/* Whether `real` is the file that this pool is configured with. */
static bool is_file_of(const struct config *cfg, const struct config_pool *pc, const char *real)
{
	char own[PATH_MAX];
	if (!pc->model)
		return false;
	AUTO(mem_freep) char *path = path_join(cfg->models_dir, pc->model);
	return realpath(path, own) && strcmp(own, real) == 0;
}

static bool is_configured(struct api *a, const struct config *cfg, const char *real)
{
	struct control_pool *p;
	for (size_t i = 0; (p = control_pool_at(a->o.control, i)); i++)
		if (is_file_of(cfg, control_pool_config(p), real))
			return true;
	return false;
}

static void refuse_file(struct api_call *c, const char *path, const char *models_dir)
{
	char hint[PATH_MAX + 128];
	snprintf(hint, sizeof hint,
		"Put it into %s, or set `model` of the pool and run `corral config reload`.", models_dir);
	api_failf(c, CODE_FORBIDDEN, 0, hint,
		"%.1000s lies outside models_dir and the stores of models, so the API may not choose it.",
		path);
}

/* The file that `model` names, as an engine is given it: its folder resolved, its own name kept (the parts of
 * a split model are found by it). NULL after the call was answered. */
static char *find_file(struct api *a, struct api_call *c, struct control_pool *p, const char *model)
{
	const struct config *cfg = control_config(a->o.control);
	AUTO(mem_freep) char *path = path_join(cfg->models_dir, model);
	char real[PATH_MAX], folder[PATH_MAX];
	struct stat st;
	if (!realpath(path, real) || stat(real, &st) < 0 || !S_ISREG(st.st_mode)) {
		api_failf(c, CODE_INVALID_PARAMS, 400,
			"`model` is a GGUF file: absolute, or relative to models_dir.",
			"There is no model file %.1000s.", path);
		return NULL;
	}
	if (is_file_of(cfg, control_pool_config(p), real))
		return mem_strdup(control_pool_config(p)->model); /* the configured one again */
	if (is_configured(a, cfg, real))
		return mem_strdup(real);
	char *slash = strrchr(path, '/');
	const char *name = slash + 1;
	AUTO(mem_freep) char *dir = mem_viewdup(view_of(path, (size_t)(slash - path) + 1));
	if (!lies_in_a_store(real, cfg->models_dir) || !realpath(dir, folder) ||
		!lies_in_a_store(folder, cfg->models_dir)) {
		refuse_file(c, path, cfg->models_dir);
		return NULL;
	}
	return path_join(folder, name);
}

static void on_reloaded(void *arg, const struct control_reload_done *d);

/* c NULL: nobody waits for it. */
static void reload_with(
	struct api *a, struct api_call *c, struct control_pool *p, const char *model, const char *by)
{
	struct err e = { 0 };
	struct waiting *w = wait_for(a, c);
	if (control_reload(a->o.control, p, model, by, on_reloaded, w, &e) == 0)
		return;
	free(w);
	if (!c)
		return;
	c->on_gone = NULL;
	api_failf(c, CODE_CONFLICT, 0, "", "%s.", e.msg);
}

static void on_fetched(struct api *a, struct api_call *c, const char *pool, const char *path, const char *by)
{
	struct control_pool *p = control_pool_find(a->o.control, view_str(pool));
	char why[512];
	/* It may have been disabled meanwhile. */
	if (p && (c ? refuse_when_disabled(a, c, p) : control_refuses(a->o.control, p, why, sizeof why)))
		return;
	if (p)
		reload_with(a, c, p, path, by);
	else if (c)
		api_failf(c, CODE_CONFLICT, 0, "", "Pool %s is not configured any more.", pool);
}

/* A model that has to be looked for, and may have to be fetched. The configured one is the pool's own, which
 * its engines look for themselves. */
static int take_reference(
	struct api *a, struct api_call *c, struct control_pool *p, const char *name, char **ret)
{
	const struct config_pool *pc = control_pool_config(p);
	if (pc->model && strcmp(name, pc->model) != 0 && pc->engine.mode != CONFIG_MODE_EXTERNAL) {
		api_fetch(a, c, pc->id, name, on_fetched);
		return -EINPROGRESS;
	}
	*ret = mem_strdup(name);
	return 0;
}

/* 0 with *ret the file (NULL: none was named), or the call was answered, or will be. */
static int read_reload(struct api *a, struct api_call *c, struct control_pool *p, char **ret)
{
	*ret = NULL;
	if (!c->body.len)
		return 0;
	yyjson_doc *d = yyjson_read(c->body.data, c->body.len, 0);
	yyjson_val *root = yyjson_doc_get_root(d), *model = yyjson_obj_get(root, "model");
	const char *name = yyjson_get_str(model);
	int r = -EINVAL;
	if (!yyjson_is_obj(root) || (model && !name))
		api_failf(c, CODE_INVALID_PARAMS, 400, "",
			"The body is {\"model\": \"FILE or REFERENCE\"} or {}.");
	else if (yyjson_obj_get(root, "args") || yyjson_obj_get(root, "env") ||
		 yyjson_obj_get(root, "engine"))
		api_failf(c, CODE_FORBIDDEN, 0,
			"Set engine.args or engine.env of the pool there, and run `corral config reload`.",
			"An engine's arguments and environment are set in the configuration's file only.");
	else if (yyjson_obj_get(root, "engine_version"))
		api_failf(c, CODE_INVALID_PARAMS, 400, "Leave `engine_version` out.",
			"Choosing an engine's version comes with a later release.");
	else if (name && (!*name || strlen(name) != yyjson_get_len(model) || strlen(name) > PATH_MAX / 2))
		api_failf(c, CODE_INVALID_PARAMS, 400, "", "`model` is the path of a file.");
	else if (name && config_model_is_remote(control_config(a->o.control), name))
		r = take_reference(a, c, p, name, ret);
	else if (!name || (*ret = find_file(a, c, p, name)))
		r = 0;
	yyjson_doc_free(d);
	return r;
}

static void on_reloaded(void *arg, const struct control_reload_done *d)
{
	struct waiting *w = arg;
	if (d->ok) {
		snprintf(w->body, sizeof w->body, "{\"duration_ms\":%lld,\"swapped\":%s}",
			(long long)d->duration_ms, d->swapped ? "true" : "false");
		control_when_kept(w->api->o.control, on_kept, w);
		return;
	}
	struct view why = view_str(d->message);
	if (w->call)
		api_failf(w->call, CODE_CONFLICT, 0, d->hint ? d->hint : "",
			"The reload came to nothing: %.*s%s", VIEW_ARG(view_cut(why, 3000)),
			view_ends(why, VIEW(".")) ? "" : ".");
	free(w);
}

void route_pool_reload(struct api *a, struct api_call *c, const struct route_args *args)
{
	struct control_pool *p = find_pool_or_fail(a, c, args->id);
	if (!p || refuse_when_draining(a, c) || refuse_when_disabled(a, c, p))
		return;
	AUTO(mem_freep) char *model = NULL;
	if (read_reload(a, c, p, &model) == 0)
		reload_with(a, c, p, model, c->by);
}
