/* SPDX-License-Identifier: Apache-2.0
 *
 * Who holds memory of AMD's GPUs, as the kernel's compute driver (KFD) tells in sysfs: every program that
 * uses ROCm, whoever started it, without any library.
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/num.h"
#include "gpu/gpu_int.h"

enum { NODES_MAX = 256, PROCESSES_MAX = 4096 };

struct kfd_gpu {
	uint64_t id; /* KFD's own */
	struct gpu_device *device;
};

/* The number behind "key " in a text of lines; 0: not there. */
static uint64_t property(struct view text, const char *key)
{
	while (text.p) {
		struct view value, line = view_split(text, '\n', &text);
		struct view name = view_split(line, ' ', &value);
		uint64_t n;
		if (value.p && view_eqs(name, key) && num_u64(view_trim(value), &n) == 0)
			return n;
	}
	return 0;
}

static struct gpu_device *at_address(struct gpu_list *l, const char *pci)
{
	for (size_t i = 0; i < l->len; i++)
		if (l->items[i].kind == GPU_AMD && strcmp(l->items[i].pci, pci) == 0)
			return &l->items[i];
	return NULL;
}

/* One node of the topology: a GPU of the list, or nothing. */
static bool node_read(const char *dir, struct gpu_list *l, struct kfd_gpu *ret)
{
	char text[8192], id[32], pci[32];
	if (gpu_read_text(dir, "gpu_id", id, sizeof id) < 0 || num_u64(view_str(id), &ret->id) < 0 ||
		!ret->id || gpu_read_text(dir, "properties", text, sizeof text) < 0)
		return false;
	uint64_t where = property(view_str(text), "location_id");
	uint64_t domain = property(view_str(text), "domain");
	snprintf(pci, sizeof pci, "%04x:%02x:%02x.%x", (unsigned)(domain & 0xffff),
		(unsigned)(where >> 8 & 0xff), (unsigned)(where >> 3 & 0x1f), (unsigned)(where & 7));
	ret->device = at_address(l, pci);
	return ret->device;
}

static void take_process(const char *dir, int pid, const struct kfd_gpu *gpus, size_t ngpus)
{
	for (size_t i = 0; i < ngpus; i++) {
		struct gpu_device *d = gpus[i].device;
		char name[48], text[32];
		uint64_t bytes;
		snprintf(name, sizeof name, "vram_%llu", (unsigned long long)gpus[i].id);
		if (gpu_read_text(dir, name, text, sizeof text) < 0 || num_u64(view_str(text), &bytes) < 0)
			continue;
		if (bytes && d->nprocesses < GPU_PROCESSES_MAX)
			d->processes[d->nprocesses++] = (struct gpu_process){ pid, bytes };
	}
}

void gpu_kfd_processes(const char *sysfs, struct gpu_list *l)
{
	AUTO(mem_freep) char *nodes = mem_fmt("%s/class/kfd/kfd/topology/nodes", sysfs);
	AUTO(mem_freep) char *procs = mem_fmt("%s/class/kfd/kfd/proc", sysfs);
	struct kfd_gpu gpus[GPU_DEVICES_MAX];
	size_t ngpus = 0;
	struct dirent *e;
	DIR *d = opendir(nodes);
	for (int i = 0; d && i < NODES_MAX && ngpus < GPU_DEVICES_MAX && (e = readdir(d)); i++) {
		AUTO(mem_freep) char *dir = path_join(nodes, e->d_name);
		ngpus += e->d_name[0] != '.' && node_read(dir, l, &gpus[ngpus]);
	}
	if (d)
		closedir(d);
	d = ngpus ? opendir(procs) : NULL;
	for (int i = 0; d && i < PROCESSES_MAX && (e = readdir(d)); i++) {
		AUTO(mem_freep) char *dir = path_join(procs, e->d_name);
		uint64_t pid;
		if (num_u64(view_str(e->d_name), &pid) == 0 && pid && pid <= INT32_MAX)
			take_process(dir, (int)pid, gpus, ngpus);
	}
	if (d)
		closedir(d);
}
