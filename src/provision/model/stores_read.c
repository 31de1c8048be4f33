/* SPDX-License-Identifier: Apache-2.0
 *
 * From files to models: each header is read once, files that are no models are left out with a reason, the
 * same bytes found twice are listed once, and projectors go to the models they lie beside.
 */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/utf8.h"
#include "gguf/gguf.h"
#include "provision/model/model.h"
#include "provision/model/stores_int.h"

struct projector {
	const struct candidate *c;
	uint64_t width; /* of what it hands to the model; 0 unknown */
	uint64_t size_bytes;
	bool vision, audio;
};
struct reading {
	struct scan *s;
	struct map bytes;            /* device and inode, or digest */
	const struct candidate **of; /* of[i]: what models[i] was made of */
	struct projector *projectors;
	size_t nprojectors;
};

/* ---- one header ---------------------------------------------------------------------------------------- */

/* Architectures whose models make vectors, not text, whatever else their header says. */
static bool is_embedding_architecture(struct view a)
{
	static const char *const names[] = { "bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2",
		"jina-bert-v3", "neo-bert", "modern-bert", "eurobert", "gemma-embedding", "t5encoder" };
	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		if (view_eqs(a, names[i]))
			return true;
	return false;
}

/* Why a readable GGUF file is no model to serve, or NULL. */
static const char *no_model(const struct gguf *g, const struct gguf_facts *f)
{
	struct view type = { 0 };
	gguf_str(g, "general.type", &type);
	if (view_eqs(type, "adapter"))
		return "it is an adapter (LoRA), no model by itself";
	if (view_eqs(type, "imatrix"))
		return "it is an importance matrix, no model";
	if (view_eqs(f->architecture, "controlvector"))
		return "it is a control vector, no model by itself";
	if (!gguf_tensor_count(g))
		return "it holds a vocabulary and no weights";
	if (!gguf_has(g, "tokenizer.ggml.model"))
		return "it has no tokenizer, so it is no language model";
	return NULL;
}

static void take_facts(struct store_model *m, const struct gguf_facts *f, const char *stem)
{
	m->architecture = mem_viewdup(f->architecture);
	m->name = mem_viewdup(f->name);
	m->n_params = f->n_params;
	m->n_ctx_train = f->n_ctx_train;
	m->n_vocab = f->n_vocab;
	m->n_embd = f->n_embd;
	m->quant = name_quant(stem);
	if (!m->quant)
		m->quant = name_type_quant(gguf_file_type_name(f->file_type));
	if (f->pooling_type == 4) {
		m->use = STORE_RERANK;
	} else if (f->pooling_type > 0 || is_embedding_architecture(f->architecture)) {
		m->use = STORE_EMBEDDING;
		m->pooling = f->pooling_type > 0 && f->pooling_type <= 3 ? f->pooling_type : 1;
	}
}

/* ---- one candidate ------------------------------------------------------------------------------------- */

static void bytes_key(const struct stat *st, char out[48])
{
	snprintf(out, 48, "%llx:%llx", (unsigned long long)st->st_dev, (unsigned long long)st->st_ino);
}

/* Whether these bytes are listed already; remembers them. A path's target may be named by its digest. */
static bool seen(struct reading *r, const struct candidate *c)
{
	struct stat st;
	char key[48];
	if (stat(c->path, &st) < 0)
		return false;
	bytes_key(&st, key);
	bool file = map_put(&r->bytes, view_str(key), r) != NULL;
	return (c->digest && map_put(&r->bytes, view_str(c->digest), r)) || file;
}

static void add_projector(struct reading *r, const struct candidate *c, const struct gguf *g,
	const struct gguf_facts *f, uint64_t size)
{
	struct projector p = { .c = c, .size_bytes = size, .vision = f->has_vision, .audio = f->has_audio };
	if (!gguf_u64(g, "clip.vision.projection_dim", &p.width))
		gguf_u64(g, "clip.audio.projection_dim", &p.width);
	r->projectors = mem_realloc(r->projectors, (r->nprojectors + 1) * sizeof *r->projectors);
	r->projectors[r->nprojectors++] = p;
}

/* The parameters in the other parts of a split model. */
static uint64_t other_params(const struct model_files *files)
{
	uint64_t sum = 0;
	for (size_t i = 1; i < files->parts.len; i++) {
		AUTO(gguf_freep) struct gguf *g = NULL;
		struct gguf_facts f;
		if (gguf_open(files->parts.items[i], &g, NULL) < 0)
			continue;
		gguf_facts(g, &f);
		if (__builtin_add_overflow(sum, f.n_params, &sum))
			return 0;
	}
	return sum;
}

