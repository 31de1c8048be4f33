/* SPDX-License-Identifier: Apache-2.0
 *
 * corral config check | show | reload | reference | schema
 */
#include <stdio.h>
#include <yyjson.h>

#include "auth/store.h"
#include "base/clock.h"
#include "base/mem.h"
#include "cli/cli_int.h"
#include "net/tls.h"

enum { OPT_EFFECTIVE = 1, OPT_SET, OPT_DRY_RUN, RELOAD_MS = 90000 };

struct config_args {
	struct strv overrides;
	bool effective, dry_run;
};

static int on_option(void *arg, int opt, const char *value)
{
	struct config_args *a = arg;
	if (opt == OPT_EFFECTIVE)
		a->effective = true;
	else if (opt == OPT_DRY_RUN)
		a->dry_run = true;
	else
		strv_add(&a->overrides, value);
	return 0;
}

static void errors_json(const struct config_errors *e, struct buf *out)
{
	buf_addf(out, "{\"ok\":%s,\"errors\":", e->len ? "false" : "true");
	(void)config_errors_json(e, out);
	buf_addf(out, ",\"dropped\":%zu}\n", e->dropped);
}

static void say_fine(const struct config *cfg, struct buf *out)
{
	if (!cfg->files.len)
		buf_adds(out, "No configuration file was found; the defaults hold.\n");
	for (size_t i = 0; i < cfg->files.len; i++)
		buf_addf(out, "%s is fine.\n", cfg->files.items[i]);
	buf_addf(out, "%zu pool%s.\n", cfg->npools, cfg->npools == 1 ? "" : "s");
}

/* True: it can be served with, or there is none. warning: what is to be said of it all the same. */
static bool certificate_fine(const struct config *cfg, struct config_errors *errs, struct buf *warning)
{
	AUTO(tls_cert_freep) struct tls_cert *cert = NULL;
	struct err e = { 0 };
	if (!cfg->tls_cert)
		return true;
	if (tls_cert_load(cfg->tls_cert, cfg->tls_key, &cert, &e) == 0) {
		(void)tls_cert_warning(cert, wall_ms() / 1000, warning);
		return true;
	}
	config_errors_add(errs, config_origin_of(cfg, NULL, "tls.cert"), "tls", e.msg);
	return false;
}

/* Keys are the machine's: a file that is checked elsewhere is not wrong for having none. */
static void keys_fine(const struct config *cfg, const struct config_source *src)
{
	AUTO(auth_sources_done) struct auth_sources s = { 0 };
	struct err e = { 0 };
	int r = auth_sources_load(cfg->state_dir, cfg->keys_file, getenv("CORRAL_API_KEYS"), &s, &e);
	if (!r)
		r = auth_exposed_check(
			&cfg->listen, &cfg->auth_trusted, auth_sources_count(&s), src->path, &e);
	if (r || s.warning)
		complain("%s", r ? e.msg : s.warning);
	if (s.problem)
		complain("%s", s.problem);
}

