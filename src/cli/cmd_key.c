/* SPDX-License-Identifier: Apache-2.0
 *
 * corral key create NAME | ls | revoke NAME: through the daemon, or where none runs straight into the file it
 * will read. The first key is needed before the first start on an address that others reach.
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <yyjson.h>

#include "auth/store.h"
#include "base/fd.h"
#include "base/mem.h"
#include "cli/cli_int.h"

enum { OPT_SCOPE = 1, OPT_MODELS, OPT_LIMIT, OPT_EXPIRES };

struct key_args {
	struct auth_key *key;
	bool has_options;
};

static int on_option(void *arg, int opt, const char *value)
{
	struct key_args *a = arg;
	struct err e = { 0 };
	int r = 0;
	a->has_options = true;
	if (opt == OPT_SCOPE && !auth_scope_parse(view_str(value), &a->key->scope))
		r = err_set(
			&e, -EINVAL, "found scope \"%.40s\"; accepted: inference, control or admin", value);
	else if (opt == OPT_MODELS)
		r = auth_models_parse(view_str(value), &a->key->models, &e);
	else if (opt == OPT_LIMIT)
		r = auth_limit_parse(view_str(value), &a->key->limits, &e);
	else if (opt == OPT_EXPIRES)
		r = auth_expiry_parse(view_str(value), wall_ms(), &a->key->expires_ms, &e);
	if (!r)
		return 0;
	complain("key: %s", e.msg);
	return CLI_USAGE;
}

/* ---- what is shown --------------------------------------------------------------------------------------
 */

static const char *text_of(yyjson_val *o, const char *key)
{
	const char *s = yyjson_get_str(yyjson_obj_get(o, key));
	return s ? s : "";
}

static void add_limit(yyjson_val *limits, const char *key, const char *format, struct buf *out)
{
	yyjson_val *v = yyjson_obj_get(limits, key);
	if (!yyjson_is_uint(v))
		return;
	(void)buf_adds(out, out->len ? ", " : "");
	(void)buf_addf(out, "%llu %s", (unsigned long long)yyjson_get_uint(v), format);
}

static void add_row(struct table *t, yyjson_val *k)
{
	AUTO(buf_done) struct buf models = BUF(64 * KIB), limits = BUF(1 * KIB);
	yyjson_val *m, *l = yyjson_obj_get(k, "limits");
	size_t i, n;
	yyjson_arr_foreach(yyjson_obj_get(k, "models"), i, n, m)(void)
		buf_addf(&models, "%s%s", i ? "," : "", yyjson_get_str(m));
	add_limit(l, "requests_per_minute", "requests/min", &limits);
	add_limit(l, "tokens_per_minute", "tokens/min", &limits);
	add_limit(l, "concurrent", "at once", &limits);
	const char *expires = text_of(k, "expires_at");
	bool gone = yyjson_get_bool(yyjson_obj_get(k, "expired"));
	table_add(t, "%s", text_of(k, "name"));
	table_add(t, "%s", text_of(k, "id"));
	table_add(t, "%s", text_of(k, "scope"));
	table_add(t, "%s", models.len ? buf_str(&models) : "all");
	table_add(t, "%s", limits.len ? buf_str(&limits) : "none");
	table_add(t, "%s%.10s", gone ? "expired " : "", *expires ? expires : "never");
	table_add(t, "%s", text_of(k, "source"));
}

int keys_table(struct view body, bool color, struct buf *out)
{
	static const char *const heading[] = { "NAME", "ID", "SCOPE", "MODELS", "LIMITS", "EXPIRES", "FROM" };
	AUTO(table_done) struct table t = { .columns = ARRAY_LEN(heading) };
	yyjson_doc *d = yyjson_read(body.n ? body.p : "", body.n, 0);
	yyjson_val *k, *list = yyjson_obj_get(yyjson_doc_get_root(d), "keys");
	size_t i, n;
	bool is_list = yyjson_is_arr(list);
	for (size_t c = 0; c < ARRAY_LEN(heading); c++)
		table_add(&t, "%s", heading[c]);
	yyjson_arr_foreach(list, i, n, k) add_row(&t, k);
	if (is_list && n)
		table_print(&t, color, out);
	else if (is_list)
		(void)buf_adds(out, "There is no key; `corral key create NAME` makes one.\n");
	yyjson_doc_free(d);
	return is_list ? 0 : -EINVAL;
}

