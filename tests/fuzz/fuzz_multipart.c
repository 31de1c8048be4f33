/* SPDX-License-Identifier: Apache-2.0
 *
 * The multipart scanner: the first byte says how the body is cut into pieces, the first line (to LF) is the
 * Content-Type, the rest the body. However it is cut, the scanner must say the same, and a model it found
 * must stand in the body where it says. Built with -Dfuzz=true (clang).
 */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "dialect/multipart.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void must(bool ok)
{
	if (!ok)
		abort();
}

static int scan(struct multipart_scan *s, struct view type, struct view v, size_t step)
{
	int r = multipart_scan_init(s, type);
	for (size_t i = 0; i < v.n && !r; i += step)
		r = multipart_scan_feed(s, view_cut(view_from(v, i), step));
	int e = multipart_scan_end(s);
	return r ? r : e;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	if (n == 0)
		return 0;
	size_t step = 1 + data[0] % 17;
	struct view body, type = view_split(view_of(data + 1, n - 1), '\n', &body);
	AUTO(mem_freep) struct multipart_scan *a = NEW(struct multipart_scan);
	AUTO(mem_freep) struct multipart_scan *b = NEW(struct multipart_scan);
	int r = scan(a, type, body, body.n ? body.n : 1);
	must(r == scan(b, type, body, step));
	must(a->bytes == b->bytes && strcmp(a->err.msg, b->err.msg) == 0);
	if (r)
		return 0;
	must(a->has_model == b->has_model && a->has_stream == b->has_stream && a->stream == b->stream);
	must(a->model_begin == b->model_begin && a->model_end == b->model_end);
	if (a->has_model)
		must(a->model_end <= body.n &&
			view_eq(view_of(body.p + a->model_begin, (size_t)(a->model_end - a->model_begin)),
				view_of(a->model, a->model_len)));
	return 0;
}
