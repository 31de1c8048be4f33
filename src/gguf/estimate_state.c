/* SPDX-License-Identifier: Apache-2.0
 *
 * Layers with a state that is carried from token to token.
 */
#include "gguf/estimate_build.h"

/* The rows of a state, one a sequence, taken out of the cache. */
static gnode rows(struct build *b, uint64_t floats)
{
	return b_new(b, floats, b->c->n_seqs, 1, b->weight, b->copy);
}

/* The last inputs before these, so that a convolution reaches back. */
static gnode convolved(struct build *b, const struct est_shape *l, uint64_t wide, gnode x)
{
	gnode state = rows(b, l->state_r);
	const struct gguf_tensor *w = l->t[T_SSM_CONV1D] ? l->t[T_SSM_CONV1D] : l->t[T_SHORTCONV_CONV];
	uint64_t back = est_mul(w->dims[0] ? w->dims[0] - 1 : 0, b->c->n_seqs);
	gnode y = b_new(b, est_add(b->t, back), wide, 1, state, x);
	b_store(b, b_window(b, y, back, wide, 1), 0);
	return b_new(b, wide, b->t, 1, y, b->weight);
}

static gnode short_convolution(struct build *b, const struct est_shape *l, gnode x)
{
	uint64_t embd = b->m->n_embd;
	gnode in = b_matrix(b, l->t[T_SHORTCONV_IN], x);
	gnode p = b_window(b, in, embd, b->t, 1), q = b_window(b, in, embd, b->t, 1);
	gnode r = b_window(b, in, embd, b->t, 1);
	gnode y = convolved(b, l, embd, b_window(b, b_inplace(b, embd, b->t, 1, p, q), b->t, embd, 1));
	return b_matrix(b, l->t[T_SHORTCONV_OUT], b_inplace(b, embd, b->t, 1, r, y));
}

/* The scan's result: what comes out, and behind it the new states. */
static gnode scan(struct build *b, const struct est_shape *l, uint64_t inner, gnode x, gnode dt, gnode bc)
{
	uint64_t states = est_mul(l->state_s, b->c->n_seqs);
	struct graph_shape s = graph_f32(est_add(est_mul(inner, b->t), states), 1, 1);
	return graph_add(&b->g, GRAPH_NEW, s, x, dt, bc);
}

static gnode finish(struct build *b, const struct est_shape *l, uint64_t inner, gnode in, gnode x, gnode y)
{
	gnode out = b_view(b, y, inner, b->t, 1), gate;
	b_store(b, b_window(b, y, l->state_s, b->c->n_seqs, 1), 0);
	gate = b_new(b, inner, b->t, 1, b_window(b, in, inner, b->t, 1), 0);
	out = b_inplace(b, inner, b->t, 1, out, b_inplace(b, inner, b->t, 1, x, b->weight));
	out = b_new(b, inner, b->t, 1, gate, out);
	if (l->t[T_SSM_NORM])
		out = b_norm(b, out, inner, b->t, false);
	return b_matrix(b, l->t[T_SSM_OUT], out);
}

/* Of the first kind: the steps' sizes come from the input, through two matrices. */
static gnode mamba(struct build *b, const struct est_shape *l, gnode x)
{
	uint64_t inner = l->t[T_SSM_CONV1D]->dims[1], rank = l->t[T_SSM_DT]->dims[0];
	gnode in = b_matrix(b, l->t[T_SSM_IN], x);
	gnode y = convolved(b, l, inner, b_window(b, in, b->t, inner, 1));
	y = b_inplace(b, inner, b->t, 1, b_bias(b, l, T_SSM_CONV1D, inner, y), 0);
	gnode bc = b_matrix(b, l->t[T_SSM_X], y);
	gnode dt = b_new(b, rank, b->t, 1, b_window(b, bc, rank, b->t, 1), 0);
	dt = b_bias(b, l, T_SSM_DT, inner, b_matrix(b, l->t[T_SSM_DT], dt));
	gnode both = b_window(b, bc, b_width(l->t[T_SSM_X]), b->t, 1);
	gnode s = scan(b, l, inner, b_view(b, y, inner, b->t, 1), dt, both);
	return finish(b, l, inner, in, y, s);
}

