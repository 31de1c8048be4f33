/* SPDX-License-Identifier: Apache-2.0
 *
 * What a node is told of conversations, where they outlive their engine: whose those are that an engine
 * holds, for when it saves them, and whose wait for one, for when it takes up what was saved. Lines of text,
 * in hexadecimal where they are hashes:
 *
 *     talks    <replica> <generation> <owner of all, * several, - nobody>
 * <owner>:<talk>:<prompt>:<output>:<cached> … kv_for   <owner>:<talk> …
 */
#include "control/control_int.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

enum {
	TALKS_LINE_MAX = 4 * 1024,
	WAITING_MAX = 16,
	CACHED_MIN = 32, /* so many tokens are the beginning of any conversation: its template's */
};

static void add_line(const struct control_slot *s, const struct pool_talks *t, struct buf *b)
{
	(void)buf_addf(b, "%s %llu ", s->id, (unsigned long long)s->generation);
	if (t->several || !t->nasked)
		(void)buf_adds(b, t->several ? "*" : "-");
	else
		(void)buf_addf(b, "%llx", (unsigned long long)t->owner);
	for (size_t i = 0; i < t->n; i++) {
		const struct pool_said *d = &t->said[i];
		(void)buf_addf(b, " %llx:%llx:%lld:%lld:%lld", (unsigned long long)d->of.owner,
			(unsigned long long)d->of.talk, (long long)d->prompt, (long long)d->output,
			(long long)d->cached);
	}
	(void)buf_addc(b, '\n');
}

/* Whether what its engine took up was of use, by the engine's own count of cached tokens, once a
 * conversation: the first request that continues one of those it found tells. */
static void settle(struct control_pool *p, struct control_slot *s, const struct pool_said *d)
{
	struct view rest = view_str(s->kv_found);
	char id[2 * 16 + 2];
	int n = snprintf(
		id, sizeof id, "%llx:%llx", (unsigned long long)d->of.owner, (unsigned long long)d->of.talk);
	for (size_t i = 0; rest.n && i < 64; i++) {
		struct view word = view_split(rest, ' ', &rest);
		if (word.n != (size_t)n + 1 || memcmp(word.p, id, (size_t)n) != 0 || (s->kv_settled >> i & 1))
			continue;
		s->kv_settled |= (uint64_t)1 << i;
		bool hit = word.p[n] == '+' && d->cached >= CACHED_MIN;
		metric_inc(metrics_series(p->control->o.metrics, "corral_kv_conversations_total", p->cfg->id,
			hit ? "hit" : "miss", NULL));
		return;
	}
}

static void settle_new(struct control_pool *p, struct control_slot *s, const struct pool_talks *t)
{
	uint64_t fresh = MIN(t->nsaid - MIN(s->nsaid, t->nsaid), (uint64_t)t->n);
	s->nsaid = t->nsaid;
	for (uint64_t i = fresh; i-- > 0 && s->kv_found;)
		if (t->said[i].cached >= 0 && t->said[i].of.talk)
			settle(p, s, &t->said[i]);
}

void slot_found_talks(struct control_slot *s, const char *kv_found)
{
	mem_setstr(&s->kv_found, kv_found);
	s->kv_settled = 0;
	s->nsaid = 0;
}

void slot_note_talks(struct control_pool *p, struct control_slot *s)
{
	AUTO(buf_done) struct buf b = BUF(TALKS_LINE_MAX);
	struct pool_talks t;
	if (!pool_keeps(p->pool) || !pool_get_talks(p->pool, s->id, &t))
		return;
	settle_new(p, s, &t);
	add_line(s, &t, &b);
	mem_setstr(&s->talks, buf_str(&b));
}

void control_talks(struct control *c, struct buf *b)
{
	for (size_t i = 0; i < c->npools; i++)
		for (size_t k = 0; k < c->pools[i]->nslots; k++) {
			struct control_slot *s = c->pools[i]->slots[k];
			slot_note_talks(c->pools[i], s);
			if (s->talks) /* of what has no place nothing will be saved */
				(void)buf_adds(b, s->talks);
		}
}

void slot_note_waiting(struct control_pool *p, struct control_slot *s)
{
	AUTO(buf_done) struct buf b = BUF(TALKS_LINE_MAX);
	struct pool_talk t[WAITING_MAX];
	bool stands = s->told == REPLICA_ABSENT || s->told == REPLICA_STOPPED;
	if (s->told == REPLICA_READY || s->told == REPLICA_DRAINING || !pool_keeps(p->pool))
		return; /* what it took up, it took up */
	size_t n = pool_waiting_talks(p->pool, t, WAITING_MAX);
	for (size_t i = 0; i < n; i++)
		(void)buf_addf(&b, "%s%llx:%llx", i ? " " : "", (unsigned long long)t[i].owner,
			(unsigned long long)t[i].talk);
	if (n || stands)
		mem_setstr(&s->kv_for, n ? buf_str(&b) : NULL);
}
