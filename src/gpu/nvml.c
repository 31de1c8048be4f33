/* SPDX-License-Identifier: Apache-2.0
 *
 * NVML through dlopen, with prototypes of our own: nothing of the vendor's is needed to build. It is loaded
 * in the probe child alone. The functions marked must are those without which there is nothing to tell; an
 * older library that lacks another one costs its figure only.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"
#include "gpu/gpu_int.h"

/* Layouts as NVML's documentation gives them (API version 12, compatible since 2018). */
typedef int ret_t; /* nvmlReturn_t */
enum { NVML_SUCCESS = 0, NVML_NOT_SUPPORTED = 3, NVML_INSUFFICIENT_SIZE = 7 };
enum { NVML_TEXT = 96, NVML_PROCESSES_MAX = 256 };
#define NVML_NO_VALUE UINT64_MAX

typedef void *handle_t; /* nvmlDevice_t */
struct memory {
	unsigned long long total, free, used;
};
struct utilization {
	unsigned gpu, memory;
};
struct pci_info {
	char bus_id_legacy[16];
	unsigned domain, bus, device, pci_device_id, pci_subsystem_id;
	char bus_id[32];
};
struct process { /* of the _v2 functions; the _v3 ones of drivers 535.43 to 535.86 wrote 32 bytes each */
	unsigned pid;
	unsigned long long used;
	unsigned gpu_instance, compute_instance;
};

struct nvml {
	void *lib;
	ret_t (*init)(void);
	ret_t (*shutdown)(void);
	const char *(*error_string)(ret_t);
	ret_t (*driver_version)(char *, unsigned);
	ret_t (*count)(unsigned *);
	ret_t (*by_index)(unsigned, handle_t *);
	ret_t (*name)(handle_t, char *, unsigned);
	ret_t (*uuid)(handle_t, char *, unsigned);
	ret_t (*pci)(handle_t, struct pci_info *);
	ret_t (*memory)(handle_t, struct memory *);
	ret_t (*utilization)(handle_t, struct utilization *);
	ret_t (*temperature)(handle_t, int, unsigned *);
	ret_t (*capability)(handle_t, int *, int *);
	ret_t (*compute_processes)(handle_t, unsigned *, struct process *);
	ret_t (*graphics_processes)(handle_t, unsigned *, struct process *);
};

static const struct symbol {
	const char *name;
	size_t at;
	bool must;
} symbols[] = {
	{ "nvmlInit_v2", offsetof(struct nvml, init), true },
	{ "nvmlShutdown", offsetof(struct nvml, shutdown), true },
	{ "nvmlErrorString", offsetof(struct nvml, error_string), true },
	{ "nvmlDeviceGetCount_v2", offsetof(struct nvml, count), true },
	{ "nvmlDeviceGetHandleByIndex_v2", offsetof(struct nvml, by_index), true },
	{ "nvmlDeviceGetUUID", offsetof(struct nvml, uuid), true },
	{ "nvmlDeviceGetMemoryInfo", offsetof(struct nvml, memory), true },
	{ "nvmlDeviceGetName", offsetof(struct nvml, name), false },
	{ "nvmlDeviceGetPciInfo_v3", offsetof(struct nvml, pci), false },
	{ "nvmlSystemGetDriverVersion", offsetof(struct nvml, driver_version), false },
	{ "nvmlDeviceGetUtilizationRates", offsetof(struct nvml, utilization), false },
	{ "nvmlDeviceGetTemperature", offsetof(struct nvml, temperature), false },
	{ "nvmlDeviceGetCudaComputeCapability", offsetof(struct nvml, capability), false },
	{ "nvmlDeviceGetComputeRunningProcesses_v2", offsetof(struct nvml, compute_processes), false },
	{ "nvmlDeviceGetComputeRunningProcesses_v3", offsetof(struct nvml, compute_processes), false },
	{ "nvmlDeviceGetGraphicsRunningProcesses_v2", offsetof(struct nvml, graphics_processes), false },
	{ "nvmlDeviceGetGraphicsRunningProcesses_v3", offsetof(struct nvml, graphics_processes), false },
};

static bool bind(struct nvml *n, const char *path, char *error, size_t cap)
{
	for (size_t i = 0; i < ARRAY_LEN(symbols); i++) {
		void **at = (void **)(void *)((char *)n + symbols[i].at);
		if (*at)
			continue; /* another one of that name was there */
		*at = dlsym(n->lib, symbols[i].name);
		if (!*at && symbols[i].must) {
			snprintf(error, cap, "%s lacks %s: the driver is too old", path, symbols[i].name);
			return false;
		}
	}
	return true;
}

struct nvml *nvml_open(const char *path, char *error, size_t cap)
{
	struct nvml *n = NEW(struct nvml);
	n->lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (!n->lib) {
		snprintf(error, cap, "%s", dlerror());
		free(n);
		return NULL;
	}
	bool bound = bind(n, path, error, cap);
	ret_t r = bound ? n->init() : NVML_SUCCESS;
	if (r != NVML_SUCCESS)
		snprintf(error, cap, "NVML: %s (%d)", n->error_string(r), r);
	if (bound && r == NVML_SUCCESS)
		return n;
	dlclose(n->lib);
	free(n);
	return NULL;
}

