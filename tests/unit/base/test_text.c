/* SPDX-License-Identifier: Apache-2.0
 *
 * Text: JSON strings, UTF-8, numbers, shell words, views.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/buf.h"
#include "base/mem.h"
#include "base/num.h"
#include "base/strv.h"
#include "base/url.h"
#include "base/utf8.h"
#include "base/view.h"

static void json_strings(void **state)
{
	static const struct {
		struct view in;
		const char *out;
	} rows[] = {
		{ { NULL, 0 }, "\"\"" },
		{ VIEW("plain"), "\"plain\"" },
		{ VIEW("q\" b\\ n\n r\r t\t"), "\"q\\\" b\\\\ n\\n r\\r t\\t\"" },
		{ VIEW("\x01\x1f\x7f\0"), "\"\\u0001\\u001f\\u007f\\u0000\"" },
		{ VIEW("é€😀"), "\"é€😀\"" },
		{ VIEW("a\xff"
		       "b\xc3"),
			"\"a\xef\xbf\xbd"
			"b\xef\xbf\xbd\"" },
		{ VIEW("\xed\xa0\x80"), "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"" },
	};
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		AUTO(buf_done) struct buf b = BUF(1000);
		assert_int_equal(buf_add_json(&b, rows[i].in), 0);
		assert_string_equal(buf_str(&b), rows[i].out);
		/* one byte short: nothing is added */
		AUTO(buf_done) struct buf small = BUF(strlen(rows[i].out) + 3);
		assert_int_equal(buf_adds(&small, "keep"), 0);
		assert_int_equal(buf_add_json(&small, rows[i].in), -ENOBUFS);
		assert_string_equal(buf_str(&small), "keep");
	}
}

static void utf8_table(void **state)
{
	static const struct {
		struct view in;
		size_t len; /* of the first character; 0 = not UTF-8 */
	} rows[] = {
		{ { NULL, 0 }, 0 },
		{ VIEW("a"), 1 },
		{ VIEW("\0"), 1 },
		{ VIEW("\x7f"), 1 },
		{ VIEW("\xc2\x80"), 2 },
		{ VIEW("\xdf\xbf"), 2 },
		{ VIEW("\xe0\xa0\x80"), 3 },
		{ VIEW("\xed\x9f\xbf"), 3 },
		{ VIEW("\xee\x80\x80"), 3 },
		{ VIEW("\xef\xbf\xbf"), 3 },
		{ VIEW("\xf0\x90\x80\x80"), 4 },
		{ VIEW("\xf4\x8f\xbf\xbf"), 4 },
		/* continuation first, overlong, surrogates, beyond the end, cut */
		{ VIEW("\x80"), 0 },
		{ VIEW("\xc0\x80"), 0 },
		{ VIEW("\xc1\xbf"), 0 },
		{ VIEW("\xe0\x9f\xbf"), 0 },
		{ VIEW("\xf0\x8f\xbf\xbf"), 0 },
		{ VIEW("\xed\xa0\x80"), 0 },
		{ VIEW("\xed\xbf\xbf"), 0 },
		{ VIEW("\xf4\x90\x80\x80"), 0 },
		{ VIEW("\xf5\x80\x80\x80"), 0 },
		{ VIEW("\xff"), 0 },
		{ VIEW("\xc3"), 0 },
		{ VIEW("\xe2\x82"), 0 },
		{ VIEW("\xf0\x9f\x98"), 0 },
		{ VIEW("\xc3\x28"), 0 },
		{ VIEW("\xe2\x28\xa1"), 0 },
		{ VIEW("\xe2\x82\x28"), 0 },
	};
	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		assert_int_equal(utf8_len(rows[i].in), rows[i].len);
	assert_true(utf8_valid(VIEW("aé€😀")));
	assert_true(utf8_valid(VIEW("")));
	assert_false(utf8_valid(VIEW("aé\xff")));
	for (uint32_t cp = 0; cp <= 0x10ffff; cp += cp < 0x3000 ? 1 : 97) {
		char out[4];
		size_t n = utf8_put(out, cp);
		bool surrogate = cp >= 0xd800 && cp <= 0xdfff;
		assert_int_equal(utf8_len(view_of(out, n)), surrogate ? 0 : n);
	}
}

static void whole_numbers(void **state)
{
	uint64_t v = 7;
	assert_int_equal(num_u64(VIEW("0"), &v), 0);
	assert_true(v == 0);
	assert_int_equal(num_u64(VIEW("18446744073709551615"), &v), 0);
	assert_true(v == UINT64_MAX);
	assert_int_equal(num_u64(VIEW("18446744073709551616"), &v), -ERANGE);
	assert_int_equal(num_u64(VIEW("99999999999999999999"), &v), -ERANGE);
	static const char *const bad[] = { "", "-1", "+1", " 1", "1 ", "0x1", "1.0", "a" };
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_int_equal(num_u64(view_str(bad[i]), &v), -EINVAL);
	assert_true(v == UINT64_MAX); /* untouched by failures */
}

