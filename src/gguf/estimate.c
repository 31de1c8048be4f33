/* SPDX-License-Identifier: Apache-2.0
 *
 * The estimate as a whole: the model, then its companions, then the sums.
 */
#include <stdio.h>

#include "base/mem.h"
#include "gguf/estimate_int.h"
#include "gguf/gguf_int.h"

/* What a driver keeps for a process that computes on a device, before any of our bytes. */
#define DEVICE_OVERHEAD (300 * MIB)
/* An engine by itself, and its vocabulary: text, scores, the way back from text to token. */
#define HOST_OVERHEAD (32 * MIB)
enum { TOKEN_OVERHEAD = 256 };

const char *estimate_class_name(enum estimate_class c)
{
	static const char *const names[] = { "dense", "moe", "hybrid", "mla", "unknown" };
	return c <= ESTIMATE_UNKNOWN ? names[c] : "unknown";
}

static unsigned error_of(enum estimate_class c)
{
	static const unsigned permille[] = { 20, 30, 50, 50, 250 };
	return c <= ESTIMATE_UNKNOWN ? permille[c] : 250;
}

static uint64_t file_bytes(const struct gguf *g)
{
	struct gguf_facts f;
	gguf_facts(g, &f);
	return f.size_bytes;
}

static struct estimate_bytes *main_place(struct estimate *e)
{
	return e->n_devices && e->device[0].weights ? &e->device[0] : &e->host;
}

/* The projector runs on the first device; its buffer is of the largest picture. */
static void add_projector(const struct estimate_files *f, const struct estimate_args *a, struct estimate *e)
{
	uint64_t width = 0, ff = 0, size = 0, patch = 0, heads = 0;
	if (!f->mmproj)
		return;
	gguf_u64(f->mmproj, "clip.vision.embedding_length", &width);
	gguf_u64(f->mmproj, "clip.vision.feed_forward_length", &ff);
	gguf_u64(f->mmproj, "clip.vision.image_size", &size);
	gguf_u64(f->mmproj, "clip.vision.patch_size", &patch);
	gguf_u64(f->mmproj, "clip.vision.attention.head_count", &heads);
	uint64_t side = patch ? MIN(size, (uint64_t)65536) / patch : 0;
	uint64_t patches = MAX(side * side, est_mul(a->image_max_tokens, 4));
	uint64_t wide = est_mul(patches, est_mul(est_add(est_mul(2, ff), est_mul(6, width)), 4));
	uint64_t scores = est_mul(est_mul(patches, patches), est_mul(heads, 4));
	uint64_t weights = file_bytes(f->mmproj), compute = est_add(wide, scores);
	struct estimate_bytes *b = main_place(e);
	b->weights = est_add(b->weights, weights);
	b->compute = est_add(b->compute, compute);
	e->projector = est_add(weights, compute);
}

static void add_adapters(const struct estimate_files *f, struct estimate *e)
{
	for (size_t i = 0; i < f->n_lora; i++)
		e->adapters = est_add(e->adapters, file_bytes(f->lora[i]));
	struct estimate_bytes *b = main_place(e);
	b->weights = est_add(b->weights, e->adapters);
}

static void bytes_add(struct estimate_bytes *to, const struct estimate_bytes *b)
{
	to->weights = est_add(to->weights, b->weights);
	to->kv = est_add(to->kv, b->kv);
	to->recurrent = est_add(to->recurrent, b->recurrent);
	to->compute = est_add(to->compute, b->compute);
	to->output = est_add(to->output, b->output);
	to->overhead = est_add(to->overhead, b->overhead);
}

static void bytes_total(struct estimate_bytes *b)
{
	b->total = est_add(est_add(est_add(b->weights, b->kv), est_add(b->recurrent, b->compute)),
		est_add(b->output, b->overhead));
}

