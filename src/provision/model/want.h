/* SPDX-License-Identifier: Apache-2.0
 *
 * Models that may have to be fetched: what a reference means, what of it is on this disk, and making it so.
 * model.h and stores.h look at what is there; this adds the network, through provision/fetch. Control loop of
 * the node, or a command's own loop.
 *
 * References: hf:org/repo[:quant], hf:org/repo/file.gguf, org/repo[:quant] (an existing file of that name
 * wins), file:/abs/path, a relative path, https://…, ollama:name[:tag], s3://bucket/key, oci://registry/name.
 * A hub repository lies in the hub's own cache as its own client writes it (blobs, snapshots, refs, .locks);
 * the others in models_dir. What others put there is never deleted.
 */
#ifndef PROVISION_MODEL_WANT_H
#define PROVISION_MODEL_WANT_H

#include "base/stores.h"
#include "provision/fetch/fetch.h"
#include "provision/model/model.h"

enum model_ref_kind {
	MODEL_REF_FILE, /* a path, also one that models_dir is put before */
	MODEL_REF_HUB,
	MODEL_REF_HTTPS,
	MODEL_REF_OLLAMA,
	MODEL_REF_S3,
	MODEL_REF_OCI,
};
struct model_ref {
	enum model_ref_kind kind;
	char *text;     /* its normal form, with the prefix: "hf:org/repo:Q4_K_M"; as ref_shown has it */
	char *url;      /* https: all of it, with its query; NULL of the others */
	char *host;     /* of https, oci, ollama with a registry of its own; NULL: the usual one */
	char *repo;     /* hub "org/repo", ollama "library/name", s3 bucket, oci name */
	char *tag;      /* quant, tag; NULL: the default one */
	char *file;     /* one file of a repository, key of a bucket, path */
	char *revision; /* hub: "@REV" behind the repository; NULL: main. Else NULL */
};
void model_ref_done(struct model_ref *r);
/* -EINVAL with what was found and what is accepted. Refuses traversal, `..`, absolute names inside
 * repositories, control bytes. Touches no disk, except to see whether "org/repo" is a file (base_dir: where
 * relative paths begin; may be NULL). */
int model_ref_parse(
	const char *text, const char *base_dir, struct model_ref *ret, struct err *reterr) MUST_CHECK;

/* The pool's `model`: a string is its ref. */
struct model_set {
	char *ref, *mmproj, *draft; /* mmproj NULL: as llama.cpp picks one; "none": none */
	struct strv lora;
};
void model_set_done(struct model_set *s);

enum model_trust { MODEL_TRUST_PERMISSIVE, MODEL_TRUST_STRICT };
struct model_ensure_opts {
	const char *models_dir, *state_dir;
	const struct stores_roots *roots;     /* where the hub's cache and the other stores are */
	const char *fetch_program;            /* NULL: beside our own executable */
	const char *hub_endpoint, *hub_token; /* NULL: HF_ENDPOINT, HF_TOKEN or the token file, else none */
	const char *ollama_endpoint, *s3_endpoint; /* NULL: the usual ones (AWS_ENDPOINT_URL …) */
	struct fetch_policy policy; /* HF_HUB_OFFLINE adds offline to what comes from the hub */
	/* strict: only files with a digest known beforehand, from `registries`. Files the operator put there
	 * (file:, a path) are trusted as they are, unless sha256 says what they have to be. */
	enum model_trust trust;
	bool require_digest;
	struct strv registries; /* "huggingface.co", "*.example.org", "s3://bucket"; empty: all */
	uint64_t rate, headroom;
	/* Bytes that all models which were fetched may take, and what those here take; 0: as many as like. */
	uint64_t quota, quota_used;
	unsigned parallel;    /* connections at a time; 0: as the fetcher likes */
	enum model_want want; /* MODEL_ANY: the whole snapshot of a repository (vLLM) */
	const char *sha256;   /* the configuration's own, of a single file; NULL: none */
};

/* Whether a host is among trust.registries ("host", "host:port", "*.example.org", "s3://bucket"). */
bool model_host_trusted(const struct strv *registries, const char *host);

