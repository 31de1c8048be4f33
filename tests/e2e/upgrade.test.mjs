// SPDX-License-Identifier: Apache-2.0
// Upgrading an engine that Corral fetched, with a stand-in for podman: what a tag is now is fetched beside,
// handed over and compared; one that is ready and does not answer is taken back. And what `plan` says of a
// pool's own steps.
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import test from 'node:test';
import { startHub } from '../fakes/hub.mjs';
import { Corral, corralPath, deadlineMs, fakePath, model, root, until, withCorral } from './harness.mjs';

const sha = (c) => `sha256:${c.repeat(64)}`;
const names = { a: sha('a'), b: sha('b'), c: sha('c') };
const image = 'example.org/llama:server';
const by = (c) => `example.org/llama@${names[c]}`;

/** A folder with podman in it, whose registry has several builds; use(c): that one is what the tag is. */
class Box {
  constructor() {
    this.dir = fs.mkdtempSync(path.join(os.tmpdir(), 'crl-up-'));
    const line = [process.execPath, path.join(root, 'tests/fakes/podman.mjs'), this.dir];
    fs.mkdirSync(path.join(this.dir, 'bin'));
    fs.writeFileSync(
      path.join(this.dir, 'bin/podman'),
      `#!/bin/sh\nexec ${line.map((w) => `'${w}'`).join(' ')} "$@"\n`,
      { mode: 0o755 },
    );
    this.env = { PATH: `${path.join(this.dir, 'bin')}:${process.env.PATH}` };
  }
  use(now) {
    const programs = { a: [fakePath], b: [fakePath], c: [fakePath, '--status', '500'] };
    const registry = { [image]: { digest: names[now], program: programs[now] } };
    fs.mkdirSync(path.join(this.dir, 'images'), { recursive: true });
    for (const c of Object.keys(names))
      registry[`example.org/llama:${c}`] = { digest: names[c], program: programs[c] };
    fs.writeFileSync(path.join(this.dir, 'registry.json'), JSON.stringify(registry));
    // What was fetched under the tag stays on the disk under its digest.
    fs.writeFileSync(path.join(this.dir, 'images', encodeURIComponent(`example.org/llama:${now}`)), '');
  }
  remove() {
    fs.rmSync(this.dir, { recursive: true, force: true });
  }
}

function engines(corral, env, ...words) {
  const argv = ['engines', ...words, '--config', corral.configFile];
  const clean = Object.entries({ ...process.env, ...env }).filter(([k]) => !/^(CORRAL|CUDA|XDG)_/.test(k));
  const stdio = ['ignore', 'pipe', 'pipe'];
  const child = spawn(corralPath, argv, { stdio, env: Object.fromEntries(clean) });
  const out = ['', ''];
  child.stdout.on('data', (d) => (out[0] += d));
  child.stderr.on('data', (d) => (out[1] += d));
  const timer = setTimeout(() => child.kill('SIGKILL'), deadlineMs(60000));
  return new Promise((resolve) =>
    child.once('close', (code) => {
      clearTimeout(timer);
      resolve({ code, stdout: out[0], stderr: out[1] });
    }),
  );
}

