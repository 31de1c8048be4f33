/* SPDX-License-Identifier: Apache-2.0
 *
 * The loop: order of work, timers, descriptors, processes, posting from other threads. Every test has a
 * watchdog timer that fails it instead of hanging.
 */
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/buf.h"
#include "base/fd.h"
#include "base/mem.h"
#include "loop/loop.h"

enum { DEADLINE_MS = 60000 };

struct world {
	struct loop *l;
	struct loop_timer watchdog;
	bool late;
	int order[64];
	size_t n;
};

static void on_late(void *arg)
{
	struct world *w = arg;
	w->late = true;
	loop_stop(w->l);
}

static int setup(void **state)
{
	struct world *w = NEW(struct world);
	w->l = loop_new("test");
	loop_timer_start(w->l, &w->watchdog, DEADLINE_MS, on_late, w);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;
	loop_timer_stop(&w->watchdog);
	loop_free(w->l);
	free(w);
	return 0;
}

static void run(struct world *w)
{
	assert_int_equal(loop_run(w->l), 0);
	assert_false(w->late);
}

static void note(struct world *w, int i)
{
	assert_true(w->n < ARRAY_LEN(w->order));
	w->order[w->n++] = i;
}

static void expect_order(const struct world *w, size_t n)
{
	assert_int_equal(w->n, n);
	for (size_t i = 0; i < n; i++)
		assert_int_equal(w->order[i], i);
}

/* A step of a test: notes its number, then does what `then` says. */
struct step {
	struct world *w;
	int i;
	struct loop_work work;
	struct loop_timer timer;
	void (*then)(struct step *);
	struct step *next;
};

static void do_step(void *arg)
{
	struct step *s = arg;
	note(s->w, s->i);
	if (s->then)
		s->then(s);
}

static void stop(struct step *s)
{
	loop_stop(s->w->l);
}

/* ---- defer and post ---------------------------------------------------------------------------------- */

static void defer_next(struct step *s)
{
	loop_defer(s->w->l, &s->next->work, do_step, s->next);
}

static void deferred_work_runs_in_order_in_one_pass(void **state)
{
	struct world *w = *state;
	struct step s[5];
	for (int i = 0; i < 5; i++)
		s[i] = (struct step){ .w = w, .i = i };
	s[1].then = defer_next; /* queued meanwhile: the same pass, at the end */
	s[1].next = &s[3];
	s[3].then = stop;
	for (int i = 0; i < 3; i++)
		loop_defer(w->l, &s[i].work, do_step, &s[i]);
	loop_defer(w->l, &s[0].work, do_step, &s[0]); /* twice runs once */
	loop_defer(w->l, &s[4].work, do_step, &s[4]);
	loop_defer_cancel(&s[4].work);
	loop_defer_cancel(&s[4].work);
	loop_defer_free(w->l, mem_alloc(1));
	loop_defer_free(w->l, NULL);
	run(w);
	expect_order(w, 4);
}

static void posted_work_runs_in_order(void **state)
{
	struct world *w = *state;
	struct step s[4];
	for (int i = 0; i < 4; i++)
		s[i] = (struct step){ .w = w, .i = i };
	s[3].then = stop;
	loop_post(w->l, &s[0].work, do_step, &s[0]);
	loop_post_call(w->l, do_step, &s[1]);
	loop_post(w->l, &s[2].work, do_step, &s[2]);
	loop_post_call(w->l, do_step, &s[3]);
	run(w);
	expect_order(w, 4);
}

static void work_left_is_run_by_free(void **state)
{
	struct world w = { .l = loop_new("left") };
	struct step a = { .w = &w, .i = 0 }, b = { .w = &w, .i = 1 };
	loop_post(w.l, &a.work, do_step, &a);
	loop_defer(w.l, &b.work, do_step, &b);
	loop_free(w.l);
	expect_order(&w, 2);
	loop_free(NULL);
}

enum { POSTERS = 4, POSTS = 100000 };
struct poster {
	struct loop *l;
	struct loop_work work[POSTS];
	struct posted {
		struct poster *p;
		int i;
	} args[POSTS];
	int seen;
	bool ordered;
	atomic_int *left;
};

static void on_posted(void *arg)
{
	struct posted *a = arg;
	a->p->ordered = a->p->ordered && a->i == a->p->seen;
	a->p->seen++;
	if (atomic_fetch_sub(a->p->left, 1) == 1)
		loop_stop(a->p->l);
}

