/* SPDX-License-Identifier: Apache-2.0 */
#include "fit_scene.h"

#include "base/mem.h"

struct scene s;

int scene_clean(UNUSED void **state)
{
	memset(&s, 0, sizeof s);
	s.text = BUF(4 * KIB);
	return 0;
}

int scene_done(UNUSED void **state)
{
	buf_done(&s.text);
	return 0;
}

void scene_set_device(struct fit_device d)
{
	static const char *const names[] = { "0", "1", "2", "3", "4", "5", "6", "7" };
	uint32_t index = 0;
	for (size_t i = s.ndevices; i-- > 0 && strcmp(s.devices[i].node_id, d.node_id) == 0;)
		index++;
	d.index = d.index ? d.index : index;
	d.device_id = d.kind == FIT_KIND_CPU ? "host" : names[d.index % ARRAY_LEN(names)];
	assert_true(s.ndevices < SCENE_DEVICES);
	s.devices[s.ndevices++] = d;
}

void scene_run(struct fit_replica r, size_t device, uint64_t bytes)
{
	assert_true(s.nreplicas < SCENE_REPLICAS);
	r.first_use = s.nuses;
	r.nuses = 0;
	s.replicas[s.nreplicas++] = r;
	scene_also(device, bytes);
}

void scene_also(size_t device, uint64_t bytes)
{
	assert_true(s.nuses < SCENE_USES && device < s.ndevices);
	s.uses[s.nuses++] = (struct fit_use){ device, bytes };
	s.replicas[s.nreplicas - 1].nuses++;
	s.devices[device].reserved += bytes;
	s.devices[device].replicas++;
}

void scene_layers(size_t n, uint64_t weights, uint64_t experts)
{
	assert_true(n <= SCENE_LAYERS);
	for (size_t i = 0; i < n; i++)
		s.layers[i] = (struct fit_layer){ .weights = weights, .experts = experts };
	s.need = (struct fit_need){ .layers = s.layers, .nlayers = n };
}

void scene_facts(struct fit_facts *ret)
{
	*ret = (struct fit_facts){ s.devices, s.ndevices, s.replicas, s.nreplicas, s.uses, s.nuses,
		s.replicas_max, NULL };
}

static void same_plan(const struct fit_plan *a, const struct fit_plan *b)
{
	assert_int_equal(a->how, b->how);
	assert_int_equal(a->nparts, b->nparts);
	for (size_t i = 0; i < a->nparts; i++) {
		assert_int_equal(a->parts[i].device, b->parts[i].device);
		assert_int_equal(a->parts[i].layers, b->parts[i].layers);
		assert_int_equal(a->parts[i].bytes, b->parts[i].bytes);
	}
	assert_int_equal(a->gpu_layers, b->gpu_layers);
	assert_int_equal(a->cpu_experts, b->cpu_experts);
	assert_int_equal(a->host, b->host);
	assert_int_equal(a->host_bytes, b->host_bytes);
	assert_int_equal(a->nvictims, b->nvictims);
	for (size_t i = 0; i < a->nvictims; i++)
		assert_int_equal(a->victims[i], b->victims[i]);
	assert_true(a->loss <= b->loss && a->loss >= b->loss);
	assert_int_equal(a->closest, b->closest);
	assert_int_equal(a->together, b->together);
	assert_int_equal(a->missing, b->missing);
	assert_int_equal(a->host_missing, b->host_missing);
	assert_int_equal(a->later, b->later);
}

void scene_plan_with(struct fit_table *t)
{
	struct fit_plan plan;
	enum fit_reason reasons[SCENE_DEVICES];
	struct fit_facts f;
	scene_facts(&f);
	f.table = t;
	AUTO(mem_freep) void *scratch = mem_alloc(fit_scratch_bytes(&f));
	memset(scratch, 0xa5, fit_scratch_bytes(&f));
	fit_plan(&f, &s.want, scratch, &plan, reasons);
	same_plan(&plan, &s.plan);
	for (size_t d = 0; d < s.ndevices; d++)
		assert_int_equal(reasons[d], s.reasons[d]);
}

