/* SPDX-License-Identifier: Apache-2.0
 *
 * The exact way to start an engine for one replica: argv, a clean environment, where it will listen.
 * Starts nothing.
 */
#include <stdio.h>
#include <stdlib.h>

#include "provision/engine/engine_int.h"
#include "provision/engine/table.h"

enum { SOCKET_MAX = 107 }; /* what sun_path takes */

/* The words of a definition in which names are filled in. */
static const struct strv *template_words(const struct engine_def *def)
{
	static const struct strv none = { 0 };
	if (def->kind == ENGINE_COMMAND)
		return &def->command;
	return def->kind == ENGINE_OPENAI || def->kind == ENGINE_TRITON ? &def->args : &none;
}

void engine_needs(
	const struct engine_def *def, const struct engine_build *build, bool *ret_port, bool *ret_socket)
{
	bool boxed = build && build->image;
	bool started = def->mode != ENGINE_MODE_EXTERNAL;
	const struct strv *words = template_words(def);
	*ret_port = started &&
		    (boxed || engine_row_starts(engine_row(def->kind)) || template_names(words, "port"));
	*ret_socket = started && !boxed && (def->kind == ENGINE_LLAMACPP || template_names(words, "socket"));
}

static int check_socket(const char *path, bool llamacpp, struct err *reterr)
{
	size_t n = path ? strlen(path) : 0;
	if (n == 0 || path[0] != '/')
		return err_set(
			reterr, -EINVAL, "the engine's socket path \"%s\" is not absolute", path ? path : "");
	if (n > SOCKET_MAX)
		return err_set(reterr, -ENAMETOOLONG,
			"the engine's socket path %s has %zu bytes; %d are possible: use a shorter "
			"runtime_dir or pool id",
			path, n, SOCKET_MAX);
	if (llamacpp && !view_ends(view_of(path, n), VIEW(".sock")))
		return err_set(reterr, -EINVAL,
			"the engine's socket path %s does not end in .sock, which llama-server wants", path);
	return 0;
}

