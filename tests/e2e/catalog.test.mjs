// SPDX-License-Identifier: Apache-2.0
// The catalog of models: what may be seen of an address, what the quota bounds, what may be removed.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import test from 'node:test';
import { startHub } from '../fakes/hub.mjs';
import { fakeLlamaPool, model, until, withCorral } from './harness.mjs';

/** Bytes that pass for a model. */
function gguf(size, more = {}) {
  const data = Buffer.alloc(size, 'x');
  data.write('GGUF', 0);
  return { base64: data.toString('base64'), ...more };
}

/** One for 127.0.0.1, written to file; {key, cert} of a server. */
function certificate(file) {
  const words = 'req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=hub';
  const rest = ['-addext', 'subjectAltName=IP:127.0.0.1', '-keyout', `${file}.key`, '-out', file];
  execFileSync('openssl', [...words.split(' '), ...rest], { stdio: 'ignore' });
  return { key: fs.readFileSync(`${file}.key`), cert: fs.readFileSync(file) };
}

/** A server with files, and Corral with a models_dir of its own. */
function withFiles(name, files, config, body, secure = false) {
  test(name, { timeout: 120000 }, async (t) => {
    const home = fs.mkdtempSync(path.join(os.tmpdir(), 'crl-home-'));
    const cert = path.join(home, 'cert.pem');
    const hub = await startHub({ files, ...(secure && { tls: certificate(cert) }) });
    const models = path.join(home, 'models');
    const whole = { models_dir: models, pools: [fakeLlamaPool('other')], ...config({ hub, models }) };
    try {
      const opts = { env: { HOME: home, ...(secure && { CORRAL_CA_FILE: cert }) }, leaks: false };
      await withCorral(whole, (corral) => body(corral, { hub, models }), opts)(t);
    } finally {
      await hub.close();
      fs.rmSync(home, { recursive: true, force: true });
    }
  });
}

const found = (dir, text) => {
  try {
    return execFileSync('grep', ['-rliaF', text, dir], { encoding: 'utf8' }).trim();
  } catch {
    return '';
  }
};

