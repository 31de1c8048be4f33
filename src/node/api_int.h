/* SPDX-License-Identifier: Apache-2.0
 *
 * What the node's routes share.
 */
#ifndef NODE_API_INT_H
#define NODE_API_INT_H

#include "node/node_int.h"

/* api.c */
void api_on_request(void *arg, struct http_exchange *x);
/* A request whose body is waited for, and what its path names. */
struct call;
typedef void call_fn(struct call *c); /* answers c->x, or takes it over (http_handle) */
struct call {
	struct node *node;
	struct http_exchange *x;
	struct buf body;
	char *id;
	call_fn *fn;
};
void api_with_body(struct node *n, struct http_exchange *x, struct view id, size_t max, call_fn *fn);
void api_error(struct http_exchange *x, int status, const char *fmt, ...) PRINTF(3, 4);
void api_stop_answer(struct node *n);

/* logs.c */
void logs_serve(struct node *n, struct http_exchange *x, const char *id);

#endif
