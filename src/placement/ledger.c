/* SPDX-License-Identifier: Apache-2.0 */
#include "placement/ledger.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/list.h"
#include "base/map.h"
#include "base/mem.h"

/* A reading may be off by so much, and memory returns but for so much: drivers keep a little. */
#define SLACK (64 * MIB)

__extension__ typedef unsigned __int128 wide;

struct entry { /* an owner on a device */
	struct holder *holder;
	size_t device;
	uint64_t booked;
	uint64_t used; /* measured; else the most it may use */
	bool live, measured, returning;
	uint64_t returned; /* of used */
	mono_t deadline;
	struct list on_device, on_ledger; /* while returning, in the order of release */
};
struct holder { /* an owner */
	char *key;
	size_t key_len;
	size_t n, nlive;
	struct entry entries[];
};
struct device {
	size_t number;
	uint64_t capacity, used, foreign;
	bool read;         /* `used` is known */
	uint64_t expected; /* of the next reading: what is known to have returned since the last */
	wide booked, wanted;
	wide most, least; /* what ours use at most, and at least */
	size_t owners, nreturning;
	struct list returning;
};
struct ledger {
	struct device **devices;
	size_t ndevices, cap;
	struct map ids;     /* node and device → device */
	struct map holders; /* replica and generation → holder */
	struct list returning;
};

static uint64_t less(uint64_t a, wide b)
{
	return a < b ? 0 : a - (uint64_t)b;
}
static uint64_t narrow(wide n)
{
	return n > UINT64_MAX ? UINT64_MAX : (uint64_t)n;
}

/* ---- devices ------------------------------------------------------------------------------------------- */

struct ledger *ledger_new(void)
{
	struct ledger *l = NEW(struct ledger);
	map_init(&l->ids);
	map_init(&l->holders);
	list_init(&l->returning);
	return l;
}

static void holder_free(struct holder *h)
{
	free(h->key);
	free(h);
}

void ledger_freep(struct ledger **pp)
{
	struct ledger *l = *pp;
	struct map_entry *e;
	if (!l)
		return;
	for (size_t i = 0; (e = map_next(&l->holders, &i));)
		holder_free(e->value);
	for (size_t i = 0; i < l->ndevices; i++)
		free(l->devices[i]);
	free(l->devices);
	map_done(&l->holders);
	map_done(&l->ids);
	free(l);
	*pp = NULL;
}

enum { KEY_MAX = 2 * LEDGER_ID_MAX + 2 };

/* Two names with a NUL between them, which neither holds. */
static struct view key_of(const char *a, const char *b, char out[KEY_MAX])
{
	size_t m = MIN(strlen(a), (size_t)LEDGER_ID_MAX), n = MIN(strlen(b), (size_t)LEDGER_ID_MAX);
	memcpy(out, a, m);
	out[m] = '\0';
	memcpy(out + m + 1, b, n);
	return (struct view){ out, m + 1 + n };
}

size_t ledger_device(struct ledger *l, const char *node_id, const char *device_id, uint64_t capacity)
{
	char text[KEY_MAX];
	struct view key = key_of(node_id, device_id, text);
	struct device *d = map_get(&l->ids, key);
	if (!d) {
		if (l->ndevices == l->cap) {
			l->cap = MAX(2 * l->cap, (size_t)8);
			l->devices = mem_realloc(l->devices, l->cap * sizeof(struct device *));
		}
		d = NEW(struct device);
		list_init(&d->returning);
		d->number = l->ndevices;
		l->devices[l->ndevices++] = d;
		(void)map_put(&l->ids, key, d);
	}
	d->capacity = capacity;
	return d->number;
}

/* The estimate of strangers stays while it is possible. With a reading at hand only: what was measured since
 * an older one is not in that. */
static void bound_foreign(struct device *d)
{
	uint64_t lo = less(d->used, d->most), hi = less(d->used, d->least);
	d->foreign = MIN(MAX(d->foreign, lo), hi);
}

static uint64_t room(const struct device *d)
{
	return d->capacity ? less(d->capacity, d->booked + d->foreign) : UINT64_MAX;
}

/* ---- owners -------------------------------------------------------------------------------------------- */

static struct view owner_key(struct ledger_owner o, char out[KEY_MAX])
{
	char number[24];
	(void)snprintf(number, sizeof number, "%" PRIu64, o.generation);
	return key_of(o.replica_id, number, out);
}

