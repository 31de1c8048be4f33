/* SPDX-License-Identifier: Apache-2.0
 *
 * What no single value shows: ids that repeat, keys that need or exclude each other, lengths.
 */
#include <ctype.h>
#include <stdio.h>

#include "base/fd.h"
#include "base/mask.h"
#include "base/mem.h"
#include "base/url.h"
#include "base/utf8.h"
#include "config/config_int.h"

struct check {
	struct loader *ld;
	struct config_pool *p;
	size_t index;
};

static const struct config_origin *top_origin(struct loader *ld, const char *key)
{
	return &ld->cfg->from[field_find(SCOPE_TOP, view_str(key))];
}

/* Where a key was written, or of a group ("engine.source") the first of its keys; NULL: nowhere. */
static const struct config_origin *pool_origin(const struct check *c, const char *key)
{
	size_t n = strlen(key);
	int exact = field_find(SCOPE_POOL, view_str(key));
	if (exact >= 0)
		return c->p->from[exact].kind != CONFIG_FROM_DEFAULT ? &c->p->from[exact] : NULL;
	for (size_t i = 0; i < config_nfields; i++) {
		const char *path = config_fields[i].path;
		if (config_fields[i].scope == SCOPE_POOL && strncmp(path, key, n) == 0 && path[n] == '.' &&
			c->p->from[i].kind != CONFIG_FROM_DEFAULT)
			return &c->p->from[i];
	}
	return NULL;
}

static bool pool_has(const struct check *c, const char *key)
{
	return pool_origin(c, key) != NULL;
}

/* At the key if it was written, else where the pool begins. */
static void pool_fail(const struct check *c, const char *key, const char *fmt, ...) PRINTF(3, 4);
static void pool_fail(const struct check *c, const char *key, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	AUTO(mem_freep) char *msg = mem_vfmt(fmt, ap);
	va_end(ap);
	AUTO(mem_freep) char *full = mem_fmt("pools[%zu].%s", c->index, key);
	const struct config_origin *o = pool_origin(c, key);
	load_fail(c->ld, o ? o : &c->p->at, full, "%s", msg);
}

/* ---- names -------------------------------------------------------------------------------------- */

static bool id_ok(const char *id)
{
	size_t n = strlen(id);
	for (size_t i = 0; i < n; i++) {
		bool alnum = (id[i] >= 'a' && id[i] <= 'z') || (id[i] >= '0' && id[i] <= '9');
		if (!alnum && !(i && (id[i] == '.' || id[i] == '_' || id[i] == '-')))
			return false;
	}
	return n >= 1 && n <= 64;
}

bool alias_ok(const char *a)
{
	struct view v = view_str(a);
	for (size_t i = 0; i < v.n; i++)
		if ((unsigned char)v.p[i] <= ' ' || v.p[i] == 0x7f)
			return false;
	return v.n >= 1 && v.n <= 128 && utf8_valid(v);
}

/* One name space: a client asks for either. names: name → pool. */
static void claim(const struct check *c, struct map *names, const char *name, const char *key)
{
	const struct config_pool *other = map_gets(names, name);
	if (!other) {
		map_put(names, view_str(name), c->p);
		return;
	}
	if (other == c->p) {
		pool_fail(c, key, "\"%.64s\" is already this pool's own name; remove it", name);
		return;
	}
	char where[32] = "";
	if (other->at.line)
		snprintf(where, sizeof where, " in line %u", other->at.line);
	pool_fail(c, key, "\"%.64s\" is already the name of pool \"%.64s\"%s; choose another", name,
		other->id ? other->id : "?", where);
}

static void check_names(const struct check *c, struct map *names)
{
	struct config_pool *p = c->p;
	if (!p->id)
		pool_fail(c, "id",
			"this pool has no valid id; accepted: a-z, 0-9, '.', '_' and '-', as in id: chat");
	else if (!id_ok(p->id))
		pool_fail(c, "id",
			"found \"%.80s\"; accepted: 1 to 64 of a-z, 0-9, '.', '_' and '-', beginning with a "
			"letter or a "
			"digit (other names a client may use go into aliases)",
			p->id);
	else
		claim(c, names, p->id, "id");
	for (size_t i = 0; i < p->aliases.len; i++) {
		if (alias_ok(p->aliases.items[i]))
			claim(c, names, p->aliases.items[i], "aliases");
		else
			pool_fail(c, "aliases",
				"found \"%.80s\"; accepted: 1 to 128 characters without spaces",
				p->aliases.items[i]);
	}
}

