/* SPDX-License-Identifier: Apache-2.0
 *
 * The body scanner: JSON (RFC 8259) checked byte by byte, with nothing kept but the few values the
 * router needs. Whatever it takes is a JSON object for every strict parser behind us: strings must be
 * UTF-8, surrogates come in pairs, numbers keep the grammar.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/num.h"
#include "base/utf8.h"
#include "dialect/dialect.h"

enum scan_state {
	S_START,     /* before the object */
	S_FIRST_KEY, /* after {: a key or } */
	S_KEY,       /* after , in an object */
	S_COLON,
	S_FIRST_VALUE, /* after [: a value or ] */
	S_VALUE,
	S_AFTER, /* after a value: , or the end of what holds it */
	S_STRING,
	S_ESCAPE,
	S_HEX,
	S_LOW_BACKSLASH, /* the second half of a surrogate pair must follow */
	S_LOW_U,
	S_UTF8,
	S_NUMBER,
	S_LITERAL,
	S_DONE,
};
enum number_state { N_MINUS, N_ZERO, N_INT, N_DOT, N_FRACTION, N_E, N_SIGN, N_EXPONENT };
enum field { F_NONE, F_MODEL, F_STREAM, F_USER, F_MAX_TOKENS };

void body_scan_init(struct body_scan *s)
{
	*s = (struct body_scan){ 0 };
}

static int fail(struct body_scan *s, const char *what)
{
	s->failed = true;
	return err_set(&s->err, -EINVAL, "the body is not accepted at byte %llu: %s",
		(unsigned long long)s->bytes, what);
}

