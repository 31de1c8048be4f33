/* SPDX-License-Identifier: Apache-2.0
 *
 * From a model's header and a pool's arguments to what the planner is told.
 */
#include "role/engine_provisioner/need.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "gguf/estimate.h"
#include "log/log.h"

/* Whether the operator's own arguments say where layers go: then the planner does not. */
static bool says_where(const struct strv *args)
{
	static const char *const names[] = { "-ngl", "--gpu-layers", "--n-gpu-layers", "-ts",
		"--tensor-split", "-ot", "--override-tensor", "-ncmoe", "--n-cpu-moe", "-cmoe", "--cpu-moe",
		"-sm", "--split-mode", "-nkvo", "--no-kv-offload" };
	for (size_t i = 0; i < args->len; i++)
		for (size_t k = 0; k < ARRAY_LEN(names); k++) {
			size_t n = strlen(names[k]);
			if (strncmp(args->items[i], names[k], n) == 0 &&
				(!args->items[i][n] || args->items[i][n] == '='))
				return true;
		}
	return false;
}

static void take_layers(const struct estimate *e, struct wire_need *n)
{
	n->nlayers = (uint32_t)MIN(e->n_layers, (size_t)WIRE_NEED_LAYERS_MAX);
	n->layers = mem_alloc((n->nlayers + 1) * sizeof *n->layers);
	for (uint32_t i = 0; i < n->nlayers; i++) {
		const struct estimate_layer *l = &e->layers[i];
		n->layers[i] = (struct wire_need_layer){ .weights = l->weights - MIN(l->experts, l->weights),
			.experts = l->experts,
			.cache = l->kv + l->recurrent };
	}
}

static uint64_t without(uint64_t a, uint64_t b)
{
	return a > b ? a - b : 0;
}

/* gpu: everything on one device; cpu: everything on the host. */
static void combine(const struct estimate *gpu, const struct estimate *cpu, bool fixed, struct wire_need *n)
{
	const struct estimate_bytes *d = &gpu->device[0];
	snprintf(n->source, sizeof n->source, "formula");
	snprintf(n->kind, sizeof n->kind, "%s", estimate_class_name(gpu->model_class));
	n->error_permille = gpu->error_permille;
	n->whole = d->total;
	n->host = without(gpu->host.total, gpu->host_mapped);
	n->host_mapped = gpu->host_mapped;
	n->host_compute = without(cpu->host.compute, gpu->host.compute);
	if (fixed)
		return;
	take_layers(gpu, n);
	n->output = gpu->output_bytes;
	n->compute = gpu->device_compute;
	n->overhead = gpu->device_overhead;
	n->extra = gpu->projector + gpu->draft + gpu->adapters;
}

/* What the estimate reads, open. */
struct input {
	struct estimate_args args;
	struct gguf_set set;
	struct gguf *mmproj, *draft;
	bool fixed;
};

static void input_done(struct input *in)
{
	gguf_set_done(&in->set);
	gguf_freep(&in->mmproj);
	gguf_freep(&in->draft);
	estimate_args_done(&in->args);
}

static int input_open(const struct node_pool *p, const char *path, struct input *in, struct err *e)
{
	struct estimate_args *a = &in->args;
	estimate_args_init(a);
	a->mapped = true;
	a->host_cache = p->cache_ram_mib * MIB;
	int r = estimate_args_read(a, (const char *const *)p->engine.args.items, p->engine.args.len, e);
	if (!r)
		r = gguf_set_open(path, &in->set, e);
	if (!r && a->mmproj)
		(void)!gguf_open(a->mmproj, &in->mmproj, NULL);
	if (!r && a->draft)
		(void)!gguf_open(a->draft, &in->draft, NULL);
	in->fixed = says_where(&p->engine.args);
	if (!in->fixed)
		a->n_gpu_layers = ESTIMATE_ALL;
	return r;
}

static int compute(const struct node_pool *p, struct input *in, uint32_t ctx, const char *state_dir,
	struct wire_need *ret, struct err *e)
{
	struct estimate_files f = {
		.parts = in->set.items, .n_parts = in->set.len, .mmproj = in->mmproj, .draft = in->draft
	};
	struct estimate_args *a = &in->args;
	struct estimate gpu = { 0 }, cpu = { 0 };
	a->ctx = ctx; /* these two are ours whatever the arguments say */
	a->slots = p->slots;
	a->n_devices = in->fixed && !a->n_gpu_layers ? 0 : 1;
	int r = estimate(&f, a, &gpu, e);
	a->n_devices = 0;
	if (!r)
		r = estimate(&f, a, &cpu, e);
	if (!r) {
		combine(&gpu, &cpu, in->fixed, ret);
		ret->ctx = ctx;
		need_learned(state_dir, p, &f, a, &gpu, &cpu, ret);
	}
	estimate_done(&gpu);
	estimate_done(&cpu);
	return r;
}

static char *need_text(
	const struct node_pool *p, struct input *in, uint32_t ctx, const char *state_dir, struct err *e)
{
	struct wire_need n = { 0 };
	AUTO(buf_done) struct buf text = BUF(WIRE_STRING_MAX);
	if (compute(p, in, ctx, state_dir, &n, e))
		return NULL;
	int r = wire_need_encode(&n, &text);
	wire_need_done(&n);
	return r ? NULL : mem_strdup(buf_str(&text));
}

uint32_t agent_auto_ctx(uint64_t trained)
{
	return trained ? (uint32_t)MIN(trained, (uint64_t)CTX_AUTO_LEAST) : CTX_AUTO_LEAST;
}

/* From the model's own down to the least: powers of two, and what lies in the middle of two of them. */
static uint32_t next_smaller(uint32_t ctx)
{
	uint32_t two = 1024;
	while (two * 2 < ctx)
		two *= 2;
	uint32_t middle = two + two / 2;
	return middle % 1024 == 0 && middle < ctx ? middle : two;
}

static void add_larger(
	const struct node_pool *p, struct input *in, const char *state_dir, struct wire_model *m)
{
	uint32_t ctx = (uint32_t)MIN(m->n_ctx_train, (uint64_t)CTX_AUTO_MOST) / 1024 * 1024;
	size_t n = 0;
	m->larger = mem_alloc((CTX_AUTO_STEPS + 1) * sizeof *m->larger);
	for (; ctx > CTX_AUTO_LEAST && n < CTX_AUTO_STEPS; ctx = next_smaller(ctx)) {
		m->larger[n] = need_text(p, in, ctx, state_dir, NULL);
		n += m->larger[n] != NULL;
	}
}

void agent_needs(const struct node_pool *p, const char *state_dir, bool grows, struct wire_model *m)
{
	struct err e = { 0 };
	AUTO(input_done) struct input in = { 0 };
	int r = input_open(p, m->path, &in, &e);
	m->need = r ? NULL : need_text(p, &in, m->ctx, state_dir, &e);
	if (!m->need)
		log_info("estimate", p->id, "What the model of pool %s needs in memory is not known: %s.",
			p->id, e.msg);
	else if (grows)
		add_larger(p, &in, state_dir, m);
}
