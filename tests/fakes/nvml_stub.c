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
 *   engine|WORDS|MIB     each process alive whose arguments contain these words holds so much, in equal parts
 *                        on the devices its CUDA_VISIBLE_DEVICES names by UUID; Corral's own are left out
 *   numbers|N            processes of engines are listed under a number that is so much larger: they live in
 *                        another PID namespace
 *   account              a device's used memory is USED_MIB and what processes and engines hold
 *   power|UUID|MILLIWATTS|LIMIT
 *   ecc|UUID|CORRECTED|UNCORRECTED
 *   xid|UUID|CODE|NUMBER   an event, told once by each process for each NUMBER
 *   mig|UUID|NAME|PCI|TOTAL_MIB|USED_MIB|||MAJOR.MINOR|CODE|PARENT_UUID    an instance of that device
 *   path|UUID|UUID|LEVEL   10: one switch, … 50: the whole system (else 50)
 *   nvlink|UUID|PCI|COUNT  that many links to what is there; to a switch: see p2p
 *   p2p|UUID|UUID          the driver says that NVLink reaches it
 *
 * With -DSTUB_OLD it lacks nvmlDeviceGetCount_v2, as a library that is too old.
 */
#include <dirent.h>
#include <signal.h>

#define STUB_FILE "CORRAL_NVML_STUB"
#include "stub_control.h"

enum { OK = 0, NOT_SUPPORTED = 3, LOST = 15, TOO_SMALL = 7, ENGINES_MAX = 256 };

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
struct event {
	void *device;
	unsigned long long type, data;
	unsigned gpu_instance, compute_instance;
};
struct long_process {
	struct process p;
	unsigned long long protected_memory;
};

static char *device_line[DEVICES_MAX]; /* a handle is a pointer into this list, */
static char *mig_line[DEVICES_MAX];    /* or into this one */
static unsigned ndevices, nparts;

/* ---- who holds memory ------------------------------------------------------------------------------- */

static struct engine {
	unsigned pid;
	unsigned long long mib; /* on each of its devices */
	char devices[1024];     /* the value of CUDA_VISIBLE_DEVICES */
} engines[ENGINES_MAX];
static unsigned nengines;

/* A file of /proc/PID with its zeros made spaces; its length. */
static size_t proc_text(const char *pid, const char *name, char *out, size_t cap)
{
	char path[300];
	snprintf(path, sizeof path, "/proc/%s/%s", pid, name);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd >= 0 ? read(fd, out, cap - 1) : 0;
	if (fd >= 0)
		close(fd);
	n = n > 0 ? n : 0;
	out[n] = '\0';
	for (ssize_t i = 0; i < n; i++)
		if (!out[i])
			out[i] = ' ';
	return (size_t)n;
}

static void take_engine(const char *pid)
{
	static char args[16384], env[65536];
	char words[256], comm[64];
	struct engine *e = &engines[nengines];
	if (nengines == ENGINES_MAX || !proc_text(pid, "cmdline", args, sizeof args) ||
		(proc_text(pid, "comm", comm, sizeof comm) && strncmp(comm, "corral", 6) == 0))
		return;
	for (char *p = next_line(text, "engine"); p; p = next_line(behind(p), "engine")) {
		if (!*field(p, 1, words, sizeof words) || !strstr(args, words))
			continue;
		proc_text(pid, "environ", env, sizeof env);
		const char *at = strstr(env, "CUDA_VISIBLE_DEVICES=");
		unsigned n = 1;
		if (!at)
			return;
		snprintf(e->devices, sizeof e->devices, "%.*s", (int)strcspn(at + 21, " "), at + 21);
		for (const char *c = e->devices; *c; c++)
			n += *c == ',';
		(void)!sscanf(pid, "%u", &e->pid);
		e->mib = number(p, 2, 0) / n;
		nengines++;
		return;
	}
}

static void look_for_engines(void)
{
	nengines = 0;
	DIR *d = next_line(text, "engine") ? opendir("/proc") : NULL;
	struct dirent *e;
	while (d && (e = readdir(d)))
		if (e->d_name[0] >= '1' && e->d_name[0] <= '9')
			take_engine(e->d_name);
	if (d)
		closedir(d);
}

