/* SPDX-License-Identifier: Apache-2.0
 *
 * Masks, choices, samples, the bus, and one list of all: everything that needs no process.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/rnd.h"
#include "gpu/gpu.h"
#include "gpu/gpu_int.h"

/* ---- masks ------------------------------------------------------------------------------------------- */

static void masks(void **state)
{
	(void)state;
	static const struct {
		const char *text;
		enum mask_kind kind;
		size_t len;
	} good[] = {
		{ "auto", MASK_AUTO, 0 },
		{ " cpu ", MASK_CPU, 0 },
		{ "none", MASK_CPU, 0 },
		{ "0", MASK_LIST, 1 },
		{ "0,1", MASK_LIST, 2 },
		{ "3 , 0", MASK_LIST, 2 },
		{ "MIG-3f", MASK_LIST, 1 },
		{ "GPU-3f", MASK_LIST, 1 },
		{ "GPU-3f2a1b00-1111-2222-3333-444455556666,1", MASK_LIST, 2 },
	};
	for (size_t i = 0; i < ARRAY_LEN(good); i++) {
		struct mask m;
		assert_int_equal(mask_parse(view_str(good[i].text), &m, NULL), 0);
		assert_int_equal(m.kind, good[i].kind);
		assert_int_equal(m.len, good[i].len);
	}
	static const char *const bad[] = { "", "gpu", "0,", ",0", "-1", "0x1", "1.5", "4096", "GPU-",
		"GPU-xyz", "0,0", "1,01", "GPU-3F,GPU-3f", "auto,0", "cpu,1", "AUTO", "99999999999999999999",
		"0 1", "all" };
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct mask m;
		struct err e = { 0 };
		if (mask_parse(view_str(bad[i]), &m, &e) == 0)
			fail_msg("\"%s\" was taken", bad[i]);
		assert_true(e.msg[0]);
	}
}

static void mask_is_bounded(void **state)
{
	(void)state;
	AUTO(buf_done) struct buf b = BUF(4096);
	for (int i = 0; i <= MASK_IDS_MAX; i++)
		(void)buf_addf(&b, "%s%d", i ? "," : "", i);
	struct mask *m = NEW(struct mask);
	struct err e = { 0 };
	assert_int_equal(mask_parse(buf_view(&b), m, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "more than 64"));
	free(m);
}

/* ---- choices ----------------------------------------------------------------------------------------- */

static struct gpu_device *add(struct gpu_list *l, enum gpu_kind kind, const char *uuid)
{
	struct gpu_device *d = gpu_list_add(l, kind);
	d->index = (unsigned)l->len - 1;
	d->vendor_index = l->len > 1 && d[-1].kind == kind ? d[-1].vendor_index + 1 : 0;
	snprintf(d->uuid, sizeof d->uuid, "%s", uuid);
	snprintf(d->name, sizeof d->name, "Card %u", d->index);
	return d;
}

struct chosen {
	int r;
	struct err e;
	struct gpu_choice *c;
	struct buf mask, words;
	struct strv env;
};

static void chosen_done(struct chosen *c)
{
	free(c->c);
	buf_done(&c->mask);
	buf_done(&c->words);
	strv_done(&c->env);
}

static struct chosen choose(const char *text, enum gpu_policy policy, const struct gpu_list *l)
{
	struct chosen c = { .c = NEW(struct gpu_choice), .mask = BUF(4096), .words = BUF(4096) };
	struct mask *m = NEW(struct mask);
	assert_int_equal(mask_parse(view_str(text), m, NULL), 0);
	c.r = gpu_choose(m, policy, l, "3 devices on the bus", c.c, &c.e);
	free(m);
	if (c.r == 0) {
		gpu_choice_mask(c.c, &c.mask);
		gpu_choice_words(c.c, &c.words);
		gpu_choice_env(c.c, &c.env);
	}
	return c;
}

