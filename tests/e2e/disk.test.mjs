// SPDX-License-Identifier: Apache-2.0
// A full disk: serving goes on, one clear message, and all is back by itself when there is room again. Each
// folder in turn is a small tmpfs of its own, mounted in a mount namespace that ends with the daemon.
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import test from 'node:test';
import { fakePool, opened, until, withCorral } from './harness.mjs';

const possible = spawnSync('unshare', ['-rm', 'mount', '-t', 'tmpfs', 'none', os.tmpdir()]).status === 0;
const skip = possible ? false : 'no mount namespace of our own can be made here (unshare -rm)';

/** Runs the daemon with `size` bytes of disk at the folder of state_dir. */
const small = (folder, size) => ({
  leaks: false,
  wrap: ({ stateDir }) => {
    const at = path.join(stateDir, folder);
    fs.mkdirSync(at, { recursive: true });
    const script = `mount -t tmpfs -o size=${size},mode=0700 none "${at}" && exec "$@"`;
    return ['unshare', '-rm', 'sh', '-c', script, 'sh'];
  },
});

/** Files of that folder as the daemon sees them. */
const inside = (corral, ...names) =>
  path.join(`/proc/${corral.pid}/root`, corral.stateDir, ...names);

/** Fills the folder to the last byte; gives the way back. */
function fill(corral, folder) {
  const file = inside(corral, folder, 'ballast');
  const fd = fs.openSync(file, 'w');
  for (let size = 65536; size >= 1; size = size > 1 ? size >> 1 : 0) {
    try {
      for (;;) if (fs.writeSync(fd, Buffer.alloc(size)) < size) break;
    } catch (error) {
      assert.equal(error.code, 'ENOSPC');
    }
  }
  fs.closeSync(fd);
  return () => fs.rmSync(file);
}

const events = (corral, action) =>
  corral
    .log()
    .split('\n')
    .filter((line) => line.startsWith('{'))
    .map((line) => JSON.parse(line))
    .filter((event) => event.action === action);

const store = async (corral) => (await corral.get('/readyz')).json;

/** Rows of the registry's database, read from a copy. */
function rows(corral) {
  const copy = fs.mkdtempSync(path.join(os.tmpdir(), 'crl-'));
  try {
    for (const end of ['', '-wal'])
      if (fs.existsSync(inside(corral, `registry.db${end}`)))
        fs.copyFileSync(inside(corral, `registry.db${end}`), path.join(copy, `registry.db${end}`));
    const ask =
      'import sqlite3, sys, json; print(json.dumps(sqlite3.connect(sys.argv[1])' +
      '.execute("select kind, key, value from facts").fetchall()))';
    return JSON.parse(execFileSync('python3', ['-c', ask, path.join(copy, 'registry.db')]));
  } finally {
    fs.rmSync(copy, { recursive: true });
  }
}

test(
  'no room for the registry: it is in memory, /readyz and one line say so, and all is written afterwards',
  { skip },
  withCorral(
    () => ({ pools: [fakePool('a'), fakePool('b')] }),
    async (corral) => {
      const free = fill(corral, '.');
      for (let round = 0; round < 3; round++) {
        for (const id of ['a', 'b']) {
          assert.equal((await corral.post(`/v1/pools/${id}/drain`, { deadline_ms: 10000 })).status, 200);
          assert.equal((await corral.chat(id)).status, 503, 'it is drained');
          if (round < 2) assert.ok((await corral.post(`/v1/pools/${id}/undrain`, {})).status < 300);
          if (round < 2) assert.equal((await corral.chat(id)).status, 200, 'it serves');
        }
      }
      let now;
      await until('the store to fail', async () => (now = await store(corral)).store !== 'ok');
      assert.equal(now.status, 'ready', JSON.stringify(now));
      assert.match(now.store_problem, /registry\.db/);
      assert.match(now.store_problem, /full/);
      assert.equal(events(corral, 'store_failing').length, 1, 'it is said once');
      assert.match(events(corral, 'store_failing')[0].human, /in memory only.*registry\.db.*full/);
      free();
      await until('the store to be back', async () => (await store(corral)).store === 'ok');
      assert.equal(events(corral, 'store_back').length, 1);
      assert.equal(events(corral, 'store_failing').length, 1);
      const marks = rows(corral).filter(([kind, , value]) => kind === 'pool' && /draining/.test(value));
      const marked = marks.map(([, key]) => key).sort();
      assert.deepEqual(marked, ['a', 'b'], 'what was set meanwhile is on the disk');
    },
    { warm: ['a', 'b'], ...small('.', '2m') },
  ),
);

