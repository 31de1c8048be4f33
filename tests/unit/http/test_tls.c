/* SPDX-License-Identifier: Apache-2.0
 *
 * TLS: our server against our client, and against OpenSSL's on a thread of its own.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "http/authority.h"
#include "http/client.h"
#include "http/server.h"
#include "net/tls.h"

enum { DEADLINE_MS = 60000, DAY = 86400, BIG = 24 * 1024 * 1024 };

struct world {
	struct authority ca;
	struct loop *loop;
	struct http_server *server;
	struct tls_server *tls;
	struct loop_timer deadline;
	struct net_addr addr;
	int listen_fd, requests, gones;
	char url[64];
	/* the peer's thread */
	pthread_t thread;
	void (*peer)(struct world *w);
	char said[256];    /* what the peer got first */
	char subject[128]; /* of the certificate the peer saw */
	long error;
};

/* ---- a server that echoes what it is sent ------------------------------------------------------------ */

struct echo {
	struct world *w;
	struct http_exchange *x;
	bool waits;
};

static void echo_body(void *arg, struct view v)
{
	struct echo *e = arg;
	if (http_started_response(e->x) && http_body(e->x, v)) {
		e->waits = true;
		http_pause_body(e->x);
	}
}

static void echo_drained(void *arg)
{
	struct echo *e = arg;
	if (e->waits)
		http_resume_body(e->x);
	e->waits = false;
}

static void echo_end(void *arg)
{
	struct echo *e = arg;
	if (view_eqs(http_path(e->x), "/hold"))
		return;
	http_end(e->x);
	free(e);
}

static void echo_gone(void *arg)
{
	struct echo *e = arg;
	e->w->gones++;
	loop_stop(e->w->loop);
	free(e);
}

static const struct http_handler echo_handler = { echo_body, echo_end, echo_drained, echo_gone };

static void on_request(void *arg, struct http_exchange *x)
{
	struct world *w = arg;
	w->requests++;
	assert_true(http_peer(x)->is_tls);
	if (view_eqs(http_path(x), "/big")) {
		char *big = mem_alloc(BIG);
		memset(big, 'b', BIG);
		http_reply(x, 200, "text/plain", NULL, view_of(big, BIG));
		free(big);
		return;
	}
	if (http_method(x) == HTTP_M_GET) {
		http_reply(x, 200, "text/plain", NULL, VIEW("now"));
		return;
	}
	struct echo *e = NEW(struct echo);
	e->w = w;
	e->x = x;
	http_handle(x, &echo_handler, e);
	if (!view_eqs(http_path(x), "/hold"))
		http_start(x, 200, NULL, http_content_length(x));
}

static void timed_out(void *arg)
{
	(void)arg;
	fail_msg("the event waited for did not come");
}

static struct tls_cert *cert(struct world *w, const char *name)
{
	char pem[64], key[64];
	struct tls_cert *c = NULL;
	struct err e = { 0 };
	snprintf(pem, sizeof pem, "%s.pem", name);
	snprintf(key, sizeof key, "%s.key", name);
	int r = tls_cert_load(authority_path(&w->ca, pem), authority_path(&w->ca, key), &c, &e);
	if (r)
		fail_msg("%s", e.msg);
	return c;
}

static void start(struct world *w, const struct http_server_opts *o)
{
	w->server = http_server_new(w->loop, o);
	assert_int_equal(net_addr_parse(VIEW("127.0.0.1:0"), &w->addr, NULL), 0);
	assert_int_equal(net_listen(&w->addr, 0600, &w->listen_fd, NULL), 0);
	assert_int_equal(net_addr_of_socket(w->listen_fd, &w->addr), 0);
	snprintf(w->url, sizeof w->url, "https://localhost:%u", w->addr.port);
	assert_int_equal(http_server_listen_tls(w->server, w->listen_fd, w->tls), 0);
}

static int set_up(void **state)
{
	struct world *w = NEW(struct world);
	authority_make(&w->ca);
	setenv("SSL_CERT_FILE", w->ca.ca, 1);
	authority_issue(&w->ca, "first", -60, 90 * DAY);
	authority_issue(&w->ca, "second", -60, 90 * DAY);
	w->loop = loop_new("test");
	w->tls = tls_server_new(cert(w, "first"));
	struct http_server_opts o = { HTTP_SERVER_DEFAULTS, .on_request = on_request, .arg = w };
	start(w, &o);
	loop_timer_start(w->loop, &w->deadline, DEADLINE_MS, timed_out, w);
	*state = w;
	return 0;
}

