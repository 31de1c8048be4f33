// SPDX-License-Identifier: Apache-2.0
//
// engine.mode binary with an address: archives with a llama-server in them, from a server of files that the
// test has; what goes wrong with them, and that a kill at any point costs nothing.

import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { test } from 'node:test';

import { digestOf, startHub } from '../fakes/hub.mjs';
import { archive } from './archives.mjs';
import { Corral, corralPath, deadlineMs, fakePath, fakePool, model } from './harness.mjs';
import { sse, until, withCorral } from './harness.mjs';

const slow = process.env.CORRAL_TEST_SLOW === '1';
const real = process.env.CORRAL_TEST_LLAMA_SERVER;

/** What the archives of releases look like. */
const release = [
  ['llama-b1/LICENSE'],
  ['llama-b1/bin/llama-server', 'copy', fakePath, 0o755],
  ['llama-b1/lib/libx.so.1', 'file', 'a library', 0o755],
  ['llama-b1/lib/libx.so', 'link', 'libx.so.1'],
  ['llama-b1/share/docs/readme.md', 'file', 'r'.repeat(20000)],
];

/** A folder with a server of files, a state of its own, and a configuration of one pool. */
class World {
  static async make(t) {
    const w = new World();
    w.dir = fs.mkdtempSync(path.join(os.tmpdir(), 'crl-arc-'));
    w.state = path.join(w.dir, 's');
    w.config = path.join(w.dir, 'corral.yaml');
    w.files = {};
    w.hub = await startHub({ files: w.files });
    t.after(async () => {
      await w.hub.close();
      fs.rmSync(w.dir, { recursive: true, force: true });
    });
    return w;
  }
  get engines() {
    return path.join(this.state, 'engines');
  }
  /** Serves an archive of these members; gives what `engine` has to say for it. */
  offer(name, members = release, spec = {}) {
    const file = archive(path.join(this.dir, name), members);
    this.files[`/${name}`] = { file, ...spec };
    return { mode: 'binary', url: `${this.hub.url}/${name}`, sha256: digestOf({ file }) };
  }
  write(engine, top = {}) {
    const pools = [{ id: 'chat', model: '/nowhere.gguf', engine }];
    const whole = { state_dir: this.state, runtime_dir: path.join(this.dir, 'r'), pools, ...top };
    fs.writeFileSync(this.config, JSON.stringify(whole));
  }
  get env() {
    const clean = Object.entries(process.env).filter(([k]) => !/^(CORRAL|CUDA|XDG)_/.test(k));
    return { ...Object.fromEntries(clean), CORRAL_SYSFS: path.join(this.dir, 'no-sysfs') };
  }
  /** corral engines provision: {code, signal, error or done, program}. wrap: words before it. */
  async provision({ env = {}, wrap = [] } = {}) {
    const words = [...wrap, corralPath, 'engines', 'provision', 'chat', '--json', '--config', this.config];
    const child = spawn(words[0], words.slice(1), {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...this.env, ...env },
    });
    const out = ['', ''];
    child.stdout.on('data', (d) => (out[0] += d));
    child.stderr.on('data', (d) => (out[1] += d));
    const timer = setTimeout(() => child.kill('SIGKILL'), deadlineMs(60000));
    const end = await new Promise((resolve) =>
      child.once('close', (code, signal) => resolve({ code, signal })),
    );
    clearTimeout(timer);
    const lines = out[0].split('\n').filter((l) => l.startsWith('{'));
    const last = lines.length ? JSON.parse(lines.at(-1)) : {};
    return { ...end, error: out[1], ...last, stdout: out[0] };
  }
  /** Whether an interrupted one that nobody waits for is still at work. */
  idle() {
    return until('corral-fetch to be gone', () => !busyIn(this.dir));
  }
  /** All that counts of the engines' folder, as one text. */
  print() {
    const all = [];
    const walk = (dir) => {
      for (const e of fs.readdirSync(dir, { withFileTypes: true })) {
        const full = path.join(dir, e.name);
        const name = path.relative(this.engines, full);
        const mode = (fs.lstatSync(full).mode & 0o7777).toString(8);
        if (e.isSymbolicLink()) all.push(`${name} -> ${fs.readlinkSync(full)}`);
        else if (e.isDirectory()) e.name !== 'log' && walk(full); // logs tell what happened
        else if (name === 'versions') all.push(name); // has the program's times
        else {
          const digest = createHash('sha256').update(fs.readFileSync(full)).digest('hex');
          all.push(`${name} ${mode} ${digest}`);
        }
      }
    };
    if (fs.existsSync(this.engines)) walk(this.engines);
    return all.sort().join('\n');
  }
  /** Files that are of no engine. */
  beside() {
    const rest = (l) => l && !/^llamacpp\/binary-[0-9a-f]{12}\/|^versions$/.test(l);
    return this.print().split('\n').filter(rest);
  }
  clear() {
    fs.rmSync(this.engines, { recursive: true, force: true });
  }
}

