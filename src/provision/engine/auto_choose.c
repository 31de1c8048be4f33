/* SPDX-License-Identifier: Apache-2.0
 *
 * engine.mode auto: what is here, and which way would be taken. By files alone: nothing is started or asked.
 */
#include <stdlib.h>

#include "base/num.h"
#include "provision/engine/auto.h"
#include "provision/engine/source.h"

/* ---- what is here -------------------------------------------------------------------------------- */

static char *under_root(const char *path)
{
	const char *root = getenv("CORRAL_PREFLIGHT_ROOT"); /* tests: another machine's files */
	return mem_fmt("%s%s", root ? root : "", path);
}

static bool here(const char *path)
{
	AUTO(mem_freep) char *full = under_root(path);
	return file_exists(full);
}

static bool folder_has(const char *path, const char *word)
{
	AUTO(mem_freep) char *full = under_root(path);
	AUTO(strv_done) struct strv names = { 0 };
	bool found = false;
	dir_names(full, false, &names);
	for (size_t i = 0; i < names.len && !found; i++)
		found = strstr(names.items[i], word) != NULL;
	return found;
}

bool auto_vulkan_driver(void)
{
	static const char *const folders[] = { "/etc/vulkan/icd.d", "/usr/share/vulkan/icd.d",
		"/usr/local/share/vulkan/icd.d" };
	static const char *const makers[] = { "nvidia", "radeon", "intel", "amd" };
	for (size_t i = 0; i < ARRAY_LEN(folders); i++)
		for (size_t m = 0; m < ARRAY_LEN(makers); m++)
			if (folder_has(folders[i], makers[m]))
				return true;
	return false;
}

enum engine_backend auto_backend(const struct engine_device *d, size_t n)
{
	enum engine_backend b = n ? d[0].backend : ENGINE_CPU;
	for (size_t i = 1; i < n; i++)
		if (d[i].backend != b)
			b = ENGINE_VULKAN; /* the one that all makers have */
	return b;
}

bool auto_hip_driver(void)
{
	return here("/dev/kfd");
}

const char *auto_container_lacks(enum engine_backend b, bool docker)
{
	if (b == ENGINE_HIP)
		return auto_hip_driver() ? NULL : "/dev/kfd is not there";
	if (b == ENGINE_VULKAN)
		return here("/dev/dri") ? NULL : "/dev/dri is not there";
	if (!docker)
		return folder_has("/etc/cdi", "nvidia") || folder_has("/var/run/cdi", "nvidia")
			       ? NULL
			       : "no CDI description of the GPUs (nvidia-ctk cdi generate)";
	AUTO(mem_freep) char *ctk = tool_find("nvidia-container-runtime");
	return ctk ? NULL : "the NVIDIA container toolkit is not installed";
}

/* ---- what a program listed ------------------------------------------------------------------------- */

/* Asked once a boot and number of GPUs: a driver may come or go. */
static char *list_key(size_t ndevices)
{
	AUTO(buf_done) struct buf b = BUF(128);
	if (file_read("/proc/sys/kernel/random/boot_id", &b) < 0)
		buf_reset(&b);
	return mem_fmt("%zu/%.*s", ndevices, VIEW_ARG(view_cut(buf_view(&b), view_find(buf_view(&b), '\n'))));
}

void auto_list_remember(const char *prefix_dir, size_t ndevices, const char *program, size_t n)
{
	AUTO(mem_freep) char *file = path_join(prefix_dir, "devices");
	AUTO(mem_freep) char *key = list_key(ndevices);
	AUTO(mem_freep) char *said = mem_fmt("%s=%zu", key, n);
	probe_remember(file, program, said);
}

bool auto_list_known(const char *prefix_dir, size_t ndevices, const char *program, size_t *ret)
{
	AUTO(mem_freep) char *file = path_join(prefix_dir, "devices");
	AUTO(mem_freep) char *known = probe_cached(file, program);
	AUTO(mem_freep) char *key = list_key(ndevices);
	struct view number;
	uint64_t n;
	if (!known || !view_eqs(view_split(view_str(known), '=', &number), key) || num_u64(number, &n))
		return false;
	*ret = (size_t)n;
	return true;
}

