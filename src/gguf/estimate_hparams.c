/* SPDX-License-Identifier: Apache-2.0
 *
 * What a layer is: its heads, its window, its state; and of which kind the model is. Tensors tell most of it;
 * the rest are keys, and habits of architectures that files leave out.
 */
#include <stdio.h>

#include "gguf/estimate_int.h"

/* Architectures whose every p-th layer sees all (or the first of p, `first`); window: when the key is
 * missing. */
static const struct swa_habit {
	const char *arch;
	uint32_t period, window;
	bool first;
} habits[] = {
	{ "gemma2", 2, 4096, false },
	{ "gemma3", 6, 0, false },
	{ "gemma3n", 5, 0, false },
	{ "gemma4", 6, 0, false },
	{ "cohere2", 4, 0, false },
	{ "gpt-oss", 2, 0, false },
	{ "llama4", 4, 8192, false },
	{ "olmo2", 4, 0, false },
	{ "exaone4", 4, 0, false },
	{ "exaone-moe", 4, 0, false },
	{ "smallthinker", 4, 4096, true },
	{ "afmoe", 4, 0, false },
};

/* Those the comparison (tests/estimate) covers. */
static const char *const known[] = { "llama", "qwen2", "qwen3", "qwen2moe", "qwen3moe", "qwen2vl", "qwen3vl",
	"qwen3vlmoe", "qwen3next", "qwen35", "qwen35moe", "gemma", "gemma2", "gemma3", "phi2", "phi3",
	"deepseek2", "gpt-oss", "granite", "granitemoe", "granitehybrid", "falcon", "falcon-h1", "mamba",
	"mamba2", "rwkv6", "rwkv7", "olmoe", "olmo2", "command-r", "cohere2", "starcoder2", "stablelm",
	"glm4", "glm4moe", "lfm2", "nemotron_h", "gptneox", "exaone4", "seed_oss", "ernie4_5", "ernie4_5-moe",
	"hunyuan-dense", "hunyuan-moe", "llama4", "smollm3", "mistral3", "internlm2", "minicpm" };

static bool arch_is(const struct est_model *m, const char *name)
{
	return view_eqs(m->arch, name);
}

static const struct gguf *head(const struct est_model *m)
{
	return m->files->parts[0];
}

static uint64_t number(const struct est_model *m, const char *suffix, uint64_t otherwise)
{
	uint64_t x = otherwise;
	gguf_arch_u64(head(m), suffix, &x);
	return x;
}

static uint64_t layer_number(const struct est_model *m, const char *suffix, size_t il, uint64_t otherwise)
{
	uint64_t x = otherwise;
	gguf_layer_u64(head(m), suffix, il, &x);
	return x;
}

static bool swa_by_period(size_t il, uint64_t period, bool first)
{
	if (period == 0)
		return true;
	return first ? il % period != 0 : il % period < period - 1;
}

/* "<arch>.attention.sliding_window_pattern": an array of flags, or a period. */
static bool pattern_of(const struct est_model *m, size_t il, bool first, bool *ret)
{
	struct gguf_array a;
	char key[128];
	uint64_t period;
	int n = snprintf(key, sizeof key, "%.*s.attention.sliding_window_pattern", VIEW_ARG(m->arch));
	if (n > 0 && (size_t)n < sizeof key && gguf_array(head(m), key, &a)) {
		if (a.type == GGUF_BOOL)
			*ret = il < a.bytes.n && a.bytes.p[il] != 0;
		else
			*ret = gguf_array_u64(&a, il, &period) && period != 0;
		return true;
	}
	if (!gguf_arch_u64(head(m), "attention.sliding_window_pattern", &period))
		return false;
	*ret = swa_by_period(il, period, first);
	return true;
}

static void read_window(struct est_model *m)
{
	const struct swa_habit *h = NULL;
	for (size_t i = 0; i < ARRAY_LEN(habits); i++)
		if (arch_is(m, habits[i].arch))
			h = &habits[i];
	if (!h && !gguf_has(head(m), "general.architecture"))
		return;
	uint64_t window = number(m, "attention.sliding_window", h ? h->window : 0);
	for (size_t il = 0; window && il < m->n_layers; il++) {
		bool swa = false;
		if (!pattern_of(m, il, h && h->first, &swa))
			swa = h && swa_by_period(il, h->period, h->first);
		m->layers[il].swa = swa;
		if (swa)
			m->n_swa = window;
	}
}

