/* SPDX-License-Identifier: Apache-2.0
 *
 * Asking the hub: its API pins the revision to a commit and lists the files with their digests.
 */
#include <stdlib.h>
#include <sys/stat.h>
#include <yyjson.h>

#include "base/fd.h"
#include "provision/model/want_job_int.h"

static bool has_token(const struct model_job *j)
{
	AUTO(mem_freep) char *token = want_hub_token(&j->o);
	return token != NULL;
}

int want_hub_denied(const struct model_job *j, const struct model_ref *r, struct err *e)
{
	AUTO(mem_freep) char *endpoint = want_hub_endpoint(&j->o);
	if (has_token(j))
		return err_set(e, -EACCES,
			"%s is gated, and the account of the token that was sent may not have it: open %s/%s "
			"with that "
			"account and accept its terms (some are granted by hand, which takes time)",
			r->repo, endpoint, r->repo);
	return err_set(e, -EACCES,
		"%s is gated: open %s/%s, log in and accept its terms, make a token with read access at "
		"%s/settings/tokens, and give it as HF_TOKEN, or in ~/.cache/huggingface/token "
		"(HF_TOKEN_PATH)",
		r->repo, endpoint, r->repo, endpoint);
}

static void refused(struct model_job *j, const struct model_ref *r, const struct fetch_result *res)
{
	struct err e = { 0 };
	struct view code = want_header(res, "X-Error-Code");
	AUTO(mem_freep) char *endpoint = want_hub_endpoint(&j->o);
	enum fetch_why why = FETCH_NETWORK;
	if (view_eqs(code, "GatedRepo")) {
		why = FETCH_DENIED;
		want_hub_denied(j, r, &e);
	} else if (view_eqs(code, "RevisionNotFound")) {
		why = FETCH_MISSING;
		err_set(&e, -ENOENT, "%s has no revision %s", r->repo, r->revision ? r->revision : "main");
	} else if (res->status == 401 || res->status == 403 || res->status == 404) {
		why = res->status == 404 ? FETCH_MISSING : FETCH_DENIED;
		err_set(&e, res->status == 404 ? -ENOENT : -EACCES,
			"%s does not show %s (%d): its name is misspelt, or it is private; %s", endpoint,
			r->repo, res->status,
			has_token(j) ? "the token that was sent may not see it"
				     : "for a private one give a token as HF_TOKEN or in "
				       "~/.cache/huggingface/token (HF_TOKEN_PATH)");
	} else if (res->status == 429) {
		why = FETCH_BUSY;
		err_set(&e, -EBUSY, "%s asks to come back later (429)%s", endpoint,
			has_token(j) ? "" : "; with a token (HF_TOKEN) more is allowed");
	} else {
		err_set(&e, -EPROTO, "%s answered %d when asked for %s", endpoint, res->status, r->repo);
	}
	want_fail(j, why, &e);
}

static int add_sibling(struct want_names *l, yyjson_val *s, struct err *e)
{
	const char *name = yyjson_get_str(yyjson_obj_get(s, "rfilename"));
	const char *git = yyjson_get_str(yyjson_obj_get(s, "blobId"));
	yyjson_val *lfs = yyjson_obj_get(s, "lfs"), *size = yyjson_obj_get(lfs ? lfs : s, "size");
	const char *sha = yyjson_get_str(yyjson_obj_get(lfs, "sha256"));
	const char *why = name ? want_bad_path(view_str(name)) : "it has no name";
	if (why)
		return err_set(e, -EBADMSG, "the hub lists a file that is not taken: %s", why);
	struct want_name *n = want_names_add(l, name, yyjson_get_uint(size));
	if (sha && want_is_hex(view_str(sha), 64))
		n->sha256 = mem_strdup(sha);
	else if (!lfs && git && want_is_hex(view_str(git), 40))
		n->git_oid = mem_strdup(git);
	return 0;
}

static int read_listing(yyjson_val *root, struct want_names *l, struct err *e)
{
	yyjson_val *s;
	size_t i, n;
	int r = 0;
	yyjson_arr_foreach(yyjson_obj_get(root, "siblings"), i, n, s)
	{
		if (r || i >= WANT_NAMES_MAX)
			break;
		r = add_sibling(l, s, e);
	}
	want_names_sort(l);
	for (size_t k = 1; !r && k < l->n; k++)
		if (strcmp(l->items[k - 1].name, l->items[k].name) == 0)
			r = err_set(e, -EBADMSG, "the hub lists %s twice", l->items[k].name);
	return r;
}

/* ---- what has to come ---------------------------------------------------------------------------------- */

struct spot { /* where a repository's files go, here and there */
	const char *root, *dir, *commit, *endpoint, *token;
};

