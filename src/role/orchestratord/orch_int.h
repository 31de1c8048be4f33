/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of this role share.
 */
#ifndef ROLE_ORCH_INT_H
#define ROLE_ORCH_INT_H

#include <pthread.h>

#include "api/api.h"
#include "auth/store.h"
#include "base/map.h"
#include "control/control.h"
#include "net/tls.h"
#include "proxy/proxy.h"
#include "role/orchestratord/orchestratord.h"

enum { LISTEN_MAX = 17, LOOPS_MAX = POOL_LOOPS_MAX };

/* Which name means which pool: immutable, shared by all data loops. */
struct models {
	atomic_uint refs;
	struct map by_name; /* id or alias → struct pool (a reference each pool, held by `pools`) */
	struct pool **pools;
	const char **ids; /* of pools; theirs */
	size_t n;
	struct pool *fallback; /* for requests that name no model; NULL: there is none */
};
struct models *models_new(struct control *c) MUST_CHECK;
struct models *models_ref(struct models *m);
void models_unref(struct models *m);

struct orch;
struct data_loop {
	struct orch *orch;
	unsigned index;
	struct loop *loop;
	pthread_t thread;
	bool running;
	struct http_server *server;
	atomic_size_t connections; /* given to it and not closed yet */
	struct proxy *proxy;
	struct models *models;    /* this loop's own reference */
	struct auth_rules *rules; /* this loop's own reference */
	struct api_guard guard;   /* its configuration is a reference */
	char text[768];           /* of the last error find_pool gave */
	char hint[512];
};

/* Requests that were refused for their key, of all loops. */
struct gate_failures {
	_Atomic int64_t told_ns; /* when the last line was written */
	atomic_uint untold;
};

struct arrivals;
struct keys;
struct provisioner;
struct reload;
struct config_watch;

struct orch {
	struct orchestratord_opts o;
	struct config *config;
	struct loop *loop;
	struct metrics *metrics;
	struct registry *registry;
	struct control *control;
	struct api *api;
	struct http_server *registry_server;
	struct data_loop loops[LOOPS_MAX];
	unsigned nloops;
	int listen_fds[LISTEN_MAX];
	char *listen_urls[LISTEN_MAX];
	bool listen_tls[LISTEN_MAX];
	size_t nlisten;
	struct arrivals *arrivals;
	struct keys *keys;
	struct gate_failures failures;
	struct tls_server *tls; /* NULL: no address speaks TLS */
	struct loop_timer tls_look;
	char hostname[256];
	int registry_fd, lock_fd;
	struct spool_account spool;
	struct req_records *requests; /* those that ended lately */
	char *spool_dir, *log_dir, *engines_dir, *registry_path, *node_path;
	struct provisioner *provisioner;
	struct reload *reload;
	struct config_watch *watch;
	struct loop_signal *sigterm, *sigint, *sighup;
	struct loop_timer deadline;
	bool draining, forced, told_ready, stopping_node;
	unsigned idle_loops;
	int status;
	char *found; /* the list that found pools were made of; NULL: none yet */
};

/* orchestratord.c */
void orch_look_ready(struct orch *o); /* ready once a node is there and its pools are known */

/* door.c */
/* Reads the certificate where one is needed, binds every address. */
int door_open(struct orch *o, struct err *e) MUST_CHECK;
void door_close(struct orch *o);
/* On any thread: c's certificate, NULL where there is none or it cannot be read. What is wrong with it
 * becomes a warning, and that tls (NULL: no address speaks it) would serve with another one a change. */
struct tls_cert *door_read(const struct config *c, struct tls_server *tls, struct config_errors *warnings,
	struct config_diff *d) MUST_CHECK;
void door_take(struct orch *o, struct tls_cert *c); /* takes c; NULL allowed */
void door_collect(struct orch *o, struct metrics *m);

/* gate.c, on a data loop */
/* True: it was refused and answered. *ret: who asks; its key is valid while d->rules are the same. */
bool gate_refuses(struct data_loop *d, struct http_exchange *x, const char *id, enum auth_scope needed,
	struct auth_who *ret);
/* True: the key's limits let no further request in now, and this one was answered. False: where k has limits,
 * auth_key_done is owed. k NULL: no limits. */
