/* SPDX-License-Identifier: Apache-2.0
 *
 * corral ps, corral pools [ID]
 */
#include <stdio.h>
#include <unistd.h>
#include <yyjson.h>

#include "cli/cli_int.h"

static const char *str_of(yyjson_val *o, const char *key)
{
	yyjson_val *v = yyjson_obj_get(o, key);
	return yyjson_is_str(v) ? yyjson_get_str(v) : "";
}

static long long num_of(yyjson_val *o, const char *key)
{
	return (long long)yyjson_get_num(yyjson_obj_get(o, key));
}

static bool is_true(yyjson_val *o, const char *key)
{
	return yyjson_get_bool(yyjson_obj_get(o, key));
}

static void head(struct table *t, const char *const *names, size_t n)
{
	t->columns = n;
	for (size_t i = 0; i < n; i++)
		table_add(t, "%s", names[i]);
}

/* What was ordered for a pool and is more than its engines' states tell; empty: nothing. */
static const char *order_of(yyjson_val *pool)
{
	return is_true(pool, "disabled") ? "disabled" : is_true(pool, "reloading") ? "reloading" : "";
}

/* "starting 40%": how far, where it is known. */
static void add_state(struct table *t, yyjson_val *pool, yyjson_val *o)
{
	yyjson_val *p = yyjson_obj_get(o, "progress");
	const char *phase = str_of(p, "phase"), *order = order_of(pool);
	yyjson_val *pct = yyjson_obj_get(p, "pct");
	if (*order && o == pool)
		table_add(t, "%s", order);
	else if (*phase && yyjson_is_num(pct) && yyjson_get_num(pct) >= 0)
		table_add(t, "%s %s %lld%%", str_of(o, "state"), phase, (long long)yyjson_get_num(pct));
	else
		table_add(t, "%s%s%s", str_of(o, "state"), *order ? ", " : "", order);
}

static const char *pool_word(yyjson_val *pool)
{
	const char *order = order_of(pool);
	return *order ? order : is_true(pool, "draining") ? "draining" : str_of(pool, "state");
}

static void add_ctx(struct table *t, long long ctx)
{
	if (ctx)
		table_add(t, "%lld", ctx);
	else
		table_add(t, "auto");
}

static void replica_row(struct table *t, yyjson_val *pool, yyjson_val *r)
{
	yyjson_val *at = r ? r : pool;
	long long total = num_of(at, "slots_total"), ctx = num_of(at, "ctx");
	table_add(t, "%s", str_of(pool, "id"));
	table_add(t, "%s", r ? str_of(r, "id") : "-");
	add_state(t, pool, at);
	yyjson_val *load = r ? yyjson_obj_get(r, "load") : NULL;
	if (load) /* "1/4 (3+2)": what the engine says of itself, with what others sent it */
		table_add(t, "%lld/%lld (%lld+%lld)", num_of(at, "leases"), total, num_of(load, "running"),
			num_of(load, "waiting"));
	else
		table_add(t, "%lld/%lld", num_of(at, "leases"), total);
	table_add(t, "%lld/%lld", num_of(pool, "waiting"), num_of(pool, "queue_capacity"));
	table_add(t, "%s%s", r && *str_of(r, "device") ? str_of(r, "device") : "-",
		r && *str_of(r, "device_note") ? "!" : "");
	add_ctx(t, ctx ? ctx : num_of(pool, "ctx"));
	table_add(t, "%s%s%s", str_of(pool, "engine"), *str_of(pool, "engine_version") ? " " : "",
		str_of(pool, "engine_version"));
	if (r && num_of(r, "pid"))
		table_add(t, "%lld", num_of(r, "pid"));
	else
		table_add(t, "-");
}

/* The pools of an answer; -EINVAL when it is none. The caller frees *ret_doc. */
static int pools_of(struct view body, yyjson_doc **ret_doc, yyjson_val **ret_pools)
{
	*ret_doc = yyjson_read(body.n ? body.p : "", body.n, 0);
	*ret_pools = yyjson_obj_get(yyjson_doc_get_root(*ret_doc), "pools");
	return yyjson_is_arr(*ret_pools) ? 0 : -EINVAL;
}

int replicas_table(struct view body, bool color, struct buf *out)
{
	static const char *const names[] = { "POOL", "REPLICA", "STATE", "LEASES", "QUEUE", "DEVICE", "CTX",
		"ENGINE", "PID" };
	AUTO(table_done) struct table t = { 0 };
	yyjson_doc *doc;
	yyjson_val *pools, *pool, *r;
	int e = pools_of(body, &doc, &pools);
	head(&t, names, ARRAY_LEN(names));
	size_t i, n, j, m;
	yyjson_arr_foreach(pools, i, n, pool)
	{
		yyjson_val *replicas = yyjson_obj_get(pool, "replicas");
		if (!yyjson_arr_size(replicas))
			replica_row(&t, pool, NULL);
		yyjson_arr_foreach(replicas, j, m, r)
		{
			replica_row(&t, pool, r);
		}
	}
	if (!e)
		table_print(&t, color, out);
	yyjson_doc_free(doc);
	return e;
}

