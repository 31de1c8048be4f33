/* SPDX-License-Identifier: Apache-2.0
 *
 * corral engines upgrade, rollback and rm: a daemon that runs does it, and its pools get new engines
 * meanwhile (/v1/engines/…). Where none runs the node's side does it here, and the next start takes that
 * build.
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <yyjson.h>

#include "base/mem.h"
#include "cli/cli_int.h"

struct told {
	struct cli *cli;
	bool bar, drawn, done, failed;
	char pool[64], phase[24];
	int tenth;
};

static const char *text_of(yyjson_val *o, const char *key)
{
	const char *s = yyjson_get_str(yyjson_obj_get(o, key));
	return s ? s : "";
}

static void show_progress(struct told *t, yyjson_val *o)
{
	yyjson_val *percent = yyjson_obj_get(o, "percent");
	const char *pool = text_of(o, "pool"), *phase = text_of(o, "phase"), *text = text_of(o, "text");
	int pct = yyjson_is_int(percent) ? (int)yyjson_get_int(percent) : -1;
	if (t->bar) {
		bar_draw(&t->drawn, pool, pct, text);
		return;
	}
	bool other = strncmp(t->phase, phase, sizeof t->phase - 1) != 0 ||
		     strncmp(t->pool, pool, sizeof t->pool - 1) != 0;
	if (!other && pct > 0 && pct / 10 <= t->tenth)
		return;
	snprintf(t->pool, sizeof t->pool, "%s", pool);
	snprintf(t->phase, sizeof t->phase, "%s", phase);
	t->tenth = pct / 10;
	AUTO(buf_done) struct buf words = BUF(4096);
	clean_add(&words, view_cut(view_str(text), 300), false);
	fprintf(stderr, "%s: %s\n", pool, buf_str(&words));
}

static void show(struct told *t, yyjson_val *o)
{
	const char *pool = text_of(o, "pool");
	bar_clear(&t->drawn);
	if (yyjson_obj_get(o, "message")) {
		complain("engines upgrade %s: %s", pool, text_of(o, "message"));
	} else if (yyjson_obj_get(o, "why")) {
		printf("%s: %s\n", pool, text_of(o, "why"));
		fflush(stdout);
	} else if (yyjson_obj_get(o, "text")) {
		hint("%s: %s", pool, text_of(o, "text"));
	}
}

static void on_event(void *arg, struct view data)
{
	struct told *t = arg;
	yyjson_doc *d = yyjson_read(data.n ? data.p : "", data.n, 0);
	yyjson_val *o = yyjson_doc_get_root(d);
	t->failed |= yyjson_obj_get(o, "message") != NULL;
	t->done |= yyjson_obj_get(o, "pools") && !yyjson_obj_get(o, "pool");
	if (t->cli->json) {
		printf("%.*s\n", VIEW_ARG(data));
		fflush(stdout);
	} else if (yyjson_obj_get(o, "phase")) {
		show_progress(t, o);
	} else if (yyjson_is_obj(o)) {
		show(t, o);
	}
	yyjson_doc_free(d);
}

static void on_data(void *arg, struct view bytes)
{
	sse_feed(arg, bytes);
}

static void body_of(const struct cli_engines_opts *e, struct buf *b)
{
	const char *sep = "";
	(void)buf_addc(b, '{');
	if (e->name) {
		(void)buf_adds(b, "\"pool\":");
		(void)buf_add_json(b, view_str(e->name));
		sep = ",";
	}
	if (e->to) {
		(void)buf_addf(b, "%s\"to\":", sep);
		(void)buf_add_json(b, view_str(e->to));
	}
	(void)buf_addc(b, '}');
}

/* CLI_UNREACHABLE, unsaid: no daemon runs here. */
static int ask(struct cli *c, struct api_req *req, struct buf *answer, int *ret_http)
{
	struct api a;
	int r = api_open(c, &a);
	*ret_http = 0;
	if (r)
		return r;
	bool remote = a.from_url;
	req->quiet_unreachable = !remote;
	req->timeout_ms = -1; /* a build takes long, and so does a load */
	r = api_call(&a, req, answer, ret_http);
	api_close(&a);
	return r == CLI_UNREACHABLE && remote ? CLI_FAILED : r;
}

/* ---- upgrade ------------------------------------------------------------------------------------- */

static int upgrade_alone(struct cli *c, struct cli_engines_opts *e)
{
	const struct config *cfg = e->config;
	AUTO(mem_freep) bool *changed = mem_alloc((cfg->npools + 1) * sizeof *changed);
	bool skipped = false, any = false;
	const char *only = e->name;
	int status = CLI_OK;
	e->ret_changed = changed;
	e->ret_skipped = only ? NULL : &skipped;
	for (size_t i = 0; i < cfg->npools && status == CLI_OK; i++) {
		if (only && config_pool_find(cfg, view_str(only)) != &cfg->pools[i])
			continue;
		e->name = cfg->pools[i].id;
		status = c->roles->engines(e);
		for (size_t k = 0; k < cfg->npools; k++)
			any |= changed[k];
	}
	if (any)
		hint("no daemon runs: the next start takes the new build");
	return status;
}

