// SPDX-License-Identifier: Apache-2.0
//
// Getting models, against servers that play the hub, a bucket and registries (tests/fakes), each with its own
// ways to fail. model_ensure is driven by itself (get-model), so that a case costs milliseconds.

import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import crypto from 'node:crypto';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { after, test } from 'node:test';

import { startHub } from '../fakes/hub.mjs';
import { manifestOf, registryRoutes } from '../fakes/registries.mjs';
import { buildDir, deadlineMs, model, root } from './harness.mjs';

const getter = path.join(buildDir, path.basename(path.join(root, 'tests')), 'fakes/get-model');
const COMMIT = 'c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00';
const folders = [];
after(() => folders.forEach((dir) => fs.rmSync(dir, { recursive: true, force: true })));

const sha256Of = (file) => crypto.createHash('sha256').update(fs.readFileSync(file)).digest('hex');
const gguf = (size, seed) => {
  const data = crypto.createHash('shake256', { outputLength: size }).update(seed).digest();
  data.write('GGUF', 0);
  return { base64: data.toString('base64') };
};
const digest = (spec) => crypto.createHash('sha256').update(Buffer.from(spec.base64, 'base64')).digest('hex');

/** A machine: its folders, and `get(ask, env)`, which runs model_ensure there. */
function machine(t, hub) {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'corral-get-'));
  folders.push(dir);
  const at = (name) => path.join(dir, name);
  const fetcher = path.join(buildDir, 'corral-fetch');
  const base = {
    fetch_program: fetcher,
    hub: at('hub'),
    models_dir: at('models'),
    ollama: at('ollama'),
    state_dir: at('state'),
  };
  const places = { ...base, hub_endpoint: hub?.url, ollama_endpoint: hub?.url, s3_endpoint: hub?.url };
  const spawned = (ask, env = {}) => {
    const set = typeof ask === 'string' ? { ref: ask } : ask.set ?? { ref: ask.ref };
    const whole = { ...places, ...(typeof ask === 'string' ? {} : ask), set };
    const clean = { PATH: process.env.PATH, HOME: dir, LANG: 'C.UTF-8', ...env };
    return spawn(getter, [JSON.stringify(whole)], { env: clean, stdio: ['ignore', 'pipe', 'inherit'] });
  };
  const ended = async (child) => {
    let out = '';
    child.stdout.setEncoding('utf8').on('data', (text) => (out += text));
    const timer = setTimeout(() => child.kill('SIGKILL'), deadlineMs(60000));
    await new Promise((resolve) => child.on('close', resolve));
    clearTimeout(timer);
    const lines = out.split('\n').filter(Boolean).map((line) => JSON.parse(line));
    return { ...lines.at(-1), progress: lines.slice(0, -1) };
  };
  const get = (ask, env) => ended(spawned(ask, env));
  return { dir, at, get, spawned, ended };
}

async function withHub(t, config) {
  const hub = await startHub({ routes: registryRoutes, ...config });
  t.after(() => hub.close());
  return { hub, ...machine(t, hub) };
}

const ok = (got) => assert.equal(got.why, 'ok', got.message);
function refused(got, why, ...words) {
  assert.equal(got.why, why, got.message ?? JSON.stringify(got));
  for (const word of words) assert.ok(got.message.includes(word), `"${got.message}" does not say "${word}"`);
}
function listing(dir) {
  const all = fs.existsSync(dir) ? fs.readdirSync(dir, { recursive: true }) : [];
  return all.filter((name) => !name.includes('.locks')).sort();
}

const tiny = gguf(100_000, 'tiny');
const small = gguf(30_000, 'small');
const eyes = gguf(20_000, 'eyes');
const repo = (files, more = {}) => ({ repos: { 'org/repo': { commit: COMMIT, files, ...more } } });

// ---- the hub ----------------------------------------------------------------------------------------------

