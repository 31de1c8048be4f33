/* SPDX-License-Identifier: Apache-2.0 */
#include "control/bluegreen.h"

static enum bg_act start(struct bluegreen *b, bool room)
{
	b->phase = BG_TRYING;
	b->room = room;
	return BG_START;
}

static enum bg_act next(struct bluegreen *b, const struct bg_facts *f)
{
	if (!f->old && f->accepted)
		return BG_DONE;
	if (f->fresh != BG_FRESH_NONE) { /* one that was there at the beginning */
		b->phase = BG_TRYING;
		b->room = false;
		return BG_WAIT;
	}
	if (f->fits)
		return start(b, false);
	if (f->leaving)
		return BG_WAIT; /* its memory comes back */
	if (!f->old)
		return start(b, false); /* nothing to give up: the engine itself finds out */
	b->phase = BG_ROOM;
	b->swapped = true;
	return BG_LET_GO;
}

static enum bg_act tried(struct bluegreen *b, const struct bg_facts *f)
{
	if (f->fresh == BG_FRESH_COMING)
		return BG_WAIT;
	if (f->fresh == BG_FRESH_READY) {
		b->phase = b->room ? BG_NEXT : BG_LETTING_GO;
		b->room = false;
		return BG_ACCEPT;
	}
	if (b->turned || (!f->accepted && !b->room))
		return BG_FAILED;
	b->phase = BG_NEXT;
	b->room = false;
	b->turned = true;
	return BG_TURN_BACK;
}

enum bg_act bluegreen_step(struct bluegreen *b, const struct bg_facts *f)
{
	switch (b->phase) {
	case BG_NEXT: return next(b, f);
	case BG_ROOM: return f->leaving ? BG_WAIT : start(b, true);
	case BG_TRYING: return tried(b, f);
	case BG_LETTING_GO: break;
	}
	b->phase = BG_NEXT;
	return f->old ? BG_LET_GO : next(b, f);
}
