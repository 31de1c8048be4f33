/* SPDX-License-Identifier: Apache-2.0
 *
 * What a keeper writes about its engine (run/engines/<replica>.record). The file is read as hostile: it
 * may be cut, old, or anybody's. A process it names counts only while its start time and the
 * machine's boot id agree. Plain data: no loop.
 */
#ifndef SUPERVISE_RECORD_H
#define SUPERVISE_RECORD_H

#include <sys/types.h>

#include "base/err.h"
#include "base/view.h"

enum { RECORD_FILE_MAX = 16 * 1024, RECORD_ID_MAX = 255, RECORD_PATH_MAX = 255, BOOT_ID_LEN = 36 };

enum record_state {
	RECORD_RUNNING,  /* the engine is about to be executed or was */
	RECORD_STOPPING, /* the keeper was asked to stop it */
	RECORD_ENDED,    /* it has ended, what is left of its tree is being killed */
	RECORD_GONE,     /* nothing is left; the keeper's last word */
	RECORD_STATE_COUNT
};
const char *record_state_name(enum record_state s);

struct keeper_record {
	char replica_id[RECORD_ID_MAX + 1];
	char boot_id[BOOT_ID_LEN + 1];
	char socket[RECORD_PATH_MAX + 1]; /* "" = none */
	uint64_t generation;
	enum record_state state;
	int keeper_pid, engine_pid;
	uint64_t keeper_start, engine_start; /* clock ticks since boot, as in /proc/PID/stat */
	int exit_code;                       /* -1: ended by a signal, or not yet */
	int signo;                           /* 0: none */
	int exec_errno;                      /* the engine could not be executed */
	bool stop_asked;
	bool killed;   /* by the keeper: the grace was over */
	bool oom;      /* SIGKILL, and the kernel counted one more kill for want of memory around it */
	bool oom_sure; /* it counted in the engine's own control group, not on the whole machine */
	int64_t started_at_ms, ended_at_ms;
	uint64_t log_dropped_bytes;
};

int record_decode(struct view json, struct keeper_record *ret, struct err *reterr) MUST_CHECK;
/* -ENOENT when there is none. */
int record_read(const char *path, struct keeper_record *ret, struct err *reterr) MUST_CHECK;

/* Start time of a process: 0 or -ESRCH. */
int proc_start_time(int pid, uint64_t *ret) MUST_CHECK;
/* This machine's boot id; "" when it cannot be read. */
void boot_id_read(char out[BOOT_ID_LEN + 1]);
/* Whether pid is still the process that had this start time under this boot. */
bool proc_is(int pid, uint64_t start, const char *boot_id);

#endif