/* ---- engines ------------------------------------------------------------------------------------ */

static bool has_source(const struct config_engine *e)
{
	return e->source_repo || e->source_ref || e->source_flags.len;
}

static void infer_engine(const struct check *c)
{
	struct config_engine *e = &c->p->engine;
	if (!pool_has(c, "engine.kind") && e->command.len)
		e->kind = CONFIG_ENGINE_COMMAND;
	if (e->mode != CONFIG_MODE_AUTO || e->kind == CONFIG_ENGINE_COMMAND)
		return; /* auto that was written is the auto that was not */
	bool elsewhere = e->kind == CONFIG_ENGINE_OPENAI || e->kind == CONFIG_ENGINE_TRITON;
	if (e->sha256 || (e->path && !e->urls.len))
		e->mode = CONFIG_MODE_BINARY;
	else if (has_source(e))
		e->mode = CONFIG_MODE_SOURCE;
	else if (e->image && !e->urls.len)
		e->mode = CONFIG_MODE_CONTAINER;
	else if (e->urls.len || elsewhere)
		e->mode = CONFIG_MODE_EXTERNAL;
}

static void check_url(const struct check *c, char *url)
{
	struct view v = view_str(url), rest = { 0 };
	while (v.n && v.p[v.n - 1] == '/')
		v.n--;
	if (view_starts(v, VIEW("unix:/")) && v.n > 6) {
		if (v.n - 5 > CONFIG_SOCKET_MAX)
			pool_fail(c, "engine.urls",
				"the socket path %.60s… has %zu bytes; the system takes %d", url, v.n - 5,
				CONFIG_SOCKET_MAX);
		return;
	}
	if (view_starts(v, VIEW("http://")))
		rest = view_from(v, 7);
	else if (view_starts(v, VIEW("https://")))
		rest = view_from(v, 8);
	if (!rest.n) {
		pool_fail(c, "engine.urls",
			"found \"%.200s\"; accepted: http://HOST:PORT, https://HOST:PORT or unix:/PATH", url);
		return;
	}
	size_t slash = view_find(rest, '/');
	if (slash < rest.n || view_find(rest, '?') < rest.n || view_find(rest, '@') < rest.n) {
		pool_fail(c, "engine.urls",
			"found \"%.200s\"; write the server's address alone (http://HOST:PORT): the path of "
			"each request is put behind it",
			url);
		return;
	}
	url[v.n] = '\0';
}

static void check_engine_kind(const struct check *c)
{
	const struct config_engine *e = &c->p->engine;
	bool command = e->kind == CONFIG_ENGINE_COMMAND;
	if (command && !e->command.len)
		pool_fail(c, "engine.command",
			"an engine of kind command needs its command, as in command: [prog, --port, "
			"\"{port}\"]");
	if (!command && e->command.len)
		pool_fail(c, "engine.command",
			"command belongs to kind: command, and this is kind: %s; remove one of them",
			config_engine_kind_name(e->kind));
	if (!command && e->stop_command.len)
		pool_fail(c, "engine.stop_command",
			"stop_command belongs to kind: command, and this is kind: %s; remove it",
			config_engine_kind_name(e->kind));
	if (command && e->mode != CONFIG_MODE_AUTO)
		pool_fail(c, "engine.mode", "kind: command has no mode; remove it");
	if (!command && !config_engine_takes_model(e->kind) && e->mode != CONFIG_MODE_EXTERNAL && !e->path &&
		!e->image)
		pool_fail(c, "engine.mode",
			"kind: %s is a server that runs already; accepted: external, with its url, or the "
			"path "
			"of a program or an image whose args name {port}",
			config_engine_kind_name(e->kind));
	if (e->kind != CONFIG_ENGINE_LLAMACPP && e->mode == CONFIG_MODE_PACKAGE)
		pool_fail(c, "engine.mode", "mode: package gets llama.cpp alone, and this is kind: %s",
			config_engine_kind_name(e->kind));
}

