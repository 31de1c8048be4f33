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
#include "base/fd.h"
#include "base/rnd.h"
#include "gguf/gguf.h"

static void put(struct buf *b, uint64_t x, size_t n)
{
	for (size_t i = 0; i < n; i++)
		buf_addc(b, (char)(x >> (8 * i)));
}

static void put_str(struct buf *b, const char *s)
{
	put(b, strlen(s), 8);
	buf_adds(b, s);
}

static void put_key(struct buf *b, const char *name, uint32_t type)
{
	put_str(b, name);
	put(b, type, 4);
}

static void put_key_str(struct buf *b, const char *name, const char *value)
{
	put_key(b, name, GGUF_STRING);
	put_str(b, value);
}

static void put_key_u32(struct buf *b, const char *name, uint32_t value)
{
	put_key(b, name, GGUF_U32);
	put(b, value, 4);
}

static void put_head(struct buf *b, uint32_t version, uint64_t tensors, uint64_t keys)
{
	buf_adds(b, "GGUF");
	put(b, version, 4);
	put(b, tensors, 8);
	put(b, keys, 8);
}

static void put_tensor(
	struct buf *b, const char *name, uint64_t d0, uint64_t d1, uint32_t type, uint64_t offset)
{
	put_str(b, name);
	put(b, 2, 4);
	put(b, d0, 8);
	put(b, d1, 8);
	put(b, type, 4);
	put(b, offset, 8);
}

static void put_numbers(struct buf *b)
{
	put_key(b, "t.i8", GGUF_I8), put(b, 0xff, 1);
	put_key(b, "t.u16", GGUF_U16), put(b, 65535, 2);
	put_key(b, "t.i64", GGUF_I64), put(b, 1ull << 40, 8);
	put_key(b, "t.u64", GGUF_U64), put(b, UINT64_MAX, 8);
	put_key(b, "t.f64", GGUF_F64), put(b, 0x3ff8000000000000, 8);
	put_key(b, "llama.rope.scaling.factor", GGUF_F32), put(b, 0x40800000, 4);
	put_key(b, "llama.attention.causal", GGUF_BOOL), put(b, 0, 1);
}

/* 17 keys, 2 tensors; header and tensors. */
static void put_model(struct buf *b, uint32_t version)
{
	put_head(b, version, 2, 17);
	put_key_str(b, "general.architecture", "llama");
	put_key_str(b, "general.name", "Tiny");
	put_key_u32(b, "general.file_type", 15);
	put_key_u32(b, "llama.context_length", 4096);
	put_key_u32(b, "llama.embedding_length", 64);
	put_key_u32(b, "llama.block_count", 3);
	put_key(b, "llama.attention.head_count_kv", GGUF_ARRAY);
	put(b, GGUF_I32, 4), put(b, 3, 8), put(b, 8, 4), put(b, 0, 4), put(b, 2, 4);
	put_key_u32(b, "llama.feed_forward_length", 128);
	put_key(b, "tokenizer.ggml.tokens", GGUF_ARRAY);
	put(b, GGUF_STRING, 4), put(b, 2, 8), put_str(b, "a"), put_str(b, "");
	put_key_str(b, "tokenizer.chat_template", "{{ x }}");
	put_numbers(b);
	put_tensor(b, "token_embd.weight", 64, 2, 0, 0);
	put_tensor(b, "blk.0.attn_q.weight", 256, 4, 12, 512);
	while (b->len % 32)
		buf_addc(b, 0);
	for (int i = 0; i < 512 + 576; i++)
		buf_addc(b, (char)i);
}

static int parse(const struct buf *b, struct gguf **ret, struct err *e)
{
	return gguf_parse("m.gguf", buf_view(b), b->len, ret, e);
}

static void refused(const struct buf *b, const char *words)
{
	struct gguf *g = NULL;
	struct err e = { 0 };
	int code = parse(b, &g, &e);
	if (code >= 0 || !strstr(e.msg, words))
		fail_msg("wanted \"%s\", got %d \"%s\"", words, code, e.msg);
	assert_null(g);
	assert_int_equal(code, e.code);
}

