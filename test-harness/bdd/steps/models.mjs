// SPDX-License-Identifier: Apache-2.0
// Models that come from elsewhere: a hub of the scenario's own plays the other side.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { Given, Then, When } from '@cucumber/cucumber';
import { harness } from '../support/world.mjs';

const { fakeLlamaPool, fakePath, model } = harness;
const FILE = 'tiny-Q4_K_M.gguf';
const fakes = path.join(harness.root, path.basename(path.resolve(fakePath, '../..')), 'fakes/hub.mjs');
const { startHub } = await import(pathToFileURL(fakes));

async function hubWith(world, repo, faults = {}) {
  const files = { [FILE]: { file: model('random'), ...faults } };
  const commit = '0123456789abcdef0123456789abcdef01234567';
  world.hub = await startHub({ repos: { [repo]: { commit, files } } });
  world.where = `/${repo}/${FILE}`;
  let open = true;
  world.hubGoes = async () => open && ((open = false), await world.hub.close());
  world.closing.push(world.hubGoes);
  const cache = path.join(world.scratch(), 'hub');
  world.environment = { HF_ENDPOINT: world.hub.url, HF_HUB_CACHE: cache, HF_TOKEN: '' };
}

// ---- given -----------------------------------------------------------------------------------------

Given('a hub with the model {string}', function (repo) {
  return hubWith(this, repo);
});
Given('a hub with the model {string} that sends other bytes than it promised', function (repo) {
  return hubWith(this, repo, { corrupt: true });
});
Given('a pool {string} of the reference {string}', function (id, ref) {
  this.pools.push(fakeLlamaPool(id, [], { model: ref }));
});
Given('a pool {string} of a file', function (id) {
  this.pools.push(fakeLlamaPool(id));
});
Given('the network is offline', function () {
  this.settings.network = { offline: true };
});

// ---- when ------------------------------------------------------------------------------------------

When('corral {string} is run', async function (words) {
  this.said = await (await this.corral()).cli(...words.split(' '));
});
When('the hub is gone', function () {
  return this.hubGoes();
});

// ---- then ------------------------------------------------------------------------------------------

Then('it succeeds and says {string}', function (words) {
  assert.equal(this.said.code, 0, this.said.stderr);
  assert.ok(this.said.stdout.includes(words), this.said.stdout);
});
Then('the hub sent the model once', function () {
  assert.equal(this.hub.of(this.where).sent, fs.statSync(model('random')).size);
});
Then('nobody asked the hub', function () {
  assert.equal(this.hub.requests.length, 0);
});
