/* SPDX-License-Identifier: Apache-2.0
 *
 * Certificates that are served with, and how they are replaced.
 */
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/fd.h"
#include "base/mem.h"
#include "net/tls_int.h"

enum { DAY_S = 24 * 3600 };

struct tls_cert {
	SSL_CTX *ctx;
	int64_t starts, expires;
	char name[TLS_NAME_MAX];
	char *path;
	unsigned char print[32]; /* SHA-256 of the certificate */
};

/* ---- loading ------------------------------------------------------------------------------------------- */

static int64_t seconds_of(const ASN1_TIME *t)
{
	struct tm tm = { 0 };
	return ASN1_TIME_to_tm(t, &tm) ? (int64_t)timegm(&tm) : 0;
}

static void first_name(X509 *x, char out[TLS_NAME_MAX])
{
	GENERAL_NAMES *names = X509_get_ext_d2i(x, NID_subject_alt_name, NULL, NULL);
	for (int i = 0; names && i < sk_GENERAL_NAME_num(names) && !out[0]; i++) {
		const GENERAL_NAME *n = sk_GENERAL_NAME_value(names, i);
		if (n->type == GEN_DNS)
			snprintf(out, TLS_NAME_MAX, "%.*s", ASN1_STRING_length(n->d.dNSName),
				(const char *)ASN1_STRING_get0_data(n->d.dNSName));
	}
	GENERAL_NAMES_free(names);
	if (!out[0])
		X509_NAME_get_text_by_NID(X509_get_subject_name(x), NID_commonName, out, TLS_NAME_MAX);
	for (char *p = out; *p; p++)
		if ((unsigned char)*p < ' ' || *p == 0x7f)
			*p = '?';
}

static int read_pem(const char *what, const char *path, struct buf *b, struct err *reterr)
{
	int r = file_read_regular(path, b);
	if (r == -EFBIG)
		return err_set(reterr, r, "%s %s is larger than 1 MiB: that is no PEM file", what, path);
	return r ? err_set(reterr, r, "%s %s cannot be read: %s", what, path, strerror(-r)) : 0;
}

/* The first certificate is the server's, the others its chain. */
static int use_chain(SSL_CTX *ctx, const char *path, const struct buf *pem, struct err *reterr)
{
	BIO *bio = BIO_new_mem_buf(pem->data ? pem->data : "", (int)pem->len);
	int n = 0, ok = bio != NULL;
	X509 *x;
	while (ok && (x = PEM_read_bio_X509_AUX(bio, NULL, NULL, NULL))) {
		ok = n++ ? SSL_CTX_add0_chain_cert(ctx, x) == 1 : SSL_CTX_use_certificate(ctx, x) == 1;
		if (n == 1 || !ok)
			X509_free(x);
	}
	BIO_free(bio);
	if (!n)
		return err_set(reterr, -EINVAL,
			"tls.cert %s holds no certificate; it takes a PEM file (-----BEGIN "
			"CERTIFICATE-----), the "
			"server's first, then its chain",
			path);
	return ok ? 0 : err_set(reterr, -EINVAL, "tls.cert %s is refused: %s", path, tls_reason());
}

static int asked_for_password(char *buf, int size, int writing, void *arg)
{
	(void)buf, (void)size, (void)writing;
	*(bool *)arg = true;
	return -1;
}

static int key_is_private(const char *path, struct err *reterr)
{
	struct stat st;
	if (stat(path, &st) < 0)
		return err_set(reterr, -errno, "tls.key %s cannot be read: %s", path, strerror(errno));
	if (st.st_mode & 07)
		return err_set(reterr, -EPERM,
			"tls.key %s is open to everybody on this machine (mode %04o); run: chmod o= %s", path,
			(unsigned)(st.st_mode & 07777), path);
	return 0;
}

