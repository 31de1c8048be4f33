/* SPDX-License-Identifier: Apache-2.0
 *
 * The CPU as a device, and what the other files share.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/num.h"
#include "gpu/gpu_int.h"

static const char *const kind_names[] = { "cuda", "amd", "intel", "cpu" };
static_assert(ARRAY_LEN(kind_names) == GPU_KIND_COUNT, "one name per kind");
static const char *const path_names[] = { "unknown", "board", "switch", "switches", "bridge", "node",
	"system" };
static_assert(ARRAY_LEN(path_names) == GPU_PATH_COUNT, "one name per path");
static const char *const state_names[] = { "ok", "lost", "unusable" };

const char *gpu_kind_name(enum gpu_kind k)
{
	return (unsigned)k < GPU_KIND_COUNT ? kind_names[k] : "unknown";
}

const char *gpu_state_name(enum gpu_state s)
{
	return (unsigned)s < ARRAY_LEN(state_names) ? state_names[s] : "unknown";
}

const char *gpu_path_name(enum gpu_path p)
{
	return (unsigned)p < GPU_PATH_COUNT ? path_names[p] : "unknown";
}

void gpu_set_text(char *out, size_t cap, struct view v)
{
	v = view_cut(view_trim(v), cap - 1);
	for (size_t i = 0; i < v.n; i++) {
		unsigned char c = (unsigned char)v.p[i];
		out[i] = c < 0x20 || c >= 0x7f ? '?' : (char)c;
	}
	out[v.n] = '\0';
}

int gpu_read_text(const char *dir, const char *name, char *out, size_t cap)
{
	AUTO(mem_freep) char *path = path_join(dir, name);
	AUTO(fd_closep) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return -errno;
	ssize_t n = read(fd, out, cap - 1);
	if (n < 0)
		return -errno;
	while (n > 0 && (out[n - 1] == '\n' || out[n - 1] == ' '))
		n--;
	out[n] = '\0';
	return 0;
}

void gpu_forget_figures(struct gpu_device *d)
{
	d->utilization = -1;
	d->temperature_c = GPU_TEMPERATURE_UNKNOWN;
	d->power_mw = d->power_limit_mw = d->ecc_corrected = d->ecc_uncorrected = -1;
	d->nprocesses = 0;
}

struct gpu_device *gpu_list_add(struct gpu_list *l, enum gpu_kind kind)
{
	if (l->len == GPU_DEVICES_MAX)
		return NULL;
	struct gpu_device *d = &l->items[l->len++];
	*d = (struct gpu_device){ .kind = kind };
	gpu_forget_figures(d);
	return d;
}

bool gpu_pci_normal(struct view v, char out[16])
{
	size_t colon = view_find(v, ':');
	if (colon < 4 || colon > 8 || v.n != colon + 8)
		return false;
	v = view_from(v, colon - 4); /* the domain is written with 4 or 8 digits */
	for (size_t i = 0; i < v.n; i++) {
		char c = v.p[i];
		bool hex = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
		bool fits = i == 4 || i == 7 ? c == ':' : i == 10 ? c == '.' : hex;
		if (!fits)
			return false;
		out[i] = (char)(c >= 'A' && c <= 'F' ? c + 32 : c);
	}
	out[v.n] = '\0';
	return true;
}

/* ---- the CPU ------------------------------------------------------------------------------------ */

/* The value behind "key<spaces>: " in a text of lines; empty: not there. */
static struct view line_value(struct view text, const char *key)
{
	while (text.p) {
		struct view value, line = view_split(text, '\n', &text);
		struct view name = view_split(line, ':', &value);
		while (name.n && (name.p[name.n - 1] == '\t' || name.p[name.n - 1] == ' '))
			name.n--;
		if (value.p && view_eqs(name, key))
			return view_trim(value);
	}
	return (struct view){ 0 };
}

static uint64_t meminfo_bytes(struct view text, const char *key)
{
	struct view rest, v = line_value(text, key);
	uint64_t kib;
	v = view_split(v, ' ', &rest);
	return v.n && num_u64(v, &kib) == 0 && kib < UINT64_MAX / KIB ? kib * KIB : 0;
}

static double load_now(void)
{
	double load;
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	if (getloadavg(&load, 1) != 1 || cpus < 1)
		return -1;
	return MIN(load / (double)cpus, 1.0);
}

void gpu_cpu_read(struct gpu_device *ret)
{
	*ret = (struct gpu_device){ .kind = GPU_CPU, .uuid = "cpu", .name = "CPU" };
	gpu_forget_figures(ret);
	ret->utilization = load_now();
	AUTO(buf_done) struct buf mem = BUF(64 * KIB);
	char text[4096];
	if (gpu_read_text("/proc", "cpuinfo", text, sizeof text) == 0) {
		struct view name = line_value(view_str(text), "model name");
		if (name.n)
			gpu_set_text(ret->name, sizeof ret->name, name);
	}
	const char *meminfo = getenv("CORRAL_MEMINFO"); /* for tests: another machine's */
	if (file_read(meminfo && *meminfo ? meminfo : "/proc/meminfo", &mem) < 0)
		return;
	ret->memory_total = meminfo_bytes(buf_view(&mem), "MemTotal");
	ret->memory_free = MIN(meminfo_bytes(buf_view(&mem), "MemAvailable"), ret->memory_total);
	ret->memory_used = ret->memory_total - ret->memory_free;
}
