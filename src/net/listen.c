/* SPDX-License-Identifier: Apache-2.0 */
#include "net/listen.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"

enum { BACKLOG = 4096, ACCEPTS_A_ROUND = 4, PAUSE_MS = 100 };

/* Finds the inode of the socket listening on port, from /proc/net/tcp or tcp6. */
static unsigned long listening_inode(const char *table, uint16_t port)
{
	FILE *f = fopen(table, "re");
	if (!f)
		return 0;
	char line[512];
	unsigned long found = 0;
	while (!found && fgets(line, sizeof line, f)) {
		unsigned local_port, state;
		unsigned long inode;
		if (sscanf(line, " %*d: %*[0-9A-Fa-f]:%x %*[0-9A-Fa-f]:%*x %x %*s %*s %*s %*s %*s %lu",
			    &local_port, &state, &inode) == 3 &&
			local_port == port && state == 0x0a)
			found = inode;
	}
	fclose(f);
	return found;
}

static bool has_socket(const char *pid, unsigned long inode)
{
	char dir[64], want[64];
	snprintf(dir, sizeof dir, "/proc/%.20s/fd", pid);
	snprintf(want, sizeof want, "socket:[%lu]", inode);
	DIR *d = opendir(dir);
	if (!d)
		return false;
	bool found = false;
	struct dirent *e;
	while (!found && (e = readdir(d))) {
		char path[400], got[64];
		snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
		ssize_t n = readlink(path, got, sizeof got - 1);
		if (n > 0) {
			got[n] = '\0';
			found = strcmp(got, want) == 0;
		}
	}
	closedir(d);
	return found;
}

/* " (held by llama-server, pid 4711)", or "" when it cannot be told. */
static void owner_of_port(uint16_t port, char *out, size_t cap)
{
	out[0] = '\0';
	unsigned long inode = listening_inode("/proc/net/tcp", port);
	if (!inode)
		inode = listening_inode("/proc/net/tcp6", port);
	DIR *d = inode ? opendir("/proc") : NULL;
	struct dirent *e;
	while (d && (e = readdir(d))) {
		if (e->d_name[0] < '1' || e->d_name[0] > '9' || !has_socket(e->d_name, inode))
			continue;
		char path[64];
		AUTO(buf_done) struct buf comm = BUF(64);
		snprintf(path, sizeof path, "/proc/%.20s/comm", e->d_name);
		if (file_read(path, &comm) == 0 && comm.len)
			comm.data[comm.len - 1] = '\0';
		snprintf(out, cap, " by %s (pid %.20s)", buf_str(&comm), e->d_name);
		break;
	}
	if (d)
		closedir(d);
}

/* A unix socket file is in the way: somebody answers on it, or it is stale and removed. */
static int clear_stale(const struct net_addr *a, struct err *reterr)
{
	struct stat st;
	if (lstat(a->host, &st) < 0)
		return 0;
	if (!S_ISSOCK(st.st_mode))
		return err_set(reterr, -EEXIST,
			"%s is there and is not a socket; name another path or remove it", a->host);
	AUTO(fd_closep) int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (connect(fd, (const struct sockaddr *)&a->ss, a->len) == 0) {
		struct ucred cred = { 0 };
		socklen_t n = sizeof cred;
		getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &n);
		return err_set(reterr, -EADDRINUSE,
			"%s is in use by another program (pid %d); stop it, or use another path", a->host,
			(int)cred.pid);
	}
	return unlink(a->host) < 0 && errno != ENOENT
		       ? err_set(reterr, -errno, "the stale socket %s cannot be removed: %s", a->host,
				 strerror(errno))
		       : 0;
}

static int bind_error(const struct net_addr *a, int code, struct err *reterr)
{
	char text[NET_ADDR_TEXT], who[96] = "";
	net_addr_text(a, text, sizeof text);
	if (code == -EADDRINUSE && a->kind == NET_TCP) {
		owner_of_port(a->port, who, sizeof who);
		return err_set(reterr, code,
			"%s is in use%s; stop that program or choose another address with `listen`", text,
			who[0] ? who : " by another program");
	}
	return err_set(reterr, code, "cannot listen on %s: %s", text, strerror(-code));
}

