/* SPDX-License-Identifier: Apache-2.0
 *
 * What clients speak: which path belongs to whom, what a request wants (model, stream) without parsing
 * its body into a tree, how an error reads in each dialect, and where one event of a stream ends.
 * Pure: no loop, no I/O, no thread.
 */
#ifndef DIALECT_DIALECT_H
#define DIALECT_DIALECT_H

#include "base/buf.h"
#include "base/err.h"

enum dialect { DIALECT_OPENAI, DIALECT_ANTHROPIC, DIALECT_OLLAMA, DIALECT_NATIVE };

/* ---- routes ---------------------------------------------------------------------------------------- */

enum route_kind {
	ROUTE_NONE = 0, /* not an engine route */
	ROUTE_CHAT,
	ROUTE_COMPLETIONS,
	ROUTE_RESPONSES,
	ROUTE_EMBEDDINGS,
	ROUTE_RERANK,
	ROUTE_MESSAGES,
	ROUTE_COUNT_TOKENS,
	ROUTE_COMPLETION,
	ROUTE_INFILL,
	ROUTE_TOKENIZE,
	ROUTE_DETOKENIZE,
	ROUTE_APPLY_TEMPLATE,
	ROUTE_EMBEDDING,
	ROUTE_TRANSCRIPTIONS,
	ROUTE_SPEECH,
	ROUTE_IMAGES,
	ROUTE_IMAGE_EDITS,
	ROUTE_PROPS,
	ROUTE_SLOTS,
	ROUTE_SLOT, /* POST /slots/{id}?action= */
	ROUTE_UPSTREAM,
};

struct route {
	enum route_kind kind;
	enum dialect dialect;
	const char *name; /* the label in metrics: "/v1/chat/completions"; constant */
	bool takes_lease;
	bool starts_engine;
	bool get;         /* a GET: never starts an engine; answered from the catalog when nothing runs */
	bool form;        /* a multipart/form-data body is taken too */
	struct view pool; /* ROUTE_UPSTREAM: the {pool} part of the path */
	struct view rest; /* ROUTE_UPSTREAM: what goes to the engine, with its leading slash */
};
enum route_answer { ROUTE_FOUND, ROUTE_UNKNOWN, ROUTE_WRONG_METHOD };
/* The label of a slot's route is "/slots/{id}". path: as sent, without the query. WRONG_METHOD: *ret_allow
 * names the methods ("POST"). Any method is taken on /upstream/…: POST takes a lease and starts an engine,
 * others do neither. */
enum route_answer dialect_route(
	struct view method, struct view path, struct route *ret, const char **ret_allow);
/* The dialect errors on this path are written in, whether the path is known or not. */
enum dialect dialect_of_path(struct view path);

/* ---- errors ---------------------------------------------------------------------------------------- */

enum corral_code {
	CODE_NONE = 0,
	CODE_INVALID_PARAMS,
	CODE_MODEL_NOT_FOUND,
	CODE_CONTEXT_EXCEEDED,
	CODE_DEADLINE_UNMET,
	CODE_UNAUTHENTICATED,
	CODE_FORBIDDEN,
	CODE_ADMISSION_REJECT,
	CODE_QUEUE_FULL_DROP_LRU,
	CODE_QUOTA_EXCEEDED,
	CODE_PAYLOAD_TOO_LARGE,
	CODE_POOL_UNREADY,
	CODE_POOL_UNAVAILABLE,
	CODE_NO_CAPACITY,
	CODE_ENGINE_FAILED,
	CODE_DECODE_TIMEOUT,
	CODE_WORKER_RESET,
	CODE_MODEL_RETIRED,
	CODE_UNTRUSTED_ARTIFACT,
	CODE_DIGEST_MISMATCH,
	CODE_CONFLICT,
	CODE_CANCELLED, /* by who runs the server: 499 */
	CODE_INTERNAL,
	CODE_COUNT
};
const char *corral_code_name(enum corral_code c); /* "INVALID_PARAMS" */
int corral_code_status(enum corral_code c);       /* 400 … */
bool corral_code_retriable(enum corral_code c);   /* the default */

struct api_error {
	enum corral_code code;
	int status; /* 0 = the code's own (INVALID_PARAMS also 405, 408, 415, 421, 431, 505; NOT FOUND routes
		       404) */
	struct view message; /* a sentence; empty: made from the code (CONTEXT_EXCEEDED: from the numbers) */
	struct view hint;    /* what to do; may be empty */
	struct view param;   /* the field that is wrong; may be empty */
	struct view pool_id;
	struct view request_id;
	int retriable;                   /* -1 = the code's default, 0, 1 */
	int64_t retry_after_ms;          /* 0: a second where it is retriable, else none */
	uint64_t n_prompt_tokens, n_ctx; /* CONTEXT_EXCEEDED; 0 = unknown */
	struct view more; /* further members of OpenAI's "error" object, as JSON: "\"errors\":[…]"; may be
			     empty */
	/* Of a response.failed event: its number (event_split.events), the response's model and time. */
	uint64_t sequence;
	struct view model;
	int64_t created_s;
};
int api_error_status(enum dialect d, const struct api_error *e); /* 529 for a full queue on /v1/messages */
/* Appends the body in the words of d. */
int api_error_body(enum dialect d, const struct api_error *e, struct buf *b);
/* Appends header lines ("Name: value\r\n") that go with it: x-should-retry on 401, 403, 409, 429 and 5xx,
 * Retry-After (whole seconds, rounded up) and retry-after-ms where retry_after_ms is set. */
