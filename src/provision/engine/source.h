/* SPDX-License-Identifier: Apache-2.0
 *
 * The source mode: llama.cpp (or a fork of it) out of a git repository, by CMake.
 *
 *   <prefix>/llamacpp/source-<hash>/         a build: complete, never changed afterwards. The hash is of
 *                                            repository, commit, flags, back end and compilers
 *   <prefix>/llamacpp/source-<hash>/source.build   what it is
 *   <prefix>/llamacpp/source-<key>.build     which build is current for what a pool asks for (the key is of
 *                                            repository, ref and flags): what a start reads
 *   <prefix>/llamacpp/source-<key>.last      which one was before: what a rollback goes back to
 *   <prefix>/llamacpp/source.lock            held (flock, also by the tools) while one process works on it
 *   <prefix>/llamacpp/.src-<hash>/           the sources of a commit, shared by builds of it
 *   <prefix>/llamacpp/.work-<hash>/          a build being made, and how far it has come (`steps`)
 *   <prefix>/llamacpp/log/source-<hash>-<step>.log
 *
 * All here is pure or touches those files alone; the job is in source.c.
 */
#ifndef PROVISION_ENGINE_SOURCE_H
#define PROVISION_ENGINE_SOURCE_H

#include "provision/engine/engine.h"
#include "provision/engine/preflight.h"
#include "provision/engine/steps.h"

#define SOURCE_REPO_DEFAULT "https://github.com/ggml-org/llama.cpp"
#define SOURCE_TARGET "llama-server"
enum { SOURCE_FLAGS_MAX = 256, SOURCE_COMMIT_LEN = 40 };

/* ---- what is asked for (source_plan.c) ----------------------------------------------------------- */

struct source_spec {
	char *repo;        /* as git takes it */
	char *ref;         /* tag, branch or commit; NULL: the newest release (tag bNNNN), else HEAD */
	struct strv flags; /* "NAME=value" by name, each once; obsolete names replaced */
	struct strv notes; /* a sentence for each that was */
	bool local;        /* the repository lies on this machine */
};
void source_spec_done(struct source_spec *s);
int source_spec_init(struct source_spec *s, const struct engine_def *d, struct err *reterr) MUST_CHECK;
/* Another ref in place of the one that was asked for. */
int source_spec_ref(struct source_spec *s, const char *ref, struct err *reterr) MUST_CHECK;

struct source_choice {
	enum engine_backend backend;
	bool forced; /* a flag says so */
	char *archs; /* "86;89", "gfx1100"; NULL: whatever the toolkit does */
	char *why;   /* "CUDA 13.0 for RTX 4090 (8.9)": what is told to people */
};
void source_choice_done(struct source_choice *c);
/* The first that can use the devices and whose toolkit is here: CUDA or HIP, Vulkan, else (cpu_instead) the
 * CPU. Without devices the CPU. Never silently less than the devices: then the toolkit they need is chosen,
 * and preflight says that it is missing. */
void source_choose(const struct source_spec *s, const struct preflight_facts *f,
	const struct engine_device *devices, size_t n, bool cpu_instead, struct source_choice *ret);

/* A commit and what it is called, out of `git ls-remote`. */
struct source_commit {
	char id[SOURCE_COMMIT_LEN + 1];
	char *name;      /* "b6123", "master"; NULL: the commit itself */
	uint64_t number; /* of a release tag; 0: none */
};
void source_commit_done(struct source_commit *c);
bool source_is_commit(const char *ref);  /* 40 hex digits */
bool source_is_release(const char *ref); /* bNNNN */
/* The words that ask for it, behind `git ls-remote REPO`. */
void source_refs_ask(const struct source_spec *s, struct strv *ret);
int source_ref_resolve(const struct source_spec *s, struct view said, struct source_commit *ret,
	struct err *reterr) MUST_CHECK;

/* CMake's -D words: ours, the back end's, the user's (which win), and those of compilers. */
void source_defines(const struct source_spec *s, const struct source_choice *c,
	const struct preflight_facts *f, const struct preflight_report *r, struct strv *ret);
