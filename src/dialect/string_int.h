/* SPDX-License-Identifier: Apache-2.0
 *
 * How far a JSON string goes on in what everybody takes; for the body scanner. Nothing here refuses anything.
 */
#ifndef DIALECT_STRING_INT_H
#define DIALECT_STRING_INT_H

#include "base/block.h"

/* What stands for a character after a backslash; 0: none. */
static const char string_unescaped[256] = {
	['"'] = '"',
	['\\'] = '\\',
	['/'] = '/',
	['b'] = '\b',
	['f'] = '\f',
	['n'] = '\n',
	['r'] = '\r',
	['t'] = '\t',
};

/* Of a block: a bit for each byte that is a plain character of a string, which is ASCII, no quote, no
 * backslash, and nothing below 0x20. */
static inline unsigned string_plain(const char *p)
{
	struct block b = block_at(p);
	/* a quote with its second bit turned over is 0x20, and no plain character comes that low */
	return block_bits(block_but(block_more(block_xor(b, 0x02), 0x20), block_is(b, '\\')));
}

/* A bit for each that is none. */
static inline unsigned string_stops(const char *p)
{
	return string_plain(p) ^ 0xffff;
}

static inline const char *string_plain_end(const char *p, const char *end)
{
	for (; end - p >= BLOCK_LEN; p += BLOCK_LEN) {
		unsigned stop = string_stops(p);
		if (stop)
			return p + __builtin_ctz(stop);
	}
	while (p < end && (unsigned char)*p >= 0x20 && (unsigned char)*p < 0x80 && *p != '"' && *p != '\\')
		p++;
	return p;
}

/* Where plain characters and short escapes end; a last byte that may be half an escape is left. */
static inline const char *string_easy_end(const char *p, const char *end)
{
	const char *last = p + (size_t)(end - p) / (2 * BLOCK_LEN) * (2 * BLOCK_LEN);
	for (; p < last; p += 2 * BLOCK_LEN) {
		unsigned stop = ~(string_plain(p) | string_plain(p + BLOCK_LEN) << BLOCK_LEN);
		while (UNLIKELY(stop)) {
			unsigned i = (unsigned)__builtin_ctz(stop);
			if (p[i] != '\\' || i == 2 * BLOCK_LEN - 1 ||
				!string_unescaped[(unsigned char)p[i + 1]])
				return p + i;
			stop &= ~(3u << i);
		}
	}
	return string_plain_end(p, end);
}

/* Where the whole characters of two to four bytes that start at p end. */
static inline const char *string_utf8_end(const char *p, const char *end)
{
	while (end - p >= 4) {
		const unsigned char *u = (const unsigned char *)p;
		uint32_t w = (uint32_t)u[0] << 24 | (uint32_t)u[1] << 16 | (uint32_t)u[2] << 8 | u[3];
		uint32_t three = w & 0x0f200000, four = w & 0x07300000;
		if ((w & 0xf0c0c000) == 0xe0808000 && three && three != 0x0d200000)
			p += 3; /* neither overlong nor a surrogate */
		else if ((w & 0xe0c00000) == 0xc0800000 && (w & 0x1e000000))
			p += 2;
		else if ((w & 0xf8c0c0c0) == 0xf0808080 && four >= 0x00100000 && four <= 0x04000000)
			p += 4;
		else
			break;
	}
	return p;
}

/* Passes over what nobody keeps: to the string's end, or to what only the machine knows. */
/* not inlined: it is large, and most strings end in their first block */
static __attribute__((noinline, unused)) const char *string_skip(const char *p, const char *end)
{
	for (;;) {
		p = string_easy_end(p, end);
		if (end - p < 2)
			return p;
		if (*p == '\\' && string_unescaped[(unsigned char)p[1]]) {
			p += 2;
		} else if ((unsigned char)*p >= 0x80) {
			const char *from = p;
			p = string_utf8_end(p, end);
			if (p == from)
				return p;
		} else {
			return p;
		}
	}
}

#endif
