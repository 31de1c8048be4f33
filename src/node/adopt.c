/* SPDX-License-Identifier: Apache-2.0
 *
 * The way back to engines that run already: by their keepers' records and locks, and by what an earlier run
 * wrote down of how it started them.
 */
#include <stdlib.h>

#include "base/mem.h"
#include "log/log.h"
#include "node/node_int.h"
#include "provision/engine/table.h"

enum { ADOPT_AGAIN_MS = 50, ADOPT_TRIES = 100 };

/* The definition it was started from, if this node still has it; else today's, to know how to talk to it. */
static void adopt_definition(struct replica *r, const struct handoff *h)
{
	struct pool *p = node_pool_find_spec(r->node, r->pool_id, h->spec);
	replica_bind(r, p ? p : node_pool_find(r->node, r->pool_id));
	mem_setstr(&r->spec, h->spec);
	mem_setstr(&r->model, h->model);
	if (r->model && r->pool)
		node_read_model(r->node, &r->pool->conf, r->model, &r->own_model);
	mem_setstr(&r->engine_version, h->engine_version);
	mem_setstr(&r->engine_why, h->engine_why);
	mem_setstr(&r->devices, h->devices);
}

static void adopt_facts(struct replica *r, const struct keeper_record *rec)
{
	AUTO(handoff_done) struct handoff h = { 0 };
	bool have = handoff_read(r->node, r->id, rec->generation, &h) == 0;
	adopt_definition(r, &h);
	r->slots = h.slots;
	r->ctx = h.ctx;
	r->proven = h.ready;
	free(r->launch.address);
	r->launch.address = have             ? mem_strdup(h.url)
			    : rec->socket[0] ? mem_fmt("unix:%s", rec->socket)
					     : NULL;
	const struct engine_def *def = r->pool ? &r->pool->conf.engine : NULL;
	free(r->launch.health_path);
	r->launch.health_path = mem_strdup(h.health             ? h.health
					   : def && def->health ? def->health
								: "/health");
	r->launch.has_slots = def && def->kind == ENGINE_LLAMACPP;
	const struct engine_row *row = def ? engine_row(def->kind) : NULL;
	mem_setstr(&r->launch.serves, engine_row_starts(row) && row->name ? r->pool_id : NULL);
	secrets_adopt(r);
	kv_adopt(r, h.kv_key);
}

int replica_adopt(struct replica *r, struct err *reterr)
{
	struct node *n = r->node;
	int e = keeper_adopt(n->loop, n->engines_dir, r->id, &replica_keeper_ops, r, &r->keeper, reterr);
	if (e)
		return e;
	const struct keeper_record *rec = keeper_record(r->keeper);
	if (r->state != REPLICA_ABSENT && r->state != REPLICA_STOPPED)
		replica_set(r, REPLICA_STOPPED);
	r->generation = rec->generation;
	r->pid = rec->engine_pid;
	r->pid_start = rec->engine_start;
	r->started_at_ms = rec->started_at_ms;
	mem_setstr(&r->socket_path, rec->socket[0] ? rec->socket : NULL);
	adopt_facts(r, rec);
	restart_started(&r->restart);
	replica_set(r, REPLICA_STARTING);
	replica_progress(r, "engine_start", -1, "An engine that runs already is being taken over");
	log_info("adopt", r->id, "Replica %s runs already (pid %d) and is taken over.", r->id, r->pid);
	struct err why = { 0 };
	if (rec->state != RECORD_RUNNING || !r->launch.address ||
		replica_launch_target(r, r->launch.address, &why))
		replica_stop(r); /* it is ending, or nobody can tell where it listens */
	else
		replica_watch(r);
	return 0;
}

/* ---- engines found at start
 * --------------------------------------------------------------------------------- */

struct found {
	struct node *node;
	char *id;
	int tries;
	struct list list;
	struct loop_timer timer;
};

static char *pool_of(const char *replica_id)
{
	const char *dash = strrchr(replica_id, '-');
	return dash && dash != replica_id ? mem_viewdup(view_of(replica_id, (size_t)(dash - replica_id)))
					  : NULL;
}

static void found_free(struct found *f)
{
	list_remove(&f->list);
	loop_timer_stop(&f->timer);
	free(f->id);
	free(f);
}

/* Its keeper is gone. What the last run wrote about the engine is still there: then that run did not live to
 * see the end, and nobody has been told of it. */
static void dead_keeper(struct node *n, const char *id, const char *pool_id)
{
	struct keeper_end e;
	AUTO(handoff_done) struct handoff h = { 0 };
	if (map_gets(&n->replicas, id) || keeper_bury(n->engines_dir, id, &e, NULL) ||
		strcmp(e.record.replica_id, id) != 0)
		return;
	bool unseen = handoff_read(n, id, e.record.generation, &h) == 0;
	handoff_forget(n, id);
	if (!unseen || !e.started || e.record.stop_asked || strcmp(e.record.boot_id, n->boot_id) != 0)
		return;
	struct replica *r = replica_new(n, id, pool_id);
	adopt_definition(r, &h);
	r->slots = h.slots;
	r->ctx = h.ctx;
	r->wanted = true; /* until somebody says what is wanted; if nobody comes, it keeps no node alive */
	r->want.keep_alive_ms = n->opts.orphan_grace_ms;
	replica_set(r, REPLICA_STARTING);
	restart_started(&r->restart);
	if (h.ready)
		restart_ready(
			&r->restart, mono_add_ms(mono_now(),
					     MIN(e.record.started_at_ms - e.record.ended_at_ms, (int64_t)0)));
	replica_ended_unseen(r, &e);
}

static void try_adopt(void *arg)
{
	struct found *f = arg;
	struct node *n = f->node;
	AUTO(mem_freep) char *pool = pool_of(f->id);
	struct replica *r = map_gets(&n->replicas, f->id);
	if (!pool || (r && !replica_idle(r))) {
		found_free(f);
		return;
	}
	bool fresh = !r;
	if (fresh)
		r = replica_new(n, f->id, pool);
	int e = replica_adopt(r, NULL);
	if (e == 0) {
		r->wanted = r->wanted || fresh; /* until somebody says what is wanted */
	} else if (fresh) {
		replica_free(r);
	}
	if (e == -ENOENT)
		dead_keeper(n, f->id, pool);
	if (e == -EAGAIN && ++f->tries < ADOPT_TRIES)
		loop_timer_start(n->loop, &f->timer, ADOPT_AGAIN_MS, try_adopt, f);
	else
		found_free(f);
}

static void on_found(void *arg, const char *replica_id)
{
	struct node *n = arg;
	if (!replica_id_valid(view_str(replica_id)))
		return;
	struct found *f = NEW(struct found);
	f->node = n;
	f->id = mem_strdup(replica_id);
	list_append(&n->found, &f->list);
	try_adopt(f);
}

int adopt_all(struct node *n, struct err *reterr)
{
	int r = keeper_scan(n->engines_dir, on_found, n);
	if (r)
		return err_set(reterr, r, "%s cannot be read: %s", n->engines_dir, strerror(-r));
	tidy_files(n);
	boxes_sweep(n);
	return 0;
}

void adopt_done(struct node *n)
{
	while (!list_empty(&n->found))
		found_free(LIST_ENTRY(list_first(&n->found), struct found, list));
}
