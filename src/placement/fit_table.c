/* SPDX-License-Identifier: Apache-2.0 */
#include "placement/fit_table.h"

#include <math.h>
#include <stdlib.h>

#include "base/mem.h"
#include "placement/fit_int.h"

/* Somebody who wants nothing in particular. */
static const struct fit_want any = { .may_evict = true };

/* ---- one node ------------------------------------------------------------------------------------------ */

static void add_room(uint64_t *rooms, size_t n, uint64_t room)
{
	for (; n > 0 && rooms[n - 1] < room; n--)
		rooms[n] = rooms[n - 1];
	rooms[n] = room;
}

/* Whether the use at u is the first of its replica on the node. */
static bool is_first(const struct fit_table *t, uint32_t node, uint32_t u)
{
	for (uint32_t k = t->held_by[t->owner[u]].first; k < u; k++)
		if (t->node_of[t->on[k]] == node)
			return false;
	return true;
}

static void hold(struct fit_table *t, const struct fit_facts *f, uint32_t node, size_t device)
{
	const struct fit_run r = { .f = f, .w = &any };
	struct fit_summary *s = &t->nodes[node];
	struct fit_held *h = &t->held[device];
	fit_hold(&r, t->owner, t->next, h);
	for (uint32_t u = h->head; u != FIT_NIL; u = t->next[u])
		s->on += is_first(t, node, u);
	s->least = MIN(s->least, h->least);
	s->expired |= h->expired;
}

static void add_device(struct fit_table *t, const struct fit_facts *f, struct fit_summary *s, size_t device)
{
	const struct fit_run r = { .f = f, .w = &any };
	const struct fit_device *d = &f->devices[device];
	uint64_t later = fit_later_with(&r, device, t->held[device].staying);
	if (!d->usable || d->cordoned)
		return;
	uint64_t free = fit_room_of(&r, device, 0),
		 potential = fit_room_of(&r, device, t->held[device].evictable);
	add_room(t->free + s->from, s->n, free);
	add_room(t->potential + s->from, s->n, potential);
	s->free = fit_add(s->free, free);
	s->potential = fit_add(s->potential, potential);
	s->most_later = MAX(s->most_later, later);
	s->later = fit_add(s->later, later);
	s->replicas = s->n ? MIN(s->replicas, d->replicas) : d->replicas;
	s->speed = !s->n ? d->speed : s->speed && d->speed ? MAX(s->speed, d->speed) : 0;
	s->odd |= d->limit || !d->capacity;
	s->n++;
}

/* What comes back of the node's devices when the owner of the use leaves; 0 bytes: an earlier use has told.
 */
static struct fit_cheap cheap_of(
	const struct fit_table *t, const struct fit_facts *f, const struct fit_summary *s, uint32_t use)
{
	const struct fit_run r = { .f = f, .w = &any };
	const struct fit_replica *p = &f->replicas[t->owner[use]];
	size_t on = f->uses[use].device;
	struct fit_cheap c = { .loss = fit_loss(p), .room = fit_room_of(&r, on, 0) };
	for (size_t u = p->first_use; u < p->first_use + p->nuses; u++) {
		if (f->uses[u].device < s->from || f->uses[u].device >= s->to)
			continue;
		if (u < use)
			return (struct fit_cheap){ .bytes = 0 };
		c.bytes = fit_add(c.bytes, f->uses[u].bytes);
		c.devices++;
	}
	c.alone = c.devices == 1 && t->held[on].evictable == c.bytes;
	return c;
}

static void add_cheap(struct fit_table *t, const struct fit_facts *f, uint32_t node, uint32_t use)
{
	struct fit_summary *s = &t->nodes[node];
	struct fit_cheap *v = t->cheap[node], c = cheap_of(t, f, s, use);
	uint32_t at = s->ncheap;
	if (!c.bytes)
		return;
	for (; at > 0 && c.loss * (double)v[at - 1].bytes < v[at - 1].loss * (double)c.bytes; at--)
		if (at < FIT_CHEAP_MAX)
			v[at] = v[at - 1];
	s->more_leave |= s->ncheap == FIT_CHEAP_MAX;
	if (at == FIT_CHEAP_MAX)
		return;
	v[at] = c;
	s->ncheap = MIN(s->ncheap + 1, (uint32_t)FIT_CHEAP_MAX);
}

