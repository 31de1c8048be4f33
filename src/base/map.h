/* SPDX-License-Identifier: Apache-2.0
 *
 * Map from strings to pointers. Keys are copied; values are the caller's. Iteration goes in the
 * order of insertion (a removed entry leaves no gap in the order of the others).
 * The hash is seeded per process, so that keys a peer chooses cannot be made to collide.
 */
#ifndef BASE_MAP_H
#define BASE_MAP_H

#include "base/view.h"

struct map_entry {
	char *key; /* NUL-terminated; a key with a NUL inside is a key of its own */
	size_t key_len;
	void *value;
	uint64_t hash;
};
struct map {
	struct map_entry *entries; /* dense, in order of insertion; key NULL = removed */
	uint32_t *slots;           /* open addressing: entry index + 1, 0 = empty */
	size_t len, used, cap, nslots;
};

void map_init(struct map *m);
void map_done(struct map *m); /* values are not freed */
void *map_get(const struct map *m, struct view key);
static inline void *map_gets(const struct map *m, const char *key)
{
	return map_get(m, view_str(key));
}
/* Sets key, returns the value it replaced or NULL. value must not be NULL. */
void *map_put(struct map *m, struct view key, void *value);
/* Removes key, returns its value or NULL. */
void *map_del(struct map *m, struct view key);
static inline size_t map_len(const struct map *m)
{
	return m->len;
}
/* Iterate: for (size_t i = 0; (e = map_next(m, &i));) ... The body may remove e. */
struct map_entry *map_next(const struct map *m, size_t *i);

#endif
