/* SPDX-License-Identifier: Apache-2.0
 *
 * What goes to corral-fetch and what comes from it, as JSON: ask.c writes, read.c reads.
 */
#ifndef PROVISION_FETCH_FETCH_INT_H
#define PROVISION_FETCH_FETCH_INT_H

#include "base/buf.h"
#include "provision/fetch/fetch.h"

enum { FETCH_DOCUMENT_MAX = 64 * 1024 * 1024, FETCH_LINE_MAX = 64 * 1024 * 1024 };

/* The document of a request; -EINVAL with what is wrong in it. */
int fetch_ask(const struct fetch_request *q, struct buf *ret, struct err *reterr) MUST_CHECK;

/* One line of what it says. */
struct fetch_line {
	bool is_progress, is_result;
	struct fetch_progress progress; /* text: points into doc */
	struct fetch_result result;
	enum fetch_why why;
	char *error; /* NULL: none */
	void *doc;
};
int fetch_read(struct view line, struct fetch_line *ret) MUST_CHECK; /* -EINVAL: it is none of ours */
void fetch_line_done(struct fetch_line *l);

#endif