static bool is_space(unsigned char c)
{
	return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static bool in_object(const struct body_scan *s)
{
	uint32_t i = s->depth - 1;
	return (s->stack[i / 64] >> (i % 64)) & 1;
}

static int push(struct body_scan *s, bool object)
{
	if (s->depth == SCAN_DEPTH_MAX)
		return fail(s, "arrays and objects are nested more than 128 deep");
	uint64_t bit = (uint64_t)1 << (s->depth % 64);
	uint64_t *word = &s->stack[s->depth / 64];
	*word = object ? *word | bit : *word & ~bit;
	s->depth++;
	s->state = object ? S_FIRST_KEY : S_FIRST_VALUE;
	return 0;
}

static void pop(struct body_scan *s)
{
	s->depth--;
	s->state = s->depth ? S_AFTER : S_DONE;
}

static void begin_string(struct body_scan *s, bool key)
{
	s->state = S_STRING;
	s->is_key = key;
	s->keep = s->depth == 1 && (key || s->field == F_MODEL || s->field == F_USER);
	s->too_long = false;
	s->text_len = 0;
	if (s->keep && !key && s->field == F_MODEL)
		s->model_begin = s->bytes;
}

static void keep_byte(struct body_scan *s, char c)
{
	if (!s->keep)
		return;
	if (s->text_len < SCAN_STRING_MAX)
		s->text[s->text_len++] = c;
	else
		s->too_long = true;
}

static void keep_char(struct body_scan *s, uint32_t cp)
{
	char out[4];
	size_t n = utf8_put(out, cp);
	for (size_t i = 0; i < n; i++)
		keep_byte(s, out[i]);
}

static struct view text_of(const struct body_scan *s)
{
	return view_of(s->text, s->text_len);
}

static int end_key(struct body_scan *s)
{
	static const struct {
		const char *name;
		enum field field;
	} names[] = { { "model", F_MODEL }, { "stream", F_STREAM }, { "user", F_USER },
		{ "max_tokens", F_MAX_TOKENS }, { "max_completion_tokens", F_MAX_TOKENS },
		{ "max_output_tokens", F_MAX_TOKENS }, { "n_predict", F_MAX_TOKENS } };
	s->state = S_COLON;
	if (s->depth != 1)
		return 0;
	s->field = F_NONE;
	for (size_t i = 0; !s->too_long && i < ARRAY_LEN(names); i++)
		if (view_eqs(text_of(s), names[i].name))
			s->field = (uint8_t)names[i].field;
	if (s->field == F_MODEL && s->seen_model)
		return fail(s, "`model` stands here a second time; send it once");
	if (s->field == F_STREAM && s->seen_stream)
		return fail(s, "`stream` stands here a second time; send it once");
	s->seen_model |= s->field == F_MODEL;
	s->seen_stream |= s->field == F_STREAM;
	return 0;
}

/* The value of a field is a string that is over. */
static int end_string_value(struct body_scan *s)
{
	s->state = S_AFTER;
	if (!s->keep)
		return 0;
	s->text[s->text_len] = '\0';
	if (s->field == F_USER) {
		s->has_user = !s->too_long;
		s->user_len = s->has_user ? s->text_len : 0;
		memcpy(s->user, s->text, s->user_len);
		s->user[s->user_len] = '\0';
		return 0;
	}
	if (s->too_long)
		return fail(s, "`model` is longer than 512 bytes");
	if (memchr(s->text, '\0', s->text_len))
		return fail(s, "`model` has a NUL character in it");
	s->has_model = true;
	s->model_len = s->text_len;
	s->model_end = s->bytes + 1;
	memcpy(s->model, s->text, s->text_len + 1);
	return 0;
}

static int string_byte(struct body_scan *s, unsigned char c)
{
	if (c == '"')
		return s->is_key ? end_key(s) : end_string_value(s);
	if (c == '\\') {
		s->state = S_ESCAPE;
		return 0;
	}
	if (c < 0x20)
		return fail(s, "a control character inside a string must be escaped");
	keep_byte(s, (char)c);
	if (c < 0x80)
		return 0;
	s->state = S_UTF8;
	s->utf8_low = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80;
	s->utf8_high = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf;
	s->utf8_left = c >= 0xf0 ? 3 : c >= 0xe0 ? 2 : 1;
	return c < 0xc2 || c > 0xf4 ? fail(s, "a string is not valid UTF-8") : 0;
}

static int utf8_byte(struct body_scan *s, unsigned char c)
{
	if (c < s->utf8_low || c > s->utf8_high)
		return fail(s, "a string is not valid UTF-8");
	keep_byte(s, (char)c);
	s->utf8_low = 0x80;
	s->utf8_high = 0xbf;
	if (--s->utf8_left == 0)
		s->state = S_STRING;
	return 0;
}

static int escape_byte(struct body_scan *s, unsigned char c)
{
	static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
	const char *at = c ? memchr(from, c, sizeof from - 1) : NULL;
	if (at) {
		keep_byte(s, to[at - from]);
		s->state = S_STRING;
		return 0;
	}
	if (c != 'u')
		return fail(s, "an unknown escape inside a string");
	s->hex = 0;
	s->hex_left = 4;
	s->state = S_HEX;
	return 0;
}

static int hex_byte(struct body_scan *s, unsigned char c)
{
	unsigned lower = c | 0x20u, d = 16;
	if (c >= '0' && c <= '9')
		d = c - (unsigned)'0';
	else if (lower >= 'a' && lower <= 'f')
		d = lower - 'a' + 10;
	if (d == 16)
		return fail(s, "\\u needs four hexadecimal digits");
	s->hex = s->hex * 16 + d;
	if (--s->hex_left)
		return 0;
	bool low = s->hex >= 0xdc00 && s->hex <= 0xdfff, high = s->hex >= 0xd800 && s->hex <= 0xdbff;
	if (low != (s->high != 0))
		return fail(s, "half of a surrogate pair inside a string");
	if (high) {
		s->high = s->hex;
		s->state = S_LOW_BACKSLASH;
		return 0;
	}
	keep_char(s, low ? 0x10000 + ((s->high - 0xd800) << 10) + (s->hex - 0xdc00) : s->hex);
	s->high = 0;
	s->state = S_STRING;
	return 0;
}

/* Steps of the number grammar: the state after c, or -1 when the number does not go on with it. */
static int number_next(enum number_state n, unsigned char c)
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

static int begin_number(struct body_scan *s, unsigned char c)
{
	s->state = S_NUMBER;
	s->number_state = c == '-' ? N_MINUS : c == '0' ? N_ZERO : N_INT;
	s->keep = s->depth == 1 && s->field == F_MAX_TOKENS;
	s->text_len = 0;
	s->too_long = false;
	keep_byte(s, (char)c);
	return 0;
}

static int after_value(struct body_scan *s, unsigned char c);

static int number_byte(struct body_scan *s, unsigned char c)
{
	int next = number_next(s->number_state, c);
	if (next >= 0) {
		s->number_state = (uint8_t)next;
		keep_byte(s, (char)c);
		return 0;
	}
	if (s->number_state != N_ZERO && s->number_state != N_INT && s->number_state != N_FRACTION &&
		s->number_state != N_EXPONENT)
		return fail(s, "a number breaks off");
	uint64_t v;
	if (s->keep && !s->too_long && num_u64(text_of(s), &v) == 0) {
		s->max_tokens = s->has_max_tokens ? MAX(s->max_tokens, v) : v;
		s->has_max_tokens = true;
	}
	s->state = S_AFTER;
	return after_value(s, c);
}

static int begin_literal(struct body_scan *s, unsigned char c)
{
	s->literal = c == 't' ? "true" : c == 'f' ? "false" : "null";
	s->literal_at = 1;
	s->state = S_LITERAL;
	return 0;
}

static int literal_byte(struct body_scan *s, unsigned char c)
{
	if ((unsigned char)s->literal[s->literal_at] != c)
		return fail(s, "a word that is not true, false or null");
	if (s->literal[++s->literal_at])
		return 0;
	s->state = S_AFTER;
	if (s->depth == 1 && s->field == F_STREAM && s->literal[0] != 'n') {
		s->has_stream = true;
		s->stream = s->literal[0] == 't';
	}
	return 0;
}

/* null counts as left out, as OpenAI's own schema has it. */
static int check_type(struct body_scan *s, unsigned char c)
{
	if (s->depth != 1 || c == 'n')
		return 0;
	if (s->field == F_MODEL && c != '"')
		return fail(s, "`model` must be a string");
	if (s->field == F_STREAM && c != 't' && c != 'f')
		return fail(s, "`stream` must be true or false");
	return 0;
}

static int begin_value(struct body_scan *s, unsigned char c)
{
	int r = check_type(s, c);
	if (r)
		return r;
	switch (c) {
	case '"': begin_string(s, false); return 0;
	case '{': return push(s, true);
	case '[': return push(s, false);
	case 't':
	case 'f':
	case 'n': return begin_literal(s, c);
	default: break;
	}
	if (c == '-' || (c >= '0' && c <= '9'))
		return begin_number(s, c);
	return fail(s, "a value is expected");
}

static int after_value(struct body_scan *s, unsigned char c)
{
	if (is_space(c))
		return 0;
	bool object = in_object(s);
	if (c == ',') {
		s->state = object ? S_KEY : S_VALUE;
		return 0;
	}
	if (c != (object ? '}' : ']'))
		return fail(s, object ? "a comma or } is expected" : "a comma or ] is expected");
	pop(s);
	return 0;
}

static int structure_byte(struct body_scan *s, unsigned char c)
{
	if (is_space(c))
		return 0;
	switch ((enum scan_state)s->state) {
	case S_START: return c == '{' ? push(s, true) : fail(s, "a JSON object is expected, starting with {");
	case S_FIRST_KEY:
	case S_KEY:
		if (c == '"') {
			begin_string(s, true);
			return 0;
		}
		if (c != '}' || s->state == S_KEY)
			return fail(s, "a key in double quotes is expected");
		pop(s);
		return 0;
	case S_COLON: s->state = S_VALUE; return c == ':' ? 0 : fail(s, "a colon is expected after a key");
	case S_FIRST_VALUE:
		if (c != ']')
			return begin_value(s, c);
		pop(s);
		return 0;
	case S_VALUE: return begin_value(s, c);
	case S_DONE: return fail(s, "something follows the JSON object");
	default: return after_value(s, c);
	}
}

static int feed_byte(struct body_scan *s, unsigned char c)
{
	switch ((enum scan_state)s->state) {
	case S_STRING: return string_byte(s, c);
	case S_UTF8: return utf8_byte(s, c);
	case S_ESCAPE: return escape_byte(s, c);
	case S_HEX: return hex_byte(s, c);
	case S_LOW_BACKSLASH:
		s->state = S_LOW_U;
		return c == '\\' ? 0 : fail(s, "half of a surrogate pair inside a string");
	case S_LOW_U:
		s->state = S_HEX;
		s->hex = 0;
		s->hex_left = 4;
		return c == 'u' ? 0 : fail(s, "half of a surrogate pair inside a string");
	case S_NUMBER: return number_byte(s, c);
	case S_LITERAL: return literal_byte(s, c);
	default: return structure_byte(s, c);
	}
}

/* How many bytes at the start of v are plain characters of a string, eight at a time. */
static size_t plain_run(struct view v)
{
	const uint64_t ones = 0x0101010101010101u, tops = 0x8080808080808080u;
	size_t i = 0;
	for (; i + 8 <= v.n; i += 8) {
		uint64_t w;
		memcpy(&w, v.p + i, 8);
		uint64_t quote = w ^ (ones * '"'), slash = w ^ (ones * '\\');
		/* a top bit: not ASCII, below 0x20, a quote or a backslash (carries may only give false
		 * alarms) */
		uint64_t stop = w | (w - ones * 0x20) | (quote - ones) | (slash - ones);
		if (stop & tops)
			break;
	}
	while (i < v.n && (unsigned char)v.p[i] >= 0x20 && (unsigned char)v.p[i] < 0x80 && v.p[i] != '"' &&
		v.p[i] != '\\')
		i++;
	return i;
}

int body_scan_feed(struct body_scan *s, struct view v)
{
	if (s->failed)
		return s->err.code;
	for (size_t i = 0; i < v.n;) {
		if (s->state == S_STRING && !s->keep) {
			size_t n = plain_run(view_from(v, i));
			i += n;
			s->bytes += n;
			if (i == v.n)
				break;
		}
		int r = feed_byte(s, (unsigned char)v.p[i]);
		if (r)
			return r;
		i++;
		s->bytes++;
	}
	return 0;
}

int body_scan_end(struct body_scan *s)
{
	if (s->failed)
		return s->err.code;
	if (s->state == S_DONE)
		return 0;
	return fail(s, s->state == S_START ? "it is empty; a JSON object is expected"
					   : "it ends before the object does");
}
