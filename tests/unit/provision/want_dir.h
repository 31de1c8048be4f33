/* SPDX-License-Identifier: Apache-2.0
 *
 * A folder of the test's own, where models lie.
 */
#ifndef WANT_DIR_H
#define WANT_DIR_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include <cmocka.h>

#include "provision/engine/engine_int.h"
#include "provision/model/want_int.h"

#define HEX_A "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define HEX_B "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"

/* A layer of a manifest, and its title. */
#define LAYER(type, hex, more) "{\"mediaType\":\"" type "\",\"digest\":\"sha256:" hex "\",\"size\":4" more "}"
#define TITLE(t) ",\"annotations\":{\"org.opencontainers.image.title\":\"" t "\"}"

static char dir[40];

static inline int make(void **state)
{
	(void)state;
	snprintf(dir, sizeof dir, "/tmp/corral-want-XXXXXX");
	assert_non_null(mkdtemp(dir));
	return 0;
}

static inline int unmake(void **state)
{
	(void)state;
	tree_remove(dir);
	return 0;
}

static inline char *at(const char *name)
{
	return path_join(dir, name);
}

static inline void folder_for(const char *path)
{
	AUTO(mem_freep) char *d = mem_strdup(path);
	*strrchr(d, '/') = '\0';
	assert_int_equal(dir_make(d, 0700), 0);
}

static inline void put(const char *name, const char *text)
{
	AUTO(mem_freep) char *path = at(name);
	folder_for(path);
	assert_int_equal(file_write_atomic(path, view_str(text), 0600, false), 0);
}

static inline void put_link(const char *name, const char *to)
{
	AUTO(mem_freep) char *path = at(name);
	folder_for(path);
	assert_int_equal(symlink(to, path), 0);
}

#endif
