/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of this folder share: running a tool and reading what it says, asking a program for
 * its version, the package mode's job, and the words of a command line. Control loop only, except
 * where "offload" is said. Nothing here is for other folders.
 */
#ifndef PROVISION_ENGINE_ENGINE_INT_H
#define PROVISION_ENGINE_ENGINE_INT_H

#include "base/buf.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/mem.h"
#include "base/url.h"
#include "provision/engine/engine.h"
#include "provision/engine/steps.h"
#include "provision/fetch/fetch.h"

/* ---- tools.c: small things about paths, environments and texts ------------------------------- */

/* The absolute path of an executable file: name with a slash is taken as it is, else PATH is searched.
 * NULL: there is none. The caller frees it. */
char *tool_find(const char *name) MUST_CHECK;
/* PATH, HOME, LANG, *_proxy, HF_* of ours, with defaults for PATH and LANG. Appends. */
void env_clean(struct strv *env);
/* Sets NAME=value, replacing an earlier NAME. */
void env_set(struct strv *env, const char *assignment);
/* Whether text can stand between double quotes in apt's configuration and as one word of a sources line. */
bool apt_word_ok(const char *s);

/* ---- run.c: one tool, to its end ------------------------------------------------------------- */

enum { RUN_OUT_MAX = 1024 * 1024, RUN_TAIL_MAX = 16 * 1024, RUN_LINE_MAX = 4096 };

struct run_result {
	int exit_code, signo;
	bool silent;      /* ended by us: it said nothing for silence_ms */
	bool too_long;    /* its stdout passed RUN_OUT_MAX and was cut */
	struct view out;  /* stdout */
	struct view tail; /* the end of stderr */
};
bool run_failed(const struct run_result *r);
typedef void run_done_fn(void *arg, const struct run_result *r);
typedef void run_line_fn(
	void *arg, struct view line); /* one line of the status descriptor, without its end */
/* One line of stdout or stderr; ended: by a line feed, else by the carriage return of a progress display. */
typedef void run_output_fn(void *arg, struct view line, bool ended);

struct run_opts {
	const struct strv *argv;
	const struct strv *env; /* complete */
	const char *cwd;
	int keep_fd;        /* stays open in the child as descriptor 4, -1 none: a lock it shall hold on to */
	int64_t silence_ms; /* nothing read for so long: SIGKILL to its group; 0 = no limit */
	run_line_fn *on_status;   /* lines written to descriptor 3; NULL = there is none */
	run_output_fn *on_output; /* both streams, as they come; NULL = nobody reads along */
	run_done_fn *on_done;     /* once, from the loop; the run is freed after it */
	void *arg;
};
struct run;
int run_start(struct loop *l, const struct run_opts *o, struct run **ret, struct err *reterr) MUST_CHECK;
/* SIGTERM to its whole group, no callback any more. NULL inside allowed. */
void run_cancel(struct run **r);

/* ---- probe.c: `PROGRAM --version`, remembered ------------------------------------------------ */

/* "version: 0.7.0 (build 11669, commit X)" → "0.7.0"; "version: 5835 (abc)" → "b5835"; NULL unknown. */
char *version_parse(struct view text) MUST_CHECK;
/* The remembered version of the program as it is now (path, size, mtime, inode), NULL if it was not
 * asked yet; "?" is remembered for a program that tells none. cache_file may be NULL. */
char *probe_cached(const char *cache_file, const char *program) MUST_CHECK;
void probe_remember(const char *cache_file, const char *program, const char *version);

/* ---- ensure.c: the job ----------------------------------------------------------------------- */

struct package;   /* package.c */
struct source;    /* source.c */
struct container; /* container.c */
struct archive;   /* archive.c */

/* job_steps.c: at == plan.len: none has begun */
struct job_steps {
	struct steps plan;
	struct steps_store store; /* NULLs: nobody remembers */
	size_t at;
	int64_t began_ms;
	char *dir, *name; /* of the logs; name NULL: the mode writes its own */
	char *log, *next_log, *said;
	int log_fd;
};

