/* SPDX-License-Identifier: Apache-2.0
 *
 * corral run MODEL [PROMPT]: one answer, or a small chat.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <yyjson.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/num.h"
#include "cli/cli_int.h"

enum { OPT_SYSTEM = 1, OPT_MAX_TOKENS, ID_MAX = 40, PROMPT_MAX = 32 * 1024 * 1024 };

struct run {
	struct cli *cli;
	struct api api;
	const char *system;
	uint64_t max_tokens; /* 0: the engine's own */
	char *model;         /* what goes into the request */
	struct buf messages; /* the conversation: JSON objects separated by commas */
	struct buf reply;    /* what came of the answer */
	bool terminal, color, thinking, any, failed;
};

/* ---- one answer --------------------------------------------------------------------------------- */

static int message_add(struct run *r, const char *role, struct view text)
{
	size_t before = r->messages.len;
	if (buf_addf(&r->messages, "%s{\"role\":\"%s\",\"content\":", before ? "," : "", role) == 0 &&
		buf_add_json(&r->messages, text) == 0 && buf_addc(&r->messages, '}') == 0)
		return 0;
	r->messages.len = before;
	complain("the conversation is larger than %d MiB; start a new one", PROMPT_MAX / 1024 / 1024);
	return CLI_FAILED;
}

static void print_text(struct run *r, const char *text)
{
	AUTO(buf_done) struct buf b = BUF(SSE_EVENT_MAX);
	if (r->terminal)
		clean_add(&b, view_str(text), true);
	else
		(void)buf_adds(&b, text);
	(void)say(&b);
}

static void set_thinking(struct run *r, bool thinking)
{
	if (r->thinking == thinking)
		return;
	r->thinking = thinking;
	if (r->color)
		fputs(thinking ? "\033[2m" : "\033[0m\n\n", stdout);
	else if (!thinking && r->terminal)
		fputs("\n\n", stdout);
}

static void run_on_event(void *arg, struct view data)
{
	struct run *r = arg;
	struct chat_delta d;
	chat_delta_read(data, &d);
	if (d.error) {
		r->failed = true;
		if (r->any && !r->cli->json)
			fputc('\n', stdout);
		(void)fflush(stdout);
		complain("%s", d.error);
	}
	if (r->cli->json && !d.done) {
		(void)fwrite(data.p, 1, data.n, stdout);
		fputc('\n', stdout);
		(void)fflush(stdout);
	}
	if (d.reasoning && *d.reasoning && r->terminal && !r->cli->json) {
		set_thinking(r, true);
		print_text(r, d.reasoning);
	}
	if (d.content && *d.content) {
		(void)buf_adds(&r->reply, d.content);
		if (!r->cli->json) {
			set_thinking(r, false);
			print_text(r, d.content);
		}
		r->any = true;
	}
	chat_delta_done(&d);
}

static void run_on_data(void *arg, struct view bytes)
{
	sse_feed(arg, bytes);
}

static bool run_on_broken(void *arg)
{
	const struct sse *sse = arg;
	const struct run *r = sse->arg;
	if (r->any && !r->failed && !r->cli->json) {
		fputc('\n', stdout);
		(void)fflush(stdout);
	}
	return r->failed; /* an error event came before */
}

static int request_build(const struct run *r, struct buf *body)
{
	int e = buf_adds(body, "{\"model\":");
	e = e ? e : buf_add_json(body, view_str(r->model));
	e = e ? e : buf_adds(body, ",\"stream\":true,");
	if (r->max_tokens)
		e = e ? e : buf_addf(body, "\"max_tokens\":%llu,", (unsigned long long)r->max_tokens);
	e = e ? e : buf_adds(body, "\"messages\":[");
	e = e ? e : buf_addv(body, buf_view(&r->messages));
	return e ? e : buf_adds(body, "]}");
}

/* Asks with the conversation so far and appends the answer to it. *ret_stopped: by Ctrl-C. */
static int answer(struct run *r, bool *ret_stopped)
{
	AUTO(buf_done) struct buf body = BUF(PROMPT_MAX + 64 * KIB);
	AUTO(buf_done) struct buf unused = BUF(1 * KIB);
	struct sse sse;
	int http = 0;
	if (request_build(r, &body))
		return CLI_FAILED;
	sse_init(&sse, run_on_event, r);
	r->any = r->failed = false;
	buf_reset(&r->reply);
	struct api_req req = { .method = "POST",
		.path = "/v1/chat/completions",
		.body = &body,
		.timeout_ms = -1,
		.on_data = run_on_data,
		.on_broken = run_on_broken,
		.arg = &sse,
		.interruptible = true };
	int code = api_call(&r->api, &req, &unused, &http);
	sse_done(&sse);
	set_thinking(r, false);
	if (r->any && !r->cli->json && code == CLI_OK && !r->failed)
		fputc('\n', stdout);
	(void)fflush(stdout);
	*ret_stopped = code == CLI_OK && http == 0;
	if (r->reply.len && code == CLI_OK)
		(void)message_add(r, "assistant", buf_view(&r->reply));
	return code == CLI_OK && r->failed ? CLI_FAILED : code;
}

