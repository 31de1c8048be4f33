/* SPDX-License-Identifier: Apache-2.0
 *
 * The package mode: Debian's llama.cpp, resolved, fetched and unpacked by a private apt into a prefix
 * of ours. A chain of steps, each of which starts one tool or one piece of file work and names the
 * next. Everything is made in .new-<random> and becomes package-<version> by one rename; the record is
 * written last. So a kill anywhere leaves nothing half-used, and what was downloaded stays. The steps from
 * unpacking on are in package_install.c.
 *
 * One process at a time: a flock that the tools inherit. If we are killed, an apt that is still at work
 * holds on to it, and who comes next waits for its end instead of failing on apt's own lock.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/num.h"
#include "provision/engine/package_int.h"
#include "provision/engine/source.h"

enum { LOCK_RETRY_MS = 100, APT_SILENCE_MS = 5 * 60 * 1000 };

static void package_free(struct package *p)
{
	loop_timer_stop(&p->retry);
	run_cancel(&p->run);
	fd_close(p->lock_fd);
	package_names_done(&p->names);
	buf_done(&p->carried);
	free(p->arch);
	free(p->archive);
	package_files_done(&p->files);
	package_record_done(&p->record);
	free(p->fresh);
	free(p->doing_text);
	strv_done(&p->env);
	free(p);
}

void package_cancel(struct package **pp)
{
	struct package *p = *pp;
	*pp = NULL;
	if (!p)
		return;
	p->job = NULL;
	run_cancel(&p->run);
	loop_timer_stop(&p->retry);
	if (!p->offloading)
		package_free(p);
}

void package_fail(struct package *p, const struct err *e)
{
	struct engine_job *j = p->job;
	job_fail(j, e->code, "%s", e->msg);
	package_cancel(&j->package);
}

void package_ready(struct package *p)
{
	struct engine_job *j = p->job;
	if (!package_build_of(&p->names, &p->record, j->note, &j->build)) {
		struct err e;
		err_set(&e, -ENOENT, "%s/%s was just made and is not there any more; start again",
			p->names.dir, p->record.folder);
		package_fail(p, &e);
		return;
	}
	job_progress(j, "install", 100, "llama.cpp %s is ready.", p->record.version);
	job_succeed(j);
	package_cancel(&j->package);
}

/* ---- tools and threads ----------------------------------------------------------------------- */

static void on_tool_done(void *arg, const struct run_result *r)
{
	struct package *p = arg;
	p->run = NULL;
	p->next(p, r);
}

static void on_output(void *arg, struct view line, bool ended)
{
	struct package *p = arg;
	if (ended)
		job_log(p->job, line);
}

static void on_apt_status(void *arg, struct view line)
{
	struct package *p = arg;
	int pct = apt_status_pct(line);
	if (pct < 0 || pct == p->pct) /* apt repeats itself twice a second */
		return;
	p->pct = pct;
	job_progress(p->job, p->phase, pct, "%s: %d %%.", p->doing, pct);
}

void package_tool_start(struct package *p, const struct package_tool *t)
{
	struct run_opts o = {
		.argv = t->argv,
		.env = &p->env,
		.cwd = t->cwd,
		.keep_fd = p->lock_fd,
		.silence_ms = t->silence_ms,
		.on_status = t->status ? on_apt_status : NULL,
		.on_output = on_output,
		.on_done = on_tool_done,
		.arg = p,
	};
	struct err e = { 0 };
	p->next = t->next;
	p->pct = -1;
	if (run_start(p->loop, &o, &p->run, &e) < 0)
		package_fail(p, &e);
}

/* A space-separated line without quoting: no word of ours has a space. */
static void words(struct strv *argv, const char *line)
{
	struct view rest = view_str(line);
	while (rest.p) {
		struct view w = view_split(rest, ' ', &rest);
		if (w.n)
			strv_addv(argv, w);
	}
}

static void tool_line(struct package *p, const char *line, bool status, package_step_fn *next)
{
	AUTO(strv_done) struct strv argv = { 0 };
	words(&argv, line);
	package_tool_start(p, &(struct package_tool){ .argv = &argv,
				      .cwd = "/",
				      .silence_ms = APT_SILENCE_MS,
				      .status = status,
				      .next = next });
}

static void on_thread(void *arg)
{
	struct package *p = arg;
	p->work(p);
}

static void on_thread_done(void *arg)
{
	struct package *p = arg;
	p->offloading = false;
	if (!p->job)
		package_free(p);
	else if (p->work_err.code)
		package_fail(p, &p->work_err);
	else
		p->work_done(p);
}

