/* SPDX-License-Identifier: Apache-2.0
 *
 * Preloaded into a program: SIGKILL right before the KILL_AT-th call that changes something on the disk, so
 * that a test hits every point whatever the machine's pace. Without KILL_AT the number of such calls is
 * written to the file KILL_COUNT at the end.
 */
#undef _FILE_OFFSET_BITS /* both names of what large files have are ours */
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static atomic_uint calls;

static void point(const char *name, unsigned n)
{
	char own[64];
	const char *at = getenv("KILL_AT"), *on = getenv("KILL_ON");
	unsigned now = ++calls, wanted = 0;
	snprintf(own, sizeof own, "%s:%u", name, n);
	if ((at && sscanf(at, "%u", &wanted) == 1 && now == wanted) || (on && strcmp(on, own) == 0))
		kill(getpid(), SIGKILL);
}

__attribute__((destructor)) static void tell(void)
{
	const char *path = getenv("KILL_COUNT");
	FILE *f = path ? fopen(path, "w") : NULL;
	if (!f)
		return;
	fprintf(f, "%u", calls);
	fclose(f);
}

#define POINT(type, name, params, args)                                                                      \
	type name params                                                                                     \
	{                                                                                                    \
		static atomic_uint own;                                                                      \
		static type(*real) params;                                                                   \
		if (!real)                                                                                   \
			*(void **)&real = dlsym(RTLD_NEXT, #name);                                           \
		point(#name, ++own);                                                                         \
		return real args;                                                                            \
	}

POINT(ssize_t, pwrite, (int fd, const void *p, size_t n, off_t at), (fd, p, n, at))
POINT(int, rename, (const char *from, const char *to), (from, to))
POINT(int, renameat2, (int a, const char *from, int b, const char *to, unsigned flags),
	(a, from, b, to, flags))
POINT(int, unlink, (const char *path), (path))
POINT(int, unlinkat, (int at, const char *path, int flags), (at, path, flags))
POINT(int, symlinkat, (const char *target, int at, const char *path), (target, at, path))
POINT(int, mkdirat, (int at, const char *path, mode_t mode), (at, path, mode))
POINT(int, fsync, (int fd), (fd))
POINT(int, syncfs, (int fd), (fd))
POINT(int, fdatasync, (int fd), (fd))
POINT(int, fchmod, (int fd, mode_t mode), (fd, mode))
POINT(int, flock, (int fd, int how), (fd, how))
POINT(int, ftruncate, (int fd, off_t n), (fd, n))
POINT(int, fallocate, (int fd, int how, off_t at, off_t n), (fd, how, at, n))
/* the names that large files have where they are asked for */
POINT(ssize_t, pwrite64, (int fd, const void *p, size_t n, off_t at), (fd, p, n, at))
POINT(int, ftruncate64, (int fd, off_t n), (fd, n))
POINT(int, fallocate64, (int fd, int how, off_t at, off_t n), (fd, how, at, n))
