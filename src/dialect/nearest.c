/* SPDX-License-Identifier: Apache-2.0
 *
 * Which ids somebody may have meant.
 */
#include <ctype.h>

#include "dialect/dialect.h"

enum { NEAREST_LEN_MAX = 128, NEAREST_COUNT = 3 };

static bool same(char a, char b)
{
	return tolower((unsigned char)a) == tolower((unsigned char)b);
}

/* Damerau-Levenshtein distance (adjacent swaps count one; no part is edited twice), case ignored.
 * Both at most NEAREST_LEN_MAX long. */
static unsigned distance(struct view a, struct view b)
{
	unsigned rows[3][NEAREST_LEN_MAX + 1];
	for (size_t j = 0; j <= b.n; j++)
		rows[0][j] = (unsigned)j;
	for (size_t i = 1; i <= a.n; i++) {
		unsigned *now = rows[i % 3], *up = rows[(i + 2) % 3], *up2 = rows[(i + 1) % 3];
		now[0] = (unsigned)i;
		for (size_t j = 1; j <= b.n; j++) {
			unsigned d = up[j - 1] + !same(a.p[i - 1], b.p[j - 1]);
			d = MIN(d, MIN(up[j], now[j - 1]) + 1);
			if (i > 1 && j > 1 && same(a.p[i - 1], b.p[j - 2]) && same(a.p[i - 2], b.p[j - 1]))
				d = MIN(d, up2[j - 2] + 1);
			now[j] = d;
		}
	}
	return rows[a.n % 3][b.n];
}

struct near_id {
	const char *id;
	unsigned distance;
};

static bool nearer(const struct near_id *a, const struct near_id *b)
{
	if (a->distance != b->distance)
		return a->distance < b->distance;
	return view_cmp(view_str(a->id), view_str(b->id)) < 0;
}

void dialect_nearest(struct view wrong, const char *const *ids, size_t n, struct buf *b)
{
	struct near_id best[NEAREST_COUNT] = { 0 };
	size_t found = 0;
	if (wrong.n == 0 || wrong.n > NEAREST_LEN_MAX)
		return;
	for (size_t i = 0; i < n; i++) {
		struct view id = view_str(ids[i]);
		if (id.n == 0 || id.n > NEAREST_LEN_MAX)
			continue;
		struct near_id c = { ids[i], distance(wrong, id) };
		if (c.distance > wrong.n / 2)
			continue;
		size_t at = found;
		while (at > 0 && nearer(&c, &best[at - 1]))
			at--;
		if (at == NEAREST_COUNT)
			continue;
		found = MIN(found + 1, (size_t)NEAREST_COUNT);
		for (size_t k = found - 1; k > at; k--)
			best[k] = best[k - 1];
		best[at] = c;
	}
	for (size_t i = 0; i < found; i++)
		(void)buf_addf(b, "%s%s", i ? ", " : "", best[i].id);
}
