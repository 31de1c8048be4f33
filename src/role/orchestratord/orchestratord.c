/* SPDX-License-Identifier: Apache-2.0
 *
 * Start order, ready line, shutdown.
 */
#include "role/orchestratord/orchestratord.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "log/log.h"
#include "role/orchestratord/orch_int.h"

enum { STATUS_MISTAKE = 2, /* as of a configuration with mistakes */ };
enum { READY_MS = 10000, READY_FOUND_MS = 45000, DRAIN_MS = 30000, NODE_STOP_MS = 15000 };

/* ---- start
 * ------------------------------------------------------------------------------------------------------- */

static void set_paths(struct orch *o)
{
	const struct config *c = o->config;
	o->spool_dir = path_join(c->state_dir, "spool");
	o->log_dir = path_join(c->state_dir, "log");
	o->engines_dir = path_join(c->runtime_dir, "engines");
	o->registry_path = path_join(c->runtime_dir, "registry.sock");
	o->node_path = path_join(c->runtime_dir, "provisioner.sock");
	o->spool = (struct spool_account){ .dir = o->spool_dir };
	atomic_init(&o->spool.total_max, c->body_spool_total);
	atomic_init(&o->spool.total, 0);
}

static int make_dirs(struct orch *o, struct err *e)
{
	int r = dir_ensure_writable(o->config->state_dir, "state_dir", e);
	r = r ? r : dir_ensure_writable(o->config->runtime_dir, "runtime_dir", e);
	r = r ? r : dir_ensure_writable(o->spool_dir, "state_dir", e);
	r = r ? r : dir_ensure_writable(o->log_dir, "state_dir", e);
	return r ? r : dir_ensure_writable(o->engines_dir, "runtime_dir", e);
}

/* One orchestratord a runtime_dir. The lock file holds the pid, for the message. */
static int take_lock(struct orch *o, struct err *e)
{
	AUTO(mem_freep) char *path = path_join(o->config->runtime_dir, "orchestratord.lock");
	o->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (o->lock_fd < 0)
		return err_set(e, -errno, "%s cannot be opened: %s", path, strerror(errno));
	if (flock(o->lock_fd, LOCK_EX | LOCK_NB) < 0) {
		AUTO(buf_done) struct buf b = BUF(64);
		(void)!file_read(path, &b);
		return err_set(e, -EBUSY,
			"another corral (pid %s) runs with runtime_dir %s; stop it, or give this one its own "
			"state_dir and runtime_dir",
			b.len ? buf_str(&b) : "unknown", o->config->runtime_dir);
	}
	char pid[16];
	int n = snprintf(pid, sizeof pid, "%d", (int)getpid());
	if (ftruncate(o->lock_fd, 0) == 0)
		(void)!pwrite(o->lock_fd, pid, (size_t)n, 0);
	return 0;
}

static void raise_files(void)
{
	struct rlimit l;
	if (getrlimit(RLIMIT_NOFILE, &l) == 0 && l.rlim_cur < l.rlim_max) {
		l.rlim_cur = l.rlim_max;
		setrlimit(RLIMIT_NOFILE, &l);
	}
}

static void on_pools(void *arg)
{
	struct orch *o = arg;
	if (o->control)
		data_loops_models(o);
}

static void on_replica_gone(void *arg, struct pool_replica *r, bool cut)
{
	data_loops_replica_gone(arg, r, cut);
}

static const char *large_bodies(void *arg)
{
	struct orch *o = arg;
	return spool_problem(&o->spool);
}

static bool is_draining(void *arg)
{
	return ((struct orch *)arg)->draining;
}

static void collect(void *arg, struct metrics *m)
{
	struct orch *o = arg;
	metric_set(metrics_series(m, "corral_build_info", CORRAL_VERSION, NULL), 1);
	struct loop_stats s = loop_stats_take(o->loop);
	metric_set(
		metrics_series(m, "corral_loop_lag_seconds", "control", NULL), (double)s.max_busy_ns / 1e9);
	for (unsigned i = 0; i < o->nloops; i++) {
		s = loop_stats_take(o->loops[i].loop);
		metric_set(metrics_series(m, "corral_loop_lag_seconds", loop_name(o->loops[i].loop), NULL),
			(double)s.max_busy_ns / 1e9);
		metric_set(metrics_series(m, "corral_connections", loop_name(o->loops[i].loop), NULL),
			(double)arrivals_connections(&o->loops[i]));
	}
	door_collect(o, m);
	struct metric_series *dropped = metrics_series(m, "corral_log_dropped_total", NULL);
	uint64_t now = log_dropped(), told = metric_value(dropped);
	metric_add(dropped, now > told ? now - told : 0);
}