static struct gpu_list *two_cards(void)
{
	struct gpu_list *l = NEW(struct gpu_list);
	add(l, GPU_CUDA, "GPU-aaaa0000");
	add(l, GPU_CUDA, "GPU-aabb0000");
	add(l, GPU_CPU, "cpu");
	return l;
}

static void a_list_becomes_uuids(void **state)
{
	(void)state;
	AUTO(mem_freep) struct gpu_list *l = two_cards();
	AUTO(chosen_done) struct chosen c = choose("1", GPU_POLICY_AUTO, l);
	assert_int_equal(c.r, 0);
	assert_string_equal(buf_str(&c.mask), "1");
	assert_string_equal(buf_str(&c.words), "GPU-aabb0000");
	assert_true(strv_has(&c.env, "CUDA_VISIBLE_DEVICES=GPU-aabb0000"));
	assert_true(strv_has(&c.env, "CUDA_DEVICE_ORDER=PCI_BUS_ID"));
	assert_true(strv_has(&c.env, "HIP_VISIBLE_DEVICES="));
	assert_true(strv_has(&c.env, "GGML_VK_VISIBLE_DEVICES=1"));
}

static void a_prefix_must_be_the_only_one(void **state)
{
	(void)state;
	AUTO(mem_freep) struct gpu_list *l = two_cards();
	AUTO(chosen_done) struct chosen one = choose("GPU-AAb", GPU_POLICY_AUTO, l);
	assert_int_equal(one.r, 0);
	assert_string_equal(buf_str(&one.mask), "1");
	AUTO(chosen_done) struct chosen two = choose("GPU-aa", GPU_POLICY_AUTO, l);
	assert_int_equal(two.r, -EINVAL);
	assert_non_null(strstr(two.e.msg, "more than one"));
	AUTO(chosen_done) struct chosen twice = choose("1,GPU-aabb", GPU_POLICY_AUTO, l);
	assert_int_equal(twice.r, -EINVAL);
	assert_non_null(strstr(twice.e.msg, "already named"));
	AUTO(chosen_done) struct chosen none = choose("2", GPU_POLICY_AUTO, l);
	assert_int_equal(none.r, -EINVAL);
	assert_non_null(strstr(none.e.msg, "0: Card 0 (GPU-aaaa0000), 1: Card 1 (GPU-aabb0000)"));
}

static void a_wish_names_what_is_there(void **state)
{
	(void)state;
	static const struct {
		const char *list, *says; /* NULL: taken */
	} rows[] = {
		{ "0,GPU-aabb", NULL },
		{ "7", "avoid names 7, which is not on this machine; there is 0: Card 0" },
		{ "1,GPU-aabb", "avoid names GPU-aabb, a device that is already named" },
		{ "GPU-aa", "the beginning of more than one UUID" },
	};
	AUTO(mem_freep) struct gpu_list *l = two_cards();
	AUTO(mem_freep) struct mask *m = NEW(struct mask);
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct err e = { 0 };
		assert_int_equal(mask_parse(view_str(rows[i].list), m, NULL), 0);
		assert_int_equal(gpu_check_list(m, "avoid", l, &e), rows[i].says ? -EINVAL : 0);
		if (rows[i].says)
			assert_non_null(strstr(e.msg, rows[i].says));
	}
}

static void auto_takes_what_answers(void **state)
{
	(void)state;
	AUTO(mem_freep) struct gpu_list *l = two_cards();
	AUTO(chosen_done) struct chosen all = choose("auto", GPU_POLICY_AUTO, l);
	assert_string_equal(buf_str(&all.mask), "0,1");
	assert_true(strv_has(&all.env, "CUDA_VISIBLE_DEVICES=GPU-aaaa0000,GPU-aabb0000"));
	assert_false(all.c->asked);
	l->items[0].state = GPU_LOST;
	AUTO(chosen_done) struct chosen one = choose("auto", GPU_POLICY_AUTO, l);
	assert_string_equal(buf_str(&one.mask), "1");
	assert_non_null(strstr(one.c->note, "GPU 0"));
	AUTO(chosen_done) struct chosen lost = choose("0", GPU_POLICY_AUTO, l);
	assert_int_equal(lost.r, -ENODEV);
}

