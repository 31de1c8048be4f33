/* SPDX-License-Identifier: Apache-2.0 */
#include "dialect/usage.h"

enum { DIGITS_MAX = 15 }; /* more make no count of tokens, and would not fit a double */

void usage_init(struct usage *u)
{
	*u = (struct usage){ -1, -1, -1, -1, -1, -1, -1, -1, -1 };
}

/* A number at the start of v (after spaces), whole or with a fraction; false: there is none. One that v ends
 * in the middle of is none either: it may be the beginning of a larger one. */
static bool number(struct view v, double *ret)
{
	size_t i = 0, digits = 0;
	double n = 0, unit = 1;
	bool point = false;
	while (i < v.n && v.p[i] == ' ')
		i++;
	for (; i < v.n; i++) {
		if (v.p[i] == '.' && !point && digits) {
			point = true;
			continue;
		}
		if (v.p[i] < '0' || v.p[i] > '9')
			break;
		if (!point && ++digits > DIGITS_MAX)
			return false;
		unit = point ? unit / 10 : unit;
		n = point ? n + unit * (v.p[i] - '0') : n * 10 + (v.p[i] - '0');
	}
	if (!digits || i == v.n || v.p[i] == 'e' || v.p[i] == 'E')
		return false;
	*ret = n;
	return true;
}

struct key {
	struct view name; /* with the quote that ends it and the colon */
	size_t at;
	bool real;
};
#define WHOLE(name, field)                                                                                   \
	{                                                                                                    \
		VIEW(name "\":"), offsetof(struct usage, field), false                                       \
	}
#define REAL(name, field)                                                                                    \
	{                                                                                                    \
		VIEW(name "\":"), offsetof(struct usage, field), true                                        \
	}

static const struct key keys[] = {
	WHOLE("prompt_tokens", prompt),
	WHOLE("input_tokens", prompt),
	WHOLE("tokens_evaluated", prompt),
	WHOLE("completion_tokens", output),
	WHOLE("output_tokens", output),
	WHOLE("tokens_predicted", output),
	WHOLE("cached_tokens", cached),
	WHOLE("cache_read_input_tokens", cache_read),
	WHOLE("prompt_n", prompt_n),
	WHOLE("cache_n", cache_n),
	WHOLE("predicted_n", predicted_n),
	REAL("prompt_ms", prompt_ms),
	REAL("predicted_per_second", per_second),
};

static void take(struct usage *u, struct view v)
{
	for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
		const struct key *k = &keys[i];
		double n;
		if (!view_starts(v, k->name) || !number(view_from(v, k->name.n), &n))
			continue;
		char *at = (char *)u + k->at;
		if (k->real)
			*(double *)(void *)at = n;
		else
			*(int64_t *)(void *)at = (int64_t)n;
		return;
	}
}

void usage_read(struct usage *u, struct view v)
{
	for (;;) {
		size_t n = view_find(v, '"');
		if (n == v.n)
			return;
		v = view_from(v, n + 1);
		char c = v.n ? v.p[0] : '\0';
		if (c == 'p' || c == 'c' || c == 'i' || c == 'o' || c == 't')
			take(u, v);
	}
}

int64_t usage_cached(const struct usage *u)
{
	if (u->cached >= 0)
		return u->cached;
	return u->cache_read >= 0 ? u->cache_read : u->cache_n;
}

int64_t usage_prompt(const struct usage *u)
{
	if (u->prompt >= 0)
		return u->prompt + MAX(u->cache_read, (int64_t)0);
	return u->prompt_n >= 0 ? u->prompt_n + MAX(u->cache_n, (int64_t)0) : -1;
}

int64_t usage_output(const struct usage *u)
{
	return u->output >= 0 ? u->output : u->predicted_n;
}
