/* SPDX-License-Identifier: Apache-2.0
 *
 * The headers of what is to come, before the rest: what a model needs in memory stands there, and whoever
 * asked for it may find that no device holds it. The bytes are the first ones of the parts that the rest is
 * fetched into, so that none comes twice. Whatever goes wrong with them but the network: all is fetched.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/fd.h"
#include "gguf/gguf.h"
#include "provision/model/want_job_int.h"

#define HEAD_WORTH (64 * MIB) /* a smaller model has come before anybody has looked at its header */
#define HEAD_FIRST (4 * MIB)  /* of a file that holds the vocabulary */
#define HEAD_OTHER (1 * MIB)  /* of the parts behind the first */
#define HEAD_MAX (256 * MIB)  /* as gguf.h bounds it */
enum { HEAD_GROWS = 4, HEAD_PARTS_MAX = 256 };

struct want_head {
	const struct want_file *file;
	uint64_t ask, size;
	char *bytes; /* the header; NULL: not all of it is here */
	size_t n;
};

void want_head_done(struct model_job *j)
{
	for (size_t i = 0; i < j->nheads; i++)
		free(j->heads[i].bytes);
	free(j->heads);
	j->heads = NULL;
	j->nheads = 0;
}

/* As corral-fetch does it: what another process works on is let be. */
void want_head_drop(struct model_job *j)
{
	for (size_t i = 0; j->head_fresh && i < j->items[0].nfetch; i++) {
		const struct want_file *f = &j->items[0].fetch[i];
		AUTO(mem_freep) char *part = mem_fmt("%s.part", f->to), *json = mem_fmt("%s.json", part);
		AUTO(fd_closep) int fd = open(part, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
		if (f->role != WANT_WEIGHTS || fd < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0)
			continue;
		unlink(json);
		unlink(part);
	}
}

/* ---- reading ------------------------------------------------------------------------------------------- */

static char *read_part(const struct want_head *h, size_t n)
{
	AUTO(mem_freep) char *path = mem_fmt("%s.part", h->file->to);
	AUTO(fd_closep) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return NULL;
	AUTO(mem_freep) char *bytes = mem_alloc(n);
	for (size_t at = 0; at < n;) {
		ssize_t k = pread(fd, bytes + at, n - at, (off_t)at);
		if (k < 0 && errno == EINTR)
			continue;
		if (k <= 0)
			return NULL;
		at += (size_t)k;
	}
	return MEM_TAKE(bytes);
}

/* 0: it is here, or more has to be asked for; else it is none that can be read. */
static int look(struct want_head *h)
{
	AUTO(gguf_freep) struct gguf *g = NULL;
	size_t n = (size_t)MIN(h->ask, h->size);
	AUTO(mem_freep) char *bytes = n ? read_part(h, n) : NULL;
	if (!bytes)
		return -ENOENT;
	int r = gguf_parse(
		h->file->said ? h->file->said : h->file->url, view_of(bytes, n), h->size, &g, NULL);
	if (r == -ENODATA && n < MIN(h->size, HEAD_MAX)) {
		h->ask *= HEAD_GROWS;
		return 0;
	}
	if (r)
		return r;
	h->n = (size_t)MIN(gguf_header_bytes(g), (uint64_t)n);
	h->bytes = MEM_TAKE(bytes);
	return 0;
}

/* ---- telling ------------------------------------------------------------------------------------------- */

/* Files of the right names and sizes with nothing in them but the headers: the rest is a hole. */
static char *shell_path(const struct model_job *j, size_t i)
{
	if (j->nheads == 1)
		return mem_fmt("%s/header.gguf", j->o.state_dir);
	return mem_fmt("%s/header-%05zu-of-%05zu.gguf", j->o.state_dir, i + 1, j->nheads);
}

static int shell_write(const char *path, const struct want_head *h)
{
	AUTO(fd_closep) int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return -errno;
	int r = fd_write_all(fd, h->bytes, h->n);
	return r ? r : ftruncate(fd, (off_t)h->size) < 0 ? -errno : 0;
}

/* True: the rest may be fetched at once. */
static bool tell(struct model_job *j)
{
	int r = 0;
	uint64_t bytes = 0;
	for (size_t i = 0; i < j->nheads && !r; i++) {
		AUTO(mem_freep) char *path = shell_path(j, i);
		r = shell_write(path, &j->heads[i]);
		bytes += j->heads[i].size;
	}
	AUTO(mem_freep) char *first = shell_path(j, 0);
	bool go = r || j->ops.on_header(j->arg, first, bytes);
	for (size_t i = 0; i < j->nheads; i++) {
		AUTO(mem_freep) char *path = shell_path(j, i);
		unlink(path);
	}
	return go;
}

/* ---- asking -------------------------------------------------------------------------------------------- */

static void ask(struct model_job *j);

static void on_heads(void *arg, const struct fetch_result *res, enum fetch_why why, const struct err *err)
{
	struct model_job *j = arg;
	bool all = true, bad = false;
	size_t k = 0;
	j->fetch = NULL;
	if (why != FETCH_OK) {
		want_head_done(j);
		want_files_failed(j, why, err);
		return;
	}
	for (size_t i = 0; i < j->nheads && k < res->nfiles; i++) {
		struct want_head *h = &j->heads[i];
		if (h->bytes)
			continue;
		const struct fetch_found *f = &res->files[k++];
		j->fetched += f->bytes_fetched;
		h->size = f->size;
		bad = bad || f->was_there || look(h);
		all = all && h->bytes;
	}
	if (!bad && !all) {
		ask(j);
		return;
	}
	bool go = bad || tell(j);
	want_head_done(j);
	if (go)
		want_rest(j);
}

static void ask(struct model_job *j)
{
	AUTO(mem_freep) struct fetch_file *files = mem_alloc(j->nheads * sizeof *files);
	size_t n = 0;
	for (size_t i = 0; i < j->nheads; i++) {
		const struct want_file *f = j->heads[i].file;
		if (j->heads[i].bytes)
			continue;
		files[n++] = (struct fetch_file){ .urls = { (char **)(uintptr_t)&f->url, 1 },
			.headers = f->headers,
			.to = f->to,
			.size = f->size,
			.sha256 = f->sha256,
			.head = MIN(j->heads[i].ask, HEAD_MAX) };
	}
	struct fetch_request q = { .op = FETCH_FILES,
		.files = files,
		.nfiles = n,
		.parallel = j->o.parallel,
		.rate = j->o.rate,
		.headroom = j->o.headroom,
		.room = j->room,
		.policy = j->o.policy };
	static const struct fetch_ops ops = { .on_progress = want_files_progress, .on_done = on_heads };
	struct err e = { 0 };
	if (fetch_start(j->loop, j->o.fetch_program, &q, &ops, j, &j->fetch, &e)) {
		want_head_done(j);
		want_fail(j, FETCH_CRASHED, &e);
	}
}

bool want_head(struct model_job *j)
{
	struct want_item *it = &j->items[0];
	uint64_t sum = 0;
	bool here = false, untold = false;
	if (j->headed || !j->ops.on_header || !j->o.state_dir || j->o.want != MODEL_GGUF || !j->n ||
		it->role != WANT_WEIGHTS || it->present || it->nfetch > HEAD_PARTS_MAX)
		return false;
	j->headed = j->head_fresh = true; /* once, also when everything is asked for anew */
	j->heads = mem_alloc((it->nfetch + 1) * sizeof *j->heads);
	for (size_t i = 0; i < it->nfetch; i++) {
		const struct want_file *f = &it->fetch[i];
		if (f->role != WANT_WEIGHTS)
			continue;
		j->heads[j->nheads] =
			(struct want_head){ .file = f, .ask = j->nheads ? HEAD_OTHER : HEAD_FIRST };
		j->nheads++;
		here |= f->here;
		AUTO(mem_freep) char *part = mem_fmt("%s.part", f->to);
		j->head_fresh &= !file_exists(part);
		untold |= !f->size;
		if (__builtin_add_overflow(sum, f->size, &sum))
			sum = UINT64_MAX;
	}
	if (!j->nheads || here || (!untold && sum < HEAD_WORTH)) {
		want_head_done(j);
		j->head_fresh = false;
		return false;
	}
	ask(j);
	return true;
}
