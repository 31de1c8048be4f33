/* SPDX-License-Identifier: Apache-2.0
 *
 * Data loops: each guards and routes what its connections ask, and hands a request to its proxy or to the
 * API. What the control loop tells them comes as posted work.
 */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "log/log.h"
#include "role/orchestratord/orch_int.h"

/* ---- one request
 * -------------------------------------------------------------------------------------------- */

static void on_refuse(void *arg, const struct http_refusal *r, struct buf *head, struct buf *body)
{
	(void)arg;
	static const struct http_headers none;
	char id[PROXY_REQUEST_ID_MAX + 1], text[256];
	enum dialect d = dialect_of_path(r->path);
	proxy_request_id(r->headers ? r->headers : &none, id);
	int n = snprintf(text, sizeof text, "This request is refused: %s.", r->reason);
	struct api_error e = { .code = CODE_INVALID_PARAMS,
		.status = r->status,
		.retriable = 0,
		.request_id = view_str(id),
		.message = view_of(text, MIN((size_t)n, sizeof text - 1)) };
	(void)api_error_body(d, &e, body);
	(void)api_error_headers(d, &e, head);
	api_request_id_headers(d, e.request_id, head);
}

static void wrong_method(struct http_exchange *x, const char *allow, const char *id)
{
	char text[128];
	int n = snprintf(text, sizeof text, "This route takes %s.", allow);
	struct api_error e = { .code = CODE_INVALID_PARAMS,
		.status = 405,
		.retriable = 0,
		.message = view_of(text, (size_t)n),
		.request_id = view_str(id) };
	(void)http_header_add(http_extra(x), "Allow", view_str(allow));
	proxy_reply_error(x, dialect_of_path(http_path(x)), &e);
}

/* The types a page may send anywhere without asking first (Fetch standard, CORS-safelisted); an engine route
 * takes JSON. No type at all is taken: browsers name one, or an Origin. multipart/form-data is one of them
 * and is taken where files are sent: a browser names the page's Origin with every such POST ("null" where it
 * hides it), and the guard has refused every Origin but our own before this is asked. */
static bool wrong_type(struct http_exchange *x, const struct route *route, const char *id)
{
	struct view rest,
		t = view_trim(view_split(http_header_get(http_headers(x), "content-type"), ';', &rest));
	if (http_method(x) != HTTP_M_POST || !t.n || route->kind == ROUTE_UPSTREAM)
		return false;
	if (view_eq_ci(t, VIEW("application/json")) ||
		(route->form && view_eq_ci(t, VIEW("multipart/form-data"))))
		return false;
	struct api_error e = { .code = CODE_INVALID_PARAMS,
		.status = 415,
		.retriable = 0,
		.request_id = view_str(id),
		.message = route->form ? VIEW("This route takes multipart/form-data or application/json.")
				       : VIEW("This route takes application/json only."),
		.hint = VIEW("Add the header Content-Type: application/json (curl: -H 'Content-Type: "
			     "application/json').") };
	proxy_reply_error(x, route->dialect, &e);
	return true;
}

static void on_request(void *arg, struct http_exchange *x)
{
	struct data_loop *d = arg;
	struct route route;
	struct auth_who who;
	const char *allow = NULL;
	char id[PROXY_REQUEST_ID_MAX + 1];
	proxy_request_id(http_headers(x), id);
	if (api_guard_answers(&d->guard, x, id))
		return;
	enum route_answer found = dialect_route(http_method_name(x), http_path(x), &route, &allow);
	if (gate_refuses(d, x, id,
		    found == ROUTE_FOUND ? api_engine_scope(&route)
					 : api_scope(http_method_name(x), http_path(x)),
		    &who))
		return;
	switch (found) {
	case ROUTE_FOUND:
		if (!wrong_type(x, &route, id) && !gate_limits(d, x, id, who.key))
			proxy_start(d->proxy, x, &route, id, who.key);
		return;
	case ROUTE_WRONG_METHOD: wrong_method(x, allow, id); return;
	case ROUTE_UNKNOWN: break;
	}
	api_start(d->orch->api, x, id, who.key);
}

