/* SPDX-License-Identifier: Apache-2.0
 *
 * One executable, several roles: the command line picks one.
 */
#include "cli/cli.h"
#include "role/engine_provisioner/engine_provisioner.h"
#include "role/engine_provisioner/engines.h"
#include "role/orchestratord/orchestratord.h"

static int serve(const struct cli_serve_opts *o)
{
	struct orchestratord_opts r = { .config = o->config,
		.source = o->source,
		.check_models = o->check_models,
		.owns_engines = true,
		.keep_engines = o->keep_engines,
		.ready_fd = o->ready_fd };
	return orchestratord_run(&r);
}

static int engines(const struct cli_engines_opts *o)
{
	struct engines_opts e = { .verb = o->verb,
		.config = o->config,
		.name = o->name,
		.to = o->to,
		.ret_changed = o->ret_changed,
		.ret_skipped = o->ret_skipped,
		.json = o->json,
		.force = o->force,
		.color = o->color };
	return engines_run(&e);
}

static int pull(const struct config *c, const struct cli_pull *p)
{
	struct agent_pull o = { .set = { .ref = (char *)(uintptr_t)p->ref,
					.mmproj = (char *)(uintptr_t)p->mmproj,
					.draft = (char *)(uintptr_t)p->draft,
					.lora = p->lora },
		.sha256 = p->sha256,
		.snapshot = p->snapshot,
		.on_event = p->on_event,
		.arg = p->arg };
	return engine_provisioner_pull(c, &o);
}

int main(int argc, char **argv)
{
	struct cli_roles roles = { .serve = serve,
		.pull = pull,
		.engine_provisioner = engine_provisioner_main,
		.engines = engines };
	return cli_main(argc, argv, &roles);
}