static bool env_name_ok(const char *assignment)
{
	size_t n = view_find(view_str(assignment), '=');
	if (n == 0 || assignment[n] != '=' || (assignment[0] >= '0' && assignment[0] <= '9'))
		return false;
	for (size_t i = 0; i < n; i++) {
		char c = assignment[i];
		if (!((c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_'))
			return false;
	}
	return true;
}

static int make_env(const struct engine_build *b, const struct engine_def *def, const struct engine_params *p,
	struct strv *env, struct err *reterr)
{
	env_clean(env);
	for (size_t i = 0; i < b->env.len; i++)
		env_set(env, b->env.items[i]);
	for (size_t i = 0; p->device_env && i < p->device_env->len; i++)
		env_set(env, p->device_env->items[i]);
	for (size_t i = 0; i < def->env.len; i++) {
		if (!env_name_ok(def->env.items[i]))
			return err_set(reterr, -EINVAL,
				"engine.env has \"%.*s\": NAME=value with a name of letters, digits and _ is "
				"accepted",
				(int)MIN(view_find(view_str(def->env.items[i]), '='), (size_t)60),
				def->env.items[i]);
		env_set(env, def->env.items[i]);
	}
	return 0;
}

/* Nothing is left to the engine's own guess. */
static void add_division(const struct engine_params *p, struct strv *ours)
{
	strv_add(ours, "--fit");
	strv_add(ours, "off");
	strv_add(ours, "-ngl");
	strv_addf(ours, "%u", p->gpu_layers);
	if (p->split) {
		strv_add(ours, "-ts");
		strv_add(ours, p->split);
	}
	if (p->cpu_experts) {
		strv_add(ours, "--n-cpu-moe");
		strv_addf(ours, "%u", p->cpu_experts);
	}
}

static int launch_llamacpp(const struct engine_build *b, const struct engine_def *def,
	const struct engine_params *p, struct engine_launch *l, struct err *reterr)
{
	if (!p->model_path)
		return err_set(reterr, -EINVAL, "a llamacpp pool needs a model; set the pool's `model`");
	int r = b->image ? 0 : check_socket(p->socket_path, true, reterr);
	if (r)
		return r;
	AUTO(strv_done) struct strv ours = { 0 };
	strv_add(&ours, "-m");
	strv_add(&ours, p->model_path);
	strv_add(&ours, "--host");
	strv_add(&ours, b->image ? launch_host(b) : p->socket_path);
	if (b->image) {
		strv_add(&ours, "--port");
		strv_addf(&ours, "%u", (unsigned)p->port);
	}
	strv_add(&ours, "--alias");
	strv_add(&ours, p->pool_id);
	strv_add(&ours, "--slots");
	strv_add(&ours, "--metrics");
	strv_add(&ours, "--cache-ram");
	strv_addf(&ours, "%llu", (unsigned long long)p->cache_ram_mib);
	strv_add(&ours, "-c");
	strv_addf(&ours, "%llu", (unsigned long long)p->ctx * p->slots);
	strv_add(&ours, "-np");
	strv_addf(&ours, "%u", p->slots);
	strv_add(&ours, "--cors-origins");
	strv_add(&ours, "localhost");
	strv_add(&ours, "--no-cors-credentials");
	if (p->cpu_only) {
		strv_add(&ours, "--device");
		strv_add(&ours, "none");
	}
	if (p->gpu_layers && !p->cpu_only)
		add_division(p, &ours);
	r = engine_args_merge(&llama_options, &ours, &def->args, &def->env, &l->argv, reterr);
	l->address = b->image ? mem_fmt("http://127.0.0.1:%u", (unsigned)p->port)
			      : mem_fmt("unix:%s", p->socket_path);
	l->uses_socket = !b->image;
	l->uses_port = b->image;
	l->has_slots = true;
	return r;
}

int add_templates(const struct strv *words, size_t from, const struct engine_params *p, struct strv *out,
	struct err *reterr)
{
	for (size_t i = from; i < words->len; i++) {
		int r = template_word(words->items[i], p, out, reterr);
		if (r)
			return r;
	}
	return 0;
}

static int launch_command(const struct engine_build *b, const struct engine_def *def,
	const struct engine_params *p, struct engine_launch *l, struct err *reterr)
{
	engine_needs(def, b, &l->uses_port, &l->uses_socket);
	if (!l->uses_port && !l->uses_socket)
		return err_set(reterr, -EINVAL,
			"%s names neither {port} nor {socket}, so nobody could tell the program where to "
			"listen; add one, for example --port {port}",
			def->kind == ENGINE_COMMAND ? "engine.command" : "engine.args");
	int r = l->uses_socket ? check_socket(p->socket_path, false, reterr) : 0;
	if (!r && def->kind == ENGINE_COMMAND)
		r = add_templates(&def->command, 1, p, &l->argv, reterr);
	if (!r)
		r = add_templates(&def->args, 0, p, &l->argv, reterr);
	if (!r)
		r = add_templates(&def->stop_command, 0, p, &l->stop_argv, reterr);
	if (r)
		return r;
	l->address = l->uses_socket ? mem_fmt("unix:%s", p->socket_path)
				    : mem_fmt("http://127.0.0.1:%u", (unsigned)p->port);
	return 0;
}

int engine_launch_build(const struct engine_build *b, const struct engine_def *def,
	const struct engine_params *p, struct engine_launch *ret, struct err *reterr)
{
	if (b->external || !b->program)
		return err_set(reterr, -EINVAL,
			"an external engine is started by somebody else; there is nothing to start");
	if (p->slots == 0 || (def->kind == ENGINE_LLAMACPP && p->ctx == 0))
		return err_set(reterr, -EINVAL, "ctx is %u and slots is %u: both must be 1 or more", p->ctx,
			p->slots);
	const struct engine_row *row = engine_row(def->kind);
	struct engine_launch l = { 0 };
	if (!b->image) {
		strv_add(&l.argv, b->program);
		strv_copy(&l.argv, &b->prefix_args);
	}
	int r = make_env(b, def, p, &l.env, reterr);
	if (!r)
		r = def->kind == ENGINE_LLAMACPP ? launch_llamacpp(b, def, p, &l, reterr)
		    : engine_row_starts(row)     ? launch_row(b, def, p, &l, reterr)
						 : launch_command(b, def, p, &l, reterr);
	if (!r && b->image)
		r = launch_container(b, def, p, &l, reterr);
	if (r) {
		engine_launch_done(&l);
		return r;
	}
	l.cwd = mem_strdup(b->cwd);
	l.health_path = mem_strdup(def->health ? def->health : row ? row->health : "/health");
	*ret = l;
	return 0;
}

/* ---- what may be shown ----------------------------------------------------------------------- */

static const char *const secret_words[] = { "key", "apikey", "token", "secret", "password", "passwd", "pass",
	"credential", "auth", "authorization", "bearer" };

/* Whether a part of name between - and _ is one of the words above ("--hf-token", "API_KEY"); names of
 * files with secrets may be shown. */
static bool name_is_secret(struct view name)
{
	if (view_ends(name, VIEW("-file")) || view_ends(name, VIEW("_FILE")) ||
		view_ends(name, VIEW("-path")))
		return false;
	for (size_t i = 0, start = 0; i <= name.n; i++) {
		if (i < name.n && name.p[i] != '-' && name.p[i] != '_')
			continue;
		for (size_t k = 0; k < ARRAY_LEN(secret_words); k++)
			if (view_eq_ci(view_of(name.p + start, i - start), view_str(secret_words[k])))
				return true;
		start = i + 1;
	}
	return false;
}

static bool is_variable_name(struct view v)
{
	for (size_t i = 0; i < v.n; i++)
		if (!((v.p[i] >= 'A' && v.p[i] <= 'Z') || (v.p[i] >= '0' && v.p[i] <= '9') || v.p[i] == '_'))
			return false;
	return v.n > 0;
}

static bool looks_secret(const char *word)
{
	static const char *const starts[] = { "sk-", "hf_", "ghp_", "Bearer " };
	for (size_t i = 0; i < ARRAY_LEN(starts); i++)
		if (strncmp(word, starts[i], strlen(starts[i])) == 0 && strlen(word) >= strlen(starts[i]) + 8)
			return true;
	return false;
}

void engine_argv_redact(const struct strv *argv, struct strv *ret)
{
	bool next_is_secret = false;
	for (size_t i = 0; i < argv->len; i++) {
		const char *word = argv->items[i];
		struct view name = view_cut(view_str(word), view_find(view_str(word), '='));
		bool option = word[0] == '-', assigned = word[name.n] == '=';
		bool secret = (option || (assigned && is_variable_name(name))) && name_is_secret(name);
		if (next_is_secret || looks_secret(word))
			strv_add(ret, "(redacted)");
		else if (secret && assigned)
			strv_addf(ret, "%.*s=(redacted)", VIEW_ARG(name));
		else {
			AUTO(mem_freep) char *plain = url_redact(view_str(word));
			strv_add(ret, plain);
		}
		next_is_secret = option && secret && !assigned && !next_is_secret;
	}
}
