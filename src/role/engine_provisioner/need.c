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

static int args_of(const struct node_pool *p, uint32_t ctx, struct estimate_args *a, struct err *e)
{
	estimate_args_init(a);
	a->mapped = true;
	a->ctx = ctx;
	a->slots = p->slots;
	a->host_cache = p->cache_ram_mib * MIB;
	int r = estimate_args_read(a, (const char *const *)p->engine.args.items, p->engine.args.len, e);
	/* these two are ours whatever the arguments say */
	a->ctx = ctx;
	a->slots = p->slots;
	return r;
}

static int compute(const struct node_pool *p, const char *path, uint32_t ctx, const char *state_dir,
	struct wire_need *ret, struct err *e)
{
	struct gguf_set set = { 0 };
	struct estimate_args a;
	struct estimate gpu = { 0 }, cpu = { 0 };
	int r = args_of(p, ctx, &a, e);
	if (!r)
		r = gguf_set_open(path, &set, e);
	struct estimate_files f = { .parts = set.items, .n_parts = set.len };
	AUTO(gguf_freep) struct gguf *mmproj = NULL;
	AUTO(gguf_freep) struct gguf *draft = NULL;
	if (!r && a.mmproj && gguf_open(a.mmproj, &mmproj, NULL) == 0)
		f.mmproj = mmproj;
	if (!r && a.draft && gguf_open(a.draft, &draft, NULL) == 0)
		f.draft = draft;
	bool fixed = says_where(&p->engine.args);
	a.n_devices = fixed && !a.n_gpu_layers ? 0 : 1;
	if (!fixed)
		a.n_gpu_layers = ESTIMATE_ALL;
	if (!r)
		r = estimate(&f, &a, &gpu, e);
	a.n_devices = 0;
	if (!r)
		r = estimate(&f, &a, &cpu, e);
	if (!r) {
		combine(&gpu, &cpu, fixed, ret);
		need_learned(state_dir, p, &f, &a, &gpu, &cpu, ret);
	}
	estimate_done(&gpu);
	estimate_done(&cpu);
	gguf_set_done(&set);
	estimate_args_done(&a);
	return r;
}

char *agent_need(const struct node_pool *p, const char *path, uint32_t ctx, const char *state_dir)
{
	struct wire_need n = { 0 };
	struct err e = { 0 };
	AUTO(buf_done) struct buf text = BUF(WIRE_STRING_MAX);
	if (compute(p, path, ctx, state_dir, &n, &e)) {
		log_info("estimate", p->id, "What the model of pool %s needs in memory is not known: %s.",
			p->id, e.msg);
		return NULL;
	}
	int r = wire_need_encode(&n, &text);
	wire_need_done(&n);
	return r ? NULL : mem_strdup(buf_str(&text));
}
