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
bool auto_failed(struct engine_job *j, const char *text);
/* A way has j->build. True: it is looked at first, the answer comes later. */
bool auto_checks(struct engine_job *j);
/* Adds why something was passed over to j->note; the same only once, NOTE_MAX bytes each. */
void auto_note(struct engine_job *j, const char *fmt, ...) PRINTF(2, 3);
/* How many GPUs `llama-server --list-devices` lists; software renderers and remote machines are none. */
size_t auto_devices_parse(struct view out);
/* What one program computes with on all of them: their maker's, or Vulkan where there are several makers. */
enum engine_backend auto_backend(const struct engine_device *d, size_t n);
/* Whether the program, as far as it was asked already, can use the devices. */
bool auto_may_list(const struct engine_ensure_opts *o, const char *program);
/* What would be taken, where no installed llama-server is: one sentence. */
char *auto_describe(const struct engine_def *d, const struct engine_ensure_opts *o) MUST_CHECK;

#endif
