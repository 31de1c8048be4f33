/* SPDX-License-Identifier: Apache-2.0
 *
 * One replica's life: the state table with its one setter, what is done towards what is wanted, and the
 * verdict when an engine has ended.
 */
#include <signal.h>
#include <stdlib.h>

#include "base/mem.h"
#include "log/log.h"
#include "node/models_int.h"

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
	if (to != REPLICA_PROVISIONING && to != REPLICA_FAILED)
		models_leave(r);
	if (to != REPLICA_PROVISIONING && to != REPLICA_STARTING && to != REPLICA_PROVING &&
		to != REPLICA_DRAINING)
		gate_leave(r);
	if (was_ready)
		handoff_remove(r);
	if (to == REPLICA_STOPPED || to == REPLICA_FAILED || to == REPLICA_BACKOFF)
		devices_ended(r->node);
	devices_busy(r->node);
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
	replica_bind(r, node_pool_find(n, pool_id));
	r->progress_pct = -1;
	r->progress_eta_ms = -1;
	list_init(&r->gate);
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

void replica_clear_failure(struct failure *f)
{
	free(f->message);
	free(f->hint);
	*f = (struct failure){ 0 };
}

void replica_free(struct replica *r)
{
	struct node *n = r->node;
	replica_quiet(r);
	kv_done(r);
	learn_done(r);
	gate_leave(r);
	models_leave(r);
	loop_timer_stop(&r->retry);
	loop_defer_cancel(&r->work);
	engine_job_cancel(&r->job);
	keeper_free(&r->keeper);
	engine_launch_done(&r->launch);
	replica_clear_failure(&r->failure);
	free_error(&r->last_error);
	free_models(&r->remote_models);
	free(r->key);
	free(r->key_file);
	map_del(&n->replicas, view_str(r->id));
	free(r->want.replica_id);
	free(r->want.pool_id);
	free(r->want.devices);
	free(r->want.spec);
	free(r->want.model);
	free(r->want.split);
	free(r->want.kv_for);
	free(r->spec);
	free(r->model);
	free(r->engine_version);
	free(r->engine_why);
	wire_model_done(&r->own_model);
	node_pool_drop(&r->pool);
	free(r->socket_path);
	free(r->devices);
	free(r->device_words);
	free(r->device_note);
	strv_done(&r->device_env);
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

bool replica_variant_changed(const struct replica *r)
{
	const struct pool *p = node_pool_find_spec(r->node, r->pool_id, r->want.spec);
	if (r->no_definition)
		return p != NULL;
	const char *spec = r->want.spec ? r->want.spec : p ? p->conf.spec : NULL;
	return (spec && !str_same(spec, r->spec)) || !str_same(r->want.model, r->model);
}

/* An end is told before its successor starts, or nobody could say what became of the requests that were on
 * it. With a registry that is away nobody waits for it. And what ended before this process ran is not started
 * again before somebody has said what is wanted now. */
static void on_retry(void *arg)
{
	struct replica *r = arg;
	r->held = !r->node->told || report_pending(r->node);
	if (r->wanted && !r->held)
		replica_begin(r);
}

void replica_release(struct replica *r)
{
	if (!r->held || !r->node->told)
		return;
	r->held = false;
	if (r->state == REPLICA_BACKOFF || r->state == REPLICA_FAILED)
		replica_retry_in(r, 0);
}

void replica_retry_in(struct replica *r, int64_t ms)
{
	loop_timer_start(r->node->loop, &r->retry, ms, on_retry, r);
}

static void wait_for_breaker(struct replica *r)
{
	replica_set(r, REPLICA_FAILED);
	replica_retry_in(r, mono_ms_between(mono_now(), r->retry_at));
}

static void begin_if_allowed(struct replica *r)
{
	if (r->restart.breaker == BREAKER_OPEN && mono_before(mono_now(), r->retry_at))
		wait_for_breaker(r);
	else
		replica_begin(r);
}

/* An engine that runs is left alone whatever has changed about its pool: control asks for the other one under
 * another id, and takes this one away afterwards. Only a server that is not ours is simply looked at anew. */
static void go_on(struct replica *r)
{
	bool rose = r->epoch_known && r->want.restart_epoch > r->epoch;
	bool running = !replica_idle(r), at_rest = r->state == REPLICA_ABSENT || r->state == REPLICA_STOPPED;
	bool other = (!running || r->external) && replica_variant_changed(r);
	r->epoch = r->want.restart_epoch;
	r->epoch_known = true;
	if (rose || (other && !running)) {
		restart_reset(&r->restart);
		r->retry_at = MONO_ZERO;
	}
	if (running && !r->stopping && (rose || other))
		replica_stop(r);
	else if (!running && (rose || other || at_rest))
		begin_if_allowed(r);
	else
		models_planned(r);
}

void replica_reconcile(struct replica *r)
{
	if (!r->node->told && r->wanted && replica_idle(r) && !r->node->stopping)
		return; /* it ended before this process ran, and is there to be told */
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
	load_quiet(r);
	kv_cancel(r);
	loop_timer_stop(&r->canary_timer);
	r->canary_waits = false;
	/* llama-server stays as long as a client is connected */
	http_target_free(r->target);
	r->target = NULL;
}

void replica_stop(struct replica *r)
{
	bool save = kv_worth_saving(r);
	replica_quiet(r);
	if (r->keeper) {
		r->stopping = true;
		replica_set(r, REPLICA_DRAINING);
		if (!save || !kv_save(r))
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
	replica_clear_failure(&r->failure);
	r->failure = (struct failure){ c, mem_vfmt(fmt, ap), mem_strdup(hint) };
	va_end(ap);
	replica_stop(r);
}
