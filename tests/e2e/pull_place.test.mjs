// SPDX-License-Identifier: Apache-2.0
// A model that came with the first request is planned as any other: by the file that came, on the devices
// there are (a stub of NVIDIA's library).
import assert from 'node:assert/strict';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import test from 'node:test';
import { startHub } from '../fakes/hub.mjs';
import { fakeLlamaPool, model, stubDriver, withCorral } from './harness.mjs';

const COMMIT = '0123456789abcdef0123456789abcdef01234567';
const A = 'GPU-aaaa1111-0000-0000-0000-000000000000';
const B = 'GPU-bbbb2222-0000-0000-0000-000000000000';
const card = (uuid, bus, mib) => `device|${uuid}|Stub|00000000:0${bus}:00.0|${mib}|0|25|51|8.9|0`;
const file = 'm-Q4_K_M.gguf';
const explain = async (corral) => (await corral.get('/v1/explain?pool=chat')).json;

function withCards(name, cards, body) {
  test(name, { timeout: 120000 }, async (t) => {
    const spec = { file: model('random', '--ctx', '131072') };
    const hub = await startHub({ repos: { 'org/new': { commit: COMMIT, files: { [file]: spec } } } });
    const home = fs.mkdtempSync(path.join(os.tmpdir(), 'crl-home-'));
    const places = { HOME: home, HF_ENDPOINT: hub.url, HF_HUB_CACHE: path.join(home, 'hub'), HF_TOKEN: '' };
    const driver = stubDriver(...cards);
    const pool = fakeLlamaPool('chat', [], { model: 'org/new', ctx: 8192, slots: 4, offload: 'never' });
    try {
      const env = { ...driver.env, ...places };
      await withCorral({ pools: [pool] }, (corral) => body(corral, hub), { env, leaks: false })(t);
    } finally {
      await hub.close();
      for (const dir of [home, path.dirname(driver.env.CORRAL_NVML_STUB)])
        fs.rmSync(dir, { recursive: true, force: true });
    }
  });
}

withCards('it goes where it fits', [card(A, 1, 300), card(B, 2, 4096)], async (corral, hub) => {
  assert.equal((await corral.chat('chat')).status, 200);
  assert.equal(hub.of(`/org/new/${file}`).requests > 0, true);
  assert.equal((await corral.pool('chat')).replicas[0].device, '1'); // by its index
  const { pid } = corral.engineOf('chat');
  const environment = fs.readFileSync(`/proc/${pid}/environ`, 'latin1').split('\0');
  assert.ok(environment.includes(`CUDA_VISIBLE_DEVICES=${B}`), environment.join(' '));
  const { need, devices } = await explain(corral);
  assert.ok(need.total_bytes > 0);
  assert.ok(devices.find((d) => d.device === A).capacity_bytes < need.total_bytes);
});

withCards('too large for every card: said once it is here', [card(A, 1, 300)], async (corral, hub) => {
  const { status, json } = await corral.chat('chat');
  assert.equal(status, 503, JSON.stringify(json));
  assert.equal(json.error.corral.code, 'NO_CAPACITY');
  assert.match(json.error.message, /offload: never/);
  assert.equal(corral.engines().length, 0);
  const asked = hub.requests.length;
  assert.equal((await corral.chat('chat')).json.error.corral.code, 'NO_CAPACITY');
  assert.equal(hub.requests.length, asked, 'it is not fetched again');
});
