// SPDX-License-Identifier: Apache-2.0
// Many engines at once. Each reads a line of a named pipe before it loads; a test lets one go by writing one.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { After, Given, Then, When } from '@cucumber/cucumber';
import { harness } from '../support/world.mjs';

const { fakePool, send, until } = harness;

/** What the node itself says, in one answer: {loading, waiting, ready}, ids of pools. */
async function census(world) {
  const corral = await world.corral();
  const socket = path.join(corral.runtimeDir, 'provisioner.sock');
  const { json } = await send(socket, 'GET', '/v1/node/replicas');
  const of = (...states) =>
    json.replicas.filter((r) => states.includes(r.state)).map((r) => r.replica_id.replace(/-\d+$/, ''));
  const now = { loading: of('starting', 'proving'), waiting: of('provisioning'), ready: of('ready') };
  world.most = Math.max(world.most ?? 0, now.loading.length);
  assert.ok(now.loading.length <= world.settings.starting_max, `${now.loading} load at the same time`);
  return now;
}
/** Waits until so many load, wait and are ready. */
async function settled(world, loading, waiting, ready) {
  let now;
  await until(
    () => `${loading} to load, ${waiting} to wait, ${ready} to be ready; ${JSON.stringify(now)}`,
    async () => {
      now = await census(world);
      const counts = [now.loading, now.waiting, now.ready].map((l) => l.length);
      return counts.join() === `${[loading, waiting, ready]}`;
    },
  );
  return now;
}
/** Waits until there is a process for each of so many engines; one more at any moment is wrong. */
const processes = async (corral, count, what) => {
  await until(`${count} processes: ${what}`, () => {
    const now = enginePids(corral).length;
    assert.ok(now <= count, `${now} processes and not ${count}: ${what}`);
    return now === count;
  });
};
const release = (world, count) => fs.writeSync(world.pipe, '\n'.repeat(count));
const enginePids = (corral) => corral.engines().map((p) => p.pid);
/** The pools in the order in which their engines were started. */
const started = (corral) =>
  corral
    .log()
    .split('\n')
    .filter((line) => line.startsWith('{'))
    .map((line) => JSON.parse(line))
    .filter((e) => e.action === 'start' && e.generation)
    .map((e) => e.target.replace(/-\d+$/, ''));

After(function () {
  if (this.pipe !== undefined) fs.closeSync(this.pipe);
});

// ---- given -----------------------------------------------------------------------------------------

Given('at most {int} engines load at the same time', function (count) {
  this.settings.starting_max = count;
});
Given('{int} preloaded pools whose engines load until they are let go', function (count) {
  const name = path.join(this.scratch(), 'line');
  execFileSync('mkfifo', [name]);
  this.pipe = fs.openSync(name, 'r+'); // opened for both, it never blocks us
  for (let i = 1; i <= count; i++) {
    const { id, engine } = fakePool(`p${i}`);
    const command = ['/bin/sh', '-c', 'read -r line <"$0"; exec "$@"', name, ...engine.command];
    this.pools.push({ id, preload: true, engine: { ...engine, command } });
  }
});

// ---- when ------------------------------------------------------------------------------------------

When('{int} engine(s) is/are let go', function (count) {
  release(this, count);
});
When('all engines are let go', function () {
  release(this, this.pools.length);
});
When('a request waits for the pool that would load last', async function () {
  const corral = await this.corral();
  const { waiting } = await census(this);
  this.asked = waiting.sort().at(-1);
  this.before = started(corral);
  this.later = corral.chat(this.asked);
  const waits = new RegExp(`corral_requests_waiting\\{[^}]*pool="${this.asked}"[^}]*\\} 1\\b`);
  await until('the request to be waiting', async () => waits.test((await corral.get('/metrics')).text));
});
When('all engines are killed at once', async function () {
  const corral = await this.corral();
  this.victims = enginePids(corral);
  for (const pid of this.victims) process.kill(pid, 'SIGKILL');
});

// ---- then ------------------------------------------------------------------------------------------

Then('{int} engines load and {int} wait for them', async function (loading, waiting) {
  await settled(this, loading, waiting, 0);
  const corral = await this.corral();
  await processes(corral, loading, 'one for each that loads, none for those that wait');
});
Then('all {int} are ready', async function (count) {
  await settled(this, 0, 0, count);
});
Then(
  'as the engines are let go one by one, never more than {int} load, and all {int} are ready at last',
  async function (most, count) {
    const corral = await this.corral();
    for (let ready = 1; ready <= count; ready++) {
      release(this, 1);
      const loading = Math.min(most, count - ready);
      await settled(this, loading, count - ready - loading, ready);
      await processes(corral, ready + loading, 'one for each that loads or is ready');
    }
    assert.equal(this.most, most, 'and that many did load at the same time');
  },
);
Then('the pool that the request waits for is the next to load', async function () {
  const corral = await this.corral();
  const next = await until('the next start', () => started(corral)[this.before.length]);
  assert.equal(next, this.asked);
});
Then('every engine is another one than before', async function () {
  const corral = await this.corral();
  await processes(corral, this.victims.length, 'as many as before');
  const now = enginePids(corral);
  assert.deepEqual(now.filter((pid) => this.victims.includes(pid)), []);
});
