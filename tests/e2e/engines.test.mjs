// SPDX-License-Identifier: Apache-2.0
// Engines of other kinds, and the ways they get here, with stand-ins: what each is started with, that nobody
// sees its key, how busy it says it is, what a container leaves behind.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import test, { after } from 'node:test';
import { Corral, fakePath, model, root, stubDriver, until, withCorral } from './harness.mjs';

const fakes = path.join(root, 'tests/fakes');

const made = [];
after(() => made.forEach((dir) => fs.rmSync(dir, { recursive: true, force: true })));
function folder(name) {
  made.push(fs.mkdtempSync(path.join(os.tmpdir(), name)));
  return made.at(-1);
}

/** A folder with programs of these names that run the words given (a stand-in for what PATH would have). */
function programs(named) {
  const dir = folder('crl-bin-');
  for (const [name, words] of Object.entries(named)) {
    const line = words.map((w) => `'${w}'`).join(' ');
    fs.writeFileSync(path.join(dir, name), `#!/bin/sh\nexec ${line} "$@"\n`, { mode: 0o755 });
  }
  return dir;
}
const vllm = [process.execPath, path.join(fakes, 'vllm.mjs')];
const pathWith = (dir) => ({ PATH: `${dir}:${process.env.PATH}` });

/** A folder that has the shape of a model of theirs. */
function modelFolder() {
  const dir = folder('crl-model-');
  fs.writeFileSync(path.join(dir, 'config.json'), '{}');
  fs.writeFileSync(path.join(dir, 'model.safetensors'), '');
  return dir;
}
const direct = async (url, target, init) => (await fetch(`${url}${target}`, init)).json();

const bin = programs({ vllm, sglang: vllm, 'text-generation-launcher': vllm });
const weights = modelFolder();
for (const [kind, file] of [
  ['vllm', null],
  ['sglang', 'yaml'],
  ['tgi', null],
])
  test(
    `${kind} is started with a key that nobody sees, answers, tells its version and its load, and ends`,
    withCorral(
      {
        pools: [{ id: 'big', aliases: ['gpt'], model: weights, ctx: 4096, engine: { kind }, slots: 3 }],
      },
      async (corral) => {
        const answer = await corral.chat('gpt'); // by another name than the engine knows
        assert.equal(answer.status, 200, answer.text);
        assert.equal(answer.json.choices[0].message.content, `from ${kind}`);
        await corral.ready('big');
        const replica = (await corral.pool('big')).replicas[0];
        assert.match(replica.address, /^http:\/\/127\.0\.0\.1:\d+$/);
        const started = await direct(replica.address, '/fake/start');
        assert.match(started.key, /^[0-9a-f]{64}$/);
        assert.ok(!started.argv.join(' ').includes(started.key), 'not on the command line');
        const refused = await fetch(`${replica.address}/v1/chat/completions`, { method: 'POST', body: '{}' });
        assert.equal(refused.status, 401, 'nobody goes around');
        const engines = path.join(corral.runtimeDir, 'engines');
        const secrets = fs.readdirSync(engines).filter((f) => /\.(key|yaml|env)$/.test(f));
        assert.deepEqual(secrets.sort(), ['big-0.1.key', ...(file ? [`big-0.1.${file}`] : [])]);
        for (const f of secrets) assert.equal(fs.statSync(path.join(engines, f)).mode & 0o777, 0o600);
        const shown = JSON.stringify((await corral.get('/v1/pools')).json) + corral.log();
        assert.ok(!shown.includes(started.key), 'neither listings nor the log show it');

        await direct(replica.address, '/fake/load', {
          method: 'POST',
          body: JSON.stringify({ running: 3, waiting: 2, used: 0.5 }),
        });
        await until(
          () => 'the load to be told',
          async () => (await corral.pool('big')).replicas[0].load?.running === 3,
        );
        const now = (await corral.pool('big')).replicas[0];
        assert.equal(now.load.waiting, 2);
        assert.equal(now.load.kv_used, kind === 'tgi' ? undefined : 0.5);
        assert.equal(now.engine_version, '9.8.7');
        assert.match((await corral.cli('ps')).stdout, /\(3\+2\)/);

        await corral.post('/v1/pools/big/stop', {});
        await until(
          () => 'its files to go',
          () => !fs.readdirSync(engines).some((f) => /\.(key|yaml|env)$/.test(f)),
        );
      },
      { env: pathWith(bin) },
    ),
  );

