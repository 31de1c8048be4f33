/* SPDX-License-Identifier: Apache-2.0
 *
 * The machine: memory, file limits, the clock, folders.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/timex.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/mem.h"
#include "base/num.h"
#include "cli/doctor.h"

enum { FILES_WANTED = 4096, FILES_NEEDED = 512, BYTES = 32, RUNTIME_WANTED = 60 };
#define ROOM_WANTED (5 * GIB)
#define ROOM_NEEDED (100 * MIB)
#define MEMORY_WANTED GIB
#define BUILT_MS 1735689600000 /* 2025-01-01: no clock that is right shows less */

static bool read_number(const struct doctor *d, const char *path, uint64_t *ret)
{
	char text[64];
	return doctor_line(d, path, text, sizeof text) && num_u64(view_str(text), ret) == 0;
}

void check_memory(struct doctor *d)
{
	struct gpu_device cpu;
	char total[BYTES], available[BYTES], limit_text[BYTES];
	uint64_t limit = 0;
	gpu_cpu_read(&cpu);
	num_format_bytes(cpu.memory_total, total, sizeof total);
	num_format_bytes(cpu.memory_free, available, sizeof available);
	if (cpu.memory_free < MEMORY_WANTED)
		doctor_warn(d, "memory", "end what is not needed, or take smaller models",
			"%s of %s are available", available, total);
	else
		doctor_ok(d, "memory", "%s of %s are available (%s)", available, total, cpu.name);
	if (!read_number(d, "/sys/fs/cgroup/memory.max", &limit) || limit >= cpu.memory_total)
		return;
	num_format_bytes(limit, limit_text, sizeof limit_text);
	doctor_warn(d, "memory", "raise MemoryMax of the service or the memory limit of the container",
		"this control group may use %s of the machine's %s", limit_text, total);
}

void check_limits(struct doctor *d)
{
	struct rlimit l;
	if (getrlimit(RLIMIT_NOFILE, &l) < 0)
		return;
	const char *fix = "raise it: LimitNOFILE=65536 in the service, or `nofile` in "
			  "/etc/security/limits.conf";
	unsigned long long max = l.rlim_max;
	if (l.rlim_max < FILES_NEEDED)
		doctor_fail(
			d, "limits", fix, "a process may open %llu files; %d are needed", max, FILES_NEEDED);
	else if (l.rlim_max < FILES_WANTED)
		doctor_warn(d, "limits", fix, "a process may open %llu files; each request takes two", max);
	else
		doctor_ok(d, "limits", "a process may open %llu files", max);
}

void check_clock(struct doctor *d)
{
	struct timex t = { 0 };
	char now[WALL_STR_LEN + 1];
	wall_format(wall_ms(), now);
	if (wall_ms() < BUILT_MS)
		doctor_fail(d, "clock", "set it: timedatectl set-ntp true",
			"it shows %s: certificates and expiry dates cannot be judged", now);
	else if (adjtimex(&t) == TIME_ERROR)
		doctor_warn(d, "clock", "timedatectl set-ntp true (in a container: on the host)",
			"it shows %s and is not kept right by a time service", now);
	else
		doctor_ok(d, "clock", "it shows %s and is kept right", now);
}

/* The folder itself, or the nearest above it that exists. */
static char *existing(const char *path)
{
	char *p = mem_strdup(path);
	while (!file_exists(p)) {
		char *slash = strrchr(p, '/');
		if (!slash || slash == p) {
			free(p);
			return mem_strdup("/");
		}
		*slash = '\0';
	}
	return p;
}

static void check_room(struct doctor *d, const char *key, const char *path, const char *there)
{
	struct statvfs v;
	char room[BYTES];
	if (statvfs(there, &v) < 0)
		return;
	uint64_t bytes = (uint64_t)v.f_bavail * v.f_frsize;
	num_format_bytes(bytes, room, sizeof room);
	AUTO(mem_freep) char *fix = mem_fmt("free room under %s, or set %s to a larger disk", there, key);
	if (bytes < ROOM_NEEDED || (v.f_files && !v.f_favail))
		doctor_fail(d, "disk", fix, "%s (%s) has %s of room%s", key, path, room,
			v.f_files && !v.f_favail ? " and no inode left" : "");
	else if (bytes < ROOM_WANTED)
		doctor_warn(d, "disk", fix, "%s (%s) has %s of room", key, path, room);
	else
		doctor_ok(d, "disk", "%s (%s) has %s of room", key, path, room);
}

static void check_folder(struct doctor *d, const char *key, const char *path, bool written)
{
	AUTO(mem_freep) char *there = existing(path);
	bool is_there = strcmp(there, path) == 0;
	int mode = written ? W_OK | X_OK : R_OK | X_OK;
	if (access(there, is_there || written ? mode : X_OK) < 0) {
		AUTO(mem_freep) char *fix = mem_fmt("chown it to the user Corral runs as, or set %s", key);
		doctor_fail(d, "folders", fix, "%s: %s cannot be %s: %s", key, there,
			written ? "written" : "read", strerror(errno));
		return;
	}
	if (!is_there)
		doctor_ok(d, "folders", "%s (%s) will be made in %s", key, path, there);
	check_room(d, key, path, there);
}

void check_folders(struct doctor *d)
{
	const struct config *c = d->cfg;
	struct stat st;
	size_t len = strlen(c->runtime_dir);
	check_folder(d, "state_dir", c->state_dir, true);
	check_folder(d, "models_dir", c->models_dir, false);
	check_folder(d, "runtime_dir", c->runtime_dir, true);
	if (len > RUNTIME_WANTED)
		doctor_warn(d, "folders", "set runtime_dir to a shorter path",
			"runtime_dir has %zu bytes: a socket's path may have %d, and long pool ids will not "
			"fit",
			len, CONFIG_SOCKET_MAX);
	if (stat(c->runtime_dir, &st) == 0 && (st.st_mode & 022)) {
		AUTO(mem_freep) char *fix = mem_fmt("chmod 700 %s", c->runtime_dir);
		doctor_warn(d, "folders", fix, "others may write to runtime_dir (%s)", c->runtime_dir);
	}
}