static void *post_many(void *arg)
{
	struct poster *p = arg;
	for (int i = 0; i < POSTS; i++) {
		p->args[i] = (struct posted){ p, i };
		loop_post(p->l, &p->work[i], on_posted, &p->args[i]);
	}
	return NULL;
}

static void four_threads_post_each_in_its_order(void **state)
{
	struct world *w = *state;
	pthread_t t[POSTERS];
	struct poster *p[POSTERS];
	atomic_int left = POSTERS * POSTS;
	for (int i = 0; i < POSTERS; i++) {
		p[i] = mem_alloc(sizeof *p[i]);
		p[i]->l = w->l;
		p[i]->ordered = true;
		p[i]->left = &left;
		pthread_create(&t[i], NULL, post_many, p[i]);
	}
	run(w);
	for (int i = 0; i < POSTERS; i++) {
		pthread_join(t[i], NULL);
		assert_int_equal(p[i]->seen, POSTS);
		assert_true(p[i]->ordered);
		free(p[i]);
	}
	struct loop_stats st = loop_stats_take(w->l);
	assert_true(st.rounds > 0 && st.busy_ns > 0 && st.max_busy_ns > 0);
	assert_int_equal(loop_stats_take(w->l).max_busy_ns, 0);
}

static void *stop_from_thread(void *arg)
{
	loop_stop(arg);
	loop_stop(arg);
	return NULL;
}

static void stop_comes_from_any_thread(void **state)
{
	struct world *w = *state;
	pthread_t t;
	assert_null(loop_current());
	assert_string_equal(loop_name(w->l), "test");
	pthread_create(&t, NULL, stop_from_thread, w->l);
	run(w);
	pthread_join(t, NULL);
	assert_null(loop_current());
}

/* ---- timers ------------------------------------------------------------------------------------------ */

static void timers_fire_in_order(void **state)
{
	struct world *w = *state;
	static const int ms[] = { 30, 0, 20, 10, 25, 5, -3 };
	static const int order[] = { 6, 0, 4, 3, 5, 2,
		1 }; /* place in the order; 0 ms was started before -3 ms */
	struct step s[ARRAY_LEN(ms)];
	for (size_t i = 0; i < ARRAY_LEN(ms); i++) {
		s[i] = (struct step){ .w = w, .i = order[i] };
		if (order[i] == 6)
			s[i].then = stop;
		loop_timer_start(w->l, &s[i].timer, ms[i], do_step, &s[i]);
		assert_true(loop_timer_active(&s[i].timer));
	}
	run(w);
	expect_order(w, ARRAY_LEN(ms));
	assert_false(loop_timer_active(&s[0].timer));
	loop_timer_stop(&s[0].timer);
}

static void restart_twice(struct step *s)
{
	if (s->w->n == 3) {
		loop_stop(s->w->l);
		return;
	}
	s->i++;
	loop_timer_start(s->w->l, &s->timer, 0, do_step, s);
}

static void timer_restarts_inside_its_callback(void **state)
{
	struct world *w = *state;
	struct step s = { .w = w, .i = 0, .then = restart_twice };
	loop_timer_start(w->l, &s.timer, 0, do_step, &s);
	run(w);
	expect_order(w, 3);
}

static void restart_at_once(struct step *s)
{
	s->w->n = 0;
	loop_timer_start(s->w->l, &s->timer, 0, do_step, s);
}

static void timer_that_always_restarts_starves_nobody(void **state)
{
	struct world *w = *state;
	struct step s = { .w = w, .i = 0, .then = restart_at_once };
	loop_timer_start(w->l, &s.timer, 0, do_step, &s);
	pthread_t t;
	pthread_create(&t, NULL, stop_from_thread, w->l);
	run(w);
	pthread_join(t, NULL);
	loop_timer_stop(&s.timer);
}

static void stop_next_timer(struct step *s)
{
	loop_timer_stop(&s->next->timer);
	free(s->next); /* stopped: its memory is ours at once */
	s->next = NULL;
	loop_stop(s->w->l);
}

