/* SPDX-License-Identifier: Apache-2.0
 *
 * Containers that outlived who started them: a keeper that was killed, or a stop that failed, leaves one that
 * goes on holding its devices. They are looked for when an engine of a container has ended, and once at the
 * node's start; a file beside the engines' says that there ever was one, and by which program.
 */
#include <stdlib.h>

#include "base/fd.h"
#include "base/mem.h"
#include "log/log.h"
#include "node/node_int.h"

enum { PROGRAM_MAX = 4096 };

static char *mark_path(const struct node *n)
{
	return path_join(n->engines_dir, "containers");
}

static bool keep(void *arg, const char *replica_id, uint64_t generation)
{
	const struct node *n = arg;
	const struct replica *r = map_gets(&n->replicas, replica_id);
	return keeper_runs(n->engines_dir, replica_id) && (!r || r->generation == generation);
}

static void on_swept(void *arg)
{
	struct node *n = arg;
	n->sweep = NULL;
	if (n->sweep_again) {
		n->sweep_again = false;
		boxes_sweep(n);
	}
	node_replica_gone(n); /* it may have been the last there was to do */
}

static const struct engine_sweep_ops sweep_ops = { keep, on_swept };

void boxes_sweep(struct node *n)
{
	if (n->sweep) {
		n->sweep_again = true;
		return;
	}
	AUTO(mem_freep) char *path = mark_path(n);
	AUTO(buf_done) struct buf b = BUF(PROGRAM_MAX);
	if (file_read_regular(path, &b) < 0)
		return;
	struct err e = { 0 };
	if (engine_sweep_start(n->loop, buf_str(&b), n->engines_dir, &sweep_ops, n, &n->sweep, &e))
		log_warn("containers", n->opts.node_id, "Old containers cannot be looked for: %s.", e.msg);
}

int boxes_launch(struct replica *r, struct err *reterr)
{
	if (!r->pool->build.image)
		return 0;
	AUTO(mem_freep) char *path = mark_path(r->node);
	int e = file_write_atomic(path, view_str(r->pool->build.program), 0600, false);
	return e ? err_set(reterr, e, "%s cannot be written: %s", path, strerror(-e)) : 0;
}

void boxes_ended(struct replica *r)
{
	if (r->pool && r->pool->build.image)
		boxes_sweep(r->node);
}
