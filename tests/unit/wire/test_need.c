/* SPDX-License-Identifier: Apache-2.0
 *
 * What a model needs in memory, on its way from the node.
 */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "wire/wire.h"

static void test_there_and_back(void **state)
{
	(void)state;
	struct wire_need_layer layers[] = { { 100, 0, 5 }, { 100, 0, 5 }, { 90, 800, 5 } };
	struct wire_need n = { .ctx = 8192,
		.whole = 7,
		.output = 50,
		.compute = 3,
		.host_mapped = UINT64_MAX,
		.error_permille = 20,
		.source = "formula",
		.kind = "moe",
		.layers = layers,
		.nlayers = 3 };
	struct wire_need got;
	struct err e = { 0 };
	AUTO(buf_done) struct buf b = BUF(4096);
	assert_int_equal(wire_need_encode(&n, &b), 0);
	assert_string_equal(buf_str(&b),
		"source=formula kind=moe error=20 ctx=8192 whole=7 output=50 compute=3 "
		"host_mapped=18446744073709551615 layers=2x100/0/5,1x90/800/5");
	assert_int_equal(wire_need_decode(buf_view(&b), &got, &e), 0);
	assert_int_equal(got.nlayers, 3);
	assert_memory_equal(got.layers, layers, sizeof layers);
	assert_true(got.whole == 7 && got.output == 50 && got.host_mapped == UINT64_MAX && !got.extra);
	assert_string_equal(got.kind, "moe");
	assert_int_equal(got.ctx, 8192);
	wire_need_done(&got);
}

static void test_hostile(void **state)
{
	(void)state;
	static const char *const wrong[] = { "layers=", "layers=1x1/2", "layers=0x1/1/1", "layers=1025x1/1/1",
		"layers=1024x1/1/1,1x1/1/1", "layers=99999999999999999999x1/1/1", "whole=-1", "whole",
		"whole=x", "layers=1x1/1/1,", "error=1e9" };
	for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
		struct wire_need got = { 0 };
		struct err e = { 0 };
		assert_true(wire_need_decode(view_str(wrong[i]), &got, &e) < 0);
		assert_true(e.msg[0]);
		assert_null(got.layers);
	}
}

static void test_newer_side(void **state)
{
	(void)state;
	struct wire_need got;
	assert_int_equal(wire_need_decode(VIEW("later=5 whole=9  "), &got, NULL), 0);
	assert_true(got.whole == 9 && got.nlayers == 0);
	wire_need_done(&got);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_there_and_back),
		cmocka_unit_test(test_hostile), cmocka_unit_test(test_newer_side) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
