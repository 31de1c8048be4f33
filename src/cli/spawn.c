/* SPDX-License-Identifier: Apache-2.0
 *
 * Starting the daemon for somebody who only wants to talk to a model: detached, its output in a log
 * file, ready when its --ready-fd line has come.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <yyjson.h>

#include "base/fd.h"
#include "base/mem.h"
#include "cli/cli_int.h"

enum { START_MS = 60000, READY_LINE_MAX = 4096, READY_FD = 3 };

static void add_key(struct buf *out, const char *key, const char *value)
{
	buf_addf(out, "%s: ", key);
	buf_add_json(out, view_str(value));
	buf_addc(out, '\n');
}

void config_for_file(const struct config *base, const char *model_path, const char *id, struct buf *out)
{
	buf_adds(out, "# Written by `corral run`; for a configuration of your own see `corral config "
		      "reference`.\n");
	buf_adds(out, "listen: 127.0.0.1:0\n");
	add_key(out, "state_dir", base->state_dir);
	add_key(out, "runtime_dir", base->runtime_dir);
	add_key(out, "models_dir", base->models_dir);
	add_key(out, "gpu", config_gpu_name(base->gpu));
	buf_adds(out, "pools:\n  - id: ");
	buf_add_json(out, view_str(id));
	buf_adds(out, "\n    model: ");
	buf_add_json(out, view_str(model_path));
	buf_addc(out, '\n');
}

struct starting {
	struct loop *loop;
	struct loop_proc *proc;
	struct loop_watch *watch;
	struct loop_timer timer;
	struct buf line;
	int fd;
	bool ready, exited, late;
};

static void on_exit_early(void *arg, int code, int signo)
{
	struct starting *s = arg;
	(void)code;
	(void)signo;
	s->proc = NULL;
	s->exited = true;
	loop_stop(s->loop);
}

static void on_ready_fd(void *arg, int events)
{
	struct starting *s = arg;
	char *to = buf_room(&s->line, 512);
	ssize_t n = to ? read(s->fd, to, 512) : 0;
	(void)events;
	if (n > 0) {
		buf_grew(&s->line, (size_t)n);
		s->ready = memchr(s->line.data, '\n', s->line.len) != NULL;
	} else if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
		return;
	} else {
		loop_watch_stop(&s->watch); /* closed without a line: its end will tell */
	}
	if (s->ready)
		loop_stop(s->loop);
}

static void on_late(void *arg)
{
	struct starting *s = arg;
	s->late = true;
	loop_stop(s->loop);
}

static void wait_ready(struct starting *s)
{
	loop_timer_start(s->loop, &s->timer, START_MS, on_late, s);
	if (loop_watch_start(s->loop, &s->watch, s->fd, LOOP_READ, on_ready_fd, s))
		s->late = true;
	else
		(void)loop_run(s->loop);
	loop_timer_stop(&s->timer);
	loop_watch_stop(&s->watch);
	if (s->proc && s->late)
		(void)loop_proc_kill(s->proc, SIGTERM);
	if (s->proc)
		loop_proc_forget(&s->proc);
}

/* The daemon's own words since it was started. */
static void say_log(const char *log_path, off_t from)
{
	AUTO(fd_closep) int fd = open(log_path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	char text[4096];
	if (fd < 0 || fstat(fd, &st) < 0)
		return;
	off_t at = MAX(from, st.st_size - (off_t)sizeof text);
	ssize_t n = pread(fd, text, sizeof text, at);
	AUTO(buf_done) struct buf b = BUF(16 * KIB);
	if (n > 0)
		clean_add(&b, view_of(text, (size_t)n), true);
	fprintf(stderr, "%s", buf_str(&b));
}

static int verdict(const struct starting *s, const char *log_path, off_t log_from, char **ret_address)
{
	if (s->ready) {
		yyjson_doc *doc = yyjson_read(s->line.data, s->line.len, YYJSON_READ_STOP_WHEN_DONE);
		yyjson_val *listen = yyjson_obj_get(yyjson_doc_get_root(doc), "listen");
		*ret_address = mem_strdup(yyjson_is_str(listen) ? yyjson_get_str(listen) : "its socket");
		yyjson_doc_free(doc);
		return 0;
	}
	say_log(log_path, log_from);
	if (s->exited)
		complain("the daemon ended before it served; what it said is above and in %s", log_path);
	else
		complain("the daemon did not serve within %d s; what it says is in %s", START_MS / 1000,
			log_path);
	return CLI_FAILED;
}

static int spawn(struct starting *s, const char *config_file, int log_fd, int ready_fd)
{
	char exe[4096];
	ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
	struct err e = { 0 };
	if (n <= 0) {
		complain("the program's own path is not known: %s", strerror(errno));
		return CLI_FAILED;
	}
	exe[n] = '\0';
	AUTO(strv_done) struct strv argv = { 0 };
	strv_add(&argv, exe);
	strv_add(&argv, "serve");
	strv_add(&argv, "--ready-fd");
	strv_addf(&argv, "%d", READY_FD);
	if (config_file) {
		strv_add(&argv, "--config");
		strv_add(&argv, config_file);
	}
	struct loop_spawn sp = { .file = exe,
		.argv = argv.items,
		.fds = { -1, log_fd, log_fd, ready_fd },
		.nfds = 4,
		.new_session = true };
	if (loop_spawn(s->loop, &sp, on_exit_early, s, &s->proc, &e) == 0)
		return 0;
	complain("the daemon cannot be started: %s", e.msg);
	return CLI_FAILED;
}

int daemon_start(const struct config *cfg, const char *config_file, char **ret_address)
{
	struct err e = { 0 };
	AUTO(mem_freep) char *log_dir = path_join(cfg->state_dir, "log");
	AUTO(mem_freep) char *log_path = path_join(log_dir, "serve.log");
	if (dir_ensure_writable(cfg->state_dir, "state_dir", &e) ||
		dir_ensure_writable(log_dir, "state_dir", &e)) {
		complain("%s", e.msg);
		return CLI_FAILED;
	}
	AUTO(fd_closep) int log_fd = open(log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	int p[2];
	if (log_fd < 0 || pipe2(p, O_CLOEXEC) < 0) {
		complain("%s cannot be written: %s", log_path, strerror(errno));
		return CLI_FAILED;
	}
	off_t log_from = lseek(log_fd, 0, SEEK_END);
	struct starting s = { .loop = loop_new("start"), .fd = p[0], .line = BUF(READY_LINE_MAX) };
	int r = fd_nonblock(p[0]) ? CLI_FAILED : spawn(&s, config_file, log_fd, p[1]);
	fd_close(p[1]);
	if (!r) {
		wait_ready(&s);
		r = verdict(&s, log_path, log_from, ret_address);
	}
	fd_close(p[0]);
	buf_done(&s.line);
	loop_free(s.loop);
	return r;
}
