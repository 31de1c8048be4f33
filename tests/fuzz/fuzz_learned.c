/* SPDX-License-Identifier: Apache-2.0
 *
 * An engine's words about its buffers, which may be a hostile file's: however they are cut, the same figures,
 * and none beyond their bounds. In the input a byte 1 is a cut. Built with -Dfuzz=true (clang).
 */
#include <stdlib.h>

#include "gguf/learned.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

#define BYTES_MAX (1ull << 50)

static void must(bool ok)
{
	if (!ok)
		abort();
}

static void check(const struct learned_bytes *b)
{
	must(b->mapped <= b->weights && b->weights <= BYTES_MAX && b->kv <= BYTES_MAX);
	must(b->recurrent <= BYTES_MAX && b->compute <= BYTES_MAX && b->output <= BYTES_MAX);
}

static bool same(const struct learned_bytes *a, const struct learned_bytes *b)
{
	return a->weights == b->weights && a->mapped == b->mapped && a->kv == b->kv &&
	       a->recurrent == b->recurrent && a->compute == b->compute && a->output == b->output;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct learned_log whole, cut;
	struct learned a, b;
	learned_log_init(&whole);
	learned_log_init(&cut);
	for (struct view v = view_of(data, n), piece; v.p;) {
		piece = view_split(v, '\1', &v);
		learned_log_feed(&whole, piece);
		for (size_t i = 0; i < piece.n; i++)
			learned_log_feed(&cut, view_of(piece.p + i, 1));
	}
	must(learned_log_end(&whole, &a) == learned_log_end(&cut, &b));
	must(same(&a.host, &b.host) && a.n_devices == b.n_devices && a.n_devices <= LEARNED_DEVICES_MAX);
	check(&a.host);
	for (size_t i = 0; i < LEARNED_DEVICES_MAX; i++) {
		must(same(&a.device[i], &b.device[i]));
		check(&a.device[i]);
	}
	return 0;
}
