/* SPDX-License-Identifier: Apache-2.0
 *
 * The node's routes, on its private socket. The peer must be the same user (or root).
 */
#include <stdlib.h>
#include <unistd.h>
#include <yyjson.h>

#include "base/mem.h"
#include "base/num.h"
#include "log/log.h"
#include "node/models_int.h"

enum { SMALL_BODY_MAX = 4096 };

void api_error(struct http_exchange *x, int status, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	AUTO(mem_freep) char *text = mem_vfmt(fmt, ap);
	va_end(ap);
	AUTO(buf_done) struct buf b = BUF(64 * KIB);
	if (buf_adds(&b, "{\"error\":{\"message\":") || buf_add_json(&b, view_cut(view_str(text), 8 * KIB)) ||
		buf_adds(&b, "}}\n"))
		buf_reset(&b);
	http_reply(x, status, "application/json", NULL, buf_view(&b));
}

static void reply_facts(struct node *n, struct http_exchange *x, bool models)
{
	AUTO(wire_node_done) struct wire_node f = { 0 };
	AUTO(buf_done) struct buf b = BUF(WIRE_BODY_MAX);
	node_facts(n, models, &f);
	if (wire_node_encode(&f, &b))
		api_error(x, 500, "the node's facts have more than %d bytes", (int)WIRE_BODY_MAX);
	else
		http_reply(x, 200, "application/json", NULL, buf_view(&b));
}

/* ---- requests with a body --------------------------------------------------------------------------------
 */

static void call_free(struct call *c)
{
	buf_done(&c->body);
	free(c->id);
	free(c);
}

static void on_body(void *arg, struct view bytes)
{
	struct call *c = arg;
	if (!c->x || buf_addv(&c->body, bytes) == 0)
		return;
	struct http_exchange *x = c->x;
	size_t max = c->body.max;
	call_free(c);
	http_close_after(x);
	api_error(x, 413, "the body has more than %zu bytes", max);
}

static void on_body_end(void *arg)
{
	struct call *c = arg;
	c->fn(c);
	call_free(c);
}

static void on_gone(void *arg)
{
	call_free(arg);
}

static const struct http_handler call_handler = {
	.on_body = on_body, .on_body_end = on_body_end, .on_gone = on_gone
};

void api_with_body(struct node *n, struct http_exchange *x, struct view id, size_t max, call_fn *fn)
{
	struct call *c = NEW(struct call);
	c->node = n;
	c->x = x;
	c->id = mem_viewdup(id);
	c->fn = fn;
	buf_init(&c->body, max);
	http_handle(x, &call_handler, c);
}

static void put_replicas(struct call *c)
{
	struct node *n = c->node;
	AUTO(wire_desired_done) struct wire_desired d = { 0 };
	struct err e = { 0 };
	if (wire_desired_decode(buf_view(&c->body), &d, &e)) {
		api_error(c->x, 400, "%s", e.msg);
		return;
	}
	if (d.fence < n->fence) {
		log_warn("desired", n->opts.node_id,
			"A desired state with fence %llu is refused, %llu was seen.",
			(unsigned long long)d.fence, (unsigned long long)n->fence);
		api_error(c->x, 409,
			"fence %llu is smaller than %llu, which was seen: another leader has taken over",
			(unsigned long long)d.fence, (unsigned long long)n->fence);
		return;
	}
	if (n->stopping) {
		api_error(c->x, 409, "this node is stopping all engines and takes no new ones");
		return;
	}
	desired_apply(n, &d);
	reply_facts(n, c->x, false);
}

static void doc_free(yyjson_doc **d)
{
	yyjson_doc_free(*d);
}