void nvml_close(struct nvml *n)
{
	if (!n)
		return;
	(void)n->shutdown();
	dlclose(n->lib);
	free(n);
}

/* ---- one sample ----------------------------------------------------------------------------------- */

static void fault(struct nvml *n, struct gpu_device *d, ret_t r)
{
	if (d->state != GPU_OK)
		return;
	d->state = GPU_LOST;
	char text[160];
	gpu_set_text(text, sizeof text, view_str(n->error_string(r)));
	snprintf(d->reason, sizeof d->reason, "NVML: %s (%d)", text, r);
}

static void add_process(struct gpu_device *d, const struct process *p)
{
	if (p->used == NVML_NO_VALUE || p->pid > INT32_MAX)
		return;
	for (size_t i = 0; i < d->nprocesses; i++)
		if (d->processes[i].pid == (int)p->pid) {
			d->processes[i].bytes = MAX(d->processes[i].bytes, (uint64_t)p->used);
			return;
		}
	if (d->nprocesses < GPU_PROCESSES_MAX)
		d->processes[d->nprocesses++] = (struct gpu_process){ (int)p->pid, p->used };
}

static void read_processes(
	ret_t (*list)(handle_t, unsigned *, struct process *), handle_t h, struct gpu_device *d)
{
	static struct process found[2 * NVML_PROCESSES_MAX]; /* room for longer ones */
	unsigned n = NVML_PROCESSES_MAX;
	ret_t r = list ? list(h, &n, found) : NVML_NOT_SUPPORTED;
	if (r != NVML_SUCCESS && r != NVML_INSUFFICIENT_SIZE)
		return;
	for (unsigned i = 0; i < n && i < NVML_PROCESSES_MAX; i++)
		add_process(d, &found[i]);
}

static void read_memory(struct nvml *n, handle_t h, struct gpu_device *d)
{
	struct memory m = { 0 };
	ret_t r = n->memory(h, &m);
	if (r == NVML_NOT_SUPPORTED) { /* a GPU that shares the host's memory */
		struct gpu_device cpu;
		gpu_cpu_read(&cpu);
		m = (struct memory){ cpu.memory_total, cpu.memory_free, cpu.memory_used };
	} else if (r != NVML_SUCCESS) {
		fault(n, d, r);
		return;
	}
	d->memory_total = m.total;
	d->memory_free = MIN(m.free, m.total);
	d->memory_used = MIN(m.used, m.total);
}

static void read_identity(struct nvml *n, handle_t h, struct gpu_device *d)
{
	char text[NVML_TEXT] = "";
	struct pci_info pci = { 0 };
	int major = 0, minor = 0;
	ret_t r = n->uuid(h, text, sizeof text);
	if (r != NVML_SUCCESS)
		fault(n, d, r);
	else
		gpu_set_text(d->uuid, sizeof d->uuid, view_str(text));
	if (n->name && n->name(h, text, sizeof text) == NVML_SUCCESS)
		gpu_set_text(d->name, sizeof d->name, view_str(text));
	if (n->pci && n->pci(h, &pci) == NVML_SUCCESS) {
		pci.bus_id[sizeof pci.bus_id - 1] = '\0';
		(void)gpu_pci_normal(view_str(pci.bus_id), d->pci);
	}
	if (n->capability && n->capability(h, &major, &minor) == NVML_SUCCESS)
		snprintf(d->compute_capability, sizeof d->compute_capability, "%d.%d", major % 1000,
			minor % 100);
}

static void read_device(struct nvml *n, unsigned index, struct gpu_device *d)
{
	handle_t h = NULL;
	struct utilization u = { 0 };
	unsigned celsius = 0;
	ret_t r = n->by_index(index, &h);
	if (r != NVML_SUCCESS) {
		fault(n, d, r);
		return;
	}
	read_identity(n, h, d);
	read_memory(n, h, d);
	if (n->utilization && n->utilization(h, &u) == NVML_SUCCESS && u.gpu <= 100)
		d->utilization = (double)u.gpu / 100;
	if (n->temperature && n->temperature(h, 0, &celsius) == NVML_SUCCESS && celsius < 1000)
		d->temperature_c = (int)celsius;
	read_processes(n->compute_processes, h, d);
	read_processes(n->graphics_processes, h, d);
}

bool nvml_read(struct nvml *n, struct gpu_sample *ret)
{
	unsigned count = 0;
	char text[NVML_TEXT] = "";
	*ret = (struct gpu_sample){ 0 };
	if (n->driver_version && n->driver_version(text, sizeof text) == NVML_SUCCESS)
		gpu_set_text(ret->driver, sizeof ret->driver, view_str(text));
	ret_t r = n->count(&count);
	if (r != NVML_SUCCESS) {
		ret->has_error = true;
		snprintf(ret->error, sizeof ret->error, "NVML: %s (%d)", n->error_string(r), r);
		return true;
	}
	bool again = false;
	for (unsigned i = 0; i < count; i++) {
		struct gpu_device *d = gpu_list_add(&ret->list, GPU_CUDA);
		if (!d)
			break;
		read_device(n, i, d);
		again |= d->state != GPU_OK;
		if (!d->uuid[0] && !d->pci[0]) {
			memcpy(ret->note, d->reason, sizeof ret->note);
			ret->list.len--;
		}
	}
	return again;
}
