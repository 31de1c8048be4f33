/* SPDX-License-Identifier: Apache-2.0 */
#include "fake_server.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/fd.h"

static int asked; /* health checks so far */

static void answer(int fd, const char *mode, const char *head)
{
	int status = 200;
	const char *body = "{\"status\":\"ok\"}";
	if (!strncmp(head, "GET /health", 11)) {
		asked++;
		if (!strcmp(mode, "never") || (!strcmp(mode, "loading") && asked < 4))
			status = 503, body = "{\"error\":{\"message\":\"Loading model\"}}";
	} else if (!strncmp(head, "GET /props", 10)) {
		body = !strcmp(mode, "smallctx") ? "{\"default_generation_settings\":{\"n_ctx\":128}}"
						 : "{\"default_generation_settings\":{\"n_ctx\":4096}}";
	} else if (!strcmp(mode, "canary500")) {
		status = 500, body = "{\"error\":{\"message\":\"cannot decode\"}}";
	}
	printf("%.*s -> %d\n", (int)strcspn(head, "\r\n"), head, status);
	fflush(stdout);
	char out[1024];
	int n = snprintf(out, sizeof out,
		"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: "
		"%zu\r\n\r\n%s",
		status, strlen(body), body);
	/* Who asked may be gone: a node that ends waits for no answer, and no server dies of that. */
	if (fd_write_all(fd, out, (size_t)n))
		shutdown(fd, SHUT_RDWR);
}

static int serve(const char *path, const char *mode)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	snprintf(a.sun_path, sizeof a.sun_path, "%s", path);
	int l = socket(AF_UNIX, SOCK_STREAM, 0);
	if (bind(l, (struct sockaddr *)&a, sizeof a) < 0 || listen(l, 16) < 0)
		return 4;
	for (;;) {
		int fd = accept(l, NULL, NULL);
		char head[8192];
		size_t n = 0;
		while (n < sizeof head - 1 && (n < 4 || !memmem(head, n, "\r\n\r\n", 4))) {
			ssize_t k = read(fd, head + n, sizeof head - 1 - n);
			if (k <= 0)
				break;
			n += (size_t)k;
		}
		head[n] = '\0';
		if (n)
			answer(fd, mode, head);
		shutdown(fd, SHUT_WR);
		while (read(fd, head, sizeof head) > 0)
			;
		close(fd);
	}
}

int fake_server_main(int argc, char **argv)
{
	struct rlimit none = { 0, 0 };
	setrlimit(RLIMIT_CORE, &none);
	signal(SIGPIPE, SIG_IGN);
	const char *socket_path = argv[1], *mode = argc > 2 ? argv[2] : "ok";
	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--version")) {
			printf("version: 1 (test)\n");
			return 0;
		}
		if (!strcmp(argv[i], "--host") && i + 1 < argc) {
			socket_path = argv[i + 1];
			mode = "smallctx";
		}
	}
	if (!strcmp(mode, "crash"))
		return 3;
	if (!strcmp(mode, "oom")) {
		printf("CUDA error: out of memory\n");
		return 1;
	}
	if (!strcmp(mode, "grumbles")) {
		printf("error: failed to load model: an adapter of a request\n");
		fflush(stdout);
	}
	if (!strcmp(mode, "stubborn"))
		signal(SIGTERM, SIG_IGN);
	return serve(socket_path, mode);
}
