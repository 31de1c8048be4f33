/* SPDX-License-Identifier: Apache-2.0
 *
 * Addresses as people write them: "127.0.0.1:8080", "[::1]:8080", "8080" (a port on 127.0.0.1),
 * "localhost:8080", "/run/x.sock", "unix:/run/x.sock", and for clients "http://host:port".
 * No name is looked up here except localhost.
 */
#ifndef NET_ADDR_H
#define NET_ADDR_H

#include <sys/socket.h>

#include "base/err.h"
#include "base/view.h"

enum { NET_UNIX_PATH_MAX = 107, NET_ADDR_TEXT = 280 };

enum net_kind { NET_TCP, NET_UNIX, NET_NAME };

struct net_addr {
	enum net_kind kind;
	struct sockaddr_storage ss; /* NET_TCP and NET_UNIX */
	socklen_t len;
	char host[256]; /* as written, without brackets; the path for NET_UNIX */
	uint16_t port;
	bool tls; /* https:// */
};

/* Takes every form above. */
int net_addr_parse(struct view text, struct net_addr *ret, struct err *reterr) MUST_CHECK;
/* "127.0.0.1:8080", "[::1]:8080", "unix:/run/x.sock" */
void net_addr_text(const struct net_addr *a, char *out, size_t cap);
/* "http://127.0.0.1:8080" or "unix:/run/x.sock" */
void net_addr_url(const struct net_addr *a, char *out, size_t cap);
bool net_addr_loopback(const struct net_addr *a); /* unix counts as loopback */
/* The address a socket is bound to (a port that the kernel chose). */
int net_addr_of_socket(int fd, struct net_addr *ret) MUST_CHECK;
/* Looks a.host up; blocks: for loop_offload or start-up only. Fills ss and len; kind becomes NET_TCP. */
int net_addr_lookup(struct net_addr *a, struct err *reterr) MUST_CHECK;

#endif
