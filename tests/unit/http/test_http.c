/* SPDX-License-Identifier: Apache-2.0
 *
 * Server and client against each other and against raw bytes, in one loop.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "http/client.h"
#include "http/server.h"

enum { DEADLINE_MS = 20000 };

struct world {
	struct loop *loop;
	struct http_server *server;
	struct http_target *target;
	struct loop_timer deadline;
	int listen_fd;
	char address[64];
	int requests, gones, closed;
	struct http_exchange *held;
};

/* ---- a handler that echoes the body, or does what the path says --------------------------------- */

struct echo {
	struct world *w;
	struct http_exchange *x;
	struct buf body;
};

static void echo_body(void *arg, struct view v)
{
	struct echo *e = arg;
	assert_int_equal(buf_addv(&e->body, v), 0);
}

static void echo_end(void *arg)
{
	struct echo *e = arg;
	struct world *w = e->w;
	if (view_eqs(http_path(e->x), "/hold")) {
		w->held = e->x;
		return;
	}
	bool chunked = view_eqs(http_path(e->x), "/chunked");
	http_start(e->x, 200, NULL, chunked ? -1 : (int64_t)e->body.len);
	for (size_t i = 0; i < e->body.len; i += 1000)
		http_body(e->x, view_of(e->body.data + i, MIN((size_t)1000, e->body.len - i)));
	if (view_eqs(http_path(e->x), "/cut"))
		http_abort(e->x);
	else
		http_end(e->x);
	buf_done(&e->body);
	free(e);
}

static void echo_gone(void *arg)
{
	struct echo *e = arg;
	e->w->gones++;
	if (view_eqs(http_path(e->x), "/hold") && e->w->held)
		e->w->held = NULL;
	loop_stop(e->w->loop);
	buf_done(&e->body);
	free(e);
}

static const struct http_handler echo_handler = {
	.on_body = echo_body, .on_body_end = echo_end, .on_gone = echo_gone
};

static void on_request(void *arg, struct http_exchange *x)
{
	struct world *w = arg;
	w->requests++;
	if (view_eqs(http_path(x), "/now")) {
		http_reply(x, 200, "text/plain", NULL, VIEW("now"));
		return;
	}
	struct echo *e = NEW(struct echo);
	e->w = w;
	e->x = x;
	buf_init(&e->body, 64 * MIB);
	http_handle(x, &echo_handler, e);
}

static void on_closed(void *arg)
{
	((struct world *)arg)->closed++;
}

static void timed_out(void *arg)
{
	(void)arg;
	fail_msg("the event waited for did not come");
}

static int set_up(void **state)
{
	struct world *w = NEW(struct world);
	struct net_addr a;
	w->loop = loop_new("test");
	struct http_server_opts o = { HTTP_SERVER_DEFAULTS, .on_request = on_request, .on_closed = on_closed,
		.arg = w };
	w->server = http_server_new(w->loop, &o);
	assert_int_equal(net_addr_parse(VIEW("127.0.0.1:0"), &a, NULL), 0);
	assert_int_equal(net_listen(&a, 0600, &w->listen_fd, NULL), 0);
	assert_int_equal(net_addr_of_socket(w->listen_fd, &a), 0);
	net_addr_url(&a, w->address, sizeof w->address);
	assert_int_equal(http_server_listen(w->server, w->listen_fd), 0);
	w->target = http_target_new(w->loop, w->address, NULL, NULL);
	assert_non_null(w->target);
	loop_timer_start(w->loop, &w->deadline, DEADLINE_MS, timed_out, w);
	*state = w;
	return 0;
}

static int tear_down(void **state)
{
	struct world *w = *state;
	loop_timer_stop(&w->deadline);
	http_target_free(w->target);
	http_server_free(w->server);
	loop_free(w->loop);
	close(w->listen_fd);
	free(w);
	return 0;
}

/* ---- fetches ------------------------------------------------------------------------------------- */

struct got {
	struct world *w;
	int status, calls;
	struct buf body;
	struct err err;
};

static void on_fetched(void *arg, int status, struct view body, const struct err *e)
{
	struct got *g = arg;
	g->status = status;
	g->calls++;
	buf_reset(&g->body);
	(void)buf_addv(&g->body, body);
	if (e)
		g->err = *e;
	loop_stop(g->w->loop);
}

/* loop_run returns once; each run needs a fresh stop flag, so the loop is run through this. */
static void run(struct world *w)
{
	loop_run(w->loop);
}

