// SPDX-License-Identifier: Apache-2.0
// Conversations outlive their engine: what a slot held when it was stopped is there when it is back.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import test from 'node:test';
import { model, realPool, until, withCorral } from './harness.mjs';

const mountable = spawnSync('unshare', ['-rm', 'mount', '-t', 'tmpfs', 'none', os.tmpdir()]).status === 0;
const pool = (id, rest = {}) => ({ ...realPool(id), model: model('random', '--layers', '3'), ...rest });
/** Tells of something else with each name; one token a character. */
const story = (name, length = 1200) => `${name} `.repeat(length).slice(0, length);

async function say(corral, id, messages, headers = {}) {
  const answer = await corral.chat(id, { messages, max_tokens: 12, temperature: 0 }, { headers });
  assert.equal(answer.status, 200, answer.text);
  const { choices, usage } = answer.json;
  return {
    content: choices[0].message.content,
    prompt: usage.prompt_tokens,
    cached: usage.prompt_tokens_details?.cached_tokens ?? 0,
    total: usage.total_tokens,
  };
}
/** The conversation's next state after an answer. */
const after = (messages, answer, next) => [
  ...messages,
  { role: 'assistant', content: answer.content },
  { role: 'user', content: next },
];
const first = (name) => [{ role: 'user', content: story(name) }];

async function swapOut(corral, id) {
  assert.equal((await corral.post(`/v1/pools/${id}/stop`, {})).status, 202);
  await until(
    () => `the engine of ${id} to be gone`,
    () => !corral.engineOf(id),
  );
}

function files(corral) {
  const root = path.join(corral.stateDir, 'kv');
  if (!fs.existsSync(root)) return [];
  return fs
    .readdirSync(root, { recursive: true, withFileTypes: true })
    .map((e) => ({ ...e, name: e.name, file: e.isFile(), path: path.join(e.parentPath ?? e.path, e.name) }))
    .filter((e) => e.file);
}

/** What the same two turns give where nothing is swapped. */
async function unswapped(corral, id, name) {
  const one = await say(corral, id, first(name));
  return { one, two: await say(corral, id, after(first(name), one, 'Go on.')) };
}

test(
  'the next turn after a swap finds its conversation: the same bytes, and only the new tokens are read',
  withCorral(
    () => ({
      pools: [pool('kept'), pool('same', { kv_cache: { save: 'off' } })],
    }),
    async (corral) => {
      const reference = await unswapped(corral, 'same', 'tortoise');
      const one = await say(corral, 'kept', first('tortoise'));
      assert.deepEqual([one.content, one.cached], [reference.one.content, 0]);

      await swapOut(corral, 'kept');
      const [file, ...more] = files(corral);
      assert.equal(more.length, 0, 'a slot that was never used leaves no file');
      assert.match(file.name, /^\d+-\d+-\d+-0{16}-[0-9a-f]{16}\.kv$/);
      assert.equal(fs.statSync(file.path).mode & 0o777, 0o600);
      assert.equal(fs.statSync(path.dirname(file.path)).mode & 0o777, 0o700);

      const two = await say(corral, 'kept', after(first('tortoise'), one, 'Go on.'));
      assert.equal(two.content, reference.two.content, 'the same bytes as without a swap');
      assert.ok(two.cached >= one.prompt, `${two.cached} of ${one.prompt} tokens were there`);
      assert.equal(two.cached, reference.two.cached, 'as many as without a swap');
      await until('what was taken up to be counted', async () => {
        const figure = await corral.figures();
        return figure('corral_kv_restored_tokens_total', { pool: 'kept' }) >= one.prompt;
      });
      assert.ok((await corral.pool('kept')).replicas[0].kv_restored_tokens >= one.prompt);

      await swapOut(corral, 'same');
      const cold = await say(corral, 'same', after(first('tortoise'), one, 'Go on.'));
      assert.equal(cold.cached, 0, 'without the saved cache everything is read again');
      assert.equal(cold.content, two.content);
      assert.equal(files(corral).length, 1, 'and nothing of it is on the disk');
    },
    { leaks: false },
  ),
);

const result = async (corral, pool) => {
  const figure = await corral.figures();
  const count = (result) => figure('corral_kv_conversations_total', { pool, result }) ?? 0;
  return { hit: count('hit'), miss: count('miss') };
};

