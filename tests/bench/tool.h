/* SPDX-License-Identifier: Apache-2.0
 *
 * What the two programs of tests/bench/run share. An ADDRESS is a port on 127.0.0.1, or the path of a unix
 * socket.
 */
#ifndef BENCH_TOOL_H
#define BENCH_TOOL_H

#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>

static inline void die(const char *what)
{
	perror(what);
	exit(1);
}

/* The number s begins with, blanks before it allowed. */
static inline int64_t number(const char *s)
{
	int64_t n = 0;
	while (*s == ' ')
		s++;
	while (*s >= '0' && *s <= '9')
		n = n * 10 + (*s++ - '0');
	return n;
}

static inline int64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* As many files as may be; an epoll descriptor. */
static inline int begin(void)
{
	struct rlimit files;
	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	int fd = epoll_create1(EPOLL_CLOEXEC);
	if (fd < 0)
		die("epoll");
	return fd;
}

static inline void watch(int epoll_fd, int fd, void *owner)
{
	struct epoll_event e = { .events = EPOLLIN, .data.ptr = owner };
	if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &e) < 0)
		die("epoll");
}

struct address {
	union {
		struct sockaddr any;
		struct sockaddr_in in;
		struct sockaddr_un un;
	} at;
	socklen_t len;
};

static inline struct address address_of(const char *text)
{
	struct address a = { 0 };
	if (text[0] == '/') {
		a.at.un.sun_family = AF_UNIX;
		snprintf(a.at.un.sun_path, sizeof a.at.un.sun_path, "%s", text);
		a.len = sizeof a.at.un;
	} else {
		a.at.in.sin_family = AF_INET;
		a.at.in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		a.at.in.sin_port = htons((uint16_t)number(text));
		a.len = sizeof a.at.in;
	}
	return a;
}

#endif
