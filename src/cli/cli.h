/* SPDX-License-Identifier: Apache-2.0
 *
 * The command line: a client of the API, and the door to the daemon's roles, which main hands in as
 * functions (the command line links no role). One file per subcommand; the table is in cli.c.
 */
#ifndef CLI_CLI_H
#define CLI_CLI_H

#include "config/config.h"

/* What the program's exit status says. */
enum {
	CLI_OK = 0,
	CLI_FAILED = 1,
	CLI_USAGE = 2 /* or a mistake in the configuration */,
	CLI_UNREACHABLE = 3
};

struct cli_serve_opts {
	struct config *config;              /* loaded and checked; the caller's, valid during the call */
	const struct config_source *source; /* how it was found, to load it again; valid during the call */
	/* What a reload asks of the models' files; on any thread. True: it is refused for what is in ret. */
	bool (*check_models)(const struct config *c, struct config_errors *ret);
	bool keep_engines;
	int ready_fd; /* one JSON line goes there once it serves; -1: none */
};
struct cli_engines_opts { /* corral engines VERB [NAME] */
	const char *verb;
	const struct config *config; /* the caller's, valid during the call */
	const char *name;            /* a pool, or a build; NULL: none was given */
	const char *to;              /* of upgrade: a ref, a version, an image's tag; NULL: the newest */
	bool json, force, color;
	bool *ret_changed; /* of upgrade: for each of config's pools: it has another build now */
	bool *ret_skipped; /* of upgrade: the configuration names the engine; NULL: that is an error */
};
struct cli_pull {                                  /* what is fetched without a daemon */
	const char *ref, *mmproj, *draft, *sha256; /* NULL: none */
	struct strv lora;
	bool snapshot;
	void (*on_event)(void *arg, struct view json); /* as the events of POST /v1/catalog/pull */
	void *arg;
};
struct cli_roles {
	int (*serve)(const struct cli_serve_opts *o);                  /* returns the exit status */
	int (*pull)(const struct config *c, const struct cli_pull *p); /* 0, or it told why not */
	int (*orchestratord)(int argc, char **argv);
	int (*engine_provisioner)(int argc, char **argv);
	int (*engines)(const struct cli_engines_opts *o); /* returns the exit status */
};
/* Started as orchestratord or engine-provisioner (argv[0], or as the first argument) it runs that role,
 * else the subcommand. Returns the exit status. */
int cli_main(int argc, char **argv, const struct cli_roles *roles);

#endif
