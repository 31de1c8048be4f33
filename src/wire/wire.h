/* SPDX-License-Identifier: Apache-2.0
 *
 * The types that cross the control wire, and nothing else: what orchestratord wants of a node
 * (struct wire_desired) and what a node reports (struct wire_node, struct wire_replica). Version 1.
 *
 *   orchestratord to engine-provisioner
 *     PUT  /v1/node/replicas             the whole desired set + fence
 *     POST /v1/node/replicas/{id}/prove  a request was the canary, or: send your own
 *     POST /v1/node/replicas/{id}/condemn  {generation, cause, message}: seen from outside to be hung
 *     POST /v1/node/config/reload        {dry_run}: read your own file again; 400 says what is wrong in it
 *     GET  /v1/node/replicas/{id}/logs
 *     POST /v1/node/stop                 stop every engine, then end
 *   engine-provisioner to registry
 *     POST   /v1/registry/nodes                 register (idempotent)
 *     POST   /v1/registry/nodes/{id}/heartbeat  facts; 404: register again
 *     DELETE /v1/registry/nodes/{id}
 *
 * No argv, path of a program or environment ever crosses it from orchestratord to a node.
 * All strings are owned by their struct, NULL = absent. Plain data: no thread, no loop, no I/O.
 */
#ifndef WIRE_WIRE_H
#define WIRE_WIRE_H

#include "base/buf.h"
#include "base/err.h"

enum { WIRE_VERSION = 1 };

/* Bounds of what a peer may send. */
enum {
	WIRE_BODY_MAX = 8 * 1024 * 1024,
	WIRE_REPLICAS_MAX = 16384,
	WIRE_POOLS_MAX = 16384,
	WIRE_STRING_MAX = 64 * 1024,
	WIRE_DEVICES_MAX = 256,
	WIRE_DEVICE_USES_MAX = 256,
	WIRE_DEVICE_LINKS_MAX = 256,
};

enum replica_state {
	REPLICA_ABSENT = 0,   /* nothing exists, nothing is wanted */
	REPLICA_PROVISIONING, /* its engine build is being made ready */
	REPLICA_STARTING,     /* process started, not answering yet */
	REPLICA_PROVING,      /* health said yes, the model has not answered yet */
	REPLICA_READY,
	REPLICA_DRAINING, /* takes nothing new; being stopped */
	REPLICA_STOPPED,
	REPLICA_BACKOFF, /* crashed; starts again at retry_in_ms */
	REPLICA_FAILED,  /* breaker open, or a cause that a restart cannot mend */
	REPLICA_STATE_COUNT
};
const char *replica_state_name(enum replica_state s); /* "absent", "provisioning", … */
int replica_state_parse(struct view v, enum replica_state *ret) MUST_CHECK; /* 0 or -EINVAL */

/* Why an engine ended or cannot start. */
enum wire_cause {
	CAUSE_NONE = 0,
	CAUSE_EXIT, /* exit code */
	CAUSE_SIGNAL,
	CAUSE_OOM_VRAM,
	CAUSE_OOM_HOST,
	CAUSE_BAD_MODEL,
	CAUSE_BAD_ARGS,
	CAUSE_NO_ENGINE, /* no build could be had */
	CAUSE_NO_MODEL,  /* the file is not there, or could not be fetched this time */
	CAUSE_HEALTH_LOST,
	CAUSE_HUNG,
	CAUSE_CANARY, /* health said yes, the model's answer was wrong or missing */
	CAUSE_START_TIMEOUT,
	CAUSE_MODEL_REFUSED, /* not to be had, and asking again does not mend it: policy, gated, digest */
	CAUSE_NO_DEVICE,     /* no device it may use answers; mends itself when one comes back */
	CAUSE_COUNT
};
const char *wire_cause_name(enum wire_cause c);
int wire_cause_parse(struct view v, enum wire_cause *ret) MUST_CHECK; /* 0 or -EINVAL */

struct wire_error { /* the last failure; kept until the next success */
	enum wire_cause cause;
	char *message; /* one sentence; NULL = no error */
	char *hint;    /* what to do; may be NULL */
	int64_t at_ms; /* wall clock */
	int exit_code, signo;
};

