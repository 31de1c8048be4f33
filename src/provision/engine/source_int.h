/* SPDX-License-Identifier: Apache-2.0
 *
 * The source mode's job, shared by source.c (until the commit is known) and source_steps.c (from there on).
 * Control loop only, except where "offload" is said.
 */
#ifndef PROVISION_ENGINE_SOURCE_INT_H
#define PROVISION_ENGINE_SOURCE_INT_H

#include "provision/engine/engine_int.h"
#include "provision/engine/source.h"

enum { SOURCE_GIT_SILENCE_MS = 10 * 60 * 1000, SOURCE_BUILD_SILENCE_MS = 60 * 60 * 1000 };

typedef void source_next_fn(struct source *s, const struct run_result *r);

struct source {
	struct engine_job *job; /* NULL once cancelled */
	struct loop *loop;
	struct source_spec spec;
	struct source_names names;
	int lock_fd;
	struct loop_timer retry;
	bool waited;         /* for another process: said once */
	bool may_keep;       /* what failed leaves a build that the next try goes on with */
	bool installed;      /* packages, once */
	bool tree_fresh;     /* the sources were begun by this job: no second try from nothing */
	bool deep;           /* of this fetch: with all its history */
	struct strv folders; /* source_git.c: full paths of the trees whose submodules are fetched */
	size_t folder;
	source_next_fn *modules_done;
	struct preflight *preflight;
	struct preflight_facts facts;
	struct preflight_report report;
	struct source_choice choice;
	struct source_commit commit;
	struct strv defines, env;
	struct steps plan;
	struct steps_store store;
	size_t step; /* of the plan */
	unsigned jobs;
	char hash[STEPS_HASH_LEN + 1];
	char *src, *work, *build, *steps_file; /* full paths */
	char *fresh;                           /* what becomes source-<hash> */
	struct source_record record;
	struct run *run;
	source_next_fn *next;
	int log_fd;
	char *log;
	struct source_output out;
	const char *phase;
	char *doing;                           /* a sentence without its stop */
	bool offloading;                       /* a thread works for us: nothing may be freed */
	void (*threaded)(struct source *s);    /* on that thread */
	void (*thread_done)(struct source *s); /* back on the loop, not when cancelled */
	struct err work_err;
};

/* Both end the job; nothing may touch s after them. */
void source_fail(struct source *s, int code, const char *fmt, ...) PRINTF(3, 4);
void source_ready(struct source *s);
/* Begins a log: <logs>/source-<what>.log. */
void source_log_open(struct source *s, const char *what);
/* Starts a tool that writes into the log and whose lines are read along. */
struct source_tool {
	const struct strv *argv;
	const char *cwd;
	int64_t silence_ms;
	source_next_fn *next;
};
void source_tool(struct source *s, const struct source_tool *t);
bool source_tool_failed(const struct run_result *r);
void source_offload(
	struct source *s, void (*threaded)(struct source *s), void (*thread_done)(struct source *s));
/* "doing failed: the line that says why; the whole output is in LOG", and what is not worth keeping removed.
 */
void source_step_failed(struct source *s, const struct run_result *r, const char *doing);
/* A file of ours could not be written; from a full disk all goes that was made. */
void source_disk_failed(struct source *s, int code, const char *file);

/* source_steps.c: from the first step that is not done. */
void source_steps_run(struct source *s);
/* What is being done, without a stop: told, and the start of every percentage that follows. */
void source_say(struct source *s, const char *phase, const char *fmt, ...) PRINTF(3, 4);

/* source_git.c: git and its first words. */
void source_git_words(const struct source *s, struct strv *argv);
void source_git(struct source *s, const char *folder, const char *const *words, source_next_fn *next);
/* The submodules of s->src and theirs, as far as the policy lets: what it refuses ends the job, else done is
 * called with NULL or with what failed. */
void source_modules_fetch(struct source *s, source_next_fn *done);

void source_install(struct source *s); /* source_install.c */

#endif
