/* SPDX-License-Identifier: Apache-2.0 */
#include "net/addr.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>

#include "base/num.h"

static int set_unix(struct view path, struct net_addr *ret, struct err *reterr)
{
	struct sockaddr_un *un = (struct sockaddr_un *)&ret->ss;
	if (path.n == 0 || path.p[0] != '/')
		return err_set(reterr, -EINVAL, "the socket path \"%.*s\" must begin with /", VIEW_ARG(path));
	if (path.n > NET_UNIX_PATH_MAX)
		return err_set(reterr, -ENAMETOOLONG,
			"the socket path %.*s has %zu bytes, the kernel takes %d at most; use a shorter "
			"folder",
			VIEW_ARG(path), path.n, NET_UNIX_PATH_MAX);
	if (memchr(path.p, '\0', path.n))
		return err_set(reterr, -EINVAL, "a socket path cannot hold a NUL byte");
	ret->kind = NET_UNIX;
	un->sun_family = AF_UNIX;
	memcpy(un->sun_path, path.p, path.n);
	un->sun_path[path.n] = '\0';
	ret->len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + path.n + 1);
	memcpy(ret->host, path.p, path.n);
	ret->host[path.n] = '\0';
	return 0;
}

static void set_ip4(struct net_addr *ret, struct in_addr ip)
{
	struct sockaddr_in *in = (struct sockaddr_in *)&ret->ss;
	in->sin_family = AF_INET;
	in->sin_addr = ip;
	in->sin_port = htons(ret->port);
	ret->len = sizeof *in;
	ret->kind = NET_TCP;
}

static int set_host(struct view host, bool bracketed, struct net_addr *ret, struct err *reterr)
{
	if (host.n == 0 || host.n >= sizeof ret->host)
		return err_set(reterr, -EINVAL, "no host in the address");
	memcpy(ret->host, host.p, host.n);
	ret->host[host.n] = '\0';
	struct in_addr ip4;
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&ret->ss;
	struct in6_addr ip6;
	if (bracketed || inet_pton(AF_INET6, ret->host, &ip6) == 1) {
		if (inet_pton(AF_INET6, ret->host, &ip6) != 1)
			return err_set(reterr, -EINVAL, "\"%s\" is not an IPv6 address", ret->host);
		in6->sin6_family = AF_INET6;
		in6->sin6_addr = ip6;
		in6->sin6_port = htons(ret->port);
		ret->len = sizeof *in6;
		ret->kind = NET_TCP;
		return 0;
	}
	if (inet_pton(AF_INET, ret->host, &ip4) == 1) {
		set_ip4(ret, ip4);
		return 0;
	}
	if (strcmp(ret->host, "localhost") == 0) {
		set_ip4(ret, (struct in_addr){ htonl(INADDR_LOOPBACK) });
		return 0;
	}
	for (size_t i = 0; i < host.n; i++) {
		unsigned char c = (unsigned char)host.p[i];
		if (c <= ' ' || c >= 0x7f || strchr("/\\@#?[]\"'", c))
			return err_set(reterr, -EINVAL, "\"%s\" is not a host name", ret->host);
	}
	ret->kind = NET_NAME;
	return 0;
}

static int set_port(struct view text, struct net_addr *ret, struct err *reterr)
{
	uint64_t port;
	if (num_u64(text, &port) < 0 || port > 65535)
		return err_set(
			reterr, -EINVAL, "the port \"%.*s\" is not a number from 0 to 65535", VIEW_ARG(text));
	ret->port = (uint16_t)port;
	return 0;
}

static int parse_hostport(struct view t, uint16_t default_port, struct net_addr *ret, struct err *reterr)
{
	ret->port = default_port;
	struct view host = t, port = { NULL, 0 };
	bool bracketed = t.n && t.p[0] == '[';
	if (bracketed) {
		size_t close = view_find(t, ']');
		if (close == t.n)
			return err_set(reterr, -EINVAL, "\"%.*s\": the bracket is never closed", VIEW_ARG(t));
		host = view_of(t.p + 1, close - 1);
		struct view rest = view_from(t, close + 1);
		if (rest.n && rest.p[0] != ':')
			return err_set(reterr, -EINVAL, "\"%.*s\": after ] comes :PORT", VIEW_ARG(t));
		port = view_from(rest, 1);
		if (!rest.n && default_port == 0)
			return err_set(reterr, -EINVAL, "\"%.*s\" names no port", VIEW_ARG(t));
	} else {
		host = view_split(t, ':', &port);
		if (!port.p && default_port == 0) { /* "8080" alone */
			port = host;
			host = VIEW("127.0.0.1");
		}
	}
	if (port.p && port.n) {
		int r = set_port(port, ret, reterr);
		if (r)
			return r;
	} else if (default_port == 0) {
		return err_set(reterr, -EINVAL, "\"%.*s\" names no port", VIEW_ARG(t));
	}
	return set_host(host, bracketed, ret, reterr);
}

