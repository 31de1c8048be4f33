/* SPDX-License-Identifier: Apache-2.0
 *
 * Every key there is. A new key is one row here and one member in config.h. A pool's key from which an
 * engine is started carries FIELD_ENGINE, a top-level key that is read once, at the start, FIELD_RESTART;
 * all others take effect with a reload.
 */
#include <ctype.h>

#include "base/num.h"
#include "config/config_int.h"

static const struct field_word auto_zero[] = { { "auto", 0 }, { NULL, 0 } };
static const struct field_word none_zero[] = { { "none", 0 }, { NULL, 0 } };
static const struct field_word never_words[] = { { "never", -1 }, { "-1", -1 }, { NULL, 0 } };
static const struct field_word gpu_words[] = { { "auto", CONFIG_GPU_AUTO },
	{ "required", CONFIG_GPU_REQUIRED }, { "optional", CONFIG_GPU_OPTIONAL }, { "none", CONFIG_GPU_NONE },
	{ NULL, 0 } };
static const struct field_word format_words[] = { { "auto", CONFIG_LOG_AUTO }, { "json", CONFIG_LOG_JSON },
	{ "console", CONFIG_LOG_CONSOLE }, { NULL, 0 } };
static const struct field_word level_words[] = { { "debug", CONFIG_LEVEL_DEBUG },
	{ "info", CONFIG_LEVEL_INFO }, { "warn", CONFIG_LEVEL_WARN }, { "error", CONFIG_LEVEL_ERROR },
	{ NULL, 0 } };
static const struct field_word kind_words[] = { { "llamacpp", CONFIG_ENGINE_LLAMACPP },
	{ "openai", CONFIG_ENGINE_OPENAI }, { "command", CONFIG_ENGINE_COMMAND },
	{ "vllm", CONFIG_ENGINE_VLLM }, { "sglang", CONFIG_ENGINE_SGLANG }, { "tgi", CONFIG_ENGINE_TGI },
	{ "triton", CONFIG_ENGINE_TRITON }, { NULL, 0 } };
static const struct field_word mode_words[] = { { "auto", CONFIG_MODE_AUTO },
	{ "external", CONFIG_MODE_EXTERNAL }, { "binary", CONFIG_MODE_BINARY },
	{ "package", CONFIG_MODE_PACKAGE }, { "source", CONFIG_MODE_SOURCE },
	{ "container", CONFIG_MODE_CONTAINER }, { NULL, 0 } };
static const struct field_word runtime_words[] = { { "auto", CONFIG_RUNTIME_AUTO },
	{ "podman", CONFIG_RUNTIME_PODMAN }, { "docker", CONFIG_RUNTIME_DOCKER }, { NULL, 0 } };
static const struct field_word canary_words[] = { { "auto", CONFIG_CANARY_AUTO },
	{ "always", CONFIG_CANARY_ALWAYS }, { "never", CONFIG_CANARY_NEVER }, { NULL, 0 } };
static const struct field_word progress_words[] = { { "auto", CONFIG_PROGRESS_AUTO },
	{ "comment", CONFIG_PROGRESS_COMMENT }, { "chunk", CONFIG_PROGRESS_CHUNK },
	{ "reasoning", CONFIG_PROGRESS_REASONING }, { "off", CONFIG_PROGRESS_OFF }, { NULL, 0 } };
static const struct field_word kv_words[] = { { "auto", CONFIG_KV_AUTO }, { "on", CONFIG_KV_ON },
	{ "off", CONFIG_KV_OFF }, { NULL, 0 } };
static const struct field_word offload_words[] = { { "auto", CONFIG_OFFLOAD_AUTO },
	{ "never", CONFIG_OFFLOAD_NEVER }, { NULL, 0 } };
static const struct field_word hold_words[] = { { "tool_calls", CONFIG_HOLD_TOOL_CALLS },
	{ "always", CONFIG_HOLD_ALWAYS }, { "never", CONFIG_HOLD_NEVER }, { NULL, 0 } };
static const struct field_word policy_words[] = { { "reject", CONFIG_POLICY_REJECT },
	{ "drop-lru", CONFIG_POLICY_DROP_LRU }, { NULL, 0 } };

static const struct field_word trust_words[] = { { "permissive", CONFIG_TRUST_PERMISSIVE },
	{ "strict", CONFIG_TRUST_STRICT }, { NULL, 0 } };

enum { DAY_MS = 24 * 3600 * 1000 };

