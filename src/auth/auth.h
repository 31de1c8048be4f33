/* SPDX-License-Identifier: Apache-2.0
 *
 * Keys: who may ask for what, and how much. A key is a secret of at least 192 random bits, so what is kept is
 * its plain SHA-256: a slow hash protects words that people choose, and would cost every request its time.
 *
 * A struct auth_key is immutable but for what was used of its limits, which are atomics, and is shared by
 * reference from any thread. So is struct auth_rules: all keys that hold, and the networks that need none. It
 * is replaced as a whole when keys change. Nothing here logs, and no secret is kept.
 * Bounds: AUTH_KEYS_MAX keys, AUTH_MODELS_MAX models each, AUTH_TRUSTED_MAX networks.
 */
#ifndef AUTH_AUTH_H
#define AUTH_AUTH_H

#include <stdatomic.h>

#include "base/buf.h"
#include "base/cidr.h"
#include "base/clock.h"
#include "base/strv.h"

enum {
	AUTH_SECRET_RANDOM = 33, /* characters of 62: 196 bits */
	AUTH_SECRET_LEN = 10 + AUTH_SECRET_RANDOM,
	AUTH_SECRET_MIN = 16, /* of one that somebody else made */
	AUTH_SECRET_MAX = 512,
	AUTH_DIGEST_LEN = 32,
	AUTH_ID_LEN = 12, /* the beginning of the digest in hex, as a log's token: */
	AUTH_NAME_MAX = 64,
	AUTH_KEYS_MAX = 10000,
	AUTH_MODELS_MAX = 256,
	AUTH_TRUSTED_MAX = 256,
	AUTH_FILE_MAX = 4 * 1024 * 1024,
};
#define AUTH_SECRET_PREFIX "sk-corral-"

/* Each includes those before it. UNSET is no scope: nobody has it, and no route may ask for it. */
enum auth_scope { AUTH_UNSET, AUTH_OPEN, AUTH_INFERENCE, AUTH_CONTROL, AUTH_ADMIN };
const char *auth_scope_name(enum auth_scope s); /* "inference" */
bool auth_scope_parse(struct view text, enum auth_scope *ret);

enum auth_source { AUTH_FROM_STORE, AUTH_FROM_FILE, AUTH_FROM_ENV };
const char *auth_source_name(enum auth_source s); /* "store", "keys_file", "CORRAL_API_KEYS" */

struct auth_limits {         /* 0: none */
	uint32_t requests;   /* a minute */
	uint32_t concurrent; /* at the same time */
	uint64_t tokens;     /* a minute, of prompts and answers */
};
static inline bool auth_limited(const struct auth_limits *l)
{
	return l->requests || l->concurrent || l->tokens;
}

struct auth_key {
	atomic_uint refs;
	char id[AUTH_ID_LEN + 1];
	char name[AUTH_NAME_MAX + 1];
	unsigned char digest[AUTH_DIGEST_LEN];
	enum auth_scope scope;
	enum auth_source source;
	struct strv models; /* ids or aliases; empty: all */
	struct auth_limits limits;
	int64_t created_ms; /* wall clock; 0: not known */
	int64_t expires_ms; /* wall clock; 0: never */
	/* limits.c: when a bucket will be full again (CLOCK_MONOTONIC, ns), and requests that run */
	_Atomic int64_t requests_full, tokens_full;
	atomic_uint running;
};
struct auth_key *auth_key_new(void) MUST_CHECK; /* one reference; inference */
struct auth_key *auth_key_ref(struct auth_key *k);
void auth_key_unref(struct auth_key *k); /* NULL allowed */
void auth_key_unrefp(struct auth_key **k);
/* A new secret, which is told once and not kept. */
void auth_secret_new(char out[AUTH_SECRET_LEN + 1]);
void auth_digest(struct view secret, unsigned char out[AUTH_DIGEST_LEN]);
/* Sets digest and id. */
void auth_key_set_secret(struct auth_key *k, struct view secret);
void auth_key_set_digest(struct auth_key *k, const unsigned char digest[AUTH_DIGEST_LEN]);
bool auth_name_ok(
	struct view name); /* 1 to AUTH_NAME_MAX of letters, digits, '.', '_', '-' and '@'; not sk-… */
bool auth_model_ok(struct view name); /* what an alias may be */
static inline bool auth_key_expired(const struct auth_key *k, int64_t wall)
{
	return k->expires_ms && k->expires_ms <= wall;
}
/* Whether the name is in the key's list, or there is no list. */
bool auth_key_lists(const struct auth_key *k, struct view name);
/* {"id", "name", "scope", "models", "limits", "created_at", "expires_at", "expired", "source"}; never the
 * secret or its digest. */
void auth_key_json(const struct auth_key *k, int64_t wall, struct buf *b);

struct auth_list {
	struct auth_key **items; /* a reference each */
	size_t n;
};
void auth_list_done(struct auth_list *l);
void auth_list_add(struct auth_list *l, struct auth_key *k); /* takes the reference */
/* An id goes before a name. */
const struct auth_key *auth_list_find(const struct auth_list *l, struct view id_or_name);
void auth_list_remove(struct auth_list *l, struct view id);

