/* SPDX-License-Identifier: Apache-2.0
 *
 * Entries whose lines the log's thread makes (log_later): what becomes of them, who gets them, and what is
 * lost when there is no room.
 */
#include "sink.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/mem.h"
#include "base/num.h"
#include "log/log_int.h"

/* ---- what is logged ---------------------------------------------------------------------------------- */

/* {"t":…,"n":…,"pad":"xxx…"}, in console form "t=… n=…". */
struct said {
	int t, n;
	size_t pad;
};
static _Atomic unsigned made; /* calls of say */

static void say(const void *data, const struct log_how *how, struct buf *line)
{
	struct said s;
	memcpy(&s, data, sizeof s);
	atomic_fetch_add(&made, 1);
	if (how->console) {
		(void)buf_addf(line, "%s t=%d n=%d\n", how->actor, s.t, s.n);
		return;
	}
	(void)buf_addf(line, "{\"actor\":\"%s\",\"t\":%d,\"n\":%d,\"pad\":\"", how->actor, s.t, s.n);
	AUTO(mem_freep) char *pad = mem_alloc(s.pad + 1);
	memset(pad, 'x', s.pad);
	(void)buf_add(line, pad, s.pad / 2); /* in two pieces, each of which may not fit */
	(void)buf_add(line, pad, s.pad - s.pad / 2);
	(void)buf_adds(line, "\"}\n");
}

static void say_later(int t, int n, size_t pad)
{
	struct said s = { .t = t, .n = n, .pad = pad };
	log_later(LOG_INFO, say, &s, sizeof s);
}

/* The log's thread stays inside an entry's line until it is let go: what is logged meanwhile waits. */
struct gate {
	int entered[2], leave[2];
};

static void stay(const void *data, const struct log_how *how, struct buf *line)
{
	const struct gate *g;
	char c = 'x';
	memcpy(&g, data, sizeof g);
	assert_int_equal(write(g->entered[1], &c, 1), 1);
	assert_int_equal(read(g->leave[0], &c, 1), 1);
}

static void gate_close(struct gate *g)
{
	char c;
	assert_int_equal(pipe2(g->entered, O_CLOEXEC), 0);
	assert_int_equal(pipe2(g->leave, O_CLOEXEC), 0);
	log_later(LOG_INFO, stay, &g, sizeof g);
	assert_int_equal(read(g->entered[0], &c, 1), 1);
}

static void gate_open(struct gate *g)
{
	assert_int_equal(write(g->leave[1], "x", 1), 1);
}

static void gate_done(struct gate *g)
{
	for (int i = 0; i < 2; i++) {
		fd_close(g->entered[i]);
		fd_close(g->leave[i]);
	}
}

/* ---- what came out ------------------------------------------------------------------------------------ */

static struct view next_line(struct view *v)
{
	struct view line = view_cut(*v, view_find(*v, '\n'));
	assert_true(line.n < v->n); /* its newline is there */
	*v = view_from(*v, line.n + 1);
	return line;
}

static int number_after(struct view line, const char *key)
{
	ptrdiff_t at = view_search(line, view_str(key));
	uint64_t n = 0;
	assert_true(at >= 0);
	struct view digits = view_from(line, (size_t)at + strlen(key));
	assert_int_equal(num_u64(view_cut(digits, strspn(digits.p, "0123456789")), &n), 0);
	return (int)n;
}

/* One object with nothing of another in it. */
static bool is_whole(struct view line)
{
	return line.n > 2 && line.p[0] == '{' && line.p[line.n - 1] == '}' &&
	       !memchr(line.p + 1, '{', line.n - 1) && !memchr(line.p, '\n', line.n);
}

struct sink {
	int p[2];
	pthread_t thread;
	struct reader rd;
};

static void sink_open(struct sink *s, enum log_format format, size_t queue)
{
	assert_int_equal(pipe2(s->p, O_CLOEXEC), 0);
	s->rd = (struct reader){ .fd = s->p[0], .b = BUF(64 * MIB) };
	start(s->p[1], format, queue);
	pthread_create(&s->thread, NULL, reader_main, &s->rd);
}

/* The log's end; what came out is in s->rd.b. */
static void sink_end(struct sink *s)
{
	log_stop();
	fd_close(s->p[1]);
	pthread_join(s->thread, NULL);
	fd_close(s->p[0]);
}

static void sink_done(struct sink *s)
{
	buf_done(&s->rd.b);
}

static struct {
	_Atomic unsigned n;
	char last[LOG_LINE_MAX]; /* written under the tap's lock, read once the log has ended */
} heard;

/* On the log's thread: nothing is asserted here. */
static void hear(void *arg, struct view line)
{
	if (arg != &heard || !is_whole(line) || line.n >= sizeof heard.last)
		return;
	memcpy(heard.last, line.p, line.n);
	heard.last[line.n] = '\0';
	atomic_fetch_add(&heard.n, 1);
}