static void a_hidden_gpu_is_never_the_cpu(void **state)
{
	(void)state;
	AUTO(mem_freep) struct gpu_list *l = NEW(struct gpu_list);
	struct gpu_device *d = add(l, GPU_CUDA, "");
	d->state = GPU_UNUSABLE;
	snprintf(d->reason, sizeof d->reason, "NVML: Driver/library version mismatch (18)");
	AUTO(chosen_done) struct chosen a = choose("auto", GPU_POLICY_AUTO, l);
	assert_int_equal(a.r, -ENODEV);
	assert_non_null(strstr(a.e.msg, "Driver/library version mismatch"));
	AUTO(chosen_done) struct chosen r = choose("auto", GPU_POLICY_REQUIRED, l);
	assert_int_equal(r.r, -ENODEV);
	AUTO(chosen_done) struct chosen o = choose("auto", GPU_POLICY_OPTIONAL, l);
	assert_int_equal(o.r, 0);
	assert_true(o.c->cpu && o.c->asked && o.c->note[0]);
	AUTO(chosen_done) struct chosen cpu = choose("cpu", GPU_POLICY_REQUIRED, l);
	assert_int_equal(cpu.r, 0);
	assert_string_equal(buf_str(&cpu.mask), "cpu");
	assert_true(strv_has(&cpu.env, "CUDA_VISIBLE_DEVICES="));
	d->given_away = true;
	AUTO(chosen_done) struct chosen guest = choose("auto", GPU_POLICY_AUTO, l);
	assert_int_equal(guest.r, 0);
	assert_true(guest.c->cpu);
}

static void without_a_gpu(void **state)
{
	(void)state;
	AUTO(mem_freep) struct gpu_list *l = NEW(struct gpu_list);
	add(l, GPU_CPU, "cpu");
	AUTO(chosen_done) struct chosen a = choose("auto", GPU_POLICY_AUTO, l);
	assert_int_equal(a.r, 0);
	assert_string_equal(buf_str(&a.mask), "cpu");
	assert_int_equal(a.env.len, 0); /* nothing to keep away from */
	AUTO(chosen_done) struct chosen r = choose("auto", GPU_POLICY_REQUIRED, l);
	assert_int_equal(r.r, -ENODEV);
	assert_non_null(strstr(r.e.msg, "3 devices on the bus"));
	AUTO(chosen_done) struct chosen zero = choose("0", GPU_POLICY_AUTO, l);
	assert_int_equal(zero.r, -EINVAL);
	assert_non_null(strstr(zero.e.msg, "no GPU"));
}

static void none_keeps_to_the_cpu(void **state)
{
	(void)state;
	AUTO(mem_freep) struct gpu_list *l = two_cards();
	AUTO(chosen_done) struct chosen a = choose("auto", GPU_POLICY_NONE, l);
	assert_int_equal(a.r, 0);
	assert_true(a.c->cpu && a.c->asked);
	AUTO(chosen_done) struct chosen i = choose("0", GPU_POLICY_NONE, l);
	assert_int_equal(i.r, -EINVAL);
	assert_non_null(strstr(i.e.msg, "gpu: none"));
}

