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

void engines_opts(
	const struct node *n, bool on_cpu, struct engine_device *devices, struct engine_ensure_opts *ret)
{
	bool any = !on_cpu && n->gpus;
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
