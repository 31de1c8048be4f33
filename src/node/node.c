/* SPDX-License-Identifier: Apache-2.0
 *
 * The node as a whole: its lock, its folders, its socket, the engines found at start, and its end.
 */
#include "node/node.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "log/log.h"
#include "node/models_int.h"
#include "node/stream_int.h"

enum {
	HEARTBEAT_MS = 10000,
	ORPHAN_GRACE_MS = 10000,
	PROBE_EVERY_MS = 5000,
	LEAVE_MS = 1000,
};

/* ---- the end ---------------------------------------------------------------------------------------------
 */

static bool any_engine(struct node *n)
{
	struct map_entry *e;
	for (size_t i = 0; (e = map_next(&n->replicas, &i));)
		if (replica_reported(e->value))
			return true;
	return false;
}

static void tell_done(void *arg)
{
	struct node *n = arg;
	if (n->opts.on_done)
		n->opts.on_done(n->opts.arg);
}

static void on_left(void *arg, int status, struct view body, const struct err *e)
{
	(void)status;
	(void)body;
	(void)e;
	struct node *n = arg;
	n->leaving = NULL;
	tell_done(n);
}

static void finish(struct node *n)
{
	if (n->done)
		return;
	n->done = true;
	loop_timer_stop(&n->stop_deadline);
	log_info("done", n->opts.node_id, "No engine is left on this node.");
	api_stop_answer(n);
	struct http_target *t = n->report.target;
	http_fetch_cancel(&n->report.fetch);
	loop_timer_stop(&n->report.timer);
	loop_timer_stop(&n->report.slow);
	loop_defer_cancel(&n->report.work);
	AUTO(mem_freep) char *path = mem_fmt("/v1/registry/nodes/%s", n->opts.node_id);
	struct http_fetch_req q = { .method = "DELETE", .path = path, .timeout_ms = LEAVE_MS };
	if (t && n->report.registered && !n->report.away)
		n->leaving = http_fetch(t, &q, on_left, n);
	else
		loop_defer_call(n->loop, tell_done, n);
}

void node_replica_gone(struct node *n)
{
	if (any_engine(n) || n->sweep)
		return;
	if (n->stopping)
		finish(n);
	else
		node_orphan_check(n);
}

static void on_stop_deadline(void *arg)
{
	struct node *n = arg;
	struct map_entry *e;
	for (size_t i = 0; (e = map_next(&n->replicas, &i));) {
		struct replica *r = e->value;
		if (r->keeper)
			keeper_kill(r->keeper);
	}
}

void node_stop(struct node *n, int64_t deadline_ms)
{
	if (!n->stopping)
		log_info("stop", n->opts.node_id, "All engines of this node are being stopped.");
	n->stopping = true;
	struct map_entry *e;
	loop_timer_start(n->loop, &n->stop_deadline, deadline_ms, on_stop_deadline, n);
	for (size_t i = 0; (e = map_next(&n->replicas, &i));)
		replica_kick(e->value);
	if (n->done)
		api_stop_answer(n);
	else if (!any_engine(n))
		finish(n);
}

/* ---- without an orchestratord
 * ------------------------------------------------------------------------------ */

static void on_orphan(void *arg)
{
	node_orphan_check(arg);
}

/* Takes back what was wanted once its keep_alive is over; returns when the next one is. */
static mono_t expire(struct node *n, mono_t now)
{
	mono_t next = MONO_NEVER;
	struct map_entry *e;
	for (size_t i = 0; (e = map_next(&n->replicas, &i));) {
		struct replica *r = e->value;
		if (r->want.keep_alive_ms < 0 || r->stopping)
			continue;
		mono_t due = mono_add_ms(n->report.away_since, r->want.keep_alive_ms);
		if (mono_before(now, due)) {
			next = mono_before(due, next) ? due : next;
			continue;
		}
		if (r->wanted || !replica_idle(r))
			log_info("orphan", r->id, "Nobody asks for replica %s any more; it is stopped.",
				r->id);
		r->wanted = false;
		replica_kick(r);
	}
	return next;
}

void node_orphan_check(struct node *n)
{
	if (!n->report.away || n->stopping || n->done)
		return;
	mono_t now = mono_now(), end = mono_add_ms(n->report.away_since, n->opts.orphan_grace_ms);
	mono_t next = expire(n, now);
	if (!any_engine(n)) {
		if (!mono_before(now, end)) {
			finish(n);
			return;
		}
		next = end;
	}
	if (next.ns != MONO_NEVER.ns)
		loop_timer_start(n->loop, &n->orphan, mono_ms_between(now, next) + 1, on_orphan, n);
}

/* ---- making and freeing
 * -------------------------------------------------------------------------------------- */

