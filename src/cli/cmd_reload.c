/* SPDX-License-Identifier: Apache-2.0
 *
 * corral reload POOL [--model FILE|REFERENCE]: the steps are told on the standard error while it goes on.
 */
#include <limits.h>
#include <stdlib.h>
#include <unistd.h>
#include <yyjson.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/num.h"
#include "cli/cli_int.h"

enum { OPT_MODEL = 1 };

/* Events of the pool, told as they come. It is no failure when there are none. */
struct steps {
	struct http_call *call;
	struct sse sse;
	const char *pool;
	bool refused;
};

static void on_step(void *arg, struct view data)
{
	struct steps *s = arg;
	yyjson_doc *doc = yyjson_read(data.n ? data.p : "", data.n, 0);
	yyjson_val *root = yyjson_doc_get_root(doc);
	const char *pool = yyjson_get_str(yyjson_obj_get(root, "pool_id"));
	const char *human = yyjson_get_str(yyjson_obj_get(root, "human"));
	const char *action = yyjson_get_str(yyjson_obj_get(root, "action"));
	if (pool && human && action && strcmp(pool, s->pool) == 0 &&
		(strcmp(action, "reload") == 0 || strcmp(action, "replica_state") == 0)) {
		AUTO(buf_done) struct buf line = BUF(64 * KIB);
		clean_add(&line, view_str(human), false);
		fprintf(stderr, "%s\n", buf_str(&line));
	}
	yyjson_doc_free(doc);
}

static void steps_head(void *arg, struct http_call *c, int status, const struct http_headers *h)
{
	(void)c;
	(void)h;
	((struct steps *)arg)->refused = status != 200;
}

static void steps_data(void *arg, struct view bytes)
{
	struct steps *s = arg;
	if (!s->refused)
		sse_feed(&s->sse, bytes);
}

static void steps_end(void *arg)
{
	((struct steps *)arg)->call = NULL;
}

static void steps_error(void *arg, enum http_fail f, const struct err *e)
{
	(void)f;
	(void)e;
	((struct steps *)arg)->call = NULL;
}

static const struct http_call_ops steps_ops = {
	.on_head = steps_head, .on_data = steps_data, .on_end = steps_end, .on_error = steps_error
};

static void steps_start(struct api *a, struct steps *s)
{
	AUTO(buf_done) struct buf block = BUF(HTTP_HEAD_MAX);
	if (a->key && *a->key)
		(void)http_header_addf(&block, "Authorization", "Bearer %s", a->key);
	struct http_call_req r = {
		.method = VIEW("GET"), .path = VIEW("/v1/events"), .block = &block, .flags = HTTP_CALL_FRESH
	};
	sse_init(&s->sse, on_step, s);
	s->call = http_call_start(a->target, &r, &steps_ops, s);
}

static void steps_stop(struct steps *s)
{
	if (s->call)
		http_call_cancel(s->call);
	sse_done(&s->sse);
}

/* ---- the command -----------------------------------------------------------------------------------------
 */

static int on_option(void *arg, int opt, const char *value)
{
	(void)opt;
	*(const char **)arg = value;
	return 0;
}

/* A file that is here is named from here; any other is looked for in the daemon's models_dir. */
static char *file_of(const char *model)
{
	char cwd[PATH_MAX];
	if (model[0] == '/' || !file_exists(model) || !getcwd(cwd, sizeof cwd))
		return mem_strdup(model);
	return path_join(cwd, model);
}

static void outcome(const char *pool, struct view answer, struct buf *out)
{
	yyjson_doc *doc = yyjson_read(answer.n ? answer.p : "", answer.n, 0);
	yyjson_val *root = yyjson_doc_get_root(doc);
	char took[32];
	num_format_duration(yyjson_get_sint(yyjson_obj_get(root, "duration_ms")), took, sizeof took);
	buf_addf(out, "%s has its new engine after %s%s.\n", pool, took,
		yyjson_get_bool(yyjson_obj_get(root, "swapped"))
			? "; the old one stopped first, because both did not fit"
			: "");
	yyjson_doc_free(doc);
}

static int reload(struct cli *c, const char *pool, const char *model)
{
	struct api a;
	AUTO(buf_done) struct buf path = BUF(8 * KIB);
	AUTO(buf_done) struct buf body = BUF(64 * KIB);
	AUTO(buf_done) struct buf answer = BUF(API_BODY_MAX);
	AUTO(buf_done) struct buf out = BUF(64 * KIB);
	int http, r = api_open(c, &a);
	if (r)
		return r;
	buf_adds(&path, "/v1/pools/");
	path_add(&path, pool);
	buf_adds(&path, "/reload");
	buf_addc(&body, '{');
	if (model) {
		AUTO(mem_freep) char *file = file_of(model);
		buf_adds(&body, "\"model\":");
		buf_add_json(&body, view_str(file));
	}
	buf_addc(&body, '}');
	struct steps steps = { .pool = pool };
	if (!c->json)
		steps_start(&a, &steps);
	struct api_req req = {
		.method = "POST",
		.path = buf_str(&path),
		.body = &body,
		.timeout_ms = -1 /* a load takes long */
	};
	r = api_call(&a, &req, &answer, &http);
	if (!c->json)
		steps_stop(&steps);
	api_close(&a);
	if (r)
		return r;
	if (c->json)
		buf_addf(&out, "%s\n", answer.len ? buf_str(&answer) : "{}");
	else
		outcome(pool, buf_view(&answer), &out);
	return say(&out);
}

int cmd_reload(struct cli *c, const struct command *cmd, int argc, char **argv)
{
	static const struct option longs[] = { { "model", required_argument, NULL, OPT_MODEL }, { 0 } };
	const char *model = NULL;
	struct options o = { .longs = longs, .fn = on_option, .arg = &model, .min = 1, .max = 1 };
	int first, status;
	if (options_read(c, cmd, &o, argc, argv, &first, &status))
		return status;
	return reload(c, argv[first], model);
}
