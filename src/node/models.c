/* SPDX-License-Identifier: Apache-2.0
 *
 * Models that may have to be fetched: one fetch a set on this node, however many wait for it. A replica whose
 * model comes is planned as any start: the node registers what the model needs and goes on once the wish that
 * comes back says that it was seen.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/num.h"
#include "base/url.h"
#include "log/log.h"
#include "node/models_int.h"
#include "provision/catalog/tell.h"

struct fetch {
	struct list node;
	struct node *owner;
	char *key;
	struct model_set set;
	char *shown; /* its reference, for people */
	struct model_job *job;
	struct list watches;
	struct fetch_progress last; /* text NULL: none was told yet */
	char *text;
	int told_tenth;
	bool waits;    /* for its header to be looked at by who plans */
	bool insisted; /* somebody wants it anyway */
	struct loop_timer timer;
};

/* ---- sets ---------------------------------------------------------------------------------------------- */

static void set_copy(struct model_set *to, const struct model_set *from)
{
	*to = (struct model_set){ .ref = mem_strdup(from->ref),
		.mmproj = mem_strdup(from->mmproj),
		.draft = mem_strdup(from->draft) };
	strv_copy(&to->lora, &from->lora);
}

static char *set_key(const struct model_set *s, const char *sha256, enum model_want want)
{
	AUTO(buf_done) struct buf b = BUF(4 * MIB);
	(void)buf_addf(&b, "%d\n%s\n%s\n%s\n%s", (int)want, s->ref, s->mmproj ? s->mmproj : "",
		s->draft ? s->draft : "", sha256 ? sha256 : "");
	for (size_t i = 0; i < s->lora.len; i++)
		(void)buf_addf(&b, "\n%s", s->lora.items[i]);
	return buf_take(&b);
}

static enum model_want want_of(const struct node_pool *p)
{
	return p->engine.kind == ENGINE_LLAMACPP ? MODEL_GGUF : MODEL_ANY;
}

/* Asking again may mend it. */
static bool may_mend(enum fetch_why why)
{
	return why == FETCH_NETWORK || why == FETCH_BUSY || why == FETCH_DISK || why == FETCH_CRASHED;
}

/* ---- one fetch ----------------------------------------------------------------------------------------- */

static void fetch_free(struct fetch *f)
{
	model_job_cancel(&f->job);
	loop_timer_stop(&f->timer);
	list_remove(&f->node);
	model_set_done(&f->set);
	free(f->key);
	free(f->shown);
	free(f->text);
	loop_defer_free(f->owner->loop, f);
}

static void narrate(struct fetch *f, const struct fetch_progress *p)
{
	int tenth = p->total ? (int)(p->bytes * 10 / p->total) : 0;
	char text[TELL_WORDS_MAX];
	if (tenth <= f->told_tenth)
		return;
	f->told_tenth = tenth;
	tell_words(p, text);
	log_event(LOG_INFO, "model_fetch", f->shown,
		(struct log_field[]){ LOG_STR("phase", "model_fetch"), LOG_INT("pct", tenth * 10), LOG_END },
		"Model %s: %s.", f->shown, text);
}

static void on_job_progress(void *arg, const struct fetch_progress *p)
{
	struct fetch *f = arg;
	mem_setstr(&f->text, p->text);
	f->last = *p;
	f->last.text = f->text ? f->text : "";
	narrate(f, p);
	LIST_FOREACH(w, &f->watches, struct fetch_watch, node)
	{
		if (w->on_progress)
			w->on_progress(w->arg, &f->last);
	}
}

static void take_for_all(struct node *n, const char *key);
static bool take_header(struct node *n, struct pool *p, const char *path);

