/* SPDX-License-Identifier: Apache-2.0
 *
 * One request at a time to the daemon: CORRAL_URL with CORRAL_API_KEY, else the socket in runtime_dir.
 */
#include <ctype.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <yyjson.h>

#include "base/fd.h"
#include "base/mem.h"
#include "cli/cli_int.h"

/* The folder the daemon's socket is in, as well as it can be known: a file with mistakes still names it. */
static char *runtime_dir(const struct cli *c)
{
	struct config_source src = { .path = c->config_path };
	return config_runtime_dir(&src);
}

int api_open_at(struct api *a, const char *address)
{
	struct err e = { 0 };
	*a = (struct api){ .loop = loop_new("cli"),
		.address = mem_strdup(address),
		.key = mem_strdup(getenv("CORRAL_API_KEY")) };
	struct http_target_opts o = { .idle_max = 2, .idle_ms = 4000, .connect_timeout_ms = 5000 };
	a->target = http_target_new(a->loop, address, &o, &e);
	if (a->target)
		return 0;
	complain("%s", e.msg);
	api_close(a);
	return CLI_USAGE;
}

int api_open(struct cli *c, struct api *a)
{
	const char *url = getenv("CORRAL_URL");
	AUTO(mem_freep) char *dir = url && *url ? NULL : runtime_dir(c);
	AUTO(mem_freep) char *address = dir ? mem_fmt("unix:%s/corral.sock", dir) : mem_strdup(url);
	size_t n = strlen(address);
	while (n && address[n - 1] == '/')
		address[--n] = '\0';
	int r = api_open_at(a, address);
	a->from_url = !dir;
	return r;
}

void api_close(struct api *a)
{
	if (a->target)
		http_target_free(a->target);
	if (a->loop)
		loop_free(a->loop);
	free(a->address);
	if (a->key)
		explicit_bzero(a->key, strlen(a->key));
	free(a->key);
	*a = (struct api){ 0 };
}

void path_add(struct buf *out, const char *s)
{
	for (; *s; s++) {
		if (isalnum((unsigned char)*s) || strchr("-._~", *s))
			buf_addc(out, *s);
		else
			buf_addf(out, "%%%02X", (unsigned)(unsigned char)*s);
	}
}

void api_error_text(struct view body, struct buf *message, struct buf *hint_text)
{
	yyjson_doc *doc = yyjson_read(body.n ? body.p : "", body.n, 0);
	yyjson_val *err = yyjson_obj_get(yyjson_doc_get_root(doc), "error");
	yyjson_val *msg = yyjson_is_str(err) ? err : yyjson_obj_get(err, "message");
	yyjson_val *h = yyjson_obj_get(yyjson_obj_get(err, "corral"), "hint");
	if (yyjson_is_str(msg))
		(void)buf_adds(message, yyjson_get_str(msg));
	if (yyjson_is_str(h))
		(void)buf_adds(hint_text, yyjson_get_str(h));
	yyjson_doc_free(doc);
}

/* ---- one call ----------------------------------------------------------------------------------- */

struct exchange {
	struct api *api;
	const struct api_req *req;
	struct http_call *call;
	struct buf *answer, error_body;
	int status;
	bool ended, failed, interrupted, too_large;
	enum http_fail fail;
	struct err err;
};

static void call_on_head(void *arg, struct http_call *c, int status, const struct http_headers *h)
{
	(void)c;
	(void)h;
	((struct exchange *)arg)->status = status;
}

static void call_on_data(void *arg, struct view bytes)
{
	struct exchange *x = arg;
	bool fine = x->status >= 200 && x->status < 300;
	if (fine && x->req->on_data)
		x->req->on_data(x->req->arg, bytes);
	else if (buf_addv(fine ? x->answer : &x->error_body, bytes))
		x->too_large = true;
}

static void call_on_end(void *arg)
{
	struct exchange *x = arg;
	x->call = NULL;
	x->ended = true;
	loop_stop(x->api->loop);
}

static void call_on_error(void *arg, enum http_fail f, const struct err *e)
{
	struct exchange *x = arg;
	x->call = NULL;
	x->failed = true;
	x->fail = f;
	x->err = *e;
	loop_stop(x->api->loop);
}

static void on_sigint(void *arg, int signo)
{
	struct exchange *x = arg;
	(void)signo;
	x->interrupted = true;
	loop_stop(x->api->loop);
}

