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
import { registryRoutes } from '../fakes/registries.mjs';
import { fakeLlamaPool, root, stubDriver, until, withCorral } from './harness.mjs';

const MIB = 2 ** 20;
const COMMIT = 'c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00';
const GPU = 'GPU-aaaa1111-0000-0000-0000-000000000000';
const card = `device|${GPU}|Stub|00000000:01:00.0|${24 * 1024}|0|25|51|8.9|0`;

const giant = card.replace(`|${24 * 1024}|`, `|${4 * MIB}|`);

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
const fits = write('fits.gguf', '"F16", 1, 1024, 4096, 16, 8, 10000');

/** The same in two parts of a split model: the first has the keys alone, as a part of that kind may. */
function split(from, shape) {
  const names = [1, 2].map((i) => path.join(dir, `${from}-0000${i}-of-00002.gguf`));
  const script = `import sys; sys.path.insert(0, sys.argv[1]); import shapes, gguf_sparse
m = shapes.llama(${shape})
n = {"split.count": 2, "split.tensors.count": len(m.tensors)}
gguf_sparse.write(sys.argv[2], {**m.keys, **n, "split.no": 0}, m.tensors[:1])
gguf_sparse.write(sys.argv[3], {**n, "split.no": 1}, m.tensors[1:])`;
  execFileSync('python3', ['-c', script, path.join(root, 'tests/estimate'), ...names]);
  return names;
}
const parts = split('parts', '"F16", 500, 16384, 53248, 128, 8, 128256');

const hubFiles = {
  'org/huge': { 'm-F16.gguf': { file: huge.file, sha256: 'ab'.repeat(32) } },
  'org/parts': Object.fromEntries(
    parts.map((file, i) => [`m-F16-0000${i + 1}-of-00002.gguf`, { file, sha256: `${i}a`.repeat(32) }]),
  ),
  'org/fits': { 'm-F16.gguf': { file: fits.file } },
  'org/slow': { 'm-F16.gguf': { file: fits.file, slow: 30 * MIB } },
};

/** Nobody says beforehand how large they are, nor what they are to be. */
const keys = {
  'huge.gguf': { file: huge.file },
  'unnamed.gguf': { file: fits.file, etag: null },
  'whole.gguf': { file: fits.file, ranges: false },
  'unsized.gguf': { file: fits.file, ranges: false, noLength: true },
};
const s3 = { buckets: { mine: keys } };

function withHub(name, { pools, gpu = card, ...config }, body) {
  test(name, { timeout: 120000 }, async (t) => {
    const repos = Object.entries(hubFiles).map(([repo, files]) => [repo, { commit: COMMIT, files }]);
    const hub = await startHub({ repos: Object.fromEntries(repos), s3, routes: registryRoutes });
    const home = fs.mkdtempSync(path.join(os.tmpdir(), 'crl-home-'));
    const places = { HOME: home, HF_ENDPOINT: hub.url, HF_HUB_CACHE: path.join(home, 'hub'), HF_TOKEN: '' };
    places.AWS_ENDPOINT_URL = hub.url;
    const env = { ...stubDriver(gpu, 'account').env, CORRAL_MEMINFO: meminfo, ...places };
    const rest = { ctx: 4096, slots: 1 };
    const all = pools.map(([id, model, more]) => fakeLlamaPool(id, [], { model, ...rest, ...more }));
    try {
      const run = withCorral(
        { pools: all, models_dir: path.join(home, 'models'), ...config },
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

/** Everything of it, by signal 9. */
async function killed(corral) {
  corral.kill();
  await corral.exited;
  await until('all of it to be gone', () => corral.processes().length === 0);
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

    await killed(corral);
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

withHub(
  'of a split model each part has its header',
  { pools: [['chat', 'org/parts']] },
  async (corral, { hub }) => {
    refused(await corral.chat('chat'));
    const sent = [1, 2].map((i) => hub.of(`/org/parts/m-F16-0000${i}-of-00002.gguf`).sent);
    assert.ok(sent.every((n) => n > 0 && n <= 8 * MIB), `${sent} bytes`);
  },
);

withHub(
  'killed in the middle it goes on behind what came',
  { pools: [['chat', 'org/slow']] },
  async (corral, { hub }) => {
    const came = () => hub.of('/org/slow/m-F16.gguf').sent;
    corral.chat('chat').catch(() => {});
    await until('some of it to come', () => came() > 24 * MIB);
    await killed(corral);
    await corral.start();
    const answer = await corral.chat('chat');
    assert.equal(answer.status, 200, answer.text);
    // what a kill takes away is what was on its way to the disk, of each of four connections
    assert.ok(came() <= fits.size + 20 * MIB, `${came()} bytes of ${fits.size}`);
    assert.equal(hub.of('/org/slow/m-F16.gguf').asked.filter(([from]) => from === 0).length, 1);
  },
);

withHub(
  'who pulls it gets it, and is told',
  { pools: [['chat', 'org/fits']] },
  async (corral, { hub }) => {
    const done = await corral.cli('pull', 'org/huge');
    assert.notEqual(done.code, 0, 'no disk holds it');
    assert.match(corral.log(), /org\/huge: no device here can hold it: it is .* together/);
    assert.ok(hub.of('/org/huge/m-F16.gguf').sent <= 8 * MIB);
  },
);

withHub(
  'of what no digest is known, nor ranges nor a version, the rest comes all the same',
  {
    pools: [
      ['chat', 's3://mine/huge.gguf'],
      ['unnamed', 's3://mine/unnamed.gguf'],
      ['whole', 's3://mine/whole.gguf'],
      ['unsized', 's3://mine/unsized.gguf'],
    ],
  },
  async (corral, { hub }) => {
    refused(await corral.chat('chat'));
    assert.ok(hub.of('/mine/huge.gguf').sent <= 8 * MIB);
    for (const id of ['unnamed', 'whole', 'unsized']) {
      const answer = await corral.chat(id);
      assert.equal(answer.status, 200, answer.text);
      const { sent } = hub.of(`/mine/${id}.gguf`);
      assert.ok(sent >= fits.size && sent <= fits.size + 16 * MIB, `${id}: ${sent} bytes of ${fits.size}`);
    }
  },
);

withHub(
  'a preload that nothing can hold is told in the log, without a request',
  { pools: [['chat', 'org/huge', { preload: true }]] },
  async (corral, { hub }) => {
    const told = /Replica chat-0 is not started: it needs \d.* of memory/;
    await until('it to be told', () => told.test(corral.log()));
    await until('the fetch to end', () => /nobody wants it any more/.test(corral.log()));
    refused(await corral.chat('chat'));
    assert.equal((await corral.get('/readyz')).status, 200, 'it holds nobody else back');
    assert.ok(hub.of('/org/huge/m-F16.gguf').sent <= 8 * MIB);
  },
);

withHub(
  'what a device could hold and the disk cannot leaves nothing behind',
  { pools: [['chat', 'org/huge']], gpu: giant },
  async (corral, { hub, home }) => {
    const answer = await corral.chat('chat');
    assert.equal(answer.status, 503, answer.text);
    assert.match(answer.json.error.message, /cannot be had: .*free/);
    assert.ok(hub.of('/org/huge/m-F16.gguf').sent > 0);
    assert.deepEqual(fs.readdirSync(path.join(home, 'hub/models--org--huge/blobs')), []);
  },
);
