/* SPDX-License-Identifier: Apache-2.0
 *
 * Why a pool refuses, and when a failed engine is tried again because somebody asks.
 */
#include "control/control_int.h"

#include <stdio.h>
#include <string.h>

enum { RETRY_FAILED_MS = 5000, DRAINING_RETRY_MS = 5000 };

/* A cause that may have gone by itself (a file that is there now) is looked at again when somebody asks. */
static bool worth_retrying(enum wire_cause c)
{
	return c == CAUSE_NO_MODEL || c == CAUSE_NO_ENGINE || c == CAUSE_BAD_MODEL || c == CAUSE_CANARY ||
	       c == CAUSE_START_TIMEOUT;
}

/* Its model has to be fetched, and that failed for a cause that asking again may mend. */
static bool may_be_fetched(const struct registry_pool *rp, const struct wire_replica *f)
{
	return rp && rp->model && rp->model->absent && f->retry_in_ms < 0 &&
	       f->last_error.cause == CAUSE_NO_MODEL;
}

mono_t slot_retry_failed(struct control_pool *p, const struct registry_pool *rp, struct control_slot *s,
	const struct wire_replica *f, bool waiting, mono_t now)
{
	bool fetch = may_be_fetched(rp, f);
	if (s->failed_ms != f->last_error.at_ms || !s->failed_at.ns)
		s->failed_at = now;
	s->failed_ms = f->last_error.at_ms;
	mono_t open = fetch ? mono_add_ms(s->failed_at, RETRY_FAILED_MS) : MONO_NEVER;
	if (s->role != SLOT_MAIN || p->reload)
		return MONO_NEVER;
	/* Who was refused while it paused has asked, too, and does not wait. */
	bool asked = fetch ? waiting : p->demanded;
	if (f->retry_in_ms >= 0 || !asked || !worth_retrying(f->last_error.cause))
		return open;
	if (fetch &&
		mono_before(now, open)) /* who asks now is refused: the next one has it fetched, and waits */
		return open;
	if (s->retried_at.ns && mono_ms_between(s->retried_at, now) < RETRY_FAILED_MS)
		return open;
	s->retried_at = now;
	s->restart_epoch++;
	return open;
}

static bool same(const struct pool_refusal *a, const struct pool_refusal *b)
{
	return a->code == b->code && a->retriable == b->retriable && a->retry_after_ms == b->retry_after_ms &&
	       strcmp(a->message, b->message) == 0 && strcmp(a->hint, b->hint) == 0;
}

void set_refusal(struct control_pool *p, const struct pool_refusal *why)
{
	if (same(&p->refusal, why))
		return;
	p->refusal = *why;
	pool_close(p->pool, why, false);
}

/* again: what may mend it is tried with the request that comes once the pause is over. */
static void refuse_failed(struct control_pool *p, const struct wire_replica *f, bool again)
{
	struct pool_refusal why = { .code = REFUSE_POOL_UNAVAILABLE,
		.retriable = again || f->retry_in_ms >= 0,
		.retry_after_ms = again ? RETRY_FAILED_MS : MAX(f->retry_in_ms, (int64_t)0) };
	snprintf(why.message, sizeof why.message, "Pool %s cannot serve: %s", p->cfg->id,
		f->last_error.message ? f->last_error.message : "its engine failed.");
	snprintf(why.hint, sizeof why.hint, "%s",
		f->last_error.hint ? f->last_error.hint : "`corral logs` shows what the engine said.");
	set_refusal(p, &why);
}

static void refuse_draining(struct control_pool *p, const struct registry_pool_mark_info *mark)
{
	struct pool_refusal why = {
		.code = REFUSE_POOL_UNAVAILABLE, .retriable = true, .retry_after_ms = DRAINING_RETRY_MS
	};
	snprintf(why.message, sizeof why.message, "Pool %s is being drained (by %s) and takes nothing new.",
		p->cfg->id, mark->by);
	snprintf(why.hint, sizeof why.hint, "`corral undrain %s` takes it back.", p->cfg->id);
	set_refusal(p, &why);
}

void disabled_text(
	const struct control_pool *p, const struct registry_pool_mark_info *mark, char *out, size_t cap)
{
	char at[WALL_STR_LEN + 1];
	wall_format(mark->at_ms, at);
	snprintf(out, cap, "Pool %s is disabled by %s at %s.", p->cfg->id, mark->by, at);
}

static void refuse_disabled(struct control_pool *p, const struct registry_pool_mark_info *mark)
{
	struct pool_refusal why = { .code = REFUSE_POOL_UNAVAILABLE };
	disabled_text(p, mark, why.message, sizeof why.message);
	snprintf(why.hint, sizeof why.hint, "`corral enable %s` takes it back.", p->cfg->id);
	set_refusal(p, &why);
}

static void refuse_retired(struct control_pool *p, const char *sentence)
{
	struct pool_refusal why = { .code = REFUSE_MODEL_RETIRED };
	snprintf(why.message, sizeof why.message, "Pool %s takes nothing new: %s", p->cfg->id, sentence);
	snprintf(why.hint, sizeof why.hint, "`corral models activate` takes it back.");
	set_refusal(p, &why);
}

/* No device could hold it, or none whose owners could ever leave. */
static void refuse_no_room(struct control_pool *p)
{
	struct pool_refusal why = { .code = REFUSE_NO_CAPACITY,
		.retriable = !p->room_forever,
		.retry_after_ms = p->room_forever ? 0 : DRAINING_RETRY_MS };
	snprintf(why.message, sizeof why.message, "Pool %s cannot be started: %s.", p->cfg->id, p->room_text);
	snprintf(why.hint, sizeof why.hint,
		"`corral explain %s` says what would make it fit: a smaller ctx, fewer slots, a smaller "
		"quantisation.",
		p->cfg->id);
	set_refusal(p, &why);
}

void refuse_removed(struct control_pool *p)
{
	struct pool_refusal why = { .code = REFUSE_MODEL_NOT_FOUND };
	snprintf(why.message, sizeof why.message,
		"The model \"%s\" is not served here any more: the configuration was changed.", p->cfg->id);
	snprintf(why.hint, sizeof why.hint, "GET /v1/models lists the models there are.");
	set_refusal(p, &why);
}

void decide_refusal(struct control_pool *p, const struct registry_pool *rp, const struct wire_replica *failed,
	bool usable)
{
	if (p->removed)
		return; /* it was told already */
	if (rp && rp->marks[MARK_DISABLED].by)
		refuse_disabled(p, &rp->marks[MARK_DISABLED]);
	else if (rp && rp->marks[MARK_DRAINING].by)
		refuse_draining(p, &rp->marks[MARK_DRAINING]);
	else if (rp && rp->model && rp->model->retired && !p->variant.model)
		refuse_retired(p, rp->model->retired);
	else if (p->room_refused)
		refuse_no_room(p);
	else if (failed && !usable && !p->reload) /* a reload may mend it: who waits is not refused */
		refuse_failed(p, failed, may_be_fetched(rp, failed));
	else
		set_refusal(p, &(struct pool_refusal){ 0 });
}
