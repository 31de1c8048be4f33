/* SPDX-License-Identifier: Apache-2.0 */
#include "base/map.h"

#include <pthread.h>
#include <stdlib.h>

#include "base/mem.h"
#include "base/rnd.h"

static uint64_t map_seed;
static pthread_once_t map_once = PTHREAD_ONCE_INIT;

static void seed_once(void)
{
	map_seed = rnd_os_u64();
}

/* FNV-1a over a per-process seed, finished with a multiply-xor mix. */
static uint64_t hash_of(struct view key)
{
	uint64_t h = 1469598103934665603ull ^ map_seed;
	for (size_t i = 0; i < key.n; i++)
		h = (h ^ (unsigned char)key.p[i]) * 1099511628211ull;
	h ^= h >> 32;
	h *= 0x9e3779b97f4a7c15ull;
	return h ^ (h >> 29);
}

void map_init(struct map *m)
{
	pthread_once(&map_once, seed_once);
	*m = (struct map){ 0 };
}

void map_done(struct map *m)
{
	for (size_t i = 0; i < m->used; i++)
		free(m->entries[i].key);
	free(m->entries);
	free(m->slots);
	*m = (struct map){ 0 };
}

static size_t find_slot(const struct map *m, struct view key, uint64_t h)
{
	size_t mask = m->nslots - 1;
	size_t i = (size_t)h & mask;
	for (; m->slots[i]; i = (i + 1) & mask) {
		const struct map_entry *e = &m->entries[m->slots[i] - 1];
		if (e->key && e->hash == h && view_eq(key, view_of(e->key, e->key_len)))
			return i;
	}
	return i;
}

/* Drops removed entries and makes room for twice the live ones. */
static void rebuild(struct map *m)
{
	size_t cap = MAX(m->len * 2, (size_t)8);
	struct map_entry *entries = mem_alloc(cap * sizeof *entries);
	size_t n = 0;
	for (size_t i = 0; i < m->used; i++)
		if (m->entries[i].key)
			entries[n++] = m->entries[i];
	free(m->entries);
	free(m->slots);
	m->entries = entries;
	m->cap = cap;
	m->used = n;
	m->nslots = 16;
	while (m->nslots < cap * 2)
		m->nslots *= 2;
	m->slots = mem_alloc(m->nslots * sizeof *m->slots);
	for (size_t i = 0; i < n; i++) {
		size_t s = (size_t)entries[i].hash & (m->nslots - 1);
		while (m->slots[s])
			s = (s + 1) & (m->nslots - 1);
		m->slots[s] = (uint32_t)(i + 1);
	}
}

void *map_get(const struct map *m, struct view key)
{
	if (!m->nslots)
		return NULL;
	size_t s = find_slot(m, key, hash_of(key));
	return m->slots[s] ? m->entries[m->slots[s] - 1].value : NULL;
}

void *map_put(struct map *m, struct view key, void *value)
{
	assert(value);
	uint64_t h = hash_of(key);
	if (m->nslots) {
		size_t s = find_slot(m, key, h);
		if (m->slots[s]) {
			struct map_entry *e = &m->entries[m->slots[s] - 1];
			void *old = e->value;
			e->value = value;
			return old;
		}
	}
	if (m->used == m->cap)
		rebuild(m);
	size_t s = find_slot(m, key, h);
	m->entries[m->used] = (struct map_entry){ mem_viewdup(key), key.n, value, h };
	m->slots[s] = (uint32_t)++m->used;
	m->len++;
	return NULL;
}

void *map_del(struct map *m, struct view key)
{
	if (!m->nslots)
		return NULL;
	size_t s = find_slot(m, key, hash_of(key));
	if (!m->slots[s])
		return NULL;
	struct map_entry *e = &m->entries[m->slots[s] - 1];
	void *value = e->value;
	free(e->key); /* the slot stays taken by a keyless entry until the next rebuild */
	e->key = NULL;
	e->value = NULL;
	m->len--;
	return value;
}

struct map_entry *map_next(const struct map *m, size_t *i)
{
	while (*i < m->used) {
		struct map_entry *e = &m->entries[(*i)++];
		if (e->key)
			return e;
	}
	return NULL;
}