static int tear_down(void **state)
{
	struct world *w = *state;
	loop_timer_stop(&w->deadline);
	http_server_free(w->server);
	loop_free(w->loop);
	tls_server_free(w->tls);
	close(w->listen_fd);
	authority_free(&w->ca);
	free(w);
	return 0;
}

/* ---- certificates ------------------------------------------------------------------------------------ */

static void refused(struct world *w, const char *pem, const char *key, const char *why)
{
	struct tls_cert *c = NULL;
	struct err e = { 0 };
	assert_int_not_equal(
		tls_cert_load(authority_path(&w->ca, pem), authority_path(&w->ca, key), &c, &e), 0);
	assert_null(c);
	if (!strstr(e.msg, why))
		fail_msg("\"%s\" does not say \"%s\"", e.msg, why);
}

static void says_what_is_wrong_with_a_certificate(void **state)
{
	struct world *w = *state;
	refused(w, "none.pem", "first.key", "none.pem cannot be read: No such file");
	refused(w, "first.pem", "none.key", "none.key cannot be read: No such file");
	refused(w, "first.key", "first.key", "first.key holds no certificate");
	refused(w, "first.pem", "ca.pem", "chmod o=");
	chmod(authority_path(&w->ca, "ca.pem"), 0600);
	refused(w, "first.pem", "ca.pem", "ca.pem holds no private key");
	refused(w, "first.pem", "first.enc", "is encrypted");
	refused(w, "first.pem", "second.key", "does not belong to tls.cert");
	chmod(authority_path(&w->ca, "first.key"), 0604);
	refused(w, "first.pem", "first.key", "is open to everybody on this machine (mode 0604)");
	chmod(authority_path(&w->ca, "first.key"), 0640); /* a group of its own is common */
	tls_cert_free(cert(w, "first"));
	mkfifo(authority_path(&w->ca, "pipe"), 0600);
	refused(w, "pipe", "first.key", "pipe cannot be read");
}

static void says_when_a_certificate_ends(void **state)
{
	struct world *w = *state;
	authority_issue(&w->ca, "old", -10 * DAY, -2 * DAY);
	authority_issue(&w->ca, "soon", -60, 5 * DAY + 600);
	authority_issue(&w->ca, "later", 2 * DAY, 90 * DAY);
	static const struct {
		const char *name, *says;
	} rows[] = { { "old", "old.pem (localhost) has expired 2 days ago" },
		{ "soon", "soon.pem (localhost) expires in 5 days" }, { "later", "does not hold yet" },
		{ "first", NULL } };
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct tls_cert *c = cert(w, rows[i].name);
		AUTO(buf_done) struct buf b = BUF(KIB);
		assert_int_equal(tls_cert_warning(c, wall_ms() / 1000, &b), rows[i].says != NULL);
		if (rows[i].says && !strstr(buf_str(&b), rows[i].says))
			fail_msg("%s", buf_str(&b));
		tls_cert_free(c);
	}
}

/* ---- our client ------------------------------------------------------------------------------------- */

struct got {
	struct world *w;
	int status;
	struct buf body;
	struct err err;
};

static void on_fetched(void *arg, int status, struct view body, const struct err *e)
{
	struct got *g = arg;
	g->status = status;
	buf_reset(&g->body);
	(void)buf_addv(&g->body, body);
	if (e)
		g->err = *e;
	loop_stop(g->w->loop);
}

static struct http_target *target(struct world *w, const char *url)
{
	struct err e = { 0 };
	struct http_target *t = http_target_new(w->loop, url, NULL, &e);
	if (!t)
		fail_msg("%s", e.msg);
	return t;
}

static void fetch(struct world *w, struct http_target *t, struct view body, struct got *g)
{
	struct http_fetch_req r = { .method = body.n ? "POST" : "GET",
		.path = "/",
		.content_type = body.n ? "x/y" : NULL,
		.body = body,
		.max_body = 64 * MIB };
	g->w = w;
	(void)!http_fetch(t, &r, on_fetched, g);
	loop_run(w->loop);
	if (!g->status)
		print_message("%s\n", g->err.msg);
}

