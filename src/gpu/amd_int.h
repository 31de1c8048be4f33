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
/* Fills the function pointers in *to. False: *error names the one that is missing. */
bool amd_bind(
	void *lib, const char *path, const struct amd_symbol *s, size_t n, void *to, char *error, size_t cap);
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
