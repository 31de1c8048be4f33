/* SPDX-License-Identifier: Apache-2.0
 *
 * The source mode's job until it is known what is to be built: the current build if it will do, else the
 * lock, preflight, and which commit. Then source_steps.c. A kill anywhere leaves nothing half-used: a build
 * gets its name by one rename, after fsync, and the record that makes it current is written last.
 *
 * One process at a time: a flock that the tools inherit, so that after a kill the next one waits until the
 * last compiler of the old one has ended.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "provision/engine/auto.h"
#include "provision/engine/source_int.h"

enum { LOCK_RETRY_MS = 100, TEXT_MAX = 380, INSTALL_SILENCE_MS = 10 * 60 * 1000 };

static void source_free(struct source *s)
{
	loop_timer_stop(&s->retry);
	run_cancel(&s->run);
	preflight_cancel(&s->preflight);
	fd_close(s->lock_fd);
	fd_close(s->log_fd);
	source_spec_done(&s->spec);
	source_names_done(&s->names);
	preflight_facts_done(&s->facts);
	preflight_report_done(&s->report);
	source_choice_done(&s->choice);
	source_commit_done(&s->commit);
	strv_done(&s->defines);
	strv_done(&s->env);
	strv_done(&s->folders);
	steps_done(&s->plan);
	source_record_done(&s->record);
	source_output_done(&s->out);
	free(s->src);
	free(s->work);
	free(s->build);
	free(s->steps_file);
	free(s->fresh);
	free(s->log);
	free(s->doing);
	free(s);
}

void source_cancel(struct source **ps)
{
	struct source *s = *ps;
	*ps = NULL;
	if (!s)
		return;
	s->job = NULL;
	run_cancel(&s->run);
	preflight_cancel(&s->preflight);
	loop_timer_stop(&s->retry);
	if (!s->offloading)
		source_free(s);
}

void source_fail(struct source *s, int code, const char *fmt, ...)
{
	struct engine_job *j = s->job;
	va_list ap;
	va_start(ap, fmt);
	AUTO(mem_freep) char *text = mem_vfmt(fmt, ap);
	va_end(ap);
	job_fail(j, code, "%s", text);
	source_cancel(&j->source);
}

void source_ready(struct source *s)
{
	struct engine_job *j = s->job;
	if (!source_build_of(&s->names, &s->record, &j->build)) {
		source_fail(s, -ENOENT, "%s/%s was just made and is not there any more; start again",
			s->names.dir, s->record.folder);
		return;
	}
	if (j->note) {
		AUTO(mem_freep) char *why = MEM_TAKE(j->build.why);
		j->build.why = mem_fmt("%s: %s", why, j->note);
	}
	job_progress(j, "install", 100, "%s %s is ready.", SOURCE_TARGET,
		s->record.version ? s->record.version : "");
	job_succeed(j);
	source_cancel(&j->source);
}

/* ---- tools, threads, logs ------------------------------------------------------------------------ */

static void on_thread(void *arg)
{
	struct source *s = arg;
	s->threaded(s);
}

static void on_thread_done(void *arg)
{
	struct source *s = arg;
	s->offloading = false;
	if (!s->job)
		source_free(s);
	else if (s->work_err.code == -ENOSPC)
		source_disk_failed(s, -ENOSPC, s->names.dir);
	else if (s->work_err.code)
		source_fail(s, s->work_err.code, "%s", s->work_err.msg);
	else
		s->thread_done(s);
}

void source_offload(
	struct source *s, void (*threaded)(struct source *s), void (*thread_done)(struct source *s))
{
	s->threaded = threaded;
	s->thread_done = thread_done;
	s->work_err = (struct err){ 0 };
	s->offloading = true;
	loop_offload(s->loop, on_thread, on_thread_done, s);
}

