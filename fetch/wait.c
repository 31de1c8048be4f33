/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "files_int.h"

struct waiter {
	int fd, wake;
	atomic_bool over;
};

/* flock has no other way to be told; the thread ends with the process if nobody lets go. */
static void *wait_for_lock(void *arg)
{
	struct waiter *w = arg;
	int wake = w->wake;
	uint64_t one = 1;
	while (flock(w->fd, LOCK_EX) < 0 && errno == EINTR)
		;
	fd_close(w->fd);
	atomic_store(&w->over, true); /* w is the other thread's from here */
	if (write(wake, &one, sizeof one) < 0)
		abort();
	return NULL;
}

int wait_start(struct file *f)
{
	pthread_t thread;
	struct waiter *w = NEW(struct waiter);
	w->fd = fcntl(f->part.fd, F_DUPFD_CLOEXEC, 3);
	w->wake = f->all->wake;
	int r = w->fd < 0 ? -errno : -pthread_create(&thread, NULL, wait_for_lock, w);
	if (r) {
		fd_close(w->fd);
		free(w);
		return r;
	}
	pthread_detach(thread);
	f->waiter = w;
	return 0;
}

bool wait_is_over(const struct file *f)
{
	return f->waiter && atomic_load(&f->waiter->over);
}

void wait_end(struct file *f)
{
	if (wait_is_over(f))
		free(f->waiter);
	f->waiter = NULL; /* one that waits on is its thread's */
}