/* Who may leave the node's devices, the cheapest first. */
static void rank_cheap(struct fit_table *t, const struct fit_facts *f, uint32_t node)
{
	const struct fit_run r = { .f = f, .w = &any };
	const struct fit_summary *s = &t->nodes[node];
	for (uint32_t d = s->from; d < s->to; d++)
		for (uint32_t u = t->held[d].head; u != FIT_NIL; u = t->next[u])
			if (fit_may_leave(&r, t->owner[u]))
				add_cheap(t, f, node, u);
	struct fit_freed sum = { 0 };
	for (uint32_t i = 0; i < s->ncheap; i++) {
		sum.bytes = fit_add(sum.bytes, t->cheap[node][i].bytes);
		sum.loss += t->cheap[node][i].loss;
		t->freed[node][i] = sum;
	}
}

static void sum_up(struct fit_table *t, const struct fit_facts *f, uint32_t node)
{
	const struct fit_run r = { .f = f, .w = &any };
	struct fit_summary *s = &t->nodes[node];
	*s = (struct fit_summary){ .from = s->from,
		.to = s->to,
		.host = s->host,
		.first = s->first,
		.rank = s->rank,
		.least = INFINITY,
		.host_free = UINT64_MAX,
		.host_potential = UINT64_MAX };
	for (uint32_t d = s->from; d < s->to; d++) {
		s->fastest = MAX(s->fastest, f->devices[d].speed);
		hold(t, f, node, d);
		add_device(t, f, s, d);
	}
	s->most_free = s->n ? t->free[s->from] : 0;
	s->most_potential = s->n ? t->potential[s->from] : 0;
	rank_cheap(t, f, node);
	if (s->host == FIT_NIL)
		return;
	hold(t, f, node, s->host);
	s->fastest = MAX(s->fastest, f->devices[s->host].speed);
	s->host_free = fit_room_of(&r, s->host, 0);
	s->host_potential = fit_room_of(&r, s->host, t->held[s->host].evictable);
}

static void sum_up_changed(struct fit_table *t, const struct fit_facts *f)
{
	while (t->nchanged)
		sum_up(t, f, t->changed[--t->nchanged]); /* and it is not changed any more */
}

static void change(struct fit_table *t, uint32_t device)
{
	uint32_t node = t->node_of[device];
	if (!t->nodes[node].changed)
		t->changed[t->nchanged++] = node;
	t->nodes[node].changed = true;
}

/* ---- who holds what ------------------------------------------------------------------------------------ */

static void unlink_use(struct fit_table *t, uint32_t use)
{
	uint32_t *at = &t->held[t->on[use]].head;
	while (*at != use)
		at = &t->next[*at];
	*at = t->next[use];
	t->owner[use] = FIT_NIL;
	change(t, t->on[use]);
}

static void link_use(struct fit_table *t, uint32_t use, uint32_t device, uint32_t replica)
{
	if (t->owner[use] != FIT_NIL)
		unlink_use(t, use);
	t->on[use] = device;
	t->owner[use] = replica;
	t->next[use] = t->held[device].head;
	t->held[device].head = use;
	change(t, device);
}

static void grow(struct fit_table *t, size_t replicas, size_t uses)
{
	if (replicas > t->replicas) {
		size_t n = MAX(replicas, 2 * t->replicas);
		t->held_by = mem_realloc(t->held_by, n * sizeof *t->held_by);
		for (; t->replicas < n; t->replicas++)
			t->held_by[t->replicas] = (struct fit_holding){ .known = false };
	}
	if (uses > t->uses) {
		size_t n = MAX(uses, 2 * t->uses);
		t->next = mem_realloc(t->next, n * sizeof *t->next);
		t->owner = mem_realloc(t->owner, n * sizeof *t->owner);
		t->on = mem_realloc(t->on, n * sizeof *t->on);
		for (; t->uses < n; t->uses++)
			t->owner[t->uses] = FIT_NIL;
	}
}

static void forget(struct fit_table *t, size_t replica)
{
	struct fit_holding *h = &t->held_by[replica];
	for (uint32_t u = h->first; u < h->first + h->n; u++)
		if (t->owner[u] == replica)
			unlink_use(t, u);
	t->nowhere -= h->known && !h->n;
	*h = (struct fit_holding){ .known = false };
}

