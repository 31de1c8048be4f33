/* SPDX-License-Identifier: Apache-2.0
 *
 * POST /v1/config/reload: the configuration is read again, or only looked at.
 */
#include <stdlib.h>
#include <yyjson.h>

#include "api/api_int.h"
#include "base/mem.h"

enum { ANSWER_MAX = 8 * 1024 * 1024 };

struct reload_wait {
	struct api_call *call; /* NULL: the client left */
	bool dry_run;
};

static void client_left(void *arg)
{
	((struct reload_wait *)arg)->call = NULL;
}

/* ---- the answer ------------------------------------------------------------------------------------ */

/* "ctx, slots" as a list. */
static void add_keys(const char *keys, struct buf *b)
{
	(void)buf_addc(b, '[');
	for (struct view rest = view_str(keys); rest.p && rest.n;) {
		struct view key = view_trim(view_split(rest, ',', &rest));
		(void)buf_add_json(b, key);
		(void)buf_adds(b, rest.p ? "," : "");
	}
	(void)buf_addc(b, ']');
}

static void add_change(const struct config_change *c, bool first, struct buf *b)
{
	(void)buf_addf(b, "%s{\"kind\":\"%s\",\"pool\":", first ? "" : ",", config_change_kind_name(c->kind));
	if (c->pool)
		(void)buf_add_json(b, view_str(c->pool));
	else
		(void)buf_adds(b, "null");
	(void)buf_adds(b, ",\"keys\":");
	add_keys(c->keys, b);
	(void)buf_adds(b, ",\"human\":");
	(void)buf_add_json(b, view_str(c->human));
	(void)buf_addc(b, '}');
}

static void add_changes(const struct config_diff *d, bool next_start, struct buf *b)
{
	bool first = true;
	(void)buf_addc(b, '[');
	for (size_t i = 0; i < d->len; i++) {
		if ((d->items[i].kind == CONFIG_TOP_NEXT_START) != next_start)
			continue;
		add_change(&d->items[i], first, b);
		first = false;
	}
	(void)buf_addc(b, ']');
}

static int plan_json(const struct reload_wait *w, const struct api_reload *how, struct buf *b)
{
	static const struct config_errors none;
	(void)buf_addf(b, "{\"applied\":%s,\"dry_run\":%s,\"changes\":", how->applied ? "true" : "false",
		w->dry_run ? "true" : "false");
	add_changes(how->diff, false, b);
	(void)buf_adds(b, ",\"next_start\":");
	add_changes(how->diff, true, b);
	(void)buf_adds(b, ",\"warnings\":");
	(void)config_errors_json(how->warnings ? how->warnings : &none, b);
	return buf_addc(b, '}');
}

static void reply_mistakes(struct api_call *c, const struct config_errors *e)
{
	AUTO(buf_done) struct buf more = BUF(ANSWER_MAX);
	AUTO(buf_done) struct buf body = BUF(2 * ANSWER_MAX);
	size_t n = e->len + e->dropped;
	AUTO(mem_freep)
	char *message =
		mem_fmt("The configuration has %zu mistake%s and is not taken; everything stays as it is.", n,
			n == 1 ? "" : "s");
	(void)buf_adds(&more, "\"errors\":");
	(void)config_errors_json(e, &more);
	(void)buf_addf(&more, ",\"dropped\":%zu", e->dropped);
	struct api_error x = { .code = CODE_INVALID_PARAMS,
		.retriable = 0,
		.message = view_str(message),
		.hint = VIEW("`corral config check` shows each with its line."),
		.more = buf_view(&more),
		.request_id = view_str(c->request_id) };
	(void)api_error_body(DIALECT_OPENAI, &x, &body);
	api_reply(c, 400, "application/json", NULL, buf_view(&body));
}

static void on_reloaded(void *arg, const struct api_reload *how)
{
	struct reload_wait *w = arg;
	struct api_call *c = w->call;
	AUTO(buf_done) struct buf b = BUF(ANSWER_MAX);
	if (!c) {
		free(w);
		return;
	}
	if (how->errors)
		reply_mistakes(c, how->errors);
	else if (how->problem)
		api_failf(c, CODE_CONFLICT, 0, how->hint, "%s", how->problem);
	else if (plan_json(w, how, &b))
		api_failf(
			c, CODE_INTERNAL, 0, "", "The plan is larger than %d MiB.", ANSWER_MAX / 1024 / 1024);
	else
		api_reply_json(c, 200, buf_view(&b));
	free(w);
}

/* ---- the question ---------------------------------------------------------------------------------- */

static bool read_dry_run(struct api_call *c, bool *ret)
{
	*ret = false;
	if (!c->body.len)
		return true;
	yyjson_doc *d = yyjson_read(c->body.data, c->body.len, 0);
	yyjson_val *root = yyjson_doc_get_root(d), *v = yyjson_obj_get(root, "dry_run");
	bool fine = yyjson_is_obj(root) && (!v || yyjson_is_bool(v)) && yyjson_obj_size(root) == (v ? 1 : 0);
	*ret = fine && yyjson_is_true(v);
	yyjson_doc_free(d);
	if (!fine)
		api_failf(c, CODE_INVALID_PARAMS, 400, "", "The body is {} or {\"dry_run\": true or false}.");
	return fine;
}

void route_config_reload(struct api *a, struct api_call *c, const struct route_args *args)
{
	bool dry_run;
	(void)args;
	if (!read_dry_run(c, &dry_run) || refuse_when_draining(a, c))
		return;
	struct reload_wait *w = NEW(struct reload_wait);
	w->call = c;
	w->dry_run = dry_run;
	c->on_gone = client_left;
	c->arg = w;
	a->o.reload(a->o.arg, dry_run, c->by, on_reloaded, w);
}
