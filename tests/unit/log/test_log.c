/* SPDX-License-Identifier: Apache-2.0
 *
 * The log, from the outside: pipes and files as sinks, what is in a line, what is not.
 */
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/mem.h"
#include "base/num.h"
#include "log/log.h"
#include "log/log_int.h"
#include "sink.h"

/* Logs one event to a pipe and gives its line. */
static void one_line(struct buf *out, enum log_format format, const struct log_field *f, const char *human)
{
	int p[2];
	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	start(p[1], format, 0);
	log_event(LOG_INFO, "ready", "chat", f, "%s", human);
	log_stop();
	fd_close(p[1]);
	read_all(p[0], out);
	fd_close(p[0]);
}

static void json_line_has_every_field(void **state)
{
	AUTO(buf_done) struct buf b = BUF(1 * MIB);
	struct log_field f[] = { LOG_STR("pool_id", "chat"), LOG_INT("n", -5), LOG_UINT("u", UINT64_MAX),
		LOG_DOUBLE("d", 1.5), LOG_DOUBLE("nan", 0.0 / 0.0), LOG_BOOL("yes", true),
		LOG_STR("none", NULL), LOG_STR("empty", ""), LOG_END };
	one_line(&b, LOG_FORMAT_JSON, f, "It \"works\".\n");
	const char *s = buf_str(&b);
	assert_int_equal(count(&b, "\n"), 1);
	assert_int_equal(s[b.len - 1], '\n');
	assert_int_equal(strncmp(s, "{\"ts\":\"20", 9), 0);
	assert_non_null(strstr(s,
		"Z\",\"level\":\"info\",\"actor\":\"tester\",\"action\":\"ready\",\"target\":\"chat\","
		"\"human\":\"It \\\"works\\\".\\n\",\"pool_id\":\"chat\",\"n\":-5,"
		"\"u\":18446744073709551615,\"d\":1.5,\"nan\":null,\"yes\":true,\"empty\":\"\"}\n"));
}

static void console_line_is_plain_on_a_pipe(void **state)
{
	AUTO(buf_done) struct buf b = BUF(1 * MIB);
	struct log_field f[] = { LOG_STR("pool_id", "a b"), LOG_STR("token", "abc"), LOG_END };
	one_line(&b, LOG_FORMAT_CONSOLE, f, "Clears \033[2J the screen\r\n\xc2\x9b.");
	const char *s = buf_str(&b);
	assert_null(strchr(s, '\033'));
	assert_null(strchr(s, '\r'));
	assert_non_null(strstr(s, "info  Clears \\x1b[2J the screen\\x0d\\n\\x9b."));
	assert_non_null(strstr(s, "action=ready target=chat pool_id=\"a b\" token=\"token:ba7816\""));
	assert_int_equal(count(&b, "\n"), 1);
}

static void long_lines_are_cut_and_stay_json(void **state)
{
	AUTO(buf_done) struct buf b = BUF(1 * MIB);
	AUTO(mem_freep) char *big = mem_alloc(100001);
	memset(big, '\x01', 100000);
	struct log_field f[] = { LOG_STR("a", big), LOG_STR("b", big), LOG_INT("last", 1), LOG_END };
	one_line(&b, LOG_FORMAT_JSON, f, "Big.");
	assert_true(b.len <= LOG_LINE_MAX);
	assert_non_null(strstr(buf_str(&b), ",\"cut\":true}\n"));
	assert_int_equal(count(&b, "\n"), 1);
}

