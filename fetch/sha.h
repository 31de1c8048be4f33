/* SPDX-License-Identifier: Apache-2.0
 *
 * SHA-256 that can be put down and taken up again: its state is written beside a file that is being fetched.
 */
#ifndef FETCH_SHA_H
#define FETCH_SHA_H

#include "base/base.h"
#include "base/view.h"

enum { SHA_HEX = 64, SHA_STATE_MAX = 64 + 128 };

struct sha {
	uint32_t h[8];
	uint64_t bytes; /* taken so far */
	uint8_t rest[64];
	unsigned nrest;
};

void sha_begin(struct sha *s);
void sha_add(struct sha *s, const void *p, size_t n);
/* s may go on afterwards. */
void sha_hex(const struct sha *s, char ret[SHA_HEX + 1]);
/* 64 digits, and two for each byte of a block that is not full. */
void sha_save(const struct sha *s, char ret[SHA_STATE_MAX + 1]);
/* The state after `bytes` bytes; -EINVAL: it is none. */
int sha_load(struct sha *s, uint64_t bytes, struct view text) MUST_CHECK;

#endif
