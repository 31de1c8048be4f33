/* SPDX-License-Identifier: Apache-2.0
 *
 * The devices of one machine: GPUs and the CPU. What the PCI bus shows comes from sysfs; what a vendor's
 * library knows comes from a child (`corral gpu-probe`), because such a library may hang or crash: no
 * vendor library is ever loaded into a daemon. What the child prints is read as hostile.
 *
 * Plain data, fixed size, copied by assignment. Bounds: GPU_DEVICES_MAX devices, GPU_PROCESSES_MAX
 * processes and GPU_LINKS_MAX neighbours a device, GPU_LINE_MAX bytes a sample.
 *
 * The index of a GPU is its place among all GPUs, NVIDIA's first, then AMD's, then Intel's, each in PCI
 * order: on a machine with NVIDIA GPUs it is the index the driver's own tools print. MIG instances come
 * behind all whole GPUs, so that splitting one renumbers none.
 */
#ifndef GPU_GPU_H
#define GPU_GPU_H

#include "base/buf.h"
#include "base/err.h"
#include "base/mask.h"
#include "base/strv.h"

enum { GPU_DEVICES_MAX = 64, GPU_PROCESSES_MAX = 64, GPU_LINKS_MAX = 32, GPU_LINE_MAX = 512 * 1024 };

enum gpu_kind { GPU_CUDA, GPU_AMD, GPU_INTEL, GPU_CPU, GPU_KIND_COUNT };
const char *gpu_kind_name(enum gpu_kind k); /* "cuda", … */

enum gpu_state {
	GPU_OK,
	GPU_LOST,     /* it was there; its driver does not answer for it any more */
	GPU_UNUSABLE, /* on the PCI bus, and its driver never showed it */
};
const char *gpu_state_name(enum gpu_state s); /* "ok", … */

enum { GPU_TEMPERATURE_UNKNOWN = -1000 };

struct gpu_process {
	int pid;
	uint64_t bytes;
};

/* What lies between two GPUs on their way over PCI Express, the nearest first. */
enum gpu_path {
	GPU_PATH_UNKNOWN,
	GPU_PATH_BOARD,    /* the same board */
	GPU_PATH_SWITCH,   /* one PCI Express switch */
	GPU_PATH_SWITCHES, /* several, and no host bridge */
	GPU_PATH_BRIDGE,   /* a host bridge */
	GPU_PATH_NODE,     /* the bridges of one NUMA node */
	GPU_PATH_SYSTEM,   /* the link between NUMA nodes */
	GPU_PATH_COUNT
};
const char *gpu_path_name(enum gpu_path p); /* "unknown", "board", … */

struct gpu_link { /* to another GPU of the same maker */
	char pci[16];
	enum gpu_path path;
	unsigned fabric; /* direct links: NVLink or XGMI; through an NVSwitch all of them; 0: none */
};

struct gpu_device {
	enum gpu_kind kind;
	enum gpu_state state;
	unsigned index;        /* among all GPUs; the CPU has 0 */
	unsigned vendor_index; /* among those of its kind */
	char name[96];
	char uuid[MASK_UUID_MAX + 16]; /* "GPU-…", "cpu"; empty: not known */
	char pci[16];                  /* "0000:01:00.0"; empty: not known */
	char reason[256];              /* why it is not GPU_OK: a sentence, with the driver's own words */
	char compute_capability[16];   /* "8.9"; empty: not known */
	char driver[64];               /* its version */
	uint64_t memory_total, memory_free, memory_used; /* bytes; total 0: not known */
	double utilization;                              /* 0..1; negative: not known */
	int temperature_c;                               /* GPU_TEMPERATURE_UNKNOWN: not known */
	int64_t power_mw, power_limit_mw;                /* milliwatts; negative: not known */
	int64_t ecc_corrected, ecc_uncorrected; /* since the driver was loaded; negative: not known */
	char last_error[160]; /* the last event of its driver ("Xid 79: …"); empty: none was seen */
	int64_t last_error_at_ms;
	bool split;      /* it is divided into MIG instances, and no engine can have it whole */
	unsigned part;   /* a MIG instance: its number among its GPU's, from 1; 0: a whole GPU */
	char parent[16]; /* of a part: its GPU's PCI address */
	bool integrated; /* shares the host's memory: listed, but no pool is given it unasked */
	bool given_away; /* handed to a virtual machine: listed, and no fault */
	size_t nprocesses;
	struct gpu_process processes[GPU_PROCESSES_MAX];
	size_t nlinks;
	struct gpu_link links[GPU_LINKS_MAX];
};
struct gpu_list {
	struct gpu_device items[GPU_DEVICES_MAX];
	size_t len;
};

