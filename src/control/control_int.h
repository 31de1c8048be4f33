/* SPDX-License-Identifier: Apache-2.0
 *
 * The reconciler's inside.
 */
#ifndef CONTROL_CONTROL_INT_H
#define CONTROL_CONTROL_INT_H

#include "base/list.h"
#include "base/map.h"
#include "control/control.h"
#include "control/plan.h"

enum op_kind { OP_NONE, OP_STOP, OP_RESTART, OP_DRAIN };

struct control_slot { /* one replica a pool may have: "<pool>-<n>" */
	char id[POOL_ID_MAX];
	struct plan_slot plan; /* wanted, busy_at */
	bool met;              /* wanted or reported once since this control began */
	bool in_pool;          /* traffic knows it */
	uint64_t generation;   /* of what traffic knows */
	uint64_t proved_generation, own_generation;
	uint32_t restart_epoch;
	uint64_t retired; /* the generation that a restart is to replace: it gets no traffic any more; 0 =
			     none */
	const char *node; /* where the planner puts it; valid with the snapshot it was planned on; NULL =
			     nowhere */
	bool placed;      /* that was told */
	enum replica_state told; /* the last state that was narrated */
	uint64_t told_generation;
	uint32_t restarts_told; /* counted in the metrics */
	mono_t retried_at;      /* the last time control asked for another try of a failed one */
};

struct cooler;

struct control_pool {
	struct control *control;
	const struct config_pool *cfg;
	struct pool *pool;
	struct control_slot *slots;
	size_t nslots;          /* replicas_max, or one for each URL of an external engine */
	bool external, started; /* started: by an operator or preload, keep_alive counts from then */
	bool demanded;
	/* an operation that waits for leases to end */
	enum op_kind op;
	mono_t op_since, op_deadline;
	bool op_forced, op_unloading;
	uint32_t op_final_leases;
	control_done_fn *op_done;
	void *op_arg;
	struct pool_refusal refusal; /* what the pool is closed with; code 0: open */
	struct cooler *coolers;      /* one a replica that is looked at */
	struct loop_work demand_work;
};

struct control {
	struct control_opts o;
	struct config *config;
	struct control_pool *pools;
	size_t npools;
	struct control_pool **by_id; /* all of them, sorted by id */
	struct map by_name;          /* id or alias → struct control_pool */
	struct loop_work wake;
	struct loop_timer timer; /* the next keep_alive, deadline or registry tick */
	/* the wire */
	struct http_target *node;
	char *node_address;
	char *node_boot; /* boot id + pid of the node that was told last */
	struct http_fetch *push;
	struct buf pushed; /* the desired set that the node has */
	struct buf pushing;
	struct loop_timer push_again;
	uint64_t revision;
	bool quiet;
};

/* place.c: sets node of every wanted replica */
void control_place(struct control *c, const struct registry_snapshot *s);
/* push.c */
void control_push(struct control *c, const struct registry_snapshot *s);
void control_tell_proved(struct control *c, const char *replica_id, uint64_t generation, const char *by);
void push_done(struct control *c);
/* cool.c: what became of that generation of a replica of p, as the registry has it now */
enum pool_fate control_fate_now(struct control_pool *p, const char *replica_id, uint64_t generation);
/* cool.c: looks after what cools and what is down */
void control_look_after(struct control_pool *p);
void coolers_done(struct control_pool *p);
/* figures.c */
void control_collect(void *control, struct metrics *m);
/* ops.c */
/* Who waits for an operation is told how it stands; no reconciliation will move it any more. */
void op_give_up(struct control_pool *p);
void op_step(struct control_pool *p, const struct pool_stats *s, const struct registry_pool *rp, mono_t now);

enum { /* refusals use the dialect's numbering without including it; a unit test holds the two together */
	REFUSE_POOL_UNREADY = 11,
	REFUSE_POOL_UNAVAILABLE = 12,
};

#endif
