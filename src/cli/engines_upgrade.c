/* SPDX-License-Identifier: Apache-2.0
 *
 * corral engines upgrade: build beside, hand over, compare, and back where it fails. The build is the node's
 * side (roles->engines); handing over is a reload of the pool by a running daemon; what is compared is one
 * short greedy answer of the pool's own model before and after.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "base/mem.h"
#include "cli/cli_int.h"
#include "dialect/sample.h"

static bool on_refused(void *arg, int status, struct view body)
{
	(void)arg;
	(void)status;
	(void)body;
	return true; /* whoever asked says what it means */
}

/* CLI_OK when somebody answered at all. */
static int ask(struct api *a, const char *method, const char *path, const struct buf *body,
	struct buf *answer, int *ret_http)
{
	struct api_req r = { .method = method,
		.path = path,
		.body = body,
		.timeout_ms = SAMPLE_MS,
		.on_refused = on_refused,
		.quiet_unreachable = true };
	*ret_http = 0;
	return api_call(a, &r, answer, ret_http);
}

/* Whether a replica of it is up: an engine is not started for a comparison. */
static bool is_up(struct api *a, const char *pool)
{
	AUTO(buf_done) struct buf path = BUF(4 * KIB), answer = BUF(API_BODY_MAX);
	int http;
	(void)buf_adds(&path, "/v1/pools/");
	path_add(&path, pool);
	(void)buf_adds(&path, "/health");
	(void)!ask(a, "GET", buf_str(&path), NULL, &answer, &http);
	yyjson_doc *doc = http == 200 ? yyjson_read(buf_str(&answer), answer.len, 0) : NULL;
	bool ready = yyjson_get_bool(yyjson_obj_get(yyjson_doc_get_root(doc), "ready"));
	yyjson_doc_free(doc);
	return ready;
}

static void take_sample(struct cli *c, const char *pool, bool only_up, struct sample *ret)
{
	AUTO(buf_done) struct buf body = BUF(8 * KIB), answer = BUF(API_BODY_MAX);
	struct api a;
	int http;
	*ret = (struct sample){ 0 };
	if (api_open(c, &a))
		return;
	sample_request(pool, &body);
	if ((!only_up || is_up(&a, pool)) &&
		ask(&a, "POST", "/v1/chat/completions", &body, &answer, &http) == CLI_OK)
		sample_read(http, buf_view(&answer), ret);
	api_close(&a);
}

static void compare(
	const char *pool, const struct sample *was, const struct sample *now, const uint64_t bytes[2])
{
	AUTO(buf_done) struct buf text = BUF(8 * KIB);
	sample_compare(was, now, bytes, &text);
	hint("%s: %s", pool, buf_str(&text));
}

static int reload(struct cli *c, const char *pool)
{
	char *words[] = { (char *)(uintptr_t) "reload", (char *)(uintptr_t)pool, NULL };
	return cmd_reload(c, command_find("reload"), 2, words);
}

/* A round: what one pool asks for is got, and handed to every pool that asks for the same. */
struct round {
	struct cli *c;
	struct cli_engines_opts *e;
	bool *changed; /* for each of the configuration's pools: it has another build now */
	bool *has;     /* its engines have been replaced */
	uint64_t bytes[2];
};

static const char *pool_at(const struct round *r, size_t i)
{
	return r->e->config->pools[i].id;
}

/* What they share is the build before again, for those too that had got the new one. */
static void go_back(struct round *r, const char *pool)
{
	struct cli_engines_opts back = { .verb = "rollback", .config = r->e->config, .name = pool };
	(void)r->c->roles->engines(&back);
	for (size_t i = 0; i < r->e->config->npools; i++)
		if (r->has[i])
			(void)!reload(r->c, pool_at(r, i));
}

/* The new engine is ready before the old one goes; where it does not get ready, or does not answer, the build
 * before is the pool's again. */
static int hand_over(struct round *r, size_t at)
{
	const char *pool = pool_at(r, at);
	struct sample was, now = { 0 };
	take_sample(r->c, pool, true, &was);
	int status = reload(r->c, pool);
	if (status == CLI_OK) {
		r->has[at] = true;
		take_sample(r->c, pool, false, &now);
		if (now.answered)
			compare(pool, &was, &now, r->bytes);
		else
			status = CLI_FAILED;
	}
	if (status != CLI_OK && status != CLI_UNREACHABLE) {
		complain("engines upgrade: pool %s %s with the new build; the one before is taken again",
			pool, r->has[at] ? "does not answer" : "did not get ready");
		go_back(r, pool);
	}
	sample_done(&was);
	sample_done(&now);
	return status;
}

static int hand_over_all(struct round *r, const char *only)
{
	int status = CLI_OK;
	for (size_t i = 0; i < r->e->config->npools && status == CLI_OK; i++) {
		if (!r->changed[i])
			continue;
		if (!only || strcmp(only, pool_at(r, i)) == 0)
			status = hand_over(r, i);
		else
			hint("%s asks for the same engine: it takes that build with its next start, or "
			     "`corral reload %s`",
				pool_at(r, i), pool_at(r, i));
	}
	if (status != CLI_UNREACHABLE)
		return status;
	hint("no daemon runs: the next start takes the new build");
	return CLI_OK;
}

/* only: the one pool that was asked for. */
static int upgrade_pool(struct cli *c, struct cli_engines_opts *e, const char *pool, const char *only)
{
	size_t n = e->config->npools + 1;
	AUTO(mem_freep) bool *changed = mem_alloc(n * sizeof *changed);
	AUTO(mem_freep) bool *has = mem_alloc(n * sizeof *has);
	struct round r = { .c = c, .e = e, .changed = changed, .has = has };
	e->name = pool;
	e->ret_changed = changed;
	e->ret_bytes = r.bytes;
	int status = c->roles->engines(e);
	if (status == CLI_OK)
		status = hand_over_all(&r, only);
	e->ret_changed = NULL;
	e->ret_bytes = NULL;
	return status;
}

int engines_upgrade(struct cli *c, struct cli_engines_opts *e)
{
	int status = CLI_OK;
	if (e->name)
		return upgrade_pool(c, e, e->name, e->name);
	bool skipped = false;
	e->ret_skipped = &skipped;
	for (size_t i = 0; i < e->config->npools && status == CLI_OK; i++)
		status = upgrade_pool(c, e, e->config->pools[i].id, NULL);
	e->ret_skipped = NULL;
	return status;
}

int engines_rollback(struct cli *c, const struct cli_engines_opts *e)
{
	int status = c->roles->engines(e);
	if (status != CLI_OK)
		return status;
	status = reload(c, e->name);
	if (status == CLI_UNREACHABLE)
		hint("no daemon runs: the next start takes that build");
	return status == CLI_UNREACHABLE ? CLI_OK : status;
}