function busyIn(dir) {
  return fs
    .readdirSync('/proc')
    .filter((n) => /^\d+$/.test(n))
    .some((pid) => {
      try {
        return fs.readdirSync(`/proc/${pid}/fd`).some((fd) =>
          fs.readlinkSync(`/proc/${pid}/fd/${fd}`).startsWith(`${dir}/s/`),
        );
      } catch {
        return false;
      }
    });
}

// ---- it serves ------------------------------------------------------------------------------------

test('archive: how far it is, in bytes too, by the API and by the command', async (t) => {
  const w = await World.make(t);
  const file = archive(path.join(w.dir, 'size.tar'), release);
  const { size } = fs.statSync(file);
  const engine = w.offer('llama.tar', release, { slow: size * 2 });
  const check = (steps) => {
    const known = steps.filter((s) => s.phase === 'fetch' && s.total);
    assert.ok(known.length, JSON.stringify(steps));
    for (const { bytes, total, percent } of known) {
      assert.equal(total, size);
      assert.equal(percent, Math.floor((bytes * 100) / total));
    }
  };
  w.write(engine);
  const got = await w.provision();
  assert.equal(got.code, 0, got.error);
  check(got.stdout.trim().split('\n').map((l) => JSON.parse(l)));
  w.clear();
  const config = { pools: [{ id: 'chat', model: model('random'), engine }], state_dir: w.state };
  await withCorral(config, async (corral) => {
    const events = sse((await corral.post('/v1/engines/provision', { pool: 'chat' })).text);
    assert.equal(events.at(-1).event, 'done', events.at(-1).data);
    check(events.map((e) => JSON.parse(e.data)));
  }, { leaks: false })(t);
});

test('archive: tar.gz and zip, fetched once for all, unpacked, and served from then on', async (t) => {
  const w = await World.make(t);
  const words = `#!/bin/sh\nexec '${real ?? fakePath}' "$@"\n`;
  const wrapped = [release[0], ['bin/llama-server', 'file', words, 0o755]];
  const tar = w.offer('llama.tar.gz', wrapped, { slow: 4 << 20 });
  const zip = w.offer('llama.zip');
  const pool = (id, engine) => ({ id, model: model('random'), ctx: 2048, engine });
  const { url, sha256 } = zip;
  const pools = [
    pool('one', { ...tar, args: ['-t', '1'] }),
    pool('two', { ...tar, args: ['-t', '1'] }),
    pool('zip', { url, sha256: sha256.toUpperCase() }), // its mode follows from the digest
  ];
  const config = { pools, state_dir: w.state };
  const all = async (corral) => {
    const answers = await Promise.all(['one', 'two', 'zip'].map((id) => corral.chat(id)));
    for (const answer of answers) assert.equal(answer.status, 200, answer.text);
  };
  await withCorral(config, async (corral) => {
    await all(corral);
    const replica = (await corral.pool('zip')).replicas[0];
    const name = `binary-${sha256.slice(0, 12)}/llama-b1/bin/llama-server`;
    assert.match(replica.engine_why, /^binary: .*llama-server .*, from the archive at engine\.url$/);
    assert.ok(replica.engine_why.includes(name), replica.engine_why);
  }, { leaks: false })(t);
  for (const where of Object.keys(w.files)) {
    const { sent, requests } = w.hub.of(where);
    assert.equal(sent, fs.statSync(w.files[where].file).size, `${where}: ${requests} requests`);
  }
  const before = w.hub.requests.length;
  await withCorral(config, all, { leaks: false })(t);
  assert.equal(w.hub.requests.length, before, 'the second start asks for nothing');
  assert.deepEqual(w.beside(), [], 'neither archives nor locks are left');
});