static void carries_large_bodies_both_ways(void **state)
{
	struct world *w = *state;
	char *big = mem_alloc(BIG);
	for (size_t i = 0; i < BIG; i++)
		big[i] = (char)(i * 31 + i / 1000);
	struct got g = { .body = BUF(64 * MIB) };
	struct http_target *t = target(w, w->url);
	for (int i = 0; i < 2; i++) {
		fetch(w, t, view_of(big, BIG), &g);
		assert_int_equal(g.status, 200);
		assert_int_equal(g.body.len, BIG);
		assert_memory_equal(g.body.data, big, BIG);
		fetch(w, t, VIEW("small"), &g);
		assert_string_equal(buf_str(&g.body), "small");
		assert_int_equal(http_target_idle(t), 1);
	}
	http_target_free(t);
	free(big);
	buf_done(&g.body);
	assert_int_equal(tls_server_failures(w->tls), 0);
}

static void believes_whom_it_should(void **state)
{
	struct world *w = *state;
	struct got g = { .body = BUF(MIB) };
	char ip[64], other[64];
	snprintf(ip, sizeof ip, "https://127.0.0.1:%u", w->addr.port);
	snprintf(other, sizeof other, "https://127.0.0.2:%u", w->addr.port);
	struct http_target *t = target(w, ip);
	fetch(w, t, VIEW(""), &g);
	assert_int_equal(g.status, 200);
	http_target_free(t);
	/* the right authority, another address: the listener takes 127.0.0.1 alone, so it gets one of its own
	 */
	struct net_addr a;
	int fd = -1;
	assert_int_equal(net_addr_parse(view_str(other + 8), &a, NULL), 0);
	assert_int_equal(net_listen(&a, 0600, &fd, NULL), 0);
	assert_int_equal(http_server_listen_tls(w->server, fd, w->tls), 0);
	t = target(w, other);
	fetch(w, t, VIEW(""), &g);
	assert_int_equal(g.status, 0);
	assert_non_null(strstr(g.err.msg, "its certificate is not believed: IP address mismatch"));
	http_target_free(t);
	/* an authority nobody believes */
	setenv("SSL_CERT_FILE", "/dev/null", 1);
	t = target(w, w->url);
	fetch(w, t, VIEW(""), &g);
	assert_int_equal(g.status, 0);
	assert_non_null(strstr(g.err.msg, "is not believed: "));
	http_target_free(t);
	/* the peer's alert that ends the handshake comes with the next round */
	assert_int_equal(w->requests, 1);
	buf_done(&g.body);
	http_server_free(w->server);
	w->server = NULL;
	close(fd);
}

static void says_that_a_server_speaks_no_tls(void **state)
{
	struct world *w = *state;
	struct got g = { .body = BUF(MIB) };
	struct net_addr a;
	int fd = -1;
	char url[64];
	assert_int_equal(net_addr_parse(VIEW("127.0.0.1:0"), &a, NULL), 0);
	assert_int_equal(net_listen(&a, 0600, &fd, NULL), 0);
	assert_int_equal(net_addr_of_socket(fd, &a), 0);
	assert_int_equal(http_server_listen(w->server, fd), 0);
	snprintf(url, sizeof url, "https://127.0.0.1:%u", a.port);
	struct http_target *t = target(w, url);
	fetch(w, t, VIEW(""), &g);
	assert_int_equal(g.status, 0);
	assert_non_null(strstr(g.err.msg, "the TLS handshake failed: wrong version number"));
	http_target_free(t);
	buf_done(&g.body);
	http_server_free(w->server);
	w->server = NULL;
	close(fd);
}

/* ---- another's client, on a thread -------------------------------------------------------------------- */

static void peer_done(void *arg)
{
	loop_stop(((struct world *)arg)->loop);
}

static void *peer_thread(void *arg)
{
	struct world *w = arg;
	w->peer(w);
	loop_post_call(w->loop, peer_done, w);
	return NULL;
}

static void run_peer(struct world *w, void (*peer)(struct world *w))
{
	w->peer = peer;
	assert_int_equal(pthread_create(&w->thread, NULL, peer_thread, w), 0);
	loop_run(w->loop);
	pthread_join(w->thread, NULL);
}

