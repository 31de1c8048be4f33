/* SPDX-License-Identifier: Apache-2.0
 *
 * A program that has llama-server's HTTP face and misbehaves on demand; for tests alone.
 *
 * One thread a connection, blocking sockets; every wait is a poll() on the client's socket, so that a
 * client that leaves (a half-close counts, as with llama-server) is noticed at once. What it answers
 * depends on the request alone: no clock, no random ids, so that bodies can be compared byte for byte.
 *
 *   fake_engine.c  the table of behaviours, flags, start and stop
 *   fake_conn.c    requests in, responses out, framing, faults
 *   fake_routes.c  the routes, the slots, the record of what came in
 *   fake_stream.c  generated answers in every dialect
 *   fake_util.c    SHA-256, a JSON scanner, the clock
 *
 * Bounds: request head 64 KiB, body 256 MiB, 128 headers, 1,000 recorded requests in memory.
 */
#ifndef FAKE_ENGINE_H
#define FAKE_ENGINE_H

#include <pthread.h>
#include <sys/types.h>

#include "base/buf.h"
#include "base/view.h"

/* Everything that can be asked for: by flag (--event-interval-us 10), environment
 * (FAKE_EVENT_INTERVAL_US=10), POST /fake/behave, or "fake": {"event_interval_us": 10} in a request. */
struct behave {
	int64_t ready_after_ms, listen_after_ms, health_status, health_lies, health_hang, exit_at_start;
	int64_t ignore_term, term_waits, term_exit, grandchild, log_flood_mb, leave_socket, stop_self_ms;
	int64_t idle_close_ms, max_requests, accept_silent, slot_linger_ms, props_ctx, props_slots;
	int64_t tokens, event_interval_us, prefill_ms, prefill_head, ping_ms, token_bytes, prompt_tokens;
	int64_t write_size, write_gap_us, chunk_size, status;
	char start_fails[64], abort_on[128], fault[256], framing[32], head[32], finish[32];
	char error_body[2048];
};

struct behave_field {
	const char *name; /* as in JSON; flags have '-' for '_' */
	size_t offset;
	size_t size; /* of a string; 0 = a number */
	int64_t preset;
	const char *help; /* NULL: a heading in --help */
};
extern const struct behave_field behave_fields[];
extern const size_t behave_field_count;

/* Sets from the members of a JSON object; unknown members are reported in *ret_unknown. */
void behave_set_json(struct behave *b, struct view object, struct view *ret_unknown);

/* The command line, read only after the start. */
struct options {
	const char *host, *alias, *model, *record;
	int64_t port, n_ctx, n_slots;
	bool embeddings, rerank, metrics, no_slots;
	int64_t started_us;
};

struct request {
	struct view method, path, query; /* in the connection's buffer */
	struct view head;                /* all of it, without the empty line */
	struct view body;                /* de-chunked */
	bool keep_alive;
};

struct conn {
	int fd;
	struct buf in;   /* bytes read and not yet used */
	struct buf body; /* the de-chunked body of the current request */
	int64_t served;
	bool broken; /* no more on this connection */
};

/* Where a fault happens: k >= 0 is "after k tokens". */
enum place {
	AT_REQUEST = -1,
	AT_HEAD = -2,
	AT_BODY = -3,
	AT_LAST = -4,
	AT_DONE = -5,
	AT_END = -6,
	AT_MID = -100
};

struct resp {
	struct conn *conn;
	const struct behave *b;
	struct buf out;  /* framed, not yet written */
	struct buf held; /* body bytes that wait for a full chunk, or for their length */
	bool stream, head_sent, hold, chunked;
	int status;
	const char *type;
	bool failed; /* the client is gone or a fault ended the connection */
};

struct fake {
	struct options opt;
	pthread_mutex_t lock; /* guards all below */
	pthread_cond_t changed;
	struct behave start, base; /* base = start, unless POST /fake/behave changed it */
	int64_t base_left;         /* requests for which base holds; -1 = for ever */
	bool *slots;
	int64_t *slot_tokens;
	int64_t accepted, open, requests, completed, cancelled, tokens;
	char *recorded[1000]; /* a ring of JSON objects */
	size_t recorded_count;
	int record_fd;
};
extern struct fake fake;

/* fake_conn.c */
void conn_serve(int fd);
/* Waits until the clock says until_us (-1: for ever). -1 when the client left before. */
int conn_wait(struct conn *c, int64_t until_us);
void resp_init(
	struct resp *r, struct conn *c, const struct behave *b, int status, const char *type, bool stream);
void resp_done(struct resp *r);
int resp_head(struct resp *r);
/* Adds body bytes; resp_flush writes what is complete. Both 0, or -1 when the connection is over. */
int resp_body(struct resp *r, struct view v);
int resp_flush(struct resp *r);
int resp_end(struct resp *r);
/* Runs the faults meant for this place (k for AT_MID: AT_MID - k). -1 = the response is over. */
int resp_fault(struct resp *r, int place);
bool fault_is_at(const struct behave *b, int place);
/* A whole answer with a length. */
void respond(struct conn *c, const struct behave *b, int status, const char *type, struct view body);
void respond_error(struct conn *c, const struct behave *b, int status, const char *type, const char *message);

/* fake_routes.c */
void route(struct conn *c, struct request *q);
bool fake_is_ready(const struct behave *b);
int slot_take(struct conn *c); /* -1: the client left while it waited */
void slot_give(int slot, const struct behave *b, bool cancelled);
void record_request(const struct request *q);

/* fake_stream.c */
enum dialect { CHAT, COMPLETIONS, NATIVE, MESSAGES, RESPONSES };
void generate(struct conn *c, const struct request *q, const struct behave *b, enum dialect d);
/* Tokens of the request's prompt: one a byte of the JSON value that holds it. */
int64_t prompt_tokens(const struct request *q, const struct behave *b);

/* fake_engine.c */
_Noreturn void fake_exit(int code); /* removes the socket unless told to leave it */
void log_flood(int64_t mb);
_Noreturn void die_by_signal(int sig);

/* fake_util.c */
int64_t now_us(void);
void sha256_hex(struct view v, char out[65]);
/* The raw text of a member of a JSON object (of an element: json_item); p = NULL when it is not there. */
struct view json_get(struct view object, const char *key);
bool json_item(struct view array_or_object, size_t *at, struct view *ret_key, struct view *ret_value);
int64_t json_int(struct view raw, int64_t other);
bool json_true(struct view raw);
/* A string's inside; escapes are left as they are. */
struct view json_text(struct view raw);
/* The whole number, or other. */
int64_t text_int(struct view v, int64_t other);

#endif