static void test_values(void **state)
{
	for (uint32_t version = 2; version <= 3; version++) {
		AUTO(buf_done) struct buf b = BUF(1 * MIB);
		AUTO(gguf_freep) struct gguf *g = NULL;
		struct gguf_array a;
		struct view v;
		uint64_t x = 7;
		double d = 0;
		bool flag = true;
		put_model(&b, version);
		assert_int_equal(parse(&b, &g, NULL), 0);
		assert_int_equal(gguf_version(g), version);
		assert_int_equal(gguf_key_count(g), 17);
		assert_false(gguf_u64(g, "t.i8", &x));
		assert_false(gguf_u64(g, "general.name", &x));
		assert_false(gguf_u64(g, "t.f64", &x));
		assert_false(gguf_u64(g, "absent", &x));
		assert_int_equal(x, 7);
		assert_true(gguf_f64(g, "t.i8", &d) && d == -1.0);
		assert_true(gguf_f64(g, "t.f64", &d) && d == 1.5);
		assert_true(gguf_u64(g, "t.u16", &x) && x == 65535);
		assert_true(gguf_u64(g, "t.i64", &x) && x == 1ull << 40);
		assert_true(gguf_u64(g, "t.u64", &x) && x == UINT64_MAX);
		assert_true(gguf_bool(g, "llama.attention.causal", &flag) && !flag);
		assert_true(gguf_str(g, "general.name", &v) && view_eqs(v, "Tiny"));
		assert_true(
			gguf_array(g, "tokenizer.ggml.tokens", &a) && a.count == 2 && a.type == GGUF_STRING);
		size_t at = 0;
		assert_true(gguf_array_next(&a, &at, &v) && view_eqs(v, "a"));
		assert_true(gguf_array_next(&a, &at, &v) && v.n == 0);
		assert_false(gguf_array_next(&a, &at, &v));
		assert_true(gguf_layer_u64(g, "attention.head_count_kv", 2, &x) && x == 2);
		assert_false(gguf_layer_u64(g, "attention.head_count_kv", 3, &x));
		assert_true(gguf_layer_u64(g, "feed_forward_length", 99, &x) && x == 128);
	}
}

static void test_tensors_and_facts(void **state)
{
	AUTO(buf_done) struct buf b = BUF(1 * MIB);
	AUTO(gguf_freep) struct gguf *g = NULL;
	struct gguf_facts f;
	put_model(&b, 3);
	assert_int_equal(parse(&b, &g, NULL), 0);
	const struct gguf_tensor *t = gguf_tensor_find(g, "blk.0.attn_q.weight");
	assert_non_null(t);
	assert_int_equal(t->elements, 1024);
	assert_int_equal(t->bytes, 576);
	assert_int_equal(t->offset + t->bytes, b.len);
	assert_int_equal(t->dims[2], 1);
	assert_null(gguf_tensor(g, 2));
	gguf_facts(g, &f);
	assert_true(view_eqs(f.architecture, "llama"));
	assert_int_equal(f.n_ctx_train, 4096);
	assert_int_equal(f.n_embd, 64);
	assert_int_equal(f.n_layer, 3);
	assert_int_equal(f.n_vocab, 2);
	assert_int_equal(f.n_params, 128 + 1024);
	assert_int_equal(f.size_bytes, 512 + 576);
	assert_string_equal(gguf_file_type_name(f.file_type), "Q4_K - Medium");
	assert_int_equal(f.pooling_type, -1);
	assert_false(f.causal);
	assert_true(f.has_chat_template);
	assert_false(f.is_projector);
	assert_true(f.rope_scaling_factor == 4.0);
	assert_int_equal(f.split_count, 1);
}

static void test_projector_and_split(void **state)
{
	AUTO(buf_done) struct buf b = BUF(1 * MIB);
	AUTO(gguf_freep) struct gguf *g = NULL;
	struct gguf_facts f;
	put_head(&b, 3, 0, 5);
	put_key_str(&b, "general.architecture", "clip");
	put_key(&b, "clip.has_vision_encoder", GGUF_BOOL), put(&b, 1, 1);
	put_key(&b, "split.no", GGUF_U16), put(&b, 1, 2);
	put_key(&b, "split.count", GGUF_U16), put(&b, 4, 2);
	put_key(&b, "split.tensors.count", GGUF_I32), put(&b, 300, 4);
	assert_int_equal(parse(&b, &g, NULL), 0);
	gguf_facts(g, &f);
	assert_true(f.is_projector && f.has_vision && !f.has_audio && f.causal);
	assert_int_equal(f.split_no, 1);
	assert_int_equal(f.split_count, 4);
	assert_int_equal(f.split_tensors, 300);
}

