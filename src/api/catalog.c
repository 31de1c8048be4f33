/* SPDX-License-Identifier: Apache-2.0
 *
 * /v1/catalog/… and /v1/engines: asked of the node that keeps them and passed through; what lasts there
 * (fetching, verifying) lasts here as the same events.
 */
#include <stdio.h>
#include <stdlib.h>
#include <yyjson.h>

#include "api/api_int.h"
#include "base/mem.h"

enum { ANSWER_MAX = 16 * 1024 * 1024 };

struct relay {
	struct list node;
	struct api *api;
	struct api_call *call;
	struct http_call *http;
	struct buf answer; /* one that does not last */
	bool streaming;
	int status;
};

static void relay_over(struct relay *r)
{
	if (r->http)
		http_call_cancel(r->http);
	list_remove(&r->node);
	r->api->nstreams--;
	buf_done(&r->answer);
	free(r);
}

void relays_done(struct api *a)
{
	LIST_FOREACH(r, &a->relays, struct relay, node)
	{
		if (r->streaming)
			api_finish(r->call, true);
		else
			api_failf(r->call, CODE_INTERNAL, 503, "", "The server is going down.");
		relay_over(r);
	}
}

static void client_left(void *arg)
{
	relay_over(arg);
}

static void client_drained(void *arg)
{
	struct relay *r = arg;
	if (r->http)
		http_call_resume(r->http);
}

static void on_head(void *arg, struct http_call *http, int status, const struct http_headers *h)
{
	(void)http;
	struct relay *r = arg;
	r->status = status;
	if (status != 200 || !view_starts(http_header_get(h, "content-type"), VIEW("text/event-stream")))
		return;
	AUTO(buf_done) struct buf head = BUF(256);
	(void)http_header_add(&head, "Cache-Control", VIEW("no-cache"));
	r->streaming = true;
	api_stream(r->call, "text/event-stream", &head);
}

static void on_data(void *arg, struct view bytes)
{
	struct relay *r = arg;
	if (!r->streaming)
		(void)buf_addv(&r->answer, bytes);
	else if (api_send(r->call, bytes))
		http_call_pause(r->http);
}

/* The node's words, in the API's envelope. */
static void refused(struct relay *r)
{
	static const struct {
		int status;
		enum corral_code code;
	} codes[] = { { 400, CODE_INVALID_PARAMS }, { 403, CODE_FORBIDDEN }, { 404, CODE_MODEL_NOT_FOUND },
		{ 409, CODE_CONFLICT }, { 422, CODE_UNTRUSTED_ARTIFACT } };
	enum corral_code code = CODE_INTERNAL;
	for (size_t i = 0; i < ARRAY_LEN(codes); i++)
		if (codes[i].status == r->status)
			code = codes[i].code;
	yyjson_doc *d = r->answer.len ? yyjson_read(r->answer.data, r->answer.len, 0) : NULL;
	const char *text =
		yyjson_get_str(yyjson_obj_get(yyjson_obj_get(yyjson_doc_get_root(d), "error"), "message"));
	api_failf(r->call, code, r->status == 507 || r->status == 503 ? r->status : 0,
		code == CODE_MODEL_NOT_FOUND ? "`corral models ls` lists what is there." : "", "%s.",
		text ? text : "The node refuses without a word");
	yyjson_doc_free(d);
}

static void on_end(void *arg)
{
	struct relay *r = arg;
	r->http = NULL;
	if (r->streaming)
		api_finish(r->call, true);
	else if (r->status == 200)
		api_reply_json(r->call, 200, buf_view(&r->answer));
	else
		refused(r);
	relay_over(r);
}

static void on_error(void *arg, enum http_fail f, const struct err *e)
{
	(void)f;
	struct relay *r = arg;
	r->http = NULL;
	if (r->streaming)
		api_finish(r->call, false);
	else
		api_failf(r->call, CODE_POOL_UNREADY, 0, "", "The node does not answer: %s.", e->msg);
	relay_over(r);
}

static const struct http_call_ops relay_ops = {
	.on_head = on_head, .on_data = on_data, .on_end = on_end, .on_error = on_error
};

