/* SPDX-License-Identifier: Apache-2.0
 *
 * An error a person will read: a negative errno for the program, a sentence for the person.
 * Low-level functions return 0 or a negative errno and never fill one of these; functions whose
 * failure somebody reads take a `struct err *reterr` last, set only on failure. NULL is allowed.
 */
#ifndef BASE_ERR_H
#define BASE_ERR_H

#include "base/base.h"

enum { ERR_MSG_MAX = 512 };

struct err {
	int code;              /* negative errno; 0 = no error */
	char msg[ERR_MSG_MAX]; /* one sentence: what failed, on what, what to do; cut, never overrun */
};

/* Sets *e (may be NULL) and returns code, so that callers write `return err_set(...)`. */
int err_set(struct err *e, int code, const char *fmt, ...) PRINTF(3, 4);
/* Puts "prefix: " before the message that is there. Returns e->code (0 for NULL). */
int err_prefix(struct err *e, const char *fmt, ...) PRINTF(2, 3);

#endif
