/* SPDX-License-Identifier: Apache-2.0
 *
 * A folder with a fake apt, a loop, and engines that are got there: the frame of the tests of engine_ensure.
 */
#ifndef GETTING_H
#define GETTING_H

#include "fake_apt.h"
#include "provision/engine/engine_int.h"

struct world {
	char dir[64];
	struct loop *loop;
	struct engine_job *job;
	struct loop_timer deadline, poll;
	int deadline_ms;
	bool loud; /* progress goes to stderr, too */
	struct engine_ensure_opts opts;
	struct engine_device devices[2]; /* of opts */
	bool done, inside, late;
	struct engine_build build;
	struct err err;
	struct strv progress; /* "phase: text" */
	int top_pct;
	unsigned top_step, steps;
	const char *wait_for; /* file: stop the loop when it is there */
};

void world_init(struct world *w, const char *name);
void world_done(struct world *w);
/* A definition with the fake archive's keyring. */
struct engine_def world_def(const struct world *w, enum engine_mode mode);
void world_start(struct world *w, const struct engine_def *d);
void world_run(struct world *w); /* until a job is done */
void world_run_until_file(struct world *w, const char *name);
void world_ensure(struct world *w, const struct engine_def *d); /* both */

#endif
