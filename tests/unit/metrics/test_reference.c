/* SPDX-License-Identifier: Apache-2.0
 *
 * docs/reference/metrics.md is made from the table: it must say what the table says. With
 * CORRAL_WRITE_REFERENCE=1 it is written anew.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "base/fd.h"
#include "metrics/metrics.h"

static void the_page_is_what_the_table_says(void **state)
{
	(void)state;
	AUTO(buf_done) struct buf want = BUF(1 * MIB);
	AUTO(buf_done) struct buf got = BUF(1 * MIB);
	assert_int_equal(metrics_reference(&want), 0);
	if (getenv("CORRAL_WRITE_REFERENCE"))
		assert_int_equal(file_write_atomic(METRICS_PAGE, buf_view(&want), 0644, false), 0);
	assert_int_equal(file_read(METRICS_PAGE, &got), 0);
	assert_string_equal(buf_str(&got), buf_str(&want));
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(the_page_is_what_the_table_says) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
