/* SPDX-License-Identifier: Apache-2.0
 *
 * One connection of fake-engine: reads requests, writes responses in every wanted framing, runs faults.
 */
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "fake_engine.h"

enum { HEAD_MAX = 64 * 1024, BODY_MAX = 256 * 1024 * 1024, HELD_MAX = 1 << 30 };

int conn_wait(struct conn *c, int64_t until_us)
{
	for (;;) {
		int64_t left = until_us < 0 ? -1 : MAX(0, until_us - now_us());
		struct timespec t = { left / 1000000, left % 1000000 * 1000 };
		struct pollfd p = { c->fd, POLLRDHUP, 0 };
		int n = ppoll(&p, 1, until_us < 0 ? NULL : &t, NULL);
		if (n > 0)
			return c->broken = true, -1;
		if (n == 0)
			return 0;
	}
}

/* Reads more bytes; -1 at the end, on an error, or when nothing came for wait_ms. */
static int conn_more(struct conn *c, int64_t wait_ms)
{
	struct pollfd p = { c->fd, POLLIN, 0 };
	char *room = buf_room(&c->in, 16384);
	if (!room || poll(&p, 1, (int)wait_ms) != 1)
		return -1;
	ssize_t n = recv(c->fd, room, 16384, 0);
	if (n <= 0)
		return -1;
	buf_grew(&c->in, (size_t)n);
	return 0;
}

/* A header's value, first of its name; p = NULL when it is not there. */
static struct view header(struct view head, const char *name)
{
	struct view rest = head, line = view_split(head, '\n', &rest);
	while (rest.p) {
		line = view_split(rest, '\n', &rest);
		struct view value = { 0 };
		struct view key = view_split(line, ':', &value);
		if (value.p && view_eq_ci(key, view_str(name)))
			return view_trim(view_cut(
				value, value.n && value.p[value.n - 1] == '\r' ? value.n - 1 : value.n));
	}
	return (struct view){ 0 };
}

static int64_t hex(struct view v)
{
	int64_t n = v.n ? 0 : -1;
	for (size_t i = 0; i < v.n && n >= 0; i++) {
		const char *digits = "0123456789abcdef", *d = v.p[i] ? strchr(digits, v.p[i] | 32) : NULL;
		if (!d || n > BODY_MAX)
			return -1;
		n = n * 16 + (d - digits);
	}
	return n;
}

/* Moves n bytes from the input to the body. */
static int body_take(struct conn *c, size_t n)
{
	while (n > 0) {
		if (c->in.len == 0 && conn_more(c, 60000) < 0)
			return -1;
		size_t k = MIN(n, c->in.len);
		if (buf_add(&c->body, c->in.data, k) < 0)
			return -1;
		buf_consume(&c->in, k);
		n -= k;
	}
	return 0;
}

/* A line without its end goes to *line (in c->in until the next read); the caller consumes used bytes. */
static int line_get(struct conn *c, struct view *line, size_t *used)
{
	size_t at;
	while ((at = view_find(buf_view(&c->in), '\n')) == c->in.len)
		if (c->in.len > HEAD_MAX || conn_more(c, 60000) < 0)
			return -1;
	*used = at + 1;
	*line = view_of(c->in.data, at && c->in.data[at - 1] == '\r' ? at - 1 : at);
	return 0;
}

static int body_chunked(struct conn *c)
{
	for (;;) {
		struct view line, extension;
		size_t used;
		if (line_get(c, &line, &used) < 0)
			return -1;
		int64_t n = hex(view_trim(view_split(line, ';', &extension)));
		buf_consume(&c->in, used);
		if (n < 0 || (n > 0 && body_take(c, (size_t)n) < 0))
			return -1;
		do { /* the end of the chunk, or the trailers */
			if (line_get(c, &line, &used) < 0)
				return -1;
			bool empty = line.n == 0;
			buf_consume(&c->in, used);
			if (empty)
				break;
		} while (n == 0);
		if (n == 0)
			return 0;
	}
}

static int read_body(struct conn *c, struct view head)
{
	struct view length = header(head, "content-length"), coding = header(head, "transfer-encoding");
	buf_reset(&c->body);
	if (view_eq_ci(header(head, "expect"), VIEW("100-continue")) &&
		send(c->fd, "HTTP/1.1 100 Continue\r\n\r\n", 25, MSG_NOSIGNAL) < 0)
		return -1;
	if (view_eq_ci(coding, VIEW("chunked")))
		return body_chunked(c);
	if (!length.p)
		return 0;
	int64_t n = text_int(length, -1);
	return n < 0 ? -1 : body_take(c, (size_t)n);
}

