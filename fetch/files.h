/* SPDX-License-Identifier: Apache-2.0
 *
 * The operations, each from a whole job to a whole result. They return when they are done; a signal that
 * ends the process in between leaves what the next one goes on with.
 */
#ifndef FETCH_FILES_H
#define FETCH_FILES_H

#include "job.h"
#include "report.h"

int op_files(const struct job *j, struct result *ret, struct fail *f) MUST_CHECK;
int op_text(const struct job *j, struct result *ret, struct fail *f) MUST_CHECK;
int op_hash(const struct job *j, struct result *ret, struct fail *f) MUST_CHECK;
int op_unpack(const struct job *j, struct result *ret, struct fail *f) MUST_CHECK;
/* SHA-256 of one file; after ndone of total bytes of all. */
int hash_file(const struct job_file *file, struct found *ret, struct report *r, struct progress *p,
	struct fail *f) MUST_CHECK;

#endif