static void sizes_and_durations(void **state)
{
	static const struct {
		const char *in;
		uint64_t bytes;
	} sizes[] = { { "0", 0 }, { "4096", 4096 }, { "64MiB", 64 * MIB }, { "1.5GB", 1500000000 },
		{ "512 KiB", 512 * KIB }, { "1gib", GIB }, { "2k", 2048 }, { "17B", 17 }, { ".5K", 512 } };
	static const char *const bad_sizes[] = { "", "B", "-1", "1XB", "1.2.3", "1 2", "GiB", "0x10", "1e3" };
	uint64_t v;
	for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
		assert_int_equal(num_size(view_str(sizes[i].in), &v), 0);
		assert_true(v == sizes[i].bytes);
	}
	for (size_t i = 0; i < ARRAY_LEN(bad_sizes); i++)
		assert_int_equal(num_size(view_str(bad_sizes[i]), &v), -EINVAL);
	assert_int_equal(num_size(VIEW("99999999TiB"), &v), -ERANGE);
	static const struct {
		const char *in;
		int64_t ms;
	} times[] = { { "0", 0 }, { "250ms", 250 }, { "10s", 10000 }, { "5m", 300000 }, { "2h", 7200000 },
		{ "7d", 604800000 }, { "1m30s", 90000 }, { "15", 15000 }, { "0.5s", 500 },
		{ "1min", 60000 } };
	static const char *const bad_times[] = { "", "s", "-1s", "1 s", "1x", "1s2x", "1h-", "1S" };
	int64_t ms;
	for (size_t i = 0; i < ARRAY_LEN(times); i++) {
		assert_int_equal(num_duration_ms(view_str(times[i].in), &ms), 0);
		assert_true(ms == times[i].ms);
	}
	for (size_t i = 0; i < ARRAY_LEN(bad_times); i++)
		assert_int_equal(num_duration_ms(view_str(bad_times[i]), &ms), -EINVAL);
	assert_int_equal(num_duration_ms(VIEW("99999999999999999d"), &ms), -ERANGE);
}

static void numbers_for_people(void **state)
{
	char s[32];
	static const struct {
		uint64_t in;
		const char *out;
	} bytes[] = { { 0, "0 B" }, { 17, "17 B" }, { 1023, "1023 B" }, { 1024, "1.0 KiB" },
		{ 12 * 1024, "12.0 KiB" }, { 1536 * MIB, "1.5 GiB" }, { 200 * MIB, "200 MiB" },
		{ UINT64_MAX, "16.0 EiB" } };
	for (size_t i = 0; i < ARRAY_LEN(bytes); i++) {
		num_format_bytes(bytes[i].in, s, sizeof s);
		assert_string_equal(s, bytes[i].out);
	}
	static const struct {
		int64_t in;
		const char *out;
	} times[] = { { 0, "0ms" }, { 250, "250ms" }, { 1000, "1s" }, { 90000, "1m30s" }, { 600000, "10m" },
		{ 5400000, "1h30m" }, { 7200000, "2h" } };
	for (size_t i = 0; i < ARRAY_LEN(times); i++) {
		num_format_duration(times[i].in, s, sizeof s);
		assert_string_equal(s, times[i].out);
	}
	num_format_bytes(1536 * MIB, s, 4);
	assert_string_equal(s, "1.5");
}

static void shell_words(void **state)
{
	static const struct {
		const char *in;
		const char *words[5];
	} rows[] = {
		{ "", { NULL } },
		{ "  \t\n ", { NULL } },
		{ "a b  c", { "a", "b", "c" } },
		{ "'a b' \"c d\"", { "a b", "c d" } },
		{ "a'b'\"c\"d", { "abcd" } },
		{ "'' \"\"", { "", "" } },
		{ "a\\ b \\'", { "a b", "'" } },
		{ "'a\\b' \"a\\b\\\"\\\\\\$\"", { "a\\b", "a\\b\"\\$" } },
		{ "$HOME `x` *", { "$HOME", "`x`", "*" } },
		{ "--opt \\\n  value", { "--opt", "value" } },
		{ "va\\\nlue \"q\\\nr\" 's\\\nt'", { "value", "qr", "s\\\nt" } },
		{ "a#b # c", { "a#b", "#", "c" } },
	};
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		AUTO(strv_done) struct strv v = { 0 };
		struct err e = { 0 };
		assert_int_equal(strv_shell_words(&v, view_str(rows[i].in), &e), 0);
		size_t n = 0;
		for (; rows[i].words[n]; n++) {
			assert_true(n < v.len);
			assert_string_equal(v.items[n], rows[i].words[n]);
		}
		assert_int_equal(v.len, n);
		assert_true(!v.len || !v.items[v.len]);
	}
	static const struct view bad[] = { VIEW("a 'b"), VIEW("a \"b\\\""), VIEW("a\\"), VIEW("a\0b"),
		VIEW("a \"\\\0\"") };
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		AUTO(strv_done) struct strv v = { 0 };
		struct err e = { 0 };
		strv_add(&v, "kept");
		assert_int_equal(strv_shell_words(&v, bad[i], &e), -EINVAL);
		assert_true(e.msg[0] != '\0');
		assert_int_equal(v.len, 1);
	}
}

