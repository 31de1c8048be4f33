/* SPDX-License-Identifier: Apache-2.0
 *
 * A folder that is being filled with names from an archive. No step of a name goes through a symbolic link,
 * whatever the archive made before; nothing outside the folder is touched. Names come through tree_name.
 */
#ifndef FETCH_TREE_H
#define FETCH_TREE_H

#include <sys/types.h>

#include "base/base.h"

enum { TREE_DEPTH_MAX = 64, TREE_NAME_MAX = 4096 };

struct tree {
	char *path; /* `<into>.part` */
	int fd;     /* of it; locked */
	bool done;
};

/* Makes it empty and locks it (waits for another process that has it). -EEXIST: `into` is there. */
int tree_begin(struct tree *t, const char *into) MUST_CHECK;
/* To the disk, and renamed. */
int tree_finish(struct tree *t, const char *into) MUST_CHECK;
void tree_end(struct tree *t); /* what was not finished is removed */

/* The member's name without `strip` leading folders. NULL with *ret 0: nothing is left of it; NULL with
 * -EINVAL: absolute, "..", too long or too deep. The caller frees it. */
char *tree_name(const char *given, unsigned strip, int *ret) MUST_CHECK;
/* Does a symbolic link of that (clean) name stay inside? ".." only leads a target, and not above the folder.
 */
bool tree_link_is_inside(const char *name, const char *target);

/* Folders on the way are made; a file of that name is replaced. Negative errno. */
int tree_file(struct tree *t, const char *name, mode_t mode, int *ret_fd) MUST_CHECK;
int tree_folder(struct tree *t, const char *name) MUST_CHECK;
int tree_link(struct tree *t, const char *name, const char *target) MUST_CHECK;
int tree_hard_link(struct tree *t, const char *name, const char *to) MUST_CHECK;

#endif
