/* SPDX-License-Identifier: Apache-2.0
 *
 * What the PCI bus shows, from sysfs alone. Nothing here wakes a GPU that sleeps: memory and load are read
 * from files the kernel's driver fills, and only of GPUs whose power state is not suspended. What the daemon
 * reads itself (memory) is kept by the kernel; what asks the GPU's own firmware, and may hang with it, is
 * gpu_bus_measure's, in the probe child.
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/num.h"
#include "gpu/gpu_int.h"

static uint64_t number_of(const char *dir, const char *name)
{
	char text[32];
	uint64_t n;
	return gpu_read_text(dir, name, text, sizeof text) == 0 && num_u64(view_str(text), &n) == 0 ? n : 0;
}

/* The kernel driver that holds it: the last part of what `driver` points to; empty: none. */
static void driver_of(const char *dir, char *out, size_t cap)
{
	AUTO(mem_freep) char *path = path_join(dir, "driver");
	char to[512];
	ssize_t n = readlink(path, to, sizeof to - 1);
	out[0] = '\0';
	if (n <= 0)
		return;
	to[n] = '\0';
	const char *slash = strrchr(to, '/');
	gpu_set_text(out, cap, view_str(slash ? slash + 1 : to));
}

static void name_of(const char *dir, const char *vendor, const char *device, struct gpu_device *d)
{
	char product[96];
	const char *maker = d->kind == GPU_CUDA ? "NVIDIA" : d->kind == GPU_AMD ? "AMD" : "Intel";
	if (gpu_read_text(dir, "product_name", product, sizeof product) == 0 && product[0])
		gpu_set_text(d->name, sizeof d->name, view_str(product));
	else
		snprintf(d->name, sizeof d->name, "%s GPU %.4s:%.4s", maker, vendor + 2, device + 2);
}

/* Who should hold it, and what to say when somebody else does. */
static void judge(struct gpu_device *d, const char *driver)
{
	bool fits = d->kind == GPU_AMD ? strcmp(driver, "amdgpu") == 0
				       : strcmp(driver, "i915") == 0 || strcmp(driver, "xe") == 0;
	if (strcmp(driver, "vfio-pci") == 0) {
		d->state = GPU_UNUSABLE;
		d->given_away = true;
		snprintf(d->reason, sizeof d->reason, "it is given to virtual machines (vfio-pci)");
	} else if (d->kind == GPU_CUDA) {
		d->state = GPU_UNUSABLE;
		snprintf(d->reason, sizeof d->reason, "%s%s",
			driver[0] ? "the kernel driver that holds it is " : "",
			driver[0] ? driver : "no kernel driver holds it");
	} else if (!fits) {
		d->state = GPU_UNUSABLE;
		snprintf(d->reason, sizeof d->reason, "%s%s; %s is needed",
			driver[0] ? "the kernel driver that holds it is " : "",
			driver[0] ? driver : "no kernel driver holds it",
			d->kind == GPU_AMD ? "amdgpu" : "i915 or xe");
	}
	if (d->kind != GPU_CUDA && fits)
		gpu_set_text(d->driver, sizeof d->driver, view_str(driver));
}

static bool sleeps(const char *dir)
{
	char text[64];
	return gpu_read_text(dir, "power/runtime_status", text, sizeof text) == 0 &&
	       strcmp(text, "suspended") == 0;
}

static void read_figures(const char *dir, struct gpu_device *d)
{
	char text[64];
	if (sleeps(dir)) {
		d->utilization = 0;
		return; /* reading would wake it */
	}
	d->memory_total = number_of(dir, "mem_info_vram_total");
	d->memory_used = MIN(number_of(dir, "mem_info_vram_used"), d->memory_total);
	d->memory_free = d->memory_total - d->memory_used;
	if (!d->uuid[0] && gpu_read_text(dir, "unique_id", text, sizeof text) == 0 && text[0])
		snprintf(d->uuid, sizeof d->uuid, "GPU-%.32s", text);
}

void gpu_bus_refresh(const char *sysfs, struct gpu_device *d)
{
	AUTO(mem_freep) char *dir = mem_fmt("%s/bus/pci/devices/%s", sysfs, d->pci);
	if (d->state == GPU_OK && d->pci[0] && (d->kind == GPU_AMD || d->kind == GPU_INTEL))
		read_figures(dir, d);
}

