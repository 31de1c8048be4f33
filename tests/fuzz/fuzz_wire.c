/* SPDX-License-Identifier: Apache-2.0
 *
 * Bytes of a peer through the three decoders. What is taken must encode, and decode again to the same
 * bytes. Built with -Dfuzz=true (clang): -fsanitize=fuzzer,address,undefined.
 */
#include <stdlib.h>
#include <string.h>

#include "wire/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void same(struct buf *a, struct buf *b)
{
	if (!view_eq(buf_view(a), buf_view(b)))
		abort();
}

static void replica(struct view v)
{
	struct wire_replica one = { 0 }, two = { 0 };
	AUTO(buf_done) struct buf a = BUF(64 * MIB), b = BUF(64 * MIB);
	struct err e;
	if (wire_replica_decode(v, &one, &e))
		return;
	if (wire_replica_encode(&one, &a) || wire_replica_decode(buf_view(&a), &two, &e) ||
		wire_replica_encode(&two, &b))
		abort();
	same(&a, &b);
	wire_replica_merge(&one, &two);
	wire_replica_done(&one);
	wire_replica_done(&two);
}

static void node(struct view v)
{
	struct wire_node one = { 0 }, two = { 0 };
	AUTO(buf_done) struct buf a = BUF(64 * MIB), b = BUF(64 * MIB);
	struct err e;
	if (wire_node_decode(v, &one, &e))
		return;
	if (wire_node_encode(&one, &a) || wire_node_decode(buf_view(&a), &two, &e) ||
		wire_node_encode(&two, &b))
		abort();
	same(&a, &b);
	wire_node_done(&one);
	wire_node_done(&two);
}

static void desired(struct view v)
{
	struct wire_desired one = { 0 }, two = { 0 };
	AUTO(buf_done) struct buf a = BUF(64 * MIB), b = BUF(64 * MIB);
	struct err e;
	if (wire_desired_decode(v, &one, &e))
		return;
	if (wire_desired_encode(&one, &a) || wire_desired_decode(buf_view(&a), &two, &e) ||
		wire_desired_encode(&two, &b))
		abort();
	same(&a, &b);
	wire_desired_done(&one);
	wire_desired_done(&two);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct view v = view_of(data, n);
	replica(v);
	node(v);
	desired(v);
	return 0;
}
