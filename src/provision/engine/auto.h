/* SPDX-License-Identifier: Apache-2.0
 *
 * Choosing among the ways to get llama.cpp (engine.mode auto). Control loop only.
 */
#ifndef PROVISION_ENGINE_AUTO_H
#define PROVISION_ENGINE_AUTO_H

#include "provision/engine/engine_int.h"

void auto_start(struct engine_job *j);
/* At the end of this round: the next way. */
void auto_next(struct engine_job *j);
/* A way failed. True: another one follows, this is not the answer. */
bool auto_failed(struct engine_job *j, int code, const char *text);
/* A way has j->build. True: it is looked at first, the answer comes later. */
bool auto_checks(struct engine_job *j);
/* Adds why something was passed over to j->note; the same only once, NOTE_MAX bytes each. */
void auto_note(struct engine_job *j, const char *fmt, ...) PRINTF(2, 3);
/* How many GPUs `llama-server --list-devices` lists; software renderers and remote machines are none. */
size_t auto_devices_parse(struct view out);
/* What one program computes with on all of them: their maker's, or Vulkan where there are several makers. */
enum engine_backend auto_backend(const struct engine_device *d, size_t n);
/* What would be taken, by files alone: nothing is started or asked. For mode: package, too. */
struct auto_choice {
	enum engine_mode mode;       /* binary, package, source or container */
	enum engine_backend backend; /* of a package */
	char *program;               /* binary: its name or path; the caller frees it */
	bool lists_none;             /* of the program it is known that it lists no GPU */
};
void auto_choose(const struct engine_def *d, const struct engine_ensure_opts *o, struct auto_choice *ret);

/* auto_choose.c: what is here. */
bool auto_vulkan_driver(void); /* one that shows a GPU to Vulkan; lavapipe is a CPU */
bool auto_hip_driver(void);
/* What a container needs besides podman or docker to be given these GPUs; NULL: nothing. */
const char *auto_container_lacks(enum engine_backend b, bool docker);
/* A package with that back end. */
bool auto_package_is_made(const struct engine_def *d, const struct engine_ensure_opts *o,
	enum engine_backend b, const char *note, struct engine_build *ret);
/* What a program listed while there were as many GPUs; false: it was not asked in this boot. */
bool auto_list_known(const char *prefix_dir, size_t ndevices, const char *program, size_t *ret);
void auto_list_remember(const char *prefix_dir, size_t ndevices, const char *program, size_t n);

#endif
