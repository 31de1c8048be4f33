/* SPDX-License-Identifier: Apache-2.0
 *
 * What git, CMake, ninja, make and compilers print: how far they are, and the line that says what went wrong.
 */
#include <stdlib.h>

#include "base/mem.h"
#include "provision/engine/source.h"

enum { ERROR_MAX = 300 };

void source_output_done(struct source_output *o)
{
	for (size_t i = 0; i < ARRAY_LEN(o->errors); i++)
		free(o->errors[i]);
	*o = (struct source_output){ .pct = -1 };
}

/* What says the cause itself; what says that something went wrong; what only says that all is over. */
static const struct {
	const char *words;
	int class;
	bool first; /* at the beginning of the line alone */
} patterns[] = {
	{ "collect2: error", 2, true }, /* before what it contains */
	{ ": fatal error: ", 0, false },
	{ ": error: ", 0, false },
	{ "CMake Error", 0, true },
	{ "fatal: ", 0, true },
	{ "nvcc fatal", 0, true },
	{ "undefined reference to", 1, false },
	{ "error: ", 1, true },
	{ "ld: cannot find", 1, false },
	{ "ninja: error:", 2, true },
	{ "FAILED: ", 2, true },
	{ "*** [", 2, false },
};

static int class_of(struct view line)
{
	for (size_t i = 0; i < ARRAY_LEN(patterns); i++) {
		struct view words = view_str(patterns[i].words);
		if (patterns[i].first ? view_starts(line, words) : view_search(line, words) >= 0)
			return patterns[i].class;
	}
	return -1;
}

static bool number(struct view *v, unsigned *ret)
{
	size_t n = 0;
	unsigned x = 0;
	while (n < v->n && v->p[n] == ' ')
		n++;
	size_t from = n;
	for (; n < v->n && n < from + 6 && v->p[n] >= '0' && v->p[n] <= '9'; n++)
		x = x * 10 + (unsigned)(v->p[n] - '0');
	*ret = x;
	*v = view_from(*v, n);
	return n > from;
}

/* "[12/340] …", "[ 35%] …", "Receiving objects:  45% (…", or -1. */
static int percent_of(struct view line)
{
	unsigned a, b;
	struct view v = line;
	if (view_starts(v, VIEW("Receiving objects:")) || view_starts(v, VIEW("remote: Counting objects:")))
		v = view_from(v, view_find(v, ':') + 1);
	else if (view_starts(v, VIEW("[")))
		v = view_from(v, 1);
	else
		return -1;
	if (!number(&v, &a))
		return -1;
	if (view_starts(v, VIEW("%")))
		return a <= 100 ? (int)a : -1;
	if (!view_starts(v, VIEW("/")))
		return -1;
	v = view_from(v, 1);
	return number(&v, &b) && b && a <= b ? (int)(a * 100 / b) : -1;
}

static void join(char **error, struct view more)
{
	struct view have = view_str(*error);
	if (have.n >= ERROR_MAX || !more.n)
		return;
	char *both = mem_fmt("%s %.*s", *error, VIEW_ARG(view_cut(more, ERROR_MAX - have.n)));
	free(*error);
	*error = both;
}

/* CMake's message stands in the indented lines below its first. */
static bool go_on(struct source_output *o, struct view line)
{
	bool end = line.n && line.p[0] != ' ' && line.p[0] != '\t';
	if (!o->joining || end || view_starts(view_trim(line), VIEW("Call Stack"))) {
		o->joining = false;
		return false;
	}
	join(&o->errors[0], view_trim(line));
	return true;
}

bool source_output_line(struct source_output *o, struct view line)
{
	int pct = percent_of(line);
	o->no_space |= view_search(line, VIEW("No space left on device")) >= 0;
	o->read_only |= view_search(line, VIEW("Read-only file system")) >= 0;
	o->killed |= view_search(line, VIEW("Killed signal terminated program")) >= 0;
	if (!go_on(o, line)) {
		int class = class_of(line);
		if (class >= 0 && !o->errors[class]) {
			o->errors[class] = mem_viewdup(view_cut(view_trim(line), ERROR_MAX));
			o->joining = class == 0 && view_starts(line, VIEW("CMake Error"));
		}
	}
	if (pct < 0 || pct == o->pct)
		return false;
	o->pct = pct;
	return true;
}

const char *source_output_error(const struct source_output *o)
{
	for (size_t i = 0; i < ARRAY_LEN(o->errors); i++)
		if (o->errors[i])
			return o->errors[i];
	return NULL;
}
