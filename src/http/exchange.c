/* SPDX-License-Identifier: Apache-2.0
 *
 * One request and its response, as handlers use them.
 */
#include <stdio.h>
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
	x->conn->read_at = loop_now(x->conn->server->loop);
	conn_update_reading(x->conn);
}

static const char *date_now(struct http_server *s)
{
	int64_t sec = wall_ms() / 1000;
	if (sec != s->date_second) {
		time_t t = (time_t)sec;
		struct tm tm;
		gmtime_r(&t, &tm);
		strftime(
			s->date, sizeof s->date, "%a, %d %b %Y %H:%M:%S GMT", &tm); /* the C locale's names */
		s->date_second = sec;
	}
	return s->date;
}

/* Decides whether the connection can be used again after this response. */
static void decide_close(struct http_exchange *x)
{
	if (!x->body_ended && (x->content_length < 0 || x->content_length > DISCARD_MAX))
		x->close_after = true;
	if (x->left < 0 && x->minor == 0 && !x->no_body)
		x->close_after = true; /* the end of the connection is the end of the body */
}

void http_start(struct http_exchange *x, int status, const struct buf *block, int64_t body_len)
{
	assert(x->open && !x->responding);
	struct server_conn *c = x->conn;
	x->responding = true;
	x->no_body = x->method == HTTP_M_HEAD || status == 204 || status == 304 || status < 200;
	x->left = body_len;
	x->chunked = body_len < 0 && x->minor == 1 && !x->no_body;
	decide_close(x);
	char head[512];
	int n = snprintf(head, sizeof head, "HTTP/1.1 %d %s\r\nDate: %s\r\n%s%s%s", status,
		http_status_text(status), date_now(c->server), c->server->o.server_name ? "Server: " : "",
		c->server->o.server_name ? c->server->o.server_name : "",
		c->server->o.server_name ? "\r\n" : "");
	sock_write(&c->sock, head, (size_t)n);
	if (block && block->len)
		sock_write(&c->sock, block->data, block->len);
	const char *framing = x->chunked ? "Transfer-Encoding: chunked\r\n" : "";
	n = snprintf(head, sizeof head, "%s%s", framing,
		x->close_after  ? "Connection: close\r\n"
		: x->minor == 0 ? "Connection: keep-alive\r\n"
				: "");
	sock_write(&c->sock, head, (size_t)n);
	if (body_len >= 0 && status != 204 && status != 304) {
		n = snprintf(head, sizeof head, "Content-Length: %lld\r\n", (long long)body_len);
		sock_write(&c->sock, head, (size_t)n);
	}
	sock_write(&c->sock, "\r\n", 2);
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
		char size[24];
		int n = snprintf(size, sizeof size, "%zx\r\n", bytes.n);
		sock_write(s, size, (size_t)n);
		sock_write(s, bytes.p, bytes.n);
		return sock_write(s, "\r\n", 2);
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