static int dial(struct world *w)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (connect(fd, (const struct sockaddr *)&w->addr.ss, w->addr.len) < 0)
		abort();
	return fd;
}

static SSL *tls_dial(struct world *w, int max_version, SSL_CTX **ret)
{
	SSL_CTX *x = SSL_CTX_new(TLS_client_method());
	SSL_CTX_set_security_level(x, 0);
	SSL_CTX_set_min_proto_version(x, 0);
	SSL_CTX_set_max_proto_version(x, max_version);
	SSL *s = SSL_new(x);
	SSL_set_fd(s, dial(w));
	int r = SSL_connect(s);
	w->error = r == 1 ? 0 : (long)ERR_GET_REASON(ERR_peek_last_error());
	ERR_clear_error();
	*ret = x;
	return s;
}

static void hang_up(SSL *s, SSL_CTX *x)
{
	close(SSL_get_fd(s));
	SSL_free(s);
	SSL_CTX_free(x);
}

static void get(struct world *w, SSL *s, const char *text)
{
	size_t got = 0;
	SSL_write(s, text, (int)strlen(text));
	while (got < sizeof w->said - 1) {
		int k = SSL_read(s, w->said + got, (int)(sizeof w->said - 1 - got));
		if (k <= 0)
			break;
		got += (size_t)k;
		w->said[got] = '\0';
		if (strstr(w->said, "\r\n\r\nnow"))
			break;
	}
	X509 *c = SSL_get1_peer_certificate(s);
	X509_NAME_get_text_by_NID(X509_get_subject_name(c), NID_commonName, w->subject, sizeof w->subject);
	X509_free(c);
}

static void peer_of_1_1(struct world *w)
{
	SSL_CTX *x;
	SSL *s = tls_dial(w, TLS1_1_VERSION, &x);
	hang_up(s, x);
}

static void refuses_old_versions(void **state)
{
	struct world *w = *state;
	run_peer(w, peer_of_1_1);
	assert_int_equal(w->error, SSL_R_TLSV1_ALERT_PROTOCOL_VERSION);
	assert_int_equal(tls_server_failures(w->tls), 1);
}

