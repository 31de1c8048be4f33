/* SPDX-License-Identifier: Apache-2.0
 *
 * The reconciler's inside. Files: control.c life and the reconciliation of one pool · slots.c the replicas a
 * pool has or wants · facts.c facts to traffic · refuse.c why a pool refuses · plan.c, place.c, push.c how
 * many, where, and the wish on the wire · room.c, room_book.c, room_ctx.c, scene.c, want.c, explain.c memory:
 * who gets it, and why · ops.c what operators ask · bluegreen.c, reload.c, memory.c other engines in place of
 * those that run · reconfigure.c another configuration · kept.c what is on the disk · state.c what others are
 * shown · cool.c what needs looking after · hung.c what makes no progress · fate.c what became of one ·
 * figures.c the metrics.
 */
#ifndef CONTROL_CONTROL_INT_H
#define CONTROL_CONTROL_INT_H

#include "base/list.h"
#include "base/map.h"
#include "control/control.h"
#include "control/plan.h"

enum op_kind { OP_NONE, OP_STOP, OP_RESTART, OP_DRAIN, OP_DISABLE };

/* How long the requests of an engine that is replaced or removed may last: a long answer on a slow machine is
 * not cut by a comma in a file; a request that nobody ends must not keep the engine for ever. */
enum { LEAVE_MS = 600000 };

/* What an engine is started from. */
struct control_variant {
	char spec[CONFIG_SPEC_LEN + 1]; /* of the pool's configuration; empty: unknown */
	char *model;                    /* a file in place of the configured model; NULL: that one */
};

enum slot_role {
	SLOT_MAIN,     /* serves, or would: counted by the plan; during a reload: to be replaced */
	SLOT_FRESH,    /* of a reload: is being tried, gets no traffic before it is Ready */
	SLOT_ACCEPTED, /* of a reload: came in place of a main one */
	SLOT_LEAVING,  /* its requests end, then it stops, then the slot goes */
};

struct control_slot { /* one replica a pool has or wants: "<pool>-<n>" */
	char id[POOL_ID_MAX];
	uint32_t n;
	struct control_variant variant;
	enum slot_role role;
	mono_t leave_by;       /* of a leaving one: then its requests are cut off */
	struct plan_slot plan; /* wanted, busy_at */
	bool in_pool;          /* traffic knows it */
	bool down;             /* a request found it failing; read when it proves itself */
	uint64_t generation;   /* of what traffic knows */
	uint64_t proved_generation, own_generation;
	uint32_t restart_epoch;
	uint64_t retired; /* the generation that a restart is to replace: it gets no traffic any more; 0 =
			     none */
	bool on_wire;     /* the node may have been told of it: its id is not used again before it was told
			     otherwise */
	bool in_push;     /* of the set that was pushed last */
	const char *node; /* where the planner puts it; valid with the snapshot it was planned on; NULL =
			     nowhere */
	bool placed;      /* that was told */
	/* room.c: what it holds of devices (NULL: nothing, or nothing is known), since when it waits for it
	 */
	struct slot_room *room;
	uint64_t room_owner;     /* of the ledger */
	uint64_t oom_generation; /* the one that ran out of memory and is being started again; 0: none */
	int room_pid;            /* that the driver lists for it, once it was Ready; 0: none, -1: several */
	uint32_t room_epoch;     /* restart_epoch when it was reserved */
	bool waits;
	mono_t waits_since;
	bool header_seen;     /* its model is to be fetched: that it may be served was seen in the header */
	mono_t tools_at;      /* its last answer that ended with calls of tools, */
	uint64_t tools_owner; /* and whose that was; 0: not known */
	enum replica_state told; /* the last state that was narrated */
	uint64_t told_generation;
	uint32_t restarts_told; /* counted in the metrics */
	/* talks.c: whose conversations it holds, and whose waited for it; NULL: none are kept */
	char *talks, *kv_for;
	char *kv_found;             /* what its engine found of before: wire_replica.kv_found */
	uint64_t kv_settled, nsaid; /* of kv_found: a bit each; so many requests were looked at for that */
	mono_t failed_at;           /* when the failure that `failed_ms` (its own time) is of was heard of */
	int64_t failed_ms;
	mono_t retried_at; /* the last time control asked for another try of a failed one */
};

struct slot_room;
struct cooler;
struct reload;
struct demand;

