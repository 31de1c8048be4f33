/* SPDX-License-Identifier: Apache-2.0
 *
 * The API's inside: one function a route, control loop only.
 */
#ifndef API_API_INT_H
#define API_API_INT_H

#include <pthread.h>

#include "api/call.h"
#include "base/list.h"

struct subscriber;

struct api {
	struct api_opts o;
	struct list subscribers; /* of /v1/events */
	size_t nstreams;
	uint64_t next_event;
	struct loop_timer comment;
	int64_t started_s;           /* wall clock: `created` of models */
	struct list relays;          /* of relay.c */
	struct list fetched;         /* of fetched.c */
	struct engines_round *round; /* of engines.c; NULL: none is under way */
	struct http_target *node;
	char *node_address;
};

struct route_args { /* what the path holds */
	struct view id;
};
typedef void route_fn(struct api *a, struct api_call *c, const struct route_args *args);

route_fn route_models, route_model, route_pools, route_pool, route_pool_health, route_pool_start,
	route_pool_stop, route_pool_restart, route_pool_drain, route_pool_undrain, route_pool_disable,
	route_pool_enable, route_pool_reload, route_pool_logs, route_events, route_metrics, route_healthz,
	route_readyz, route_version, route_props, route_root, route_nodes, route_requests, route_devices,
	route_config_reload, route_keys, route_plan, route_explain, route_catalog, route_catalog_gc,
	route_catalog_model, route_catalog_verify, route_catalog_state, route_catalog_pull, route_engines,
	route_engines_provision, route_engine, route_engines_upgrade, route_engines_rollback;

/* Where the node is asked; NULL: none is online. */
struct http_target *api_node_target(struct api *a);
/* The same for an answer that lasts; NULL after the call was answered with 503. */
struct http_target *api_stream_target(struct api *a, struct api_call *c);
/* Asks it; a body is JSON. */
struct http_call *api_node_call(struct http_target *t, const char *method, const char *path, struct view body,
	const struct http_call_ops *ops, void *arg) MUST_CHECK;

/* Whether the call's key, if it has one, may use the pool. */
bool api_may_use(struct api *a, const struct api_call *c, const struct control_pool *p);
/* The pool an id names, or NULL after the call was answered with 404 and the nearest ids, or with 403. */
struct control_pool *find_pool_or_fail(struct api *a, struct api_call *c, struct view id);
/* deadline_ms of the body or the query (0..24 h), def without one; false after the call was answered with
 * 400. */
bool read_deadline(struct api_call *c, int64_t def, int64_t *ret_ms);

void events_init(struct api *a);
void events_done(struct api *a);
void event_streams_done(struct api *a);
/* True after the call was answered with 503: the daemon is going down, and this would last. */
bool refuse_when_draining(struct api *a, struct api_call *c);
/* relay.c: asks the node and answers c with what it says. A log that is not there is an empty one. */
void api_relay(struct api *a, struct api_call *c, const char *method, const char *path, struct view body);
void api_relay_log(struct api *a, struct api_call *c, const char *path);
void relays_done(struct api *a);
void fetched_done(struct api *a);
void engines_round_done(struct api *a);
/* <prefix><id, escaped><verb> */
char *api_node_path(const char *prefix, struct view id, const char *verb) MUST_CHECK;
/* Whether a replica of it is up. */
bool api_pool_is_ready(struct api *a, struct control_pool *p);
/* fetched.c: the node fetches ref for the pool, then fn is called with its file; c is NULL when the client
 * has left meanwhile. Else c is answered with why not. */
typedef void api_fetched_fn(
	struct api *a, struct api_call *c, const char *pool, const char *path, const char *by);
void api_fetch(struct api *a, struct api_call *c, const char *pool, const char *ref, api_fetched_fn *fn);

#endif
