/* SPDX-License-Identifier: Apache-2.0
 *
 * Between tls.c and tls_cert.c.
 */
#ifndef NET_TLS_INT_H
#define NET_TLS_INT_H

#include <openssl/ssl.h>

#include "net/tls.h"

SSL_CTX *tls_ctx_new(bool server, struct err *reterr) MUST_CHECK; /* NULL: reterr says why */
const char *tls_reason(void);

/* What connections keep of a server that may go before them. */
struct tls_shared;
void tls_shared_failed(struct tls_shared *s);
void tls_shared_unref(struct tls_shared *s);
/* Takes shared. */
struct sock_layer *tls_accept_layer(SSL_CTX *ctx, struct tls_shared *shared) MUST_CHECK;

#endif
