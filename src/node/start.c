/* SPDX-License-Identifier: Apache-2.0
 *
 * From "wanted" to a process: the engine's build, the command line, the keeper. Also the way back to an
 * engine that runs already.
 */
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "log/log.h"
#include "node/models_int.h"
#include "provision/engine/table.h"

enum { DEFAULT_CTX = 4096, START_BASE_MS = 300000, START_MS_PER_GIB = 20000 };

static uint64_t model_bytes(const struct replica *r)
{
	const struct wire_model *m = replica_model(r);
	struct stat st;
	if (m->size_bytes)
		return m->size_bytes;
	return m->path && stat(m->path, &st) == 0 ? (uint64_t)st.st_size : 0;
}

int64_t replica_start_timeout_ms(const struct replica *r)
{
	if (!r->pool)
		return START_BASE_MS;
	if (r->pool->conf.start_timeout_ms)
		return r->pool->conf.start_timeout_ms;
	uint64_t gib = MIN(model_bytes(r) / GIB + 1, (uint64_t)65536);
	return START_BASE_MS + (int64_t)gib * START_MS_PER_GIB;
}

/* Ports are found by binding. Between closing and the engine's own bind somebody may take it: then the
 * engine fails, and the next start takes another. */
static int free_port(uint16_t *ret)
{
	AUTO(fd_closep) int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof a;
	if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof a) < 0 ||
		getsockname(fd, (struct sockaddr *)&a, &len) < 0)
		return -errno;
	*ret = ntohs(a.sin_port);
	return 0;
}

static void take_params(struct replica *r)
{
	const struct pool *p = r->pool;
	r->slots = r->want.slots ? r->want.slots : p->conf.slots;
	uint32_t ctx = r->want.ctx ? r->want.ctx : p->conf.ctx ? p->conf.ctx : replica_model(r)->ctx;
	r->ctx_promised = ctx != 0;
	r->ctx = ctx ? ctx : DEFAULT_CTX;
}

/* Of its devices' memory, by what the pool allows it. */
static unsigned share_permille(const struct replica *r)
{
	uint64_t may = r->pool->conf.memory;
	if (!may || !r->device_memory)
		return 0;
	return (unsigned)MAX(
		MIN(may, r->device_memory) / MAX(r->device_memory / 1000, (uint64_t)1), (uint64_t)1);
}

static int build_launch(struct replica *r, struct err *e)
{
	struct pool *p = r->pool;
	bool need_port, need_socket;
	uint16_t port = 0;
	engine_needs(&p->conf.engine, &p->build, &need_port, &need_socket);
	if (need_port) {
		int err = free_port(&port);
		if (err)
			return err_set(e, err, "no free port on 127.0.0.1: %s", strerror(-err));
	}
	AUTO(mem_freep) char *prefix = secrets_prefix(r);
	free(r->socket_path);
	r->socket_path = mem_fmt("%s.sock", prefix);
	free(r->key);
	r->key = secrets_new_key();
	struct engine_params params = {
		.pool_id = r->pool_id,
		.replica_id = r->id,
		.model_path = replica_model(r)->path,
		.socket_path = r->socket_path,
		.port = port,
		/* nobody said and nobody knows: engines of the table read it out of the model themselves */
		.ctx = r->ctx_promised || !engine_row_starts(engine_row(p->conf.engine.kind)) ? r->ctx : 0,
		.slots = r->slots,
		.gpus = p->conf.gpus,
		.share_permille = share_permille(r),
		.gpu_kind = r->on_cpu ? NULL : r->gpu_kind,
		.key = r->key,
		.files = prefix,
		.devices = r->device_words,
		.device_env = &r->device_env,
		.cpu_only = r->cpu_only,
		.cache_ram_mib = p->conf.cache_ram_mib,
		.gpu_layers = r->want.planned && !r->on_cpu ? r->want.gpu_layers : 0,
		.cpu_experts = r->want.cpu_experts,
		.split = r->want.split,
	};
	engine_launch_done(&r->launch);
	r->launch = (struct engine_launch){ 0 };
	if (strlen(r->socket_path) > NET_UNIX_PATH_MAX && need_socket)
		return err_set(e, -ENAMETOOLONG,
			"the engine's socket %s has %zu bytes, at most %d are accepted; set a shorter "
			"runtime_dir",
			r->socket_path, strlen(r->socket_path), (int)NET_UNIX_PATH_MAX);
	int err = engine_launch_build(&p->build, &p->conf.engine, &params, &r->launch, e);
	if (!err && !r->launch.uses_key)
		free(MEM_TAKE(r->key));
	if (!err)
		err = secrets_write(r, e);
	if (!err)
		err = boxes_launch(r, e);
	if (!err)
		kv_launch(r), learn_launch(r);
	return err;
}

