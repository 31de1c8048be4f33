/* SPDX-License-Identifier: Apache-2.0
 *
 * The last step of a source build: the program is copied beside, run for its version, and gets its place by
 * one rename after all of it is on the disk; the record that makes it current comes last.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "provision/engine/source_int.h"

enum { VERSION_SILENCE_MS = 20000, COPY_CHUNK = 1024 * 1024 };

static int copy_file(const char *from, const char *to)
{
	AUTO(fd_closep) int in = open(from, O_RDONLY | O_CLOEXEC);
	AUTO(fd_closep) int out = in < 0 ? -1 : open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0755);
	if (out < 0)
		return -errno;
	AUTO(mem_freep) char *chunk = mem_alloc(COPY_CHUNK);
	for (;;) {
		ssize_t n = read(in, chunk, COPY_CHUNK);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : fchmod(out, 0755) < 0 ? -errno : 0;
		int r = fd_write_all(out, chunk, (size_t)n);
		if (r)
			return r;
	}
}

static int copy_one(const char *from_dir, const char *to_dir, const char *name)
{
	AUTO(mem_freep) char *from = path_join(from_dir, name);
	AUTO(mem_freep) char *to = path_join(to_dir, name);
	struct stat st;
	if (lstat(from, &st) < 0)
		return -errno;
	if (S_ISREG(st.st_mode))
		return copy_file(from, to);
	char target[256];
	ssize_t n = S_ISLNK(st.st_mode) ? readlink(from, target, sizeof target - 1) : -1;
	if (n <= 0)
		return 0;
	target[n] = '\0';
	return strchr(target, '/') ? 0 : symlink(target, to) < 0 ? -errno : 0; /* libx.so → libx.so.1 */
}

/* The program, and the libraries that lie beside it where a flag asked for shared ones. */
static int copy_bin(const char *from, const char *to)
{
	DIR *d = opendir(from);
	int r = d ? 0 : -errno;
	bool found = false;
	for (struct dirent *e; !r && d && (e = readdir(d));) {
		bool program = strcmp(e->d_name, SOURCE_TARGET) == 0;
		found |= program;
		if (program || strstr(e->d_name, ".so"))
			r = copy_one(from, to, e->d_name);
	}
	if (d)
		closedir(d);
	return r ? r : found ? 0 : -ENOENT;
}

static void work_copy(struct source *s)
{
	AUTO(mem_freep) char *from = path_join(s->build, "bin");
	AUTO(mem_freep) char *to = path_join(s->fresh, "bin");
	tree_remove(s->fresh);
	int r = dir_make(to, 0755);
	if (!r)
		r = copy_bin(from, to);
	if (!r)
		return;
	tree_remove(s->fresh);
	if (r == -ENOSPC)
		tree_remove(s->work);
	if (r == -ENOENT)
		err_set(&s->work_err, r,
			"the build ended well, and %s/%s is not there: has this repository a "
			"target of that name?",
			from, SOURCE_TARGET);
	else
		err_set(&s->work_err, r, "%s cannot be put into %s: %s", SOURCE_TARGET, s->names.dir,
			strerror(-r));
}

static void stamp(struct source *s)
{
	time_t now = time(NULL);
	struct tm tm;
	char text[32] = "";
	gmtime_r(&now, &tm);
	strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &tm);
	mem_setstr(&s->record.created, text);
}

static int take_place(struct source *s)
{
	AUTO(mem_freep) char *to = path_join(s->names.dir, s->record.folder);
	AUTO(mem_freep) char *file = path_join(s->fresh, "source.build");
	AUTO(fd_closep) int fd = open(s->fresh, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	AUTO(fd_closep) int dir = open(s->names.dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int r = fd < 0 || dir < 0 ? -errno : source_record_write(file, &s->record);
	if (!r && syncfs(fd) < 0)
		r = -errno;
	if (!r)
		tree_remove(to); /* one whose program is gone; a whole one would have been taken */
	if (!r && (rename(s->fresh, to) < 0 || fsync(dir) < 0))
		r = -errno;
	return r;
}

static void work_install(struct source *s)
{
	int r = take_place(s);
	if (!r)
		r = source_make_current(&s->names, &s->record);
	if (r) {
		tree_remove(s->fresh);
		err_set(&s->work_err, r, "%s cannot be put into %s: %s", SOURCE_TARGET, s->names.dir,
			strerror(-r));
		return;
	}
	tree_remove(s->work);
	const char *keep[] = { strrchr(s->src, '/') + 1 };
	source_leftovers_remove(s->names.dir, keep, ARRAY_LEN(keep));
}

static void on_version(struct source *s, const struct run_result *r)
{
	AUTO(buf_done) struct buf both = BUF(RUN_OUT_MAX + RUN_TAIL_MAX + 1);
	(void)buf_addv(&both, r->out);
	(void)buf_addc(&both, '\n');
	(void)buf_addv(&both, r->tail);
	if (source_tool_failed(r)) {
		AUTO(mem_freep) char *sentence = NULL, *hint = NULL;
		(void)engine_log_cause(buf_view(&both), &sentence, &hint);
		AUTO(mem_freep)
		char *doing = mem_fmt("the %s that was built does not run here%s%s", SOURCE_TARGET,
			sentence ? ": " : "", sentence ? sentence : "");
		source_step_failed(s, r, doing);
		return;
	}
	free(s->record.version);
	s->record.version = version_parse(buf_view(&both));
	if (!s->record.version)
		s->record.version = mem_strdup(s->commit.name);
	stamp(s);
	source_say(s, "install", "Putting %s %s in its place", SOURCE_TARGET,
		s->record.version ? s->record.version : s->commit.id);
	source_offload(s, work_install, source_ready);
}

static void ask_version(struct source *s)
{
	AUTO(strv_done) struct strv argv = { 0 };
	strv_addf(&argv, "%s/bin/%s", s->fresh, SOURCE_TARGET);
	strv_add(&argv, "--version");
	source_tool(
		s, &(struct source_tool){
			   .argv = &argv, .cwd = "/", .silence_ms = VERSION_SILENCE_MS, .next = on_version });
}

void source_install(struct source *s)
{
	source_say(s, "install", "Asking the %s that was built for its version", SOURCE_TARGET);
	free(s->fresh);
	s->fresh = mem_fmt("%s/.built-%s", s->names.dir, s->hash);
	source_offload(s, work_copy, ask_version);
}
