/* SPDX-License-Identifier: Apache-2.0
 *
 * Whether the network policy lets a repository or an archive of packages be fetched. git and apt reach them,
 * not our fetcher, so their places are looked at here, and those of submodules. A place that cannot be told
 * for certain is refused.
 */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"
#include "base/num.h"
#include "provision/engine/engine_int.h"
#include "provision/engine/source.h"
#include "provision/fetch/fetch.h"

struct place {
	struct view host;
	uint64_t port;
	bool plain;
};

static const struct {
	const char *scheme;
	uint64_t port;
	bool plain;
} schemes[] = {
	{ "https://", 443, false },
	{ "http://", 80, true },
	{ "git://", 9418, true },
	{ "ssh://", 22, false },
};

enum reach { REACH_LOCAL, REACH_HOST, REACH_UNKNOWN };

/* Behind the last @ of what stands before the path. */
static struct view without_user(struct view v)
{
	for (size_t i = v.n; i-- > 0;)
		if (v.p[i] == '@')
			return view_from(v, i + 1);
	return v;
}

static void split_port(struct view v, struct place *p)
{
	size_t end = v.n && v.p[0] == '[' ? MIN(view_find(v, ']') + 1, v.n) : view_find(v, ':');
	uint64_t port;
	p->host = view_cut(v, end);
	if (end < v.n && v.p[end] == ':' && num_u64(view_from(v, end + 1), &port) == 0)
		p->port = port;
	while (p->host.n > 1 && p->host.p[p->host.n - 1] == '.') /* the same name for a resolver */
		p->host.n--;
}

/* 2130706433, 0x7f.1 and 127.1 are 127.0.0.1 for a resolver, and no line of a policy names them. */
static bool is_odd_number(struct view host)
{
	char text[64];
	struct in_addr a;
	snprintf(text, sizeof text, "%.*s", VIEW_ARG(view_cut(host, sizeof text - 1)));
	return inet_aton(text, &a) && inet_pton(AF_INET, text, &a) != 1;
}

/* Nothing that git, ssh and curl might read in another way than we do: no %41, no ?, #, \ before the path. */
static bool is_plain(struct view authority)
{
	for (size_t i = 0; i < authority.n; i++) {
		unsigned char c = (unsigned char)authority.p[i];
		if (c <= ' ' || c >= 0x7f || strchr("%?#\\\"'<>^`{|}", c))
			return false;
	}
	return true;
}

static enum reach host_of(struct view authority, struct place *p)
{
	split_port(without_user(authority), p);
	return p->host.n && is_plain(authority) && !is_odd_number(p->host) ? REACH_HOST : REACH_UNKNOWN;
}

static enum reach place_of(const char *url, struct place *p)
{
	struct view v = view_str(url);
	if (view_starts(v, VIEW("/")) || view_starts(v, VIEW("file:/")))
		return REACH_LOCAL;
	for (size_t i = 0; i < ARRAY_LEN(schemes); i++) {
		struct view scheme = view_str(schemes[i].scheme);
		if (!view_starts(v, scheme))
			continue;
		*p = (struct place){ .port = schemes[i].port, .plain = schemes[i].plain };
		v = view_from(v, scheme.n);
		return host_of(view_cut(v, view_find(v, '/')), p);
	}
	/* user@host:path; "https::…" and "git+ssh://…" are other things */
	size_t colon = view_find(v, ':'), slash = view_find(v, '/');
	struct view host = view_cut(v, colon), path = view_from(v, MIN(colon + 1, v.n));
	if (colon >= slash || !path.n || path.p[0] == ':' || view_starts(path, VIEW("//")) ||
		memchr(host.p, '[', host.n))
		return REACH_UNKNOWN;
	*p = (struct place){ .port = 22 };
	return host_of(host, p);
}

static bool matches(const char *pattern, const struct place *p)
{
	struct place want = { .port = p->port };
	split_port(view_str(pattern), &want);
	if (want.port != p->port)
		return false;
	if (view_starts(want.host, VIEW("*.")))
		return p->host.n > want.host.n - 1 &&
		       view_eq_ci(view_from(p->host, p->host.n - (want.host.n - 1)), view_from(want.host, 1));
	return view_eqs(want.host, "*") || view_eq_ci(want.host, p->host);
}

