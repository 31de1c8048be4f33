/* SPDX-License-Identifier: Apache-2.0 */
#include "placement/fit_int.h"

#include <string.h>

/* ---- nodes, devices, sets ------------------------------------------------------------------------------ */

bool fit_node_next(const struct fit_run *r, size_t *at, struct fit_node *ret)
{
	const struct fit_facts *f = r->f;
	if (r->table) {
		if (*at < r->table->nnodes)
			fit_node_of(r->table, *at, ret);
		return (*at)++ < r->table->nnodes;
	}
	if (*at >= f->ndevices)
		return false;
	size_t end = *at + 1;
	while (end < f->ndevices && fit_same(f->devices[end].node_id, f->devices[*at].node_id))
		end++;
	bool host = f->devices[end - 1].kind == FIT_KIND_CPU;
	*ret = (struct fit_node){ *at, end - host, host ? end - 1 : FIT_NONE, FIT_NONE };
	*at = end;
	return true;
}

void fit_node_of(const struct fit_table *t, size_t number, struct fit_node *ret)
{
	const struct fit_summary *s = &t->nodes[number];
	*ret = (struct fit_node){ s->from, s->to, s->host == FIT_NIL ? FIT_NONE : s->host, number };
}

/* What leaving costs at least, where the whole or the share does not fit as it is. */
static double loss_on(const struct fit_run *r, size_t device)
{
	return fit_room_of(r, device, 0) >= r->unit ? 0 : fit_held(r, device)->least;
}

/* Of devices with these keys. */
static int rank_cmp(const struct fit_run *r, const struct fit_rank *rank, size_t a, uint64_t key_a, size_t b,
	uint64_t key_b)
{
	const struct fit_device *x = &r->f->devices[a], *y = &r->f->devices[b];
	bool pa = fit_bit(r->w->prefer, a), pb = fit_bit(r->w->prefer, b);
	if (rank->by == RANK_PREFERRED && pa != pb)
		return pa ? -1 : 1;
	if (rank->by == RANK_LOSS && loss_on(r, a) != loss_on(r, b))
		return loss_on(r, a) < loss_on(r, b) ? -1 : 1;
	if (rank->by == RANK_LOAD && x->replicas != y->replicas)
		return x->replicas < y->replicas ? -1 : 1;
	if (key_a != key_b)
		return key_a > key_b ? -1 : 1;
	if (pa != pb)
		return pa ? -1 : 1;
	return x->index < y->index ? -1 : x->index > y->index;
}

void fit_ranked(const struct fit_run *r, const struct fit_node *node, size_t like,
	const struct fit_rank *rank, struct fit_set *ret)
{
	uint64_t keys[FIT_SPLIT_MAX];
	ret->n = 0;
	for (size_t d = node->from; d < node->to; d++) {
		if (r->f->devices[d].kind != r->f->devices[like].kind || !fit_open(r, d))
			continue;
		uint64_t key = rank->key(r, d);
		size_t at = ret->n;
		if (key < rank->least)
			continue;
		while (at > 0 && rank_cmp(r, rank, d, key, ret->devices[at - 1], keys[at - 1]) < 0)
			at--;
		if (at == FIT_SPLIT_MAX)
			continue;
		size_t end = MIN(ret->n, FIT_SPLIT_MAX - 1);
		memmove(&ret->devices[at + 1], &ret->devices[at], (end - at) * sizeof ret->devices[0]);
		memmove(&keys[at + 1], &keys[at], (end - at) * sizeof keys[0]);
		ret->devices[at] = d;
		keys[at] = key;
		ret->n = end + 1;
	}
}

void fit_group(
	const struct fit_run *r, const struct fit_node *node, size_t like, fit_key *key, struct fit_set *ret)
{
	fit_ranked(r, node, like, &(struct fit_rank){ key, RANK_ROOM, 0 }, ret);
}

void fit_set_first(const struct fit_run *r, const struct fit_set *ranked, size_t k, struct fit_set *ret)
{
	ret->n = k;
	for (size_t i = 0; i < k; i++) {
		size_t at = i, d = ranked->devices[i];
		for (; at > 0 && r->f->devices[ret->devices[at - 1]].index > r->f->devices[d].index; at--)
			ret->devices[at] = ret->devices[at - 1];
		ret->devices[at] = d;
	}
}

