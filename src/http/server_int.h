/* SPDX-License-Identifier: Apache-2.0
 *
 * The server's inside. A connection is in one of these states, set by conn_set_state alone:
 *
 *   START     the layer (TLS) is being agreed on              timer: head_timeout
 *   IDLE      waits for the first byte of a request          timer: idle_timeout
 *   HEAD      part of a head has come                        timer: head_timeout
 *   EXCHANGE  a request is being handled                     timer: body_timeout while its body is awaited,
 *                                                            send_timeout while the client takes nothing
 *   FLUSH     the last response is leaving, then close       timer: send_timeout
 *   LINGER    our side is shut, the rest of the request is thrown away, so that the response is not lost
 *             to a reset                                     timer: 2 s
 *   CLOSED    waits for the end of the round to be freed
 */
#ifndef HTTP_SERVER_INT_H
#define HTTP_SERVER_INT_H

#include <llhttp.h>

#include "base/list.h"
#include "http/gather.h"
#include "http/server.h"
#include "net/sock.h"

enum conn_state { CONN_START, CONN_IDLE, CONN_HEAD, CONN_EXCHANGE, CONN_FLUSH, CONN_LINGER, CONN_CLOSED };

struct http_exchange {
	struct server_conn *conn;
	const struct http_handler *handler;
	void *arg;
	/* head */
	struct head_gather head; /* target and headers as they came */
	uint32_t target_len;
	struct http_headers headers;
	struct view target, path, query;
	enum http_method method;
	const char *method_name;
	int64_t content_length;
	int minor;
	mono_t started;
	/* body in */
	bool body_ended, body_paused, expects_continue, told_end;
	/* response */
	bool open; /* on_request was called and the handler has not ended it */
	bool responding, chunked, no_body, close_after;
	int refused;      /* the status that the rest of the request is refused with; 0: not */
	int64_t left;     /* of a response with a length; -1 otherwise */
	struct buf extra; /* header lines of the response, whoever answers; mostly empty */
};

struct server_conn {
	struct http_server *server;
	struct list node; /* on server->conns */
	struct sock sock;
	llhttp_t parser;
	enum conn_state state;
	struct loop_timer timer; /* fires when limit has passed, or before */
	mono_t limit;            /* of the time in this state */
	struct loop_work again;  /* parse what is kept in `in` */
	struct buf in;           /* read but not parsed yet */
	struct net_peer peer;
	mono_t read_at;     /* when a byte of the body last came, or reading went on */
	mono_t body_since;  /* the head was whole, or reading went on … */
	uint64_t body_then; /* … with so many bytes of the body there */
	uint64_t body_bytes,
		fed_bytes; /* of the body, and what they came in: chunk heads, extensions, trailers */
	struct http_exchange x;
	int refuse_status; /* set by a parser callback that refuses */
	const char *refuse_reason;
};

struct http_listener {
	struct http_server *server;
	struct listener *listener;
	struct tls_server *tls; /* NULL: plain */
};

struct http_server {
	struct loop *loop;
	struct http_server_opts o;
	struct http_listener listeners[HTTP_LISTENERS_MAX];
	size_t nlisteners, nconns, nexchanges;
	struct list conns, waiting; /* with a request, and without one: those longest so first */
	bool draining, freeing;
	loop_fn *on_idle;
	void *on_idle_arg;
	char date[48]; /* the Date line, good until then */
	size_t date_len;
	mono_t date_until;
	char *server_line; /* "Server: …\r\n", or "" */
	struct buf head;   /* a response's, while it is put together */
};

extern const llhttp_settings_t http_server_parser_settings;

void conn_set_state(struct server_conn *c, enum conn_state to);
void conn_close(struct server_conn *c);
/* A connection without a socket, on s's list. */
struct server_conn *conn_new(struct http_server *s) MUST_CHECK;
/* Takes bytes that were read from it. */
void conn_feed(struct server_conn *c, const char *data, size_t n);
/* Answers a request that never became an exchange, then closes. */
void conn_refuse(struct server_conn *c, int status, const char *reason);
/* The exchange is over and complete: next request, or close. */
void conn_exchange_done(struct server_conn *c);
/* Reads on where something changed (paused, resumed, ended). */
void conn_update_reading(struct server_conn *c);
void exchange_reset(struct http_exchange *x);
int exchange_finish_head(struct server_conn *c); /* 0, or the status it is refused with */

#endif
