/* SPDX-License-Identifier: Apache-2.0
 *
 * One replica's life: the state table with its one setter, what is done towards what is wanted, and the
 * verdict when an engine has ended.
 */
#include <signal.h>
#include <stdlib.h>

#include "base/mem.h"
#include "log/log.h"
#include "node/node_int.h"

#define TO(s) (1u << REPLICA_##s)
static const unsigned may_follow[] = {
	[REPLICA_ABSENT] = TO(PROVISIONING) | TO(STARTING) | TO(FAILED) | TO(STOPPED),
	[REPLICA_PROVISIONING] = TO(STARTING) | TO(BACKOFF) | TO(FAILED) | TO(STOPPED),
	[REPLICA_STARTING] = TO(PROVING) | TO(READY) | TO(DRAINING) | TO(BACKOFF) | TO(FAILED) | TO(STOPPED),
	[REPLICA_PROVING] = TO(READY) | TO(STARTING) | TO(DRAINING) | TO(BACKOFF) | TO(FAILED) | TO(STOPPED),
	[REPLICA_READY] = TO(STARTING) | TO(DRAINING) | TO(BACKOFF) | TO(FAILED) | TO(STOPPED),
	[REPLICA_DRAINING] = TO(BACKOFF) | TO(FAILED) | TO(STOPPED),
	[REPLICA_STOPPED] = TO(PROVISIONING) | TO(STARTING) | TO(FAILED) | TO(ABSENT),
	[REPLICA_BACKOFF] = TO(PROVISIONING) | TO(STOPPED) | TO(FAILED),
	[REPLICA_FAILED] = TO(PROVISIONING) | TO(STOPPED),
};
static_assert(ARRAY_LEN(may_follow) == REPLICA_STATE_COUNT, "one row per state");

void replica_set(struct replica *r, enum replica_state to)
{
	if (r->state == to)
		return;
	assert(may_follow[r->state] & (1u << to));
	bool was_ready = r->state == REPLICA_READY;
	r->state = to;
	if (to != REPLICA_BACKOFF && to != REPLICA_FAILED)
		loop_timer_stop(&r->retry);
	if (to != REPLICA_PROVISIONING && to != REPLICA_STARTING)
		replica_progress(r, NULL, -1, " ");
	if (was_ready)
		handoff_remove(r);
	report_touch(r->node);
	log_event(LOG_DEBUG, "state", r->id,
		(struct log_field[]){ LOG_STR("pool_id", r->pool_id), LOG_STR("replica_id", r->id),
			LOG_STR("state", replica_state_name(to)), LOG_END },
		"The replica is %s.", replica_state_name(to));
}

struct replica *replica_new(struct node *n, const char *id, const char *pool_id)
{
	struct replica *r = NEW(struct replica);
	r->node = n;
	r->id = mem_strdup(id);
	r->pool_id = mem_strdup(pool_id);
	r->pool = node_pool_find(n, pool_id);
	r->progress_pct = -1;
	r->want.keep_alive_ms = 600000; /* until somebody says what it is */
	restart_init(&r->restart, &n->policy, rnd_u64(&n->rnd));
	struct keeper_record last;
	if (keeper_last(n->engines_dir, id, &last, NULL) == 0)
		r->generation = last.generation;
	map_put(&n->replicas, view_str(id), r);
	return r;
}

static void free_models(char ***p)
{
	for (char **m = *p; m && *m; m++)
		free(*m);
	free(*p);
	*p = NULL;
}

static void free_error(struct wire_error *e)
{
	free(e->message);
	free(e->hint);
	*e = (struct wire_error){ 0 };
}

static void clear_failure(struct failure *f)
{
	free(f->message);
	free(f->hint);
	*f = (struct failure){ 0 };
}

void replica_free(struct replica *r)
{
	struct node *n = r->node;
	replica_quiet(r);
	loop_timer_stop(&r->retry);
	loop_defer_cancel(&r->work);
	engine_job_cancel(&r->job);
	keeper_free(&r->keeper);
	engine_launch_done(&r->launch);
	clear_failure(&r->failure);
	free_error(&r->last_error);
	free_models(&r->remote_models);
	map_del(&n->replicas, view_str(r->id));
	free(r->want.replica_id);
	free(r->want.pool_id);
	free(r->want.devices);
	free(r->socket_path);
	free(r->devices);
	free(r->probe_text);
	free(r->phase);
	free(r->progress_text);
	free(r->pool_id);
	free(r->id);
	loop_defer_free(n->loop, r);
}

