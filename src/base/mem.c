/* SPDX-License-Identifier: Apache-2.0 */
#include "base/mem.h"

#include <stdio.h>
#include <string.h>

static _Noreturn void mem_gone(size_t n)
{
	fprintf(stderr, "corral: out of memory (%zu bytes)\n", n);
	abort();
}

void *mem_try_alloc(size_t n)
{
	return calloc(1, n ? n : 1);
}

void *mem_alloc(size_t n)
{
	void *p = mem_try_alloc(n);
	if (!p)
		mem_gone(n);
	return p;
}

void *mem_realloc(void *p, size_t n)
{
	void *q = realloc(p, n ? n : 1);
	if (!q)
		mem_gone(n);
	return q;
}

char *mem_strdup(const char *s)
{
	return s ? mem_viewdup(view_str(s)) : NULL;
}

char *mem_viewdup(struct view v)
{
	char *p = mem_alloc(v.n + 1);
	if (v.n)
		memcpy(p, v.p, v.n);
	return p;
}

char *mem_vfmt(const char *fmt, va_list ap)
{
	char *s = NULL;
	if (vasprintf(&s, fmt, ap) < 0 || !s)
		mem_gone(0);
	return s;
}

char *mem_fmt(const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	char *s = mem_vfmt(fmt, ap);
	va_end(ap);
	return s;
}

void mem_setstr(char **pp, const char *s)
{
	char *n = mem_strdup(s);
	free(*pp);
	*pp = n;
}
