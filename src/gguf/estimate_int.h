/* SPDX-License-Identifier: Apache-2.0
 *
 * Inside the estimate: what a header says of a model, layer by layer; where its tensors go; and a small model
 * of the compute graph, with a planner that finds how large its buffer gets.
 */
#ifndef GGUF_ESTIMATE_INT_H
#define GGUF_ESTIMATE_INT_H

#include "gguf/estimate.h"

/* A layer's tensors that the estimate looks at, by their name between "blk.N." and ".weight". */
enum est_tensor_id {
	T_ATTN_NORM,
	T_ATTN_NORM_2,
	T_ATTN_Q,
	T_ATTN_K,
	T_ATTN_V,
	T_ATTN_QKV,
	T_ATTN_OUTPUT,
	T_ATTN_GATE,
	T_ATTN_Q_NORM,
	T_ATTN_K_NORM,
	T_ATTN_SINKS,
	T_ATTN_SUB_NORM,
	T_ATTN_POST_NORM,
	T_ATTN_Q_A,
	T_ATTN_Q_B,
	T_ATTN_KV_A_MQA,
	T_ATTN_KV_B,
	T_ATTN_K_B,
	T_ATTN_V_B,
	T_FFN_NORM,
	T_FFN_POST_NORM,
	T_FFN_GATE,
	T_FFN_UP,
	T_FFN_DOWN,
	T_FFN_GATE_INP,
	T_FFN_EXP_PROBS,
	T_FFN_GATE_EXPS,
	T_FFN_UP_EXPS,
	T_FFN_DOWN_EXPS,
	T_FFN_GATE_UP_EXPS,
	T_FFN_GATE_INP_SHEXP,
	T_FFN_GATE_SHEXP,
	T_FFN_UP_SHEXP,
	T_FFN_DOWN_SHEXP,
	T_SSM_IN,
	T_SSM_CONV1D,
	T_SSM_X,
	T_SSM_DT,
	T_SSM_A,
	T_SSM_D,
	T_SSM_NORM,
	T_SSM_OUT,
	T_SSM_BETA_ALPHA,
	T_SHORTCONV_CONV,
	T_SHORTCONV_IN,
	T_SHORTCONV_OUT,
	T_TIME_MIX_W1,
	T_TIME_MIX_KEY,
	T_TIME_MIX_OUTPUT,
	T_CHANNEL_MIX_KEY,
	T_COUNT
};

struct est_shape {
	const struct gguf_tensor *t[T_COUNT];
	uint64_t bias;                          /* bit of an id: "….bias" is there */
	bool scale;                             /* some tensor has a ".scale" */
	uint64_t n_head, n_head_kv, key, value; /* of attention; 0: none */
	uint64_t weights, experts;              /* bytes, padded as the engine pads them */
	bool kv, mla, swa, recurrent, moe;
	bool skipped;              /* prediction layers behind the model, which are not loaded */
	uint64_t state_r, state_s; /* floats of the recurrent state of one sequence */
};

struct est_model {
	const struct estimate_files *files;
	struct view arch;
	bool known; /* an architecture the estimate was compared with */
	uint64_t n_ctx_train, n_embd, n_vocab, n_swa;
	uint64_t n_expert, n_expert_used, lora_rank, n_rot, n_rwkv_ways;
	uint64_t n_embd_in; /* of what comes in: pictures may bring rows for several layers */
	bool layer_norm;    /* with a mean, not RMS */
	size_t n_layers;
	struct est_shape *layers;
	uint64_t embedding_bytes; /* input tensors: on the host */
	uint64_t token_embd_bytes;
	uint64_t output_bytes; /* with the output norm, without a tied copy */
	uint64_t other_bytes;  /* tensors that belong to no layer and are no input or output */
	bool tied;             /* no output tensor: the token embeddings serve */
	enum estimate_class model_class;
};

/* ---- saturating arithmetic ----------------------------------------------------------------------- */

static inline uint64_t est_add(uint64_t a, uint64_t b)
{
	uint64_t x;
	return __builtin_add_overflow(a, b, &x) ? UINT64_MAX : x;
}
static inline uint64_t est_mul(uint64_t a, uint64_t b)
{
	uint64_t x;
	return __builtin_mul_overflow(a, b, &x) ? UINT64_MAX : x;
}
static inline uint64_t est_pad(uint64_t a, uint64_t to)
{
	return a > UINT64_MAX - to ? UINT64_MAX : (a + to - 1) / to * to;
}
/* Bytes of n numbers of that type, whole blocks. */
uint64_t est_row(uint32_t type, uint64_t n);

/* ---- the model (estimate_model.c, estimate_hparams.c) --------------------------------------------- */

/* Which layer a tensor belongs to: true, and *ret_rest is what follows "blk.N.". */
bool est_tensor_layer(struct view name, size_t *ret_layer, struct view *ret_rest);
bool est_tensor_is_expert(struct view name);
bool est_tensor_is_input(struct view name);
int est_model_read(const struct estimate_files *f, struct est_model *ret, struct err *reterr) MUST_CHECK;
void est_model_done(struct est_model *m);
/* The layers' attention, window, recurrence; the class. Called once the tensors are known. */
void est_hparams_read(struct est_model *m);

/* ---- the context (estimate_kv.c) ------------------------------------------------------------------ */

struct est_ctx {
	const struct estimate_args *args;
	uint64_t n_seqs, n_streams;
	uint64_t n_ctx, cells, cells_swa; /* cells of one stream */
	uint64_t n_tokens;                /* of one physical batch */
	bool flash;
	uint32_t type_k, type_v;
};
void est_ctx_init(struct est_ctx *c, const struct est_model *m, const struct estimate_args *a);
uint64_t est_kv_bytes(const struct est_ctx *c, const struct est_model *m, const struct est_shape *l);
uint64_t est_state_bytes(const struct est_ctx *c, const struct est_shape *l);

/* ---- where things go (estimate_place.c) ------------------------------------------------------------ */

/* Fills the layers, weights, kv, recurrent and the output of *ret. */
int est_place(const struct est_model *m, const struct est_ctx *c, struct estimate *ret,
	struct err *reterr) MUST_CHECK;

/* ---- the compute buffers (estimate_compute.c) ------------------------------------------------------ */

void est_compute(const struct est_model *m, const struct est_ctx *c, struct estimate *ret);

#endif
