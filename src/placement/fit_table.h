/* SPDX-License-Identifier: Apache-2.0
 *
 * What the device planner would otherwise find out at each call by a pass over everything: kept beside the
 * facts by whoever changes them (fit_facts.table). Per node: the most free bytes, what leaving there costs at
 * least, how many of ours there are; per device: who holds it. A plan then leaves out whole nodes that cannot
 * be the best, and is the same as without a table: a table that knows of every change says nothing new.
 *
 * The devices and their nodes, names and indices are those it was made with; when these change, another one
 * is made. Costs: fit_table_new a pass over everything; a change looks at one node.
 */
#ifndef PLACEMENT_FIT_TABLE_H
#define PLACEMENT_FIT_TABLE_H

#include "placement/fit.h"

struct fit_table;
struct fit_table *fit_table_new(const struct fit_facts *f) MUST_CHECK;
void fit_table_freep(struct fit_table **t);

/* The numbers or the state of a device are others. */
void fit_table_device(struct fit_table *t, const struct fit_facts *f, size_t device);
/* There is another at this place of facts.replicas, or it changed; at or behind their end: it is gone. */
void fit_table_replica(struct fit_table *t, const struct fit_facts *f, size_t replica);

#endif
