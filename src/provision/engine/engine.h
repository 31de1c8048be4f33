/* SPDX-License-Identifier: Apache-2.0
 *
 * Getting an engine onto this machine, and knowing how to start one. An engine_def is what the
 * configuration says; an engine_build is a program that is there; an engine_launch is the exact way
 * to start it for one replica. Control loop of the node only. Starts no engine itself.
 */
#ifndef PROVISION_ENGINE_ENGINE_H
#define PROVISION_ENGINE_ENGINE_H

#include "base/err.h"
#include "base/strv.h"
#include "loop/loop.h"

struct fetch_policy; /* provision/fetch/fetch.h */
struct steps;        /* provision/engine/steps.h */
struct steps_store;

enum engine_kind {
	ENGINE_LLAMACPP,
	ENGINE_OPENAI, /* any server that speaks the OpenAI API */
	ENGINE_COMMAND,
	ENGINE_VLLM,
	ENGINE_SGLANG,
	ENGINE_TGI,
	ENGINE_TRITON,
};
enum engine_mode {
	ENGINE_MODE_AUTO,
	ENGINE_MODE_EXTERNAL,
	ENGINE_MODE_BINARY,
	ENGINE_MODE_PACKAGE,
	ENGINE_MODE_SOURCE,
	ENGINE_MODE_CONTAINER,
};
enum engine_runtime { ENGINE_RUNTIME_AUTO, ENGINE_RUNTIME_PODMAN, ENGINE_RUNTIME_DOCKER };
/* What a build computes with; of a device: what its maker's toolkit builds for. */
enum engine_backend { ENGINE_CPU, ENGINE_CUDA, ENGINE_HIP, ENGINE_VULKAN };
const char *engine_kind_name(enum engine_kind k);
const char *engine_mode_name(enum engine_mode m);
const char *engine_backend_name(enum engine_backend b); /* "CPU", "CUDA", … */

/* A GPU of this machine, as far as choosing an engine's build goes. */
struct engine_device {
	enum engine_backend backend;
	char name[96];
	char arch[16];   /* CUDA: "8.9"; HIP: "gfx1100"; empty: not known */
	char driver[64]; /* its version; empty: not known */
};

struct engine_def {
	enum engine_kind kind;
	enum engine_mode mode;
	char *path;       /* binary */
	struct strv urls; /* external; binary without path: where its archive is, mirrors after the first */
	char *sha256;     /* binary: the archive's, 64 hex digits */
	char *program;    /* binary: its name inside the archive; NULL: the kind's own */
	char *image;      /* container: "registry/name@sha256:…", or with a tag; NULL: the kind's own */
	enum engine_runtime runtime; /* container */
	struct strv command; /* command: words, with {port} {socket} {model} {ctx} {slots} {devices} {id},
				${PORT} */
	struct strv stop_command; /* command: instead of SIGTERM; may be empty */
	char *package_archive, *package_suite, *package_keyring; /* NULL = defaults */
	char *source_repo, *source_ref; /* source: NULL = llama.cpp's own, its newest release */
	struct strv source_flags;       /* CMake's, "NAME=value" */
	struct strv args;               /* put after ours, normalised */
	struct strv env;                /* "NAME=value" */
	char *health;                   /* path, NULL = /health (llamacpp, command), /v1/models (openai) */
};
void engine_def_done(struct engine_def *d);
void engine_def_copy(struct engine_def *to, const struct engine_def *from);

struct engine_build {
	enum engine_kind kind;
	enum engine_mode mode;   /* what auto became */
	bool external;           /* nothing to start; def.urls are the replicas' addresses */
	char *program;           /* what is executed (a loader for the package mode) */
	struct strv prefix_args; /* between argv[0] and the engine's own arguments */
	struct strv env;         /* NAME=value the build needs */
	char *cwd;               /* folder it must be started in; NULL = any */
	char *version;           /* "b11669", "0.7.0", NULL unknown */
	char *image;             /* container: with its digest; program is podman or docker */
	bool docker;
	char *why;     /* "package: Debian's llama.cpp 0.7.0 (CPU): no llama-server in PATH" */
	bool cpu_only; /* known to compute on the CPU alone */
	char *commit, *flags, *features; /* source; NULL: not known */
};
void engine_build_done(struct engine_build *b);
void engine_build_copy(struct engine_build *to, const struct engine_build *from);

