/* SPDX-License-Identifier: Apache-2.0
 *
 * One request and its response: connecting (or taking a pooled connection), sending, receiving, and the
 * exact kind of every failure, since whether a request may be sent again depends on it.
 */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "http/client_int.h"

enum { READ_CHUNK = 64 * 1024, CONNECT_AGAIN_MS = 5, REQUEST_MAX = 64 * 1024 * 1024 };

/* Kept for the next request where there is room for it. */
void client_call_free(void *arg)
{
	struct http_call *call = arg;
	struct http_target *t = call->target;
	buf_done(&call->request);
	free(call->err);
	call->err = NULL;
	if (t->freed || t->nspare >= t->o.idle_max) {
		free(call);
	} else {
		list_prepend(&t->spare, &call->node);
		t->nspare++;
	}
	client_target_unref(t);
}

static struct http_call *call_new(struct http_target *t, const struct http_call_ops *ops, void *arg)
{
	struct list *n = list_pop(&t->spare);
	struct http_call *call = n ? LIST_ENTRY(n, struct http_call, node) : NEW(struct http_call);
	if (n) {
		t->nspare--;
		*call = (struct http_call){ 0 };
	}
	call->target = t;
	t->refs++;
	call->loop = t->loop;
	call->ops = ops;
	call->arg = arg;
	call->response_length = -1;
	return call;
}

/* Takes the call out of the world; its memory goes at the end of the round. */
static void call_over(struct http_call *call)
{
	if (call->over)
		return;
	call->over = true;
	loop_timer_stop(&call->deadline);
	loop_timer_stop(&call->connect_timer);
	loop_defer_cancel(&call->later);
	if (!call->lookup) /* else the lookup's end frees it */
		loop_defer(call->loop, &call->later, client_call_free, call);
}

static void call_detach(struct http_call *call)
{
	if (!call->conn)
		return;
	call->conn->call = NULL;
	client_conn_close(call->conn);
	call->conn = NULL;
}

static void call_fail(struct http_call *call, enum http_fail f, const struct err *e)
{
	if (call->over)
		return;
	struct err copy = *e;
	call_detach(call);
	call_over(call);
	if (call->ops->on_error)
		call->ops->on_error(call->arg, f, &copy);
}

static void fail_errno(struct http_call *call, enum http_fail f, int error, const char *what)
{
	struct err e = { 0 };
	char where[NET_ADDR_TEXT];
	net_addr_text(&call->target->addr, where, sizeof where);
	err_set(&e, error, "%s %s: %s", what, where,
		error == 0 ? "the connection was closed" : strerror(-error));
	call_fail(call, f, &e);
}

static void fail_later_run(void *arg)
{
	struct http_call *call = arg;
	struct err e = *call->err;
	call_fail(call, call->fail, &e);
}

static void fail_later(struct http_call *call, enum http_fail f, int error, const char *what)
{
	char where[NET_ADDR_TEXT];
	net_addr_text(&call->target->addr, where, sizeof where);
	call->err = NEW(struct err);
	err_set(call->err, error, "%s %s: %s", what, where, strerror(-error));
	call->fail = f;
	loop_defer(call->loop, &call->later, fail_later_run, call);
}

static void parser_ready(struct client_conn *c)
{
	llhttp_init(&c->parser, HTTP_RESPONSE, &client_parser_settings);
	c->parser.data = c;
	c->complete = false;
	c->interim = 0;
	gather_reset(&c->head);
}

struct http_call *client_call_new(
	struct http_target *t, struct client_conn *c, const struct http_call_ops *ops, void *arg)
{
	struct http_call *call = call_new(t, ops, arg);
	call->body_finished = true;
	call->conn = c;
	c->call = call;
	parser_ready(c);
	return call;
}

static void conn_ready(struct http_call *call, const struct buf *head)
{
	struct client_conn *c = call->conn;
	parser_ready(c);
	c->requests++;
	sock_want(&c->sock, !call->paused, false);
	if (head->len)
		sock_write(&c->sock, head->data, head->len);
}

void client_call_connected(struct http_call *call, int error)
{
	const struct sock_layer *layer = call->conn->sock.layer;
	if (error && layer && layer->why) {
		struct err e = { 0 };
		err_set(&e, error, "cannot connect to https://%s: %s", call->target->host, layer->why);
		call_fail(call, HTTP_FAIL_CONNECT, &e);
		return;
	}
	if (error) {
		fail_errno(call, HTTP_FAIL_CONNECT, error, "cannot connect to");
		return;
	}
	loop_timer_stop(&call->connect_timer);
	conn_ready(call, &call->request);
	buf_done(&call->request);
	if (call->ops->on_writable)
		call->ops->on_writable(call->arg);
}

