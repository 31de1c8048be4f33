/* SPDX-License-Identifier: Apache-2.0
 *
 * corral models ls|show|rm|verify|retire|activate|gc: what was got, and what becomes of it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <yyjson.h>

#include "base/num.h"
#include "cli/cli_int.h"

static const char *text_of(yyjson_val *o, const char *key)
{
	const char *s = yyjson_get_str(yyjson_obj_get(o, key));
	return s ? s : "";
}

static void size_of(yyjson_val *o, const char *key, char out[32])
{
	num_format_bytes(yyjson_get_uint(yyjson_obj_get(o, key)), out, 32);
}

static bool flag(yyjson_val *o, const char *key)
{
	return yyjson_get_bool(yyjson_obj_get(o, key));
}

static const char *or_dash(const char *s)
{
	return *s ? s : "-";
}

static void catalog_row(struct table *t, yyjson_val *m)
{
	char size[32];
	size_of(m, "size_bytes", size);
	table_add(t, "%s", text_of(m, "id"));
	table_add(t, "%s%s", text_of(m, "state"), flag(m, "serving") ? ", serving" : "");
	table_add(t, "%s", size);
	table_add(t, "%s", or_dash(text_of(m, "architecture")));
	table_add(t, "%s", flag(m, "fetched") ? "fetched" : "was here");
	table_add(t, "%.10s", or_dash(text_of(m, "verified_at")));
	table_add(t, "%.10s", or_dash(text_of(m, "used_at")));
	table_add(t, "%s", text_of(m, "reference"));
}

int catalog_table(struct view body, bool color, struct buf *out)
{
	static const char *const heading[] = { "ID", "STATE", "SIZE", "ARCHITECTURE", "FILES", "VERIFIED",
		"USED", "REFERENCE" };
	AUTO(table_done) struct table t = { .columns = ARRAY_LEN(heading) };
	yyjson_doc *d = yyjson_read(body.n ? body.p : "", body.n, 0);
	yyjson_val *m, *list = yyjson_obj_get(yyjson_doc_get_root(d), "models");
	size_t i, n;
	bool is_list = yyjson_is_arr(list);
	for (size_t c = 0; c < ARRAY_LEN(heading); c++)
		table_add(&t, "%s", heading[c]);
	yyjson_arr_foreach(list, i, n, m)
	{
		catalog_row(&t, m);
	}
	if (is_list && yyjson_arr_size(list))
		table_print(&t, color, out);
	else if (is_list)
		(void)buf_adds(out,
			"Nothing was fetched and no engine was started yet; `corral pull "
			"org/repo:Q4_K_M` fetches a model, `corral models` lists what is served.\n");
	yyjson_doc_free(d);
	return is_list ? 0 : -EINVAL;
}

static void line(struct buf *out, const char *name, const char *text)
{
	if (!*text)
		return;
	(void)buf_addf(out, "%-14s", name);
	clean_add(out, view_str(text), false);
	(void)buf_addc(out, '\n');
}

static void show_files(yyjson_val *list, struct buf *out)
{
	yyjson_val *f;
	size_t i, n;
	char size[32];
	yyjson_arr_foreach(list, i, n, f)
	{
		size_of(f, "size_bytes", size);
		(void)buf_addf(out, "%-14s", text_of(f, "role"));
		clean_add(out, view_str(text_of(f, "path")), false);
		(void)buf_addf(out, "\n%-14s%s, sha256 %s\n", "", size,
			*text_of(f, "sha256") ? text_of(f, "sha256") : "not known");
	}
}

int catalog_detail(struct view body, bool color, struct buf *out)
{
	(void)color;
	char size[32];
	yyjson_doc *d = yyjson_read(body.n ? body.p : "", body.n, 0);
	yyjson_val *m = yyjson_doc_get_root(d);
	bool fine = *text_of(m, "id");
	size_of(m, "size_bytes", size);
	line(out, "model", text_of(m, "id"));
	line(out, "reference", text_of(m, "reference"));
	line(out, "state", text_of(m, "state"));
	line(out, "retired by", text_of(m, "retired_by"));
	line(out, "from", text_of(m, "source"));
	line(out, "revision", text_of(m, "revision"));
	line(out, "size", size);
	line(out, "architecture", text_of(m, "architecture"));
	line(out, "got", text_of(m, "created_at"));
	line(out, "used", text_of(m, "used_at"));
	line(out, "verified", text_of(m, "verified_at"));
	line(out, "problem", text_of(m, "problem"));
	line(out, "pool", text_of(m, "pool"));
	show_files(yyjson_obj_get(m, "files"), out);
	yyjson_doc_free(d);
	return fine ? 0 : -EINVAL;
}

int catalog_gc_page(struct view body, bool color, struct buf *out)
{
	static const char *const heading[] = { "ID", "SIZE", "USED", "POOL", "REFERENCE" };
	AUTO(table_done) struct table t = { .columns = ARRAY_LEN(heading) };
	char used[32], quota[32], over[32], size[32];
	yyjson_doc *d = yyjson_read(body.n ? body.p : "", body.n, 0);
	yyjson_val *o = yyjson_doc_get_root(d), *m, *list = yyjson_obj_get(o, "candidates");
	size_t i, n;
	bool is_list = yyjson_is_arr(list);
	size_of(o, "used_bytes", used);
	size_of(o, "quota_bytes", quota);
	size_of(o, "over_bytes", over);
	bool has_quota = yyjson_get_uint(yyjson_obj_get(o, "quota_bytes")) > 0;
	(void)buf_addf(out, "Models that Corral fetched take %s; models_quota is %s%s%s.\n", used,
		has_quota ? quota : "not set",
		yyjson_get_uint(yyjson_obj_get(o, "over_bytes")) ? ", too much: " : "",
		yyjson_get_uint(yyjson_obj_get(o, "over_bytes")) ? over : "");
	for (size_t c = 0; c < ARRAY_LEN(heading); c++)
		table_add(&t, "%s", heading[c]);
	yyjson_arr_foreach(list, i, n, m)
	{
		size_of(m, "size_bytes", size);
		table_add(&t, "%s%s", text_of(m, "id"), flag(m, "needed") ? " *" : "");
		table_add(&t, "%s", size);
		table_add(&t, "%.10s", or_dash(text_of(m, "used_at")));
		table_add(&t, "%s", or_dash(text_of(m, "pool")));
		table_add(&t, "%s", text_of(m, "reference"));
	}
	if (is_list && yyjson_arr_size(list)) {
		table_print(&t, color, out);
		(void)buf_adds(out,
			"The least valuable first; * would bring it under the quota. Nothing is removed by "
			"itself: corral models rm ID\n");
	} else if (is_list) {
		(void)buf_adds(
			out, "Nothing of it could go: it is served, pinned, or none of it is there.\n");
	}
	yyjson_doc_free(d);
	return is_list ? 0 : -EINVAL;
}

static void model_path(struct buf *b, const char *id, const char *verb)
{
	(void)buf_adds(b, "/v1/catalog/models/");
	path_add(b, id);
	(void)buf_adds(b, verb);
}

static int set_state(struct cli *c, struct api *a, const char *id, const char *state)
{
	AUTO(buf_done)
	struct buf path = BUF(64 * KIB), body = BUF(1024), answer = BUF(API_BODY_MAX),
		   out = BUF(2 * (size_t)API_BODY_MAX);
	int http;
	model_path(&path, id, "/state");
	(void)buf_addf(&body, "{\"state\":\"%s\"}", state);
	struct api_req req = { .method = "POST", .path = buf_str(&path), .body = &body };
	int r = api_call(a, &req, &answer, &http);
	if (r)
		return r;
	(void)buf_addf(&out, c->json ? "%s\n" : "%.0sThe model is %s now.\n", buf_str(&answer), state);
	return say(&out);
}

static int remove_model(struct cli *c, struct api *a, const char *id)
{
	AUTO(buf_done)
	struct buf path = BUF(64 * KIB), none = BUF(64), answer = BUF(API_BODY_MAX), out = BUF(API_BODY_MAX);
	char size[32];
	int http;
	model_path(&path, id, "");
	(void)buf_adds(&none, "{}");
	struct api_req req = {
		.method = "DELETE", .path = buf_str(&path), .body = &none, .timeout_ms = 600000
	};
	int r = api_call(a, &req, &answer, &http);
	if (r)
		return r;
	yyjson_doc *d = yyjson_read(answer.data, answer.len, 0);
	size_of(yyjson_doc_get_root(d), "removed_bytes", size);
	if (c->json)
		(void)buf_addf(&out, "%s\n", buf_str(&answer));
	else
		(void)buf_addf(&out, "%s is removed: %s are free.\n", id, size);
	yyjson_doc_free(d);
	return say(&out);
}

static int with_model(struct cli *c, struct api *a, const char *verb, const char *id)
{
	AUTO(buf_done) struct buf path = BUF(64 * KIB), body = BUF(64);
	if (strcmp(verb, "rm") == 0)
		return remove_model(c, a, id);
	if (strcmp(verb, "retire") == 0)
		return set_state(c, a, id, "Retired");
	if (strcmp(verb, "activate") == 0)
		return set_state(c, a, id, "Active");
	model_path(&path, id, strcmp(verb, "verify") == 0 ? "/verify" : "");
	(void)buf_adds(&body, "{}");
	if (strcmp(verb, "verify") == 0)
		return api_events(c, a, buf_str(&path), &body, "verified", false);
	return api_show(c, a, buf_str(&path), catalog_detail, 2 * (size_t)API_BODY_MAX);
}

int catalog_command(struct cli *c, const char *verb, const char *id, bool dry_run)
{
	static const char *const with_id[] = { "show", "rm", "verify", "retire", "activate" };
	struct api a;
	bool one = false;
	for (size_t i = 0; i < ARRAY_LEN(with_id); i++)
		one |= strcmp(verb, with_id[i]) == 0;
	bool ls = strcmp(verb, "ls") == 0, gc = strcmp(verb, "gc") == 0;
	if (!one && !ls && !gc) {
		complain("models: found \"%.40s\"; accepted: ls, show, rm, verify, retire, activate or gc",
			verb);
		return CLI_USAGE;
	}
	if (one != (id != NULL)) {
		complain(one ? "models %s: name the model, as `corral models ls` lists it"
			     : "models %s takes no model",
			verb);
		return CLI_USAGE;
	}
	if (gc && !dry_run) {
		complain("models gc: nothing is removed by itself; --dry-run lists what could go, then: "
			 "corral "
			 "models rm ID");
		return CLI_USAGE;
	}
	int r = api_open(c, &a);
	if (r)
		return r;
	if (one)
		r = with_model(c, &a, verb, id);
	else
		r = api_show(c, &a, ls ? "/v1/catalog/models" : "/v1/catalog/gc",
			ls ? catalog_table : catalog_gc_page, 2 * (size_t)API_BODY_MAX);
	api_close(&a);
	return r;
}