static void on_job_done(void *arg, const struct model_got *got, enum fetch_why why, const struct err *err)
{
	struct fetch *f = arg;
	struct node *n = f->owner;
	struct list *l;
	f->job = NULL; /* it frees itself after this call */
	list_remove(&f->node);
	engines_note_model(n, f->shown, false, got ? NULL : err ? err->msg : fetch_why_name(why));
	if (got) {
		if (n->opts.catalog)
			catalog_note(n->opts.catalog, &f->set, got);
		if (got->warning)
			log_warn("model", f->shown, "Model %s: %s.", f->shown, got->warning);
		log_info("model", f->shown, "Model %s is on this machine: %s.", f->shown,
			got->weights.path ? got->weights.path : "all of it");
		take_for_all(n, f->key);
	} else {
		log_warn("model", f->shown, "Model %s cannot be had: %s.", f->shown,
			err ? err->msg : fetch_why_name(why));
	}
	while ((l = list_pop(&f->watches))) {
		struct fetch_watch *w = LIST_ENTRY(l, struct fetch_watch, node);
		fetch_done_fn *done = w->on_done;
		void *to = w->arg;
		loop_defer_free(n->loop, w);
		done(to, got, why, err);
	}
	fetch_free(f);
}

/* ---- its header ---------------------------------------------------------------------------------------- */

/* Whoever plans answers with the next wish. When that says nothing of it, everything is fetched: better too
 * much than never. */
enum { HEADER_WAIT_MS = 20000 };

static void fetch_go(struct fetch *f)
{
	if (!f->waits)
		return;
	f->waits = false;
	loop_timer_stop(&f->timer);
	model_job_go(f->job);
}

static void on_header_wait(void *arg)
{
	fetch_go(arg);
}

static void fetch_drop(struct fetch *f)
{
	log_info("model", f->shown,
		"Model %s is not fetched: nobody wants it any more since its header is known. What came of "
		"it is "
		"kept, and a later fetch goes on from there.",
		f->shown);
	engines_note_model(f->owner, f->shown, false, "nobody wants it any more since its header is known");
	fetch_free(f);
}

/* Who pulled it is told, and gets it. */
static void warn_of_size(struct fetch *f, uint64_t bytes)
{
	char size[32], memory[32];
	uint64_t all = devices_memory(f->owner);
	if (!all || bytes <= all)
		return;
	num_format_bytes(bytes, size, sizeof size);
	num_format_bytes(all, memory, sizeof memory);
	AUTO(mem_freep)
	char *text =
		mem_fmt("no device here can hold it: it is %s, and all devices and the host have %s together",
			size, memory);
	model_job_warn(f->job, text);
	log_warn("model", f->shown, "Model %s: %s.", f->shown, text);
}

/* True: the rest is fetched at once. Without a registry there is nobody who plans. */
static bool on_job_header(void *arg, const char *path, uint64_t bytes)
{
	struct fetch *f = arg;
	struct node *n = f->owner;
	bool planned = false;
	for (size_t i = 0; i < n->npools; i++) {
		struct pool *p = n->pools[i];
		if (!p->conf.model.ref || p->conf.engine.kind != ENGINE_LLAMACPP)
			continue;
		AUTO(mem_freep) char *own = set_key(&p->conf.model, p->conf.model_sha256, want_of(&p->conf));
		if (strcmp(own, f->key) == 0)
			planned |= take_header(n, p, path);
	}
	if (!planned || f->insisted)
		warn_of_size(f, bytes);
	if (!planned)
		return true;
	report_again(n);
	if (f->insisted || !n->report.target)
		return true;
	f->waits = true;
	loop_timer_start(n->loop, &f->timer, HEADER_WAIT_MS, on_header_wait, f);
	return false;
}

static void on_job_fetch(void *arg, const struct model_coming *files, size_t n)
{
	struct fetch *f = arg;
	if (f->owner->opts.catalog)
		catalog_coming(f->owner->opts.catalog, files, n);
}

static void on_job_unfetched(void *arg, const struct model_coming *files, size_t n)
{
	struct fetch *f = arg;
	if (f->owner->opts.catalog)
		catalog_not_coming(f->owner->opts.catalog, files, n);
}

/* What Corral fetched, and what is coming for others. */
static uint64_t on_job_quota(void *arg, bool *ret_open)
{
	const struct fetch *self = arg;
	struct node *n = self->owner;
	uint64_t sum = n->opts.catalog ? catalog_models_fetched(n->opts.catalog) : 0;
	LIST_FOREACH(f, &n->fetches, struct fetch, node)
	{
		uint64_t coming = f == self || !f->job ? 0 : model_job_coming(f->job, ret_open);
		if (__builtin_add_overflow(sum, coming, &sum))
			sum = UINT64_MAX;
	}
	return sum;
}

