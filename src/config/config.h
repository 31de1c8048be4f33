/* SPDX-License-Identifier: Apache-2.0
 *
 * The configuration: one YAML file, CORRAL_* variables and command-line overrides, checked against one
 * field table (table.c) that also makes the reference page, the JSON Schema and `config show`.
 *
 * A struct config is immutable once loaded and shared by reference from any thread. Loading collects
 * every mistake of a run, each with file, line, column, the key, what was found and what is accepted.
 * Files are read as hostile: CONFIG_FILE_MAX bytes, CONFIG_DEPTH_MAX levels, aliases are never expanded.
 */
#ifndef CONFIG_CONFIG_H
#define CONFIG_CONFIG_H

#include "base/buf.h"
#include "base/err.h"
#include "base/strv.h"

enum {
	CONFIG_FILE_MAX = 1024 * 1024,
	CONFIG_DEPTH_MAX = 32,
	CONFIG_NODES_MAX = 200000, /* keys, values and lists of one file */
	CONFIG_POOLS_MAX = 1024,
	CONFIG_LIST_MAX = 1024,
	CONFIG_TRUSTED_MAX = 256,
	CONFIG_STRING_MAX = 16 * 1024,
	CONFIG_ERRORS_MAX = 64,  /* further mistakes are counted, not kept */
	CONFIG_SOCKET_MAX = 107, /* bytes of a unix socket's path */
};

enum config_gpu { CONFIG_GPU_AUTO, CONFIG_GPU_REQUIRED, CONFIG_GPU_OPTIONAL, CONFIG_GPU_NONE };
enum config_log_format { CONFIG_LOG_AUTO, CONFIG_LOG_JSON, CONFIG_LOG_CONSOLE };
enum config_log_level { CONFIG_LEVEL_DEBUG, CONFIG_LEVEL_INFO, CONFIG_LEVEL_WARN, CONFIG_LEVEL_ERROR };
enum config_canary { CONFIG_CANARY_AUTO, CONFIG_CANARY_ALWAYS, CONFIG_CANARY_NEVER };
enum config_kv_save { CONFIG_KV_AUTO, CONFIG_KV_ON, CONFIG_KV_OFF };
enum config_policy { CONFIG_POLICY_REJECT, CONFIG_POLICY_DROP_LRU };
enum config_offload { CONFIG_OFFLOAD_AUTO, CONFIG_OFFLOAD_NEVER };
enum config_hold { CONFIG_HOLD_TOOL_CALLS, CONFIG_HOLD_ALWAYS, CONFIG_HOLD_NEVER };
enum config_trust { CONFIG_TRUST_PERMISSIVE, CONFIG_TRUST_STRICT };
enum config_progress {
	CONFIG_PROGRESS_AUTO,
	CONFIG_PROGRESS_COMMENT,
	CONFIG_PROGRESS_CHUNK,
	CONFIG_PROGRESS_REASONING,
	CONFIG_PROGRESS_OFF,
};
enum config_engine_kind {
	CONFIG_ENGINE_LLAMACPP,
	CONFIG_ENGINE_OPENAI,
	CONFIG_ENGINE_COMMAND,
	CONFIG_ENGINE_VLLM,
	CONFIG_ENGINE_SGLANG,
	CONFIG_ENGINE_TGI,
	CONFIG_ENGINE_TRITON,
};
/* Those that are started by a line of Corral's own, with a model. */
static inline bool config_engine_takes_model(enum config_engine_kind k)
{
	return k == CONFIG_ENGINE_LLAMACPP || k == CONFIG_ENGINE_VLLM || k == CONFIG_ENGINE_SGLANG ||
	       k == CONFIG_ENGINE_TGI;
}
enum config_engine_mode {
	CONFIG_MODE_AUTO,
	CONFIG_MODE_EXTERNAL,
	CONFIG_MODE_BINARY,
	CONFIG_MODE_PACKAGE,
	CONFIG_MODE_SOURCE,
	CONFIG_MODE_CONTAINER,
};
enum config_runtime { CONFIG_RUNTIME_AUTO, CONFIG_RUNTIME_PODMAN, CONFIG_RUNTIME_DOCKER };