void scene_plan(void)
{
	struct fit_facts f;
	scene_facts(&f);
	s.want.need = &s.need;
	s.want.pool_id = s.want.pool_id ? s.want.pool_id : "new";
	s.want.replica_id = "new-0";
	AUTO(mem_freep) void *scratch = mem_alloc(fit_scratch_bytes(&f));
	memset(scratch, 0xa5, fit_scratch_bytes(&f)); /* nothing may depend on what it held */
	fit_plan(&f, &s.want, scratch, &s.plan, s.reasons);
	AUTO(fit_table_freep) struct fit_table *t = fit_table_new(&f);
	scene_plan_with(t);
}

static void add_units(uint64_t bytes)
{
	if (bytes % GIB == 0)
		(void)buf_addf(&s.text, "%llu", (unsigned long long)(bytes / GIB));
	else
		(void)buf_addf(&s.text, "%.2f", (double)bytes / (double)GIB);
}

static void add_device(size_t device)
{
	if (strcmp(s.devices[device].node_id, "home") != 0)
		(void)buf_addf(&s.text, "%s/", s.devices[device].node_id);
	(void)buf_adds(&s.text, s.devices[device].device_id);
}

static void add_no(const struct fit_plan *p)
{
	(void)buf_adds(&s.text, "no ");
	if (p->closest == FIT_NONE)
		(void)buf_adds(&s.text, "device");
	else
		add_device(p->closest);
	if (p->together > 1)
		(void)buf_addf(&s.text, "+%zu", p->together - 1);
	if (p->closest != FIT_NONE) {
		(void)buf_adds(&s.text, " short ");
		add_units(p->missing);
	}
	if (p->later)
		(void)buf_adds(&s.text, " later");
}

const char *scene_text(void)
{
	static const char *const hows[] = { "no", "one", "split", "experts", "partial", "host", "share" };
	const struct fit_plan *p = &s.plan;
	buf_reset(&s.text);
	if (p->how == FIT_NO) {
		add_no(p);
		return buf_str(&s.text);
	}
	if (p->how != FIT_HOST)
		(void)buf_adds(&s.text, hows[p->how]);
	if (p->how == FIT_EXPERTS)
		(void)buf_addf(&s.text, " %u", p->cpu_experts);
	if (p->how == FIT_PARTIAL)
		(void)buf_addf(&s.text, " %u", p->gpu_layers);
	for (size_t i = 0; i < p->nparts; i++) {
		(void)buf_adds(&s.text, " ");
		add_device(p->parts[i].device);
		(void)buf_adds(&s.text, ":");
		add_units(p->parts[i].bytes);
	}
	if (p->host_bytes || p->how == FIT_HOST) {
		(void)buf_adds(&s.text, s.text.len ? " host:" : "host:");
		add_units(p->host_bytes);
	}
	if (p->nvictims)
		(void)buf_adds(&s.text, " evict");
	for (size_t i = 0; i < p->nvictims; i++)
		(void)buf_addf(&s.text, " %s", s.replicas[p->victims[i]].replica_id);
	return buf_str(&s.text);
}

void expect_plan(const char *expected, const char *file, int line)
{
	if (strcmp(scene_text(), expected) != 0)
		fail_msg("%s:%d: planned \"%s\", expected \"%s\"", file, line, scene_text(), expected);
}

void expect_reason(size_t device, enum fit_reason reason, const char *file, int line)
{
	if (s.reasons[device] != reason)
		fail_msg("%s:%d: device %zu: %s; expected: %s", file, line, device,
			fit_reason_text(s.reasons[device]), fit_reason_text(reason));
}

void expect_layers(const char *expected, const char *file, int line)
{
	AUTO(buf_done) struct buf b = BUF(1 * KIB);
	for (size_t i = 0; i < s.plan.nparts; i++)
		(void)buf_addf(&b, "%s%u", i ? " " : "", s.plan.parts[i].layers);
	if (strcmp(buf_str(&b), expected) != 0)
		fail_msg("%s:%d: layers %s, expected %s", file, line, buf_str(&b), expected);
}
