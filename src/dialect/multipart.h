/* SPDX-License-Identifier: Apache-2.0
 *
 * Reads a multipart/form-data body (RFC 7578) while it arrives, without keeping it: the fields `model` and
 * `stream`, wherever they stand, are all the router needs. Files are passed over byte by byte.
 *
 * Two parsers that see different fields in the same bytes are a hole, so what is taken is what every parser
 * agrees on: the first boundary at byte 0, lines that end with CRLF, exactly one Content-Disposition a part,
 * nothing after the last boundary but one CRLF. Everything else is refused with the byte it was seen at.
 *
 * Memory: one struct multipart_scan (about 4 KiB), whatever the body holds.
 */
#ifndef DIALECT_MULTIPART_H
#define DIALECT_MULTIPART_H

#include "dialect/dialect.h"

enum {
	MULTIPART_BOUNDARY_MAX = 70, /* RFC 2046 */
	MULTIPART_LINE_MAX = 2048,   /* of a part's header; a longer one is refused */
	MULTIPART_LINES_MAX = 16,    /* of them in one part */
};

struct multipart_scan {
	/* results, final once multipart_scan_end returned 0 */
	bool has_model, has_stream, stream;
	char model[SCAN_STRING_MAX + 1];
	size_t model_len;
	uint64_t model_begin, model_end; /* byte offsets of model's value */
	uint64_t bytes;                  /* read so far */
	/* inside */
	uint8_t state, field;
	bool failed, seen_model, seen_stream, has_disposition;
	char mark[4 + MULTIPART_BOUNDARY_MAX + 1]; /* CRLF, two hyphens, the boundary */
	size_t mark_len, matched;                  /* matched: how much of mark the last bytes are */
	char line[MULTIPART_LINE_MAX];
	size_t line_len, lines;
	char text[SCAN_STRING_MAX]; /* the value of a field that is wanted */
	size_t text_len;
	struct err err;
};
/* content_type: the request's header. 0, or -EINVAL: it names no boundary that may be used (s->err). */
int multipart_scan_init(struct multipart_scan *s, struct view content_type);
/* 0, or -EINVAL; s->err says what and at which byte. After an error everything is ignored. */
int multipart_scan_feed(struct multipart_scan *s, struct view bytes);
int multipart_scan_end(struct multipart_scan *s); /* the body is complete */

#endif
