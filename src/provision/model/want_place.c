/* SPDX-License-Identifier: Apache-2.0
 *
 * models_dir: where what comes from elsewhere than the hub lies.
 *
 *   http[s]/<host>/<path>        s3/<bucket>/<key>          <file>.sha256 beside each, as sha256sum writes
 * it, with what the file was then in a comment ollama/<host>/<owner>/<name>/<tag>/
 * oci/<registry>/<name>/<tag>/      with the manifest.json last
 */
#include <dirent.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/num.h"
#include "provision/model/want_job_int.h"

/* ':' (of a port, of a digest) and the brackets of an address are no letters of a folder's name; '+' stands
 * in no host's, no tag's. */
static char *tame(const char *s)
{
	char *out = mem_strdup(s);
	for (char *p = out; *p; p++)
		*p = *p == ':' || *p == '[' || *p == ']' ? '+' : *p;
	return out;
}

/* FNV-1a, 64 bits: two addresses that differ in their query alone are two files. */
static uint64_t hash_of(const char *s)
{
	uint64_t h = 14695981039346656037u;
	for (; *s; s++)
		h = (h ^ (unsigned char)*s) * 1099511628211u;
	return h;
}

static char *https_place(const struct model_ref *r, const char *models_dir)
{
	AUTO(mem_freep) char *host = tame(r->host);
	const char *scheme = strncmp(r->text, "http:", 5) == 0 ? "http" : "https";
	if (!r->tag)
		return mem_fmt("%s/%s/%s/%s", models_dir, scheme, host, r->file);
	const char *slash = strrchr(r->file, '/');
	size_t dir = slash ? (size_t)(slash - r->file) + 1 : 0;
	return mem_fmt("%s/%s/%s/%.*s%016llx-%s", models_dir, scheme, host, (int)dir, r->file,
		(unsigned long long)hash_of(r->tag), r->file + dir);
}

char *want_place(const struct model_ref *r, const char *models_dir)
{
	if (r->kind == MODEL_REF_HTTPS)
		return https_place(r, models_dir);
	if (r->kind == MODEL_REF_S3)
		return mem_fmt("%s/s3/%s/%s", models_dir, r->repo, r->file);
	AUTO(mem_freep) char *host = tame(r->host ? r->host : WANT_OLLAMA_HOST);
	AUTO(mem_freep) char *tag = tame(r->tag);
	return mem_fmt("%s/%s/%s/%s/%s", models_dir, r->kind == MODEL_REF_OCI ? "oci" : "ollama", host,
		r->repo, tag);
}

void want_parts(const char *name, struct strv *ret)
{
	size_t at;
	unsigned part, parts;
	if (!model_split_name(name, &at, &part, &parts)) {
		strv_add(ret, name);
		return;
	}
	for (unsigned i = 1; i <= parts; i++)
		strv_addf(ret, "%.*s%05u-of-%05u.gguf", (int)at, name, i, parts);
}

/* By which a file is known to be the one that was looked at. */
static char *state_of(const char *path)
{
	struct stat st;
	if (stat(path, &st) < 0)
		return NULL;
	return mem_fmt(" %llu %llu %lld.%09ld", (unsigned long long)st.st_ino, (unsigned long long)st.st_size,
		(long long)st.st_mtim.tv_sec, (long)st.st_mtim.tv_nsec);
}

/* "<hex>  <name>" and, as a comment of its own line, the state of the file; sha256sum -c reads it. */
static char *note_of(const char *path, struct view hex)
{
	AUTO(mem_freep) char *now = state_of(path);
	return now ? mem_fmt("%.*s  %s\n#%s\n", VIEW_ARG(hex), strrchr(path, '/') + 1, now) : NULL;
}

char *want_noted(const char *path)
{
	AUTO(mem_freep) char *beside = mem_fmt("%s.sha256", path);
	AUTO(buf_done) struct buf b = BUF(8 * KIB);
	if (file_read_regular(beside, &b) < 0 || b.len < 64)
		return NULL;
	struct view hex = view_cut(buf_view(&b), 64);
	AUTO(mem_freep) char *same = want_is_hex(hex, 64) ? note_of(path, hex) : NULL;
	return same && view_eqs(buf_view(&b), same) ? mem_viewdup(hex) : NULL;
}

