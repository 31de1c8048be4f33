/* SPDX-License-Identifier: Apache-2.0
 *
 * Connections: reading, states, time limits, closing. What a handler calls is in exchange.c.
 */
#include "http/server_int.h"

#include <stdlib.h>

#include "base/fd.h"
#include "base/mem.h"
#include "net/tls.h"

enum {
	READ_CHUNK = 64 * 1024,
	KEEP_MAX = 256 * 1024,
	LINGER_MS = 2000,
	TICK_MAX_MS = 15000,
	FRAMING_MAX = 128 * 1024
};

static void on_timer(void *arg);

static int64_t tick_ms(const struct server_conn *c)
{
	int64_t ms = MIN(c->server->o.body_timeout_ms, c->server->o.send_timeout_ms) / 4;
	return MAX(MIN(ms, (int64_t)TICK_MAX_MS), (int64_t)20);
}

static int64_t limit_ms(const struct server_conn *c)
{
	const struct http_server_opts *o = &c->server->o;
	switch (c->state) {
	case CONN_IDLE: return o->idle_timeout_ms;
	case CONN_START:
	case CONN_HEAD: return o->head_timeout_ms;
	case CONN_LINGER: return LINGER_MS;
	default: return tick_ms(c);
	}
}

/* The only writer of c->state. The timer of the state before goes on where it fires before this state's time
 * is over: on_timer then waits for the rest, so that a connection that changes its state with each request
 * moves no timer. */
void conn_set_state(struct server_conn *c, enum conn_state to)
{
	if (c->state == to || c->state == CONN_CLOSED)
		return;
	c->state = to;
	if (to == CONN_CLOSED) {
		loop_timer_stop(&c->timer);
		return;
	}
	struct loop *l = c->server->loop;
	bool waits = to == CONN_IDLE || to == CONN_START;
	if (waits || to == CONN_EXCHANGE) {
		list_remove(&c->node);
		list_append(waits ? &c->server->waiting : &c->server->conns, &c->node);
	}
	c->limit = mono_add_ms(loop_now(l), limit_ms(c));
	if (!loop_timer_active(&c->timer) || mono_before(c->limit, c->timer.due))
		loop_timer_start(l, &c->timer, limit_ms(c), on_timer, c);
}

static void conn_free(void *arg)
{
	struct server_conn *c = arg;
	buf_done(&c->in);
	gather_free(&c->x.head);
	buf_done(&c->x.extra);
	free(c);
}

/* Tells the handler that its exchange is over, if it has one. */
static void exchange_gone(struct server_conn *c)
{
	struct http_exchange *x = &c->x;
	if (!x->open)
		return;
	x->open = false;
	c->server->nexchanges--;
	if (x->handler && x->handler->on_gone)
		x->handler->on_gone(x->arg);
}

static void tell_closed(struct http_server *s)
{
	if (s->o.on_closed)
		s->o.on_closed(s->o.arg);
}

void conn_close(struct server_conn *c)
{
	if (c->state == CONN_CLOSED)
		return;
	conn_set_state(c, CONN_CLOSED);
	exchange_gone(c);
	struct http_server *s = c->server;
	loop_defer_cancel(&c->again);
	sock_close(&c->sock);
	list_remove(&c->node);
	s->nconns--;
	tell_closed(s);
	loop_defer_call(s->loop, conn_free, c);
	if (s->draining && s->nconns == 0 && s->on_idle && !s->freeing)
		loop_defer_call(s->loop, s->on_idle, s->on_idle_arg);
}

static void close_when_sent(struct server_conn *c)
{
	conn_set_state(c, CONN_FLUSH);
	sock_flush(&c->sock);
	if (c->state != CONN_FLUSH)
		return;
	if (sock_unsent(&c->sock)) {
		c->sock.full = true; /* on_writable tells when it has left */
		return;
	}
	/* Closing with unread input would make the kernel reset the connection and the client may lose the
	 * response (RFC 9112, 9.6): shut our side and read the rest away for a while. */
	sock_shutdown_write(&c->sock);
	conn_set_state(c, CONN_LINGER);
	sock_want(&c->sock, true, false);
}

