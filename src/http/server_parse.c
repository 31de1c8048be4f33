/* SPDX-License-Identifier: Apache-2.0
 *
 * From llhttp's callbacks to an exchange: the head is gathered in one buffer, checked as a whole, and
 * only then shown to a handler.
 */
#include <string.h>

#include "base/mem.h"
#include "http/server_int.h"

static struct server_conn *conn_of(llhttp_t *p)
{
	return p->data;
}

static int refuse(struct server_conn *c, int status, const char *reason)
{
	c->refuse_status = status;
	c->refuse_reason = reason;
	return HPE_USER;
}

static int gathered(struct server_conn *c, int r)
{
	if (r == -E2BIG)
		return refuse(c, 431, "the request has more than 128 headers");
	return r < 0 ? refuse(c, 431, "the request's headers are larger than 64 KiB") : 0;
}

static int on_message_begin(llhttp_t *p)
{
	struct server_conn *c = conn_of(p);
	exchange_reset(&c->x);
	c->x.started = loop_now(c->server->loop);
	conn_set_state(c, CONN_HEAD);
	return 0;
}

static int on_url(llhttp_t *p, const char *at, size_t n)
{
	struct server_conn *c = conn_of(p);
	int r = gathered(c, gather_raw(&c->x.head, at, n));
	c->x.target_len = (uint32_t)gather_len(&c->x.head);
	return !r && c->x.target_len > HTTP_TARGET_MAX
		       ? refuse(c, 414, "the request's address is longer than 8 KiB")
		       : r;
}

static int on_header_field(llhttp_t *p, const char *at, size_t n)
{
	struct server_conn *c = conn_of(p);
	return gathered(c, gather_name(&c->x.head, at, n));
}

static int on_header_value(llhttp_t *p, const char *at, size_t n)
{
	struct server_conn *c = conn_of(p);
	return gathered(c, gather_value(&c->x.head, at, n));
}

static int on_header_value_complete(llhttp_t *p)
{
	struct server_conn *c = conn_of(p);
	gather_value_end(&c->x.head);
	return 0;
}

static int on_headers_complete(llhttp_t *p)
{
	struct server_conn *c = conn_of(p);
	p->upgrade = 0; /* an upgrade is not offered here: the request is an ordinary one */
	int status = exchange_finish_head(c);
	if (status)
		return HPE_USER;
	return 0;
}

static int on_body(llhttp_t *p, const char *at, size_t n)
{
	struct server_conn *c = conn_of(p);
	struct http_exchange *x = &c->x;
	c->body_bytes += n;
	if (x->open && x->handler && x->handler->on_body)
		x->handler->on_body(x->arg, view_of(at, n));
	return c->state == CONN_CLOSED ? HPE_USER : 0;
}

/* One request at a time: what follows stays unparsed until this one is answered. */
static int on_message_complete(llhttp_t *p)
{
	struct server_conn *c = conn_of(p);
	c->x.body_ended = true;
	return HPE_PAUSED;
}

static enum http_method method_of(uint8_t m)
{
	switch (m) {
	case HTTP_GET: return HTTP_M_GET;
	case HTTP_HEAD: return HTTP_M_HEAD;
	case HTTP_POST: return HTTP_M_POST;
	case HTTP_PUT: return HTTP_M_PUT;
	case HTTP_DELETE: return HTTP_M_DELETE;
	case HTTP_OPTIONS: return HTTP_M_OPTIONS;
	case HTTP_PATCH: return HTTP_M_PATCH;
	default: return HTTP_M_OTHER;
	}
}

static int refused(struct server_conn *c, int status, const char *reason)
{
	refuse(c, status, reason);
	return status;
}

/* uri-host [":" port] (RFC 9110, 7.2), by its characters alone; empty where there is no authority. */
static bool is_host(struct view v)
{
	for (size_t i = 0; i < v.n; i++) {
		char ch = v.p[i], low = (char)(ch | 0x20);
		if (!(low >= 'a' && low <= 'z') && !(ch >= '0' && ch <= '9') &&
			!strchr("-._:[]~%!$&'()*+,;=", ch))
			return false;
	}
	return true;
}

