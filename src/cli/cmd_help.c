/* SPDX-License-Identifier: Apache-2.0
 *
 * corral help, corral version
 */
#include <stdio.h>

#include "cli/cli_int.h"

void command_help(const struct command *cmd, struct buf *out)
{
	buf_addf(out, "Usage: corral %s%s%s [OPTIONS]\n\n%s.\n\n%s", cmd->name, *cmd->args ? " " : "",
		cmd->args, cmd->summary, cmd->help);
}

static void overview(struct buf *out)
{
	buf_adds(out, "Usage: corral COMMAND [ARGUMENTS]\n\n"
		      "Corral runs pools of LLM engines on this machine behind one OpenAI-compatible "
		      "endpoint.\n\n");
	for (const struct command *c = cli_commands; c->name; c++)
		if (!c->hidden)
			buf_addf(out, "  %-10s %s\n", c->name, c->summary);
	buf_adds(out, "\nEvery command takes --help, --json and --config FILE. It speaks to $CORRAL_URL "
		      "(with $CORRAL_API_KEY),\n"
		      "else to the local daemon's socket.\n\n"
		      "Exit status: 0 done, 1 failed, 2 usage or configuration, 3 no daemon answers.\n\n"
		      "Examples:\n"
		      "  corral run ./model.gguf \"Hello\"\n"
		      "  corral serve --config corral.yaml\n"
		      "  corral ps\n");
}

int cmd_help(struct cli *c, const struct command *cmd, int argc, char **argv)
{
	int first, status;
	struct options o = { .max = 1 };
	AUTO(buf_done) struct buf b = BUF(64 * KIB);
	if (options_read(c, cmd, &o, argc, argv, &first, &status))
		return status;
	const struct command *about = first < argc ? command_find(argv[first]) : NULL;
	if (first < argc && !about) {
		complain("there is no command \"%.80s\"", argv[first]);
		return CLI_USAGE;
	}
	if (about)
		command_help(about, &b);
	else
		overview(&b);
	return say(&b);
}

int cmd_version(struct cli *c, const struct command *cmd, int argc, char **argv)
{
	int first, status;
	struct options o = { 0 };
	AUTO(buf_done) struct buf b = BUF(1 * KIB);
	if (options_read(c, cmd, &o, argc, argv, &first, &status))
		return status;
	buf_adds(&b, c->json ? "{\"version\":\"" CORRAL_VERSION "\"}\n" : "corral " CORRAL_VERSION "\n");
	return say(&b);
}
