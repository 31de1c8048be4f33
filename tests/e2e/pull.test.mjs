// SPDX-License-Identifier: Apache-2.0
// A pool names a model that only the hub has: it is fetched with the first request, once, and served.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import test from 'node:test';
import { startHub } from '../fakes/hub.mjs';
import { Corral, model, realPool, sse, until, withCorral } from './harness.mjs';

const COMMIT = '0123456789abcdef0123456789abcdef01234567';
const FILE = 'tiny-Q4_K_M.gguf';
const WHERE = `/org/tiny/${FILE}`;

/** A hub with one repository, and the environment that leads to it. */
async function world(repo = {}, spec = {}) {
  const files = { [FILE]: { file: model('random'), ...spec }, 'README.md': { text: 'tiny' } };
  const hub = await startHub({ repos: { 'org/tiny': { commit: COMMIT, files, ...repo } } });
  const home = fs.mkdtempSync(path.join(os.tmpdir(), 'crl-home-'));
  const env = { HOME: home, HF_ENDPOINT: hub.url, HF_HUB_CACHE: path.join(home, 'hub'), HF_TOKEN: '' };
  const end = async () => {
    await hub.close();
    fs.rmSync(home, { recursive: true, force: true });
  };
  return { hub, home, env, end };
}

/** A test with a hub and a Corral whose pool `chat` names the hub's model. */
function withHub(name, { repo, spec, config = {}, pool = {} }, body) {
  test(name, { timeout: 180000 }, async (t) => {
    const w = await world(repo, spec);
    try {
      const pools = [realPool('chat', { model: 'org/tiny:Q4_K_M', ...pool })];
      // engines stay for keep_alive
      const opts = { env: w.env, leaks: false };
      const run = withCorral({ pools, ...config }, (corral) => body(corral, w), opts);
      await run(t);
    } finally {
      await w.end();
    }
  });
}

const fetching = (corral) =>
  until(
    'the model to be on its way',
    async () => (await corral.pool('chat')).replicas[0]?.progress?.phase === 'model_fetch',
  );

withHub(
  'a stream is told how far the fetch is and then answered; the next one asks nothing of the hub',
  { spec: { hold: true }, pool: { progress: { mode: 'comment', after: '10ms', every: '50ms' } } },
  async (corral, { hub, env }) => {
    const listed = (await corral.get('/v1/models')).json.data[0];
    assert.equal(listed.status.value, 'unloaded');
    let seen = '';
    const answer = await corral.chat(
      'chat',
      { stream: true },
      {
        onData: (d) => {
          seen += d;
          if (/: fetching chat/.test(seen)) hub.go();
        },
      },
    );
    assert.equal(answer.status, 200, answer.text);
    assert.match(answer.text, /^: fetching chat/m);
    assert.equal(sse(answer.text).at(-1).data, '[DONE]');

    const counts = hub.of(WHERE);
    assert.equal(counts.sent, fs.statSync(model('random')).size, 'each byte came once');
    const snapshot = path.join(env.HF_HUB_CACHE, 'models--org--tiny/snapshots', COMMIT, FILE);
    assert.ok(fs.lstatSync(snapshot).isSymbolicLink(), 'as the hub’s own client lays it');

    const before = hub.requests.length;
    assert.equal((await corral.chat('chat')).status, 200);
    assert.equal(hub.requests.length, before, 'the second request asks nothing of the hub');

    const { models } = (await corral.get('/v1/catalog/models')).json;
    assert.equal(models.length, 1);
    assert.equal(models[0].reference, 'hf:org/tiny:Q4_K_M');
    assert.deepEqual([models[0].state, models[0].fetched, models[0].serving], ['Active', true, true]);
    const one = (await corral.get(`/v1/catalog/models/${models[0].id}`)).json;
    assert.equal(one.revision, COMMIT);
    assert.match(one.files[0].sha256, /^[0-9a-f]{64}$/);
  },
);

withHub('two requests fetch once', { spec: { hold: true } }, async (corral, { hub }) => {
  const both = [corral.chat('chat'), corral.chat('chat')];
  await fetching(corral);
  hub.go();
  for (const { status, text } of await Promise.all(both)) assert.equal(status, 200, text);
  assert.equal(hub.of(WHERE).sent, fs.statSync(model('random')).size);
});

