/* SPDX-License-Identifier: Apache-2.0
 *
 * One request's way through a data loop: its body is read whole, its pool found, a lease taken (or
 * waited for), the request sent to a replica, the answer relayed. One struct proxy a loop; everything
 * here runs on that loop.
 *
 * States of a request, in order: BODY (arriving) → WAIT (for a lease) → SENT (to the engine, nothing
 * relayed yet: it may be sent again) → RELAY → gone. The client may leave in each of them.
 */
#ifndef PROXY_PROXY_H
#define PROXY_PROXY_H

#include "auth/auth.h"
#include "dialect/dialect.h"
#include "http/server.h"
#include "metrics/metrics.h"
#include "pool/pool.h"
#include "proxy/record.h"
#include "proxy/spool.h"

enum {
	PROXY_TRIES_MAX =
		100, /* how often one request is sent at all; the rules of retry.c end it long before */
	PROXY_FAILURES_MAX = 3, /* replicas that live and answer 5xx: the answer of the last is relayed */
	PROXY_REQUEST_ID_MAX = 128,
	PROXY_ERROR_BODY_MAX = 64 * 1024, /* an engine's error answer that is looked into */
};

struct proxy;
struct proxy_opts {
	struct loop *loop;
	unsigned loop_index; /* < POOL_LOOPS_MAX; place in pool_replica.per_loop */
	struct spool_account *spool;
	uint64_t body_max;
	struct metrics *metrics;
	struct req_records *records; /* where those that ended are noted; NULL: nowhere */
	/* The pool that serves `model` (empty: none was named) to who has `key` (NULL: needed none), a
	 * reference. NULL: *e says why (code, message, hint point to memory valid until the next call). On
	 * this loop. */
	struct pool *(*find_pool)(
		void *arg, struct view model, const struct auth_key *key, struct api_error *e);
	/* The first byte of a response came from a replica that was proving. On this loop; r is valid during
	 * the call. */
	void (*on_proved)(void *arg, struct pool_replica *r);
	/* A request on r has had no token and nothing of r has moved, as far as this loop knows: for half of
	 * what is allowed before a first token (over false), for all of limit_ms (over true). Control looks,
	 * and notes in r->moved_at what it sees moving. On this loop; r is valid during the call. */
	void (*on_silent)(void *arg, struct pool_replica *r, bool over, int64_t limit_ms);
	/* A request that starts no engine, whose pool runs nothing: true when it was answered from what is
	 * known of the model (the exchange is then the callee's); false: there is nothing to tell. */
	bool (*answer_unloaded)(void *arg, struct http_exchange *x, const struct route *route, struct pool *p,
		const char *request_id);
	void *arg;
};
struct proxy *proxy_new(const struct proxy_opts *o) MUST_CHECK;
/* Every request must be over. */
void proxy_free(struct proxy *px);
/* Takes the exchange over; called inside on_request. id: by proxy_request_id. key: who asks, or NULL; where
 * it has limits auth_key_begin let this request in, and what it used is charged at its end. */
void proxy_start(struct proxy *px, struct http_exchange *x, const struct route *route, const char *id,
	struct auth_key *key);
size_t proxy_running(const struct proxy *px);
/* The bound of bodies that begin from now on. */
void proxy_set_body_max(struct proxy *px, uint64_t bytes);

/* Those in flight, the newest first, into out[max]; how many. */
size_t proxy_records(struct proxy *px, struct req_record *out, size_t max);
/* Ends those in flight with this id or correlation id, wherever they are: the client gets an error of ours,
 * or a visible end; a lease cools. How many there were. */
unsigned proxy_cancel(struct proxy *px, struct view id, const char *by);

/* The replica was taken out of its pool: idle connections to it are closed; with cut those in use are too
 * (what was not answered moves on, streams end visibly). */
void proxy_replica_gone(struct proxy *px, struct pool_replica *r, bool cut);

/* The request's id: x-request-id or X-Correlation-Id when usable, else a new UUID. */
void proxy_request_id(const struct http_headers *h, char out[PROXY_REQUEST_ID_MAX + 1]);
/* Answers x with an error in the dialect's form, with the id's headers. The exchange is over. */
void proxy_reply_error(struct http_exchange *x, enum dialect d, const struct api_error *e);

#endif
