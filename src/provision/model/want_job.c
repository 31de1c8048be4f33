/* SPDX-License-Identifier: Apache-2.0
 *
 * One model_ensure from its start to its end: what is here, what has to come, locks, the fetch, links.
 */
#include <stdlib.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "base/num.h"
#include "provision/model/want_job_int.h"

enum { LOCK_AGAIN_MS = 250, RENEWALS_MAX = 100 };

static void stage_set(struct model_job *j, enum want_stage s)
{
	j->stage = s;
}

/* ---- its life ------------------------------------------------------------------------------------------ */

static void copy_opts(struct model_job *j, const struct model_ensure_opts *o)
{
	static const struct stores_roots none;
	const struct stores_roots *from = o->roots ? o->roots : &none;
	j->o = *o;
	const char **strings[] = { &j->o.models_dir, &j->o.state_dir, &j->o.fetch_program, &j->o.hub_endpoint,
		&j->o.hub_token, &j->o.ollama_endpoint, &j->o.s3_endpoint, &j->o.sha256 };
	for (size_t i = 0; i < ARRAY_LEN(strings); i++)
		*strings[i] = mem_strdup(*strings[i]);
	j->o.policy.allow_hosts = j->o.policy.deny = j->o.registries = (struct strv){ 0 };
	strv_copy(&j->o.policy.allow_hosts, &o->policy.allow_hosts);
	strv_copy(&j->o.policy.deny, &o->policy.deny);
	strv_copy(&j->o.registries, &o->registries);
	strv_copy(&j->roots.hub, &from->hub);
	strv_copy(&j->roots.llamacpp, &from->llamacpp);
	strv_copy(&j->roots.ollama, &from->ollama);
	strv_copy(&j->roots.lmstudio, &from->lmstudio);
	strv_copy(&j->roots.loose, &from->loose);
	j->o.roots = &j->roots;
}

static void copy_set(struct model_job *j, const struct model_set *s)
{
	j->set.ref = mem_strdup(s->ref);
	j->set.mmproj = mem_strdup(s->mmproj);
	j->set.draft = mem_strdup(s->draft);
	strv_copy(&j->set.lora, &s->lora);
}

static void unlock(struct model_job *j)
{
	for (size_t i = 0; i < j->nlocks; i++)
		fd_close(j->locks[i]);
	free(j->locks);
	j->locks = NULL;
	j->nlocks = 0;
}

static void job_free(struct model_job *j)
{
	fetch_cancel(&j->fetch);
	loop_timer_stop(&j->timer);
	unlock(j);
	free(j->want);
	want_head_done(j);
	want_items_done(j->items, j->n);
	model_set_done(&j->set);
	stores_roots_done(&j->roots);
	const char *strings[] = { j->o.models_dir, j->o.state_dir, j->o.fetch_program, j->o.hub_endpoint,
		j->o.hub_token, j->o.ollama_endpoint, j->o.s3_endpoint, j->o.sha256 };
	for (size_t i = 0; i < ARRAY_LEN(strings); i++)
		free((char *)(uintptr_t)strings[i]);
	strv_done(&j->o.policy.allow_hosts);
	strv_done(&j->o.policy.deny);
	strv_done(&j->o.registries);
	free(j->url);
	strv_done(&j->headers);
	free(j->auth);
	free(j->warning);
	free(j);
}

static struct model_coming coming_of(const struct want_file *f)
{
	return (struct model_coming){ f->link ? f->link : f->to, f->said ? f->said : f->url };
}

/* Whoever puts such a file there later is somebody else. */
static void tell_unfetched(struct model_job *j)
{
	if (!j->told_coming || !j->ops.on_unfetched)
		return;
	AUTO(mem_freep) struct model_coming *gone = mem_alloc((j->nwant + 1) * sizeof *gone);
	size_t n = 0;
	for (size_t i = 0; i < j->nwant; i++)
		if (!file_exists(j->want[i]->to))
			gone[n++] = coming_of(j->want[i]);
	j->ops.on_unfetched(j->arg, gone, n);
}

