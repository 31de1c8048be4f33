/* SPDX-License-Identifier: Apache-2.0
 *
 * The body scanner: JSON (RFC 8259) checked to the last byte, with nothing kept but the few values the
 * router needs. Whatever it takes is a JSON object for every strict parser behind us: strings must be
 * UTF-8, surrogates come in pairs, numbers keep the grammar.
 *
 * It is a machine of one byte at a time, so that a body may be cut anywhere. What bodies are made of goes
 * past it faster: the plain characters of a string in blocks, its whole UTF-8 characters and short escapes
 * at once. What such a shortcut does not know it leaves to the machine, mistakes above all.
 */
#include <string.h>

#include "base/num.h"
#include "base/utf8.h"
#include "dialect/dialect.h"
#include "dialect/string_int.h"

enum scan_state {
	S_START,     /* before the object */
	S_FIRST_KEY, /* after {: a key or } */
	S_KEY,       /* after , in an object */
	S_COLON,
	S_FIRST_VALUE, /* after [: a value or ] */
	S_VALUE,
	S_AFTER, /* after a value: , or the end of what holds it */
	S_DONE,
	S_STRING,
	S_ESCAPE,
	S_HEX,
	S_LOW_BACKSLASH, /* the second half of a surrogate pair must follow */
	S_LOW_U,
	S_UTF8,
	S_NUMBER,
	S_LITERAL,
};
enum number_state { N_MINUS, N_ZERO, N_INT, N_DOT, N_FRACTION, N_E, N_SIGN, N_EXPONENT };
enum field {
	F_NONE,
	F_OTHER_CASE,
	F_TALK,
	F_MODEL,
	F_STREAM,
	F_USER,
	F_LIMIT /* and the SCAN_LIMITS - 1 after it */
};
enum keep { KEEP_NOTHING, KEEP_TEXT, KEEP_USER, KEEP_MODEL };

void body_scan_init(struct body_scan *s)
{
	memset(s, 0, offsetof(struct body_scan, text));
	s->user[0] = s->model[0] = '\0';
}

/* Every step takes where it is and returns where the next one starts; NULL: refused. */
static const char *fail(struct body_scan *s, const char *p, const char *what)
{
	s->bytes = s->shift + (uintptr_t)p;
	s->failed = what;
	return NULL;
}

static uint64_t offset_of(const struct body_scan *s, const char *p)
{
	return s->shift + (uintptr_t)p;
}