/* The path in what came of a head, where it lies in one piece. */
static struct view path_so_far(const struct server_conn *c)
{
	const struct http_exchange *x = &c->x;
	struct view query;
	if (c->state != CONN_HEAD && c->state != CONN_EXCHANGE)
		return (struct view){ 0 };
	if (x->head.done)
		return x->path;
	const char *at = x->head.bytes.len >= x->target_len ? x->head.bytes.data : NULL;
	if (!x->head.bytes.len)
		at = x->head.from;
	return at ? view_split(view_of(at, x->target_len), '?', &query) : (struct view){ 0 };
}

void conn_refuse(struct server_conn *c, int status, const char *reason)
{
	bool quiet = c->x.responding, began = c->x.open;
	struct http_refusal r = { .status = status, .reason = reason, .path = path_so_far(c) };
	if (r.path.p && c->x.head.done)
		r.headers = &c->x.headers;
	c->x.refused = quiet ? 0 : status;
	exchange_gone(c);
	if (c->state == CONN_CLOSED)
		return;
	if (!quiet) {
		AUTO(buf_done) struct buf body = BUF(8 * KIB);
		AUTO(buf_done) struct buf head = BUF(8 * KIB);
		AUTO(buf_done) struct buf more = BUF(4 * KIB);
		if (c->server->o.on_refuse)
			c->server->o.on_refuse(c->server->o.arg, &r, &more, &body);
		else
			(void)buf_addf(&body, "%s\n", reason);
		if (began)
			(void)buf_addv(&more, buf_view(&c->x.extra));
		(void)buf_addf(&head,
			"HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\n%sConnection: "
			"close\r\n\r\n",
			status, http_status_text(status),
			c->server->o.on_refuse ? "application/json" : "text/plain", body.len, buf_str(&more));
		sock_write(&c->sock, head.data, head.len);
		sock_write(&c->sock, body.data, body.len);
	}
	buf_reset(&c->in);
	close_when_sent(c);
}

static void parse_failed(struct server_conn *c, llhttp_errno_t e)
{
	if (c->state == CONN_CLOSED || c->state == CONN_FLUSH || c->state == CONN_LINGER)
		return;
	if (c->refuse_status) {
		conn_refuse(c, c->refuse_status, c->refuse_reason);
	} else if (e == HPE_PAUSED_H2_UPGRADE || (e == HPE_INVALID_VERSION && c->parser.http_major != 1)) {
		conn_refuse(c, 505, "only HTTP/1.0 and HTTP/1.1 are spoken here");
	} else {
		const char *why = llhttp_get_error_reason(&c->parser);
		conn_refuse(c, 400, why && *why ? why : "this is not HTTP/1.1");
	}
}

/* Whether more input may be parsed now. */
static bool may_parse(const struct server_conn *c)
{
	if (c->state == CONN_IDLE || c->state == CONN_HEAD)
		return true;
	return c->state == CONN_EXCHANGE && !c->x.body_ended && !c->x.body_paused;
}

static void tell_body_end(struct server_conn *c)
{
	struct http_exchange *x = &c->x;
	if (!x->body_ended || x->told_end)
		return;
	x->told_end = true;
	if (x->open && x->handler && x->handler->on_body_end)
		x->handler->on_body_end(x->arg);
	else if (!x->open && c->state == CONN_EXCHANGE) /* answered before its body had come */
		conn_exchange_done(c);
}

/* A body in chunks of one byte is five sixths framing, and is let through; extensions and trailers without an
 * end, of which nothing is kept, are not. */
static bool mostly_framing(const struct server_conn *c)
{
	return c->fed_bytes > FRAMING_MAX + 16 * c->body_bytes;
}

