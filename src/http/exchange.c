/* SPDX-License-Identifier: Apache-2.0
 *
 * One request and its response, as handlers use them.
 */
#include <time.h>

#include "http/server_int.h"

/* A request body larger than this that nobody read closes the connection after the response. */
enum { DISCARD_MAX = 64 * 1024 };

void exchange_reset(struct http_exchange *x)
{
	/* Not the whole struct: spans and headers are large and guarded by their counts. */
	gather_reset(&x->head);
	x->handler = NULL;
	x->arg = NULL;
	x->headers = (struct http_headers){ 0 };
	x->target_len = 0;
	x->content_length = 0;
	x->body_ended = x->body_paused = x->expects_continue = x->told_end = false;
	x->open = x->responding = x->chunked = x->no_body = x->close_after = false;
	x->left = 0;
	x->refused = 0;
	if (x->extra.len)
		buf_reset(&x->extra);
}

enum http_method http_method(const struct http_exchange *x)
{
	return x->method;
}

struct view http_method_name(const struct http_exchange *x)
{
	return view_str(x->method_name);
}

struct view http_target(const struct http_exchange *x)
{
	return x->target;
}

struct view http_path(const struct http_exchange *x)
{
	return x->path;
}

struct view http_query(const struct http_exchange *x)
{
	return x->query;
}

const struct http_headers *http_headers(const struct http_exchange *x)
{
	return &x->headers;
}

int http_refused(const struct http_exchange *x)
{
	return x->refused;
}

int64_t http_content_length(const struct http_exchange *x)
{
	return x->content_length;
}

const struct net_peer *http_peer(const struct http_exchange *x)
{
	return &x->conn->peer;
}

mono_t http_started(const struct http_exchange *x)
{
	return x->started;
}

struct loop *http_loop(const struct http_exchange *x)
{
	return x->conn->server->loop;
}

void http_handle(struct http_exchange *x, const struct http_handler *h, void *arg)
{
	x->handler = h;
	x->arg = arg;
}

void http_pause_body(struct http_exchange *x)
{
	x->body_paused = true;
	conn_update_reading(x->conn);
}

void http_resume_body(struct http_exchange *x)
{
	if (!x->body_paused)
		return;
	x->body_paused = false;
	x->conn->read_at = x->conn->body_since = loop_now(x->conn->server->loop);
	x->conn->body_then = x->conn->body_bytes;
	conn_update_reading(x->conn);
}

/* The clock of the wall is asked once in 100 ms of the loop's time. */
static struct view date_line(struct http_server *s)
{
	mono_t now = loop_now(s->loop);
	if (s->date_len && !mono_before(s->date_until, now))
		return view_of(s->date, s->date_len);
	time_t t = (time_t)(wall_ms() / 1000);
	struct tm tm;
	gmtime_r(&t, &tm);
	s->date_len = strftime(/* the C locale's names */
		s->date, sizeof s->date, "Date: %a, %d %b %Y %H:%M:%S GMT\r\n", &tm);
	s->date_until = mono_add_ms(now, 100);
	return view_of(s->date, s->date_len);
}

/* Decides whether the connection can be used again after this response. */
static void decide_close(struct http_exchange *x)
{
	if (!x->body_ended && (x->content_length < 0 || x->content_length > DISCARD_MAX))
		x->close_after = true;
	if (x->left < 0 && x->minor == 0 && !x->no_body)
		x->close_after = true; /* the end of the connection is the end of the body */
}

static void status_line(struct buf *b, int status)
{
	if (status == 200) {
		(void)buf_addv(b, VIEW("HTTP/1.1 200 OK\r\n"));
		return;
	}
	(void)buf_addv(b, VIEW("HTTP/1.1 "));
	(void)buf_add_u64(b, (uint64_t)status);
	(void)buf_addc(b, ' ');
	(void)buf_adds(b, http_status_text(status));
	(void)buf_addv(b, VIEW("\r\n"));
}

