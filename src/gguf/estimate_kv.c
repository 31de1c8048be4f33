/* SPDX-License-Identifier: Apache-2.0
 *
 * The context: cells of the KV cache, rows of recurrent state.
 */
#include "gguf/estimate_int.h"

enum { CELLS_PAD = 256, BATCH_MAX = 1 << 20 };

uint64_t est_row(uint32_t type, uint64_t n)
{
	const struct gguf_tensor_type *t = gguf_tensor_type(type);
	if (!t)
		return est_mul(n, 4);
	uint64_t blocks = n / t->block + (n % t->block != 0);
	return est_mul(blocks, t->bytes);
}

void est_ctx_init(struct est_ctx *c, const struct est_model *m, const struct estimate_args *a)
{
	uint64_t per_slot = a->ctx ? a->ctx : m->n_ctx_train;
	uint64_t slots = MAX(a->slots, 1u);
	*c = (struct est_ctx){ .args = a, .n_seqs = slots, .type_k = a->type_k, .type_v = a->type_v };
	c->n_streams = a->unified ? 1 : slots;
	uint64_t all = est_pad(est_mul(per_slot, slots), CELLS_PAD);
	c->cells = a->unified ? all : est_pad(all / slots, CELLS_PAD);
	c->n_ctx = est_mul(c->cells, c->n_streams);
	uint64_t batch = MIN(est_mul(per_slot, slots), (uint64_t)MAX(a->n_batch, 1u)); /* not rounded up */
	uint64_t ubatch = MIN(batch, (uint64_t)(a->n_ubatch ? a->n_ubatch : batch));
	c->n_tokens = MIN(MIN(c->n_ctx, ubatch), (uint64_t)BATCH_MAX);
	uint64_t seen = est_mul(m->n_swa, a->unified ? slots : 1);
	c->cells_swa = a->swa_full ? c->cells : est_pad(MIN(c->cells, est_add(seen, ubatch)), CELLS_PAD);
	c->flash = a->flash != ESTIMATE_FLASH_OFF;
}

uint64_t est_kv_bytes(const struct est_ctx *c, const struct est_model *m, const struct est_shape *l)
{
	if (!l->kv)
		return 0;
	uint64_t cells = est_mul(l->swa ? c->cells_swa : c->cells, c->n_streams);
	if (l->mla)
		return est_mul(est_row(c->type_k, est_add(m->lora_rank, m->n_rot)), cells);
	uint64_t k = est_row(c->type_k, est_mul(l->key, l->n_head_kv));
	uint64_t v = est_row(c->type_v, est_mul(l->value, l->n_head_kv));
	return est_mul(est_add(k, v), cells);
}

uint64_t est_state_bytes(const struct est_ctx *c, const struct est_shape *l)
{
	return l->recurrent ? est_mul(est_mul(est_add(l->state_r, l->state_s), 4), c->n_seqs) : 0;
}
