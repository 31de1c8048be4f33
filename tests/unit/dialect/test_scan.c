/* SPDX-License-Identifier: Apache-2.0
 *
 * The body scanner: a table, and random documents at random splits against yyjson.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <yyjson.h>

#include "base/mem.h"
#include "base/num.h"
#include "base/rnd.h"
#include "dialect/dialect.h"

static int scan(struct body_scan *s, struct view v, size_t step)
{
	body_scan_init(s);
	int r = 0;
	for (size_t i = 0; i < v.n && !r; i += step)
		r = body_scan_feed(s, view_cut(view_from(v, i), step));
	int e = body_scan_end(s);
	return r ? r : e;
}

static void values_are_found(void **state)
{
	static const struct {
		const char *json, *model; /* model NULL: none */
		int stream;               /* -1: none */
		const char *user;
		int64_t max_tokens; /* -1: none */
	} rows[] = {
		{ "{}", NULL, -1, NULL, -1 },
		{ " \r\n\t{ \"model\" : \"a\" } \n", "a", -1, NULL, -1 },
		{ "{\"messages\":[{\"model\":\"x\",\"stream\":true}],\"stream\":false,\"model\":\"last\"}",
			"last", 0, NULL, -1 },
		{ "{\"mod\\u0065l\":\"\\u0061\\/b\",\"str\\u0065am\":true}", "a/b", 1, NULL, -1 },
		{ "{\"model\":\"\\ud83d\\ude00\\u00e9\\u20ac\"}", "😀é€", -1, NULL, -1 },
		{ "{\"model\":\"😀\",\"user\":\"me\",\"max_tokens\":12}", "😀", -1, "me", 12 },
		{ "{\"max_tokens\":12,\"max_completion_tokens\":7}", NULL, -1, NULL, 12 },
		{ "{\"max_output_tokens\":9,\"n_predict\":7}", NULL, -1, NULL, 9 },
		/* the last of one key, as parsers have it */
		{ "{\"max_tokens\":12,\"max_tokens\":7,\"user\":\"a\",\"us\\u0065r\":\"b\\n\"}", NULL, -1,
			"b\n", 7 },
		{ "{\"max_tokens\":12,\"max_completion_tokens\":5,\"max_tokens\":null,\"user\":\"a\","
		  "\"user\":{}}",
			NULL, -1, NULL, 5 },
		{ "{\"max_tokens\":12,\"max_tokens\":\"a\",\"metadata\":{\"user\":\"a\",\"user_id\":\"b\"}}",
			NULL, -1, NULL, -1 },
		{ "{\"m\":\"0123456789abcdef0123456789abcdef\\n0123456789abcde€\",\"user\":"
		  "\"0123456789abcdef€é😀\"}",
			NULL, -1, "0123456789abcdef€é😀", -1 },
		{ "{\"max_tokens\":100000000000000000000000000}", NULL, -1, NULL, -1 },
		{ "{\"n_predict\":-1,\"x\":{\"max_tokens\":5}}", NULL, -1, NULL, -1 },
		{ "{\"max_tokens\":18446744073709551616}", NULL, -1, NULL, -1 },
		{ "{\"max_tokens\":1e3,\"user\":5}", NULL, -1, NULL, -1 },
		{ "{\"model\":null,\"stream\":null}", NULL, -1, NULL, -1 },
		{ "{\"models\":\"x\",\"mode\":\"y\",\"\":1}", NULL, -1, NULL, -1 },
		{ "{\"model\":\"\"}", "", -1, NULL, -1 },
		{ "{\"a\":[1,-0.5e+3,0,true,false,null,{},[],\"\\\"\\\\\\b\\f\\n\\r\\t\"],\"stream\":true}",
			NULL, 1, NULL, -1 },
	};
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		for (size_t step = 1; step <= strlen(rows[i].json); step++) {
			struct body_scan s;
			assert_int_equal(scan(&s, view_str(rows[i].json), step), 0);
			assert_int_equal(s.has_model, rows[i].model != NULL);
			if (rows[i].model)
				assert_string_equal(s.model, rows[i].model);
			assert_int_equal(s.model_len, rows[i].model ? strlen(rows[i].model) : 0);
			assert_int_equal(s.has_stream ? s.stream : -1, rows[i].stream);
			assert_int_equal(s.has_user, rows[i].user != NULL);
			if (rows[i].user)
				assert_string_equal(s.user, rows[i].user);
			assert_true((s.has_max_tokens ? (int64_t)s.max_tokens : -1) == rows[i].max_tokens);
			assert_int_equal(s.bytes, strlen(rows[i].json));
		}
	}
}

