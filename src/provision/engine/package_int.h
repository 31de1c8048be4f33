/* SPDX-License-Identifier: Apache-2.0
 *
 * The inside of the package mode's job: package.c until the packages are verified, package_install.c after.
 */
#ifndef PROVISION_ENGINE_PACKAGE_INT_H
#define PROVISION_ENGINE_PACKAGE_INT_H

#include "provision/engine/engine_int.h"

enum { PACKAGE_TOOL_SILENCE_MS = 2 * 60 * 1000 };

typedef void package_step_fn(struct package *p, const struct run_result *r);

struct package {
	struct engine_job *job; /* NULL once cancelled */
	struct loop *loop;
	struct package_names names;
	int lock_fd;
	struct loop_timer retry;
	bool waited; /* for another process: said once */
	struct run *run;
	package_step_fn *next;                /* called when run has ended */
	bool offloading;                      /* a thread works for us: nothing may be freed */
	void (*work)(struct package *p);      /* on that thread */
	void (*work_done)(struct package *p); /* back on the loop, not when cancelled */
	struct err work_err;
	struct buf carried;
	char *arch, *archive;
	struct package_files files;
	const char *phase, *doing; /* of the tool that runs */
	char *doing_text;          /* owns doing */
	int pct;                   /* the last one told */
	size_t unpacked;
	char *fresh; /* .new-<random>, full path */
	struct package_record record;
	struct strv env;
};

struct package_tool {
	const struct strv *argv;
	const char *cwd;
	int64_t silence_ms;
	bool status;
	package_step_fn *next;
};

void package_tool_start(struct package *p, const struct package_tool *t);
void package_offload(struct package *p, void (*work)(struct package *), void (*done)(struct package *));
/* Both end the package; nothing may touch it after them. */
void package_fail(struct package *p, const struct err *e);
void package_ready(struct package *p);
/* package_install.c */
void package_unpack(struct package *p);

#endif
