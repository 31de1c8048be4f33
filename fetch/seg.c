/* SPDX-License-Identifier: Apache-2.0
 *
 * The pieces of a file: what came of them, in memory, on the disk, in the digest.
 */
#include <stdlib.h>
#include <unistd.h>

#include "base/mem.h"
#include "files_int.h"

struct seg *seg_add(struct file *f, uint64_t from, uint64_t at, uint64_t to)
{
	assert(f->nsegs < SEGS_MAX);
	struct seg *s = NEW(struct seg);
	s->file = f;
	s->from = from;
	s->at = s->flushed = s->mem_from = at;
	s->to = to;
	f->segs[f->nsegs++] = s;
	f->next = to;
	return s;
}

static void drop_memory(struct seg *s)
{
	s->file->all->memory -= s->mem_cap;
	free(s->mem);
	s->mem = NULL;
	s->mem_cap = 0;
	s->mem_from = s->at;
}

static void seg_free(struct seg *s)
{
	xfer_cancel(&s->x);
	drop_memory(s);
	free(s);
}

void segs_drop(struct file *f, size_t keep)
{
	while (f->nsegs > keep)
		seg_free(f->segs[--f->nsegs]);
	f->next = f->nsegs ? f->segs[f->nsegs - 1]->to : f->sha.bytes;
}

static int make_room(struct seg *s, size_t n)
{
	size_t used = s->at - s->mem_from;
	if (used + n <= s->mem_cap)
		return 0;
	size_t cap = MAX(s->mem_cap * 2, (size_t)(256 * KIB));
	if (s->to != SIZE_UNKNOWN)
		cap = MIN(cap, s->to - s->mem_from);
	cap = MAX(cap, used + n);
	if (cap > CHUNK_MAX + FLUSH_BYTES) {
		/* more than a piece: it is on the disk, and read from there when its turn comes */
		int r = seg_flush(s);
		if (r)
			return r;
		s->mem_from = s->at;
		return n <= s->mem_cap ? 0 : -ENOMEM;
	}
	char *p = realloc(s->mem, cap);
	if (!p)
		return -ENOMEM;
	s->file->all->memory += cap - s->mem_cap;
	s->mem = p;
	s->mem_cap = cap;
	return 0;
}

int seg_flush(struct seg *s)
{
	while (s->flushed < s->at) {
		ssize_t n = pwrite(s->file->part.fd, s->mem + (s->flushed - s->mem_from), s->at - s->flushed,
			(off_t)s->flushed);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -ENOSPC;
		s->flushed += (uint64_t)n;
		s->file->undurable += (uint64_t)n;
	}
	return 0;
}

/* ---- the digest --------------------------------------------------------------------------------------- */

/* What an earlier process fetched ahead, or what did not fit into memory. */
static int hash_from_disk(struct file *f, uint64_t to)
{
	AUTO(mem_freep) char *piece = mem_alloc(1 * MIB);
	while (f->sha.bytes < to) {
		size_t want = (size_t)MIN(to - f->sha.bytes, 1 * MIB);
		ssize_t n = pread(f->part.fd, piece, want, (off_t)f->sha.bytes);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -EIO;
		sha_add(&f->sha, piece, (size_t)n);
	}
	return 0;
}

static int hash_seg(struct file *f, struct seg *s)
{
	if (f->sha.bytes < s->mem_from) {
		int r = hash_from_disk(f, MIN(s->mem_from, s->flushed));
		if (r)
			return r;
	}
	if (f->sha.bytes >= s->mem_from && f->sha.bytes < s->flushed)
		sha_add(&f->sha, s->mem + (f->sha.bytes - s->mem_from), s->flushed - f->sha.bytes);
	if (f->sha.bytes == s->at)
		s->mem_from = s->at; /* its memory is used again */
	return 0;
}

