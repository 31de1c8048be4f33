/* SPDX-License-Identifier: Apache-2.0
 *
 * AMD's two libraries, for amd.c, amd_smi.c and rocm_smi.c alone.
 */
#ifndef GPU_AMD_INT_H
#define GPU_AMD_INT_H

#include "gpu/gpu_int.h"

struct amd_symbol { /* of a library; those marked must are those without which there is nothing to tell */
	const char *name;
	size_t at;
	bool must;
};
struct amd_kind {
	const char *name; /* "AMD SMI" */
	const struct amd_symbol *symbols;
	size_t nsymbols;
	size_t size; /* of the struct that a struct amd_library begins */
	uint64_t init_flags;
};
enum { AMD_SUCCESS = 0, AMD_NOT_SUPPORTED = 2 }; /* of both */
struct amd_library {
	const struct amd_kind *kind;
	void *lib;
	unsigned (*init)(uint64_t);
	unsigned (*shut_down)(void);
	unsigned (*status_text)(unsigned, const char **);
};
/* Loaded, bound and begun. NULL: error says why. */
void *amd_library_open(const struct amd_kind *k, const char *path, char *error, size_t cap);
void amd_library_close(struct amd_library *l);
/* The library's words for a status. */
void amd_say(const struct amd_library *l, unsigned status, char *out, size_t cap);
/* What it answered when it was asked for a device's memory: a failure loses the device. */
void amd_take_memory(
	const struct amd_library *l, unsigned status, uint64_t total, uint64_t used, struct gpu_device *d);
void amd_pci_text(uint64_t domain, unsigned bus, unsigned device, unsigned function, char out[16]);

/* AMD SMI. NULL: error says why. */
struct amd_smi;
struct amd_smi *amd_smi_open(const char *path, char *error, size_t cap);
void amd_smi_close(struct amd_smi *a);
/* Appends the devices it shows. False: it could not be asked, error says why. */
bool amd_smi_read(struct amd_smi *a, struct gpu_list *ret, char *error, size_t cap);

/* ROCm SMI, the same. */
struct rocm_smi;
struct rocm_smi *rocm_smi_open(const char *path, char *error, size_t cap);
void rocm_smi_close(struct rocm_smi *r);
bool rocm_smi_read(struct rocm_smi *r, struct gpu_list *ret, char *error, size_t cap);

#endif
