/* SPDX-License-Identifier: Apache-2.0
 *
 * What a program calls itself, asked once. The cache is lines of
 * "version TAB mtime_ns TAB size TAB inode TAB path", the newest first, at most 64.
 */
#include <stdlib.h>
#include <sys/stat.h>

#include "base/num.h"
#include "provision/engine/engine_int.h"

enum { CACHE_MAX = 64 * 1024, CACHE_LINES = 64 };

static bool is_version_char(char c)
{
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
	       (c && strchr(".+~-_", c));
}

/* The first word of v that starts with a digit, optionally after one 'b' or 'v'. */
static struct view version_word(struct view v)
{
	v = view_trim(v);
	size_t n = 0;
	while (n < v.n && is_version_char(v.p[n]))
		n++;
	size_t digit = v.n && (v.p[0] == 'b' || v.p[0] == 'v') ? 1 : 0;
	if (n <= digit || n > 64 || v.p[digit] < '0' || v.p[digit] > '9')
		return (struct view){ 0 };
	return view_cut(v, n);
}

char *version_parse(struct view text)
{
	struct view line, rest = text;
	while (rest.p) {
		line = view_split(rest, '\n', &rest);
		if (!view_starts(line, VIEW("version:")) && !view_starts(line, VIEW("version ")))
			continue;
		struct view w = version_word(view_from(line, sizeof("version:") - 1));
		if (!w.n)
			continue;
		uint64_t number;
		if (num_u64(w, &number) == 0)
			return mem_fmt("b%llu", (unsigned long long)number); /* upstream's build number */
		return mem_viewdup(w);
	}
	rest = text; /* others: "name 1.2.3" on the first line */
	line = view_split(rest, '\n', &rest);
	while (line.p && line.n) {
		struct view w = version_word(view_split(line, ' ', &line));
		if (w.n && view_find(w, '.') < w.n)
			return mem_viewdup(w);
	}
	return NULL;
}

static char *stamp_of(const char *program)
{
	struct stat st;
	if (stat(program, &st) < 0 || strpbrk(program, "\t\n"))
		return NULL;
	return mem_fmt("%lld\t%lld\t%llu\t%s", (long long)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec,
		(long long)st.st_size, (unsigned long long)st.st_ino, program);
}

char *probe_cached(const char *cache_file, const char *program)
{
	AUTO(mem_freep) char *stamp = cache_file ? stamp_of(program) : NULL;
	AUTO(buf_done) struct buf b = BUF(CACHE_MAX);
	if (!stamp || file_read(cache_file, &b) < 0)
		return NULL;
	struct view rest = buf_view(&b);
	while (rest.p) {
		struct view after, line = view_split(rest, '\n', &rest);
		struct view version = view_split(line, '\t', &after);
		if (version.n && view_eqs(after, stamp))
			return mem_viewdup(version);
	}
	return NULL;
}

void probe_remember(const char *cache_file, const char *program, const char *version)
{
	AUTO(mem_freep) char *stamp = cache_file ? stamp_of(program) : NULL;
	if (!stamp)
		return;
	AUTO(buf_done) struct buf old = BUF(CACHE_MAX);
	AUTO(buf_done) struct buf b = BUF(2 * CACHE_MAX);
	(void)buf_addf(&b, "%s\t%s\n", version, stamp);
	if (file_read(cache_file, &old) < 0)
		buf_reset(&old); /* missing, unreadable or too large: begun anew */
	struct view path = view_str(program), rest = buf_view(&old);
	for (int lines = 1; rest.p && lines < CACHE_LINES;) {
		struct view line = view_split(rest, '\n', &rest);
		bool same = view_ends(line, path) && line.n > path.n && line.p[line.n - path.n - 1] == '\t';
		if (!line.n || same)
			continue;
		(void)buf_addf(&b, "%.*s\n", VIEW_ARG(line));
		lines++;
	}
	if (file_write_atomic(cache_file, buf_view(&b), 0600, false) < 0)
		return; /* only a cache: it is asked again next time */
}
