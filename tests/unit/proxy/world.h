/* SPDX-License-Identifier: Apache-2.0
 *
 * A proxy between our HTTP server and a scripted engine, with a client, all on one loop. Every event
 * (client, engine, pool) ends the current turn of the loop; wait_for turns it until a condition holds.
 */
#ifndef TEST_PROXY_WORLD_H
#define TEST_PROXY_WORLD_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/list.h"
#include "base/mem.h"
#include "http/client.h"
#include "http/server.h"
#include "proxy/proxy.h"

enum { STEPS_MAX = 16, CLIENTS_MAX = 4 };

/* What the engine does with one whole request. */
struct step {
	const char *reply; /* the bytes of its answer; NULL: none */
	size_t n;          /* of reply; 0: its length as a string */
	size_t split;      /* the first so many bytes are sent alone */
	bool close;        /* after the reply */
	int64_t delay_ms;  /* before the reply */
};

struct world;
struct client {
	struct world *w;
	struct http_call *call;
	int status;
	bool ended, failed;
	enum http_fail fail;
	struct buf head, body;           /* head: "name: value\n", names in small letters */
	void (*check)(struct client *c); /* after each piece of the body */
};

struct world {
	struct loop *loop;
	struct loop_timer deadline;
	struct auth_key *key; /* of the requests that come; NULL: they need none */
	/* front */
	struct http_server *server;
	struct proxy *proxy;
	struct metrics *metrics;
	struct req_records *records;
	struct spool_account spool;
	int front_fd;
	struct http_target *front;
	struct client clients[CLIENTS_MAX];
	/* pool */
	struct pool *pool;
	int demands, proved, unloaded;
	int silent[2]; /* calls of on_silent: half over, all over */
	int64_t silent_ms;
	bool moves; /* each of them sees the slots move */
	/* engine */
	int engine_fd;
	char engine_address[64];
	struct listener *listener;
	struct list conns;
	struct step script[STEPS_MAX];
	int steps; /* played; the last one of the script is repeated */
	int nscript, connections, requests, closed;
	struct buf request; /* the last one, whole */
};

struct world_opts {
	uint32_t capacity, slots;
	int64_t max_wait_ms;
	uint64_t body_max, spool_max;
	const char *remote_model;
	int64_t stall_ms, first_token_ms; /* 0: an hour */
	struct pool_progress progress;
	bool no_replica;
};
struct world *world_new(const struct world_opts *o);
void world_free(struct world *w);
void world_put(struct world *w, uint64_t generation, uint32_t slots, const char *remote_model);
void world_put_other(struct world *w); /* p-1, at the same engine */
/* Takes p-0 out as crashed and cuts what is on it, as control does. */
void world_crash(struct world *w);
void world_engine_off(struct world *w); /* connections are refused from here on */
void world_script(struct world *w, const struct step *steps, int n);
struct pool_stats world_stats(struct world *w);
struct pool_replica *world_replica(struct world *w); /* borrowed; NULL: none */

/* Starts request number i; headers are lines with \r\n, or NULL. */
void ask(struct world *w, int i, const char *method, const char *path, const char *headers, struct view body);
void leave(struct world *w, int i); /* the client goes away */

#define wait_for(w, cond)                                                                                    \
	do {                                                                                                 \
		while (!(cond))                                                                              \
			world_turn(w);                                                                       \
	} while (0)
void world_turn(struct world *w);
#define answered(w, i) ((w)->clients[i].ended || (w)->clients[i].failed)
bool has_header(const struct client *c, const char *line);

#define CHAT "/v1/chat/completions"
#define CHAT_BODY VIEW("{\"model\":\"p\",\"messages\":[]}")
#define JSON_TYPE "Content-Type: application/json\r\n"
#define OK_JSON "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 8\r\n\r\n{\"ok\":1}"
#define SSE_HEAD "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"

#endif
