/* SPDX-License-Identifier: Apache-2.0
 *
 * engine_ensure: which way a definition goes, and the answer. Every way ends in job_succeed or
 * job_fail, once; progress and answer reach the caller at the end of a round, so that the caller may
 * cancel from inside either and nothing of this folder is on the stack.
 */
#include <stdlib.h>

#include "net/addr.h"
#include "provision/engine/auto.h"
#include "provision/engine/source.h"
#include "provision/engine/table.h"

static void job_free(void *arg)
{
	struct engine_job *j = arg;
	loop_defer_cancel(&j->deferred);
	loop_defer_cancel(&j->progress_due);
	run_cancel(&j->run);
	package_cancel(&j->package);
	source_cancel(&j->source);
	container_cancel(&j->container);
	archive_cancel(&j->archive);
	job_steps_done(&j->steps);
	strv_done(&j->policy.allow_hosts);
	strv_done(&j->policy.deny);
	strv_done(&j->registries);
	free(j->fetch_program);
	engine_def_done(&j->def);
	engine_build_done(&j->build);
	free(j->prefix_dir);
	free(j->cache_dir);
	free(j->probe_file);
	free(j->candidate);
	free(j->devices);
	free(j->upgrade_to);
	free(j->note);
	free(j->doing);
	engine_build_done(&j->spare);
	free(j->text);
	free(j);
}

void engine_job_cancel(struct engine_job **pj)
{
	struct engine_job *j = *pj;
	*pj = NULL;
	if (j && !j->in_done)
		job_free(j);
}

enum { ETA_PCT = 5 }; /* so much of a phase must have been seen */

static int64_t eta_ms(const struct engine_job *j)
{
	int seen = j->pct - j->phase_pct;
	if (j->pct < 0 || j->phase_pct < 0 || seen < ETA_PCT)
		return -1;
	return mono_ms_between(j->phase_began, loop_now(j->loop)) * (100 - j->pct) / seen;
}

static void deliver_progress(void *arg)
{
	struct engine_job *j = arg;
	AUTO(mem_freep) char *text = MEM_TAKE(j->text);
	struct engine_progress p = { .phase = j->phase,
		.pct = j->pct,
		.text = text,
		.bytes = j->bytes,
		.total = j->total,
		.eta_ms = eta_ms(j) };
	if (j->steps.at < j->steps.plan.len) {
		p.step = (unsigned)j->steps.at + 1;
		p.steps = (unsigned)j->steps.plan.len;
	}
	if (j->on_progress)
		j->on_progress(j->arg, &p);
}

void job_progress(struct engine_job *j, const char *phase, int pct, const char *fmt, ...)
{
	free(j->text);
	va_list ap;
	va_start(ap, fmt);
	j->text = mem_vfmt(fmt, ap);
	va_end(ap);
	if (pct < 0 || !j->phase || strcmp(j->phase, phase) != 0 || pct < j->pct || j->phase_pct < 0) {
		j->phase_began = loop_now(j->loop);
		j->phase_pct = pct;
	}
	j->phase = phase;
	j->pct = pct;
	j->bytes = j->total = 0;
	job_step_phase(j, phase, j->text);
	loop_defer(j->loop, &j->progress_due, deliver_progress, j);
}

void job_bytes(struct engine_job *j, uint64_t bytes, uint64_t total)
{
	j->bytes = bytes;
	j->total = total;
}

static void deliver_answer(void *arg)
{
	struct engine_job *j = arg;
	j->in_done = true;
	if (j->on_done)
		j->on_done(j->arg, j->err.code ? NULL : &j->build, j->err.code ? &j->err : NULL);
	job_free(j);
}

static void answer(struct engine_job *j)
{
	assert(!j->answered);
	j->answered = true;
	loop_defer(j->loop, &j->deferred, deliver_answer, j);
}

void job_answer(struct engine_job *j)
{
	job_steps_end(j, NULL);
	answer(j);
}

void job_succeed(struct engine_job *j)
{
	if (!auto_checks(j))
		job_answer(j);
}

int job_fail(struct engine_job *j, int code, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	AUTO(mem_freep) char *text = mem_vfmt(fmt, ap);
	va_end(ap);
	job_steps_end(j, text);
	if (auto_failed(j, code, text))
		return code;
	bool told = !j->note || strstr(text, j->note);
	/* What decided comes first: a message has an end. */
	err_set(&j->err, code, "%s%s%s", text, told ? "" : "; before that: ", told ? "" : j->note);
	answer(j);
	return code;
}

/* ---- external -------------------------------------------------------------------------------- */

