/* SPDX-License-Identifier: Apache-2.0
 *
 * What crosses, in each direction: bodies, headers, framing, events.
 */
#include "world.h"

#include "base/num.h"

static const char *request_body(struct world *w)
{
	return strstr(buf_str(&w->request), "\r\n\r\n") + 4;
}

static void crosses_unchanged(void **state)
{
	(void)state;
	struct world *w = world_new(&(struct world_opts){ 0 });
	world_script(w, (struct step[]){ { .reply = OK_JSON } }, 1);
	ask(w, 0, "POST", CHAT "?a=b%20c",
		JSON_TYPE "Authorization: Bearer x\r\nX-Api-Key: y\r\nX-Corral-Priority: batch\r\n"
			  "Accept-Encoding: gzip\r\nOrigin: http://h\r\nX-Request-Id: abc-1\r\n"
			  "Traceparent: 00-1\r\nX-Secret-Hop: 1\r\nConnection: X-Secret-Hop\r\n",
		CHAT_BODY);
	wait_for(w, answered(w, 0));
	assert_true(w->clients[0].ended);
	assert_int_equal(w->clients[0].status, 200);
	assert_string_equal(buf_str(&w->clients[0].body), "{\"ok\":1}");
	assert_true(has_header(&w->clients[0], "x-request-id: abc-1\n"));
	assert_true(has_header(&w->clients[0], "x-corral-pool: p\n"));
	assert_true(has_header(&w->clients[0], "x-corral-replica: p-0\n"));
	assert_true(has_header(&w->clients[0], "content-length: 8\n"));
	const char *got = buf_str(&w->request);
	assert_memory_equal(
		got, "POST " CHAT "?a=b%20c HTTP/1.1\r\n", strlen("POST " CHAT "?a=b%20c HTTP/1.1\r\n"));
	assert_string_equal(request_body(w), "{\"model\":\"p\",\"messages\":[]}");
	assert_non_null(strstr(got, "X-Request-Id: abc-1\r\n"));
	assert_non_null(strstr(got, "Traceparent: 00-1\r\n"));
	static const char *const never[] = { "Authorization", "Api-Key", "Corral", "Accept-Encoding",
		"Origin", "Secret-Hop" };
	for (size_t i = 0; i < ARRAY_LEN(never); i++)
		assert_null(strcasestr(got, never[i]));
	assert_int_equal(world_stats(w).leases, 0);
	world_free(w);
}

static void drops_the_engines_own_headers(void **state)
{
	(void)state;
	struct world *w = world_new(&(struct world_opts){ 0 });
	world_script(w,
		(struct step[]){
			{ .reply = "HTTP/1.1 200 OK\r\nServer: e\r\nAccess-Control-Allow-Origin: *\r\n"
				   "X-Corral-Pool: other\r\nKeep-Alive: timeout=5\r\nX-Request-Id: e\r\n"
				   "X-Own: 1\r\nContent-Length: 0\r\n\r\n" } },
		1);
	ask(w, 0, "POST", CHAT, NULL, CHAT_BODY);
	wait_for(w, answered(w, 0));
	assert_true(has_header(&w->clients[0], "x-own: 1\n"));
	static const char *const never[] = { "server: e", "access-control", "other", "keep-alive",
		"x-request-id: e\n" };
	for (size_t i = 0; i < ARRAY_LEN(never); i++)
		assert_false(has_header(&w->clients[0], never[i]));
	world_free(w);
}

struct framing {
	const char *reply;
	bool close;
	int status;
	const char *body;
	bool broken;
};

