/* SPDX-License-Identifier: Apache-2.0
 *
 * The multipart scanner. A boundary holds no CR, so bytes that begin like the mark (CRLF, "--", boundary) and
 * do not go on like it hold no second beginning inside: one counter is all the matching needs.
 */
#include "dialect/multipart.h"

#include <string.h>

#include "base/utf8.h"

enum state {
	M_FIRST,     /* the first boundary, which has no CRLF before it */
	M_TAIL,      /* right after a boundary */
	M_TAIL_LF,   /* after its CR */
	M_TAIL_DASH, /* after "-" of the last one's "--" */
	M_LINE,      /* a part's header line */
	M_LINE_LF,
	M_DATA,
	M_OVER, /* after the last boundary */
	M_OVER_LF,
	M_DONE,
};
enum field { F_NONE, F_MODEL, F_STREAM };

static int fail(struct multipart_scan *s, const char *what)
{
	s->failed = true;
	return err_set(&s->err, -EINVAL, "the form is not accepted at byte %llu: %s",
		(unsigned long long)s->bytes, what);
}

/* ---- the content type -------------------------------------------------------------------------------- */

static bool boundary_ok(struct view b)
{
	if (!b.n || b.n > MULTIPART_BOUNDARY_MAX || b.p[b.n - 1] == ' ')
		return false;
	for (size_t i = 0; i < b.n; i++) {
		char c = b.p[i];
		bool word = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
		if (!word && (!c || !strchr("'()+_,-./:=? ", c)))
			return false;
	}
	return true;
}

/* Takes the next parameter off *rest ("; name=value" or "; name=\"value\""): its name, and its value in out
 * with the escapes of a quoted one undone. 1, 0 at the end, -EINVAL. */
static int next_param(struct view *rest, struct view *ret_name, char *out, size_t cap, size_t *ret_len)
{
	struct view v = view_trim(*rest);
	while (v.n && v.p[0] == ';')
		v = view_trim(view_from(v, 1));
	*rest = v;
	if (!v.n)
		return 0;
	size_t eq = view_find(v, '=');
	if (eq == v.n || view_find(view_cut(v, eq), ';') != eq)
		return -EINVAL;
	*ret_name = view_trim(view_cut(v, eq));
	v = view_trim(view_from(v, eq + 1));
	bool quoted = v.n && v.p[0] == '"', closed = !quoted;
	size_t i = quoted, n = 0;
	for (; i < v.n; i++) {
		char c = v.p[i];
		if (quoted ? c == '"' : c == ';' || c == ' ' || c == '\t') {
			closed = true;
			break;
		}
		if (quoted && c == '\\' && i + 1 < v.n && (v.p[i + 1] == '"' || v.p[i + 1] == '\\'))
			c = v.p[++i];
		if (n == cap)
			return -EINVAL;
		out[n++] = c;
	}
	v = view_trim(view_from(v, i + (quoted && closed)));
	if (!closed || (v.n && v.p[0] != ';'))
		return -EINVAL;
	*ret_len = n;
	*rest = v;
	return 1;
}

int multipart_scan_init(struct multipart_scan *s, struct view type)
{
	char value[MULTIPART_LINE_MAX];
	struct view name, rest;
	size_t n = 0;
	int found = 0, r;
	memset(s, 0, sizeof *s);
	(void)view_split(type, ';', &rest);
	while ((r = next_param(&rest, &name, value, sizeof value, &n)) > 0) {
		if (!view_eq_ci(name, VIEW("boundary")))
			continue;
		found++;
		if (!boundary_ok(view_of(value, n)))
			r = -EINVAL;
		if (r < 0 || found > 1)
			break;
		memcpy(s->mark, "\r\n--", 4);
		memcpy(s->mark + 4, value, n);
		s->mark_len = 4 + n;
	}
	if (r >= 0 && found == 1) {
		s->state = M_FIRST;
		s->matched = 2; /* as if the CRLF had been there */
		return 0;
	}
	s->failed = true;
	return err_set(&s->err, -EINVAL,
		"the Content-Type multipart/form-data needs exactly one boundary of 1 to %d of the "
		"characters RFC 2046 allows",
		MULTIPART_BOUNDARY_MAX);
}

/* ---- a part's head ---------------------------------------------------------------------------------------
 */