static int zero_counts(void **state)
{
	atomic_store(&made, 0);
	atomic_store(&heard.n, 0);
	heard.last[0] = '\0';
	return 0;
}

/* ---- the queue ---------------------------------------------------------------------------------------- */

static void one_alone_comes_out(void **state)
{
	int p[2];
	char c = 0;
	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	start(p[1], LOG_FORMAT_JSON, 0);
	for (int i = 0; i < 3; i++) { /* each while the thread is idle, and nothing follows it */
		say_later(0, i, 0);
		do {
			struct pollfd pf = { .fd = p[0], .events = POLLIN };
			assert_int_equal(poll(&pf, 1, 20000), 1);
			assert_int_equal(read(p[0], &c, 1), 1);
		} while (c != '\n');
	}
	assert_int_equal(atomic_load(&made), 3);
	log_stop();
	fd_close(p[0]);
	fd_close(p[1]);
}

static void the_end_writes_what_waits(void **state)
{
	struct sink s;
	struct gate g;
	sink_open(&s, LOG_FORMAT_JSON, 0);
	gate_close(&g);
	for (int i = 0; i < 100; i++)
		say_later(0, i, 10);
	gate_open(&g);
	sink_end(&s);
	assert_int_equal(count(&s.rd.b, "\n"), 100);
	sink_done(&s);
	gate_done(&g);
}

static void a_full_queue_drops_and_tells(void **state)
{
	enum { ENTRIES = 4000 };
	struct sink s;
	struct gate g;
	uint64_t before = log_dropped();
	sink_open(&s, LOG_FORMAT_JSON, 64 * KIB);
	gate_close(&g);
	for (int i = 0; i < ENTRIES; i++)
		say_later(0, i, 0);
	uint64_t dropped = log_dropped() - before;
	assert_true(dropped > 0 && dropped < ENTRIES);
	gate_open(&g);
	sink_end(&s);
	assert_int_equal(log_dropped() - before, dropped);
	assert_int_equal(told_dropped(&s.rd.b), dropped);
	struct view v = buf_view(&s.rd.b);
	for (int i = 0; i < ENTRIES - (int)dropped; i++) /* those that came first */
		assert_int_equal(number_after(next_line(&v), "\"n\":"), i);
	assert_true(view_search(next_line(&v), VIEW("drop_lines")) >= 0);
	assert_int_equal(v.n, 0);
	sink_done(&s);
	gate_done(&g);
}

/* A line may be many times as long as what it is made of: a whole queue of such is written all the same. */
static void a_queue_of_long_lines_is_written(void **state)
{
	enum { ENTRIES = 1000 };
	struct sink s;
	struct gate g;
	uint64_t before = log_dropped();
	sink_open(&s, LOG_FORMAT_JSON, 64 * KIB);
	log_set_tap(hear, &heard);
	gate_close(&g);
	for (int i = 0; i < ENTRIES; i++)
		say_later(0, i, 1000 + (size_t)i % 700);
	gate_open(&g);
	sink_end(&s);
	log_set_tap(NULL, NULL);
	assert_int_equal(log_dropped(), before);
	assert_int_equal(atomic_load(&heard.n), ENTRIES);
	struct view v = buf_view(&s.rd.b);
	for (int i = 0; i < ENTRIES; i++) {
		struct view line = next_line(&v);
		assert_true(is_whole(line));
		assert_int_equal(number_after(line, "\"n\":"), i);
		assert_true(line.n > 1000 + (size_t)i % 700); /* no piece of it is missing */
	}
	assert_int_equal(v.n, 0);
	sink_done(&s);
	gate_done(&g);
}

/* One that is too long is lost whole, and nothing of it is told to anybody; its neighbours are not touched.
 */
static void a_line_that_does_not_fit_is_lost_whole(void **state)
{
	static const size_t pads[] = { 0, LOG_LINE_MAX, 1, LOG_LINE_MAX + LOG_LINE_MAX / 2, 2,
		2 * LOG_LINE_MAX + 1000, 3, 3 * LOG_LINE_MAX, 4 };
	for (int console = 0; console < 2; console++) {
		struct sink s;
		uint64_t before = log_dropped();
		zero_counts(NULL);
		/* say's console form is short: the one the tap gets is too long all the same */
		sink_open(&s, console ? LOG_FORMAT_CONSOLE : LOG_FORMAT_JSON, 0);
		log_set_tap(hear, &heard);
		for (size_t i = 0; i < ARRAY_LEN(pads); i++)
			say_later(0, (int)i, pads[i]);
		sink_end(&s);
		log_set_tap(NULL, NULL);
		assert_int_equal(log_dropped() - before, console ? 0 : 4);
		assert_int_equal(told_dropped(&s.rd.b), console ? 0 : 4);
		assert_int_equal(atomic_load(&heard.n), 5);
		struct view v = buf_view(&s.rd.b);
		for (int i = 0; i < (int)ARRAY_LEN(pads); i++) {
			if (pads[i] >= LOG_LINE_MAX && !console)
				continue;
			struct view line = next_line(&v);
			assert_int_equal(number_after(line, console ? " n=" : "\"n\":"), i);
			if (!console)
				assert_true(is_whole(line));
		}
		sink_done(&s);
	}
}

