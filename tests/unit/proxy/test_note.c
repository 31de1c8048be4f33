/* SPDX-License-Identifier: Apache-2.0
 *
 * The line of a request is written out by hand (note.c): it is the one log_event would make of the same
 * fields, whatever a request brought along.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "auth/auth.h"
#include "base/buf.h"
#include "base/fd.h"
#include "log/log.h"
#include "proxy/proxy_int.h"

/* 2026-02-03T04:05:06.789Z */
static const int64_t WALL_MS = 1770091506789;

/* Requests that were noted, and the lines the general way gives for them. */
struct notes {
	int fd;
	struct log_how how;
	struct buf want, got;
};

static void notes_begin(struct notes *n, enum log_format format)
{
	*n = (struct notes){ .how = { .actor = "tester", .console = format == LOG_FORMAT_CONSOLE },
		.want = BUF(8 * MIB),
		.got = BUF(8 * MIB) };
	n->fd = memfd_create("log", MFD_CLOEXEC);
	assert_true(n->fd >= 0);
	struct log_opts o = { .level = LOG_INFO, .format = format, .actor = "tester", .fd = n->fd };
	struct err e = { 0 };
	assert_int_equal(log_start(&o, &e), 0);
}

static void notes_end(struct notes *n)
{
	uint64_t dropped = log_dropped();
	log_stop();
	assert_int_equal(log_dropped(), dropped);
	for (off_t at = 0;;) {
		char *to = buf_room(&n->got, 64 * KIB);
		assert_non_null(to);
		ssize_t k = pread(n->fd, to, 64 * KIB, at);
		assert_true(k >= 0);
		if (!k)
			break;
		buf_grew(&n->got, (size_t)k);
		at += k;
	}
	fd_close(n->fd);
}

static void notes_done(struct notes *n)
{
	buf_done(&n->want);
	buf_done(&n->got);
}

/* Line by line, so that a failure shows the line. */
static void notes_compare(const struct notes *n)
{
	struct view want = buf_view(&n->want), got = buf_view(&n->got);
	while (want.n) {
		struct view a = view_cut(want, view_find(want, '\n') + 1);
		struct view b = view_cut(got, view_find(got, '\n') + 1);
		AUTO(buf_done) struct buf line_a = BUF(64 * KIB);
		AUTO(buf_done) struct buf line_b = BUF(64 * KIB);
		assert_int_equal(buf_addv(&line_a, a), 0);
		assert_int_equal(buf_addv(&line_b, b), 0);
		assert_string_equal(buf_str(&line_b), buf_str(&line_a));
		want = view_from(want, a.n);
		got = view_from(got, b.n);
	}
	assert_int_equal(got.n, 0);
}

static int64_t ms_since(const struct request *q, mono_t t)
{
	return (t.ns - q->arrived.ns) / 1000000;
}

/* Notes a request that took ms, and what is wanted of it. */
static void note(struct notes *n, const struct request *q, int status, const char *outcome, int64_t ms)
{
	mono_t now = { q->arrived.ns + ms * 1000000 };
	note_request(q, status, outcome, now);
	char human[256];
	snprintf(human, sizeof human, "A request on %s ends: %s.", q->route.name, outcome);
	const char *const about[2] = { "request", q->route.name };
	const struct log_field fields[] = { LOG_STR("correlation_id", q->id),
		LOG_STR("pool_id", q->pool ? pool_id(q->pool) : NULL),
		LOG_STR("replica_id", q->replica ? q->replica->id : NULL),
		LOG_STR("key_name", q->key ? q->key->name : NULL), LOG_INT("status", status),
		LOG_STR("outcome", outcome),
		LOG_STR("error_code", q->code ? corral_code_name(q->code) : NULL), LOG_INT("duration_ms", ms),
		LOG_INT("queue_ms",
			q->waited && q->granted.ns ? (q->granted.ns - q->queued.ns) / 1000000 : 0),
		LOG_INT("first_byte_ms", q->first_byte.ns ? ms_since(q, q->first_byte) : -1),
		LOG_UINT("bytes_in", q->spool.size), LOG_UINT("bytes_out", q->bytes_out),
		LOG_INT("attempts", q->attempts), LOG_END };
	log_line(&n->want, &n->how, LOG_INFO, q->life.received_ms + ms, about, view_str(human), fields);
}

static void set_id(struct request *q, const char *id)
{
	assert_true(strlen(id) <= PROXY_REQUEST_ID_MAX);
	memcpy(q->id, id, strlen(id) + 1);
}