static void makers_are_not_mixed(void **state)
{
	(void)state;
	AUTO(mem_freep) struct gpu_list *l = NEW(struct gpu_list);
	add(l, GPU_CUDA, "GPU-aaaa0000");
	add(l, GPU_AMD, "GPU-bbbb0000");
	add(l, GPU_AMD, "GPU-cccc0000");
	add(l, GPU_INTEL, "")->integrated = true;
	AUTO(chosen_done) struct chosen mixed = choose("0,1", GPU_POLICY_AUTO, l);
	assert_int_equal(mixed.r, -EINVAL);
	AUTO(chosen_done) struct chosen amd = choose("2", GPU_POLICY_AUTO, l);
	assert_int_equal(amd.r, 0);
	assert_true(strv_has(&amd.env, "HIP_VISIBLE_DEVICES=1"));
	assert_true(strv_has(&amd.env, "CUDA_VISIBLE_DEVICES="));
	AUTO(chosen_done) struct chosen a = choose("auto", GPU_POLICY_AUTO, l);
	assert_string_equal(buf_str(&a.mask), "0");
	/* A planner's list is no wish of the operator's, and the engine is kept on it all the same. */
	struct strv env = { 0 };
	amd.c->asked = false;
	gpu_choice_env(amd.c, &env);
	assert_true(strv_has(&env, "HIP_VISIBLE_DEVICES=1"));
	strv_done(&env);
}

/* ---- samples ------------------------------------------------------------------------------------------- */

static void a_sample_comes_back_as_it_was(void **state)
{
	(void)state;
	AUTO(mem_freep) struct gpu_sample *s = NEW(struct gpu_sample);
	AUTO(mem_freep) struct gpu_sample *t = NEW(struct gpu_sample);
	AUTO(buf_done) struct buf b = BUF(GPU_LINE_MAX);
	snprintf(s->driver, sizeof s->driver, "550.54");
	struct gpu_device *d = gpu_list_add(&s->list, GPU_CUDA);
	snprintf(d->uuid, sizeof d->uuid, "GPU-1");
	snprintf(d->name, sizeof d->name, "A \"card\"");
	snprintf(d->pci, sizeof d->pci, "0000:01:00.0");
	snprintf(d->compute_capability, sizeof d->compute_capability, "8.9");
	d->memory_total = 24 * GIB;
	d->memory_free = 20 * GIB;
	d->memory_used = 4 * GIB;
	d->utilization = 0.37;
	d->temperature_c = 61;
	d->nprocesses = 1;
	d->processes[0] = (struct gpu_process){ 4711, 3 * GIB };
	d->power_mw = 212500;
	d->ecc_uncorrected = 2;
	d->split = true;
	snprintf(d->last_error, sizeof d->last_error, "Xid 79: gone");
	d->last_error_at_ms = 1234567;
	d->nlinks = 1;
	d->links[0] = (struct gpu_link){ "0000:02:00.0", GPU_PATH_BRIDGE, 4 };
	struct gpu_device *part = gpu_list_add(&s->list, GPU_CUDA);
	snprintf(part->uuid, sizeof part->uuid, "MIG-1");
	snprintf(part->parent, sizeof part->parent, "0000:01:00.0");
	part->part = 3;
	assert_int_equal(gpu_sample_encode(s, &b), 0);
	assert_int_equal(gpu_sample_decode(buf_view(&b), t, NULL), 0);
	const struct gpu_device *o = &t->list.items[0];
	assert_int_equal(t->list.len, 2);
	assert_true(o->power_mw == 212500 && o->power_limit_mw == -1);
	assert_true(o->ecc_corrected == -1 && o->ecc_uncorrected == 2);
	assert_string_equal(o->last_error, "Xid 79: gone");
	assert_true(o->last_error_at_ms == 1234567 && o->split && !o->part);
	assert_int_equal(o->nlinks, 1);
	assert_string_equal(o->links[0].pci, "0000:02:00.0");
	assert_int_equal(o->links[0].path, GPU_PATH_BRIDGE);
	assert_int_equal(o->links[0].fabric, 4);
	assert_int_equal(o[1].part, 3);
	assert_string_equal(o[1].parent, "0000:01:00.0");
	assert_string_equal(o->name, "A \"card\"");
	assert_string_equal(o->driver, "550.54");
	assert_true(o->memory_free == 20 * GIB && o->processes[0].bytes == 3 * GIB);
	assert_int_equal(o->processes[0].pid, 4711);
	assert_true(o->utilization > 0.36 && o->utilization < 0.38);
	assert_int_equal(o->temperature_c, 61);
}