void model_job_cancel(struct model_job **pj)
{
	struct model_job *j = *pj;
	*pj = NULL;
	if (!j)
		return;
	fetch_cancel(&j->fetch);
	tell_unfetched(j);
	job_free(j);
}

void want_fail(struct model_job *j, enum fetch_why why, const struct err *e)
{
	stage_set(j, WANT_ENDED);
	tell_unfetched(j);
	unlock(j);
	if (j->on_plan)
		j->on_plan(j->arg, NULL, why, e);
	else
		j->ops.on_done(j->arg, NULL, why, e);
	job_free(j);
}

void want_tell(struct model_job *j, enum fetch_phase phase, const char *text)
{
	struct fetch_progress p = { .phase = phase, .eta_ms = -1, .text = text };
	if (j->ops.on_progress && !j->on_plan)
		j->ops.on_progress(j->arg, &p);
}

/* ---- the end ------------------------------------------------------------------------------------------- */

static const struct want_file *file_at(const struct model_job *j, const char *path)
{
	for (size_t i = 0; i < j->n; i++)
		for (size_t k = 0; k < j->items[i].nfetch; k++) {
			const struct want_file *f = &j->items[i].fetch[k];
			if (strcmp(f->to, path) == 0 || (f->link && strcmp(f->link, path) == 0))
				return f;
		}
	return NULL;
}

static void finish(struct model_job *j)
{
	struct model_got g;
	want_got(j->items, j->n, &j->set, &g);
	g.fetched_bytes = j->fetched;
	g.warning = MEM_TAKE(j->warning);
	for (size_t i = 0; i < g.nfiles; i++) {
		const struct want_file *f = file_at(j, g.files[i].path);
		if (!f)
			continue;
		mem_setstr(&g.files[i].url, f->said ? f->said : f->url);
		if (!g.files[i].sha256)
			g.files[i].sha256 = mem_strdup(f->sha256);
	}
	stage_set(j, WANT_ENDED);
	unlock(j);
	j->ops.on_done(j->arg, &g, FETCH_OK, NULL);
	model_got_done(&g);
	job_free(j);
}

static void tell_plan(struct model_job *j)
{
	struct model_plan p = { 0 };
	for (size_t i = 0; i < j->n; i++)
		for (size_t k = 0; k < j->items[i].nfetch; k++) {
			const struct want_file *f = &j->items[i].fetch[k];
			char size[32] = "a size the server tells";
			AUTO(mem_freep) char *host = want_url_host(f->url);
			if (f->size)
				num_format_bytes(f->size, size, sizeof size);
			const char *name = f->link ? f->link : f->to;
			if (f->here)
				strv_addf(&p.steps, "take %s: %s, which is here already",
					j->items[i].ref.text, strrchr(name, '/') + 1);
			else
				strv_addf(&p.steps, "fetch %s: %s, %s from %s", j->items[i].ref.text,
					strrchr(name, '/') + 1, size, host);
			p.bytes_to_fetch += f->here ? 0 : f->size;
		}
	stage_set(j, WANT_ENDED);
	j->on_plan(j->arg, &p, FETCH_OK, NULL);
	model_plan_done(&p);
	job_free(j);
}

/* ---- files --------------------------------------------------------------------------------------------- */

void model_job_warn(struct model_job *j, const char *text)
{
	char *all = j->warning ? mem_fmt("%s; %s", j->warning, text) : mem_strdup(text);
	free(j->warning);
	j->warning = all;
}

static void settle(struct model_job *j)
{
	struct err e = { 0 };
	int r = want_settle(j, &e);
	if (r)
		want_fail(j, r == -EBADMSG ? FETCH_DIGEST : r == -ENOENT ? FETCH_INPUT : FETCH_DISK, &e);
	else
		finish(j);
}

static void resolve_next(struct model_job *j);

