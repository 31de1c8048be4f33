/* SPDX-License-Identifier: Apache-2.0
 *
 * The language of the device planner's cases. A scene is set (GPU, HOST, RUNS, …), PLAN decides, EXPECT looks
 * at the plan's text, which reads as
 *
 *   one 0:10                          whole on device 0, 10 units there
 *   split 0:20 1:10                   over two; layers: `0:20/41` where they are asked for (EXPECT_LAYERS)
 *   experts 12 0:23 1:11 host:30      experts of 12 layers in host memory
 *   partial 30 0:20 host:12           30 layers (output included) on devices
 *   host:14                           the host alone
 *   share 0:10 1:10
 *   … evict a b                       who leaves, in this order
 *   no 0 short 3                      nothing; device 0 came closest, 3 units are missing there
 *   no 0+2 short 3                    … two devices together, the roomiest of them is 0
 *   no host short 3, … later          it would do once the busy had left
 *
 * A unit is a GiB, so that the numbers of a case are those of cards and models.
 */
#ifndef TESTS_FIT_SCENE_H
#define TESTS_FIT_SCENE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/buf.h"
#include "placement/fit.h"
#include "placement/fit_table.h"

/* The scene macros set defaults that a case overrides. */
#pragma GCC diagnostic ignored "-Woverride-init"

enum { SCENE_DEVICES = 64, SCENE_REPLICAS = 128, SCENE_USES = 512, SCENE_LAYERS = 200 };
enum { CUDA = 1, ROCM = 2, VULKAN = 3 };

struct scene {
	struct fit_device devices[SCENE_DEVICES];
	struct fit_replica replicas[SCENE_REPLICAS];
	struct fit_use uses[SCENE_USES];
	struct fit_layer layers[SCENE_LAYERS];
	size_t ndevices, nreplicas, nuses;
	uint64_t mask, prefer, avoid, protect[2], never_with[2], siblings[2];
	uint32_t replicas_max;
	struct fit_need need;
	struct fit_want want;
	struct fit_plan plan;
	enum fit_reason reasons[SCENE_DEVICES];
	struct buf text;
};
extern struct scene s;

int scene_clean(void **state);
int scene_done(void **state);

/* ---- before -------------------------------------------------------------------------------------------- */

#define DEVICE(where, what, units, ...)                                                                      \
	scene_set_device((struct fit_device){ .node_id = where,                                              \
		.kind = what,                                                                                \
		.usable = true,                                                                              \
		.capacity = (uint64_t)(units)*GIB,                                                           \
		##__VA_ARGS__ })
#define GPU(units, ...) DEVICE("home", CUDA, units, ##__VA_ARGS__)
#define HOST(units, ...) DEVICE("home", FIT_KIND_CPU, units, ##__VA_ARGS__)
#define ON(where, units, ...) DEVICE(where, CUDA, units, ##__VA_ARGS__)
#define FOREIGN(units) .foreign = (uint64_t)(units)*GIB
#define LIMIT(units) .limit = (uint64_t)(units)*GIB
void scene_set_device(struct fit_device d);

/* RUNS("a", 0, 10, IDLE, LOSS(5)): replica a of pool a holds 10 on device 0. ALSO(1, 5): and 5 on device 1.
 */
#define RUNS(id, where, units, ...)                                                                          \
	scene_run((struct fit_replica){ .replica_id = id, .pool_id = id, ##__VA_ARGS__ }, where,             \
		(uint64_t)(units)*GIB)
#define ALSO(device, units) scene_also(device, (uint64_t)(units)*GIB)
#define BUSY .busy = true
#define PINNED .pinned = true
#define EXPIRED .expired = true
#define IDLE_ONLY .idle_only = true
#define LOSS(x) .loss = (x)
void scene_run(struct fit_replica r, size_t device, uint64_t bytes);
void scene_also(size_t device, uint64_t bytes);

/* ---- target -------------------------------------------------------------------------------------------- */

/* Nothing finer is known: so much on one device. */
#define WANT(units, ...)                                                                                     \
	(s.need = (struct fit_need){ .whole = (uint64_t)(units)*GIB },                                       \
		s.want = (struct fit_want){ .may_evict = true, ##__VA_ARGS__ })
/* n layers of so much each. */
#define MODEL(n, units, ...)                                                                                 \
	(scene_layers(n, (uint64_t)((units)*1024) * MIB, 0),                                                 \
		s.want = (struct fit_want){ .may_evict = true, ##__VA_ARGS__ })
/* A mixture: n layers, so much dense and so much in experts each. */
#define MIXTURE(n, dense, experts, ...)                                                                      \
	(scene_layers(n, (uint64_t)((dense)*1024) * MIB, (uint64_t)((experts)*1024) * MIB),                  \
		s.want = (struct fit_want){ .may_evict = true, ##__VA_ARGS__ })
void scene_layers(size_t n, uint64_t weights, uint64_t experts);
#define OFFLOAD .offload = FIT_OFFLOAD_AUTO
#define CPU_MAY .cpu = true
#define NO_EVICTION .may_evict = false
#define NEEDS(field, units) (s.need.field = (uint64_t)(units)*GIB)
#define BITS(field, bits) (s.field = (bits), s.want.field = &s.field)
#define WITH(field, i) (s.field[(i) / 64] |= (uint64_t)1 << ((i) % 64), s.want.field = s.field)

/* ---- plan, after --------------------------------------------------------------------------------------- */

void scene_facts(struct fit_facts *ret);
void scene_plan(void);                     /* without a table, and the same with one */
void scene_plan_with(struct fit_table *t); /* the same as it was */
const char *scene_text(void);
void expect_plan(const char *expected, const char *file, int line);
void expect_reason(size_t device, enum fit_reason reason, const char *file, int line);
void expect_layers(const char *expected, const char *file, int line);
#define PLAN() scene_plan()
#define EXPECT(text) expect_plan(text, __FILE__, __LINE__)
#define EXPECT_WHY(device, reason) expect_reason(device, reason, __FILE__, __LINE__)
#define EXPECT_LAYERS(text) expect_layers(text, __FILE__, __LINE__)
#define CASE(name) static void name(UNUSED void **state)
#define UNIT(name) cmocka_unit_test_setup_teardown(name, scene_clean, scene_done)

#endif