static int named(struct multipart_scan *s, struct view name, bool file)
{
	bool model = view_eqs(name, "model"), stream = view_eqs(name, "stream");
	if (!model && !stream)
		return 0;
	if (file)
		return fail(s, model ? "`model` is sent as a file; send it as a field"
				     : "`stream` is sent as a file; send it as a field");
	if (model && s->seen_model)
		return fail(s, "`model` stands here a second time; send it once");
	if (stream && s->seen_stream)
		return fail(s, "`stream` stands here a second time; send it once");
	s->seen_model |= model;
	s->seen_stream |= stream;
	s->field = model ? F_MODEL : F_STREAM;
	return 0;
}

static int disposition(struct multipart_scan *s, struct view v)
{
	char value[MULTIPART_LINE_MAX], name[64];
	struct view key, rest;
	size_t n = 0, name_len = 0;
	bool has_name = false, file = false;
	int r;
	if (s->has_disposition)
		return fail(s, "a part has two Content-Disposition lines");
	s->has_disposition = true;
	if (!view_eq_ci(view_trim(view_split(v, ';', &rest)), VIEW("form-data")))
		return fail(s, "a part's Content-Disposition is not form-data");
	while ((r = next_param(&rest, &key, value, sizeof value, &n)) > 0) {
		if (view_eq_ci(key, VIEW("filename")) || view_eq_ci(key, VIEW("filename*"))) {
			file = true;
			continue;
		}
		if (view_eq_ci(key, VIEW("name*")) || (view_eq_ci(key, VIEW("name")) && has_name))
			return fail(s, "a part has more than one name");
		if (!view_eq_ci(key, VIEW("name")))
			continue;
		has_name = true;
		name_len = MIN(n, sizeof name); /* longer ones are nobody's we know */
		memcpy(name, value, name_len);
	}
	if (r < 0)
		return fail(s, "a part's Content-Disposition cannot be read");
	if (!has_name)
		return fail(s, "a part has no name");
	return named(s, view_of(name, name_len), file);
}

static int header_line(struct multipart_scan *s)
{
	struct view value, line = view_of(s->line, s->line_len);
	if (!line.n) { /* the head is over */
		if (!s->has_disposition)
			return fail(s, "a part has no Content-Disposition");
		s->state = M_DATA;
		s->matched = 0;
		s->text_len = 0;
		if (s->field == F_MODEL)
			s->model_begin = s->bytes + 1;
		return 0;
	}
	if (++s->lines > MULTIPART_LINES_MAX)
		return fail(s, "a part has more than 16 header lines");
	if (line.p[0] == ' ' || line.p[0] == '\t')
		return fail(s, "a part's header goes on on a second line; write it on one");
	struct view name = view_split(line, ':', &value);
	if (!value.p)
		return fail(s, "a part's header line has no colon");
	if (memchr(line.p, '\0', line.n))
		return fail(s, "a part's header has a NUL character in it");
	if (view_eq_ci(view_trim(name), VIEW("content-disposition")))
		return disposition(s, value);
	return 0;
}

/* ---- a part's data ---------------------------------------------------------------------------------------
 */

/* v stands at byte `at` of the body. */
static int keep(struct multipart_scan *s, struct view v, uint64_t at)
{
	size_t room = sizeof s->text - s->text_len;
	if (s->field == F_NONE)
		return 0;
	if (v.n > room)
		s->bytes = at + room; /* the first one too many, however the body was cut */
	if (v.n > room)
		return fail(s, s->field == F_MODEL ? "`model` is longer than 512 bytes"
						   : "`stream` is neither true nor false");
	memcpy(s->text + s->text_len, v.p, v.n);
	s->text_len += v.n;
	return 0;
}

static int end_model(struct multipart_scan *s)
{
	for (size_t i = 0; i < s->text_len; i++)
		if ((unsigned char)s->text[i] < ' ' || s->text[i] == 0x7f)
			return fail(s, "`model` has a control character in it");
	if (!utf8_valid(view_of(s->text, s->text_len)))
		return fail(s, "`model` is not UTF-8");
	s->has_model = true;
	s->model_len = s->text_len;
	memcpy(s->model, s->text, s->text_len);
	s->model[s->text_len] = '\0';
	s->model_end = s->model_begin + s->text_len;
	return 0;
}

