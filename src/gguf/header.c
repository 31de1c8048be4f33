/* SPDX-License-Identifier: Apache-2.0
 *
 * The header, field by field. `at` only moves forward and never past what gguf_need has made sure of.
 *
 *   "GGUF" u32 version  u64 tensors  u64 keys
 *   keys    x { string name, u32 type, value }                       string = u64 length, bytes
 *   tensors x { string name, u32 dims, u64 dim[dims], u32 type, u64 offset }
 *   padding to general.alignment (32), then the tensors
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"
#include "gguf/gguf_int.h"

struct reader {
	struct gguf *g;
	uint64_t at;
	struct err *err;
};

static int read_int(struct reader *r, size_t n, const char *what, uint64_t *ret)
{
	int e = gguf_need(r->g, r->at + n, what, r->err);
	if (e < 0)
		return e;
	*ret = gguf_le(r->g->data + r->at, n);
	r->at += n;
	return 0;
}

/* Steps over n bytes that must be there. */
static int step(struct reader *r, uint64_t n, const char *what)
{
	uint64_t end;
	if (__builtin_add_overflow(r->at, n, &end))
		return err_set(r->err, -EBADMSG, "%s is damaged: a length of %llu bytes in %s", r->g->path,
			(unsigned long long)n, what);
	int e = gguf_need(r->g, end, what, r->err);
	if (e == 0)
		r->at = end;
	return e;
}

static int read_string(struct reader *r, uint64_t max, const char *what, size_t *ret_at, size_t *ret_n)
{
	uint64_t n = 0;
	int e = read_int(r, 8, what, &n);
	if (e < 0)
		return e;
	if (n > max)
		return err_set(r->err, -EBADMSG,
			"%s is damaged: %s claims %llu bytes; at most %llu are accepted", r->g->path, what,
			(unsigned long long)n, (unsigned long long)max);
	*ret_at = r->at;
	*ret_n = n;
	return step(r, n, what);
}

static int read_array(struct reader *r, struct gguf_key *k, const char *what)
{
	uint64_t type = 0, bytes = 0;
	int e = read_int(r, 4, what, &type);
	if (e == 0)
		e = read_int(r, 8, what, &k->count);
	if (e < 0)
		return e;
	if (type >= GGUF_VALUE_TYPE_COUNT || type == GGUF_ARRAY)
		return err_set(r->err, -EBADMSG,
			"%s: %s is an array of %s (type %llu); arrays of numbers and strings are accepted",
			r->g->path, what, type == GGUF_ARRAY ? "arrays" : "an unknown kind",
			(unsigned long long)type);
	k->element = (enum gguf_value_type)type;
	k->at = r->at;
	if (type != GGUF_STRING) {
		if (__builtin_mul_overflow(k->count, gguf_value_size(k->element), &bytes))
			return err_set(r->err, -EBADMSG, "%s is damaged: %s claims %llu elements", r->g->path,
				what, (unsigned long long)k->count);
		e = step(r, bytes, what);
	}
	/* Each string takes 8 bytes at least, so the header's bound is the bound of this loop. */
	for (uint64_t i = 0; e == 0 && type == GGUF_STRING && i < k->count; i++) {
		size_t at, n;
		e = read_string(r, GGUF_HEADER_MAX, what, &at, &n);
	}
	k->n = r->at - k->at;
	return e;
}

static int read_key(struct reader *r, struct gguf_key *k)
{
	char what[96], name[64];
	uint64_t type = 0;
	int e = read_string(r, GGUF_NAME_MAX, "the name of a key", &k->name_at, &k->name_n);
	if (e < 0)
		return e;
	snprintf(what, sizeof what, "key %s",
		gguf_printable(view_of(r->g->data + k->name_at, k->name_n), name));
	e = read_int(r, 4, what, &type);
	if (e < 0)
		return e;
	if (type >= GGUF_VALUE_TYPE_COUNT)
		return err_set(r->err, -EBADMSG, "%s: %s has the unknown value type %llu; 0 to %d are known",
			r->g->path, what, (unsigned long long)type, GGUF_VALUE_TYPE_COUNT - 1);
	k->type = (enum gguf_value_type)type;
	if (type == GGUF_ARRAY)
		return read_array(r, k, what);
	if (type == GGUF_STRING)
		return read_string(r, GGUF_HEADER_MAX, what, &k->at, &k->n);
	k->at = r->at;
	k->n = gguf_value_size(k->type);
	return step(r, k->n, what);
}

