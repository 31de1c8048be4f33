/* SPDX-License-Identifier: Apache-2.0
 *
 * Definitions of pools: those of today's configuration, and older ones for as long as an engine runs that was
 * started from them, the last POOL_OLDER_MAX of each pool in any case.
 */
#include <stdlib.h>

#include "base/fd.h"
#include "base/mem.h"
#include "log/log.h"
#include "node/models_int.h"

enum { DEFAULT_SLOTS = 2, DEFAULT_GRACE_MS = 5000, DEFAULT_CACHE_MIB = 1024 };

static struct pool *pool_make(const struct node_pool *from)
{
	struct pool *p = NEW(struct pool);
	p->refs = 1;
	p->conf = *from;
	p->conf.id = mem_strdup(from->id);
	p->conf.model_path = mem_strdup(from->model_path);
	p->conf.devices = mem_strdup(from->devices ? from->devices : "auto");
	p->conf.prefer = mem_strdup(from->prefer);
	p->conf.avoid = mem_strdup(from->avoid);
	p->conf.spec = mem_strdup(from->spec);
	p->conf.model_sha256 = mem_strdup(from->model_sha256);
	p->conf.model = (struct model_set){ .ref = mem_strdup(from->model.ref),
		.mmproj = mem_strdup(from->model.mmproj),
		.draft = mem_strdup(from->model.draft) };
	strv_copy(&p->conf.model.lora, &from->model.lora);
	strv_copy(&p->own_args, &from->engine.args);
	p->conf.engine = (struct engine_def){ 0 };
	engine_def_copy(&p->conf.engine, &from->engine);
	p->conf.slots = from->slots ? from->slots : DEFAULT_SLOTS;
	p->conf.grace_ms = from->grace_ms ? from->grace_ms : DEFAULT_GRACE_MS;
	p->conf.cache_ram_mib = from->cache_ram_mib ? from->cache_ram_mib : DEFAULT_CACHE_MIB;
	return p;
}

struct pool *node_pool_ref(struct pool *p)
{
	if (p)
		p->refs++;
	return p;
}

void node_pool_drop(struct pool **pp)
{
	struct pool *p = *pp;
	*pp = NULL;
	if (!p || --p->refs)
		return;
	while (p->nolder)
		node_pool_drop(&p->older[--p->nolder]);
	free((char *)(uintptr_t)p->conf.id);
	free((char *)(uintptr_t)p->conf.model_path);
	free((char *)(uintptr_t)p->conf.devices);
	free((char *)(uintptr_t)p->conf.prefer);
	free((char *)(uintptr_t)p->conf.avoid);
	free((char *)(uintptr_t)p->conf.spec);
	free((char *)(uintptr_t)p->conf.model_sha256);
	model_set_done(&p->conf.model);
	strv_done(&p->own_args);
	engine_def_done(&p->conf.engine);
	engine_build_done(&p->build);
	wire_model_done(&p->model);
	models_forget_header(p);
	free(p);
}

struct pool *node_pool_find(struct node *n, const char *id)
{
	for (size_t i = 0; i < n->npools; i++)
		if (!strcmp(n->pools[i]->conf.id, id))
			return n->pools[i];
	return NULL;
}

static bool fits(const struct pool *p, const char *id, const char *spec)
{
	return p && !strcmp(p->conf.id, id) && (!spec || !p->conf.spec || !strcmp(p->conf.spec, spec));
}

struct pool *node_pool_find_spec(struct node *n, const char *id, const char *spec)
{
	struct pool *p = node_pool_find(n, id);
	struct map_entry *e;
	if (!spec || fits(p, id, spec))
		return p;
	for (size_t i = 0; p && i < p->nolder; i++)
		if (fits(p->older[i], id, spec))
			return p->older[i];
	for (size_t i = 0; (e = map_next(&n->replicas, &i));) {
		struct replica *r = e->value;
		if (fits(r->pool, id, spec) && r->pool->conf.spec)
			return r->pool;
	}
	return NULL;
}

void replica_bind(struct replica *r, struct pool *p)
{
	node_pool_ref(p); /* first: it may be the same */
	node_pool_drop(&r->pool);
	r->pool = p;
}

const struct wire_model *replica_model(const struct replica *r)
{
	static const struct wire_model none;
	return r->model ? &r->own_model : r->pool ? &r->pool->model : &none;
}

/* By an option ("--rope-scale", "--rope-scale=2") or the variable llama-server takes in its place. */
static bool scales_rope(const struct node_pool *c)
{
	static const char *const options[] = { "--rope-", "--yarn-orig-ctx" };
	static const char *const variables[] = { "LLAMA_ARG_ROPE_", "LLAMA_ARG_YARN_ORIG_CTX" };
	for (size_t k = 0; k < ARRAY_LEN(options); k++) {
		for (size_t i = 0; i < c->engine.args.len; i++)
			if (view_starts(view_str(c->engine.args.items[i]), view_str(options[k])))
				return true;
		for (size_t i = 0; i < c->engine.env.len; i++)
			if (view_starts(view_str(c->engine.env.items[i]), view_str(variables[k])))
				return true;
	}
	return false;
}