static void mistakes_are_named_with_their_byte(void **state)
{
	static const struct {
		const char *json, *says;
		int at;
	} rows[] = {
		{ "", "empty", 0 },
		{ "  ", "empty", 2 },
		{ "[1]", "JSON object", 0 },
		{ "\xef\xbb\xbf{}", "JSON object", 0 },
		{ "null", "JSON object", 0 },
		{ "{\"a\":1}x", "follows", 7 },
		{ "{\"a\":1", "ends before", 6 },
		{ "{\"a\":1,}", "key in double quotes", 7 },
		{ "{a:1}", "key in double quotes", 1 },
		{ "{\"a\" 1}", "colon", 5 },
		{ "{\"a\":}", "value is expected", 5 },
		{ "{\"a\":[1,]}", "value is expected", 8 },
		{ "{\"a\":[1}", "comma or ]", 7 },
		{ "{\"a\":1]", "comma or }", 6 },
		{ "{\"a\":01}", "comma or }", 6 },
		{ "{\"a\":1.}", "breaks off", 7 },
		{ "{\"a\":-}", "breaks off", 6 },
		{ "{\"a\":1e}", "breaks off", 7 },
		{ "{\"a\":+1}", "value is expected", 5 },
		{ "{\"a\":nul}", "true, false or null", 8 },
		{ "{\"a\":\"\n\"}", "control character", 6 },
		{ "{\"a\":\"\\x\"}", "unknown escape", 7 },
		{ "{\"a\":\"\\u12g4\"}", "hexadecimal", 10 },
		{ "{\"a\":\"\\ud800\"}", "surrogate", 12 },
		{ "{\"a\":\"\\ud800\\n\"}", "surrogate", 13 },
		{ "{\"a\":\"\\udc00\"}", "surrogate", 11 },
		{ "{\"a\":\"\xff\"}", "UTF-8", 6 },
		{ "{\"a\":\"\xed\xa0\x80\"}", "UTF-8", 7 },
		{ "{\"a\":\"\xc0\xaf\"}", "UTF-8", 6 },
		{ "{\"model\":\"a\",\"model\":\"a\"}", "second time", 19 },
		{ "{\"model\":null,\"mo\\u0064el\":\"a\"}", "second time", 25 },
		{ "{\"stream\":true,\"stream\":false}", "second time", 22 },
		{ "{\"model\":\"a\",\"Model\":\"b\"}", "small letters", 19 },
		{ "{\"MODE\\u004c\":\"b\"}", "small letters", 12 },
		{ "{\"Stream\":true}", "small letters", 8 },
		{ "{\"model\":5}", "`model` must be a string", 9 },
		{ "{\"model\":[\"a\"]}", "`model` must be a string", 9 },
		{ "{\"stream\":\"yes\"}", "`stream` must be true or false", 10 },
		{ "{\"stream\":1}", "`stream` must be true or false", 10 },
		{ "{\"model\":\"a\\u0000b\"}", "NUL", 18 },
	};
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		for (size_t step = 1; step <= strlen(rows[i].json) + 1; step++) {
			struct body_scan s;
			assert_int_equal(scan(&s, view_str(rows[i].json), step), -EINVAL);
			AUTO(mem_freep) char *at = mem_fmt("at byte %d: ", rows[i].at);
			struct err e;
			assert_int_equal(body_scan_error(&s, &e), -EINVAL);
			if (!strstr(e.msg, rows[i].says) || !strstr(e.msg, at))
				fail_msg("%s: %s", rows[i].json, e.msg);
			assert_int_equal(body_scan_feed(&s, VIEW("{}")), -EINVAL); /* and it stays so */
		}
	}
}

