/* SPDX-License-Identifier: Apache-2.0
 *
 * A keeper's record is a file anybody may have written.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/mem.h"
#include "base/rnd.h"
#include "supervise/record.h"

static const char good[] =
	"{\"schema\":1,\"replica_id\":\"chat-0\",\"generation\":7,\"state\":\"gone\","
	"\"boot_id\":\"01234567-89ab-cdef-0123-456789abcdef\",\"keeper_pid\":12,\"keeper_start\":345,"
	"\"engine_pid\":13,\"engine_start\":346,\"exit_code\":-1,\"signal\":9,\"exec_errno\":0,"
	"\"stop_asked\":true,\"killed\":true,\"oom\":false,\"started_at_ms\":1000,\"ended_at_ms\":2000,"
	"\"log_dropped_bytes\":17,\"socket\":\"/run/x.sock\"}     \n";

static void a_good_one(void **state)
{
	(void)state;
	struct keeper_record r;
	struct err e = { 0 };
	assert_int_equal(record_decode(VIEW(good), &r, &e), 0);
	assert_string_equal(r.replica_id, "chat-0");
	assert_string_equal(r.socket, "/run/x.sock");
	assert_int_equal(r.generation, 7);
	assert_int_equal(r.state, RECORD_GONE);
	assert_int_equal(r.signo, 9);
	assert_int_equal(r.exit_code, -1);
	assert_true(r.killed && r.stop_asked && !r.oom);
	assert_int_equal(r.log_dropped_bytes, 17);
}

static char *with(const char *from, const char *to)
{
	struct view g = VIEW(good);
	ptrdiff_t i = view_search(g, view_str(from));
	assert_true(i >= 0);
	return mem_fmt("%.*s%s%s", (int)i, good, to, good + i + strlen(from));
}

static void hostile_ones_are_refused(void **state)
{
	(void)state;
	const struct {
		const char *from, *to;
	} cases[] = {
		{ "\"schema\":1", "\"schema\":2" },
		{ "\"schema\":1", "\"schema\":\"1\"" },
		{ "\"chat-0\"", "\"\"" },
		{ "\"chat-0\"", "null" },
		{ "\"chat-0\"", "\"a\\u0000b\"" },
		{ "\"generation\":7", "\"generation\":-7" },
		{ "\"generation\":7", "\"generation\":7.5" },
		{ "\"generation\":7", "\"generation\":18446744073709551615" },
		{ "\"gone\"", "\"dead\"" },
		{ "\"keeper_pid\":12", "\"keeper_pid\":0" },
		{ "\"keeper_pid\":12", "\"keeper_pid\":-1" },
		{ "\"keeper_pid\":12", "\"keeper_pid\":4294967296" },
		{ "\"engine_pid\":13", "\"engine_pid\":true" },
		{ "\"signal\":9", "\"signal\":128" },
		{ "\"exit_code\":-1", "\"exit_code\":256" },
		{ "\"oom\":false", "\"oom\":0" },
		{ "\"started_at_ms\":1000", "\"started_at_ms\":-1" },
		{ "01234567-89ab", "01234567-89ab-too-long-for-a-boot-id" },
		{ "\"log_dropped_bytes\":17,", "" },
		{ "{\"schema\"", "[\"schema\"" },
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		AUTO(mem_freep) char *text = with(cases[i].from, cases[i].to);
		struct keeper_record r;
		struct err e = { 0 };
		assert_true(record_decode(view_str(text), &r, &e) < 0);
		assert_true(e.msg[0]);
	}
	struct keeper_record r;
	assert_true(record_decode(VIEW(""), &r, NULL) < 0);
	assert_true(record_decode((struct view){ 0 }, &r, NULL) < 0);
	AUTO(buf_done) struct buf big = BUF(64 * KIB);
	while (big.len <= RECORD_FILE_MAX)
		assert_int_equal(buf_adds(&big, "        "), 0);
	assert_int_equal(record_decode(buf_view(&big), &r, NULL), -EFBIG);
}

static void cut_and_flipped_bytes(void **state)
{
	(void)state;
	struct keeper_record r;
	size_t n = sizeof good - 1;
	for (size_t i = 0; i < n - 6; i++) /* the last six are blanks */
		assert_true(record_decode(view_of(good, i), &r, NULL) < 0);
	struct rnd rnd;
	rnd_seed(&rnd, 7);
	for (int i = 0; i < 20000; i++) {
		char copy[sizeof good];
		memcpy(copy, good, sizeof good);
		for (uint64_t k = rnd_below(&rnd, 4) + 1; k; k--)
			copy[rnd_below(&rnd, n)] = (char)rnd_u64(&rnd);
		if (record_decode(view_of(copy, n), &r, NULL) == 0)
			assert_true(r.keeper_pid > 0 && r.replica_id[0] && r.state < RECORD_STATE_COUNT);
	}
}

static void a_process_is_its_start_time(void **state)
{
	(void)state;
	uint64_t start;
	char boot[BOOT_ID_LEN + 1];
	boot_id_read(boot);
	assert_int_equal(proc_start_time(getpid(), &start), 0);
	assert_true(proc_is(getpid(), start, boot));
	assert_false(proc_is(getpid(), start + 1, boot));
	assert_false(proc_is(getpid(), start, "another"));
	assert_false(proc_is(0, start, boot));
	assert_int_equal(proc_start_time(INT32_MAX, &start), -ESRCH);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_good_one),
		cmocka_unit_test(hostile_ones_are_refused),
		cmocka_unit_test(cut_and_flipped_bytes),
		cmocka_unit_test(a_process_is_its_start_time),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