struct model_got_file {
	char *role;                /* "weights", "mmproj", "draft", "lora", "other" */
	char *path, *sha256, *url; /* sha256 NULL: not known, the file was here before */
	uint64_t size;
};
struct model_got { /* what an engine is given, and what the catalog keeps */
	struct model_files weights;
	char *mmproj, *draft; /* NULL: none */
	struct strv lora;
	char *reference; /* normal form */
	char *revision;  /* commit or manifest digest it was pinned to; NULL: none */
	char *source;    /* "Hugging Face", "Ollama", "https", "s3", "oci", "file" */
	struct model_got_file *files;
	size_t nfiles;
	uint64_t fetched_bytes; /* 0: everything was here */
	char *warning;          /* "no digest was given: sha256 … was computed and is kept"; NULL: none */
};
void model_got_done(struct model_got *g);
void model_got_copy(struct model_got *to, const struct model_got *from);

/* Without the network: -ENOENT when something of it is missing. Blocks for some stats, as model_resolve. */
int model_present(const struct model_set *s, const struct model_ensure_opts *o, struct model_got *ret,
	struct err *reterr) MUST_CHECK;

/* Of a file that goes: removes the digest Corral noted beside it. Notes of others stay. */
void model_note_drop(const char *path);

struct model_coming {
	const char *path, *url; /* as struct model_got_file will have them */
};
struct model_job;
struct model_ops {
	void (*on_progress)(void *arg, const struct fetch_progress *p); /* may be NULL */
	/* May be NULL. These files are fetched when it returns; also again, where a job begins anew. */
	void (*on_fetch)(void *arg, const struct model_coming *files, size_t n);
	/* May be NULL. The job ends, and these of them did not come. */
	void (*on_unfetched)(void *arg, const struct model_coming *files, size_t n);
	/* Once; the job is gone when it returns. got is NULL on failure. */
	void (*on_done)(void *arg, const struct model_got *got, enum fetch_why why, const struct err *err);
	/* May be NULL. The headers of a GGUF model that is large enough to ask for them are here: path is a
	 * file of its size with nothing but the header in it (split models: the first of such files), for the
	 * time of this call; bytes: of all its weights files together. False: the rest is not fetched before
	 * model_job_go. */
	bool (*on_header)(void *arg, const char *path, uint64_t bytes);
	/* May be NULL: opts.quota_used stands. What models that were fetched take, and those that are being
	 * fetched will; *ret_open is set where one of the latter does not know yet how much. */
	uint64_t (*quota_used)(void *arg, bool *ret_open);
};
/* Resolves, fetches what is missing, verifies. Idempotent; single flight by the files' locks. s and o are
 * copied. */
struct model_job *model_ensure(struct loop *l, const struct model_set *s, const struct model_ensure_opts *o,
	const struct model_ops *ops, void *arg) MUST_CHECK;
void model_job_cancel(struct model_job **j); /* NULL inside allowed */
/* Told with what is got. */
void model_job_warn(struct model_job *j, const char *sentence);
/* Bytes that it fetches, or will; *ret_open is set where the servers have not told them all. */
uint64_t model_job_coming(const struct model_job *j, bool *ret_open);
void model_job_go(struct model_job *j); /* after on_header; nothing happens before it returns */

/* What model_ensure would do, in order, as sentences: "fetch hf:… : FILE, 4.6 GiB from HOST". Asks the
 * network for listings, writes nothing. */
struct model_plan {
	struct strv steps; /* empty: everything is here */
	uint64_t bytes_to_fetch;
};
void model_plan_done(struct model_plan *p);
/* Once; plan is NULL on failure, valid inside. The job is gone when it returns. */
typedef void model_plan_fn(
	void *arg, const struct model_plan *plan, enum fetch_why why, const struct err *err);
struct model_job *model_plan(struct loop *l, const struct model_set *s, const struct model_ensure_opts *o,
	model_plan_fn *on_plan, void *arg) MUST_CHECK;

#endif