/* ---- threads ------------------------------------------------------------------------------------------ */

enum { THREADS = 4, PER_THREAD = 3000 };

static void *say_many(void *arg)
{
	int t = *(int *)arg;
	for (int n = 0; n < PER_THREAD; n++) {
		struct log_field f[] = { LOG_INT("t", t), LOG_INT("n", n), LOG_END };
		if (n % 7 == 3)
			log_event(LOG_INFO, "count", NULL, f, "Now.");
		else
			say_later(t, n, (size_t)n % 50);
	}
	return NULL;
}

static void threads_keep_their_order(void **state)
{
	struct sink s;
	pthread_t t[THREADS];
	int ids[THREADS], next[THREADS] = { 0 };
	uint64_t before = log_dropped();
	sink_open(&s, LOG_FORMAT_JSON, 0);
	for (int i = 0; i < THREADS; i++) {
		ids[i] = i;
		pthread_create(&t[i], NULL, say_many, &ids[i]);
	}
	for (int i = 0; i < 500; i++) { /* listeners come and go */
		log_set_tap(hear, &heard);
		log_set_tap(NULL, NULL);
	}
	for (int i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
	sink_end(&s);
	assert_int_equal(log_dropped(), before); /* 4 MiB are room for all of them */
	for (struct view v = buf_view(&s.rd.b); v.n;) {
		struct view line = next_line(&v);
		assert_true(is_whole(line));
		int who = number_after(line, "\"t\":");
		assert_true(who < THREADS);
		assert_int_equal(number_after(line, "\"n\":"), next[who]);
		next[who]++;
	}
	for (int i = 0; i < THREADS; i++)
		assert_int_equal(next[i], PER_THREAD);
	sink_done(&s);
}

/* ---- who gets them ------------------------------------------------------------------------------------ */

static void nobody_listens(void **state)
{
	struct sink s;
	sink_open(&s, LOG_FORMAT_JSON, 0);
	log_set_level(LOG_WARN);
	say_later(1, 2, 3);
	sink_end(&s);
	assert_int_equal(atomic_load(&made), 0);
	assert_int_equal(s.rd.b.len, 0);
	log_set_level(LOG_INFO);
	sink_done(&s);
}

static void listeners_get_them(void **state)
{
	static const char json[] = "{\"actor\":\"tester\",\"t\":1,\"n\":2,\"pad\":\"xxx\"}";
	static const char text[] = "tester t=1 n=2";
	static const struct {
		enum log_format format;
		enum log_level level;
		bool listens;
		const char *sink; /* NULL: nothing */
		unsigned made;
	} rows[] = {
		{ LOG_FORMAT_JSON, LOG_INFO, false, json, 1 },
		{ LOG_FORMAT_JSON, LOG_INFO, true, json, 1 },
		{ LOG_FORMAT_JSON, LOG_WARN, true, NULL, 1 },
		{ LOG_FORMAT_CONSOLE, LOG_INFO, false, text, 1 },
		{ LOG_FORMAT_CONSOLE, LOG_INFO, true, text, 2 },
		{ LOG_FORMAT_CONSOLE, LOG_WARN, true, NULL, 1 },
	};
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct sink s;
		zero_counts(NULL);
		sink_open(&s, rows[i].format, 0);
		log_set_level(rows[i].level);
		if (rows[i].listens)
			log_set_tap(hear, &heard);
		say_later(1, 2, 3);
		sink_end(&s);
		log_set_tap(NULL, NULL);
		log_set_level(LOG_INFO);
		assert_int_equal(atomic_load(&heard.n), rows[i].listens);
		assert_string_equal(heard.last, rows[i].listens ? json : "");
		struct view v = buf_view(&s.rd.b);
		if (rows[i].sink)
			assert_true(view_eqs(next_line(&v), rows[i].sink));
		assert_int_equal(v.n, 0);
		assert_int_equal(atomic_load(&made), rows[i].made);
		sink_done(&s);
	}
}

