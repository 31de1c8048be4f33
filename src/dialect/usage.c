/* SPDX-License-Identifier: Apache-2.0 */
#include "dialect/usage.h"

#include "base/block.h"

enum { DIGITS_MAX = 15 }; /* more make no count of tokens, and would not fit a double */

void usage_init(struct usage *u)
{
	*u = (struct usage){ -1, -1, -1, -1, -1, -1, -1, -1, -1, false };
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
	struct view name;
	size_t at;
	bool real;
};
#define WHOLE(name, field)                                                                                   \
	{                                                                                                    \
		VIEW(name), offsetof(struct usage, field), false                                             \
	}
#define REAL(name, field)                                                                                    \
	{                                                                                                    \
		VIEW(name), offsetof(struct usage, field), true                                              \
	}

static const struct key keys[] = {
	WHOLE("prompt_tokens", prompt),
	WHOLE("input_tokens", prompt),
	WHOLE("tokens_evaluated", prompt),
	WHOLE("prompt_eval_count", prompt), /* Ollama */
	WHOLE("completion_tokens", output),
	WHOLE("output_tokens", output),
	WHOLE("tokens_predicted", output),
	WHOLE("eval_count", output),
	WHOLE("cached_tokens", cached),
	WHOLE("cache_read_input_tokens", cache_read),
	WHOLE("prompt_n", prompt_n),
	WHOLE("cache_n", cache_n),
	WHOLE("predicted_n", predicted_n),
	REAL("prompt_ms", prompt_ms),
	REAL("predicted_per_second", per_second),
};

/* The key that ends v, with the quote before it; what follows it is after. */
static bool take(struct usage *u, struct view v, struct view after)
{
	for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
		const struct key *k = &keys[i];
		double n;
		if (v.n <= k->name.n || v.p[v.n - 1] != k->name.p[k->name.n - 1] ||
			v.p[v.n - k->name.n - 1] != '"' || !view_ends(v, k->name))
			continue;
		if (!number(after, &n))
			return false;
		char *at = (char *)u + k->at;
		if (k->real)
			*(double *)(void *)at = n;
		else
			*(int64_t *)(void *)at = (int64_t)n;
		return true;
	}
	return false;
}

static bool number_may_begin(char c)
{
	return c == ' ' || (c >= '0' && c <= '9');
}

/* Where keys with a number end, among the first BLOCK_LEN bytes at p; two more are there. */
static unsigned key_ends(const char *p)
{
	struct block next = block_at(p + 2);
	struct block digit = block_but(block_more(next, '0' - 1), block_more(next, '9'));
	struct block colon = block_and(block_is(block_at(p), '"'), block_is(block_at(p + 1), ':'));
	return block_bits(block_and(colon, block_or(digit, block_is(next, ' '))));
}

bool usage_read(struct usage *u, struct view v)
{
	bool any = false;
	size_t i = 0;
	for (; v.n - i >= BLOCK_LEN + 2; i += BLOCK_LEN) {
		for (unsigned ends = key_ends(v.p + i); ends; ends &= ends - 1) {
			size_t at = i + (size_t)__builtin_ctz(ends);
			any |= take(u, view_cut(v, at), view_from(v, at + 2));
		}
	}
	for (; i + 2 < v.n; i++)
		if (v.p[i] == '"' && v.p[i + 1] == ':' && number_may_begin(v.p[i + 2]))
			any |= take(u, view_cut(v, i), view_from(v, i + 2));
	return any;
}

static void read_cut(struct usage *u, const struct usage_pieces *p, struct view v)
{
	char line[2 * USAGE_CARRY];
	v = view_cut(v, USAGE_CARRY);
	memcpy(line, p->end, p->carry);
	memcpy(line + p->carry, v.p, v.n);
	usage_read(u, view_of(line, p->carry + v.n));
}

/* The last bytes of all that went by. */
static void keep_end(struct usage_pieces *p, struct view v)
{
	size_t n = MIN(v.n, (size_t)USAGE_CARRY), old = MIN((size_t)p->carry, USAGE_CARRY - n);
	memmove(p->end, p->end + p->carry - old, old);
	memcpy(p->end + old, v.p + v.n - n, n);
	p->carry = (uint8_t)(old + n);
}

/* OpenAI's chat, Anthropic's messages, OpenAI's responses. Looked for only where numbers stand: that is the
 * last event, and in an answer that is no stream the end, which follows the reason. */
static bool ends_with_tools(struct view v)
{
	static const char *const told[] = { "\"finish_reason\":\"tool_calls\"",
		"\"stop_reason\":\"tool_use\"", "\"type\":\"function_call\"" };
	for (size_t i = 0; i < ARRAY_LEN(told); i++)
		if (view_search(v, view_str(told[i])) >= 0)
			return true;
	return false;
}

void usage_piece(struct usage *u, struct usage_pieces *p, struct view v, bool whole)
{
	if (!v.n)
		return;
	const char *last = v.p + v.n - MIN(v.n, (size_t)USAGE_SAME);
	if (whole && !p->carry && v.n >= USAGE_SAME && memcmp(p->end, last, USAGE_SAME) == 0)
		return;
	if (p->carry)
		read_cut(u, p, v);
	bool any = usage_read(u, view_from(v, v.n - MIN(v.n, (size_t)USAGE_TAIL)));
	if (any && !u->calls_tools)
		u->calls_tools = ends_with_tools(v);
	if (!whole) {
		keep_end(p, v);
		return;
	}
	p->carry = 0;
	memset(p->end, 0, USAGE_SAME);
	if (!any) /* the next one may tell more in the same place */
		memcpy(p->end, last, MIN(v.n, (size_t)USAGE_SAME));
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
	return MAX(u->output, u->predicted_n); /* the later one has counted more */
}
