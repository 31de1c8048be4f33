/* SPDX-License-Identifier: Apache-2.0
 *
 * engine.mode auto for llama.cpp: one way after the other, until one gives a build that can use this
 * machine's GPUs; the last ones compute on the CPU. Why each was passed over is told with the one that was
 * taken. A way that fails is not the end while another follows; one that costs minutes and failed is left
 * alone for a while, unless somebody asks for it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/num.h"
#include "provision/engine/auto.h"
#include "provision/engine/source.h"

enum { NOTE_MAX = 240, NOTES_MAX = 1500, ASK_SILENCE_MS = 30 * 1000, N_WAYS = 11 };

/* True: begun, an answer will come. */
typedef bool auto_fn(struct engine_job *j);

void auto_note(struct engine_job *j, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	AUTO(mem_freep) char *text = mem_vfmt(fmt, ap);
	va_end(ap);
	AUTO(mem_freep) char *before = MEM_TAKE(j->note);
	if (before && (strlen(before) > NOTES_MAX || strstr(before, text)))
		j->note = MEM_TAKE(before);
	else
		j->note = mem_fmt("%s%s%.*s", before ? before : "", before ? "; " : "",
			VIEW_ARG(view_cut(view_str(text), NOTE_MAX)));
}

/* ---- what failed a while ago --------------------------------------------------------------------- */

/* Of this definition: what another one asks for may well be had. */
static char *failed_file(const struct engine_job *j, const char *name)
{
	const struct engine_def *d = &j->def;
	const char *parts[] = { d->image, d->source_repo, d->source_ref, d->package_archive, d->package_suite,
		d->package_keyring };
	AUTO(buf_done) struct buf b = BUF(256 * KIB);
	(void)buf_addf(&b, "%d", (int)d->runtime);
	for (size_t i = 0; i < ARRAY_LEN(parts); i++)
		(void)buf_addf(&b, "\n%s", parts[i] ? parts[i] : "");
	for (size_t i = 0; i < d->source_flags.len; i++)
		(void)buf_addf(&b, "\n%s", d->source_flags.items[i]);
	return mem_fmt("%s/auto-%s-%08x.failed", j->prefix_dir, name,
		(unsigned)(text_hash(buf_view(&b)) & 0xffffffff));
}

/* What passes by itself (no network, a runtime that is not up yet, a policy) has cost nothing. */
static bool passes(int code)
{
	static const int codes[] = { EACCES, EPERM, ENETDOWN, ENETUNREACH, ETIMEDOUT, ENOEXEC };
	for (size_t i = 0; i < ARRAY_LEN(codes); i++)
		if (code == -codes[i])
			return true;
	return false;
}

static void remember_failure(const struct engine_job *j, const char *name, const char *text)
{
	AUTO(mem_freep) char *file = failed_file(j, name);
	AUTO(mem_freep)
	char *line = mem_fmt("%lld %.*s\n", (long long)wall_ms(), (int)strcspn(text, "\n"), text);
	(void)!file_write_atomic(file, view_str(line), 0644, false); /* else it is tried again at once */
}

/* A build is left alone for an hour, what is fetched for five minutes. */
static int64_t rest_min(const char *name)
{
	return strcmp(name, "source") == 0 ? 60 : 5;
}

static bool failed_lately(struct engine_job *j, const char *name)
{
	AUTO(mem_freep) char *file = failed_file(j, name);
	AUTO(buf_done) struct buf b = BUF(4 * KIB);
	uint64_t at;
	if (file_read(file, &b) < 0)
		return false;
	struct view line = view_cut(buf_view(&b), view_find(buf_view(&b), '\n'));
	struct view text, stamp = view_split(line, ' ', &text);
	int64_t now = wall_ms();
	if (j->again || num_u64(stamp, &at) || (int64_t)at > now ||
		now - (int64_t)at > rest_min(name) * 60000) {
		unlink(file);
		return false;
	}
	auto_note(j,
		"%s failed %lld min ago (%.*s), and is tried again %lld min after that or by `corral engines "
		"provision`",
		name, (long long)((now - (int64_t)at) / 60000), VIEW_ARG(view_cut(text, 120)),
		(long long)rest_min(name));
	return true;
}

