/* SPDX-License-Identifier: Apache-2.0
 *
 * Preloaded into a program: SIGKILL right before the KILL_AT-th call that changes something on the disk, so
 * that a test hits every point whatever the machine's pace. Without KILL_AT the number of such calls is
 * written to the file KILL_COUNT at the end; of several processes the largest.
 *
 * KILL_IN: the one program it is for, by its name; those it starts inherit the variables. KILL_ONCE: a file
 * that is made by the kill, and without which there is none: what is started again lives.
 */
#undef _FILE_OFFSET_BITS /* both names of what large files have are ours */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static atomic_uint calls;

static bool is_meant(void)
{
	const char *in = getenv("KILL_IN");
	return !in || strcmp(in, program_invocation_short_name) == 0;
}

static bool is_first(void)
{
	const char *once = getenv("KILL_ONCE");
	int fd = once ? open(once, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600) : -1;
	if (fd >= 0)
		close(fd);
	return !once || fd >= 0;
}

static void point(const char *name, unsigned n)
{
	char own[64];
	const char *at = getenv("KILL_AT"), *on = getenv("KILL_ON");
	unsigned now = ++calls, wanted = 0;
	if (!is_meant())
		return;
	snprintf(own, sizeof own, "%s:%u", name, n);
	bool here = (at && sscanf(at, "%u", &wanted) == 1 && now == wanted) || (on && strcmp(on, own) == 0);
	if (here && is_first())
		kill(getpid(), SIGKILL);
}

__attribute__((destructor)) static void tell(void)
{
	const char *path = getenv("KILL_COUNT");
	FILE *f = path && is_meant() ? fopen(path, "a+") : NULL;
	unsigned before = 0;
	if (!f)
		return;
	if (fscanf(f, "%u", &before) == 1 && before >= calls) {
		fclose(f);
		return;
	}
	if (truncate(path, 0))
		fputs("KILL_COUNT cannot be written\n", stderr);
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
POINT(int, symlink, (const char *target, const char *path), (target, path))
POINT(int, mkdir, (const char *path, mode_t mode), (path, mode))
POINT(int, rmdir, (const char *path), (path))
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

/* Of files alone: what goes to a terminal or to another process changes no disk. */
ssize_t write(int fd, const void *p, size_t n)
{
	static atomic_uint own;
	static ssize_t (*real)(int, const void *, size_t);
	struct stat st;
	if (!real)
		*(void **)&real = dlsym(RTLD_NEXT, "write");
	if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_nlink)
		point("write", ++own);
	return real(fd, p, n);
}