struct engine_progress {
	const char *phase;     /* "resolve", "fetch", "verify", "unpack", "install", "probe", "preflight",
				  "configure", "build" */
	int pct;               /* 0..100, -1 unknown */
	const char *text;      /* a sentence, present tense */
	uint64_t bytes, total; /* of what is fetched, verified or unpacked; total 0: nothing of the kind */
	int64_t eta_ms;        /* until this phase ends, at its pace so far; -1 unknown */
	unsigned step, steps;  /* the plan's step it is at, from 1, of so many; 0: it has none */
};
typedef void engine_progress_fn(void *arg, const struct engine_progress *p);
/* build is set on success (copy what you keep), err otherwise. Called once, at the end of a round, never
 * from inside engine_ensure; the job is gone when it returns: forget the pointer. Progress comes the
 * same way, the newest of a round; both callbacks may cancel. */
typedef void engine_done_fn(void *arg, const struct engine_build *build, const struct err *err);

/* Whose images are run. strict: only of registries, and by digest. */
struct engine_trust {
	bool strict, require_digest;
	const struct strv *registries; /* "ghcr.io", "*.example.org"; NULL or empty: all */
};

struct engine_ensure_opts {
	const char *prefix_dir; /* where builds live: <state_dir>/engines; absolute, made when missing */
	const char *cache_dir;  /* downloads; absolute; NULL = prefix_dir */
	bool allow_cpu;         /* gpu policy lets the CPU be used */
	bool offline;           /* nothing may be fetched */
	const struct engine_device *devices; /* the GPUs it shall be able to use; copied */
	size_t ndevices;
	bool cpu_instead;            /* where no build can use them, the CPU will do */
	uint32_t build_jobs;         /* compilers at a time, 0 = as many as CPUs and memory allow */
	bool allow_package_installs; /* missing build tools may be installed */
	bool upgrade;                /* what the ref, the tag, the archive has now is got beside */
	const char *upgrade_to; /* … or that one: a ref, a tag or digest, the archive's version; NULL */
	bool again;             /* auto: what failed a short while ago is tried again */
	bool look; /* source: only which commit that is: build.version its name, build.why its 40 digits */
	const struct fetch_policy *policy; /* what else may be reached; copied; NULL: all */
	struct engine_trust trust;         /* copied */
	const char *fetch_program;         /* NULL: beside our own executable */
	const struct steps_store *records; /* who remembers its steps; copied; NULL: nobody */
};
struct engine_job;
/* Makes the engine ready to be started: idempotent, single flight across processes (a lock file),
 * resumable after a kill at any point. def is copied. */
struct engine_job *engine_ensure(struct loop *l, const struct engine_def *def,
	const struct engine_ensure_opts *o, engine_progress_fn *on_progress, engine_done_fn *on_done,
	void *arg) MUST_CHECK;
void engine_job_cancel(
	struct engine_job **j); /* no callback any more; children are ended; NULL inside allowed */

/* What `plan` would say, without doing it: "llama-server 0.7.0 at /usr/bin/llama-server". One sentence. */
char *engine_describe(const struct engine_def *def, const struct engine_ensure_opts *o) MUST_CHECK;

/* The steps of a mode, out of the definition alone: nothing of source, command and external. what: the
 * container's image, the installed program; may be NULL. */
void engine_plan(const struct engine_def *def, enum engine_mode mode, const char *what, struct steps *ret);
/* What a pool adds: its model where that has to be fetched (else NULL), and the canary of that program (NULL:
 * of whichever it will be). */
void engine_plan_pool(const char *model, const char *program, struct steps *ret);