/* Reads one request; *head_copy keeps its head while the input moves on. -1: the connection is over. */
static int read_request(struct conn *c, struct buf *head_copy, struct request *q)
{
	const struct behave *b = &fake.start;
	ptrdiff_t end;
	while (c->in.len && (c->in.data[0] == '\r' || c->in.data[0] == '\n'))
		buf_consume(&c->in, 1);
	while ((end = view_search(buf_view(&c->in), VIEW("\r\n\r\n"))) < 0) {
		bool idle = c->in.len == 0;
		if (c->in.len > HEAD_MAX || conn_more(c, idle ? b->idle_close_ms : 60000) < 0)
			return -1;
	}
	buf_reset(head_copy);
	if (buf_add(head_copy, c->in.data, (size_t)end) < 0)
		return -1;
	buf_consume(&c->in, (size_t)end + 4);
	struct view rest, line = view_split(buf_view(head_copy), '\r', &rest);
	memset(q, 0, sizeof *q);
	q->head = buf_view(head_copy);
	q->method = view_split(line, ' ', &rest);
	q->path = view_split(rest, ' ', &rest);
	q->path = view_split(q->path, '?', &q->query);
	struct view connection = header(q->head, "connection");
	q->keep_alive = view_eqs(rest, "HTTP/1.1") ? !view_eq_ci(connection, VIEW("close"))
						   : view_eq_ci(connection, VIEW("keep-alive"));
	if (q->path.n == 0 || read_body(c, q->head) < 0)
		return -1;
	q->body = buf_view(&c->body);
	return 0;
}

void conn_serve(int fd)
{
	struct conn c = { .fd = fd, .in = BUF(HEAD_MAX + 65536), .body = BUF(BODY_MAX) };
	struct buf head = BUF(HEAD_MAX + 65536);
	struct request q;
	pthread_mutex_lock(&fake.lock);
	fake.accepted++;
	fake.open++;
	bool silent = fake.base.accept_silent;
	pthread_mutex_unlock(&fake.lock);
	if (silent)
		conn_wait(&c, -1);
	while (!c.broken && read_request(&c, &head, &q) == 0) {
		if (!q.keep_alive || ++c.served >= fake.start.max_requests)
			c.broken = true;
		record_request(&q);
		route(&c, &q);
	}
	close(fd);
	buf_done(&c.in);
	buf_done(&c.body);
	buf_done(&head);
	pthread_mutex_lock(&fake.lock);
	fake.open--;
	pthread_cond_broadcast(&fake.changed);
	pthread_mutex_unlock(&fake.lock);
}

/* ---- responses ---- */

static bool framing_is(const struct resp *r, const char *name)
{
	return strcmp(r->b->framing, name) == 0;
}

void resp_init(
	struct resp *r, struct conn *c, const struct behave *b, int status, const char *type, bool stream)
{
	*r = (struct resp){ .conn = c,
		.b = b,
		.status = status,
		.type = type,
		.stream = stream,
		.out = BUF(HELD_MAX),
		.held = BUF(HELD_MAX) };
	bool sized = framing_is(r, "length") || framing_is(r, "short") || framing_is(r, "long");
	r->chunked = b->framing[0] ? !sized && !framing_is(r, "close") : stream;
	r->hold = !r->chunked && !framing_is(r, "close");
	if (framing_is(r, "close") || framing_is(r, "short") || framing_is(r, "long") ||
		framing_is(r, "both") || framing_is(r, "no_end") || status >= 400)
		c->broken = true;
}

void resp_done(struct resp *r)
{
	buf_done(&r->out);
	buf_done(&r->held);
	if (r->failed)
		r->conn->broken = true;
}

static int write_out(struct resp *r, const char *p, size_t n)
{
	size_t most = r->b->write_size > 0 ? (size_t)r->b->write_size : n;
	while (n > 0) {
		ssize_t k = send(r->conn->fd, p, MIN(n, most), MSG_NOSIGNAL);
		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0)
			return r->failed = true, -1;
		p += k;
		n -= (size_t)k;
		if (r->b->write_gap_us && n && conn_wait(r->conn, now_us() + r->b->write_gap_us) < 0)
			return r->failed = true, -1;
	}
	return 0;
}

int resp_flush(struct resp *r)
{
	int e = r->failed ? -1 : write_out(r, r->out.data, r->out.len);
	buf_reset(&r->out);
	return e;
}