bool replica_idle(const struct replica *r)
{
	return !r->keeper && !r->job && !r->external;
}

static struct wire_error make_error(enum wire_cause c, const char *hint, char *message)
{
	return (struct wire_error){
		.cause = c,
		.message = message,
		.hint = mem_strdup(hint),
		.at_ms = wall_ms(),
	};
}

void replica_error(struct replica *r, enum wire_cause c, const char *hint, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	struct wire_error e = make_error(c, hint, mem_vfmt(fmt, ap));
	va_end(ap);
	free_error(&r->last_error);
	r->last_error = e;
	report_touch(r->node);
	log_event(LOG_WARN, "error", r->id,
		(struct log_field[]){ LOG_STR("pool_id", r->pool_id), LOG_STR("replica_id", r->id),
			LOG_STR("error_code", wire_cause_name(c)), LOG_STR("hint", hint), LOG_END },
		"%s.", e.message);
}

void replica_progress(struct replica *r, const char *phase, int pct, const char *fmt, ...)
{
	if (!phase && !r->phase)
		return;
	va_list ap;
	va_start(ap, fmt);
	char *text = phase ? mem_vfmt(fmt, ap) : NULL;
	va_end(ap);
	mem_setstr(&r->phase, phase);
	free(r->progress_text);
	r->progress_text = text;
	r->progress_pct = pct;
	report_touch_slow(r->node);
}

/* ---- towards what is wanted -------------------------------------------------------------------------- */

static void on_kick(void *arg)
{
	replica_reconcile(arg);
}

void replica_kick(struct replica *r)
{
	loop_defer(r->node->loop, &r->work, on_kick, r);
}

/* A later start must remember what went wrong, or asking again would get round the breaker. */
static bool worth_keeping(const struct replica *r)
{
	return r->restart.breaker != BREAKER_CLOSED && !r->node->stopping &&
	       mono_before(mono_now(), r->retry_at);
}

static void leave(struct replica *r)
{
	struct node *n = r->node;
	if (r->state != REPLICA_STOPPED && r->state != REPLICA_ABSENT)
		replica_set(r, REPLICA_STOPPED);
	if (worth_keeping(r)) {
		if (r->state != REPLICA_ABSENT)
			replica_set(r, REPLICA_ABSENT);
	} else {
		replica_free(r);
	}
	report_touch(n);
	node_replica_gone(n);
}

static bool params_changed(const struct replica *r)
{
	if (!r->pool || r->external || !r->slots)
		return false; /* slots 0: of a start we know nothing of */
	uint32_t slots = r->want.slots ? r->want.slots : r->pool->conf.slots;
	uint32_t ctx = r->want.ctx ? r->want.ctx : r->ctx;
	const char *devices = r->want.devices ? r->want.devices : r->pool->conf.devices;
	return slots != r->slots || ctx != r->ctx || (r->devices && strcmp(devices, r->devices) != 0);
}

static void on_retry(void *arg)
{
	struct replica *r = arg;
	if (r->wanted)
		replica_begin(r);
}

static void wait_for_breaker(struct replica *r)
{
	replica_set(r, REPLICA_FAILED);
	loop_timer_start(r->node->loop, &r->retry, mono_ms_between(mono_now(), r->retry_at), on_retry, r);
}

static void go_on(struct replica *r)
{
	bool rose = r->epoch_known && r->want.restart_epoch > r->epoch;
	r->epoch = r->want.restart_epoch;
	r->epoch_known = true;
	if (rose) {
		restart_reset(&r->restart);
		r->retry_at = MONO_ZERO;
	}
	bool running = !replica_idle(r);
	if (running && !r->stopping && (rose || params_changed(r)))
		replica_stop(r);
	else if (!running && (rose || r->state == REPLICA_ABSENT || r->state == REPLICA_STOPPED)) {
		if (r->restart.breaker == BREAKER_OPEN && mono_before(mono_now(), r->retry_at))
			wait_for_breaker(r);
		else
			replica_begin(r);
	}
}

