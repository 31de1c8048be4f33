/* SPDX-License-Identifier: Apache-2.0
 *
 * The engine that the benchmarks put behind every proxy: one thread, epoll, nothing but answers. A request
 * whose body holds "stream":true gets an event stream, one event a tick of --interval-us on every stream,
 * each with the time it was sent (CLOCK_MONOTONIC, ns) as its content; with --hold one event and then
 * silence. Every other request gets one JSON answer of about 250 bytes.
 *
 * Usage: upstream [--interval-us N] [--hold] ADDRESS…   (PORT on 127.0.0.1, or the path of a unix socket)
 */
#include <errno.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "tool.h"

enum { IN_MAX = 16 * 1024, CONNS_MAX = 40000, EVENTS = 512 };

struct conn {
	int fd, at; /* at: place in streams, -1 none */
	size_t have;
	bool listener;
	char *in;
};

static struct conn *streams[CONNS_MAX];
static int nstreams, epoll_fd;
static bool hold;

static const char unary[] = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 253\r\n\r\n"
			    "{\"id\":\"chatcmpl-x\",\"object\":\"chat.completion\",\"created\":1,\"model\":"
			    "\"chat\",\"choices\":[{\"index\":0,"
			    "\"message\":{\"role\":\"assistant\",\"content\":\"Hello there, "
			    "friend.\"},\"finish_reason\":\"stop\"}],"
			    "\"usage\":{\"prompt_tokens\":12,\"completion_tokens\":5,\"total_tokens\":17}}";

static void send_event(struct conn *c, const char *head)
{
	char event[512], out[1024];
	int n = snprintf(event, sizeof event,
		"data: "
		"{\"id\":\"chatcmpl-x\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":"
		"\"chat\","
		"\"choices\":[{\"index\":0,\"delta\":{\"content\":\"%020lld\"},\"finish_reason\":null}]}\n\n",
		(long long)now_ns());
	int k = snprintf(out, sizeof out, "%s%x\r\n%s\r\n", head, (unsigned)n, event);
	(void)!send(c->fd, out, (size_t)k, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void stream_begin(struct conn *c)
{
	send_event(c,
		"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
	if (hold || nstreams == CONNS_MAX)
		return;
	c->at = nstreams;
	streams[nstreams++] = c;
}

static void conn_close(struct conn *c)
{
	if (c->at >= 0) {
		streams[c->at] = streams[--nstreams];
		streams[c->at]->at = c->at;
	}
	close(c->fd);
	free(c->in);
	free(c);
}

/* One whole request at the front of in; how long it is, 0: not there yet. */
static size_t whole_request(const struct conn *c)
{
	const char *end = memmem(c->in, c->have, "\r\n\r\n", 4);
	if (!end)
		return 0;
	size_t n = (size_t)(end - c->in) + 4;
	for (const char *p = c->in; p < end; p++)
		if (*p == '\n' && strncasecmp(p + 1, "content-length:", 15) == 0)
			n += (size_t)number(p + 16);
	return n <= c->have ? n : 0;
}

static void conn_read(struct conn *c)
{
	ssize_t k = recv(c->fd, c->in + c->have, IN_MAX - c->have, MSG_DONTWAIT);
	if (k < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (k <= 0) {
		conn_close(c);
		return;
	}
	c->have += (size_t)k;
	for (size_t n; (n = whole_request(c));) {
		bool stream = memmem(c->in, n, "\"stream\":true", 13) != NULL;
		memmove(c->in, c->in + n, c->have -= n);
		if (stream)
			stream_begin(c);
		else
			(void)!send(c->fd, unary, sizeof unary - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
	}
}

static void add(int fd, bool listener)
{
	struct conn *c = calloc(1, sizeof *c);
	if (!c || !(c->in = listener ? calloc(1, 1) : malloc(IN_MAX)))
		die("memory");
	c->fd = fd;
	c->at = -1;
	c->listener = listener;
	watch(epoll_fd, fd, c);
}

static void accept_all(int listener)
{
	int one = 1;
	for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0;) {
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
		add(fd, false);
	}
}

static void listen_on(const char *text)
{
	struct address a = address_of(text);
	int one = 1, fd = socket(a.at.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (bind(fd, &a.at.any, a.len) < 0 || listen(fd, 4096) < 0)
		die(text);
	add(fd, true);
}

static int ticker(long interval_us)
{
	int fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	struct timespec t = { .tv_sec = interval_us / 1000000, .tv_nsec = interval_us % 1000000 * 1000 };
	struct itimerspec spec = { .it_interval = t, .it_value = t };
	if (fd < 0 || timerfd_settime(fd, 0, &spec, NULL) < 0)
		die("timer");
	watch(epoll_fd, fd, NULL);
	return fd;
}

int main(int argc, char **argv)
{
	long interval_us = 1000;
	epoll_fd = begin();
	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--hold") == 0)
			hold = true;
		else if (strcmp(argv[i], "--interval-us") == 0 && i + 1 < argc)
			interval_us = (long)number(argv[++i]);
		else
			listen_on(argv[i]);
	}
	int timer = ticker(interval_us);
	puts("ready");
	fflush(stdout);
	for (;;) {
		struct epoll_event got[EVENTS];
		int n = epoll_wait(epoll_fd, got, EVENTS, -1);
		for (int i = 0; i < n; i++) {
			struct conn *c = got[i].data.ptr;
			uint64_t ticks;
			if (!c && read(timer, &ticks, sizeof ticks) == sizeof ticks)
				for (int k = 0; k < nstreams; k++)
					send_event(streams[k], "");
			else if (c && c->listener)
				accept_all(c->fd);
			else if (c)
				conn_read(c);
		}
	}
}
