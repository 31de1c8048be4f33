/* SPDX-License-Identifier: Apache-2.0
 *
 * What a pool asks of the source mode: repository, ref and flags, checked and in their normal form; and which
 * commit a ref is.
 */
#include <ctype.h>
#include <stdlib.h>

#include "base/mem.h"
#include "base/num.h"
#include "provision/engine/engine_int.h"
#include "provision/engine/source.h"

void source_spec_done(struct source_spec *s)
{
	free(s->repo);
	free(s->ref);
	strv_done(&s->flags);
	strv_done(&s->notes);
	*s = (struct source_spec){ 0 };
}

/* ---- flags --------------------------------------------------------------------------------------- */

/* Names llama.cpp had and does not know any more. to NULL: nothing takes their place. */
static const struct {
	const char *from, *to;
} obsolete[] = {
	{ "LLAMA_CUBLAS", "GGML_CUDA" },
	{ "LLAMA_CUDA", "GGML_CUDA" },
	{ "LLAMA_HIPBLAS", "GGML_HIP" },
	{ "GGML_HIPBLAS", "GGML_HIP" },
	{ "LLAMA_HIP", "GGML_HIP" },
	{ "LLAMA_HIP_UMA", "GGML_HIP_UMA" },
	{ "LLAMA_VULKAN", "GGML_VULKAN" },
	{ "LLAMA_METAL", "GGML_METAL" },
	{ "LLAMA_METAL_EMBED_LIBRARY", "GGML_METAL_EMBED_LIBRARY" },
	{ "LLAMA_SYCL", "GGML_SYCL" },
	{ "LLAMA_SYCL_F16", "GGML_SYCL_F16" },
	{ "LLAMA_CANN", "GGML_CANN" },
	{ "LLAMA_RPC", "GGML_RPC" },
	{ "LLAMA_NATIVE", "GGML_NATIVE" },
	{ "LLAMA_BLAS", "GGML_BLAS" },
	{ "LLAMA_BLAS_VENDOR", "GGML_BLAS_VENDOR" },
	{ "LLAMA_LLAMAFILE", "GGML_LLAMAFILE" },
	{ "LLAMA_OPENMP", "GGML_OPENMP" },
	{ "LLAMA_STATIC", "GGML_STATIC" },
	{ "LLAMA_LTO", "GGML_LTO" },
	{ "LLAMA_AVX", "GGML_AVX" },
	{ "LLAMA_AVX2", "GGML_AVX2" },
	{ "LLAMA_AVX512", "GGML_AVX512" },
	{ "LLAMA_FMA", "GGML_FMA" },
	{ "LLAMA_F16C", "GGML_F16C" },
	{ "LLAMA_CUDA_F16", "GGML_CUDA_F16" },
	{ "LLAMA_CUDA_FORCE_MMQ", "GGML_CUDA_FORCE_MMQ" },
	{ "LLAMA_CUDA_FORCE_CUBLAS", "GGML_CUDA_FORCE_CUBLAS" },
	{ "LLAMA_CUDA_NO_PEER_COPY", "GGML_CUDA_NO_PEER_COPY" },
	{ "LLAMA_CUDA_PEER_MAX_BATCH_SIZE", "GGML_CUDA_PEER_MAX_BATCH_SIZE" },
	{ "LLAMA_BUILD_WEBUI", "LLAMA_BUILD_UI" },
	{ "LLAMA_SERVER_SSL", "LLAMA_OPENSSL" },
	{ "AMDGPU_TARGETS", "GPU_TARGETS" },
	{ "LLAMA_CLBLAST", NULL },
	{ "GGML_CLBLAST", NULL },
	{ "LLAMA_KOMPUTE", NULL },
	{ "GGML_KOMPUTE", NULL },
	{ "LLAMA_MPI", NULL },
	{ "LLAMA_CURL", NULL },
};

static bool name_ok(struct view name)
{
	for (size_t i = 0; i < name.n; i++)
		if (!isalnum((unsigned char)name.p[i]) && name.p[i] != '_')
			return false;
	return name.n && !isdigit((unsigned char)name.p[0]);
}

/* By name; of two of the same name the later one. */
static void flag_put(struct strv *flags, struct view name, struct view value)
{
	AUTO(mem_freep) char *word = mem_fmt("%.*s=%.*s", VIEW_ARG(name), VIEW_ARG(value));
	size_t at = 0;
	for (; at < flags->len; at++) {
		struct view rest, old = view_split(view_str(flags->items[at]), '=', &rest);
		int c = view_cmp(old, name);
		if (c == 0) {
			mem_setstr(&flags->items[at], word);
			return;
		}
		if (c > 0)
			break;
	}
	strv_add(flags, word);
	char *last = flags->items[flags->len - 1];
	for (size_t i = flags->len - 1; i > at; i--)
		flags->items[i] = flags->items[i - 1];
	flags->items[at] = last;
}