static void string_lists(void **state)
{
	AUTO(strv_done) struct strv a = { 0 }, b = { 0 };
	assert_true(strv_eq(&a, &b));
	strv_add(&a, "x");
	strv_addv(&a, view_cut(VIEW("yz"), 1));
	strv_addf(&a, "%d", 5);
	strv_copy(&b, &a);
	assert_true(strv_eq(&a, &b));
	assert_true(strv_has(&a, "y"));
	assert_false(strv_has(&a, "yz"));
	strv_add(&b, "");
	assert_false(strv_eq(&a, &b));
	assert_null(b.items[4]);
}

static void views(void **state)
{
	struct view none = { NULL, 0 }, rest;
	assert_true(view_eq(none, VIEW("")));
	assert_true(view_eqs(VIEW(""), ""));
	assert_true(view_starts(VIEW("abc"), VIEW("ab")) && view_starts(none, none) &&
		    !view_starts(none, VIEW("a")));
	assert_true(view_ends(VIEW("abc"), VIEW("bc")) && view_ends(VIEW("a"), none) &&
		    !view_ends(VIEW("a"), VIEW("ba")));
	assert_true(view_eqs(view_from(VIEW("abc"), 1), "bc") && view_from(VIEW("abc"), 9).n == 0);
	assert_true(view_eq_ci(VIEW("AbC"), VIEW("aBc")) && !view_eq_ci(VIEW("a"), VIEW("ab")));
	assert_true(view_cmp(VIEW("a"), VIEW("b")) < 0 && view_cmp(VIEW("ab"), VIEW("a")) > 0);
	assert_true(view_cmp(none, none) == 0 && view_cmp(VIEW("\xff"), VIEW("a")) > 0);
	assert_true(view_eqs(view_trim(VIEW(" \t a b\t ")), "a b") && view_trim(VIEW("  ")).n == 0);
	assert_true(view_eqs(view_split(VIEW("a:b:c"), ':', &rest), "a") && view_eqs(rest, "b:c"));
	assert_true(view_eqs(view_split(VIEW("a:"), ':', &rest), "a") && rest.p && rest.n == 0);
	assert_true(view_eqs(view_split(VIEW("a"), ':', &rest), "a") && !rest.p);
	assert_int_equal(view_find(VIEW("abc"), 'c'), 2);
	assert_int_equal(view_find(none, 'c'), 0);
	assert_int_equal(view_search(VIEW("aabab"), VIEW("bab")), 2);
	assert_int_equal(view_search(none, VIEW("a")), -1);
	assert_int_equal(view_search(none, none), 0);
}

/* Neither a password nor a signature is seen; what stands around an address stays. */
static void addresses_for_people(void **state)
{
	static const struct {
		const char *text, *shown;
	} texts[] = {
		{ "no address", "no address" },
		{ "https://h/a", "https://h/a" },
		{ "https://bob:S3CRET@h:1/a@b", "https://h:1/a@b" },
		{ "https://h/a.gguf?sig=S3CRET", "https://h/a.gguf?…" },
		{ "https://h?sig=S3CRET", "https://h?…" },
		{ "https://h?u=S3CRET@x", "https://h?…" },
		{ "from \"http://u:p@h/a?k=S3CRET&b\": refused", "from \"http://h/a?…\": refused" },
		{ "(see https://h/a?k=S3CRET), https://h/b?S3CRET.", "(see https://h/a?…), https://h/b?…." },
	};
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
		AUTO(mem_freep) char *shown = url_redact(view_str(texts[i].text));
		assert_string_equal(shown, texts[i].shown);
	}
	AUTO(mem_freep) char *signed_one = ref_shown("https://u:p@h/a.gguf?sig=S3CRET#top");
	assert_string_equal(signed_one, "https://h/a.gguf#25da5e92d0563d0f");
	AUTO(mem_freep) char *again = ref_shown(signed_one);
	assert_string_equal(again, signed_one);
	AUTO(mem_freep) char *other = ref_shown("https://h/a.gguf?sig=other");
	assert_string_not_equal(other, signed_one);
	AUTO(mem_freep) char *hub = ref_shown("hf:org/repo:Q4_K_M");
	assert_string_equal(hub, "hf:org/repo:Q4_K_M");
	assert_null(ref_shown(NULL));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(json_strings),
		cmocka_unit_test(utf8_table),
		cmocka_unit_test(whole_numbers),
		cmocka_unit_test(sizes_and_durations),
		cmocka_unit_test(numbers_for_people),
		cmocka_unit_test(shell_words),
		cmocka_unit_test(string_lists),
		cmocka_unit_test(views),
		cmocka_unit_test(addresses_for_people),
	};
	return cmocka_run_group_tests_name("base_text", tests, NULL, NULL);
}
