/* SPDX-License-Identifier: Apache-2.0
 *
 * Listening sockets. Each is bound once, without SO_REUSEPORT: a port in use must be an error. Any
 * number of loops may accept from the same one (struct listener, one a loop).
 */
#ifndef NET_LISTEN_H
#define NET_LISTEN_H

#include "base/cidr.h"
#include "loop/loop.h"
#include "net/addr.h"

/* Binds and listens (backlog 4096). A stale unix socket file is replaced; one that somebody answers on,
 * or a port in use, is an error that names who has it. The unix socket file gets `mode`. */
int net_listen(const struct net_addr *a, mode_t mode, int *ret_fd, struct err *reterr) MUST_CHECK;

struct net_peer {
	bool is_unix, is_tls;
	uid_t uid;                /* of the peer when is_unix, by SO_PEERCRED; (uid_t)-1 unknown */
	char text[64];            /* "127.0.0.1:4711", "unix" */
	unsigned char ip[IP_LEN]; /* as in base/cidr.h; zeros: none */
};

struct listener;
/* fd is the callee's. */
typedef void listener_fn(void *arg, int fd, const struct net_peer *peer);
/* Accepts on this loop. fd stays the caller's and must be closed after every listener on it stopped. When
 * descriptors run out, accepting pauses for 100 ms and says so once. */
int listener_start(struct loop *l, int fd, listener_fn *fn, void *arg, struct listener **ret) MUST_CHECK;
void listener_stop(struct listener **l);

#endif
