/* SPDX-License-Identifier: Apache-2.0 */
#include "placement/explain.h"

#include <inttypes.h>
#include <string.h>

#include "base/num.h"

/* What is appended, until the buffer's bound is met: then nothing more is. */
struct put {
	struct buf *to;
	int rc;
};

static void put_s(struct put *p, const char *s)
{
	p->rc = p->rc ? p->rc : buf_adds(p->to, s);
}

static void put_json(struct put *p, const char *s)
{
	p->rc = p->rc ? p->rc : buf_add_json(p->to, view_str(s));
}

static void put_f(struct put *p, const char *fmt, ...) PRINTF(2, 3);
static void put_f(struct put *p, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	p->rc = p->rc ? p->rc : buf_vaddf(p->to, fmt, ap);
	va_end(ap);
}

/* ---- words --------------------------------------------------------------------------------------------- */

static void add_size(struct put *b, uint64_t bytes)
{
	char text[32];
	num_format_bytes(bytes, text, sizeof text);
	put_s(b, text);
}

static bool one_node(const struct fit_facts *f)
{
	for (size_t i = 1; i < f->ndevices; i++)
		if (strcmp(f->devices[i].node_id, f->devices[0].node_id) != 0)
			return false;
	return true;
}

static void add_name(struct put *b, const struct explain *e, size_t device, bool one)
{
	const struct fit_device *d = &e->facts->devices[device];
	if (!one)
		put_f(b, "%s/", d->node_id);
	if (d->kind == FIT_KIND_CPU)
		put_s(b, one ? "the host" : "host");
	else
		put_f(b, "%u", d->index);
}

static uint64_t free_of(const struct fit_device *d)
{
	uint64_t used = d->reserved + d->foreign < d->reserved ? UINT64_MAX : d->reserved + d->foreign;
	return d->capacity > used ? d->capacity - used : 0;
}

static const struct fit_part *part_of(const struct fit_plan *p, size_t device)
{
	for (size_t i = 0; i < p->nparts; i++)
		if (p->parts[i].device == device)
			return &p->parts[i];
	return NULL;
}

/* What it takes there, or would if it were whole on it. */
static uint64_t needed_on(const struct explain *e, size_t device)
{
	const struct fit_part *part = part_of(e->plan, device);
	if (part)
		return part->bytes;
	if (e->facts->devices[device].kind == FIT_KIND_CPU)
		return e->plan->host == device && e->plan->how != FIT_NO ? e->plan->host_bytes
									 : e->want->need->host;
	return e->want->share ? e->want->share : fit_need_whole(e->want->need);
}

static void add_free(struct put *b, const struct fit_device *d)
{
	if (!d->capacity) {
		put_s(b, "unknown");
		return;
	}
	add_size(b, free_of(d));
}

/* " has 4.1 GiB free (of 24 GiB; 11.9 GiB ours, 8 GiB of strangers)" */
static void add_state(struct put *b, const struct fit_device *d)
{
	put_s(b, " has ");
	add_free(b, d);
	put_s(b, " free");
	if (!d->capacity)
		return;
	put_s(b, " (of ");
	add_size(b, d->capacity);
	if (d->reserved) {
		put_s(b, "; ours hold ");
		add_size(b, d->reserved);
	}
	if (d->foreign) {
		put_s(b, d->reserved ? ", strangers " : "; strangers hold ");
		add_size(b, d->foreign);
	}
	put_s(b, ")");
}

static void sentence_no(const struct explain *e, struct put *b, bool one)
{
	const struct fit_plan *p = e->plan;
	if (p->closest == FIT_NONE) {
		put_s(b, " finds no device that it may use");
		return;
	}
	const struct fit_device *d = &e->facts->devices[p->closest];
	put_s(b, " needs ");
	if (p->host_missing) {
		put_s(b, "more host memory: ");
	} else {
		add_size(b, e->want->share ? e->want->share : fit_need_whole(e->want->need));
		if (e->want->share && e->want->gpus > 1)
			put_f(b, " on each of %u devices: ", e->want->gpus);
		else if (p->together > 1)
			put_f(b, " over %zu devices: ", p->together);
		else
			put_s(b, " on one device: ");
	}
	add_name(b, e, p->closest, one);
	add_state(b, d);
	put_s(b, p->together > 1 ? ", the most of them; " : "; ");
	add_size(b, p->missing);
	put_s(b, p->together > 1 ? " are missing together" : " are missing");
	if (e->want->may_evict && d->reserved)
		put_s(b, " even if all that may leave did");
	if (p->later)
		put_s(b, "; it would do once those that are busy or idle now have left");
}

