/* SPDX-License-Identifier: Apache-2.0
 *
 * Whole small exchanges: heartbeats, probes, control calls.
 */
#include <stdlib.h>

#include "base/mem.h"
#include "http/client.h"

struct http_fetch {
	struct http_target *target;
	struct http_call *call;
	char *method, *path;
	struct buf block, body, answer;
	int64_t timeout_ms;
	int status;
	bool again;
	http_fetch_fn *fn;
	void *arg;
	struct loop *loop;
};

static const struct http_call_ops fetch_ops;

static void fetch_free(void *arg)
{
	struct http_fetch *f = arg;
	free(f->method);
	free(f->path);
	buf_done(&f->block);
	buf_done(&f->body);
	buf_done(&f->answer);
	free(f);
}

static void send_it(struct http_fetch *f)
{
	struct http_call_req r = {
		.method = view_str(f->method),
		.path = view_str(f->path),
		.block = &f->block,
		.body_len = (int64_t)f->body.len,
		.flags = f->again ? HTTP_CALL_FRESH : 0,
	};
	f->call = http_call_start(f->target, &r, &fetch_ops, f);
	http_call_deadline(f->call, f->timeout_ms);
	http_call_write(f->call, buf_view(&f->body));
}

static void finish(struct http_fetch *f, const struct err *e)
{
	f->call = NULL;
	http_fetch_fn *fn = f->fn;
	loop_defer_call(f->loop, fetch_free, f);
	fn(f->arg, e ? 0 : f->status, buf_view(&f->answer), e);
}

static void on_head(void *arg, struct http_call *c, int status, const struct http_headers *h)
{
	(void)c;
	(void)h;
	((struct http_fetch *)arg)->status = status;
}

static void on_data(void *arg, struct view bytes)
{
	struct http_fetch *f = arg;
	if (buf_addv(&f->answer, bytes) == 0)
		return;
	struct err e = { 0 };
	err_set(&e, -EFBIG, "the answer of %s to %s is larger than %zu bytes", http_target_host(f->target),
		f->path, f->answer.max);
	http_call_cancel(f->call);
	finish(f, &e);
}

static void on_end(void *arg)
{
	finish(arg, NULL);
}

static void on_error(void *arg, enum http_fail fail, const struct err *e)
{
	struct http_fetch *f = arg;
	if (fail == HTTP_FAIL_STALE && !f->again) {
		f->again = true;
		buf_reset(&f->answer);
		send_it(f);
		return;
	}
	finish(f, e);
}

static const struct http_call_ops fetch_ops = {
	.on_head = on_head,
	.on_data = on_data,
	.on_end = on_end,
	.on_error = on_error,
};

struct http_fetch *http_fetch(
	struct http_target *t, const struct http_fetch_req *r, http_fetch_fn *fn, void *arg)
{
	struct http_fetch *f = NEW(struct http_fetch);
	f->target = t;
	f->loop = http_target_loop(t);
	f->method = mem_strdup(r->method);
	f->path = mem_strdup(r->path);
	buf_init(&f->block, HTTP_HEAD_MAX);
	buf_init(&f->body, MAX(r->body.n, (size_t)1));
	buf_init(&f->answer, r->max_body ? r->max_body : MIB);
	f->timeout_ms = r->timeout_ms ? r->timeout_ms : 10000;
	f->fn = fn;
	f->arg = arg;
	if (r->content_type)
		(void)http_header_add(&f->block, "Content-Type", view_str(r->content_type));
	if (r->extra)
		(void)buf_addv(&f->block, buf_view(r->extra));
	(void)buf_addv(&f->body, r->body);
	send_it(f);
	return f;
}

void http_fetch_cancel(struct http_fetch **pf)
{
	struct http_fetch *f = *pf;
	*pf = NULL;
	if (!f)
		return;
	if (f->call)
		http_call_cancel(f->call);
	loop_defer_call(f->loop, fetch_free, f);
}
