/* SPDX-License-Identifier: Apache-2.0
 *
 * Asking registries of the distribution protocol, Ollama's and OCI's: the manifest, with the dance for a
 * token before it where the registry wants one.
 */
#include <ctype.h>
#include <stdlib.h>
#include <yyjson.h>

#include "base/fd.h"
#include "provision/model/want_job_int.h"

/* ---- asking -------------------------------------------------------------------------------------------- */

static void ask_manifest(struct model_job *j, const char *tag);

static void fail(struct model_job *j, enum fetch_why why, int code, const char *what)
{
	const struct model_ref *r = &j->items[j->at].ref;
	AUTO(mem_freep) char *base = want_registry_base(r, &j->o);
	struct err e = { 0 };
	err_set(&e, code, "%s: %s %s", r->text, base, what);
	want_fail(j, why, &e);
}

static int take_manifest(struct model_job *j, struct view text, struct err *e)
{
	struct want_item *it = &j->items[j->at];
	if (!j->o.models_dir)
		return err_set(e, -EINVAL, "%s has to be put somewhere: set models_dir", it->ref.text);
	AUTO(mem_freep) char *base = want_registry_base(&it->ref, &j->o);
	AUTO(mem_freep) char *dir = want_place(&it->ref, j->o.models_dir);
	int r = want_manifest(text, &it->ref, dir, it, e);
	for (size_t i = 0; !r && i < it->nfetch; i++) {
		struct want_file *f = &it->fetch[i];
		free(f->url);
		f->url = mem_fmt("%s/v2/%s/blobs/sha256:%s", base, it->ref.repo, f->sha256);
		if (j->auth)
			strv_add(&f->headers, j->auth);
	}
	it->ref_file = path_join(dir, "manifest.json");
	it->ref_text = mem_viewdup(text);
	return r;
}

/* A manifest that was asked for by its digest is that one. */
static bool is_asked_for(const struct model_job *j, struct view text)
{
	const char *at = strrchr(j->url, '/');
	AUTO(mem_freep) char *hex = want_sha256_hex(text);
	return strncmp(at, "/sha256:", 8) != 0 || (hex && strcmp(at + 8, hex) == 0);
}

static void on_manifest_text(struct model_job *j, struct view text)
{
	struct err e = { 0 };
	if (!is_asked_for(j, text)) {
		fail(j, FETCH_DIGEST, -EBADMSG,
			"sent a manifest that has not the digest it was asked for by");
		return;
	}
	AUTO(mem_freep) char *next = want_index_first(text);
	if (next && j->hops++ < WANT_HOPS_MAX) {
		strv_addv(&j->items[j->at].indices, text);
		ask_manifest(j, next);
		return;
	}
	int r = take_manifest(j, text, &e);
	if (r)
		want_fail(j, r == -ENOENT ? FETCH_MISSING : r == -EINVAL ? FETCH_INPUT : FETCH_NETWORK, &e);
	else
		want_resolved(j);
}

/* ---- tokens -------------------------------------------------------------------------------------------- */

/* NAME="VALUE" of a challenge. */
static char *challenge_value(struct view v, const char *name)
{
	AUTO(mem_freep) char *key = mem_fmt("%s=\"", name);
	ptrdiff_t at = view_search(v, view_str(key));
	if (at < 0)
		return NULL;
	v = view_from(v, (size_t)at + strlen(key));
	return mem_viewdup(view_cut(v, view_find(v, '"')));
}

/* What `docker login` or `podman login` keeps for a registry: the value of a Basic header. */
static char *stored_login(const char *host)
{
	const char *dir = want_env("DOCKER_CONFIG"), *home = want_env("HOME");
	AUTO(mem_freep)
	char *path = dir    ? path_join(dir, "config.json")
		     : home ? path_join(home, ".docker/config.json")
			    : NULL;
	AUTO(buf_done) struct buf b = BUF(WANT_DOC_MAX);
	if (!path || file_read_regular(path, &b) < 0)
		return NULL;
	yyjson_doc *d = yyjson_read(b.data ? b.data : "", b.len, 0);
	yyjson_val *auths = yyjson_obj_get(yyjson_doc_get_root(d), "auths");
	const char *key = strcmp(host, "docker.io") == 0 ? "https://index.docker.io/v1/" : host;
	const char *auth = yyjson_get_str(yyjson_obj_get(yyjson_obj_get(auths, key), "auth"));
	bool clean = auth && *auth;
	for (const char *p = auth; clean && *p; p++)
		clean = isalnum((unsigned char)*p) || strchr("+/=_-", *p);
	char *ret = clean ? mem_strdup(auth) : NULL;
	yyjson_doc_free(d);
	return ret;
}