bool auto_package_is_made(const struct engine_def *d, const struct engine_ensure_opts *o,
	enum engine_backend b, const char *note, struct engine_build *ret)
{
	struct package_names n;
	if (package_names_init(&n, d, b, o->prefix_dir, o->cache_dir ? o->cache_dir : o->prefix_dir, NULL) <
		0)
		return false;
	bool there = package_provisioned(&n, note, ret);
	package_names_done(&n);
	return there;
}

/* ---- what would be taken ------------------------------------------------------------------------- */

/* As far as it was asked already. */
static bool may_list(const struct engine_ensure_opts *o, const char *program)
{
	size_t n;
	return !o->ndevices || !auto_list_known(o->prefix_dir, o->ndevices, program, &n) || n;
}

static bool takes_package(
	const struct engine_def *d, const struct engine_ensure_opts *o, enum engine_backend b, bool made)
{
	struct engine_build build = { 0 };
	bool there = auto_package_is_made(d, o, b, NULL, &build), lists = there && may_list(o, build.program);
	engine_build_done(&build);
	if (made || there)
		return made && lists;
	return !o->offline && package_possible() &&
	       (b == ENGINE_VULKAN ? auto_vulkan_driver() : auto_hip_driver());
}

static bool takes_container(
	const struct engine_def *d, const struct engine_ensure_opts *o, enum engine_backend b)
{
	bool docker;
	AUTO(mem_freep) char *program = container_runtime(d->runtime, &docker);
	return program && !o->offline && !auto_container_lacks(b, docker);
}

/* One that uses the GPUs, in the order of the ways; false: none. */
static bool choose_for_gpus(
	const struct engine_def *d, const struct engine_ensure_opts *o, struct auto_choice *ret)
{
	bool any = d->mode == ENGINE_MODE_AUTO;
	enum engine_backend b = auto_backend(o->devices, o->ndevices);
	for (int made = 1; made >= 0; made--) {
		bool image = made ? container_is_pinned(d, o) : takes_container(d, o, b);
		if (!made && any && source_is_possible(d, o))
			ret->mode = ENGINE_MODE_SOURCE;
		else if (!made && any && image)
			ret->mode = ENGINE_MODE_CONTAINER;
		else if (takes_package(d, o, ENGINE_VULKAN, made))
			ret->backend = ENGINE_VULKAN;
		else if (b == ENGINE_HIP && takes_package(d, o, ENGINE_HIP, made))
			ret->backend = ENGINE_HIP;
		else if (made && any && image)
			ret->mode = ENGINE_MODE_CONTAINER;
		else
			continue;
		return true;
	}
	return false;
}

void auto_choose(const struct engine_def *d, const struct engine_ensure_opts *o, struct auto_choice *ret)
{
	bool any = d->mode == ENGINE_MODE_AUTO;
	const char *named = any ? getenv("CORRAL_LLAMA_SERVER") : NULL;
	*ret = (struct auto_choice){ .mode = ENGINE_MODE_PACKAGE, .backend = ENGINE_CPU };
	if (named && *named) {
		*ret = (struct auto_choice){ .mode = ENGINE_MODE_BINARY, .program = mem_strdup(named) };
		return;
	}
	AUTO(mem_freep) char *installed = any ? tool_find("llama-server") : NULL;
	bool lists = installed && may_list(o, installed);
	if (!lists && any && source_is_made(d, o))
		ret->mode = ENGINE_MODE_SOURCE;
	else if (!lists && o->ndevices && choose_for_gpus(d, o, ret))
		return;
	else if (installed)
		*ret = (struct auto_choice){
			.mode = ENGINE_MODE_BINARY, .program = MEM_TAKE(installed), .lists_none = !lists
		};
}
