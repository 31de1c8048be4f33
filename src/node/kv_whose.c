/* SPDX-License-Identifier: Apache-2.0
 *
 * Whose conversations an engine holds. Which slot a request went to is the engine's own choice, and it does
 * not tell; but who sends what is wanted tells of each request how many tokens it had (control/talks.c), and
 * the engine how many each slot has. A slot that fits requests of two API keys belongs to nobody, and is not
 * saved.
 */
#include <stdlib.h>

#include "base/mem.h"
#include "base/num.h"
#include "node/kv_int.h"

static bool hex(struct view v, uint64_t *ret)
{
	*ret = 0;
	for (size_t i = 0; i < v.n; i++) {
		char c = v.p[i];
		bool digit = c >= '0' && c <= '9', letter = c >= 'a' && c <= 'f';
		if ((!digit && !letter) || i == 16)
			return false;
		*ret = *ret << 4 | (uint64_t)(digit ? c - '0' : c - 'a' + 10);
	}
	return v.n > 0;
}

/* -1: not known. */
static int64_t count_of(struct view v)
{
	uint64_t n;
	return num_u64(v, &n) || n > UINT32_MAX ? -1 : (int64_t)n;
}

static bool read_whose(struct view v, struct view *ret_rest, struct kv_whose *ret)
{
	struct view owner = view_split(v, ':', ret_rest);
	return hex(owner, &ret->owner) && hex(view_split(*ret_rest, ':', ret_rest), &ret->talk);
}

size_t kv_whose_list(const char *text, struct kv_whose *ret, size_t max)
{
	struct view rest = view_str(text), word;
	size_t n = 0;
	while (rest.n && n < max) {
		word = view_split(rest, ' ', &rest);
		n += read_whose(word, &word, &ret[n]);
	}
	return n;
}

/* Of all it was asked since it runs, also by what a sender before this one told. */
static void take_owner(struct replica_kv *kv, struct view v)
{
	uint64_t owner = 0;
	if (view_eqs(v, "-"))
		return;
	bool one = hex(v, &owner);
	kv->several = kv->several || !one || (kv->asked && kv->owner != owner);
	kv->owner = owner;
	kv->asked = true;
}

static void take_line(struct node *n, struct view line)
{
	struct view id = view_split(line, ' ', &line), word;
	struct replica *r = map_get(&n->replicas, id);
	uint64_t generation;
	if (num_u64(view_split(line, ' ', &line), &generation) || !r || !r->kv || generation != r->generation)
		return;
	struct replica_kv *kv = r->kv;
	take_owner(kv, view_split(line, ' ', &line));
	kv->nsaid = 0;
	while (line.n && kv->nsaid < KV_SAID_MAX) {
		struct kv_said *s = &kv->said[kv->nsaid];
		word = view_split(line, ' ', &line);
		if (!read_whose(word, &word, &s->of))
			continue;
		s->prompt = count_of(view_split(word, ':', &word));
		s->output = count_of(view_split(word, ':', &word));
		kv->nsaid++;
	}
}

void kv_told(struct node *n, const char *talks)
{
	struct view rest = view_str(talks);
	while (rest.n)
		take_line(n, view_split(rest, '\n', &rest));
}

/* llama-server counts a slot's tokens without the last one, which it has not read. */
static bool fits(const struct kv_said *s, uint64_t tokens)
{
	if (s->prompt < 0 || s->output < 0)
		return false;
	uint64_t all = (uint64_t)(s->prompt + s->output);
	return tokens == all || tokens + 1 == all || tokens == (uint64_t)s->prompt;
}

bool kv_whose(const struct replica *r, uint64_t tokens, struct kv_whose *ret)
{
	const struct replica_kv *kv = r->kv;
	bool found = false;
	*ret = (struct kv_whose){ 0 };
	if (r->slots == 1 && kv->nsaid) { /* there is no other */
		*ret = kv->said[0].of;
		return true;
	}
	for (size_t i = 0; i < kv->nsaid; i++) { /* the newest first */
		const struct kv_said *s = &kv->said[i];
		if (!fits(s, tokens))
			continue;
		if (found && s->of.owner != ret->owner)
			return false;
		if (!found)
			*ret = s->of;
		found = true;
	}
	if (!found && kv->asked && !kv->several && !kv->adopted) {
		ret->owner = kv->owner; /* all of it is one key's, whichever conversation */
		found = true;
	}
	return found;
}

/* ---- what is found at a start ----------------------------------------------------------------------------
 */

static bool is_among(const struct kv_whose *list, size_t n, const struct kv_whose *w, bool talk)
{
	for (size_t i = 0; i < n; i++)
		if (list[i].owner == w->owner && (!talk || (w->talk && list[i].talk == w->talk)))
			return true;
	return false;
}

static bool all_of_one(const struct kv_list *l)
{
	for (size_t i = 1; i < l->len; i++)
		if (l->items[i].of.owner != l->items[0].of.owner)
			return false;
	return true;
}

/* Those that are asked for, then others of the same keys; the newest first in each. */
void kv_mine(const struct replica *r, struct kv_list *l)
{
	struct kv_whose waits[KV_WAITING_MAX];
	size_t n = kv_whose_list(r->want.kv_for, waits, KV_WAITING_MAX), kept = 0;
	if (!n && !all_of_one(l)) /* nobody says whose they should be */
		l->len = 0;
	if (!n || !l->len)
		return;
	struct kv_file *out = mem_alloc(l->len * sizeof *out);
	for (int pass = 0; pass < 2; pass++)
		for (size_t i = 0; i < l->len; i++) {
			bool asked = is_among(waits, n, &l->items[i].of, true);
			if (pass == 0 ? asked : !asked && is_among(waits, n, &l->items[i].of, false))
				out[kept++] = l->items[i];
		}
	free(l->items);
	l->items = out;
	l->len = kept;
}

char *kv_found(const struct replica *r)
{
	const struct replica_kv *kv = r->kv;
	AUTO(buf_done) struct buf b = BUF(8 * KIB);
	for (size_t i = 0; kv && i < kv->nfound; i++) {
		bool taken = false;
		for (uint32_t k = 0; kv->held && k < kv->nheld + KV_OLDER_MAX; k++)
			taken |= kv->held[k].name[0] && kv->held[k].of.owner == kv->found[i].owner &&
				 kv->held[k].of.talk == kv->found[i].talk;
		(void)buf_addf(&b, "%s%llx:%llx%c", b.len ? " " : "", (unsigned long long)kv->found[i].owner,
			(unsigned long long)kv->found[i].talk, taken ? '+' : '-');
	}
	return b.len ? mem_strdup(buf_str(&b)) : NULL;
}

bool kv_kept(const struct replica *r)
{
	const struct node_pool *c = kv_conf(r);
	return r->kv && !r->kv->vain && c && c->kv_save != NODE_KV_OFF;
}
