/* SPDX-License-Identifier: Apache-2.0
 *
 * ROCm SMI through dlopen, with prototypes of our own: what AMD's machines have where AMD SMI is missing.
 */
#include <stdio.h>

#include "base/mem.h"
#include "gpu/amd_int.h"

typedef unsigned status_t; /* rsmi_status_t */
enum {
	SUCCESS = AMD_SUCCESS,
	MEMORY_VRAM = 0,
	TEMPERATURE_EDGE = 0,
	TEMPERATURE_HOTSPOT = 1,
	TEMPERATURE_NOW = 0,
	LINK_XGMI = 2,
	PROCESSES_MAX = 256,
};

struct process { /* rsmi_process_info_t */
	uint32_t pid, pasid;
	uint64_t vram, sdma;
	uint32_t occupancy, more;
};

struct rocm_smi {
	struct amd_library l; /* first */
	status_t (*count)(uint32_t *);
	status_t (*pci)(uint32_t, uint64_t *);
	status_t (*name)(uint32_t, char *, size_t);
	status_t (*unique_id)(uint32_t, uint64_t *);
	status_t (*memory_total)(uint32_t, int, uint64_t *);
	status_t (*memory_usage)(uint32_t, int, uint64_t *);
	status_t (*busy)(uint32_t, uint32_t *);
	status_t (*temperature)(uint32_t, uint32_t sensor, int metric, int64_t *);
	status_t (*power)(uint32_t, uint32_t sensor, uint64_t *);
	status_t (*power_cap)(uint32_t, uint32_t sensor, uint64_t *);
	status_t (*processes)(struct process *, uint32_t *);
	status_t (*process_on)(uint32_t pid, uint32_t device, struct process *);
	status_t (*link_type)(uint32_t, uint32_t, uint64_t *hops, int *type);
};

static const struct amd_symbol symbols[] = {
	{ "rsmi_init", offsetof(struct rocm_smi, l.init), true },
	{ "rsmi_shut_down", offsetof(struct rocm_smi, l.shut_down), true },
	{ "rsmi_num_monitor_devices", offsetof(struct rocm_smi, count), true },
	{ "rsmi_dev_pci_id_get", offsetof(struct rocm_smi, pci), true },
	{ "rsmi_dev_memory_total_get", offsetof(struct rocm_smi, memory_total), true },
	{ "rsmi_dev_memory_usage_get", offsetof(struct rocm_smi, memory_usage), true },
	{ "rsmi_status_string", offsetof(struct rocm_smi, l.status_text), false },
	{ "rsmi_dev_name_get", offsetof(struct rocm_smi, name), false },
	{ "rsmi_dev_unique_id_get", offsetof(struct rocm_smi, unique_id), false },
	{ "rsmi_dev_busy_percent_get", offsetof(struct rocm_smi, busy), false },
	{ "rsmi_dev_temp_metric_get", offsetof(struct rocm_smi, temperature), false },
	{ "rsmi_dev_power_ave_get", offsetof(struct rocm_smi, power), false },
	{ "rsmi_dev_power_cap_get", offsetof(struct rocm_smi, power_cap), false },
	{ "rsmi_compute_process_info_get", offsetof(struct rocm_smi, processes), false },
	{ "rsmi_compute_process_info_by_device_get", offsetof(struct rocm_smi, process_on), false },
	{ "rsmi_topo_get_link_type", offsetof(struct rocm_smi, link_type), false },
};

static const struct amd_kind kind = { "ROCm SMI", symbols, ARRAY_LEN(symbols), sizeof(struct rocm_smi), 0 };

struct rocm_smi *rocm_smi_open(const char *path, char *error, size_t cap)
{
	return amd_library_open(&kind, path, error, cap);
}

void rocm_smi_close(struct rocm_smi *a)
{
	if (a)
		amd_library_close(&a->l);
}

static void read_identity(struct rocm_smi *a, uint32_t i, struct gpu_device *d)
{
	char text[128] = "";
	uint64_t n = 0;
	if (a->pci(i, &n) == SUCCESS)
		amd_pci_text(n >> 32, (unsigned)(n >> 8 & 0xff), (unsigned)(n >> 3 & 0x1f), (unsigned)(n & 7),
			d->pci);
	if (a->unique_id && a->unique_id(i, &n) == SUCCESS && n)
		snprintf(d->uuid, sizeof d->uuid, "GPU-%016llx", (unsigned long long)n);
	if (a->name && a->name(i, text, sizeof text - 1) == SUCCESS)
		gpu_set_text(d->name, sizeof d->name, view_str(text));
}

