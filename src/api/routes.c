/* SPDX-License-Identifier: Apache-2.0
 *
 * The route table, and the small routes.
 */
#include <stdio.h>
#include <stdlib.h>
#include <yyjson.h>

#include "api/api_int.h"
#include "base/mem.h"
#include "base/num.h"
#include "log/log.h"

struct api_route {
	enum http_method method;
	const char *path; /* one "*" stands for one segment without a slash, or the rest at the end */
	enum auth_scope scope;
	route_fn *fn;
};

static const struct api_route routes[] = {
	{ HTTP_M_GET, "/", AUTH_INFERENCE, route_root },
	{ HTTP_M_GET, "/v1/models", AUTH_INFERENCE, route_models },
	{ HTTP_M_GET, "/models", AUTH_INFERENCE, route_models },
	{ HTTP_M_GET, "/v1/models/*", AUTH_INFERENCE, route_model },
	{ HTTP_M_GET, "/v1/pools", AUTH_CONTROL, route_pools },
	{ HTTP_M_GET, "/v1/pools/*", AUTH_CONTROL, route_pool },
	{ HTTP_M_GET, "/v1/pools/*/health", AUTH_CONTROL, route_pool_health },
	{ HTTP_M_GET, "/v1/pools/*/logs", AUTH_CONTROL, route_pool_logs },
	{ HTTP_M_POST, "/v1/pools/*/start", AUTH_CONTROL, route_pool_start },
	{ HTTP_M_POST, "/v1/pools/*/stop", AUTH_CONTROL, route_pool_stop },
	{ HTTP_M_POST, "/v1/pools/*/restart", AUTH_CONTROL, route_pool_restart },
	{ HTTP_M_POST, "/v1/pools/*/drain", AUTH_CONTROL, route_pool_drain },
	{ HTTP_M_POST, "/v1/pools/*/undrain", AUTH_CONTROL, route_pool_undrain },
	{ HTTP_M_POST, "/v1/pools/*/disable", AUTH_CONTROL, route_pool_disable },
	{ HTTP_M_POST, "/v1/pools/*/enable", AUTH_CONTROL, route_pool_enable },
	{ HTTP_M_POST, "/v1/pools/*/reload", AUTH_CONTROL, route_pool_reload },
	{ HTTP_M_GET, "/v1/nodes", AUTH_CONTROL, route_nodes },
	{ HTTP_M_GET, "/v1/requests", AUTH_CONTROL, route_requests },
	{ HTTP_M_GET, "/v1/requests/*", AUTH_CONTROL, route_requests },
	{ HTTP_M_DELETE, "/v1/requests/*", AUTH_CONTROL, route_requests },
	{ HTTP_M_GET, "/v1/devices", AUTH_CONTROL, route_devices },
	{ HTTP_M_POST, "/v1/plan", AUTH_CONTROL, route_plan },
	{ HTTP_M_GET, "/v1/explain", AUTH_CONTROL, route_explain },
	{ HTTP_M_POST, "/v1/config/reload", AUTH_CONTROL, route_config_reload },
	{ HTTP_M_GET, "/v1/keys", AUTH_ADMIN, route_keys },
	{ HTTP_M_POST, "/v1/keys", AUTH_ADMIN, route_keys },
	{ HTTP_M_DELETE, "/v1/keys/*", AUTH_ADMIN, route_keys },
	{ HTTP_M_GET, "/v1/catalog/models", AUTH_CONTROL, route_catalog },
	{ HTTP_M_GET, "/v1/catalog/models/*", AUTH_CONTROL, route_catalog_model },
	{ HTTP_M_DELETE, "/v1/catalog/models/*", AUTH_ADMIN, route_catalog_model },
	{ HTTP_M_POST, "/v1/catalog/models/*/verify", AUTH_CONTROL, route_catalog_verify },
	{ HTTP_M_POST, "/v1/catalog/models/*/state", AUTH_CONTROL, route_catalog_state },
	{ HTTP_M_POST, "/v1/catalog/pull", AUTH_ADMIN, route_catalog_pull },
	{ HTTP_M_GET, "/v1/catalog/gc", AUTH_CONTROL, route_catalog_gc },
	{ HTTP_M_GET, "/v1/engines", AUTH_CONTROL, route_engines },
	{ HTTP_M_POST, "/v1/engines/provision", AUTH_ADMIN, route_engines_provision },
	{ HTTP_M_DELETE, "/v1/engines/*", AUTH_ADMIN, route_engine },
	{ HTTP_M_POST, "/v1/engines/*/upgrade", AUTH_ADMIN, route_engines_upgrade },
	{ HTTP_M_POST, "/v1/engines/*/rollback", AUTH_ADMIN, route_engines_rollback },
	{ HTTP_M_GET, "/v1/events", AUTH_CONTROL, route_events },
	{ HTTP_M_GET, "/v1/version", AUTH_INFERENCE, route_version },
	{ HTTP_M_GET, "/props", AUTH_INFERENCE, route_props },
	{ HTTP_M_GET, "/metrics", AUTH_OPEN, route_metrics },
	{ HTTP_M_GET, "/healthz", AUTH_OPEN, route_healthz },
	{ HTTP_M_GET, "/readyz", AUTH_OPEN, route_readyz },
};