static void sentence_yes(const struct explain *e, struct put *b, bool one)
{
	const struct fit_plan *p = e->plan;
	put_f(b, " goes %s", fit_how_text(p->how));
	for (size_t i = 0; i < p->nparts; i++) {
		put_s(b, i ? ", " : ": ");
		add_size(b, p->parts[i].bytes);
		put_s(b, " on ");
		add_name(b, e, p->parts[i].device, one);
	}
	if (p->host_bytes) {
		put_s(b, p->nparts ? ", " : ": ");
		add_size(b, p->host_bytes);
		put_s(b, " of host memory");
	}
	if (p->how == FIT_EXPERTS || p->how == FIT_PARTIAL)
		put_f(b, "; %u of %zu layers on devices", p->gpu_layers, e->want->need->nlayers + 1);
	if (p->cpu_experts)
		put_f(b, ", experts of the first %u in host memory", p->cpu_experts);
	for (size_t i = 0; i < p->nvictims; i++)
		put_f(b, "%s%s",
			i                 ? ", "
			: p->nvictims > 1 ? "; these leave for it: "
					  : "; it leaves for it: ",
			e->facts->replicas[p->victims[i]].replica_id);
}

static void put_sentence(const struct explain *e, struct put *b)
{
	bool one = one_node(e->facts);
	put_s(b, e->want->pool_id);
	if (e->plan->how == FIT_NO)
		sentence_no(e, b, one);
	else
		sentence_yes(e, b, one);
	if (e->plan->how == FIT_NO && e->would_fit)
		put_f(b, "; %s would fit", e->would_fit);
}

/* ---- who leaves ---------------------------------------------------------------------------------------- */

static uint64_t held_by(const struct explain *e, const struct fit_replica *r)
{
	uint64_t sum = 0;
	for (size_t u = r->first_use; u < r->first_use + r->nuses; u++)
		if (e->facts->devices[e->facts->uses[u].device].kind != FIT_KIND_CPU)
			sum += e->facts->uses[u].bytes;
	return sum;
}

static const char *why_it(const struct explain *e, size_t replica)
{
	const struct fit_replica *r = &e->facts->replicas[replica];
	const uint64_t *never = e->want->never_with;
	if (never && never[replica / 64] >> (replica % 64) & 1)
		return "it may not run beside it";
	if (r->expired)
		return "it is idle and its keep_alive is over";
	return "it is idle, and its leaving costs the least of what makes room";
}

/* ---- text ---------------------------------------------------------------------------------------------- */

static void text_device(const struct explain *e, size_t i, struct put *b, bool one)
{
	const struct fit_device *d = &e->facts->devices[i];
	put_s(b, "  ");
	add_name(b, e, i, one);
	put_s(b, ": needs ");
	add_size(b, needed_on(e, i));
	put_s(b, ", free ");
	add_free(b, d);
	put_s(b, ", ours ");
	add_size(b, d->reserved);
	put_s(b, ", foreign ");
	add_size(b, d->foreign);
	const struct fit_part *part = part_of(e->plan, i);
	if (part && part->layers)
		put_f(b, ", %u layers", part->layers);
	if (e->reasons)
		put_f(b, ": %s", fit_reason_text(e->reasons[i]));
	put_s(b, "\n");
}

static void put_text(const struct explain *e, struct put *b)
{
	bool one = one_node(e->facts);
	const struct fit_plan *p = e->plan;
	put_sentence(e, b);
	put_s(b, ".\n");
	for (size_t i = 0; i < e->facts->ndevices && i < EXPLAIN_DEVICES_MAX; i++)
		text_device(e, i, b, one);
	if (e->facts->ndevices > EXPLAIN_DEVICES_MAX)
		put_f(b, "  and %zu more\n", e->facts->ndevices - EXPLAIN_DEVICES_MAX);
	for (size_t i = 0; i < p->nvictims; i++) {
		const struct fit_replica *r = &e->facts->replicas[p->victims[i]];
		put_f(b, "  %s would leave (", r->replica_id);
		add_size(b, held_by(e, r));
		put_f(b, "): %s", why_it(e, p->victims[i]));
		if (!r->expired && r->loss > 0 && r->loss < 1e9)
			put_f(b, " (%.1f s expected)", r->loss);
		put_s(b, "\n");
	}
}

/* ---- data ---------------------------------------------------------------------------------------------- */

static void json_u64(struct put *b, const char *key, uint64_t n)
{
	put_f(b, ",\"%s\":%" PRIu64, key, n);
}

