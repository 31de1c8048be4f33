/* SPDX-License-Identifier: Apache-2.0
 *
 * Time has a type. mono_t is a point on CLOCK_MONOTONIC (this machine's, since boot); every deadline,
 * lease and age is one. Wall-clock time exists to be written for people, and where they wrote it (expiry).
 */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include "base/view.h"

typedef struct {
	int64_t ns;
} mono_t;

#define MONO_ZERO ((mono_t){ 0 })
#define MONO_NEVER ((mono_t){ INT64_MAX })

mono_t mono_now(void);
static inline bool mono_before(mono_t a, mono_t b)
{
	return a.ns < b.ns;
}
/* a + ms, saturating. */
static inline mono_t mono_add_ms(mono_t a, int64_t ms)
{
	if (a.ns == INT64_MAX || (ms > 0 && ms > (INT64_MAX - a.ns) / 1000000))
		return MONO_NEVER;
	return (mono_t){ a.ns + ms * 1000000 };
}
/* Milliseconds from a to b, negative when b is earlier. */
static inline int64_t mono_ms_between(mono_t a, mono_t b)
{
	return (b.ns - a.ns) / 1000000;
}

/* Wall clock, milliseconds since 1970 UTC. */
int64_t wall_ms(void);
/* RFC 3339 with Z or an offset (2026-11-24T16:07:08Z), or a day alone (2026-11-24: its beginning, UTC);
 * -EINVAL. */
int wall_parse(struct view text, int64_t *ret_ms) MUST_CHECK;
enum { WALL_STR_LEN = 24 };
/* RFC 3339 UTC with milliseconds: 2026-11-24T16:07:08.123Z */
void wall_format(int64_t ms, char out[WALL_STR_LEN + 1]);

#endif
