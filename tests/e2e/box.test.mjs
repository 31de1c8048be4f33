// SPDX-License-Identifier: Apache-2.0
//
// Ten models of the real llama-server share a 24 GB and a 12 GB card that hold three or four of them, while
// clients ask for all of them: nothing is over-committed, nothing busy is stopped, everybody is answered. The
// cards are a stub of NVIDIA's library that books to each engine what its pool says it takes.
// CORRAL_TEST_SLOW=1 goes on for five minutes.

import assert from 'node:assert/strict';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { test } from 'node:test';

import { asProgram, isAlive, model, realPool, stubDriver, until, withCorral } from './harness.mjs';

const A = 'GPU-aaaa1111-0000-0000-0000-000000000000';
const B = 'GPU-bbbb2222-0000-0000-0000-000000000000';
const capacity = { [A]: 24, [B]: 12 };
const card = (uuid, bus) =>
  `device|${uuid}|Stub|00000000:0${bus}:00.0|${capacity[uuid] * 1024}|0|25|51|8.9|0`;
const sizes = { m0: 6, m1: 8, m2: 10, m3: 5, m4: 12, m5: 7, m6: 9, m7: 20, m8: 4, m9: 11 };
const ids = Object.keys(sizes);
const seed = Number(process.env.CORRAL_TEST_SEED ?? 20261128);
const seconds = process.env.CORRAL_TEST_SLOW ? 300 : 15;
const clients = 6;

/** xorshift32: the same requests in the same order for the same seed. */
function random(state) {
  let x = state | 1;
  return (n) => {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    return (x >>> 0) % n;
  };
}

/** What the engines that live hold of each card, by what their environments name. */
function held(corral) {
  const sum = { [A]: 0, [B]: 0 };
  for (const { pid, argv } of corral.engines()) {
    const id = argv[argv.indexOf('--alias') + 1];
    let environ = '';
    try {
      environ = fs.readFileSync(`/proc/${pid}/environ`, 'latin1');
    } catch {
      continue; // it ended meanwhile
    }
    const devices = /CUDA_VISIBLE_DEVICES=([^\0]*)/.exec(environ)?.[1].split(',').filter(Boolean) ?? [];
    for (const d of devices) sum[d] += sizes[id];
  }
  return sum;
}

const warm = { pools: [realPool('warm')] };
const unload = async (corral) => {
  assert.equal((await corral.post('/v1/pools/warm/stop', {})).status, 202);
  await until('it to be gone', () => corral.engines().length === 0);
};
// Before threads are counted: its fetch starts some that stay.
test('the package is there', withCorral(warm, unload, { warm: ['warm'] }));

const programs = fs.mkdtempSync(path.join(os.tmpdir(), 'crl-box-'));
const pool = (id) => ({
  id,
  model: model('random'),
  memory: `${sizes[id]}GiB`,
  slots: 2,
  ctx: 512,
  engine: { mode: 'binary', path: path.join(programs, 'llama-server'), args: ['-t', '1'] },
});

const driver = stubDriver(
  card(A, 1),
  card(B, 2),
  'account',
  ...ids.map((id) => `engine|--alias ${id} |${sizes[id] * 1024}`),
);

test(
  `ten models share a box of two cards (seed ${seed}, ${seconds} s)`,
  withCorral(
    {
      swap: { max_wait: '2s' },
      starting_max: 4,
      pools: ids.map(pool),
    },
    async (corral) => {
      const program = asProgram(programs);
      if (program !== path.join(programs, 'llama-server'))
        fs.symlinkSync(program, path.join(programs, 'llama-server'));
      let over = false;
      const counts = {};
      const problems = [];
      const one = async (n) => {
        const next = random(seed + n * 7919);
        while (!over) {
          const id = ids[next(next(3) ? 4 : ids.length)]; // most ask for the first four
          const stream = next(2) === 0;
          const r = await corral.chat(id, { max_tokens: 4 + next(12), stream });
          counts[r.status] = (counts[r.status] ?? 0) + 1;
          if (r.status !== 200 || (stream && !r.text.includes('data: [DONE]')))
            problems.push({ id, status: r.status, text: r.json?.error?.message ?? r.text.slice(-300) });
        }
      };
      const watch = async () => {
        let samples = 0;
        while (!over) {
          const sum = held(corral);
          for (const uuid of [A, B])
            if (sum[uuid] > capacity[uuid]) problems.push({ uuid, held: sum[uuid], of: capacity[uuid] });
          samples++;
          await corral.get('/v1/devices');
        }
        return samples;
      };
      setTimeout(() => (over = true), seconds * 1000);
      const [samples] = await Promise.all([watch(), ...Array.from({ length: clients }, (_, n) => one(n))]);
      assert.deepEqual(problems.slice(0, 5), [], `${problems.length} problems`);
      assert.deepEqual(Object.keys(counts), ['200']);
      assert.ok(samples > seconds, `${samples} samples`);

      const told = corral.log().match(/"action":"evict"[^\n]*leaves to make room for/g) ?? [];
      const { text } = await corral.get('/metrics');
      const counted = [...text.matchAll(/^corral_evictions_total\{[^}]*\} (\d+)/gm)].map((m) => Number(m[1]));
      assert.equal(counted.reduce((a, b) => a + b, 0), told.length, 'every eviction is told');
      assert.ok(told.length > 0, 'there were some');

      const id = ids.find((i) => corral.engines().some((e) => e.argv.includes(i)));
      const { pid } = corral.engineOf(id);
      process.kill(pid, 'SIGKILL');
      await until('it to be gone', () => !isAlive(pid));
      assert.equal((await corral.chat('m7')).status, 200, 'its memory came back for the largest');
      console.log(`# ${counts[200]} answers, ${told.length} evictions, ${samples} looks`);
      for (const i of ids) await corral.post(`/v1/pools/${i}/stop`, {});
      await until('the engines to be gone', () => corral.engines().length === 0);
    },
    { env: driver.env },
  ),
);
