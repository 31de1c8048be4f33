/* SPDX-License-Identifier: Apache-2.0
 *
 * The compute buffers: the graph of one batch, planned.
 */
#include "gguf/estimate_build.h"

enum { ALIGN = 32, ROWS_LEFT = 3 };

gnode b_new(struct build *b, uint64_t n0, uint64_t n1, uint64_t n2, gnode x, gnode y)
{
	return graph_add(&b->g, GRAPH_NEW, graph_f32(n0, n1, n2), x, y, 0);
}

gnode b_inplace(struct build *b, uint64_t n0, uint64_t n1, uint64_t n2, gnode x, gnode y)
{
	return graph_add(&b->g, GRAPH_INPLACE, graph_f32(n0, n1, n2), x, y, 0);
}

gnode b_view(struct build *b, gnode x, uint64_t n0, uint64_t n1, uint64_t n2)
{
	return graph_view(&b->g, x, graph_f32(n0, n1, n2), false);
}

gnode b_window(struct build *b, gnode x, uint64_t n0, uint64_t n1, uint64_t n2)
{
	struct graph_shape s = graph_f32(n0, n1, n2);
	s.strided = true;
	return graph_view(&b->g, x, s, true);
}

gnode b_matrix(struct build *b, const struct gguf_tensor *w, gnode x)
{
	return b_new(b, b_width(w), b->t, 1, b->weight, x);
}

gnode b_bias(struct build *b, const struct est_shape *l, enum est_tensor_id id, uint64_t width, gnode x)
{
	return l->bias >> id & 1 ? b_inplace(b, width, b->t, 1, x, b->weight) : x;
}

gnode b_norm(struct build *b, gnode x, uint64_t n0, uint64_t n1, bool with_bias)
{
	gnode y = b->layer_norm ? b_new(b, n0, n1, 1, x, 0) : b_inplace(b, n0, n1, 1, x, 0);
	y = b_inplace(b, n0, n1, 1, y, b->weight);
	return with_bias ? b_inplace(b, n0, n1, 1, y, b->weight) : y;
}

void b_store(struct build *b, gnode x, gnode index)
{
	gnode s = graph_add(&b->g, GRAPH_VIEW, b->g.nodes[x].shape, x, index, b->weight);
	b->g.nodes[s].root = b->weight;
}

static gnode input(struct build *b, uint64_t n0, uint64_t n1, uint8_t size)
{
	struct graph_shape s = { .ne = { n0, n1, 1, 1 }, .size = size };
	return graph_add(&b->g, GRAPH_INPUT, s, 0, 0, 0);
}

/* The tokens' embeddings; and two more ways in, for pictures and for pictures among text, which are always
 * laid out, and the first of which nothing uses up. */
static gnode enter(struct build *b)
{
	uint64_t wide = b->m->n_embd_in, t = b->t;
	(void)input(b, wide, t, 4);
	gnode tokens = input(b, t, 1, 4), mixed_tokens = input(b, t, 1, 4);
	gnode mixed = input(b, wide, t, 4), slots = input(b, t, 1, 8);
	gnode x = b_new(b, wide, t, 1, b->weight, tokens);
	gnode y = b_new(b, wide, t, 1, b->weight, mixed_tokens);
	gnode z = b_new(b, wide, t, 1, mixed, 0);
	gnode s = graph_add(&b->g, GRAPH_VIEW, graph_f32(wide, t, 1), y, slots, z);
	b->g.nodes[s].root = z;
	return x;
}

/* On a device the embeddings arrive from the host. */
static gnode arrive(struct build *b)
{
	gnode x = input(b, b->m->n_embd, b->t, 4);
	b->g.nodes[x].keep = true;
	return x;
}

static void inputs(struct build *b, const struct est_shape *widest)
{
	const struct est_ctx *c = b->c;
	bool any[2] = { false, false };
	for (size_t il = 0; il < b->m->n_layers; il++)
		if (b->m->layers[il].kv)
			any[b->m->layers[il].swa] = true;
	b->windows = any[1];
	b->pos = input(b, b->t, 1, 4);
	uint64_t values = c->flash ? 1 : MAX(est_mul(widest->value, widest->n_head_kv), (uint64_t)1);
	for (int i = 0; i < 2; i++) {
		if (!any[i])
			continue;
		b->k_index[i] = input(b, b->t, 1, 8);
		b->v_index[i] = input(b, b->t, values, 8);
		b->mask[i] = input(b, i ? c->cells_swa : c->cells, b->t, c->flash ? 2 : 4);
	}
	b->copy = input(b, c->n_seqs, 1, 4);
	b->ids = input(b, b->t, 1, 4);
}

