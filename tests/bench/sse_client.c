/* SPDX-License-Identifier: Apache-2.0
 *
 * Opens event streams and reads them. Events of upstream.c tell when they were sent, so that the delay of
 * each is known. Prints "open N" once each stream has had an event; then, with --ms, reads so long and
 * prints one line of JSON: events, and their delay in microseconds; without, keeps them open until its input
 * ends.
 *
 * Usage: sse_client --streams N [--ms N] ADDRESS   (PORT on 127.0.0.1, or the path of a unix socket)
 */
#include <errno.h>
#include <stdbool.h>
#include <unistd.h>

#include "tool.h"

enum { BATCH = 100, DELAYS_MAX = 8 * 1000 * 1000, IN_MAX = 32 * 1024 };

static const char request[] =
	"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nUser-Agent: OpenAI/JS 6.0.0\r\n"
	"Accept: text/event-stream\r\nContent-Type: application/json\r\nAuthorization: Bearer sk-none\r\n"
	"Content-Length: 247\r\n\r\n"
	"{\"model\":\"chat\",\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":\"Tell me about "
	"the sea and the "
	"sky and everything that lies between them, please, in one short sentence, thank "
	"you.\"}],\"temperature\":0.7,"
	"\"max_tokens\":64,\"top_p\":0.9,\"seed\":1234567}";

struct stream {
	int fd;
	bool open;
	size_t have;
	char tail[64]; /* the end of what was read, where an event's time may have begun */
};

static uint32_t *delays; /* tenths of a microsecond */
static size_t ndelays;
static uint64_t events;
static int epoll_fd, nopen;
static bool counting;

static void open_stream(struct stream *s, const char *text)
{
	struct address a = address_of(text);
	s->fd = socket(a.at.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (s->fd < 0 || connect(s->fd, &a.at.any, a.len) < 0)
		die(text);
	if (send(s->fd, request, sizeof request - 1, MSG_NOSIGNAL) != sizeof request - 1)
		die("send");
	watch(epoll_fd, s->fd, s);
}

static void take_event(struct stream *s, const char *at_ns, int64_t now)
{
	if (!s->open) {
		s->open = true;
		nopen++;
	}
	if (!counting)
		return;
	events++;
	int64_t late = (now - number(at_ns)) / 100;
	if (ndelays < DELAYS_MAX)
		delays[ndelays++] = (uint32_t)(late < 0 ? 0 : late);
}

static void read_stream(struct stream *s)
{
	static const char mark[] = "\"content\":\"";
	enum { MARK = sizeof mark - 1, WHOLE = MARK + 20 };
	char in[IN_MAX + 1];
	memcpy(in, s->tail, s->have);
	ssize_t k = recv(s->fd, in + s->have, IN_MAX - s->have, MSG_DONTWAIT);
	if (k < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (k <= 0) {
		fprintf(stderr, "a stream ended\n");
		exit(1);
	}
	int64_t now = now_ns();
	size_t n = s->have + (size_t)k;
	in[n] = '\0';
	char *at = in;
	for (char *hit; (hit = memmem(at, n - (size_t)(at - in), mark, MARK));) {
		if ((size_t)(in + n - hit) < WHOLE)
			break;
		take_event(s, hit + MARK, now);
		at = hit + WHOLE;
	}
	size_t rest = n - (size_t)(at - in), keep = rest < sizeof s->tail ? rest : WHOLE - 1;
	memcpy(s->tail, in + n - keep, keep);
	s->have = keep;
}

static void poll_once(int timeout_ms)
{
	struct epoll_event got[256];
	int n = epoll_wait(epoll_fd, got, 256, timeout_ms);
	for (int i = 0; i < n; i++)
		read_stream(got[i].data.ptr);
}

static int by_size(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
	return (x > y) - (x < y);
}

static double delay_us(double part)
{
	return ndelays ? delays[(size_t)((double)(ndelays - 1) * part)] / 10.0 : -1;
}

int main(int argc, char **argv)
{
	int streams = 64;
	int64_t milliseconds = 0;
	const char *address = NULL;
	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--streams") == 0 && i + 1 < argc)
			streams = (int)number(argv[++i]);
		else if (strcmp(argv[i], "--ms") == 0 && i + 1 < argc)
			milliseconds = number(argv[++i]);
		else
			address = argv[i];
	}
	epoll_fd = begin();
	struct stream *all = calloc((size_t)streams, sizeof *all);
	delays = malloc(DELAYS_MAX * sizeof *delays);
	if (!address || !all || !delays)
		die("usage: sse_client --streams N [--ms N] ADDRESS");
	for (int i = 0; i < streams; i++) {
		open_stream(&all[i], address);
		while (i - nopen >= BATCH)
			poll_once(-1);
	}
	while (nopen < streams)
		poll_once(-1);
	printf("open %d\n", nopen);
	fflush(stdout);
	if (!milliseconds)
		return read(0, &streams, 1) < 0;
	char go;
	if (read(0, &go, 1) != 1) /* the measuring begins when we are told */
		return 1;
	counting = true;
	for (int64_t until = now_ns() + milliseconds * 1000000; now_ns() < until;)
		poll_once(10);
	qsort(delays, ndelays, sizeof *delays, by_size);
	printf("{\"events\": %llu, \"p50_us\": %.1f, \"p99_us\": %.1f, \"max_us\": %.1f}\n",
		(unsigned long long)events, delay_us(0.5), delay_us(0.99), delay_us(1));
	return 0;
}
