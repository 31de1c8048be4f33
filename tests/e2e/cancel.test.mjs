// SPDX-License-Identifier: Apache-2.0
// A client that leaves, at every point of its request's way: the engine's connection is closed, the lease
// cools and ends, and nothing of it is left: no lease, no place in the queue, no file, no thread.
import assert from 'node:assert/strict';
import net from 'node:net';
import test from 'node:test';
import { fakeLlamaPool, fakePool, send, until, withCorral } from './harness.mjs';

const forever = { prefill_ms: 600000 };
const socketOf = (replica) => replica.address.replace(/^unix:/, '');

/** A request by hand on a connection of its own; heard() is what came so far. */
function client(url, body, { length = Buffer.byteLength(body), headers = '' } = {}) {
  const { hostname, port } = new URL(url);
  const socket = net.connect(Number(port), hostname);
  let heard = '';
  const ended = new Promise((resolve) => {
    socket.on('data', (d) => (heard += d));
    socket.on('error', () => {});
    socket.on('close', resolve);
  });
  socket.write(
    `POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n` +
      `${headers}Content-Length: ${length}\r\n\r\n${body}`,
  );
  return { socket, heard: () => heard, ended };
}

const chat = (model, fields) =>
  JSON.stringify({ model, messages: [{ role: 'user', content: 'Hello' }], max_tokens: 8, ...fields });

/** What the engine of each replica counted so far. */
async function counted(corral, id) {
  const { replicas } = await corral.pool(id);
  const all = await Promise.all(replicas.map((r) => send(socketOf(r), 'GET', '/fake/state')));
  const sum = (what) => all.reduce((n, { json }) => n + json[what], 0);
  return { cancelled: sum('cancelled'), requests: sum('requests') };
}

/** Waits until the engine noticed that `n` more were cancelled than `before`, and all of them are over. */
async function allGone(corral, id, before, n) {
  let now;
  await until(
    () => `${n} closed connection(s) in the engine: ${JSON.stringify([before, now])}`,
    async () => (now = await counted(corral, id)).cancelled >= before.cancelled + n,
  );
  assert.equal(now.cancelled, before.cancelled + n, 'no other one is closed');
  await until('no lease to be left', async () => (await corral.leases(id)) === 0);
  assert.equal((await corral.pool(id)).waiting, 0);
  assert.equal((await corral.chat(id)).status, 200, 'the next one is answered');
}

const inside = (corral, id, n = 1) =>
  until(`${n} to be in the engine`, async () => (await corral.leases(id)) === n);

// how the client leaves
const leaves = {
  'a close': (c) => c.socket.destroy(),
  'a reset': (c) => c.socket.resetAndDestroy(),
  'its own half closed': (c) => c.socket.end(), // docs/decisions/0010
};

// where it is then: the request, and what shows that it is there
const points = [
  [
    'in prefill, before the head',
    chat('p', { stream: true, fake: forever }),
    (corral) => inside(corral, 'p'),
  ],
  [
    'after the head, before the first event',
    chat('p', { stream: true, fake: { ...forever, prefill_head: 1 } }),
    (corral) => inside(corral, 'p'),
  ],
  [
    'in the stream',
    chat('p', { stream: true, fake: { fault: 'hang@3' } }),
    (corral, c) => until('three tokens', () => c.heard().includes('tok2')),
  ],
  ['of an answer in one piece, in prefill', chat('p', { fake: forever }), (corral) => inside(corral, 'p')],
  [
    'within an answer in one piece',
    chat('p', { fake: { fault: 'hang@body' } }),
    (corral, c) => until('half of it', () => c.heard().includes('choices')),
  ],
];

for (const [way, leave] of Object.entries(leaves)) {
  test(
    `a client that leaves by ${way}, at five points: the engine's connection is closed, the lease ends`,
    withCorral(
      () => ({ pools: [fakeLlamaPool('p')] }),
      async (corral) => {
        for (const [where, body, there] of points) {
          const before = await counted(corral, 'p');
          const c = client(corral.url, body);
          await there(corral, c);
          leave(c);
          await allGone(corral, 'p', before, 1).catch((e) => {
            throw new Error(`${where}: ${e.message}`);
          });
          await c.ended;
        }
      },
      { warm: ['p'] },
    ),
  );
}