void package_offload(struct package *p, void (*work)(struct package *), void (*done)(struct package *))
{
	p->work = work;
	p->work_done = done;
	p->work_err = (struct err){ 0 };
	p->offloading = true;
	loop_offload(p->loop, on_thread, on_thread_done, p);
}

/* ---- 5. verify ------------------------------------------------------------------------------- */

static void step_verified(struct package *p, const struct run_result *r)
{
	if (!run_failed(r)) {
		package_unpack(p);
		return;
	}
	for (size_t i = 0; i < p->files.n; i++) { /* the next try fetches them anew */
		AUTO(mem_freep)
		char *deb = mem_fmt("%s/cache/archives/%s", p->names.apt_dir, p->files.items[i].name);
		unlink(deb);
	}
	struct err e;
	err_set(&e, -EBADMSG,
		"a fetched package does not have the signed digest: %.*s; it was removed, start again",
		VIEW_ARG(view_cut(view_trim(r->out.n ? r->out : r->tail), 250)));
	package_fail(p, &e);
}

static void step_fetched(struct package *p, const struct run_result *r)
{
	struct err e = { 0 };
	if (run_failed(r)) {
		apt_explain("Debian's llama.cpp cannot be fetched", p->archive, r, &e);
		package_fail(p, &e);
		return;
	}
	AUTO(buf_done) struct buf sums = BUF(1 * MIB);
	for (size_t i = 0; i < p->files.n; i++)
		(void)buf_addf(&sums, "%s  %s\n", p->files.items[i].sha256, p->files.items[i].name);
	AUTO(mem_freep) char *file = path_join(p->names.apt_dir, "SHA256SUMS");
	int w = file_write_atomic(file, buf_view(&sums), 0644, false);
	if (w) {
		err_set(&e, w, "%s cannot be written: %s", file, strerror(-w));
		package_fail(p, &e);
		return;
	}
	AUTO(mem_freep) char *archives = path_join(p->names.apt_dir, "cache/archives");
	AUTO(strv_done) struct strv argv = { 0 };
	words(&argv, "sha256sum --check --strict --quiet");
	strv_add(&argv, file);
	job_progress(p->job, "verify", -1, "Checking the digests of %zu packages.", p->files.n);
	package_tool_start(p, &(struct package_tool){ .argv = &argv,
				      .cwd = archives,
				      .silence_ms = PACKAGE_TOOL_SILENCE_MS,
				      .next = step_verified });
}

/* ---- 4. resolve and fetch -------------------------------------------------------------------- */

static char *packages(const struct package *p)
{
	const char *word = package_backend_word(p->names.backend);
	return *word ? mem_fmt("llama.cpp-tools libggml0-backend-%s", word) : mem_strdup("llama.cpp-tools");
}

static void looked_up(struct package *p)
{
	struct engine_job *j = p->job;
	j->build = (struct engine_build){ .kind = ENGINE_LLAMACPP, .mode = ENGINE_MODE_PACKAGE };
	j->build.version = mem_strdup(p->files.version);
	j->build.why = mem_strdup(p->files.version);
	job_answer(j);
	package_cancel(&j->package);
}

/* What the archive has is what is here: the record is taken. */
static bool is_current(struct package *p)
{
	struct engine_build b = { 0 };
	if (package_record_read(p->names.record, &p->record) < 0)
		return false;
	bool same = str_same(p->record.package, p->files.version) &&
		    package_build_of(&p->names, &p->record, NULL, &b);
	engine_build_done(&b);
	if (!same)
		package_record_done(&p->record);
	return same;
}

/* An archive has one version of a release: another that was asked for is refused before anything is fetched.
 * With or without Debian's own part: 0.7.0 is 0.7.0+dfsg-2. */
static void is_wanted(const struct package *p, struct err *e)
{
	const char *to = p->job->upgrade ? p->job->upgrade_to : NULL, *has = p->files.version;
	size_t n = to ? strlen(to) : 0;
	if (!to || (n && strncmp(has, to, n) == 0 && strchr("+-", has[n])))
		return;
	err_set(e, -ENOENT,
		"%s of the archive has llama.cpp %s alone, not \"%.80s\": name that version, or another "
		"archive "
		"or release (engine.package.archive, engine.package.suite); the build before is had by "
		"`corral engines rollback`",
		p->names.suite, has, to);
}

