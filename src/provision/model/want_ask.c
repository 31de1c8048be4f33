/* SPDX-License-Identifier: Apache-2.0
 *
 * One question of a job: a document from a place that may be busy.
 */
#include "base/num.h"
#include "provision/model/want_job_int.h"

enum { TRIES_MAX = 5, BUSY_MAX_MS = 60000 };

struct view want_header(const struct fetch_result *res, const char *name)
{
	for (size_t i = 0; i < res->headers.len; i++) {
		struct view value, key = view_split(view_str(res->headers.items[i]), ':', &value);
		if (view_eq_ci(key, view_str(name)))
			return view_trim(value);
	}
	return (struct view){ 0 };
}

static void ask_again(void *arg);

static int64_t pause_of(const struct model_job *j, const struct fetch_result *res)
{
	uint64_t s;
	if (num_u64(want_header(res, "Retry-After"), &s) == 0)
		return (int64_t)MIN(s * 1000, (uint64_t)BUSY_MAX_MS);
	return (int64_t)1000 << j->tries;
}

static void on_text(void *arg, const struct fetch_result *res, enum fetch_why why, const struct err *err)
{
	struct model_job *j = arg;
	j->fetch = NULL;
	if (why != FETCH_OK) {
		want_fail(j, why, err);
		return;
	}
	bool busy = res->status == 429 || (res->status >= 502 && res->status <= 504);
	if (!busy || j->tries + 1 >= TRIES_MAX) {
		j->answer(j, res);
		return;
	}
	int64_t ms = pause_of(j, res);
	AUTO(mem_freep) char *host = want_url_host(j->url);
	AUTO(mem_freep)
	char *text = mem_fmt(
		"%s answered %d; it is asked again in %lld s", host, res->status, (long long)(ms / 1000));
	j->tries++;
	want_tell(j, FETCH_WAITING, text);
	loop_timer_start(j->loop, &j->timer, ms, ask_again, j);
}

static void ask_again(void *arg)
{
	struct model_job *j = arg;
	struct fetch_file f = { .urls = { &j->url, 1 }, .headers = j->headers };
	struct fetch_request q = { .op = FETCH_TEXT, .files = &f, .nfiles = 1, .policy = j->o.policy };
	static const struct fetch_ops ops = { .on_done = on_text };
	struct err e = { 0 };
	if (fetch_start(j->loop, j->o.fetch_program, &q, &ops, j, &j->fetch, &e))
		want_fail(j, FETCH_CRASHED, &e);
}

void want_ask(struct model_job *j, const char *url, const struct strv *headers, want_answer_fn *fn)
{
	mem_setstr(&j->url, url);
	strv_done(&j->headers);
	strv_copy(&j->headers, headers);
	j->answer = fn;
	j->tries = 0;
	AUTO(mem_freep) char *host = want_url_host(url);
	AUTO(mem_freep) char *text = mem_fmt("asking %s for %s", host, j->items[j->at].ref.text);
	want_tell(j, FETCH_FETCHING, text);
	ask_again(j);
}
