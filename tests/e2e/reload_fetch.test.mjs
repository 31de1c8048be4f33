// SPDX-License-Identifier: Apache-2.0
// corral reload POOL --model REFERENCE: fetched first, then proved as any other; what serves stays till then.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import test from 'node:test';
import { startHub } from '../fakes/hub.mjs';
import { fakeLlamaPool, model, until, withCorral } from './harness.mjs';

const COMMIT = '0123456789abcdef0123456789abcdef01234567';

function withHub(name, config, body) {
  test(name, { timeout: 120000 }, async (t) => {
    const files = { 'm-Q4_K_M.gguf': { file: model('random'), slow: 700_000 } };
    const hub = await startHub({ repos: { 'org/new': { commit: COMMIT, files } } });
    const home = fs.mkdtempSync(path.join(os.tmpdir(), 'crl-home-'));
    const cache = path.join(home, 'hub');
    const env = { HOME: home, HF_ENDPOINT: hub.url, HF_HUB_CACHE: cache, HF_TOKEN: '' };
    try {
      const run = withCorral(
        { pools: [fakeLlamaPool('chat')], ...config },
        (corral) => body(corral, { hub, cache }),
        { env, leaks: false, warm: ['chat'] },
      );
      await run(t);
    } finally {
      await hub.close();
      fs.rmSync(home, { recursive: true, force: true });
    }
  });
}

/** The engine before may just be ending. */
const serves = (corral, file) =>
  until(`chat to run ${file} alone`, () => {
    const all = corral.engines();
    return all.length === 1 && all[0].argv.includes(file);
  });

withHub('a reference is fetched, told, and served', {}, async (corral, { hub, cache }) => {
  const done = await corral.cli('reload', 'chat', '--model', 'org/new:Q4_K_M');
  assert.equal(done.code, 0, done.stderr);
  assert.match(done.stderr, /org\/new:Q4_K_M is being fetched for pool chat: .* of 511 KiB/);
  assert.match(done.stdout, /chat has its new engine/);
  const file = path.join(cache, 'models--org--new/snapshots', COMMIT, 'm-Q4_K_M.gguf');
  await serves(corral, file);
  assert.equal((await corral.chat('chat')).status, 200);
  const asked = hub.requests.length;
  assert.equal((await corral.cli('reload', 'chat', '--model', 'org/new')).code, 0);
  assert.equal(hub.requests.length, asked, 'it is here');
  await corral.stop();
  await corral.start();
  assert.equal((await corral.chat('chat')).status, 200);
  await serves(corral, file); // it holds over a restart
});

withHub('what cannot be had leaves what is served', {}, async (corral) => {
  const before = corral.engineOf('chat').pid;
  for (const [ref, words, status] of [
    ['org/new:Q8_0', /has no Q8_0/, 400],
    ['org/none', /org\/none/, 409],
    ['hf:../x', /no reference: names on the hub/, 400],
  ]) {
    const { status: got, json } = await corral.post('/v1/pools/chat/reload', { model: ref });
    assert.equal(got, status, JSON.stringify(json));
    assert.match(json.error.message, words);
  }
  assert.equal(corral.engineOf('chat').pid, before);
  assert.equal((await corral.chat('chat')).status, 200);
});

withHub('the policy holds', { network: { deny: ['127.0.0.1'] } }, async (corral, { hub }) => {
  const { status, json } = await corral.post('/v1/pools/chat/reload', { model: 'org/new' });
  assert.equal(status, 403, JSON.stringify(json));
  assert.match(json.error.message, /network\.deny/);
  assert.equal(hub.requests.length, 0);
});
