// SPDX-License-Identifier: Apache-2.0
//
// Other engines in place of those that run: nothing is refused, nothing is cut, and what does not work is
// taken back. A client asks every 50 ms throughout.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';
import { fakePath, isAlive, model, root, until, withCorral } from './harness.mjs';

/** The fake engine as llama-server; the model's name decides how it fails, no random folder. */
function engineIn(dir) {
  const file = path.join(dir, 'engine.sh');
  fs.writeFileSync(
    file,
    `#!/bin/sh
case "$*" in
*oom.gguf*) more="--start-fails oom_vram" ;;
*bad.gguf*) more="--start-fails bad_model" ;;
*never.gguf*) more="--ready-after-ms 600000" ;;
*mute.gguf*) more="--status 500" ;;
esac
exec ${fakePath} "$@" $more
`,
    { mode: 0o755 },
  );
  return file;
}

/** The header of a model of 3 TB over a hole. */
function writeHuge(file) {
  const script = `import sys; sys.path.insert(0, sys.argv[1]); import shapes, gguf_sparse
m = shapes.llama("F16", 500, 16384, 53248, 128, 8, 128256)
gguf_sparse.write(sys.argv[2], m.keys, m.tensors)`;
  execFileSync('python3', ['-c', script, path.join(root, 'tests/estimate'), file]);
}

/** A Corral whose models_dir holds models that differ in name alone, and one that no memory holds. */
function reloadTest(body, { pool = {}, ...opts } = {}) {
  return async (t) => {
    const dir = fs.mkdtempSync(path.join(fs.realpathSync('/tmp'), 'crm-'));
    const models = path.join(dir, 'models');
    fs.mkdirSync(models);
    for (const name of ['one', 'two', 'three', 'oom', 'bad', 'never', 'mute'])
      fs.copyFileSync(model('random'), path.join(models, `${name}.gguf`));
    for (const name of ['huge', 'huge-bad']) writeHuge(path.join(models, `${name}.gguf`));
    const config = {
      models_dir: models,
      pools: [
        {
          id: 'chat',
          model: 'one.gguf',
          start_timeout: '2s',
          engine: {
            kind: 'llamacpp',
            mode: 'binary',
            path: engineIn(dir),
            args: ['--event-interval-us', '2000'],
          },
          ...pool,
        },
      ],
    };
    try {
      await withCorral(
        config,
        async (corral) => {
          corral.config = config;
          corral.models = models;
          await body(corral);
        },
        { warm: ['chat'], leaks: false, ...opts },
      )(t);
    } finally {
      fs.rmSync(dir, { recursive: true, force: true });
    }
  };
}

/** Asks every 50 ms, streamed and not, until stop(); each answer is whole, or stop() fails. */
function askAllTheTime(corral) {
  const running = new Set();
  const wrong = [];
  let asked = 0;
  const ask = () => {
    const stream = ++asked % 2 === 0;
    const one = corral
      .chat('chat', { stream, max_tokens: 40 })
      .then((a) => {
        const whole = stream ? a.text.trimEnd().endsWith('data: [DONE]') : a.json?.choices?.length;
        if (a.status !== 200 || !whole) wrong.push(`${a.status} ${a.text.slice(0, 300)}`);
      })
      .catch((e) => wrong.push(String(e)))
      .finally(() => running.delete(one));
    running.add(one);
  };
  ask(); // what is over in less time than that is asked during, too
  const timer = setInterval(ask, 50);
  return async () => {
    clearInterval(timer);
    await Promise.all(running);
    assert.deepEqual(wrong, []);
    assert.ok(asked > 0);
    return asked;
  };
}

const reload = (corral, name) =>
  corral.post('/v1/pools/chat/reload', name ? { model: `${name}.gguf` } : {});
const enginePids = (corral) => corral.engines().map((p) => p.pid);
const servedModel = (corral) => corral.pool('chat').then((p) => p.model);