int engines_upgrade(struct cli *c, struct cli_engines_opts *e)
{
	struct told t = { .cli = c, .bar = isatty(STDERR_FILENO) && !c->json };
	AUTO(buf_done) struct buf answer = BUF(API_BODY_MAX);
	AUTO(buf_done) struct buf body = BUF(64 * KIB);
	AUTO(sse_done) struct sse sse;
	int http;
	sse_init(&sse, on_event, &t);
	body_of(e, &body);
	struct api_req req = { .method = "POST",
		.path = "/v1/engines/all/upgrade",
		.body = &body,
		.on_data = on_data,
		.arg = &sse,
		.interruptible = true };
	int r = ask(c, &req, &answer, &http);
	bar_clear(&t.drawn);
	if (r == CLI_UNREACHABLE)
		return upgrade_alone(c, e);
	if (r)
		return r;
	if (!t.done && !t.failed && http)
		complain("the daemon ended in the middle of it; ask again, it goes on where it stopped");
	if (!http)
		hint("what was got so far is kept; ask again, it goes on from there");
	return t.done && !t.failed ? CLI_OK : CLI_FAILED;
}

/* ---- rollback ------------------------------------------------------------------------------------ */

static int say_back(struct cli *c, const struct cli_engines_opts *e, const struct buf *answer)
{
	AUTO(buf_done) struct buf out = BUF(API_BODY_MAX);
	if (c->json) {
		(void)buf_addf(&out, "%s\n", buf_str(answer));
		return say(&out);
	}
	yyjson_doc *d = answer->len ? yyjson_read(answer->data, answer->len, 0) : NULL;
	yyjson_val *o = yyjson_doc_get_root(d), *pool;
	size_t i, n;
	(void)buf_addf(&out, "%s: %s is current again", e->name, text_of(o, "engine"));
	yyjson_arr_foreach(yyjson_obj_get(o, "pools"), i, n, pool)
	{
		const char *id = yyjson_get_str(pool);
		(void)buf_addf(&out, "%s%s", i ? ", " : "; new engines: ", id ? id : "");
	}
	(void)buf_adds(&out, ".\n");
	yyjson_doc_free(d);
	return say(&out);
}

int engines_rollback(struct cli *c, const struct cli_engines_opts *e)
{
	AUTO(buf_done) struct buf answer = BUF(API_BODY_MAX);
	AUTO(buf_done) struct buf body = BUF(64 * KIB);
	body_of(e, &body);
	struct api_req req = { .method = "POST", .path = "/v1/engines/all/rollback", .body = &body };
	int http, r = ask(c, &req, &answer, &http);
	if (r != CLI_UNREACHABLE)
		return r ? r : say_back(c, e, &answer);
	int status = c->roles->engines(e);
	if (status == CLI_OK)
		hint("no daemon runs: the next start takes that build");
	return status;
}

/* ---- rm ------------------------------------------------------------------------------------------ */

static bool on_refused(void *arg, int status, struct view body)
{
	(void)arg;
	AUTO(buf_done) struct buf message = BUF(64 * KIB);
	AUTO(buf_done) struct buf more = BUF(64 * KIB);
	api_error_text(body, &message, &more);
	if (status != 409 || !strstr(buf_str(&message), "is the current build of"))
		return false;
	struct view text = buf_view(&message);
	complain("engines rm: %.*s: --force removes it all the same, and the next start gets it anew",
		VIEW_ARG(view_cut(text, text.n - view_ends(text, VIEW(".")))));
	return true;
}

int engines_drop(struct cli *c, const struct cli_engines_opts *e)
{
	AUTO(buf_done) struct buf answer = BUF(API_BODY_MAX);
	AUTO(buf_done) struct buf path = BUF(16 * KIB);
	AUTO(buf_done) struct buf body = BUF(64);
	AUTO(buf_done) struct buf out = BUF(64 * KIB);
	int http;
	if (e->force) /* the API removes what nobody needs, no more */
		return c->roles->engines(e);
	(void)buf_adds(&path, "/v1/engines/");
	path_add(&path, e->name);
	(void)buf_adds(&body, "{}");
	struct api_req req = {
		.method = "DELETE", .path = buf_str(&path), .body = &body, .on_refused = on_refused
	};
	int r = ask(c, &req, &answer, &http);
	if (r == CLI_UNREACHABLE)
		return c->roles->engines(e);
	if (r)
		return r;
	yyjson_doc *d = answer.len ? yyjson_read(answer.data, answer.len, 0) : NULL;
	const char *name = text_of(yyjson_doc_get_root(d), "removed");
	if (strchr(name, '@'))
		(void)buf_addf(&out,
			"%s is not pinned any more; its runtime still has the image: podman (or docker) rmi "
			"%s.\n",
			name, name);
	else
		(void)buf_addf(&out, "%s was removed.\n", *name ? name : e->name);
	yyjson_doc_free(d);
	return say(&out);
}
