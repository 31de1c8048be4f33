/* SPDX-License-Identifier: Apache-2.0
 *
 * corral pull: has the daemon fetch a model, or fetches it by itself where none runs. The same events either
 * way: a bar on a terminal, a line for each tenth elsewhere, JSON Lines with --json.
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <yyjson.h>

#include "base/mem.h"
#include "base/num.h"
#include "cli/cli_int.h"

enum { OPT_MMPROJ = 1, OPT_DRAFT, OPT_LORA, OPT_SHA256, OPT_SNAPSHOT };

struct pull {
	struct cli *cli;
	struct cli_pull what;
	bool bar, drawn, done, failed;
	int told_tenth;
	char phase[16];
	const char *verb; /* "pulled", "verified" */
};

static const char *text_of(yyjson_val *o, const char *key)
{
	const char *s = yyjson_get_str(yyjson_obj_get(o, key));
	return s ? s : "";
}

void bar_clear(bool *drawn)
{
	if (*drawn)
		fprintf(stderr, "\r\033[K");
	*drawn = false;
}

void bar_draw(bool *drawn, const char *phase, int pct, const char *text)
{
	enum { WIDTH = 24 };
	char bar[WIDTH + 1];
	for (int i = 0; i < WIDTH; i++)
		bar[i] = pct >= 0 && i < pct * WIDTH / 100 ? '#' : '.';
	bar[WIDTH] = '\0';
	AUTO(buf_done) struct buf words = BUF(4096);
	clean_add(&words, view_cut(view_str(text), 300), false);
	if (pct < 0)
		fprintf(stderr, "\r\033[K%s: %s", phase, buf_str(&words));
	else
		fprintf(stderr, "\r\033[K[%s] %3d %%  %s", bar, pct, buf_str(&words));
	fflush(stderr);
	*drawn = true;
}

static void show_progress(struct pull *p, yyjson_val *o)
{
	uint64_t bytes = yyjson_get_uint(yyjson_obj_get(o, "bytes"));
	uint64_t total = yyjson_get_uint(yyjson_obj_get(o, "total"));
	const char *phase = text_of(o, "phase");
	int pct = total ? (int)(MIN(bytes, total) * 100 / total) : -1;
	if (p->bar) {
		bar_draw(&p->drawn, phase, pct, text_of(o, "text"));
		return;
	}
	bool other = strncmp(p->phase, phase, sizeof p->phase - 1) != 0;
	if (!other && pct / 10 <= p->told_tenth)
		return;
	snprintf(p->phase, sizeof p->phase, "%s", phase);
	p->told_tenth = pct / 10;
	AUTO(buf_done) struct buf words = BUF(4096);
	clean_add(&words, view_cut(view_str(text_of(o, "text")), 300), false);
	if (pct < 0)
		fprintf(stderr, "%s: %s\n", phase, buf_str(&words));
	else
		fprintf(stderr, "%s %d %%: %s\n", phase, pct, buf_str(&words));
}

static void show_error(struct pull *p, yyjson_val *e)
{
	p->failed = true;
	complain("%s", text_of(e, "message"));
	if (*text_of(e, "hint"))
		hint("%s", text_of(e, "hint"));
}

static void show_done(struct pull *p, yyjson_val *o)
{
	char size[32];
	AUTO(buf_done) struct buf out = BUF(64 * KIB);
	p->done = true;
	if (strcmp(p->verb, "verified") == 0) {
		(void)buf_addf(&out, "%s is what it was.\n", text_of(o, "id"));
	} else {
		uint64_t fetched = yyjson_get_uint(yyjson_obj_get(o, "fetched_bytes"));
		num_format_bytes(yyjson_get_uint(yyjson_obj_get(o, "size_bytes")), size, sizeof size);
		(void)buf_addf(
			&out, "%s is here%s: %s, ", text_of(o, "reference"), fetched ? "" : " already", size);
		clean_add(&out, view_str(text_of(o, "path")), false);
		(void)buf_addc(&out, '\n');
	}
	(void)say(&out);
	if (*text_of(o, "warning"))
		hint("%s", text_of(o, "warning"));
}

static void on_event(void *arg, struct view data)
{
	struct pull *p = arg;
	yyjson_doc *d = yyjson_read(data.n ? data.p : "", data.n, 0);
	yyjson_val *o = yyjson_doc_get_root(d), *error = yyjson_obj_get(o, "error");
	bool progress = yyjson_obj_get(o, "phase") != NULL;
	if (p->cli->json) {
		printf("%.*s\n", VIEW_ARG(data));
		fflush(stdout);
		p->done |= !progress && !error;
		p->failed |= error != NULL;
	} else if (progress) {
		show_progress(p, o);
	} else {
		bar_clear(&p->drawn);
		if (error)
			show_error(p, error);
		else if (yyjson_is_obj(o))
			show_done(p, o);
	}
	yyjson_doc_free(d);
}