struct engine_job {
	struct loop *loop;
	struct job_steps steps;
	struct engine_def def;
	char *prefix_dir, *cache_dir, *probe_file;
	bool allow_cpu, offline;
	engine_progress_fn *on_progress;
	engine_done_fn *on_done;
	void *arg;
	struct loop_work deferred;
	struct engine_build build; /* the answer, while it waits for its callback */
	struct err err;            /* or this */
	bool answered;
	bool in_done; /* its callback is running: nothing to cancel any more */
	struct loop_work progress_due;
	const char *phase; /* the progress that waits for its callback; the newest replaces it */
	int pct;
	uint64_t bytes, total;
	char *text;
	mono_t phase_began; /* of the phase's first percentage, which was phase_pct */
	int phase_pct;
	struct run *run; /* --version of candidate */
	char *candidate;
	const char *candidate_how; /* static */
	struct package *package;
	struct source *source;
	struct engine_device *devices;
	size_t ndevices;
	bool cpu_instead, allow_package_installs, upgrade, look;
	char *upgrade_to;
	uint32_t build_jobs;
	struct container *container;
	struct archive *archive;
	struct fetch_policy policy; /* empty: all may be reached, unless offline */
	struct engine_trust trust;  /* its registries are ours, below */
	struct strv registries;
	char *fetch_program;
	char *note;                       /* why an earlier choice of auto was passed over; NULL */
	bool in_auto, again, list_failed; /* auto.c */
	size_t way;                       /* the next one */
	bool have_spare;
	struct engine_build spare; /* computes on the CPU: if nothing better is found */
	char *doing;               /* package_system.c: the command that runs */
};
/* What follows is about that plan, less model-fetch and canary. name: what its steps' logs are called. */
void job_plan(struct engine_job *j, const struct steps *plan, const char *name);
void job_plan_mode(struct engine_job *j, enum engine_mode mode, const char *what); /* plan.c */
void job_step_phase(struct engine_job *j, const char *phase, const char *text);
void job_step_log(struct engine_job *j, const char *file);    /* the mode's own, of the step that runs */
void job_log(struct engine_job *j, struct view line);         /* into the log of the step that runs */
void job_steps_end(struct engine_job *j, const char *failed); /* NULL: all is done */
void job_steps_done(struct job_steps *s);
void job_progress(struct engine_job *j, const char *phase, int pct, const char *fmt, ...) PRINTF(4, 5);
/* How many bytes that percentage is of: right after it. */
void job_bytes(struct engine_job *j, uint64_t bytes, uint64_t total);
/* The answer; the callback comes at the end of the round. The job is freed after its callback. With auto it
 * may be the next way instead. */
void job_succeed(struct engine_job *j); /* with j->build */
void job_answer(struct engine_job *j);  /* the same, and nothing else is looked at */
int job_fail(struct engine_job *j, int code, const char *fmt, ...) PRINTF(3, 4);
/* Asks the program for its version, unless that is known, and takes it. how: why this one; static. */
void job_take_program(struct engine_job *j, const char *program, const char *how);

/* ---- package.c, package_apt.c, package_files.c, package_record.c ----------------------------- */

/* Debian's packages in a prefix of ours:
 *   <prefix>/llamacpp/package[-BACKEND][-KEY].build   which folder is current: what a start reads
 *   <prefix>/llamacpp/package-<version>[-BACKEND]/    unpacked, complete, never changed afterwards
 *   <prefix>/llamacpp/release-<suite>[-KEY]   the newest Release date seen
 *   <prefix>/llamacpp/package.lock            held (flock) while one process works on it
 *   <prefix>/llamacpp/.new-<random>/          being made; removed by the next one who holds the lock
 *   <cache>/apt[-KEY]/                        apt's configuration, lists and downloads */
struct package_names {
	char *dir;                                           /* <prefix>/llamacpp */
	char *record, *last, *lock, *apt_dir, *release_file; /* last: the record before */
	char *archive; /* asked for: configuration, else CORRAL_PACKAGE_ARCHIVE; NULL = what apt uses */
	char *suite, *keyring;
	enum engine_backend backend; /* the CPU, else one more besides */
};
int package_names_init(struct package_names *n, const struct engine_def *def, enum engine_backend backend,
	const char *prefix_dir, const char *cache_dir, struct err *reterr) MUST_CHECK;
/* "vulkan", "hip"; "" for the CPU. */
const char *package_backend_word(enum engine_backend b);
void package_names_done(struct package_names *n);

struct package_record {
	char *folder;  /* name inside dir */
	char *version; /* the program's own */
	char *package; /* Debian's version */
	char *suite;
	char *loader;       /* relative to folder, as the next three */
	char *library_path; /* a:b, each relative */
	char *program;
	char *backends;
};
void package_record_done(struct package_record *r);
/* -ENOENT: there is none (or one of another layout). */
int package_record_read(const char *file, struct package_record *ret) MUST_CHECK;
int package_record_write(const char *file, const struct package_record *r) MUST_CHECK;
/* The current one; the one that was is kept for a rollback. */
int package_make_current(const struct package_names *n, const struct package_record *r) MUST_CHECK;
/* Finds loader, libraries, back ends and program in an unpacked tree; offload. */
int package_layout_find(const char *root, struct package_record *ret, struct err *reterr) MUST_CHECK;
/* The build a record means, NULL members where it is not there any more: one stat. false: gone. */
bool package_build_of(const struct package_names *n, const struct package_record *r, const char *note,
	struct engine_build *ret) MUST_CHECK;