/* The key alone goes to the standard output, so that a script gets nothing else. */
static int show_new(const struct cli *c, struct view body, bool for_next_start)
{
	AUTO(buf_done) struct buf out = BUF(1 * MIB);
	yyjson_doc *d = yyjson_read(body.n ? body.p : "", body.n, 0);
	yyjson_val *k = yyjson_doc_get_root(d);
	const char *secret = text_of(k, "key");
	if (!*secret) {
		yyjson_doc_free(d);
		return api_foreign();
	}
	if (c->json)
		(void)buf_addf(&out, "%.*s\n", VIEW_ARG(body));
	else
		(void)buf_addf(&out, "%s\n", secret);
	if (!c->json && isatty(2))
		fprintf(stderr,
			"Key %s (scope %s) is made%s. It is shown this once; clients send it as their API "
			"key.\n",
			text_of(k, "name"), text_of(k, "scope"), for_next_start ? " for the next start" : "");
	yyjson_doc_free(d);
	int r = say(&out);
	explicit_bzero(out.data, out.len);
	return r;
}

/* ---- with a daemon ---------------------------------------------------------------------------------------
 */

static void add_body(const struct auth_key *k, struct buf *b)
{
	(void)buf_addf(
		b, "{\"name\":\"%s\",\"scope\":\"%s\",\"models\":[", k->name, auth_scope_name(k->scope));
	for (size_t i = 0; i < k->models.len; i++) {
		(void)buf_adds(b, i ? "," : "");
		(void)buf_add_json(b, view_str(k->models.items[i]));
	}
	(void)buf_adds(b, "],\"limits\":{");
	const struct {
		const char *name;
		uint64_t n;
	} limits[] = { { "requests_per_minute", k->limits.requests },
		{ "tokens_per_minute", k->limits.tokens }, { "concurrent", k->limits.concurrent } };
	for (size_t i = 0, any = 0; i < ARRAY_LEN(limits); i++)
		if (limits[i].n)
			(void)buf_addf(b, "%s\"%s\":%llu", any++ ? "," : "", limits[i].name,
				(unsigned long long)limits[i].n);
	(void)buf_addc(b, '}');
	if (k->expires_ms) {
		char at[WALL_STR_LEN + 1];
		wall_format(k->expires_ms, at);
		(void)buf_addf(b, ",\"expires_at\":\"%s\"", at);
	}
	(void)buf_addc(b, '}');
}

static int ask(
	struct api *a, const char *method, const char *path, const struct buf *body, struct buf *answer)
{
	struct api_req req = {
		.method = method, .path = path, .body = body, .quiet_unreachable = !a->from_url
	};
	int http;
	return api_call(a, &req, answer, &http);
}

/* ---- without one ------------------------------------------------------------------------------------------
 */

static int store_of(const struct cli *c, struct config **ret_cfg, char **ret_path)
{
	struct config_source src = { .path = c->config_path };
	int r = config_load_or_say(&src, ret_cfg);
	if (!r)
		*ret_path = path_join((*ret_cfg)->state_dir, AUTH_STORE_NAME);
	return r;
}

static int failed(const struct err *e)
{
	complain("%s", e->msg);
	return CLI_FAILED;
}

static int write_new(const struct cli *c, struct auth_key *k)
{
	AUTO(config_unrefp) struct config *cfg = NULL;
	AUTO(mem_freep) char *path = NULL;
	AUTO(buf_done) struct buf b = BUF(128 * KIB);
	char secret[AUTH_SECRET_LEN + 1];
	struct err e = { 0 };
	int r = store_of(c, &cfg, &path);
	if (r)
		return r;
	if (dir_ensure_writable(cfg->state_dir, "state_dir", &e))
		return failed(&e);
	auth_secret_new(secret);
	auth_key_set_secret(k, view_str(secret));
	k->created_ms = wall_ms();
	if (auth_store_add(path, k, &e))
		return failed(&e);
	auth_key_json(k, k->created_ms, &b);
	b.len--;
	(void)buf_addf(&b, ",\"key\":\"%s\"}", secret);
	r = show_new(c, buf_view(&b), true);
	explicit_bzero(b.data, b.len);
	explicit_bzero(secret, sizeof secret);
	return r;
}

static void add_all(const struct auth_list *l, struct buf *b)
{
	for (size_t i = 0; i < l->n; i++) {
		(void)buf_adds(b, b->data[b->len - 1] == '[' ? "" : ",");
		auth_key_json(l->items[i], wall_ms(), b);
	}
}

static int read_all(const struct cli *c)
{
	AUTO(config_unrefp) struct config *cfg = NULL;
	AUTO(mem_freep) char *path = NULL;
	AUTO(buf_done) struct buf b = BUF(64 * MIB), out = BUF(64 * MIB);
	AUTO(auth_sources_done) struct auth_sources s = { 0 };
	struct err e = { 0 };
	int r = store_of(c, &cfg, &path);
	if (r)
		return r;
	if (auth_sources_load(cfg->state_dir, cfg->keys_file, getenv("CORRAL_API_KEYS"), &s, &e))
		return failed(&e);
	if (s.problem)
		complain("%s", s.problem);
	(void)buf_adds(&b, "{\"keys\":[");
	add_all(&s.store, &b);
	add_all(&s.file, &b);
	add_all(&s.env, &b);
	(void)buf_adds(&b, "]}");
	if (c->json)
		(void)buf_addf(&out, "%s\n", buf_str(&b));
	else if (keys_table(buf_view(&b), color_for(STDOUT_FILENO), &out))
		return CLI_FAILED;
	return say(&out);
}

