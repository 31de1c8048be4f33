// SPDX-License-Identifier: Apache-2.0
//
// `ctx: auto`: how much context a model gets follows from what is free. The cards are a stub of NVIDIA's
// library.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { fakeLlamaPool, model, stubDriver, until, withCorral } from './harness.mjs';

const A = 'GPU-aaaa1111-0000-0000-0000-000000000000';
const B = 'GPU-bbbb2222-0000-0000-0000-000000000000';
const card = (uuid, bus, mib) => `device|${uuid}|Stub|00000000:0${bus}:00.0|${mib}|0|25|51|8.9|0`;
const SLOTS = 16;
const long = (id, rest = {}, ctx = 131072) =>
  fakeLlamaPool(id, [], { model: model('random', '--ctx', `${ctx}`), slots: SLOTS, ...rest });
const plan = async (corral, pool) => (await corral.get(`/v1/explain?pool=${pool}`)).json;
const started = ({ argv }) => Number(argv[argv.indexOf('--ctx-size') + 1]) / SLOTS;
const bytes = (need) => need.total_bytes;

async function runs(corral, id) {
  const { status, text } = await corral.chat(id);
  assert.equal(status, 200, text);
  return started(corral.engineOf(id));
}

test(
  'alone on a large card: all that the model was trained for, told wherever a context is told',
  withCorral(
    { pools: [long('a')] },
    async (corral) => {
      const before = await plan(corral, 'a');
      assert.deepEqual([before.need.ctx, before.ctx_auto], [131072, true]);
      assert.match((await corral.cli('plan')).stdout, /context: 131072 tokens a request \(auto\)/);
      assert.equal((await corral.pool('a')).ctx, 8192, 'the least is what is promised before it runs');
      assert.equal(await runs(corral, 'a'), 131072);
      assert.equal((await corral.pool('a')).ctx, 131072);
      const { json } = await corral.get('/v1/models');
      assert.equal(json.data[0].meta.n_ctx, 131072);
      assert.equal((await plan(corral, 'a')).holds[0].ctx, 131072);
    },
    { env: stubDriver(card(A, 1, 24576)).env, leaks: false },
  ),
);

test(
  'less where less is free, a step down at a time; what a pool says itself is not touched',
  withCorral(
    { pools: [long('a', {}, 40960), long('own', { ctx: 4096 })] },
    async (corral) => {
      assert.equal(await runs(corral, 'own'), 4096);
      const { need, devices } = await plan(corral, 'a');
      assert.ok([32768, 24576, 16384, 12288].includes(need.ctx), need.ctx);
      const free = devices.find((d) => d.device === A).free_bytes - bytes(need);
      assert.ok(free > 0);
      assert.equal(await runs(corral, 'a'), need.ctx);
      assert.equal((await plan(corral, 'own')).ctx_auto, false);
    },
    { env: stubDriver(card(A, 1, 1000)).env, leaks: false },
  ),
);

test(
  'others share the card: half of what is free at most, and a start in the same hour keeps what it had',
  withCorral(
    { pools: [long('a'), long('b')] },
    async (corral) => {
      const alone = await runs(corral, 'a');
      assert.ok(alone > 8192 && alone < 131072, `${alone}`);
      const second = await runs(corral, 'b');
      assert.ok(second < alone, `${second}`);
      const figure = await corral.figures();
      assert.equal(figure('corral_evictions_total', { pool: 'a' }), undefined, 'nobody left for it');

      for (const id of ['a', 'b']) await corral.post(`/v1/pools/${id}/stop`, {});
      await until('the engines to be gone', async () => corral.engines().length === 0);
      assert.equal(await runs(corral, 'b'), second, 'as it was, though more is free');
    },
    { env: stubDriver(card(A, 1, 1300)).env, leaks: false },
  ),
);

test(
  'replicas of a pool have the same, also on a smaller card',
  withCorral(
    { pools: [long('a', { replicas: 2 })] },
    async (corral) => {
      await until('both', async () => (await corral.pool('a')).replicas.filter((r) => r.ready).length === 2);
      const { replicas } = await corral.pool('a');
      assert.equal(new Set(replicas.map((r) => r.ctx)).size, 1, JSON.stringify(replicas.map((r) => r.ctx)));
      assert.equal(new Set(replicas.map((r) => r.device)).size, 2);
    },
    { env: stubDriver(card(A, 1, 1300), card(B, 2, 900)).env, leaks: false },
  ),
);
