// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { Given, Then, When } from '@cucumber/cucumber';
import { harness } from '../support/world.mjs';

const { fakePool, isAlive, until } = harness;

const health = async (world, pool) =>
  (await (await world.corral()).get(`/v1/pools/${pool}/health`)).json;
const provisionerOf = (corral) => corral.processes().find((p) => p.daemon && p.pid !== corral.pid);

// ---- given -----------------------------------------------------------------------------------------

Given('a pool {string} with {int} slot(s)', function (id, slots) {
  this.pools.push(fakePool(id, ['--event-interval-us', 20000, '--tokens', 1000000], { slots }));
});
Given('a pool {string} with {int} slot(s) and a queue of {int}', function (id, slots, capacity) {
  this.pools.push(
    fakePool(id, ['--event-interval-us', 20000, '--tokens', 1000000], { slots, queue: { capacity } }),
  );
});
Given('a pool {string} whose engine needs {int} ms to load', function (id, ms) {
  this.pools.push(fakePool(id, ['--ready-after-ms', ms]));
});
Given('a pool {string} whose engine cannot start', function (id) {
  this.pools.push(fakePool(id, ['--start-fails', 'bad_model']));
});
Given('a pool {string} whose engine says it is healthy before it can answer', function (id) {
  this.pools.push(fakePool(id, ['--health-lies', 1, '--ready-after-ms', 1500], { canary: 'always' }));
});

// ---- when ------------------------------------------------------------------------------------------

When('Corral runs', function () {
  return this.corral();
});
When('the pool {string} is ready', async function (id) {
  const corral = await this.corral();
  await corral.post(`/v1/pools/${id}/start`, {});
  await corral.ready(id);
});
When('the pool {string} is started', async function (id) {
  const corral = await this.corral();
  this.answer = await corral.post(`/v1/pools/${id}/start`, {});
  assert.equal(this.answer.status, 202, this.answer.text);
});
When('{int} stream(s) of {string} run(s)', async function (count, id) {
  for (let i = 0; i < count; i++) {
    const { response } = await this.request(id);
    assert.equal(response.status, 200);
  }
});
When('a stream of {string} waits', async function (id) {
  this.request(id);
  const corral = await this.corral();
  const waits = new RegExp(`corral_requests_waiting\\{[^}]*pool="${id}"[^}]*\\} 1\\b`);
  await until('the request to be queued', async () => waits.test((await corral.get('/metrics')).text));
});
When('the client of every stream leaves', function () {
  for (const one of this.running) one.abort();
});
When('{string} is asked', async function (id) {
  const corral = await this.corral();
  this.answer = await corral.chat(id);
});
When('{string} is drained with a deadline of {int} ms', async function (id, ms) {
  const corral = await this.corral();
  this.draining = corral.post(`/v1/pools/${id}/drain`, { deadline_ms: ms });
  await until('the pool to be draining', async () => {
    const { json } = await corral.get(`/v1/pools/${id}/health`);
    return json.draining;
  });
});
When('{string} is undrained', async function (id) {
  const answer = await (await this.corral()).post(`/v1/pools/${id}/undrain`, {});
  assert.ok(answer.status < 300, answer.text);
});
When('the node falls silent', async function () {
  const corral = await this.corral();
  this.provisioner = provisionerOf(corral).pid;
  process.kill(this.provisioner, 'SIGSTOP');
});
When('the node speaks again', function () {
  process.kill(this.provisioner, 'SIGCONT');
});
When("the node's agent is killed", async function () {
  const corral = await this.corral();
  this.provisioner = provisionerOf(corral).pid;
  this.engines = corral.engines().map((p) => p.pid);
  process.kill(this.provisioner, 'SIGKILL');
});

// ---- then ------------------------------------------------------------------------------------------

Then('{string} has {int} of {int} slots free', async function (id, free, total) {
  let now;
  await until(
    () => `${free} of ${total} slots free, now ${JSON.stringify(now)}`,
    async () => {
      now = await health(this, id);
      return now.slots_free === free && now.slots_total === total;
    },
  );
});
Then('{string} is live and ready', async function (id) {
  const now = await health(this, id);
  assert.deepEqual([now.live, now.ready], [true, true]);
});
Then('{string} is not ready', async function (id) {
  assert.equal((await health(this, id)).ready, false);
});
Then('{string} is never ready before its engine answers', async function (id) {
  const corral = await this.corral();
  await until('the pool to be ready', async () => {
    const { ready } = await health(this, id);
    if (!ready) return false;
    assert.equal(
      (await corral.post(`/upstream/${id}/v1/chat/completions`, { messages: [], max_tokens: 1 })).status,
      200,
    );
    return true;
  });
});
Then("{string} becomes not ready within a heartbeat's limit", async function (id) {
  await until('the node to be offline', async () => !(await health(this, id)).ready, 45000);
});
Then('{string} becomes ready again by itself', async function (id) {
  await until('the pool to be ready again', async () => (await health(this, id)).ready, 45000);
});
Then('{string} has a last error that mentions {string}', async function (id, word) {
  const corral = await this.corral();
  let now;
  await until(
    () => `a last error, now ${JSON.stringify(now)}`,
    async () => (now = await health(this, id)).last_error,
  );
  assert.match(JSON.stringify(now.last_error), new RegExp(word));
  assert.equal((await corral.pool(id)).id ?? id, id);
});
Then('the answer is {int}', function (status) {
  assert.equal(this.answer.status, status, this.answer.text);
});
Then('the answer is {int} {word}', function (status, code) {
  assert.equal(this.answer.status, status, this.answer.text);
  assert.equal(this.answer.json.error.corral.code, code);
});
Then('the drain ends by itself with {int} lease(s) left', async function (count) {
  const { status, json, text } = await this.draining;
  assert.ok(status < 300, text);
  assert.equal(json.final_lease_count, count);
  assert.equal(json.force_stopped, false);
});
Then('the drain is forced', async function () {
  const { json, text } = await this.draining;
  assert.equal(json.force_stopped, true, text);
});
Then('no engine of {string} runs', async function (id) {
  const corral = await this.corral();
  await until('the engine to be gone', () => !corral.engineOf(id));
});
Then('a new agent takes its place and the engines are the same', async function () {
  const corral = await this.corral();
  await until('another agent', () => {
    const found = provisionerOf(corral);
    return found && found.pid !== this.provisioner;
  });
  assert.ok(this.engines.length > 0 && this.engines.every(isAlive), 'no engine was restarted');
});
Then('pools are listed in the order of their ids', async function () {
  const { json } = await (await this.corral()).get('/v1/pools');
  const ids = (json.pools ?? json.data ?? json).map((p) => p.pool_id ?? p.id);
  assert.deepEqual(ids, [...ids].sort());
  assert.equal(ids.length, this.pools.length);
});