struct engine_params {
	const char *pool_id, *replica_id;
	const char *model_path;        /* NULL: the engine brings its own */
	const char *socket_path;       /* llamacpp always; command where it uses {socket} */
	uint16_t port;                 /* command where it uses {port} or ${PORT} */
	uint32_t ctx, slots;           /* ctx per request: the engine gets ctx × slots */
	const char *devices;           /* what {devices} in a command becomes; NULL = "auto" */
	const struct strv *device_env; /* NAME=value that keep it on its devices; may be NULL */
	bool cpu_only;                 /* llamacpp: no GPU whatever the build could use */
	uint64_t cache_ram_mib;
	/* How the model is divided over its devices; gpu_layers 0: nobody planned it. The pool's own
	 * arguments win. */
	uint32_t gpu_layers,
		cpu_experts; /* the output counts as a layer; layers whose experts stay on the host */
	const char *split;   /* "20,13": shares of its devices; NULL: one, or even */
	/* Engines of the table that are no llama.cpp. */
	unsigned gpus;           /* it is divided over so many; 0: nobody said */
	unsigned share_permille; /* of each device's memory it may take; 0: nobody said */
	const char *gpu_kind;    /* "cuda", "hip", … of its devices; NULL: it computes on the CPU */
	const char *key;         /* what it shall ask of who talks to it; NULL: nothing */
	const char *files;       /* "/run/…/chat-0.7": what its files' names begin with */
};
/* Written before it is started, readable for its owner alone; removed after its end. */
struct engine_file {
	char *path, *text;
};
enum { ENGINE_FILES_MAX = 3 };
struct engine_launch {
	struct strv argv; /* argv[0] is the program to execute */
	struct strv env;  /* complete and clean: PATH, HOME, LANG, proxies, HF_*, the build's, the pool's */
	char *cwd;
	char *address; /* "unix:/…" or "http://127.0.0.1:PORT" */
	char *health_path;
	bool has_slots; /* GET /slots works */
	bool uses_port, uses_socket;
	struct strv stop_argv; /* command with a stop_command: run this instead of SIGTERM; else empty */
	struct engine_file files[ENGINE_FILES_MAX];
	size_t nfiles;
	bool uses_key; /* it asks for params.key */
	char *serves;  /* the only name it knows its model by; NULL: it takes any */
};
void engine_launch_done(struct engine_launch *l);
/* Builds the command line. Refuses, with the reason and what to do: `--embeddings` without a pooling
 * other than none, arguments that contradict ours (--host, --port, -m, --alias …), a socket path over 107
 * bytes. */
int engine_launch_build(const struct engine_build *b, const struct engine_def *def,
	const struct engine_params *p, struct engine_launch *ret, struct err *reterr) MUST_CHECK;
/* Whether it is told a port, a socket: a command by {port} / ${PORT} or {socket}. build may be NULL. */
void engine_needs(
	const struct engine_def *def, const struct engine_build *build, bool *ret_port, bool *ret_socket);
/* Containers of engines_dir's engines that outlived who started them (a keeper that was killed, a stop that
 * failed): those that keep does not want are removed. program: podman or docker. done is called once, from
 * the loop. The next start of a replica removes its own leftovers before anything else, too. */
struct engine_sweep_ops {
	bool (*keep)(void *arg, const char *replica_id, uint64_t generation);
	loop_fn *done;
};
struct engine_sweep;
int engine_sweep_start(struct loop *l, const char *program, const char *engines_dir,
	const struct engine_sweep_ops *ops, void *arg, struct engine_sweep **ret,
	struct err *reterr) MUST_CHECK;
void engine_sweep_cancel(struct engine_sweep **s); /* NULL inside allowed */
/* argv with everything secret-looking replaced, word by word, for logs and the handoff file. Appends. */
void engine_argv_redact(const struct strv *argv, struct strv *ret);

/* The causes a log can tell; the values are those of enum wire_cause (wire/wire.h), which this folder
 * may not include: a unit test holds the two together. */
enum engine_cause {
	ENGINE_CAUSE_NONE = 0,
	ENGINE_CAUSE_EXIT = 1,
	ENGINE_CAUSE_OOM_VRAM = 3,
	ENGINE_CAUSE_OOM_HOST = 4,
	ENGINE_CAUSE_BAD_MODEL = 5,
	ENGINE_CAUSE_BAD_ARGS = 6,
	ENGINE_CAUSE_NO_ENGINE = 7,
};
/* Reads the cause out of an engine's last log lines (the last 64 KiB are looked at): returns an enum
 * engine_cause (0 = nothing recognised: nothing is set) and two sentences the caller frees. Patterns
 * are a table. */
int engine_log_cause(struct view log_tail, char **ret_sentence, char **ret_hint);

#endif