test('the hub: a quantization is fetched, verified and laid out as the hub does', async (t) => {
  const files = { 'README.md': { text: 'hello' }, 'm-Q8_0.gguf': small, 'm-Q4_K_M.gguf': tiny };
  const { hub, get, at } = await withHub(t, repo(files));
  const got = await get('org/repo');
  ok(got);
  const folder = at('hub/models--org--repo');
  assert.equal(got.path, `${folder}/snapshots/${COMMIT}/m-Q4_K_M.gguf`);
  assert.equal(fs.readlinkSync(got.path), `../../blobs/${digest(tiny)}`);
  assert.equal(sha256Of(got.path), digest(tiny));
  assert.equal(fs.readFileSync(`${folder}/refs/main`, 'utf8'), COMMIT);
  assert.ok(fs.existsSync(at(`hub/.locks/models--org--repo/${digest(tiny)}.lock`)));
  assert.deepEqual(fs.readdirSync(`${folder}/blobs`), [digest(tiny)]);
  assert.equal(got.reference, 'hf:org/repo');
  assert.equal(got.revision, COMMIT);
  assert.equal(got.source, 'Hugging Face');
  assert.equal(got.fetched, 100_000);
  assert.equal(got.files[0].sha256, digest(tiny));
  assert.match(got.files[0].url, /\/org\/repo\/resolve\/c0ffee00[0-9a-f]+\/m-Q4_K_M\.gguf$/);
  const asked = hub.requests.length;
  const again = await get('org/repo:q4_k_m');
  ok(again);
  assert.equal(again.fetched, 0);
  assert.equal(again.path, got.path);
  assert.equal(hub.requests.length, asked, 'the network was asked for what is here');
  ok(await get({ ref: 'org/repo', offline: true }));
});

test('the hub: split files come whole, with their projector', async (t) => {
  const files = { 'mmproj-F16.gguf': eyes, 'mmproj-F32.gguf': small };
  for (let i = 1; i <= 3; i++) files[`Q6_K/m-Q6_K-0000${i}-of-00003.gguf`] = gguf(10_000 + i, `part ${i}`);
  const { get } = await withHub(t, repo(files));
  const got = await get('org/repo:Q6_K');
  ok(got);
  assert.equal(got.parts.length, 3);
  assert.equal(got.size, 30_006);
  assert.match(got.path, /Q6_K\/m-Q6_K-00001-of-00003\.gguf$/);
  assert.match(fs.readlinkSync(got.path), /^\.\.\/\.\.\/\.\.\/blobs\/[0-9a-f]{64}$/);
  assert.match(got.mmproj, /mmproj-F16\.gguf$/);
  assert.deepEqual(got.files.map((f) => f.role), ['weights', 'weights', 'weights', 'mmproj']);
});

test('the hub: a set has its own references, and mmproj: none is none', async (t) => {
  const files = { 'm-Q4_K_M.gguf': tiny, 'mmproj-F16.gguf': eyes, 'draft.gguf': small };
  files['l.gguf'] = gguf(999, 'l');
  const { get } = await withHub(t, repo(files));
  const none = await get({ set: { ref: 'org/repo', mmproj: 'none' } });
  ok(none);
  assert.equal(none.mmproj, null);
  assert.equal(none.fetched, 100_000);
  const set = { ref: 'org/repo', mmproj: 'hf:org/repo', draft: 'hf:org/repo/draft.gguf' };
  const got = await get({ set: { ...set, lora: ['hf:org/repo/l.gguf'] } });
  ok(got);
  assert.match(got.mmproj, /mmproj-F16\.gguf$/);
  assert.match(got.draft, /draft\.gguf$/);
  assert.match(got.lora[0], /l\.gguf$/);
  assert.equal(got.fetched, 20_000 + 30_000 + 999);
});

