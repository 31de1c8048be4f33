// SPDX-License-Identifier: Apache-2.0
//
// Engines built out of a git repository: what `corral engines` says and does, and that what it built serves.

import assert from 'node:assert/strict';
import fs from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { test } from 'node:test';

import { skip, withWorld } from './building.mjs';
import { fakePool, model, sse, until, withCorral } from './harness.mjs';
import { git, gitDaemon } from './repo.mjs';

// ---- it builds, and what it built serves -----------------------------------------------------------

test(
  'source: a repository is built once; a changed flag builds beside; back and away again',
  { skip },
  withWorld(
    async (w) => {
      const first = await w.provision();
      assert.equal(first.code, 0, first.stdout);
      assert.match(first.done, /^source: llama-server b\d+ \([0-9a-f]{12}\) of file:.*, built for CPU/);
      assert.ok(first.lines.some((l) => l.phase === 'build' && l.percent > 30 && l.percent < 70));
      assert.ok(first.lines.some((l) => l.phase === 'build' && l.eta_ms > 0));
      const [build] = w.builds();
      assert.equal(first.program, path.join(w.engines, build, 'bin/llama-server'));
      const record = fs.readFileSync(path.join(w.engines, build, 'source.build'), 'utf8');
      assert.match(record, new RegExp(`^commit ${git(w.repo, 'rev-parse', 'b101^{commit}')}$`, 'm'));
      assert.match(record, /^ref b101$/m);
      assert.deepEqual(w.halves(), []);

      const known = await w.states();
      const done = ['preflight', 'fetch', 'verify', 'configure', 'build', 'install'].map((s) => `${s} done`);
      assert.deepEqual(known.all, [...done, 'canary todo']);
      assert.match(known.steps[4].log, /log\/source-[0-9a-f]{16}-build\.log$/);
      assert.ok(known.steps[4].started_at <= known.steps[4].ended_at);
      assert.ok(first.lines.some((l) => l.phase === 'build' && l.step === 5 && l.steps === 6));

      const state = w.print();
      const second = await w.provision();
      assert.equal(second.code, 0);
      assert.equal(second.lines.length, 1, 'nothing is looked at, asked or done');
      assert.equal(w.print(), state);

      git(w.repo, 'tag', 'b102'); // what was built stays until it is upgraded
      assert.equal((await w.provision()).lines.length, 1);

      w.write({ source: { flags: ['-DGGML_EXTRA=ON', 'LLAMA_CUBLAS=OFF'], ref: 'b101' } });
      const other = await w.provision();
      assert.equal(other.code, 0, other.stdout);
      assert.match(other.stdout, /LLAMA_CUBLAS is called GGML_CUDA now/);
      assert.equal(w.builds().length, 2);
      const other_build = w.builds().find((b) => b !== build);
      const log = path.join(w.engines, 'log', `${other_build}-configure.log`);
      assert.match(fs.readFileSync(log, 'utf8'), /-DGGML_CUDA=OFF -DGGML_EXTRA=ON/);
      assert.ok(!other.stdout.includes('Receiving'), 'the sources were there');

      const { engines } = JSON.parse((await w.run(['ls', '--json'])).stdout);
      assert.deepEqual(engines.map((e) => e.current), [true, true]);
      assert.deepEqual(engines.map((e) => e.pools), engines.map((e) => (e.folder === build ? [] : ['chat'])));
      assert.ok(engines.every((e) => e.bytes > 1e5));
      const refused = await w.run(['rm', other_build]);
      assert.equal(refused.code, 1);
      assert.match(refused.stderr, /is the current build of pool chat: --force/);
      assert.equal((await w.run(['rm', other_build, '--force'])).code, 0);
      assert.deepEqual(w.builds(), [build]);
      assert.equal((await w.provision()).code, 0); // made anew
      assert.equal(w.builds().length, 2);
    },
    { units: 300 },
  ),
);