/* A boundary was seen whole: the part before it is over. */
static int end_part(struct multipart_scan *s)
{
	struct view v = view_of(s->text, s->text_len);
	int r = 0;
	if (s->field == F_MODEL) {
		r = end_model(s);
	} else if (s->field == F_STREAM) {
		s->stream = view_eq_ci(v, VIEW("true")) || view_eqs(v, "1");
		s->has_stream = true;
		if (!s->stream && !view_eq_ci(v, VIEW("false")) && !view_eqs(v, "0"))
			r = fail(s, "`stream` is neither true nor false");
	}
	s->state = M_TAIL;
	s->field = F_NONE;
	s->has_disposition = false;
	s->lines = s->line_len = 0;
	return r;
}

/* Reads data up to the next boundary; how many bytes of v were used, or -EINVAL. */
static ptrdiff_t data(struct multipart_scan *s, struct view v)
{
	size_t i = 0;
	int r;
	while (i < v.n) {
		if (!s->matched) {
			size_t n = view_find(view_from(v, i), '\r');
			r = keep(s, view_of(v.p + i, n), s->bytes);
			if (r)
				return r;
			i += n;
			s->bytes += n;
			if (i == v.n)
				break;
		}
		if (v.p[i] != s->mark[s->matched]) { /* it only began like one: data after all */
			r = keep(s, view_of(s->mark, s->matched), s->bytes - s->matched);
			s->matched = 0;
			if (r)
				return r;
			continue;
		}
		i++;
		s->bytes++;
		if (++s->matched == s->mark_len) {
			r = end_part(s);
			return r ? r : (ptrdiff_t)i;
		}
	}
	return (ptrdiff_t)i;
}

/* ---- the whole -------------------------------------------------------------------------------------------
 */

static int line_byte(struct multipart_scan *s, char c)
{
	if (c == '\r') {
		s->state = M_LINE_LF;
		return 0;
	}
	if (c == '\n')
		return fail(s, "a part's header line ends without CR");
	if (s->line_len == sizeof s->line)
		return fail(s, "a part's header line is longer than 2048 bytes");
	s->line[s->line_len++] = c;
	return 0;
}

static int byte(struct multipart_scan *s, char c)
{
	int r;
	switch ((enum state)s->state) {
	case M_FIRST:
		if (c != s->mark[s->matched])
			return fail(s, "it does not begin with the boundary that its Content-Type names");
		if (++s->matched == s->mark_len)
			s->state = M_TAIL;
		return 0;
	case M_TAIL:
		s->state = c == '-' ? M_TAIL_DASH : M_TAIL_LF;
		return c == '-' || c == '\r' ? 0 : fail(s, "something follows a boundary on its line");
	case M_TAIL_LF:
	case M_OVER_LF:
		if (c != '\n')
			return fail(s, "a line ends with CR alone");
		s->state = s->state == M_OVER_LF ? M_DONE : M_LINE;
		return 0;
	case M_TAIL_DASH:
		s->state = M_OVER;
		return c == '-' ? 0 : fail(s, "something follows a boundary on its line");
	case M_LINE: return line_byte(s, c);
	case M_LINE_LF:
		if (c != '\n')
			return fail(s, "a part's header has a CR in the middle of a line");
		s->state = M_LINE;
		r = header_line(s);
		s->line_len = 0;
		return r;
	case M_OVER: s->state = M_OVER_LF; return c == '\r' ? 0 : fail(s, "bytes follow the last boundary");
	case M_DONE: return fail(s, "bytes follow the last boundary");
	case M_DATA: break;
	}
	return 0;
}

int multipart_scan_feed(struct multipart_scan *s, struct view v)
{
	if (s->failed)
		return -EINVAL;
	while (v.n) {
		if (s->state == M_DATA) {
			ptrdiff_t n = data(s, v);
			if (n < 0)
				return (int)n;
			v = view_from(v, (size_t)n);
			continue;
		}
		int r = byte(s, v.p[0]);
		if (r)
			return r;
		s->bytes++;
		v = view_from(v, 1);
	}
	return 0;
}

int multipart_scan_end(struct multipart_scan *s)
{
	if (s->failed)
		return -EINVAL;
	if (s->state != M_OVER && s->state != M_DONE)
		return fail(s, "it ends before its last boundary");
	return 0;
}
