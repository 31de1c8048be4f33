/* SPDX-License-Identifier: Apache-2.0
 *
 * Single files: https: as it stands, and s3: with a signed address. Nothing has to be asked: the parts of a
 * split file follow from its name.
 */
#include <stdlib.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "provision/model/want_job_int.h"

enum { SIGNED_SECONDS = 7 * 24 * 3600 };

static void fail(struct model_job *j, int code, const char *what)
{
	struct err e = { 0 };
	err_set(&e, code, "%s %s", j->items[j->at].ref.text, what);
	want_fail(j, FETCH_INPUT, &e);
}

static struct want_file *add(
	struct model_job *j, const char *to, const char *url, const char *said, size_t parts)
{
	struct want_item *it = &j->items[j->at];
	struct stat st;
	struct want_file *f = want_item_add(it, it->role, to, url);
	f->said = mem_strdup(said);
	f->note = true;
	if (parts == 1 && it->role == WANT_WEIGHTS)
		f->sha256 = mem_strdup(j->o.sha256);
	AUTO(mem_freep) char *known = want_noted(to);
	f->here = known && stat(to, &st) == 0;
	if (f->here && !f->sha256)
		f->sha256 = MEM_TAKE(known);
	return f;
}

void want_https_resolve(struct model_job *j)
{
	const struct model_ref *r = &j->items[j->at].ref;
	if (!j->o.models_dir) {
		fail(j, -EINVAL, "has to be put somewhere: set models_dir");
		return;
	}
	AUTO(mem_freep) char *place = want_place(r, j->o.models_dir);
	AUTO(strv_done) struct strv to = { 0 }, from = { 0 };
	want_parts(place, &to);
	struct view url = view_str(r->url);
	size_t q = view_find(url, '?');
	AUTO(mem_freep) char *path = mem_viewdup(view_cut(url, q));
	want_parts(path, &from);
	for (size_t i = 0; i < to.len && i < from.len; i++) {
		AUTO(mem_freep) char *one = mem_fmt("%s%s", from.items[i], r->url + q);
		add(j, to.items[i], one, from.items[i], to.len);
	}
	want_resolved(j);
}

/* ---- s3 ------------------------------------------------------------------------------------------------ */

/* Where a bucket's key is: path style for an endpoint of one's own and for names with dots, which no
 * certificate covers. */
static char *s3_base(const struct model_job *j, const char *bucket, const char *region, char **ret_prefix)
{
	const char *own = j->o.s3_endpoint                  ? j->o.s3_endpoint
			  : want_env("AWS_ENDPOINT_URL_S3") ? want_env("AWS_ENDPOINT_URL_S3")
							    : want_env("AWS_ENDPOINT_URL");
	bool by_path = own || strchr(bucket, '.');
	*ret_prefix = by_path ? mem_fmt("/%s", bucket) : mem_strdup("");
	if (own) {
		size_t n = strlen(own);
		while (n && own[n - 1] == '/')
			n--;
		return mem_viewdup(view_of(own, n));
	}
	return by_path ? mem_fmt("https://s3.%s.amazonaws.com", region)
		       : mem_fmt("https://%s.s3.%s.amazonaws.com", bucket, region);
}

static bool is_plain(const char *s)
{
	for (; *s; s++)
		if (*s <= ' ' || *s > '~')
			return false;
	return true;
}

/* False: it failed. */
static bool add_object(struct model_job *j, const char *key, const char *to, size_t parts)
{
	const struct model_ref *r = &j->items[j->at].ref;
	const char *id = want_env("AWS_ACCESS_KEY_ID"), *secret = want_env("AWS_SECRET_ACCESS_KEY");
	const char *region = want_env("AWS_REGION") ? want_env("AWS_REGION") : want_env("AWS_DEFAULT_REGION");
	region = region && is_plain(region) && !strpbrk(region, "/?#@:") ? region : "us-east-1";
	AUTO(mem_freep) char *prefix = NULL;
	AUTO(mem_freep) char *base = s3_base(j, r->repo, region, &prefix);
	AUTO(mem_freep) char *host = want_url_host(base);
	AUTO(mem_freep) char *escaped = want_escaped(view_str(key), true);
	AUTO(mem_freep) char *path = mem_fmt("%s/%s", prefix, escaped);
	AUTO(mem_freep) char *said = mem_fmt("%s%s", base, path);
	AUTO(mem_freep) char *url = mem_strdup(said);
	if (id && secret) {
		struct want_sign q = { .key = id,
			.secret = secret,
			.session = want_env("AWS_SESSION_TOKEN"),
			.region = region,
			.method = "GET",
			.host = host,
			.path = path,
			.unix_time = wall_ms() / 1000 };
		AUTO(mem_freep) char *query = want_sign_query(&q, SIGNED_SECONDS);
		free(url);
		url = mem_fmt("%s?%s", said, query ? query : "");
		if (!query)
			return false;
	}
	add(j, to, url, said, parts);
	return true;
}

void want_s3_resolve(struct model_job *j)
{
	const struct model_ref *r = &j->items[j->at].ref;
	if (!j->o.models_dir) {
		fail(j, -EINVAL, "has to be put somewhere: set models_dir");
		return;
	}
	AUTO(mem_freep) char *place = want_place(r, j->o.models_dir);
	AUTO(strv_done) struct strv to = { 0 }, keys = { 0 };
	want_parts(place, &to);
	want_parts(r->file, &keys);
	bool ok = true;
	for (size_t i = 0; ok && i < to.len && i < keys.len; i++)
		ok = add_object(j, keys.items[i], to.items[i], to.len);
	if (ok)
		want_resolved(j);
	else
		fail(j, -EIO, "cannot be signed for");
}
