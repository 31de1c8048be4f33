/* SPDX-License-Identifier: Apache-2.0
 *
 * AMD SMI through dlopen, with prototypes of our own. Its structures changed from release to release: only
 * what stayed where it was is read of them, into room that is larger than any of them and zeroed before.
 */
#include <stdio.h>

#include "base/mem.h"
#include "gpu/amd_int.h"

typedef unsigned status_t; /* amdsmi_status_t */
typedef void *handle_t;    /* of a socket, or of a processor */
enum {
	SUCCESS = AMD_SUCCESS,
	INIT_AMD_GPUS = 2,
	MEMORY_VRAM = 0,
	TEMPERATURE_EDGE = 0,
	TEMPERATURE_HOTSPOT = 1,
	TEMPERATURE_NOW = 0,
	LINK_XGMI = 2,
	UUID_ROOM = 64,
	STRUCT_ROOM = 4096,
	SOCKETS_MAX = 64,
	PROCESSES_MAX = 64,
	WATTS_MAX = 9999,
};

struct amd_smi {
	struct amd_library l; /* first */
	status_t (*sockets)(uint32_t *, handle_t *);
	status_t (*processors)(handle_t, uint32_t *, handle_t *);
	status_t (*bdf)(handle_t, uint64_t *);
	status_t (*uuid)(handle_t, unsigned *, char *);
	status_t (*asic)(handle_t, void *);
	status_t (*memory_total)(handle_t, int, uint64_t *);
	status_t (*memory_usage)(handle_t, int, uint64_t *);
	status_t (*activity)(handle_t, void *);
	status_t (*temperature)(handle_t, int sensor, int metric, int64_t *);
	status_t (*power)(handle_t, void *);
	status_t (*ecc)(handle_t, void *);
	status_t (*processes)(handle_t, uint32_t *, void *);
	status_t (*link_type)(handle_t, handle_t, uint64_t *hops, int *type);
};

static const struct amd_symbol symbols[] = {
	{ "amdsmi_init", offsetof(struct amd_smi, l.init), true },
	{ "amdsmi_shut_down", offsetof(struct amd_smi, l.shut_down), true },
	{ "amdsmi_get_socket_handles", offsetof(struct amd_smi, sockets), true },
	{ "amdsmi_get_processor_handles", offsetof(struct amd_smi, processors), true },
	{ "amdsmi_get_gpu_device_bdf", offsetof(struct amd_smi, bdf), true },
	{ "amdsmi_get_gpu_memory_total", offsetof(struct amd_smi, memory_total), true },
	{ "amdsmi_get_gpu_memory_usage", offsetof(struct amd_smi, memory_usage), true },
	{ "amdsmi_status_code_to_string", offsetof(struct amd_smi, l.status_text), false },
	{ "amdsmi_get_gpu_device_uuid", offsetof(struct amd_smi, uuid), false },
	{ "amdsmi_get_gpu_asic_info", offsetof(struct amd_smi, asic), false },
	{ "amdsmi_get_gpu_activity", offsetof(struct amd_smi, activity), false },
	{ "amdsmi_get_temp_metric", offsetof(struct amd_smi, temperature), false },
	{ "amdsmi_get_power_info", offsetof(struct amd_smi, power), false },
	{ "amdsmi_get_gpu_total_ecc_count", offsetof(struct amd_smi, ecc), false },
	{ "amdsmi_get_gpu_process_list", offsetof(struct amd_smi, processes), false },
	{ "amdsmi_topo_get_link_type", offsetof(struct amd_smi, link_type), false },
};

static const struct amd_kind kind = { "AMD SMI", symbols, ARRAY_LEN(symbols), sizeof(struct amd_smi),
	INIT_AMD_GPUS };

struct amd_smi *amd_smi_open(const char *path, char *error, size_t cap)
{
	return amd_library_open(&kind, path, error, cap);
}

void amd_smi_close(struct amd_smi *a)
{
	if (a)
		amd_library_close(&a->l);
}

/* ---- one device --------------------------------------------------------------------------------------- */

static uint32_t word_at(const void *p, size_t at)
{
	uint32_t n;
	memcpy(&n, (const char *)p + at, sizeof n);
	return n;
}

static uint64_t long_at(const void *p, size_t at)
{
	uint64_t n;
	memcpy(&n, (const char *)p + at, sizeof n);
	return n;
}

static void read_identity(struct amd_smi *a, handle_t h, struct gpu_device *d)
{
	char room[STRUCT_ROOM] = "", uuid[UUID_ROOM] = "";
	unsigned n = sizeof uuid - 1;
	uint64_t bdf = 0;
	if (a->bdf(h, &bdf) == SUCCESS)
		amd_pci_text(bdf >> 16, (unsigned)(bdf >> 8 & 0xff), (unsigned)(bdf >> 3 & 0x1f),
			(unsigned)(bdf & 7), d->pci);
	if (a->uuid && a->uuid(h, &n, uuid) == SUCCESS && uuid[0])
		snprintf(d->uuid, sizeof d->uuid, "GPU-%.40s", uuid);
	if (a->asic && a->asic(h, room) == SUCCESS) { /* the name comes first in all of them */
		room[sizeof d->name - 1] = '\0';
		gpu_set_text(d->name, sizeof d->name, view_str(room));
	}
}

static void read_memory(struct amd_smi *a, handle_t h, struct gpu_device *d)
{
	uint64_t total = 0, used = 0;
	status_t r = a->memory_total(h, MEMORY_VRAM, &total);
	r = r ? r : a->memory_usage(h, MEMORY_VRAM, &used);
	amd_take_memory(&a->l, r, total, used, d);
}

