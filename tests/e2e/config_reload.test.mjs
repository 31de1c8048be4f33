// SPDX-License-Identifier: Apache-2.0
// The configuration changes while it serves: what did not change goes on, and no byte is lost.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import test from 'node:test';
import {
  fakeLlamaPool,
  fakePath,
  fakePool,
  model,
  realPool,
  sse,
  until,
  withCorral,
  withDeadline,
} from './harness.mjs';

const sha = (text) => createHash('sha256').update(text).digest('hex');
const textOf = (answer) =>
  sse(answer.text)
    .filter((e) => e.data !== '[DONE]')
    .map((e) => JSON.parse(e.data).choices?.[0]?.delta?.content ?? '')
    .join('');
const whole = (answer) => answer.status === 200 && answer.complete && answer.text.includes('data: [DONE]');

const reload = (corral, dry_run = false) => corral.post('/v1/config/reload', { dry_run });
const changes = ({ json }) =>
  json.changes.map((c) => `${c.kind} ${c.pool ?? '-'} ${c.keys.join(',')}`.trim());
const engines = (corral, ids) => Object.fromEntries(ids.map((id) => [id, corral.engineOf(id)?.pid]));
/** How often a reload has ended, one way or the other. */
const reloads = (corral) =>
  corral
    .log()
    .split('\n')
    .filter((l) => /"human":"The configuration is (reloaded|not taken)/.test(l)).length;
const models = async (corral) => (await corral.get('/v1/models')).json.data.map((m) => m.id).sort();

/** Streams and unary requests to the pools until stopped; then every one must have been answered whole. */
class Load {
  #stop = false;
  #workers = [];
  answered = 0;

  constructor(corral, ids, tokens) {
    this.corral = corral;
    this.tokens = tokens;
    this.ids = ids;
  }

  async start() {
    this.expected = {};
    for (const id of this.ids) {
      const answer = await this.corral.chat(id, { stream: true, max_tokens: this.tokens });
      assert.ok(whole(answer), answer.text);
      this.expected[id] = sha(textOf(answer));
      this.#workers.push(this.#work(id, true), this.#work(id, true), this.#work(id, false));
    }
    for (const w of this.#workers) w.catch(() => {}); // more() and end() tell
    return this;
  }

  async #work(id, stream) {
    while (!this.#stop) {
      const max_tokens = stream ? this.tokens : 4;
      const answer = await this.corral.chat(id, { stream, max_tokens });
      assert.equal(answer.status, 200, `${id}: ${answer.text}`);
      assert.ok(answer.complete, `${id}: cut off`);
      if (stream) {
        assert.ok(whole(answer), `${id}: ${answer.text.slice(-300)}`);
        assert.equal(sha(textOf(answer)), this.expected[id], `${id} lost or repeated something`);
      }
      this.answered++;
    }
  }

  /** Waits until `n` more requests were answered. */
  more(n) {
    const from = this.answered;
    const failed = Promise.race(this.#workers).then(() => assert.fail('a worker ended'));
    return Promise.race([until(`${n} more answers`, () => this.answered >= from + n, 60000), failed]);
  }

  async end() {
    this.#stop = true;
    await withDeadline(Promise.all(this.#workers), 'the last answers', 60000);
  }
}

/** withCorral, but what the first reload alone brings (threads that read files) does not count as a leak. */
const reloading = (pools, body, { leaks = true, ...opts }) =>
  withCorral(
    () => ({ pools: pools() }),
    async (corral, t) => {
      assert.equal((await reload(corral, true)).status, 200);
      const before = corral.counts();
      await body(corral, t);
      if (leaks) await corral.settled(before);
    },
    { ...opts, leaks: false },
  );

const slow = ['--event-interval-us', '3000', '--tokens', '200'];
const base = () => [
  fakeLlamaPool('same', slow, { slots: 4, keep_alive: 'never', canary: 'never' }),
  fakeLlamaPool('other', slow, { slots: 4, keep_alive: 'never', canary: 'never' }),
];
const warm = { warm: ['same', 'other'] };

test(
  'nothing changed: says so, whichever way it is asked',
  reloading(
    base,
    async (corral) => {
      const before = engines(corral, ['same', 'other']);
      const answer = await reload(corral);
      assert.equal(answer.status, 200, answer.text);
      assert.deepEqual(answer.json, {
        applied: true,
        dry_run: false,
        changes: [],
        next_start: [],
        warnings: [],
      });
      const cli = await corral.cli('config', 'reload');
      assert.deepEqual([cli.code, cli.stdout], [0, 'Nothing changed.\n'], cli.stderr);
      const seen = reloads(corral);
      process.kill(corral.pid, 'SIGHUP');
      await until('the reload by SIGHUP', () => reloads(corral) > seen);
      assert.deepEqual(engines(corral, ['same', 'other']), before);
    },
    warm,
  ),
);

test(
  'a dry run says what would be done, and does nothing',
  reloading(
    base,
    async (corral) => {
      const [same, other] = base();
      const before = engines(corral, ['same', 'other']);
      corral.write({
        listen: '127.0.0.1:1',
        log: { format: 'json', level: 'info' },
        pools: [{ ...same, slots: 3, aliases: ['x'] }, fakePool('new')],
      });
      const answer = await reload(corral, true);
      assert.equal(answer.status, 200, answer.text);
      assert.equal(answer.json.applied, false);
      assert.deepEqual(changes(answer), [
        'top_live - log.level',
        'pool_engine same slots',
        'pool_live same aliases',
        'pool_added new',
        'pool_removed other',
      ]);
      assert.deepEqual(
        answer.json.next_start.map((c) => c.keys),
        [['listen']],
      );
      const cli = await corral.cli('config', 'reload', '--dry-run');
      assert.equal(cli.code, 0, cli.stderr);
      const signs = cli.stdout.split('\n').map((l) => l[0]);
      assert.deepEqual(signs, ['~', '~', '~', '+', '-', '=', '5', undefined], cli.stdout);
      assert.match(cli.stdout, /5 changes; nothing was done/);
      const json = await corral.cli('config', 'reload', '--dry-run', '--json');
      assert.deepEqual(JSON.parse(json.stdout), answer.json);
      assert.deepEqual(await models(corral), ['other', 'same']);
      assert.deepEqual(engines(corral, ['same', 'other']), before);
      assert.equal((await corral.chat(other.id)).status, 200);
    },
    warm,
  ),
);

test(
  'a broken file changes nothing and is told with every mistake',
  reloading(
    base,
    async (corral) => {
      const before = engines(corral, ['same', 'other']);
      const load = await new Load(corral, ['same', 'other'], 60).start();
      const dirs = `state_dir: ${corral.stateDir}\nruntime_dir: ${corral.runtimeDir}\n`;
      fs.writeFileSync(
        corral.configFile,
        `listne: 1\npools:\n- {id: same, model: x.gguf, ctx: many}\n${dirs}`,
      );
      const answer = await reload(corral);
      assert.equal(answer.status, 400, answer.text);
      assert.equal(answer.json.error.corral.code, 'INVALID_PARAMS');
      assert.deepEqual(
        answer.json.error.errors.map((e) => [e.file, e.line, e.column, e.key]),
        [
          [corral.configFile, 1, 1, 'listne'],
          [corral.configFile, 3, 34, 'pools[0].ctx'],
        ],
      );
      const cli = await corral.cli('config', 'reload');
      const check = await corral.cli('config', 'check');
      assert.equal(cli.code, 2);
      assert.ok(cli.stderr.startsWith(check.stderr), `${cli.stderr}\nand not\n${check.stderr}`);
      const seen = reloads(corral);
      process.kill(corral.pid, 'SIGHUP');
      await until('the refusal', () => reloads(corral) > seen);
      const line = corral.log().split('\n').findLast((l) => l.includes('is not taken'));
      assert.match(line, /corral\.yaml:1:1: listne: .*corral\.yaml:3:34: pools\[0\]\.ctx: /);
      fs.writeFileSync(corral.configFile, '');
      assert.equal((await reload(corral)).status, 400, 'a file that is being written');
      fs.writeFileSync(corral.configFile, '"');
      assert.equal((await reload(corral, true)).status, 400);
      fs.rmSync(corral.configFile);
      assert.equal((await reload(corral)).status, 400);
      await load.more(10);
      await load.end();
      assert.deepEqual(engines(corral, ['same', 'other']), before);
      assert.deepEqual(await models(corral), ['other', 'same']);
    },
    warm,
  ),
);

test(
  'live keys under load: at once, engines go on',
  reloading(
    base,
    async (corral) => {
      const [same, other] = base();
      const before = engines(corral, ['same', 'other']);
      const load = await new Load(corral, ['same', 'other'], 60).start();
      const next = {
        pools: [other, { ...same, aliases: ['gpt-4o'], keep_alive: '1h', queue: { capacity: 7 } }],
        body: { max: '2KiB' },
      };
      corral.write(next);
      const answer = await reload(corral);
      assert.deepEqual(changes(answer), [
        'top_live - body.max',
        'pool_live same aliases,keep_alive,queue.capacity',
      ]);
      assert.equal(answer.json.applied, true);
      await until('the alias', async () => (await corral.chat('gpt-4o', { max_tokens: 1 })).status === 200);
      const large = () => corral.chat('same', { user: 'x'.repeat(4096) });
      await until('the new bound', async () => (await large()).status === 413);
      corral.write({ ...next, log: { format: 'json', level: 'error' } });
      assert.deepEqual(changes(await reload(corral)), ['top_live - log.level']);
      await load.more(10);
      await load.end();
      assert.deepEqual(engines(corral, ['same', 'other']), before);
    },
    warm,
  ),
);

test(
  'a key that needs a new start is named until then',
  reloading(
    base,
    async (corral) => {
      corral.write({ listen: '127.0.0.1:1', workers: 1, pools: base() });
      for (let i = 0; i < 2; i++) {
        const answer = await reload(corral);
        assert.deepEqual(changes(answer), []);
        assert.deepEqual(
          answer.json.next_start.map((c) => c.keys[0]),
          ['listen', 'workers'],
        );
      }
      const cli = await corral.cli('config', 'reload');
      assert.match(cli.stdout, /^= listen from 127\.0\.0\.1:0 to 127\.0\.0\.1:1, when Corral starts again/);
      assert.match(cli.stdout, /\nNothing changed that can be changed while it runs\.\n$/);
    },
    warm,
  ),
);

test(
  'a pool is added and one removed under load: the others notice nothing',
  reloading(
    base,
    async (corral) => {
      const [same, other] = base();
      const before = engines(corral, ['same']);
      const load = await new Load(corral, ['same'], 60).start();
      const last = corral.chat('other', { stream: true, max_tokens: 150 });
      await until('the stream of the pool that goes', async () => (await corral.leases('other')) === 1);
      corral.write({ pools: [same, fakePool('new', [], { canary: 'never' })] });
      const answer = await reload(corral);
      assert.deepEqual(changes(answer), ['pool_added new', 'pool_removed other']);
      assert.equal((await corral.chat('new')).status, 200);
      assert.ok(whole(await last), 'a stream of a removed pool may end');
      await until('the engine of the removed pool to be gone', () => !corral.engineOf('other'));
      assert.equal((await corral.chat('other')).status, 404);
      assert.deepEqual(await models(corral), ['new', 'same']);
      await load.more(10);
      await load.end();
      assert.deepEqual(engines(corral, ['same']), before);
      corral.write({ pools: [same, other] });
      assert.equal((await reload(corral)).status, 200);
      assert.equal((await corral.chat('other')).status, 200, 'and comes back');
      await until('the engine of the other removed pool to be gone', () => !corral.engineOf('new'));
    },
    { ...warm, leaks: false },
  ),
);

test(
  'an engine key under load: engines are replaced, not a byte is lost',
  reloading(
    base,
    async (corral) => {
      const [same, other] = base();
      const before = engines(corral, ['same', 'other']);
      const load = await new Load(corral, ['same', 'other'], 100).start();
      corral.write({ pools: [{ ...other, slots: 5 }, same] });
      const answer = await reload(corral);
      assert.deepEqual(changes(answer), ['pool_engine other slots']);
      await until(
        'another engine of the changed pool, alone',
        () => {
          const now = corral.engines().filter((p) => p.argv.some((w) => /^other(-\d+)?$/.test(w)));
          return now.length === 1 && now[0].pid !== before.other;
        },
        60000,
      );
      await until('its slots', async () => (await corral.pool('other')).slots_total === 5);
      await load.more(10);
      await load.end();
      assert.equal(engines(corral, ['same']).same, before.same);
    },
    { ...warm, leaks: false },
  ),
);

test(
  'the real engine: its pool changes under load, another goes on',
  reloading(
    () => [realPool('same', { slots: 2 }), realPool('other', { slots: 2 })],
    async (corral) => {
      const before = engines(corral, ['same', 'other']);
      const ask = (id) =>
        corral.chat(id, { stream: true, max_tokens: 64, temperature: 0, seed: 1, ignore_eos: true });
      const expected = { same: sha(textOf(await ask('same'))), other: sha(textOf(await ask('other'))) };
      let stop = false;
      const work = async (id) => {
        for (let n = 0; !stop || n < 3; n++) {
          const answer = await ask(id);
          assert.ok(whole(answer), answer.text.slice(-300));
          assert.equal(sha(textOf(answer)), expected[id]);
        }
      };
      const all = Promise.all([work('same'), work('same'), work('other'), work('other')]);
      corral.write({ pools: [realPool('same', { slots: 2 }), realPool('other', { slots: 2, ctx: 1024 })] });
      assert.deepEqual(changes(await reload(corral)), ['pool_engine other ctx']);
      await until(
        'the new engine, alone',
        () => {
          const now = corral.engines().filter((p) => p.argv.some((w) => /^other(-\d+)?$/.test(w)));
          return now.length === 1 && now[0].pid !== before.other;
        },
        60000,
      );
      stop = true;
      await withDeadline(all, 'the last answers', 60000);
      assert.equal(engines(corral, ['same']).same, before.same);
    },
    { ...warm, leaks: false },
  ),
);

test(
  'signals that come in a row end with what the file says last',
  reloading(
    base,
    async (corral) => {
      const [same, other] = base();
      for (let i = 0; i < 20; i++) {
        corral.write({ pools: [same, { ...other, aliases: [`name-${i}`] }] });
        process.kill(corral.pid, 'SIGHUP');
      }
      const named = () => corral.chat('name-19', { max_tokens: 1 });
      await until('the last name', async () => (await named()).status === 200);
      const all = await Promise.all(Array.from({ length: 8 }, () => reload(corral)));
      for (const answer of all) assert.deepEqual([answer.status, changes(answer)], [200, []]);
    },
    warm,
  ),
);

test(
  '--watch: a file renamed over it is read; one that is gone for a moment is waited for',
  reloading(
    base,
    async (corral) => {
      const [same, other] = base();
      const named = (name) => ({ pools: [same, { ...other, aliases: [name] }] });
      const file = corral.configFile;
      const rename = (config) => {
        corral.configFile = `${file}.new`;
        corral.write(config);
        corral.configFile = file;
        fs.renameSync(`${file}.new`, file);
      };
      const served = (name) =>
        until(`the name ${name}`, async () => (await corral.chat(name, { max_tokens: 1 })).status === 200);
      rename(named('renamed'));
      await served('renamed');
      corral.write(named('written'));
      await served('written');
      fs.renameSync(file, `${file}~`); // as an editor that keeps the old one does
      corral.write(named('edited'));
      await served('edited');
      const seen = reloads(corral);
      rename('pools: [');
      await until('the refusal', () => reloads(corral) > seen);
      assert.equal((await corral.chat('edited', { max_tokens: 1 })).status, 200);
      rename({ ...named('mended'), watch: false }); // what the command line says is stronger
      await served('mended');
      rename(named('again'));
      await served('again');
    },
    { ...warm, args: ['--watch'] },
  ),
);

test(
  '--watch: keys_file by a new path is followed from then on',
  reloading(
    base,
    async (corral) => {
      const pools = base();
      const write = (name, key) => {
        const file = path.join(corral.dir, name, 'keys');
        fs.mkdirSync(path.dirname(file), { recursive: true });
        fs.writeFileSync(file, `${key}: sk-corral-000000000000000000000000000000001\n`, { mode: 0o600 });
        return file;
      };
      const held = (name) =>
        until(`the key ${name}`, async () => (await corral.cli('key', 'ls')).stdout.includes(`${name} `));
      corral.write({ pools, keys_file: write('one', 'alice') });
      await held('alice');
      corral.write({ pools, keys_file: write('two', 'bob') });
      await held('bob');
      write('two', 'carol');
      await held('carol');
    },
    { ...warm, args: ['--watch'] },
  ),
);

test(
  'the question itself: what is no JSON object with dry_run is refused',
  reloading(
    base,
    async (corral) => {
      for (const body of ['[]', '{"dry_run":1}', '{"dryrun":true}', 'x'])
        assert.equal((await corral.post('/v1/config/reload', body)).status, 400, body);
      assert.equal((await corral.send('GET', '/v1/config/reload')).status, 405);
      const cli = await corral.cli('config', 'reload', 'corral.yaml');
      assert.equal(cli.code, 2);
    },
    {},
  ),
);

test(
  'models that were found on the disk: a reload leaves them, pools that are written take their place',
  async (t) => {
    const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'crl-models-'));
    t.after(() => fs.rmSync(dir, { recursive: true }));
    fs.copyFileSync(model('random'), path.join(dir, 'one.gguf'));
    const top = {
      models_dir: dir,
      defaults: { engine: { mode: 'binary', path: fakePath }, canary: 'never' },
    };
    const empty = { HOME: dir, HF_HOME: dir, HF_HUB_CACHE: dir, LLAMA_CACHE: dir, OLLAMA_MODELS: dir };
    const body = async (corral) => {
      await until('the pool of the model', async () => (await models(corral)).join() === 'one');
      assert.equal((await corral.chat('one')).status, 200);
      const before = corral.engineOf('one').pid;
      const answer = await reload(corral);
      assert.deepEqual([answer.status, changes(answer)], [200, []], answer.text);
      assert.deepEqual(await models(corral), ['one']);
      assert.equal(corral.engineOf('one').pid, before);
      corral.write({ models_dir: dir, pools: [fakePool('own')] });
      assert.deepEqual(changes(await reload(corral)), ['pool_added own', 'pool_removed one']);
      assert.equal((await corral.chat('own')).status, 200);
      await until('the found pool to be gone', async () => (await models(corral)).join() === 'own');
      corral.write(top);
      assert.equal((await reload(corral)).status, 200);
      await until('the found pool again', async () => (await models(corral)).join() === 'one');
      assert.equal((await corral.chat('one')).status, 200);
      await until('the engine of the written pool to be gone', () => !corral.engineOf('own'));
    };
    await withCorral(top, body, { leaks: false, env: empty })(t);
  },
);
