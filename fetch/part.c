/* SPDX-License-Identifier: Apache-2.0 */
#include "part.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <yyjson.h>

#include "base/fd.h"
#include "base/mem.h"
#include "disk.h"

enum { FORMAT = 1 };

static void boot_id(char ret[64])
{
	AUTO(buf_done) struct buf b = BUF(256);
	ret[0] = '\0';
	if (file_read("/proc/sys/kernel/random/boot_id", &b))
		return;
	size_t n = MIN(strcspn(buf_str(&b), "\n"), (size_t)63);
	memcpy(ret, buf_str(&b), n);
	ret[n] = '\0';
}

void part_init(struct part *p, const char *to)
{
	*p = (struct part){ .fd = -1, .json_fd = -1 };
	boot_id(p->boot);
	p->path = mem_fmt("%s.part", to);
	p->json_path = mem_fmt("%s.part.json", to);
	p->folder = folder_of(to);
	sha_begin(&p->durable.sha);
}

void part_done(struct part *p)
{
	fd_close(fd_take(&p->fd));
	fd_close(fd_take(&p->json_fd));
	free(p->path);
	free(p->json_path);
	free(p->folder);
	*p = (struct part){ .fd = -1, .json_fd = -1 };
}

static bool still_there(const struct part *p)
{
	struct stat ours, there;
	return fstat(p->fd, &ours) == 0 && lstat(p->path, &there) == 0 && ours.st_dev == there.st_dev &&
	       ours.st_ino == there.st_ino;
}

int part_lock(struct part *p)
{
	for (;;) {
		fd_close(fd_take(&p->fd));
		p->fd = open(p->path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
		if (p->fd < 0)
			return -errno;
		if (flock(p->fd, LOCK_EX | LOCK_NB) < 0)
			return -errno;
		if (still_there(p))
			break;
	}
	p->ours = true;
	p->json_fd = open(p->json_path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	return p->json_fd < 0 ? -errno : 0;
}

void part_remove(struct part *p)
{
	if (!p->ours || p->fd < 0 || !still_there(p))
		return;
	unlink(p->json_path);
	unlink(p->path);
}

/* ---- what is written down ----------------------------------------------------------------------------- */

static int load_state(yyjson_val *o, uint64_t most, struct part_state *ret)
{
	yyjson_val *hashed = yyjson_obj_get(o, "hashed"), *text = yyjson_obj_get(o, "state");
	yyjson_val *spans = yyjson_obj_get(o, "have"), *span;
	size_t i, n;
	*ret = (struct part_state){ 0 };
	if (!yyjson_is_uint(hashed) || !yyjson_is_str(text) || yyjson_arr_size(spans) > PART_SPANS_MAX ||
		sha_load(&ret->sha, yyjson_get_uint(hashed), view_str(yyjson_get_str(text))))
		return -ENOENT;
	uint64_t end = ret->sha.bytes;
	yyjson_arr_foreach(spans, i, n, span)
	{
		struct span s = { yyjson_get_uint(yyjson_arr_get(span, 0)),
			yyjson_get_uint(yyjson_arr_get(span, 1)) };
		if (s.from < end || s.to <= s.from)
			return -ENOENT;
		ret->spans[ret->nspans++] = s;
		end = s.to;
	}
	return end <= most ? 0 : -ENOENT;
}

static void take_text(char *to, size_t cap, yyjson_val *v)
{
	const char *text = yyjson_is_str(v) ? yyjson_get_str(v) : "";
	size_t n = strlen(text) < cap ? strlen(text) : 0;
	memcpy(to, text, n);
	to[n] = '\0';
}

int part_load(struct part *p, struct part_facts *facts, struct part_state *state)
{
	struct stat st;
	char text[PART_JSON_BYTES], theirs[64];
	ssize_t n = pread(p->json_fd, text, sizeof text, 0);
	if (n <= 0 || fstat(p->fd, &st) < 0)
		return -ENOENT;
	yyjson_doc *doc = yyjson_read(text, (size_t)n, 0);
	yyjson_val *root = yyjson_doc_get_root(doc);
	int r = -ENOENT;
	if (yyjson_get_uint(yyjson_obj_get(root, "format")) == FORMAT) {
		yyjson_val *size = yyjson_obj_get(root, "size");
		facts->size = yyjson_is_uint(size) ? yyjson_get_uint(size) : UINT64_MAX;
		take_text(facts->sha256, sizeof facts->sha256, yyjson_obj_get(root, "sha256"));
		take_text(facts->validator, sizeof facts->validator, yyjson_obj_get(root, "validator"));
		take_text(theirs, sizeof theirs, yyjson_obj_get(root, "boot"));
		bool same = p->boot[0] && strcmp(p->boot, theirs) == 0;
		r = load_state(yyjson_obj_get(root, "durable"), (uint64_t)st.st_size, &p->durable);
		if (!r)
			*state = p->durable;
		if (same)
			r = load_state(yyjson_obj_get(root, "live"), (uint64_t)st.st_size, state);
	}
	yyjson_doc_free(doc);
	return r;
}

static int add_state(struct buf *b, const char *name, const struct part_state *s)
{
	char text[SHA_STATE_MAX + 1];
	sha_save(&s->sha, text);
	int e = buf_addf(b, ",\n\"%s\":{\"hashed\":%llu,\"state\":\"%s\",\"have\":[", name,
		(unsigned long long)s->sha.bytes, text);
	for (size_t i = 0; i < s->nspans && !e; i++)
		e = buf_addf(b, "%s[%llu,%llu]", i ? "," : "", (unsigned long long)s->spans[i].from,
			(unsigned long long)s->spans[i].to);
	return e ? e : buf_adds(b, "]}");
}

int part_save(struct part *p, const struct part_facts *facts, const struct part_state *state, bool durable)
{
	AUTO(buf_done) struct buf b = BUF(PART_JSON_BYTES + 1);
	if (durable) {
		if (fdatasync(p->fd) < 0)
			return -errno;
		p->durable = *state;
	}
	int e = buf_addf(&b, "{\"format\":%d,\"boot\":\"%s\",\"sha256\":\"%s\",\"validator\":", FORMAT,
		p->boot, facts->sha256);
	e = e || buf_add_json(&b, view_str(facts->validator));
	if (facts->size != UINT64_MAX)
		e = e || buf_addf(&b, ",\"size\":%llu", (unsigned long long)facts->size);
	e = e || add_state(&b, "live", state) || add_state(&b, "durable", &p->durable) || buf_adds(&b, "}");
	if (e || b.len > PART_JSON_BYTES)
		return -EOVERFLOW;
	while (b.len < PART_JSON_BYTES)
		(void)buf_addc(&b, b.len + 1 == PART_JSON_BYTES ? '\n' : ' ');
	ssize_t n = pwrite(p->json_fd, b.data, b.len, 0);
	if (n != PART_JSON_BYTES)
		return n < 0 ? -errno : -ENOSPC;
	return durable && fdatasync(p->json_fd) < 0 ? -errno : 0;
}

int part_finish(struct part *p, const char *to, unsigned mode)
{
	if (fchmod(p->fd, mode ? mode : 0644) < 0 || fsync(p->fd) < 0)
		return -errno;
	if (rename(p->path, to) < 0)
		return -errno;
	unlink(p->json_path);
	return folder_sync(p->folder);
}
