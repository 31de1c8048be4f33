/* SPDX-License-Identifier: Apache-2.0
 *
 * What `corral doctor` looks at, and what it found. Each check appends findings; none changes anything but a
 * port that is bound for a moment. One thread; the GPUs' drivers are asked through the probe child.
 */
#ifndef CLI_DOCTOR_H
#define CLI_DOCTOR_H

#include "cli/cli_int.h"
#include "config/config.h"
#include "gpu/gpu.h"

enum doctor_state { DOCTOR_OK, DOCTOR_WARN, DOCTOR_FAIL, DOCTOR_STATE_COUNT };

struct finding {
	enum doctor_state state;
	const char *check; /* "gpu", "ports", …: a constant */
	char *message;
	char *fix; /* NULL: nothing is to be done */
};
enum { FINDINGS_MAX = 512 }; /* further ones are only counted */

struct doctor {
	const char *root;  /* "", or a folder that stands for / in tests */
	const char *sysfs; /* "/sys" */
	const struct config *cfg;
	bool daemon; /* one answers: its ports are taken by right */
	struct finding items[FINDINGS_MAX];
	size_t len, dropped;
};

void doctor_ok(struct doctor *d, const char *check, const char *fmt, ...) PRINTF(3, 4);
/* fix: a sentence or a command. */
void doctor_warn(struct doctor *d, const char *check, const char *fix, const char *fmt, ...) PRINTF(4, 5);
void doctor_fail(struct doctor *d, const char *check, const char *fix, const char *fmt, ...) PRINTF(4, 5);
void doctor_done(struct doctor *d);
size_t doctor_count(const struct doctor *d, enum doctor_state s);
void doctor_text(const struct doctor *d, bool color, struct buf *out);
void doctor_json(const struct doctor *d, struct buf *out);
/* The path under d->root. */
char *doctor_path(const struct doctor *d, const char *path) MUST_CHECK;
/* The first line of a small file under d->root; false: it cannot be read. */
bool doctor_line(const struct doctor *d, const char *path, char *out, size_t cap);

/* doctor_machine.c */
void check_memory(struct doctor *d);
void check_limits(struct doctor *d);
void check_clock(struct doctor *d);
void check_folders(struct doctor *d); /* disk room, permissions, the length of runtime_dir */
/* doctor_service.c */
void check_config(struct doctor *d, const struct config_errors *errs, const struct config_errors *models);
void check_ports(struct doctor *d);
void check_engines(struct doctor *d);
/* doctor_gpu.c */
void check_gpus(struct doctor *d, const struct gpu_list *l, bool heard, const char *wrong);
void check_toolkits(struct doctor *d);
void check_gpu_files(struct doctor *d, const struct gpu_list *l);

#endif
