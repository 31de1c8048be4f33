/* SPDX-License-Identifier: Apache-2.0
 *
 * Calls across loops. Two references: the data loop's while it has the exchange, the control loop's while
 * it has not answered.
 */
#include "api/call.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

static void call_unref(struct api_call *c)
{
	if (atomic_fetch_sub_explicit(&c->refs, 1, memory_order_acq_rel) != 1)
		return;
	free(c->path);
	free(c->query);
	buf_done(&c->body);
	auth_key_unref(c->key);
	free(c);
}

/* ---- control loop to data loop
 * ----------------------------------------------------------------------------- */

enum part_kind { PART_REPLY, PART_START, PART_BYTES, PART_END, PART_CUT };
struct part {
	struct loop_work work;
	struct api_call *call;
	enum part_kind kind;
	int status;
	struct buf head, body;
};

static void drained_on_control(void *arg)
{
	struct api_call *c = arg;
	if (!c->over && c->on_drained)
		c->on_drained(c->arg);
	call_unref(c);
}

static void tell_drained(struct api_call *c)
{
	atomic_fetch_add_explicit(&c->refs, 1, memory_order_relaxed);
	loop_post_call(c->api_loop, drained_on_control, c);
}

static void write_part(struct api_call *c, struct part *p)
{
	struct http_exchange *x = c->x;
	switch (p->kind) {
	case PART_REPLY:
		c->x = NULL;
		http_reply(x, p->status, NULL, &p->head, buf_view(&p->body));
		call_unref(c);
		break;
	case PART_START: http_start(x, p->status, &p->head, -1); break;
	case PART_BYTES: c->blocked = http_body(x, buf_view(&p->body)); break;
	case PART_END:
	case PART_CUT:
		c->x = NULL;
		if (p->kind == PART_END)
			http_end(x);
		else
			http_abort(x);
		call_unref(c);
		break;
	}
}

static void sent(struct api_call *c, size_t n)
{
	size_t left = atomic_fetch_sub_explicit(&c->unsent, n, memory_order_acq_rel) - n;
	if (left == 0 && c->x)
		tell_drained(c);
}

static void part_on_data(void *arg)
{
	struct part *p = arg;
	struct api_call *c = p->call;
	if (c->x)
		write_part(c, p);
	if (p->kind == PART_BYTES && c->x && c->blocked)
		c->held += p->body.len; /* counts until the socket takes more */
	else if (p->kind == PART_BYTES)
		sent(c, p->body.len);
	buf_done(&p->head);
	buf_done(&p->body);
	free(p);
	call_unref(c);
}

static void post_part(
	struct api_call *c, enum part_kind kind, int status, const struct buf *head, struct view body)
{
	struct part *p = NEW(struct part);
	p->call = c;
	p->kind = kind;
	p->status = status;
	buf_init(&p->head, HTTP_HEAD_MAX);
	buf_init(&p->body, MAX(body.n, (size_t)1));
	if (head)
		(void)buf_addv(&p->head, buf_view(head));
	(void)buf_addv(&p->body, body);
	atomic_fetch_add_explicit(&c->refs, 1, memory_order_relaxed);
	loop_post(c->data_loop, &p->work, part_on_data, p);
}

/* The control side is done with it. */
static void end_control(struct api_call *c)
{
	if (c->over)
		return;
	c->over = true;
	c->on_gone = c->on_drained = NULL;
	call_unref(c);
}

static void common_head(struct api_call *c, const char *type, const struct buf *block, struct buf *head)
{
	if (type)
		(void)http_header_add(head, "Content-Type", view_str(type));
	api_request_id_headers(dialect_of_path(view_str(c->path)), view_str(c->request_id), head);
	(void)http_header_add(head, "Cache-Control", VIEW("no-store"));
	if (block)
		(void)buf_addv(head, buf_view(block));
}

void api_reply(struct api_call *c, int status, const char *type, const struct buf *block, struct view body)
{
	AUTO(buf_done) struct buf head = BUF(HTTP_HEAD_MAX);
	common_head(c, type, block, &head);
	post_part(c, PART_REPLY, status, &head, body);
	end_control(c);
}

void api_reply_json(struct api_call *c, int status, struct view body)
{
	api_reply(c, status, "application/json", NULL, body);
}

void api_fail(struct api_call *c, const struct api_error *e)
{
	AUTO(buf_done) struct buf body = BUF(64 * KIB);
	AUTO(buf_done) struct buf head = BUF(8 * KIB);
	struct api_error copy = *e;
	copy.request_id = view_str(c->request_id);
	enum dialect d = dialect_of_path(view_str(c->path));
	(void)api_error_body(d, &copy, &body);
	(void)api_error_headers(d, &copy, &head);
	api_reply(c, api_error_status(d, &copy), "application/json", &head, buf_view(&body));
}

void api_failf(struct api_call *c, enum corral_code code, int status, const char *hint, const char *fmt, ...)
{
	char text[768];
	va_list ap;
	va_start(ap, fmt);
	int n = vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	struct api_error e = { .code = code,
		.status = status,
		.retriable = -1,
		.hint = view_str(hint),
		.message = view_of(text, n < 0 ? 0 : MIN((size_t)n, sizeof text - 1)) };
	api_fail(c, &e);
}

