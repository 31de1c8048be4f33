/* SPDX-License-Identifier: Apache-2.0
 *
 * The client's inside.
 */
#ifndef HTTP_CLIENT_INT_H
#define HTTP_CLIENT_INT_H

#include <llhttp.h>

#include "base/list.h"
#include "http/client.h"
#include "http/gather.h"
#include "net/sock.h"

struct http_target {
	struct loop *loop;
	struct net_addr addr;
	struct http_target_opts o;
	char *host;
	char *authorization;    /* the header's line; NULL: none */
	struct tls_client *tls; /* https: whom to believe; else NULL */
	struct list idle, busy; /* struct client_conn by node */
	size_t nidle;
	unsigned refs;     /* the owner and every call */
	bool freed;        /* by its owner */
	struct buf head;   /* a request's, while it is put together */
	struct list spare; /* calls that are over, to be used again; at most idle_max */
	size_t nspare;
	struct loop_timer sweep; /* closes what has been idle for too long */
};

struct client_conn {
	struct http_target *target; /* NULL once the target was freed */
	struct loop *loop;
	struct list node;
	struct sock sock;
	mono_t idle_until;
	llhttp_t parser;
	struct http_call *call; /* NULL: idle */
	uint32_t requests;
	bool idle, closed;
	struct head_gather head; /* of the response */
	bool complete;
	uint8_t interim; /* 1xx so far */
};

struct lookup;
struct http_call {
	struct http_target *target; /* held by a reference until a connection is there */
	struct client_conn *conn;   /* NULL: being looked up */
	struct loop *loop;
	const struct http_call_ops *ops;
	void *arg;
	struct buf request; /* head, then what was written before the connection was there */
	bool body_chunked, body_finished, head_request;
	int64_t body_left; /* of a body with a length: not written yet */
	bool reused, got_byte, paused, over;
	mono_t connect_by;
	int64_t response_length;
	struct loop_timer deadline, connect_timer;
	struct loop_work later; /* its failure, or its memory, at the end of the round */
	struct list node;       /* on the target's spare ones */
	enum http_fail fail;
	struct err *err;       /* of a failure that is told later */
	struct lookup *lookup; /* running on a pool thread */
};

extern const struct sock_ops client_sock_ops;

void client_conn_free(void *conn);
void client_conn_close(struct client_conn *c);
void client_conn_park(struct client_conn *c);
struct client_conn *client_conn_take_idle(struct http_target *t);
/* A connection without a socket, on no list. */
struct client_conn *client_conn_new(struct http_target *t) MUST_CHECK;
int client_conn_open(struct http_target *t, const struct net_addr *a, struct client_conn **ret);
void client_conn_readable(struct client_conn *c);
/* Bytes that were read for c's call, and the end of them. */
void client_conn_feed(struct client_conn *c, const char *data, size_t n);
void client_conn_eof(struct client_conn *c);
void client_call_connected(struct http_call *call, int error);
void client_call_broken(struct http_call *call, int error);
void client_target_unref(struct http_target *t);
void client_call_free(void *call);
/* A call whose request was sent on c: what comes next is its answer. */
struct http_call *client_call_new(
	struct http_target *t, struct client_conn *c, const struct http_call_ops *ops, void *arg) MUST_CHECK;

/* From llhttp's callbacks. */
void client_call_head(struct http_call *call, int status, const struct http_headers *h, int64_t length);
void client_call_data(struct http_call *call, struct view bytes);
extern const llhttp_settings_t client_parser_settings;

#endif