/* MiB that processes and engines hold of it. */
static unsigned long long held_on(void *h)
{
	char uuid[96], owner[96];
	unsigned long long sum = 0;
	field(*(char **)h, 1, uuid, sizeof uuid);
	for (char *p = next_line(text, "process"); p; p = next_line(behind(p), "process"))
		sum += strcmp(field(p, 1, owner, sizeof owner), uuid) == 0 ? number(p, 3, 0) : 0;
	for (unsigned i = 0; i < nengines; i++)
		sum += strstr(engines[i].devices, uuid) ? engines[i].mib : 0;
	return sum;
}

/* ---- the library ------------------------------------------------------------------------------------ */

API int nvmlInit_v2(void)
{
	reread();
	look_for_engines();
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
	nparts = 0;
	for (char *p = next_line(text, "mig"); p && nparts < DEVICES_MAX; p = next_line(behind(p), "mig"))
		mig_line[nparts++] = p;
	look_for_engines();
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
	used += next_line(text, "account") ? held_on(h) : 0;
	used = used < total ? used : total;
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

/* The line WORD|UUID of the handle|…; NULL: none. */
static char *line_of(void *h, const char *word)
{
	char uuid[96], owner[96];
	field(*(char **)h, 1, uuid, sizeof uuid);
	for (char *p = next_line(text, word); p; p = next_line(behind(p), word))
		if (strcmp(field(p, 1, owner, sizeof owner), uuid) == 0)
			return p;
	return NULL;
}

API int nvmlDeviceGetPowerUsage(void *h, unsigned *ret)
{
	char *p = line_of(h, "power");
	*ret = p ? (unsigned)number(p, 2, 0) : 0;
	return p ? state_of(h) : NOT_SUPPORTED;
}

API int nvmlDeviceGetEnforcedPowerLimit(void *h, unsigned *ret)
{
	char *p = line_of(h, "power");
	*ret = p ? (unsigned)number(p, 3, 0) : 0;
	return p ? state_of(h) : NOT_SUPPORTED;
}

API int nvmlDeviceGetTotalEccErrors(void *h, int type, int counter, unsigned long long *ret)
{
	char *p = line_of(h, "ecc");
	*ret = p && counter == 0 ? number(p, type ? 3 : 2, 0) : 0;
	return p ? state_of(h) : NOT_SUPPORTED;
}

/* ---- instances ------------------------------------------------------------------------------------- */

static int is_part_of(char *line, void *h)
{
	char uuid[96], parent[96];
	field(*(char **)h, 1, uuid, sizeof uuid);
	return strcmp(field(line, 10, parent, sizeof parent), uuid) == 0;
}

API int nvmlDeviceGetMaxMigDeviceCount(void *h, unsigned *ret)
{
	(void)h;
	*ret = 7;
	return OK;
}

API int nvmlDeviceGetMigMode(void *h, unsigned *now, unsigned *pending)
{
	*now = *pending = 0;
	for (unsigned i = 0; i < nparts; i++)
		*now |= (unsigned)is_part_of(mig_line[i], h);
	*pending = *now;
	return OK;
}

API int nvmlDeviceGetMigDeviceHandleByIndex(void *h, unsigned index, void **ret)
{
	for (unsigned i = 0; i < nparts; i++)
		if (is_part_of(mig_line[i], h) && index-- == 0) {
			*ret = &mig_line[i];
			return OK;
		}
	return 6;
}

/* ---- what lies between ----------------------------------------------------------------------------- */

static char *line_between(const char *word, void *a, void *b)
{
	char x[96], y[96], s[96];
	field(*(char **)a, 1, x, sizeof x);
	field(*(char **)b, 1, y, sizeof y);
	for (char *p = next_line(text, word); p; p = next_line(behind(p), word)) {
		int ab = !strcmp(field(p, 1, s, sizeof s), x) && !strcmp(field(p, 2, s, sizeof s), y);
		int ba = !strcmp(field(p, 1, s, sizeof s), y) && !strcmp(field(p, 2, s, sizeof s), x);
		if (ab || ba)
			return p;
	}
	return NULL;
}

API int nvmlDeviceGetTopologyCommonAncestor(void *a, void *b, int *ret)
{
	char *p = line_between("path", a, b);
	*ret = p ? (int)number(p, 3, 50) : 50;
	return OK;
}

API int nvmlDeviceGetP2PStatus(void *a, void *b, int index, int *ret)
{
	*ret = index == 2 && line_between("p2p", a, b) ? 0 : 5;
	return OK;
}

/* The line of its link number <link>. */
static char *link_line(void *h, unsigned link)
{
	char uuid[96], owner[96];
	field(*(char **)h, 1, uuid, sizeof uuid);
	for (char *p = next_line(text, "nvlink"); p; p = next_line(behind(p), "nvlink")) {
		unsigned n = (unsigned)number(p, 3, 0);
		if (strcmp(field(p, 1, owner, sizeof owner), uuid) != 0)
			continue;
		if (link < n)
			return p;
		link -= n;
	}
	return NULL;
}

API int nvmlDeviceGetNvLinkState(void *h, unsigned link, int *ret)
{
	*ret = link_line(h, link) ? 1 : 0;
	return OK;
}

API int nvmlDeviceGetNvLinkRemotePciInfo_v2(void *h, unsigned link, struct pci_info *ret)
{
	char *p = link_line(h, link);
	memset(ret, 0, sizeof *ret);
	if (p)
		field(p, 2, ret->bus_id, sizeof ret->bus_id);
	return p ? OK : NOT_SUPPORTED;
}

/* ---- events ---------------------------------------------------------------------------------------- */

static struct event_set {
	int registered;
} the_set;

API int nvmlEventSetCreate(void **ret)
{
	*ret = &the_set;
	return OK;
}

API int nvmlEventSetFree(void *set)
{
	(void)set;
	return OK;
}

API int nvmlDeviceGetSupportedEventTypes(void *h, unsigned long long *ret)
{
	(void)h;
	*ret = 0x8 | 0x2 | 0x1;
	return OK;
}

API int nvmlDeviceRegisterEvents(void *h, unsigned long long types, void *set)
{
	(void)h;
	((struct event_set *)set)->registered |= (types & 0x8) != 0;
	return OK;
}

API int nvmlEventSetWait_v2(void *set, struct event *ret, unsigned ms)
{
	static char told[64][128];
	static unsigned ntold;
	char uuid[96], key[128], n[16];
	(void)ms;
	for (char *p = next_line(text, "xid"); p; p = next_line(behind(p), "xid")) {
		unsigned i = 0, k = 0;
		field(p, 1, uuid, sizeof uuid);
		snprintf(key, sizeof key, "%s/%s", uuid, field(p, 3, n, sizeof n));
		while (i < ntold && strcmp(told[i], key) != 0)
			i++;
		if (i < ntold || ntold == 64 || !((struct event_set *)set)->registered)
			continue;
		memcpy(told[ntold++], key, sizeof key);
		for (; k < ndevices; k++)
			if (strcmp(field(device_line[k], 1, key, sizeof key), uuid) == 0)
				break;
		*ret = (struct event){ k < ndevices ? &device_line[k] : NULL, 0x8, number(p, 2, 0), 0, 0 };
		return OK;
	}
	return 10;
}

API int nvmlDeviceGetComputeRunningProcesses_v2(void *h, unsigned *n, struct process *out)
{
	char uuid[96], owner[96];
	unsigned cap = *n;
	char *numbers = next_line(text, "numbers");
	unsigned shift = numbers ? (unsigned)number(numbers, 1, 0) : 0;
	*n = 0;
	field(*(char **)h, 1, uuid, sizeof uuid);
	for (char *p = next_line(text, "process"); p; p = next_line(behind(p), "process")) {
		if (strcmp(field(p, 1, owner, sizeof owner), uuid) != 0)
			continue;
		if (*n == cap)
			return TOO_SMALL;
		out[(*n)++] = (struct process){ (unsigned)number(p, 2, 0), number(p, 3, 0) << 20, 0, 0 };
	}
	for (unsigned i = 0; i < nengines && *n < cap; i++)
		if (strstr(engines[i].devices, uuid))
			out[(*n)++] = (struct process){ engines[i].pid + shift, engines[i].mib << 20, 0, 0 };
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
