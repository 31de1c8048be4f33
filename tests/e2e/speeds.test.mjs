// SPDX-License-Identifier: Apache-2.0
// Replicas on unequal devices: the one that was seen to be faster gets more of the requests.
import assert from 'node:assert/strict';
import test from 'node:test';
import { fakeLlamaPool, send, until, withCorral } from './harness.mjs';

const many = (corral, n) =>
  Promise.all(Array.from({ length: n }, () => corral.chat('p', { stream: true })));

test(
  'one of two replicas writes at a tenth of the speed: the other is filled first',
  withCorral(
    () => ({ pools: [fakeLlamaPool('p', ['--event-interval-us', 2000], { replicas: 2, slots: 4 })] }),
    async (corral) => {
      await until('both to be ready', async () =>
        (await corral.pool('p')).replicas.every((r) => r.state === 'ready'),
      );
      const { replicas } = await corral.pool('p');
      const slow = replicas[0]; // by its name the first to be asked
      const answer = await send(slow.address.replace(/^unix:/, ''), 'POST', '/fake/behave', {
        body: { event_interval_us: 20000 },
      });
      assert.equal(answer.status, 200, answer.text);
      await many(corral, 2); // one each: both are known then
      const known = (await corral.pool('p')).replicas.map((r) => r.tokens_per_s);
      assert.ok(known[0] > 0 && known[1] > 3 * known[0], JSON.stringify(known));
      for (const { status, headers } of await many(corral, 4)) {
        assert.equal(status, 200);
        assert.equal(headers['x-corral-replica'], replicas[1].id);
      }
    },
    { warm: ['p'] },
  ),
);