void source_log_open(struct source *s, const char *what)
{
	fd_close(s->log_fd);
	free(s->log);
	s->log = mem_fmt("%s/source-%s.log", s->names.logs, what);
	s->log_fd = dir_make(s->names.logs, 0755) < 0
			    ? -1
			    : open(s->log, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);
	job_step_log(s->job, s->log);
	source_output_done(&s->out);
}

static void log_line(struct source *s, struct view line)
{
	AUTO(buf_done) struct buf b = BUF(RUN_LINE_MAX + 2);
	(void)buf_addv(&b, line);
	(void)buf_addc(&b, '\n');
	if (s->log_fd >= 0)
		(void)!fd_write_all(s->log_fd, buf_str(&b), b.len); /* a full disk is told by the tool */
}

static void on_output(void *arg, struct view line, bool ended)
{
	struct source *s = arg;
	if (ended) {
		bool url = view_search(line, VIEW("://")) >= 0;
		AUTO(mem_freep) char *safe = url ? url_redact(line) : NULL;
		log_line(s, url ? view_str(safe) : line);
	}
	if (source_output_line(&s->out, line))
		job_progress(s->job, s->phase, s->out.pct, "%s: %d %%.", s->doing, s->out.pct);
}

static void on_tool_done(void *arg, const struct run_result *r)
{
	struct source *s = arg;
	s->run = NULL;
	s->next(s, r);
}

void source_tool(struct source *s, const struct source_tool *t)
{
	AUTO(buf_done) struct buf b = BUF(RUN_LINE_MAX);
	(void)buf_addc(&b, '$');
	for (size_t i = 0; i < t->argv->len; i++)
		(void)buf_addf(&b, " %s", t->argv->items[i]);
	AUTO(mem_freep) char *safe = url_redact(buf_view(&b));
	log_line(s, view_str(safe));
	struct run_opts o = {
		.argv = t->argv,
		.env = &s->env,
		.cwd = t->cwd,
		.keep_fd = s->lock_fd,
		.silence_ms = t->silence_ms,
		.on_output = on_output,
		.on_done = on_tool_done,
		.arg = s,
	};
	struct err e = { 0 };
	s->next = t->next;
	if (run_start(s->loop, &o, &s->run, &e) < 0)
		source_fail(s, e.code, "%s", e.msg);
}

bool source_tool_failed(const struct run_result *r)
{
	return r->exit_code != 0 || r->signo != 0 || r->silent;
}

/* ---- which commit -------------------------------------------------------------------------------- */

static void known_commit(struct source *s)
{
	struct source_record *r = &s->record;
	source_build_hash(&s->spec, &s->choice, &s->facts, &s->defines, s->commit.id, s->hash);
	source_plan(&s->spec, &s->choice, &s->facts, &s->defines, &s->commit, &s->plan);
	AUTO(steps_done) struct steps tree = { 0 };
	char tree_hash[STEPS_HASH_LEN + 1];
	steps_add(&tree, STEP_FETCH, s->spec.repo, "-");
	steps_add(&tree, STEP_VERIFY, s->commit.id, "-");
	steps_hash(&tree, tree_hash);
	s->src = mem_fmt("%s/.src-%s", s->names.dir, tree_hash);
	s->work = mem_fmt("%s/.work-%s", s->names.dir, s->hash);
	s->build = path_join(s->work, "build");
	s->steps_file = path_join(s->work, "steps");
	s->store = steps_store_file(s->steps_file);
	AUTO(buf_done) struct buf flags = BUF(256 * KIB);
	for (size_t i = 0; i < s->defines.len; i++)
		(void)buf_addf(&flags, "%s%s", i ? " " : "", s->defines.items[i]);
	*r = (struct source_record){
		.folder = mem_fmt("source-%s", s->hash),
		.commit = mem_strdup(s->commit.id),
		.ref = mem_strdup(s->commit.name ? s->commit.name : s->spec.ref),
		.repo = url_redact(view_str(s->spec.repo)),
		.backend = mem_strdup(engine_backend_name(s->choice.backend)),
		.archs = mem_strdup(s->choice.archs),
		.forced = s->choice.forced ? mem_strdup("yes") : NULL,
		.flags = mem_strdup(buf_str(&flags)),
		.compiler = source_compiler(&s->facts, s->choice.backend),
		.program = mem_strdup("bin/" SOURCE_TARGET),
	};
	source_steps_run(s);
}