static void timer_stops_another_that_is_due(void **state)
{
	struct world *w = *state;
	struct step *other = NEW(struct step);
	*other = (struct step){ .w = w, .i = 9 };
	struct step s = { .w = w, .i = 0, .then = stop_next_timer, .next = other };
	loop_timer_start(w->l, &s.timer, 0, do_step, &s);
	loop_timer_start(w->l, &other->timer, 0, do_step, other);
	run(w);
	expect_order(w, 1);
}

static void started_timer_moves(void **state)
{
	struct world *w = *state;
	struct step a = { .w = w, .i = 0 }, b = { .w = w, .i = 1, .then = stop };
	loop_timer_start(w->l, &b.timer, 1, do_step, &b);
	loop_timer_start(w->l, &a.timer, DEADLINE_MS * 2, do_step, &a);
	loop_timer_start(w->l, &b.timer, 20, do_step, &b);
	loop_timer_start(w->l, &a.timer, 1, do_step, &a);
	run(w);
	expect_order(w, 2);
}

static void many_timers_keep_the_heap(void **state)
{
	struct world *w = *state;
	enum { N = 500 };
	struct loop_timer t[N] = { 0 };
	uint64_t x = 1;
	for (int round = 0; round < 20; round++) {
		for (int i = 0; i < N; i++) {
			x = x * 6364136223846793005u + 1442695040888963407u;
			if ((x >> 60) < 5)
				loop_timer_stop(&t[i]);
			else
				loop_timer_start(
					w->l, &t[i], DEADLINE_MS + (int64_t)((x >> 33) % 100000), on_late, w);
		}
	}
	for (int i = 0; i < N; i++)
		loop_timer_stop(&t[i]);
	struct step s = { .w = w, .i = 0, .then = stop };
	loop_timer_start(w->l, &s.timer, 0, do_step, &s);
	run(w);
	expect_order(w, 1);
}

/* ---- descriptors ------------------------------------------------------------------------------------- */

struct watcher {
	struct world *w;
	struct loop_watch *watch;
	int fd, events, calls;
	struct watcher *other;
};

static void on_stop_watching(void *arg, int events)
{
	struct watcher *x = arg;
	x->events = events;
	x->calls++;
	loop_watch_stop(&x->watch);
	assert_null(x->watch);
	loop_stop(x->w->l);
}

static void watch_stops_inside_its_callback(void **state)
{
	struct world *w = *state;
	int p[2];
	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	struct watcher x = { .w = w, .fd = p[0] };
	assert_int_equal(loop_watch_start(w->l, &x.watch, p[0], LOOP_READ, on_stop_watching, &x), 0);
	assert_int_equal(fd_write_all(p[1], "x", 1), 0);
	run(w);
	assert_int_equal(x.calls, 1);
	assert_int_equal(x.events, LOOP_READ);
	loop_watch_stop(&x.watch);
	fd_close(p[0]);
	fd_close(p[1]);
}

/* Two descriptors ready in one round; the first to be called stops, closes and forgets the other. */
static void on_stop_other(void *arg, int events)
{
	struct watcher *x = arg;
	x->calls++;
	if (x->other->watch) {
		loop_watch_stop(&x->other->watch);
		fd_closep(&x->other->fd);
	}
	loop_stop(x->w->l);
}

static void watch_stops_another_that_is_ready(void **state)
{
	struct world *w = *state;
	int a[2], b[2];
	assert_int_equal(pipe2(a, O_CLOEXEC), 0);
	assert_int_equal(pipe2(b, O_CLOEXEC), 0);
	struct watcher x = { .w = w, .fd = a[0] }, y = { .w = w, .fd = b[0], .other = &x };
	x.other = &y;
	assert_int_equal(loop_watch_start(w->l, &x.watch, a[0], LOOP_READ, on_stop_other, &x), 0);
	assert_int_equal(loop_watch_start(w->l, &y.watch, b[0], LOOP_READ, on_stop_other, &y), 0);
	assert_int_equal(fd_write_all(a[1], "x", 1), 0);
	assert_int_equal(fd_write_all(b[1], "x", 1), 0);
	run(w);
	assert_true(!x.calls != !y.calls); /* one may come again before the loop stops; the other never */
	loop_watch_stop(&x.watch);
	loop_watch_stop(&y.watch);
	fd_close(x.fd);
	fd_close(y.fd);
	fd_close(a[1]);
	fd_close(b[1]);
}

