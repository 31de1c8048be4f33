/* SPDX-License-Identifier: Apache-2.0
 *
 * The trust policy: who models may come from, and what has to be known of them before. What may be reached
 * at all is the fetch process's affair.
 */
#include <stdlib.h>

#include "base/num.h"
#include "base/url.h"
#include "provision/model/want_job_int.h"

static char *host_of(const struct model_ref *r, const struct model_ensure_opts *o)
{
	AUTO(mem_freep) char *base = NULL;
	switch (r->kind) {
	case MODEL_REF_FILE: return NULL;
	case MODEL_REF_HUB: base = want_hub_endpoint(o); break;
	case MODEL_REF_OLLAMA: return mem_strdup(r->host ? r->host : WANT_OLLAMA_HOST);
	case MODEL_REF_OCI:
	case MODEL_REF_HTTPS: return mem_strdup(r->host);
	case MODEL_REF_S3: return mem_fmt("s3://%s", r->repo);
	}
	return base ? want_url_host(base) : NULL;
}

/* "host", "host:port", "*.example.org"; "s3://bucket" for a bucket. */
bool model_host_trusted(const struct strv *registries, const char *host)
{
	struct view v = view_str(host), port;
	struct view name = host[0] == '[' ? v : view_split(v, ':', &port);
	if (strncmp(host, "s3://", 5) == 0)
		name = v;
	for (size_t i = 0; i < registries->len; i++) {
		struct view t = view_str(registries->items[i]);
		if (view_eq_ci(t, v) || view_eq_ci(t, name) || view_eqs(t, "*"))
			return true;
		if (view_starts(t, VIEW("*.")) && name.n > t.n - 1 &&
			view_eq_ci(view_from(name, name.n - (t.n - 1)), view_from(t, 1)))
			return true;
	}
	return false;
}

static char *list(const struct strv *v)
{
	AUTO(buf_done) struct buf b = BUF(160);
	for (size_t i = 0; i < v->len; i++)
		(void)buf_addf(&b, "%s%s", i ? ", " : "", v->items[i]);
	return buf_take(&b);
}

int want_trust_ref(const struct model_ref *r, const struct model_ensure_opts *o, struct err *reterr)
{
	AUTO(mem_freep) char *host = host_of(r, o);
	if (o->trust != MODEL_TRUST_STRICT || !host || !o->registries.len ||
		model_host_trusted(&o->registries, host))
		return 0;
	AUTO(mem_freep) char *all = list(&o->registries);
	return err_set(reterr, -EACCES,
		"model %s is refused by trust.mode: strict: %s is not among trust.registries: [%s]; add it "
		"there, "
		"or take the model from one of them",
		r->text, host, all ? all : "");
}

int want_offline(const struct model_ref *r, const struct model_ensure_opts *o, struct err *e)
{
	const char *line = o->policy.offline ? "network.offline: true"
			   : r->kind == MODEL_REF_HUB && want_hub_offline()
				   ? "HF_HUB_OFFLINE in the environment"
				   : NULL;
	if (!line)
		return 0;
	return err_set(e, -EACCES,
		"model %s is not on this machine, and %s forbids to fetch it; put it into the cache on a "
		"machine that "
		"may and copy it, or lift that",
		r->text, line);
}

int want_trust_files(const struct want_item *it, const struct model_ensure_opts *o, struct err *reterr)
{
	bool strict = o->trust == MODEL_TRUST_STRICT;
	if (!strict && !o->require_digest)
		return 0;
	for (size_t i = 0; i < it->nfetch; i++) {
		const struct want_file *f = &it->fetch[i];
		if (f->sha256 || f->git_oid)
			continue;
		return err_set(reterr, -EACCES,
			"model %s is refused by %s: nobody says which SHA-256 %s has to have; write it "
			"beside the "
			"model (sha256: …)",
			it->ref.text, strict ? "trust.mode: strict" : "trust.require_digest: true",
			f->said ? f->said : f->url);
	}
	return 0;
}

/* Bytes that are known of, and whether any file is to come and one of no known size. */
static uint64_t to_come(const struct model_job *j, bool *ret_any, bool *ret_open)
{
	uint64_t bytes = 0;
	*ret_any = *ret_open = false;
	for (size_t i = 0; i < j->n; i++)
		for (size_t k = 0; k < j->items[i].nfetch; k++) {
			const struct want_file *f = &j->items[i].fetch[k];
			*ret_any |= !f->here;
			*ret_open |= !f->here && !f->size;
			if (__builtin_add_overflow(bytes, f->here ? 0 : f->size, &bytes))
				bytes = UINT64_MAX; /* what a store says need not be so */
		}
	return bytes;
}

int want_quota(struct model_job *j, struct err *reterr)
{
	char coming[32], used_text[32], quota[32];
	bool any, open, others_open = false;
	uint64_t bytes = to_come(j, &any, &open);
	uint64_t used = j->ops.quota_used ? j->ops.quota_used(j->arg, &others_open) : j->o.quota_used;
	uint64_t left = j->o.quota > used ? j->o.quota - used : 0;
	if (j->o.quota && any && left && bytes <= left && others_open)
		return -EAGAIN;
	if (!j->o.quota || !any || (left && bytes <= left)) {
		j->coming = bytes;
		j->coming_open = open;
		j->room = j->o.quota ? left : 0;
		return 0;
	}
	num_format_bytes(bytes, coming, sizeof coming);
	num_format_bytes(used, used_text, sizeof used_text);
	num_format_bytes(j->o.quota, quota, sizeof quota);
	AUTO(mem_freep) char *shown = ref_shown(j->set.ref);
	return err_set(reterr, -ENOSPC,
		"%s has %s to be fetched, models that were fetched take %s, and models_quota is %s: `corral "
		"models gc --dry-run` says which could go, `corral models rm` removes one",
		shown, bytes ? coming : "files", used_text, quota);
}
