/* SPDX-License-Identifier: Apache-2.0 */
#include "wire/wire.h"

#include "base/mem.h"
#include "wire/wire_int.h"

static const char *const state_names[] = {
	[REPLICA_ABSENT] = "absent",
	[REPLICA_PROVISIONING] = "provisioning",
	[REPLICA_STARTING] = "starting",
	[REPLICA_PROVING] = "proving",
	[REPLICA_READY] = "ready",
	[REPLICA_DRAINING] = "draining",
	[REPLICA_STOPPED] = "stopped",
	[REPLICA_BACKOFF] = "backoff",
	[REPLICA_FAILED] = "failed",
};
static_assert(ARRAY_LEN(state_names) == REPLICA_STATE_COUNT, "one name per state");

static const char *const cause_names[] = {
	[CAUSE_NONE] = "none",
	[CAUSE_EXIT] = "exit",
	[CAUSE_SIGNAL] = "signal",
	[CAUSE_OOM_VRAM] = "oom_vram",
	[CAUSE_OOM_HOST] = "oom_host",
	[CAUSE_BAD_MODEL] = "bad_model",
	[CAUSE_BAD_ARGS] = "bad_args",
	[CAUSE_NO_ENGINE] = "no_engine",
	[CAUSE_NO_MODEL] = "no_model",
	[CAUSE_HEALTH_LOST] = "health_lost",
	[CAUSE_HUNG] = "hung",
	[CAUSE_CANARY] = "canary",
	[CAUSE_START_TIMEOUT] = "start_timeout",
	[CAUSE_MODEL_REFUSED] = "model_refused",
	[CAUSE_NO_DEVICE] = "no_device",
};
static_assert(ARRAY_LEN(cause_names) == CAUSE_COUNT, "one name per cause");

const char *replica_state_name(enum replica_state s)
{
	return (unsigned)s < REPLICA_STATE_COUNT ? state_names[s] : "unknown";
}

int replica_state_parse(struct view v, enum replica_state *ret)
{
	for (unsigned i = 0; i < REPLICA_STATE_COUNT; i++)
		if (view_eqs(v, state_names[i])) {
			*ret = (enum replica_state)i;
			return 0;
		}
	return -EINVAL;
}

const char *wire_cause_name(enum wire_cause c)
{
	return (unsigned)c < CAUSE_COUNT ? cause_names[c] : "unknown";
}

int wire_cause_parse(struct view v, enum wire_cause *ret)
{
	for (unsigned i = 0; i < CAUSE_COUNT; i++)
		if (view_eqs(v, cause_names[i])) {
			*ret = (enum wire_cause)i;
			return 0;
		}
	return -EINVAL;
}

/* Tables */

enum { SLOTS_MAX = 65536 };
#define OFF(m) (unsigned)offsetof(struct S, m)
#define ID(m)                                                                                                \
	{                                                                                                    \
#m, WF_ID, OFF(m), 0, true, 0, 0                                                             \
	}
#define STR(m, have)                                                                                         \
	{                                                                                                    \
#m, WF_STR, OFF(m), have, false, 0, 0                                                        \
	}
#define NUM(m, t, have, lo, hi)                                                                              \
	{                                                                                                    \
#m, t, OFF(m), have, false, lo, hi                                                           \
	}

