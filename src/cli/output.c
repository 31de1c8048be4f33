/* SPDX-License-Identifier: Apache-2.0
 *
 * What people see: tables, complaints, and nothing that drives their terminal.
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "cli/cli_int.h"

bool color_for(int fd)
{
	const char *no = getenv("NO_COLOR"), *term = getenv("TERM");
	return isatty(fd) && !(no && *no) && !(term && strcmp(term, "dumb") == 0);
}

int say(const struct buf *out)
{
	if (out->len && (fwrite(out->data, 1, out->len, stdout) != out->len || fflush(stdout)))
		return CLI_FAILED;
	return CLI_OK;
}

void clean_add(struct buf *out, struct view v, bool keep_lines)
{
	while (v.n) {
		size_t n = utf8_len(v);
		unsigned char c = (unsigned char)v.p[0];
		bool c1 = n == 2 && c == 0xc2 && (unsigned char)v.p[1] < 0xa0;
		bool control = n == 0 || c < 0x20 || c == 0x7f || c1;
		if (keep_lines && (c == '\n' || c == '\t'))
			control = false;
		if (control)
			(void)buf_addc(out, c == '\n' || c == '\t' ? ' ' : '?');
		else
			(void)buf_add(out, v.p, n);
		v = view_from(v, n ? n : 1);
	}
}

static void to_stderr(const char *prefix, const char *ansi, const char *fmt, va_list ap) PRINTF(3, 0);
static void to_stderr(const char *prefix, const char *ansi, const char *fmt, va_list ap)
{
	AUTO(mem_freep) char *text = mem_vfmt(fmt, ap);
	AUTO(buf_done) struct buf b = BUF(256 * KIB);
	bool color = color_for(2);
	clean_add(&b, view_str(text), true);
	fprintf(stderr, "%s%s%s %s\n", color ? ansi : "", prefix, color ? "\033[0m" : "", buf_str(&b));
}

void complain(const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	to_stderr("corral:", "\033[1;31m", fmt, ap);
	va_end(ap);
}

void hint(const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	to_stderr("hint:", "\033[1;36m", fmt, ap);
	va_end(ap);
}

void table_done(struct table *t)
{
	strv_done(&t->cells);
}

void table_add(struct table *t, const char *fmt, ...)
{
	AUTO(buf_done) struct buf b = BUF(64 * KIB);
	va_list ap;
	va_start(ap, fmt);
	AUTO(mem_freep) char *text = mem_vfmt(fmt, ap);
	va_end(ap);
	clean_add(&b, view_str(text), false);
	strv_add(&t->cells, b.len ? buf_str(&b) : "-");
}

static size_t chars(const char *s)
{
	size_t n = 0;
	for (; *s; s++)
		n += ((unsigned char)*s & 0xc0) != 0x80;
	return n;
}

static const char *state_color(const char *cell)
{
	static const struct {
		const char *word, *ansi;
	} colors[] = { { "ready", "\033[32m" }, { "failed", "\033[31m" }, { "backoff", "\033[33m" },
		{ "starting", "\033[33m" }, { "proving", "\033[33m" }, { "provisioning", "\033[33m" },
		{ "reloading", "\033[33m" }, { "disabled", "\033[2m" }, { "draining", "\033[33m" },
		{ "stopped", "\033[2m" }, { "absent", "\033[2m" } };
	for (size_t i = 0; i < ARRAY_LEN(colors); i++)
		if (view_starts(view_str(cell), view_str(colors[i].word)))
			return colors[i].ansi;
	return NULL;
}

void table_print(const struct table *t, bool color, struct buf *out)
{
	for (size_t i = 0; i < t->cells.len; i++) {
		size_t column = i % t->columns, width = 0;
		const char *cell = t->cells.items[i], *ansi = color ? state_color(cell) : NULL;
		for (size_t j = column; j < t->cells.len; j += t->columns)
			width = MAX(width, chars(t->cells.items[j]));
		if (color && i < t->columns)
			ansi = "\033[1m";
		bool last = column + 1 == t->columns;
		buf_addf(out, "%s%s%s%*s", ansi ? ansi : "", cell, ansi ? "\033[0m" : "",
			last ? 0 : (int)(width - chars(cell) + 2), "");
		if (last)
			buf_addc(out, '\n');
	}
}
