/* SPDX-License-Identifier: Apache-2.0
 *
 * /v1/engines: asked of the node that keeps them; what replaces the pools' engines is a round here. The node
 * is asked which pools take the build; for one after the other it goes back to the build before, or gets the
 * new one beside; then each pool that has another build now gets new engines (control_reload: ready before
 * the old one goes). An upgrade compares what the pool answers before and after; the first failure takes that
 * build back, for those too that had got it, and ends the round. One round at a time.
 */
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "api/engines_int.h"
#include "base/mem.h"
#include "log/log.h"

enum { TO_MAX = 200, NODE_MS = 5 * 60 * 1000 };

/* ---- its end ---------------------------------------------------------------------------------------------
 */

static void round_free(struct engines_round *r)
{
	struct control_pool *p =
		r->reloading ? control_pool_find(r->api->o.control, view_str(r->reloading)) : NULL;
	if (p)
		control_forget(r->api->o.control, p, r);
	http_fetch_cancel(&r->fetch);
	if (r->http)
		http_call_cancel(r->http);
	http_target_free(r->self);
	buf_done(&r->heard);
	sample_done(&r->was);
	struct strv *lists[] = { &r->todo, &r->covered, &r->changed, &r->has, &r->replaced };
	for (size_t i = 0; i < ARRAY_LEN(lists); i++)
		strv_done(lists[i]);
	char *all[] = { r->to, r->only, r->by, r->message, r->engine, r->undone };
	for (size_t i = 0; i < ARRAY_LEN(all); i++)
		free(all[i]);
	r->api->round = NULL;
	free(r);
}

void engines_round_done(struct api *a)
{
	struct engines_round *r = a->round;
	if (!r)
		return;
	if (r->call && r->upgrade && r->todo.len)
		api_finish(r->call, true);
	else if (r->call)
		api_failf(r->call, CODE_INTERNAL, 503, "", "The server is going down.");
	round_free(r);
}

/* What the node does ends with it and is gone on with by the next; engines that are being replaced are. */
static void client_left(void *arg)
{
	struct engines_round *r = arg;
	r->call = NULL;
	if (r->http || !r->todo.len)
		round_free(r);
}

static void client_drained(void *arg)
{
	struct engines_round *r = arg;
	if (r->http)
		http_call_resume(r->http);
}

/* A rollback has one answer, at its end. */
void round_send(struct engines_round *r, const char *name, struct view data)
{
	AUTO(buf_done) struct buf b = BUF(2 * HEARD_MAX);
	if (!r->upgrade || !r->call)
		return;
	(void)buf_addf(&b, "event: %s\ndata: %.*s\n\n", name, VIEW_ARG(data));
	if (api_send(r->call, buf_view(&b)) && r->http)
		http_call_pause(r->http);
}

/* {pool, <key>: text} */
void round_say(
	struct engines_round *r, const char *event, const char *pool, const char *key, const char *text)
{
	AUTO(buf_done) struct buf b = BUF(HEARD_MAX);
	(void)buf_adds(&b, "{\"pool\":");
	(void)buf_add_json(&b, view_str(pool));
	(void)buf_addf(&b, ",\"%s\":", key);
	(void)buf_add_json(&b, view_str(text));
	(void)buf_addc(&b, '}');
	round_send(r, event, buf_view(&b));
}

void round_fail(struct engines_round *r, enum corral_code code, const char *pool, const char *message)
{
	struct view why = view_cut(view_str(message), 3000);
	if (r->todo.len)
		log_event(LOG_WARN, "engines_failed", pool,
			(struct log_field[]){ LOG_STR("pool_id", pool), LOG_STR("by", r->by), LOG_END },
			"%s of engines by %s ends at pool %s: %.*s", r->upgrade ? "An upgrade" : "A rollback",
			r->by, pool, VIEW_ARG(why));
	if (r->call && r->upgrade && r->todo.len) {
		round_say(r, "error", pool, "message", message);
		api_finish(r->call, true);
	} else if (r->call) {
		api_failf(r->call, code, 0, code == CODE_MODEL_NOT_FOUND ? "GET /v1/engines lists them." : "",
			"%.*s%s", VIEW_ARG(why), view_ends(why, VIEW(".")) ? "" : ".");
	}
	round_free(r);
}

static void add_list(const struct strv *l, struct buf *b)
{
	for (size_t i = 0; i < l->len; i++) {
		(void)buf_adds(b, i ? "," : "");
		(void)buf_add_json(b, view_str(l->items[i]));
	}
}

