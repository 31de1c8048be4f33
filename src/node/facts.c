/* SPDX-License-Identifier: Apache-2.0
 *
 * What the node says of itself.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "node/node_int.h"

bool replica_reported(const struct replica *r)
{
	return r->state != REPLICA_ABSENT || r->wanted;
}

static char **copy_models(char **from)
{
	size_t n = 0;
	while (from && from[n])
		n++;
	if (!from)
		return NULL;
	char **to = mem_alloc((n + 1) * sizeof *to);
	for (size_t i = 0; i < n; i++)
		to[i] = mem_strdup(from[i]);
	return to;
}

static int64_t retry_in(const struct replica *r)
{
	if (r->state == REPLICA_BACKOFF || (r->state == REPLICA_FAILED && loop_timer_active(&r->retry)))
		return MAX(mono_ms_between(mono_now(), r->retry_at), (int64_t)0);
	return r->state == REPLICA_FAILED ? -1 : 0;
}

static bool has_address(const struct replica *r)
{
	return r->state == REPLICA_READY || (r->state == REPLICA_PROVING && r->canary_waits);
}

static void engine_facts(const struct replica *r, struct wire_replica *f)
{
	const struct pool *p = r->pool;
	f->have |= WR_ENGINE;
	f->engine = p ? mem_strdup(engine_kind_name(p->conf.engine.kind)) : NULL;
	f->engine_version = mem_strdup(r->engine_version);
	f->engine_why = mem_strdup(r->engine_why);
	if (!p || p->conf.engine.mode != ENGINE_MODE_EXTERNAL)
		f->device_mask = mem_strdup(r->devices ? r->devices : p ? p->conf.devices : NULL);
	f->device_note = mem_strdup(r->device_note);
	f->spec = mem_strdup(r->spec);
	f->model = mem_strdup(r->model);
}

static char **one_model(const char *id)
{
	char **list = mem_alloc(2 * sizeof *list);
	list[0] = mem_strdup(id);
	list[1] = NULL;
	return list;
}

void replica_facts(const struct replica *r, struct wire_replica *f)
{
	*f = (struct wire_replica){
		.replica_id = mem_strdup(r->id),
		.pool_id = mem_strdup(r->pool_id),
		.have = WR_STATE | WR_GENERATION | WR_ADDRESS | WR_ERROR | WR_PROGRESS | WR_RESTARTS |
			WR_PROCESS | WR_TRAITS | WR_LOAD,
		.state = r->state,
		.generation = r->generation,
		.address = has_address(r) ? mem_strdup(r->launch.address) : NULL,
		.last_error = r->last_error,
		.phase = mem_strdup(r->phase),
		.progress_text = mem_strdup(r->progress_text),
		.progress_pct = r->progress_pct,
		.progress_eta_ms = r->fetch ? r->progress_eta_ms : 0,
		.restarts = r->restarts,
		.retry_in_ms = retry_in(r),
		.pid = r->pid,
		.started_at_ms = r->started_at_ms,
		/* what was never healthy has 0; an engine taken over was, before we knew it */
		.load_ms = r->state == REPLICA_READY ? MAX(r->load_ms, (int64_t)1) : r->load_ms,
		.kv_restored_tokens = kv_restored(r),
		.kv_found = kv_found(r),
		.kv_kept = kv_kept(r),
		.load_seq = r->load_known ? r->load_seq : 0,
		.load_running = r->load_known ? r->load.running : -1,
		.load_waiting = r->load_known ? r->load.waiting : -1,
		.load_used_permille = r->load_known ? r->load.used_permille : -1,
		.has_slots = r->launch.has_slots,
		.remote_models =
			r->launch.serves ? one_model(r->launch.serves) : copy_models(r->remote_models),
		.key_file = mem_strdup(r->key_file),
	};
	f->last_error.message = mem_strdup(r->last_error.message);
	f->last_error.hint = mem_strdup(r->last_error.hint);
	if (r->pool && r->pool->conf.engine.kind == ENGINE_LLAMACPP) {
		f->conn_idle_ms = 4000; /* llama-server closes after 5 s and after 100 requests */
		f->conn_requests = 100;
	}
	if (r->slots) {
		f->have |= WR_SLOTS;
		f->slots_total = r->slots;
	}
	if (r->ctx) {
		f->have |= WR_CTX;
		f->ctx = r->ctx;
	}
	engine_facts(r, f);
}

void node_facts(struct node *n, bool models, struct wire_node *f)
{
	*f = (struct wire_node){
		.node_id = mem_strdup(n->opts.node_id),
		.boot_id = mem_strdup(n->boot_id),
		.version = mem_strdup(n->opts.version),
		.address = mem_strdup(n->address),
		.pid = (int)getpid(),
		.complete = true,
		.seq = ++n->report.seq,
	};
	if (map_len(&n->replicas))
		f->replicas = mem_alloc(map_len(&n->replicas) * sizeof *f->replicas);
	struct map_entry *e;
	for (size_t i = 0; (e = map_next(&n->replicas, &i));)
		if (replica_reported(e->value))
			replica_facts(e->value, &f->replicas[f->nreplicas++]);
	devices_facts(n, models, f);
	if (!models || !n->npools)
		return;
	f->models = mem_alloc(n->npools * sizeof *f->models);
	for (size_t i = 0; i < n->npools; i++)
		wire_model_copy(&f->models[f->nmodels++], &n->pools[i]->model);
}

/* ---- logs ------------------------------------------------------------------------------------------------
 */

char *replica_log_path(const struct node *n, const char *id)
{
	return mem_fmt("%s/%s.log", n->opts.log_dir, id);
}

/* The last bytes of a file, at most max; fd stands behind them afterwards. */
static void read_end(int fd, size_t max, struct buf *b)
{
	struct stat st;
	if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return;
	max = MIN(max, b->max - b->len);
	size_t left = MIN(max, (size_t)st.st_size);
	if (lseek(fd, st.st_size - (off_t)left, SEEK_SET) < 0)
		return;
	while (left) {
		char *to = buf_room(b, left);
		ssize_t k = to ? read(fd, to, left) : 0;
		if (k <= 0)
			return;
		buf_grew(b, (size_t)k);
		left -= (size_t)k;
	}
}

static int open_log(const char *path)
{
	return open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
}

void replica_log_read(const struct node *n, const char *id, int fd, struct buf *b)
{
	AUTO(mem_freep) char *path = replica_log_path(n, id);
	AUTO(mem_freep) char *old = mem_fmt("%s.1", path);
	AUTO(fd_closep) int old_fd = open_log(old);
	struct stat st;
	size_t now = fd >= 0 && fstat(fd, &st) == 0 ? MIN((size_t)st.st_size, b->max) : 0;
	read_end(old_fd, b->max - now, b);
	read_end(fd, b->max, b);
}

void replica_log_tail(const struct node *n, const char *id, uint64_t gen, struct buf *b)
{
	AUTO(mem_freep) char *path = replica_log_path(n, id);
	AUTO(fd_closep) int fd = open_log(path);
	replica_log_read(n, id, fd, b);
	if (!gen)
		return;
	AUTO(mem_freep)
	char *mark = mem_fmt("--- corral: %s, generation %llu ---\n", id, (unsigned long long)gen);
	for (ptrdiff_t i; (i = view_search(buf_view(b), view_str(mark))) >= 0;)
		buf_consume(b, (size_t)i + strlen(mark));
}
