/* SPDX-License-Identifier: Apache-2.0
 *
 * The multipart scanner: forms as clients send them at every split point, and forms that mean two things.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "dialect/multipart.h"

#define TYPE "multipart/form-data; boundary=XyZ"
#define FIELD(name, value) "--XyZ\r\nContent-Disposition: form-data; name=\"" name "\"\r\n\r\n" value "\r\n"
#define FILE_PART(data)                                                                                      \
	"--XyZ\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a;b=\\\"c\\\".wav\"\r\n"         \
	"Content-Type: audio/wav\r\n\r\n" data "\r\n"
#define END "--XyZ--\r\n"

static int scan(struct multipart_scan *s, const char *type, struct view v, size_t first, size_t step)
{
	int r = multipart_scan_init(s, view_str(type));
	if (r)
		return r;
	r = multipart_scan_feed(s, view_cut(v, first));
	for (size_t i = MIN(first, v.n); i < v.n && !r; i += step)
		r = multipart_scan_feed(s, view_cut(view_from(v, i), step));
	int e = multipart_scan_end(s);
	return r ? r : e;
}

static const struct good {
	const char *type, *body;
	size_t n;          /* of body when it holds a NUL; else 0 */
	const char *model; /* NULL: none */
	int stream;        /* -1: none */
} good[] = {
	{ TYPE, FILE_PART("RIFF") FIELD("model", "whisper") END, 0, "whisper", -1 },
	{ TYPE, FIELD("model", "whisper") FILE_PART("RIFF") FIELD("stream", "true") END, 0, "whisper", 1 },
	{ TYPE, FIELD("stream", "False") FIELD("model", "") END, 0, "", 0 },
	{ TYPE, FIELD("prompt", "model") FIELD("models", "x") FIELD("mode", "y") END, 0, NULL, -1 },
	{ TYPE, END, 0, NULL, -1 },
	{ TYPE, FILE_PART("") FIELD("model", "a b/c:d\xc3\xa9") "--XyZ--", 0, "a b/c:d\xc3\xa9", -1 },
	/* what begins like a boundary and is none */
	{ TYPE, FILE_PART("\r\n--Xy\r\n--XyY\r--XyZ\n--XyZ--\r\r\n-\r\n--\r") FIELD("model", "m") END, 0, "m",
		-1 },
	{ TYPE, FIELD("model", "m\x7e--XyZ") END, 0, "m~--XyZ", -1 },
	{ TYPE, FILE_PART("--XyZ--") FIELD("model", "m") END, 0, "m", -1 },
	/* a form inside a file */
	{ TYPE, FILE_PART("--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nevil\r\n--b--") END,
		0, NULL, -1 },
	{ TYPE, FILE_PART("\0\r\n\0\r\n--\0") FIELD("model", "m") END,
		sizeof(FILE_PART("\0\r\n\0\r\n--\0") FIELD("model", "m") END) - 1, "m", -1 },
	{ "Multipart/Form-Data; charset=utf-8; Boundary=\"a b'(x)?=:/,.\"",
		"--a b'(x)?=:/,.\r\ncontent-DISPOSITION:form-data;NAME=model\r\n\r\nm\r\n--a b'(x)?=:/,.--",
		0, "m", -1 },
	{ TYPE,
		"--XyZ\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Disposition: form-data ; x=y ; "
		"name=\"model\" \r\nX-Other: 1\r\n\r\nm\r\n" END,
		0, "m", -1 },
};

static void forms_are_read_at_every_split(void **state)
{
	(void)state;
	AUTO(mem_freep) struct multipart_scan *s = NEW(struct multipart_scan);
	for (size_t i = 0; i < ARRAY_LEN(good); i++) {
		const struct good *g = &good[i];
		struct view v = view_of(g->body, g->n ? g->n : strlen(g->body));
		for (size_t at = 0; at <= 2 * v.n; at++) { /* in two pieces, then in pieces of one size */
			bool two = at <= v.n;
			int r = scan(s, g->type, v, two ? at : 0, two ? v.n : at - v.n);
			if (r)
				fail_msg("%s: %s", g->body, s->err.msg);
			assert_int_equal(s->has_model, g->model != NULL);
			if (g->model) {
				assert_string_equal(s->model, g->model);
				assert_true(view_eqs(view_of(v.p + s->model_begin,
							     (size_t)(s->model_end - s->model_begin)),
					g->model));
			}
			assert_int_equal(s->has_stream ? s->stream : -1, g->stream);
			assert_int_equal(s->bytes, v.n);
		}
	}
}

