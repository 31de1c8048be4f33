/* SPDX-License-Identifier: Apache-2.0
 *
 * Finding out what this machine has for a build: files looked at first, then each tool asked for its version.
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/num.h"
#include "provision/engine/engine_int.h"
#include "provision/engine/preflight.h"

enum { SILENCE_MS = 20000, TEXT_MAX = 1024 * 1024, ASK_ARCHS = TOOL_COUNT, ASK_END };

struct preflight {
	struct loop *loop;
	char *root;
	struct preflight_facts facts;
	struct strv env;
	struct run *run;
	int asking; /* a tool, or ASK_ARCHS */
	struct loop_work ready;
	preflight_done_fn *done;
	void *arg;
	struct preflight **self; /* where the owner keeps us */
};

/* ---- reading what is said ------------------------------------------------------------------------ */

static bool digit(char c)
{
	return c >= '0' && c <= '9';
}

/* The first word that begins with a digit, outside of ( ), maybe after a 'v'. */
static struct view version_in(struct view line)
{
	int depth = 0;
	for (size_t i = 0; i < line.n; i++) {
		char c = line.p[i], before = i ? line.p[i - 1] : ' ';
		depth += c == '(' ? 1 : c == ')' && depth ? -1 : 0;
		if (depth || !digit(c) ||
			(before != ' ' && !(before == 'v' && (i < 2 || line.p[i - 2] == ' '))))
			continue;
		struct view rest = view_from(line, i);
		size_t n = 0;
		while (n < rest.n && n < 32 && (digit(rest.p[n]) || rest.p[n] == '.'))
			n++;
		while (n && rest.p[n - 1] == '.')
			n--;
		return view_cut(rest, n);
	}
	return (struct view){ 0 };
}

char *preflight_version_of(enum preflight_tool t, struct view text, bool *ret_clang)
{
	static const char *const words[TOOL_COUNT] = {
		[TOOL_NVCC] = "release ", [TOOL_HIPCC] = "HIP version: "
	};
	ptrdiff_t clang = view_search(text, VIEW("clang version "));
	*ret_clang = clang >= 0;
	if (words[t]) {
		ptrdiff_t at = view_search(text, view_str(words[t]));
		if (at < 0)
			return NULL;
		text = view_from(text, (size_t)at + strlen(words[t]));
	} else if (clang >= 0) {
		text = view_from(text, (size_t)clang);
	}
	struct view rest, v = version_in(view_split(text, '\n', &rest));
	return v.n ? mem_viewdup(v) : NULL;
}

static unsigned number_behind(struct view text, const char *words)
{
	ptrdiff_t at = view_search(text, view_str(words));
	struct view v = at < 0 ? (struct view){ 0 } : view_from(text, (size_t)at + strlen(words));
	unsigned n = 0;
	for (size_t i = 0; i < v.n && i < 4 && digit(v.p[i]); i++)
		n = n * 10 + (unsigned)(v.p[i] - '0');
	return n;
}

void preflight_hosts_of(struct view host_config, unsigned *ret_gcc, unsigned *ret_clang)
{
	*ret_gcc = number_behind(host_config, "#if __GNUC__ > ");
	unsigned first_refused = number_behind(host_config, "(__clang_major__ >= ");
	*ret_clang = first_refused ? first_refused - 1 : 0;
}

void preflight_gfx_of(uint64_t version, char out[16])
{
	out[0] = '\0';
	unsigned major = (unsigned)(version / 10000 % 100), minor = (unsigned)(version / 100 % 100);
	if (version)
		snprintf(out, 16, "gfx%u%x%x", major, minor & 15, (unsigned)(version % 100) & 15);
}

/* ---- looking ------------------------------------------------------------------------------------- */

static char *in_root(const struct preflight *p, const char *path)
{
	return mem_fmt("%s%s", p->root, path);
}

static bool there(const struct preflight *p, const char *folder, const char *file)
{
	AUTO(mem_freep) char *at = in_root(p, folder);
	AUTO(mem_freep) char *full = path_join(at, file);
	return file_exists(full);
}

static bool header(const struct preflight *p, const char *file)
{
	return there(p, "/usr/include", file) || there(p, "/usr/local/include", file);
}

static bool take(struct preflight *p, enum preflight_tool t, char *path)
{
	if (path && (access(path, X_OK) < 0 || p->facts.tools[t].path)) {
		free(path);
		return false;
	}
	if (path)
		p->facts.tools[t].path = path;
	return path != NULL;
}

