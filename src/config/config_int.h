/* SPDX-License-Identifier: Apache-2.0
 *
 * Inside src/config: the field table, the YAML tree with positions, and the state of one load.
 */
#ifndef CONFIG_CONFIG_INT_H
#define CONFIG_CONFIG_INT_H

#include "base/map.h"
#include "config/config.h"

/* ---- the field table --------------------------------------------------------------------------- */

enum field_scope { SCOPE_TOP, SCOPE_POOL };
enum field_type {
	FIELD_STRING,   /* char * */
	FIELD_PATH,     /* char *: ~/ is the home, relative to the file's folder */
	FIELD_PROGRAM,  /* char *: as PATH, but a name without a slash stays */
	FIELD_BOOL,     /* bool */
	FIELD_UINT,     /* uint32_t */
	FIELD_SIZE,     /* uint64_t bytes */
	FIELD_DURATION, /* int64_t milliseconds */
	FIELD_ENUM,     /* an enum */
	FIELD_LIST,     /* struct strv; one scalar is a list of one */
	FIELD_WORDS,    /* struct strv; one scalar is split as shell words */
	FIELD_ENV,      /* struct strv of NAME=value; a mapping or a list */
	FIELD_REPLICAS, /* two uint32_t, min and max, set to the same number */
	FIELD_POOLS,    /* the list of pools, and */
	FIELD_DEFAULTS, /* the mapping merged into each: no storage of their own */
};
enum {
	FIELD_ALIAS = 1,       /* another way to write the field `canon` names; not shown */
	FIELD_NO_DEFAULTS = 2, /* a pool's own: refused under `defaults` */
	FIELD_COMPUTED = 4,    /* its default depends on the user (XDG, systemd) */
	/* When a change takes effect: at once, unless one of these says otherwise. */
	FIELD_ENGINE = 8,   /* of a pool: what an engine is started from; its engines are replaced */
	FIELD_RESTART = 16, /* at the top: kept until corral starts again */
};

struct field_word {
	const char *word; /* NULL ends a list */
	int64_t value;
};
struct field {
	enum field_scope scope;
	const char *path; /* "log.level" */
	enum field_type type;
	size_t offset;                  /* in struct config or struct config_pool */
	const char *dflt;               /* as it would be written; NULL = none */
	const struct field_word *words; /* accepted besides numbers (all there is for an enum) */
	uint64_t min, max;              /* of a number, in the storage's unit */
	unsigned flags;
	const char *canon; /* with FIELD_ALIAS */
	const char *doc;   /* Markdown sentences */
};
extern const struct field config_fields[];
extern const size_t config_nfields;
/* The index of the field at that path, or -1. */
int field_find(enum field_scope scope, struct view path);
int field_canon(int index);                                    /* itself unless it is an alias */
bool field_is_group(enum field_scope scope, struct view path); /* some field's path begins with path + "." */
/* "a number from 1 to 256, or auto" */
void field_accepts(const struct field *f, struct buf *out);
/* "CORRAL_LOG_LEVEL", "CORRAL_DEFAULTS_CTX" */
void field_env_name(const struct field *f, struct buf *out);

/* ---- one value (value.c) ------------------------------------------------------------------------ */

struct value_ctx {
	const char *home;   /* for ~/; NULL unknown */
	const char *folder; /* relative paths stand in it */
};
/* Parses one scalar into the field of the struct at base. -EINVAL; why: more than "found …", may stay empty.
 */
int value_set(
	const struct field *f, void *base, struct view text, const struct value_ctx *ctx, struct buf *why);
/* One element of a list field, appended. */
int value_add(const struct field *f, void *base, struct view text, struct buf *why);
/* Forgets a list's elements (before a new source replaces them). */
void value_clear(const struct field *f, void *base);
void value_copy(const struct field *f, void *to, const void *from);
void value_done(const struct field *f, void *base);
/* The value as it would be written, unquoted; lists are not for this. */
void value_text(const struct field *f, const void *base, struct buf *out);
bool field_is_list(const struct field *f);
bool value_eq(const struct field *f, const void *a, const void *b); /* the order of an env does not count */
const struct strv *value_list(const struct field *f, const void *base);

