/* SPDX-License-Identifier: Apache-2.0
 *
 * What all turns of a conversation begin with: the messages up to the first one of its user. The body scanner
 * has found where they are and that they are JSON; here they are looked at again, and nothing is refused.
 */
#include <string.h>

#include "dialect/dialect.h"
#include "dialect/string_int.h"

static const char *skip_space(const char *p, const char *end)
{
	while (p < end && (*p == ' ' || *p == '\t' || *p == '\n' || *p == '\r'))
		p++;
	return p;
}

/* Behind the string that p opens; end: it is cut off. */
static const char *skip_string(const char *p, const char *end)
{
	for (p++; p < end && *p != '"'; p = MIN(p, end)) {
		p = string_plain_end(p, end);
		if (p < end && *p != '"')
			p += *p == '\\' ? 2 : 1;
	}
	return p < end ? p + 1 : end;
}

/* Behind the value that begins at p; end: it is cut off. *ret_user: it is an object whose role is "user". */
static const char *skip_value(const char *p, const char *end, bool *ret_user)
{
	unsigned depth = 0;
	bool role = false;
	*ret_user = false;
	for (; p < end; p = skip_space(p, end)) {
		const char *from = p;
		if (*p == '"') {
			p = skip_string(p, end);
			struct view word = view_of(from, (size_t)(p - from));
			if (role && depth == 1)
				*ret_user = view_eqs(word, "\"user\"");
			role = depth == 1 && view_eqs(word, "\"role\"");
			if (!depth)
				return p;
			continue;
		}
		p++;
		if (*from == '{' || *from == '[') {
			depth++;
		} else if (*from == '}' || *from == ']') {
			if (!depth)
				return from;
			if (--depth == 0)
				return p;
		} else if (*from == ',' && !depth) {
			return from;
		}
		role = role && *from == ':';
	}
	return end;
}

struct view talk_beginning(struct view v)
{
	const char *p = skip_space(v.p, v.p + v.n), *end = v.p + v.n, *from;
	bool user = false;
	if (p < end && *p == ':')
		p = skip_space(p + 1, end);
	from = p;
	if (p == end || *p != '[') /* one text is one turn, and the next has another */
		return (struct view){ NULL, 0 };
	for (p = skip_space(p + 1, end); p < end && *p != ']' && !user; p = skip_space(p, end)) {
		p = skip_value(p, end, &user);
		if (p < end && *p == ',')
			p++;
	}
	/* what follows the last one is no part of it: a comma when there is more, a bracket when not */
	while (p > from && (p[-1] == ',' || p[-1] == ' ' || p[-1] == '\n' || p[-1] == '\t' || p[-1] == '\r'))
		p--;
	return view_of(from, (size_t)(p - from));
}

uint64_t talk_hash(uint64_t seed, struct view v)
{
	uint64_t h = (seed ^ v.n) * 0x9e3779b97f4a7c15u;
	for (; v.n; v = view_from(v, MIN(v.n, sizeof h))) {
		uint64_t word = 0;
		memcpy(&word, v.p, MIN(v.n, sizeof word));
		h = (h ^ word) * 0xff51afd7ed558ccdu;
		h ^= h >> 32;
	}
	return h ? h : 1;
}
