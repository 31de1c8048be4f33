/* SPDX-License-Identifier: Apache-2.0
 *
 * A list of strings it owns; items is NULL-terminated as execv wants it once something was added.
 */
#ifndef BASE_STRV_H
#define BASE_STRV_H

#include "base/err.h"
#include "base/view.h"

struct strv {
	char **items;
	size_t len;
};

void strv_done(struct strv *v);               /* for AUTO(strv_done) struct strv v = { 0 }; */
void strv_add(struct strv *v, const char *s); /* copies */
void strv_addv(struct strv *v, struct view s);
void strv_addf(struct strv *v, const char *fmt, ...) PRINTF(2, 3);
void strv_copy(struct strv *to, const struct strv *from); /* appends */
bool strv_has(const struct strv *v, const char *s);
bool strv_eq(const struct strv *a, const struct strv *b);
/* Splits as a POSIX shell splits words ('…', "…", backslash), with no expansion of anything.
 * -EINVAL with the reason (an unclosed quote) and nothing added. */
int strv_shell_words(struct strv *v, struct view text, struct err *reterr) MUST_CHECK;

#endif