test(
  'reload to a good model: the new engine is ready before the old one goes',
  reloadTest(async (corral) => {
    const [old] = enginePids(corral);
    const stop = askAllTheTime(corral);
    const long = corral.chat('chat', { stream: true, max_tokens: 400 }); // most of a second
    const a = await reload(corral, 'two');
    assert.equal(a.status, 200, a.text);
    assert.equal(a.json.swapped, false);
    const stream = await long;
    assert.ok(stream.text.trimEnd().endsWith('data: [DONE]'), stream.text.slice(-300));
    await until('the old engine to be gone', () => !isAlive(old));
    await stop();
    assert.match(await servedModel(corral), /two\.gguf$/);
    await until('the new engine alone, with its model', () => {
      const [one, more] = corral.engines(); // a process that is just being started has no words yet
      return !more && one?.argv.some((w) => w.endsWith('two.gguf'));
    });
    const figure = await corral.figures();
    assert.equal(figure('corral_reloads_total', { pool: 'chat', outcome: 'ok' }), 1);
  }),
);

for (const [name, why] of [
  ['bad', /model|load/i],
  ['oom', /memory/i],
  ['never', /ready|time/i],
  ['mute', /answer|500/i],
]) {
  test(
    `reload to a model that is ${name}: 409, the old engine keeps its PID and nobody notices`,
    reloadTest(async (corral) => {
      const before = enginePids(corral);
      const stop = askAllTheTime(corral);
      const a = await reload(corral, name);
      assert.equal(a.status, 409, a.text);
      assert.equal(a.json.error.corral.code, 'CONFLICT');
      assert.match(a.json.error.message, why);
      await stop();
      await until('the new engine to be gone', () => enginePids(corral).length === 1);
      assert.deepEqual(enginePids(corral), before);
      const pool = await corral.pool('chat');
      assert.equal(pool.model, 'one.gguf');
      assert.equal(pool.override, null);
      assert.match(pool.last_error.message, why);
      assert.equal((await reload(corral, 'two')).status, 200, 'a later reload works');
      assert.equal((await corral.pool('chat')).last_error, null);
    }),
  );
}

test(
  'a model that does not fit beside the old one: drain, then swap; requests wait',
  reloadTest(async (corral) => {
    const [old] = enginePids(corral);
    const stop = askAllTheTime(corral);
    const a = await reload(corral, 'huge');
    assert.equal(a.status, 200, a.text);
    assert.equal(a.json.swapped, true);
    await stop();
    assert.ok(!isAlive(old));
    assert.match(await servedModel(corral), /huge\.gguf$/);
  }),
);

test(
  'a swap to a model that is bad: the old kind comes back, and those who wait are answered',
  reloadTest(async (corral) => {
    const stop = askAllTheTime(corral);
    const a = await reload(corral, 'huge-bad');
    assert.equal(a.status, 409, a.text);
    await stop();
    assert.equal(await servedModel(corral), 'one.gguf');
    assert.ok(corral.engines()[0].argv.some((w) => w.endsWith('one.gguf')));
  }),
);

test(
  'the file names a bad model that does not fit beside: the old kind comes back, for those who wait too',
  reloadTest(async (corral) => {
    const stop = askAllTheTime(corral);
    const [pool] = corral.config.pools;
    corral.write({ ...corral.config, pools: [{ ...pool, model: 'huge-bad.gguf' }] });
    assert.equal((await corral.post('/v1/config/reload', {})).status, 200);
    await until('the reload to have failed', async () => (await corral.pool('chat')).last_error, 20000);
    await stop();
    assert.match(corral.log(), /does not fit beside it/);
    assert.ok(corral.engines()[0].argv.some((w) => w.endsWith('one.gguf')));
  }),
);