static enum engine_backend backend_of(const struct engine_job *j)
{
	return auto_backend(j->devices, j->ndevices);
}

/* ---- which devices a build lists ----------------------------------------------------------------- */

size_t auto_devices_parse(struct view out)
{
	struct view rest = out;
	size_t n = 0;
	bool list = false;
	while (rest.p) {
		struct view line = view_split(rest, '\n', &rest);
		if (view_starts(line, VIEW("Available devices:"))) {
			list = true;
			continue;
		}
		struct view name = view_cut(line, view_find(line, ':'));
		bool device = list && view_starts(line, VIEW("  ")) && name.n < line.n;
		if (device && view_search(line, VIEW("llvmpipe")) < 0 && view_search(name, VIEW("CPU")) < 0 &&
			view_search(name, VIEW("BLAS")) < 0 && view_search(name, VIEW("RPC")) < 0)
			n++;
	}
	return n;
}

static void listed(struct engine_job *j, size_t n)
{
	struct engine_build *b = &j->build;
	if (n) {
		if (n < j->ndevices)
			auto_note(j, "it lists %zu of %zu GPUs", n, j->ndevices);
		if (j->note) {
			AUTO(mem_freep) char *why = MEM_TAKE(b->why);
			b->why = strstr(why, j->note) ? MEM_TAKE(why) : mem_fmt("%s: %s", why, j->note);
		}
		job_answer(j);
		return;
	}
	auto_note(j, "%s lists no GPU%s",
		b->mode == ENGINE_MODE_PACKAGE ? "the distribution's package with a GPU back end"
					       : b->program,
		j->list_failed ? " (--list-devices fails)" : "");
	if (j->way == N_WAYS) { /* none follows */
		b->cpu_only = true;
		job_answer(j);
		return;
	}
	if (b->mode == ENGINE_MODE_BINARY && !j->have_spare) {
		j->have_spare = true;
		j->spare = *b;
		j->spare.cpu_only = true;
		*b = (struct engine_build){ 0 };
	}
	engine_build_done(b);
	*b = (struct engine_build){ 0 };
	auto_next(j);
}

static void on_list(void *arg, const struct run_result *r)
{
	struct engine_job *j = arg;
	j->run = NULL;
	AUTO(buf_done) struct buf both = BUF(RUN_OUT_MAX + RUN_TAIL_MAX + 1);
	(void)buf_addv(&both, r->out);
	(void)buf_addc(&both, '\n');
	(void)buf_addv(&both, r->tail);
	j->list_failed = r->exit_code || r->signo || r->silent;
	size_t n = j->list_failed ? 0 : auto_devices_parse(buf_view(&both));
	if (!j->list_failed)
		auto_list_remember(j->prefix_dir, j->ndevices, j->build.program, n);
	listed(j, n);
}

static void ask_devices(struct engine_job *j)
{
	AUTO(strv_done) struct strv argv = { 0 }, env = { 0 };
	size_t n;
	if (auto_list_known(j->prefix_dir, j->ndevices, j->build.program, &n)) {
		listed(j, n);
		return;
	}
	strv_add(&argv, j->build.program);
	for (size_t i = 0; i < j->build.prefix_args.len; i++)
		strv_add(&argv, j->build.prefix_args.items[i]);
	strv_add(&argv, "--list-devices");
	env_clean(&env);
	env_set(&env, "LANG=C.UTF-8");
	for (size_t i = 0; i < j->build.env.len; i++)
		env_set(&env, j->build.env.items[i]);
	job_progress(j, "probe", -1, "Asking %s which GPUs it can use.", j->build.program);
	struct run_opts o = { .argv = &argv,
		.env = &env,
		.cwd = j->build.cwd ? j->build.cwd : "/",
		.keep_fd = -1,
		.silence_ms = ASK_SILENCE_MS,
		.on_done = on_list,
		.arg = j };
	struct err e = { 0 };
	if (run_start(j->loop, &o, &j->run, &e) == 0)
		return;
	j->list_failed = true;
	listed(j, 0);
}