static int use_key(
	SSL_CTX *ctx, const char *cert, const char *path, const struct buf *pem, struct err *reterr)
{
	bool encrypted = false;
	BIO *bio = BIO_new_mem_buf(pem->data ? pem->data : "", (int)pem->len);
	EVP_PKEY *k = bio ? PEM_read_bio_PrivateKey(bio, NULL, asked_for_password, &encrypted) : NULL;
	BIO_free(bio);
	int r = 0;
	if (encrypted)
		r = err_set(reterr, -EINVAL,
			"tls.key %s is encrypted, and nobody is there to type its passphrase; write it "
			"without "
			"one: openssl pkey -in %s -out NEW.key",
			path, path);
	else if (!k)
		r = err_set(reterr, -EINVAL,
			"tls.key %s holds no private key; it takes a PEM file (-----BEGIN PRIVATE KEY-----)",
			path);
	else if (X509_check_private_key(SSL_CTX_get0_certificate(ctx), k) != 1)
		r = err_set(reterr, -EINVAL,
			"tls.key %s does not belong to tls.cert %s; the server's own certificate must be the "
			"first in that file",
			path, cert);
	else if (SSL_CTX_use_PrivateKey(ctx, k) != 1)
		r = err_set(reterr, -EINVAL, "tls.key %s is refused: %s", path, tls_reason());
	EVP_PKEY_free(k);
	return r;
}

/* Clients that speak HTTP/2 alone are told so by the handshake. */
static int choose_protocol(SSL *ssl, const unsigned char **out, unsigned char *out_len,
	const unsigned char *in, unsigned int in_len, void *arg)
{
	(void)ssl, (void)arg;
	static const unsigned char ours[] = "\x08http/1.1";
	unsigned char *chosen;
	if (SSL_select_next_proto(&chosen, out_len, ours, sizeof ours - 1, in, in_len) !=
		OPENSSL_NPN_NEGOTIATED)
		return SSL_TLSEXT_ERR_ALERT_FATAL;
	*out = chosen;
	return SSL_TLSEXT_ERR_OK;
}

static int fill(struct tls_cert *c, const char *cert_path, const char *key_path, struct err *reterr)
{
	AUTO(buf_done) struct buf cert = BUF(TLS_PEM_MAX);
	AUTO(buf_done) struct buf key = BUF(TLS_PEM_MAX);
	int r = read_pem("tls.cert", cert_path, &cert, reterr);
	r = r ? r : key_is_private(key_path, reterr);
	r = r ? r : read_pem("tls.key", key_path, &key, reterr);
	if (r)
		return r;
	c->ctx = tls_ctx_new(true, reterr);
	if (!c->ctx)
		return -ENOMEM;
	r = use_chain(c->ctx, cert_path, &cert, reterr);
	r = r ? r : use_key(c->ctx, cert_path, key_path, &key, reterr);
	OPENSSL_cleanse(key.data, key.len);
	if (r)
		return r;
	X509 *x = SSL_CTX_get0_certificate(c->ctx);
	SSL_CTX_set_num_tickets(c->ctx, 1);
	SSL_CTX_set_alpn_select_cb(c->ctx, choose_protocol, NULL);
	SSL_CTX_set_session_id_context(c->ctx, (const unsigned char *)"corral", 6);
	c->starts = seconds_of(X509_get0_notBefore(x));
	c->expires = seconds_of(X509_get0_notAfter(x));
	c->path = mem_strdup(cert_path);
	first_name(x, c->name);
	unsigned n = sizeof c->print;
	return X509_digest(x, EVP_sha256(), c->print, &n)
		       ? 0
		       : err_set(reterr, -EINVAL, "tls.cert %s is refused: %s", cert_path, tls_reason());
}

int tls_cert_load(const char *cert_path, const char *key_path, struct tls_cert **ret, struct err *reterr)
{
	struct tls_cert *c = NEW(struct tls_cert);
	int r = fill(c, cert_path, key_path, reterr);
	ERR_clear_error();
	if (r)
		tls_cert_free(c);
	else
		*ret = c;
	return r;
}

void tls_cert_free(struct tls_cert *c)
{
	if (!c)
		return;
	SSL_CTX_free(c->ctx);
	free(c->path);
	free(c);
}

