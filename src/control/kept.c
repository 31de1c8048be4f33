/* SPDX-License-Identifier: Apache-2.0
 *
 * Who waits until what was promised is on the disk. The disk is never waited for on this loop.
 */
#include "control/control_int.h"

#include <stdlib.h>

#include "base/mem.h"
#include "log/log.h"

enum { KEPT_MS = 2000 }; /* a disk that is slower is said not to have kept it */

/* Ours and the store's: freed when the store has told, and only then. */
struct kept {
	struct list node; /* of c->kept while somebody waits */
	struct control *c;
	struct loop *loop;
	struct loop_timer timer;
	control_kept_fn *fn; /* NULL: told, or nobody cares */
	void *arg;
	int result;
};

static void tell(struct kept *k, bool kept)
{
	control_kept_fn *fn = k->fn;
	k->fn = NULL;
	loop_timer_stop(&k->timer);
	if (!fn)
		return;
	list_remove(&k->node);
	fn(k->arg, kept);
}

static void on_late(void *arg)
{
	log_warn("store_slow", NULL,
		"The registry's database is slow: an order is answered before it is kept.");
	tell(arg, false);
}

static void on_loop(void *arg)
{
	struct kept *k = arg;
	tell(k, k->result == 0);
	free(k);
}

static void on_written(void *arg, int r)
{
	struct kept *k = arg;
	k->result = r;
	loop_post_call(k->loop, on_loop, k);
}

void control_when_kept(struct control *c, control_kept_fn *fn, void *arg)
{
	struct kept *k = NEW(struct kept);
	k->c = c;
	k->loop = c->o.loop;
	k->fn = fn;
	k->arg = arg;
	list_append(&c->kept, &k->node);
	loop_timer_start(k->loop, &k->timer, KEPT_MS, on_late, k);
	registry_when_written(c->o.registry, on_written, k);
}

void kept_give_up(struct control *c)
{
	struct list *n;
	while ((n = list_first(&c->kept)))
		tell(LIST_ENTRY(n, struct kept, node), false);
}

void kept_done(struct control *c)
{
	struct list *n;
	while ((n = list_pop(&c->kept))) {
		struct kept *k = LIST_ENTRY(n, struct kept, node);
		k->fn = NULL;
		loop_timer_stop(&k->timer);
	}
}
