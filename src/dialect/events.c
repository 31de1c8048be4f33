/* SPDX-License-Identifier: Apache-2.0
 *
 * Where events end. Server-sent events as the WHATWG standard has them: lines end with LF, CR or CRLF
 * in any mixture, an empty line ends an event, a line that starts with a colon is a comment. NDJSON: a
 * line is an event. Only the beginning of a line is looked at.
 */
#include <string.h>

#include "dialect/dialect.h"
#include "dialect/string_int.h"

enum event_format event_format_of(struct view type)
{
	struct view rest;
	type = view_trim(view_split(type, ';', &rest));
	if (view_eq_ci(type, VIEW("text/event-stream")))
		return EVENTS_SSE;
	if (view_eq_ci(type, VIEW("application/x-ndjson")) || view_eq_ci(type, VIEW("application/jsonl")) ||
		view_eq_ci(type, VIEW("application/ndjson")))
		return EVENTS_NDJSON;
	return EVENTS_NONE;
}

void event_split_init(struct event_split *s, enum event_format f)
{
	*s = (struct event_split){ .format = f };
}

static struct view skip_spaces(struct view v)
{
	while (v.n && (v.p[0] == ' ' || v.p[0] == '\t'))
		v = view_from(v, 1);
	return v;
}

/* Takes word off the front of *v. */
static bool take(struct view *v, struct view word)
{
	if (!view_starts(*v, word))
		return false;
	*v = skip_spaces(view_from(*v, word.n));
	return true;
}

static bool last_type(struct view name)
{
	return view_eqs(name, "message_stop") || view_eqs(name, "response.completed") ||
	       view_eqs(name, "response.failed") || view_eqs(name, "response.incomplete") ||
	       view_eqs(name, "error");
}

/* The data line of a stream's last event: [DONE], {"error": …, {"type":"message_stop" … */
static bool last_data(struct view v)
{
	if (view_starts(v, VIEW("[DONE]"))) /* as the official clients compare it */
		return true;
	if (!take(&v, VIEW("{")) || v.n < 2 || (v.p[1] != 'e' && v.p[1] != 't'))
		return false; /* nearly every one */
	if (take(&v, VIEW("\"error\"")))
		return take(&v, VIEW(":")) && (view_starts(v, VIEW("{")) || view_starts(v, VIEW("\"")));
	if (!take(&v, VIEW("\"type\"")) || !take(&v, VIEW(":")) || !view_starts(v, VIEW("\"")))
		return false;
	v = view_from(v, 1);
	size_t n = view_find(v, '"');
	return n < v.n && last_type(view_cut(v, n));
}

/* A line of an event is over: of len bytes, which begin with v. */
static void sse_line(struct event_split *s, struct view v, size_t len)
{
	bool whole = len <= sizeof s->line;
	if (!s->started && view_starts(v, VIEW("\xef\xbb\xbf")))
		v = view_from(v, 3); /* a byte order mark may open the stream */
	struct view value, name = view_split(v, ':', &value);
	if (view_starts(value, VIEW(" ")))
		value = view_from(value, 1);
	if (view_eqs(name, "data")) {
		s->has_data = true;
		s->ends |= last_data(skip_spaces(value));
	} else if (view_eqs(name, "event") && whole) {
		s->ends |= last_type(value);
		s->ping |= view_eqs(value, "ping");
	}
}

static void event_over(struct event_split *s)
{
	if (s->has_data) {
		s->events++;
		s->tokens += !s->ping;
		s->started = true;
		s->terminal |= s->ends;
	}
	s->has_data = s->ping = s->ends = s->passing = false;
	s->event_bytes = 0;
}

static void line_add(struct event_split *s, struct view v)
{
	if (s->line_len < sizeof s->line)
		memcpy(s->line + s->line_len, v.p, MIN(v.n, sizeof s->line - s->line_len));
	s->line_len = (uint32_t)MIN(s->line_len + v.n, (size_t)UINT32_MAX);
}

/* Where the next line ending starts, or v.n. */
static size_t line_end(struct view v)
{
	size_t lf = view_find(v, '\n');
	return view_find(view_cut(v, lf), '\r');
}