void replica_reconcile(struct replica *r)
{
	if (r->wanted && !r->node->stopping)
		go_on(r);
	else if (replica_idle(r))
		leave(r);
	else if (!r->stopping)
		replica_stop(r);
}

void replica_quiet(struct replica *r)
{
	probe_stop(&r->probe);
	http_fetch_cancel(&r->probing);
	http_fetch_cancel(&r->asking);
	r->ask = ASK_NOTHING;
	loop_timer_stop(&r->canary_timer);
	r->canary_waits = false;
	/* llama-server stays as long as a client is connected */
	http_target_free(r->target);
	r->target = NULL;
}

void replica_stop(struct replica *r)
{
	replica_quiet(r);
	if (r->keeper) {
		r->stopping = true;
		replica_set(r, REPLICA_DRAINING);
		keeper_stop(r->keeper);
		return;
	}
	engine_job_cancel(&r->job);
	r->external = false;
	replica_set(r, REPLICA_STOPPED);
	replica_kick(r);
}

/* ---- ends ---------------------------------------------------------------------------------------------- */

void replica_fail(struct replica *r)
{
	restart_ended(&r->restart, mono_now(), RESTART_END_FATAL);
	r->retry_at = MONO_NEVER;
	replica_set(r, REPLICA_FAILED);
}

void replica_condemn(struct replica *r, enum wire_cause c, const char *hint, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	clear_failure(&r->failure);
	r->failure = (struct failure){ c, mem_vfmt(fmt, ap), mem_strdup(hint) };
	va_end(ap);
	replica_stop(r);
}

static bool cannot_be_mended(enum wire_cause c)
{
	return c == CAUSE_OOM_VRAM || c == CAUSE_OOM_HOST || c == CAUSE_BAD_MODEL || c == CAUSE_BAD_ARGS ||
	       c == CAUSE_NO_ENGINE || c == CAUSE_NO_MODEL;
}

void replica_crashed(struct replica *r, enum restart_end how)
{
	struct restart_verdict v = restart_ended(&r->restart, mono_now(), how);
	r->retry_at = mono_add_ms(mono_now(), v.delay_ms);
	r->restarts++;
	switch (v.what) {
	case RESTART_NOW:
		replica_set(r, REPLICA_BACKOFF);
		loop_timer_start(r->node->loop, &r->retry, 0, on_retry, r);
		break;
	case RESTART_LATER:
		replica_set(r, REPLICA_BACKOFF);
		loop_timer_start(r->node->loop, &r->retry, v.delay_ms, on_retry, r);
		log_info("backoff", r->id, "Replica %s starts again in %lld ms.", r->id,
			(long long)v.delay_ms);
		break;
	case RESTART_TRIAL:
		replica_set(r, REPLICA_FAILED);
		loop_timer_start(r->node->loop, &r->retry, v.delay_ms, on_retry, r);
		log_warn("breaker", r->id, "Replica %s crashed too often; one more trial in %lld s.", r->id,
			(long long)v.delay_ms / 1000);
		break;
	case RESTART_NEVER:
		r->retry_at = MONO_NEVER;
		replica_set(r, REPLICA_FAILED);
		break;
	}
}

/* An engine that had been ready and was ended by somebody else: SIGKILL without want of memory, SIGTERM,
 * or the clean exit with which servers answer SIGTERM (not one that exits as soon as it is ready). */
static bool killed_from_outside(const struct replica *r, const struct keeper_record *rec)
{
	if (!r->restart.ready)
		return false;
	if (rec->signo == SIGKILL)
		return !rec->oom;
	return rec->signo == SIGTERM || (rec->signo == 0 && rec->exit_code == 0 &&
						mono_ms_between(r->restart.ready_at, mono_now()) >= 10000);
}

