/* SPDX-License-Identifier: Apache-2.0
 *
 * A libnvidia-ml.so.1 for tests: tells what a control file says, so that the real loader and the real probe
 * child are exercised. CORRAL_NVML_STUB names the file; it is read again with every question, and a file
 * that is not there is a driver that shows nothing. Lines, fields separated by |:
 *
 *   driver|VERSION
 *   init|CODE            what nvmlInit_v2 answers (9: driver not loaded, 18: versions do not fit)
 *   count|CODE           what nvmlDeviceGetCount_v2 answers
 *   hang|init, hang|count, hang|memory    that call never returns
 *   crash|count          that call ends the process by a signal
 *   crash|second         that call does so when a process makes it for the second time
 *   chatter              writes a line of its own to the standard output at each count
 *   device|UUID|NAME|PCI|TOTAL_MIB|USED_MIB|BUSY_PERCENT|CELSIUS|MAJOR.MINOR|CODE
 *                        CODE: what its calls answer (0; 15: lost); empty fields are not supported ones
 *   process|UUID|PID|MIB
 *
 * With -DSTUB_OLD it lacks nvmlDeviceGetCount_v2, as a library that is too old.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define API __attribute__((visibility("default")))
enum { FILE_MAX = 65536, DEVICES_MAX = 64, FIELDS = 12, OK = 0, NOT_SUPPORTED = 3, LOST = 15, TOO_SMALL = 7 };

struct memory {
	unsigned long long total, free, used;
};
struct utilization {
	unsigned gpu, memory;
};
struct pci_info {
	char legacy[16];
	unsigned domain, bus, device, id, subsystem;
	char bus_id[32];
};
struct process {
	unsigned pid;
	unsigned long long used;
	unsigned gpu_instance, compute_instance;
};
struct long_process {
	struct process p;
	unsigned long long protected_memory;
};

static char text[FILE_MAX];
static char *device_line[DEVICES_MAX]; /* a handle is a pointer into this list */
static unsigned ndevices;

static void reread(void)
{
	const char *path = getenv("CORRAL_NVML_STUB");
	int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	ssize_t n = fd >= 0 ? read(fd, text, sizeof text - 1) : 0;
	if (fd >= 0)
		close(fd);
	text[n > 0 ? n : 0] = '\0';
}

/* Field k of the line at p; "" when it has none. */
static const char *field(const char *p, int k, char *out, size_t cap)
{
	while (k && *p && *p != '\n')
		if (*p++ == '|')
			k--;
	size_t n = k ? 0 : strcspn(p, "|\n");
	n = n < cap - 1 ? n : cap - 1;
	memcpy(out, p, n);
	out[n] = '\0';
	return out;
}

static unsigned long long number(const char *p, int k, unsigned long long none)
{
	char s[32];
	unsigned long long v;
	return sscanf(field(p, k, s, sizeof s), "%llu", &v) == 1 ? v : none;
}

/* The next line with that first field, at or behind p; NULL: none. */
static char *next_line(char *p, const char *word)
{
	size_t n = strlen(word);
	for (; p && *p; p = strchr(p, '\n') ? strchr(p, '\n') + 1 : NULL)
		if (strncmp(p, word, n) == 0 && (p[n] == '|' || p[n] == '\n' || !p[n]))
			return p;
	return NULL;
}

static char *behind(char *line)
{
	char *end = strchr(line, '\n');
	return end ? end + 1 : NULL;
}

static int says(const char *word, const char *value)
{
	char s[32];
	for (char *p = next_line(text, word); p; p = next_line(behind(p), word))
		if (strcmp(field(p, 1, s, sizeof s), value) == 0)
			return 1;
	return 0;
}

static void maybe_hang(const char *where)
{
	while (says("hang", where))
		pause();
}

static int code_of(const char *word)
{
	char *p = next_line(text, word);
	return p ? (int)number(p, 1, 0) : 0;
}

API int nvmlInit_v2(void)
{
	reread();
	maybe_hang("init");
	return code_of("init");
}

API int nvmlShutdown(void)
{
	return OK;
}

API const char *nvmlErrorString(int code)
{
	switch (code) {
	case OK: return "Success";
	case NOT_SUPPORTED: return "Not Supported";
	case 9: return "Driver Not Loaded";
	case LOST: return "GPU is lost";
	case 18: return "Driver/library version mismatch";
	default: return "Unknown Error";
	}
}

