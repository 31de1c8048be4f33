/* SPDX-License-Identifier: Apache-2.0
 *
 * What a placement decision costs: CPU per call of fit_plan, the least of many rounds, without and with a
 * table kept beside the facts (fit_table.h), and what it costs to tell the table of a change. plan [NAME
 * [CALLS]]: one row, or so many calls of it with the table (for callgrind). Run by hand.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/mem.h"
#include "base/num.h"
#include "base/rnd.h"
#include "placement/fit_table.h"

enum { PER_NODE = 8, LAYERS = 48 };

static struct fit_layer layers[LAYERS];
static struct fit_facts facts;
static void *scratch;
static struct fit_plan plan;
static uint64_t mask[256], siblings[256], never_with[256];

static int64_t cpu_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Nodes of eight unequal devices and a host. full: what idle replicas hold leaves no room for another. */
static void make_facts(size_t ndevices, size_t nreplicas, bool full, bool equal)
{
	size_t nodes = ndevices / PER_NODE, all = nodes * (PER_NODE + 1);
	struct fit_device *devices = mem_alloc(all * sizeof *devices);
	struct fit_replica *replicas = mem_alloc((nreplicas + 1) * sizeof *replicas);
	struct fit_use *uses = mem_alloc(2 * (nreplicas + 1) * sizeof *uses);
	struct rnd rnd;
	rnd_seed(&rnd, 7);
	for (size_t i = 0; i < all; i++) {
		bool host = i % (PER_NODE + 1) == PER_NODE;
		uint64_t size = equal ? 24 : (uint64_t)12 << rnd_below(&rnd, 3);
		devices[i] = (struct fit_device){ .node_id = i % (PER_NODE + 1) ? devices[i - 1].node_id
										: mem_fmt("node-%05zu",
											  i / (PER_NODE + 1)),
			.device_id = mem_fmt("GPU-%zu", i),
			.index = (uint32_t)(i % (PER_NODE + 1)),
			.kind = host ? FIT_KIND_CPU : 1,
			.usable = true,
			.capacity = host ? 512 * GIB : size * GIB };
	}
	for (size_t i = 0; i < nreplicas; i++) {
		size_t at = i % ndevices / PER_NODE * (PER_NODE + 1) + i % PER_NODE;
		size_t host = at / (PER_NODE + 1) * (PER_NODE + 1) + PER_NODE;
		uint64_t bytes = full ? devices[at].capacity * 3 / 4 / (nreplicas / ndevices + 1) : 1 * GIB;
		replicas[i] = (struct fit_replica){ .replica_id = mem_fmt("pool-%zu-0", i),
			.pool_id = mem_fmt("pool-%zu", i),
			.first_use = 2 * i,
			.nuses = 2,
			.busy = rnd_below(&rnd, 2) == 0,
			.loss = rnd_unit(&rnd) * 100 };
		uses[2 * i] = (struct fit_use){ at, bytes };
		uses[2 * i + 1] = (struct fit_use){ host, 1 * GIB };
		devices[at].reserved += bytes;
		devices[at].replicas++;
		devices[host].reserved += 1 * GIB;
	}
	facts = (struct fit_facts){ devices, all, replicas, nreplicas, uses, 2 * nreplicas, 0, NULL };
	scratch = mem_alloc(fit_scratch_bytes(&facts));
}

