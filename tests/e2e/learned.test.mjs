// SPDX-License-Identifier: Apache-2.0
//
// What an engine takes is learned from the engine: the real llama-server's own words, and what the driver (a
// stub of NVIDIA's library) says its processes hold.

import assert from 'node:assert/strict';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { test } from 'node:test';

import { asProgram, model, realPool, stubDriver, until, withCorral } from './harness.mjs';

const ledger = (corral) => path.join(corral.stateDir, 'learned.db');
const logOf = (corral, id) => fs.readFileSync(path.join(corral.stateDir, 'log', `${id}.log`), 'utf8');

/** Bytes of the buffers of one kind that the engine told, in the log of its last start. */
function told(log, kind) {
  const mine = log.slice(log.lastIndexOf('--- corral: '));
  const lines = [...mine.matchAll(/: +\S+ +(\S+) buffer size = +(\d+)\.(\d\d) MiB$/gm)];
  return lines
    .filter((l) => l[1] === kind)
    .reduce((sum, l) => sum + Number(l[2]) * 1048576 + Math.floor((Number(l[3]) * 1048576) / 100), 0);
}

async function estimate(corral, pool, ...args) {
  const words = ['--ctx', pool.ctx, '--slots', pool.slots, '--config', corral.configFile, ...args];
  return corral.cli('estimate', pool.model, ...words.map(String));
}

/** Its first request may be over before the node has heard of it. */
const ready = (corral, id) =>
  until('it to be ready', async () => (await corral.pool(id)).replicas[0]?.state === 'ready');

async function stop(corral, id) {
  assert.equal((await corral.post(`/v1/pools/${id}/stop`, {})).status, 202);
  await until('it to be gone', () => corral.engines().length === 0);
}

async function startAgain(corral, id) {
  assert.equal((await corral.post(`/v1/pools/${id}/start`, {})).status, 202);
  assert.equal((await corral.chat(id)).status, 200);
}

async function sourceOf(corral, id) {
  const { json } = await corral.get(`/v1/explain?pool=${id}`);
  return json.need.source;
}

{
  const pool = realPool('seen', { ctx: 1024, slots: 2 });
  test(
    'what llama-server says at its start is what the next estimate and the next plan say',
    withCorral({ pools: [pool] }, async (corral) => {
      const before = await estimate(corral, pool, '--devices', 'cpu', '--source', 'learned');
      assert.equal(before.code, 1, before.stdout);
      assert.match(before.stderr, /nothing was learned yet of this model with 2 slots of 1024 tokens/);
      assert.match(before.stderr, /once a pool of it was ready/);
      assert.equal(await sourceOf(corral, 'seen'), 'formula');

      assert.equal((await corral.chat('seen')).status, 200);
      await ready(corral, 'seen');
      await stop(corral, 'seen');
      const log = logOf(corral, 'seen-0');
      const kinds = { weights_bytes: 'model', kv_bytes: 'KV', compute_bytes: 'compute' };
      for (const source of ['learned', 'auto']) {
        const now = await estimate(corral, pool, '--devices', 'cpu', '--source', source, '--json');
        assert.equal(now.code, 0, now.stderr);
        const e = JSON.parse(now.stdout);
        assert.equal(e.source, 'learned');
        assert.equal(e.confidence, 'high');
        assert.ok(e.error_bound <= 0.01 && e.engine_version, now.stdout);
        for (const [field, kind] of Object.entries(kinds)) {
          assert.ok(e[field] > 0, field);
          assert.equal(e[field], told(log, kind), field);
        }
      }
      const text = (await estimate(corral, pool, '--devices', 'cpu')).stdout;
      assert.match(text, /learned from engine \S+ at \S+, within 1\.0 % \(confidence high\)/);

      // of another context nothing is known, and nothing is made up
      const other = await estimate(corral, { ...pool, ctx: 2048 }, '--devices', 'cpu', '--source', 'learned');
      assert.equal(other.code, 1);
      const formula = await estimate(corral, pool, '--devices', 'cpu', '--source', 'formula', '--json');
      assert.equal(JSON.parse(formula.stdout).source, 'formula');

      await until('the plan to know', async () => (await sourceOf(corral, 'seen')) === 'learned');
      const plan = await corral.cli('plan', '--config', corral.configFile);
      assert.match(plan.stdout, /\(learned, dense, within 1 %\)/);
      await startAgain(corral, 'seen');
      const again = logOf(corral, 'seen-0').slice(log.length);
      assert.equal(told(again, 'model'), 0, 'what is known already is not asked for again');
      await stop(corral, 'seen');
    }),
  );
}

