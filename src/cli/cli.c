/* SPDX-License-Identifier: Apache-2.0
 *
 * The table of subcommands, and who is started under which name.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"
#include "cli/cli_int.h"

#define COMMON                                                                                               \
	"  --config FILE    the configuration file\n"                                                        \
	"  --json           JSON instead of text\n"                                                          \
	"  -h, --help       this text\n"

#define CONTROL(verb, what, example)                                                                         \
	{                                                                                                    \
		verb, "POOL", what, COMMON "\nExamples:\n" example, cmd_control, false                       \
	}

const struct command cli_commands[] = {
	{ "serve", "", "Run the daemon in the foreground",
		"  --listen ADDR    instead of the file's listen; may be given several times\n"
		"  --set KEY=VALUE  override one key, as in --set log.level=debug\n"
		"  --watch          read the file again when it changes (the key watch)\n"
		"  --keep-engines   leave the engines running when it ends\n"
		"  --ready-fd N     write one JSON line to descriptor N once it serves\n" COMMON
		"\nExamples:\n"
		"  corral serve\n"
		"  corral serve --config corral.yaml --listen 127.0.0.1:0\n",
		cmd_serve, false },
	{ "run", "MODEL [PROMPT]", "Talk to a model; starts the daemon if none runs",
		"  MODEL is a pool's id or alias, or a .gguf file. Without PROMPT: a chat on a terminal, "
		"else the prompt is\n"
		"  read from the standard input. In the chat /exit leaves and Ctrl-C stops the answer.\n\n"
		"  --system TEXT    a system message\n"
		"  --max-tokens N   stop after so many tokens\n" COMMON "\nExamples:\n"
		"  corral run chat \"Why is the sky blue?\"\n"
		"  corral run ./model.gguf\n"
		"  git diff | corral run coder\n",
		cmd_run, false },
	{ "ps", "", "Replicas: state, slots, queue, device",
		COMMON "\nExamples:\n  corral ps\n  corral ps --json\n", cmd_ps, false },
	{ "pools", "[ID]", "All pools, or everything about one",
		COMMON "\nExamples:\n  corral pools\n  corral pools chat\n", cmd_pools, false },
	{ "models", "[ls | show ID | rm ID | verify ID | retire ID | activate ID | gc --dry-run]",
		"What is served, and what lies on the disk",
		"  ls               what was fetched or has been served, with its files' state\n"
		"  show ID          all that is known of one: files, digests, revision\n"
		"  rm ID            removes its files; not of one that is served or pinned\n"
		"  verify ID        reads its files and compares their digests\n"
		"  retire ID        it takes no new work; activate takes it back\n"
		"  gc --dry-run     what could go, the least valuable first\n" COMMON
		"\nExamples:\n  corral models\n  corral models ls --json\n  corral models rm "
		"org-repo-q4_k_m\n",
		cmd_models, false },
	{ "pull", "REFERENCE", "Fetches a model, with the daemon or without one",
		"  org/repo[:QUANT], hf:org/repo/file.gguf, ollama:NAME:TAG, https://..., s3://BUCKET/KEY,\n"
		"  oci://REGISTRY/NAME. What is here already is not fetched again; what was broken off goes "
		"on.\n"
		"  --mmproj REF     its projector (none: no projector)\n"
		"  --draft REF      a draft model\n"
		"  --lora REF       an adapter; may be given again\n"
		"  --sha256 HEX     what the one file must be\n"
		"  --snapshot       the whole repository, for engines that take folders\n" COMMON
		"\nExamples:\n  corral pull ggml-org/gemma-3-4b-it-GGUF:Q4_K_M\n"
		"  corral pull ollama:llama3.2:3b --json\n",
		cmd_pull, false },
	{ "requests", "[cancel ID]", "Requests in flight and lately ended; ends one",
		"  -f, --follow     go on: a line for each that is new or in another state\n"
		"  --slow           those that took twice the pool's usual, or give tokens at half its "
		"speed\n"
		"  --pool POOL      of one pool\n"
		"  -n, --lines N    the last N that ended (20); those in flight are always shown\n" COMMON
		"\nExamples:\n  corral requests\n  corral requests -f --pool chat\n"
		"  corral requests cancel 0034f1c29a07\n",
		cmd_requests, false },
	{ "devices", "", "GPUs and the CPU: memory, load, who holds what",
		COMMON "\nExamples:\n  corral devices\n  corral devices --json\n", cmd_devices, false },
	{ "engines",
		"plan [POOL] | provision [POOL] | ls | rm BUILD | rollback POOL | outdated [POOL] | upgrade "
		"[POOL]",
		"Engines: how they get here, getting them now, what lies here",
		"  plan             the steps for a pool's engine (for all), and what is missing for them\n"
		"  provision        do them now; what is done already is not done again\n"
		"  ls               builds on the disk\n"
		"  rm BUILD         remove one: its folder, version or commit (a beginning will do)\n"
		"  rollback POOL    back to the build before; once more undoes it\n"
		"  outdated         whether the repositories have newer ones (asks them)\n"
		"  upgrade          build what a pool's ref is now (or --to), give it to the pool's engines\n"
		"                   without losing a request; back to the build before where that fails\n\n"
		"  --to REF         of upgrade: a tag, a branch or a commit; a version that the package's "
		"archive "
		"has;\n"
		"                   an image's tag or digest\n"
		"  --pool POOL      of upgrade: of that pool alone\n"
		"  --force          of rm: also the current build of a pool\n" COMMON
		"\nNeeds no daemon; one that runs does upgrade, rollback and rm, and is waited for where "
		"both "
		"want to build.\n"
		"\nExamples:\n  corral engines plan\n  corral engines provision chat\n  corral engines ls\n",
		cmd_engines, false },
	{ "estimate", "MODEL.gguf [-- ENGINE ARGUMENTS]", "What a model needs in memory, from its header",
		"  --ctx N          tokens of one slot (what the model was trained for)\n"
		"  --slots N        requests at a time (1)\n"
		"  --kv-type T      of the KV cache: f16, q8_0, q4_0 ... (f16)\n"
		"  --ubatch N       physical batch (512)\n"
		"  --flash-attn W   on, off or auto (auto, which counts as on)\n"
		"  --gpu-layers N   so many layers on the devices, the output first (all)\n"
		"  --devices W      auto, cpu, or how many equal GPUs (auto: those of this machine)\n"
		"  --source W       learned: what an engine of this machine was seen to take; oracle:\n"
		"                   llama-fit-params, found on PATH or as CORRAL_LLAMA_FIT_PARAMS names\n"
		"                   it; formula; auto: the first of them that knows\n"
		"  What follows -- is read as llama-server would: -ts 3,1 -ot exps=CPU --mmproj FILE\n" COMMON
		"\nExamples:\n  corral estimate model.gguf --ctx 16384 --slots 4 --kv-type q8_0\n"
		"  corral estimate model-00001-of-00003.gguf --devices 2 -- -ts 2,1 --n-cpu-moe 10\n",
		cmd_estimate, false },
	{ "plan", "[POOL...]", "What would be placed where, and why; nothing is started",
		COMMON "\nExamples:\n  corral plan\n  corral plan chat coder\n", cmd_plan, false },
	{ "explain", "POOL | REQUEST", "Why a pool is where it is, or cannot be; what became of a request",
		COMMON "\nExamples:\n  corral explain chat\n  corral explain 0034f1c29a07\n", cmd_explain,
		false },
	{ "simulate", "TRACE", "What a trace of requests costs when models take turns; nothing is started",
		"  --log            each load, eviction, refusal and wait with its reason, before the "
		"table\n" COMMON
		"\nThe trace is run twice: as its swap line says (collate), and first come, first served.\n"
		"A line a thing; # begins a remark; sizes are 20GiB, times 500ms, 4s, 10m:\n"
		"  node NAME                     the devices after it are of this node\n"
		"  device 24GiB [foreign=2GiB]\n"
		"  host 64GiB                    the node's own memory, after its devices\n"
		"  model NAME bytes=20GiB [host=2GiB slots=1 load=4s return=200ms keep_alive=10m cost=1\n"
		"        pinned]\n"
		"  swap [max_wait=60s hold=10s hold_after=tool_calls|always|never]\n"
		"  request NAME [at=0s for=2s key=1 tools]\n"
		"  agent NAME [at=0s turns=10 for=2s tool=2s key=1]\n"
		"  poisson NAME every=5s until=10m [at=0s for=2s key=1 seed=1 tools]\n"
		"  fail NAME at=30s              its engine crashes\n"
		"  lost 0 at=30s [back=40s]      the first device, with the engines on it\n"
		"  gone NODE at=30s [back=40s]   a node, with the engines on it\n"
		"\nExamples:\n  corral simulate two-agents.trace\n  corral simulate --log box.trace\n",
		cmd_simulate, false },
	{ "doctor", "", "What could keep Corral from serving here, and the fix",
		"GPUs and their drivers, device files, ports, disk, folders, engines, configuration, "
		"memory,\n"
		"limits, the clock. Needs no daemon. Exit status 1 when something fails.\n\n" COMMON
		"\nExamples:\n  corral doctor\n  corral doctor --config corral.yaml --json\n",
		cmd_doctor, false },
	{ "logs", "POOL", "The engine's output",
		"  -f, --follow     go on as it is written\n"
		"  -n, --lines N    the last N lines (100)\n" COMMON
		"\nExamples:\n  corral logs chat -n 20\n  corral logs -f chat\n",
		cmd_logs, false },
	CONTROL("start", "Start a pool's engine now", "  corral start chat\n"),
	{ "stop", "POOL", "Let requests end, then stop the engine",
		"  --deadline D     how long requests may take to end (30s)\n" COMMON
		"\nExamples:\n  corral stop chat\n  corral stop chat --deadline 5m\n",
		cmd_control, false },
	CONTROL("restart", "Stop, then start again; closes an open breaker", "  corral restart chat\n"),
	{ "drain", "POOL", "Refuse new requests, wait for the old, stop",
		"  --deadline D     how long requests may take to end (30s)\n" COMMON
		"\nExamples:\n  corral drain chat\n  corral drain chat --deadline 5m\n",
		cmd_control, false },
	CONTROL("undrain", "Take a drain back", "  corral undrain chat\n"),
	{ "disable", "POOL", "Keep a pool down, also over a restart",
		"  --deadline D     how long requests may take to end (30s)\n" COMMON
		"\nExamples:\n  corral disable chat\n",
		cmd_control, false },
	CONTROL("enable", "Take a disable back", "  corral enable chat\n"),
	{ "reload", "POOL", "Give a pool new engines without losing a request",
		"The new engine is ready before the old one stops, where both fit. When it does not work, "
		"the\n"
		"old one serves on, and the exit status is 1.\n\n"
		"  --model FILE     serve this file in place of the configured model, until the\n"
		"                   configuration names another; a reference (org/repo:Q4_K_M) is\n"
		"                   fetched first\n" COMMON
		"\nExamples:\n  corral reload chat\n  corral reload chat --model qwen3-8b-q4_k_m.gguf\n"
		"  corral reload chat --model org/repo:Q4_K_M\n",
		cmd_reload, false },
	{ "key", "create NAME | ls | revoke NAME", "Keys: who may use this server, and how much",
		"  create NAME      a new key, which is shown once\n"
		"  ls               all keys, without their secrets\n"
		"  revoke NAME      by name or id; it is refused from then on\n\n"
		"  --scope S        inference (ask models), control (pools and logs too) or admin (keys "
		"too)\n"
		"  --models A,B     only these models (ids or aliases)\n"
		"  --limit L        requests=60/min, tokens=100000/min or concurrent=4; may be given several "
		"times\n"
		"  --expires T      after 30d, or at 2027-01-31\n" COMMON
		"\nWithout a daemon they are written for its next start.\n"
		"\nExamples:\n"
		"  corral key create laptop\n"
		"  corral key create ci --scope control --expires 30d\n"
		"  corral key create kids --models chat --limit requests=20/min --limit tokens=20000/min\n"
		"  corral key revoke laptop\n",
		cmd_key, false },
	{ "config", "check [FILE] | show [--effective] | reload [--dry-run] | reference | schema",
		"Check, show and reload the configuration",
		"  check            everything that is wrong with it; exit 2 when something is\n"
		"  show             what is set, and where; with --effective the defaults too\n"
		"  reload           the daemon reads it again; only what changed is touched: + added, ~ "
		"changed,\n"
		"                   - removed, = needs a new start; exit 2 when the file has mistakes\n"
		"  reference        every key, as Markdown\n"
		"  schema           every key, as a JSON Schema for editors\n\n"
		"  --dry-run        of reload: only say what would be done\n"
		"  --set KEY=VALUE  override one key\n" COMMON "\nExamples:\n"
		"  corral config check corral.yaml\n"
		"  corral config reload --dry-run\n"
		"  corral config show --effective\n",
		cmd_config, false },
	{ "gpu-probe", "[--vendor V] [--interval MS | --ask]",
		"What a GPU maker's driver says, one JSON object a line",
		"  Loads the driver's library, which the daemons never do: they start this and kill it when "
		"it\n"
		"  hangs.\n\n"
		"  --vendor V       nvidia (the default) or amd\n"
		"  --sysfs DIR      instead of /sys\n"
		"  --interval MS    go on, one sample every MS\n"
		"  --ask            one sample for each line of the standard input\n" COMMON
		"\nExamples:\n  corral gpu-probe\n  corral gpu-probe --interval 1000\n",
		cmd_gpu_probe, true },
	{ "version", "", "The program's version", COMMON "\nExamples:\n  corral version --json\n",
		cmd_version, false },
	{ "help", "[COMMAND]", "How a command is used", COMMON "\nExamples:\n  corral help run\n", cmd_help,
		false },
	{ NULL, NULL, NULL, NULL, NULL, false },
};

const struct command *command_find(const char *name)
{
	for (const struct command *c = cli_commands; c->name; c++)
		if (strcmp(c->name, name) == 0)
			return c;
	return NULL;
}

/* ---- options ------------------------------------------------------------------------------------ */

