/* SPDX-License-Identifier: Apache-2.0 */
#include "role/engine_provisioner/found.h"

#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "base/mem.h"
#include "log/log.h"
#include "provision/model/stores.h"
#include "role/engine_provisioner/need.h"
#include "role/engine_provisioner/pools.h"

enum {
	/* An embedding model that sees both ways takes a text in one batch: its memory grows with the square.
	 */
	BATCH_MAX = 2048,
};

struct found {
	struct loop *loop;
	found_fn *fn;
	void *arg;
	struct config *base; /* of the look under way; NULL: none is */
	struct config *next; /* begin anew with this one */
	struct stores_roots roots;
	struct stores_found looking; /* the thread's, until it has ended */
	atomic_bool cancel;
	struct stores_found last;
	/* What each needs: of `looking` the thread's, of `last`; with them the configuration it is made from
	 */
	struct wire_model *counting, *needs;
	struct config *made;
	char *told; /* the last summary: the same one is not told again */
};

struct found *found_new(struct loop *l, found_fn *fn, void *arg)
{
	struct found *f = NEW(struct found);
	f->loop = l;
	f->fn = fn;
	f->arg = arg;
	return f;
}

/* ---- what an engine needs ------------------------------------------------------------------------------ */

/* By its file: ids are the configuration's affair. */
static const struct store_model *model_of(const struct stores_found *l, const char *path)
{
	for (size_t i = 0; path && i < l->nmodels; i++)
		if (strcmp(l->models[i].path, path) == 0)
			return &l->models[i];
	return NULL;
}

const struct stores_found *found_list(const struct found *f)
{
	return &f->last;
}

/* Whether a text must fit into one batch. The last token's vector (3) needs no such thing. */
static bool in_one_batch(const struct store_model *m)
{
	return m->use == STORE_RERANK || (m->use == STORE_EMBEDDING && m->pooling != 3);
}

static uint32_t auto_ctx(const struct store_model *m)
{
	uint32_t least = agent_auto_ctx(m->n_ctx_train);
	return in_one_batch(m) ? MIN(least, (uint32_t)BATCH_MAX) : least;
}

void found_args(const struct stores_found *l, const char *path, struct strv *args)
{
	static const char *const poolings[] = { "mean", "mean", "cls", "last" };
	const struct store_model *m = model_of(l, path);
	struct strv all = { 0 };
	if (!m)
		return;
	if (m->mmproj) {
		strv_add(&all, "--mmproj");
		strv_add(&all, m->mmproj);
	}
	if (m->use == STORE_RERANK)
		strv_add(&all, "--rerank");
	if (m->use == STORE_EMBEDDING) {
		strv_add(&all, "--embeddings");
		strv_add(&all, "--pooling");
		strv_add(&all, poolings[m->pooling > 0 && m->pooling <= 3 ? m->pooling : 0]);
	}
	if (in_one_batch(m)) {
		strv_addf(&all, "--batch-size=%u", auto_ctx(m));
		strv_addf(&all, "--ubatch-size=%u", auto_ctx(m));
	}
	strv_copy(&all, args);
	strv_done(args);
	*args = all;
}

bool found_describe(const struct found *f, struct wire_model *ret)
{
	const struct store_model *m = f ? model_of(&f->last, ret->path) : NULL;
	if (!m)
		return false;
	struct wire_model need = { 0 };
	if (f->needs)
		wire_model_copy(&need, &f->needs[m - f->last.models]);
	ret->need = MEM_TAKE(need.need);
	ret->larger = MEM_TAKE(need.larger);
	wire_model_done(&need);
	if (!file_exists(m->path))
		ret->problem = mem_fmt("the model file %s is not there any more", m->path);
	ret->architecture = mem_strdup(m->architecture);
	ret->name = mem_strdup(m->name);
	ret->quant = mem_strdup(m->quant);
	ret->source = mem_strdup(m->source);
	ret->reference = mem_strdup(m->reference);
	ret->size_bytes = m->size_bytes;
	ret->n_params = m->n_params;
	ret->n_ctx_train = m->n_ctx_train;
	ret->n_vocab = m->n_vocab;
	ret->n_embd = m->n_embd;
	ret->vision = m->vision;
	ret->audio = m->audio;
	ret->embedding = m->use == STORE_EMBEDDING;
	ret->rerank = m->use == STORE_RERANK;
	if (!ret->ctx)
		ret->ctx = auto_ctx(m);
	return true;
}

/* ---- looking ------------------------------------------------------------------------------------------- */

bool found_wanted(const struct config *base)
{
	return base->npools == 0 && base->defaults.engine.kind == CONFIG_ENGINE_LLAMACPP &&
	       base->defaults.engine.mode != CONFIG_MODE_EXTERNAL;
}

