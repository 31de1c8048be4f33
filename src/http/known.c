/* SPDX-License-Identifier: Apache-2.0
 *
 * Which header a name means. A parsed name holds token characters alone, of which none but a letter changes
 * into another token character that stands in the names here when its 0x20 bit is set.
 */
#include "http/http.h"

/* By length, so that a name is compared with the few that are as long. */
static const struct {
	struct view name;
	enum http_known known;
} table[] = {
	{ VIEW("te"), HTTP_H_TE },
	{ VIEW("date"), HTTP_H_DATE },
	{ VIEW("host"), HTTP_H_HOST },
	{ VIEW("cookie"), HTTP_H_COOKIE },
	{ VIEW("expect"), HTTP_H_EXPECT },
	{ VIEW("origin"), HTTP_H_ORIGIN },
	{ VIEW("server"), HTTP_H_SERVER },
	{ VIEW("trailer"), HTTP_H_TRAILER },
	{ VIEW("upgrade"), HTTP_H_UPGRADE },
	{ VIEW("x-api-key"), HTTP_H_API_KEY },
	{ VIEW("connection"), HTTP_H_CONNECTION },
	{ VIEW("keep-alive"), HTTP_H_KEEP_ALIVE },
	{ VIEW("request-id"), HTTP_H_REQUEST_ID },
	{ VIEW("content-type"), HTTP_H_CONTENT_TYPE },
	{ VIEW("x-request-id"), HTTP_H_X_REQUEST_ID },
	{ VIEW("authorization"), HTTP_H_AUTHORIZATION },
	{ VIEW("content-length"), HTTP_H_CONTENT_LENGTH },
	{ VIEW("accept-encoding"), HTTP_H_ACCEPT_ENCODING },
	{ VIEW("proxy-connection"), HTTP_H_PROXY_CONNECTION },
	{ VIEW("x-correlation-id"), HTTP_H_CORRELATION_ID },
	{ VIEW("transfer-encoding"), HTTP_H_TRANSFER_ENCODING },
	{ VIEW("proxy-authenticate"), HTTP_H_PROXY_AUTHENTICATE },
	{ VIEW("proxy-authorization"), HTTP_H_PROXY_AUTHORIZATION },
};
enum { LONGEST = sizeof "proxy-authorization" - 1 };
/* Where the names of each length begin. */
static const unsigned char first_of[LONGEST + 2] = { 0, 0, 0, 1, 1, 3, 3, 7, 9, 9, 10, 13, 13, 15, 16, 17, 18,
	20, 21, 22, 23 };

static bool same(const char *p, const char *lower, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if ((p[i] | 0x20) != lower[i])
			return false;
	return true;
}

enum http_known http_known_of(struct view name)
{
	size_t from = name.n <= LONGEST ? first_of[name.n] : 0,
	       to = name.n <= LONGEST ? first_of[name.n + 1] : 0;
	for (size_t i = from; i < to; i++)
		if (same(name.p, table[i].name.p, name.n))
			return table[i].known;
	if (name.n >= 9 && same(name.p, "x-corral-", 9))
		return HTTP_H_CORRAL;
	if (name.n >= 15 && same(name.p, "access-control-", 15))
		return HTTP_H_ACCESS_CONTROL;
	if (name.n >= 12 && same(name.p, "x-ratelimit-", 12))
		return HTTP_H_RATELIMIT;
	return HTTP_H_OTHER;
}
