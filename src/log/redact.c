/* SPDX-License-Identifier: Apache-2.0
 *
 * Secrets leave a string before it becomes a line. What is looked for: values of names that mean
 * secrets (name=value, "name": "value", --name value), "Bearer …", and the shapes sk-… and hf_….
 */
#include <ctype.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log/log_int.h"

static EVP_MD *sha256;
static pthread_once_t sha256_once = PTHREAD_ONCE_INIT;

static void sha256_free(void)
{
	EVP_MD_free(sha256);
	sha256 = NULL;
}

static void sha256_fetch(void)
{
	sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
	atexit(sha256_free);
}

void log_redact_token(struct view secret, char out[LOG_TOKEN_LEN + 1])
{
	pthread_once(&sha256_once, sha256_fetch);
	unsigned char md[EVP_MAX_MD_SIZE] = { 0 };
	if (!sha256 || !EVP_Digest(secret.n ? secret.p : "", secret.n, md, NULL, sha256, NULL)) {
		memcpy(out, "token:??????", LOG_TOKEN_LEN + 1);
		return;
	}
	snprintf(out, LOG_TOKEN_LEN + 1, "token:%02x%02x%02x", md[0], md[1], md[2]);
}

bool log_key_is_secret(struct view key)
{
	static const char *const names[] = { "key", "token", "secret", "password", "passwd", "passphrase",
		"authorization", "apikey", "cookie", "credential", "credentials" };
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		struct view name = view_str(names[i]);
		if (key.n < name.n || !view_eq_ci(view_from(key, key.n - name.n), name))
			continue;
		char before = key.n > name.n ? key.p[key.n - name.n - 1] : '_';
		if (before == '_' || before == '-' || before == '.')
			return true;
	}
	return false;
}

static bool word_char(char c)
{
	return isalnum((unsigned char)c) || c == '_' || c == '-';
}

static bool value_char(char c)
{
	return (unsigned char)c > ' ' && !strchr("\"'`,;&)}]<>", c);
}

static size_t run_of(struct view v, bool (*in)(char))
{
	size_t n = 0;
	while (n < v.n && in(v.p[n]))
		n++;
	return n;
}

static bool starts_ci(struct view v, const char *prefix)
{
	return view_eq_ci(view_cut(v, strlen(prefix)), view_str(prefix));
}

static bool is_token(struct view v)
{
	return v.n == LOG_TOKEN_LEN && view_starts(v, VIEW("token:"));
}

/* Length of "Bearer " or "Basic " with its spaces at the start of v, 0 when there is none. */
static size_t scheme_len(struct view v)
{
	size_t n = starts_ci(v, "bearer ") ? 7 : starts_ci(v, "basic ") ? 6 : 0;
	while (n && n < v.n && v.p[n] == ' ')
		n++;
	return n;
}

/* Where the value of the name that fills v's first n bytes starts, 0 when no value follows. */
static size_t value_start(struct view v, size_t n)
{
	struct view name = view_cut(v, n);
	bool option = view_starts(name, VIEW("--"));
	while (name.n && name.p[0] == '-')
		name = view_from(name, 1);
	if (!log_key_is_secret(name))
		return 0;
	size_t i = n;
	bool quoted = i < v.n && (v.p[i] == '"' || v.p[i] == '\'');
	if (quoted)
		i++;
	if (i >= v.n)
		return 0;
	/* "token: expected" is English; `"token": …` and "api_key: …" are not. */
	bool plain = view_eqs(name, "key") || view_eqs(name, "token");
	if (v.p[i] == ':' && plain && !quoted)
		return 0;
	if (v.p[i] != '=' && v.p[i] != ':' && !(option && v.p[i] == ' '))
		return 0;
	bool spaces = v.p[i] != '=';
	i++;
	while (spaces && i < v.n && v.p[i] == ' ')
		i++;
	if (i < v.n && (v.p[i] == '"' || v.p[i] == '\''))
		i++;
	return i;
}

/* Looks for a secret at a word's start. Returns its length and how many bytes to keep before it. */
static size_t secret_at(struct view v, size_t *ret_keep)
{
	size_t word = run_of(v, word_char);
	size_t keep = scheme_len(v);
	if (keep) {
		*ret_keep = keep;
		return run_of(view_from(v, keep), value_char);
	}
	if (word >= 3 + 8 && (view_starts(v, VIEW("sk-")) || view_starts(v, VIEW("hf_")))) {
		*ret_keep = 0;
		return word;
	}
	keep = value_start(v, word);
	if (!keep)
		return 0;
	keep += scheme_len(view_from(v, keep));
	*ret_keep = keep;
	return run_of(view_from(v, keep), value_char);
}

static int add_secret(struct buf *out, struct view secret)
{
	if (is_token(secret))
		return buf_addv(out, secret);
	char token[LOG_TOKEN_LEN + 1];
	log_redact_token(secret, token);
	return buf_adds(out, token);
}

static struct view cut_at_char(struct view v, size_t max)
{
	if (v.n <= max)
		return v;
	while (max && ((unsigned char)v.p[max] & 0xc0) == 0x80)
		max--;
	return view_cut(v, max);
}

int log_redact(struct buf *out, struct view in)
{
	struct view v = cut_at_char(in, LOG_STRING_MAX);
	size_t done = 0, i = 0;
	int r = 0;
	while (!r && i < v.n) {
		if (!word_char(in.p[i])) {
			i++;
			continue;
		}
		size_t keep = 0;
		/* Looked for in the whole input: the cut must not leave the first half of a secret. */
		size_t n = secret_at(view_from(in, i), &keep);
		if (n) {
			r = buf_add(out, in.p + done, i + keep - done);
			if (!r)
				r = add_secret(out, view_cut(view_from(in, i + keep), n));
			done = i = i + keep + n;
		} else {
			i += run_of(view_from(in, i), word_char);
		}
	}
	if (!r && done < v.n)
		r = buf_add(out, v.p + done, v.n - done);
	if (!r && v.n < in.n)
		r = buf_adds(out, "…");
	return r;
}
