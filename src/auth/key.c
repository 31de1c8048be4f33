/* SPDX-License-Identifier: Apache-2.0 */
/* The functions for one block after another, which OpenSSL 3 would rather not have: EVP_Digest fetches or
 * allocates each time, and this is done for every request that brings a key. */
#define OPENSSL_SUPPRESS_DEPRECATED
#include <openssl/sha.h>
#include <stdio.h>
#include <stdlib.h>

#include "auth/auth.h"
#include "base/mem.h"
#include "base/rnd.h"
#include "base/utf8.h"

static_assert(AUTH_DIGEST_LEN == SHA256_DIGEST_LENGTH, "a digest is a SHA-256");
static_assert(AUTH_SECRET_LEN == sizeof AUTH_SECRET_PREFIX - 1 + AUTH_SECRET_RANDOM, "prefix and the random");

static const char *const scopes[] = { "unset", "open", "inference", "control", "admin" };

const char *auth_scope_name(enum auth_scope s)
{
	return scopes[s];
}

bool auth_scope_parse(struct view text, enum auth_scope *ret)
{
	for (enum auth_scope s = AUTH_INFERENCE; s <= AUTH_ADMIN; s++)
		if (view_eqs(text, scopes[s])) {
			*ret = s;
			return true;
		}
	return false;
}

const char *auth_source_name(enum auth_source s)
{
	static const char *const names[] = { "store", "keys_file", "CORRAL_API_KEYS" };
	return names[s];
}

/* ---- secrets --------------------------------------------------------------------------------------- */

