/* SPDX-License-Identifier: Apache-2.0
 *
 * file: as a mirror: copied in slices between the rounds of the others.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "disk.h"
#include "files_int.h"

static int local_open(struct file *f, const char *path, struct fail *why)
{
	struct stat st;
	f->local_fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (f->local_fd < 0)
		return fail_set(why, errno == ENOENT ? WHY_MISSING : WHY_DISK, "%.300s cannot be read: %s",
			path, strerror(errno));
	if (fstat(f->local_fd, &st) < 0 || !S_ISREG(st.st_mode))
		return fail_set(why, WHY_INPUT, "%.300s is no file", path);
	if (file_size_told(f, (uint64_t)st.st_size, why))
		return -1;
	/* one piece from where the digest is; what was there beyond it is copied again */
	segs_drop(f, 0);
	seg_add(f, f->sha.bytes, f->sha.bytes, f->facts.size);
	return 0;
}

/* 1: there is more. */
static int local_copy(struct file *f, struct fail *why)
{
	AUTO(mem_freep) char *piece = mem_alloc(SLICE_BYTES);
	struct seg *s = f->segs[0];
	if (s->at >= s->to) {
		f->dirty = true;
		return 0;
	}
	ssize_t n = pread(f->local_fd, piece, (size_t)MIN(SLICE_BYTES, s->to - s->at), (off_t)s->at);
	if (n <= 0) {
		AUTO(mem_freep) char *shown = url_shown(file_url(f));
		return fail_set(why, n ? WHY_DISK : WHY_DIGEST, "%.300s: %s", shown,
			n ? strerror(errno) : "it became shorter while it was read");
	}
	int r = seg_take(s, piece, (size_t)n);
	return r ? disk_fail(why, f->job->to, "cannot be written", r) : 1;
}

bool local_step(struct file *f)
{
	struct place p = { 0 };
	struct fail why;
	if (!mirror_is_file(f))
		return false;
	int r = place_parse(file_url(f), &p, &why);
	if (!r && f->local_fd < 0)
		r = local_open(f, p.path, &why);
	if (!r)
		r = local_copy(f, &why);
	if (r < 0)
		file_next_mirror(f, &why);
	place_done(&p);
	return true;
}