/* Numbers of elements and bytes; refuses what overflows and rows that are no whole blocks. */
static int tensor_size(struct reader *r, struct gguf_tensor *t, const char *name)
{
	const struct gguf_tensor_type *type = gguf_tensor_type(t->type);
	bool over = false;
	if (!type)
		return err_set(r->err, -ENOTSUP,
			"%s: tensor %s has type %u, which this build does not know (newest: %s); upgrade "
			"corral",
			r->g->path, name, t->type, "Q2_0, 42");
	t->elements = 1;
	for (uint32_t i = 0; i < t->n_dims; i++)
		over |= __builtin_mul_overflow(t->elements, t->dims[i], &t->elements);
	if (t->dims[0] % type->block)
		return err_set(r->err, -EBADMSG,
			"%s is damaged: a row of tensor %s has %llu numbers, no multiple of %s's %u",
			r->g->path, name, (unsigned long long)t->dims[0], type->name, type->block);
	over |= __builtin_mul_overflow(t->elements / type->block, type->bytes, &t->bytes);
	if (over || t->elements > INT64_MAX || t->bytes > INT64_MAX)
		return err_set(r->err, -EBADMSG,
			"%s is damaged: the dimensions of tensor %s multiply to more than a file can hold",
			r->g->path, name);
	return 0;
}

static int read_tensor(struct reader *r, struct gguf_tensor *t, size_t *ret_name)
{
	char what[96], name[64];
	uint64_t n = 0, type = 0;
	int e = read_string(r, GGUF_NAME_MAX, "the name of a tensor", ret_name, &t->name.n);
	if (e < 0)
		return e;
	gguf_printable(view_of(r->g->data + *ret_name, t->name.n), name);
	snprintf(what, sizeof what, "the entry of tensor %s", name);
	e = read_int(r, 4, what, &n);
	if (e < 0)
		return e;
	if (n > GGUF_DIMS_MAX)
		return err_set(r->err, -EBADMSG,
			"%s is damaged: tensor %s has %llu dimensions; at most 4 are accepted", r->g->path,
			name, (unsigned long long)n);
	t->n_dims = (uint32_t)n;
	for (size_t i = 0; i < GGUF_DIMS_MAX; i++)
		t->dims[i] = 1;
	for (size_t i = 0; e == 0 && i < n; i++)
		e = read_int(r, 8, what, &t->dims[i]);
	if (e == 0)
		e = read_int(r, 4, what, &type);
	t->type = (uint32_t)type;
	if (e == 0)
		e = read_int(r, 8, what, &t->offset);
	return e < 0 ? e : tensor_size(r, t, name);
}

static int key_cmp(const void *a, const void *b, void *data)
{
	const struct gguf_key *x = a, *y = b;
	return view_cmp(
		view_of((char *)data + x->name_at, x->name_n), view_of((char *)data + y->name_at, y->name_n));
}

/* Room for one more of `have` elements; doubles. */
static int make_room(struct reader *r, void **array, size_t have, size_t size)
{
	if (have & (have - 1))
		return 0; /* full only at powers of two */
	void *p = reallocarray(*array, have ? 2 * have : 1, size);
	if (!p)
		return err_set(r->err, -ENOMEM, "%s: no memory for its header", r->g->path);
	*array = p;
	return 0;
}

static int read_keys(struct reader *r, uint64_t n)
{
	struct gguf *g = r->g;
	for (; g->n_keys < n; g->n_keys++) {
		struct gguf_key k = { 0 };
		int e = read_key(r, &k);
		if (e == 0)
			e = make_room(r, (void **)&g->keys, g->n_keys, sizeof k);
		if (e < 0)
			return e;
		g->keys[g->n_keys] = k;
	}
	if (g->n_keys)
		qsort_r(g->keys, g->n_keys, sizeof *g->keys, key_cmp, g->data);
	for (size_t i = 1; i < g->n_keys; i++) {
		char name[64];
		if (key_cmp(&g->keys[i - 1], &g->keys[i], g->data) == 0)
			return err_set(r->err, -EBADMSG, "%s is damaged: key %s is there twice", g->path,
				gguf_printable(
					view_of(g->data + g->keys[i].name_at, g->keys[i].name_n), name));
	}
	return 0;
}

static int read_tensors(struct reader *r, uint64_t n)
{
	struct gguf *g = r->g;
	for (; g->n_tensors < n; g->n_tensors++) {
		struct gguf_tensor t = { 0 };
		size_t name = 0;
		int e = read_tensor(r, &t, &name);
		if (e == 0)
			e = make_room(r, (void **)&g->tensors, g->n_tensors, sizeof t);
		if (e == 0)
			e = make_room(r, (void **)&g->tensor_names, g->n_tensors, sizeof name);
		if (e < 0)
			return e;
		g->tensors[g->n_tensors] = t;
		g->tensor_names[g->n_tensors] = name;
	}
	return 0;
}

