/* SPDX-License-Identifier: Apache-2.0
 *
 * The hub's cache as its own client writes it, so that it, llama-server, vLLM and we share one:
 *
 *   models--<org>--<repo>/blobs/<etag>             the bytes; etag is the SHA-256, of small files git's SHA-1
 *   models--<org>--<repo>/snapshots/<commit>/NAME  a relative link to the blob
 *   models--<org>--<repo>/refs/<revision>          the commit, without a line end
 *   .locks/models--<org>--<repo>/<etag>.lock       flock, held while the blob comes
 */
#include <dirent.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "provision/model/want_int.h"

enum { DEPTH_MAX = 8, SNAPSHOTS_MAX = 64 };

char *want_cache_root(const struct model_ensure_opts *o)
{
	return o->roots && o->roots->hub.len ? mem_strdup(o->roots->hub.items[0]) : NULL;
}

char *want_cache_repo(const char *root, const char *repo)
{
	const char *slash = strchr(repo, '/');
	return mem_fmt("%s/models--%.*s--%s", root, (int)(slash - repo), repo, slash + 1);
}

/* ---- reading ------------------------------------------------------------------------------------------- */

static void list_dir(const char *dir, const char *prefix, unsigned depth, struct want_names *ret)
{
	DIR *d = opendir(dir);
	for (struct dirent *e; d && ret->n < WANT_NAMES_MAX && (e = readdir(d));) {
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		AUTO(mem_freep) char *path = path_join(dir, e->d_name);
		AUTO(mem_freep) char *name = mem_fmt("%s%s%s", prefix, *prefix ? "/" : "", e->d_name);
		struct stat st;
		if (stat(path, &st) < 0) /* a link to a blob that is not there (yet) */
			continue;
		if (S_ISDIR(st.st_mode) && depth > 1)
			list_dir(path, name, depth - 1, ret);
		else if (S_ISREG(st.st_mode))
			want_names_add(ret, name, (uint64_t)st.st_size);
	}
	if (d)
		closedir(d);
}

void want_list_tree(const char *dir, struct want_names *ret)
{
	list_dir(dir, "", DEPTH_MAX, ret);
	want_names_sort(ret);
}

static char *commit_of(const char *repo_dir, const char *revision)
{
	AUTO(mem_freep) char *path = mem_fmt("%s/refs/%s", repo_dir, revision);
	AUTO(buf_done) struct buf b = BUF(256);
	if (file_read_regular(path, &b) < 0)
		return NULL;
	struct view v = buf_view(&b);
	while (v.n && strchr(" \r\n", v.p[v.n - 1]))
		v.n--;
	return v.n && !memchr(v.p, '/', v.n) && v.p[0] != '.' ? mem_viewdup(v) : NULL;
}

struct aged {
	char *name;
	struct timespec at;
};

static int newest(const void *pa, const void *pb)
{
	const struct aged *a = pa, *b = pb;
	if (a->at.tv_sec != b->at.tv_sec)
		return a->at.tv_sec > b->at.tv_sec ? -1 : 1;
	if (a->at.tv_nsec != b->at.tv_nsec)
		return a->at.tv_nsec > b->at.tv_nsec ? -1 : 1;
	return strcmp(a->name, b->name);
}

void want_snapshots(const char *repo_dir, const char *revision, struct strv *ret)
{
	AUTO(mem_freep) char *commit = commit_of(repo_dir, revision ? revision : "main");
	AUTO(mem_freep) char *dir = path_join(repo_dir, "snapshots");
	struct aged all[SNAPSHOTS_MAX];
	size_t n = 0;
	if (commit)
		strv_addf(ret, "%s/%s", dir, commit);
	if (revision && want_is_hex(view_str(revision), 40) && !commit)
		strv_addf(ret, "%s/%s", dir, revision);
	if (revision)
		return;
	DIR *d = opendir(dir);
	for (struct dirent *e; d && n < SNAPSHOTS_MAX && (e = readdir(d));) {
		AUTO(mem_freep) char *path = path_join(dir, e->d_name);
		struct stat st;
		if (e->d_name[0] != '.' && stat(path, &st) == 0 && S_ISDIR(st.st_mode))
			all[n++] = (struct aged){ MEM_TAKE(path), st.st_mtim };
	}
	if (d)
		closedir(d);
	if (n)
		qsort(all, n, sizeof *all, newest);
	for (size_t i = 0; i < n; i++) {
		if (!strv_has(ret, all[i].name))
			strv_add(ret, all[i].name);
		free(all[i].name);
	}
}