/* What it says, whatever the file is now; NULL: it is none of ours. */
static char *note_hex(const char *path)
{
	AUTO(mem_freep) char *beside = mem_fmt("%s.sha256", path);
	AUTO(mem_freep) char *mark = mem_fmt("  %s\n# ", strrchr(path, '/') + 1);
	AUTO(buf_done) struct buf b = BUF(8 * KIB);
	if (file_read_regular(beside, &b) < 0 || b.len < 64)
		return NULL;
	struct view hex = view_cut(buf_view(&b), 64);
	bool ours = want_is_hex(hex, 64) && view_starts(view_from(buf_view(&b), 64), view_str(mark));
	return ours ? mem_viewdup(hex) : NULL;
}

char *want_changed(const char *path, const char *sha256)
{
	AUTO(mem_freep) char *was = note_hex(path);
	if (!was || strcmp(was, sha256) == 0)
		return NULL;
	return mem_fmt("%s is another file than the one that was fetched: its SHA-256 was %s and is %s", path,
		was, sha256);
}

void model_note_drop(const char *path)
{
	AUTO(mem_freep) char *ours = note_hex(path);
	if (ours)
		want_note_drop(path);
}

void want_note_drop(const char *path)
{
	AUTO(mem_freep) char *beside = mem_fmt("%s.sha256", path);
	(void)unlink(beside);
}

void want_sweep(const char *prefix, const char *suffix)
{
	const char *name = strrchr(prefix, '/') + 1;
	AUTO(mem_freep) char *dir = mem_viewdup(view_of(prefix, (size_t)(name - prefix)));
	DIR *d = opendir(dir);
	for (struct dirent *e; d && (e = readdir(d));) {
		struct view v = view_str(e->d_name);
		uint64_t pid;
		if (!view_starts(v, view_str(name)))
			continue;
		v = view_from(v, strlen(name));
		if (!view_ends(v, view_str(suffix)))
			continue;
		if (num_u64(view_cut(v, v.n - strlen(suffix)), &pid) || !pid || pid > INT_MAX ||
			kill((pid_t)pid, 0) == 0 || errno != ESRCH)
			continue;
		(void)unlinkat(dirfd(d), e->d_name, 0);
	}
	if (d)
		closedir(d);
}

void want_fetched(const char *path)
{
	AUTO(mem_freep) char *part = mem_fmt("%s.part", path);
	AUTO(mem_freep) char *notes = mem_fmt("%s.part.json", path);
	if (access(path, F_OK) == 0 && access(part, F_OK) < 0)
		(void)unlink(notes);
}

int want_write(const char *path, struct view text, mode_t mode, bool sync)
{
	AUTO(mem_freep) char *prefix = mem_fmt("%s.", path);
	want_sweep(prefix, ".tmp");
	return file_write_atomic(path, text, mode, sync);
}

int want_note(const char *path, const char *sha256)
{
	AUTO(mem_freep) char *beside = mem_fmt("%s.sha256", path);
	AUTO(mem_freep) char *text = note_of(path, view_str(sha256));
	return text ? want_write(beside, view_str(text), 0644, true) : -ENOENT;
}

/* ---- files of others ------------------------------------------------------------------------------------
 */

/* Nothing is written beside what is not ours: <state_dir>/verified/ has one file for each, which counts while
 * the file is the same one. */
static char *verified_path(const char *state_dir, const char *path)
{
	AUTO(mem_freep) char *hex = want_sha256_hex(view_str(path));
	return hex ? mem_fmt("%s/verified/%.32s", state_dir, hex) : NULL;
}

char *want_verified(const char *state_dir, const char *path)
{
	AUTO(mem_freep) char *kept = state_dir ? verified_path(state_dir, path) : NULL;
	AUTO(mem_freep) char *now = state_of(path);
	AUTO(buf_done) struct buf b = BUF(256);
	if (!kept || !now || file_read_regular(kept, &b) < 0 || b.len < 64)
		return NULL;
	struct view hex = view_cut(buf_view(&b), 64);
	return want_is_hex(hex, 64) && view_eqs(view_from(buf_view(&b), 64), now) ? mem_viewdup(hex) : NULL;
}

int want_verify(const char *state_dir, const char *path, const char *sha256)
{
	AUTO(mem_freep) char *kept = state_dir ? verified_path(state_dir, path) : NULL;
	AUTO(mem_freep) char *now = state_of(path);
	if (!kept || !now)
		return -ENOENT;
	AUTO(mem_freep) char *dir = path_join(state_dir, "verified");
	AUTO(mem_freep) char *text = mem_fmt("%.64s%s", sha256, now);
	int r = dir_make(dir, 0700);
	return r ? r : want_write(kept, view_str(text), 0600, false);
}
