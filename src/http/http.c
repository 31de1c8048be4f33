/* SPDX-License-Identifier: Apache-2.0 */
#include "http/http.h"

#include <stdarg.h>
#include <stdio.h>

struct view http_header_get(const struct http_headers *h, const char *name)
{
	struct view want = view_str(name);
	for (size_t i = 0; i < h->len; i++)
		if (view_eq_ci(h->items[i].name, want))
			return h->items[i].value;
	return (struct view){ NULL, 0 };
}

size_t http_header_count(const struct http_headers *h, const char *name)
{
	struct view want = view_str(name);
	size_t n = 0;
	for (size_t i = 0; i < h->len; i++)
		n += view_eq_ci(h->items[i].name, want);
	return n;
}

static bool list_has(struct view list, struct view token)
{
	while (list.p) {
		struct view one = view_trim(view_split(list, ',', &list));
		if (view_eq_ci(one, token))
			return true;
	}
	return false;
}

bool http_header_has_token(const struct http_headers *h, const char *name, const char *token)
{
	struct view want = view_str(name);
	for (size_t i = 0; i < h->len; i++)
		if (view_eq_ci(h->items[i].name, want) && list_has(h->items[i].value, view_str(token)))
			return true;
	return false;
}

struct view http_header_known(const struct http_headers *h, enum http_known k)
{
	for (size_t i = 0; i < h->len; i++)
		if (h->items[i].known == k)
			return h->items[i].value;
	return (struct view){ NULL, 0 };
}

size_t http_header_count_known(const struct http_headers *h, enum http_known k)
{
	size_t n = 0;
	for (size_t i = 0; i < h->len; i++)
		n += h->items[i].known == k;
	return n;
}

/* No header is called "close", and Keep-Alive is of one hop anyway. */
static bool is_usual(struct view connection)
{
	return view_eq_ci(connection, VIEW("keep-alive")) || view_eq_ci(connection, VIEW("close"));
}

/* Whether some Connection header names it (RFC 9110, 7.6.1); an empty name: anything that is not usual. */
static bool connection_names(const struct http_headers *h, struct view name)
{
	for (size_t i = 0; i < h->len; i++) {
		struct view v = h->items[i].value;
		if (h->items[i].known == HTTP_H_CONNECTION && !is_usual(v) && (!name.n || list_has(v, name)))
			return true;
	}
	return false;
}

static void copy_line(struct buf *b, const struct http_header *h)
{
	struct view name = h->name, value = h->value;
	char *to = buf_room(b, name.n + value.n + 4);
	if (!to)
		return;
	memcpy(to, name.p, name.n);
	memcpy(to + name.n, ": ", 2);
	if (value.n)
		memcpy(to + name.n + 2, value.p, value.n);
	memcpy(to + name.n + 2 + value.n, "\r\n", 2);
	buf_grew(b, name.n + value.n + 4);
}

void http_headers_copy(const struct http_headers *h, uint64_t drop, struct buf *block)
{
	static const uint64_t hop = (1ULL << (HTTP_H_LAST_HOP + 1)) - (1ULL << (HTTP_H_OTHER + 1));
	bool named = connection_names(h, view_of("", 0));
	drop |= hop;
	for (size_t i = 0; i < h->len; i++) {
		const struct http_header *one = &h->items[i];
		if ((drop & http_known_bit(one->known)) || (named && connection_names(h, one->name)))
			continue;
		copy_line(block, one);
	}
}

/* Room for the whole line at once; what would break out of it is left out while it is copied. */
int http_header_add(struct buf *b, const char *name, struct view value)
{
	size_t n = strlen(name);
	char *line = buf_room(b, n + value.n + 4), *to = line;
	if (!line)
		return -ENOBUFS;
	memcpy(to, name, n);
	to += n;
	*to++ = ':';
	*to++ = ' ';
	for (size_t i = 0; i < value.n; i++) {
		unsigned char c = (unsigned char)value.p[i];
		if (c >= 0x20 ? c != 0x7f : c == '\t')
			*to++ = value.p[i];
	}
	*to++ = '\r';
	*to++ = '\n';
	buf_grew(b, (size_t)(to - line));
	return 0;
}