static struct holder *find(const struct ledger *l, struct ledger_owner o)
{
	char text[KEY_MAX];
	return map_get(&l->holders, owner_key(o, text));
}

static struct entry *entry_on(struct holder *h, size_t device)
{
	for (size_t i = 0; h && i < h->n; i++)
		if (h->entries[i].live && h->entries[i].device == device)
			return &h->entries[i];
	return NULL;
}

/* Takes an entry's part out of its device's sums (before a change), or puts it in (after). */
static void count(struct ledger *l, const struct entry *e, bool in)
{
	struct device *d = l->devices[e->device];
	wide most = less(e->used, e->returned), least = e->measured && !e->returning ? most : 0;
	if (in) {
		d->booked += e->booked;
		d->wanted += MAX(e->used, e->booked);
		d->most += most;
		d->least += least;
		d->owners++;
		d->nreturning += e->returning;
		return;
	}
	d->booked -= e->booked;
	d->wanted -= MAX(e->used, e->booked);
	d->most -= most;
	d->least -= least;
	d->owners--;
	d->nreturning -= e->returning;
}

static bool parts_ok(const struct ledger *l, const struct ledger_part *parts, size_t n)
{
	for (size_t i = 0; i < n && n <= LEDGER_PARTS_MAX; i++) {
		if (parts[i].device >= l->ndevices)
			return false;
		for (size_t k = 0; k < i; k++)
			if (parts[k].device == parts[i].device)
				return false;
	}
	return n > 0 && n <= LEDGER_PARTS_MAX;
}

/* What can be booked of bytes that are there, room or not: never more than the device has. */
static uint64_t bookable(const struct device *d, uint64_t bytes)
{
	return d->capacity ? MIN(bytes, less(d->capacity, d->booked)) : bytes;
}

static void book(
	struct ledger *l, struct ledger_owner o, const struct ledger_part *parts, size_t n, bool measured)
{
	char text[KEY_MAX];
	struct view key = owner_key(o, text);
	struct holder *h = mem_alloc(sizeof *h + n * sizeof h->entries[0]);
	h->key = mem_viewdup(key);
	h->key_len = key.n;
	h->n = h->nlive = n;
	for (size_t i = 0; i < n; i++) {
		struct entry *e = &h->entries[i];
		struct device *d = l->devices[parts[i].device];
		*e = (struct entry){ .holder = h,
			.device = d->number,
			.booked = bookable(d, parts[i].bytes),
			.used = parts[i].bytes,
			.live = true,
			.measured = measured };
		list_init(&e->on_device);
		list_init(&e->on_ledger);
		count(l, e, true);
	}
	(void)map_put(&l->holders, key, h);
}

int ledger_reserve(struct ledger *l, struct ledger_owner o, const struct ledger_part *parts, size_t n,
	struct ledger_part *ret_short)
{
	if (!parts_ok(l, parts, n))
		return -EINVAL;
	if (find(l, o))
		return -EEXIST;
	for (size_t i = 0; i < n; i++) {
		uint64_t have = room(l->devices[parts[i].device]);
		if (parts[i].bytes <= have)
			continue;
		if (ret_short)
			*ret_short = (struct ledger_part){ parts[i].device, parts[i].bytes - have };
		return -ENOSPC;
	}
	book(l, o, parts, n, false);
	return 0;
}

int ledger_adopt(struct ledger *l, struct ledger_owner o, const struct ledger_part *parts, size_t n)
{
	if (!parts_ok(l, parts, n))
		return -EINVAL;
	if (find(l, o))
		return -EEXIST;
	book(l, o, parts, n, true);
	return 0;
}

int ledger_measured(struct ledger *l, struct ledger_owner o, size_t device, uint64_t bytes)
{
	struct entry *e = entry_on(find(l, o), device);
	if (!e || e->returning)
		return -ENOENT;
	struct device *d = l->devices[device];
	count(l, e, false);
	e->measured = true;
	e->used = bytes;
	e->booked = bookable(d, bytes);
	count(l, e, true);
	return 0;
}

/* ---- the end ------------------------------------------------------------------------------------------- */

/* Ends an entry, and its owner with the last one. */
static void end(struct ledger *l, struct entry *e)
{
	struct holder *h = e->holder;
	count(l, e, false);
	list_remove(&e->on_device);
	list_remove(&e->on_ledger);
	e->live = false;
	if (--h->nlive)
		return;
	(void)map_del(&l->holders, (struct view){ h->key, h->key_len });
	holder_free(h);
}

