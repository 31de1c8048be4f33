/* SPDX-License-Identifier: Apache-2.0
 *
 * Inside the estimate: how a model's graph is put together, in the order an engine would compute it. What a
 * layer does is told by the tensors it has, and by habits of its architecture.
 */
#ifndef GGUF_ESTIMATE_BUILD_H
#define GGUF_ESTIMATE_BUILD_H

#include "gguf/estimate_graph.h"
#include "gguf/estimate_int.h"

struct build {
	struct graph g;
	const struct est_model *m;
	const struct est_ctx *c;
	uint64_t t;                            /* tokens of a batch */
	gnode weight;                          /* stands for all weights and caches */
	gnode pos, ids, copy;                  /* inputs: positions, rows of the output, rows of states */
	gnode mask[2], k_index[2], v_index[2]; /* of the whole context, of the window */
	bool layer_norm, parallel, post_norm_only, windows, norm_kept;
};

/* Nodes of f32 numbers. */
gnode b_new(struct build *b, uint64_t n0, uint64_t n1, uint64_t n2, gnode x, gnode y);
gnode b_inplace(struct build *b, uint64_t n0, uint64_t n1, uint64_t n2, gnode x, gnode y);
gnode b_view(
	struct build *b, gnode x, uint64_t n0, uint64_t n1, uint64_t n2); /* all of it, in another shape */
gnode b_window(struct build *b, gnode x, uint64_t n0, uint64_t n1, uint64_t n2); /* a part of each row */
/* Onto each row what a matrix makes of it. */
gnode b_matrix(struct build *b, const struct gguf_tensor *w, gnode x);
gnode b_bias(struct build *b, const struct est_shape *l, enum est_tensor_id id, uint64_t width, gnode x);
gnode b_norm(struct build *b, gnode x, uint64_t n0, uint64_t n1, bool with_bias);
void b_store(struct build *b, gnode x, gnode index); /* rows into the cache */

gnode b_attention(struct build *b, const struct est_shape *l, gnode x);
gnode b_mla(struct build *b, const struct est_shape *l, gnode x);
gnode b_feed_forward(struct build *b, const struct est_shape *l, gnode x);
gnode b_recurrent(struct build *b, const struct est_shape *l, gnode x);
bool b_is_rwkv(const struct est_shape *l);
/* A whole layer of a model that shifts tokens: x and what comes out. */
gnode b_rwkv(struct build *b, const struct est_shape *l, gnode x, bool last);

static inline uint64_t b_width(const struct gguf_tensor *w)
{
	return w ? w->dims[1] : 0;
}

#endif