/* A signature or a token ran out in the middle: everything is asked for anew, and what came stays. */
static bool renew(struct model_job *j)
{
	if (j->seen_bytes <= j->first_bytes || j->renewals++ >= RENEWALS_MAX)
		return false;
	unlock(j);
	for (size_t i = 0; i < j->n; i++) {
		struct want_item *it = &j->items[i];
		if (it->present)
			continue;
		struct want_item fresh = { .role = it->role, .ref = it->ref };
		it->ref = (struct model_ref){ 0 };
		want_item_done(it);
		*it = fresh;
	}
	j->at = 0;
	resolve_next(j);
	return true;
}

void want_files_failed(struct model_job *j, enum fetch_why why, const struct err *err)
{
	struct err e = { 0 };
	if (why == FETCH_DENIED && renew(j))
		return;
	if (why == FETCH_DISK)
		want_head_drop(j);
	for (size_t i = 0; why == FETCH_DENIED && i < j->n; i++)
		if (!j->items[i].present && j->items[i].gated) {
			want_hub_denied(j, &j->items[i].ref, &e);
			want_fail(j, why, &e);
			return;
		}
	want_fail(j, why, err);
}

static void on_files(void *arg, const struct fetch_result *res, enum fetch_why why, const struct err *err)
{
	struct model_job *j = arg;
	j->fetch = NULL;
	if (why != FETCH_OK) {
		want_files_failed(j, why, err);
		return;
	}
	for (size_t i = 0; i < res->nfiles && i < j->nwant; i++) {
		struct want_file *f = j->want[i];
		j->fetched += res->files[i].bytes_fetched;
		if (f->sha256 || f->git_oid || !res->files[i].sha256) {
			if (!f->sha256 && res->files[i].sha256)
				f->sha256 = mem_strdup(res->files[i].sha256);
			continue;
		}
		f->sha256 = mem_strdup(res->files[i].sha256);
		AUTO(mem_freep)
		char *text = mem_fmt("no digest was given for %s: its SHA-256 %s was computed and is kept",
			f->said, f->sha256);
		model_job_warn(j, text);
	}
	settle(j);
}

void want_files_progress(void *arg, const struct fetch_progress *p)
{
	struct model_job *j = arg;
	if (!j->first_bytes)
		j->first_bytes = p->bytes;
	j->seen_bytes = p->bytes;
	if (j->stage == WANT_FETCHING && p->total) {
		j->coming = p->total;
		j->coming_open = false;
	}
	if (j->ops.on_progress)
		j->ops.on_progress(j->arg, p);
}

/* Not what is here, and nothing twice. */
static void collect(struct model_job *j)
{
	size_t all = 0;
	for (size_t i = 0; i < j->n; i++)
		all += j->items[i].nfetch;
	free(j->want);
	j->want = all ? mem_alloc(all * sizeof(struct want_file *)) : NULL;
	j->nwant = 0;
	for (size_t i = 0; i < j->n; i++)
		for (size_t k = 0; k < j->items[i].nfetch; k++) {
			struct want_file *f = &j->items[i].fetch[k];
			bool twice = f->here;
			for (size_t w = 0; !twice && w < j->nwant; w++)
				twice = strcmp(j->want[w]->to, f->to) == 0;
			if (!twice)
				j->want[j->nwant++] = f;
		}
}

static void tell_coming(struct model_job *j)
{
	if (!j->ops.on_fetch)
		return;
	AUTO(mem_freep) struct model_coming *all = mem_alloc(j->nwant * sizeof *all);
	for (size_t i = 0; i < j->nwant; i++)
		all[i] = coming_of(j->want[i]);
	j->ops.on_fetch(j->arg, all, j->nwant);
	j->told_coming = true;
}