static void bounds(void **state)
{
	struct body_scan s;
	AUTO(buf_done) struct buf b = BUF(1 * MIB);
	for (int depth = 127; depth <= 128; depth++) {
		buf_reset(&b);
		(void)buf_adds(&b, "{\"a\":");
		for (int i = 0; i < depth; i++)
			(void)buf_addc(&b, '[');
		for (int i = 0; i < depth; i++)
			(void)buf_addc(&b, ']');
		(void)buf_addc(&b, '}');
		assert_int_equal(scan(&s, buf_view(&b), 7), depth == 127 ? 0 : -EINVAL);
	}
	for (int n = 128; n <= 129; n++) { /* a long user is left out */
		buf_reset(&b);
		(void)buf_adds(&b, "{\"user\":\"");
		for (int i = 0; i < n; i++)
			(void)buf_addc(&b, 'u');
		(void)buf_adds(&b, "\"}");
		for (size_t step = 1; step < b.len; step++) {
			assert_int_equal(scan(&s, buf_view(&b), step), 0);
			assert_int_equal(s.has_user, n == 128);
			assert_int_equal(s.user_len, n == 128 ? 128 : 0);
		}
	}
	for (int n = 512; n <= 513; n++) {
		buf_reset(&b);
		(void)buf_adds(&b, "{\"model\":\"");
		for (int i = 0; i < n; i++)
			(void)buf_addc(&b, 'm');
		(void)buf_adds(&b, "\"}");
		assert_int_equal(scan(&s, buf_view(&b), 100), n == 512 ? 0 : -EINVAL);
	}
	buf_reset(&b);
	(void)buf_adds(&b, "{\"model");
	for (int i = 0; i < 600; i++)
		(void)buf_addc(&b, 'x');
	(void)buf_adds(&b, "\":1}");
	assert_int_equal(scan(&s, buf_view(&b), 100), 0);
	assert_false(s.has_model);
}

/* ---- random documents ------------------------------------------------------------------------------- */

static void add_random_string(struct buf *b, struct rnd *r)
{
	static const char *const parts[] = { "a", "model", "stream", "\\n", "\\u0041", "\\ud83d\\ude00", "é",
		"😀", "\\\"", "\\\\", " ", "plain run of some bytes ", "/", "\\/", "\\u00e9",
		"0123456789abcdef" };
	static const char *const bad[] = { "\\ud800", "\x01", "\xff", "\\q", "\"" };
	(void)buf_addc(b, '"');
	for (uint64_t n = rnd_below(r, 6); n; n--)
		(void)buf_adds(b, parts[rnd_below(r, ARRAY_LEN(parts))]);
	if (rnd_below(r, 400) == 0)
		(void)buf_adds(b, bad[rnd_below(r, ARRAY_LEN(bad))]);
	(void)buf_addc(b, '"');
}

static void add_random(struct buf *b, struct rnd *r, int depth)
{
	static const char *const atoms[] = { "0", "-1", "12345", "1.5e-3", "true", "false", "null", "1E+2",
		"-0.0", "1e5" };
	static const char *const bad[] = { "01", "1.", "tru", "+1", "", "-", ".5", "NaN", "1e" };
	uint64_t kind = depth > 4 ? rnd_below(r, 5) : rnd_below(r, 8);
	if (kind < 3) {
		(void)buf_adds(b, atoms[rnd_below(r, ARRAY_LEN(atoms))]);
	} else if (kind < 5) {
		if (rnd_below(r, 200) == 0)
			(void)buf_adds(b, bad[rnd_below(r, ARRAY_LEN(bad))]);
		else
			add_random_string(b, r);
	} else {
		bool object = kind == 5;
		(void)buf_addc(b, object ? '{' : '[');
		for (uint64_t n = rnd_below(r, 4), i = 0; i < n; i++) {
			(void)buf_adds(b, i ? ", " : " ");
			if (object) {
				add_random_string(b, r);
				(void)buf_adds(b, ":");
			}
			add_random(b, r, depth + 1);
		}
		(void)buf_addc(b, object ? '}' : ']');
	}
}

static void add_document(struct buf *b, struct rnd *r)
{
	static const char *const keys[] = { "\"model\"", "\"mod\\u0065l\"", "\"stream\"", "\"user\"",
		"\"max_tokens\"" };
	buf_reset(b);
	(void)buf_addc(b, '{');
	for (uint64_t n = rnd_below(r, 7), i = 0; i < n; i++) {
		if (i)
			(void)buf_addc(b, ',');
		uint64_t k = rnd_below(r, ARRAY_LEN(keys) + 4);
		if (k < ARRAY_LEN(keys))
			(void)buf_adds(b, keys[k]);
		else
			add_random_string(b, r);
		(void)buf_addc(b, ':');
		if ((k < 2 || k == 3) && rnd_below(r, 8))
			add_random_string(b, r);
		else if (k == 2 && rnd_below(r, 8))
			(void)buf_adds(b, rnd_below(r, 2) ? "true" : "false");
		else
			add_random(b, r, 1);
	}
	(void)buf_addc(b, '}');
	if (rnd_below(r, 50) == 0) /* break it somewhere */
		b->data[rnd_below(r, b->len)] = (char)rnd_below(r, 256);
	if (rnd_below(r, 100) == 0) {
		b->len = rnd_below(r, b->len);
		b->data[b->len] = '\0';
	}
}

