/* SPDX-License-Identifier: Apache-2.0
 *
 * What is told of fetching a model, for people and as JSON, and what is kept of it: the same words on the
 * node's socket, in a replica's progress and of a command that runs without a daemon. No state.
 */
#ifndef PROVISION_CATALOG_TELL_H
#define PROVISION_CATALOG_TELL_H

#include "base/buf.h"
#include "provision/catalog/catalog.h"
#include "provision/model/want.h"

enum { TELL_WORDS_MAX = 160, TELL_JSON_MAX = 64 * 1024 };
/* "1.2 GiB of 4.6 GiB, 12 MiB/s, 4m left" */
void tell_words(const struct fetch_progress *p, char out[TELL_WORDS_MAX]);
const char *tell_hint(enum fetch_why why); /* what to do about it */
/* {"phase", "bytes", "total", "rate", "eta_ms", "text"} */
void tell_progress(const struct fetch_progress *p, struct buf *b);
/* {"error": {"cause", "message", "hint"}} */
void tell_error(enum fetch_why why, const char *message, struct buf *b);
/* {"id", "reference", "path", "size_bytes", "fetched_bytes", "warning"?}; c may be NULL */
void tell_got(struct catalog *c, const struct model_got *got, struct buf *b);

/* For on_fetch of a job that ends in catalog_note. */
void catalog_coming(struct catalog *c, const struct model_coming *files, size_t n);
void catalog_not_coming(struct catalog *c, const struct model_coming *files, size_t n);
/* Puts what was got into the catalog, with what its header says (read here: blocks for some MiB). */
void catalog_note(struct catalog *c, const struct model_set *set, const struct model_got *got);

#endif