void want_rest(struct model_job *j)
{
	stage_set(j, WANT_FETCHING);
	collect(j);
	if (!j->nwant) {
		settle(j);
		return;
	}
	tell_coming(j);
	struct fetch_file *files = mem_alloc(j->nwant * sizeof *files);
	for (size_t i = 0; i < j->nwant; i++)
		if (j->want[i]->note)
			want_note_drop(j->want[i]->to);
	for (size_t i = 0; i < j->nwant; i++)
		files[i] = (struct fetch_file){ .urls = { &j->want[i]->url, 1 },
			.headers = j->want[i]->headers,
			.to = j->want[i]->to,
			.size = j->want[i]->size,
			.sha256 = j->want[i]->sha256 };
	struct fetch_request q = { .op = FETCH_FILES,
		.files = files,
		.nfiles = j->nwant,
		.parallel = j->o.parallel,
		.rate = j->o.rate,
		.headroom = j->o.headroom,
		.room = j->room,
		.policy = j->o.policy };
	static const struct fetch_ops ops = { .on_progress = want_files_progress, .on_done = on_files };
	struct err e = { 0 };
	j->first_bytes = j->seen_bytes = 0;
	int r = fetch_start(j->loop, j->o.fetch_program, &q, &ops, j, &j->fetch, &e);
	free(files);
	if (r)
		want_fail(j, FETCH_CRASHED, &e);
}

static void go(void *arg)
{
	want_rest(arg);
}

uint64_t model_job_coming(const struct model_job *j, bool *ret_open)
{
	*ret_open |= j->coming_open;
	return j->coming;
}

void model_job_go(struct model_job *j)
{
	assert(j->stage == WANT_HEADS && !j->fetch);
	loop_timer_start(j->loop, &j->timer, 0, go, j);
}

static void locked(struct model_job *j)
{
	struct stat st;
	for (size_t i = 0; i < j->n; i++) /* who had the lock may have fetched it */
		for (size_t k = 0; k < j->items[i].nfetch; k++) {
			struct want_file *f = &j->items[i].fetch[k];
			f->here = f->here || (f->link && stat(f->to, &st) == 0);
		}
	stage_set(j, WANT_HEADS);
	if (!want_head(j))
		want_rest(j);
}

static int by_lock(const void *pa, const void *pb)
{
	return strcmp(*(char *const *)pa, *(char *const *)pb);
}

/* All in one order, so that two who want the same files never wait for each other. */
static void lock(void *arg)
{
	struct model_job *j = arg;
	AUTO(strv_done) struct strv paths = { 0 };
	struct err e = { 0 };
	stage_set(j, WANT_LOCKING);
	for (size_t i = 0; i < j->n; i++)
		for (size_t k = 0; k < j->items[i].nfetch; k++) {
			const struct want_file *f = &j->items[i].fetch[k];
			if (f->lock && !f->here && !strv_has(&paths, f->lock))
				strv_add(&paths, f->lock);
		}
	if (paths.len > 1)
		qsort(paths.items, paths.len, sizeof *paths.items, by_lock);
	if (paths.len && !j->locks)
		j->locks = mem_alloc(paths.len * sizeof *j->locks);
	for (; j->nlocks < paths.len; j->nlocks++) {
		int r = want_lock(paths.items[j->nlocks], &j->locks[j->nlocks], &e);
		if (r == -EAGAIN) {
			AUTO(mem_freep)
			char *text = mem_fmt(
				"another process fetches the same; waiting for %s", paths.items[j->nlocks]);
			want_tell(j, FETCH_WAITING, text);
			loop_timer_start(j->loop, &j->timer, LOCK_AGAIN_MS, lock, j);
			return;
		}
		if (r) {
			want_fail(j, FETCH_DISK, &e);
			return;
		}
	}
	locked(j);
}

/* ---- what has to come ---------------------------------------------------------------------------------- */

static void admit(void *arg)
{
	struct model_job *j = arg;
	struct err e = { 0 };
	stage_set(j, WANT_LOCKING);
	int r = want_quota(j, &e);
	if (r == -EAGAIN) {
		want_tell(j, FETCH_WAITING,
			"models_quota may have no room: how large the model is that comes at the same time "
			"is not known yet");
		loop_timer_start(j->loop, &j->timer, LOCK_AGAIN_MS, admit, j);
	} else if (r) {
		want_fail(j, FETCH_DISK, &e);
	} else {
		lock(j);
	}
}

