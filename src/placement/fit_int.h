/* SPDX-License-Identifier: Apache-2.0
 *
 * Inside the device planner: one call's working state, shared by its files.
 *   fit.c         the steps
 *   fit_rank.c    nodes and groups of devices, and which of two possible places is better
 *   fit_bound.c   which nodes cannot be the best, by the table
 *   fit_table.c   the table that is kept beside the facts
 *   fit_shape.c   whether a need goes into given rooms, and how it is divided
 *   fit_evict.c   who holds what, and whose leaving costs the least
 *   fit_reason.c  why a device was not taken, and what is missing
 */
#ifndef PLACEMENT_FIT_INT_H
#define PLACEMENT_FIT_INT_H

#include <string.h>

#include "placement/fit.h"

enum fit_mode { FIT_MODE_WHOLE, FIT_MODE_SHARE, FIT_MODE_EXPERTS, FIT_MODE_PARTIAL, FIT_MODE_HOST };

struct fit_node {
	size_t from, to, host; /* devices [from, to) without the host; host or FIT_NONE */
	size_t number;         /* in the table, if there is one */
};
struct fit_set { /* devices of one node and kind that are thought of together, by index */
	size_t n;
	size_t devices[FIT_SPLIT_MAX];
};
enum { FIT_DIMS = FIT_SPLIT_MAX + 1 }; /* the host comes last */
struct fit_room {
	uint64_t devices[FIT_SPLIT_MAX], host;
};

struct fit_candidate { /* one that might leave */
	uint32_t replica;
	bool expired;
	double loss;
	uint64_t bytes; /* on the devices in question */
};
struct fit_cost {
	double loss;
	uint32_t unexpired, count;
};
struct fit_victims {
	struct fit_cost cost;
	size_t n;
	uint32_t replicas[FIT_VICTIMS_MAX];
};

struct fit_score { /* the smaller the better, in this order; see fit.h */
	struct fit_cost cost;
	uint64_t offloaded;
	uint32_t parts, siblings, not_preferred, node_siblings;
	uint64_t replicas;
	uint32_t speed; /* the slowest of them */
	uint64_t left;  /* bytes free after placing */
	size_t device;  /* the first of them, for its names */
};
struct fit_choice {
	bool found;
	enum fit_mode mode;
	struct fit_node node;
	struct fit_set set;
	struct fit_score score;
	struct fit_victims victims;
};

#define FIT_NIL UINT32_MAX
struct fit_held {                    /* on a device */
	uint64_t evictable, staying; /* bytes of those that may leave, and of those that never do */
	double least;                /* the smallest loss of one that may leave */
	uint32_t head;               /* the first use; of a call's own: by one that may leave */
	bool expired;                /* one that may leave is */
};

