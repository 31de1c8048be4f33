/* SPDX-License-Identifier: Apache-2.0
 *
 * AMD's GPUs, in the probe child: what sysfs shows, and over it what AMD SMI, else ROCm SMI says. A library
 * that is not there or fails costs what only it knows; a GPU of which neither it nor sysfs can tell the
 * memory any more is lost.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"
#include "gpu/amd_int.h"

struct amd {
	char *sysfs;
	struct amd_smi *smi;
	struct rocm_smi *rocm;
	char words[256]; /* why neither library is used; empty: one is */
};

static bool bind(const struct amd_kind *k, const char *path, struct amd_library *l, char *error, size_t cap)
{
	for (size_t i = 0; i < k->nsymbols; i++) {
		const struct amd_symbol *s = &k->symbols[i];
		void **at = (void **)(void *)((char *)l + s->at);
		*at = dlsym(l->lib, s->name);
		if (!*at && s->must) {
			snprintf(error, cap, "%s lacks %s", path, s->name);
			return false;
		}
	}
	return true;
}

void amd_say(const struct amd_library *l, unsigned status, char *out, size_t cap)
{
	const char *words = NULL;
	char text[128];
	if (!l->status_text || l->status_text(status, &words) || !words)
		words = "an error";
	gpu_set_text(text, sizeof text, view_str(words));
	snprintf(out, cap, "%s: %s (%u)", l->kind->name, text, status);
}

void *amd_library_open(const struct amd_kind *k, const char *path, char *error, size_t cap)
{
	struct amd_library *l = mem_alloc(k->size);
	l->kind = k;
	l->lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (!l->lib) {
		snprintf(error, cap, "%s", dlerror());
		free(l);
		return NULL;
	}
	bool bound = bind(k, path, l, error, cap);
	unsigned status = bound ? l->init(k->init_flags) : AMD_SUCCESS;
	if (status != AMD_SUCCESS)
		amd_say(l, status, error, cap);
	if (bound && status == AMD_SUCCESS)
		return l;
	dlclose(l->lib);
	free(l);
	return NULL;
}

void amd_library_close(struct amd_library *l)
{
	(void)l->shut_down();
	dlclose(l->lib);
	free(l);
}

void amd_take_memory(
	const struct amd_library *l, unsigned status, uint64_t total, uint64_t used, struct gpu_device *d)
{
	if (status != AMD_SUCCESS && status != AMD_NOT_SUPPORTED) {
		d->state = GPU_LOST;
		amd_say(l, status, d->reason, sizeof d->reason);
		return;
	}
	d->memory_total = total;
	d->memory_used = MIN(used, total);
	d->memory_free = total - d->memory_used;
}

void amd_pci_text(uint64_t domain, unsigned bus, unsigned device, unsigned function, char out[16])
{
	snprintf(out, 16, "%04x:%02x:%02x.%x", (unsigned)(domain & 0xffff), bus & 0xff, device & 0x1f,
		function & 7);
}

/* The library an environment variable names, else the first of those names that can be loaded. */
static const char *const *names_of(const char *variable, const char *const *usual, const char **one)
{
	one[0] = getenv(variable);
	one[1] = NULL;
	return one[0] && *one[0] ? one : usual;
}

static void open_library(struct amd *a)
{
	static const char *const smi[] = { "libamd_smi.so", "libamd_smi.so.26", "libamd_smi.so.25",
		"libamd_smi.so.24", "/opt/rocm/lib/libamd_smi.so", NULL };
	static const char *const rocm[] = { "librocm_smi64.so", "librocm_smi64.so.7", "librocm_smi64.so.1",
		"/opt/rocm/lib/librocm_smi64.so", NULL };
	char why_smi[256] = "", why_rocm[256] = "";
	const char *one[2];
	for (const char *const *p = names_of("CORRAL_AMD_SMI", smi, one); *p && !a->smi; p++)
		a->smi = amd_smi_open(*p, why_smi, sizeof why_smi);
	for (const char *const *p = names_of("CORRAL_ROCM_SMI", rocm, one); *p && !a->smi && !a->rocm; p++)
		a->rocm = rocm_smi_open(*p, why_rocm, sizeof why_rocm);
	a->words[0] = '\0';
	if (!a->smi && !a->rocm)
		snprintf(a->words, sizeof a->words, "%.120s; %.120s", why_smi, why_rocm);
}

struct amd *amd_open(const char *sysfs)
{
	struct amd *a = NEW(struct amd);
	a->sysfs = mem_strdup(sysfs);
	open_library(a);
	return a;
}

void amd_close(struct amd *a)
{
	if (!a)
		return;
	amd_smi_close(a->smi);
	rocm_smi_close(a->rocm);
	free(a->sysfs);
	free(a);
}

/* AMD's GPUs of the bus that its kernel driver holds. */
static void scan(const struct amd *a, struct gpu_list *ret)
{
	struct gpu_list *all = NEW(struct gpu_list);
	unsigned seen;
	gpu_bus_scan(a->sysfs, all, &seen);
	for (size_t i = 0; i < all->len; i++) {
		const struct gpu_device *d = &all->items[i];
		struct gpu_device *to =
			d->kind == GPU_AMD && d->state == GPU_OK ? gpu_list_add(ret, GPU_AMD) : NULL;
		if (to)
			*to = *d;
	}
	free(all);
}

/* What a library says of a GPU, over what sysfs said. */
static void lay_over(struct gpu_device *to, const struct gpu_device *s)
{
	struct gpu_device was = *to;
	*to = *s;
	if (!to->name[0])
		memcpy(to->name, was.name, sizeof to->name);
	if (was.uuid[0]) /* the form that ROCm's own variables take */
		memcpy(to->uuid, was.uuid, sizeof to->uuid);
	memcpy(to->driver, was.driver, sizeof to->driver);
	if (!to->memory_total) {
		to->memory_total = was.memory_total;
		to->memory_free = was.memory_free;
		to->memory_used = was.memory_used;
	}
	if (to->state != GPU_OK && was.memory_total) {
		to->state = GPU_OK; /* the kernel still counts its memory: the library errs */
		to->reason[0] = '\0';
	}
}

static bool ask_library(struct amd *a, struct gpu_sample *ret)
{
	struct gpu_list *said = NEW(struct gpu_list);
	bool ok = true;
	if (a->smi)
		ok = amd_smi_read(a->smi, said, ret->note, sizeof ret->note);
	else if (a->rocm)
		ok = rocm_smi_read(a->rocm, said, ret->note, sizeof ret->note);
	for (size_t i = 0; i < said->len; i++)
		for (size_t k = 0; k < ret->list.len; k++)
			if (strcmp(ret->list.items[k].pci, said->items[i].pci) == 0)
				lay_over(&ret->list.items[k], &said->items[i]);
	free(said);
	return ok;
}

bool amd_read(struct amd *a, struct gpu_sample *ret)
{
	*ret = (struct gpu_sample){ 0 };
	scan(a, &ret->list);
	bool again = !ask_library(a, ret), any = false;
	if (a->words[0])
		memcpy(ret->note, a->words, sizeof ret->note);
	for (size_t i = 0; i < ret->list.len; i++) {
		gpu_bus_measure(a->sysfs, &ret->list.items[i]);
		any |= ret->list.items[i].nprocesses > 0;
		again |= ret->list.items[i].state != GPU_OK;
	}
	if (!any)
		gpu_kfd_processes(a->sysfs, &ret->list);
	return again;
}