static int spawn_keeper(struct replica *r, struct err *e)
{
	AUTO(mem_freep) char *log = replica_log_path(r->node, r->id);
	struct keeper_spec s = {
		.program = r->node->opts.keeper_path,
		.engines_dir = r->node->engines_dir,
		.replica_id = r->id,
		.generation = r->generation,
		.log_path = log,
		.socket_path = r->launch.uses_socket ? r->socket_path : NULL,
		.cwd = r->launch.cwd,
		.argv = &r->launch.argv,
		.env = &r->launch.env,
		.stop_argv = &r->launch.stop_argv,
		.grace_ms = r->pool->conf.grace_ms,
		.nofile = r->node->opts.nofile,
	};
	if (r->launch.uses_socket)
		unlink(r->socket_path); /* of a keeper that was killed: the engine would refuse to start */
	return keeper_start(r->node->loop, &s, &replica_keeper_ops, r, &r->keeper, e);
}

int replica_launch_target(struct replica *r, const char *address, struct err *e)
{
	/* Whether a live engine answers is asked every 5 s: on a fresh connection, since idle ones are closed
	 * by then. A server whose accept hangs could look healthy on an old one. */
	struct http_target_opts o = {
		.idle_max = 2, .idle_ms = 1000, .connect_timeout_ms = 5000, .bearer = r->key
	};
	http_target_free(r->target);
	r->target = http_target_new(r->node->loop, address, &o, e);
	return r->target ? 0 : -EINVAL;
}

static bool model_is_there(struct replica *r)
{
	const struct wire_model *m = replica_model(r);
	if (!m->path || file_exists(m->path))
		return true;
	replica_error(r, CAUSE_NO_MODEL, "put the file there or correct `model` of the pool",
		"the model file %s is not there", m->path);
	replica_fail(r);
	return false;
}

static int prepare(struct replica *r, struct err *e)
{
	AUTO(mem_freep) char *problem = node_ctx_problem(&r->pool->conf, replica_model(r), r->ctx);
	if (problem)
		return err_set(e, -EINVAL, "%s", problem);
	int err = build_launch(r, e);
	return err ? err : replica_launch_target(r, r->launch.address, e);
}

/* The engine's program is there: start it. */
void replica_launch(struct replica *r)
{
	struct err e = { 0 };
	if (!model_is_there(r) || devices_take(r))
		return;
	r->generation++;
	take_params(r);
	if (prepare(r, &e)) {
		secrets_remove(r);
		replica_error(
			r, CAUSE_BAD_ARGS, "correct the pool's engine in the configuration", "%s", e.msg);
		replica_fail(r);
		return;
	}
	replica_set(r, REPLICA_STARTING);
	replica_progress(r, "engine_start", -1, "The engine is being started");
	r->load_ms = 0;
	handoff_begin(r);
	if (spawn_keeper(r, &e) == 0) {
		r->loading = true;
		models_used(r);
		log_event(LOG_INFO, "start", r->id,
			(struct log_field[]){ LOG_STR("pool_id", r->pool_id), LOG_STR("replica_id", r->id),
				LOG_UINT("generation", r->generation), LOG_UINT("ctx", r->ctx),
				LOG_UINT("slots", r->slots), LOG_END },
			"Replica %s starts on %s.", r->id, r->launch.address);
		return;
	}
	handoff_forget(r->node, r->id);
	secrets_remove(r);
	replica_error(
		r, CAUSE_NO_ENGINE, "check corral's installation and the limit of processes", "%s", e.msg);
	if (e.code == -EAGAIN || e.code == -ENOMEM || e.code == -EMFILE)
		replica_crashed(r, RESTART_END_CRASH);
	else
		replica_fail(r);
}

static void with_build(struct replica *r)
{
	if (replica_variant_changed(r)) { /* while its engine was being made ready */
		replica_begin(r);
		return;
	}
	mem_setstr(&r->engine_version, r->pool->build.version);
	mem_setstr(&r->engine_why, r->pool->build.why);
	if (r->pool->build.external)
		external_begin(r);
	else
		gate_enter(r);
}

/* One line a step, and one for each tenth of a long one. */
static void narrate_progress(struct replica *r, const struct engine_progress *p)
{
	int tenth = p->pct < 0 ? 0 : p->pct / 10;
	if (strncmp(r->told_phase, p->phase, sizeof r->told_phase - 1) == 0 && tenth <= r->told_tenth)
		return;
	snprintf(r->told_phase, sizeof r->told_phase, "%s", p->phase);
	r->told_tenth = tenth;
	log_event(LOG_INFO, "provision", r->id,
		(struct log_field[]){ LOG_STR("replica_id", r->id), LOG_STR("phase", p->phase),
			LOG_INT("pct", p->pct), LOG_END },
		"%s", p->text ? p->text : p->phase);
}