static void all_known(struct model_job *j)
{
	struct err e = { 0 };
	for (size_t i = 0; i < j->n; i++)
		if (!j->items[i].present && want_trust_files(&j->items[i], &j->o, &e)) {
			want_fail(j, FETCH_REFUSED, &e);
			return;
		}
	if (j->on_plan)
		tell_plan(j);
	else
		admit(j);
}

/* The configuration's digest against the one that is known: 0, or what is wrong. */
static enum fetch_why check_digest(const struct model_job *j, struct want_item *it, struct err *e)
{
	struct want_file *only = NULL;
	size_t n = 0;
	if (!j->o.sha256 || it->role != WANT_WEIGHTS)
		return FETCH_OK;
	for (size_t i = 0; i < it->nfetch; i++)
		if (it->fetch[i].role == WANT_WEIGHTS && n++ == 0)
			only = &it->fetch[i];
	if (n != 1) {
		err_set(e, -EINVAL, "%s is %zu files; sha256 is of a single one", it->ref.text, n);
		return FETCH_INPUT;
	}
	if (!only->sha256)
		only->sha256 = mem_strdup(j->o.sha256);
	if (strcmp(only->sha256, j->o.sha256) == 0)
		return FETCH_OK;
	err_set(e, -EBADMSG, "%s has the SHA-256 %s there, and the configuration says %s", it->ref.text,
		only->sha256, j->o.sha256);
	return FETCH_DIGEST;
}

void want_resolved(struct model_job *j)
{
	struct err e = { 0 };
	struct want_item *it = &j->items[j->at];
	enum fetch_why why = check_digest(j, it, &e);
	if (why != FETCH_OK) {
		want_fail(j, why, &e);
		return;
	}
	j->at++;
	resolve_next(j);
}

static void resolve_next(struct model_job *j)
{
	struct err e = { 0 };
	stage_set(j, WANT_ASKING);
	while (j->at < j->n && j->items[j->at].present)
		j->at++;
	if (j->at == j->n) {
		all_known(j);
		return;
	}
	if (want_offline(&j->items[j->at].ref, &j->o, &e)) {
		want_fail(j, FETCH_REFUSED, &e);
		return;
	}
	switch (j->items[j->at].ref.kind) {
	case MODEL_REF_HUB: want_hub_resolve(j); return;
	case MODEL_REF_OLLAMA:
	case MODEL_REF_OCI: want_registry_resolve(j); return;
	case MODEL_REF_HTTPS: want_https_resolve(j); return;
	case MODEL_REF_S3: want_s3_resolve(j); return;
	case MODEL_REF_FILE: break;
	}
	err_set(&e, -ENOENT, "model %s is not there", j->items[j->at].ref.text);
	want_fail(j, FETCH_MISSING, &e);
}

/* ---- digests of what is here --------------------------------------------------------------------------- */

static void hash_next(struct model_job *j);

static void keep_digest(struct model_job *j, const char *path, bool ours, const char *sha256)
{
	if (!ours) {
		(void)!want_verify(j->o.state_dir, path, sha256);
		return;
	}
	AUTO(mem_freep) char *changed = want_changed(path, sha256);
	if (changed)
		model_job_warn(j, changed);
	(void)!want_note(path, sha256);
}

static void on_hashed(void *arg, const struct fetch_result *res, enum fetch_why why, const struct err *err)
{
	struct model_job *j = arg;
	struct want_item *it = &j->items[j->at];
	j->fetch = NULL;
	if (why != FETCH_OK) {
		want_fail(j, why, err);
		return;
	}
	strv_done(&it->digests);
	bool ours = it->ref.kind == MODEL_REF_HTTPS || it->ref.kind == MODEL_REF_S3;
	for (size_t i = 0; i < res->nfiles; i++) {
		strv_add(&it->digests, res->files[i].sha256 ? res->files[i].sha256 : "");
		if (ours)
			want_fetched(it->files.parts.items[i]);
		if (res->files[i].sha256)
			keep_digest(j, it->files.parts.items[i], ours, res->files[i].sha256);
	}
	it->unnoted = false;
	hash_next(j);
}

