/* SPDX-License-Identifier: Apache-2.0
 *
 * Where it listens, and which hosts it may ask.
 */
#include <arpa/inet.h>
#include <ctype.h>
#include <stdio.h>

#include "base/num.h"
#include "config/config_int.h"

static bool port_ok(struct view v)
{
	uint64_t port;
	return num_u64(v, &port) == 0 && port <= 65535;
}

/* "/run/x.sock", "/run/x.sock?mode=0660" */
static int socket_check(struct view v)
{
	struct view mode, path = view_split(v, '?', &mode);
	if (mode.p) {
		if (!view_starts(mode, VIEW("mode=")) || mode.n < 8 || mode.n > 9)
			return -EINVAL;
		for (size_t i = 5; i < mode.n; i++)
			if (mode.p[i] < '0' || mode.p[i] > '7')
				return -EINVAL;
		if (mode.n == 9 && mode.p[5] != '0')
			return -EINVAL;
	}
	return path.n > CONFIG_SOCKET_MAX ? -ENAMETOOLONG : 0;
}

/* An entry without its scheme. */
static struct view listen_address(struct view v)
{
	if (view_starts(v, VIEW("https://")))
		return view_from(v, 8);
	return view_starts(v, VIEW("http://")) ? view_from(v, 7) : v;
}

/* 0; -EINVAL no address; -EADDRNOTAVAIL a name or nothing; -ENAMETOOLONG. Whether others reach it, and may,
 * is for the process that knows the keys to say. */
static int listen_check(struct view v)
{
	struct view entry = v;
	if (view_starts(v, VIEW("unix:")))
		v = view_from(v, 5);
	if (v.n && v.p[0] == '/')
		return socket_check(v);
	if (port_ok(v))
		return 0;
	v = listen_address(entry);
	size_t colon = v.n;
	while (colon && v.p[colon - 1] != ':')
		colon--;
	if (!colon || !port_ok(view_from(v, colon)))
		return -EINVAL;
	struct view host = view_cut(v, colon - 1);
	char text[64];
	bool bracket = host.n > 2 && host.p[0] == '[' && host.p[host.n - 1] == ']';
	if (bracket)
		host = (struct view){ host.p + 1, host.n - 2 };
	if (host.n == 0 || host.n >= sizeof text)
		return host.n ? -EINVAL : -EADDRNOTAVAIL;
	snprintf(text, sizeof text, "%.*s", VIEW_ARG(host));
	struct in_addr a4;
	struct in6_addr a6;
	if (bracket)
		return inet_pton(AF_INET6, text, &a6) == 1 ? 0 : -EINVAL;
	if (inet_pton(AF_INET, text, &a4) == 1 || strcmp(text, "localhost") == 0)
		return 0;
	return strchr(text, ':') ? -EINVAL : -EADDRNOTAVAIL;
}

/* Whether both want one socket, be it with TLS and without; port 0 is another one each time. */
static bool same_listen(struct view a, struct view b)
{
	struct view at = listen_address(a);
	return view_eq(a, b) || (view_eq(at, listen_address(b)) && !view_ends(at, VIEW(":0")));
}

void check_listen(struct loader *ld)
{
	const struct strv *l = &ld->cfg->listen;
	const struct config_origin *o = config_origin_of(ld->cfg, NULL, "listen");
	for (size_t i = 0; i < l->len; i++) {
		const char *a = l->items[i];
		int r = listen_check(view_str(a));
		if (r == -EADDRNOTAVAIL)
			load_fail(ld, o, "listen",
				"found \"%.200s\"; accepted: an address of this machine and a port, as in "
				"192.168.1.5:8080, or 0.0.0.0:8080 for all of them ([::]:8080 with those of "
				"IPv6); names are not looked up",
				a);
		else if (r == -ENAMETOOLONG)
			load_fail(ld, o, "listen",
				"the socket path %.120s… has %zu bytes; the system takes %d; write a shorter "
				"one",
				a, strlen(a), CONFIG_SOCKET_MAX);
		else if (r)
			load_fail(ld, o, "listen",
				"found \"%.200s\"; accepted: ADDRESS:PORT, https://ADDRESS:PORT, PORT, "
				"/path of a unix socket (then maybe ?mode=0660), or a list of them",
				a);
		for (size_t j = 0; j < i; j++)
			if (same_listen(view_str(l->items[j]), view_str(a)))
				load_fail(ld, o, "listen", "%.200s is named twice; keep one of them", a);
	}
	if (!l->len)
		load_fail(ld, o, "listen",
			"found an empty list; accepted: at least one address, as in 127.0.0.1:8080");
}

/* "host", "*.host", either with a port. */
static bool host_pattern_ok(const char *s)
{
	struct view port, host = view_split(view_str(s), ':', &port);
	if (view_starts(host, VIEW("*.")))
		host = view_from(host, 2);
	for (size_t i = 0; i < host.n; i++)
		if (!isalnum((unsigned char)host.p[i]) && !strchr(".-_", host.p[i]))
			return false;
	return host.n && host.n <= 253 && host.p[0] != '.' && (!port.p || port_ok(port));
}

static void check_hosts(struct loader *ld, const char *key, const struct strv *list)
{
	for (size_t i = 0; i < list->len; i++)
		if (!host_pattern_ok(list->items[i]))
			load_fail(ld, config_origin_of(ld->cfg, NULL, key), key,
				"found \"%.100s\"; accepted: a host (huggingface.co), all below one "
				"(*.hf.co), then "
				"maybe :PORT; no scheme, no path",
				list->items[i]);
}

/* A host, or a bucket. */
static void check_registries(struct loader *ld)
{
	const struct strv *l = &ld->cfg->trust.registries;
	for (size_t i = 0; i < l->len; i++) {
		struct view v = view_str(l->items[i]);
		bool bucket = view_starts(v, VIEW("s3://")) && v.n > 5 &&
			      view_find(view_from(v, 5), '/') == v.n - 5;
		if (!bucket && !host_pattern_ok(l->items[i]))
			load_fail(ld, config_origin_of(ld->cfg, NULL, "trust.registries"), "trust.registries",
				"found \"%.100s\"; accepted: a host (huggingface.co), all below one "
				"(*.hf.co), or a "
				"bucket (s3://BUCKET)",
				l->items[i]);
	}
}

void check_network(struct loader *ld)
{
	check_hosts(ld, "network.allow_hosts", &ld->cfg->network.allow_hosts);
	check_hosts(ld, "network.deny", &ld->cfg->network.deny);
	check_registries(ld);
}
