/* SPDX-License-Identifier: Apache-2.0
 *
 * The newest conversations of an engine's variant go into its slots, older ones into its cache of prompts,
 * before it gets its first request.
 */
#include <stdlib.h>

#include "base/mem.h"
#include "base/num.h"
#include "log/log.h"
#include "node/kv_int.h"

static void restore_next(struct replica *r);

/* What the file under way is in, once the engine has read it. */
static struct kv_file *place(struct replica *r)
{
	const struct kv_work *w = r->kv->work;
	return &r->kv->held[w->at < w->nolder ? r->kv->nheld + w->at : w->at - w->nolder];
}

static void taken_up(struct replica *r)
{
	struct kv_work *w = r->kv->work;
	const struct kv_file *f = &w->files[w->at];
	w->moved++;
	w->tokens += f->tokens;
	w->bytes += f->bytes;
	r->kv->restored = w->tokens;
}

/* Whether the engine has read the file; one it could not read goes, and with one that broke it off all is
 * over.
 */
static bool was_read(struct replica *r, uint32_t slot, int status, struct view body, const struct err *e)
{
	struct kv_work *w = r->kv->work;
	const struct kv_file *f = &w->files[w->at];
	AUTO(kv_doc_free) yyjson_doc *d = status == 200 ? yyjson_read(body.p, body.n, 0) : NULL;
	if (status == 200 && yyjson_get_uint(yyjson_obj_get(yyjson_doc_get_root(d), "n_restored")) > 0)
		return true;
	kv_complain(r, "taken up", slot, status, body, e);
	AUTO(mem_freep) char *dir = kv_pool_dir(r);
	if (!status || (status >= 400 && status < 500))
		kv_remove(dir, f); /* nor will it the next time */
	place(r)->name[0] = '\0';
	if (!status)
		w->n = w->at + 1;
	return false;
}

static void on_restored(void *arg, int status, struct view body, const struct err *e)
{
	struct replica *r = arg;
	struct kv_work *w = r->kv->work;
	w->fetch = NULL;
	if (was_read(r, (uint32_t)(w->at - w->nolder), status, body, e))
		taken_up(r);
	w->at++;
	restore_next(r);
}

/* Older ones go into the engine's own cache of prompts (--cache-ram): it moves there what is in a slot when a
 * request with another beginning gets that slot, and takes it back for a request that continues it. */
static void on_moved_aside(void *arg, int status, struct view body, const struct err *e)
{
	(void)e;
	struct replica *r = arg;
	struct kv_work *w = r->kv->work;
	w->fetch = NULL;
	AUTO(kv_doc_free) yyjson_doc *d = status == 200 ? yyjson_read(body.p, body.n, 0) : NULL;
	yyjson_val *slot = yyjson_obj_get(yyjson_doc_get_root(d), "id_slot");
	if (yyjson_is_uint(slot) && yyjson_get_uint(slot) == 0) {
		taken_up(r);
		w->at++;
	} else {
		log_debug("kv", r->id,
			"Slot 0 of %s did not get the request (%d): no more older conversations.", r->id,
			status);
		place(r)->name[0] = '\0';
		w->at = status ? w->nolder : w->n;
	}
	restore_next(r);
}

static void move_aside(struct replica *r, uint32_t first_token)
{
	struct kv_work *w = r->kv->work;
	AUTO(mem_freep)
	char *body = mem_fmt("{\"prompt\":[%u,%u],\"n_predict\":0}", first_token, first_token);
	struct http_fetch_req q = { .method = "POST",
		.path = "/completion",
		.content_type = "application/json",
		.body = view_str(body),
		.timeout_ms = KV_RESTORE_MS };
	w->fetch = http_fetch(w->target, &q, on_moved_aside, r);
}

static void on_older_restored(void *arg, int status, struct view body, const struct err *e)
{
	struct replica *r = arg;
	struct kv_work *w = r->kv->work;
	const struct kv_file *f = &w->files[w->at];
	AUTO(mem_freep) char *path = mem_fmt("%s/%s/%s/%s", r->node->kv_dir, r->pool_id, r->kv->key, f->name);
	uint32_t *tokens = NULL;
	w->fetch = NULL;
	if (was_read(r, 0, status, body, e) && kv_tokens_read(path, &tokens, 1)) {
		move_aside(
			r, tokens[0]); /* the same beginning leads it to that slot, nothing else is like it */
	} else {
		w->at++;
		restore_next(r);
	}
	free(tokens);
}

