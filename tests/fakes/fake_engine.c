/* SPDX-License-Identifier: Apache-2.0
 *
 * Flags, start, signals and end of fake-engine.
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "fake_engine.h"

#define HEADING(text)                                                                                        \
	{                                                                                                    \
		text, 0, 0, 0, NULL                                                                          \
	}
#define NUMBER(field, preset, help)                                                                          \
	{                                                                                                    \
#field, offsetof(struct behave, field), 0, preset, help                                      \
	}
#define TEXT(field, help)                                                                                    \
	{                                                                                                    \
#field, offsetof(struct behave, field), sizeof((struct behave *)0)->field, 0, help           \
	}

const struct behave_field behave_fields[] = {
	HEADING("Start and health"),
	NUMBER(listen_after_ms, 0, "the socket appears so late"),
	NUMBER(ready_after_ms, 0, "503 \"Loading model\" for so long after the start"),
	NUMBER(health_lies, 0, "1: /health says 200 while requests still get 503"),
	NUMBER(health_status, 0, "/health always answers with this status"),
	NUMBER(health_hang, 0, "1: /health is never answered"),
	NUMBER(exit_at_start, -1, "exits with this code before it listens"),
	TEXT(start_fails,
		"oom_vram, oom_host, bad_model, unknown_arch or bad_args: logs it as llama.cpp does, exit 1"),
	NUMBER(grandchild, 0,
		"1: leaves a process in a session of its own that ignores SIGTERM (10 min at most)"),
	NUMBER(log_flood_mb, 0, "writes so many MB to stderr at the start"),
	NUMBER(stop_self_ms, -1, "SIGSTOPs itself so long after the start"),
	NUMBER(props_ctx, 0, "/props claims this n_ctx"),
	NUMBER(props_slots, 0, "/props claims this total_slots"),
	HEADING("End"),
	NUMBER(ignore_term, 0, "1: SIGTERM and SIGINT do nothing"),
	NUMBER(term_waits, 0, "1: SIGTERM waits for open requests; a second one ends at once with 1"),
	NUMBER(term_exit, 0, "exit code after SIGTERM"),
	NUMBER(leave_socket, 0, "1: leaves its socket file behind, as llama-server does"),
	HEADING("Connections"),
	NUMBER(idle_close_ms, 5000, "closes an idle connection after so long"),
	NUMBER(max_requests, 100, "closes a connection after so many requests"),
	NUMBER(accept_silent, 0, "1: accepts connections and never reads or answers"),
	HEADING("Answers"),
	NUMBER(tokens, 16, "tokens of an answer (max_tokens and its kin cut it)"),
	NUMBER(event_interval_us, 0, "time between tokens"),
	NUMBER(token_bytes, 0, "length of each token's text (0: \"tok7 \")"),
	NUMBER(prompt_tokens, -1,
		"what usage claims and the context is checked with (-1: bytes of the prompt's JSON)"),
	NUMBER(prefill_ms, 0, "silence before the first token"),
	NUMBER(prefill_head, 0, "1: the response head is sent before the silence"),
	NUMBER(ping_ms, 30000, "a comment so often during that silence, once the head is sent"),
	NUMBER(slot_linger_ms, 0, "the slot stays busy so long after its client left"),
	TEXT(finish, "finish reason in place of stop or length"),
	NUMBER(status, 0, "this status in place of an answer"),
	TEXT(error_body, "its body (default: an error as llama-server's)"),
	TEXT(abort_on, "SIGABRT when a request's body contains this"),
	HEADING("Framing"),
	NUMBER(write_size, 0, "at most so many bytes a write (1: one byte a packet)"),
	NUMBER(write_gap_us, 0, "time between such writes"),
	NUMBER(chunk_size, 0, "HTTP chunks of exactly so many bytes (0: an event a chunk)"),
	TEXT(framing, "chunked, length, close (ends with the connection), short (Content-Length too large),\n"
		      "long (too small), overflow (a chunk size of 2^64 and more), bad_chunk, no_end (last\n"
		      "chunk missing), both (Content-Length and chunked)"),
	TEXT(head, "garbage, big (128 KiB), many (2,000 headers), informational (103 first), http10"),
	HEADING("Faults"),
	TEXT(fault,
		"WHAT@WHERE[,WHAT@WHERE...]\n"
		"WHAT  exit:N signal:N hang close reset half_close stop (SIGSTOP itself) flood:MB delay:MS\n"
		"      garbage nul bad_utf8 long_line:MB error comment (put into the body; then it goes on)\n"
		"WHERE request (read, nothing answered) head (after the head) N (after N tokens)\n"
		"      mid:N (within the event of token N) last (after the last token, before the finish)\n"
		"      done (before [DONE]) body (half of an unstreamed body) end (all was sent)"),
};
const size_t behave_field_count = ARRAY_LEN(behave_fields);

struct fake fake = {
	.lock = PTHREAD_MUTEX_INITIALIZER,
	.changed = PTHREAD_COND_INITIALIZER,
	.base_left = -1,
	.record_fd = -1,
	.opt = { .host = "127.0.0.1", .port = 8080, .n_slots = 1, .model = "fake.gguf" },
};

static void help(void)
{
	printf("fake-engine: llama-server's HTTP face, misbehaving on demand\n\n"
	       "  --host A|NAME.sock  --port N (0: one is picked and printed)   -m FILE   --alias ID\n"
	       "  -np N (slots)  -c N (context, shared by the slots)  --embeddings  --rerank  --metrics\n"
	       "  --no-slots  --record FILE (each request as a JSON line)  --help  --version\n"
	       "Any other flag is accepted and ignored.\n\n"
	       "What follows is a flag (--ready-after-ms 500), an environment variable\n"
	       "(FAKE_READY_AFTER_MS=500), or a member of the JSON that POST /fake/behave takes (it holds\n"
	       "from then on, with \"for_requests\": N for the next N generating requests; {\"reset\": true} "
	       "takes it\n"
	       "back) or of \"fake\" in a request's own body (it holds for that request).\n");
	for (size_t i = 0; i < behave_field_count; i++) {
		const struct behave_field *f = &behave_fields[i];
		if (!f->help) {
			printf("\n%s\n", f->name);
			continue;
		}
		printf("  %-18s ", f->name);
		for (const char *p = f->help; *p; p++)
			printf(*p == '\n' ? "\n%21s" : "%.1s", *p == '\n' ? "" : p);
		if (!f->size && f->preset > 0)
			printf(" [%lld]", (long long)f->preset);
		printf("\n");
	}
	printf("\nRoutes of its own\n"
	       "  POST /fake/behave        see above\n"
	       "  GET  /fake/requests      the last 1,000 requests as a JSON array (method, path, query, "
	       "head, "
	       "body up to\n"
	       "                           64 KiB, body_length, body_sha256)\n"
	       "  GET  /fake/state         pid and counters: accepted, open, requests, completed, cancelled, "
	       "tokens\n"
	       "  GET  /fake/wait?completed=N&timeout_ms=M  answers with the state when a counter reached "
	       "N,\n"
	       "                           else 408 after M (10000)\n"
	       "  GET  /fake/bytes?n=N     N bytes, the same ones always (byte i is 'a' + i %% 26)\n"
	       "  ANY  /fake/echo          the body as it came, with its content type "
	       "application/octet-stream\n");
}

static void behave_set(struct behave *b, const struct behave_field *f, struct view v)
{
	void *at = (char *)b + f->offset;
	if (!f->size) {
		int64_t n = json_int(v, 0);
		memcpy(at, &n, sizeof n);
		return;
	}
	char *out = at;
	size_t n = 0;
	for (size_t i = 0; i < v.n && n + 1 < f->size; i++) {
		if (v.p[i] == '\\' && i + 1 < v.n)
			out[n++] = v.p[++i] == 'n' ? '\n' : v.p[i];
		else
			out[n++] = v.p[i];
	}
	out[n] = '\0';
}

static const struct behave_field *field_find(struct view name, char separator)
{
	for (size_t i = 0; i < behave_field_count; i++) {
		const struct behave_field *f = &behave_fields[i];
		size_t k = 0;
		while (f->help && k < name.n && f->name[k] &&
			(name.p[k] == f->name[k] || (name.p[k] == separator && f->name[k] == '_')))
			k++;
		if (f->help && k == name.n && !f->name[k])
			return f;
	}
	return NULL;
}

void behave_set_json(struct behave *b, struct view object, struct view *ret_unknown)
{
	struct view key, value;
	*ret_unknown = (struct view){ 0 };
	for (size_t at = 0; json_item(object, &at, &key, &value);) {
		const struct behave_field *f = field_find(key, '_');
		if (f)
			behave_set(b, f, json_text(value));
		else if (!view_eqs(key, "for_requests") && !view_eqs(key, "reset"))
			*ret_unknown = key;
	}
}

static void behave_presets(struct behave *b)
{
	for (size_t i = 0; i < behave_field_count; i++) {
		const struct behave_field *f = &behave_fields[i];
		if (f->help && !f->size)
			memcpy((char *)b + f->offset, &f->preset, sizeof f->preset);
		if (!f->help)
			continue;
		char name[64];
		int n = snprintf(name, sizeof name, "FAKE_%s", f->name);
		for (int k = 0; k < n; k++)
			name[k] = (char)(name[k] >= 'a' && name[k] <= 'z' ? name[k] - 32 : name[k]);
		const char *value = getenv(name);
		if (value)
			behave_set(b, f, view_str(value));
	}
}

static int option(const char *flag, const char *value)
{
	struct options *o = &fake.opt;
	static const char *const texts[] = { "--host", "--alias", "-a", "-m", "--model", "--record" };
	const char **text_at[] = { &o->host, &o->alias, &o->alias, &o->model, &o->model, &o->record };
	static const char *const numbers[] = { "--port", "-c", "--ctx-size", "-np", "--parallel" };
	int64_t *number_at[] = { &o->port, &o->n_ctx, &o->n_ctx, &o->n_slots, &o->n_slots };
	for (size_t i = 0; value && i < ARRAY_LEN(texts); i++)
		if (strcmp(flag, texts[i]) == 0)
			return *text_at[i] = value, 2;
	for (size_t i = 0; value && i < ARRAY_LEN(numbers); i++)
		if (strcmp(flag, numbers[i]) == 0)
			return *number_at[i] = text_int(view_str(value), 0), 2;
	o->embeddings |= strcmp(flag, "--embeddings") == 0 || strcmp(flag, "--embedding") == 0;
	o->rerank |= strcmp(flag, "--rerank") == 0 || strcmp(flag, "--reranking") == 0;
	o->metrics |= strcmp(flag, "--metrics") == 0;
	o->no_slots |= strcmp(flag, "--no-slots") == 0;
	const struct behave_field *f = strncmp(flag, "--", 2) ? NULL : field_find(view_str(flag + 2), '-');
	if (!f || !value)
		return 1;
	behave_set(&fake.start, f, view_str(value));
	return 2;
}

void fake_exit(int code)
{
	size_t n = strlen(fake.opt.host);
	if (n > 5 && strcmp(fake.opt.host + n - 5, ".sock") == 0 && !fake.start.leave_socket)
		unlink(fake.opt.host);
	_exit(code);
}

void die_by_signal(int sig)
{
	const struct rlimit none = { 0 };
	setrlimit(RLIMIT_CORE, &none);
	signal(sig, SIG_DFL);
	sigset_t all;
	sigfillset(&all);
	sigprocmask(SIG_UNBLOCK, &all, NULL);
	kill(getpid(), sig);
	for (;;)
		pause();
}

void log_flood(int64_t mb)
{
	char line[1024];
	memset(line, 'x', sizeof line);
	line[sizeof line - 1] = '\n';
	for (int64_t i = 0; i < mb * 1024; i++)
		if (fd_write_all(2, line, sizeof line) < 0)
			return;
}

/* The words a supervisor may look for, as llama.cpp puts them. */
static void start_failure(void)
{
	static const char *const says[][2] = {
		{ "oom_vram",
			"ggml_backend_cuda_buffer_type_alloc_buffer: allocating 20480.00 MiB on device 0: "
			"cudaMalloc failed: out of memory\n"
			"llama_model_load: error loading model: unable to allocate CUDA0 buffer" },
		{ "oom_host",
			"ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size "
			"21474836480\nllama_model_load: error loading model: unable to allocate CPU buffer" },
		{ "bad_model",
			"gguf_init_from_file_impl: invalid magic characters: 'oops', expected 'GGUF'\n"
			"llama_model_load: error loading model: llama_model_loader: failed to load model" },
		{ "unknown_arch", "llama_model_load: error loading model: error loading model architecture: "
				  "unknown model architecture: 'tomorrow'" },
		{ "bad_args", "error: invalid argument: --nonsense" },
	};
	const struct behave *b = &fake.start;
	for (size_t i = 0; i < ARRAY_LEN(says); i++) {
		if (strcmp(b->start_fails, says[i][0]) != 0)
			continue;
		fprintf(stderr, "%s\n", says[i][1]);
		if (strcmp(b->start_fails, "bad_args") != 0)
			fprintf(stderr,
				"srv    load_model: failed to load model, '%s'\n"
				"main: exiting due to model loading error\n",
				fake.opt.model);
		exit(1);
	}
	if (b->start_fails[0]) {
		fprintf(stderr, "fake-engine: start_fails=%s is none of those in --help\n", b->start_fails);
		exit(2);
	}
	if (b->exit_at_start >= 0) {
		fprintf(stderr, "fake-engine: exits with %lld as asked\n", (long long)b->exit_at_start);
		exit((int)b->exit_at_start);
	}
}

