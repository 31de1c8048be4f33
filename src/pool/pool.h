/* SPDX-License-Identifier: Apache-2.0
 *
 * A pool as traffic sees it: replicas with slots, leases on them, and the queue of those who wait.
 *
 * Words: a slot is one request an engine can decode at a time; a lease is a slot in use; a cooling lease
 * is one whose client has left while the engine may still be working on it: counted, not granted again.
 *
 * Threads: every function may be called from any loop. A pool has one mutex, held for a few hundred
 * instructions, never across I/O or another lock. Callbacks to a waiter come on the waiter's own loop.
 * Control functions (marked C) are for the control loop.
 *
 * Order: nobody is granted a slot that somebody who waits could have (no barging); interactive before
 * batch, first come first served inside; a request that is sent again goes to the front, the older first, and
 * is nobody's victim.
 *
 * Sent again: a request whose replica failed it before a byte was relayed waits for the verdict on that
 * replica, and others pass it meanwhile. The replica ended without a request's fault: it moves freely. It
 * crashed: a request that had been sent to it is a suspect and runs alone on a replica until its first byte;
 * at its second crash it is refused. It lives: the request moves to another replica, where there is one,
 * inside a budget of max(10, a tenth of the requests) in ten seconds. Who takes a replica out says what
 * became of it, so that a verdict always comes.
 *
 * Circuit: a replica that lives and fails POOL_CIRCUIT_FAILURES requests in a row gets none for
 * POOL_CIRCUIT_OPEN_MS (open), then one (half open). That one decides: answered, the circuit closes; failed,
 * it opens again; gone before either, the next has the trial. What was sent before goes on and decides
 * nothing. The restart breaker (supervise/restart.h) is another thing: it counts processes that end.
 */
#ifndef POOL_POOL_H
#define POOL_POOL_H

#include <stdatomic.h>

#include "loop/loop.h"

enum {
	POOL_SLOTS_MAX = 1024, /* of one replica */
	POOL_LOOPS_MAX = 64,   /* data loops */
	POOL_ID_MAX = 96,
	POOL_KEY_MAX = 128,   /* digits of an engine's key */
	POOL_CRASHES_MAX = 2, /* engines that may crash under one request */
	/* Connections that may be closed on one request by replicas that live; fewer than open a circuit, so
	 * that no request alone takes a replica from the others. */
	POOL_FAILURES_MAX = 4,
	POOL_CIRCUIT_FAILURES = 5,   /* live failures in a row after which a replica gets no request … */
	POOL_CIRCUIT_OPEN_MS = 5000, /* … for so long */
	POOL_BUDGET_SECONDS = 10,    /* repeats because of replicas that live: in so long … */
	POOL_BUDGET_MIN = 10,        /* … at least so many, else a tenth of the requests */
};

enum pool_priority { POOL_INTERACTIVE, POOL_BATCH, POOL_PRIORITY_COUNT };
/* What a stream is told that waits for its answer; proxy/progress.c. */
enum pool_progress_mode {
	POOL_PROGRESS_AUTO,
	POOL_PROGRESS_COMMENT,
	POOL_PROGRESS_CHUNK,
	POOL_PROGRESS_REASONING,
	POOL_PROGRESS_OFF,
};
struct pool_progress {
	enum pool_progress_mode mode;
	int64_t after_ms, every_ms;
};
enum pool_policy { POOL_REJECT, POOL_DROP_LRU };

struct pool;
/* Whose a request is, as hashes. owner: its API key's, 0: none was needed. talk: its conversation's, 0: not
 * known. */
struct pool_talk {
	uint64_t owner, talk;
};
struct pool_opts {
	const char *id;
	uint32_t queue_capacity; /* waiting requests; above it the policy decides */
	uint32_t slots; /* of one replica, as configured: while it is being started, so many wait without
			   counting against the capacity, since it will take them at once */
	enum pool_policy policy;
	int64_t max_wait_ms;
	int64_t cancel_grace_ms; /* a cooling lease of an engine that cannot tell ends after this */
	/* Silence of a replica: after a stream's first token, and before it. The proxy judges by them. */
	int64_t stall_ms, first_token_ms;
	struct pool_progress progress;
	bool keeps; /* conversations of its engines outlive them: requests say whose they are */
	/* Called on any thread, without a lock: somebody waits and nothing can be granted now, somebody was
	 * refused because the pool is closed, or a replica was reported as failing. At most one call is
	 * outstanding until pool_demand_seen. */
	void (*on_demand)(void *arg, struct pool *p);
	void (*on_free)(void *arg); /* on any thread: neither of the two is called any more; may be NULL */
	void *arg;
};

