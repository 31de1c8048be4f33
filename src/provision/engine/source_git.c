/* SPDX-License-Identifier: Apache-2.0
 *
 * git as we run it, and the submodules of what it fetched.
 *
 * Submodules are fetched level by level, never with --recursive: git itself is asked which addresses a level
 * names (it knows more ways to write them than a reader of .gitmodules would), each is held against the
 * network's policy, and only then is that level fetched, and looked into for the next.
 */
#include <stdlib.h>

#include "provision/engine/source_int.h"

enum { MODULES_MAX = 1000 }; /* folders that are looked into, of all levels */

/* No hooks, everything checked as it comes, nothing of other repositories unless we ask for it. A redirect
 * would lead past a policy that names hosts. */
void source_git_words(const struct source *s, struct strv *argv)
{
	static const char *const always[] = { "-c", "core.hooksPath=/dev/null", "-c",
		"fetch.fsckObjects=true", "-c", "advice.detachedHead=false", "-c", "gc.auto=0", "-c",
		"init.defaultBranch=main", "-c", "fetch.recurseSubmodules=false", "-c",
		"submodule.recurse=false" };
	strv_add(argv, s->facts.tools[TOOL_GIT].path);
	for (size_t i = 0; i < ARRAY_LEN(always); i++)
		strv_add(argv, always[i]);
	if (!source_policy_bounds(&s->job->policy))
		return;
	strv_add(argv, "-c");
	strv_add(argv, "http.followRedirects=false");
}

void source_git(struct source *s, const char *folder, const char *const *words, source_next_fn *next)
{
	AUTO(strv_done) struct strv argv = { 0 };
	source_git_words(s, &argv);
	for (; *words; words++)
		strv_add(&argv, *words);
	source_tool(
		s, &(struct source_tool){
			   .argv = &argv, .cwd = folder, .silence_ms = SOURCE_GIT_SILENCE_MS, .next = next });
}

/* ---- submodules ---------------------------------------------------------------------------------- */

static void next_folder(struct source *s);

static void git_here(struct source *s, const char *const *words, source_next_fn *next)
{
	source_git(s, s->folders.items[s->folder], words, next);
}

/* The folders of submodules that are there, each ended by a NUL. */
static void on_inside(struct source *s, const struct run_result *r)
{
	if (source_tool_failed(r)) {
		s->modules_done(s, r);
		return;
	}
	for (struct view rest = r->out; rest.n;) {
		struct view path = view_split(rest, '\0', &rest);
		if (s->folders.len == MODULES_MAX || r->too_long) {
			source_fail(s, -E2BIG, "the sources have more than %d submodules", (int)MODULES_MAX);
			return;
		}
		if (path.n)
			strv_addf(&s->folders, "%s/%.*s", s->folders.items[s->folder], VIEW_ARG(path));
	}
	s->folder++;
	next_folder(s);
}

static void update(struct source *s);

static void on_updated(struct source *s, const struct run_result *r)
{
	static const char *const words[] = { "submodule", "--quiet", "foreach", "printf '%s\\0' \"$sm_path\"",
		NULL };
	if (source_tool_failed(r) && !s->deep) {
		s->deep = true; /* a server that gives no single commits */
		update(s);
	} else if (source_tool_failed(r)) {
		s->modules_done(s, r);
	} else {
		git_here(s, words, on_inside);
	}
}

static void update(struct source *s)
{
	const char *const words[] = { "submodule", "update", "--force", "--progress",
		s->deep ? NULL : "--depth", "1", NULL };
	source_output_done(&s->out);
	git_here(s, words, on_updated);
}

static void on_named(struct source *s, const struct run_result *r)
{
	struct err e;
	if (r->exit_code == 1 && !r->signo && !r->silent && !r->out.n) { /* there are none */
		s->folder++;
		next_folder(s);
	} else if (source_tool_failed(r)) {
		s->modules_done(s, r);
	} else if (r->too_long) {
		source_fail(s, -E2BIG, "the submodules have addresses of more than 1 MiB");
	} else if (source_policy_modules(r->out, &s->job->policy, &e) < 0) {
		source_fail(s, e.code, "a submodule: %s", e.msg);
	} else {
		update(s);
	}
}

static void on_registered(struct source *s, const struct run_result *r)
{
	static const char *const words[] = { "config", "-z", "--get-regexp", "^submodule\\..*\\.url$", NULL };
	if (source_tool_failed(r))
		s->modules_done(s, r);
	else
		git_here(s, words, on_named);
}

static void next_folder(struct source *s)
{
	static const char *const words[] = { "submodule", "--quiet", "init", NULL };
	for (; s->folder < s->folders.len; s->folder++) {
		AUTO(mem_freep) char *file = path_join(s->folders.items[s->folder], ".gitmodules");
		if (file_exists(file))
			break;
	}
	if (s->folder == s->folders.len) {
		s->modules_done(s, NULL);
		return;
	}
	if (!s->folder)
		source_say(s, "fetch", "Fetching its submodules");
	s->deep = false;
	source_output_done(&s->out);
	git_here(s, words, on_registered);
}

void source_modules_fetch(struct source *s, source_next_fn *done)
{
	strv_done(&s->folders);
	strv_add(&s->folders, s->src);
	s->folder = 0;
	s->modules_done = done;
	next_folder(s);
}
