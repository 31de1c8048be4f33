/* SPDX-License-Identifier: Apache-2.0
 *
 * Files in engines_dir that belong to nobody any more. What an engine leaves (its socket, what was written
 * about it) goes at the node's start unless a keeper runs; locks and records, which remember the last
 * generation, go once somebody has said what is wanted.
 */
#include <stdlib.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/strv.h"
#include "node/node_int.h"

/* "chat-0.7.sock" with ".sock" → "chat-0.7"; NULL: another kind of file. */
static char *without(const char *name, const char *suffix)
{
	struct view v = view_str(name), s = view_str(suffix);
	return v.n > s.n && view_ends(v, s) ? mem_viewdup(view_cut(v, v.n - s.n)) : NULL;
}

/* The replica a file of an engine belongs to; NULL: none of ours. */
static char *owner(const char *name)
{
	static const char *const suffixes[] = { ".json", ".start", ".record.tmp" };
	for (size_t i = 0; i < ARRAY_LEN(suffixes); i++) {
		char *id = without(name, suffixes[i]);
		if (id)
			return id;
	}
	char *secret = secrets_owner(name);
	if (secret)
		return secret;
	char *id = without(name, ".sock");
	char *dot = id ? strrchr(id, '.') : NULL;
	if (dot)
		*dot = '\0';
	if (id && !dot) {
		free(id);
		return NULL;
	}
	return id;
}

static void remove_file(const struct node *n, const char *name)
{
	AUTO(mem_freep) char *path = path_join(n->engines_dir, name);
	unlink(path);
}

void tidy_files(struct node *n)
{
	AUTO(strv_done) struct strv names = { 0 };
	dir_names(n->engines_dir, false, &names);
	for (size_t i = 0; i < names.len; i++) {
		AUTO(mem_freep) char *id = owner(names.items[i]);
		if (id && !keeper_runs(n->engines_dir, id))
			remove_file(n, names.items[i]);
	}
}

void tidy_records(struct node *n)
{
	AUTO(strv_done) struct strv names = { 0 };
	dir_names(n->engines_dir, false, &names);
	for (size_t i = 0; i < names.len; i++) {
		AUTO(mem_freep) char *locked = without(names.items[i], ".lock");
		AUTO(mem_freep) char *recorded = locked ? NULL : without(names.items[i], ".record");
		const char *id = locked ? locked : recorded;
		if (id && !map_gets(&n->replicas, id))
			keeper_clean(n->engines_dir, id); /* not while a keeper holds it */
	}
}
