/* SPDX-License-Identifier: Apache-2.0
 *
 * SHA-256 of what lies on the disk.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "disk.h"
#include "files.h"

enum { PIECE_BYTES = 4 * 1024 * 1024 };

static int hash_open(const struct job_file *file, struct fail *f)
{
	struct stat st;
	AUTO(fd_closep) int fd = open(file->to, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return errno == ENOENT ? fail_set(f, WHY_MISSING, "%.400s is not there", file->to)
				       : disk_fail(f, file->to, "cannot be read", -errno);
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return fail_set(f, WHY_INPUT, "%.400s is no file", file->to);
	return fd_take(&fd);
}

int hash_file(
	const struct job_file *file, struct found *ret, struct report *r, struct progress *p, struct fail *f)
{
	struct sha sha;
	AUTO(mem_freep) char *piece = mem_alloc(PIECE_BYTES);
	AUTO(fd_closep) int fd = hash_open(file, f);
	ssize_t n;
	ret->path = file->to;
	ret->was_there = true;
	if (fd < 0)
		return -1;
	(void)posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
	sha_begin(&sha);
	while ((n = read(fd, piece, PIECE_BYTES)) > 0) {
		sha_add(&sha, piece, (size_t)n);
		p->bytes += (uint64_t)n;
		r->moved = p->bytes;
		if (report_is_due(r))
			report_progress(r, p);
	}
	if (n < 0)
		return disk_fail(f, file->to, "cannot be read", -errno);
	sha_hex(&sha, ret->sha256);
	ret->size = sha.bytes;
	if (file->size && file->size != ret->size)
		return fail_set(f, WHY_DIGEST, "%.300s has %llu bytes, it should have %llu", file->to,
			(unsigned long long)ret->size, (unsigned long long)file->size);
	if (file->sha256 && strcmp(file->sha256, ret->sha256) != 0)
		return fail_set(f, WHY_DIGEST,
			"%.230s is not what it should be: its SHA-256 is %s, wanted is %s", file->to,
			ret->sha256, file->sha256);
	return 0;
}

/* All are told, also behind one that is wrong; the first that is wrong is the error. */
int op_hash(const struct job *j, struct result *ret, struct fail *f)
{
	struct report r = { 0 };
	struct progress p = { .phase = PHASE_VERIFYING };
	char text[300];
	int worst = 0;
	ret->files = mem_alloc(j->nfiles * sizeof *ret->files);
	ret->nfiles = j->nfiles;
	for (size_t i = 0; i < j->nfiles; i++) {
		struct stat st;
		p.total += stat(j->files[i].to, &st) == 0 ? (uint64_t)st.st_size : 0;
	}
	for (size_t i = 0; i < j->nfiles; i++) {
		struct fail one;
		snprintf(text, sizeof text, "Verifying %.250s", j->files[i].to);
		p.text = text;
		if (hash_file(&j->files[i], &ret->files[i], &r, &p, &one) && !worst) {
			worst = -1;
			*f = one;
		}
	}
	return worst;
}