static void fetches_and_reuses_the_connection(void **state)
{
	struct world *w = *state;
	struct got g = { .w = w, .body = BUF(MIB) };
	struct http_fetch_req r = {
		.method = "POST", .path = "/echo", .content_type = "text/plain", .body = VIEW("hello")
	};
	for (int i = 0; i < 3; i++) {
		struct http_fetch *f = http_fetch(w->target, &r, on_fetched, &g);
		assert_non_null(f);
		run(w);
		assert_int_equal(g.status, 200);
		assert_string_equal(buf_str(&g.body), "hello");
		assert_int_equal(http_target_idle(w->target), 1);
	}
	assert_int_equal(http_server_connections(w->server), 1);
	buf_done(&g.body);
}

static void carries_large_bodies_both_ways(void **state)
{
	struct world *w = *state;
	size_t n = 12 * MIB;
	char *big = mem_alloc(n);
	for (size_t i = 0; i < n; i++)
		big[i] = (char)(i * 31 + i / 1000);
	struct got g = { .w = w, .body = BUF(64 * MIB) };
	static const char *const paths[] = { "/echo", "/chunked" };
	for (size_t i = 0; i < ARRAY_LEN(paths); i++) {
		struct http_fetch_req r = { .method = "POST",
			.path = paths[i],
			.content_type = "x/y",
			.body = view_of(big, n),
			.max_body = 64 * MIB };
		(void)!http_fetch(w->target, &r, on_fetched, &g);
		run(w);
		assert_int_equal(g.status, 200);
		assert_int_equal(g.body.len, n);
		assert_memory_equal(g.body.data, big, n);
	}
	free(big);
	buf_done(&g.body);
}

static void an_answer_cut_short_is_an_error(void **state)
{
	struct world *w = *state;
	struct got g = { .w = w, .body = BUF(MIB) };
	struct http_fetch_req r = {
		.method = "POST", .path = "/cut", .content_type = "x/y", .body = VIEW("hello")
	};
	/* the body is whole, only the end is missing: with a length that is complete, chunked it is not */
	(void)!http_fetch(w->target, &r, on_fetched, &g);
	run(w);
	assert_int_equal(g.status, 200);
	r.path = "/nowhere";
	http_target_free(w->target);
	w->target = http_target_new(w->loop, "127.0.0.1:1", NULL, NULL);
	(void)!http_fetch(w->target, &r, on_fetched, &g);
	run(w);
	assert_int_equal(g.status, 0);
	assert_int_equal(g.err.code, -ECONNREFUSED);
	buf_done(&g.body);
}

/* ---- raw bytes ------------------------------------------------------------------------------------ */

struct raw {
	struct world *w;
	struct loop_watch *watch;
	int fd;
	struct buf in;
	size_t want_responses;
};

static size_t count(const struct buf *b, const char *what)
{
	size_t n = 0;
	struct view v = buf_view(b);
	for (ptrdiff_t at; (at = view_search(v, view_str(what))) >= 0; n++)
		v = view_from(v, (size_t)at + strlen(what));
	return n;
}

static void raw_readable(void *arg, int events)
{
	(void)events;
	struct raw *r = arg;
	char b[4096];
	ssize_t n = recv(r->fd, b, sizeof b, 0);
	if (n > 0)
		(void)buf_add(&r->in, b, (size_t)n);
	if (n <= 0 || (r->want_responses && count(&r->in, "HTTP/1.1 ") >= r->want_responses &&
			      count(&r->in, "now") >= r->want_responses))
		loop_stop(r->w->loop);
}

/* Sends text in pieces of `piece` bytes (0: at once) and returns what comes back until the server closes or
 * want_responses came. */
static char *raw_exchange(struct world *w, struct view text, size_t want_responses)
{
	struct net_addr a;
	assert_int_equal(net_addr_parse(view_str(w->address), &a, NULL), 0);
	struct raw r = { .w = w, .in = BUF(MIB), .want_responses = want_responses };
	r.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(r.fd, (struct sockaddr *)&a.ss, a.len), 0);
	assert_int_equal(send(r.fd, text.p, text.n, MSG_NOSIGNAL), text.n);
	assert_int_equal(loop_watch_start(w->loop, &r.watch, r.fd, LOOP_READ, raw_readable, &r), 0);
	run(w);
	loop_watch_stop(&r.watch);
	close(r.fd);
	return buf_take(&r.in);
}

