/* SPDX-License-Identifier: Apache-2.0 */
#include "net/sock.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"

/* Writes larger than this skip the queue when it is empty. */
enum { DIRECT_MIN = 8 * 1024, OUT_KEEP = 4 * 1024 };

static int interest(const struct sock *s)
{
	int ev = 0;
	if (s->starting)
		return s->layer_wants;
	if (s->connecting || s->blocked)
		ev |= LOOP_WRITE;
	if (!s->connecting && s->want_read && !s->read_waits)
		ev |= LOOP_READ;
	if (!s->connecting && s->want_hup)
		ev |= LOOP_HUP;
	return ev;
}

static void update(struct sock *s)
{
	if (s->fd >= 0)
		(void)loop_watch_change(s->watch, interest(s));
}

static void breaks(struct sock *s, int error)
{
	if (s->broken || s->fd < 0)
		return;
	s->broken = true;
	s->blocked = false;
	s->want_read = s->want_hup = false;
	update(s);
	s->ops->on_broken(s->arg, error);
}

/* 0: started; -EAGAIN: not yet. */
static int start_layer(struct sock *s)
{
	int r = s->layer->ops->start(s->layer, s->fd, &s->layer_wants);
	s->starting = r == -EAGAIN;
	if (s->starting)
		update(s);
	return r;
}

static void finish_connect(struct sock *s)
{
	int error = 0;
	socklen_t n = sizeof error;
	if (getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &error, &n) < 0)
		error = errno;
	error = -error;
	if (!error && s->layer && (error = start_layer(s)) == -EAGAIN)
		return;
	s->connecting = false;
	update(s);
	s->ops->on_connected(s->arg, error);
	if (!error && s->fd >= 0)
		sock_flush(s);
}

static void read_more(void *arg)
{
	struct sock *s = arg;
	if (s->fd >= 0 && s->want_read && s->layer)
		s->ops->on_readable(s->arg);
}

/* What the layer holds is told of by nobody else. */
static void tell_pending(struct sock *s)
{
	if (s->want_read && !s->connecting && s->layer->ops->pending(s->layer))
		loop_defer(s->loop, &s->report, read_more, s);
}

void sock_layer(struct sock *s, struct sock_layer *layer)
{
	s->layer = layer;
	if (s->connecting)
		return;
	s->connecting = s->starting = true;
	s->layer_wants = layer->speaks_first ? LOOP_WRITE : LOOP_READ;
	update(s);
}

void sock_layer_drop(struct sock *s)
{
	if (s->layer)
		s->layer->ops->free(s->layer);
	s->layer = NULL;
}

static void on_event(void *arg, int events)
{
	struct sock *s = arg;
	if (s->connecting) {
		finish_connect(s);
		return;
	}
	if ((events & LOOP_WRITE) && s->blocked) {
		s->blocked = false;
		if (s->read_waits)
			events |= LOOP_READ;
		s->read_waits = false;
		sock_flush(s);
		if (s->fd < 0)
			return;
		update(s);
	}
	if (s->want_read && (events & (LOOP_READ | LOOP_HUP)))
		s->ops->on_readable(s->arg);
	else if (s->want_hup && (events & LOOP_HUP))
		breaks(s, -ECONNRESET);
}

static void sock_zero(struct sock *s, struct loop *l, int fd, const struct sock_ops *ops, void *arg)
{
	*s = (struct sock){ .loop = l, .ops = ops, .arg = arg, .fd = fd, .out = BUF(SOCK_OUT_MAX) };
	s->sent_at = s->queued_at = loop_now(l);
}

int sock_init(struct sock *s, struct loop *l, int fd, const struct sock_ops *ops, void *arg)
{
	sock_zero(s, l, fd, ops, arg);
	int r = loop_watch_start(l, &s->watch, fd, 0, on_event, s);
	if (r < 0) {
		fd_close(fd);
		s->fd = -1;
	}
	return r;
}

static void report_connected(void *arg)
{
	struct sock *s = arg;
	if (s->fd < 0)
		return;
	finish_connect(s);
}