bool gate_limits(struct data_loop *d, struct http_exchange *x, const char *id, struct auth_key *k);
bool gate_may_use(const struct models *m, const struct auth_key *k, const struct pool *p);
void gate_note_model(struct data_loop *d); /* a key asked for a model that it may not use */

/* keys.c */
/* Reads them; NULL with a sentence: what is written is wrong, or an address that others reach has no lock. */
struct keys *keys_new(const struct config *c, const char *config_file, struct err *e) MUST_CHECK;
void keys_start(struct keys *k, struct orch *o);     /* before any request */
struct auth_rules *keys_rules(const struct keys *k); /* borrowed */
size_t keys_besides_file(const struct keys *k);      /* how many come from elsewhere */
/* A reload: file's keys (taken) in place of those before, and o->config's networks. */
void keys_take(struct keys *k, struct auth_list *file);
void keys_call(void *orch, struct api_call *c, struct view id);
void keys_free(struct keys *k);

/* found.c */
/* base, and where it names no pools the ones of models that nodes found. The caller's reference. */
struct config *found_over(struct orch *o, struct config *base) MUST_CHECK;
/* Whether the snapshot has other found models than the pools were made of. */
bool found_pending(const struct orch *o, const struct registry_snapshot *s);
/* After a node has spoken, before anybody acts on it: a node is told what is wanted at the end of the round,
 * and without the pools of what it found its engines would be unwanted. */
void found_update(struct orch *o);

/* arrivals.c */
/* The first loop accepts from every listening socket; it must not run yet, and the others must. */
int arrivals_start(struct orch *o) MUST_CHECK;
void arrivals_stop(struct orch *o); /* on the first loop: none is accepted any more */
void arrivals_free(struct orch *o); /* stopped, and no loop runs */
/* On d's own thread: one of its connections has closed. */
void arrivals_closed(struct data_loop *d);
size_t arrivals_connections(struct data_loop *d); /* from any thread: how many it has */

/* loops.c */
int data_loops_init(struct orch *o, struct err *reterr) MUST_CHECK;
int data_loops_run(struct orch *o) MUST_CHECK;
void data_loops_drain(struct orch *o, loop_fn *on_idle); /* on_idle(orch) on the control loop, once all are */
void data_loops_force(struct orch *o);
void data_loops_stop(struct orch *o);
void data_loops_free(struct orch *o);
void data_loops_models(struct orch *o);
void data_loops_config(struct orch *o); /* what holds for requests from now on */
/* Gives every loop keys_rules; fn(arg) on the control loop once the last has them; fn may be NULL. */
void data_loops_rules(struct orch *o, loop_fn *fn, void *arg);
void data_loops_replica_gone(struct orch *o, struct pool_replica *r, bool cut);

/* requests.c */
/* Answers c, a GET or DELETE under /v1/requests; id empty: the list. */
void requests_call(void *orch, struct api_call *c, struct view id);

/* registry_api.c */
int registry_api_start(struct orch *o, struct err *reterr) MUST_CHECK;

/* reload.c */
struct reload *reload_new(struct orch *o) MUST_CHECK;
/* Reads the configuration again; fn (NULL: nobody asks) is called once, also from within. */
void reload_ask(struct reload *r, bool dry_run, const char *by, api_reload_fn *fn, void *arg);
/* The registry's nodes changed: one may be there that a reload waits for. */
void reload_node_seen(struct reload *r);
/* The daemon is going down: whoever waits is told, nothing is changed any more. */
void reload_end(struct reload *r);
void reload_free(struct reload *r);

/* watch.c */
struct config_watch *config_watch_new(struct orch *o) MUST_CHECK;
/* Watches, or not, as o->config says now. */
void config_watch_follow(struct orch *o);
void config_watch_free(struct config_watch *w);

/* provisioner.c */
void provisioner_start(struct orch *o);
/* The registry heard of a node: watches its process when it is not our child. */
void provisioner_seen(struct orch *o, int pid);
/* Asks the node to stop every engine and end; fn(orch) when its process is gone. */
void provisioner_stop(struct orch *o, int64_t deadline_ms, loop_fn *fn);
void provisioner_leave(struct orch *o); /* leaves it running */

#endif
