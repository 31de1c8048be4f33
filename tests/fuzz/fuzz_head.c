/* SPDX-License-Identifier: Apache-2.0
 *
 * Whole requests, and whole answers, through the parsers of src/http as a connection drives them: the first
 * byte says how the rest is cut into pieces. However it is cut, the same comes out; and what comes out is
 * never what the checks of http_fuzz.c forbid (two Hosts, two framings, control bytes …). Built with
 * -Dfuzz=true (clang).
 */
#include "http_fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void same(const struct buf *a, const struct buf *b)
{
	must(view_eq(buf_view(a), buf_view(b)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	if (n == 0)
		return 0;
	size_t step = 1 + data[0] % 31;
	struct view v = view_of(data + 1, n - 1);
	AUTO(buf_done) struct buf a = BUF(16 * MIB), b = BUF(16 * MIB), a_body = BUF(MIB), b_body = BUF(MIB);
	if (data[0] & 0x80) {
		bool eof = data[0] & 0x40;
		answer(v, v.n + 1, eof, &a, &a_body);
		answer(v, step, eof, &b, &b_body);
	} else {
		serve(v, v.n + 1, &a, &a_body);
		serve(v, step, &b, &b_body);
	}
	same(&a, &b);
	same(&a_body, &b_body);
	return 0;
}