/* Ids of models that the key may use, into out[max]; how many. */
static size_t usable(const struct data_loop *d, const struct auth_key *key, const char **out, size_t max)
{
	size_t n = 0;
	for (size_t i = 0; i < d->models->n && n < max; i++)
		if (gate_may_use(d->models, key, d->models->pools[i]))
			out[n++] = d->models->ids[i];
	return n;
}

enum { IDS_TOLD = 256 };

static void no_such_model(
	struct data_loop *d, struct view model, const struct auth_key *key, struct api_error *e)
{
	AUTO(buf_done) struct buf near = BUF(400);
	const char *ids[IDS_TOLD];
	size_t n = usable(d, key, ids, IDS_TOLD);
	dialect_nearest(model, ids, n, &near);
	snprintf(d->text, sizeof d->text, "The model \"%.*s\" is not served here%s%s%s",
		VIEW_ARG(view_cut(model, 200)), near.len ? "; did you mean " : ".", buf_str(&near),
		near.len ? "?" : "");
	snprintf(d->hint, sizeof d->hint, "GET /v1/models lists the models there are.");
	e->code = CODE_MODEL_NOT_FOUND;
	e->param = VIEW("model");
}

static void no_model_named(struct data_loop *d, const struct auth_key *key, struct api_error *e)
{
	AUTO(buf_done) struct buf list = BUF(500);
	const char *ids[IDS_TOLD];
	size_t n = usable(d, key, ids, IDS_TOLD);
	for (size_t i = 0; i < n; i++)
		if (buf_addf(&list, "%s%s", i ? ", " : "", ids[i]) < 0)
			break;
	snprintf(d->text, sizeof d->text,
		"The request names no model and no pool is the default; the models are: %s.",
		n ? buf_str(&list) : "none");
	snprintf(d->hint, sizeof d->hint, "Name one as \"model\", or set default: true on a pool.");
	e->code = CODE_INVALID_PARAMS;
	e->param = VIEW("model");
}

static void not_for_key(
	struct data_loop *d, struct view model, const struct auth_key *key, struct api_error *e)
{
	gate_note_model(d);
	snprintf(d->text, sizeof d->text, "The key %s may not use the model \"%.*s\".", key->name,
		VIEW_ARG(view_cut(model, 200)));
	snprintf(d->hint, sizeof d->hint, "GET /v1/models lists what it may use.");
	e->code = CODE_FORBIDDEN;
	e->param = VIEW("model");
}

static struct pool *find_pool(void *arg, struct view model, const struct auth_key *key, struct api_error *e)
{
	struct data_loop *d = arg;
	struct pool *p = model.n ? map_get(&d->models->by_name, model) : d->models->fallback;
	if (p && gate_may_use(d->models, key, p))
		return pool_ref(p);
	if (p && model.n)
		not_for_key(d, model, key, e);
	else if (model.n)
		no_such_model(d, model, key, e);
	else
		no_model_named(d, key, e);
	e->message = view_str(d->text);
	e->hint = view_str(d->hint);
	return NULL;
}

static void on_proved(void *arg, struct pool_replica *r)
{
	struct data_loop *d = arg;
	control_proved(d->orch->control, pool_replica_ref(r));
}

static void on_silent(void *arg, struct pool_replica *r, bool over, int64_t limit_ms)
{
	struct data_loop *d = arg;
	control_silent(d->orch->control, pool_replica_ref(r), over, limit_ms);
}

static bool answer_unloaded(
	void *arg, struct http_exchange *x, const struct route *route, struct pool *p, const char *request_id)
{
	struct data_loop *d = arg;
	AUTO(mem_freep) char *query = mem_fmt("model=%s", pool_id(p));
	if (route->kind == ROUTE_PROPS) {
		api_start_as(d->orch->api, x, request_id, "/props", query);
		return true;
	}
	if (route->kind != ROUTE_SLOTS)
		return false;
	AUTO(buf_done) struct buf head = BUF(KIB), body = BUF(KIB);
	(void)http_header_add(&head, "X-Request-Id", view_str(request_id));
	(void)http_header_add(&head, "X-Corral-Pool", view_str(pool_id(p)));
	(void)buf_adds(&body, "{\"loaded\":false,\"pool\":");
	(void)buf_add_json(&body, view_str(pool_id(p)));
	(void)buf_adds(&body, ",\"slots\":[]}");
	http_reply(x, 200, "application/json", &head, buf_view(&body));
	return true;
}

