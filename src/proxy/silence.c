/* SPDX-License-Identifier: Apache-2.0
 *
 * Whether a replica still makes progress, judged by tokens and not by its health endpoint. Only requests that
 * hold a lease are looked at; of the others the call has a deadline, first_token_ms from its last byte on.
 *
 * Before its first token a request may wait first_token_ms since it was sent; half of it over, control
 * watches the engine's slots, and every movement there, or a token of another stream, begins the time anew.
 * After it, a stream may be without a token for max(stall_ms, 10 × the replica's median gap); but while a
 * prompt is being read that began with the silence, the longer time holds: an engine that reads a prompt may
 * stand still in all its slots for minutes. Of an answer in one piece each byte counts as if it were sent
 * then. An answer whose client is slow is not looked at.
 */
#include <stdlib.h>
#include <string.h>

#include "proxy/proxy_int.h"

enum {
	TOKEN_GRAIN_NS = 50 * 1000000, /* the replica's token_at is written no more often */
	AGAIN_MS = 2000,               /* control is told again while it lasts */
	PROMPT_GRACE_MS = 2000,        /* a prompt that began so long after the silence may be its reason */
	GAP_FACTOR = 10,
};

void gap_add(struct gaps *g, int64_t ns)
{
	g->ns[g->n++ % GAPS_MAX] = ns;
}

static int by_size(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
	return (x > y) - (x < y);
}

int64_t gap_median_ms(const struct gaps *g)
{
	int64_t sorted[GAPS_MAX];
	size_t n = MIN(g->n, (unsigned)GAPS_MAX);
	if (!n)
		return 0;
	memcpy(sorted, g->ns, n * sizeof *sorted);
	qsort(sorted, n, sizeof *sorted, by_size);
	return sorted[n / 2] / 1000000;
}

/* The last sign of life that can be the reason to wait on. */
static mono_t alive_at(const struct request *q)
{
	mono_t at = q->quiet_since;
	mono_t token = { atomic_load_explicit(&q->replica->token_at, memory_order_relaxed) };
	mono_t moved = { atomic_load_explicit(&q->replica->moved_at, memory_order_relaxed) };
	at = mono_before(at, token) ? token : at;
	return mono_before(at, moved) ? moved : at;
}

static int64_t limit_ms(struct request *q, mono_t alive)
{
	struct pool_opts o;
	pool_options(q->pool, &o);
	if (!q->spoke)
		return o.first_token_ms;
	const struct replica_end *end = replica_end(q->px, q->replica);
	int64_t gap = end ? gap_median_ms(&end->gaps) : 0;
	int64_t limit = MAX(o.stall_ms, GAP_FACTOR * gap);
	if (limit < o.first_token_ms &&
		pool_replica_reads_prompt(q->replica, alive, MAX(GAP_FACTOR * gap, (int64_t)PROMPT_GRACE_MS)))
		return o.first_token_ms;
	return limit;
}

static void look(void *arg);

static void look_in(struct request *q, int64_t ms)
{
	loop_timer_start(q->px->o.loop, &q->silence, MAX(ms, (int64_t)1), look, q);
}

static void look(void *arg)
{
	struct request *q = arg;
	mono_t alive = alive_at(q);
	int64_t limit = limit_ms(q, alive), half = q->spoke ? limit : limit / 2;
	int64_t quiet = q->paused ? 0 : mono_ms_between(alive, mono_now());
	if (quiet < half) {
		look_in(q, half - quiet);
		return;
	}
	bool over = quiet >= limit;
	q->told_silent = over;
	look_in(q, over ? AGAIN_MS : limit - quiet);
	q->px->o.on_silent(q->px->o.arg, q->replica, over, limit);
}

static void begin(struct request *q)
{
	struct pool_opts o;
	pool_options(q->pool, &o);
	look_in(q, q->spoke ? o.stall_ms : o.first_token_ms / 2);
}

static void bound_call(struct request *q)
{
	struct pool_opts o;
	pool_options(q->pool, &o);
	if (q->call)
		http_call_deadline(q->call, o.first_token_ms);
}

void silence_start(struct request *q)
{
	q->quiet_since = mono_now();
	q->spoke = q->paused = q->told_silent = false;
	q->tokens = 0;
	if (!q->lease.replica)
		bound_call(q);
	else if (q->px->o.on_silent)
		begin(q);
}

void silence_data(struct request *q)
{
	if (!q->lease.replica)
		bound_call(q);
	else if (!q->events)
		q->quiet_since = loop_now(q->px->o.loop);
}

void silence_over(struct request *q)
{
	request_failf(q, CODE_DECODE_TIMEOUT,
		"Send the request again; `corral logs` shows what the engine says.",
		"The engine of pool %s said nothing for all of first_token_timeout.", pool_id(q->pool));
}

void silence_token(struct request *q)
{
	mono_t now = loop_now(q->px->o.loop);
	bool first = !q->spoke;
	q->tokens = q->split.tokens;
	q->told_silent = false;
	struct replica_end *end = replica_end(q->px, q->replica);
	if (!first && end)
		gap_add(&end->gaps, now.ns - q->quiet_since.ns);
	q->quiet_since = now;
	if (now.ns - atomic_load_explicit(&q->replica->token_at, memory_order_relaxed) > TOKEN_GRAIN_NS)
		atomic_store_explicit(&q->replica->token_at, now.ns, memory_order_relaxed);
	if (!first)
		return;
	q->spoke = true;
	lease_spoke(&q->lease, true);
	if (loop_timer_active(&q->silence))
		begin(q);
}

/* What comes while its client does not read cannot be seen. */
void silence_pause(struct request *q, bool paused)
{
	if (q->paused && !paused)
		q->quiet_since = mono_now();
	q->paused = paused;
	if (q->lease.replica || !q->call)
		return;
	if (paused)
		http_call_deadline(q->call, -1);
	else
		bound_call(q);
}

void silence_stop(struct request *q)
{
	loop_timer_stop(&q->silence);
}
