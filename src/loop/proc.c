/* SPDX-License-Identifier: Apache-2.0
 *
 * Processes: children through libuv, strangers through a pidfd.
 */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "loop/loop_int.h"

struct loop_proc {
	uv_process_t proc;
	struct loop *loop;
	loop_proc_fn *fn; /* NULL once forgotten */
	bool ended;
	void *arg;
};

static void free_handle(uv_handle_t *h)
{
	free(h->data);
}

static void on_proc_exit(uv_process_t *h, int64_t status, int signo)
{
	struct loop_proc *p = h->data;
	loop_note_wake(p->loop);
	loop_proc_fn *fn = p->fn;
	p->fn = NULL;
	p->ended = true;
	if (fn)
		fn(p->arg, (int)status, signo);
	uv_close((uv_handle_t *)h, free_handle);
}

int loop_spawn(struct loop *l, const struct loop_spawn *s, loop_proc_fn *on_exit, void *arg,
	struct loop_proc **ret, struct err *reterr)
{
	uv_stdio_container_t io[ARRAY_LEN(s->fds)];
	assert(s->nfds <= ARRAY_LEN(s->fds));
	int n = (int)MAX(s->nfds, (size_t)3);
	for (int i = 0; i < n; i++) {
		int fd = (size_t)i < s->nfds ? s->fds[i] : -1;
		io[i].flags = fd < 0 ? UV_IGNORE : UV_INHERIT_FD;
		io[i].data.fd = fd;
	}
	struct loop_proc *p = NEW(struct loop_proc);
	p->loop = l;
	p->fn = on_exit;
	p->arg = arg;
	p->proc.data = p;
	uv_process_options_t o = {
		.exit_cb = on_proc_exit,
		.file = s->file,
		.args = (char **)(uintptr_t)s->argv,
		.env = (char **)(uintptr_t)s->env,
		.cwd = s->cwd,
		.flags = s->new_session ? UV_PROCESS_DETACHED : 0,
		.stdio_count = n,
		.stdio = io,
	};
	int r = uv_spawn(&l->uv, &p->proc, &o);
	if (r < 0) {
		uv_close((uv_handle_t *)&p->proc, free_handle);
		return err_set(reterr, r, "%s cannot be started: %s", s->file, uv_strerror(r));
	}
	if (ret)
		*ret = p;
	return 0;
}

int loop_proc_pid(const struct loop_proc *p)
{
	return p->proc.pid;
}

int loop_proc_kill(struct loop_proc *p, int signo)
{
	return p->ended ? -ESRCH : uv_process_kill(&p->proc, signo);
}

void loop_proc_forget(struct loop_proc **pp)
{
	struct loop_proc *p = *pp;
	*pp = NULL;
	if (p)
		p->fn = NULL;
}

static void close_proc(uv_handle_t *h, void *arg)
{
	(void)arg;
	if (h->type == UV_PROCESS && !uv_is_closing(h))
		uv_close(h, free_handle);
}

void loop_close_procs(struct loop *l)
{
	uv_walk(&l->uv, close_proc, NULL);
}

struct loop_pid {
	struct loop_watch *watch;
	struct loop *loop;
	loop_pid_fn *fn;
	void *arg;
	int fd;
};

static void on_pidfd(void *arg, int events)
{
	(void)events;
	struct loop_pid *p = arg;
	loop_watch_stop(&p->watch);
	p->fn(p->arg);
}

int loop_pid_watch(struct loop *l, struct loop_pid **ret, int pid, loop_pid_fn *fn, void *arg)
{
	int fd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (fd < 0)
		return -errno;
	struct loop_pid *p = NEW(struct loop_pid);
	p->loop = l;
	p->fn = fn;
	p->arg = arg;
	p->fd = fd;
	int r = loop_watch_start(l, &p->watch, fd, LOOP_READ, on_pidfd, p);
	if (r < 0) {
		fd_close(fd);
		free(p);
		return r;
	}
	*ret = p;
	return 0;
}

void loop_pid_stop(struct loop_pid **pp)
{
	struct loop_pid *p = *pp;
	*pp = NULL;
	if (!p)
		return;
	loop_watch_stop(&p->watch);
	fd_close(p->fd);
	loop_defer_free(p->loop, p); /* the callback above may still hold it */
}

int loop_pid_kill(struct loop_pid *p, int signo)
{
	return syscall(SYS_pidfd_send_signal, p->fd, signo, NULL, 0) < 0 ? -errno : 0;
}
