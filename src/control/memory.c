/* SPDX-License-Identifier: Apache-2.0
 *
 * How much memory is free where a pool's engine would be: on its GPUs, as the nodes reported them last, or of
 * the host.
 */
#include "control/control_int.h"

#include "base/fd.h"
#include "base/mask.h"
#include "base/num.h"

uint64_t mem_available(struct view meminfo)
{
	ptrdiff_t at = view_search(meminfo, VIEW("MemAvailable:"));
	if (at < 0)
		return 0;
	struct view rest,
		line = view_split(view_from(meminfo, (size_t)at + strlen("MemAvailable:")), '\n', &rest);
	uint64_t kib;
	line = view_trim(line);
	if (!view_ends(line, VIEW(" kB")) || num_u64(view_trim(view_cut(line, line.n - 3)), &kib) ||
		kib > UINT64_MAX / 1024)
		return 0;
	return kib * 1024;
}

static bool is_named(const struct mask *m, const struct wire_device *d)
{
	if (m->kind == MASK_AUTO)
		return !d->integrated && !d->split;
	for (size_t i = 0; i < m->len; i++) {
		const struct mask_id *id = &m->ids[i];
		if (id->is_index ? id->index == d->index
				 : d->uuid && view_starts(view_str(d->uuid), id->text))
			return true;
	}
	return false;
}

bool gpus_free(const struct wire_device *d, size_t n, const struct mask *m, uint64_t *ret)
{
	bool any = false;
	*ret = 0;
	for (size_t i = 0; i < n && m->kind != MASK_CPU; i++) {
		if (!d[i].kind || strcmp(d[i].kind, "cpu") == 0 || !d[i].state ||
			strcmp(d[i].state, "ok") != 0 || !is_named(m, &d[i]))
			continue;
		if (!d[i].memory_total_bytes) {
			*ret = 0;
			return true; /* a GPU that does not tell */
		}
		*ret += d[i].memory_free_bytes;
		any = true;
	}
	return any;
}

static uint64_t host_free(void)
{
	AUTO(buf_done) struct buf b = BUF(64 * KIB);
	return file_read("/proc/meminfo", &b) == 0 ? mem_available(buf_view(&b)) : 0;
}

uint64_t pool_memory_free(const struct control_pool *p)
{
	struct mask m;
	uint64_t bytes;
	const char *devices = p->cfg->devices ? p->cfg->devices : "auto";
	if (p->config->gpu == CONFIG_GPU_NONE || mask_parse(view_str(devices), &m, NULL))
		return host_free();
	AUTO(registry_snapshot_unrefp)
	const struct registry_snapshot *s = registry_snapshot_ref(p->control->o.registry);
	for (size_t i = 0; i < s->nnodes; i++)
		if (s->nodes[i]->online && gpus_free(s->nodes[i]->devices, s->nodes[i]->ndevices, &m, &bytes))
			return bytes;
	return host_free();
}
