/* SPDX-License-Identifier: Apache-2.0 */
#include "http_fuzz.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"
#include "http/client_int.h"
#include "http/server_int.h"

enum { ROUND = 256 }; /* inputs between two rounds of the loop, in which memory is given back */

static struct loop *loop;
static struct http_server *server;
static struct http_target *target;
static struct buf *told_now, *seen_now;

void must(bool ok)
{
	if (!ok)
		abort();
}

static void stop(void *arg)
{
	loop_stop(arg);
}

static void on_request(void *arg, struct http_exchange *x);

static void begin(void)
{
	static unsigned n;
	if (!loop) {
		struct http_server_opts o = { HTTP_SERVER_DEFAULTS, .on_request = on_request };
		struct err e = { 0 };
		loop = loop_new("fuzz");
		server = http_server_new(loop, &o);
		target = http_target_new(loop, "unix:/nowhere", NULL, &e);
		must(target != NULL);
	}
	if (n++ % ROUND)
		return;
	loop_post_call(loop, stop, loop);
	must(loop_run(loop) == 0);
}

static void tell(const char *what, struct view v)
{
	(void)buf_adds(told_now, what);
	(void)buf_addv(told_now, v);
	(void)buf_addc(told_now, '\n');
}

/* ---- the server -------------------------------------------------------------------------------------- */

/* What no handler may ever see. */
static void check(const struct http_exchange *x)
{
	const struct http_headers *h = http_headers(x);
	must(x->minor == 0 || x->minor == 1);
	must(http_header_count(h, "host") == 1 && http_header_count_known(h, HTTP_H_HOST) == 1);
	must(http_header_count(h, "content-length") <= 1);
	must(!http_header_get(h, "content-length").p || !http_header_get(h, "transfer-encoding").p);
	must(x->target.n && (x->target.p[0] == '/' || view_eqs(x->target, "*")));
	must(h->len <= HTTP_HEADERS_MAX && x->target.n <= HTTP_TARGET_MAX);
	for (size_t i = 0; i < x->target.n; i++)
		must((unsigned char)x->target.p[i] > ' ');
	for (size_t i = 0; i < h->len; i++) {
		struct view name = h->items[i].name, value = h->items[i].value;
		must(name.n && http_known_of(name) == h->items[i].known);
		for (size_t k = 0; k < name.n; k++)
			must((unsigned char)name.p[k] > ' ' && name.p[k] != ':' && name.p[k] != 0x7f);
		for (size_t k = 0; k < value.n; k++)
			must(((unsigned char)value.p[k] >= ' ' && value.p[k] != 0x7f) || value.p[k] == '\t');
	}
}

static void on_body(void *arg, struct view bytes)
{
	(void)arg;
	(void)buf_addv(seen_now, bytes);
}

static void on_body_end(void *arg)
{
	tell("end", view_of("", 0));
	http_reply(arg, 200, "text/plain", NULL, VIEW("ok"));
}

static void on_gone(void *arg)
{
	(void)arg;
	tell("gone", view_of("", 0));
}

static void on_request(void *arg, struct http_exchange *x)
{
	static const struct http_handler handler = {
		.on_body = on_body, .on_body_end = on_body_end, .on_gone = on_gone
	};
	(void)arg;
	check(x);
	tell("method ", http_method_name(x));
	tell("target ", http_target(x));
	for (size_t i = 0; i < http_headers(x)->len; i++) {
		tell("name ", http_headers(x)->items[i].name);
		tell("value ", http_headers(x)->items[i].value);
	}
	AUTO(buf_done) struct buf lines = BUF(HTTP_HEAD_MAX * 2);
	http_headers_copy(http_headers(x), 0, &lines);
	tell("crosses ", buf_view(&lines));
	http_handle(x, &handler, x);
}