/* "gcc 12.2.0, CUDA 13.0" */
char *source_compiler(const struct preflight_facts *f, enum engine_backend b) MUST_CHECK;
/* The plan: from the words above alone. commit NULL: not looked up yet. */
void source_plan(const struct source_spec *s, const struct source_choice *c, const struct preflight_facts *f,
	const struct strv *defines, const struct source_commit *commit, struct steps *ret);
void source_build_hash(const struct source_spec *s, const struct source_choice *c,
	const struct preflight_facts *f, const struct strv *defines, const char *commit, char out[17]);
uint64_t source_disk(enum engine_backend b); /* what sources and a build take, about */

/* ---- what may be reached (source_policy.c) ------------------------------------------------------- */

struct fetch_policy;
/* -EPERM with the line of the policy that refuses it; repositories on this machine are never refused. */
int source_policy_check(const char *url, const struct fetch_policy *policy, struct err *reterr) MUST_CHECK;
/* Of apt's archives, which are signed: plain http will do. */
int source_policy_archive(const char *url, const struct fetch_policy *policy, struct err *reterr) MUST_CHECK;
/* Of each submodule: named is what `git config -z --get-regexp '^submodule\..*\.url$'` says. */
int source_policy_modules(
	struct view named, const struct fetch_policy *policy, struct err *reterr) MUST_CHECK;
/* It names hosts: redirects and package managers, which do not know it, are not let go their own way. */
bool source_policy_bounds(const struct fetch_policy *policy);

/* ---- what tools say (source_output.c) ------------------------------------------------------------ */

struct source_output {
	char *errors[3]; /* the first of each class, the best class first */
	bool joining;    /* the lines of a CMake error go on */
	bool no_space, killed, read_only;
	int pct; /* -1: none yet */
};
void source_output_done(struct source_output *o);
/* True: the percentage is another one now. */
bool source_output_line(struct source_output *o, struct view line);
/* The line that tells most; NULL: none did. */
const char *source_output_error(const struct source_output *o);

/* For engine.mode auto: whether one is built here that can use the devices; whether one can be, since a GPU
 * and its maker's toolkit are here. */
bool source_is_made(const struct engine_def *d, const struct engine_ensure_opts *o);
bool source_is_possible(const struct engine_def *d, const struct engine_ensure_opts *o);

/* ---- what lies on the disk (source_record.c) ----------------------------------------------------- */

struct source_record {
	char *folder; /* "source-<hash>" */
	char *version, *commit, *ref, *repo, *backend, *archs, *forced, *flags, *compiler, *program, *created;
};
void source_record_done(struct source_record *r);
int source_record_read(const char *file, struct source_record *ret) MUST_CHECK; /* -ENOENT: none */
int source_record_write(const char *file, const struct source_record *r) MUST_CHECK;

struct source_names {
	char *dir, *pointer, *last, *lock, *logs;
};
void source_names_init(struct source_names *n, const struct source_spec *s, const char *prefix_dir);
void source_names_done(struct source_names *n);
/* The current build, if it is there and can use the devices. */
bool source_provisioned(const struct source_names *n, const struct engine_device *devices, size_t ndevices,
	bool cpu_instead, struct engine_build *ret) MUST_CHECK;
/* The build a record means; false: it is gone. */
bool source_build_of(
	const struct source_names *n, const struct source_record *r, struct engine_build *ret) MUST_CHECK;
/* Makes that build the current one; the one that was is kept for a rollback. */
int source_make_current(const struct source_names *n, const struct source_record *r) MUST_CHECK;

struct source_build { /* one of all that lie there */
	struct source_record record;
	bool current, last; /* some pool's build, or what a rollback goes back to */
	uint64_t bytes;
};
struct source_builds {
	struct source_build *items; /* the newest first */
	size_t len;
};
/* Blocks for the disk. */
void source_builds_read(const char *prefix_dir, struct source_builds *ret);
void source_builds_done(struct source_builds *b);
/* Back to the build before; once more undoes it. */
int source_rollback(const struct source_names *n, struct source_record *ret, struct err *reterr) MUST_CHECK;
/* What an interrupted job left and nobody will go on with: sources of other commits, builds not touched for a
 * week. keep: names that stay. Blocks. */
void source_leftovers_remove(const char *dir, const char *const *keep, size_t nkeep);

#endif
