/* SPDX-License-Identifier: Apache-2.0
 *
 * What a killed keeper could not clear away. The kernel kills the engine with its keeper, but not what
 * the engine had started: that is found by a mark in its environment, which every process of the tree
 * inherits. A process is killed through its pidfd, and only if it has the mark after the descriptor was
 * opened: a reused pid is never hit. For the time when no keeper of the replica runs, so nothing that is
 * wanted has the mark. One loop.
 */
#ifndef SUPERVISE_SWEEP_H
#define SUPERVISE_SWEEP_H

#include "loop/loop.h"

/* Between two walks over /proc: 5 ms at first, doubled each time up to 200 ms; 60 of them are 11 s. */
enum { SWEEP_FIRST_MS = 5, SWEEP_MOST_MS = 200, SWEEP_TRIES = 60 };

/* "CORRAL_ENGINE_OF=<device>:<inode>:<lock path>", the two of the lock's folder: what the engine's
 * environment gets. The caller frees it. */
char *sweep_mark(const char *lock_path) MUST_CHECK;
/* SIGKILL for every process that has the mark; how many there were. A zombie is none. */
size_t sweep_once(const char *mark);

struct sweep;
/* Does so until none is left or it has tried SWEEP_TRIES times (a process that hangs in a driver), then calls
 * done, never inside this call; the sweep is freed before. */
void sweep_start(struct loop *l, const char *mark, loop_fn *done, void *arg, struct sweep **ret);
void sweep_cancel(struct sweep **s); /* NULL inside is allowed */

#endif