static void on_seen(void *arg, int events)
{
	struct watcher *x = arg;
	x->events |= events;
	x->calls++;
	if (events & LOOP_HUP) {
		loop_stop(x->w->l);
		return;
	}
	if (events & LOOP_WRITE) {
		assert_int_equal(loop_watch_change(x->watch, LOOP_READ | LOOP_HUP), 0);
		assert_int_equal(shutdown(x->other->fd, SHUT_WR), 0);
	}
}

static void hangup_is_seen_and_events_change(void **state)
{
	struct world *w = *state;
	int s[2];
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, s), 0);
	struct watcher peer = { .fd = s[1] }, x = { .w = w, .fd = s[0], .other = &peer };
	assert_int_equal(loop_watch_start(w->l, &x.watch, s[0], 0, on_seen, &x), 0);
	assert_int_equal(loop_watch_change(x.watch, LOOP_WRITE), 0);
	run(w);
	assert_true(x.events & LOOP_HUP);
	loop_watch_stop(&x.watch);
	/* the same descriptor may be watched again at once */
	assert_int_equal(loop_watch_start(w->l, &x.watch, s[0], LOOP_READ, on_seen, &x), 0);
	loop_watch_stop(&x.watch);
	fd_close(s[0]);
	fd_close(s[1]);
	struct loop_watch *none = NULL;
	assert_true(loop_watch_start(w->l, &none, -1, LOOP_READ, on_seen, &x) < 0);
	assert_null(none);
}

static void on_signal(void *arg, int signo)
{
	struct world *w = arg;
	note(w, signo - SIGUSR1);
	loop_stop(w->l);
}

static void signals_arrive(void **state)
{
	struct world *w = *state;
	struct loop_signal *s = NULL;
	assert_int_equal(loop_signal_start(w->l, &s, SIGUSR1, on_signal, w), 0);
	raise(SIGUSR1);
	run(w);
	expect_order(w, 1);
	loop_signal_stop(&s);
	loop_signal_stop(&s);
	assert_true(loop_signal_start(w->l, &s, SIGKILL, on_signal, w) < 0);
}

/* ---- processes --------------------------------------------------------------------------------------- */

struct ended {
	struct world *w;
	int exit_code, signo, calls;
};

static void on_ended(void *arg, int exit_code, int signo)
{
	struct ended *e = arg;
	e->exit_code = exit_code;
	e->signo = signo;
	e->calls++;
	loop_stop(e->w->l);
}

/* Runs a shell command to its end; out gets what it wrote to descriptor fd. */
static void shell(
	struct world *w, const char *cmd, struct loop_spawn *s, int fd, struct ended *e, struct buf *out)
{
	int p[2];
	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	char *argv[] = { "sh", "-c", (char *)(uintptr_t)cmd, NULL };
	s->file = "sh";
	s->argv = argv;
	for (size_t i = 0; i < ARRAY_LEN(s->fds); i++)
		s->fds[i] = -1;
	s->fds[fd] = p[1];
	s->nfds = (size_t)fd + 1;
	*e = (struct ended){ .w = w };
	struct err err = { 0 };
	struct loop_proc *proc = NULL;
	assert_int_equal(loop_spawn(w->l, s, on_ended, e, &proc, &err), 0);
	assert_true(loop_proc_pid(proc) > 1);
	fd_close(p[1]);
	run(w);
	assert_int_equal(e->calls, 1);
	for (char c; read(p[0], &c, 1) == 1;)
		assert_int_equal(buf_addc(out, c), 0);
	fd_close(p[0]);
}

static void children_exit_with_code_or_signal(void **state)
{
	struct world *w = *state;
	struct ended e;
	struct loop_spawn s = { 0 };
	AUTO(buf_done) struct buf b = BUF(4096);
	shell(w, "exit 7", &s, 1, &e, &b);
	assert_int_equal(e.exit_code, 7);
	assert_int_equal(e.signo, 0);
}

static void child_killed_by_a_signal(void **state)
{
	struct world *w = *state;
	struct ended e;
	struct loop_spawn s = { 0 };
	AUTO(buf_done) struct buf b = BUF(4096);
	shell(w, "kill -9 $$", &s, 1, &e, &b);
	assert_int_equal(e.signo, SIGKILL);
}