/* Matches path against a pattern; *ret_id gets the segment that * stands for. A model's id may hold slashes
 * only where * ends the pattern. */
static bool matches(const char *pattern, struct view path, struct view *ret_id)
{
	struct view p = view_str(pattern);
	size_t star = view_find(p, '*');
	if (star == p.n)
		return view_eq(p, path);
	struct view before = view_cut(p, star), after = view_from(p, star + 1);
	if (!view_starts(path, before) || !view_ends(path, after) || path.n <= before.n + after.n)
		return false;
	struct view id = view_of(path.p + before.n, path.n - before.n - after.n);
	if ((after.n || !view_eqs(before, "/v1/models/")) && view_find(id, '/') != id.n)
		return false;
	*ret_id = id;
	return true;
}

static bool method_fits(enum http_method want, enum http_method got)
{
	return want == got || (want == HTTP_M_GET && got == HTTP_M_HEAD);
}

static void wrong_method(struct api_call *c, const char *allow)
{
	AUTO(buf_done) struct buf body = BUF(16 * KIB);
	AUTO(buf_done) struct buf head = BUF(1 * KIB);
	char text[128];
	int n = snprintf(text, sizeof text, "This route takes %s.", allow);
	struct api_error e = { .code = CODE_INVALID_PARAMS,
		.status = 405,
		.retriable = 0,
		.message = view_of(text, (size_t)n),
		.request_id = view_str(c->request_id) };
	(void)api_error_body(dialect_of_path(view_str(c->path)), &e, &body);
	(void)http_header_add(&head, "Allow", view_str(allow));
	api_reply(c, 405, "application/json", &head, buf_view(&body));
}

static const char *method_name(enum http_method m)
{
	switch (m) {
	case HTTP_M_GET: return "GET";
	case HTTP_M_PUT: return "PUT";
	case HTTP_M_DELETE: return "DELETE";
	default: return "POST";
	}
}

static const char *allowed_name(enum http_method m)
{
	switch (m) {
	case HTTP_M_GET: return "GET, HEAD";
	case HTTP_M_PUT: return "PUT";
	case HTTP_M_DELETE: return "DELETE";
	default: return "POST";
	}
}

/* A route that forgot to say is the administrator's. */
static enum auth_scope declared(const struct api_route *r)
{
	return r->scope == AUTH_UNSET ? AUTH_ADMIN : r->scope;
}

enum auth_scope api_engine_scope(const struct route *r)
{
	bool control = r->kind == ROUTE_UPSTREAM || r->kind == ROUTE_SLOTS || r->kind == ROUTE_SLOT ||
		       (r->kind == ROUTE_PROPS && !r->get);
	return control ? AUTH_CONTROL : AUTH_INFERENCE;
}

enum auth_scope api_scope(struct view method, struct view path)
{
	struct route engine;
	const char *allow;
	if (dialect_route(method, path, &engine, &allow) == ROUTE_FOUND)
		return api_engine_scope(&engine);
	for (size_t i = 0; i < ARRAY_LEN(routes); i++) {
		struct view id;
		bool get = routes[i].method == HTTP_M_GET && view_eqs(method, "HEAD");
		if ((get || view_eqs(method, method_name(routes[i].method))) &&
			matches(routes[i].path, path, &id))
			return declared(&routes[i]);
	}
	return AUTH_UNSET;
}

bool api_route_at(size_t i, struct api_route_info *ret)
{
	if (i >= ARRAY_LEN(routes))
		return false;
	*ret = (struct api_route_info){ method_name(routes[i].method), routes[i].path, routes[i].scope };
	return true;
}

/* Who had what done: every request that is no mere question. */
static void audit(const struct api_call *c, const struct api_route *r)
{
	if (r->method != HTTP_M_GET)
		log_event(LOG_INFO, "audit", c->path,
			(struct log_field[]){ LOG_STR("correlation_id", c->request_id), LOG_STR("by", c->by),
				LOG_STR("key_name", c->key ? c->key->name : NULL),
				LOG_STR("method", method_name(r->method)), LOG_END },
			"%s asks for %s %s.", c->by, method_name(r->method), c->path);
}