void api_stream(struct api_call *c, const char *type, const struct buf *block)
{
	AUTO(buf_done) struct buf head = BUF(HTTP_HEAD_MAX);
	common_head(c, type, block, &head);
	(void)http_header_add(&head, "X-Accel-Buffering", VIEW("no"));
	post_part(c, PART_START, 200, &head, (struct view){ 0 });
}

bool api_send(struct api_call *c, struct view bytes)
{
	if (!bytes.n)
		return false;
	size_t unsent = atomic_fetch_add_explicit(&c->unsent, bytes.n, memory_order_acq_rel) + bytes.n;
	post_part(c, PART_BYTES, 0, NULL, bytes);
	return unsent > API_STREAM_MAX / 4;
}

void api_finish(struct api_call *c, bool complete)
{
	post_part(c, complete ? PART_END : PART_CUT, 0, NULL, (struct view){ 0 });
	end_control(c);
}

/* ---- data loop
 * ------------------------------------------------------------------------------------------------ */

static void arrive(void *arg)
{
	struct api_call *c = arg;
	api_dispatch(c);
}

static void leave(void *arg)
{
	struct api_call *c = arg;
	if (!c->over) {
		if (c->on_gone)
			c->on_gone(c->arg);
		end_control(c);
	}
	call_unref(c); /* the data loop's */
}

static void refuse(struct api_call *c, enum corral_code code, const char *message)
{
	struct http_exchange *x = c->x;
	AUTO(buf_done) struct buf body = BUF(16 * KIB);
	AUTO(buf_done) struct buf head = BUF(8 * KIB);
	struct api_error e = { .code = code,
		.retriable = -1,
		.message = view_str(message),
		.request_id = view_str(c->request_id) };
	enum dialect d = dialect_of_path(view_str(c->path));
	(void)api_error_body(d, &e, &body);
	api_request_id_headers(d, e.request_id, &head);
	c->x = NULL;
	http_reply(x, api_error_status(d, &e), "application/json", &head, buf_view(&body));
	call_unref(c);
}

static void on_body(void *arg, struct view v)
{
	struct api_call *c = arg;
	if (buf_addv(&c->body, v) < 0) {
		refuse(c, CODE_PAYLOAD_TOO_LARGE, "A control request's body may have 1 MiB at most.");
		call_unref(c); /* it was never posted: the control side's reference too */
	}
}

static void on_body_end(void *arg)
{
	struct api_call *c = arg;
	c->posted = true;
	loop_post(c->api_loop, &c->arrive, arrive, c);
}

static void on_gone(void *arg)
{
	struct api_call *c = arg;
	c->x = NULL;
	if (!c->posted) {
		call_unref(c);
		call_unref(c);
		return;
	}
	loop_post(c->api_loop, &c->leave, leave, c);
}

static void on_drained(void *arg)
{
	struct api_call *c = arg;
	size_t n = c->held;
	c->blocked = false;
	c->held = 0;
	sent(c, n);
}

static const struct http_handler call_handler = {
	.on_body = on_body,
	.on_body_end = on_body_end,
	.on_drained = on_drained,
	.on_gone = on_gone,
};

static bool says_json(const struct http_headers *h)
{
	struct view rest, t = view_trim(view_split(http_header_get(h, "content-type"), ';', &rest));
	return view_eq_ci(t, VIEW("application/json"));
}

static struct api_call *call_new(
	struct api *a, struct http_exchange *x, const char *request_id, struct auth_key *key)
{
	struct api_call *c = NEW(struct api_call);
	c->api = a;
	c->api_loop = api_loop(a);
	c->data_loop = http_loop(x);
	c->method = http_method(x);
	c->is_json = says_json(http_headers(x));
	c->x = x;
	buf_init(&c->body, API_BODY_MAX);
	atomic_init(&c->refs, 2);
	atomic_init(&c->unsent, 0);
	snprintf(c->request_id, sizeof c->request_id, "%s", request_id);
	const struct net_peer *peer = http_peer(x);
	size_t n = 0;
	if (key)
		n = (size_t)snprintf(c->by, sizeof c->by, "key %s from ", key->name);
	if (peer->is_unix)
		snprintf(c->by + n, sizeof c->by - n, "uid %d by unix socket", (int)peer->uid);
	else
		snprintf(c->by + n, sizeof c->by - n, "%s", peer->text);
	c->key = auth_key_ref(key);
	return c;
}

void api_start(struct api *a, struct http_exchange *x, const char *request_id, struct auth_key *key)
{
	struct api_call *c = call_new(a, x, request_id, key);
	c->path = mem_viewdup(http_path(x));
	c->query = http_query(x).p ? mem_viewdup(http_query(x)) : NULL;
	http_handle(x, &call_handler, c);
}

void api_start_as(
	struct api *a, struct http_exchange *x, const char *request_id, const char *path, const char *query)
{
	struct api_call *c = call_new(a, x, request_id, NULL); /* whoever passes it on has asked */
	c->path = mem_strdup(path);
	c->query = mem_strdup(query);
	http_handle(x, &call_handler, c);
	on_body_end(c); /* its body was read by whoever passes it on */
}