static void on_data(void *arg, struct view bytes)
{
	sse_feed(arg, bytes);
}

static int verdict(struct pull *p, int r, int http)
{
	bar_clear(&p->drawn);
	if (!r && http && !p->done && !p->failed)
		complain("the daemon ended in the middle of it; ask again, it goes on where it stopped");
	if (!r && !http)
		hint("the daemon goes on with it; `corral models ls` shows it once it is here");
	return r ? r : p->done || !http ? CLI_OK : CLI_FAILED;
}

int api_events(struct cli *c, struct api *a, const char *path, const struct buf *body, const char *verb,
	bool quiet_unreachable)
{
	struct pull p = { .cli = c, .bar = color_for(2) && !c->json, .verb = verb, .told_tenth = -1 };
	AUTO(sse_done) struct sse sse;
	int http = 0;
	sse_init(&sse, on_event, &p);
	struct api_req req = { .method = "POST",
		.path = path,
		.body = body,
		.timeout_ms = -1,
		.on_data = on_data,
		.arg = &sse,
		.interruptible = true,
		.quiet_unreachable = quiet_unreachable };
	AUTO(buf_done) struct buf answer = BUF(1 * MIB);
	int r = api_call(a, &req, &answer, &http);
	return verdict(&p, r, http);
}

static void add_member(struct buf *b, const char *key, const char *text)
{
	if (!text)
		return;
	(void)buf_addf(b, ",\"%s\":", key);
	(void)buf_add_json(b, view_str(text));
}

static void body_of(const struct cli_pull *w, struct buf *b)
{
	(void)buf_adds(b, "{\"reference\":");
	(void)buf_add_json(b, view_str(w->ref));
	add_member(b, "mmproj", w->mmproj);
	add_member(b, "draft", w->draft);
	add_member(b, "sha256", w->sha256);
	for (size_t i = 0; i < w->lora.len; i++) {
		(void)buf_adds(b, i ? "," : ",\"lora\":[");
		(void)buf_add_json(b, view_str(w->lora.items[i]));
	}
	(void)buf_addf(b, "%s%s}", w->lora.len ? "]" : "", w->snapshot ? ",\"snapshot\":true" : "");
}

/* Nobody listens: by ourselves. */
static int pull_alone(struct cli *c, struct pull *p)
{
	AUTO(config_unrefp) struct config *cfg = NULL;
	struct config_source src = { .path = c->config_path };
	int r = config_load_or_say(&src, &cfg);
	if (r)
		return r;
	if (!c->roles->pull) {
		complain("no daemon answers, and this build cannot fetch without one");
		return CLI_UNREACHABLE;
	}
	p->what.on_event = on_event;
	p->what.arg = p;
	r = c->roles->pull(cfg, &p->what);
	bar_clear(&p->drawn);
	return r || !p->done ? CLI_FAILED : CLI_OK;
}

static int pull(struct cli *c, struct pull *p)
{
	struct api a;
	int r = api_open(c, &a);
	if (r)
		return r;
	AUTO(buf_done) struct buf body = BUF(1 * MIB);
	body_of(&p->what, &body);
	bool remote = a.from_url;
	r = api_events(c, &a, "/v1/catalog/pull", &body, "pulled", !remote);
	api_close(&a);
	return r == CLI_UNREACHABLE && !remote ? pull_alone(c, p) : r;
}

static int on_option(void *arg, int opt, const char *value)
{
	struct cli_pull *w = arg;
	switch (opt) {
	case OPT_MMPROJ: w->mmproj = value; break;
	case OPT_DRAFT: w->draft = value; break;
	case OPT_LORA: strv_add(&w->lora, value); break;
	case OPT_SHA256: w->sha256 = value; break;
	default: w->snapshot = true;
	}
	return 0;
}

int cmd_pull(struct cli *c, const struct command *cmd, int argc, char **argv)
{
	static const struct option longs[] = { { "mmproj", required_argument, NULL, OPT_MMPROJ },
		{ "draft", required_argument, NULL, OPT_DRAFT },
		{ "lora", required_argument, NULL, OPT_LORA },
		{ "sha256", required_argument, NULL, OPT_SHA256 },
		{ "snapshot", no_argument, NULL, OPT_SNAPSHOT }, { 0 } };
	struct pull p = { .cli = c, .bar = color_for(2) && !c->json, .verb = "pulled", .told_tenth = -1 };
	struct options o = { .longs = longs, .fn = on_option, .arg = &p.what, .min = 1, .max = 1 };
	int first, status;
	if (options_read(c, cmd, &o, argc, argv, &first, &status) == 0) {
		p.what.ref = argv[first];
		status = pull(c, &p);
	}
	strv_done(&p.what.lora);
	return status;
}