#define S wire_error
static const struct wf error_fields[] = {
	NUM(cause, WF_CAUSE, 0, 0, 0),
	{ "message", WF_STR, OFF(message), 0, true, 0, 0 },
	STR(hint, 0),
	NUM(at_ms, WF_I64, 0, 0, INT64_MAX),
	NUM(exit_code, WF_INT, 0, INT32_MIN, INT32_MAX),
	NUM(signo, WF_INT, 0, 0, 128),
};
#undef S
#define S wire_replica
static const struct wf replica_fields[] = {
	ID(replica_id),
	ID(pool_id),
	NUM(state, WF_STATE, WR_STATE, 0, 0),
	NUM(generation, WF_U64, WR_GENERATION, 0, 0),
	STR(address, WR_ADDRESS),
	NUM(slots_total, WF_U32, WR_SLOTS, 0, SLOTS_MAX),
	NUM(slots_free, WF_U32, WR_SLOTS_FREE, 0, UINT32_MAX),
	NUM(leases, WF_U32, WR_LEASES, 0, UINT32_MAX),
	NUM(ctx, WF_U32, WR_CTX, 0, UINT32_MAX),
	STR(engine, WR_ENGINE),
	STR(engine_version, WR_ENGINE),
	STR(engine_why, WR_ENGINE),
	STR(device_mask, WR_ENGINE),
	STR(device_note, WR_ENGINE),
	STR(spec, WR_ENGINE),
	STR(model, WR_ENGINE),
	NUM(last_error, WF_ERROR, WR_ERROR, 0, 0),
	STR(phase, WR_PROGRESS),
	STR(progress_text, WR_PROGRESS),
	NUM(progress_eta_ms, WF_I64, WR_PROGRESS, -1, INT64_MAX),
	NUM(progress_pct, WF_INT, WR_PROGRESS, -1, 100),
	NUM(restarts, WF_U32, WR_RESTARTS, 0, UINT32_MAX),
	NUM(retry_in_ms, WF_I64, WR_RESTARTS, -1, INT64_MAX),
	NUM(pid, WF_INT, WR_PROCESS, 0, INT32_MAX),
	NUM(started_at_ms, WF_I64, WR_PROCESS, 0, INT64_MAX),
	NUM(load_ms, WF_I64, WR_PROCESS, 0, INT64_MAX),
	NUM(kv_restored_tokens, WF_U64, WR_PROCESS, 0, 0),
	STR(kv_found, WR_PROCESS),
	NUM(kv_kept, WF_BOOL, WR_PROCESS, 0, 0),
	NUM(conn_idle_ms, WF_I64, WR_TRAITS, 0, INT64_MAX),
	NUM(conn_requests, WF_U32, WR_TRAITS, 0, UINT32_MAX),
	NUM(has_slots, WF_BOOL, WR_TRAITS, 0, 0),
	NUM(remote_models, WF_STRS, WR_TRAITS, 0, 0),
	STR(key_file, WR_TRAITS),
	NUM(load_seq, WF_U64, WR_LOAD, 0, 0),
	NUM(load_running, WF_I64, WR_LOAD, -1, INT64_MAX),
	NUM(load_waiting, WF_I64, WR_LOAD, -1, INT64_MAX),
	NUM(load_used_permille, WF_INT, WR_LOAD, -1, 1000),
};
#undef S
#define S wire_model
static const struct wf model_fields[] = {
	ID(pool_id),
	STR(spec, 0),
	STR(path, 0),
	STR(problem, 0),
	STR(architecture, 0),
	STR(name, 0),
	NUM(size_bytes, WF_U64, 0, 0, 0),
	NUM(n_params, WF_U64, 0, 0, 0),
	NUM(n_ctx_train, WF_U64, 0, 0, 0),
	NUM(n_vocab, WF_U64, 0, 0, 0),
	NUM(n_embd, WF_U64, 0, 0, 0),
	NUM(ctx, WF_U32, 0, 0, UINT32_MAX),
	NUM(vision, WF_BOOL, 0, 0, 0),
	NUM(audio, WF_BOOL, 0, 0, 0),
	NUM(embedding, WF_BOOL, 0, 0, 0),
	NUM(rerank, WF_BOOL, 0, 0, 0),
	NUM(absent, WF_BOOL, 0, 0, 0),
	STR(retired, 0),
	STR(need, 0),
	NUM(larger, WF_STRS, 0, 0, 0),
	STR(quant, 0),
	STR(source, 0),
	STR(reference, 0),
};
#undef S
#define S wire_device_use
static const struct wf device_use_fields[] = {
	NUM(pid, WF_INT, 0, 0, INT32_MAX),
	STR(replica_id, 0),
	NUM(bytes, WF_U64, 0, 0, 0),
};
#undef S
#define S wire_device_link
static const struct wf device_link_fields[] = {
	ID(device_id),
	STR(path, 0),
	NUM(fabric, WF_U32, 0, 0, 65535),
};
#undef S
#define S wire_device
static const struct wf device_fields[] = {
	ID(device_id),
	NUM(index, WF_U32, 0, 0, 65535),
	STR(name, 0),
	STR(uuid, 0),
	STR(pci, 0),
	STR(kind, 0),
	STR(state, 0),
	STR(reason, 0),
	STR(compute_capability, 0),
	STR(driver, 0),
	NUM(memory_total_bytes, WF_U64, 0, 0, 0),
	NUM(memory_free_bytes, WF_U64, 0, 0, 0),
	NUM(memory_used_bytes, WF_U64, 0, 0, 0),
	NUM(utilization_pct, WF_INT, WD_UTILIZATION, 0, 100),
	NUM(temperature_c, WF_INT, WD_TEMPERATURE, -273, 1000),
	NUM(power_mw, WF_U64, WD_POWER, 0, 0),
	NUM(power_limit_mw, WF_U64, 0, 0, 0),
	NUM(ecc_corrected, WF_U64, WD_ECC, 0, 0),
	NUM(ecc_uncorrected, WF_U64, WD_ECC, 0, 0),
	STR(last_error, 0),
	NUM(last_error_at_ms, WF_I64, 0, 0, INT64_MAX),
	NUM(integrated, WF_BOOL, 0, 0, 0),
	NUM(split, WF_BOOL, 0, 0, 0),
	STR(parent, 0),
};
#undef S
#define S wire_node
static const struct wf node_fields[] = {
	ID(node_id),
	STR(boot_id, 0),
	STR(version, 0),
	STR(address, 0),
	NUM(pid, WF_INT, 0, 0, INT32_MAX),
	NUM(complete, WF_BOOL, 0, 0, 0),
	NUM(seq, WF_U64, 0, 0, 0),
};
#undef S
#define S wire_want
static const struct wf want_fields[] = {
	ID(replica_id),
	ID(pool_id),
	NUM(ctx, WF_U32, 0, 0, UINT32_MAX),
	NUM(slots, WF_U32, 0, 0, SLOTS_MAX),
	STR(devices, 0),
	NUM(restart_epoch, WF_U32, 0, 0, UINT32_MAX),
	NUM(pulled_in, WF_BOOL, 0, 0, 0),
	NUM(keep_alive_ms, WF_I64, 0, -1, INT64_MAX),
	STR(spec, 0),
	STR(model, 0),
	NUM(model_there, WF_BOOL, 0, 0, 0),
	NUM(header_seen, WF_BOOL, 0, 0, 0),
	NUM(planned, WF_BOOL, 0, 0, 0),
	NUM(gpu_layers, WF_U32, 0, 0, UINT32_MAX),
	NUM(cpu_experts, WF_U32, 0, 0, UINT32_MAX),
	STR(split, 0),
	STR(kv_for, 0),
};
#undef S
#define S wire_desired
static const struct wf desired_fields[] = {
	NUM(fence, WF_U64, 0, 0, 0),
	NUM(revision, WF_U64, 0, 0, 0),
	STR(talks, 0),
};
#undef S

