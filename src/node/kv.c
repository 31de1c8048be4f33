/* SPDX-License-Identifier: Apache-2.0
 *
 * The conversations in an engine's slots outlive the engine: before a healthy one is stopped, llama-server is
 * asked to write its slots to files (provision/kv/kv.h); the next engine of the same variant reads the newest
 * of them before it gets its first request, as many as it has slots, and some older ones into its cache of
 * prompts. Which of them a request continues is llama-server's own choice, by the longest common beginning.
 *
 * Bounds: a stop is held up by KV_SAVE_MS at most, by half of what is left when the node is being stopped, a
 * start by KV_RESTORE_MS. Whatever fails is logged and costs a prefill, nothing else.
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <yyjson.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/num.h"
#include "log/log.h"
#include "node/kv_int.h"

char *kv_pool_dir(const struct replica *r)
{
	return mem_fmt("%s/%s", r->node->kv_dir, r->pool_id);
}

const struct node_pool *kv_conf(const struct replica *r)
{
	const struct pool *p = node_pool_find(r->node, r->pool_id);
	return p ? &p->conf : r->pool ? &r->pool->conf : NULL;
}

/* ---- an engine is about to be started --------------------------------------------------------------------
 */

static void forget(struct replica *r)
{
	kv_cancel(r);
	if (r->kv)
		free(r->kv->held);
	free(r->kv);
	r->kv = NULL;
}

void kv_done(struct replica *r)
{
	forget(r);
}

static bool has_option(const struct strv *argv, const char *const *names)
{
	for (size_t i = 0; i < argv->len; i++)
		for (const char *const *n = names; *n; n++) {
			struct view word = view_str(argv->items[i]), name = view_str(*n);
			if (view_starts(word, name) && (word.n == name.n || word.p[name.n] == '='))
				return true;
		}
	return false;
}

/* NULL: the conversations of this engine can be kept; else why not. */
static const char *why_not(const struct replica *r, enum node_kv_save save, struct kv_shape *shape)
{
	static const char *const no_talk[] = { "--embeddings", "--embedding", "--rerank", "--reranking",
		NULL };
	static const char *const own_path[] = { "--slot-save-path", NULL };
	struct err e = { 0 };
	if (has_option(&r->launch.argv, own_path))
		return "engine.args has a --slot-save-path of its own";
	if (has_option(&r->launch.argv, no_talk))
		return "its engine holds no conversations";
	if (kv_shape_read(replica_model(r)->path, &r->launch.argv, r->ctx, r->slots, shape, &e))
		return save == NODE_KV_ON ? NULL : "its model's header does not tell how large they get";
	return NULL;
}

static bool make_dir(const struct replica *r, const char *key, char **ret)
{
	*ret = mem_fmt("%s/%s/%s", r->node->kv_dir, r->pool_id, key);
	int e = dir_make(*ret, 0700);
	if (e)
		log_warn("kv", r->id, "%s cannot be made: %s. Conversations will not outlive the engine.",
			*ret, strerror(-e));
	return e == 0;
}

void kv_launch(struct replica *r)
{
	const struct node_pool *c = kv_conf(r);
	forget(r);
	if (!c || c->engine.kind != ENGINE_LLAMACPP || c->kv_save == NODE_KV_OFF || !r->launch.has_slots)
		return;
	struct replica_kv *kv = NEW(struct replica_kv);
	AUTO(mem_freep) char *dir = NULL;
	const char *why = why_not(r, c->kv_save, &kv->shape);
	r->kv = kv;
	kv_fingerprint(&r->launch.argv, &r->launch.env, r->engine_version, kv->key);
	if (why)
		log_debug("kv", r->id, "Conversations of %s will not outlive its engine: %s.", r->id, why);
	if (why || !make_dir(r, kv->key, &dir)) {
		forget(r);
		return;
	}
	kv->nheld = r->slots;
	kv->held = mem_alloc((r->slots + KV_OLDER_MAX) * sizeof *kv->held);
	strv_add(&r->launch.argv, "--slot-save-path");
	strv_addf(&r->launch.argv, "%s/", dir);
}

const char *kv_key(const struct replica *r)
{
	return r->kv ? r->kv->key : NULL;
}

void kv_adopt(struct replica *r, const char *key)
{
	forget(r);
	if (!key || strlen(key) != KV_KEY_LEN || strspn(key, "0123456789abcdef") != KV_KEY_LEN)
		return;
	r->kv = NEW(struct replica_kv);
	memcpy(r->kv->key, key, sizeof r->kv->key);
	r->kv->adopted = true;
}

