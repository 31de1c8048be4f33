/* SPDX-License-Identifier: Apache-2.0
 *
 * UTF-8 (RFC 3629): no surrogates, no overlong forms, nothing above U+10FFFF.
 */
#ifndef BASE_UTF8_H
#define BASE_UTF8_H

#include "base/view.h"

/* Bytes of the character at the start of v (1..4), or 0 when it is not UTF-8. */
size_t utf8_len(struct view v);
/* Writes code point cp (at most U+10FFFF) to out, returns 1..4. */
size_t utf8_put(char out[4], uint32_t cp);
bool utf8_valid(struct view v);

#endif
