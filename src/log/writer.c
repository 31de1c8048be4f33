/* SPDX-License-Identifier: Apache-2.0
 *
 * The thread that writes lines. Producers append entries to `pending` under the lock; the thread takes all of
 * them at once, puts their lines together and writes whole lines, at most PIPE_BUF bytes a write where that
 * makes them atomic, so that lines of several processes on one pipe do not mix.
 *
 * A line wakes the thread. An entry whose line is made later wakes it only when it is idle; it then waits up
 * to LOG_GATHER_MS for more, so that a busy data loop pays for two hundred wake-ups a second and not for one
 * a request.
 *
 * A sink that is full is waited for with poll (the queue then drops with a count); one that fails
 * loses what was to be written. The rest of a line that a failure cut stays in `tail` and is written
 * first when the sink takes bytes again, then comes the line that says how many were dropped.
 */
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdalign.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/mem.h"
#include "log/log_int.h"

enum { WRITE_BYTES = 256 * 1024 }; /* so many bytes of lines are made before they are written */

struct log_writer {
	struct log_writer_opts o;
	int fd;      /* what is written to: o.fd, or a non-blocking description of our own */
	int own_fd;  /* that description, or -1 */
	int wake_fd; /* readable once stopping */
	enum { SINK_FILE, SINK_SOCKET, SINK_NONBLOCK, SINK_BLOCK } kind;
	size_t write_max;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t cond; /* there is work, or the thread is done */
	/* under lock */
	struct buf pending; /* entries */
	size_t writing;     /* bytes the thread is at */
	bool hurry;         /* do not wait for more */
	uint64_t lost;      /* dropped and not yet told */
	bool failed;        /* the last write failed: try again only with the next line */
	bool stopping, done;
	mono_t stop_by; /* once stopping */
	/* the thread's own */
	struct buf batch, lines, tail;
};

struct entry {           /* its data follows, up to a multiple of its alignment */
	log_line_fn *fn; /* NULL: the data is the line */
	uint32_t n;
	int32_t level;
};

static size_t padded(size_t n)
{
	return (n + alignof(struct entry) - 1) & ~(alignof(struct entry) - 1);
}

static uint64_t count_lines(struct view v)
{
	uint64_t n = 0;
	for (size_t i = 0; i < v.n; i++)
		n += v.p[i] == '\n';
	return n;
}

static int64_t stop_ms_left(struct log_writer *w)
{
	pthread_mutex_lock(&w->lock);
	int64_t ms = w->stopping ? MAX(mono_ms_between(mono_now(), w->stop_by), (int64_t)0) : -1;
	pthread_mutex_unlock(&w->lock);
	return ms;
}

/* Waits until the sink takes bytes: 0, or -ETIMEDOUT when we are stopping and it never did. */
static int wait_writable(struct log_writer *w)
{
	for (;;) {
		int64_t left = stop_ms_left(w);
		struct pollfd p[] = { { .fd = w->fd, .events = POLLOUT },
			{ .fd = w->wake_fd, .events = POLLIN } };
		int r = poll(p, left < 0 ? 2 : 1, (int)left);
		if (r < 0 && errno != EINTR)
			return -errno;
		if (r > 0 && p[0].revents)
			return 0;
		if (r == 0 && left >= 0)
			return -ETIMEDOUT;
	}
}

static ssize_t write_some(struct log_writer *w, struct view v)
{
	if (w->kind == SINK_SOCKET)
		return send(w->fd, v.p, v.n, MSG_DONTWAIT | MSG_NOSIGNAL);
	return write(w->fd, v.p, v.n);
}

/* The bytes of the next write: whole lines when they fit. */
static struct view next_chunk(const struct log_writer *w, struct view v)
{
	struct view c = view_cut(v, w->write_max);
	if (c.n == v.n)
		return c;
	const char *nl = memrchr(c.p, '\n', c.n);
	return nl ? view_cut(c, (size_t)(nl - c.p) + 1) : c;
}

/* Writes v; *ret_n says how much of it was written. 0 or a negative errno. */
static int write_out(struct log_writer *w, struct view v, size_t *ret_n)
{
	*ret_n = 0;
	while (*ret_n < v.n) {
		if (w->kind == SINK_BLOCK) {
			int r = wait_writable(w);
			if (r)
				return r;
		}
		ssize_t k = write_some(w, next_chunk(w, view_from(v, *ret_n)));
		if (k >= 0) {
			*ret_n += (size_t)k;
			continue;
		}
		if (errno == EINTR)
			continue;
		if (errno != EAGAIN && errno != EWOULDBLOCK)
			return -errno;
		int r = wait_writable(w);
		if (r)
			return r;
	}
	return 0;
}