void kv_init(struct node *n)
{
	AUTO(strv_done) struct strv ids = { 0 };
	n->kv_dir = path_join(n->opts.state_dir, "kv");
	for (size_t i = 0; i < n->npools; i++)
		strv_add(&ids, n->pools[i]->conf.id);
	kv_tidy(n->kv_dir, &ids, wall_ms(), (int64_t)KV_AGE_DAYS * 24 * 3600 * 1000);
}

/* ---- what both have in common
 * ------------------------------------------------------------------------------ */

void kv_work_free(struct replica *r)
{
	struct kv_work *w = MEM_TAKE(r->kv->work);
	http_fetch_cancel(&w->fetch);
	http_target_free(w->target); /* llama-server stays as long as a client is connected */
	loop_timer_stop(&w->deadline);
	free(w->slots);
	free(w->files);
	free(w);
}

static char *unfinished_prefix(const struct replica *r)
{
	return mem_fmt("part.%s.", r->id);
}

void kv_cancel(struct replica *r)
{
	if (!r->kv || !r->kv->work)
		return;
	bool saving = r->kv->work->saving;
	kv_work_free(r);
	if (!saving)
		return;
	AUTO(mem_freep) char *dir = kv_pool_dir(r);
	AUTO(mem_freep) char *prefix = unfinished_prefix(r);
	kv_remove_unfinished(dir, r->kv->key, prefix);
}

static void say(const struct replica *r, const struct kv_work *w)
{
	char size[32];
	if (!w->moved)
		return;
	num_format_bytes(w->bytes, size, sizeof size);
	log_event(LOG_INFO, w->saving ? "kv_save" : "kv_restore", r->id,
		(struct log_field[]){ LOG_STR("pool_id", r->pool_id), LOG_STR("replica_id", r->id),
			LOG_UINT("conversations", w->moved), LOG_UINT("tokens", w->tokens),
			LOG_UINT("bytes", w->bytes),
			LOG_INT("duration_ms", mono_ms_between(w->began, mono_now())), LOG_END },
		"%u conversation%s of %s (%llu tokens, %s) %s %s.", w->moved, w->moved == 1 ? "" : "s",
		r->pool_id, (unsigned long long)w->tokens, size, w->moved == 1 ? "was" : "were",
		w->saving ? "saved" : "taken up again");
}

void kv_finish(struct replica *r)
{
	struct kv_work *w = r->kv->work;
	bool saving = w->saving;
	kv_then *then = w->then;
	say(r, w);
	kv_cancel(r);
	if (!saving)
		then(r);
	else if (r->keeper)
		keeper_stop(r->keeper);
}

static void on_deadline(void *arg)
{
	struct replica *r = arg;
	log_warn("kv", r->id, "%s the conversations of %s took too long and was given up.",
		r->kv->work->saving ? "Saving" : "Taking up", r->id);
	kv_finish(r);
}

struct kv_work *kv_work_begin(struct replica *r, bool saving, int64_t ms)
{
	struct http_target_opts o = {
		.idle_max = 1, .idle_ms = 1000, .connect_timeout_ms = KV_ASK_MS, .bearer = r->key
	};
	struct http_target *t = http_target_new(r->node->loop, r->launch.address, &o, NULL);
	if (!t)
		return NULL;
	struct kv_work *w = NEW(struct kv_work);
	w->saving = saving;
	w->target = t;
	w->began = mono_now();
	r->kv->work = w;
	loop_timer_start(r->node->loop, &w->deadline, ms, on_deadline, r);
	return w;
}

void kv_ask_slot(struct replica *r, uint32_t slot, const char *action, const char *file, http_fetch_fn *fn)
{
	struct kv_work *w = r->kv->work;
	AUTO(mem_freep) char *path = mem_fmt("/slots/%u?action=%s", slot, action);
	AUTO(mem_freep) char *body = mem_fmt("{\"filename\":\"%s\"}", file);
	struct http_fetch_req q = { .method = "POST",
		.path = path,
		.content_type = "application/json",
		.body = view_str(body),
		.timeout_ms = MAX((int64_t)KV_SAVE_MS, (int64_t)KV_RESTORE_MS) }; /* ours ends it before */
	w->fetch = http_fetch(w->target, &q, fn, r);
}

void kv_complain(const struct replica *r, const char *what, uint32_t slot, int status, struct view body,
	const struct err *e)
{
	if (status)
		log_warn("kv", r->id, "Slot %u of %s was not %s: %d %.*s", slot, r->id, what, status,
			(int)MIN(body.n, (size_t)200), body.n ? body.p : "");
	else
		log_warn("kv", r->id, "Slot %u of %s was not %s: %s", slot, r->id, what,
			e ? e->msg : "no answer");
}

