/* SPDX-License-Identifier: Apache-2.0
 *
 * One file from "is it there?" to its place.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "disk.h"
#include "files_int.h"

/* The only writer of f->state. */
static void file_set(struct file *f, enum file_state to)
{
	assert(f->state != FILE_DONE);
	f->state = to;
	f->all->ndone += to == FILE_DONE;
}

static void fail_disk(struct file *f, const char *what, int error)
{
	struct fail why;
	disk_fail(&why, f->job->to, what, error);
	files_fail(f->all, why.why, "%s", why.msg);
}

/* ---- what lies at `to` already --------------------------------------------------------------------------
 */

/* true: it is looked at. */
static bool check_begin(struct file *f)
{
	struct stat st;
	if (stat(f->job->to, &st) < 0)
		return false;
	if (!S_ISREG(st.st_mode)) {
		files_fail(f->all, WHY_DISK,
			"%.400s is there and is no file; remove it or name another place", f->job->to);
		return true;
	}
	if ((f->job->size && f->job->size != (uint64_t)st.st_size) || f->stale_ino == st.st_ino)
		return false;
	if (f->job->head) { /* whether it is the right one is looked at when the whole is asked for */
		f->found->size = (uint64_t)st.st_size;
		f->found->was_there = true;
		file_set(f, FILE_DONE);
		return true;
	}
	f->check_fd = open(f->job->to, O_RDONLY | O_CLOEXEC);
	if (f->check_fd < 0)
		return false; /* what comes takes its place */
	sha_begin(&f->check);
	file_set(f, FILE_CHECKING);
	return true;
}

static void was_there(struct file *f)
{
	struct stat st;
	sha_hex(&f->check, f->found->sha256);
	f->found->size = f->check.bytes;
	f->found->was_there = true;
	if (f->part.ours)
		part_remove(&f->part);
	else if (lstat(f->part.path, &st) < 0)
		unlink(f->part.json_path); /* of one that was killed after its rename */
	file_set(f, FILE_DONE);
}

static bool check_step(struct file *f)
{
	AUTO(mem_freep) char *piece = mem_alloc(SLICE_BYTES);
	char hex[SHA_HEX + 1];
	struct stat st;
	ssize_t n = read(f->check_fd, piece, SLICE_BYTES);
	if (n > 0) {
		sha_add(&f->check, piece, (size_t)n);
		return true;
	}
	bool whole = n == 0;
	sha_hex(&f->check, hex);
	if (whole && (!f->job->sha256 || strcmp(hex, f->job->sha256) == 0)) {
		fd_close(fd_take(&f->check_fd));
		was_there(f);
		return true;
	}
	f->stale_ino = fstat(f->check_fd, &st) == 0 ? st.st_ino : 0;
	fd_close(fd_take(&f->check_fd));
	file_lock(f);
	return true;
}

/* ---- what is there of it --------------------------------------------------------------------------------
 */

static void set_chunk(struct file *f)
{
	uint64_t size = f->facts.size, chunk = size / 64 / (64 * KIB) * (64 * KIB);
	f->chunk = MIN(MAX(chunk, CHUNK_MIN), CHUNK_MAX);
	if (size <= 2 * CHUNK_MIN)
		f->chunk = MAX(size, (uint64_t)1);
	if (size == SIZE_UNKNOWN)
		f->chunk = CHUNK_MIN;
}

/* Room is there, and it is ours from now on. */
static int reserve(struct file *f, struct fail *why)
{
	struct stat st;
	uint64_t size = f->job->head ? MIN(f->facts.size, f->job->head) : f->facts.size;
	if (fstat(f->part.fd, &st) < 0)
		return disk_fail(why, f->part.path, "cannot be looked at", -errno);
	uint64_t there = (uint64_t)st.st_blocks * 512;
	if (files_room(f->all, why))
		return -1;
	if (disk_check(f->part.folder, size - MIN(size, there), f->all->job->headroom, why))
		return -1;
	if (size && fallocate(f->part.fd, FALLOC_FL_KEEP_SIZE, 0, (off_t)size) < 0 &&
		(errno == ENOSPC || errno == EDQUOT || errno == EFBIG || errno == EROFS))
		return disk_fail(why, f->job->to, "cannot be written", -errno);
	return 0;
}

int file_size_told(struct file *f, uint64_t size, struct fail *why)
{
	if (f->facts.size == size)
		return 0;
	if (f->facts.size != SIZE_UNKNOWN) {
		AUTO(mem_freep) char *shown = url_shown(file_url(f));
		return fail_set(why, WHY_DIGEST, "%.300s has %llu bytes there, %llu were promised", shown,
			(unsigned long long)size, (unsigned long long)f->facts.size);
	}
	f->facts.size = size;
	f->dirty = true;
	set_chunk(f);
	return reserve(f, why);
}

static void fresh_facts(struct file *f)
{
	f->facts = (struct part_facts){ .size = f->job->size ? f->job->size : SIZE_UNKNOWN };
	if (f->job->sha256)
		memcpy(f->facts.sha256, f->job->sha256, SHA_HEX + 1);
	set_chunk(f);
}

