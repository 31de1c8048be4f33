/* SPDX-License-Identifier: Apache-2.0
 *
 * What is missing for a build, from facts alone.
 */
#include "provision/engine/preflight.h"

#include <stdlib.h>

#include "base/mem.h"
#include "base/num.h"

static const char *const tool_names[TOOL_COUNT] = { "git", "cmake", "ninja", "make", "cc", "c++", "nvcc",
	"hipcc", "glslc", "ccache" };
static const char *const distro_names[] = { "Debian", "Ubuntu", "Fedora", "Arch", "?", "this distribution" };

const char *preflight_tool_name(enum preflight_tool t)
{
	return (size_t)t < TOOL_COUNT ? tool_names[t] : "unknown";
}

const char *preflight_distro_name(enum preflight_distro d)
{
	return (size_t)d < ARRAY_LEN(distro_names) ? distro_names[d] : "unknown";
}

/* ---- packages ------------------------------------------------------------------------------------ */

struct packages {
	const char *what;
	const char *names[DISTRO_COUNT];
};
static const struct packages packages[] = {
	{ "git", { "git", "git", "git", "git" } },
	{ "cmake", { "cmake", "cmake", "cmake", "cmake" } },
	{ "ninja", { "ninja-build", "ninja-build", "ninja-build", "ninja" } },
	{ "cc", { "gcc libc6-dev", "gcc libc6-dev", "gcc glibc-devel", "gcc" } },
	{ "c++", { "g++", "g++", "gcc-c++", "gcc" } },
	{ "nvcc", { "nvidia-cuda-toolkit", "nvidia-cuda-toolkit", "cuda-toolkit", "cuda" } },
	{ "hipcc", { "hipcc libhipblas-dev librocblas-dev", "hipcc libhipblas-dev librocblas-dev",
			   "rocm-hip-devel hipblas-devel rocblas-devel", "rocm-hip-sdk" } },
	{ "glslc", { "glslc", "glslc", "glslc", "shaderc" } },
	{ "vulkan", { "libvulkan-dev", "libvulkan-dev", "vulkan-headers vulkan-loader-devel",
			    "vulkan-headers vulkan-icd-loader" } },
	{ "spirv", { "spirv-headers", "spirv-headers", "spirv-headers-devel", "spirv-headers" } },
};
static const char *const install_words[DISTRO_COUNT] = {
	"apt-get install -y --no-install-recommends",
	"apt-get install -y --no-install-recommends",
	"dnf install -y",
	"pacman -S --needed --noconfirm",
};

static const struct packages *packages_of(const char *what)
{
	for (size_t i = 0; what && i < ARRAY_LEN(packages); i++)
		if (strcmp(packages[i].what, what) == 0)
			return &packages[i];
	return NULL;
}

enum preflight_distro preflight_distro_of(struct view os_release)
{
	static const struct {
		const char *id;
		enum preflight_distro d;
	} known[] = { { "debian", DISTRO_DEBIAN }, { "raspbian", DISTRO_DEBIAN }, { "ubuntu", DISTRO_UBUNTU },
		{ "linuxmint", DISTRO_UBUNTU }, { "pop", DISTRO_UBUNTU }, { "fedora", DISTRO_FEDORA },
		{ "rhel", DISTRO_FEDORA }, { "centos", DISTRO_FEDORA }, { "rocky", DISTRO_FEDORA },
		{ "almalinux", DISTRO_FEDORA }, { "arch", DISTRO_ARCH }, { "manjaro", DISTRO_ARCH },
		{ "endeavouros", DISTRO_ARCH } };
	struct view ids[2] = { { 0 }, { 0 } }, rest = os_release;
	while (rest.p) {
		struct view value, line = view_split(rest, '\n', &rest);
		struct view key = view_split(line, '=', &value);
		if (value.n >= 2 && (value.p[0] == '"' || value.p[0] == '\''))
			value = view_of(value.p + 1, value.n - 2);
		if (view_eqs(key, "ID"))
			ids[0] = value;
		else if (view_eqs(key, "ID_LIKE"))
			ids[1] = value;
	}
	for (size_t i = 0; i < ARRAY_LEN(ids); i++) {
		for (struct view words = ids[i]; words.p;) {
			struct view w = view_split(words, ' ', &words);
			for (size_t k = 0; k < ARRAY_LEN(known); k++)
				if (view_eqs(w, known[k].id))
					return known[k].d;
		}
	}
	return DISTRO_OTHER;
}

/* ---- versions ------------------------------------------------------------------------------------ */

static unsigned long number_at(const char **s)
{
	unsigned long n = 0;
	while (**s >= '0' && **s <= '9')
		n = MIN(n, 100000000ul) * 10 + (unsigned long)(*(*s)++ - '0');
	return n;
}