static void child_gets_env_cwd_session_and_descriptors(void **state)
{
	struct world *w = *state;
	char *env[] = { "PATH=/usr/bin:/bin", "ONLY=this", NULL };
	struct loop_spawn s = { .env = env, .cwd = "/", .new_session = true };
	struct ended e;
	AUTO(buf_done) struct buf b = BUF(4096);
	int secret = open("/dev/null", O_RDONLY | O_CLOEXEC);
	/* 0..2 are /dev/null, 4 is the pipe; what we have open besides is not there */
	AUTO(mem_freep)
	char *cmd = mem_fmt(
		"echo $ONLY$HOME $PWD >&4; set -- $(cat /proc/$$/stat); test $6 = $$ && echo leader >&4; "
		"readlink /proc/$$/fd/0 >&4; test -e /proc/$$/fd/%d && echo open >&4; "
		"cat; echo lost; echo lost >&2",
		secret);
	shell(w, cmd, &s, 4, &e, &b);
	fd_close(secret);
	assert_int_equal(e.exit_code, 0);
	assert_string_equal(buf_str(&b), "this /\nleader\n/dev/null\n");
}

static void spawn_failure_is_a_sentence(void **state)
{
	struct world *w = *state;
	char *argv[] = { "x", NULL };
	struct loop_spawn s = { .file = "/nonexistent/program", .argv = argv };
	struct ended e = { .w = w };
	struct err err = { 0 };
	assert_int_equal(loop_spawn(w->l, &s, on_ended, &e, NULL, &err), -ENOENT);
	assert_non_null(strstr(err.msg, "/nonexistent/program cannot be started"));
	struct step end = { .w = w, .i = 0, .then = stop };
	loop_timer_start(w->l, &end.timer, 0, do_step, &end);
	run(w);
	assert_int_equal(e.calls, 0);
}

/* A child that waits for its standard input to end. */
static struct loop_proc *spawn_cat(struct world *w, int *ret_in, loop_proc_fn *fn, void *arg)
{
	int p[2];
	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	char *argv[] = { "cat", NULL };
	struct loop_spawn s = { .file = "cat", .argv = argv, .fds = { p[0] }, .nfds = 1 };
	struct loop_proc *proc = NULL;
	struct err err = { 0 };
	assert_int_equal(loop_spawn(w->l, &s, fn, arg, &proc, &err), 0);
	fd_close(p[0]);
	*ret_in = p[1];
	return proc;
}

static void children_are_killed_and_forgotten(void **state)
{
	struct world *w = *state;
	struct ended e = { .w = w }, never = { .w = w };
	int in[3];
	struct loop_proc *a = spawn_cat(w, &in[0], on_ended, &e), *b = spawn_cat(w, &in[1], on_ended, &never);
	struct loop_proc *c = spawn_cat(w, &in[2], NULL, NULL);
	assert_int_equal(loop_proc_kill(c, 0), 0); /* no callback: still a process that can be killed */
	loop_proc_forget(&b);
	assert_null(b);
	loop_proc_forget(&b);
	fd_close(in[1]);
	fd_close(in[2]);
	assert_int_equal(loop_proc_kill(a, SIGTERM), 0);
	run(w);
	assert_int_equal(e.signo, SIGTERM);
	assert_int_equal(never.calls, 0);
	fd_close(in[0]);
}

static void loop_is_freed_with_a_child_running(void **state)
{
	struct world w = { .l = loop_new("child") };
	struct ended e = { .w = &w };
	int in;
	struct loop_proc *p = spawn_cat(&w, &in, on_ended, &e);
	int pid = loop_proc_pid(p), st = 0;
	loop_free(w.l);
	assert_int_equal(kill(pid, 0), 0); /* it goes on */
	fd_close(in);
	assert_int_equal(waitpid(pid, &st, 0), pid);
	assert_int_equal(e.calls, 0);
}

static void on_pid_gone(void *arg)
{
	struct step *s = arg;
	note(s->w, s->i);
	loop_stop(s->w->l);
}

static void pid_watch_sees_a_zombie(void **state)
{
	struct world *w = *state;
	struct step s = { .w = w, .i = 0 };
	int pid = fork();
	if (pid == 0)
		_exit(3);
	siginfo_t si;
	assert_int_equal(waitid(P_PID, (id_t)pid, &si, WEXITED | WNOWAIT), 0); /* a zombie now */
	struct loop_pid *p = NULL;
	assert_int_equal(loop_pid_watch(w->l, &p, pid, on_pid_gone, &s), 0);
	run(w);
	expect_order(w, 1);
	loop_pid_stop(&p);
	loop_pid_stop(&p);
	int st;
	assert_int_equal(waitpid(pid, &st, 0), pid);
	assert_true(loop_pid_watch(w->l, &p, pid, on_pid_gone, &s) < 0);
	assert_null(p);
}

