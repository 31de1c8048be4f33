/* SPDX-License-Identifier: Apache-2.0
 *
 * corral devices
 */
#include <stdio.h>
#include <unistd.h>
#include <yyjson.h>

#include "base/num.h"
#include "cli/cli_int.h"

static const char *str_of(yyjson_val *o, const char *key)
{
	yyjson_val *v = yyjson_obj_get(o, key);
	return yyjson_is_str(v) ? yyjson_get_str(v) : "";
}

static void add_bytes(struct table *t, yyjson_val *o, const char *key)
{
	yyjson_val *v = yyjson_obj_get(o, key);
	char text[32] = "-";
	if (yyjson_is_uint(v))
		num_format_bytes(yyjson_get_uint(v), text, sizeof text);
	table_add(t, "%s", text);
}

static void add_number(struct table *t, yyjson_val *v, double factor, const char *unit)
{
	if (yyjson_is_num(v))
		table_add(t, "%.0f%s", yyjson_get_num(v) * factor, unit);
	else
		table_add(t, "-");
}

static void add_replicas(struct table *t, yyjson_val *list)
{
	AUTO(buf_done) struct buf b = BUF(64 * KIB);
	size_t i, n;
	yyjson_val *r;
	yyjson_arr_foreach(list, i, n, r)
	{
		yyjson_val *bytes = yyjson_obj_get(r, "memory_bytes");
		char text[32];
		(void)buf_addf(&b, "%s%s", i ? ", " : "", str_of(r, "id"));
		if (!yyjson_is_uint(bytes))
			continue;
		num_format_bytes(yyjson_get_uint(bytes), text, sizeof text);
		(void)buf_addf(&b, " (%s)", text);
	}
	table_add(t, "%s", b.len ? buf_str(&b) : "-");
}

static void device_row(struct table *t, yyjson_val *o)
{
	yyjson_val *index = yyjson_obj_get(o, "index");
	const char *id = *str_of(o, "uuid") ? str_of(o, "uuid") : str_of(o, "pci");
	if (yyjson_is_uint(index))
		table_add(t, "%llu", (unsigned long long)yyjson_get_uint(index));
	else
		table_add(t, "-");
	table_add(t, "%s", str_of(o, "name"));
	table_add(t, "%s", str_of(o, "kind"));
	table_add(t, "%s", str_of(o, "state"));
	add_bytes(t, o, "memory_free_bytes");
	add_bytes(t, o, "memory_total_bytes");
	add_number(t, yyjson_obj_get(o, "utilization"), 100, "%");
	add_number(t, yyjson_obj_get(o, "temperature_c"), 1, "C");
	table_add(t, "%s", id);
	add_replicas(t, yyjson_obj_get(o, "replicas"));
}

int devices_table(struct view body, bool color, struct buf *out)
{
	static const char *const names[] = { "INDEX", "NAME", "KIND", "STATE", "FREE", "TOTAL", "BUSY",
		"TEMP", "ID", "REPLICAS" };
	AUTO(table_done) struct table t = { .columns = ARRAY_LEN(names) };
	AUTO(buf_done) struct buf reasons = BUF(64 * KIB);
	yyjson_doc *doc = yyjson_read(body.n ? body.p : "", body.n, 0);
	yyjson_val *list = yyjson_obj_get(yyjson_doc_get_root(doc), "devices"), *o;
	int r = yyjson_is_arr(list) ? 0 : -EINVAL;
	size_t i, n;
	for (i = 0; i < ARRAY_LEN(names); i++)
		table_add(&t, "%s", names[i]);
	yyjson_arr_foreach(list, i, n, o)
	{
		device_row(&t, o);
		if (!*str_of(o, "reason"))
			continue;
		(void)buf_addf(&reasons, "\n%s is %s: ", *str_of(o, "name") ? str_of(o, "name") : "A device",
			str_of(o, "state"));
		(void)buf_adds(&reasons, str_of(o, "reason"));
		(void)buf_addc(&reasons, '\n');
	}
	if (!r) {
		table_print(&t, color, out);
		clean_add(out, buf_view(&reasons), true);
	}
	yyjson_doc_free(doc);
	return r;
}

int cmd_devices(struct cli *c, const struct command *cmd, int argc, char **argv)
{
	struct options o = { 0 };
	struct api a;
	int first, status;
	if (options_read(c, cmd, &o, argc, argv, &first, &status))
		return status;
	int r = api_open(c, &a);
	if (r)
		return r;
	r = api_show(c, &a, "/v1/devices", devices_table, 2 * (size_t)API_BODY_MAX);
	api_close(&a);
	return r;
}
