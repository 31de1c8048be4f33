/* SPDX-License-Identifier: Apache-2.0
 *
 * A connected stream socket on one loop: reads when the owner asks, gathers writes and sends them at
 * the end of the round, and tells when too much waits (back-pressure). Embedded in its owner, whose
 * memory must stay until the end of the round in which sock_close was called (loop_defer_free).
 */
#ifndef NET_SOCK_H
#define NET_SOCK_H

#include "base/buf.h"
#include "loop/loop.h"
#include "net/addr.h"

enum {
	SOCK_HIGH = 256 * 1024,          /* above this much unsent output sock_write says "full" */
	SOCK_LOW = 64 * 1024,            /* below it on_writable is told */
	SOCK_OUT_MAX = 32 * 1024 * 1024, /* the bound of unsent output; above it the socket breaks */
};

struct sock_ops {
	void (*on_connected)(void *arg, int error); /* connecting sockets only; 0 or a negative errno */
	void (*on_readable)(void *arg);             /* sock_read has something, or the end */
	void (*on_writable)(void *arg);             /* after "full": the queue is low again */
	/* Sending failed, or (hup asked for) the peer closed while we do not read. Not after sock_close. */
	void (*on_broken)(void *arg, int error);
};

struct sock {
	struct loop *loop;
	struct loop_watch *watch;
	const struct sock_ops *ops;
	void *arg;
	int fd; /* -1: closed */
	bool connecting, want_read, want_hup, blocked, full, broken;
	struct buf out;
	size_t out_off;
	struct loop_work flush, report; /* report: connected at once, to be told at the end of the round */
	mono_t sent_at;                 /* the last time the peer took bytes, or the queue was empty */
};

/* Takes over fd. reading starts off. 0 or a negative errno (fd is then closed). */
int sock_init(struct sock *s, struct loop *l, int fd, const struct sock_ops *ops, void *arg) MUST_CHECK;
/* Starts connecting; on_connected is always called later, from the loop. */
int sock_connect(struct sock *s, struct loop *l, const struct net_addr *a, const struct sock_ops *ops,
	void *arg) MUST_CHECK;
/* read: call on_readable. hup: tell on_broken when the peer closes while we do not read. */
void sock_want(struct sock *s, bool read, bool hup);
/* > 0 bytes; 0 the peer closed its sending side; -EAGAIN; other negative errno: broken. */
ssize_t sock_read(struct sock *s, void *p, size_t n);
/* Queues bytes for the end of the round. True: full, stop producing until on_writable. */
bool sock_write(struct sock *s, const void *p, size_t n);
/* Sends what is queued now. */
void sock_flush(struct sock *s);
static inline size_t sock_unsent(const struct sock *s)
{
	return s->out.len - s->out_off;
}
static inline bool sock_is_open(const struct sock *s)
{
	return s->fd >= 0;
}
void sock_shutdown_write(struct sock *s); /* after what is queued was sent: call when sock_unsent is 0 */
/* Closes at once; what is queued is dropped. No callback any more. Idempotent. */
void sock_close(struct sock *s);

#endif
