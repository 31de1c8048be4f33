/* SPDX-License-Identifier: Apache-2.0
 *
 * What servers answer when they are asked for a piece of a file, and what follows from it.
 */
#include <stdlib.h>

#include "base/mem.h"
#include "disk.h"
#include "files_int.h"

/* ---- heads ----------------------------------------------------------------------------------------------
 */

/* What tells that it is still the same file: a strong ETag, else a date. */
static const char *validator_of(const struct xfer_head *h)
{
	const char *v = h->etag && h->etag[0] == '"' ? h->etag : h->modified;
	if (!v || strlen(v) > PART_VALIDATOR_MAX)
		return "";
	for (const char *c = v; *c; c++) {
		if (*c < ' ' || *c > '~')
			return "";
	}
	return v;
}

static int changed(struct file *f, const struct xfer_head *h, struct fail *why)
{
	const char *v = validator_of(h);
	if (f->sha_known)
		return 0; /* the digest tells better: one file has many ETags where there are many servers */
	if (!f->facts.validator[0] && f->sha.bytes == 0 && f->nsegs == 1 && f->segs[0]->at == 0) {
		memcpy(f->facts.validator, v, strlen(v) + 1);
		return 0;
	}
	if (strcmp(f->facts.validator, v) == 0)
		return 0;
	AUTO(mem_freep) char *shown = url_shown(file_url(f));
	return fail_set(why, WHY_NETWORK, "%.300s changes while it is fetched", shown);
}

static int size_differs(struct seg *s, uint64_t size, struct fail *why)
{
	int r = file_size_told(s->file, size, why);
	if (r && why->why == WHY_DIGEST)
		s->verdict = s->file->job->size ? V_SIZE : V_CHANGED;
	return r;
}

static int partial(struct seg *s, const struct xfer_head *h, struct fail *why)
{
	struct file *f = s->file;
	if (!h->has_range || h->from != s->at || h->to > s->to ||
		(h->total == UINT64_MAX && f->facts.size == SIZE_UNKNOWN)) {
		AUTO(mem_freep) char *shown = url_shown(file_url(f));
		s->verdict = V_PLAIN;
		return fail_set(
			why, WHY_NETWORK, "%.300s answers with other bytes than were asked for", shown);
	}
	if (h->total != UINT64_MAX && size_differs(s, h->total, why))
		return -1;
	if (s->to > f->facts.size) {
		s->to = f->facts.size;
		f->next = f->segs[f->nsegs - 1]->to;
	}
	return 0;
}

/* All of it from the first byte on: what is there already is passed over. */
static int whole(struct seg *s, const struct xfer_head *h, struct fail *why)
{
	struct file *f = s->file;
	if (!f->plain && (f->probed || s != f->segs[0])) {
		s->verdict = V_PLAIN;
		return fail_set(why, WHY_NETWORK, "the server takes no ranges any more");
	}
	if (h->length >= 0 && size_differs(s, (uint64_t)h->length, why))
		return -1;
	f->plain = true;
	segs_drop(f, 1);
	s->to = f->next = f->facts.size;
	s->skip = s->at;
	return 0;
}

static int on_head(void *arg, const struct xfer_head *h, struct fail *why)
{
	struct seg *s = arg;
	struct file *f = s->file;
	if (h->status != 200 && h->status != 206)
		return 0;
	if (changed(f, h, why)) {
		s->verdict = V_CHANGED;
		return -1;
	}
	int r = h->status == 206 ? partial(s, h, why) : whole(s, h, why);
	if (r)
		return r;
	s->taking = f->probed = true;
	if (!f->resolved && strcmp(h->url, file_url(f)) != 0)
		f->resolved = mem_strdup(h->url);
	return 0;
}

static int on_data(void *arg, const void *p, size_t n, struct fail *why)
{
	struct seg *s = arg;
	const char *data = p;
	if (!s->taking)
		return 0;
	size_t past = (size_t)MIN(s->skip, (uint64_t)n);
	s->skip -= past;
	data += past;
	n -= past;
	if (s->to != SIZE_UNKNOWN && n > s->to - s->at) {
		AUTO(mem_freep) char *shown = url_shown(file_url(s->file));
		s->verdict = V_SIZE;
		return fail_set(why, WHY_DIGEST, "%.300s sends more bytes than it said", shown);
	}
	/* of one that takes no ranges the whole would come */
	const struct file *f = s->file;
	bool enough = f->plain && f->job->head && s->at + n >= f->job->head;
	if (enough)
		n = (size_t)(f->job->head - MIN(f->job->head, s->at));
	int r = n ? seg_take(s, data, n) : 0;
	if (r)
		return disk_fail(why, f->job->to, "cannot be written", r);
	if (!enough)
		return 0;
	s->verdict = V_ENOUGH;
	return fail_set(why, WHY_NETWORK, "enough of it came");
}

/* ---- ends -----------------------------------------------------------------------------------------------
 */

static void become_plain(struct file *f, const struct fail *why)
{
	if (f->plain || f->restarts++ >= RESTARTS_MAX) {
		file_next_mirror(f, why);
		return;
	}
	f->plain = true;
	f->probed = false;
	/* only what follows without a gap can be gone on with */
	if (!f->nsegs)
		seg_add(f, f->sha.bytes, f->sha.bytes, f->facts.size);
	segs_drop(f, 1);
	xfer_cancel(&f->segs[0]->x);
	f->segs[0]->to = f->next = f->facts.size;
	f->dirty = true;
}