test('upgrade: an image by a tag: beside, handed over, taken back where it does not answer', async (t) => {
  const box = new Box();
  box.use('a');
  const pools = [
    {
      id: 'box',
      model: model('random'),
      ctx: 2048,
      canary: 'never',
      engine: { mode: 'container', image, runtime: 'podman' },
    },
  ];
  try {
    await withCorral(
      { pools, state_dir: path.join(box.dir, 's') },
      async (corral) => {
        const run = (...words) => engines(corral, box.env, ...words);
        const why = async () => (await corral.pool('box')).replicas.at(-1)?.engine_why ?? '';
        const plan = async () => JSON.parse((await run('plan', 'box', '--json')).stdout).pools[0];
        const before = await plan();
        assert.deepEqual(before.steps.map((s) => `${s.step} ${s.state}`), [
          'fetch todo', 'verify todo', 'canary todo',
        ]);
        assert.equal((await corral.chat('box')).status, 200);
        assert.match(await why(), new RegExp(by('a')));
        const after = await plan();
        assert.equal(after.plan, before.plan);
        assert.deepEqual(after.steps.slice(0, 2).map((s) => s.state), ['done', 'done']);
        assert.match(fs.readFileSync(after.steps[0].log, 'utf8'), /Fetching the image example\.org\/llama/);

        assert.equal((await run('upgrade', 'box')).code, 0);
        assert.match(await why(), new RegExp(by('a')), 'nothing newer');
        box.use('b');
        const up = await run('upgrade');
        assert.equal(up.code, 0, up.stderr);
        assert.match(up.stderr, /box: .*the same \d+ bytes for the first 32 greedy tokens/);
        await until('the new one', async () => (await why()).includes(by('b')));

        box.use('c');
        const failed = await run('upgrade', 'box');
        assert.notEqual(failed.code, 0);
        assert.match(failed.stderr, /does not answer with the new build; the one before is taken again/);
        await until('the old one again', async () => (await why()).includes(by('b')));
        assert.equal((await corral.chat('box')).status, 200);

        const list = JSON.parse((await run('ls', '--json')).stdout).engines;
        assert.deepEqual(
          list.map((e) => [e.mode, e.image, e.current, e.last, e.pools]).sort((x, y) => x[2] - y[2]),
          [['container', by('c'), false, true, []], ['container', by('b'), true, false, ['box']]],
        );
        assert.match((await run('rm', by('b'))).stderr, /is the current build of pool box: --force/);
        assert.equal((await run('rm', by('c'))).code, 0);
        assert.match((await run('rollback', 'box')).stderr, /no image before the current one/);
      },
      { env: box.env, leaks: false },
    )(t);
  } finally {
    box.remove();
  }
});

test('upgrade: pools that share an image are all handed over, --to names a tag or a digest', async (t) => {
  const box = new Box();
  box.use('a');
  const pools = ['one', 'two'].map((id) => ({
    id,
    model: model('random'),
    aliases: [`${id}-alias`],
    ctx: 2048,
    canary: 'never',
    engine: { mode: 'container', image, runtime: 'podman' },
  }));
  try {
    await withCorral(
      { pools, state_dir: path.join(box.dir, 's') },
      async (corral) => {
        const run = (...words) => engines(corral, box.env, ...words);
        const why = async (id) => (await corral.pool(id)).replicas.at(-1)?.engine_why ?? '';
        const all = (c) =>
          until(`both at ${c}`, async () =>
            (await Promise.all([why('one'), why('two')])).every((w) => w.includes(by(c))),
          );
        for (const id of ['one', 'two']) assert.equal((await corral.chat(id)).status, 200);
        await all('a');
        box.use('b');
        const up = await run('upgrade');
        assert.equal(up.code, 0, up.stderr);
        for (const id of ['one', 'two']) assert.match(up.stderr, new RegExp(`${id}: .*greedy tokens`));
        await all('b');
        const to = await run('upgrade', 'llamacpp', '--to', 'a');
        assert.equal(to.code, 0, to.stderr);
        await all('a');
        const one = await run('upgrade', 'llamacpp', '--pool', 'one-alias', '--to', names.b);
        assert.equal(one.code, 0, one.stderr);
        assert.match(one.stderr, /two: it asks for the same engine, and takes that build with its next/);
        await until('one', async () => (await why('one')).includes(by('b')));
        assert.ok((await why('two')).includes(by('a')));

        // Who is drained takes it when it is back, and takes it away from nobody.
        assert.equal((await run('upgrade', '--to', 'a')).code, 0);
        await all('a');
        assert.equal((await corral.post('/v1/pools/two/drain', {})).status, 200);
        const drained = await run('upgrade', '--to', 'b');
        assert.equal(drained.code, 0, drained.stderr);
        assert.match(drained.stderr, /two: .*drained/);
        await until('one', async () => (await why('one')).includes(by('b')));
        assert.equal((await corral.post('/v1/pools/two/undrain', {})).status, 202);
        assert.equal((await corral.chat('two')).status, 200);
        await all('b');

        // What fails at one pool is taken back from all that had it.
        const failed = await run('upgrade', '--to', 'c');
        assert.notEqual(failed.code, 0);
        assert.match(failed.stderr, /pool one does not answer with the new build/);
        await until('one again', async () => (await why('one')).includes(by('b')));
        for (const id of ['one', 'two']) assert.equal((await corral.chat(id)).status, 200);
        for (const wrong of ['a/b', 'sha256:12', '-x', '']) {
          const refused = await run('upgrade', 'one', `--to=${wrong}`);
          assert.equal(refused.code, 1, wrong);
          assert.match(refused.stderr, /is neither a tag of example\.org\/llama:server nor a digest/);
        }
        const nothing = await run('plan', 'one', '--to', 'a');
        assert.equal(nothing.code, 2);
        assert.match(nothing.stderr, /engines plan does not take --to/);
      },
      { env: box.env, leaks: false },
    )(t);
  } finally {
    box.remove();
  }
});

