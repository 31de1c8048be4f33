// SPDX-License-Identifier: Apache-2.0
//
// What a model needs is read from its header, before the rest of it is fetched: one that no device can hold
// is told after a few MiB of it, one that fits comes whole with no byte twice. The models are headers over
// holes.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { test } from 'node:test';

import { startHub } from '../fakes/hub.mjs';
import { fakeLlamaPool, root, stubDriver, until, withCorral } from './harness.mjs';

const MIB = 2 ** 20;
const COMMIT = 'c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00';
const GPU = 'GPU-aaaa1111-0000-0000-0000-000000000000';
const card = `device|${GPU}|Stub|00000000:01:00.0|${24 * 1024}|0|25|51|8.9|0`;

const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'crl-header-'));
test.after(() => fs.rmSync(dir, { recursive: true }));
const meminfo = path.join(dir, 'meminfo');
fs.writeFileSync(meminfo, `MemTotal: ${64 * MIB} kB\nMemAvailable: ${62 * MIB} kB\n`);

/** shape: arguments of tests/estimate/shapes.py's llama. */
function write(name, shape) {
  const file = path.join(dir, name);
  const script = `import sys; sys.path.insert(0, sys.argv[1]); import shapes, gguf_sparse
m = shapes.llama(${shape})
gguf_sparse.write(sys.argv[2], m.keys, m.tensors)`;
  execFileSync('python3', ['-c', script, path.join(root, 'tests/estimate'), file]);
  return { file, size: fs.statSync(file).size };
}
const huge = write('huge.gguf', '"F16", 500, 16384, 53248, 128, 8, 128256');
const fits = write('fits.gguf', '"F16", 4, 1024, 4096, 16, 8, 32000');

const hubFiles = {
  'org/huge': { 'm-F16.gguf': { file: huge.file, sha256: 'ab'.repeat(32) } },
  'org/fits': { 'm-F16.gguf': { file: fits.file } },
};

function withHub(name, { pools, ...config }, body) {
  test(name, { timeout: 120000 }, async (t) => {
    const repos = Object.entries(hubFiles).map(([repo, files]) => [repo, { commit: COMMIT, files }]);
    const hub = await startHub({ repos: Object.fromEntries(repos) });
    const home = fs.mkdtempSync(path.join(os.tmpdir(), 'crl-home-'));
    const places = { HOME: home, HF_ENDPOINT: hub.url, HF_HUB_CACHE: path.join(home, 'hub'), HF_TOKEN: '' };
    const env = { ...stubDriver(card, 'account').env, CORRAL_MEMINFO: meminfo, ...places };
    const rest = { ctx: 4096, slots: 1 };
    const all = pools.map(([id, model, more]) => fakeLlamaPool(id, [], { model, ...rest, ...more }));
    try {
      const run = withCorral(
        { pools: all, ...config },
        (corral) => body(corral, { hub, home }),
        { env, leaks: false },
      );
      await run(t);
    } finally {
      await hub.close();
      fs.rmSync(home, { recursive: true, force: true });
    }
  });
}

const refused = (answer) => {
  assert.equal(answer.status, 503, answer.text);
  assert.equal(answer.json.error.corral.code, 'NO_CAPACITY');
  assert.equal(answer.json.error.corral.retriable, false);
  assert.equal(answer.headers['x-should-retry'], 'false');
  assert.match(answer.json.error.message, /needs \d.* of memory; .* comes closest with .* are missing there/);
};

withHub(
  'what no device can hold is told after its header, also after a kill, and nothing of it comes twice',
  { pools: [['chat', 'org/huge']] },
  async (corral, { hub, home }) => {
    refused(await corral.chat('chat'));
    const came = hub.of('/org/huge/m-F16.gguf');
    assert.ok(came.sent <= 8 * MIB, `${came.sent} bytes`);
    const sent = came.sent;
    const asked = hub.requests.length;
    refused(await corral.chat('chat'));
    assert.equal(hub.requests.length, asked, 'its header is known');
    await until('the node to say so', () => /is not fetched: nobody wants it any more/.test(corral.log()));
    const blobs = path.join(home, 'hub/models--org--huge/blobs');
    const part = `${'ab'.repeat(32)}.part`;
    assert.deepEqual(fs.readdirSync(blobs).sort(), [part, `${part}.json`]);
    assert.ok(fs.statSync(path.join(blobs, part)).size <= 8 * MIB);
    assert.deepEqual(fs.readdirSync(corral.stateDir).filter((name) => name.startsWith('header')), []);
    const why = (await corral.get('/v1/explain?pool=chat')).json;
    assert.equal(why.fits, false, JSON.stringify(why));

    process.kill(corral.pid, 'SIGKILL');
    await corral.stop().catch(() => {});
    await corral.start();
    refused(await corral.chat('chat'));
    assert.equal(hub.of('/org/huge/m-F16.gguf').sent, sent, 'what was there is not fetched again');
  },
);

withHub(
  'what fits is fetched to its end, its header first and no byte twice',
  { pools: [['chat', 'org/fits']] },
  async (corral, { hub }) => {
    assert.equal((await corral.chat('chat')).status, 200);
    const came = hub.of('/org/fits/m-F16.gguf');
    assert.ok(fits.size > 64 * MIB);
    assert.equal(came.sent, fits.size);
    assert.deepEqual(came.asked[0], [0, 4 * MIB]);
  },
);
