/* SPDX-License-Identifier: Apache-2.0
 *
 * Register, heartbeat, register again when nobody knows us. One message at a time over one persistent
 * connection: whatever changes meanwhile goes with the next one.
 */
#include "base/mem.h"
#include "log/log.h"
#include "node/node_int.h"

enum { AWAY_FIRST_MS = 50, AWAY_MAX_MS = 2000, SLOW_MS = 50, ANSWER_MS = 10000 };

static void send_now(void *arg);

static void release_held(struct node *n)
{
	struct map_entry *e;
	for (size_t i = 0; (e = map_next(&n->replicas, &i));)
		replica_release(e->value);
}

static void schedule(struct node *n, int64_t ms)
{
	loop_timer_start(n->loop, &n->report.timer, ms, send_now, n);
}

static void note_back(struct node *n)
{
	struct report *p = &n->report;
	if (p->away && p->failures)
		log_info("registry", n->opts.node_id, "The registry answers.");
	p->away = p->waiting = false;
	p->failures = 0;
	loop_timer_stop(&n->orphan);
}

static void note_away(struct node *n, int status, const struct err *e)
{
	struct report *p = &n->report;
	if (!p->failures)
		log_warn("registry", n->opts.node_id, "The registry at %s cannot be told: %s (status %d).",
			n->opts.registry_address, e ? e->msg : "it refuses what it is told", status);
	if (!p->away)
		p->away_since = mono_now();
	p->away = p->waiting = true;
	int64_t ms = (int64_t)AWAY_FIRST_MS << MIN(p->failures, 10u);
	p->failures++;
	schedule(n, MIN(ms, (int64_t)AWAY_MAX_MS));
	release_held(n);
	node_orphan_check(n);
}

static void on_answer(void *arg, int status, struct view body, const struct err *e)
{
	(void)body;
	struct node *n = arg;
	struct report *p = &n->report;
	bool again = p->again;
	p->fetch = NULL;
	p->again = false;
	if (status >= 200 && status < 300) {
		if (p->registering)
			log_info("register", n->opts.node_id, "The node is registered.");
		p->registered = !again;
		if (p->devices_gen)
			devices_were_told(n, p->devices_gen, p->figures_gen);
		note_back(n);
		schedule(n, n->opts.heartbeat_ms);
		if (p->dirty)
			report_touch(n);
	} else if (status == 404 && !p->registering) {
		p->registered = false;
		note_back(n); /* it answers, and knows nobody: it is a new one */
		report_touch(n);
	} else {
		note_away(n, status, e);
	}
}

bool report_pending(const struct node *n)
{
	return n->report.target && !n->report.away && n->report.dirty;
}

static void send_now(void *arg)
{
	struct node *n = arg;
	struct report *p = &n->report;
	if (p->fetch) {
		p->dirty = true;
		return;
	}
	AUTO(wire_node_done) struct wire_node f = { 0 };
	AUTO(buf_done) struct buf b = BUF(WIRE_BODY_MAX);
	p->registering = !p->registered;
	p->dirty = false;
	node_facts(n, p->registering, &f);
	p->devices_gen = f.ndevices ? n->devices_gen : 0;
	p->figures_gen = n->figures_gen;
	if (wire_node_encode(&f, &b)) {
		log_error("registry", n->opts.node_id,
			"The node's facts do not fit into %d bytes and are not sent.", (int)WIRE_BODY_MAX);
		release_held(n);
		return;
	}
	AUTO(mem_freep)
	char *path = p->registering ? mem_strdup("/v1/registry/nodes")
				    : mem_fmt("/v1/registry/nodes/%s/heartbeat", n->opts.node_id);
	struct http_fetch_req q = {
		.method = "POST",
		.path = path,
		.content_type = "application/json",
		.body = buf_view(&b),
		.timeout_ms = ANSWER_MS,
	};
	p->fetch = http_fetch(p->target, &q, on_answer, n);
	release_held(n); /* later messages come behind this one */
}

void report_touch(struct node *n)
{
	struct report *p = &n->report;
	if (!p->target)
		return;
	p->dirty = true;
	if (!p->waiting && !p->fetch)
		loop_defer(n->loop, &p->work, send_now, n);
}

void report_again(struct node *n)
{
	n->report.registered = false;
	n->report.again = n->report.fetch != NULL; /* the answer that comes is to what was said before */
	report_touch(n);
}

void report_renew(struct node *n)
{
	n->report.registered = n->report.waiting = false;
	n->report.again = n->report.fetch != NULL;
	report_touch(n);
}

static void on_slow(void *arg)
{
	report_touch(arg);
}

void report_touch_slow(struct node *n)
{
	if (n->report.target && !loop_timer_active(&n->report.slow))
		loop_timer_start(n->loop, &n->report.slow, SLOW_MS, on_slow, n);
}

int report_init(struct node *n, struct err *reterr)
{
	struct report *p = &n->report;
	if (!n->opts.registry_address)
		return 0;
	struct http_target_opts o = { .idle_max = 1, .idle_ms = 60000, .connect_timeout_ms = 5000 };
	p->target = http_target_new(n->loop, n->opts.registry_address, &o, reterr);
	if (!p->target)
		return reterr ? reterr->code : -EINVAL;
	report_touch(n);
	return 0;
}

void report_done(struct node *n)
{
	struct report *p = &n->report;
	http_fetch_cancel(&p->fetch);
	loop_timer_stop(&p->timer);
	loop_timer_stop(&p->slow);
	loop_defer_cancel(&p->work);
	http_target_free(p->target);
	p->target = NULL;
}
