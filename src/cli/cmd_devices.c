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
	add_number(t, yyjson_obj_get(o, "power_w"), 1, "W");
	table_add(t, "%s", id);
	add_replicas(t, yyjson_obj_get(o, "replicas"));
}

/* "GPU 0 (name) is lost: …" */
static void add_reason(struct buf *out, yyjson_val *o)
{
	const char *name = *str_of(o, "name") ? str_of(o, "name") : "A device";
	if (*str_of(o, "reason")) {
		(void)buf_addf(out, "\n%s is %s: ", name, str_of(o, "state"));
		(void)buf_adds(out, str_of(o, "reason"));
		(void)buf_addc(out, '\n');
	}
	yyjson_val *e = yyjson_obj_get(o, "last_error"), *bad = yyjson_obj_get(o, "ecc_uncorrected");
	if (yyjson_is_obj(e))
		(void)buf_addf(out, "\n%s reported %s (%s).\n", name, str_of(e, "message"), str_of(e, "at"));
	if (yyjson_is_uint(bad) && yyjson_get_uint(bad))
		(void)buf_addf(out, "\n%s had %llu memory errors that ECC could not correct.\n", name,
			(unsigned long long)yyjson_get_uint(bad));
	if (yyjson_is_true(yyjson_obj_get(o, "split")))
		(void)buf_addf(
			out, "\n%s is divided into MIG instances; engines are given one of those.\n", name);
}

static bool index_of(yyjson_val *list, const char *id, unsigned long long *ret)
{
	size_t i, n;
	yyjson_val *o;
	yyjson_arr_foreach(list, i, n, o)
	{
		yyjson_val *index = yyjson_obj_get(o, "index");
		bool same = strcmp(str_of(o, "uuid"), id) == 0 || strcmp(str_of(o, "pci"), id) == 0;
		if (same && yyjson_is_uint(index)) {
			*ret = yyjson_get_uint(index);
			return true;
		}
	}
	return false;
}

/* "0 and 1: one PCI Express switch, 4 direct links", each pair once. */
static void add_links(struct buf *out, yyjson_val *list, yyjson_val *o)
{
	static const char *const words[][2] = { { "board", "the same board" },
		{ "switch", "one PCI Express switch" }, { "switches", "PCI Express switches" },
		{ "bridge", "a host bridge" }, { "node", "the bridges of one NUMA node" },
		{ "system", "the link between NUMA nodes" }, { "unknown", "an unknown way" } };
	yyjson_val *links = yyjson_obj_get(o, "links"), *l;
	unsigned long long own = 0, other;
	size_t i, n;
	const char *id = *str_of(o, "uuid") ? str_of(o, "uuid") : str_of(o, "pci");
	yyjson_arr_foreach(links, i, n, l)
	{
		yyjson_val *fabric = yyjson_obj_get(l, "fabric_links");
		if (!index_of(list, id, &own) || !index_of(list, str_of(l, "device"), &other) || other <= own)
			continue;
		for (size_t k = 0; k < ARRAY_LEN(words); k++)
			if (strcmp(words[k][0], str_of(l, "path")) == 0)
				(void)buf_addf(out, "%llu and %llu: %s", own, other, words[k][1]);
		if (yyjson_is_uint(fabric) && yyjson_get_uint(fabric))
			(void)buf_addf(
				out, ", %llu direct links", (unsigned long long)yyjson_get_uint(fabric));
		(void)buf_addc(out, '\n');
	}
}

int devices_table(struct view body, bool color, struct buf *out)
{
	static const char *const names[] = { "INDEX", "NAME", "KIND", "STATE", "FREE", "TOTAL", "BUSY",
		"TEMP", "POWER", "ID", "REPLICAS" };
	AUTO(table_done) struct table t = { .columns = ARRAY_LEN(names) };
	AUTO(buf_done) struct buf reasons = BUF(64 * KIB), links = BUF(64 * KIB);
	yyjson_doc *doc = yyjson_read(body.n ? body.p : "", body.n, 0);
	yyjson_val *list = yyjson_obj_get(yyjson_doc_get_root(doc), "devices"), *o;
	int r = yyjson_is_arr(list) ? 0 : -EINVAL;
	size_t i, n;
	for (i = 0; i < ARRAY_LEN(names); i++)
		table_add(&t, "%s", names[i]);
	yyjson_arr_foreach(list, i, n, o)
	{
		device_row(&t, o);
		add_reason(&reasons, o);
		add_links(&links, list, o);
	}
	if (!r) {
		table_print(&t, color, out);
		clean_add(out, buf_view(&reasons), true);
		if (links.len)
			(void)buf_adds(out, "\nBetween the GPUs:\n");
		clean_add(out, buf_view(&links), true);
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