/* Watts come as one of the first four words, the others being zero or all ones: socket power, then current
 * and average (releases 7 and later), or current and average at once (6). */
static void read_power(struct amd_smi *a, handle_t h, struct gpu_device *d)
{
	char room[STRUCT_ROOM] = "";
	if (!a->power || a->power(h, room) != SUCCESS)
		return;
	for (size_t i = 0; i < 4 && d->power_mw < 0; i++) {
		uint32_t watts = word_at(room, 4 * i);
		if (watts && watts <= WATTS_MAX)
			d->power_mw = (int64_t)watts * 1000;
	}
}

static void read_figures(struct amd_smi *a, handle_t h, struct gpu_device *d)
{
	char room[STRUCT_ROOM] = "";
	int64_t celsius = 0;
	if (a->activity && a->activity(h, room) == SUCCESS && word_at(room, 0) <= 100)
		d->utilization = (double)word_at(room, 0) / 100;
	for (int sensor = TEMPERATURE_EDGE; a->temperature && sensor <= TEMPERATURE_HOTSPOT; sensor++)
		if (d->temperature_c == GPU_TEMPERATURE_UNKNOWN &&
			a->temperature(h, sensor, TEMPERATURE_NOW, &celsius) == SUCCESS && celsius > 0 &&
			celsius < 1000)
			d->temperature_c = (int)celsius;
	read_power(a, h, d);
	memset(room, 0, sizeof room);
	if (a->ecc && a->ecc(h, room) == SUCCESS) {
		d->ecc_corrected = (int64_t)MIN(long_at(room, 0), (uint64_t)INT64_MAX);
		d->ecc_uncorrected = (int64_t)MIN(long_at(room, 8), (uint64_t)INT64_MAX);
	}
}

/* ---- processes ----------------------------------------------------------------------------------------- */

/* A process's entry begins with its name, in 32 bytes before release 6.3 and in 256 since; then come its pid,
 * its bytes in all, and at the end of a block of fixed size its bytes of video memory. */
static const struct layout {
	size_t pid, vram, size;
} layouts[] = { { 32, 128, 224 }, { 256, 352, 704 } };

/* A name is padded with zeros, so that a short one leaves zeros where the older layout has the pid. */
static const struct layout *layout_of(const char *room)
{
	return memchr(room, 0, 32) && word_at(room, 32) ? &layouts[0] : &layouts[1];
}

static void read_processes(struct amd_smi *a, handle_t h, struct gpu_device *d)
{
	static char room[(PROCESSES_MAX + 1) * 1024]; /* more than the largest layout known */
	uint32_t n = PROCESSES_MAX;
	memset(room, 0, sizeof room);
	if (!a->processes || a->processes(h, &n, room) != SUCCESS)
		return;
	const struct layout *at = layout_of(room);
	for (uint32_t i = 0; i < n && i < PROCESSES_MAX && d->nprocesses < GPU_PROCESSES_MAX; i++) {
		uint32_t pid = word_at(room + i * at->size, at->pid);
		uint64_t bytes = long_at(room + i * at->size, at->vram);
		if (pid && pid <= INT32_MAX && bytes <= d->memory_total)
			d->processes[d->nprocesses++] = (struct gpu_process){ (int)pid, bytes };
	}
}

/* ---- all of them --------------------------------------------------------------------------------------- */

static void read_links(struct amd_smi *a, const handle_t *h, struct gpu_list *l)
{
	for (size_t i = 0; a->link_type && i < l->len; i++)
		for (size_t k = 0; k < l->len; k++) {
			struct gpu_device *d = &l->items[i];
			uint64_t hops = 0;
			int type = 0;
			if (i == k || d->nlinks == GPU_LINKS_MAX || !l->items[k].pci[0] ||
				a->link_type(h[i], h[k], &hops, &type) != SUCCESS)
				continue;
			struct gpu_link *to = &d->links[d->nlinks++];
			memcpy(to->pci, l->items[k].pci, sizeof to->pci);
			to->fabric = type == LINK_XGMI;
		}
}

bool amd_smi_read(struct amd_smi *a, struct gpu_list *ret, char *error, size_t cap)
{
	handle_t sockets[SOCKETS_MAX] = { 0 }, found[GPU_DEVICES_MAX], of_item[GPU_DEVICES_MAX] = { 0 };
	uint32_t nsockets = SOCKETS_MAX;
	status_t r = a->sockets(&nsockets, sockets);
	if (r != SUCCESS) {
		amd_say(&a->l, r, error, cap);
		return false;
	}
	for (uint32_t s = 0; s < nsockets && s < SOCKETS_MAX; s++) {
		uint32_t n = GPU_DEVICES_MAX;
		if (a->processors(sockets[s], &n, found) != SUCCESS)
			continue;
		for (uint32_t i = 0; i < n && i < GPU_DEVICES_MAX; i++) {
			struct gpu_device *d = gpu_list_add(ret, GPU_AMD);
			if (!d)
				break;
			read_identity(a, found[i], d);
			read_memory(a, found[i], d);
			read_figures(a, found[i], d);
			read_processes(a, found[i], d);
			of_item[ret->len - 1] = found[i];
			if (!d->pci[0])
				ret->len--; /* cannot be told from another one */
		}
	}
	read_links(a, of_item, ret);
	return true;
}
