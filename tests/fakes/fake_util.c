/* SPDX-License-Identifier: Apache-2.0
 *
 * SHA-256 (FIPS 180-4), a scanner for JSON that is enough for requests of tests, the clock.
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/num.h"
#include "fake_engine.h"

int64_t now_us(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static const uint32_t sha_k[64] = {
	0x428a2f98,
	0x71374491,
	0xb5c0fbcf,
	0xe9b5dba5,
	0x3956c25b,
	0x59f111f1,
	0x923f82a4,
	0xab1c5ed5,
	0xd807aa98,
	0x12835b01,
	0x243185be,
	0x550c7dc3,
	0x72be5d74,
	0x80deb1fe,
	0x9bdc06a7,
	0xc19bf174,
	0xe49b69c1,
	0xefbe4786,
	0x0fc19dc6,
	0x240ca1cc,
	0x2de92c6f,
	0x4a7484aa,
	0x5cb0a9dc,
	0x76f988da,
	0x983e5152,
	0xa831c66d,
	0xb00327c8,
	0xbf597fc7,
	0xc6e00bf3,
	0xd5a79147,
	0x06ca6351,
	0x14292967,
	0x27b70a85,
	0x2e1b2138,
	0x4d2c6dfc,
	0x53380d13,
	0x650a7354,
	0x766a0abb,
	0x81c2c92e,
	0x92722c85,
	0xa2bfe8a1,
	0xa81a664b,
	0xc24b8b70,
	0xc76c51a3,
	0xd192e819,
	0xd6990624,
	0xf40e3585,
	0x106aa070,
	0x19a4c116,
	0x1e376c08,
	0x2748774c,
	0x34b0bcb5,
	0x391c0cb3,
	0x4ed8aa4a,
	0x5b9cca4f,
	0x682e6ff3,
	0x748f82ee,
	0x78a5636f,
	0x84c87814,
	0x8cc70208,
	0x90befffa,
	0xa4506ceb,
	0xbef9a3f7,
	0xc67178f2,
};

static uint32_t ror(uint32_t x, int n)
{
	return x >> n | x << (32 - n);
}

static void sha_block(uint32_t h[8], const unsigned char *p)
{
	uint32_t w[64], v[8];
	for (int i = 0; i < 16; i++)
		w[i] = (uint32_t)p[4 * i] << 24 | (uint32_t)p[4 * i + 1] << 16 | (uint32_t)p[4 * i + 2] << 8 |
		       p[4 * i + 3];
	for (int i = 16; i < 64; i++)
		w[i] = w[i - 16] + w[i - 7] + (ror(w[i - 15], 7) ^ ror(w[i - 15], 18) ^ w[i - 15] >> 3) +
		       (ror(w[i - 2], 17) ^ ror(w[i - 2], 19) ^ w[i - 2] >> 10);
	memcpy(v, h, sizeof v);
	for (int i = 0; i < 64; i++) {
		uint32_t a = v[7] + (ror(v[4], 6) ^ ror(v[4], 11) ^ ror(v[4], 25)) +
			     ((v[4] & v[5]) ^ (~v[4] & v[6])) + sha_k[i] + w[i];
		uint32_t b = (ror(v[0], 2) ^ ror(v[0], 13) ^ ror(v[0], 22)) +
			     ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));
		memmove(v + 1, v, 7 * sizeof v[0]);
		v[4] += a;
		v[0] = a + b;
	}
	for (int i = 0; i < 8; i++)
		h[i] += v[i];
}

void sha256_hex(struct view v, char out[65])
{
	uint32_t h[8] = { 0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab,
		0x5be0cd19 };
	unsigned char last[128] = { 0 };
	size_t whole = v.n / 64 * 64, rest = v.n - whole, end = rest < 56 ? 64 : 128;
	for (size_t i = 0; i < whole; i += 64)
		sha_block(h, (const unsigned char *)v.p + i);
	if (rest)
		memcpy(last, v.p + whole, rest);
	last[rest] = 0x80;
	for (size_t i = 0; i < 8; i++)
		last[end - 1 - i] = (unsigned char)((uint64_t)v.n * 8 >> (8 * i));
	for (size_t i = 0; i < end; i += 64)
		sha_block(h, last + i);
	for (int i = 0; i < 8; i++)
		snprintf(out + 8 * i, 9, "%08x", h[i]);
}

static size_t json_space(struct view v, size_t i)
{
	while (i < v.n && strchr(" \t\r\n", v.p[i]) && v.p[i])
		i++;
	return i;
}

static size_t json_string_end(struct view v, size_t i)
{
	for (i++; i < v.n && v.p[i] != '"'; i++)
		if (v.p[i] == '\\')
			i++;
	return MIN(i + 1, v.n);
}

/* Past the value at i: depth is counted, strings are stepped over. */
static size_t json_value_end(struct view v, size_t i)
{
	int depth = 0;
	while (i < v.n) {
		char c = v.p[i];
		if (c == '"') {
			i = json_string_end(v, i);
			if (depth == 0)
				return i;
			continue;
		}
		if (c == '{' || c == '[') {
			depth++;
		} else if (c == '}' || c == ']') {
			if (depth == 0)
				return i;
			if (--depth == 0)
				return i + 1;
		} else if (depth == 0 && (c == ',' || c == ' ' || c == '\n' || c == '\r' || c == '\t')) {
			return i;
		}
		i++;
	}
	return i;
}

bool json_item(struct view v, size_t *at, struct view *ret_key, struct view *ret_value)
{
	size_t i = json_space(v, *at ? *at : 1);
	bool object = v.n > 0 && v.p[0] == '{';
	if (v.n == 0 || (!object && v.p[0] != '['))
		return false;
	if (i < v.n && v.p[i] == ',')
		i = json_space(v, i + 1);
	if (i >= v.n || v.p[i] == '}' || v.p[i] == ']')
		return false;
	*ret_key = (struct view){ 0 };
	if (object) {
		size_t end = json_string_end(v, i);
		if (v.p[i] != '"' || end < i + 2)
			return false;
		*ret_key = view_of(v.p + i + 1, end - i - 2);
		i = json_space(v, end);
		if (i >= v.n || v.p[i] != ':')
			return false;
		i = json_space(v, i + 1);
	}
	size_t end = json_value_end(v, i);
	if (end == i)
		return false;
	*ret_value = view_of(v.p + i, end - i);
	*at = end;
	return true;
}

struct view json_get(struct view object, const char *key)
{
	struct view k, value;
	size_t first = json_space(object, 0);
	object = view_from(object, first);
	if (object.n == 0 || object.p[0] != '{')
		return (struct view){ 0 };
	for (size_t at = 0; json_item(object, &at, &k, &value);)
		if (view_eqs(k, key))
			return value;
	return (struct view){ 0 };
}

int64_t text_int(struct view v, int64_t other)
{
	bool minus = v.n > 1 && v.p[0] == '-';
	uint64_t u;
	if (num_u64(view_from(v, minus), &u) < 0 || u > INT64_MAX)
		return other;
	return minus ? -(int64_t)u : (int64_t)u;
}

int64_t json_int(struct view raw, int64_t other)
{
	if (view_eqs(raw, "true") || view_eqs(raw, "false"))
		return raw.p[0] == 't';
	return text_int(raw, other);
}

bool json_true(struct view raw)
{
	return view_eqs(raw, "true");
}

struct view json_text(struct view raw)
{
	return raw.n >= 2 && raw.p[0] == '"' ? view_of(raw.p + 1, raw.n - 2) : raw;
}