/* ---- YAML with positions (yaml.c) --------------------------------------------------------------- */

enum ykind { Y_SCALAR, Y_LIST, Y_MAP };
struct ynode {
	enum ykind kind;
	bool plain;            /* a scalar without quotes */
	unsigned line, column; /* 1-based */
	unsigned width;
	char *text;           /* scalars; NUL-terminated, without inner NULs */
	struct ynode **items; /* a mapping's: key, value, key, value; an alias is the node it means */
	size_t n, cap;
};
struct ydoc {
	char *name; /* the file, as it is shown */
	char *folder;
	struct buf text;
	struct ynode *root; /* NULL: empty */
	struct ynode **all;
	size_t nall, call;
};
void ydoc_done(struct ydoc *d);

struct loader;
/* Parses d->text; mistakes go to the loader. 0 or -EINVAL. */
int ydoc_parse(struct loader *ld, struct ydoc *d);

/* ---- one load (load.c, walk.c, check.c, errors.c) ------------------------------------------------ */

struct target { /* what a mapping is read into */
	enum field_scope scope;
	void *base; /* struct config or struct config_pool */
	struct config_origin *from;
	const char *label; /* "", "defaults", "pools[0]" */
};
struct loader {
	const struct config_source *src;
	struct config *cfg;
	struct config_errors *errs;
	struct config_pool base; /* the defaults each pool starts from */
	struct ydoc *docs;
	size_t ndocs;
	size_t visits; /* mappings read; bounded, because merge keys may fan out */
	const char *home;
};

const char *source_env(const struct config_source *src, const char *name); /* NULL or empty: not set */
enum config_dir { CONFIG_DIR_STATE, CONFIG_DIR_RUNTIME, CONFIG_DIR_MODELS };
char *default_dir(const struct config_source *src, enum config_dir which) MUST_CHECK;

void load_fail(struct loader *ld, const struct config_origin *at, const char *key, const char *fmt, ...)
	PRINTF(4, 5);
const char *load_intern(struct loader *ld, const char *name);
struct config_origin load_origin(struct loader *ld, const struct ydoc *d, const struct ynode *n);
/* Reads a mapping into t. defaults: keys that are a pool's own are refused. */
void walk_map(struct loader *ld, const struct ydoc *d, const struct ynode *map, const struct target *t);
/* Sets one field from text that is in no file: lists are separated by commas. */
void walk_text(struct loader *ld, int field, const struct target *t, struct view text,
	const struct config_origin *from, const char *key);
/* A configuration without fields set, with one reference. */
struct config *config_new(void) MUST_CHECK;
void config_copy_fields(enum field_scope scope, void *to, const void *from);
const char *config_intern(struct config *c, const char *name);
void pool_init(struct config_pool *p);
void pool_copy(struct config_pool *to, const struct config_pool *from);
void pool_done(struct config_pool *p);
void check_all(struct loader *ld);
void check_door(struct loader *ld); /* tls, hosts, cors */
void check_listen(struct loader *ld);
void check_network(struct loader *ld);
void check_room(struct loader *ld); /* never_with, budget, prefer and avoid */
bool alias_ok(const char *a);
/* A pool that no file names: infers what is inferred; false: it cannot be served. Its id counts, not whether
 * it is unique. */
bool check_made(struct config *c, struct config_pool *p);
/* Bytes that an id in this runtime_dir may have, for the engine's socket; 0: none fits. */
size_t check_id_room(const char *runtime_dir, uint32_t replicas_max);
/* The key among the scope's that is closest to what was written, or NULL. Short: the last segment. */
void nearest_key(enum field_scope scope, struct view prefix, struct view found, struct buf *out);

#endif