/* Writes lines. What a failure cut in the middle of a line is kept in tail; lines of which nothing
 * was written are counted as lost. */
static int write_lines(struct log_writer *w, struct view v, uint64_t *ret_lost)
{
	*ret_lost = 0;
	size_t n = 0;
	int r = 0;
	if (w->tail.len) {
		r = write_out(w, buf_view(&w->tail), &n);
		buf_consume(&w->tail, n);
		n = 0;
	}
	if (!r)
		r = write_out(w, v, &n);
	if (!r)
		return 0;
	struct view rest = view_from(v, n);
	if (n && v.p[n - 1] != '\n') {
		size_t end = MIN(view_find(rest, '\n') + 1, rest.n);
		(void)buf_add(&w->tail, rest.p, end);
		rest = view_from(rest, end);
	}
	*ret_lost = count_lines(rest);
	return r;
}

static int write_notice(struct log_writer *w, uint64_t n, bool *ret_told)
{
	AUTO(buf_done) struct buf b = BUF(LOG_LINE_MAX);
	w->o.notice(&b, w->o.arg, n);
	uint64_t untold = 0;
	int r = write_lines(w, buf_view(&b), &untold);
	*ret_told = !untold;
	return r;
}

/* Something waits: for more of it, unless it is wanted at once. */
static void gather(struct log_writer *w)
{
	mono_t until = mono_add_ms(mono_now(), LOG_GATHER_MS);
	struct timespec ts = { .tv_sec = until.ns / 1000000000, .tv_nsec = until.ns % 1000000000 };
	int r = 0;
	while (!w->hurry && !w->stopping && r != ETIMEDOUT)
		r = pthread_cond_timedwait(&w->cond, &w->lock, &ts);
	w->hurry = false;
}

/* Takes everything that waits; false when the thread's work is over. */
static bool take_batch(struct log_writer *w, uint64_t *ret_lost)
{
	pthread_mutex_lock(&w->lock);
	w->writing = 0;
	while (!w->pending.len && !(w->lost && !w->failed) && !w->stopping)
		pthread_cond_wait(&w->cond, &w->lock);
	if (w->pending.len)
		gather(w);
	bool more = w->pending.len || (w->lost && !w->failed);
	struct buf empty = w->batch;
	w->batch = w->pending;
	w->pending = empty;
	w->writing = w->batch.len;
	*ret_lost = w->lost;
	w->lost = 0;
	pthread_mutex_unlock(&w->lock);
	return more;
}

/* The next entries of the batch, from *at on, become lines: WRITE_BYTES of them or a little more, since a
 * line may be much longer than what it is made of. Those that are too long are lost: how many. */
static uint64_t make_lines(struct log_writer *w, size_t *at)
{
	uint64_t lost = 0;
	buf_reset(&w->lines);
	while (*at < w->batch.len && w->lines.len < WRITE_BYTES) {
		const struct entry *e = (const struct entry *)(const void *)(w->batch.data + *at);
		const char *data = (const char *)(e + 1);
		bool made = e->fn ? w->o.make(w->o.arg, (enum log_level)e->level, e->fn, data, &w->lines)
				  : buf_add(&w->lines, data, e->n) == 0;
		lost += !made;
		*at += sizeof *e + padded(e->n);
	}
	return lost;
}

/* Writes the lines of the batch; *ret_lost: those that are not. */
static int write_batch(struct log_writer *w, uint64_t *ret_lost)
{
	int r = 0;
	*ret_lost = 0;
	for (size_t at = 0; at < w->batch.len;) {
		uint64_t unwritten = 0;
		*ret_lost += make_lines(w, &at);
		r = write_lines(w, buf_view(&w->lines), &unwritten);
		*ret_lost += unwritten;
	}
	buf_reset(&w->batch);
	return r;
}

static void *writer_main(void *arg)
{
	struct log_writer *w = arg;
	pthread_setname_np(pthread_self(), "log");
	uint64_t lost = 0;
	while (take_batch(w, &lost)) {
		uint64_t unwritten = 0;
		bool told = false;
		int r = write_batch(w, &unwritten);
		if (!r && lost)
			r = write_notice(w, lost, &told);
		log_count_dropped(unwritten);
		pthread_mutex_lock(&w->lock);
		w->lost += unwritten + (told ? 0 : lost);
		w->failed = r != 0;
		pthread_mutex_unlock(&w->lock);
	}
	pthread_mutex_lock(&w->lock);
	w->done = true;
	pthread_cond_broadcast(&w->cond);
	pthread_mutex_unlock(&w->lock);
	return NULL;
}

