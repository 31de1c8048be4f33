/* SPDX-License-Identifier: Apache-2.0
 *
 * The compute buffers: of a device that has layers, and of the host.
 */
#include "gguf/estimate_int.h"

static uint64_t layer_peak(const struct est_model *m, const struct est_ctx *c, const struct est_shape *l)
{
	uint64_t q = est_mul(l->key, l->n_head), t = c->n_tokens;
	uint64_t rows = est_add(est_mul(3, m->n_embd), est_mul(2, q));
	uint64_t attention = est_mul(est_mul(t, rows), 4);
	if (!c->flash)
		attention = est_add(attention, est_mul(est_mul(c->cells, t), est_mul(l->n_head, 4)));
	uint64_t ff = l->t[T_FFN_UP] ? l->t[T_FFN_UP]->dims[1] : 0;
	if (l->t[T_FFN_UP_EXPS])
		ff = MAX(ff, est_mul(m->n_expert_used, l->t[T_FFN_UP_EXPS]->dims[1]));
	uint64_t feed = est_mul(est_mul(t, est_add(est_mul(3, ff), est_mul(2, m->n_embd))), 4);
	return MAX(attention, feed);
}

void est_compute(const struct est_model *m, const struct est_ctx *c, struct estimate *ret)
{
	uint64_t mask = est_mul(est_mul(c->cells, c->n_tokens), 2), peak = 0;
	for (size_t il = 0; il < m->n_layers; il++)
		peak = MAX(peak, layer_peak(m, c, &m->layers[il]));
	uint64_t logits = est_mul(est_mul(m->n_vocab, c->n_tokens), 4);
	ret->device_compute = est_add(mask, MAX(peak, logits));
	for (size_t i = 0; i < ret->n_devices; i++)
		if (ret->device[i].weights)
			ret->device[i].compute = ret->device_compute;
	ret->host.compute = ret->n_devices ? est_add(mask, est_mul(est_mul(m->n_embd, c->n_tokens), 8))
					   : ret->device_compute;
	ret->host.output = est_mul(est_mul(m->n_vocab, c->n_seqs), 4);
}
