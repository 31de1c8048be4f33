/* SPDX-License-Identifier: Apache-2.0
 *
 * An answer that lasts, until it is ended or the client goes: an engine's log that is followed, events of
 * what takes its time. Whoever has one embeds it first.
 */
#ifndef NODE_STREAM_INT_H
#define NODE_STREAM_INT_H

#include "node/api_int.h"

enum { NODE_STREAMS_MAX = 64 }; /* of each kind */
enum stream_kind { STREAM_LOG, STREAM_WORK };

struct stream {
	struct list node;
	struct node *owner;
	struct http_exchange *x;
	const struct stream_ops *ops;
	bool full; /* the client takes no more for now */
};

struct stream_ops {
	enum stream_kind kind;
	void (*on_drained)(struct stream *s); /* NULL: no longer being full is all */
	void (*release)(struct stream *s);    /* all but its own memory; once */
};

bool stream_room(const struct node *n, enum stream_kind kind);
/* It counts from here on; nothing is answered yet. size: of what s is embedded in. */
void *stream_new(
	struct node *n, struct http_exchange *x, const struct stream_ops *ops, size_t size) MUST_CHECK;
/* 200. events: server-sent ones; else text. */
void stream_start(struct stream *s, bool events);
void stream_send(struct stream *s, struct view bytes);
void stream_free(struct stream *s); /* the exchange is the caller's again, or gone */
void stream_end(struct stream *s);  /* the answer is complete; s is gone */
void streams_done(struct node *n);  /* all of them end */

#endif
