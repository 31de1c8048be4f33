/* SPDX-License-Identifier: Apache-2.0
 *
 * The inside of fetching models. Files: want_ref.c references · want_set.c results · want_pick.c which files
 * of a repository · want_env.c endpoints, tokens and what the environment says · want_trust.c the policy ·
 * want_place.c where files lie in models_dir · want_cache.c the hub's cache: layout, locks, links ·
 * want_present.c what is here already · want_hub.c, want_registry.c, want_s3.c asking one kind of place each
 * · want_manifest.c what a registry's manifest names · want_sign.c SigV4 · want_job.c one model_ensure from
 * its start to its end · want_finish.c checks, links and notes of what came.
 */
#ifndef PROVISION_MODEL_WANT_INT_H
#define PROVISION_MODEL_WANT_INT_H

#include "base/buf.h"
#include "base/mem.h"
#include "provision/model/want.h"

#define WANT_HUB_HOST "huggingface.co"
#define WANT_OLLAMA_HOST "registry.ollama.ai"

enum {
	WANT_ITEMS_MAX = 32,               /* models of a set */
	WANT_NAMES_MAX = 20000,            /* files of a repository that are looked at */
	WANT_DOC_MAX = 1024 * 1024,        /* manifests and files of our own that are read */
	WANT_HOPS_MAX = 3,                 /* from an index to a manifest */
	WANT_SMALL_MAX = 64 * 1024 * 1024, /* a file the hub keeps in git itself */
};

/* want_ref.c */
bool want_is_hex(struct view v, size_t n);   /* n lower-case hex digits */
const char *want_bad_path(struct view name); /* NULL, or why it may be no name below a folder of ours */

/* ---- want_pick.c: which files of a repository, there or here ------------------------------------------- */

struct want_name {
	char *name; /* as the repository calls it, with its folders */
	uint64_t size;
	char *sha256, *git_oid; /* NULL unknown */
};
struct want_names {
	struct want_name *items; /* sorted once want_names_sort was called */
	size_t n;
};
void want_names_done(struct want_names *l);
struct want_name *want_names_add(struct want_names *l, const char *name, uint64_t size);
void want_names_sort(struct want_names *l);

struct want_picked {
	size_t *items; /* indices of names, in order: weights (all parts), or a whole snapshot */
	size_t n;
	ptrdiff_t mmproj; /* index, -1 none */
};
void want_picked_done(struct want_picked *p);
enum want_role { WANT_WEIGHTS, WANT_MMPROJ, WANT_DRAFT, WANT_LORA, WANT_OTHER };
const char *want_role_name(enum want_role r);
/* -ENOENT with what there is; -EEXIST when several fit. */
int want_pick(const struct want_names *l, const struct model_ref *r, enum want_role role,
	enum model_want want, struct want_picked *ret, struct err *reterr) MUST_CHECK;

/* ---- one thing of a set -------------------------------------------------------------------------------- */

/* A file that has to come. */
struct want_file {
	enum want_role role;
	char *to;         /* where its bytes go */
	char *link;       /* the name in the snapshot that leads there; NULL: none */
	char *lock;       /* held meanwhile; NULL: none */
	char *url, *said; /* said: what people may see of it (no signature); NULL: url */
	struct strv headers;
	char *sha256, *git_oid; /* known before; NULL: not */
	uint64_t size;          /* 0: the server says */
	bool note;              /* its digest is noted beside it */
	bool here;              /* its bytes are there already; the link may not be */
};

struct want_item {
	enum want_role role;
	struct model_ref ref;
	bool present;
	/* what is there, or will be */
	struct model_files files;
	char *mmproj;        /* that came with it; NULL: none */
	struct strv lora;    /* that came with it */
	char *revision;      /* commit or digest; NULL: none */
	struct strv digests; /* of files.parts, "" unknown; or empty */
	char *mmproj_digest;
	/* what has to come */
	struct want_file *fetch;
	size_t nfetch;
	char *ref_file,
		*ref_text;   /* written at the end: refs/main and its commit, or a manifest and its text */
	struct strv indices; /* texts that led from the reference to its manifest */
	bool gated;          /* the hub says so */
	bool unnoted;        /* it is there, and nobody computed its digest yet */
};
void want_item_done(struct want_item *it);
struct want_file *want_item_add(struct want_item *it, enum want_role role, const char *to, const char *url);
const char *want_source(const struct model_ref *r);

/* The set's references, in order: weights first. mmproj "none" or NULL is no item. */
int want_items(const struct model_set *s, const struct model_ensure_opts *o, struct want_item **ret,
	size_t *ret_n, struct err *reterr) MUST_CHECK;
void want_items_done(struct want_item *items, size_t n);

/* ---- want_env.c ---------------------------------------------------------------------------------------- */

const char *want_env(const char *name);                                /* NULL when it is not set or empty */
char *want_hub_endpoint(const struct model_ensure_opts *o) MUST_CHECK; /* without a slash at its end */
/* NULL: none. A token that could not be a header is none. */
char *want_hub_token(const struct model_ensure_opts *o) MUST_CHECK;
bool want_hub_offline(void);
char *want_url_host(const char *url) MUST_CHECK;               /* "host[:port]" */
char *want_escaped(struct view v, bool keep_slash) MUST_CHECK; /* RFC 3986, as SigV4 wants it too */
char *want_registry_base(const struct model_ref *r, const struct model_ensure_opts *o) MUST_CHECK;

