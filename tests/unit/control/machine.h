/* SPDX-License-Identifier: Apache-2.0
 *
 * The reconciler with a real registry and a node that the test plays: what is pushed to the node is read,
 * what the node reports is said. Everything waits for a state, with a deadline.
 */
#ifndef MACHINE_H
#define MACHINE_H

#include "control/control_int.h"
#include "http/server.h"

enum { ENGINES_MAX = 8 };

struct engine {
	char id[32], spec[CONFIG_SPEC_LEN + 1], model[64];
	enum replica_state state;
	uint64_t generation;
	const char *error;
};

struct world {
	char dir[64];
	struct loop *loop;
	struct registry *registry;
	struct metrics *metrics;
	struct control *control;
	struct http_server *server;
	int fd;
	struct wire_desired wants;
	unsigned pushes;
	struct engine engines[ENGINES_MAX];
	size_t nengines;
	uint64_t seq, size_bytes;
	unsigned published;
	/* waiting for a state */
	bool (*probe)(struct world *w);
	struct loop_timer poll;
	mono_t until;
	const char *id;
	/* what came back */
	struct control_reload_done done;
	char message[256];
	unsigned ndone;
};

#define POOL(id, rest) "  - {id: " id ", keep_alive: never, engine: {path: /bin/true}, " rest "}\n"
#define ONE POOL("a", "model: /m/one.gguf, replicas: 1")
#define ONE_CTX POOL("a", "model: /m/one.gguf, replicas: 1, ctx: 4096")
#define ONE_CTX2 POOL("a", "model: /m/one.gguf, replicas: 1, ctx: 2048")
#define OTHER_MODEL POOL("a", "model: /m/other.gguf, replicas: 1")

void world_start(struct world *w, const char *pools);
void world_end(struct world *w);
/* id: which one probe looks at, as w->id. False: the deadline came. */
bool wait_for(struct world *w, bool (*probe)(struct world *), const char *id);
/* Whatever has to follow from what was said has followed. */
void rounds(struct world *w);
/* A new one of the node's where there is none of that name. */
struct engine *engine(struct world *w, const char *id);
void say(struct world *w);
/* The engine runs from what is wanted, and is in that state. */
void becomes(struct world *w, const char *id, enum replica_state st, const char *error);
void vanishes(struct world *w, const char *id);
void starts_ready(struct world *w, const char *id);
/* What the node was told last; NULL: not this one. */
const struct wire_want *want(const struct world *w, const char *id);
struct control_pool *pool_a(struct world *w);
struct lease lease(struct world *w);
void set_config(struct world *w, const char *pools);
/* What came of it is w->done. */
void reload(struct world *w, const char *model);
/* For wait_for. */
bool is_wanted(struct world *w);
bool is_unwanted(struct world *w);
bool is_done(struct world *w);
bool in_pool(struct world *w);
bool no_reload(struct world *w);

#endif