static const struct model_ops job_ops = { .on_progress = on_job_progress,
	.on_fetch = on_job_fetch,
	.on_unfetched = on_job_unfetched,
	.on_header = on_job_header,
	.on_done = on_job_done,
	.quota_used = on_job_quota };

static struct fetch *find_fetch(struct node *n, const char *key)
{
	LIST_FOREACH(f, &n->fetches, struct fetch, node)
	{
		if (strcmp(f->key, key) == 0)
			return f;
	}
	return NULL;
}

struct fetch_watch *fetch_join(struct node *n, const struct model_set *set, const char *sha256,
	enum model_want want, enum fetch_why *ret_why, struct err *reterr)
{
	AUTO(mem_freep) char *key = set_key(set, sha256, want);
	struct fetch *f = find_fetch(n, key);
	*ret_why = FETCH_DISK;
	if (!f && !n->opts.fetch) {
		*ret_why = FETCH_REFUSED;
		err_set(reterr, -ENOSYS, "this node fetches no models");
		return NULL;
	}
	struct fetch_watch *w = NEW(struct fetch_watch);
	if (!f) {
		struct model_ensure_opts o = *n->opts.fetch;
		o.want = want;
		o.sha256 = sha256;
		o.quota = n->opts.models_quota;
		f = NEW(struct fetch);
		f->owner = n;
		f->key = MEM_TAKE(key);
		set_copy(&f->set, set);
		f->shown = ref_shown(set->ref);
		list_init(&f->watches);
		list_append(&n->fetches, &f->node);
		log_info("model", f->shown, "Model %s is being fetched.", f->shown);
		engines_note_model(n, f->shown, true, NULL);
		f->job = model_ensure(n->loop, set, &o, &job_ops, f);
	}
	w->of = f;
	list_append(&f->watches, &w->node);
	return w;
}

void fetch_leave(struct fetch_watch **pw)
{
	struct fetch_watch *w = *pw;
	*pw = NULL;
	if (!w)
		return;
	list_remove(&w->node);
	loop_defer_free(w->of->owner->loop, w);
	if (w->of->waits && list_empty(&w->of->watches))
		fetch_drop(w->of);
}

void fetch_insist(struct fetch_watch *w)
{
	w->of->insisted = true;
	fetch_go(w->of);
}

void models_done(struct node *n)
{
	LIST_FOREACH(f, &n->fetches, struct fetch, node)
	{
		struct list *l;
		while ((l = list_pop(&f->watches)))
			loop_defer_free(n->loop, LIST_ENTRY(l, struct fetch_watch, node));
		fetch_free(f);
	}
}

char *models_retired(struct node *n, const struct node_pool *p)
{
	char *by = NULL;
	const char *key = p->model.ref ? p->model.ref : p->model_path;
	if (!n->opts.catalog || !key)
		return NULL;
	AUTO(mem_freep) char *file = p->model.ref ? NULL : mem_fmt("file:%s", key);
	if (!catalog_model_retired(n->opts.catalog, file ? file : key, &by))
		return NULL;
	AUTO(mem_freep) char *shown = ref_shown(key);
	char *text = mem_fmt("its model %s was retired%s%s.", shown, by ? " by " : "", by ? by : "");
	free(by);
	return text;
}

/* ---- pools --------------------------------------------------------------------------------------------- */

static void take_files(struct pool *p, const struct model_got *got)
{
	struct strv *args = &p->conf.engine.args;
	strv_done(args);
	*args = (struct strv){ 0 };
	if (p->conf.engine.kind == ENGINE_LLAMACPP) {
		if (got->mmproj) {
			strv_add(args, "--mmproj");
			strv_add(args, got->mmproj);
		}
		if (got->draft) {
			strv_add(args, "--model-draft");
			strv_add(args, got->draft);
		}
		for (size_t i = 0; i < got->lora.len; i++) {
			strv_add(args, "--lora");
			strv_add(args, got->lora.items[i]);
		}
	}
	strv_copy(args, &p->own_args);
	free((char *)(uintptr_t)p->conf.model_path);
	p->conf.model_path = mem_strdup(got->weights.path);
}

