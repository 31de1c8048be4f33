/* SPDX-License-Identifier: Apache-2.0
 *
 * AWS Signature Version 4 in the query of a URL ("presigned"): good for days, where a signed header is good
 * for fifteen minutes, which a large file outlasts.
 */
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "provision/model/want_job_int.h"

struct mac {
	unsigned char bytes[32];
};

char *want_sha256_hex(struct view v)
{
	unsigned char md[EVP_MAX_MD_SIZE];
	unsigned n = 0;
	if (!EVP_Digest(v.p ? v.p : "", v.n, md, &n, EVP_sha256(), NULL) || n != 32)
		return NULL;
	char *out = mem_alloc(65);
	for (unsigned i = 0; i < n; i++)
		snprintf(out + 2 * i, 3, "%02x", md[i]);
	return out;
}

static bool hmac(const void *key, size_t nkey, const char *text, struct mac *ret)
{
	unsigned n = 0;
	return HMAC(EVP_sha256(), key, (int)nkey, (const unsigned char *)text, strlen(text), ret->bytes,
		       &n) &&
	       n == sizeof ret->bytes;
}

static char *signature(const struct want_sign *q, const char *day, const char *to_sign)
{
	AUTO(mem_freep) char *first = mem_fmt("AWS4%s", q->secret);
	struct mac m;
	bool ok = hmac(first, strlen(first), day, &m) && hmac(m.bytes, sizeof m.bytes, q->region, &m) &&
		  hmac(m.bytes, sizeof m.bytes, "s3", &m) &&
		  hmac(m.bytes, sizeof m.bytes, "aws4_request", &m) &&
		  hmac(m.bytes, sizeof m.bytes, to_sign, &m);
	explicit_bzero(first, strlen(first));
	if (!ok)
		return NULL;
	char *out = mem_alloc(65);
	for (size_t i = 0; i < sizeof m.bytes; i++)
		snprintf(out + 2 * i, 3, "%02x", m.bytes[i]);
	return out;
}

char *want_sign_query(const struct want_sign *q, unsigned seconds)
{
	char when[24], day[16];
	struct tm t;
	time_t at = (time_t)q->unix_time;
	if (!gmtime_r(&at, &t) || !strftime(when, sizeof when, "%Y%m%dT%H%M%SZ", &t) ||
		!strftime(day, sizeof day, "%Y%m%d", &t))
		return NULL;
	AUTO(mem_freep) char *scope = mem_fmt("%s/%s/s3/aws4_request", day, q->region);
	AUTO(mem_freep) char *credential = mem_fmt("%s/%s", q->key, scope);
	AUTO(mem_freep) char *escaped = want_escaped(view_str(credential), false);
	AUTO(mem_freep) char *token = q->session ? want_escaped(view_str(q->session), false) : NULL;
	/* in the order of the names, as it is signed */
	AUTO(mem_freep)
	char *query =
		mem_fmt("X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=%s&X-Amz-Date=%s&X-Amz-Expires=%u"
			"%s%s&X-Amz-SignedHeaders=host%s%s",
			escaped, when, seconds, token ? "&X-Amz-Security-Token=" : "", token ? token : "",
			q->query ? "&" : "", q->query ? q->query : "");
	AUTO(mem_freep)
	char *request =
		mem_fmt("%s\n%s\n%s\nhost:%s\n\nhost\nUNSIGNED-PAYLOAD", q->method, q->path, query, q->host);
	AUTO(mem_freep) char *hash = want_sha256_hex(view_str(request));
	if (!hash)
		return NULL;
	AUTO(mem_freep) char *to_sign = mem_fmt("AWS4-HMAC-SHA256\n%s\n%s\n%s", when, scope, hash);
	AUTO(mem_freep) char *sig = signature(q, day, to_sign);
	return sig ? mem_fmt("%s&X-Amz-Signature=%s", query, sig) : NULL;
}