test(
  'what the API may not choose: files outside the stores, by any way',
  reloadTest(async (corral) => {
    const outside = path.join(corral.dir, 'outside.gguf');
    fs.copyFileSync(model('random'), outside);
    fs.symlinkSync(outside, path.join(corral.models, 'link.gguf'));
    for (const name of [
      outside,
      'link.gguf',
      '../engine.sh',
    ]) {
      const a = await corral.post('/v1/pools/chat/reload', { model: name });
      assert.equal(a.status, 403, `${name}: ${a.text}`);
      assert.match(a.json.error.corral.hint, /config reload/);
    }
    for (const body of [{ model: 'none.gguf' }, { model: '' }, { model: 7 }, { engine_version: 'b1' }, []])
      assert.equal((await corral.post('/v1/pools/chat/reload', body)).status, 400, JSON.stringify(body));
    for (const body of [{ args: ['--port', '80'] }, { env: ['A=1'] }, { engine: { path: '/bin/sh' } }]) {
      const { status, json } = await corral.post('/v1/pools/chat/reload', body);
      assert.equal(status, 403, JSON.stringify(body));
      assert.match(json.error.message, /in the configuration's file only/);
    }
    assert.equal((await corral.post('/v1/pools/nobody/reload', {})).status, 404);
  }),
);

async function restart(corral) {
  await corral.stop();
  await corral.start();
}

test(
  'a model that an operator chose holds over a restart, until the configuration names another',
  reloadTest(async (corral) => {
    assert.equal((await reload(corral, 'two')).status, 200);
    await restart(corral);
    assert.equal((await corral.chat('chat')).status, 200);
    assert.ok(corral.engines()[0].argv.some((w) => w.endsWith('two.gguf')));
    const pool = await corral.pool('chat');
    assert.match(pool.override.model, /two\.gguf$/);
    assert.equal(pool.override.configured, 'one.gguf');
    await corral.stop();
    corral.config.pools[0].model = 'three.gguf';
    corral.write(corral.config);
    await corral.start();
    assert.equal((await corral.chat('chat')).status, 200);
    assert.ok(corral.engines()[0].argv.some((w) => w.endsWith('three.gguf')));
    assert.equal((await corral.pool('chat')).override, null);
  }),
);

test(
  'reload of a pool of which nothing runs: one engine is the proof',
  reloadTest(async (corral) => {
    assert.equal((await corral.post('/v1/pools/chat/stop', {})).status, 202);
    await until('it to be stopped', async () => (await corral.pool('chat')).state === 'unloaded');
    const bad = await reload(corral, 'bad');
    assert.equal(bad.status, 409, bad.text);
    assert.match(bad.text, /came to nothing/);
    await until('no engine', () => enginePids(corral).length === 0);
    const good = await reload(corral, 'two');
    assert.equal(good.status, 200, good.text);
    assert.equal(enginePids(corral).length, 1);
  }),
);

test(
  'disabled over a restart: who and when is told, start says so, enable takes it back',
  reloadTest(async (corral) => {
    const a = await corral.post('/v1/pools/chat/disable', {});
    assert.equal(a.status, 202, a.text);
    assert.equal(a.json.kept, true);
    await until('no engine', () => enginePids(corral).length === 0);
    for (let i = 0; i < 2; i++) {
      const refused = await corral.chat('chat');
      assert.equal(refused.status, 503);
      assert.match(refused.json.error.message, /disabled by .+ at 20/);
      assert.match(refused.json.error.corral.hint, /corral enable chat/);
      assert.equal(refused.headers['x-should-retry'], 'false');
      const start = await corral.post('/v1/pools/chat/start', {});
      assert.equal(start.status, 409);
      assert.match(start.json.error.message, /disabled by/);
      assert.equal((await reload(corral, 'two')).status, 409);
      if (i === 0) await restart(corral);
    }
    assert.equal(enginePids(corral).length, 0);
    assert.match((await corral.cli('ps')).stdout, /disabled/);
    assert.equal((await corral.cli('enable', 'chat')).code, 0);
    assert.equal((await corral.chat('chat')).status, 200);
  }),
);

test(
  'drained over a restart, and undrained',
  reloadTest(async (corral) => {
    assert.equal((await corral.cli('drain', 'chat')).code, 0);
    await restart(corral);
    assert.equal((await corral.chat('chat')).status, 503);
    assert.equal((await corral.cli('undrain', 'chat')).code, 0);
    assert.equal((await corral.chat('chat')).status, 200);
  }),
);

test(
  'corral reload says what became of it',
  reloadTest(async (corral) => {
    const good = await corral.cli('reload', 'chat', '--model', 'two.gguf');
    assert.equal(good.code, 0, good.stderr);
    assert.match(good.stdout, /chat/);
    const bad = await corral.cli('reload', 'chat', '--model', 'bad.gguf');
    assert.equal(bad.code, 1);
    assert.match(bad.stderr, /came to nothing/);
  }),
);