/* Every form that is cut short is refused, and no cut makes it mean something else. */
static void a_form_that_ends_early_is_refused(void **state)
{
	(void)state;
	AUTO(mem_freep) struct multipart_scan *s = NEW(struct multipart_scan);
	struct view v = VIEW(FIELD("model", "m") FILE_PART("RIFF") "--XyZ--");
	for (size_t n = 0; n < v.n; n++) {
		assert_int_equal(scan(s, TYPE, view_cut(v, n), n, 1), -EINVAL);
		assert_non_null(strstr(s->err.msg, "before its last boundary"));
	}
	assert_int_equal(scan(s, TYPE, v, v.n, 1), 0);
}

static void what_means_two_things_is_refused(void **state)
{
	(void)state;
	static const struct {
		const char *body, *why;
	} rows[] = {
		{ FIELD("model", "a") FIELD("model", "b") END, "`model` stands here a second time" },
		{ FIELD("stream", "true") FIELD("stream", "true") END, "`stream` stands here a second time" },
		{ FIELD("stream", "maybe") END, "neither true nor false" },
		{ "--XyZ\r\nContent-Disposition: form-data; name=model; filename=x\r\n\r\nm\r\n" END,
			"as a file" },
		{ "--XyZ\r\nContent-Disposition: form-data; name=a; name=model\r\n\r\nm\r\n" END,
			"one name" },
		{ "--XyZ\r\nContent-Disposition: form-data; name=a; name*=utf-8''model\r\n\r\nm\r\n" END,
			"one name" },
		{ "--XyZ\r\nContent-Disposition: form-data; name=\"model\r\n\r\nm\r\n" END,
			"cannot be read" },
		{ "--XyZ\r\nContent-Disposition: form-data; name=\"a\"b\r\n\r\nm\r\n" END, "cannot be read" },
		{ "--XyZ\r\nContent-Disposition: form-data; name\r\n\r\nm\r\n" END, "cannot be read" },
		{ "--XyZ\r\nContent-Disposition: form-data\r\n\r\nm\r\n" END, "no name" },
		{ "--XyZ\r\nContent-Disposition: attachment; name=a\r\n\r\nm\r\n" END, "not form-data" },
		{ "--XyZ\r\nContent-Disposition: form-data; name=a\r\nContent-Disposition: form-data; "
		  "name=model\r\n\r\nm\r\n" END,
			"two Content-Disposition" },
		{ "--XyZ\r\n\r\nm\r\n" END, "no Content-Disposition" },
		{ "--XyZ\r\nContent-Disposition: form-data;\r\n name=model\r\n\r\nm\r\n" END, "no name" },
		{ "--XyZ\r\nContent-Disposition: form-data; name=a\r\n name=model\r\n\r\nm\r\n" END,
			"second line" },
		{ "--XyZ\r\nContent-Disposition: form-data; name=a\nX: y\r\n\r\nm\r\n" END, "without CR" },
		{ "--XyZ\r\nContent-Disposition: form-data; name=a\rX: y\r\n\r\nm\r\n" END, "in the middle" },
		{ "--XyZ\r\nno colon\r\n\r\nm\r\n" END, "no colon" },
		{ "preamble\r\n" FIELD("model", "m") END, "does not begin with the boundary" },
		{ "\r\n" FIELD("model", "m") END, "does not begin with the boundary" },
		{ "{\"model\":\"m\"}", "does not begin with the boundary" },
		{ FILE_PART("x\r\n--XyZa") END, "follows a boundary" },
		{ FILE_PART("x\r\n--XyZ-a") END, "follows a boundary" },
		{ "--XyZ \r\nContent-Disposition: form-data; name=a\r\n\r\nm\r\n" END, "follows a boundary" },
		{ "--XyZ\n", "follows a boundary" },
		{ "--XyZ\rX", "CR alone" },
		{ FIELD("model", "m") END "epilogue", "follow the last boundary" },
		{ FIELD("model", "m") "--XyZ--" FIELD("model", "n") END, "follow the last boundary" },
		{ FIELD("model", "a\tb") END, "control character" },
		{ FIELD("model", "a\r\nb") END, "control character" },
		{ FIELD("model", "\xff") END, "not UTF-8" },
	};
	AUTO(mem_freep) struct multipart_scan *s = NEW(struct multipart_scan);
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct view v = view_str(rows[i].body);
		for (size_t step = 1; step <= v.n; step += step < 8 ? 1 : v.n) {
			assert_int_equal(scan(s, TYPE, v, 0, step), -EINVAL);
			if (!strstr(s->err.msg, rows[i].why))
				fail_msg("%s: %s", rows[i].body, s->err.msg);
			assert_int_equal(multipart_scan_feed(s, VIEW("x")), -EINVAL); /* it stays refused */
		}
	}
}

