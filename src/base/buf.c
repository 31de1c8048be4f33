/* SPDX-License-Identifier: Apache-2.0 */
#include "base/buf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/utf8.h"

void buf_init(struct buf *b, size_t max)
{
	*b = BUF(max);
}

void buf_done(struct buf *b)
{
	free(b->data);
	b->data = NULL;
	b->len = b->cap = 0;
}

void buf_reset(struct buf *b)
{
	b->len = 0;
	if (b->data)
		b->data[0] = '\0';
}

char *buf_room(struct buf *b, size_t n)
{
	if (n > b->max || b->len > b->max - n)
		return NULL;
	size_t want = b->len + n + 1;
	if (want > b->cap) {
		size_t cap = MAX(b->cap * 2, (size_t)64);
		cap = MAX(cap, want);
		cap = MAX(MIN(cap, b->max + 1), want);
		b->data = mem_realloc(b->data, cap);
		b->cap = cap;
		b->data[b->len] = '\0'; /* nothing may come: it is a string all the same */
	}
	return b->data + b->len;
}

void buf_grew(struct buf *b, size_t n)
{
	assert(b->len + n < b->cap);
	b->len += n;
	b->data[b->len] = '\0';
}

int buf_add_grow_(struct buf *b, const void *p, size_t n)
{
	char *to = buf_room(b, n);
	if (!to)
		return -ENOBUFS;
	if (n)
		memcpy(to, p, n);
	buf_grew(b, n);
	return 0;
}

int buf_add_u64(struct buf *b, uint64_t n)
{
	char text[20], *at = text + sizeof text;
	do {
		*--at = (char)('0' + n % 10);
		n /= 10;
	} while (n);
	return buf_add(b, at, (size_t)(text + sizeof text - at));
}

int buf_vaddf(struct buf *b, const char *fmt, va_list ap)
{
	va_list again;
	va_copy(again, ap);
	char small[256];
	int n = vsnprintf(small, sizeof small, fmt, ap);
	int r = n < 0 ? -EINVAL : 0;
	if (!r && (size_t)n < sizeof small) {
		r = buf_add(b, small, (size_t)n);
	} else if (!r) {
		char *to = buf_room(b, (size_t)n);
		if (to) {
			vsnprintf(to, (size_t)n + 1, fmt, again);
			buf_grew(b, (size_t)n);
		} else {
			r = -ENOBUFS;
		}
	}
	va_end(again);
	return r;
}

int buf_addf(struct buf *b, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	int r = buf_vaddf(b, fmt, ap);
	va_end(ap);
	return r;
}

static int add_escaped(struct buf *b, unsigned char c)
{
	switch (c) {
	case '"': return buf_add(b, "\\\"", 2);
	case '\\': return buf_add(b, "\\\\", 2);
	case '\n': return buf_add(b, "\\n", 2);
	case '\r': return buf_add(b, "\\r", 2);
	case '\t': return buf_add(b, "\\t", 2);
	default: return buf_addf(b, "\\u%04x", c);
	}
}

int buf_add_json(struct buf *b, struct view v)
{
	size_t from = b->len;
	int r = buf_addc(b, '"');
	size_t i = 0;
	while (!r && i < v.n) {
		size_t j = i;
		while (j < v.n && (unsigned char)v.p[j] >= 0x20 && (unsigned char)v.p[j] < 0x7f &&
			v.p[j] != '"' && v.p[j] != '\\')
			j++;
		if (j > i) {
			r = buf_add(b, v.p + i, j - i);
			i = j;
			continue;
		}
		unsigned char c = (unsigned char)v.p[i];
		if (c < 0x80) {
			r = add_escaped(b, c);
			i++;
			continue;
		}
		size_t n = utf8_len(view_from(v, i));
		r = n ? buf_add(b, v.p + i, n) : buf_add(b, "\xef\xbf\xbd", 3);
		i += n ? n : 1;
	}
	if (!r)
		r = buf_addc(b, '"');
	if (r) {
		b->len = from;
		if (b->data)
			b->data[from] = '\0';
	}
	return r;
}

void buf_consume(struct buf *b, size_t n)
{
	assert(n <= b->len);
	if (n == 0)
		return;
	b->len -= n;
	memmove(b->data, b->data + n, b->len);
	b->data[b->len] = '\0';
}

const char *buf_str(const struct buf *b)
{
	return b->data ? b->data : "";
}

char *buf_take(struct buf *b)
{
	char *s = b->data ? b->data : mem_strdup("");
	b->data = NULL;
	b->len = b->cap = 0;
	return s;
}
