/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/buf.h"
#include "gguf/estimate.h"

enum { F32 = 0, F16 = 1, Q8_0 = 8, U32 = 4, WEIGHT = 0, N_KEYS_MAX = 32 };

/* A header in the making: keys and tensors apart, for their number stands before them. */
struct model {
	struct buf keys, tensors;
	uint64_t n_keys, n_tensors, offset;
};

static void put(struct buf *b, uint64_t x, size_t n)
{
	for (size_t i = 0; i < n; i++)
		(void)buf_addc(b, (char)(x >> (8 * i)));
}

static void put_str(struct buf *b, const char *s)
{
	put(b, strlen(s), 8);
	(void)buf_adds(b, s);
}

static struct model model_new(const char *arch)
{
	struct model m = { .keys = BUF(1 * MIB), .tensors = BUF(1 * MIB) };
	put_str(&m.keys, "general.architecture");
	put(&m.keys, GGUF_STRING, 4);
	put_str(&m.keys, arch);
	m.n_keys = 1;
	return m;
}

static void key(struct model *m, const char *name, uint64_t value)
{
	put_str(&m->keys, name);
	put(&m->keys, value > UINT32_MAX ? GGUF_U64 : U32, 4);
	put(&m->keys, value, value > UINT32_MAX ? 8 : 4);
	m->n_keys++;
}

static void tensor(struct model *m, const char *name, uint64_t d0, uint64_t d1, uint32_t type)
{
	const struct gguf_tensor_type *t = gguf_tensor_type(type);
	put_str(&m->tensors, name);
	put(&m->tensors, 2, 4);
	put(&m->tensors, d0, 8);
	put(&m->tensors, d1, 8);
	put(&m->tensors, type, 4);
	put(&m->tensors, m->offset, 8);
	m->offset += (d0 * d1 / t->block * t->bytes + 31) / 32 * 32;
	m->n_tensors++;
}

static void layer_tensor(
	struct model *m, size_t il, const char *stem, uint64_t d0, uint64_t d1, uint32_t type)
{
	char name[96];
	(void)snprintf(name, sizeof name, "blk.%zu.%s", il, stem);
	tensor(m, name, d0, d1, type);
}

static void model_bytes(struct model *m, struct buf *b)
{
	(void)buf_adds(b, "GGUF");
	put(b, 3, 4);
	put(b, m->n_tensors, 8);
	put(b, m->n_keys, 8);
	(void)buf_add(b, m->keys.data, m->keys.len);
	if (m->tensors.len)
		(void)buf_add(b, m->tensors.data, m->tensors.len);
	while (b->len % 32)
		(void)buf_addc(b, 0);
}

static struct gguf *model_gguf(struct model *m)
{
	AUTO(buf_done) struct buf b = BUF(4 * MIB);
	struct gguf *g = NULL;
	struct err e = { 0 };
	model_bytes(m, &b);
	if (gguf_parse("m", buf_view(&b), b.len + m->offset, &g, &e) < 0)
		fail_msg("%s", e.msg);
	buf_done(&m->keys);
	buf_done(&m->tensors);
	return g;
}

enum { EMBD = 256, FF = 512, VOCAB = 1024, HEADS = 4, KV_HEADS = 2 };

/* Four layers, half as many KV heads, as many as fit each other. */
static struct gguf *llama(uint64_t layers, bool tied)
{
	struct model m = model_new("llama");
	key(&m, "llama.block_count", layers);
	key(&m, "llama.embedding_length", EMBD);
	key(&m, "llama.context_length", 8192);
	key(&m, "llama.attention.head_count", HEADS);
	key(&m, "llama.attention.head_count_kv", KV_HEADS);
	tensor(&m, "token_embd.weight", EMBD, VOCAB, F16);
	for (size_t i = 0; i < layers; i++) {
		layer_tensor(&m, i, "attn_norm.weight", EMBD, 1, F32);
		layer_tensor(&m, i, "attn_q.weight", EMBD, EMBD, F16);
		layer_tensor(&m, i, "attn_k.weight", EMBD, EMBD / 2, F16);
		layer_tensor(&m, i, "attn_v.weight", EMBD, EMBD / 2, F16);
		layer_tensor(&m, i, "attn_output.weight", EMBD, EMBD, F16);
		layer_tensor(&m, i, "ffn_norm.weight", EMBD, 1, F32);
		layer_tensor(&m, i, "ffn_gate.weight", EMBD, FF, F16);
		layer_tensor(&m, i, "ffn_up.weight", EMBD, FF, F16);
		layer_tensor(&m, i, "ffn_down.weight", FF, EMBD, F16);
	}
	tensor(&m, "output_norm.weight", EMBD, 1, F32);
	if (!tied)
		tensor(&m, "output.weight", EMBD, VOCAB, F16);
	return model_gguf(&m);
}
enum {
	LAYER = 2 * (2 * EMBD * EMBD + EMBD * EMBD + 3 * EMBD * FF) + 2 * 4 * EMBD,
	EMBEDDING = 2 * EMBD * VOCAB,
	OUTPUT = EMBEDDING + 4 * EMBD,
};