void tls_cert_freep(struct tls_cert **c)
{
	tls_cert_free(*c);
}

bool tls_cert_same(const struct tls_cert *a, const struct tls_cert *b)
{
	return a && b && memcmp(a->print, b->print, sizeof a->print) == 0;
}

int64_t tls_cert_expires(const struct tls_cert *c)
{
	return c->expires;
}

const char *tls_cert_name(const struct tls_cert *c)
{
	return c->name;
}

bool tls_cert_warning(const struct tls_cert *c, int64_t now_s, struct buf *out)
{
	int64_t days = (c->expires - now_s) / DAY_S;
	if (now_s >= c->expires)
		(void)buf_addf(out,
			"the certificate %s (%s) has expired %lld day%s ago: clients refuse it; put a new "
			"one "
			"there, then run corral config reload",
			c->path, c->name, (long long)-days, days == -1 ? "" : "s");
	else if (now_s < c->starts)
		(void)buf_addf(out,
			"the certificate %s (%s) does not hold yet: clients refuse it; is the clock right?",
			c->path, c->name);
	else if (days < TLS_WARN_DAYS)
		(void)buf_addf(out, "the certificate %s (%s) expires in %lld day%s", c->path, c->name,
			(long long)days, days == 1 ? "" : "s");
	else
		return false;
	return true;
}

/* ---- the one that holds now ------------------------------------------------------------------------ */

struct tls_shared {
	atomic_uint refs;
	_Atomic uint64_t failures;
};

struct tls_server {
	pthread_mutex_t lock; /* of cert; held for a pointer's copy */
	struct tls_cert *cert;
	struct tls_shared *shared;
};

void tls_shared_failed(struct tls_shared *s)
{
	atomic_fetch_add_explicit(&s->failures, 1, memory_order_relaxed);
}

void tls_shared_unref(struct tls_shared *s)
{
	if (atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) == 1)
		free(s);
}

struct tls_server *tls_server_new(struct tls_cert *c)
{
	struct tls_server *s = NEW(struct tls_server);
	pthread_mutex_init(&s->lock, NULL);
	s->cert = c;
	s->shared = NEW(struct tls_shared);
	atomic_init(&s->shared->refs, 1);
	return s;
}

void tls_server_use(struct tls_server *s, struct tls_cert *c)
{
	pthread_mutex_lock(&s->lock);
	struct tls_cert *was = s->cert;
	s->cert = c;
	pthread_mutex_unlock(&s->lock);
	tls_cert_free(was);
}

void tls_server_free(struct tls_server *s)
{
	if (!s)
		return;
	tls_cert_free(s->cert);
	tls_shared_unref(s->shared);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

int64_t tls_server_expires(struct tls_server *s)
{
	pthread_mutex_lock(&s->lock);
	int64_t t = s->cert->expires;
	pthread_mutex_unlock(&s->lock);
	return t;
}

bool tls_server_warning(struct tls_server *s, int64_t now_s, struct buf *out)
{
	pthread_mutex_lock(&s->lock);
	bool any = tls_cert_warning(s->cert, now_s, out);
	pthread_mutex_unlock(&s->lock);
	return any;
}

bool tls_server_has(struct tls_server *s, const struct tls_cert *c)
{
	pthread_mutex_lock(&s->lock);
	bool same = tls_cert_same(s->cert, c);
	pthread_mutex_unlock(&s->lock);
	return same;
}

uint64_t tls_server_failures(const struct tls_server *s)
{
	return atomic_load_explicit(&s->shared->failures, memory_order_relaxed);
}

struct sock_layer *tls_server_layer(struct tls_server *s)
{
	pthread_mutex_lock(&s->lock);
	SSL_CTX *ctx = s->cert->ctx;
	SSL_CTX_up_ref(ctx);
	pthread_mutex_unlock(&s->lock);
	atomic_fetch_add_explicit(&s->shared->refs, 1, memory_order_relaxed);
	struct sock_layer *l = tls_accept_layer(ctx, s->shared);
	SSL_CTX_free(ctx);
	return l;
}
