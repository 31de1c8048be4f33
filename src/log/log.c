/* SPDX-License-Identifier: Apache-2.0
 *
 * The log's front: level, tap, and where a line goes. The state below is the one of the process.
 */
#include "log/log.h"

#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "log/log_int.h"

static const size_t QUEUE_BYTES = 4 * MIB;

static struct {
	pthread_rwlock_t lock; /* read: one event on its way; write: start, stop, set_tap */
	struct log_writer *writer;
	struct log_how style; /* of the writer; the actor is ours */
	char *actor;
	pthread_mutex_t tap_lock; /* taken under lock, or by the log's thread alone */
	log_tap_fn *tap;
	void *tap_arg;
	pthread_mutex_t direct; /* one line at a time on stderr while no writer runs */
	atomic_int level;
	atomic_bool tapped;
	atomic_uint_fast64_t dropped;
} logger = {
	.lock = PTHREAD_RWLOCK_INITIALIZER,
	.direct = PTHREAD_MUTEX_INITIALIZER,
	.tap_lock = PTHREAD_MUTEX_INITIALIZER,
	.level = LOG_INFO,
};

/* With the lock held. */
static const char *actor(void)
{
	return logger.actor ? logger.actor : "corral";
}

void log_count_dropped(uint64_t n)
{
	atomic_fetch_add_explicit(&logger.dropped, n, memory_order_relaxed);
}

uint64_t log_dropped(void)
{
	return atomic_load_explicit(&logger.dropped, memory_order_relaxed);
}

void log_set_level(enum log_level level)
{
	atomic_store_explicit(&logger.level, (int)level, memory_order_relaxed);
}

bool log_enabled(enum log_level level)
{
	return (int)level >= atomic_load_explicit(&logger.level, memory_order_relaxed) ||
	       (level >= LOG_INFO && atomic_load_explicit(&logger.tapped, memory_order_relaxed));
}

void log_set_tap(log_tap_fn *fn, void *arg)
{
	pthread_mutex_lock(&logger.tap_lock);
	logger.tap = fn;
	logger.tap_arg = arg;
	atomic_store_explicit(&logger.tapped, fn != NULL, memory_order_relaxed);
	pthread_mutex_unlock(&logger.tap_lock);
}

static void tap(struct view json)
{
	pthread_mutex_lock(&logger.tap_lock);
	if (logger.tap)
		logger.tap(logger.tap_arg, view_cut(json, json.n - 1));
	pthread_mutex_unlock(&logger.tap_lock);
}

static struct log_how style_for(enum log_format format, int fd)
{
	bool tty = isatty(fd) == 1;
	const char *no_color = getenv("NO_COLOR"), *term = getenv("TERM");
	struct log_how s = { .console = format == LOG_FORMAT_CONSOLE || (format == LOG_FORMAT_AUTO && tty) };
	s.colour = s.console && tty && !(no_color && *no_color) && term && strcmp(term, "dumb") != 0;
	return s;
}

static void format_line(struct buf *b, const struct log_how *s, const struct log_record *r)
{
	if (s->console)
		log_format_console(b, r, s->colour);
	else
		log_format_json(b, r);
}

static void format_notice(struct buf *b, void *arg, uint64_t n)
{
	const struct log_how *s = arg;
	char text[96];
	int len = snprintf(text, sizeof text,
		"%llu line%s dropped because the log's reader was too slow or full.", (unsigned long long)n,
		n == 1 ? " was" : "s were");
	struct log_field fields[] = { LOG_UINT("lines", n), LOG_END };
	struct log_record r = { .wall_ms = wall_ms(),
		.level = LOG_WARN,
		.actor = s->actor,
		.action = "drop_lines",
		.target = "log",
		.human = view_of(text, (size_t)len),
		.fields = fields };
	format_line(b, s, &r);
}

/* While no writer runs. A reader that takes nothing for a second loses the line. */
static void write_direct(struct view line)
{
	pthread_mutex_lock(&logger.direct);
	while (line.n) {
		ssize_t k = write(STDERR_FILENO, line.p, line.n);
		if (k >= 0) {
			line = view_from(line, (size_t)k);
			continue;
		}
		struct pollfd p = { .fd = STDERR_FILENO, .events = POLLOUT };
		if (errno == EINTR || ((errno == EAGAIN || errno == EWOULDBLOCK) && poll(&p, 1, 1000) > 0))
			continue;
		log_count_dropped(1);
		break;
	}
	pthread_mutex_unlock(&logger.direct);
}

/* Appends fn's line. One that is too long, of which pieces may be missing, is taken away again: false. */
static bool make_one(log_line_fn *fn, const void *data, const struct log_how *how, struct buf *b)
{
	size_t had = b->len;
	fn(data, how, b);
	if (b->len == had || (b->len - had <= LOG_LINE_MAX && b->data[b->len - 1] == '\n'))
		return true;
	b->len = had;
	b->data[had] = '\0';
	return false;
}

