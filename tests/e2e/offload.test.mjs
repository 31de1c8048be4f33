// SPDX-License-Identifier: Apache-2.0
//
// A mixture of experts of 60 GB on a 24 GB and a 12 GB card beside 64 GiB of host memory: how it is divided,
// and that llama-fit-params needs no more for that division than was reserved. The model is a header over a
// hole; no tensor of it is larger than 128 MiB, which a GPU that is software can take. What llama-fit-params
// said is recorded in tests/estimate/split.json; CORRAL_TEST_LLAMA_FIT_PARAMS_2 (one that shows two devices,
// such as Vulkan's with GGML_VK_VISIBLE_DEVICES=0,0) is asked anew, and its answer is written down.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { test } from 'node:test';

import { fakeLlamaPool, root, stubDriver, until, withCorral } from './harness.mjs';

const MIB = 2 ** 20;
const GIB = 2 ** 30;
const recorded = path.join(root, 'tests/estimate/split.json');
const NAME = 'qwen3moe, 145 layers of 80 experts, Q8_0';
const A = 'GPU-aaaa1111-0000-0000-0000-000000000000';
const B = 'GPU-bbbb2222-0000-0000-0000-000000000000';
const card = (uuid, bus, gib) =>
  `device|${uuid}|Stub|00000000:0${bus}:00.0|${gib * 1024}|0|25|51|8.9|0`;

const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'crl-offload-'));
test.after(() => fs.rmSync(dir, { recursive: true }));

const file = path.join(dir, 'large.gguf');
const write = `import sys; sys.path.insert(0, sys.argv[1]); import shapes, gguf_sparse
m = shapes.qwen_moe("Q8_0", "qwen3moe", 145, 2048, 768, 32, 4, 151936, 80, 8, head=128)
gguf_sparse.write(sys.argv[2], m.keys, m.tensors)`;
execFileSync('python3', ['-c', write, path.join(root, 'tests/estimate'), file]);
const meminfo = path.join(dir, 'meminfo');
fs.writeFileSync(meminfo, `MemTotal: ${64 * MIB} kB\nMemAvailable: ${62 * MIB} kB\n`);

const large = (id, rest) => fakeLlamaPool(id, [], { model: file, ctx: 8192, slots: 1, ...rest });
const env = () => ({ ...stubDriver(card(A, 1, 24), card(B, 2, 12), 'account').env, CORRAL_MEMINFO: meminfo });

const explain = async (corral, pool) => (await corral.get(`/v1/explain?pool=${pool}`)).json;

/** MiB on each device as the program says for these arguments; the last one is the host. */
function oracle(words) {
  const asked = words.join(' ');
  const all = JSON.parse(fs.readFileSync(recorded, 'utf8'));
  const program = process.env.CORRAL_TEST_LLAMA_FIT_PARAMS_2;
  if (!program) {
    assert.deepEqual(all[NAME].args, asked, `ask llama-fit-params anew: ${recorded}`);
    return all[NAME].mib;
  }
  const options = ['-m', file, '-fitp', 'on', '--no-repack', ...words];
  const said = execFileSync(program, options, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] });
  const rows = said.matchAll(/^(\S+) (\d+) (\d+) (\d+) *$/gm);
  const mib = [...rows].map(([, , ...n]) => n.map(Number).reduce((a, b) => a + b));
  all[NAME] = { args: asked, mib };
  fs.writeFileSync(recorded, `${JSON.stringify(all, null, 2)}\n`);
  return mib;
}

test(
  'a mixture larger than its cards: experts in host memory, and llama-fit-params agrees with the division',
  withCorral(
    { pools: [large('moe'), large('whole', { offload: 'never' })] },
    async (corral) => {
      await until('the cards to be told', async () => (await explain(corral, 'moe')).devices.length === 3);
      const plan = await explain(corral, 'moe');
      assert.equal(plan.fits, true, plan.summary);
      assert.ok(plan.cpu_expert_layers > 0);
      const takes = [A, B, 'cpu'].map((id) => plan.devices.find((d) => d.device === id));
      for (const d of takes) assert.ok(d.needed_bytes <= d.capacity_bytes, JSON.stringify(d));

      assert.equal((await corral.chat('moe')).status, 200);
      const { argv } = corral.engineOf('moe');
      const value = (name) => argv[argv.indexOf(name) + 1];
      assert.equal(value('--fit'), 'off');
      const words = ['--gpu-layers', '--tensor-split', '--n-cpu-moe'].flatMap((n) => [n, value(n)]);
      const said = oracle(['-c', '8192', '-np', '1', ...words]);
      assert.ok(said.at(-1) * MIB < 64 * GIB, 'the host takes the rest');
      takes.slice(0, 2).forEach((d, i) => {
        const told = `device ${i}: ${d.needed_bytes / MIB} MiB reserved, ${said[i]} MiB said`;
        assert.ok(said[i] * MIB <= d.needed_bytes, told);
        assert.ok(said[i] * MIB * 1.03 + GIB >= d.needed_bytes, told);
      });

      const refused = await corral.chat('whole');
      assert.equal(refused.status, 503, refused.text);
      assert.equal(refused.json.error.corral.code, 'NO_CAPACITY');
      assert.match(refused.json.error.message, /offload: never/);
      const why = await explain(corral, 'whole');
      assert.ok(why.would_help.some((h) => /offload: auto/.test(h)), JSON.stringify(why.would_help));
    },
    { env: env(), leaks: false },
  ),
);
