/* SPDX-License-Identifier: Apache-2.0
 *
 * The container mode: podman or docker is found and asked whether it works, the image is looked for, fetched
 * where it is missing, and named by its digest from then on. A tag is pinned to the digest it had when it was
 * fetched first: the same image at every start, on every day, until somebody removes the pin. Idempotent; a
 * kill leaves what the runtime had fetched.
 */
#include <stdlib.h>
#include <yyjson.h>

#include "base/num.h"
#include "provision/engine/auto.h"
#include "provision/engine/source.h"
#include "provision/engine/table.h"

enum {
	ASK_SILENCE_MS = 60 * 1000,
	PULL_SILENCE_MS = 30 * 60 * 1000,
	DIGEST_LEN = 64,
	TAG_MAX = 128,
	PIN_MAX = 4096
};

struct container {
	struct engine_job *job;
	struct run *run;
	char *program, *wanted, *image, *pin_file;
	bool docker, pulled;
	struct strv env;
	void (*next)(struct container *c, const struct run_result *r);
};

void container_cancel(struct container **pc)
{
	struct container *c = *pc;
	*pc = NULL;
	if (!c)
		return;
	run_cancel(&c->run);
	free(c->program);
	free(c->wanted);
	free(c->image);
	free(c->pin_file);
	strv_done(&c->env);
	free(c);
}

/* ---- names of images --------------------------------------------------------------------------------- */

static bool is_digest(struct view v)
{
	if (!view_starts(v, VIEW("sha256:")) || v.n != 7 + DIGEST_LEN)
		return false;
	for (size_t i = 7; i < v.n; i++)
		if (!((v.p[i] >= '0' && v.p[i] <= '9') || (v.p[i] >= 'a' && v.p[i] <= 'f')))
			return false;
	return true;
}

const char *container_image_problem(const char *image)
{
	struct view v = view_str(image);
	size_t at = view_find(v, '@');
	if (!v.n || v.n > 512 || v.p[0] == '-')
		return "it is empty, too long or begins with -";
	for (size_t i = 0; i < v.n; i++)
		if ((unsigned char)v.p[i] <= ' ' || (unsigned char)v.p[i] >= 0x7f ||
			strchr("\"'\\,;$`", v.p[i]))
			return "it has a character that no image's name has";
	if (at < v.n && !is_digest(view_from(v, at + 1)))
		return "what stands behind @ is not sha256: and 64 hexadecimal digits";
	return NULL;
}

/* "registry/name" without tag and digest. */
static struct view repository(struct view image)
{
	image = view_cut(image, view_find(image, '@'));
	for (size_t i = image.n; i-- > 0 && image.p[i] != '/';)
		if (image.p[i] == ':')
			return view_cut(image, i);
	return image;
}

static bool is_tag(struct view v)
{
	for (size_t i = 0; i < v.n; i++) {
		char c = v.p[i];
		bool word = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
			    c == '_';
		if (!word && (i == 0 || (c != '.' && c != '-')))
			return false;
	}
	return v.n > 0 && v.n <= TAG_MAX;
}

char *container_image_to(const char *image, const char *to)
{
	struct view name = repository(view_str(image));
	if (!to)
		return mem_strdup(image);
	bool digest = is_digest(view_str(to));
	if (!digest && !is_tag(view_str(to)))
		return NULL;
	return mem_fmt("%.*s%c%s", VIEW_ARG(name), digest ? '@' : ':', to);
}

char *container_pin(const char *image, struct view digests)
{
	yyjson_doc *d = yyjson_read(digests.p, digests.n, 0);
	yyjson_val *list = yyjson_doc_get_root(d), *one;
	struct view want = repository(view_str(image));
	char *found = NULL;
	size_t i, n;
	yyjson_arr_foreach(list, i, n, one)
	{
		struct view v = view_str(yyjson_is_str(one) ? yyjson_get_str(one) : "");
		size_t at = view_find(v, '@');
		/* docker writes docker.io's names short */
		if (!found && at < v.n && is_digest(view_from(v, at + 1)) &&
			(view_ends(want, view_cut(v, at)) || view_ends(view_cut(v, at), want)))
			found = mem_fmt("%.*s@%.*s", VIEW_ARG(want), VIEW_ARG(view_from(v, at + 1)));
	}
	yyjson_doc_free(d);
	return found;
}