enum { CONTROL_SPEEDS_MAX = 16 }; /* devices a pool remembers */
struct control_pool {
	struct control *control;
	struct config *config; /* a reference; cfg is in it */
	const struct config_pool *cfg;
	char spec[CONFIG_SPEC_LEN + 1]; /* of cfg */
	struct pool *pool;
	struct demand *demand;       /* shared with traffic, which may outlive us */
	struct control_slot **slots; /* by n */
	size_t nslots;
	struct control_variant variant; /* what the plan starts engines from */
	char *override;                 /* the registry's: a file in place of the configured model */
	uint32_t epochs;                /* restart_epoch of the next slot */
	bool external, started;         /* started: by an operator or preload, keep_alive counts from then */
	bool demanded, was_ready;
	bool removed; /* not in the configuration any more: goes when all of it is gone */
	/* the start that is under way, and how long the last one took (0: none was seen) */
	uint64_t start_generation;
	enum replica_state start_state;
	mono_t start_since;
	int64_t load_ms;
	/* an operation that waits for leases to end */
	enum op_kind op;
	mono_t op_since, op_deadline;
	bool op_forced, op_unloading;
	uint32_t op_final_leases;
	control_done_fn *op_done;
	void *op_arg;
	struct reload *reload;          /* NULL: none is under way */
	struct wire_error reload_error; /* why the last one failed; message NULL: it did not */
	struct pool_refusal refusal;    /* what the pool is closed with; code 0: open */
	struct cooler *coolers;         /* one a replica that is looked at */
	char room_text[384];            /* room.c: what it waits for, or why it can never be placed */
	bool room_refused, room_forever, room_decided; /* decided: in this round */
	struct control_speed {                         /* speeds.c */
		size_t device;                         /* of the ledger */
		uint32_t speed;
	} speeds[CONTROL_SPEEDS_MAX];
	size_t nspeeds;
	/* room_ctx.c: of `ctx: auto`, what it became last, of which spec, and until when it was that */
	uint32_t auto_ctx;
	char auto_spec[CONFIG_SPEC_LEN + 1];
	mono_t auto_at;
	bool cpu_engine; /* its engine was seen to use the CPU alone, though there is a GPU */
	/* It ran out of memory where it had been reserved: with which variant, and how often. What it needs
	 * counts for more from then on. */
	char oom_spec[CONFIG_SPEC_LEN + 1];
	uint32_t ooms;
};

struct control {
	struct control_opts o;
	struct config *config;
	struct control_pool **pools; /* all, also those that are being removed */
	size_t npools;
	struct map all;              /* id → of pools */
	struct control_pool **by_id; /* those that are configured, sorted by id */
	size_t nby_id;
	struct map by_name; /* id or alias → of by_id */
	struct loop_work wake;
	struct loop_timer timer; /* the next keep_alive, deadline or registry tick */
	struct list condemned;   /* of hung.c: what the node is being told */
	struct list kept;        /* struct kept: those who wait for the disk */
	/* the wire */
	struct http_target *node;
	char *node_address;
	char *node_boot; /* boot id + pid of the node that was told last */
	struct http_fetch *push;
	struct buf pushed; /* the desired set that the node has */
	struct buf pushing;
	struct buf strays; /* unwanted engines it ran when it was told */
	struct loop_timer push_again;
	uint64_t revision;
	bool quiet;
	struct ledger *ledger; /* room.c: who holds how much of which device */
	uint64_t next_owner, read_revision;
	struct awaited *awaited; /* those whose memory is on its way back, by their processes */
	size_t nawaited;
	mono_t returns_by; /* what ended engines held may not be seen as free before */
};

/* control.c */
struct control_pool *control_pool_add(struct control *c, struct config *cfg, const struct config_pool *pc);
void slots_read_leases(struct control_pool *p); /* as traffic has them now */
struct pool_opts pool_opts_of(struct control_pool *p);
bool pool_is_held(const struct control_pool *p); /* by a mark; reads the present snapshot */
/* slots.c */
bool variant_eq(const struct control_variant *a, const struct control_variant *b);
void variant_set(struct control_variant *v, const char *spec, const char *model);
void variant_copy(struct control_variant *to, const struct control_variant *from);
void variant_done(struct control_variant *v);
/* What the configuration and the override want; done with variant_done. */
struct control_variant variant_wanted(const struct control_pool *p) MUST_CHECK;
struct control_slot *slot_find(const struct control_pool *p, struct view id);
struct control_slot *slot_add(
	struct control_pool *p, uint32_t n, const struct control_variant *v, enum slot_role role);
uint32_t slot_free_n(const struct control_pool *p, const struct registry_pool *rp);
uint32_t slots_count(const struct control_pool *p, enum slot_role role, bool wanted_only);
/* From now on engines are started from v; those of another variant leave. v may be p's own. */
void variant_switch(struct control_pool *p, const struct control_variant *v, mono_t leave_by);
void slot_leave(struct control_slot *s, mono_t by);
void slots_adopt(struct control_pool *p, const struct registry_pool *rp, mono_t now);
mono_t slots_plan(
	struct control_pool *p, const struct registry_pool *rp, const struct pool_stats *st, mono_t now);
void slots_tidy(struct control_pool *p, const struct registry_pool *rp);
void slots_done(struct control_pool *p);
const struct registry_replica *slot_replica(const struct registry_pool *rp, const struct control_slot *s);
/* facts.c */
void slot_take_out(struct control_pool *p, struct control_slot *s, bool cut);
void slot_apply_facts(
	struct control_pool *p, struct control_slot *s, const struct registry_replica *r, bool waiting);
