/* SPDX-License-Identifier: Apache-2.0 */
#include "base/cidr.h"

#include <arpa/inet.h>
#include <stdio.h>

#include "base/num.h"

static const unsigned char v4_prefix[12] = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff };

void ip_from_v4(const unsigned char v4[4], unsigned char out[IP_LEN])
{
	memcpy(out, v4_prefix, sizeof v4_prefix);
	memcpy(out + sizeof v4_prefix, v4, 4);
}

bool ip_is_loopback(const unsigned char ip[IP_LEN])
{
	static const unsigned char one[IP_LEN] = { [15] = 1 };
	if (memcmp(ip, v4_prefix, sizeof v4_prefix) == 0)
		return ip[12] == 127;
	return memcmp(ip, one, IP_LEN) == 0;
}

static void clear_beyond(unsigned char ip[IP_LEN], unsigned bits)
{
	for (unsigned i = 0; i < IP_LEN; i++) {
		unsigned kept = bits > i * 8 ? MIN(bits - i * 8, 8u) : 0;
		ip[i] &= (unsigned char)(0xff << (8 - kept));
	}
}

int cidr_parse(struct view text, struct cidr *ret, struct err *reterr)
{
	struct view tail, host = view_split(view_trim(text), '/', &tail);
	char name[64];
	unsigned char v4[4];
	uint64_t bits = 0;
	bool is_v4 = false, fine = host.n > 0 && host.n < sizeof name;
	snprintf(name, sizeof name, "%.*s", VIEW_ARG(view_cut(host, sizeof name - 1)));
	if (fine && inet_pton(AF_INET, name, v4) == 1) {
		ip_from_v4(v4, ret->ip);
		is_v4 = true;
	} else if (!fine || inet_pton(AF_INET6, name, ret->ip) != 1) {
		fine = false;
	}
	unsigned max = is_v4 ? 32 : 128;
	if (fine && tail.p)
		fine = num_u64(tail, &bits) == 0 && bits <= max;
	else
		bits = max;
	if (!fine)
		return err_set(reterr, -EINVAL,
			"found \"%.*s\"; accepted: a network or an address, as in 192.168.1.0/24, fd00::/8 "
			"or 10.0.0.7",
			VIEW_ARG(view_cut(text, 80)));
	ret->bits = (unsigned)bits + (is_v4 ? 96 : 0);
	clear_beyond(ret->ip, ret->bits);
	return 0;
}

bool cidr_has(const struct cidr *c, const unsigned char ip[IP_LEN])
{
	unsigned whole = c->bits / 8, rest = c->bits % 8;
	if (memcmp(c->ip, ip, whole) != 0)
		return false;
	return !rest || ((c->ip[whole] ^ ip[whole]) & (0xff << (8 - rest)) & 0xff) == 0;
}