static void boundaries_that_may_not_be_used(void **state)
{
	(void)state;
	static const char too_long[] =
		"multipart/form-data; boundary="
		"12345678901234567890123456789012345678901234567890123456789012345678901";
	static const char *const types[] = { too_long, "multipart/form-data", "multipart/form-data;",
		"multipart/form-data; boundary=", "multipart/form-data; boundary=\"\"",
		"multipart/form-data; boundary=a; boundary=a", "multipart/form-data; boundary=\"a ",
		"multipart/form-data; boundary=\"a \"", "multipart/form-data; boundary=a\"b",
		"multipart/form-data; boundary=\"a\\\"b\"", "multipart/form-data; boundary=a\xc3\xa9",
		"multipart/form-data; boundary=a b", "multipart/form-data; x" };
	AUTO(mem_freep) struct multipart_scan *s = NEW(struct multipart_scan);
	for (size_t i = 0; i < ARRAY_LEN(types); i++) {
		if (multipart_scan_init(s, view_str(types[i])) != -EINVAL)
			fail_msg("taken: %s", types[i]);
		assert_int_equal(multipart_scan_feed(s, VIEW("x")), -EINVAL);
		assert_int_equal(multipart_scan_end(s), -EINVAL);
	}
	assert_int_equal(multipart_scan_init(
				 s, VIEW("multipart/form-data; "
					 "boundary=1234567890123456789012345678901234567890123456789012345678"
					 "901234567890")),
		0);
}

static void bounds_hold(void **state)
{
	(void)state;
	AUTO(mem_freep) struct multipart_scan *s = NEW(struct multipart_scan);
	AUTO(buf_done) struct buf b = BUF(64 * KIB);
	buf_adds(&b, "--XyZ\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\n");
	for (int i = 0; i < SCAN_STRING_MAX; i++)
		buf_addc(&b, 'm');
	size_t whole = b.len;
	buf_adds(&b, "\r\n" END);
	assert_int_equal(scan(s, TYPE, buf_view(&b), 0, 7), 0);
	assert_int_equal(s->model_len, SCAN_STRING_MAX);
	b.len = whole;
	buf_adds(&b, "m\r\n" END);
	assert_int_equal(scan(s, TYPE, buf_view(&b), 0, 7), -EINVAL);
	assert_non_null(strstr(s->err.msg, "longer than 512"));
	for (size_t step = 1; step < b.len; step++) { /* at the same byte, however it is cut */
		assert_int_equal(scan(s, TYPE, buf_view(&b), 0, step), -EINVAL);
		assert_int_equal(s->bytes, whole);
	}

	buf_reset(&b);
	buf_adds(&b, "--XyZ\r\nX: ");
	for (int i = 0; i < MULTIPART_LINE_MAX; i++)
		buf_addc(&b, 'h');
	assert_int_equal(scan(s, TYPE, buf_view(&b), 0, 999), -EINVAL);
	assert_non_null(strstr(s->err.msg, "longer than 2048"));

	buf_reset(&b);
	buf_adds(&b, "--XyZ\r\n");
	for (int i = 0; i <= MULTIPART_LINES_MAX; i++)
		buf_adds(&b, "X: y\r\n");
	assert_int_equal(scan(s, TYPE, buf_view(&b), 0, 999), -EINVAL);
	assert_non_null(strstr(s->err.msg, "16 header lines"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(forms_are_read_at_every_split),
		cmocka_unit_test(a_form_that_ends_early_is_refused),
		cmocka_unit_test(what_means_two_things_is_refused),
		cmocka_unit_test(boundaries_that_may_not_be_used),
		cmocka_unit_test(bounds_hold),
	};
	return cmocka_run_group_tests_name("multipart", tests, NULL, NULL);
}
