/* SPDX-License-Identifier: Apache-2.0
 *
 * How a pool's engines are replaced by others, one after the other: pure. No clock, no I/O, no allocation.
 *
 * Old engines serve; a fresh one is started and tried; once it is Ready it is accepted and one old engine is
 * let go; until no old one is left. Where the fresh one does not fit beside those that run, an old one is let
 * go first, and the fresh one is started in its room. When a fresh one fails and nothing was given up for it,
 * all is as before; when something was, the direction turns: the engines accepted so far are replaced by ones
 * of the old kind again (the caller exchanges old and accepted ones at BG_TURN_BACK).
 */
#ifndef CONTROL_BLUEGREEN_H
#define CONTROL_BLUEGREEN_H

#include "base/base.h"

enum bg_fresh { BG_FRESH_NONE, BG_FRESH_COMING, BG_FRESH_READY, BG_FRESH_FAILED };

struct bg_facts {
	uint32_t old;      /* engines to be replaced, that are wanted still */
	uint32_t accepted; /* engines that came in their place */
	uint32_t leaving;  /* let go, and not gone from the machine yet */
	enum bg_fresh fresh;
	bool fits; /* one more beside all that are there */
};

enum bg_phase { BG_NEXT, BG_ROOM, BG_TRYING, BG_LETTING_GO };
struct bluegreen { /* zeroed: at the beginning */
	enum bg_phase phase;
	bool room;    /* an old one went before the one that is tried now came */
	bool swapped; /* that happened at all */
	bool turned;  /* on the way back */
};

enum bg_act {
	BG_WAIT,
	BG_START,     /* start a fresh one */
	BG_ACCEPT,    /* the fresh one is one of the accepted from now on; step again */
	BG_LET_GO,    /* one old engine takes nothing new and stops when its leases end; step again */
	BG_TURN_BACK, /* the fresh one goes; old and accepted change places; step again */
	BG_DONE,      /* nothing old is left (turned: it is as before) */
	BG_FAILED,    /* the fresh one goes, the old serve on */
};
/* What to do now. Called until it says BG_WAIT, BG_DONE or BG_FAILED. */
enum bg_act bluegreen_step(struct bluegreen *b, const struct bg_facts *f) MUST_CHECK;

#endif