test('the hub: whole snapshots for engines that bring their own formats', async (t) => {
  const shard = (i) => `model-0000${i}-of-00002.safetensors`;
  const index = JSON.stringify({ weight_map: { a: shard(1), b: shard(2) } });
  const files = {
    'config.json': { text: '{"architectures":[]}' },
    'model.safetensors.index.json': { text: index },
    [shard(1)]: gguf(5000, 's1'),
    [shard(2)]: gguf(6000, 's2'),
    'original/consolidated.pth': gguf(7000, 's3'),
    'sub/tokenizer.json': { text: '{}' },
  };
  const { hub, get, at } = await withHub(t, repo(files));
  const got = await get({ ref: 'org/repo', any: true });
  ok(got);
  assert.equal(got.path, at(`hub/models--org--repo/snapshots/${COMMIT}`));
  const whole = Object.keys(files).filter((name) => !name.startsWith('original')).concat('sub').sort();
  assert.deepEqual(listing(got.path), whole);
  assert.equal(fs.readFileSync(path.join(got.path, 'config.json'), 'utf8'), '{"architectures":[]}');
  assert.match(fs.readlinkSync(path.join(got.path, 'config.json')), /^\.\.\/\.\.\/blobs\/[0-9a-f]{40}$/);
  const asked = hub.requests.length;
  ok(await get({ ref: 'org/repo', any: true }));
  assert.equal(hub.requests.length, asked);
  fs.rmSync(path.join(got.path, shard(2)));
  const again = await get({ ref: 'org/repo', any: true });
  ok(again);
  assert.equal(again.fetched, 0, 'the blob was there, only its link was not');
});

test('the hub: a file of git itself is checked by its git digest', async (t) => {
  const files = { 'config.json': { text: '{}' }, 'm.safetensors': gguf(100, 'x') };
  const { hub, get, at } = await withHub(t, repo(files));
  hub.config.routes = [(req, res, h) => {
    if (!req.path.endsWith('/config.json')) return false;
    res.end('[]');
    return Boolean(h);
  }, ...registryRoutes];
  refused(await get({ ref: 'org/repo', any: true }), 'digest', "git's digest");
  assert.ok(!fs.existsSync(at(`hub/models--org--repo/snapshots/${COMMIT}/config.json`)));
});

test('the hub: what is not there is told with what is', async (t) => {
  const { get } = await withHub(t, repo({ 'a-Q4_0.gguf': tiny, 'b-Q4_0.gguf': small, 'b-Q8_0.gguf': eyes }));
  refused(await get('org/repo:Q5_K_M'), 'missing', 'has no Q5_K_M', 'Q4_0, Q8_0');
  refused(await get('org/repo:Q4_0'), 'input', 'a-Q4_0.gguf, b-Q4_0.gguf', 'hf:org/repo/a-Q4_0.gguf');
  refused(await get('org/gone'), 'denied', 'misspelt', 'private', 'HF_TOKEN');
  refused(await get('org/repo@nope'), 'missing', 'no revision nope');
  refused(await get('hf:org/repo/c.gguf'), 'missing', 'no file of that name');
});

test('the hub: revisions', async (t) => {
  const { get, at } = await withHub(t, repo({ 'm-Q4_K_M.gguf': tiny }, { revisions: ['v1'] }));
  ok(await get('org/repo@v1'));
  assert.equal(fs.readFileSync(at('hub/models--org--repo/refs/v1'), 'utf8'), COMMIT);
  assert.ok(!fs.existsSync(at('hub/models--org--repo/refs/main')));
  const pinned = await get({ ref: `org/repo@${COMMIT}`, offline: true });
  ok(pinned);
  assert.equal(pinned.revision, COMMIT);
});

test('the hub: gated repositories say what to click and how to give a token', async (t) => {
  const { hub, get } = await withHub(t, repo({ 'm-Q4_K_M.gguf': tiny }, { gated: 401, token: 'hf_good' }));
  refused(await get('org/repo'), 'denied', 'is gated', `${hub.url}/org/repo`, 'HF_TOKEN', 'settings/tokens');
  refused(await get('org/repo', { HF_TOKEN: 'hf_bad' }), 'denied', 'is gated', 'accept its terms');
  ok(await get('org/repo', { HF_TOKEN: 'hf_good' }));
  const sent = hub.requests.filter((r) => r.cdn);
  assert.ok(sent.length > 0 && sent.every((r) => !r.headers.authorization), 'the CDN was given the token');
});

