/* SPDX-License-Identifier: Apache-2.0
 *
 * Inside src/gpu.
 */
#ifndef GPU_GPU_INT_H
#define GPU_GPU_INT_H

#include "gpu/gpu.h"

/* A small file of sysfs or procfs without its line end, at most cap - 1 bytes; -errno. */
int gpu_read_text(const char *dir, const char *name, char *out, size_t cap);
/* Copies what can be printed; other bytes become '?'; cut at cap - 1. */
void gpu_set_text(char *out, size_t cap, struct view v);
/* Load, temperature, power, errors and processes become unknown. */
void gpu_forget_figures(struct gpu_device *d);
/* A zeroed device of that kind whose figures are unknown, appended; NULL when the list is full. */
struct gpu_device *gpu_list_add(struct gpu_list *l, enum gpu_kind kind);
/* "00000000:01:00.0" and "0000:01:00.0" alike as "0000:01:00.0", in lower case; false: no such address. */
bool gpu_pci_normal(struct view v, char out[16]);

/* merge.c: what is known of the GPUs */
struct gpu_said {                        /* by a maker's driver */
	const struct gpu_sample *sample; /* NULL: it gave no answer */
	const char *words;               /* why what it does not show is not shown */
	bool lost;                       /* it does not answer any more */
};
struct gpu_news {
	const struct gpu_list *bus;        /* the bus now */
	const struct gpu_list *bus_before; /* the bus as it was when `before` was made */
	const struct gpu_device *cpu;
	struct gpu_said nvidia, amd;
};
void gpu_merge(const struct gpu_news *w, const struct gpu_list *before, struct gpu_list *ret);
bool gpu_same_set(const struct gpu_list *a, const struct gpu_list *b);
bool gpu_same_figures(const struct gpu_list *a, const struct gpu_list *b);

/* Reads the load, temperature and power of an AMD GPU from sysfs, where that may hang: in the probe child. */
void gpu_bus_measure(const char *sysfs, struct gpu_device *d);
/* Who holds memory of AMD's GPUs, from the kernel's compute driver; of programs that use Vulkan it knows
 * nothing. */
void gpu_kfd_processes(const char *sysfs, struct gpu_list *l);

/* AMD's libraries by dlopen, whichever is there, else sysfs alone: in the probe child alone. */
struct amd;
struct amd *amd_open(const char *sysfs);
void amd_close(struct amd *a);
bool amd_read(struct amd *a, struct gpu_sample *ret); /* as nvml_read */

/* NVML by dlopen: in the probe child alone. */
struct nvml;
struct nvml *nvml_open(const char *path, char *error, size_t cap); /* NULL: error says why */
void nvml_close(struct nvml *n);
/* Fills *ret (has_error with the driver's words). True: a later sample should open it anew. */
bool nvml_read(struct nvml *n, struct gpu_sample *ret);

#endif