struct pool *pool_new(const struct pool_opts *o) MUST_CHECK;
struct pool *pool_ref(struct pool *p);
void pool_unref(struct pool *p);
const char *pool_id(const struct pool *p);
void pool_options(struct pool *p, struct pool_opts *ret); /* a copy; id stays valid with the pool */
/* C: capacity, policy, slots, times, progress */
void pool_set_limits(struct pool *p, const struct pool_opts *o);
/* progress.after_ms, -1: nothing is told. Without the lock. */
int64_t pool_progress_after_ms(const struct pool *p);
bool pool_keeps(const struct pool *p); /* likewise */
void pool_demand_seen(struct pool *p); /* C: the next demand calls on_demand again */

/* ---- replicas ------------------------------------------------------------------------------------- */

enum pool_fate {
	POOL_FATE_UNKNOWN = 0, /* it runs, or nobody knows yet */
	POOL_FATE_ENDED,       /* stopped, killed from outside, taken out: no fault of a request */
	POOL_FATE_CRASHED,     /* it crashed: a request that was on it may be the reason */
};
enum pool_circuit { CIRCUIT_CLOSED, CIRCUIT_OPEN, CIRCUIT_HALF_OPEN };
const char *pool_circuit_name(enum pool_circuit c); /* "closed", "open", "half-open" */

/* One generation of a replica. Lives while anybody refers to it; `gone` once control took it out. */
struct pool_replica {
	struct pool *pool; /* a reference */
	atomic_uint refs;
	atomic_bool proving; /* the first response byte is its canary */
	atomic_int fate;     /* enum pool_fate: what became of this process, once it is known */
	/* When a stream of it last had a token (to 50 ms), when its slots were last seen to move; mono ns. */
	atomic_int_fast64_t token_at, moved_at;
	atomic_int_fast64_t tools_at; /* when an answer of it last ended with calls of tools; mono ns; and */
	atomic_uint_fast64_t tools_owner; /* whose it was, stored before; as pool_talk.owner */
	/* Moving means of what was measured (pool_replica_served), 0: not known. ns for a token of a prompt,
	 * for one of an answer; what the pool's usual request takes, and when that was last known. */
	atomic_uint_fast32_t prefill_ns, token_ns;
	atomic_uint_fast32_t last_tokens; /* of the last one's prompt and answer */
	atomic_uint_fast64_t cost_ns;
	atomic_int_fast64_t measured_at;
	atomic_bool gone; /* taken out: no lease is granted any more; connections to it should end */
	char id[POOL_ID_MAX];
	uint64_t generation;
	char *address;        /* "unix:/…" or "http://…"; constant */
	char *engine;         /* constant, may be NULL */
	char *engine_version; /* constant, may be NULL */
	char *device;         /* constant, may be NULL */
	char *remote_model;   /* constant: the id an external engine knows the model by; NULL = send unchanged
			       */
	char *key;            /* constant: what it asks of who talks to it (Bearer); NULL: nothing */
	int64_t conn_idle_ms;
	uint32_t conn_requests;
	bool has_slots; /* GET /slots can be asked */
	int pid;
	mono_t added_at;                /* since when it takes requests; constant */
	void *per_loop[POOL_LOOPS_MAX]; /* each entry belongs to one data loop (its connections) */
	/* under the pool's mutex */
	struct list node;
	/* Requests of others than ours, as the engine itself said when it was asked last (load_seq). */
	uint64_t load_seq;
	uint32_t others;
	uint32_t slots_total, cap, in_use, cooling; /* cap: slots that may be used now (1 while proving) */
	mono_t used_at;                             /* when a lease on it was last granted or ended */
	bool draining, down; /* down: a data loop saw it fail; until control has looked */
	bool loads;          /* it is down because its model is still being loaded: no failure */
	uint32_t downs;      /* so often since a request was last answered */
	enum pool_circuit circuit;
	uint32_t failures;             /* live ones in a row, while the circuit is closed */
	mono_t circuit_until;          /* open: then one may try; half open: then another one may, too */
	uint64_t trial, first_trial;   /* half open: leases; trial 0: the next has one */
	uint64_t alone;                /* the lease of a suspect that nobody joins; 0 = none */
	struct pool_said *said;        /* the last POOL_SAID_MAX of nsaid, a ring; NULL: none yet */
	uint64_t nsaid, nasked, owner; /* owner: of all that were asked, unless several */
	bool several;
	struct lease_facts *leases; /* a place each; in_use of nplaces are held */
	uint32_t nplaces,
		free_place; /* free_place: of those that are free, the first, counted from 1; 0: none */
};
struct lease_facts {
	uint64_t id;        /* 0: the place is free */
	uint32_t next_free; /* as free_place */
	mono_t since;
	bool spoke;  /* its request got the first token of its answer */
	bool failed; /* its answer is a failure of the replica's own */
};
/* A request that a replica has served, or that was given up. */
struct pool_said {
	struct pool_talk of;
	int64_t prompt, output, cached; /* tokens; -1: not known, as of one that was given up */
};
struct pool_replica *pool_replica_ref(struct pool_replica *r);
void pool_replica_unref(struct pool_replica *r);

