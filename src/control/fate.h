/* SPDX-License-Identifier: Apache-2.0
 *
 * What became of an engine process, from what its node reports: whether a request that was on it may be the
 * reason. Pure.
 */
#ifndef CONTROL_FATE_H
#define CONTROL_FATE_H

#include "pool/pool.h"
#include "wire/wire.h"

/* facts: what the node says of the replica now, maybe of a later generation; NULL: it does not know it.
 * Unknown: this generation runs, as far as it says. */
enum pool_fate control_fate(const struct wire_replica *facts, uint64_t generation);

#endif