struct pid_owner {
	struct world *w;
	struct loop_pid *p;
};
static void on_pid_stop_itself(void *arg)
{
	struct pid_owner *o = arg;
	loop_pid_stop(&o->p);
	note(o->w, 0);
	loop_stop(o->w->l);
}

static void pid_watch_kills_and_stops_inside_its_callback(void **state)
{
	struct world *w = *state;
	struct pid_owner o = { .w = w };
	int pid = fork();
	if (pid == 0) {
		pause();
		_exit(0);
	}
	assert_int_equal(loop_pid_watch(w->l, &o.p, pid, on_pid_stop_itself, &o), 0);
	assert_int_equal(loop_pid_kill(o.p, SIGKILL), 0);
	run(w);
	expect_order(w, 1);
	int st;
	assert_int_equal(waitpid(pid, &st, 0), pid);
}

/* ---- offload ------------------------------------------------------------------------------------------ */

struct job {
	struct world *w;
	pthread_t worker;
	bool worked, done;
};

static void job_work(void *arg)
{
	struct job *j = arg;
	j->worker = pthread_self();
	j->worked = true;
}

static void job_done(void *arg)
{
	struct job *j = arg;
	j->done = j->worked;
	if (j->w)
		loop_stop(j->w->l);
}

static void blocking_work_runs_elsewhere(void **state)
{
	struct world *w = *state;
	struct job j = { .w = w };
	loop_offload(w->l, job_work, job_done, &j);
	run(w);
	assert_true(j.done);
	assert_false(pthread_equal(j.worker, pthread_self()));
}

static void free_waits_for_offloaded_work(void **state)
{
	struct loop *l = loop_new("offload");
	struct job j = { 0 };
	loop_offload(l, job_work, job_done, &j);
	loop_free(l);
	assert_true(j.done);
}

static size_t open_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	size_t n = 0;
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

static void nothing_stays_open(void **state)
{
	/* libuv keeps a pipe for signals and its pool of threads; both are there since the tests before */
	size_t before = open_fds();
	for (int i = 0; i < 5; i++) {
		struct world w = { .l = loop_new("fds") };
		struct ended e = { .w = &w };
		int in;
		struct loop_proc *p = spawn_cat(&w, &in, on_ended, &e);
		struct loop_pid *pw = NULL;
		struct step s = { .w = &w, .i = 0 };
		assert_int_equal(loop_pid_watch(w.l, &pw, loop_proc_pid(p), on_pid_gone, &s), 0);
		fd_close(in);
		loop_run(w.l);
		loop_pid_stop(&pw);
		loop_free(w.l);
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
	}
	assert_int_equal(open_fds(), before);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(deferred_work_runs_in_order_in_one_pass),
		T(posted_work_runs_in_order),
		cmocka_unit_test(work_left_is_run_by_free),
		T(four_threads_post_each_in_its_order),
		T(stop_comes_from_any_thread),
		T(timers_fire_in_order),
		T(timer_restarts_inside_its_callback),
		T(timer_that_always_restarts_starves_nobody),
		T(timer_stops_another_that_is_due),
		T(started_timer_moves),
		T(many_timers_keep_the_heap),
		T(watch_stops_inside_its_callback),
		T(watch_stops_another_that_is_ready),
		T(hangup_is_seen_and_events_change),
		T(signals_arrive),
		T(children_exit_with_code_or_signal),
		T(child_killed_by_a_signal),
		T(child_gets_env_cwd_session_and_descriptors),
		T(spawn_failure_is_a_sentence),
		T(children_are_killed_and_forgotten),
		cmocka_unit_test(loop_is_freed_with_a_child_running),
		T(pid_watch_sees_a_zombie),
		T(pid_watch_kills_and_stops_inside_its_callback),
		T(blocking_work_runs_elsewhere),
		cmocka_unit_test(free_waits_for_offloaded_work),
		cmocka_unit_test(nothing_stays_open),
	};
	return cmocka_run_group_tests_name("loop", tests, NULL, NULL);
}