/* A draft model has a context of its own, on the same devices. */
static int add_draft(
	const struct estimate_files *f, const struct estimate_args *a, struct estimate *e, struct err *reterr)
{
	if (!f->draft)
		return 0;
	struct estimate_files files = { .parts = &f->draft, .n_parts = 1 };
	struct estimate_args args = *a;
	struct estimate d = { 0 };
	args.ctx = a->draft_ctx ? a->draft_ctx : a->ctx;
	args.n_gpu_layers = a->n_devices ? ESTIMATE_ALL : 0;
	args.overrides = (struct strv){ 0 };
	args.n_cpu_moe = 0;
	args.host_cache = 0;
	int r = estimate(&files, &args, &d, reterr);
	if (r < 0)
		return err_prefix(reterr, "draft model");
	for (size_t i = 0; i < e->n_devices; i++) {
		d.device[i].overhead = 0;
		bytes_add(&e->device[i], &d.device[i]);
	}
	d.host.overhead = 0;
	bytes_add(&e->host, &d.host);
	e->draft = d.sum.total - d.sum.overhead;
	e->host_mapped = est_add(e->host_mapped, d.host_mapped);
	estimate_done(&d);
	return 0;
}

static void sum_up(struct estimate *e)
{
	for (size_t i = 0; i < e->n_devices; i++) {
		bytes_total(&e->device[i]);
		bytes_add(&e->sum, &e->device[i]);
	}
	bytes_total(&e->host);
	bytes_add(&e->sum, &e->host);
	bytes_total(&e->sum);
}

/* Nobody compared it: a tenth more weights, and the cache as large as it may be. */
static void be_careful(const struct est_model *m, struct estimate *e)
{
	char arch[64];
	struct estimate_bytes *b = main_place(e);
	if (m->model_class != ESTIMATE_UNKNOWN)
		return;
	b->weights = est_add(b->weights, e->sum.weights / 10);
	b->compute = est_add(b->compute, b->compute / 4);
	(void)snprintf(e->note, sizeof e->note,
		"architecture %s is not known: a guess on the safe side (tensors + 10 %%, every layer with a "
		"whole KV cache)",
		m->arch.n ? gguf_printable(m->arch, arch) : "(none)");
}

static void note_cache(const struct est_ctx *c, struct estimate *e)
{
	const struct gguf_tensor_type *v = gguf_tensor_type(c->type_v);
	if (!c->flash && v && v->block > 1 && !e->note[0])
		(void)snprintf(e->note, sizeof e->note,
			"a quantised V cache needs flash attention; the engine will refuse to start");
}

static int estimate_model(
	const struct est_model *m, const struct estimate_args *a, struct estimate *e, struct err *reterr)
{
	struct est_ctx c;
	est_ctx_init(&c, m, a);
	e->n_devices = MIN(a->n_devices, (uint32_t)ESTIMATE_DEVICES_MAX);
	e->ctx = a->unified ? c.cells / c.n_seqs : c.cells;
	e->slots = c.n_seqs;
	e->model_class = m->model_class;
	e->error_permille = error_of(m->model_class);
	e->device_overhead = DEVICE_OVERHEAD;
	int r = est_place(m, &c, e, reterr);
	if (r < 0)
		return r;
	est_compute(m, &c, e);
	for (size_t i = 0; i < e->n_devices; i++) {
		e->sum.weights = est_add(e->sum.weights, e->device[i].weights);
		if (e->device[i].weights)
			e->device[i].overhead = DEVICE_OVERHEAD;
	}
	e->sum.weights = est_add(e->sum.weights, e->host.weights);
	be_careful(m, e);
	e->sum.weights = 0;
	e->host_mapped = a->mapped ? e->host.weights : 0;
	e->host.overhead =
		est_add(a->host_cache, est_add(HOST_OVERHEAD, est_mul(m->n_vocab, TOKEN_OVERHEAD)));
	note_cache(&c, e);
	return 0;
}

int estimate(const struct estimate_files *f, const struct estimate_args *a, struct estimate *ret,
	struct err *reterr)
{
	struct est_model m = { 0 };
	struct estimate e = { 0 };
	int r = est_model_read(f, &m, reterr);
	if (r == 0)
		r = estimate_model(&m, a, &e, reterr);
	if (r == 0)
		r = add_draft(f, a, &e, reterr);
	if (r == 0) {
		add_projector(f, a, &e);
		add_adapters(f, &e);
		sum_up(&e);
		*ret = e;
	} else {
		estimate_done(&e);
	}
	est_model_done(&m);
	return r;
}

void estimate_done(struct estimate *e)
{
	free(e->layers);
	e->layers = NULL;
	e->n_layers = 0;
}
