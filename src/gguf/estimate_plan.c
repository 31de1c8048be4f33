/* SPDX-License-Identifier: Apache-2.0
 *
 * The planner.
 */
#include "base/mem.h"
#include "gguf/estimate_graph.h"
#include "gguf/estimate_int.h"

enum { HOLES_MAX = 512 };

/* Free stretches in order; the last reaches to the end of the world. */
struct heap {
	struct hole {
		uint64_t at, n;
	} holes[HOLES_MAX];
	size_t len;
	uint64_t align, peak;
};

void graph_init(struct graph *g, uint64_t align)
{
	*g = (struct graph){ .align = align, .cap = 256, .len = 1 };
	g->nodes = mem_alloc(g->cap * sizeof *g->nodes);
}

void graph_done(struct graph *g)
{
	free(g->nodes);
	g->nodes = NULL;
}

gnode graph_add(struct graph *g, enum graph_kind kind, struct graph_shape shape, gnode a, gnode b, gnode c)
{
	if (g->len == GRAPH_NODES_MAX) {
		g->full = true;
		return (gnode)(g->len - 1);
	}
	if (g->len == g->cap) {
		g->cap *= 2;
		g->nodes = mem_realloc(g->nodes, g->cap * sizeof *g->nodes);
	}
	g->nodes[g->len] = (struct graph_node){ .shape = shape, .src = { a, b, c }, .kind = (uint8_t)kind };
	return (gnode)g->len++;
}

gnode graph_view(struct graph *g, gnode of, struct graph_shape shape, bool shifted)
{
	gnode v = graph_add(g, GRAPH_VIEW, shape, of, 0, 0);
	const struct graph_node *o = &g->nodes[of];
	g->nodes[v].root = o->root ? o->root : of;
	g->nodes[v].shifted = shifted || o->shifted;
	return v;
}

static uint64_t bytes_of(const struct graph *g, gnode n)
{
	const struct graph_shape *s = &g->nodes[n].shape;
	uint64_t x = s->size;
	for (int i = 0; i < 4; i++)
		x = est_mul(x, s->ne[i]);
	return est_pad(MIN(x, 1ull << 60), g->align);
}

static void hole_remove(struct heap *h, size_t i)
{
	memmove(&h->holes[i], &h->holes[i + 1], (h->len - i - 1) * sizeof *h->holes);
	h->len--;
}

static uint64_t heap_take(struct heap *h, uint64_t n)
{
	size_t best = h->len - 1;
	for (size_t i = 0; i + 1 < h->len; i++)
		if (h->holes[i].n >= n && (best == h->len - 1 || h->holes[i].n <= h->holes[best].n))
			best = i;
	struct hole *o = &h->holes[best];
	uint64_t at = o->at;
	o->at = est_add(o->at, n);
	o->n = o->n > n ? o->n - n : 0;
	if (best + 1 < h->len && o->n == 0)
		hole_remove(h, best);
	h->peak = MAX(h->peak, est_add(at, n));
	return at;
}

static void heap_give(struct heap *h, uint64_t at, uint64_t n)
{
	size_t i = 0;
	while (i < h->len && h->holes[i].at < at)
		i++;
	bool after = i > 0 && h->holes[i - 1].at + h->holes[i - 1].n == at;
	bool before = i < h->len && at + n == h->holes[i].at;
	if (after && before) {
		h->holes[i - 1].n = est_add(h->holes[i - 1].n, est_add(n, h->holes[i].n));
		hole_remove(h, i);
	} else if (after) {
		h->holes[i - 1].n += n;
	} else if (before) {
		h->holes[i].at = at;
		h->holes[i].n = est_add(h->holes[i].n, n);
	} else if (h->len < HOLES_MAX) {
		memmove(&h->holes[i + 1], &h->holes[i], (h->len - i) * sizeof *h->holes);
		h->holes[i] = (struct hole){ at, n };
		h->len++;
	}
}

static bool same_shape(const struct graph_node *a, const struct graph_node *b)
{
	return a->shape.size == b->shape.size && !a->shape.strided && !b->shape.strided &&
	       memcmp(a->shape.ne, b->shape.ne, sizeof a->shape.ne) == 0;
}

/* The operand whose place a result may take: one that nobody else looks at. */
static bool take_place(struct graph *g, struct heap *h, gnode of)
{
	struct graph_node *n = &g->nodes[of];
	for (int i = 0; i < GRAPH_SRC_MAX; i++) {
		struct graph_node *p = &g->nodes[n->src[i]];
		struct graph_node *root = p->root ? &g->nodes[p->root] : p;
		if (!n->src[i] || !root->owned || root->keep || !same_shape(n, p) || p->uses != 1 || p->views)
			continue;
		if (p->root && (root->views != 1 || root->uses || p->shifted))
			continue;
		uint64_t had = bytes_of(g, p->root ? p->root : n->src[i]), need = bytes_of(g, of);
		root->owned = false;
		n->at = root->at;
		n->owned = true;
		if (had > need)
			heap_give(h, n->at + need, had - need);
		return true;
	}
	return false;
}

static void place(struct graph *g, struct heap *h, gnode i)
{
	struct graph_node *n = &g->nodes[i];
	if (n->kind == GRAPH_WEIGHT || n->kind == GRAPH_VIEW || n->owned)
		return;
	if (n->kind == GRAPH_INPLACE && take_place(g, h, i))
		return;
	n->at = heap_take(h, bytes_of(g, i));
	n->owned = true;
}

static void release(struct graph *g, struct heap *h, gnode i)
{
	struct graph_node *n = &g->nodes[i];
	if (!n->owned || n->keep)
		return;
	heap_give(h, n->at, bytes_of(g, i));
	n->owned = false;
}

/* One use of a source less. */
static void used(struct graph *g, struct heap *h, gnode i)
{
	struct graph_node *n = &g->nodes[i];
	if (!i || --n->uses || n->views)
		return;
	if (!n->root) {
		release(g, h, i);
		return;
	}
	struct graph_node *root = &g->nodes[n->root];
	if (--root->views == 0 && root->uses == 0)
		release(g, h, n->root);
}

uint64_t graph_plan(struct graph *g)
{
	struct heap h = { .holes = { { 0, UINT64_MAX / 2 } }, .len = 1, .align = g->align };
	for (gnode i = 1; i < g->len; i++) {
		if (g->nodes[i].kind == GRAPH_INPUT)
			place(g, &h, i);
		if (g->nodes[i].root)
			g->nodes[g->nodes[i].root].views++;
		for (int k = 0; k < GRAPH_SRC_MAX; k++)
			if (g->nodes[i].src[k])
				g->nodes[g->nodes[i].src[k]].uses++;
	}
	for (gnode i = 1; i < g->len; i++) {
		place(g, &h, i);
		for (int k = 0; k < GRAPH_SRC_MAX; k++)
			used(g, &h, g->nodes[i].src[k]);
	}
	return g->full ? UINT64_MAX : h.peak;
}