withHub(
  'a request that is not streamed is told at max_wait how far it is',
  { spec: { hold: true }, pool: { queue: { max_wait: '1s' } } },
  async (corral, { hub }) => {
    const { status, json, headers } = await corral.chat('chat');
    assert.equal(status, 503);
    assert.equal(json.error.corral.code, 'POOL_UNREADY');
    assert.match(json.error.message, /its model is being fetched/);
    assert.equal(headers['x-should-retry'], 'true');
    hub.go();
    await until('the fetch to end', async () => (await corral.pool('chat')).state !== 'provisioning', 60000);
    assert.equal((await corral.chat('chat')).status, 200);
    assert.equal(hub.of(WHERE).sent, fs.statSync(model('random')).size);
  },
);

test('killed in the middle, the next run goes on', { timeout: 180000 }, async () => {
  const size = fs.statSync(model('random')).size;
  const w = await world({}, { stall: { after: Math.floor(size / 2), times: 1 } });
  const corral = new Corral({ pools: [realPool('chat', { model: 'org/tiny' })] }, { env: w.env });
  try {
    await corral.start();
    corral.chat('chat').catch(() => {});
    await until('half of it to be sent', () => w.hub.of(WHERE).sent >= Math.floor(size / 2));
    corral.kill();
    await until('all of it to be gone', () => corral.processes().length === 0);
    await corral.start();
    const answer = await corral.chat('chat');
    assert.equal(answer.status, 200, answer.text);
    const again = w.hub.of(WHERE).sent - size;
    assert.ok(again <= size / 2, `went on: ${again} bytes came twice`);
    await corral.stop();
  } catch (error) {
    console.error(corral.log().slice(-20000));
    throw error;
  } finally {
    corral.kill();
    corral.remove();
    await w.end();
  }
});

/** What a request is told when its model cannot be had. */
async function refused(corral, words) {
  const { status, json, headers } = await corral.chat('chat');
  assert.equal(status, 503);
  assert.equal(json.error.corral.code, 'POOL_UNAVAILABLE');
  assert.match(json.error.message, words);
  return { hint: json.error.corral.hint, retry: headers['x-should-retry'] };
}

withHub('offline says so', { config: { network: { offline: true } } }, async (corral, { hub }) => {
  const { hint, retry } = await refused(corral, /offline/);
  assert.match(hint, /network/);
  assert.equal(retry, 'false');
  assert.equal(hub.requests.length, 0);
});

withHub(
  'a host the policy does not allow is refused by its line',
  { config: { network: { deny: ['127.0.0.1'] } } },
  async (corral, { hub }) => {
    await refused(corral, /network\.deny/);
    assert.equal(hub.requests.length, 0);
    corral.write({ pools: [realPool('chat', { model: 'org/tiny:Q4_K_M' })] });
    assert.equal((await corral.cli('config', 'reload')).code, 0);
    await until('the pool to be open', async () => (await corral.chat('chat')).status === 200, 60000);
  },
);

withHub(
  'a gated repository is explained, and not asked again for each request',
  { repo: { gated: 403, token: 'hf_secret' } },
  async (corral, { hub }) => {
    const { hint } = await refused(corral, /org\/tiny/);
    assert.match(hint, /terms/);
    const asked = hub.requests.length;
    await refused(corral, /org\/tiny/);
    assert.equal(hub.requests.length, asked);
  },
);

withHub(
  'preload fetches at once, and /readyz waits for it',
  { spec: { hold: true }, pool: { preload: true } },
  async (corral, { hub }) => {
    await fetching(corral);
    const { status, json } = await corral.get('/readyz');
    assert.equal(status, 503);
    assert.deepEqual(json.preloading, ['chat']);
    hub.go();
    await corral.ready('chat');
    assert.equal((await corral.get('/readyz')).status, 200);
  },
);