static void relay(struct api *a, struct api_call *c, const char *method, const char *path, struct view body)
{
	struct http_target *t = api_node_target(a);
	if (!t || a->nstreams >= API_STREAMS_MAX) {
		api_failf(c, CODE_POOL_UNREADY, 0, "",
			t ? "There are too many streams already." : "No node is online.");
		return;
	}
	AUTO(buf_done) struct buf head = BUF(256);
	struct relay *r = NEW(struct relay);
	r->api = a;
	r->call = c;
	buf_init(&r->answer, ANSWER_MAX);
	c->on_gone = client_left;
	c->on_drained = client_drained;
	c->arg = r;
	list_append(&a->relays, &r->node);
	a->nstreams++;
	if (body.n)
		(void)http_header_add(&head, "Content-Type", VIEW("application/json"));
	struct http_call_req q = { .method = view_str(method),
		.path = view_str(path),
		.block = &head,
		.body_len = (int64_t)body.n };
	r->http = http_call_start(t, &q, &relay_ops, r);
	if (body.n)
		(void)http_call_write(r->http, body);
}

/* "/v1/node/catalog/models/<id><verb>" */
static char *model_path(struct view id, const char *verb)
{
	AUTO(buf_done) struct buf b = BUF(16 * KIB);
	(void)buf_adds(&b, "/v1/node/catalog/models/");
	for (size_t i = 0; i < id.n; i++) {
		unsigned char ch = (unsigned char)id.p[i];
		bool plain = (ch >= '0' && ch <= '9') || (ch >= 'a' && ch <= 'z') ||
			     (ch >= 'A' && ch <= 'Z') || ch == '.' || ch == '_' || ch == '-';
		(void)buf_addf(&b, plain ? "%c" : "%%%02X", ch);
	}
	(void)buf_adds(&b, verb);
	return buf_take(&b);
}

void route_catalog(struct api *a, struct api_call *c, const struct route_args *args)
{
	(void)args;
	relay(a, c, "GET", "/v1/node/catalog/models", VIEW(""));
}

void route_catalog_gc(struct api *a, struct api_call *c, const struct route_args *args)
{
	(void)args;
	relay(a, c, "GET", "/v1/node/catalog/gc", VIEW(""));
}

void route_engines(struct api *a, struct api_call *c, const struct route_args *args)
{
	(void)args;
	relay(a, c, "GET", "/v1/node/engines", VIEW(""));
}

void route_catalog_model(struct api *a, struct api_call *c, const struct route_args *args)
{
	AUTO(mem_freep) char *path = model_path(args->id, "");
	relay(a, c, c->method == HTTP_M_DELETE ? "DELETE" : "GET", path, VIEW(""));
}

void route_catalog_verify(struct api *a, struct api_call *c, const struct route_args *args)
{
	if (refuse_when_draining(a, c))
		return;
	AUTO(mem_freep) char *path = model_path(args->id, "/verify");
	relay(a, c, "POST", path, VIEW("{}"));
}

void route_engines_provision(struct api *a, struct api_call *c, const struct route_args *args)
{
	(void)args;
	if (!refuse_when_draining(a, c))
		relay(a, c, "POST", "/v1/node/engines/provision",
			c->body.len ? buf_view(&c->body) : VIEW("{}"));
}

void route_catalog_pull(struct api *a, struct api_call *c, const struct route_args *args)
{
	(void)args;
	if (!refuse_when_draining(a, c))
		relay(a, c, "POST", "/v1/node/catalog/pull", c->body.len ? buf_view(&c->body) : VIEW("{}"));
}

/* With who asks. */
void route_catalog_state(struct api *a, struct api_call *c, const struct route_args *args)
{
	yyjson_doc *d = c->body.len ? yyjson_read(c->body.data, c->body.len, 0) : NULL;
	const char *state = yyjson_get_str(yyjson_obj_get(yyjson_doc_get_root(d), "state"));
	AUTO(mem_freep) char *path = model_path(args->id, "/state");
	AUTO(buf_done) struct buf b = BUF(16 * KIB);
	(void)buf_adds(&b, "{\"state\":");
	(void)buf_add_json(&b, view_cut(view_str(state ? state : ""), 64));
	(void)buf_adds(&b, ",\"by\":");
	(void)buf_add_json(&b, view_str(c->by));
	(void)buf_addc(&b, '}');
	yyjson_doc_free(d);
	relay(a, c, "POST", path, buf_view(&b));
}
