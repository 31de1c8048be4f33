/* SPDX-License-Identifier: Apache-2.0
 *
 * Sending a request again, while no byte of an answer was relayed. What may be done depends on what became
 * of the replica; the pool waits for that verdict and decides (pool.h). Here stands what is certain at once:
 *
 *   a pooled connection that was closed    once more, on a fresh connection; no try is counted. The engine
 *                                          may have read the request before: when the fresh one is refused
 *                                          the request counts as having been there.
 *   no connection, or closed               back into the queue, with a doubt about the replica
 *   503 "Loading model"                    back into the queue; the replica is down until it answers
 *   another 5xx (501 is the engine working)  another replica where there is one, inside the budget; else the
 *                                          answer is relayed
 *   not HTTP                               likewise, but there is no answer to relay
 */
#include <stdio.h>

#include "base/mem.h"
#include "log/log.h"
#include "proxy/proxy_int.h"

static const char see_logs[] = "`corral logs` shows what the engine said.";

static void tell(struct request *q, const char *failure, const char *why)
{
	metric_inc(metrics_series(
		q->px->o.metrics, "corral_request_retries_total", pool_id(q->pool), failure, NULL));
	log_event(LOG_INFO, "retry", q->replica->id,
		(struct log_field[]){ LOG_STR("correlation_id", q->id), LOG_STR("pool_id", pool_id(q->pool)),
			LOG_STR("failure", failure), LOG_UINT("crashes", q->waiter.crashes), LOG_END },
		"A request that got no byte from replica %s is sent again: %s.", q->replica->id, why);
}

/* The waiter's doubt is set by the caller. */
static void send_again(struct request *q)
{
	q->fresh = q->stale = q->answer_ended = false;
	q->first_byte = MONO_ZERO;
	if (++q->attempts >= PROXY_TRIES_MAX) {
		request_failf(q, CODE_ENGINE_FAILED, see_logs,
			"Engines of pool %s failed this request %d times before answering.", pool_id(q->pool),
			q->attempts);
		return;
	}
	if (q->route.starts_engine) {
		request_acquire(q, true);
		return;
	}
	if (request_pool_idle(q)) { /* waiting would be demand */
		request_failf(q, CODE_ENGINE_FAILED, see_logs,
			"The engine of pool %s ended before it answered, and this request starts none.",
			pool_id(q->pool));
		return;
	}
	request_acquire(q, false);
}

void retry_spent(struct request *q)
{
	request_failf(q, CODE_ENGINE_FAILED, see_logs,
		"Replica %s of pool %s failed this request before answering, and too many requests of the "
		"pool were "
		"sent again in the last %d s to do so once more.",
		q->replica->id, pool_id(q->pool), POOL_BUDGET_SECONDS);
}

void retry_failed_often(struct request *q)
{
	request_failf(q, CODE_ENGINE_FAILED, see_logs,
		"Replicas of pool %s closed this request's connection before answering, and live (%u "
		"time%s); "
		"it is not sent again.",
		pool_id(q->pool), q->waiter.failures, q->waiter.failures == 1 ? "" : "s");
}

void retry_crashed_twice(struct request *q)
{
	char text[256];
	int n = snprintf(text, sizeof text,
		"%d engines of pool %s crashed while they had this request; it is not sent to another one.",
		POOL_CRASHES_MAX, pool_id(q->pool));
	struct api_error e = { .code = CODE_ENGINE_FAILED,
		.retriable = 0,
		.message = view_of(text, MIN((size_t)n, sizeof text - 1)),
		.hint = VIEW("`corral logs` shows the engines' last words.") };
	request_fail(q, &e);
}

/* The replica lives and failed it: is there another to try? */
static bool can_move(const struct request *q)
{
	return q->failures < PROXY_FAILURES_MAX && pool_has_other(q->replica);
}

/* Its call is over, and the budget was asked. */
static void move_to_another(struct request *q, const char *failure, const char *why)
{
	q->failures++;
	tell(q, failure, why);
	q->waiter.was_on = q->replica;
	q->waiter.avoids = true;
	send_again(q);
}

bool retry_status(struct request *q)
{
	bool loading = q->status == 503 && view_search(buf_view(&q->hold), VIEW("Loading model")) >= 0;
	if (!loading && q->status != 501)
		lease_failed(&q->lease, mono_now());
	if (q->status == 501)
		return false;
	if (!loading && !(can_move(q) && pool_may_repeat(q->pool, mono_now())))
		return false;
	if (q->call)
		http_call_cancel(q->call);
	q->call = NULL;
	request_drop_lease(q, false);
	if (!loading) {
		move_to_another(q, "status", "it answered with a failure of its own");
		return true;
	}
	pool_replica_loading(q->replica);
	if (!q->route.starts_engine && request_pool_idle(q)) { /* it waits for none */
		request_failf(q, CODE_POOL_UNREADY, "Send it again; `corral ps` shows how far it is.",
			"The engine of pool %s is still loading its model.", pool_id(q->pool));
		return true;
	}
	tell(q, "loading", "its model is still being loaded");
	send_again(q);
	return true;
}

static void not_http(struct request *q, const struct err *e)
{
	lease_failed(&q->lease, mono_now());
	request_drop_lease(q, true); /* it is us who hung up */
	if (can_move(q)) {
		if (pool_may_repeat(q->pool, mono_now()))
			move_to_another(q, http_fail_name(HTTP_FAIL_PROTOCOL), e->msg);
		else
			retry_spent(q);
		return;
	}
	q->attempts++;
	request_failf(q, CODE_ENGINE_FAILED, see_logs,
		"The engine of pool %s failed this request before answering: %s.", pool_id(q->pool), e->msg);
}

void retry_error(struct request *q, enum http_fail f, const struct err *e)
{
	bool gone = atomic_load_explicit(&q->replica->gone, memory_order_acquire);
	if (f == HTTP_FAIL_STALE && !q->fresh && !gone) {
		q->fresh = q->stale = true;
		request_send(q);
		return;
	}
	if (f == HTTP_FAIL_PROTOCOL) {
		not_http(q, e);
		return;
	}
	tell(q, http_fail_name(f), e->msg);
	q->waiter.was_on = q->replica;
	q->waiter.sent = f != HTTP_FAIL_CONNECT || q->stale;
	q->waiter.doubts = true;
	pool_replica_down(q->replica);
	request_drop_lease(q, false);
	send_again(q);
}
