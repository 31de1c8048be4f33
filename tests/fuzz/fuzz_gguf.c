/* SPDX-License-Identifier: Apache-2.0
 *
 * Bytes of a model file. What is taken must lie within the file, and every getter must hold.
 * Built with -Dfuzz=true (clang): -fsanitize=fuzzer,address,undefined.
 */
#include <stdlib.h>

#include "gguf/gguf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void walk(const struct gguf *g, const char *key)
{
	struct gguf_array a;
	struct view v;
	uint64_t x, sum = 0;
	double d;
	bool flag;
	gguf_u64(g, key, &x);
	gguf_f64(g, key, &d);
	gguf_bool(g, key, &flag);
	gguf_str(g, key, &v);
	if (!gguf_array(g, key, &a))
		return;
	for (size_t at = 0; gguf_array_next(&a, &at, &v);)
		for (size_t i = 0; i < v.n; i++)
			sum += (unsigned char)v.p[i];
	for (uint64_t i = 0; a.type != GGUF_STRING && i < a.count; i++)
		if (gguf_array_u64(&a, i, &x) && gguf_array_f64(&a, i, &d))
			sum += x;
	if (sum == 0x5ca1ab1e0ddba11)
		abort(); /* keeps the reads alive */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	static const char *const keys[] = { "general.architecture", "general.name", "general.file_type", "a",
		"tokenizer.ggml.tokens", "tokenizer.ggml.scores", "llama.attention.head_count_kv",
		"split.count" };
	AUTO(gguf_freep) struct gguf *g = NULL;
	struct gguf_facts f;
	struct err e = { 0 };
	uint64_t x;
	if (gguf_parse("fuzz", view_of(data, n), n, &g, &e) < 0) {
		if (!e.msg[0] || e.code >= 0)
			abort();
		return 0;
	}
	gguf_facts(g, &f);
	for (size_t i = 0; i < gguf_tensor_count(g); i++)
		if (gguf_tensor(g, i)->offset + gguf_tensor(g, i)->bytes > n)
			abort();
	for (size_t i = 0; i < ARRAY_LEN(keys); i++)
		walk(g, keys[i]);
	gguf_layer_u64(g, "attention.head_count_kv", f.n_layer, &x);
	return 0;
}
