/* SPDX-License-Identifier: Apache-2.0 */
#include "base/rnd.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

static atomic_uint forks; /* of this process, since it was one */
static pthread_once_t forks_once = PTHREAD_ONCE_INIT;

static void note_fork(void)
{
	atomic_fetch_add_explicit(&forks, 1, memory_order_relaxed);
}

static void watch_forks(void)
{
	pthread_atfork(NULL, NULL, note_fork);
}

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

/* The kernel is asked for many ids at once; a child of fork would give its parent's, so it asks anew. */
static void id_bytes(unsigned char out[16])
{
	static _Thread_local struct {
		unsigned char bytes[1024];
		size_t left;
		unsigned forks;
	} pool;
	unsigned now = atomic_load_explicit(&forks, memory_order_relaxed);
	if (!pool.left || pool.forks != now) {
		rnd_os_bytes(pool.bytes, sizeof pool.bytes);
		pool.left = sizeof pool.bytes;
		pool.forks = now;
	}
	pool.left -= 16;
	memcpy(out, pool.bytes + pool.left, 16);
	memset(pool.bytes + pool.left, 0, 16);
}

void rnd_uuid(char out[UUID_LEN + 1])
{
	static const char hex[] = "0123456789abcdef";
	unsigned char b[16];
	pthread_once(&forks_once, watch_forks);
	id_bytes(b);
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