for (const slots of [1, 2]) {
  test(
    `what one API key's engine held is nothing for another key's request, and there for its own (${slots})`,
    withCorral(
      () => ({ pools: [pool('chat', { slots })] }),
      async (corral) => {
        const [ann, ben] = await Promise.all(
          ['ann', 'ben'].map(async (name) => {
            const made = await corral.cli('key', 'create', name);
            assert.equal(made.code, 0, made.stderr);
            return { authorization: `Bearer ${made.stdout.trim()}` };
          }),
        );
        const one = await say(corral, 'chat', first('tortoise'), ann);
        const next = after(first('tortoise'), one, 'Go on.');
        await swapOut(corral, 'chat');
        const [file] = files(corral);
        assert.doesNotMatch(file.name, /-0{16}-/, 'it is filed by its key');

        const other = await say(corral, 'chat', next, ben);
        assert.equal(other.cached, 0, 'the same words of another key are read anew');
        await swapOut(corral, 'chat');
        assert.equal(files(corral).length, 2, 'each has its own');
        assert.deepEqual(await result(corral, 'chat'), { hit: 0, miss: 0 });

        const two = await say(corral, 'chat', next, ann);
        assert.ok(two.cached >= one.prompt, `${two.cached} of ${one.prompt}`);
        assert.equal(two.content, other.content);
        assert.deepEqual(await result(corral, 'chat'), { hit: 1, miss: 0 });
      },
      { leaks: false },
    ),
  );
}

test(
  'X-Corral-Session says which conversation it is, whatever it begins with; what did not help is a miss',
  withCorral(
    () => ({ pools: [pool('chat')] }),
    async (corral) => {
      const session = { 'x-corral-session': 'otters' };
      const one = await say(corral, 'chat', first('otter'), session);
      await swapOut(corral, 'chat');
      const edited = [{ role: 'user', content: `${story('otter')} And more.` }];
      const two = await say(corral, 'chat', edited, session);
      assert.ok(two.cached >= one.prompt / 2, `${two.cached} of ${one.prompt}`);
      assert.deepEqual(await result(corral, 'chat'), { hit: 1, miss: 0 });

      await swapOut(corral, 'chat');
      const three = await say(corral, 'chat', first('heron'), session);
      assert.ok(three.cached < 32, `${three.cached} of another story`);
      assert.deepEqual(await result(corral, 'chat'), { hit: 1, miss: 1 });
    },
    { leaks: false },
  ),
);

test(
  'two conversations, then a turn of one: both are there after swaps, each once on the disk',
  withCorral(
    () => ({ pools: [pool('chat', { canary: 'always' })] }),
    async (corral) => {
      const a = await say(corral, 'chat', first('heron'));
      const b = await say(corral, 'chat', first('otter'));
      await swapOut(corral, 'chat');
      assert.equal(files(corral).length, 2);

      const a2 = await say(corral, 'chat', after(first('heron'), a, 'And then?'));
      assert.ok(a2.cached >= a.prompt, `${a2.cached} of ${a.prompt}`);
      await swapOut(corral, 'chat');
      assert.equal(files(corral).length, 2, 'the longer heron took the place of the shorter one');

      const b2 = await say(corral, 'chat', after(first('otter'), b, 'And then?'));
      assert.ok(b2.cached >= b.prompt, `${b2.cached} of ${b.prompt}: kept through two swaps, unused in one`);
      const a3 = await say(
        corral,
        'chat',
        after(after(first('heron'), a, 'And then?'), a2, 'The end?'),
      );
      assert.ok(a3.cached >= a2.prompt, `${a3.cached} of ${a2.prompt}`);
    },
    { leaks: false },
  ),
);

test(
  'a conversation outlives the whole server; an engine that was killed leaves what was there before',
  withCorral(
    () => ({ pools: [pool('chat')] }),
    async (corral) => {
      const one = await say(corral, 'chat', first('badger'));
      await corral.stop();
      assert.equal(files(corral).length, 1);
      await corral.start();
      const two = await say(corral, 'chat', after(first('badger'), one, 'Go on.'));
      assert.ok(two.cached >= one.prompt, `${two.cached} of ${one.prompt}`);

      process.kill(corral.engineOf('chat').pid, 'SIGKILL');
      await corral.ready('chat');
      const again = await say(corral, 'chat', after(first('badger'), one, 'Go on.'));
      assert.ok(again.cached >= one.prompt, `${again.cached} of ${one.prompt}`);
      assert.equal(again.content, two.content);
    },
    { leaks: false },
  ),
);

