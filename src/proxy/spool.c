/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/spool.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "log/log.h"

void spool_init(struct spool *s, struct spool_account *a, uint64_t max)
{
	struct buf memory = s->memory;
	*s = (struct spool){ .account = a, .fd = -1, .max = max, .memory = memory };
	s->memory.max = SPOOL_MEMORY;
}

void spool_reset(struct spool *s, size_t keep)
{
	if (s->memory.cap > keep)
		buf_done(&s->memory);
	buf_reset(&s->memory);
	fd_closep(&s->fd);
	if (s->in_file)
		atomic_fetch_sub_explicit(&s->account->total, s->in_file, memory_order_relaxed);
	s->in_file = s->size = 0;
}

void spool_done(struct spool *s)
{
	spool_reset(s, 0);
}

void spool_forget(struct spool *s)
{
	uint64_t size = s->size;
	spool_done(s);
	s->size = size;
}

static const char *describe(int error)
{
	return error == EDQUOT ? "body.spool_total is used up" : strerror(error);
}

static void note(struct spool_account *a, int error)
{
	int before = atomic_exchange_explicit(&a->problem, error, memory_order_relaxed);
	if (error && !before)
		log_error("spool", a->dir,
			"Bodies over 64 KiB are refused, because %s cannot hold them: %s; free space there.",
			a->dir, describe(error));
	else if (!error && before)
		log_info("spool_back", a->dir, "%s holds large bodies again.", a->dir);
}

const char *spool_problem(struct spool_account *a)
{
	int error = atomic_load_explicit(&a->problem, memory_order_relaxed);
	struct statvfs v;
	bool room = error == EDQUOT ? atomic_load_explicit(&a->total, memory_order_relaxed) < a->total_max
				    : error == ENOSPC && statvfs(a->dir, &v) == 0 && v.f_bavail > 0;
	if (error && room)
		note(a, error = 0);
	return error ? describe(error) : NULL;
}

static int open_file(struct spool *s)
{
	s->fd = open(s->account->dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (s->fd >= 0)
		return 0;
	if (errno != EOPNOTSUPP && errno != EISDIR && errno != ENOENT)
		return -errno;
	/* A file system without O_TMPFILE: a named file that is unlinked at once. */
	AUTO(mem_freep) char *path = mem_fmt("%s/body.XXXXXX", s->account->dir);
	s->fd = mkostemp(path, O_CLOEXEC);
	if (s->fd < 0)
		return -errno;
	unlink(path);
	return 0;
}

static int add_to_file(struct spool *s, struct view v)
{
	uint64_t total = atomic_fetch_add_explicit(&s->account->total, v.n, memory_order_relaxed) + v.n;
	uint64_t max = atomic_load_explicit(&s->account->total_max, memory_order_relaxed);
	int r = total > max ? -EDQUOT : 0;
	if (!r && s->fd < 0)
		r = open_file(s);
	uint64_t done = 0;
	while (!r && done < v.n) {
		ssize_t k = pwrite(s->fd, v.p + done, v.n - done, (off_t)(s->in_file + done));
		if (k < 0 && errno == EINTR)
			continue;
		if (k <= 0)
			r = k < 0 ? -errno : -ENOSPC;
		else
			done += (uint64_t)k;
	}
	note(s->account, -r);
	if (r) {
		atomic_fetch_sub_explicit(&s->account->total, v.n, memory_order_relaxed);
		return r == -EDQUOT ? -ENOSPC : r;
	}
	s->in_file += v.n;
	return 0;
}

int spool_add(struct spool *s, struct view v)
{
	if (v.n > s->max || spool_size(s) > s->max - v.n)
		return -EFBIG;
	size_t room = s->in_file ? 0 : SPOOL_MEMORY - s->memory.len;
	struct view head = view_cut(v, room);
	if (head.n)
		(void)buf_addv(&s->memory, head);
	struct view rest = view_from(v, head.n);
	int r = rest.n ? add_to_file(s, rest) : 0;
	s->size = s->memory.len + s->in_file;
	return r;
}

struct view spool_read(struct spool *s, uint64_t offset, char *scratch, size_t cap)
{
	if (offset < s->memory.len)
		return view_from(buf_view(&s->memory), (size_t)offset);
	uint64_t at = offset - s->memory.len;
	if (at >= s->in_file)
		return view_of("", 0);
	for (;;) {
		ssize_t k = pread(s->fd, scratch, MIN((uint64_t)cap, s->in_file - at), (off_t)at);
		if (k < 0 && errno == EINTR)
			continue;
		return k > 0 ? view_of(scratch, (size_t)k) : (struct view){ NULL, 0 };
	}
}
