/* SPDX-License-Identifier: Apache-2.0
 *
 * A trace for the simulator, written by hand or by a program: a line a thing, words and key=value pairs, #
 * begins a remark. Sizes are 20GiB, times 4s, 500ms, 10m.
 *
 *   node NAME                                                 the devices after it are its own
 *   device 24GiB [foreign=2GiB]
 *   host 64GiB                                                the node's memory, after its devices
 *   model NAME bytes=20GiB [host=2GiB slots=2 load=4s return=200ms keep_alive=10m cost=1 pinned]
 *   swap [max_wait=60s hold=10s hold_after=tool_calls|always|never]
 *   request NAME [at=0s for=2s key=1 tools]
 *   agent NAME [at=0s turns=10 for=3s tool=2s key=1]         each turn but the last ends in tool calls
 *   poisson NAME every=5s until=10m [at=0s for=2s key=1 seed=1]
 *   fail NAME at=30s                                          its engine crashes
 *   lost 0 at=30s [back=40s]                                  the first device, and the engines on it
 *   gone NODE at=30s [back=40s]                               a node, and the engines on it
 *
 * Pure. Bounds: TRACE_DEVICES_MAX devices, TRACE_MODELS_MAX models, TRACE_REQUESTS_MAX requests.
 */
#ifndef PLACEMENT_TRACE_H
#define PLACEMENT_TRACE_H

#include "base/err.h"
#include "base/view.h"
#include "placement/simulate.h"

enum {
	TRACE_DEVICES_MAX = 64,
	TRACE_MODELS_MAX = 256,
	TRACE_REQUESTS_MAX = 20000,
	TRACE_FAILURES_MAX = 1024
};

struct trace {
	struct sim_setup setup; /* its arrays are the trace's */
	struct fit_device devices[TRACE_DEVICES_MAX];
	struct sim_model models[TRACE_MODELS_MAX];
	char *nodes[TRACE_DEVICES_MAX];
	size_t nnodes;
	struct sim_failure failures[TRACE_FAILURES_MAX];
	struct sim_request requests[TRACE_REQUESTS_MAX];
};
/* NULL: *reterr says which line, what was found and what is accepted. */
struct trace *trace_read(struct view text, struct err *reterr) MUST_CHECK;
void trace_freep(struct trace **t);

#endif
