/* SPDX-License-Identifier: Apache-2.0 */
#include "role/engine_provisioner/engine_provisioner.h"

#include <getopt.h>
#include <libgen.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/rnd.h"
#include "config/config.h"
#include "gguf/gguf.h"
#include "log/log.h"
#include "node/node.h"
#include "provision/model/model.h"

struct agent {
	struct config *config;
	struct loop *loop;
	struct node *node;
	struct node_pool *pools;
	char **paths; /* of the pools' models, resolved; NULL = none */
	struct loop_signal *sigterm, *sigint, *sighup;
	char *keeper, *log_dir, *registry;
	uint64_t nofile;
};

/* ---- from configuration to node
 * ------------------------------------------------------------------------------------ */

static void convert_engine(const struct config_engine *c, struct engine_def *d)
{
	d->kind = (enum engine_kind)c->kind;
	d->mode = (enum engine_mode)c->mode;
	d->path = mem_strdup(c->path);
	strv_copy(&d->urls, &c->urls);
	strv_copy(&d->command, &c->command);
	strv_copy(&d->stop_command, &c->stop_command);
	d->package_archive = mem_strdup(c->package_archive);
	d->package_suite = mem_strdup(c->package_suite);
	d->package_keyring = mem_strdup(c->package_keyring);
	strv_copy(&d->args, &c->args);
	strv_copy(&d->env, &c->env);
	d->health = mem_strdup(c->health);
}

static bool has_file(const struct config_pool *p)
{
	return p->model && p->engine.mode != CONFIG_MODE_EXTERNAL;
}

/* Where a model would be, also when it is not there yet: the node says what is missing, each time it looks.
 */
static char *model_path(const struct config *c, const struct config_pool *p)
{
	struct model_files f = { 0 };
	if (!has_file(p))
		return NULL;
	enum model_want want = p->engine.kind == CONFIG_ENGINE_LLAMACPP ? MODEL_GGUF : MODEL_ANY;
	if (model_resolve(p->model, c->models_dir, want, &f, NULL) == 0) {
		char *path = mem_strdup(f.path);
		model_files_done(&f);
		return path;
	}
	const char *ref = strncmp(p->model, "file:", 5) == 0 ? p->model + 5 : p->model;
	return path_join(c->models_dir, ref);
}

static void convert_pool(const struct config *c, const struct config_pool *p, char *path, struct node_pool *n)
{
	n->id = p->id;
	convert_engine(&p->engine, &n->engine);
	n->model_path = path;
	n->ctx = p->ctx;
	n->slots = p->slots;
	n->canary = (enum node_canary)p->canary;
	n->start_timeout_ms = p->start_timeout_ms;
	(void)c;
}

static_assert((int)ENGINE_COMMAND == (int)CONFIG_ENGINE_COMMAND, "one numbering");
static_assert((int)ENGINE_MODE_PACKAGE == (int)CONFIG_MODE_PACKAGE, "one numbering");
static_assert((int)NODE_CANARY_NEVER == (int)CONFIG_CANARY_NEVER, "one numbering");

/* What the file itself says of its model; ctx: auto is the trained context, at most 8192. */
static void read_model(void *arg, const struct node_pool *pool, struct wire_model *ret)
{
	(void)arg;
	struct err e = { 0 };
	AUTO(gguf_freep) struct gguf *g = NULL;
	ret->ctx = pool->ctx;
	if (!ret->path || pool->engine.kind != ENGINE_LLAMACPP)
		return;
	if (gguf_open(ret->path, &g, &e) < 0) {
		mem_setstr(&ret->problem, e.msg);
		return;
	}
	struct gguf_facts f;
	gguf_facts(g, &f);
	ret->architecture = mem_viewdup(f.architecture);
	ret->name = mem_viewdup(f.name);
	ret->size_bytes = f.size_bytes;
	ret->n_params = f.n_params;
	ret->n_ctx_train = f.n_ctx_train;
	ret->n_vocab = f.n_vocab;
	ret->n_embd = f.n_embd;
	ret->vision = f.has_vision;
	ret->audio = f.has_audio;
	if (!ret->ctx)
		ret->ctx = f.n_ctx_train ? (uint32_t)MIN(f.n_ctx_train, (uint64_t)8192) : 8192;
}

/* ---- the process
 * ----------------------------------------------------------------------------------------------------- */

static void on_done(void *arg)
{
	struct agent *a = arg;
	loop_stop(a->loop);
}

/* Engines stay: whoever wants them stopped asks the node over its socket. */
static void on_signal(void *arg, int signo)
{
	struct agent *a = arg;
	log_info("stop", "engine-provisioner",
		"engine-provisioner ends on %s; engines go on under their keepers.", strsignal(signo));
	loop_stop(a->loop);
}

static void on_hup(void *arg, int signo)
{
	(void)arg;
	(void)signo;
}

static char *beside_us(const char *name)
{
	char path[4096];
	ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
	if (n <= 0)
		return mem_strdup(name);
	path[n] = '\0';
	return mem_fmt("%s/%s", dirname(path), name);
}