static void post_prove(struct call *c)
{
	struct replica *r = map_gets(&c->node->replicas, c->id);
	AUTO(doc_free) yyjson_doc *d = c->body.len ? yyjson_read(c->body.data, c->body.len, 0) : NULL;
	yyjson_val *o = yyjson_doc_get_root(d), *gen = yyjson_obj_get(o, "generation");
	const char *by = yyjson_get_str(yyjson_obj_get(o, "by"));
	bool request = by && !strcmp(by, "request");
	if (!r) {
		api_error(c->x, 404, "there is no replica %s on this node", c->id);
	} else if (!yyjson_is_uint(gen) || !by || (!request && strcmp(by, "own") != 0)) {
		api_error(c->x, 400, "the body must be {\"generation\": N, \"by\": \"request\"} or \"own\"");
	} else if (yyjson_get_uint(gen) != r->generation ||
		   (r->state != REPLICA_PROVING && r->state != REPLICA_READY)) {
		api_error(c->x, 409, "replica %s is %s in generation %llu", r->id,
			replica_state_name(r->state), (unsigned long long)r->generation);
	} else {
		if (r->state == REPLICA_PROVING && request)
			replica_ready(r);
		else if (r->state == REPLICA_PROVING)
			replica_canary_own(r);
		http_reply(c->x, 200, "application/json", NULL, VIEW("{}\n"));
	}
}

/* Somebody outside saw that the engine does not move any more. */
static void post_condemn(struct call *c)
{
	struct replica *r = map_gets(&c->node->replicas, c->id);
	AUTO(doc_free) yyjson_doc *d = c->body.len ? yyjson_read(c->body.data, c->body.len, 0) : NULL;
	yyjson_val *o = yyjson_doc_get_root(d), *gen = yyjson_obj_get(o, "generation");
	const char *cause = yyjson_get_str(yyjson_obj_get(o, "cause")),
		   *message = yyjson_get_str(yyjson_obj_get(o, "message"));
	if (!r) {
		api_error(c->x, 404, "there is no replica %s on this node", c->id);
	} else if (!yyjson_is_uint(gen) || !cause || strcmp(cause, "hung") != 0) {
		api_error(c->x, 400,
			"the body must be {\"generation\": N, \"cause\": \"hung\", \"message\": \"…\"}");
	} else if (yyjson_get_uint(gen) != r->generation || !r->keeper || r->stopping) {
		api_error(c->x, 409, "replica %s is %s in generation %llu", r->id,
			replica_state_name(r->state), (unsigned long long)r->generation);
	} else {
		replica_condemn(r, CAUSE_HUNG, "`corral logs` shows its last words", "%s",
			message ? message : "the engine makes no progress any more");
		http_reply(c->x, 200, "application/json", NULL, VIEW("{}\n"));
	}
}

static void post_reload(struct call *c)
{
	struct node *n = c->node;
	AUTO(doc_free) yyjson_doc *d = c->body.len ? yyjson_read(c->body.data, c->body.len, 0) : NULL;
	yyjson_val *dry = yyjson_obj_get(yyjson_doc_get_root(d), "dry_run");
	AUTO(buf_done) struct buf why = BUF(64 * KIB);
	if (c->body.len && (!d || (dry && !yyjson_is_bool(dry)))) {
		api_error(c->x, 400, "the body must be {\"dry_run\": true} or false, or nothing");
	} else if (!n->opts.on_reload || n->stopping) {
		api_error(c->x, 409,
			n->stopping ? "this node is stopping all engines"
				    : "this node's pools come from no file");
	} else if (n->opts.on_reload(n->opts.arg, yyjson_get_bool(dry), &why)) {
		api_error(c->x, 400, "%s", buf_str(&why));
	} else {
		buf_reset(&why);
		if (!buf_addf(&why, "{\"pools\":%zu}\n", n->npools))
			http_reply(c->x, 200, "application/json", NULL, buf_view(&why));
	}
}

/* A registry that has just begun knows nobody; the next heartbeat would be 10 s away. */
static void post_register(struct call *c)
{
	report_renew(c->node);
	http_reply(c->x, 202, "application/json", NULL, VIEW("{}\n"));
}

static void on_stop_gone(void *arg)
{
	struct stop_wait *w = arg;
	list_remove(&w->node);
	free(w);
}

static const struct http_handler stop_handler = { .on_gone = on_stop_gone };