static struct view renamed(struct source_spec *s, struct view name)
{
	for (size_t i = 0; i < ARRAY_LEN(obsolete); i++) {
		if (!view_eqs(name, obsolete[i].from))
			continue;
		if (obsolete[i].to)
			strv_addf(&s->notes, "engine.source.flags: %s is called %s now", obsolete[i].from,
				obsolete[i].to);
		else
			strv_addf(&s->notes,
				"engine.source.flags: %s does not exist any more and is left out",
				obsolete[i].from);
		return view_str(obsolete[i].to);
	}
	return name;
}

/* "NAME=value", "-DNAME=value", "-DNAME:TYPE=value". */
static int flag_take(struct source_spec *s, const char *flag, struct err *reterr)
{
	struct view value, v = view_trim(view_str(flag));
	if (view_starts(v, VIEW("-D")))
		v = view_trim(view_from(v, 2));
	struct view type, name = view_split(v, '=', &value);
	name = view_split(name, ':', &type);
	if (!value.p || !name_ok(name))
		return err_set(reterr, -EINVAL,
			"engine.source.flags has \"%.100s\"; accepted: CMake's NAME=value, as in "
			"GGML_CUDA=ON",
			flag);
	for (size_t i = 0; i < value.n; i++)
		if ((unsigned char)value.p[i] < ' ')
			return err_set(reterr, -EINVAL,
				"engine.source.flags: the value of %.*s has a control character",
				VIEW_ARG(name));
	if (view_eqs(name, "LLAMA_OPENBLAS")) {
		strv_addf(&s->notes, "engine.source.flags: LLAMA_OPENBLAS is called GGML_BLAS with "
				     "GGML_BLAS_VENDOR=OpenBLAS now");
		flag_put(&s->flags, VIEW("GGML_BLAS"), value);
		flag_put(&s->flags, VIEW("GGML_BLAS_VENDOR"), VIEW("OpenBLAS"));
		return 0;
	}
	name = renamed(s, name);
	if (name.n)
		flag_put(&s->flags, name, value);
	return 0;
}

/* ---- the repository ------------------------------------------------------------------------------ */

static bool has_blank(const char *s)
{
	for (; *s; s++)
		if ((unsigned char)*s <= ' ' || *s == 0x7f)
			return true;
	return false;
}

/* A password, or a name that is a token: git would have it in its arguments, and so every user's ps. */
static bool has_secret(struct view repo)
{
	ptrdiff_t at = view_search(repo, VIEW("://"));
	if (at < 0)
		return false;
	struct view rest = view_from(repo, (size_t)at + 3), path;
	struct view host, who = view_split(view_split(rest, '/', &path), '@', &host);
	return host.p && (!view_starts(repo, VIEW("ssh:")) || memchr(who.p, ':', who.n));
}

static int repo_take(struct source_spec *s, const char *repo, struct err *reterr)
{
	static const char *const schemes[] = { "https://", "http://", "git://", "ssh://" };
	struct view v = view_str(repo);
	if (repo[0] == '/') {
		s->repo = mem_fmt("file://%s", repo);
	} else if (view_starts(v, VIEW("file:"))) {
		const char *path = repo + 5;
		while (path[0] == '/' && path[1] == '/')
			path++;
		s->repo = *path == '/' ? mem_fmt("file://%s", path) : NULL;
	}
	s->local = s->repo != NULL;
	for (size_t i = 0; !s->repo && i < ARRAY_LEN(schemes); i++)
		if (view_starts(v, view_str(schemes[i])) && v.n > strlen(schemes[i]))
			s->repo = mem_strdup(repo);
	/* user@host:path, as ssh has it */
	size_t at = view_find(v, '@'), colon = view_find(v, ':');
	if (!s->repo && repo[0] != '-' && at && at < colon && colon + 1 < v.n)
		s->repo = mem_strdup(repo);
	if (s->repo && !s->local && has_secret(v)) {
		AUTO(mem_freep) char *safe = url_redact(v);
		return err_set(reterr, -EINVAL,
			"engine.source.repo is \"%.200s\": a user or password in it would be seen in the "
			"lists "
			"of processes; leave it out, and let git have it from ~/.netrc or a credential "
			"helper "
			"(git config --global credential.helper) of the user that Corral runs as",
			safe);
	}
	if (s->repo && !has_blank(s->repo))
		return 0;
	return err_set(reterr, -EINVAL,
		"engine.source.repo is \"%.200s\"; accepted: https://…, git://…, ssh://…, user@host:path, or "
		"file:/… and a full path for a repository on this machine",
		repo);
}

static int ref_take(struct source_spec *s, const char *ref, struct err *reterr)
{
	static const char bad[] = "~^:?*[\\";
	if (ref[0] == '-' || ref[0] == '/' || !*ref || strstr(ref, "..") || strpbrk(ref, bad) ||
		has_blank(ref))
		return err_set(reterr, -EINVAL,
			"engine.source.ref is \"%.100s\"; accepted: a tag (b6123), a branch, or a commit's "
			"40 "
			"digits",
			ref);
	s->ref = mem_strdup(ref);
	return 0;
}

