/* SPDX-License-Identifier: Apache-2.0
 *
 * Random numbers: a seedable generator for jitter and tests (SplitMix64, Steele, Lea and Flood 2014;
 * not for secrets), and the kernel's for ids and secrets.
 */
#ifndef BASE_RND_H
#define BASE_RND_H

#include "base/base.h"

struct rnd {
	uint64_t state;
};

static inline void rnd_seed(struct rnd *r, uint64_t seed)
{
	r->state = seed;
}
uint64_t rnd_u64(struct rnd *r);
uint64_t rnd_below(struct rnd *r, uint64_t n); /* 0..n-1; n > 0 */
double rnd_unit(struct rnd *r);                /* [0, 1) */

uint64_t rnd_os_u64(void); /* from getrandom(2); never fails, may end the process */
void rnd_os_bytes(void *p, size_t n);
enum { UUID_LEN = 36 };
void rnd_uuid(char out[UUID_LEN + 1]); /* version 4, RFC 9562 */

#endif
