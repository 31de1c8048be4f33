/* SPDX-License-Identifier: Apache-2.0
 *
 * What was learned of a pool's engine, in the words of the planner. A figure is of one place: all on one GPU,
 * or all on the host. Where both were seen the one used last is taken, for that is where the next one goes.
 */
#include <stdio.h>

#include "base/fd.h"
#include "base/mem.h"
#include "gguf/learned.h"
#include "role/engine_provisioner/need.h"

static uint64_t without(uint64_t a, uint64_t b)
{
	return a > b ? a - b : 0;
}

/* What goes where the layers go, without the buffers of a device. */
static uint64_t layers_of(const struct wire_need *n)
{
	uint64_t sum = n->output + n->extra;
	for (uint32_t i = 0; i < n->nlayers; i++)
		sum += n->layers[i].weights + n->layers[i].experts + n->layers[i].cache;
	return n->nlayers ? sum : n->whole;
}

static void take_gpu(const struct learned *l, const struct estimate *gpu, struct wire_need *n)
{
	struct estimate e = *gpu; /* its layers are gpu's own */
	learned_apply(l, &e);
	n->whole = e.device[0].total;
	n->host = without(e.host.total, e.host_mapped);
	n->host_mapped = e.host_mapped;
	if (!n->nlayers)
		return;
	n->compute = e.device[0].compute;
	n->overhead = without(n->whole, layers_of(n) + n->compute);
}

static void take_cpu(const struct learned *l, const struct estimate *cpu, struct wire_need *n)
{
	struct estimate e = *cpu;
	learned_apply(l, &e);
	n->host_compute = without(without(e.host.total, n->host_mapped), n->host + layers_of(n));
}

void need_learned(const char *state_dir, const struct node_pool *p, const struct estimate_files *f,
	const struct estimate_args *a, const struct estimate *gpu, const struct estimate *cpu,
	struct wire_need *n)
{
	AUTO(mem_freep) char *path = path_join(state_dir, LEARNED_NAME);
	struct learned_key k;
	struct learned on_gpu, on_cpu;
	struct estimate_args one = *a;
	if (a->mmproj || a->lora.len) /* nothing is learned of these */
		return;
	one.n_devices = 1;
	learned_key_make(f, &one, gpu, &p->engine.args, &p->engine.env, &k);
	bool has_gpu = gpu->n_devices && learned_find(path, &k, &on_gpu, NULL) == 0;
	snprintf(k.place, sizeof k.place, "cpu");
	bool has_cpu = learned_find(path, &k, &on_cpu, NULL) == 0;
	if (!has_gpu && !has_cpu)
		return;
	if (has_gpu && (!has_cpu || on_gpu.used_ms >= on_cpu.used_ms))
		take_gpu(&on_gpu, gpu, n);
	else
		take_cpu(&on_cpu, cpu, n);
	snprintf(n->source, sizeof n->source, "learned");
	n->error_permille = LEARNED_ERROR_PERMILLE;
}
