/* SPDX-License-Identifier: Apache-2.0
 *
 * What each mode takes, as steps: texts alone, out of the definition. A source build's plan is made in
 * source_plan.c, of what the machine has.
 */
#include <stdlib.h>

#include "provision/engine/engine_int.h"
#include "provision/engine/table.h"

static void plan_package(const struct engine_def *d, const char *backend, struct steps *ret)
{
	const char *env = getenv("CORRAL_PACKAGE_ARCHIVE");
	const char *archive = d->package_archive ? d->package_archive : env && *env ? env : NULL;
	AUTO(mem_freep) char *where = archive ? url_redact(view_str(archive)) : NULL;
	AUTO(mem_freep)
	char *key = mem_fmt("package %s %s %s", where ? where : "", d->package_suite ? d->package_suite : "",
		backend ? backend : "");
	if (!package_possible()) { /* no private apt: the system's own package manager */
		steps_add(ret, STEP_INSTALL, "system", "Install llama.cpp by the system's package manager.");
		return;
	}
	steps_add(ret, STEP_FETCH, key, "Read the package list and fetch what is needed from %s.",
		where ? where : "the archive apt uses");
	steps_add(ret, STEP_VERIFY, key, "Compare what came with the signed digests.");
	steps_add(ret, STEP_UNPACK, key, "Unpack it into a folder of ours.");
	steps_add(ret, STEP_INSTALL, key, "Run its --version, put it in its place, make it the current one.");
}

static void plan_archive(const struct engine_def *d, struct steps *ret)
{
	const struct engine_row *row = engine_row(d->kind);
	const char *program = d->program ? d->program : row && row->program ? row->program : "";
	const char *sha = d->sha256 ? d->sha256 : "";
	AUTO(mem_freep) char *where = url_redact(view_str(d->urls.items[0]));
	steps_add(ret, STEP_FETCH, where, "Fetch %s.", where);
	steps_add(ret, STEP_VERIFY, sha, "Compare it with engine.sha256 (%.12s…).", sha);
	steps_add(ret, STEP_UNPACK, sha, "Unpack it beside its place, then rename it.");
	steps_add(ret, STEP_INSTALL, program, "Find %s inside and run its --version.", program);
}

static void plan_container(const struct engine_def *d, const char *image, struct steps *ret)
{
	const char *runtime = d->runtime == ENGINE_RUNTIME_DOCKER   ? "docker"
			      : d->runtime == ENGINE_RUNTIME_PODMAN ? "podman"
								    : "podman or docker";
	AUTO(mem_freep) char *key = mem_fmt("%s %s", runtime, image ? image : "");
	steps_add(ret, STEP_FETCH, key, "Fetch the image %s by %s.", image ? image : "that is not set",
		runtime);
	steps_add(ret, STEP_VERIFY, key, "%s",
		image && strchr(image, '@') ? "Check that the image with that digest is here."
					    : "Pin its tag to the digest it has now.");
}

void engine_plan(const struct engine_def *d, enum engine_mode mode, const char *what, struct steps *ret)
{
	if (mode == ENGINE_MODE_PACKAGE)
		plan_package(d, what, ret);
	else if (mode == ENGINE_MODE_CONTAINER)
		plan_container(d, what, ret);
	else if (mode == ENGINE_MODE_BINARY && d->urls.len && !d->path)
		plan_archive(d, ret);
	else if (mode == ENGINE_MODE_BINARY)
		steps_add(ret, STEP_VERIFY, what ? what : "", "Run %s with --version.",
			what && *what ? what : "the program");
}

void engine_plan_pool(const char *model, const char *program, struct steps *ret)
{
	if (model)
		steps_add(ret, STEP_MODEL_FETCH, model, "Fetch %s, what of it is not here.", model);
	steps_add(ret, STEP_CANARY, program ? program : "one token",
		"Answer one token with the pool's own model on its own devices, when the pool starts it.");
}

void job_plan_mode(struct engine_job *j, enum engine_mode mode, const char *what)
{
	AUTO(steps_done) struct steps s = { 0 };
	char hash[STEPS_HASH_LEN + 1];
	engine_plan(&j->def, mode, what, &s);
	steps_hash(&s, hash);
	AUTO(mem_freep) char *name = mem_fmt("%s-%.8s", engine_mode_name(mode), hash);
	job_plan(j, &s, name);
}