static void test_not_a_gguf(void **state)
{
	AUTO(buf_done) struct buf b = BUF(1 * MIB);
	refused(&b, "it is empty");
	buf_adds(&b, "<!DOCTYPE html>");
	refused(&b, "m.gguf is not a GGUF file (it begins with \"<!DOCTYP\")");
	buf_reset(&b), put_head(&b, 1, 0, 0);
	refused(&b, "is GGUF version 1; versions 2 and 3 are accepted");
	buf_reset(&b), put_head(&b, 4, 0, 0);
	refused(&b, "upgrade corral");
	buf_reset(&b), put_head(&b, 0x03000000, 0, 0);
	refused(&b, "big-endian");
	buf_reset(&b), put_head(&b, 3, 65537, 0);
	refused(&b, "claims 65537 tensors");
	buf_reset(&b), put_head(&b, 3, 0, UINT64_MAX);
	refused(&b, "at most 65536 of each");
}

static void test_damaged_keys(void **state)
{
	AUTO(buf_done) struct buf b = BUF(1 * MIB);
	put_head(&b, 3, 0, 2), put_key_u32(&b, "a", 1), put_key_u32(&b, "a", 2);
	refused(&b, "key a is there twice");
	buf_reset(&b), put_head(&b, 3, 0, 1), put_key(&b, "a", 13);
	refused(&b, "key a has the unknown value type 13");
	buf_reset(&b), put_head(&b, 3, 0, 1), put_key(&b, "a", GGUF_ARRAY), put(&b, GGUF_ARRAY, 4),
		put(&b, 1, 8);
	refused(&b, "key a is an array of arrays");
	buf_reset(&b), put_head(&b, 3, 0, 1), put_key(&b, "a", GGUF_ARRAY), put(&b, GGUF_U64, 4);
	put(&b, 1ull << 61, 8);
	refused(&b, "key a claims 2305843009213693952 elements");
	buf_reset(&b), put_head(&b, 3, 0, 1), put_key(&b, "a", GGUF_ARRAY), put(&b, GGUF_STRING, 4);
	put(&b, UINT64_MAX, 8);
	refused(&b, "is cut short: the file ends at byte 49, within key a");
	buf_reset(&b), put_head(&b, 3, 0, 1), put(&b, UINT64_MAX, 8);
	refused(&b, "the name of a key claims 18446744073709551615 bytes");
	buf_reset(&b), put_head(&b, 3, 0, 1), put_key(&b, "\x01\xff", GGUF_U8);
	refused(&b, "key ??");
	buf_reset(&b), put_head(&b, 3, 0, 1), put_key_u32(&b, "general.alignment", 24);
	refused(&b, "general.alignment must be a power of two");
}

static void one_tensor(struct buf *b, uint64_t d0, uint64_t d1, uint32_t type, uint64_t offset)
{
	buf_reset(b);
	put_head(b, 3, 1, 0);
	put_tensor(b, "w", d0, d1, type, offset);
}

static void test_damaged_tensors(void **state)
{
	AUTO(buf_done) struct buf b = BUF(1 * MIB);
	one_tensor(&b, 32, 1, 99, 0);
	refused(&b, "tensor w has type 99, which this build does not know");
	one_tensor(&b, 32, 1, 4, 0);
	refused(&b, "tensor w has type 4");
	one_tensor(&b, 33, 1, 8, 0);
	refused(&b, "a row of tensor w has 33 numbers, no multiple of Q8_0's 32");
	one_tensor(&b, 1ull << 40, 1ull << 40, 0, 0);
	refused(&b, "multiply to more than a file can hold");
	one_tensor(&b, 1ull << 62, 1, 0, 0);
	refused(&b, "multiply to more than a file can hold");
	one_tensor(&b, 32, 1, 0, 8);
	refused(&b, "tensor w lies at 8, no multiple of 32");
	one_tensor(&b, 32, 1, 0, UINT64_MAX - 31);
	refused(&b, "ends behind every file's end");
	one_tensor(&b, 32, 1, 0, 0);
	refused(&b,
		"is cut short: its header says 1 tensors, and w ends at byte 224, but the file ends at 65");
	buf_reset(&b), put_head(&b, 3, 1, 0), put_str(&b, "w"), put(&b, 5, 4);
	refused(&b, "tensor w has 5 dimensions");
}

