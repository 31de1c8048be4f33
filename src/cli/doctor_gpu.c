/* SPDX-License-Identifier: Apache-2.0
 *
 * GPUs: what the bus shows against what the drivers show, toolkits, device files.
 */
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/num.h"
#include "cli/doctor.h"

/* What helps, from the driver's own words. */
static const char *fix_of(const char *reason)
{
	static const struct {
		const char *words, *fix;
	} known[] = {
		{ "mismatch", "the driver was updated and its old kernel module is still loaded: restart the "
			      "machine" },
		{ "version",
			"restart the machine, so that the kernel module and the library are of one version" },
		{ "no kernel driver", "install the maker's driver (Debian: nvidia-driver; amdgpu is in the "
				      "kernel) and restart" },
		{ "nouveau", "install nvidia-driver, which blacklists nouveau, and restart" },
		{ "cannot open shared object", "install the driver's library (Debian: libnvidia-ml1)" },
		{ "Driver Not Loaded",
			"modprobe nvidia; `dmesg | grep -i nvidia` says why it is not loaded" },
		{ "does not answer", "look at `dmesg`; a restart of the machine brings a hung driver back" },
		{ "lost", "look at `dmesg | grep Xid`; a reset (nvidia-smi -r) or a restart brings it back" },
		{ "is needed", "load that kernel driver" },
	};
	for (size_t i = 0; i < ARRAY_LEN(known); i++)
		if (strstr(reason, known[i].words))
			return known[i].fix;
	return "look at `dmesg`; `corral gpu-probe` prints what the driver's library says";
}

static void check_gpu(struct doctor *d, const struct gpu_device *g)
{
	char total[32];
	if (g->given_away || (g->integrated && g->state != GPU_OK)) {
		doctor_ok(d, "gpu", "%s (%s): %s", g->name, g->pci, g->reason);
		return;
	}
	if (g->state != GPU_OK) {
		doctor_fail(d, "gpu", fix_of(g->reason), "GPU %u (%s, %s) is %s: %s", g->index, g->name,
			g->pci, gpu_state_name(g->state), g->reason);
		return;
	}
	num_format_bytes(g->memory_total, total, sizeof total);
	doctor_ok(d, "gpu", "GPU %u: %s, %s%s%s%s%s%s", g->index, g->name,
		g->memory_total ? total : "memory not known", g->driver[0] ? ", driver " : "", g->driver,
		g->compute_capability[0] ? ", compute capability " : "", g->compute_capability,
		g->split ? ", divided into MIG instances" : "");
	if (g->last_error[0])
		doctor_warn(d, "gpu", "look at `dmesg | grep Xid`", "GPU %u reported %s", g->index,
			g->last_error);
	if (g->ecc_uncorrected > 0)
		doctor_warn(d, "gpu", "reset or replace the card",
			"GPU %u had %lld memory errors that ECC could not correct", g->index,
			(long long)g->ecc_uncorrected);
}

/* The kernel module's version against the library's. */
static void check_module(struct doctor *d, const struct gpu_list *l)
{
	char module[64];
	if (!doctor_line(d, "/sys/module/nvidia/version", module, sizeof module))
		return;
	for (size_t i = 0; i < l->len; i++) {
		const struct gpu_device *g = &l->items[i];
		if (g->kind != GPU_CUDA || !g->driver[0])
			continue;
		if (strcmp(module, g->driver) != 0)
			doctor_fail(d, "driver", "restart the machine",
				"NVIDIA's kernel module is %s and its library is %s", module, g->driver);
		else
			doctor_ok(d, "driver", "NVIDIA's kernel module and library are %s", g->driver);
		return;
	}
}

