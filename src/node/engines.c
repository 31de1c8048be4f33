/* SPDX-License-Identifier: Apache-2.0
 *
 * Engines as the node gets them: with what, and what of them the catalog keeps.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"
#include "gpu/monitor.h"
#include "node/models_int.h"
#include "provision/engine/steps.h"

static struct engine_trust trust_of(const struct model_ensure_opts *o)
{
	struct engine_trust none = { 0 };
	return !o ? none
		  : (struct engine_trust){ .strict = o->trust == MODEL_TRUST_STRICT,
			    .require_digest = o->require_digest,
			    .registries = &o->registries };
}

void engines_opts(struct node *n, bool on_cpu, struct engine_device *devices, struct engine_ensure_opts *ret)
{
	bool any = !on_cpu && n->gpus;
	if (n->opts.catalog)
		n->records = steps_store_catalog(n->opts.catalog);
	*ret = (struct engine_ensure_opts){
		.prefix_dir = n->builds_dir,
		.cache_dir = n->builds_dir,
		.allow_cpu = n->opts.allow_cpu || on_cpu,
		.offline = n->opts.offline,
		.devices = devices,
		.ndevices = any ? node_build_devices(gpu_monitor_list(n->gpus), devices, GPU_DEVICES_MAX) : 0,
		.cpu_instead = n->opts.gpu == GPU_POLICY_OPTIONAL,
		.build_jobs = n->opts.build_jobs,
		.allow_package_installs = n->opts.allow_package_installs,
		.policy = n->opts.fetch ? &n->opts.fetch->policy : NULL,
		.records = n->opts.catalog ? &n->records : NULL,
		.trust = trust_of(n->opts.fetch),
		.fetch_program = n->opts.fetch ? n->opts.fetch->fetch_program : NULL,
	};
}

/* The same program is the same row, however often it is looked up. */
void engines_remember(struct node *n, const struct engine_build *b)
{
	uint64_t h = 0xcbf29ce484222325u;
	if (!n->opts.catalog || !b->program || b->external)
		return;
	const char *what = b->image ? b->image : b->program;
	for (const char *c = what; *c; c++)
		h = (h ^ (unsigned char)*c) * 0x100000001b3u;
	struct catalog_engine e = {
		.id = mem_fmt("%s-%s-%08" PRIx64, engine_kind_name(b->kind), engine_mode_name(b->mode),
			h & 0xffffffff),
		.engine = mem_strdup(engine_kind_name(b->kind)),
		.version = mem_strdup(b->version),
		.source = mem_strdup(engine_mode_name(b->mode)),
		.commit = mem_strdup(b->commit),
		.digest = mem_strdup(b->image),
		.flags = mem_strdup(b->flags),
		.features = b->features   ? mem_strdup(b->features)
			    : b->cpu_only ? mem_strdup("CPU")
					  : NULL,
		.folder = b->image ? NULL : mem_strdup(b->program),
		.created_ms = wall_ms(),
		.used_ms = wall_ms(),
	};
	char *slash = e.folder ? strrchr(e.folder, '/') : NULL;
	if (slash && slash != e.folder)
		*slash = '\0';
	catalog_engine_put(n->opts.catalog, &e);
	catalog_engine_done(&e);
}

/* ---- a pool's own steps ----------------------------------------------------------------------------------
 */

void engines_note_model(struct node *n, const char *ref, bool begun, const char *failed)
{
	if (!n->opts.catalog)
		return;
	struct steps_store st = steps_store_catalog(n->opts.catalog);
	struct steps_record r = { 0 };
	(void)!steps_noted(&st, STEP_MODEL_FETCH, ref, &r);
	steps_record_done(&(struct steps_record){ .detail = MEM_TAKE(r.detail), .log = MEM_TAKE(r.log) });
	r.started_ms = begun || !r.started_ms ? wall_ms() : r.started_ms;
	r.ended_ms = begun ? 0 : wall_ms();
	r.state = begun ? STEPS_RUNNING : failed ? STEPS_FAILED : STEPS_DONE;
	r.detail = (char *)(uintptr_t)failed;
	(void)!steps_note(&st, STEP_MODEL_FETCH, ref, &r);
}

/* What a build of ours is called in `corral engines ls`; else the program. */
static const char *build_name(const struct engine_build *b, char **own)
{
	if (b->image)
		return b->image;
	AUTO(mem_freep) char *path = mem_strdup(b->program);
	for (char *at = path; at && (at = strchr(at, '/'));) {
		char *end = strchr(++at, '/');
		bool ours = strncmp(at, "source-", 7) == 0 || strncmp(at, "package-", 8) == 0 ||
			    strncmp(at, "binary-", 7) == 0;
		if (ours && end) {
			*own = mem_viewdup(view_of(at, (size_t)(end - at)));
			return *own;
		}
	}
	return b->program;
}

void engines_note_canary(struct replica *r, const char *failed)
{
	struct pool *p = r->pool;
	if (!r->node->opts.catalog || !p || !p->have_build || p->build.external || !p->build.program)
		return;
	AUTO(mem_freep) char *own = NULL;
	AUTO(mem_freep) char *key = mem_fmt("%s %s", p->conf.id, build_name(&p->build, &own));
	struct steps_store st = steps_store_catalog(r->node->opts.catalog);
	struct steps_record was = { 0 };
	bool known = !failed && steps_noted(&st, STEP_CANARY, key, &was) == 0 && was.state == STEPS_DONE;
	steps_record_done(&was);
	struct steps_record now = { .state = failed ? STEPS_FAILED : STEPS_DONE,
		.started_ms = wall_ms(),
		.ended_ms = wall_ms(),
		.detail = (char *)(uintptr_t)failed };
	if (!known)
		(void)!steps_note(&st, STEP_CANARY, key, &now);
}