test(
  'an engine with a key is taken over by the next corral, which still has the key',
  async () => {
    const corral = new Corral(
      { pools: [{ id: 'big', model: weights, engine: { kind: 'vllm' } }] },
      { env: pathWith(bin), args: ['--keep-engines'] },
    );
    try {
      await corral.start();
      assert.equal((await corral.chat('big')).status, 200);
      const { pid } = (await corral.pool('big')).replicas[0];
      corral.child.kill('SIGTERM');
      await corral.exited;
      await corral.start();
      const answer = await corral.chat('big');
      assert.equal(answer.status, 200, answer.text);
      assert.equal((await corral.pool('big')).replicas[0].pid, pid, 'the same process');
    } finally {
      corral.kill();
      corral.remove();
    }
  },
);

test('a program that is not there says what to do; what contradicts is refused with the reason', async () => {
  const corral = new Corral({
    pools: [
      { id: 'none', model: weights, engine: { kind: 'vllm', path: '/nowhere/vllm' } },
      { id: 'both', model: weights, engine: { kind: 'vllm', path: vllm[0], args: '--port 80' } },
    ],
  });
  try {
    await corral.start();
    const none = await corral.chat('none');
    assert.equal(none.status, 503);
    assert.match(none.text, /\/nowhere\/vllm.*not an executable file; install it, name it by engine\.path/);
    const both = await corral.chat('both');
    assert.equal(both.status, 503);
    assert.match(both.text, /--port 80.*corral listens for the engine itself/);
  } finally {
    await corral.stop();
    corral.remove();
  }
});

test(
  'an external server that is busy with others gets the fewer requests, and is never stopped',
  async () => {
    const [a, b] = await Promise.all([external(), external()]);
    try {
      await withCorral(
        {
          pools: [{ id: 'out', slots: 8, engine: { kind: 'vllm', urls: [a.url, b.url] } }],
        },
        async (corral) => {
          assert.equal((await corral.chat('out')).status, 200);
          await a.load(5, 0);
          await until(
            () => 'its load to be told',
            async () => (await corral.pool('out')).replicas[0]?.load?.running === 5,
          );
          const before = b.served();
          for (let i = 0; i < 4; i++) assert.equal((await corral.chat('out')).status, 200);
          assert.equal((await b.served()) - (await before), 4, 'all to the one that others leave alone');
        },
      )({ name: 'external' });
      assert.equal((await a.served()) >= 0, true, 'it lives on');
    } finally {
      a.end();
      b.end();
    }
  },
);

