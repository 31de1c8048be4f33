/* SPDX-License-Identifier: Apache-2.0
 *
 * Event boundaries: every split of sample streams against what the whole stream says.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/rnd.h"
#include "dialect/dialect.h"

struct sample {
	enum event_format format;
	const char *text;
	const char *rest; /* what is held back after all of text */
	uint64_t events;
	bool started, terminal;
};

static const struct sample samples[] = {
	{ EVENTS_SSE, "data: a\n\ndata: b\n\ndata: [DONE]\n\n", "", 3, true, true },
	{ EVENTS_SSE, "data: a\r\n\r\ndata: b\r\n\r\n", "", 2, true, false },
	{ EVENTS_SSE, "data: a\r\rdata: b\r\r", "", 2, true, false },
	{ EVENTS_SSE, "data: a\n\r\ndata: b\r\n\ndata: c\r\r\ndata: d\n\r", "", 4, true, false },
	{ EVENTS_SSE, "data: a\n\ndata: half", "data: half", 1, true, false },
	{ EVENTS_SSE, "data: a\n\ndata: half\n", "data: half\n", 1, true, false },
	{ EVENTS_SSE, "data: [DONE]\n", "data: [DONE]\n", 0, false, false },
	{ EVENTS_SSE, ": ping\n\n: ping\r\n\r\n", "", 0, false, false },
	{ EVENTS_SSE, ":\n\ndata:x\n\n", "", 1, true, false },
	{ EVENTS_SSE, "\n\n\ndata\n\n", "", 1, true, false },
	{ EVENTS_SSE, "id: 4\n\nretry: 5\n\n", "", 0, false, false },
	{ EVENTS_SSE, "data:[DONE]\n\n", "", 1, true, true },
	{ EVENTS_SSE, "data: [DONE] \n\n", "", 1, true, true },
	{ EVENTS_SSE,
		"\xef\xbb\xbf"
		"data: [DONE]\n\n",
		"", 1, true, true },
	{ EVENTS_SSE, "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n", "", 1, true, true },
	{ EVENTS_SSE, "data: {\"type\": \"message_stop\"}\n\n", "", 1, true, true },
	{ EVENTS_SSE, "event: message_delta\ndata: {\"type\":\"message_delta\"}\n\n", "", 1, true, false },
	{ EVENTS_SSE,
		"event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{}}\n\n", "",
		1, true, true },
	{ EVENTS_SSE, "event: response.failed\r\ndata: {}\r\n\r\n", "", 1, true, true },
	{ EVENTS_SSE, "event: response.incomplete\rdata: {}\r\r", "", 1, true, true },
	{ EVENTS_SSE, "event: error\ndata: {}\n\n", "", 1, true, true },
	{ EVENTS_SSE, "data: {\"error\":{\"message\":\"no\"}}\n\n", "", 1, true, true },
	{ EVENTS_SSE, "data: {\"error\":null,\"x\":1}\n\n", "", 1, true, false },
	{ EVENTS_SSE, "data: {\"content\":\"[DONE] message_stop\"}\n\n", "", 1, true, false },
	{ EVENTS_SSE, "event: message_stop\n\n", "", 0, false, false }, /* no data: no client sees it */
	{ EVENTS_SSE, "event: message_stop\n\ndata: x\n\n", "", 1, true, false },
	{ EVENTS_NDJSON, "{\"a\":1}\n{\"done\":false}\n", "", 2, true, false },
	{ EVENTS_NDJSON, "{\"a\":1}\r\n{\"done\": true,\"n\":1}\r\n", "", 2, true, true },
	{ EVENTS_NDJSON, "{\"model\":\"x\",\"done\":true}", "{\"model\":\"x\",\"done\":true}", 0, false,
		false },
	{ EVENTS_NDJSON, "{\"m\":{\"done\":true,\"error\":1},\"l\":[{\"done\":true}]}\n", "", 1, true,
		false },
	{ EVENTS_NDJSON, "{\"t\":\"\\\"done\\\":true {[\",\"done\":false}\n", "", 1, true, false },
	{ EVENTS_NDJSON, "{\"error\":\"gone\"}\n", "", 1, true, true },
	{ EVENTS_NDJSON, "\n\r\n", "", 0, false, false },
};

/* Feeds the pieces as a relay would: held holds the tail, sent gets what was forwarded. */
static void relay(struct event_split *s, struct buf *sent, struct buf *held, struct view piece)
{
	AUTO(mem_freep) char *copy = mem_viewdup(piece);
	size_t n = event_split_feed(s, view_of(copy, piece.n));
	assert_true(n <= piece.n);
	if (n) {
		(void)buf_addv(sent, buf_view(held));
		buf_reset(held);
		(void)buf_addv(sent, view_cut(piece, n));
	}
	(void)buf_addv(held, view_from(piece, n));
}

static void check(
	const struct sample *m, const struct event_split *s, const struct buf *sent, const struct buf *held)
{
	if (s->events != m->events || s->started != m->started || s->terminal != m->terminal ||
		!view_eqs(buf_view(held), m->rest))
		fail_msg("%s: events %llu started %d terminal %d held \"%s\"", m->text,
			(unsigned long long)s->events, s->started, s->terminal, buf_str(held));
	size_t n = strlen(m->text) - strlen(m->rest);
	assert_true(view_eq(buf_view(sent), view_of(m->text, n)));
}