/* ---- the ways, in their order -------------------------------------------------------------------- */

static bool installed(struct engine_job *j)
{
	AUTO(mem_freep) char *program = tool_find("llama-server");
	if (program)
		job_take_program(j, program, "installed, found in PATH");
	else
		auto_note(j, "no llama-server in PATH");
	return program != NULL;
}

static struct engine_ensure_opts opts_of(const struct engine_job *j)
{
	return (struct engine_ensure_opts){ .prefix_dir = j->prefix_dir,
		.cache_dir = j->cache_dir,
		.offline = j->offline,
		.trust = j->trust,
		.devices = j->devices,
		.ndevices = j->ndevices,
		.cpu_instead = j->cpu_instead };
}

static bool made_source(struct engine_job *j)
{
	struct engine_ensure_opts o = opts_of(j);
	bool there = source_is_made(&j->def, &o);
	if (there)
		source_start(j);
	return there;
}

static bool made_package(struct engine_job *j, enum engine_backend b)
{
	struct engine_ensure_opts o = opts_of(j);
	bool there = auto_package_is_made(&j->def, &o, b, j->note, &j->build);
	if (there)
		job_succeed(j);
	return there;
}

static bool made_vulkan(struct engine_job *j)
{
	return j->ndevices && made_package(j, ENGINE_VULKAN);
}

static bool made_hip(struct engine_job *j)
{
	return backend_of(j) == ENGINE_HIP && made_package(j, ENGINE_HIP);
}

static bool made_image(struct engine_job *j)
{
	struct engine_ensure_opts o = opts_of(j);
	if (!j->ndevices || !container_is_pinned(&j->def, &o))
		return false;
	container_start(j);
	return true;
}

static bool new_source(struct engine_job *j)
{
	struct engine_ensure_opts o = opts_of(j);
	if (!j->ndevices || !source_is_possible(&j->def, &o)) {
		if (j->ndevices && backend_of(j) != ENGINE_VULKAN)
			auto_note(j, "no %s toolkit to build it with",
				engine_backend_name(j->devices[0].backend));
		return false;
	}
	if (failed_lately(j, "source"))
		return false;
	source_start(j);
	return true;
}

static bool new_container(struct engine_job *j)
{
	bool docker;
	if (!j->ndevices)
		return false;
	AUTO(mem_freep) char *program = container_runtime(j->def.runtime, &docker);
	if (!program) {
		auto_note(j, "neither podman nor docker in PATH");
		return false;
	}
	const char *lacks = auto_container_lacks(backend_of(j), docker);
	if (lacks)
		auto_note(j, "no container can use the GPU: %s", lacks);
	else if (j->offline)
		auto_note(j, "no image may be fetched (offline)");
	else if (!failed_lately(j, "container")) {
		container_start(j);
		return true;
	}
	return false;
}

static bool new_package(struct engine_job *j, enum engine_backend b, const char *name)
{
	if (j->offline || !package_possible() || failed_lately(j, name))
		return false;
	package_start(j, b);
	return true;
}

static bool new_vulkan(struct engine_job *j)
{
	if (!j->ndevices)
		return false;
	if (!auto_vulkan_driver()) {
		auto_note(j, "no Vulkan driver of a GPU is installed");
		return false;
	}
	return new_package(j, ENGINE_VULKAN, "package-vulkan");
}

static bool new_hip(struct engine_job *j)
{
	return j->ndevices && backend_of(j) == ENGINE_HIP && auto_hip_driver() &&
	       new_package(j, ENGINE_HIP, "package-hip");
}

/* The installed one that lists no GPU. */
static bool spare(struct engine_job *j)
{
	if (!j->have_spare || !j->allow_cpu)
		return false;
	j->build = j->spare;
	j->spare = (struct engine_build){ 0 };
	j->have_spare = false;
	AUTO(mem_freep) char *why = MEM_TAKE(j->build.why);
	j->build.why = mem_fmt("%s (CPU): %s", why, j->note);
	job_answer(j);
	return true;
}