static void grandchild_start(void)
{
	pid_t child = fork();
	if (child == 0) {
		signal(SIGTERM, SIG_IGN);
		signal(SIGINT, SIG_IGN);
		setsid();
		pid_t grandchild = fork();
		if (grandchild != 0) {
			fprintf(stderr, "fake-engine: grandchild %d\n", (int)grandchild);
			_exit(0);
		}
		alarm(600);
		for (;;)
			pause();
	}
	if (child > 0)
		waitpid(child, NULL, 0);
}

static int listen_unix(const char *path)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	if (strlen(path) >= sizeof a.sun_path) {
		fprintf(stderr, "fake-engine: %s is longer than %zu bytes\n", path, sizeof a.sun_path - 1);
		return -1;
	}
	memcpy(a.sun_path, path, strlen(path));
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof a) < 0 || listen(fd, 1024) < 0) {
		fprintf(stderr, "srv start: couldn't bind HTTP server socket, hostname: %s: %s\n", path,
			strerror(errno));
		return -1;
	}
	fprintf(stderr, "main: server is listening on unix://%s\n", path);
	return fd;
}

static int listen_tcp(const char *host, int64_t port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
	socklen_t n = sizeof a;
	int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (inet_pton(AF_INET, host, &a.sin_addr) != 1) {
		fprintf(stderr,
			"fake-engine: --host %s is neither an IPv4 address nor a name ending in .sock\n",
			host);
		return -1;
	}
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one); /* connections inherit it */
	if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof a) < 0 || listen(fd, 1024) < 0 ||
		getsockname(fd, (struct sockaddr *)&a, &n) < 0) {
		fprintf(stderr, "srv start: couldn't bind HTTP server socket, hostname: %s, port: %lld: %s\n",
			host, (long long)port, strerror(errno));
		return -1;
	}
	printf("http://%s:%d\n", host, ntohs(a.sin_port));
	fflush(stdout);
	fprintf(stderr, "main: server is listening on http://%s:%d\n", host, ntohs(a.sin_port));
	return fd;
}