test('archive: two commands at once fetch once', async (t) => {
  const w = await World.make(t);
  w.write(w.offer('a.tar.gz', release, { slow: 256 << 10 }));
  const both = await Promise.all([w.provision(), w.provision()]);
  for (const one of both) assert.equal(one.code, 0, one.stdout);
  assert.equal(both[0].program, both[1].program);
  assert.equal(w.hub.of('/a.tar.gz').sent, fs.statSync(w.files['/a.tar.gz'].file).size);
});

// ---- what goes wrong ------------------------------------------------------------------------------

/** Provisions, and demands that it fails with these words and leaves nothing. */
async function fails(w, engine, words, { top, files = [], ...opts } = {}) {
  w.write(engine, top);
  const got = await w.provision(opts);
  assert.notEqual(got.code, 0, got.stdout);
  assert.match(got.error, words);
  assert.deepEqual(w.print().split('\n').filter(Boolean), files, `${words}`);
  return got;
}

test('archive: one clear message each, and nothing is left', async (t) => {
  const w = await World.make(t);
  const good = w.offer('good.tar.gz');
  const { sha256, ...none } = good;
  const other = sha256.replace(/./, (c) => (c === '0' ? '1' : '0'));
  await fails(w, none, /an archive is taken by its digest alone: add sha256/);
  await fails(w, { ...good, sha256: 'abc' }, /engine\.sha256.*accepted: 64 hexadecimal digits/s);
  await fails(w, { ...good, sha256: other }, new RegExp(`good\\.tar\\.gz.*${sha256}`));
  await fails(w, { ...good, url: `${w.hub.url}/gone.zip` }, /gone\.zip answers 404/);
  const head = fs.readFileSync(w.files['/good.tar.gz'].file).subarray(0, 3000);
  fs.writeFileSync(path.join(w.dir, 'cut.tar.gz'), head);
  w.files['/cut.tar.gz'] = { file: path.join(w.dir, 'cut.tar.gz') };
  const cut = { url: `${w.hub.url}/cut.tar.gz`, sha256: digestOf(w.files['/cut.tar.gz']) };
  await fails(w, cut, /archives\/[0-9a-f]{64} cannot be unpacked: /);
  const top = { network: { offline: true } };
  await fails(w, good, /network\.offline/, { top });
  await fails(w, good, /network\.deny: 127\.0\.0\.1/, { top: { network: { deny: ['127.0.0.1'] } } });
  await fails(w, good, /network\.allow_hosts/, { top: { network: { allow_hosts: ['*.example.org'] } } });
  const bad = {
    'an absolute name': [['/etc/evil']],
    'a step up': [['a/../../evil']],
    'an absolute link': [['l', 'link', '/etc']],
    'a link out': [['a/l', 'link', '../../x']],
    'a hard link out': [['h', 'hard', '../../etc/passwd']],
    'a device': [['c', 'char']],
    'a pipe': [['p', 'fifo']],
  };
  for (const [what, members] of Object.entries(bad)) {
    const engine = w.offer(`${what.replaceAll(' ', '-')}.tar.gz`, [...release, ...members]);
    const got = await fails(w, engine, /is not unpacked: its member ".*"/);
    assert.ok(!fs.existsSync(path.join(w.engines, 'evil')), `${what}: ${got.error}`);
  }
});

