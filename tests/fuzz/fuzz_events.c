/* SPDX-License-Identifier: Apache-2.0
 *
 * The splitter of event streams against a plain one: what it calls whole ends where an empty line ends (SSE)
 * or a line ends (NDJSON), it forgets no such end, and however the bytes are cut it says the same. Built with
 * -Dfuzz=true (clang).
 */
#include <stdlib.h>

#include "dialect/dialect.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void must(bool ok)
{
	if (!ok)
		abort();
}

/* Where the last event ends: after a line end that follows a line end (or begins the stream), CR, LF and CRLF
 * being line ends alike (HTML standard, 9.2.6). A lone CR at the very end may still become a CRLF. */
static size_t sse_end(struct view v)
{
	size_t end = 0, line = 0;
	for (size_t i = 0; i < v.n;) {
		if (v.p[i] != '\r' && v.p[i] != '\n') {
			i++;
			continue;
		}
		size_t next = i + 1 + (v.p[i] == '\r' && i + 1 < v.n && v.p[i + 1] == '\n');
		if (i == line)
			end = next;
		line = i = next;
	}
	return end;
}

static size_t ndjson_end(struct view v)
{
	const char *nl = v.n ? memrchr(v.p, '\n', v.n) : NULL;
	return nl ? (size_t)(nl - v.p) + 1 : 0;
}

static size_t cut_in(struct event_split *s, struct view v, size_t step)
{
	size_t end = 0;
	for (size_t i = 0; i < v.n; i += step) {
		struct view piece = view_cut(view_from(v, i), step);
		size_t k = event_split_feed(s, piece);
		must(k <= piece.n);
		if (k)
			end = i + k;
	}
	return end;
}

static void fuzz(struct view v, size_t step, enum event_format f)
{
	struct event_split whole, cut;
	event_split_init(&whole, f);
	event_split_init(&cut, f);
	size_t a = event_split_feed(&whole, v), b = cut_in(&cut, v, step);
	must(a == b && whole.events == cut.events && whole.tokens == cut.tokens);
	must(whole.terminal == cut.terminal && whole.started == cut.started);
	must(a == (f == EVENTS_SSE ? sse_end(v) : ndjson_end(v)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	if (n == 0)
		return 0;
	size_t step = 1 + data[0] % 17;
	struct view v = view_of(data + 1, n - 1);
	fuzz(v, step, data[0] & 0x80 ? EVENTS_SSE : EVENTS_NDJSON);
	return 0;
}