static void copy_opts(struct node *n, const struct node_opts *o)
{
	n->opts = *o;
	n->opts.node_id = mem_strdup(o->node_id);
	n->opts.version = mem_strdup(o->version);
	n->opts.runtime_dir = mem_strdup(o->runtime_dir);
	n->opts.state_dir = mem_strdup(o->state_dir);
	n->opts.log_dir = mem_strdup(o->log_dir);
	n->opts.keeper_path = mem_strdup(o->keeper_path);
	n->opts.registry_address = mem_strdup(o->registry_address);
	n->opts.pools = NULL;
	n->opts.gpus = NULL;
	n->opts.heartbeat_ms = o->heartbeat_ms ? o->heartbeat_ms : HEARTBEAT_MS;
	n->opts.probe_every_ms = o->probe_every_ms ? o->probe_every_ms : PROBE_EVERY_MS;
	n->opts.orphan_grace_ms = o->orphan_grace_ms ? o->orphan_grace_ms : ORPHAN_GRACE_MS;
	n->policy = o->restart ? *o->restart : RESTART_POLICY_DEFAULT;
	rnd_seed(&n->rnd, o->seed);
}

static int take_lock(struct node *n, struct err *e)
{
	AUTO(mem_freep) char *path = path_join(n->opts.runtime_dir, "provisioner.lock");
	n->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (n->lock_fd < 0)
		return err_set(e, -errno, "%s cannot be opened: %s", path, strerror(errno));
	if (flock(n->lock_fd, LOCK_EX | LOCK_NB) < 0)
		return err_set(e, -EBUSY,
			"another engine-provisioner runs in %s (%s is locked); give this one its own "
			"runtime_dir",
			n->opts.runtime_dir, path);
	return 0;
}

static int make_dirs(struct node *n, struct err *e)
{
	int r = dir_ensure_writable(n->opts.runtime_dir, "runtime_dir", e);
	r = r ? r : dir_ensure_writable(n->engines_dir, "runtime_dir", e);
	return r ? r : dir_ensure_writable(n->opts.log_dir, "the log folder of state_dir", e);
}

static int serve(struct node *n, struct err *e)
{
	struct net_addr a;
	struct http_server_opts so = { HTTP_SERVER_DEFAULTS, .on_request = api_on_request, .arg = n };
	so.max_connections = 256;
	int r = net_addr_parse(view_str(n->address), &a, e);
	r = r ? r : net_listen(&a, 0600, &n->listen_fd, e);
	if (r)
		return r;
	n->server = http_server_new(n->loop, &so);
	r = http_server_listen(n->server, n->listen_fd);
	return r ? err_set(e, r, "%s cannot be served: %s", n->socket_path, strerror(-r)) : 0;
}

int node_new(struct loop *l, const struct node_opts *o, struct node **ret, struct err *reterr)
{
	struct node *n = NEW(struct node);
	n->loop = l;
	n->lock_fd = n->listen_fd = -1;
	map_init(&n->replicas);
	list_init(&n->stop_waits);
	list_init(&n->found);
	list_init(&n->gate);
	list_init(&n->fetches);
	list_init(&n->streams);
	list_init(&n->removals);
	list_init(&n->looks);
	copy_opts(n, o);
	boot_id_read(n->boot_id);
	n->engines_dir = path_join(o->runtime_dir, "engines");
	n->builds_dir = path_join(o->state_dir, "engines");
	n->socket_path = path_join(o->runtime_dir, "provisioner.sock");
	n->address = mem_fmt("unix:%s", n->socket_path);
	int r = make_dirs(n, reterr);
	r = r ? r : take_lock(n, reterr);
	if (!r) {
		pools_set(n, o->pools, o->npools);
		kv_init(n);
		r = adopt_all(n, reterr);
	}
	if (!r)
		devices_init(n, o->gpus);
	r = r ? r : serve(n, reterr);
	r = r ? r : report_init(n, reterr);
	if (r) {
		node_free(n);
		return r;
	}
	*ret = n;
	return 0;
}

static void free_opts(struct node *n)
{
	free((char *)(uintptr_t)n->opts.node_id);
	free((char *)(uintptr_t)n->opts.version);
	free((char *)(uintptr_t)n->opts.runtime_dir);
	free((char *)(uintptr_t)n->opts.state_dir);
	free((char *)(uintptr_t)n->opts.log_dir);
	free((char *)(uintptr_t)n->opts.keeper_path);
	free((char *)(uintptr_t)n->opts.registry_address);
}

void node_free(struct node *n)
{
	if (!n)
		return;
	http_fetch_cancel(&n->leaving);
	report_done(n);
	devices_done(n);
	streams_done(n);
	catalog_removals_done(n);
	engines_looks_done(n);
	if (n->server)
		http_server_free(n->server);
	if (n->listen_fd >= 0) {
		unlink(n->socket_path);
		fd_close(n->listen_fd);
	}
	adopt_done(n);
	engine_sweep_cancel(&n->sweep);
	loop_timer_stop(&n->stop_deadline);
	loop_timer_stop(&n->orphan);
	loop_defer_cancel(&n->gate_work);
	struct map_entry *e;
	for (size_t i = 0; (e = map_next(&n->replicas, &i));)
		replica_free(e->value);
	map_done(&n->replicas);
	models_done(n);
	pools_done(n);
	fd_close(n->lock_fd);
	free_opts(n);
	free(n->engines_dir);
	free(n->builds_dir);
	free(n->kv_dir);
	free(n->socket_path);
	free(n->address);
	loop_defer_free(n->loop, n);
}
