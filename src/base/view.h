/* SPDX-License-Identifier: Apache-2.0
 *
 * Borrowed bytes, passed by value. Valid until the call returns unless the function says otherwise.
 * Not NUL-terminated. Print with "%.*s", VIEW_ARG(v).
 */
#ifndef BASE_VIEW_H
#define BASE_VIEW_H

#include <string.h>
#include <strings.h>

#include "base/base.h"

struct view {
	const char *p;
	size_t n;
};

#define VIEW(lit) ((struct view){ (lit), sizeof(lit) - 1 })
#define VIEW_ARG(v) ((int)(v).n), ((v).n ? (v).p : "")

static inline struct view view_of(const void *p, size_t n)
{
	return (struct view){ (const char *)p, n };
}
static inline struct view view_str(const char *s)
{
	return (struct view){ s, s ? strlen(s) : 0 };
}
static inline bool view_eq(struct view a, struct view b)
{
	return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}
static inline bool view_eqs(struct view a, const char *s)
{
	return view_eq(a, view_str(s));
}
/* Equal strings, or neither is there. */
static inline bool str_same(const char *a, const char *b)
{
	return a && b ? strcmp(a, b) == 0 : a == b;
}
static inline bool view_starts(struct view a, struct view prefix)
{
	return a.n >= prefix.n && (prefix.n == 0 || memcmp(a.p, prefix.p, prefix.n) == 0);
}
static inline bool view_ends(struct view a, struct view suffix)
{
	return a.n >= suffix.n && (suffix.n == 0 || memcmp(a.p + (a.n - suffix.n), suffix.p, suffix.n) == 0);
}
/* From offset i (clamped) to the end. */
static inline struct view view_from(struct view a, size_t i)
{
	i = MIN(i, a.n);
	return (struct view){ a.p ? a.p + i : NULL, a.n - i };
}
static inline struct view view_cut(struct view a, size_t n)
{
	return (struct view){ a.p, MIN(n, a.n) };
}
/* ASCII case ignored. Nearly all that is not equal differs in its length or its first letter. */
static inline bool view_eq_ci(struct view a, struct view b)
{
	return a.n == b.n &&
	       (a.n == 0 || (((a.p[0] ^ b.p[0]) & ~0x20) == 0 && strncasecmp(a.p, b.p, a.n) == 0));
}
int view_cmp(struct view a, struct view b); /* bytewise, like strcmp */
struct view view_trim(struct view a);       /* without spaces and tabs at both ends */
/* Position of c, or a.n. */
size_t view_find(struct view a, char c);
/* Splits at the first sep: returns what is before, *rest gets what is after (empty, p = NULL: no sep). */
struct view view_split(struct view a, char sep, struct view *rest);
/* Position of the bytes of b in a, or -1. */
ptrdiff_t view_search(struct view a, struct view b);

#endif