void api_dispatch(struct api_call *c)
{
	struct view path = view_str(c->path);
	AUTO(buf_done) struct buf allow = BUF(256);
	for (size_t i = 0; i < ARRAY_LEN(routes); i++) {
		struct view raw = { 0 };
		if (!matches(routes[i].path, path, &raw))
			continue;
		if (!method_fits(routes[i].method, c->method)) {
			(void)buf_addf(&allow, "%s%s", allow.len ? ", " : "", allowed_name(routes[i].method));
			continue;
		}
		if (routes[i].method != HTTP_M_GET && !c->is_json) {
			api_failf(c, CODE_INVALID_PARAMS, 415,
				"Add the header Content-Type: application/json.",
				"This route takes application/json only.");
			return;
		}
		AUTO(buf_done) struct buf id = BUF(1 * KIB);
		if (http_unescape(raw, &id) < 0) {
			api_failf(c, CODE_INVALID_PARAMS, 400, "", "The path holds a broken escape.");
			return;
		}
		struct route_args args = { .id = buf_view(&id) };
		audit(c, &routes[i]);
		routes[i].fn(c->api, c, &args);
		return;
	}
	if (allow.len)
		wrong_method(c, buf_str(&allow));
	else
		api_failf(c, CODE_MODEL_NOT_FOUND, 404,
			"GET /v1/models lists what can be asked; docs/reference has every route.",
			"There is no route %s.", c->path);
}

bool api_may_use(struct api *a, const struct api_call *c, const struct control_pool *p)
{
	const struct strv *l = c->key ? &c->key->models : NULL;
	for (size_t i = 0; l && i < l->len; i++)
		if (control_pool_find(a->o.control, view_str(l->items[i])) == p)
			return true;
	return !l || !l->len;
}

struct control_pool *find_pool_or_fail(struct api *a, struct api_call *c, struct view id)
{
	struct control_pool *p = control_pool_find(a->o.control, id);
	if (p && api_may_use(a, c, p))
		return p;
	if (p) {
		api_failf(c, CODE_FORBIDDEN, 0, "GET /v1/models lists what it may use.",
			"The key %s may not use \"%.*s\".", c->key->name, VIEW_ARG(view_cut(id, 100)));
		return NULL;
	}
	const char *ids[256];
	size_t n = 0;
	struct control_pool *each;
	for (size_t i = 0; n < ARRAY_LEN(ids) && (each = control_pool_at(a->o.control, i)); i++)
		if (api_may_use(a, c, each))
			ids[n++] = control_pool_config(each)->id;
	AUTO(buf_done) struct buf near = BUF(1 * KIB);
	dialect_nearest(id, ids, n, &near);
	char hint[512];
	snprintf(hint, sizeof hint,
		near.len ? "Did you mean %s?" : "`corral pools` lists the pools there are.%s",
		buf_str(&near));
	api_failf(c, CODE_MODEL_NOT_FOUND, 404, hint, "There is no pool \"%.*s\".",
		VIEW_ARG(view_cut(id, 100)));
	return NULL;
}

bool read_deadline(struct api_call *c, int64_t def, int64_t *ret_ms)
{
	*ret_ms = def;
	char q[32];
	uint64_t ms = 0;
	bool bad = false;
	if (c->query && http_query_get(view_str(c->query), "deadline_ms", q, sizeof q)) {
		bad = num_u64(view_str(q), &ms) < 0;
		*ret_ms = (int64_t)ms;
	}
	if (c->body.len) {
		yyjson_doc *d = yyjson_read(c->body.data, c->body.len, 0);
		yyjson_val *root = yyjson_doc_get_root(d), *v = yyjson_obj_get(root, "deadline_ms");
		if (!yyjson_is_obj(root) || (v && !yyjson_is_uint(v)))
			bad = true;
		else if (v)
			*ret_ms = (int64_t)MIN(yyjson_get_uint(v), (uint64_t)INT64_MAX);
		yyjson_doc_free(d);
	}
	if (bad || *ret_ms > 24 * 3600 * 1000)
		api_failf(c, CODE_INVALID_PARAMS, 400, "",
			"deadline_ms is a whole number of milliseconds, at most a day (86400000).");
	return !bad && *ret_ms <= 24 * 3600 * 1000;
}

bool refuse_when_draining(struct api *a, struct api_call *c)
{
	if (!a->o.is_draining(a->o.arg))
		return false;
	api_failf(c, CODE_POOL_UNAVAILABLE, 0, "", "The server is going down.");
	return true;
}