static void *serve_thread(void *arg)
{
	conn_serve((int)(intptr_t)arg);
	return NULL;
}

static void accept_one(int listener)
{
	int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	pthread_t t;
	pthread_attr_t attr;
	if (fd < 0)
		return;
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attr, 1 << 20);
	if (pthread_create(&t, &attr, serve_thread, (void *)(intptr_t)fd) != 0)
		close(fd);
	pthread_attr_destroy(&attr);
}

static void on_term(int count)
{
	pthread_mutex_lock(&fake.lock);
	bool busy = false;
	for (int64_t i = 0; i < fake.opt.n_slots; i++)
		busy |= fake.slots[i];
	pthread_mutex_unlock(&fake.lock);
	if (count > 1)
		fake_exit(1);
	if (!fake.start.term_waits || !busy)
		fake_exit((int)fake.start.term_exit);
}

/* Milliseconds to t, for poll; -1 for none. */
static int until(int64_t t_us)
{
	return t_us < 0 ? -1 : (int)MAX(0, (t_us - now_us() + 999) / 1000);
}

static void run(int listener, int signals)
{
	int64_t stop_at =
		fake.start.stop_self_ms < 0 ? -1 : fake.opt.started_us + 1000 * fake.start.stop_self_ms;
	struct pollfd p[2] = { { listener, POLLIN, 0 }, { signals, POLLIN, 0 } };
	for (int terms = 0;;) {
		/* While a first SIGTERM waits for open requests, look every 10 ms whether they are gone. */
		int wait = terms ? 10 : until(stop_at);
		if (poll(p, 2, wait) < 0 && errno != EINTR)
			fake_exit(3);
		if (stop_at >= 0 && now_us() >= stop_at) {
			stop_at = -1;
			kill(getpid(), SIGSTOP);
		}
		struct signalfd_siginfo info;
		if ((p[1].revents & POLLIN) && read(signals, &info, sizeof info) == sizeof info)
			on_term(++terms);
		else if (terms)
			on_term(1);
		if (p[0].revents & POLLIN)
			accept_one(listener);
	}
}