static struct estimate run(const struct gguf *g, const struct estimate_args *a)
{
	struct estimate_files f = { .parts = &g, .n_parts = 1 };
	struct estimate e;
	struct err err = { 0 };
	if (estimate(&f, a, &e, &err) < 0)
		fail_msg("%s", err.msg);
	return e;
}

static void test_all_on_the_host(void **state)
{
	(void)state;
	AUTO(gguf_freep) struct gguf *g = llama(4, false);
	struct estimate_args a;
	estimate_args_init(&a);
	a.ctx = 1000;
	a.slots = 2;
	struct estimate e = run(g, &a);
	assert_int_equal(e.ctx, 1024);
	assert_int_equal(e.slots, 2);
	assert_int_equal(e.model_class, ESTIMATE_DENSE);
	assert_int_equal(e.sum.weights, 4 * LAYER + EMBEDDING + OUTPUT);
	assert_int_equal(e.host_mapped, e.host.weights);
	/* K and V of 2 heads of 64, 2 bytes, 1024 cells, 2 slots */
	assert_int_equal(e.layers[3].kv, 2 * 2 * 64 * 2 * 1024 * 2);
	assert_int_equal(e.sum.kv, 4 * e.layers[3].kv);
	assert_int_equal(e.sum.output, VOCAB * 4 * 2);
	assert_true(e.sum.compute > 0);
	assert_int_equal(e.sum.total,
		e.sum.weights + e.sum.kv + e.sum.recurrent + e.sum.compute + e.sum.output + e.sum.overhead);
	assert_int_equal(e.layers[0].device, -1);
	assert_string_equal(e.note, "");
	estimate_done(&e);
}

static void test_quantised_cache_and_one_pool(void **state)
{
	(void)state;
	AUTO(gguf_freep) struct gguf *g = llama(1, false);
	struct estimate_args a;
	estimate_args_init(&a);
	a.ctx = 512;
	a.slots = 3;
	a.unified = true;
	a.type_k = Q8_0;
	a.type_v = Q8_0;
	struct estimate e = run(g, &a);
	assert_int_equal(e.sum.kv, 2 * (128 / 32 * 34) * 1536);
	a.flash = ESTIMATE_FLASH_OFF;
	estimate_done(&e);
	e = run(g, &a);
	assert_non_null(strstr(e.note, "flash attention"));
	estimate_done(&e);
}

/* The output counts as the first layer on a device; what is left of the count are the last layers. */
static void test_some_layers_on_two_devices(void **state)
{
	(void)state;
	AUTO(gguf_freep) struct gguf *g = llama(4, true);
	struct estimate_args a;
	estimate_args_init(&a);
	a.ctx = 256;
	a.n_devices = 2;
	a.n_gpu_layers = 4;
	a.split[0] = 3;
	a.split[1] = 1;
	struct estimate e = run(g, &a);
	assert_int_equal(e.layers[0].device, -1);
	assert_int_equal(e.layers[1].device, 0);
	assert_int_equal(e.layers[3].device, 0);
	assert_int_equal(e.device[0].weights, 3 * LAYER);
	assert_int_equal(e.device[1].weights, OUTPUT); /* the embeddings once more */
	assert_int_equal(e.host.weights, LAYER + EMBEDDING);
	assert_int_equal(e.output_bytes, OUTPUT);
	assert_int_equal(e.host.kv, e.layers[0].kv);
	assert_int_equal(e.device[0].kv, 3 * e.layers[0].kv);
	assert_true(e.device[0].overhead > 0);
	estimate_done(&e);
}

