/* SPDX-License-Identifier: Apache-2.0
 *
 * corral engines plan|provision|ls|rm|rollback|outdated|upgrade: the words are read here; the node's side,
 * which works without a daemon, does it.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli_int.h"

enum { OPT_FORCE = 1, OPT_TO, OPT_POOL };

struct engines_args {
	bool force;
	const char *to, *pool;
};

static int on_option(void *arg, int opt, const char *value)
{
	struct engines_args *a = arg;
	if (opt == OPT_TO)
		a->to = value;
	else if (opt == OPT_POOL)
		a->pool = value;
	else
		a->force = true;
	return 0;
}

static const struct {
	const char *name;
	int min, max; /* names behind it */
} verbs[] = { { "plan", 0, 1 }, { "provision", 0, 1 }, { "ls", 0, 0 }, { "rm", 1, 1 }, { "rollback", 1, 1 },
	{ "outdated", 0, 1 }, { "upgrade", 0, 1 } };

static int check(const char *verb, int names)
{
	for (size_t i = 0; i < ARRAY_LEN(verbs); i++) {
		if (strcmp(verb, verbs[i].name) != 0)
			continue;
		if (names >= verbs[i].min && names <= verbs[i].max)
			return 0;
		complain("engines %s: %s", verb,
			names < verbs[i].min ? "say which one" : "too many names were given");
		hint("corral engines --help");
		return CLI_USAGE;
	}
	complain("engines: there is no \"%.40s\"", verb);
	hint("plan, provision, ls, rm, rollback, outdated and upgrade are there; corral engines --help");
	return CLI_USAGE;
}

static int check_options(const char *verb, const struct engines_args *a)
{
	bool upgrades = strcmp(verb, "upgrade") == 0, removes = strcmp(verb, "rm") == 0;
	if (upgrades ? !a->force : !a->to && !a->pool && (removes || !a->force))
		return 0;
	complain("engines %s does not take %s", verb,
		!upgrades && a->to ? "--to"
		: a->force         ? "--force"
				   : "--pool");
	hint("corral engines --help");
	return CLI_USAGE;
}

int cmd_engines(struct cli *c, const struct command *cmd, int argc, char **argv)
{
	static const struct option longs[] = { { "force", no_argument, NULL, OPT_FORCE },
		{ "to", required_argument, NULL, OPT_TO }, { "pool", required_argument, NULL, OPT_POOL },
		{ 0 } };
	struct engines_args args = { 0 };
	struct options o = { .longs = longs, .fn = on_option, .arg = &args, .min = 1, .max = 2 };
	AUTO(config_unrefp) struct config *cfg = NULL;
	int first, status;
	if (options_read(c, cmd, &o, argc, argv, &first, &status))
		return status;
	const char *verb = argv[first], *name = first + 1 < argc ? argv[first + 1] : NULL;
	if ((status = check(verb, argc - first - 1)) || (status = check_options(verb, &args)))
		return status;
	struct config_source src = { .path = c->config_path };
	if ((status = config_load_or_say(&src, &cfg)))
		return status;
	if (name && strcmp(verb, "upgrade") == 0 && strcmp(name, "llamacpp") == 0)
		name = args.pool; /* NULL: all that are built */
	else if (args.pool)
		name = args.pool;
	if (name && strcmp(verb, "rm") != 0) {
		const struct config_pool *p = config_pool_find(cfg, view_str(name));
		if (!p) {
			complain("engines %s: there is no pool \"%.80s\" in the configuration", verb, name);
			return CLI_USAGE;
		}
		name = p->id; /* it may be an alias */
	}
	struct cli_engines_opts e = { .verb = verb,
		.config = cfg,
		.name = name,
		.to = args.to,
		.json = c->json,
		.force = args.force,
		.color = color_for(STDERR_FILENO) };
	if (strcmp(verb, "upgrade") == 0)
		return engines_upgrade(c, &e);
	if (strcmp(verb, "rm") == 0)
		return engines_drop(c, &e);
	return strcmp(verb, "rollback") == 0 ? engines_rollback(c, &e) : c->roles->engines(&e);
}