static int url_check(const char *url, struct err *reterr)
{
	struct net_addr a;
	struct view v = view_str(url);
	size_t scheme = view_starts(v, VIEW("http://")) ? 7 : view_starts(v, VIEW("https://")) ? 8 : 0;
	if (!scheme && !view_starts(v, VIEW("unix:")))
		return err_set(reterr, -EINVAL,
			"the engine address \"%s\" is not one: http://HOST:PORT, https://HOST:PORT or "
			"unix:/PATH "
			"is accepted",
			url);
	if (scheme) /* a path after the host is the caller's affair */
		v.n = scheme + view_find(view_from(v, scheme), '/');
	int r = net_addr_parse(v, &a, reterr);
	return r < 0 ? err_prefix(reterr, "the engine address %s", url) : 0;
}

static void start_external(struct engine_job *j)
{
	if (j->def.urls.len == 0) {
		job_fail(j, -EINVAL,
			"engine.mode is external, but no address is given: set engine.url: http://HOST:PORT");
		return;
	}
	for (size_t i = 0; i < j->def.urls.len; i++) {
		struct err e = { 0 };
		int r = url_check(j->def.urls.items[i], &e);
		if (r < 0) {
			job_fail(j, r, "%s", e.msg);
			return;
		}
	}
	AUTO(mem_freep) char *first = url_redact(view_str(j->def.urls.items[0]));
	j->build =
		(struct engine_build){ .kind = j->def.kind, .mode = ENGINE_MODE_EXTERNAL, .external = true };
	j->build.why = j->def.urls.len == 1
			       ? mem_fmt("external: the server at %s, which somebody else runs", first)
			       : mem_fmt("external: %zu servers, %s first, which somebody else runs",
					 j->def.urls.len, first);
	job_succeed(j);
}

/* ---- a program that is there ----------------------------------------------------------------- */

static void set_program(struct engine_job *j, const char *program, enum engine_mode mode, const char *how,
	const char *version)
{
	bool known = version && strcmp(version, "?") != 0;
	j->build = (struct engine_build){ .kind = j->def.kind, .mode = mode };
	j->build.program = mem_strdup(program);
	j->build.version = known ? mem_strdup(version) : NULL;
	j->build.why = mem_fmt("%s: %s%s%s, %s", engine_mode_name(mode), program, known ? " " : "",
		known ? version : "", how);
}

static void start_command(struct engine_job *j)
{
	if (j->def.command.len == 0) {
		job_fail(j, -EINVAL,
			"engine.kind is command, but engine.command is empty: give the program and its "
			"arguments");
		return;
	}
	AUTO(mem_freep) char *program = tool_find(j->def.command.items[0]);
	if (!program) {
		job_fail(j, -ENOENT,
			"the program %s of engine.command is not %s; install it or give its full path",
			j->def.command.items[0],
			strchr(j->def.command.items[0], '/') ? "an executable file" : "in PATH");
		return;
	}
	set_program(j, program, ENGINE_MODE_BINARY, "named by engine.command", NULL);
	j->build.mode = j->def.mode;
	job_succeed(j);
}

static void on_version(void *arg, const struct run_result *r)
{
	struct engine_job *j = arg;
	j->run = NULL;
	AUTO(buf_done) struct buf both = BUF(2 * RUN_OUT_MAX);
	(void)buf_addv(&both, r->out);
	(void)buf_addc(&both, '\n');
	(void)buf_addv(&both, r->tail);
	if (r->exit_code == 0 && r->signo == 0) {
		AUTO(mem_freep) char *version = version_parse(buf_view(&both));
		probe_remember(j->probe_file, j->candidate, version ? version : "?");
		set_program(j, j->candidate, ENGINE_MODE_BINARY, j->candidate_how, version);
		free(MEM_TAKE(j->candidate));
		job_succeed(j);
		return;
	}
	AUTO(mem_freep) char *sentence = NULL, *hint = NULL;
	(void)engine_log_cause(buf_view(&both), &sentence, &hint);
	AUTO(mem_freep) char *program = MEM_TAKE(j->candidate);
	AUTO(mem_freep)
	char *how_it_ended = r->silent  ? mem_strdup("said nothing for 20 s and was ended")
			     : r->signo ? mem_fmt("was ended by signal %d", r->signo)
					: mem_fmt("ended with exit code %d", r->exit_code);
	AUTO(mem_freep)
	char *note = mem_fmt("%s does not run here: `--version` %s%s%s", program, how_it_ended,
		sentence ? ": " : "", sentence ? sentence : "");
	job_fail(j, -ENOEXEC, "%s%s%s", note, hint ? "; " : "", hint ? hint : "");
}

