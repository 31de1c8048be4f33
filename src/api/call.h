/* SPDX-License-Identifier: Apache-2.0
 *
 * One request on its way between a data loop and the control loop. Everything below runs on the control
 * loop; a call ends with api_reply, api_fail or api_finish, or with on_gone when the client left (then
 * nothing more may be done with it).
 */
#ifndef API_CALL_H
#define API_CALL_H

#include <stdatomic.h>

#include "api/api.h"

struct api_call {
	/* constant once posted */
	struct api *api;
	struct loop *api_loop, *data_loop;
	enum http_method method;
	char *path, *query; /* query NULL: none */
	struct buf body;
	char request_id[132];
	struct auth_key *key; /* a reference; NULL: none was needed */
	char by[160];         /* who asks: "127.0.0.1:4711", "uid 1000 by unix socket", "key ci from …" */
	bool is_json;         /* content-type: application/json */
	/* both sides */
	atomic_uint refs;
	atomic_size_t unsent; /* bytes of a stream on their way to the client */
	/* control loop */
	struct loop_work arrive, leave;
	bool over;
	void (*on_gone)(void *arg);
	void (*on_drained)(void *arg); /* after api_send said "full" */
	void *arg;
	/* data loop */
	struct http_exchange *x; /* NULL: the client left or the answer is complete */
	bool blocked, posted;
	size_t held; /* of unsent: in the socket that says full */
};

void api_reply(struct api_call *c, int status, const char *type, const struct buf *block, struct view body);
void api_reply_json(struct api_call *c, int status, struct view body);
void api_fail(struct api_call *c, const struct api_error *e);
void api_failf(struct api_call *c, enum corral_code code, int status, const char *hint, const char *fmt, ...)
	PRINTF(5, 6);
/* A stream: headers at once, then bytes, then the end. */
void api_stream(struct api_call *c, const char *type, const struct buf *block);
bool api_send(struct api_call *c, struct view bytes); /* true: full, wait for on_drained */
void api_finish(struct api_call *c, bool complete);

struct loop *api_loop(const struct api *a);
/* routes.c */
void api_dispatch(struct api_call *c);

#endif