/* Which fields of a struct wire_replica are set; a partial update names only some. */
enum {
	WR_STATE = 1 << 0,
	WR_GENERATION = 1 << 1,
	WR_ADDRESS = 1 << 2,
	WR_SLOTS = 1 << 3, /* slots_total */
	WR_SLOTS_FREE = 1 << 4,
	WR_LEASES = 1 << 5,
	WR_CTX = 1 << 6,
	WR_ENGINE = 1 << 7, /* engine, engine_version, engine_why, device_mask, device_note, spec, model */
	WR_ERROR = 1 << 8,  /* last_error, message NULL = cleared by a success */
	WR_PROGRESS = 1 << 9,
	WR_RESTARTS = 1 << 10, /* restarts, retry_in_ms */
	WR_PROCESS = 1 << 11,  /* pid, started_at_ms, load_ms, kv_… */
	WR_TRAITS = 1 << 12,   /* conn_idle_ms, conn_requests, has_slots, remote_models, key_file */
	WR_LOAD = 1 << 13,     /* load_… */
	WR_ALL = (1 << 14) - 1,
};

struct wire_replica {
	char *replica_id; /* "<pool id>-<n>" */
	char *pool_id;
	unsigned have; /* WR_… */
	enum replica_state state;
	uint64_t generation; /* rises with every start; facts of an older one are dropped */
	char *address;       /* "unix:/abs/path" or "http://host:port"; where requests go */
	uint32_t slots_total, slots_free, leases;
	uint32_t ctx; /* tokens per request */
	/* "llamacpp", "b11669", "package: Debian's llama.cpp, CPU" */
	char *engine, *engine_version, *engine_why;
	char *device_mask; /* what it really got: "cpu", or indices of its node's devices "0,1" */
	char *device_note; /* where that is not what was hoped for: a sentence */
	/* What this process was started from: the fingerprint of the pool's configuration, and the model file
	 * that stands in for the configured one (NULL: the configured one). */
	char *spec, *model;
	struct wire_error last_error;
	char *phase, *progress_text; /* "engine_provision", "engine_start", …; a sentence */
	int progress_pct;            /* 0..100, -1 unknown */
	int64_t progress_eta_ms;     /* of fetching; 0, -1: not known */
	uint32_t restarts;
	int64_t retry_in_ms; /* BACKOFF, FAILED by breaker: until the next try; -1 never by itself */
	int pid;
	int64_t started_at_ms, load_ms;
	uint64_t kv_restored_tokens; /* of conversations that this process took up at its start */
	char *kv_found; /* those it found: "<owner>:<talk>+ …", '-' for '+' where it was not taken up */
	bool kv_kept;   /* they outlive it */
	int64_t conn_idle_ms; /* close our idle connections after this; 0 = default 4 s */
	/* the engine closes a connection after so many requests; 0 = no limit known */
	uint32_t conn_requests;
	bool has_slots;       /* GET /slots tells which slots are busy */
	char **remote_models; /* NULL-terminated: ids an external engine serves; NULL = none known */
	/* What it says of itself, of all who use it; load_seq rises with every time it was asked, 0: it does
	 * not say. Requests; of its KV cache; each -1: not that. */
	uint64_t load_seq;
	int64_t load_running, load_waiting;
	int load_used_permille;
	char *key_file; /* of its node: what it asks of who talks to it (Bearer); NULL: nothing */
};

void wire_replica_done(struct wire_replica *r);
void wire_replica_copy(struct wire_replica *to, const struct wire_replica *from); /* to is done first */
/* Puts the fields `from` has into `to`, keeps the others. Clamps slots_free to [0, slots_total]. */
void wire_replica_merge(struct wire_replica *to, const struct wire_replica *from);