static size_t feed_sse(struct event_split *s, struct view v)
{
	size_t end = 0; /* of the last whole event */
	for (size_t i = 0; i < v.n;) {
		if (s->after_cr && v.p[i] == '\n') {
			/* the second half of CRLF belongs to the line that is over */
			s->after_cr = false;
			i++;
			if (s->event_bytes == 0)
				end = i;
			else
				s->event_bytes++;
			continue;
		}
		s->after_cr = false;
		size_t n = line_end(view_from(v, i));
		struct view line = view_cut(view_from(v, i), n);
		bool here = s->line_len == 0 && i + n < v.n; /* all of it: it needs no copy */
		if (!here)
			line_add(s, line);
		s->event_bytes += n;
		i += n;
		if (i == v.n)
			break;
		s->after_cr = v.p[i] == '\r';
		s->event_bytes++;
		i++;
		if (here && n) {
			sse_line(s, view_cut(line, sizeof s->line), n);
		} else if (s->line_len) {
			sse_line(s, view_of(s->line, MIN((size_t)s->line_len, sizeof s->line)), s->line_len);
		} else {
			event_over(s);
			end = i;
		}
		s->line_len = 0;
	}
	return end;
}

/* ---- NDJSON: is "done": true or "error": a key of the line's own object? ---------------------------- */

enum json_state { J_OUT, J_STRING, J_ESCAPE, J_AFTER_STRING, J_AFTER_DONE };

static void ndjson_byte(struct event_split *s, char c)
{
	switch ((enum json_state)s->json_state) {
	case J_STRING:
		if (c == '\\')
			s->json_state = J_ESCAPE;
		else if (c == '"')
			s->json_state = s->depth == 1 ? J_AFTER_STRING : J_OUT;
		else
			line_add(s, view_of(&c, 1));
		return;
	case J_ESCAPE:
		line_add(s, VIEW("\\"));
		s->json_state = J_STRING;
		return;
	case J_AFTER_STRING:
		if (c == ' ')
			return;
		s->json_state = J_OUT;
		if (c == ':') {
			struct view key = view_of(s->line, MIN((size_t)s->line_len, sizeof s->line));
			s->ends |= view_eqs(key, "error");
			s->json_state = view_eqs(key, "done") ? J_AFTER_DONE : J_OUT;
			return;
		}
		break;
	case J_AFTER_DONE:
		if (c == ' ')
			return;
		s->ends |= c == 't';
		s->json_state = J_OUT;
		break;
	case J_OUT: break;
	}
	if (c == '"') {
		s->json_state = J_STRING;
		s->line_len = 0;
	} else if (c == '{' || c == '[') {
		s->depth++;
	} else if ((c == '}' || c == ']') && s->depth) {
		s->depth--;
	}
}

static size_t feed_ndjson(struct event_split *s, struct view v)
{
	size_t end = 0;
	for (size_t i = 0; i < v.n; i++) {
		if (s->json_state == J_STRING) { /* most of it is these */
			size_t n = (size_t)(string_plain_end(v.p + i, v.p + v.n) - (v.p + i));
			line_add(s, view_cut(view_from(v, i), n));
			s->event_bytes += n;
			i += n;
			if (i == v.n)
				break;
		}
		s->event_bytes++;
		if (v.p[i] == '\n') {
			event_over(s);
			s->json_state = J_OUT;
			s->depth = 0;
			end = i + 1;
		} else if (v.p[i] != '\r') {
			s->has_data = true;
			ndjson_byte(s, v.p[i]);
		}
	}
	return end;
}

size_t event_split_feed(struct event_split *s, struct view v)
{
	if (s->format == EVENTS_NONE)
		return v.n;
	size_t end = s->format == EVENTS_SSE ? feed_sse(s, v) : feed_ndjson(s, v);
	if (s->event_bytes > EVENT_HOLD_MAX)
		s->passing = true;
	return s->passing ? v.n : end;
}

size_t event_first(enum event_format f, struct view v)
{
	bool blank = f == EVENTS_NDJSON; /* the line being read has nothing in it */
	for (size_t i = 0; i < v.n; i++) {
		if (v.p[i] == '\n' && blank)
			return i + 1;
		blank = v.p[i] == '\n' || (v.p[i] == '\r' && blank) || f == EVENTS_NDJSON;
	}
	return v.n;
}