test('the hub: private repositories and the token file', async (t) => {
  const { get, at } = await withHub(t, repo({ 'm-Q4_K_M.gguf': tiny }, { token: 'hf_good' }));
  refused(await get('org/repo'), 'denied', 'private', 'HF_TOKEN_PATH');
  fs.mkdirSync(at('.cache/huggingface'), { recursive: true });
  fs.writeFileSync(at('.cache/huggingface/token'), 'hf_good\n');
  ok(await get('org/repo'));
});

test('the hub: 429 is waited for', async (t) => {
  const busy = { times: 2, after: 0 };
  const { hub, get } = await withHub(t, repo({ 'm-Q4_K_M.gguf': { ...tiny, busy } }, { busy }));
  ok(await get('org/repo'));
  assert.equal(hub.of('/api/models/org/repo/revision/main').requests, 3);
});

test('the hub: 429 for ever is told', async (t) => {
  const { get } = await withHub(t, repo({ 'm-Q4_K_M.gguf': tiny }, { busy: { after: 0 } }));
  refused(await get('org/repo'), 'busy', '429', 'HF_TOKEN');
});

test('the hub: hostile names, commits and listings', async (t) => {
  const spec = { text: 'x' };
  const names = ['../x.gguf', '/etc/x.gguf', 'a/../../x.gguf', 'a\u0001.gguf', 'a\\b.gguf', '.', 'a//b'];
  for (const name of names) {
    const { get, dir } = await withHub(t, repo({ [name]: spec, 'm-Q4_K_M.gguf': tiny }));
    refused(await get('org/repo'), 'network', 'a file that is not taken');
    assert.ok(!listing(dir).some((n) => n.endsWith('.gguf')));
  }
  for (const commit of ['../../x', '', 'c0ffee']) {
    const { get } = await withHub(t, { repos: { 'org/repo': { commit, files: { 'm-Q4_K_M.gguf': tiny } } } });
    refused(await get('org/repo'), 'network', 'no commit');
  }
});

test('the hub: HF_ENDPOINT, HF_HUB_OFFLINE and network.offline', async (t) => {
  const { hub, get } = await withHub(t, repo({ 'm-Q4_K_M.gguf': tiny }));
  const none = { hub_endpoint: undefined };
  refused(await get('org/repo', { HF_HUB_OFFLINE: '1' }), 'refused', 'HF_HUB_OFFLINE');
  refused(await get({ ref: 'org/repo', offline: true }), 'refused', 'network.offline: true');
  assert.equal(hub.requests.length, 0);
  ok(await get({ ref: 'org/repo', ...none }, { HF_ENDPOINT: `${hub.url}/` }));
});

test('the hub: resets, slow and truncated answers, and one that lies', async (t) => {
  const { hub, get } = await withHub(t, { repos: {} });
  const one = (name, spec) => {
    hub.config.repos[name] = { commit: COMMIT, files: { 'm-Q4_K_M.gguf': spec } };
    return get(name);
  };
  ok(await one('org/resets', { ...tiny, resetEvery: 30_000, resets: 3 }));
  const none = { size: 3 << 20, seed: 'big', resetEvery: 400_000, resets: 5 };
  refused(await one('org/none', none), 'digest', 'not a GGUF file'); // it came whole, and it is none
  ok(await one('org/short', { ...eyes, truncate: 9000, times: 2 }));
  refused(await one('org/lies', { ...small, corrupt: true }), 'digest', 'SHA-256');
  ok(await one('org/slow', { ...gguf(9000, '5'), slow: 20_000 }));
});

test('the hub: killed in the middle, it goes on', async (t) => {
  const files = { 'm-Q4_K_M.gguf': { ...gguf(2 << 20, 'long'), slow: 1_500_000 }, 'mmproj-F16.gguf': eyes };
  const { hub, get, spawned, at } = await withHub(t, repo(files));
  const child = spawned({ ref: 'org/repo', progress: true });
  await new Promise((resolve) => {
    child.stdout.on('data', (text) => /"bytes":[1-9]/.test(text) && resolve());
    child.on('close', resolve);
  });
  child.kill('SIGKILL');
  refused(await get({ ref: 'org/repo', offline: true }), 'refused');
  const got = await get('org/repo');
  ok(got);
  assert.equal(sha256Of(got.path), digest(files['m-Q4_K_M.gguf']));
  assert.match(got.mmproj, /mmproj-F16/);
  assert.deepEqual(listing(at('hub/models--org--repo/blobs')).length, 2);
  assert.ok(hub.of('/org/repo/m-Q4_K_M.gguf').sent < (2 << 20) * 2);
});