static int check_magic(struct reader *r)
{
	struct gguf *g = r->g;
	char begins[64];
	size_t n = (size_t)MIN(g->file_size, (uint64_t)8);
	if (n == 0)
		return err_set(r->err, -EBADMSG, "%s is not a GGUF file (it is empty)", g->path);
	int e = gguf_need(g, n, "its first bytes", r->err);
	if (e < 0)
		return e;
	if (n < 4 || memcmp(g->data, "GGUF", 4) != 0)
		return err_set(r->err, -EBADMSG,
			"%s is not a GGUF file (it begins with \"%s\"); accepted: a .gguf model", g->path,
			gguf_printable(view_of(g->data, n), begins));
	r->at = 4;
	return 0;
}

static int check_version(struct reader *r)
{
	uint64_t version = 0;
	int e = read_int(r, 4, "its version", &version);
	if (e < 0)
		return e;
	if ((version & 0xffff) == 0 && version != 0)
		return err_set(r->err, -ENOTSUP,
			"%s is a big-endian GGUF; little-endian ones are accepted: convert it, or fetch a "
			"usual one",
			r->g->path);
	if (version < 2 || version > 3)
		return err_set(r->err, -ENOTSUP, "%s is GGUF version %llu; versions 2 and 3 are accepted: %s",
			r->g->path, (unsigned long long)version,
			version < 2 ? "convert the model anew" : "upgrade corral");
	r->g->version = (uint32_t)version;
	return 0;
}

static int check_counts(struct reader *r, uint64_t tensors, uint64_t keys)
{
	if (tensors <= GGUF_TENSORS_MAX && keys <= GGUF_KEYS_MAX)
		return 0;
	return err_set(r->err, -EBADMSG,
		"%s is damaged: its header claims %llu tensors and %llu keys; at most 65536 of each are "
		"accepted",
		r->g->path, (unsigned long long)tensors, (unsigned long long)keys);
}

/* Turns offsets into places in the file, and checks that the file holds them. */
static int place_tensors(struct reader *r)
{
	struct gguf *g = r->g;
	uint64_t alignment = 32;
	if (gguf_has(g, "general.alignment") &&
		(!gguf_u64(g, "general.alignment", &alignment) || alignment == 0 || alignment > MIB ||
			(alignment & (alignment - 1))))
		return err_set(r->err, -EBADMSG,
			"%s is damaged: general.alignment must be a power of two up to 1 MiB", g->path);
	g->header_bytes = (r->at + alignment - 1) & ~(alignment - 1);
	for (size_t i = 0; i < g->n_tensors; i++) {
		struct gguf_tensor *t = &g->tensors[i];
		uint64_t end;
		char name[64];
		t->name.p = g->data + g->tensor_names[i];
		gguf_printable(t->name, name);
		if (t->offset % alignment)
			return err_set(r->err, -EBADMSG,
				"%s is damaged: tensor %s lies at %llu, no multiple of %llu", g->path, name,
				(unsigned long long)t->offset, (unsigned long long)alignment);
		if (__builtin_add_overflow(t->offset, g->header_bytes, &t->offset) ||
			__builtin_add_overflow(t->offset, t->bytes, &end))
			return err_set(r->err, -EBADMSG,
				"%s is damaged: tensor %s ends behind every file's end", g->path, name);
		if (end > g->file_size)
			return err_set(r->err, -EBADMSG,
				"%s is cut short: its header says %zu tensors, and %s ends at byte %llu, but "
				"the file ends at %llu; "
				"fetch it again",
				g->path, g->n_tensors, name, (unsigned long long)end,
				(unsigned long long)g->file_size);
	}
	return 0;
}

int gguf_header_read(struct gguf *g, struct err *reterr)
{
	struct reader r = { .g = g, .err = reterr };
	uint64_t tensors = 0, keys = 0;
	int e = check_magic(&r);
	if (e == 0)
		e = check_version(&r);
	if (e == 0)
		e = read_int(&r, 8, "its counts", &tensors);
	if (e == 0)
		e = read_int(&r, 8, "its counts", &keys);
	if (e == 0)
		e = check_counts(&r, tensors, keys);
	if (e == 0)
		e = read_keys(&r, keys);
	if (e == 0)
		e = read_tensors(&r, tensors);
	return e < 0 ? e : place_tensors(&r);
}
