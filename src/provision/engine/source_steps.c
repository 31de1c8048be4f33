/* SPDX-License-Identifier: Apache-2.0
 *
 * The steps of a source build, each of which can be done again: sources, check, CMake, compilers, install.
 * What is done is kept in <work>/steps. Sources and objects that a power cut may have emptied are not
 * trusted: the work is thrown away when the machine was started since, and sources count as whole only with a
 * mark that was written after they were on the disk.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "provision/engine/source_int.h"

static void step_begin(struct source *s);

static enum step_kind kind_now(const struct source *s)
{
	return s->plan.items[s->step].kind;
}

/* ---- ends of a step ------------------------------------------------------------------------------ */

static void step_done(struct source *s)
{
	int e = steps_end(&s->plan, &s->store, s->step, NULL);
	if (e) {
		source_disk_failed(s, e, s->steps_file);
		return;
	}
	s->step++;
	step_begin(s);
}

static char *why_text(const struct source *s, const struct run_result *r, const char *doing)
{
	const char *line = source_output_error(&s->out);
	const char *log = s->log_fd >= 0 ? s->log : "no log, because none could be written";
	if (s->out.no_space)
		return mem_fmt("%s: the disk of %s is full; make room and start again (%s)", doing,
			s->names.dir, log);
	if (s->out.read_only)
		return mem_fmt("%s: the file system of %s is read-only (%s)", doing, s->names.dir, log);
	if (s->out.killed)
		return mem_fmt(
			"%s: a compiler was killed, most likely because memory ran out; set build.jobs "
			"lower (now %u) and start again; the output is in %s",
			doing, s->jobs, log);
	if (r->silent)
		return mem_fmt("%s: nothing was heard for too long, and it was ended; the output is in %s",
			doing, log);
	AUTO(mem_freep) char *safe = line ? url_redact(view_str(line)) : NULL;
	if (safe && strstr(safe, "returned error: 30"))
		return mem_fmt("%s: %.300s: it has moved, and where network.allow_hosts or network.deny is "
			       "set no redirect is followed; set engine.source.repo to the address it has "
			       "now; the whole output is in %s",
			doing, safe, log);
	AUTO(mem_freep)
	char *how = r->signo ? mem_fmt("signal %d", r->signo) : mem_fmt("exit code %d", r->exit_code);
	return mem_fmt("%s: %.300s; the whole output is in %s", doing, safe ? safe : how, log);
}

static void work_throw_away(struct source *s)
{
	enum step_kind k = s->step < s->plan.len ? kind_now(s) : STEP_PREFLIGHT;
	if (s->src && (k == STEP_FETCH || k == STEP_VERIFY || s->out.no_space))
		tree_remove(s->src);
	if (s->work && !s->may_keep)
		tree_remove(s->work);
	if (s->fresh)
		tree_remove(s->fresh);
}

static void thrown_away(struct source *s)
{
	/* The sentence waits where the thread cannot have touched it. */
	AUTO(mem_freep) char *text = MEM_TAKE(s->doing);
	source_fail(s, s->out.no_space ? -ENOSPC : s->out.read_only ? -EROFS : -EIO, "%s", text);
}

void source_step_failed(struct source *s, const struct run_result *r, const char *doing)
{
	AUTO(mem_freep) char *text = why_text(s, r, doing);
	bool building = s->plan.len && kind_now(s) == STEP_BUILD;
	s->may_keep = building && !s->out.no_space && !s->out.read_only;
	if (s->plan.len)
		(void)!steps_end(&s->plan, &s->store, s->step, text);
	mem_setstr(&s->doing, text);
	source_offload(s, work_throw_away, thrown_away);
}

void source_disk_failed(struct source *s, int code, const char *file)
{
	if (code != -ENOSPC || !s->plan.len) {
		source_fail(s, code, "%s cannot be written: %s", file, strerror(-code));
		return;
	}
	s->out.no_space = true;
	source_step_failed(s, &(struct run_result){ .exit_code = 0 }, "llama.cpp cannot be built");
}

static void tool(
	struct source *s, const struct strv *argv, const char *cwd, int64_t silence_ms, source_next_fn *next)
{
	source_tool(
		s, &(struct source_tool){ .argv = argv, .cwd = cwd, .silence_ms = silence_ms, .next = next });
}

void source_say(struct source *s, const char *phase, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	free(MEM_TAKE(s->doing));
	s->doing = mem_vfmt(fmt, ap);
	va_end(ap);
	s->phase = phase;
	job_progress(s->job, phase, -1, "%s.", s->doing);
}