/* Parses data; what may not be parsed yet is kept. */
void conn_feed(struct server_conn *c, const char *data, size_t n)
{
	while (n && may_parse(c)) {
		gather_chunk(&c->x.head, data);
		c->fed_bytes += n;
		llhttp_errno_t e = llhttp_execute(&c->parser, data, n);
		if (c->state == CONN_CLOSED)
			return;
		if (e == HPE_OK) {
			if (gather_chunk_end(&c->x.head, data + n) < 0) {
				conn_refuse(c, 431, "the request's headers are larger than 64 KiB");
				return;
			}
			if (c->state == CONN_EXCHANGE && !c->x.body_ended && mostly_framing(c)) {
				conn_refuse(
					c, 400, "the request's body is mostly chunk extensions or trailers");
				return;
			}
			n = 0;
			break;
		}
		if (e != HPE_PAUSED) {
			parse_failed(c, e);
			return;
		}
		const char *at = llhttp_get_error_pos(&c->parser);
		llhttp_resume(&c->parser);
		n -= (size_t)(at - data);
		data = at;
		tell_body_end(c);
		if (c->state == CONN_CLOSED)
			return;
	}
	tell_body_end(c); /* a message that ended exactly with the data */
	if (c->state == CONN_CLOSED || c->state == CONN_FLUSH || c->state == CONN_LINGER || n == 0)
		return;
	if (buf_add(&c->in, data, n) < 0) /* cannot pass KEEP_MAX: reading stops while something is kept */
		conn_close(c);
}

static void feed_kept(void *arg)
{
	struct server_conn *c = arg;
	if (c->state == CONN_CLOSED)
		return;
	if (c->in.len && may_parse(c)) {
		struct buf kept = c->in;
		buf_init(&c->in, KEEP_MAX);
		conn_feed(c, kept.data, kept.len);
		buf_done(&kept);
	}
	if (c->state != CONN_CLOSED)
		conn_update_reading(c);
}

void conn_update_reading(struct server_conn *c)
{
	if (c->state == CONN_CLOSED || c->state == CONN_FLUSH || c->state == CONN_LINGER)
		return;
	if (c->in.len && may_parse(c))
		loop_defer(c->server->loop, &c->again, feed_kept, c);
	/* While a request runs we go on reading as long as nothing is kept, so that the end of the connection
	 * is seen; else the kernel's hang-up event tells. */
	bool read = c->in.len == 0 && !c->x.body_paused;
	sock_want(&c->sock, read, !read);
}

static void on_eof(struct server_conn *c)
{
	conn_close(c); /* a client that shuts its side has left: its request is cancelled */
}

static void on_readable(void *arg)
{
	struct server_conn *c = arg;
	char data[READ_CHUNK];
	ssize_t n = sock_read(&c->sock, data, sizeof data);
	if (n == -EAGAIN)
		return;
	if (n <= 0) {
		on_eof(c);
		return;
	}
	if (c->state == CONN_LINGER)
		return;
	c->read_at = loop_now(c->server->loop);
	conn_feed(c, data, (size_t)n);
	conn_update_reading(c);
}

static void on_writable(void *arg)
{
	struct server_conn *c = arg;
	if (c->state == CONN_FLUSH)
		close_when_sent(c);
	else if (c->x.open && c->x.handler && c->x.handler->on_drained)
		c->x.handler->on_drained(c->x.arg);
}

static void on_broken(void *arg, int error)
{
	(void)error;
	conn_close(arg);
}

/* Nothing for the time-out, or for longer than that less than HTTP_RATE_MIN of what waits. */
static bool too_slow(mono_t since, mono_t last, uint64_t bytes, int64_t timeout_ms, mono_t now)
{
	int64_t ms = mono_ms_between(since, now);
	return mono_ms_between(last, now) >= timeout_ms ||
	       (ms >= timeout_ms && bytes < (uint64_t)ms * HTTP_RATE_MIN / 1000);
}

static bool send_stalled(const struct server_conn *c)
{
	const struct sock *s = &c->sock;
	return sock_unsent(s) && too_slow(s->queued_at, s->sent_at, s->sent_since,
					 c->server->o.send_timeout_ms, loop_now(c->server->loop));
}