static void json_str(struct put *b, const char *key, const char *s)
{
	put_f(b, "\"%s\":", key);
	put_json(b, s);
}

static void json_device(const struct explain *e, size_t i, struct put *b)
{
	const struct fit_device *d = &e->facts->devices[i];
	const struct fit_part *part = part_of(e->plan, i);
	put_s(b, i ? ",{" : "{");
	json_str(b, "node", d->node_id);
	put_s(b, ",");
	json_str(b, "device", d->device_id);
	json_u64(b, "index", d->index);
	json_u64(b, "capacity_bytes", d->capacity);
	json_u64(b, "needed_bytes", needed_on(e, i));
	json_u64(b, "free_bytes", free_of(d));
	json_u64(b, "reserved_bytes", d->reserved);
	json_u64(b, "foreign_bytes", d->foreign);
	if (d->limit)
		json_u64(b, "limit_bytes", d->limit);
	if (part && part->layers)
		json_u64(b, "layers", part->layers);
	if (e->reasons) {
		put_f(b, ",\"taken\":%s,", e->reasons[i] == FIT_TAKEN ? "true" : "false");
		json_str(b, "why", fit_reason_text(e->reasons[i]));
	}
	put_s(b, "}");
}

static void json_victim(const struct explain *e, size_t i, struct put *b)
{
	const struct fit_replica *r = &e->facts->replicas[e->plan->victims[i]];
	put_s(b, i ? ",{" : "{");
	json_str(b, "replica", r->replica_id);
	put_s(b, ",");
	json_str(b, "pool", r->pool_id);
	json_u64(b, "bytes", held_by(e, r));
	put_f(b, ",\"expired\":%s", r->expired ? "true" : "false");
	put_f(b, ",\"loss_seconds\":%.3f,", r->loss > 0 ? MIN(r->loss, 1e15) : 0.0);
	json_str(b, "why", why_it(e, e->plan->victims[i]));
	put_s(b, "}");
}

static void json_missing(const struct explain *e, struct put *b)
{
	const struct fit_plan *p = e->plan;
	json_u64(b, "missing_bytes", p->missing);
	put_f(b, ",\"later\":%s", p->later ? "true" : "false");
	if (p->closest != FIT_NONE) {
		const struct fit_device *d = &e->facts->devices[p->closest];
		put_s(b, ",\"closest\":{");
		json_str(b, "node", d->node_id);
		put_s(b, ",");
		json_str(b, "device", d->device_id);
		json_u64(b, "together", p->together);
		put_s(b, "}");
	}
	if (!e->would_fit)
		return;
	put_s(b, ",");
	json_str(b, "would_fit", e->would_fit);
}

static void put_object(const struct explain *e, struct put *b)
{
	static const char *const hows[] = { "no", "one", "split", "experts", "partial", "host", "share" };
	static_assert(ARRAY_LEN(hows) == FIT_SHARE + 1, "one name per way");
	AUTO(buf_done) struct buf text = BUF(64 * KIB);
	struct put words = { &text, 0 };
	const struct fit_plan *p = e->plan;
	put_sentence(e, &words);
	put_s(b, "{");
	json_str(b, "pool", e->want->pool_id);
	put_s(b, ",");
	json_str(b, "how", hows[p->how]);
	put_s(b, ",");
	json_str(b, "text", buf_str(&text));
	json_u64(b, "needed_bytes", fit_need_whole(e->want->need));
	json_u64(b, "host_bytes", p->host_bytes);
	json_u64(b, "gpu_layers", p->gpu_layers);
	json_u64(b, "cpu_experts", p->cpu_experts);
	if (p->how == FIT_NO)
		json_missing(e, b);
	put_s(b, ",\"devices\":[");
	for (size_t i = 0; i < e->facts->ndevices; i++)
		json_device(e, i, b);
	put_s(b, "],\"evict\":[");
	for (size_t i = 0; i < p->nvictims; i++)
		json_victim(e, i, b);
	put_s(b, "]}");
}

/* ---- the calls ----------------------------------------------------------------------------------------- */

int explain_sentence(const struct explain *e, struct buf *b)
{
	struct put p = { b, 0 };
	put_sentence(e, &p);
	return p.rc;
}

int explain_text(const struct explain *e, struct buf *b)
{
	struct put p = { b, 0 };
	put_text(e, &p);
	return p.rc;
}

int explain_json(const struct explain *e, struct buf *b)
{
	struct put p = { b, 0 };
	put_object(e, &p);
	return p.rc;
}