test('archive: its program is looked for, and named where there is none', async (t) => {
  const w = await World.make(t);
  const members = [['top/serve', 'copy', fakePath, 0o755], ['top/llama-server', 'link', '../../../../etc/x']];
  const engine = w.offer('a.zip', members.slice(0, 1));
  w.write(engine);
  const got = await w.provision();
  assert.equal(got.code, 1);
  assert.match(got.error, /has no program llama-server \(it was unpacked into (\S+)\); set engine\.program/);
  w.write({ ...engine, program: 'top/serve' });
  const found = await w.provision();
  assert.equal(found.code, 0, found.stdout);
  assert.match(found.program, /binary-[0-9a-f]{12}\/top\/serve$/);
  assert.equal(w.hub.of('/a.zip').requests > 0 && w.hub.of('/a.zip').sent, sizeIn(w, '/a.zip'), 'once');
  w.write({ ...engine, program: '../../../bin/sh' });
  assert.match((await w.provision()).error, /no program \.\.\/\.\.\/\.\.\/bin\/sh|engine\.program/);
  w.clear();
  w.write(w.offer('b.zip', members));
  assert.match((await w.provision()).error, /member "top\/llama-server" is a link that leads out/);
  const broken = w.offer('c.zip', [['llama-server', 'file', '#!/bin/sh\nexit 7\n', 0o755]]);
  w.write(broken);
  assert.match((await w.provision()).error, /llama-server does not run here: .* exit code 7/);
});

const sizeIn = (w, where) => fs.statSync(w.files[where].file).size;

test('archive: the first place is dead, the second answers; a cut connection goes on', async (t) => {
  const w = await World.make(t);
  const engine = w.offer('a.tar.gz', release, { resetEvery: 20000, resets: 2 });
  const { url, ...rest } = engine;
  w.write({ ...rest, urls: ['http://127.0.0.1:1/a.tar.gz', `${w.hub.url}/none.tar.gz`, url] });
  const got = await w.provision();
  assert.equal(got.code, 0, got.stdout);
  assert.equal(w.hub.of('/a.tar.gz').sent, sizeIn(w, '/a.tar.gz'));
});

// ---- disks and networks ---------------------------------------------------------------------------

const namespace = ['--user', '--map-root-user', '--mount'];
const noMounts =
  spawnSync('unshare', [...namespace, 'mount', '-t', 'tmpfs', 'none', '/mnt']).status !== 0 &&
  'no mounts here';

/** Provisions with the state folder on a tmpfs, in a namespace; what is left stands behind "code N". */
function onTmpfs(w, options) {
  fs.mkdirSync(w.state, { recursive: true });
  const script = `mount -t tmpfs -o ${options} none ${w.state}
"$@"; echo "code $?"
find ${w.state} -mindepth 2 -type f -not -name '*.log'; echo end`;
  return w.provision({ wrap: ['unshare', ...namespace, 'sh', '-c', script, 'sh'] });
}

test('archive: a disk that gets full, one nobody may write, no network', { skip: noMounts }, async (t) => {
  const w = await World.make(t);
  const noise = path.join(w.dir, 'noise');
  spawnSync('sh', ['-c', `head -c 3000000 /dev/urandom > ${noise}`]);
  const zeros = path.join(w.dir, 'zeros');
  fs.writeFileSync(zeros, Buffer.alloc(24 << 20));
  w.write(w.offer('large.zip', [...release, ['big', 'copy', noise]]));
  const large = await onTmpfs(w, 'size=2m');
  assert.match(large.error, /no room in .*MiB are needed|the disk is full; make room/);
  assert.match(large.stdout, /code 1\nend/, 'nothing is left');
  w.write(w.offer('swells.zip', [...release, ['big', 'copy', zeros]]));
  const swells = await onTmpfs(w, 'size=8m');
  assert.match(swells.error, /binary-[0-9a-f]{12}.*: the disk is full; make room/);
  assert.match(swells.stdout, /code 1\nend/, 'nothing is left');
  const fixed = await onTmpfs(w, 'ro,size=8m');
  assert.match(fixed.error, /state_dir.*(Read-only file system|cannot be)/);
  const away = await w.provision({ wrap: ['unshare', '--user', '--map-root-user', '--net'] });
  assert.equal(away.code, 1);
  assert.match(away.error, /127\.0\.0\.1.*(reach|connect)/i);
  assert.equal(w.print(), '');
});