enum config_from {
	CONFIG_FROM_DEFAULT,
	CONFIG_FROM_FILE,
	CONFIG_FROM_ENV,
	CONFIG_FROM_COMMAND_LINE,
	CONFIG_FROM_FOUND, /* name: what was found, or where */
};
struct config_origin {
	enum config_from kind;
	const char *name;      /* the file or the variable; NULL for a default */
	unsigned line, column; /* 1-based; 0 outside a file */
	unsigned width;        /* characters of the value */
};

struct config_engine {
	enum config_engine_kind kind;
	enum config_engine_mode mode; /* external and binary are inferred from urls and path */
	char *path;                   /* binary: absolute, or a bare name to be found in PATH */
	struct strv urls; /* external, without a trailing slash; binary without path: its archive */
	char *sha256,
		*program; /* binary: of the archive, lower case; in the archive, NULL = the kind's own */
	char *image;      /* container; NULL = the kind's own */
	enum config_runtime runtime; /* container */
	struct strv command, stop_command;
	char *package_archive, *package_suite, *package_keyring; /* NULL = the provisioner's own */
	char *version;                                           /* NULL = installed */
	char *source_repo, *source_ref; /* NULL = llama.cpp's own, its newest release */
	struct strv source_flags;       /* CMake's, as written */
	struct strv args;
	struct strv env; /* "NAME=value" */
	char *health;    /* NULL = the kind's own */
};

struct config_pool {
	char *id;
	char *model; /* the reference as written; NULL: the engine brings its own */
	struct {     /* what else belongs to it; NULL: as the model's place has it */
		char *mmproj, *draft, *sha256;
		struct strv lora;
	} model_set;
	struct strv aliases;
	bool is_default;
	struct config_engine engine;
	int64_t cancel_grace_ms;
	int64_t start_timeout_ms; /* 0 = auto */
	uint32_t ctx;             /* tokens per request; 0 = auto */
	uint32_t slots;
	char *devices;        /* as mask_parse takes it (base/mask.h) */
	char *prefer, *avoid; /* lists of devices, as in devices; NULL: none */
	uint32_t replicas_min, replicas_max;
	uint32_t gpus;       /* devices per replica; 0 = auto */
	uint64_t memory;     /* bytes of each device; 0 = auto */
	uint64_t host_cache; /* bytes; 0 = auto */
	enum config_offload offload;
	bool pinned, idle_only;
	uint32_t evict_cost;
	struct strv never_with; /* ids of pools, checked */
	int64_t keep_alive_ms;  /* -1 = for ever */
	bool preload;
	struct {
		enum config_kv_save save;
		uint64_t max_bytes; /* 0 = auto */
	} kv;
	enum config_canary canary;
	uint32_t queue_capacity;
	enum config_policy queue_policy;
	int64_t queue_max_wait_ms;
	struct {
		enum config_progress mode;
		int64_t after_ms, every_ms;
	} progress;
	int64_t stall_timeout_ms, first_token_timeout_ms;
	struct config_origin *from; /* one per field of the table */
	struct config_origin at;    /* where the pool begins */
};

struct config {
	unsigned refs;
	struct strv files;                          /* what was read, in order; empty: none was found */
	struct strv listen;                         /* as written, checked */
	char *tls_cert, *tls_key;                   /* both or none */
	struct strv hosts, cors_origins;            /* as written, checked */
	struct strv auth_trusted;                   /* networks, checked (base/cidr.h) */
	char *keys_file;                            /* NULL: none */
	char *state_dir, *runtime_dir, *models_dir; /* absolute */
	enum config_gpu gpu;
	uint32_t workers; /* 0 = auto */
	uint32_t starting_max;
	struct {
		int64_t max_wait_ms, hold_ms;
		enum config_hold hold_after;
	} swap;
	struct {
		uint32_t replicas;        /* 0 = no bound */
		uint64_t host_bytes;      /* 0 = no bound */
		struct strv device_bytes; /* "DEVICE=SIZE", checked */
	} budget;
	uint64_t body_max, body_spool_total;
	struct {
		bool offline, plain_http;
		struct strv allow_hosts, deny; /* as written, checked */
	} network;
	struct {
		enum config_trust mode;
		bool require_digest;
		struct strv registries; /* as written, checked */
	} trust;
	struct {
		uint64_t rate; /* bytes a second; 0 = no bound */
		uint32_t parallel;
		uint64_t headroom; /* bytes */
	} fetch;
	uint64_t models_quota; /* bytes; 0 = no bound */
	enum config_log_format log_format;
	enum config_log_level log_level;
	struct {
		uint32_t jobs; /* 0 = auto */
		bool allow_package_installs;
	} build;
	bool watch;
	struct config_pool *pools; /* in the order of the file */
	size_t npools;
	struct config_pool defaults; /* what each pool starts from; no id, no model */
	struct config_origin *from;
	struct strv names; /* owns what origins point to */
};

