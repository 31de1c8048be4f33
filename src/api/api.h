/* SPDX-License-Identifier: Apache-2.0
 *
 * The control plane's routes. Requests arrive on data loops and are answered on the control loop: a struct
 * api_call carries one across. A data loop reads the body (at most API_BODY_MAX), posts the call, and
 * writes what comes back; it holds no lock and waits for nothing.
 */
#ifndef API_API_H
#define API_API_H

#include "auth/auth.h"
#include "config/config.h"
#include "control/control.h"
#include "dialect/dialect.h"
#include "http/server.h"
#include "metrics/metrics.h"

enum {
	API_BODY_MAX = 1024 * 1024,
	API_STREAM_MAX = 1024 * 1024, /* unsent bytes of one stream (besides SOCK_HIGH in its socket); a
					 reader slower than that is dropped or paused */
	API_STREAMS_MAX = 256,        /* event and log streams at once */
};

/* How a reload of the configuration ended; everything is valid during the call alone. */
struct api_reload {
	const struct config_errors *errors;   /* the file has mistakes: nothing was changed; else NULL */
	const char *problem, *hint;           /* another reason why nothing was changed; else NULL */
	const struct config_diff *diff;       /* what was done, or would be; NULL without a valid file */
	const struct config_errors *warnings; /* what is taken and will not run; may be NULL */
	bool applied;
};
typedef void api_reload_fn(void *arg, const struct api_reload *how);

struct api;
struct api_call;
struct api_opts {
	struct loop *loop; /* the control loop */
	struct config *config;
	struct control *control;
	struct registry *registry;
	struct metrics *metrics;
	bool (*is_draining)(void *arg); /* the daemon is going down */
	/* Answers a GET or DELETE under /v1/requests (api/call.h): who has the data loops knows. id empty:
	 * the list. */
	void (*requests)(void *arg, struct api_call *c, struct view id);
	/* Answers a call under /v1/keys; id empty: the list, or a new one. */
	void (*keys)(void *arg, struct api_call *c, struct view id);
	const char *(*spool_problem)(void *arg); /* why large bodies are refused, or NULL */
	/* Reads the configuration again (dry_run: only says what would be done); fn is called once, on the
	 * control loop, also from within. */
	void (*reload)(void *arg, bool dry_run, const char *by, api_reload_fn *fn, void *fn_arg);
	void *arg;
};
struct api *api_new(const struct api_opts *o) MUST_CHECK;
/* The daemon is going down: ends every stream, and those asked for later. */
void api_drain(struct api *a);
/* Ends every stream; no call may arrive any more. */
void api_free(struct api *a);

/* ---- on a data loop ------------------------------------------------------------------------------------ */

/* Takes the exchange over, inside on_request: reads its body and passes it to the control loop. key: who
 * asks, or NULL. */
void api_start(struct api *a, struct http_exchange *x, const char *request_id, struct auth_key *key);
/* The same for a request whose body is not needed, as another path and query. */
void api_start_as(
	struct api *a, struct http_exchange *x, const char *request_id, const char *path, const char *query);

/* What a request has to be allowed. UNSET: there is no such route. */
enum auth_scope api_scope(struct view method, struct view path);
/* The same for a route of an engine that was found already. */
enum auth_scope api_engine_scope(const struct route *r);
/* The routes of the control plane, for tests: false beyond the last. */
struct api_route_info {
	const char *method, *path;
	enum auth_scope scope;
};
bool api_route_at(size_t i, struct api_route_info *ret);
/* A new key from the body of POST /v1/keys, without its secret. -EINVAL with a sentence. */
int api_key_parse(struct view body, int64_t wall, struct auth_key **ret, struct err *reterr) MUST_CHECK;

/* Whether a page of another origin, or one that was rebound to us, sends this: true when it was refused, or
 * was a page's question whether it may (a preflight), and is answered. A page listed in cors.origins may use
 * inference routes: what it may read goes with the response, whoever answers. */
struct api_guard {
	struct config *config; /* hosts and cors.origins */
	const char *hostname;  /* this machine's own, and with .local; "": unknown */
};
bool api_guard_answers(const struct api_guard *g, struct http_exchange *x, const char *request_id);

#endif