static void post_stop(struct call *c)
{
	AUTO(doc_free) yyjson_doc *d = c->body.len ? yyjson_read(c->body.data, c->body.len, 0) : NULL;
	yyjson_val *v = yyjson_obj_get(yyjson_doc_get_root(d), "deadline_ms");
	kv_told(c->node, yyjson_get_str(yyjson_obj_get(yyjson_doc_get_root(d), "talks")));
	int64_t ms = yyjson_is_uint(v) ? (int64_t)MIN(yyjson_get_uint(v), (uint64_t)86400000) : 10000;
	struct stop_wait *w = NEW(struct stop_wait);
	w->x = c->x;
	list_append(&c->node->stop_waits, &w->node);
	http_handle(c->x, &stop_handler, w);
	node_stop(c->node, ms);
}

void api_stop_answer(struct node *n)
{
	AUTO(buf_done) struct buf b = BUF(256);
	if (buf_addf(&b, "{\"stopped\":%u,\"killed\":%u}\n", n->stopped, n->killed))
		return;
	struct list *l;
	while ((l = list_pop(&n->stop_waits))) {
		struct stop_wait *w = LIST_ENTRY(l, struct stop_wait, node);
		struct http_exchange *x = w->x;
		free(w);
		http_close_after(x);
		http_reply(x, 200, "application/json", NULL, buf_view(&b));
	}
}

/* ---- routes
 * ------------------------------------------------------------------------------------------------ */

static bool peer_allowed(const struct http_exchange *x)
{
	const struct net_peer *p = http_peer(x);
	return p->is_unix && (p->uid == geteuid() || p->uid == 0);
}

/* "/v1/node/replicas/{id}/prove", …/condemn and …/logs; false: none of them. */
static bool replica_route(struct node *n, struct http_exchange *x, struct view path, enum http_method m)
{
	struct view prefix = VIEW("/v1/node/replicas/"), verb;
	if (!view_starts(path, prefix))
		return false;
	struct view id = view_split(view_from(path, prefix.n), '/', &verb);
	AUTO(buf_done) struct buf decoded = BUF(NODE_ID_MAX + 1);
	bool logs = view_eqs(verb, "logs") && m == HTTP_M_GET;
	call_fn *post = m != HTTP_M_POST            ? NULL
			: view_eqs(verb, "prove")   ? post_prove
			: view_eqs(verb, "condemn") ? post_condemn
						    : NULL;
	if (!logs && !post)
		return false;
	if (http_unescape(id, &decoded) || !replica_id_valid(buf_view(&decoded)))
		api_error(x, 404, "there is no replica of that name on this node");
	else if (logs)
		logs_serve(n, x, buf_str(&decoded));
	else
		api_with_body(n, x, buf_view(&decoded), SMALL_BODY_MAX, post);
	return true;
}

void api_on_request(void *arg, struct http_exchange *x)
{
	struct node *n = arg;
	struct view path = http_path(x);
	enum http_method m = http_method(x);
	if (!peer_allowed(x))
		api_error(x, 403, "this socket is for the user who runs corral");
	else if (view_eqs(path, "/v1/node") && m == HTTP_M_GET)
		reply_facts(n, x, true);
	else if (view_eqs(path, "/v1/node/replicas") && m == HTTP_M_GET)
		reply_facts(n, x, false);
	else if (view_eqs(path, "/v1/node/replicas") && m == HTTP_M_PUT)
		api_with_body(n, x, VIEW(""), WIRE_BODY_MAX, put_replicas);
	else if (view_eqs(path, "/v1/node/config/reload") && m == HTTP_M_POST)
		api_with_body(n, x, VIEW(""), SMALL_BODY_MAX, post_reload);
	else if (view_eqs(path, "/v1/node/register") && m == HTTP_M_POST)
		api_with_body(n, x, VIEW(""), SMALL_BODY_MAX, post_register);
	else if (view_eqs(path, "/v1/node/stop") && m == HTTP_M_POST)
		api_with_body(n, x, VIEW(""), WIRE_BODY_MAX, post_stop);
	else if (!replica_route(n, x, path, m) && !catalog_route(n, x, path, m))
		api_error(x, 404, "%.*s %.*s is no route of the node", VIEW_ARG(http_method_name(x)),
			(int)MIN(path.n, (size_t)200), path.p);
}
