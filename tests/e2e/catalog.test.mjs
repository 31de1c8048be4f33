// SPDX-License-Identifier: Apache-2.0
// The catalog of models: what may be seen of an address, what the quota bounds, what may be removed.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import test from 'node:test';
import { startHub } from '../fakes/hub.mjs';
import { fakeLlamaPool, withCorral } from './harness.mjs';

/** Bytes that pass for a model. */
function gguf(size, more = {}) {
  const data = Buffer.alloc(size, 'x');
  data.write('GGUF', 0);
  return { base64: data.toString('base64'), ...more };
}

/** A server with files, and Corral with a models_dir of its own. */
function withFiles(name, files, config, body) {
  test(name, { timeout: 120000 }, async (t) => {
    const hub = await startHub({ files });
    const home = fs.mkdtempSync(path.join(os.tmpdir(), 'crl-home-'));
    const models = path.join(home, 'models');
    const whole = { models_dir: models, pools: [fakeLlamaPool('other')], ...config({ hub, models }) };
    try {
      await withCorral(whole, (corral) => body(corral, { hub, models }), { env: { HOME: home }, leaks: false })(t);
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
  { '/b.gguf': gguf(1000), '/gone.gguf': gguf(1, { status: 403 }) },
  ({ hub }) => ({
    pools: [fakeLlamaPool('other'), {
      ...fakeLlamaPool('far'),
      engine: { kind: 'llamacpp', mode: 'binary', url: `${hub.url}/e.tar?sig=S3CRET`, sha256: 'a'.repeat(64) },
    }],
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
    assert.match(list[0].reference, /^http:\/\/127\.0\.0\.1:\d+\/b\.gguf#[0-9a-f]{16}$/);
    assert.equal((await cli('models', 'show', url)).code, 0, 'who knows it may name it');
    await cli('models', 'ls', '--json');
    await cli('engines', 'plan');
    await cli('models', 'rm', list[0].id);
    await corral.stop();
    assert.equal((await cli('pull', url)).code, 0);
    await cli('engines', 'plan');
    assert.doesNotMatch(said.join('\n'), /s3cret/i);
    assert.doesNotMatch(corral.log(), /s3cret/i);
    for (const dir of [corral.stateDir, corral.runtimeDir, models]) assert.equal(found(dir, 's3cret'), '');
    await corral.start();
  },
);
