/* SPDX-License-Identifier: Apache-2.0
 *
 * What a request notes of itself on its way, for its record and for Server-Timing. Embedded in struct
 * request; its loop alone. Nothing is allocated, and nothing of a body is kept but the last bytes of the
 * answer's last piece; how many tokens there were is read in place, where engines tell it.
 */
#ifndef PROXY_LIFE_H
#define PROXY_LIFE_H

#include "dialect/usage.h"
#include "proxy/record.h"

enum { LIFE_BEGINNING = 1024 }; /* Anthropic's first event tells the prompt's tokens */

struct request;
struct life {
	char id[REQ_RECORD_ID_LEN + 1];
	char client[65];
	int64_t received_ms;
	mono_t wait_began;        /* MONO_ZERO: it does not wait */
	bool unready;             /* nothing of the pool ran when this wait began */
	int64_t wait_ns, load_ns; /* of waits that are over; load is a part of wait */
	mono_t sent;              /* the last time it was sent; MONO_ZERO: never */
	mono_t first_token;       /* the first piece of the answer left for the client */
	struct usage usage;
	struct usage_pieces pieces;
};

/* In the order of a request's way. */
void life_begin(struct request *q);
void life_waits(struct request *q, bool unready); /* it is in the queue */
void life_granted(struct request *q);             /* it has a lease, or needs none */
void life_sent(struct request *q);
void life_out(struct request *q, struct view v); /* v goes to the client */
void life_over(struct request *q, int status, const char *outcome, mono_t now);

/* As it stands now. */
void life_record(const struct request *q, struct req_record *r);
/* Of the prompt and the answer, once it is over: what a key is charged. */
uint64_t life_tokens(const struct request *q);
/* Server-Timing, X-Corral-Pool and, once there is one, X-Corral-Replica. */
void life_headers(const struct request *q, struct buf *head);

#endif