/** The events of an answer: [name, data] each. */
const eventsOf = (text) =>
  text
    .split('\n\n')
    .filter((e) => e.startsWith('event: '))
    .map((e) => [e.match(/^event: (\w+)/)[1], JSON.parse(e.match(/^data: (.*)$/m)[1])]);

test('API: engines are upgraded, gone back from and removed by their ids', async (t) => {
  const box = new Box();
  box.use('a');
  const container = { mode: 'container', image, runtime: 'podman' };
  const common = { model: model('random'), ctx: 2048, canary: 'never' };
  const pools = [
    { id: 'one', ...common, engine: container },
    { id: 'two', ...common, engine: container },
    { id: 'own', ...common, engine: { mode: 'binary', path: fakePath } },
  ];
  try {
    await withCorral(
      { pools, state_dir: path.join(box.dir, 's') },
      async (corral) => {
        const why = async (id) => (await corral.pool(id)).replicas.at(-1)?.engine_why ?? '';
        const all = (c) =>
          until(`both at ${c}`, async () =>
            (await Promise.all([why('one'), why('two')])).every((w) => w.includes(by(c))),
          );
        const rows = async () => (await corral.get('/v1/engines')).json.engines;
        const idOf = async (c) => (await rows()).find((e) => e.digest === by(c))?.id;
        const post = (id, verb, body) => corral.post(`/v1/engines/${encodeURIComponent(id)}/${verb}`, body);
        const remove = (id) => corral.send('DELETE', `/v1/engines/${encodeURIComponent(id)}`, { body: {} });
        for (const { id } of pools) assert.equal((await corral.chat(id)).status, 200);
        await all('a');
        const a = await idOf('a');

        // What is no engine here, what a file alone may name, what nobody asks for.
        assert.equal((await post('nobody', 'upgrade', {})).status, 404);
        assert.equal((await remove('nobody')).status, 404);
        for (const body of [{ url: 'x' }, { to: 1 }, { pool: [] }, [], { to: 'x'.repeat(201) }, { args: [] }])
          assert.equal((await post(a, 'upgrade', body)).status, 400, JSON.stringify(body));
        assert.equal((await post(a, 'rollback', { to: 'a' })).status, 400);
        assert.equal((await post('all', 'rollback', {})).status, 400);
        const foreign = await post(a, 'upgrade', { pool: 'own' });
        assert.equal(foreign.status, 409);
        assert.match(foreign.json.error.message, /does not take this engine/);
        const none = await post(a, 'rollback', {});
        assert.equal(none.status, 409);
        assert.match(none.json.error.message, /no image before the current one/);
        const used = await remove(a);
        assert.equal(used.status, 409);
        assert.match(used.json.error.message, /is the current build of pool one, two/);
        const ours = await remove((await rows()).find((e) => e.source === 'binary').id);
        assert.equal(ours.status, 409);
        assert.match(ours.json.error.message, /was not got by Corral/);

        box.use('b');
        const up = await post(a, 'upgrade', {});
        assert.equal(up.status, 200, up.text);
        const events = eventsOf(up.text);
        assert.ok(events.some(([name, e]) => name === 'progress' && e.pool === 'one' && e.phase === 'fetch'));
        const compared = events.filter(([name]) => name === 'compared').map(([, e]) => e);
        assert.deepEqual(compared.map((e) => [e.pool, e.same]), [['one', true], ['two', true]]);
        assert.match(compared[0].text, /the same \d+ bytes for the first 32 greedy tokens/);
        assert.deepEqual(events.at(-1), ['done', { pools: ['one', 'two'] }]);
        await all('b');

        const bad = eventsOf((await post(await idOf('b'), 'upgrade', { to: '../x' })).text).at(-1);
        assert.equal(bad[0], 'error');
        assert.match(bad[1].message, /is neither a tag of/);
        const failed = eventsOf((await post('all', 'upgrade', { to: 'c' })).text).at(-1);
        assert.equal(failed[0], 'error');
        assert.match(failed[1].message, /pool one does not answer with the new build; the one before/);
        await all('b');
        for (const id of ['one', 'two']) assert.equal((await corral.chat(id)).status, 200);

        // Back over what did not work, to what did: c, then b again.
        const gone = await remove(by('c'));
        assert.deepEqual([gone.status, gone.json.removed], [200, by('c')]);
        assert.equal(await idOf('c'), undefined, 'its row is gone too');
        assert.equal((await post(await idOf('b'), 'upgrade', { to: names.a })).status, 200);
        await all('a');
        const back = await post(a, 'rollback', {});
        assert.equal(back.status, 200, back.text);
        assert.deepEqual(back.json, { engine: by('b'), pools: ['one', 'two'] });
        await all('b');
        const before = await remove(a);
        assert.deepEqual([before.status, before.json.removed], [200, by('a')]);
        assert.equal((await post(await idOf('b'), 'rollback', {})).status, 409);
      },
      { env: box.env, leaks: false },
    )(t);
  } finally {
    box.remove();
  }
});

