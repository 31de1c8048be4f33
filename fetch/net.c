/* SPDX-License-Identifier: Apache-2.0 */
#include "net.h"

#include <stdio.h>
#include <stdlib.h>
#include <curl/curl.h>

#include "base/list.h"
#include "base/mem.h"
#include "base/num.h"
#include "place.h"

enum { BUFFER_BYTES = 512 * 1024, BUCKET_MIN = 64 * 1024, HEADERS_MAX = 512, HEADER_VALUE_MAX = 16 * 1024 };

struct net {
	CURLM *multi;
	const struct job *job;
	char *ca_file, *ca_dir;
	struct list xfers;
	size_t running;
	/* the rate's bucket: may be overdrawn by one piece */
	double tokens;
	mono_t filled;
};

struct xfer {
	struct list node;
	struct net *net;
	CURL *easy;
	struct curl_slist *sent;
	const struct xfer_ops *ops;
	void *arg;
	char *url;           /* of this hop */
	struct place origin; /* the given headers are for it */
	struct strv headers;
	char *range, *if_range, *method;
	struct strv *seen;
	struct xfer_head head;
	struct fail fail; /* said by a callback, or by a hop */
	bool failed, head_told, paused;
	unsigned hops;
	mono_t moved; /* when something came last */
	char error[CURL_ERROR_SIZE];
};

static void head_done(struct xfer_head *h)
{
	free(h->etag);
	free(h->modified);
	free(h->location);
	free(h->message);
	*h = (struct xfer_head){ .retry_after_ms = -1, .length = -1, .total = UINT64_MAX };
}

/* ---- what comes -------------------------------------------------------------------------------------------
 */

/* "bytes 0-99/1000", "bytes 0-99/" with "*", and "bytes *" before the total. */
static void parse_content_range(struct xfer_head *h, struct view v)
{
	struct view rest, last;
	uint64_t from, to, total = UINT64_MAX;
	if (!view_starts(v, VIEW("bytes ")))
		return;
	struct view span = view_trim(view_split(view_from(v, 6), '/', &rest));
	if (!view_eqs(rest, "*") && num_u64(rest, &total))
		return;
	if (view_eqs(span, "*")) {
		h->has_unsatisfied = true;
		h->total = total;
		return;
	}
	struct view first = view_split(span, '-', &last);
	if (num_u64(first, &from) || num_u64(last, &to) || to < from || to == UINT64_MAX ||
		(total != UINT64_MAX && to >= total))
		return;
	h->has_range = true;
	h->from = from;
	h->to = to + 1;
	h->total = total;
}

static int64_t parse_retry_after(struct view v)
{
	uint64_t seconds;
	if (!num_u64(v, &seconds))
		return (int64_t)MIN(seconds, (uint64_t)86400) * 1000;
	AUTO(mem_freep) char *text = mem_viewdup(v);
	time_t at = curl_getdate(text, NULL);
	return at < 0 ? -1 : MAX((int64_t)at * 1000 - wall_ms(), (int64_t)0);
}

static void set_value(char **to, struct view v)
{
	free(*to);
	*to = mem_viewdup(view_cut(v, HEADER_VALUE_MAX));
}

static void take_header(struct xfer_head *h, struct view name, struct view value)
{
	uint64_t n;
	if (view_eq_ci(name, VIEW("content-length")))
		h->length = num_u64(value, &n) || n > INT64_MAX ? -1 : (int64_t)n;
	else if (view_eq_ci(name, VIEW("content-range")))
		parse_content_range(h, value);
	else if (view_eq_ci(name, VIEW("retry-after")))
		h->retry_after_ms = parse_retry_after(value);
	else if (view_eq_ci(name, VIEW("etag")))
		set_value(&h->etag, value);
	else if (view_eq_ci(name, VIEW("last-modified")))
		set_value(&h->modified, value);
	else if (view_eq_ci(name, VIEW("location")))
		set_value(&h->location, value);
	else if (view_eq_ci(name, VIEW("x-error-message")))
		set_value(&h->message, value);
}

