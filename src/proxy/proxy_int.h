/* SPDX-License-Identifier: Apache-2.0
 *
 * The proxy's inside.
 */
#ifndef PROXY_PROXY_INT_H
#define PROXY_PROXY_INT_H

#include "base/map.h"
#include "http/client.h"
#include "proxy/life.h"
#include "proxy/proxy.h"

enum request_state { REQ_BODY, REQ_WAIT, REQ_SENT, REQ_RELAY, REQ_OVER };

struct request {
	struct proxy *px;
	struct list node;        /* on px->requests until it is over */
	struct http_exchange *x; /* NULL once answered or the client left */
	struct route route;
	struct auth_key *key; /* a reference; NULL: none was needed */
	enum request_state state;
	struct view method; /* a constant */
	struct buf path;    /* what goes to the engine: path and query */
	struct spool spool;
	struct multipart_scan *form; /* of a multipart/form-data body; NULL: it is JSON, or not looked at */
	bool scanning;
	struct pool *pool; /* a reference */
	struct waiter waiter;
	bool waiting;  /* in the pool's queue, or its grant or refusal is on its way */
	bool orphaned; /* over, but a grant is on its way to it */
	struct lease lease;
	struct pool_replica *replica; /* a reference: the one it was sent to */
	struct http_call *call;
	struct loop_timer
		patience; /* max_wait while it waits, the client's own deadline until the answer begins */
	mono_t deadline;  /* the client's own; MONO_NEVER: none */
	uint64_t sent;    /* of the (rewritten) body */
	bool fresh;       /* the next try uses no pooled connection */
	bool stale;       /* this try began on a pooled connection that was closed */
	int attempts;     /* tries that failed */
	int failures;     /* of them: of replicas that live */
	/* progress.c */
	struct list quiet;       /* on px->quiet while it may have to be told something */
	mono_t progress_due;     /* when */
	uint64_t granted_before; /* leases of its pool when it began to wait */
	bool told; /* the head of a 200 went out with progress of ours; the answer has no other */
	/* silence.c */
	struct loop_timer silence;
	mono_t quiet_since; /* its last token, or when it was sent, or when its client took bytes again */
	uint64_t tokens;    /* of split, so far */
	bool spoke, paused; /* had its first token; its client is slow */
	bool told_silent;   /* control was told that its time is over */
	/* the answer */
	int status;
	struct buf head; /* header lines for the client */
	struct event_split split;
	struct buf
		hold; /* the tail of a stream after its last whole event; an error body being looked into */
	bool events, look_into, answer_ended;
	bool by_close; /* the answer has neither length nor chunks: it ends with its connection */
	int64_t answer_length;
	/* times */
	mono_t arrived, queued, granted, first_byte;
	bool waited;
	uint64_t bytes_out;
	struct life life;
	enum corral_code code; /* of an error of ours */
	struct loop_work freeing;
	/* Not cleared for the next request (request_new): most of it is never touched. */
	char id[PROXY_REQUEST_ID_MAX + 1];
	struct body_scan scan;
};

enum { GAPS_MAX = 32 };
/* The last gaps between two tokens of a stream. */
struct gaps {
	int64_t ns[GAPS_MAX];
	unsigned n; /* so many were added */
};
void gap_add(struct gaps *g, int64_t ns);
int64_t gap_median_ms(const struct gaps *g); /* 0: none was added */

/* What a loop keeps of a replica: pool_replica.per_loop. Made when a request is first sent there, until the
 * replica is gone (proxy_replica_gone): a stream on it may go on longer. */
struct replica_end {
	struct http_target *target;
	struct gaps gaps;
};
struct replica_end *replica_end(struct proxy *px, struct pool_replica *r); /* NULL: there is none */

struct pool_figures { /* metric series of one pool and route on this loop */
	char pool[POOL_ID_MAX + 1];
	const char *route; /* a constant */
	struct metric_series *duration, *first_byte, *queue_wait;
	struct {
		int status;
		struct metric_series *requests;
	} codes[8]; /* the first that came up */
	size_t ncodes;
};

