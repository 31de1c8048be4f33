/* SPDX-License-Identifier: Apache-2.0
 *
 * Inside src/registry. The registry keeps what it works on in entries (nodes, replicas, pools), each
 * with its published record: immutable, shared by snapshots. A change marks entries; registry_publish
 * makes new records for those whose JSON became another, and a snapshot of all.
 */
#ifndef REGISTRY_REGISTRY_INT_H
#define REGISTRY_REGISTRY_INT_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/map.h"
#include "registry/registry.h"
#include "registry/store.h"

enum { REMOVED_MAX = 1024, ERRORS_MAX = WIRE_REPLICAS_MAX, RECORD_MAX = 64 * 1024 * 1024 };
#define REVISION_STEP ((uint64_t)1 << 20) /* the stored floor is this far ahead */

/* Published records. json is the record without "revision", to compare and to serve. */
struct node_rec {
	struct registry_node pub;
	char *json;
	atomic_uint refs;
};
struct replica_rec {
	struct registry_replica pub;
	char *json;
	atomic_uint refs;
};
struct pool_rec {
	char *pool_id;
	struct registry_pool_mark_info marks[MARK_COUNT];
	struct registry_override override;
	struct wire_model model;
	bool has_model;
	uint64_t revision;
	char *json;
	atomic_uint refs;
};
struct snapshot {
	struct registry_snapshot pub;
	struct pool_rec **pool_recs; /* beside pub.pools */
	atomic_uint refs;
};

struct node_ent {
	char *node_id, *boot_id, *version, *address;
	int pid;
	bool online, registered, changed;
	uint64_t seq;
	mono_t heard;
	struct wire_model *models;
	size_t nmodels;
	struct wire_device *devices;
	size_t ndevices;
	struct map model_of; /* pool id -> struct wire_model in models */
	struct node_rec *rec;
};
struct replica_ent {
	struct wire_replica facts;
	struct node_ent *node;
	bool proved; /* health was seen for facts.generation */
	bool drain;  /* set by control */
	bool changed;
	uint64_t stamp; /* the message that named it last */
	struct replica_rec *rec;
};
struct pool_ent {
	char *pool_id;
	struct registry_pool_mark_info marks[MARK_COUNT]; /* by is owned */
	struct registry_override override;                /* strings are owned */
	bool changed;
	struct pool_rec *rec;
};
enum removed_kind { REMOVED_NODE, REMOVED_REPLICA, REMOVED_POOL };
/* Something that is gone, for watchers that come late. */
struct removed {
	enum removed_kind kind;
	char *id;
	uint64_t revision;
};
struct watcher {
	registry_watch_fn *fn;
	void *arg;
};

/* Entries in order of their ids: a vector each, and a map where they are looked up by every message. */
struct registry {
	int64_t offline_after_ms, heartbeat_ms;
	uint64_t revision, floor, stamp;
	struct node_ent **nodes;
	size_t nnodes;
	struct replica_ent **replicas; /* by pool id, then replica id */
	size_t nreplicas;
	struct pool_ent **pools;
	size_t npools;
	struct map replica_of, node_of, pool_of;
	struct map errors; /* replica id -> struct wire_error of replicas that are gone */
	bool changed;      /* an entry may have changed, or the set of them did */
	bool set_changed;
	struct removed *removed; /* ring of REMOVED_MAX */
	size_t nremoved, removed_at;
	uint64_t forgotten; /* revision of the newest removal that left the ring */
	struct watcher *watchers;
	size_t nwatchers;
	struct store *store;
	atomic_ullong status_double_releases;

	pthread_mutex_t lock; /* guards current alone */
	struct snapshot *current;
};

/* registry.c */
struct node_ent *node_find(struct registry *r, struct view id);
struct node_ent *node_add(struct registry *r, struct view id);
void node_forget_models(struct node_ent *n);
void devices_free(struct wire_device *d, size_t n);
struct wire_device *devices_dup(const struct wire_device *d, size_t n);
struct replica_ent *replica_find(struct registry *r, struct view id);
struct replica_ent *replica_add(struct registry *r, struct node_ent *n, const struct wire_replica *w);
void replica_remove(struct registry *r, struct replica_ent *e);
struct pool_ent *pool_find(struct registry *r, struct view id);
struct pool_ent *pool_add(struct registry *r, struct view id);
void pool_remove(struct registry *r, struct pool_ent *p);
void replica_changed(struct registry *r, struct replica_ent *e);
void node_changed(struct registry *r, struct node_ent *n);
void pool_changed(struct registry *r, struct pool_ent *p);
void node_replicas_changed(struct registry *r, struct node_ent *n);
void override_copy(struct registry_override *to, const struct registry_override *from); /* to is done first */
bool pool_held(const struct registry *r, const char *pool_id);
void leases_set(struct replica_ent *e, uint32_t leases);
void set_remember_removed(struct registry *r, enum removed_kind kind, const char *id);

/* snapshot.c */
void registry_publish(struct registry *r);
void node_rec_unref(struct node_rec *x);
void replica_rec_unref(struct replica_rec *x);
void pool_rec_unref(struct pool_rec *x);
bool replica_is_ready(const struct replica_ent *e);

/* persist.c */
void persist_load(void *arg, struct view kind, struct view key, struct view value);
void persist_node(struct registry *r, const struct node_ent *n);
void persist_node_gone(struct registry *r, const char *node_id);
void persist_pool(struct registry *r, const struct pool_ent *p);
void persist_error(struct registry *r, const struct wire_replica *facts); /* none: its row goes */
void persist_floor(struct registry *r);
void error_free(struct wire_error *e);

#endif