struct pool_replica_facts {
	const char *id;
	uint64_t generation;
	const char *address, *engine, *engine_version, *device, *remote_model;
	const char *key_file; /* read when it is new; NULL: it asks for no key */
	int64_t conn_idle_ms;
	uint32_t conn_requests, slots_total;
	bool has_slots, proving, draining;
	int pid;
	/* all requests the engine has, ours among them, as of when it was asked; the number rises with each
	 * answer, 0: it does not say */
	uint64_t load_seq;
	uint32_t load;
};
/* C: adds the replica or brings it up to date; a new generation or address takes the old one out, as ended.
 * Grants what can now be granted. Returns the one that was taken out (a reference) or NULL. */
struct pool_replica *pool_put_replica(struct pool *p, const struct pool_replica_facts *f) MUST_CHECK;
/* C: takes it out; fate says what became of it (unknown counts as ended). Whoever waits goes on waiting.
 * Returns the replica (a reference) or NULL. */
struct pool_replica *pool_take_replica(struct pool *p, const char *id, enum pool_fate fate) MUST_CHECK;
/* C: what became of it, once; whoever waits for the verdict on it has it. */
void pool_replica_fate(struct pool_replica *r, enum pool_fate fate);
/* A request found the replica failing (connect refused, closed before a byte): nothing is granted on it
 * until pool_replica_up. Calls on_demand. */
void pool_replica_down(struct pool_replica *r);
/* Likewise, but all it said is that its model is still being loaded. */
void pool_replica_loading(struct pool_replica *r);
/* C: it answered again: who waits for the verdict has it, and it counts as a live failure. */
void pool_replica_up(struct pool_replica *r, mono_t now);
/* C: half opens a circuit whose time is over; gives another the trial where one lasts too long. on_demand is
 * called for each other change of a circuit. */
void pool_circuit_due(struct pool_replica *r, mono_t now);
/* A replica beside r that requests can be sent to, busy or not. */
bool pool_has_other(struct pool_replica *r);
/* Takes one repeat from the budget (see above); false: it is spent. */
bool pool_may_repeat(struct pool *p, mono_t now);
bool pool_replica_is_down(struct pool_replica *r);
uint32_t pool_replica_slots(struct pool_replica *r);
/* A ready replica for a request that takes no lease, whatever its slots; a reference, or NULL. */
struct pool_replica *pool_any_replica(struct pool *p) MUST_CHECK;
/* C: calls fn for each replica, with the mutex held: fn must only look. */
typedef void pool_replica_fn(void *arg, const struct pool_replica *r);
void pool_each_replica(struct pool *p, pool_replica_fn *fn, void *arg);

