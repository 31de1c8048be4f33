/* SPDX-License-Identifier: Apache-2.0
 *
 * One connection's TLS, and what both sides set up alike. Certificates are in tls_cert.c.
 */
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/mem.h"
#include "net/tls_int.h"

enum { RECORD_MAX = 16 * 1024 };

struct tls {
	struct sock_layer layer;
	SSL *ssl;
	struct tls_shared *shared; /* serving: where failures are counted; a reference */
	char *why;
	bool looked, started, ended, broken;
	bool untold; /* the end came with the last bytes; nothing but read tells of it */
};

static struct tls *tls_of(struct sock_layer *l)
{
	return LIST_ENTRY(l, struct tls, layer);
}

/* ---- set up once ------------------------------------------------------------------------------------- */

SSL_CTX *tls_ctx_new(bool server, struct err *reterr)
{
	SSL_CTX *x = SSL_CTX_new(server ? TLS_server_method() : TLS_client_method());
	if (!x) {
		err_set(reterr, -ENOMEM, "OpenSSL cannot be set up: %s", tls_reason());
		return NULL;
	}
	SSL_CTX_set_min_proto_version(x, TLS1_2_VERSION);
	SSL_CTX_set_cipher_list(x, "ECDHE+AESGCM:ECDHE+CHACHA20:!PSK:!SRP");
	SSL_CTX_set_options(
		x, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION |
			   (server ? SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA : 0));
	SSL_CTX_set_mode(x, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
				    SSL_MODE_RELEASE_BUFFERS);
	SSL_CTX_set_session_cache_mode(x, SSL_SESS_CACHE_OFF);
	return x;
}

/* What the thread's last error says, in OpenSSL's words. */
const char *tls_reason(void)
{
	unsigned long e = ERR_peek_last_error();
	const char *s = e ? ERR_reason_error_string(e) : NULL;
	return s ? s : "no reason given";
}

/* ---- the handshake ----------------------------------------------------------------------------------- */

/* The first bytes of something that is no TLS: a method's name. */
static bool is_plain_http(int fd)
{
	char b[4];
	ssize_t n = recv(fd, b, sizeof b, MSG_PEEK);
	if (n < 1)
		return false;
	for (ssize_t i = 0; i < n; i++)
		if (b[i] < 'A' || b[i] > 'Z')
			return i == 3 && b[i] == ' '; /* "GET ", "PUT " */
	return true;
}

static void set_why(struct tls *t, char *why)
{
	free(t->why);
	t->why = why;
	t->layer.why = why;
}

static int handshake_failed(struct tls *t, int error)
{
	t->broken = true;
	if (t->shared)
		tls_shared_failed(t->shared);
	long v = SSL_get_verify_result(t->ssl);
	if (!t->shared && v != X509_V_OK)
		set_why(t, mem_fmt("its certificate is not believed: %s", X509_verify_cert_error_string(v)));
	else if (ERR_peek_last_error())
		set_why(t, mem_fmt("the TLS handshake failed: %s", tls_reason()));
	else
		set_why(t, mem_strdup("the connection was closed during the TLS handshake"));
	ERR_clear_error();
	return error;
}

static int tls_start(struct sock_layer *l, int fd, int *ret_wants)
{
	struct tls *t = tls_of(l);
	if (!t->looked) {
		t->looked = true;
		if (t->shared && is_plain_http(fd)) {
			t->broken = true;
			tls_shared_failed(t->shared);
			set_why(t, mem_strdup("this port speaks https"));
			return -EPROTOTYPE;
		}
		if (!SSL_set_fd(t->ssl, fd))
			return handshake_failed(t, -ENOMEM);
	}
	ERR_clear_error();
	int r = SSL_do_handshake(t->ssl);
	if (r == 1) {
		t->started = true;
		return 0;
	}
	switch (SSL_get_error(t->ssl, r)) {
	case SSL_ERROR_WANT_READ: *ret_wants = LOOP_READ; return -EAGAIN;
	case SSL_ERROR_WANT_WRITE: *ret_wants = LOOP_WRITE; return -EAGAIN;
	default: return handshake_failed(t, -EPROTO);
	}
}

/* ---- bytes --------------------------------------------------------------------------------------------- */

/* Of an operation that gave r ≤ 0. A connection that ends without a word of farewell may be cut off. */
static ssize_t tls_error(struct tls *t, int r)
{
	int system = errno;
	switch (SSL_get_error(t->ssl, r)) {
	case SSL_ERROR_ZERO_RETURN: return 0;
	case SSL_ERROR_WANT_READ: return -EAGAIN;
	case SSL_ERROR_WANT_WRITE: return -EBUSY;
	case SSL_ERROR_SYSCALL: t->broken = true; return system == EPIPE ? -EPIPE : -ECONNRESET;
	default:
		t->broken = true;
		ERR_clear_error();
		return -ECONNRESET;
	}
}

static ssize_t tls_read(struct sock_layer *l, void *p, size_t n)
{
	struct tls *t = tls_of(l);
	size_t got = 0;
	t->untold = false;
	if (t->broken)
		return -ECONNRESET;
	/* A record a call; after a full one the next is likely there. */
	do {
		size_t k = 0;
		ERR_clear_error();
		int r = SSL_read_ex(t->ssl, (char *)p + got, n - got, &k);
		if (r <= 0) {
			ssize_t e = tls_error(t, r); /* comes again with the next call */
			t->untold = got && e != -EAGAIN && e != -EBUSY;
			return got ? (ssize_t)got : e;
		}
		got += k;
		if (k < RECORD_MAX)
			break;
	} while (n - got >= RECORD_MAX);
	return (ssize_t)got;
}