/* ---- before it is stopped
 * ------------------------------------------------------------------------------------ */

static void save_next(struct replica *r);

static char *part_name(const struct replica *r, uint32_t slot)
{
	AUTO(mem_freep) char *prefix = unfinished_prefix(r);
	return mem_fmt("%s%u", prefix, slot);
}

static struct kv_file *held_in(const struct replica *r, uint32_t slot)
{
	struct replica_kv *kv = r->kv;
	return slot < kv->nheld && kv->held[slot].name[0] ? &kv->held[slot] : NULL;
}

/* Its model can go back to a checkpoint alone, and the engine's build does not save any. */
static bool is_vain(struct replica *r, const struct node_pool *c, const char *dir, const char *part)
{
	AUTO(mem_freep) char *path = mem_fmt("%s/%s/%s", dir, r->kv->key, part);
	if (!r->kv->shape.checkpoints || !c || c->kv_save == NODE_KV_ON || kv_has_checkpoints(path))
		return false;
	r->kv->vain = true;
	log_info("kv", r->id,
		"Conversations of %s do not outlive its engine: its model needs checkpoints to go back in, "
		"and this "
		"llama-server saves none.",
		r->id);
	return true;
}

/* What the last one asked for has written. */
static void keep(struct replica *r, uint32_t slot, uint64_t tokens, uint64_t bytes)
{
	struct kv_work *w = r->kv->work;
	const struct node_pool *c = kv_conf(r);
	AUTO(mem_freep) char *dir = kv_pool_dir(r);
	AUTO(mem_freep) char *part = part_name(r, slot);
	struct kv_file f = { .tokens = tokens, .bytes = bytes, .of = w->slots[w->at - 1].of };
	bool vain = tokens && is_vain(r, c, dir, part);
	int e = tokens && !vain ? kv_keep(dir, r->kv->key, part, wall_ms(), &f) : -ENODATA;
	if (e) {
		kv_remove_unfinished(dir, r->kv->key, part);
		if (e != -ENODATA)
			log_warn("kv", r->id, "What slot %u of %s wrote is not kept: %s.", slot, r->id,
				strerror(-e));
		return;
	}
	w->moved++;
	w->tokens += tokens;
	w->bytes += bytes;
	(void)kv_make_room(dir, 0, c ? c->kv_max_bytes : 0); /* it may be larger than was thought */
}

static void on_saved(void *arg, int status, struct view body, const struct err *e)
{
	struct replica *r = arg;
	struct kv_work *w = r->kv->work;
	uint32_t slot = w->slots[w->at++].id;
	w->fetch = NULL;
	if (status != 200) { /* it cannot, or the disk is full: the others would fare alike */
		if (status == 501)
			log_info("kv", r->id,
				"Conversations of %s do not outlive its engine, which cannot save them.",
				r->id);
		else
			kv_complain(r, "saved", slot, status, body, e);
		kv_finish(r);
		return;
	}
	AUTO(kv_doc_free) yyjson_doc *d = yyjson_read(body.p, body.n, 0);
	yyjson_val *o = yyjson_doc_get_root(d);
	keep(r, slot, yyjson_get_uint(yyjson_obj_get(o, "n_saved")),
		yyjson_get_uint(yyjson_obj_get(o, "n_written")));
	if (r->kv->vain)
		kv_finish(r);
	else
		save_next(r);
}

/* What a token of the newest file of its kind takes, checkpoints included; 0: there is none. */
static double bytes_a_token(const struct replica *r, const char *dir)
{
	AUTO(kv_list_done) struct kv_list l;
	kv_list(dir, r->kv->key, &l);
	return l.len ? (double)l.items[0].bytes / (double)l.items[0].tokens : 0;
}

/* What the slot's file will have, about. */
static uint64_t bytes_of(const struct replica *r, const struct kv_slot *s, const char *dir)
{
	double full = (double)r->kv->shape.slot_bytes, of = MAX(r->ctx, 1u);
	double tokens = s->tokens ? MIN((double)s->tokens, of) : of;
	return (uint64_t)(tokens * MAX(full / of, bytes_a_token(r, dir))) + KV_HEAD_BYTES;
}

