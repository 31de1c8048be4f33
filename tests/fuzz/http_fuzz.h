/* SPDX-License-Identifier: Apache-2.0
 *
 * What the HTTP targets share: a server and a client without sockets, given bytes in pieces of any size, and
 * what they made of them as text. The end is told in one of the words "open", "refused N", "closed".
 */
#ifndef FUZZ_HTTP_FUZZ_H
#define FUZZ_HTTP_FUZZ_H

#include "base/buf.h"

void must(bool ok); /* abort() otherwise */
/* Feeds v to a new connection of a server that answers every request 200 at its end; appends to told each
 * request as the handler saw it. seen: the bodies, one after the other. step: bytes a piece. */
void serve(struct view v, size_t step, struct buf *told, struct buf *seen);
/* The same for the answer to one request; eof: the engine closes behind v. */
void answer(struct view v, size_t step, bool eof, struct buf *told, struct buf *seen);
/* A plain chunked decoder to compare with (RFC 9112, 7.1): 1: whole, out has the body; 0: more is needed; -1:
 * wrong. Extensions and trailers are passed over whatever they hold. */
int dechunk(struct view v, struct buf *out);

#endif
