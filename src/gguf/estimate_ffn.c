/* SPDX-License-Identifier: Apache-2.0
 *
 * The feed-forward part: one net, or experts of which each token takes some, or both.
 */
#include "gguf/estimate_build.h"

struct net {
	enum est_tensor_id gate, up, down;
};

static gnode net_of(struct build *b, const struct est_shape *l, const struct net *n, gnode x)
{
	const struct gguf_tensor *gate = l->t[n->gate], *up = l->t[n->up], *down = l->t[n->down];
	if (!up || !down)
		return x;
	uint64_t wide = b_width(up), ff = down->dims[0];
	gnode y;
	if (gate) {
		gnode g = b_bias(b, l, n->gate, wide, b_matrix(b, gate, x));
		gnode u = b_bias(b, l, n->up, wide, b_matrix(b, up, x));
		y = b_new(b, wide, b->t, 1, g, u);
	} else {
		gnode u = b_bias(b, l, n->up, wide, b_matrix(b, up, x));
		y = ff < wide ? b_new(b, ff, b->t, 1, u, 0) : b_inplace(b, wide, b->t, 1, u, 0);
	}
	return b_bias(b, l, n->down, b_width(down), b_matrix(b, down, y));
}

/* [width of what w makes, experts a token takes, tokens] */
static gnode by_experts(
	struct build *b, const struct est_shape *l, enum est_tensor_id id, gnode x, gnode chosen)
{
	uint64_t wide = b_width(l->t[id]), used = b->m->n_expert_used;
	gnode y = b_new(b, wide, used, b->t, x, chosen);
	return l->bias >> id & 1 ? b_inplace(b, wide, used, b->t, y, chosen) : y;
}

struct choice {
	gnode which, weights;
};

static struct choice choose(struct build *b, const struct est_shape *l, gnode x)
{
	uint64_t n = b->m->n_expert, used = b->m->n_expert_used, t = b->t;
	gnode probs = b_bias(b, l, T_FFN_GATE_INP, n, b_new(b, n, t, 1, b->weight, x));
	bool late = l->bias >> T_FFN_GATE_INP & 1; /* the chosen ones are weighed afterwards */
	if (!late)
		probs = b_inplace(b, n, t, 1, probs, 0);
	gnode wide = b_view(b, probs, 1, n, t);
	gnode score = l->bias >> T_FFN_EXP_PROBS & 1 ? b_inplace(b, n, t, 1, probs, b->weight) : probs;
	gnode order = b_new(b, n, t, 1, score, 0);
	struct choice c = { .which = b_window(b, order, used, t, 1) };
	c.weights = b_new(b, 1, used, t, wide, c.which);
	if (late) {
		c.weights = b_inplace(b, used, t, 1, b_view(b, c.weights, used, t, 1), 0);
	} else {
		gnode flat = b_view(b, c.weights, used, t, 1);
		gnode sum = b_inplace(b, 1, t, 1, b_new(b, 1, t, 1, flat, 0), 0);
		c.weights = b_inplace(b, used, t, 1, flat, sum);
	}
	c.weights = b_view(b, c.weights, 1, used, t);
	return c;
}

static gnode experts(struct build *b, const struct est_shape *l, gnode x)
{
	uint64_t used = b->m->n_expert_used, t = b->t, embd = b->m->n_embd;
	struct choice c = choose(b, l, x);
	gnode in = b_view(b, x, embd, 1, t), y;
	if (l->t[T_FFN_GATE_UP_EXPS]) {
		gnode both = by_experts(b, l, T_FFN_GATE_UP_EXPS, in, c.which);
		uint64_t ff = b_width(l->t[T_FFN_GATE_UP_EXPS]) / 2;
		gnode gate = b_window(b, both, ff, used, t);
		y = b_new(b, ff, used, t, gate, b_window(b, both, ff, used, t));
	} else {
		uint64_t ff = b_width(l->t[T_FFN_UP_EXPS]);
		gnode gate = l->t[T_FFN_GATE_EXPS] ? by_experts(b, l, T_FFN_GATE_EXPS, in, c.which) : 0;
		gnode up = by_experts(b, l, T_FFN_UP_EXPS, in, c.which);
		y = gate ? b_new(b, ff, used, t, gate, up) : b_inplace(b, ff, used, t, up, 0);
	}
	y = by_experts(b, l, T_FFN_DOWN_EXPS, y, c.which);
	y = b_inplace(b, embd, used, t, y, c.weights);
	/* Their sum, one after the other. */
	uint64_t n = MIN(used, 256u);
	gnode part[256] = { 0 };
	for (uint64_t i = 0; i < n; i++)
		part[i] = b_window(b, y, embd, t, 1);
	if (n < 2)
		return b_new(b, embd, t, 1, part[0], 0);
	gnode sum = part[0];
	for (uint64_t i = 1; i < n; i++)
		sum = b_inplace(b, embd, t, 1, sum, part[i]);
	return sum;
}

gnode b_feed_forward(struct build *b, const struct est_shape *l, gnode x)
{
	static const struct net plain = { T_FFN_GATE, T_FFN_UP, T_FFN_DOWN };
	static const struct net shared = { T_FFN_GATE_SHEXP, T_FFN_UP_SHEXP, T_FFN_DOWN_SHEXP };
	uint64_t embd = b->m->n_embd;
	bool has = l->t[T_FFN_DOWN_EXPS] && (l->t[T_FFN_UP_EXPS] || l->t[T_FFN_GATE_UP_EXPS]);
	if (!has)
		return net_of(b, l, &plain, x);
	gnode y = experts(b, l, x);
	if (!l->t[T_FFN_UP_SHEXP])
		return y;
	gnode s = net_of(b, l, &shared, x);
	if (l->t[T_FFN_GATE_INP_SHEXP]) {
		gnode gate = b_new(b, 1, b->t, 1, b->weight, x);
		s = b_inplace(b, embd, b->t, 1, s, b_inplace(b, 1, b->t, 1, gate, 0));
	}
	return b_inplace(b, embd, b->t, 1, y, s);
}
