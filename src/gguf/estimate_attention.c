/* SPDX-License-Identifier: Apache-2.0
 *
 * Attention: with or without flash attention, with whole keys and values or a latent of them.
 */
#include "gguf/estimate_build.h"

/* Q, K or V from a matrix of its own: bias, then a norm, over heads or over all. */
static gnode project(struct build *b, const struct est_shape *l, enum est_tensor_id id,
	enum est_tensor_id norm_id, gnode x)
{
	const struct gguf_tensor *w = l->t[id], *norm = norm_id < T_COUNT ? l->t[norm_id] : NULL;
	uint64_t heads = id == T_ATTN_Q ? l->n_head : l->n_head_kv;
	uint64_t head = id == T_ATTN_V ? l->value : l->key, wide = b_width(w);
	gnode y = b_bias(b, l, id, wide, b_matrix(b, w, x));
	bool whole = norm && norm->n_dims == 1 && norm->dims[0] == wide && wide != head;
	if (whole)
		y = b_norm(b, y, wide, b->t, false);
	y = b_view(b, y, head, heads, b->t);
	if (norm && !whole) {
		y = b_new(b, head, heads, b->t, y, 0);
		y = b_inplace(b, head, heads, b->t, y, b->weight);
	}
	return y;
}

/* Straight from the matrix it is not done in place: a second view of what the matrix made is about. */
static gnode rope(struct build *b, const struct est_shape *l, uint64_t heads, gnode x)
{
	enum graph_kind kind = b->g.nodes[x].kind == GRAPH_VIEW ? GRAPH_NEW : GRAPH_INPLACE;
	return graph_add(&b->g, kind, graph_f32(l->key, heads, b->t), x, b->pos, 0);
}

struct qkv {
	gnode q, k, v;
};

/* One matrix makes all three. */
static struct qkv fused(struct build *b, const struct est_shape *l, gnode x)
{
	uint64_t wide = b_width(l->t[T_ATTN_QKV]);
	gnode y = b_bias(b, l, T_ATTN_QKV, wide, b_matrix(b, l->t[T_ATTN_QKV], x));
	struct qkv r;
	gnode q = b_window(b, y, l->key, l->n_head, b->t);
	gnode k = b_window(b, y, l->key, l->n_head_kv, b->t);
	r.v = b_window(b, y, l->value, l->n_head_kv, b->t);
	r.q = b_inplace(b, l->key, l->n_head, b->t, rope(b, l, l->n_head, q), 0);
	r.k = rope(b, l, l->n_head_kv, k);
	return r;
}

static gnode make_k(struct build *b, const struct est_shape *l, gnode x)
{
	return rope(b, l, l->n_head_kv, project(b, l, T_ATTN_K, T_ATTN_K_NORM, x));
}

static struct qkv separate(struct build *b, const struct est_shape *l, gnode x)
{
	struct qkv r = { 0 };
	r.q = rope(b, l, l->n_head, project(b, l, T_ATTN_Q, T_ATTN_Q_NORM, x));
	if (b->windows && l->kv)
		r.k = make_k(b, l, x);
	if (l->kv && l->t[T_ATTN_V])
		r.v = project(b, l, T_ATTN_V, T_COUNT, x);
	if (!b->windows && l->kv)
		r.k = make_k(b, l, x);
	return r;
}

/* What the scores make of the values: [value, heads, tokens]. */
static gnode weigh(struct build *b, const struct est_shape *l, uint64_t value, gnode q)
{
	uint64_t cells = l->swa ? b->c->cells_swa : b->c->cells;
	gnode mask = b->mask[l->swa];
	gnode view = b_window(b, q, l->key, b->t, l->n_head);
	if (b->c->flash)
		return graph_add(&b->g, GRAPH_NEW, graph_f32(value, l->n_head, b->t), view, b->weight, mask);
	gnode scores = b_new(b, cells, b->t, l->n_head, b->weight, view);
	scores = b_inplace(b, cells, b->t, l->n_head, scores, mask);
	if (!l->mla)
		return b_new(b, value, b->t, l->n_head, b->weight, scores);
	struct graph_shape turned = { .ne = { est_row(b->c->type_k, value), cells, b->c->n_streams, 1 },
		.size = 1 };
	gnode values = graph_add(&b->g, GRAPH_NEW, turned, b->weight, 0, 0);
	return b_new(b, value, b->t, l->n_head, values, scores);
}

gnode b_attention(struct build *b, const struct est_shape *l, gnode x)
{
	struct qkv r = l->t[T_ATTN_QKV] ? fused(b, l, x) : separate(b, l, x);
	uint64_t k = est_mul(l->key, l->n_head_kv), v = est_mul(l->value, l->n_head_kv);
	if (r.k)
		b_store(b, b_view(b, r.k, k, b->t, 1), b->k_index[l->swa]);
	if (r.v)
		b_store(b, b_view(b, r.v, v, b->t, 1), b->v_index[l->swa]);
	gnode y = weigh(b, l, l->value, r.q);
	uint64_t wide = est_mul(l->value, l->n_head);
	return b->c->flash ? b_view(b, y, wide, b->t, 1)
			   : b_new(b, wide, b->t, 1, b_window(b, y, l->value, l->n_head, b->t), 0);
}

gnode b_mla(struct build *b, const struct est_shape *l, gnode x)
{
	uint64_t rank = b->m->lora_rank, rot = b->m->n_rot, all = est_add(rank, rot);
	uint64_t nope = l->t[T_ATTN_K_B]->dims[0], heads = l->n_head;
	uint64_t value = l->t[T_ATTN_V_B] ? l->t[T_ATTN_V_B]->dims[1] : l->value;
	gnode q = x;
	if (l->t[T_ATTN_Q_A]) {
		q = b_matrix(b, l->t[T_ATTN_Q_A], q);
		q = b_norm(b, q, b_width(l->t[T_ATTN_Q_A]), b->t, false);
	}
	q = b_matrix(b, l->t[T_ATTN_Q_A] ? l->t[T_ATTN_Q_B] : l->t[T_ATTN_Q], q);
	gnode part = b_window(b, q, nope, b->t, heads);
	gnode turn = b_window(b, q, rot, heads, b->t);
	gnode absorbed = b_new(b, rank, b->t, heads, b->weight, part);
	absorbed = b_window(b, absorbed, rank, heads, b->t);
	turn = b_inplace(b, rot, heads, b->t, turn, b->pos);
	q = b_new(b, all, heads, b->t, absorbed, turn);
	gnode latent = b_matrix(b, l->t[T_ATTN_KV_A_MQA], x);
	gnode k_rot = b_window(b, latent, rot, 1, b->t);
	gnode k = b_norm(b, b_window(b, latent, rank, b->t, 1), rank, b->t, false);
	k_rot = b_inplace(b, rot, 1, b->t, k_rot, b->pos);
	k = b_new(b, all, 1, b->t, b_view(b, k, rank, 1, b->t), k_rot);
	b_store(b, b_view(b, k, all, b->t, 1), b->k_index[l->swa]);
	gnode y = b_window(b, weigh(b, l, rank, q), rank, b->t, heads);
	y = b_new(b, value, b->t, heads, b->weight, y);
	y = b_window(b, y, value, heads, b->t);
	return b_new(b, est_mul(value, heads), b->t, 1, y, 0);
}
