/* SPDX-License-Identifier: Apache-2.0
 *
 * Inside of src/gguf: where the header's bytes are and what was found in them.
 */
#ifndef GGUF_GGUF_INT_H
#define GGUF_GGUF_INT_H

#include "gguf/gguf.h"

enum {
	GGUF_HEADER_MAX = 256 * 1024 * 1024,
	GGUF_KEYS_MAX = 65536,
	GGUF_TENSORS_MAX = 65536,
	GGUF_NAME_MAX = 65535,
};

/* Positions are offsets into the header while it is read, for the memory may move. */
struct gguf_key {
	size_t name_at, name_n;
	enum gguf_value_type type, element; /* element: of an array */
	uint64_t count;                     /* of an array */
	size_t at, n;                       /* the value: a string's inside, an array's elements */
};

struct gguf {
	char *data; /* the header, n bytes of it read so far */
	size_t n, cap;
	int fd; /* -1 once it was read */
	uint64_t file_size;
	const char *path; /* while it is read */
	uint32_t version;
	struct gguf_key *keys; /* sorted by name */
	size_t n_keys;
	struct gguf_tensor *tensors;
	size_t *tensor_names; /* offsets, while it is read */
	size_t n_tensors;
	uint64_t header_bytes;
};

/* Has data[0 ... end) read; false: the file is shorter, the bound is reached, or it cannot be read. */
int gguf_need(struct gguf *g, uint64_t end, const char *what, struct err *reterr) MUST_CHECK;
int gguf_header_read(struct gguf *g, struct err *reterr) MUST_CHECK;
const struct gguf_key *gguf_key_find(const struct gguf *g, struct view name);
size_t gguf_value_size(enum gguf_value_type type); /* 0: no fixed size */
/* Name for a message: at most 60 bytes, what cannot be printed becomes '?'. */
const char *gguf_printable(struct view v, char out[64]);

static inline uint64_t gguf_le(const char *p, size_t n)
{
	uint64_t x = 0;
	for (size_t i = 0; i < n; i++)
		x |= (uint64_t)(unsigned char)p[i] << (8 * i);
	return x;
}

#endif