void models_look(struct node *n, struct pool *p)
{
	struct model_got got = { 0 };
	if (!p->conf.model.ref || !n->opts.fetch)
		return;
	struct model_ensure_opts o = *n->opts.fetch;
	o.want = want_of(&p->conf);
	o.sha256 = p->conf.model_sha256;
	if (model_present(&p->conf.model, &o, &got, NULL) == 0) {
		struct catalog_model known = { 0 };
		take_files(p, &got);
		if (n->opts.catalog && catalog_model_find(n->opts.catalog, p->conf.model.ref, &known))
			catalog_note(n->opts.catalog, &p->conf.model, &got);
		catalog_model_done(&known);
		model_got_done(&got);
		return;
	}
	free((char *)(uintptr_t)p->conf.model_path);
	p->conf.model_path = NULL;
}

void models_forget_header(struct pool *p)
{
	if (p->header)
		wire_model_done(p->header);
	free(p->header);
	p->header = NULL;
}

static void look_again(struct node *n, struct pool *p)
{
	models_look(n, p);
	node_read_model(n, &p->conf, p->conf.model_path, &p->model);
	if (!p->model.absent) {
		models_forget_header(p);
	} else if (p->header) {
		char *retired = MEM_TAKE(p->model.retired);
		wire_model_done(&p->model);
		wire_model_copy(&p->model, p->header);
		p->model.retired = retired;
	}
}

/* What its header says of p's model, all of which is still to come. False: nothing that could be planned. */
static bool take_header(struct node *n, struct pool *p, const char *path)
{
	models_forget_header(p);
	p->header = NEW(struct wire_model);
	node_read_model(n, &p->conf, path, p->header);
	free(p->header->path);
	free(p->header->problem);
	free(p->header->retired);
	p->header->path = p->header->problem = p->header->retired = NULL;
	p->header->absent = true;
	bool planned = p->header->need != NULL;
	if (!planned)
		models_forget_header(p);
	look_again(n, p);
	return planned;
}

static void take_for_all(struct node *n, const char *key)
{
	struct map_entry *e;
	for (size_t i = 0; i < n->npools; i++) {
		struct pool *p = n->pools[i];
		if (!p->conf.model.ref)
			continue;
		AUTO(mem_freep) char *own = set_key(&p->conf.model, p->conf.model_sha256, want_of(&p->conf));
		if (strcmp(own, key) == 0)
			look_again(n, p);
	}
	for (size_t i = 0; (e = map_next(&n->replicas, &i));) {
		struct replica *r = e->value; /* one of a definition that is not today's */
		if (r->fetch && r->pool && r->pool != node_pool_find(n, r->pool_id))
			look_again(n, r->pool);
	}
	report_again(n);
}

void models_changed(struct node *n)
{
	for (size_t i = 0; i < n->npools; i++)
		look_again(n, n->pools[i]);
	report_again(n);
}

/* Also of files that were never fetched: so that they can be retired, verified and told apart. */
void models_used(const struct replica *r)
{
	struct catalog *c = r->node->opts.catalog;
	const struct wire_model *m = replica_model(r);
	const struct node_pool *p = r->pool ? &r->pool->conf : NULL;
	if (!c || !p || r->model || !m->path || p->engine.kind != ENGINE_LLAMACPP)
		return;
	AUTO(mem_freep) char *file = mem_fmt("file:%s", m->path);
	if (catalog_model_used(c, p->model.ref ? p->model.ref : file))
		return;
	struct catalog_model row = { .reference = file,
		.source = (char *)(uintptr_t) "file",
		.architecture = m->architecture,
		.name = m->name,
		.quant = m->quant,
		.size_bytes = m->size_bytes,
		.n_params = m->n_params,
		.n_ctx_train = m->n_ctx_train,
		.used_ms = wall_ms() };
	struct catalog_file one = {
		.role = (char *)(uintptr_t) "weights", .path = m->path, .size = m->size_bytes
	};
	struct model_files parts = { 0 };
	if (model_resolve(m->path, NULL, MODEL_GGUF, &parts, NULL))
		return;
	if (parts.parts.len == 1)
		catalog_model_add_file(&row, &one);
	for (size_t i = 0; parts.parts.len > 1 && i < parts.parts.len; i++) {
		struct stat st;
		one.path = parts.parts.items[i];
		one.size = stat(one.path, &st) == 0 ? (uint64_t)st.st_size : 0;
		catalog_model_add_file(&row, &one);
	}
	free(catalog_model_put(c, &row));
	for (size_t i = 0; i < row.nfiles; i++) {
		free(row.files[i].role);
		free(row.files[i].path);
	}
	free(row.files);
	model_files_done(&parts);
}