struct fit_summary {              /* of a node in the table; bounds, whatever is wanted */
	uint32_t from, to, host;  /* as fit_node; FIT_NIL: no host */
	uint32_t first;           /* the device of the smallest index */
	uint32_t rank;            /* by name */
	uint32_t n;               /* devices that are usable and not cordoned: the next five are theirs */
	uint32_t replicas;        /* the fewest on one */
	uint32_t speed;           /* the fastest; 0: of one it is not known */
	bool odd;                 /* one's capacity is not known, or it has a limit */
	uint64_t free, potential; /* sums: to be had at once, and once all left who may */
	uint64_t most_free, most_potential; /* the same of one device, the most */
	uint64_t most_later, later; /* bytes to be had once all but the pinned left: the most, the sum */
	uint32_t fastest;           /* of all */
	uint32_t on;                /* replicas of ours */
	uint32_t ncheap;
	bool more_leave;       /* than there are places for */
	double least;          /* the smallest loss of one that may leave */
	bool expired, changed; /* one that may leave is; it has to be summed up again */
	uint64_t host_free, host_potential;
};
/* Those of a node that may leave, the cheapest for what they free first. */
enum { FIT_CHEAP_MAX = 16 };
struct fit_cheap {
	uint64_t bytes; /* of the node's devices */
	double loss;
	uint64_t room;    /* free on its device, if it is on one */
	uint32_t devices; /* it is on */
	bool alone;       /* on one, and nobody else there may leave */
};
struct fit_freed { /* by the cheapest so many of them together */
	uint64_t bytes;
	double loss;
};
struct fit_promise { /* the most that a node can be worth in a step */
	double loss; /* at least */
	uint64_t offloaded;
};
struct fit_holding {
	bool known;
	uint32_t first, n; /* uses */
};
struct fit_table {
	struct fit_summary *nodes;
	uint32_t nnodes;
	uint32_t nowhere; /* replicas that are not known to hold anything */
	/* Per device; the rooms, free and with all that may leave gone, stand in each node's part, the most
	 * first. */
	uint32_t *node_of;
	uint64_t *free, *potential;
	struct fit_held *held;
	struct fit_cheap (*cheap)[FIT_CHEAP_MAX]; /* per node */
	struct fit_freed (*freed)[FIT_CHEAP_MAX]; /* the same, summed up */
	/* per use: the next of its device, its replica, its device; per replica: its uses */
	uint32_t *next, *owner, *on;
	struct fit_holding *held_by;
	size_t uses, replicas; /* places for them */
	uint32_t *changed;
	size_t nchanged;
};
struct fit_run {
	const struct fit_facts *f;
	const struct fit_want *w;
	const struct fit_need *need;
	const struct fit_table *table; /* or NULL */
	uint64_t whole;                /* on one device */
	uint64_t unit;                 /* on each device: the share, or the whole */
	uint32_t gpus;                 /* exactly so many; 0: as many as it takes */
	bool divides;                  /* its layers are known */
	bool avoided;                  /* devices to avoid count, too */
	bool picky;                    /* a mask, devices to avoid or one node are asked for */
	bool unwelcome;                /* there are some it may not run with */
	uint32_t fastest;              /* of all devices; when it is asked for */
	bool fastest_known;
	/* Sums of the first i layers. */
	uint64_t *plain, *experts;
	uint64_t layer_least, layer_whole; /* the smallest layer without its experts, and with them */
	double per_whole;                  /* 1 / layer_whole */
	/* Who holds what; filled by fit_index. Per device: */
	bool indexed;
	struct fit_held *held;
	uint64_t *own; /* with a table: bits of those whose entry is the call's, not the table's */
	/* per use: the next one of the same device, its replica */
	uint32_t *next, *owner;
	/* per replica */
	uint32_t *seen, stamp;
	/* per node of the table: of the step that is being made; enum fit_company */
	struct fit_promise *promises;
	uint8_t *company;
	bool company_known;
	uint32_t *siblings; /* those of the same pool */
	size_t nsiblings;
	struct fit_candidate *candidates;
	struct fit_choice best;
};

static inline bool fit_bit(const uint64_t *bits, size_t i)
{
	return bits && (bits[i / 64] >> (i % 64) & 1);
}
/* The first that is set from i on; >= n: none. */
static inline size_t fit_bit_next(const uint64_t *bits, size_t i, size_t n)
{
	while (bits && i < n) {
		uint64_t word = bits[i / 64] >> (i % 64);
		if (word)
			return i + (size_t)__builtin_ctzll(word);
		i = (i / 64 + 1) * 64;
	}
	return n;
}
static inline uint64_t fit_add(uint64_t a, uint64_t b)
{
	return a + b < a ? UINT64_MAX : a + b;
}
static inline uint64_t fit_sub(uint64_t a, uint64_t b)
{
	return a < b ? 0 : a - b;
}
/* What ours may hold of a device if nobody of ours were there; UINT64_MAX: not known. */
static inline uint64_t fit_cap(const struct fit_run *r, const struct fit_device *d)
{
	uint64_t cap = d->capacity ? fit_sub(d->capacity, d->foreign) : UINT64_MAX;
	if (d->capacity && d->kind != FIT_KIND_CPU)
		cap = fit_sub(cap, r->w->headroom);
	return d->limit ? MIN(cap, d->limit) : cap;
}
/* Bytes to be had when so many of ours were freed; UINT64_MAX: not known. fit_cap less what ours hold. */
static inline uint64_t fit_room_of(const struct fit_run *r, size_t device, uint64_t freed)
{
	const struct fit_device *d = &r->f->devices[device];
	uint64_t ours = fit_sub(d->reserved, freed), room = UINT64_MAX;
	if (LIKELY(d->capacity)) {
		uint64_t used = fit_add(ours, d->foreign);
		used = fit_add(used, d->kind != FIT_KIND_CPU ? r->w->headroom : 0);
		room = fit_sub(d->capacity, used);
	}
	return UNLIKELY(d->limit) ? MIN(room, fit_sub(d->limit, ours)) : room;
}
static inline uint64_t fit_host_room(const struct fit_run *r, const struct fit_node *n, uint64_t freed)
{
	return n->host == FIT_NONE ? UINT64_MAX : fit_room_of(r, n->host, freed);
}

