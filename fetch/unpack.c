/* SPDX-License-Identifier: Apache-2.0
 *
 * Archives (tar of any compression, zip) into a folder that is not there yet: made beside it as
 * `<into>.part`, brought to the disk, renamed. What a killed process left there is removed by the next one.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <archive.h>
#include <archive_entry.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/num.h"
#include "disk.h"
#include "files.h"
#include "tree.h"

enum { MEMBERS_MAX = 1000000, READ_BYTES = 256 * 1024 };

struct unpack {
	const struct job *job;
	struct archive *a;
	struct tree tree;
	uint64_t bytes, members, archive_size;
	struct report report;
	struct fail *fail;
};

static int refuse(struct unpack *u, const char *name, const char *why)
{
	return fail_set(u->fail, WHY_ARCHIVE, "%.200s is not unpacked: its member \"%.150s\" %s",
		u->job->files[0].to, name, why);
}

static int broken(struct unpack *u)
{
	const char *text = archive_error_string(u->a);
	return fail_set(u->fail, WHY_ARCHIVE, "%.250s cannot be unpacked: %.200s", u->job->files[0].to,
		text ? text : "it is broken");
}

static void tell(struct unpack *u)
{
	char text[300];
	if (!report_is_due(&u->report))
		return;
	struct progress p = { .phase = PHASE_UNPACKING, .total = u->archive_size, .text = text };
	int64_t done = archive_filter_bytes(u->a, -1);
	p.bytes = done > 0 ? MIN((uint64_t)done, u->archive_size) : 0;
	u->report.moved = p.bytes;
	snprintf(text, sizeof text, "Unpacking %.200s", strrchr(u->job->files[0].to, '/') + 1);
	report_progress(&u->report, &p);
}

/* ---- members --------------------------------------------------------------------------------------------
 */

static int over(struct unpack *u)
{
	char text[32];
	num_format_bytes(u->job->unpack_max, text, sizeof text);
	return fail_set(u->fail, WHY_ARCHIVE, "%.300s is not unpacked: it holds more than %s",
		u->job->files[0].to, text);
}

static int write_failed(struct unpack *u, int error)
{
	return disk_fail(u->fail, u->job->into, "cannot be written", error);
}

/* Holes stay holes, and count. */
static int copy_data(struct unpack *u, int fd)
{
	const void *p;
	size_t n;
	la_int64_t at;
	uint64_t end = 0;
	int r;
	while ((r = archive_read_data_block(u->a, &p, &n, &at)) == ARCHIVE_OK) {
		uint64_t to = (uint64_t)at + n;
		if (at < 0 || to < n)
			return broken(u);
		u->bytes += to > end ? to - end : 0;
		end = MAX(end, to);
		if (u->bytes > u->job->unpack_max)
			return over(u);
		for (size_t done = 0; done < n;) {
			ssize_t k = pwrite(fd, (const char *)p + done, n - done, (off_t)at + (off_t)done);
			if (k < 0 && errno == EINTR)
				continue;
			if (k <= 0)
				return write_failed(u, k ? -errno : -ENOSPC);
			done += (size_t)k;
		}
		tell(u);
	}
	return r == ARCHIVE_EOF ? 0 : broken(u);
}

static int unpack_file(struct unpack *u, struct archive_entry *e, const char *name)
{
	/* owners, setuid, and who else may write are not the archive's to say */
	mode_t mode = (archive_entry_perm(e) & 0755) | 0600;
	AUTO(fd_closep) int fd = -1;
	if (archive_entry_size_is_set(e) && (uint64_t)archive_entry_size(e) > u->job->unpack_max - u->bytes)
		return over(u);
	int r = tree_file(&u->tree, name, mode, &fd);
	if (r)
		return r == -ELOOP || r == -ENOTDIR || r == -EISDIR
			       ? refuse(u, name, "lies behind another member")
			       : write_failed(u, r);
	r = copy_data(u, fd);
	if (r)
		return r;
	if (archive_entry_size_is_set(e) && ftruncate(fd, (off_t)archive_entry_size(e)) < 0)
		return write_failed(u, -errno);
	return 0;
}

static int unpack_link(struct unpack *u, const char *name, const char *target, bool hard)
{
	int r;
	if (hard) {
		AUTO(mem_freep) char *to = tree_name(target, u->job->strip, &r);
		if (!to)
			return refuse(u, name, "is a link that leads out of the archive");
		r = tree_hard_link(&u->tree, name, to);
	} else {
		if (!tree_link_is_inside(name, target))
			return refuse(u, name, "is a link that leads out of the archive");
		r = tree_link(&u->tree, name, target);
	}
	if (r == -ENOENT || r == -ELOOP || r == -ENOTDIR || r == -EISDIR || r == -EPERM)
		return refuse(u, name, "is a link to what is not there, or lies behind one");
	return r ? write_failed(u, r) : 0;
}