/* On the log's thread: an entry that waited. */
static bool make_line(void *arg, enum log_level level, log_line_fn *fn, const void *data, struct buf *b)
{
	const struct log_how *how = arg;
	bool out = (int)level >= atomic_load_explicit(&logger.level, memory_order_relaxed);
	size_t from = b->len;
	bool whole = !out || make_one(fn, data, how, b);
	if (level < LOG_INFO || !atomic_load_explicit(&logger.tapped, memory_order_relaxed))
		return whole;
	AUTO(buf_done) struct buf json = BUF(LOG_MADE_MAX);
	struct log_how plain = { .actor = how->actor };
	struct view v = view_from(buf_view(b), from);
	if (!out || how->console) {
		(void)make_one(fn, data, &plain, &json);
		v = buf_view(&json);
	}
	if (v.n)
		tap(v);
	return whole;
}

int log_start(const struct log_opts *o, struct err *reterr)
{
	pthread_rwlock_wrlock(&logger.lock);
	int r = logger.writer ? -EALREADY : 0;
	if (!r) {
		mem_setstr(&logger.actor, o->actor);
		logger.style = style_for(o->format, o->fd);
		logger.style.actor = actor();
		log_set_level(o->level);
		struct log_writer_opts wo = { .fd = o->fd,
			.bound = o->queue_bytes ? o->queue_bytes : QUEUE_BYTES,
			.notice = format_notice,
			.make = make_line,
			.arg = &logger.style };
		r = log_writer_new(&logger.writer, &wo);
	}
	pthread_rwlock_unlock(&logger.lock);
	return r ? err_set(reterr, r, "the log cannot be started: %s", strerror(-r)) : 0;
}

void log_stop(void)
{
	pthread_rwlock_wrlock(&logger.lock);
	/* Other threads' events wait here, so that none of their lines lands inside one being written. */
	if (logger.writer)
		log_writer_stop(logger.writer);
	logger.writer = NULL;
	pthread_rwlock_unlock(&logger.lock);
}

static void deliver(enum log_level level, struct log_record *r)
{
	AUTO(buf_done) struct buf line = BUF(LOG_LINE_MAX);
	AUTO(buf_done) struct buf json = BUF(LOG_LINE_MAX);
	pthread_rwlock_rdlock(&logger.lock);
	r->actor = actor();
	bool out = (int)level >= atomic_load_explicit(&logger.level, memory_order_relaxed);
	struct log_how style = logger.writer ? logger.style : style_for(LOG_FORMAT_AUTO, STDERR_FILENO);
	if (out)
		format_line(&line, &style, r);
	if (level >= LOG_INFO && atomic_load_explicit(&logger.tapped, memory_order_relaxed)) {
		bool same = out && !style.console;
		if (!same)
			log_format_json(&json, r);
		tap(buf_view(same ? &line : &json));
	}
	if (out && logger.writer)
		log_writer_put(logger.writer, buf_view(&line));
	else if (out)
		write_direct(buf_view(&line));
	pthread_rwlock_unlock(&logger.lock);
}

void log_later(enum log_level level, log_line_fn *fn, const void *data, size_t n)
{
	assert(n <= LOG_LATER_MAX);
	if (!log_enabled(level))
		return;
	pthread_rwlock_rdlock(&logger.lock);
	if (logger.writer) {
		log_writer_later(logger.writer, level, fn, data, n);
	} else {
		int saved = errno;
		AUTO(buf_done) struct buf line = BUF(LOG_MADE_MAX);
		struct log_how how = style_for(LOG_FORMAT_AUTO, STDERR_FILENO);
		how.actor = actor();
		if (!make_line(&how, level, fn, data, &line))
			log_count_dropped(1);
		write_direct(buf_view(&line));
		errno = saved;
	}
	pthread_rwlock_unlock(&logger.lock);
}

void log_line(struct buf *line, const struct log_how *how, enum log_level level, int64_t at_wall_ms,
	const char *const about[2], struct view human, const struct log_field *fields)
{
	struct log_record r = { .wall_ms = at_wall_ms,
		.level = level,
		.actor = how->actor,
		.action = about[0],
		.target = about[1],
		.human = human,
		.fields = fields };
	format_line(line, how, &r);
}

void log_event(enum log_level level, const char *action, const char *target, const struct log_field *fields,
	const char *human, ...)
{
	if (!log_enabled(level))
		return;
	int saved = errno;
	char small[512];
	AUTO(mem_freep) char *large = NULL;
	va_list ap, again;
	va_start(ap, human);
	va_copy(again, ap);
	int n = vsnprintf(small, sizeof small, human, ap);
	if (n >= (int)sizeof small)
		large = mem_vfmt(human, again);
	va_end(again);
	va_end(ap);
	struct log_record r = { .wall_ms = wall_ms(),
		.level = level,
		.action = action,
		.target = target,
		.human = view_of(large ? large : small, n < 0 ? 0 : (size_t)n),
		.fields = fields };
	deliver(level, &r);
	errno = saved;
}