/* What a node knows of a configured pool's model before any engine runs. */
struct wire_model {
	char *pool_id;
	char *spec;    /* of the configuration this was read with; NULL: not said */
	char *path;    /* resolved; NULL when the pool has none */
	char *problem; /* why it cannot be served: a sentence; NULL = fine */
	char *architecture, *name;
	uint64_t size_bytes, n_params, n_ctx_train, n_vocab, n_embd;
	uint32_t ctx; /* the configured one; of `ctx: auto` the least it becomes */
	bool vision, audio;
	bool embedding, rerank; /* what it is for instead of text */
	bool absent;   /* it has to be fetched first: nothing else is known of it, or what its header says */
	char *retired; /* it takes no new work: a sentence; NULL: it does */
	char *need;    /* what it needs in memory, as wire_need_encode writes it; NULL: not known */
	/* NULL-terminated, each as need: with the contexts that `ctx: auto` may become where there is room,
	 * the largest first; NULL: none */
	char **larger;
	char *quant; /* "Q4_K_M"; NULL unknown */
	/* NULL: a configured pool. Else it was found on the disk, and these say where ("Hugging Face cache")
	 * and what it is called there ("hf:org/repo:Q4_K_M") */
	char *source, *reference;
};
void wire_model_done(struct wire_model *m);
void wire_model_copy(struct wire_model *to, const struct wire_model *from);

/* What a replica of a pool needs in memory, from its model's header and its engine's arguments: bytes. */
enum { WIRE_NEED_LAYERS_MAX = 1024 };
struct wire_need_layer {
	uint64_t weights; /* without the experts */
	uint64_t experts; /* of a mixture: what may stay in host memory by itself */
	uint64_t cache;   /* keys, values and recurrent state of all slots */
};
struct wire_need {
	uint32_t ctx;               /* tokens of one slot it is for; 0: not said */
	uint64_t whole;             /* on one device, where layers are not told (nlayers 0) */
	uint64_t output;            /* counts as a layer behind the last */
	uint64_t extra;             /* on the first device: projector, draft model */
	uint64_t compute, overhead; /* on each device */
	uint64_t host,
		host_mapped;     /* of the host wherever the layers are; mapped: pages of the model's file */
	uint64_t host_compute;   /* more of it when layers stay on the host */
	uint32_t error_permille; /* how far the sum may be off */
	char source[16], kind[16];      /* "formula", "size", …; "dense", "moe", … */
	struct wire_need_layer *layers; /* owned */
	uint32_t nlayers;
};
void wire_need_done(struct wire_need *n); /* zeros allowed */
/* One line of text: equal layers in a row are told once. */
int wire_need_encode(const struct wire_need *n, struct buf *b);
int wire_need_decode(struct view text, struct wire_need *ret, struct err *reterr) MUST_CHECK;

struct wire_device_use { /* a process that holds memory of a device */
	int pid;
	char *replica_id; /* NULL: no engine of ours */
	uint64_t bytes;
};

/* Which figures of a struct wire_device are known. */
enum {
	WD_UTILIZATION = 1 << 0,
	WD_TEMPERATURE = 1 << 1,
	WD_POWER = 1 << 2,
	WD_ECC = 1 << 3, /* both counts */
};

struct wire_device_link { /* what lies between two devices of a node */
	char *device_id;  /* the other one */
	char *path;       /* the nearest first: "board", "switch", "switches", "bridge", "node", "system" */
	uint32_t fabric;  /* how many NVLink or XGMI links reach it; 0: none */
};

struct wire_device {     /* a GPU, or the CPU */
	char *device_id; /* its name on its node: the UUID, else the PCI address; "cpu" */
	unsigned have;   /* WD_… */
	uint32_t index;  /* among the node's GPUs: what device masks name */
	char *name, *uuid, *pci;
	char *kind;   /* "cuda", "amd", "intel", "cpu" */
	char *state;  /* "ok", "lost", "unusable" */
	char *reason; /* why it is not ok: a sentence with the driver's own words */
	char *compute_capability, *driver;
	uint64_t memory_total_bytes, memory_free_bytes, memory_used_bytes; /* total 0: not known */
	int utilization_pct, temperature_c;
	uint64_t power_mw, power_limit_mw;       /* limit 0: not known */
	uint64_t ecc_corrected, ecc_uncorrected; /* since its driver was loaded */
	char *last_error; /* what its driver reported last ("Xid 79: …"); NULL: nothing */
	int64_t last_error_at_ms;
	bool integrated; /* part of the processor: no pool is given it unasked */
	bool split;      /* it is divided, and cannot be had whole: its parts are devices of their own */
	char *parent;    /* of a part: the device_id of the whole */
	struct wire_device_use *uses;
	size_t nuses;
	struct wire_device_link *links;
	size_t nlinks;
};
void wire_device_done(struct wire_device *d);
void wire_device_copy(struct wire_device *to, const struct wire_device *from);

