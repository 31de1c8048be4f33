/* SPDX-License-Identifier: Apache-2.0
 *
 * Requests over HTTP, many at a time, on one thread: libcurl's multi interface with redirects followed here
 * (each hop is looked at by the policy, the given headers go to the first host alone), one rate limit over
 * all, and an end to connections that bring nothing.
 *
 * A struct xfer is one request with its redirects. Made by xfer_start, owned by struct net; on_end is its
 * last word (it is freed when that returns), unless xfer_cancel came first. Callbacks run inside net_round;
 * on_end may start and cancel others, on_head and on_data must not.
 */
#ifndef FETCH_NET_H
#define FETCH_NET_H

#include "base/clock.h"
#include "job.h"

struct net;
struct xfer;

/* Of the last answer (strings NULL: the header is not there). */
struct xfer_head {
	int status;
	int64_t retry_after_ms;          /* -1: none */
	int64_t length;                  /* of the body; -1: not told */
	uint64_t from, to;               /* Content-Range [from, to) */
	uint64_t total;                  /* of it; UINT64_MAX: not told */
	bool has_range, has_unsatisfied; /* the latter: "bytes *" with the total alone */
	char *etag, *modified, *location, *message;
	const char *url; /* where it comes from; in on_head */
};

struct xfer_ops {
	/* The head of an answer that is no redirect, before its body. -1: give up, *f says why. */
	int (*on_head)(void *arg, const struct xfer_head *h, struct fail *f);
	int (*on_data)(void *arg, const void *p, size_t n, struct fail *f);
	/* f: NULL when an answer came whole, whatever its status; h as far as it came. url: where it came
	 * from. */
	void (*on_end)(void *arg, const struct xfer_head *h, const char *url, const struct fail *f);
};

struct xfer_spec {
	const char *url;
	const char *origin; /* the given headers go to its host alone; NULL: url */
	const struct strv *headers;
	uint64_t from, to; /* range [from, to), where to is not 0 */
	const char *if_range, *method;
	struct strv *seen; /* every header of every answer is added; NULL: not wanted */
};

struct net *net_new(const struct job *j, struct fail *f) MUST_CHECK;
void net_free(struct net *n);
/* NULL: refused at once, *f says why (no callback comes). */
struct xfer *xfer_start(struct net *n, const struct xfer_spec *s, const struct xfer_ops *ops, void *arg,
	struct fail *f) MUST_CHECK;
void xfer_cancel(struct xfer **x); /* NULL inside allowed */
size_t net_running(const struct net *n);
/* Waits for at most `until` and does what is due. wake: one more descriptor to wait for (readable), or -1. */
void net_round(struct net *n, mono_t until, int wake);

#endif
