/* SPDX-License-Identifier: Apache-2.0
 *
 * How busy an engine says it is, by its own /metrics: of servers that are not ours, which others use as well,
 * and of those of the table that are no llama.cpp. Asked as often as whether it is well; one that does not
 * tell is asked seldom. What it says is shown, and a hint where a request goes; nothing is decided by it
 * alone.
 */
#include <stdlib.h>

#include "base/mem.h"
#include "node/node_int.h"
#include "provision/engine/table.h"

enum { LOAD_ASK_MS = 5000, LOAD_SELDOM = 12, LOAD_MAX_BODY = 8 * 1024 * 1024 };

static const struct engine_row *row_of(const struct replica *r)
{
	return r->pool ? engine_row(r->pool->conf.engine.kind) : NULL;
}

static void ask_load(void *arg);

static void again(struct replica *r, int64_t times)
{
	loop_timer_start(r->node->loop, &r->load_timer, times * r->node->opts.probe_every_ms, ask_load, r);
}

static void on_load(void *arg, int status, struct view body, const struct err *e)
{
	(void)e;
	struct replica *r = arg;
	struct engine_load l;
	r->load_fetch = NULL;
	const struct engine_row *row = row_of(r);
	bool known = row && status == 200 && engine_load_read(row, body, &l);
	if (known != r->load_known)
		report_touch(r->node);
	r->load_known = known;
	if (known) {
		r->load = l;
		r->load_seq++;
		report_touch_slow(r->node);
	}
	again(r, known || status == 0 ? 1 : LOAD_SELDOM);
}

static void ask_load(void *arg)
{
	struct replica *r = arg;
	struct http_fetch_req q = {
		.method = "GET", .path = "/metrics", .timeout_ms = LOAD_ASK_MS, .max_body = LOAD_MAX_BODY
	};
	r->load_fetch = http_fetch(r->target, &q, on_load, r);
}

static void on_version(void *arg, int status, struct view body, const struct err *e)
{
	(void)e;
	struct replica *r = arg;
	r->load_fetch = NULL;
	AUTO(mem_freep) char *version = status == 200 ? engine_version_read(body) : NULL;
	if (version) {
		mem_setstr(&r->engine_version, version);
		report_touch(r->node);
	}
	ask_load(r);
}

void load_ready(struct replica *r)
{
	const struct engine_row *row = row_of(r);
	load_quiet(r);
	if (!row || (!row->running[0] && !row->waiting[0] && !row->used[0]) ||
		(row->kind == ENGINE_LLAMACPP && !r->external))
		return;
	if (!row->version || (r->engine_version && !r->external)) {
		ask_load(r);
		return;
	}
	struct http_fetch_req q = { .method = "GET", .path = row->version, .timeout_ms = LOAD_ASK_MS };
	r->load_fetch = http_fetch(r->target, &q, on_version, r);
}

void load_quiet(struct replica *r)
{
	http_fetch_cancel(&r->load_fetch);
	loop_timer_stop(&r->load_timer);
	r->load_known = false;
}