static inline bool fit_same(const char *a, const char *b)
{
	return a == b || strcmp(a, b) == 0;
}
/* FIT_TAKEN: it may be looked at. */
static inline enum fit_reason fit_bar(const struct fit_run *r, size_t device)
{
	const struct fit_device *d = &r->f->devices[device];
	const struct fit_want *w = r->w;
	if (w->node_id && !fit_same(w->node_id, d->node_id))
		return FIT_OTHER_NODE;
	if (w->mask ? !fit_bit(w->mask, device) : d->integrated)
		return w->mask ? FIT_NOT_IN_MASK : FIT_INTEGRATED;
	if (!d->usable)
		return FIT_NOT_USABLE;
	if (d->cordoned)
		return FIT_CORDONED;
	return !r->avoided && fit_bit(w->avoid, device) ? FIT_AVOIDED : FIT_TAKEN;
}
static inline bool fit_open(const struct fit_run *r, size_t device)
{
	const struct fit_device *d = &r->f->devices[device];
	if (d->kind == FIT_KIND_CPU)
		return false;
	return r->picky ? fit_bar(r, device) == FIT_TAKEN : d->usable & !d->cordoned & !d->integrated;
}
/* For a walk over the kinds of a node: whether a device is the first of its kind that may be looked at. */
struct fit_kinds {
	uint64_t seen[4];
};
static inline bool fit_leads(const struct fit_run *r, struct fit_kinds *k, size_t device)
{
	uint8_t kind = r->f->devices[device].kind;
	if (fit_bit(k->seen, kind) || !fit_open(r, device))
		return false;
	k->seen[kind / 64] |= (uint64_t)1 << (kind % 64);
	return true;
}

/* fit_shape.c */

void fit_sums(struct fit_run *r);
/* Whether the need goes into these rooms; ret (or NULL) gets how, parts, layers and host bytes then. */
bool fit_shape(const struct fit_run *r, enum fit_mode mode, const struct fit_node *node,
	const struct fit_set *set, const struct fit_room *room, struct fit_plan *ret);
/* What the host holds at least, whatever goes to devices. */
uint64_t fit_host_least(const struct fit_run *r, enum fit_mode mode);

/* fit_evict.c */

void fit_index(struct fit_run *r);
/* What its leaving costs: nothing, where its time is up. */
static inline double fit_loss(const struct fit_replica *p)
{
	return p->expired || !(p->loss > 0) ? 0 : p->loss;
}
static inline bool fit_never_leaves(const struct fit_run *r, size_t i)
{
	return r->f->replicas[i].pinned || fit_bit(r->w->protect, i);
}
static inline bool fit_may_leave(const struct fit_run *r, size_t i)
{
	const struct fit_replica *p = &r->f->replicas[i];
	return r->w->may_evict && !p->busy && !fit_never_leaves(r, i) && (p->expired || !p->idle_only);
}
/* Sums up who holds a device, from ret->head on. */
void fit_hold(const struct fit_run *r, const uint32_t *owner, const uint32_t *next, struct fit_held *ret);
/* These need the index. */
static inline const struct fit_held *fit_held(const struct fit_run *r, size_t device)
{
	return r->table && !fit_bit(r->own, device) ? &r->table->held[device] : &r->held[device];
}
/* Bytes to be had if everybody left who may. */
static inline uint64_t fit_potential(const struct fit_run *r, size_t device)
{
	return fit_room_of(r, device, r->w->may_evict ? fit_held(r, device)->evictable : 0);
}
/* Bytes to be had if everybody left but those that never do. */
static inline uint64_t fit_later_with(const struct fit_run *r, size_t device, uint64_t staying)
{
	uint64_t cap = fit_cap(r, &r->f->devices[device]);
	return cap == UINT64_MAX ? cap : fit_sub(cap, MIN(staying, r->f->devices[device].reserved));
}
static inline uint64_t fit_later(const struct fit_run *r, size_t device)
{
	return fit_later_with(r, device, fit_held(r, device)->staying);
}
/* Those on the node that may not run beside it. */
enum fit_company { FIT_ALONE, FIT_LEAVES, FIT_STAYS };
enum fit_company fit_company(struct fit_run *r, const struct fit_node *node);
/* How many more than the operator allows there would be on the node with this one. */
uint32_t fit_surplus(struct fit_run *r, const struct fit_node *node);
/* The cheapest set whose leaving makes room; false: nobody's does. Needs the index. */
bool fit_victims(struct fit_run *r, enum fit_mode mode, const struct fit_node *node,
	const struct fit_set *set, struct fit_victims *ret);