static void step_resolved(struct package *p, const struct run_result *r)
{
	struct err e = { 0 };
	if (run_failed(r))
		apt_explain("Debian's llama.cpp cannot be resolved", p->archive, r, &e);
	else if (package_files_parse(r->out, &p->files, &e) == 0)
		e.code = 0;
	if (!e.code)
		is_wanted(p, &e);
	if (e.code) {
		package_fail(p, &e);
		return;
	}
	if (p->job->look) {
		looked_up(p);
		return;
	}
	if (p->job->upgrade && is_current(p)) {
		package_ready(p);
		return;
	}
	uint64_t total = 0;
	char size[32];
	for (size_t i = 0; i < p->files.n; i++)
		total += p->files.items[i].size;
	num_format_bytes(total, size, sizeof size);
	p->phase = "fetch";
	free(MEM_TAKE(p->doing_text));
	p->doing_text = mem_fmt(
		"Fetching Debian's llama.cpp %s (%zu packages, %s)", p->files.version, p->files.n, size);
	p->doing = p->doing_text;
	job_progress(p->job, p->phase, 0, "%s.", p->doing);
	AUTO(mem_freep) char *names = packages(p);
	AUTO(mem_freep)
	char *line =
		mem_fmt("apt-get -q -y --no-install-recommends -o APT::Status-Fd=3 -d install %s", names);
	tool_line(p, line, true, step_fetched);
}

static void step_updated(struct package *p, const struct run_result *r)
{
	struct err e = { 0 };
	AUTO(mem_freep) char *release = release_file_find(p->names.apt_dir);
	int64_t date;
	if (run_failed(r) || !release)
		apt_explain("the list of Debian's packages cannot be fetched", p->archive, r, &e);
	else if (release_date_read(release, &date) < 0)
		err_set(&e, -EBADMSG, "the archive's %s release file has no date that is understood",
			p->names.suite);
	else if (release_date_admit(&p->names, date, &e) == 0)
		e.code = 0;
	if (e.code) {
		package_fail(p, &e);
		return;
	}
	job_progress(p->job, "resolve", 100, "Resolving Debian's llama.cpp packages.");
	/* An empty archive folder, so that packages already downloaded are named as well. */
	AUTO(mem_freep) char *names = packages(p);
	AUTO(mem_freep)
	char *line = mem_fmt("apt-get -qq -y --no-install-recommends --print-uris -o "
			     "Dir::Cache::archives=%s/none/ install %s",
		p->names.apt_dir, names);
	tool_line(p, line, false, step_resolved);
}

/* ---- 3. the private apt ---------------------------------------------------------------------- */

static void update(struct package *p)
{
	struct err e = { 0 };
	if (source_policy_archive(p->archive, &p->job->policy, &e) < 0) {
		package_fail(p, &e);
		return;
	}
	if (source_policy_bounds(&p->job->policy)) /* a redirect would lead past it */
		(void)buf_adds(&p->carried, "Acquire::http::AllowRedirect \"false\";\n"
					    "Acquire::https::AllowRedirect \"false\";\n");
	if (apt_dir_make(&p->names, p->archive, buf_view(&p->carried), p->arch, &e) < 0) {
		package_fail(p, &e);
		return;
	}
	AUTO(mem_freep) char *conf = mem_fmt("APT_CONFIG=%s/apt.conf", p->names.apt_dir);
	env_set(&p->env, conf);
	AUTO(mem_freep) char *where = url_redact(view_str(p->archive));
	p->phase = "resolve";
	free(MEM_TAKE(p->doing_text));
	p->doing_text = mem_fmt("Reading the package list of %s from %s", p->names.suite, where);
	p->doing = p->doing_text;
	job_progress(p->job, p->phase, 0, "%s.", p->doing);
	tool_line(p, "apt-get -q -o APT::Status-Fd=3 update", true, step_updated);
}

/* ---- 2. which archive ------------------------------------------------------------------------ */

/* VERSION_CODENAME where /etc/os-release says this is Debian; NULL elsewhere. */
static char *debian_codename(void)
{
	AUTO(buf_done) struct buf b = BUF(64 * KIB);
	if (file_read("/etc/os-release", &b) < 0)
		return NULL;
	struct view rest = buf_view(&b), name = { 0 };
	bool debian = false;
	while (rest.p) {
		struct view value, line = view_split(rest, '\n', &rest);
		struct view key = view_split(line, '=', &value);
		if (value.n >= 2 && value.p[0] == '"')
			value = view_of(value.p + 1, value.n - 2);
		debian |= view_eqs(key, "ID") && view_eqs(value, "debian");
		if (view_eqs(key, "VERSION_CODENAME"))
			name = value;
	}
	return debian && name.n ? mem_viewdup(name) : NULL;
}

