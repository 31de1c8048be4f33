// SPDX-License-Identifier: Apache-2.0
//
// Engines built out of a git repository: what `corral engines` says and does, and that what it built serves.
// The repository is made here (repo.mjs); compilers, CMake and git are the machine's own.

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { spawn, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { test } from 'node:test';

import { corralPath, deadlineMs, fakePool, model, sse, stubDriver, until, withCorral } from './harness.mjs';
import { git, gitDaemon, makeRepo } from './repo.mjs';

const slow = process.env.CORRAL_TEST_SLOW === '1';
const tools = ['git', 'cmake', 'cc', 'c++'].filter(
  (name) => spawnSync('sh', ['-c', `command -v ${name}`]).status !== 0,
);
const skip = tools.length > 0 && `no ${tools.join(', ')} here`;

/** A folder with a repository, and a configuration of one pool that builds it. */
class World {
  constructor({ units = 40 } = {}) {
    this.dir = fs.mkdtempSync(path.join(os.tmpdir(), 'crl-src-'));
    this.repo = makeRepo(this.dir, { units });
    this.state = path.join(this.dir, 's');
    this.config = path.join(this.dir, 'corral.yaml');
    this.write({});
  }
  get engines() {
    return path.join(this.state, 'engines/llamacpp');
  }
  write({ source = {}, engine = {}, pool = {}, top = {} }) {
    const pools = [
      {
        id: 'chat',
        model: '/nowhere.gguf',
        engine: { mode: 'source', source: { repo: `file:${this.repo}`, ...source }, ...engine },
        ...pool,
      },
    ];
    const whole = { state_dir: this.state, runtime_dir: path.join(this.dir, 'r'), pools, ...top };
    fs.writeFileSync(this.config, JSON.stringify(whole));
  }
  #env(env) {
    const clean = Object.entries(process.env).filter(([k]) => !/^(CORRAL|CUDA|XDG)_/.test(k));
    return { ...Object.fromEntries(clean), CORRAL_SYSFS: path.join(this.dir, 'no-sysfs'), ...env };
  }
  /** corral engines …; killAt: SIGKILL to it (not to its tools) once it told so many lines; killOn: that. */
  run(words, { env = {}, killAt, killOn, config = this.config } = {}) {
    const argv = ['engines', ...words, '--config', config];
    const child = spawn(corralPath, argv, { stdio: ['ignore', 'pipe', 'pipe'], env: this.#env(env) });
    const out = ['', ''];
    child.stdout.on('data', (d) => {
      out[0] += d;
      if (killAt && out[0].split('\n').length > killAt) child.kill('SIGKILL');
      if (killOn && out[0].includes(killOn)) child.kill('SIGKILL');
    });
    child.stderr.on('data', (d) => (out[1] += d));
    const timer = setTimeout(() => child.kill('SIGKILL'), deadlineMs(120000));
    return new Promise((resolve) =>
      child.once('close', (code, signal) => {
        clearTimeout(timer);
        resolve({ code, signal, stdout: out[0], stderr: out[1] });
      }),
    );
  }
  async provision(opts) {
    const r = await this.run(['provision', 'chat', '--json'], opts);
    const lines = r.stdout.split('\n').filter(Boolean).map((l) => JSON.parse(l));
    return { ...r, lines, ...lines.at(-1) };
  }
  /** What `plan` says of each step: "build failed", … */
  async states(opts) {
    const { steps } = JSON.parse((await this.run(['plan', 'chat', '--json'], opts)).stdout).pools[0];
    return { all: steps.map((s) => `${s.step} ${s.state}`), steps };
  }
  /** Folders of builds. */
  builds() {
    const names = fs.existsSync(this.engines) ? fs.readdirSync(this.engines) : [];
    return names.filter((n) => /^source-[0-9a-f]{16}$/.test(n)).sort();
  }
  /** What is half-made, by name. */
  halves() {
    const names = fs.existsSync(this.engines) ? fs.readdirSync(this.engines) : [];
    return names.filter((n) => /^\.(work|built|gone)-/.test(n));
  }
  /** All that counts of the state, as one text. */
  print() {
    const all = [];
    const walk = (dir) => {
      for (const e of fs.readdirSync(dir, { withFileTypes: true })) {
        const full = path.join(dir, e.name);
        if (/^(\.src-|log$)/.test(e.name)) continue;
        if (e.isDirectory()) walk(full);
        else {
          const text = fs.readFileSync(full, 'latin1').replace(/^created .*$/m, '');
          const mode = (fs.statSync(full).mode & 0o777).toString(8);
          const digest = createHash('sha256').update(text, 'latin1').digest('hex');
          all.push(`${mode} ${digest} ${path.relative(this.state, full)}`);
        }
      }
    };
    walk(this.engines);
    return all.sort().join('\n');
  }
  remove() {
    fs.rmSync(this.dir, { recursive: true, force: true });
  }
}

const withWorld = (body, opts) => async (t) => {
  const w = new World(opts);
  try {
    await body(w, t);
  } finally {
    w.remove();
  }
};

/** A folder of links to programs, to be the whole PATH; scripts: programs of the test's own. */
function pathOf(w, without, scripts = {}) {
  const dir = fs.mkdtempSync(path.join(w.dir, 'path-'));
  for (const from of ['/usr/bin', '/bin', '/usr/local/bin'])
    for (const name of fs.existsSync(from) ? fs.readdirSync(from) : [])
      if (!without.includes(name) && !(name in scripts) && !fs.existsSync(path.join(dir, name)))
        fs.symlinkSync(path.join(from, name), path.join(dir, name));
  for (const [name, text] of Object.entries(scripts))
    fs.writeFileSync(path.join(dir, name), text, { mode: 0o755 });
  return dir;
}

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
            engine: { mode: 'source', source: { repo: `file:${w.repo}` } },
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

// ---- killed anywhere -------------------------------------------------------------------------------

test(
  'source: killed at any point, the next run ends as one that nobody disturbed',
  { skip },
  withWorld(async (w, t) => {
    const whole = await w.provision();
    assert.equal(whole.code, 0, whole.stdout);
    const want = w.print();
    const last = whole.lines.length - 1;
    // How many lines there are depends on how busy the machine is; the late ones are named.
    const lines = slow ? 44 : 3;
    const points = ['"verify"', '"configure"', '"build"', 'for its version', 'in its place', 'is ready']
      .slice(slow ? 0 : 4)
      .map((killOn) => ({ killOn }));
    for (let i = 0; i < lines; i++) points.push({ killAt: 1 + Math.floor((i * last * 0.6) / lines) });
    let killed = 0;
    for (const point of points) {
      const where = JSON.stringify(point);
      fs.rmSync(w.engines, { recursive: true });
      const cut = await w.provision(point);
      killed += cut.signal === 'SIGKILL';
      const after = await w.provision();
      assert.equal(after.code, 0, `${where}: ${after.stdout}`);
      assert.equal(w.print(), want, where);
      assert.deepEqual(w.halves(), [], where);
    }
    t.diagnostic(`${killed} of ${points.length} runs were killed`);
    assert.ok(killed >= points.length / 2, `${killed} of ${points.length}`);
    // Killed again and again, it still gets further each time.
    fs.rmSync(w.engines, { recursive: true });
    let tries = 0;
    for (; tries < 60 && (await w.provision({ killAt: 25 })).signal; tries++);
    assert.equal(w.print(), want, `after ${tries} kills`);
  }),
);

// ---- one clear message each ------------------------------------------------------------------------

test(
  'source: a broken compiler, a unit that does not compile, a repository without the target',
  { skip },
  withWorld(async (w) => {
    const broken = pathOf(w, [], {
      cc: `#!/bin/sh
[ "$1" = --version ] && echo "cc (Test) 12.2.0" && exit 0
echo "cc: cannot" >&2
exit 1
`,
    });
    const compiler = await w.provision({ env: { PATH: broken } });
    assert.equal(compiler.code, 1);
    assert.match(compiler.error, /^CMake cannot set the build up: CMake Error at .*The C compiler/);
    assert.match(compiler.error, /is not able to compile a simple test program/);
    const log = /the whole output is in (\S+)$/.exec(compiler.error)[1];
    assert.match(fs.readFileSync(log, 'utf8'), /cc: cannot/);
    assert.deepEqual([w.halves(), w.builds()], [[], []]);

    const dead = pathOf(w, [], { cc: '#!/bin/sh\nexit 1\n' });
    const refused = await w.provision({ env: { PATH: dead } });
    assert.match(refused.error, /cannot be built here: cc, the C compiler, does not run/);

    const unit = path.join(w.repo, 'ggml/ggml_7.c');
    const good = fs.readFileSync(unit, 'utf8');
    fs.writeFileSync(unit, 'int ggml_7(void) { return not_a_name; }\n');
    git(w.repo, 'commit', '-qam', 'broken');
    git(w.repo, 'tag', 'b103');
    const failing = await w.provision();
    assert.equal(failing.code, 1);
    assert.match(failing.error, /^llama-server b103 does not compile: .*_7\.c:1:\d+: error: .*not_a_name/);
    assert.match(failing.error, /the whole output is in \S+-build\.log$/);
    assert.deepEqual(w.builds(), []);
    const stuck = await w.states();
    assert.deepEqual(stuck.all.slice(3, 6), ['configure done', 'build failed', 'install todo']);
    assert.match(stuck.steps[4].detail, /^llama-server b103 does not compile/);
    fs.writeFileSync(unit, good);
    git(w.repo, 'commit', '-qam', 'mended');
    git(w.repo, 'tag', 'b104');
    assert.equal((await w.provision()).code, 0);
  }),
);

test(
  'source: no git, no cmake, nothing at all: what is missing, and the command',
  { skip },
  withWorld(async (w) => {
    const without = async (...names) => {
      const env = { PATH: pathOf(w, names), CORRAL_PREFLIGHT_ROOT: path.join(w.dir, 'machine') };
      return { made: await w.provision({ env }), plan: await w.run(['plan'], { env }) };
    };
    const release = path.join(w.dir, 'machine/etc/os-release');
    fs.mkdirSync(path.dirname(release), { recursive: true });
    fs.writeFileSync(release, 'ID=fedora\n');
    const one = await without('git');
    assert.equal(one.made.code, 1);
    assert.match(one.made.error, /^llama.cpp cannot be built here: git, which gets the sources, is not in/);
    assert.match(one.made.error, /dnf install -y git \(build.allow_package_installs: true does it\)$/);
    fs.writeFileSync(release, 'ID=arch\n');
    const all = await without('git', 'cmake', 'ninja', 'make', 'gmake', 'cc', 'c++');
    assert.match(all.made.error, /git, .* cmake, .* neither ninja nor make, .* cc, .* c\+\+, /);
    assert.match(all.made.error, /pacman -S --needed --noconfirm git cmake ninja gcc/);
    assert.equal(all.plan.code, 1);
    for (const name of ['git,', 'cmake,', 'neither ninja nor make', 'cc,', 'c++,'])
      assert.ok(all.plan.stdout.includes(`missing: ${name}`), all.plan.stdout);
    assert.deepEqual([w.halves(), w.builds()], [[], []]);
  }),
);

test(
  'source: missing tools are installed where that is allowed',
  { skip },
  withWorld(async (w) => {
    const env = {
      PATH: pathOf(w, ['ninja', 'make', 'gmake', 'sudo']),
      CORRAL_PREFLIGHT_ROOT: path.join(w.dir, 'm'),
    };
    fs.mkdirSync(path.join(w.dir, 'm/etc'), { recursive: true });
    fs.writeFileSync(path.join(w.dir, 'm/etc/os-release'), 'ID=debian\n');
    const manager = (text) =>
      ['apt-get', 'sudo'].forEach((name) => {
        fs.rmSync(path.join(env.PATH, name), { force: true });
        const script = name === 'sudo' ? '#!/bin/sh\nshift\nexec "$@"\n' : `#!/bin/sh\n${text}\n`;
        fs.writeFileSync(path.join(env.PATH, name), script, { mode: 0o755 });
      });
    w.write({ top: { build: { allow_package_installs: true } } });
    manager('echo "E: Unable to locate package $5" >&2; exit 100');
    const failed = await w.provision({ env });
    assert.match(failed.error, /^the missing packages cannot be installed: .*source-packages\.log$/);
    const ninja = spawnSync('sh', ['-c', 'command -v ninja make']).stdout.toString().split('\n')[0];
    manager(`echo "$@" > ${w.dir}/asked; ln -s ${ninja} ${env.PATH}/${path.basename(ninja)}`);
    const made = await w.provision({ env });
    assert.equal(made.code, 0, made.stdout);
    assert.match(fs.readFileSync(path.join(w.dir, 'asked'), 'utf8'), /^install -y .*ninja-build/);
  }),
);

// ---- disks -----------------------------------------------------------------------------------------

const unshare = ['--user', '--map-root-user', '--mount'];
const noMounts =
  spawnSync('unshare', [...unshare, 'mount', '-t', 'tmpfs', 'none', '/mnt']).status !== 0 && 'no mounts here';

/** Provisions with the state folder on a tmpfs of that size, in a namespace; then prints what is left. */
function onTmpfs(w, options) {
  fs.mkdirSync(w.state, { recursive: true });
  const script = `mount -t tmpfs -o ${options} none ${w.state}
${corralPath} engines provision chat --json --config ${w.config}; echo "code $?"
find ${w.state} -mindepth 3 -not -name '*.log' -not -name log -not -name source.lock
df --output=avail ${w.state}`;
  const env = { ...process.env, CORRAL_SYSFS: path.join(w.dir, 'no-sysfs') };
  return spawnSync('unshare', [...unshare, 'sh', '-c', script], { encoding: 'utf8', env });
}

test(
  'source: a disk without room, one that gets full, a folder nobody may write',
  { skip: skip || noMounts },
  withWorld(async (w) => {
    const small = onTmpfs(w, 'size=8m').stdout;
    assert.match(small, /s\/engines\/llamacpp has \S+ MiB free, and a CPU build takes about 1\.0 GiB: make/);
    assert.match(small, /code 1\n\s*Avail/, 'nothing is left');

    const fill = 'execute_process(COMMAND dd if=/dev/zero of=${CMAKE_BINARY_DIR}/fill bs=1M count=1100)\n';
    fs.appendFileSync(path.join(w.repo, 'CMakeLists.txt'), fill);
    git(w.repo, 'commit', '-qam', 'fills');
    git(w.repo, 'tag', 'b105');
    const full = onTmpfs(w, 'size=1040m').stdout;
    assert.match(full, /the disk of \S+ is full; make room and start again/);
    assert.match(full, /code 1\n\s*Avail/, 'nothing is left');

    const fixed = onTmpfs(w, 'ro,size=2g').stdout;
    assert.match(fixed, /state_dir.*(Read-only file system|cannot be)/);
    assert.match(fixed, /code 1\n/);
  }),
);

// ---- the plan --------------------------------------------------------------------------------------

const card = (cc) => `device|GPU-aaaa1111|Stub 24 GB|00000000:01:00.0|24576|0|25|51|${cc}|0`;

test(
  'source: the plan by what is here: no GPU, a GPU, with and without its toolkit',
  { skip },
  withWorld(async (w) => {
    const machine = path.join(w.dir, 'machine');
    fs.mkdirSync(path.join(machine, 'etc'), { recursive: true });
    fs.writeFileSync(path.join(machine, 'etc/os-release'), 'ID=debian\n');
    const nvcc = path.join(machine, 'usr/local/cuda/bin/nvcc');
    const kits = ['nvcc', 'glslc', 'hipcc', 'llama-server'];
    const env = { PATH: pathOf(w, kits), CORRAL_PREFLIGHT_ROOT: machine };
    const plan = async (more = {}) => {
      const r = await w.run(['plan', 'chat', '--json'], { env: { ...env, ...more } });
      return { code: r.code, ...JSON.parse(r.stdout).pools[0] };
    };
    const toolkit = () => {
      fs.mkdirSync(path.dirname(nvcc), { recursive: true });
      fs.mkdirSync(path.join(machine, 'usr/local/cuda/include/crt'), { recursive: true });
      fs.writeFileSync(path.join(machine, 'usr/local/cuda/include/cuda_runtime.h'), '');
      const says = 'echo "release 12.8, V12.8.1"\n[ $1 = --version ] || echo compute_89\n';
      fs.writeFileSync(nvcc, `#!/bin/sh\n${says}`, { mode: 0o755 });
    };
    const driver = stubDriver(card('8.9'));

    const bare = await plan();
    assert.equal(bare.code, 0);
    assert.equal(bare.why, 'source: built with the CPU, because this machine shows no GPU');
    assert.deepEqual(
      bare.steps.map((s) => s.step),
      ['preflight', 'fetch', 'verify', 'configure', 'build', 'install', 'canary'],
    );
    assert.equal((await plan()).plan, bare.plan, 'the same input, the same plan');

    const lacks = await plan(driver.env);
    assert.equal(lacks.code, 1);
    assert.equal(lacks.why, 'source: built with CUDA for Stub 24 GB');
    assert.deepEqual(lacks.missing.map((m) => m.what), ['nvcc']);
    assert.match(lacks.missing[0].command, /apt-get install -y .*nvidia-cuda-toolkit$/);
    assert.equal(lacks.missing[0].packages.Arch, 'cuda');

    w.write({ top: { gpu: 'optional' } });
    const instead = await plan(driver.env);
    assert.equal(instead.why, 'source: built with the CPU, because nvcc is not here: Stub 24 GB is not used');
    assert.equal(instead.code, 0);
    w.write({});

    toolkit();
    const idle = await plan();
    assert.match(idle.why, /this machine shows no GPU \(the CUDA toolkit 12\.8 at .* is not used\)/);
    const cuda = await plan(driver.env);
    assert.equal(cuda.code, 0, JSON.stringify(cuda.missing));
    assert.equal(cuda.why, 'source: built with CUDA 12.8 for Stub 24 GB (8.9)');
    assert.match(cuda.steps[3].text, /GGML_CUDA=ON -DCMAKE_CUDA_COMPILER=\S+ -DCMAKE_CUDA_ARCHITECTURES=89/);
    assert.notEqual(cuda.plan, bare.plan);

    // Of itself too, where no llama-server is installed and a GPU and its toolkit are here.
    w.write({ engine: { mode: 'auto', source: undefined } });
    const auto = await plan(driver.env);
    assert.equal(auto.mode, 'auto');
    assert.equal(auto.why, 'source: built with CUDA 12.8 for Stub 24 GB (8.9)');
    assert.doesNotMatch((await plan()).why, /^source/);
    w.write({});

    const text = (await w.run(['plan', 'chat'], { env: { ...env, ...driver.env } })).stdout;
    assert.match(text, /^Pool chat \(plan [0-9a-f]{16}\): source: built with CUDA 12\.8 for Stub 24 GB/);
    assert.match(text, /^ {2}5\. build {7}todo {4}Build llama-server\.$/m);
  }),
);
