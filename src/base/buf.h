/* SPDX-License-Identifier: Apache-2.0
 *
 * Growable bytes with a bound that is stated when the buffer is made: an append that would pass it
 * changes nothing and returns -ENOBUFS. The bytes are always followed by a NUL that is not counted.
 */
#ifndef BASE_BUF_H
#define BASE_BUF_H

#include <stdarg.h>

#include "base/base.h"
#include "base/view.h"

struct buf {
	char *data; /* NULL while nothing was ever appended */
	size_t len, cap, max;
};

#define BUF(max_bytes) ((struct buf){ .max = (max_bytes) })

void buf_init(struct buf *b, size_t max);
void buf_done(struct buf *b);  /* for AUTO(buf_done) struct buf b = BUF(1 * MIB); */
void buf_reset(struct buf *b); /* forgets the contents, keeps the memory */
/* Appends; all return 0 or -ENOBUFS. */
int buf_add_grow_(struct buf *b, const void *p, size_t n); /* buf_add where there is no room yet */
static inline int buf_add(struct buf *b, const void *p, size_t n)
{
	if (n >= b->cap - b->len || !b->cap)
		return buf_add_grow_(b, p, n);
	if (n)
		memcpy(b->data + b->len, p, n);
	b->len += n;
	b->data[b->len] = '\0';
	return 0;
}
static inline int buf_addv(struct buf *b, struct view v)
{
	return buf_add(b, v.p, v.n);
}
static inline int buf_adds(struct buf *b, const char *s)
{
	return buf_add(b, s, strlen(s));
}
static inline int buf_addc(struct buf *b, char c)
{
	return buf_add(b, &c, 1);
}
int buf_add_u64(struct buf *b, uint64_t n); /* in decimal */
int buf_addf(struct buf *b, const char *fmt, ...) PRINTF(2, 3);
int buf_vaddf(struct buf *b, const char *fmt, va_list ap) PRINTF(2, 0);
/* Appends v as a JSON string with its quotes; bytes that are not UTF-8 become U+FFFD. */
int buf_add_json(struct buf *b, struct view v);
/* Makes room for n more bytes and returns where they go (NULL at the bound); then buf_grew(b, used). */
char *buf_room(struct buf *b, size_t n);
void buf_grew(struct buf *b, size_t n);
/* Drops the first n bytes. */
void buf_consume(struct buf *b, size_t n);
static inline struct view buf_view(const struct buf *b)
{
	return (struct view){ b->data, b->len };
}
/* The contents as a C string ("" when empty); valid until the next change. */
const char *buf_str(const struct buf *b);
/* Moves the contents out as a malloc'd C string; the buffer is empty afterwards. */
char *buf_take(struct buf *b) MUST_CHECK;

#endif