static struct gguf *moe(void)
{
	struct model m = model_new("llama");
	key(&m, "llama.block_count", 3);
	key(&m, "llama.embedding_length", EMBD);
	key(&m, "llama.expert_count", 8);
	key(&m, "llama.expert_used_count", 2);
	for (size_t i = 0; i < 3; i++) {
		layer_tensor(&m, i, "attn_norm.weight", EMBD, 1, F32);
		layer_tensor(&m, i, "ffn_gate_inp.weight", EMBD, 8, F32);
		layer_tensor(&m, i, "ffn_gate_exps.weight", EMBD, FF * 8, F16);
		layer_tensor(&m, i, "ffn_up_exps.weight", EMBD, FF * 8, F16);
		layer_tensor(&m, i, "ffn_down_exps.weight", FF, EMBD * 8, F16);
	}
	return model_gguf(&m);
}
enum { EXPERTS = 3 * 2 * 8 * EMBD * FF, MOE_REST = 4 * EMBD + 4 * 8 * EMBD };

static void test_experts_stay_on_the_host(void **state)
{
	(void)state;
	AUTO(gguf_freep) struct gguf *g = moe();
	struct estimate_args a;
	estimate_args_init(&a);
	a.n_devices = 1;
	a.n_cpu_moe = 2;
	struct estimate e = run(g, &a);
	assert_int_equal(e.model_class, ESTIMATE_MOE);
	assert_int_equal(e.layers[0].experts, EXPERTS);
	assert_int_equal(e.layers[0].weights, EXPERTS + MOE_REST);
	assert_int_equal(e.host.weights, 2 * EXPERTS);
	assert_int_equal(e.device[0].weights, EXPERTS + 3 * MOE_REST);
	estimate_done(&e);
	a.n_cpu_moe = 0;
	strv_add(&a.overrides, "blk\\.1\\.ffn_(up|down)_exps=CPU");
	e = run(g, &a);
	assert_int_equal(e.host.weights, EXPERTS / 3 * 2);
	estimate_done(&e);
	estimate_args_done(&a);
}

static void test_args(void **state)
{
	(void)state;
	static const char *const argv[] = { "-m", "x.gguf", "-c", "8192", "--parallel", "4", "-ctk", "q8_0",
		"--cache-type-v=q4_0", "-ub", "2048", "-fa", "off", "-ngl", "20", "-ts", "3,1", "-ot",
		"a=CPU,b=CUDA1", "--n-cpu-moe", "7", "--swa-full", "--kv-unified", "--cache_ram=512",
		"--mmproj", "p.gguf", "--no-mmap", "-md", "d.gguf", "--unknown", "9", "--lora", "l.gguf" };
	struct estimate_args a;
	struct err e = { 0 };
	estimate_args_init(&a);
	assert_int_equal(estimate_args_read(&a, argv, ARRAY_LEN(argv), &e), 0);
	assert_int_equal(a.ctx, 2048);
	assert_int_equal(a.slots, 4);
	assert_int_equal(a.type_k, Q8_0);
	assert_int_equal(a.type_v, 2);
	assert_int_equal(a.n_ubatch, 2048);
	assert_int_equal(a.flash, ESTIMATE_FLASH_OFF);
	assert_int_equal(a.n_gpu_layers, 20);
	assert_true(a.split[0] > 2.9 && a.split[1] < 1.1);
	assert_int_equal(a.overrides.len, 2);
	assert_int_equal(a.n_cpu_moe, 7);
	assert_true(a.swa_full && a.unified && !a.mapped);
	assert_int_equal(a.host_cache, 512 * MIB);
	assert_string_equal(a.mmproj, "p.gguf");
	assert_string_equal(a.draft, "d.gguf");
	assert_int_equal(a.lora.len, 1);
	estimate_args_done(&a);
}

static void args_fail(const char *first, const char *second, const char *words)
{
	const char *argv[2] = { first, second };
	struct estimate_args a;
	struct err e = { 0 };
	estimate_args_init(&a);
	assert_int_equal(estimate_args_read(&a, argv, second ? 2 : 1, &e), -EINVAL);
	if (!strstr(e.msg, words))
		fail_msg("\"%s\" has no \"%s\"", e.msg, words);
	estimate_args_done(&a);
}

static void test_args_that_are_none(void **state)
{
	(void)state;
	args_fail("-c", NULL, "missing");
	args_fail("-c", "many", "a whole number");
	args_fail("-ctk", "q9", "q8_0");
	args_fail("-fa", "maybe", "auto");
	args_fail("-ts", "1,,2", "commas");
}

