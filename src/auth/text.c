/* SPDX-License-Identifier: Apache-2.0
 *
 * Keys and limits as people write them. Messages name lines and options, never what could be a secret.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "auth/auth.h"
#include "base/fd.h"
#include "base/mem.h"
#include "base/num.h"

enum { REQUESTS_MAX = 1000000000, CONCURRENT_MAX = 1000000 };
static const uint64_t TOKENS_MAX = 1000000000000;

/* ---- limits, expiry, models ------------------------------------------------------------------------- */

/* "60", "60/min" or "60/m", "2/s" → a minute's */
static int rate_parse(struct view text, uint64_t max, uint64_t *ret)
{
	struct view unit, n = view_split(text, '/', &unit);
	uint64_t factor = view_eqs(unit, "s") || view_eqs(unit, "sec") ? 60 : 1;
	if (unit.p && factor == 1 && !view_eqs(unit, "min") && !view_eqs(unit, "m"))
		return -EINVAL;
	if (num_u64(n, ret) < 0 || !*ret || *ret > max / factor)
		return -EINVAL;
	*ret *= factor;
	return 0;
}

int auth_limit_parse(struct view text, struct auth_limits *l, struct err *reterr)
{
	struct view value, name = view_split(text, '=', &value);
	uint64_t n;
	if (view_eqs(name, "requests") && rate_parse(value, REQUESTS_MAX, &n) == 0)
		l->requests = (uint32_t)n;
	else if (view_eqs(name, "tokens") && rate_parse(value, TOKENS_MAX, &n) == 0)
		l->tokens = n;
	else if (view_eqs(name, "concurrent") && num_u64(value, &n) == 0 && n && n <= CONCURRENT_MAX)
		l->concurrent = (uint32_t)n;
	else
		return err_set(reterr, -EINVAL,
			"found limit \"%.*s\"; accepted: requests=60/min, tokens=100000/min or concurrent=4",
			VIEW_ARG(view_cut(text, 60)));
	return 0;
}

int auth_expiry_parse(struct view text, int64_t wall, int64_t *ret_ms, struct err *reterr)
{
	int64_t ms;
	if (num_duration_ms(text, &ms) == 0 && ms > 0 && ms < (int64_t)100 * 366 * 24 * 3600 * 1000) {
		*ret_ms = wall + ms;
		return 0;
	}
	if (wall_parse(text, ret_ms) == 0 && *ret_ms > 0)
		return 0;
	return err_set(reterr, -EINVAL,
		"found expiry \"%.*s\"; accepted: a time from now, as in 30d or 12h, or a day or time, as in "
		"2027-01-31 or 2027-01-31T12:00:00Z",
		VIEW_ARG(view_cut(text, 60)));
}

int auth_models_parse(struct view text, struct strv *models, struct err *reterr)
{
	for (struct view rest = text; rest.p;) {
		struct view name = view_trim(view_split(rest, ',', &rest));
		if (!auth_model_ok(name))
			return err_set(reterr, -EINVAL,
				"found model \"%.*s\"; accepted: ids or aliases of models, separated by "
				"commas, as in chat,coder",
				VIEW_ARG(view_cut(name, 60)));
		if (models->len == AUTH_MODELS_MAX)
			return err_set(
				reterr, -E2BIG, "a key's list has more than %d models", AUTH_MODELS_MAX);
		strv_addv(models, name);
	}
	return 0;
}

/* ---- the file ---------------------------------------------------------------------------------------- */

static int hex_digest(struct view hex, unsigned char out[AUTH_DIGEST_LEN])
{
	for (size_t i = 0; i < 2 * AUTH_DIGEST_LEN; i++) {
		char c = i < hex.n ? hex.p[i] : '?';
		int v = c >= '0' && c <= '9'                     ? c - '0'
			: (c | 0x20) >= 'a' && (c | 0x20) <= 'f' ? (c | 0x20) - 'a' + 10
								 : -1;
		if (v < 0)
			return -EINVAL;
		out[i / 2] = (unsigned char)(i % 2 ? out[i / 2] | v : v << 4);
	}
	return hex.n == 2 * AUTH_DIGEST_LEN ? 0 : -EINVAL;
}

