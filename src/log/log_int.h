/* SPDX-License-Identifier: Apache-2.0
 *
 * The log's inside, for the files of this folder alone.
 */
#ifndef LOG_LOG_INT_H
#define LOG_LOG_INT_H

#include "base/buf.h"
#include "log/log.h"

enum {
	LOG_LINE_MAX = 64 * 1024,  /* one line with its newline */
	LOG_STRING_MAX = 8 * 1024, /* one string of it, before escaping; the rest is cut with an ellipsis */
	LOG_STOP_MS = 2000,        /* how long a sink that does not take anything holds up log_stop */
};

/* One event, borrowed for the call. */
struct log_record {
	int64_t wall_ms;
	enum log_level level;
	const char *actor, *action, *target; /* may be NULL */
	struct view human;                   /* not yet redacted */
	const struct log_field *fields;      /* may be NULL */
};
/* Both append one line with its newline and redact every string first. */
void log_format_json(struct buf *b, const struct log_record *r);
void log_format_console(struct buf *b, const struct log_record *r, bool colour);

/* True for names whose values are secrets: key, api_key, X-Api-Key, hf_token, password … */
bool log_key_is_secret(struct view key);

/* The writer: a bounded queue of lines, and of what becomes one on the thread that empties it into a
 * descriptor. */
struct log_writer;
enum { LOG_WAKE_BYTES = 64 * 1024 }; /* so much waits no longer for more */
/* Makes the line of an entry that waited; may leave b, which has room for LOG_MADE_MAX, as it is. False, with
 * b as it was: the line is lost, it is longer than LOG_LINE_MAX. */
enum { LOG_MADE_MAX = 2 * LOG_LINE_MAX };
typedef bool log_make_fn(void *arg, enum log_level level, log_line_fn *fn, const void *data, struct buf *b);
/* Appends the line that says how many were dropped. */
typedef void log_notice_fn(struct buf *b, void *arg, uint64_t n);
struct log_writer_opts {
	int fd;
	size_t bound; /* bytes that may wait, those being written included */
	log_notice_fn *notice;
	log_make_fn *make;
	void *arg;
};
int log_writer_new(struct log_writer **ret, const struct log_writer_opts *o) MUST_CHECK;
/* Queues a whole line or drops it with a count. Any thread; never blocks on the sink. */
void log_writer_put(struct log_writer *w, struct view line);
/* The same for an entry whose line is made later; the thread is not woken for it alone. */
void log_writer_later(
	struct log_writer *w, enum log_level level, log_line_fn *fn, const void *data, size_t n);
/* Writes what waits (LOG_STOP_MS at most when the sink takes nothing), ends the thread, frees. */
void log_writer_stop(struct log_writer *w);
void log_count_dropped(uint64_t n);

#endif