static int ask(struct run *r, struct view prompt, bool *ret_stopped)
{
	return message_add(r, "user", prompt) ? CLI_FAILED : answer(r, ret_stopped);
}

/* ---- the chat ------------------------------------------------------------------------------------ */

static int chat(struct run *r)
{
	AUTO(mem_freep) char *text = NULL;
	size_t cap = 0;
	bool stopped;
	fprintf(stderr, "Talking to %s. /exit leaves, Ctrl-C stops an answer.\n", r->model);
	for (;;) {
		fputs(r->color ? "\033[1m> \033[0m" : "> ", stdout);
		(void)fflush(stdout);
		ssize_t n = getline(&text, &cap, stdin);
		if (n < 0) {
			fputc('\n', stdout);
			return CLI_OK;
		}
		struct view line = view_of(text, (size_t)n);
		while (line.n && (line.p[line.n - 1] == '\n' || line.p[line.n - 1] == '\r'))
			line.n--;
		line = view_trim(line);
		if (view_eqs(line, "/exit") || view_eqs(line, "/quit") || view_eqs(line, "/bye"))
			return CLI_OK;
		if (!line.n)
			continue;
		size_t before = r->messages.len;
		int code = ask(r, line, &stopped);
		if (code == CLI_UNREACHABLE)
			return code;
		if (code != CLI_OK)
			r->messages.len = before; /* the question can be asked again */
		else if (stopped)
			fputs("(stopped)\n", stderr);
	}
}

static int from_stdin(struct run *r)
{
	AUTO(buf_done) struct buf b = BUF(PROMPT_MAX);
	bool stopped = false;
	for (;;) {
		char *to = buf_room(&b, 64 * 1024);
		ssize_t n = to ? read(STDIN_FILENO, to, 64 * 1024) : 0;
		if (!to) {
			complain("the prompt on the standard input is larger than %d MiB",
				PROMPT_MAX / 1024 / 1024);
			return CLI_FAILED;
		}
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		buf_grew(&b, (size_t)n);
	}
	if (!view_trim(buf_view(&b)).n) {
		complain("run: the standard input is empty; write the prompt there or behind the model");
		return CLI_USAGE;
	}
	int code = ask(r, buf_view(&b), &stopped);
	return code == CLI_OK && stopped ? CLI_FAILED : code;
}

/* ---- which model, and whether anybody serves it -------------------------------------------------- */

static bool names_file(const char *model)
{
	struct stat st;
	if (view_ends(view_str(model), VIEW(".gguf")))
		return true;
	return strchr(model, '/') && stat(model, &st) == 0 && S_ISREG(st.st_mode);
}

/* The pool of an answer that serves the file, or NULL. */
static char *pool_of_file(struct view body, const char *file)
{
	yyjson_doc *doc = yyjson_read(body.n ? body.p : "", body.n, 0);
	char *id = NULL;
	size_t i, n;
	yyjson_val *p;
	yyjson_arr_foreach(yyjson_obj_get(yyjson_doc_get_root(doc), "pools"), i, n, p)
	{
		const char *m = yyjson_get_str(yyjson_obj_get(p, "model")),
			   *pool = yyjson_get_str(yyjson_obj_get(p, "id"));
		if (!m || !pool || !*m || id)
			continue;
		AUTO(mem_freep) char *tail = mem_fmt("/%s", m);
		if (strcmp(m, file) == 0 || (m[0] != '/' && view_ends(view_str(file), view_str(tail))))
			id = mem_strdup(pool);
	}
	yyjson_doc_free(doc);
	return id;
}