void job_take_program(struct engine_job *j, const char *program, const char *how)
{
	AUTO(mem_freep) char *known = probe_cached(j->probe_file, program);
	if (known) {
		set_program(j, program, ENGINE_MODE_BINARY, how, known);
		job_succeed(j);
		return;
	}
	if (!j->def.urls.len)
		job_plan_mode(j, ENGINE_MODE_BINARY, program);
	j->candidate = mem_strdup(program);
	j->candidate_how = how;
	job_progress(j, "probe", -1, "Asking %s for its version.", program);
	AUTO(strv_done) struct strv argv = { 0 }, env = { 0 };
	strv_add(&argv, program);
	strv_add(&argv, "--version");
	env_clean(&env);
	env_set(&env, "LANG=C.UTF-8");
	struct run_opts o = { .argv = &argv,
		.env = &env,
		.cwd = "/",
		.keep_fd = -1,
		.silence_ms = 20000,
		.on_done = on_version,
		.arg = j };
	struct err e = { 0 };
	int r = run_start(j->loop, &o, &j->run, &e);
	if (r == 0)
		return;
	free(MEM_TAKE(j->candidate));
	job_fail(j, r, "%s", e.msg);
}

/* A program of the table that is no llama.cpp: it takes many seconds to say its version, and says it over
 * HTTP once it is ready. */
static void take_row_program(struct engine_job *j, const char *name, const char *how)
{
	AUTO(mem_freep) char *program = tool_find(name);
	if (!program) {
		job_fail(j, -ENOENT,
			"the program %s of an engine of kind %s is not %s; install it, name it by "
			"engine.path, "
			"or set engine.mode: external and engine.url",
			name, engine_kind_name(j->def.kind),
			strchr(name, '/') ? "an executable file" : "in PATH");
		return;
	}
	set_program(j, program, ENGINE_MODE_BINARY, how, NULL);
	job_succeed(j);
}

static void start_row(struct engine_job *j)
{
	const struct engine_row *row = engine_row(j->def.kind);
	if (j->def.path)
		take_row_program(j, j->def.path, "named by engine.path");
	else if (!row->program)
		job_fail(j, -EINVAL,
			"an engine of kind %s is not started by itself: set engine.url of the server that "
			"runs "
			"already, or engine.path of the program to start and its arguments with {port}",
			engine_kind_name(j->def.kind));
	else if (j->def.mode == ENGINE_MODE_BINARY)
		job_fail(j, -EINVAL,
			"engine.mode is binary, but engine.path is not set: give the path of the program");
	else
		take_row_program(j, row->program, "installed, found in PATH");
}

static void start_binary(struct engine_job *j)
{
	if (!j->def.path) {
		job_fail(j, -EINVAL,
			"engine.mode is binary, but neither engine.path nor engine.url is set: give the path "
			"of "
			"the program, or the address of an archive and its sha256");
		return;
	}
	AUTO(mem_freep) char *program = tool_find(j->def.path);
	if (!program)
		job_fail(j, file_exists(j->def.path) ? -EACCES : -ENOENT, "engine.path %s %s", j->def.path,
			file_exists(j->def.path)
				? "is not an executable file; `chmod +x` it or name another one"
				: "does not exist; give the path of an engine program");
	else
		job_take_program(j, program, "named by engine.path");
}

/* ---- which way ---------------------------------------------------------------------------------- */

static bool in_container(const struct engine_def *d)
{
	return d->mode == ENGINE_MODE_CONTAINER && d->kind != ENGINE_COMMAND;
}

/* Whether something is kept in the prefix for it. */
static bool keeps(const struct engine_def *d)
{
	return d->mode != ENGINE_MODE_EXTERNAL &&
	       (d->kind == ENGINE_LLAMACPP || in_container(d) || (d->urls.len && d->kind != ENGINE_COMMAND));
}

static void start(struct engine_job *j)
{
	const struct engine_def *d = &j->def;
	if (d->mode == ENGINE_MODE_EXTERNAL)
		start_external(j);
	else if (in_container(d))
		container_start(j);
	else if (d->kind == ENGINE_COMMAND)
		start_command(j);
	else if (d->kind != ENGINE_LLAMACPP && d->mode == ENGINE_MODE_PACKAGE)
		job_fail(j, -EINVAL, "engine.mode package gets llama.cpp alone; engine.kind is %s",
			engine_kind_name(d->kind));
	else if (d->mode == ENGINE_MODE_BINARY && d->urls.len && !d->path)
		archive_start(j);
	else if (d->kind != ENGINE_LLAMACPP)
		start_row(j);
	else if (d->mode == ENGINE_MODE_BINARY)
		start_binary(j);
	else if (d->mode == ENGINE_MODE_SOURCE)
		source_start(j);
	else
		auto_start(j); /* package: those of its ways that are packages */
}

