/* SPDX-License-Identifier: Apache-2.0
 *
 * Plans and how far they have come. The file: "corral-steps 1 HASH", then a line a step: ordinal, kind,
 * state, started, ended, detail (a tab between them; written anew as a whole with every change, beside and
 * renamed).
 */
#include "provision/engine/steps.h"

#include <stdlib.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/mem.h"
#include "base/num.h"

enum { FILE_MAX = (STEPS_MAX + 1) * (STEPS_DETAIL_MAX + 256) };
#define LAYOUT "corral-steps 1 "

static const char *const kind_names[STEP_KIND_COUNT] = { "preflight", "fetch", "verify", "unpack",
	"configure", "build", "install", "model-fetch", "canary" };
static const char *const state_names[] = { "todo", "running", "done", "failed" };

const char *step_name(enum step_kind k)
{
	return (size_t)k < STEP_KIND_COUNT ? kind_names[k] : "unknown";
}

const char *steps_state_name(enum steps_state s)
{
	return (size_t)s < ARRAY_LEN(state_names) ? state_names[s] : "unknown";
}

void steps_done(struct steps *s)
{
	for (size_t i = 0; i < s->len; i++) {
		free(s->items[i].key);
		free(s->items[i].text);
	}
	*s = (struct steps){ 0 };
}

void steps_add(struct steps *s, enum step_kind kind, const char *key, const char *fmt, ...)
{
	if (s->len == STEPS_MAX)
		return;
	va_list ap;
	va_start(ap, fmt);
	s->items[s->len++] = (struct step){ .kind = kind, .key = mem_strdup(key), .text = mem_vfmt(fmt, ap) };
	va_end(ap);
}

/* 64-bit FNV-1a over each text and the NUL behind it, so that no two lists of texts read the same. */
static uint64_t hash_text(uint64_t h, const char *s)
{
	do
		h = (h ^ (unsigned char)*s) * 0x100000001b3u;
	while (*s++);
	return h;
}

void steps_hash(const struct steps *s, char out[STEPS_HASH_LEN + 1])
{
	uint64_t h = 0xcbf29ce484222325u;
	for (size_t i = 0; i < s->len; i++)
		h = hash_text(hash_text(h, step_name(s->items[i].kind)), s->items[i].key);
	for (int i = STEPS_HASH_LEN; i-- > 0; h >>= 4)
		out[i] = "0123456789abcdef"[h & 15];
	out[STEPS_HASH_LEN] = '\0';
}

void steps_record_done(struct steps_record *r)
{
	free(r->detail);
	free(r->log);
	*r = (struct steps_record){ 0 };
}

/* ---- the file ------------------------------------------------------------------------------------ */

struct line {
	size_t ordinal;
	struct view kind;
	struct steps_record r; /* detail is not set */
	struct view detail;
};

static bool line_read(struct view text, struct line *l)
{
	struct view part[6], rest = text;
	uint64_t ordinal, started, ended;
	for (size_t i = 0; i < ARRAY_LEN(part); i++)
		part[i] = i + 1 < ARRAY_LEN(part) ? view_split(rest, '\t', &rest) : rest;
	if (num_u64(part[0], &ordinal) || num_u64(part[3], &started) || num_u64(part[4], &ended) ||
		ordinal >= STEPS_MAX)
		return false;
	*l = (struct line){ .ordinal = (size_t)ordinal, .kind = part[1], .detail = part[5] };
	l->r.started_ms = (int64_t)started;
	l->r.ended_ms = (int64_t)ended;
	for (size_t i = 0; i < ARRAY_LEN(state_names); i++) {
		if (!view_eqs(part[2], state_names[i]))
			continue;
		l->r.state = (enum steps_state)i;
		return true;
	}
	return false;
}

/* The lines of that plan; empty when the file holds another one, or none. */
static struct view lines_of(const char *path, const char *plan, struct buf *b)
{
	if (file_read(path, b) < 0)
		return (struct view){ 0 };
	struct view rest = buf_view(b), first = view_split(rest, '\n', &rest);
	bool ours = view_starts(first, VIEW(LAYOUT)) && view_eqs(view_from(first, sizeof LAYOUT - 1), plan);
	return ours ? rest : (struct view){ 0 };
}

