/* SPDX-License-Identifier: Apache-2.0 */
#include "base/fd.h"

#include <dirent.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"

void fd_close(int fd)
{
	if (fd >= 0)
		close(fd);
}

void fd_closep(int *fd)
{
	fd_close(*fd);
	*fd = -1;
}

int fd_nonblock(int fd)
{
	int fl = fcntl(fd, F_GETFL);
	if (fl < 0 || fcntl(fd, F_SETFL, fl | O_NONBLOCK) < 0)
		return -errno;
	return 0;
}

int fd_write_all(int fd, const void *p, size_t n)
{
	const char *q = p;
	while (n) {
		ssize_t k = write(fd, q, n);
		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0)
			return -errno;
		q += k;
		n -= (size_t)k;
	}
	return 0;
}

static int read_all(int fd, struct buf *b)
{
	for (;;) {
		size_t left = b->max - b->len;
		char one;
		size_t want = MIN(left, (size_t)(64 * KIB));
		char *to = want ? buf_room(b, want) : &one;
		ssize_t k = read(fd, to, want ? want : 1);
		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0)
			return -errno;
		if (k == 0)
			return 0;
		if (!want)
			return -EFBIG;
		buf_grew(b, (size_t)k);
	}
}

int file_read(const char *path, struct buf *b)
{
	AUTO(fd_closep) int fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? -errno : read_all(fd, b);
}

int file_read_regular(const char *path, struct buf *b)
{
	struct stat st;
	AUTO(fd_closep) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	return S_ISREG(st.st_mode) ? read_all(fd, b) : -EINVAL;
}

static int sync_dir(const char *dir)
{
	AUTO(fd_closep) int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fsync(fd) < 0)
		return -errno;
	return 0;
}

static int write_temp(const char *tmp, struct view data, mode_t mode, bool sync)
{
	AUTO(fd_closep) int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, mode);
	if (fd < 0)
		return -errno;
	int r = fd_write_all(fd, data.p, data.n);
	if (!r && sync && fsync(fd) < 0)
		r = -errno;
	return r;
}

int file_write_atomic(const char *path, struct view data, mode_t mode, bool sync)
{
	AUTO(mem_freep) char *tmp = mem_fmt("%s.%d.tmp", path, (int)getpid());
	int r = write_temp(tmp, data, mode, sync);
	if (!r && rename(tmp, path) < 0)
		r = -errno;
	if (r) {
		unlink(tmp);
		return r;
	}
	if (!sync)
		return 0;
	AUTO(mem_freep) char *copy = mem_strdup(path);
	return sync_dir(dirname(copy));
}

int file_swap(const char *a, const char *b)
{
	int r = renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE) < 0 ? -errno : 0;
	if (r == -ENOENT && rename(b, a) == 0)
		r = 0;
	if (r == -EINVAL || r == -ENOSYS) {
		AUTO(mem_freep) char *third = mem_fmt("%s.%d.tmp", a, (int)getpid());
		bool all = rename(a, third) == 0 && rename(b, a) == 0 && rename(third, b) == 0;
		r = all ? 0 : -errno;
	}
	if (r)
		return r;
	AUTO(mem_freep) char *copy = mem_strdup(a);
	return sync_dir(dirname(copy));
}

int dir_make(const char *path, mode_t mode)
{
	if (!path[0])
		return -ENOENT;
	AUTO(mem_freep) char *p = mem_strdup(path);
	for (char *s = p + 1; *s; s++) {
		if (*s != '/')
			continue;
		*s = '\0';
		if (mkdir(p, mode) < 0 && errno != EEXIST)
			return -errno;
		*s = '/';
	}
	if (mkdir(p, mode) < 0 && errno != EEXIST)
		return -errno;
	struct stat st;
	if (stat(path, &st) < 0)
		return -errno;
	return S_ISDIR(st.st_mode) ? 0 : -ENOTDIR;
}

int dir_ensure_writable(const char *path, const char *what, struct err *reterr)
{
	int r = dir_make(path, 0700);
	if (r)
		return err_set(reterr, r, "%s %s cannot be made: %s; name a folder you may write to with %s",
			what, path, strerror(-r), what);
	/* access(2) tells root that everything is writable; a read-only mount only shows in a write. A file
	 * without a name leaves nothing when we are killed; not every file system has them. */
	AUTO(fd_closep) int fd = open(path, O_WRONLY | O_TMPFILE | O_CLOEXEC, 0600);
	if (fd >= 0)
		return 0;
	AUTO(mem_freep) char *probe = mem_fmt("%s/.corral-write-%d", path, (int)getpid());
	fd = open(probe, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0 && errno != EEXIST)
		return err_set(reterr, -errno,
			"%s %s cannot be written: %s; name a folder you may write to with %s", what, path,
			strerror(errno), what);
	unlink(probe);
	return 0;
}

bool fd_is_at(int fd, const char *path)
{
	struct stat a, b;
	return fstat(fd, &a) == 0 && stat(path, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

bool file_exists(const char *path)
{
	struct stat st;
	return stat(path, &st) == 0;
}

void dir_names(const char *path, bool hidden, struct strv *ret)
{
	DIR *d = opendir(path);
	for (struct dirent *e; d && (e = readdir(d));)
		if (e->d_name[0] != '.' ||
			(hidden && strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0))
			strv_add(ret, e->d_name);
	if (d)
		closedir(d);
}

char *path_join(const char *a, const char *b)
{
	if (b[0] == '/' || a[0] == '\0')
		return mem_strdup(b);
	size_t n = strlen(a);
	return mem_fmt("%s%s%s", a, n && a[n - 1] == '/' ? "" : "/", b);
}

bool path_lies_in(const char *path, const char *folder)
{
	size_t n = strlen(folder);
	return strncmp(path, folder, n) == 0 && (!path[n] || path[n] == '/' || (n == 1 && *folder == '/'));
}
