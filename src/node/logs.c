/* SPDX-License-Identifier: Apache-2.0
 *
 * GET …/logs: the last lines of an engine's output, and with follow=1 what comes, over rotations, until
 * the client goes. Woken by inotify; reads only as fast as the client takes.
 */
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/num.h"
#include "node/node_int.h"

enum { DEFAULT_LINES = 200, CHUNK = 64 * 1024 };

struct log_stream {
	struct list node;
	struct node *owner;
	struct http_exchange *x;
	char *path;
	int fd, notify;
	struct loop_watch *watch;
	bool full;
};

static void stream_free(struct log_stream *s)
{
	list_remove(&s->node);
	s->owner->nfollowers--;
	loop_watch_stop(&s->watch);
	fd_close(s->fd);
	fd_close(s->notify);
	free(s->path);
	loop_defer_free(s->owner->loop, s);
}

static bool was_rotated(const struct log_stream *s)
{
	struct stat mine, there;
	return stat(s->path, &there) == 0 &&
	       (s->fd < 0 || (fstat(s->fd, &mine) == 0 && mine.st_ino != there.st_ino));
}

static int open_log(const char *path)
{
	return open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
}

static void pump(struct log_stream *s)
{
	char chunk[CHUNK];
	while (!s->full) {
		ssize_t n = s->fd < 0 ? 0 : read(s->fd, chunk, sizeof chunk);
		if (n > 0) {
			s->full = http_body(s->x, view_of(chunk, (size_t)n));
			continue;
		}
		if (n < 0 || !was_rotated(s))
			return;
		fd_close(s->fd);
		s->fd = open_log(s->path);
		if (s->fd < 0)
			return;
	}
}

static void on_change(void *arg, int events)
{
	(void)events;
	struct log_stream *s = arg;
	_Alignas(struct inotify_event) char drop[4096];
	while (read(s->notify, drop, sizeof drop) > 0)
		;
	pump(s);
}

static void on_drained(void *arg)
{
	struct log_stream *s = arg;
	s->full = false;
	pump(s);
}

static void on_gone(void *arg)
{
	stream_free(arg);
}

static void on_body(void *arg, struct view bytes)
{
	(void)arg;
	(void)bytes;
}

static void on_body_end(void *arg)
{
	(void)arg;
}

static const struct http_handler stream_handler = {
	.on_body = on_body,
	.on_body_end = on_body_end,
	.on_drained = on_drained,
	.on_gone = on_gone,
};

static int watch_dir(struct log_stream *s)
{
	s->notify = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	if (s->notify < 0)
		return -errno;
	if (inotify_add_watch(s->notify, s->owner->opts.log_dir, IN_MODIFY | IN_CREATE | IN_MOVED_TO) < 0)
		return -errno;
	return loop_watch_start(s->owner->loop, &s->watch, s->notify, LOOP_READ, on_change, s);
}

static struct log_stream *stream_new(struct node *n, struct http_exchange *x, const char *id)
{
	struct log_stream *s = NEW(struct log_stream);
	s->owner = n;
	s->x = x;
	s->path = replica_log_path(n, id);
	s->notify = -1;
	s->fd = open_log(s->path);
	list_append(&n->followers, &s->node);
	n->nfollowers++;
	return s;
}

/* The last lines of b. */
static struct view last_lines(struct view v, uint64_t lines)
{
	size_t i = v.n;
	if (!lines)
		return view_from(v, v.n);
	if (i && v.p[i - 1] == '\n')
		i--;
	for (; i > 0; i--)
		if (v.p[i - 1] == '\n' && --lines == 0)
			break;
	return view_from(v, i);
}

static void follow(struct node *n, struct http_exchange *x, const char *id, uint64_t lines)
{
	struct log_stream *s = stream_new(n, x, id);
	int r = watch_dir(s);
	if (r) {
		stream_free(s);
		api_error(x, 503, "the log cannot be followed: %s", strerror(-r));
		return;
	}
	AUTO(buf_done) struct buf b = BUF(NODE_TAIL_BYTES_MAX);
	replica_log_read(n, id, s->fd, &b);
	AUTO(buf_done) struct buf head = BUF(256);
	if (http_header_add(&head, "Content-Type", VIEW("text/plain; charset=utf-8")))
		buf_reset(&head);
	http_handle(x, &stream_handler, s);
	http_start(x, 200, &head, -1);
	struct view tail = last_lines(buf_view(&b), lines);
	if (tail.n)
		s->full = http_body(x, tail);
	http_flush(x);
	pump(s);
}

void logs_serve(struct node *n, struct http_exchange *x, const char *id)
{
	char text[16];
	uint64_t lines = DEFAULT_LINES;
	bool wants_follow =
		http_query_get(http_query(x), "follow", text, sizeof text) && strcmp(text, "0") != 0;
	if (http_query_get(http_query(x), "tail", text, sizeof text) && num_u64(view_str(text), &lines)) {
		api_error(x, 400, "tail must be a number of lines from 0 to %d", (int)NODE_TAIL_LINES_MAX);
		return;
	}
	lines = MIN(lines, (uint64_t)NODE_TAIL_LINES_MAX);
	AUTO(mem_freep) char *path = replica_log_path(n, id);
	if (!map_gets(&n->replicas, id) && !file_exists(path)) {
		api_error(x, 404, "there is no replica %s on this node, and no log of one", id);
	} else if (wants_follow && n->nfollowers >= NODE_FOLLOWERS_MAX) {
		api_error(x, 503, "%d logs are followed already; end one of them", (int)NODE_FOLLOWERS_MAX);
	} else if (wants_follow) {
		follow(n, x, id, lines);
	} else {
		AUTO(buf_done) struct buf b = BUF(NODE_TAIL_BYTES_MAX);
		replica_log_tail(n, id, 0, &b);
		http_reply(x, 200, "text/plain; charset=utf-8", NULL, last_lines(buf_view(&b), lines));
	}
}

void logs_done(struct node *n)
{
	while (!list_empty(&n->followers)) {
		struct log_stream *s = LIST_ENTRY(list_first(&n->followers), struct log_stream, node);
		struct http_exchange *x = s->x;
		stream_free(s);
		http_end(x);
	}
}
