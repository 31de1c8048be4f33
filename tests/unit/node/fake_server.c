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
static const char *save_path;
static char made[512]; /* an answer's body */

static bool is(const char *mode, const char *what)
{
	return strcmp(mode, what) == 0;
}

/* Slot 0 of three holds 500 tokens, slot 1 a few of our own, slot 2 is at work. What is saved has 25 bytes.
 * Modes: savefull (writes a part and answers 500), savecrash (writes a part and ends), slots, elsewhere
 * (completions go to slot 1), nosave (501), savehang and listhang (no answer), norestore (400), restorecrash.
 */
static const char *on_slots(const char *mode, const char *head, int *ret_status)
{
	if (!strncmp(head, "GET", 3))
		return is(mode, "listhang")
			       ? NULL
			       : "[{\"id\":0,\"is_processing\":false,\"id_task\":3,\"n_prompt_tokens\":500},"
				 "{\"id\":1,\"is_processing\":false,\"id_task\":0,\"n_prompt_tokens\":2},"
				 "{\"id\":2,\"is_processing\":true,\"id_task\":4,\"n_prompt_tokens\":9}]";
	const char *at = strstr(head, "\"filename\":\"");
	char path[1024];
	if (!at || !save_path || is(mode, "nosave") || (is(mode, "norestore") && strstr(head, "=restore"))) {
		*ret_status = is(mode, "norestore") ? 400 : 501;
		return "{\"error\":{\"message\":\"no\"}}";
	}
	at += strlen("\"filename\":\"");
	snprintf(path, sizeof path, "%s%.*s", save_path, (int)strcspn(at, "\""), at);
	bool restore = strstr(head, "=restore");
	printf("%s of %s\n", restore ? "restore" : "save", path);
	if (restore && is(mode, "restorecrash"))
		_exit(3);
	/* version 4, one token, which no other process writes */
	char file[26] = "qsgg\4\0\0\0\1\0\0\0....and nine.";
	memcpy(file + 12, &(uint32_t){ (uint32_t)getpid() }, 4);
	bool full = is(mode, "savefull"), part = full || is(mode, "savecrash");
	if (!restore && (file_write_atomic(path, view_of(file, part ? 9 : 25), 0600, false) || part))
		*ret_status = 500;
	if (!restore && is(mode, "savecrash"))
		_exit(3);
	if (is(mode, "savehang"))
		return NULL;
	if (restore && !file_exists(path))
		*ret_status = 400;
	snprintf(made, sizeof made, restore ? "{\"n_restored\":500}" : "{\"n_saved\":500,\"n_written\":25}");
	return made;
}

/* False: who asked gets no answer. */
static bool answer(int fd, const char *mode, const char *head)
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
	} else if (save_path && !strncmp(head, "POST /completion", 16)) {
		body = is(mode, "elsewhere") ? "{\"id_slot\":1}" : "{\"id_slot\":0}";
	} else if (strstr(head, " /slots")) {
		body = on_slots(mode, head, &status);
	} else if (!strcmp(mode, "canary500")) {
		status = 500, body = "{\"error\":{\"message\":\"cannot decode\"}}";
	}
	printf("%.*s -> %d\n", (int)strcspn(head, "\r\n"), head, body ? status : 0);
	fflush(stdout);
	if (!body)
		return false;
	char out[1024];
	int n = snprintf(out, sizeof out,
		"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: "
		"%zu\r\n\r\n%s",
		status, strlen(body), body);
	/* Who asked may be gone: a node that ends waits for no answer, and no server dies of that. */
	if (fd_write_all(fd, out, (size_t)n))
		shutdown(fd, SHUT_RDWR);
	return true;
}

/* A slot's action with its body. */
static bool is_whole(const char *head, size_t n)
{
	const char *end = memmem(head, n, "\r\n\r\n", 4);
	return end && (strncmp(head, "POST /slots", 11) != 0 || memchr(end, '}', n - (size_t)(end - head)));
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
		while (n < sizeof head - 1 && !is_whole(head, n)) {
			ssize_t k = read(fd, head + n, sizeof head - 1 - n);
			if (k <= 0)
				break;
			n += (size_t)k;
		}
		head[n] = '\0';
		if (n && !answer(fd, mode, head))
			continue;
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
		if (!strncmp(argv[i], "--fake=", 7))
			mode = argv[i] + 7;
		if (!strcmp(argv[i], "--slot-save-path") && i + 1 < argc)
			save_path = argv[i + 1];
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