struct proxy {
	struct proxy_opts o;
	struct list requests;
	size_t running;
	uint64_t next_id;   /* of records: starts anywhere, so that an old id names nothing after a restart */
	struct map figures; /* "pool route" → struct pool_figures */
	struct pool_figures *recent[64];
	/* Requests that are over, to be used again: with those that run as many as ran at once of late. */
	struct list spare;
	size_t nspare, peak;
	unsigned begun;             /* since the peak was looked at */
	struct buf head;            /* of a request to an engine, while it is put together */
	struct list quiet;          /* streams of whose answer nothing was relayed, the oldest first */
	struct loop_timer progress; /* the first of them that is to be told something, or before */
};

/* request.c */
void request_over(struct request *q);
/* One log line, and the figures. outcome: a constant. */
void request_record(struct request *q, int status, const char *outcome);
/* Answers with an error of ours: a status before the answer began, an event in it after. Ends the request. */
void request_fail(struct request *q, const struct api_error *e);
void request_failf(struct request *q, enum corral_code code, const char *hint, const char *fmt, ...)
	PRINTF(4, 5);
/* Takes a lease, or waits. again: it had one before. */
void request_acquire(struct request *q, bool again);
/* Gives the lease back; cool: the engine may still be working for us. */
void request_drop_lease(struct request *q, bool cool);

/* Nothing runs that could answer a request which must start no engine. */
bool request_pool_idle(const struct request *q);

/* failure.c: an engine's own error */
/* q->hold is the whole body of it. True: the client was answered in its dialect's words, and the request is
 * over. */
bool failure_translated(struct request *q);
/* What tells a client whether to ask again, where the engine does not. */
void failure_headers(const struct request *q, const struct http_headers *h, struct buf *b);

/* note.c */
void note_request(const struct request *q, int status, const char *outcome, mono_t now);

/* talk.c: whose conversation it is; nothing where its pool keeps none */
void talk_read(struct request *q); /* its body is complete, its pool known */
void talk_sent(struct request *q); /* to q->replica, now */
void talk_over(struct request *q, int64_t prompt, int64_t output, int64_t cached); /* -1: not known */

/* body.c: what the body wants. A body that is refused ends the request (_end: false). */
void request_scan_begin(struct request *q);
void request_scan(struct request *q, struct view v);
bool request_scan_end(struct request *q);

/* send.c */
void request_send(struct request *q);
void relay_writable(void *request);
void request_cut(struct request *q); /* the replica is taken away */
struct http_target *replica_target(struct proxy *px, struct pool_replica *r);

/* silence.c: how long a request on an engine may go without a token */
void silence_start(struct request *q); /* it was sent */
void silence_token(struct request *q); /* a token came */
void silence_data(struct request *q);  /* bytes came */
void silence_over(struct request *q);  /* its call's deadline passed: ends it */
void silence_pause(struct request *q, bool paused);
void silence_stop(struct request *q);

/* progress.c: what a stream is told that waits for its answer */
void progress_begin(struct request *q); /* its body is complete, its pool known */
void progress_end(struct request *q);   /* the answer begins, or it is over */
/* Where its pool stands, "starting chat 41 %"; *ret_ms: how long it may still take, 0: not known. */
void progress_text(struct request *q, char *out, size_t cap, int64_t *ret_ms);

/* retry.c: nothing of an answer was relayed yet */
/* The engine's connection failed: moves the request on, or ends it. */
void retry_error(struct request *q, enum http_fail f, const struct err *e);
/* The engine answers q->status, 5xx, its body in q->hold where it was kept. True: the request has moved on or
 * ended; false: nothing was changed, the answer is to be relayed. */
bool retry_status(struct request *q);
void retry_crashed_twice(struct request *q);
void retry_spent(struct request *q);
void retry_failed_often(struct request *q);

/* relay.c */
extern const struct http_call_ops relay_ops;
void relay_drained(struct request *q);

/* headers.c */
void headers_to_engine(const struct request *q, struct buf *b);
void headers_to_client(struct request *q, const struct http_headers *h);
void headers_own(const struct request *q, bool events, struct buf *b); /* what every answer says of its way */
/* Answers q's exchange x with an error, with what is known of the request's way. The exchange is over. */
void headers_reply_error(const struct request *q, struct http_exchange *x, const struct api_error *e);

#endif
