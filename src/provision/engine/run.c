/* SPDX-License-Identifier: Apache-2.0
 *
 * One tool, run to its end: stdout kept (bounded), the end of stderr kept, lines of a status
 * descriptor handed on. What a grandchild still holds open is not waited for.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "provision/engine/engine_int.h"

enum { P_OUT, P_ERR, P_STATUS, P_COUNT };

struct run_pipe {
	struct run *run;
	int fd;
	struct loop_watch *watch;
	struct buf data, line;
};

struct run {
	struct loop *loop;
	struct run_pipe pipes[P_COUNT];
	struct loop_proc *proc;
	struct loop_timer silence;
	int64_t silence_ms;
	run_line_fn *on_status;
	run_output_fn *on_output;
	run_done_fn *on_done;
	void *arg;
	bool silent, too_long;
};

static void run_free(struct run *r)
{
	loop_timer_stop(&r->silence);
	for (int i = 0; i < P_COUNT; i++) {
		loop_watch_stop(&r->pipes[i].watch);
		fd_close(r->pipes[i].fd);
		buf_done(&r->pipes[i].data);
		buf_done(&r->pipes[i].line);
	}
	loop_proc_forget(&r->proc);
	free(r);
}

static void kill_group(struct run *r, int signo)
{
	int pid = r->proc ? loop_proc_pid(r->proc) : 0;
	if (pid > 1)
		kill(-pid, signo); /* it leads a session of its own, so its helpers are in this group */
}

static void on_silence(void *arg)
{
	struct run *r = arg;
	r->silent = true;
	kill_group(r, SIGKILL);
}

static void silence_restart(struct run *r)
{
	if (r->silence_ms > 0 && !r->silent)
		loop_timer_start(r->loop, &r->silence, r->silence_ms, on_silence, r);
}

static void status_lines(struct run_pipe *p)
{
	struct view all = buf_view(&p->data);
	size_t used = 0;
	for (;;) {
		struct view rest = view_from(all, used);
		size_t n = view_find(rest, '\n');
		if (n == rest.n)
			break;
		used += n + 1;
		p->run->on_status(p->run->arg, view_cut(rest, n));
	}
	buf_consume(&p->data, used);
	if (p->data.len == p->data.max) /* a line longer than any real one */
		buf_reset(&p->data);
}

/* A line longer than the bound is told in pieces. */
static void output_lines(struct run_pipe *p, struct view v)
{
	while (v.n) {
		size_t n = 0, room = p->line.max - p->line.len;
		while (n < v.n && n < room && v.p[n] != '\n' && v.p[n] != '\r')
			n++;
		(void)buf_add(&p->line, v.p, n);
		bool end = n < v.n && (v.p[n] == '\n' || v.p[n] == '\r');
		if (end || p->line.len == p->line.max) {
			p->run->on_output(p->run->arg, buf_view(&p->line), !end || v.p[n] == '\n');
			buf_reset(&p->line);
		}
		v = view_from(v, n + end);
	}
}

static void output_rest(struct run *r)
{
	for (int i = P_OUT; r->on_output && i <= P_ERR; i++)
		if (r->pipes[i].line.len)
			r->on_output(r->arg, buf_view(&r->pipes[i].line), true);
}

static void take(struct run_pipe *p, const char *bytes, size_t n)
{
	struct run *r = p->run;
	if (r->on_output && p != &r->pipes[P_STATUS])
		output_lines(p, view_of(bytes, n));
	if (p == &r->pipes[P_OUT]) {
		size_t room = p->data.max - p->data.len;
		r->too_long |= n > room;
		(void)buf_add(&p->data, bytes, MIN(n, room));
		return;
	}
	while (n) {
		if (p->data.len == p->data.max)
			buf_consume(&p->data, p->data.max / 2); /* the end is what tells the cause */
		size_t k = MIN(n, p->data.max - p->data.len);
		(void)buf_add(&p->data, bytes, k);
		bytes += k;
		n -= k;
		if (p == &r->pipes[P_STATUS])
			status_lines(p);
	}
}