void file_restart(struct file *f)
{
	segs_drop(f, 0);
	fresh_facts(f);
	sha_begin(&f->sha);
	sha_begin(&f->part.durable.sha);
	f->part.durable.nspans = 0;
	f->next = 0;
	f->plain = f->probed = false;
	f->dirty = true;
	if (ftruncate(f->part.fd, 0) < 0)
		fail_disk(f, "cannot be begun anew", -errno);
}

static bool usable(const struct file *f, const struct part_facts *p)
{
	if (f->job->size && p->size != f->job->size)
		return false;
	if (f->job->sha256)
		return !p->sha256[0] || strcmp(p->sha256, f->job->sha256) == 0;
	return p->validator[0] != '\0';
}

/* Segs for what is missing between and behind the spans. */
static void take_up(struct file *f, const struct part_state *s)
{
	f->sha = s->sha;
	f->next = s->sha.bytes;
	if (s->nspans && s->spans[0].from > f->next)
		seg_add(f, f->next, f->next, s->spans[0].from);
	for (size_t i = 0; i < s->nspans; i++) {
		uint64_t to = i + 1 < s->nspans ? s->spans[i + 1].from : s->spans[i].to;
		seg_add(f, s->spans[i].from, s->spans[i].to, to);
	}
}

static void file_load(struct file *f)
{
	struct part_state state;
	struct part_facts there;
	struct fail why;
	fresh_facts(f);
	if (part_load(&f->part, &there, &state) == 0 && usable(f, &there)) {
		f->facts.size = there.size;
		memcpy(f->facts.validator, there.validator, sizeof there.validator);
		set_chunk(f);
		take_up(f, &state);
	} else {
		file_restart(f);
	}
	f->dirty = true;
	if (f->facts.size != SIZE_UNKNOWN && reserve(f, &why)) {
		files_fail(f->all, why.why, "%s", why.msg);
		return;
	}
	int r = file_flush(f);
	if (r)
		fail_disk(f, "cannot be written", r);
	else
		file_set(f, FILE_FETCHING);
}

void file_lock(struct file *f)
{
	wait_end(f);
	int r = f->part.folder[0] ? dir_make(f->part.folder, 0755) : 0;
	if (r) {
		fail_disk(f, "its folder cannot be made", r);
		return;
	}
	r = part_lock(&f->part);
	if (r == -EWOULDBLOCK) {
		r = wait_start(f);
		if (!r)
			file_set(f, FILE_WAITING);
	} else if (!r && !check_begin(f)) {
		file_load(f);
	}
	if (r)
		fail_disk(f, "cannot be written", r);
}

void file_begin(struct file *f)
{
	part_init(&f->part, f->job->to);
	f->found->path = f->job->to;
	f->sha_known = f->job->sha256 != NULL;
	f->width = f->all->job->parallel;
	f->check_fd = f->local_fd = -1;
	if (!check_begin(f))
		file_lock(f);
}

/* ---- at last --------------------------------------------------------------------------------------------
 */

void file_landed(struct file *f)
{
	char hex[SHA_HEX + 1];
	struct fail why;
	sha_hex(&f->sha, hex);
	if (f->job->sha256 && strcmp(hex, f->job->sha256) != 0) {
		AUTO(mem_freep) char *shown = url_shown(file_url(f));
		fail_set(&why, WHY_DIGEST,
			"%.220s is not what was promised: its SHA-256 is %s, wanted is %s; nothing of it was "
			"kept",
			shown, hex, f->job->sha256);
		file_restart(f);
		file_next_mirror(f, &why);
		return;
	}
	int r = part_finish(&f->part, f->job->to, f->job->mode);
	if (r) {
		fail_disk(f, "cannot be put in its place", r);
		return;
	}
	memcpy(f->found->sha256, hex, sizeof hex);
	f->found->size = f->sha.bytes;
	fd_close(fd_take(&f->part.fd));
	file_set(f, FILE_DONE);
}

void file_headed(struct file *f)
{
	f->dirty = true; /* what is in the digest by now is noted, so that nobody reads it again */
	int r = file_flush(f);
	if (r) {
		fail_disk(f, "cannot be written", r);
		return;
	}
	f->found->size = f->facts.size == SIZE_UNKNOWN ? 0 : f->facts.size;
	segs_drop(f, 0);
	file_set(f, FILE_DONE);
}

bool file_step(struct file *f)
{
	switch (f->state) {
	case FILE_QUEUED: file_begin(f); return true;
	case FILE_CHECKING: return check_step(f);
	case FILE_FETCHING: return local_step(f);
	case FILE_WAITING:
		if (!wait_is_over(f))
			return false;
		file_lock(f);
		return true;
	case FILE_DONE: break;
	}
	return false;
}

uint64_t file_have(const struct file *f)
{
	if (f->state == FILE_DONE && (!f->job->head || f->found->was_there))
		return f->found->size;
	if (f->state == FILE_CHECKING)
		return f->check.bytes;
	uint64_t have = f->sha.bytes;
	for (size_t i = 0; i < f->nsegs; i++)
		have += f->segs[i]->at - MIN(f->segs[i]->at, MAX(f->segs[i]->from, f->sha.bytes));
	return have;
}

void file_end(struct file *f)
{
	if (f->state == FILE_QUEUED)
		return;
	segs_drop(f, 0);
	mirror_forget(f);
	fd_close(f->check_fd);
	fd_close(f->local_fd);
	wait_end(f);
	part_done(&f->part);
}