test('fetch.parallel: so many answers at a time, and no more', async (t) => {
  const slowly = { size: 24 << 20, seed: 'wide', slow: 48 << 20 };
  for (const parallel of [1, 3]) {
    const { hub, get } = await withHub(t, { files: { '/w.gguf': { ...slowly } } });
    const got = await get({ ref: `${hub.url}/w.gguf`, parallel });
    refused(got, 'digest', 'not a GGUF file'); // all of it came
    assert.equal(hub.of('/w.gguf').sent, slowly.size);
    assert.equal(hub.peak, parallel);
  }
});

test('the hub: two at once fetch once', async (t) => {
  const files = { 'm-Q4_K_M.gguf': { ...gguf(600_000, 'once'), slow: 1_200_000 } };
  const { hub, get } = await withHub(t, repo(files));
  const both = await Promise.all([get('org/repo'), get('org/repo'), get('org/repo:Q4_K_M')]);
  both.forEach(ok);
  assert.equal(hub.of('/org/repo/m-Q4_K_M.gguf').sent, 600_000);
  assert.equal(both.reduce((n, got) => n + got.fetched, 0), 600_000);
});

test('the hub: a lock that somebody else holds is waited for', async (t) => {
  const { get, at, spawned, ended } = await withHub(t, repo({ 'm-Q4_K_M.gguf': tiny }));
  const lock = at(`hub/.locks/models--org--repo/${digest(tiny)}.lock`);
  fs.mkdirSync(path.dirname(lock), { recursive: true });
  const holder = spawn('flock', [lock, '-c', 'echo held; read x'], { stdio: ['pipe', 'pipe', 'inherit'] });
  await new Promise((resolve) => holder.stdout.once('data', resolve));
  const child = spawned({ ref: 'org/repo', progress: true });
  const end = ended(child);
  await new Promise((resolve) => child.stdout.on('data', (s) => /another process/.test(s) && resolve()));
  holder.stdin.end('\n');
  ok(await end);
  ok(await get('org/repo'));
});

test('the hub: a generated model is fetched as it is', async (t) => {
  const file = model('says');
  const { get } = await withHub(t, repo({ 'says-F32.gguf': { file } }));
  const got = await get('org/repo');
  ok(got);
  assert.equal(sha256Of(got.path), sha256Of(file));
});

test('the hub: a plan says what would be done, and does nothing', async (t) => {
  const { get, dir } = await withHub(t, repo({ 'm-Q4_K_M.gguf': tiny, 'mmproj-F16.gguf': eyes }));
  const plan = await get({ ref: 'org/repo', plan: true });
  ok(plan);
  assert.equal(plan.bytes, 120_000);
  assert.equal(plan.steps.length, 2);
  assert.match(plan.steps[1], /^fetch hf:org\/repo: m-Q4_K_M\.gguf, 97\.7 KiB from 127\.0\.0\.1:\d+$/);
  assert.deepEqual(listing(dir), []);
  ok(await get('org/repo'));
  assert.deepEqual((await get({ ref: 'org/repo', plan: true })).steps, []);
});

// ---- policy -----------------------------------------------------------------------------------------------

test('the policy: what it refuses names its line', async (t) => {
  const { hub, get } = await withHub(t, repo({ 'm-Q4_K_M.gguf': tiny }));
  const strict = { ref: 'org/repo', trust: 'strict' };
  const other = await get({ ...strict, registries: ['ghcr.io'] });
  refused(other, 'refused', 'trust.mode: strict', 'trust.registries');
  const url = `${hub.url}/plain.gguf`;
  refused(await get({ ref: url, trust: 'strict' }), 'refused', 'trust.mode: strict', 'SHA-256');
  refused(await get({ ref: url, require_digest: true }), 'refused', 'trust.require_digest: true');
  assert.equal(hub.requests.length, 0);
  refused(await get({ ref: 'org/repo', deny: ['127.0.0.1'] }), 'refused', 'network.deny');
  refused(await get({ ref: 'org/repo', allow_hosts: ['huggingface.co'] }), 'refused', 'network.allow_hosts');
  ok(await get({ ...strict, registries: ['127.0.0.1'] }));
});