char *container_runtime(enum engine_runtime wish, bool *ret_docker)
{
	char *program = wish == ENGINE_RUNTIME_DOCKER ? NULL : tool_find("podman");
	*ret_docker = !program;
	return program || wish == ENGINE_RUNTIME_PODMAN ? program : tool_find("docker");
}

/* ---- steps ------------------------------------------------------------------------------------------- */

static void on_output(void *arg, struct view line, bool ended)
{
	struct container *c = arg;
	if (ended)
		job_log(c->job, line);
}

static void on_done(void *arg, const struct run_result *r)
{
	struct container *c = arg;
	c->run = NULL;
	c->next(c, r);
}

static void finish_failed(struct container *c, int code, const char *doing, const struct run_result *r)
{
	struct engine_job *j = c->job;
	struct view said = view_trim(r->tail.n ? r->tail : r->out);
	size_t from = said.n > 300 ? said.n - 300 : 0;
	job_fail(j, code, "%s %s%s%.*s", c->program, doing,
		r->silent ? " and said nothing for too long" : ": ", VIEW_ARG(view_from(said, from)));
	container_cancel(&j->container);
}

static void ask(struct container *c, const char *const *words, int64_t silence_ms,
	void (*next)(struct container *, const struct run_result *))
{
	AUTO(strv_done) struct strv argv = { 0 };
	strv_add(&argv, c->program);
	for (; *words; words++)
		strv_add(&argv, *words);
	c->next = next;
	struct run_opts o = { .argv = &argv,
		.env = &c->env,
		.cwd = "/",
		.keep_fd = -1,
		.silence_ms = silence_ms,
		.on_output = on_output,
		.on_done = on_done,
		.arg = c };
	struct err e = { 0 };
	struct engine_job *j = c->job;
	if (run_start(j->loop, &o, &c->run, &e) == 0)
		return;
	job_fail(j, e.code, "%s", e.msg);
	container_cancel(&j->container);
}

static void finish_ready(struct container *c)
{
	struct engine_job *j = c->job;
	const char *digest = strstr(c->image, "@sha256:");
	j->build = (struct engine_build){ .kind = j->def.kind, .mode = ENGINE_MODE_CONTAINER };
	j->build.program = mem_strdup(c->program);
	j->build.docker = c->docker;
	j->build.image = mem_strdup(c->image);
	j->build.version = mem_fmt("sha256:%.12s", digest + 8);
	j->build.why = mem_fmt("container: %s by %s%s%s", c->image, c->docker ? "docker" : "podman",
		j->note ? ", because " : "", j->note ? j->note : "");
	job_succeed(j);
	container_cancel(&j->container);
}

static void inspect(struct container *c);

static void step_pulled(struct container *c, const struct run_result *r)
{
	if (run_failed(r)) {
		finish_failed(c, -EIO, "cannot fetch the image", r);
		return;
	}
	c->pulled = true;
	job_progress(c->job, "verify", -1, "Checking the image %s.", c->image);
	inspect(c);
}

static int may_reach(const struct container *c, struct err *e)
{
	AUTO(mem_freep) char *host = container_registry(c->image);
	AUTO(mem_freep) char *url = mem_fmt("https://%s/", host);
	return source_policy_check(url, &c->job->policy, e);
}

static void pull(struct container *c)
{
	struct engine_job *j = c->job;
	struct err e = { 0 };
	if (j->offline) {
		job_fail(j, -ENETDOWN,
			"the image %s is not on this machine and nothing may be fetched (offline); fetch it "
			"with `%s pull %s` or allow the network",
			c->image, c->docker ? "docker" : "podman", c->image);
		container_cancel(&j->container);
		return;
	}
	if (may_reach(c, &e) < 0) {
		job_fail(j, e.code, "the image %s is not on this machine, and %s", c->image, e.msg);
		container_cancel(&j->container);
		return;
	}
	job_progress(j, "fetch", -1, "Fetching the image %s.", c->image);
	const char *words[] = { "pull", c->image, NULL };
	ask(c, words, PULL_SILENCE_MS, step_pulled);
}