#define TOP(key, ftype, member, ...)                                                                         \
	{                                                                                                    \
		.scope = SCOPE_TOP, .path = key, .type = FIELD_##ftype,                                      \
		.offset = offsetof(struct config, member), __VA_ARGS__                                       \
	}
#define POOL(key, ftype, member, ...)                                                                        \
	{                                                                                                    \
		.scope = SCOPE_POOL, .path = key, .type = FIELD_##ftype,                                     \
		.offset = offsetof(struct config_pool, member), __VA_ARGS__                                  \
	}

const struct field config_fields[] = {
	TOP("listen", LIST, listen, .dflt = "127.0.0.1:8080", .flags = FIELD_RESTART,
		.doc = "Where clients connect: an address, a unix socket's path, or a list of them. "
		       "Loopback and unix sockets are open; any other address (`0.0.0.0:8080`) needs a key "
		       "(`corral key create`) or `auth.trusted`. `https://ADDRESS:PORT` speaks TLS with "
		       "`tls.cert`. A socket is for its "
		       "user alone unless a mode follows (`/run/corral/llm.sock?mode=0660`). Port 0 picks a "
		       "free one. "
		       "`<runtime_dir>/corral.sock` is always bound besides."),
	TOP("tls.cert", PATH, tls_cert,
		.doc = "The certificate of `https://` addresses in `listen`: a PEM file, the server's own "
		       "first, then its chain. Read again with every reload; new connections get the new "
		       "one."),
	TOP("tls.key", PATH, tls_key,
		.doc = "Its private key: a PEM file without a passphrase that others cannot read."),
	TOP("hosts", LIST, hosts,
		.doc = "Names that clients may call this server by (`llm.lan`), without scheme and port. "
		       "Addresses, `localhost` and the machine's own name, also with `.local`, always work; "
		       "any other Host is answered 421, so that no web page can have its own name point "
		       "here."),
	TOP("cors.origins", LIST, cors_origins,
		.doc = "Web pages that may ask models from a browser: origins (`https://chat.example.org`), "
		       "or "
		       "`*` for every page there is. They never reach routes that control the server."),
	TOP("auth.trusted", LIST, auth_trusted,
		.doc = "Networks whose clients may ask models without a key, and nothing else "
		       "(`192.168.1.0/24`). What counts is the address a connection comes from, never a "
		       "header."),
	TOP("keys_file", PATH, keys_file,
		.doc = "Keys in a file, one a line: `NAME: KEY`, the key in plain or as `sha256:HEX`, then "
		       "maybe `scope=`, `models=`, `requests=`, `tokens=`, `concurrent=`, `expires=`. Nobody "
		       "else may write it (`chmod 600`). Read again with every reload."),
	TOP("state_dir", PATH, state_dir, .flags = FIELD_COMPUTED | FIELD_RESTART,
		.doc = "What survives a restart: databases, `log/`, `spool/`, engine builds. For a user "
		       "`$XDG_STATE_HOME/corral` (`~/.local/state/corral`), for root `/var/lib/corral`, for "
		       "a systemd "
		       "service its `StateDirectory`."),
	TOP("runtime_dir", PATH, runtime_dir, .flags = FIELD_COMPUTED | FIELD_RESTART,
		.doc = "Sockets and locks. For a user `$XDG_RUNTIME_DIR/corral`, without that variable `run` "
		       "under the "
		       "default `state_dir`; for root `/run/corral`, for a systemd service its "
		       "`RuntimeDirectory`."),
	TOP("models_dir", PATH, models_dir, .flags = FIELD_COMPUTED | FIELD_RESTART,
		.doc = "Where a relative `model` is looked for. For a user `$XDG_DATA_HOME/corral/models` "
		       "(`~/.local/share/corral/models`), for root and services `models` under "
		       "`/var/lib/corral` or the "
		       "`StateDirectory`."),
	TOP("gpu", ENUM, gpu, .dflt = "auto", .words = gpu_words, .flags = FIELD_RESTART,
		.doc = "`auto`: use the GPUs that are there, the CPU when there is none; a GPU that is there "
		       "and "
		       "cannot be used is an error. `required`: no pool starts without a GPU (but one with "
		       "`devices: cpu`). `optional`: may fall back to the CPU and says so. `none`: the CPU "
		       "alone."),
	TOP("workers", UINT, workers, .dflt = "auto", .words = auto_zero, .min = 1, .max = 256,
		.flags = FIELD_RESTART,
		.doc = "Data loops (threads that carry requests). `auto`: one per CPU this process may use."),
	TOP("starting_max", UINT, starting_max, .dflt = "2", .min = 1, .max = 1024,
		.doc = "Engines of a node loading at the same time; those that come later wait for their "
		       "turn, the ones with a request waiting go first."),
	TOP("swap.max_wait", DURATION, swap.max_wait_ms, .dflt = "60s", .min = 0, .max = DAY_MS,
		.doc = "Requests for a model that is loaded go ahead of one that needs its memory for "
		       "another "
		       "model, for at most this long. Then the loaded one takes nothing new, ends what it "
		       "has begun, and makes room."),
	TOP("swap.hold", DURATION, swap.hold_ms, .dflt = "10s", .min = 0, .max = 3600 * 1000,
		.doc = "A model whose last answer called tools is kept this long for the turn that follows."),
	TOP("swap.hold_after", ENUM, swap.hold_after, .dflt = "tool_calls", .words = hold_words,
		.doc = "After which answers `swap.hold` counts: those that called tools (the same API key "
		       "that now asks for another model is not held up), all, or none."),
	TOP("budget.replicas", UINT, budget.replicas, .dflt = "none", .words = none_zero, .min = 1,
		.max = 16384, .doc = "The most engines at one time, whatever fits."),
	TOP("budget.host_bytes", SIZE, budget.host_bytes, .dflt = "none", .words = none_zero, .min = 1 << 20,
		.max = (uint64_t)1 << 50, .doc = "The most host memory all engines together may take."),
	TOP("budget.device_bytes", LIST, budget.device_bytes,
		.doc = "The most memory all engines together may take of a device: a list of `DEVICE=SIZE`, "
		       "a "
		       "device by its index, its UUID or its beginning, or `*` for each "
		       "(`[\"0=20GiB\", \"GPU-3f2a=10GiB\"]`)."),
	TOP("body.max", SIZE, body_max, .dflt = "64MiB", .min = 1024, .max = (uint64_t)1 << 40,
		.doc = "The largest request body; above it a request is answered 413."),
	TOP("body.spool_total", SIZE, body_spool_total, .dflt = "4GiB", .min = 0, .max = (uint64_t)1 << 50,
		.doc = "How much disk all waiting request bodies together may take; above it 503."),
	TOP("build.jobs", UINT, build.jobs, .dflt = "auto", .words = auto_zero, .min = 1, .max = 1024,
		.flags = FIELD_RESTART,
		.doc = "Compilers at a time while an engine is built. `auto`: one per CPU; either way no "
		       "more "
		       "than free memory bears (1.5 GiB each, 3 GiB for CUDA and HIP)."),
	TOP("build.allow_package_installs", BOOL, build.allow_package_installs, .dflt = "false",
		.flags = FIELD_RESTART,
		.doc = "Whether tools that a build needs and this machine lacks may be installed with the "
		       "distribution's package manager (as root, or by `sudo -n`). Not where "
		       "`network.allow_hosts` or `network.deny` is set: it asks mirrors of its own."),
	TOP("network.offline", BOOL, network.offline, .dflt = "false",
		.doc = "Fetch nothing: no model, no engine. What is on the disk is served. "
		       "`HF_HUB_OFFLINE=1` "
		       "says the same of models."),
	TOP("network.allow_hosts", LIST, network.allow_hosts,
		.doc = "The only hosts anything is fetched from: names (`huggingface.co`), all below one "
		       "(`*.hf.co`), with a port where one is meant (`10.0.0.5:9000`). Looked at again for "
		       "each "
		       "redirect; git and apt follow none where hosts are named here or in `network.deny`. "
		       "Empty: all."),
	TOP("network.deny", LIST, network.deny,
		.doc = "Hosts nothing is fetched from, in the same shape; wins over `network.allow_hosts`."),
	TOP("network.plain_http", BOOL, network.plain_http, .dflt = "false",
		.doc = "Fetch over `http:` from other machines too. Credentials never go over it."),
	TOP("trust.mode", ENUM, trust.mode, .dflt = "permissive", .words = trust_words,
		.doc = "`permissive`: a file of which no digest is known beforehand is taken, with a "
		       "warning, and "
		       "its digest is kept. `strict`: only files whose digest is known beforehand, from "
		       "`trust.registries`; of images (`engine.image`) those named by digest, or pinned "
		       "before, from there."),
	TOP("trust.require_digest", BOOL, trust.require_digest, .dflt = "false",
		.doc = "Refuse every file of which no digest is known beforehand, and every image that is "
		       "named by a tag alone and was not pinned before."),
	TOP("trust.registries", LIST, trust.registries,
		.doc = "Places whose models and images are trusted: hosts in the shape of "
		       "`network.allow_hosts`, or "
		       "buckets "
		       "(`s3://BUCKET`). Empty: all."),
	TOP("fetch.rate", SIZE, fetch.rate, .dflt = "none", .words = none_zero, .min = 1024,
		.max = (uint64_t)1 << 50, .doc = "Bytes a second that fetching may take."),
	TOP("fetch.parallel", UINT, fetch.parallel, .dflt = "4", .min = 1, .max = 16,
		.doc = "Connections a fetch uses at a time."),
	TOP("fetch.headroom", SIZE, fetch.headroom, .dflt = "1GiB", .min = 0, .max = (uint64_t)1 << 50,
		.doc = "Disk that fetching leaves free; looked at before the first byte."),
	TOP("models_quota", SIZE, models_quota, .dflt = "none", .words = none_zero, .min = 1 << 20,
		.max = (uint64_t)1 << 60,
		.doc = "Disk that models Corral fetched may take. Above it nothing more is fetched: `corral "
		       "models "
		       "gc --dry-run` says which could go. Nothing is removed by itself."),
	TOP("log.format", ENUM, log_format, .dflt = "auto", .words = format_words, .flags = FIELD_RESTART,
		.doc = "`json`: one JSON object a line. `console`: for people. `auto`: console on a "
		       "terminal, else JSON."),
	TOP("log.level", ENUM, log_level, .dflt = "info", .words = level_words,
		.doc = "The least important events that are written."),
	TOP("watch", BOOL, watch, .dflt = "false",
		.doc = "Read the file again when it changes, as `corral config reload` does. `corral serve "
		       "--watch` sets it."),
	{ .scope = SCOPE_TOP,
		.path = "defaults",
		.type = FIELD_DEFAULTS,
		.doc = "Any key of a pool except `id`, `model`, `aliases` and `default`: what every pool "
		       "starts from." },
	{ .scope = SCOPE_TOP,
		.path = "pools",
		.type = FIELD_POOLS,
		.doc = "The list of pools: one model each, an engine, a number of replicas, a queue. Without "
		       "any, "
		       "the models that lie on the disk already are found and served." },

	POOL("id", STRING, id, .flags = FIELD_NO_DEFAULTS,
		.doc = "The pool's name and its model id for clients: a-z, 0-9, `.`, `_` and `-`, up to 64 "
		       "characters, "
		       "starting with a letter or a digit. Required."),
	POOL("model", STRING, model, .flags = FIELD_NO_DEFAULTS | FIELD_ENGINE,
		.doc = "What it serves: a GGUF file (for `vllm`, `sglang` and `tgi` a folder; absolute, or "
		       "relative to `models_dir`), or what is fetched "
		       "with the first request when it is not on this machine: `org/repo`, `org/repo:Q4_K_M` "
		       "or "
		       "`hf:org/repo/file.gguf` of the Hugging Face hub (`@REVISION` behind the repository "
		       "pins "
		       "it), `ollama:NAME:TAG`, `https://…`, `s3://BUCKET/KEY`, `oci://REGISTRY/NAME`. "
		       "Required "
		       "unless the engine is external or a command."),
	POOL("model.ref", STRING, model, .flags = FIELD_NO_DEFAULTS | FIELD_ALIAS, .canon = "model",
		.doc = "The same, where more is said of the model: `model: {ref: org/repo, mmproj: none}`."),
	POOL("model.mmproj", STRING, model_set.mmproj, .flags = FIELD_NO_DEFAULTS | FIELD_ENGINE,
		.doc = "Its projector (pictures, sound), as `model` names one. Without it the repository's "
		       "own is "
		       "taken; `none`: no projector."),
	POOL("model.draft", STRING, model_set.draft, .flags = FIELD_NO_DEFAULTS | FIELD_ENGINE,
		.doc = "A draft model for speculative decoding, as `model` names one."),
	POOL("model.lora", LIST, model_set.lora, .flags = FIELD_NO_DEFAULTS | FIELD_ENGINE,
		.doc = "LoRA adapters, each as `model` names one."),
	POOL("model.sha256", STRING, model_set.sha256, .flags = FIELD_NO_DEFAULTS,
		.doc = "The SHA-256 of the one file `model` names; another file never becomes part of the "
		       "pool."),
	POOL("aliases", LIST, aliases, .flags = FIELD_NO_DEFAULTS,
		.doc = "Further model ids that mean this pool (`gpt-4o-mini`)."),
	POOL("default", BOOL, is_default, .dflt = "false", .flags = FIELD_NO_DEFAULTS,
		.doc = "Answers requests that name no model. At most one pool."),
	POOL("engine.kind", ENUM, engine.kind, .dflt = "llamacpp", .words = kind_words, .flags = FIELD_ENGINE,
		.doc = "`llamacpp`: llama-server. `vllm`, `sglang`, `tgi`: those servers, started by Corral "
		       "or "
		       "external. `triton`, `openai` (any server that speaks the OpenAI API): external, or a "
		       "program at `path` whose `args` name `{port}`. `command`: any program; taken by "
		       "itself "
		       "when `command` is set."),
	POOL("engine.mode", ENUM, engine.mode, .dflt = "auto", .words = mode_words, .flags = FIELD_ENGINE,
		.doc = "How the engine gets here. `external`: it runs already, at `url`. `binary`: the "
		       "program at `path`, or an archive at `url` with its `sha256`. `package`: the "
		       "distribution's package, unpacked privately. `source`: built here out of a git "
		       "repository. `container`: `image`, by podman or docker. `auto`: binary with `path` or "
		       "`sha256`, container with `image`, external with `url`, source with `source`, else an "
		       "installed program; of llama.cpp the first of installed, built here, container and "
		       "package that can use the GPUs, then the CPU. `corral engines plan` says which."),
	POOL("engine.path", PROGRAM, engine.path, .flags = FIELD_ENGINE,
		.doc = "`binary`: the program; a name without a slash is looked up in `PATH`."),
	POOL("engine.url", LIST, engine.urls, .flags = FIELD_ALIAS, .canon = "engine.urls",
		.doc = "`external`: the server's address, without a path. `binary`: where its archive is "
		       "(tar or zip; `https:`, `http:`, `file:`)."),
	POOL("engine.sha256", STRING, engine.sha256, .flags = FIELD_ENGINE,
		.doc = "`binary`: the archive's SHA-256, 64 hexadecimal digits. Required with `url`."),
	POOL("engine.program", STRING, engine.program, .flags = FIELD_ENGINE,
		.doc = "`binary`: the program's name or path inside the archive; by default the kind's own "
		       "(`llama-server`)."),
	POOL("engine.image", STRING, engine.image, .flags = FIELD_ENGINE,
		.doc = "`container`: the image, best with its digest (`registry/name@sha256:…`). A tag is "
		       "pinned to "
		       "the digest it has when it is fetched first. By default the kind's own project's."),
	POOL("engine.runtime", ENUM, engine.runtime, .dflt = "auto", .words = runtime_words,
		.flags = FIELD_ENGINE,
		.doc = "`container`: `podman` or `docker`. `auto`: the first of the two."),
	POOL("engine.urls", LIST, engine.urls, .flags = FIELD_ENGINE,
		.doc = "`binary`: mirrors of the archive. `external`: addresses of several servers, one "
		       "replica each: `http://host:port`, "
		       "`https://host:port` (its certificate is checked against the system's authorities) or "
		       "`unix:/path`."),
	POOL("engine.command", WORDS, engine.command, .flags = FIELD_ENGINE,
		.doc = "`command`: the program and its arguments, a list or one line split as shell words "
		       "(no shell "
		       "runs). `{port}` (or `${PORT}`), `{socket}`, `{model}`, `{ctx}`, `{slots}`, "
		       "`{devices}` and `{id}` "
		       "are filled in."),
	POOL("engine.stop_command", WORDS, engine.stop_command, .flags = FIELD_ENGINE,
		.doc = "`command`: run to stop it instead of SIGTERM."),
	POOL("engine.package.archive", STRING, engine.package_archive, .flags = FIELD_ENGINE,
		.doc = "`package`: the archive's URL; by default the one apt already uses."),
	POOL("engine.package.suite", STRING, engine.package_suite, .flags = FIELD_ENGINE,
		.doc = "`package`: the suite to take it from."),
	POOL("engine.package.keyring", PATH, engine.package_keyring, .flags = FIELD_ENGINE,
		.doc = "`package`: the keys its signature is checked against."),
	POOL("engine.version", STRING, engine.version, .dflt = "installed", .flags = FIELD_ENGINE,
		.doc = "`installed`: what is here, else the newest. `latest`: the newest there is; no start "
		       "asks "
		       "for it, `corral engines outdated` says whether what is here is older, and `corral "
		       "engines upgrade` goes there. `bNNNN` or a commit: that release, for `mode: source`."),
	POOL("engine.source.repo", STRING, engine.source_repo, .flags = FIELD_ENGINE,
		.doc = "`source`: the git repository, `https://…`, `git://…`, `ssh://…`, or `file:/…` for "
		       "one on "
		       "this machine; by default llama.cpp's own. No user and no password in it: git has "
		       "them from `~/.netrc` or a credential helper."),
	POOL("engine.source.ref", STRING, engine.source_ref, .flags = FIELD_ENGINE,
		.doc = "`source`: a tag, a branch, or a commit's 40 digits. It is looked up once; what was "
		       "built "
		       "stays until it is upgraded. By default the newest release tag (`bNNNN`)."),
	POOL("engine.source.flags", LIST, engine.source_flags, .flags = FIELD_ENGINE,
		.doc = "`source`: CMake's `NAME=value`, added to Corral's own and winning over them. Without "
		       "one "
		       "that names a back end (`GGML_CUDA=ON`), the GPUs that are here decide."),
	POOL("engine.args", WORDS, engine.args, .flags = FIELD_ENGINE,
		.doc = "More arguments for the engine, a list or one line split as shell words."),
	POOL("engine.env", ENV, engine.env, .flags = FIELD_ENGINE,
		.doc = "More environment for the engine: `{NAME: value}` or a list of `NAME=value`."),
	POOL("engine.health", STRING, engine.health, .flags = FIELD_ENGINE,
		.doc = "The path that answers 200 when it is ready; by default the one its kind "
		       "has: `/health`, for `openai` `/v1/models`, for `triton` `/health/ready`."),
	POOL("cancel_grace", DURATION, cancel_grace_ms, .dflt = "2s", .min = 0, .max = 3600 * 1000,
		.doc = "How long a slot stays counted after its client went away, for engines that cannot "
		       "tell when "
		       "they are done."),
	POOL("start_timeout", DURATION, start_timeout_ms, .dflt = "auto", .words = auto_zero, .min = 1000,
		.max = 7 * DAY_MS,
		.doc = "How long a start may take. `auto`: 5 minutes and 20 seconds per GiB of the model."),
	POOL("ctx", UINT, ctx, .dflt = "auto", .words = auto_zero, .min = 64, .max = 1 << 24,
		.flags = FIELD_ENGINE,
		.doc = "Tokens **per request**; the engine gets ctx × slots. `auto`: what the model was "
		       "trained for, at most 131072, where that is free on the devices it goes to; else less "
		       "in steps, down to 8192. Nobody is stopped for more than the 8192, and of memory that "
		       "other pools use, too, at most half of what is free is taken for it."),
	POOL("slots", UINT, slots, .dflt = "2", .min = 1, .max = 1024, .flags = FIELD_ENGINE,
		.doc = "Requests one replica works on at the same time."),
	POOL("devices", STRING, devices, .dflt = "auto", .flags = FIELD_ENGINE,
		.doc = "What its engines may use. `auto`: every GPU that answers, the CPU on a machine "
		       "without "
		       "one. `cpu` (or `none`): no GPU. Else indices (`0,1`, as `corral devices` prints "
		       "them) or "
		       "UUIDs and their beginnings (`GPU-3f2a`): nothing but these."),
	POOL("prefer", STRING, prefer, .flags = FIELD_ENGINE,
		.doc = "GPUs it is put on where several would do: indices or UUIDs as in `devices`. A wish: "
		       "nobody is stopped for it."),
	POOL("avoid", STRING, avoid, .flags = FIELD_ENGINE,
		.doc = "GPUs it is put on only where no other would do, not even with idle engines stopped: "
		       "indices or UUIDs as in `devices`."),
	POOL("gpus", UINT, gpus, .dflt = "auto", .words = auto_zero, .min = 1, .max = 16,
		.flags = FIELD_ENGINE,
		.doc = "GPUs per replica, exactly that many. `auto`: one, more when the model needs them."),
	POOL("memory", SIZE, memory, .dflt = "auto", .words = auto_zero, .min = 1 << 20,
		.max = (uint64_t)1 << 50,
		.doc = "What a replica takes of each of its devices, where Corral cannot know it from a "
		       "model "
		       "file. `auto`: computed for llama.cpp; for other engines nothing is reserved."),
	POOL("host_cache", SIZE, host_cache, .dflt = "auto", .words = auto_zero, .min = 1 << 20,
		.max = (uint64_t)1 << 50, .flags = FIELD_ENGINE,
		.doc = "Host memory a llama.cpp engine may keep old conversations in (`--cache-ram`). "
		       "`auto`: a "
		       "tenth of the host's memory shared by the pools, at most 2 GiB."),
	POOL("offload", ENUM, offload, .dflt = "auto", .words = offload_words,
		.doc = "A model larger than its GPUs: `auto` keeps experts, then whole layers in host memory "
		       "(slower, and said so). `never`: it is refused."),
	POOL("pinned", BOOL, pinned, .dflt = "false",
		.doc = "Its engines are never stopped to make room for another pool's."),
	POOL("evict_cost", UINT, evict_cost, .dflt = "1", .min = 0, .max = 1000,
		.doc = "How much worse than for others it is to stop its idle engines: the expected loss is "
		       "multiplied by it. 0: they go first."),
	POOL("idle_only", BOOL, idle_only, .dflt = "false",
		.doc = "Its idle engines make room for another pool's only once their `keep_alive` is over."),
	POOL("never_with", LIST, never_with,
		.doc = "Pools that may not run on the same devices at the same time: an idle one is stopped "
		       "first, a busy one is waited for."),
	POOL("replicas", REPLICAS, replicas_min, .flags = FIELD_ALIAS, .canon = "replicas.max", .min = 1,
		.max = 64, .doc = "A number N: that many, always (`{min: N, max: N}`)."),
	POOL("replicas.min", UINT, replicas_min, .dflt = "0", .min = 0, .max = 64,
		.doc = "Replicas that run whether they are used or not."),
	POOL("replicas.max", UINT, replicas_max, .dflt = "1", .min = 1, .max = 64,
		.doc = "The most that are started; with `engine.urls` by default one per address."),
	POOL("keep_alive", DURATION, keep_alive_ms, .dflt = "10m", .words = never_words, .min = 0,
		.max = 365ull * DAY_MS,
		.doc = "An unused replica above `replicas.min` is stopped after this. `never` (or `-1`): not "
		       "at all."),
	POOL("preload", BOOL, preload, .dflt = "false",
		.doc = "Start it with the daemon instead of with the first request."),
	POOL("canary", ENUM, canary, .dflt = "auto", .words = canary_words,
		.doc = "The proof that the model answers, before a replica is ready. `auto`: a waiting "
		       "request is the "
		       "proof, else one token of our own. `always`: our own goes first. `never`: the health "
		       "endpoint's 200 "
		       "is enough."),
	POOL("kv_cache.save", ENUM, kv.save, .dflt = "auto", .words = kv_words,
		.doc = "llama.cpp: whether the conversations in an engine's slots are written to "
		       "`<state_dir>/kv` when it is stopped, and taken up by the next one, so that the next "
		       "turn after a swap does not read all of it again. `auto`: where that helps: a model "
		       "with "
		       "recurrent layers or a sliding window (without `--swa-full`) needs a llama-server "
		       "that "
		       "saves checkpoints. `on`: always. `off`: never. A change holds for engines that start "
		       "or "
		       "stop from then on."),
	POOL("kv_cache.max_bytes", SIZE, kv.max_bytes, .dflt = "auto", .words = auto_zero, .min = 1024 * 1024,
		.max = (uint64_t)1 << 50,
		.doc = "The disk they may take; the oldest go first. `auto`: a tenth of what is free, at "
		       "most "
		       "8GiB."),
	POOL("queue.capacity", UINT, queue_capacity, .dflt = "64", .min = 0, .max = 100000,
		.doc = "Requests that may wait for a slot."),
	POOL("queue.policy", ENUM, queue_policy, .dflt = "reject", .words = policy_words,
		.doc = "When the queue is full: `reject` the new request, or `drop-lru` the one that waited "
		       "longest."),
	POOL("queue.max_wait", DURATION, queue_max_wait_ms, .dflt = "10m", .min = 100, .max = 7 * DAY_MS,
		.doc = "A request that waited this long for a slot is answered 503."),
	POOL("progress.mode", ENUM, progress.mode, .dflt = "auto", .words = progress_words,
		.doc = "What a stream is told while it waits for the first byte of its answer (a queue, a "
		       "start, a long prompt). `auto`: what official clients take without showing it: an "
		       "empty chunk on `/v1/chat/completions` and `/v1/completions`, a ping on "
		       "`/v1/messages`, elsewhere nothing. `chunk`: the same. `comment`: a comment line "
		       "(`: starting chat 41 %`), which a client gets too that asks with `X-Corral-Progress: "
		       "comment`. `reasoning`: the same words as `reasoning_content` on "
		       "`/v1/chat/completions`, elsewhere as `auto`. `off`: nothing."),
	POOL("progress.after", DURATION, progress.after_ms, .dflt = "10s", .min = 10, .max = DAY_MS,
		.doc = "Nothing is sent before this, so that an early failure is a status. From then on the "
		       "status is 200, and a failure is an event of the stream."),
	POOL("progress.every", DURATION, progress.every_ms, .dflt = "5s", .min = 10, .max = DAY_MS,
		.doc = "How often it is told."),
	POOL("stall_timeout", DURATION, stall_timeout_ms, .dflt = "20s", .min = 100, .max = 7 * DAY_MS,
		.doc = "A stream that had a token and then none for this long (or ten times its replica's "
		       "usual gap), while no other stream of the replica moved, has its engine looked at: "
		       "when its slots do not move either, it is hung and is restarted."),
	POOL("first_token_timeout", DURATION, first_token_timeout_ms, .dflt = "10m", .min = 1000,
		.max = 7 * DAY_MS,
		.doc = "How long a request may wait in the engine for its first token while nothing moves in "
		       "the engine's slots. A long prompt on a CPU takes minutes."),
};
const size_t config_nfields = ARRAY_LEN(config_fields);

