/* SPDX-License-Identifier: Apache-2.0
 *
 * All keys that hold, and the one question: who is this?
 */
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>

#include "auth/auth.h"
#include "base/mem.h"
#include "base/num.h"

/* ---- made once per change -------------------------------------------------------------------------- */

static int by_digest(const void *a, const void *b)
{
	const struct auth_key *x = *(struct auth_key *const *)a, *y = *(struct auth_key *const *)b;
	int r = memcmp(x->digest, y->digest, AUTH_DIGEST_LEN);
	return r ? r : (int)x->source - (int)y->source; /* in the order of the lists */
}

/* The first 8 bytes decide where a digest would stand. They are a hash's: nobody who measures how the search
 * went learns a secret from them, and all of the digest is compared in constant time. */
static uint64_t prefix(const unsigned char digest[AUTH_DIGEST_LEN])
{
	uint64_t v = 0;
	for (int i = 0; i < 8; i++)
		v = v << 8 | digest[i];
	return v;
}

static struct auth_key *find_digest(const struct auth_list *l, const unsigned char digest[AUTH_DIGEST_LEN])
{
	uint64_t want = prefix(digest);
	size_t lo = 0, hi = l->n;
	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		if (prefix(l->items[mid]->digest) < want)
			lo = mid + 1;
		else
			hi = mid;
	}
	for (; lo < l->n && prefix(l->items[lo]->digest) == want; lo++)
		if (CRYPTO_memcmp(l->items[lo]->digest, digest, AUTH_DIGEST_LEN) == 0)
			return l->items[lo];
	return NULL;
}

static bool same_definition(const struct auth_key *a, const struct auth_key *b)
{
	return strcmp(a->name, b->name) == 0 && a->scope == b->scope && a->source == b->source &&
	       strv_eq(&a->models, &b->models) && a->limits.requests == b->limits.requests &&
	       a->limits.tokens == b->limits.tokens && a->limits.concurrent == b->limits.concurrent &&
	       a->created_ms == b->created_ms && a->expires_ms == b->expires_ms;
}

static void take_keys(struct auth_rules *r, const struct auth_list *l, const struct auth_rules *before)
{
	for (size_t i = 0; i < l->n && r->by_order.n < AUTH_KEYS_MAX; i++) {
		struct auth_key *k = l->items[i],
				*was = before ? find_digest(&before->keys, k->digest) : NULL;
		if (was && same_definition(was, k))
			k = was;
		auth_list_add(&r->by_order, auth_key_ref(k));
		auth_list_add(&r->keys, auth_key_ref(k));
	}
}

static void drop_doubles(struct auth_list *l)
{
	size_t n = 0;
	for (size_t i = 0; i < l->n; i++) {
		if (n && memcmp(l->items[n - 1]->digest, l->items[i]->digest, AUTH_DIGEST_LEN) == 0)
			auth_key_unref(l->items[i]);
		else
			l->items[n++] = l->items[i];
	}
	l->n = n;
}

struct auth_rules *auth_rules_new(const struct auth_list *const *lists, size_t n, const struct strv *trusted,
	const struct auth_rules *before)
{
	struct auth_rules *r = NEW(struct auth_rules);
	atomic_init(&r->refs, 1);
	for (size_t i = 0; i < n; i++)
		if (lists[i])
			take_keys(r, lists[i], before);
	if (r->keys.n)
		qsort(r->keys.items, r->keys.n, sizeof(struct auth_key *), by_digest);
	drop_doubles(&r->keys);
	size_t nets = trusted ? MIN(trusted->len, (size_t)AUTH_TRUSTED_MAX) : 0;
	r->trusted = nets ? mem_alloc(nets * sizeof *r->trusted) : NULL;
	for (size_t i = 0; i < nets; i++)
		if (cidr_parse(view_str(trusted->items[i]), &r->trusted[r->ntrusted], NULL) == 0)
			r->ntrusted++;
	return r;
}

struct auth_rules *auth_rules_ref(struct auth_rules *r)
{
	atomic_fetch_add_explicit(&r->refs, 1, memory_order_relaxed);
	return r;
}

void auth_rules_unref(struct auth_rules *r)
{
	if (!r || atomic_fetch_sub_explicit(&r->refs, 1, memory_order_acq_rel) != 1)
		return;
	auth_list_done(&r->keys);
	auth_list_done(&r->by_order);
	free(r->trusted);
	free(r);
}

