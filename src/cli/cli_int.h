/* SPDX-License-Identifier: Apache-2.0
 *
 * Inside src/cli: the command table, options, output, and one client of the API on a loop of its own.
 * One thread. What a server or a model sends is printed without control characters.
 */
#ifndef CLI_CLI_INT_H
#define CLI_CLI_INT_H

#include <getopt.h>

#include "cli/cli.h"
#include "http/client.h"

struct cli {
	const struct cli_roles *roles;
	bool json;
	const char *config_path; /* --config */
};
struct command {
	const char *name, *args, *summary;
	const char *help; /* options and examples */
	int (*run)(struct cli *c, const struct command *cmd, int argc, char **argv);
	bool hidden;
};
extern const struct command cli_commands[];
const struct command *command_find(const char *name); /* NULL: none */
void command_help(const struct command *cmd, struct buf *out);

int cmd_serve(struct cli *c, const struct command *cmd, int argc, char **argv);
int cmd_run(struct cli *c, const struct command *cmd, int argc, char **argv);
int cmd_ps(struct cli *c, const struct command *cmd, int argc, char **argv);
int cmd_pools(struct cli *c, const struct command *cmd, int argc, char **argv);
int cmd_models(struct cli *c, const struct command *cmd, int argc, char **argv);
int cmd_pull(struct cli *c, const struct command *cmd, int argc, char **argv);
int cmd_requests(struct cli *c, const struct command *cmd, int argc, char **argv);
int cmd_logs(struct cli *c, const struct command *cmd, int argc, char **argv);
int cmd_control(struct cli *c, const struct command *cmd, int argc, char **argv); /* start … enable */
int cmd_reload(struct cli *c, const struct command *cmd, int argc, char **argv);
int cmd_config(struct cli *c, const struct command *cmd, int argc, char **argv);
int cmd_key(struct cli *c, const struct command *cmd, int argc, char **argv);
int cmd_estimate(struct cli *c, const struct command *cmd, int argc, char **argv);
int cmd_engines(struct cli *c, const struct command *cmd, int argc, char **argv);
int cmd_devices(struct cli *c, const struct command *cmd, int argc, char **argv);
int cmd_plan(struct cli *c, const struct command *cmd, int argc, char **argv);
int cmd_explain(struct cli *c, const struct command *cmd, int argc, char **argv);
int cmd_simulate(struct cli *c, const struct command *cmd, int argc, char **argv);
int cmd_doctor(struct cli *c, const struct command *cmd, int argc, char **argv);
int cmd_gpu_probe(struct cli *c, const struct command *cmd, int argc, char **argv);
int cmd_version(struct cli *c, const struct command *cmd, int argc, char **argv);
int cmd_help(struct cli *c, const struct command *cmd, int argc, char **argv);

/* ---- options ------------------------------------------------------------------------------------ */

typedef int options_fn(void *arg, int opt, const char *value); /* 0, or CLI_USAGE after it said why */
struct options {
	const char *shorts;         /* besides -h */
	const struct option *longs; /* besides --help, --json, --config; ends with zeros */
	options_fn *fn;
	void *arg;
	int min, max; /* how many arguments may follow; max -1: any number */
};
/* Reads options; *ret_first is the first argument. 0 go on; else return *ret_status. */
int options_read(struct cli *c, const struct command *cmd, const struct options *o, int argc, char **argv,
	int *ret_first, int *ret_status) MUST_CHECK;

/* ---- output (output.c) -------------------------------------------------------------------------- */

bool color_for(int fd);                           /* a terminal, and no NO_COLOR */
int say(const struct buf *out);                   /* to stdout; CLI_OK or CLI_FAILED */
void complain(const char *fmt, ...) PRINTF(1, 2); /* "corral: …" to stderr */
void hint(const char *fmt, ...) PRINTF(1, 2);
/* Without control characters; keep_lines: but with line ends and tabs. */
void clean_add(struct buf *out, struct view text, bool keep_lines);

