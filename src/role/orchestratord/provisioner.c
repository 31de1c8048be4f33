/* SPDX-License-Identifier: Apache-2.0
 *
 * The engine-provisioner's process: started in a session of its own, found when one runs already (it holds
 * a lock in runtime_dir), watched, started again when it dies. Its engines belong to their keepers and do
 * not notice.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "http/client.h"
#include "log/log.h"
#include "role/orchestratord/orch_int.h"

enum { AGAIN_FIRST_MS = 50, AGAIN_MAX_MS = 5000, HEALTHY_MS = 30000, LOCKED_MS = 500 };

struct provisioner {
	struct orch *o;
	struct loop_proc *child; /* ours */
	struct loop_pid *other;  /* one that ran before us */
	int pid;
	mono_t started;
	int64_t delay_ms;
	struct loop_timer again;
	bool leaving, stopping, told; /* told: it said that every engine is gone */
	int64_t deadline_ms;
	struct http_target *target;
	struct http_fetch *stop, *hello;
	struct loop_timer kill;
	loop_fn *on_stopped;
};

static void start(void *arg);

static bool runs(const struct provisioner *p)
{
	return p->child || p->other;
}

static void stopped(struct provisioner *p)
{
	loop_fn *fn = p->on_stopped;
	p->on_stopped = NULL;
	loop_timer_stop(&p->kill);
	if (fn)
		fn(p->o);
}

static void ended(struct provisioner *p, const char *how)
{
	p->pid = 0;
	if (p->stopping) {
		if (p->told)
			stopped(p);
		return; /* else the question fails, and is asked again */
	}
	if (p->leaving)
		return;
	if (mono_ms_between(p->started, mono_now()) > HEALTHY_MS)
		p->delay_ms = 0;
	log_warn("provisioner", "engine-provisioner",
		"engine-provisioner ended (%s); it is started again, engines go on.", how);
	loop_timer_start(p->o->loop, &p->again, p->delay_ms, start, p);
	p->delay_ms = MIN(MAX(p->delay_ms * 2, (int64_t)AGAIN_FIRST_MS), (int64_t)AGAIN_MAX_MS);
}

static void on_child_exit(void *arg, int code, int signo)
{
	struct provisioner *p = arg;
	p->child = NULL;
	char how[64];
	snprintf(how, sizeof how, signo ? "signal %d" : "exit code %d", signo ? signo : code);
	ended(p, how);
}

static void on_other_exit(void *arg)
{
	struct provisioner *p = arg;
	loop_pid_stop(&p->other);
	ended(p, "it is gone");
}

/* Whether another process holds the node's lock. */
static bool locked(const struct orch *o)
{
	AUTO(mem_freep) char *path = path_join(o->config->runtime_dir, "provisioner.lock");
	AUTO(fd_closep) int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	return fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK;
}

static char *own_path(void)
{
	char path[4096];
	ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
	return n > 0 ? mem_viewdup(view_of(path, (size_t)n)) : mem_strdup("/proc/self/exe");
}

static void build_argv(const struct orch *o, struct strv *argv)
{
	strv_add(argv, "engine-provisioner");
	if (o->o.source && o->o.source->path)
		strv_addf(argv, "--config=%s", o->o.source->path);
	for (size_t i = 0; o->o.source && i < o->o.source->noverrides; i++)
		strv_addf(argv, "--set=%s", o->o.source->overrides[i]);
	strv_addf(argv, "--registry=unix:%s", o->registry_path);
}

static struct http_target *target(struct provisioner *p)
{
	AUTO(mem_freep) char *address = mem_fmt("unix:%s", p->o->node_path);
	if (!p->target)
		p->target = http_target_new(p->o->loop, address, NULL, NULL);
	return p->target;
}

static void on_hello_answer(void *arg, int status, struct view body, const struct err *e)
{
	struct provisioner *p = arg;
	(void)status;
	(void)body;
	(void)e;
	p->hello = NULL;
}

/* It has not noticed yet that its registry is a new one. */
static void say_hello(struct provisioner *p)
{
	struct http_fetch_req r = { .method = "POST",
		.path = "/v1/node/register",
		.content_type = "application/json",
		.body = VIEW("{}"),
		.timeout_ms = LOCKED_MS };
	if (!p->hello && target(p))
		p->hello = http_fetch(p->target, &r, on_hello_answer, p);
}