test('archive: one that cannot be had harms no other pool, and is had as soon as it can be', async (t) => {
  const w = await World.make(t);
  const engine = w.offer('a.tar.gz', release, { status: 404, times: 1 });
  const pools = [{ id: 'chat', model: model('random'), ctx: 2048, engine }, fakePool('other')];
  await withCorral({ pools, state_dir: w.state }, async (corral) => {
    const [chat, other] = await Promise.all([corral.chat('chat'), corral.chat('other')]);
    assert.equal(other.status, 200, other.text);
    assert.equal(chat.status, 503, chat.text);
    assert.match(chat.json.error.message, /a\.tar\.gz answers 404/);
    await corral.post('/v1/pools/chat/start', {});
    await until('the pool to serve', async () => (await corral.chat('chat')).status === 200);
  }, { leaks: false })(t);
});

// ---- killed anywhere ------------------------------------------------------------------------------

const lib = path.join(path.dirname(fakePath), 'kill-at.so');

test('archive: killed at any point, the next run ends as one that nobody disturbed', async (t) => {
  const w = await World.make(t);
  w.write(w.offer('a.tar.gz', release));
  const count = path.join(w.dir, 'count');
  const whole = await w.provision({ env: { LD_PRELOAD: lib, KILL_COUNT: count } });
  assert.equal(whole.code, 0, whole.stdout);
  const want = w.print();
  // In the command and in corral-fetch alike: each counts for itself, and so does --version of the engine.
  const named = [
    'flock:1 pwrite64:1 fallocate64:1 fsync:1 rename:1 unlink:1 fsync:2 fchmod:1',
    'mkdirat:1 mkdirat:2 symlinkat:1 syncfs:1 renameat2:1 fsync:3 rename:2 unlink:2',
  ].flatMap((line) => line.split(' '));
  const points = (slow ? named : named.filter((_, i) => i % 3 === 0)).map((name) => ({ KILL_ON: name }));
  const numbered = slow ? 50 - named.length : 6;
  for (let i = 0; i < numbered; i++) points.push({ KILL_AT: String(1 + i) });
  let killed = 0;
  for (const point of points) {
    const where = JSON.stringify(point);
    w.clear();
    const cut = await w.provision({ env: { LD_PRELOAD: lib, ...point } });
    killed += cut.signal === 'SIGKILL' || /signal 9/.test(cut.error ?? '');
    await w.idle();
    const after = await w.provision();
    assert.equal(after.code, 0, `${where}: ${after.stdout}`);
    assert.equal(w.print(), want, where);
  }
  t.diagnostic(`${killed} of ${points.length} runs were killed`);
  assert.ok(killed >= points.length / 2, `${killed} of ${points.length}`);
});

test('archive: engine-provisioner is killed in the middle; the next one goes on', async (t) => {
  const w = await World.make(t);
  const engine = w.offer('a.tar.gz', release, { stall: { after: 20000, times: 1 } });
  const pools = [{ id: 'chat', model: model('random'), ctx: 2048, engine }];
  const corral = new Corral({ pools, state_dir: w.state });
  try {
    await corral.start();
    corral.chat('chat').catch(() => {});
    await until('a part of it to be sent', () => w.hub.of('/a.tar.gz').sent >= 20000);
    const node = corral.processes().find((p) => p.daemon && /engine-provisioner/.test(p.argv.join(' ')));
    process.kill(node.pid, 'SIGKILL');
    await until('the next one to serve', async () => (await corral.chat('chat')).status === 200, 60000);
    assert.deepEqual(w.beside(), []);
    await corral.stop();
  } catch (error) {
    console.error(corral.log().slice(-20000));
    throw error;
  } finally {
    corral.kill();
    corral.remove();
  }
});
