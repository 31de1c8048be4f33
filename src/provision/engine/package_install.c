/* SPDX-License-Identifier: Apache-2.0
 *
 * The package mode's last steps, the last one first: the packages are fetched and verified.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/rnd.h"
#include "provision/engine/package_int.h"

/* ---- 8. rename and record -------------------------------------------------------------------- */

static bool same_contents(const char *a, const char *b, const char *name)
{
	AUTO(mem_freep) char *fa = path_join(a, name);
	AUTO(mem_freep) char *fb = path_join(b, name);
	AUTO(buf_done) struct buf ba = BUF(1 * MIB);
	AUTO(buf_done) struct buf bb = BUF(1 * MIB);
	return file_read(fa, &ba) == 0 && file_read(fb, &bb) == 0 && view_eq(buf_view(&ba), buf_view(&bb));
}

/* Puts the fresh tree in its place. A folder of that version that is there already is either the same
 * (then it stays, an engine may run from it) or was made of other packages (then ours gets a longer name). */
static int take_place(struct package *p)
{
	const char *word = package_backend_word(p->names.backend);
	p->record.folder = mem_fmt("package-%s%s%s", p->record.package, *word ? "-" : "", word);
	AUTO(mem_freep) char *to = path_join(p->names.dir, p->record.folder);
	if (file_exists(to) && same_contents(to, p->fresh, "SHA256SUMS")) {
		tree_remove(p->fresh);
		return 0;
	}
	if (file_exists(to)) {
		AUTO(mem_freep) char *plain = MEM_TAKE(p->record.folder);
		p->record.folder = mem_fmt("%s-%08x", plain, (unsigned)(rnd_os_u64() & 0xffffffff));
		free(to);
		to = path_join(p->names.dir, p->record.folder);
	}
	return rename(p->fresh, to) < 0 ? -errno : 0;
}

