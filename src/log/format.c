/* SPDX-License-Identifier: Apache-2.0
 *
 * An event as a line: JSON, or for a person's terminal. A line that would pass its bound loses its
 * last fields and says so with "cut": true.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/utf8.h"
#include "log/log_int.h"

static const char *const level_names[] = { "debug", "info", "warn", "error" };

static int add_json_redacted(struct buf *b, struct view v)
{
	AUTO(buf_done) struct buf s = BUF(4 * LOG_STRING_MAX);
	int r = log_redact(&s, v);
	return r ? r : buf_add_json(b, buf_view(&s));
}

static int add_secret_string(struct buf *b, struct view secret)
{
	char token[LOG_TOKEN_LEN + 1] = "";
	if (secret.n)
		log_redact_token(secret, token);
	return buf_add_json(b, view_str(token));
}

static int add_double(struct buf *b, double d)
{
	return isfinite(d) ? buf_addf(b, "%.9g", d) : buf_adds(b, "null");
}

static int add_value(struct buf *b, const struct log_field *f)
{
	switch (f->type) {
	case LF_STR:
		return log_key_is_secret(view_str(f->key)) ? add_secret_string(b, f->s)
							   : add_json_redacted(b, f->s);
	case LF_INT: return buf_addf(b, "%lld", (long long)f->i);
	case LF_UINT: return buf_addf(b, "%llu", (unsigned long long)f->u);
	case LF_DOUBLE: return add_double(b, f->d);
	case LF_BOOL: return buf_adds(b, f->i ? "true" : "false");
	case LF_END: break;
	}
	return 0;
}

static bool left_out(const struct log_field *f)
{
	return f->type == LF_STR && !f->s.p;
}

/* Adds ,"key":value or nothing. */
static int add_member(struct buf *b, const struct log_field *f)
{
	size_t from = b->len;
	int r = buf_addc(b, ',');
	if (!r)
		r = buf_add_json(b, view_str(f->key));
	if (!r)
		r = buf_addc(b, ':');
	if (!r)
		r = add_value(b, f);
	if (r) {
		b->len = from;
		b->data[from] = '\0';
	}
	return r;
}

void log_format_json(struct buf *b, const struct log_record *r)
{
	enum { TAIL = 32 }; /* room kept for what closes the line */
	struct buf line = BUF(LOG_LINE_MAX - TAIL);
	char ts[WALL_STR_LEN + 1];
	wall_format(r->wall_ms, ts);
	int e = buf_addf(&line, "{\"ts\":\"%s\",\"level\":\"%s\"", ts, level_names[r->level]);
	const struct log_field head[] = { LOG_STR("actor", r->actor), LOG_STR("action", r->action),
		LOG_STR("target", r->target), LOG_VIEW("human", r->human) };
	for (size_t i = 0; !e && i < ARRAY_LEN(head); i++)
		if (!left_out(&head[i]))
			e = add_member(&line, &head[i]);
	for (const struct log_field *f = r->fields; !e && f && f->type != LF_END; f++)
		if (!left_out(f))
			e = add_member(&line, f);
	line.max = LOG_LINE_MAX;
	(void)buf_adds(&line, e ? ",\"cut\":true}\n" : "}\n");
	(void)buf_addv(b, buf_view(&line));
	buf_done(&line);
}

/* Appends text with whatever could move a terminal's cursor written out. */
static int add_printable(struct buf *b, struct view v)
{
	int r = 0;
	for (size_t i = 0; !r && i < v.n;) {
		unsigned char c = (unsigned char)v.p[i];
		size_t n = utf8_len(view_from(v, i));
		bool c1 = n == 2 && c == 0xc2 && (unsigned char)v.p[i + 1] < 0xa0;
		if (n == 0 || c < 0x20 || c == 0x7f || c1) {
			n = n ? n : 1;
			r = c1          ? buf_addf(b, "\\x%02x", (unsigned char)v.p[i + 1])
			    : c == '\n' ? buf_adds(b, "\\n")
					: buf_addf(b, "\\x%02x", c);
		} else {
			r = buf_add(b, v.p + i, n);
		}
		i += n;
	}
	return r;
}

static int add_printable_redacted(struct buf *b, struct view v)
{
	AUTO(buf_done) struct buf s = BUF(4 * LOG_STRING_MAX);
	int r = log_redact(&s, v);
	return r ? r : add_printable(b, buf_view(&s));
}

static int add_pair(struct buf *b, const char *key, const struct log_field *f)
{
	int r = buf_addf(b, " %s=", key);
	if (r)
		return r;
	if (f->type != LF_STR || log_key_is_secret(view_str(key)))
		return add_value(b, f);
	bool plain = f->s.n > 0;
	for (size_t i = 0; i < f->s.n; i++)
		plain = plain && (unsigned char)f->s.p[i] > ' ' && f->s.p[i] != '"';
	if (plain)
		return add_printable_redacted(b, f->s);
	r = buf_addc(b, '"');
	if (!r)
		r = add_printable_redacted(b, f->s);
	return r ? r : buf_addc(b, '"');
}

void log_format_console(struct buf *b, const struct log_record *r, bool colour)
{
	static const char *const words[] = { "debug", "info ", "WARN ", "ERROR" };
	static const char *const colours[] = { "\033[2m", "\033[32m", "\033[33m", "\033[1;31m" };
	enum { TAIL = 32 };
	struct buf line = BUF(LOG_LINE_MAX - TAIL);
	char ts[WALL_STR_LEN + 1];
	wall_format(r->wall_ms, ts);
	const char *dim = colour ? "\033[2m" : "", *off = colour ? "\033[0m" : "";
	int e = buf_addf(&line, "%s%.12s%s %s%s%s ", dim, ts + 11, off, colour ? colours[r->level] : "",
		words[r->level], off);
	if (!e)
		e = add_printable_redacted(&line, r->human);
	if (!e)
		e = buf_addf(&line, "%s ", dim);
	const struct log_field head[] = { LOG_STR("action", r->action), LOG_STR("target", r->target) };
	for (size_t i = 0; !e && i < ARRAY_LEN(head); i++)
		if (!left_out(&head[i]))
			e = add_pair(&line, head[i].key, &head[i]);
	for (const struct log_field *f = r->fields; !e && f && f->type != LF_END; f++)
		if (!left_out(f))
			e = add_pair(&line, f->key, f);
	line.max = LOG_LINE_MAX;
	(void)buf_addf(&line, "%s%s\n", e ? " …" : "", off);
	(void)buf_addv(b, buf_view(&line));
	buf_done(&line);
}