void serve(struct view v, size_t step, struct buf *told, struct buf *seen)
{
	begin();
	told_now = told;
	seen_now = seen;
	struct server_conn *c = conn_new(server);
	conn_set_state(c, CONN_IDLE);
	for (size_t i = 0; i < v.n && c->state <= CONN_EXCHANGE && c->state != CONN_CLOSED; i += step) {
		struct view piece = view_cut(view_from(v, i), step);
		AUTO(mem_freep) char *own = mem_viewdup(piece); /* just that size */
		conn_feed(c, own, piece.n);
	}
	char text[24];
	int status = c->refuse_status ? c->refuse_status : 400;
	snprintf(text, sizeof text,
		c->state <= CONN_EXCHANGE ? "open"
		: c->x.responding         ? "closed"
					  : "refused %d",
		status);
	tell(text, view_of("", 0));
	conn_close(c);
}

/* ---- the client --------------------------------------------------------------------------------------- */

static void on_head(void *arg, struct http_call *call, int status, const struct http_headers *h)
{
	char text[24];
	(void)arg, (void)call;
	must(status >= 200 && status <= 999 && h->len <= HTTP_HEADERS_MAX);
	must(!http_header_get(h, "content-length").p || !http_header_get(h, "transfer-encoding").p);
	snprintf(text, sizeof text, "status %d", status);
	tell(text, view_of("", 0));
	for (size_t i = 0; i < h->len; i++) {
		tell("name ", h->items[i].name);
		tell("value ", h->items[i].value);
	}
}

static void on_end(void *arg)
{
	*(bool *)arg = true;
	tell("end", view_of("", 0));
}

static void on_error(void *arg, enum http_fail f, const struct err *e)
{
	(void)e;
	*(bool *)arg = true;
	tell("error ", view_str(http_fail_name(f)));
}

void answer(struct view v, size_t step, bool eof, struct buf *told, struct buf *seen)
{
	static const struct http_call_ops ops = {
		.on_head = on_head, .on_data = on_body, .on_end = on_end, .on_error = on_error
	};
	bool over = false;
	begin();
	told_now = told;
	seen_now = seen;
	struct client_conn *c = client_conn_new(target);
	struct http_call *call = client_call_new(target, c, &ops, &over);
	for (size_t i = 0; i < v.n && !over; i += step) {
		struct view piece = view_cut(view_from(v, i), step);
		AUTO(mem_freep) char *own = mem_viewdup(piece);
		client_conn_feed(c, own, piece.n);
	}
	if (!over && eof)
		client_conn_eof(c);
	if (!over)
		http_call_cancel(call);
	client_conn_close(c);
}

/* ---- the reference ------------------------------------------------------------------------------------- */

static int hex(char c)
{
	return c >= '0' && c <= '9'   ? c - '0'
	       : c >= 'a' && c <= 'f' ? c - 'a' + 10
	       : c >= 'A' && c <= 'F' ? c - 'A' + 10
				      : -1;
}

int dechunk(struct view v, struct buf *out)
{
	for (;;) {
		uint64_t size = 0;
		size_t i = 0;
		for (; i < v.n && hex(v.p[i]) >= 0; i++) {
			if (size >> 60)
				return -1;
			size = size * 16 + (uint64_t)hex(v.p[i]);
		}
		if (i == v.n)
			return 0;
		ptrdiff_t eol = view_search(v, VIEW("\r\n"));
		if (!i)
			return -1;
		if (eol < 0)
			return 0;
		v = view_from(v, (size_t)eol + 2);
		if (!size)
			break;
		(void)buf_addv(out, view_cut(v, (size_t)MIN(size, (uint64_t)v.n)));
		if (v.n < size + 2)
			return 0;
		v = view_from(v, (size_t)size);
		if (!view_starts(v, VIEW("\r\n")))
			return -1;
		v = view_from(v, 2);
	}
	for (ptrdiff_t eol; (eol = view_search(v, VIEW("\r\n"))) != 0; v = view_from(v, (size_t)eol + 2))
		if (eol < 0)
			return 0;
	return 1;
}