static void read_heads(const struct est_model *m, struct est_shape *l, size_t il)
{
	l->n_head = layer_number(m, "attention.head_count", il, 0);
	l->n_head_kv = layer_number(m, "attention.head_count_kv", il, l->n_head);
	uint64_t width = l->n_head ? m->n_embd / l->n_head : 0;
	l->key = number(m, "attention.key_length", width);
	l->value = number(m, "attention.value_length", width);
	if (l->swa) {
		l->key = number(m, "attention.key_length_swa", l->key);
		l->value = number(m, "attention.value_length_swa", l->value);
	}
	l->mla = l->t[T_ATTN_KV_A_MQA] && l->t[T_ATTN_K_B] && m->lora_rank;
	bool attends = l->t[T_ATTN_K] || l->t[T_ATTN_QKV] || l->t[T_ATTN_KV_A_MQA];
	l->kv = attends && l->t[T_ATTN_OUTPUT] && l->n_head_kv;
}

static void read_state(const struct est_model *m, struct est_shape *l)
{
	uint64_t inner = number(m, "ssm.inner_size", 0), state = number(m, "ssm.state_size", 0);
	uint64_t conv = number(m, "ssm.conv_kernel", 0), groups = number(m, "ssm.group_count", 0);
	l->recurrent =
		l->t[T_SSM_CONV1D] || l->t[T_SHORTCONV_CONV] || l->t[T_TIME_MIX_KEY] || l->t[T_TIME_MIX_W1];
	if (l->t[T_SHORTCONV_CONV]) {
		uint64_t cache = number(m, "shortconv.l_cache", 1);
		l->state_r = est_mul(m->n_embd, cache ? cache - 1 : 0);
	} else if (l->t[T_SSM_CONV1D]) {
		uint64_t wide = est_add(inner, est_mul(2, est_mul(groups, state)));
		l->state_r = est_mul(conv ? conv - 1 : 0, wide);
		l->state_s = est_mul(state, inner);
	} else if (l->recurrent) {
		l->state_r = est_mul(number(m, "token_shift_count", 2), m->n_embd);
		l->state_s = est_mul(number(m, "wkv.head_size", 64), m->n_embd);
	}
}

static enum estimate_class class_of(const struct est_model *m)
{
	enum estimate_class c = ESTIMATE_DENSE;
	for (size_t il = 0; il < m->n_layers; il++) {
		const struct est_shape *l = &m->layers[il];
		if (l->recurrent)
			return ESTIMATE_HYBRID;
		if (l->mla)
			c = ESTIMATE_MLA;
		else if (l->moe && c == ESTIMATE_DENSE)
			c = ESTIMATE_MOE;
	}
	return c;
}

void est_hparams_read(struct est_model *m)
{
	uint64_t shared = number(m, "attention.shared_kv_layers", 0);
	uint64_t extra = number(m, "nextn_predict_layers", 0);
	m->n_expert = number(m, "expert_count", 0);
	m->n_expert_used = number(m, "expert_used_count", 0);
	m->lora_rank = number(m, "attention.kv_lora_rank", 0);
	m->n_rot = number(m, "rope.dimension_count", 0);
	double eps;
	m->n_embd_in = est_mul(m->n_embd, est_add(1, number(m, "n_deepstack_layers", 0)));
	m->layer_norm = gguf_arch_f64(head(m), "attention.layer_norm_epsilon", &eps) &&
			!gguf_arch_f64(head(m), "attention.layer_norm_rms_epsilon", &eps);
	m->n_rwkv_ways = arch_is(m, "rwkv7") || arch_is(m, "arwkv7") ? 6 : 5;
	read_window(m);
	for (size_t il = 0; il < m->n_layers; il++) {
		struct est_shape *l = &m->layers[il];
		read_heads(m, l, il);
		read_state(m, l);
		l->moe = l->experts != 0;
		if (shared < m->n_layers && il >= m->n_layers - shared)
			l->kv = false;
		if (extra < m->n_layers && il >= m->n_layers - extra)
			l->skipped = true;
	}
	for (size_t i = 0; i < ARRAY_LEN(known); i++)
		m->known |= arch_is(m, known[i]);
	m->model_class = m->known ? class_of(m) : ESTIMATE_UNKNOWN;
}