static void test_every_cut(void **state)
{
	AUTO(buf_done) struct buf whole = BUF(1 * MIB);
	put_model(&whole, 3);
	for (size_t n = 0; n < whole.len; n++) {
		/* Its own allocation, so that the sanitizer sees a read past the end. */
		char *copy = malloc(n + !n);
		memcpy(copy, whole.data, n);
		struct gguf *g = NULL;
		struct err e = { 0 };
		assert_true(gguf_parse("m.gguf", view_of(copy, n), n, &g, &e) < 0);
		assert_true(e.msg[0]);
		/* the same of a longer file: more of its header may be asked for */
		int r = gguf_parse("m.gguf", view_of(copy, n), whole.len, &g, &e);
		assert_true(r == -ENODATA || r == 0);
		gguf_free(g);
		free(copy);
	}
}

static void test_mutations(void **state)
{
	struct rnd rnd;
	rnd_seed(&rnd, 20240229);
	AUTO(buf_done) struct buf whole = BUF(1 * MIB);
	put_model(&whole, 3);
	size_t taken = 0;
	for (int i = 0; i < 30000; i++) {
		AUTO(buf_done) struct buf b = BUF(1 * MIB);
		AUTO(gguf_freep) struct gguf *g = NULL;
		struct gguf_facts f;
		buf_addv(&b, buf_view(&whole));
		for (uint64_t k = 1 + rnd_below(&rnd, 4); k; k--)
			b.data[rnd_below(&rnd, 900)] = (char)(rnd_below(&rnd, 3) ? rnd_u64(&rnd) : 0xff);
		if (parse(&b, &g, NULL) < 0)
			continue;
		taken++;
		gguf_facts(g, &f);
		assert_true(f.size_bytes <= 2 * b.len);
	}
	assert_true(taken > 100);
}

static void test_files(void **state)
{
	AUTO(buf_done) struct buf b = BUF(8 * MIB);
	AUTO(gguf_freep) struct gguf *g = NULL;
	struct err e = { 0 };
	char path[] = "test_gguf_XXXXXX";
	int fd = mkstemp(path);
	assert_true(fd >= 0);
	/* A header larger than the first read. */
	put_head(&b, 3, 0, 2);
	put_key(&b, "long", GGUF_ARRAY), put(&b, GGUF_U8, 4), put(&b, 3 * MIB, 8);
	for (size_t i = 0; i < 3 * MIB; i++)
		buf_addc(&b, 'x');
	put_key_str(&b, "general.architecture", "llama");
	assert_int_equal(fd_write_all(fd, b.data, b.len), 0);
	assert_int_equal(gguf_open(path, &g, &e), 0);
	assert_true(gguf_has(g, "general.architecture"));
	g = gguf_free(g);
	assert_int_equal(ftruncate(fd, 2 * MIB), 0);
	assert_int_equal(gguf_open(path, &g, &e), -EBADMSG);
	assert_non_null(strstr(e.msg, "is cut short: the file ends at byte 2097152, within key long"));
	/* A hole of 1 GiB that claims to be one string. */
	assert_int_equal(ftruncate(fd, 24), 0);
	buf_reset(&b), put(&b, 1, 8), buf_addc(&b, 'k'), put(&b, GGUF_STRING, 4), put(&b, 300 * MIB, 8);
	assert_int_equal(pwrite(fd, b.data, b.len, 24), (ssize_t)b.len);
	assert_int_equal(ftruncate(fd, (off_t)GIB), 0);
	assert_int_equal(gguf_open(path, &g, &e), -EBADMSG);
	assert_int_equal(gguf_open(".", &g, &e), -EISDIR);
	unlink(path);
	close(fd);
	assert_int_equal(gguf_open(path, &g, &e), -ENOENT);
	assert_non_null(strstr(e.msg, "No such file"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_values),
		cmocka_unit_test(test_tensors_and_facts),
		cmocka_unit_test(test_projector_and_split),
		cmocka_unit_test(test_not_a_gguf),
		cmocka_unit_test(test_damaged_keys),
		cmocka_unit_test(test_damaged_tensors),
		cmocka_unit_test(test_every_cut),
		cmocka_unit_test(test_mutations),
		cmocka_unit_test(test_files),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
