// SPDX-License-Identifier: Apache-2.0
// Starting up: what is said when it cannot be done, and what several instances do to each other.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import test from 'node:test';
import { Corral, fakePool, model, realPool, withCorral, withDeadline } from './harness.mjs';

/** Starts it, expecting an end before the ready line; gives the exit code and the words. */
async function refused(config, opts = {}, prepare = () => {}) {
  const corral = new Corral(config, opts);
  try {
    prepare(corral);
    const error = await corral.start().then(
      () => null,
      (e) => e,
    );
    assert.ok(error, 'it must not start');
    const { code } = await withDeadline(corral.exited, 'its end');
    return { code, log: corral.log(), corral };
  } finally {
    corral.kill();
    corral.remove();
  }
}

test('five mistakes: five messages with line, column and what is accepted, exit 2', async () => {
  const text = `listen: 127.0.0.1:0
gpu: maybe
workers: many
pools:
  - id: a
    model: x.gguf
    slots: 0
    ctxx: 4096
  - id: b
    engine: {kind: command, command: [x]}
    queue: {policy: drop}
`;
  const corral = new Corral(text);
  try {
    for (const args of [
      ['config', 'check', corral.configFile],
      ['serve', '--config', corral.configFile],
    ]) {
      const { code, stderr, stdout } = await corral.cli(...args);
      const said = stderr + stdout;
      assert.equal(code, 2, said);
      for (const [line, key] of [
        [2, 'gpu'],
        [3, 'workers'],
        [7, 'slots'],
        [8, 'ctxx'],
        [11, 'policy'],
      ]) {
        assert.match(said, new RegExp(`corral\\.yaml:${line}:\\d+:[^\\n]*${key}`), `${args[0]}: ${key}`);
      }
      assert.match(said, /auto.*required.*optional.*none/s);
      assert.equal(said.match(/corral\.yaml:\d+:\d+:/g).length, 5, said);
    }
  } finally {
    corral.remove();
  }
});

test('a port in use: one sentence that names who has it', async () => {
  const server = net.createServer().listen(0, '127.0.0.1');
  await new Promise((resolve) => {
    server.once('listening', resolve);
  });
  const { port } = server.address();
  const { code, log } = await refused({ listen: `127.0.0.1:${port}`, pools: [fakePool('fake')] });
  server.close();
  assert.notEqual(code, 0);
  assert.match(log, new RegExp(`${port}.*in use`));
  assert.match(log, new RegExp(`\\b${process.pid}\\b`), 'the owner is named');
});

test(
  'a missing model: the pool says so, the others serve',
  withCorral(
    () => ({ pools: [{ ...realPool('gone'), model: '/nowhere/gone.gguf' }, fakePool('fake')] }),
    async (corral) => {
      const answer = await corral.chat('gone');
      assert.equal(answer.status, 503, answer.text);
      assert.equal(answer.json.error.corral.code, 'POOL_UNAVAILABLE');
      assert.match(answer.json.error.message, /\/nowhere\/gone\.gguf/);
      assert.ok(answer.json.error.corral.hint, 'it says what to do');
      assert.equal((await corral.chat('fake')).status, 200);
    },
    { leaks: false },
  ),
);

test(
  'a missing engine: the pool says so and what to do',
  withCorral(
    () => ({
      pools: [
        {
          id: 'none',
          model: model('random'),
          engine: { kind: 'llamacpp', mode: 'binary', path: '/nowhere/llama-server' },
        },
      ],
    }),
    async (corral) => {
      const answer = await corral.chat('none');
      assert.equal(answer.status, 503, answer.text);
      assert.match(answer.json.error.message, /\/nowhere\/llama-server/);
      assert.ok(answer.json.error.corral.hint);
    },
    { leaks: false },
  ),
);

test('a folder that cannot be written, and a socket path too long: one sentence each', async () => {
  const unwritable = await refused({ pools: [fakePool('fake')], state_dir: '/proc/corral' });
  assert.notEqual(unwritable.code, 0);
  assert.match(unwritable.log, /\/proc\/corral/);
  const long = `/tmp/${'x'.repeat(110)}`;
  const tooLong = await refused({ pools: [fakePool('fake')], runtime_dir: long });
  assert.notEqual(tooLong.code, 0);
  assert.match(tooLong.log, /107/);
  fs.rmSync(long, { recursive: true, force: true });
});

test(
  'two instances live side by side; a second one in the same folder is refused',
  withCorral(
    () => ({ pools: [fakePool('fake')] }),
    async (corral) => {
      const other = await new Corral({ pools: [fakePool('fake')] }).start();
      try {
        assert.equal((await other.chat('fake')).status, 200);
        assert.equal((await corral.chat('fake')).status, 200);
        assert.notEqual(other.url, corral.url);
        await other.stop();
      } finally {
        other.kill();
        other.remove();
      }
      const { code, stderr } = await corral.cli(
        'serve',
        '--config',
        corral.configFile,
        '--listen',
        '127.0.0.1:0',
      );
      assert.notEqual(code, 0);
      assert.match(stderr, new RegExp(`\\b${corral.pid}\\b`));
    },
    { leaks: false },
  ),
);

test(
  'the metrics page passes promtool, and `corral ps` agrees with it',
  withCorral(
    () => ({ pools: [fakePool('fake')] }),
    async (corral) => {
      const { text } = await corral.get('/metrics');
      execFileSync('promtool', ['check', 'metrics'], { input: text, stdio: ['pipe', 'pipe', 'pipe'] });
      const ps = await corral.cli('ps', '--json');
      assert.equal(ps.code, 0, ps.stderr);
      const leases = Number(/corral_leases\{pool="fake"\} (\d+)/.exec(text)[1]);
      const shown = JSON.parse(ps.stdout).pools.find((p) => p.id === 'fake');
      assert.equal(shown.leases, leases);
      assert.equal(shown.slots_free, shown.slots_total - leases);
      assert.ok(fs.existsSync(path.join(corral.runtimeDir, 'corral.sock')));
    },
    { warm: ['fake'] },
  ),
);