static int check(struct cli *c, const struct config_source *src)
{
	AUTO(buf_done) struct buf warning = BUF(4 * KIB);
	AUTO(config_errors_done) struct config_errors errs = { 0 };
	AUTO(config_unrefp) struct config *cfg = NULL;
	AUTO(buf_done) struct buf b = BUF(1 * MIB);
	bool fine = config_load(src, &cfg, &errs) == 0 && models_check(cfg, &errs) == 0 &&
		    certificate_fine(cfg, &errs, &warning);
	if (fine)
		keys_fine(cfg, src);
	if (warning.len)
		fprintf(stderr, "corral: tls: %s.\n", buf_str(&warning));
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

/* ---- reload --------------------------------------------------------------------------------------- */

struct refusal {
	const struct cli *c;
	bool mistakes;
};

static char *member(yyjson_val *o, const char *key)
{
	return mem_strdup(yyjson_get_str(yyjson_obj_get(o, key)));
}

static unsigned number(yyjson_val *o, const char *key)
{
	uint64_t v = yyjson_get_uint(yyjson_obj_get(o, key));
	return v < 1000000 ? (unsigned)v : 0;
}

/* What config_errors_json wrote. */
static void errors_read(yyjson_val *list, struct config_errors *ret)
{
	yyjson_val *o;
	yyjson_arr_iter it = yyjson_arr_iter_with(list);
	while ((o = yyjson_arr_iter_next(&it)) && ret->len < CONFIG_ERRORS_MAX) {
		struct config_error e = { member(o, "file"), number(o, "line"), number(o, "column"),
			number(o, "width"), member(o, "key"), member(o, "message"), member(o, "excerpt") };
		if (!e.key)
			e.key = mem_strdup("");
		if (!e.message)
			e.message = mem_strdup("");
		ret->items[ret->len++] = e;
	}
}

static bool on_refused(void *arg, int status, struct view body)
{
	struct refusal *r = arg;
	yyjson_doc *d = yyjson_read(body.n ? body.p : "", body.n, 0);
	yyjson_val *err = yyjson_obj_get(yyjson_doc_get_root(d), "error"),
		   *list = yyjson_obj_get(err, "errors");
	AUTO(config_errors_done) struct config_errors errs = { 0 };
	AUTO(buf_done) struct buf b = BUF(API_BODY_MAX);
	if (yyjson_is_arr(list))
		errors_read(list, &errs);
	errs.dropped = number(err, "dropped");
	yyjson_doc_free(d);
	r->mistakes = errs.len > 0;
	if (status != 400 || !r->mistakes)
		return false;
	if (r->c->json) {
		errors_json(&errs, &b);
		(void)say(&b);
	} else {
		(void)config_errors_print(&errs, color_for(2), &b);
		fprintf(stderr, "%s", buf_str(&b));
		complain("the configuration is not taken; everything stays as it is");
	}
	return true;
}

static char sign_of(const char *kind)
{
	if (strcmp(kind, "pool_added") == 0)
		return '+';
	if (strcmp(kind, "pool_removed") == 0)
		return '-';
	return strcmp(kind, "next_start") == 0 ? '=' : '~';
}

static size_t add_changes(yyjson_val *list, struct buf *out)
{
	size_t n = 0;
	yyjson_val *o;
	yyjson_arr_iter it = yyjson_arr_iter_with(list);
	for (; (o = yyjson_arr_iter_next(&it)); n++) {
		const char *kind = yyjson_get_str(yyjson_obj_get(o, "kind"));
		const char *human = yyjson_get_str(yyjson_obj_get(o, "human"));
		(void)buf_addf(out, "%c ", sign_of(kind ? kind : ""));
		clean_add(out, view_str(human ? human : ""), false);
		(void)buf_addc(out, '\n');
	}
	return n;
}

int reload_plan(struct view body, struct buf *out)
{
	yyjson_doc *d = yyjson_read(body.n ? body.p : "", body.n, 0);
	yyjson_val *root = yyjson_doc_get_root(d);
	AUTO(config_errors_done) struct config_errors warnings = { 0 };
	if (!yyjson_is_arr(yyjson_obj_get(root, "changes"))) {
		yyjson_doc_free(d);
		return -EINVAL;
	}
	size_t now = add_changes(yyjson_obj_get(root, "changes"), out);
	size_t later = add_changes(yyjson_obj_get(root, "next_start"), out);
	bool applied = yyjson_is_true(yyjson_obj_get(root, "applied"));
	errors_read(yyjson_obj_get(root, "warnings"), &warnings);
	yyjson_doc_free(d);
	for (size_t i = 0; i < warnings.len; i++) {
		(void)buf_adds(out, "! ");
		clean_add(out, view_str(warnings.items[i].key), false);
		(void)buf_adds(out, ": ");
		clean_add(out, view_str(warnings.items[i].message), false);
		(void)buf_addc(out, '\n');
	}
	if (!now && !later)
		(void)buf_adds(out, "Nothing changed.\n");
	else if (!now)
		(void)buf_adds(out, "Nothing changed that can be changed while it runs.\n");
	else
		(void)buf_addf(out,
			applied ? "%zu change%s applied.\n" : "%zu change%s; nothing was done (--dry-run).\n",
			now, now == 1 ? "" : "s");
	return 0;
}

static bool file_has_mistakes(const struct cli *c)
{
	struct config_source src = { .path = c->config_path };
	AUTO(config_unrefp) struct config *cfg = NULL;
	return config_load_or_say(&src, &cfg) != 0;
}

static int reload(struct cli *c, bool dry_run)
{
	struct api a;
	AUTO(buf_done) struct buf body = BUF(64);
	AUTO(buf_done) struct buf answer = BUF(API_BODY_MAX);
	AUTO(buf_done) struct buf out = BUF(2 * API_BODY_MAX);
	struct refusal refusal = { .c = c };
	int http, r = api_open(c, &a);
	if (r)
		return r;
	buf_addf(&body, "{\"dry_run\":%s}", dry_run ? "true" : "false");
	struct api_req req = { .method = "POST",
		.path = "/v1/config/reload",
		.body = &body,
		.timeout_ms = RELOAD_MS,
		.on_refused = on_refused,
		.arg = &refusal };
	r = api_call(&a, &req, &answer, &http);
	api_close(&a);
	/* A file that is no YAML names no runtime_dir either; what is wrong with it is known all the same. */
	if (refusal.mistakes || (r == CLI_UNREACHABLE && file_has_mistakes(c)))
		return CLI_USAGE;
	if (r)
		return r;
	if (c->json) {
		buf_addf(&out, "%s\n", buf_str(&answer));
	} else if (reload_plan(buf_view(&answer), &out)) {
		complain("the daemon's answer cannot be read");
		return CLI_FAILED;
	}
	return say(&out);
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
	if (strcmp(what, "reload") == 0) {
		if (!file && !a->overrides.len)
			return reload(c, a->dry_run);
		complain("config reload: the daemon reads the file it was started with; neither FILE nor "
			 "--set is "
			 "taken");
		return CLI_USAGE;
	}
	if (strcmp(what, "reference") == 0)
		(void)config_reference_markdown(&b);
	else if (strcmp(what, "schema") == 0)
		(void)config_schema_json(&b);
	if (b.len)
		return say(&b);
	complain("config: found \"%.40s\"; accepted: check, show, reload, reference or schema", what);
	return CLI_USAGE;
}

int cmd_config(struct cli *c, const struct command *cmd, int argc, char **argv)
{
	static const struct option longs[] = { { "effective", no_argument, NULL, OPT_EFFECTIVE },
		{ "dry-run", no_argument, NULL, OPT_DRY_RUN }, { "set", required_argument, NULL, OPT_SET },
		{ 0 } };
	struct config_args a = { 0 };
	struct options o = { .longs = longs, .fn = on_option, .arg = &a, .min = 1, .max = 2 };
	int first, status;
	if (options_read(c, cmd, &o, argc, argv, &first, &status) == 0)
		status = dispatch(c, &a, argv[first], first + 1 < argc ? argv[first + 1] : NULL);
	strv_done(&a.overrides);
	return status;
}