/* ---- reading ------------------------------------------------------------------------------------ */

/* Appends the GPUs the bus shows under <sysfs> ("/sys"), in PCI order, AMD's and Intel's with their memory.
 * NVIDIA's have state GPU_UNUSABLE and a reason: the driver has not been asked. *ret_seen: how many PCI
 * devices there are. */
void gpu_bus_scan(const char *sysfs, struct gpu_list *ret, unsigned *ret_seen);
/* Reads an AMD or Intel GPU's memory and load again. */
void gpu_bus_refresh(const char *sysfs, struct gpu_device *d);
/* The CPU as a device: its name, host memory, load. */
void gpu_cpu_read(struct gpu_device *ret);

/* What the driver said, once. */
struct gpu_sample {
	bool has_error;  /* it could not be asked at all */
	char error[256]; /* its own words */
	char note[256];  /* its words about a GPU of which it tells nothing else; empty: none */
	char driver[64];
	struct gpu_list list; /* of one maker */
};
/* One JSON object, no newline. 0 or -ENOBUFS. */
int gpu_sample_encode(const struct gpu_sample *s, struct buf *b);
int gpu_sample_decode(struct view line, struct gpu_sample *ret, struct err *reterr) MUST_CHECK;

/* `corral gpu-probe`: --interval MS prints a sample every MS, --ask one for each line read and ends with
 * its input; without either one sample. --vendor nvidia (default) loads the library named by CORRAL_NVML, or
 * libnvidia-ml.so.1; --vendor amd that of CORRAL_AMD_SMI, libamd_smi.so, that of CORRAL_ROCM_SMI,
 * librocm_smi64.so, or none and reads --sysfs DIR. */
int gpu_probe_main(int argc, char **argv);

/* ---- choosing ----------------------------------------------------------------------------------- */

enum gpu_policy { GPU_POLICY_AUTO, GPU_POLICY_REQUIRED, GPU_POLICY_OPTIONAL, GPU_POLICY_NONE };

struct gpu_choice {
	bool cpu;
	bool named; /* a list named them: the engine is kept on exactly these, whoever wrote it */
	bool asked; /* the configuration asked for exactly this: the engine is told, whatever it would take */
	size_t len;
	struct gpu_device gpus[GPU_DEVICES_MAX]; /* of one kind, as the mask names them */
	char note[256]; /* what a person should know: it may differ from what was hoped for; empty: nothing */
};
/* What an engine with this mask may use. Pure. looked: what was searched, for the message of `required`.
 *   -EINVAL  the mask names what is not there, or contradicts the policy: a person must mend it
 *   -ENODEV  no device can be used now: lost, hidden by its driver, none: mends itself when it comes back */
int gpu_choose(const struct mask *m, enum gpu_policy policy, const struct gpu_list *list, const char *looked,
	struct gpu_choice *ret, struct err *reterr) MUST_CHECK;
/* Whether the list names devices that are there, each once; key: where it was written. */
int gpu_check_list(
	const struct mask *m, const char *key, const struct gpu_list *list, struct err *reterr) MUST_CHECK;
/* "cpu", or the indices "0,1": what replicas report as their device_mask. */
void gpu_choice_mask(const struct gpu_choice *c, struct buf *out);
/* What {devices} in an engine's command becomes: "cpu", UUIDs, or indices where there are none. */
void gpu_choice_words(const struct gpu_choice *c, struct buf *out);
/* NAME=value pairs that keep an engine on it. */
void gpu_choice_env(const struct gpu_choice *c, struct strv *out);
/* "0: NVIDIA RTX 4090 (GPU-…), 1: …"; "no GPU" */
void gpu_list_describe(const struct gpu_list *list, struct buf *out);

#endif
