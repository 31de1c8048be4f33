/* SPDX-License-Identifier: Apache-2.0
 *
 * corral models: what can be asked, how large it is, and where it was found; its verbs are in cmd_catalog.c.
 */
#include <stdio.h>
#include <unistd.h>
#include <yyjson.h>

#include "base/num.h"
#include "cli/cli_int.h"

static const char *text(yyjson_val *o, const char *key)
{
	const char *s = yyjson_get_str(yyjson_obj_get(o, key));
	return s ? s : "";
}

static uint64_t number(yyjson_val *o, const char *key)
{
	return yyjson_get_uint(yyjson_obj_get(o, key));
}

/* "7.6B", "137M", "-" */
static void add_params(struct table *t, uint64_t n)
{
	if (n >= 1000000000)
		table_add(t, "%llu.%lluB", (unsigned long long)(n / 1000000000),
			(unsigned long long)(n / 100000000 % 10));
	else if (n >= 1000000)
		table_add(t, "%lluM", (unsigned long long)(n / 1000000));
	else if (n)
		table_add(t, "%lluK", (unsigned long long)(n / 1000));
	else
		table_add(t, "-");
}

static void row(struct table *t, yyjson_val *m)
{
	yyjson_val *meta = yyjson_obj_get(m, "meta"), *own = yyjson_obj_get(m, "corral");
	char size[32] = "-";
	if (number(meta, "size"))
		num_format_bytes(number(meta, "size"), size, sizeof size);
	table_add(t, "%s", text(m, "id"));
	table_add(t, "%s", text(yyjson_obj_get(m, "status"), "value"));
	table_add(t, "%s", size);
	add_params(t, number(meta, "n_params"));
	table_add(t, "%s", *text(meta, "quant") ? text(meta, "quant") : "-");
	table_add(t, "%s", *text(own, "use") ? text(own, "use") : "text");
	table_add(t, "%s", *text(own, "source") ? text(own, "source") : "configuration");
}

int models_table(struct view body, bool color, struct buf *out)
{
	static const char *const names[] = { "MODEL", "STATE", "SIZE", "PARAMETERS", "QUANT", "FOR",
		"SOURCE" };
	AUTO(table_done) struct table t = { .columns = ARRAY_LEN(names) };
	yyjson_doc *doc = yyjson_read(body.n ? body.p : "", body.n, 0);
	yyjson_val *list = yyjson_obj_get(yyjson_doc_get_root(doc), "data"), *m;
	size_t i, n;
	int r = yyjson_is_arr(list) ? 0 : -EINVAL;
	for (i = 0; i < ARRAY_LEN(names); i++)
		table_add(&t, "%s", names[i]);
	yyjson_arr_foreach(list, i, n, m)
	{
		row(&t, m);
	}
	if (!r && yyjson_arr_size(list))
		table_print(&t, color, out);
	else if (!r)
		buf_adds(out, "No models are served. `corral run FILE.gguf` serves one at once; a .gguf file "
			      "in models_dir "
			      "is found by `corral serve` and at each reload.\n");
	yyjson_doc_free(doc);
	return r;
}

enum { OPT_DRY_RUN = 1 };

static int on_option(void *arg, int opt, const char *value)
{
	(void)opt;
	(void)value;
	*(bool *)arg = true;
	return 0;
}

int cmd_models(struct cli *c, const struct command *cmd, int argc, char **argv)
{
	static const struct option longs[] = { { "dry-run", no_argument, NULL, OPT_DRY_RUN }, { 0 } };
	bool dry_run = false;
	struct options o = { .longs = longs, .fn = on_option, .arg = &dry_run, .max = 2 };
	struct api a;
	int first, status;
	if (options_read(c, cmd, &o, argc, argv, &first, &status))
		return status;
	if (first < argc)
		return catalog_command(c, argv[first], first + 1 < argc ? argv[first + 1] : NULL, dry_run);
	int r = api_open(c, &a);
	if (r)
		return r;
	r = api_show(c, &a, "/v1/models", models_table, 2 * (size_t)API_BODY_MAX);
	api_close(&a);
	return r;
}
