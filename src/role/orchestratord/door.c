/* SPDX-License-Identifier: Apache-2.0
 *
 * What clients come in by: the listening sockets, and the certificate of those that speak TLS. The sockets
 * are bound once, at the start; the certificate is read again with every reload of the configuration.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "log/log.h"
#include "role/orchestratord/orch_int.h"

enum { LOOK_AGAIN_MS = 24 * 3600 * 1000, LINE_MAX_BYTES = 2048 };

/* ---- listening ----------------------------------------------------------------------------------------- */

/* "/run/x.sock?mode=0660"; the configuration was checked. */
static mode_t take_mode(struct view *text)
{
	struct view mode = { 0 };
	mode_t m = 0;
	if (view_starts(*text, VIEW("unix:")) || view_starts(*text, VIEW("/")))
		*text = view_split(*text, '?', &mode);
	for (size_t i = strlen("mode="); i < mode.n; i++)
		m = m << 3 | (mode_t)(mode.p[i] - '0');
	return mode.n ? m : 0600;
}

static int listen_one(struct orch *o, const char *entry, struct err *e)
{
	struct net_addr a;
	char url[NET_ADDR_TEXT + 16];
	struct view text = view_str(entry);
	mode_t mode = take_mode(&text);
	if (o->nlisten == LISTEN_MAX)
		return err_set(e, -E2BIG, "`listen` names more than %d addresses", LISTEN_MAX - 1);
	int r = net_addr_parse(text, &a, e);
	r = r ? r : net_listen(&a, mode, &o->listen_fds[o->nlisten], e);
	if (r)
		return r; /* it names the address */
	bool tls = a.tls;
	if (a.kind == NET_TCP && net_addr_of_socket(o->listen_fds[o->nlisten], &a) < 0)
		return err_set(e, -EIO, "the address listened on cannot be read");
	a.tls = o->listen_tls[o->nlisten] = tls;
	net_addr_url(&a, url, sizeof url);
	if (!tls && !net_addr_loopback(&a))
		log_warn("listen", "corral",
			"%s is not encrypted: what clients send, keys too, can be read on the way; https:// "
			"with `tls.cert` cannot.",
			url);
	o->listen_urls[o->nlisten++] = mem_strdup(url);
	return 0;
}

static bool needs_certificate(const struct config *c)
{
	for (size_t i = 0; i < c->listen.len; i++)
		if (view_starts(view_str(c->listen.items[i]), VIEW("https://")))
			return true;
	return false;
}

/* ---- the certificate ----------------------------------------------------------------------------------- */

static void warn_certificate(const struct tls_cert *c)
{
	AUTO(buf_done) struct buf b = BUF(LINE_MAX_BYTES);
	if (tls_cert_warning(c, wall_ms() / 1000, &b))
		log_warn("tls", "corral", "tls: %s.", buf_str(&b));
}

/* A daemon that runs for months is to be heard before its clients are. */
static void look_again(void *arg)
{
	struct orch *o = arg;
	AUTO(buf_done) struct buf b = BUF(LINE_MAX_BYTES);
	if (tls_server_warning(o->tls, wall_ms() / 1000, &b))
		log_warn("tls", "corral", "tls: %s.", buf_str(&b));
	loop_timer_start(o->loop, &o->tls_look, LOOK_AGAIN_MS, look_again, o);
}

int door_open(struct orch *o, struct err *e)
{
	const struct config *c = o->config;
	gethostname(o->hostname, sizeof o->hostname - 1);
	if (needs_certificate(c)) {
		struct tls_cert *cert = NULL;
		int r = tls_cert_load(c->tls_cert, c->tls_key, &cert, e);
		if (r)
			return r;
		warn_certificate(cert);
		o->tls = tls_server_new(cert);
		loop_timer_start(o->loop, &o->tls_look, LOOK_AGAIN_MS, look_again, o);
	} else if (c->tls_cert) {
		log_warn("tls", "corral",
			"tls.cert is set, and no address in `listen` begins with https://: nothing is "
			"encrypted.");
	}
	for (size_t i = 0; i < c->listen.len; i++) {
		int r = listen_one(o, c->listen.items[i], e);
		if (r)
			return r;
	}
	AUTO(mem_freep) char *own = path_join(c->runtime_dir, "corral.sock");
	return listen_one(o, own, e);
}

void door_close(struct orch *o)
{
	for (size_t i = 0; i < o->nlisten; i++) {
		fd_close(o->listen_fds[i]);
		if (strncmp(o->listen_urls[i], "unix:", 5) == 0)
			unlink(o->listen_urls[i] + 5);
		free(o->listen_urls[i]);
	}
	loop_timer_stop(&o->tls_look);
}

/* ---- a reload ------------------------------------------------------------------------------------------ */

/* As a change of the configuration, which it is to whoever asks for a reload. */
static void add_change(const struct tls_cert *c, struct config_diff *d)
{
	long long days = (tls_cert_expires(c) - wall_ms() / 1000) / 86400;
	config_diff_add(d, CONFIG_TOP_LIVE, NULL, mem_strdup("tls.cert"),
		mem_fmt("New connections get the new certificate (%s), which holds for %lld days; those that "
			"are there go on.",
			tls_cert_name(c), days));
}

struct tls_cert *door_read(
	const struct config *c, struct tls_server *tls, struct config_errors *warnings, struct config_diff *d)
{
	struct tls_cert *cert = NULL;
	struct err e = { 0 };
	AUTO(buf_done) struct buf b = BUF(LINE_MAX_BYTES);
	if (!c->tls_cert)
		return NULL;
	if (tls_cert_load(c->tls_cert, c->tls_key, &cert, &e))
		(void)buf_addf(&b, "%s%s", e.msg,
			tls ? "; the certificate that was read before goes on being used" : "");
	else
		(void)tls_cert_warning(cert, wall_ms() / 1000, &b);
	if (b.len)
		config_errors_add(warnings, config_origin_of(c, NULL, "tls.cert"), "tls", buf_str(&b));
	if (cert && tls && !tls_server_has(tls, cert))
		add_change(cert, d);
	return cert;
}

void door_take(struct orch *o, struct tls_cert *c)
{
	if (c && o->tls)
		tls_server_use(o->tls, c); /* the same one too: its chain may be another */
	else
		tls_cert_free(c); /* no socket speaks TLS before the next start */
}

void door_collect(struct orch *o, struct metrics *m)
{
	if (!o->tls)
		return;
	metric_set(metrics_series(m, "corral_tls_certificate_expiry_timestamp_seconds", NULL),
		(double)tls_server_expires(o->tls));
	struct metric_series *s = metrics_series(m, "corral_tls_handshake_failures_total", NULL);
	metric_add(s, tls_server_failures(o->tls) - metric_value(s));
}