static bool plain_package(struct engine_job *j)
{
	package_take(j);
	return true;
}

static const struct {
	auto_fn *begin;
	const char *name; /* it costs minutes: a failure is remembered under it; NULL: it does not */
	bool lists;       /* what it gives is asked which devices it can use */
	bool package;     /* mode: package goes it, too */
} ways[N_WAYS] = {
	{ installed, NULL, true, false },
	{ made_source, NULL, false, false },
	{ made_vulkan, NULL, true, true },
	{ made_hip, NULL, true, true },
	{ made_image, NULL, false, false },
	{ new_source, "source", false, false },
	{ new_container, "container", false, false },
	{ new_vulkan, "package-vulkan", true, true },
	{ new_hip, "package-hip", true, true },
	{ spare, NULL, false, false },
	{ plain_package, NULL, false, true },
};

static void next_now(void *arg)
{
	struct engine_job *j = arg;
	while (j->way < (size_t)N_WAYS) {
		size_t i = j->way++;
		if ((ways[i].package || j->def.mode == ENGINE_MODE_AUTO) && ways[i].begin(j))
			return;
	}
	assert(false && "the last way always answers");
}

void auto_next(struct engine_job *j)
{
	/* Never from inside a way: it has still to clear up after itself. */
	loop_defer(j->loop, &j->deferred, next_now, j);
}

bool auto_failed(struct engine_job *j, int code, const char *text)
{
	if (!j->in_auto || j->way == 0 || j->way == (size_t)N_WAYS)
		return false;
	const char *name = ways[j->way - 1].name;
	if (name && !passes(code))
		remember_failure(j, name, text);
	auto_note(j, "%s", text);
	job_progress(j, "resolve", -1, "%s. The next way is tried.", text);
	auto_next(j);
	return true;
}

bool auto_checks(struct engine_job *j)
{
	if (!j->in_auto || j->way == 0)
		return false;
	const char *name = ways[j->way - 1].name;
	if (name) {
		AUTO(mem_freep) char *file = failed_file(j, name);
		unlink(file);
	}
	/* A program is asked, wherever it comes from. */
	bool asks = ways[j->way - 1].lists || j->build.mode == ENGINE_MODE_BINARY;
	if (!asks || !j->ndevices)
		return false;
	ask_devices(j);
	return true;
}

/* An upgrade is one of what would be taken: another way is none. False: nothing of ours is. */
static bool anew(struct engine_job *j)
{
	struct engine_ensure_opts o = opts_of(j);
	struct auto_choice c;
	auto_choose(&j->def, &o, &c);
	free(c.program);
	if (c.mode == ENGINE_MODE_SOURCE)
		source_start(j);
	else if (c.mode == ENGINE_MODE_CONTAINER)
		container_start(j);
	else if (c.mode == ENGINE_MODE_PACKAGE && package_possible() && !j->offline)
		package_start(j, c.backend);
	else
		return false;
	return true;
}

void auto_start(struct engine_job *j)
{
	const char *named = j->def.mode == ENGINE_MODE_AUTO ? getenv("CORRAL_LLAMA_SERVER") : NULL;
	j->in_auto = !named || !*named;
	if (j->in_auto && (j->upgrade || j->look)) { /* which is no reason to go another way */
		j->in_auto = false;
		if (!anew(j))
			job_fail(j, j->offline ? -ENETDOWN : -ENOENT, "%s",
				j->offline ? "nothing may be fetched (offline)"
					   : "its engine is none that Corral got: there is nothing newer to "
					     "look for");
		return;
	}
	if (j->in_auto) {
		next_now(j);
		return;
	}
	AUTO(mem_freep) char *program = tool_find(named);
	if (program)
		job_take_program(j, program, "named by CORRAL_LLAMA_SERVER");
	else
		job_fail(j, -ENOENT,
			"CORRAL_LLAMA_SERVER names %s, which is no executable file; correct or unset it",
			named);
}