bool auth_file_changed(const struct auth_rules *r, const struct auth_list *file)
{
	size_t before = 0;
	for (size_t i = 0; i < r->by_order.n; i++)
		before += r->by_order.items[i]->source == AUTH_FROM_FILE;
	bool same = before == file->n;
	for (size_t i = 0; same && i < file->n; i++) {
		const struct auth_key *was = find_digest(&r->keys, file->items[i]->digest);
		same = was && same_definition(was, file->items[i]);
	}
	return !same;
}

/* ---- asked for each request ------------------------------------------------------------------------ */

struct view auth_bearer(struct view authorization)
{
	if (authorization.n < 7 || !view_eq_ci(view_cut(authorization, 7), VIEW("Bearer ")))
		return (struct view){ 0 };
	return view_trim(view_from(authorization, 7));
}

static struct auth_key *find(const struct auth_rules *r, struct view secret)
{
	unsigned char digest[AUTH_DIGEST_LEN];
	if (!secret.n || secret.n > AUTH_SECRET_MAX || !r->keys.n)
		return NULL;
	auth_digest(secret, digest);
	return find_digest(&r->keys, digest);
}

static enum auth_scope keyless(const struct auth_rules *r, const struct auth_asks *a)
{
	if (a->local || ip_is_loopback(a->ip))
		return AUTH_ADMIN;
	for (size_t i = 0; i < r->ntrusted; i++)
		if (cidr_has(&r->trusted[i], a->ip))
			return AUTH_INFERENCE;
	return AUTH_UNSET;
}

static bool looks_ours(struct view secret)
{
	return view_starts(secret, VIEW(AUTH_SECRET_PREFIX));
}

enum auth_verdict auth_check(
	const struct auth_rules *r, const struct auth_asks *a, int64_t wall, struct auth_who *ret)
{
	struct auth_key *k = find(r, a->bearer);
	*ret = (struct auth_who){ 0 };
	if (!k)
		k = find(r, a->api_key);
	if (k && auth_key_expired(k, wall))
		return AUTH_EXPIRED_KEY;
	if (k) {
		*ret = (struct auth_who){ k, k->scope };
		return AUTH_GRANTED;
	}
	if (looks_ours(a->bearer) || looks_ours(a->api_key))
		return AUTH_BAD_KEY;
	ret->scope = keyless(r, a);
	if (ret->scope != AUTH_UNSET)
		return AUTH_GRANTED;
	return a->bearer.n || a->api_key.n ? AUTH_BAD_KEY : AUTH_NO_KEY;
}

/* ---- addresses -------------------------------------------------------------------------------------- */

static bool is_number(struct view v)
{
	uint64_t n;
	return num_u64(v, &n) == 0;
}

/* A name other than localhost may be anything. */
static bool is_local_address(struct view v)
{
	v = view_from(v, view_starts(v, VIEW("https://")) ? 8 : view_starts(v, VIEW("http://")) ? 7 : 0);
	if (view_starts(v, VIEW("unix:")) || view_starts(v, VIEW("/")) || is_number(v))
		return true;
	size_t colon = v.n;
	while (colon && v.p[colon - 1] != ':')
		colon--;
	struct view host = view_cut(v, colon ? colon - 1 : 0);
	if (host.n > 2 && host.p[0] == '[')
		host = view_of(host.p + 1, host.n - 2);
	struct cidr c;
	if (view_find(host, '/') == host.n && cidr_parse(host, &c, NULL) == 0)
		return ip_is_loopback(c.ip);
	return view_eq_ci(host, VIEW("localhost"));
}

const char *auth_exposed(const struct strv *listen)
{
	for (size_t i = 0; i < listen->len; i++)
		if (!is_local_address(view_str(listen->items[i])))
			return listen->items[i];
	return NULL;
}

int auth_exposed_check(const struct strv *listen, const struct strv *trusted, size_t nkeys,
	const char *config_file, struct err *reterr)
{
	const char *address = nkeys || trusted->len ? NULL : auth_exposed(listen);
	if (!address)
		return 0;
	return err_set(reterr, -EACCES,
		"listen: others reach %.100s, and nobody would be let in: there is no key and no trusted "
		"network. Either make a key:\n"
		"  corral key create%s%.200s laptop\n"
		"or let a network in without one, by this line in the configuration:\n"
		"  auth: {trusted: [192.168.1.0/24]}",
		address, config_file ? " --config " : "", config_file ? config_file : "");
}
