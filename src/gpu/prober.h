/* SPDX-License-Identifier: Apache-2.0
 *
 * One child that has one maker's library in it (`corral gpu-probe --ask --vendor …`): started, asked, killed
 * when it is silent, started again. Inside src/gpu; one loop, the monitor's.
 */
#ifndef GPU_PROBER_H
#define GPU_PROBER_H

#include "gpu/gpu_int.h"
#include "loop/loop.h"

struct prober_opts {
	struct loop *loop;
	const char *vendor;  /* "nvidia", "amd" */
	const char *maker;   /* "NVIDIA", "AMD": for sentences */
	const char *program; /* owned by the monitor, as sysfs is */
	const char *sysfs;
	int64_t silence_ms, first_ms;
	void (*on_news)(void *arg); /* an answer came, or none will: look at it again */
	void *arg;
};
struct prober;
struct prober *prober_new(const struct prober_opts *o) MUST_CHECK;
void prober_free(struct prober *p); /* ends the child; NULL allowed */
/* Starts the child unless one is there or due. */
void prober_start(struct prober *p);
/* There is nothing to ask it about any more. */
void prober_stop(struct prober *p);
/* Asks for a sample; false: there is no child to ask. */
bool prober_ask(struct prober *p);
/* It answered, could not be asked at all, or was given up. */
bool prober_heard(const struct prober *p);
bool prober_lost(const struct prober *p);                       /* silent for three rounds */
const struct gpu_sample *prober_sample(const struct prober *p); /* NULL: none that holds */
const char *prober_words(const struct prober *p);               /* what is wrong; empty: nothing */
int prober_pid(const struct prober *p);                         /* 0: none runs */

#endif
