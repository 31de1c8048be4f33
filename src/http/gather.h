/* SPDX-License-Identifier: Apache-2.0
 *
 * A head while it arrives, in pieces of any size. Its bytes are kept as they came, in one buffer, copied once
 * for each piece that was read from the socket; a header is two places in it. Shared by both sides' parsers.
 * Once `done` is set, what comes (trailers of a chunked body) is dropped.
 *
 * A parser calls gather_chunk before it parses bytes that were read, and gather_chunk_end after.
 */
#ifndef HTTP_GATHER_H
#define HTTP_GATHER_H

#include "http/http.h"

struct head_gather {
	struct buf bytes;          /* at most HTTP_HEAD_MAX; what came before the chunk at hand */
	struct http_header *items; /* until done the pointers in it are offsets */
	const char *from, *end;    /* of the chunk at hand: not copied yet; NULL: none of it is ours */
	uint16_t n, cap;
	bool begun, in_value; /* a piece came; the last header's value has begun */
	bool done;
};

void gather_init(struct head_gather *g);
void gather_free(struct head_gather *g);
/* Forgets the head; keeps a small buffer for the next. */
void gather_reset(struct head_gather *g);
void gather_chunk(struct head_gather *g, const char *data);
/* The chunk goes away: what is ours of it, up to data_end, is copied. 0 or -ENOBUFS. */
int gather_chunk_end(struct head_gather *g, const char *data_end) MUST_CHECK;
/* Bytes that belong to no header (a request's target). All return 0, -ENOBUFS over HTTP_HEAD_MAX, or
 * -E2BIG for more than HTTP_HEADERS_MAX headers. */
int gather_raw(struct head_gather *g, const char *at, size_t n);
int gather_name(struct head_gather *g, const char *at, size_t n);
int gather_value(struct head_gather *g, const char *at, size_t n);
void gather_value_end(struct head_gather *g);   /* a header without a value ends here all the same */
size_t gather_len(const struct head_gather *g); /* bytes so far */
/* Views into g, valid until the next change; sets done. 0 or -ENOBUFS. */
int gather_headers(struct head_gather *g, struct http_headers *ret) MUST_CHECK;

#endif
