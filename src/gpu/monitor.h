/* SPDX-License-Identifier: Apache-2.0
 *
 * The node's view of its devices, kept up to date: the bus and the CPU read here, NVIDIA's and AMD's drivers
 * each asked through a child of its own that is killed and started again when it does not answer, so that one
 * maker's trouble is not the other's. Three rounds without an answer make its devices GPU_LOST; they come
 * back with the next answer. A maker of whom the bus shows no GPU has no child; where NVIDIA's library cannot
 * be loaded none is kept, and it is tried again with every look at the bus. Where AMD's cannot, its child
 * reads sysfs.
 *
 * One loop. Costs: one sample every busy_ms while something runs, every idle_ms else.
 */
#ifndef GPU_MONITOR_H
#define GPU_MONITOR_H

#include "gpu/gpu.h"
#include "loop/loop.h"

enum {                           /* what on_change tells */
	GPU_CHANGED_SET = 1,     /* devices came, went, or changed their state: also when first known */
	GPU_CHANGED_FIGURES = 2, /* memory, load or temperature moved noticeably */
};

struct gpu_monitor_opts {
	const char *program; /* NULL: this executable; started with `gpu-probe --ask` */
	const char *sysfs;   /* NULL: "/sys" */
	bool always_ask;     /* start the child though the bus shows no NVIDIA GPU */
	int64_t busy_ms;     /* 0 = 1 s */
	int64_t idle_ms;     /* 0 = 10 s */
	int64_t bus_ms;      /* the bus is looked at again after: 0 = 60 s */
	int64_t silence_ms;  /* an answer that takes longer is none: 0 = 2 s */
	/* The same for the first answer of all (and three times that for a driver given up already): loading
	 * it takes seconds where no other program keeps it awake. 0 = 10 s */
	int64_t first_ms;
	void (*on_change)(void *arg, unsigned what); /* from the loop, never inside a call */
	void *arg;
};
/* For always_ask: a GPU that no bus shows may be there all the same, in a guest that is given only the
 * driver's device files, or by a library of ours. sysfs as above. */
bool gpu_driver_without_bus(const char *sysfs);
struct gpu_monitor;
struct gpu_monitor *gpu_monitor_new(struct loop *l, const struct gpu_monitor_opts *o) MUST_CHECK;
/* For a command: one that has been waited for, on a loop that runs nothing else, until it knows or
 * GPU_MONITOR_HEARD_MS have passed. It tells nothing more: read it, and free it before the loop runs again.
 */
enum { GPU_MONITOR_HEARD_MS = 45000 };
struct gpu_monitor *gpu_monitor_heard(struct loop *l, const char *sysfs) MUST_CHECK;
void gpu_monitor_free(struct gpu_monitor *m);            /* ends the child; NULL allowed */
void gpu_monitor_look(struct gpu_monitor *m);            /* sample now: something has ended */
void gpu_monitor_busy(struct gpu_monitor *m, bool busy); /* something runs: sample at busy_ms */
/* Whether the driver has answered, has failed, or need not be asked: before that nothing is decided. */
bool gpu_monitor_known(const struct gpu_monitor *m);
/* GPUs in the order of their indices, then the CPU. Valid until the loop goes on. */
const struct gpu_list *gpu_monitor_list(const struct gpu_monitor *m);
/* What was looked at, for a person who misses a GPU: a sentence. */
void gpu_monitor_looked(const struct gpu_monitor *m, struct buf *out);
/* What is wrong with a driver that was asked, in its words or ours; NULL: nothing. */
const char *gpu_monitor_wrong(const struct gpu_monitor *m);
int gpu_monitor_child(const struct gpu_monitor *m); /* the pid of the first that runs; 0: none */

#endif