/* They went before the line was made. */
static void listeners_that_left(void **state)
{
	struct sink s;
	struct gate g;
	sink_open(&s, LOG_FORMAT_JSON, 0);
	log_set_level(LOG_WARN);
	log_set_tap(hear, &heard);
	gate_close(&g);
	say_later(1, 2, 3);
	log_set_tap(NULL, NULL);
	gate_open(&g);
	sink_end(&s);
	log_set_level(LOG_INFO);
	assert_int_equal(atomic_load(&made), 0);
	assert_int_equal(atomic_load(&heard.n), 0);
	assert_int_equal(s.rd.b.len, 0);
	sink_done(&s);
	gate_done(&g);
}

static void debug_entries_are_not_for_listeners(void **state)
{
	struct sink s;
	struct said what = { .t = 1 };
	sink_open(&s, LOG_FORMAT_JSON, 0);
	log_set_tap(hear, &heard);
	log_later(LOG_DEBUG, say, &what, sizeof what);
	assert_int_equal(atomic_load(&made), 0);
	log_set_level(LOG_DEBUG);
	log_later(LOG_DEBUG, say, &what, sizeof what);
	sink_end(&s);
	log_set_tap(NULL, NULL);
	log_set_level(LOG_INFO);
	assert_int_equal(atomic_load(&heard.n), 0);
	assert_int_equal(count(&s.rd.b, "\n"), 1);
	sink_done(&s);
}

/* Before log_start and after log_stop they are lines at once. */
static void without_a_thread(void **state)
{
	int err = dup(2), file = memfd_create("stderr", MFD_CLOEXEC);
	assert_true(dup2(file, 2) == 2);
	log_set_tap(hear, &heard);
	say_later(1, 2, 3);
	errno = ENOTTY;
	say_later(1, 3, 3 * LOG_LINE_MAX);
	int left = errno;
	log_set_tap(NULL, NULL);
	dup2(err, 2);
	fd_close(err);
	AUTO(buf_done) struct buf b = BUF(1 * MIB);
	assert_int_equal(lseek(file, 0, SEEK_SET), 0);
	read_all(file, &b);
	fd_close(file);
	assert_int_equal(count(&b, "\"t\":1,\"n\":2,\"pad\":\"xxx\"}\n"), 1);
	assert_int_equal(count(&b, "\n"), 1);
	assert_int_equal(atomic_load(&heard.n), 1);
	assert_int_equal(left, ENOTTY);
}

/* ---- the line of it ----------------------------------------------------------------------------------- */

static void line_is_what_an_event_gives(void **state)
{
	const struct log_field fields[] = { LOG_STR("pool_id", "chat"), LOG_STR("none", NULL),
		LOG_STR("odd", "a\"b\\c\n\x01 Bearer abcdef"), LOG_STR("api_key", "abc"), LOG_INT("n", -1),
		LOG_UINT("u", UINT64_MAX), LOG_BOOL("b", true), LOG_END };
	static const char *const about[2] = { "ready", "chat" };
	for (int console = 0; console < 2; console++) {
		struct sink s;
		struct log_how how = { .actor = "tester", .console = console };
		AUTO(buf_done) struct buf line = BUF(LOG_LINE_MAX);
		int64_t at = wall_ms();
		sink_open(&s, console ? LOG_FORMAT_CONSOLE : LOG_FORMAT_JSON, 0);
		log_event(LOG_WARN, about[0], about[1], fields, "It %s with sk-abcdefghijkl.", "ends");
		sink_end(&s);
		log_line(&line, &how, LOG_WARN, at, about, VIEW("It ends with sk-abcdefghijkl."), fields);
		const char *mark = console ? " WARN " : "\",\"level\"";
		assert_string_equal(strstr(buf_str(&s.rd.b), mark), strstr(buf_str(&line), mark));
		sink_done(&s);
	}
}

int main(void)
{
	signal(SIGPIPE, SIG_IGN);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(without_a_thread, zero_counts),
		cmocka_unit_test_setup(one_alone_comes_out, zero_counts),
		cmocka_unit_test_setup(the_end_writes_what_waits, zero_counts),
		cmocka_unit_test_setup(a_full_queue_drops_and_tells, zero_counts),
		cmocka_unit_test_setup(a_queue_of_long_lines_is_written, zero_counts),
		cmocka_unit_test_setup(a_line_that_does_not_fit_is_lost_whole, zero_counts),
		cmocka_unit_test_setup(threads_keep_their_order, zero_counts),
		cmocka_unit_test_setup(nobody_listens, zero_counts),
		cmocka_unit_test_setup(listeners_get_them, zero_counts),
		cmocka_unit_test_setup(listeners_that_left, zero_counts),
		cmocka_unit_test_setup(debug_entries_are_not_for_listeners, zero_counts),
		cmocka_unit_test_setup(without_a_thread, zero_counts),
		cmocka_unit_test_setup(line_is_what_an_event_gives, zero_counts),
	};
	return cmocka_run_group_tests_name("log_later", tests, NULL, NULL);
}