int api_error_headers(enum dialect d, const struct api_error *e, struct buf *b);
/* Appends the header lines in which d's clients look for a request's id; every answer has them. id:
 * printable. */
void api_request_id_headers(enum dialect d, struct view id, struct buf *b);
/* Appends the error as the last event of a stream of this kind: "data: {…}\n\n", "event: error\ndata: …\n\n",
 * "event: response.failed\n…", or one NDJSON line. Never [DONE]. */
int api_error_event(const struct route *r, const struct api_error *e, struct buf *b);

/* Up to three of ids[n] closest to `wrong` (Damerau-Levenshtein, at most half its length away), as
 * "chat, coder"; empty when none is near. */
void dialect_nearest(struct view wrong, const char *const *ids, size_t n, struct buf *b);

/* ---- the body scanner ------------------------------------------------------------------------------ */

enum {
	SCAN_STRING_MAX = 512, /* of `model`; a longer one is refused */
	SCAN_USER_MAX = 128,   /* a longer one is left out */
	SCAN_KEY_MAX = 24,     /* the longest key of ours has 21 */
	SCAN_LIMITS = 4,       /* keys that bound the answer's tokens */
	SCAN_DEPTH_MAX = 128
};
/* Reads a JSON object's top level while it arrives, without keeping it. Reset with body_scan_init. Of a key
 * that stands twice parsers take the last, and so is it with `user` and the keys of max_tokens; `model` and
 * `stream` twice are refused. About 850 bytes; nothing is allocated. */
struct body_scan {
	/* results, final once body_scan_end returned 0 */
	bool has_model, has_stream, stream, has_user, has_max_tokens;
	uint32_t model_len, user_len;
	/* the largest of max_tokens, max_completion_tokens, max_output_tokens and n_predict */
	uint64_t max_tokens;
	uint64_t bytes;                  /* read so far */
	uint64_t model_begin, model_end; /* byte offsets of model's string, quotes included */
	uint64_t talk_at; /* byte offset behind the key of the messages (`messages`, `input`); 0: none */
	/* inside */
	const char *failed; /* what is wrong, at `bytes`; NULL: nothing is */
	bool seen_model, seen_stream;
	uint8_t state, number_state, field; /* field: what the value that is being read is for */
	uint8_t literal_at;
	const char *literal;
	uint64_t shift; /* what makes a byte's address its offset in the body */
	uint32_t depth;
	uint64_t stack[SCAN_DEPTH_MAX / 64]; /* a bit a level: 1 = object */
	bool is_key, too_long;               /* of the string being read */
	uint8_t keep;                        /* where its characters go */
	uint8_t hex_left, utf8_left, utf8_low, utf8_high;
	uint32_t hex, high;            /* high: the first half of a surrogate pair, 0 = none */
	uint32_t text_len, has_limits; /* has_limits: a bit each */
	uint64_t limits[SCAN_LIMITS];
	char text[SCAN_KEY_MAX]; /* the key or number being read */
	char user[SCAN_USER_MAX + 1], model[SCAN_STRING_MAX + 1];
};
void body_scan_init(struct body_scan *s);
/* 0, or -EINVAL: not a JSON object, or `model`/`stream` twice or of the wrong type. After an error everything
 * is ignored. */
int body_scan_feed(struct body_scan *s, struct view bytes);
int body_scan_end(struct body_scan *s); /* the body is complete */
/* What is wrong and at which byte. -EINVAL; 0 and *e as it was: nothing is. */
int body_scan_error(const struct body_scan *s, struct err *e);

/* ---- conversations ------------------------------------------------------------------------------- */

enum { TALK_LOOKED_AT = 64 * 1024 }; /* bytes of a body's messages that say whose conversation it is */
/* Of a body from talk_at on, or as much of that as is looked at: what the next turn begins with, too, which
 * is the messages up to the first of role "user". p NULL: there is none. */
struct view talk_beginning(struct view v);
uint64_t talk_hash(uint64_t seed, struct view v); /* never 0 */

/* ---- events ------------------------------------------------------------------------------------------ */

enum event_format { EVENTS_NONE, EVENTS_SSE, EVENTS_NDJSON };
enum event_format event_format_of(struct view content_type);

enum { EVENT_HOLD_MAX = 1024 * 1024 }; /* a longer event is passed through in pieces */

struct event_split {
	enum event_format format;
	bool terminal;   /* the stream's last event was seen whole: [DONE], message_stop,
			  * response.completed|failed|   incomplete, an error event, or an NDJSON line that is
			  * done or an error */
	bool started;    /* at least one event with data was whole */
	bool passing;    /* an event longer than EVENT_HOLD_MAX is being passed through in pieces */
	uint64_t events; /* whole events with data so far (comments are none) */
	uint64_t tokens; /* of them: no pings; what shows that the engine makes progress */
	/* inside */
	bool after_cr, has_data, ping, ends; /* ends: the event being read is the last one */
	uint8_t json_state;                  /* NDJSON: where in the line */
	uint32_t depth;
	size_t event_bytes; /* since the last event's end */
	uint32_t line_len;  /* of the line being read; its beginning is in line */
	char line[64];
};
void event_split_init(struct event_split *s, enum event_format f);
/* Reads new bytes; returns how many of them belong to whole events (the end of the last event in them), 0:
 * none ends here. What is after it is the tail to hold back. */
size_t event_split_feed(struct event_split *s, struct view bytes);
/* Where the first event of whole ones ends, a comment counted as one. */
size_t event_first(enum event_format f, struct view bytes);

#endif
