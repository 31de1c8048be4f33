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

/* Headers that somebody here looks at or that do not cross a hop: found once, when a head is complete. */
enum http_known {
	HTTP_H_OTHER,
	/* of one hop alone (RFC 9110, 7.6.1, and Content-Length, which is a framing of ours) */
	HTTP_H_CONNECTION,
	HTTP_H_KEEP_ALIVE,
	HTTP_H_TRANSFER_ENCODING,
	HTTP_H_TE,
	HTTP_H_TRAILER,
	HTTP_H_UPGRADE,
	HTTP_H_PROXY_CONNECTION,
	HTTP_H_PROXY_AUTHENTICATE,
	HTTP_H_PROXY_AUTHORIZATION,
	HTTP_H_CONTENT_LENGTH,
	HTTP_H_LAST_HOP = HTTP_H_CONTENT_LENGTH,
	HTTP_H_HOST,
	HTTP_H_ORIGIN,
	HTTP_H_EXPECT,
	HTTP_H_COOKIE,
	HTTP_H_AUTHORIZATION,
	HTTP_H_API_KEY, /* x-api-key */
	HTTP_H_ACCEPT_ENCODING,
	HTTP_H_CONTENT_TYPE,
	HTTP_H_REQUEST_ID, /* request-id */
	HTTP_H_X_REQUEST_ID,
	HTTP_H_CORRELATION_ID, /* x-correlation-id */
	HTTP_H_SERVER,
	HTTP_H_DATE,
	HTTP_H_CORRAL,         /* x-corral-…, any */
	HTTP_H_ACCESS_CONTROL, /* access-control-…, any */
	HTTP_H_RATELIMIT,      /* x-ratelimit-…, any */
};
static inline uint64_t http_known_bit(enum http_known k)
{
	return 1ULL << (unsigned)k;
}
enum http_known http_known_of(struct view name);

struct http_header {
	struct view name, value; /* value without surrounding blanks */
	enum http_known known;
};
struct http_headers {
	const struct http_header *items;
	size_t len;
};

/* The first header that is k (not OTHER, CORRAL or ACCESS_CONTROL), or an empty view with p = NULL. */
struct view http_header_known(const struct http_headers *h, enum http_known k);
size_t http_header_count_known(const struct http_headers *h, enum http_known k);
/* The first header of that name (case ignored), or an empty view with p = NULL. */
struct view http_header_get(const struct http_headers *h, const char *name);
size_t http_header_count(const struct http_headers *h, const char *name);
/* Whether a comma-separated list header holds the token (case ignored), over all its lines. */
bool http_header_has_token(const struct http_headers *h, const char *name, const char *token);
/* Appends every header but those whose bit (http_known_bit) is in drop and those that belong to one hop
 * alone: the first of enum http_known, and whatever a Connection header names. */
void http_headers_copy(const struct http_headers *h, uint64_t drop, struct buf *block);

/* Appends "name: value\r\n"; bytes that would break out of the line are dropped. */
int http_header_add(struct buf *block, const char *name, struct view value);
int http_header_addf(struct buf *block, const char *name, const char *fmt, ...) PRINTF(3, 4);

const char *http_status_text(int status);
enum { HTTP_CHUNK_HEAD = 18 };
/* The line before a chunk of n bytes: its size in hex and CRLF. */
struct view http_chunk_head(size_t n, char out[HTTP_CHUNK_HEAD]);
/* Value of a query parameter, percent-decoded into out (cut at cap); false when it is not there. */
bool http_query_get(struct view query, const char *key, char *out, size_t cap);
/* Percent-decodes; -EINVAL for a broken escape or a NUL. */
int http_unescape(struct view v, struct buf *out) MUST_CHECK;

#endif
