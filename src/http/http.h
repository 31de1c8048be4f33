/* SPDX-License-Identifier: Apache-2.0
 *
 * What server and client share: methods, header lists, status words. HTTP/1.1 as RFC 9110 and 9112.
 */
#ifndef HTTP_HTTP_H
#define HTTP_HTTP_H

#include "base/buf.h"
#include "base/view.h"

enum {
	HTTP_HEAD_MAX = 64 * 1024, /* request line or status line and all headers */
	HTTP_HEADERS_MAX = 128,
	HTTP_TARGET_MAX = 8 * 1024,
};

struct http_header {
	struct view name, value; /* value without surrounding blanks */
};
struct http_headers {
	struct http_header items[HTTP_HEADERS_MAX];
	size_t len;
};

/* The first header of that name (case ignored), or an empty view with p = NULL. */
struct view http_header_get(const struct http_headers *h, const char *name);
size_t http_header_count(const struct http_headers *h, const char *name);
/* Whether a comma-separated list header holds the token (case ignored), over all its lines. */
bool http_header_has_token(const struct http_headers *h, const char *name, const char *token);
/* Connection, Keep-Alive, Transfer-Encoding, TE, Trailer, Upgrade, Proxy-*, Content-Length, and whatever
 * the Connection header names: what belongs to one hop alone. */
bool http_header_is_hop(const struct http_headers *h, struct view name);

/* Appends "name: value\r\n"; bytes that would break out of the line are dropped. */
int http_header_add(struct buf *block, const char *name, struct view value);
int http_header_addf(struct buf *block, const char *name, const char *fmt, ...) PRINTF(3, 4);

const char *http_status_text(int status);
/* Value of a query parameter, percent-decoded into out (cut at cap); false when it is not there. */
bool http_query_get(struct view query, const char *key, char *out, size_t cap);
/* Percent-decodes; -EINVAL for a broken escape or a NUL. */
int http_unescape(struct view v, struct buf *out) MUST_CHECK;

#endif