/* Why it ended, from the record and the log. */
static enum restart_end read_cause(struct replica *r, const struct keeper_end *e)
{
	const struct keeper_record *rec = &e->record;
	if (!e->known) {
		replica_error(r, CAUSE_SIGNAL, "something outside killed it; it starts again by itself",
			"the keeper of %s was killed, and its engine with it", r->id);
		return RESTART_END_OUTSIDE;
	}
	AUTO(mem_freep) char *sentence = NULL;
	AUTO(mem_freep) char *hint = NULL;
	bool outside = killed_from_outside(r, rec);
	enum wire_cause c = CAUSE_NONE;
	if (!outside && rec->signo != SIGKILL) {
		AUTO(buf_done) struct buf tail = BUF(64 * KIB);
		replica_log_tail(r->node, r->id, rec->generation, &tail);
		c = (enum wire_cause)engine_log_cause(buf_view(&tail), &sentence, &hint);
	}
	if (rec->oom)
		replica_error(r, c = CAUSE_OOM_HOST, "use a smaller ctx, fewer slots or a smaller model",
			"the kernel killed the engine because host memory ran out");
	else if (c != CAUSE_NONE)
		replica_error(r, c, hint, "%s", sentence ? sentence : wire_cause_name(c));
	else if (rec->signo)
		replica_error(r, c = CAUSE_SIGNAL, "`corral logs` shows its last words",
			"the engine was killed by signal %d (%s)", rec->signo, strsignal(rec->signo));
	else
		replica_error(r, c = CAUSE_EXIT, "`corral logs` shows its last words",
			"the engine ended by itself with exit code %d", rec->exit_code);
	r->last_error.exit_code = rec->exit_code;
	r->last_error.signo = rec->signo;
	return outside ? RESTART_END_OUTSIDE : cannot_be_mended(c) ? RESTART_END_FATAL : RESTART_END_CRASH;
}

/* What we had condemned it for. */
static void carry_out(struct replica *r)
{
	struct failure f = r->failure;
	r->failure = (struct failure){ 0 };
	replica_error(r, f.cause, f.hint, "%s", f.message);
	replica_crashed(r, cannot_be_mended(f.cause) ? RESTART_END_FATAL : RESTART_END_CRASH);
	clear_failure(&f);
}

static void never_started(struct replica *r, const struct keeper_end *e)
{
	if (e->busy) {
		replica_error(r, CAUSE_EXIT, "it is taken over in a moment",
			"another engine of %s still runs", r->id);
		replica_crashed(r, RESTART_END_CRASH);
		return;
	}
	if (r->pool)
		r->pool->have_build = false; /* it may have been removed: look again at the next start */
	replica_error(r, CAUSE_NO_ENGINE, "check that the engine's program is there and can be executed",
		"the engine of %s could not be started: %s", r->id,
		e->message ? e->message : "no reason was given");
	replica_fail(r);
}

static void on_end(void *arg, const struct keeper_end *e)
{
	struct replica *r = arg;
	bool ours = r->stopping;
	replica_quiet(r);
	handoff_remove(r);
	r->stopping = false;
	r->pid = 0;
	keeper_free(&r->keeper);
	if (r->node->stopping) {
		r->node->stopped++;
		r->node->killed += e->known && e->record.killed;
	}
	if (e->known && e->record.log_dropped_bytes)
		log_warn("log", r->id, "%llu bytes of the output of %s were dropped.",
			(unsigned long long)e->record.log_dropped_bytes, r->id);
	if (ours && r->failure.cause != CAUSE_NONE && r->wanted && !r->node->stopping) {
		carry_out(r);
	} else if (ours || (e->known && e->record.stop_asked)) {
		clear_failure(&r->failure);
		restart_ended(&r->restart, mono_now(), RESTART_END_STOPPED);
		replica_set(r, REPLICA_STOPPED);
		log_info("stop", r->id, "Replica %s has stopped%s.", r->id,
			e->known && e->record.killed ? "; it had to be killed" : "");
	} else if (!e->started) {
		never_started(r, e);
	} else {
		replica_crashed(r, read_cause(r, e));
	}
	replica_kick(r);
}

static void on_running(void *arg)
{
	struct replica *r = arg;
	const struct keeper_record *rec = keeper_record(r->keeper);
	if (rec) {
		r->pid = rec->engine_pid;
		r->pid_start = rec->engine_start;
		r->started_at_ms = rec->started_at_ms;
	}
	replica_progress(r, "engine_start", -1, "The engine is loading its model");
	replica_watch(r);
	report_touch(r->node);
}

const struct keeper_ops replica_keeper_ops = { on_running, on_end };