/* refuse.c */
/* It is FAILED: asks for another try where that is worth it. When it may be tried again by who waits for it;
 * MONO_NEVER: nobody waits, it is refused. */
mono_t slot_retry_failed(struct control_pool *p, const struct registry_pool *rp, struct control_slot *s,
	const struct wire_replica *f, bool waiting, mono_t now);
void set_refusal(struct control_pool *p, const struct pool_refusal *why);
void refuse_removed(struct control_pool *p);
void decide_refusal(struct control_pool *p, const struct registry_pool *rp, const struct wire_replica *failed,
	bool usable);
void disabled_text(
	const struct control_pool *p, const struct registry_pool_mark_info *mark, char *out, size_t cap);
/* place.c: sets node of every wanted replica */
void control_place(struct control *c, const struct registry_snapshot *s);
/* room.c: reserves memory for what is to be started; who gets none has no node. When to decide again. */
mono_t control_room(struct control *c, const struct registry_snapshot *s, mono_t now);
void slot_room_free(struct control *c, struct control_slot *s, mono_t now);
/* Whether the planner has room for one more engine of p, of that variant, with nobody leaving for it. UNTOLD:
 * its node has not read the configuration that v is of; UNKNOWN: nothing is known of what it needs. */
enum room_beside { BESIDE_FITS, BESIDE_FITS_NOT, BESIDE_UNTOLD, BESIDE_UNKNOWN };
enum room_beside room_beside(struct control_pool *p, const struct control_variant *v,
	const struct registry_snapshot *snap, mono_t now) MUST_CHECK;
/* That generation ran out of memory, and the next one is under way: its failure is no verdict. */
bool room_tries_again(const struct control_slot *s, const struct wire_replica *f);
/* It failed for want of memory, and is about to be tried once more with less (or is being tried). */
bool room_tries_smaller(
	const struct control_pool *p, const struct control_slot *s, const struct wire_replica *f);
/* push.c */
void control_push(struct control *c, const struct registry_snapshot *s);
void control_tell_proved(struct control *c, const char *replica_id, uint64_t generation, const char *by);
void push_done(struct control *c);
/* talks.c: brings s->talks up to date, while its replica is in the pool */
void slot_note_talks(struct control_pool *p, struct control_slot *s);
void slot_found_talks(struct control_slot *s, const char *kv_found);    /* a new engine */
void slot_note_waiting(struct control_pool *p, struct control_slot *s); /* and s->kv_for */
/* cool.c: what became of that generation of a replica of p, as the registry has it now */
enum pool_fate control_fate_now(struct control_pool *p, const char *replica_id, uint64_t generation);
/* hung.c */
/* Its engine makes no progress: no traffic any more, the node is told to end it. */
void control_hung(struct control_pool *p, struct pool_replica *r, const char *message);
void hung_done(struct control *c);
/* A fingerprint of the counters in an answer to /slots, and how many are busy; -1: not an answer to /slots.
 */
int slots_read(struct view body, uint64_t *ret_counters);
/* cool.c: the slots of r are to be looked at (see control_silent) */
void cooler_silent(struct control_pool *p, struct pool_replica *r, bool over, int64_t limit_ms);
/* cool.c: looks after what cools and what is down */
void control_look_after(struct control_pool *p);
void coolers_done(struct control_pool *p);
/* figures.c */
void control_collect(void *control, struct metrics *m);
void figures_forget(struct control_pool *p);
/* ops.c */
/* Who waits for an operation is told how it stands; no reconciliation will move it any more. */
void op_give_up(struct control_pool *p);
void op_step(struct control_pool *p, const struct pool_stats *s, const struct registry_pool *rp, mono_t now);
void op_end(struct control_pool *p); /* gives up and forgets it */
/* reload.c */
/* Moves a reload; returns when to look again. After the facts were applied. */
mono_t reload_step(struct control_pool *p, const struct registry_pool *rp, mono_t now);
/* The configuration, or engines found at the start, may ask for other engines than those that run. */
void reload_for_config(struct control_pool *p, const struct registry_pool *rp, bool model_changed);
/* The fresh one goes, what serves goes on; whoever waits is told why (NULL: what went wrong before). */
void reload_cancel(struct control_pool *p, const char *why);
void reload_forget(struct control_pool *p, void *arg);
/* memory.c: bytes; 0 = unknown */
uint64_t pool_memory_free(const struct control_pool *p);
uint64_t mem_available(struct view meminfo);
/* False: none of them is a usable GPU of the mask. */
struct mask;
bool gpus_free(const struct wire_device *d, size_t n, const struct mask *m, uint64_t *ret);
/* kept.c */
void kept_give_up(struct control *c);
void kept_done(struct control *c);

enum { /* refusals use the dialect's numbering without including it; a unit test holds the two together */
	REFUSE_MODEL_NOT_FOUND = 2,
	REFUSE_POOL_UNREADY = 11,
	REFUSE_POOL_UNAVAILABLE = 12,
	REFUSE_NO_CAPACITY = 13,
	REFUSE_MODEL_RETIRED = 17,
};

#endif