test(
  'gone while it sends its body, and while it waits in the queue: no engine hears of it',
  withCorral(
    () => ({ pools: [fakeLlamaPool('p', [], { slots: 1 })] }),
    async (corral) => {
      const before = await counted(corral, 'p');
      const half = client(corral.url, chat('p', {}), { length: 100000 });
      const part = `{"prompt":"${'x'.repeat(300000)}`; // more than is kept in memory
      const large = client(corral.url, part, { length: 400000 });
      await until('both to arrive', async () => {
        const { json } = await corral.get('/v1/requests');
        return json.requests.filter((r) => r.state === 'reading').length === 2;
      });
      half.socket.destroy();
      large.socket.destroy();
      const holds = client(corral.url, chat('p', { fake: forever }));
      await inside(corral, 'p');
      const waits = ['', 'X-Corral-Priority: batch\r\n'].map((headers) =>
        client(corral.url, chat('p', { stream: true }), { headers }),
      );
      await until('two to wait', async () => (await corral.pool('p')).waiting === 2);
      for (const c of waits) c.socket.destroy();
      await until('none to wait', async () => (await corral.pool('p')).waiting === 0);
      const now = await counted(corral, 'p');
      assert.ok(now.requests - before.requests >= 1);
      holds.socket.destroy();
      await allGone(corral, 'p', before, 1);
      const { json } = await send(await corral.socketOf('p'), 'GET', '/fake/requests');
      const asked = json.filter((r) => r.path === '/v1/chat/completions').length;
      assert.equal(asked, 3, 'the first, the one that held the slot, and the last');
    },
    { warm: ['p'] },
  ),
);

test(
  'gone while the engine starts: nothing is sent to it once it is there',
  withCorral(
    () => ({ pools: [fakeLlamaPool('p', ['--ready-after-ms', 1500])] }),
    async (corral) => {
      const c = client(corral.url, chat('p', { stream: true }));
      await until('it to wait', async () => (await corral.pool('p')).waiting === 1);
      c.socket.destroy();
      await until('none to wait', async () => (await corral.pool('p')).waiting === 0);
      assert.equal((await corral.chat('p')).status, 200);
      const { json } = await send(await corral.socketOf('p'), 'GET', '/fake/requests');
      assert.equal(json.filter((r) => r.path === '/v1/chat/completions').length, 1);
      assert.equal(await corral.leases('p'), 0);
    },
    { leaks: false },
  ),
);

test(
  'gone while it does not read and its stream is held back: the engine is let go at once',
  withCorral(
    () => ({ pools: [fakeLlamaPool('p')] }),
    async (corral) => {
      const before = await counted(corral, 'p');
      const c = client(
        corral.url,
        chat('p', { stream: true, max_tokens: 100000, fake: { token_bytes: 10000, tokens: 100000 } }),
      );
      c.socket.pause();
      let made = -1;
      await until('the engine to stand still', async () => {
        const { json } = await send(await corral.socketOf('p'), 'GET', '/fake/state');
        const still = json.tokens > 0 && json.tokens === made;
        made = json.tokens;
        return still;
      });
      c.socket.destroy();
      await allGone(corral, 'p', before, 1);
    },
    { warm: ['p'] },
  ),
);

test(
  'gone while it is sent again: neither place nor lease is left, on the way and on the second replica',
  withCorral(
    () => ({ pools: [fakePool('p', [], { replicas: 2, slots: 1, cancel_grace: '100ms' })] }),
    async (corral) => {
      await until('both to be ready', async () =>
        (await corral.pool('p')).replicas.every((r) => r.state === 'ready'),
      );
      const { replicas } = await corral.pool('p');
      const behave = (i, body) => send(socketOf(replicas[i]), 'POST', '/fake/behave', { body });
      const before = await counted(corral, 'p');
      await behave(0, { status: 500, for_requests: 1 });
      await behave(1, { ...forever, for_requests: 1 });
      const second = client(corral.url, chat('p', { stream: true })); // 500, then in the other's prefill
      await until('it to be there', async () => (await corral.pool('p')).replicas[1].leases === 1);
      await behave(0, { status: 500, for_requests: 1 });
      const waits = client(corral.url, chat('p', { stream: true })); // 500, then it waits for the other
      await until('it to wait', async () => (await corral.pool('p')).waiting === 1);
      waits.socket.destroy();
      await until('none to wait', async () => (await corral.pool('p')).waiting === 0);
      second.socket.destroy();
      await allGone(corral, 'p', before, 1);
    },
    { warm: ['p'] },
  ),
);

test(
  'the lease of a client that left is cooling until its slot is idle',
  withCorral(
    () => ({ pools: [fakeLlamaPool('p', ['--slot-linger-ms', 1000], { slots: 1 })] }),
    async (corral) => {
      const before = await counted(corral, 'p');
      const c = client(corral.url, chat('p', { stream: true, fake: { fault: 'hang@3' } }));
      await until('three tokens', () => c.heard().includes('tok2'));
      const next = corral.chat('p');
      await until('the next to wait', async () => (await corral.pool('p')).waiting === 1);
      c.socket.destroy();
      await until('it to cool', async () => (await corral.pool('p')).cooling === 1);
      assert.equal((await corral.pool('p')).waiting, 1, 'a cooling slot is not granted');
      assert.equal((await next).status, 200);
      await allGone(corral, 'p', before, 1);
    },
    { warm: ['p'] },
  ),
);