struct config_source {
	const char *path;             /* NULL: search (CORRAL_CONFIG, ./corral.yaml, XDG, /etc) */
	const char *const *overrides; /* "key=value": listen=…, defaults.ctx=…, pools.ID.ctx=… */
	size_t noverrides;
	const char *const *env; /* NULL-terminated; NULL = the process's */
	struct view text;       /* p set: read this instead of any file, under the name `path` */
	/* A reload: a file without a byte is being written just now, and does not mean that everything goes.
	 */
	bool not_empty;
};

struct config_error {
	char *file;            /* NULL: not in a file (then `key` says where) */
	unsigned line, column; /* 0 unknown */
	unsigned width;        /* how much the caret underlines */
	char *key;             /* "pools[0].ctx", "CORRAL_LISTEN" */
	char *message;
	char *excerpt; /* the line, NULL outside a file */
};
struct config_errors {
	struct config_error items[CONFIG_ERRORS_MAX];
	size_t len;
	size_t dropped; /* more than fitted */
};
/* One that was found after loading. at: where its key was written (line 0: nowhere). key and message are
 * copied; above CONFIG_ERRORS_MAX it is only counted. */
void config_errors_add(
	struct config_errors *errs, const struct config_origin *at, const char *key, const char *message);
void config_errors_done(
	struct config_errors *e); /* for AUTO(config_errors_done) struct config_errors e = { 0 }; */
/* file:line:column: key: message, the line and a caret under it. */
int config_errors_print(const struct config_errors *e, bool color, struct buf *out);
/* [{"file", "line", "column", "width", "key", "message", "excerpt"}, …] */
int config_errors_json(const struct config_errors *e, struct buf *out);

/* 0 with *ret owned by the caller, or -EINVAL with at least one error in *ret_errs. */
int config_load(
	const struct config_source *src, struct config **ret, struct config_errors *ret_errs) MUST_CHECK;
/* The runtime_dir a file names, also when there are mistakes in it; the default where it cannot be read. */
char *config_runtime_dir(const struct config_source *src) MUST_CHECK;
/* Where a load of src looks, whether something is there or not: files, and folders of drop-ins. */
struct config_places {
	struct strv files, folders;
};
void config_places(const struct config_source *src, struct config_places *ret);
void config_places_done(struct config_places *p);
struct config *config_ref(struct config *c);
struct config *config_unref(struct config *c); /* returns NULL; NULL allowed */
void config_unrefp(struct config **c);         /* for AUTO(config_unrefp) */

/* An item of budget.device_bytes: "*" or an id as a mask names it, and how much. 0 or -EINVAL with a
 * sentence. */
int config_budget_read(
	const char *item, struct view *ret_device, uint64_t *ret_bytes, struct err *reterr) MUST_CHECK;
/* By id or alias, or NULL. */
const struct config_pool *config_pool_find(const struct config *c, struct view name);
/* Whether a pool's `model` (or another file of its set) names something to fetch and no file: by its scheme,
 * or as "org/repo" where models_dir has no such file (one stat). ref NULL: no. */
bool config_model_is_remote(const struct config *c, const char *ref);
/* Where the value of a key came from; NULL for a key that is not in the table. pool NULL: a top-level key. */
const struct config_origin *config_origin_of(
	const struct config *c, const struct config_pool *pool, const char *key);
/* Where a value came from, for people: "default", "corral.yaml:7", "environment CORRAL_LISTEN", "command
 * line".
 */
void config_origin_text(
	const struct config *c, const struct config_pool *pool, const char *key, char *out, size_t cap);