/* Chooses how to write without ever blocking and without changing flags others share. */
static void choose_sink(struct log_writer *w)
{
	struct stat st;
	w->fd = w->o.fd;
	w->own_fd = -1;
	w->write_max = PIPE_BUF;
	w->kind = SINK_BLOCK;
	if (fstat(w->o.fd, &st) < 0)
		return;
	if (S_ISREG(st.st_mode)) {
		w->kind = SINK_FILE;
		w->write_max = 1024 * 1024;
	} else if (S_ISSOCK(st.st_mode)) {
		w->kind = SINK_SOCKET;
	} else if (S_ISFIFO(st.st_mode) || S_ISCHR(st.st_mode)) {
		char path[64];
		snprintf(path, sizeof path, "/proc/self/fd/%d", w->o.fd);
		w->own_fd = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
		if (w->own_fd >= 0) {
			w->fd = w->own_fd;
			w->kind = SINK_NONBLOCK;
		}
	}
}

static void writer_free(struct log_writer *w)
{
	buf_done(&w->pending);
	buf_done(&w->batch);
	buf_done(&w->lines);
	buf_done(&w->tail);
	fd_close(w->own_fd);
	fd_close(w->wake_fd);
	pthread_cond_destroy(&w->cond);
	pthread_mutex_destroy(&w->lock);
	free(w);
}

int log_writer_new(struct log_writer **ret, const struct log_writer_opts *o)
{
	int wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (wake < 0)
		return -errno;
	struct log_writer *w = NEW(struct log_writer);
	w->o = *o;
	w->wake_fd = wake;
	buf_init(&w->pending, o->bound);
	buf_init(&w->batch, o->bound);
	buf_init(&w->lines, WRITE_BYTES + LOG_MADE_MAX);
	buf_init(&w->tail, LOG_LINE_MAX);
	choose_sink(w);
	pthread_condattr_t ca;
	pthread_condattr_init(&ca);
	pthread_condattr_setclock(&ca, CLOCK_MONOTONIC);
	pthread_cond_init(&w->cond, &ca);
	pthread_condattr_destroy(&ca);
	pthread_mutex_init(&w->lock, NULL);
	sigset_t all, old;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	int r = pthread_create(&w->thread, NULL, writer_main, w);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (r) {
		writer_free(w);
		return -r;
	}
	*ret = w;
	return 0;
}

/* now: the thread is woken whatever waits. */
static void enqueue(struct log_writer *w, const struct entry *e, const void *data, bool now)
{
	pthread_mutex_lock(&w->lock);
	size_t n = sizeof *e + padded(e->n);
	bool fits = w->pending.len + w->writing + n <= w->o.bound;
	char *to = fits ? buf_room(&w->pending, n) : NULL;
	bool first = !w->pending.len;
	if (to) {
		memcpy(to, e, sizeof *e);
		memcpy(to + sizeof *e, data, e->n);
		memset(to + sizeof *e + e->n, 0, n - sizeof *e - e->n);
		buf_grew(&w->pending, n);
	} else {
		w->lost++;
		log_count_dropped(1);
	}
	bool hurry = !w->hurry && to && (now || w->pending.len >= LOG_WAKE_BYTES);
	w->hurry = w->hurry || hurry;
	if (to && (first || hurry))
		pthread_cond_signal(&w->cond);
	pthread_mutex_unlock(&w->lock);
}

void log_writer_put(struct log_writer *w, struct view line)
{
	enqueue(w, &(struct entry){ .n = (uint32_t)line.n }, line.p, true);
}

void log_writer_later(struct log_writer *w, enum log_level level, log_line_fn *fn, const void *data, size_t n)
{
	enqueue(w, &(struct entry){ .fn = fn, .n = (uint32_t)n, .level = (int32_t)level }, data, false);
}

void log_writer_stop(struct log_writer *w)
{
	pthread_mutex_lock(&w->lock);
	w->stopping = true;
	w->stop_by = mono_add_ms(mono_now(), LOG_STOP_MS);
	pthread_cond_broadcast(&w->cond);
	mono_t until = mono_add_ms(w->stop_by, LOG_STOP_MS / 2);
	struct timespec ts = { .tv_sec = until.ns / 1000000000, .tv_nsec = until.ns % 1000000000 };
	uint64_t one = 1;
	(void)!write(w->wake_fd, &one, sizeof one);
	int r = 0;
	while (!w->done && r != ETIMEDOUT)
		r = pthread_cond_timedwait(&w->cond, &w->lock, &ts);
	bool done = w->done;
	pthread_mutex_unlock(&w->lock);
	if (!done) {
		/* A terminal that was stopped holds the thread inside write(2); it and its memory stay. */
		pthread_detach(w->thread);
		return;
	}
	pthread_join(w->thread, NULL);
	writer_free(w);
}