// ---- https: -----------------------------------------------------------------------------------------------

test('https: a file with and without a digest', async (t) => {
  const { hub, get, at } = await withHub(t, { files: { '/d/m.gguf': tiny, '/d/n.gguf': small } });
  const url = `${hub.url}/d/m.gguf`;
  refused(await get({ ref: url, sha256: 'a'.repeat(64) }), 'digest');
  assert.deepEqual(listing(at('models')).filter((n) => n.endsWith('.gguf')), []);
  const got = await get(url);
  ok(got);
  assert.match(got.warning, new RegExp(`no digest was given for .*${digest(tiny)} was computed`));
  assert.equal(got.path, at(`models/http/${hub.url.slice(7).replace(':', '+')}/d/m.gguf`));
  assert.ok(fs.readFileSync(`${got.path}.sha256`, 'utf8').startsWith(`${digest(tiny)}  m.gguf\n# `));
  execFileSync('sha256sum', ['-c', '--strict', `${got.path}.sha256`], { cwd: path.dirname(got.path) });
  const asked = hub.requests.length;
  const again = await get({ ref: url, sha256: digest(tiny) });
  ok(again);
  assert.equal(again.warning, null);
  assert.equal(again.files[0].sha256, digest(tiny));
  refused(await get({ ref: url, sha256: 'b'.repeat(64) }), 'digest', 'the configuration says');
  fs.rmSync(`${got.path}.sha256`);
  ok(await get(url));
  assert.ok(fs.existsSync(`${got.path}.sha256`));
  assert.equal(hub.requests.length, asked);
  const right = await get({ ref: `${hub.url}/d/n.gguf`, sha256: digest(small) });
  ok(right);
  assert.equal(right.warning, null);
});

test('https: a digest is of the file that lies there, not of one that lay there', async (t) => {
  const { hub, get } = await withHub(t, { files: { '/m.gguf': tiny } });
  const ref = `${hub.url}/m.gguf`;
  const got = await get(ref);
  ok(got);
  const file = fs.openSync(got.path, 'r+');
  fs.writeSync(file, 'x', 50_000);
  fs.closeSync(file);
  refused(await get({ ref, sha256: digest(tiny) }), 'digest');
  const changed = await get(ref);
  ok(changed);
  assert.match(changed.warning, new RegExp(`its SHA-256 was ${digest(tiny)} and is ${sha256Of(got.path)}`));
  ok(await get({ ref, sha256: sha256Of(got.path) }));
  fs.rmSync(got.path); // and its note stays
  hub.config.files['/m.gguf'] = small;
  refused(await get({ ref, sha256: digest(tiny) }), 'digest');
  assert.ok(!fs.existsSync(`${got.path}.sha256`));
});

test('https: split files, queries, what is no model, what is not there', async (t) => {
  const part = (i) => `/m-0000${i}-of-00002.gguf`;
  const files = { [part(1)]: tiny, [part(2)]: small, '/q.gguf': eyes, '/page.gguf': { text: '<html>' } };
  const { hub, get } = await withHub(t, { files });
  const got = await get(hub.url + part(2));
  ok(got);
  assert.equal(got.parts.length, 2);
  const one = await get(`${hub.url}/q.gguf?v=1`);
  const two = await get(`${hub.url}/q.gguf?v=2`);
  ok(one);
  ok(two);
  assert.notEqual(one.path, two.path);
  refused(await get(`${hub.url}/page.gguf`), 'digest', 'not a GGUF file');
  refused(await get(`${hub.url}/gone.gguf`), 'missing', '404');
});

// ---- file: ------------------------------------------------------------------------------------------------

