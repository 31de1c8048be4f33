/* SPDX-License-Identifier: Apache-2.0
 *
 * Whether this machine can build an engine, before anything is begun: all that is missing at once, each with
 * the command that installs it. preflight_check is pure on facts; preflight_collect finds them out (it runs
 * `cmake --version` and the like, one after the other, on the loop). Control loop only.
 *
 * Bounds: PREFLIGHT_ITEMS_MAX things missing, PREFLIGHT_HOSTS_MAX other compilers looked at.
 */
#ifndef PROVISION_ENGINE_PREFLIGHT_H
#define PROVISION_ENGINE_PREFLIGHT_H

#include "base/buf.h"
#include "provision/engine/engine.h"

enum preflight_tool {
	TOOL_GIT,
	TOOL_CMAKE,
	TOOL_NINJA,
	TOOL_MAKE,
	TOOL_CC,
	TOOL_CXX,
	TOOL_NVCC,
	TOOL_HIPCC,
	TOOL_GLSLC,
	TOOL_CCACHE,
	TOOL_COUNT
};
const char *preflight_tool_name(enum preflight_tool t);

enum preflight_distro {
	DISTRO_DEBIAN,
	DISTRO_UBUNTU,
	DISTRO_FEDORA,
	DISTRO_ARCH,
	DISTRO_COUNT,
	DISTRO_OTHER
};
const char *preflight_distro_name(enum preflight_distro d);
/* From the text of /etc/os-release: its ID, else the first of ID_LIKE that is known. */
enum preflight_distro preflight_distro_of(struct view os_release);

enum { PREFLIGHT_ITEMS_MAX = 32, PREFLIGHT_HOSTS_MAX = 24, PREFLIGHT_NOTES_MAX = 16 };

struct preflight_tool_fact {
	char *path;    /* NULL: it is not there */
	char *version; /* "3.25.1"; NULL: it does not say, or does not run */
	bool broken;   /* it was started and failed */
	bool clang;    /* of a compiler */
};
struct preflight_host { /* a C++ compiler besides the default one */
	char *path;
	unsigned major;
	bool clang;
};
struct preflight_facts {
	struct preflight_tool_fact tools[TOOL_COUNT];
	enum preflight_distro distro;
	bool root;       /* packages can be installed without sudo */
	char *sudo;      /* its path; NULL: none */
	char *cuda_root; /* where nvcc lies: "/usr/local/cuda"; NULL */
	bool cuda_headers;
	unsigned nvcc_gcc_max, nvcc_clang_max; /* the newest host compilers it takes; 0: not known */
	char *nvcc_archs;                      /* " 75 80 86 89 " as it lists them; NULL: not known */
	char *rocm_root, *rocm_clang;
	char *gfx; /* "gfx1100;gfx90a" of the AMD GPUs here; NULL: not known */
	bool hip_headers, vulkan_headers, spirv_headers, ccache_dir;
	struct preflight_host hosts[PREFLIGHT_HOSTS_MAX];
	size_t nhosts;
	char *disk_at; /* the folder whose disk was asked; NULL: not known */
	uint64_t disk_free, memory_available;
	unsigned cpus;
};
void preflight_facts_done(struct preflight_facts *f);

struct preflight_wish {
	enum engine_backend backend;
	const struct engine_device *devices;
	size_t ndevices;
	uint64_t disk; /* bytes it will take; 0: not asked */
};
struct preflight_item {
	const char *what;                   /* "cmake", "disk", "driver" */
	char *text;                         /* a sentence: what was found, what is needed */
	char *command;                      /* what mends it on this machine; NULL: no package does */
	const char *packages[DISTRO_COUNT]; /* by distribution, space-separated; NULL */
};
struct preflight_report {
	struct preflight_item items[PREFLIGHT_ITEMS_MAX];
	size_t len;
	struct strv install; /* the words of one command for all packages that are missing; empty: none */
	char *cuda_host;     /* the C++ compiler nvcc is to be given; NULL: its own choice */
	struct strv notes;   /* what a person should know */
};
void preflight_report_done(struct preflight_report *r);
void preflight_check(
	const struct preflight_facts *f, const struct preflight_wish *w, struct preflight_report *ret);
/* "git is missing (apt-get install git); cmake 3.5 is too old …": all of it in one message. */
void preflight_text(const struct preflight_report *r, struct buf *out);
/* Compilers at a time: asked (0: as many as CPUs), at most what memory bears, at least 1. */
unsigned preflight_jobs(const struct preflight_facts *f, enum engine_backend b, uint32_t asked);
/* "12.4" against "11": as dotted numbers. */
int preflight_version_cmp(const char *a, const char *b);

/* What a tool's `--version` says of it: "3.25.1". NULL: nothing; *ret_clang: it is a clang. */
char *preflight_version_of(enum preflight_tool t, struct view text, bool *ret_clang) MUST_CHECK;
/* What nvcc's crt/host_config.h refuses: the newest gcc and clang it takes, 0 where it does not say. */
void preflight_hosts_of(struct view host_config, unsigned *ret_gcc, unsigned *ret_clang);
/* "gfx1100" of the kernel driver's gfx_target_version 110000; "" for 0. */
void preflight_gfx_of(uint64_t version, char out[16]);

typedef void preflight_done_fn(void *arg, struct preflight_facts *facts); /* takes what is inside */
struct preflight;
/* disk_at: an existing folder, or one whose parents exist. root: "" or a folder to look in instead of / (for
 * tests). Called back once, from the loop. */
void preflight_collect(struct loop *l, const char *root, const char *disk_at, preflight_done_fn *done,
	void *arg, struct preflight **ret);
/* At once, by files alone: whether all the tools for a build with that toolkit lie here. */
bool preflight_tools_here(const char *root, enum engine_backend b);
void preflight_cancel(struct preflight **p); /* no callback any more; NULL inside allowed */

#endif
