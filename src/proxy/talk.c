/* SPDX-License-Identifier: Apache-2.0
 *
 * Whose conversation a request belongs to, where those of its pool's engines are kept: by its API key, and in
 * it by X-Corral-Session, else by the messages up to its user's first. Hashes alone go on from here.
 */
#include "base/mem.h"
#include "proxy/proxy_int.h"

enum { SEED_OWNER = 1, SEED_SESSION, SEED_MESSAGES };

/* The body from `at` on, as much as is looked at, whether it lies in memory, in a file or in both. */
static struct view body_from(struct request *q, uint64_t at, char *scratch)
{
	size_t n = 0;
	while (n < TALK_LOOKED_AT) {
		struct view v = spool_read(&q->spool, at + n, scratch + n, TALK_LOOKED_AT - n);
		v = view_cut(v, TALK_LOOKED_AT - n);
		if (!v.n)
			break;
		if (!n && at + v.n == spool_size(&q->spool))
			return v;
		if (v.p != scratch + n)
			memcpy(scratch + n, v.p, v.n);
		n += v.n;
	}
	return view_of(scratch, n);
}

/* Of its own: who needs no scratch has no such large frame. */
static __attribute__((noinline)) uint64_t by_messages(struct request *q)
{
	char scratch[TALK_LOOKED_AT];
	struct view first = talk_beginning(body_from(q, q->scan.talk_at, scratch));
	return first.n ? talk_hash(SEED_MESSAGES, first) : 0;
}

void talk_read(struct request *q)
{
	struct pool_talk *t = &q->waiter.talk;
	if (q->key)
		t->owner = talk_hash(SEED_OWNER, view_str(q->key->name));
	if (!pool_keeps(q->pool))
		return;
	struct view session = http_header_get(http_headers(q->x), "x-corral-session");
	if (session.n)
		t->talk = talk_hash(SEED_SESSION, session);
	else if (q->scanning && q->scan.talk_at)
		t->talk = by_messages(q);
}

void talk_sent(struct request *q)
{
	if (pool_keeps(q->pool))
		pool_replica_asked(q->replica, &q->waiter.talk);
}

void talk_over(struct request *q, int64_t prompt, int64_t output, int64_t cached)
{
	if (!q->pool || !q->replica || !q->life.sent.ns || !pool_keeps(q->pool))
		return;
	struct pool_said s = { q->waiter.talk, prompt, output, cached };
	pool_replica_said(q->replica, &s);
}