static void finish(struct engines_round *r)
{
	AUTO(buf_done) struct buf b = BUF(HEARD_MAX);
	(void)buf_addc(&b, '{');
	if (!r->upgrade) {
		(void)buf_adds(&b, "\"engine\":");
		(void)buf_add_json(&b, view_str(r->engine ? r->engine : ""));
		(void)buf_addc(&b, ',');
	}
	(void)buf_adds(&b, "\"pools\":[");
	add_list(&r->replaced, &b);
	(void)buf_adds(&b, "]}");
	if (r->call && r->upgrade) {
		round_send(r, "done", buf_view(&b));
		api_finish(r->call, true);
	} else if (r->call) {
		api_reply_json(r->call, 200, buf_view(&b));
	}
	round_free(r);
}

/* ---- asking the node -------------------------------------------------------------------------------------
 */

bool round_ask_node(struct engines_round *r, const char *method, const char *path, const struct buf *body,
	http_fetch_fn *fn)
{
	struct http_target *t = api_node_target(r->api);
	struct http_fetch_req q = { .method = method,
		.path = path,
		.content_type = body ? "application/json" : NULL,
		.body = body ? buf_view(body) : VIEW(""),
		.timeout_ms = NODE_MS };
	if (t)
		r->fetch = http_fetch(t, &q, fn, r);
	return t != NULL;
}

void round_pool_body(const char *pool, const char *to, struct buf *b)
{
	(void)buf_adds(b, "{\"pool\":");
	(void)buf_add_json(b, view_str(pool));
	if (to) {
		(void)buf_adds(b, ",\"to\":");
		(void)buf_add_json(b, view_str(to));
	}
	(void)buf_addc(b, '}');
}

static enum corral_code code_of(int status)
{
	return status == 400   ? CODE_INVALID_PARAMS
	       : status == 404 ? CODE_MODEL_NOT_FOUND
	       : status == 409 ? CODE_CONFLICT
	       : status == 0   ? CODE_POOL_UNREADY
			       : CODE_INTERNAL;
}

/* The node's answer; NULL after the round has ended with why not. */
static yyjson_doc *answer_of(
	struct engines_round *r, const char *pool, int status, struct view body, const struct err *e)
{
	yyjson_doc *d = body.n ? yyjson_read(body.p, body.n, 0) : NULL;
	if (status == 200 && d)
		return d;
	const char *text =
		yyjson_get_str(yyjson_obj_get(yyjson_obj_get(yyjson_doc_get_root(d), "error"), "message"));
	AUTO(mem_freep)
	char *why = mem_strdup(text           ? text
			       : status       ? "the node refuses without a word"
			       : e && *e->msg ? e->msg
					      : "the node does not answer");
	yyjson_doc_free(d);
	round_fail(r, code_of(status), pool, why);
	return NULL;
}

static void take_list(yyjson_val *list, struct strv *to)
{
	yyjson_val *one;
	size_t i, n;
	strv_done(to);
	yyjson_arr_foreach(list, i, n, one)
	{
		if (yyjson_is_str(one))
			strv_add(to, yyjson_get_str(one));
	}
}

/* ---- getting it ------------------------------------------------------------------------------------------
 */

static void take_changed(struct engines_round *r, yyjson_val *list)
{
	take_list(list, &r->changed);
	strv_done(&r->has);
	r->next = 0;
	for (size_t i = 0; i < r->changed.len; i++)
		strv_add(&r->covered, r->changed.items[i]);
}

static void on_rolled_back(void *arg, int status, struct view body, const struct err *e)
{
	struct engines_round *r = arg;
	r->fetch = NULL;
	yyjson_doc *d = answer_of(r, r->todo.items[r->at], status, body, e);
	if (!d)
		return;
	yyjson_val *o = yyjson_doc_get_root(d);
	mem_setstr(&r->engine, yyjson_get_str(yyjson_obj_get(o, "engine")));
	take_changed(r, yyjson_obj_get(o, "pools"));
	yyjson_doc_free(d);
	r->at++;
	round_hand_over(r);
}

static void take_line(struct engines_round *r, struct view line)
{
	if (!view_starts(line, VIEW("data: ")))
		return;
	line = view_from(line, 6);
	yyjson_doc *d = line.n ? yyjson_read(line.p, line.n, 0) : NULL;
	yyjson_val *o = yyjson_doc_get_root(d), *message = yyjson_obj_get(o, "message");
	if (yyjson_obj_get(o, "phase")) {
		round_send(r, "progress", line);
	} else if (message) {
		mem_setstr(&r->message, yyjson_get_str(message));
		r->configured = yyjson_get_bool(yyjson_obj_get(o, "configured"));
	} else if (yyjson_obj_get(o, "pools")) {
		r->got = true;
		r->bytes[0] = yyjson_get_uint(yyjson_obj_get(o, "bytes_before"));
		r->bytes[1] = yyjson_get_uint(yyjson_obj_get(o, "bytes_now"));
		take_changed(r, yyjson_obj_get(o, "pools"));
		round_send(r, "provisioned", line);
	}
	yyjson_doc_free(d);
}