static void answers_pipelined_requests_in_order(void **state)
{
	struct world *w = *state;
	struct buf b = BUF(MIB);
	for (int i = 0; i < 50; i++)
		(void)buf_adds(&b, i % 2 ? "GET /now HTTP/1.1\r\nHost: a\r\n\r\n"
					 : "POST /now HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc");
	AUTO(mem_freep) char *got = raw_exchange(w, buf_view(&b), 50);
	struct buf in = { .data = got, .len = strlen(got) };
	assert_int_equal(count(&in, "HTTP/1.1 200 OK"), 50);
	assert_int_equal(w->requests, 50);
	buf_done(&b);
}

static void refuses_what_is_not_clean_http(void **state)
{
	static const struct {
		const char *request, *status;
	} rows[] = {
		{ "GET /now HTTP/1.1\r\n\r\n", "400" },
		{ "GET /now HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "400" },
		{ "GET /now HTTP/2.0\r\nHost: a\r\n\r\n", "505" },
		{ "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "505" },
		{ "GET /now\r\n\r\n", "505" },
		{ "GET /now HTTP/1.1\r\nHost : a\r\n\r\n", "400" },
		{ "GET /now HTTP/1.1\r\nHost: a\r\nA: b\r\n c\r\n\r\n", "400" },
		{ "GET /now HTTP/1.1\nHost: a\n\n", "400" },
		{ "POST /now HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
			"400" },
		{ "POST /now HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n", "400" },
		{ "POST /now HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc", "400" },
		{ "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "400" },
		{ "POST /now HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "400" },
		{ "GET /now HTTP/1.1\r\nHost: a\r\nExpect: cookies\r\n\r\n", "417" },
		{ "GET http://x/now HTTP/1.1\r\nHost: a\r\n\r\n", "400" },
		{ "CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", "400" },
	};
	struct world *w = *state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		AUTO(mem_freep) char *got = raw_exchange(w, view_str(rows[i].request), 0);
		if (strncmp(got, "HTTP/1.1 ", 9) != 0 || strncmp(got + 9, rows[i].status, 3) != 0)
			fail_msg("row %zu: wanted %s, got: %s", i, rows[i].status, got);
	}
}

static void refuses_heads_over_the_bounds(void **state)
{
	struct world *w = *state;
	struct buf b = BUF(MIB);
	(void)buf_adds(&b, "GET /");
	for (int i = 0; i < 9000; i++)
		(void)buf_addc(&b, 'a');
	(void)buf_adds(&b, " HTTP/1.1\r\nHost: a\r\n\r\n");
	AUTO(mem_freep) char *got = raw_exchange(w, buf_view(&b), 0);
	assert_memory_equal(got, "HTTP/1.1 414", 12);
	buf_reset(&b);
	(void)buf_adds(&b, "GET /now HTTP/1.1\r\nHost: a\r\n");
	for (int i = 0; i < 200; i++)
		(void)buf_addf(&b, "X-%d: y\r\n", i);
	(void)buf_adds(&b, "\r\n");
	AUTO(mem_freep) char *got2 = raw_exchange(w, buf_view(&b), 0);
	assert_memory_equal(got2, "HTTP/1.1 431", 12);
	buf_done(&b);
}

static void drops_trailers_and_continues(void **state)
{
	struct world *w = *state;
	AUTO(mem_freep)
	char *got = raw_exchange(w,
		VIEW("POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nTransfer-Encoding: "
		     "chunked\r\n\r\n"
		     "3;ext=1\r\nnow\r\n0\r\nX-Trailer: 1\r\nHost: evil\r\n\r\n"
		     "GET /now HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: "
		     "h2c\r\n\r\n"),
		2);
	assert_memory_equal(got, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200", 37);
	assert_int_equal(w->requests, 2);
}

static void a_client_that_leaves_is_told(void **state)
{
	struct world *w = *state;
	struct net_addr a;
	assert_int_equal(net_addr_parse(view_str(w->address), &a, NULL), 0);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&a.ss, a.len), 0);
	static const char req[] = "POST /hold HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab";
	assert_int_equal(send(fd, req, sizeof req - 1, 0), sizeof req - 1);
	shutdown(fd, SHUT_WR);
	run(w);
	assert_int_equal(w->gones, 1);
	close(fd);
}

static void finds_headers_and_lists(void **state)
{
	(void)state;
	struct http_header items[] = {
		{ VIEW("Connection"), VIEW("close, X-Own"), HTTP_H_CONNECTION },
		{ VIEW("X-Own"), VIEW("1"), HTTP_H_OTHER },
		{ VIEW("Accept"), VIEW("a/b"), HTTP_H_OTHER },
		{ VIEW("Cookie"), VIEW("c"), HTTP_H_COOKIE },
		{ VIEW("X-Empty"), VIEW(""), HTTP_H_OTHER },
	};
	struct http_headers h = { .items = items, .len = ARRAY_LEN(items) };
	assert_true(view_eqs(http_header_get(&h, "accept"), "a/b"));
	assert_null(http_header_get(&h, "nothing").p);
	assert_true(http_header_has_token(&h, "connection", "CLOSE"));
	AUTO(buf_done) struct buf kept = BUF(KIB);
	http_headers_copy(&h, http_known_bit(HTTP_H_COOKIE), &kept);
	assert_string_equal(buf_str(&kept), "Accept: a/b\r\nX-Empty: \r\n");
	buf_reset(&kept);
	items[0].value = VIEW("Keep-Alive");
	http_headers_copy(&h, 0, &kept);
	assert_string_equal(buf_str(&kept), "X-Own: 1\r\nAccept: a/b\r\nCookie: c\r\nX-Empty: \r\n");
	static const char *const known[] = { "TE", "Host", "Date", "Expect", "Cookie", "Origin", "Server",
		"Trailer", "Upgrade", "X-API-Key", "Connection", "Keep-Alive", "Request-Id", "Content-Type",
		"X-Request-Id", "Authorization", "Content-Length", "Accept-Encoding", "Proxy-Connection",
		"X-Correlation-Id", "Transfer-Encoding", "Proxy-Authenticate", "Proxy-Authorization" };
	uint64_t seen = 0;
	for (size_t i = 0; i < ARRAY_LEN(known); i++)
		seen |= http_known_bit(http_known_of(view_str(known[i])));
	assert_int_equal(seen, (1ULL << HTTP_H_CORRAL) - 2); /* each one, and no other */
	assert_int_equal(http_known_of(VIEW("")), HTTP_H_OTHER);
	assert_int_equal(http_known_of(VIEW("Proxy-Authorization-Of-A-Kind")), HTTP_H_OTHER);
	assert_int_equal(http_known_of(VIEW("CONTENT-length")), HTTP_H_CONTENT_LENGTH);
	assert_int_equal(http_known_of(VIEW("X-Corral-Progress")), HTTP_H_CORRAL);
	assert_int_equal(http_known_of(VIEW("x-corral_a")), HTTP_H_OTHER);
	assert_int_equal(http_known_of(VIEW("Content-Lengt\x08")), HTTP_H_OTHER);
	char v[16];
	assert_true(http_query_get(VIEW("a=1&model=x%2Fy+z&b"), "model", v, sizeof v));
	assert_string_equal(v, "x/y z");
	assert_false(http_query_get(VIEW("a=1"), "model", v, sizeof v));
	assert_false(http_query_get(VIEW("model=%zz"), "model", v, sizeof v));
}

/* Takes over one end of a new pair. */
static void take_over(struct world *w, int *ret_other)
{
	int fds[2];
	struct net_peer peer = { .is_unix = true, .text = "unix" };
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
	http_server_accept(w->server, fds[0], &peer);
	*ret_other = fds[1];
}

static void each_connection_that_was_taken_is_told_closed_once(void **state)
{
	struct world *w = *state;
	int other[3];
	take_over(w, &other[0]);
	take_over(w, &other[1]);
	assert_int_equal(w->closed, 0);
	http_server_close_all(w->server);
	assert_int_equal(w->closed, 2);
	http_server_drain(w->server, NULL, NULL);
	take_over(w, &other[2]); /* refused at once */
	assert_int_equal(w->closed, 3);
	for (size_t i = 0; i < ARRAY_LEN(other); i++) {
		char byte;
		assert_int_equal(recv(other[i], &byte, 1, 0), 0);
		close(other[i]);
	}
}

int main(void)
{
#define WORLD_TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		WORLD_TEST(each_connection_that_was_taken_is_told_closed_once),
		WORLD_TEST(fetches_and_reuses_the_connection),
		WORLD_TEST(carries_large_bodies_both_ways),
		WORLD_TEST(an_answer_cut_short_is_an_error),
		WORLD_TEST(answers_pipelined_requests_in_order),
		WORLD_TEST(refuses_what_is_not_clean_http),
		WORLD_TEST(refuses_heads_over_the_bounds),
		WORLD_TEST(drops_trailers_and_continues),
		WORLD_TEST(a_client_that_leaves_is_told),
		cmocka_unit_test(finds_headers_and_lists),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
