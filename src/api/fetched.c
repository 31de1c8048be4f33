/* SPDX-License-Identifier: Apache-2.0
 *
 * A model by its reference, which the node looks for and fetches, for a call that goes on with the file. The
 * steps are told as events of the pool. The client may leave: it goes on.
 */
#include <stdlib.h>
#include <yyjson.h>

#include "api/api_int.h"
#include "base/mem.h"
#include "log/log.h"

enum { LINE_MAX_BYTES = 256 * 1024 };

struct fetched {
	struct list node;
	struct api *api;
	struct api_call *call; /* NULL: the client left */
	struct http_call *http;
	char *pool, *ref, *by;
	api_fetched_fn *fn;
	struct buf heard; /* a line that is not whole yet, or an answer that is no stream */
	int status;
	int told_tenth;
	char *path, *message, *hint, *cause; /* how it ended */
};

static void fetched_free(struct fetched *f)
{
	if (f->http)
		http_call_cancel(f->http);
	list_remove(&f->node);
	f->api->nstreams--;
	buf_done(&f->heard);
	char *all[] = { f->pool, f->ref, f->by, f->path, f->message, f->hint, f->cause };
	for (size_t i = 0; i < ARRAY_LEN(all); i++)
		free(all[i]);
	free(f);
}

void fetched_done(struct api *a)
{
	LIST_FOREACH(f, &a->fetched, struct fetched, node)
	{
		if (f->call)
			api_failf(f->call, CODE_INTERNAL, 503, "", "The server is going down.");
		fetched_free(f);
	}
}

static void client_left(void *arg)
{
	((struct fetched *)arg)->call = NULL;
}

static void tell_progress(struct fetched *f, yyjson_val *o)
{
	uint64_t bytes = yyjson_get_uint(yyjson_obj_get(o, "bytes"));
	uint64_t total = yyjson_get_uint(yyjson_obj_get(o, "total"));
	const char *text = yyjson_get_str(yyjson_obj_get(o, "text"));
	int tenth = total ? (int)(MIN(bytes, total) * 10 / total) : 0;
	if (tenth <= f->told_tenth)
		return;
	f->told_tenth = tenth;
	log_event(LOG_INFO, "reload", f->pool,
		(struct log_field[]){ LOG_STR("pool_id", f->pool), LOG_STR("step", "fetch"),
			LOG_INT("pct", tenth * 10), LOG_STR("by", f->by), LOG_END },
		"%s is being fetched for pool %s: %s.", f->ref, f->pool, text ? text : "it goes on");
}

static char *text_of(yyjson_val *o, const char *key)
{
	return mem_strdup(yyjson_get_str(yyjson_obj_get(o, key)));
}

static void take_error(struct fetched *f, yyjson_val *error)
{
	free(f->message);
	free(f->hint);
	free(f->cause);
	f->message = text_of(error, "message");
	f->hint = text_of(error, "hint");
	f->cause = text_of(error, "cause");
}

static void take_line(struct fetched *f, struct view line)
{
	if (!view_starts(line, VIEW("data: ")))
		return;
	line = view_from(line, 6);
	yyjson_doc *d = line.n ? yyjson_read(line.p, line.n, 0) : NULL;
	yyjson_val *o = yyjson_doc_get_root(d), *error = yyjson_obj_get(o, "error");
	if (error) {
		take_error(f, error);
	} else if (yyjson_obj_get(o, "phase")) {
		tell_progress(f, o);
	} else if (yyjson_is_str(yyjson_obj_get(o, "path"))) {
		free(f->path);
		f->path = text_of(o, "path");
	}
	yyjson_doc_free(d);
}

static void on_head(void *arg, struct http_call *http, int status, const struct http_headers *h)
{
	(void)http;
	(void)h;
	((struct fetched *)arg)->status = status;
}

static void on_data(void *arg, struct view bytes)
{
	struct fetched *f = arg;
	if (buf_addv(&f->heard, bytes))
		buf_reset(&f->heard); /* a line of no event of ours */
	while (f->status == 200) {
		struct view all = buf_view(&f->heard);
		size_t n = all.n ? view_find(all, '\n') : 0;
		if (n == all.n)
			return;
		take_line(f, view_cut(all, n));
		buf_consume(&f->heard, n + 1);
	}
}

static void refuse(struct fetched *f)
{
	static const struct {
		const char *cause;
		enum corral_code code;
	} codes[] = { { "refused", CODE_FORBIDDEN }, { "missing", CODE_INVALID_PARAMS },
		{ "input", CODE_INVALID_PARAMS }, { "digest", CODE_UNTRUSTED_ARTIFACT } };
	enum corral_code code = f->status == 403   ? CODE_FORBIDDEN
				: f->status == 400 ? CODE_INVALID_PARAMS
						   : CODE_CONFLICT;
	for (size_t i = 0; f->cause && i < ARRAY_LEN(codes); i++)
		if (strcmp(codes[i].cause, f->cause) == 0)
			code = codes[i].code;
	struct view why = view_str(f->message ? f->message : "the node ended it without a word");
	log_event(LOG_WARN, "reload_failed", f->pool,
		(struct log_field[]){ LOG_STR("pool_id", f->pool), LOG_STR("by", f->by), LOG_END },
		"%s cannot be had for pool %s: %.*s", f->ref, f->pool, VIEW_ARG(why));
	if (f->call)
		api_failf(f->call, code, code == CODE_INVALID_PARAMS ? 400 : 0, f->hint ? f->hint : "",
			"The reload came to nothing: %.*s%s", VIEW_ARG(view_cut(why, 3000)),
			view_ends(why, VIEW(".")) ? "" : ".");
}

static void end(struct fetched *f)
{
	f->http = NULL;
	if (f->call)
		f->call->on_gone = NULL;
	if (f->path)
		f->fn(f->api, f->call, f->pool, f->path, f->by);
	else
		refuse(f);
	fetched_free(f);
}

static void on_end(void *arg)
{
	struct fetched *f = arg;
	if (f->status != 200 && f->heard.len) {
		yyjson_doc *d = yyjson_read(f->heard.data, f->heard.len, 0);
		take_error(f, yyjson_obj_get(yyjson_doc_get_root(d), "error"));
		yyjson_doc_free(d);
	}
	end(f);
}

static void on_error(void *arg, enum http_fail how, const struct err *e)
{
	(void)how;
	struct fetched *f = arg;
	mem_setstr(&f->message, e->msg);
	end(f);
}

static const struct http_call_ops ops = {
	.on_head = on_head, .on_data = on_data, .on_end = on_end, .on_error = on_error
};

void api_fetch(struct api *a, struct api_call *c, const char *pool, const char *ref, api_fetched_fn *fn)
{
	struct http_target *t = api_stream_target(a, c);
	if (!t)
		return;
	AUTO(buf_done) struct buf body = BUF(64 * KIB);
	struct fetched *f = NEW(struct fetched);
	*f = (struct fetched){ .api = a,
		.call = c,
		.fn = fn,
		.pool = mem_strdup(pool),
		.ref = mem_strdup(ref),
		.by = mem_strdup(c->by),
		.heard = BUF(LINE_MAX_BYTES) };
	c->on_gone = client_left;
	c->arg = f;
	list_append(&a->fetched, &f->node);
	a->nstreams++;
	(void)buf_adds(&body, "{\"reference\":");
	(void)buf_add_json(&body, view_str(ref));
	(void)buf_addc(&body, '}');
	f->http = api_node_call(t, "POST", "/v1/node/catalog/pull", buf_view(&body), &ops, f);
}