/* ---- want_trust.c -------------------------------------------------------------------------------------- */

/* Whether the policy lets this reference be used at all: 0, or -EACCES with the line that refuses it. */
int want_trust_ref(
	const struct model_ref *r, const struct model_ensure_opts *o, struct err *reterr) MUST_CHECK;
/* Offline is told before anything is asked, and by whose word: -EACCES. */
int want_offline(const struct model_ref *r, const struct model_ensure_opts *o, struct err *reterr) MUST_CHECK;
/* Whether what is to come is known well enough. */
int want_trust_files(
	const struct want_item *it, const struct model_ensure_opts *o, struct err *reterr) MUST_CHECK;

/* ---- want_place.c: models_dir -------------------------------------------------------------------------- */

/* Where a file of https: or s3: lies, and all parts of a split one; the folder of ollama: and oci:. */
char *want_place(const struct model_ref *r, const char *models_dir) MUST_CHECK;
/* The parts of a name, one when it is not split. */
void want_parts(const char *name, struct strv *ret);
/* Atomic; what a process that was killed left of the same write goes. */
int want_write(const char *path, struct view text, mode_t mode, bool sync) MUST_CHECK;
/* Removes PREFIX<pid>SUFFIX of processes that are gone; prefix with its folder. */
void want_sweep(const char *prefix, const char *suffix);
/* Of a file that is whole: what the fetcher noted of it and was killed before it could remove. */
void want_fetched(const char *path);
/* The digest beside it, while it is the same file (inode, size, mtime); NULL: none. */
char *want_noted(const char *path) MUST_CHECK;
int want_note(const char *path, const char *sha256) MUST_CHECK;
void want_note_drop(const char *path);
/* What to say where the note beside a file is of another one; NULL: nothing. */
char *want_changed(const char *path, const char *sha256) MUST_CHECK;
/* The digest that was computed of a file that is not ours, while it is the same file; NULL: none. */
char *want_verified(const char *state_dir, const char *path) MUST_CHECK;
int want_verify(const char *state_dir, const char *path, const char *sha256) MUST_CHECK;

/* ---- want_cache.c: the hub's cache --------------------------------------------------------------------- */

char *want_cache_root(const struct model_ensure_opts *o) MUST_CHECK;  /* where we write; NULL: nowhere */
char *want_cache_repo(const char *root, const char *repo) MUST_CHECK; /* …/models--org--repo */
/* Every file below dir by its name, links followed, sorted. */
void want_list_tree(const char *dir, struct want_names *ret);
/* Snapshots in the order they are looked at: the revision's alone, else main's, then the newest. */
void want_snapshots(const char *repo_dir, const char *revision, struct strv *ret);
/* A relative link at `link` to `blob`. What is there already and leads elsewhere is replaced. */
int want_link(const char *blob, const char *link, struct err *reterr) MUST_CHECK;
/* *ret_fd >= 0: held. -EAGAIN: somebody else's. The folder is made. */
int want_lock(const char *path, int *ret_fd, struct err *reterr) MUST_CHECK;
int want_git_check(const char *path, const char *git_oid, struct err *reterr) MUST_CHECK;

/* ---- want_present.c ------------------------------------------------------------------------------------ */

/* Fills it->files and so on: 0, -ENOENT not here (or not whole), else what is wrong with it. */
int want_present(struct want_item *it, const struct model_ensure_opts *o, struct err *reterr) MUST_CHECK;
/* What is there against the configuration's digest: -EBADMSG, -EINVAL (several files), or 0 and unnoted where
 * nobody computed it yet. */
int want_check_given(struct want_item *it, const struct model_ensure_opts *o, struct err *reterr) MUST_CHECK;
void want_got(const struct want_item *items, size_t n, const struct model_set *s, struct model_got *ret);

/* ---- want_manifest.c ----------------------------------------------------------------------------------- */

/* A manifest of ollama or OCI: its layers as files of `dir`. */
int want_manifest(struct view text, const struct model_ref *r, const char *dir, struct want_item *it,
	struct err *reterr) MUST_CHECK;

/* Of an index the first manifest's "sha256:…"; platforms do not matter to weights. NULL: it is no index. */
char *want_index_first(struct view text) MUST_CHECK;
/* Whether the manifest `revision` is the one a reference by digest names, at once or through the indices that
 * are kept in dir. True for other references. */
bool want_is_pinned(const struct model_ref *r, const char *dir, const char *revision) MUST_CHECK;
int want_keep_indices(const struct want_item *it, const char *dir) MUST_CHECK;

/* ---- want_sign.c --------------------------------------------------------------------------------------- */

struct want_sign {
	const char *key, *secret, *session, *region;
	const char *method;
	const char *host;  /* as the Host header has it */
	const char *path;  /* escaped */
	const char *query; /* NULL: none */
	int64_t unix_time;
};
/* The query of a signed URL, good for `seconds`. NULL: the crypto library failed. */
char *want_sign_query(const struct want_sign *q, unsigned seconds) MUST_CHECK;

#endif