/* Written in capitals it is the same. */
static bool take_sha256(char *s)
{
	size_t n = 0;
	for (; s[n]; n++) {
		if (s[n] >= 'A' && s[n] <= 'F')
			s[n] = (char)(s[n] - 'A' + 'a');
		if (!((s[n] >= '0' && s[n] <= '9') || (s[n] >= 'a' && s[n] <= 'f')))
			return false;
	}
	return n == 64;
}

static bool is_archive_url(const char *url)
{
	static const char *const schemes[] = { "https://", "http://", "file:///" };
	for (size_t i = 0; i < ARRAY_LEN(schemes); i++)
		if (view_starts(view_str(url), view_str(schemes[i])) && strlen(url) > strlen(schemes[i]))
			return true;
	return false;
}

static void check_binary(const struct check *c)
{
	const struct config_engine *e = &c->p->engine;
	bool binary = e->mode == CONFIG_MODE_BINARY, archive = binary && e->urls.len;
	if (binary && !e->path && !archive)
		pool_fail(c, "engine.path",
			"mode: binary needs the program, as in path: /usr/bin/llama-server, or an archive's "
			"url "
			"and sha256");
	if (e->path && archive)
		pool_fail(c, "engine.path", "path and url both say where the program is; remove one of them");
	if (archive && !e->sha256)
		pool_fail(c, "engine.urls",
			"an archive is taken by its digest alone: add sha256 with what its publisher says, "
			"or "
			"what `sha256sum` prints for the file you have checked");
	if (e->sha256 && !archive && (e->path || !binary))
		pool_fail(c, "engine.sha256", "sha256 is of the archive at url in mode: binary; remove it");
	if (e->sha256 && archive && !take_sha256(e->sha256))
		pool_fail(c, "engine.sha256", "found \"%.100s\"; accepted: 64 hexadecimal digits", e->sha256);
	if (e->program && !archive)
		pool_fail(c, "engine.program",
			"program is inside the archive at url in mode: binary; remove it");
	for (size_t i = 0; i < e->urls.len && archive; i++)
		if (!is_archive_url(e->urls.items[i]))
			pool_fail(c, "engine.urls",
				"found \"%.200s\"; accepted: https://HOST/PATH, http://HOST/PATH or "
				"file:///PATH of "
				"an archive",
				e->urls.items[i]);
}

static void check_engine(const struct check *c)
{
	const struct config_engine *e = &c->p->engine;
	check_engine_kind(c);
	if (e->mode == CONFIG_MODE_EXTERNAL && !e->urls.len)
		pool_fail(c, "engine.urls",
			"an external engine needs its address, as in url: http://127.0.0.1:8081");
	if (e->mode != CONFIG_MODE_EXTERNAL && e->mode != CONFIG_MODE_BINARY && e->urls.len)
		pool_fail(c, "engine.urls", "url belongs to mode: external or binary; remove one of them");
	check_binary(c);
	if (e->mode != CONFIG_MODE_CONTAINER && e->image)
		pool_fail(c, "engine.image", "image belongs to mode: container; remove one of them");
	if (e->mode != CONFIG_MODE_CONTAINER && e->mode != CONFIG_MODE_AUTO &&
		e->runtime != CONFIG_RUNTIME_AUTO)
		pool_fail(c, "engine.runtime",
			"runtime belongs to mode: container or auto; remove one of them");
	if (e->mode != CONFIG_MODE_BINARY && e->path)
		pool_fail(c, "engine.path", "path belongs to mode: binary; remove one of them");
	if (e->mode != CONFIG_MODE_SOURCE && has_source(e))
		pool_fail(c, "engine.source", "source belongs to mode: source; remove one of them");
	if (e->mode == CONFIG_MODE_SOURCE && e->kind != CONFIG_ENGINE_LLAMACPP)
		pool_fail(c, "engine.mode", "mode: source builds llama.cpp, and this is kind: %s; remove it",
			config_engine_kind_name(e->kind));
	for (size_t i = 0; i < e->urls.len && e->mode == CONFIG_MODE_EXTERNAL; i++)
		check_url(c, e->urls.items[i]);
	if (e->health && e->health[0] != '/')
		pool_fail(c, "engine.health",
			"found \"%.100s\"; accepted: a path that begins with /, as in /health", e->health);
}

static bool leaves_folder(const char *path)
{
	for (struct view rest = view_str(path); rest.p;)
		if (view_eqs(view_split(rest, '/', &rest), ".."))
			return true;
	return false;
}

