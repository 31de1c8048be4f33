/* SPDX-License-Identifier: Apache-2.0
 *
 * Mistakes: collected while loading, printed with the line and a caret.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "config/config_int.h"

enum { EXCERPT_MAX = 200 };

void config_errors_done(struct config_errors *e)
{
	for (size_t i = 0; i < e->len; i++) {
		free(e->items[i].file);
		free(e->items[i].key);
		free(e->items[i].message);
		free(e->items[i].excerpt);
	}
	*e = (struct config_errors){ 0 };
}

static struct view text_line(struct view text, unsigned line)
{
	struct view rest = text, l = { 0 };
	for (unsigned i = 0; i < line; i++) {
		if (!rest.p)
			return (struct view){ 0 };
		l = view_split(rest, '\n', &rest);
	}
	if (l.n && l.p[l.n - 1] == '\r')
		l.n--;
	return l;
}

static char *excerpt(struct loader *ld, const struct config_origin *at)
{
	for (size_t i = 0; i < ld->ndocs; i++)
		if (ld->docs[i].name && strcmp(ld->docs[i].name, at->name) == 0 && at->line) {
			struct view l = text_line(buf_view(&ld->docs[i].text), at->line);
			return l.p ? mem_viewdup(view_cut(l, EXCERPT_MAX)) : NULL;
		}
	return NULL;
}

/* Takes message. NULL: there are CONFIG_ERRORS_MAX already. */
static struct config_error *add(struct config_errors *errs, const char *key, char *message)
{
	if (errs->len == CONFIG_ERRORS_MAX) {
		errs->dropped++;
		free(message);
		return NULL;
	}
	struct config_error *e = &errs->items[errs->len++];
	*e = (struct config_error){ .key = mem_strdup(key), .message = message };
	return e;
}

void config_errors_add(
	struct config_errors *errs, const struct config_origin *at, const char *key, const char *message)
{
	struct config_error *e = add(errs, key, mem_strdup(message));
	if (!e)
		return;
	e->file = at->line ? mem_strdup(at->name) : NULL;
	e->line = at->line;
	e->column = at->column;
}

void load_fail(struct loader *ld, const struct config_origin *at, const char *key, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	struct config_error *e = add(ld->errs, key, mem_vfmt(fmt, ap));
	va_end(ap);
	if (!e || !at || at->kind != CONFIG_FROM_FILE)
		return;
	e->file = mem_strdup(at->name);
	e->line = at->line;
	e->column = at->column;
	e->width = at->width;
	e->excerpt = excerpt(ld, at);
}

/* Appends text for a terminal: control characters and bytes that are not UTF-8 become '?'. */
static void add_clean(struct buf *out, struct view v, size_t *ret_chars)
{
	size_t chars = 0;
	while (v.n) {
		size_t n = utf8_len(v);
		unsigned char c = (unsigned char)v.p[0];
		if (c == '\t')
			buf_addc(out, ' ');
		else if (n == 0 || c < 0x20 || c == 0x7f ||
			 (n == 2 && c == 0xc2 && (unsigned char)v.p[1] < 0xa0))
			buf_addc(out, '?');
		else
			buf_add(out, v.p, n);
		v = view_from(v, n ? n : 1);
		chars++;
	}
	if (ret_chars)
		*ret_chars = chars;
}

static void print_one(const struct config_error *e, bool color, struct buf *out)
{
	const char *bold = color ? "\033[1m" : "", *red = color ? "\033[31m" : "",
		   *off = color ? "\033[0m" : "";
	buf_adds(out, bold);
	if (e->file)
		add_clean(out, view_str(e->file), NULL);
	if (e->file && e->line)
		buf_addf(out, ":%u:%u", e->line, e->column);
	if (e->file)
		buf_adds(out, ": ");
	buf_adds(out, off);
	if (e->key && *e->key) {
		add_clean(out, view_str(e->key), NULL);
		buf_adds(out, ": ");
	}
	add_clean(out, view_str(e->message), NULL);
	buf_addc(out, '\n');
	if (!e->excerpt)
		return;
	size_t chars;
	buf_addf(out, "%5u | ", e->line);
	add_clean(out, view_str(e->excerpt), &chars);
	buf_addc(out, '\n');
	if (!e->column || e->column > chars + 1)
		return;
	buf_addf(out, "      | %*s%s^", (int)e->column - 1, "", red);
	size_t left = chars + 1 - e->column;
	for (size_t i = 1; i < e->width && i < left; i++)
		buf_addc(out, '~');
	buf_addf(out, "%s\n", off);
}

int config_errors_print(const struct config_errors *e, bool color, struct buf *out)
{
	for (size_t i = 0; i < e->len; i++)
		print_one(&e->items[i], color, out);
	if (e->dropped)
		buf_addf(out, "and %zu more.\n", e->dropped);
	return out->len < out->max ? 0 : -ENOBUFS;
}

static void json_text(const char *key, const char *s, struct buf *out)
{
	(void)buf_addf(out, ",\"%s\":", key);
	if (s)
		(void)buf_add_json(out, view_str(s));
	else
		(void)buf_adds(out, "null");
}

int config_errors_json(const struct config_errors *e, struct buf *out)
{
	(void)buf_addc(out, '[');
	for (size_t i = 0; i < e->len; i++) {
		const struct config_error *x = &e->items[i];
		(void)buf_addf(out, "%s{\"line\":%u,\"column\":%u,\"width\":%u", i ? "," : "", x->line,
			x->column, x->width);
		json_text("file", x->file, out);
		json_text("key", x->key, out);
		json_text("message", x->message, out);
		json_text("excerpt", x->excerpt, out);
		(void)buf_addc(out, '}');
	}
	return buf_addc(out, ']');
}

/* ---- the nearest key ---------------------------------------------------------------------------- */

enum { KEY_LEN = 40 };

static size_t distance(struct view a, struct view b)
{
	size_t row[KEY_LEN + 1];
	for (size_t j = 0; j <= b.n; j++)
		row[j] = j;
	for (size_t i = 1; i <= a.n; i++) {
		size_t diag = row[0];
		row[0] = i;
		for (size_t j = 1; j <= b.n; j++) {
			size_t up = row[j], same = diag + (a.p[i - 1] != b.p[j - 1]);
			row[j] = MIN(MIN(up, row[j - 1]) + 1, same);
			diag = up;
		}
	}
	return row[b.n];
}

void nearest_key(enum field_scope scope, struct view prefix, struct view found, struct buf *out)
{
	struct view best = { 0 };
	size_t best_d = SIZE_MAX;
	if (found.n > KEY_LEN)
		return;
	for (size_t i = 0; i < config_nfields; i++) {
		struct view p = view_str(config_fields[i].path), rest;
		if (config_fields[i].scope != scope || !view_starts(p, prefix))
			continue;
		struct view seg = view_split(view_from(p, prefix.n), '.', &rest);
		size_t d = distance(found, seg);
		if (d < best_d) {
			best_d = d;
			best = seg;
		}
	}
	if (best.n && best_d <= MAX((size_t)2, found.n / 3) && best_d < found.n)
		buf_addv(out, best);
}