int ledger_release(struct ledger *l, struct ledger_owner o, mono_t now)
{
	struct holder *h = find(l, o);
	if (!h)
		return -ENOENT;
	for (size_t i = 0; i < h->n; i++) {
		struct entry *e = &h->entries[i];
		if (!e->live || e->returning)
			continue;
		count(l, e, false);
		e->returning = true;
		e->deadline = mono_add_ms(now, LEDGER_RETURN_MS);
		count(l, e, true);
		list_append(&l->devices[e->device]->returning, &e->on_device);
		list_append(&l->returning, &e->on_ledger);
	}
	return 0;
}

void ledger_gone(struct ledger *l, struct ledger_owner o)
{
	struct holder *h = find(l, o);
	size_t n = h ? h->n : 0;
	for (size_t i = 0; i < n; i++) {
		struct entry *e = &h->entries[i];
		if (!e->live)
			continue;
		bool last = h->nlive == 1;
		struct device *d = l->devices[e->device];
		d->expected = narrow((wide)d->expected + (e->used - e->returned));
		end(l, e);
		if (last)
			return;
	}
}

/* Who holds what did not return is a stranger from now on, as far as the next reading allows. */
static void end_awaited(struct ledger *l, struct entry *e)
{
	struct device *d = l->devices[e->device];
	if (d->read)
		d->foreign = narrow((wide)d->foreign + (e->used - e->returned));
	end(l, e);
}

static void credit_to(struct ledger *l, struct entry *e, uint64_t bytes)
{
	count(l, e, false);
	e->returned += bytes;
	count(l, e, true);
	if (e->used - e->returned <= MIN(SLACK, e->used / 8))
		end_awaited(l, e);
}

static struct entry *returns_as_much(struct device *d, uint64_t freed)
{
	LIST_FOREACH(e, &d->returning, struct entry, on_device)
	{
		uint64_t rest = e->used - e->returned;
		if (freed > SLACK && MAX(rest, freed) - MIN(rest, freed) <= SLACK)
			return e;
	}
	return NULL;
}

/* What was seen to become free is credited to the one that holds as much, else to the first released first.
 */
static void credit(struct ledger *l, struct device *d, uint64_t freed)
{
	struct entry *match = returns_as_much(d, freed);
	if (match) {
		credit_to(l, match, MIN(freed, match->used - match->returned));
		return;
	}
	LIST_FOREACH(e, &d->returning, struct entry, on_device)
	{
		uint64_t part = MIN(freed, e->used - e->returned);
		freed -= part;
		credit_to(l, e, part);
	}
}

/* All that is used is explained without those that return. */
static bool explained(const struct device *d)
{
	return d->used <= narrow(d->least + d->foreign);
}

void ledger_reading(struct ledger *l, size_t device, uint64_t used, mono_t now)
{
	if (device >= l->ndevices)
		return;
	struct device *d = l->devices[device];
	uint64_t freed = d->read ? less(less(d->used, used), d->expected) : 0;
	d->expected = 0;
	d->used = used;
	d->read = true;
	if (d->nreturning) {
		credit(l, d, freed);
		if (explained(d))
			LIST_FOREACH(e, &d->returning, struct entry, on_device)
		end(l, e);
	}
	(void)ledger_tick(l, now);
	bound_foreign(d);
}

mono_t ledger_tick(struct ledger *l, mono_t now)
{
	LIST_FOREACH(e, &l->returning, struct entry, on_ledger)
	{
		if (mono_before(now, e->deadline))
			return e->deadline;
		end_awaited(l, e);
	}
	return MONO_NEVER;
}

/* ---- looking ------------------------------------------------------------------------------------------- */

void ledger_look(const struct ledger *l, size_t device, struct ledger_view *ret)
{
	*ret = (struct ledger_view){ 0 };
	if (device >= l->ndevices)
		return;
	const struct device *d = l->devices[device];
	*ret = (struct ledger_view){ .capacity = d->capacity,
		.booked = narrow(d->booked),
		.over = narrow(d->wanted - d->booked),
		.foreign = d->foreign,
		.foreign_most = d->read ? less(d->used, d->least) : UINT64_MAX,
		.free = room(d),
		.owners = d->owners,
		.returning = d->nreturning };
}

uint64_t ledger_booked(const struct ledger *l, struct ledger_owner o, size_t device)
{
	const struct entry *e = entry_on(find(l, o), device);
	return e ? e->booked : 0;
}

size_t ledger_owners(const struct ledger *l)
{
	return map_len(&l->holders);
}