static void hostile_lines(void **state)
{
	(void)state;
	AUTO(mem_freep) struct gpu_sample *t = NEW(struct gpu_sample);
	static const char *const none[] = { "", "{}", "[]", "null", "{\"gpu_probe\":1}",
		"a library that talks", "{\"gpu_probe\":1,\"devices\":{}}",
		"{\"gpu_probe\":1,\"devices\":[" };
	for (size_t i = 0; i < ARRAY_LEN(none); i++)
		assert_int_equal(gpu_sample_decode(view_str(none[i]), t, NULL), -EINVAL);
	const char *odd =
		"{\"gpu_probe\":1,\"devices\":[1,null,{},{\"uuid\":7},{\"uuid\":\"a\\u0007b\\nc\","
		"\"power_mw\":-5,\"ecc_corrected\":1.5,\"last_error\":9,\"part\":3,\"parent\":\"nowhere\","
		"\"links\":[[],7,[\"x\",1,1],[\"0000:02:00.0\",77,1],[\"0000:02:00.0\",1,-1]],"
		"\"total\":5,\"free\":99,\"used\":-1,\"busy_percent\":500,\"temperature_c\":1e9,"
		"\"processes\":[[1],[-4,5],[5,6],\"x\",[99999999999,1]]},{\"uuid\":\"a?b?c\"}]}";
	assert_int_equal(gpu_sample_decode(view_str(odd), t, NULL), 0);
	assert_int_equal(t->list.len, 1); /* the rest cannot be told apart */
	assert_string_equal(t->list.items[0].uuid, "a?b?c");
	assert_int_equal(t->list.items[0].memory_free, 5);
	assert_int_equal(t->list.items[0].memory_used, 0);
	assert_true(t->list.items[0].utilization < 0);
	assert_int_equal(t->list.items[0].temperature_c, GPU_TEMPERATURE_UNKNOWN);
	assert_int_equal(t->list.items[0].nprocesses, 1);
	assert_true(t->list.items[0].power_mw == -1 && t->list.items[0].ecc_corrected == -1);
	assert_true(!t->list.items[0].last_error[0] && !t->list.items[0].part);
	assert_int_equal(t->list.items[0].nlinks, 0);
	AUTO(buf_done) struct buf b = BUF(GPU_LINE_MAX);
	(void)buf_adds(&b, "{\"gpu_probe\":1,\"devices\":[");
	for (int i = 0; i < 1000; i++)
		(void)buf_addf(&b, "%s{\"uuid\":\"GPU-%d\"}", i ? "," : "", i);
	(void)buf_adds(&b, "]}");
	assert_int_equal(gpu_sample_decode(buf_view(&b), t, NULL), 0);
	assert_int_equal(t->list.len, GPU_DEVICES_MAX);
}

/* ---- the bus ---------------------------------------------------------------------------------------------
 */

struct tree {
	char root[64];
};

static void put(const struct tree *t, const char *pci, const char *name, const char *text)
{
	AUTO(mem_freep) char *dir = mem_fmt("%s/bus/pci/devices/%s", t->root, pci);
	AUTO(mem_freep) char *path = mem_fmt("%s/%s", dir, name);
	assert_int_equal(dir_make(dir, 0700), 0);
	assert_int_equal(file_write_atomic(path, view_str(text), 0600, false), 0);
}

static void bind_driver(const struct tree *t, const char *pci, const char *driver)
{
	AUTO(mem_freep) char *path = mem_fmt("%s/bus/pci/devices/%s/driver", t->root, pci);
	AUTO(mem_freep) char *to = mem_fmt("../../../../bus/pci/drivers/%s", driver);
	assert_int_equal(symlink(to, path), 0);
}

static void card(const struct tree *t, const char *pci, const char *class, const char *vendor)
{
	put(t, pci, "class", class);
	put(t, pci, "vendor", vendor);
	put(t, pci, "device", "0x2684\n");
}

