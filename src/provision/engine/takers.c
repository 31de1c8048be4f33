/* SPDX-License-Identifier: Apache-2.0
 *
 * Which pools take which of the builds that lie here, and removing one that none takes.
 */
#include "provision/engine/builds.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

struct engine_taker *engine_takers_add(struct engine_takers *t, const char *id)
{
	t->items = mem_realloc(t->items, (t->len + 1) * sizeof *t->items);
	struct engine_taker *one = &t->items[t->len++];
	*one = (struct engine_taker){ .id = mem_strdup(id) };
	return one;
}

void engine_takers_look(struct engine_takers *t)
{
	for (size_t i = 0; i < t->len; i++) {
		engine_outlook_done(&t->items[i].now);
		engine_outlook_read(&t->items[i].def, &t->items[i].opts, &t->items[i].now);
	}
}

void engine_takers_done(struct engine_takers *t)
{
	for (size_t i = 0; i < t->len; i++) {
		free(t->items[i].id);
		engine_def_done(&t->items[i].def);
		engine_outlook_done(&t->items[i].now);
	}
	free(t->items);
	*t = (struct engine_takers){ 0 };
}

struct engine_taker *engine_takers_find(const struct engine_takers *t, const char *id)
{
	for (size_t i = 0; i < t->len; i++)
		if (strcmp(t->items[i].id, id) == 0)
			return &t->items[i];
	return NULL;
}

bool engine_kept_taken(const struct engine_kept *k, const struct engine_taker *t)
{
	return !k->last && t->now.name && strcmp(t->now.name, k->name) == 0;
}

void engine_kept_pools(const struct engine_kept *k, const struct engine_takers *t, struct buf *ret)
{
	for (size_t i = 0; i < t->len; i++)
		if (engine_kept_taken(k, &t->items[i]))
			(void)buf_addf(ret, "%s%s", ret->len ? ", " : "", t->items[i].id);
}

int engine_kept_free(const struct engine_kept *k, const struct engine_takers *t, struct err *reterr)
{
	AUTO(buf_done) struct buf pools = BUF(16 * KIB);
	engine_kept_pools(k, t, &pools);
	return !pools.len && !k->current ? 0
					 : err_set(reterr, -EBUSY, "%s is the current build of %s%s", k->name,
						   pools.len ? "pool " : "a pool", buf_str(&pools));
}
