// SPDX-License-Identifier: Apache-2.0
// Engines that die, hang on, or lie; and the end of it all.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import test from 'node:test';
import { fakeLlamaPool, fakePool, isAlive, realPool, sse, until, withCorral } from './harness.mjs';

test(
  'a real engine killed mid-stream: an error event, no [DONE], not ended as complete',
  withCorral(
    () => ({ pools: [realPool('tiny', { ctx: 8192 })] }),
    async (corral) => {
      const { pid } = corral.engineOf('tiny');
      let killed = false;
      // More than all buffers between the engine and a client that is late hold: it cannot be done before.
      const answer = await corral.chat(
        'tiny',
        { stream: true, max_tokens: 8000, ignore_eos: true, logprobs: true, top_logprobs: 20 },
        {
          onData: (d) => {
            if (!killed && d.includes('"content"')) {
              killed = true;
              process.kill(pid, 'SIGKILL');
            }
          },
        },
      );
      assert.ok(killed);
      const events = sse(answer.text);
      const last = JSON.parse(events.at(-1).data);
      assert.equal(last.error.corral.code, 'WORKER_RESET');
      assert.ok(!answer.text.includes('[DONE]'));
      assert.equal(answer.complete, false);
      assert.equal((await corral.chat('tiny')).status, 200, 'the engine is back');
    },
    { warm: ['tiny'], leaks: false },
  ),
);

for (const fault of ['signal:9', 'exit:3', 'close', 'reset']) {
  test(
    `a fake engine that does ${fault} after three tokens: three tokens, then the error event`,
    withCorral(
      () => ({ pools: [fakePool('fake')] }),
      async (corral) => {
        const answer = await corral.chat('fake', {
          stream: true,
          max_tokens: 9,
          fake: { fault: `${fault}@3` },
        });
        const datas = sse(answer.text).map((e) => e.data);
        const tokens = datas.filter((d) => /tok\d/.test(d));
        assert.equal(tokens.length, 3, answer.text);
        assert.equal(JSON.parse(datas.at(-1)).error.corral.code, 'WORKER_RESET');
        assert.ok(!datas.includes('[DONE]'));
        assert.equal(answer.complete, false);
        await until('the lease to end', async () => (await corral.leases('fake')) === 0);
      },
      { warm: ['fake'], leaks: false },
    ),
  );
}

test(
  'an engine killed before the first byte: answered after all',
  withCorral(
    () => ({ pools: [fakePool('fake', ['--prefill-ms', 1500])] }),
    async (corral) => {
      const before = corral.engineOf('fake').pid;
      const answer = corral.chat('fake', { stream: true });
      await until('the request to be in the engine', async () => (await corral.leases('fake')) === 1);
      process.kill(before, 'SIGKILL');
      const { status, text, complete } = await answer;
      assert.equal(status, 200, text);
      assert.ok(complete && text.includes('[DONE]'));
      assert.notEqual(corral.engineOf('fake').pid, before);
    },
    { warm: ['fake'], leaks: false },
  ),
);

test(
  'an engine that ignores SIGTERM holds up nobody else',
  withCorral(
    () => ({ pools: [fakePool('stubborn', ['--ignore-term', 1]), fakePool('fine')] }),
    async (corral) => {
      const { pid } = corral.engineOf('stubborn');
      const stop = await corral.post('/v1/pools/stubborn/stop', {});
      assert.equal(stop.status, 202);
      assert.equal((await corral.chat('fine')).status, 200);
      assert.ok(isAlive(pid), 'the stubborn one was still there while the other answered');
      await until('the stubborn engine to be killed', () => !isAlive(pid), 15000);
    },
    { warm: ['stubborn', 'fine'], leaks: false },
  ),
);