int field_find(enum field_scope scope, struct view path)
{
	for (size_t i = 0; i < config_nfields; i++)
		if (config_fields[i].scope == scope && view_eqs(path, config_fields[i].path))
			return (int)i;
	return -1;
}

int field_canon(int index)
{
	const struct field *f = &config_fields[index];
	return f->flags & FIELD_ALIAS ? field_find(f->scope, view_str(f->canon)) : index;
}

bool field_is_group(enum field_scope scope, struct view path)
{
	for (size_t i = 0; i < config_nfields; i++) {
		struct view p = view_str(config_fields[i].path);
		if (config_fields[i].scope == scope && p.n > path.n && view_starts(p, path) &&
			p.p[path.n] == '.')
			return true;
	}
	return false;
}

static void add_words(const struct field_word *w, struct buf *out)
{
	for (; w && w->word; w++)
		buf_addf(out, "%s%s", w->word, !w[1].word ? "" : w[2].word ? ", " : " or ");
}

static void add_range(const struct field *f, struct buf *out)
{
	char lo[32], hi[32];
	if (f->type == FIELD_SIZE) {
		num_format_bytes(f->min, lo, sizeof lo);
		num_format_bytes(f->max, hi, sizeof hi);
		buf_addf(out, "a size from %s to %s, as in 64MiB", lo, hi);
	} else if (f->type == FIELD_DURATION) {
		num_format_duration((int64_t)f->min, lo, sizeof lo);
		num_format_duration((int64_t)f->max, hi, sizeof hi);
		buf_addf(out, "a duration from %s to %s, as in 30s or 10m", lo, hi);
	} else {
		buf_addf(out, "a number from %llu to %llu", (unsigned long long)f->min,
			(unsigned long long)f->max);
	}
	if (f->words) {
		buf_adds(out, ", or ");
		add_words(f->words, out);
	}
}

