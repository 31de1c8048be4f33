/* SPDX-License-Identifier: Apache-2.0
 *
 * The binary mode with an address: an archive is fetched, compared with the digest that the configuration
 * names, unpacked beside its place and renamed; its program is found inside and asked for its version. Every
 * step finds what an earlier run had done, so a kill anywhere costs what was under way at most.
 *
 * One job at a time for each archive, also of other processes: a flock. Who comes next finds the folder.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "provision/engine/engine_int.h"
#include "provision/engine/table.h"

enum { SHA_LEN = 64, SHORT_LEN = 12, DEPTH_MAX = 8, FOUND_MAX = 4096, LOCK_RETRY_MS = 200 };

struct archive {
	struct engine_job *job; /* NULL once cancelled */
	struct fetch_job *fetch;
	char *file, *folder, *name;
	char *lock; /* its file; removed by who held it to the end */
	int lock_fd;
	bool locked;
	struct loop_timer retry;
	char *program; /* found */
	bool offloading;
	struct err failed; /* told once what was fetched in vain is gone */
};

static void archive_free(struct archive *a)
{
	fetch_cancel(&a->fetch);
	loop_timer_stop(&a->retry);
	fd_close(a->lock_fd);
	free(a->lock);
	free(a->file);
	free(a->folder);
	free(a->name);
	free(a->program);
	free(a);
}

void archive_cancel(struct archive **pa)
{
	struct archive *a = *pa;
	*pa = NULL;
	if (!a)
		return;
	a->job = NULL;
	fetch_cancel(&a->fetch);
	loop_timer_stop(&a->retry);
	if (!a->offloading)
		archive_free(a);
}

/* Its file goes with it. */
static void unlock(struct archive *a)
{
	if (a->locked)
		unlink(a->lock);
	a->locked = false;
}

static void finish_failed(struct archive *a, int code, const char *text)
{
	struct engine_job *j = a->job;
	job_fail(j, code, "%s", text);
	unlock(a);
	archive_cancel(&j->archive);
}

/* ---- the program inside ---------------------------------------------------------------------------------
 */

