// SPDX-License-Identifier: Apache-2.0
//
// Devices through the whole of Corral: the real loader, the real probe child and a stub for NVIDIA's library.

import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';

import { fakeLlamaPool, fakePool, isAlive, stubDriver, until, withCorral } from './harness.mjs';

const GIB = 2 ** 30;
const A = 'GPU-aaaa1111-0000-0000-0000-000000000000';
const B = 'GPU-bbbb2222-0000-0000-0000-000000000000';
const card = (uuid, bus, total, used, code = 0) =>
  `device|${uuid}|Stub ${total / 1024} GB|00000000:0${bus}:00.0|${total}|${used}|25|51|8.9|${code}`;
const both = (used = 1024) => [card(B, 2, 12288, 0), card(A, 1, 24576, used)];

async function devices(corral) {
  const { status, json } = await corral.get('/v1/devices');
  assert.equal(status, 200);
  return json.devices;
}
const gpu = async (corral, uuid) => (await devices(corral)).find((d) => d.uuid === uuid);
const state = (corral, uuid, wanted, ms) =>
  until(
    () => `${uuid} to be ${wanted}`,
    async () => (await gpu(corral, uuid))?.state === wanted,
    ms,
  );

function environment(pid) {
  const words = fs.readFileSync(`/proc/${pid}/environ`, 'latin1').split('\0');
  const pair = (w) => [w.slice(0, w.indexOf('=')), w.slice(w.indexOf('=') + 1)];
  return Object.fromEntries(words.filter(Boolean).map(pair));
}
const probes = (corral) => corral.processes().filter((p) => p.argv.includes('gpu-probe'));

{
  const driver = stubDriver(...both());
  test(
    'two GPUs: listed in PCI order, masks reach the engines by UUID, memory moves',
    withCorral(
      {
        pools: [
          fakePool('first', [], { devices: '0' }),
          fakePool('second', [], { devices: 'GPU-bbbb' }),
          fakePool('all', []),
          fakeLlamaPool('host', [], { devices: 'cpu' }),
          fakePool('gone', [], { devices: '7' }),
        ],
      },
      async (corral) => {
        await state(corral, A, 'ok');
        const [a, b, cpu] = await devices(corral);
        assert.deepEqual([a.uuid, b.uuid, cpu.uuid], [A, B, 'cpu']);
        assert.deepEqual([a.index, b.index, cpu.index], [0, 1, null]);
        assert.deepEqual(
          [a.name, a.kind, a.memory_total_bytes, a.memory_used_bytes, a.utilization, a.temperature_c],
          ['Stub 24 GB', 'cuda', 24 * GIB, GIB, 0.25, 51],
        );
        assert.equal(a.compute_capability, '8.9');
        assert.equal(cpu.kind, 'cpu');
        assert.ok(cpu.memory_free_bytes > 0);

        for (const id of ['first', 'second', 'all', 'host'])
          assert.equal((await corral.chat(id)).status, 200);
        const env = (id) => environment(corral.engineOf(id).pid);
        assert.equal(env('first').CUDA_VISIBLE_DEVICES, A);
        assert.equal(env('first').CUDA_DEVICE_ORDER, 'PCI_BUS_ID');
        assert.equal(env('second').CUDA_VISIBLE_DEVICES, B);
        assert.equal(env('all').CUDA_VISIBLE_DEVICES, `${A},${B}`);
        assert.equal(env('host').CUDA_VISIBLE_DEVICES, '');
        const argv = corral.engineOf('host').argv;
        assert.equal(argv[argv.indexOf('--device') + 1], 'none');

        const holders = async (uuid) => (await gpu(corral, uuid)).replicas.map((r) => r.id).sort();
        assert.deepEqual(await holders(A), ['all-0', 'first-0']);
        assert.deepEqual(await holders(B), ['all-0', 'second-0']);
        assert.deepEqual(await holders('cpu'), ['host-0']);

        const refused = await corral.chat('gone');
        assert.equal(refused.status, 503, refused.text);
        assert.match(refused.json.error.message, /names 7, which is not on this machine.*0: Stub 24 GB/);
        assert.equal((await corral.pool('gone')).last_error.cause, 'bad_args');

        const { pid } = corral.engineOf('first');
        driver.say(...both(20480), `process|${A}|${pid}|900`, `process|${A}|1|64`);
        const moved = await until('the memory to move', async () => {
          const d = await gpu(corral, A);
          return d.memory_used_bytes === 20 * GIB && d;
        });
        assert.equal(moved.replicas.find((r) => r.id === 'first-0').memory_bytes, 900 * 2 ** 20);
        assert.deepEqual(
          moved.processes.map((p) => [p.pid, p.replica]),
          [[pid, 'first-0'], [1, null]],
        );
        const figure = await corral.figures();
        assert.equal(figure('corral_device_memory_bytes', { device: A, kind: 'used' }), 20 * GIB);
        assert.equal(figure('corral_device_utilization_ratio', { device: A }), 0.25);

        const { stdout, code } = await corral.cli('devices');
        assert.equal(code, 0);
        assert.match(stdout, /^0 +Stub 24 GB +cuda +ok +4\.0 GiB +24\.0 GiB +25% +51C +- +GPU-aaaa/m);
        assert.match(stdout, /GPU-aaaa.*first-0 \(900 MiB\)/);
        assert.match((await corral.cli('ps')).stdout, /all-0 .* 0,1 /);
      },
      { env: driver.env, leaks: false },
    ),
  );
}

