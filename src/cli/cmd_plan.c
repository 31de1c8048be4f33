/* SPDX-License-Identifier: Apache-2.0
 *
 * corral plan [POOL…] · corral explain POOL|REQUEST
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <yyjson.h>

#include "base/num.h"
#include "cli/cli_int.h"

static const char *text(yyjson_val *o, const char *key)
{
	const char *s = yyjson_get_str(yyjson_obj_get(o, key));
	return s ? s : "";
}

static void bytes_text(yyjson_val *o, const char *key, char out[32])
{
	uint64_t n = yyjson_get_uint(yyjson_obj_get(o, key));
	if (n)
		num_format_bytes(n, out, 32);
	else
		snprintf(out, 32, "-");
}

static void add_bytes(struct table *t, yyjson_val *o, const char *key)
{
	char cell[32];
	bytes_text(o, key, cell);
	table_add(t, "%s", cell);
}

static void devices(yyjson_val *pool, bool color, struct buf *out)
{
	static const char *const names[] = { "DEVICE", "NAME", "CAPACITY", "RESERVED", "FOREIGN", "FREE",
		"NEEDED", "WHY" };
	AUTO(table_done) struct table t = { .columns = ARRAY_LEN(names) };
	yyjson_val *list = yyjson_obj_get(pool, "devices"), *d;
	size_t i, n;
	for (i = 0; i < ARRAY_LEN(names); i++)
		table_add(&t, "%s", names[i]);
	yyjson_arr_foreach(list, i, n, d)
	{
		bool cpu = strcmp(text(d, "kind"), "cpu") == 0;
		if (cpu)
			table_add(&t, "host");
		else
			table_add(
				&t, "%llu", (unsigned long long)yyjson_get_uint(yyjson_obj_get(d, "index")));
		table_add(&t, "%s", text(d, "name"));
		add_bytes(&t, d, "capacity_bytes");
		add_bytes(&t, d, "reserved_bytes");
		add_bytes(&t, d, "foreign_bytes");
		add_bytes(&t, d, "free_bytes");
		add_bytes(&t, d, "needed_bytes");
		table_add(&t, "%s",
			yyjson_get_bool(yyjson_obj_get(d, "taken")) ? "taken"
			: *text(d, "reason")                        ? text(d, "reason")
								    : "-");
	}
	if (yyjson_arr_size(list))
		table_print(&t, color, out);
}

static void need(yyjson_val *pool, struct buf *out)
{
	static const char *const parts[][2] = { { "weights", "weights_bytes" }, { "cache", "cache_bytes" },
		{ "compute", "compute_bytes" }, { "overhead", "overhead_bytes" },
		{ "on the host", "host_bytes" } };
	yyjson_val *o = yyjson_obj_get(pool, "need");
	char cell[32];
	if (!yyjson_is_obj(o))
		return;
	unsigned long long ctx = yyjson_get_uint(yyjson_obj_get(o, "ctx"));
	if (ctx)
		buf_addf(out, "  context: %llu tokens a request%s\n", ctx,
			yyjson_get_bool(yyjson_obj_get(pool, "ctx_auto")) ? " (auto)" : "");
	buf_adds(out, "  needs: ");
	for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
		bytes_text(o, parts[i][1], cell);
		buf_addf(out, "%s%s %s", i ? ", " : "", parts[i][0], cell);
	}
	buf_addf(out, " (%s, %s, within %.0f %%)\n", text(o, "source"), text(o, "kind"),
		yyjson_get_num(yyjson_obj_get(o, "error")) * 100);
}

static void lists(yyjson_val *pool, struct buf *out)
{
	yyjson_val *v;
	size_t i, n;
	char cell[32];
	yyjson_arr_foreach(yyjson_obj_get(pool, "evicts"), i, n, v)
	{
		bytes_text(v, "bytes", cell);
		buf_addf(out, "  would leave: %s (%s): %s\n", text(v, "replica"), cell, text(v, "why"));
	}
	yyjson_arr_foreach(yyjson_obj_get(pool, "would_help"), i, n, v)
	{
		buf_addf(out, "  would help: %s\n", yyjson_get_str(v));
	}
	yyjson_arr_foreach(yyjson_obj_get(pool, "holds"), i, n, v)
	{
		yyjson_val *u;
		size_t k, m;
		buf_addf(out, "  runs: %s %s:", text(v, "replica"), text(v, "how"));
		yyjson_arr_foreach(yyjson_obj_get(v, "reserved"), k, m, u)
		{
			bytes_text(u, "bytes", cell);
			buf_addf(out, "%s %s on %s", k ? "," : "", cell, text(u, "device"));
		}
		buf_adds(out, "\n");
	}
	if (*text(pool, "waits"))
		buf_addf(out, "  now: %s\n", text(pool, "waits"));
}

static void print_pool(yyjson_val *pool, bool color, struct buf *out)
{
	buf_addf(out, "%s\n", text(pool, "summary"));
	need(pool, out);
	devices(pool, color, out);
	lists(pool, out);
}

int plan_page(struct view body, bool color, struct buf *out)
{
	yyjson_doc *doc = yyjson_read(body.n ? body.p : "", body.n, 0);
	yyjson_val *root = yyjson_doc_get_root(doc), *list = yyjson_obj_get(root, "pools"), *p;
	AUTO(buf_done) struct buf raw = BUF(out->max);
	size_t i, n;
	int r = yyjson_is_arr(list) || yyjson_obj_get(root, "summary") ? 0 : -EINVAL;
	if (!list && !r)
		print_pool(root, color, &raw);
	yyjson_arr_foreach(list, i, n, p)
	{
		if (i)
			buf_adds(&raw, "\n");
		print_pool(p, color, &raw);
	}
	clean_add(out, buf_view(&raw), true);
	yyjson_doc_free(doc);
	return r;
}

static int show(struct cli *c, struct api *a, const struct api_req *req)
{
	AUTO(buf_done) struct buf answer = BUF(API_BODY_MAX);
	AUTO(buf_done) struct buf out = BUF(2 * (size_t)API_BODY_MAX);
	int status, r = api_call(a, req, &answer, &status);
	if (r)
		return r;
	if (c->json)
		(void)buf_addf(&out, "%.*s\n", (int)answer.len, buf_str(&answer));
	else if (plan_page(buf_view(&answer), color_for(STDOUT_FILENO), &out))
		return api_foreign();
	return say(&out);
}

static void pools_body(int n, char **ids, struct buf *body)
{
	(void)buf_adds(body, "{");
	for (int i = 0; i < n; i++) {
		(void)buf_adds(body, i ? "," : "\"pools\":[");
		(void)buf_add_json(body, view_str(ids[i]));
	}
	(void)buf_adds(body, n ? "]}" : "}");
}

int cmd_plan(struct cli *c, const struct command *cmd, int argc, char **argv)
{
	struct options o = { .max = -1 };
	struct api a;
	int first, status;
	if (options_read(c, cmd, &o, argc, argv, &first, &status))
		return status;
	AUTO(buf_done) struct buf body = BUF(64 * KIB);
	pools_body(argc - first, argv + first, &body);
	int r = api_open(c, &a);
	if (r)
		return r;
	r = show(c, &a, &(struct api_req){ .method = "POST", .path = "/v1/plan", .body = &body });
	api_close(&a);
	return r;
}

/* All that is known of one request, a line each. */
static int request_page(struct view body, bool color, struct buf *out)
{
	AUTO(table_done) struct table t = { .columns = 2 };
	yyjson_doc *doc = yyjson_read(body.n ? body.p : "", body.n, 0);
	yyjson_val *root = yyjson_doc_get_root(doc), *key, *v;
	size_t i, n;
	int r = yyjson_is_obj(root) ? 0 : -EINVAL;
	table_add(&t, "WHAT");
	table_add(&t, "VALUE");
	yyjson_obj_foreach(root, i, n, key, v)
	{
		char *text = yyjson_is_null(v) || yyjson_is_str(v) ? NULL : yyjson_val_write(v, 0, NULL);
		const char *name = yyjson_get_str(key), *said = yyjson_get_str(v);
		table_add(&t, "%s", name ? name : "");
		table_add(&t, "%s", said ? said : text ? text : "-");
		free(text);
	}
	if (!r)
		table_print(&t, color, out);
	yyjson_doc_free(doc);
	return r;
}

/* A request's id is 12 hex digits or a UUID; anything else is a pool. */
static bool is_request(const char *id)
{
	size_t n = strspn(id, "0123456789abcdefABCDEF-");
	return n >= 12 && !id[n];
}

int cmd_explain(struct cli *c, const struct command *cmd, int argc, char **argv)
{
	struct options o = { .min = 1, .max = 1 };
	struct api a;
	int first, status;
	if (options_read(c, cmd, &o, argc, argv, &first, &status))
		return status;
	AUTO(buf_done) struct buf path = BUF(4 * KIB);
	const char *id = argv[first];
	(void)buf_adds(&path, is_request(id) ? "/v1/requests/" : "/v1/explain?pool=");
	path_add(&path, id);
	int r = api_open(c, &a);
	if (r)
		return r;
	struct api_req req = { .method = "GET", .path = buf_str(&path) };
	r = is_request(id) ? api_show(c, &a, buf_str(&path), request_page, API_BODY_MAX) : show(c, &a, &req);
	api_close(&a);
	return r;
}
