// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { Given, Then, When } from '@cucumber/cucumber';
import { harness } from '../support/world.mjs';

const { fakePool, send, sse, until, withDeadline } = harness;

const events = (corral, action, id) =>
  corral
    .log()
    .split('\n')
    .filter((line) => line.startsWith('{'))
    .map((line) => JSON.parse(line))
    .filter((e) => e.action === action && (e.pool_id === id || e.target === `${id}-0`));
const starts = (corral, id) => events(corral, 'start', id).filter((e) => e.generation);
const breaker = async (corral, id) => (await corral.figures())('corral_breaker_state', { pool: id });
const handoffPath = (corral, id) => path.join(corral.runtimeDir, 'engines', `${id}-0.json`);
const handoff = (corral, id) => JSON.parse(fs.readFileSync(handoffPath(corral, id), 'utf8'));

// ---- given -----------------------------------------------------------------------------------------

Given('a pool {string} whose engine exits with {int} when it starts', function (id, code) {
  this.pools.push(fakePool(id, ['--exit-at-start', code]));
});
Given('a pool {string} whose engine exits with {int} until it is mended', function (id, code) {
  const mark = path.join(fs.mkdtempSync(path.join(this.scratch(), 'mend-')), 'mended');
  this.mark = mark;
  const script = `test -e "$0" || exit ${code}; exec "$@"`;
  const { engine } = fakePool(id);
  this.pools.push({
    id,
    engine: { ...engine, command: ['/bin/sh', '-c', script, mark, ...engine.command] },
  });
});
Given('a pool {string} that is preloaded', function (id) {
  this.pools.push(fakePool(id, [], { preload: true }));
});

// ---- when ------------------------------------------------------------------------------------------

When('the engine of {string} is killed', async function (id) {
  const corral = await this.corral();
  this.victim = corral.engineOf(id).pid;
  process.kill(this.victim, 'SIGKILL');
});
When('the keeper of {string} is killed', async function (id) {
  const corral = await this.corral();
  const engine = corral.engineOf(id);
  this.victim = engine.pid;
  process.kill(engine.ppid, 'SIGKILL');
});
When('{string} is asked for an answer that takes {int} ms to begin', async function (id, ms) {
  const corral = await this.corral();
  this.later = corral.chat(id, { fake: { prefill_ms: ms } });
  await until('the request to be in the engine', async () => (await corral.leases(id)) === 1);
});
When('the engine of {string} is mended', function (_id) {
  fs.writeFileSync(this.mark, '');
});
When('{string} is restarted', async function (id) {
  const answer = await (await this.corral()).post(`/v1/pools/${id}/restart`, {});
  assert.equal(answer.status, 202, answer.text);
});
When('{string} is stopped', async function (id) {
  const answer = await (await this.corral()).post(`/v1/pools/${id}/stop`, {});
  assert.equal(answer.status, 202, answer.text);
});

// ---- then ------------------------------------------------------------------------------------------

Then('{string} has another engine and is ready', async function (id) {
  const corral = await this.corral();
  await until('another engine', async () => {
    const [replica] = (await corral.pool(id)).replicas;
    if (!replica?.ready || !replica.pid || replica.pid === this.victim) return false;
    return corral.engineOf(id)?.pid === replica.pid;
  });
});
Then('no backoff of {string} was waited for', async function (id) {
  const corral = await this.corral();
  assert.equal(starts(corral, id).length, 2);
  assert.deepEqual(events(corral, 'backoff', id), []);
});
Then('that answer is {int}', async function (status) {
  const answer = await this.later;
  assert.equal(answer.status, status, answer.text);
});
Then('every stream ends with the error {word} and without [DONE]', async function (code) {
  for (const { promise } of this.running) {
    const { response } = await promise;
    let text = '';
    const decoder = new TextDecoder();
    const whole = (async () => {
      for await (const part of response.body) text += decoder.decode(part, { stream: true });
    })();
    await assert.rejects(withDeadline(whole, 'the end of the stream'), 'not ended as complete');
    assert.equal(JSON.parse(sse(text).at(-1).data).error.corral.code, code);
    assert.ok(!text.includes('[DONE]'));
  }
});
Then('{string} was started once', async function (id) {
  assert.equal(starts(await this.corral(), id).length, 1);
});
Then('{string} was started {int} times', async function (id, times) {
  assert.equal(starts(await this.corral(), id).length, times);
});
Then('{string} is started {int} times, each time after a longer wait', async function (id, times) {
  const corral = await this.corral();
  await until(`${times} starts`, () => starts(corral, id).length >= times);
  const waits = events(corral, 'backoff', id).map((e) => Number(/in (\d+) ms/.exec(e.human)[1]));
  assert.ok(waits.length >= times - 1, `${waits}`);
  for (let i = 1; i < waits.length; i++) assert.ok(waits[i] > waits[i - 1], `waits: ${waits.join(', ')} ms`);
});
Then('the answer says when to come back', function () {
  assert.ok(Number(this.answer.headers['retry-after']) > 0, JSON.stringify(this.answer.headers));
  assert.equal(this.answer.headers['x-should-retry'], 'true');
});
Then('the breaker of {string} is open', async function (id) {
  assert.equal(await breaker(await this.corral(), id), 2);
});
Then('the breaker of {string} is closed', async function (id) {
  const corral = await this.corral();
  await until('the breaker to be closed', async () => (await breaker(corral, id)) === 0);
});
Then('{string} is ready by itself', async function (id) {
  await (await this.corral()).ready(id);
});
Then('there is no handoff file of {string}', async function (id) {
  const corral = await this.corral();
  await until('the file to be gone', () => !fs.existsSync(handoffPath(corral, id)));
});
Then('the handoff file of {string} names its engine', async function (id) {
  const corral = await this.corral();
  const { pid, generation, slots_total } = (await corral.pool(id)).replicas[0];
  const file = handoff(corral, id);
  assert.deepEqual([file.pid, file.generation, file.slots], [pid, generation, slots_total]);
  assert.equal(file.replica_id, `${id}-0`);
  assert.equal(file.pid, corral.engineOf(id).pid);
  assert.equal(fs.statSync(handoffPath(corral, id)).mode & 0o777, 0o600);
});
Then('the engine answers at the address of the handoff file of {string}', async function (id) {
  const { url } = handoff(await this.corral(), id);
  assert.equal((await send(url.replace(/^unix:/, ''), 'GET', '/health')).status, 200);
});