static void restore_next(struct replica *r)
{
	struct kv_work *w = r->kv->work;
	if (w->at < w->nolder && w->nolder < w->n && mono_ms_between(w->began, mono_now()) > KV_OLDER_MS)
		w->at = w->nolder;
	if (w->at == w->n) {
		kv_finish(r);
		return;
	}
	*place(r) = w->files[w->at];
	if (w->at < w->nolder)
		kv_ask_slot(r, 0, "restore", w->files[w->at].name, on_older_restored);
	else
		kv_ask_slot(r, (uint32_t)(w->at - w->nolder), "restore", w->files[w->at].name, on_restored);
}

void kv_suspect(struct replica *r)
{
	AUTO(mem_freep) char *dir = kv_pool_dir(r);
	for (uint32_t i = 0; r->kv && r->kv->held && i < r->kv->nheld + KV_OLDER_MAX; i++) {
		struct kv_file *f = &r->kv->held[i];
		if (f->name[0])
			kv_remove(dir, f);
		f->name[0] = '\0';
	}
}

/* Two replicas of a pool take up different conversations. */
static bool taken_by_another(const struct replica *r, const struct kv_file *f)
{
	struct map_entry *e;
	for (size_t i = 0; (e = map_next(&r->node->replicas, &i));) {
		const struct replica *o = e->value;
		if (o == r || !o->kv || !o->keeper || strcmp(o->pool_id, r->pool_id) != 0)
			continue;
		for (uint32_t k = 0; o->kv->held && k < o->kv->nheld + KV_OLDER_MAX; k++)
			if (strcmp(o->kv->held[k].name, f->name) == 0)
				return true;
		for (size_t k = 0; o->kv->work && k < o->kv->work->n && o->kv->work->files; k++)
			if (strcmp(o->kv->work->files[k].name, f->name) == 0)
				return true;
	}
	return false;
}

/* What the engine keeps of prompts outside its slots, in bytes. Its last word counts. */
static uint64_t cache_bytes(const struct replica *r)
{
	const struct strv *argv = &r->launch.argv;
	uint64_t mib = 0;
	for (size_t i = 0; i + 1 < argv->len; i++)
		if ((!strcmp(argv->items[i], "--cache-ram") || !strcmp(argv->items[i], "-cram")) &&
			num_u64(view_str(argv->items[i + 1]), &mib))
			mib = 0;
	return MIN(mib, (uint64_t)1 << 30) * MIB;
}

/* The newest, one a slot, behind older ones, which begin with the oldest: the engine forgets that one first.
 */
static void choose(struct replica *r, struct kv_work *w)
{
	AUTO(mem_freep) char *dir = kv_pool_dir(r);
	AUTO(kv_list_done) struct kv_list l;
	struct kv_file older[KV_OLDER_MAX];
	uint64_t room = cache_bytes(r) / 2;
	size_t slots = 0, n = 0;
	kv_remove_broken(dir, r->kv->key);
	kv_list(dir, r->kv->key, &l);
	for (r->kv->nfound = 0; r->kv->nfound < MIN(l.len, (size_t)KV_FOUND_MAX); r->kv->nfound++)
		r->kv->found[r->kv->nfound] = l.items[r->kv->nfound].of;
	kv_mine(r, &l);
	struct kv_file *newest = mem_alloc(MAX(r->kv->nheld, 1u) * sizeof *newest);
	for (size_t i = 0; i < l.len; i++) {
		const struct kv_file *f = &l.items[i];
		if (f->tokens >= r->ctx || taken_by_another(r, f))
			continue;
		if (slots < r->kv->nheld) {
			newest[slots++] = *f;
		} else if (n < KV_OLDER_MAX && f->bytes <= room) {
			room -= f->bytes;
			older[n++] = *f;
		}
	}
	w->files = mem_alloc((slots + n + 1) * sizeof *w->files);
	for (size_t i = 0; i < n; i++)
		w->files[i] = older[n - 1 - i];
	memcpy(w->files + n, newest, slots * sizeof *newest);
	free(newest);
	w->nolder = n;
	w->n = slots + n;
}

bool kv_restore(struct replica *r, kv_then *then)
{
	const struct node_pool *c = kv_conf(r);
	if (!r->kv || r->kv->adopted || r->kv->work || !c || c->kv_save == NODE_KV_OFF)
		return false;
	memset(r->kv->held, 0, (r->kv->nheld + KV_OLDER_MAX) * sizeof *r->kv->held);
	struct kv_work *w = kv_work_begin(r, false, KV_RESTORE_MS);
	if (!w)
		return false;
	choose(r, w);
	if (!w->n) {
		kv_work_free(r);
		return false;
	}
	w->then = then;
	replica_progress(r, "engine_start", -1, "The conversations of before are being taken up");
	restore_next(r);
	return true;
}

uint64_t kv_restored(const struct replica *r)
{
	return r->kv ? r->kv->restored : 0;
}

bool kv_busy(const struct replica *r)
{
	return r->kv && r->kv->work;
}