static int signals_open(void)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	signal(SIGPIPE, SIG_IGN);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	if (fake.start.ignore_term)
		sigemptyset(&set);
	return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

int main(int argc, char **argv)
{
	fake.opt.started_us = now_us();
	behave_presets(&fake.start);
	for (int i = 1; i < argc;) {
		if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
			return help(), 0;
		if (strcmp(argv[i], "--version") == 0)
			return printf("version: 11669 (fake)\nbuilt for tests\n"), 0;
		i += option(argv[i], argv[i + 1]);
	}
	struct options *o = &fake.opt;
	o->n_slots = o->n_slots < 1 ? 1 : MIN(o->n_slots, 4096);
	o->alias = o->alias ? o->alias : o->model;
	fake.slots = calloc((size_t)o->n_slots, sizeof *fake.slots);
	fake.slot_tokens = calloc((size_t)o->n_slots, sizeof *fake.slot_tokens);
	fake.base = fake.start;
	int signals = signals_open();
	if (o->record)
		fake.record_fd = open(o->record, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	log_flood(fake.start.log_flood_mb);
	if (fake.start.grandchild)
		grandchild_start();
	start_failure();
	if (fake.start.listen_after_ms) {
		struct pollfd p = { signals, POLLIN, 0 };
		if (poll(&p, 1, (int)fake.start.listen_after_ms) > 0)
			return (int)fake.start.term_exit;
	}
	size_t n = strlen(o->host);
	int listener = n > 5 && strcmp(o->host + n - 5, ".sock") == 0 ? listen_unix(o->host)
								      : listen_tcp(o->host, o->port);
	if (listener < 0)
		return 1; /* not fake_exit: the socket is another's */
	run(listener, signals);
}