struct wire_node {
	char *node_id, *boot_id, *version, *address; /* address: "unix:/…/provisioner.sock" */
	int pid;
	bool complete; /* replicas is the whole list: what it lacks is gone */
	struct wire_model *models;
	size_t nmodels;              /* may be left out of heartbeats (0: keep) */
	struct wire_device *devices; /* in the order of their indices, the CPU last */
	size_t ndevices;             /* may be left out of heartbeats (0: keep), for there is always a CPU */
	struct wire_replica *replicas;
	size_t nreplicas;
	uint64_t seq; /* rises with every message of this process; an older one is dropped */
};
void wire_node_done(struct wire_node *n);

struct wire_want { /* one replica that should run */
	char *replica_id, *pool_id;
	uint32_t ctx, slots;    /* 0 = the pool's own */
	char *devices;          /* NULL = the pool's own */
	uint32_t restart_epoch; /* a rise means: stop, forget backoff and breaker, start again */
	bool pulled_in;         /* a request waits for it (canary: auto lets the request be the canary) */
	int64_t keep_alive_ms;  /* without an orchestratord the node stops it after this; -1 never */
	/* Fingerprint of the pool's configuration as the sender knows it; a node whose own file gives another
	 * refuses to start it. NULL: the node's own, whatever it is. A running replica is not restarted for
	 * it: another spec is another replica. */
	char *spec;
	char *model; /* a file in place of the configured model; NULL = the configured one */
	/* The sender knows what the model needs: one that had to be fetched is started from then on alone. */
	bool model_there;
	/* Nor is the rest of one fetched before the sender has seen in its header that it may be served. */
	bool header_seen;
	/* How the model is divided, where that was planned: layers on devices (the output is one more),
	 * layers whose experts stay on the host, shares of the layers for each of `devices` ("20,13"; NULL:
	 * one). */
	bool planned;
	uint32_t gpu_layers, cpu_experts;
	char *split;
	char *kv_for; /* whose conversations wait for it: "<owner>:<talk> …", in hexadecimal; NULL: nobody's
		       */
};
struct wire_desired {
	uint64_t fence;    /* election revision; 0 at home; a smaller one than the last is refused */
	uint64_t revision; /* rises with every change by this sender */
	char *talks;       /* whose conversations replicas hold, also such as are not wanted any more: a line
			      each (control/talks.c); NULL: nothing new */
	struct wire_want *wants;
	size_t nwants;
};
void wire_desired_done(struct wire_desired *d);
struct wire_want *wire_desired_add(struct wire_desired *d); /* a zeroed one at the end */

/* Codecs. Encoding appends JSON to b: 0 or -ENOBUFS (b is as it was). JSON keys are the fields' names;
 * a field is there when its WR_ bit is set (a group's fields all together, NULL as null), and where
 * there are no bits when it is not zero. Decoding fills *ret (done by the caller on
 * success alone), refuses what is out of bounds or of the wrong type with a sentence, and ignores
 * keys it does not know, so that an older side understands a newer one. One name twice in a list is
 * refused. Ids are 1 to 255 bytes without control characters, slots at most 65536. */
int wire_replica_encode(const struct wire_replica *r, struct buf *b);
int wire_replica_decode(struct view json, struct wire_replica *ret, struct err *reterr) MUST_CHECK;
int wire_model_encode(const struct wire_model *m, struct buf *b);
int wire_device_encode(const struct wire_device *d, struct buf *b);
int wire_node_encode(const struct wire_node *n, struct buf *b);
int wire_node_decode(struct view json, struct wire_node *ret, struct err *reterr) MUST_CHECK;
int wire_desired_encode(const struct wire_desired *d, struct buf *b);
int wire_desired_decode(struct view json, struct wire_desired *ret, struct err *reterr) MUST_CHECK;

#endif