test(
  'more conversations than slots: older ones come back from the cache of prompts, each with its own bytes',
  withCorral(
    () => ({
      pools: [
        pool('chat', { slots: 1 }),
        pool('same', { slots: 4, kv_cache: { save: 'off' } }),
      ],
    }),
    async (corral) => {
      const names = ['heron', 'otter', 'lynx'];
      const said = {};
      for (const name of names) {
        said[name] = await say(corral, 'chat', first(name));
        await swapOut(corral, 'chat');
      }
      assert.equal(files(corral).length, 3);
      for (const name of names) {
        const next = after(first(name), said[name], 'And then?');
        const kept = await say(corral, 'chat', next);
        assert.ok(kept.cached >= said[name].prompt, `${name}: ${kept.cached} of ${said[name].prompt}`);
        await say(corral, 'same', first(name));
        assert.equal(kept.content, (await say(corral, 'same', next)).content);
      }
    },
    { leaks: false },
  ),
);

test(
  'one engine at a time: each turn evicts the other model and finds its own conversation',
  withCorral(
    () => ({
      budget: { replicas: 1 },
      pools: ['one', 'two'].map((id) => pool(id, { slots: 1 })),
    }),
    async (corral) => {
      const said = {};
      for (const id of ['one', 'two']) said[id] = await say(corral, id, first(id));
      for (const id of ['one', 'two']) {
        const next = await say(corral, id, after(first(id), said[id], 'Go on.'));
        assert.ok(next.cached >= said[id].prompt, `${id}: ${next.cached} of ${said[id].prompt}`);
      }
      const figure = await corral.figures();
      assert.equal(figure('corral_evictions_total', { pool: 'one' }), 2);
      assert.equal(figure('corral_evictions_total', { pool: 'two' }), 1);
    },
    { leaks: false },
  ),
);

/** What the next turn gives, and how it is when everything is read again. */
async function nextTurn(corral, id, name, spoil, { cached = 0 } = {}) {
  const { one, two } = await unswapped(corral, 'same', name);
  await say(corral, id, first(name));
  await swapOut(corral, id);
  await spoil(files(corral)[0]);
  const next = await say(corral, id, after(first(name), one, 'Go on.'));
  assert.deepEqual([next.content, next.cached], [two.content, cached]);
}

test(
  'a foreign file, one of the same size, is refused by the engine, goes, and the answer is that of a prefill',
  withCorral(
    () => ({ pools: [pool('chat'), pool('same', { kv_cache: { save: 'off' } })] }),
    async (corral) => {
      let foreign;
      await nextTurn(corral, 'chat', 'lynx', (file) => {
        foreign = file.path;
        fs.writeFileSync(foreign, Buffer.alloc(fs.statSync(foreign).size, 'x'));
      });
      assert.equal(fs.existsSync(foreign), false);
      assert.deepEqual(await result(corral, 'chat'), { hit: 0, miss: 1 });
    },
    { leaks: false },
  ),
);

test(
  'another model file of the same name takes nothing up',
  async (t) => {
    const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'crl-'));
    t.after(() => fs.rmSync(dir, { recursive: true }));
    const file = path.join(dir, 'm.gguf');
    const put = (...args) => {
      fs.copyFileSync(model('random', '--layers', '3', ...args), `${file}.new`);
      fs.renameSync(`${file}.new`, file);
    };
    put();
    const run = withCorral(
      () => ({ pools: [pool('chat', { model: file })] }),
      async (corral) => {
        const one = await say(corral, 'chat', first('stoat'));
        await swapOut(corral, 'chat');
        put('--seed', '7');
        const next = await say(corral, 'chat', after(first('stoat'), one, 'Go on.'));
        assert.equal(next.cached, 0);
        assert.equal((await corral.pool('chat')).replicas[0].kv_restored_tokens ?? 0, 0);
      },
      { leaks: false },
    );
    await run(t);
  },
);

test(
  'a client that leaves while its conversation is taken up: the next one finds it',
  withCorral(
    () => ({ pools: [pool('chat')] }),
    async (corral) => {
      const one = await say(corral, 'chat', first('heron'));
      await swapOut(corral, 'chat');
      const left = new AbortController();
      const messages = after(first('heron'), one, 'Go on.');
      const gone = corral.chat('chat', { messages }, { signal: left.signal }).catch(() => 'left');
      await until('its engine to be started', () => corral.engineOf('chat'));
      left.abort();
      assert.equal(await gone, 'left');
      const next = await say(corral, 'chat', messages);
      assert.ok(next.cached >= one.prompt, `${next.cached} of ${one.prompt}`);
    },
    { leaks: false },
  ),
);

