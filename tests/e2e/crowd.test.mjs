// SPDX-License-Identifier: Apache-2.0
// A crowd of clients while engines are killed again and again: who got no byte is answered, who got some sees
// that the rest is missing. CORRAL_TEST_SLOW=1 runs the whole minute of it.
import assert from 'node:assert/strict';
import http from 'node:http';
import test from 'node:test';
import { fakePool, until, withCorral } from './harness.mjs';

const kills = process.env.CORRAL_TEST_SLOW ? 60 : 6;
const every = 1000; // ms between two kills: what the test is about
const clients = 100;
const pace = ['--prefill-ms', 40, '--event-interval-us', 20000];

/** One request on a connection that is kept: what became of it. */
function ask(url, agent, body) {
  return new Promise((resolve) => {
    const text = JSON.stringify(body);
    const headers = { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) };
    const req = http.request(`${url}/v1/chat/completions`, { method: 'POST', agent, headers }, (res) => {
      const parts = [];
      const done = () =>
        resolve({ status: res.statusCode, complete: res.complete, text: Buffer.concat(parts).toString() });
      res.on('data', (d) => parts.push(d));
      res.on('end', done);
      res.on('error', done); // cut off: complete is false
    });
    req.on('error', (e) => resolve({ status: 0, complete: false, text: e.code ?? e.message }));
    req.end(text);
  });
}

/**
 * 'whole', 'cut' where it is to be seen that an answer broke off, 'failed' without a byte of it, and 'silent'
 * where a client would take a part for the whole.
 */
function verdict({ status, complete, text }, stream, tokens) {
  if (status !== 200) return 'failed';
  const last = `tok${tokens - 1}`;
  if (!stream) return complete ? (text.includes(last) ? 'whole' : 'silent') : 'cut';
  const ended = text.includes('data: [DONE]');
  if (complete) return ended && text.includes(last) && !text.includes('"error"') ? 'whole' : 'silent';
  return !ended && /data: \{"error":/.test(text) ? 'cut' : 'silent';
}

/** Asks in turn until `over`, half of the clients for streams; counts by verdict. */
async function client(corral, index, over, counts, samples) {
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
  for (let i = index; !over(); i++) {
    const stream = i % 2 === 0;
    const tokens = 4 + (i % 12);
    const messages = [{ role: 'user', content: `${index}` }];
    const what = { model: 'p', messages, max_tokens: tokens, stream };
    const answer = await ask(corral.url, agent, what);
    const said = verdict(answer, stream, tokens);
    counts[said] = (counts[said] ?? 0) + 1;
    if (said === 'failed' || said === 'silent') samples.push({ stream, ...answer });
  }
  agent.destroy();
}

for (const [replicas, loads] of [
  [2, 0],
  [1, 300], // ms: all wait while the only one is started again
]) {
  test(
    `${clients} clients, ${replicas} replica(s), one killed every second, ${kills} times: ` +
      'none fails without a byte, none ends as if it were whole',
    withCorral(
      () => ({
        pools: [
          fakePool('p', [...pace, '--ready-after-ms', loads], {
            replicas,
            slots: clients / 2,
            queue: { capacity: clients },
          }),
        ],
      }),
      async (corral, t) => {
        await until('all to be ready', async () =>
          (await corral.pool('p')).replicas.every((r) => r.state === 'ready'),
        );
        const before = corral.counts();
        const counts = { whole: 0, cut: 0, failed: 0, silent: 0 };
        const samples = [];
        let killed = 0;
        const over = () => killed === kills;
        const all = Array.from({ length: clients }, (_, i) => client(corral, i, over, counts, samples));
        await new Promise((resolve) => {
          const timer = setInterval(() => {
            const engines = corral.engines().sort((a, b) => a.pid - b.pid);
            if (!engines.length) return; // it is just being started again
            process.kill(engines[0].pid, 'SIGKILL'); // the oldest
            if (++killed < kills) return;
            clearInterval(timer);
            resolve();
          }, every);
        });
        await Promise.all(all);
        t.diagnostic(JSON.stringify({ replicas, kills, ...counts }));
        assert.deepEqual(samples.slice(0, 5), []);
        assert.ok(counts.whole > clients && counts.cut > 0, JSON.stringify(counts));
        await until('no lease to be left', async () => (await corral.leases('p')) === 0);
        const { replicas: now } = await corral.pool('p');
        assert.ok(now.every((r) => r.circuit === 'closed'));
        assert.ok(
          now.every((r) => r.state !== 'failed' && r.state !== 'backoff'),
          'ended from outside: no backoff, no breaker',
        );
        await corral.settled(before);
      },
      { warm: ['p'], leaks: false },
    ),
  );
}