static void read_memory(struct rocm_smi *a, uint32_t i, struct gpu_device *d)
{
	uint64_t total = 0, used = 0;
	status_t r = a->memory_total(i, MEMORY_VRAM, &total);
	r = r ? r : a->memory_usage(i, MEMORY_VRAM, &used);
	amd_take_memory(&a->l, r, total, used, d);
}

static void read_figures(struct rocm_smi *a, uint32_t i, struct gpu_device *d)
{
	uint32_t busy = 0;
	int64_t milli = 0;
	uint64_t micro = 0;
	if (a->busy && a->busy(i, &busy) == SUCCESS && busy <= 100)
		d->utilization = (double)busy / 100;
	for (uint32_t sensor = TEMPERATURE_EDGE; a->temperature && sensor <= TEMPERATURE_HOTSPOT; sensor++)
		if (d->temperature_c == GPU_TEMPERATURE_UNKNOWN &&
			a->temperature(i, sensor, TEMPERATURE_NOW, &milli) == SUCCESS && milli > 0 &&
			milli < 1000000)
			d->temperature_c = (int)(milli / 1000);
	if (a->power && a->power(i, 0, &micro) == SUCCESS && micro)
		d->power_mw = (int64_t)MIN(micro / 1000, (uint64_t)INT32_MAX);
	if (a->power_cap && a->power_cap(i, 0, &micro) == SUCCESS && micro)
		d->power_limit_mw = (int64_t)MIN(micro / 1000, (uint64_t)INT32_MAX);
}

static bool has_process(const struct gpu_device *d, uint32_t pid)
{
	for (size_t i = 0; i < d->nprocesses; i++)
		if ((uint32_t)d->processes[i].pid == pid)
			return true;
	return false;
}

static void read_processes(struct rocm_smi *a, const uint32_t *number, struct gpu_list *l)
{
	static struct process all[PROCESSES_MAX];
	uint32_t n = PROCESSES_MAX;
	if (!a->processes || !a->process_on || a->processes(all, &n) != SUCCESS)
		return;
	for (uint32_t p = 0; p < n && p < PROCESSES_MAX; p++)
		for (size_t i = 0; i < l->len; i++) {
			struct process on[4] = { 0 }; /* room for a longer one */
			struct gpu_device *d = &l->items[i];
			if (!all[p].pid || all[p].pid > INT32_MAX || d->nprocesses == GPU_PROCESSES_MAX ||
				has_process(d, all[p].pid) ||
				a->process_on(all[p].pid, number[i], on) != SUCCESS || !on[0].vram)
				continue;
			d->processes[d->nprocesses++] = (struct gpu_process){ (int)all[p].pid, on[0].vram };
		}
}

static void read_links(struct rocm_smi *a, const uint32_t *number, struct gpu_list *l)
{
	for (size_t i = 0; a->link_type && i < l->len; i++)
		for (size_t k = 0; k < l->len; k++) {
			struct gpu_device *d = &l->items[i];
			uint64_t hops = 0;
			int type = 0;
			if (i == k || d->nlinks == GPU_LINKS_MAX ||
				a->link_type(number[i], number[k], &hops, &type) != SUCCESS)
				continue;
			struct gpu_link *to = &d->links[d->nlinks++];
			memcpy(to->pci, l->items[k].pci, sizeof to->pci);
			to->fabric = type == LINK_XGMI;
		}
}

bool rocm_smi_read(struct rocm_smi *a, struct gpu_list *ret, char *error, size_t cap)
{
	uint32_t count = 0, number[GPU_DEVICES_MAX] = { 0 };
	status_t r = a->count(&count);
	if (r != SUCCESS) {
		amd_say(&a->l, r, error, cap);
		return false;
	}
	for (uint32_t i = 0; i < count; i++) {
		struct gpu_device *d = gpu_list_add(ret, GPU_AMD);
		if (!d)
			break;
		read_identity(a, i, d);
		read_memory(a, i, d);
		read_figures(a, i, d);
		number[ret->len - 1] = i;
		if (!d->pci[0])
			ret->len--; /* cannot be told from another one */
	}
	read_processes(a, number, ret);
	read_links(a, number, ret);
	return true;
}