static void connect_timed_out(void *arg)
{
	fail_errno(arg, HTTP_FAIL_CONNECT, -ETIMEDOUT, "cannot connect to");
}

static void open_conn(void *arg)
{
	struct http_call *call = arg;
	struct client_conn *c = NULL;
	int r = client_conn_open(call->target, &call->target->addr, &c);
	int64_t left = mono_ms_between(mono_now(), call->connect_by);
	if (r == -EAGAIN && left > 0) { /* a unix socket whose backlog is full */
		loop_timer_start(call->loop, &call->connect_timer, CONNECT_AGAIN_MS, open_conn, call);
		return;
	}
	if (r < 0) {
		fail_later(call, HTTP_FAIL_CONNECT, r, "cannot connect to");
		return;
	}
	c->call = call;
	call->conn = c;
	loop_timer_start(call->loop, &call->connect_timer, left, connect_timed_out, call);
}

/* A name is looked up on a pool thread; the call may be over before it comes back. */
struct lookup {
	struct http_call *call;
	struct net_addr addr;
	struct err err;
	int result;
};

static void lookup_work(void *arg)
{
	struct lookup *k = arg;
	k->result = net_addr_lookup(&k->addr, &k->err);
}

static void lookup_done(void *arg)
{
	struct lookup *k = arg;
	struct http_call *call = k->call;
	call->lookup = NULL;
	if (call->over) {
		client_call_free(call);
	} else if (k->result) {
		call_fail(call, HTTP_FAIL_CONNECT, &k->err);
	} else {
		struct client_conn *c = NULL;
		int r = client_conn_open(call->target, &k->addr, &c);
		if (r < 0) {
			fail_errno(call, HTTP_FAIL_CONNECT, r, "cannot connect to");
		} else {
			c->call = call;
			call->conn = c;
			loop_timer_start(call->loop, &call->connect_timer, call->target->o.connect_timeout_ms,
				connect_timed_out, call);
		}
	}
	free(k);
}

static void start_connecting(struct http_call *call)
{
	struct http_target *t = call->target;
	call->connect_by = mono_add_ms(mono_now(), t->o.connect_timeout_ms);
	if (t->addr.kind != NET_NAME) {
		open_conn(call);
		return;
	}
	struct lookup *k = NEW(struct lookup);
	k->call = call;
	k->addr = t->addr;
	call->lookup = k;
	loop_offload(call->loop, lookup_work, lookup_done, k);
}

static void build_head(const struct http_call *call, const struct http_call_req *r, struct buf *b)
{
	(void)buf_addv(b, r->method);
	(void)buf_addc(b, ' ');
	(void)buf_addv(b, r->path);
	(void)buf_addv(b, VIEW(" HTTP/1.1\r\nHost: "));
	(void)buf_adds(b, call->target->host);
	(void)buf_addv(b, VIEW("\r\n"));
	if (call->target->authorization)
		(void)buf_adds(b, call->target->authorization);
	if (r->block)
		(void)buf_addv(b, buf_view(r->block));
	if (r->body_len < 0) {
		(void)buf_addv(b, VIEW("Transfer-Encoding: chunked\r\n"));
	} else if (r->body_len > 0 || view_eqs(r->method, "POST") || view_eqs(r->method, "PUT")) {
		(void)buf_addv(b, VIEW("Content-Length: "));
		(void)buf_add_u64(b, (uint64_t)r->body_len);
		(void)buf_addv(b, VIEW("\r\n"));
	}
	(void)buf_adds(b, "\r\n");
}

struct http_call *http_call_start(
	struct http_target *t, const struct http_call_req *r, const struct http_call_ops *ops, void *arg)
{
	struct http_call *call = call_new(t, ops, arg);
	call->body_chunked = r->body_len < 0;
	call->body_finished = r->body_len >= 0;
	call->body_left = MAX(r->body_len, (int64_t)0);
	call->head_request = view_eqs(r->method, "HEAD");
	buf_init(&call->request, REQUEST_MAX);
	struct client_conn *c = (r->flags & HTTP_CALL_FRESH) ? NULL : client_conn_take_idle(t);
	if (c) {
		call->reused = true;
		c->call = call;
		call->conn = c;
		buf_reset(&t->head);
		build_head(call, r, &t->head);
		conn_ready(call, &t->head);
	} else {
		build_head(call, r, &call->request);
		start_connecting(call);
	}
	return call;
}

/* Bytes to the connection, or kept until there is one. */
static bool put(struct http_call *call, struct view v)
{
	if (call->conn && !call->conn->sock.connecting)
		return sock_write(&call->conn->sock, v.p, v.n);
	(void)buf_addv(&call->request, v); /* writers stop at "full", far below its bound */
	return call->request.len > SOCK_HIGH;
}