/* What could not be sent is given again, the same bytes first: OpenSSL has encrypted them already. */
static ssize_t tls_write(struct sock_layer *l, const void *p, size_t n)
{
	struct tls *t = tls_of(l);
	size_t k = 0;
	if (t->broken)
		return -ECONNRESET;
	ERR_clear_error();
	int r = SSL_write_ex(t->ssl, p, MIN(n, (size_t)RECORD_MAX), &k);
	if (r > 0)
		return (ssize_t)k;
	ssize_t e = tls_error(t, r);
	if (e == -EBUSY)
		return -EAGAIN;
	if (e == 0 ||
		e == -EAGAIN) { /* waits for the peer in the middle of a write: never without renegotiation */
		t->broken = true;
		return -EPIPE;
	}
	return e;
}

static bool tls_pending(const struct sock_layer *l)
{
	const struct tls *t = LIST_ENTRY((struct sock_layer *)(uintptr_t)l, struct tls, layer);
	return t->untold || SSL_pending(t->ssl) > 0;
}

static void tls_end(struct sock_layer *l)
{
	struct tls *t = tls_of(l);
	if (t->ended || t->broken || !t->started)
		return;
	t->ended = true;
	ERR_clear_error();
	(void)SSL_shutdown(t->ssl);
	ERR_clear_error();
}

static void tls_free(struct sock_layer *l)
{
	struct tls *t = tls_of(l);
	SSL_free(t->ssl);
	if (t->shared)
		tls_shared_unref(t->shared);
	free(t->why);
	free(t);
}

static const struct sock_layer_ops tls_ops = {
	.start = tls_start,
	.read = tls_read,
	.write = tls_write,
	.pending = tls_pending,
	.end = tls_end,
	.free = tls_free,
};

static struct tls *tls_new(SSL_CTX *ctx)
{
	struct tls *t = NEW(struct tls);
	t->layer.ops = &tls_ops;
	t->ssl = SSL_new(ctx);
	if (!t->ssl)
		abort(); /* memory is gone */
	return t;
}

struct sock_layer *tls_accept_layer(SSL_CTX *ctx, struct tls_shared *shared)
{
	struct tls *t = tls_new(ctx);
	t->shared = shared;
	SSL_set_accept_state(t->ssl);
	return &t->layer;
}

/* ---- connecting ------------------------------------------------------------------------------------- */

struct tls_client {
	unsigned refs;
	SSL_CTX *ctx;
};
static pthread_mutex_t client_lock = PTHREAD_MUTEX_INITIALIZER; /* of the next */
static struct tls_client *the_client;

/* Where other systems keep theirs, for a program that was built on one and runs on another. */
static void add_system_ca(SSL_CTX *x)
{
	static const char *const files[] = { "/etc/ssl/certs/ca-certificates.crt",
		"/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem" };
	SSL_CTX_set_default_verify_paths(x);
	if (getenv(X509_get_default_cert_file_env()) || getenv(X509_get_default_cert_dir_env()) ||
		access(X509_get_default_cert_dir(), R_OK) == 0)
		return;
	for (size_t i = 0; i < ARRAY_LEN(files); i++)
		if (SSL_CTX_load_verify_file(x, files[i]))
			return;
}

static struct tls_client *client_new(struct err *reterr)
{
	SSL_CTX *x = tls_ctx_new(false, reterr);
	if (!x)
		return NULL;
	SSL_CTX_set_verify(x, SSL_VERIFY_PEER, NULL);
	add_system_ca(x);
	ERR_clear_error();
	struct tls_client *c = NEW(struct tls_client);
	c->ctx = x;
	return c;
}

struct tls_client *tls_client_ref(struct err *reterr)
{
	pthread_mutex_lock(&client_lock);
	if (!the_client)
		the_client = client_new(reterr);
	struct tls_client *c = the_client;
	if (c)
		c->refs++;
	pthread_mutex_unlock(&client_lock);
	return c;
}

void tls_client_unref(struct tls_client *c)
{
	if (!c)
		return;
	pthread_mutex_lock(&client_lock);
	bool last = --c->refs == 0;
	if (last)
		the_client = NULL;
	pthread_mutex_unlock(&client_lock);
	if (!last)
		return;
	SSL_CTX_free(c->ctx);
	free(c);
}

struct sock_layer *tls_client_layer(struct tls_client *c, const char *host)
{
	struct tls *t = tls_new(c->ctx);
	static const unsigned char alpn[] = "\x08http/1.1";
	t->layer.speaks_first = true;
	SSL_set_connect_state(t->ssl);
	SSL_set_alpn_protos(t->ssl, alpn, sizeof alpn - 1);
	X509_VERIFY_PARAM *v = SSL_get0_param(t->ssl);
	X509_VERIFY_PARAM_set_hostflags(v, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
	if (X509_VERIFY_PARAM_set1_ip_asc(v, host) != 1) {
		ERR_clear_error();
		SSL_set1_host(t->ssl, host);
		SSL_set_tlsext_host_name(t->ssl, host);
	}
	return &t->layer;
}