#define TABLE(n, text) const struct wf_table wf_##n = { text, n##_fields, ARRAY_LEN(n##_fields) }
TABLE(error, "the error");
TABLE(replica, "the replica");
TABLE(model, "the model");
TABLE(device, "the device");
TABLE(device_use, "the device's process");
TABLE(device_link, "the device's link");
TABLE(node, "the node");
TABLE(want, "the wanted replica");
TABLE(desired, "the desired state");

/* Plain data */

void wire_replica_done(struct wire_replica *r)
{
	wf_done(&wf_replica, r);
	*r = (struct wire_replica){ 0 };
}

void wire_replica_copy(struct wire_replica *to, const struct wire_replica *from)
{
	if (to == from)
		return;
	wire_replica_done(to);
	wf_copy(&wf_replica, to, from, WR_ALL);
	to->have = from->have;
}

void wire_replica_merge(struct wire_replica *to, const struct wire_replica *from)
{
	if (!to->replica_id)
		to->replica_id = mem_strdup(from->replica_id);
	if (!to->pool_id)
		to->pool_id = mem_strdup(from->pool_id);
	for (size_t i = 0; i < wf_replica.len; i++) {
		const struct wf_table one = { wf_replica.what, &wf_replica.fields[i], 1 };
		if (one.fields->have & from->have)
			wf_copy(&one, to, from, from->have);
	}
	to->have |= from->have & WR_ALL;
	to->slots_free = MIN(to->slots_free, to->slots_total);
}

void wire_model_done(struct wire_model *m)
{
	wf_done(&wf_model, m);
}

void wire_model_copy(struct wire_model *to, const struct wire_model *from)
{
	if (to == from)
		return;
	wf_copy(&wf_model, to, from, 0);
}

void wire_device_done(struct wire_device *d)
{
	for (size_t i = 0; i < d->nuses; i++)
		wf_done(&wf_device_use, &d->uses[i]);
	for (size_t i = 0; i < d->nlinks; i++)
		wf_done(&wf_device_link, &d->links[i]);
	free(d->uses);
	free(d->links);
	wf_done(&wf_device, d);
	*d = (struct wire_device){ 0 };
}

void wire_device_copy(struct wire_device *to, const struct wire_device *from)
{
	if (to == from)
		return;
	wire_device_done(to);
	wf_copy(&wf_device, to, from, from->have);
	to->have = from->have;
	if (from->nuses)
		to->uses = mem_alloc(from->nuses * sizeof *to->uses);
	to->nuses = from->nuses;
	for (size_t i = 0; i < from->nuses; i++)
		wf_copy(&wf_device_use, &to->uses[i], &from->uses[i], 0);
	if (from->nlinks)
		to->links = mem_alloc(from->nlinks * sizeof *to->links);
	to->nlinks = from->nlinks;
	for (size_t i = 0; i < from->nlinks; i++)
		wf_copy(&wf_device_link, &to->links[i], &from->links[i], 0);
}

void wire_node_done(struct wire_node *n)
{
	for (size_t i = 0; i < n->nmodels; i++)
		wire_model_done(&n->models[i]);
	for (size_t i = 0; i < n->nreplicas; i++)
		wire_replica_done(&n->replicas[i]);
	for (size_t i = 0; i < n->ndevices; i++)
		wire_device_done(&n->devices[i]);
	free(n->models);
	free(n->devices);
	free(n->replicas);
	wf_done(&wf_node, n);
	*n = (struct wire_node){ 0 };
}

void wire_desired_done(struct wire_desired *d)
{
	for (size_t i = 0; i < d->nwants; i++)
		wf_done(&wf_want, &d->wants[i]);
	free(d->wants);
	free(d->talks);
	*d = (struct wire_desired){ 0 };
}

struct wire_want *wire_desired_add(struct wire_desired *d)
{
	/* Room doubles at each power of two, so that no capacity has to be kept. */
	if (!(d->nwants & (d->nwants - 1)))
		d->wants = mem_realloc(d->wants, MAX(d->nwants * 2, (size_t)1) * sizeof *d->wants);
	struct wire_want *w = &d->wants[d->nwants++];
	*w = (struct wire_want){ 0 };
	return w;
}
