/* SPDX-License-Identifier: Apache-2.0
 *
 * What a definition comes to here, and the way back to what it came to before.
 */
#include <stdlib.h>
#include <unistd.h>

#include "provision/engine/auto.h"
#include "provision/engine/builds.h"
#include "provision/engine/engine_int.h"
#include "provision/engine/source.h"
#include "provision/engine/table.h"

void engine_outlook_done(struct engine_outlook *l)
{
	free(l->what);
	free(l->name);
	free(l->version);
	free(l->digest);
	*l = (struct engine_outlook){ 0 };
}

static const char *cache_of(const struct engine_ensure_opts *o)
{
	return o->cache_dir ? o->cache_dir : o->prefix_dir;
}

static void look_source(
	const struct engine_def *d, const struct engine_ensure_opts *o, struct engine_outlook *l)
{
	struct source_spec spec;
	struct source_names n;
	struct engine_build b = { 0 };
	struct source_record r;
	if (source_spec_init(&spec, d, NULL) < 0)
		return;
	source_names_init(&n, &spec, o->prefix_dir);
	l->here = source_provisioned(&n, o->devices, o->ndevices, o->cpu_instead, &b);
	if (source_record_read(n.pointer, &r) == 0) {
		l->name = MEM_TAKE(r.folder);
		l->version = MEM_TAKE(r.version);
		l->digest = MEM_TAKE(r.commit);
		source_record_done(&r);
	}
	engine_build_done(&b);
	source_names_done(&n);
	source_spec_done(&spec);
	AUTO(mem_freep) char *folder = l->name ? mem_fmt("%s/llamacpp/%s", o->prefix_dir, l->name) : NULL;
	l->bytes = folder ? tree_size(folder) : 0;
}

static void look_package(const struct engine_def *d, const struct engine_ensure_opts *o,
	enum engine_backend backend, struct engine_outlook *l)
{
	struct package_names n;
	struct package_record r;
	struct engine_build b = { 0 };
	l->what = mem_strdup(package_backend_word(backend));
	if (package_names_init(&n, d, backend, o->prefix_dir, cache_of(o), NULL) < 0)
		return;
	if (package_record_read(n.record, &r) == 0) {
		AUTO(mem_freep) char *folder = path_join(n.dir, r.folder);
		l->here = package_build_of(&n, &r, NULL, &b);
		l->bytes = l->here ? tree_size(folder) : 0;
		l->name = MEM_TAKE(r.folder);
		l->version = MEM_TAKE(r.package);
		package_record_done(&r);
	}
	engine_build_done(&b);
	package_names_done(&n);
}

static void look_archive(
	const struct engine_def *d, const struct engine_ensure_opts *o, struct engine_outlook *l)
{
	AUTO(mem_freep) char *folder = archive_folder(o->prefix_dir, d);
	l->here = folder && file_exists(folder);
	if (!l->here)
		return;
	l->name = mem_strdup(strrchr(folder, '/') + 1);
	l->digest = mem_strdup(d->sha256);
	l->bytes = tree_size(folder);
}

static void look_image(
	const struct engine_def *d, const struct engine_ensure_opts *o, struct engine_outlook *l)
{
	l->what = container_image(d, o->devices, o->ndevices);
	if (!l->what)
		return;
	AUTO(mem_freep) char *pin = container_pin_file(o->prefix_dir, l->what);
	l->name = strchr(l->what, '@') ? mem_strdup(l->what) : container_pin_read(pin);
	const char *digest = l->name ? strstr(l->name, "@sha256:") : NULL;
	l->digest = mem_strdup(digest ? digest + 1 : NULL);
	l->here = digest && l->name != NULL && !strchr(l->what, '@');
}

static void look_program(const struct engine_def *d, struct engine_outlook *l)
{
	const struct engine_row *row = engine_row(d->kind);
	const char *env = getenv("CORRAL_LLAMA_SERVER");
	bool open = d->mode == ENGINE_MODE_AUTO && d->kind == ENGINE_LLAMACPP && env && *env;
	const char *name = d->kind == ENGINE_COMMAND ? (d->command.len ? d->command.items[0] : "")
			   : d->path                 ? d->path
			   : open                    ? env
			   : row && row->program     ? row->program
						     : "";
	l->what = *name ? tool_find(name) : NULL;
	l->here = l->what != NULL;
}

static enum engine_mode mode_of(
	const struct engine_def *d, const struct engine_ensure_opts *o, enum engine_backend *ret_backend)
{
	struct auto_choice c = { .mode = d->mode == ENGINE_MODE_AUTO ? ENGINE_MODE_BINARY : d->mode };
	if (d->kind == ENGINE_LLAMACPP && (d->mode == ENGINE_MODE_AUTO || d->mode == ENGINE_MODE_PACKAGE))
		auto_choose(d, o, &c);
	free(c.program);
	*ret_backend = c.backend;
	return c.mode;
}

