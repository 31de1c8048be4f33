/* SPDX-License-Identifier: Apache-2.0
 *
 * The bound of unsent output: what passes it breaks the socket, and nothing that is written later goes out in
 * the place of what was lost.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <cmocka.h>

#include "base/fd.h"
#include "base/mem.h"
#include "net/sock.h"

enum { TOO_MUCH = SOCK_OUT_MAX + 4 * 1024 * 1024 };

struct world {
	struct loop *loop;
	struct sock sock;
	struct loop_watch *peer_watch;
	int peer;
	bool in_pieces, flushes;
	int breaks, error;
	uint64_t got;
	bool got_later; /* a byte of what was written after the bound was passed */
};

static void on_broken(void *arg, int error)
{
	struct world *w = arg;
	w->breaks++;
	w->error = error;
	sock_close(&w->sock);
	loop_stop(w->loop);
}

static void on_nothing(void *arg)
{
	(void)arg;
}

static const struct sock_ops ops = {
	.on_readable = on_nothing, .on_writable = on_nothing, .on_broken = on_broken
};

static void on_peer(void *arg, int events)
{
	struct world *w = arg;
	static char data[256 * 1024];
	(void)events;
	ssize_t n = recv(w->peer, data, sizeof data, MSG_DONTWAIT);
	if (n <= 0)
		return;
	w->got += (uint64_t)n;
	w->got_later = w->got_later || memchr(data, 'x', (size_t)n);
	if (w->got_later)
		loop_stop(w->loop);
}

static void write_too_much(void *arg)
{
	struct world *w = arg;
	AUTO(mem_freep) char *big = mem_alloc(TOO_MUCH);
	memset(big, 'a', TOO_MUCH);
	struct view pieces[] = { view_of(big, 5), view_of(big, TOO_MUCH), view_of("x", 1) };
	if (w->in_pieces)
		(void)sock_write_all(&w->sock, pieces, ARRAY_LEN(pieces));
	else
		(void)sock_write(&w->sock, big, TOO_MUCH);
	assert_int_equal(w->breaks, 0); /* never out of a write */
	(void)sock_write(&w->sock, "x", 1);
	memset(big, 'x', TOO_MUCH);
	(void)sock_write(&w->sock, big, 64 * 1024);
	if (w->flushes)
		sock_flush(&w->sock);
}

static void nothing_stands_where_something_was_lost(void **state)
{
	(void)state;
	for (int i = 0; i < 4; i++) {
		struct world w = { .loop = loop_new("sock"), .in_pieces = i & 1, .flushes = i & 2 };
		int fds[2];
		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
		w.peer = fds[1];
		assert_int_equal(sock_init(&w.sock, w.loop, fds[0], &ops, &w), 0);
		assert_int_equal(loop_watch_start(w.loop, &w.peer_watch, w.peer, LOOP_READ, on_peer, &w), 0);
		loop_post_call(w.loop, write_too_much, &w);
		assert_int_equal(loop_run(w.loop), 0);
		assert_false(w.got_later);
		assert_int_equal(w.breaks, 1);
		assert_int_equal(w.error, -ENOBUFS);
		while (recv(w.peer, &(char){ 0 }, 1, MSG_DONTWAIT | MSG_PEEK) > 0)
			on_peer(&w, LOOP_READ);
		assert_false(w.got_later);
		loop_watch_stop(&w.peer_watch);
		fd_close(w.peer);
		loop_free(w.loop);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(nothing_stands_where_something_was_lost) };
	return cmocka_run_group_tests_name("sock", tests, NULL, NULL);
}
