/* SPDX-License-Identifier: Apache-2.0
 *
 * A round gives a build to the pools that have another one now, one after the other: what each answers
 * before, new engines, what it answers after. Where it does not get ready or does not answer, the build
 * before is taken again, by those that had got the new one too.
 */
#include "api/engines_int.h"
#include "base/mem.h"
#include "log/log.h"

static const char *pool_now(const struct engines_round *r)
{
	return r->changed.items[r->next];
}

/* ---- giving it to the pools ------------------------------------------------------------------------------
 */

static void undo(struct engines_round *r, const char *how, const char *why);

static void on_after(void *arg, int status, struct view body, const struct err *e)
{
	struct engines_round *r = arg;
	struct sample now = { 0 };
	(void)e;
	r->fetch = NULL;
	sample_read(status, body, &now);
	/* An engine that answered no chat before (an embedding's) need not now; it is ready, which a token or
	 * its like has proved. Who is turned away for others' requests has seen nothing wrong either. */
	bool unproven = sample_busy(&now) || (!r->was.answered && (r->was.asked || sample_declined(&now)));
	if (now.answered || unproven) {
		AUTO(buf_done) struct buf b = BUF(HEARD_MAX);
		round_compare(pool_now(r), &r->was, &now, r->bytes, &b);
		round_send(r, "compared", buf_view(&b));
		sample_done(&now);
		r->next++;
		round_hand_over(r);
		return;
	}
	sample_done(&now);
	undo(r, "does not answer", NULL);
}

static void on_reloaded(void *arg, const struct control_reload_done *d)
{
	struct engines_round *r = arg;
	const char *pool = pool_now(r);
	r->reloading = NULL;
	if (!d->ok && r->upgrade) {
		undo(r, "did not get ready", d->message);
	} else if (!d->ok) {
		AUTO(mem_freep)
		char *why = mem_fmt("%s is current again, and pool %s does not get ready with it: %s",
			r->engine ? r->engine : "the build before", pool, d->message);
		round_fail(r, CODE_CONFLICT, pool, why);
	} else {
		strv_add(&r->has, pool);
		strv_add(&r->replaced, pool);
		if (r->upgrade) {
			r->fetch = round_sample(r->self, pool, on_after, r);
		} else {
			r->next++;
			round_hand_over(r);
		}
	}
}

static void replace(struct engines_round *r)
{
	struct control_pool *p = control_pool_find(r->api->o.control, view_str(pool_now(r)));
	struct err e = { 0 };
	if (p && control_reload(r->api->o.control, p, NULL, r->by, on_reloaded, r, &e) == 0) {
		r->reloading = pool_now(r);
		return;
	}
	/* Nothing was tried, so that nothing is wrong with the build: a drained one takes it when it is back.
	 */
	round_say(r, "passed_over", pool_now(r), "text", p ? e.msg : "it is not configured any more");
	r->next++;
	round_hand_over(r);
}

static void on_before(void *arg, int status, struct view body, const struct err *e)
{
	struct engines_round *r = arg;
	(void)e;
	r->fetch = NULL;
	sample_read(status, body, &r->was);
	replace(r);
}

/* What keeps this pool from new engines now; NULL: nothing. */
static const char *passed_over(struct engines_round *r, struct control_pool *p, char *why, size_t cap)
{
	if (r->only && strcmp(r->only, pool_now(r)) != 0)
		return "it asks for the same engine, and takes that build with its next start";
	if (!p)
		return "it is not configured any more";
	return control_refuses(r->api->o.control, p, why, cap) ? why : NULL;
}

void round_hand_over(struct engines_round *r)
{
	for (; r->next < r->changed.len; r->next++) {
		char why[512];
		struct control_pool *p = control_pool_find(r->api->o.control, view_str(pool_now(r)));
		const char *passed = passed_over(r, p, why, sizeof why);
		if (passed) {
			round_say(r, "passed_over", pool_now(r), "text", passed);
			continue;
		}
		round_say(r, "handover", pool_now(r), "text", "gets new engines");
		sample_done(&r->was);
		if (r->upgrade && api_pool_is_ready(r->api, p))
			r->fetch = round_sample(r->self, pool_now(r), on_before, r);
		else
			replace(r);
		return;
	}
	round_next(r);
}

/* ---- taking it back --------------------------------------------------------------------------------------
 */

static void undo_next(struct engines_round *r);

static void on_undone(void *arg, const struct control_reload_done *d)
{
	struct engines_round *r = arg;
	r->reloading = NULL;
	if (!d->ok)
		log_warn("engines_failed", r->has.items[r->undo],
			"Pool %s did not get the build before again: %s", r->has.items[r->undo], d->message);
	r->undo++;
	undo_next(r);
}

static void undo_next(struct engines_round *r)
{
	for (; r->undo < r->has.len; r->undo++) {
		const char *pool = r->has.items[r->undo];
		struct control_pool *p = control_pool_find(r->api->o.control, view_str(pool));
		struct err e = { 0 };
		if (!p || control_reload(r->api->o.control, p, NULL, r->by, on_undone, r, &e))
			continue;
		r->reloading = pool;
		return;
	}
	round_fail(r, CODE_CONFLICT, pool_now(r), r->undone);
}

static void on_back(void *arg, int status, struct view body, const struct err *e)
{
	struct engines_round *r = arg;
	(void)body;
	(void)e;
	r->fetch = NULL;
	if (status != 200)
		log_warn("engines_failed", pool_now(r), "The build before of pool %s cannot be taken again.",
			pool_now(r));
	undo_next(r);
}

static void undo(struct engines_round *r, const char *how, const char *why)
{
	AUTO(buf_done) struct buf body = BUF(8 * KIB);
	r->undone = mem_fmt("pool %s %s with the new build; the one before is taken again%s%s", pool_now(r),
		how, why ? ": " : "", why ? why : "");
	round_pool_body(pool_now(r), NULL, &body);
	if (!round_ask_node(r, "POST", "/v1/node/engines/rollback", &body, on_back))
		undo_next(r);
}