static bool is_space(char c)
{
	return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static bool in_object(const struct body_scan *s)
{
	uint32_t i = s->depth - 1;
	return (s->stack[i / 64] >> (i % 64)) & 1;
}

static const char *push(struct body_scan *s, const char *p, bool object)
{
	if (s->depth == SCAN_DEPTH_MAX)
		return fail(s, p, "arrays and objects are nested more than 128 deep");
	uint64_t bit = (uint64_t)1 << (s->depth % 64);
	uint64_t *word = &s->stack[s->depth / 64];
	*word = object ? *word | bit : *word & ~bit;
	s->depth++;
	s->state = object ? S_FIRST_KEY : S_FIRST_VALUE;
	return p + 1;
}

static const char *pop(struct body_scan *s, const char *p)
{
	s->depth--;
	s->state = s->depth ? S_AFTER : S_DONE;
	return p + 1;
}

/* ---- what is kept -------------------------------------------------------------------------------------- */

static void begin_text(struct body_scan *s, enum keep where)
{
	s->keep = (uint8_t)where;
	s->too_long = false;
	s->text_len = 0;
}

static void keep_bytes(struct body_scan *s, const char *p, size_t n)
{
	size_t cap = s->keep == KEEP_MODEL  ? SCAN_STRING_MAX
		     : s->keep == KEEP_USER ? SCAN_USER_MAX
					    : SCAN_KEY_MAX;
	char *to = s->keep == KEEP_MODEL ? s->model : s->keep == KEEP_USER ? s->user : s->text;
	if (!s->keep || s->too_long || !n)
		return;
	s->too_long = n > cap - s->text_len;
	if (s->too_long)
		return;
	memcpy(to + s->text_len, p, n);
	s->text_len += (uint32_t)n;
}

static void keep_char(struct body_scan *s, uint32_t cp)
{
	char out[4];
	keep_bytes(s, out, utf8_put(out, cp));
}

/* ---- strings ------------------------------------------------------------------------------------------- */

static enum field field_of(struct view key)
{
	static const struct {
		char name[SCAN_KEY_MAX];
		enum field field;
	} by_length[SCAN_KEY_MAX] = {
		[4] = { "user", F_USER },
		[5] = { "model", F_MODEL },
		[6] = { "stream", F_STREAM },
		[8] = { "messages", F_TALK },
		[9] = { "n_predict", F_LIMIT },
		[10] = { "max_tokens", F_LIMIT + 1 },
		[17] = { "max_output_tokens", F_LIMIT + 2 },
		[21] = { "max_completion_tokens", F_LIMIT + 3 },
	};
	if (key.n < SCAN_KEY_MAX && by_length[key.n].name[0] == key.p[0] &&
		memcmp(by_length[key.n].name, key.p, key.n) == 0)
		return by_length[key.n].field;
	if (view_eq_ci(key, VIEW("model")) || view_eq_ci(key, VIEW("stream")))
		return F_OTHER_CASE;
	return view_eqs(key, "input") ? F_TALK : F_NONE;
}

static const char *string(struct body_scan *s, const char *p, const char *end);

static const char *begin_string(struct body_scan *s, const char *p, const char *end, bool key)
{
	s->state = S_STRING;
	s->is_key = key;
	s->keep = KEEP_NOTHING;
	if (s->depth == 1) {
		if (key) {
			begin_text(s, KEEP_TEXT);
		} else if (s->field == F_MODEL) {
			begin_text(s, KEEP_MODEL);
			s->model_begin = offset_of(s, p);
		} else if (s->field == F_USER) {
			begin_text(s, KEEP_USER);
		}
	}
	return string(s, p + 1, end);
}

static const char *end_key(struct body_scan *s, struct view key, const char *p)
{
	s->state = S_COLON;
	if (s->depth != 1)
		return p + 1;
	s->field = s->too_long || !key.n ? F_NONE : (uint8_t)field_of(key);
	if (s->field == F_TALK) { /* where it is, is all that is wanted of it */
		s->talk_at = offset_of(s, p) + 1;
		s->field = F_NONE;
	}
	if (s->field == F_OTHER_CASE) /* engines that do not tell cases apart would take it for it */
		return fail(s, p, "`model` and `stream` are written in small letters; this one is not");
	if (s->field == F_MODEL && s->seen_model)
		return fail(s, p, "`model` stands here a second time; send it once");
	if (s->field == F_STREAM && s->seen_stream)
		return fail(s, p, "`stream` stands here a second time; send it once");
	s->seen_model |= s->field == F_MODEL;
	s->seen_stream |= s->field == F_STREAM;
	return p + 1;
}

static const char *end_string_value(struct body_scan *s, const char *p)
{
	s->state = S_AFTER;
	if (s->keep == KEEP_USER) {
		s->has_user = !s->too_long;
		s->user_len = s->has_user ? s->text_len : 0;
		s->user[s->user_len] = '\0';
	} else if (s->keep == KEEP_MODEL) {
		if (s->too_long)
			return fail(s, p, "`model` is longer than 512 bytes");
		if (memchr(s->model, '\0', s->text_len))
			return fail(s, p, "`model` has a NUL character in it");
		s->has_model = true;
		s->model_len = s->text_len;
		s->model_end = offset_of(s, p) + 1;
		s->model[s->model_len] = '\0';
	}
	return p + 1;
}

static const char *begin_utf8(struct body_scan *s, const char *p)
{
	unsigned char c = (unsigned char)*p;
	if (c < 0xc2 || c > 0xf4)
		return fail(s, p, "a string is not valid UTF-8");
	keep_bytes(s, p, 1);
	s->state = S_UTF8;
	s->utf8_low = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80;
	s->utf8_high = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf;
	s->utf8_left = c >= 0xf0 ? 3 : c >= 0xe0 ? 2 : 1;
	return p + 1;
}

static const char *utf8_byte(struct body_scan *s, const char *p)
{
	unsigned char c = (unsigned char)*p;
	if (c < s->utf8_low || c > s->utf8_high)
		return fail(s, p, "a string is not valid UTF-8");
	keep_bytes(s, p, 1);
	s->utf8_low = 0x80;
	s->utf8_high = 0xbf;
	if (--s->utf8_left == 0)
		s->state = S_STRING;
	return p + 1;
}

/* As string_skip(), and what it passes is kept. */
static const char *keep(struct body_scan *s, const char *p, const char *end)
{
	const char *from = p, *before;
	do {
		before = p = string_plain_end(p, end);
		if (p < end && (unsigned char)*p >= 0x80)
			p = string_utf8_end(p, end);
	} while (p != before);
	/* a key that came whole needs no place */
	if (!(s->is_key && s->text_len == 0 && p < end && *p == '"'))
		keep_bytes(s, from, (size_t)(p - from));
	return p;
}

static const char *string(struct body_scan *s, const char *p, const char *end)
{
	const char *from = p;
	p = s->keep ? keep(s, p, end) : string_skip(p, end);
	if (p == end)
		return p;
	if (*p == '"') {
		if (!s->is_key)
			return end_string_value(s, p);
		struct view kept = view_of(s->text, s->text_len);
		return end_key(s, s->text_len ? kept : view_of(from, (size_t)(p - from)), p);
	}
	if (*p == '\\') {
		s->state = S_ESCAPE;
		return p + 1;
	}
	if ((unsigned char)*p < 0x20)
		return fail(s, p, "a control character inside a string must be escaped");
	return begin_utf8(s, p);
}

static const char *escape_byte(struct body_scan *s, const char *p)
{
	char c = string_unescaped[(unsigned char)*p];
	if (c) {
		keep_bytes(s, &c, 1);
		s->state = S_STRING;
		return p + 1;
	}
	if (*p != 'u')
		return fail(s, p, "an unknown escape inside a string");
	s->hex = 0;
	s->hex_left = 4;
	s->state = S_HEX;
	return p + 1;
}

static const char *hex_byte(struct body_scan *s, const char *p)
{
	unsigned c = (unsigned char)*p, lower = c | 0x20u, d = 16;
	if (c >= '0' && c <= '9')
		d = c - (unsigned)'0';
	else if (lower >= 'a' && lower <= 'f')
		d = lower - 'a' + 10;
	if (d == 16)
		return fail(s, p, "\\u needs four hexadecimal digits");
	s->hex = s->hex * 16 + d;
	if (--s->hex_left)
		return p + 1;
	bool low = s->hex >= 0xdc00 && s->hex <= 0xdfff, high = s->hex >= 0xd800 && s->hex <= 0xdbff;
	if (low != (s->high != 0))
		return fail(s, p, "half of a surrogate pair inside a string");
	if (high) {
		s->high = s->hex;
		s->state = S_LOW_BACKSLASH;
		return p + 1;
	}
	keep_char(s, low ? 0x10000 + ((s->high - 0xd800) << 10) + (s->hex - 0xdc00) : s->hex);
	s->high = 0;
	s->state = S_STRING;
	return p + 1;
}

static const char *low_half(struct body_scan *s, const char *p)
{
	bool backslash = s->state == S_LOW_BACKSLASH;
	s->state = backslash ? S_LOW_U : S_HEX;
	s->hex = 0;
	s->hex_left = 4;
	return *p == (backslash ? '\\' : 'u') ? p + 1
					      : fail(s, p, "half of a surrogate pair inside a string");
}

/* ---- other values -------------------------------------------------------------------------------------- */

/* Steps of the number grammar: the state after c, or -1 when the number does not go on with it. */
static int number_next(enum number_state n, char c)
{
	bool digit = c >= '0' && c <= '9', exp = (c | 0x20) == 'e';
	switch (n) {
	case N_MINUS: return c == '0' ? N_ZERO : digit ? N_INT : -1;
	case N_ZERO: return c == '.' ? N_DOT : exp ? N_E : -1;
	case N_INT: return digit ? N_INT : c == '.' ? N_DOT : exp ? N_E : -1;
	case N_DOT: return digit ? N_FRACTION : -1;
	case N_FRACTION: return digit ? N_FRACTION : exp ? N_E : -1;
	case N_E: return digit ? N_EXPONENT : c == '+' || c == '-' ? N_SIGN : -1;
	case N_SIGN:
	case N_EXPONENT: return digit ? N_EXPONENT : -1;
	}
	return -1;
}

static const char *begin_number(struct body_scan *s, const char *p)
{
	s->state = S_NUMBER;
	s->number_state = *p == '-' ? N_MINUS : *p == '0' ? N_ZERO : N_INT;
	begin_text(s, s->depth == 1 && s->field >= F_LIMIT ? KEEP_TEXT : KEEP_NOTHING);
	keep_bytes(s, p, 1);
	return p + 1;
}

static const char *number(struct body_scan *s, const char *p, const char *end)
{
	const char *from = p;
	int next;
	for (; p < end && (next = number_next(s->number_state, *p)) >= 0; p++)
		s->number_state = (uint8_t)next;
	keep_bytes(s, from, (size_t)(p - from));
	if (p == end)
		return p;
	if (s->number_state != N_ZERO && s->number_state != N_INT && s->number_state != N_FRACTION &&
		s->number_state != N_EXPONENT)
		return fail(s, p, "a number breaks off");
	s->state = S_AFTER;
	if (s->keep && !s->too_long) {
		unsigned i = s->field - F_LIMIT;
		if (num_u64(view_of(s->text, s->text_len), &s->limits[i]) == 0)
			s->has_limits |= 1u << i;
	}
	return p;
}

static const char *begin_literal(struct body_scan *s, const char *p)
{
	s->literal = *p == 't' ? "true" : *p == 'f' ? "false" : "null";
	s->literal_at = 1;
	s->state = S_LITERAL;
	return p + 1;
}

static const char *literal(struct body_scan *s, const char *p, const char *end)
{
	for (; p < end && s->literal[s->literal_at]; p++, s->literal_at++)
		if (s->literal[s->literal_at] != *p)
			return fail(s, p, "a word that is not true, false or null");
	if (s->literal[s->literal_at])
		return p;
	s->state = S_AFTER;
	if (s->depth == 1 && s->field == F_STREAM && s->literal[0] != 'n') {
		s->has_stream = true;
		s->stream = s->literal[0] == 't';
	}
	return p;
}

/* A value of a field of ours begins; what an earlier one said of it is over. null counts as left out, as
 * OpenAI's own schema has it. */
static const char *begin_field(struct body_scan *s, const char *p)
{
	if (s->field == F_MODEL && *p != '"' && *p != 'n')
		return fail(s, p, "`model` must be a string");
	if (s->field == F_STREAM && *p != 't' && *p != 'f' && *p != 'n')
		return fail(s, p, "`stream` must be true or false");
	if (s->field == F_USER) {
		s->has_user = false;
		s->user_len = 0;
	} else if (s->field >= F_LIMIT) {
		s->has_limits &= ~(1u << (s->field - F_LIMIT));
	}
	return p;
}

static const char *begin_value(struct body_scan *s, const char *p, const char *end)
{
	if (s->depth == 1 && s->field && !begin_field(s, p))
		return NULL;
	switch (*p) {
	case '"': return begin_string(s, p, end, false);
	case '{': return push(s, p, true);
	case '[': return push(s, p, false);
	case 't':
	case 'f':
	case 'n': return begin_literal(s, p);
	default: break;
	}
	if (*p == '-' || (*p >= '0' && *p <= '9'))
		return begin_number(s, p);
	return fail(s, p, "a value is expected");
}

/* ---- structure ----------------------------------------------------------------------------------------- */

static const char *begin_key(struct body_scan *s, const char *p, const char *end)
{
	if (*p == '"')
		return begin_string(s, p, end, true);
	if (*p != '}' || s->state == S_KEY)
		return fail(s, p, "a key in double quotes is expected");
	return pop(s, p);
}

static const char *after_value(struct body_scan *s, const char *p)
{
	bool object = in_object(s);
	if (*p == ',') {
		s->state = object ? S_KEY : S_VALUE;
		return p + 1;
	}
	if (*p != (object ? '}' : ']'))
		return fail(s, p, object ? "a comma or } is expected" : "a comma or ] is expected");
	return pop(s, p);
}

static const char *structure(struct body_scan *s, const char *p, const char *end)
{
	if (is_space(*p))
		return p + 1;
	switch ((enum scan_state)s->state) {
	case S_START:
		return *p == '{' ? push(s, p, true)
				 : fail(s, p, "a JSON object is expected, starting with {");
	case S_FIRST_KEY:
	case S_KEY: return begin_key(s, p, end);
	case S_COLON:
		s->state = S_VALUE;
		return *p == ':' ? p + 1 : fail(s, p, "a colon is expected after a key");
	case S_FIRST_VALUE: return *p == ']' ? pop(s, p) : begin_value(s, p, end);
	case S_VALUE: return begin_value(s, p, end);
	case S_DONE: return fail(s, p, "something follows the JSON object");
	default: return after_value(s, p);
	}
}

static const char *step(struct body_scan *s, const char *p, const char *end)
{
	switch ((enum scan_state)s->state) {
	case S_STRING: return string(s, p, end);
	case S_UTF8: return utf8_byte(s, p);
	case S_ESCAPE: return escape_byte(s, p);
	case S_HEX: return hex_byte(s, p);
	case S_LOW_BACKSLASH:
	case S_LOW_U: return low_half(s, p);
	case S_NUMBER: return number(s, p, end);
	case S_LITERAL: return literal(s, p, end);
	default: return structure(s, p, end);
	}
}

/* ---- what bodies are mostly made of -------------------------------------------------------------------- */

static size_t literal_len(const char *p, const char *end)
{
	if (end - p < 5)
		return 0;
	if (memcmp(p, "true", 4) == 0 || memcmp(p, "null", 4) == 0)
		return 4;
	return memcmp(p, "false", 5) == 0 ? 5 : 0;
}

/* After a comma or colon many writers put one space. */
static inline const char *next_token(const char *p, const char *end)
{
	return p + 1 < end && p[1] == ' ' ? p + 2 : p + 1;
}

/* A key of the top level. One that is cut or has an escape is left to the machine: p as it was. */
static const char *top_key(struct body_scan *s, const char *p, const char *end)
{
	const char *to = string_plain_end(p + 1, end);
	if (to == end || *to != '"')
		return p;
	s->too_long = false;
	return end_key(s, view_of(p + 1, (size_t)(to - p - 1)), to);
}

/* Where a string that nobody keeps ends: at its quote, or where string_skip() stops. Most are short. */
static inline const char *pass_string(const char *p, const char *end)
{
	if (end - p >= BLOCK_LEN) {
		unsigned stop = string_stops(p);
		if (stop && p[__builtin_ctz(stop)] == '"')
			return p + __builtin_ctz(stop);
	}
	return string_skip(p, end);
}

/* A string, of which p is the quote that opens it; in s what follows it, or that it is not over. */
static inline const char *any_string(struct body_scan *s, const char *p, const char *end, bool key)
{
	p = pass_string(p + 1, end);
	if (LIKELY(p < end && *p == '"')) {
		s->state = key ? S_COLON : S_AFTER;
		return p + 1;
	}
	s->is_key = key;
	s->keep = KEEP_NOTHING;
	s->state = S_STRING;
	return p;
}

static inline const char *any_key(struct body_scan *s, const char *p, const char *end)
{
	if (*p != '"')
		return p;
	p = s->depth == 1 ? top_key(s, p, end) : any_string(s, p, end, true);
	if (p && p < end && *p == ':' && s->state == S_COLON) {
		s->state = S_VALUE;
		return next_token(p, end);
	}
	return p;
}

static inline const char *any_value(struct body_scan *s, const char *p, const char *end)
{
	if (s->depth == 1 && s->field)
		return p;
	if (*p == '"')
		return any_string(s, p, end, false);
	if (*p == '{' || *p == '[')
		return push(s, p, *p == '{');
	size_t n = literal_len(p, end);
	s->state = n ? S_AFTER : s->state;
	return p + n;
}

static inline const char *any_after(struct body_scan *s, const char *p, const char *end)
{
	bool object = in_object(s);
	if (*p == ',') {
		s->state = object ? S_KEY : S_VALUE;
		return next_token(p, end);
	}
	return *p == (object ? '}' : ']') ? pop(s, p) : p;
}

/* The same grammar a token at a time, for JSON with hardly a space and values nobody keeps. What it does not
 * know it leaves to the machine, where it stands. NULL: refused. */
static const char *tokens(struct body_scan *s, const char *p, const char *end)
{
	const char *from;
	do {
		from = p;
		if (s->state == S_AFTER)
			p = any_after(s, p, end);
		else if (s->state == S_KEY || s->state == S_FIRST_KEY)
			p = any_key(s, p, end);
		else if (s->state == S_VALUE || s->state == S_FIRST_VALUE)
			p = any_value(s, p, end);
	} while (p && p != from && p < end && s->state <= S_AFTER);
	return p;
}

int body_scan_feed(struct body_scan *s, struct view v)
{
	if (s->failed)
		return -EINVAL;
	if (!v.n)
		return 0;
	const char *p = v.p, *end = v.p + v.n;
	s->shift = s->bytes - (uintptr_t)p;
	while (p && p < end) {
		if (s->depth && s->state <= S_AFTER)
			p = tokens(s, p, end);
		if (p && p < end)
			p = step(s, p, end);
	}
	if (!p)
		return -EINVAL;
	s->bytes += v.n;
	return 0;
}

int body_scan_end(struct body_scan *s)
{
	if (s->failed)
		return -EINVAL;
	if (s->state != S_DONE) {
		s->failed = s->state == S_START ? "it is empty; a JSON object is expected"
						: "it ends before the object does";
		return -EINVAL;
	}
	s->has_max_tokens = s->has_limits != 0;
	s->max_tokens = 0;
	for (unsigned i = 0; i < SCAN_LIMITS; i++)
		if ((s->has_limits >> i) & 1)
			s->max_tokens = MAX(s->max_tokens, s->limits[i]);
	return 0;
}

int body_scan_error(const struct body_scan *s, struct err *e)
{
	if (!s->failed)
		return 0;
	return err_set(e, -EINVAL, "the body is not accepted at byte %llu: %s", (unsigned long long)s->bytes,
		s->failed);
}