test('API: one round at a time; who leaves ends the getting, the next one goes on', async (t) => {
  const box = new Box();
  box.use('a');
  const engine = { mode: 'container', image, runtime: 'podman' };
  const pool = { id: 'one', model: model('random'), ctx: 2048, canary: 'never', engine };
  const hold = path.join(box.dir, 'hold');
  try {
    await withCorral(
      { pools: [pool], state_dir: path.join(box.dir, 's') },
      async (corral) => {
        const why = async () => (await corral.pool('one')).replicas.at(-1)?.engine_why ?? '';
        const upgrade = (opts) => corral.post('/v1/engines/all/upgrade', {}, opts);
        /** Under way: its image is being fetched, and will be until the pipe is written to. */
        const begin = (signal) =>
          new Promise((resolve) => {
            let heard = '';
            const onData = (d) => /"phase":"fetch"/.test((heard += d)) && resolve({ ended });
            const ended = upgrade({ signal, onData }).catch((e) => e);
          });
        assert.equal((await corral.chat('one')).status, 200);
        box.use('b');
        execFileSync('mkfifo', [hold]);
        const leave = new AbortController();
        const first = await begin(leave.signal);
        const second = await upgrade();
        assert.equal(second.status, 409);
        assert.match(second.json.error.message, /are being replaced already/);
        const rows = (await corral.get('/v1/engines')).json.engines;
        const removed = await corral.send('DELETE', `/v1/engines/${rows[0].id}`, { body: {} });
        assert.equal(removed.status, 409);
        leave.abort();
        await first.ended;
        const third = await until('the round to be over', async () => {
          let heard = '';
          return new Promise((resolve) => {
            const onData = (d) => /"phase":"fetch"/.test((heard += d)) && resolve({ ended });
            const ended = upgrade({ onData });
            ended.then((r) => r.status === 409 && resolve(undefined));
          });
        });
        fs.promises.writeFile(hold, '');
        assert.equal(eventsOf((await third.ended).text).at(-1)[0], 'done');
        await until('the new one', async () => (await why()).includes(by('b')));

        // The daemon ends in the middle of one: its answer ends, and so does it.
        box.use('c');
        const fourth = await begin();
        await corral.stop();
        assert.ok(await fourth.ended);
      },
      { env: box.env, leaks: false },
    )(t);
  } finally {
    box.remove();
  }
});

