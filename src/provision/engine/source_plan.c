/* SPDX-License-Identifier: Apache-2.0
 *
 * From what is asked for and what is here to a back end, CMake's words, a plan and a name. Pure.
 */
#include <ctype.h>
#include <stdlib.h>

#include "base/mem.h"
#include "provision/engine/engine_int.h"
#include "provision/engine/source.h"

void source_choice_done(struct source_choice *c)
{
	free(c->archs);
	free(c->why);
	*c = (struct source_choice){ 0 };
}

/* ---- the back end -------------------------------------------------------------------------------- */

static const struct {
	enum engine_backend backend;
	const char *flag;
} backend_flags[] = { { ENGINE_CUDA, "GGML_CUDA" }, { ENGINE_HIP, "GGML_HIP" },
	{ ENGINE_VULKAN, "GGML_VULKAN" } };

static const char *flag_of(const struct strv *flags, const char *name)
{
	size_t n = strlen(name);
	for (size_t i = 0; i < flags->len; i++)
		if (strncmp(flags->items[i], name, n) == 0 && flags->items[i][n] == '=')
			return flags->items[i] + n + 1;
	return NULL;
}

static bool is_on(const char *value)
{
	static const char *const off[] = { "OFF", "0", "NO", "FALSE", "N", "IGNORE", "" };
	for (size_t i = 0; value && i < ARRAY_LEN(off); i++)
		if (strcasecmp(value, off[i]) == 0)
			return false;
	return value != NULL;
}

static const struct engine_device *device_for(const struct engine_device *d, size_t n, enum engine_backend b)
{
	for (size_t i = 0; i < n; i++)
		if (d[i].backend == b)
			return &d[i];
	return NULL;
}

static bool toolkit_here(const struct preflight_facts *f, enum engine_backend b)
{
	if (b == ENGINE_CUDA)
		return f->tools[TOOL_NVCC].path;
	if (b == ENGINE_HIP)
		return f->tools[TOOL_HIPCC].path;
	return b == ENGINE_CPU || (f->tools[TOOL_GLSLC].path && f->vulkan_headers && f->spirv_headers);
}

static const char *toolkit_name(enum engine_backend b)
{
	return b == ENGINE_CUDA ? "nvcc" : b == ENGINE_HIP ? "hipcc" : "glslc with Vulkan's headers";
}

static int by_number(const void *a, const void *b)
{
	return preflight_version_cmp(*(char *const *)a, *(char *const *)b);
}

/* "8.9" → "89", each once, ascending. */
static char *cuda_archs(const struct engine_device *d, size_t n)
{
	AUTO(strv_done) struct strv archs = { 0 };
	for (size_t i = 0; i < n; i++) {
		char word[sizeof d[i].arch] = "";
		size_t len = 0;
		for (const char *c = d[i].arch; d[i].backend == ENGINE_CUDA && *c; c++)
			if (isdigit((unsigned char)*c))
				word[len++] = *c;
		if (len && !strv_has(&archs, word))
			strv_add(&archs, word);
	}
	AUTO(buf_done) struct buf b = BUF(1 * KIB);
	if (archs.len)
		qsort(archs.items, archs.len, sizeof *archs.items, by_number);
	for (size_t i = 0; i < archs.len; i++)
		(void)buf_addf(&b, "%s%s", b.len ? ";" : "", archs.items[i]);
	return b.len ? buf_take(&b) : NULL;
}

static char *archs_for(
	enum engine_backend b, const struct preflight_facts *f, const struct engine_device *d, size_t n)
{
	if (b == ENGINE_CUDA)
		return cuda_archs(d, n);
	return b == ENGINE_HIP ? mem_strdup(f->gfx) : NULL;
}

static char *toolkit_text(const struct preflight_facts *f, enum engine_backend b)
{
	const char *version = b == ENGINE_CUDA  ? f->tools[TOOL_NVCC].version
			      : b == ENGINE_HIP ? f->tools[TOOL_HIPCC].version
						: NULL;
	return mem_fmt("%s%s%s", engine_backend_name(b), version ? " " : "", version ? version : "");
}

static void choose_forced(const struct source_spec *s, const struct preflight_facts *f,
	const struct engine_device *d, size_t n, struct source_choice *ret)
{
	for (size_t i = 0; i < ARRAY_LEN(backend_flags); i++) {
		const char *value = flag_of(&s->flags, backend_flags[i].flag);
		if (!value)
			continue;
		ret->forced = true;
		if (!is_on(value) || ret->backend != ENGINE_CPU)
			continue;
		ret->backend = backend_flags[i].backend;
		AUTO(mem_freep) char *kit = toolkit_text(f, ret->backend);
		ret->why = mem_fmt("%s, as engine.source.flags says", kit);
		ret->archs = archs_for(ret->backend, f, d, n);
	}
	if (ret->forced && !ret->why)
		ret->why = mem_strdup("the CPU alone, as engine.source.flags says");
}