/* The whole fast path: one read, one stat. */
bool package_provisioned(
	const struct package_names *n, const char *note, struct engine_build *ret) MUST_CHECK;

/* "Fri, 30 Oct 2026 08:08:01 UTC" → seconds since 1970; -EINVAL. */
int release_date_parse(struct view text, int64_t *ret) MUST_CHECK;
/* The Date: of a Release or InRelease file. */
int release_date_read(const char *file, int64_t *ret) MUST_CHECK;
/* Refuses a date older than the one stored, stores a newer one. */
int release_date_admit(const struct package_names *n, int64_t date, struct err *reterr) MUST_CHECK;
char *release_file_find(const char *apt_dir) MUST_CHECK; /* the verified InRelease (or Release); NULL */

/* One file apt would fetch. */
struct package_file {
	char *name;
	char sha256[65];
	uint64_t size;
};
struct package_files {
	struct package_file *items;
	size_t n;
	char *version; /* of llama.cpp-tools, without the epoch */
};
enum { PACKAGE_FILES_MAX = 256 };
void package_files_done(struct package_files *f);
/* Reads `apt-get --print-uris`. */
int package_files_parse(struct view text, struct package_files *ret, struct err *reterr) MUST_CHECK;

/* What of the system's `apt-config dump` our private one needs, appended to b as configuration; the
 * architecture it works for. */
int apt_config_carry(struct view dump, struct buf *b, char **ret_arch) MUST_CHECK;
/* Makes the folder with configuration, sources, status and empty lists. */
int apt_dir_make(const struct package_names *n, const char *archive, struct view carried, const char *arch,
	struct err *reterr) MUST_CHECK;
/* The archive out of `apt-get indextargets` (see APT_TARGETS_FORMAT) or `apt-get --print-uris update`. */
#define APT_TARGETS_FORMAT "$(REPO_URI)|$(ORIGIN)|$(CODENAME)|$(COMPONENT)"
char *apt_archive_of_targets(struct view out) MUST_CHECK;
char *apt_archive_of_uris(struct view out, const char *codename) MUST_CHECK;
/* "pmstatus:…"/"dlstatus:n:12.5:text" → percent, or -1. */
int apt_status_pct(struct view line);
/* A sentence out of what apt said. */
void apt_explain(const char *doing, const char *archive, const struct run_result *r, struct err *reterr);

/* Removes a folder and all in it; offload. */
void tree_remove(const char *path);
/* What its files take on the disk; offload. */
uint64_t tree_size(const char *path);
/* Removes what an interrupted job left in dir (.new-*); offload. */
void package_leftovers_remove(const char *dir);

void package_start(struct engine_job *j, enum engine_backend backend);
void package_cancel(struct package **p);
/* The plain one: what is provisioned, else fetched, else by the system's package manager. */
void package_take(struct engine_job *j);
bool package_possible(void); /* apt-get and dpkg are here */
char *package_describe(
	const struct engine_def *d, enum engine_backend b, const struct engine_ensure_opts *o) MUST_CHECK;

/* ---- package_system.c ------------------------------------------------------------------------ */

/* why: a sentence without its end, for when that cannot be done either. */
void package_system(struct engine_job *j, const char *why);

/* ---- source.c (source.h) --------------------------------------------------------------------- */

void source_start(struct engine_job *j);
void source_cancel(struct source **s);
char *source_describe(const struct engine_def *d, const struct engine_ensure_opts *o) MUST_CHECK;

/* ---- archive.c ----------------------------------------------------------------------------------- */

/* An archive by its digest:
 *   <prefix>/<kind>/binary-<12 digits of its SHA-256>/   unpacked, complete, never changed afterwards
 *   <cache>/archives/<SHA-256>                           fetched; removed once it is unpacked
 * fetch/ makes both beside their places and renames them when they are whole. */
void archive_start(struct engine_job *j);
char *archive_describe(const struct engine_def *d, const struct engine_ensure_opts *o) MUST_CHECK;
/* "binary-0123456789ab" under its kind's folder; NULL: def has no digest. */
char *archive_folder(const char *prefix_dir, const struct engine_def *def) MUST_CHECK;
void archive_cancel(struct archive **a);
/* The program in an unpacked tree: by its path below root, else the only one of that name (the least deep,
 * then the first by name). NULL: none; offload. */
char *archive_find(const char *root, const char *name) MUST_CHECK;

/* ---- container.c --------------------------------------------------------------------------------- */