/* The first hwmonN folder of a device; NULL: none. */
static char *hwmon_of(const char *dir)
{
	AUTO(mem_freep) char *all = path_join(dir, "hwmon");
	DIR *d = opendir(all);
	struct dirent *e;
	char *found = NULL;
	while (d && !found && (e = readdir(d)))
		if (strncmp(e->d_name, "hwmon", 5) == 0)
			found = path_join(all, e->d_name);
	if (d)
		closedir(d);
	return found;
}

void gpu_bus_measure(const char *sysfs, struct gpu_device *d)
{
	AUTO(mem_freep) char *dir = mem_fmt("%s/bus/pci/devices/%s", sysfs, d->pci);
	AUTO(mem_freep) char *hwmon = d->pci[0] && !sleeps(dir) ? hwmon_of(dir) : NULL;
	char text[64];
	uint64_t n;
	if (d->utilization < 0 && !sleeps(dir) &&
		gpu_read_text(dir, "gpu_busy_percent", text, sizeof text) == 0 &&
		num_u64(view_str(text), &n) == 0 && n <= 100)
		d->utilization = (double)n / 100;
	if (!hwmon)
		return;
	uint64_t temp = number_of(hwmon, "temp1_input"), limit = number_of(hwmon, "power1_cap");
	uint64_t power = number_of(hwmon, "power1_average");
	power = power ? power : number_of(hwmon, "power1_input");
	if (d->temperature_c == GPU_TEMPERATURE_UNKNOWN && temp && temp < 1000000)
		d->temperature_c = (int)(temp / 1000);
	if (d->power_mw < 0 && power)
		d->power_mw = (int64_t)MIN(power / 1000, (uint64_t)1000000);
	if (d->power_limit_mw < 0 && limit)
		d->power_limit_mw = (int64_t)MIN(limit / 1000, (uint64_t)1000000);
}

static bool kind_of(const char *vendor, const char *class, enum gpu_kind *ret)
{
	bool display = strncmp(class, "0x03", 4) == 0, accelerator = strncmp(class, "0x12", 4) == 0;
	if (strcmp(vendor, "0x10de") == 0)
		*ret = GPU_CUDA;
	else if (strcmp(vendor, "0x1002") == 0)
		*ret = GPU_AMD;
	else if (strcmp(vendor, "0x8086") == 0)
		*ret = GPU_INTEL;
	else
		return false;
	return display || (accelerator && *ret == GPU_AMD);
}

static void scan_one(const char *root, const char *address, struct gpu_list *ret)
{
	AUTO(mem_freep) char *dir = path_join(root, address);
	char class[16], vendor[16], device[16] = "", driver[64], pci[16];
	enum gpu_kind kind;
	if (!gpu_pci_normal(view_str(address), pci) || gpu_read_text(dir, "class", class, sizeof class) < 0 ||
		gpu_read_text(dir, "vendor", vendor, sizeof vendor) < 0 || !kind_of(vendor, class, &kind))
		return;
	struct gpu_device *d = gpu_list_add(ret, kind);
	if (!d)
		return;
	(void)gpu_read_text(dir, "device", device, sizeof device);
	memcpy(d->pci, pci, sizeof pci);
	driver_of(dir, driver, sizeof driver);
	name_of(dir, vendor, strlen(device) >= 2 ? device : "0x????", d);
	/* Intel's own graphics sits on the first bus; a card never does. */
	d->integrated = kind == GPU_INTEL && strncmp(pci + 5, "00:", 3) == 0;
	judge(d, driver);
	if (d->state == GPU_OK)
		read_figures(dir, d);
}

void gpu_bus_scan(const char *sysfs, struct gpu_list *ret, unsigned *ret_seen)
{
	AUTO(mem_freep) char *root = mem_fmt("%s/bus/pci/devices", sysfs);
	struct dirent **names = NULL;
	int n = scandir(root, &names, NULL, alphasort);
	*ret_seen = 0;
	for (int i = 0; i < n; i++) {
		if (names[i]->d_name[0] != '.') {
			++*ret_seen;
			scan_one(root, names[i]->d_name, ret);
		}
		free(names[i]);
	}
	free(names);
}