test('file: a digest that is given has to match', async (t) => {
  const { get, at } = machine(t);
  fs.mkdirSync(at('models'));
  fs.writeFileSync(at('models/m.gguf'), Buffer.from(tiny.base64, 'base64'));
  ok(await get('m.gguf'));
  ok(await get({ ref: 'm', sha256: digest(tiny) }));
  refused(await get({ ref: `file:${at('models/m.gguf')}`, sha256: 'c'.repeat(64) }), 'digest');
  refused(await get('n.gguf'), 'missing', 'm.gguf');
  refused(await get('file:../n.gguf'), 'input', 'full path');
});

// ---- registries -------------------------------------------------------------------------------------------

const MODEL = 'application/vnd.ollama.image.model';
const PROJECTOR = 'application/vnd.ollama.image.projector';

test('ollama: manifest and blobs, a store that is there is used in place', async (t) => {
  const layers = [
    { type: MODEL, spec: tiny },
    { type: PROJECTOR, spec: eyes },
    { type: 'application/vnd.ollama.image.template', spec: { text: '{{ . }}' } },
  ];
  const { hub, get, at } = await withHub(t, { registry: { 'library/m': { tags: { '1b': layers } } } });
  const got = await get('ollama:m:1b');
  ok(got);
  assert.equal(got.path, at('models/ollama/registry.ollama.ai/library/m/1b/model.gguf'));
  assert.equal(sha256Of(got.path), digest(tiny));
  assert.match(got.mmproj, /\/mmproj\.gguf$/);
  assert.match(got.revision, /^sha256:[0-9a-f]{64}$/);
  const asked = hub.requests.length;
  ok(await get('ollama:m:1b'));
  assert.equal(hub.requests.length, asked);
  refused(await get('ollama:m:2b'), 'missing', 'no such model or tag');
  refused(await get('ollama:gone'), 'missing', 'no such model or tag');
  fs.cpSync(path.dirname(got.path), at('mine'), { recursive: true });
  fs.rmSync(at('models'), { recursive: true });
  const manifests = at('ollama/manifests/registry.ollama.ai/library/m');
  fs.mkdirSync(manifests, { recursive: true });
  fs.mkdirSync(at('ollama/blobs'));
  fs.copyFileSync(at('mine/manifest.json'), `${manifests}/1b`);
  fs.copyFileSync(at('mine/model.gguf'), at(`ollama/blobs/sha256-${digest(tiny)}`));
  fs.copyFileSync(at('mine/mmproj.gguf'), at(`ollama/blobs/sha256-${digest(eyes)}`));
  const there = await get('ollama:m:1b');
  ok(there);
  assert.equal(there.fetched, 0);
  assert.equal(there.path, at(`ollama/blobs/sha256-${digest(tiny)}`));
});

test('oci: the dance for a token, titles, an index, logins', async (t) => {
  const layers = [{ title: 'tiny-Q4_K_M.gguf', spec: tiny }, { title: 'README.md', spec: { text: 'x' } }];
  const registry = { 'me/m': { tags: { v1: layers }, token: 'abc', index: true } };
  registry['me/mine'] = { tags: { v1: layers }, token: 'def', login: 'user:password' };
  const { hub, get, at } = await withHub(t, { registry });
  const host = hub.url.slice(7);
  const got = await get(`oci://${host}/me/m:v1`);
  ok(got);
  assert.match(got.path, /\/models\/oci\/127\.0\.0\.1\+\d+\/me\/m\/v1\/tiny-Q4_K_M\.gguf$/);
  assert.ok(hub.requests.filter((r) => r.cdn).every((r) => !r.headers.authorization));
  const pinned = await get(`oci://${host}/me/m@${got.revision}`);
  ok(pinned);
  assert.equal(pinned.revision, got.revision);
  assert.equal((await get({ ref: `oci://${host}/me/m@${got.revision}`, offline: true })).fetched, 0);
  refused(await get(`oci://${host}/me/mine:v1`), 'denied', 'docker login');
  fs.mkdirSync(at('.docker'));
  const auth = Buffer.from('user:password').toString('base64');
  fs.writeFileSync(at('.docker/config.json'), JSON.stringify({ auths: { [host]: { auth } } }));
  ok(await get(`oci://${host}/me/mine:v1`));
});