/* What the scanner must say about a document that yyjson takes: false = must refuse. */
static bool expect(yyjson_val *root, const struct body_scan *s, bool scanned)
{
	int models = 0, streams = 0;
	bool ok = true;
	yyjson_val *k, *model = NULL, *stream = NULL, *user = NULL, *limit = NULL;
	yyjson_obj_iter it;
	yyjson_obj_iter_init(root, &it);
	while ((k = yyjson_obj_iter_next(&it))) {
		yyjson_val *v = yyjson_obj_iter_get_val(k);
		if (yyjson_equals_str(k, "model")) {
			models++;
			model = yyjson_is_str(v) ? v : NULL;
			ok = ok && (yyjson_is_str(v) || yyjson_is_null(v)) &&
			     yyjson_get_len(v) <= SCAN_STRING_MAX;
		} else if (yyjson_equals_str(k, "stream")) {
			streams++;
			stream = yyjson_is_bool(v) ? v : NULL;
			ok = ok && (yyjson_is_bool(v) || yyjson_is_null(v));
		} else if (yyjson_equals_str(k, "user")) { /* the last one counts */
			user = yyjson_is_str(v) ? v : NULL;
		} else if (yyjson_equals_str(k, "max_tokens")) {
			limit = v;
		}
	}
	ok = ok && models <= 1 && streams <= 1;
	if (!ok || !scanned)
		return ok == scanned;
	uint64_t n = 0;
	bool limited = yyjson_is_raw(limit) && num_u64(view_str(yyjson_get_raw(limit)), &n) == 0;
	if (s->has_max_tokens != limited || s->max_tokens != n || s->has_user != (user != NULL) ||
		(user && !view_eq(view_of(s->user, s->user_len),
				 view_of(yyjson_get_str(user), yyjson_get_len(user)))))
		return false;
	return s->has_model == (model != NULL) && s->has_stream == (stream != NULL) &&
	       (!model || view_eq(view_of(s->model, s->model_len),
				  view_of(yyjson_get_str(model), yyjson_get_len(model)))) &&
	       (!stream || s->stream == yyjson_get_bool(stream));
}

static void agrees_with_a_parser(void **state)
{
	struct rnd r;
	uint64_t seed = 20261124;
	const char *env = getenv("TEST_SEED");
	if (env)
		(void)num_u64(view_str(env), &seed);
	rnd_seed(&r, seed);
	AUTO(buf_done) struct buf b = BUF(1 * MIB);
	size_t taken = 0, refused = 0;
	for (int i = 0; i < 40000; i++) {
		add_document(&b, &r);
		struct body_scan s;
		body_scan_init(&s);
		int e = 0;
		size_t most = 1 + rnd_below(&r, 40);
		for (struct view v = buf_view(&b); v.n && !e;) {
			size_t n = 1 + rnd_below(&r, most);
			n = MIN(n, v.n);
			/* a copy of its own: a read past the piece is seen by the sanitizer */
			AUTO(mem_freep) char *piece = mem_viewdup(view_cut(v, n));
			e = body_scan_feed(&s, view_of(piece, n));
			v = view_from(v, n);
		}
		if (!e)
			e = body_scan_end(&s);
		yyjson_doc *d = yyjson_read(b.data, b.len, YYJSON_READ_NUMBER_AS_RAW);
		bool object = d && yyjson_is_obj(yyjson_doc_get_root(d));
		bool right = object ? expect(yyjson_doc_get_root(d), &s, e == 0) : e != 0;
		yyjson_doc_free(d);
		if (!right)
			fail_msg("seed %llu, document %d: %s (%s)", (unsigned long long)seed, i, buf_str(&b),
				e ? s.failed : "taken");
		e ? refused++ : taken++;
	}
	assert_true(taken > 10000 && refused > 1000); /* the generator makes both */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(values_are_found),
		cmocka_unit_test(mistakes_are_named_with_their_byte),
		cmocka_unit_test(bounds),
		cmocka_unit_test(agrees_with_a_parser),
	};
	return cmocka_run_group_tests_name("scan", tests, NULL, NULL);
}
