/* SPDX-License-Identifier: Apache-2.0
 *
 * A head while it arrives, in pieces of any size: its bytes in one buffer, and where each header's name
 * and value lie in it. Shared by both sides' parsers. Once `done` is set, what comes (trailers of a
 * chunked body) is dropped.
 */
#ifndef HTTP_GATHER_H
#define HTTP_GATHER_H

#include "http/http.h"

struct head_gather {
	struct buf bytes; /* at most HTTP_HEAD_MAX */
	struct {
		uint32_t name, name_len, value, value_len;
	} spans[HTTP_HEADERS_MAX];
	size_t n;
	bool in_value; /* the last header's value has begun */
	bool done;
};

void gather_init(struct head_gather *g);
void gather_free(struct head_gather *g);
/* Forgets the head; keeps a small buffer for the next. */
void gather_reset(struct head_gather *g);
/* Bytes that belong to no header (a request's target). All return 0, -ENOBUFS over HTTP_HEAD_MAX, or
 * -E2BIG for more than HTTP_HEADERS_MAX headers. */
int gather_raw(struct head_gather *g, const char *at, size_t n);
int gather_name(struct head_gather *g, const char *at, size_t n);
int gather_value(struct head_gather *g, const char *at, size_t n);
void gather_value_end(struct head_gather *g); /* a header without a value ends here all the same */
/* Views into g->bytes, valid until the next change; sets done. */
void gather_headers(struct head_gather *g, struct http_headers *ret);

#endif