withFiles(
  'the query of an address is its signature: it is sent, and seen nowhere',
  { '/b.gguf': { file: model('random') }, '/gone.gguf': gguf(1, { status: 403 }) },
  ({ hub }) => ({
    pools: [
      fakeLlamaPool('other'),
      fakeLlamaPool('named', [], { model: `${hub.url}/b.gguf?X-Amz-Signature=S3CRET` }),
      {
        ...fakeLlamaPool('far'),
        engine: { kind: 'llamacpp', url: `${hub.url}/e.tar?sig=S3CRET`, sha256: 'a'.repeat(64) },
      },
    ],
  }),
  async (corral, { hub, models }) => {
    const url = `${hub.url}/b.gguf?X-Amz-Signature=S3CRET`;
    const said = [];
    const cli = async (...words) => {
      const got = await corral.cli(...words);
      said.push(got.stdout, got.stderr);
      return got;
    };
    assert.equal((await cli('pull', url)).code, 0);
    assert.ok(hub.requests.some((r) => r.url.includes('S3CRET')), 'the server is asked with it');
    assert.equal((await cli('pull', `${hub.url}/gone.gguf?sig=S3CRET`)).code, 1);
    const { models: list } = (await corral.get('/v1/catalog/models')).json;
    assert.equal(list.length, 1);
    assert.match(list[0].reference, /^https:\/\/127\.0\.0\.1:\d+\/b\.gguf#[0-9a-f]{16}$/);
    assert.equal((await cli('models', 'show', url)).code, 0, 'who knows it may name it');
    await cli('models', 'ls', '--json');
    await cli('engines', 'plan');
    await cli('config', 'show');
    const swapped = await cli('reload', 'other', '--model', url);
    assert.equal(swapped.code, 0, swapped.stderr);
    for (const where of ['pools', 'catalog/models', 'engines', 'explain?pool=other'])
      said.push((await corral.get(`/v1/${where}`)).text);
    assert.equal((await cli('reload', 'other')).code, 0);
    assert.equal((await corral.chat('named')).status, 200);
    for (const id of ['other', 'named']) assert.equal((await cli('stop', id)).code, 0);
    await cli('models', 'rm', list[0].id);
    await corral.stop();
    assert.equal((await cli('pull', url)).code, 0);
    await cli('engines', 'plan');
    assert.doesNotMatch(said.join('\n'), /s3cret/i);
    assert.doesNotMatch(corral.log(), /s3cret/i);
    for (const dir of [corral.stateDir, corral.runtimeDir, models]) assert.equal(found(dir, 's3cret'), '');
    await corral.start();
  },
  true,
);

const FIRST = '/first.gguf';
const SECOND = '/second.gguf';

withFiles(
  'the quota bounds what nobody told the size of before, and what comes at the same time',
  {
    [FIRST]: gguf(700_000, { hold: true }),
    [SECOND]: gguf(700_000, { hold: true }),
    '/large.gguf': gguf(8 << 20),
    '/untold.gguf': gguf(8 << 20, { noLength: true, ranges: false }),
  },
  () => ({ models_quota: '1MiB' }),
  async (corral, { hub, models }) => {
    const pull = (where) => corral.cli('pull', hub.url + where);
    const left = () => fs.readdirSync(models, { recursive: true }).filter((n) => /gguf|part/.test(n));
    for (const where of ['/large.gguf', '/untold.gguf']) {
      const { code, stderr } = await pull(where);
      assert.equal(code, 1, where);
      assert.match(stderr, /models_quota leaves 1\.0 MiB.*models gc --dry-run/, where);
      assert.ok(hub.of(where).sent < 8 << 20, where);
      assert.deepEqual(left(), [], where);
    }

    const oneOf = async (pulls) => {
      const ended = await Promise.all(pulls);
      const [good, bad] = ended.toSorted((a, b) => a.code - b.code);
      assert.deepEqual([good.code, bad.code], [0, 1], good.stderr + bad.stderr);
      assert.match(bad.stderr, /684 KiB are to come .*models_quota leaves 340 KiB/);
      assert.equal(left().filter((n) => n.endsWith('.gguf')).length, 1);
    };
    const asked = (where) => hub.requests.some((r) => r.url === where);
    const both = [pull(FIRST)];
    await until('the first to be asked for', () => asked(FIRST));
    both.push(pull(SECOND));
    await until('the second to wait', () => /second\.gguf is being fetched/.test(corral.log()));
    hub.go();
    await oneOf(both);

    const { models: list } = (await corral.get('/v1/catalog/models')).json;
    assert.equal((await corral.cli('models', 'rm', list[0].id)).code, 0);
    await corral.stop();
    await oneOf([pull(FIRST), pull(SECOND)]);
    await corral.start();
  },
);

withFiles(
  'what a pinned pool names and what an engine has open is not offered, and not removed',
  { '/draft.gguf': { file: model('random') }, '/lora.gguf': { file: model('random') } },
  ({ hub }) => {
    const ref = model('random');
    const set = (id, more, rest) => fakeLlamaPool(id, [], { model: { ref, ...more }, ...rest });
    return {
      pools: [
        set('held', { draft: `${hub.url}/draft.gguf?v=1` }, { pinned: true }),
        set('live', { lora: [`${hub.url}/lora.gguf`] }),
      ],
    };
  },
  async (corral, { hub, models }) => {
    const candidates = async () =>
      JSON.parse((await corral.cli('models', 'gc', '--dry-run', '--json')).stdout).candidates;
    const row = async (name) =>
      (await corral.get('/v1/catalog/models')).json.models.find((m) => m.reference.includes(name));
    const kept = async (name, words) => {
      const { code, stderr } = await corral.cli('models', 'rm', (await row(name)).id);
      assert.equal(code, 1, name);
      assert.match(stderr, words);
      assert.ok(await row(name), 'its row stays');
    };
    for (const name of ['draft.gguf?v=1', 'lora.gguf'])
      assert.equal((await corral.cli('pull', `${hub.url}/${name}`)).code, 0);
    assert.deepEqual((await candidates()).map((c) => c.pool), ['live'], 'that of no pinned pool');
    await kept('draft', /pool held is pinned/);

    assert.equal((await corral.chat('live')).status, 200);
    await until('its engine to be seen', async () => (await row('lora')).serving);
    assert.deepEqual((await candidates()).map((c) => c.reference), []);
    await kept('lora', /pool live is serving it/);
    const here = fs.readdirSync(models, { recursive: true }).filter((n) => n.endsWith('.gguf'));
    assert.equal(here.length, 2);
  },
);
