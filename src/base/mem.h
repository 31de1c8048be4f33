/* SPDX-License-Identifier: Apache-2.0
 *
 * Allocation. mem_alloc and its kin are for small sizes that no peer or file chooses: when memory
 * is gone they end the process. mem_try_alloc is for sizes a peer or a file influences.
 */
#ifndef BASE_MEM_H
#define BASE_MEM_H

#include <stdarg.h>
#include <stdlib.h>

#include "base/base.h"
#include "base/view.h"

void *mem_alloc(size_t n) MUST_CHECK __attribute__((malloc, returns_nonnull)); /* zeroed */
void *mem_realloc(void *p, size_t n) MUST_CHECK
	__attribute__((returns_nonnull));   /* grows: new part is not zeroed */
void *mem_try_alloc(size_t n) MUST_CHECK;   /* zeroed, or NULL */
char *mem_strdup(const char *s) MUST_CHECK; /* NULL gives NULL */
char *mem_viewdup(struct view v) MUST_CHECK __attribute__((returns_nonnull)); /* NUL-terminated copy */
char *mem_fmt(const char *fmt, ...) PRINTF(1, 2) MUST_CHECK
	__attribute__((returns_nonnull)); /* a formatted string the caller frees */
char *mem_vfmt(const char *fmt, va_list ap) PRINTF(1, 0) MUST_CHECK;

#define NEW(type) ((type *)mem_alloc(sizeof(type)))

/* For AUTO(mem_freep) char *s = ...; works for any pointer variable. */
static inline void mem_freep(void *pp)
{
	void *p = *(void **)pp;
	free(p);
}

/* Moves a pointer out: returns it and leaves NULL behind. */
static inline void *mem_take_(void **pp)
{
	void *p = *pp;
	*pp = NULL;
	return p;
}
#define MEM_TAKE(p) ((__typeof__(p))mem_take_((void **)&(p)))

/* Replaces the string *pp by a copy of s (NULL allowed). */
void mem_setstr(char **pp, const char *s);

#endif