int fit_cost_cmp(const struct fit_cost *a, const struct fit_cost *b);
/* The rooms of a set after these left. */
void fit_rooms(const struct fit_run *r, const struct fit_node *node, const struct fit_set *set,
	const struct fit_victims *gone, struct fit_room *ret);

/* fit_rank.c */

/* The next node from *at, which begins at 0. */
bool fit_node_next(const struct fit_run *r, size_t *at, struct fit_node *ret);
void fit_node_of(const struct fit_table *t, size_t number, struct fit_node *ret);
/* How devices of a group are ranked. */
typedef uint64_t fit_key(const struct fit_run *r, size_t device);
struct fit_rank {
	fit_key *key;
	enum { RANK_ROOM, RANK_PREFERRED, RANK_LOSS, RANK_LOAD } by;
	uint64_t least; /* keys below it are left out */
};
/* Devices of the node of the kind of `like` that may be looked at, the best first. */
void fit_ranked(const struct fit_run *r, const struct fit_node *node, size_t like,
	const struct fit_rank *rank, struct fit_set *ret);
/* The same, roomiest first by key. */
void fit_group(
	const struct fit_run *r, const struct fit_node *node, size_t like, fit_key *key, struct fit_set *ret);
void fit_set_first(const struct fit_run *r, const struct fit_set *ranked, size_t k, struct fit_set *ret);
int fit_names_cmp(const struct fit_run *r, size_t a, size_t b); /* two devices by (node, index) */
int fit_score_cmp(struct fit_run *r, const struct fit_score *a, const struct fit_score *b);
/* What does not depend on how it is divided, nor on who leaves. room: what is free before placing. */
void fit_score_set(const struct fit_run *r, const struct fit_node *node, const struct fit_set *set,
	const struct fit_room *room, struct fit_score *s);

/* fit_bound.c: of nodes of the table */

struct fit_step {
	enum fit_mode mode;
	bool sets; /* several devices, or some of it in host memory */
	bool evict;
	uint64_t host; /* what the host holds at least */
};
/* A score that nothing on the node is better than; false: nothing on it will do. */
bool fit_floor(const struct fit_run *r, const struct fit_step *s, size_t number, struct fit_score *ret);
/* Raises the loss of such a score by a closer look: whole layers of a split. */
void fit_floor_layers(
	const struct fit_run *r, const struct fit_step *s, size_t number, struct fit_score *ret);
/* Whether a mask, a node or devices to avoid leave anything of it. */
bool fit_any_open(const struct fit_run *r, const struct fit_summary *s);
/* Whether something on it might do later, or come closer than what was found. */
bool fit_might_later(const struct fit_run *r, size_t number);
bool fit_might_be_closer(const struct fit_run *r, size_t number, const struct fit_plan *found);

/* fit.c */

/* Whether it would do once all but the pinned had left. */
bool fit_would_later(struct fit_run *r);

/* fit_reason.c */

void fit_missing(struct fit_run *r, struct fit_plan *ret);
void fit_reasons(struct fit_run *r, const struct fit_plan *plan, enum fit_reason *ret);

#endif
