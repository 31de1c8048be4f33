/* SPDX-License-Identifier: Apache-2.0
 *
 * A durable table of small rows (kind, key, value) in one SQLite file, written by one thread. A row that
 * waits is replaced by a newer one of the same key, so what waits is bounded by the number of keys. Any
 * thread may call. Opening, a corrupt file and a full disk never fail the caller: rows wait, the status
 * says why, and the thread tries again each second. A file that turns out damaged is moved aside; all rows
 * that were read or written are kept in memory too and go into the new one.
 */
#ifndef REGISTRY_STORE_H
#define REGISTRY_STORE_H

#include "base/buf.h"
#include "base/view.h"

struct store;
typedef void store_row_fn(void *arg, struct view kind, struct view key, struct view value);

/* Reads the whole table, handing each row to fn on the caller's thread, before it returns. */
struct store *store_open(const char *path, store_row_fn *fn, void *arg) MUST_CHECK;
void store_close(struct store *s); /* tries once more to write what waits */
/* value NULL: the row is deleted. promised: the disk has it (fsync) before it counts as written; others
 * may be lost with the machine, never with the process. */
void store_put(struct store *s, const char *kind, struct view key, const char *value, bool promised);
int store_flush(struct store *s, int64_t timeout_ms) MUST_CHECK; /* 0, -EIO, -ETIMEDOUT */
/* fn(arg, 0 or -EIO) once, on any thread, when all that was put is written or an attempt failed. */
typedef void store_written_fn(void *arg, int r);
void store_when_written(struct store *s, store_written_fn *fn, void *arg);

struct store_status {
	bool failing;
	char problem[256];
	size_t waiting;
	uint64_t written;
};
void store_status(struct store *s, struct store_status *ret);

#endif
