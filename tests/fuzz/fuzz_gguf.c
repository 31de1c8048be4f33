/* SPDX-License-Identifier: Apache-2.0
 *
 * Bytes of a model file. What is taken must lie within the file, and every getter must hold.
 * Built with -Dfuzz=true (clang): -fsanitize=fuzzer,address,undefined.
 */
#include <stdlib.h>

#include "gguf/estimate.h"

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

/* The file as a model, as its own draft and projector, all on the host and over devices. */
static void estimates(const struct gguf *g)
{
	struct estimate_files f = { .parts = &g, .n_parts = 1 };
	struct estimate_args a;
	struct estimate est;
	struct err e = { 0 };
	estimate_args_init(&a);
	for (int i = 0; i < 2; i++) {
		if (estimate(&f, &a, &est, &e) == 0) {
			if (est.sum.total < est.sum.weights || est.n_layers > ESTIMATE_LAYERS_MAX)
				abort();
			estimate_done(&est);
		} else if (!e.msg[0]) {
			abort();
		}
		a.n_devices = 3;
		a.n_gpu_layers = 2;
		a.n_cpu_moe = 1;
		a.flash = ESTIMATE_FLASH_OFF;
		f.draft = f.mmproj = f.lora[0] = g;
		f.n_lora = 1;
	}
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
	estimates(g);
	return 0;
}