struct loop *api_loop(const struct api *a)
{
	return a->o.loop;
}

struct api *api_new(const struct api_opts *o)
{
	struct api *a = NEW(struct api);
	a->o = *o;
	a->started_s = wall_ms() / 1000;
	list_init(&a->subscribers);
	list_init(&a->relays);
	list_init(&a->fetched);
	events_init(a);
	return a;
}

void api_drain(struct api *a)
{
	event_streams_done(a);
	relays_done(a);
	fetched_done(a);
	engines_round_done(a);
}

void api_free(struct api *a)
{
	if (!a)
		return;
	events_done(a);
	relays_done(a);
	fetched_done(a);
	engines_round_done(a);
	http_target_free(a->node);
	free(a->node_address);
	free(a);
}

/* ---- small routes
 * ------------------------------------------------------------------------------------------ */

void route_root(struct api *a, struct api_call *c, const struct route_args *args)
{
	(void)a;
	(void)args;
	api_reply(c, 200, "text/plain; charset=utf-8", NULL,
		VIEW("Corral " CORRAL_VERSION " is running.\n\n"
		     "GET  /v1/models              what can be asked\n"
		     "POST /v1/chat/completions    ask\n"
		     "GET  /v1/pools               what runs, and why not\n"
		     "GET  /metrics                figures for Prometheus\n"));
}

void route_healthz(struct api *a, struct api_call *c, const struct route_args *args)
{
	(void)a;
	(void)args;
	api_reply_json(c, 200, VIEW("{\"status\":\"ok\"}"));
}

/* Pools with `preload` that have not been ready yet, nor failed. */
static void add_preloading(struct api *a, struct buf *b)
{
	struct control_pool *p;
	for (size_t i = 0; (p = control_pool_at(a->o.control, i)); i++) {
		if (!control_pool_preloading(a->o.control, p))
			continue;
		(void)buf_adds(b, b->len ? "," : "");
		(void)buf_add_json(b, view_str(control_pool_config(p)->id));
	}
}

void route_readyz(struct api *a, struct api_call *c, const struct route_args *args)
{
	(void)args;
	struct registry_status st;
	registry_status(a->o.registry, &st);
	bool node = control_node_address(a->o.control) != NULL, draining = a->o.is_draining(a->o.arg);
	AUTO(buf_done) struct buf preloading = BUF(256 * KIB);
	add_preloading(a, &preloading);
	bool ready = node && !draining && !preloading.len;
	AUTO(buf_done) struct buf b = BUF(300 * KIB);
	(void)buf_addf(&b, "{\"status\":\"%s\",\"node\":%s,\"draining\":%s,\"store\":\"%s\"",
		ready ? "ready" : "not ready", node ? "true" : "false", draining ? "true" : "false",
		!st.persistent   ? "memory"
		: st.memory_only ? "memory only: it cannot write"
				 : "ok");
	if (st.problem[0]) {
		(void)buf_adds(&b, ",\"store_problem\":");
		(void)buf_add_json(&b, view_str(st.problem));
	}
	const char *spool = a->o.spool_problem ? a->o.spool_problem(a->o.arg) : NULL;
	(void)buf_adds(&b, spool ? ",\"spool\":\"full\",\"spool_problem\":" : ",\"spool\":\"ok\"");
	if (spool)
		(void)buf_add_json(&b, view_str(spool));
	if (preloading.len)
		(void)buf_addf(&b, ",\"preloading\":[%s]", buf_str(&preloading));
	(void)buf_addc(&b, '}');
	api_reply_json(c, ready ? 200 : 503, buf_view(&b));
}

void route_version(struct api *a, struct api_call *c, const struct route_args *args)
{
	(void)a;
	(void)args;
	api_reply_json(c, 200, VIEW("{\"version\":\"" CORRAL_VERSION "\",\"api_version\":\"1\"}"));
}

void route_metrics(struct api *a, struct api_call *c, const struct route_args *args)
{
	(void)args;
	AUTO(buf_done) struct buf b = BUF(32 * MIB);
	if (metrics_expose(a->o.metrics, &b) < 0) {
		api_failf(c, CODE_INTERNAL, 0, "", "The page of metrics is larger than 32 MiB.");
		return;
	}
	api_reply(c, 200, "text/plain; version=0.0.4; charset=utf-8", NULL, buf_view(&b));
}

void route_requests(struct api *a, struct api_call *c, const struct route_args *args)
{
	a->o.requests(a->o.arg, c, args->id);
}

void route_keys(struct api *a, struct api_call *c, const struct route_args *args)
{
	a->o.keys(a->o.arg, c, args->id);
}