static int secret_check(struct view s, struct err *reterr)
{
	if (s.n < AUTH_SECRET_MIN)
		return err_set(reterr, -EINVAL,
			"the key has %zu characters, and one of fewer than %d can be guessed; make one with "
			"`corral key create` or `openssl rand -hex 24`",
			s.n, AUTH_SECRET_MIN);
	if (s.n > AUTH_SECRET_MAX)
		return err_set(reterr, -EINVAL, "the key has %zu characters; accepted: at most %d", s.n,
			AUTH_SECRET_MAX);
	return 0;
}

static int set_secret(struct auth_key *k, struct view s, bool *ret_plain, struct err *reterr)
{
	unsigned char digest[AUTH_DIGEST_LEN];
	if (view_starts(s, VIEW("sha256:"))) {
		if (hex_digest(view_from(s, 7), digest))
			return err_set(reterr, -EINVAL,
				"sha256: is followed by 64 hexadecimal digits, as `printf %%s KEY | "
				"sha256sum` prints them");
		auth_key_set_digest(k, digest);
		return 0;
	}
	int r = secret_check(s, reterr);
	if (r)
		return r;
	auth_key_set_secret(k, s);
	*ret_plain = true;
	return 0;
}

static int set_option(struct auth_key *k, struct view word, struct err *reterr)
{
	struct view value, name = view_split(word, '=', &value);
	if (!value.p)
		return err_set(reterr, -EINVAL,
			"there is a word after the key that is no option (it is not shown, for it may be a "
			"secret); accepted: scope=, models=, requests=, tokens=, concurrent=, expires=");
	if (view_eqs(name, "models"))
		return auth_models_parse(value, &k->models, reterr);
	if (view_eqs(name, "requests") || view_eqs(name, "tokens") || view_eqs(name, "concurrent"))
		return auth_limit_parse(word, &k->limits, reterr);
	if (view_eqs(name, "scope")) {
		if (auth_scope_parse(value, &k->scope))
			return 0;
		return err_set(reterr, -EINVAL, "found scope \"%.*s\"; accepted: inference, control or admin",
			VIEW_ARG(view_cut(value, 40)));
	}
	if (view_eqs(name, "expires")) {
		if (wall_parse(value, &k->expires_ms) == 0 && k->expires_ms > 0)
			return 0;
		return err_set(reterr, -EINVAL,
			"found expires \"%.*s\"; accepted: a day or time, as in 2027-01-31 or "
			"2027-01-31T12:00:00Z",
			VIEW_ARG(view_cut(value, 40)));
	}
	return err_set(reterr, -EINVAL,
		"there is no option \"%.*s\"; accepted: scope=, models=, requests=, tokens=, concurrent=, "
		"expires=",
		VIEW_ARG(view_cut(name, 40)));
}

/* The next word of a line; empty at its end. */
static struct view word_of(struct view *rest)
{
	size_t i = 0, n;
	while (i < rest->n && (rest->p[i] == ' ' || rest->p[i] == '\t'))
		i++;
	*rest = view_from(*rest, i);
	for (n = 0; n < rest->n && rest->p[n] != ' ' && rest->p[n] != '\t';)
		n++;
	struct view w = view_cut(*rest, n);
	*rest = view_from(*rest, n);
	return w;
}

/* In quotes or without: a line that is YAML's "name: key" may have them. */
static struct view unquote(struct view s)
{
	bool quoted = s.n >= 2 && (s.p[0] == '"' || s.p[0] == '\'') && s.p[s.n - 1] == s.p[0];
	return quoted ? view_of(s.p + 1, s.n - 2) : s;
}

static int line_parse(struct view line, struct auth_key *k, bool *ret_plain, struct err *reterr)
{
	struct view rest, name = view_trim(view_split(line, ':', &rest));
	if (!rest.p || !auth_name_ok(name))
		return err_set(reterr, -EINVAL,
			"a line is written NAME: KEY, with a name of letters, digits, '.', '_', '-' and '@', "
			"at "
			"most %d",
			AUTH_NAME_MAX);
	memcpy(k->name, name.p, name.n);
	int r = set_secret(k, unquote(word_of(&rest)), ret_plain, reterr);
	for (struct view w; !r && (w = word_of(&rest)).n && w.p[0] != '#';)
		r = set_option(k, w, reterr);
	return r;
}

static const char *taken(const struct auth_list *l, const struct auth_key *k)
{
	for (size_t i = 0; i < l->n; i++) {
		if (strcmp(l->items[i]->name, k->name) == 0)
			return "its name";
		if (memcmp(l->items[i]->digest, k->digest, AUTH_DIGEST_LEN) == 0)
			return "its key";
	}
	return NULL;
}