API int nvmlSystemGetDriverVersion(char *out, unsigned cap)
{
	char *p = next_line(text, "driver");
	if (p)
		field(p, 1, out, cap);
	else
		snprintf(out, cap, "550.00");
	return OK;
}

#ifndef STUB_OLD
API int nvmlDeviceGetCount_v2(unsigned *ret)
{
	reread();
	maybe_hang("count");
	static unsigned calls;
	if (says("crash", "count") || (++calls == 2 && says("crash", "second")))
		raise(SIGKILL);
	if (next_line(text, "chatter"))
		(void)!write(STDOUT_FILENO, "a library that talks\n", 21);
	ndevices = 0;
	for (char *p = next_line(text, "device"); p && ndevices < DEVICES_MAX;
		p = next_line(behind(p), "device"))
		device_line[ndevices++] = p;
	*ret = ndevices;
	return code_of("count");
}
#endif

static int state_of(void *h)
{
	return (int)number(*(char **)h, 9, 0);
}

API int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **ret)
{
	if (i >= ndevices)
		return 2;
	*ret = &device_line[i];
	return state_of(*ret) == 16 ? LOST : OK; /* 16: even its handle is gone */
}

API int nvmlDeviceGetUUID(void *h, char *out, unsigned cap)
{
	field(*(char **)h, 1, out, cap);
	return OK; /* the library remembers it */
}

API int nvmlDeviceGetName(void *h, char *out, unsigned cap)
{
	field(*(char **)h, 2, out, cap);
	return state_of(h);
}

API int nvmlDeviceGetPciInfo_v3(void *h, struct pci_info *ret)
{
	memset(ret, 0, sizeof *ret);
	field(*(char **)h, 3, ret->bus_id, sizeof ret->bus_id);
	return OK;
}

API int nvmlDeviceGetMemoryInfo(void *h, struct memory *ret)
{
	maybe_hang("memory");
	unsigned long long total = number(*(char **)h, 4, 0), used = number(*(char **)h, 5, 0);
	if (!total)
		return NOT_SUPPORTED;
	*ret = (struct memory){ total << 20, (total - used) << 20, used << 20 };
	return state_of(h);
}

API int nvmlDeviceGetUtilizationRates(void *h, struct utilization *ret)
{
	ret->gpu = (unsigned)number(*(char **)h, 6, 101);
	return ret->gpu > 100 ? NOT_SUPPORTED : state_of(h);
}

API int nvmlDeviceGetTemperature(void *h, int sensor, unsigned *ret)
{
	(void)sensor;
	*ret = (unsigned)number(*(char **)h, 7, 9999);
	return *ret == 9999 ? NOT_SUPPORTED : state_of(h);
}

API int nvmlDeviceGetCudaComputeCapability(void *h, int *major, int *minor)
{
	char s[32];
	return sscanf(field(*(char **)h, 8, s, sizeof s), "%d.%d", major, minor) == 2 ? OK : NOT_SUPPORTED;
}

API int nvmlDeviceGetComputeRunningProcesses_v2(void *h, unsigned *n, struct process *out)
{
	char uuid[96], owner[96];
	unsigned cap = *n;
	*n = 0;
	field(*(char **)h, 1, uuid, sizeof uuid);
	for (char *p = next_line(text, "process"); p; p = next_line(behind(p), "process")) {
		if (strcmp(field(p, 1, owner, sizeof owner), uuid) != 0)
			continue;
		if (*n == cap)
			return TOO_SMALL;
		out[(*n)++] = (struct process){ (unsigned)number(p, 2, 0), number(p, 3, 0) << 20, 0, 0 };
	}
	return OK;
}

/* As the drivers 535.43 to 535.86 did: with one number more for each process than before and after. */
API int nvmlDeviceGetComputeRunningProcesses_v3(void *h, unsigned *n, struct long_process *out)
{
	static struct process found[64];
	unsigned cap = *n;
	*n = cap < 64 ? cap : 64;
	int r = nvmlDeviceGetComputeRunningProcesses_v2(h, n, found);
	for (unsigned i = 0; i < *n; i++)
		out[i] = (struct long_process){ found[i], 0 };
	return r;
}
