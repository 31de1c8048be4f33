/* SPDX-License-Identifier: Apache-2.0
 *
 * One document into memory. Any status is an answer; only what is too busy is asked again.
 */
#include <stdlib.h>
#include <stdio.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/num.h"
#include "files.h"
#include "net.h"
#include "place.h"

enum { BUSY_WAIT_MAX_MS = 60 * 1000, PAUSE_FIRST_MS = 200 };

struct text {
	struct result *ret;
	struct fail fail;
	bool over, failed, busy;
	int64_t retry_after_ms;
};

static int on_head(void *arg, const struct xfer_head *h, struct fail *f)
{
	struct text *t = arg;
	(void)f;
	t->ret->status = h->status;
	buf_reset(&t->ret->text);
	return 0;
}

static int on_data(void *arg, const void *p, size_t n, struct fail *f)
{
	struct text *t = arg;
	if (buf_add(&t->ret->text, p, n))
		return fail_set(f, WHY_NETWORK, "the document has more than %d bytes; no more are taken",
			JOB_TEXT_MAX);
	return 0;
}

static void on_end(void *arg, const struct xfer_head *h, const char *url, const struct fail *f)
{
	struct text *t = arg;
	t->over = true;
	t->failed = f != NULL;
	t->busy = !f && (h->status == 429 || h->status == 503);
	t->retry_after_ms = h->retry_after_ms;
	free(t->ret->url);
	t->ret->url = url_shown(url);
	if (f)
		t->fail = *f;
}

static const struct xfer_ops ops = { on_head, on_data, on_end };

static void once(struct net *n, const struct job *j, const char *url, struct text *t)
{
	struct xfer_spec spec = {
		.url = url, .headers = &j->files[0].headers, .method = j->method, .seen = &t->ret->headers
	};
	t->over = t->failed = t->busy = false;
	strv_done(&t->ret->headers);
	buf_reset(&t->ret->text);
	if (!xfer_start(n, &spec, &ops, t, &t->fail)) {
		t->failed = true;
		return;
	}
	while (!t->over)
		net_round(n, MONO_NEVER, -1);
}

static void pause_for(struct net *n, int64_t ms)
{
	mono_t end = mono_add_ms(mono_now(), ms);
	while (mono_before(mono_now(), end))
		net_round(n, end, -1);
}

/* Of one URL, with its tries. */
static int from_url(struct net *n, const struct job *j, const char *url, struct text *t)
{
	for (unsigned i = 0;; i++) {
		once(n, j, url, t);
		if (!t->failed && !t->busy)
			return 0;
		bool last = i + 1 >= j->tries;
		if (t->busy && (last || t->retry_after_ms > BUSY_WAIT_MAX_MS))
			return 0;
		if (t->failed && (last || t->fail.why != WHY_NETWORK))
			return -1;
		int64_t ms =
			t->busy && t->retry_after_ms >= 0 ? t->retry_after_ms : PAUSE_FIRST_MS << MIN(i, 6u);
		struct progress p = { .phase = PHASE_WAITING, .text = "The server is busy; trying again" };
		struct report r = { 0 };
		report_progress(&r, &p);
		pause_for(n, ms);
	}
}

static int from_file(const char *path, struct text *t)
{
	buf_reset(&t->ret->text);
	int r = file_read_regular(path, &t->ret->text);
	if (r)
		return fail_set(&t->fail, r == -ENOENT ? WHY_MISSING : WHY_DISK, "%.300s cannot be read: %s",
			path, strerror(-r));
	t->ret->status = 200;
	t->ret->url = mem_fmt("file://%s", path);
	return 0;
}

int op_text(const struct job *j, struct result *ret, struct fail *f)
{
	struct text t = { .ret = ret };
	struct net *n = net_new(j, f);
	int r = -1;
	if (!n)
		return -1;
	buf_init(&ret->text, JOB_TEXT_MAX);
	for (size_t i = 0; i < j->files[0].urls.len && r; i++) {
		struct place p;
		const char *url = j->files[0].urls.items[i];
		r = place_parse(url, &p, &t.fail);
		if (!r)
			r = p.is_file ? from_file(p.path, &t) : from_url(n, j, url, &t);
		place_done(&p);
	}
	ret->has_text = !r;
	if (r)
		*f = t.fail;
	net_free(n);
	return r;
}