static void redaction_table(void **state)
{
	/* %T stands for the token of the secret named beside it. */
	static const struct {
		const char *in, *secret, *out;
	} rows[] = {
		{ "nothing here", "", "nothing here" },
		{ "", "", "" },
		{ "Authorization: Bearer abc.def-1", "abc.def-1", "Authorization: Bearer %T" },
		{ "got bearer xyz, refused", "xyz", "got bearer %T, refused" },
		{ "key sk-abcdefgh1234 used", "sk-abcdefgh1234", "key %T used" },
		{ "(hf_AbCdEfGhIj)", "hf_AbCdEfGhIj", "(%T)" },
		{ "task-abcdefghijkl", "", "task-abcdefghijkl" },
		{ "disk-full risk-averse", "", "disk-full risk-averse" },
		{ "GET /v1?api_key=s3cret&model=x", "s3cret", "GET /v1?api_key=%T&model=x" },
		{ "{\"api_key\": \"s3cret\", \"a\":1}", "s3cret", "{\"api_key\": \"%T\", \"a\":1}" },
		{ "llama-server --api-key s3cret -c 1", "s3cret", "llama-server --api-key %T -c 1" },
		{ "--api-key=s3cret", "s3cret", "--api-key=%T" },
		{ "--api-key-file /etc/k", "", "--api-key-file /etc/k" },
		{ "HF_TOKEN=abc", "abc", "HF_TOKEN=%T" },
		{ "password: hunter2", "hunter2", "password: %T" },
		{ "unexpected token: comma", "", "unexpected token: comma" },
		{ "unknown key: listn", "", "unknown key: listn" },
		{ "monkey=banana", "", "monkey=banana" },
		{ "Bearer token:ba7816", "", "Bearer token:ba7816" },
		{ "Bearer ", "", "Bearer " },
		{ "key=", "", "key=" },
		{ "x-api-key: abc", "abc", "x-api-key: %T" },
	};
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		AUTO(buf_done) struct buf b = BUF(4096);
		AUTO(buf_done) struct buf want = BUF(4096);
		char token[LOG_TOKEN_LEN + 1];
		log_redact_token(view_str(rows[i].secret), token);
		const char *t = strstr(rows[i].out, "%T");
		(void)buf_add(&want, rows[i].out, t ? (size_t)(t - rows[i].out) : strlen(rows[i].out));
		if (t) {
			(void)buf_adds(&want, token);
			(void)buf_adds(&want, t + 2);
		}
		assert_int_equal(log_redact(&b, view_str(rows[i].in)), 0);
		assert_string_equal(buf_str(&b), buf_str(&want));
	}
	char token[LOG_TOKEN_LEN + 1];
	log_redact_token(VIEW("abc"), token);
	assert_string_equal(token, "token:ba7816");
}

static void secret_key_names(void **state)
{
	static const char *const yes[] = { "key", "api_key", "X-Api-Key", "hf_token", "PASSWORD",
		"client_secret", "authorization", "cookie" };
	static const char *const no[] = { "monkey", "tokens_in", "key_name", "pool_id", "tokens", "",
		"tokenizer" };
	for (size_t i = 0; i < ARRAY_LEN(yes); i++)
		assert_true(log_key_is_secret(view_str(yes[i])));
	for (size_t i = 0; i < ARRAY_LEN(no); i++)
		assert_false(log_key_is_secret(view_str(no[i])));
}

static void cut_does_not_leave_half_a_secret(void **state)
{
	AUTO(buf_done) struct buf in = BUF(1 * MIB);
	AUTO(buf_done) struct buf out = BUF(1 * MIB);
	while (in.len < LOG_STRING_MAX - 5)
		(void)buf_adds(&in, ".");
	(void)buf_adds(&in, "sk-abcdefghijklmnop");
	assert_int_equal(log_redact(&out, buf_view(&in)), 0);
	assert_null(strstr(buf_str(&out), "sk-"));
}

static void levels_are_kept_to(void **state)
{
	AUTO(buf_done) struct buf b = BUF(1 * MIB);
	int p[2];
	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	start(p[1], LOG_FORMAT_AUTO, 0);
	log_debug("a", NULL, "debug one");
	log_set_level(LOG_DEBUG);
	log_debug("a", NULL, "debug two");
	log_set_level(LOG_ERROR);
	log_warn("a", NULL, "warn");
	log_error("a", NULL, "error");
	assert_false(log_enabled(LOG_INFO));
	log_set_level(LOG_INFO);
	log_stop();
	fd_close(p[1]);
	read_all(p[0], &b);
	fd_close(p[0]);
	assert_null(strstr(buf_str(&b), "debug one"));
	assert_non_null(strstr(buf_str(&b), "debug two"));
	assert_null(strstr(buf_str(&b), "\"warn\""));
	assert_non_null(strstr(buf_str(&b), "\"error\""));
}

static void slow_sink_drops_and_tells(void **state)
{
	int p[2];
	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	uint64_t before = log_dropped();
	start(p[1], LOG_FORMAT_JSON, 64 * KIB);
	enum { LINES = 5000 };
	for (int i = 0; i < LINES; i++) /* nobody reads; this must come back all the same */
		log_info("fill", "pipe", "line %d of the flood", i);
	uint64_t dropped = log_dropped() - before;
	assert_true(dropped > 0 && dropped < LINES);
	AUTO(buf_done) struct buf b = BUF(8 * MIB);
	/* The sink works again: the lines about the drops come unasked. */
	while (count(&b, "of the flood") + told_dropped(&b) < LINES) {
		struct pollfd pf = { .fd = p[0], .events = POLLIN };
		assert_int_equal(poll(&pf, 1, 20000), 1);
		char *to = buf_room(&b, 4096);
		ssize_t k = read(p[0], to, 4096);
		assert_true(k > 0);
		buf_grew(&b, (size_t)k);
	}
	log_info("after", "pipe", "after the flood");
	log_stop();
	fd_close(p[1]);
	read_all(p[0], &b);
	fd_close(p[0]);
	assert_int_equal(count(&b, "of the flood"), LINES - dropped);
	assert_int_equal(told_dropped(&b), dropped);
	assert_non_null(strstr(buf_str(&b), "after the flood"));
	for (struct view v = buf_view(&b), line; v.n; v = view_from(v, line.n + 1)) {
		line = view_cut(v, view_find(v, '\n'));
		assert_true(line.n > 2 && line.p[0] == '{' && line.p[line.n - 1] == '}');
	}
}