int pools_table(struct view body, bool color, struct buf *out)
{
	static const char *const names[] = { "POOL", "STATE", "REPLICAS", "FREE", "WAITING", "CTX", "ENGINE",
		"MODEL" };
	AUTO(table_done) struct table t = { 0 };
	yyjson_doc *doc;
	yyjson_val *pools, *p;
	int e = pools_of(body, &doc, &pools);
	head(&t, names, ARRAY_LEN(names));
	size_t i, n;
	yyjson_arr_foreach(pools, i, n, p)
	{
		table_add(&t, "%s", str_of(p, "id"));
		table_add(&t, "%s", pool_word(p));
		table_add(&t, "%zu", yyjson_arr_size(yyjson_obj_get(p, "replicas")));
		table_add(&t, "%lld/%lld", num_of(p, "slots_free"), num_of(p, "slots_total"));
		table_add(&t, "%lld", num_of(p, "waiting"));
		add_ctx(&t, num_of(p, "ctx"));
		table_add(&t, "%s", str_of(p, "engine"));
		table_add(&t, "%s", str_of(p, "model"));
	}
	if (!e)
		table_print(&t, color, out);
	yyjson_doc_free(doc);
	return e;
}

static void line(struct buf *out, const char *key, const char *value)
{
	if (!*value)
		return;
	buf_addf(out, "%-12s ", key);
	clean_add(out, view_str(value), false);
	buf_addc(out, '\n');
}

static void detail_replicas(yyjson_val *pool, struct buf *out)
{
	size_t i, n;
	yyjson_val *r;
	yyjson_arr_foreach(yyjson_obj_get(pool, "replicas"), i, n, r)
	{
		yyjson_val *p = yyjson_obj_get(r, "progress");
		AUTO(buf_done) struct buf b = BUF(64 * KIB);
		buf_addf(&b, "%s %s, %lld of %lld slots in use", str_of(r, "id"), str_of(r, "state"),
			num_of(r, "leases"), num_of(r, "slots_total"));
		if (num_of(r, "pid"))
			buf_addf(&b, ", pid %lld", num_of(r, "pid"));
		if (*str_of(r, "device"))
			buf_addf(&b, ", on %s", str_of(r, "device"));
		if (*str_of(r, "device_note"))
			buf_addf(&b, " (%s)", str_of(r, "device_note"));
		if (yyjson_get_num(yyjson_obj_get(r, "tokens_per_s")) > 0)
			buf_addf(&b, ", %.1f tokens/s", yyjson_get_num(yyjson_obj_get(r, "tokens_per_s")));
		if (yyjson_obj_get(r, "load"))
			buf_addf(&b, ", itself says %lld running and %lld waiting",
				num_of(yyjson_obj_get(r, "load"), "running"),
				num_of(yyjson_obj_get(r, "load"), "waiting"));
		if (num_of(r, "restarts"))
			buf_addf(&b, ", restarted %lld times", num_of(r, "restarts"));
		if (*str_of(p, "text"))
			buf_addf(&b, ": %s", str_of(p, "text"));
		line(out, i ? "" : "replicas", buf_str(&b));
		if (*str_of(r, "address"))
			line(out, "", str_of(r, "address"));
	}
}

int pool_detail(struct view body, struct buf *out)
{
	yyjson_doc *doc = yyjson_read(body.n ? body.p : "", body.n, 0);
	yyjson_val *p = yyjson_doc_get_root(doc), *err = yyjson_obj_get(p, "last_error");
	if (!*str_of(p, "id")) {
		yyjson_doc_free(doc);
		return -EINVAL;
	}
	AUTO(buf_done) struct buf b = BUF(64 * KIB);
	line(out, "pool", str_of(p, "id"));
	line(out, "model", str_of(p, "model"));
	line(out, "state", pool_word(p));
	buf_addf(&b, "%s%s%s", str_of(p, "engine"), *str_of(p, "engine_version") ? " " : "",
		str_of(p, "engine_version"));
	line(out, "engine", buf_str(&b));
	line(out, "", str_of(p, "engine_why"));
	buf_reset(&b);
	buf_addf(&b, "%lld tokens a request", num_of(p, "ctx"));
	line(out, "ctx", num_of(p, "ctx") ? buf_str(&b) : "auto");
	buf_reset(&b);
	buf_addf(&b, "%lld of %lld free, %lld leased, %lld cooling", num_of(p, "slots_free"),
		num_of(p, "slots_total"), num_of(p, "leases"), num_of(p, "cooling"));
	line(out, "slots", buf_str(&b));
	buf_reset(&b);
	buf_addf(&b, "%lld of %lld", num_of(p, "waiting"), num_of(p, "queue_capacity"));
	line(out, "queue", buf_str(&b));
	line(out, "last error", str_of(err, "message"));
	line(out, "", str_of(err, "at"));
	line(out, "hint", str_of(err, "hint"));
	detail_replicas(p, out);
	yyjson_doc_free(doc);
	return 0;
}

static int detail_page(struct view body, bool color, struct buf *out)
{
	(void)color;
	return pool_detail(body, out);
}

static int show(struct cli *c, const char *id, api_page_fn *page)
{
	struct api a;
	AUTO(buf_done) struct buf path = BUF(8 * KIB);
	int r = api_open(c, &a);
	if (r)
		return r;
	buf_adds(&path, "/v1/pools");
	if (id) {
		buf_addc(&path, '/');
		path_add(&path, id);
	}
	r = api_show(c, &a, buf_str(&path), page, 2 * (size_t)API_BODY_MAX);
	api_close(&a);
	return r;
}

int cmd_ps(struct cli *c, const struct command *cmd, int argc, char **argv)
{
	struct options o = { 0 };
	int first, status;
	if (options_read(c, cmd, &o, argc, argv, &first, &status))
		return status;
	return show(c, NULL, replicas_table);
}

int cmd_pools(struct cli *c, const struct command *cmd, int argc, char **argv)
{
	struct options o = { .max = 1 };
	int first, status;
	if (options_read(c, cmd, &o, argc, argv, &first, &status))
		return status;
	return first < argc ? show(c, argv[first], detail_page) : show(c, NULL, pools_table);
}