static void know(struct fit_table *t, const struct fit_facts *f, size_t replica)
{
	const struct fit_replica *p = &f->replicas[replica];
	for (size_t u = p->first_use; u < p->first_use + p->nuses; u++)
		link_use(t, (uint32_t)u, (uint32_t)f->uses[u].device, (uint32_t)replica);
	t->held_by[replica] = (struct fit_holding){ true, (uint32_t)p->first_use, (uint32_t)p->nuses };
	t->nowhere += !p->nuses;
}

/* ---- the whole ----------------------------------------------------------------------------------------- */

struct name {
	const char *id;
	uint32_t node;
};
static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct name *)a)->id, ((const struct name *)b)->id);
}

static void rank_nodes(struct fit_table *t, const struct fit_facts *f)
{
	AUTO(mem_freep) struct name *names = mem_alloc((t->nnodes + 1) * sizeof *names);
	for (uint32_t n = 0; n < t->nnodes; n++)
		names[n] = (struct name){ f->devices[t->nodes[n].first].node_id, n };
	qsort(names, t->nnodes, sizeof *names, by_name);
	for (uint32_t i = 0; i < t->nnodes; i++)
		t->nodes[names[i].node].rank = i;
}

static void find_nodes(struct fit_table *t, const struct fit_facts *f)
{
	const struct fit_run r = { .f = f };
	struct fit_node node;
	for (size_t at = 0; fit_node_next(&r, &at, &node);) {
		struct fit_summary *s = &t->nodes[t->nnodes];
		size_t end = node.host == FIT_NONE ? node.to : node.host + 1, first = node.from;
		for (size_t d = node.from; d < end; d++) {
			t->node_of[d] = t->nnodes;
			if (f->devices[d].index < f->devices[first].index)
				first = d;
		}
		*s = (struct fit_summary){ .from = (uint32_t)node.from,
			.to = (uint32_t)node.to,
			.host = node.host == FIT_NONE ? FIT_NIL : (uint32_t)node.host,
			.first = (uint32_t)first };
		t->nnodes++;
	}
	rank_nodes(t, f);
}

struct fit_table *fit_table_new(const struct fit_facts *f)
{
	struct fit_table *t = NEW(struct fit_table);
	size_t n = f->ndevices + 1;
	t->nodes = mem_alloc(n * sizeof *t->nodes);
	t->node_of = mem_alloc(n * sizeof *t->node_of);
	t->free = mem_alloc(n * sizeof *t->free);
	t->potential = mem_alloc(n * sizeof *t->potential);
	t->held = mem_alloc(n * sizeof *t->held);
	t->cheap = mem_alloc(n * sizeof *t->cheap);
	t->freed = mem_alloc(n * sizeof *t->freed);
	t->changed = mem_alloc(n * sizeof *t->changed);
	for (size_t d = 0; d < f->ndevices; d++)
		t->held[d].head = FIT_NIL;
	find_nodes(t, f);
	grow(t, f->nreplicas, f->nuses);
	for (size_t i = 0; i < f->nreplicas; i++)
		know(t, f, i);
	t->nchanged = 0;
	for (uint32_t i = 0; i < t->nnodes; i++)
		sum_up(t, f, i);
	return t;
}

void fit_table_freep(struct fit_table **t)
{
	if (!*t)
		return;
	free((*t)->nodes);
	free((*t)->node_of);
	free((*t)->free);
	free((*t)->potential);
	free((*t)->held);
	free((*t)->cheap);
	free((*t)->freed);
	free((*t)->changed);
	free((*t)->held_by);
	free((*t)->next);
	free((*t)->owner);
	free((*t)->on);
	free(*t);
	*t = NULL;
}

void fit_table_device(struct fit_table *t, const struct fit_facts *f, size_t device)
{
	sum_up(t, f, t->node_of[device]);
}

void fit_table_replica(struct fit_table *t, const struct fit_facts *f, size_t replica)
{
	grow(t, MAX(replica + 1, f->nreplicas), f->nuses);
	forget(t, replica);
	if (replica < f->nreplicas)
		know(t, f, replica);
	sum_up_changed(t, f);
}