enum { OPT_HELP = 'h', OPT_JSON = 1000, OPT_CONFIG, OPT_LAST, LONGS_MAX = 16 };

static int usage(const struct command *cmd, const char *why)
{
	complain("%s: %s", cmd->name, why);
	hint("corral %s --help", cmd->name);
	return CLI_USAGE;
}

static int options_loop(
	struct cli *c, const struct command *cmd, const struct options *o, int argc, char **argv)
{
	struct option longs[LONGS_MAX] = {
		{ "help", no_argument, NULL, OPT_HELP },
		{ "json", no_argument, NULL, OPT_JSON },
		{ "config", required_argument, NULL, OPT_CONFIG },
	};
	for (size_t i = 0; o->longs && o->longs[i].name && i + 4 < LONGS_MAX; i++)
		longs[3 + i] = o->longs[i];
	char shorts[32];
	snprintf(shorts, sizeof shorts, ":h%s", o->shorts ? o->shorts : "");
	optind = 0; /* GNU: start over, also after another parse */
	opterr = 0;
	for (int opt; (opt = getopt_long(argc, argv, shorts, longs, NULL)) != -1;) {
		if (opt == OPT_HELP) {
			AUTO(buf_done) struct buf b = BUF(64 * KIB);
			command_help(cmd, &b);
			return say(&b) == CLI_OK ? -1 : CLI_FAILED;
		}
		if (opt == '?' || opt == ':') {
			AUTO(mem_freep)
			char *why = mem_fmt("%s \"%s\"",
				opt == ':' ? "a value is missing after" : "there is no such option:",
				argv[optind - 1]);
			return usage(cmd, why);
		}
		if (opt == OPT_JSON)
			c->json = true;
		else if (opt == OPT_CONFIG)
			c->config_path = optarg;
		else if (o->fn && o->fn(o->arg, opt, optarg))
			return CLI_USAGE;
	}
	return 0;
}

