/* SPDX-License-Identifier: Apache-2.0
 *
 * What a model reference means. References come from files and from the API, and parts of them become names
 * on the disk and in URLs: whatever could lead out of where it belongs is refused here, once, for all.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/fd.h"
#include "base/num.h"
#include "base/url.h"
#include "base/utf8.h"
#include "provision/model/want_int.h"

enum { REF_MAX = 2048, COMPONENT_MAX = 255, HUB_NAME_MAX = 96, TAG_MAX = 128, HOST_MAX = 253 };

static const char accepted[] =
	"accepted are org/repo:QUANT (with or without hf: before it), hf:org/repo/file.gguf, file:/path, a "
	"path "
	"below models_dir, https://…, ollama:name:tag, s3://bucket/key and oci://registry/name:tag";

void model_ref_done(struct model_ref *r)
{
	free(r->text);
	free(r->url);
	free(r->host);
	free(r->repo);
	free(r->tag);
	free(r->file);
	free(r->revision);
	*r = (struct model_ref){ 0 };
}

/* ---- words --------------------------------------------------------------------------------------------- */

static bool is_alnum(char c)
{
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/* Letters, digits and '.', '_', '-', beginning with a letter, a digit or '_'. */
static bool is_word(struct view v, size_t max)
{
	if (!v.n || v.n > max || !(is_alnum(v.p[0]) || v.p[0] == '_'))
		return false;
	for (size_t i = 0; i < v.n; i++)
		if (!is_alnum(v.p[i]) && !strchr("._-", v.p[i]))
			return false;
	return true;
}

/* The hub's own rule; "--" would make two repositories one folder of its cache. */
static bool is_hub_name(struct view v)
{
	return is_word(v, HUB_NAME_MAX) && view_search(v, VIEW("--")) < 0 && view_search(v, VIEW("..")) < 0 &&
	       !view_ends(v, VIEW(".git"));
}

bool want_is_hex(struct view v, size_t n)
{
	for (size_t i = 0; i < v.n; i++)
		if (!memchr("0123456789abcdef", v.p[i], 16))
			return false;
	return v.n == n;
}

/* NULL, or why a name that has folders in it may become a path below one of ours. */
const char *want_bad_path(struct view v)
{
	struct view rest = v;
	if (!v.n)
		return "it is empty";
	if (v.n > REF_MAX)
		return "it is longer than 2048 bytes";
	if (v.p[0] == '/')
		return "it begins with \"/\"";
	if (!utf8_valid(v))
		return "it is not UTF-8";
	for (size_t i = 0; i < v.n; i++)
		if ((unsigned char)v.p[i] < 0x20 || v.p[i] == 0x7f || v.p[i] == '\\')
			return "it has a control byte or a backslash in it";
	while (rest.p) {
		struct view one = view_split(rest, '/', &rest);
		if (!one.n)
			return "a part of it is empty";
		if (one.n > COMPONENT_MAX)
			return "a part of it is longer than 255 bytes";
		if (view_eqs(one, ".") || view_eqs(one, ".."))
			return "\".\" and \"..\" are no names";
	}
	return NULL;
}

/* NAME, NAME:PORT, [ADDRESS]:PORT */
static bool is_host(struct view v)
{
	uint64_t port;
	struct view name, tail = { 0 };
	if (v.n && v.p[0] == '[') {
		size_t end = view_find(v, ']');
		if (end == v.n)
			return false;
		name = view_of(v.p + 1, end - 1);
		if (end + 1 < v.n && v.p[end + 1] != ':')
			return false;
		if (end + 1 < v.n)
			tail = view_from(v, end + 2);
		for (size_t i = 0; i < name.n; i++)
			if (!memchr("0123456789abcdefABCDEF:.", name.p[i], 24))
				return false;
		if (!name.n || name.n > 45)
			return false;
	} else {
		name = view_split(v, ':', &tail);
		if (!is_word(name, HOST_MAX) || view_search(name, VIEW("..")) >= 0)
			return false;
	}
	return !tail.p || (tail.n <= 5 && num_u64(tail, &port) == 0 && port > 0 && port <= 65535);
}

/* "…:tag" split at the last ':' of its last part; false: the tag is none. */
static bool split_tag(struct view v, struct view *name, struct view *tag)
{
	size_t colon = v.n;
	for (size_t i = 0; i < v.n; i++)
		colon = v.p[i] == '/' ? v.n : v.p[i] == ':' ? i : colon;
	*name = view_cut(v, colon);
	*tag = colon == v.n ? VIEW("latest") : view_from(v, colon + 1);
	return is_word(*tag, TAG_MAX);
}

/* ---- kinds --------------------------------------------------------------------------------------------- */

static int bad(const char *text, struct err *e, const char *why)
{
	AUTO(mem_freep) char *shown = ref_shown(text);
	return err_set(e, -EINVAL, "model \"%.200s\" is no reference: %s", shown, why);
}

static char *upper(struct view v)
{
	char *s = mem_viewdup(v);
	for (char *p = s; *p; p++)
		*p = *p >= 'a' && *p <= 'z' ? (char)(*p - 32) : *p;
	return s;
}

/* Up to the first of '/', ':' and '@'; *rest begins with that byte. */
static struct view hub_part(struct view v, struct view *rest)
{
	size_t n = 0;
	while (n < v.n && !memchr("/:@", v.p[n], 3))
		n++;
	*rest = view_from(v, n);
	return view_cut(v, n);
}

static bool next_is(struct view *v, char c)
{
	if (!v->n || v->p[0] != c)
		return false;
	*v = view_from(*v, 1);
	return true;
}

static int parse_hub(const char *text, struct view v, struct model_ref *r, struct err *e)
{
	struct view rest, rev = { 0 }, org = hub_part(v, &rest);
	r->kind = MODEL_REF_HUB;
	if (!next_is(&rest, '/'))
		return bad(text, e, "a repository has an organisation: hf:org/repo");
	struct view repo = hub_part(rest, &rest);
	if (!is_hub_name(org) || !is_hub_name(repo))
		return bad(text, e,
			"names on the hub are letters, digits, \".\", \"_\" and \"-\", without \"--\" and "
			"\"..\"");
	r->repo = mem_fmt("%.*s/%.*s", VIEW_ARG(org), VIEW_ARG(repo));
	if (next_is(&rest, '@')) {
		rev = hub_part(rest, &rest);
		if (!is_word(rev, TAG_MAX) || view_search(rev, VIEW("..")) >= 0)
			return bad(text, e, "behind \"@\" stands a branch, a tag or a commit");
		r->revision = mem_viewdup(rev);
	}
	if (next_is(&rest, '/')) {
		const char *why = want_bad_path(rest);
		if (why)
			return bad(text, e, why);
		r->file = mem_viewdup(rest);
	} else if (next_is(&rest, ':')) {
		if (!is_word(rest, 64))
			return bad(text, e, "behind \":\" stands a quantization: hf:org/repo:Q4_K_M");
		if (!view_eq_ci(rest, VIEW("latest")))
			r->tag = upper(rest);
	} else if (rest.n) {
		return bad(text, e, "behind the repository stands :QUANT, /FILE or @REVISION");
	}
	r->text =
		mem_fmt("hf:%s%s%s%s%s%s%s", r->repo, r->revision ? "@" : "", r->revision ? r->revision : "",
			r->tag ? ":" : "", r->tag ? r->tag : "", r->file ? "/" : "", r->file ? r->file : "");
	return 0;
}

static int parse_ollama(const char *text, struct view v, struct model_ref *r, struct err *e)
{
	struct view name, tag, part[4] = { 0 };
	size_t n = 0;
	r->kind = MODEL_REF_OLLAMA;
	if (!split_tag(v, &name, &tag))
		return bad(text, e, "behind \":\" stands a tag: ollama:llama3.2:3b");
	for (struct view rest = name; rest.p && n < 4;)
		part[n++] = view_split(rest, '/', &rest);
	bool ok = n >= 1 && n <= 3 && (n < 3 || is_host(part[0]));
	for (size_t i = n == 3 ? 1 : 0; ok && i < n; i++)
		ok = is_word(part[i], HUB_NAME_MAX);
	if (!ok)
		return bad(text, e,
			"it is ollama:name:tag, ollama:owner/name:tag or ollama:host/owner/name:tag");
	struct view owner = n == 1 ? VIEW("library") : part[n - 2], model = part[n - 1];
	bool usual = n < 3 || view_eqs(part[0], WANT_OLLAMA_HOST);
	r->host = usual ? NULL : mem_viewdup(part[0]);
	r->repo = mem_fmt("%.*s/%.*s", VIEW_ARG(owner), VIEW_ARG(model));
	r->tag = mem_viewdup(tag);
	bool brief = usual && view_eqs(owner, "library");
	r->text = mem_fmt("ollama:%s%s%s:%s", usual ? "" : r->host, usual ? "" : "/",
		brief ? r->repo + strlen("library/") : r->repo, r->tag);
	return 0;
}

static int parse_s3(const char *text, struct view v, struct model_ref *r, struct err *e)
{
	struct view key, bucket = view_split(v, '/', &key);
	r->kind = MODEL_REF_S3;
	if (!is_word(bucket, 63) || view_search(bucket, VIEW("..")) >= 0 || bucket.n < 3)
		return bad(text, e, "it is s3://bucket/key");
	const char *why = want_bad_path(key);
	if (why)
		return bad(text, e, why);
	r->repo = mem_viewdup(bucket);
	r->file = mem_viewdup(key);
	r->text = mem_fmt("s3://%s/%s", r->repo, r->file);
	return 0;
}

static int parse_oci(const char *text, struct view v, struct model_ref *r, struct err *e)
{
	struct view rest, tag = { 0 }, host = view_split(v, '/', &rest), name = rest;
	r->kind = MODEL_REF_OCI;
	ptrdiff_t at = view_search(rest, VIEW("@"));
	bool ok = is_host(host) && rest.n > 0;
	if (at >= 0) {
		tag = view_from(rest, (size_t)at + 1);
		name = view_cut(rest, (size_t)at);
		ok = ok && view_starts(tag, VIEW("sha256:")) && want_is_hex(view_from(tag, 7), 64);
	} else {
		ok = ok && split_tag(rest, &name, &tag);
	}
	for (struct view left = name; ok && left.p;)
		ok = is_word(view_split(left, '/', &left), TAG_MAX);
	if (!ok || name.n > COMPONENT_MAX)
		return bad(text, e, "it is oci://registry/name:tag or oci://registry/name@sha256:DIGEST");
	r->host = mem_viewdup(host);
	r->repo = mem_viewdup(name);
	r->tag = mem_viewdup(tag);
	r->text = mem_fmt("oci://%s/%s%s%s", r->host, r->repo, at >= 0 ? "@" : ":", r->tag);
	return 0;
}

static int hex_of(char c)
{
	return c >= '0' && c <= '9'   ? c - '0'
	       : c >= 'a' && c <= 'f' ? c - 'a' + 10
	       : c >= 'A' && c <= 'F' ? c - 'A' + 10
				      : -1;
}

/* %41 to A. NULL: a '%' that stands before no two digits. */
static char *decoded(struct view v)
{
	char *out = mem_alloc(v.n + 1);
	size_t n = 0;
	for (size_t i = 0; i < v.n; i++) {
		if (v.p[i] != '%') {
			out[n++] = v.p[i];
			continue;
		}
		int a = i + 2 < v.n ? hex_of(v.p[i + 1]) : -1, b = i + 2 < v.n ? hex_of(v.p[i + 2]) : -1;
		if (a < 0 || b < 0 || !(a | b)) {
			free(out);
			return NULL;
		}
		out[n++] = (char)(a * 16 + b);
		i += 2;
	}
	return out;
}

/* A page's address: https://huggingface.co/org/repo[/(blob|resolve|tree)/REVISION[/FILE]] */
static bool hub_page(const char *text, struct view path, struct model_ref *r)
{
	struct view rest, org = view_split(path, '/', &rest), repo = view_split(rest, '/', &rest);
	struct view verb = view_split(rest, '/', &rest), rev = view_split(rest, '/', &rest);
	bool known =
		view_eqs(verb, "blob") || view_eqs(verb, "resolve") || (view_eqs(verb, "tree") && !rest.n);
	if (verb.n && (!known || !rev.n))
		return false;
	AUTO(mem_freep) char *file = decoded(rest);
	bool at = rev.n && !view_eqs(rev, "main");
	AUTO(mem_freep)
	char *same = mem_fmt("%.*s/%.*s%s%.*s%s%s", VIEW_ARG(org), VIEW_ARG(repo), at ? "@" : "",
		at ? (int)rev.n : 0, at ? rev.p : "", file && *file ? "/" : "", file && *file ? file : "");
	if (parse_hub(text, view_str(same), r, NULL) == 0)
		return true;
	model_ref_done(r);
	return false;
}

static int parse_https(
	const char *text, struct view scheme, struct view v, struct model_ref *r, struct err *e)
{
	size_t hash = view_find(v, '#');
	if (want_is_hex(view_from(v, hash + 1), 16))
		return bad(text, e,
			"these 16 digits stand for a query, which is not kept; write the whole address");
	v = view_cut(v, hash);
	struct view query, path, before = view_split(v, '?', &query), host = view_split(before, '/', &path);
	r->kind = MODEL_REF_HTTPS;
	if (memchr(host.p, '@', host.n))
		return bad("https://…@…", e,
			"a user or password in an address would be seen in logs and listings; leave it out");
	if (!is_host(host))
		return bad(text, e, "its host is none");
	if (view_eqs(host, "huggingface.co") && hub_page(text, path, r))
		return 0;
	r->kind = MODEL_REF_HTTPS;
	AUTO(mem_freep) char *plain = decoded(path);
	const char *why =
		plain ? want_bad_path(view_str(plain)) : "a \"%\" in it stands before no two digits";
	if (why)
		return bad(text, e, why);
	for (size_t i = 0; i < v.n; i++)
		if ((unsigned char)v.p[i] <= 0x20 || v.p[i] == 0x7f)
			return bad(text, e, "a blank stands in its address; write %20");
	r->host = mem_viewdup(host);
	r->file = MEM_TAKE(plain);
	r->tag = query.n ? mem_viewdup(query) : NULL;
	r->url = mem_fmt("%.*s%.*s", VIEW_ARG(scheme), VIEW_ARG(v));
	r->text = ref_shown(r->url);
	return 0;
}

static int parse_file(const char *text, struct view path, bool prefixed, const char *base,
	struct model_ref *r, struct err *e)
{
	r->kind = MODEL_REF_FILE;
	if (prefixed && view_starts(path, VIEW("//")))
		path = view_from(path, 2);
	if (prefixed && (!path.n || path.p[0] != '/'))
		return bad(text, e, "behind file: stands a full path: file:/path/to/model.gguf");
	for (struct view rest = path; rest.p;)
		if (view_eqs(view_split(rest, '/', &rest), ".."))
			return bad(text, e, "\"..\" leaves the folder it begins in; write the path out");
	r->file = mem_viewdup(path);
	AUTO(mem_freep) char *whole = base ? path_join(base, r->file) : NULL;
	r->text = mem_fmt("file:%s", whole ? whole : r->file);
	return 0;
}

/* ---- all ----------------------------------------------------------------------------------------------- */

/* "org/repo", "org/repo:QUANT", "org/repo@REV": what is no path by its looks. */
static bool looks_like_hub(struct view v)
{
	struct view rest, org = hub_part(v, &rest);
	if (!next_is(&rest, '/'))
		return false;
	struct view repo = hub_part(rest, &rest);
	if (!is_hub_name(org) || !is_hub_name(repo) || view_ends(repo, VIEW(".gguf")))
		return false;
	return !memchr(rest.p ? rest.p : "", '/', rest.n);
}

static bool is_there(const char *base, const char *text)
{
	if (!base)
		return false;
	AUTO(mem_freep) char *path = path_join(base, text);
	AUTO(mem_freep) char *gguf = mem_fmt("%s.gguf", path);
	return file_exists(path) || file_exists(gguf);
}

static int parse(const char *text, const char *base, struct model_ref *r, struct err *e)
{
	struct view v = view_str(text);
	if (view_starts(v, VIEW("hf://")))
		return parse_hub(text, view_from(v, 5), r, e);
	if (view_starts(v, VIEW("hf:")))
		return parse_hub(text, view_from(v, 3), r, e);
	if (view_starts(v, VIEW("ollama:")))
		return parse_ollama(text, view_from(v, 7), r, e);
	if (view_starts(v, VIEW("s3://")))
		return parse_s3(text, view_from(v, 5), r, e);
	if (view_starts(v, VIEW("oci://")))
		return parse_oci(text, view_from(v, 6), r, e);
	if (view_starts(v, VIEW("https://")))
		return parse_https(text, VIEW("https://"), view_from(v, 8), r, e);
	if (view_starts(v, VIEW("http://")))
		return parse_https(text, VIEW("http://"), view_from(v, 7), r, e);
	if (view_starts(v, VIEW("file:")))
		return parse_file(text, view_from(v, 5), true, NULL, r, e);
	if (view_search(v, VIEW("://")) >= 0)
		return bad(text, e, accepted);
	if (looks_like_hub(v) && !is_there(base, text))
		return parse_hub(text, v, r, e);
	return parse_file(text, v, false, base, r, e);
}

int model_ref_parse(const char *text, const char *base_dir, struct model_ref *ret, struct err *reterr)
{
	struct view v = view_str(text);
	struct model_ref r = { 0 };
	*ret = r;
	if (!v.n)
		return err_set(reterr, -EINVAL, "model is empty; %s", accepted);
	if (v.n > REF_MAX)
		return err_set(reterr, -EINVAL, "model is a reference of %zu bytes; at most %d are accepted",
			v.n, REF_MAX);
	if (!utf8_valid(v))
		return err_set(reterr, -EINVAL, "model is a reference that is not UTF-8");
	for (size_t i = 0; i < v.n; i++)
		if ((unsigned char)v.p[i] < 0x20 || v.p[i] == 0x7f)
			return err_set(reterr, -EINVAL,
				"model is a reference with a control byte (%02x) in it",
				(unsigned char)v.p[i]);
	int e = parse(text, base_dir, &r, reterr);
	if (e)
		model_ref_done(&r);
	else
		*ret = r;
	return e;
}
