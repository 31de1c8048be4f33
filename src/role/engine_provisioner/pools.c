/* SPDX-License-Identifier: Apache-2.0
 *
 * From the configuration's pools to the node's.
 */
#include "role/engine_provisioner/pools.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"

void agent_engine_def(const struct config_engine *c, struct engine_def *d)
{
	d->kind = (enum engine_kind)c->kind;
	d->mode = (enum engine_mode)c->mode;
	d->path = mem_strdup(c->path);
	strv_copy(&d->urls, &c->urls);
	d->sha256 = mem_strdup(c->sha256);
	d->program = mem_strdup(c->program);
	d->image = mem_strdup(c->image);
	d->runtime = (enum engine_runtime)c->runtime;
	strv_copy(&d->command, &c->command);
	strv_copy(&d->stop_command, &c->stop_command);
	d->package_archive = mem_strdup(c->package_archive);
	d->package_suite = mem_strdup(c->package_suite);
	d->package_keyring = mem_strdup(c->package_keyring);
	const char *version = c->version ? c->version : "installed";
	bool pinned = strcmp(version, "installed") != 0 && strcmp(version, "latest") != 0;
	d->source_repo = mem_strdup(c->source_repo);
	d->source_ref = mem_strdup(c->source_ref ? c->source_ref : pinned ? version : NULL);
	strv_copy(&d->source_flags, &c->source_flags);
	strv_copy(&d->args, &c->args);
	strv_copy(&d->env, &c->env);
	d->health = mem_strdup(c->health);
}

static bool has_file(const struct config_pool *p)
{
	return p->model && p->engine.mode != CONFIG_MODE_EXTERNAL;
}

/* More than one file, or what may have to be fetched. */
static bool has_set(const struct config *c, const struct config_pool *p)
{
	return has_file(p) && p->engine.kind != CONFIG_ENGINE_OPENAI &&
	       (p->model_set.mmproj || p->model_set.draft || p->model_set.lora.len ||
		       config_model_is_remote(c, p->model));
}

static void convert_set(const struct config_pool *p, struct node_pool *n)
{
	n->model.ref = mem_strdup(p->model);
	n->model.mmproj = mem_strdup(p->model_set.mmproj);
	n->model.draft = mem_strdup(p->model_set.draft);
	strv_copy(&n->model.lora, &p->model_set.lora);
	n->model_sha256 = mem_strdup(p->model_set.sha256);
}

static char *model_path(const struct config *c, const struct config_pool *p)
{
	enum model_want want = p->engine.kind == CONFIG_ENGINE_LLAMACPP ? MODEL_GGUF : MODEL_ANY;
	return has_file(p) ? agent_model_path(c, p->model, want) : NULL;
}

/* A tenth of the host's memory for all pools together, as if there were at most CACHE_POOLS: a folder full of
 * models that were found does not run all at once. */
enum { CACHE_MAX_MIB = 2048, CACHE_MIN_MIB = 64, CACHE_POOLS = 8 };

static uint64_t cache_mib(const struct config *c, const struct config_pool *p)
{
	if (p->host_cache)
		return MAX(p->host_cache / MIB, (uint64_t)1);
	uint64_t pages = (uint64_t)MAX(sysconf(_SC_PHYS_PAGES), 0L);
	uint64_t mib = pages * (uint64_t)MAX(sysconf(_SC_PAGESIZE), 0L) / MIB;
	uint64_t share = mib / 10 / MIN(MAX(c->npools, (size_t)1), (size_t)CACHE_POOLS);
	return MAX(MIN(share, (uint64_t)CACHE_MAX_MIB), (uint64_t)CACHE_MIN_MIB);
}

