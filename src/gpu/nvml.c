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
#include "gpu/nvml_int.h"

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
	{ "nvmlDeviceGetPowerUsage", offsetof(struct nvml, power), false },
	{ "nvmlDeviceGetEnforcedPowerLimit", offsetof(struct nvml, power_limit), false },
	{ "nvmlDeviceGetTotalEccErrors", offsetof(struct nvml, ecc), false },
	{ "nvmlDeviceGetMigMode", offsetof(struct nvml, mig_mode), false },
	{ "nvmlDeviceGetMaxMigDeviceCount", offsetof(struct nvml, mig_max), false },
	{ "nvmlDeviceGetMigDeviceHandleByIndex", offsetof(struct nvml, mig_by_index), false },
	{ "nvmlDeviceGetTopologyCommonAncestor", offsetof(struct nvml, ancestor), false },
	{ "nvmlDeviceGetP2PStatus", offsetof(struct nvml, p2p), false },
	{ "nvmlDeviceGetNvLinkState", offsetof(struct nvml, nvlink_state), false },
	{ "nvmlDeviceGetNvLinkRemotePciInfo_v2", offsetof(struct nvml, nvlink_remote), false },
	{ "nvmlEventSetCreate", offsetof(struct nvml, events_new), false },
	{ "nvmlEventSetFree", offsetof(struct nvml, events_free), false },
	{ "nvmlDeviceGetSupportedEventTypes", offsetof(struct nvml, events_supported), false },
	{ "nvmlDeviceRegisterEvents", offsetof(struct nvml, events_register), false },
	{ "nvmlEventSetWait_v2", offsetof(struct nvml, events_wait), false },
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
	nvml_ret r = bound ? n->init() : NVML_SUCCESS;
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
	nvml_events_end(n);
	(void)n->shutdown();
	dlclose(n->lib);
	free(n);
}

/* ---- one sample ----------------------------------------------------------------------------------- */

static void fault(struct nvml *n, struct gpu_device *d, nvml_ret r)
{
	if (d->state != GPU_OK)
		return;
	d->state = GPU_LOST;
	char text[160];
	gpu_set_text(text, sizeof text, view_str(n->error_string(r)));
	snprintf(d->reason, sizeof d->reason, "NVML: %s (%d)", text, r);
}

static void add_process(struct gpu_device *d, const struct nvml_process *p)
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
	nvml_ret (*list)(nvml_handle, unsigned *, struct nvml_process *), nvml_handle h, struct gpu_device *d)
{
	static struct nvml_process found[2 * NVML_PROCESSES_MAX]; /* room for longer ones */
	unsigned n = NVML_PROCESSES_MAX;
	nvml_ret r = list ? list(h, &n, found) : NVML_NOT_SUPPORTED;
	if (r != NVML_SUCCESS && r != NVML_INSUFFICIENT_SIZE)
		return;
	for (unsigned i = 0; i < n && i < NVML_PROCESSES_MAX; i++)
		add_process(d, &found[i]);
}

static void read_memory(struct nvml *n, nvml_handle h, struct gpu_device *d)
{
	struct nvml_memory m = { 0 };
	nvml_ret r = n->memory(h, &m);
	if (r == NVML_NOT_SUPPORTED) { /* a GPU that shares the host's memory */
		struct gpu_device cpu;
		gpu_cpu_read(&cpu);
		m = (struct nvml_memory){ cpu.memory_total, cpu.memory_free, cpu.memory_used };
	} else if (r != NVML_SUCCESS) {
		fault(n, d, r);
		return;
	}
	d->memory_total = m.total;
	d->memory_free = MIN(m.free, m.total);
	d->memory_used = MIN(m.used, m.total);
}