int preflight_version_cmp(const char *a, const char *b)
{
	for (;;) {
		unsigned long x = number_at(&a), y = number_at(&b);
		if (x != y)
			return x < y ? -1 : 1;
		bool more_a = *a == '.', more_b = *b == '.';
		if (!more_a && !more_b)
			return 0;
		a += more_a;
		b += more_b;
	}
}

static unsigned major_of(const char *version)
{
	return version ? (unsigned)number_at(&version) : 0;
}

/* ---- the report ---------------------------------------------------------------------------------- */

void preflight_facts_done(struct preflight_facts *f)
{
	for (size_t i = 0; i < TOOL_COUNT; i++) {
		free(f->tools[i].path);
		free(f->tools[i].version);
	}
	for (size_t i = 0; i < f->nhosts; i++)
		free(f->hosts[i].path);
	free(f->sudo);
	free(f->cuda_root);
	free(f->nvcc_archs);
	free(f->rocm_root);
	free(f->rocm_clang);
	free(f->gfx);
	free(f->disk_at);
	*f = (struct preflight_facts){ 0 };
}

void preflight_report_done(struct preflight_report *r)
{
	for (size_t i = 0; i < r->len; i++) {
		free(r->items[i].text);
		free(r->items[i].command);
	}
	strv_done(&r->install);
	strv_done(&r->notes);
	free(r->cuda_host);
	*r = (struct preflight_report){ 0 };
}

static bool can_install(const struct preflight_facts *f)
{
	return f->distro < DISTRO_COUNT;
}

static const char *sudo_word(const struct preflight_facts *f)
{
	return f->root ? "" : "sudo ";
}

static void missing(struct preflight_report *r, const struct preflight_facts *f, const char *what,
	const char *package, const char *fmt, ...) PRINTF(5, 6);
static void missing(struct preflight_report *r, const struct preflight_facts *f, const char *what,
	const char *package, const char *fmt, ...)
{
	if (r->len == PREFLIGHT_ITEMS_MAX)
		return;
	struct preflight_item *it = &r->items[r->len++];
	const struct packages *p = packages_of(package);
	*it = (struct preflight_item){ .what = what };
	va_list ap;
	va_start(ap, fmt);
	it->text = mem_vfmt(fmt, ap);
	va_end(ap);
	for (size_t i = 0; p && i < DISTRO_COUNT; i++)
		it->packages[i] = p->names[i];
	if (p && can_install(f))
		it->command =
			mem_fmt("%s%s %s", sudo_word(f), install_words[f->distro], it->packages[f->distro]);
}

static void words_add(struct strv *v, const char *line)
{
	for (struct view rest = view_str(line); rest.p;) {
		struct view w = view_split(rest, ' ', &rest);
		bool there = false;
		for (size_t i = 0; i < v->len && !there; i++)
			there = view_eqs(w, v->items[i]);
		if (w.n && !there)
			strv_addv(v, w);
	}
}

/* One command for all. */
static void make_install(struct preflight_report *r, const struct preflight_facts *f)
{
	AUTO(strv_done) struct strv names = { 0 };
	for (size_t i = 0; can_install(f) && i < r->len; i++)
		if (r->items[i].packages[f->distro])
			words_add(&names, r->items[i].packages[f->distro]);
	if (!names.len)
		return;
	if (!f->root) {
		strv_add(&r->install, "sudo");
		strv_add(&r->install, "-n");
	}
	words_add(&r->install, install_words[f->distro]);
	for (size_t i = 0; i < names.len; i++)
		strv_add(&r->install, names.items[i]);
}

/* ---- tools --------------------------------------------------------------------------------------- */

static bool need_tool(struct preflight_report *r, const struct preflight_facts *f, enum preflight_tool t,
	const char *what_for)
{
	const struct preflight_tool_fact *tool = &f->tools[t];
	const char *name = preflight_tool_name(t);
	if (!tool->path)
		missing(r, f, name, name, "%s, %s, is not in PATH", name, what_for);
	else if (tool->broken)
		missing(r, f, name, name, "%s, %s, does not run: `%s --version` fails", name, what_for,
			tool->path);
	return tool->path && !tool->broken;
}

static void check_cmake(struct preflight_report *r, const struct preflight_facts *f, enum engine_backend b)
{
	static const char *const least[] = {
		[ENGINE_CPU] = "3.14", [ENGINE_CUDA] = "3.18", [ENGINE_HIP] = "3.21", [ENGINE_VULKAN] = "3.19"
	};
	const struct preflight_tool_fact *t = &f->tools[TOOL_CMAKE];
	if (need_tool(r, f, TOOL_CMAKE, "which sets the build up") && t->version &&
		preflight_version_cmp(t->version, least[b]) < 0)
		missing(r, f, "cmake", "cmake", "cmake %s is too old: a %s build needs %s or newer",
			t->version, engine_backend_name(b), least[b]);
}