/* A sink that never takes anything holds log_stop up for its bound and no longer. */
static void stuck_sink_does_not_hold_up_the_end(void **state)
{
	int kinds[3][2];
	assert_int_equal(pipe2(kinds[0], O_CLOEXEC), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, kinds[1]), 0);
	assert_int_equal(pipe2(kinds[2], O_CLOEXEC | O_NONBLOCK), 0);
	for (size_t k = 0; k < ARRAY_LEN(kinds); k++) {
		uint64_t before = log_dropped();
		start(kinds[k][1], LOG_FORMAT_JSON, 1 * MIB);
		for (int i = 0; i < 8000; i++)
			log_info("fill", "pipe", "line %d", i);
		log_stop();
		assert_true(log_dropped() > before);
		fd_close(kinds[k][0]);
		fd_close(kinds[k][1]);
	}
}

static void gone_reader_is_survived(void **state)
{
	int p[2];
	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	uint64_t before = log_dropped();
	start(p[1], LOG_FORMAT_JSON, 0);
	fd_close(p[0]);
	for (int i = 0; i < 10; i++)
		log_info("fill", "pipe", "line %d", i);
	log_stop();
	fd_close(p[1]);
	assert_int_equal(log_dropped() - before, 10);
}

static void full_disk_is_survived(void **state)
{
	int fd = open("/dev/full", O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		skip();
	uint64_t before = log_dropped();
	start(fd, LOG_FORMAT_JSON, 0);
	for (int i = 0; i < 10; i++)
		log_info("fill", "disk", "line %d", i);
	log_stop();
	fd_close(fd);
	assert_int_equal(log_dropped() - before, 10);
}

struct limited {
	char path[64];
	int fd;
};

/* A file that takes only so many bytes (RLIMIT_FSIZE would end the process without SIGXFSZ ignored):
 * the line that was cut is completed first, then the count, then what comes new. */
static void cut_line_is_completed(void **state)
{
	struct limited f;
	snprintf(f.path, sizeof f.path, "/tmp/corral-log-XXXXXX");
	f.fd = mkostemp(f.path, O_CLOEXEC);
	assert_true(f.fd >= 0);
	signal(SIGXFSZ, SIG_IGN);
	struct rlimit old, lim;
	getrlimit(RLIMIT_FSIZE, &old);
	lim = old;
	lim.rlim_cur = 1000;
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &lim), 0);
	uint64_t before = log_dropped();
	start(f.fd, LOG_FORMAT_JSON, 0);
	for (int i = 0; i < 100; i++)
		log_info("fill", "disk", "line %d", i);
	mono_t by = mono_add_ms(mono_now(), 20000);
	while (log_dropped() == before && mono_before(mono_now(), by))
		sched_yield();
	assert_true(log_dropped() > before);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
	log_info("after", "disk", "room again");
	log_stop();
	fd_close(f.fd);
	AUTO(buf_done) struct buf b = BUF(1 * MIB);
	assert_int_equal(file_read(f.path, &b), 0);
	unlink(f.path);
	assert_int_equal(count(&b, "\"fill\"") + (log_dropped() - before), 100);
	assert_int_equal(count(&b, "room again"), 1);
	for (struct view v = buf_view(&b), line; v.n; v = view_from(v, line.n + 1)) {
		line = view_cut(v, view_find(v, '\n'));
		assert_true(line.p[0] == '{' && line.p[line.n - 1] == '}');
	}
}

enum { PER_THREAD = 3000 };
static void *log_many(void *arg)
{
	int id = *(int *)arg;
	struct log_field f[] = { LOG_INT("thread", id), LOG_STR("authorization", "Bearer zzz"), LOG_END };
	for (int i = 0; i < PER_THREAD; i++)
		log_event(LOG_INFO, "count", "thread", f, "thread %d counts %d with sk-abcdefghijkl", id, i);
	return NULL;
}