static bool body_stalled(const struct server_conn *c)
{
	return !c->x.body_ended && !c->x.body_paused &&
	       too_slow(c->body_since, c->read_at, c->body_bytes - c->body_then, c->server->o.body_timeout_ms,
		       loop_now(c->server->loop));
}

/* The pace is that of the last time-out's length, so that nobody lives on a quick beginning. */
static void measure_anew(struct server_conn *c)
{
	mono_t now = loop_now(c->server->loop);
	if (mono_ms_between(c->sock.queued_at, now) >= c->server->o.send_timeout_ms) {
		c->sock.queued_at = now;
		c->sock.sent_since = 0;
	}
	if (mono_ms_between(c->body_since, now) >= c->server->o.body_timeout_ms) {
		c->body_since = now;
		c->body_then = c->body_bytes;
	}
}

static void on_timer(void *arg)
{
	struct server_conn *c = arg;
	mono_t now = mono_now();
	if (mono_before(now, c->limit)) {
		loop_timer_start(c->server->loop, &c->timer, mono_ms_between(now, c->limit) + 1, on_timer, c);
		return;
	}
	switch (c->state) {
	case CONN_HEAD: conn_refuse(c, 408, "the request's head did not arrive in time"); return;
	case CONN_EXCHANGE:
		if (body_stalled(c)) {
			conn_refuse(c, 408, "the request's body stopped arriving, or comes too slowly");
			return;
		}
		break;
	case CONN_FLUSH: break;
	default: conn_close(c); return;
	}
	if (send_stalled(c)) {
		conn_close(c);
		return;
	}
	measure_anew(c);
	c->limit = mono_add_ms(now, tick_ms(c));
	loop_timer_start(c->server->loop, &c->timer, tick_ms(c), on_timer, c);
}

/* The layer has started, or not: where nobody speaks it, it can still be told plainly. */
static void on_connected(void *arg, int error)
{
	struct server_conn *c = arg;
	if (!error) {
		conn_set_state(c, CONN_IDLE);
		sock_want(&c->sock, true, false);
		return;
	}
	sock_layer_drop(&c->sock);
	if (error == -EPROTOTYPE)
		conn_refuse(c, 400, "this port speaks https: begin the address with https://");
	else
		close_when_sent(c); /* what the layer said of it must not be lost to a reset */
}

static const struct sock_ops conn_sock_ops = {
	.on_connected = on_connected,
	.on_readable = on_readable,
	.on_writable = on_writable,
	.on_broken = on_broken,
};

void conn_exchange_done(struct server_conn *c)
{
	struct http_exchange *x = &c->x;
	if (c->state != CONN_EXCHANGE)
		return;
	if (x->close_after) {
		close_when_sent(c);
		return;
	}
	if (!x->body_ended) { /* its body is still coming: read it away, then go on */
		x->body_paused = false;
		conn_update_reading(c);
		return;
	}
	x->told_end = true;
	llhttp_reset(&c->parser);
	conn_set_state(c, CONN_IDLE);
	if (c->server->draining) {
		close_when_sent(c);
		return;
	}
	conn_update_reading(c);
}

struct server_conn *conn_new(struct http_server *s)
{
	struct server_conn *c = NEW(struct server_conn);
	c->server = s;
	c->state = CONN_FLUSH; /* so that the first state that is set is a change */
	c->sock.fd = -1;
	buf_init(&c->in, KEEP_MAX);
	gather_init(&c->x.head);
	buf_init(&c->x.extra, 4 * KIB);
	c->x.conn = c;
	llhttp_init(&c->parser, HTTP_REQUEST, &http_server_parser_settings);
	c->parser.data = c;
	list_append(&s->waiting, &c->node);
	s->nconns++;
	return c;
}