static void gave_up(struct seg *s, const struct fail *why)
{
	struct file *f = s->file;
	enum verdict v = s->verdict;
	bool moved = s->moved;
	if (why->why == WHY_DISK) {
		files_fail(f->all, WHY_DISK, "%s", why->msg);
	} else if (v == V_CHANGED && f->restarts++ < RESTARTS_MAX) {
		file_restart(f); /* s is gone */
	} else if (v == V_ENOUGH) {
		return;
	} else if (v == V_PLAIN) {
		become_plain(f, why);
	} else if (v == V_CHANGED || v == V_SIZE || why->why == WHY_REFUSED || why->why == WHY_INPUT) {
		file_next_mirror(f, why);
	} else {
		if (!moved)
			mirror_forget(f);
		file_try_failed(f, why, moved, -1);
	}
}

static const char *reason_of(int status)
{
	switch (status) {
	case 401: return "it wants to know who asks: a token is missing or not valid";
	case 403: return "access is denied: it may have to be asked for there, or the token may not do it";
	case 404: return "it is not there";
	case 410: return "it is gone";
	case 416: return "it is shorter than was promised";
	case 429: return "too many requests";
	case 503: return "the server is busy";
	}
	return status >= 500 ? "the server failed" : "an answer that is of no use";
}

static enum why kind_of(int status)
{
	switch (status) {
	case 401:
	case 403: return WHY_DENIED;
	case 404:
	case 410: return WHY_MISSING;
	case 416: return WHY_DIGEST;
	case 429:
	case 503: return WHY_BUSY;
	}
	return WHY_NETWORK;
}

static void refused(struct seg *s, const struct xfer_head *h, const char *url)
{
	struct file *f = s->file;
	struct fail why;
	enum why kind = kind_of(h->status);
	AUTO(mem_freep) char *shown = url_shown(url);
	fail_set(&why, kind, "%.250s answers %d: %s%s%.150s", shown, h->status, reason_of(h->status),
		h->message ? "; " : "", h->message ? h->message : "");
	if (s->resolved && h->status >= 400 && h->status < 500 && kind != WHY_BUSY) {
		mirror_forget(f); /* the address was good for a while: asked for again */
		return;
	}
	if (kind == WHY_BUSY) {
		f->width = MAX(f->width / 2, 1u);
		file_try_failed(f, &why, false, h->retry_after_ms);
	} else if (h->status >= 500 || h->status == 408 || h->status == 425) {
		mirror_forget(f);
		file_try_failed(f, &why, false, h->retry_after_ms);
	} else {
		file_next_mirror(f, &why);
	}
}

/* 416 with the size: an empty file, or one that ends where we are. */
static bool ends_here(struct seg *s, const struct xfer_head *h)
{
	struct fail why;
	struct file *f = s->file;
	if (h->status != 416 || !h->has_unsatisfied || h->total != s->at || s != f->segs[0] ||
		f->sha.bytes != s->at || (f->facts.size != SIZE_UNKNOWN && f->facts.size != h->total))
		return false;
	s->to = s->at;
	f->next = s->at;
	f->dirty = true;
	if (file_size_told(f, h->total, &why))
		files_fail(f->all, why.why, "%s", why.msg);
	return true;
}

static void came(struct seg *s, const char *url)
{
	struct file *f = s->file;
	struct fail why;
	if (s->moved)
		f->tries = 0;
	if (f->plain && s->to == SIZE_UNKNOWN) { /* it ended, and nobody said how long it would be */
		s->to = f->next = s->at;
		if (file_size_told(f, s->at, &why))
			files_fail(f->all, why.why, "%s", why.msg);
	} else if (s->at < s->to && !s->moved) {
		AUTO(mem_freep) char *shown = url_shown(url);
		fail_set(&why, WHY_NETWORK, "%.300s sends nothing", shown);
		file_try_failed(f, &why, false, -1);
	}
}

static void on_end(void *arg, const struct xfer_head *h, const char *url, const struct fail *why)
{
	struct seg *s = arg;
	s->x = NULL;
	s->file->dirty = true; /* it may be whole */
	if (why)
		gave_up(s, why);
	else if (h->status == 200 || h->status == 206)
		came(s, url);
	else if (!ends_here(s, h))
		refused(s, h, url);
}

static const struct xfer_ops ops = { on_head, on_data, on_end };

void file_ask(struct file *f, struct seg *s)
{
	struct fail why;
	struct xfer_spec spec = { .url = f->resolved ? f->resolved : file_url(f),
		.origin = file_url(f),
		.headers = &f->job->headers };
	if (!f->plain) {
		spec.from = s->at;
		spec.to = s->to;
		/* else the answer would be told apart by its validator only after its head */
		if (!f->sha_known && f->facts.validator[0])
			spec.if_range = f->facts.validator;
	}
	s->resolved = f->resolved != NULL;
	s->moved = s->taking = false;
	s->verdict = V_NONE;
	s->skip = 0;
	s->x = xfer_start(f->all->net, &spec, &ops, s, &why);
	if (!s->x)
		file_next_mirror(f, &why);
}
