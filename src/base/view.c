/* SPDX-License-Identifier: Apache-2.0 */
#include "base/view.h"

int view_cmp(struct view a, struct view b)
{
	size_t n = MIN(a.n, b.n);
	int c = n ? memcmp(a.p, b.p, n) : 0;
	if (c)
		return c;
	return a.n < b.n ? -1 : a.n > b.n;
}

struct view view_trim(struct view a)
{
	while (a.n && (a.p[0] == ' ' || a.p[0] == '\t')) {
		a.p++;
		a.n--;
	}
	while (a.n && (a.p[a.n - 1] == ' ' || a.p[a.n - 1] == '\t'))
		a.n--;
	return a;
}

size_t view_find(struct view a, char c)
{
	const char *q = a.n ? memchr(a.p, c, a.n) : NULL;
	return q ? (size_t)(q - a.p) : a.n;
}

struct view view_split(struct view a, char sep, struct view *rest)
{
	size_t i = view_find(a, sep);
	if (i == a.n) {
		*rest = (struct view){ NULL, 0 };
		return a;
	}
	*rest = (struct view){ a.p + i + 1, a.n - i - 1 };
	return (struct view){ a.p, i };
}

ptrdiff_t view_search(struct view a, struct view b)
{
	if (b.n == 0)
		return 0;
	const char *q = a.n ? memmem(a.p, a.n, b.p, b.n) : NULL;
	return q ? q - a.p : -1;
}
