// SPDX-License-Identifier: Apache-2.0
// Other engines in place of those that run. The name of a model decides what becomes of an engine with it.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { Given, Then, When } from '@cucumber/cucumber';
import { harness } from '../support/world.mjs';

const { fakePath, model, until } = harness;

const events = (corral) =>
  corral
    .log()
    .split('\n')
    .filter((line) => line.startsWith('{'))
    .map((line) => JSON.parse(line));
const enginePids = (corral) => corral.engines().map((p) => p.pid);
const replica = async (world, id) =>
  (await (await world.corral()).pool(id)).replicas.find((r) => r.ready);
const reload = (corral, id, name) => corral.post(`/v1/pools/${id}/reload`, { model: `${name}.gguf` });

/** The folder of models, and the fake engine as llama-server that knows them by name; made once. */
function workshop(world) {
  const dir = world.scratch();
  const program = path.join(dir, 'engine.sh');
  if (fs.existsSync(program)) return { dir, program };
  const line = path.join(dir, 'line');
  execFileSync('mkfifo', [line]);
  world.pipe = fs.openSync(line, 'r+');
  const script = `#!/bin/sh
case "$*" in
*held.gguf*) read -r line <'${line}' ;;
*bad.gguf*) set -- "$@" --start-fails bad_model ;;
*oom.gguf*) set -- "$@" --start-fails oom_vram ;;
*mute.gguf*) set -- "$@" --status 500 ;;
esac
exec '${fakePath}' "$@"
`;
  fs.writeFileSync(program, script, { mode: 0o755 });
  for (const name of ['one', 'held', 'bad', 'oom', 'mute'])
    fs.copyFileSync(model('random'), path.join(dir, `${name}.gguf`));
  world.settings.models_dir = dir;
  return { dir, program };
}

/** Keeps which engine is the one "from before". */
async function remember(world) {
  const corral = await world.corral();
  world.old = {};
  for (const { id } of world.pools) world.old[id] = await replica(world, id);
  assert.ok(Object.values(world.old).every((r) => r.pid));
  return corral;
}

// ---- given -----------------------------------------------------------------------------------------

Given('a pool {string} of the model {string}', function (id, name) {
  const { program } = workshop(this);
  const engine = { kind: 'llamacpp', mode: 'binary', path: program };
  this.pools.push({ id, model: `${name}.gguf`, engine });
});

// ---- when ------------------------------------------------------------------------------------------

When('a reload of {string} to the model {string} begins', async function (id, name) {
  this.reloading = reload(await remember(this), id, name);
});
When('{string} is reloaded to the model {string}', async function (id, name) {
  this.answer = await reload(await remember(this), id, name);
});
When('the configuration gives {string} {int} slots', async function (id, slots) {
  const corral = await remember(this);
  const pools = this.pools.map((p) => (p.id === id ? { ...p, slots } : p));
  corral.write({ ...this.settings, pools });
});
When('the configuration is broken in line 2', async function () {
  const corral = await remember(this);
  const lines = fs.readFileSync(corral.configFile, 'utf8').split('\n');
  fs.writeFileSync(corral.configFile, [lines[0], '"listne": 1,', ...lines.slice(1)].join('\n'));
});
When('corral config reload is run', async function () {
  this.said = await (await this.corral()).cli('config', 'reload');
});
When('{string} is disabled', async function (id) {
  const answer = await (await this.corral()).post(`/v1/pools/${id}/disable`, {});
  assert.equal(answer.status, 202, answer.text);
  assert.equal(answer.json.kept, true, answer.text);
});
When('{string} is enabled', async function (id) {
  const answer = await (await this.corral()).post(`/v1/pools/${id}/enable`, {});
  assert.ok(answer.status < 300, answer.text);
});
When('Corral is restarted', async function () {
  const corral = await this.corral();
  await corral.stop();
  await corral.start();
});

// ---- then ------------------------------------------------------------------------------------------

Then('{int} engines run, one of them the one from before', async function (count) {
  const corral = await this.corral();
  await until(`${count} engines`, () => enginePids(corral).length === count);
  assert.ok(Object.values(this.old).every((r) => enginePids(corral).includes(r.pid)));
});
Then('it is of the engine from before', function () {
  const ids = Object.values(this.old).map((r) => r.replica_id ?? r.id);
  assert.ok(ids.includes(this.answer.headers['x-corral-replica']), `${ids}`);
});
Then('it is of another engine than before', function () {
  const ids = Object.values(this.old).map((r) => r.replica_id ?? r.id);
  const by = this.answer.headers['x-corral-replica'];
  assert.ok(by && !ids.includes(by), `by ${by}, before: ${ids}`);
});
Then('the reload ends with {int}', async function (status) {
  this.answer = await this.reloading;
  assert.equal(this.answer.status, status, this.answer.text);
});
Then('the new engine of {string} was ready before the old one stopped', async function (id) {
  const corral = await this.corral();
  const old = this.old[id].replica_id ?? this.old[id].id;
  const stopped = (e) => e.action === 'stop' && e.target === old;
  await until('the old one to have stopped', () => events(corral).some(stopped));
  const seen = events(corral);
  const ready = seen.findIndex(
    (e) => e.action === 'ready' && e.target.startsWith(`${id}-`) && e.target !== old && e.replica_id,
  );
  assert.ok(ready >= 0 && ready < seen.findIndex(stopped), 'ready comes first in the log of the node');
});
Then('the answer says {string}', function (word) {
  assert.match(this.answer.json.error.message, new RegExp(word, 'i'));
});
Then('the engine of {string} is the one from before', async function (id) {
  assert.equal((await replica(this, id))?.pid, this.old[id].pid);
  assert.ok(enginePids(await this.corral()).includes(this.old[id].pid));
});
Then('the engine of {string} is the one from before, and no other runs', async function (id) {
  const corral = await this.corral();
  await until('the other one to be gone', () => enginePids(corral).length === 1);
  assert.deepEqual(enginePids(corral), [this.old[id].pid]);
});
Then('the engine of {string} is another one and ready', async function (id) {
  const corral = await this.corral();
  await until('the old one to be gone', () => !enginePids(corral).includes(this.old[id].pid));
  await corral.ready(id);
});
Then('it succeeds and names {string} alone', function (id) {
  assert.equal(this.said.code, 0, this.said.stderr);
  const named = this.pools.map((p) => p.id).filter((name) => this.said.stdout.includes(name));
  assert.deepEqual(named, [id], this.said.stdout);
});
Then('it fails and names line {int}', function (line) {
  assert.equal(this.said.code, 2, this.said.stdout);
  assert.match(this.said.stderr, new RegExp(`corral\\.yaml:${line}:1: listne`));
});
