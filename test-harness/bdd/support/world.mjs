// SPDX-License-Identifier: Apache-2.0
// One Corral a scenario, of the harness the end-to-end tests use; removed after the scenario.
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { After, AfterStep, setDefaultTimeout, setWorldConstructor, World } from '@cucumber/cucumber';

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../../..');
const folder = ['tests', 'test'].find((name) => fs.existsSync(path.join(root, name, 'e2e/harness.mjs')));
export const harness = await import(pathToFileURL(path.join(root, folder, 'e2e/harness.mjs')));

setDefaultTimeout(harness.deadlineMs(120000));

class CorralWorld extends World {
  pools = [];
  settings = {}; // keys of the configuration besides its pools
  environment = {}; // of Corral, besides the test's own
  closing = []; // what else is ended after the scenario
  running = []; // requests that have not ended: {promise, abort}

  async corral() {
    this.instance ??= await new harness.Corral(
      { ...this.settings, pools: this.pools },
      { env: this.environment },
    ).start();
    return this.instance;
  }

  /** A folder for what a scenario needs besides; removed after it. */
  scratch() {
    return (this.folder ??= fs.mkdtempSync(path.join(os.tmpdir(), 'bdd-')));
  }

  /** A streamed request that goes on until it is aborted, or its engine ends it. */
  async request(pool) {
    const corral = await this.corral();
    const gone = new AbortController();
    const body = JSON.stringify({ model: pool, stream: true, messages: [], max_tokens: 1000000 });
    const headers = { 'content-type': 'application/json' };
    const promise = fetch(`${corral.url}/v1/chat/completions`, {
      method: 'POST',
      headers,
      body,
      signal: gone.signal,
    }).then(
      async (response) => {
        const one = { response, abort: () => gone.abort() };
        if (response.status !== 200) one.json = await response.json();
        return one;
      },
      () => ({ abort: () => {} }),
    );
    this.running.push({ promise, abort: () => gone.abort() });
    return promise;
  }
}
setWorldConstructor(CorralWorld);

AfterStep(function ({ result }) {
  if (result.status === 'FAILED' && this.instance) this.log(this.instance.log().slice(-10000));
});

After(async function () {
  for (const one of this.running) one.abort();
  await Promise.all(this.running.map((one) => one.promise));
  for (const close of this.closing) await close();
  if (this.folder) fs.rmSync(this.folder, { recursive: true });
  if (!this.instance) return;
  try {
    await this.instance.stop();
  } finally {
    this.instance.kill();
    this.instance.remove();
  }
});