static void check_tools(struct preflight_report *r, const struct preflight_facts *f, enum engine_backend b)
{
	need_tool(r, f, TOOL_GIT, "which gets the sources");
	check_cmake(r, f, b);
	if (!f->tools[TOOL_NINJA].path && !f->tools[TOOL_MAKE].path)
		missing(r, f, "ninja", "ninja", "neither ninja nor make, which run the build, is in PATH");
	need_tool(r, f, TOOL_CC, "the C compiler");
	need_tool(r, f, TOOL_CXX, "the C++ compiler");
}

/* ---- CUDA ---------------------------------------------------------------------------------------- */

static bool host_fits(const struct preflight_facts *f, bool clang, unsigned major)
{
	unsigned most = clang ? f->nvcc_clang_max : f->nvcc_gcc_max;
	return !most || !major || major <= most;
}

/* nvcc refuses host compilers that are newer than it; an older one beside is given to it. */
static void check_host(struct preflight_report *r, const struct preflight_facts *f)
{
	const struct preflight_tool_fact *cxx = &f->tools[TOOL_CXX];
	unsigned major = major_of(cxx->version);
	const char *kind = cxx->clang ? "clang" : "gcc";
	const struct preflight_host *best = NULL;
	if (!cxx->path || host_fits(f, cxx->clang, major))
		return;
	for (size_t i = 0; i < f->nhosts; i++)
		if (host_fits(f, f->hosts[i].clang, f->hosts[i].major) &&
			(!best || (f->hosts[i].clang == cxx->clang && best->clang != cxx->clang) ||
				(f->hosts[i].clang == best->clang && f->hosts[i].major > best->major)))
			best = &f->hosts[i];
	unsigned most = cxx->clang ? f->nvcc_clang_max : f->nvcc_gcc_max;
	const char *version = f->tools[TOOL_NVCC].version ? f->tools[TOOL_NVCC].version : "";
	if (best) {
		r->cuda_host = mem_strdup(best->path);
		strv_addf(&r->notes,
			"%s %u is newer than CUDA %s takes (%u at most): nvcc is given %s instead", kind,
			major, version, most, best->path);
		return;
	}
	missing(r, f, "c++", NULL, "%s %u is newer than CUDA %s takes (%u at most), and no older one is here",
		kind, major, version, most);
	struct preflight_item *it = &r->items[r->len - 1];
	if (f->distro == DISTRO_DEBIAN || f->distro == DISTRO_UBUNTU)
		it->command = mem_fmt("%sapt-get install -y g++-%u", sudo_word(f), f->nvcc_gcc_max);
	else if (f->distro == DISTRO_ARCH)
		it->command = mem_fmt("%spacman -S gcc%u", sudo_word(f), f->nvcc_gcc_max);
}

/* The oldest driver for a toolkit's major version, as its maker's compatibility table has it. */
static unsigned driver_least(unsigned toolkit)
{
	return toolkit >= 13 ? 580 : toolkit == 12 ? 525 : toolkit == 11 ? 450 : 0;
}

static void check_driver(
	struct preflight_report *r, const struct preflight_facts *f, const struct preflight_wish *w)
{
	const char *nvcc = f->tools[TOOL_NVCC].version;
	unsigned least = driver_least(major_of(nvcc));
	for (size_t i = 0; i < w->ndevices; i++) {
		const struct engine_device *d = &w->devices[i];
		unsigned driver = major_of(d->driver);
		if (d->backend != ENGINE_CUDA || !driver || driver >= least)
			continue;
		missing(r, f, "driver", NULL,
			"the driver %s of %s is too old for the CUDA toolkit %s, which needs %u or newer: "
			"update "
			"the driver, or install an older toolkit",
			d->driver, d->name, nvcc, least);
		return;
	}
}

/* "8.9" → " 89 " */
static void arch_word(const char *arch, char out[16])
{
	size_t n = 0;
	out[n++] = ' ';
	for (; *arch && n < 12; arch++)
		if (*arch != '.')
			out[n++] = *arch;
	out[n++] = ' ';
	out[n] = '\0';
}