test(
  'no room for the engines’ logs: engines write on, start again, and serve',
  { skip },
  withCorral(
    () => ({ pools: [fakePool('loud', ['--log-flood-mb', 1]), fakePool('calm')] }),
    async (corral) => {
      const free = fill(corral, 'log');
      assert.equal((await corral.chat('calm')).status, 200);
      assert.equal((await corral.chat('loud', { stream: true })).status, 200, 'a start with no room at all');
      await corral.ready('loud');
      assert.equal((await corral.post('/v1/pools/calm/restart', {})).status, 202);
      await until('calm to be another one', async () => {
        const [replica] = (await corral.pool('calm')).replicas;
        return replica?.ready && replica.generation > 1;
      });
      assert.equal((await corral.chat('calm')).status, 200);
      free();
      const stopped = corral.engineOf('loud').pid;
      assert.equal((await corral.post('/v1/pools/loud/restart', {})).status, 202);
      await until('loud to be another one', () => {
        const engine = corral.engineOf('loud');
        return engine && engine.pid !== stopped;
      });
      await corral.ready('loud');
      const dropped = events(corral, 'log').filter((e) => e.target === 'loud-0');
      assert.equal(dropped.length, 1, 'that lines are missing is said once, when its engine has ended');
      assert.match(dropped[0].human, /bytes of the output of loud-0 were dropped/);
      await until('new words to be in the log', async () => {
        const { text } = await corral.get('/v1/pools/loud/logs?tail=100000');
        return text.includes('generation 2');
      });
    },
    { warm: ['calm'], ...small('log', '256k') },
  ),
);

test(
  'no room for large bodies: 503 with what to do, small ones are served, and large ones again later',
  { skip },
  withCorral(
    () => ({ pools: [fakePool('fake')] }),
    async (corral) => {
      const large = { padding: 'x'.repeat(300000) };
      assert.equal((await corral.chat('fake', large)).status, 200, 'there is room');
      await until('its file to be closed', () => !opened(corral.pid).some((f) => f.includes('/spool/')));
      const free = fill(corral, 'spool');
      for (let round = 0; round < 3; round++) {
        const refused = await corral.chat('fake', large);
        assert.equal(refused.status, 503, refused.text);
        assert.match(refused.json.error.corral.hint, /[Ff]ree disk space.*state_dir/);
        assert.equal(refused.headers['x-should-retry'], 'true');
        assert.equal((await corral.chat('fake', { stream: true })).status, 200, 'small bodies need no disk');
      }
      assert.equal(events(corral, 'spool').length, 1, 'it is said once');
      assert.match(events(corral, 'spool')[0].human, /No space left/);
      let now = await store(corral);
      assert.deepEqual([now.status, now.spool], ['ready', 'full']);
      assert.match(now.spool_problem, /No space left/);
      free();
      now = await store(corral);
      assert.deepEqual([now.status, now.spool, now.spool_problem], ['ready', 'ok', undefined]);
      assert.equal((await corral.chat('fake', large)).status, 200, 'back by itself');
      assert.equal(events(corral, 'spool_back').length, 1);
    },
    { warm: ['fake'], ...small('spool', '1m') },
  ),
);