static bool is_sha256(const char *s)
{
	return strlen(s) == 64 && strspn(s, "0123456789abcdefABCDEF") == 64;
}

/* What a reference means is for the machine that fetches it to say. */
static void check_model_set(const struct check *c, bool brings_own)
{
	struct config_pool *p = c->p;
	bool any = p->model_set.mmproj || p->model_set.draft || p->model_set.lora.len;
	if (p->model_set.sha256 && !is_sha256(p->model_set.sha256))
		pool_fail(c, "model.sha256", "found \"%.80s\"; accepted: 64 hexadecimal digits",
			p->model_set.sha256);
	for (char *s = p->model_set.sha256; s && *s; s++)
		*s = (char)tolower((unsigned char)*s);
	if (any && brings_own)
		pool_fail(c,
			p->model_set.mmproj  ? "model.mmproj"
			: p->model_set.draft ? "model.draft"
					     : "model.lora",
			"only an engine that Corral starts with a model file is given more of it; remove it");
	AUTO(mem_freep) char *shown = ref_shown(p->model);
	if (p->model && view_starts(view_str(p->model), VIEW("http://")) && !brings_own)
		pool_fail(c, "model",
			"found \"%.100s\"; models are fetched over https: alone; accepted: https://…, "
			"hf:org/repo, "
			"ollama:NAME, s3://BUCKET/KEY, oci://REGISTRY/NAME, or the path of a GGUF file",
			shown);
}

static void check_model(const struct check *c)
{
	struct config_pool *p = c->p;
	bool external = p->engine.mode == CONFIG_MODE_EXTERNAL;
	bool brings_own = external || p->engine.kind != CONFIG_ENGINE_LLAMACPP;
	check_model_set(c, brings_own);
	if (!p->model) {
		if (!external && config_engine_takes_model(p->engine.kind))
			pool_fail(c, "model", "this pool has no valid model; write the path of a %s",
				brings_own
					? "folder with its weights, or a repository, as in model: org/repo"
					: "GGUF file, as in model: chat.gguf, or a repository, as in model: "
					  "org/repo:Q4_K_M");
		return;
	}
	if (view_starts(view_str(p->model), VIEW("file:/")))
		memmove(p->model, p->model + 5, strlen(p->model + 5) + 1);
	if (view_starts(view_str(p->model), VIEW("~/")) && c->ld->home) {
		char *full = path_join(c->ld->home, p->model + 2);
		free(p->model);
		p->model = full;
	}
	if (!brings_own && p->model[0] != '/' && leaves_folder(p->model))
		pool_fail(c, "model", "found \"%.100s\", which leaves models_dir; write the absolute path",
			p->model);
}

/* ---- numbers and lengths ------------------------------------------------------------------------ */

static void check_replicas(const struct check *c)
{
	struct config_pool *p = c->p;
	uint32_t urls = (uint32_t)p->engine.urls.len;
	if (p->engine.mode == CONFIG_MODE_EXTERNAL && urls) {
		if (urls > 64)
			pool_fail(c, "engine.urls", "found %u addresses; accepted: at most 64", urls);
		else if (!pool_has(c, "replicas.max"))
			p->replicas_max = MAX(urls, p->replicas_min);
		if (p->replicas_max > urls)
			pool_fail(c, "replicas.max",
				"%u replicas of an external engine with %u address%s; each replica is one "
				"address",
				p->replicas_max, urls, urls == 1 ? "" : "es");
		return;
	}
	if (p->replicas_min > p->replicas_max && !pool_has(c, "replicas.max"))
		p->replicas_max = p->replicas_min;
	if (p->replicas_min > p->replicas_max)
		pool_fail(c, "replicas.min", "min %u is more than max %u; raise max or lower min",
			p->replicas_min, p->replicas_max);
	if ((uint64_t)p->ctx * p->slots > (1u << 30))
		pool_fail(c, "ctx", "%u tokens × %u slots is more than any engine takes; lower one of them",
			p->ctx, p->slots);
}

