/* SPDX-License-Identifier: Apache-2.0
 *
 * Files and descriptors. Everything opened here is O_CLOEXEC. 0 or a negative errno.
 */
#ifndef BASE_FD_H
#define BASE_FD_H

#include <sys/types.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/strv.h"

void fd_close(int fd);   /* -1 allowed; EINTR is not retried (the descriptor is gone) */
void fd_closep(int *fd); /* for AUTO(fd_closep) int fd = -1; */
static inline int fd_take(int *fd)
{
	int f = *fd;
	*fd = -1;
	return f;
}
int fd_nonblock(int fd) MUST_CHECK;
/* Writes all n bytes to a blocking descriptor. */
int fd_write_all(int fd, const void *p, size_t n) MUST_CHECK;

/* Appends the file's contents to b; -EFBIG when b's bound is reached. */
int file_read(const char *path, struct buf *b) MUST_CHECK;
/* The same of a regular file alone: a pipe or a device of that name is -EINVAL, and never waited for. */
int file_read_regular(const char *path, struct buf *b) MUST_CHECK;
/* Writes a temporary file beside path, then renames it; on failure path is as it was.
 * sync: fsync file and folder (never on the way between a request and its first byte). */
int file_write_atomic(const char *path, struct view data, mode_t mode, bool sync) MUST_CHECK;
/* Two files of one folder take each other's names at once, on the disk when it returns: a kill at no moment
 * loses one of them. No a: b becomes a. (A file system that cannot, such as NFS: by a third name.) */
int file_swap(const char *a, const char *b) MUST_CHECK;
/* mkdir -p; existing folders are left as they are. */
int dir_make(const char *path, mode_t mode) MUST_CHECK;
/* The last step to a folder of ours: made (0700) if missing, refused with a sentence when it is no
 * folder or cannot be written by us. what names it for the person ("state_dir"). */
int dir_ensure_writable(const char *path, const char *what, struct err *reterr) MUST_CHECK;
/* Whether what is open is what that path names now: a file that was locked may have been removed by who held
 * it before. */
bool fd_is_at(int fd, const char *path);
bool file_exists(const char *path);
/* Appends the names in a folder, those that begin with a dot if they are asked for; none where it cannot be
 * read. */
void dir_names(const char *path, bool hidden, struct strv *ret);
/* a/b joined with one slash; an absolute b stays b. The caller frees it. */
char *path_join(const char *a, const char *b) MUST_CHECK;
/* By name alone: below folder, or folder itself. Neither has . or .. in it. */
bool path_lies_in(const char *path, const char *folder);

#endif