int net_listen(const struct net_addr *a, mode_t mode, int *ret_fd, struct err *reterr)
{
	if (a->kind == NET_NAME)
		return err_set(reterr, -EINVAL,
			"\"%s\" is a name; listen needs an address such as 127.0.0.1:%u", a->host, a->port);
	if (a->kind == NET_UNIX) {
		int r = clear_stale(a, reterr);
		if (r)
			return r;
	}
	AUTO(fd_closep) int fd = socket(a->ss.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return bind_error(a, -errno, reterr);
	int one = 1;
	if (a->kind == NET_TCP) {
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
		if (a->ss.ss_family == AF_INET6)
			setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
	}
	/* The mode is set between bind and listen: nobody can connect before. */
	if (bind(fd, (const struct sockaddr *)&a->ss, a->len) < 0)
		return bind_error(a, -errno, reterr);
	if (a->kind == NET_UNIX && chmod(a->host, mode) < 0)
		return bind_error(a, -errno, reterr);
	if (listen(fd, BACKLOG) < 0)
		return bind_error(a, -errno, reterr);
	*ret_fd = fd_take(&fd);
	return 0;
}

struct listener {
	struct loop *loop;
	struct loop_watch *watch;
	struct loop_timer pause;
	int fd;
	listener_fn *fn;
	void *arg;
};

static void resume(void *arg)
{
	struct listener *l = arg;
	(void)loop_watch_change(l->watch, LOOP_READ);
}

static void describe_peer(int fd, const struct sockaddr_storage *ss, struct net_peer *p)
{
	*p = (struct net_peer){ .uid = (uid_t)-1 };
	if (ss->ss_family == AF_UNIX) {
		struct ucred cred;
		socklen_t n = sizeof cred;
		p->is_unix = true;
		snprintf(p->text, sizeof p->text, "unix");
		if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &n) == 0)
			p->uid = cred.uid;
		return;
	}
	char ip[INET6_ADDRSTRLEN] = "";
	const struct sockaddr_in *in = (const struct sockaddr_in *)ss;
	const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)ss;
	if (ss->ss_family == AF_INET) {
		inet_ntop(AF_INET, &in->sin_addr, ip, sizeof ip);
		snprintf(p->text, sizeof p->text, "%s:%u", ip, ntohs(in->sin_port));
		ip_from_v4((const unsigned char *)&in->sin_addr, p->ip);
	} else {
		inet_ntop(AF_INET6, &in6->sin6_addr, ip, sizeof ip);
		snprintf(p->text, sizeof p->text, "[%s]:%u", ip, ntohs(in6->sin6_port));
		memcpy(p->ip, &in6->sin6_addr, sizeof p->ip);
	}
}

static void on_listen(void *arg, int events)
{
	(void)events;
	struct listener *l = arg;
	/* Few at a time, so that what is connected already is served in between. */
	for (int i = 0; i < ACCEPTS_A_ROUND && l->fn; i++) {
		struct sockaddr_storage ss = { 0 };
		socklen_t n = sizeof ss;
		int fd = accept4(l->fd, (struct sockaddr *)&ss, &n, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd < 0) {
			if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
				(void)loop_watch_change(l->watch, 0);
				loop_timer_start(l->loop, &l->pause, PAUSE_MS, resume, l);
			}
			return;
		}
		int one = 1, zero = 0;
		if (ss.ss_family != AF_UNIX) {
			setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
			setsockopt(fd, IPPROTO_TCP, TCP_QUICKACK, &zero, sizeof zero);
		}
		struct net_peer peer;
		describe_peer(fd, &ss, &peer);
		l->fn(l->arg, fd, &peer);
	}
}

int listener_start(struct loop *loop, int fd, listener_fn *fn, void *arg, struct listener **ret)
{
	struct listener *l = NEW(struct listener);
	l->loop = loop;
	l->fd = fd;
	l->fn = fn;
	l->arg = arg;
	int r = loop_watch_start(loop, &l->watch, fd, LOOP_READ, on_listen, l);
	if (r < 0) {
		free(l);
		return r;
	}
	*ret = l;
	return 0;
}

void listener_stop(struct listener **pl)
{
	struct listener *l = *pl;
	*pl = NULL;
	if (!l)
		return;
	l->fn = NULL;
	loop_timer_stop(&l->pause);
	loop_watch_stop(&l->watch);
	loop_defer_free(l->loop, l);
}
