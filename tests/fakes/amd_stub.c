/* SPDX-License-Identifier: Apache-2.0
 *
 * A libamd_smi.so and, with -DSTUB_ROCM, a librocm_smi64.so for tests: they tell what a control file says, so
 * that the real loaders and the real probe child are exercised. CORRAL_AMD_STUB names the file. Lines:
 *
 *   init|CODE            what amdsmi_init and rsmi_init answer
 *   count|CODE           what asking for the devices answers
 *   hang|init, hang|count, hang|memory    that call never returns
 *   crash|count          that call ends the process by a signal
 *   device|UNIQUE_ID|NAME|PCI|TOTAL_MIB|USED_MIB|BUSY_PERCENT|CELSIUS|WATTS|CODE
 *                        CODE: what its memory calls answer; empty fields are not supported ones
 *   process|PCI|PID|MIB
 *   ecc|PCI|CORRECTED|UNCORRECTED
 *   xgmi|PCI|PCI
 *   old                  the structures of releases before 6.3
 */
#include <signal.h>
#include <stdint.h>

#define STUB_FILE "CORRAL_AMD_STUB"
#include "stub_control.h"

enum { OK = 0, NOT_SUPPORTED = 2, NOT_THERE = 31 };

static char *device_line[DEVICES_MAX];
static unsigned ndevices;

static int look(void)
{
	reread();
	maybe_hang("count");
	if (says("crash", "count"))
		raise(SIGKILL);
	ndevices = 0;
	for (char *p = next_line(text, "device"); p && ndevices < DEVICES_MAX;
		p = next_line(behind(p), "device"))
		device_line[ndevices++] = p;
	return code_of("count");
}

static int begin(void)
{
	reread();
	maybe_hang("init");
	return code_of("init");
}

static int code(const char *line)
{
	return (int)number(line, 9, 0);
}

static void address(const char *line, unsigned out[4])
{
	char s[32];
	memset(out, 0, 4 * sizeof *out);
	(void)!sscanf(field(line, 3, s, sizeof s), "%x:%x:%x.%x", &out[0], &out[1], &out[2], &out[3]);
}

static int memory(const char *line, int k, uint64_t *ret)
{
	maybe_hang("memory");
	*ret = number(line, k, 0) << 20;
	return code(line);
}

static int same(const char *line, int k, const char *device)
{
	char a[32], b[32];
	return strcmp(field(line, k, a, sizeof a), field(device, 3, b, sizeof b)) == 0;
}

static int linked(const char *a, const char *b)
{
	for (char *p = next_line(text, "xgmi"); p; p = next_line(behind(p), "xgmi"))
		if ((same(p, 1, a) && same(p, 2, b)) || (same(p, 1, b) && same(p, 2, a)))
			return 1;
	return 0;
}

static int words_of(int status, const char **ret)
{
	*ret = status == NOT_THERE ? "the device was not found" : "an internal error";
	return OK;
}

#ifndef STUB_ROCM

#define LINE(h) (*(char **)(h))

API int amdsmi_init(uint64_t flags)
{
	return flags == 2 ? begin() : 1;
}

API int amdsmi_shut_down(void)
{
	return OK;
}

API int amdsmi_status_code_to_string(int status, const char **ret)
{
	return words_of(status, ret);
}

/* A socket each. */
API int amdsmi_get_socket_handles(uint32_t *n, void **out)
{
	int r = look();
	for (unsigned i = 0; i < ndevices && i < *n; i++)
		out[i] = &device_line[i];
	*n = ndevices;
	return r;
}

API int amdsmi_get_processor_handles(void *socket, uint32_t *n, void **out)
{
	if (*n)
		out[0] = socket;
	*n = 1;
	return OK;
}

API int amdsmi_get_gpu_device_bdf(void *h, uint64_t *ret)
{
	unsigned a[4];
	address(LINE(h), a);
	*ret = (uint64_t)a[0] << 16 | a[1] << 8 | a[2] << 3 | a[3];
	return OK;
}

API int amdsmi_get_gpu_device_uuid(void *h, unsigned *n, char *out)
{
	char s[32];
	snprintf(out, *n, "%.16s-0000-1000-8000", field(LINE(h), 1, s, sizeof s));
	return OK;
}

API int amdsmi_get_gpu_asic_info(void *h, void *out)
{
	field(LINE(h), 2, out, 64);
	return OK;
}

API int amdsmi_get_gpu_memory_total(void *h, int type, uint64_t *ret)
{
	return type ? 1 : memory(LINE(h), 4, ret);
}

API int amdsmi_get_gpu_memory_usage(void *h, int type, uint64_t *ret)
{
	return type ? 1 : memory(LINE(h), 5, ret);
}

API int amdsmi_get_gpu_activity(void *h, uint32_t *out)
{
	*out = (uint32_t)number(LINE(h), 6, UINT32_MAX);
	return OK;
}

API int amdsmi_get_temp_metric(void *h, int sensor, int metric, int64_t *ret)
{
	*ret = (int64_t)number(LINE(h), 7, 0);
	return sensor == 1 && metric == 0 ? OK : NOT_SUPPORTED; /* as cards without a sensor at the edge */
}