/* Numbers no file has: the sums stay at the largest number and nothing is allocated by them. */
static void test_hostile_numbers(void **state)
{
	(void)state;
	static const char *const keys[] = { "llama.context_length", "llama.embedding_length",
		"llama.attention.head_count", "llama.attention.head_count_kv", "llama.attention.key_length",
		"llama.attention.sliding_window", "llama.expert_count", "llama.expert_used_count",
		"llama.ssm.inner_size", "llama.ssm.state_size", "llama.ssm.conv_kernel",
		"llama.ssm.group_count", "llama.attention.kv_lora_rank", "llama.rope.dimension_count" };
	static const char *const stems[] = { "attn_q.weight", "attn_k.weight", "attn_output.weight",
		"attn_kv_a_mqa.weight", "attn_k_b.weight", "ssm_conv1d.weight", "ffn_up_exps.weight" };
	struct model m = model_new("llama");
	key(&m, "llama.block_count", 1);
	for (size_t i = 0; i < ARRAY_LEN(keys); i++)
		key(&m, keys[i], UINT64_MAX);
	for (size_t i = 0; i < ARRAY_LEN(stems); i++)
		layer_tensor(&m, 0, stems[i], 32, 1, F32);
	AUTO(gguf_freep) struct gguf *g = model_gguf(&m);
	struct estimate_args a;
	estimate_args_init(&a);
	a.n_devices = 3;
	a.slots = UINT32_MAX;
	struct estimate e = run(g, &a);
	assert_true(e.sum.total == UINT64_MAX);
	estimate_done(&e);
}

static void test_no_layers_and_too_many(void **state)
{
	(void)state;
	AUTO(gguf_freep) struct gguf *g = llama(0, true);
	struct estimate_args a;
	struct err err = { 0 };
	estimate_args_init(&a);
	a.n_devices = 1;
	struct estimate e = run(g, &a);
	assert_int_equal(e.n_layers, 0);
	assert_int_equal(e.sum.kv, 0);
	estimate_done(&e);
	struct model m = model_new("llama");
	key(&m, "llama.block_count", 1ull << 40);
	AUTO(gguf_freep) struct gguf *many = model_gguf(&m);
	struct estimate_files f = { .parts = (const struct gguf *const *)&many, .n_parts = 1 };
	assert_int_equal(estimate(&f, &a, &e, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "layers"));
}

static void test_nothing_at_all(void **state)
{
	(void)state;
	struct model m = model_new("");
	AUTO(gguf_freep) struct gguf *g = model_gguf(&m);
	struct estimate_args a;
	estimate_args_init(&a);
	struct estimate e = run(g, &a);
	assert_int_equal(e.model_class, ESTIMATE_UNKNOWN);
	assert_non_null(strstr(e.note, "not known"));
	estimate_done(&e);
}

static struct gguf *projector(void)
{
	struct model m = model_new("clip");
	key(&m, "clip.vision.embedding_length", 64);
	key(&m, "clip.vision.feed_forward_length", 128);
	key(&m, "clip.vision.image_size", 224);
	key(&m, "clip.vision.patch_size", 14);
	key(&m, "clip.vision.attention.head_count", 4);
	tensor(&m, "v.patch_embd.weight", 64, 64, F16);
	return model_gguf(&m);
}

/* A draft model, a projector and an adapter lie where the model does; each is told by itself. */
static void test_companions(void **state)
{
	(void)state;
	AUTO(gguf_freep) struct gguf *g = llama(4, false);
	AUTO(gguf_freep) struct gguf *draft = llama(1, false);
	AUTO(gguf_freep) struct gguf *eye = projector();
	struct estimate_files f = { .parts = (const struct gguf *const *)&g, .n_parts = 1 };
	struct estimate_args a;
	struct estimate e;
	struct err err = { 0 };
	estimate_args_init(&a);
	a.ctx = 1024;
	a.n_devices = 1;
	struct estimate alone = run(g, &a);
	f.draft = draft;
	f.mmproj = eye;
	f.lora[0] = eye;
	f.n_lora = 1;
	assert_int_equal(estimate(&f, &a, &e, &err), 0);
	assert_true(e.draft > LAYER && e.projector > 64 * 64 * 2);
	assert_int_equal(e.adapters, 64 * 64 * 2);
	assert_int_equal(e.device[0].overhead, alone.device[0].overhead);
	assert_int_equal(e.sum.total, alone.sum.total + e.draft + e.projector + e.adapters);
	assert_int_equal(e.device[0].kv, alone.device[0].kv / 4 * 5);
	estimate_done(&e);
	estimate_done(&alone);
}