/* ---- replicas ------------------------------------------------------------------------------------------ */

static void on_progress(void *arg, const struct fetch_progress *p)
{
	struct replica *r = arg;
	char text[TELL_WORDS_MAX];
	tell_words(p, text);
	r->progress_eta_ms = p->eta_ms;
	replica_progress(r, "model_fetch", p->total ? (int)(p->bytes * 100 / p->total) : -1, "%s", text);
}

static void fail(struct replica *r, enum fetch_why why, const char *message)
{
	AUTO(mem_freep) char *shown = ref_shown(r->pool->conf.model.ref);
	r->refused = !may_mend(why);
	replica_error(r, r->refused ? CAUSE_MODEL_REFUSED : CAUSE_NO_MODEL, tell_hint(why),
		"the model %s cannot be had: %s", shown, message);
	replica_fail(r);
}

/* Without a registry there is nobody who plans. */
static void wait_for_plan(struct replica *r)
{
	r->progress_eta_ms = -1;
	if (!r->node->report.target) {
		replica_provide(r);
		return;
	}
	r->waits_plan = true;
	replica_progress(r, "model_ready", -1, "Its model is here; its memory is being planned");
}

static void on_done(void *arg, const struct model_got *got, enum fetch_why why, const struct err *err)
{
	struct replica *r = arg;
	r->fetch = NULL;
	if (!got)
		fail(r, why, err ? err->msg : fetch_why_name(why));
	else if (replica_variant_changed(r))
		replica_begin(r);
	else
		wait_for_plan(r);
	replica_kick(r);
}

bool models_wait(struct replica *r)
{
	struct pool *p = r->pool;
	struct node *n = r->node;
	enum fetch_why why;
	struct err e = { 0 };
	bool absent = p->model.absent;
	models_leave(r);
	if (!p->conf.model.ref || r->model)
		return false;
	look_again(n, p);
	if (p->model.absent != absent)
		report_again(n);
	if (!p->model.absent && !absent)
		return false;
	if (!p->model.absent) { /* somebody has put it there */
		wait_for_plan(r);
		return true;
	}
	r->fetch = fetch_join(n, &p->conf.model, p->conf.model_sha256, want_of(&p->conf), &why, &e);
	if (!r->fetch) {
		fail(r, why, e.msg);
		return true;
	}
	r->fetch->on_progress = on_progress;
	r->fetch->on_done = on_done;
	r->fetch->arg = r;
	replica_progress(r, "model_fetch", -1, "looking it up");
	if (r->fetch->of->last.text)
		on_progress(r, &r->fetch->of->last);
	return true;
}

void models_planned(struct replica *r)
{
	if (r->fetch && r->want.header_seen)
		fetch_go(r->fetch->of);
	if (!r->waits_plan || !r->want.model_there)
		return;
	r->waits_plan = false;
	replica_provide(r);
}

void models_leave(struct replica *r)
{
	fetch_leave(&r->fetch);
	r->waits_plan = r->refused = false;
	r->progress_eta_ms = -1;
}

void node_fetching_changed(struct node *n, uint64_t models_quota)
{
	struct map_entry *e;
	n->opts.models_quota = models_quota;
	for (size_t i = 0; (e = map_next(&n->replicas, &i));) {
		struct replica *r = e->value;
		if (!r->refused)
			continue;
		r->refused = false;
		r->no_definition = true; /* begin again */
		replica_kick(r);
	}
}