static size_t on_header(char *p, size_t one, size_t n, void *arg)
{
	(void)one;
	struct xfer *x = arg;
	struct view line = view_of(p, n), value;
	x->moved = mono_now();
	while (line.n && (line.p[line.n - 1] == '\n' || line.p[line.n - 1] == '\r'))
		line.n--;
	if (view_starts(line, VIEW("HTTP/"))) {
		head_done(&x->head);
		return n;
	}
	struct view name = view_split(line, ':', &value);
	if (!value.p)
		return n;
	value = view_trim(value);
	take_header(&x->head, name, value);
	if (x->seen && x->seen->len < HEADERS_MAX)
		strv_addf(x->seen, "%.*s: %.*s", VIEW_ARG(name), VIEW_ARG(view_cut(value, HEADER_VALUE_MAX)));
	return n;
}

static bool is_redirect(const struct xfer *x)
{
	int s = x->head.status;
	return x->head.location && (s == 301 || s == 302 || s == 303 || s == 307 || s == 308);
}

static int tell_head(struct xfer *x)
{
	long status = 0;
	curl_easy_getinfo(x->easy, CURLINFO_RESPONSE_CODE, &status);
	x->head.status = (int)status;
	if (x->head_told || is_redirect(x) || !status)
		return 0;
	x->head_told = true;
	x->head.url = x->url;
	x->failed = x->ops->on_head(x->arg, &x->head, &x->fail) != 0;
	return x->failed ? -1 : 0;
}

static void bucket_fill(struct net *n)
{
	mono_t now = mono_now();
	double rate = (double)n->job->rate, most = MAX(rate / 10, (double)BUCKET_MIN);
	n->tokens = MIN(most, n->tokens + rate * (double)(now.ns - n->filled.ns) / 1e9);
	n->filled = now;
}

static size_t on_body(char *p, size_t one, size_t n, void *arg)
{
	(void)one;
	struct xfer *x = arg;
	struct net *net = x->net;
	x->moved = mono_now();
	if (tell_head(x))
		return 0;
	if (is_redirect(x))
		return n;
	if (net->job->rate) {
		bucket_fill(net);
		if (net->tokens <= 0) {
			x->paused = true;
			return CURL_WRITEFUNC_PAUSE;
		}
		net->tokens -= (double)n;
	}
	x->failed = x->ops->on_data(x->arg, p, n, &x->fail) != 0;
	return x->failed ? 0 : n;
}

/* ---- what is sent -----------------------------------------------------------------------------------------
 */

static bool has_word(struct view name, const char *word)
{
	AUTO(mem_freep) char *text = mem_viewdup(name);
	return strcasestr(text, word) != NULL;
}

/* Would give something away that can be used again. A signature of this one request cannot. */
static bool is_credential(const char *header)
{
	struct view value, name = view_split(view_str(header), ':', &value);
	if (view_eq_ci(name, VIEW("authorization")))
		return !view_starts(view_trim(value), VIEW("AWS4-HMAC-"));
	if (view_eq_ci(name, VIEW("x-amz-security-token")))
		return false;
	return has_word(name, "cookie") || has_word(name, "token") || has_word(name, "authorization") ||
	       has_word(name, "key");
}

/* Can be read by others on its way. */
static bool is_open(const struct place *p)
{
	return strcmp(p->scheme, "http") == 0 && !p->is_loopback;
}

static void set_headers(struct xfer *x, const struct place *here)
{
	bool open = is_open(here);
	curl_slist_free_all(x->sent);
	x->sent = curl_slist_append(NULL, "Accept-Encoding: identity");
	if (x->if_range) {
		AUTO(mem_freep) char *line = mem_fmt("If-Range: %s", x->if_range);
		x->sent = curl_slist_append(x->sent, line);
	}
	for (size_t i = 0; place_same(here, &x->origin) && i < x->headers.len; i++) {
		if (!open || !is_credential(x->headers.items[i]))
			x->sent = curl_slist_append(x->sent, x->headers.items[i]);
	}
	curl_easy_setopt(x->easy, CURLOPT_HTTPHEADER, x->sent);
	/* this machine is never reached through a proxy */
	curl_easy_setopt(x->easy, CURLOPT_NOPROXY, here->is_loopback ? "*" : NULL);
}