static void no_archive(struct package *p)
{
	struct engine_job *j = p->job;
	bool plain = p->names.backend == ENGINE_CPU && !j->look && !j->upgrade;
	package_cancel(&j->package);
	if (plain)
		package_system(j, "this machine's apt names no Debian archive to unpack llama.cpp from "
				  "(engine.package.archive or CORRAL_PACKAGE_ARCHIVE names one)");
	else
		job_fail(j, -ENOENT, "this machine's apt names no Debian archive");
}

static void step_uris(struct package *p, const struct run_result *r)
{
	AUTO(mem_freep) char *codename = debian_codename();
	if (codename && !r->silent)
		p->archive = apt_archive_of_uris(r->out, codename);
	if (p->archive)
		update(p);
	else
		no_archive(p);
}

static void step_targets(struct package *p, const struct run_result *r)
{
	if (!r->silent)
		p->archive = apt_archive_of_targets(r->out);
	if (p->archive)
		update(p);
	else /* its lists were never fetched, or removed: the sources still name it */
		tool_line(p, "apt-get -qq --print-uris update", false, step_uris);
}

static void step_config(struct package *p, const struct run_result *r)
{
	struct err e = { 0 };
	if (run_failed(r) || apt_config_carry(r->out, &p->carried, &p->arch) < 0) {
		err_set(&e, -EIO, "`apt-config dump` does not tell how this machine's apt is set up: %.*s",
			VIEW_ARG(view_cut(view_trim(r->tail), 250)));
		package_fail(p, &e);
		return;
	}
	if (p->names.archive) {
		p->archive = mem_strdup(p->names.archive);
		update(p);
	} else {
		tool_line(p, "apt-get indextargets --format " APT_TARGETS_FORMAT, false, step_targets);
	}
}

/* ---- 1. the lock ----------------------------------------------------------------------------- */

static void work_clean(struct package *p)
{
	package_leftovers_remove(p->names.dir);
}

static void ask_config(struct package *p)
{
	tool_line(p, "apt-config dump", false, step_config);
}

static void try_lock(void *arg)
{
	struct package *p = arg;
	if (flock(p->lock_fd, LOCK_EX | LOCK_NB) < 0) {
		if (errno != EWOULDBLOCK && errno != EINTR) {
			struct err e;
			err_set(&e, -errno, "%s cannot be locked: %s", p->names.lock, strerror(errno));
			package_fail(p, &e);
			return;
		}
		if (!p->waited)
			job_progress(p->job, "resolve", -1,
				"Waiting for another process that is getting llama.cpp.");
		p->waited = true;
		loop_timer_start(p->loop, &p->retry, LOCK_RETRY_MS, try_lock, p);
		return;
	}
	bool anew = p->job->upgrade || p->job->look;
	if (!anew && package_record_read(p->names.record, &p->record) == 0) { /* somebody was faster */
		struct engine_build b;
		bool there = package_build_of(&p->names, &p->record, NULL, &b);
		if (there) {
			engine_build_done(&b);
			package_ready(p);
			return;
		}
		package_record_done(&p->record);
	}
	job_progress(p->job, "resolve", -1, "Looking at how this machine's apt is set up.");
	package_offload(p, work_clean, ask_config);
}

void package_start(struct engine_job *j, enum engine_backend backend)
{
	struct package *p = NEW(struct package);
	p->job = j;
	p->loop = j->loop;
	p->lock_fd = -1;
	buf_init(&p->carried, 64 * KIB);
	j->package = p;
	job_plan_mode(j, ENGINE_MODE_PACKAGE, package_backend_word(backend));
	struct err e = { 0 };
	int r = package_names_init(&p->names, &j->def, backend, j->prefix_dir, j->cache_dir, &e);
	if (!r)
		r = dir_ensure_writable(p->names.dir, "state_dir", &e);
	if (!r && (p->lock_fd = open(p->names.lock, O_RDWR | O_CREAT | O_CLOEXEC, 0600)) < 0)
		r = err_set(&e, -errno, "%s cannot be opened: %s", p->names.lock, strerror(errno));
	if (r) {
		package_fail(p, &e);
		return;
	}
	env_clean(&p->env);
	const char *system_conf = getenv("APT_CONFIG");
	if (system_conf)
		strv_addf(&p->env, "APT_CONFIG=%s", system_conf);
	env_set(&p->env, "LANG=C.UTF-8");
	env_set(&p->env, "LC_ALL=C.UTF-8");
	env_set(&p->env, "DEBIAN_FRONTEND=noninteractive");
	try_lock(p);
}