static const char *reason(int status)
{
	static const struct {
		int status;
		const char *text;
	} reasons[] = {
		{ 200, "OK" },
		{ 400, "Bad Request" },
		{ 401, "Unauthorized" },
		{ 404, "Not Found" },
		{ 408, "Request Timeout" },
		{ 429, "Too Many Requests" },
		{ 500, "Internal Server Error" },
		{ 501, "Not Implemented" },
		{ 502, "Bad Gateway" },
		{ 503, "Service Unavailable" },
	};
	for (size_t i = 0; i < ARRAY_LEN(reasons); i++)
		if (reasons[i].status == status)
			return reasons[i].text;
	return "Status";
}

/* length < 0: not known. */
static void head_write(struct resp *r, int64_t length)
{
	const char *want = r->b->head;
	struct buf *o = &r->out;
	if (strcmp(want, "garbage") == 0)
		buf_addv(o, VIEW("\x16\x03\x01 this is no HTTP\r\n\r\n"));
	if (strcmp(want, "informational") == 0)
		buf_adds(o, "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n");
	buf_addf(o, "HTTP/1.%d %d %s\r\nServer: fake-engine\r\nContent-Type: %s\r\n",
		strcmp(want, "http10") != 0, r->status, reason(r->status), r->type);
	if (strcmp(want, "big") == 0) {
		buf_adds(o, "X-Big: ");
		for (int i = 0; i < 128 * 1024; i += 16)
			buf_adds(o, "0123456789abcdef");
		buf_adds(o, "\r\n");
	}
	for (int i = 0; strcmp(want, "many") == 0 && i < 2000; i++)
		buf_addf(o, "X-Header-%d: %d\r\n", i, i);
	if (r->chunked)
		buf_adds(o, "Transfer-Encoding: chunked\r\n");
	if (length >= 0)
		buf_addf(o, "Content-Length: %lld\r\n", (long long)length);
	if (r->conn->broken)
		buf_adds(o, "Connection: close\r\n\r\n");
	else
		buf_addf(o, "Keep-Alive: timeout=%lld, max=%lld\r\n\r\n",
			(long long)fake.start.idle_close_ms / 1000, (long long)fake.start.max_requests);
}

int resp_head(struct resp *r)
{
	if (r->failed)
		return -1;
	if (r->head_sent || r->hold)
		return 0; /* a length is known at the end only */
	r->head_sent = true;
	head_write(r, framing_is(r, "both") ? 5 : -1);
	if (framing_is(r, "overflow"))
		buf_adds(&r->out, "FFFFFFFFFFFFFFFFF\r\n");
	if (framing_is(r, "bad_chunk"))
		buf_adds(&r->out, "zz\r\n");
	return 0;
}

static void chunk_add(struct resp *r, struct view v)
{
	buf_addf(&r->out, "%zx\r\n", v.n);
	buf_addv(&r->out, v);
	buf_adds(&r->out, "\r\n");
}

int resp_body(struct resp *r, struct view v)
{
	size_t chunk = (size_t)r->b->chunk_size;
	if (r->failed)
		return -1;
	if (r->hold)
		return buf_addv(&r->held, v);
	resp_head(r);
	if (!r->chunked)
		return buf_addv(&r->out, v);
	if (chunk == 0) {
		if (v.n)
			chunk_add(r, v);
		return 0;
	}
	size_t at = 0;
	buf_addv(&r->held, v);
	for (; r->held.len - at >= chunk; at += chunk)
		chunk_add(r, view_of(r->held.data + at, chunk));
	buf_consume(&r->held, at);
	return 0;
}

int resp_end(struct resp *r)
{
	if (r->failed)
		return -1;
	if (r->hold) {
		int64_t n = (int64_t)r->held.len;
		head_write(r, framing_is(r, "short") ? n + 10 : framing_is(r, "long") ? MAX(0, n - 5) : n);
		r->head_sent = true;
		size_t half = fault_is_at(r->b, AT_BODY) ? r->held.len / 2 : r->held.len;
		buf_add(&r->out, r->held.data, half);
		if (half < r->held.len && (resp_flush(r) < 0 || resp_fault(r, AT_BODY) < 0))
			return -1;
		buf_addv(&r->out, view_from(buf_view(&r->held), half));
	} else if (r->chunked) {
		resp_head(r);
		if (r->held.len)
			chunk_add(r, buf_view(&r->held));
		if (!framing_is(r, "no_end"))
			buf_adds(&r->out, "0\r\n\r\n");
	}
	return resp_flush(r);
}

/* ---- faults ---- */