void check_gpus(struct doctor *d, const struct gpu_list *l, bool heard, const char *wrong)
{
	size_t gpus = 0;
	for (size_t i = 0; i < l->len; i++) {
		if (l->items[i].kind == GPU_CPU)
			continue;
		gpus++;
		check_gpu(d, &l->items[i]);
	}
	if (!heard)
		doctor_warn(d, "gpu", "look at `dmesg`", "a GPU's driver did not answer in time");
	if (!gpus && wrong)
		doctor_warn(d, "gpu", fix_of(wrong), "a GPU's driver is there and shows none: %s", wrong);
	if (!gpus && d->cfg && d->cfg->gpu == CONFIG_GPU_REQUIRED)
		doctor_fail(d, "gpu", "put a GPU in, or set gpu: auto",
			"gpu: required, and the PCI bus (%s/bus/pci/devices) shows none", d->sysfs);
	else if (!gpus && !wrong)
		doctor_ok(d, "gpu", "the machine shows no GPU: engines compute on the CPU");
	check_module(d, l);
}

/* ---- toolkits --------------------------------------------------------------------------------------------
 */

static void tell_file(struct doctor *d, const char *what, const char *path)
{
	char line[64];
	if (doctor_line(d, path, line, sizeof line) && line[0])
		doctor_ok(d, "toolkit", "%s %s", what, line);
}

/* Engines that are built here need them; those that come built do not. */
void check_toolkits(struct doctor *d)
{
	AUTO(mem_freep) char *cuda = doctor_path(d, "/usr/local/cuda");
	char to[256];
	ssize_t n = readlink(cuda, to, sizeof to - 1);
	if (n > 0)
		doctor_ok(d, "toolkit", "CUDA in %.*s", (int)n, to);
	else if (file_exists(cuda))
		doctor_ok(d, "toolkit", "CUDA in /usr/local/cuda");
	tell_file(d, "ROCm", "/opt/rocm/.info/version");
}

/* ---- device files
 * ------------------------------------------------------------------------------------------ */

static void check_file(struct doctor *d, const char *path, const char *missing, const char *forbidden)
{
	AUTO(mem_freep) char *at = doctor_path(d, path);
	if (access(at, R_OK | W_OK) == 0)
		doctor_ok(d, "files", "%s can be used", path);
	else if (errno == ENOENT)
		doctor_fail(d, "files", missing, "%s is not there", path);
	else
		doctor_fail(d, "files", forbidden, "%s cannot be used: %s", path, strerror(errno));
}

static bool has(const struct gpu_list *l, enum gpu_kind kind)
{
	for (size_t i = 0; i < l->len; i++)
		if (l->items[i].kind == kind && !l->items[i].given_away && !l->items[i].integrated)
			return true;
	return false;
}

/* /dev/nvidia0 and so on; those of /dev/dri that compute. */
static void check_all(
	struct doctor *d, const char *dir, const char *prefix, const char *missing, const char *forbidden)
{
	AUTO(mem_freep) char *at = doctor_path(d, dir);
	DIR *all = opendir(at);
	struct dirent *e;
	bool any = false;
	while (all && (e = readdir(all))) {
		struct view name = view_str(e->d_name);
		if (!view_starts(name, view_str(prefix)) || e->d_name[strlen(prefix)] < '0' ||
			e->d_name[strlen(prefix)] > '9')
			continue;
		AUTO(mem_freep) char *path = path_join(dir, e->d_name);
		check_file(d, path, missing, forbidden);
		any = true;
	}
	if (all)
		closedir(all);
	if (!any)
		doctor_fail(d, "files", missing, "there is no %s/%s…", dir, prefix);
}

void check_gpu_files(struct doctor *d, const struct gpu_list *l)
{
	const char *groups = "add the user Corral runs as to the groups render and video, and log in again: "
			     "usermod -aG render,video USER";
	if (has(l, GPU_CUDA)) {
		const char *make = "nvidia-modprobe -u -c=0 makes it (in a container: pass the device in)";
		check_file(d, "/dev/nvidiactl", make, groups);
		check_file(d, "/dev/nvidia-uvm", make, groups);
		check_all(d, "/dev", "nvidia", make, groups);
	}
	if (has(l, GPU_AMD))
		check_file(d, "/dev/kfd", "load amdgpu (in a container: pass /dev/kfd in)", groups);
	if (has(l, GPU_AMD) || has(l, GPU_INTEL))
		check_all(d, "/dev/dri", "renderD",
			"load the kernel driver (in a container: pass /dev/dri in)", groups);
}
