/* SPDX-License-Identifier: Apache-2.0
 *
 * HTTP/1.1 server side on one loop. A struct http_exchange is one request and its response. It lives
 * from on_request until http_end, http_abort or on_gone, whichever comes first; after that it must not
 * be touched. Requests that are pipelined wait until the one before is answered.
 *
 * Refused here, before any handler sees it: versions other than 1.0 and 1.1 (505), not exactly one Host
 * (400), anything llhttp's strict parser refuses (400), heads over the bounds (431, 414), Expect other
 * than 100-continue (417), Upgrade is ignored. The refusal's body is made by on_refuse.
 */
#ifndef HTTP_SERVER_H
#define HTTP_SERVER_H

#include "http/http.h"
#include "loop/loop.h"
#include "net/listen.h"

enum http_method {
	HTTP_M_GET,
	HTTP_M_HEAD,
	HTTP_M_POST,
	HTTP_M_PUT,
	HTTP_M_DELETE,
	HTTP_M_OPTIONS,
	HTTP_M_PATCH,
	HTTP_M_OTHER
};

enum { HTTP_LISTENERS_MAX = 32 };

struct http_exchange;
struct tls_server;

/* NULL: not told; a body that nobody is told of is read and dropped. */
struct http_handler {
	void (*on_body)(void *arg, struct view bytes);
	void (*on_body_end)(void *arg);
	void (*on_drained)(void *arg); /* after http_body said "full": go on */
	void (*on_gone)(void *arg);    /* the client left or broke the protocol; the exchange is over */
};

/* A request that is refused before it became one, with what its head said as far as it came. */
struct http_refusal {
	int status;
	const char *reason;
	struct view path;                   /* without the query; empty: it did not come so far */
	const struct http_headers *headers; /* NULL: not all of them came */
};

enum { HTTP_RATE_MIN = 64 }; /* bytes a second, on average: slower bodies and readers count as stopped */

struct http_server_opts {
	int64_t head_timeout_ms; /* a whole head, from its first byte: 30 s */
	int64_t idle_timeout_ms; /* between requests: 75 s */
	int64_t body_timeout_ms; /* without one byte of the body: 60 s → 408 */
	int64_t send_timeout_ms; /* the client takes no byte of what waits: 120 s → closed */
	size_t max_connections;  /* above it new ones are closed, where none waits for a request: 20000 */
	const char *server_name; /* Server header; NULL = none */
	void (*on_request)(void *arg, struct http_exchange *x);
	/* Appends the body (JSON) of a refusal to `body` and header lines to `head`. NULL: plain text. */
	void (*on_refuse)(void *arg, const struct http_refusal *r, struct buf *head, struct buf *body);
	void (*on_closed)(
		void *arg); /* once for each connection that was taken or accepted; NULL: not told */
	void *arg;
};
#define HTTP_SERVER_DEFAULTS                                                                                 \
	.head_timeout_ms = 30000, .idle_timeout_ms = 75000, .body_timeout_ms = 60000,                        \
	.send_timeout_ms = 120000, .max_connections = 20000

struct http_server;
struct http_server *http_server_new(struct loop *l, const struct http_server_opts *o) MUST_CHECK;
/* Accepts from fd (which stays the caller's). HTTP_LISTENERS_MAX times at most. */
int http_server_listen(struct http_server *s, int fd) MUST_CHECK;
/* The same over TLS; tls must stay as long as the server. */
int http_server_listen_tls(struct http_server *s, int fd, struct tls_server *tls) MUST_CHECK;
/* Takes over one connected socket. */
void http_server_accept(struct http_server *s, int fd, const struct net_peer *peer);
/* The same over TLS; tls must stay as long as the server. NULL: plain. */
void http_server_accept_tls(
	struct http_server *s, int fd, const struct net_peer *peer, struct tls_server *tls);
/* Accepts nothing new and closes idle connections; those with a request finish it and close. on_idle is
 * called (from the loop) when none is left. */
void http_server_drain(struct http_server *s, loop_fn *on_idle, void *arg);
/* Closes every connection at once: handlers get on_gone. */
void http_server_close_all(struct http_server *s);
/* The same, and the server is gone. */
void http_server_free(struct http_server *s);
size_t http_server_connections(const struct http_server *s);
size_t http_server_exchanges(const struct http_server *s);

/* ---- the request; views are valid while the exchange lives ------------------------------------- */
enum http_method http_method(const struct http_exchange *x);
struct view http_method_name(const struct http_exchange *x);
struct view http_target(const struct http_exchange *x);
struct view http_path(const struct http_exchange *x);  /* as sent, not decoded, without the query */
struct view http_query(const struct http_exchange *x); /* without the ? */
const struct http_headers *http_headers(const struct http_exchange *x);
int64_t http_content_length(const struct http_exchange *x); /* -1: chunked; 0: no body */
const struct net_peer *http_peer(const struct http_exchange *x);
mono_t http_started(const struct http_exchange *x);
struct loop *http_loop(const struct http_exchange *x);
/* In on_gone: the status that the rest of the request was refused with (a malformed chunk, a body that does
 * not come); 0: the client left. */
int http_refused(const struct http_exchange *x);

/* ---- reading the body ---------------------------------------------------------------------------- */
/* Says who handles the exchange; must be called inside on_request unless it is answered there. When the
 * client expects 100-continue it gets it at the end of on_request. */
void http_handle(struct http_exchange *x, const struct http_handler *h, void *arg);
void http_pause_body(struct http_exchange *x);
void http_resume_body(struct http_exchange *x); /* on_body comes later, from the loop */

/* ---- answering ------------------------------------------------------------------------------------ */
/* Header lines that go with the response, whoever answers, refusals too: to be added to before it starts. */
struct buf *http_extra(struct http_exchange *x);
/* Starts the response. block: "Name: value\r\n" lines (may be NULL); Date, Server, Connection,
 * Content-Length and Transfer-Encoding are ours. body_len -1: unknown (chunked, or until close for 1.0). */
void http_start(struct http_exchange *x, int status, const struct buf *block, int64_t body_len);
bool http_started_response(const struct http_exchange *x);
/* Sends body bytes. True: full, wait for on_drained. Bytes beyond body_len are a bug (assert). */
bool http_body(struct http_exchange *x, struct view bytes);
/* The response is complete; the exchange is gone. Fewer bytes than body_len: as http_abort. */
void http_end(struct http_exchange *x);
/* The response cannot be completed: the connection is closed without the final chunk, after what was
 * sent has left. The exchange is gone. */
void http_abort(struct http_exchange *x);
/* A whole response at once; the exchange is gone. type NULL: no Content-Type. */
void http_reply(
	struct http_exchange *x, int status, const char *type, const struct buf *block, struct view body);
/* Sends what is queued now instead of at the end of the round. */
void http_flush(struct http_exchange *x);
size_t http_unsent(const struct http_exchange *x);
/* The connection closes after this exchange. */
void http_close_after(struct http_exchange *x);

#endif
