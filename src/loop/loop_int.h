/* SPDX-License-Identifier: Apache-2.0
 *
 * The loop's inside, for the files of this folder alone.
 */
#ifndef LOOP_LOOP_INT_H
#define LOOP_LOOP_INT_H

#include <pthread.h>
#include <stdatomic.h>
#include <uv.h>

#include "loop/loop.h"

struct loop {
	uv_loop_t uv;
	uv_async_t async;
	uv_check_t check;
	uv_prepare_t prepare;
	uv_timer_t tick; /* fires when the first timer of the heap is due */
	char *name;
	mono_t now;
	bool round_open;      /* now was read in this round */
	struct list deferred; /* work for the end of the round */
	pthread_mutex_t post_lock;
	struct list posted; /* work from other threads; under post_lock */
	struct loop_timer **heap;
	size_t heap_len, heap_cap;
	bool ticking;    /* timers are being called */
	size_t offloads; /* work on pool threads that is not done */
	atomic_bool stopping;
	atomic_uint_fast64_t rounds, busy_ns, max_busy_ns;
};

/* Every callback from libuv calls this first: opens the round and reads the clock once. */
void loop_note_wake(struct loop *l);
/* Lets go of children that still run. */
void loop_close_procs(struct loop *l);

#endif