{
  const pool = realPool('own', { ctx: 1024, slots: 2 });
  pool.engine.args.push('-lv', '2');
  test(
    'a pool that says itself how much its engine tells is left alone: nothing is learned',
    withCorral({ pools: [pool] }, async (corral) => {
      assert.equal((await corral.chat('own')).status, 200);
      await ready(corral, 'own');
      await stop(corral, 'own');
      assert.equal(told(logOf(corral, 'own-0'), 'model'), 0);
      assert.ok(!fs.existsSync(ledger(corral)));
    }),
  );
}

{
  const pool = realPool('seen', { ctx: 1024, slots: 2 });
  test(
    'a ledger that is damaged is moved aside, told once, and never keeps an engine from starting',
    withCorral({ pools: [pool] }, async (corral) => {
      fs.writeFileSync(ledger(corral), 'no database at all. '.repeat(100));
      const broken = await estimate(corral, pool, '--devices', 'cpu', '--source', 'learned');
      assert.equal(broken.code, 1);
      assert.match(broken.stderr, /learned\.db is damaged/);
      assert.equal((await corral.chat('seen')).status, 200);
      await ready(corral, 'seen');
      await stop(corral, 'seen');
      assert.ok(fs.existsSync(`${ledger(corral)}.corrupt-1`));
      assert.match(corral.log(), /damaged or no ledger of ours; it is moved to \S+learned\.db\.corrupt-1/);
      const now = await estimate(corral, pool, '--devices', 'cpu', '--source', 'learned');
      assert.equal(now.code, 0, now.stderr);
    }),
  );
}

{
  const programs = fs.mkdtempSync(path.join(os.tmpdir(), 'crl-learned-'));
  const lie = [
    'load_tensors:   CPU_Mapped model buffer size =     0.01 MiB',
    'llama_context: constructing llama_context',
    'sched_reserve:        CPU compute buffer size =     0.01 MiB',
    'srv  llama_server: model loaded',
  ];
  const liar = path.join(programs, 'liar');
  const pool = { id: 'liar', model: model('random'), ctx: 512, slots: 2 };
  pool.engine = { mode: 'binary', path: liar, args: ['-t', '1'] };
  test(
    'what cannot be is not believed: weights that are smaller than the file says',
    withCorral({ pools: [pool] }, async (corral) => {
      const program = asProgram(programs);
      const say = lie.map((line) => `  echo '${line}'`).join('\n');
      const text = `#!/bin/sh\ncase "$*" in *--host*)\n${say}\nesac\nexec '${program}' "$@"\n`;
      fs.writeFileSync(liar, text, { mode: 0o755 });
      assert.equal((await corral.chat('liar')).status, 200);
      await ready(corral, 'liar');
      await stop(corral, 'liar');
      assert.equal(told(logOf(corral, 'liar-0').split('model loaded')[0], 'model'), 10485);
      assert.ok(!fs.existsSync(ledger(corral)));
      assert.equal(await sourceOf(corral, 'liar'), 'formula');
      fs.rmSync(programs, { recursive: true });
    }),
  );
}

{
  const GPU = 'GPU-aaaa1111-0000-0000-0000-000000000000';
  const MIB = 700;
  const driver = stubDriver(
    `device|${GPU}|Stub|00000000:01:00.0|24576|0|25|51|8.9|0`,
    'account',
    `engine|--alias card |${MIB}`,
  );
  const programs = fs.mkdtempSync(path.join(os.tmpdir(), 'crl-learned-'));
  const pool = { id: 'card', model: model('random'), ctx: 512, slots: 2 };
  pool.engine = { mode: 'binary', path: path.join(programs, 'llama-server'), args: ['-t', '1'] };
  test(
    'what the driver says the engine holds of a card is what is learned of the card',
    withCorral(
      { pools: [pool] },
      async (corral) => {
        const program = asProgram(programs);
        if (program !== pool.engine.path) fs.symlinkSync(program, pool.engine.path);
        assert.equal((await corral.chat('card')).status, 200);
        let e = {};
        await until('the driver to have told', async () => {
          const r = await estimate(corral, pool, '--devices', 1, '--source', 'learned', '--json');
          e = r.code === 0 ? JSON.parse(r.stdout) : {};
          return r.code === 0;
        });
        assert.equal(e.source, 'learned');
        assert.equal(e.per_device[0].total_bytes, MIB * 1048576);
        await until('the plan to know', async () => (await sourceOf(corral, 'card')) === 'learned');
        const { json } = await corral.get('/v1/explain?pool=card');
        assert.equal(json.need.total_bytes, MIB * 1048576);
        assert.match(corral.log(), /The engine of card takes 700 MiB of memory where the formula said/);
        await stop(corral, 'card');
        await startAgain(corral, 'card');
        assert.equal(corral.log().match(/where the formula said/g).length, 1, 'said once');
        await stop(corral, 'card');
        fs.rmSync(programs, { recursive: true });
      },
      { env: driver.env },
    ),
  );
}