static void write_ready(struct orch *o)
{
	if (o->told_ready)
		return;
	o->told_ready = true;
	size_t pools = 0;
	while (control_pool_at(o->control, pools))
		pools++;
	log_event(LOG_INFO, "listening", o->listen_urls[0],
		(struct log_field[]){ LOG_STR("listen", o->listen_urls[0]), LOG_UINT("pools", pools),
			LOG_UINT("workers", o->nloops), LOG_END },
		"Corral " CORRAL_VERSION " serves %zu pool%s on %s.", pools, pools == 1 ? "" : "s",
		o->listen_urls[0]);
	if (o->o.ready_fd < 0)
		return;
	AUTO(buf_done) struct buf b = BUF(64 * KIB);
	(void)buf_adds(&b, "{\"listen\": ");
	(void)buf_add_json(&b, view_str(o->listen_urls[0]));
	(void)buf_adds(&b, ", \"all\": [");
	for (size_t i = 0; i < o->nlisten; i++) {
		(void)buf_adds(&b, i ? ", " : "");
		(void)buf_add_json(&b, view_str(o->listen_urls[i]));
	}
	(void)buf_addf(&b, "], \"pid\": %d}\n", (int)getpid());
	(void)!fd_write_all(o->o.ready_fd, b.data, b.len);
	fd_close(o->o.ready_fd);
	o->o.ready_fd = -1;
}

/* Ready means: a request would be answered. Without a node it would only wait, so the first registration
 * is waited for, but not for long: a provisioner that cannot start must not hide the reason. */
static void ready_late(void *arg)
{
	write_ready(arg);
}

static void look_ready(struct orch *o, const struct registry_snapshot *s)
{
	for (size_t i = 0; i < s->nnodes && !o->told_ready; i++)
		if (s->nodes[i]->online && s->nodes[i]->registered) {
			loop_timer_stop(&o->deadline);
			write_ready(o);
		}
}

void orch_look_ready(struct orch *o)
{
	AUTO(registry_snapshot_unrefp) const struct registry_snapshot *s = registry_snapshot_ref(o->registry);
	look_ready(o, s);
}

static void on_registry(void *arg, const struct registry_snapshot *s)
{
	struct orch *o = arg;
	reload_node_seen(o->reload);
	if (!found_pending(o, s)) /* else after the pools are there */
		look_ready(o, s);
}

static void on_reload_asked(void *arg, bool dry_run, const char *by, api_reload_fn *fn, void *fn_arg)
{
	reload_ask(((struct orch *)arg)->reload, dry_run, by, fn, fn_arg);
}

static int set_up(struct orch *o, struct err *e)
{
	set_paths(o);
	int r = make_dirs(o, e);
	r = r ? r : take_lock(o, e);
	r = r ? r : door_open(o, e);
	if (r)
		return r;
	AUTO(mem_freep) char *db = path_join(o->config->state_dir, "registry.db");
	o->metrics = metrics_new();
	metrics_on_collect(o->metrics, collect, o);
	o->registry = registry_new(&(struct registry_opts){ .db_path = db });
	keys_start(o->keys, o);
	r = data_loops_init(o, e);
	if (r)
		return r;
	o->control = control_new(&(struct control_opts){ .loop = o->loop,
		.config = o->config,
		.registry = o->registry,
		.metrics = o->metrics,
		.on_pools = on_pools,
		.on_replica_gone = on_replica_gone,
		.arg = o });
	data_loops_models(o);
	o->reload = reload_new(o);
	o->watch = config_watch_new(o);
	o->api = api_new(&(struct api_opts){ .loop = o->loop,
		.config = o->config,
		.control = o->control,
		.registry = o->registry,
		.metrics = o->metrics,
		.is_draining = is_draining,
		.requests = requests_call,
		.keys = keys_call,
		.spool_problem = large_bodies,
		.reload = on_reload_asked,
		.arg = o });
	registry_watch(o->registry, on_registry, o);
	return registry_api_start(o, e);
}

/* ---- shutdown
 * ------------------------------------------------------------------------------------------------------ */

static void finish(void *arg)
{
	struct orch *o = arg;
	loop_stop(o->loop);
}

static void stop_node(struct orch *o)
{
	if (o->stopping_node)
		return;
	o->stopping_node = true;
	loop_timer_stop(&o->deadline);
	control_quiesce(o->control);
	if (o->o.owns_engines && !o->o.keep_engines)
		provisioner_stop(o, NODE_STOP_MS, finish);
	else
		finish(o);
}

static void all_idle(void *arg)
{
	stop_node(arg);
}