static int hop(struct xfer *x)
{
	struct place here;
	if (place_parse(x->url, &here, &x->fail))
		return -1;
	int r = place_check(&here, &x->net->job->policy, x->url, &x->fail);
	if (!r && here.is_file)
		r = fail_set(&x->fail, WHY_REFUSED, "a file: URL does not come over the network");
	if (!r) {
		AUTO(mem_freep) char *bare = is_open(&here) ? url_without_user(x->url) : NULL;
		set_headers(x, &here);
		curl_easy_setopt(x->easy, CURLOPT_URL, bare ? bare : x->url);
		x->moved = mono_now();
		x->head_told = x->paused = false;
		x->error[0] = '\0';
		head_done(&x->head);
		curl_multi_add_handle(x->net->multi, x->easy);
	}
	place_done(&here);
	return r;
}

static void set_options(struct xfer *x)
{
	CURL *e = x->easy;
	const struct net *n = x->net;
	curl_easy_setopt(e, CURLOPT_PRIVATE, x);
	curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https");
	curl_easy_setopt(e, CURLOPT_FOLLOWLOCATION, 0L);
	curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(e, CURLOPT_USERAGENT, "corral/" CORRAL_VERSION);
	curl_easy_setopt(e, CURLOPT_HEADERFUNCTION, on_header);
	curl_easy_setopt(e, CURLOPT_HEADERDATA, x);
	curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, on_body);
	curl_easy_setopt(e, CURLOPT_WRITEDATA, x);
	curl_easy_setopt(e, CURLOPT_ERRORBUFFER, x->error);
	curl_easy_setopt(e, CURLOPT_BUFFERSIZE, (long)BUFFER_BYTES);
	curl_easy_setopt(e, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
	curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT_MS, (long)n->job->stall_ms);
	/* ranges of one file are worth connections of their own */
	curl_easy_setopt(e, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
	curl_easy_setopt(e, CURLOPT_TCP_KEEPALIVE, 1L);
	if (n->ca_file)
		curl_easy_setopt(e, CURLOPT_CAINFO, n->ca_file);
	if (n->ca_dir)
		curl_easy_setopt(e, CURLOPT_CAPATH, n->ca_dir);
	if (x->range)
		curl_easy_setopt(e, CURLOPT_RANGE, x->range);
	if (x->method && strcmp(x->method, "HEAD") == 0)
		curl_easy_setopt(e, CURLOPT_NOBODY, 1L);
	else if (x->method)
		curl_easy_setopt(e, CURLOPT_CUSTOMREQUEST, x->method);
}

/* ---- one request ------------------------------------------------------------------------------------------
 */

static void xfer_free(struct xfer *x)
{
	list_remove(&x->node);
	x->net->running--;
	if (x->easy) {
		curl_multi_remove_handle(x->net->multi, x->easy);
		curl_easy_cleanup(x->easy);
	}
	curl_slist_free_all(x->sent);
	place_done(&x->origin);
	strv_done(&x->headers);
	head_done(&x->head);
	free(x->url);
	free(x->range);
	free(x->if_range);
	free(x->method);
	free(x);
}