static void on_head(void *arg, struct http_call *http, int status, const struct http_headers *h)
{
	(void)http;
	(void)h;
	((struct engines_round *)arg)->status = status;
}

static void on_data(void *arg, struct view bytes)
{
	struct engines_round *r = arg;
	if (buf_addv(&r->heard, bytes))
		buf_reset(&r->heard); /* a line of no event of ours */
	while (r->status == 200) {
		struct view all = buf_view(&r->heard);
		size_t n = all.n ? view_find(all, '\n') : 0;
		if (n == all.n)
			return;
		take_line(r, view_cut(all, n));
		buf_consume(&r->heard, n + 1);
	}
}

static void on_end(void *arg)
{
	struct engines_round *r = arg;
	r->http = NULL;
	const char *pool = r->todo.items[r->at];
	if (r->status != 200) { /* refused before it began; the words are the node's own */
		yyjson_doc *d = answer_of(r, pool, r->status, buf_view(&r->heard), NULL);
		yyjson_doc_free(d);
	} else if (r->got) {
		r->at++;
		round_hand_over(r);
	} else if (r->message && r->configured && !r->only) { /* nobody asked for this one by name */
		r->at++;
		round_next(r);
	} else {
		AUTO(mem_freep)
		char *why = mem_strdup(r->message ? r->message : "the node ended it without a word");
		round_fail(r, CODE_CONFLICT, pool, why);
	}
}

static void on_error(void *arg, enum http_fail f, const struct err *e)
{
	(void)f;
	struct engines_round *r = arg;
	r->http = NULL;
	round_fail(r, CODE_POOL_UNREADY, r->todo.items[r->at], e->msg);
}

static void get(struct engines_round *r)
{
	static const struct http_call_ops ops = {
		.on_head = on_head, .on_data = on_data, .on_end = on_end, .on_error = on_error
	};
	struct http_target *t = api_node_target(r->api);
	AUTO(buf_done) struct buf head = BUF(256);
	AUTO(buf_done) struct buf body = BUF(8 * KIB);
	if (!t) {
		round_fail(r, CODE_POOL_UNREADY, r->todo.items[r->at], "No node is online");
		return;
	}
	round_pool_body(r->todo.items[r->at], r->to, &body);
	(void)http_header_add(&head, "Content-Type", VIEW("application/json"));
	buf_reset(&r->heard);
	r->status = 0;
	r->got = r->configured = false;
	free(MEM_TAKE(r->message));
	struct http_call_req q = { .method = VIEW("POST"),
		.path = VIEW("/v1/node/engines/upgrade"),
		.block = &head,
		.body_len = (int64_t)body.len };
	r->http = http_call_start(t, &q, &ops, r);
	(void)http_call_write(r->http, buf_view(&body));
}

void round_next(struct engines_round *r)
{
	while (r->at < r->todo.len && strv_has(&r->covered, r->todo.items[r->at]))
		r->at++;
	if (r->at == r->todo.len || !r->call) {
		finish(r);
		return;
	}
	if (r->upgrade) {
		get(r);
		return;
	}
	AUTO(buf_done) struct buf body = BUF(8 * KIB);
	round_pool_body(r->todo.items[r->at], NULL, &body);
	if (!round_ask_node(r, "POST", "/v1/node/engines/rollback", &body, on_rolled_back))
		round_fail(r, CODE_POOL_UNREADY, r->todo.items[r->at], "No node is online");
}

/* ---- its beginning ---------------------------------------------------------------------------------------
 */