test('rollback: killed at any point, neither build is forgotten', async () => {
  const box = new Box();
  const lib = path.join(path.dirname(fakePath), 'kill-at.so');
  const engine = { mode: 'container', image, runtime: 'podman' };
  const pool = { id: 'box', model: model('random'), ctx: 2048, engine };
  const corral = new Corral({ pools: [pool], state_dir: path.join(box.dir, 's') }, { env: box.env });
  const run = (env, ...words) => engines(corral, { ...box.env, ...env }, ...words);
  try {
    for (const c of ['a', 'b']) {
      box.use(c);
      assert.equal((await run({}, 'upgrade', 'box')).code, 0);
    }
    const kinds = async () =>
      JSON.parse((await run({}, 'ls', '--json')).stdout).engines.map((e) => [e.image, e.current, e.last]);
    const count = path.join(box.dir, 'count');
    const counted = { LD_PRELOAD: lib, KILL_IN: 'corral', KILL_COUNT: count };
    assert.equal((await run(counted, 'rollback', 'box')).code, 0);
    const points = Number(fs.readFileSync(count, 'utf8'));
    assert.ok(points > 0 && points < 40, `${points} points`);
    for (let at = 1; at <= points; at++) {
      await run({ ...counted, KILL_COUNT: '', KILL_AT: String(at) }, 'rollback', 'box');
      const left = (await kinds()).sort();
      assert.deepEqual(left.map((e) => e[0]), [by('a'), by('b')], `killed at ${at}`);
      assert.deepEqual(left.map((e) => e[1]).sort(), [false, true]);
    }
  } finally {
    box.remove();
    fs.rmSync(corral.dir, { recursive: true, force: true });
  }
});

test('plan: a model that only the hub has, before and after its fetch', async (t) => {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'crl-up-'));
  const files = { 'tiny-Q4_K_M.gguf': { file: model('random') } };
  const hub = await startHub({ repos: { 'org/tiny': { commit: '01'.repeat(20), files } } });
  const env = { HOME: dir, HF_ENDPOINT: hub.url, HF_HUB_CACHE: path.join(dir, 'hub'), HF_TOKEN: '' };
  const engine = { mode: 'binary', path: fakePath };
  const pool = { id: 'chat', model: 'org/tiny:Q4_K_M', ctx: 2048, engine };
  try {
    await withCorral(
      { pools: [pool], state_dir: path.join(dir, 's') },
      async (corral) => {
        const plan = async () => {
          const said = await engines(corral, env, 'plan', 'chat', '--json');
          assert.equal(said.code, 0, said.stderr);
          return JSON.parse(said.stdout).pools[0];
        };
        const names = (p) => p.steps.map((s) => `${s.step} ${s.state}`);
        const before = await plan();
        assert.deepEqual(names(before), ['verify done', 'model-fetch todo', 'canary todo']);
        const text = before.steps[1].text;
        assert.match(text, /fetch hf:org\/tiny:Q4_K_M: tiny-Q4_K_M\.gguf, [\d.]+ [KM]iB from/);
        assert.equal(hub.of('/org/tiny/tiny-Q4_K_M.gguf').sent ?? 0, 0, 'nothing is fetched for a plan');
        assert.equal((await corral.chat('chat')).status, 200);
        await until('the canary', async () => names(await plan()).at(-1) === 'canary done');
        const after = await plan();
        assert.deepEqual(names(after), ['verify done', 'model-fetch done', 'canary done']);
        assert.equal(after.plan, before.plan);
        assert.ok(after.steps[1].started_at <= after.steps[1].ended_at);
      },
      { env, leaks: false },
    )(t);
  } finally {
    await hub.close();
    fs.rmSync(dir, { recursive: true, force: true });
  }
});
