/* SPDX-License-Identifier: Apache-2.0
 *
 * What the node answers, passed through: an answer whole, in the API's envelope where it refuses, and what
 * lasts (events, a log) as it comes.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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
	const char *list;  /* the command that lists what can be named */
	bool is_log;       /* text, also where there is none yet */
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
	if (status == 200 && r->is_log) {
		r->streaming = true;
		api_stream(r->call, "text/plain; charset=utf-8", NULL);
		return;
	}
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
	enum corral_code code = r->is_log ? CODE_POOL_UNREADY : CODE_INTERNAL;
	for (size_t i = 0; i < ARRAY_LEN(codes) && !r->is_log; i++)
		if (codes[i].status == r->status)
			code = codes[i].code;
	yyjson_doc *d = r->answer.len ? yyjson_read(r->answer.data, r->answer.len, 0) : NULL;
	const char *text =
		yyjson_get_str(yyjson_obj_get(yyjson_obj_get(yyjson_doc_get_root(d), "error"), "message"));
	api_failf(r->call, code, r->status == 507 || r->status == 503 ? r->status : 0,
		code == CODE_MODEL_NOT_FOUND ? r->list : "", "%s.",
		text ? text : "The node refuses without a word");
	yyjson_doc_free(d);
}

static void on_end(void *arg)
{
	struct relay *r = arg;
	r->http = NULL;
	if (r->streaming)
		api_finish(r->call, true);
	else if (r->is_log && r->status == 404)
		api_reply(r->call, 200, "text/plain; charset=utf-8", NULL, (struct view){ 0 });
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

struct http_target *api_node_target(struct api *a)
{
	const char *address = control_node_address(a->o.control);
	if (!address)
		return NULL;
	if (!a->node || strcmp(a->node_address, address) != 0) {
		http_target_free(a->node);
		a->node = http_target_new(a->o.loop, address, NULL, NULL);
		mem_setstr(&a->node_address, address);
	}
	return a->node;
}

struct http_target *api_stream_target(struct api *a, struct api_call *c)
{
	struct http_target *t = api_node_target(a);
	if (t && a->nstreams < API_STREAMS_MAX)
		return t;
	api_failf(c, CODE_POOL_UNREADY, 0, "",
		t ? "There are too many streams already." : "No node is online.");
	return NULL;
}

struct http_call *api_node_call(struct http_target *t, const char *method, const char *path, struct view body,
	const struct http_call_ops *ops, void *arg)
{
	AUTO(buf_done) struct buf head = BUF(256);
	if (body.n)
		(void)http_header_add(&head, "Content-Type", VIEW("application/json"));
	struct http_call_req q = { .method = view_str(method),
		.path = view_str(path),
		.block = &head,
		.body_len = (int64_t)body.n };
	struct http_call *call = http_call_start(t, &q, ops, arg);
	if (body.n)
		(void)http_call_write(call, body);
	return call;
}

static const struct http_call_ops relay_ops = {
	.on_head = on_head, .on_data = on_data, .on_end = on_end, .on_error = on_error
};

static void relay(struct api *a, struct api_call *c, bool is_log, const char *method, const char *path,
	struct view body)
{
	struct http_target *t = api_stream_target(a, c);
	if (!t)
		return;
	struct relay *r = NEW(struct relay);
	r->api = a;
	r->call = c;
	r->is_log = is_log;
	r->list = strstr(path, "/engines/") ? "`corral engines ls` lists what is there."
					    : "`corral models ls` lists what is there.";
	buf_init(&r->answer, ANSWER_MAX);
	c->on_gone = client_left;
	c->on_drained = client_drained;
	c->arg = r;
	list_append(&a->relays, &r->node);
	a->nstreams++;
	r->http = api_node_call(t, method, path, body, &relay_ops, r);
}

void api_relay(struct api *a, struct api_call *c, const char *method, const char *path, struct view body)
{
	relay(a, c, false, method, path, body);
}

void api_relay_log(struct api *a, struct api_call *c, const char *path)
{
	relay(a, c, true, "GET", path, VIEW(""));
}
