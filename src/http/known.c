/* SPDX-License-Identifier: Apache-2.0
 *
 * Which header a name means. A parsed name holds token characters alone, of which none but a letter changes
 * into another token character that stands in the names here when its 0x20 bit is set.
 */
#include "http/http.h"

static const struct {
	struct view name;
	enum http_known known;
} table[] = {
	{ VIEW("connection"), HTTP_H_CONNECTION },
	{ VIEW("keep-alive"), HTTP_H_KEEP_ALIVE },
	{ VIEW("transfer-encoding"), HTTP_H_TRANSFER_ENCODING },
	{ VIEW("te"), HTTP_H_TE },
	{ VIEW("trailer"), HTTP_H_TRAILER },
	{ VIEW("upgrade"), HTTP_H_UPGRADE },
	{ VIEW("proxy-connection"), HTTP_H_PROXY_CONNECTION },
	{ VIEW("proxy-authenticate"), HTTP_H_PROXY_AUTHENTICATE },
	{ VIEW("proxy-authorization"), HTTP_H_PROXY_AUTHORIZATION },
	{ VIEW("content-length"), HTTP_H_CONTENT_LENGTH },
	{ VIEW("host"), HTTP_H_HOST },
	{ VIEW("origin"), HTTP_H_ORIGIN },
	{ VIEW("expect"), HTTP_H_EXPECT },
	{ VIEW("cookie"), HTTP_H_COOKIE },
	{ VIEW("authorization"), HTTP_H_AUTHORIZATION },
	{ VIEW("x-api-key"), HTTP_H_API_KEY },
	{ VIEW("accept-encoding"), HTTP_H_ACCEPT_ENCODING },
	{ VIEW("content-type"), HTTP_H_CONTENT_TYPE },
	{ VIEW("request-id"), HTTP_H_REQUEST_ID },
	{ VIEW("x-request-id"), HTTP_H_X_REQUEST_ID },
	{ VIEW("x-correlation-id"), HTTP_H_CORRELATION_ID },
	{ VIEW("server"), HTTP_H_SERVER },
	{ VIEW("date"), HTTP_H_DATE },
};

static bool same(const char *p, const char *lower, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if ((p[i] | 0x20) != lower[i])
			return false;
	return true;
}

/* The first letter and the length decide for nearly every name before it is compared. */
enum http_known http_known_of(struct view name)
{
	if (!name.n)
		return HTTP_H_OTHER;
	char first = (char)(name.p[0] | 0x20);
	for (size_t i = 0; i < ARRAY_LEN(table); i++)
		if (table[i].name.n == name.n && table[i].name.p[0] == first &&
			same(name.p, table[i].name.p, name.n))
			return table[i].known;
	if (first == 'x' && name.n >= 9 && same(name.p, "x-corral-", 9))
		return HTTP_H_CORRAL;
	if (first == 'a' && name.n >= 15 && same(name.p, "access-control-", 15))
		return HTTP_H_ACCESS_CONTROL;
	return HTTP_H_OTHER;
}