char *container_pin_file(const char *prefix_dir, const char *image)
{
	return mem_fmt("%s/images/%016llx.pin", prefix_dir, (unsigned long long)text_hash(view_str(image)));
}

char *container_pin_last(const char *pin_file)
{
	return mem_fmt("%.*s.last", (int)(strlen(pin_file) - strlen(".pin")), pin_file);
}

char *container_pin_read(const char *file)
{
	AUTO(buf_done) struct buf b = BUF(PIN_MAX);
	if (file_read(file, &b) < 0)
		return NULL;
	AUTO(mem_freep) char *image = mem_viewdup(view_cut(buf_view(&b), view_find(buf_view(&b), '\n')));
	return strchr(image, '@') && !container_image_problem(image) ? MEM_TAKE(image) : NULL;
}

int container_pin_write(const char *file, const char *image)
{
	AUTO(mem_freep) char *line = mem_fmt("%s\n", image);
	return file_write_atomic(file, view_str(line), 0644, true);
}

static bool pin(struct container *c, struct view digests)
{
	struct engine_job *j = c->job;
	char *pinned = strchr(c->image, '@') ? mem_strdup(c->image) : container_pin(c->image, digests);
	AUTO(mem_freep) char *was = container_pin_read(c->pin_file);
	AUTO(mem_freep) char *last = container_pin_last(c->pin_file);
	AUTO(mem_freep) char *dir = path_join(j->prefix_dir, "images");
	struct err e = { 0 };
	int r = !pinned ? -EBADMSG : dir_ensure_writable(dir, "state_dir", &e);
	if (!r && was && strcmp(was, pinned) != 0)
		r = container_pin_write(last, was);
	if (!r)
		r = container_pin_write(c->pin_file, pinned);
	free(c->image);
	c->image = pinned;
	if (!r)
		return true;
	if (!pinned)
		job_fail(j, r,
			"%s tells no digest of the image %s, which was never fetched from a registry: name "
			"one "
			"by digest (…@sha256:…)",
			c->program, c->wanted);
	else
		job_fail(j, r, "%s cannot be written: %s", c->pin_file, e.code ? e.msg : strerror(-r));
	container_cancel(&j->container);
	return false;
}

/* Whether what was found is to be what the tag means from now on. */
static bool is_pinned_by(const struct container *c)
{
	bool digest = strchr(c->image, '@') != NULL, to = c->job->upgrade && c->job->upgrade_to;
	return !digest || (to && !strchr(c->wanted, '@'));
}

static void step_inspected(struct container *c, const struct run_result *r)
{
	if (run_failed(r) && c->pulled) {
		finish_failed(c, -EIO, "does not know the image it has just fetched", r);
	} else if (run_failed(r)) {
		pull(c);
	} else if (!is_pinned_by(c) || pin(c, r->out)) {
		finish_ready(c);
	}
}

static void inspect(struct container *c)
{
	const char *words[] = { "image", "inspect", "--format", "{{json .RepoDigests}}", c->image, NULL };
	ask(c, words, ASK_SILENCE_MS, step_inspected);
}

static void step_version(struct container *c, const struct run_result *r)
{
	if (run_failed(r))
		finish_failed(c, -ENOEXEC, "does not work for this user", r);
	else if (c->job->upgrade && !strchr(c->image, '@'))
		pull(c); /* what its tag is now */
	else
		inspect(c);
}

/* What a tag was pinned to; else what was written. */
static char *image_now(const char *wanted, const char *pin_file)
{
	char *pinned = strchr(wanted, '@') ? NULL : container_pin_read(pin_file);
	return pinned ? pinned : mem_strdup(wanted);
}

