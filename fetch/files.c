/* SPDX-License-Identifier: Apache-2.0
 *
 * All files of a job: who has a turn, how many connections, what is told.
 */
#include "files.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/num.h"
#include "disk.h"
#include "files_int.h"

enum { TICK_MS = 250 };

void files_fail(struct files *g, enum why why, const char *fmt, ...)
{
	va_list ap;
	if (g->failed)
		return;
	g->failed = true;
	g->fail.why = why;
	va_start(ap, fmt);
	vsnprintf(g->fail.msg, sizeof g->fail.msg, fmt, ap);
	va_end(ap);
}

/* A file that lies there counts, too: whoever asks for it knows of none, so that it is in no other sum. */
static uint64_t coming(const struct file *f)
{
	if (f->state == FILE_CHECKING)
		return 0;
	if (f->state == FILE_DONE)
		return f->found->size;
	uint64_t told = f->facts.size == SIZE_UNKNOWN ? 0 : f->facts.size;
	return MAX(MAX(told, f->job->size), file_have(f));
}

int files_room(const struct files *g, struct fail *why)
{
	uint64_t sum = 0;
	bool more = false; /* where all of it lies there, nothing is left to refuse */
	for (size_t i = 0; g->job->room && i < g->n; i++) {
		uint64_t one = coming(&g->f[i]);
		more |= one && !g->f[i].found->was_there;
		if (__builtin_add_overflow(sum, one, &sum))
			sum = UINT64_MAX;
	}
	if (!more || sum <= g->job->room)
		return 0;
	char sum_text[32], room_text[32];
	num_format_bytes(sum, sum_text, sizeof sum_text);
	num_format_bytes(g->job->room, room_text, sizeof room_text);
	return fail_set(why, WHY_DISK,
		"%s are to come to %.200s, and models_quota leaves %s: `corral models gc --dry-run` says "
		"which "
		"could go, `corral models rm` removes one",
		sum_text, g->f[0].job->to, room_text);
}

/* ---- turns ----------------------------------------------------------------------------------------------
 */

/* Takes up as many files as there may be connections; those that wait for others are beside that. */
static bool take_turns(struct files *g)
{
	unsigned active = 0, waiting = 0;
	bool more = false;
	for (size_t i = 0; i < g->n && !g->failed; i++) {
		struct file *f = &g->f[i];
		if (f->state == FILE_QUEUED && (active >= g->job->parallel || waiting >= WAITING_MAX))
			break;
		more |= file_step(f);
		waiting += f->state == FILE_WAITING;
		active += f->state == FILE_FETCHING || f->state == FILE_CHECKING;
	}
	return more;
}

/* Starts requests; returns when the next pause is over. */
static mono_t ask(struct files *g)
{
	mono_t next = MONO_NEVER, now = mono_now();
	for (size_t i = 0; i < g->n && !g->failed; i++) {
		struct file *f = &g->f[i];
		if (f->state == FILE_QUEUED)
			break;
		if (f->state != FILE_FETCHING || mirror_is_file(f))
			continue;
		if (mono_before(now, f->resume_at)) {
			next = mono_before(f->resume_at, next) ? f->resume_at : next;
			continue;
		}
		for (struct seg *s;
			!g->failed && net_running(g->net) < g->job->parallel && (s = file_want(f));)
			file_ask(f, s);
	}
	return next;
}

static void land(struct files *g)
{
	struct fail full;
	if (files_room(g, &full))
		files_fail(g, full.why, "%s", full.msg);
	for (size_t i = 0; i < g->n && !g->failed; i++) {
		struct file *f = &g->f[i];
		if (f->state != FILE_FETCHING)
			continue;
		int r = file_flush(f);
		if (r) {
			struct fail why;
			disk_fail(&why, f->job->to, "cannot be written", r);
			files_fail(g, why.why, "%s", why.msg);
		} else if (f->job->head) {
			if (file_is_headed(f))
				file_headed(f);
		} else if (file_is_whole(f)) {
			file_landed(f);
		}
	}
}

/* ---- what is told ---------------------------------------------------------------------------------------
 */

static const char *name_of(const struct file *f)
{
	const char *slash = strrchr(f->job->to, '/');
	return slash ? slash + 1 : f->job->to;
}

struct view_of_all {
	uint64_t have, total;
	const struct file *fetching, *checking, *pausing, *waiting;
	bool known;
};

