// SPDX-License-Identifier: Apache-2.0
// What the node does with processes: how many load at once, engines that are taken out, what killed keepers
// leave.
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import test from 'node:test';
import { fakePool, isAlive, send, until, withCorral, withDeadline } from './harness.mjs';

/** Leaves a socket file behind that nobody listens at. */
const bindAndLeave = 'import socket, sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])';
const ids = ['a', 'b', 'c', 'd', 'e'];

const replicasOf = async (corral) => {
  const { json } = await corral.get('/v1/pools');
  return json.pools.flatMap((p) => p.replicas);
};
const node = (corral, method, target, body) =>
  send(path.join(corral.runtimeDir, 'provisioner.sock'), method, target, { body });
const replica = async (corral, id) =>
  (await node(corral, 'GET', '/v1/node/replicas')).json.replicas.find((r) => r.replica_id === id);
const keeperOf = (corral, id) =>
  corral.processes().find((p) => p.argv[0]?.endsWith('corral-keeper') && p.argv[1] === id) ??
  corral.processes().find((p) => p.argv[1] === id);
const provisionerOf = (corral) =>
  corral.processes().find((p) => p.daemon && p.argv[0]?.endsWith('engine-provisioner'));

test(
  'five engines that are wanted at once: never more than two load, and the others say for whom they wait',
  withCorral(
    () => ({ pools: ids.map((id) => fakePool(id, ['--ready-after-ms', 400], { preload: true })) }),
    async (corral) => {
      let most = 0;
      const said = [];
      await until(
        () => `all five to be ready; ${said.join(' | ')}`,
        async () => {
          const replicas = await replicasOf(corral);
          const loading = replicas.filter((r) => ['starting', 'proving'].includes(r.state));
          most = Math.max(most, loading.length);
          for (const r of replicas.filter((x) => x.state === 'provisioning'))
            said.push(r.progress?.text ?? r.progress_text ?? JSON.stringify(r.progress ?? ''));
          return replicas.filter((r) => r.state === 'ready').length === ids.length;
        },
        60000,
      );
      assert.ok(most === 1 || most === 2, `${most} loaded at the same time`);
      assert.ok(
        said.some((text) => /waits for [a-e]-0/.test(text)),
        `none said for whom it waits: ${said.join(' | ')}`,
      );
      assert.equal(corral.engines().length, ids.length);
    },
    { leaks: false },
  ),
);

test(
  'an engine that is condemned as hung goes, even when it is stopped, and another takes its place',
  withCorral(
    () => ({ pools: [fakePool('a')] }),
    async (corral) => {
      const engine = corral.engineOf('a').pid;
      const { generation } = await replica(corral, 'a-0');
      process.kill(engine, 'SIGSTOP');
      const condemn = (g) =>
        node(corral, 'POST', '/v1/node/replicas/a-0/condemn', {
          generation: g,
          cause: 'hung',
          message: 'nothing moved',
        });
      assert.equal((await condemn(generation + 1)).status, 409);
      assert.ok(isAlive(engine));
      assert.equal((await condemn(generation)).status, 200);
      await until('the engine to be gone', () => !isAlive(engine));
      await until('the next one', async () => {
        const r = await replica(corral, 'a-0');
        return r?.state === 'ready' && r.generation === generation + 1;
      });
      assert.equal((await condemn(generation)).status, 409, 'the next one is not meant');
      assert.equal((await corral.chat('a')).status, 200);
      assert.equal(corral.engines().length, 1);
    },
    { warm: ['a'], leaks: false },
  ),
);

for (const [what, together] of [
  ['a keeper', false],
  ['a keeper and engine-provisioner together', true],
]) {
  test(
    `kill -9 of ${what}: the engine goes, with what it had put into a session of its own`,
    withCorral(
      () => ({ pools: [fakePool('a', ['--grandchild', 1])] }),
      async (corral) => {
        await until('the grandchild', () => corral.engines().length === 2);
        const old = corral.engines().map((p) => p.pid);
        const victims = [keeperOf(corral, 'a-0').pid];
        if (together) victims.unshift(provisionerOf(corral).pid);
        for (const pid of victims) process.kill(pid, 'SIGKILL');
        await until(
          () => `the old tree to be gone: ${old.filter(isAlive)}`,
          () => !old.some(isAlive),
        );
        assert.equal((await corral.chat('a')).status, 200);
        await until('one engine and one grandchild', () => corral.engines().length === 2);
        const sockets = fs
          .readdirSync(path.join(corral.runtimeDir, 'engines'))
          .filter((name) => name.endsWith('.sock'));
        assert.equal(sockets.length, 1, sockets.join(' '));
      },
      { warm: ['a'], leaks: false },
    ),
  );
}

