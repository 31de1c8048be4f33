// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { Given, Then, When } from '@cucumber/cucumber';
import { harness } from '../support/world.mjs';

const { corralPath, deadlineMs, model, root, until } = harness;
const { git, makeRepo } = await import(path.join(root, 'tests/e2e/repo.mjs'));

/** corral engines VERB chat, beside the Corral that runs. */
async function run(world, verb) {
  const { configFile } = await world.corral();
  const json = verb === 'plan' ? ['--json'] : [];
  const argv = ['engines', verb, 'chat', ...json, '--config', configFile];
  const env = Object.fromEntries(Object.entries(process.env).filter(([k]) => !/^(CORRAL|CUDA)_/.test(k)));
  const child = spawn(corralPath, argv, { stdio: ['ignore', 'pipe', 'pipe'], env });
  const out = ['', ''];
  child.stdout.on('data', (d) => (out[0] += d));
  child.stderr.on('data', (d) => (out[1] += d));
  const timer = setTimeout(() => child.kill('SIGKILL'), deadlineMs(100000));
  const code = await new Promise((resolve) => child.once('close', resolve));
  clearTimeout(timer);
  return { code, stdout: out[0], all: out[0] + out[1] };
}
const stepsOf = (said) => JSON.parse(said.stdout).pools[0].steps;

// ---- given -----------------------------------------------------------------------------------------

Given('a repository of engines with the release {string}', function (tag) {
  this.repo = makeRepo(this.scratch(), { units: 3 });
  assert.ok(git(this.repo, 'tag').split('\n').includes(tag));
});
Given('a pool {string} whose engine is built from it', function (id) {
  this.settings.state_dir = path.join(this.scratch(), 's');
  this.pools.push({
    id,
    model: model('random'),
    ctx: 2048,
    start_timeout: '2m',
    engine: { mode: 'source', source: { repo: `file:${this.repo}` } },
  });
});

// ---- when ------------------------------------------------------------------------------------------

When(/^corral engines (plan|provision|outdated|upgrade|rollback) is run$/, async function (verb) {
  this.said = await run(this, verb);
});
When('the repository gets the release {string}', function (tag) {
  git(this.repo, 'commit', '-q', '--allow-empty', '-m', tag);
  git(this.repo, 'tag', tag);
});
When('the repository gets the release {string} that does not compile', function (tag) {
  fs.writeFileSync(path.join(this.repo, 'ggml/ggml_1.c'), 'int ggml_1(void) { return not_a_name; }\n');
  git(this.repo, 'commit', '-qam', tag);
  git(this.repo, 'tag', tag);
});

// ---- then ------------------------------------------------------------------------------------------

Then('it ends well', function () {
  assert.equal(this.said.code, 0, this.said.all);
});
Then('it says {string}', function (text) {
  assert.ok(this.said.all.includes(text), this.said.all);
});
Then('it fails and says {string}', function (text) {
  assert.notEqual(this.said.code, 0, this.said.all);
  assert.ok(this.said.all.includes(text), this.said.all);
});
Then('no step of it is done', function () {
  assert.deepEqual([...new Set(stepsOf(this.said).map((s) => s.state))], ['todo']);
});
Then('every step but the canary is done', function () {
  const steps = stepsOf(this.said);
  assert.deepEqual(steps.filter((s) => s.state !== 'done').map((s) => s.step), ['canary']);
});
Then('{string} runs the release {string}', async function (id, tag) {
  const corral = await this.corral();
  const commit = git(this.repo, 'rev-parse', `${tag}^{commit}`).slice(0, 12);
  await until(`${id} to run ${tag}`, async () => {
    const all = (await corral.pool(id)).replicas.map((r) => r.engine_why ?? '');
    return all.length === 1 && all[0].includes(commit);
  });
});