static void add_model(struct reading *r, const struct candidate *c, const struct gguf_facts *f,
	const struct model_files *files)
{
	struct stores_found *ret = r->s->ret;
	if (ret->nmodels == STORES_MODELS_MAX) {
		scan_skip(r->s, c->path, "there are more than 1000 models; it is not listed");
		return;
	}
	ret->models = mem_realloc(ret->models, (ret->nmodels + 1) * sizeof *ret->models);
	r->of = mem_realloc(r->of, (ret->nmodels + 1) * sizeof *r->of);
	struct store_model *m = &ret->models[ret->nmodels];
	r->of[ret->nmodels++] = c;
	*m = (struct store_model){ .path = mem_strdup(files->path),
		.source = store_name(c->store),
		.reference = c->reference ? mem_strdup(c->reference) : mem_fmt("file:%s", files->path),
		.size_bytes = files->size_bytes };
	take_facts(m, f, c->base);
	m->n_params += other_params(files);
}

static void read_one(struct reading *r, const struct candidate *c)
{
	AUTO(gguf_freep) struct gguf *g = NULL;
	AUTO(model_files_done) struct model_files files = { 0 };
	struct err e = { 0 };
	struct gguf_facts f;
	if (!utf8_valid(view_str(c->path))) {
		scan_skip(r->s, c->path, "its path is not UTF-8, so nobody could be told of it; rename it");
		return;
	}
	if (seen(r, c))
		return;
	if (model_resolve(c->path, NULL, c->store == STORE_OLLAMA ? MODEL_ANY : MODEL_GGUF, &files, &e) < 0 ||
		gguf_open(c->path, &g, &e) < 0) {
		scan_skip(r->s, c->path, "%s", e.msg);
		return;
	}
	gguf_facts(g, &f);
	if (f.is_projector) {
		add_projector(r, c, g, &f, files.size_bytes);
		return;
	}
	const char *why = no_model(g, &f);
	if (why)
		scan_skip(r->s, c->path, "%s", why);
	else
		add_model(r, c, &f, &files);
}

/* ---- projectors ---------------------------------------------------------------------------------------- */

/* F16 runs everywhere; then what is closest to it. */
static int rank_of(const struct projector *p)
{
	AUTO(mem_freep) char *q = name_quant(p->c->base);
	return !q                       ? 3
	       : strcmp(q, "F16") == 0  ? 0
	       : strcmp(q, "BF16") == 0 ? 1
	       : strcmp(q, "Q8_0") == 0 ? 2
					: 3;
}

static bool may_have(const struct store_model *m, const struct candidate *c, const struct projector *p)
{
	if (!c->group || !p->c->group || strcmp(c->group, p->c->group) != 0 || m->use != STORE_TEXT)
		return false;
	if (p->width && m->n_embd && p->width != m->n_embd)
		return false;
	return !c->mixed || name_fits_projector(c->base, p->c->base);
}

static void named_projector(struct store_model *m, const char *path)
{
	AUTO(gguf_freep) struct gguf *g = NULL;
	struct gguf_facts f;
	struct stat st;
	if (stat(path, &st) < 0 || gguf_open(path, &g, NULL) < 0)
		return;
	gguf_facts(g, &f);
	if (!f.is_projector)
		return;
	m->mmproj = mem_strdup(path);
	m->size_bytes += (uint64_t)st.st_size;
	m->vision = f.has_vision;
	m->audio = f.has_audio;
}

static void give_projector(struct reading *r, struct store_model *m, const struct candidate *c)
{
	const struct projector *best = NULL;
	if (c->mmproj)
		named_projector(m, c->mmproj);
	for (size_t i = 0; !m->mmproj && i < r->nprojectors; i++) {
		const struct projector *p = &r->projectors[i];
		if (may_have(m, c, p) && (!best || rank_of(p) < rank_of(best)))
			best = p;
	}
	if (!best)
		return;
	m->mmproj = mem_strdup(best->c->path);
	m->size_bytes += best->size_bytes;
	m->vision = best->vision;
	m->audio = best->audio;
}

/* ---- all ----------------------------------------------------------------------------------------------- */

static int by_store_and_path(const void *pa, const void *pb)
{
	const struct candidate *a = pa, *b = pb;
	if (a->store != b->store)
		return a->store < b->store ? -1 : 1;
	int r = strcmp(a->path, b->path);
	return r ? r : strcmp(a->reference ? a->reference : "", b->reference ? b->reference : "");
}

static int by_id(const void *a, const void *b)
{
	return strcmp(((const struct store_model *)a)->id, ((const struct store_model *)b)->id);
}

void scan_read(struct scan *s)
{
	struct reading r = { .s = s };
	map_init(&r.bytes);
	if (s->nfound)
		qsort(s->found, s->nfound, sizeof *s->found, by_store_and_path);
	for (size_t i = 0; i < s->nfound && !scan_late(s); i++)
		read_one(&r, &s->found[i]);
	struct stores_found *ret = s->ret;
	for (size_t i = 0; i < ret->nmodels; i++)
		give_projector(&r, &ret->models[i], r.of[i]);
	name_models(ret->models, r.of, ret->nmodels, s->id_max);
	if (ret->nmodels)
		qsort(ret->models, ret->nmodels, sizeof *ret->models, by_id);
	map_done(&r.bytes);
	free(r.of);
	free(r.projectors);
}