/* Reads what is there; false at its end. At most 1 MiB a call, so that nobody can hold the loop. */
static bool drain(struct run_pipe *p)
{
	char bytes[16 * 1024];
	for (int round = 0; round < 64; round++) {
		ssize_t n = read(p->fd, bytes, sizeof bytes);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN;
		if (n == 0)
			return false;
		silence_restart(p->run);
		take(p, bytes, (size_t)n);
	}
	return true;
}

static void on_readable(void *arg, int events)
{
	(void)events;
	struct run_pipe *p = arg;
	if (!drain(p))
		loop_watch_stop(&p->watch);
}

static void on_exit_of_tool(void *arg, int exit_code, int signo)
{
	struct run *r = arg;
	r->proc = NULL;
	for (int i = 0; i < P_COUNT; i++)
		if (r->pipes[i].fd >= 0 && r->pipes[i].watch)
			(void)drain(&r->pipes[i]);
	output_rest(r);
	struct run_result res = {
		.exit_code = exit_code,
		.signo = signo,
		.silent = r->silent,
		.too_long = r->too_long,
		.out = buf_view(&r->pipes[P_OUT].data),
		.tail = buf_view(&r->pipes[P_ERR].data),
	};
	run_done_fn *done = r->on_done;
	void *done_arg = r->arg;
	done(done_arg, &res);
	run_free(r);
}

static int make_pipe(struct run *r, int which, int *child)
{
	int fds[2];
	if (pipe2(fds, O_CLOEXEC) < 0)
		return -errno;
	r->pipes[which].fd = fds[0];
	*child = fds[1];
	int e = fd_nonblock(fds[0]);
	return e ? e
		 : loop_watch_start(
			   r->loop, &r->pipes[which].watch, fds[0], LOOP_READ, on_readable, &r->pipes[which]);
}

static struct run *run_new(struct loop *l, const struct run_opts *o)
{
	struct run *r = NEW(struct run);
	r->loop = l;
	r->silence_ms = o->silence_ms;
	r->on_status = o->on_status;
	r->on_output = o->on_output;
	r->on_done = o->on_done;
	r->arg = o->arg;
	static const size_t bounds[P_COUNT] = { RUN_OUT_MAX, RUN_TAIL_MAX, RUN_LINE_MAX };
	for (int i = 0; i < P_COUNT; i++) {
		r->pipes[i].run = r;
		r->pipes[i].fd = -1;
		buf_init(&r->pipes[i].data, bounds[i]);
		buf_init(&r->pipes[i].line, RUN_LINE_MAX);
	}
	return r;
}

int run_start(struct loop *l, const struct run_opts *o, struct run **ret, struct err *reterr)
{
	struct run *r = run_new(l, o);
	int child[P_COUNT] = { -1, -1, -1 }, e = 0;
	for (int i = 0; i < P_COUNT && !e; i++)
		if (i != P_STATUS || o->on_status)
			e = make_pipe(r, i, &child[i]);
	if (e)
		err_set(reterr, e, "%s cannot be started: %s", o->argv->items[0], strerror(-e));
	if (!e) {
		struct loop_spawn s = {
			.file = o->argv->items[0],
			.argv = o->argv->items,
			.env = o->env->items,
			.cwd = o->cwd,
			.fds = { -1, child[P_OUT], child[P_ERR], child[P_STATUS], o->keep_fd },
			.nfds = 5,
			.new_session = true,
		};
		e = loop_spawn(l, &s, on_exit_of_tool, r, &r->proc, reterr);
	}
	for (int i = 0; i < P_COUNT; i++)
		fd_close(child[i]);
	if (e) {
		run_free(r);
		return e;
	}
	silence_restart(r);
	*ret = r;
	return 0;
}

bool run_failed(const struct run_result *r)
{
	return r->exit_code != 0 || r->signo != 0 || r->silent || r->too_long;
}

void run_cancel(struct run **pr)
{
	struct run *r = *pr;
	*pr = NULL;
	if (!r)
		return;
	kill_group(r, SIGTERM);
	run_free(r);
}
