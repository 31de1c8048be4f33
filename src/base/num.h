/* SPDX-License-Identifier: Apache-2.0
 *
 * Numbers from text, strictly: the whole text must be the number. 0 or -EINVAL / -ERANGE.
 */
#ifndef BASE_NUM_H
#define BASE_NUM_H

#include "base/view.h"

int num_u64(struct view v, uint64_t *ret);        /* decimal digits only: no sign, no space */
int num_size(struct view v, uint64_t *ret_bytes); /* 64MiB, 1GiB, 512KiB, 1.5GB, 4096 */
int num_duration_ms(
	struct view v, int64_t *ret_ms); /* 250ms, 10s, 5m, 2h, 7d, 1m30s; 0; bare number = seconds */

/* For people: "1.5 GiB", "12 KiB", "17 B" and "10m", "1h30m", "250ms". Always terminated. */
void num_format_bytes(uint64_t bytes, char *out, size_t cap);
void num_format_duration(int64_t ms, char *out, size_t cap);

#endif