static void every_split_says_the_same(void **state)
{
	for (size_t k = 0; k < ARRAY_LEN(samples); k++) {
		struct view t = view_str(samples[k].text);
		for (size_t i = 0; i <= t.n; i++) {
			for (size_t j = i; j <= t.n; j++) {
				AUTO(buf_done) struct buf sent = BUF(4096);
				AUTO(buf_done) struct buf held = BUF(4096);
				struct event_split s;
				event_split_init(&s, samples[k].format);
				relay(&s, &sent, &held, view_cut(t, i));
				relay(&s, &sent, &held, view_cut(view_from(t, i), j - i));
				relay(&s, &sent, &held, view_from(t, j));
				check(&samples[k], &s, &sent, &held);
			}
		}
		AUTO(buf_done) struct buf sent = BUF(4096);
		AUTO(buf_done) struct buf held = BUF(4096);
		struct event_split s;
		event_split_init(&s, samples[k].format);
		for (size_t i = 0; i < t.n; i++)
			relay(&s, &sent, &held, view_cut(view_from(t, i), 1));
		check(&samples[k], &s, &sent, &held);
	}
}

/* Whatever was forwarded ends where an event ends: the model looks at all of it at once. */
static bool ends_whole(struct view sent)
{
	if (sent.n == 0)
		return true;
	bool blank = true; /* the line being read is empty, and so is the event before it */
	bool event_over = true;
	for (size_t i = 0; i < sent.n; i++) {
		char c = sent.p[i];
		if (c == '\n' && i && sent.p[i - 1] == '\r')
			continue;
		if (c == '\n' || c == '\r') {
			event_over = blank;
			blank = true;
		} else {
			blank = event_over = false;
		}
	}
	return event_over && blank;
}

static void random_streams_forward_whole_events(void **state)
{
	static const char *const parts[] = { "data: x", "\n", "\r", "\r\n", "\n\n", "\r\n\r\n", ": c",
		"event: e", "data: {}", "a", ":" };
	struct rnd r;
	rnd_seed(&r, 7);
	for (int round = 0; round < 20000; round++) {
		AUTO(buf_done) struct buf all = BUF(4096);
		for (uint64_t n = rnd_below(&r, 20); n; n--)
			(void)buf_adds(&all, parts[rnd_below(&r, ARRAY_LEN(parts))]);
		AUTO(buf_done) struct buf sent = BUF(4096);
		AUTO(buf_done) struct buf held = BUF(4096);
		struct event_split s, once;
		event_split_init(&s, EVENTS_SSE);
		event_split_init(&once, EVENTS_SSE);
		for (struct view v = buf_view(&all); v.n;) {
			size_t n = 1 + rnd_below(&r, 9);
			relay(&s, &sent, &held, view_cut(v, n));
			v = view_from(v, n);
			assert_true(ends_whole(buf_view(&sent)));
		}
		size_t whole = event_split_feed(&once, buf_view(&all));
		assert_int_equal(whole, sent.len);
		assert_int_equal(once.events, s.events);
		assert_int_equal(sent.len + held.len, all.len);
	}
}

static void endless_events_pass_in_pieces(void **state)
{
	struct event_split s;
	event_split_init(&s, EVENTS_SSE);
	AUTO(mem_freep) char *x = mem_alloc(64 * KIB);
	memset(x, 'x', 64 * KIB);
	assert_int_equal(event_split_feed(&s, VIEW("data: ")), 0);
	size_t fed = 6;
	for (; fed <= EVENT_HOLD_MAX - 64 * KIB; fed += 64 * KIB)
		assert_int_equal(event_split_feed(&s, view_of(x, 64 * KIB)), 0);
	assert_false(s.passing);
	assert_int_equal(event_split_feed(&s, view_of(x, 64 * KIB)), 64 * KIB);
	assert_true(s.passing);
	assert_int_equal(event_split_feed(&s, VIEW("y")), 1);
	assert_int_equal(event_split_feed(&s, VIEW("\n\ndata: z")), 2); /* over; the next is held as ever */
	assert_false(s.passing);
	assert_int_equal(s.events, 1);
	event_split_init(&s, EVENTS_NONE);
	assert_int_equal(event_split_feed(&s, VIEW("anything")), 8);
}

static void formats(void **state)
{
	assert_int_equal(event_format_of(VIEW("text/event-stream")), EVENTS_SSE);
	assert_int_equal(event_format_of(VIEW("Text/Event-Stream ; charset=utf-8")), EVENTS_SSE);
	assert_int_equal(event_format_of(VIEW("application/x-ndjson")), EVENTS_NDJSON);
	assert_int_equal(event_format_of(VIEW("application/json")), EVENTS_NONE);
	assert_int_equal(event_format_of(VIEW("")), EVENTS_NONE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_split_says_the_same),
		cmocka_unit_test(random_streams_forward_whole_events),
		cmocka_unit_test(endless_events_pass_in_pieces),
		cmocka_unit_test(formats),
	};
	return cmocka_run_group_tests_name("events", tests, NULL, NULL);
}
