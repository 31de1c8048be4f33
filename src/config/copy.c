/* SPDX-License-Identifier: Apache-2.0
 *
 * Configurations made from configurations.
 */
#include "base/mem.h"
#include "config/config_int.h"

static struct config_origin copy_origin(struct config *c, const struct config_origin *o)
{
	struct config_origin r = *o;
	r.name = o->name ? config_intern(c, o->name) : NULL;
	return r;
}

static void copy_pool(struct config *c, struct config_pool *to, const struct config_pool *from)
{
	pool_init(to);
	config_copy_fields(SCOPE_POOL, to, from);
	for (size_t i = 0; i < config_nfields; i++)
		to->from[i] = copy_origin(c, &from->from[i]);
	to->at = copy_origin(c, &from->at);
}

static struct config *copy(const struct config *from)
{
	struct config *c = config_new();
	config_copy_fields(SCOPE_TOP, c, from);
	for (size_t i = 0; i < config_nfields; i++)
		c->from[i] = copy_origin(c, &from->from[i]);
	strv_copy(&c->files, &from->files);
	c->pools = mem_alloc((from->npools + 1) * sizeof *c->pools);
	for (c->npools = 0; c->npools < from->npools; c->npools++)
		copy_pool(c, &c->pools[c->npools], &from->pools[c->npools]);
	return c;
}

struct config *config_over(const struct config *running, const struct config *next)
{
	struct config *c = copy(next);
	for (size_t i = 0; i < config_nfields; i++) {
		const struct field *f = &config_fields[i];
		if (f->scope != SCOPE_TOP || !(f->flags & FIELD_RESTART))
			continue;
		value_copy(f, c, running);
		c->from[i] = copy_origin(c, &running->from[i]);
	}
	return c;
}