/* Files that lie here and whose digest is wanted. */
static void hash_next(struct model_job *j)
{
	struct err e = { 0 };
	stage_set(j, WANT_HASHING);
	while (j->at < j->n && !(j->items[j->at].present && j->items[j->at].unnoted))
		j->at++;
	if (j->at == j->n || j->on_plan) {
		j->at = 0;
		resolve_next(j);
		return;
	}
	struct want_item *it = &j->items[j->at];
	size_t n = it->files.parts.len;
	if (j->o.sha256 && it->role == WANT_WEIGHTS && n != 1) {
		err_set(&e, -EINVAL, "%s is %zu files; sha256 is of a single one", it->ref.text, n);
		want_fail(j, FETCH_INPUT, &e);
		return;
	}
	struct fetch_file *files = mem_alloc(n * sizeof *files);
	for (size_t i = 0; i < n; i++)
		files[i] = (struct fetch_file){ .to = it->files.parts.items[i],
			.sha256 = it->role == WANT_WEIGHTS ? (char *)(uintptr_t)j->o.sha256 : NULL };
	struct fetch_request q = { .op = FETCH_HASH, .files = files, .nfiles = n, .policy = j->o.policy };
	static const struct fetch_ops ops = { .on_progress = want_files_progress, .on_done = on_hashed };
	int r = fetch_start(j->loop, j->o.fetch_program, &q, &ops, j, &j->fetch, &e);
	free(files);
	if (r)
		want_fail(j, FETCH_CRASHED, &e);
}

/* ---- the start ----------------------------------------------------------------------------------------- */

static enum fetch_why look(struct model_job *j, struct want_item *it, struct err *e)
{
	if (want_trust_ref(&it->ref, &j->o, e))
		return FETCH_REFUSED;
	int r = want_present(it, &j->o, e);
	it->present = r == 0;
	if (r == 0)
		r = want_check_given(it, &j->o, e);
	if (r == 0 || (r == -ENOENT && it->ref.kind != MODEL_REF_FILE))
		return FETCH_OK;
	return r == -EBADMSG ? FETCH_DIGEST : r == -ENOENT ? FETCH_MISSING : FETCH_INPUT;
}

static void begin(void *arg)
{
	struct model_job *j = arg;
	struct err e = { 0 };
	if (want_items(&j->set, &j->o, &j->items, &j->n, &e)) {
		want_fail(j, FETCH_INPUT, &e);
		return;
	}
	for (size_t i = 0; i < j->n; i++) {
		enum fetch_why why = look(j, &j->items[i], &e);
		if (why != FETCH_OK) {
			want_fail(j, why, &e);
			return;
		}
	}
	bool all = true;
	for (size_t i = 0; i < j->n; i++)
		all = all && j->items[i].present && !j->items[i].unnoted;
	if (all && !j->on_plan)
		finish(j);
	else
		hash_next(j);
}

static struct model_job *start(struct loop *l, const struct model_set *s, const struct model_ensure_opts *o)
{
	struct model_job *j = NEW(struct model_job);
	j->loop = l;
	copy_set(j, s);
	copy_opts(j, o);
	loop_timer_start(l, &j->timer, 0, begin, j);
	return j;
}

struct model_job *model_ensure(struct loop *l, const struct model_set *s, const struct model_ensure_opts *o,
	const struct model_ops *ops, void *arg)
{
	struct model_job *j = start(l, s, o);
	j->ops = *ops;
	j->arg = arg;
	return j;
}

struct model_job *model_plan(struct loop *l, const struct model_set *s, const struct model_ensure_opts *o,
	model_plan_fn *on_plan, void *arg)
{
	struct model_job *j = start(l, s, o);
	j->on_plan = on_plan;
	j->arg = arg;
	return j;
}