static void start(void *arg)
{
	struct provisioner *p = arg;
	if (p->leaving || runs(p))
		return;
	if (locked(p->o)) {
		/* It will report to us, registry_api tells its pid; or it is ending, and then it does not. */
		say_hello(p);
		loop_timer_start(p->o->loop, &p->again, LOCKED_MS, start, p);
		return;
	}
	AUTO(mem_freep) char *exe = own_path();
	AUTO(strv_done) struct strv argv = { 0 };
	build_argv(p->o, &argv);
	struct loop_spawn s = {
		.file = exe, .argv = argv.items, .fds = { -1, 2, 2 }, .nfds = 3, .new_session = true
	};
	struct err e = { 0 };
	if (loop_spawn(p->o->loop, &s, on_child_exit, p, &p->child, &e) < 0) {
		log_error("provisioner", "engine-provisioner", "engine-provisioner cannot be started: %s.",
			e.msg);
		loop_timer_start(p->o->loop, &p->again, AGAIN_MAX_MS, start, p);
		return;
	}
	p->pid = loop_proc_pid(p->child);
	p->started = mono_now();
}

void provisioner_start(struct orch *o)
{
	struct provisioner *p = NEW(struct provisioner);
	p->o = o;
	o->provisioner = p;
	start(p);
}

void provisioner_seen(struct orch *o, int pid)
{
	struct provisioner *p = o->provisioner;
	if (!p || pid <= 0 || pid == p->pid)
		return;
	if (p->child) /* the child lost the race for the lock, or is an older one that is ending */
		return;
	loop_pid_stop(&p->other);
	loop_timer_stop(&p->again);
	p->pid = pid;
	p->started = mono_now();
	if (loop_pid_watch(o->loop, &p->other, pid, on_other_exit, p) < 0) {
		p->pid = 0;
		loop_timer_start(o->loop, &p->again, AGAIN_FIRST_MS, start, p);
		return;
	}
	log_info("provisioner", "engine-provisioner",
		"An engine-provisioner that ran already (pid %d) is used on.", pid);
}

static void kill_it(void *arg)
{
	struct provisioner *p = arg;
	log_error("provisioner", "engine-provisioner",
		"engine-provisioner does not end by itself and is killed.");
	if (p->child)
		(void)loop_proc_kill(p->child, 9);
	else if (p->other)
		(void)loop_pid_kill(p->other, 9);
	stopped(p);
}

static void ask_to_stop(void *arg);

/* The answer comes when every engine is gone. Until then an end of the process is a crash: another one is
 * started, finds the engines by their keepers and is asked in turn. */
static void on_stop_answer(void *arg, int status, struct view body, const struct err *e)
{
	(void)body;
	(void)e;
	struct provisioner *p = arg;
	p->stop = NULL;
	if (status == 200 || status == 202) {
		p->told = true;
		if (!runs(p))
			stopped(p);
		return;
	}
	start(p);
	loop_timer_start(p->o->loop, &p->again, AGAIN_FIRST_MS, ask_to_stop, p);
}

static void ask_to_stop(void *arg)
{
	struct provisioner *p = arg;
	AUTO(buf_done) struct buf talks = BUF(WIRE_STRING_MAX);
	AUTO(buf_done) struct buf body = BUF(WIRE_BODY_MAX);
	control_talks(p->o->control, &talks);
	(void)buf_addf(&body, "{\"deadline_ms\":%lld,\"talks\":", (long long)p->deadline_ms);
	(void)buf_add_json(&body, buf_view(&talks));
	(void)buf_addc(&body, '}');
	struct http_fetch_req r = { .method = "POST",
		.path = "/v1/node/stop",
		.content_type = "application/json",
		.body = buf_view(&body),
		.timeout_ms = p->deadline_ms + 10000 };
	p->stop = http_fetch(p->target, &r, on_stop_answer, p);
}

void provisioner_stop(struct orch *o, int64_t deadline_ms, loop_fn *fn)
{
	struct provisioner *p = o->provisioner;
	p->stopping = true;
	p->on_stopped = fn;
	p->deadline_ms = deadline_ms;
	loop_timer_stop(&p->again);
	(void)target(p);
	loop_timer_start(o->loop, &p->kill, deadline_ms + 12000, kill_it, p);
	start(p); /* none runs: it crashed just now, and its engines are still there */
	ask_to_stop(p);
}

void provisioner_leave(struct orch *o)
{
	struct provisioner *p = o->provisioner;
	if (!p)
		return;
	p->leaving = true;
	loop_timer_stop(&p->again);
	loop_timer_stop(&p->kill);
	http_fetch_cancel(&p->stop);
	http_fetch_cancel(&p->hello);
	http_target_free(p->target);
	loop_pid_stop(&p->other);
	loop_proc_forget(&p->child);
	free(p);
	o->provisioner = NULL;
}