static const struct row {
	const char *name, *what;
	size_t devices, replicas;
	bool full, equal;
	uint64_t layer; /* bytes */
	enum fit_how how;
	bool evicts;
	uint32_t gpus;
	unsigned batch;
	bool asks;      /* mask, siblings and never_with as a pool of the fleet has them */
	uint64_t share; /* of each device */
	bool offload, cpu;
} rows[] = {
	{ "8-one", "8 devices, room on one", 8, 8, false, false, 200 * MIB, FIT_ONE, false, 0, 1000 },
	{ "8-split", "8 devices, split over several", 8, 8, false, false, 3 * GIB, FIT_SPLIT, false, 0,
		1000 },
	{ "8-evict", "8 devices, one leaves", 8, 16, true, true, 320 * MIB, FIT_ONE, true, 1, 1000 },
	{ "8-no", "8 devices, does not fit", 8, 16, true, true, 30 * GIB, FIT_NO, false, 0, 1000 },
	{ "one", "room on one", 8000, 10000, false, false, 200 * MIB, FIT_ONE, false, 0, 10 },
	{ "equal", "the same, all devices alike", 8000, 10000, false, true, 200 * MIB, FIT_ONE, false, 0,
		10 },
	{ "asks", "the same, with a mask, siblings, never_with", 8000, 10000, false, false, 200 * MIB,
		FIT_ONE, false, 0, 10, .asks = true },
	{ "share", "a share of four devices", 8000, 10000, false, false, 200 * MIB, FIT_SHARE, false, 4, 10,
		.share = 20 * GIB },
	{ "split", "split over several", 8000, 10000, false, false, 3 * GIB, FIT_SPLIT, false, 0, 10 },
	{ "evict", "one leaves", 8000, 10000, true, true, 320 * MIB, FIT_ONE, true, 1, 10 },
	{ "evict-asks", "the same, with a mask, siblings, never_with", 8000, 10000, true, true, 320 * MIB,
		FIT_ONE, true, 1, 10, .asks = true },
	{ "evict-split", "several leave, split", 8000, 10000, true, true, 2560 * MIB, FIT_SPLIT, true, 0,
		10 },
	{ "offload", "layers in host memory", 8000, 10000, false, false, 9 * GIB, FIT_PARTIAL, false, 0, 10,
		.offload = true },
	{ "host", "the host alone", 8000, 10000, false, false, 9 * GIB, FIT_HOST, false, 0, 10, .cpu = true },
	{ "no", "does not fit", 8000, 10000, true, true, 30 * GIB, FIT_NO, false, 0, 10 },
};

static void set(uint64_t *bits, size_t i)
{
	bits[i / 64] |= (uint64_t)1 << (i % 64);
}

static void run(const struct row *r, uint64_t calls)
{
	for (size_t i = 0; i < LAYERS; i++)
		layers[i] = (struct fit_layer){ .weights = r->layer, .cache = r->layer / 16 };
	const struct fit_need need = { .layers = layers,
		.nlayers = LAYERS,
		.output = 300 * MIB,
		.compute = 400 * MIB,
		.overhead = 300 * MIB,
		.host = 1 * GIB };
	const struct fit_want want = { .pool_id = "new",
		.replica_id = "new-0",
		.need = &need,
		.may_evict = true,
		.gpus = r->gpus,
		.share = r->share,
		.offload = r->offload ? FIT_OFFLOAD_AUTO : FIT_OFFLOAD_NEVER,
		.cpu = r->cpu,
		.headroom = r->asks ? 256 * MIB : 0,
		.mask = r->asks ? mask : NULL,
		.siblings = r->asks ? siblings : NULL,
		.never_with = r->asks ? never_with : NULL };
	for (uint64_t i = 0; i < calls; i++)
		fit_plan(&facts, &want, scratch, &plan, NULL);
	if (plan.how != r->how || (plan.nvictims > 0) != r->evicts) {
		fprintf(stderr, "%s: it is %s, %zu leave\n", r->name, fit_how_text(plan.how), plan.nvictims);
		exit(1);
	}
}

/* Microseconds of one call. */
static double measure(const struct row *r)
{
	enum { ROUNDS = 50 };
	int64_t least = INT64_MAX;
	for (int round = 0; round < ROUNDS; round++) {
		int64_t began = cpu_ns();
		run(r, r->batch);
		least = MIN(least, cpu_ns() - began);
	}
	return (double)least / r->batch / 1000;
}

static double measure_change(struct fit_table *t)
{
	enum { CHANGES = 10000 };
	int64_t began = cpu_ns();
	for (size_t i = 0; i < CHANGES; i++)
		fit_table_replica(t, &facts, i % facts.nreplicas);
	return (double)(cpu_ns() - began) / CHANGES / 1000;
}

int main(int argc, char **argv)
{
	uint64_t calls = 0;
	if (argc > 2 && num_u64(view_str(argv[2]), &calls))
		return 2;
	for (size_t d = 0; d < 9000; d++)
		set(mask, d);
	for (size_t i = 0; i < 8; i++) {
		set(siblings, i * 1000 + 3);
		set(never_with, i * 900 + 11);
	}
	printf("%-12s %-46s %10s %10s %10s us\n", "", "", "none", "table", "a change");
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		const struct row *r = &rows[i];
		double without = 0;
		if (argc > 1 && strcmp(argv[1], r->name) != 0)
			continue;
		make_facts(r->devices, r->replicas, r->full, r->equal);
		if (!calls)
			without = measure(r);
		AUTO(fit_table_freep) struct fit_table *t = fit_table_new(&facts);
		facts.table = t;
		if (calls)
			run(r, calls);
		else
			printf("%-12s %-46s %10.2f %10.2f %10.2f\n", r->name, r->what, without, measure(r),
				measure_change(t));
	}
	return 0;
}
