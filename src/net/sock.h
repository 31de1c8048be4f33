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

/* What may lie between a socket's bytes and its owner's (TLS: net/tls.h). Without one nothing is paid for it
 * but a branch. Every function may set why, a sentence, with an error. */
struct sock_layer;
struct sock_layer_ops {
	/* Goes on until both sides agree: 0, -EAGAIN with *ret_wants (LOOP_READ or LOOP_WRITE), or an error.
	 */
	int (*start)(struct sock_layer *l, int fd, int *ret_wants);
	ssize_t (*read)(
		struct sock_layer *l, void *p, size_t n); /* as sock_read; -EBUSY: has to send first */
	ssize_t (*write)(struct sock_layer *l, const void *p, size_t n); /* > 0, -EAGAIN, or an error */
	bool (*pending)(const struct sock_layer *l); /* read has something that the kernel does not tell of */
	void (*end)(struct sock_layer *l);           /* tells the peer that nothing more comes; idempotent */
	void (*free)(struct sock_layer *l);
};
struct sock_layer {
	const struct sock_layer_ops *ops;
	bool speaks_first;
	const char *why; /* NULL, or of the last error, in words; the layer's */
};

struct sock {
	struct loop *loop;
	struct loop_watch *watch;
	const struct sock_ops *ops;
	void *arg;
	int fd; /* -1: closed */
	bool connecting, want_read, want_hup, blocked, full, broken;
	bool starting;   /* with connecting: the connection is there, the layer is not */
	bool read_waits; /* with blocked: so does reading */
	bool lost;       /* more than SOCK_OUT_MAX was written: it breaks, and sends nothing any more */
	int layer_wants;
	struct sock_layer *layer; /* NULL: plain */
	struct buf out;
	size_t out_off;
	struct loop_work flush, report; /* report: connected at once, to be told at the end of the round */
	mono_t sent_at;                 /* the last time the peer took bytes, or the queue was empty */
	mono_t queued_at;               /* since when something waits … */
	uint64_t sent_since;            /* … and how much the peer took since */
};

/* Takes over fd. reading starts off. 0 or a negative errno (fd is then closed). */
int sock_init(struct sock *s, struct loop *l, int fd, const struct sock_ops *ops, void *arg) MUST_CHECK;
/* Starts connecting; on_connected is always called later, from the loop. */
int sock_connect(struct sock *s, struct loop *l, const struct net_addr *a, const struct sock_ops *ops,
	void *arg) MUST_CHECK;
/* Puts a layer over it, right after sock_init or sock_connect; takes it. on_connected is called once it has
 * started, and nothing is read or sent before. */
void sock_layer(struct sock *s, struct sock_layer *layer);
/* Takes it off without a word to the peer, after it failed to start: the socket is plain from here on. */
void sock_layer_drop(struct sock *s);
/* read: call on_readable. hup: tell on_broken when the peer closes while we do not read. */
void sock_want(struct sock *s, bool read, bool hup);
/* > 0 bytes; 0 the peer closed its sending side; -EAGAIN; other negative errno: broken. */
ssize_t sock_read(struct sock *s, void *p, size_t n);
/* Queues bytes for the end of the round. True: full, stop producing until on_writable. */
bool sock_write(struct sock *s, const void *p, size_t n);
/* The same for several pieces that belong together; they are queued together. */
bool sock_write_all(struct sock *s, const struct view *pieces, size_t n);
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
