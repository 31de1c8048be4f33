/* SPDX-License-Identifier: Apache-2.0
 *
 * Addresses as people may see them: in logs, listings, answers, and in what is kept. What stands before an
 * "@" is a password, and a query may be a signature.
 */
#ifndef BASE_URL_H
#define BASE_URL_H

#include "base/view.h"

/* text, with every "scheme://user:secret@host/path?query" in it as "scheme://host/path?…". */
char *url_redact(struct view text) MUST_CHECK;
/* A model's reference: "https://host/m.gguf?query" is "https://host/m.gguf#" and 16 digits, other ones for
 * another query, so that two of them stay two. Any other is as it is. NULL of NULL. */
char *ref_shown(const char *ref) MUST_CHECK;
/* FNV-1a, 64 bits: for short names, not for secrets. */
uint64_t text_hash(struct view v);

#endif
