/* SPDX-License-Identifier: Apache-2.0
 *
 * The tensor table, sorted into layers.
 */
#include "base/mem.h"
#include "base/num.h"
#include "gguf/estimate_int.h"

enum { TENSOR_ALIGN = 32 };

static const char *const names[T_COUNT] = {
	[T_ATTN_NORM] = "attn_norm",
	[T_ATTN_NORM_2] = "attn_norm_2",
	[T_ATTN_Q] = "attn_q",
	[T_ATTN_K] = "attn_k",
	[T_ATTN_V] = "attn_v",
	[T_ATTN_QKV] = "attn_qkv",
	[T_ATTN_OUTPUT] = "attn_output",
	[T_ATTN_GATE] = "attn_gate",
	[T_ATTN_Q_NORM] = "attn_q_norm",
	[T_ATTN_K_NORM] = "attn_k_norm",
	[T_ATTN_SINKS] = "attn_sinks",
	[T_ATTN_SUB_NORM] = "attn_sub_norm",
	[T_ATTN_POST_NORM] = "post_attention_norm",
	[T_ATTN_Q_A] = "attn_q_a",
	[T_ATTN_Q_B] = "attn_q_b",
	[T_ATTN_KV_A_MQA] = "attn_kv_a_mqa",
	[T_ATTN_KV_B] = "attn_kv_b",
	[T_ATTN_K_B] = "attn_k_b",
	[T_ATTN_V_B] = "attn_v_b",
	[T_FFN_NORM] = "ffn_norm",
	[T_FFN_POST_NORM] = "post_ffw_norm",
	[T_FFN_GATE] = "ffn_gate",
	[T_FFN_UP] = "ffn_up",
	[T_FFN_DOWN] = "ffn_down",
	[T_FFN_GATE_INP] = "ffn_gate_inp",
	[T_FFN_EXP_PROBS] = "exp_probs_b",
	[T_FFN_GATE_EXPS] = "ffn_gate_exps",
	[T_FFN_UP_EXPS] = "ffn_up_exps",
	[T_FFN_DOWN_EXPS] = "ffn_down_exps",
	[T_FFN_GATE_UP_EXPS] = "ffn_gate_up_exps",
	[T_FFN_GATE_INP_SHEXP] = "ffn_gate_inp_shexp",
	[T_FFN_GATE_SHEXP] = "ffn_gate_shexp",
	[T_FFN_UP_SHEXP] = "ffn_up_shexp",
	[T_FFN_DOWN_SHEXP] = "ffn_down_shexp",
	[T_SSM_IN] = "ssm_in",
	[T_SSM_CONV1D] = "ssm_conv1d",
	[T_SSM_X] = "ssm_x",
	[T_SSM_DT] = "ssm_dt",
	[T_SSM_A] = "ssm_a",
	[T_SSM_D] = "ssm_d",
	[T_SSM_NORM] = "ssm_norm",
	[T_SSM_OUT] = "ssm_out",
	[T_SSM_BETA_ALPHA] = "ssm_ba",
	[T_SHORTCONV_CONV] = "shortconv.conv",
	[T_SHORTCONV_IN] = "shortconv.in_proj",
	[T_SHORTCONV_OUT] = "shortconv.out_proj",
	[T_TIME_MIX_W1] = "time_mix_w1",
	[T_TIME_MIX_KEY] = "time_mix_key",
	[T_TIME_MIX_OUTPUT] = "time_mix_output",
	[T_CHANNEL_MIX_KEY] = "channel_mix_key",
};

bool est_tensor_layer(struct view name, size_t *ret_layer, struct view *ret_rest)
{
	struct view rest;
	uint64_t n;
	if (!view_starts(name, VIEW("blk.")))
		return false;
	struct view number = view_split(view_from(name, 4), '.', &rest);
	if (number.n > 6 || num_u64(number, &n) || n >= ESTIMATE_LAYERS_MAX)
		return false;
	*ret_layer = (size_t)n;
	*ret_rest = rest;
	return true;
}

bool est_tensor_is_expert(struct view name)
{
	return view_search(name, VIEW("exps.")) >= 0;
}

bool est_tensor_is_input(struct view name)
{
	static const char *const inputs[] = { "token_embd", "token_types", "position_embd",
		"per_layer_token_embd" };
	for (size_t i = 0; i < ARRAY_LEN(inputs); i++)
		if (view_starts(name, view_str(inputs[i])))
			return true;
	return false;
}