int http_header_addf(struct buf *b, const char *name, const char *fmt, ...)
{
	char text[1024];
	va_list ap;
	va_start(ap, fmt);
	int n = vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	if (n < 0)
		return -EINVAL;
	return http_header_add(b, name, view_of(text, MIN((size_t)n, sizeof text - 1)));
}

struct view http_chunk_head(size_t n, char out[HTTP_CHUNK_HEAD])
{
	char *at = out + HTTP_CHUNK_HEAD - 2;
	memcpy(at, "\r\n", 2);
	do {
		*--at = "0123456789abcdef"[n & 15];
		n >>= 4;
	} while (n);
	return view_of(at, (size_t)(out + HTTP_CHUNK_HEAD - at));
}

const char *http_status_text(int status)
{
	static const struct {
		int status;
		const char *text;
	} table[] = {
		{ 200, "OK" },
		{ 201, "Created" },
		{ 202, "Accepted" },
		{ 204, "No Content" },
		{ 304, "Not Modified" },
		{ 400, "Bad Request" },
		{ 401, "Unauthorized" },
		{ 403, "Forbidden" },
		{ 404, "Not Found" },
		{ 405, "Method Not Allowed" },
		{ 408, "Request Timeout" },
		{ 409, "Conflict" },
		{ 410, "Gone" },
		{ 413, "Content Too Large" },
		{ 414, "URI Too Long" },
		{ 415, "Unsupported Media Type" },
		{ 417, "Expectation Failed" },
		{ 421, "Misdirected Request" },
		{ 422, "Unprocessable Content" },
		{ 429, "Too Many Requests" },
		{ 431, "Request Header Fields Too Large" },
		{ 499, "Client Closed Request" },
		{ 500, "Internal Server Error" },
		{ 501, "Not Implemented" },
		{ 502, "Bad Gateway" },
		{ 503, "Service Unavailable" },
		{ 504, "Gateway Timeout" },
		{ 505, "HTTP Version Not Supported" },
		{ 529, "Overloaded" },
	};
	for (size_t i = 0; i < ARRAY_LEN(table); i++)
		if (table[i].status == status)
			return table[i].text;
	return status < 300   ? "OK"
	       : status < 400 ? "Redirect"
	       : status < 500 ? "Client Error"
			      : "Server Error";
}

static int hex_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

static int unescape(struct view v, bool plus, struct buf *out)
{
	for (size_t i = 0; i < v.n; i++) {
		char c = v.p[i];
		if (plus && c == '+')
			c = ' ';
		if (c == '%') {
			int hi = i + 2 < v.n ? hex_value(v.p[i + 1]) : -1;
			int lo = i + 2 < v.n ? hex_value(v.p[i + 2]) : -1;
			if (hi < 0 || lo < 0 || (hi | lo) == 0)
				return -EINVAL;
			c = (char)(hi * 16 + lo);
			i += 2;
		}
		int r = buf_addc(out, c);
		if (r)
			return r;
	}
	return 0;
}

int http_unescape(struct view v, struct buf *out)
{
	return unescape(v, false, out);
}

bool http_query_get(struct view query, const char *key, char *out, size_t cap)
{
	while (query.p) {
		struct view value, pair = view_split(query, '&', &query);
		struct view name = view_split(pair, '=', &value);
		if (!view_eqs(name, key))
			continue;
		AUTO(buf_done) struct buf b = BUF(cap - 1);
		if (unescape(value, true, &b) == -EINVAL)
			return false;
		size_t n = MIN(b.len, cap - 1);
		if (n)
			memcpy(out, b.data, n);
		out[n] = '\0';
		return true;
	}
	return false;
}
