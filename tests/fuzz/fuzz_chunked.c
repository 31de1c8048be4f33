/* SPDX-License-Identifier: Apache-2.0
 *
 * Chunked bodies of requests and answers against a plain decoder: what is taken as whole is whole for it too,
 * and is the same bytes; what it finds wrong is never taken. Built with -Dfuzz=true (clang).
 */
#include "http_fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static const char request[] = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
static const char response[] = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	if (n == 0)
		return 0;
	bool engine = data[0] & 0x80;
	size_t step = 1 + data[0] % 31;
	struct view v = view_of(data + 1, n - 1);
	AUTO(buf_done) struct buf all = BUF(16 * MIB), told = BUF(16 * MIB), body = BUF(MIB), want = BUF(MIB);
	(void)buf_adds(&all, engine ? response : request);
	(void)buf_addv(&all, v);
	if (engine)
		answer(buf_view(&all), step, false, &told, &body);
	else
		serve(buf_view(&all), step, &told, &body);
	int whole = dechunk(v, &want);
	bool taken = view_search(buf_view(&told), VIEW("\nend\n")) >= 0;
	must(!taken || whole == 1);
	if (taken && engine)
		must(view_eq(buf_view(&body), buf_view(&want)));
	else if (taken) /* bodies of pipelined requests may follow */
		must(view_starts(buf_view(&body), buf_view(&want)));
	return 0;
}