test(
  'SIGTERM leaves no process: a grandchild in a session of its own included',
  withCorral(
    () => ({ pools: [fakePool('a', ['--grandchild', 1]), fakePool('b', ['--ignore-term', 1])] }),
    async (corral) => {
      const pids = corral.processes().map((p) => p.pid);
      assert.ok(pids.length >= 6, 'two daemons, two keepers, two engines at least');
      await corral.stop();
      assert.deepEqual(pids.filter(isAlive), []);
      assert.deepEqual(
        fs.readdirSync(corral.runtimeDir, { recursive: true }).filter((n) => n.endsWith('.sock')),
        [],
      );
    },
    { warm: ['a', 'b'], leaks: false },
  ),
);

test(
  'SIGTERM while a stream runs: the stream is told, nothing is left',
  withCorral(
    () => ({ pools: [fakePool('slow', ['--event-interval-us', 20000, '--tokens', 1000000])] }),
    async (corral) => {
      let asked = false;
      const answer = await corral.chat(
        'slow',
        { stream: true, max_tokens: 1000000 },
        {
          onData: () => {
            if (!asked) asked = process.kill(corral.pid, 'SIGTERM');
          },
        },
      );
      assert.equal(answer.status, 200);
      assert.ok(!answer.text.includes('[DONE]'));
      assert.equal(answer.complete, false);
    },
    { warm: ['slow'], leaks: false },
  ),
);

test(
  'a client that leaves in prefill: the lease is cooling until the engine shows the slot idle',
  withCorral(
    () => ({
      pools: [fakeLlamaPool('lag', ['--slot-linger-ms', 1500], { slots: 1 })],
    }),
    async (corral) => {
      const gone = new AbortController();
      const leaving = fetch(`${corral.url}/v1/chat/completions`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        signal: gone.signal,
        body: JSON.stringify({ model: 'lag', messages: [], stream: true, fake: { prefill_ms: 60000 } }),
      }).catch((e) => e.name);
      await until(
        'the request to be in the engine',
        async () => (await corral.leases('lag')) === 1,
        60000,
      );
      gone.abort();
      assert.equal(await leaving, 'AbortError');
      assert.equal(await corral.leases('lag'), 1, 'still counted while the engine is busy with it');
      await until('the lease to end', async () => (await corral.leases('lag')) === 0, 15000);
    },
    { warm: ['lag'], leaks: false },
  ),
);

test(
  'many requests leave nothing behind',
  withCorral(
    () => ({ pools: [fakePool('fake', [], { slots: 4 })] }),
    async (corral) => {
      const answers = await Promise.all(
        Array.from({ length: 60 }, (_, i) => corral.chat('fake', { stream: i % 2 === 0 })),
      );
      assert.deepEqual([...new Set(answers.map((a) => a.status))], [200]);
      const { text } = await corral.get('/metrics');
      assert.match(text, /corral_leases\{pool="fake"\} 0\b/);
    },
    { warm: ['fake'] },
  ),
);

for (const [what, victims] of [
  ['orchestratord', ['serve']],
  ['engine-provisioner', ['engine-provisioner']],
  ['both daemons', ['serve', 'engine-provisioner']],
]) {
  test(
    `kill -9 of ${what}: the engine keeps its PID and serves on`,
    withCorral(
      () => ({ pools: [fakeLlamaPool('kept')] }),
      async (corral) => {
        const engine = corral.engineOf('kept').pid;
        const daemons = corral.processes().filter((p) => p.daemon);
        const dead = daemons.filter((p) => victims.some((v) => p.argv.some((word) => word.endsWith(v))));
        assert.equal(dead.length, victims.length, JSON.stringify(daemons.map((p) => p.argv)));
        const exited = corral.exited;
        for (const { pid } of dead) process.kill(pid, 'SIGKILL');
        if (victims.includes('serve')) {
          await exited;
          await corral.start();
        }
        assert.equal((await corral.chat('kept')).status, 200);
        await corral.ready('kept');
        assert.equal(corral.engineOf('kept').pid, engine);
        await until('a provisioner to be there again', () =>
          corral.processes().some((p) => p.argv[0]?.endsWith('engine-provisioner')),
        );
      },
      { warm: ['kept'], leaks: false },
    ),
  );
}