static void looked_up(struct source *s)
{
	struct engine_job *j = s->job;
	j->build = (struct engine_build){ .kind = ENGINE_LLAMACPP, .mode = ENGINE_MODE_SOURCE };
	j->build.version = mem_strdup(s->commit.name);
	j->build.why = mem_strdup(s->commit.id);
	job_succeed(j);
	source_cancel(&j->source);
}

static void step_resolved(struct source *s, const struct run_result *r)
{
	struct err e = { 0 };
	if (source_tool_failed(r)) {
		source_step_failed(s, r, "the repository cannot be asked for its tags and branches");
		return;
	}
	if (source_ref_resolve(&s->spec, r->out, &s->commit, &e) < 0) {
		AUTO(mem_freep) char *safe = url_redact(view_str(e.msg));
		source_fail(s, e.code, "%s", safe);
		return;
	}
	if (s->job->look)
		looked_up(s);
	else
		known_commit(s);
}

static void resolve(struct source *s)
{
	AUTO(mem_freep) char *safe = url_redact(view_str(s->spec.repo));
	if (source_is_commit(s->spec.ref)) {
		snprintf(s->commit.id, sizeof s->commit.id, "%s", s->spec.ref);
		if (s->job->look)
			looked_up(s);
		else
			known_commit(s);
		return;
	}
	s->phase = "fetch";
	mem_setstr(&s->doing, "Asking for its tags and branches");
	job_progress(s->job, s->phase, -1, "Asking %s which commit %s is.", safe,
		s->spec.ref ? s->spec.ref : "the newest release");
	source_log_open(s, "resolve");
	AUTO(strv_done) struct strv argv = { 0 };
	source_git_words(s, &argv);
	strv_add(&argv, "ls-remote");
	strv_add(&argv, "--");
	strv_add(&argv, s->spec.repo);
	source_refs_ask(&s->spec, &argv);
	source_tool(s, &(struct source_tool){
			       .argv = &argv, .cwd = "/", .silence_ms = 60000, .next = step_resolved });
}

/* ---- preflight ----------------------------------------------------------------------------------- */

static void collect(struct source *s);

static void step_packages(struct source *s, const struct run_result *r)
{
	if (source_tool_failed(r))
		source_step_failed(s, r, "the missing packages cannot be installed");
	else
		collect(s);
}

static void install_packages(struct source *s)
{
	AUTO(buf_done) struct buf names = BUF(4 * KIB);
	for (size_t i = 0; i < s->report.len; i++)
		(void)buf_addf(&names, "%s%s", i ? ", " : "", s->report.items[i].what);
	s->installed = true;
	s->phase = "preflight";
	mem_setstr(&s->doing, "Installing packages");
	job_progress(s->job, s->phase, -1, "Installing what is missing: %s.", buf_str(&names));
	source_log_open(s, "packages");
	env_set(&s->env, "DEBIAN_FRONTEND=noninteractive");
	source_tool(s, &(struct source_tool){ .argv = &s->report.install,
			       .cwd = "/",
			       .silence_ms = INSTALL_SILENCE_MS,
			       .next = step_packages });
}

static bool may_install(const struct engine_job *j)
{
	return j->allow_package_installs && !j->offline && !source_policy_bounds(&j->policy);
}

static bool packages_mend_all(const struct preflight_report *r)
{
	for (size_t i = 0; i < r->len; i++)
		if (!r->items[i].packages[0])
			return false;
	return r->install.len;
}

