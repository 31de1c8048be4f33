/* SPDX-License-Identifier: Apache-2.0
 *
 * corral config check | show | reference | schema
 */
#include <stdio.h>

#include "base/mem.h"
#include "cli/cli_int.h"

enum { OPT_EFFECTIVE = 1, OPT_SET };

struct config_args {
	struct strv overrides;
	bool effective;
};

static int on_option(void *arg, int opt, const char *value)
{
	struct config_args *a = arg;
	if (opt == OPT_EFFECTIVE)
		a->effective = true;
	else
		strv_add(&a->overrides, value);
	return 0;
}

static void errors_json(const struct config_errors *e, struct buf *out)
{
	buf_addf(out, "{\"ok\":%s,\"errors\":[", e->len ? "false" : "true");
	for (size_t i = 0; i < e->len; i++) {
		const struct config_error *x = &e->items[i];
		buf_addf(out, "%s{\"file\":", i ? "," : "");
		if (x->file)
			buf_add_json(out, view_str(x->file));
		else
			buf_adds(out, "null");
		buf_addf(out, ",\"line\":%u,\"column\":%u,\"key\":", x->line, x->column);
		buf_add_json(out, view_str(x->key));
		buf_adds(out, ",\"message\":");
		buf_add_json(out, view_str(x->message));
		buf_addc(out, '}');
	}
	buf_addf(out, "],\"dropped\":%zu}\n", e->dropped);
}

static void say_fine(const struct config *cfg, struct buf *out)
{
	if (!cfg->files.len)
		buf_adds(out, "No configuration file was found; the defaults hold.\n");
	for (size_t i = 0; i < cfg->files.len; i++)
		buf_addf(out, "%s is fine.\n", cfg->files.items[i]);
	buf_addf(out, "%zu pool%s.\n", cfg->npools, cfg->npools == 1 ? "" : "s");
}

static int check(struct cli *c, const struct config_source *src)
{
	AUTO(config_errors_done) struct config_errors errs = { 0 };
	AUTO(config_unrefp) struct config *cfg = NULL;
	AUTO(buf_done) struct buf b = BUF(1 * MIB);
	bool fine = config_load(src, &cfg, &errs) == 0 && models_check(cfg, &errs) == 0;
	if (c->json)
		errors_json(&errs, &b);
	else if (fine)
		say_fine(cfg, &b);
	else
		(void)config_errors_print(&errs, color_for(2), &b);
	if (!c->json && !fine)
		fprintf(stderr, "%s", buf_str(&b));
	else if (say(&b))
		return CLI_FAILED;
	return fine ? CLI_OK : CLI_USAGE;
}

static int show(struct cli *c, const struct config_source *src, bool effective)
{
	AUTO(config_unrefp) struct config *cfg = NULL;
	AUTO(buf_done) struct buf b = BUF(64 * MIB);
	int r = config_load_or_say(src, &cfg);
	if (r)
		return r;
	(void)config_show(
		cfg, (c->json ? CONFIG_SHOW_JSON : 0) | (effective ? CONFIG_SHOW_EFFECTIVE : 0), &b);
	return say(&b);
}

static int dispatch(struct cli *c, const struct config_args *a, const char *what, const char *file)
{
	AUTO(buf_done) struct buf b = BUF(4 * MIB);
	struct config_source src = { .path = file ? file : c->config_path,
		.overrides = (const char *const *)a->overrides.items,
		.noverrides = a->overrides.len };
	if (strcmp(what, "check") == 0)
		return check(c, &src);
	if (strcmp(what, "show") == 0)
		return show(c, &src, a->effective);
	if (strcmp(what, "reference") == 0)
		(void)config_reference_markdown(&b);
	else if (strcmp(what, "schema") == 0)
		(void)config_schema_json(&b);
	if (b.len)
		return say(&b);
	complain("config: found \"%.40s\"; accepted: check, show, reference or schema", what);
	return CLI_USAGE;
}

int cmd_config(struct cli *c, const struct command *cmd, int argc, char **argv)
{
	static const struct option longs[] = { { "effective", no_argument, NULL, OPT_EFFECTIVE },
		{ "set", required_argument, NULL, OPT_SET }, { 0 } };
	struct config_args a = { 0 };
	struct options o = { .longs = longs, .fn = on_option, .arg = &a, .min = 1, .max = 2 };
	int first, status;
	if (options_read(c, cmd, &o, argc, argv, &first, &status) == 0)
		status = dispatch(c, &a, argv[first], first + 1 < argc ? argv[first + 1] : NULL);
	strv_done(&a.overrides);
	return status;
}