/* The keeper lies beside us, or in the build's own folder. */
static char *find_keeper(void)
{
	const char *env = getenv("CORRAL_KEEPER");
	if (env && *env)
		return mem_strdup(env);
	static const char *const places[] = { "corral-keeper", "keeper/corral-keeper",
		"../libexec/corral/corral-keeper" };
	for (size_t i = 0; i < ARRAY_LEN(places); i++) {
		char *p = beside_us(places[i]);
		if (access(p, X_OK) == 0)
			return p;
		free(p);
	}
	return beside_us("corral-keeper");
}

static uint64_t raise_files(void)
{
	struct rlimit l;
	if (getrlimit(RLIMIT_NOFILE, &l) < 0)
		return 0;
	uint64_t was = l.rlim_cur;
	l.rlim_cur = l.rlim_max;
	setrlimit(RLIMIT_NOFILE, &l);
	return was;
}

static int set_up(struct agent *a, struct err *e)
{
	const struct config *c = a->config;
	int r = dir_ensure_writable(c->state_dir, "state_dir", e);
	r = r ? r : dir_ensure_writable(c->runtime_dir, "runtime_dir", e);
	if (r)
		return r;
	a->log_dir = path_join(c->state_dir, "log");
	a->keeper = find_keeper();
	a->pools = mem_alloc((c->npools + 1) * sizeof *a->pools);
	a->paths = mem_alloc((c->npools + 1) * sizeof *a->paths);
	for (size_t i = 0; i < c->npools; i++) {
		a->paths[i] = model_path(c, &c->pools[i]);
		convert_pool(c, &c->pools[i], a->paths[i], &a->pools[i]);
	}
	struct node_opts o = {
		.node_id = "home",
		.version = CORRAL_VERSION,
		.runtime_dir = c->runtime_dir,
		.state_dir = c->state_dir,
		.log_dir = a->log_dir,
		.keeper_path = a->keeper,
		.registry_address = a->registry,
		.pools = a->pools,
		.npools = c->npools,
		.allow_cpu = c->gpu != CONFIG_GPU_REQUIRED,
		.nofile = a->nofile,
		.seed = rnd_os_u64(),
		.read_model = read_model,
		.on_done = on_done,
		.arg = a,
	};
	return node_new(a->loop, &o, &a->node, e);
}

static void tear_down(struct agent *a)
{
	node_free(a->node);
	loop_signal_stop(&a->sigterm);
	loop_signal_stop(&a->sigint);
	loop_signal_stop(&a->sighup);
	loop_free(a->loop);
	for (size_t i = 0; a->pools && i < a->config->npools; i++) {
		engine_def_done(&a->pools[i].engine);
		free(a->paths[i]);
	}
	free(a->pools);
	free(a->paths);
	free(a->keeper);
	free(a->log_dir);
	free(a->registry);
	config_unref(a->config);
}

static int run(struct agent *a, struct err *e)
{
	signal(SIGPIPE, SIG_IGN);
	a->nofile = raise_files();
	a->loop = loop_new("node");
	int r = set_up(a, e);
	r = r ? r : loop_signal_start(a->loop, &a->sigterm, SIGTERM, on_signal, a);
	r = r ? r : loop_signal_start(a->loop, &a->sigint, SIGINT, on_signal, a);
	r = r ? r : loop_signal_start(a->loop, &a->sighup, SIGHUP, on_hup, a);
	if (r) {
		if (!e->code)
			err_set(e, r, "engine-provisioner cannot start: %s", strerror(-r));
		return r;
	}
	return loop_run(a->loop);
}

static int load(const char *path, const struct strv *sets, struct config **ret)
{
	AUTO(config_errors_done) struct config_errors errs = { 0 };
	struct config_source src = {
		.path = path, .overrides = (const char *const *)sets->items, .noverrides = sets->len
	};
	if (config_load(&src, ret, &errs) == 0)
		return 0;
	AUTO(buf_done) struct buf b = BUF(1 * MIB);
	(void)config_errors_print(&errs, false, &b);
	fprintf(stderr, "%s", buf_str(&b));
	return -EINVAL;
}

int engine_provisioner_main(int argc, char **argv)
{
	static const struct option longs[] = { { "config", required_argument, NULL, 'c' },
		{ "set", required_argument, NULL, 's' }, { "registry", required_argument, NULL, 'r' },
		{ 0 } };
	struct agent a = { 0 };
	struct err e = { 0 };
	AUTO(strv_done) struct strv sets = { 0 };
	const char *path = NULL;
	int opt;
	prctl(PR_SET_NAME, "engine-provis");
	optind = 1;
	while ((opt = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		if (opt == 'c')
			path = optarg;
		else if (opt == 's')
			strv_add(&sets, optarg);
		else if (opt == 'r')
			mem_setstr(&a.registry, optarg);
		else
			return 2;
	}
	if (load(path, &sets, &a.config) < 0)
		return 2;
	struct log_opts lo = { .level = (enum log_level)a.config->log_level,
		.format = (enum log_format)a.config->log_format,
		.actor = "engine-provisioner",
		.fd = 2 };
	if (log_start(&lo, &e) < 0) {
		fprintf(stderr, "engine-provisioner: %s\n", e.msg);
		return 1;
	}
	int r = run(&a, &e);
	if (r)
		log_error("start", "engine-provisioner", "%s.", e.msg);
	tear_down(&a);
	log_stop();
	return r == -EBUSY ? 3 : r ? 1 : 0;
}
