/* SPDX-License-Identifier: Apache-2.0
 *
 * A bucket is one number: when it will be full again. Each unit taken moves that time by what one unit needs
 * to come back; empty means that it lies a whole minute ahead. So there is no state to fill up and no timer.
 */
#include <stdio.h>

#include "auth/auth.h"

static const int64_t MINUTE_NS = 60LL * 1000 * 1000 * 1000;
static const int64_t DEBT_MAX_NS = 24 * 3600LL * 1000 * 1000 * 1000; /* no request costs more than a day */
enum { CONCURRENT_AFTER_MS = 1000 };                                 /* nobody knows when one of them ends */

/* What n of so many a minute need to come back. */
static int64_t cost(uint64_t n, uint64_t a_minute)
{
	unsigned __int128 ns = (unsigned __int128)n * (uint64_t)MINUTE_NS / a_minute;
	return ns > (uint64_t)DEBT_MAX_NS ? DEBT_MAX_NS : (int64_t)ns;
}

static int64_t owed(_Atomic int64_t const *full, int64_t now)
{
	return MAX(atomic_load_explicit(full, memory_order_relaxed) - now, (int64_t)0);
}

/* Takes ns where that leaves the bucket at most `most` ns from full; else how much too much it would be. */
static int64_t take(_Atomic int64_t *full, int64_t now, int64_t ns, int64_t most)
{
	int64_t was = atomic_load_explicit(full, memory_order_relaxed);
	for (;;) {
		int64_t next = MAX(was, now) + ns;
		if (next - now > most)
			return next - now - most;
		if (atomic_compare_exchange_weak_explicit(
			    full, &was, next, memory_order_relaxed, memory_order_relaxed))
			return 0;
	}
}

static int64_t ms_up(int64_t ns)
{
	return ns / 1000000 + (ns % 1000000 != 0);
}

enum auth_limit auth_key_begin(struct auth_key *k, mono_t now, int64_t *ret_after_ms)
{
	const struct auth_limits *l = &k->limits;
	if (l->tokens) { /* one token must be there */
		int64_t over = owed(&k->tokens_full, now.ns) + cost(1, l->tokens) - MINUTE_NS;
		*ret_after_ms = MAX(ms_up(over), (int64_t)1);
		if (over > 0)
			return AUTH_LIMIT_TOKENS;
	}
	if (l->concurrent &&
		atomic_fetch_add_explicit(&k->running, 1, memory_order_relaxed) >= l->concurrent) {
		atomic_fetch_sub_explicit(&k->running, 1, memory_order_relaxed);
		*ret_after_ms = CONCURRENT_AFTER_MS;
		return AUTH_LIMIT_CONCURRENT;
	}
	int64_t over = l->requests ? take(&k->requests_full, now.ns, cost(1, l->requests), MINUTE_NS) : 0;
	if (!over)
		return AUTH_LIMIT_NONE;
	if (l->concurrent)
		atomic_fetch_sub_explicit(&k->running, 1, memory_order_relaxed);
	*ret_after_ms = ms_up(over);
	return AUTH_LIMIT_REQUESTS;
}

void auth_key_done(struct auth_key *k, uint64_t tokens, mono_t now)
{
	if (k->limits.concurrent)
		atomic_fetch_sub_explicit(&k->running, 1, memory_order_relaxed);
	if (k->limits.tokens && tokens)
		(void)take(&k->tokens_full, now.ns, cost(tokens, k->limits.tokens), INT64_MAX - now.ns);
}

/* "12ms", "7s", "1m3s": as OpenAI writes it. */
static void add_reset(struct buf *head, const char *what, int64_t ms)
{
	if (ms < 1000)
		(void)buf_addf(head, "x-ratelimit-reset-%s: %lldms\r\n", what, (long long)ms);
	else if (ms < 60000)
		(void)buf_addf(head, "x-ratelimit-reset-%s: %llds\r\n", what, (long long)((ms + 999) / 1000));
	else
		(void)buf_addf(head, "x-ratelimit-reset-%s: %lldm%llds\r\n", what,
			(long long)((ms + 999) / 60000), (long long)((ms + 999) / 1000 % 60));
}

static void add_bucket(struct buf *head, const char *what, uint64_t a_minute, int64_t owed_ns)
{
	int64_t left_ns = MAX(MINUTE_NS - owed_ns, (int64_t)0);
	uint64_t left = (uint64_t)((unsigned __int128)(uint64_t)left_ns * a_minute / (uint64_t)MINUTE_NS);
	(void)buf_addf(head, "x-ratelimit-limit-%s: %llu\r\nx-ratelimit-remaining-%s: %llu\r\n", what,
		(unsigned long long)a_minute, what, (unsigned long long)left);
	add_reset(head, what, ms_up(owed_ns));
}

void auth_limit_headers(const struct auth_key *k, mono_t now, struct buf *head)
{
	const struct auth_limits *l = &k->limits;
	if (l->requests)
		add_bucket(head, "requests", l->requests, owed(&k->requests_full, now.ns));
	if (l->tokens)
		add_bucket(head, "tokens", l->tokens, owed(&k->tokens_full, now.ns));
}
