/* SPDX-License-Identifier: Apache-2.0
 *
 * HTTP/1.1 client side on one loop: a struct http_target is one server with its idle connections, a
 * struct http_call one request and its response. Every callback comes from the loop, never from inside
 * http_call_start. After on_end or on_error the call is gone; http_call_cancel ends it without either
 * (the connection is closed at once).
 */
#ifndef HTTP_CLIENT_H
#define HTTP_CLIENT_H

#include "http/http.h"
#include "loop/loop.h"
#include "net/addr.h"

struct http_target_opts {
	size_t idle_max;            /* idle connections kept: 64 */
	int64_t idle_ms;            /* an idle one is closed after: 4 s (llama-server closes after 5) */
	uint32_t max_requests;      /* a connection is closed after so many requests: 0 = no limit */
	int64_t connect_timeout_ms; /* 5 s */
	const char *bearer;         /* sent with every request as Authorization; NULL: nothing. Copied */
};
struct http_target;
/* address: every form of net/addr.h for clients; names are looked up at each connect. A base path in an
 * http:// address is refused. */
struct http_target *http_target_new(
	struct loop *l, const char *address, const struct http_target_opts *o, struct err *reterr) MUST_CHECK;
/* Closes idle connections; calls that run go on and keep what they need. */
void http_target_free(struct http_target *t);
const char *http_target_host(const struct http_target *t); /* what goes into Host */
size_t http_target_idle(const struct http_target *t);
struct loop *http_target_loop(const struct http_target *t);
/* Closes the idle connections (before an engine is stopped). */
void http_target_close_idle(struct http_target *t);

enum http_fail {
	HTTP_FAIL_CONNECT,  /* no connection: refused, not there, timed out */
	HTTP_FAIL_STALE,    /* a pooled connection closed before the first byte of the response */
	HTTP_FAIL_CLOSED,   /* a fresh connection closed or reset before the first byte */
	HTTP_FAIL_BROKEN,   /* closed or reset in the middle of the response */
	HTTP_FAIL_PROTOCOL, /* not HTTP, or over the bounds */
	HTTP_FAIL_TIMEOUT,  /* http_call_deadline passed */
};
const char *http_fail_name(enum http_fail f);

struct http_call;
struct http_call_ops {
	void (*on_head)(void *arg, struct http_call *c, int status, const struct http_headers *h);
	void (*on_data)(void *arg, struct view bytes);
	void (*on_end)(void *arg);
	void (*on_error)(void *arg, enum http_fail f, const struct err *e);
	void (*on_writable)(void *arg); /* after http_call_write said "full" */
};
enum { HTTP_CALL_FRESH = 1 }; /* do not use a pooled connection */

struct http_call_req {
	struct view method, path; /* path is sent as it is */
	const struct buf *block; /* header lines, or NULL; Host, Content-Length, Transfer-Encoding, Connection
				    are ours */
	int64_t body_len;        /* -1: chunked; 0: none */
	int flags;               /* HTTP_CALL_… */
};
struct http_call *http_call_start(struct http_target *t, const struct http_call_req *r,
	const struct http_call_ops *ops, void *arg) MUST_CHECK;
bool http_call_write(struct http_call *c, struct view bytes); /* true: full */
void http_call_finish(struct http_call *c); /* the body is complete (needed when body_len is -1) */
void http_call_pause(struct http_call *c);  /* no on_data until resume */
void http_call_resume(struct http_call *c);
void http_call_cancel(struct http_call *c);
/* on_error(TIMEOUT) unless the response ended before; ms from now, replaces the last; -1 = none. */
void http_call_deadline(struct http_call *c, int64_t ms);
bool http_call_reused(const struct http_call *c);   /* ran on a pooled connection */
bool http_call_got_byte(const struct http_call *c); /* a byte of the response came */
/* Of on_head: -1 unknown; of a HEAD what it would be. */
int64_t http_call_response_length(const struct http_call *c);

/* ---- whole small exchanges -------------------------------------------------------------------- */
/* status 0: it failed and e says why. body is valid during the call alone. Always called from the loop. */
typedef void http_fetch_fn(void *arg, int status, struct view body, const struct err *e);
struct http_fetch;
struct http_fetch_req {
	const char *method, *path;
	const char *content_type; /* NULL: no body */
	struct view body;         /* copied */
	const struct buf *extra;  /* more header lines, or NULL; copied */
	size_t max_body;          /* more than so many bytes in the response is an error; 0 = 1 MiB */
	int64_t timeout_ms;       /* 0 = 10 s */
};
/* A stale connection is tried again once. fn is called exactly once unless cancelled. */
struct http_fetch *http_fetch(
	struct http_target *t, const struct http_fetch_req *r, http_fetch_fn *fn, void *arg) MUST_CHECK;
void http_fetch_cancel(struct http_fetch **f); /* NULL inside allowed */

#endif