static void set_auth(struct model_job *j, const char *kind, const char *value)
{
	free(j->auth);
	j->auth = mem_fmt("Authorization: %s %s", kind, value);
}

static void on_token(struct model_job *j, const struct fetch_result *res)
{
	yyjson_doc *d = res->status == 200 && res->text ? yyjson_read(res->text, strlen(res->text), 0) : NULL;
	yyjson_val *root = yyjson_doc_get_root(d);
	const char *token = yyjson_get_str(yyjson_obj_get(root, "token"));
	token = token ? token : yyjson_get_str(yyjson_obj_get(root, "access_token"));
	bool clean = token && *token;
	for (const char *p = token; clean && *p; p++)
		clean = *p > ' ' && *p <= '~';
	if (clean)
		set_auth(j, "Bearer", token);
	yyjson_doc_free(d);
	if (clean)
		ask_manifest(j, j->items[j->at].ref.tag);
	else
		fail(j, FETCH_DENIED, -EACCES,
			"gives no token for it: it is private or not there; log in with docker login");
}

static bool ask_token(struct model_job *j, struct view challenge)
{
	const struct model_ref *r = &j->items[j->at].ref;
	AUTO(mem_freep) char *login = stored_login(r->host ? r->host : WANT_OLLAMA_HOST);
	AUTO(strv_done) struct strv headers = { 0 };
	if (view_eq_ci(view_cut(challenge, 6), VIEW("Basic ")) && login) {
		set_auth(j, "Basic", login);
		ask_manifest(j, r->tag);
		return true;
	}
	AUTO(mem_freep) char *realm = challenge_value(challenge, "realm");
	AUTO(mem_freep) char *service = challenge_value(challenge, "service");
	AUTO(mem_freep) char *scope = challenge_value(challenge, "scope");
	if (!view_eq_ci(view_cut(challenge, 7), VIEW("Bearer ")) || !realm ||
		!(strncmp(realm, "https://", 8) == 0 || strncmp(realm, "http://", 7) == 0))
		return false;
	AUTO(mem_freep) char *own = scope ? NULL : mem_fmt("repository:%s:pull", r->repo);
	AUTO(mem_freep) char *a = want_escaped(view_str(service ? service : ""), false);
	AUTO(mem_freep) char *b = want_escaped(view_str(scope ? scope : own), false);
	AUTO(mem_freep)
	char *url = mem_fmt("%s%sservice=%s&scope=%s", realm, strchr(realm, '?') ? "&" : "?", a, b);
	if (login)
		strv_addf(&headers, "Authorization: Basic %s", login);
	want_ask(j, url, &headers, on_token);
	return true;
}

static void on_manifest(struct model_job *j, const struct fetch_result *res)
{
	AUTO(mem_freep) char *status = mem_fmt("answered %d", res->status);
	if (res->status == 200 && res->text) {
		on_manifest_text(j, view_str(res->text));
	} else if (res->status == 401 && !j->asked_auth) {
		j->asked_auth = true;
		if (!ask_token(j, want_header(res, "WWW-Authenticate")))
			fail(j, FETCH_DENIED, -EACCES, "wants a login (401); give it one with docker login");
	} else if (res->status == 401 || res->status == 403) {
		fail(j, FETCH_DENIED, -EACCES,
			"refuses it: it is private or not there; log in with docker login");
	} else if (res->status == 404) {
		fail(j, FETCH_MISSING, -ENOENT, "has no such model or tag; look at its spelling");
	} else if (res->status == 429) {
		fail(j, FETCH_BUSY, -EBUSY, "asks to come back later (429); with a login more is allowed");
	} else {
		fail(j, FETCH_NETWORK, -EPROTO, status);
	}
}

static void ask_manifest(struct model_job *j, const char *tag)
{
	const struct model_ref *r = &j->items[j->at].ref;
	AUTO(mem_freep) char *base = want_registry_base(r, &j->o);
	AUTO(mem_freep) char *url = mem_fmt("%s/v2/%s/manifests/%s", base, r->repo, tag);
	AUTO(strv_done) struct strv headers = { 0 };
	strv_add(&headers, "Accept: application/vnd.oci.image.manifest.v1+json, "
			   "application/vnd.docker.distribution.manifest.v2+json, "
			   "application/vnd.oci.image.index.v1+json, "
			   "application/vnd.docker.distribution.manifest.list.v2+json");
	if (j->auth)
		strv_add(&headers, j->auth);
	want_ask(j, url, &headers, on_manifest);
}

void want_registry_resolve(struct model_job *j)
{
	free(j->auth);
	j->auth = NULL;
	j->asked_auth = false;
	j->hops = 0;
	strv_done(&j->items[j->at].indices);
	ask_manifest(j, j->items[j->at].ref.tag);
}
