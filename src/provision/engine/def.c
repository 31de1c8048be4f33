/* SPDX-License-Identifier: Apache-2.0
 *
 * Names, copies and ends of the plain structs in engine.h.
 */
#include <stdlib.h>

#include "base/mem.h"
#include "provision/engine/engine.h"

static const char *const kind_names[] = { "llamacpp", "openai", "command", "vllm", "sglang", "tgi",
	"triton" };
static const char *const mode_names[] = { "auto", "external", "binary", "package", "source", "container" };
static const char *const backend_names[] = { "CPU", "CUDA", "HIP", "Vulkan" };
static_assert(ARRAY_LEN(kind_names) == ENGINE_TRITON + 1, "one name per kind");
static_assert(ARRAY_LEN(mode_names) == ENGINE_MODE_CONTAINER + 1, "one name per mode");

const char *engine_kind_name(enum engine_kind k)
{
	return (size_t)k < ARRAY_LEN(kind_names) ? kind_names[k] : "unknown";
}

const char *engine_mode_name(enum engine_mode m)
{
	return (size_t)m < ARRAY_LEN(mode_names) ? mode_names[m] : "unknown";
}

const char *engine_backend_name(enum engine_backend b)
{
	return (size_t)b < ARRAY_LEN(backend_names) ? backend_names[b] : "unknown";
}

void engine_def_done(struct engine_def *d)
{
	free(d->path);
	free(d->sha256);
	free(d->program);
	free(d->image);
	strv_done(&d->urls);
	strv_done(&d->command);
	strv_done(&d->stop_command);
	free(d->package_archive);
	free(d->package_suite);
	free(d->package_keyring);
	free(d->source_repo);
	free(d->source_ref);
	strv_done(&d->source_flags);
	strv_done(&d->args);
	strv_done(&d->env);
	free(d->health);
	*d = (struct engine_def){ 0 };
}

void engine_def_copy(struct engine_def *to, const struct engine_def *from)
{
	*to = (struct engine_def){ .kind = from->kind, .mode = from->mode, .runtime = from->runtime };
	to->sha256 = mem_strdup(from->sha256);
	to->program = mem_strdup(from->program);
	to->image = mem_strdup(from->image);
	to->path = mem_strdup(from->path);
	strv_copy(&to->urls, &from->urls);
	strv_copy(&to->command, &from->command);
	strv_copy(&to->stop_command, &from->stop_command);
	to->package_archive = mem_strdup(from->package_archive);
	to->package_suite = mem_strdup(from->package_suite);
	to->package_keyring = mem_strdup(from->package_keyring);
	to->source_repo = mem_strdup(from->source_repo);
	to->source_ref = mem_strdup(from->source_ref);
	strv_copy(&to->source_flags, &from->source_flags);
	strv_copy(&to->args, &from->args);
	strv_copy(&to->env, &from->env);
	to->health = mem_strdup(from->health);
}

void engine_build_done(struct engine_build *b)
{
	free(b->program);
	strv_done(&b->prefix_args);
	strv_done(&b->env);
	free(b->cwd);
	free(b->version);
	free(b->image);
	free(b->why);
	free(b->commit);
	free(b->flags);
	free(b->features);
	*b = (struct engine_build){ 0 };
}

void engine_build_copy(struct engine_build *to, const struct engine_build *from)
{
	*to = (struct engine_build){ .kind = from->kind, .mode = from->mode, .external = from->external };
	to->program = mem_strdup(from->program);
	strv_copy(&to->prefix_args, &from->prefix_args);
	strv_copy(&to->env, &from->env);
	to->cwd = mem_strdup(from->cwd);
	to->version = mem_strdup(from->version);
	to->image = mem_strdup(from->image);
	to->docker = from->docker;
	to->why = mem_strdup(from->why);
	to->cpu_only = from->cpu_only;
	to->commit = mem_strdup(from->commit);
	to->flags = mem_strdup(from->flags);
	to->features = mem_strdup(from->features);
}

void engine_launch_done(struct engine_launch *l)
{
	strv_done(&l->argv);
	strv_done(&l->env);
	strv_done(&l->stop_argv);
	free(l->cwd);
	free(l->address);
	free(l->health_path);
	free(l->serves);
	for (size_t i = 0; i < l->nfiles; i++) {
		free(l->files[i].path);
		free(l->files[i].text);
	}
	*l = (struct engine_launch){ 0 };
}
