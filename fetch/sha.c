/* SPDX-License-Identifier: Apache-2.0
 *
 * OpenSSL's block function through its older interface: the newer one cannot give its state away.
 */
#define OPENSSL_SUPPRESS_DEPRECATED
#include "sha.h"

#include <stdio.h>
#include <string.h>
#include <openssl/sha.h>

static void to_ctx(const struct sha *s, SHA256_CTX *c)
{
	SHA256_Init(c);
	for (int i = 0; i < 8; i++)
		c->h[i] = s->h[i];
	c->Nl = (SHA_LONG)(s->bytes << 3);
	c->Nh = (SHA_LONG)(s->bytes >> 29);
	c->num = s->nrest;
	memcpy(c->data, s->rest, s->nrest);
}

static void from_ctx(struct sha *s, const SHA256_CTX *c)
{
	for (int i = 0; i < 8; i++)
		s->h[i] = c->h[i];
	s->nrest = c->num;
	memcpy(s->rest, c->data, s->nrest);
}

void sha_begin(struct sha *s)
{
	SHA256_CTX c;
	SHA256_Init(&c);
	*s = (struct sha){ 0 };
	from_ctx(s, &c);
}

void sha_add(struct sha *s, const void *p, size_t n)
{
	SHA256_CTX c;
	to_ctx(s, &c);
	SHA256_Update(&c, p, n);
	from_ctx(s, &c);
	s->bytes += n;
}

void sha_hex(const struct sha *s, char ret[SHA_HEX + 1])
{
	SHA256_CTX c;
	uint8_t out[SHA256_DIGEST_LENGTH];
	to_ctx(s, &c);
	SHA256_Final(out, &c);
	for (size_t i = 0; i < sizeof out; i++)
		snprintf(ret + 2 * i, 3, "%02x", out[i]);
}

void sha_save(const struct sha *s, char ret[SHA_STATE_MAX + 1])
{
	for (size_t i = 0; i < 8; i++)
		snprintf(ret + 8 * i, 9, "%08x", s->h[i]);
	for (size_t i = 0; i < s->nrest; i++)
		snprintf(ret + 64 + 2 * i, 3, "%02x", s->rest[i]);
}

static int nibbles(struct view v, uint32_t *ret)
{
	static const char digits[] = "0123456789abcdef";
	*ret = 0;
	for (size_t i = 0; i < v.n; i++) {
		const char *at = memchr(digits, v.p[i], 16);
		if (!at)
			return -EINVAL;
		*ret = *ret << 4 | (uint32_t)(at - digits);
	}
	return 0;
}

int sha_load(struct sha *s, uint64_t bytes, struct view text)
{
	uint32_t n;
	sha_begin(s);
	s->bytes = bytes;
	s->nrest = (unsigned)(bytes % 64);
	if (text.n != 64 + 2 * (size_t)s->nrest)
		return -EINVAL;
	for (size_t i = 0; i < 8; i++) {
		if (nibbles(view_of(text.p + 8 * i, 8), &s->h[i]))
			return -EINVAL;
	}
	for (size_t i = 0; i < s->nrest; i++) {
		if (nibbles(view_of(text.p + 64 + 2 * i, 2), &n))
			return -EINVAL;
		s->rest[i] = (uint8_t)n;
	}
	return 0;
}
