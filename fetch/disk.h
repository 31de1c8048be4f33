/* SPDX-License-Identifier: Apache-2.0
 *
 * Room on a disk, and what a person is told when something cannot be written.
 */
#ifndef FETCH_DISK_H
#define FETCH_DISK_H

#include "job.h"

/* The folder a path lies in; the caller frees it. */
char *folder_of(const char *path) MUST_CHECK;
int folder_sync(const char *folder) MUST_CHECK;
/* Is there room for `need` bytes and `headroom` besides where folder is (or will be)? */
int disk_check(const char *folder, uint64_t need, uint64_t headroom, struct fail *f) MUST_CHECK;
/* The same for all files of a job, each disk with what comes onto it. */
int disk_check_job(const struct job *j, struct fail *f) MUST_CHECK;
/* "<what> <path>: …" for a negative errno; returns -1. */
int disk_fail(struct fail *f, const char *path, const char *what, int error);

#endif