static void what_the_bus_shows(void **state)
{
	(void)state;
	struct tree t = { "/tmp/corral-bus-XXXXXX" };
	assert_non_null(mkdtemp(t.root));
	card(&t, "0000:00:02.0", "0x030000\n", "0x8086\n");
	bind_driver(&t, "0000:00:02.0", "i915");
	card(&t, "0000:01:00.0", "0x030000\n", "0x10de\n");
	bind_driver(&t, "0000:01:00.0", "nouveau");
	card(&t, "0000:01:00.1", "0x040300\n", "0x10de\n"); /* its sound */
	card(&t, "0000:02:00.0", "0x038000\n", "0x1002\n");
	bind_driver(&t, "0000:02:00.0", "amdgpu");
	put(&t, "0000:02:00.0", "mem_info_vram_total", "17163091968\n");
	put(&t, "0000:02:00.0", "mem_info_vram_used", "1000000000\n");
	put(&t, "0000:02:00.0", "gpu_busy_percent", "42\n");
	put(&t, "0000:02:00.0", "product_name", "Radeon\n");
	put(&t, "0000:02:00.0/hwmon/hwmon4", "temp1_input", "51000\n");
	put(&t, "0000:02:00.0/hwmon/hwmon4", "power1_average", "91000000\n");
	put(&t, "0000:02:00.0/hwmon/hwmon4", "power1_cap", "300000000\n");
	card(&t, "0000:03:00.0", "0x030200\n", "0x10de\n");
	bind_driver(&t, "0000:03:00.0", "vfio-pci");
	card(&t, "0000:04:00.0", "0x030000\n", "0x1a03\n"); /* a board's own console */
	card(&t, "0000:05:00.0", "0x030000\n", "0x1002\n"); /* nobody holds it */
	AUTO(mem_freep) struct gpu_list *l = NEW(struct gpu_list);
	unsigned seen = 0;
	gpu_bus_scan(t.root, l, &seen);
	assert_int_equal(seen, 7);
	assert_int_equal(l->len, 5);
	assert_int_equal(l->items[0].kind, GPU_INTEL);
	assert_true(l->items[0].integrated && l->items[0].state == GPU_OK);
	assert_int_equal(l->items[1].state, GPU_UNUSABLE);
	assert_non_null(strstr(l->items[1].reason, "nouveau"));
	assert_string_equal(l->items[1].name, "NVIDIA GPU 10de:2684");
	assert_int_equal(l->items[2].state, GPU_OK);
	assert_string_equal(l->items[2].name, "Radeon");
	assert_true(l->items[2].memory_total == 17163091968u && l->items[2].memory_used == 1000000000);
	assert_true(l->items[2].utilization < 0); /* that asks the firmware: it is the child's to read */
	gpu_bus_measure(t.root, &l->items[2]);
	assert_true(l->items[2].power_mw == 91000 && l->items[2].power_limit_mw == 300000);
	assert_int_equal(l->items[2].temperature_c, 51);
	assert_true(l->items[2].utilization > 0.41 && l->items[2].utilization < 0.43);
	assert_true(l->items[3].given_away);
	assert_int_equal(l->items[4].state, GPU_UNUSABLE);
	assert_non_null(strstr(l->items[4].reason, "amdgpu"));
	AUTO(mem_freep) char *rm = mem_fmt("rm -rf %s", t.root);
	assert_int_equal(system(rm), 0);
}

static void addresses(void **state)
{
	(void)state;
	char out[16];
	assert_true(gpu_pci_normal(VIEW("00000000:0A:00.0"), out));
	assert_string_equal(out, "0000:0a:00.0");
	assert_true(gpu_pci_normal(VIEW("0000:01:00.1"), out));
	static const char *const bad[] = { "", "01:00.0", "0000:01:00", "0000:01:00.0x", "0000-01:00.0",
		"zzzz:01:00.0" };
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_false(gpu_pci_normal(view_str(bad[i]), out));
}

