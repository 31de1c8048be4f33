/* SPDX-License-Identifier: Apache-2.0
 *
 * What is known of a request while it lives and after: a struct req_record holds no part of a body and no
 * pointer but to constants, so it may be copied anywhere.
 *
 * Those that live are read off a data loop's own list, on that loop (proxy_records). Those that ended go into
 * one struct req_records, shared by all loops: a ring of the last REQ_RECORDS_KEPT under a mutex that is held
 * while one is filled in, in its place. Memory: REQ_RECORDS_KEPT × sizeof(struct req_record) (1.1 MiB), taken
 * once; in a request itself struct life, about 300 bytes.
 */
#ifndef PROXY_RECORD_H
#define PROXY_RECORD_H

#include "base/clock.h"
#include "dialect/dialect.h"

enum {
	REQ_RECORDS_KEPT = 1000,
	REQ_RECORD_ID_LEN = 12, /* of the id: hexadecimal digits */
};

enum req_record_state {
	REQ_RECORD_READING,
	REQ_RECORD_QUEUED,
	REQ_RECORD_SENT,
	REQ_RECORD_STREAMING,
	REQ_RECORD_FINISHED
};
enum { REQ_RECORD_STATES = REQ_RECORD_FINISHED + 1 };
const char *req_record_state_name(enum req_record_state s);
bool req_record_state_of(struct view name, enum req_record_state *ret);

struct req_record {
	char id[REQ_RECORD_ID_LEN + 1];
	char correlation_id[129];
	const char *route; /* constant */
	char model[128];   /* asked for; cut */
	char pool[97], replica[97], device[65];
	char client[65];     /* address */
	char key[65];        /* the name of its key; empty: it needed none */
	char waited_for[97]; /* the replica, or while it waits what the pool is doing */
	char outcome[48];    /* empty while it lives */
	enum req_record_state state;
	enum corral_code code; /* of an error of ours */
	int status;            /* 0 while there is none */
	int retries;
	mono_t arrived, ended; /* ended: now, while it lives */
	int64_t received_ms;   /* wall clock */
	/* milliseconds; -1: not known (yet) */
	double queue_ms, load_ms, engine_ms; /* engine: from sending it to the head of the answer */
	double prefill_ms, first_token_ms;
	int64_t prompt_tokens, cached_tokens, output_tokens; /* -1: not known */
	bool counted;        /* output_tokens are events that were counted, since the engine told no number */
	double tokens_per_s; /* < 0: not known */
};

struct req_records;
struct req_records *req_records_new(void) MUST_CHECK;
void req_records_free(struct req_records *rs);
/* The place of the next record, to be filled whole; others wait until it is ended. From any thread. */
struct req_record *req_records_begin(struct req_records *rs) MUST_CHECK;
void req_records_end(struct req_records *rs);
/* The same with one that is copied. */
void req_records_add(struct req_records *rs, const struct req_record *r);
/* Copies those that are kept, the newest first, into out[REQ_RECORDS_KEPT]; how many. From any thread. */
size_t req_records_copy(struct req_records *rs, struct req_record *out);

/* A pool's usual: means over the finished records of it among those given that went well. */
struct req_record_usual {
	size_t n, n_speed;
	double duration_ms, tokens_per_s; /* < 0: nothing to go by */
};
struct req_record_usual req_record_usual(const struct req_record *all, size_t n, const char *pool);
/* It took, or has been taking, more than twice the pool's usual time, or gives tokens at less than half of
 * its usual speed. */
bool req_record_is_slow(const struct req_record *r, const struct req_record_usual *u);
double req_record_duration_ms(const struct req_record *r);
/* Appends it as a JSON object. */
void req_record_json(const struct req_record *r, const struct req_record_usual *u, mono_t now, struct buf *b);

#endif