static gnode rows_wanted(struct build *b, gnode x)
{
	return b_new(b, b->m->n_embd, b->t, 1, x, b->ids);
}

static gnode mix_tokens(struct build *b, const struct est_shape *l, gnode x)
{
	uint64_t embd = b->m->n_embd;
	gnode y = 0, s = 0;
	if (l->recurrent)
		s = b_recurrent(b, l, x);
	if (l->kv || l->t[T_ATTN_OUTPUT]) {
		y = l->mla ? b_mla(b, l, x) : b_attention(b, l, x);
		y = b_bias(b, l, T_ATTN_OUTPUT, embd, b_matrix(b, l->t[T_ATTN_OUTPUT], y));
	}
	return y && s ? b_inplace(b, embd, b->t, 1, y, s) : y ? y : s;
}

/* Attention and feed-forward side by side, from one norm. */
static gnode beside(struct build *b, const struct est_shape *l, gnode x, bool last)
{
	uint64_t embd = b->m->n_embd;
	gnode n = b_norm(b, x, embd, b->t, l->bias >> T_ATTN_NORM & 1);
	gnode y = mix_tokens(b, l, n);
	if (last) {
		y = rows_wanted(b, y);
		x = rows_wanted(b, x);
		n = rows_wanted(b, n);
	}
	gnode f = b_feed_forward(b, l, n);
	y = b_inplace(b, embd, b->t, 1, y, f);
	return b_inplace(b, embd, b->t, 1, y, x);
}

static gnode normed(struct build *b, const struct est_shape *l, enum est_tensor_id id, gnode x)
{
	return l->t[id] ? b_norm(b, x, b->m->n_embd, b->t, l->bias >> id & 1) : x;
}

static gnode one_after_other(struct build *b, const struct est_shape *l, gnode x, bool last)
{
	uint64_t embd = b->m->n_embd;
	/* Of some architectures the norm after the attention is the one before what follows. */
	bool after = l->t[T_ATTN_POST_NORM] && (l->t[T_FFN_NORM] || l->t[T_FFN_POST_NORM]);
	gnode y = normed(b, l, T_ATTN_NORM, x);
	if (!l->recurrent && !l->kv && !l->t[T_ATTN_OUTPUT]) /* a layer that is feed-forward alone */
		return b_inplace(b, embd, b->t, 1, b_feed_forward(b, l, y), x);
	y = mix_tokens(b, l, y);
	if (last) {
		y = rows_wanted(b, y);
		x = rows_wanted(b, x);
	}
	if (after)
		y = normed(b, l, T_ATTN_POST_NORM, y);
	x = b_inplace(b, embd, b->t, 1, y, x);
	if (!l->t[T_FFN_DOWN] && !l->t[T_FFN_DOWN_EXPS])
		return x;
	gnode f = normed(b, l, after || l->t[T_FFN_NORM] ? T_FFN_NORM : T_ATTN_POST_NORM, x);
	f = normed(b, l, T_FFN_POST_NORM, b_feed_forward(b, l, f));
	return b_inplace(b, embd, b->t, 1, f, x);
}

static gnode layer(struct build *b, const struct est_shape *l, gnode x, bool last)
{
	if (b_is_rwkv(l))
		return b_rwkv(b, l, x, last);
	bool no_second_norm = !l->t[T_FFN_NORM] && !l->t[T_ATTN_POST_NORM] && l->t[T_FFN_DOWN];
	return no_second_norm && l->t[T_ATTN_OUTPUT] ? beside(b, l, x, last) : one_after_other(b, l, x, last);
}

static void leave(struct build *b, gnode x, bool on_device)
{
	uint64_t embd = b->m->n_embd;
	/* A device's order leaves more behind when the logits come; this many were measured. */
	for (int i = 0; on_device && i < ROWS_LEFT; i++)
		b->g.nodes[b_new(b, embd, b->t, 1, x, 0)].keep = true;
	x = b_norm(b, x, embd, b->t, false);
	b->g.nodes[x].keep = true;
	x = b_new(b, b->m->n_vocab, b->t, 1, b->weight, x);
	b->g.nodes[x].keep = true;
}