static int unpack_member(struct unpack *u, struct archive_entry *e)
{
	const char *given = archive_entry_pathname(e);
	int r = 0;
	if (++u->members > MEMBERS_MAX)
		return fail_set(u->fail, WHY_ARCHIVE, "%.300s is not unpacked: it has more than %d members",
			u->job->files[0].to, MEMBERS_MAX);
	if (!given)
		return refuse(u, "?", "has a name that cannot be read");
	AUTO(mem_freep) char *name = tree_name(given, u->job->strip, &r);
	if (!name)
		return r ? refuse(u, given, "leads out of the folder") : 0;
	const char *hard = archive_entry_hardlink(e), *soft = archive_entry_symlink(e);
	if (hard || archive_entry_filetype(e) == AE_IFLNK)
		return hard || soft ? unpack_link(u, name, hard ? hard : soft, hard != NULL)
				    : refuse(u, given, "is a link to nothing");
	if (archive_entry_filetype(e) == AE_IFDIR) {
		r = tree_folder(&u->tree, name);
		return r == -ELOOP || r == -ENOTDIR || r == -EEXIST
			       ? refuse(u, name, "lies behind another member")
		       : r ? write_failed(u, r)
			   : 0;
	}
	if (archive_entry_filetype(e) != AE_IFREG)
		return refuse(u, given, "is no file, folder or link");
	return unpack_file(u, e, name);
}

static int unpack_all(struct unpack *u)
{
	struct archive_entry *e;
	int r;
	while ((r = archive_read_next_header(u->a, &e)) == ARCHIVE_OK || r == ARCHIVE_WARN) {
		if (unpack_member(u, e))
			return -1;
		tell(u);
	}
	if (r != ARCHIVE_EOF)
		return broken(u);
	if (!u->members)
		return fail_set(u->fail, WHY_ARCHIVE, "%.300s holds nothing", u->job->files[0].to);
	return 0;
}

/* ---- the whole ------------------------------------------------------------------------------------------
 */

static int open_archive(struct unpack *u)
{
	struct stat st;
	const char *path = u->job->files[0].to;
	if (stat(path, &st) < 0 || !S_ISREG(st.st_mode))
		return fail_set(u->fail, WHY_MISSING, "%.400s is not there, or no file", path);
	u->archive_size = (uint64_t)st.st_size;
	u->a = archive_read_new();
	if (!u->a)
		return fail_set(u->fail, WHY_ARCHIVE, "libarchive cannot be used: no memory");
	/* none of those that start other programs */
	archive_read_support_filter_gzip(u->a);
	archive_read_support_filter_bzip2(u->a);
	archive_read_support_filter_xz(u->a);
	archive_read_support_filter_lzma(u->a);
	archive_read_support_filter_zstd(u->a);
	archive_read_support_filter_lz4(u->a);
	archive_read_support_filter_compress(u->a);
	archive_read_support_format_tar(u->a);
	archive_read_support_format_gnutar(u->a);
	archive_read_support_format_zip(u->a);
	return archive_read_open_filename(u->a, path, READ_BYTES) == ARCHIVE_OK ? 0 : broken(u);
}

static int finish(struct unpack *u)
{
	int r = tree_finish(&u->tree, u->job->into);
	if (r == -EEXIST || r == -ENOTEMPTY)
		return fail_set(u->fail, WHY_INPUT, "%.400s is there already; remove it first", u->job->into);
	return r ? disk_fail(u->fail, u->job->into, "cannot be put in its place", r) : 0;
}

static int verify(struct unpack *u)
{
	struct found found = { 0 };
	struct progress p = {
		.phase = PHASE_VERIFYING, .text = "Verifying the archive", .total = u->archive_size
	};
	if (!u->job->files[0].sha256)
		return 0;
	return hash_file(&u->job->files[0], &found, &u->report, &p, u->fail);
}

static int into_tree(struct unpack *u)
{
	int r = tree_begin(&u->tree, u->job->into);
	if (r == -EEXIST)
		return fail_set(u->fail, WHY_INPUT, "%.400s is there already; remove it first", u->job->into);
	if (r)
		return write_failed(u, r);
	r = disk_check(u->job->into, u->archive_size, u->job->headroom, u->fail);
	if (!r)
		r = unpack_all(u);
	if (!r)
		r = finish(u);
	tree_end(&u->tree);
	return r;
}

int op_unpack(const struct job *j, struct result *ret, struct fail *f)
{
	struct unpack u = { .job = j, .fail = f };
	int r = open_archive(&u);
	if (!r)
		r = verify(&u);
	if (!r)
		r = into_tree(&u);
	if (!r)
		ret->unpacked = u.bytes;
	if (u.a)
		archive_read_free(u.a);
	return r;
}
