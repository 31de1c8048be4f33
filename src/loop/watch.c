/* SPDX-License-Identifier: Apache-2.0
 *
 * Descriptors and signals. The libuv handle lives on the heap and is freed in its close callback;
 * the owner only ever sees a pointer that is NULL once stopped.
 */
#include <stdlib.h>

#include "base/mem.h"
#include "loop/loop_int.h"

struct loop_watch {
	uv_poll_t poll;
	struct loop *loop;
	loop_watch_fn *fn; /* NULL once stopped */
	void *arg;
	int events;
};

static int to_uv(int events)
{
	return ((events & LOOP_READ) ? UV_READABLE : 0) | ((events & LOOP_WRITE) ? UV_WRITABLE : 0) |
	       ((events & LOOP_HUP) ? UV_DISCONNECT : 0);
}

static void on_poll(uv_poll_t *p, int status, int events)
{
	struct loop_watch *w = p->data;
	loop_note_wake(w->loop);
	if (!w->fn)
		return;
	int got = status < 0 ? w->events
			     : (((events & UV_READABLE) ? LOOP_READ : 0) |
				       ((events & UV_WRITABLE) ? LOOP_WRITE : 0) |
				       ((events & UV_DISCONNECT) ? LOOP_HUP : 0));
	w->fn(w->arg, got);
}

static void free_handle(uv_handle_t *h)
{
	free(h->data);
}

int loop_watch_start(
	struct loop *l, struct loop_watch **ret, int fd, int events, loop_watch_fn *fn, void *arg)
{
	struct loop_watch *w = NEW(struct loop_watch);
	w->loop = l;
	w->fn = fn;
	w->arg = arg;
	w->events = events;
	int r = uv_poll_init(&l->uv, &w->poll, fd);
	if (r < 0) {
		free(w);
		return r;
	}
	w->poll.data = w;
	r = events ? uv_poll_start(&w->poll, to_uv(events), on_poll) : 0;
	if (r < 0) {
		uv_close((uv_handle_t *)&w->poll, free_handle);
		return r;
	}
	*ret = w;
	return 0;
}

int loop_watch_change(struct loop_watch *w, int events)
{
	if (w->events == events)
		return 0;
	w->events = events;
	return events ? uv_poll_start(&w->poll, to_uv(events), on_poll) : uv_poll_stop(&w->poll);
}

void loop_watch_stop(struct loop_watch **pw)
{
	struct loop_watch *w = *pw;
	*pw = NULL;
	if (!w)
		return;
	w->fn = NULL;
	uv_poll_stop(&w->poll);
	uv_close((uv_handle_t *)&w->poll, free_handle);
}

struct loop_signal {
	uv_signal_t sig;
	struct loop *loop;
	loop_signal_fn *fn;
	void *arg;
};

static void on_signal(uv_signal_t *h, int signo)
{
	struct loop_signal *s = h->data;
	loop_note_wake(s->loop);
	if (s->fn)
		s->fn(s->arg, signo);
}

int loop_signal_start(struct loop *l, struct loop_signal **ret, int signo, loop_signal_fn *fn, void *arg)
{
	struct loop_signal *s = NEW(struct loop_signal);
	s->loop = l;
	s->fn = fn;
	s->arg = arg;
	int r = uv_signal_init(&l->uv, &s->sig);
	if (r < 0) {
		free(s);
		return r;
	}
	s->sig.data = s;
	r = uv_signal_start(&s->sig, on_signal, signo);
	if (r < 0) {
		uv_close((uv_handle_t *)&s->sig, free_handle);
		return r;
	}
	*ret = s;
	return 0;
}

void loop_signal_stop(struct loop_signal **ps)
{
	struct loop_signal *s = *ps;
	*ps = NULL;
	if (!s)
		return;
	s->fn = NULL;
	uv_close((uv_handle_t *)&s->sig, free_handle);
}