static int file_get(void *arg, const char *plan, size_t ordinal, struct steps_record *ret)
{
	AUTO(buf_done) struct buf b = BUF(FILE_MAX);
	struct view rest = lines_of(arg, plan, &b);
	struct line l;
	while (rest.p) {
		if (!line_read(view_split(rest, '\n', &rest), &l) || l.ordinal != ordinal)
			continue;
		*ret = l.r;
		ret->detail = l.detail.n ? mem_viewdup(l.detail) : NULL;
		return 0;
	}
	return -ENOENT;
}

static void line_add(struct buf *out, size_t ordinal, enum step_kind kind, const struct steps_record *r)
{
	(void)buf_addf(out, "%zu\t%s\t%s\t%lld\t%lld\t", ordinal, step_name(kind), steps_state_name(r->state),
		(long long)MAX(r->started_ms, (int64_t)0), (long long)MAX(r->ended_ms, (int64_t)0));
	struct view d = view_cut(view_str(r->detail), STEPS_DETAIL_MAX);
	for (size_t i = 0; i < d.n; i++)
		(void)buf_addc(out, d.p[i] == '\n' || d.p[i] == '\t' ? ' ' : d.p[i]);
	(void)buf_addc(out, '\n');
}

static int file_put(
	void *arg, const char *plan, size_t ordinal, enum step_kind kind, const struct steps_record *r)
{
	AUTO(buf_done) struct buf old = BUF(FILE_MAX);
	AUTO(buf_done) struct buf out = BUF(2 * FILE_MAX);
	struct view rest = lines_of(arg, plan, &old);
	struct line l;
	(void)buf_addf(&out, LAYOUT "%s\n", plan);
	while (rest.p) {
		struct view line = view_split(rest, '\n', &rest);
		if (line_read(line, &l) && l.ordinal != ordinal)
			(void)buf_addf(&out, "%.*s\n", VIEW_ARG(line));
	}
	line_add(&out, ordinal, kind, r);
	return file_write_atomic(arg, buf_view(&out), 0644, true);
}

struct steps_store steps_store_file(const char *path)
{
	return (struct steps_store){ .read = file_get, .write = file_put, .arg = (char *)(uintptr_t)path };
}

/* ---- how far ------------------------------------------------------------------------------------- */

bool steps_is_done(const struct steps *s, const struct steps_store *st, size_t i)
{
	char plan[STEPS_HASH_LEN + 1];
	struct steps_record r = { 0 };
	steps_hash(s, plan);
	bool done = st->read(st->arg, plan, i, &r) == 0 && r.state == STEPS_DONE;
	steps_record_done(&r);
	return done;
}

size_t steps_next(const struct steps *s, const struct steps_store *st)
{
	size_t i = 0;
	while (i < s->len && steps_is_done(s, st, i))
		i++;
	return i;
}

int steps_begin(const struct steps *s, const struct steps_store *st, size_t i)
{
	char plan[STEPS_HASH_LEN + 1];
	steps_hash(s, plan);
	struct steps_record r = { .state = STEPS_RUNNING, .started_ms = wall_ms() };
	return st->write(st->arg, plan, i, s->items[i].kind, &r);
}

int steps_end(const struct steps *s, const struct steps_store *st, size_t i, const char *detail)
{
	char plan[STEPS_HASH_LEN + 1];
	struct steps_record r = { 0 };
	steps_hash(s, plan);
	(void)!st->read(st->arg, plan, i, &r);
	free(MEM_TAKE(r.detail));
	r.state = detail ? STEPS_FAILED : STEPS_DONE;
	r.ended_ms = wall_ms();
	r.detail = mem_strdup(detail);
	int e = st->write(st->arg, plan, i, s->items[i].kind, &r);
	steps_record_done(&r);
	return e;
}

static void hash_of_one(enum step_kind kind, const char *key, char out[STEPS_HASH_LEN + 1])
{
	AUTO(steps_done) struct steps one = { 0 };
	steps_add(&one, kind, key, "-");
	steps_hash(&one, out);
}

int steps_note(
	const struct steps_store *st, enum step_kind kind, const char *key, const struct steps_record *r)
{
	char plan[STEPS_HASH_LEN + 1];
	hash_of_one(kind, key, plan);
	return st->write(st->arg, plan, 0, kind, r);
}

int steps_noted(const struct steps_store *st, enum step_kind kind, const char *key, struct steps_record *ret)
{
	char plan[STEPS_HASH_LEN + 1];
	hash_of_one(kind, key, plan);
	return st->read(st->arg, plan, 0, ret);
}