/* ---- leases --------------------------------------------------------------------------------------- */

struct lease {
	struct pool_replica *replica; /* a reference; NULL = no lease */
	uint64_t id;
	uint32_t place; /* the pool's: of replica->leases */
};
/* Ends the lease (with its reference) and grants the slot to the first who waits. 0, or -EALREADY when
 * this lease was released before: then nothing changes. *l is empty afterwards. */
int lease_release(struct lease *l);
/* The client left while the engine may be working: the slot stays counted as cooling. *l is empty
 * afterwards; pool_cooled ends it. */
int lease_cool(struct lease *l);
/* The first byte of its answer is relayed: a suspect is none any more, others may join it. token: the first
 * token is, too. */
void lease_spoke(const struct lease *l, bool token);
/* Its replica lives and failed it (5xx, no HTTP): for the circuit. What lease_spoke says later is no success.
 */
void lease_failed(const struct lease *l, mono_t now);
/* Whether a prompt that is being read may explain that the replica's streams stand still since then: a
 * request without a token that was sent before the silence began, or soon after (grace_ms), or one whose
 * client left. */
bool pool_replica_reads_prompt(struct pool_replica *r, mono_t silent_since, int64_t grace_ms);
/* What a request took that the replica answered whole; < 0: not known. Any thread, without a lock. */
struct pool_served {
	int64_t prefilled; /* tokens of its prompt that were read, cached ones not counted */
	double prefill_ms;
	int64_t tokens; /* of the answer */
	double tokens_per_s;
	int64_t prompt; /* all of its tokens */
};
enum {
	POOL_SERVED_PROMPT_MIN = 32, /* shorter ones say little of a speed */
	POOL_SERVED_TOKENS_MIN = 4,
	POOL_SPEED_KEPT_MS = 600000, /* a speed that nothing confirmed for so long is forgotten */
};
void pool_replica_served(struct pool_replica *r, const struct pool_served *s, mono_t now);
struct pool_speed {
	double prefill_tokens_per_s, tokens_per_s; /* of one request; < 0: not known */
	uint64_t cost_ns; /* what the pool's usual request takes on it; 0: not known */
	double last_s;    /* reading the last conversation's tokens again; 0: not known */
};
void pool_replica_speed(const struct pool_replica *r, struct pool_speed *ret);
/* ---- whose conversations it holds: of pools that keep them alone (talk.c) ---- */
enum { POOL_SAID_MAX = 32 };
/* A request of t's is about to be sent there. */
void pool_replica_asked(struct pool_replica *r, const struct pool_talk *t);
void pool_replica_said(struct pool_replica *r, const struct pool_said *s); /* and is over */
struct pool_talks {                                                        /* of one replica */
	struct pool_said said[POOL_SAID_MAX]; /* the last ones, the newest first */
	size_t n;
	uint64_t nsaid, nasked, owner; /* in all; owner: of all that were asked, unless several */
	bool several;
};
/* False: no such replica is in the pool. */
bool pool_get_talks(struct pool *p, const char *replica_id, struct pool_talks *ret);
/* Of those who wait, the first ones; returns how many. */
size_t pool_waiting_talks(struct pool *p, struct pool_talk *ret, size_t max);
/* C: n cooling leases of the replica are over (clamped to those there are). */
void pool_cooled(struct pool_replica *r, uint32_t n);

/* ---- asking for a lease ---------------------------------------------------------------------------- */

enum pool_answer {
	POOL_GRANTED, /* *ret_lease is set; on_grant is not called */
	POOL_QUEUED,  /* on_grant or on_refused will be called, once, on the waiter's loop */
	POOL_FULL,    /* the queue is full: refused */
	POOL_CLOSED,  /* the pool takes nothing now: see pool_refusal */
};

struct pool_refusal { /* why a closed pool refuses; a copy */
	int code;     /* the caller's own numbering (dialect's enum corral_code); 0 = open */
	bool retriable;
	int64_t retry_after_ms;
	char message[512];
	char hint[256];
};