static bool is_program(const char *path)
{
	struct stat st;
	return lstat(path, &st) == 0 && S_ISREG(st.st_mode) && access(path, X_OK) == 0;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Links are not followed: what is looked for lies in the tree. */
static void list_folder(const char *dir, struct strv *folders, struct strv *programs, const char *name)
{
	DIR *d = opendir(dir);
	for (struct dirent *e; d && (e = readdir(d));) {
		struct stat st;
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		AUTO(mem_freep) char *path = path_join(dir, e->d_name);
		if (lstat(path, &st) < 0)
			continue;
		if (S_ISDIR(st.st_mode))
			strv_add(folders, path);
		else if (strcmp(e->d_name, name) == 0 && is_program(path))
			strv_add(programs, path);
	}
	if (d)
		closedir(d);
}

char *archive_find(const char *root, const char *name)
{
	AUTO(mem_freep) char *direct = path_join(root, name);
	AUTO(mem_freep) char *real = realpath(direct, NULL);
	AUTO(mem_freep) char *inside = realpath(root, NULL);
	if (real && inside && view_starts(view_str(real), view_str(inside)) && real[strlen(inside)] == '/' &&
		is_program(real))
		return MEM_TAKE(real);
	if (strchr(name, '/'))
		return NULL;
	AUTO(strv_done) struct strv level = { 0 };
	strv_add(&level, root);
	for (int depth = 0; depth < DEPTH_MAX && level.len && level.len <= FOUND_MAX; depth++) {
		AUTO(strv_done) struct strv programs = { 0 };
		struct strv next = { 0 };
		for (size_t i = 0; i < level.len; i++)
			list_folder(level.items[i], &next, &programs, name);
		strv_done(&level);
		level = next;
		if (!programs.len)
			continue;
		qsort(programs.items, programs.len, sizeof *programs.items, by_name);
		return mem_strdup(programs.items[0]);
	}
	return NULL;
}

static void work_find(void *arg)
{
	struct archive *a = arg;
	a->program = archive_find(a->folder, a->name);
	unlink(a->file); /* unpacked now */
}

static void on_found(void *arg)
{
	struct archive *a = arg;
	struct engine_job *j = a->job;
	a->offloading = false;
	if (!j) {
		archive_free(a);
		return;
	}
	if (!a->program) {
		AUTO(mem_freep)
		char *text =
			mem_fmt("the archive has no program %s (it was unpacked into %s); set engine.program "
				"to its path in there",
				a->name, a->folder);
		finish_failed(a, -ENOENT, text);
		return;
	}
	AUTO(mem_freep) char *program = MEM_TAKE(a->program);
	unlock(a);
	archive_cancel(&j->archive);
	job_take_program(j, program, "from the archive at engine.url");
}

static void find(struct archive *a)
{
	a->offloading = true;
	loop_offload(a->job->loop, work_find, on_found, a);
}

/* ---- fetching and unpacking ------------------------------------------------------------------------------
 */

static const char *phase_name(enum fetch_phase p)
{
	return p == FETCH_VERIFYING ? "verify" : p == FETCH_UNPACKING ? "unpack" : "fetch";
}

static void on_progress(void *arg, const struct fetch_progress *p)
{
	struct archive *a = arg;
	int pct = p->total ? (int)(MIN(p->bytes, p->total) * 100 / p->total) : -1;
	job_progress(a->job, phase_name(p->phase), pct, "%s", p->text ? p->text : "Fetching the engine.");
	job_bytes(a->job, p->bytes, p->total);
}

static int code_of(enum fetch_why why)
{
	switch (why) {
	case FETCH_REFUSED:
	case FETCH_DENIED: return -EACCES;
	case FETCH_MISSING: return -ENOENT;
	case FETCH_DIGEST:
	case FETCH_ARCHIVE: return -EBADMSG;
	case FETCH_DISK: return -ENOSPC;
	case FETCH_INPUT: return -EINVAL;
	default: return -EIO;
	}
}

static void work_discard(void *arg)
{
	struct archive *a = arg;
	unlink(a->file);
}

static void on_discarded(void *arg)
{
	struct archive *a = arg;
	a->offloading = false;
	if (a->job)
		finish_failed(a, a->failed.code, a->failed.msg);
	else
		archive_free(a);
}

/* An archive that cannot be unpacked is of no use to the next try either; one whose process was killed is. */
static void unpack_failed(struct archive *a, enum fetch_why why, const struct err *err)
{
	if (why == FETCH_CRASHED) {
		finish_failed(a, code_of(why), err->msg);
		return;
	}
	err_set(&a->failed, code_of(why), "%s", err->msg);
	a->offloading = true;
	loop_offload(a->job->loop, work_discard, on_discarded, a);
}

static void on_unpacked(void *arg, const struct fetch_result *res, enum fetch_why why, const struct err *err)
{
	struct archive *a = arg;
	(void)res;
	a->fetch = NULL;
	/* somebody else may have put it there in the meantime */
	if (!err || file_exists(a->folder))
		find(a);
	else
		unpack_failed(a, why, err);
}

/* ops is heard from until the process has ended. */
static void request(struct archive *a, struct fetch_request *q, const struct fetch_ops *ops)
{
	struct engine_job *j = a->job;
	struct err e = { 0 };
	q->policy = j->policy;
	int r = fetch_start(j->loop, j->fetch_program, q, ops, a, &a->fetch, &e);
	if (r)
		finish_failed(a, r, e.msg);
}

static void unpack(struct archive *a)
{
	struct fetch_file f = { .to = a->file };
	struct fetch_request q = { .op = FETCH_UNPACK, .files = &f, .nfiles = 1, .into = a->folder };
	static const struct fetch_ops ops = { .on_progress = on_progress, .on_done = on_unpacked };
	job_progress(a->job, "unpack", -1, "Unpacking the engine's archive.");
	request(a, &q, &ops);
}

static void on_fetched(void *arg, const struct fetch_result *res, enum fetch_why why, const struct err *err)
{
	struct archive *a = arg;
	(void)res;
	a->fetch = NULL;
	if (err)
		finish_failed(a, code_of(why), err->msg);
	else
		unpack(a);
}

static void fetch(struct archive *a)
{
	struct engine_job *j = a->job;
	struct fetch_file f = { .urls = j->def.urls, .to = a->file, .sha256 = j->def.sha256 };
	struct fetch_request q = { .op = FETCH_FILES, .files = &f, .nfiles = 1 };
	AUTO(mem_freep) char *where = url_redact(view_str(j->def.urls.items[0]));
	job_progress(j, "fetch", 0, "Fetching %s.", where);
	static const struct fetch_ops ops = { .on_progress = on_progress, .on_done = on_fetched };
	request(a, &q, &ops);
}

/* ---- its start -----------------------------------------------------------------------------------------
 */

static void lock(struct archive *a);

static void try_lock(void *arg)
{
	struct archive *a = arg;
	if (flock(a->lock_fd, LOCK_EX | LOCK_NB) == 0) {
		a->locked = fd_is_at(a->lock_fd, a->lock);
		if (!a->locked) {
			fd_close(a->lock_fd);
			a->lock_fd = -1;
			lock(a);
			return;
		}
		if (file_exists(a->folder)) /* who had the lock made it */
			find(a);
		else
			fetch(a);
		return;
	}
	if (errno != EWOULDBLOCK && errno != EINTR) {
		AUTO(mem_freep) char *text = mem_fmt("%s cannot be locked: %s", a->lock, strerror(errno));
		finish_failed(a, -EIO, text);
		return;
	}
	job_progress(a->job, "fetch", -1, "Waiting for another process that fetches the same engine.");
	loop_timer_start(a->job->loop, &a->retry, LOCK_RETRY_MS, try_lock, a);
}

static void lock(struct archive *a)
{
	struct engine_job *j = a->job;
	AUTO(mem_freep) char *dir = path_join(j->prefix_dir, engine_kind_name(j->def.kind));
	struct err e = { 0 };
	int r = dir_ensure_writable(dir, "state_dir", &e);
	if (!r && (a->lock_fd = open(a->lock, O_RDWR | O_CREAT | O_CLOEXEC, 0600)) < 0)
		r = err_set(&e, -errno, "%s cannot be opened: %s", a->lock, strerror(errno));
	if (r)
		finish_failed(a, r, e.msg);
	else
		try_lock(a);
}

/* A lock whose holder was killed once the folder was there. */
static void tidy(const char *file)
{
	AUTO(fd_closep) int fd = open(file, O_RDWR | O_CLOEXEC);
	if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0 && fd_is_at(fd, file))
		unlink(file);
}

