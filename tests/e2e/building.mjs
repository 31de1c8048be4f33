// SPDX-License-Identifier: Apache-2.0
//
// The frame of the tests of builds: a folder with a repository (repo.mjs), and `corral engines` there.
// Compilers, CMake and git are the machine's own.

import { createHash } from 'node:crypto';
import { spawn, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';

import { corralPath, deadlineMs } from './harness.mjs';
import { makeRepo } from './repo.mjs';

export const slow = process.env.CORRAL_TEST_SLOW === '1';
const tools = ['git', 'cmake', 'cc', 'c++'].filter(
  (name) => spawnSync('sh', ['-c', `command -v ${name}`]).status !== 0,
);
export const skip = tools.length > 0 && `no ${tools.join(', ')} here`;

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

export const withWorld = (body, opts) => async (t) => {
  const w = new World(opts);
  try {
    await body(w, t);
  } finally {
    w.remove();
  }
};

/** A folder of links to programs, to be the whole PATH; scripts: programs of the test's own. */
export function pathOf(w, without, scripts = {}) {
  const dir = fs.mkdtempSync(path.join(w.dir, 'path-'));
  for (const from of ['/usr/bin', '/bin', '/usr/local/bin'])
    for (const name of fs.existsSync(from) ? fs.readdirSync(from) : [])
      if (!without.includes(name) && !(name in scripts) && !fs.existsSync(path.join(dir, name)))
        fs.symlinkSync(path.join(from, name), path.join(dir, name));
  for (const [name, text] of Object.entries(scripts))
    fs.writeFileSync(path.join(dir, name), text, { mode: 0o755 });
  return dir;
}
