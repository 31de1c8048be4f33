/* SPDX-License-Identifier: Apache-2.0
 *
 * Which Host and which Origin may do what.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>
#include <sys/socket.h>
#include <unistd.h>

#include "api/api.h"
#include "base/mem.h"

struct world {
	struct loop *loop;
	struct http_server *server;
	struct config config;
	struct api_guard guard;
	struct loop_watch *watch;
	struct buf got;
	int fd;
	bool passed;
};

static void on_request(void *arg, struct http_exchange *x)
{
	struct world *w = arg;
	w->passed = !api_guard_answers(&w->guard, x, "id-1");
	if (w->passed)
		http_reply(x, 200, "text/plain", NULL, VIEW("in"));
}

static void on_answer(void *arg, int events)
{
	struct world *w = arg;
	char b[8192];
	(void)events;
	ssize_t n = recv(w->fd, b, sizeof b, 0);
	if (n > 0)
		(void)buf_add(&w->got, b, (size_t)n);
	else
		loop_stop(w->loop);
}

/* The whole answer. */
static const char *ask(struct world *w, bool tcp, const char *head)
{
	int fds[2];
	AUTO(mem_freep) char *text = mem_fmt("%s\r\nConnection: close\r\n\r\n", head);
	struct net_peer peer = { .is_unix = !tcp, .text = "test" };
	buf_reset(&w->got);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
	http_server_accept(w->server, fds[0], &peer);
	w->fd = fds[1];
	assert_int_equal(loop_watch_start(w->loop, &w->watch, w->fd, LOOP_READ, on_answer, w), 0);
	assert_int_equal(send(w->fd, text, strlen(text), 0), (ssize_t)strlen(text));
	loop_run(w->loop);
	loop_watch_stop(&w->watch);
	close(w->fd);
	return buf_str(&w->got);
}

static int set_up(void **state)
{
	struct world *w = NEW(struct world);
	w->loop = loop_new("test");
	w->guard = (struct api_guard){ .config = &w->config, .hostname = "Box.example.org" };
	w->got = BUF(MIB);
	struct http_server_opts o = { HTTP_SERVER_DEFAULTS, .on_request = on_request, .arg = w };
	w->server = http_server_new(w->loop, &o);
	*state = w;
	return 0;
}

static int tear_down(void **state)
{
	struct world *w = *state;
	http_server_free(w->server);
	loop_free(w->loop);
	buf_done(&w->got);
	strv_done(&w->config.hosts);
	strv_done(&w->config.cors_origins);
	free(w);
	return 0;
}

static void knows_its_names(void **state)
{
	struct world *w = *state;
	strv_add(&w->config.hosts, "llm.lan");
	static const struct {
		const char *host;
		int status;
	} rows[] = { { "127.0.0.1:8080", 200 }, { "localhost", 200 }, { "LOCALHOST:1", 200 },
		{ "[::1]:8080", 200 }, { "192.168.1.10:8080", 200 }, { "[fe80::1]:80", 200 },
		{ "8.8.8.8", 200 }, { "llm.lan", 200 }, { "LLM.lan:8080", 200 }, { "box", 200 },
		{ "box.local:8080", 200 }, { "box.example.org", 200 }, { "evil.example", 421 },
		{ "x.llm.lan", 421 }, { "llm.lan.evil", 421 }, { "127.0.0.1.evil.example", 421 },
		{ "127.1", 421 }, { "2130706433", 421 }, { "0x7f.0.0.1", 421 }, { "box.local.evil", 421 },
		{ ".local", 421 }, { "local", 421 }, { "", 421 }, { ":80", 421 }, { "[evil]", 421 },
		{ "[::1", 200 }, { "::1", 421 }, { "localhost.evil.example", 421 },
		{ "::ffff:127.0.0.1", 421 } };
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		AUTO(mem_freep) char *head = mem_fmt("GET /v1/models HTTP/1.1\r\nHost: %s", rows[i].host);
		AUTO(mem_freep) char *want = mem_fmt("HTTP/1.1 %d ", rows[i].status);
		if (!view_starts(view_str(ask(w, true, head)), view_str(want)))
			fail_msg("%s: %s", rows[i].host, buf_str(&w->got));
		if (!strstr(ask(w, false, head), "200 OK")) /* whoever has the socket has no page behind it */
			fail_msg("unix: %s: %s", rows[i].host, buf_str(&w->got));
	}
}

struct row {
	const char *line, *origin, *more;
	int status;
	const char *says, *not ;
};

static void go_through(struct world *w, const struct row *rows, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		const struct row *r = &rows[i];
		AUTO(mem_freep)
		char *head = mem_fmt("%s HTTP/1.1\r\nHost: 127.0.0.1:80%s%s%s%s", r->line,
			r->origin ? "\r\nOrigin: " : "", r->origin ? r->origin : "", r->more ? "\r\n" : "",
			r->more ? r->more : "");
		AUTO(mem_freep) char *want = mem_fmt("HTTP/1.1 %d ", r->status);
		const char *got = ask(w, true, head);
		if (!view_starts(view_str(got), view_str(want)) || (r->says && !strstr(got, r->says)) ||
			(r->not &&strstr(got, r->not )))
			fail_msg("row %zu: %s: %s", i, head, got);
	}
}