/* Whether they exist is for the machine that runs the pool to say. */
static void check_devices(const struct check *c)
{
	struct mask m;
	struct err e;
	const struct config_pool *p = c->p;
	if (!p->devices)
		return; /* its value was refused already */
	if (mask_parse(view_str(p->devices), &m, &e) < 0)
		pool_fail(c, "devices", "%s", e.msg);
	else if (m.kind == MASK_LIST && c->ld->cfg->gpu == CONFIG_GPU_NONE)
		pool_fail(c, "devices",
			"found \"%.100s\", but gpu: none keeps every engine on the CPU; remove one of them",
			p->devices);
}

static unsigned digits(uint32_t n)
{
	unsigned d = 1;
	while (n /= 10)
		d++;
	return d;
}

/* <runtime_dir>/engines/<id>-<n>.<generation>.sock */
static size_t socket_fixed(uint32_t replicas_max)
{
	return strlen("/engines/") + 1 + digits(replicas_max) + 1 + 10 + strlen(".sock");
}

size_t check_id_room(const char *runtime_dir, uint32_t replicas_max)
{
	size_t used = strlen(runtime_dir) + socket_fixed(replicas_max);
	return used < CONFIG_SOCKET_MAX ? CONFIG_SOCKET_MAX - used : 0;
}

static void check_socket(const struct check *c)
{
	const char *dir = c->ld->cfg->runtime_dir;
	const struct config_pool *p = c->p;
	if (!p->id || !id_ok(p->id) || p->engine.mode == CONFIG_MODE_EXTERNAL)
		return;
	size_t fixed = socket_fixed(p->replicas_max);
	size_t len = strlen(dir) + fixed + strlen(p->id);
	if (len <= CONFIG_SOCKET_MAX)
		return;
	size_t room = CONFIG_SOCKET_MAX - fixed;
	pool_fail(c, "id",
		"the engine's socket would be %.120s/engines/%s-N.GENERATION.sock, up to %zu bytes, and the "
		"system takes %d: "
		"shorten runtime_dir and the id, together %zu bytes now, to at most %zu",
		dir, p->id, len, CONFIG_SOCKET_MAX, strlen(dir) + strlen(p->id), room);
}

static void check_dirs(struct loader *ld)
{
	static const char *const keys[] = { "state_dir", "runtime_dir", "models_dir" };
	const char *dirs[] = { ld->cfg->state_dir, ld->cfg->runtime_dir, ld->cfg->models_dir };
	for (size_t i = 0; i < ARRAY_LEN(keys); i++)
		if (dirs[i][0] != '/')
			load_fail(ld, top_origin(ld, keys[i]), keys[i],
				"found \"%.100s\"; accepted: an absolute path", dirs[i]);
	size_t len = strlen(ld->cfg->runtime_dir) + strlen("/provisioner.sock");
	if (len > CONFIG_SOCKET_MAX)
		load_fail(ld, top_origin(ld, "runtime_dir"), "runtime_dir",
			"sockets in it would have paths of %zu bytes, and the "
			"system takes %d: name a folder whose path has at most %zu bytes",
			len, CONFIG_SOCKET_MAX, CONFIG_SOCKET_MAX - strlen("/provisioner.sock"));
}

bool check_made(struct config *cfg, struct config_pool *p)
{
	AUTO(config_errors_done) struct config_errors errs = { 0 };
	struct loader ld = { .cfg = cfg, .errs = &errs };
	struct check c = { .ld = &ld, .p = p };
	infer_engine(&c);
	check_engine(&c);
	check_model(&c);
	check_replicas(&c);
	check_socket(&c);
	return !errs.len && id_ok(p->id) && p->engine.mode != CONFIG_MODE_EXTERNAL;
}

void check_all(struct loader *ld)
{
	struct map names;
	const struct config_pool *dflt = NULL;
	map_init(&names);
	check_listen(ld);
	check_door(ld);
	check_dirs(ld);
	check_network(ld);
	for (size_t i = 0; i < ld->cfg->npools; i++) {
		struct check c = { ld, &ld->cfg->pools[i], i };
		infer_engine(&c);
		check_names(&c, &names);
		check_engine(&c);
		check_model(&c);
		check_replicas(&c);
		check_devices(&c);
		check_socket(&c);
		if (c.p->is_default && dflt)
			pool_fail(&c, "default",
				"pool \"%.64s\" is the default already; keep default: true in one of them",
				dflt->id ? dflt->id : "?");
		else if (c.p->is_default)
			dflt = c.p;
	}
	map_done(&names);
	check_room(ld);
}