void http_server_accept_tls(
	struct http_server *s, int fd, const struct net_peer *peer, struct tls_server *tls)
{
	if (!s->draining && s->nconns >= s->o.max_connections &&
		!list_empty(&s->waiting)) /* an old idle one */
		conn_close(LIST_ENTRY(s->waiting.next, struct server_conn, node));
	if (s->draining || s->nconns >= s->o.max_connections) {
		fd_close(fd);
		tell_closed(s);
		return;
	}
	struct server_conn *c = conn_new(s);
	c->peer = *peer;
	if (sock_init(&c->sock, s->loop, fd, &conn_sock_ops, c) < 0) {
		conn_close(c);
		return;
	}
	if (tls) {
		c->peer.is_tls = true;
		conn_set_state(c, CONN_START);
		sock_layer(&c->sock, tls_server_layer(tls));
		return;
	}
	conn_set_state(c, CONN_IDLE);
	sock_want(&c->sock, true, false);
}

void http_server_accept(struct http_server *s, int fd, const struct net_peer *peer)
{
	http_server_accept_tls(s, fd, peer, NULL);
}

static void on_accept(void *arg, int fd, const struct net_peer *peer)
{
	struct http_listener *l = arg;
	http_server_accept_tls(l->server, fd, peer, l->tls);
}

struct http_server *http_server_new(struct loop *l, const struct http_server_opts *o)
{
	struct http_server *s = NEW(struct http_server);
	s->loop = l;
	s->o = *o;
	s->server_line = o->server_name ? mem_fmt("Server: %s\r\n", o->server_name) : mem_strdup("");
	buf_init(&s->head, 2 * HTTP_HEAD_MAX);
	list_init(&s->conns);
	list_init(&s->waiting);
	return s;
}

int http_server_listen_tls(struct http_server *s, int fd, struct tls_server *tls)
{
	if (s->nlisteners == ARRAY_LEN(s->listeners))
		return -ENOSPC;
	struct http_listener *l = &s->listeners[s->nlisteners];
	*l = (struct http_listener){ .server = s, .tls = tls };
	int r = listener_start(s->loop, fd, on_accept, l, &l->listener);
	if (r == 0)
		s->nlisteners++;
	return r;
}

int http_server_listen(struct http_server *s, int fd)
{
	return http_server_listen_tls(s, fd, NULL);
}

static void stop_listening(struct http_server *s)
{
	for (size_t i = 0; i < s->nlisteners; i++)
		listener_stop(&s->listeners[i].listener);
	s->nlisteners = 0;
}

void http_server_drain(struct http_server *s, loop_fn *on_idle, void *arg)
{
	s->draining = true;
	stop_listening(s);
	LIST_FOREACH(c, &s->conns, struct server_conn, node)
	c->x.close_after = true;
	LIST_FOREACH(w, &s->waiting, struct server_conn, node)
	{
		if (w->state == CONN_IDLE || w->state == CONN_HEAD || w->state == CONN_START)
			conn_close(w);
		else
			w->x.close_after = true;
	}
	s->on_idle = on_idle; /* from here on the last connection to close tells */
	s->on_idle_arg = arg;
	if (s->nconns == 0 && on_idle)
		loop_defer_call(s->loop, on_idle, arg);
}

void http_server_close_all(struct http_server *s)
{
	while (!list_empty(&s->waiting))
		conn_close(LIST_ENTRY(s->waiting.next, struct server_conn, node));
	while (!list_empty(&s->conns))
		conn_close(LIST_ENTRY(s->conns.next, struct server_conn, node));
}

static void server_free(void *arg)
{
	struct http_server *s = arg;
	buf_done(&s->head);
	free(s->server_line);
	free(s);
}

void http_server_free(struct http_server *s)
{
	if (!s)
		return;
	s->freeing = true;
	stop_listening(s);
	http_server_close_all(s);
	loop_defer_call(s->loop, server_free, s);
}

size_t http_server_connections(const struct http_server *s)
{
	return s->nconns;
}

size_t http_server_exchanges(const struct http_server *s)
{
	return s->nexchanges;
}