int options_read(struct cli *c, const struct command *cmd, const struct options *o, int argc, char **argv,
	int *ret_first, int *ret_status)
{
	int r = options_loop(c, cmd, o, argc, argv);
	int left = argc - optind;
	if (!r && left < o->min)
		r = usage(cmd, left ? "an argument is missing" : "it needs an argument");
	else if (!r && o->max >= 0 && left > o->max)
		r = usage(cmd, "too many arguments");
	*ret_first = optind;
	*ret_status = r == -1 ? CLI_OK : r;
	return r;
}

/* ---- who is started ------------------------------------------------------------------------------ */

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');
	return slash ? slash + 1 : path;
}

static int run_role(const char *name, int argc, char **argv, const struct cli_roles *roles, int *ret)
{
	int (*role)(int, char **) = NULL;
	if (strcmp(name, "orchestratord") == 0)
		role = roles->orchestratord;
	else if (strcmp(name, "engine-provisioner") == 0)
		role = roles->engine_provisioner;
	if (!role)
		return -ENOENT;
	*ret = role(argc, argv);
	return 0;
}

int cli_main(int argc, char **argv, const struct cli_roles *roles)
{
	struct cli c = { .roles = roles };
	int status;
	if (argc < 1)
		return CLI_USAGE;
	if (run_role(base_name(argv[0]), argc, argv, roles, &status) == 0)
		return status;
	if (argc < 2)
		return cmd_help(&c, command_find("help"), 1, argv);
	if (run_role(argv[1], argc - 1, argv + 1, roles, &status) == 0)
		return status;
	const char *name = argv[1];
	if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0)
		name = "help";
	else if (strcmp(name, "--version") == 0)
		name = "version";
	const struct command *cmd = command_find(name);
	if (!cmd) {
		complain("there is no command \"%.80s\"", name);
		hint("corral help lists them");
		return CLI_USAGE;
	}
	return cmd->run(&c, cmd, argc - 1, argv + 1);
}