static bool is_loopback(struct view host)
{
	char text[INET_ADDRSTRLEN];
	struct in_addr a;
	snprintf(text, sizeof text, "%.*s", VIEW_ARG(view_cut(host, sizeof text - 1)));
	return view_eqs(host, "localhost") || view_eqs(host, "[::1]") ||
	       (host.n < sizeof text && view_starts(host, VIEW("127.")) && inet_pton(AF_INET, text, &a) == 1);
}

static int host_check(const struct place *p, const struct fetch_policy *policy, struct err *reterr)
{
	struct view host = view_cut(p->host, 200);
	if (policy->offline)
		return err_set(
			reterr, -EPERM, "%.*s was not asked: refused by network.offline", VIEW_ARG(host));
	for (size_t i = 0; i < policy->deny.len; i++)
		if (matches(policy->deny.items[i], p))
			return err_set(reterr, -EPERM, "%.*s was not asked: refused by network.deny: %.100s",
				VIEW_ARG(host), policy->deny.items[i]);
	bool allowed = policy->allow_hosts.len == 0;
	for (size_t i = 0; i < policy->allow_hosts.len && !allowed; i++)
		allowed = matches(policy->allow_hosts.items[i], p);
	return allowed ? 0
		       : err_set(reterr, -EPERM, "%.*s was not asked: network.allow_hosts does not name it",
				 VIEW_ARG(host));
}

bool source_policy_bounds(const struct fetch_policy *policy)
{
	return policy->allow_hosts.len || policy->deny.len;
}

int source_policy_check(const char *url, const struct fetch_policy *policy, struct err *reterr)
{
	struct place p = { 0 };
	enum reach reach = place_of(url, &p);
	if (reach == REACH_LOCAL)
		return 0;
	if (reach == REACH_UNKNOWN) {
		AUTO(mem_freep) char *safe = url_redact(view_str(url));
		return err_set(reterr, -EPERM,
			"\"%.200s\" was not asked: which machine that is cannot be told; accepted: "
			"https://HOST/…, ssh://HOST/… and USER@HOST:PATH, with a plain name or address",
			safe);
	}
	int r = host_check(&p, policy, reterr);
	if (!r && p.plain && !policy->plain_http && !is_loopback(p.host))
		r = err_set(reterr, -EPERM,
			"%.*s was not asked: what comes over git:// or http:// can be changed on its way; "
			"use "
			"https:// or ssh://, or set network.plain_http",
			VIEW_ARG(view_cut(p.host, 200)));
	return r;
}

int source_policy_archive(const char *url, const struct fetch_policy *policy, struct err *reterr)
{
	static const char *const local[] = { "file:", "copy:", "cdrom:" };
	struct place p = { 0 };
	for (size_t i = 0; i < ARRAY_LEN(local); i++)
		if (view_starts(view_str(url), view_str(local[i])))
			return 0;
	enum reach reach = place_of(url, &p);
	if (reach == REACH_HOST)
		return host_check(&p, policy, reterr);
	if (reach == REACH_LOCAL || (!source_policy_bounds(policy) && !policy->offline))
		return 0;
	AUTO(mem_freep) char *safe = url_redact(view_str(url));
	return err_set(reterr, -EPERM,
		"\"%.200s\" was not asked: which machines apt reaches by it cannot be told, and "
		"network.allow_hosts or network.deny is set; name an http:// or https:// archive in "
		"engine.package.archive",
		safe);
}

int source_policy_modules(struct view named, const struct fetch_policy *policy, struct err *reterr)
{
	int r = 0;
	for (struct view rest = named; rest.n && !r;) {
		struct view url = { 0 }, entry = view_split(rest, '\0', &rest);
		(void)view_split(entry, '\n', &url);
		AUTO(mem_freep) char *text = mem_viewdup(url);
		r = source_policy_check(text ? text : "", policy, reterr);
	}
	return r;
}
