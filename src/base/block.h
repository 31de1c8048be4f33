/* SPDX-License-Identifier: Apache-2.0
 *
 * Sixteen bytes looked at together: compare them with something, join what was found, and ask where the
 * first of it is. The compiler makes SSE2 or NEON of it, and plain words where there is neither.
 */
#ifndef BASE_BLOCK_H
#define BASE_BLOCK_H

#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "base/base.h"

enum { BLOCK_LEN = 16 };
/* Signed bytes: one that is not ASCII is less than any that is. */
struct block {
	int8_t v __attribute__((vector_size(16)));
};

static inline struct block block_at(const char *p)
{
	struct block b;
	memcpy(&b, p, sizeof b);
	return b;
}
static inline struct block block_fill(char c)
{
	int8_t x = (int8_t)c;
	return (struct block){ { x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x } };
}
static inline struct block block_is(struct block b, char c)
{
	b.v = b.v == block_fill(c).v;
	return b;
}
static inline struct block block_more(struct block b, char c)
{
	b.v = b.v > block_fill(c).v;
	return b;
}
static inline struct block block_xor(struct block b, char c)
{
	b.v ^= block_fill(c).v;
	return b;
}
static inline struct block block_or(struct block a, struct block b)
{
	a.v |= b.v;
	return a;
}
static inline struct block block_and(struct block a, struct block b)
{
	a.v &= b.v;
	return a;
}
/* In a and not in b. */
static inline struct block block_but(struct block a, struct block b)
{
#ifdef __SSE2__
	__m128i x, y;
	memcpy(&x, &a, sizeof x);
	memcpy(&y, &b, sizeof y);
	x = _mm_andnot_si128(y, x);
	memcpy(&a, &x, sizeof a);
#else
	a.v &= ~b.v;
#endif
	return a;
}

#ifdef __SSE2__
/* Of what block_is() and block_more() say: a bit a byte, the first byte's is the lowest. */
static inline unsigned block_bits(struct block b)
{
	__m128i m;
	memcpy(&m, &b, sizeof m);
	return (unsigned)_mm_movemask_epi8(m);
}
#else
static inline unsigned block_bits(struct block b)
{
	unsigned bits = 0;
	uint64_t half[2];
	memcpy(half, &b, sizeof half);
	if (!(half[0] | half[1]))
		return 0;
	for (unsigned i = 0; i < BLOCK_LEN; i++)
		bits |= (unsigned)(b.v[i] & 1) << i;
	return bits;
}
#endif

#endif