/* ---- what the control loop tells
 * ------------------------------------------------------------------------------ */

struct told {
	struct data_loop *d;
	struct config *config;
	struct models *models;
	struct auth_rules *rules;
	struct spread *spread;
	struct pool_replica *replica;
	bool cut;
	loop_fn *on_idle;
};

static void take_models(void *arg)
{
	struct told *t = arg;
	models_unref(t->d->models);
	t->d->models = t->models;
	free(t);
}

void data_loops_models(struct orch *o)
{
	struct models *m = models_new(o->control);
	for (unsigned i = 0; i < o->nloops; i++) {
		struct told *t = NEW(struct told);
		t->d = &o->loops[i];
		t->models = models_ref(m);
		if (o->loops[i].running)
			loop_post_call(o->loops[i].loop, take_models, t);
		else
			take_models(t);
	}
	models_unref(m);
}

static void take_config(void *arg)
{
	struct told *t = arg;
	struct data_loop *d = t->d;
	proxy_set_body_max(d->proxy, t->config->body_max);
	config_unref(d->guard.config);
	d->guard.config = t->config;
	free(t);
}

void data_loops_config(struct orch *o)
{
	for (unsigned i = 0; i < o->nloops; i++) {
		struct told *t = NEW(struct told);
		t->d = &o->loops[i];
		t->config = config_ref(o->config);
		loop_post_call(o->loops[i].loop, take_config, t);
	}
}

struct spread {
	struct orch *o;
	unsigned left;
	loop_fn *fn;
	void *arg;
};

static void one_has_rules(void *arg)
{
	struct spread *s = arg;
	if (--s->left)
		return;
	if (s->fn)
		s->fn(s->arg);
	free(s);
}

static void take_rules(void *arg)
{
	struct told *t = arg;
	struct data_loop *d = t->d;
	auth_rules_unref(d->rules);
	d->rules = t->rules;
	loop_post_call(d->orch->loop, one_has_rules, t->spread);
	free(t);
}

void data_loops_rules(struct orch *o, loop_fn *fn, void *arg)
{
	struct spread *s = NEW(struct spread);
	*s = (struct spread){ .o = o, .left = o->nloops, .fn = fn, .arg = arg };
	for (unsigned i = 0; i < o->nloops; i++) {
		struct told *t = NEW(struct told);
		t->d = &o->loops[i];
		t->rules = auth_rules_ref(keys_rules(o->keys));
		t->spread = s;
		loop_post_call(o->loops[i].loop, take_rules, t);
	}
}

static void take_replica_gone(void *arg)
{
	struct told *t = arg;
	proxy_replica_gone(t->d->proxy, t->replica, t->cut);
	pool_replica_unref(t->replica);
	free(t);
}

void data_loops_replica_gone(struct orch *o, struct pool_replica *r, bool cut)
{
	for (unsigned i = 0; i < o->nloops; i++) {
		struct told *t = NEW(struct told);
		t->d = &o->loops[i];
		t->replica = pool_replica_ref(r);
		t->cut = cut;
		loop_post_call(o->loops[i].loop, take_replica_gone, t);
	}
	pool_replica_unref(r);
}

static void one_idle(void *arg)
{
	struct told *t = arg;
	struct orch *o = t->d->orch;
	loop_fn *fn = t->on_idle;
	free(t);
	if (++o->idle_loops == o->nloops && fn)
		fn(o);
}

static void server_idle(void *arg)
{
	struct told *t = arg;
	loop_post_call(t->d->orch->loop, one_idle, t);
}

static void drain_on_loop(void *arg)
{
	struct told *t = arg;
	if (t->d->index == 0)
		arrivals_stop(t->d->orch);
	http_server_drain(t->d->server, server_idle, t);
}

void data_loops_drain(struct orch *o, loop_fn *on_idle)
{
	for (unsigned i = 0; i < o->nloops; i++) {
		struct told *t = NEW(struct told);
		t->d = &o->loops[i];
		t->on_idle = on_idle;
		loop_post_call(o->loops[i].loop, drain_on_loop, t);
	}
}