void field_accepts(const struct field *f, struct buf *out)
{
	switch (f->type) {
	case FIELD_STRING: buf_adds(out, "text"); break;
	case FIELD_PATH: buf_adds(out, "a path"); break;
	case FIELD_PROGRAM: buf_adds(out, "a program's path or name"); break;
	case FIELD_BOOL: buf_adds(out, "true or false"); break;
	case FIELD_UINT:
	case FIELD_SIZE:
	case FIELD_DURATION: add_range(f, out); break;
	case FIELD_ENUM: add_words(f->words, out); break;
	case FIELD_LIST: buf_adds(out, "text, or a list of texts"); break;
	case FIELD_WORDS:
		buf_adds(out, "a list of words, or one line that is split as a shell splits it");
		break;
	case FIELD_ENV: buf_adds(out, "NAME: value pairs, or a list of NAME=value"); break;
	case FIELD_REPLICAS: buf_adds(out, "a number from 1 to 64, or {min, max}"); break;
	case FIELD_POOLS: buf_adds(out, "a list of pools, as in [{id: chat, model: chat.gguf}]"); break;
	case FIELD_DEFAULTS: buf_adds(out, "a mapping of pool keys"); break;
	}
}

void field_env_name(const struct field *f, struct buf *out)
{
	buf_adds(out, f->scope == SCOPE_POOL ? "CORRAL_DEFAULTS_" : "CORRAL_");
	for (const char *p = f->path; *p; p++)
		buf_addc(out, *p == '.' ? '_' : (char)toupper((unsigned char)*p));
}