/* Every way an engine may frame its answer, and the ways it may lie about it. */
static void frames(void **state)
{
	(void)state;
	static const struct framing cases[] = {
		{ "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: "
		  "1\r\n\r\n",
			false, 200, "abcde", false },
		{ "HTTP/1.1 200 OK\r\n\r\nuntil the end", true, 200, "until the end", false },
		{ "HTTP/1.0 200 OK\r\n\r\nuntil the end", true, 200, "until the end", false },
		{ "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" OK_JSON, false,
			200, "{\"ok\":1}", false },
		{ "HTTP/1.1 204 No Content\r\n\r\n", false, 204, "", false },
		{ "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", false, 304, "", false },
		{ "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false, 200, "", false },
		/* more than was announced: the rest is nobody's, and the connection is not used again */
		{ "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcdefHTTP/1.1 200 OK\r\n\r\n", false, 200,
			"abc", false },
		{ "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", true, 200, "abc", true },
		{ "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nabc", true, 200, "abc", true },
		{ "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc", false, 200, "", true },
		{ "HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
			false, 404, "{}", false },
		{ "HTTP/1.1 400 Bad\r\nContent-Type: application/json\r\nContent-Length: "
		  "9\r\n\r\n{\"a\":[[[[",
			false, 400, "{\"a\":[[[[", false },
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		const struct framing *f = &cases[i];
		struct world *w = world_new(&(struct world_opts){ 0 });
		world_script(w,
			(struct step[]){ { .reply = f->reply, .close = f->close }, { .reply = OK_JSON } }, 2);
		ask(w, 0, "POST", CHAT, NULL, CHAT_BODY);
		wait_for(w, answered(w, 0));
		assert_int_equal(w->clients[0].status, f->status);
		assert_string_equal(buf_str(&w->clients[0].body), f->body);
		assert_int_equal(w->clients[0].failed, f->broken);
		assert_int_equal(world_stats(w).leases, 0);
		if (world_stats(w).cooling)
			pool_cooled(world_replica(w), 1);
		pool_replica_up(world_replica(w), mono_now());
		ask(w, 0, "POST", CHAT, NULL, CHAT_BODY);
		wait_for(w, answered(w, 0));
		assert_int_equal(w->clients[0].status, 200);
		assert_string_equal(buf_str(&w->clients[0].body), "{\"ok\":1}");
		world_free(w);
	}
}

static void heads_have_no_body(void **state)
{
	(void)state;
	struct world *w = world_new(&(struct world_opts){ 0 });
	world_script(w,
		(struct step[]){
			{ .reply = "HTTP/1.1 200 OK\r\nContent-Length: 700\r\n\r\n" }, { .reply = OK_JSON } },
		2);
	ask(w, 0, "HEAD", "/upstream/p/x", "", (struct view){ 0 });
	wait_for(w, answered(w, 0));
	assert_true(w->clients[0].ended);
	assert_int_equal(w->clients[0].body.len, 0);
	ask(w, 0, "GET", "/upstream/p/x", "", (struct view){ 0 });
	wait_for(w, answered(w, 0));
	assert_string_equal(buf_str(&w->clients[0].body), "{\"ok\":1}");
	assert_int_equal(w->connections, 1);
	world_free(w);
}

static void garbage_is_502(void **state)
{
	(void)state;
	static const char *const replies[] = { "SSH-2.0-OpenSSH\r\n\r\n", "HTTP/2.0 200 OK\r\n\r\n",
		"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
		"HTTP/1.1 200 OK\r\nbad header\r\n\r\n" };
	for (size_t i = 0; i < ARRAY_LEN(replies); i++) {
		struct world *w = world_new(&(struct world_opts){ 0 });
		world_script(w, (struct step[]){ { .reply = replies[i] } }, 1);
		ask(w, 0, "POST", CHAT, NULL, CHAT_BODY);
		wait_for(w, answered(w, 0));
		assert_int_equal(w->clients[0].status, 502);
		assert_non_null(strstr(buf_str(&w->clients[0].body), "\"ENGINE_FAILED\""));
		/* it is us who hung up: the engine may still be at work */
		assert_int_equal(world_stats(w).leases, 0);
		assert_int_equal(world_stats(w).cooling, 1);
		world_free(w);
	}
}

static void heads_are_bounded(void **state)
{
	(void)state;
	AUTO(buf_done) struct buf b = BUF(MIB);
	(void)buf_adds(&b, "HTTP/1.1 200 OK\r\n");
	for (int i = 0; i < 200; i++)
		(void)buf_addf(&b, "X-%d: %0500d\r\n", i, 1);
	struct world *w = world_new(&(struct world_opts){ 0 });
	world_script(w, (struct step[]){ { .reply = buf_str(&b) } }, 1);
	ask(w, 0, "POST", CHAT, NULL, CHAT_BODY);
	wait_for(w, answered(w, 0));
	assert_int_equal(w->clients[0].status, 502);
	world_free(w);
}

/* ---- events ------------------------------------------------------------------------------------------ */

static const char events[] = "data: {\"a\":1}\n\nevent: x\r\ndata: y\r\n\r\n: ping\n\ndata: [DONE]\n\n";

/* What has come ends where an event ends. */
static void only_whole_events(struct client *c)
{
	static const size_t ends[] = { 15, 15 + 21, 15 + 21 + 8, sizeof events - 1 };
	bool whole = false;
	for (size_t i = 0; i < ARRAY_LEN(ends); i++)
		whole = whole || c->body.len == ends[i];
	/* CRLF CRLF cut before its last LF is a whole event as well; the LF comes with the next */
	assert_true(whole || c->body.len == 15 + 20);
}

static void relays_whole_events(void **state)
{
	(void)state;
	AUTO(buf_done) struct buf b = BUF(4 * KIB);
	(void)buf_addf(&b,
		"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %zu\r\n\r\n",
		sizeof events - 1);
	size_t head = b.len;
	(void)buf_adds(&b, events);
	struct world *w = world_new(&(struct world_opts){ 0 });
	w->clients[0].check = only_whole_events;
	for (size_t split = head; split < b.len; split++) {
		world_script(w, (struct step[]){ { .reply = b.data, .split = split } }, 1);
		ask(w, 0, "POST", CHAT, NULL, CHAT_BODY);
		wait_for(w, answered(w, 0));
		assert_true(w->clients[0].ended);
		assert_string_equal(buf_str(&w->clients[0].body), events);
	}
	world_free(w);
}

static void relays_huge_events(void **state)
{
	(void)state;
	size_t n = EVENT_HOLD_MAX + 300 * KIB;
	AUTO(buf_done) struct buf b = BUF(4 * MIB);
	(void)buf_adds(&b, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: ");
	size_t head = b.len - 6;
	for (size_t i = 0; i < n; i++)
		(void)buf_addc(&b, (char)('a' + i % 26));
	(void)buf_adds(&b, "\n\ndata: [DONE]\n\n");
	struct world *w = world_new(&(struct world_opts){ 0 });
	world_script(w, (struct step[]){ { .reply = b.data, .close = false }, { .reply = b.data } }, 1);
	ask(w, 0, "POST", CHAT, NULL, CHAT_BODY);
	wait_for(w, w->clients[0].body.len == b.len - head);
	assert_memory_equal(w->clients[0].body.data, b.data + head, b.len - head);
	world_free(w);
}

/* ---- bodies ------------------------------------------------------------------------------------------- */

static void rewrites_the_model(void **state)
{
	(void)state;
	static const char *const cases[][2] = {
		{ "{\"model\":\"p\",\"a\":1}", "{\"model\":\"org/far \\\"away\\\"\",\"a\":1}" },
		{ "{\"a\":{\"model\":\"p\"}, \"model\" : \"p\" }",
			"{\"a\":{\"model\":\"p\"}, \"model\" : \"org/far \\\"away\\\"\" }" },
		{ "{\"mod\\u0065l\":\"\\u0070\"}", "{\"mod\\u0065l\":\"org/far \\\"away\\\"\"}" },
		{ "{\"a\":1}", "{\"a\":1}" },
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct world *w = world_new(&(struct world_opts){ .remote_model = "org/far \"away\"" });
		world_script(w, (struct step[]){ { .reply = OK_JSON } }, 1);
		ask(w, 0, "POST", CHAT, NULL, view_str(cases[i][0]));
		wait_for(w, answered(w, 0));
		assert_int_equal(w->clients[0].status, 200);
		assert_string_equal(request_body(w), cases[i][1]);
		world_free(w);
	}
}

/* A body of many sizes around what stays in memory, rewritten at its far end; the file's bytes are given
 * back. */
static void spools(void **state)
{
	(void)state;
	static const size_t sizes[] = { SPOOL_MEMORY - 40, SPOOL_MEMORY - 20, SPOOL_MEMORY, SPOOL_MEMORY + 1,
		700 * 1024 };
	for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
		AUTO(buf_done) struct buf b = BUF(MIB);
		AUTO(buf_done) struct buf want = BUF(MIB);
		(void)buf_adds(&b, "{\"a\":\"");
		for (size_t k = 0; k < sizes[i]; k++)
			(void)buf_addc(&b, (char)('a' + k % 23));
		(void)buf_addv(&want, buf_view(&b));
		(void)buf_adds(&b, "\",\"model\":\"p\"}");
		(void)buf_adds(&want, "\",\"model\":\"elsewhere\"}");
		struct world *w = world_new(&(struct world_opts){ .remote_model = "elsewhere" });
		/* the first try fails: all of it is sent again */
		world_script(w, (struct step[]){ { .close = true }, { .reply = OK_JSON } }, 2);
		ask(w, 0, "POST", CHAT, NULL, buf_view(&b));
		wait_for(w, w->requests == 1 && pool_replica_is_down(world_replica(w)));
		pool_replica_up(world_replica(w), mono_now());
		wait_for(w, answered(w, 0));
		assert_int_equal(w->clients[0].status, 200);
		assert_int_equal(strlen(request_body(w)), want.len);
		assert_memory_equal(request_body(w), want.data, want.len);
		world_free(w);
	}
}

static void bounds_bodies(void **state)
{
	(void)state;
	AUTO(buf_done) struct buf b = BUF(MIB);
	(void)buf_adds(&b, "{\"model\":\"p\",\"a\":\"");
	for (size_t k = 0; k < 300 * 1024; k++)
		(void)buf_addc(&b, 'x');
	(void)buf_adds(&b, "\"}");
	struct world *w = world_new(&(struct world_opts){ .body_max = 200 * 1024 });
	ask(w, 0, "POST", CHAT, NULL, buf_view(&b));
	wait_for(w, answered(w, 0));
	assert_int_equal(w->clients[0].status, 413);
	world_free(w);
	w = world_new(&(struct world_opts){ .spool_max = 100 * 1024 });
	ask(w, 0, "POST", CHAT, NULL, buf_view(&b));
	wait_for(w, answered(w, 0));
	assert_int_equal(w->clients[0].status, 503);
	assert_int_equal(w->requests, 0);
	world_free(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(crosses_unchanged),
		cmocka_unit_test(drops_the_engines_own_headers),
		cmocka_unit_test(frames),
		cmocka_unit_test(heads_have_no_body),
		cmocka_unit_test(garbage_is_502),
		cmocka_unit_test(heads_are_bounded),
		cmocka_unit_test(relays_whole_events),
		cmocka_unit_test(relays_huge_events),
		cmocka_unit_test(rewrites_the_model),
		cmocka_unit_test(spools),
		cmocka_unit_test(bounds_bodies),
	};
	return cmocka_run_group_tests_name("proxy", tests, NULL, NULL);
}