API int amdsmi_get_power_info(void *h, uint32_t *out)
{
	out[0] = UINT32_MAX; /* current, average */
	out[1] = (uint32_t)number(LINE(h), 8, UINT32_MAX);
	return OK;
}

API int amdsmi_get_gpu_total_ecc_count(void *h, uint64_t *out)
{
	for (char *p = next_line(text, "ecc"); p; p = next_line(behind(p), "ecc"))
		if (same(p, 1, LINE(h))) {
			out[0] = number(p, 2, 0);
			out[1] = number(p, 3, 0);
			return OK;
		}
	return NOT_SUPPORTED;
}

API int amdsmi_get_gpu_process_list(void *h, uint32_t *n, char *out)
{
	size_t name = next_line(text, "old") ? 32 : 256, size = name == 32 ? 224 : 704;
	unsigned cap = *n;
	*n = 0;
	for (char *p = next_line(text, "process"); p; p = next_line(behind(p), "process")) {
		uint32_t pid = (uint32_t)number(p, 2, 0);
		uint64_t bytes = number(p, 3, 0) << 20;
		if (!same(p, 1, LINE(h)) || *n == cap)
			continue;
		char *at = out + (*n)++ * size;
		strncpy(at, "llama-server", name);
		memcpy(at + name, &pid, sizeof pid);
		memcpy(at + name + 96, &bytes, sizeof bytes);
	}
	return OK;
}

API int amdsmi_topo_get_link_type(void *a, void *b, uint64_t *hops, int *type)
{
	*hops = 1;
	*type = linked(LINE(a), LINE(b)) ? 2 : 1;
	return OK;
}

#else

API int rsmi_init(uint64_t flags)
{
	return flags ? 1 : begin();
}

API int rsmi_shut_down(void)
{
	return OK;
}

API int rsmi_status_string(int status, const char **ret)
{
	return words_of(status, ret);
}

API int rsmi_num_monitor_devices(uint32_t *ret)
{
	int r = look();
	*ret = ndevices;
	return r;
}

API int rsmi_dev_pci_id_get(uint32_t i, uint64_t *ret)
{
	unsigned a[4];
	address(device_line[i], a);
	*ret = (uint64_t)a[0] << 32 | a[1] << 8 | a[2] << 3 | a[3];
	return OK;
}

API int rsmi_dev_name_get(uint32_t i, char *out, size_t cap)
{
	field(device_line[i], 2, out, cap);
	return OK;
}

API int rsmi_dev_unique_id_get(uint32_t i, uint64_t *ret)
{
	char s[32];
	unsigned long long id = 0;
	(void)!sscanf(field(device_line[i], 1, s, sizeof s), "%llx", &id);
	*ret = id;
	return OK;
}

API int rsmi_dev_memory_total_get(uint32_t i, int type, uint64_t *ret)
{
	return type ? 1 : memory(device_line[i], 4, ret);
}

API int rsmi_dev_memory_usage_get(uint32_t i, int type, uint64_t *ret)
{
	return type ? 1 : memory(device_line[i], 5, ret);
}

API int rsmi_dev_busy_percent_get(uint32_t i, uint32_t *ret)
{
	*ret = (uint32_t)number(device_line[i], 6, UINT32_MAX);
	return OK;
}

API int rsmi_dev_temp_metric_get(uint32_t i, uint32_t sensor, int metric, int64_t *ret)
{
	*ret = (int64_t)number(device_line[i], 7, 0) * 1000;
	return sensor == 0 && metric == 0 ? OK : NOT_SUPPORTED;
}

API int rsmi_dev_power_ave_get(uint32_t i, uint32_t sensor, uint64_t *ret)
{
	(void)sensor;
	*ret = number(device_line[i], 8, 0) * 1000000;
	return *ret ? OK : NOT_SUPPORTED;
}

struct process {
	uint32_t pid, pasid;
	uint64_t vram, sdma;
	uint32_t occupancy, more;
};

/* Says who there is, and nothing of their memory, as some releases do. */
API int rsmi_compute_process_info_get(struct process *out, uint32_t *n)
{
	unsigned cap = *n;
	*n = 0;
	for (char *p = next_line(text, "process"); p && *n < cap; p = next_line(behind(p), "process"))
		out[(*n)++] = (struct process){ .pid = (uint32_t)number(p, 2, 0) };
	return OK;
}

API int rsmi_compute_process_info_by_device_get(uint32_t pid, uint32_t i, struct process *out)
{
	for (char *p = next_line(text, "process"); p; p = next_line(behind(p), "process"))
		if (number(p, 2, 0) == pid && same(p, 1, device_line[i])) {
			*out = (struct process){ .pid = pid, .vram = number(p, 3, 0) << 20 };
			return OK;
		}
	return NOT_THERE;
}

API int rsmi_topo_get_link_type(uint32_t a, uint32_t b, uint64_t *hops, int *type)
{
	*hops = 1;
	*type = linked(device_line[a], device_line[b]) ? 2 : 1;
	return OK;
}

#endif
