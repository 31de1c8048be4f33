/* SPDX-License-Identifier: Apache-2.0
 *
 * Token counts read out of an answer that comes in pieces, against a plain reader of the whole: however it is
 * cut, the same numbers. In the input a byte 1 is a cut, a byte 2 one where an event ends. Built with
 * -Dfuzz=true (clang).
 */
#include <stdlib.h>

#include "dialect/usage.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

enum { CUT = 1, EVENT = 2, ALL_MAX = 4096 };

static void must(bool ok)
{
	if (!ok)
		abort();
}

/* ---- a plain reader -------------------------------------------------------------------------------- */

static int64_t *whole_field(struct usage *u, struct view key)
{
	static const char *const names[][4] = {
		{ "prompt_tokens", "input_tokens", "tokens_evaluated", "prompt_eval_count" },
		{ "completion_tokens", "output_tokens", "tokens_predicted", "eval_count" },
		{ "cached_tokens" },
		{ "cache_read_input_tokens" },
		{ "prompt_n" },
		{ "cache_n" },
		{ "predicted_n" },
	};
	int64_t *const fields[] = { &u->prompt, &u->output, &u->cached, &u->cache_read, &u->prompt_n,
		&u->cache_n, &u->predicted_n };
	for (size_t i = 0; i < ARRAY_LEN(fields); i++)
		for (size_t j = 0; j < 4 && names[i][j]; j++)
			if (view_eqs(key, names[i][j]))
				return fields[i];
	return NULL;
}

static double *real_field(struct usage *u, struct view key)
{
	if (view_eqs(key, "prompt_ms"))
		return &u->prompt_ms;
	return view_eqs(key, "predicted_per_second") ? &u->per_second : NULL;
}

/* The name between the quote at open and the next; empty: there is none. */
static struct view name_at(struct view v, size_t open)
{
	for (size_t i = open + 1; i < v.n; i++)
		if (v.p[i] == '"')
			return view_of(v.p + open + 1, i - open - 1);
	return view_of("", 0);
}

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* The number from at on and how long it is, up to what ends it; 0: none. */
static size_t number_at(struct view v, size_t at, double *ret)
{
	char text[ALL_MAX + 1];
	size_t i = at, n = 0, digits = 0;
	while (i < v.n && v.p[i] == ' ')
		i++;
	for (; i < v.n && is_digit(v.p[i]); digits++)
		text[n++] = v.p[i++];
	if (!digits || digits > 15)
		return 0;
	if (i < v.n && v.p[i] == '.')
		do
			text[n++] = v.p[i++];
		while (i < v.n && is_digit(v.p[i]));
	if (i >= v.n || v.p[i] == 'e' || v.p[i] == 'E')
		return 0;
	text[n] = '\0';
	*ret = strtod(text, NULL);
	return i + 1 - at;
}

/* Returns how long the longest number with its key is, from quote to what ends it. */
static size_t plain(struct usage *u, struct view v)
{
	size_t longest = 0;
	for (size_t i = 0; i < v.n; i++) {
		double d;
		struct view name = v.p[i] == '"' ? name_at(v, i) : view_of("", 0);
		int64_t *whole = whole_field(u, name);
		double *real = real_field(u, name);
		size_t colon = i + name.n + 2, n;
		if ((!whole && !real) || colon >= v.n || v.p[colon] != ':' ||
			!(n = number_at(v, colon + 1, &d)))
			continue;
		if (whole)
			*whole = (int64_t)d;
		else
			*real = d;
		longest = MAX(longest, colon + 1 + n - i);
	}
	return longest;
}

/* ---- in pieces ------------------------------------------------------------------------------------- */

static bool near(double a, double b)
{
	return a - b <= 1e-9 * (1 + b) && b - a <= 1e-9 * (1 + b);
}

static void same(const struct usage *a, const struct usage *b)
{
	must(a->prompt == b->prompt && a->output == b->output && a->cached == b->cached);
	must(a->cache_read == b->cache_read && a->prompt_n == b->prompt_n && a->cache_n == b->cache_n);
	must(a->predicted_n == b->predicted_n);
	must(near(a->prompt_ms, b->prompt_ms) && near(a->per_second, b->per_second));
}

/* The reader's own copy of the piece, of just its size: the sanitizer sees a read past its end. */
static void feed(struct usage *u, struct usage_pieces *p, struct view v, bool whole)
{
	char *own = malloc(v.n + !v.n);
	if (!own)
		return;
	if (v.n)
		memcpy(own, v.p, v.n);
	usage_piece(u, p, view_of(own, v.n), whole);
	free(own);
	must(p->carry <= USAGE_CARRY && !(whole && v.n && p->carry));
	must(usage_prompt(u) >= -1 && usage_cached(u) >= -1 && usage_output(u) >= -1);
	must(u->prompt_ms >= -1 && u->per_second >= -1);
}

/* Where events end nothing is carried over, and an event like the one before is passed over: there the
 * numbers need not be those of the whole. Returns whether one ended. */
static bool in_pieces(struct usage *u, struct view v, char *joined, size_t *ret_n)
{
	struct usage_pieces p = { 0 };
	bool events = false;
	size_t from = 0;
	usage_init(u);
	for (size_t i = 0; i <= v.n; i++) {
		bool whole = i < v.n && v.p[i] == EVENT;
		if (i < v.n && v.p[i] != CUT && v.p[i] != EVENT)
			continue;
		feed(u, &p, view_of(v.p + from, i - from), whole);
		memcpy(joined + *ret_n, v.p + from, i - from);
		*ret_n += i - from;
		events |= whole;
		from = i + 1;
	}
	return events;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	char joined[ALL_MAX];
	size_t len = 0;
	struct usage pieces, all, read;
	if (n > ALL_MAX)
		return 0;
	bool events = in_pieces(&pieces, view_of(n ? (const char *)data : "", n), joined, &len);
	struct view v = view_of(joined, len);
	usage_init(&all);
	usage_init(&read);
	size_t longest = plain(&all, v);
	usage_read(&read, v);
	same(&all, &read);
	/* of more than this a piece's beginning is not read, and a longer number may be lost at a cut */
	if (!events && len <= USAGE_TAIL && longest <= USAGE_CARRY)
		same(&all, &pieces);
	return 0;
}
