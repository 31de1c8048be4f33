// SPDX-License-Identifier: Apache-2.0
//
// SIGKILL at any point of getting a model: the next run ends in the state of one that nobody disturbed. The
// whole program does it, `corral pull` and the process it fetches with; tests/fakes/kill_at.c kills.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import crypto from 'node:crypto';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { test } from 'node:test';

import { startHub } from '../fakes/hub.mjs';
import { registryRoutes } from '../fakes/registries.mjs';
import { Corral, fakeLlamaPool, fakePath, until } from './harness.mjs';

const COMMIT = 'c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00';
const lib = path.join(path.dirname(fakePath), 'kill-at.so');
const slow = Boolean(process.env.CORRAL_TEST_SLOW);

function gguf(size, seed) {
  const data = crypto.createHash('shake256', { outputLength: size }).update(seed).digest();
  data.write('GGUF', 0);
  return { base64: data.toString('base64') };
}

/** A digest's note tells also which file it is of: that is another one each time. */
const contentOf = (at) =>
  at.endsWith('.sha256') ? fs.readFileSync(at, 'utf8').replace(/^#.*$/m, '#') : fs.readFileSync(at);

/** Every name below dir: what a link leads to, the digest of a file. */
function treeOf(dir) {
  const tree = {};
  for (const name of fs.readdirSync(dir, { recursive: true }).sort()) {
    const at = path.join(dir, name);
    const stat = fs.lstatSync(at);
    if (stat.isSymbolicLink()) tree[name] = `-> ${fs.readlinkSync(at)}`;
    else if (stat.isDirectory()) tree[name] = 'a folder';
    else tree[name] = crypto.createHash('sha256').update(contentOf(at)).digest('hex');
  }
  return tree;
}

const CATALOG = [
  `SELECT id, reference, names, revision, source, fetched, architecture, name, quant, size_bytes, life,
    verified_ms > 0, verify_problem FROM models ORDER BY id`,
  'SELECT * FROM model_files ORDER BY model, ordinal',
  "SELECT job, ordinal FROM steps WHERE job LIKE 'fetch %' ORDER BY job",
];
const readCatalog =
  'import sqlite3, sys, json; db = sqlite3.connect(sys.argv[1]);' +
  'print(json.dumps([db.execute(sql).fetchall() for sql in sys.argv[2:]]))';

/** The rows of a catalog but for their times; `home` is another place in each run. */
function catalogOf(stateDir, home) {
  const args = ['-c', readCatalog, path.join(stateDir, 'catalog.db'), ...CATALOG];
  return JSON.parse(execFileSync('python3', args, { encoding: 'utf8' }).replaceAll(home, 'HOME'));
}

/** A Corral that runs nothing, whose models come from `hub` into folders of its own. */
function machine(hub, config = {}) {
  const home = fs.mkdtempSync(path.join(os.tmpdir(), 'crl-kill-'));
  const models = path.join(home, 'models');
  const places = { HF_ENDPOINT: hub.url, HF_HUB_CACHE: path.join(home, 'hub'), HF_TOKEN: '' };
  const env = { HOME: home, OLLAMA_HOST: '', ...places };
  const corral = new Corral({ pools: [], models_dir: models, ...config }, { env });
  const kills = path.join(corral.dir, 'kill');
  return {
    corral,
    home,
    env,
    kills,
    remove: () => [home, corral.dir].forEach((dir) => fs.rmSync(dir, { recursive: true, force: true })),
    state: () => [treeOf(home), fs.readdirSync(corral.stateDir).sort(), catalogOf(corral.stateDir, home)],
    async pull(ref, point = {}) {
      corral.env = { ...env, ...(Object.keys(point).length > 0 && { LD_PRELOAD: lib, ...point }) };
      const { code, stdout, stderr } = await corral.cli('pull', ref, '--json');
      const last = stdout.trim().split('\n').at(-1);
      return { code, stderr, last: last ? JSON.parse(last) : undefined };
    },
  };
}

/** How many points a whole pull has in each of its two programs, and what it leaves. */
async function undisturbed(hub, ref) {
  const calls = {};
  let state;
  for (const program of ['corral', 'corral-fetch']) {
    const m = machine(hub);
    const { code, stderr } = await m.pull(ref, { KILL_IN: program, KILL_COUNT: m.kills });
    assert.equal(code, 0, stderr);
    calls[program] = Number(fs.readFileSync(m.kills, 'utf8'));
    state = m.state();
    m.remove();
  }
  return { calls, state };
}

async function killedEverywhere(t, hub, ref, most) {
  const { calls, state } = await undisturbed(hub, ref);
  const all = calls.corral + calls['corral-fetch'];
  const points = Array.from({ length: Math.min(most, all) }, (_, i) => Math.floor(((i + 0.5) * all) / most));
  let killed = 0;
  for (const n of points) {
    const [program, at] = n < calls.corral ? ['corral', n + 1] : ['corral-fetch', n - calls.corral + 1];
    const where = `${ref}: ${program} at ${at} of ${calls[program]}`;
    const m = machine(hub);
    const cut = await m.pull(ref, { KILL_IN: program, KILL_AT: String(at), KILL_ONCE: m.kills });
    const dead = fs.existsSync(m.kills); // a fetch that goes faster has fewer points
    assert.equal(cut.code === 0, !dead, where);
    killed += dead;
    const again = await m.pull(ref);
    assert.equal(again.code, 0, `${where}: ${again.stderr} ${JSON.stringify(again.last)}`);
    assert.deepEqual(m.state(), state, where);
    m.remove();
  }
  t.diagnostic(`${killed} of ${points.length} runs were killed, of ${JSON.stringify(calls)} points`);
  assert.ok(killed >= points.length * 0.9, `${killed} of ${points.length}`);
}

async function withHub(t, config) {
  const hub = await startHub({ routes: registryRoutes, ...config });
  t.after(() => hub.close());
  return hub;
}

test('the hub: a split model with a projector', async (t) => {
  const files = { 'mmproj-F16.gguf': gguf(20_000, 'eyes') };
  for (let i = 1; i <= 3; i++) files[`Q6_K/m-Q6_K-0000${i}-of-00003.gguf`] = gguf(300_000 + i, `part ${i}`);
  const hub = await withHub(t, { repos: { 'org/repo': { commit: COMMIT, files } } });
  await killedEverywhere(t, hub, 'org/repo:Q6_K', slow ? 50 : 8);
});

test('https, with its digest beside it', async (t) => {
  const hub = await withHub(t, { files: { '/d/m.gguf': gguf(100_000, 'https') } });
  await killedEverywhere(t, hub, `${hub.url}/d/m.gguf`, slow ? 16 : 3);
});

test('a fetch that ends in a failure leaves no mark: who puts its file there is somebody else', async (t) => {
  const hub = await withHub(t, { files: { '/d/m.gguf': gguf(100_000, 'x'), '/e/m.gguf': { status: 403 } } });
  const m = machine(hub);
  assert.equal((await m.pull(`${hub.url}/d/m.gguf`)).code, 0);
  assert.notEqual((await m.pull(`${hub.url}/e/m.gguf`)).code, 0);
  const [models, , coming] = m.state()[2];
  assert.deepEqual([models.length, coming], [1, []]);
  m.remove();
});

test('oci', async (t) => {
  const layers = [{ title: 'tiny-Q4_K_M.gguf', spec: gguf(100_000, 'oci') }];
  const hub = await withHub(t, { registry: { 'me/m': { tags: { v1: layers } } } });
  await killedEverywhere(t, hub, `oci://${hub.url.slice(7)}/me/m:v1`, slow ? 16 : 3);
});

test('ollama', async (t) => {
  const type = 'application/vnd.ollama.image.model';
  const layers = [{ type, spec: gguf(9000, 'o') }];
  const hub = await withHub(t, { registry: { 'me/m': { tags: { '1b': layers } } } });
  await killedEverywhere(t, hub, `ollama:${hub.url.slice(7)}/me/m:1b`, slow ? 16 : 3);
});

test('on demand: whichever process is killed, the pool serves, and the same lies there', async (t) => {
  const file = fakeLlamaPool('chat').model;
  const tiny = { commit: COMMIT, files: { 'm-F32.gguf': { file } } };
  const hub = await withHub(t, { repos: { 'org/tiny': tiny } });
  const ref = 'org/tiny';
  const { calls, state } = await undisturbed(hub, ref);
  const most = slow ? 12 : 3;
  let killed = 0;
  for (let i = 0; i < most; i++) {
    const program = i % 2 ? 'corral-fetch' : 'engine-provisioner';
    const at = program === 'corral-fetch' ? Math.floor((calls[program] * (i + 1)) / (most + 1)) : i + 1;
    const m = machine(hub, { pools: [fakeLlamaPool('chat', [], { model: ref })] });
    const { corral } = m;
    corral.env = { ...m.env, LD_PRELOAD: lib, KILL_IN: program, KILL_AT: String(at), KILL_ONCE: m.kills };
    try {
      await corral.start();
      await until('the pool to serve', async () => (await corral.chat('chat')).status === 200, 60000);
      await corral.stop();
    } catch (error) {
      console.error(corral.log().slice(-10000));
      throw error;
    } finally {
      corral.kill();
    }
    killed += fs.existsSync(m.kills);
    assert.deepEqual(m.state()[0], state[0], `${program} at ${at}`);
    assert.deepEqual(m.state()[2], state[2], `${program} at ${at}`);
    m.remove();
  }
  t.diagnostic(`${killed} of ${most} runs were killed`);
});