static void on_closed(void *arg)
{
	arrivals_closed(arg);
}

static void force_on_loop(void *arg)
{
	struct data_loop *d = arg;
	http_server_close_all(d->server);
}

void data_loops_force(struct orch *o)
{
	for (unsigned i = 0; i < o->nloops; i++)
		loop_post_call(o->loops[i].loop, force_on_loop, &o->loops[i]);
}

/* ---- life
 * -------------------------------------------------------------------------------------------------------- */

static unsigned auto_workers(void)
{
	cpu_set_t set;
	unsigned n = 1;
	if (sched_getaffinity(0, sizeof set, &set) == 0)
		n = (unsigned)CPU_COUNT(&set);
	/* A container's quota: "max 100000", or microseconds of CPU a period (cgroup v2). */
	AUTO(buf_done) struct buf b = BUF(256);
	long long quota, period;
	if (file_read("/sys/fs/cgroup/cpu.max", &b) == 0 &&
		sscanf(buf_str(&b), "%lld %lld", &quota, &period) == 2 && period > 0)
		n = MIN(n, (unsigned)MAX((quota + period - 1) / period, 1LL));
	return MAX(MIN(n, (unsigned)LOOPS_MAX), 1u);
}

int data_loops_init(struct orch *o, struct err *reterr)
{
	(void)reterr;
	o->requests = req_records_new();
	o->nloops = o->config->workers ? MIN(o->config->workers, (uint32_t)LOOPS_MAX) : auto_workers();
	for (unsigned i = 0; i < o->nloops; i++) {
		struct data_loop *d = &o->loops[i];
		char name[16];
		snprintf(name, sizeof name, "data-%u", i);
		d->orch = o;
		d->index = i;
		d->loop = loop_new(name);
		d->rules = auth_rules_ref(keys_rules(o->keys));
		d->guard = (struct api_guard){ .config = config_ref(o->config), .hostname = o->hostname };
		struct http_server_opts so = { HTTP_SERVER_DEFAULTS, .server_name = "corral",
			.on_request = on_request, .on_refuse = on_refuse, .on_closed = on_closed, .arg = d };
		d->server = http_server_new(d->loop, &so);
		struct proxy_opts po = { .loop = d->loop,
			.loop_index = i,
			.spool = &o->spool,
			.body_max = o->config->body_max,
			.metrics = o->metrics,
			.records = o->requests,
			.find_pool = find_pool,
			.on_proved = on_proved,
			.on_silent = on_silent,
			.answer_unloaded = answer_unloaded,
			.arg = d };
		d->proxy = proxy_new(&po);
	}
	return 0;
}

static void *run_loop(void *arg)
{
	struct data_loop *d = arg;
	loop_run(d->loop);
	return NULL;
}

/* The first loop last: it gives connections to all. */
int data_loops_run(struct orch *o)
{
	for (unsigned i = o->nloops; i-- > 0;) {
		struct data_loop *d = &o->loops[i];
		int r = i ? 0 : arrivals_start(o);
		r = r ? r : -pthread_create(&d->thread, NULL, run_loop, d);
		if (r)
			return r;
		d->running = true;
	}
	return 0;
}

static void free_server(void *arg)
{
	struct data_loop *d = arg;
	if (d->index == 0)
		arrivals_stop(d->orch);
	http_server_free(d->server);
	d->server = NULL;
	loop_stop(d->loop);
}

/* The first loop first: what it gave to the others arrives before they end. */
void data_loops_stop(struct orch *o)
{
	for (unsigned i = 0; i < o->nloops; i++) {
		struct data_loop *d = &o->loops[i];
		if (!d->running)
			continue;
		loop_post_call(d->loop, free_server, d);
		pthread_join(d->thread, NULL);
		d->running = false;
	}
}

void data_loops_free(struct orch *o)
{
	arrivals_stop(o);
	for (unsigned i = 0; i < o->nloops; i++) {
		struct data_loop *d = &o->loops[i];
		if (d->server)
			http_server_free(d->server);
		proxy_free(d->proxy);
		models_unref(d->models);
		auth_rules_unref(d->rules);
		d->guard.config = config_unref(d->guard.config);
		loop_free(d->loop);
	}
	arrivals_free(o);
	req_records_free(o->requests);
}
