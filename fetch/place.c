/* SPDX-License-Identifier: Apache-2.0 */
#include "place.h"

#include <ctype.h>
#include <stdlib.h>
#include <curl/curl.h>

#include "base/mem.h"
#include "base/num.h"

void place_done(struct place *p)
{
	free(p->scheme);
	free(p->host);
	free(p->path);
	*p = (struct place){ 0 };
}

static void url_cleanup(CURLU **u)
{
	curl_url_cleanup(*u);
}

/* A part of u as a string of ours, lower case where asked; NULL: it has none. */
static char *part_of(CURLU *u, CURLUPart part, unsigned flags, bool lower)
{
	char *text = NULL;
	if (curl_url_get(u, part, &text, flags) != CURLUE_OK)
		return NULL;
	char *copy = mem_strdup(text);
	curl_free(text);
	for (char *c = copy; lower && *c; c++)
		*c = (char)tolower((unsigned char)*c);
	return copy;
}

static bool loopback(const char *host)
{
	if (strcmp(host, "localhost") == 0 || strcmp(host, "[::1]") == 0)
		return true;
	if (strncmp(host, "127.", 4) != 0)
		return false;
	return strspn(host, "0123456789.") == strlen(host);
}

int place_parse(const char *url, struct place *ret, struct fail *f)
{
	AUTO(url_cleanup) CURLU *u = curl_url();
	AUTO(mem_freep) char *shown = NULL;
	uint64_t port = 0;
	*ret = (struct place){ 0 };
	if (!u || curl_url_set(u, CURLUPART_URL, url, 0) != CURLUE_OK) {
		shown = url_shown(url);
		return fail_set(
			f, WHY_INPUT, "%.300s is no URL; https:, http: and file: are accepted", shown);
	}
	ret->scheme = part_of(u, CURLUPART_SCHEME, 0, true);
	ret->is_file = ret->scheme && strcmp(ret->scheme, "file") == 0;
	if (ret->is_file) {
		ret->path = part_of(u, CURLUPART_PATH, CURLU_URLDECODE, false);
		ret->host = mem_strdup("");
		if (ret->path && ret->path[0] == '/')
			return 0;
	}
	AUTO(mem_freep) char *port_text = part_of(u, CURLUPART_PORT, CURLU_DEFAULT_PORT, false);
	if (!ret->is_file)
		ret->host = part_of(u, CURLUPART_HOST, 0, true);
	if (!ret->scheme || !ret->host || ret->is_file || num_u64(view_str(port_text), &port) ||
		(strcmp(ret->scheme, "https") != 0 && strcmp(ret->scheme, "http") != 0)) {
		place_done(ret);
		shown = url_shown(url);
		return fail_set(f, WHY_INPUT,
			"%.300s cannot be fetched; https:, http: and file: are accepted", shown);
	}
	ret->port = (unsigned)port;
	ret->is_loopback = loopback(ret->host);
	return 0;
}

bool place_same(const struct place *a, const struct place *b)
{
	return a->port == b->port && strcmp(a->host, b->host) == 0 && strcmp(a->scheme, b->scheme) == 0;
}

/* "host", "*.domain", "*", each with ":port" where only that one is meant; "[::1]:80". */
static bool matches(const char *pattern, const struct place *p)
{
	struct view v = view_str(pattern), host = view_str(p->host);
	ptrdiff_t colon = -1;
	for (size_t i = 0; i < v.n; i++)
		colon = v.p[i] == ':' ? (ptrdiff_t)i : v.p[i] == ']' ? -1 : colon;
	bool bare_v6 = v.n && v.p[0] != '[' && colon >= 0 && memchr(v.p, ':', (size_t)colon);
	if (colon >= 0 && !bare_v6) {
		uint64_t port;
		if (num_u64(view_from(v, (size_t)colon + 1), &port) || port != p->port)
			return false;
		v = view_cut(v, (size_t)colon);
	}
	if (view_eqs(v, "*"))
		return true;
	if (view_starts(v, VIEW("*.")))
		return host.n > v.n - 1 && view_eq_ci(view_from(host, host.n - (v.n - 1)), view_from(v, 1));
	if (bare_v6 && host.n > 2)
		host = view_of(host.p + 1, host.n - 2);
	/* "host." is the same host */
	if (host.n && host.p[host.n - 1] == '.')
		host.n--;
	return view_eq_ci(v, host);
}