static void force(void *arg)
{
	struct orch *o = arg;
	if (o->forced)
		return;
	o->forced = true;
	log_warn("stop", "corral", "Requests that still run are cut off.");
	data_loops_force(o);
}

/* Waiting requests are told; running ones may end. */
static void close_pools(struct orch *o)
{
	struct pool_refusal why = { .code = CODE_POOL_UNAVAILABLE,
		.retriable = true,
		.retry_after_ms = 5000,
		.message = "The server is going down." };
	struct control_pool *p;
	for (size_t i = 0; (p = control_pool_at(o->control, i)); i++)
		pool_close(control_pool_traffic(p), &why, false);
}

static void on_signal(void *arg, int signo)
{
	struct orch *o = arg;
	if (o->draining) {
		force(o);
		return;
	}
	o->draining = true;
	log_info("stop", "corral", "Corral ends on %s: running requests may finish within %d s.",
		strsignal(signo), DRAIN_MS / 1000);
	write_ready(o); /* whoever waits for readiness must not wait for ever */
	reload_end(o->reload);
	control_pause(o->control);
	api_drain(o->api); /* streams without an end would hold up the drain */
	close_pools(o);
	data_loops_drain(o, all_idle);
	loop_timer_start(o->loop, &o->deadline, DRAIN_MS, force, o);
}

static void tear_down(struct orch *o)
{
	data_loops_stop(o);
	provisioner_leave(o);
	http_server_free(o->registry_server);
	if (o->registry)
		registry_unwatch(o->registry, on_registry, o);
	config_watch_free(o->watch);
	reload_free(o->reload);
	api_free(o->api);
	data_loops_free(o);
	control_free(o->control);
	registry_free(o->registry);
	loop_signal_stop(&o->sigterm);
	loop_signal_stop(&o->sigint);
	loop_signal_stop(&o->sighup);
	door_close(o);
	keys_free(o->keys);
	loop_free(o->loop);
	tls_server_free(o->tls); /* a reload's thread may have looked at it until here */
	metrics_free(o->metrics);
	if (o->registry_fd >= 0)
		unlink(o->registry_path);
	fd_close(o->registry_fd);
	fd_close(o->lock_fd);
	free(o->spool_dir);
	free(o->log_dir);
	free(o->engines_dir);
	free(o->registry_path);
	free(o->node_path);
	free(o->found);
	config_unref(o->config);
	free(o);
}

static void on_hup(void *arg, int signo)
{
	struct orch *o = arg;
	(void)signo;
	reload_ask(o->reload, false, "SIGHUP", NULL, NULL);
}

static int run(struct orch *o, struct err *e)
{
	signal(SIGPIPE, SIG_IGN);
	int r = set_up(o, e);
	r = r ? r : loop_signal_start(o->loop, &o->sigterm, SIGTERM, on_signal, o);
	r = r ? r : loop_signal_start(o->loop, &o->sigint, SIGINT, on_signal, o);
	r = r ? r : loop_signal_start(o->loop, &o->sighup, SIGHUP, on_hup, o);
	r = r ? r : data_loops_run(o);
	if (r) {
		if (!e->code)
			err_set(e, r, "corral cannot start: %s", strerror(-r));
		return r;
	}
	provisioner_start(o);
	config_watch_follow(o);
	/* Looking through the disk takes as long as it takes, at most STORES_MS_MAX. */
	loop_timer_start(o->loop, &o->deadline, o->config->npools ? READY_MS : READY_FOUND_MS, ready_late, o);
	return loop_run(o->loop);
}

int orchestratord_run(const struct orchestratord_opts *opts)
{
	struct err e = { 0 };
	struct keys *keys = keys_new(opts->config, opts->source ? opts->source->path : NULL, &e);
	if (!keys) {
		fprintf(stderr, "corral: %s\n", e.msg);
		return STATUS_MISTAKE;
	}
	struct log_opts lo = { .level = (enum log_level)opts->config->log_level,
		.format = (enum log_format)opts->config->log_format,
		.actor = "orchestratord",
		.fd = 2 };
	if (log_start(&lo, &e) < 0) {
		fprintf(stderr, "corral: %s\n", e.msg);
		keys_free(keys);
		return 1;
	}
	raise_files();
	struct orch *o = NEW(struct orch);
	o->o = *opts;
	o->keys = keys;
	o->config = config_ref(opts->config);
	o->registry_fd = o->lock_fd = -1;
	o->loop = loop_new("control");
	int r = run(o, &e);
	if (r)
		log_error("start", "corral", "%s.", e.msg);
	tear_down(o);
	log_stop();
	return r ? 1 : 0;
}
