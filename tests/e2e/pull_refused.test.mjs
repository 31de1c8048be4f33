// SPDX-License-Identifier: Apache-2.0
// Models that cannot be had for now: one clear message, nothing left behind, other pools unaffected, and the
// request that comes when it may be mended has the model fetched.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import test from 'node:test';
import { startHub } from '../fakes/hub.mjs';
import { fakeLlamaPool, model, until, withCorral } from './harness.mjs';

const COMMIT = '0123456789abcdef0123456789abcdef01234567';
const FILE = 'tiny-Q4_K_M.gguf';
const needsRoot = process.getuid() === 0 ? false : 'needs root';

/** Corral with a pool `chat` whose model only a hub has, another that is served, and folders for both. */
function withHub(name, { config = () => ({}), wrap, skip = false, before = () => {} }, body) {
  test(name, { timeout: 180000, skip }, async (t) => {
    const files = { [FILE]: { file: model('random') } };
    const hub = await startHub({ repos: { 'org/tiny': { commit: COMMIT, files } } });
    const home = fs.mkdtempSync(path.join(os.tmpdir(), 'crl-home-'));
    const cache = path.join(home, 'hub');
    fs.mkdirSync(cache);
    const env = { HOME: home, HF_ENDPOINT: hub.url, HF_HUB_CACHE: cache, HF_TOKEN: '' };
    const pools = [fakeLlamaPool('chat', [], { model: 'org/tiny' }), fakeLlamaPool('other')];
    const w = { hub, home, cache, pools };
    try {
      await before(w);
      const opts = { env, leaks: false, ...(wrap && { wrap }) };
      await withCorral({ pools, ...config(w) }, (corral) => body(corral, w), opts)(t);
    } finally {
      for (const mount of [cache]) {
        try {
          execFileSync('umount', [mount], { stdio: 'ignore' });
        } catch {
          /* it was none */
        }
      }
      await hub.close();
      fs.rmSync(home, { recursive: true, force: true });
    }
  });
}

async function refused(corral, ...words) {
  const { status, json, headers } = await corral.chat('chat');
  assert.equal(status, 503, JSON.stringify(json));
  assert.equal(json.error.corral.code, 'POOL_UNAVAILABLE');
  for (const word of words) assert.match(json.error.message, word);
  return { hint: json.error.corral.hint, retry: headers['x-should-retry'] };
}

const filesIn = (dir) =>
  fs.readdirSync(dir, { recursive: true, withFileTypes: true })
    .filter((e) => !e.isDirectory() && !e.name.endsWith('.lock'))
    .map((e) => e.name);

withHub(
  'who is refused begins nothing; the request after the pause has it fetched, and waits',
  { config: () => ({ fetch: { headroom: '500TiB' } }) },
  async (corral, { hub, pools }) => {
    const { retry } = await refused(corral, /no room/);
    assert.equal(retry, 'true');
    corral.write({ pools });
    assert.equal((await corral.cli('config', 'reload')).code, 0);
    const asked = hub.requests.length;
    let answer;
    await until('the pause to be over', async () => {
      assert.equal(hub.requests.length, asked, 'a refused request began a fetch');
      answer = await corral.chat('chat');
      return answer.status !== 503;
    });
    assert.equal(answer.status, 200, answer.text);
  },
);

withHub(
  'the quota counts what is to come: refused before a byte, and what could go is offered',
  {
    before: ({ hub }) => {
      const data = Buffer.alloc(700_000, 'x');
      data.write('GGUF', 0);
      const spec = { base64: data.toString('base64') };
      hub.config.repos['org/a'] = { commit: COMMIT, files: { 'a-Q4_0.gguf': spec } };
      hub.config.repos['org/b'] = { commit: COMMIT, files: { 'b-Q4_0.gguf': spec } };
    },
    config: () => ({ models_quota: '1MiB' }),
  },
  async (corral, { hub }) => {
    const sent = (repo) => hub.of(`/org/${repo}/${repo}-Q4_0.gguf`).sent;
    assert.equal((await corral.cli('pull', 'org/a')).code, 0);
    assert.equal((await corral.cli('pull', 'org/a')).code, 0, 'what is here takes nothing');
    const over = await corral.cli('pull', 'org/b');
    assert.equal(over.code, 1);
    assert.match(over.stderr, /org\/b has 684 KiB .* take 684 KiB, and models_quota is 1\.0 MiB/);
    assert.match(over.stderr, /models gc --dry-run/);
    assert.equal(sent('b'), 0);
    const { candidates } = JSON.parse((await corral.cli('models', 'gc', '--dry-run', '--json')).stdout);
    assert.deepEqual(candidates.map((c) => c.reference), ['hf:org/a']);
    assert.equal((await corral.cli('models', 'rm', candidates[0].id)).code, 0);
    assert.equal((await corral.cli('pull', 'org/b')).code, 0);
    assert.equal(sent('b'), 700_000);
    await corral.stop();
    const alone = await corral.cli('pull', 'org/a');
    assert.equal(alone.code, 1);
    assert.match(alone.stderr, /models_quota is 1\.0 MiB/);
    await corral.start();
  },
);

const mount = (...words) => execFileSync('mount', words);
const SMALL = 'size=64k';

withHub(
  'a full disk: said with what to do, on demand and pulled; nothing stays, others serve',
  {
    skip: needsRoot,
    before: ({ cache }) => mount('-t', 'tmpfs', '-o', SMALL, 'tmpfs', cache),
    config: () => ({ fetch: { headroom: '0' } }),
  },
  async (corral, { cache }) => {
    const { hint } = await refused(corral, /no room in .* are needed/);
    assert.match(hint, /models gc --dry-run/);
    const pulled = await corral.cli('pull', 'org/tiny');
    assert.equal(pulled.code, 1);
    assert.match(pulled.stderr, /no room in/);
    assert.deepEqual(filesIn(cache), []);
    assert.equal((await corral.chat('other')).status, 200);
    mount('-o', 'remount,size=64m', cache);
    let answer;
    await until('the pause to be over', async () => (answer = await corral.chat('chat')).status !== 503);
    assert.equal(answer.status, 200, answer.text);
  },
);

withHub(
  'a folder that cannot be written: the same',
  { skip: needsRoot, before: ({ cache }) => mount('-t', 'tmpfs', '-o', 'ro', 'tmpfs', cache) },
  async (corral, { cache }) => {
    await refused(corral, /read-only|Read-only/, /HF_HUB_CACHE|may write/i);
    const pulled = await corral.cli('pull', 'org/tiny');
    assert.equal(pulled.code, 1);
    assert.match(pulled.stderr, /read-only/i);
    assert.deepEqual(filesIn(cache), []);
    assert.equal((await corral.chat('other')).status, 200);
  },
);

withHub(
  'no network: said with the address, and the pool that needs none serves',
  {},
  async (corral, { hub, cache }) => {
    await hub.close();
    const address = new RegExp(hub.url.slice(7).replaceAll('.', '\\.'));
    const { hint, retry } = await refused(corral, address);
    assert.match(hint, /check the network/);
    assert.equal(retry, 'true');
    const pulled = await corral.cli('pull', 'org/tiny');
    assert.equal(pulled.code, 1);
    assert.match(pulled.stderr, address);
    assert.deepEqual(filesIn(cache), []);
    assert.equal((await corral.chat('other')).status, 200);
  },
);