void auth_secret_new(char out[AUTH_SECRET_LEN + 1])
{
	static const char digits[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
	size_t n = sizeof AUTH_SECRET_PREFIX - 1;
	memcpy(out, AUTH_SECRET_PREFIX, n);
	while (n < AUTH_SECRET_LEN) {
		unsigned char c;
		rnd_os_bytes(&c, 1);
		if (c < 62 * 4) /* the rest would make some digits more likely */
			out[n++] = digits[c % 62];
	}
	out[n] = '\0';
}

void auth_digest(struct view secret, unsigned char out[AUTH_DIGEST_LEN])
{
	SHA256_CTX c;
	SHA256_Init(&c);
	SHA256_Update(&c, secret.n ? secret.p : "", secret.n);
	SHA256_Final(out, &c);
}

/* ---- a key ----------------------------------------------------------------------------------------- */

struct auth_key *auth_key_new(void)
{
	struct auth_key *k = NEW(struct auth_key);
	atomic_init(&k->refs, 1);
	k->scope = AUTH_INFERENCE;
	return k;
}

struct auth_key *auth_key_ref(struct auth_key *k)
{
	if (k)
		atomic_fetch_add_explicit(&k->refs, 1, memory_order_relaxed);
	return k;
}

void auth_key_unref(struct auth_key *k)
{
	if (!k || atomic_fetch_sub_explicit(&k->refs, 1, memory_order_acq_rel) != 1)
		return;
	strv_done(&k->models);
	free(k);
}

void auth_key_unrefp(struct auth_key **k)
{
	auth_key_unref(*k);
	*k = NULL;
}

void auth_key_set_digest(struct auth_key *k, const unsigned char digest[AUTH_DIGEST_LEN])
{
	memcpy(k->digest, digest, AUTH_DIGEST_LEN);
	for (size_t i = 0; i < AUTH_ID_LEN / 2; i++)
		snprintf(k->id + 2 * i, 3, "%02x", digest[i]);
}

void auth_key_set_secret(struct auth_key *k, struct view secret)
{
	unsigned char digest[AUTH_DIGEST_LEN];
	auth_digest(secret, digest);
	auth_key_set_digest(k, digest);
}

bool auth_name_ok(struct view name)
{
	for (size_t i = 0; i < name.n; i++) {
		char c = name.p[i];
		bool alnum = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
		if (!alnum && c != '.' && c != '_' && c != '-' && c != '@')
			return false;
	}
	/* Who puts a key where its name belongs is told: names are shown and logged. */
	return name.n >= 1 && name.n <= AUTH_NAME_MAX && !view_starts(name, VIEW("sk-"));
}

bool auth_model_ok(struct view name)
{
	for (size_t i = 0; i < name.n; i++)
		if ((unsigned char)name.p[i] <= ' ' || name.p[i] == 0x7f)
			return false;
	return name.n >= 1 && name.n <= 128 && utf8_valid(name);
}

bool auth_key_lists(const struct auth_key *k, struct view name)
{
	for (size_t i = 0; i < k->models.len; i++)
		if (view_eqs(name, k->models.items[i]))
			return true;
	return !k->models.len;
}

static void add_time(struct buf *b, const char *key, int64_t ms)
{
	char at[WALL_STR_LEN + 1] = "";
	if (ms)
		wall_format(ms, at);
	(void)buf_addf(b, ms ? ",\"%s\":\"%s\"" : ",\"%s\":null", key, at);
}

static void add_limit(struct buf *b, const char *key, uint64_t n)
{
	if (n)
		(void)buf_addf(b, "\"%s\":%llu", key, (unsigned long long)n);
	else
		(void)buf_addf(b, "\"%s\":null", key);
}

void auth_key_json(const struct auth_key *k, int64_t wall, struct buf *b)
{
	(void)buf_addf(b, "{\"id\":\"%s\",\"name\":\"%s\",\"scope\":\"%s\",\"models\":[", k->id, k->name,
		auth_scope_name(k->scope));
	for (size_t i = 0; i < k->models.len; i++) {
		(void)buf_adds(b, i ? "," : "");
		(void)buf_add_json(b, view_str(k->models.items[i]));
	}
	(void)buf_adds(b, "],\"limits\":{");
	add_limit(b, "requests_per_minute", k->limits.requests);
	(void)buf_addc(b, ',');
	add_limit(b, "tokens_per_minute", k->limits.tokens);
	(void)buf_addc(b, ',');
	add_limit(b, "concurrent", k->limits.concurrent);
	(void)buf_addc(b, '}');
	add_time(b, "created_at", k->created_ms);
	add_time(b, "expires_at", k->expires_ms);
	(void)buf_addf(b, ",\"expired\":%s,\"source\":\"%s\"}", auth_key_expired(k, wall) ? "true" : "false",
		auth_source_name(k->source));
}

/* ---- lists ------------------------------------------------------------------------------------------ */

void auth_list_done(struct auth_list *l)
{
	for (size_t i = 0; i < l->n; i++)
		auth_key_unref(l->items[i]);
	free(l->items);
	*l = (struct auth_list){ 0 };
}

void auth_list_add(struct auth_list *l, struct auth_key *k)
{
	if ((l->n & (l->n + 1)) == 0 || !l->items) /* grows at 2^k - 1 */
		l->items = mem_realloc(l->items, 2 * (l->n + 1) * sizeof(struct auth_key *));
	l->items[l->n++] = k;
}

const struct auth_key *auth_list_find(const struct auth_list *l, struct view id_or_name)
{
	for (size_t i = 0; i < l->n; i++)
		if (view_eqs(id_or_name, l->items[i]->id))
			return l->items[i];
	for (size_t i = 0; i < l->n; i++)
		if (view_eqs(id_or_name, l->items[i]->name))
			return l->items[i];
	return NULL;
}

void auth_list_remove(struct auth_list *l, struct view id)
{
	for (size_t i = 0; i < l->n; i++) {
		if (!view_eqs(id, l->items[i]->id))
			continue;
		auth_key_unref(l->items[i]);
		memmove(l->items + i, l->items + i + 1, (l->n - i - 1) * sizeof *l->items);
		memset(l->items + --l->n, 0, sizeof *l->items);
		return;
	}
}