static void the_cpu(void **state)
{
	(void)state;
	struct gpu_device d;
	gpu_cpu_read(&d);
	assert_string_equal(d.uuid, "cpu");
	assert_true(d.memory_total > 0 && d.memory_free <= d.memory_total && d.name[0]);
}

/* ---- one list of all
 * --------------------------------------------------------------------------------------- */

static void shown(struct gpu_sample *s, const char *uuid, const char *pci)
{
	struct gpu_device *d = gpu_list_add(&s->list, GPU_CUDA);
	snprintf(d->uuid, sizeof d->uuid, "%s", uuid);
	snprintf(d->pci, sizeof d->pci, "%s", pci);
	snprintf(d->name, sizeof d->name, "Card");
}

static void on_bus(struct gpu_list *l, const char *pci)
{
	struct gpu_device *d = gpu_list_add(l, GPU_CUDA);
	d->state = GPU_UNUSABLE;
	snprintf(d->pci, sizeof d->pci, "%s", pci);
	snprintf(d->reason, sizeof d->reason, "the kernel driver that holds it is nvidia");
}

static void lost_hidden_and_gone(void **state)
{
	(void)state;
	AUTO(mem_freep) struct gpu_list *bus = NEW(struct gpu_list);
	AUTO(mem_freep) struct gpu_list *bus_before = NEW(struct gpu_list);
	AUTO(mem_freep) struct gpu_list *before = NEW(struct gpu_list);
	AUTO(mem_freep) struct gpu_list *now = NEW(struct gpu_list);
	AUTO(mem_freep) struct gpu_sample *s = NEW(struct gpu_sample);
	struct gpu_device cpu;
	gpu_cpu_read(&cpu);
	on_bus(bus, "0000:01:00.0");
	on_bus(bus, "0000:02:00.0");
	on_bus(bus, "0000:03:00.0");
	shown(s, "GPU-b", "0000:02:00.0");
	shown(s, "GPU-a", "0000:01:00.0");
	struct gpu_news w = {
		.bus = bus, .bus_before = bus, .cpu = &cpu, .nvidia = { s, "not shown", false }
	};
	gpu_merge(&w, before, now);
	assert_int_equal(now->len, 4);
	assert_string_equal(now->items[0].uuid, "GPU-a");
	assert_string_equal(now->items[1].uuid, "GPU-b");
	assert_int_equal(now->items[2].state, GPU_UNUSABLE); /* on the bus, never shown */
	assert_non_null(strstr(now->items[2].reason, "not shown"));
	assert_int_equal(now->items[3].kind, GPU_CPU);
	*before = *now;
	s->list.len = 1; /* a vanishes */
	gpu_merge(&w, before, now);
	assert_int_equal(now->len, 4);
	assert_string_equal(now->items[0].uuid, "GPU-a");
	assert_int_equal(now->items[0].state, GPU_LOST);
	assert_false(gpu_same_set(before, now));
	*before = *now;
	*bus_before = *bus; /* and is pulled out */
	bus->len = 0;
	on_bus(bus, "0000:02:00.0");
	w.bus_before = bus_before;
	gpu_merge(&w, before, now);
	assert_int_equal(now->len, 2);
	assert_string_equal(now->items[0].uuid, "GPU-b");
}

