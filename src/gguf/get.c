/* SPDX-License-Identifier: Apache-2.0
 *
 * Values by key. All were checked when the header was read.
 */
#include <stdio.h>

#include "gguf/gguf_int.h"

enum { KEY_MAX = 256 }; /* of the names we ask for */

const struct gguf_key *gguf_key_find(const struct gguf *g, struct view name)
{
	size_t low = 0, high = g->n_keys;
	while (low < high) {
		size_t mid = low + (high - low) / 2;
		const struct gguf_key *k = &g->keys[mid];
		int c = view_cmp(view_of(g->data + k->name_at, k->name_n), name);
		if (c == 0)
			return k;
		if (c < 0)
			low = mid + 1;
		else
			high = mid;
	}
	return NULL;
}

static bool number_u64(enum gguf_value_type type, const char *p, uint64_t *ret)
{
	size_t n = gguf_value_size(type);
	bool is_signed = type == GGUF_I8 || type == GGUF_I16 || type == GGUF_I32 || type == GGUF_I64;
	if (n == 0 || type == GGUF_F32 || type == GGUF_F64 || type == GGUF_BOOL)
		return false;
	uint64_t x = gguf_le(p, n);
	if (is_signed && x >> (8 * n - 1))
		return false;
	*ret = x;
	return true;
}

static bool number_f64(enum gguf_value_type type, const char *p, double *ret)
{
	uint64_t x = gguf_le(p, gguf_value_size(type));
	uint32_t low = (uint32_t)x;
	float f;
	switch (type) {
	case GGUF_F32:
		memcpy(&f, &low, sizeof f);
		*ret = (double)f;
		return true;
	case GGUF_F64: memcpy(ret, &x, sizeof x); return true;
	case GGUF_I8: *ret = (double)(int8_t)x; return true;
	case GGUF_I16: *ret = (double)(int16_t)x; return true;
	case GGUF_I32: *ret = (double)(int32_t)x; return true;
	case GGUF_I64: *ret = (double)(int64_t)x; return true;
	case GGUF_U8:
	case GGUF_U16:
	case GGUF_U32:
	case GGUF_U64: *ret = (double)x; return true;
	case GGUF_BOOL:
	case GGUF_STRING:
	case GGUF_ARRAY:
	case GGUF_VALUE_TYPE_COUNT: break;
	}
	return false;
}

bool gguf_has(const struct gguf *g, const char *key)
{
	return gguf_key_find(g, view_str(key)) != NULL;
}

bool gguf_u64(const struct gguf *g, const char *key, uint64_t *ret)
{
	const struct gguf_key *k = gguf_key_find(g, view_str(key));
	return k && number_u64(k->type, g->data + k->at, ret);
}

bool gguf_f64(const struct gguf *g, const char *key, double *ret)
{
	const struct gguf_key *k = gguf_key_find(g, view_str(key));
	return k && number_f64(k->type, g->data + k->at, ret);
}

bool gguf_bool(const struct gguf *g, const char *key, bool *ret)
{
	const struct gguf_key *k = gguf_key_find(g, view_str(key));
	if (!k || k->type != GGUF_BOOL)
		return false;
	*ret = g->data[k->at] != 0;
	return true;
}

bool gguf_str(const struct gguf *g, const char *key, struct view *ret)
{
	const struct gguf_key *k = gguf_key_find(g, view_str(key));
	if (!k || k->type != GGUF_STRING)
		return false;
	*ret = view_of(g->data + k->at, k->n);
	return true;
}

bool gguf_array(const struct gguf *g, const char *key, struct gguf_array *ret)
{
	const struct gguf_key *k = gguf_key_find(g, view_str(key));
	if (!k || k->type != GGUF_ARRAY)
		return false;
	*ret = (struct gguf_array){ k->element, k->count, view_of(g->data + k->at, k->n) };
	return true;
}

bool gguf_array_u64(const struct gguf_array *a, uint64_t i, uint64_t *ret)
{
	size_t n = gguf_value_size(a->type);
	return n && i < a->count && number_u64(a->type, a->bytes.p + i * n, ret);
}

bool gguf_array_f64(const struct gguf_array *a, uint64_t i, double *ret)
{
	size_t n = gguf_value_size(a->type);
	return n && i < a->count && number_f64(a->type, a->bytes.p + i * n, ret);
}

bool gguf_array_next(const struct gguf_array *a, size_t *at, struct view *ret)
{
	if (a->type != GGUF_STRING || *at + 8 > a->bytes.n)
		return false;
	uint64_t n = gguf_le(a->bytes.p + *at, 8);
	*ret = view_of(a->bytes.p + *at + 8, n);
	*at += 8 + n;
	return true;
}

/* "<architecture>.<suffix>"; false when there is no architecture or it is absurdly long. */
static bool arch_key(const struct gguf *g, const char *suffix, char out[KEY_MAX])
{
	struct view arch;
	if (!gguf_str(g, "general.architecture", &arch) || arch.n > 100 || memchr(arch.p, 0, arch.n))
		return false;
	int n = snprintf(out, KEY_MAX, "%.*s.%s", VIEW_ARG(arch), suffix);
	return n > 0 && n < KEY_MAX;
}

bool gguf_arch_u64(const struct gguf *g, const char *suffix, uint64_t *ret)
{
	char key[KEY_MAX];
	return arch_key(g, suffix, key) && gguf_u64(g, key, ret);
}

bool gguf_arch_f64(const struct gguf *g, const char *suffix, double *ret)
{
	char key[KEY_MAX];
	return arch_key(g, suffix, key) && gguf_f64(g, key, ret);
}

bool gguf_arch_bool(const struct gguf *g, const char *suffix, bool *ret)
{
	char key[KEY_MAX];
	return arch_key(g, suffix, key) && gguf_bool(g, key, ret);
}

bool gguf_arch_str(const struct gguf *g, const char *suffix, struct view *ret)
{
	char key[KEY_MAX];
	return arch_key(g, suffix, key) && gguf_str(g, key, ret);
}

bool gguf_layer_u64(const struct gguf *g, const char *suffix, uint64_t layer, uint64_t *ret)
{
	char key[KEY_MAX];
	struct gguf_array a;
	if (!arch_key(g, suffix, key))
		return false;
	return gguf_array(g, key, &a) ? gguf_array_u64(&a, layer, ret) : gguf_u64(g, key, ret);
}

uint32_t gguf_version(const struct gguf *g)
{
	return g->version;
}

uint64_t gguf_header_bytes(const struct gguf *g)
{
	return g->header_bytes;
}

size_t gguf_key_count(const struct gguf *g)
{
	return g->n_keys;
}

size_t gguf_tensor_count(const struct gguf *g)
{
	return g->n_tensors;
}

const struct gguf_tensor *gguf_tensor(const struct gguf *g, size_t i)
{
	return i < g->n_tensors ? &g->tensors[i] : NULL;
}

const struct gguf_tensor *gguf_tensor_find(const struct gguf *g, const char *name)
{
	for (size_t i = 0; i < g->n_tensors; i++)
		if (view_eqs(g->tensors[i].name, name))
			return &g->tensors[i];
	return NULL;
}