/* All in whole sentences, or, where that would be cut off, by name. */
static void say_missing(struct source *s)
{
	struct preflight_report *r = &s->report;
	AUTO(buf_done) struct buf text = BUF(64 * KIB), names = BUF(4 * KIB);
	preflight_text(r, &text);
	for (size_t i = 0; i < r->len; i++)
		(void)buf_addf(&names, "%s%s", i ? ", " : "", r->items[i].what);
	if (text.len > TEXT_MAX) {
		buf_reset(&text);
		(void)buf_addf(&text, "missing or not fit: %s", buf_str(&names));
		for (size_t i = 0; i < r->install.len; i++)
			if (strcmp(r->install.items[i], "-n") != 0)
				(void)buf_addf(&text, "%s%s",
					i ? " " : "; to install what is missing: ", r->install.items[i]);
	}
	source_fail(s, -ENOSYS, "llama.cpp cannot be built here: %s%s", buf_str(&text),
		!r->install.len                   ? ""
		: !s->job->allow_package_installs ? " (build.allow_package_installs: true does it)"
		: source_policy_bounds(&s->job->policy)
			? " (not run by itself where network.allow_hosts or network.deny is set)"
			: "");
}

static void tell_notes(struct source *s)
{
	AUTO(buf_done) struct buf b = BUF(16 * KIB);
	for (size_t i = 0; i < s->spec.notes.len; i++)
		(void)buf_addf(&b, "%s%s", b.len ? "; " : "", s->spec.notes.items[i]);
	for (size_t i = 0; i < s->report.notes.len; i++)
		(void)buf_addf(&b, "%s%s", b.len ? "; " : "", s->report.notes.items[i]);
	if (b.len)
		auto_note(s->job, "%s", buf_str(&b));
	job_progress(s->job, "preflight", 100, "%s is built with %s.%s%s%s", SOURCE_TARGET, s->choice.why,
		b.len ? " " : "", buf_str(&b), b.len ? "." : "");
}

/* The plan as `corral engines plan` shows it, before it is known which commit it will be. */
static void record_plan(struct source *s)
{
	AUTO(strv_done) struct strv defines = { 0 };
	AUTO(steps_done) struct steps asked = { 0 };
	source_defines(&s->spec, &s->choice, &s->facts, &s->report, &defines);
	source_plan(&s->spec, &s->choice, &s->facts, &defines, NULL, &asked);
	job_plan(s->job, &asked, NULL);
	job_step_phase(s->job, "preflight", NULL);
}

static void on_facts(void *arg, struct preflight_facts *f)
{
	struct source *s = arg;
	struct engine_job *j = s->job;
	preflight_facts_done(&s->facts);
	s->facts = *f;
	preflight_report_done(&s->report);
	source_choice_done(&s->choice);
	source_choose(&s->spec, f, j->devices, j->ndevices, j->cpu_instead, &s->choice);
	if (s->choice.backend == ENGINE_CPU && !s->choice.forced && !j->allow_cpu) {
		source_fail(s, -ENODEV,
			"a GPU is required, and llama.cpp would be built for %s; set gpu: optional or name a "
			"back end in engine.source.flags",
			s->choice.why);
		return;
	}
	struct preflight_wish w = { .backend = s->choice.backend,
		.devices = j->devices,
		.ndevices = j->ndevices,
		.disk = source_disk(s->choice.backend) };
	preflight_check(&s->facts, &w, &s->report);
	record_plan(s);
	if (s->report.len && !s->installed && may_install(j) && packages_mend_all(&s->report)) {
		install_packages(s);
		return;
	}
	if (s->report.len) {
		say_missing(s);
		return;
	}
	source_defines(&s->spec, &s->choice, &s->facts, &s->report, &s->defines);
	s->jobs = preflight_jobs(&s->facts, s->choice.backend, j->build_jobs);
	tell_notes(s);
	if (s->facts.rocm_clang && s->choice.backend == ENGINE_HIP) {
		AUTO(mem_freep) char *cxx = mem_fmt("HIPCXX=%s", s->facts.rocm_clang);
		AUTO(mem_freep) char *path = mem_fmt("HIP_PATH=%s", s->facts.rocm_root);
		env_set(&s->env, cxx);
		env_set(&s->env, path);
	}
	resolve(s);
}

