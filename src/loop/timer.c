/* SPDX-License-Identifier: Apache-2.0
 *
 * Timers: a binary heap by due time behind one libuv timer, so that a timer's memory is its owner's
 * alone and stopping one is synchronous.
 */
#include <stdlib.h>

#include "base/mem.h"
#include "loop/loop_int.h"

static void place(struct loop *l, size_t i, struct loop_timer *t)
{
	l->heap[i] = t;
	t->index = i + 1;
}

static void sift_up(struct loop *l, size_t i)
{
	struct loop_timer *t = l->heap[i];
	while (i > 0 && mono_before(t->due, l->heap[(i - 1) / 2]->due)) {
		place(l, i, l->heap[(i - 1) / 2]);
		i = (i - 1) / 2;
	}
	place(l, i, t);
}

static void sift_down(struct loop *l, size_t i)
{
	struct loop_timer *t = l->heap[i];
	for (;;) {
		size_t c = 2 * i + 1;
		if (c >= l->heap_len)
			break;
		if (c + 1 < l->heap_len && mono_before(l->heap[c + 1]->due, l->heap[c]->due))
			c++;
		if (!mono_before(l->heap[c]->due, t->due))
			break;
		place(l, i, l->heap[c]);
		i = c;
	}
	place(l, i, t);
}

static void heap_remove(struct loop *l, size_t i)
{
	l->heap[i]->index = 0;
	struct loop_timer *last = l->heap[--l->heap_len];
	if (i == l->heap_len)
		return;
	place(l, i, last);
	sift_down(l, i);
	sift_up(l, last->index - 1);
}

static void on_tick(uv_timer_t *tick);

/* min_ms 1 from within on_tick: libuv runs what is due in one go, so a timer of 0 ms would come round
 * again before this round ends, and for ever. */
static void rearm(struct loop *l, uint64_t min_ms)
{
	if (!l->heap_len) {
		uv_timer_stop(&l->tick);
		return;
	}
	int64_t ns = l->heap[0]->due.ns - mono_now().ns;
	uint64_t ms = ns <= 0 ? 0 : (uint64_t)(ns + 999999) / 1000000;
	uv_update_time(&l->uv);
	uv_timer_start(&l->tick, on_tick, MAX(ms, min_ms), 0);
}

static void on_tick(uv_timer_t *tick)
{
	struct loop *l = tick->data;
	loop_note_wake(l);
	/* Only what was due when the round began: a timer that starts itself again with 0 ms must not
	 * keep the loop here. */
	mono_t limit = l->now;
	l->ticking = true;
	size_t n = l->heap_len;
	while (n-- && l->heap_len && !mono_before(limit, l->heap[0]->due)) {
		struct loop_timer *t = l->heap[0];
		heap_remove(l, 0);
		t->fn(t->arg);
	}
	l->ticking = false;
	rearm(l, 1);
}

void loop_timer_start(struct loop *l, struct loop_timer *t, int64_t ms, loop_fn *fn, void *arg)
{
	loop_timer_stop(t);
	t->loop = l;
	t->fn = fn;
	t->arg = arg;
	t->due = mono_add_ms(mono_now(), MAX(ms, (int64_t)0));
	if (l->heap_len == l->heap_cap) {
		l->heap_cap = MAX(l->heap_cap * 2, (size_t)16);
		l->heap = mem_realloc(l->heap, l->heap_cap * sizeof *l->heap);
	}
	place(l, l->heap_len++, t);
	sift_up(l, t->index - 1);
	if (t->index == 1)
		rearm(l, l->ticking);
}

void loop_timer_stop(struct loop_timer *t)
{
	if (t->index)
		heap_remove(t->loop, t->index - 1);
}