char *node_ctx_problem(const struct node_pool *c, const struct wire_model *m, uint32_t ctx)
{
	if (c->engine.kind != ENGINE_LLAMACPP || !m->n_ctx_train || ctx <= m->n_ctx_train || scales_rope(c))
		return NULL;
	return mem_fmt("ctx is %u and the model was trained with %llu tokens of context; lower ctx, or add "
		       "RoPE scaling to engine.args (--rope-scaling)",
		ctx, (unsigned long long)m->n_ctx_train);
}

void node_read_model(struct node *n, const struct node_pool *c, const char *path, struct wire_model *m)
{
	wire_model_done(m);
	*m = (struct wire_model){ .pool_id = mem_strdup(c->id),
		.spec = mem_strdup(c->spec),
		.path = mem_strdup(path),
		.ctx = c->ctx,
		.absent = c->model.ref && !path,
		.retired = models_retired(n, c) };
	if (n->opts.read_model)
		n->opts.read_model(n->opts.arg, c, m);
	else if (path && !file_exists(path))
		m->problem = mem_fmt("the model file %s is not there", path);
	if (!m->problem)
		m->problem = node_ctx_problem(c, m, c->ctx);
}

/* The same engine as before needs no second look for its program. */
static void keep_build(struct pool *p, const struct pool *old)
{
	if (!old || !old->have_build || !old->conf.spec || !p->conf.spec ||
		strcmp(old->conf.spec, p->conf.spec) != 0)
		return;
	engine_build_copy(&p->build, &old->build);
	p->have_build = true;
}

static void move_replica(struct replica *r, struct pool *p)
{
	replica_bind(r, p);
	if (r->state == REPLICA_STARTING && !r->external)
		probe_timeout(&r->probe, replica_start_timeout_ms(r)); /* also of a start that is under way */
}

/* Takes a reference to one that p goes back to, if it is of another spec. */
static void add_older(struct pool *p, struct pool *o)
{
	if (p->nolder < POOL_OLDER_MAX && o->conf.spec && strcmp(o->conf.spec, p->conf.spec) != 0)
		p->older[p->nolder++] = node_pool_ref(o);
}

/* What stood before, and what that had kept: moved, so that no chain grows. */
static void keep_older(struct pool *p, struct pool *was)
{
	if (!was || !p->conf.spec)
		return;
	add_older(p, was);
	for (size_t i = 0; i < was->nolder; i++) {
		add_older(p, was->older[i]);
		node_pool_drop(&was->older[i]);
	}
	was->nolder = 0;
}

/* Replicas of the same spec take what may change under a running engine: timeouts, canary. */
static void move_replicas(struct node *n, struct pool *p)
{
	struct map_entry *e;
	for (size_t i = 0; p->conf.spec && (e = map_next(&n->replicas, &i));) {
		struct replica *r = e->value;
		if (r->pool && r->pool->conf.spec && fits(r->pool, p->conf.id, p->conf.spec))
			move_replica(r, p);
	}
}

static void drop_list(struct pool **list, size_t len)
{
	for (size_t i = 0; i < len; i++)
		node_pool_drop(&list[i]);
	free(list);
}

void pools_set(struct node *n, const struct node_pool *pools, size_t npools)
{
	struct pool **list = npools ? mem_alloc(npools * sizeof(struct pool *)) : NULL, **was = n->pools;
	size_t nwas = n->npools;
	for (size_t i = 0; i < npools; i++) {
		list[i] = pool_make(&pools[i]);
		models_look(n, list[i]);
		node_read_model(n, &list[i]->conf, list[i]->conf.model_path, &list[i]->model);
		keep_build(list[i], node_pool_find(n, pools[i].id));
		keep_older(list[i], node_pool_find(n, pools[i].id));
	}
	n->pools = list;
	n->npools = npools;
	for (size_t i = 0; i < npools; i++)
		move_replicas(n, list[i]);
	drop_list(was, nwas);
}

void pools_done(struct node *n)
{
	drop_list(n->pools, n->npools);
	n->pools = NULL;
	n->npools = 0;
}

void node_set_pools(struct node *n, const struct node_pool *pools, size_t npools)
{
	struct map_entry *e;
	pools_set(n, pools, npools);
	for (size_t i = 0; (e = map_next(&n->replicas, &i));)
		replica_kick(e->value);
	log_info("pools", n->opts.node_id, "This node has %zu pool%s now.", npools, npools == 1 ? "" : "s");
	report_again(n);
}
