/* SPDX-License-Identifier: Apache-2.0
 *
 * Networks as people write them: "192.168.1.0/24", "fd00::/8", "10.0.0.7". An address is 16 bytes; one of
 * IPv4 is ::ffff:a.b.c.d, so that a peer on a socket for both families is the same as on one for IPv4.
 */
#ifndef BASE_CIDR_H
#define BASE_CIDR_H

#include "base/err.h"
#include "base/view.h"

enum { IP_LEN = 16 };

struct cidr {
	unsigned char ip[IP_LEN]; /* bits beyond the prefix are 0 */
	unsigned bits;            /* of the 128 */
};

/* 0 or -EINVAL with a sentence that says what was found and what is accepted. */
int cidr_parse(struct view text, struct cidr *ret, struct err *reterr) MUST_CHECK;
bool cidr_has(const struct cidr *c, const unsigned char ip[IP_LEN]);
/* 127.0.0.0/8 and ::1. */
bool ip_is_loopback(const unsigned char ip[IP_LEN]);
void ip_from_v4(const unsigned char v4[4], unsigned char out[IP_LEN]);

#endif
