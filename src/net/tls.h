/* SPDX-License-Identifier: Apache-2.0
 *
 * TLS 1.2 and 1.3 over a struct sock, with OpenSSL, which is not touched before the first certificate is
 * loaded or the first https:// address is connected to. The only file that includes <openssl/ssl.h> is tls.c.
 *
 * No compression, no renegotiation, no early data; forward secrecy and authenticated ciphers alone; ALPN
 * http/1.1; tickets, no session cache. An idle connection gives its record buffers back.
 */
#ifndef NET_TLS_H
#define NET_TLS_H

#include "net/sock.h"

enum { TLS_NAME_MAX = 256, TLS_WARN_DAYS = 14, TLS_PEM_MAX = 1024 * 1024 };

/* ---- serving ------------------------------------------------------------------------------------------- */

/* A certificate with its key, loaded and found to fit. Immutable. */
struct tls_cert;
/* Blocks for two small files. The key must belong to the certificate, be unencrypted, and not be open to
 * everybody. An expired certificate is loaded: tls_cert_warning tells. */
int tls_cert_load(
	const char *cert_path, const char *key_path, struct tls_cert **ret, struct err *reterr) MUST_CHECK;
void tls_cert_free(struct tls_cert *c);
void tls_cert_freep(struct tls_cert **c);                               /* for AUTO(tls_cert_freep) */
bool tls_cert_same(const struct tls_cert *a, const struct tls_cert *b); /* NULL allowed */
int64_t tls_cert_expires(const struct tls_cert *c);                     /* seconds since 1970 */
const char *tls_cert_name(const struct tls_cert *c);                    /* the first name it holds for */
/* A sentence when it has expired, does not hold yet, or expires within TLS_WARN_DAYS; now_s: wall clock. */
bool tls_cert_warning(const struct tls_cert *c, int64_t now_s, struct buf *out);

/* What listening sockets share: the certificate that holds now. From any thread. */
struct tls_server;
struct tls_server *tls_server_new(struct tls_cert *c) MUST_CHECK; /* takes c */
/* New connections get c, which is taken; those that are there go on with what they have. */
void tls_server_use(struct tls_server *s, struct tls_cert *c);
void tls_server_free(struct tls_server *s); /* connections may outlive it, their failures are not counted */
int64_t tls_server_expires(struct tls_server *s);
bool tls_server_warning(struct tls_server *s, int64_t now_s, struct buf *out); /* of the one that holds now */
bool tls_server_has(struct tls_server *s, const struct tls_cert *c);           /* the same one, read again */
uint64_t tls_server_failures(const struct tls_server *s);                      /* handshakes that failed */
/* One accepted connection. A start that meets plain HTTP fails with -EPROTOTYPE. */
struct sock_layer *tls_server_layer(struct tls_server *s) MUST_CHECK;

/* ---- connecting ---------------------------------------------------------------------------------------- */

/* Whom to believe: the system's authorities (SSL_CERT_FILE and SSL_CERT_DIR are honoured). One for the whole
 * process, made with the first reference, gone with the last. From any thread. */
struct tls_client;
struct tls_client *tls_client_ref(struct err *reterr) MUST_CHECK;
void tls_client_unref(struct tls_client *c); /* NULL allowed */
/* host: a name (sent as SNI) or an address; the certificate must hold for it. */
struct sock_layer *tls_client_layer(struct tls_client *c, const char *host) MUST_CHECK;

#endif