/* What the block does not say: framing, and what becomes of the connection. */
static void framing_lines(const struct http_exchange *x, int status, int64_t body_len, struct buf *b)
{
	if (x->chunked)
		(void)buf_addv(b, VIEW("Transfer-Encoding: chunked\r\n"));
	if (x->close_after)
		(void)buf_addv(b, VIEW("Connection: close\r\n"));
	else if (x->minor == 0)
		(void)buf_addv(b, VIEW("Connection: keep-alive\r\n"));
	if (body_len >= 0 && status != 204 && status != 304) {
		(void)buf_addv(b, VIEW("Content-Length: "));
		(void)buf_add_u64(b, (uint64_t)body_len);
		(void)buf_addv(b, VIEW("\r\n"));
	}
	(void)buf_addv(b, VIEW("\r\n"));
}

void http_start(struct http_exchange *x, int status, const struct buf *block, int64_t body_len)
{
	assert(x->open && !x->responding);
	struct server_conn *c = x->conn;
	struct http_server *s = c->server;
	x->responding = true;
	x->no_body = x->method == HTTP_M_HEAD || status == 204 || status == 304 || status < 200;
	x->left = body_len;
	x->chunked = body_len < 0 && x->minor == 1 && !x->no_body;
	decide_close(x);
	struct buf *head = &s->head;
	buf_reset(head);
	status_line(head, status);
	(void)buf_addv(head, date_line(s));
	(void)buf_addv(head, view_str(s->server_line));
	if (block && block->len)
		(void)buf_addv(head, buf_view(block));
	if (x->extra.len)
		(void)buf_addv(head, buf_view(&x->extra));
	framing_lines(x, status, body_len, head);
	sock_write(&c->sock, head->data, head->len);
}

struct buf *http_extra(struct http_exchange *x)
{
	return &x->extra;
}

bool http_started_response(const struct http_exchange *x)
{
	return x->responding;
}

bool http_body(struct http_exchange *x, struct view bytes)
{
	assert(x->open && x->responding);
	struct sock *s = &x->conn->sock;
	if (x->no_body || bytes.n == 0)
		return s->full;
	if (x->chunked) {
		char size[HTTP_CHUNK_HEAD];
		struct view pieces[] = { http_chunk_head(bytes.n, size), bytes, VIEW("\r\n") };
		return sock_write_all(s, pieces, ARRAY_LEN(pieces));
	}
	if (x->left >= 0) {
		assert((int64_t)bytes.n <= x->left);
		x->left -= (int64_t)bytes.n;
	}
	return sock_write(s, bytes.p, bytes.n);
}

static void close_exchange(struct http_exchange *x)
{
	x->open = false;
	x->handler = NULL;
	x->conn->server->nexchanges--;
}

void http_end(struct http_exchange *x)
{
	assert(x->open && x->responding);
	if (x->left > 0 && !x->no_body && !x->chunked) {
		http_abort(x);
		return;
	}
	if (x->chunked)
		sock_write(&x->conn->sock, "0\r\n\r\n", 5);
	close_exchange(x);
	conn_exchange_done(x->conn);
}

void http_abort(struct http_exchange *x)
{
	assert(x->open);
	close_exchange(x);
	x->close_after = true;
	x->responding = true;
	conn_exchange_done(x->conn);
}

void http_reply(
	struct http_exchange *x, int status, const char *type, const struct buf *block, struct view body)
{
	AUTO(buf_done) struct buf head = BUF(HTTP_HEAD_MAX);
	if (type)
		(void)http_header_add(&head, "Content-Type", view_str(type));
	if (block)
		(void)buf_addv(&head, buf_view(block));
	http_start(x, status, &head, (int64_t)body.n);
	http_body(x, body);
	if (x->no_body)
		x->left = 0;
	http_end(x);
}

void http_flush(struct http_exchange *x)
{
	sock_flush(&x->conn->sock);
}

size_t http_unsent(const struct http_exchange *x)
{
	return sock_unsent(&x->conn->sock);
}

void http_close_after(struct http_exchange *x)
{
	x->close_after = true;
}