static void on_engine_progress(void *arg, const struct engine_progress *p)
{
	narrate_progress(arg, p);
	replica_progress(arg, "engine_provision", p->pct, "%s", p->text ? p->text : p->phase);
}

static void on_engine_done(void *arg, const struct engine_build *build, const struct err *err)
{
	struct replica *r = arg;
	struct pool *p = r->pool;
	r->job = NULL; /* it frees itself after this call */
	if (!build) {
		replica_error(r, CAUSE_NO_ENGINE, "install an engine or set `engine` of the pool", "%s",
			err ? err->msg : "no engine could be had");
		replica_fail(r);
		replica_kick(r);
		return;
	}
	if (!p->have_build || !p->build.why || !build->why || strcmp(p->build.why, build->why) != 0)
		log_event(LOG_INFO, "engine", p->conf.id,
			(struct log_field[]){ LOG_STR("pool_id", p->conf.id),
				LOG_STR("engine", engine_kind_name(build->kind)),
				LOG_STR("engine_version", build->version), LOG_END },
			"Pool %s runs %s.", p->conf.id,
			build->why ? build->why : engine_kind_name(build->kind));
	engine_build_done(&p->build);
	p->build = (struct engine_build){ 0 };
	engine_build_copy(&p->build, build);
	p->have_build = true;
	engines_remember(r->node, build);
	with_build(r);
	replica_kick(r);
}

static void ensure(struct replica *r)
{
	struct node *n = r->node;
	struct engine_ensure_opts o;
	AUTO(mem_freep) struct engine_device *devices = mem_alloc(GPU_DEVICES_MAX * sizeof *devices);
	engines_opts(n, r->on_cpu, devices, &o);
	replica_progress(r, "engine_provision", -1, "The engine is being made ready");
	r->job = engine_ensure(n->loop, &r->pool->conf.engine, &o, on_engine_progress, on_engine_done, r);
}

/* What Corral keeps is looked up with every start, which costs a file read (of a container two questions to
 * its runtime): an upgrade or a rollback may have made another one the pool's. */
static bool build_is_there(const struct pool *p)
{
	enum engine_mode m = p->build.mode;
	if (m == ENGINE_MODE_SOURCE || m == ENGINE_MODE_PACKAGE || m == ENGINE_MODE_CONTAINER)
		return false;
	return p->have_build && (p->build.external || (p->build.program && file_exists(p->build.program)));
}

static void read_model(struct replica *r)
{
	struct pool *p = r->pool;
	if (r->model)
		node_read_model(r->node, &p->conf, r->model, &r->own_model);
	else
		node_read_model(r->node, &p->conf, p->conf.model_path, &p->model);
}

/* What is wanted becomes what is started. False: no definition of this node fits. */
static bool take_variant(struct replica *r)
{
	struct node *n = r->node;
	struct pool *p = node_pool_find_spec(n, r->pool_id, r->want.spec);
	mem_setstr(&r->spec, p && p->conf.spec ? p->conf.spec : r->want.spec);
	mem_setstr(&r->model, r->want.model);
	r->no_definition = !p;
	if (p) {
		replica_bind(r, p);
		return true;
	}
	replica_bind(r, NULL);
	if (node_pool_find(n, r->pool_id))
		replica_error(r, CAUSE_BAD_ARGS,
			"this node's file differs from orchestratord's: run `corral config reload`",
			"pool %s is configured differently on this node than what is wanted of it (%s)",
			r->pool_id, r->want.spec);
	else
		replica_error(r, CAUSE_BAD_ARGS,
			"this node's file differs from orchestratord's: run `corral config reload`",
			"pool %s is not in this node's configuration", r->pool_id);
	replica_fail(r);
	return false;
}

void replica_provide(struct replica *r)
{
	if (devices_take(r))
		return;
	if (build_is_there(r->pool))
		with_build(r);
	else
		ensure(r);
}

void replica_begin(struct replica *r)
{
	/* A keeper of an earlier run that nobody watches: never a second engine. */
	if (replica_adopt(r, NULL) == 0)
		return;
	if (!take_variant(r))
		return;
	gate_leave(r);
	replica_set(r, REPLICA_PROVISIONING);
	restart_started(&r->restart);
	if (models_wait(r))
		return;
	read_model(r);
	replica_provide(r);
}
