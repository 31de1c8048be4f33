/* SPDX-License-Identifier: Apache-2.0
 *
 * corral doctor: what could keep Corral from serving here, each with its fix. Works without a daemon.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "cli/doctor.h"
#include "gpu/monitor.h"

enum { DAEMON_MS = 5000 };

/* Through the same child and with the same patience as a node. */
static void look_at_gpus(struct doctor *d)
{
	struct loop *loop = loop_new("doctor");
	struct gpu_monitor *m = gpu_monitor_heard(loop, strcmp(d->sysfs, "/sys") ? d->sysfs : NULL);
	const struct gpu_list *l = gpu_monitor_list(m);
	check_gpus(d, l, gpu_monitor_known(m), gpu_monitor_wrong(m));
	check_toolkits(d);
	check_gpu_files(d, l);
	gpu_monitor_free(m);
	loop_free(loop);
}

static bool on_refused(void *arg, int status, struct view body)
{
	(void)arg;
	(void)status;
	(void)body;
	return true; /* it answers: that is all that is asked here */
}

/* Whether a daemon answers, and where; a refusal is an answer too. */
static void look_for_daemon(struct cli *c, struct doctor *d)
{
	AUTO(buf_done) struct buf answer = BUF(API_BODY_MAX);
	struct api a;
	int status = 0;
	if (api_open(c, &a))
		return;
	struct api_req r = { .method = "GET",
		.path = "/readyz",
		.timeout_ms = DAEMON_MS,
		.on_refused = on_refused,
		.quiet_unreachable = true };
	(void)!api_call(&a, &r, &answer, &status);
	d->daemon = status != 0;
	if (d->daemon && status >= 200 && status < 300)
		doctor_ok(d, "daemon", "one answers at %s", a.address);
	else if (d->daemon)
		doctor_warn(d, "daemon", "`corral pools` and the log say why",
			"one answers at %s and says that it is not ready (%d)", a.address, status);
	else
		doctor_ok(d, "daemon", "none runs");
	api_close(&a);
}

static void examine(struct cli *c, struct doctor *d)
{
	AUTO(config_unrefp) struct config *cfg = NULL;
	AUTO(config_errors_done) struct config_errors errs = { 0 }, models = { 0 };
	struct config_source src = { .path = c->config_path };
	if (config_load(&src, &cfg, &errs) == 0)
		(void)!models_check(cfg, &models);
	d->cfg = cfg;
	check_config(d, &errs, &models);
	look_for_daemon(c, d);
	look_at_gpus(d);
	if (cfg) {
		check_ports(d);
		check_engines(d);
		check_folders(d);
	}
	check_memory(d);
	check_limits(d);
	check_clock(d);
	d->cfg = NULL;
}

int cmd_doctor(struct cli *c, const struct command *cmd, int argc, char **argv)
{
	struct options o = { 0 };
	const char *sysfs = getenv("CORRAL_SYSFS");
	AUTO(buf_done) struct buf b = BUF(4 * MIB);
	int first, status;
	if (options_read(c, cmd, &o, argc, argv, &first, &status))
		return status;
	struct doctor *d = NEW(struct doctor);
	d->root = "";
	d->sysfs = sysfs && *sysfs ? sysfs : "/sys";
	examine(c, d);
	if (c->json)
		doctor_json(d, &b);
	else
		doctor_text(d, color_for(STDOUT_FILENO), &b);
	status = say(&b);
	if (status == CLI_OK && doctor_count(d, DOCTOR_FAIL))
		status = CLI_FAILED;
	doctor_done(d);
	free(d);
	return status;
}