int net_addr_parse(struct view t, struct net_addr *ret, struct err *reterr)
{
	*ret = (struct net_addr){ 0 };
	if (t.n == 0)
		return err_set(reterr, -EINVAL, "the address is empty");
	if (view_starts(t, VIEW("unix:")))
		return set_unix(view_from(t, 5), ret, reterr);
	if (t.p[0] == '/')
		return set_unix(t, ret, reterr);
	uint16_t default_port = 0;
	if (view_starts(t, VIEW("http://"))) {
		t = view_from(t, 7);
		default_port = 80;
	} else if (view_starts(t, VIEW("https://"))) {
		t = view_from(t, 8);
		default_port = 443;
		ret->tls = true;
	}
	if (default_port && t.n && t.p[t.n - 1] == '/')
		t.n--;
	return parse_hostport(t, default_port, ret, reterr);
}

void net_addr_text(const struct net_addr *a, char *out, size_t cap)
{
	if (a->kind == NET_UNIX)
		snprintf(out, cap, "unix:%s", a->host);
	else if (strchr(a->host, ':'))
		snprintf(out, cap, "[%s]:%u", a->host, a->port);
	else
		snprintf(out, cap, "%s:%u", a->host, a->port);
}

void net_addr_url(const struct net_addr *a, char *out, size_t cap)
{
	char text[NET_ADDR_TEXT];
	net_addr_text(a, text, sizeof text);
	snprintf(out, cap, "%s%s", a->kind == NET_UNIX ? "" : a->tls ? "https://" : "http://", text);
}

bool net_addr_loopback(const struct net_addr *a)
{
	if (a->kind == NET_UNIX)
		return true;
	if (a->kind != NET_TCP)
		return false;
	if (a->ss.ss_family == AF_INET)
		return (ntohl(((const struct sockaddr_in *)&a->ss)->sin_addr.s_addr) >> 24) == 127;
	return IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)&a->ss)->sin6_addr);
}

static void from_sockaddr(struct net_addr *ret)
{
	if (ret->ss.ss_family == AF_INET) {
		const struct sockaddr_in *in = (const struct sockaddr_in *)&ret->ss;
		ret->kind = NET_TCP;
		inet_ntop(AF_INET, &in->sin_addr, ret->host, sizeof ret->host);
		ret->port = ntohs(in->sin_port);
	} else if (ret->ss.ss_family == AF_INET6) {
		const struct sockaddr_in6 *in = (const struct sockaddr_in6 *)&ret->ss;
		ret->kind = NET_TCP;
		inet_ntop(AF_INET6, &in->sin6_addr, ret->host, sizeof ret->host);
		ret->port = ntohs(in->sin6_port);
	} else {
		ret->kind = NET_UNIX;
		snprintf(ret->host, sizeof ret->host, "%s", ((const struct sockaddr_un *)&ret->ss)->sun_path);
	}
}

int net_addr_of_socket(int fd, struct net_addr *ret)
{
	*ret = (struct net_addr){ .len = sizeof ret->ss };
	if (getsockname(fd, (struct sockaddr *)&ret->ss, &ret->len) < 0)
		return -errno;
	from_sockaddr(ret);
	return 0;
}

int net_addr_lookup(struct net_addr *a, struct err *reterr)
{
	if (a->kind != NET_NAME)
		return 0;
	char port[8];
	snprintf(port, sizeof port, "%u", a->port);
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG }, *list = NULL;
	int r = getaddrinfo(a->host, port, &hints, &list);
	if (r)
		return err_set(
			reterr, -EHOSTUNREACH, "the host %s cannot be found: %s", a->host, gai_strerror(r));
	memcpy(&a->ss, list->ai_addr, list->ai_addrlen);
	a->len = list->ai_addrlen;
	a->kind = NET_TCP;
	freeaddrinfo(list);
	return 0;
}