/* ---- written by people (text.c) -------------------------------------------------------------------- */

/* One limit: "requests=60/min", "tokens=100000/min", "concurrent=4". -EINVAL with a sentence. */
int auth_limit_parse(struct view text, struct auth_limits *l, struct err *reterr) MUST_CHECK;
/* "30d" from now on, or a day or time of RFC 3339. */
int auth_expiry_parse(struct view text, int64_t wall, int64_t *ret_ms, struct err *reterr) MUST_CHECK;
/* Names separated by commas, appended. */
int auth_models_parse(struct view text, struct strv *models, struct err *reterr) MUST_CHECK;
/* The keys_file: a line a key, "NAME: KEY [scope=…] [models=a,b] [requests=60/min] [tokens=…/min]
 * [concurrent=N] [expires=…]", KEY in plain or as sha256:HEX; # begins a comment. A file others may write is
 * refused; *ret_warning is set (or NULL) when others may read one with plain keys. No secret is in a message.
 */
int auth_file_read(const char *path, struct auth_list *l, char **ret_warning, struct err *reterr) MUST_CHECK;
int auth_file_parse(struct view text, const char *path, struct auth_list *l, bool *ret_plain,
	struct err *reterr) MUST_CHECK;
/* CORRAL_API_KEYS: "KEY" or "NAME=KEY" or "NAME:SCOPE=KEY", separated by commas. NULL: none. */
int auth_env_parse(const char *text, struct auth_list *l, struct err *reterr) MUST_CHECK;

/* ---- what holds (rules.c) ------------------------------------------------------------------------- */

struct auth_rules {
	atomic_uint refs;
	struct auth_list keys;     /* sorted by digest */
	struct auth_list by_order; /* as they were given */
	struct cidr *trusted;
	size_t ntrusted;
};
/* Of lists[n], the first of those with the same digest; NULL lists are allowed. trusted: checked texts. What
 * `before` (may be NULL) counted of a key whose definition is the same goes on. */
struct auth_rules *auth_rules_new(const struct auth_list *const *lists, size_t n, const struct strv *trusted,
	const struct auth_rules *before) MUST_CHECK;
struct auth_rules *auth_rules_ref(struct auth_rules *r);
void auth_rules_unref(struct auth_rules *r); /* NULL allowed */

/* Whether what the file says now is other than what holds of it. */
bool auth_file_changed(const struct auth_rules *r, const struct auth_list *file);

enum auth_verdict { AUTH_GRANTED, AUTH_NO_KEY, AUTH_BAD_KEY, AUTH_EXPIRED_KEY };
struct auth_asks {
	bool local;              /* a unix socket */
	const unsigned char *ip; /* the peer's own, never what it says */
	struct view bearer;      /* without the scheme; p NULL: none */
	struct view api_key;     /* x-api-key */
};
struct auth_who {
	struct auth_key *key; /* NULL: none was needed; a borrowed reference, valid while the rules are */
	enum auth_scope scope;
};
/* A key that is known decides, wherever it comes from. Without one, a local peer may do all and a trusted one
 * inference; there a key that does not begin as ours is none: clients cannot be kept from sending some. */
enum auth_verdict auth_check(
	const struct auth_rules *r, const struct auth_asks *a, int64_t wall, struct auth_who *ret);
/* The token of "Bearer TOKEN"; p NULL for anything else. */
struct view auth_bearer(struct view authorization);

/* Whether anybody but local peers could be let in: a key, expired or not, or a trusted network. */
static inline bool auth_rules_open(const struct auth_rules *r)
{
	return r->keys.n || r->ntrusted;
}
/* The first of the addresses that is neither loopback nor a unix socket, or NULL. */
const char *auth_exposed(const struct strv *listen);
/* An address that others reach, where nobody could be let in, is a mistake: -EACCES, with the two ways to
 * mend it. config_file: the one that was named with --config, or NULL. */
int auth_exposed_check(const struct strv *listen, const struct strv *trusted, size_t nkeys,
	const char *config_file, struct err *reterr) MUST_CHECK;

/* ---- limits (limits.c) ----------------------------------------------------------------------------- */

/* Two buckets that hold a minute's worth and fill all the time, and a count. A request takes one from the
 * first and a place; its tokens are charged when it is over, since nobody knows them before: the second may
 * run into debt, and requests are refused until that is paid. Nothing here locks or allocates. */
enum auth_limit { AUTH_LIMIT_NONE, AUTH_LIMIT_REQUESTS, AUTH_LIMIT_TOKENS, AUTH_LIMIT_CONCURRENT };
/* NONE: it may run, and auth_key_done is owed. Else which limit, and after how long it may be tried again. */
enum auth_limit auth_key_begin(struct auth_key *k, mono_t now, int64_t *ret_after_ms);
void auth_key_done(struct auth_key *k, uint64_t tokens, mono_t now);
/* x-ratelimit-{limit,remaining,reset}-{requests,tokens}, where there is such a limit. */
void auth_limit_headers(const struct auth_key *k, mono_t now, struct buf *head);

#endif
