/* SPDX-License-Identifier: Apache-2.0
 *
 * What the device planner is asked, made of the registry's snapshot and of what is reserved. Files: scene.c
 * the devices and who holds them · speeds.c how fast they were · want.c one replica's wish · room_ctx.c how
 * much context · room_book.c what is reserved · room_ever.c what could never be served · room.c decisions.
 */
#ifndef CONTROL_ROOM_INT_H
#define CONTROL_ROOM_INT_H

#include "control/control_int.h"
#include "placement/fit.h"
#include "placement/ledger.h"
#include "placement/swap.h"

enum { ROOM_ID_MAX = 160, ROOM_USES_MAX = FIT_SPLIT_MAX + 1 };

/* What a replica holds, from before its engine is started until its memory is seen to return. */
struct room_use {
	char device_id[ROOM_ID_MAX];
	size_t device; /* of the ledger */
	uint64_t bytes;
};
struct slot_room {
	enum fit_how how;
	struct room_use uses[ROOM_USES_MAX];
	size_t nuses;
	char devices[FIT_SPLIT_MAX * 48],
		split[FIT_SPLIT_MAX * 12]; /* for the wire; empty: the pool's own, one */
	uint32_t gpu_layers, cpu_experts;
	uint32_t ctx;         /* of `ctx: auto`, what it became; 0: the pool's own */
	bool planned, on_gpu; /* the division is ours to say; some of it is on a GPU */
};

enum { AWAITED_LOOKS = 64 }; /* then the ledger's own time-out has decided long ago */
struct awaited {
	char id[POOL_ID_MAX];
	uint64_t owner;
	int pid;
	unsigned looks;
};

struct scene { /* freed with scene_done; strings are the snapshot's */
	struct fit_facts facts;
	struct fit_device *devices;
	const struct wire_device **wire; /* of devices */
	size_t *booked;                  /* of devices: the ledger's number */
	struct fit_replica *replicas;
	struct control_slot **slots; /* of replicas */
	struct control_pool **pools; /* of replicas */
	struct fit_use *uses;
	size_t words_devices, words_replicas; /* of a bit set */
	void *scratch;
	struct swap_waiting waiting; /* who asks: since when, and whose its oldest request is */
	mono_t held_until;           /* when the first that is held for its client's next turn may go */
};
/* w: who asks has waited from then on, and whose it is. */
void scene_make(struct control *c, const struct registry_snapshot *s, const struct swap_waiting *w,
	mono_t now, struct scene *ret);
/* What it costs, in seconds, that a replica leaves: how likely it is that it is wanted again soon, times how
 * long that request waits for the model and, where the last conversation does not outlive the engine, for
 * that to be read again.
 */
struct scene_loss {
	double idle_s, reload_s;
	double reread_s; /* of its last conversation; 0: not known */
	bool kept;       /* it outlives the engine */
	double cost;     /* the pool's evict_cost */
};
double scene_loss(const struct scene_loss *l);
struct swap_policy room_swap_policy(const struct control *c);
void scene_done(struct scene *s);
/* What the nodes' devices say, into the ledger: what ours use, what is used at all. */
void scene_read(struct control *c, const struct registry_snapshot *s, mono_t now);
/* Its engine was ended: what it held is looked for. */
void scene_await(struct control *c, const struct control_slot *s);
struct ledger_owner slot_owner(const struct control_slot *s);

/* How fast each device was for p, into the scene; and what any pool's engines show now is remembered. */
void room_speeds(struct control *c, const struct control_pool *p, struct scene *sc);

struct room_want { /* freed with room_want_done */
	struct fit_want fit;
	struct fit_need need;
	struct fit_layer *layers;
	uint64_t *mask, *prefer, *avoid, *never_with, *siblings, *protect;
	struct wire_need wire;
	/* Of `ctx: auto`: what it is, 0 of a pool that says its own; what it could be (the snapshot's, NULL:
	 * nothing more, or it is settled by a replica that runs). */
	uint32_t ctx;
	char *const *larger;
	bool absent; /* it is to be fetched; */
	bool header; /* and its header is known */
	bool stale;  /* its node's figures are of another configuration than the one asked about */
	bool known;  /* false: nothing is known of what it needs; it is not planned */
};
/* v: what the engine would be started from. node_id NULL: any. */
void room_want_make(const struct registry_snapshot *s, const struct scene *sc, struct control_pool *p,
	const struct control_variant *v, const char *node_id, struct room_want *ret);
void room_want_done(struct room_want *w);
/* room_ever.c: no machine of these devices could serve it, were it alone there. */
bool room_never(const struct scene *sc, const struct room_want *w) MUST_CHECK;
bool room_plan_mapped(const struct fit_facts *facts, void *scratch, const struct room_want *w,
	struct fit_plan *plan) MUST_CHECK;
/* Another need in place of w's, which is taken over. */
void room_want_take(const struct control_pool *p, struct room_want *w, struct wire_need *n);
/* room_book.c: books what the plan says, for s. False: it is not there, whatever the planner thought. */
bool room_reserve(struct control *c, struct control_slot *s, const struct scene *sc,
	const struct room_want *w, const struct fit_plan *plan);
/* One that runs already, started by another orchestratord or for a reload: what it holds is what is measured,
 * or what its model needs on the devices it says it has. */
void room_reserve_found(struct control *c, struct control_slot *s, const struct scene *sc,
	const struct room_want *w, const struct registry_replica *r);
/* room_ctx.c: the needs of `ctx: auto`. room_ctx_begin: what a replica that runs has, it has, too. */
void room_ctx_begin(const struct control_pool *p, const struct control_variant *v, const struct wire_model *m,
	struct room_want *w);
/* w goes as plan says. Where more is free on the same devices its context grows: w and plan are changed. */
void room_ctx_grow(const struct control_pool *p, const struct scene *sc, struct room_want *w,
	struct fit_plan *plan, mono_t now);
/* It runs with that. */
void room_ctx_note(struct control_pool *p, uint32_t ctx, mono_t now);
/* The need with that context, where there is one; else w stays. */
void room_ctx_set(const struct control_pool *p, struct room_want *w, uint32_t ctx);

static inline void bit_set(uint64_t *bits, size_t i)
{
	bits[i / 64] |= (uint64_t)1 << (i % 64);
}
static inline bool bit_get(const uint64_t *bits, size_t i)
{
	return bits[i / 64] >> (i % 64) & 1;
}

#endif
