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
#include "node/stream_int.h"

enum { DEFAULT_LINES = 200, CHUNK = 64 * 1024 };

struct log_stream {
	struct stream s;
	char *path;
	int fd, notify;
	struct loop_watch *watch;
};

static void release(struct stream *stream)
{
	struct log_stream *l = CONTAINER_OF(stream, struct log_stream, s);
	loop_watch_stop(&l->watch);
	fd_close(l->fd);
	fd_close(l->notify);
	free(l->path);
}

static bool was_rotated(const struct log_stream *l)
{
	struct stat mine, there;
	return stat(l->path, &there) == 0 &&
	       (l->fd < 0 || (fstat(l->fd, &mine) == 0 && mine.st_ino != there.st_ino));
}

static int open_log(const char *path)
{
	return open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
}

static void pump(struct log_stream *l)
{
	char chunk[CHUNK];
	while (!l->s.full) {
		ssize_t n = l->fd < 0 ? 0 : read(l->fd, chunk, sizeof chunk);
		if (n > 0) {
			l->s.full = http_body(l->s.x, view_of(chunk, (size_t)n));
			continue;
		}
		if (n < 0 || !was_rotated(l))
			return;
		fd_close(l->fd);
		l->fd = open_log(l->path);
		if (l->fd < 0)
			return;
	}
}

static void on_change(void *arg, int events)
{
	(void)events;
	struct log_stream *l = arg;
	_Alignas(struct inotify_event) char drop[4096];
	while (read(l->notify, drop, sizeof drop) > 0)
		;
	pump(l);
}

static void on_drained(struct stream *stream)
{
	pump(CONTAINER_OF(stream, struct log_stream, s));
}

static int watch_dir(struct log_stream *l)
{
	l->notify = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	if (l->notify < 0)
		return -errno;
	if (inotify_add_watch(l->notify, l->s.owner->opts.log_dir, IN_MODIFY | IN_CREATE | IN_MOVED_TO) < 0)
		return -errno;
	return loop_watch_start(l->s.owner->loop, &l->watch, l->notify, LOOP_READ, on_change, l);
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
	static const struct stream_ops ops = {
		.kind = STREAM_LOG, .on_drained = on_drained, .release = release
	};
	struct log_stream *l = stream_new(n, x, &ops, sizeof *l);
	l->path = replica_log_path(n, id);
	l->notify = -1;
	l->fd = open_log(l->path);
	int r = watch_dir(l);
	if (r) {
		stream_free(&l->s);
		api_error(x, 503, "the log cannot be followed: %s", strerror(-r));
		return;
	}
	AUTO(buf_done) struct buf b = BUF(NODE_TAIL_BYTES_MAX);
	replica_log_read(n, id, l->fd, &b);
	stream_start(&l->s, false);
	struct view tail = last_lines(buf_view(&b), lines);
	if (tail.n)
		stream_send(&l->s, tail);
	pump(l);
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
	} else if (wants_follow && !stream_room(n, STREAM_LOG)) {
		api_error(x, 503, "%d logs are followed already; end one of them", (int)NODE_STREAMS_MAX);
	} else if (wants_follow) {
		follow(n, x, id, lines);
	} else {
		AUTO(buf_done) struct buf b = BUF(NODE_TAIL_BYTES_MAX);
		replica_log_tail(n, id, 0, &b);
		http_reply(x, 200, "text/plain; charset=utf-8", NULL, last_lines(buf_view(&b), lines));
	}
}
