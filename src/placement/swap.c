/* SPDX-License-Identifier: Apache-2.0 */
#include "placement/swap.h"

static mono_t earlier(mono_t a, mono_t b)
{
	return mono_before(a, b) ? a : b;
}

enum swap_turn swap_turn(const struct swap_loaded *l, const struct swap_waiting *w,
	const struct swap_policy *p, mono_t now, mono_t *ret_until)
{
	mono_t due = swap_due(w, p);
	*ret_until = due;
	if (l->running)
		return SWAP_BUSY;
	*ret_until = now;
	if (!l->replied || p->hold_after == SWAP_HOLD_NEVER ||
		(p->hold_after == SWAP_HOLD_TOOL_CALLS && !l->tool_calls))
		return SWAP_NOW;
	if (l->key && l->key == w->key)
		return SWAP_NOW;
	mono_t until = earlier(mono_add_ms(l->reply_at, p->hold_ms), due);
	if (!mono_before(now, until))
		return SWAP_NOW;
	*ret_until = until;
	return SWAP_HELD;
}

const char *swap_turn_text(enum swap_turn t)
{
	switch (t) {
	case SWAP_NOW: return "it is idle";
	case SWAP_HELD: return "its last reply ended in tool calls, and the next turn is awaited";
	case SWAP_BUSY: return "it is answering";
	}
	return "unknown";
}

bool swap_admits(mono_t arrived, const struct swap_waiting *w, const struct swap_policy *p, mono_t now)
{
	return mono_before(now, swap_due(w, p)) || !mono_before(w->since, arrived);
}
