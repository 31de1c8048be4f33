/* SPDX-License-Identifier: Apache-2.0
 *
 * A compute graph without arithmetic: what is made from what, how large, in which order. The planner lays its
 * tensors out in one buffer as an engine's allocator does (best fit, memory of what is used up reused,
 * results in the place of their operands where the operation allows it) and says how large the buffer gets.
 */
#ifndef GGUF_ESTIMATE_GRAPH_H
#define GGUF_ESTIMATE_GRAPH_H

#include "gguf/gguf.h"

enum { GRAPH_NODES_MAX = 1 << 20, GRAPH_SRC_MAX = 4 };

typedef uint32_t gnode; /* 0: none */

struct graph_shape {
	uint64_t ne[4];
	uint8_t size; /* bytes of an element */
	bool strided; /* a window into something wider */
};
enum graph_kind {
	GRAPH_WEIGHT, /* lies elsewhere: a weight, the cache */
	GRAPH_INPUT,  /* filled before the graph runs */
	GRAPH_VIEW,   /* another look at its first source */
	GRAPH_NEW,    /* an operation with a place of its own */
	GRAPH_INPLACE /* one that may take the place of an operand of the same shape */
};
struct graph_node {
	struct graph_shape shape;
	gnode src[GRAPH_SRC_MAX];
	gnode root; /* of a view: whose memory it is */
	uint8_t kind;
	bool shifted; /* a view that does not begin where its root does */
	bool keep;    /* an output: never freed, nothing takes its place */
	/* While it is planned: */
	uint32_t uses, views;
	bool owned;
	uint64_t at;
};
struct graph {
	struct graph_node *nodes; /* [0] is nobody */
	size_t len, cap;
	uint64_t align;
	bool full; /* more nodes than any model has: the plan is not to be trusted */
};

void graph_init(struct graph *g, uint64_t align);
void graph_done(struct graph *g);
gnode graph_add(struct graph *g, enum graph_kind kind, struct graph_shape shape, gnode a, gnode b, gnode c);
gnode graph_view(struct graph *g, gnode of, struct graph_shape shape, bool shifted);
/* Bytes the buffer needs. */
uint64_t graph_plan(struct graph *g);

static inline struct graph_shape graph_f32(uint64_t a, uint64_t b, uint64_t c)
{
	return (struct graph_shape){ .ne = { a, b, c, 1 }, .size = 4 };
}

#endif