static void log_of_step(struct source *s)
{
	AUTO(mem_freep) char *name = mem_fmt("%s-%s", s->hash, step_name(kind_now(s)));
	source_log_open(s, name);
}

/* ---- fetch --------------------------------------------------------------------------------------- */

static void git(struct source *s, const char *const *words, source_next_fn *next)
{
	source_git(s, s->src, words, next);
}

static char *mark_of(const struct source *s)
{
	return path_join(s->src, ".git/corral-whole");
}

static void work_mark(struct source *s)
{
	AUTO(mem_freep) char *mark = mark_of(s);
	AUTO(fd_closep) int fd = open(s->src, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int r = fd < 0 || syncfs(fd) < 0 ? -errno : file_write_atomic(mark, VIEW("whole\n"), 0644, true);
	if (r)
		err_set(&s->work_err, r, "%s cannot be written: %s", mark, strerror(-r));
}

static void fetch_anew(struct source *s);

/* What an interrupted git left may be in the way: once, all is begun anew. */
static void fetch_failed(struct source *s, const struct run_result *r)
{
	if (s->tree_fresh || s->out.no_space || s->out.read_only)
		source_step_failed(s, r, "the sources cannot be fetched");
	else
		fetch_anew(s);
}

static void modules_done(struct source *s, const struct run_result *failed)
{
	if (failed)
		fetch_failed(s, failed);
	else
		source_offload(s, work_mark, step_done);
}

static void on_checkout(struct source *s, const struct run_result *r)
{
	if (source_tool_failed(r))
		fetch_failed(s, r);
	else
		source_modules_fetch(s, modules_done);
}

static void on_fetched(struct source *s, const struct run_result *r)
{
	const char *const words[] = { "checkout", "--quiet", "--force", "--detach", s->commit.id, NULL };
	static const char *const all[] = { "fetch", "--progress", "--tags", "origin",
		"+refs/heads/*:refs/remotes/origin/*", NULL };
	if (source_tool_failed(r) && !s->deep && !s->out.no_space && !s->out.read_only) {
		s->deep = true; /* a server that gives no single commits: all of them */
		git(s, all, on_fetched);
	} else if (source_tool_failed(r))
		fetch_failed(s, r);
	else
		git(s, words, on_checkout);
}

static void on_remote(struct source *s, const struct run_result *r)
{
	const char *const words[] = { "fetch", "--progress", "--depth", "1", "--no-tags", "origin",
		s->commit.id, NULL };
	if (source_tool_failed(r))
		fetch_failed(s, r);
	else
		git(s, words, on_fetched);
}

static void on_init(struct source *s, const struct run_result *r)
{
	const char *const words[] = { "config", "remote.origin.url", s->spec.repo, NULL };
	if (source_tool_failed(r))
		fetch_failed(s, r);
	else
		git(s, words, on_remote);
}

/* git's own locks: no git of ours runs any more, we hold the lock they all inherited. */
static void work_tree(struct source *s)
{
	static const char *const locks[] = { "index.lock", "shallow.lock", "HEAD.lock", "config.lock" };
	if (s->tree_fresh)
		tree_remove(s->src);
	int r = dir_make(s->src, 0755);
	if (r)
		err_set(&s->work_err, r, "%s cannot be made: %s", s->src, strerror(-r));
	for (size_t i = 0; i < ARRAY_LEN(locks); i++) {
		AUTO(mem_freep) char *file = mem_fmt("%s/.git/%s", s->src, locks[i]);
		unlink(file);
	}
}

static void tree_ready(struct source *s)
{
	static const char *const words[] = { "init", "--quiet", NULL };
	git(s, words, on_init);
}

static void fetch_anew(struct source *s)
{
	s->tree_fresh = true;
	s->deep = false;
	source_output_done(&s->out);
	source_offload(s, work_tree, tree_ready);
}

static void fetch(struct source *s)
{
	AUTO(mem_freep) char *mark = mark_of(s);
	AUTO(mem_freep) char *repo = url_redact(view_str(s->spec.repo));
	if (file_exists(mark)) { /* of another build of the same commit */
		step_done(s);
		return;
	}
	source_say(s, "fetch", "Fetching %s (%.12s) of %s", s->record.ref ? s->record.ref : "commit",
		s->commit.id, repo);
	s->tree_fresh = !file_exists(s->src);
	source_offload(s, work_tree, tree_ready);
}

/* ---- verify -------------------------------------------------------------------------------------- */

static void on_modules(struct source *s, const struct run_result *r)
{
	bool whole = !source_tool_failed(r);
	for (struct view rest = r->out; whole && rest.p;) {
		struct view line = view_split(rest, '\n', &rest);
		whole = !line.n || line.p[0] == ' ';
	}
	if (whole)
		step_done(s);
	else
		source_step_failed(s, r, "the submodules are not those of that commit");
}

static void on_head(struct source *s, const struct run_result *r)
{
	static const char *const words[] = { "submodule", "status", "--recursive", NULL };
	struct view rest, id = view_split(r->out, '\n', &rest);
	if (source_tool_failed(r) || !view_eqs(id, s->commit.id))
		source_step_failed(s, r, "what was fetched is not that commit");
	else
		git(s, words, on_modules);
}

static void verify(struct source *s)
{
	static const char *const words[] = { "rev-parse", "HEAD", NULL };
	source_say(s, "verify", "Checking the sources of %.12s", s->commit.id);
	git(s, words, on_head);
}

/* ---- configure ----------------------------------------------------------------------------------- */

/* Serving engines go first: the least CPU priority, disk only when idle, the first to go without memory. */
static void politely(struct strv *argv)
{
	static const char *const tools[][4] = { { "nice", "-n", "19" }, { "ionice", "-c", "3" },
		{ "choom", "-n", "500" } };
	for (size_t i = 0; i < ARRAY_LEN(tools); i++) {
		AUTO(mem_freep) char *path = tool_find(tools[i][0]);
		if (!path)
			continue;
		strv_add(argv, path);
		strv_add(argv, tools[i][1]);
		strv_add(argv, tools[i][2]);
		if (i == 2)
			strv_add(argv, "--");
	}
}

static void on_configured(struct source *s, const struct run_result *r)
{
	if (source_tool_failed(r))
		source_step_failed(s, r, "CMake cannot set the build up");
	else
		step_done(s);
}

static void configure_words(const struct source *s, struct strv *argv)
{
	const struct preflight_facts *f = &s->facts;
	politely(argv);
	strv_add(argv, f->tools[TOOL_CMAKE].path);
	strv_add(argv, "-S");
	strv_add(argv, s->src);
	strv_add(argv, "-B");
	strv_add(argv, s->build);
	strv_add(argv, "-G");
	strv_add(argv, f->tools[TOOL_NINJA].path ? "Ninja" : "Unix Makefiles");
	for (size_t i = 0; i < s->defines.len; i++)
		strv_add(argv, s->defines.items[i]);
	/* A shallow clone cannot count its commits. */
	if (s->commit.number)
		strv_addf(argv, "-DLLAMA_BUILD_NUMBER=%llu", (unsigned long long)s->commit.number);
	strv_addf(argv, "-DLLAMA_BUILD_COMMIT=%.9s", s->commit.id);
	if (f->tools[TOOL_CCACHE].path && !f->ccache_dir) {
		strv_addf(argv, "-DCMAKE_C_COMPILER_LAUNCHER=%s", f->tools[TOOL_CCACHE].path);
		strv_addf(argv, "-DCMAKE_CXX_COMPILER_LAUNCHER=%s", f->tools[TOOL_CCACHE].path);
		if (s->choice.backend == ENGINE_CUDA)
			strv_addf(argv, "-DCMAKE_CUDA_COMPILER_LAUNCHER=%s", f->tools[TOOL_CCACHE].path);
	}
}

static void work_configure(struct source *s)
{
	tree_remove(s->build); /* a half-written cache of CMake's is not to be trusted */
	int r = dir_make(s->build, 0755);
	if (r)
		err_set(&s->work_err, r, "%s cannot be made: %s", s->build, strerror(-r));
}

static void run_cmake(struct source *s)
{
	AUTO(strv_done) struct strv argv = { 0 };
	configure_words(s, &argv);
	tool(s, &argv, s->work, SOURCE_GIT_SILENCE_MS, on_configured);
}

static void configure(struct source *s)
{
	source_say(s, "configure", "Configuring %s with %s", SOURCE_TARGET, s->choice.why);
	source_offload(s, work_configure, run_cmake);
}

/* ---- build --------------------------------------------------------------------------------------- */

static void on_built(struct source *s, const struct run_result *r)
{
	if (source_tool_failed(r)) {
		AUTO(mem_freep)
		char *doing =
			mem_fmt("%s %s does not compile", SOURCE_TARGET, s->record.ref ? s->record.ref : "");
		source_step_failed(s, r, doing);
		return;
	}
	step_done(s);
}

static void build(struct source *s)
{
	AUTO(strv_done) struct strv argv = { 0 };
	source_say(s, "build", "Building %s with %u compiler%s at a time", SOURCE_TARGET, s->jobs,
		s->jobs == 1 ? "" : "s");
	politely(&argv);
	strv_add(&argv, s->facts.tools[TOOL_CMAKE].path);
	strv_add(&argv, "--build");
	strv_add(&argv, s->build);
	strv_add(&argv, "--target");
	strv_add(&argv, SOURCE_TARGET);
	strv_add(&argv, "-j");
	strv_addf(&argv, "%u", s->jobs);
	tool(s, &argv, s->work, SOURCE_BUILD_SILENCE_MS, on_built);
}

/* ---- one after the other ------------------------------------------------------------------------- */

static void step_begin(struct source *s)
{
	static void (*const steps[STEP_KIND_COUNT])(struct source *) = { [STEP_FETCH] = fetch,
		[STEP_VERIFY] = verify,
		[STEP_CONFIGURE] = configure,
		[STEP_BUILD] = build,
		[STEP_INSTALL] = source_install };
	AUTO(mem_freep) char *mark = mark_of(s);
	bool tree = file_exists(mark);
	for (; s->step < s->plan.len; s->step++) {
		enum step_kind k = kind_now(s);
		bool known = steps_is_done(&s->plan, &s->store, s->step);
		if (steps[k] && (!known || (k == STEP_FETCH && !tree)))
			break;
	}
	if (s->step == s->plan.len) { /* not reached: install ends in source_ready */
		source_fail(s, -EIO, "the build of %s has no step left; start again", s->record.folder);
		return;
	}
	int e = steps_begin(&s->plan, &s->store, s->step);
	if (e) {
		source_disk_failed(s, e, s->steps_file);
		return;
	}
	log_of_step(s);
	steps[kind_now(s)](s);
}

static bool same_boot(const char *file, struct view now)
{
	AUTO(buf_done) struct buf was = BUF(4 * KIB);
	return file_read(file, &was) == 0 && view_eq(buf_view(&was), now);
}

/* A make that was killed may have left half an object with a good date; ninja knows what it ended. */
static bool half_made(const struct source *s)
{
	char plan[STEPS_HASH_LEN + 1];
	bool half = false;
	steps_hash(&s->plan, plan);
	for (size_t i = 0; i < s->plan.len && !s->facts.tools[TOOL_NINJA].path; i++) {
		struct steps_record r = { 0 };
		bool build_step = s->plan.items[i].kind == STEP_BUILD;
		half |= build_step && s->store.read(s->store.arg, plan, i, &r) == 0 &&
			r.state == STEPS_RUNNING;
		steps_record_done(&r);
	}
	return half;
}

static void work_prepare(struct source *s)
{
	AUTO(buf_done) struct buf boot = BUF(4 * KIB);
	AUTO(mem_freep) char *file = path_join(s->work, "boot");
	(void)!file_read("/proc/sys/kernel/random/boot_id", &boot);
	if (file_exists(s->work) && (!same_boot(file, buf_view(&boot)) || half_made(s)))
		tree_remove(s->work);
	const char *keep[] = { strrchr(s->src, '/') + 1, strrchr(s->work, '/') + 1 };
	source_leftovers_remove(s->names.dir, keep, ARRAY_LEN(keep));
	int r = dir_make(s->work, 0755);
	if (!r)
		r = file_write_atomic(file, buf_view(&boot), 0644, false);
	if (r)
		err_set(&s->work_err, r, "%s cannot be made: %s", s->work, strerror(-r));
}

static void work_current(struct source *s)
{
	int r = source_make_current(&s->names, &s->record);
	if (r)
		err_set(&s->work_err, r, "%s cannot be written: %s", s->names.pointer, strerror(-r));
}

void source_steps_run(struct source *s)
{
	AUTO(mem_freep) char *folder = path_join(s->names.dir, s->record.folder);
	AUTO(mem_freep) char *file = path_join(folder, "source.build");
	struct source_record there;
	struct engine_build b = { 0 };
	if (source_record_read(file, &there) ==
		0) { /* built before: for another pool, or before a rollback */
		bool whole =
			strcmp(there.folder, s->record.folder) == 0 && source_build_of(&s->names, &there, &b);
		engine_build_done(&b);
		source_record_done(whole ? &s->record : &there);
		if (whole) {
			s->record = there;
			source_offload(s, work_current, source_ready);
			return;
		}
	}
	source_offload(s, work_prepare, step_begin);
}
