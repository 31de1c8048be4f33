// SPDX-License-Identifier: Apache-2.0
// Leases under load: clients that leave, queues, engines that close their connections or are killed.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import test from 'node:test';
import {
  fakeLlamaPool,
  fakePool,
  model,
  realPool,
  send,
  until,
  withCorral,
  withDeadline,
} from './harness.mjs';

const slotsBusy = async (socket) =>
  (await send(socket, 'GET', '/slots')).json.filter((s) => s.is_processing).length;

/** The processor time a process has used, in ticks of 10 ms. An engine amid a batch answers nothing. */
function cpuTicks(pid) {
  const text = fs.readFileSync(`/proc/${pid}/stat`, 'latin1');
  return Number(text.slice(text.lastIndexOf(')') + 2).split(' ')[11]);
}

test(
  'aborted while decoding: the slot of the real engine is idle soon, and the lease ends',
  withCorral(
    () => ({ pools: [realPool('tiny', { slots: 1, ctx: 8192 })] }),
    async (corral) => {
      const socket = await corral.socketOf('tiny');
      for (const path of ['/v1/chat/completions', '/v1/messages', '/completion']) {
        const gone = new AbortController();
        let heard = 0;
        const left = corral
          .post(
            path,
            {
              model: 'tiny',
              messages: [{ role: 'user', content: 'Hello' }],
              prompt: 'Hello',
              stream: true,
              max_tokens: 8000,
              n_predict: 8000,
              ignore_eos: true,
            },
            {
              signal: gone.signal,
              onData: () => {
                if (++heard === 3) gone.abort();
              },
            },
          )
          .catch((e) => e.name);
        await withDeadline(left, 'three pieces of the stream');
        assert.ok(heard >= 3, path);
        await until(`idle slots after ${path}`, async () => (await slotsBusy(socket)) === 0, 5000);
        await until(`the lease of ${path} to end`, async () => (await corral.leases('tiny')) === 0, 5000);
      }
      assert.equal((await corral.chat('tiny')).status, 200);
    },
    { warm: ['tiny'] },
  ),
);

test(
  'aborted in prefill: the lease cools until the real engine is idle, then it is free',
  withCorral(
    () => ({
      pools: [
        realPool('slow', {
          model: model('random', '--layers', '4', '--embd', '256'),
          slots: 1,
          ctx: 8192,
          args: ['-b', '8192', '-ub', '512'], // one batch: the engine looks up only after it
        }),
      ],
    }),
    async (corral) => {
      const socket = await corral.socketOf('slow');
      const { pid } = corral.engineOf('slow');
      const before = cpuTicks(pid);
      const gone = new AbortController();
      const left = corral
        .post(
          '/completion',
          { model: 'slow', prompt: 'words and words '.repeat(480), n_predict: 1, stream: true },
          { signal: gone.signal },
        )
        .catch((e) => e.name);
      await until('the engine to work on it', () => cpuTicks(pid) >= before + 20);
      gone.abort();
      assert.equal(await left, 'AbortError');
      const at = async () => {
        const figure = await corral.figures();
        return {
          cooling: figure('corral_pool_slots', { pool: 'slow', state: 'cooling' }),
          leases: figure('corral_leases', { pool: 'slow' }),
          free: figure('corral_pool_slots', { pool: 'slow', state: 'free' }),
        };
      };
      let now;
      await until('the lease to be cooling', async () => (now = await at()).cooling === 1);
      assert.deepEqual(now, { cooling: 1, leases: 1, free: 0 }, 'a cooling lease is one still');
      await until(
        'the lease to end',
        async () => {
          now = await at();
          if (now.leases) assert.deepEqual(now, { cooling: 1, leases: 1, free: 0 });
          return now.leases === 0;
        },
        60000,
      );
      assert.equal(await slotsBusy(socket), 0, 'no lease ends while its slot is busy');
      assert.deepEqual(now, { cooling: 0, leases: 0, free: 1 });
    },
    { warm: ['slow'] },
  ),
);

