/* SPDX-License-Identifier: Apache-2.0 */
#include "base/strv.h"

#include <stdarg.h>
#include <stdlib.h>

#include "base/buf.h"
#include "base/mem.h"

void strv_done(struct strv *v)
{
	for (size_t i = 0; i < v->len; i++)
		free(v->items[i]);
	free(v->items);
	*v = (struct strv){ 0 };
}

/* Takes ownership of s. */
static void add_taken(struct strv *v, char *s)
{
	v->items = mem_realloc(v->items, (v->len + 2) * sizeof *v->items);
	v->items[v->len++] = s;
	v->items[v->len] = NULL;
}

void strv_add(struct strv *v, const char *s)
{
	add_taken(v, mem_strdup(s));
}

void strv_addv(struct strv *v, struct view s)
{
	add_taken(v, mem_viewdup(s));
}

void strv_addf(struct strv *v, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	add_taken(v, mem_vfmt(fmt, ap));
	va_end(ap);
}

void strv_copy(struct strv *to, const struct strv *from)
{
	for (size_t i = 0; i < from->len; i++)
		strv_add(to, from->items[i]);
}

bool strv_has(const struct strv *v, const char *s)
{
	for (size_t i = 0; i < v->len; i++)
		if (strcmp(v->items[i], s) == 0)
			return true;
	return false;
}

bool strv_eq(const struct strv *a, const struct strv *b)
{
	if (a->len != b->len)
		return false;
	for (size_t i = 0; i < a->len; i++)
		if (strcmp(a->items[i], b->items[i]) != 0)
			return false;
	return true;
}

/* Reads one quoted run starting after its opening quote; returns the position after the closing
 * quote, or 0 when it is missing. */
static size_t read_quoted(struct view t, size_t i, char quote, struct buf *word)
{
	for (; i < t.n; i++) {
		char c = t.p[i];
		if (c == quote)
			return i + 1;
		if (quote == '"' && c == '\\' && i + 1 < t.n && t.p[i + 1] == '\n') {
			i++; /* a line goes on */
			continue;
		}
		if (quote == '"' && c == '\\' && i + 1 < t.n && memchr("\"\\$`", t.p[i + 1], 4))
			c = t.p[++i];
		if (buf_addc(word, c))
			return 0;
	}
	return 0;
}

int strv_shell_words(struct strv *v, struct view t, struct err *reterr)
{
	AUTO(strv_done) struct strv words = { 0 };
	AUTO(buf_done) struct buf word = BUF(t.n);
	bool open = false;
	if (view_find(t, '\0') < t.n)
		return err_set(reterr, -EINVAL, "a NUL byte stands at character %zu", view_find(t, '\0') + 1);
	for (size_t i = 0; i < t.n;) {
		char c = t.p[i];
		if (c == ' ' || c == '\t' || c == '\n' || c == '\r') {
			if (open)
				strv_addv(&words, buf_view(&word));
			open = false;
			buf_reset(&word);
			i++;
			continue;
		}
		if (c == '\\' && i + 1 < t.n && t.p[i + 1] == '\n') {
			i += 2; /* a line goes on */
			continue;
		}
		open = true;
		if (c == '\'' || c == '"') {
			size_t next = read_quoted(t, i + 1, c, &word);
			if (!next)
				return err_set(reterr, -EINVAL,
					"the quote %c opened at character %zu is never closed", c, i + 1);
			i = next;
			continue;
		}
		if (c == '\\') {
			if (i + 1 == t.n)
				return err_set(reterr, -EINVAL, "a backslash ends the text");
			c = t.p[++i];
		}
		(void)buf_addc(&word, c); /* the bound is the text's own length */
		i++;
	}
	if (open)
		strv_addv(&words, buf_view(&word));
	strv_copy(v, &words);
	return 0;
}