int sock_connect(
	struct sock *s, struct loop *l, const struct net_addr *a, const struct sock_ops *ops, void *arg)
{
	int fd = socket(a->ss.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	if (a->kind == NET_TCP) {
		int one = 1, zero = 0;
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
		setsockopt(fd, IPPROTO_TCP, TCP_QUICKACK, &zero, sizeof zero);
	}
	int r = connect(fd, (const struct sockaddr *)&a->ss, a->len);
	if (r < 0 && errno != EINPROGRESS) {
		r = -errno; /* a unix socket with a full backlog says EAGAIN: the caller tries again */
		fd_close(fd);
		return r;
	}
	sock_zero(s, l, fd, ops, arg);
	s->connecting = true;
	int w = loop_watch_start(l, &s->watch, fd, r < 0 ? LOOP_WRITE : 0, on_event, s);
	if (w < 0) {
		fd_close(fd);
		s->fd = -1;
		return w;
	}
	if (r == 0) /* connected at once: still told from the loop, at the end of this round */
		loop_defer(l, &s->report, report_connected, s);
	return 0;
}

void sock_want(struct sock *s, bool read, bool hup)
{
	if (s->broken)
		return;
	s->want_read = read;
	s->want_hup = hup;
	update(s);
	if (s->layer)
		tell_pending(s);
}

static ssize_t layer_read(struct sock *s, void *p, size_t n)
{
	ssize_t k = s->layer->ops->read(s->layer, p, n);
	if (k == -EBUSY) {
		s->blocked = s->read_waits = true;
		update(s);
		return -EAGAIN;
	}
	tell_pending(s);
	return k;
}

ssize_t sock_read(struct sock *s, void *p, size_t n)
{
	if (s->layer)
		return layer_read(s, p, n);
	for (;;) {
		ssize_t k = recv(s->fd, p, n, 0);
		if (k >= 0)
			return k;
		if (errno != EINTR)
			return errno == EWOULDBLOCK ? -EAGAIN : -errno;
	}
}

static ssize_t plain_send(int fd, const char *p, size_t n)
{
	for (;;) {
		ssize_t k = send(fd, p, n, MSG_NOSIGNAL);
		if (k >= 0)
			return k;
		if (errno != EINTR)
			return errno == EWOULDBLOCK ? -EAGAIN : -errno;
	}
}

/* Sends p; returns how many bytes went out, or a negative errno other than EAGAIN. */
static ssize_t send_some(struct sock *s, const char *p, size_t n)
{
	size_t sent = 0;
	while (sent < n) {
		ssize_t k = s->layer ? s->layer->ops->write(s->layer, p + sent, n - sent)
				     : plain_send(s->fd, p + sent, n - sent);
		if (k == -EAGAIN) {
			s->blocked = true;
			break;
		}
		if (k < 0)
			return k;
		sent += (size_t)k;
	}
	if (sent)
		s->sent_at = loop_now(s->loop);
	s->sent_since += sent;
	return (ssize_t)sent;
}

static void deferred_flush(void *arg)
{
	sock_flush(arg);
}

void sock_flush(struct sock *s)
{
	loop_defer_cancel(&s->flush);
	if (s->lost) /* whatever came after it would stand in its place */
		breaks(s, -ENOBUFS);
	if (s->fd < 0 || s->connecting || s->blocked || s->broken)
		return;
	size_t n = sock_unsent(s);
	if (n) {
		ssize_t k = send_some(s, s->out.data + s->out_off, n);
		if (k < 0) {
			breaks(s, (int)k);
			return;
		}
		s->out_off += (size_t)k;
	}
	if (s->out_off == s->out.len) {
		if (s->out.cap > OUT_KEEP)
			buf_done(&s->out); /* an idle connection keeps no large buffer */
		buf_reset(&s->out);
		s->out_off = 0;
		s->sent_at = loop_now(s->loop);
	} else if (s->out_off > s->out.len / 2) {
		buf_consume(&s->out, s->out_off);
		s->out_off = 0;
	}
	update(s);
	if (s->full && sock_unsent(s) < SOCK_LOW) {
		s->full = false;
		s->ops->on_writable(s->arg);
	}
}

/* For the end of the round. Over the bound the socket breaks then. */
static bool queue(struct sock *s, const struct view *pieces, size_t n)
{
	if (s->blocked) {
		update(s);
	} else if (sock_unsent(s) == 0) { /* the peer is not late with what was not there yet */
		s->sent_at = s->queued_at = loop_now(s->loop);
		s->sent_since = 0;
	}
	for (size_t i = 0; !s->lost && i < n; i++)
		s->lost = buf_addv(&s->out, pieces[i]) != 0;
	loop_defer_cancel(&s->flush);
	if (s->lost || !s->connecting)
		loop_defer(s->loop, &s->flush, deferred_flush, s);
	if (sock_unsent(s) > SOCK_HIGH)
		s->full = true;
	return s->full;
}

bool sock_write(struct sock *s, const void *p, size_t n)
{
	if (s->fd < 0 || s->broken || s->lost || n == 0)
		return s->full;
	struct view v = view_of(p, n);
	if (n >= DIRECT_MIN && !s->connecting && !s->blocked && sock_unsent(s) == 0) {
		ssize_t k = send_some(s, v.p, v.n);
		if (k > 0)
			v = view_from(
				v, (size_t)k); /* an error shows again in the flush, where it may be told */
		if (v.n == 0)
			return s->full;
	}
	return queue(s, &v, 1);
}

bool sock_write_all(struct sock *s, const struct view *pieces, size_t n)
{
	size_t total = 0;
	for (size_t i = 0; i < n; i++)
		total += pieces[i].n;
	if (s->fd < 0 || s->broken || s->lost || !total)
		return s->full;
	if (total < DIRECT_MIN)
		return queue(s, pieces, n);
	for (size_t i = 0; i < n; i++)
		(void)sock_write(s, pieces[i].p, pieces[i].n);
	return s->full;
}

void sock_shutdown_write(struct sock *s)
{
	if (s->fd < 0)
		return;
	if (s->layer)
		s->layer->ops->end(s->layer);
	shutdown(s->fd, SHUT_WR);
}

void sock_close(struct sock *s)
{
	if (s->fd < 0)
		return;
	loop_defer_cancel(&s->flush);
	loop_defer_cancel(&s->report);
	loop_watch_stop(&s->watch);
	if (s->layer && !s->connecting && !s->broken && !sock_unsent(s))
		s->layer->ops->end(s->layer); /* not where something is missing: that must be seen */
	sock_layer_drop(s);
	fd_close(s->fd);
	s->fd = -1;
	buf_done(&s->out);
	s->out_off = 0;
}