{
  const mig = (uuid, n) => `mig|${uuid}|Stub MIG ${n}g|00000000:01:00.0|${n * 4096}|0|||8.9|0|${A}`;
  const lines = [...both(), mig('MIG-aa', 1), mig('MIG-bb', 2), `power|${B}|99000|200000`, `ecc|${B}|3|1`];
  const driver = stubDriver(...lines, `path|${A}|${B}|10`, `nvlink|${A}|00000000:02:00.0|4`);
  test(
    'MIG instances are devices, power, memory errors and an Xid are told, and what lies between GPUs',
    withCorral(
      {
        pools: [
          fakePool('part', [], { devices: 'MIG-bb' }),
          fakePool('whole', [], { devices: '0' }),
          fakePool('a'),
          fakeLlamaPool('planned'),
        ],
      },
      async (corral) => {
        await state(corral, 'MIG-bb', 'ok');
        const all = await devices(corral);
        assert.deepEqual(all.map((d) => d.uuid), [A, B, 'MIG-aa', 'MIG-bb', 'cpu']);
        const [a, b, , part] = all;
        assert.deepEqual([a.split, b.split, part.parent], [true, false, A]);
        assert.deepEqual([b.power_w, b.power_limit_w, b.ecc_corrected, b.ecc_uncorrected], [99, 200, 3, 1]);
        assert.deepEqual([a.power_w, a.ecc_corrected, a.last_error], [null, null, null]);
        assert.deepEqual(a.links, [{ device: B, path: 'switch', fabric_links: 4 }]);

        for (const id of ['part', 'a', 'planned']) assert.equal((await corral.chat(id)).status, 200);
        const env = (id) => environment(corral.engineOf(id).pid).CUDA_VISIBLE_DEVICES;
        assert.deepEqual([env('part'), env('a')], ['MIG-bb', B], 'never one that is divided');
        assert.ok([B, 'MIG-aa', 'MIG-bb'].includes(env('planned')), env('planned'));
        const refused = await corral.chat('whole');
        assert.match(refused.json.error.message, /divided into MIG instances/);

        driver.say(...lines, `xid|${B}|79|1`);
        const told = await until('the Xid', async () => (await gpu(corral, B)).last_error);
        assert.match(told.message, /^Xid 79: the GPU has fallen off the bus$/);
        assert.equal((await gpu(corral, B)).state, 'ok', 'an event is no loss');
        assert.match(corral.log(), /reports: Xid 79/);
        assert.match((await corral.cli('devices')).stdout, /0 and 1: one PCI Express switch, 4 direct links/);
        const figure = await corral.figures();
        assert.equal(figure('corral_device_power_watts', { device: B }), 99);
        assert.equal(figure('corral_device_ecc_errors', { device: B, kind: 'uncorrected' }), 1);
      },
      { env: driver.env, leaks: false },
    ),
  );
}

{
  const driver = stubDriver('engine|fake-engine|6000', 'account', ...both(0));
  test(
    "the stub's memory follows the engines that run, and comes back when they end",
    withCorral({ pools: [fakePool('a', [], { devices: '0' })] }, async (corral) => {
      await state(corral, A, 'ok');
      assert.equal((await corral.chat('a')).status, 200);
      const used = (n) => async () => (await gpu(corral, A)).memory_used_bytes === n * 2 ** 20;
      await until('its memory', used(6000), 30000);
      assert.equal((await gpu(corral, A)).replicas[0].memory_bytes, 6000 * 2 ** 20);
      assert.equal((await gpu(corral, B)).memory_used_bytes, 0);
      await corral.post('/v1/pools/a/disable', {});
      await until('its memory to come back', used(0), 30000);
    }, { env: driver.env, leaks: false }),
  );
}

{
  const driver = stubDriver(...both());
  test(
    'a driver that hangs is killed, lost, and comes back; engines that run go on',
    withCorral(
      { pools: [fakePool('a', [], { devices: '1' }), fakePool('b', [], { devices: '0' })] },
      async (corral) => {
        await state(corral, A, 'ok');
        assert.equal((await corral.chat('a')).status, 200);
        const engine = corral.engineOf('a').pid;
        const [probe] = probes(corral);
        driver.say('hang|memory', ...both());
        await until('the probe to be killed', () => !isAlive(probe.pid));
        await state(corral, B, 'lost', 60000);
        assert.match((await gpu(corral, B)).reason, /does not answer/);
        assert.equal((await corral.chat('a')).status, 200, 'an engine that runs is left alone');
        assert.equal(corral.engineOf('a').pid, engine);
        const refused = await corral.chat('b');
        assert.equal(refused.status, 503);
        assert.match(refused.json.error.message, /GPU 0 .* is lost: .*does not answer/);
        assert.equal((await corral.pool('b')).last_error.cause, 'no_device');

        driver.say(...both());
        await state(corral, B, 'ok', 60000);
        await until('the pool to start by itself', async () => (await corral.chat('b')).status === 200);
        assert.equal(corral.engineOf('a').pid, engine);
      },
      { env: driver.env, leaks: false },
    ),
  );
}