static int hash_on(struct file *f)
{
	while (f->nsegs) {
		struct seg *s = f->segs[0];
		int r = hash_seg(f, s);
		if (r)
			return r;
		if (s->at < s->to || f->sha.bytes < s->to || s->x)
			return 0;
		seg_free(s);
		memmove(f->segs, f->segs + 1, --f->nsegs * sizeof *f->segs);
	}
	return 0;
}

static void state_of(const struct file *f, struct part_state *ret)
{
	*ret = (struct part_state){ .sha = f->sha };
	for (size_t i = 0; i < f->nsegs; i++) {
		const struct seg *s = f->segs[i];
		struct span v = { MAX(s->from, f->sha.bytes), s->flushed };
		if (v.to > v.from)
			ret->spans[ret->nspans++] = v;
	}
}

/* Written down before the digest goes on: what a kill takes away is fetched again, what it is not yet in the
 * digest is read once. */
static int note(struct file *f)
{
	struct part_state state;
	bool durable = f->undurable >= DURABLE_BYTES;
	state_of(f, &state);
	if (durable)
		f->undurable = 0;
	return part_save(&f->part, &f->facts, &state, durable);
}

int seg_take(struct seg *s, const char *p, size_t n)
{
	struct file *f = s->file;
	int r = make_room(s, n);
	if (r)
		return r;
	memcpy(s->mem + (s->at - s->mem_from), p, n);
	s->at += n;
	s->moved = true;
	f->dirty = true;
	f->found->bytes_fetched += n;
	if (s->at - s->flushed < FLUSH_BYTES)
		return 0;
	r = seg_flush(s);
	if (!r)
		r = note(f);
	return r || s != f->segs[0] ? r : hash_seg(f, s);
}

int file_flush(struct file *f)
{
	int r = 0;
	if (!f->dirty)
		return 0;
	for (size_t i = 0; i < f->nsegs && !r; i++)
		r = seg_flush(f->segs[i]);
	if (!r)
		r = note(f);
	if (!r)
		r = hash_on(f);
	f->dirty = false;
	return r;
}

bool file_is_whole(const struct file *f)
{
	return f->facts.size != SIZE_UNKNOWN && f->sha.bytes == f->facts.size;
}

bool file_is_headed(const struct file *f)
{
	bool running = false;
	if ((f->facts.size == SIZE_UNKNOWN && !f->plain) || f->sha.bytes < MIN(f->job->head, f->facts.size))
		return false;
	for (size_t i = 0; i < f->nsegs; i++)
		running |= f->segs[i]->x != NULL;
	return f->plain || !running; /* without ranges the whole would come */
}

/* ---- what to ask for ---------------------------------------------------------------------------------- */

static struct seg *next_chunk(struct file *f)
{
	struct files *g = f->all;
	uint64_t size = f->facts.size;
	bool ahead = f->nsegs > 0;
	if (size == SIZE_UNKNOWN && ahead)
		return NULL;
	if (f->job->head)
		size = MIN(size, f->job->head); /* also of one that may turn out to be shorter */
	if (f->next >= size || f->nsegs >= MIN((size_t)SEGS_NEW_MAX, 2 * (size_t)g->job->parallel + 1))
		return NULL;
	if (ahead && g->memory + f->chunk > WINDOW_BYTES)
		return NULL;
	uint64_t to = f->plain               ? size
		      : size == SIZE_UNKNOWN ? f->next + f->chunk
					     : MIN(size, f->next + f->chunk);
	return seg_add(f, f->next, f->next, to);
}

struct seg *file_want(struct file *f)
{
	unsigned running = 0;
	struct seg *found = NULL;
	for (size_t i = 0; i < f->nsegs; i++) {
		struct seg *s = f->segs[i];
		running += s->x != NULL;
		if (!found && !s->x && s->at < s->to && (!f->job->head || s->from < f->job->head))
			found = s;
	}
	if (running && (!f->probed || f->plain || running >= f->width))
		return NULL;
	return found ? found : next_chunk(f);
}