/* ---- writing ------------------------------------------------------------------------------------------- */

static char *dir_of(const char *path)
{
	const char *slash = strrchr(path, '/');
	return mem_viewdup(view_of(path, (size_t)(slash - path)));
}

/* "../../blobs/X" for …/repo/snapshots/C/name and …/repo/blobs/X. */
static char *relative(const char *blob, const char *link)
{
	size_t same = 0;
	for (size_t i = 0; blob[i] && blob[i] == link[i]; i++)
		same = blob[i] == '/' ? i + 1 : same;
	AUTO(buf_done) struct buf b = BUF(8 * KIB);
	for (const char *p = link + same; (p = strchr(p, '/')); p++)
		(void)buf_adds(&b, "../");
	(void)buf_adds(&b, blob + same);
	return buf_take(&b);
}

int want_link(const char *blob, const char *link, struct err *reterr)
{
	AUTO(mem_freep) char *to = relative(blob, link);
	AUTO(mem_freep) char *dir = dir_of(link);
	/* Of this link: two of a snapshot may be made at once, by processes of one number in two namespaces.
	 */
	AUTO(mem_freep) char *prefix = mem_fmt("%s/.%s.", dir, strrchr(link, '/') + 1);
	AUTO(mem_freep) char *beside = mem_fmt("%s%d.new", prefix, (int)getpid());
	char now[4096];
	ssize_t n = readlink(link, now, sizeof now);
	want_sweep(prefix, ".new");
	if (n > 0 && (size_t)n < sizeof now && view_eqs(view_of(now, (size_t)n), to))
		return 0;
	int r = dir_make(dir, 0755);
	(void)unlink(beside);
	if (!r && (symlink(to, beside) < 0 || rename(beside, link) < 0))
		r = -errno;
	if (r) {
		(void)unlink(beside);
		return err_set(reterr, r, "%s cannot be made (a link to %s): %s", link, to, strerror(-r));
	}
	return 0;
}

int want_lock(const char *path, int *ret_fd, struct err *reterr)
{
	AUTO(mem_freep) char *dir = dir_of(path);
	int r = dir_make(dir, 0755);
	for (int again = 0; !r && again < 3; again++) {
		AUTO(fd_closep) int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0664);
		if (fd < 0) {
			r = -errno;
		} else if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
			return errno == EWOULDBLOCK ? -EAGAIN
						    : err_set(reterr, -errno, "%s cannot be locked: %s", path,
							      strerror(errno));
		} else if (fd_is_at(fd, path)) {
			*ret_fd = fd_take(&fd);
			return 0;
		}
	}
	return r ? err_set(reterr, r,
			   "%s cannot be made: %s; the hub's cache has to be writable (or HF_HUB_CACHE "
			   "names another folder)",
			   path, strerror(-r))
		 : -EAGAIN;
}

/* Files the hub keeps in git itself have no SHA-256 there, but git's own name: SHA-1 of "blob N\0" and the
 * bytes. */
int want_git_check(const char *path, const char *git_oid, struct err *reterr)
{
	AUTO(fd_closep) int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	if (fd < 0 || fstat(fd, &st) < 0 || st.st_size > WANT_SMALL_MAX)
		return err_set(reterr, -EIO, "%s cannot be looked at: %s", path,
			fd < 0 ? strerror(errno) : "larger than what git keeps");
	EVP_MD_CTX *c = EVP_MD_CTX_new();
	AUTO(mem_freep) char *head = mem_fmt("blob %llu", (unsigned long long)st.st_size);
	unsigned char md[EVP_MAX_MD_SIZE];
	char bytes[16 * 1024];
	unsigned len = 0;
	ssize_t n = 0;
	bool ok = c && EVP_DigestInit_ex(c, EVP_sha1(), NULL) && EVP_DigestUpdate(c, head, strlen(head) + 1);
	while (ok && (n = read(fd, bytes, sizeof bytes)) > 0)
		ok = EVP_DigestUpdate(c, bytes, (size_t)n);
	ok = ok && n == 0 && EVP_DigestFinal_ex(c, md, &len) && len == 20;
	EVP_MD_CTX_free(c);
	char hex[41] = { 0 };
	for (unsigned i = 0; ok && i < len; i++)
		snprintf(hex + 2 * i, 3, "%02x", md[i]);
	if (ok && strcmp(hex, git_oid) == 0)
		return 0;
	return err_set(reterr, -EBADMSG, "%s is not what the hub promised: git's digest is %s, not %s", path,
		hex, git_oid);
}