/* The newest of /usr/local/cuda-12.4, /usr/local/cuda-13.0 … */
static char *newest_cuda(const struct preflight *p)
{
	AUTO(mem_freep) char *local = in_root(p, "/usr/local");
	char *best = NULL;
	DIR *d = opendir(local);
	for (struct dirent *e; d && (e = readdir(d));) {
		if (strncmp(e->d_name, "cuda-", 5) != 0)
			continue;
		char *full = mem_fmt("%s/%s", local, e->d_name);
		AUTO(mem_freep) char *nvcc = path_join(full, "bin/nvcc");
		const char *old = best ? strstr(best, "/cuda-") + 6 : "";
		if (access(nvcc, X_OK) == 0 && (!best || preflight_version_cmp(e->d_name + 5, old) > 0)) {
			free(best);
			best = full;
		} else {
			free(full);
		}
	}
	if (d)
		closedir(d);
	return best;
}

static void look_for_nvcc(struct preflight *p)
{
	static const char *const names[] = { "CUDA_HOME", "CUDA_PATH" };
	(void)take(p, TOOL_NVCC, tool_find("nvcc"));
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		const char *dir = getenv(names[i]);
		(void)take(p, TOOL_NVCC, dir && *dir == '/' ? path_join(dir, "bin/nvcc") : NULL);
	}
	(void)take(p, TOOL_NVCC, in_root(p, "/usr/local/cuda/bin/nvcc"));
	AUTO(mem_freep) char *newest = newest_cuda(p);
	(void)take(p, TOOL_NVCC, newest ? path_join(newest, "bin/nvcc") : NULL);
	(void)take(p, TOOL_NVCC, in_root(p, "/opt/cuda/bin/nvcc"));
}

/* Its folder, headers and what they refuse. */
static void look_at_cuda(struct preflight *p)
{
	struct preflight_facts *f = &p->facts;
	look_for_nvcc(p);
	char *real = f->tools[TOOL_NVCC].path ? realpath(f->tools[TOOL_NVCC].path, NULL) : NULL;
	for (int up = 0; real && up < 2; up++) {
		char *slash = strrchr(real, '/');
		if (slash)
			*slash = '\0';
	}
	f->cuda_root = real;
	if (!real)
		return;
	AUTO(mem_freep) char *runtime = path_join(real, "include/cuda_runtime.h");
	AUTO(mem_freep) char *config = path_join(real, "include/crt/host_config.h");
	AUTO(buf_done) struct buf b = BUF(TEXT_MAX);
	f->cuda_headers = file_exists(runtime);
	if (file_read(config, &b) == 0)
		preflight_hosts_of(buf_view(&b), &f->nvcc_gcc_max, &f->nvcc_clang_max);
}

static void look_at_rocm(struct preflight *p)
{
	struct preflight_facts *f = &p->facts;
	static const char *const clangs[] = { "lib/llvm/bin/clang", "llvm/bin/clang" };
	(void)take(p, TOOL_HIPCC, tool_find("hipcc"));
	(void)take(p, TOOL_HIPCC, in_root(p, "/opt/rocm/bin/hipcc"));
	if (!f->tools[TOOL_HIPCC].path)
		return;
	f->rocm_root = there(p, "/opt/rocm", "bin/hipcc") ? in_root(p, "/opt/rocm") : mem_strdup("/usr");
	f->hip_headers = header(p, "hip/hip_runtime.h") || there(p, "/opt/rocm/include", "hip/hip_runtime.h");
	for (size_t i = 0; i < ARRAY_LEN(clangs) && !f->rocm_clang; i++) {
		char *full = path_join(f->rocm_root, clangs[i]);
		if (access(full, X_OK) == 0)
			f->rocm_clang = full;
		else
			free(full);
	}
}