static int delete_one(const struct cli *c, const char *name)
{
	AUTO(config_unrefp) struct config *cfg = NULL;
	AUTO(mem_freep) char *path = NULL;
	AUTO(auth_key_unrefp) struct auth_key *gone = NULL;
	struct err e = { 0 };
	int r = store_of(c, &cfg, &path);
	if (r)
		return r;
	if (auth_store_revoke(path, view_str(name), &gone, &e))
		return failed(&e);
	printf("Key %s is revoked.\n", gone->name);
	return CLI_OK;
}

/* ---- the command ------------------------------------------------------------------------------------------
 */

static int create(struct cli *c, struct api *a, struct key_args *args, const char *name)
{
	AUTO(buf_done) struct buf body = BUF(128 * KIB), answer = BUF(API_BODY_MAX);
	if (!auth_name_ok(view_str(name))) {
		complain(
			"key: found name \"%.80s\"; accepted: 1 to %d letters, digits, '.', '_', '-' and '@'",
			name, AUTH_NAME_MAX);
		return CLI_USAGE;
	}
	snprintf(args->key->name, sizeof args->key->name, "%s", name);
	add_body(args->key, &body);
	int r = ask(a, "POST", "/v1/keys", &body, &answer);
	if (r == CLI_UNREACHABLE && !a->from_url)
		return write_new(c, args->key);
	return r ? r : show_new(c, buf_view(&answer), false);
}

static int list(struct cli *c, struct api *a)
{
	AUTO(buf_done) struct buf answer = BUF(API_BODY_MAX), out = BUF(64 * MIB);
	int r = ask(a, "GET", "/v1/keys", NULL, &answer);
	if (r == CLI_UNREACHABLE && !a->from_url)
		return read_all(c);
	if (r)
		return r;
	if (c->json)
		(void)buf_addf(&out, "%s\n", buf_str(&answer));
	else if (keys_table(buf_view(&answer), color_for(STDOUT_FILENO), &out))
		return api_foreign();
	return say(&out);
}

static int remove_key(struct cli *c, struct api *a, const char *name)
{
	AUTO(buf_done) struct buf path = BUF(8 * KIB), body = BUF(16), answer = BUF(API_BODY_MAX);
	(void)buf_adds(&path, "/v1/keys/");
	path_add(&path, name);
	(void)buf_adds(&body, "{}");
	int r = ask(a, "DELETE", buf_str(&path), &body, &answer);
	if (r == CLI_UNREACHABLE && !a->from_url)
		return delete_one(c, name);
	if (r)
		return r;
	if (c->json)
		printf("%s\n", buf_str(&answer));
	else
		printf("Key %s is revoked.\n", name);
	return CLI_OK;
}

static int run(struct cli *c, struct key_args *args, int n, char **words)
{
	struct api a;
	const char *verb = words[0];
	bool creates = strcmp(verb, "create") == 0,
	     lists = strcmp(verb, "ls") == 0 || strcmp(verb, "list") == 0,
	     revokes = strcmp(verb, "revoke") == 0;
	if ((!creates && !lists && !revokes) || n != (lists ? 1 : 2) || (args->has_options && !creates)) {
		complain("key: accepted: create NAME, ls, revoke NAME; options belong to create");
		hint("corral key --help");
		return CLI_USAGE;
	}
	int r = api_open(c, &a);
	if (r)
		return r;
	r = creates ? create(c, &a, args, words[1]) : lists ? list(c, &a) : remove_key(c, &a, words[1]);
	api_close(&a);
	return r;
}

int cmd_key(struct cli *c, const struct command *cmd, int argc, char **argv)
{
	static const struct option longs[] = { { "scope", required_argument, NULL, OPT_SCOPE },
		{ "models", required_argument, NULL, OPT_MODELS },
		{ "limit", required_argument, NULL, OPT_LIMIT },
		{ "expires", required_argument, NULL, OPT_EXPIRES }, { 0 } };
	AUTO(auth_key_unrefp) struct auth_key *key = auth_key_new();
	struct key_args args = { .key = key };
	struct options o = { .longs = longs, .fn = on_option, .arg = &args, .min = 1, .max = 2 };
	int first, status;
	if (options_read(c, cmd, &o, argc, argv, &first, &status))
		return status;
	return run(c, &args, argc - first, argv + first);
}
