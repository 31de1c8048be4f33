/* SPDX-License-Identifier: Apache-2.0
 *
 * An engine has ended: why, and what follows from it.
 */
#include <signal.h>
#include <stdlib.h>

#include "base/mem.h"
#include "log/log.h"
#include "node/node_int.h"

static bool cannot_be_mended(enum wire_cause c)
{
	return c == CAUSE_OOM_VRAM || c == CAUSE_OOM_HOST || c == CAUSE_BAD_MODEL || c == CAUSE_BAD_ARGS ||
	       c == CAUSE_NO_ENGINE || c == CAUSE_NO_MODEL;
}

void replica_crashed(struct replica *r, enum restart_end how)
{
	struct restart_verdict v = restart_ended(&r->restart, mono_now(), how);
	r->retry_at = mono_add_ms(mono_now(), v.delay_ms);
	if (how == RESTART_END_CRASH)
		kv_suspect(r);
	r->restarts++;
	switch (v.what) {
	case RESTART_NOW:
		replica_set(r, REPLICA_BACKOFF);
		replica_retry_in(r, 0);
		break;
	case RESTART_LATER:
		replica_set(r, REPLICA_BACKOFF);
		replica_retry_in(r, v.delay_ms);
		log_info("backoff", r->id, "Replica %s starts again in %lld ms.", r->id,
			(long long)v.delay_ms);
		break;
	case RESTART_TRIAL:
		replica_set(r, REPLICA_FAILED);
		replica_retry_in(r, v.delay_ms);
		log_warn("breaker", r->id, "Replica %s crashed too often; one more trial in %lld s.", r->id,
			(long long)v.delay_ms / 1000);
		break;
	case RESTART_NEVER:
		r->retry_at = MONO_NEVER;
		replica_set(r, REPLICA_FAILED);
		break;
	}
}

enum { OUTSIDE_AFTER_MS = 10000 };

/* An engine that had been ready and was ended by somebody else: SIGKILL without want of memory, SIGTERM, or
 * the clean exit with which servers answer SIGTERM. An exit with 0 within OUTSIDE_AFTER_MS of Ready counts as
 * a crash instead: an engine that ends by itself as soon as it is ready would be started again and again at
 * once, without backoff and breaker. Later than that the loop is slow, and a server that somebody told to end
 * is the likelier reason. */
static bool killed_from_outside(const struct replica *r, const struct keeper_record *rec)
{
	if (!r->restart.ready)
		return false;
	if (rec->signo == SIGKILL)
		return !rec->oom;
	return rec->signo == SIGTERM ||
	       (rec->signo == 0 && rec->exit_code == 0 &&
		       mono_ms_between(r->restart.ready_at, mono_now()) >= OUTSIDE_AFTER_MS);
}

/* Killed by signal 9 while the kernel killed for want of memory. It does not say whom: in a control group it
 * was one of few, and a restart would end the same way; on a whole machine it may have been another process
 * and signal 9 sent by somebody, so that the engine starts again, slower each time, until the breaker ends
 * that. */
static enum wire_cause out_of_memory(struct replica *r, const struct keeper_record *rec)
{
	static const char hint[] = "use a smaller ctx, fewer slots or a smaller model";
	if (rec->oom_sure)
		replica_error(r, CAUSE_OOM_HOST, hint,
			"the engine was killed by signal 9: the kernel killed a process of its control group "
			"because "
			"memory ran out");
	else
		replica_error(r, CAUSE_OOM_HOST, hint,
			"the engine was killed by signal 9: most likely by the kernel, which killed a "
			"process of this "
			"machine in the same second because memory ran out");
	return CAUSE_OOM_HOST;
}

/* An engine that had been Ready had its program, its arguments and its model: words about them are of
 * something else (an adapter, a request's own text), and what ended it a restart may mend. */
static bool belied(const struct replica *r, enum wire_cause c)
{
	return r->restart.ready && (c == CAUSE_BAD_MODEL || c == CAUSE_BAD_ARGS || c == CAUSE_NO_ENGINE);
}

static enum wire_cause log_cause(const struct replica *r, uint64_t gen, char **sentence, char **hint)
{
	AUTO(buf_done) struct buf tail = BUF(64 * KIB);
	replica_log_tail(r->node, r->id, gen, &tail);
	enum wire_cause c = (enum wire_cause)engine_log_cause(buf_view(&tail), sentence, hint);
	return belied(r, c) ? CAUSE_NONE : c;
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
	if (!outside && rec->signo != SIGKILL)
		c = log_cause(r, rec->generation, &sentence, &hint);
	if (rec->oom)
		c = out_of_memory(r, rec);
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
	bool fatal = cannot_be_mended(c) && (!rec->oom || rec->oom_sure);
	return outside ? RESTART_END_OUTSIDE : fatal ? RESTART_END_FATAL : RESTART_END_CRASH;
}

/* What we had condemned it for. */
static void carry_out(struct replica *r)
{
	struct failure f = r->failure;
	r->failure = (struct failure){ 0 };
	replica_error(r, f.cause, f.hint, "%s", f.message);
	replica_crashed(r, cannot_be_mended(f.cause) ? RESTART_END_FATAL : RESTART_END_CRASH);
	replica_clear_failure(&f);
}

/* It did not answer because it was dying of itself, and was stopped before its end was known. */
static bool had_died(const struct replica *r, const struct keeper_end *e)
{
	const struct keeper_record *rec = &e->record;
	if (!r->failure.unanswered || !e->known || rec->killed)
		return false;
	return rec->signo ? rec->signo != SIGTERM : rec->exit_code > 0;
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
	handoff_forget(r->node, r->id);
	secrets_remove(r);
	boxes_ended(r);
	r->proven = false;
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
		if (had_died(r, e)) {
			replica_clear_failure(&r->failure);
			replica_crashed(r, read_cause(r, e));
		} else {
			carry_out(r);
		}
	} else if (ours || (e->known && e->record.stop_asked)) {
		replica_clear_failure(&r->failure);
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

void replica_ended_unseen(struct replica *r, const struct keeper_end *e)
{
	log_warn("end", r->id, "Replica %s ended while no engine-provisioner ran.", r->id);
	replica_crashed(r, read_cause(r, e));
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
