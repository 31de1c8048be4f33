/* SPDX-License-Identifier: Apache-2.0
 *
 * Reads the header of a GGUF file (version 2 or 3, little endian): its keys, its tensor table. The tensors
 * themselves are never read. The file's bytes are hostile: every length is checked against what is there
 * before it is used, and nothing is allocated by a number the file claims.
 *
 * Bounds: header 256 MiB, 65,536 keys, 65,536 tensors, names 65,535 bytes, 4 dimensions. No array of arrays.
 * No loop: gguf_open blocks on the disk (a header of some MiB); call it where that may be.
 * A struct gguf is immutable once it is made; views it hands out live until gguf_free.
 */
#ifndef GGUF_GGUF_H
#define GGUF_GGUF_H

#include "base/err.h"
#include "base/view.h"

struct gguf; /* owned by who opened it */

enum gguf_value_type {
	GGUF_U8,
	GGUF_I8,
	GGUF_U16,
	GGUF_I16,
	GGUF_U32,
	GGUF_I32,
	GGUF_F32,
	GGUF_BOOL,
	GGUF_STRING,
	GGUF_ARRAY,
	GGUF_U64,
	GGUF_I64,
	GGUF_F64,
	GGUF_VALUE_TYPE_COUNT,
};

enum { GGUF_DIMS_MAX = 4 };

/* How a tensor's numbers are stored: blocks of `block` numbers in `bytes` bytes. */
struct gguf_tensor_type {
	const char *name;
	uint32_t block, bytes;
};
/* NULL for a number that is no type, or one that files may no longer hold. */
const struct gguf_tensor_type *gguf_tensor_type(uint32_t type);

struct gguf_tensor {
	struct view name;
	uint32_t type, n_dims;
	uint64_t dims[GGUF_DIMS_MAX]; /* fastest first; 1 where there is none */
	uint64_t elements, bytes;
	uint64_t offset; /* from the start of the file */
};

struct gguf_array {
	enum gguf_value_type type;
	uint64_t count;
	struct view bytes; /* the elements as they are in the file; checked */
};

/* Opens path, reads its header, closes it. Fails on: no such file, not a GGUF, a version or byte order we
 * do not read, a damaged header, a tensor that lies (partly) behind the file's end. */
int gguf_open(const char *path, struct gguf **ret, struct err *reterr) MUST_CHECK;
/* The same for bytes in memory, of a file of file_size bytes (at least bytes.n); name is for messages.
 * The bytes are copied. -ENODATA: the header goes on behind them. */
int gguf_parse(const char *name, struct view bytes, uint64_t file_size, struct gguf **ret,
	struct err *reterr) MUST_CHECK;
struct gguf *gguf_free(struct gguf *g);        /* NULL allowed; returns NULL */
static inline void gguf_freep(struct gguf **g) /* for AUTO(gguf_freep) struct gguf *g = NULL; */
{
	gguf_free(*g);
}

/* Values by key. false, and *ret untouched: no such key, another kind of value, or a negative number. */
bool gguf_has(const struct gguf *g, const char *key);
bool gguf_u64(const struct gguf *g, const char *key, uint64_t *ret); /* any integer type */
bool gguf_f64(const struct gguf *g, const char *key, double *ret);   /* any number */
bool gguf_bool(const struct gguf *g, const char *key, bool *ret);
bool gguf_str(const struct gguf *g, const char *key, struct view *ret);
bool gguf_array(const struct gguf *g, const char *key, struct gguf_array *ret);
/* Key "<architecture>.<suffix>". */
bool gguf_arch_u64(const struct gguf *g, const char *suffix, uint64_t *ret);
bool gguf_arch_f64(const struct gguf *g, const char *suffix, double *ret);
bool gguf_arch_bool(const struct gguf *g, const char *suffix, bool *ret);
bool gguf_arch_str(const struct gguf *g, const char *suffix, struct view *ret);
/* "<architecture>.<suffix>" of one layer: an array's element, or the number all layers share. */
bool gguf_layer_u64(const struct gguf *g, const char *suffix, uint64_t layer, uint64_t *ret);
bool gguf_array_u64(const struct gguf_array *a, uint64_t i, uint64_t *ret);
bool gguf_array_f64(const struct gguf_array *a, uint64_t i, double *ret);
/* Iterate over strings: for (size_t at = 0; gguf_array_next(&a, &at, &v);) ... */
bool gguf_array_next(const struct gguf_array *a, size_t *at, struct view *ret);

uint32_t gguf_version(const struct gguf *g);
uint64_t gguf_header_bytes(const struct gguf *g); /* where the tensors begin */
size_t gguf_key_count(const struct gguf *g);
size_t gguf_tensor_count(const struct gguf *g);
const struct gguf_tensor *gguf_tensor(const struct gguf *g, size_t i);              /* in the file's order */
const struct gguf_tensor *gguf_tensor_find(const struct gguf *g, const char *name); /* or NULL */

/* What the rest of the program asks a model file. Absent: 0, -1 or an empty view as said. */
struct gguf_facts {
	struct view architecture, name;                 /* empty when absent */
	uint64_t n_ctx_train, n_embd, n_layer, n_vocab; /* 0 when absent */
	uint64_t n_params, size_bytes;                  /* sums over this file's tensors */
	int64_t file_type;                              /* general.file_type, or -1 */
	int64_t pooling_type; /* 0 none, 1 mean, 2 cls, 3 last, 4 rank; -1 when absent */
	bool causal;          /* true when absent */
	bool has_chat_template;
	bool is_projector;              /* an mmproj: no model by itself */
	bool has_vision, has_audio;     /* of a projector */
	struct view rope_scaling;       /* "linear", "yarn"...; empty when absent */
	double rope_scaling_factor;     /* 0 when absent */
	uint64_t rope_n_ctx_orig;       /* 0 when absent */
	uint64_t split_no, split_count; /* 0 and 1 for a whole file */
	uint64_t split_tensors;         /* of all parts; 0 when absent */
};
/* The views live as long as g. */
void gguf_facts(const struct gguf *g, struct gguf_facts *ret);
/* "Q4_K - Medium" for general.file_type; NULL for one we do not know. */
const char *gguf_file_type_name(int64_t file_type);

#endif