test(
  '`corral ps` under load agrees with /metrics',
  withCorral(
    () => ({
      workers: 2,
      pools: [
        fakeLlamaPool('busy', [], { slots: 8, queue: { capacity: 64 } }),
        fakePool('idle', [], { slots: 2 }),
      ],
    }),
    async (corral) => {
      const clients = Array.from({ length: 20 }, () => {
        const gone = new AbortController();
        const ended = corral
          .chat('busy', { stream: true, fake: { prefill_ms: 600000 } }, { signal: gone.signal })
          .catch((e) => e.name);
        return { gone, ended };
      });
      const figures = async () => {
        const figure = await corral.figures();
        return {
          leases: figure('corral_leases', { pool: 'busy' }),
          waiting: figure('corral_requests_waiting', { pool: 'busy', priority: 'interactive' }),
          free: figure('corral_pool_slots', { pool: 'busy', state: 'free' }),
        };
      };
      for (const left of [20, 14, 9, 8, 3, 0]) {
        for (const { gone } of clients.splice(left)) gone.abort();
        const leases = Math.min(left, 8);
        const want = { leases, waiting: left - leases, free: 8 - leases };
        let now;
        await until(
          () => `${JSON.stringify(want)}, not ${JSON.stringify(now)}`,
          async () => JSON.stringify((now = await figures())) === JSON.stringify(want),
        );
        const { code, stdout } = await corral.cli('ps', '--json');
        assert.equal(code, 0);
        const pool = JSON.parse(stdout).pools.find((p) => p.id === 'busy');
        assert.deepEqual({ leases: pool.leases, waiting: pool.waiting, free: pool.slots_free }, want);
        const own = pool.replicas.reduce((sum, r) => sum + r.leases, 0);
        assert.equal(own, want.leases, 'the replicas say the same as their pool');
        const table = (await corral.cli('ps')).stdout.split('\n').find((l) => l.startsWith('busy'));
        assert.match(table, new RegExp(` ${want.leases}/8 +${want.waiting}/64 `));
        assert.deepEqual(await figures(), want, 'nothing moved meanwhile');
      }
      const answers = await Promise.all(
        Array.from({ length: 20 }, () => corral.chat('busy', { stream: true })),
      );
      assert.deepEqual([...new Set(answers.map((a) => a.status))], [200]);
      assert.ok(answers.every((a) => a.complete && a.text.includes('[DONE]')));
    },
    { warm: ['busy', 'idle'], leaks: false },
  ),
);

/** 'fine' for a whole answer with the fake engine's second token in it, else what came. */
const inShort = (a) => (a.status === 200 && a.complete && /tok1/.test(a.text) ? 'fine' : a.text);

for (const flags of [
  ['--idle-close-ms', 1],
  ['--max-requests', 1],
]) {
  test(
    `an engine with ${flags.join(' ')}: 200 requests in turn and 50 at once, none fails`,
    withCorral(
      () => ({ pools: [fakePool('fake', flags, { slots: 16, queue: { capacity: 64 } })] }),
      async (corral) => {
        const said = new Map();
        const ask = async (i) => {
          const what = inShort(await corral.chat('fake', { stream: i % 2 === 0, max_tokens: 2 }));
          said.set(what, (said.get(what) ?? 0) + 1);
        };
        for (let i = 0; i < 200; i++) await ask(i);
        await Promise.all(Array.from({ length: 50 }, (_, i) => ask(i)));
        assert.deepEqual([...said], [['fine', 250]]);
        await until('no lease to be left', async () => (await corral.leases('fake')) === 0);
      },
      { warm: ['fake'] },
    ),
  );
}

test(
  '40 clients on one engine that is killed twice while they wait without a byte: all are answered',
  withCorral(
    () => ({ pools: [fakePool('fake', [], { slots: 40 })] }),
    async (corral) => {
      const clients = Array.from({ length: 40 }, (_, i) =>
        corral.chat('fake', { stream: i % 2 === 0, max_tokens: 2, fake: { prefill_ms: 3000 } }),
      );
      let socket = await corral.socketOf('fake');
      for (let kill = 0; kill < 2; kill++) {
        const inside = async () => {
          socket = (await corral.pool('fake')).replicas[0]?.address?.replace(/^unix:/, '') ?? socket;
          const recorded = await send(socket, 'GET', '/fake/requests').catch(() => null);
          return recorded?.json?.filter((r) => r.body.includes('prefill_ms')).length === 40;
        };
        await until('all 40 to be in the engine', inside, 30000);
        process.kill(corral.engineOf('fake').pid, 'SIGKILL');
      }
      const answers = await Promise.all(clients);
      assert.deepEqual([...new Set(answers.map(inShort))], ['fine']);
      await until('no lease to be left', async () => (await corral.leases('fake')) === 0);
    },
    { warm: ['fake'], leaks: false },
  ),
);