static void on_pools(void *arg, int status, struct view body, const struct err *e)
{
	struct engines_round *r = arg;
	r->fetch = NULL;
	yyjson_doc *d = answer_of(r, r->only ? r->only : "-", status, body, e);
	if (!d)
		return;
	AUTO(strv_done) struct strv all = { 0 };
	take_list(yyjson_obj_get(yyjson_doc_get_root(d), "pools"), &all);
	yyjson_doc_free(d);
	if (!all.len || (r->only && !strv_has(&all, r->only))) {
		round_fail(r, CODE_CONFLICT, r->only ? r->only : "-",
			!r->only   ? "No pool takes this engine"
			: r->every ? "There is no such pool here"
				   : "That pool does not take this engine");
		return;
	}
	if (r->only)
		strv_add(&r->todo, r->only);
	else
		strv_copy(&r->todo, &all);
	if (r->upgrade) {
		AUTO(buf_done) struct buf head = BUF(256);
		(void)http_header_add(&head, "Cache-Control", VIEW("no-cache"));
		api_stream(r->call, "text/event-stream", &head);
	}
	round_next(r);
}

/* 0, or the call was answered. */
static int read_body(struct api_call *c, struct engines_round *r)
{
	yyjson_doc *d = c->body.len ? yyjson_read(c->body.data, c->body.len, 0) : NULL;
	yyjson_val *o = yyjson_doc_get_root(d), *pool = yyjson_obj_get(o, "pool"),
		   *to = yyjson_obj_get(o, "to");
	bool bad = (c->body.len && !yyjson_is_obj(o)) || (pool && !yyjson_is_str(pool)) ||
		   (to && (!yyjson_is_str(to) || !r->upgrade || yyjson_get_len(to) > TO_MAX));
	size_t known = (size_t)(pool != NULL) + (to != NULL);
	bad |= yyjson_obj_size(o) != known; /* flags, a URL: nothing that only a file may name is read past */
	if (!bad) {
		struct control_pool *p =
			pool ? control_pool_find(r->api->o.control, view_str(yyjson_get_str(pool))) : NULL;
		r->only = mem_strdup(p ? control_pool_config(p)->id : yyjson_get_str(pool));
		r->to = mem_strdup(yyjson_get_str(to));
	}
	yyjson_doc_free(d);
	if (bad)
		api_failf(c, CODE_INVALID_PARAMS, 400,
			"What an engine is built from and with stands in the configuration's file alone.",
			r->upgrade
				? "The body is {\"to\": \"REF\", \"pool\": \"ID\"}, or without one of them."
				: "The body is {\"pool\": \"ID\"} or {}.");
	return bad ? -EINVAL : 0;
}

static void round_start(struct api *a, struct api_call *c, struct view id, bool upgrade)
{
	if (refuse_when_draining(a, c))
		return;
	if (a->round) {
		api_failf(c, CODE_CONFLICT, 0, "GET /v1/events tells how far it is.",
			"Engines are being replaced already, by order of %s.", a->round->by);
		return;
	}
	struct engines_round *r = NEW(struct engines_round);
	*r = (struct engines_round){ .api = a,
		.upgrade = upgrade,
		.every = view_eqs(id, "all"),
		.by = mem_strdup(c->by),
		.heard = BUF(HEARD_MAX) };
	a->round = r;
	AUTO(mem_freep) char *path = api_node_path("/v1/node/engines/", id, "/pools");
	AUTO(mem_freep) char *own = mem_fmt("unix:%s/corral.sock", a->o.config->runtime_dir);
	int bad = read_body(c, r);
	if (!bad && r->every && !upgrade && !r->only) {
		bad = -EINVAL;
		api_failf(c, CODE_INVALID_PARAMS, 400, "", "Say which `pool` goes back.");
	}
	if (!bad && upgrade && !(r->self = http_target_new(a->o.loop, own, NULL, NULL))) {
		bad = -EINVAL;
		api_failf(c, CODE_INTERNAL, 0, "", "The daemon cannot ask itself at %s.", own);
	}
	if (!bad && !round_ask_node(r, "GET", path, NULL, on_pools)) {
		bad = -EINVAL;
		api_failf(c, CODE_POOL_UNREADY, 0, "", "No node is online.");
	}
	if (bad) {
		round_free(r);
		return;
	}
	r->call = c;
	c->on_gone = client_left;
	c->on_drained = client_drained;
	c->arg = r;
}

void route_engines_rollback(struct api *a, struct api_call *c, const struct route_args *args)
{
	round_start(a, c, args->id, false);
}

void route_engines_upgrade(struct api *a, struct api_call *c, const struct route_args *args)
{
	round_start(a, c, args->id, true);
}

void route_engine(struct api *a, struct api_call *c, const struct route_args *args)
{
	AUTO(mem_freep) char *path = api_node_path("/v1/node/engines/", args->id, "");
	if (a->round) {
		api_failf(
			c, CODE_CONFLICT, 0, "", "Engines are being replaced, by order of %s.", a->round->by);
		return;
	}
	api_relay(a, c, "DELETE", path, VIEW(""));
}