struct xfer *xfer_start(
	struct net *n, const struct xfer_spec *s, const struct xfer_ops *ops, void *arg, struct fail *f)
{
	struct xfer *x = NEW(struct xfer);
	x->net = n;
	x->ops = ops;
	x->arg = arg;
	x->url = mem_strdup(s->url);
	x->if_range = mem_strdup(s->if_range);
	x->method = mem_strdup(s->method);
	x->seen = s->seen;
	if (s->headers)
		strv_copy(&x->headers, s->headers);
	if (s->to)
		x->range = mem_fmt("%llu-%llu", (unsigned long long)s->from, (unsigned long long)(s->to - 1));
	head_done(&x->head);
	list_append(&n->xfers, &x->node);
	n->running++;
	x->easy = curl_easy_init();
	int r = x->easy ? place_parse(s->origin ? s->origin : s->url, &x->origin, &x->fail)
			: fail_set(&x->fail, WHY_NETWORK, "libcurl cannot be used: no memory");
	if (!r) {
		set_options(x);
		r = hop(x);
	}
	if (!r)
		return x;
	*f = x->fail;
	xfer_free(x);
	return NULL;
}

void xfer_cancel(struct xfer **px)
{
	struct xfer *x = *px;
	*px = NULL;
	if (x)
		xfer_free(x);
}

static void xfer_end(struct xfer *x, const struct fail *f)
{
	x->ops->on_end(x->arg, &x->head, x->url, f);
	xfer_free(x);
}

static void curl_said(struct xfer *x, CURLcode code)
{
	AUTO(mem_freep) char *shown = url_shown(x->url);
	const char *text = x->error[0] ? x->error : curl_easy_strerror(code);
	if (code == CURLE_PEER_FAILED_VERIFICATION || code == CURLE_SSL_CACERT_BADFILE)
		fail_set(&x->fail, WHY_NETWORK,
			"%.250s: its certificate is not trusted (%.120s); name your CA's file in "
			"CORRAL_CA_FILE",
			shown, text);
	else
		fail_set(&x->fail, WHY_NETWORK, "%.250s: %.200s", shown, text);
}

static void follow(struct xfer *x)
{
	AUTO(mem_freep) char *shown = url_shown(x->url);
	AUTO(mem_freep) char *next = url_redirected(x->url, x->head.location);
	curl_multi_remove_handle(x->net->multi, x->easy);
	if (++x->hops > JOB_REDIRECTS_MAX)
		fail_set(&x->fail, WHY_NETWORK, "%.300s: more than %d redirects; the last led here", shown,
			JOB_REDIRECTS_MAX);
	else if (!next)
		fail_set(&x->fail, WHY_NETWORK,
			"%.300s redirects to something that is not http: or https:", shown);
	else {
		free(x->url);
		x->url = MEM_TAKE(next);
		if (!hop(x))
			return;
		AUTO(mem_freep) char *why = mem_strdup(x->fail.msg);
		fail_set(&x->fail, x->fail.why, "%.300s (%.150s redirects there)", why, shown);
	}
	xfer_end(x, &x->fail);
}

static void ended(struct xfer *x, CURLcode code)
{
	if (code == CURLE_OK)
		tell_head(x);
	if (x->failed) {
		xfer_end(x, &x->fail);
		return;
	}
	if (code != CURLE_OK) {
		curl_said(x, code);
		xfer_end(x, &x->fail);
		return;
	}
	if (is_redirect(x))
		follow(x);
	else
		xfer_end(x, NULL);
}

/* ---- all of them ------------------------------------------------------------------------------------------
 */

struct net *net_new(const struct job *j, struct fail *f)
{
	struct net *n = NEW(struct net);
	list_init(&n->xfers);
	n->job = j;
	n->filled = mono_now();
	n->tokens = BUCKET_MIN;
	const char *file = getenv("CORRAL_CA_FILE");
	if (!file || !file[0])
		file = getenv("SSL_CERT_FILE");
	n->ca_file = mem_strdup(file && file[0] ? file : NULL);
	const char *dir = getenv("SSL_CERT_DIR");
	n->ca_dir = mem_strdup(dir && dir[0] ? dir : NULL);
	if (curl_global_init(CURL_GLOBAL_ALL) || !(n->multi = curl_multi_init())) {
		fail_set(f, WHY_NETWORK, "libcurl cannot be used: it did not start");
		net_free(n);
		return NULL;
	}
	curl_multi_setopt(n->multi, CURLMOPT_PIPELINING, (long)CURLPIPE_NOTHING);
	curl_multi_setopt(n->multi, CURLMOPT_MAXCONNECTS, (long)(2 * JOB_PARALLEL_MAX));
	return n;
}

