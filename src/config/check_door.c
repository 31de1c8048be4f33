/* SPDX-License-Identifier: Apache-2.0
 *
 * What clients come in by, besides the addresses: certificates, names, origins. Whether the files are good is
 * for the process that serves with them to say.
 */
#include <ctype.h>

#include "base/cidr.h"
#include "config/config_int.h"

static const struct config_origin *at(const struct loader *ld, const char *key)
{
	return config_origin_of(ld->cfg, NULL, key);
}

static void check_tls(struct loader *ld)
{
	const struct config *c = ld->cfg;
	const char *https = NULL;
	for (size_t i = 0; i < c->listen.len && !https; i++)
		if (view_starts(view_str(c->listen.items[i]), VIEW("https://")))
			https = c->listen.items[i];
	if (c->tls_cert && !c->tls_key)
		load_fail(ld, at(ld, "tls.cert"), "tls.cert",
			"the certificate %.200s needs its private key; name it as tls.key", c->tls_cert);
	else if (c->tls_key && !c->tls_cert)
		load_fail(ld, at(ld, "tls.key"), "tls.key",
			"the key %.200s needs its certificate; name it as tls.cert", c->tls_key);
	else if (https && !c->tls_cert)
		load_fail(ld, at(ld, "listen"), "listen",
			"%.200s needs a certificate; name its files, as in tls: {cert: corral.pem, key: "
			"corral.key}",
			https);
}

/* A name or an address as it stands in Host, without a port. */
static bool host_ok(struct view v)
{
	for (size_t i = 0; i < v.n; i++)
		if (!isalnum((unsigned char)v.p[i]) && !strchr("-_.", v.p[i]))
			return false;
	return v.n > 0 && v.n <= 253 && v.p[0] != '.' && v.p[v.n - 1] != '.';
}

/* scheme://host or scheme://host:port, as browsers write it. */
static bool origin_ok(struct view v)
{
	ssize_t at = view_search(v, VIEW("://"));
	if (at < 1)
		return false;
	struct view rest = view_from(v, (size_t)at + 3);
	for (ssize_t i = 0; i < at; i++)
		if (!isalnum((unsigned char)v.p[i]) && !strchr("+-.", v.p[i]))
			return false;
	for (size_t i = 0; i < rest.n; i++)
		if (!isalnum((unsigned char)rest.p[i]) && !strchr("-_.:[]", rest.p[i]))
			return false;
	return rest.n > 0;
}

static void check_trusted(struct loader *ld)
{
	const struct strv *l = &ld->cfg->auth_trusted;
	for (size_t i = 0; i < l->len; i++) {
		struct cidr c;
		struct err e;
		if (cidr_parse(view_str(l->items[i]), &c, &e))
			load_fail(ld, at(ld, "auth.trusted"), "auth.trusted", "%s", e.msg);
	}
	if (l->len > CONFIG_TRUSTED_MAX)
		load_fail(ld, at(ld, "auth.trusted"), "auth.trusted",
			"found %zu networks; accepted: at most %d", l->len, CONFIG_TRUSTED_MAX);
}

void check_door(struct loader *ld)
{
	const struct config *c = ld->cfg;
	check_tls(ld);
	check_trusted(ld);
	for (size_t i = 0; i < c->hosts.len; i++)
		if (!host_ok(view_str(c->hosts.items[i])))
			load_fail(ld, at(ld, "hosts"), "hosts",
				"found \"%.200s\"; accepted: a name without scheme and port, as in llm.lan",
				c->hosts.items[i]);
	for (size_t i = 0; i < c->cors_origins.len; i++) {
		const char *o = c->cors_origins.items[i];
		if (strcmp(o, "*") != 0 && !origin_ok(view_str(o)))
			load_fail(ld, at(ld, "cors.origins"), "cors.origins",
				"found \"%.200s\"; accepted: an origin without a path, as in "
				"https://chat.example.org or http://localhost:3000, or \"*\"",
				o);
	}
}