async function external() {
  const { spawn } = await import('node:child_process');
  const { createServer } = await import('node:net');
  const port = await new Promise((resolve) => {
    const s = createServer().listen(0, '127.0.0.1', () => {
      const p = s.address().port;
      s.close(() => resolve(p));
    });
  });
  const child = spawn(vllm[0], [vllm[1], 'serve', 'm', '--host', '127.0.0.1', '--port', `${port}`], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  await new Promise((resolve) => child.stdout.once('data', resolve));
  const url = `http://127.0.0.1:${port}`;
  return {
    url,
    end: () => child.kill('SIGKILL'),
    load: (running, waiting) =>
      direct(url, '/fake/load', { method: 'POST', body: JSON.stringify({ running, waiting }) }),
    served: async () => (await direct(url, '/fake/start')).served,
  };
}

// ---- containers ------------------------------------------------------------------------------------------

const digest = `sha256:${'ab'.repeat(32)}`;

/** A stand-in for podman with these images, and what it was asked. */
function podman(registry, name = 'podman') {
  const at = folder('crl-box-');
  fs.writeFileSync(path.join(at, 'registry.json'), JSON.stringify(registry));
  const dir = programs({ [name]: [process.execPath, path.join(fakes, 'podman.mjs'), at] });
  return {
    folder: at,
    state: folder('crl-state-'), // what its tags were pinned to is the test's own
    env: pathWith(dir),
    calls: () =>
      fs
        .readFileSync(path.join(at, 'calls'), { encoding: 'utf8', flag: 'a+' })
        .split('\n')
        .filter(Boolean)
        .map((l) => JSON.parse(l)),
    containers: () => {
      const all = path.join(at, 'containers');
      return fs.existsSync(all) ? fs.readdirSync(all) : [];
    },
    pidOf: (c) => JSON.parse(fs.readFileSync(path.join(at, 'containers', c), 'utf8')).pid,
  };
}
const llamaImage = { 'example.org/llama:server': { digest, program: [fakePath] } };
const boxed = (rest = {}) => ({
  id: 'box',
  model: model('random'),
  ctx: 2048,
  engine: { mode: 'container', image: 'example.org/llama:server', runtime: 'podman', ...rest },
});

test('a container: pinned to a digest, nothing secret on a command line, stopped as a process', async () => {
  const box = podman(llamaImage);
  await withCorral(
    { pools: [boxed({ env: { MY_TOKEN: 'hush' } })], state_dir: box.state },
    async (corral) => {
      const answer = await corral.chat('box');
      assert.equal(answer.status, 200, answer.text);
      const replica = (await corral.pool('box')).replicas[0];
      assert.match(replica.engine_why, new RegExp(`container: example\\.org/llama@${digest} by podman`));
      const run = box.calls().find(([verb]) => verb === 'run');
      const line = run.join(' ');
      assert.ok(line.includes(` example.org/llama@${digest} --model `), line);
      assert.match(line, /--rm --pull=never .*--publish=127\.0\.0\.1:(\d+):\1 .*--host 0\.0\.0\.0 --port \1/);
      assert.match(line, /--mount type=bind,source=[^,]+,target=[^,]+,readonly/);
      const [, key] = /authorization: bearer (\w+)/i.exec(
        (await direct(replica.address, '/fake/requests')).map((r) => r.head).join('\n'),
      );
      const words = box.calls().flat().join(' ');
      assert.ok(!words.includes(key) && !words.includes('hush'), 'no secret in any argv');
      assert.equal(box.calls().filter(([verb]) => verb === 'pull').length, 1);

      await corral.post('/v1/pools/box/stop', {});
      await until(
        () => 'the container to go',
        () => box.containers().length === 0,
      );
      assert.ok(box.calls().some(([verb]) => verb === 'stop'));
      assert.equal((await corral.chat('box')).status, 200, 'and it starts again');
      assert.equal(box.calls().filter(([verb]) => verb === 'pull').length, 1, 'from what is there');
    },
    { env: box.env, leaks: false },
  )({ name: 'container' });
  assert.deepEqual(box.containers(), []);
});

test('a container that outlived its keeper is found and removed', async () => {
  const box = podman(llamaImage);
  await withCorral(
    { pools: [boxed()], state_dir: box.state },
    async (corral) => {
      assert.equal((await corral.chat('box')).status, 200);
      const [old] = box.containers();
      const pid = box.pidOf(old);
      const keeper = corral.processes().find((p) => /corral-keeper$/.test(p.argv[0] ?? ''));
      process.kill(keeper.pid, 'SIGKILL');
      await until(
        () => `the old container to go (${box.containers()})`,
        () => !box.containers().includes(old) && !fs.existsSync(`/proc/${pid}`),
      );
      await until(
        () => 'the next one to answer',
        async () => (await corral.chat('box')).status === 200,
      );
      assert.equal(box.containers().length, 1);
      assert.notEqual(box.containers()[0], old);
    },
    { env: box.env, leaks: false },
  )({ name: 'leftover' });
  assert.deepEqual(box.containers(), []);
});

const denied = { network: { deny: ['example.org'] } };
for (const [what, config, registry, prepare, words, whole] of [
  ['no such image', { image: 'example.org/other:1' }, llamaImage, null, /fetch the image: .*unknown/],
  ['denied', {}, llamaImage, null, /refused by network\.deny: example\.org/, denied],
  ['nothing works', {}, llamaImage, (f) => fs.writeFileSync(`${f}/broken`, ''), /does not work for this/],
  ['no digest', {}, { 'example.org/llama:server': { program: ['x'] } }, null, /name one by digest/],
])
  test(`a container that cannot be had says why: ${what}`, async () => {
    const box = podman(registry);
    prepare?.(box.folder);
    await withCorral(
      { pools: [boxed(config)], state_dir: box.state, ...whole },
      async (corral) => {
        const answer = await corral.chat('box');
        assert.equal(answer.status, 503);
        assert.match(answer.text, words);
      },
      { env: box.env },
    )({ name: what });
  });

// ---- whose images ----------------------------------------------------------------------------------------

const refusals = (corral, words) =>
  corral.chat('box').then(({ status, text }) => {
    assert.equal(status, 503, text);
    assert.match(text, words);
  });
const byTag = /server is refused by trust\.require_digest: true: .*name it by its digest/;

test('a tag alone is refused where digests are required, unless it was pinned before', async () => {
  const box = podman(llamaImage);
  const pools = [boxed()];
  const strict = { pools, state_dir: box.state, trust: { require_digest: true } };
  const opts = { env: box.env, leaks: false };
  await withCorral(
    strict,
    async (corral) => {
      await refusals(corral, byTag);
      assert.equal(box.calls().filter(([verb]) => verb === 'pull').length, 0, 'not even fetched');
      const plan = await corral.cli('engines', 'plan', 'box', '--config', corral.configFile);
      assert.match(plan.stdout, byTag);
      const named = { ...strict, pools: [boxed({ image: `example.org/llama@${digest}` })] };
      corral.write(named);
      assert.equal((await corral.cli('config', 'reload')).code, 0);
      await until('the digest to serve', async () => (await corral.chat('box')).status === 200);
    },
    opts,
  )({ name: 'by tag' });
  const serves = async (corral) => {
    const { status, text } = await corral.chat('box');
    assert.equal(status, 200, text);
  };
  await withCorral({ pools, state_dir: box.state }, serves, opts)({ name: 'pinned now' });
  const image = llamaImage['example.org/llama:server'];
  const moved = { ...image, digest: digest.replaceAll('ab', 'cd') };
  const registry = { 'example.org/llama:server': moved, 'example.org/llama:before': image };
  fs.writeFileSync(path.join(box.folder, 'registry.json'), JSON.stringify(registry));
  await withCorral(
    strict,
    async (corral) => {
      await serves(corral); // by the digest it had, wherever the tag has gone
      assert.ok((await corral.pool('box')).replicas[0].engine_why.includes(digest));
    },
    opts,
  )({ name: 'pinned before' });
});

test('trust.mode strict: only images of trust.registries, by digest', async () => {
  const box = podman(llamaImage);
  const image = `example.org/llama@${digest}`;
  const whole = (registries, rest) => ({
    pools: [boxed({ image, ...rest })],
    state_dir: box.state,
    trust: { mode: 'strict', registries },
  });
  const opts = { env: box.env, leaks: false };
  await withCorral(
    whole(['ghcr.io', '*.example.com']),
    async (corral) => {
      const words = /strict: example\.org is not among trust\.registries: \[ghcr\.io, \*\.example\.com\]/;
      await refusals(corral, words);
      corral.write(whole(['example.org'], { image: 'example.org/llama:server' }));
      assert.equal((await corral.cli('config', 'reload')).code, 0);
      await until('the tag to be what is refused', async () =>
        /refused by trust\.mode: strict: a tag may be/.test((await corral.chat('box')).text),
      );
      corral.write(whole(['example.org']));
      assert.equal((await corral.cli('config', 'reload')).code, 0);
      await until('it to serve', async () => (await corral.chat('box')).status === 200);
    },
    opts,
  )({ name: 'strict' });
});

test('without a name, the image is the one for the GPUs that are here', async () => {
  const name = 'ghcr.io/ggml-org/llama.cpp:server';
  const images = [name, `${name}-cuda`].map((image, i) => [
    image,
    { digest: `sha256:${`${i}c`.repeat(32)}`, program: [fakePath] },
  ]);
  const driver = stubDriver('device|GPU-aaaa1111|Stub 24 GB|00000000:01:00.0|24576|0|25|51|8.9|0');
  const pools = [boxed({ image: undefined })];
  for (const [i, env] of [{}, driver.env].entries()) {
    const box = podman(Object.fromEntries(images));
    await withCorral(
      { pools, state_dir: box.state },
      async (corral) => {
        const answer = await corral.chat('box');
        assert.equal(answer.status, 200, answer.text);
        const run = box.calls().find(([verb]) => verb === 'run');
        assert.ok(run.includes(`ghcr.io/ggml-org/llama.cpp@${images[i][1].digest}`), run.join(' '));
        assert.equal(run.some((w) => /nvidia\.com\/gpu/.test(w)), i === 1, run.join(' '));
      },
      { env: { ...env, ...box.env }, leaks: false },
    )({ name: `by devices ${i}` });
  }
  fs.rmSync(path.dirname(driver.env.CORRAL_NVML_STUB), { recursive: true });
});

/** Why no real podman or docker can be used here; undefined: one can. */
function noRuntime() {
  for (const program of ['podman', 'docker'])
    try {
      execFileSync(program, ['version'], { stdio: 'ignore', timeout: 20000 });
      return process.env.CORRAL_TEST_IMAGE ? undefined : 'CORRAL_TEST_IMAGE names no image of llama-server';
    } catch {
      /* the next one */
    }
  return 'neither podman nor docker works here';
}

test('a real container of llama-server answers', { skip: noRuntime() }, async () => {
  const engine = { mode: 'container', image: process.env.CORRAL_TEST_IMAGE };
  await withCorral({ pools: [{ ...boxed(), engine }] }, async (corral) => {
    assert.equal((await corral.chat('box')).status, 200);
  })({ name: 'real container' });
});
