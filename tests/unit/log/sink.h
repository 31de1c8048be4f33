/* SPDX-License-Identifier: Apache-2.0
 *
 * A log that writes into a pipe, and what came out of it.
 */
#ifndef TEST_LOG_SINK_H
#define TEST_LOG_SINK_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/buf.h"
#include "log/log.h"

/* log_start with actor "tester" at info; queue 0: the usual bound. */
void start(int fd, enum log_format format, size_t queue);
/* Reads until the other end is closed. */
void read_all(int fd, struct buf *b);
size_t count(const struct buf *b, const char *what);
/* The sum of all "N lines were dropped": the writer may tell in two parts. */
uint64_t told_dropped(const struct buf *b);

/* A thread that reads all. */
struct reader {
	int fd;
	struct buf b;
};
void *reader_main(void *reader);

#endif