static void peer_of_1_2(struct world *w)
{
	SSL_CTX *x;
	SSL *s = tls_dial(w, TLS1_2_VERSION, &x);
	get(w, s, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
	SSL_renegotiate(s); /* refused; what is there goes on */
	(void)SSL_do_handshake(s);
	ERR_clear_error();
	hang_up(s, x);
}

static void takes_1_2_without_renegotiation(void **state)
{
	struct world *w = *state;
	run_peer(w, peer_of_1_2);
	assert_int_equal(w->error, 0);
	assert_non_null(strstr(w->said, "200 OK"));
	assert_int_equal(w->requests, 1);
}

static void peer_of_http(struct world *w)
{
	int fd = dial(w);
	static const char q[] = "OPTIONS / HTTP/1.1\r\nHost: a\r\n\r\n";
	(void)!write(fd, q, sizeof q - 1);
	size_t got = 0;
	ssize_t k;
	while (got < sizeof w->said - 1 && (k = read(fd, w->said + got, sizeof w->said - 1 - got)) > 0)
		got += (size_t)k;
	w->said[got] = '\0';
	close(fd);
}

static void tells_plain_http_what_the_port_speaks(void **state)
{
	struct world *w = *state;
	run_peer(w, peer_of_http);
	assert_true(view_starts(view_str(w->said), VIEW("HTTP/1.1 400 Bad Request\r\n")));
	assert_non_null(strstr(w->said, "this port speaks https"));
	assert_int_equal(w->requests, 0);
	assert_int_equal(tls_server_failures(w->tls), 1);
}

static void peer_that_waits(struct world *w)
{
	int fd = dial(w);
	w->error = read(fd, w->said, sizeof w->said);
	close(fd);
}

static void does_not_wait_for_a_handshake_for_ever(void **state)
{
	struct world *w = *state;
	http_server_free(w->server);
	close(w->listen_fd);
	struct http_server_opts o = { HTTP_SERVER_DEFAULTS, .on_request = on_request, .arg = w };
	o.head_timeout_ms = 30;
	start(w, &o);
	w->error = -1;
	run_peer(w, peer_that_waits);
	assert_int_equal(w->error, 0); /* closed, without a word */
}

static void peer_that_closes(struct world *w)
{
	SSL_CTX *x;
	SSL *s = tls_dial(w, 0, &x);
	get(w, s, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
	char c;
	int r = SSL_read(s, &c, 1);
	w->error = SSL_get_error(s, r);
	hang_up(s, x);
}

static void says_farewell(void **state)
{
	struct world *w = *state;
	run_peer(w, peer_that_closes);
	assert_int_equal(w->error, SSL_ERROR_ZERO_RETURN);
}

static void peer_that_leaves(struct world *w)
{
	SSL_CTX *x;
	SSL *s = tls_dial(w, 0, &x);
	static const char q[] = "POST /hold HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx";
	SSL_write(s, q, sizeof q - 1);
	SSL_shutdown(s); /* our side is closed, theirs is not */
	char c;
	w->error = SSL_read(s, &c, 1);
	hang_up(s, x);
}

static void peer_that_leaves_with_a_full_record(struct world *w)
{
	SSL_CTX *x;
	SSL *s = tls_dial(w, 0, &x);
	char q[16 * KIB];
	int n = snprintf(
		q, sizeof q, "POST /hold HTTP/1.1\r\nHost: a\r\nContent-Length: %zu\r\n\r\n", sizeof q);
	memset(q + n, 'x', sizeof q - (size_t)n);
	/* the farewell is there when the record is read */
	BIO *both = BIO_new(BIO_s_mem()), *wire = BIO_new_socket(SSL_get_fd(s), BIO_NOCLOSE);
	char sent[18 * KIB];
	SSL_set0_wbio(s, both);
	SSL_write(s, q, sizeof q);
	SSL_shutdown(s);
	int len = BIO_read(both, sent, sizeof sent);
	assert(BIO_write(wire, sent, len) == len);
	char c;
	w->error = SSL_read(s, &c, 1);
	int fd = (int)BIO_get_fd(wire, NULL);
	BIO_free(wire);
	SSL_free(s);
	SSL_CTX_free(x);
	close(fd);
}

/* Asks for new keys while it takes nothing, so that the server's answer to that cannot leave: OpenSSL gives
 * up such a connection where a record of ours is half sent. Nobody else is to notice. */
static void peer_of_many_keys(struct world *w)
{
	SSL_CTX *x, *y;
	SSL *s = tls_dial(w, 0, &x);
	static const char first[] = "GET /big HTTP/1.1\r\nHost: a\r\n\r\n";
	SSL_write(s, first, sizeof first - 1);
	char b[16 * KIB];
	SSL_read(s, b, 1); /* the answer is on its way */
	for (int i = 0; i < 40; i++) {
		SSL_key_update(s, SSL_KEY_UPDATE_REQUESTED);
		SSL_write(s, "G", 1);
	}
	SSL *t = tls_dial(w, 0, &y);
	get(w, t, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
	hang_up(t, y);
	size_t k;
	while (SSL_read_ex(s, b, sizeof b, &k))
		;
	hang_up(s, x);
}

static void who_asks_for_keys_and_takes_nothing_harms_itself(void **state)
{
	struct world *w = *state;
	run_peer(w, peer_of_many_keys);
	assert_non_null(strstr(w->said, "200 OK"));
	assert_int_equal(w->requests, 2);
}

static void the_end_that_comes_with_bytes_is_seen(void **state)
{
	struct world *w = *state;
	run_peer(w, peer_that_leaves_with_a_full_record);
	assert_int_equal(w->gones, 1);
}

static void a_client_that_shuts_its_side_has_left(void **state)
{
	struct world *w = *state;
	run_peer(w, peer_that_leaves);
	assert_int_equal(w->gones, 1);
}

static void peer_of_two_certificates(struct world *w)
{
	SSL_CTX *x, *y;
	SSL *s = tls_dial(w, 0, &x);
	get(w, s, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
	w->error = strcmp(w->subject, "first");
	tls_server_use(w->tls, cert(w, "second")); /* from another thread than the loop's */
	SSL *t = tls_dial(w, 0, &y);
	w->said[0] = '\0';
	get(w, t, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
	w->error |= strcmp(w->subject, "second") | !strstr(w->said, "200 OK");
	w->said[0] = '\0';
	SSL_key_update(s, SSL_KEY_UPDATE_REQUESTED);
	get(w, s, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
	w->error |= strcmp(w->subject, "first") | !strstr(w->said, "200 OK");
	hang_up(t, y);
	hang_up(s, x);
}

static void a_new_certificate_harms_no_connection(void **state)
{
	struct world *w = *state;
	run_peer(w, peer_of_two_certificates);
	assert_int_equal(w->error, 0);
	assert_int_equal(w->requests, 3);
	struct tls_cert *first = cert(w, "first"), *second = cert(w, "second");
	assert_true(tls_server_has(w->tls, second));
	assert_false(tls_server_has(w->tls, first));
	assert_int_equal(tls_server_expires(w->tls), tls_cert_expires(second));
	tls_cert_free(first);
	tls_cert_free(second);
}

/* ---- a socket whose owner reads little at a time ------------------------------------------------------- */

struct sip {
	struct world *w;
	struct sock near, far;
	struct buf got;
	int ups;
	bool rest;
};

static void sip_connected(void *arg, int error)
{
	struct sip *s = arg;
	assert_int_equal(error, 0);
	if (++s->ups < 2)
		return;
	char text[3000];
	for (size_t i = 0; i < sizeof text; i++)
		text[i] = (char)('a' + i % 26);
	sock_write(&s->far, text, sizeof text);
	sock_want(&s->near, true, false);
}

/* Seven bytes, then nothing is wanted until the end of the round. */
static void sip_again(void *arg)
{
	struct sip *s = arg;
	s->rest = false;
	sock_want(&s->near, true, false);
}

static void sip_readable(void *arg)
{
	struct sip *s = arg;
	char b[7];
	ssize_t n = sock_read(&s->near, b, sizeof b);
	if (n == -EAGAIN)
		return;
	assert_false(s->rest);
	assert_true(n > 0);
	(void)buf_add(&s->got, b, (size_t)n);
	if (s->got.len == 3000) {
		loop_stop(s->w->loop);
		return;
	}
	s->rest = true;
	sock_want(&s->near, false, false);
	loop_post_call(s->w->loop, sip_again, s);
}

static void sip_broken(void *arg, int error)
{
	(void)arg;
	fail_msg("broken: %d", error);
}

static void what_is_kept_in_between_is_not_forgotten(void **state)
{
	struct world *w = *state;
	static const struct sock_ops ops = {
		.on_connected = sip_connected, .on_readable = sip_readable, .on_broken = sip_broken
	};
	struct sip s = { .w = w, .got = BUF(MIB) };
	int fds[2];
	struct tls_client *c = tls_client_ref(NULL);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
	assert_int_equal(sock_init(&s.near, w->loop, fds[0], &ops, &s), 0);
	assert_int_equal(sock_init(&s.far, w->loop, fds[1], &ops, &s), 0);
	sock_layer(&s.near, tls_server_layer(w->tls));
	sock_layer(&s.far, tls_client_layer(c, "localhost"));
	loop_run(w->loop);
	assert_int_equal(s.got.len, 3000);
	for (size_t i = 0; i < s.got.len; i++)
		assert_int_equal(s.got.data[i], 'a' + i % 26);
	sock_close(&s.near);
	sock_close(&s.far);
	tls_client_unref(c);
	buf_done(&s.got);
}

int main(void)
{
	signal(SIGPIPE, SIG_IGN);
#define WORLD_TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		WORLD_TEST(says_what_is_wrong_with_a_certificate),
		WORLD_TEST(says_when_a_certificate_ends),
		WORLD_TEST(carries_large_bodies_both_ways),
		WORLD_TEST(believes_whom_it_should),
		WORLD_TEST(says_that_a_server_speaks_no_tls),
		WORLD_TEST(refuses_old_versions),
		WORLD_TEST(takes_1_2_without_renegotiation),
		WORLD_TEST(tells_plain_http_what_the_port_speaks),
		WORLD_TEST(does_not_wait_for_a_handshake_for_ever),
		WORLD_TEST(says_farewell),
		WORLD_TEST(a_client_that_shuts_its_side_has_left),
		WORLD_TEST(the_end_that_comes_with_bytes_is_seen),
		WORLD_TEST(who_asks_for_keys_and_takes_nothing_harms_itself),
		WORLD_TEST(a_new_certificate_harms_no_connection),
		WORLD_TEST(what_is_kept_in_between_is_not_forgotten),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
