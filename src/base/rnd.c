/* SPDX-License-Identifier: Apache-2.0 */
#include "base/rnd.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

uint64_t rnd_u64(struct rnd *r)
{
	uint64_t z = (r->state += 0x9e3779b97f4a7c15ull);
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

uint64_t rnd_below(struct rnd *r, uint64_t n)
{
	assert(n > 0);
	return (uint64_t)(((unsigned __int128)rnd_u64(r) * n) >> 64);
}

double rnd_unit(struct rnd *r)
{
	return (double)(rnd_u64(r) >> 11) * 0x1.0p-53;
}

void rnd_os_bytes(void *p, size_t n)
{
	unsigned char *q = p;
	while (n) {
		ssize_t k = getrandom(q, n, 0);
		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0) {
			perror("corral: getrandom");
			abort();
		}
		q += k;
		n -= (size_t)k;
	}
}

uint64_t rnd_os_u64(void)
{
	uint64_t v;
	rnd_os_bytes(&v, sizeof v);
	return v;
}

void rnd_uuid(char out[UUID_LEN + 1])
{
	static const char hex[] = "0123456789abcdef";
	unsigned char b[16];
	rnd_os_bytes(b, sizeof b);
	b[6] = (unsigned char)((b[6] & 0x0f) | 0x40);
	b[8] = (unsigned char)((b[8] & 0x3f) | 0x80);
	char *o = out;
	for (size_t i = 0; i < sizeof b; i++) {
		if (i == 4 || i == 6 || i == 8 || i == 10)
			*o++ = '-';
		*o++ = hex[b[i] >> 4];
		*o++ = hex[b[i] & 15];
	}
	*o = '\0';
}
