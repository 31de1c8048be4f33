/* SPDX-License-Identifier: Apache-2.0
 *
 * NVML's layouts and functions as its documentation gives them (API version 12, compatible since 2018), for
 * nvml.c and nvml_more.c alone.
 */
#ifndef GPU_NVML_INT_H
#define GPU_NVML_INT_H

#include "gpu/gpu_int.h"

typedef int nvml_ret; /* nvmlReturn_t */
enum { NVML_SUCCESS = 0, NVML_NOT_SUPPORTED = 3, NVML_INSUFFICIENT_SIZE = 7 };
enum { NVML_TEXT = 96, NVML_PROCESSES_MAX = 256 };
#define NVML_NO_VALUE UINT64_MAX

typedef void *nvml_handle; /* nvmlDevice_t */
struct nvml_memory {
	unsigned long long total, free, used;
};
struct nvml_utilization {
	unsigned gpu, memory;
};
struct nvml_pci {
	char bus_id_legacy[16];
	unsigned domain, bus, device, pci_device_id, pci_subsystem_id;
	char bus_id[32];
};
struct nvml_process { /* of the _v2 functions; the _v3 ones of drivers 535.43 to 535.86 wrote 32 bytes each */
	unsigned pid;
	unsigned long long used;
	unsigned gpu_instance, compute_instance;
};
struct nvml_event {
	nvml_handle device;
	unsigned long long type, data;
	unsigned gpu_instance, compute_instance;
};

struct nvml_error { /* the last one of a device */
	nvml_handle device;
	char text[160];
	int64_t at_ms;
};
struct nvml_ways { /* from one device to the others; they hardly ever change and are dear to read */
	size_t n;
	struct gpu_link links[GPU_LINKS_MAX];
};

struct nvml {
	void *lib;
	nvml_ret (*init)(void);
	nvml_ret (*shutdown)(void);
	const char *(*error_string)(nvml_ret);
	nvml_ret (*driver_version)(char *, unsigned);
	nvml_ret (*count)(unsigned *);
	nvml_ret (*by_index)(unsigned, nvml_handle *);
	nvml_ret (*name)(nvml_handle, char *, unsigned);
	nvml_ret (*uuid)(nvml_handle, char *, unsigned);
	nvml_ret (*pci)(nvml_handle, struct nvml_pci *);
	nvml_ret (*memory)(nvml_handle, struct nvml_memory *);
	nvml_ret (*utilization)(nvml_handle, struct nvml_utilization *);
	nvml_ret (*temperature)(nvml_handle, int, unsigned *);
	nvml_ret (*capability)(nvml_handle, int *, int *);
	nvml_ret (*compute_processes)(nvml_handle, unsigned *, struct nvml_process *);
	nvml_ret (*graphics_processes)(nvml_handle, unsigned *, struct nvml_process *);
	nvml_ret (*power)(nvml_handle, unsigned *);
	nvml_ret (*power_limit)(nvml_handle, unsigned *);
	nvml_ret (*ecc)(nvml_handle, int type, int counter, unsigned long long *);
	nvml_ret (*mig_mode)(nvml_handle, unsigned *now, unsigned *pending);
	nvml_ret (*mig_max)(nvml_handle, unsigned *);
	nvml_ret (*mig_by_index)(nvml_handle, unsigned, nvml_handle *);
	nvml_ret (*ancestor)(nvml_handle, nvml_handle, int *);
	nvml_ret (*p2p)(nvml_handle, nvml_handle, int index, int *status);
	nvml_ret (*nvlink_state)(nvml_handle, unsigned link, int *active);
	nvml_ret (*nvlink_remote)(nvml_handle, unsigned link, struct nvml_pci *);
	nvml_ret (*events_new)(void **);
	nvml_ret (*events_free)(void *);
	nvml_ret (*events_supported)(nvml_handle, unsigned long long *);
	nvml_ret (*events_register)(nvml_handle, unsigned long long types, void *);
	nvml_ret (*events_wait)(void *, struct nvml_event *, unsigned ms);

	void *events; /* NULL: not made yet, or not to be had */
	bool events_tried;
	size_t nerrors;
	struct nvml_error errors[GPU_DEVICES_MAX];
	unsigned ways_of; /* how many devices there were when `ways` was read; 0: never */
	unsigned ways_age;
	struct nvml_ways ways[GPU_DEVICES_MAX];
};

/* Makes the set of events, registers every device, and reads what came since. */
void nvml_events_read(struct nvml *n, const nvml_handle *devices, size_t count);
void nvml_events_end(struct nvml *n);
/* Power, ECC, the last event. */
void nvml_read_health(struct nvml *n, nvml_handle h, struct gpu_device *d);
/* Whether it is divided; its instances, from 0 on until false. */
bool nvml_is_split(struct nvml *n, nvml_handle h);
unsigned nvml_parts_max(struct nvml *n, nvml_handle h);
bool nvml_part(struct nvml *n, nvml_handle h, unsigned i, nvml_handle *ret);
/* Fills the links of the whole GPUs of a list; handles[i] belongs to list->items[i], NULL: it has none. */
void nvml_read_links(struct nvml *n, const nvml_handle *handles, struct gpu_list *list);

#endif