static uint64_t v_width(const struct est_shape *l)
{
	return est_mul(l->n_head_kv, l->value);
}

static uint64_t graph_bytes(const struct est_model *m, const struct est_ctx *c, bool on_device)
{
	struct build b = { .m = m, .c = c, .t = c->n_tokens, .layer_norm = m->layer_norm };
	const struct est_shape *widest = NULL;
	size_t last = m->n_layers;
	for (size_t il = 0; il < m->n_layers; il++) {
		if (!widest || v_width(&m->layers[il]) > v_width(widest))
			widest = &m->layers[il];
		if (!m->layers[il].skipped)
			last = il;
	}
	if (last == m->n_layers)
		return 0;
	graph_init(&b.g, ALIGN);
	b.weight = graph_add(&b.g, GRAPH_WEIGHT, graph_f32(1, 1, 1), 0, 0, 0);
	gnode x = on_device ? arrive(&b) : enter(&b);
	inputs(&b, widest);
	for (size_t il = 0; il <= last; il++)
		x = layer(&b, &m->layers[il], x, il == last);
	leave(&b, x, on_device);
	uint64_t bytes = graph_plan(&b.g);
	graph_done(&b.g);
	return bytes;
}

/* What is not on the devices and still computed there: it visits the first one, the largest matrix or one
 * layer's cache. */
static uint64_t visitors(const struct est_model *m, const struct estimate *e)
{
	uint64_t most = 0;
	for (size_t il = 0; il < m->n_layers; il++) {
		bool away = e->layers[il].device < 0;
		if (away)
			most = MAX(most, e->layers[il].kv);
		for (size_t i = 0; i < T_COUNT; i++)
			if (m->layers[il].t[i] && (away || m->layers[il].t[i]->n_dims > 2))
				most = MAX(most, m->layers[il].t[i]->bytes);
	}
	return most;
}

/* Several devices work on several batches at a time, and hold what comes in four times. */
enum { COPIES = 4, FIRST_ROWS = 11, OTHER_ROWS = 6, HOST_ROWS = 4, HOST_ROWS_SPLIT = 10 };

static void compute_devices(const struct est_model *m, const struct est_ctx *c, struct estimate *e)
{
	uint64_t rows = est_mul(est_mul(m->n_embd, c->n_tokens), 4), cells = c->cells;
	if (m->n_swa)
		cells = est_add(cells, c->cells_swa);
	uint64_t mask = est_mul(est_mul(cells, c->n_tokens), c->flash ? 2 : 4);
	size_t used = 0;
	bool away = c->args->kv_on_host || c->args->n_cpu_moe || c->args->overrides.len;
	for (size_t i = 0; i < e->n_devices; i++)
		used += e->device[i].weights != 0;
	for (size_t il = 0; il < m->n_layers; il++)
		away |= e->layers[il].device < 0;
	bool split = used > 1 && !away;
	uint64_t copies = est_mul(COPIES - 1, mask);
	e->device_compute = graph_bytes(m, c, true);
	e->split_compute = est_add(e->device_compute, est_add(copies, est_mul(FIRST_ROWS, rows)));
	for (size_t i = 0; i < e->n_devices; i++)
		if (e->device[i].weights || (i == 0 && away))
			e->device[i].compute = e->device_compute;
	for (size_t i = 0; split && i < e->n_devices; i++)
		if (e->device[i].compute)
			e->device[i].compute = est_add(e->device_compute,
				est_add(copies, est_mul(i ? OTHER_ROWS : FIRST_ROWS, rows)));
	if (away)
		e->device[0].compute = est_add(e->device[0].compute, visitors(m, e));
	e->host.compute = est_add(
		est_mul(split ? COPIES : 1, mask), est_mul(split ? HOST_ROWS_SPLIT : HOST_ROWS, rows));
}

void est_compute(const struct est_model *m, const struct est_ctx *c, struct estimate *ret)
{
	if (ret->n_devices)
		compute_devices(m, c, ret);
	else
		ret->host.compute = graph_bytes(m, c, false);
	ret->host.output = est_mul(est_mul(m->n_vocab, c->n_seqs), 4);
}