/* Images: what a tag meant when it was fetched first stands in
 *   <prefix>/images/<hash of what was written>.pin   "registry/name@sha256:…"
 *   <prefix>/images/<hash of what was written>.last  what it was pinned to before */
/* What is asked for: the definition's, else the kind's own; NULL: none is known. */
char *container_image(const struct engine_def *d, const struct engine_device *devices, size_t n) MUST_CHECK;
char *container_pin_file(const char *prefix_dir, const char *image) MUST_CHECK;
char *container_pin_last(const char *pin_file) MUST_CHECK;
char *container_pin_read(const char *file) MUST_CHECK; /* NULL: none */
int container_pin_write(const char *file, const char *image) MUST_CHECK;
void container_start(struct engine_job *j);
/* Whether its image has been pinned: it was fetched before. */
bool container_is_pinned(const struct engine_def *d, const struct engine_ensure_opts *o);
char *container_describe(const struct engine_def *d, const struct engine_ensure_opts *o) MUST_CHECK;
void container_cancel(struct container **c);
/* podman, else docker; NULL: neither is in PATH. */
char *container_runtime(enum engine_runtime wish, bool *ret_docker) MUST_CHECK;
/* "name:tag" with the digest of that repository out of `image inspect`'s RepoDigests (a JSON list); NULL:
 * there is none. */
char *container_pin(const char *image, struct view digests) MUST_CHECK;
/* The image at another tag or digest; to NULL: as it is; NULL: it is neither. */
char *container_image_to(const char *image, const char *to) MUST_CHECK;
/* Why image is no name of one: a sentence; NULL: it is one. */
const char *container_image_problem(const char *image);
/* "reg.example:5000" of reg.example:5000/a/b:tag; a name without a host is of docker.io. */
char *container_registry(const char *image) MUST_CHECK;
/* Whether it may be run. image: as it is now, by its digest where it is pinned. */
int container_trusted(const char *image, const struct engine_trust *t, struct err *reterr) MUST_CHECK;

/* ---- args.c, args_llama.c ---------------------------------------------------------------------- */

enum arg_arity { ARG_FLAG, ARG_VALUE, ARG_MAYBE }; /* MAYBE: takes the next word if that is no option */

struct engine_option {
	const char *names[6]; /* the first is what we write */
	enum arg_arity arity;
	bool repeats;       /* may stand several times */
	const char *family; /* of an option and its opposite: the last of the family wins; NULL = names[0] */
	const char *ours;   /* why it is not the pool's to set: follows "engine.args has X: " */
	bool if_set;        /* ours only where we pass it */
	const char *env;    /* the variable that would set it too, for those that are ours */
};
struct engine_options {
	const struct engine_option *items;
	size_t n;
	bool abbreviates; /* its parser takes the beginning of a name for the name */
};
extern const struct engine_options llama_options;

/* Aliases folded to one name, duplicates: the last wins, those that contradict what we pass refused. ours is
 * the start of the line (already folded names). */
int engine_args_merge(const struct engine_options *t, const struct strv *ours, const struct strv *args,
	const struct strv *env, struct strv *ret, struct err *reterr) MUST_CHECK;

/* ---- launch_row.c ------------------------------------------------------------------------------ */

/* Puts words into out, with the names of template.c filled in, from the from-th on. */
int add_templates(const struct strv *words, size_t from, const struct engine_params *p, struct strv *out,
	struct err *reterr) MUST_CHECK;
/* Where it listens: on loopback, or for whom its container lets in. */
const char *launch_host(const struct engine_build *b);
void launch_file(struct engine_launch *l, char *path, char *text); /* takes both */
/* The line that was made becomes the command inside a container. */
int launch_container(const struct engine_build *b, const struct engine_def *def,
	const struct engine_params *p, struct engine_launch *l, struct err *reterr) MUST_CHECK;
/* Of an engines_dir: what its containers are marked with. */
char *container_label(const char *engines_dir) MUST_CHECK;
/* What podman and docker need of ours to find their servers and storage. Appends. */
void container_client_env(struct strv *env);
/* An engine of the table that is no llama.cpp. */
int launch_row(const struct engine_build *b, const struct engine_def *def, const struct engine_params *p,
	struct engine_launch *l, struct err *reterr) MUST_CHECK;

/* ---- template.c ------------------------------------------------------------------------------ */

/* Replaces {port} ${PORT} {socket} {model} {ctx} {slots} {devices} {id} inside word, appends it to out. */
int template_word(
	const char *word, const struct engine_params *p, struct strv *out, struct err *reterr) MUST_CHECK;
bool template_names(const struct strv *words, const char *name);

#endif