/* What the AMD GPUs here are called by their compiler, each once. */
static void look_at_gfx(struct preflight *p)
{
	AUTO(mem_freep) char *nodes = in_root(p, "/sys/class/kfd/kfd/topology/nodes");
	AUTO(buf_done) struct buf all = BUF(1 * KIB);
	for (int i = 0; i < 64; i++) {
		AUTO(mem_freep) char *file = mem_fmt("%s/%d/properties", nodes, i);
		AUTO(buf_done) struct buf b = BUF(64 * KIB);
		uint64_t version;
		char gfx[16];
		struct view rest;
		ptrdiff_t at =
			file_read(file, &b) < 0 ? -1 : view_search(buf_view(&b), VIEW("gfx_target_version "));
		if (at < 0 ||
			num_u64(view_split(view_from(buf_view(&b), (size_t)at + 19), '\n', &rest), &version))
			continue;
		preflight_gfx_of(version, gfx);
		if (gfx[0] && (!all.len || !strstr(buf_str(&all), gfx)))
			(void)buf_addf(&all, "%s%s", all.len ? ";" : "", gfx);
	}
	if (all.len)
		p->facts.gfx = buf_take(&all);
}

static void add_host(struct preflight_facts *f, const char *dir, const char *name)
{
	bool clang = strncmp(name, "clang++-", 8) == 0;
	size_t n = clang ? 8 : 4;
	uint64_t major;
	if ((!clang && strncmp(name, "g++-", 4) != 0) || num_u64(view_str(name + n), &major) ||
		major > 1000 || f->nhosts == PREFLIGHT_HOSTS_MAX)
		return;
	char *full = path_join(dir, name);
	if (access(full, X_OK) < 0)
		free(full);
	else
		f->hosts[f->nhosts++] =
			(struct preflight_host){ .path = full, .major = (unsigned)major, .clang = clang };
}

static void look_for_hosts(struct preflight *p)
{
	const char *path = getenv("PATH");
	for (struct view rest = view_str(path); rest.p;) {
		AUTO(mem_freep) char *dir = mem_viewdup(view_split(rest, ':', &rest));
		DIR *d = dir[0] == '/' && !strstr(dir, "ccache") ? opendir(dir) : NULL;
		for (struct dirent *e; d && (e = readdir(d));)
			add_host(&p->facts, dir, e->d_name);
		if (d)
			closedir(d);
	}
}

static uint64_t memory_available(void)
{
	AUTO(buf_done) struct buf b = BUF(64 * KIB);
	if (file_read("/proc/meminfo", &b) < 0)
		return 0;
	ptrdiff_t at = view_search(buf_view(&b), VIEW("MemAvailable:"));
	if (at < 0)
		return 0;
	struct view rest, line = view_split(view_from(buf_view(&b), (size_t)at + 13), '\n', &rest);
	uint64_t kib;
	struct view number = view_split(view_trim(line), ' ', &rest);
	return num_u64(number, &kib) == 0 ? kib * KIB : 0;
}

static void look_at_disk(struct preflight_facts *f, const char *at)
{
	struct statvfs st;
	char *dir = mem_strdup(at);
	while (statvfs(dir, &st) < 0) {
		char *slash = strrchr(dir, '/');
		if (!slash || slash == dir) {
			free(dir);
			return;
		}
		*slash = '\0';
	}
	f->disk_at = dir;
	f->disk_free = (uint64_t)st.f_bavail * st.f_frsize;
}

static void look(struct preflight *p, const char *disk_at)
{
	static const enum preflight_tool plain[] = { TOOL_GIT, TOOL_CMAKE, TOOL_NINJA, TOOL_MAKE, TOOL_CC,
		TOOL_CXX, TOOL_GLSLC, TOOL_CCACHE };
	struct preflight_facts *f = &p->facts;
	AUTO(mem_freep) char *release = in_root(p, "/etc/os-release");
	AUTO(buf_done) struct buf b = BUF(64 * KIB);
	for (size_t i = 0; i < ARRAY_LEN(plain); i++)
		f->tools[plain[i]].path = tool_find(preflight_tool_name(plain[i]));
	look_at_cuda(p);
	look_at_rocm(p);
	look_at_gfx(p);
	f->distro = file_read(release, &b) == 0 ? preflight_distro_of(buf_view(&b)) : DISTRO_OTHER;
	f->vulkan_headers = header(p, "vulkan/vulkan.h");
	f->spirv_headers = header(p, "spirv/unified1/spirv.hpp");
	f->ccache_dir = f->tools[TOOL_CC].path && strstr(f->tools[TOOL_CC].path, "ccache");
	f->root = geteuid() == 0;
	f->sudo = tool_find("sudo");
	look_for_hosts(p);
	look_at_disk(f, disk_at);
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	f->cpus = cpus > 0 ? (unsigned)cpus : 1;
	f->memory_available = memory_available();
}

/* ---- asking -------------------------------------------------------------------------------------- */