static void work_install(struct package *p)
{
	/* The tree is on the disk before the record says so: a power cut must not leave a record of empty
	 * files. */
	AUTO(fd_closep) int fd = open(p->fresh, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int r = fd < 0 || syncfs(fd) < 0 ? -errno : take_place(p);
	if (!r)
		r = package_make_current(&p->names, &p->record);
	if (r) {
		err_set(&p->work_err, r, "the unpacked llama.cpp cannot be put into %s: %s", p->names.dir,
			strerror(-r));
		return;
	}
	AUTO(mem_freep) char *archives = path_join(p->names.apt_dir, "cache/archives");
	for (size_t i = 0; i < p->files.n; i++) { /* unpacked now: 14 MB that nobody reads again */
		AUTO(mem_freep) char *deb = path_join(archives, p->files.items[i].name);
		unlink(deb);
	}
}

/* ---- 7. ask it for its version --------------------------------------------------------------- */

static void step_version(struct package *p, const struct run_result *r)
{
	AUTO(buf_done) struct buf both = BUF(RUN_OUT_MAX + RUN_TAIL_MAX + 1);
	(void)buf_addv(&both, r->out);
	(void)buf_addc(&both, '\n');
	(void)buf_addv(&both, r->tail);
	p->record.version = run_failed(r) ? NULL : version_parse(buf_view(&both));
	if (!p->record.version) {
		AUTO(mem_freep) char *sentence = NULL, *hint = NULL;
		(void)engine_log_cause(buf_view(&both), &sentence, &hint);
		struct err e;
		err_set(&e, -ENOEXEC,
			"the unpacked llama-server does not run here (%s %d)%s%s; is %s on a file system "
			"without exec? Else set "
			"engine.path",
			r->signo ? "signal" : "exit code", r->signo ? r->signo : r->exit_code,
			sentence ? ": " : "", sentence ? sentence : "", p->names.dir);
		package_fail(p, &e);
		return;
	}
	job_progress(p->job, "install", -1, "Putting llama.cpp %s in its place.", p->record.version);
	package_offload(p, work_install, package_ready);
}

static void ask_version(struct package *p)
{
	/* The build as it will be, only in the fresh folder. */
	struct package_record r = p->record;
	const char *slash = strrchr(p->fresh, '/');
	r.folder = mem_strdup(slash + 1);
	struct engine_build b = { 0 };
	bool there = package_build_of(&p->names, &r, NULL, &b);
	free(r.folder);
	AUTO(strv_done) struct strv argv = { 0 };
	if (there) {
		strv_add(&argv, b.program);
		strv_copy(&argv, &b.prefix_args);
	}
	engine_build_done(&b);
	if (!there) {
		struct err e;
		err_set(&e, -EACCES, "%s cannot be executed in %s; is the file system mounted without exec?",
			p->record.loader, p->fresh);
		package_fail(p, &e);
		return;
	}
	strv_add(&argv, "--version");
	job_progress(p->job, "probe", -1, "Asking the unpacked llama-server for its version.");
	package_tool_start(p, &(struct package_tool){
				      .argv = &argv, .cwd = "/", .silence_ms = 20000, .next = step_version });
}

/* ---- 6. unpack ------------------------------------------------------------------------------- */

static int copy_program(const char *from, const char *to)
{
	AUTO(buf_done) struct buf b = BUF(64 * MIB);
	int r = file_read(from, &b);
	return r ? r : file_write_atomic(to, buf_view(&b), 0755, false);
}

static void work_layout(struct package *p)
{
	if (package_layout_find(p->fresh, &p->record, &p->work_err) < 0)
		return;
	/* ggml looks for back ends beside /proc/self/exe, which is the loader: a copy of it lies among them,
	 * under the name that ps shall show. */
	AUTO(mem_freep) char *real = path_join(p->fresh, p->record.loader);
	char *copy = path_join(p->record.backends, "llama-server");
	AUTO(mem_freep) char *to = path_join(p->fresh, copy);
	int r = copy_program(real, to);
	if (!r && chmod(to, 0755) < 0)
		r = -errno;
	free(p->record.loader);
	p->record.loader = copy;
	AUTO(mem_freep) char *sums_from = path_join(p->names.apt_dir, "SHA256SUMS");
	AUTO(mem_freep) char *sums_to = path_join(p->fresh, "SHA256SUMS");
	AUTO(buf_done) struct buf sums = BUF(1 * MIB);
	if (!r)
		r = file_read(sums_from, &sums);
	if (!r)
		r = file_write_atomic(sums_to, buf_view(&sums), 0644, false);
	if (r)
		err_set(&p->work_err, r, "the unpacked packages in %s cannot be completed: %s", p->fresh,
			strerror(-r));
}

static void unpack_next(struct package *p);

static void step_unpacked(struct package *p, const struct run_result *r)
{
	if (run_failed(r)) {
		struct err e;
		struct view said = view_trim(r->tail);
		err_set(&e, -EIO, "the package %s cannot be unpacked into %s: %.*s",
			p->files.items[p->unpacked].name, p->fresh, VIEW_ARG(view_cut(said, 250)));
		package_fail(p, &e);
		return;
	}
	p->unpacked++;
	unpack_next(p);
}

static void unpack_next(struct package *p)
{
	if (p->unpacked == p->files.n) {
		package_offload(p, work_layout, ask_version);
		return;
	}
	AUTO(strv_done) struct strv argv = { 0 };
	strv_add(&argv, "dpkg");
	strv_add(&argv, "-x");
	strv_addf(&argv, "%s/cache/archives/%s", p->names.apt_dir, p->files.items[p->unpacked].name);
	strv_add(&argv, p->fresh);
	job_progress(p->job, "unpack", (int)(p->unpacked * 100 / p->files.n), "Unpacking package %zu of %zu.",
		p->unpacked + 1, p->files.n);
	package_tool_start(p, &(struct package_tool){ .argv = &argv,
				      .cwd = "/",
				      .silence_ms = PACKAGE_TOOL_SILENCE_MS,
				      .next = step_unpacked });
}

void package_unpack(struct package *p)
{
	p->record.package = mem_strdup(p->files.version);
	p->record.suite = mem_strdup(p->names.suite);
	p->fresh = mem_fmt("%s/.new-%016llx", p->names.dir, (unsigned long long)rnd_os_u64());
	int r = dir_make(p->fresh, 0755);
	if (r) {
		struct err e;
		err_set(&e, r, "%s cannot be made: %s", p->fresh, strerror(-r));
		package_fail(p, &e);
		return;
	}
	unpack_next(p);
}