static void collect(struct source *s)
{
	const char *root = getenv("CORRAL_PREFLIGHT_ROOT"); /* tests: another machine's files */
	job_progress(s->job, "preflight", -1, "Looking at what this machine has for a build.");
	preflight_collect(s->loop, root ? root : "", s->names.dir, on_facts, s, &s->preflight);
}

/* ---- the lock ------------------------------------------------------------------------------------ */

static void try_lock(void *arg)
{
	struct source *s = arg;
	struct engine_job *j = s->job;
	if (flock(s->lock_fd, LOCK_EX | LOCK_NB) < 0) {
		if (errno != EWOULDBLOCK && errno != EINTR) {
			source_fail(s, -errno, "%s cannot be locked: %s", s->names.lock, strerror(errno));
			return;
		}
		if (!s->waited)
			job_progress(
				j, "preflight", -1, "Waiting for another process that builds llama.cpp.");
		s->waited = true;
		loop_timer_start(s->loop, &s->retry, LOCK_RETRY_MS, try_lock, s);
		return;
	}
	if (s->waited && !j->upgrade &&
		source_provisioned(&s->names, j->devices, j->ndevices, j->cpu_instead, &j->build)) {
		job_succeed(j); /* somebody was faster */
		source_cancel(&j->source);
		return;
	}
	collect(s);
}

static void build_env(struct source *s)
{
	static const char *const passed[] = { "SSH_AUTH_SOCK", "SSL_CERT_FILE", "SSL_CERT_DIR",
		"GIT_SSL_CAINFO", "CCACHE_DIR", "XDG_CACHE_HOME", "TMPDIR" };
	AUTO(strv_done) struct strv all = { 0 };
	env_clean(&all);
	for (size_t i = 0; i < all.len; i++)
		if (strncmp(all.items[i], "HF_", 3) != 0) /* tokens are nothing for a stranger's build */
			strv_add(&s->env, all.items[i]);
	for (size_t i = 0; i < ARRAY_LEN(passed); i++)
		if (getenv(passed[i]))
			strv_addf(&s->env, "%s=%s", passed[i], getenv(passed[i]));
	env_set(&s->env, "LANG=C.UTF-8");
	env_set(&s->env, "LC_ALL=C.UTF-8");
	env_set(&s->env, "TERM=dumb");
	env_set(&s->env, "GIT_TERMINAL_PROMPT=0");
	env_set(&s->env, "GIT_ASKPASS=true");
	env_set(&s->env, "GIT_LFS_SKIP_SMUDGE=1"); /* it asks hosts that a file of the sources names */
	struct view scheme, v = view_str(s->spec.repo);
	scheme = view_cut(v, view_find(v, ':'));
	bool plain = view_eqs(scheme, "git") || view_eqs(scheme, "http");
	AUTO(mem_freep)
	char *allow = mem_fmt("GIT_ALLOW_PROTOCOL=https:ssh%s%.*s%s", plain ? ":" : "",
		plain ? (int)scheme.n : 0, scheme.p, s->spec.local ? ":file" : "");
	env_set(&s->env, allow);
}