static void preflight_free(struct preflight *p)
{
	run_cancel(&p->run);
	loop_defer_cancel(&p->ready);
	preflight_facts_done(&p->facts);
	strv_done(&p->env);
	free(p->root);
	free(p);
}

static void tell(void *arg)
{
	struct preflight *p = arg;
	*p->self = NULL;
	p->done(p->arg, &p->facts);
	p->facts = (struct preflight_facts){ 0 };
	preflight_free(p);
}

static void ask_next(struct preflight *p);

static void take_archs(struct preflight_facts *f, struct view out)
{
	AUTO(buf_done) struct buf b = BUF(4 * KIB);
	(void)buf_addc(&b, ' ');
	for (struct view rest = out; rest.p;) {
		struct view line = view_trim(view_split(rest, '\n', &rest));
		if (view_starts(line, VIEW("compute_")))
			(void)buf_addf(&b, "%.*s ", VIEW_ARG(view_from(line, 8)));
	}
	if (b.len > 1)
		f->nvcc_archs = buf_take(&b);
}

static void on_said(void *arg, const struct run_result *r)
{
	struct preflight *p = arg;
	bool well = r->exit_code == 0 && r->signo == 0 && !r->silent;
	p->run = NULL;
	if (p->asking == ASK_ARCHS) {
		if (well)
			take_archs(&p->facts, r->out);
	} else {
		struct preflight_tool_fact *t = &p->facts.tools[p->asking];
		t->broken = !well;
		if (well)
			t->version = preflight_version_of((enum preflight_tool)p->asking, r->out, &t->clang);
	}
	p->asking++;
	ask_next(p);
}

static bool ask(struct preflight *p, const char *program, const char *word)
{
	AUTO(strv_done) struct strv argv = { 0 };
	strv_add(&argv, program);
	strv_add(&argv, word);
	struct run_opts o = { .argv = &argv,
		.env = &p->env,
		.cwd = "/",
		.keep_fd = -1,
		.silence_ms = SILENCE_MS,
		.on_done = on_said,
		.arg = p };
	return run_start(p->loop, &o, &p->run, NULL) == 0;
}

static void ask_next(struct preflight *p)
{
	for (; p->asking < ASK_END; p->asking++) {
		bool archs = p->asking == ASK_ARCHS;
		struct preflight_tool_fact *t = &p->facts.tools[archs ? TOOL_NVCC : p->asking];
		if (!t->path || p->asking == TOOL_CCACHE || (archs && t->broken))
			continue;
		if (ask(p, t->path, archs ? "--list-gpu-arch" : "--version"))
			return;
		t->broken = true;
	}
	loop_defer(p->loop, &p->ready, tell, p);
}

void preflight_collect(struct loop *l, const char *root, const char *disk_at, preflight_done_fn *done,
	void *arg, struct preflight **ret)
{
	struct preflight *p = NEW(struct preflight);
	p->loop = l;
	p->root = mem_strdup(root);
	p->done = done;
	p->arg = arg;
	p->self = ret;
	*ret = p;
	env_clean(&p->env);
	env_set(&p->env, "LANG=C.UTF-8");
	env_set(&p->env, "LC_ALL=C.UTF-8");
	look(p, disk_at);
	ask_next(p);
}

bool preflight_tools_here(const char *root, enum engine_backend b)
{
	static const enum preflight_tool needed[] = { TOOL_GIT, TOOL_CMAKE, TOOL_CC, TOOL_CXX };
	struct preflight p = { .root = (char *)(uintptr_t)root };
	bool here = true;
	for (size_t i = 0; i < ARRAY_LEN(needed) && here; i++) {
		AUTO(mem_freep) char *path = tool_find(preflight_tool_name(needed[i]));
		here = path != NULL;
	}
	AUTO(mem_freep) char *ninja = tool_find("ninja");
	AUTO(mem_freep) char *make = tool_find("make");
	if (b == ENGINE_CUDA)
		look_for_nvcc(&p);
	else if (b == ENGINE_HIP)
		look_at_rocm(&p);
	here = here && (ninja || make) &&
	       (b == ENGINE_CPU || p.facts.tools[TOOL_NVCC].path || p.facts.tools[TOOL_HIPCC].path);
	preflight_facts_done(&p.facts);
	return here;
}

void preflight_cancel(struct preflight **pp)
{
	struct preflight *p = *pp;
	*pp = NULL;
	if (p)
		preflight_free(p);
}