static void tell(struct found *f)
{
	const struct stores_found *l = &f->last;
	AUTO(mem_freep) char *summary = stores_summary(l);
	for (size_t i = 0; i < l->skipped.len; i++)
		log_debug("models", "disk", "Left out: %s.", l->skipped.items[i]);
	if (f->told && strcmp(f->told, summary) == 0)
		return;
	for (size_t i = 0; i < l->problems.len; i++)
		log_warn("models", "disk", "Looking for models: %s.", l->problems.items[i]);
	mem_setstr(&f->told, summary);
	if (l->nmodels)
		log_info("models", "disk", "No pools are configured: %s. Each is served on demand.", summary);
	else
		log_warn("models", "disk",
			"No pools are configured, and %s. Put a .gguf file into models_dir and reload, name "
			"one in "
			"`pools` of corral.yaml, or type: corral run FILE.gguf.",
			summary);
	for (size_t i = 0; i < l->nmodels; i++)
		if (l->models[i].use != STORE_TEXT)
			log_info("models", l->models[i].id, "%s is %s and is served as one.", l->models[i].id,
				l->models[i].use == STORE_RERANK ? "a rerank model (/v1/rerank)"
								 : "an embedding model (/v1/embeddings)");
}

static struct config *with_pools(struct config *base, const struct stores_found *l)
{
	struct config_found *pools = mem_alloc((l->nmodels + 1) * sizeof *pools);
	for (size_t i = 0; i < l->nmodels; i++)
		pools[i] = (struct config_found){
			.id = l->models[i].id, .path = l->models[i].path, .source = l->models[i].source
		};
	struct config *c = config_with_found(base, pools, l->nmodels);
	free(pools);
	return c;
}

/* As the node will start it. */
static void count(const struct node_pool *p, struct found *f)
{
	const struct store_model *m = model_of(&f->looking, p->model_path);
	if (!m)
		return;
	struct wire_model *n = &f->counting[m - f->looking.models];
	n->path = mem_strdup(m->path);
	n->ctx = p->ctx ? p->ctx : auto_ctx(m);
	n->n_ctx_train = m->n_ctx_train;
	agent_needs(p, f->base->state_dir, !p->ctx && !in_one_batch(m), n);
}

static void work(void *arg)
{
	struct found *f = arg;
	stores_find(&f->roots, &f->cancel, &f->looking);
	f->made = with_pools(f->base, &f->looking);
	f->counting = mem_alloc((f->looking.nmodels + 1) * sizeof *f->counting);
	AUTO(agent_pools_done) struct agent_pools pools = { 0 };
	agent_pools_make(f->made, &f->looking, &pools);
	for (size_t i = 0; i < pools.len && !atomic_load(&f->cancel); i++)
		count(&pools.items[i], f);
}

static void drop_needs(struct wire_model **list, const struct stores_found *of)
{
	for (size_t i = 0; *list && i < of->nmodels; i++)
		wire_model_done(&(*list)[i]);
	free(*list);
	*list = NULL;
}

static void begin(struct found *f, struct config *base);

static void done(void *arg)
{
	struct found *f = arg;
	struct config *base = f->base, *next = f->next;
	f->base = f->next = NULL;
	stores_roots_done(&f->roots);
	struct config *c = MEM_TAKE(f->made);
	if (atomic_load(&f->cancel)) {
		config_unref(c);
		drop_needs(&f->counting, &f->looking);
		stores_found_done(&f->looking);
		config_unref(base);
		if (next)
			begin(f, next);
		return;
	}
	drop_needs(&f->needs, &f->last);
	stores_found_done(&f->last);
	f->last = f->looking;
	f->needs = MEM_TAKE(f->counting);
	f->looking = (struct stores_found){ 0 };
	tell(f);
	config_unref(base);
	f->fn(f->arg, c);
}

/* <runtime_dir>/engines/<id>-<n>.<generation>.sock must fit a socket's address. */
static unsigned id_max(const struct config *c)
{
	size_t rest = strlen(c->runtime_dir) + strlen("/engines/-NN.0123456789.sock");
	return rest + STORES_ID_MIN < CONFIG_SOCKET_MAX ? (unsigned)(CONFIG_SOCKET_MAX - rest)
							: STORES_ID_MIN;
}

static void begin(struct found *f, struct config *base)
{
	f->base = base;
	atomic_store(&f->cancel, false);
	stores_roots_default(&f->roots, NULL, base->models_dir);
	f->roots.id_max = id_max(base);
	loop_offload(f->loop, work, done, f);
}

void found_look(struct found *f, struct config *base)
{
	if (!f->base) {
		begin(f, config_ref(base));
		return;
	}
	atomic_store(&f->cancel, true);
	config_unref(f->next);
	f->next = config_ref(base);
}

void found_forget(struct found *f)
{
	atomic_store(&f->cancel, true);
	f->next = config_unref(f->next);
	drop_needs(&f->needs, &f->last);
	stores_found_done(&f->last);
	mem_setstr(&f->told, NULL);
}

void found_free(struct found *f)
{
	if (!f)
		return;
	found_forget(f);
	free(f);
}
