/* SPDX-License-Identifier: Apache-2.0
 *
 * Certificates for tests, made with OpenSSL in a folder of their own.
 */
#ifndef TEST_AUTHORITY_H
#define TEST_AUTHORITY_H

#include <openssl/evp.h>
#include <openssl/x509.h>

struct authority {
	EVP_PKEY *key;
	X509 *cert;
	char dir[64], ca[96];
};
/* Writes dir/ca.pem. */
void authority_make(struct authority *a);
void authority_free(struct authority *a); /* with its folder */
/* Writes dir/NAME.pem (the certificate and the authority's), dir/NAME.key (0600) and dir/NAME.enc, the key
 * encrypted, for localhost and 127.0.0.1, holding from `from` to `to` seconds from now. */
void authority_issue(struct authority *a, const char *name, long from, long to);
const char *authority_path(struct authority *a, const char *file); /* valid for eight calls */

#endif