static void convert_pool(const struct config *c, const struct config_pool *p, struct node_pool *n)
{
	char spec[CONFIG_SPEC_LEN + 1];
	config_pool_spec(p, spec);
	n->id = mem_strdup(p->id);
	agent_engine_def(&p->engine, &n->engine);
	if (has_set(c, p))
		convert_set(p, n);
	else
		n->model_path = model_path(c, p);
	n->pinned = p->pinned;
	n->ctx = p->ctx;
	n->slots = p->slots;
	n->cache_ram_mib = cache_mib(c, p);
	n->gpus = p->gpus;
	n->memory = p->memory;
	n->devices = mem_strdup(p->devices);
	n->prefer = mem_strdup(p->prefer);
	n->avoid = mem_strdup(p->avoid);
	n->canary = (enum node_canary)p->canary;
	n->start_timeout_ms = p->start_timeout_ms;
	n->kv_save = (enum node_kv_save)p->kv.save;
	n->kv_max_bytes = p->kv.max_bytes;
	n->spec = mem_strdup(spec);
}

static_assert((int)ENGINE_TRITON == (int)CONFIG_ENGINE_TRITON, "one numbering");
static_assert((int)ENGINE_MODE_CONTAINER == (int)CONFIG_MODE_CONTAINER, "one numbering");
static_assert((int)ENGINE_RUNTIME_DOCKER == (int)CONFIG_RUNTIME_DOCKER, "one numbering");
static_assert((int)NODE_KV_OFF == (int)CONFIG_KV_OFF, "one numbering");
static_assert((int)MODEL_TRUST_STRICT == (int)CONFIG_TRUST_STRICT, "one numbering");
static_assert((int)NODE_CANARY_NEVER == (int)CONFIG_CANARY_NEVER, "one numbering");

void agent_fetch_make(const struct config *c, struct agent_fetch *ret)
{
	agent_fetch_done(ret);
	stores_roots_default(&ret->roots, NULL, c->models_dir);
	ret->opts = (struct model_ensure_opts){
		.models_dir = c->models_dir,
		.state_dir = c->state_dir,
		.roots = &ret->roots,
		.policy = { .offline = c->network.offline, .plain_http = c->network.plain_http },
		.trust = (enum model_trust)c->trust.mode,
		.require_digest = c->trust.require_digest,
		.parallel = c->fetch.parallel,
		.rate = c->fetch.rate,
		.headroom = c->fetch.headroom,
	};
	strv_copy(&ret->opts.policy.allow_hosts, &c->network.allow_hosts);
	strv_copy(&ret->opts.policy.deny, &c->network.deny);
	strv_copy(&ret->opts.registries, &c->trust.registries);
}

void agent_fetch_done(struct agent_fetch *f)
{
	stores_roots_done(&f->roots);
	strv_done(&f->opts.policy.allow_hosts);
	strv_done(&f->opts.policy.deny);
	strv_done(&f->opts.registries);
	f->opts = (struct model_ensure_opts){ 0 };
}

void agent_pools_make(const struct config *c, const struct stores_found *found, struct agent_pools *ret)
{
	*ret = (struct agent_pools){ .len = c->npools };
	ret->items = c->npools ? mem_alloc(c->npools * sizeof *ret->items) : NULL;
	for (size_t i = 0; i < c->npools; i++) {
		convert_pool(c, &c->pools[i], &ret->items[i]);
		found_args(found, ret->items[i].model_path, &ret->items[i].engine.args);
	}
}

void agent_pools_done(struct agent_pools *p)
{
	for (size_t i = 0; i < p->len; i++) {
		free((char *)(uintptr_t)p->items[i].id);
		free((char *)(uintptr_t)p->items[i].model_path);
		free((char *)(uintptr_t)p->items[i].model_sha256);
		model_set_done(&p->items[i].model);
		free((char *)(uintptr_t)p->items[i].spec);
		free((char *)(uintptr_t)p->items[i].devices);
		free((char *)(uintptr_t)p->items[i].prefer);
		free((char *)(uintptr_t)p->items[i].avoid);
		engine_def_done(&p->items[i].engine);
	}
	free(p->items);
	*p = (struct agent_pools){ 0 };
}

char *agent_model_path(const struct config *c, const char *ref, enum model_want want)
{
	struct model_files f = { 0 };
	if (model_resolve(ref, c->models_dir, want, &f, NULL) == 0) {
		char *path = mem_strdup(f.path);
		model_files_done(&f);
		return path;
	}
	return path_join(c->models_dir, strncmp(ref, "file:", 5) == 0 ? ref + 5 : ref);
}
