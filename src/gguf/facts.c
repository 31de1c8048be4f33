/* SPDX-License-Identifier: Apache-2.0 */
#include "gguf/gguf_int.h"

/* -1 where a file leaves it out, or has what fits no int64_t. */
static int64_t signed_or_none(bool found, const uint64_t *x)
{
	return found && *x <= INT64_MAX ? (int64_t)*x : -1;
}

/* Sums that a hostile file could overflow stay at the largest number. */
static uint64_t add(uint64_t a, uint64_t b)
{
	uint64_t sum;
	return __builtin_add_overflow(a, b, &sum) ? UINT64_MAX : sum;
}

static void facts_attention(const struct gguf *g, struct gguf_facts *f)
{
	f->causal = true;
	gguf_arch_bool(g, "attention.causal", &f->causal);
	gguf_arch_str(g, "rope.scaling.type", &f->rope_scaling);
	gguf_arch_f64(g, "rope.scaling.factor", &f->rope_scaling_factor);
	gguf_arch_u64(g, "rope.scaling.original_context_length", &f->rope_n_ctx_orig);
}

static void facts_projector(const struct gguf *g, struct gguf_facts *f)
{
	struct view type = { 0 };
	gguf_str(g, "general.type", &type);
	f->is_projector = view_eqs(type, "mmproj") || view_eqs(f->architecture, "clip");
	gguf_bool(g, "clip.has_vision_encoder", &f->has_vision);
	gguf_bool(g, "clip.has_audio_encoder", &f->has_audio);
}

static void facts_tensors(const struct gguf *g, struct gguf_facts *f)
{
	for (size_t i = 0; i < g->n_tensors; i++) {
		f->n_params = add(f->n_params, g->tensors[i].elements);
		f->size_bytes = add(f->size_bytes, g->tensors[i].bytes);
	}
}

void gguf_facts(const struct gguf *g, struct gguf_facts *ret)
{
	struct gguf_facts f = { .split_count = 1 };
	struct gguf_array tokens;
	uint64_t x = 0;
	gguf_str(g, "general.architecture", &f.architecture);
	gguf_str(g, "general.name", &f.name);
	gguf_arch_u64(g, "context_length", &f.n_ctx_train);
	gguf_arch_u64(g, "embedding_length", &f.n_embd);
	gguf_arch_u64(g, "block_count", &f.n_layer);
	if (gguf_array(g, "tokenizer.ggml.tokens", &tokens))
		f.n_vocab = tokens.count;
	else
		gguf_arch_u64(g, "vocab_size", &f.n_vocab);
	f.file_type = signed_or_none(gguf_u64(g, "general.file_type", &x), &x);
	f.pooling_type = signed_or_none(gguf_arch_u64(g, "pooling_type", &x), &x);
	f.has_chat_template = gguf_has(g, "tokenizer.chat_template");
	facts_attention(g, &f);
	facts_projector(g, &f);
	facts_tensors(g, &f);
	gguf_u64(g, "split.no", &f.split_no);
	if (!gguf_u64(g, "split.count", &f.split_count) || f.split_count == 0)
		f.split_count = 1;
	gguf_u64(g, "split.tensors.count", &f.split_tensors);
	*ret = f;
}