test(
  'engine-provisioner and an engine killed together: the end is told, then another starts',
  withCorral(
    () => ({ pools: [fakePool('a')] }),
    async (corral) => {
      const { generation } = await replica(corral, 'a-0');
      const engine = corral.engineOf('a').pid;
      process.kill(provisionerOf(corral).pid, 'SIGKILL');
      process.kill(engine, 'SIGABRT');
      await until('the engine to be gone', () => !isAlive(engine));
      assert.equal((await corral.chat('a')).status, 200);
      const r = await replica(corral, 'a-0');
      assert.equal(r.generation, generation + 1);
      assert.match(corral.log(), /a-0 ended while no engine-provisioner ran|signal 6/);
    },
    { warm: ['a'], leaks: false },
  ),
);

test(
  'a record that names a living process which is none of ours: it is never signalled',
  withCorral(
    () => ({ pools: [fakePool('a')] }),
    async (corral) => {
      const stranger = spawn('cat', [], { stdio: ['pipe', 'ignore', 'ignore'], cwd: '/' });
      const ended = new Promise((resolve) =>
        stranger.once('exit', (code, signal) => resolve(signal ?? code)),
      );
      const engines = path.join(corral.runtimeDir, 'engines');
      const record = JSON.parse(fs.readFileSync(path.join(engines, 'a-0.record'), 'utf8'));
      const name = path.join(engines, 'a-7.record');
      const forged = {
        ...record,
        replica_id: 'a-7',
        state: 'running',
        keeper_pid: stranger.pid,
        engine_pid: stranger.pid,
        socket: '',
      };
      fs.writeFileSync(name, JSON.stringify(forged));
      const engine = corral.engineOf('a').pid;
      process.kill(provisionerOf(corral).pid, 'SIGKILL');
      await until('the record to be removed', () => !fs.existsSync(name));
      assert.ok(isAlive(stranger.pid));
      assert.ok(isAlive(engine), 'nor is the engine that runs');
      stranger.stdin.end();
      assert.equal(await ended, 0, 'it ends by itself');
    },
    { warm: ['a'], leaks: false },
  ),
);

test(
  'a record of a reused pid is never signalled: a start finds it, serves a request and stops',
  withCorral(
    () => ({ pools: [fakePool('a')] }),
    async (corral) => {
      const engines = path.join(corral.runtimeDir, 'engines');
      const real = JSON.parse(fs.readFileSync(path.join(engines, 'a-0.record'), 'utf8'));
      await corral.stop();
      const strangers = [0, 1].map(() => {
        const child = spawn('cat', [], { stdio: ['pipe', 'ignore', 'ignore'], cwd: '/' });
        const ended = new Promise((resolve) => child.once('exit', (code, signal) => resolve(signal ?? code)));
        return { child, ended };
      });
      try {
        const [keeper_pid, engine_pid] = strangers.map((s) => s.child.pid);
        for (const [replica_id, generation] of [['a-0', real.generation], ['gone-3', 5]]) {
          const socket = path.join(engines, `${replica_id}.${generation}.sock`);
          // This boot and a living pid, but not the start time of that process.
          const now = { replica_id, generation, socket, keeper_pid, engine_pid };
          const forged = { ...real, ...now, state: 'running' };
          fs.writeFileSync(path.join(engines, `${replica_id}.record`), JSON.stringify(forged));
          execFileSync('python3', ['-c', bindAndLeave, socket]);
        }
        await corral.start();
        const answer = await withDeadline(corral.chat('a'), 'an answer of the pool');
        assert.equal(answer.status, 200, answer.text);
        const now = JSON.parse(fs.readFileSync(path.join(engines, 'a-0.record'), 'utf8'));
        assert.equal(now.engine_pid, corral.engineOf('a').pid, 'the record is of the engine that runs');
        assert.ok(!fs.existsSync(path.join(engines, 'gone-3.record')), 'what is of nobody is removed');
        assert.deepEqual(
          fs.readdirSync(engines).filter((name) => name.endsWith('.sock')),
          [path.basename(now.socket)],
          'and so are the sockets of nobody',
        );
        await corral.stop();
        assert.ok(strangers.every((s) => isAlive(s.child.pid)));
      } finally {
        for (const s of strangers) s.child.stdin.end();
      }
      assert.deepEqual(await Promise.all(strangers.map((s) => s.ended)), [0, 0], 'they end by themselves');
    },
    { warm: ['a'], leaks: false },
  ),
);
