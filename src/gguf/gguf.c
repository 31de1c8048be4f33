/* SPDX-License-Identifier: Apache-2.0
 *
 * Opening and the bytes: the header is read in growing steps, so that memory follows what the file holds and
 * not what it claims. pread and no mmap: a file that is cut while it is mapped would end the process.
 */
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/num.h"
#include "gguf/gguf_int.h"

static int grow(struct gguf *g, size_t to, struct err *reterr)
{
	char *p = realloc(g->data, to);
	if (!p)
		return err_set(reterr, -ENOMEM, "%s: no memory for its header (%zu bytes)", g->path, to);
	g->data = p;
	g->cap = to;
	return 0;
}

int gguf_need(struct gguf *g, uint64_t end, const char *what, struct err *reterr)
{
	if (end <= g->n)
		return 0;
	if (end > g->file_size)
		return err_set(reterr, -EBADMSG,
			"%s is cut short: the file ends at byte %llu, within %s; fetch it again", g->path,
			(unsigned long long)g->file_size, what);
	if (end > GGUF_HEADER_MAX)
		return err_set(reterr, -EFBIG,
			"%s: its header is larger than 256 MiB (in %s); that is no model we can read",
			g->path, what);
	if (g->fd < 0)
		return err_set(reterr, -ENODATA,
			"%s: its header goes on behind the %zu bytes that are there, within %s", g->path,
			g->n, what);
	size_t to = MIN((size_t)GGUF_HEADER_MAX, MAX((size_t)end, MAX(2 * g->n, (size_t)(256 * KIB))));
	to = (size_t)MIN((uint64_t)to, g->file_size);
	if (to > g->cap) {
		int e = grow(g, to, reterr);
		if (e < 0)
			return e;
	}
	while (g->n < to) {
		ssize_t k = pread(g->fd, g->data + g->n, to - g->n, (off_t)g->n);
		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0)
			return err_set(reterr, -errno, "read %s: %s", g->path, strerror(errno));
		if (k == 0)
			return err_set(reterr, -EBADMSG, "%s became shorter while it was read", g->path);
		g->n += (size_t)k;
	}
	return 0;
}

struct gguf *gguf_free(struct gguf *g)
{
	if (!g)
		return NULL;
	free(g->data);
	free(g->keys);
	free(g->tensors);
	free(g->tensor_names);
	free(g);
	return NULL;
}

static int finish(struct gguf *g, struct gguf **ret, struct err *reterr)
{
	int e = gguf_header_read(g, reterr);
	g->fd = -1; /* the caller's */
	g->path = NULL;
	if (e < 0) {
		gguf_free(g);
		return e;
	}
	*ret = g;
	return 0;
}

int gguf_open(const char *path, struct gguf **ret, struct err *reterr)
{
	struct stat st;
	/* O_NONBLOCK: a FIFO of that name must not hang us. */
	AUTO(fd_closep) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return err_set(reterr, -errno, "open model %s: %s", path, strerror(errno));
	if (fstat(fd, &st) < 0)
		return err_set(reterr, -errno, "stat %s: %s", path, strerror(errno));
	if (!S_ISREG(st.st_mode))
		return err_set(reterr, S_ISDIR(st.st_mode) ? -EISDIR : -EINVAL,
			"%s is %s, not a model file; name a .gguf file", path,
			S_ISDIR(st.st_mode) ? "a folder" : "no file");
	struct gguf *g = NEW(struct gguf);
	g->fd = fd;
	g->path = path;
	g->file_size = (uint64_t)st.st_size;
	return finish(g, ret, reterr);
}

int gguf_parse(const char *name, struct view bytes, uint64_t file_size, struct gguf **ret, struct err *reterr)
{
	struct gguf *g = NEW(struct gguf);
	g->fd = -1;
	g->path = name;
	g->file_size = MAX(file_size, (uint64_t)bytes.n);
	int e = bytes.n ? grow(g, bytes.n, reterr) : 0;
	if (e < 0) {
		gguf_free(g);
		return e;
	}
	if (bytes.n)
		memcpy(g->data, bytes.p, bytes.n);
	g->n = bytes.n;
	return finish(g, ret, reterr);
}