/* ---- one configuration against another --------------------------------------------------------- */

enum { CONFIG_SPEC_LEN = 16 };
/* The fingerprint of what an engine of this pool is started from (engine, model, ctx, slots, devices, …: the
 * fields marked FIELD_ENGINE in the table): the same in every process that reads the same values. */
void config_pool_spec(const struct config_pool *p, char out[CONFIG_SPEC_LEN + 1]);

enum config_change_kind {
	CONFIG_POOL_ADDED,
	CONFIG_POOL_REMOVED,   /* its requests end, then its engines stop */
	CONFIG_POOL_LIVE,      /* takes effect at once, engines go on */
	CONFIG_POOL_ENGINE,    /* its engines are replaced, one after the other, without losing a request */
	CONFIG_TOP_LIVE,       /* log.level and the like */
	CONFIG_TOP_NEXT_START, /* listen, state_dir, …: kept as they are until corral starts again */
};
struct config_change {
	enum config_change_kind kind;
	char *pool;  /* NULL: a top-level key */
	char *keys;  /* "ctx, slots"; NULL: added or removed */
	char *human; /* one sentence: what will be done */
};
struct config_diff {
	struct config_change *items;
	size_t len;
};
void config_diff_done(struct config_diff *d);
/* Appends a change; takes keys and human. pool NULL: a top-level key. */
void config_diff_add(
	struct config_diff *d, enum config_change_kind kind, const char *pool, char *keys, char *human);
/* What applying `to` over `from` would do: top-level keys that change at once, pools in the order of `to`
 * (one entry for its live keys, one for its engine's), removed ones, keys that wait for the next start.
 * Values of lists that may hold secrets (args, env, commands) are not named. Pure. */
void config_diff(const struct config *from, const struct config *to, struct config_diff *ret);
/* What holds once `next` is loaded over `running`: next, with the keys that need a new start as they are in
 * running. The diff of it against a later file lists those keys again, until the start. */
struct config *config_over(const struct config *running, const struct config *next) MUST_CHECK;

struct config_found {       /* a model that nobody configured */
	const char *id;     /* the pool's; NULL: made of the file's name */
	const char *path;   /* absolute */
	const char *source; /* where it was found, for people: "Hugging Face cache" */
	/* What it is called there, "ollama:llama3.2:3b", "hf:org/repo:Q4_K_M": without the scheme an alias;
	 * or NULL */
	const char *reference;
};
/* base, which has no pools, with a pool for each of the list: base's defaults (without preload and
 * replicas.min: a disk full of models is not loaded at once), its id, its path. Which models there are and in
 * which order decides the ids: a name that is taken already or is no id is made one (a-z, 0-9, '.', '_', '-';
 * then with the folder's name before it, then -2 behind it), so a list in the same order gives the same pools
 * and specs in every process. What cannot be served with the defaults (an external engine, a list beyond
 * CONFIG_POOLS_MAX) is left out. A base with pools is copied as it is. */
struct config *config_with_found(
	const struct config *base, const struct config_found *list, size_t n) MUST_CHECK;
/* A file's name as a pool's id: "Qwen3 8B-Q4_K_M.gguf" is "qwen3-8b-q4_k_m", "a-00001-of-00003.gguf" is "a".
 * At most max bytes (max ≤ 64); never empty. */
char *config_id_of_file(const char *path, size_t max) MUST_CHECK;

const char *config_change_kind_name(enum config_change_kind k); /* "pool_added", … */

/* The runtime_dir that holds without any file, from the environment alone (NULL = the process's). */
char *config_default_runtime_dir(const char *const *env) MUST_CHECK;

const char *config_gpu_name(enum config_gpu v);
const char *config_engine_kind_name(enum config_engine_kind v);
const char *config_engine_mode_name(enum config_engine_mode v);

/* ---- made from the table ----------------------------------------------------------------------- */

enum { CONFIG_SHOW_JSON = 1, CONFIG_SHOW_EFFECTIVE = 2 /* defaults too */ };
/* YAML (or JSON) of the values with where each came from; values that look like secrets are masked. */
int config_show(const struct config *c, int flags, struct buf *out);
int config_reference_markdown(struct buf *out);
int config_schema_json(struct buf *out);

#endif
