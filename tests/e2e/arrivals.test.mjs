// SPDX-License-Identifier: Apache-2.0
// How connections reach the data loops: each loop has its share, whatever way they arrive.
import assert from 'node:assert/strict';
import net from 'node:net';
import test from 'node:test';
import { fakePool, until, withCorral, withDeadline } from './harness.mjs';

const WORKERS = 4;
const CONNECTIONS = 64;

/** One connection that is kept: it has asked once, and was answered. */
function keptConnection(url) {
  const { hostname, port } = new URL(url);
  const socket = net.connect(Number(port), hostname);
  const answered = new Promise((resolve, reject) => {
    socket.once('data', (d) => resolve(d.toString('latin1').split('\r\n')[0]));
    socket.once('error', reject);
  });
  socket.write('GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n');
  return { socket, answered };
}

async function openByLoop(corral) {
  const figure = await corral.figures();
  return Array.from({ length: WORKERS }, (_, i) => figure('corral_connections', { loop: `data-${i}` }));
}
const sum = (all) => all.reduce((a, b) => a + b, 0);

for (const [how, open] of [
  [
    'all at once',
    async (url) => {
      const kept = Array.from({ length: CONNECTIONS }, () => keptConnection(url));
      await Promise.all(kept.map((k) => k.answered));
      return kept;
    },
  ],
  [
    'one after another',
    async (url) => {
      const kept = [];
      for (let i = 0; i < CONNECTIONS; i++) {
        kept.push(keptConnection(url));
        await kept.at(-1).answered;
      }
      return kept;
    },
  ],
])
  test(
    `${CONNECTIONS} connections that arrive ${how} are shared by the loops, and counted until they close`,
    withCorral({ workers: WORKERS, pools: [fakePool('a')] }, async (corral) => {
      const before = sum(await openByLoop(corral));
      const kept = await withDeadline(open(corral.url), 'the answers');
      for (const { answered } of kept) assert.equal(await answered, 'HTTP/1.1 200 OK');
      const loops = await openByLoop(corral);
      // The connections that asked for the figures come and go besides.
      const [fewest, most] = [Math.min(...loops), Math.max(...loops)];
      assert.ok(fewest >= CONNECTIONS / WORKERS - 2, `connections of the loops: ${loops}`);
      assert.ok(most <= CONNECTIONS / WORKERS + 2, `connections of the loops: ${loops}`);
      for (const { socket } of kept) socket.destroy();
      await until('the closed ones to be counted no more', async () => {
        return sum(await openByLoop(corral)) <= before;
      });
    }),
  );

test(
  'a connection that comes while the server goes down is closed, and holds nothing up',
  withCorral({ workers: WORKERS, pools: [fakePool('a')] }, async (corral) => {
    const all = [];
    const open = () => {
      const { socket, answered } = keptConnection(corral.url);
      const ended = new Promise((resolve) => socket.once('close', resolve));
      answered.catch(() => {});
      socket.on('error', () => {});
      all.push(ended);
      return ended;
    };
    for (let i = 0; i < 32; i++) open();
    const down = corral.stop();
    for (let i = 0; i < 200; i++) await withDeadline(open(), 'the end of a connection');
    await down;
    await withDeadline(Promise.all(all), 'every connection to end');
  }, { leaks: false }),
);
