/* SPDX-License-Identifier: Apache-2.0
 *
 * A whole node between a registry and engines: the test plays the registry and the sender of what is
 * wanted, and, started with arguments, the engines. Nothing sleeps: each step waits for the facts that
 * the node reports. After every test no process may be left.
 */
#ifndef UNIT_NODE_BENCH_H
#define UNIT_NODE_BENCH_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/buf.h"
#include "http/client.h"
#include "http/server.h"
#include "node/node.h"

enum { DEADLINE_MS = 60000 };

struct bench {
	struct loop *loop;
	char dir[64];
	char self[4096], keeper[4096];
	struct node *node;
	struct node_opts opts;
	struct node_pool pools[8];
	size_t npools;
	struct restart_policy policy;
	struct http_server *registry;
	int registry_fd;
	struct http_target *target;
	struct wire_node facts;
	uint64_t revision;
	int registers, beats, leaves, done, forget;
	int reloads, dry_reloads;  /* on_reload was called */
	int status;                /* of the last answer of the node */
	struct buf body, log_text; /* log_text: what came of the log that is followed */
	bool answered, timed_out;
	struct loop_timer deadline;
};

typedef bool until_fn(struct bench *b, const char *id);
void until(struct bench *b, until_fn *fn, const char *id);
const struct wire_replica *find(struct bench *b, const char *id);
void start_node(struct bench *b);
struct node_pool *pool(struct bench *b, const char *id, const char *mode);
void want(struct bench *b, const char *pool_id, bool pulled_in, uint32_t epoch);
struct wire_want *add_want(struct wire_desired *d, const char *id, const char *pool_id);
int put(struct bench *b, struct wire_desired *d);
int ask(struct bench *b, const char *method, const char *path, const char *body);
struct http_call *follow_log(struct bench *b, const char *path);
/* What an engine writes is in its log a moment later: its keeper puts it there. */
void until_logged(struct bench *b, const char *replica_id, const char *text);
char *read_text(struct bench *b, const char *name);
char *in_dir(struct bench *b, const char *name);
int left_over(const struct bench *b);
int setup(void **state);
int teardown(void **state);
void stop_registry(struct bench *b);
void on_request(void *arg, struct http_exchange *x);
bool proving(struct bench *b, const char *id);
bool gone(struct bench *b, const char *id);
bool logged(struct bench *b, const char *text);
bool answered(struct bench *b, const char *id);
bool done(struct bench *b, const char *id);
bool reported(struct bench *b, const char *id);
bool has_error(struct bench *b, const char *id);
bool has_pid(struct bench *b, const char *id);
bool second_life(struct bench *b, const char *id);
bool ready(struct bench *b, const char *id);
bool starting(struct bench *b, const char *id);
bool draining(struct bench *b, const char *id);
bool failed(struct bench *b, const char *id);

#endif
