/* SPDX-License-Identifier: Apache-2.0
 *
 * How fast a replica answers, from what the requests it served took. Nothing here takes the pool's lock: the
 * figures are moving means, two loops that add to one at once may lose one of the two, and a choice made by
 * a mean a moment old is as good.
 */
#include <math.h>

#include "base/base.h"
#include "pool/pool_int.h"

/* The mean of the last eight or so. The first value stands for itself. */
static void add_to_mean(atomic_uint_fast32_t *mean, double value)
{
	double old = (double)atomic_load_explicit(mean, memory_order_relaxed);
	double now = old > 0 ? old + (value - old) / 8 : value;
	uint_fast32_t kept = now < 1 ? 1 : now > UINT32_MAX ? UINT32_MAX : (uint_fast32_t)now;
	atomic_store_explicit(mean, kept, memory_order_relaxed);
}

static double mean_of(const atomic_uint_fast32_t *mean)
{
	return (double)atomic_load_explicit(mean, memory_order_relaxed);
}

/* What the pool's usual request takes here. One of whom it is not known how fast it reads is not compared
 * with those of whom it is. */
static void set_cost(struct pool_replica *r, mono_t now)
{
	struct pool *p = r->pool;
	double prompt = mean_of(&p->mean_prefilled) / SPEED_MEAN_SCALE;
	double reading = mean_of(&r->prefill_ns), token = mean_of(&r->token_ns);
	if (token <= 0 || (reading <= 0 && atomic_load_explicit(&p->reads_measured, memory_order_relaxed)))
		return;
	double ns = reading * prompt + token * mean_of(&p->mean_tokens) / SPEED_MEAN_SCALE;
	double most = (double)SPEED_COST_MAX;
	atomic_store_explicit(&r->cost_ns, (uint_fast64_t)(ns > most ? most : ns), memory_order_relaxed);
	atomic_store_explicit(&r->measured_at, now.ns, memory_order_relaxed);
}

void pool_replica_served(struct pool_replica *r, const struct pool_served *s, mono_t now)
{
	struct pool *p = r->pool;
	bool prefill = s->prefilled >= POOL_SERVED_PROMPT_MIN && s->prefill_ms > 0 && isfinite(s->prefill_ms);
	bool decode = s->tokens >= POOL_SERVED_TOKENS_MIN && s->tokens_per_s > 0 && isfinite(s->tokens_per_s);
	if (s->prompt >= 0)
		atomic_store_explicit(&r->last_tokens,
			(uint_fast32_t)MIN(s->prompt + MAX(s->tokens, (int64_t)0), (int64_t)UINT32_MAX),
			memory_order_relaxed);
	if (s->prefilled >= 0)
		add_to_mean(&p->mean_prefilled, (double)s->prefilled * SPEED_MEAN_SCALE);
	if (s->tokens >= 0)
		add_to_mean(&p->mean_tokens, (double)s->tokens * SPEED_MEAN_SCALE);
	if (prefill) {
		atomic_store_explicit(&p->reads_measured, true, memory_order_relaxed);
		add_to_mean(&r->prefill_ns, s->prefill_ms * 1e6 / (double)s->prefilled);
	}
	if (decode)
		add_to_mean(&r->token_ns, 1e9 / s->tokens_per_s);
	if (prefill || decode)
		set_cost(r, now);
}

void pool_replica_speed(const struct pool_replica *r, struct pool_speed *ret)
{
	double prefill = mean_of(&r->prefill_ns), token = mean_of(&r->token_ns);
	*ret = (struct pool_speed){ .prefill_tokens_per_s = prefill > 0 ? 1e9 / prefill : -1,
		.tokens_per_s = token > 0 ? 1e9 / token : -1,
		.cost_ns = atomic_load_explicit(&r->cost_ns, memory_order_relaxed),
		.last_s = prefill * mean_of(&r->last_tokens) / 1e9 };
}
