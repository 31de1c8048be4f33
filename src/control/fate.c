/* SPDX-License-Identifier: Apache-2.0 */
#include "control/fate.h"

#include <signal.h>

static bool crash_signal(int signo)
{
	return signo == SIGSEGV || signo == SIGABRT || signo == SIGBUS || signo == SIGILL || signo == SIGFPE;
}

/* Of an end: what it died of. Everything that somebody did to it from outside, and everything it was ended
 * for (hung, health lost, a wrong canary), is no crash. */
static enum pool_fate of_error(const struct wire_error *e)
{
	bool oom = e->cause == CAUSE_OOM_VRAM || e->cause == CAUSE_OOM_HOST;
	bool crashed = e->message && (oom || e->exit_code > 0 || crash_signal(e->signo));
	return crashed ? POOL_FATE_CRASHED : POOL_FATE_ENDED;
}

enum pool_fate control_fate(const struct wire_replica *f, uint64_t generation)
{
	if (!f)
		return POOL_FATE_ENDED;
	if (f->generation > generation) /* its last error is kept until it is ready */
		return of_error(&f->last_error);
	if (f->generation < generation)
		return POOL_FATE_UNKNOWN;
	switch (f->state) {
	case REPLICA_BACKOFF:
	case REPLICA_FAILED: return of_error(&f->last_error);
	case REPLICA_DRAINING:
	case REPLICA_STOPPED:
	case REPLICA_ABSENT: return POOL_FATE_ENDED;
	default: return POOL_FATE_UNKNOWN;
	}
}