char *archive_folder(const char *prefix_dir, const struct engine_def *d)
{
	return d->sha256 ? mem_fmt("%s/%s/binary-%.*s", prefix_dir, engine_kind_name(d->kind), SHORT_LEN,
				   d->sha256)
			 : NULL;
}

void archive_start(struct engine_job *j)
{
	const struct engine_row *row = engine_row(j->def.kind);
	const char *name = j->def.program ? j->def.program : row ? row->program : NULL;
	AUTO(mem_freep) char *where = url_redact(view_str(j->def.urls.items[0]));
	if (!j->def.sha256 || strlen(j->def.sha256) != SHA_LEN) {
		job_fail(j, -EINVAL,
			"the archive %s is taken by its digest alone: set engine.sha256 to the SHA-256 its "
			"publisher names, or to what `sha256sum` prints for the file you have checked",
			where);
		return;
	}
	if (!name) {
		job_fail(j, -EINVAL,
			"set engine.program: nobody knows what an engine of kind %s is called in %s",
			engine_kind_name(j->def.kind), where);
		return;
	}
	struct archive *a = NEW(struct archive);
	j->archive = a;
	job_plan_mode(j, ENGINE_MODE_BINARY, NULL);
	a->job = j;
	a->name = mem_strdup(name);
	a->file = mem_fmt("%s/archives/%s", j->cache_dir, j->def.sha256);
	a->folder = archive_folder(j->prefix_dir, &j->def);
	a->lock = mem_fmt("%s.lock", a->folder);
	a->lock_fd = -1;
	if (!file_exists(a->folder)) {
		lock(a);
		return;
	}
	tidy(a->lock);
	find(a);
}

char *archive_describe(const struct engine_def *d, const struct engine_ensure_opts *o)
{
	AUTO(mem_freep) char *where = url_redact(view_str(d->urls.items[0]));
	if (!d->sha256 || strlen(d->sha256) != SHA_LEN)
		return mem_fmt("cannot be had: %s needs engine.sha256", where);
	AUTO(mem_freep) char *folder = archive_folder(o->prefix_dir, d);
	return mem_fmt("binary: %s, %s %s", where,
		file_exists(folder) ? "unpacked in" : "to be unpacked into", folder);
}
