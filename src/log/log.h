/* SPDX-License-Identifier: Apache-2.0
 *
 * Events for people and machines: JSON Lines, or a readable form on a terminal. One event is one
 * line: ts, level, actor, action, target, human (one sentence, present tense) and the fields given.
 *
 * Lines are formatted where they arise, appended to a bounded queue and written by a thread of its
 * own; a slow sink drops lines with a counter and never blocks a loop. What is logged for every request is
 * not even formatted there (log_later): the thread takes such events some milliseconds together. Secrets are
 * redacted before the line exists: values of keys named like secrets, and "Bearer …", become token:<6 hex of
 * SHA-256>. Any thread. Before log_start lines go to stderr directly.
 */
#ifndef LOG_LOG_H
#define LOG_LOG_H

#include "base/err.h"
#include "base/view.h"

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };
enum log_format { LOG_FORMAT_AUTO, LOG_FORMAT_JSON, LOG_FORMAT_CONSOLE };

struct log_opts {
	enum log_level level;
	enum log_format format; /* AUTO: console on a terminal, JSON elsewhere */
	const char *actor;      /* "orchestratord", "engine-provisioner" */
	int fd;                 /* 2 */
	size_t queue_bytes;     /* bound of what waits for the thread; 0 = 4 MiB */
};
int log_start(const struct log_opts *o, struct err *reterr) MUST_CHECK; /* starts the thread */
void log_stop(void); /* writes what waits, ends the thread */
void log_set_level(enum log_level level);
bool log_enabled(enum log_level level);
uint64_t log_dropped(void);

/* A field: key and value. Build with the macros below; the array ends with LOG_END. */
struct log_field {
	const char *key;
	enum { LF_END, LF_STR, LF_INT, LF_UINT, LF_DOUBLE, LF_BOOL } type;
	struct view s;
	union {
		int64_t i;
		uint64_t u;
		double d;
	};
};
#define LOG_END ((struct log_field){ .type = LF_END })
#define LOG_STR(k, v) ((struct log_field){ .key = (k), .type = LF_STR, .s = view_str(v) })
#define LOG_VIEW(k, v) ((struct log_field){ .key = (k), .type = LF_STR, .s = (v) })
#define LOG_INT(k, v) ((struct log_field){ .key = (k), .type = LF_INT, .i = (int64_t)(v) })
#define LOG_UINT(k, v) ((struct log_field){ .key = (k), .type = LF_UINT, .u = (uint64_t)(v) })
#define LOG_DOUBLE(k, v) ((struct log_field){ .key = (k), .type = LF_DOUBLE, .d = (v) })
#define LOG_BOOL(k, v) ((struct log_field){ .key = (k), .type = LF_BOOL, .i = (v) })

/* log_event(LOG_INFO, "ready", "chat", (struct log_field[]){ LOG_STR("pool_id", "chat"), LOG_END },
 *           "The replica answers after %lld ms.", ms);  fields may be NULL. A NULL string field is left out.
 */
void log_event(enum log_level level, const char *action, const char *target, const struct log_field *fields,
	const char *human, ...) PRINTF(5, 6);
/* Without fields. */
#define log_debug(action, target, ...) log_event(LOG_DEBUG, action, target, NULL, __VA_ARGS__)
#define log_info(action, target, ...) log_event(LOG_INFO, action, target, NULL, __VA_ARGS__)
#define log_warn(action, target, ...) log_event(LOG_WARN, action, target, NULL, __VA_ARGS__)
#define log_error(action, target, ...) log_event(LOG_ERROR, action, target, NULL, __VA_ARGS__)

/* For what every request logs: n bytes of data are copied (LOG_LATER_MAX at most), and the log's thread has
 * fn make the line of them, within LOG_GATHER_MS. fn appends one line with its newline, or nothing: what how
 * says of its form, secrets redacted (log_redact). A line longer than 64 KiB is dropped; no piece of it
 * may be longer than that. Pointers in data must be to constants. */
enum { LOG_LATER_MAX = 2048, LOG_GATHER_MS = 5 };
struct buf;
struct log_how {
	const char *actor;
	bool console, colour;
};
typedef void log_line_fn(const void *data, const struct log_how *how, struct buf *line);
void log_later(enum log_level level, log_line_fn *fn, const void *data, size_t n);
/* The line log_event would make of it, at that time. */
void log_line(struct buf *line, const struct log_how *how, enum log_level level, int64_t at_wall_ms,
	const char *const about[2] /* action, target */, struct view human, const struct log_field *fields);
/* Appends s, at most 8 KiB of it, with its secrets replaced. 0 or -ENOBUFS. */
int log_redact(struct buf *b, struct view s);

/* Called with every event at info and above, on the thread that logged it or the log's own, after it was
 * formatted as JSON (one line without the newline): /v1/events is fed by this. NULL removes it. Must not log.
 */
typedef void log_tap_fn(void *arg, struct view json_line);
void log_set_tap(log_tap_fn *fn, void *arg);

/* token:<first 6 hex digits of the SHA-256> for a secret that has to be named. */
enum { LOG_TOKEN_LEN = 12 };
void log_redact_token(struct view secret, char out[LOG_TOKEN_LEN + 1]);

#endif