static void read_identity(struct nvml *n, nvml_handle h, struct gpu_device *d)
{
	char text[NVML_TEXT] = "";
	struct nvml_pci pci = { 0 };
	int major = 0, minor = 0;
	nvml_ret r = n->uuid(h, text, sizeof text);
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

static void read_device(struct nvml *n, nvml_handle h, struct gpu_device *d)
{
	struct nvml_utilization u = { 0 };
	unsigned celsius = 0;
	read_identity(n, h, d);
	read_memory(n, h, d);
	if (n->utilization && n->utilization(h, &u) == NVML_SUCCESS && u.gpu <= 100)
		d->utilization = (double)u.gpu / 100;
	if (n->temperature && n->temperature(h, 0, &celsius) == NVML_SUCCESS && celsius < 1000)
		d->temperature_c = (int)celsius;
	nvml_read_health(n, h, d);
	read_processes(n->compute_processes, h, d);
	read_processes(n->graphics_processes, h, d);
}

/* The instances of a GPU that is divided: each is a device of its own, by its own UUID. */
static void read_parts(struct nvml *n, nvml_handle h, size_t of, struct gpu_list *list)
{
	unsigned max = nvml_parts_max(n, h), part = 0;
	list->items[of].split = true;
	for (unsigned i = 0; i < max; i++) {
		nvml_handle instance = NULL;
		struct gpu_device *d = nvml_part(n, h, i, &instance) ? gpu_list_add(list, GPU_CUDA) : NULL;
		if (!d)
			continue;
		const struct gpu_device *whole = &list->items[of];
		read_identity(n, instance, d);
		read_memory(n, instance, d);
		read_processes(n->compute_processes, instance, d);
		d->temperature_c = whole->temperature_c;
		memcpy(d->compute_capability, whole->compute_capability, sizeof d->compute_capability);
		memcpy(d->parent, whole->pci, sizeof d->parent);
		d->pci[0] = '\0'; /* it is its GPU's */
		d->part = ++part;
		if (!d->uuid[0] || !d->parent[0])
			list->len--; /* nothing could be started on it */
	}
}

/* The handles of what is there, in the library's order; NULL where it gives none, with *why. */
static void read_handles(struct nvml *n, unsigned count, nvml_handle *h, nvml_ret *why)
{
	nvml_handle found[GPU_DEVICES_MAX] = { 0 };
	size_t nfound = 0;
	for (unsigned i = 0; i < count; i++) {
		h[i] = NULL;
		why[i] = n->by_index(i, &h[i]);
		if (why[i] != NVML_SUCCESS)
			h[i] = NULL;
		else
			found[nfound++] = h[i];
	}
	nvml_events_read(n, found, nfound);
}

static bool read_devices(struct nvml *n, unsigned count, struct gpu_sample *ret)
{
	nvml_handle h[GPU_DEVICES_MAX], of_item[GPU_DEVICES_MAX] = { 0 };
	nvml_ret why[GPU_DEVICES_MAX];
	bool again = false;
	read_handles(n, count, h, why);
	for (unsigned i = 0; i < count; i++) {
		struct gpu_device *d = gpu_list_add(&ret->list, GPU_CUDA);
		if (h[i])
			read_device(n, h[i], d);
		else
			fault(n, d, why[i]);
		again |= d->state != GPU_OK;
		if (!d->uuid[0] && !d->pci[0]) {
			memcpy(ret->note, d->reason, sizeof ret->note);
			ret->list.len--;
			continue;
		}
		of_item[ret->list.len - 1] = h[i];
	}
	size_t whole = ret->list.len;
	nvml_read_links(n, of_item, &ret->list);
	for (size_t i = 0; i < whole; i++)
		if (of_item[i] && ret->list.items[i].state == GPU_OK && nvml_is_split(n, of_item[i]))
			read_parts(n, of_item[i], i, &ret->list);
	return again;
}

bool nvml_read(struct nvml *n, struct gpu_sample *ret)
{
	unsigned count = 0;
	char text[NVML_TEXT] = "";
	*ret = (struct gpu_sample){ 0 };
	if (n->driver_version && n->driver_version(text, sizeof text) == NVML_SUCCESS)
		gpu_set_text(ret->driver, sizeof ret->driver, view_str(text));
	nvml_ret r = n->count(&count);
	if (r != NVML_SUCCESS) {
		ret->has_error = true;
		snprintf(ret->error, sizeof ret->error, "NVML: %s (%d)", n->error_string(r), r);
		return true;
	}
	return read_devices(n, MIN(count, (unsigned)GPU_DEVICES_MAX), ret);
}
