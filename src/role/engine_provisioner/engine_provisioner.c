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
#include "role/engine_provisioner/need.h"
#include "role/engine_provisioner/pools.h"

struct agent {
	struct config *config;
	struct loop *loop;
	struct node *node; /* NULL: the disk is looked through before it registers */
	struct found *found;
	struct agent_fetch fetch; /* of config */
	struct catalog *catalog;
	const char *path; /* of the file, as given; NULL: it is looked for */
	struct strv sets;
	struct loop_signal *sigterm, *sigint, *sighup;
	char *keeper, *log_dir, *registry;
	uint64_t nofile;
	int status; /* of set_up, once the loop runs */
	struct err why;
};

/* What the file itself says of its model. */
static void read_model(void *arg, const struct node_pool *pool, struct wire_model *ret)
{
	struct agent *a = arg;
	struct err e = { 0 };
	AUTO(gguf_freep) struct gguf *g = NULL;
	enum model_want want = pool->engine.kind == ENGINE_LLAMACPP ? MODEL_GGUF : MODEL_ANY;
	ret->ctx = pool->ctx;
	if (ret->path &&
		ret->path[0] != '/') { /* one that stands in for the configured one, as it was named */
		char *path = agent_model_path(a->config, ret->path, want);
		free(ret->path);
		ret->path = path;
	}
	if (!ret->path || pool->engine.kind != ENGINE_LLAMACPP || found_describe(a->found, ret))
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
		ret->ctx = agent_auto_ctx(f.n_ctx_train);
	agent_needs(pool, a->config->state_dir, !pool->ctx, ret);
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

static int load(const struct agent *a, struct config **ret, bool color, struct buf *ret_why)
{
	AUTO(config_errors_done) struct config_errors errs = { 0 };
	struct config_source src = { .path = a->path,
		.overrides = (const char *const *)a->sets.items,
		.noverrides = a->sets.len,
		.not_empty = a->config != NULL };
	if (config_load(&src, ret, &errs) == 0)
		return 0;
	(void)config_errors_print(&errs, color, ret_why); /* what does not fit is cut */
	return -EINVAL;
}

static int set_up(struct agent *a, struct err *e);

/* Takes c: its pools are the node's from now on. */
static void take(struct agent *a, struct config *c)
{
	struct config *was = a->config;
	a->config = c;
	agent_fetch_make(c, &a->fetch);
	config_unref(was);
	if (!a->node) {
		a->status = set_up(a, &a->why);
		if (a->status)
			loop_stop(a->loop);
		return;
	}
	AUTO(agent_pools_done) struct agent_pools pools = { 0 };
	agent_pools_make(c, found_list(a->found), &pools);
	node_fetching_changed(a->node, c->models_quota);
	node_set_starting_max(a->node, c->starting_max);
	node_set_pools(a->node, pools.items, pools.len);
}

static void on_found(void *arg, struct config *with_pools)
{
	take(arg, with_pools);
}

/* Keys that are read at the start alone stay as they were then, as orchestratord does with its own copy. */
static void apply(struct agent *a, struct config *next)
{
	struct config *c = config_over(a->config, next);
	config_unref(next);
	log_set_level((enum log_level)c->log_level);
	if (found_wanted(c)) { /* the pools of before until it is known which there are */
		found_look(a->found, c);
		config_unref(c);
		return;
	}
	found_forget(a->found);
	take(a, c);
}

static int on_reload(void *arg, bool dry_run, struct buf *ret_why)
{
	struct agent *a = arg;
	struct config *c;
	int r = load(a, &c, false, ret_why);
	if (r == 0 && dry_run)
		config_unref(c);
	else if (r == 0)
		apply(a, c);
	return r;
}

static void on_hup(void *arg, int signo)
{
	(void)signo;
	AUTO(buf_done) struct buf why = BUF(64 * KIB);
	if (on_reload(arg, false, &why))
		log_error("config", "engine-provisioner",
			"The configuration is not taken, everything stays as it is: %s", buf_str(&why));
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

static_assert((int)GPU_POLICY_NONE == (int)CONFIG_GPU_NONE, "one numbering");

static const char *env_or_null(const char *name)
{
	const char *v = getenv(name);
	return v && *v ? v : NULL;
}

/* A newer one is refused: the file stays as it is, and this version starts nothing that the newer one has to
 * account for. What cannot be read now does not keep engines from serving. */
static int open_catalog(struct agent *a, struct err *e)
{
	AUTO(mem_freep) char *path = path_join(a->config->state_dir, CATALOG_NAME);
	AUTO(mem_freep) char *note = NULL;
	int r = catalog_open(path, &a->catalog, &note, e);
	if (note)
		log_error("catalog", path, "%s", note);
	if (r != -EIO)
		return r;
	log_error("catalog", path, "%s; what is fetched is not kept.", e->msg);
	free(MEM_TAKE(note));
	return catalog_open(NULL, &a->catalog, &note, e);
}

static int set_up(struct agent *a, struct err *e)
{
	const struct config *c = a->config;
	int r = dir_ensure_writable(c->state_dir, "state_dir", e);
	r = r ? r : dir_ensure_writable(c->runtime_dir, "runtime_dir", e);
	if (r)
		return r;
	r = open_catalog(a, e);
	if (r)
		return r;
	a->log_dir = path_join(c->state_dir, "log");
	agent_fetch_make(c, &a->fetch);
	a->keeper = find_keeper();
	AUTO(agent_pools_done) struct agent_pools pools = { 0 };
	agent_pools_make(c, found_list(a->found), &pools);
	const char *sysfs = env_or_null("CORRAL_SYSFS");
	struct gpu_monitor_opts gpus = { .sysfs = sysfs, .always_ask = gpu_driver_without_bus(sysfs) };
	struct node_opts o = {
		.node_id = "home",
		.version = CORRAL_VERSION,
		.runtime_dir = c->runtime_dir,
		.state_dir = c->state_dir,
		.log_dir = a->log_dir,
		.keeper_path = a->keeper,
		.registry_address = a->registry,
		.pools = pools.items,
		.npools = pools.len,
		.on_reload = on_reload,
		.fetch = &a->fetch.opts,
		.models_quota = c->models_quota,
		.catalog = a->catalog,
		.offline = c->network.offline,
		.allow_cpu = c->gpu != CONFIG_GPU_REQUIRED,
		.build_jobs = c->build.jobs,
		.allow_package_installs = c->build.allow_package_installs,
		.starting_max = c->starting_max,
		.gpu = (enum gpu_policy)c->gpu,
		.gpus = &gpus,
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
	if (a->found)
		found_forget(a->found);
	node_free(a->node);
	loop_signal_stop(&a->sigterm);
	loop_signal_stop(&a->sigint);
	loop_signal_stop(&a->sighup);
	loop_free(a->loop);
	found_free(a->found);
	catalog_close(a->catalog);
	agent_fetch_done(&a->fetch);
	strv_done(&a->sets);
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
	a->found = found_new(a->loop, on_found, a);
	bool look = found_wanted(a->config);
	int r = look ? 0 : set_up(a, e);
	if (look)
		found_look(a->found, a->config);
	r = r ? r : loop_signal_start(a->loop, &a->sigterm, SIGTERM, on_signal, a);
	r = r ? r : loop_signal_start(a->loop, &a->sigint, SIGINT, on_signal, a);
	r = r ? r : loop_signal_start(a->loop, &a->sighup, SIGHUP, on_hup, a);
	if (r) {
		if (!e->code)
			err_set(e, r, "engine-provisioner cannot start: %s", strerror(-r));
		return r;
	}
	r = loop_run(a->loop);
	if (a->status)
		*e = a->why;
	return r ? r : a->status;
}

int engine_provisioner_main(int argc, char **argv)
{
	static const struct option longs[] = { { "config", required_argument, NULL, 'c' },
		{ "set", required_argument, NULL, 's' }, { "registry", required_argument, NULL, 'r' },
		{ 0 } };
	struct agent a = { 0 };
	struct err e = { 0 };
	int opt;
	prctl(PR_SET_NAME, "engine-provis");
	optind = 1;
	while ((opt = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		if (opt == 'c')
			a.path = optarg;
		else if (opt == 's')
			strv_add(&a.sets, optarg);
		else if (opt == 'r')
			mem_setstr(&a.registry, optarg);
		else
			return 2;
	}
	AUTO(buf_done) struct buf why = BUF(1 * MIB);
	if (load(&a, &a.config, false, &why) < 0) {
		fprintf(stderr, "%s", buf_str(&why));
		strv_done(&a.sets);
		free(a.registry);
		return 2;
	}
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