/* Of the second: all comes from one matrix, state by heads. */
static gnode mamba2(struct build *b, const struct est_shape *l, gnode x)
{
	uint64_t wide = l->t[T_SSM_CONV1D]->dims[1], inner = l->t[T_SSM_OUT]->dims[0];
	uint64_t heads = l->t[T_SSM_A] ? b_width(l->t[T_SSM_A]) : 1;
	gnode in = b_matrix(b, l->t[T_SSM_IN], x);
	gnode y = convolved(b, l, wide, b_window(b, in, b->t, wide, 1));
	y = b_inplace(b, wide, b->t, 1, b_bias(b, l, T_SSM_CONV1D, wide, y), 0);
	gnode dt = b_new(b, heads, b->t, 1, b_window(b, in, heads, b->t, 1), 0);
	dt = b_inplace(b, heads, b->t, 1, dt, b->weight);
	gnode part = b_window(b, y, inner, b->t, 1);
	gnode s = scan(b, l, inner, part, dt, b_window(b, y, wide - MIN(inner, wide), b->t, 1));
	return finish(b, l, inner, in, part, s);
}

gnode b_recurrent(struct build *b, const struct est_shape *l, gnode x)
{
	if (l->t[T_SHORTCONV_CONV])
		return l->t[T_SHORTCONV_IN] && l->t[T_SHORTCONV_OUT] ? short_convolution(b, l, x) : x;
	if (!l->t[T_SSM_IN] || !l->t[T_SSM_OUT] || !l->t[T_SSM_CONV1D])
		return x;
	bool first = l->t[T_SSM_X] && l->t[T_SSM_DT];
	return first ? mamba(b, l, x) : mamba2(b, l, x);
}

bool b_is_rwkv(const struct est_shape *l)
{
	return l->recurrent && l->t[T_CHANNEL_MIX_KEY];
}

/* A token beside the one before it, `ways` mixes of the two. */
static gnode mixes(struct build *b, uint64_t ways, gnode x, gnode before)
{
	uint64_t embd = b->m->n_embd;
	gnode y = b_new(b, embd, b->t, 1, before, b_window(b, x, embd, b->t, 1));
	y = b_inplace(b, embd, b->t, 1, y, x);
	if (ways == 1)
		return b_inplace(b, embd, b->t, 1, b_inplace(b, embd, b->t, 1, y, b->weight), x);
	y = b_new(b, embd, b->t, ways, y, 0);
	y = b_inplace(b, embd, b->t, ways, y, b->weight);
	return b_inplace(b, embd, b->t, ways, y, x);
}

gnode b_rwkv(struct build *b, const struct est_shape *l, gnode x, bool last)
{
	uint64_t embd = b->m->n_embd, t = b->t,
		 ways = l->t[T_TIME_MIX_W1] && b->m->n_rwkv_ways ? b->m->n_rwkv_ways : 5;
	gnode shift = rows(b, l->state_r), state = rows(b, l->state_s);
	gnode normed = b_norm(b, x, embd, t, true);
	gnode mixed = mixes(b, ways, normed, b_window(b, shift, embd, b->c->n_seqs, 1));
	gnode part[6];
	for (int i = 0; i < 6; i++)
		part[i] = b_matrix(b, l->t[T_TIME_MIX_KEY], b_window(b, mixed, embd, t, 1));
	gnode decay = b_inplace(b, embd, t, 1, part[5], b->weight);
	gnode a = b_new(b, embd, t, 1, part[4], part[3]);
	uint64_t size = est_add(est_mul(embd, t), est_mul(l->state_s, b->c->n_seqs));
	gnode both = b_new(b, embd, t, 1, decay, a);
	gnode y = graph_add(&b->g, GRAPH_NEW, graph_f32(size, 1, 1), part[0], part[1], part[2]);
	b->g.nodes[y].src[3] = both;
	b_store(b, b_window(b, y, l->state_s, 1, 1), 0);
	gnode out = b_new(b, embd, t, 1, b_view(b, y, embd, t, 1), state);
	out = b_inplace(b, embd, t, 1, b_matrix(b, l->t[T_TIME_MIX_OUTPUT], out), x);
	gnode normed2 = b_norm(b, out, embd, t, true);
	gnode mix2 = mixes(b, 1, normed2, b_window(b, shift, embd, b->c->n_seqs, 1));
	gnode k = b_inplace(
		b, b_width(l->t[T_CHANNEL_MIX_KEY]), t, 1, b_matrix(b, l->t[T_CHANNEL_MIX_KEY], mix2), 0);
	gnode r = last ? b_new(b, embd, t, 1, normed, b->ids) : 0;
	return b_inplace(b, embd, t, 1, b_new(b, embd, t, 1, k, r), out);
}