/* What is computed on a device and lies on the host visits it; several devices hold more than one. */
static void test_compute_of_devices(void **state)
{
	(void)state;
	AUTO(gguf_freep) struct gguf *g = llama(8, false);
	struct estimate_args a;
	estimate_args_init(&a);
	a.ctx = 4096;
	a.n_devices = 1;
	struct estimate one = run(g, &a);
	a.n_gpu_layers = 3;
	struct estimate some = run(g, &a);
	a.n_gpu_layers = ESTIMATE_ALL;
	a.n_devices = 2;
	struct estimate two = run(g, &a);
	assert_int_equal(one.device[0].compute, one.device_compute);
	assert_true(some.device[0].compute > one.device[0].compute);
	assert_int_equal(two.device[0].compute, two.split_compute);
	assert_true(two.device[1].compute > one.device[0].compute);
	assert_true(two.host.compute > one.host.compute);
	estimate_done(&one);
	estimate_done(&some);
	estimate_done(&two);
}

static void write_part(const char *folder, unsigned no, unsigned count)
{
	AUTO(buf_done) struct buf b = BUF(4 * MIB);
	char path[128];
	struct model m = model_new("llama");
	key(&m, "split.no", no);
	key(&m, "split.count", count);
	key(&m, "llama.block_count", 2);
	layer_tensor(&m, no, "attn_q.weight", 32, 4, F16);
	model_bytes(&m, &b);
	(void)snprintf(path, sizeof path, "%s/m-%05u-of-%05u.gguf", folder, no + 1, count);
	FILE *file = fopen(path, "w");
	assert_non_null(file);
	assert_int_equal(fwrite(b.data, 1, b.len, file), b.len);
	assert_int_equal(fclose(file), 0);
	assert_int_equal(truncate(path, (off_t)(b.len + m.offset)), 0);
	buf_done(&m.keys);
	buf_done(&m.tensors);
}

static void test_a_model_in_parts(void **state)
{
	(void)state;
	char folder[] = "/tmp/estimate-XXXXXX", path[128];
	struct gguf_set set = { 0 };
	struct estimate_args a;
	struct estimate e;
	struct err err = { 0 };
	assert_non_null(mkdtemp(folder));
	write_part(folder, 0, 2);
	(void)snprintf(path, sizeof path, "%s/m-00001-of-00002.gguf", folder);
	assert_true(gguf_set_open(path, &set, &err) < 0);
	assert_non_null(strstr(err.msg, "m-00002-of-00002.gguf"));
	write_part(folder, 1, 2);
	assert_int_equal(gguf_set_open(path, &set, &err), 0);
	struct estimate_files f = { .parts = set.items, .n_parts = set.len };
	estimate_args_init(&a);
	assert_int_equal(estimate(&f, &a, &e, &err), 0);
	assert_int_equal(e.sum.weights, 2 * 256);
	assert_int_equal(e.layers[1].weights, 256);
	estimate_done(&e);
	gguf_set_done(&set);
	assert_int_equal(unlink(path), 0);
	(void)snprintf(path, sizeof path, "%s/m-00002-of-00002.gguf", folder);
	assert_true(gguf_set_open(path, &set, &err) < 0);
	assert_non_null(strstr(err.msg, "name the first"));
	assert_int_equal(unlink(path), 0);
	assert_int_equal(rmdir(folder), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_all_on_the_host),
		cmocka_unit_test(test_quantised_cache_and_one_pool),
		cmocka_unit_test(test_some_layers_on_two_devices),
		cmocka_unit_test(test_experts_stay_on_the_host),
		cmocka_unit_test(test_args),
		cmocka_unit_test(test_args_that_are_none),
		cmocka_unit_test(test_hostile_numbers),
		cmocka_unit_test(test_no_layers_and_too_many),
		cmocka_unit_test(test_nothing_at_all),
		cmocka_unit_test(test_companions),
		cmocka_unit_test(test_compute_of_devices),
		cmocka_unit_test(test_a_model_in_parts),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
