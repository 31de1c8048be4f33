/* SPDX-License-Identifier: Apache-2.0
 *
 * One short greedy answer of a pool, asked as anybody asks, and two of them compared: what an engine that
 * replaces another one is judged by.
 */
#ifndef DIALECT_SAMPLE_H
#define DIALECT_SAMPLE_H

#include "base/buf.h"

enum { SAMPLE_TOKENS = 32, SAMPLE_MS = 10 * 60 * 1000 };

struct sample {
	bool asked, answered;
	int status; /* 0: no answer came */
	char *text;
	double per_s; /* tokens a second; 0: not told */
};
void sample_done(struct sample *s);
/* Appends the body of the question, for /v1/chat/completions. */
void sample_request(const char *pool, struct buf *ret);
void sample_read(int status, struct view body, struct sample *s);
bool sample_busy(const struct sample *s); /* it was turned away, by a full queue or a wait that ended */
bool sample_declined(
	const struct sample *s); /* the engine works and takes no such question: an embedding's */
/* Appends a sentence without its end. bytes: before, now; 0: not known. */
void sample_compare(
	const struct sample *was, const struct sample *now, const uint64_t bytes[2], struct buf *ret);

#endif