bool http_call_write(struct http_call *call, struct view bytes)
{
	if (call->over || bytes.n == 0)
		return false;
	if (!call->body_chunked) {
		assert((int64_t)bytes.n <= call->body_left);
		call->body_left -= (int64_t)bytes.n;
		return put(call, bytes);
	}
	char size[HTTP_CHUNK_HEAD];
	put(call, http_chunk_head(bytes.n, size));
	put(call, bytes);
	return put(call, VIEW("\r\n"));
}

void http_call_finish(struct http_call *call)
{
	if (call->over || call->body_finished)
		return;
	call->body_finished = true;
	if (call->body_chunked)
		put(call, VIEW("0\r\n\r\n"));
}

void http_call_pause(struct http_call *call)
{
	call->paused = true;
	if (call->conn && !call->conn->sock.connecting)
		sock_want(&call->conn->sock, false, false);
}

void http_call_resume(struct http_call *call)
{
	call->paused = false;
	if (call->conn && !call->conn->sock.connecting)
		sock_want(&call->conn->sock, true, false);
}

void http_call_cancel(struct http_call *call)
{
	call_detach(call);
	call_over(call);
}

static void deadline_passed(void *arg)
{
	fail_errno(arg, HTTP_FAIL_TIMEOUT, -ETIMEDOUT, "no answer in time from");
}

void http_call_deadline(struct http_call *call, int64_t ms)
{
	if (ms < 0)
		loop_timer_stop(&call->deadline);
	else
		loop_timer_start(call->loop, &call->deadline, ms, deadline_passed, call);
}

bool http_call_reused(const struct http_call *call)
{
	return call->reused;
}

bool http_call_got_byte(const struct http_call *call)
{
	return call->got_byte;
}

int64_t http_call_response_length(const struct http_call *call)
{
	return call->response_length;
}

void client_call_head(struct http_call *call, int status, const struct http_headers *h, int64_t length)
{
	call->response_length = length;
	if (call->ops->on_head)
		call->ops->on_head(call->arg, call, status, h);
}

void client_call_data(struct http_call *call, struct view bytes)
{
	if (call->ops->on_data)
		call->ops->on_data(call->arg, bytes);
}

void client_call_broken(struct http_call *call, int error)
{
	enum http_fail f = call->got_byte ? HTTP_FAIL_BROKEN
			   : call->reused ? HTTP_FAIL_STALE
					  : HTTP_FAIL_CLOSED;
	fail_errno(
		call, f, error, f == HTTP_FAIL_BROKEN ? "the response broke off from" : "no response from");
}

/* The response is whole. */
static void call_done(struct http_call *call, bool reusable)
{
	struct client_conn *c = call->conn;
	call->conn = NULL;
	c->call = NULL;
	if (reusable && call->body_finished && call->body_left == 0 && sock_unsent(&c->sock) == 0)
		client_conn_park(c);
	else
		client_conn_close(c);
	call_over(call);
	if (call->ops->on_end)
		call->ops->on_end(call->arg);
}

void client_conn_eof(struct client_conn *c)
{
	struct http_call *call = c->call;
	llhttp_finish(&c->parser);
	if (c->call != call)
		return;
	if (c->complete)
		call_done(call, false);
	else
		client_call_broken(call, 0);
}

void client_conn_readable(struct client_conn *c)
{
	struct http_call *call = c->call;
	char data[READ_CHUNK];
	ssize_t n = sock_read(&c->sock, data, sizeof data);
	if (n == -EAGAIN)
		return;
	if (n < 0) {
		client_call_broken(call, (int)n);
		return;
	}
	if (n == 0)
		client_conn_eof(c);
	else
		client_conn_feed(c, data, (size_t)n);
}

void client_conn_feed(struct client_conn *c, const char *data, size_t n)
{
	struct http_call *call = c->call;
	call->got_byte = true;
	gather_chunk(&c->head, data);
	llhttp_errno_t e = llhttp_execute(&c->parser, data, n);
	if (c->call != call || c->closed) /* cancelled by a callback */
		return;
	if (e == HPE_OK && gather_chunk_end(&c->head, data + n) < 0)
		e = HPE_USER;
	if (c->complete) {
		const char *at = e == HPE_PAUSED ? llhttp_get_error_pos(&c->parser) : data;
		bool clean = at == data + n;
		llhttp_resume(&c->parser);
		call_done(call, clean && llhttp_should_keep_alive(&c->parser));
		return;
	}
	if (e == HPE_OK)
		return;
	struct err why = { 0 };
	const char *reason = llhttp_get_error_reason(&c->parser);
	err_set(&why, -EPROTO, "the answer of %s is not HTTP/1.1: %s", call->target->host,
		reason && *reason ? reason : "its head is out of bounds");
	call_fail(call, HTTP_FAIL_PROTOCOL, &why);
}
