// SPDX-License-Identifier: Apache-2.0
//
// corral-fetch that is killed, and twice at once.

import assert from 'node:assert/strict';
import fs from 'node:fs';
import { test } from 'node:test';

import { digestOf } from '../fakes/hub.mjs';
import {
  MIB,
  assertWhole,
  begin,
  fetchJob,
  filesJob,
  killedAtPoints,
  sha,
  slow,
  world,
} from './fetching.mjs';

/** Resolves when the child said something that pick() likes. */
function when(child, pick) {
  let rest = '';
  return new Promise((resolve) => {
    child.stdout.on('data', (data) => {
      const parts = (rest + data).split('\n');
      rest = parts.pop();
      for (const part of parts) if (pick(JSON.parse(part))) resolve(JSON.parse(part));
    });
    child.on('close', () => resolve(null));
  });
}

/** Runs a job, kills it `kills` times when `share(k)` of it was there, and lets the last one end. */
async function withKills(job, kills, total) {
  for (let k = 1; k <= kills; k++) {
    const run = begin(job);
    const aim = (total * k) / (kills + 1);
    const said = await when(run.child, (line) => line.progress?.bytes >= aim);
    run.child.kill('SIGKILL');
    const { signal } = await run.done;
    if (said) assert.equal(signal, 'SIGKILL');
  }
  return fetchJob(job);
}

test('a large file with 20 cuts and three kills: whole, and no byte asked for twice', async (t) => {
  const size = slow ? 2048 * MIB : 160 * MIB;
  const cuts = { resetEvery: Math.floor(size / 22), resets: 20 };
  const spec = { size, seed: 'big', ...cuts, slow: slow ? 0 : 96 * MIB };
  const { dir, hub, at } = await world(t, { files: { '/a': spec } });
  const sha256 = digestOf(spec);
  const job = filesJob([{ urls: [`${hub.url}/a`], to: at('a'), sha256, size }]);
  const got = await withKills(job, 3, size);
  assert.equal(got.why, 'ok', got.error);
  assertWhole(dir, 'a', spec);
  assert.ok(hub.of('/a').cuts >= 20); // one that several connections were at is several cuts
  // what a killed process had on its way is lost: the sockets' memory of its four connections
  const again = hub.of('/a').sent - size;
  t.diagnostic(`${size} bytes, ${again} sent again, ${hub.of('/a').asked.length} requests`);
  assert.ok(again <= 3 * 4 * 8 * MIB, `${again} bytes were sent again`);
});

test('nothing is read back from the disk where the server sends in order', async (t) => {
  const size = 96 * MIB;
  const spec = { size, seed: 'io', slow: 64 * MIB };
  const { dir, hub, at } = await world(t, { files: { '/a': spec } });
  const job = filesJob([{ urls: [`${hub.url}/a`], to: at('a'), sha256: digestOf(spec), size }]);
  const last = {};
  const run = begin(job, {
    onLine: (line) => {
      if (line.result) return;
      const io = fs.readFileSync(`/proc/${run.child.pid}/io`, 'utf8');
      Object.assign(last, { bytes: line.progress.bytes, read: Number(/rchar: (\d+)/.exec(io)[1]) });
    },
  });
  assert.equal((await run.done).result.why, 'ok');
  assertWhole(dir, 'a', spec);
  assert.ok(last.bytes > size / 2, `${last.bytes} bytes were seen`);
  assert.ok(last.read < MIB, `${last.read} bytes were read`);
});

test('killed at 50 points: the next run ends as an undisturbed one', async (t) => {
  const spec = { size: 24 * MIB + 77, seed: 'k' };
  const small = { size: 64 * 1024, seed: 'k2' };
  const { hub, at } = await world(t, { files: { '/a': spec, '/b': small } });
  const want = [digestOf(spec), digestOf(small)];
  const make = (name) => {
    const file = (n, i) => ({ urls: [`${hub.url}/${n}`], to: at(`${name}/${n}`), sha256: want[i] });
    return filesJob(['a', 'b'].map(file));
  };
  const named = 'flock:1 fallocate64:1 fchmod:1 fsync:1 rename:1 unlink:1 fsync:2 fchmod:2 rename:2 unlink:2';
  await killedAtPoints(t, slow ? 50 : 16, named.split(' '), make, (name, got, where) => {
    assert.equal(got.why, 'ok', `${where}: ${got.error}`);
    assert.deepEqual(fs.readdirSync(at(name)).sort(), ['a', 'b'], where);
    assert.deepEqual(['a', 'b'].map((n) => sha(at(`${name}/${n}`))), want, where);
    fs.rmSync(at(name), { recursive: true });
  });
});

test('two processes, one file: the second waits for the first and finds it whole', async (t) => {
  const spec = { size: 16 * MIB, seed: 'f', slow: 24 * MIB };
  const { dir, hub, at } = await world(t, { files: { '/a': spec } });
  const job = filesJob([{ urls: [`${hub.url}/a`], to: at('a'), sha256: digestOf(spec) }]);
  const first = begin(job);
  await when(first.child, (line) => line.progress?.bytes > 0);
  const second = begin(job);
  const waits = await when(second.child, (line) => line.progress?.phase === 'waiting');
  assert.match(waits.progress.text, /Another process fetches a/);
  const [one, two] = await Promise.all([first.done, second.done]);
  assert.equal(one.result.files[0].was_there, false);
  assert.equal(two.result.files[0].was_there, true);
  assert.equal(hub.of('/a').sent, spec.size);
  assertWhole(dir, 'a', spec);
});

test('the first is killed: the second goes on where it was', async (t) => {
  const spec = { size: 16 * MIB, seed: 'f2', slow: 24 * MIB };
  const { dir, hub, at } = await world(t, { files: { '/a': spec } });
  const job = filesJob([{ urls: [`${hub.url}/a`], to: at('a'), sha256: digestOf(spec) }]);
  const first = begin(job);
  await when(first.child, (line) => line.progress?.bytes > 2 * MIB);
  const second = begin(job);
  await when(second.child, (line) => line.progress?.phase === 'waiting');
  first.child.kill('SIGKILL');
  const two = await second.done;
  assert.equal(two.result.why, 'ok', two.result.error);
  assert.ok(two.result.files[0].bytes_fetched < spec.size);
  assertWhole(dir, 'a', spec);
});

test('SIGTERM ends it at once, and so does the end of its parent; what is there stays', async (t) => {
  const spec = { size: 16 * MIB, seed: 's', stall: { after: 3 * MIB } };
  const { hub, at } = await world(t, { files: { '/a': spec } });
  const job = filesJob([{ urls: [`${hub.url}/a`], to: at('a'), sha256: digestOf(spec) }]);
  const run = begin(job);
  await when(run.child, (line) => line.progress?.bytes > MIB);
  run.child.kill('SIGTERM');
  assert.equal((await run.done).signal, 'SIGTERM');
  assert.ok(fs.existsSync(at('a.part')));
  const parent = begin(job, { wrap: ['sh', '-c', '"$0" & echo "{\\"pid\\":$!}"; wait'] });
  assert.ok(parent);
  parent.child.kill('SIGKILL');
  await parent.done; // its standard output ends when the last one that has it ends
});