static int id_of(struct view name)
{
	for (size_t i = 0; i < T_COUNT; i++)
		if (view_eqs(name, names[i]))
			return (int)i;
	return -1;
}

static void add_to_layer(struct est_shape *l, const struct gguf_tensor *t, struct view rest)
{
	uint64_t bytes = est_pad(t->bytes, TENSOR_ALIGN);
	struct view stem = rest;
	bool bias = view_ends(rest, VIEW(".bias"));
	l->weights = est_add(l->weights, bytes);
	if (est_tensor_is_expert(t->name))
		l->experts = est_add(l->experts, bytes);
	l->scale |= view_ends(rest, VIEW(".scale"));
	if (bias || view_ends(rest, VIEW(".weight")))
		stem.n -= bias ? 5 : 7;
	int id = id_of(stem);
	if (id < 0)
		return;
	if (bias)
		l->bias |= 1ull << id;
	else
		l->t[id] = t;
}

static void add_global(struct est_model *m, const struct gguf_tensor *t)
{
	uint64_t bytes = est_pad(t->bytes, TENSOR_ALIGN);
	if (view_eqs(t->name, "token_embd.weight")) {
		m->token_embd_bytes = bytes;
		if (t->n_dims > 1)
			m->n_vocab = t->dims[1];
	}
	if (est_tensor_is_input(t->name))
		m->embedding_bytes = est_add(m->embedding_bytes, bytes);
	else if (view_starts(t->name, VIEW("output")) || view_starts(t->name, VIEW("cls")))
		m->output_bytes = est_add(m->output_bytes, bytes);
	else
		m->other_bytes = est_add(m->other_bytes, bytes);
	if (view_eqs(t->name, "output.weight"))
		m->tied = false;
}

static void add_part(struct est_model *m, const struct gguf *g)
{
	for (size_t i = 0; i < gguf_tensor_count(g); i++) {
		const struct gguf_tensor *t = gguf_tensor(g, i);
		struct view rest;
		size_t layer;
		if (est_tensor_layer(t->name, &layer, &rest) && layer < m->n_layers)
			add_to_layer(&m->layers[layer], t, rest);
		else
			add_global(m, t);
	}
}

/* The layers the file says it has, or that it has tensors of. */
static int count_layers(struct est_model *m, uint64_t said, struct err *reterr)
{
	struct view rest;
	size_t layer, n = 0;
	if (said > ESTIMATE_LAYERS_MAX)
		return err_set(reterr, -EINVAL,
			"the model says it has %llu layers; no engine takes more than %d",
			(unsigned long long)said, ESTIMATE_LAYERS_MAX);
	for (size_t i = 0; said == 0 && i < m->files->n_parts; i++)
		for (size_t k = 0; k < gguf_tensor_count(m->files->parts[i]); k++)
			if (est_tensor_layer(gguf_tensor(m->files->parts[i], k)->name, &layer, &rest))
				n = MAX(n, layer + 1);
	m->n_layers = MAX(n, (size_t)said);
	m->layers = mem_alloc(MAX(m->n_layers, (size_t)1) * sizeof *m->layers);
	return 0;
}

int est_model_read(const struct estimate_files *f, struct est_model *ret, struct err *reterr)
{
	struct est_model m = { .files = f, .tied = true };
	struct gguf_facts facts;
	if (f->n_parts == 0 || f->n_parts > ESTIMATE_PARTS_MAX)
		return err_set(reterr, -EINVAL, "found %zu parts of a model; 1 to %d are accepted",
			f->n_parts, ESTIMATE_PARTS_MAX);
	gguf_facts(f->parts[0], &facts);
	if (facts.is_projector)
		return err_set(
			reterr, -EINVAL, "this is a projector (mmproj), no model by itself; name the model");
	m.arch = facts.architecture;
	m.n_ctx_train = facts.n_ctx_train;
	m.n_embd = facts.n_embd;
	int r = count_layers(&m, facts.n_layer, reterr);
	if (r < 0)
		return r;
	for (size_t i = 0; i < f->n_parts; i++)
		add_part(&m, f->parts[i]);
	if (!m.n_vocab)
		m.n_vocab = facts.n_vocab;
	est_hparams_read(&m);
	*ret = m;
	return 0;
}

void est_model_done(struct est_model *m)
{
	free(m->layers);
	m->layers = NULL;
}