struct table {
	struct strv cells; /* row by row; the first row is the heading */
	size_t columns;
};
void table_done(struct table *t);
void table_add(struct table *t, const char *fmt, ...) PRINTF(2, 3); /* one cell */
void table_print(const struct table *t, bool color, struct buf *out);

/* ---- the API (api.c) ---------------------------------------------------------------------------- */

struct api {
	struct loop *loop;
	struct http_target *target;
	char *address, *key;
	bool from_url; /* CORRAL_URL named it */
};
enum { API_BODY_MAX = 16 * 1024 * 1024 };
/* 0 or an exit status, after saying why. */
int api_open(struct cli *c, struct api *a) MUST_CHECK;
/* An explicit address (a daemon that was just started). */
int api_open_at(struct api *a, const char *address) MUST_CHECK;
void api_close(struct api *a);

typedef void api_data_fn(void *arg, struct view bytes);
struct api_req {
	const char *method, *path;
	const struct buf *body; /* JSON, or NULL */
	int64_t timeout_ms;     /* until the end of the response; 0 = 30 s, -1 = none */
	api_data_fn *on_data;   /* a 2xx answer's bytes as they come; NULL: gathered in `answer` */
	/* The answer broke off after it began; called before that is told. True: the user knows why already.
	 */
	bool (*on_broken)(void *arg);
	/* An answer that is none of 2xx, before it is told. True: this said it all. */
	bool (*on_refused)(void *arg, int status, struct view body);
	void *arg;
	bool interruptible;     /* Ctrl-C ends it: *ret_status is 0 and CLI_OK returned */
	bool quiet_unreachable; /* say nothing when nobody answers */
};
/* CLI_OK for a 2xx; else the exit status, after the error's message and hint were printed. */
int api_call(struct api *a, const struct api_req *r, struct buf *answer, int *ret_status) MUST_CHECK;
/* What makes an answer's body readable; -EINVAL when it is none. */
typedef int api_page_fn(struct view body, bool color, struct buf *out);
/* Says that what answered is not Corral; the exit status. */
int api_foreign(void);
/* GETs path and prints it, with --json as it came; out_max bounds what is printed. An exit status. */
int api_show(struct cli *c, struct api *a, const char *path, api_page_fn *page, size_t out_max) MUST_CHECK;
int plan_page(struct view body, bool color, struct buf *out); /* of /v1/plan and /v1/explain */
/* Percent-encodes one path segment onto out. */
void path_add(struct buf *out, const char *segment);
/* "message\nhint" of an error answer in any dialect; what is missing stays empty. */
void api_error_text(struct view body, struct buf *message, struct buf *hint_text);

/* ---- a streamed chat (chat_stream.c) ------------------------------------------------------------- */

struct chat_delta {
	char *content, *reasoning, *error, *finish; /* NULL: not in this event */
	bool done;                                  /* [DONE] */
};
void chat_delta_done(struct chat_delta *d);
/* Reads one event's data. */
void chat_delta_read(struct view data, struct chat_delta *ret);

enum { SSE_EVENT_MAX = 4 * 1024 * 1024 };
typedef void sse_fn(void *arg, struct view data);
struct sse {
	struct buf line, data;
	bool after_cr, has_data, broken; /* broken: an event over the bound */
	sse_fn *fn;
	void *arg;
};
void sse_init(struct sse *s, sse_fn *fn, void *arg);
void sse_done(struct sse *s);
void sse_feed(struct sse *s, struct view bytes);

/* ---- a reload's answer (cmd_config.c) ------------------------------------------------------------- */

/* The plan for people, from the body of POST /v1/config/reload; -EINVAL when it is none. */
int reload_plan(struct view body, struct buf *out) MUST_CHECK;

/* ---- the pools' answer (cmd_pools.c) -------------------------------------------------------------- */