int place_check(const struct place *p, const struct policy *policy, const char *url, struct fail *f)
{
	if (p->is_file)
		return 0;
	AUTO(mem_freep) char *shown = url_shown(url);
	if (policy->offline)
		return fail_set(
			f, WHY_REFUSED, "%.300s was not fetched: refused by network.offline: true", shown);
	for (size_t i = 0; i < policy->deny.len; i++) {
		if (matches(policy->deny.items[i], p))
			return fail_set(f, WHY_REFUSED,
				"%.300s was not fetched: refused by network.deny: %.100s", shown,
				policy->deny.items[i]);
	}
	bool allowed = policy->allow_hosts.len == 0;
	for (size_t i = 0; i < policy->allow_hosts.len && !allowed; i++)
		allowed = matches(policy->allow_hosts.items[i], p);
	if (!allowed)
		return fail_set(f, WHY_REFUSED,
			"%.300s was not fetched: %.100s is not in network.allow_hosts; add it there if you "
			"trust it",
			shown, p->host);
	if (strcmp(p->scheme, "http") == 0 && !p->is_loopback && !policy->plain_http)
		return fail_set(f, WHY_REFUSED,
			"%.300s was not fetched: refused by network.plain_http: false; use https, or allow "
			"it",
			shown);
	return 0;
}

char *url_shown(const char *url)
{
	AUTO(url_cleanup) CURLU *u = curl_url();
	if (!u || curl_url_set(u, CURLUPART_URL, url, CURLU_NON_SUPPORT_SCHEME) != CURLUE_OK) {
		size_t n = strcspn(url, "?#@");
		return mem_fmt("%.*s%s", (int)MIN(n, (size_t)200), url, url[n] ? "…" : "");
	}
	AUTO(mem_freep) char *query = part_of(u, CURLUPART_QUERY, 0, false);
	curl_url_set(u, CURLUPART_USER, NULL, 0);
	curl_url_set(u, CURLUPART_PASSWORD, NULL, 0);
	curl_url_set(u, CURLUPART_QUERY, NULL, 0);
	curl_url_set(u, CURLUPART_FRAGMENT, NULL, 0);
	AUTO(mem_freep) char *bare = part_of(u, CURLUPART_URL, 0, false);
	return mem_fmt("%s%s", bare ? bare : "the URL", query ? "?…" : "");
}

char *url_without_user(const char *url)
{
	AUTO(url_cleanup) CURLU *u = curl_url();
	if (!u || curl_url_set(u, CURLUPART_URL, url, 0) != CURLUE_OK)
		return mem_strdup(url);
	curl_url_set(u, CURLUPART_USER, NULL, 0);
	curl_url_set(u, CURLUPART_PASSWORD, NULL, 0);
	return part_of(u, CURLUPART_URL, 0, false);
}

char *url_redirected(const char *url, const char *location)
{
	AUTO(url_cleanup) CURLU *u = curl_url();
	struct place from = { 0 }, to = { 0 };
	struct fail ignored;
	char *ret = NULL;
	if (!u || curl_url_set(u, CURLUPART_URL, url, 0) != CURLUE_OK ||
		curl_url_set(u, CURLUPART_URL, location, 0) != CURLUE_OK)
		return NULL;
	AUTO(mem_freep) char *whole = part_of(u, CURLUPART_URL, 0, false);
	if (whole && !place_parse(url, &from, &ignored) && !place_parse(whole, &to, &ignored) &&
		!to.is_file) {
		if (!place_same(&from, &to)) {
			curl_url_set(u, CURLUPART_USER, NULL, 0);
			curl_url_set(u, CURLUPART_PASSWORD, NULL, 0);
		}
		ret = part_of(u, CURLUPART_URL, 0, false);
	}
	place_done(&from);
	place_done(&to);
	return ret;
}