/* ---- which of two is better ---------------------------------------------------------------------------- */

static uint32_t fastest(struct fit_run *r)
{
	for (size_t i = 0; r->table && i < r->table->nnodes && !r->fastest_known; i++)
		r->fastest = MAX(r->fastest, r->table->nodes[i].fastest);
	for (size_t i = 0; !r->table && i < r->f->ndevices && !r->fastest_known; i++)
		r->fastest = MAX(r->fastest, r->f->devices[i].speed);
	r->fastest_known = true;
	return r->fastest ? r->fastest : 1;
}

static int cmp_u64(uint64_t a, uint64_t b)
{
	return a < b ? -1 : a > b;
}

/* replicas ÷ speed */
static int cmp_load(struct fit_run *r, const struct fit_score *a, const struct fit_score *b)
{
	__extension__ typedef unsigned __int128 wide;
	if (!a->replicas || !b->replicas || a->speed == b->speed)
		return cmp_u64(a->replicas, b->replicas);
	wide x = (wide)a->replicas * (b->speed ? b->speed : fastest(r));
	wide y = (wide)b->replicas * (a->speed ? a->speed : fastest(r));
	return x < y ? -1 : x > y;
}

int fit_names_cmp(const struct fit_run *r, size_t a, size_t b)
{
	const struct fit_device *x = &r->f->devices[a], *y = &r->f->devices[b];
	const struct fit_table *t = r->table;
	int c = t ? cmp_u64(t->nodes[t->node_of[a]].rank, t->nodes[t->node_of[b]].rank)
		: x->node_id == y->node_id ? 0
					   : strcmp(x->node_id, y->node_id);
	return c ? c : cmp_u64(x->index, y->index);
}

int fit_score_cmp(struct fit_run *r, const struct fit_score *a, const struct fit_score *b)
{
	int c = fit_cost_cmp(&a->cost, &b->cost);
	c = c ? c : cmp_u64(a->offloaded, b->offloaded);
	c = c ? c : cmp_u64(a->parts, b->parts);
	c = c ? c : cmp_u64(a->siblings, b->siblings);
	c = c ? c : cmp_u64(a->not_preferred, b->not_preferred);
	c = c ? c : cmp_u64(a->node_siblings, b->node_siblings);
	c = c ? c : cmp_load(r, a, b);
	c = c ? c : cmp_u64(b->left, a->left);
	if (!c && a->speed != b->speed)
		c = cmp_u64(b->speed ? b->speed : fastest(r), a->speed ? a->speed : fastest(r));
	return c ? c : fit_names_cmp(r, a->device, b->device);
}

/* Replicas of the same pool: on these devices, and on the node. */
static void count_siblings(
	const struct fit_run *r, const struct fit_node *node, const struct fit_set *set, struct fit_score *s)
{
	for (size_t i = 0; i < r->nsiblings; i++) {
		const struct fit_replica *p = &r->f->replicas[r->siblings[i]];
		bool here = false, near = false;
		for (size_t u = p->first_use; u < p->first_use + p->nuses; u++) {
			size_t d = r->f->uses[u].device;
			near |= (d >= node->from && d < node->to) || d == node->host;
			for (size_t k = 0; k < set->n; k++)
				here |= set->devices[k] == d;
		}
		s->siblings += here;
		s->node_siblings += near;
	}
}

void fit_score_set(const struct fit_run *r, const struct fit_node *node, const struct fit_set *set,
	const struct fit_room *room, struct fit_score *s)
{
	*s = (struct fit_score){ .parts = (uint32_t)set->n, .device = set->n ? set->devices[0] : node->host };
	for (size_t i = 0; i < set->n; i++) {
		const struct fit_device *d = &r->f->devices[set->devices[i]];
		s->not_preferred += !fit_bit(r->w->prefer, set->devices[i]);
		s->replicas += d->replicas;
		s->speed = i ? MIN(s->speed, d->speed) : d->speed;
		s->left = fit_add(s->left, room->devices[i] == UINT64_MAX ? 0 : room->devices[i]);
	}
	count_siblings(r, node, set, s);
	s->left = fit_sub(s->left, r->w->share ? r->unit * set->n : r->whole);
}
