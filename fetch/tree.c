/* SPDX-License-Identifier: Apache-2.0 */
#include "tree.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/fd.h"
#include "base/mem.h"
#include "disk.h"

enum { FOLDER = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC };

/* ---- names ----------------------------------------------------------------------------------------------
 */

char *tree_name(const char *given, unsigned strip, int *ret)
{
	AUTO(buf_done) struct buf b = BUF(TREE_NAME_MAX);
	struct view rest = view_str(given);
	unsigned depth = 0;
	*ret = -EINVAL;
	if (given[0] == '/' || strchr(given, '\\'))
		return NULL;
	while (rest.n) {
		struct view step = view_split(rest, '/', &rest);
		if (!step.n || view_eqs(step, "."))
			continue;
		if (view_eqs(step, "..") || step.n > 255 || ++depth > TREE_DEPTH_MAX)
			return NULL;
		if (depth <= strip)
			continue;
		if ((b.len && buf_addc(&b, '/')) || buf_addv(&b, step))
			return NULL;
	}
	*ret = 0;
	return b.len ? buf_take(&b) : NULL;
}

bool tree_link_is_inside(const char *name, const char *target)
{
	struct view rest = view_str(target);
	int depth = 0;
	bool down = false;
	if (!target[0] || target[0] == '/' || strlen(target) >= TREE_NAME_MAX)
		return false;
	for (const char *c = name; *c; c++)
		depth += *c == '/';
	while (rest.n) {
		struct view step = view_split(rest, '/', &rest);
		if (!step.n || view_eqs(step, "."))
			continue;
		bool up = view_eqs(step, "..");
		/* after a step down, what ".." means depends on what is a link there */
		if (up && (down || --depth < 0))
			return false;
		down |= !up;
	}
	return true;
}

/* ---- making ---------------------------------------------------------------------------------------------
 */

static int open_below(int at, const char *name, bool make)
{
	if (make && mkdirat(at, name, 0755) < 0 && errno != EEXIST)
		return -errno;
	int fd = openat(at, name, FOLDER);
	return fd < 0 ? -errno : fd;
}

/* The folder name lies in, and its last step. */
static int parent_of(const struct tree *t, const char *name, bool make, const char **ret_last)
{
	AUTO(fd_closep) int at = fcntl(t->fd, F_DUPFD_CLOEXEC, 3);
	AUTO(mem_freep) char *copy = mem_strdup(name);
	char *step = copy;
	if (at < 0)
		return -errno;
	for (char *slash; (slash = strchr(step, '/')); step = slash + 1) {
		*slash = '\0';
		int below = open_below(at, step, make);
		if (below < 0)
			return below;
		fd_close(at);
		at = below;
	}
	*ret_last = name + (step - copy);
	return fd_take(&at);
}

int tree_file(struct tree *t, const char *name, mode_t mode, int *ret_fd)
{
	const char *last;
	AUTO(fd_closep) int at = parent_of(t, name, true, &last);
	if (at < 0)
		return at;
	if (unlinkat(at, last, 0) < 0 && errno != ENOENT)
		return -errno;
	*ret_fd = openat(at, last, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
	return *ret_fd < 0 ? -errno : 0;
}

int tree_folder(struct tree *t, const char *name)
{
	const char *last;
	AUTO(fd_closep) int at = parent_of(t, name, true, &last);
	if (at < 0)
		return at;
	AUTO(fd_closep) int fd = open_below(at, last, true);
	return fd < 0 ? fd : 0;
}

int tree_link(struct tree *t, const char *name, const char *target)
{
	const char *last;
	AUTO(fd_closep) int at = parent_of(t, name, true, &last);
	if (at < 0)
		return at;
	if (unlinkat(at, last, 0) < 0 && errno != ENOENT)
		return -errno;
	return symlinkat(target, at, last) < 0 ? -errno : 0;
}

int tree_hard_link(struct tree *t, const char *name, const char *to)
{
	const char *last, *last_to;
	struct stat st;
	AUTO(fd_closep) int from = parent_of(t, to, false, &last_to);
	if (from < 0)
		return from;
	if (fstatat(from, last_to, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -EPERM;
	AUTO(fd_closep) int at = parent_of(t, name, true, &last);
	if (at < 0)
		return at;
	if (strcmp(name, to) == 0)
		return 0;
	if (unlinkat(at, last, 0) < 0 && errno != ENOENT)
		return -errno;
	return linkat(from, last_to, at, last, 0) < 0 ? -errno : 0;
}

/* ---- the folder -----------------------------------------------------------------------------------------
 */

/* Everything below, without leaving it; depth is bounded by tree_name. */
static int empty(int fd)
{
	int copy = openat(fd, ".", FOLDER), r = 0;
	DIR *d = copy < 0 ? NULL : fdopendir(copy);
	if (!d) {
		r = -errno;
		fd_close(copy);
		return r;
	}
	for (struct dirent *e; !r && (e = readdir(d));) {
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		if (unlinkat(fd, e->d_name, 0) == 0)
			continue;
		AUTO(fd_closep) int below = openat(fd, e->d_name, FOLDER);
		r = below < 0 ? -errno : empty(below);
		if (!r && unlinkat(fd, e->d_name, AT_REMOVEDIR) < 0)
			r = -errno;
	}
	closedir(d);
	return r;
}

static int lock_folder(struct tree *t)
{
	for (;;) {
		struct stat ours, there;
		if (mkdir(t->path, 0755) < 0 && errno != EEXIST)
			return -errno;
		t->fd = open(t->path, FOLDER);
		if (t->fd < 0 && errno == ENOENT)
			continue;
		if (t->fd < 0 || flock(t->fd, LOCK_EX) < 0)
			return -errno;
		if (fstat(t->fd, &ours) == 0 && lstat(t->path, &there) == 0 && ours.st_ino == there.st_ino &&
			ours.st_dev == there.st_dev)
			return 0;
		fd_close(fd_take(&t->fd)); /* another process made `into` of it */
	}
}

int tree_begin(struct tree *t, const char *into)
{
	*t = (struct tree){ .fd = -1 };
	AUTO(mem_freep) char *folder = folder_of(into);
	struct stat st;
	if (lstat(into, &st) == 0)
		return -EEXIST;
	int r = dir_make(folder, 0755);
	if (r)
		return r;
	t->path = mem_fmt("%s.part", into);
	r = lock_folder(t);
	if (!r && lstat(into, &st) == 0)
		r = -EEXIST; /* meanwhile */
	if (!r)
		r = empty(t->fd);
	if (r)
		tree_end(t);
	return r;
}

int tree_finish(struct tree *t, const char *into)
{
	AUTO(mem_freep) char *folder = folder_of(into);
	if (syncfs(t->fd) < 0)
		return -errno;
	if (renameat2(AT_FDCWD, t->path, AT_FDCWD, into, RENAME_NOREPLACE) < 0) {
		struct stat st;
		if (errno != EINVAL && errno != ENOSYS)
			return -errno;
		if (lstat(into, &st) == 0)
			return -EEXIST;
		if (rename(t->path, into) < 0)
			return -errno;
	}
	t->done = true;
	return folder_sync(folder);
}

void tree_end(struct tree *t)
{
	if (t->fd >= 0 && !t->done && empty(t->fd) == 0)
		rmdir(t->path);
	fd_close(t->fd);
	free(t->path);
	*t = (struct tree){ .fd = -1 };
}
