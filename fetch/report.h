/* SPDX-License-Identifier: Apache-2.0
 *
 * What corral-fetch says on standard output, one JSON object a line: {"progress": …} at most ten times a
 * second, and last {"result": …}. The driver (src/provision/fetch/read.c) reads it.
 */
#ifndef FETCH_REPORT_H
#define FETCH_REPORT_H

#include "base/buf.h"
#include "base/clock.h"
#include "job.h"
#include "sha.h"

enum phase { PHASE_WAITING, PHASE_FETCHING, PHASE_VERIFYING, PHASE_UNPACKING };

enum { METER_SAMPLES = 16, METER_STEP_MS = 250 };
/* Bytes a second over the last four seconds. */
struct meter {
	struct {
		mono_t at;
		uint64_t bytes;
	} samples[METER_SAMPLES];
	unsigned next, n;
};

struct progress {
	enum phase phase;
	uint64_t bytes, total; /* total 0: not known */
	const char *text;
};

struct report {
	mono_t said;
	struct meter meter;
	uint64_t moved; /* bytes of this run alone, for the rate: set before report_progress */
};
/* Is it time to say something again? The text is only made then. */
bool report_is_due(const struct report *r);
void report_progress(struct report *r, const struct progress *p);

struct found {
	const char *path;
	char sha256[SHA_HEX + 1];
	uint64_t size, bytes_fetched;
	bool was_there;
};

struct result {
	struct found *files;
	size_t nfiles;
	int status;
	struct strv headers;
	struct buf text;
	bool has_text;
	char *url;
	uint64_t unpacked;
};
void result_done(struct result *r);
void report_result(const struct result *r, const struct fail *f); /* f NULL: it went well */

#endif