enum waiter_end {
	WAITER_CLOSED,  /* the pool closed: see the refusal */
	WAITER_DROPPED, /* for a newer one, by the policy drop-lru */
	WAITER_CRASHED, /* POOL_CRASHES_MAX engines crashed under it */
	WAITER_SPENT,   /* its replica failed it and lives, and the budget for repeats is spent */
	/* POOL_FAILURES_MAX times a replica that lives failed it, or once while that one's circuit is not
	 * closed and no other takes requests. */
	WAITER_FAILED,
};

struct waiter {
	struct list node; /* on the pool's queue while WAITER_QUEUED */
	struct loop *loop;
	struct loop_work work;
	enum { WAITER_IDLE, WAITER_QUEUED, WAITER_POSTED } state; /* under the pool's mutex */
	enum pool_priority priority;
	struct pool_talk talk; /* its owner; where the pool keeps them, the conversation too */
	mono_t since;
	struct lease lease;           /* what was granted, while it is on its way */
	struct pool_refusal *refusal; /* likewise; the pool's */
	/* Exactly one of the two is called for each POOL_QUEUED that was not cancelled. */
	void (*on_grant)(void *arg, struct lease l);
	void (*on_refused)(void *arg, const struct pool_refusal *why, enum waiter_end end);
	void *arg;
	enum waiter_end end;
	/* Of a request that is sent again: set by the asker before pool_acquire, by the pool while it waits.
	 */
	struct pool_replica *was_on; /* the one that failed it; the asker's reference, until a callback */
	bool sent;                   /* something of it was sent there */
	bool doubts;                 /* the verdict on was_on is waited for */
	bool avoids;                 /* another than was_on, where there is one */
	unsigned crashes;            /* verdicts so far that said "crashed"; kept from one wait to the next */
	unsigned failures;           /* and that said "it lives" */
	bool trial;                  /* what was granted last decides about a circuit */
	bool special, again;         /* the pool's: counted in nspecial; waits in front */
};
/* front: this request had a lease before and is sent again; it does not count against the capacity (of such
 * there are no more than the pool had slots). was_on,
 * sent, doubts and avoids are cleared by a grant. */
enum pool_answer pool_acquire(struct pool *p, struct waiter *w, bool front, mono_t now,
	struct lease *ret_lease, struct pool_refusal *ret_refusal) MUST_CHECK;
/* True: it was still waiting and is no more; no callback comes. False: a grant or a refusal is on its way
 * to this loop; it will be called and must be dealt with (the lease released). */
bool pool_cancel(struct pool *p, struct waiter *w);
/* 1-based place in the queue, 0 when it does not wait. */
uint32_t pool_position(struct pool *p, struct waiter *w);

/* C: the pool refuses everything with this reason (draining, disabled, failed); waiting requests are
 * refused with it unless keep_waiting. code 0 opens it again. */
void pool_close(struct pool *p, const struct pool_refusal *why, bool keep_waiting);

/* C: one sentence on where the pool stands ("starting, 41 %"), for those who wait too long. */
void pool_set_status(struct pool *p, const char *text);
enum { POOL_STATUS_MAX = 256 };
void pool_get_status(struct pool *p, char out[POOL_STATUS_MAX]);

/* How far its engine's start is, for those who wait; all zero but pct (-1): nothing is known. */
struct pool_start {
	char doing[24];         /* "starting", "preparing", "fetching"; empty: none is being started */
	char more[96];          /* what else there is to say: "1.2 of 4.6 GB, 3 min left"; may be empty */
	int pct;                /* 0..100 as its node tells, -1: it does not */
	mono_t since, ready_by; /* ready_by: by what the last start took; MONO_ZERO: not known */
};
void pool_set_start(struct pool *p, const struct pool_start *s); /* C */
void pool_get_start(struct pool *p, struct pool_start *ret);

struct pool_stats {
	uint32_t replicas, slots_total, slots_free, leases, cooling, waiting[POOL_PRIORITY_COUNT];
	uint32_t circuits; /* of its replicas, that are not closed */
	uint64_t granted, refused_full, dropped, double_releases, crashed, spent, failed;
	mono_t last_used; /* when a lease was last granted or ended; MONO_ZERO: never */
	bool closed;
};
void pool_get_stats(struct pool *p, struct pool_stats *ret);

#endif
