/* SPDX-License-Identifier: Apache-2.0
 *
 * Clients that are slow on purpose, against a server with short times: what they hold ends, and who is quick
 * is served beside them.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <sys/socket.h>

#include "base/fd.h"
#include "base/mem.h"
#include "http/server.h"

enum { SHORT_MS = 80, DRIP_MS = 30 }; /* a byte a drip is less than HTTP_RATE_MIN */

struct world {
	struct loop *loop;
	struct http_server *server;
	struct loop_timer deadline, drip;
	struct loop_watch *watch;
	int fd;
	const char *send; /* a byte a drip */
	bool reads;       /* what comes is read at once; else a byte a drip */
	struct buf got;
	bool ended;
	int requests, gones;
	bool quick; /* this client is not slow: usual times, and a round ends with its request */
};

static void on_body_end(void *arg)
{
	static char zeros[1024 * 1024];
	struct http_exchange *x = arg;
	if (view_eqs(http_path(x), "/big")) {
		http_start(x, 200, NULL, 16 * (int64_t)sizeof zeros);
		for (int i = 0; i < 16; i++)
			http_body(x, view_of(zeros, sizeof zeros));
		return; /* its end is told by on_gone, or never */
	}
	http_reply(x, 200, "text/plain", NULL, VIEW("ok"));
}

static struct world *the_world;

static void on_gone(void *arg)
{
	(void)arg;
	the_world->gones++;
	the_world->ended = true;
	loop_stop(the_world->loop);
}

static void on_request(void *arg, struct http_exchange *x)
{
	static const struct http_handler handler = { .on_body_end = on_body_end, .on_gone = on_gone };
	struct world *w = arg;
	w->requests++;
	http_handle(x, &handler, x);
	if (w->quick)
		loop_stop(w->loop);
}

static void too_late(void *arg)
{
	(void)arg;
	fail_msg("the end waited for did not come");
}

static void on_drip(void *arg)
{
	struct world *w = arg;
	if (w->send && *w->send && send(w->fd, w->send, 1, MSG_NOSIGNAL | MSG_DONTWAIT) == 1)
		w->send++;
	char byte;
	if (!w->reads)
		(void)!recv(w->fd, &byte, 1, MSG_DONTWAIT);
	loop_timer_start(w->loop, &w->drip, DRIP_MS, on_drip, w);
}

static void on_readable(void *arg, int events)
{
	(void)events;
	struct world *w = arg;
	char bytes[4096];
	ssize_t n = recv(w->fd, bytes, sizeof bytes, MSG_DONTWAIT);
	if (n > 0) {
		(void)buf_add(&w->got, bytes, (size_t)n);
		return;
	}
	w->ended = true;
	loop_stop(w->loop);
}

static int pair_with(struct world *w)
{
	int fds[2];
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds), 0);
	http_server_accept(w->server, fds[1], &(struct net_peer){ .is_unix = true });
	return fds[0];
}

static struct world *world_new(size_t max_connections, const char *first, bool reads, bool quick)
{
	struct world *w = the_world = NEW(struct world);
	w->loop = loop_new("test");
	struct http_server_opts o = { HTTP_SERVER_DEFAULTS, .on_request = on_request, .arg = w };
	if (!quick)
		o.head_timeout_ms = o.body_timeout_ms = o.send_timeout_ms = SHORT_MS;
	w->quick = quick;
	o.max_connections = max_connections;
	w->server = http_server_new(w->loop, &o);
	w->fd = pair_with(w);
	buf_init(&w->got, MIB);
	w->reads = reads;
	assert_int_equal(send(w->fd, first, strlen(first), MSG_NOSIGNAL), strlen(first));
	assert_int_equal(
		loop_watch_start(w->loop, &w->watch, w->fd, reads ? LOOP_READ : 0, on_readable, w), 0);
	loop_timer_start(w->loop, &w->deadline, 20000, too_late, w);
	loop_timer_start(w->loop, &w->drip, DRIP_MS, on_drip, w);
	return w;
}

static void world_free(struct world *w)
{
	loop_watch_stop(&w->watch);
	loop_timer_stop(&w->deadline);
	loop_timer_stop(&w->drip);
	fd_close(w->fd);
	http_server_free(w->server);
	loop_free(w->loop);
	buf_done(&w->got);
	free(w);
}

static void ends_with(struct world *w, const char *status)
{
	while (!w->ended)
		loop_run(w->loop);
	if (status)
		assert_memory_equal(buf_str(&w->got), status, strlen(status));
}

static void a_slow_head_is_refused(void **state)
{
	(void)state;
	struct world *w = world_new(10, "GET / HTTP/1.1\r\n", true, false);
	w->send = "X-A: bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
	ends_with(w, "HTTP/1.1 408 ");
	assert_int_equal(w->requests, 0);
	world_free(w);
}

static void a_slow_body_is_refused(void **state)
{
	(void)state;
	struct world *w =
		world_new(10, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n", true, false);
	w->send = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
	ends_with(w, NULL); /* told to the handler first */
	assert_int_equal(w->gones, 1);
	w->ended = false;
	ends_with(w, "HTTP/1.1 408 ");
	assert_true(*w->send != '\0'); /* before it was all sent */
	world_free(w);
}

static void a_slow_reader_is_closed(void **state)
{
	(void)state;
	struct world *w = world_new(10, "GET /big HTTP/1.1\r\nHost: a\r\n\r\n", false, false);
	ends_with(w, NULL);
	assert_int_equal(w->gones, 1);
	world_free(w);
}

/* The table is full of connections that wait: the oldest gives way, one with a request does not. */
static void the_oldest_idle_one_gives_way(void **state)
{
	(void)state;
	struct world *w = world_new(3, "GET /big HTTP/1.1\r\nHost: a\r\n\r\n", false, true);
	loop_timer_stop(&w->drip);
	while (!w->requests)
		loop_run(w->loop);
	int idle[3];
	for (int i = 0; i < 3; i++)
		idle[i] = pair_with(w);
	char byte;
	assert_int_equal(recv(idle[0], &byte, 1, MSG_DONTWAIT), 0); /* closed for the third */
	assert_int_equal(recv(idle[1], &byte, 1, MSG_DONTWAIT), -1);
	assert_int_equal(recv(idle[2], &byte, 1, MSG_DONTWAIT), -1);
	assert_int_equal(http_server_connections(w->server), 3);
	assert_int_equal(http_server_exchanges(w->server), 1);
	for (int i = 0; i < 3; i++)
		fd_close(idle[i]);
	world_free(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_slow_head_is_refused),
		cmocka_unit_test(a_slow_body_is_refused),
		cmocka_unit_test(a_slow_reader_is_closed),
		cmocka_unit_test(the_oldest_idle_one_gives_way),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
