/* SPDX-License-Identifier: Apache-2.0
 *
 * Who holds how much of which device: reservations are taken before an engine starts, become what it measured
 * when it is ready, and end when the memory is seen to return. Pure: no clock (`now` is an argument), no I/O,
 * no logging. Not thread-safe; the caller's loop owns it.
 *
 *   ledger_reserve → RESERVED → ledger_measured → USED → ledger_release → RETURNING
 *
 * and from RETURNING it is gone once its memory is seen to return, or after LEDGER_RETURN_MS: what did not
 * return by then is booked as foreign until the device shows it free.
 *
 * An owner is a replica and its generation: a replica that is started again is another owner, and the old
 * one's memory may still be on its way back.
 *
 * Invariant: on every device the booked bytes are at most its capacity, whatever was measured (what an engine
 * holds beyond that leaves no room, and is told by ledger_look as `over`).
 *
 * Strangers: what the driver says is used, less what ours use. What an engine uses while it starts or goes is
 * known only within bounds; the last estimate of strangers stays as long as it is within them.
 *
 * Bounds: LEDGER_PARTS_MAX devices an owner, ids of LEDGER_ID_MAX bytes (longer ones are cut); any number of
 * owners and devices. Costs: constant per call, but ledger_reading and ledger_tick look at those that return.
 */
#ifndef PLACEMENT_LEDGER_H
#define PLACEMENT_LEDGER_H

#include "base/clock.h"

enum { LEDGER_PARTS_MAX = 17, LEDGER_RETURN_MS = 5000, LEDGER_ID_MAX = 255 };

struct ledger;
struct ledger_owner {
	const char *replica_id;
	uint64_t generation;
};
struct ledger_part {
	size_t device;
	uint64_t bytes;
};

struct ledger *ledger_new(void) MUST_CHECK;
void ledger_freep(struct ledger **l);

/* The device's number, from 0, which it keeps; capacity 0: not known, then nothing is refused. */
size_t ledger_device(struct ledger *l, const char *node_id, const char *device_id, uint64_t capacity);

/* All parts or none. -ENOSPC: *ret_short says which and how many bytes are missing (may be NULL); -EEXIST:
 * the owner holds some already; -EINVAL: no part, too many, a device twice or one that is not there. */
int ledger_reserve(struct ledger *l, struct ledger_owner o, const struct ledger_part *parts, size_t n,
	struct ledger_part *ret_short) MUST_CHECK;
/* One that was found running: it holds what it holds. -EEXIST, -EINVAL as above. */
int ledger_adopt(
	struct ledger *l, struct ledger_owner o, const struct ledger_part *parts, size_t n) MUST_CHECK;
/* What it really uses there; that is booked from now on. -ENOENT: it holds none of it, or it is going. */
int ledger_measured(struct ledger *l, struct ledger_owner o, size_t device, uint64_t bytes) MUST_CHECK;
/* Its processes were ended: its memory is awaited. -ENOENT: there is none such. Again: nothing changes. */
int ledger_release(struct ledger *l, struct ledger_owner o, mono_t now) MUST_CHECK;
/* It is known to use nothing (it never started; its processes are gone from the driver's list): before the
 * reading that shows it. */
void ledger_gone(struct ledger *l, struct ledger_owner o);

/* What the driver says is used on the device, by anybody. */
void ledger_reading(struct ledger *l, size_t device, uint64_t used, mono_t now);
/* Ends what was awaited too long. Returns when to come again: MONO_NEVER: nothing is awaited. */
mono_t ledger_tick(struct ledger *l, mono_t now);

struct ledger_view {
	uint64_t capacity;
	uint64_t booked; /* of all owners, those that return too: at most capacity */
	uint64_t over;   /* measured beyond what could be booked */
	uint64_t foreign;
	uint64_t foreign_most; /* strangers hold no more than this, by the last reading */
	uint64_t free;         /* for a new reservation */
	size_t owners, returning;
};
void ledger_look(const struct ledger *l, size_t device, struct ledger_view *ret);
/* What an owner has booked on a device; 0: nothing. */
uint64_t ledger_booked(const struct ledger *l, struct ledger_owner o, size_t device);
size_t ledger_owners(const struct ledger *l);

#endif