/** engine-provisioner of this Corral. */
function provisioner(corral) {
  for (const pid of fs.readdirSync('/proc').filter((name) => /^\d+$/.test(name)))
    try {
      const [program, ...args] = fs.readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
      if (/engine-provisioner$/.test(program) && args.some((a) => a.includes(path.dirname(corral.stateDir))))
        return Number(pid);
    } catch {
      // it has ended meanwhile
    }
  return 0;
}

test(
  'engine-provisioner killed as it saves, the engine as it takes up: a normal answer, nothing unfinished',
  withCorral(
    () => ({ pools: [pool('chat'), pool('same', { kv_cache: { save: 'off' } })] }),
    async (corral) => {
      const { one, two } = await unswapped(corral, 'same', 'badger');
      await say(corral, 'chat', first('badger'));
      assert.equal((await corral.post('/v1/pools/chat/stop', {})).status, 202);
      const pid = provisioner(corral);
      assert.ok(pid, 'it runs');
      process.kill(pid, 'SIGKILL');
      await until('the engine to be gone', () => !corral.engineOf('chat'));
      const messages = after(first('badger'), one, 'Go on.');
      assert.equal((await say(corral, 'chat', messages)).content, two.content);

      await swapOut(corral, 'chat');
      const answer = say(corral, 'chat', messages);
      const engine = await until('its engine to be started', () => corral.engineOf('chat'));
      process.kill(engine.pid, 'SIGKILL');
      assert.equal((await answer).content, two.content);
      await swapOut(corral, 'chat');
      for (const { name } of files(corral)) assert.match(name, /\.kv$/);
    },
    { leaks: false },
  ),
);

test(
  'where the disk has no room nothing is saved, and the next turn is a prefill',
  { skip: mountable ? false : 'no mount namespace of our own can be made here (unshare -rm)' },
  withCorral(
    () => ({ pools: [pool('chat')] }),
    async (corral) => {
      const one = await say(corral, 'chat', first('otter'));
      await swapOut(corral, 'chat');
      const seen = path.join(`/proc/${corral.pid}/root`, corral.stateDir, 'kv');
      const left = fs.readdirSync(seen, { recursive: true }).filter((name) => /kv$|part/.test(name));
      assert.deepEqual(left, []);
      const next = await say(corral, 'chat', after(first('otter'), one, 'Go on.'));
      assert.equal(next.cached, 0);
    },
    {
      leaks: false,
      wrap: ({ stateDir }) => {
        const at = path.join(stateDir, 'kv');
        fs.mkdirSync(at, { recursive: true });
        const script = `mount -t tmpfs -o size=600k,mode=0700 none "${at}" && exec "$@"`;
        return ['unshare', '-rm', 'sh', '-c', script, 'sh'];
      },
    },
  ),
);

for (const [arch, what] of [
  ['gemma3', 'a sliding window'],
  ['mamba', 'recurrent layers'],
]) {
  test(
    `a model with ${what} takes its conversation up too, also one that was changed in the middle`,
    withCorral(
      () => ({
        pools: ['kept', 'same'].map((id) =>
          pool(id, {
            model: model('random', '--arch', arch, '--layers', '6'),
            ctx: 4096,
            kv_cache: { save: id === 'kept' ? 'auto' : 'off' },
          }),
        ),
      }),
      async (corral) => {
        const changed = [...first('marmot'), { role: 'assistant', content: 'No.' }, ...first('stoat')];
        const one = await say(corral, 'same', first('marmot'));
        const told = await say(corral, 'same', after(first('marmot'), one, 'Go on.'));
        await say(corral, 'kept', first('marmot'));
        await swapOut(corral, 'kept');
        const two = await say(corral, 'kept', after(first('marmot'), one, 'Go on.'));
        assert.equal(two.content, told.content, 'the same bytes as without a swap');
        assert.ok(two.cached >= one.prompt, `${two.cached} of ${one.prompt} tokens were there`);

        await swapOut(corral, 'kept');
        const three = await say(corral, 'kept', changed);
        const unswapped = await say(corral, 'same', changed);
        assert.ok(three.cached >= one.prompt / 2, `${three.cached} of ${one.prompt}: back to a checkpoint`);
        assert.equal(three.content, unswapped.content);
      },
      { leaks: false },
    ),
  );
}