/* What llhttp lets through and we do not. */
static int check_head(struct server_conn *c)
{
	struct http_exchange *x = &c->x;
	const llhttp_t *p = &c->parser;
	if (p->http_major != 1 || p->http_minor > 1)
		return refused(c, 505, "only HTTP/1.0 and HTTP/1.1 are spoken here");
	if (http_header_count_known(&x->headers, HTTP_H_HOST) != 1)
		return refused(c, 400, "a request needs exactly one Host header");
	struct view expect = http_header_known(&x->headers, HTTP_H_EXPECT);
	if (expect.p) {
		if (!view_eq_ci(expect, VIEW("100-continue")))
			return refused(c, 417, "the only expectation that is met here is 100-continue");
		x->expects_continue = p->http_minor == 1;
	}
	if (!is_host(http_header_known(&x->headers, HTTP_H_HOST)))
		return refused(c, 400, "the Host header is not a name or an address with a port");
	if (x->target.p[0] != '/' && !(view_eqs(x->target, "*") && x->method == HTTP_M_OPTIONS))
		return refused(c, 400, "the request's address must begin with /");
	struct view te = http_header_known(&x->headers, HTTP_H_TRANSFER_ENCODING);
	if (te.p && (p->http_minor == 0 || !view_eq_ci(te, VIEW("chunked")) ||
			    http_header_count_known(&x->headers, HTTP_H_TRANSFER_ENCODING) != 1))
		return refused(c, 400, "the only transfer encoding taken here is chunked, once, in HTTP/1.1");
	return 0;
}

/* "http://host/path" (RFC 9112, 3.2.2): taken where it names the host that the Host header names too, so that
 * nothing behind us can see another one. What follows the host is the target then. */
static void origin_form(struct http_exchange *x)
{
	struct view rest = view_from(x->target, 7);
	if (!view_eq_ci(view_cut(x->target, 7), VIEW("http://")))
		return;
	size_t n = 0;
	while (n < rest.n && rest.p[n] != '/' && rest.p[n] != '?')
		n++;
	if (n && n < rest.n && rest.p[n] == '/' &&
		view_eq_ci(view_cut(rest, n), http_header_known(&x->headers, HTTP_H_HOST)))
		x->target = view_from(rest, n);
}

int exchange_finish_head(struct server_conn *c)
{
	struct http_exchange *x = &c->x;
	if (gather_headers(&x->head, &x->headers))
		return refused(c, 431, "the request's headers are larger than 64 KiB");
	x->target = view_of(buf_str(&x->head.bytes), x->target_len);
	origin_form(x);
	x->path = view_split(x->target, '?', &x->query);
	x->minor = c->parser.http_minor;
	x->method = method_of(c->parser.method);
	x->method_name = llhttp_method_name((llhttp_method_t)c->parser.method);
	x->content_length = (c->parser.flags & F_CHUNKED)
				    ? -1
				    : (int64_t)MIN(c->parser.content_length, (uint64_t)INT64_MAX);
	x->close_after = !llhttp_should_keep_alive(&c->parser) || c->server->draining;
	int status = check_head(c);
	if (status)
		return status;
	conn_set_state(c, CONN_EXCHANGE);
	c->read_at = c->body_since = loop_now(c->server->loop); /* a pipelined head may have come long ago */
	c->body_bytes = c->fed_bytes = c->body_then = 0;
	x->open = true;
	c->server->nexchanges++;
	c->server->o.on_request(c->server->o.arg, x);
	if (c->state == CONN_CLOSED)
		return refused(c, 400, "closed");
	if (x->open && x->expects_continue && !x->responding)
		sock_write(&c->sock, "HTTP/1.1 100 Continue\r\n\r\n", 25);
	return 0;
}

const llhttp_settings_t http_server_parser_settings = {
	.on_message_begin = on_message_begin,
	.on_url = on_url,
	.on_header_field = on_header_field,
	.on_header_value = on_header_value,
	.on_header_value_complete = on_header_value_complete,
	.on_headers_complete = on_headers_complete,
	.on_body = on_body,
	.on_message_complete = on_message_complete,
};