void engine_outlook_read(
	const struct engine_def *d, const struct engine_ensure_opts *o, struct engine_outlook *l)
{
	enum engine_backend backend;
	*l = (struct engine_outlook){ .mode = mode_of(d, o, &backend) };
	if (l->mode == ENGINE_MODE_EXTERNAL)
		l->here = true;
	else if (d->kind == ENGINE_COMMAND)
		look_program(d, l);
	else if (l->mode == ENGINE_MODE_SOURCE)
		look_source(d, o, l);
	else if (l->mode == ENGINE_MODE_PACKAGE)
		look_package(d, o, backend, l);
	else if (l->mode == ENGINE_MODE_CONTAINER)
		look_image(d, o, l);
	else if (d->urls.len && !d->path)
		look_archive(d, o, l);
	else
		look_program(d, l);
}

int engine_upgrade_check(const struct engine_outlook *l, struct err *reterr)
{
	bool ours = l->mode == ENGINE_MODE_SOURCE || l->mode == ENGINE_MODE_PACKAGE ||
		    (l->mode == ENGINE_MODE_CONTAINER && !(l->what && strchr(l->what, '@')));
	return ours ? 0
		    : err_set(reterr, -EINVAL,
			      "that pool's engine is the one that the configuration names (a path, an "
			      "archive or "
			      "an image by its digest, a server that runs already): name another one there");
}

/* ---- back ---------------------------------------------------------------------------------------- */

static int back_source(const struct engine_def *d, const char *prefix_dir, char **ret, struct err *reterr)
{
	struct source_spec spec;
	struct source_names n;
	struct source_record now;
	int r = source_spec_init(&spec, d, reterr);
	if (r)
		return r;
	source_names_init(&n, &spec, prefix_dir);
	r = source_rollback(&n, &now, reterr);
	if (!r) {
		*ret = mem_fmt("%s %s (%.12s)", now.folder, now.version ? now.version : "", now.commit);
		source_record_done(&now);
	}
	source_names_done(&n);
	source_spec_done(&spec);
	return r;
}

/* A kill at any moment leaves the one or the other, never one of them alone. */
static int back(const char *now, const char *last, struct err *reterr)
{
	int r = file_swap(now, last);
	return r ? err_set(reterr, r, "%s cannot be written: %s", now, strerror(-r)) : 0;
}

static int back_package(const struct engine_def *d, const struct engine_ensure_opts *o,
	enum engine_backend backend, char **ret, struct err *reterr)
{
	struct package_names n;
	struct package_record last = { 0 };
	struct engine_build b = { 0 };
	int r = package_names_init(&n, d, backend, o->prefix_dir, cache_of(o), reterr);
	if (r)
		return r;
	if (package_record_read(n.last, &last) < 0)
		r = err_set(reterr, -ENOENT, "there is no package before the current one to go back to");
	else if (!package_build_of(&n, &last, NULL, &b))
		r = err_set(reterr, -ENOENT, "the package before, %s, is not there any more", last.folder);
	else
		r = back(n.record, n.last, reterr);
	if (!r)
		*ret = mem_fmt("%s (llama.cpp %s)", last.folder, last.version);
	engine_build_done(&b);
	package_record_done(&last);
	package_names_done(&n);
	return r;
}

static int back_image(
	const struct engine_def *d, const struct engine_ensure_opts *o, char **ret, struct err *reterr)
{
	AUTO(mem_freep) char *image = container_image(d, o->devices, o->ndevices);
	if (!image || strchr(image, '@'))
		return err_set(reterr, -EINVAL,
			"engine.image names its image by digest: name the one before in the configuration");
	AUTO(mem_freep) char *pin = container_pin_file(o->prefix_dir, image);
	AUTO(mem_freep) char *old = container_pin_last(pin);
	AUTO(mem_freep) char *last = container_pin_read(old);
	if (!last)
		return err_set(reterr, -ENOENT, "there is no image before the current one to go back to");
	int r = back(pin, old, reterr);
	if (!r)
		*ret = MEM_TAKE(last);
	return r;
}

int engine_rollback(
	const struct engine_def *d, const struct engine_ensure_opts *o, char **ret, struct err *reterr)
{
	enum engine_backend backend;
	enum engine_mode m = mode_of(d, o, &backend);
	if (m == ENGINE_MODE_SOURCE)
		return back_source(d, o->prefix_dir, ret, reterr);
	if (m == ENGINE_MODE_PACKAGE)
		return back_package(d, o, backend, ret, reterr);
	if (m == ENGINE_MODE_CONTAINER)
		return back_image(d, o, ret, reterr);
	return err_set(reterr, -EINVAL,
		"its engine is the one that the configuration names (%s): there is nothing of Corral's to go "
		"back to",
		m == ENGINE_MODE_BINARY ? "engine.path, or engine.url with its sha256" : engine_mode_name(m));
}