/* What was written, else the kind's own: of llama.cpp the one for the devices that are here. */
char *container_image(const struct engine_def *d, const struct engine_device *devices, size_t n)
{
	static const char *const suffix[] = { [ENGINE_CPU] = "",
		[ENGINE_CUDA] = "-cuda",
		[ENGINE_HIP] = "-rocm",
		[ENGINE_VULKAN] = "-vulkan" };
	const struct engine_row *row = engine_row(d->kind);
	if (d->image || !row || !row->image)
		return mem_strdup(d->image);
	bool by_backend = d->kind == ENGINE_LLAMACPP;
	return mem_fmt("%s%s", row->image, by_backend ? suffix[auto_backend(devices, n)] : "");
}

bool container_is_pinned(const struct engine_def *d, const struct engine_ensure_opts *o)
{
	bool docker;
	AUTO(mem_freep) char *program = container_runtime(d->runtime, &docker);
	AUTO(mem_freep) char *image = container_image(d, o->devices, o->ndevices);
	AUTO(mem_freep) char *pin = program && image ? container_pin_file(o->prefix_dir, image) : NULL;
	return pin && file_exists(pin);
}

char *container_describe(const struct engine_def *d, const struct engine_ensure_opts *o)
{
	bool docker;
	AUTO(mem_freep) char *program = container_runtime(d->runtime, &docker);
	AUTO(mem_freep) char *image = container_image(d, o->devices, o->ndevices);
	AUTO(mem_freep) char *pin = image ? container_pin_file(o->prefix_dir, image) : NULL;
	if (!image)
		return mem_strdup("cannot be had: engine.image is not set");
	if (!program)
		return mem_strdup("cannot be had: neither podman nor docker is in PATH");
	AUTO(mem_freep) char *now = image_now(image, pin);
	struct err e = { 0 };
	if (container_trusted(now, &o->trust, &e) < 0)
		return mem_fmt("cannot be had: %s", e.msg);
	return mem_fmt("container: %s by %s%s", image, docker ? "docker" : "podman",
		file_exists(pin) ? "" : ", to be fetched");
}

void container_start(struct engine_job *j)
{
	AUTO(mem_freep) char *image = container_image(&j->def, j->devices, j->ndevices);
	bool docker;
	AUTO(mem_freep) char *program = container_runtime(j->def.runtime, &docker);
	const char *problem = image ? container_image_problem(image) : NULL;
	if (!image || problem) {
		job_fail(j, -EINVAL, "engine.image %s%s%s", image ? image : "is not set",
			problem ? ": " : ": name one", problem ? problem : ", as in registry/name@sha256:…");
		return;
	}
	if (!program) {
		job_fail(j, -ENOENT,
			"engine.mode is container, and %s is in PATH; install podman (apt-get install "
			"podman, "
			"dnf install podman, pacman -S podman)",
			j->def.runtime == ENGINE_RUNTIME_PODMAN   ? "no podman"
			: j->def.runtime == ENGINE_RUNTIME_DOCKER ? "no docker"
								  : "neither podman nor docker");
		return;
	}
	struct container *c = NEW(struct container);
	j->container = c;
	job_plan_mode(j, ENGINE_MODE_CONTAINER, image);
	c->job = j;
	c->program = MEM_TAKE(program);
	c->docker = docker;
	c->wanted = mem_strdup(image);
	c->pin_file = container_pin_file(j->prefix_dir, image);
	c->image = j->upgrade ? container_image_to(image, j->upgrade_to) : image_now(image, c->pin_file);
	struct err e = { 0 };
	if (!c->image) {
		job_fail(j, -EINVAL,
			"\"%.80s\" is neither a tag of %s nor a digest (sha256: and 64 hexadecimal digits)",
			j->upgrade_to, image);
		container_cancel(&j->container);
		return;
	}
	if (container_trusted(c->image, &j->trust, &e) < 0) {
		job_fail(j, e.code, "%s", e.msg);
		container_cancel(&j->container);
		return;
	}
	container_client_env(&c->env);
	job_progress(j, "resolve", -1, "Looking for the image %s.", c->image);
	const char *words[] = { "version", NULL };
	ask(c, words, ASK_SILENCE_MS, step_version);
}