static int open_lock(struct source *s, struct err *e)
{
	int r = dir_ensure_writable(s->names.dir, "state_dir", e);
	if (r)
		return r;
	s->lock_fd = open(s->names.lock, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	return s->lock_fd < 0 ? err_set(e, -errno, "%s cannot be opened: %s", s->names.lock, strerror(errno))
			      : 0;
}

bool source_is_made(const struct engine_def *d, const struct engine_ensure_opts *o)
{
	struct source_spec spec;
	struct source_names n;
	struct engine_build b = { 0 };
	if (d->kind != ENGINE_LLAMACPP || source_spec_init(&spec, d, NULL) < 0)
		return false;
	source_names_init(&n, &spec, o->prefix_dir);
	bool there = source_provisioned(&n, o->devices, o->ndevices, o->cpu_instead, &b);
	engine_build_done(&b);
	source_names_done(&n);
	source_spec_done(&spec);
	return there;
}

bool source_is_possible(const struct engine_def *d, const struct engine_ensure_opts *o)
{
	const char *root = getenv("CORRAL_PREFLIGHT_ROOT");
	enum engine_backend first = o->ndevices ? o->devices[0].backend : ENGINE_CPU;
	bool own = first == ENGINE_CUDA || first == ENGINE_HIP;
	return d->kind == ENGINE_LLAMACPP && own && !o->offline &&
	       preflight_tools_here(root ? root : "", first);
}

char *source_describe(const struct engine_def *d, const struct engine_ensure_opts *o)
{
	struct source_spec spec;
	struct source_names n;
	struct engine_build b = { 0 };
	struct err e;
	if (source_spec_init(&spec, d, &e) < 0)
		return mem_fmt("cannot be had: %s", e.msg);
	source_names_init(&n, &spec, o->prefix_dir);
	AUTO(mem_freep) char *repo = url_redact(view_str(spec.repo));
	char *text =
		source_provisioned(&n, o->devices, o->ndevices, o->cpu_instead, &b) ? mem_strdup(b.why)
		: o->offline && !spec.local
			? mem_strdup("cannot be had: none is built here and nothing may be fetched (offline)")
			: mem_fmt("source: %s of %s, to be built", spec.ref ? spec.ref : "the newest release",
				  repo);
	engine_build_done(&b);
	source_names_done(&n);
	source_spec_done(&spec);
	return text;
}

/* Nothing but a question: no lock, no preflight but git. */
static void look_up(struct source *s)
{
	s->facts.tools[TOOL_GIT].path = tool_find("git");
	if (!s->facts.tools[TOOL_GIT].path || (s->job->offline && !s->spec.local)) {
		source_fail(s, -ENETDOWN,
			s->job->offline ? "nothing may be fetched (offline)" : "git is not in PATH");
		return;
	}
	struct err e;
	if (source_policy_check(s->spec.repo, &s->job->policy, &e) < 0) {
		source_fail(s, e.code, "%s", e.msg);
		return;
	}
	if (source_is_release(s->spec.ref)) /* is there a newer one? */
		free(MEM_TAKE(s->spec.ref));
	build_env(s);
	resolve(s);
}

void source_start(struct engine_job *j)
{
	struct source *s = NEW(struct source);
	struct err e = { 0 };
	s->job = j;
	s->loop = j->loop;
	s->lock_fd = s->log_fd = -1;
	s->out.pct = -1;
	j->source = s;
	if (source_spec_init(&s->spec, &j->def, &e) < 0) {
		source_fail(s, e.code, "%s", e.msg);
		return;
	}
	source_names_init(&s->names, &s->spec, j->prefix_dir);
	if (j->look) {
		look_up(s);
		return;
	}
	if (j->upgrade && j->upgrade_to && source_spec_ref(&s->spec, j->upgrade_to, &e) < 0) {
		source_fail(s, e.code, "%s", e.msg);
		return;
	}
	if (!j->upgrade &&
		source_provisioned(&s->names, j->devices, j->ndevices, j->cpu_instead, &j->build)) {
		job_succeed(j);
		source_cancel(&j->source);
		return;
	}
	if (j->offline && !s->spec.local) {
		source_fail(s, -ENETDOWN,
			"no llama-server is built here yet and nothing may be fetched (offline); allow it, "
			"or set "
			"engine.source.repo to a repository on this machine");
		return;
	}
	if (source_policy_check(s->spec.repo, &j->policy, &e) < 0 || open_lock(s, &e) < 0) {
		source_fail(s, e.code, "%s", e.msg);
		return;
	}
	build_env(s);
	try_lock(s);
}