static int start_for(struct run *r, const char *model, const char *file)
{
	struct config_source src = { .path = r->cli->config_path };
	AUTO(config_unrefp) struct config *cfg = NULL;
	AUTO(mem_freep) char *path = NULL;
	AUTO(mem_freep) char *address = NULL;
	AUTO(buf_done) struct buf text = BUF(64 * KIB);
	struct err e = { 0 };
	int code = config_load_or_say(&src, &cfg);
	if (code)
		return code;
	if (!file && !config_pool_find(cfg, view_str(model))) {
		complain("no daemon runs, and the configuration has no pool \"%.80s\"", model);
		hint("corral run FILE.gguf serves a file; corral config show lists the pools");
		return CLI_UNREACHABLE;
	}
	if (file) {
		r->model = config_id_of_file(file, ID_MAX);
		config_for_file(cfg, file, r->model, &text);
		path = path_join(cfg->runtime_dir, "run.yaml");
		int w = dir_ensure_writable(cfg->runtime_dir, "runtime_dir", &e);
		if (!w && (w = file_write_atomic(path, buf_view(&text), 0600, false)))
			err_set(&e, w, "%s cannot be written: %s", path, strerror(-w));
		if (w) {
			complain("%s", e.msg);
			return CLI_FAILED;
		}
	}
	fprintf(stderr, "No daemon runs; starting one.\n");
	code = daemon_start(cfg, file ? path : r->cli->config_path, &address);
	if (!code)
		fprintf(stderr, "It serves at %s and stays; corral ps shows it.\n", address);
	return code;
}

/* Sets r->model; starts a daemon when none answers on the local socket. */
static int find_model(struct run *r, const char *model)
{
	AUTO(mem_freep) char *file = names_file(model) ? realpath(model, NULL) : NULL;
	AUTO(buf_done) struct buf body = BUF(API_BODY_MAX);
	/* A key that may ask models alone may not see pools, whose files a file is looked for in. */
	struct api_req req = { .method = "GET",
		.path = file ? "/v1/pools" : "/v1/models",
		.quiet_unreachable = !r->api.from_url };
	int http;
	if (names_file(model) && !file) {
		complain("%s cannot be read: %s", model, strerror(errno));
		return CLI_USAGE;
	}
	int code = api_call(&r->api, &req, &body, &http);
	if (code == CLI_UNREACHABLE && !r->api.from_url) {
		code = start_for(r, model, file);
		if (!code && !r->model)
			r->model = mem_strdup(model);
		return code;
	}
	if (code)
		return code;
	r->model = file ? pool_of_file(buf_view(&body), file) : mem_strdup(model);
	if (r->model)
		return 0;
	complain("the daemon that runs has no pool with %s", file);
	hint("add one to its configuration, or end that daemon and run this again");
	return CLI_FAILED;
}

/* ---- the command ---------------------------------------------------------------------------------- */

static int on_option(void *arg, int opt, const char *value)
{
	struct run *r = arg;
	if (opt == OPT_SYSTEM) {
		r->system = value;
		return 0;
	}
	if (num_u64(view_str(value), &r->max_tokens) == 0 && r->max_tokens > 0)
		return 0;
	complain("run: --max-tokens takes a number above 0, found \"%.40s\"", value);
	return CLI_USAGE;
}

static int run(struct run *r, const char *model, const char *prompt)
{
	bool stopped = false;
	int code = api_open(r->cli, &r->api);
	if (code)
		return code;
	code = find_model(r, model);
	if (!code && r->system)
		code = message_add(r, "system", view_str(r->system));
	if (code)
		return code;
	if (!prompt)
		return isatty(STDIN_FILENO) ? chat(r) : from_stdin(r);
	code = ask(r, view_str(prompt), &stopped);
	return code == CLI_OK && stopped ? CLI_FAILED : code;
}

int cmd_run(struct cli *c, const struct command *cmd, int argc, char **argv)
{
	static const struct option longs[] = { { "system", required_argument, NULL, OPT_SYSTEM },
		{ "max-tokens", required_argument, NULL, OPT_MAX_TOKENS }, { 0 } };
	struct run r = { .cli = c, .messages = BUF(PROMPT_MAX), .reply = BUF(PROMPT_MAX) };
	struct options o = { .longs = longs, .fn = on_option, .arg = &r, .min = 1, .max = 2 };
	int first, status;
	if (options_read(c, cmd, &o, argc, argv, &first, &status))
		return status;
	r.terminal = isatty(STDOUT_FILENO);
	r.color = color_for(STDOUT_FILENO) && !c->json;
	status = run(&r, argv[first], first + 1 < argc ? argv[first + 1] : NULL);
	api_close(&r.api);
	free(r.model);
	buf_done(&r.messages);
	buf_done(&r.reply);
	return status;
}