static void parts_come_behind_and_go(void **state)
{
	(void)state;
	AUTO(mem_freep) struct gpu_list *bus = NEW(struct gpu_list);
	AUTO(mem_freep) struct gpu_list *before = NEW(struct gpu_list);
	AUTO(mem_freep) struct gpu_list *now = NEW(struct gpu_list);
	AUTO(mem_freep) struct gpu_sample *s = NEW(struct gpu_sample);
	struct gpu_device cpu;
	gpu_cpu_read(&cpu);
	shown(s, "GPU-b", "0000:02:00.0");
	for (unsigned i = 2; i >= 1; i--) {
		shown(s, i == 1 ? "MIG-f" : "MIG-a", "");
		struct gpu_device *part = &s->list.items[s->list.len - 1];
		part->part = i;
		snprintf(part->parent, sizeof part->parent, "0000:01:00.0");
	}
	shown(s, "GPU-a", "0000:01:00.0");
	s->list.items[3].split = true;
	snprintf(s->list.items[3].last_error, sizeof s->list.items[3].last_error, "Xid 31");
	s->list.items[3].last_error_at_ms = 5;
	struct gpu_news w = {
		.bus = bus, .bus_before = bus, .cpu = &cpu, .nvidia = { s, "not shown", false }
	};
	gpu_merge(&w, before, now);
	static const char *const order[] = { "GPU-a", "GPU-b", "MIG-f", "MIG-a", "cpu" };
	assert_int_equal(now->len, ARRAY_LEN(order));
	for (size_t i = 0; i < ARRAY_LEN(order); i++)
		assert_string_equal(now->items[i].uuid, order[i]);
	assert_int_equal(now->items[3].index, 3);
	AUTO(chosen_done) struct chosen a = choose("auto", GPU_POLICY_AUTO, now);
	assert_string_equal(buf_str(&a.words), "GPU-b"); /* whole ones, and never one that is divided */
	AUTO(chosen_done) struct chosen part = choose("MIG-f", GPU_POLICY_AUTO, now);
	assert_true(strv_has(&part.env, "CUDA_VISIBLE_DEVICES=MIG-f"));
	AUTO(chosen_done) struct chosen two = choose("2,3", GPU_POLICY_AUTO, now);
	assert_int_equal(two.r, -EINVAL);
	assert_non_null(strstr(two.e.msg, "one MIG instance"));
	AUTO(chosen_done) struct chosen whole = choose("0", GPU_POLICY_AUTO, now);
	assert_int_equal(whole.r, -EINVAL);
	assert_non_null(strstr(whole.e.msg, "divided"));
	*before = *now;
	s->list.items[3].last_error[0] = '\0'; /* a child that was started again saw nothing */
	s->list.items[3].last_error_at_ms = 0;
	gpu_merge(&w, before, now);
	assert_string_equal(now->items[0].last_error, "Xid 31");
	assert_true(gpu_same_set(before, now));
	w.nvidia.sample = NULL; /* the driver is silent: they are lost, as their GPU is */
	gpu_merge(&w, before, now);
	assert_int_equal(now->items[2].state, GPU_LOST);
	*before = *now;
	w.nvidia.sample = s;
	s->list.items[1] = s->list.items[3]; /* divided no longer */
	s->list.items[1].split = false;
	s->list.len = 2;
	gpu_merge(&w, before, now);
	assert_int_equal(now->len, 3);
	AUTO(chosen_done) struct chosen b = choose("auto", GPU_POLICY_AUTO, now);
	assert_string_equal(buf_str(&b.words), "GPU-a,GPU-b");
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(masks), cmocka_unit_test(mask_is_bounded),
		cmocka_unit_test(a_list_becomes_uuids), cmocka_unit_test(a_prefix_must_be_the_only_one),
		cmocka_unit_test(a_wish_names_what_is_there), cmocka_unit_test(auto_takes_what_answers),
		cmocka_unit_test(a_hidden_gpu_is_never_the_cpu), cmocka_unit_test(without_a_gpu),
		cmocka_unit_test(none_keeps_to_the_cpu), cmocka_unit_test(makers_are_not_mixed),
		cmocka_unit_test(a_sample_comes_back_as_it_was), cmocka_unit_test(hostile_lines),
		cmocka_unit_test(what_the_bus_shows), cmocka_unit_test(addresses), cmocka_unit_test(the_cpu),
		cmocka_unit_test(lost_hidden_and_gone), cmocka_unit_test(parts_come_behind_and_go) };
	return cmocka_run_group_tests_name("gpu", tests, NULL, NULL);
}