static void take_policy(struct engine_job *j, const struct engine_ensure_opts *o)
{
	j->offline = o->offline || (o->policy && o->policy->offline);
	if (o->policy) {
		j->policy.plain_http = o->policy->plain_http;
		strv_copy(&j->policy.allow_hosts, &o->policy->allow_hosts);
		strv_copy(&j->policy.deny, &o->policy->deny);
	}
	j->policy.offline = j->offline;
	j->trust = o->trust;
	if (o->trust.registries)
		strv_copy(&j->registries, o->trust.registries);
	j->trust.registries = &j->registries;
	j->fetch_program = mem_strdup(o->fetch_program);
}

struct engine_job *engine_ensure(struct loop *l, const struct engine_def *def,
	const struct engine_ensure_opts *o, engine_progress_fn *on_progress, engine_done_fn *on_done,
	void *arg)
{
	struct engine_job *j = NEW(struct engine_job);
	j->loop = l;
	j->steps.log_fd = -1;
	if (o->records)
		j->steps.store = *o->records;
	engine_def_copy(&j->def, def);
	j->prefix_dir = mem_strdup(o->prefix_dir);
	j->cache_dir = mem_strdup(o->cache_dir ? o->cache_dir : o->prefix_dir);
	assert(j->prefix_dir[0] == '/' && j->cache_dir[0] == '/'); /* tools of ours run in other folders */
	j->probe_file = path_join(o->prefix_dir, "versions");
	j->allow_cpu = o->allow_cpu;
	j->ndevices = o->ndevices;
	j->devices = mem_alloc((o->ndevices + 1) * sizeof *j->devices);
	if (o->ndevices)
		memcpy(j->devices, o->devices, o->ndevices * sizeof *j->devices);
	j->cpu_instead = o->cpu_instead;
	j->build_jobs = o->build_jobs;
	j->allow_package_installs = o->allow_package_installs;
	j->upgrade = o->upgrade;
	j->upgrade_to = mem_strdup(o->upgrade_to);
	j->look = o->look;
	j->again = o->again;
	take_policy(j, o);
	j->on_progress = on_progress;
	j->on_done = on_done;
	j->arg = arg;
	struct err e = { 0 };
	if (!keeps(def) || file_exists(o->prefix_dir) ||
		dir_ensure_writable(o->prefix_dir, "state_dir", &e) == 0)
		start(j);
	else
		job_fail(j, e.code, "%s", e.msg);
	return j;
}

/* ---- what would be done ---------------------------------------------------------------------- */

static char *describe_program(
	const struct engine_def *d, const struct engine_ensure_opts *o, const char *name)
{
	AUTO(mem_freep) char *program = name && *name ? tool_find(name) : NULL;
	if (!program)
		return mem_fmt("cannot be had: %s is not an executable file",
			name && *name ? name : "the program (none is named)");
	AUTO(mem_freep) char *file = path_join(o->prefix_dir, "versions");
	AUTO(mem_freep) char *version = d->kind == ENGINE_LLAMACPP ? probe_cached(file, program) : NULL;
	const char *base = strrchr(program, '/');
	return mem_fmt("%s%s%s at %s", base ? base + 1 : program, version && *version != '?' ? " " : "",
		version && *version != '?' ? version : "", program);
}

static char *describe_auto(const struct engine_def *d, const struct engine_ensure_opts *o)
{
	struct auto_choice c;
	auto_choose(d, o, &c);
	AUTO(mem_freep) char *program = c.program;
	if (c.mode == ENGINE_MODE_SOURCE)
		return source_describe(d, o);
	if (c.mode == ENGINE_MODE_CONTAINER)
		return container_describe(d, o);
	if (c.mode == ENGINE_MODE_PACKAGE)
		return package_describe(d, c.backend, o);
	return c.lists_none ? mem_fmt("llama-server at %s (CPU: it lists no GPU)", program)
			    : describe_program(d, o, program);
}

char *engine_describe(const struct engine_def *d, const struct engine_ensure_opts *o)
{
	if (d->mode == ENGINE_MODE_EXTERNAL)
		return d->urls.len ? url_redact(view_str(d->urls.items[0]))
				   : mem_strdup("external, without an address");
	if (d->kind == ENGINE_COMMAND)
		return describe_program(d, o, d->command.len ? d->command.items[0] : "");
	if (in_container(d))
		return container_describe(d, o);
	if (d->mode == ENGINE_MODE_BINARY && d->urls.len && !d->path)
		return archive_describe(d, o);
	if (d->kind != ENGINE_LLAMACPP)
		return describe_program(d, o, d->path ? d->path : engine_row(d->kind)->program);
	if (d->mode == ENGINE_MODE_SOURCE)
		return source_describe(d, o);
	return d->mode == ENGINE_MODE_BINARY ? describe_program(d, o, d->path) : describe_auto(d, o);
}
