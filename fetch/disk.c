/* SPDX-License-Identifier: Apache-2.0 */
#include "disk.h"

#include <fcntl.h>
#include <libgen.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/num.h"

char *folder_of(const char *path)
{
	AUTO(mem_freep) char *copy = mem_strdup(path);
	return mem_strdup(dirname(copy));
}

int folder_sync(const char *folder)
{
	AUTO(fd_closep) int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	/* some filesystems cannot; then nothing more can be done for it */
	return fsync(fd) < 0 && errno != EINVAL && errno != ENOTSUP ? -errno : 0;
}

/* The nearest folder above that is there. */
static char *existing(const char *folder)
{
	struct stat st;
	char *at = mem_strdup(folder);
	while (stat(at, &st) < 0 && strcmp(at, "/") != 0) {
		char *up = folder_of(at);
		free(at);
		at = up;
	}
	return at;
}

int disk_check(const char *folder, uint64_t need, uint64_t headroom, struct fail *f)
{
	struct statvfs v;
	AUTO(mem_freep) char *at = existing(folder);
	if (statvfs(at, &v) < 0)
		return disk_fail(f, at, "the disk cannot be looked at", -errno);
	uint64_t room = (uint64_t)v.f_bavail * v.f_frsize;
	if (!need || (need <= room && headroom <= room - need))
		return 0;
	char need_text[32], room_text[32], head_text[32];
	num_format_bytes(need, need_text, sizeof need_text);
	num_format_bytes(room, room_text, sizeof room_text);
	num_format_bytes(headroom, head_text, sizeof head_text);
	return fail_set(f, WHY_DISK,
		"there is no room in %.200s: %s are needed%s%s%s, %s are free; make room there or name a "
		"folder on "
		"another disk",
		folder, need_text, headroom ? " and " : "", headroom ? head_text : "",
		headroom ? " must stay free" : "", room_text);
}

/* What is still to be written for it. */
static uint64_t missing(const struct job_file *f)
{
	struct stat st;
	uint64_t size = f->head ? MIN(f->size, f->head) : f->size;
	if (stat(f->to, &st) == 0 && (uint64_t)st.st_size == f->size)
		return 0;
	AUTO(mem_freep) char *part = mem_fmt("%s.part", f->to);
	uint64_t there = stat(part, &st) == 0 ? (uint64_t)st.st_blocks * 512 : 0;
	return size - MIN(size, there);
}

int disk_check_job(const struct job *j, struct fail *f)
{
	struct disk {
		dev_t dev;
		uint64_t need;
		char *folder;
	};
	AUTO(mem_freep) struct disk *disks = mem_alloc(j->nfiles * sizeof *disks);
	size_t n = 0;
	int r = 0;
	for (size_t i = 0; i < j->nfiles; i++) {
		struct stat st;
		size_t k = 0;
		AUTO(mem_freep) char *folder = folder_of(j->files[i].to), *at = existing(folder);
		if (stat(at, &st) < 0)
			continue;
		while (k < n && disks[k].dev != st.st_dev)
			k++;
		if (k == n)
			disks[n++] = (struct disk){ .dev = st.st_dev, .folder = MEM_TAKE(folder) };
		disks[k].need += missing(&j->files[i]);
	}
	for (size_t k = 0; k < n; k++) {
		if (!r)
			r = disk_check(disks[k].folder, disks[k].need, j->headroom, f);
		free(disks[k].folder);
	}
	return r;
}

int disk_fail(struct fail *f, const char *path, const char *what, int error)
{
	const char *hint = "look at the folder and its owner";
	if (error == -ENOSPC || error == -EDQUOT)
		hint = "make room there or name a folder on another disk";
	else if (error == -EROFS || error == -EACCES || error == -EPERM)
		hint = "name a folder you may write to";
	else if (error == -EIO)
		hint = "the disk may be failing";
	return fail_set(f, WHY_DISK, "%.300s: %s: %s; %s", path, what,
		error == -ENOSPC  ? "the disk is full"
		: error == -EROFS ? "it is read-only"
				  : strerror(-error),
		hint);
}