static void look(const struct files *g, struct view_of_all *v)
{
	mono_t now = mono_now();
	*v = (struct view_of_all){ .known = true };
	for (size_t i = 0; i < g->n; i++) {
		const struct file *f = &g->f[i];
		uint64_t size = f->state == FILE_DONE       ? f->found->size
				: f->state == FILE_FETCHING ? f->facts.size
				: f->job->size              ? f->job->size
							    : SIZE_UNKNOWN;
		v->have += f->state == FILE_QUEUED || f->state == FILE_WAITING ? 0 : file_have(f);
		v->known &= size != SIZE_UNKNOWN;
		v->total += v->known ? size : 0;
		const struct file **kind = f->state == FILE_CHECKING        ? &v->checking
					   : f->state == FILE_WAITING       ? &v->waiting
					   : f->state != FILE_FETCHING      ? NULL
					   : mono_before(now, f->resume_at) ? &v->pausing
									    : &v->fetching;
		if (kind && !*kind)
			*kind = f;
	}
}

static void tell(struct files *g)
{
	struct view_of_all v;
	char text[400], have[32], total[32];
	if (!report_is_due(&g->report))
		return;
	look(g, &v);
	struct progress p = { .bytes = v.have, .total = v.known ? v.total : 0, .text = text };
	num_format_bytes(v.have, have, sizeof have);
	num_format_bytes(v.total, total, sizeof total);
	if (v.fetching) {
		p.phase = PHASE_FETCHING;
		snprintf(text, sizeof text, "Fetching %.200s: %s%s%s", name_of(v.fetching), have,
			v.known ? " of " : "", v.known ? total : "");
	} else if (v.checking) {
		p.phase = PHASE_VERIFYING;
		snprintf(text, sizeof text, "Verifying %.200s", name_of(v.checking));
	} else if (v.pausing) {
		p.phase = PHASE_WAITING;
		snprintf(text, sizeof text, "%.300s", v.pausing->pause_text);
	} else if (v.waiting) {
		p.phase = PHASE_WAITING;
		snprintf(text, sizeof text, "Another process fetches %.200s; waiting for it",
			name_of(v.waiting));
	} else {
		return;
	}
	g->report.moved = 0;
	for (size_t i = 0; i < g->n; i++)
		g->report.moved += g->f[i].found->bytes_fetched;
	report_progress(&g->report, &p);
}

/* ---- the whole ------------------------------------------------------------------------------------------
 */

static int begin(struct files *g, const struct job *j, struct result *ret, struct fail *f)
{
	g->job = j;
	g->n = j->nfiles;
	g->f = mem_alloc(g->n * sizeof *g->f);
	ret->files = mem_alloc(g->n * sizeof *ret->files);
	ret->nfiles = g->n;
	for (size_t i = 0; i < g->n; i++) {
		g->f[i].all = g;
		g->f[i].job = &j->files[i];
		g->f[i].found = &ret->files[i];
		ret->files[i].path = j->files[i].to;
	}
	g->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (g->wake < 0)
		return fail_set(f, WHY_DISK, "no more files can be opened: %s", strerror(errno));
	g->net = net_new(j, f);
	return g->net ? disk_check_job(j, f) : -1;
}

static void end(struct files *g)
{
	for (size_t i = 0; i < g->n; i++) {
		struct file *f = &g->f[i];
		/* of what never began nothing stays; nor does it fill a disk that is full */
		if (f->state == FILE_FETCHING && g->failed && (file_have(f) == 0 || g->fail.why == WHY_DISK))
			part_remove(&f->part);
		file_end(f);
	}
	net_free(g->net);
	free(g->f);
	fd_close(g->wake);
}

static void run(struct files *g)
{
	while (!g->failed && g->ndone < g->n) {
		uint64_t woken;
		bool more = take_turns(g);
		mono_t due = ask(g), tick = mono_add_ms(mono_now(), TICK_MS);
		due = more ? mono_now() : mono_before(due, tick) ? due : tick;
		if (!g->failed && g->ndone < g->n)
			net_round(g->net, due, g->wake);
		(void)!read(g->wake, &woken, sizeof woken);
		land(g);
		tell(g);
	}
}

int op_files(const struct job *j, struct result *ret, struct fail *f)
{
	struct files g = { .wake = -1 };
	int r = begin(&g, j, ret, f);
	if (!r) {
		run(&g);
		r = g.failed ? -1 : 0;
		if (r)
			*f = g.fail;
	}
	end(&g);
	return r;
}