void net_free(struct net *n)
{
	if (!n)
		return;
	while (!list_empty(&n->xfers))
		xfer_free(CONTAINER_OF(n->xfers.next, struct xfer, node));
	if (n->multi)
		curl_multi_cleanup(n->multi);
	free(n->ca_file);
	free(n->ca_dir);
	free(n);
}

size_t net_running(const struct net *n)
{
	return n->running;
}

/* The first that brought nothing for too long, or NULL. *next: when to look again. */
static struct xfer *stalled(struct net *n, mono_t *next)
{
	mono_t now = mono_now();
	*next = MONO_NEVER;
	for (struct list *p = n->xfers.next; p != &n->xfers; p = p->next) {
		struct xfer *x = CONTAINER_OF(p, struct xfer, node);
		mono_t due = mono_add_ms(x->moved, n->job->stall_ms);
		if (x->paused)
			continue;
		if (!mono_before(now, due))
			return x;
		*next = mono_before(due, *next) ? due : *next;
	}
	return NULL;
}

static mono_t end_stalled(struct net *n)
{
	struct xfer *x;
	mono_t next;
	while ((x = stalled(n, &next))) {
		AUTO(mem_freep) char *shown = url_shown(x->url);
		char text[32];
		num_format_duration(n->job->stall_ms, text, sizeof text);
		fail_set(&x->fail, WHY_NETWORK, "%.300s: nothing came for %s", shown, text);
		xfer_end(x, &x->fail);
	}
	return next;
}

/* Lets those go on that wait for the rate; says when to look again. */
static mono_t unpause(struct net *n)
{
	bool any = false;
	for (struct list *p = n->xfers.next; p != &n->xfers && !any; p = p->next)
		any = CONTAINER_OF(p, struct xfer, node)->paused;
	if (!any)
		return MONO_NEVER;
	bucket_fill(n);
	if (n->tokens <= 0)
		return mono_add_ms(mono_now(), 1 + (int64_t)(-n->tokens * 1000 / (double)n->job->rate));
	for (struct list *p = n->xfers.next, *next; p != &n->xfers && n->tokens > 0; p = next) {
		next = p->next;
		struct xfer *x = CONTAINER_OF(p, struct xfer, node);
		if (!x->paused)
			continue;
		x->paused = false;
		x->moved = mono_now();
		if (curl_easy_pause(x->easy, CURLPAUSE_CONT) && !x->failed)
			x->failed = fail_set(&x->fail, WHY_NETWORK, "the connection cannot go on") != 0;
		if (x->failed) { /* on_end may cancel others: look at the rest in the next round */
			xfer_end(x, &x->fail);
			break;
		}
	}
	return mono_now();
}

void net_round(struct net *n, mono_t until, int wake)
{
	struct curl_waitfd extra = { .fd = wake, .events = CURL_WAIT_POLLIN };
	mono_t paused = unpause(n), stall = end_stalled(n);
	mono_t due = mono_before(paused, stall) ? paused : stall;
	due = mono_before(until, due) ? until : due;
	int64_t ms = due.ns == INT64_MAX ? 1000 : (due.ns - mono_now().ns + 999999) / 1000000;
	int running, left;
	curl_multi_poll(
		n->multi, &extra, wake >= 0 ? 1 : 0, (int)MAX((int64_t)0, MIN(ms, (int64_t)1000)), NULL);
	curl_multi_perform(n->multi, &running);
	for (CURLMsg *m; (m = curl_multi_info_read(n->multi, &left));) {
		struct xfer *x = NULL;
		if (m->msg != CURLMSG_DONE)
			continue;
		CURLcode code = m->data.result;
		curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, &x);
		ended(x, code);
	}
}