/* ---- those that outlived their keepers ----------------------------------------------------------------- */

struct engine_sweep {
	struct loop *loop;
	struct run *run;
	char *program, *prefix;
	struct strv env;
	const struct engine_sweep_ops *ops;
	void *arg;
};

void engine_sweep_cancel(struct engine_sweep **ps)
{
	struct engine_sweep *s = *ps;
	*ps = NULL;
	if (!s)
		return;
	run_cancel(&s->run);
	free(s->program);
	free(s->prefix);
	strv_done(&s->env);
	free(s);
}

static void sweep_end(struct engine_sweep *s)
{
	loop_fn *done = s->ops->done;
	void *arg = s->arg;
	engine_sweep_cancel(&s);
	done(arg);
}

static int sweep_run(struct engine_sweep *s, const struct strv *argv, run_done_fn *next, struct err *reterr)
{
	struct run_opts o = { .argv = argv,
		.env = &s->env,
		.cwd = "/",
		.keep_fd = -1,
		.silence_ms = ASK_SILENCE_MS,
		.on_done = next,
		.arg = s };
	return run_start(s->loop, &o, &s->run, reterr);
}

static void on_removed(void *arg, const struct run_result *r)
{
	(void)r; /* one that is gone meanwhile is as good */
	struct engine_sweep *s = arg;
	s->run = NULL;
	sweep_end(s);
}

/* "corral-<hash>-<replica>-<generation>" */
static bool unwanted(const struct engine_sweep *s, struct view name)
{
	uint64_t generation;
	if (!view_starts(name, view_str(s->prefix)))
		return false;
	struct view rest = view_from(name, strlen(s->prefix));
	size_t dash = rest.n;
	while (dash && rest.p[dash - 1] != '-')
		dash--;
	if (dash < 2 || num_u64(view_from(rest, dash), &generation))
		return false;
	AUTO(mem_freep) char *replica = mem_viewdup(view_cut(rest, dash - 1));
	return !s->ops->keep(s->arg, replica, generation);
}

static void on_listed(void *arg, const struct run_result *r)
{
	struct engine_sweep *s = arg;
	AUTO(strv_done) struct strv argv = { 0 };
	s->run = NULL;
	strv_add(&argv, s->program);
	strv_add(&argv, "rm");
	strv_add(&argv, "-f");
	for (struct view rest = run_failed(r) ? (struct view){ 0 } : r->out; rest.p;) {
		struct view name = view_trim(view_split(rest, '\n', &rest));
		if (name.n && unwanted(s, name))
			strv_addv(&argv, name);
	}
	if (argv.len == 3 || sweep_run(s, &argv, on_removed, NULL))
		sweep_end(s);
}

int engine_sweep_start(struct loop *l, const char *program, const char *engines_dir,
	const struct engine_sweep_ops *ops, void *arg, struct engine_sweep **ret, struct err *reterr)
{
	AUTO(mem_freep) char *label = container_label(engines_dir);
	AUTO(strv_done) struct strv argv = { 0 };
	struct engine_sweep *s = NEW(struct engine_sweep);
	s->loop = l;
	s->program = mem_strdup(program);
	s->prefix = mem_fmt("corral-%s-", strchr(label, '=') + 1);
	s->ops = ops;
	s->arg = arg;
	container_client_env(&s->env);
	strv_add(&argv, program);
	strv_add(&argv, "ps");
	strv_add(&argv, "-a");
	strv_add(&argv, "--filter");
	strv_addf(&argv, "label=%s", label);
	strv_add(&argv, "--format");
	strv_add(&argv, "{{.Names}}");
	int r = sweep_run(s, &argv, on_listed, reterr);
	if (r)
		engine_sweep_cancel(&s);
	*ret = s;
	return r;
}
