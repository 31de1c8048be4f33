/* SPDX-License-Identifier: Apache-2.0
 *
 * Pools that nobody configured: the models that lie on this machine's disk, where the configuration names no
 * pools. Looking takes place off the loop; everything else is for the agent's loop alone.
 */
#ifndef ROLE_ENGINE_PROVISIONER_FOUND_H
#define ROLE_ENGINE_PROVISIONER_FOUND_H

#include "config/config.h"
#include "node/node.h"
#include "provision/model/stores.h"

struct found;
/* A look has ended. The configuration has a pool for each model (owned by the callee of fn). */
typedef void found_fn(void *arg, struct config *with_pools);

struct found *found_new(struct loop *l, found_fn *fn, void *arg) MUST_CHECK;
/* Whether base leaves it to us which pools there are: it names none, and its defaults start an engine that
 * takes GGUF files. */
bool found_wanted(const struct config *base);
/* Looks through the disk, then calls fn, once, at the end of a round. One that is under way is begun anew. */
void found_look(struct found *f, struct config *base);
/* Calls fn no more, forgets what was found. */
void found_forget(struct found *f);
/* After loop_free, which waits for a look. NULL allowed. */
void found_free(struct found *f);

/* For a model among them: puts what its engine needs before `args` (a projector; for embedding and rerank
 * models what makes them answer). */
void found_args(const struct stores_found *l, const char *path, struct strv *args);
const struct stores_found *found_list(const struct found *f); /* of the last look */
/* Fills what is known of the model at ret->path. False: it is none of the last look. */
bool found_describe(const struct found *f, struct wire_model *ret);

#endif
