/* SPDX-License-Identifier: Apache-2.0
 *
 * What engines.c, engines_ls.c and engines_plan.c share.
 */
#ifndef ROLE_ENGINE_PROVISIONER_ENGINES_INT_H
#define ROLE_ENGINE_PROVISIONER_ENGINES_INT_H

#include "gpu/gpu.h"
#include "loop/loop.h"
#include "provision/catalog/catalog.h"
#include "provision/engine/builds.h"
#include "provision/engine/engine.h"
#include "provision/engine/source.h"
#include "provision/fetch/fetch.h"
#include "role/engine_provisioner/engines.h"

struct engines {
	const struct engines_opts *o;
	struct loop *loop;
	char *prefix; /* <state_dir>/engines */
	struct engine_device devices[GPU_DEVICES_MAX];
	size_t ndevices;
	struct fetch_policy policy;
	struct catalog *catalog; /* NULL: there is none, or it cannot be opened: nothing is remembered */
	struct steps_store records;
};
/* The GPUs this pool's engine is to be able to use. */
size_t engines_devices(const struct engines *e, const struct config_pool *p);
bool engines_cpu_instead(const struct engines *e);
/* Which of the configuration's pools are meant: all, or the one that was named. */
bool engines_meant(const struct engines *e, const struct config_pool *p);
/* How this pool's engine is got; what is in it is e's. */
void engines_ensure_opts(
	const struct engines *e, const struct config_pool *p, struct engine_ensure_opts *ret);
/* What a pool's engine comes to now. */
void engines_outlook(const struct engines *e, const struct config_pool *p, struct engine_outlook *ret);
/* All pools of the configuration, in its order, with what each comes to now. */
void engines_takers(const struct engines *e, struct engine_takers *ret);
int engines_complain(const char *what, const char *text); /* 1 */

int engines_plan(struct engines *e);
int engines_list(struct engines *e);
int engines_remove(struct engines *e);
int engines_back(struct engines *e);

#endif