int source_spec_ref(struct source_spec *s, const char *ref, struct err *reterr)
{
	free(MEM_TAKE(s->ref));
	return ref_take(s, ref, reterr);
}

int source_spec_init(struct source_spec *s, const struct engine_def *d, struct err *reterr)
{
	*s = (struct source_spec){ 0 };
	int r = repo_take(s, d->source_repo ? d->source_repo : SOURCE_REPO_DEFAULT, reterr);
	if (!r && d->source_ref)
		r = ref_take(s, d->source_ref, reterr);
	if (!r && d->source_flags.len > SOURCE_FLAGS_MAX)
		r = err_set(reterr, -E2BIG, "engine.source.flags has %zu flags; at most %d are accepted",
			d->source_flags.len, (int)SOURCE_FLAGS_MAX);
	for (size_t i = 0; !r && i < d->source_flags.len; i++)
		r = flag_take(s, d->source_flags.items[i], reterr);
	if (r)
		source_spec_done(s);
	return r;
}

/* ---- the commit ---------------------------------------------------------------------------------- */

void source_commit_done(struct source_commit *c)
{
	free(c->name);
	*c = (struct source_commit){ 0 };
}

static bool hex(struct view v)
{
	for (size_t i = 0; i < v.n; i++)
		if (!strchr("0123456789abcdef", v.p[i]) || !v.p[i])
			return false;
	return v.n == SOURCE_COMMIT_LEN;
}

bool source_is_commit(const char *ref)
{
	return ref && hex(view_str(ref));
}

void source_refs_ask(const struct source_spec *s, struct strv *ret)
{
	strv_add(ret, "HEAD");
	if (!s->ref) {
		strv_add(ret, "refs/tags/b*");
		return;
	}
	strv_addf(ret, "refs/tags/%s", s->ref);
	strv_addf(ret, "refs/tags/%s^{}", s->ref);
	strv_addf(ret, "refs/heads/%s", s->ref);
	if (strncmp(s->ref, "refs/", 5) == 0)
		strv_add(ret, s->ref);
}

/* "b6123" → 6123; 0: it is no release. */
static uint64_t release_number(struct view name)
{
	uint64_t n;
	return name.n > 1 && name.n < 12 && name.p[0] == 'b' && num_u64(view_from(name, 1), &n) == 0 ? n : 0;
}

bool source_is_release(const char *ref)
{
	return ref && release_number(view_str(ref));
}

static void commit_set(struct source_commit *c, struct view id, struct view name)
{
	memcpy(c->id, id.p, SOURCE_COMMIT_LEN);
	c->id[SOURCE_COMMIT_LEN] = '\0';
	free(c->name);
	c->name = mem_viewdup(name);
	c->number = release_number(name);
}

/* How good a match a line is: an annotated tag's commit, a tag, a branch, HEAD where nothing was named. */
static int rank_of(const struct source_spec *s, struct view full, struct view *ret_name)
{
	bool peeled = view_ends(full, VIEW("^{}"));
	struct view ref = peeled ? view_cut(full, full.n - 3) : full;
	bool tag = view_starts(ref, VIEW("refs/tags/")), head = view_starts(ref, VIEW("refs/heads/"));
	struct view name = view_from(ref, tag ? 10 : head ? 11 : 0);
	*ret_name = name;
	if (!s->ref)
		return tag && release_number(name) ? 3 + peeled : view_eqs(ref, "HEAD") ? 1 : 0;
	if (view_eqs(ref, s->ref))
		return 5;
	return !view_eqs(name, s->ref) ? 0 : tag ? 3 + peeled : head ? 2 : 0;
}

int source_ref_resolve(
	const struct source_spec *s, struct view said, struct source_commit *ret, struct err *reterr)
{
	int best = 0;
	*ret = (struct source_commit){ 0 };
	while (said.p) {
		struct view full, name = { 0 }, line = view_split(said, '\n', &said);
		struct view id = view_split(line, '\t', &full);
		int rank = hex(id) && full.p ? rank_of(s, full, &name) : 0;
		uint64_t n = rank ? release_number(name) : 0;
		bool better = !s->ref && n != ret->number ? n > ret->number : rank > best;
		if (!rank || !better)
			continue;
		best = rank;
		commit_set(ret, id, name);
	}
	if (best)
		return 0;
	if (s->ref)
		return err_set(reterr, -ENOENT,
			"%s is neither a tag nor a branch of %s (a commit needs all its 40 digits)", s->ref,
			s->repo);
	return err_set(
		reterr, -ENOENT, "%s has neither a release tag nor a HEAD: set engine.source.ref", s->repo);
}