/** corral doctor: its findings. */
async function doctor(corral, expected) {
  const { code, stdout } = await corral.cli('doctor', '--json');
  assert.equal(code, expected, stdout);
  const { findings } = JSON.parse(stdout);
  return (check, words) => {
    const found = findings.find((f) => f.check === check && words.test(f.message));
    assert.ok(found, `${check} ${words}: ${stdout}`);
    return found;
  };
}

/** A bus with one NVIDIA GPU. */
function oneOnTheBus(dir) {
  const at = path.join(dir, 'bus/pci/devices/0000:01:00.0');
  fs.mkdirSync(at, { recursive: true });
  for (const [name, text] of Object.entries({ class: '0x030000', vendor: '0x10de', device: '0x2684' }))
    fs.writeFileSync(path.join(at, name), `${text}\n`);
  return dir;
}
const hidden = (...lines) => {
  const driver = stubDriver(...lines);
  return { ...driver.env, CORRAL_SYSFS: oneOnTheBus(path.dirname(driver.env.CORRAL_NVML_STUB)) };
};

test(
  'a GPU that the driver hides is an error with its own words, never the CPU',
  withCorral(
    { pools: [fakePool('a'), fakeLlamaPool('llama'), fakePool('host', [], { devices: 'cpu' })] },
    async (corral) => {
      for (const id of ['a', 'llama']) {
        const refused = await corral.chat(id);
        assert.equal(refused.status, 503, refused.text);
        assert.match(refused.json.error.message, /Driver\/library version mismatch/);
        assert.match(refused.text, /devices: cpu/, 'the way out');
        const { state, last_error } = await corral.pool(id);
        assert.deepEqual([state, last_error.cause], ['failed', 'no_device']);
      }
      assert.equal((await corral.chat('host')).status, 200);
      const [d] = await devices(corral);
      assert.deepEqual([d.state, d.pci], ['unusable', '0000:01:00.0']);
      assert.equal(probes(corral).length, 0, 'no probe is kept for a driver that cannot be asked');
      const found = await doctor(corral, 1);
      assert.match(found('gpu', /version mismatch/).fix, /restart the machine/);
      assert.equal(found('ports', /a daemon runs/).state, 'ok');
      assert.equal(found('daemon', /answers at/).state, 'ok');
    },
    { env: hidden('init|18'), leaks: false },
  ),
);

test(
  'gpu: optional takes the CPU instead, and says so',
  withCorral(
    { gpu: 'optional', pools: [fakePool('a')] },
    async (corral) => {
      assert.equal((await corral.chat('a')).status, 200);
      const [replica] = (await corral.pool('a')).replicas;
      assert.equal(replica.device, 'cpu');
      assert.match(replica.device_note, /version mismatch/);
      assert.match((await corral.cli('ps')).stdout, /cpu!/);
    },
    { env: hidden('init|18'), leaks: false },
  ),
);

test(
  'gpu: required without a GPU fails fast and says what was looked at',
  withCorral({ gpu: 'required', pools: [fakePool('a')] }, async (corral) => {
    const refused = await corral.chat('a');
    assert.equal(refused.status, 503);
    assert.match(refused.json.error.message, /gpu: required.*0 devices on the PCI bus/);
    assert.equal(probes(corral).length, 0);
  }),
);

test(
  'a machine without a GPU: the CPU, said once, and no probe',
  withCorral({ pools: [fakePool('a'), fakePool('b')] }, async (corral) => {
    for (const id of ['a', 'b']) assert.equal((await corral.chat(id)).status, 200);
    assert.match((await corral.cli('ps')).stdout, /a-0 .* cpu /);
    assert.equal(corral.log().match(/shows no GPU/g).length, 1);
    assert.equal(probes(corral).length, 0);
    assert.equal(environment(corral.engineOf('a').pid).CUDA_VISIBLE_DEVICES, undefined);
  }, { leaks: false }),
);

{
  const driver = stubDriver(...both());
  test(
    'gpu: none keeps every engine on the CPU',
    withCorral(
      { gpu: 'none', pools: [fakePool('a')] },
      async (corral) => {
        assert.equal((await corral.chat('a')).status, 200);
        assert.equal(environment(corral.engineOf('a').pid).CUDA_VISIBLE_DEVICES, '');
        assert.equal((await corral.pool('a')).replicas[0].device, 'cpu');
      },
      { env: driver.env, leaks: false },
    ),
  );
}
