/* SPDX-License-Identifier: Apache-2.0
 *
 * One executable, several roles: the command line picks one.
 */
#include "cli/cli.h"
#include "role/engine_provisioner/engine_provisioner.h"
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

int main(int argc, char **argv)
{
	struct cli_roles roles = { .serve = serve, .engine_provisioner = engine_provisioner_main };
	return cli_main(argc, argv, &roles);
}