test(
  'source: what was built serves, and a pool builds it by itself',
  { skip },
  withWorld((w, t) =>
    withCorral(
      {
        pools: [
          {
            id: 'chat',
            model: model('random'),
            ctx: 2048,
            start_timeout: '10m',
            engine: { mode: 'source', source: { repo: `file:${w.repo}`, ref: 'b100' } },
          },
          {
            id: 'bad',
            model: model('random'),
            engine: { mode: 'source', source: { repo: `file:${w.dir}/not-there` } },
          },
          fakePool('other'),
        ],
        state_dir: w.state,
      },
      async (corral) => {
        const [answer, bad, other] = await Promise.all(['chat', 'bad', 'other'].map((id) => corral.chat(id)));
        assert.equal(answer.status, 200, answer.text);
        assert.equal(bad.status, 503, bad.text);
        assert.match(bad.json.error.message, /cannot be asked for its tags.*not-there.*source-resolve\.log/);
        assert.equal(other.status, 200, other.text);
        const got = await corral.post('/v1/engines/provision', { pool: 'chat' });
        assert.equal(got.status, 200, got.text);
        assert.match(sse(got.text).at(-1).data, /^\{"pool":"chat","version":"b\d+","why":"source: /);
        const failed = sse((await corral.post('/v1/engines/provision', { pool: 'bad' })).text);
        assert.deepEqual([failed[0].event, failed.at(-1).event], ['progress', 'error']);
        assert.match(failed.at(-1).data, /not-there.*source-resolve\.log/);
        assert.equal((await corral.post('/v1/engines/provision', { pool: 'x' })).status, 404);
        const { engines, steps } = (await corral.get('/v1/engines')).json;
        assert.ok(steps.some((s) => s.name === 'build' && s.state === 'done' && /-build\.log$/.test(s.log)));
        const failedOnes = steps.filter((s) => s.state === 'failed');
        assert.ok(failedOnes.some((s) => s.name === 'fetch' && /not-there/.test(s.detail)));
        assert.ok(steps.some((s) => s.name === 'canary' && s.state === 'done'), JSON.stringify(steps));
        assert.deepEqual(
          engines.filter((e) => e.source === 'source').map((e) => [e.commit, e.features]),
          [[git(w.repo, 'rev-parse', 'b100'), 'CPU']],
        );
        const { argv } = corral.engineOf('chat');
        assert.match(argv[0], /source-[0-9a-f]{16}\/bin\/llama-server$/);
        assert.match(corral.log(), /Pool chat runs source: llama-server b\d+ .*built for CPU/);
      },
      { leaks: false },
    )(t),
  ),
);

test(
  'source: a newer release is told, built beside and handed over; one that does not serve is taken back',
  { skip },
  withWorld((w, t) =>
    withCorral(
      {
        pools: [
          {
            id: 'chat',
            model: model('random'),
            ctx: 2048,
            start_timeout: '10m',
            engine: { mode: 'source', version: 'latest', source: { repo: `file:${w.repo}` } },
          },
        ],
        state_dir: w.state,
      },
      async (corral) => {
        const run = (...words) => w.run(words, { config: corral.configFile });
        assert.equal((await corral.chat('chat')).status, 200);
        const engine = () => corral.engineOf('chat')?.argv[0];
        const old = engine();
        assert.match((await run('outdated')).stdout, /^chat +b\d+ +b101 \([0-9a-f]{12}\)$/m);

        git(w.repo, 'commit', '-q', '--allow-empty', '-m', 'third');
        git(w.repo, 'tag', 'b102');
        const { engines } = JSON.parse((await run('outdated', '--json')).stdout);
        assert.deepEqual([engines[0].newest_name, engines[0].outdated], ['b102', true]);
        const told = / {2}newer, and latest is asked for: corral engines upgrade chat$/m;
        assert.match((await run('outdated')).stdout, told);
        const stays = /note: engine.version is latest, and b\d+ is here: it stays until `corral/;
        assert.match((await run('plan')).stdout, stays);
        const up = await run('upgrade', 'llamacpp');
        assert.equal(up.code, 0, up.stderr);
        assert.match(up.stdout, /^chat: source: llama-server b\d+/m);
        assert.match(up.stderr, /chat: .*the same \d+ bytes for the first 32 greedy tokens/);
        assert.equal((await corral.chat('chat')).status, 200);
        await until('the old engine to go', () => engine() !== old);
        const newer = engine();
        assert.equal((await run('upgrade', 'chat')).code, 0); // nothing newer
        assert.equal(engine(), newer);

        const server = path.join(w.repo, 'tools/server');
        fs.appendFileSync(
          path.join(server, 'CMakeLists.txt'),
          'set_source_files_properties(fake_engine.c PROPERTIES COMPILE_DEFINITIONS main=fake_main)\n',
        );
        fs.writeFileSync(
          path.join(server, 'broken.c'),
          'int fake_main(int, char **);\n' +
            'int main(int n, char **v) { return n == 2 ? fake_main(n, v) : 3; }\n',
        );
        git(w.repo, 'add', '-A');
        git(w.repo, 'commit', '-qm', 'does not serve');
        git(w.repo, 'tag', 'b103');
        const failed = await run('upgrade', 'chat');
        assert.notEqual(failed.code, 0);
        assert.match(failed.stderr, /did not get ready with the new build; the one before is taken again/);
        assert.equal((await corral.chat('chat')).status, 200);
        await until('the failed engine to go', () => engine() === newer); // the old one serves on
        assert.equal(w.builds().length, 3);

        // What is gone back to now is the one that does not serve: it does not become the pool's.
        const back = await run('rollback', 'chat');
        assert.match(back.stderr, /is current again, and pool chat does not get ready with it/);
        assert.notEqual(back.code, 0);
        assert.equal((await corral.chat('chat')).status, 200);
        assert.equal((await run('rollback', 'chat')).code, 0);
        const list = JSON.parse((await run('ls', '--json')).stdout).engines;
        assert.ok(newer.includes(list.find((e) => e.current).folder));
      },
      { leaks: false },
    )(t),
  ),
);

const freePort = () =>
  new Promise((resolve) => {
    const s = net.createServer().listen(0, '127.0.0.1', () => {
      const { port } = s.address();
      s.close(() => resolve(port));
    });
  });

test(
  'source: over git://, by branch, by commit, by no name that is there',
  { skip },
  withWorld(async (w) => {
    const daemon = await gitDaemon(w.dir, await freePort());
    try {
      const repo = `${daemon.url}/llama.cpp`;
      w.write({ source: { repo, ref: 'master' } });
      const branch = await w.provision();
      assert.equal(branch.code, 0, branch.stdout);
      const depth = path.join(w.engines, fs.readdirSync(w.engines).find((n) => n.startsWith('.src-')));
      assert.equal(git(depth, 'rev-list', '--count', 'HEAD'), '1', 'shallow');
      assert.ok(fs.existsSync(path.join(depth, 'vendor/small/small.c')));
      const id = git(w.repo, 'rev-parse', 'b100');
      w.write({ source: { repo, ref: id } });
      const commit = await w.provision();
      assert.equal(commit.code, 0, commit.stdout);
      assert.match(commit.done, new RegExp(id.slice(0, 12)));
      assert.equal(w.builds().length, 2);
      w.write({ source: { repo, ref: 'nothing-of-that-name' } });
      const none = await w.provision();
      assert.equal(none.code, 1);
      assert.match(none.error, /nothing-of-that-name is neither a tag nor a branch of git:/);
    } finally {
      daemon.stop();
    }
    w.write({ source: { repo: `${daemon.url}/llama.cpp`, ref: 'b101' } });
    const gone = await w.provision();
    assert.equal(gone.code, 1);
    assert.match(gone.error, /cannot be asked for its tags and branches: fatal: .*source-resolve\.log/);
    assert.deepEqual(w.halves(), []);
    w.write({ source: { repo: `${daemon.url}/llama.cpp` }, top: { network: { offline: true } } });
    assert.match((await w.provision()).error, /nothing may be fetched \(offline\)/);
  }),
);
