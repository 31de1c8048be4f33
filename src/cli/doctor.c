/* SPDX-License-Identifier: Apache-2.0
 *
 * The list of findings, and how it is told.
 */
#include "cli/doctor.h"

#include <stdlib.h>

#include "base/fd.h"
#include "base/mem.h"

static const char *const names[] = { "ok", "warn", "fail" };
static_assert(ARRAY_LEN(names) == DOCTOR_STATE_COUNT, "one name per state");

static void add(struct doctor *d, enum doctor_state s, const char *check, const char *fix, const char *fmt,
	va_list ap) PRINTF(5, 0);
static void add(struct doctor *d, enum doctor_state s, const char *check, const char *fix, const char *fmt,
	va_list ap)
{
	if (d->len == FINDINGS_MAX) {
		d->dropped++;
		return;
	}
	d->items[d->len++] = (struct finding){ s, check, mem_vfmt(fmt, ap), mem_strdup(fix) };
}

void doctor_ok(struct doctor *d, const char *check, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	add(d, DOCTOR_OK, check, NULL, fmt, ap);
	va_end(ap);
}

void doctor_warn(struct doctor *d, const char *check, const char *fix, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	add(d, DOCTOR_WARN, check, fix, fmt, ap);
	va_end(ap);
}

void doctor_fail(struct doctor *d, const char *check, const char *fix, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	add(d, DOCTOR_FAIL, check, fix, fmt, ap);
	va_end(ap);
}

void doctor_done(struct doctor *d)
{
	for (size_t i = 0; i < d->len; i++) {
		free(d->items[i].message);
		free(d->items[i].fix);
	}
	d->len = 0;
}

size_t doctor_count(const struct doctor *d, enum doctor_state s)
{
	size_t n = 0;
	for (size_t i = 0; i < d->len; i++)
		n += d->items[i].state == s;
	return n;
}

char *doctor_path(const struct doctor *d, const char *path)
{
	return mem_fmt("%s%s", d->root, path);
}

bool doctor_line(const struct doctor *d, const char *path, char *out, size_t cap)
{
	AUTO(mem_freep) char *at = doctor_path(d, path);
	AUTO(buf_done) struct buf b = BUF(64 * KIB);
	struct view rest;
	if (file_read(at, &b) < 0)
		return false;
	struct view line = view_cut(view_trim(view_split(buf_view(&b), '\n', &rest)), cap - 1);
	memcpy(out, line.p ? line.p : "", line.n);
	out[line.n] = '\0';
	return true;
}

void doctor_text(const struct doctor *d, bool color, struct buf *out)
{
	static const char *const colors[] = { "\033[32m", "\033[33m", "\033[31m" };
	for (size_t i = 0; i < d->len; i++) {
		const struct finding *f = &d->items[i];
		(void)buf_addf(out, "%s%-4s%s  %-10s  ", color ? colors[f->state] : "", names[f->state],
			color ? "\033[0m" : "", f->check);
		clean_add(out, view_str(f->message), false);
		(void)buf_addc(out, '\n');
		if (!f->fix)
			continue;
		(void)buf_adds(out, "                  fix: ");
		clean_add(out, view_str(f->fix), false);
		(void)buf_addc(out, '\n');
	}
	if (d->dropped)
		(void)buf_addf(out, "and %zu more\n", d->dropped);
	(void)buf_addf(out, "\n%zu ok, %zu to look at, %zu failed\n", doctor_count(d, DOCTOR_OK),
		doctor_count(d, DOCTOR_WARN), doctor_count(d, DOCTOR_FAIL));
}

void doctor_json(const struct doctor *d, struct buf *out)
{
	(void)buf_adds(out, "{\"findings\":[");
	for (size_t i = 0; i < d->len; i++) {
		const struct finding *f = &d->items[i];
		(void)buf_addf(out, "%s{\"check\":\"%s\",\"state\":\"%s\",\"message\":", i ? "," : "",
			f->check, names[f->state]);
		(void)buf_add_json(out, view_str(f->message));
		(void)buf_adds(out, ",\"fix\":");
		if (f->fix)
			(void)buf_add_json(out, view_str(f->fix));
		else
			(void)buf_adds(out, "null");
		(void)buf_addc(out, '}');
	}
	(void)buf_addf(out, "],\"ok\":%zu,\"warn\":%zu,\"fail\":%zu}\n", doctor_count(d, DOCTOR_OK),
		doctor_count(d, DOCTOR_WARN), doctor_count(d, DOCTOR_FAIL));
}
