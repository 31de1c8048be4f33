/* SPDX-License-Identifier: Apache-2.0
 *
 * What a model needs in memory, from its header alone: the weights of every layer, the KV cache, the
 * recurrent state, the compute buffers, as llama.cpp lays them out. Pure; no file is opened here. The header
 * is hostile: sums stay at UINT64_MAX instead of overflowing, counts are bounded.
 *
 * Bounds: 1,024 layers, 64 devices, 64 overrides, 16 adapters, 1,024 parts.
 */
#ifndef GGUF_ESTIMATE_H
#define GGUF_ESTIMATE_H

#include "base/strv.h"
#include "gguf/gguf.h"

enum {
	ESTIMATE_LAYERS_MAX = 1024,
	ESTIMATE_DEVICES_MAX = 64,
	ESTIMATE_OVERRIDES_MAX = 64,
	ESTIMATE_LORA_MAX = 16,
	ESTIMATE_PARTS_MAX = 1024,
	ESTIMATE_NOTE_MAX = 256,
};
#define ESTIMATE_ALL UINT32_MAX /* layers on devices, or layers whose experts stay on the host: all */

enum estimate_flash { ESTIMATE_FLASH_AUTO, ESTIMATE_FLASH_ON, ESTIMATE_FLASH_OFF };

/* How an engine is started, as far as its memory depends on it. */
struct estimate_args {
	uint64_t ctx;            /* tokens of one slot; 0: what the model was trained for */
	uint32_t slots;          /* the engine's context is ctx × slots */
	bool unified;            /* one pool of cells for all slots */
	uint32_t type_k, type_v; /* of the KV cache, numbers as in gguf_tensor_type */
	uint32_t n_batch, n_ubatch;
	enum estimate_flash flash; /* auto counts as on */
	bool swa_full;
	bool mapped;                        /* the host's weights are the file's pages (mmap) */
	bool kv_on_host;                    /* --no-kv-offload */
	uint32_t n_devices;                 /* 0: all on the host */
	uint32_t n_gpu_layers;              /* ESTIMATE_ALL; the output counts as one and goes first */
	double split[ESTIMATE_DEVICES_MAX]; /* shares of the layers; all 0: even */
	uint32_t n_cpu_moe;                 /* layers whose experts stay on the host */
	struct strv overrides;     /* "REGEX=BUFFER" in order; the first that matches a tensor's name rules */
	uint64_t host_cache;       /* bytes of --cache-ram */
	uint64_t draft_ctx;        /* of the draft model's slots; 0: as the model's */
	uint32_t image_max_tokens; /* 0: what the projector says */
	/* Named by the arguments; the caller opens them. */
	char *mmproj, *draft;
	struct strv lora;
};
/* llama-server's own defaults, but one slot, everything on the host, no cache of prompts. */
void estimate_args_init(struct estimate_args *a);
void estimate_args_done(struct estimate_args *a);
/* What llama-server's arguments change in *a (which was initialised). Others are passed over. Fails on a
 * value that is none: what was found, what is accepted. */
int estimate_args_read(
	struct estimate_args *a, const char *const *argv, size_t n, struct err *reterr) MUST_CHECK;
/* Whether the word is one of these arguments, and then whether the next word may be its value. */
bool estimate_arg_is_known(const char *word, bool *ret_takes_next);
/* "f16", "q8_0" …: what a KV cache may hold. false: none of them. */
bool estimate_kv_type(struct view name, uint32_t *ret_type);

/* A model's parts, opened: path is the file, or the first of NAME-00001-of-0000N.gguf. Blocks on the disk. */
struct gguf_set {
	const struct gguf **items;
	size_t len;
};
int gguf_set_open(const char *path, struct gguf_set *ret, struct err *reterr) MUST_CHECK;
void gguf_set_done(struct gguf_set *s);

/* The headers, all open during the call. */
struct estimate_files {
	const struct gguf *const *parts; /* of the model, in order; at least one */
	size_t n_parts;
	const struct gguf *mmproj, *draft; /* or NULL */
	const struct gguf *lora[ESTIMATE_LORA_MAX];
	size_t n_lora;
};

enum estimate_class {
	ESTIMATE_DENSE,
	ESTIMATE_MOE,
	ESTIMATE_HYBRID, /* recurrent layers, all or some */
	ESTIMATE_MLA,
	ESTIMATE_UNKNOWN /* an architecture that is not known: a guess on the safe side */
};
const char *estimate_class_name(enum estimate_class c);

struct estimate_bytes {
	uint64_t weights, kv, recurrent, compute;
	uint64_t output;   /* the buffer the answers' logits come in */
	uint64_t overhead; /* a device's context and what the driver keeps; on the host the engine itself, its
			      vocabulary and its cache of prompts */
	uint64_t total;
};

/* For who splits a model over devices. A layer's compute is not here: layers share one buffer. */
struct estimate_layer {
	uint64_t weights; /* with the experts */
	uint64_t experts; /* the part n_cpu_moe moves */
	uint64_t kv, recurrent;
	int32_t device; /* where the arguments put it; -1: the host */
};

struct estimate {
	struct estimate_bytes sum; /* of the devices and the host, mapped weights too */
	struct estimate_bytes device[ESTIMATE_DEVICES_MAX];
	size_t n_devices;
	struct estimate_bytes host;
	uint64_t host_mapped; /* the part of host.weights that is page cache */
	uint64_t projector, draft,
		adapters; /* parts of the sums: mmproj, draft model and LoRA, all they need */
	struct estimate_layer *layers;
	size_t n_layers;
	uint64_t embedding_bytes; /* token embeddings: always on the host */
	uint64_t
		output_bytes; /* output weights: counted as one layer more, the first that goes to a device */
	uint64_t device_compute; /* of one device that has all layers; 0 when there is none */
	uint64_t split_compute;  /* of the first of several that share them */
	uint64_t device_overhead;
	uint64_t ctx, slots; /* of one slot, as the engine rounds it */
	enum estimate_class model_class;
	unsigned error_permille;      /* how far the total may be off */
	char note[ESTIMATE_NOTE_MAX]; /* what one should know; may be empty */
};
/* *ret is the caller's, estimate_done frees what it holds. Fails on a file that is no model, a count that is
 * beyond the bounds, an override that is no regular expression. */
int estimate(const struct estimate_files *f, const struct estimate_args *a, struct estimate *ret,
	struct err *reterr) MUST_CHECK;
void estimate_done(struct estimate *e); /* zeros allowed */

#endif