static struct request plain_request(void)
{
	struct request q = { .route = { .name = "/v1/chat/completions" },
		.arrived = { 5000000000 },
		.life = { .received_ms = WALL_MS } };
	set_id(&q, "0f3a52c1-7e5e-4b0a-9d3c-a1b2c3d4e5f6");
	return q;
}

static struct pool *pool_named(const char *id)
{
	struct pool_opts po = { .id = id, .queue_capacity = 1, .slots = 1 };
	return pool_new(&po);
}

/* ---- what a request may bring -------------------------------------------------------------------------- */

/* Each of seven things is there or not. */
static void every_combination(struct notes *n)
{
	static struct pool_replica replica = { .id = "chat-0" };
	static struct auth_key key = { .name = "team.a_b-c@d" };
	struct pool *pool = pool_named("chat");
	for (unsigned has = 0; has < 1u << 7; has++) {
		struct request q = plain_request();
		q.pool = has & 1 ? pool : NULL;
		q.replica = has & 2 ? &replica : NULL;
		q.key = has & 4 ? &key : NULL;
		q.code = has & 8 ? CODE_POOL_UNREADY : CODE_NONE;
		if (has & 16)
			q.first_byte = (mono_t){ q.arrived.ns + 41999999 };
		q.waited = has & 32;
		q.queued = (mono_t){ q.arrived.ns + 1000000 };
		if (has & 64)
			q.granted = (mono_t){ q.arrived.ns + 31000000 };
		q.spool.size = has & 1 ? UINT64_C(64000000000) : 0;
		q.bytes_out = has & 2 ? UINT64_C(123456789012) : 0;
		q.attempts = (int)has % 3;
		note(n, &q, has & 8 ? 503 : 200, has & 8 ? "the client left" : "complete", 1234);
	}
	pool_unref(pool);
}

static void every_time(struct notes *n)
{
	static const int64_t took[] = { 0, 1, 9, 10, 99, 100, 210, 211, 999, 1000, 12345, 86400000 };
	struct request q = plain_request();
	for (size_t i = 0; i < ARRAY_LEN(took); i++)
		note(n, &q, 200, "complete", took[i]);
	for (size_t i = ARRAY_LEN(took); i-- > 0;) /* the wall clock goes back */
		note(n, &q, 200, "complete", took[i]);
	static const int64_t at[] = { 0, 1, 999, 1000, 951782399999, 951782400000, 1767225599999,
		1767225600000, 4102444799999, 253402300799999 };
	for (size_t i = 0; i < ARRAY_LEN(at); i++) {
		q.life.received_ms = at[i];
		note(n, &q, 200, "complete", 0);
	}
	/* clocks that do not agree: the first byte came before the request */
	q.life.received_ms = WALL_MS;
	q.first_byte = (mono_t){ q.arrived.ns - 7000000 };
	note(n, &q, 200, "complete", 3);
}

static void every_code(struct notes *n)
{
	struct request q = plain_request();
	for (int c = 0; c < CODE_COUNT; c++) {
		q.code = (enum corral_code)c;
		note(n, &q, 503, corral_code_name(c ? (enum corral_code)c : CODE_INTERNAL), 1);
	}
}

static void fill(char *out, size_t n, char c)
{
	memset(out, c, n);
	out[n] = '\0';
}

/* The longest of everything. */
static void every_length(struct notes *n)
{
	struct request q = plain_request();
	static struct pool_replica replica;
	static struct auth_key key;
	char name[POOL_ID_MAX + 1];
	fill(name, POOL_ID_MAX - 1, 'p');
	fill(replica.id, sizeof replica.id - 1, 'r');
	fill(key.name, AUTH_NAME_MAX, 'k');
	q.pool = pool_named(name);
	q.replica = &replica;
	q.key = &key;
	for (size_t i = 1; i <= PROXY_REQUEST_ID_MAX; i++) {
		fill(q.id, i, i % 2 ? 'a' : 'x');
		note(n, &q, 200, "complete", 1);
	}
	pool_unref(q.pool);
}

/* Whatever of one byte a client's id may hold. */
static void every_byte(struct notes *n)
{
	unsigned taken = 0;
	for (int c = 1; c < 256; c++) {
		struct request q = plain_request();
		char value[] = { 'a', (char)c, 'b', '\0' };
		struct http_header h = {
			.name = VIEW("X-Request-Id"), .value = view_str(value), .known = HTTP_H_X_REQUEST_ID
		};
		proxy_request_id(&(struct http_headers){ .items = &h, .len = 1 }, q.id);
		taken += strcmp(q.id, value) == 0;
		if (strcmp(q.id, value) != 0)
			assert_int_equal(strlen(q.id), 36); /* one of ours */
		else
			note(n, &q, 200, "complete", 1);
	}
	assert_int_equal(taken, 0x7f - 0x21 - 2); /* visible ASCII without " and \ */
}

