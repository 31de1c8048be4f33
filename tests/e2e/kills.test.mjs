// SPDX-License-Identifier: Apache-2.0
// A short run of the kill loop: every kind of kill once. kills.mjs by hand does hundreds.
import assert from 'node:assert/strict';
import test from 'node:test';
import { killLoop } from './kills.mjs';

const title = 'kill -9 of everything, alone and together, under load: nothing is lost, doubled or left over';
test(title, async (t) => {
  const seed = Number(process.env.CORRAL_TEST_SEED ?? Date.now() % 1000000);
  t.diagnostic(`seed ${seed}`);
  const { kills, problems, text } = await killLoop({ kills: 12, seed });
  t.diagnostic(`\n${text}`);
  assert.deepEqual(problems, [], `seed ${seed}`);
  assert.equal(kills, 12);
});