static _Atomic unsigned tapped;
static void on_tap(void *arg, struct view line)
{
	assert_ptr_equal(arg, &tapped);
	if (line.p[0] == '{' && line.p[line.n - 1] == '}' && !memchr(line.p, '\n', line.n))
		atomic_fetch_add(&tapped, 1);
}

static void four_threads_keep_lines_whole(void **state)
{
	int p[2];
	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	uint64_t before = log_dropped();
	struct reader rd = { .fd = p[0], .b = BUF(32 * MIB) };
	pthread_t reader, t[4];
	int ids[4];
	start(p[1], LOG_FORMAT_JSON, 0);
	log_set_tap(on_tap, &tapped);
	pthread_create(&reader, NULL, reader_main, &rd);
	for (int i = 0; i < 4; i++) {
		ids[i] = i;
		pthread_create(&t[i], NULL, log_many, &ids[i]);
	}
	for (int i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	log_set_tap(NULL, NULL);
	log_stop();
	fd_close(p[1]);
	pthread_join(reader, NULL);
	fd_close(p[0]);
	assert_int_equal(atomic_load(&tapped), 4 * PER_THREAD);
	assert_int_equal(count(&rd.b, "\"count\"") + (log_dropped() - before), 4 * PER_THREAD);
	assert_int_equal(count(&rd.b, "sk-abc"), 0);
	assert_int_equal(count(&rd.b, "zzz"), 0);
	buf_done(&rd.b);
}

static void tap_sees_what_the_level_hides(void **state)
{
	int p[2];
	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	start(p[1], LOG_FORMAT_CONSOLE, 0);
	log_set_level(LOG_ERROR);
	atomic_store(&tapped, 0);
	log_set_tap(on_tap, &tapped);
	log_debug("a", "b", "no");
	log_info("a", "b", "yes");
	log_error("a", "b", "yes");
	log_set_tap(NULL, NULL);
	log_info("a", "b", "no more");
	log_set_level(LOG_INFO);
	log_stop();
	fd_close(p[1]);
	AUTO(buf_done) struct buf b = BUF(1 * MIB);
	read_all(p[0], &b);
	fd_close(p[0]);
	assert_int_equal(atomic_load(&tapped), 2);
	assert_int_equal(count(&b, "\n"), 1);
}

static void works_before_start_and_after_stop(void **state)
{
	int p[2], err = dup(2);
	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	assert_true(dup2(p[1], 2) == 2);
	log_info("early", NULL, "before");
	start(p[1], LOG_FORMAT_JSON, 0);
	struct log_opts again = { .fd = p[1] };
	struct err e = { 0 };
	assert_int_equal(log_start(&again, &e), -EALREADY);
	assert_non_null(strstr(e.msg, "cannot be started"));
	log_info("mid", NULL, "between");
	log_stop();
	log_info("late", NULL, "after");
	log_stop(); /* twice is fine */
	dup2(err, 2);
	fd_close(err);
	fd_close(p[1]);
	AUTO(buf_done) struct buf b = BUF(1 * MIB);
	read_all(p[0], &b);
	fd_close(p[0]);
	assert_int_equal(count(&b, "\n"), 3);
	assert_int_equal(count(&b, "{\"ts\""), 3);
	assert_non_null(strstr(strstr(strstr(buf_str(&b), "early"), "mid"), "late"));
}

static void errno_is_kept(void **state)
{
	int fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
	start(fd, LOG_FORMAT_JSON, 0);
	errno = ENOTTY;
	log_info("a", "b", "%s", "c");
	assert_int_equal(errno, ENOTTY);
	log_stop();
	fd_close(fd);
}

int main(void)
{
	signal(SIGPIPE, SIG_IGN);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(works_before_start_and_after_stop),
		cmocka_unit_test(json_line_has_every_field),
		cmocka_unit_test(console_line_is_plain_on_a_pipe),
		cmocka_unit_test(long_lines_are_cut_and_stay_json),
		cmocka_unit_test(redaction_table),
		cmocka_unit_test(secret_key_names),
		cmocka_unit_test(cut_does_not_leave_half_a_secret),
		cmocka_unit_test(levels_are_kept_to),
		cmocka_unit_test(slow_sink_drops_and_tells),
		cmocka_unit_test(stuck_sink_does_not_hold_up_the_end),
		cmocka_unit_test(gone_reader_is_survived),
		cmocka_unit_test(full_disk_is_survived),
		cmocka_unit_test(cut_line_is_completed),
		cmocka_unit_test(four_threads_keep_lines_whole),
		cmocka_unit_test(tap_sees_what_the_level_hides),
		cmocka_unit_test(errno_is_kept),
	};
	return cmocka_run_group_tests_name("log", tests, NULL, NULL);
}
