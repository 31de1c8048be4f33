/* SPDX-License-Identifier: Apache-2.0 */
#include "supervise/sweep.h"

#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/num.h"

enum { ENVIRON_MAX = 4 * 1024 * 1024 };

struct sweep {
	struct loop *loop;
	struct loop_timer timer;
	loop_fn *done;
	void *arg;
	struct sweep **owner;
	char *mark;
	unsigned tries;
};

/* The folder by what the kernel knows it by: a container may have one of the same name, and its processes are
 * seen from outside. */
char *sweep_mark(const char *lock_path)
{
	struct stat st = { 0 };
	const char *slash = strrchr(lock_path, '/');
	AUTO(mem_freep)
	char *dir = slash ? mem_viewdup(view_of(lock_path, (size_t)(slash - lock_path))) : NULL;
	if (!dir || stat(dir, &st) < 0)
		st = (struct stat){ 0 };
	return mem_fmt("CORRAL_ENGINE_OF=%llx:%llx:%s", (unsigned long long)st.st_dev,
		(unsigned long long)st.st_ino, lock_path);
}

static bool has_mark(uint64_t pid, struct view mark)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/%llu/environ", (unsigned long long)pid);
	AUTO(buf_done) struct buf b = BUF(ENVIRON_MAX);
	if (file_read(path, &b))
		return false; /* another user's, or gone */
	struct view rest = buf_view(&b);
	while (rest.n)
		if (view_eq(view_split(rest, '\0', &rest), mark))
			return true;
	return false;
}

static bool kill_if_marked(uint64_t pid, struct view mark)
{
	if (!has_mark(pid, mark))
		return false;
	/* Looked at again with the descriptor open: now it is the one that will be killed. */
	AUTO(fd_closep) int fd = (int)syscall(SYS_pidfd_open, (pid_t)pid, 0);
	if (fd < 0 || !has_mark(pid, mark))
		return false;
	(void)syscall(SYS_pidfd_send_signal, fd, SIGKILL, NULL, 0);
	return true;
}

size_t sweep_once(const char *mark)
{
	DIR *d = opendir("/proc");
	size_t n = 0;
	uint64_t pid;
	if (!d)
		return 0;
	for (struct dirent *e; (e = readdir(d));)
		if (!num_u64(view_str(e->d_name), &pid) && pid > 1 && pid < INT32_MAX &&
			(pid_t)pid != getpid())
			n += kill_if_marked(pid, view_str(mark));
	closedir(d);
	return n;
}

static void on_timer(void *arg)
{
	struct sweep *s = arg;
	if (sweep_once(s->mark) && ++s->tries < SWEEP_TRIES) {
		int64_t ms = (int64_t)SWEEP_FIRST_MS << MIN(s->tries - 1, 8u);
		loop_timer_start(s->loop, &s->timer, MIN(ms, (int64_t)SWEEP_MOST_MS), on_timer, s);
		return;
	}
	loop_fn *done = s->done;
	void *whose = s->arg;
	sweep_cancel(s->owner);
	done(whose);
}

void sweep_start(struct loop *l, const char *mark, loop_fn *done, void *arg, struct sweep **ret)
{
	struct sweep *s = NEW(struct sweep);
	*s = (struct sweep){ .loop = l, .done = done, .arg = arg, .owner = ret, .mark = mem_strdup(mark) };
	*ret = s;
	loop_timer_start(l, &s->timer, 0, on_timer, s);
}

void sweep_cancel(struct sweep **ps)
{
	struct sweep *s = *ps;
	*ps = NULL;
	if (!s)
		return;
	loop_timer_stop(&s->timer);
	free(s->mark);
	loop_defer_free(s->loop, s);
}