test('oci: a digest is met by no tag, and that of an index is kept', async (t) => {
  const layers = [{ title: 'tiny.gguf', spec: tiny }];
  const hex = crypto.createHash('sha256').update(manifestOf(layers)).digest('hex');
  const evil = [{ title: 'tiny.gguf', spec: small }];
  const registry = { 'me/m': { tags: { v1: layers, [`sha256_${hex}`]: evil } } };
  const { hub, get } = await withHub(t, { registry });
  const ref = `oci://${hub.url.slice(7)}/me/m`;
  ok(await get(`${ref}:sha256_${hex}`));
  refused(await get({ ref: `${ref}@sha256:${hex}`, offline: true }), 'refused', 'network.offline');
  const got = await get(`${ref}@sha256:${hex}`);
  ok(got);
  assert.equal(sha256Of(got.path), digest(tiny));
  hub.config.registry['me/m'].index = true;
  const asked = await fetch(`${hub.url}/v2/me/m/manifests/v1`);
  const index = crypto.createHash('sha256').update(await asked.text()).digest('hex');
  const first = await get(`${ref}@sha256:${index}`);
  ok(first);
  assert.equal(first.revision, `sha256:${hex}`);
  const again = await get({ ref: `${ref}@sha256:${index}`, offline: true });
  ok(again);
  assert.equal(again.path, first.path);
});

test('oci: hostile manifests', async (t) => {
  const registry = {
    'me/up': { tags: { latest: [{ title: '../../up.gguf', spec: tiny }] } },
    'me/none': { tags: { latest: [{ title: 'x.txt', spec: { text: 'x' } }] } },
    'me/odd': { tags: { latest: [{ type: MODEL, digest: '../../../etc/passwd' }] } },
    'me/lies': { tags: { latest: [{ type: MODEL, spec: tiny }] }, lies: true, index: true },
    'me/wrong': { tags: { latest: [{ type: MODEL, spec: { ...small, corrupt: true } }] } },
  };
  const { hub, get } = await withHub(t, { registry });
  const ref = (name) => `oci://${hub.url.slice(7)}/me/${name}`;
  refused(await get(ref('up')), 'network', 'are no names');
  refused(await get(ref('none')), 'missing', 'no GGUF file');
  refused(await get(ref('odd')), 'network', 'no SHA-256');
  refused(await get(ref('lies')), 'digest', 'has not the digest');
  refused(await get(ref('wrong')), 'digest', 'SHA-256');
});

// ---- s3 ---------------------------------------------------------------------------------------------------

test('s3: signed addresses, anonymous buckets, split keys', async (t) => {
  const keys = { 'a b/m.gguf': tiny, 'm-00001-of-00002.gguf': small, 'm-00002-of-00002.gguf': eyes };
  const s3 = { buckets: { mine: keys }, id: 'AKID', secret: 'a/secret+', session: 'se/ss+ion==' };
  const { hub, get, at } = await withHub(t, { s3 });
  const env = { AWS_ACCESS_KEY_ID: s3.id, AWS_SECRET_ACCESS_KEY: s3.secret, AWS_SESSION_TOKEN: s3.session };
  const got = await get('s3://mine/a b/m.gguf', { ...env, AWS_REGION: 'eu-west-1' });
  ok(got);
  assert.equal(got.path, at('models/s3/mine/a b/m.gguf'));
  assert.ok(!got.files[0].url.includes('X-Amz'), got.files[0].url);
  const split = await get({ ref: 's3://mine/m-00001-of-00002.gguf', s3_endpoint: undefined },
    { ...env, AWS_ENDPOINT_URL: hub.url });
  ok(split);
  assert.equal(split.parts.length, 2);
  const wrong = await get('s3://mine/c.gguf', { ...env, AWS_SECRET_ACCESS_KEY: 'other' });
  refused(wrong, 'denied');
  assert.ok(!wrong.message.includes('X-Amz-Signature'), wrong.message);
  refused(await get('s3://mine/gone.gguf', env), 'missing');
  hub.config.s3 = { buckets: { mine: { 'x.gguf': tiny } } };
  ok(await get('s3://mine/x.gguf'));
});