static void save_next(struct replica *r)
{
	struct kv_work *w = r->kv->work;
	const struct node_pool *c = kv_conf(r);
	AUTO(mem_freep) char *dir = kv_pool_dir(r);
	for (; w->at < w->n; w->at++) {
		const struct kv_slot *s = &w->slots[w->at];
		if (kv_make_room(dir, bytes_of(r, s, dir), c ? c->kv_max_bytes : 0)) {
			AUTO(mem_freep) char *part = part_name(r, s->id);
			kv_ask_slot(r, s->id, "save", part, on_saved);
			return;
		}
		char size[32];
		num_format_bytes(bytes_of(r, s, dir), size, sizeof size);
		log_info("kv", r->id,
			"Slot %u of %s is not saved: %s have no place (kv_cache.max_bytes of the pool, free "
			"disk).",
			s->id, r->id, size);
	}
	kv_finish(r);
}

/* A slot nobody has used has no task. One that was restored and not used since has what its file has. */
static bool used(yyjson_val *slot)
{
	yyjson_val *task = yyjson_obj_get(slot, "id_task"), *n = yyjson_obj_get(slot, "n_prompt_tokens");
	return task && yyjson_get_sint(task) >= 0 && !(n && yyjson_get_uint(n) < KV_TOKENS_MIN) &&
	       !yyjson_get_bool(yyjson_obj_get(slot, "is_processing"));
}

static void take_slot(struct replica *r, yyjson_val *slot)
{
	struct kv_work *w = r->kv->work;
	yyjson_val *id = yyjson_obj_get(slot, "id");
	if (!yyjson_is_uint(id) || yyjson_get_uint(id) >= MAX(r->slots, 1u))
		return;
	uint32_t at = (uint32_t)yyjson_get_uint(id);
	struct kv_file *held = held_in(r, at);
	AUTO(mem_freep) char *dir = kv_pool_dir(r);
	struct kv_slot s = { .id = at, .tokens = yyjson_get_uint(yyjson_obj_get(slot, "n_prompt_tokens")) };
	if (used(slot) && kv_whose(r, s.tokens, &s.of))
		w->slots[w->n++] = s;
	else if (used(slot))
		log_debug("kv", r->id, "Slot %u of %s is not saved: nobody knows whose it is.", at, r->id);
	else if (held && !yyjson_get_bool(yyjson_obj_get(slot, "is_processing")) &&
		 kv_touch(dir, held, wall_ms()) != 0)
		log_debug("kv", r->id, "%s is not there any more.", held->name);
}

static void on_slots(void *arg, int status, struct view body, const struct err *e)
{
	struct replica *r = arg;
	struct kv_work *w = r->kv->work;
	w->fetch = NULL;
	AUTO(kv_doc_free) yyjson_doc *d = status == 200 ? yyjson_read(body.p, body.n, 0) : NULL;
	yyjson_val *all = yyjson_doc_get_root(d), *slot;
	size_t i, n;
	if (!yyjson_is_arr(all)) {
		log_warn("kv", r->id,
			"The slots of %s are not saved: it does not say which are used (%d%s%s).", r->id,
			status, e ? ": " : "", e ? e->msg : "");
		kv_finish(r);
		return;
	}
	w->slots = mem_alloc((yyjson_arr_size(all) + 1) * sizeof *w->slots);
	yyjson_arr_foreach(all, i, n, slot) take_slot(r, slot);
	save_next(r);
}

/* A node that is being stopped has a deadline of its own. */
static int64_t save_ms(const struct node *n)
{
	if (!n->stopping)
		return KV_SAVE_MS;
	int64_t left = loop_timer_active(&n->stop_deadline)
			       ? mono_ms_between(mono_now(), n->stop_deadline.due) / 2
			       : 0;
	return MIN(left, (int64_t)KV_SAVE_MS);
}

bool kv_worth_saving(const struct replica *r)
{
	const struct node_pool *c = kv_conf(r);
	return r->kv && !r->kv->work && r->keeper && r->launch.address && r->state == REPLICA_READY &&
	       r->failure.cause == CAUSE_NONE && c && c->kv_save != NODE_KV_OFF;
}

bool kv_save(struct replica *r)
{
	AUTO(mem_freep) char *dir = NULL;
	int64_t ms = save_ms(r->node);
	if (ms <= 0 || !make_dir(r, r->kv->key, &dir))
		return false;
	struct kv_work *w = kv_work_begin(r, true, ms);
	if (!w)
		return false;
	struct http_fetch_req q = { .method = "GET",
		.path = "/slots",
		.max_body = KV_SLOTS_BODY_MAX,
		.timeout_ms = MIN(ms, (int64_t)KV_ASK_MS) };
	w->fetch = http_fetch(w->target, &q, on_slots, r);
	return true;
}
