/* SPDX-License-Identifier: Apache-2.0 */
#include "http/authority.h"

#include <assert.h>
#include <dirent.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"

const char *authority_path(struct authority *a, const char *file)
{
	static char paths[8][400];
	static unsigned next;
	char *p = paths[next++ % 8];
	snprintf(p, sizeof paths[0], "%s/%s", a->dir, file);
	return p;
}

static X509 *make(EVP_PKEY *key, const char *name, X509 *issuer, EVP_PKEY *signer, long from, long to)
{
	static long serial;
	X509 *x = X509_new();
	X509_set_version(x, 2);
	ASN1_INTEGER_set(X509_get_serialNumber(x), ++serial);
	X509_gmtime_adj(X509_getm_notBefore(x), from);
	X509_gmtime_adj(X509_getm_notAfter(x), to);
	X509_set_pubkey(x, key);
	X509_NAME *n = X509_get_subject_name(x);
	X509_NAME_add_entry_by_txt(n, "CN", MBSTRING_ASC, (const unsigned char *)name, -1, -1, 0);
	X509_set_issuer_name(x, issuer ? X509_get_subject_name(issuer) : n);
	X509V3_CTX ctx;
	X509V3_set_ctx(&ctx, issuer ? issuer : x, x, NULL, NULL, 0);
	X509_EXTENSION *e =
		X509V3_EXT_conf_nid(NULL, &ctx, issuer ? NID_subject_alt_name : NID_basic_constraints,
			issuer ? "DNS:localhost,IP:127.0.0.1" : "critical,CA:TRUE");
	assert(e);
	X509_add_ext(x, e, -1);
	X509_EXTENSION_free(e);
	int r = X509_sign(x, signer, EVP_sha256());
	assert(r > 0);
	(void)r;
	return x;
}

static FILE *open_new(const char *path, mode_t mode)
{
	unlink(path);
	FILE *f = fopen(path, "we");
	assert(f);
	chmod(path, mode);
	return f;
}

void authority_make(struct authority *a)
{
	snprintf(a->dir, sizeof a->dir, "/tmp/corral-tls-XXXXXX");
	if (!mkdtemp(a->dir))
		abort();
	snprintf(a->ca, sizeof a->ca, "%s/ca.pem", a->dir);
	a->key = EVP_EC_gen("P-256");
	a->cert = make(a->key, "Corral test authority", NULL, a->key, -3600, 86400);
	FILE *f = open_new(a->ca, 0644);
	PEM_write_X509(f, a->cert);
	fclose(f);
}

void authority_issue(struct authority *a, const char *name, long from, long to)
{
	char file[64];
	EVP_PKEY *key = EVP_EC_gen("P-256");
	X509 *x = make(key, name, a->cert, a->key, from, to);
	snprintf(file, sizeof file, "%s.pem", name);
	FILE *f = open_new(authority_path(a, file), 0644);
	PEM_write_X509(f, x);
	PEM_write_X509(f, a->cert);
	fclose(f);
	snprintf(file, sizeof file, "%s.key", name);
	f = open_new(authority_path(a, file), 0600);
	PEM_write_PrivateKey(f, key, NULL, NULL, 0, NULL, NULL);
	fclose(f);
	snprintf(file, sizeof file, "%s.enc", name);
	f = open_new(authority_path(a, file), 0600);
	PEM_write_PrivateKey(f, key, EVP_aes_128_cbc(), (const unsigned char *)"secret", 6, NULL, NULL);
	fclose(f);
	X509_free(x);
	EVP_PKEY_free(key);
}

void authority_free(struct authority *a)
{
	DIR *d = opendir(a->dir);
	struct dirent *e;
	while (d && (e = readdir(d)))
		if (e->d_name[0] != '.')
			unlink(authority_path(a, e->d_name));
	if (d)
		closedir(d);
	rmdir(a->dir);
	X509_free(a->cert);
	EVP_PKEY_free(a->key);
}