static int add_file(struct want_item *it, enum want_role role, const struct spot *s,
	const struct want_name *n, struct err *e)
{
	const char *etag = n->sha256 ? n->sha256 : n->git_oid;
	struct stat st;
	if (!etag)
		return err_set(
			e, -EBADMSG, "%s tells no digest of %s in %s", s->endpoint, n->name, it->ref.repo);
	AUTO(mem_freep) char *name = want_escaped(view_str(n->name), true);
	AUTO(mem_freep)
	char *url = mem_fmt("%s/%s/resolve/%s/%s", s->endpoint, it->ref.repo, s->commit, name);
	AUTO(mem_freep) char *to = mem_fmt("%s/blobs/%s", s->dir, etag);
	struct want_file *f = want_item_add(it, role, to, url);
	f->link = mem_fmt("%s/snapshots/%s/%s", s->dir, s->commit, n->name);
	f->sha256 = mem_strdup(n->sha256);
	f->git_oid = mem_strdup(n->git_oid);
	f->size = n->size;
	if (n->sha256)
		f->lock = mem_fmt("%s/.locks%s/%s.lock", s->root, s->dir + strlen(s->root), etag);
	if (s->token)
		strv_addf(&f->headers, "Authorization: Bearer %s", s->token);
	f->here = stat(f->to, &st) == 0;
	if (f->here && n->size && (uint64_t)st.st_size != n->size)
		return err_set(e, -EBADMSG,
			"%s has %llu bytes and should have %llu: it is damaged; remove it, and it is fetched "
			"again",
			f->to, (unsigned long long)st.st_size, (unsigned long long)n->size);
	return 0;
}

static int add_picked(struct want_item *it, const struct spot *s, const struct want_names *l,
	const struct want_picked *p, bool with_mmproj, struct err *e)
{
	int r = 0;
	size_t last = p->n;
	if (with_mmproj && p->mmproj >= 0)
		r = add_file(it, WANT_MMPROJ, s, &l->items[p->mmproj], e);
	for (size_t i = 0; !r && i < p->n; i++) {
		if (p->n > 1 && strcmp(l->items[p->items[i]].name, "config.json") == 0)
			last = i; /* its link is what shows that a snapshot is whole */
		else
			r = add_file(it, it->role, s, &l->items[p->items[i]], e);
	}
	if (!r && last < p->n)
		r = add_file(it, it->role, s, &l->items[p->items[last]], e);
	return r;
}

static int take(struct model_job *j, struct want_item *it, yyjson_val *root, struct err *e)
{
	const char *commit = yyjson_get_str(yyjson_obj_get(root, "sha"));
	yyjson_val *gated = yyjson_obj_get(root, "gated");
	AUTO(mem_freep) char *endpoint = want_hub_endpoint(&j->o);
	AUTO(mem_freep) char *token = want_hub_token(&j->o);
	AUTO(mem_freep) char *cache = want_cache_root(&j->o);
	if (!commit || !want_is_hex(view_str(commit), 40))
		return err_set(e, -EBADMSG, "%s told no commit of %s", endpoint, it->ref.repo);
	if (!cache)
		return err_set(e, -ENOENT,
			"there is no folder for the hub's cache: set HF_HUB_CACHE, HF_HOME or HOME");
	AUTO(mem_freep) char *dir = want_cache_repo(cache, it->ref.repo);
	struct spot s = { cache, dir, commit, endpoint, token };
	struct want_names l = { 0 };
	struct want_picked p = { .mmproj = -1 };
	int r = read_listing(root, &l, e);
	r = r ? r : want_pick(&l, &it->ref, it->role, j->o.want, &p, e);
	if (!r && p.n > FETCH_FILES_MAX)
		r = err_set(e, -E2BIG, "%s has %zu files; at most %d are taken", it->ref.repo, p.n,
			FETCH_FILES_MAX);
	r = r ? r : add_picked(it, &s, &l, &p, it->role == WANT_WEIGHTS && !j->set.mmproj, e);
	want_picked_done(&p);
	want_names_done(&l);
	it->gated = gated && !yyjson_is_false(gated);
	mem_setstr(&it->revision, commit);
	if (!it->ref.revision || strcmp(it->ref.revision, commit) != 0) {
		free(it->ref_file);
		it->ref_file = mem_fmt("%s/refs/%s", dir, it->ref.revision ? it->ref.revision : "main");
		mem_setstr(&it->ref_text, commit);
	}
	return r;
}

static void on_listing(struct model_job *j, const struct fetch_result *res)
{
	struct want_item *it = &j->items[j->at];
	struct err e = { 0 };
	if (res->status != 200) {
		refused(j, &it->ref, res);
		return;
	}
	yyjson_doc *d = res->text ? yyjson_read(res->text, strlen(res->text), 0) : NULL;
	int r = take(j, it, yyjson_doc_get_root(d), &e);
	yyjson_doc_free(d);
	if (r)
		want_fail(j, r == -ENOENT ? FETCH_MISSING : r == -EEXIST ? FETCH_INPUT : FETCH_NETWORK, &e);
	else
		want_resolved(j);
}

void want_hub_resolve(struct model_job *j)
{
	const struct model_ref *r = &j->items[j->at].ref;
	AUTO(mem_freep) char *endpoint = want_hub_endpoint(&j->o);
	AUTO(mem_freep) char *token = want_hub_token(&j->o);
	AUTO(mem_freep)
	char *url = mem_fmt("%s/api/models/%s/revision/%s?blobs=true", endpoint, r->repo,
		r->revision ? r->revision : "main");
	AUTO(strv_done) struct strv headers = { 0 };
	if (token)
		strv_addf(&headers, "Authorization: Bearer %s", token);
	want_ask(j, url, &headers, on_listing);
}
