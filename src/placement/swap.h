/* SPDX-License-Identifier: Apache-2.0
 *
 * When models take turns on a device: may a loaded one leave now for one that waits, and may a request for
 * the loaded one still start ahead of those who wait for another. Pure: time is an argument.
 *
 * The rules:
 *   collate  requests for a loaded model start ahead of earlier ones for a model that is not loaded, until
 * the oldest of those has waited max_wait; from then on only those do that did not arrive after it hold after
 * a reply that ended in tool calls the model stays for `hold`, as the next turn of that agent is about to
 * come; not against a request with the same key (its user has moved on), and never beyond max_wait of who
 * waits max_wait 0 is first come, first served.
 *
 * The bound: who waits is overtaken for max_wait at most. After that it waits for requests that arrived
 * before it or were running, and for the loads these need.
 */
#ifndef PLACEMENT_SWAP_H
#define PLACEMENT_SWAP_H

#include "base/base.h"
#include "base/clock.h"

enum swap_hold { SWAP_HOLD_TOOL_CALLS = 0, SWAP_HOLD_ALWAYS, SWAP_HOLD_NEVER };
struct swap_policy {
	int64_t max_wait_ms, hold_ms;
	enum swap_hold hold_after;
};
enum { SWAP_MAX_WAIT_MS = 60000, SWAP_HOLD_MS = 10000 }; /* defaults */

struct swap_loaded {      /* a pool that would have to leave */
	uint32_t running; /* requests it answers now */
	bool replied;     /* it has answered one since it was loaded */
	mono_t reply_at;  /* the last one */
	bool tool_calls;  /* that one ended in tool calls */
	uint64_t key;     /* whose it was: API key and conversation, or client; 0: not known */
};
struct swap_waiting { /* a pool that needs the room */
	mono_t since; /* its oldest request arrived */
	uint64_t key; /* whose that is; 0: not known */
};

enum swap_turn {
	SWAP_NOW,  /* it may leave */
	SWAP_HELD, /* not before *ret_until, if nothing happens till then */
	SWAP_BUSY  /* when its requests are done; none that arrived later starts from *ret_until on */
};
enum swap_turn swap_turn(const struct swap_loaded *l, const struct swap_waiting *w,
	const struct swap_policy *p, mono_t now, mono_t *ret_until);
const char *swap_turn_text(enum swap_turn t); /* "it is held for the next turn of …" */

/* May a request for a loaded pool that arrived then start, while w waits for its room? Two that arrived at
 * the same time do not wait for each other. A loaded pool with a request that may start is busy to who waits.
 */
bool swap_admits(mono_t arrived, const struct swap_waiting *w, const struct swap_policy *p, mono_t now);
/* From then on who waits is not overtaken any more. */
static inline mono_t swap_due(const struct swap_waiting *w, const struct swap_policy *p)
{
	return mono_add_ms(w->since, p->max_wait_ms);
}

#endif
