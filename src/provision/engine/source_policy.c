/* SPDX-License-Identifier: Apache-2.0
 *
 * Whether the network policy lets a repository be fetched. git reaches it, not our fetcher, so its place is
 * looked at here, and that of each submodule.
 */
#include <stdlib.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/num.h"
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
}

/* false: it lies on this machine, or beside the one that names it. */
static bool place_of(const char *url, struct place *p)
{
	struct view v = view_str(url);
	for (size_t i = 0; i < ARRAY_LEN(schemes); i++) {
		struct view scheme = view_str(schemes[i].scheme);
		if (!view_starts(v, scheme))
			continue;
		*p = (struct place){ .port = schemes[i].port, .plain = schemes[i].plain };
		v = view_from(v, scheme.n);
		split_port(without_user(view_cut(v, view_find(v, '/'))), p);
		return true;
	}
	size_t colon = view_find(v, ':'), slash = view_find(v, '/');
	if (colon == v.n || slash < colon || view_starts(v, VIEW("file:")))
		return false;
	*p = (struct place){ .port = 22, .host = without_user(view_cut(v, colon)) };
	return true;
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
	return view_eqs(host, "localhost") || view_eqs(host, "[::1]") || view_starts(host, VIEW("127."));
}

int source_policy_check(const char *url, const struct fetch_policy *policy, struct err *reterr)
{
	struct place p;
	if (!place_of(url, &p))
		return 0;
	for (size_t i = 0; i < policy->deny.len; i++)
		if (matches(policy->deny.items[i], &p))
			return err_set(reterr, -EPERM, "%.*s was not asked: refused by network.deny: %.100s",
				VIEW_ARG(view_cut(p.host, 200)), policy->deny.items[i]);
	bool allowed = policy->allow_hosts.len == 0;
	for (size_t i = 0; i < policy->allow_hosts.len && !allowed; i++)
		allowed = matches(policy->allow_hosts.items[i], &p);
	if (!allowed)
		return err_set(reterr, -EPERM, "%.*s was not asked: network.allow_hosts does not name it",
			VIEW_ARG(view_cut(p.host, 200)));
	if (p.plain && !policy->plain_http && !is_loopback(p.host))
		return err_set(reterr, -EPERM,
			"%.*s was not asked: what comes over git:// or http:// can be changed on its way; "
			"use "
			"https:// or ssh://, or set network.plain_http",
			VIEW_ARG(view_cut(p.host, 200)));
	return 0;
}

int source_policy_modules(const char *gitmodules, const struct fetch_policy *policy, struct err *reterr)
{
	AUTO(buf_done) struct buf b = BUF(1 * MIB);
	int r = file_read_regular(gitmodules, &b);
	if (r == -ENOENT)
		return 0;
	if (r)
		return err_set(reterr, r, "%s cannot be read: %s", gitmodules, strerror(-r));
	for (struct view rest = buf_view(&b); rest.p && !r;) {
		struct view value, line = view_trim(view_split(rest, '\n', &rest));
		struct view name = view_trim(view_split(line, '=', &value));
		if (!view_eq_ci(name, VIEW("url")))
			continue;
		AUTO(mem_freep) char *url = mem_viewdup(view_trim(value));
		r = source_policy_check(url, policy, reterr);
	}
	return r;
}