#define CHAT "POST /v1/chat/completions"
#define ASKS "Access-Control-Request-Method: POST"
#define YES "Access-Control-Allow-Origin: "
#define NO "Access-Control-"

static void refuses_other_pages(void **state)
{
	struct world *w = *state;
	static const struct row rows[] = {
		{ CHAT, NULL, NULL, 200, NULL, NO },
		{ CHAT, "http://127.0.0.1:80", NULL, 200, NULL, NO },
		{ CHAT, "https://127.0.0.1:80", NULL, 200, NULL, NO },
		{ "POST /v1/pools/a/stop", "http://127.0.0.1:80", NULL, 200, NULL, NO },
		{ CHAT, "http://127.0.0.1:81", NULL, 403, "cors.origins", NO },
		{ CHAT, "http://127.0.0.1", NULL, 403, NULL, NO },
		{ CHAT, "https://evil.example", NULL, 403, "\"error\"", NO },
		{ CHAT, "null", NULL, 403, NULL, NO },
		{ CHAT, "", NULL, 403, NULL, NO },
		{ "GET /healthz", "https://evil.example", NULL, 403, NULL, NO },
		{ "OPTIONS /v1/chat/completions", "https://evil.example", ASKS, 403, NULL, NO },
	};
	go_through(w, rows, ARRAY_LEN(rows));
}

static void lets_listed_pages_ask_models(void **state)
{
	struct world *w = *state;
	strv_add(&w->config.cors_origins, "https://a.example");
	strv_add(&w->config.cors_origins, "http://localhost:3000");
	static const struct row rows[] = {
		{ CHAT, "https://a.example", NULL, 200, YES "https://a.example\r\n", NULL },
		{ CHAT, "https://a.example", NULL, 200, "Access-Control-Expose-Headers: *\r\n",
			"Credentials" },
		{ CHAT, "https://a.example", NULL, 200, "Vary: Origin\r\n", NULL },
		{ CHAT, "http://localhost:3000", NULL, 200, YES "http://localhost:3000\r\n", NULL },
		{ "GET /v1/models", "https://a.example", NULL, 200, YES, NULL },
		{ "GET /v1/models/x", "https://a.example", NULL, 200, YES, NULL },
		{ "GET /props", "https://a.example", NULL, 200, YES, NULL },
		{ CHAT, "https://a.example.evil", NULL, 403, NULL, NO },
		{ CHAT, "http://a.example", NULL, 403, NULL, NO },
		{ CHAT, "https://a.example:8443", NULL, 403, NULL, NO },
		{ "POST /props", "https://a.example", NULL, 403, NULL, NO },
		{ "GET /slots", "https://a.example", NULL, 403, NULL, NO },
		{ "POST /slots/0?action=erase", "https://a.example", NULL, 403, NULL, NO },
		{ "POST /upstream/a/v1/chat/completions", "https://a.example", NULL, 403, NULL, NO },
		{ "POST /v1/pools/a/stop", "https://a.example", NULL, 403, "control the server", NO },
		{ "GET /v1/pools", "https://a.example", NULL, 403, NULL, NO },
		{ "GET /metrics", "https://a.example", NULL, 403, NULL, NO },
		{ "DELETE /v1/requests/x", "https://a.example", NULL, 403, NULL, NO },
		{ "POST /v1/config/reload", "https://a.example", NULL, 403, NULL, NO },
		{ "OPTIONS /v1/chat/completions", "https://a.example",
			ASKS "\r\nAccess-Control-Request-Headers: authorization, x-b\r\n"
			     "Access-Control-Request-Private-Network: true",
			204, "Access-Control-Allow-Headers: authorization, x-b\r\n", NULL },
		{ "OPTIONS /v1/chat/completions", "https://a.example",
			ASKS "\r\nAccess-Control-Request-Private-Network: true", 204,
			"Access-Control-Allow-Private-Network: true\r\n", "Allow-Headers" },
		{ "OPTIONS /v1/chat/completions", "https://a.example", ASKS, 204, YES "https://a.example\r\n",
			"Private-Network" },
		{ "OPTIONS /v1/pools/a/stop", "https://a.example", ASKS, 403, NULL, NO },
		{ "OPTIONS /v1/models", "https://a.example", ASKS, 403, NULL, NO },
		{ "OPTIONS /v1/chat/completions", "https://a.example", NULL, 403, NULL, NO },
	};
	go_through(w, rows, ARRAY_LEN(rows));
}

static void every_page_is_a_choice(void **state)
{
	struct world *w = *state;
	strv_add(&w->config.cors_origins, "*");
	static const struct row rows[] = {
		{ CHAT, "https://evil.example", NULL, 200, YES "*\r\n", "Credentials" },
		{ CHAT, "null", NULL, 200, YES "*\r\n", NULL },
		{ "POST /v1/pools/a/stop", "https://evil.example", NULL, 403, NULL, NO },
		{ "OPTIONS /v1/chat/completions", "null", ASKS, 204, YES "*\r\n", NULL },
	};
	go_through(w, rows, ARRAY_LEN(rows));
}

int main(void)
{
#define WORLD_TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		WORLD_TEST(knows_its_names),
		WORLD_TEST(refuses_other_pages),
		WORLD_TEST(lets_listed_pages_ask_models),
		WORLD_TEST(every_page_is_a_choice),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