int auth_file_parse(
	struct view text, const char *path, struct auth_list *l, bool *ret_plain, struct err *reterr)
{
	unsigned number = 0;
	for (struct view rest = text; rest.p;) {
		struct view line = view_split(rest, '\n', &rest);
		number++;
		if (line.n && line.p[line.n - 1] == '\r')
			line.n--;
		line = view_trim(line);
		if (!line.n || line.p[0] == '#' || view_eqs(line, "---"))
			continue;
		AUTO(auth_key_unrefp) struct auth_key *k = auth_key_new();
		k->source = AUTH_FROM_FILE;
		int r = line_parse(line, k, ret_plain, reterr);
		const char *same = r ? NULL : taken(l, k);
		if (same)
			r = err_set(reterr, -EEXIST, "another line has %s already", same);
		if (!r && l->n == AUTH_KEYS_MAX)
			r = err_set(reterr, -E2BIG, "there are more than %d keys", AUTH_KEYS_MAX);
		if (r)
			return err_prefix(reterr, "%.200s:%u", path, number);
		auth_list_add(l, MEM_TAKE(k));
	}
	return 0;
}

int auth_file_read(const char *path, struct auth_list *l, char **ret_warning, struct err *reterr)
{
	AUTO(buf_done) struct buf b = BUF(AUTH_FILE_MAX);
	struct stat st;
	bool plain = false;
	*ret_warning = NULL;
	int r = stat(path, &st) < 0 ? -errno : file_read_regular(path, &b);
	if (r)
		return err_set(reterr, r, "keys_file %.200s cannot be read: %s", path,
			r == -EINVAL  ? "it is no file"
			: r == -EFBIG ? "it is larger than 4 MiB"
				      : strerror(-r));
	if (st.st_mode & (S_IWGRP | S_IWOTH))
		return err_set(reterr, -EPERM,
			"keys_file %.200s may be written by others (mode %04o), who could add a key of their "
			"own; run: chmod 600 %.200s",
			path, (unsigned)st.st_mode & 07777, path);
	r = auth_file_parse(buf_view(&b), path, l, &plain, reterr);
	if (b.data)
		explicit_bzero(b.data, b.len);
	if (!r && plain && st.st_mode & (S_IRGRP | S_IROTH))
		*ret_warning =
			mem_fmt("keys_file %s holds keys in plain and may be read by others (mode %04o); "
				"run: chmod 600 %s, or write sha256: hashes",
				path, (unsigned)st.st_mode & 07777, path);
	return r;
}

/* ---- the environment --------------------------------------------------------------------------------- */

/* "NAME=KEY" and "NAME:SCOPE=KEY", where what stands before is a name and what is behind long enough to be a
 * key: a key of base64 may end in '='. */
static bool named(struct view item, struct auth_key *k, struct view *ret_secret)
{
	struct view secret, scope, who = view_split(item, '=', &secret);
	struct view name = view_split(who, ':', &scope);
	if (secret.n < AUTH_SECRET_MIN || !auth_name_ok(name))
		return false;
	if (scope.p && !auth_scope_parse(scope, &k->scope))
		return false;
	snprintf(k->name, sizeof k->name, "%.*s", VIEW_ARG(name));
	*ret_secret = secret;
	return true;
}

int auth_env_parse(const char *text, struct auth_list *l, struct err *reterr)
{
	unsigned number = 0;
	for (struct view rest = view_str(text); rest.p;) {
		struct view item = view_trim(view_split(rest, ',', &rest)), secret = item;
		number++;
		if (!item.n)
			continue;
		AUTO(auth_key_unrefp) struct auth_key *k = auth_key_new();
		k->source = AUTH_FROM_ENV;
		snprintf(k->name, sizeof k->name, "env-%u", number);
		if (!named(item, k, &secret))
			secret = item;
		int r = secret_check(secret, reterr);
		if (!r)
			auth_key_set_secret(k, secret);
		const char *same = r ? NULL : taken(l, k);
		if (same)
			r = err_set(reterr, -EEXIST, "another one has %s already", same);
		if (!r && l->n == AUTH_KEYS_MAX)
			r = err_set(reterr, -E2BIG, "there are more than %d keys", AUTH_KEYS_MAX);
		if (r)
			return err_prefix(reterr, "CORRAL_API_KEYS, key %u", number);
		auth_list_add(l, MEM_TAKE(k));
	}
	return 0;
}