static const struct http_call_ops call_ops = {
	.on_head = call_on_head,
	.on_data = call_on_data,
	.on_end = call_on_end,
	.on_error = call_on_error,
};

static void start(struct exchange *x)
{
	const struct api_req *r = x->req;
	AUTO(buf_done) struct buf block = BUF(HTTP_HEAD_MAX);
	if (r->body)
		(void)http_header_add(&block, "Content-Type", VIEW("application/json"));
	if (x->api->key && *x->api->key)
		(void)http_header_addf(&block, "Authorization", "Bearer %s", x->api->key);
	struct http_call_req h = { .method = view_str(r->method),
		.path = view_str(r->path),
		.block = &block,
		.body_len = r->body ? (int64_t)r->body->len : 0,
		.flags = HTTP_CALL_FRESH };
	x->call = http_call_start(x->api->target, &h, &call_ops, x);
	if (r->timeout_ms >= 0)
		http_call_deadline(x->call, r->timeout_ms ? r->timeout_ms : 30000);
	if (r->body)
		(void)http_call_write(x->call, buf_view(r->body));
}

static int unreachable(const struct exchange *x)
{
	if (x->req->quiet_unreachable)
		return CLI_UNREACHABLE;
	complain("no daemon answers at %s (%s)", x->api->address, x->err.msg);
	if (x->api->from_url)
		hint("check CORRAL_URL, or unset it to use the local daemon's socket");
	else
		hint("start it with: corral serve");
	return CLI_UNREACHABLE;
}

static int verdict(const struct exchange *x)
{
	if (x->interrupted)
		return CLI_OK;
	if (x->failed && (x->fail == HTTP_FAIL_CONNECT))
		return unreachable(x);
	if (x->failed && x->status && x->req->on_broken && x->req->on_broken(x->req->arg))
		return CLI_FAILED;
	if (x->failed) {
		complain("the connection to the daemon at %s failed: %s", x->api->address, x->err.msg);
		return CLI_FAILED;
	}
	if (x->too_large && !x->error_body.len) {
		complain("the daemon's answer to %s is larger than %d MiB", x->req->path,
			API_BODY_MAX / 1024 / 1024);
		return CLI_FAILED;
	}
	if (x->status >= 200 && x->status < 300)
		return CLI_OK;
	if (x->req->on_refused && x->req->on_refused(x->req->arg, x->status, buf_view(&x->error_body)))
		return CLI_FAILED;
	AUTO(buf_done) struct buf message = BUF(64 * KIB);
	AUTO(buf_done) struct buf more = BUF(64 * KIB);
	api_error_text(buf_view(&x->error_body), &message, &more);
	if (message.len)
		complain("%s", buf_str(&message));
	else
		complain("%s %s was answered with status %d", x->req->method, x->req->path, x->status);
	if (more.len)
		hint("%s", buf_str(&more));
	return CLI_FAILED;
}

int api_call(struct api *a, const struct api_req *r, struct buf *answer, int *ret_status)
{
	struct exchange x = { .api = a, .req = r, .answer = answer, .error_body = BUF(1 * MIB) };
	struct loop_signal *sig = NULL;
	if (r->interruptible && loop_signal_start(a->loop, &sig, SIGINT, on_sigint, &x))
		sig = NULL;
	start(&x);
	(void)loop_run(a->loop);
	if (x.call)
		http_call_cancel(x.call);
	loop_signal_stop(&sig);
	int code = verdict(&x);
	*ret_status = x.interrupted ? 0 : x.status;
	buf_done(&x.error_body);
	return code;
}

int api_foreign(void)
{
	complain("what answers there does not look like Corral");
	return CLI_FAILED;
}

int api_show(struct cli *c, struct api *a, const char *path, api_page_fn *page, size_t out_max)
{
	AUTO(buf_done) struct buf answer = BUF(API_BODY_MAX);
	AUTO(buf_done) struct buf out = BUF(out_max);
	struct api_req req = { .method = "GET", .path = path };
	int http, r = api_call(a, &req, &answer, &http);
	if (r)
		return r;
	if (c->json)
		(void)buf_addf(&out, "%s\n", buf_str(&answer));
	else if (page(buf_view(&answer), color_for(STDOUT_FILENO), &out))
		return api_foreign();
	return say(&out);
}