/* Tables from the body of GET /v1/pools; -EINVAL when it is none. */
int pools_table(struct view body, bool color, struct buf *out) MUST_CHECK;
int models_table(struct view body, bool color, struct buf *out) MUST_CHECK;
int replicas_table(struct view body, bool color, struct buf *out) MUST_CHECK;
int pool_detail(struct view body, struct buf *out) MUST_CHECK;

/* ---- the requests' answer (cmd_requests.c) --------------------------------------------------------- */

struct map;
/* From the body of GET /v1/requests: a table, the newest last; -EINVAL when it is none. */
int requests_table(struct view body, bool color, struct buf *out) MUST_CHECK;
/* A row (json: a line) for each that is new or in another state than in the answer before, which *seen holds;
 * it then holds this one. */
int requests_changes(struct view body, struct map *seen, bool json, struct buf *out) MUST_CHECK;

/* ---- the keys' answer (cmd_key.c) ------------------------------------------------------------------ */

int keys_table(struct view body, bool color, struct buf *out) MUST_CHECK; /* -EINVAL when it is none */

/* ---- the catalog (cmd_catalog.c, cmd_pull.c) ------------------------------------------------------- */

int catalog_table(struct view body, bool color, struct buf *out) MUST_CHECK;  /* of GET /v1/catalog/models */
int catalog_detail(struct view body, bool color, struct buf *out) MUST_CHECK; /* of one of them */
int catalog_gc_page(struct view body, bool color, struct buf *out) MUST_CHECK;
/* corral models VERB [ID]; an exit status. */
int catalog_command(struct cli *c, const char *verb, const char *id, bool dry_run) MUST_CHECK;
/* A line on a terminal that is written over: what, how far (-1: not known), a sentence. */
void bar_draw(bool *drawn, const char *what, int pct, const char *text);
void bar_clear(bool *drawn);
/* POSTs and shows the events of fetching or verifying as they come; an exit status. */
int api_events(struct cli *c, struct api *a, const char *path, const struct buf *body, const char *verb,
	bool quiet_unreachable) MUST_CHECK;

/* ---- the devices' answer (cmd_devices.c) --------------------------------------------------------- */

int devices_table(struct view body, bool color, struct buf *out) MUST_CHECK; /* -EINVAL when it is none */

/* ---- engines: another build for a pool (engines_upgrade.c); without a pool: for all ------------------ */

int engines_upgrade(struct cli *c, struct cli_engines_opts *e);
int engines_rollback(struct cli *c, const struct cli_engines_opts *e);
int engines_drop(struct cli *c, const struct cli_engines_opts *e); /* corral engines rm */

/* ---- asking llama-fit-params (estimate_oracle.c) --------------------------------------------------- */

struct estimate;
struct estimate_args;
/* Puts its numbers into *e, which holds the formula's. false: it is not there or did not answer; *e stays. */
bool estimate_oracle(const char *path, const struct estimate_args *a, struct estimate *e) MUST_CHECK;

/* ---- starting a daemon (spawn.c) ------------------------------------------------------------------ */

/* Starts `corral serve` detached, waits until it serves; *ret_address is where ("http://127.0.0.1:PORT").
 * 0 or an exit status, after saying why. */
int daemon_start(const struct config *cfg, const char *config_file, char **ret_address) MUST_CHECK;
/* A configuration that serves that one file. */
void config_for_file(const struct config *base, const char *model_path, const char *id, struct buf *out);

/* ---- loading (cmd_serve.c) ------------------------------------------------------------------------ */

int config_load_or_say(const struct config_source *src, struct config **ret) MUST_CHECK; /* 0 or CLI_USAGE */
/* The models that are not there, as errors; 0 or -EINVAL. */
int models_check(const struct config *cfg, struct config_errors *errs) MUST_CHECK;
/* The same; true: one contradicts its model, as against a file that is not there now. */
bool models_contradict(const struct config *cfg, struct config_errors *errs);

#endif