withHub(
  'pull, verify, retire, activate, remove',
  { spec: { slow: 4 << 20 } },
  async (corral, { hub }) => {
    const pulled = await corral.cli('pull', 'org/tiny:Q4_K_M');
    assert.equal(pulled.code, 0, pulled.stderr);
    assert.match(pulled.stdout, /hf:org\/tiny:Q4_K_M is here: /);
    const again = await corral.cli('pull', 'org/tiny:Q4_K_M', '--json');
    const last = JSON.parse(again.stdout.trim().split('\n').at(-1));
    assert.equal(last.fetched_bytes, 0);
    assert.equal(hub.of(WHERE).sent, fs.statSync(model('random')).size);

    const verified = await corral.cli('models', 'verify', last.id);
    assert.equal(verified.code, 0, verified.stderr);
    assert.equal((await corral.cli('models', 'retire', last.id)).code, 0);
    await until('the pool to refuse', async () => (await corral.chat('chat')).status === 410);
    assert.equal((await corral.chat('chat')).json.error.corral.code, 'MODEL_RETIRED');
    assert.equal((await corral.cli('models', 'activate', last.id)).code, 0);
    await until('the pool to serve', async () => (await corral.chat('chat')).status === 200, 60000);

    const serving = await corral.cli('models', 'rm', last.id);
    assert.equal(serving.code, 1);
    assert.match(serving.stderr, /pool chat is serving it/);
    assert.equal((await corral.cli('stop', 'chat')).code, 0);
    await until('it to be stopped', async () => (await corral.pool('chat')).state === 'unloaded', 60000);
    const offered = JSON.parse((await corral.cli('models', 'gc', '--dry-run', '--json')).stdout);
    assert.deepEqual(
      offered.candidates.map((c) => c.id),
      [last.id],
    );
    const removed = await corral.cli('models', 'rm', last.id);
    assert.equal(removed.code, 0, removed.stderr);
    assert.equal(fs.existsSync(last.path), false);
    assert.equal((await corral.cli('models', 'show', last.id)).code, 1);
  },
);

withHub('the API refuses files outside the folders of models', {}, async (corral, { home }) => {
  const file = path.join(home, 'secret.gguf');
  fs.copyFileSync(model('random'), file);
  const { status, json } = await corral.post('/v1/catalog/pull', { reference: `file:${file}` });
  assert.equal(status, 403);
  assert.match(json.error.message, /lies in no folder of models/);
  assert.equal((await corral.post('/v1/catalog/pull', {})).status, 400);
  assert.equal((await corral.get('/v1/catalog/models/no-such')).status, 404);
  assert.deepEqual((await corral.get('/v1/engines')).json, { engines: [], steps: [] });
});

withHub(
  'a file that nobody fetched is in the catalog once it was served, and can be retired',
  { pool: { model: model('random') } },
  async (corral) => {
    assert.equal((await corral.chat('chat')).status, 200);
    const [one] = (await corral.get('/v1/catalog/models')).json.models;
    assert.equal(one.reference, `file:${model('random')}`);
    assert.equal(one.fetched, false);
    const state = `/v1/catalog/models/${one.id}/state`;
    assert.equal((await corral.post(state, { state: 'Retired' })).json.state, 'Retired');
    await until('the pool to refuse', async () => (await corral.chat('chat')).status === 410);
    assert.equal((await corral.post(state, { state: 'Gone' })).status, 400);
    assert.equal((await corral.post(state, { state: 'Active' })).status, 200);
    await until('the pool to serve', async () => (await corral.chat('chat')).status === 200, 60000);
  },
);

test('pull without a daemon', { timeout: 60000 }, async () => {
  const w = await world();
  const corral = new Corral({ pools: [] }, { env: w.env });
  try {
    const { code, stdout, stderr } = await corral.cli('pull', 'org/tiny', '--json');
    assert.equal(code, 0, stderr);
    const last = JSON.parse(stdout.trim().split('\n').at(-1));
    assert.ok(fs.existsSync(last.path));
    const missing = await corral.cli('pull', 'org/none');
    assert.equal(missing.code, 1);
    assert.match(missing.stderr, /org\/none/);
  } finally {
    corral.remove();
    await w.end();
  }
});