static void check_archs(
	struct preflight_report *r, const struct preflight_facts *f, const struct preflight_wish *w)
{
	char word[16];
	for (size_t i = 0; f->nvcc_archs && i < w->ndevices; i++) {
		const struct engine_device *d = &w->devices[i];
		if (d->backend != ENGINE_CUDA || !d->arch[0])
			continue;
		arch_word(d->arch, word);
		if (!strstr(f->nvcc_archs, word))
			missing(r, f, "nvcc", NULL,
				"the CUDA toolkit %s does not compile for %s (compute capability %s): "
				"install "
				"one "
				"that does, and put its bin folder first in PATH",
				f->tools[TOOL_NVCC].version ? f->tools[TOOL_NVCC].version : "found", d->name,
				d->arch);
	}
}

static void check_cuda(
	struct preflight_report *r, const struct preflight_facts *f, const struct preflight_wish *w)
{
	if (!f->tools[TOOL_NVCC].path)
		missing(r, f, "nvcc", "nvcc",
			"nvcc, CUDA's compiler, is neither in PATH nor under /usr/local/cuda* or /opt/cuda%s",
			f->distro == DISTRO_FEDORA ? " (its maker's repository has it)" : "");
	else if (!need_tool(r, f, TOOL_NVCC, "CUDA's compiler"))
		return;
	else if (!f->cuda_headers)
		missing(r, f, "cuda", "nvcc",
			"cuda_runtime.h is not under %s/include: the toolkit is not whole",
			f->cuda_root ? f->cuda_root : "the toolkit");
	check_host(r, f);
	check_driver(r, f, w);
	check_archs(r, f, w);
}

/* ---- the others ---------------------------------------------------------------------------------- */

static void check_hip(struct preflight_report *r, const struct preflight_facts *f)
{
	if (!f->tools[TOOL_HIPCC].path)
		missing(r, f, "hipcc", "hipcc",
			"hipcc, ROCm's compiler, is neither in PATH nor in /opt/rocm/bin");
	else if (need_tool(r, f, TOOL_HIPCC, "ROCm's compiler") && !f->hip_headers)
		missing(r, f, "hip", "hipcc",
			"hip/hip_runtime.h is not there: ROCm's development files are missing");
}

static void check_vulkan(struct preflight_report *r, const struct preflight_facts *f)
{
	need_tool(r, f, TOOL_GLSLC, "Vulkan's shader compiler");
	if (!f->vulkan_headers)
		missing(r, f, "vulkan", "vulkan",
			"vulkan/vulkan.h is not there: Vulkan's headers are missing");
	if (!f->spirv_headers)
		missing(r, f, "spirv", "spirv",
			"spirv/unified1/spirv.hpp is not there: the SPIR-V headers are missing");
}

static void check_disk(
	struct preflight_report *r, const struct preflight_facts *f, const struct preflight_wish *w)
{
	char have[32], want[32];
	if (!w->disk || !f->disk_at || f->disk_free >= w->disk)
		return;
	num_format_bytes(f->disk_free, have, sizeof have);
	num_format_bytes(w->disk, want, sizeof want);
	missing(r, f, "disk", NULL,
		"%s has %s free, and a %s build takes about %s: make room, or set state_dir to a larger disk",
		f->disk_at, have, engine_backend_name(w->backend), want);
}

void preflight_check(
	const struct preflight_facts *f, const struct preflight_wish *w, struct preflight_report *ret)
{
	*ret = (struct preflight_report){ 0 };
	check_tools(ret, f, w->backend);
	if (w->backend == ENGINE_CUDA)
		check_cuda(ret, f, w);
	else if (w->backend == ENGINE_HIP)
		check_hip(ret, f);
	else if (w->backend == ENGINE_VULKAN)
		check_vulkan(ret, f);
	check_disk(ret, f, w);
	make_install(ret, f);
}

void preflight_text(const struct preflight_report *r, struct buf *out)
{
	for (size_t i = 0; i < r->len; i++)
		(void)buf_addf(out, "%s%s", i ? "; " : "", r->items[i].text);
	if (!r->install.len)
		return;
	(void)buf_adds(out, "; to install what is missing: ");
	for (size_t i = 0; i < r->install.len; i++) /* -n is for those who cannot be asked */
		if (strcmp(r->install.items[i], "-n") != 0)
			(void)buf_addf(out, "%s%s", i ? " " : "", r->install.items[i]);
}

unsigned preflight_jobs(const struct preflight_facts *f, enum engine_backend b, uint32_t asked)
{
	/* What one compiler of llama.cpp's largest files takes. */
	uint64_t each = b == ENGINE_CUDA || b == ENGINE_HIP ? 3 * GIB : GIB + GIB / 2;
	uint64_t jobs = asked ? asked : f->cpus ? f->cpus : 1;
	if (f->memory_available)
		jobs = MIN(jobs, f->memory_available / each);
	return jobs ? (unsigned)jobs : 1;
}