static const struct {
	const char *id, *secret;
} secret_ids[] = {
	{ "sk-abcdefghijkl", "sk-abcdefghijkl" },
	{ "hf_AbCdEfGhIj", "hf_AbCdEfGhIj" },
	{ "api_key=s3cret", "s3cret" },
	{ "Authorization:zzz", "zzz" },
	{ "0f3a;password=hunter2;x", "hunter2" },
	{ "0f3a/token='t0ps3cret'", "t0ps3cret" },
};

static void every_secret(struct notes *n)
{
	for (size_t i = 0; i < ARRAY_LEN(secret_ids); i++) {
		struct request q = plain_request();
		struct http_header h = { .name = VIEW("x-correlation-id"),
			.value = view_str(secret_ids[i].id),
			.known = HTTP_H_CORRELATION_ID };
		proxy_request_id(&(struct http_headers){ .items = &h, .len = 1 }, q.id);
		assert_string_equal(q.id, secret_ids[i].id);
		note(n, &q, 200, "complete", 1);
	}
}

static void both_forms(void (*make)(struct notes *n))
{
	static const enum log_format formats[] = { LOG_FORMAT_JSON, LOG_FORMAT_CONSOLE };
	for (size_t i = 0; i < ARRAY_LEN(formats); i++) {
		struct notes n;
		notes_begin(&n, formats[i]);
		make(&n);
		notes_end(&n);
		assert_true(n.want.len > 0);
		notes_compare(&n);
		notes_done(&n);
	}
}

static void what_may_be_absent(void **state)
{
	both_forms(every_combination);
}

static void times(void **state)
{
	both_forms(every_time);
}

static void codes(void **state)
{
	both_forms(every_code);
}

static void lengths(void **state)
{
	both_forms(every_length);
}

static void bytes_of_an_id(void **state)
{
	both_forms(every_byte);
}

static void secrets_in_an_id(void **state)
{
	both_forms(every_secret);
	for (int console = 0; console < 2; console++) { /* and not for the comparison's sake alone */
		struct notes n;
		notes_begin(&n, console ? LOG_FORMAT_CONSOLE : LOG_FORMAT_JSON);
		every_secret(&n);
		notes_end(&n);
		for (size_t i = 0; i < ARRAY_LEN(secret_ids); i++) {
			char token[LOG_TOKEN_LEN + 1];
			log_redact_token(view_str(secret_ids[i].secret), token);
			assert_null(strstr(buf_str(&n.got), secret_ids[i].secret));
			assert_non_null(strstr(buf_str(&n.got), token));
		}
		notes_done(&n);
	}
}

/* ---- who listens -------------------------------------------------------------------------------------- */

static struct {
	_Atomic unsigned n;
	char last[64 * 1024]; /* read once the log has ended */
} heard;

static void hear(void *arg, struct view line)
{
	(void)arg;
	if (line.n >= sizeof heard.last)
		return;
	memcpy(heard.last, line.p, line.n);
	heard.last[line.n] = '\0';
	atomic_fetch_add(&heard.n, 1);
}

static void listeners_get_it_whatever_the_level(void **state)
{
	struct notes n;
	struct request q = plain_request();
	notes_begin(&n, LOG_FORMAT_JSON);
	log_set_level(LOG_WARN);
	note(&n, &q, 200, "nobody listens", 1);
	buf_reset(&n.want);
	log_set_tap(hear, NULL);
	note(&n, &q, 200, "complete", 1);
	notes_end(&n);
	log_set_tap(NULL, NULL);
	log_set_level(LOG_INFO);
	assert_int_equal(n.got.len, 0);
	assert_int_equal(atomic_load(&heard.n), 1);
	n.want.data[n.want.len - 1] = '\0'; /* its newline */
	assert_string_equal(heard.last, buf_str(&n.want));
	notes_done(&n);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_may_be_absent),
		cmocka_unit_test(times),
		cmocka_unit_test(codes),
		cmocka_unit_test(lengths),
		cmocka_unit_test(bytes_of_an_id),
		cmocka_unit_test(secrets_in_an_id),
		cmocka_unit_test(listeners_get_it_whatever_the_level),
	};
	return cmocka_run_group_tests_name("note", tests, NULL, NULL);
}