static int place_parse(struct view v)
{
	static const struct {
		const char *name;
		int place;
	} names[] = {
		{ "request", AT_REQUEST },
		{ "head", AT_HEAD },
		{ "body", AT_BODY },
		{ "last", AT_LAST },
		{ "done", AT_DONE },
		{ "end", AT_END },
	};
	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		if (view_eqs(v, names[i].name))
			return names[i].place;
	if (view_starts(v, VIEW("mid:")))
		return AT_MID - (int)text_int(view_from(v, 4), 0);
	return (int)text_int(v, INT32_MIN);
}

bool fault_is_at(const struct behave *b, int place)
{
	struct view rest = view_str(b->fault), where;
	while (rest.n) {
		view_split(view_split(rest, ',', &rest), '@', &where);
		if (where.p && place_parse(where) == place)
			return true;
	}
	return false;
}

static int fault_end(struct resp *r, const char *what)
{
	const struct linger now = { 1, 0 };
	if (strcmp(what, "reset") == 0)
		setsockopt(r->conn->fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
	if (strcmp(what, "half_close") == 0) {
		shutdown(r->conn->fd, SHUT_WR);
		conn_wait(r->conn, -1);
	}
	if (strcmp(what, "hang") == 0)
		conn_wait(r->conn, -1);
	r->failed = true;
	return -1;
}

static int fault_long_line(struct resp *r, int64_t mb)
{
	char block[4096];
	memset(block, 'x', sizeof block);
	resp_body(r, VIEW("data: "));
	for (int64_t i = 0; i < mb * 256; i++)
		if (resp_body(r, view_of(block, sizeof block)) < 0 || resp_flush(r) < 0)
			return -1;
	resp_body(r, VIEW("\n\n"));
	return resp_flush(r);
}

static int fault_do(struct resp *r, const char *what, int64_t n)
{
	static const struct {
		const char *name;
		struct view bytes;
	} puts[] = {
		{ "garbage", VIEW("\x01\xfe{{{ not an event\r\r\n\ndata data data\n\n: \nretry: x\n\ndata: "
				  "{\"choices\": [\n\n") },
		{ "nul", VIEW("data: {\"choices\":[{\"delta\":{\"content\":\"a\0b\"}}]}\n\n") },
		{ "bad_utf8",
			VIEW("data: "
			     "{\"choices\":[{\"delta\":{\"content\":\"\xc3\x28\xff\xed\xa0\x80\"}}]}\n\n") },
		{ "error", VIEW("data: {\"error\":{\"code\":500,\"message\":\"the fake failed as asked\","
				"\"type\":\"server_error\"}}\n\n") },
		{ "comment", VIEW(": ping\n\n") },
	};
	for (size_t i = 0; i < ARRAY_LEN(puts); i++)
		if (strcmp(what, puts[i].name) == 0)
			return resp_body(r, puts[i].bytes) < 0 ? -1 : resp_flush(r);
	if (strcmp(what, "exit") == 0)
		fake_exit((int)n);
	if (strcmp(what, "signal") == 0)
		die_by_signal((int)n);
	if (strcmp(what, "stop") == 0)
		return kill(getpid(), SIGSTOP), 0;
	if (strcmp(what, "flood") == 0)
		return log_flood(n), 0;
	if (strcmp(what, "delay") == 0 && conn_wait(r->conn, now_us() + 1000 * n) == 0)
		return 0;
	if (strcmp(what, "long_line") == 0)
		return fault_long_line(r, n ? n : 10);
	return fault_end(r, what);
}

int resp_fault(struct resp *r, int place)
{
	struct view rest = view_str(r->b->fault), where, number;
	while (rest.n) {
		char what[24];
		struct view one = view_split(view_split(rest, ',', &rest), '@', &where);
		if (!where.p || place_parse(where) != place)
			continue;
		struct view name = view_split(one, ':', &number);
		snprintf(what, sizeof what, "%.*s", VIEW_ARG(name));
		if (resp_flush(r) < 0 || fault_do(r, what, text_int(number, 0)) < 0)
			return -1;
	}
	return 0;
}

void respond(struct conn *c, const struct behave *b, int status, const char *type, struct view body)
{
	struct resp r;
	resp_init(&r, c, b, status, type, false);
	resp_body(&r, body);
	resp_end(&r);
	resp_done(&r);
}

void respond_error(struct conn *c, const struct behave *b, int status, const char *type, const char *message)
{
	struct buf o = BUF(8192);
	buf_addf(&o, "{\"error\":{\"code\":%d,\"message\":", status);
	buf_add_json(&o, view_str(message));
	buf_addf(&o, ",\"type\":\"%s\"}}", type);
	respond(c, b, status, "application/json; charset=utf-8", buf_view(&o));
	buf_done(&o);
}