static char *no_gpu_text(const struct preflight_facts *f)
{
	if (f->tools[TOOL_NVCC].path)
		return mem_fmt(
			"the CPU, because this machine shows no GPU (the CUDA toolkit %s at %s is not used)",
			f->tools[TOOL_NVCC].version ? f->tools[TOOL_NVCC].version : "",
			f->cuda_root ? f->cuda_root : f->tools[TOOL_NVCC].path);
	return mem_strdup("the CPU, because this machine shows no GPU");
}

void source_choose(const struct source_spec *s, const struct preflight_facts *f,
	const struct engine_device *d, size_t n, bool cpu_instead, struct source_choice *ret)
{
	static const enum engine_backend own[] = { ENGINE_CUDA, ENGINE_HIP };
	*ret = (struct source_choice){ .backend = ENGINE_CPU };
	choose_forced(s, f, d, n, ret);
	if (ret->forced)
		return;
	if (!n) {
		ret->why = no_gpu_text(f);
		return;
	}
	const struct engine_device *first = &d[0];
	for (size_t i = 0; i < ARRAY_LEN(own); i++) {
		const struct engine_device *dev = device_for(d, n, own[i]);
		if (!dev || !toolkit_here(f, own[i]))
			continue;
		ret->backend = own[i];
		ret->archs = archs_for(own[i], f, d, n);
		AUTO(mem_freep) char *kit = toolkit_text(f, own[i]);
		ret->why = mem_fmt("%s for %s%s%s%s", kit, dev->name, dev->arch[0] ? " (" : "", dev->arch,
			dev->arch[0] ? ")" : "");
		return;
	}
	const char *misses = toolkit_name(first->backend);
	if (toolkit_here(f, ENGINE_VULKAN)) {
		ret->backend = ENGINE_VULKAN;
		ret->why = first->backend == ENGINE_VULKAN
				   ? mem_fmt("Vulkan for %s", first->name)
				   : mem_fmt("Vulkan for %s, because %s is not here", first->name, misses);
		return;
	}
	ret->backend = cpu_instead ? ENGINE_CPU : first->backend;
	ret->archs = archs_for(ret->backend, f, d, n);
	ret->why = cpu_instead
			   ? mem_fmt("the CPU, because %s is not here: %s is not used", misses, first->name)
			   : mem_fmt("%s for %s", engine_backend_name(first->backend), first->name);
}

/* ---- CMake's words ------------------------------------------------------------------------------- */

static void define(struct strv *ret, const struct strv *theirs, const char *name, const char *value)
{
	if (value && !flag_of(theirs, name))
		strv_addf(ret, "-D%s=%s", name, value);
}

static void define_backend(const struct source_spec *s, const struct source_choice *c,
	const struct preflight_facts *f, const struct preflight_report *r, struct strv *ret)
{
	if (c->backend == ENGINE_CUDA) {
		define(ret, &s->flags, "GGML_CUDA", "ON");
		define(ret, &s->flags, "CMAKE_CUDA_COMPILER", f->tools[TOOL_NVCC].path);
		define(ret, &s->flags, "CMAKE_CUDA_ARCHITECTURES", c->archs);
		define(ret, &s->flags, "CMAKE_CUDA_HOST_COMPILER", r->cuda_host);
	} else if (c->backend == ENGINE_HIP) {
		define(ret, &s->flags, "GGML_HIP", "ON");
		define(ret, &s->flags, "GPU_TARGETS", c->archs);
		define(ret, &s->flags, "AMDGPU_TARGETS", c->archs); /* what older trees read */
		define(ret, &s->flags, "CMAKE_PREFIX_PATH", f->rocm_root);
	} else if (c->backend == ENGINE_VULKAN) {
		define(ret, &s->flags, "GGML_VULKAN", "ON");
	}
}

void source_defines(const struct source_spec *s, const struct source_choice *c,
	const struct preflight_facts *f, const struct preflight_report *r, struct strv *ret)
{
	static const char *const ours[][2] = {
		{ "CMAKE_BUILD_TYPE", "Release" },
		{ "BUILD_SHARED_LIBS", "OFF" }, /* one program that can be moved */
		{ "CMAKE_BUILD_RPATH_USE_ORIGIN",
			"ON" }, /* and where it is not one, its libraries beside it */
		{ "LLAMA_BUILD_SERVER", "ON" },
		{ "LLAMA_BUILD_TESTS", "OFF" },
		{ "LLAMA_CURL", "OFF" }, /* models come by Corral */
		{ "LLAMA_OPENSSL", "OFF" },
		{ "LLAMA_BUILD_UI", "OFF" }, /* would be fetched while it builds */
		{ "LLAMA_USE_PREBUILT_UI", "OFF" },
	};
	for (size_t i = 0; i < ARRAY_LEN(ours); i++)
		define(ret, &s->flags, ours[i][0], ours[i][1]);
	define_backend(s, c, f, r, ret);
	for (size_t i = 0; i < s->flags.len; i++)
		strv_addf(ret, "-D%s", s->flags.items[i]);
}

char *source_compiler(const struct preflight_facts *f, enum engine_backend b)
{
	static const enum preflight_tool kits[] = { [ENGINE_CPU] = TOOL_COUNT,
		[ENGINE_CUDA] = TOOL_NVCC,
		[ENGINE_HIP] = TOOL_HIPCC,
		[ENGINE_VULKAN] = TOOL_GLSLC };
	const struct preflight_tool_fact *cc = &f->tools[TOOL_CC], *cxx = &f->tools[TOOL_CXX];
	char *text = mem_fmt("%s %s", cc->clang ? "clang" : "gcc", cc->version ? cc->version : "unknown");
	if (!str_same(cc->version, cxx->version) || cc->clang != cxx->clang) {
		AUTO(mem_freep) char *c = text;
		text = mem_fmt("%s, %s %s", c, cxx->clang ? "clang++" : "g++",
			cxx->version ? cxx->version : "unknown");
	}
	if (kits[b] == TOOL_COUNT)
		return text;
	AUTO(mem_freep) char *host = text;
	const char *version = f->tools[kits[b]].version;
	return mem_fmt("%s, %s %s", host, preflight_tool_name(kits[b]), version ? version : "unknown");
}

static char *joined(const struct strv *v)
{
	AUTO(buf_done) struct buf b = BUF(256 * KIB);
	for (size_t i = 0; i < v->len; i++)
		(void)buf_addf(&b, "%s%s", i ? " " : "", v->items[i]);
	return b.len ? buf_take(&b) : mem_strdup("");
}

uint64_t source_disk(enum engine_backend b)
{
	return b == ENGINE_CPU ? GIB : b == ENGINE_VULKAN ? 2 * GIB : 4 * GIB;
}

void source_build_hash(const struct source_spec *s, const struct source_choice *c,
	const struct preflight_facts *f, const struct strv *defines, const char *commit, char out[17])
{
	AUTO(mem_freep) char *flags = joined(defines);
	AUTO(mem_freep) char *compiler = source_compiler(f, c->backend);
	AUTO(steps_done) struct steps all = { 0 };
	steps_add(&all, STEP_FETCH, s->repo, "-");
	steps_add(&all, STEP_VERIFY, commit, "-");
	steps_add(&all, STEP_CONFIGURE, flags, "-");
	steps_add(&all, STEP_BUILD, compiler, "-");
	steps_hash(&all, out);
}

void source_plan(const struct source_spec *s, const struct source_choice *c, const struct preflight_facts *f,
	const struct strv *defines, const struct source_commit *commit, struct steps *ret)
{
	AUTO(mem_freep) char *flags = joined(defines);
	AUTO(mem_freep) char *compiler = source_compiler(f, c->backend);
	AUTO(mem_freep) char *repo = url_redact(view_str(s->repo));
	const char *ref = commit && commit->name ? commit->name : s->ref ? s->ref : "the newest release";
	const char *id = commit ? commit->id : ref;
	AUTO(mem_freep) char *from = mem_fmt("%s %s", s->repo, id);
	AUTO(mem_freep) char *how = mem_fmt("%s %s", flags, compiler);
	steps_add(ret, STEP_PREFLIGHT, engine_backend_name(c->backend),
		"Check this machine for a build with %s.", c->why);
	steps_add(ret, STEP_FETCH, from, "Fetch %s%s%.12s%s of %s, with its submodules.", ref,
		commit && commit->name ? " (" : "", commit && commit->name ? id : "",
		commit && commit->name ? ")" : "", repo);
	steps_add(ret, STEP_VERIFY, id, "Check that what was fetched is that commit, whole.");
	steps_add(ret, STEP_CONFIGURE, how, "Configure with %s: %s.", compiler, flags);
	steps_add(ret, STEP_BUILD, SOURCE_TARGET, "Build %s.", SOURCE_TARGET);
	steps_add(ret, STEP_INSTALL, SOURCE_TARGET,
		"Run its --version, put it in its place, make it the current one.");
	steps_add(ret, STEP_CANARY, "one token",
		"Answer one token with the pool's own model on its own devices, when the pool starts it.");
}
