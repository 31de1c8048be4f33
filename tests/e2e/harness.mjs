// SPDX-License-Identifier: Apache-2.0
//
// Starts real Corrals for tests, each in folders of its own, and checks afterwards that nothing of it
// is left: no process, and in the daemons no more file descriptors or threads than before the test.
// Nothing here waits a fixed time: everything waits for an event or a state, with a deadline that
// CORRAL_TEST_TIME stretches.

import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import fs from 'node:fs';
import http from 'node:http';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const here = path.dirname(fileURLToPath(import.meta.url));
export const root = path.resolve(here, '../..');
export const buildDir = path.resolve(process.env.CORRAL_BUILD ?? path.join(root, 'build'));
export const corralPath = path.join(buildDir, 'corral');
export const fakePath = path.join(buildDir, path.basename(path.dirname(here)), 'fakes/fake-engine');
const shared = path.join(root, 'build', 'test-shared'); // engines that were fetched, models that were made
const stretch = Number(process.env.CORRAL_TEST_TIME ?? 1);
export const deadlineMs = (ms) => ms * stretch;

// ---- waiting ---------------------------------------------------------------------------------------

/** Resolves as soon as probe() gives something truthy; fails with what() after the deadline. */
export async function until(what, probe, ms = 20000) {
  const end = performance.now() + deadlineMs(ms);
  for (;;) {
    const got = await probe();
    if (got) return got;
    if (performance.now() > end)
      throw new Error(`waited ${deadlineMs(ms)} ms for ${typeof what === 'function' ? what() : what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

export function withDeadline(promise, what, ms = 20000) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(
      () => reject(new Error(`waited ${deadlineMs(ms)} ms for ${what}`)),
      deadlineMs(ms),
    );
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

// ---- models and pools ------------------------------------------------------------------------------

/** The path of a generated model: 'random' or 'says'. */
export function model(kind, ...args) {
  fs.mkdirSync(path.join(shared, 'models'), { recursive: true });
  const file = path.join(shared, 'models', `${[kind, ...args].join('_').replaceAll('--', '')}.gguf`);
  const maker = path.join(root, 'tools/make_model.py');
  if (!fs.existsSync(file) || fs.statSync(file).mtimeMs < fs.statSync(maker).mtimeMs) {
    execFileSync('python3', [maker, kind, `${file}.new`, ...args], {
      stdio: ['ignore', 'ignore', 'inherit'],
    });
    fs.renameSync(`${file}.new`, file);
  }
  return file;
}

/** A pool of the real llama-server, with a small context and one thread. */
export function realPool(id, { args = [], ...rest } = {}) {
  const given = process.env.CORRAL_TEST_LLAMA_SERVER;
  const engine = given ? { mode: 'binary', path: given } : { mode: 'package' };
  return {
    id,
    model: model('random'),
    ctx: 2048,
    engine: { kind: 'llamacpp', ...engine, args: ['-t', '1', ...args] },
    ...rest,
  };
}

/** Debian's llama-server as the operator's program: of the package it is known that it uses the CPU alone. */
export function asProgram(dir) {
  const given = process.env.CORRAL_TEST_LLAMA_SERVER;
  if (given) return given;
  const engines = path.join(root, 'build/test-shared/engines/llamacpp');
  const name = fs.existsSync(engines) && fs.readdirSync(engines).find((f) => f.startsWith('package-'));
  assert.ok(name, 'the package was fetched');
  const lib = path.join(engines, name, 'usr/lib/x86_64-linux-gnu');
  const backends = path.join(lib, 'ggml/backends0');
  const words = ['--inhibit-cache', '--argv0', 'llama-server', '--library-path', `${lib}:${lib}/llama`];
  const text = `#!/bin/sh
cd '${backends}' && exec ./llama-server ${words.join(' ')} '${engines}/${name}/usr/bin/llama-server' "$@"
`;
  const program = path.join(dir, 'llama-server');
  fs.writeFileSync(program, text, { mode: 0o755 });
  return program;
}

/** A pool of the fake engine as a program of the operator's; flags as fake-engine --help says. */
export function fakePool(id, flags = [], rest = {}) {
  const command = [
    fakePath,
    '--host',
    '{socket}',
    '--alias',
    '{id}',
    '-np',
    '{slots}',
    ...flags.map(String),
  ];
  return { id, engine: { kind: 'command', command }, ...rest };
}

/** A pool that takes the fake engine for llama-server (it then has /slots). */
export function fakeLlamaPool(id, flags = [], rest = {}) {
  return {
    id,
    model: model('random'),
    engine: { kind: 'llamacpp', mode: 'binary', path: fakePath, args: flags.map(String) },
    ...rest,
  };
}

/** The environment that makes the stub the NVIDIA driver, and the file that tells it what to say. */
export function stubDriver(...lines) {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'crl-gpu-'));
  const file = path.join(dir, 'control');
  const say = (...now) => {
    fs.writeFileSync(`${file}.new`, now.map((line) => `${line}\n`).join(''));
    fs.renameSync(`${file}.new`, file);
  };
  say(...lines);
  const library = path.join(path.dirname(fakePath), 'libnvidia-ml-stub.so');
  return { say, env: { CORRAL_NVML: library, CORRAL_NVML_STUB: file } };
}

// ---- processes -------------------------------------------------------------------------------------

function readProc(pid, name) {
  try {
    return fs.readFileSync(`/proc/${pid}/${name}`, 'latin1');
  } catch {
    return '';
  }
}

function statOf(pid) {
  const text = readProc(pid, 'stat');
  const rest = text.slice(text.lastIndexOf(')') + 2).split(' ');
  return text ? { state: rest[0], ppid: Number(rest[1]), threads: Number(rest[17]) } : null;
}

export const isAlive = (pid) => {
  const stat = statOf(pid);
  return stat !== null && stat.state !== 'Z' && stat.state !== 'X';
};

/** A keeper names its replica only, and its environment is empty; it holds a lock. */
const isKeeper = (pid) => /corral-keeper\0/.test(readProc(pid, 'cmdline'));

/** The files a process has open. */
export function opened(pid) {
  try {
    return fs.readdirSync(`/proc/${pid}/fd`).map((n) => readLink(`/proc/${pid}/fd/${n}`));
  } catch {
    return [];
  }
}

/**
 * Every live process whose command line, environment, working folder or lock names `dir`, the `pids`, and
 * what they started. One that is just ending, or begins to run another program, has no words in `argv`.
 */
export function processesOf(dir, pids = []) {
  const all = fs
    .readdirSync('/proc')
    .filter((n) => /^\d+$/.test(n))
    .map(Number)
    .map((pid) => ({ pid, stat: statOf(pid) }))
    .filter((p) => p.stat && !'ZX'.includes(p.stat.state) && p.pid !== process.pid);
  const mine = new Set(pids);
  for (const { pid } of all) {
    if (
      readProc(pid, 'cmdline').includes(dir) ||
      readProc(pid, 'environ').includes(dir) ||
      readLink(`/proc/${pid}/cwd`).startsWith(dir) ||
      (isKeeper(pid) && opened(pid).some((file) => file.startsWith(dir)))
    )
      mine.add(pid);
  }
  for (let grew = true; grew;) {
    grew = false;
    for (const { pid, stat } of all) {
      if (!mine.has(pid) && mine.has(stat.ppid)) grew = mine.add(pid) && true;
    }
  }
  return all
    .filter((p) => mine.has(p.pid))
    .map(({ pid, stat }) => ({
      pid,
      ppid: stat.ppid,
      threads: stat.threads,
      argv: readProc(pid, 'cmdline').split('\0').filter(Boolean),
      daemon: readLink(`/proc/${pid}/exe`) === fs.realpathSync(corralPath),
    }));
}

function readLink(name) {
  try {
    return fs.readlinkSync(name);
  } catch {
    return '';
  }
}

function fdCount(pid) {
  try {
    return fs.readdirSync(`/proc/${pid}/fd`).length;
  } catch {
    return 0;
  }
}

// ---- requests ----------------------------------------------------------------------------------------

/** One request on a connection of its own to a URL or to the path of a socket. */
export function send(to, method, target, { body, headers = {}, onData, signal } = {}) {
  return new Promise((resolve, reject) => {
    const url = to.startsWith('/') ? new URL(target, 'http://localhost') : new URL(target, to);
    const text =
      body === undefined
        ? undefined
        : typeof body === 'string' || Buffer.isBuffer(body)
          ? body
          : JSON.stringify(body);
    const type =
      text === undefined
        ? {}
        : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) };
    const req = http.request(
      url,
      {
        method,
        agent: false,
        signal,
        headers: { ...type, ...headers },
        ...(to.startsWith('/') && { socketPath: to }),
      },
      (res) => {
        const parts = [];
        const done = () => {
          const bytes = Buffer.concat(parts);
          const whole = bytes.toString();
          let json;
          try {
            json = JSON.parse(whole);
          } catch {
            /* not JSON */
          }
          resolve({
            status: res.statusCode,
            headers: res.headers,
            bytes,
            text: whole,
            json,
            complete: res.complete,
          });
        };
        res.on('data', (d) => {
          parts.push(d);
          onData?.(d, req, res);
        });
        res.on('end', done);
        res.on('error', done); // cut off: complete is false
      },
    );
    req.on('error', reject);
    req.end(text);
  });
}

// ---- one Corral ------------------------------------------------------------------------------------

export class Corral {
  #log = [];

  /** Folders and the configuration file, nothing started. config is an object; JSON is YAML. */
  constructor(config, { args = [], env = {}, wrap = () => [] } = {}) {
    this.dir = fs.mkdtempSync(path.join(os.tmpdir(), 'crl-'));
    this.stateDir = path.join(this.dir, 's');
    this.runtimeDir = path.join(this.dir, 'r');
    fs.mkdirSync(this.stateDir);
    fs.mkdirSync(this.runtimeDir, { mode: 0o700 });
    const engines = path.join(shared, 'engines');
    fs.mkdirSync(engines, { recursive: true });
    fs.symlinkSync(engines, path.join(this.stateDir, 'engines'));
    this.configFile = path.join(this.dir, 'corral.yaml');
    this.args = args;
    this.env = env;
    this.wrap = wrap; // gives the words before the program's name, for this.dir
    this.write(config);
  }

  write(config) {
    if (typeof config === 'string') return fs.writeFileSync(this.configFile, config);
    const whole = {
      listen: '127.0.0.1:0',
      state_dir: this.stateDir,
      runtime_dir: this.runtimeDir,
      workers: 2,
      log: { format: 'json', level: 'debug' },
      ...config,
    };
    return fs.writeFileSync(this.configFile, JSON.stringify(whole, null, 1));
  }

  #environment() {
    const clean = Object.fromEntries(
      Object.entries(process.env).filter(([k]) => !/^(CORRAL|XDG|FAKE)_|^NO_COLOR$/.test(k)),
    );
    // No GPU of this machine: a test that wants some brings a driver of its own (see driverEnv).
    return { ...clean, CORRAL_SYSFS: path.join(this.dir, 'no-sysfs'), ...this.env };
  }

  /** Starts `corral serve` and waits for its ready line. Throws with the log when it ends before. */
  async start() {
    const words = [...this.wrap(this), corralPath, 'serve', '--config', this.configFile];
    this.child = spawn(
      words[0],
      [...words.slice(1), '--ready-fd', '3', ...this.args],
      { stdio: ['ignore', 'pipe', 'pipe', 'pipe'], env: this.#environment(), cwd: this.dir },
    );
    this.exited = new Promise((resolve) =>
      this.child.once('exit', (code, signal) => resolve({ code, signal })),
    );
    for (const stream of [this.child.stdout, this.child.stderr])
      stream.on('data', (d) => this.#log.push(d));
    let line = '';
    const ready = new Promise((resolve) => {
      this.child.stdio[3].on('data', (d) => {
        if ((line += d).includes('\n')) resolve(true);
      });
    });
    const first = await withDeadline(Promise.race([ready, this.exited]), 'the ready line', 30000).catch(
      (e) => {
        this.kill();
        throw new Error(`${e.message}\n${this.log()}`);
      },
    );
    if (first !== true)
      throw new Error(`corral serve ended (${JSON.stringify(first)}) before it served:\n${this.log()}`);
    const told = JSON.parse(line);
    assert.equal(told.pid, this.child.pid, 'the ready line names the pid');
    this.url = Array.isArray(told.listen) ? told.listen[0] : told.listen;
    this.urls = told.all;
    this.pid = told.pid;
    return this;
  }

  log() {
    return Buffer.concat(this.#log).toString();
  }

  /** Runs another subcommand with this instance's configuration and socket. Never throws. */
  async cli(...args) {
    const env = { ...this.#environment(), CORRAL_CONFIG: this.configFile };
    const child = spawn(corralPath, args, { stdio: ['ignore', 'pipe', 'pipe'], env, cwd: this.dir });
    const out = [[], []];
    child.stdout.on('data', (d) => out[0].push(d));
    child.stderr.on('data', (d) => out[1].push(d));
    const code = await withDeadline(
      new Promise((resolve) => child.once('close', resolve)),
      `corral ${args.join(' ')}`,
    ).catch((e) => {
      child.kill('SIGKILL');
      throw e;
    });
    return { code, stdout: Buffer.concat(out[0]).toString(), stderr: Buffer.concat(out[1]).toString() };
  }

  // ---- requests; each on a connection of its own
  send(method, target, opts) {
    return send(this.url, method, target, opts);
  }

  get(target, opts) {
    return this.send('GET', target, opts);
  }
  post(target, body, opts = {}) {
    return this.send('POST', target, { body, ...opts });
  }
  chat(modelId, fields = {}, opts = {}) {
    return this.post(
      '/v1/chat/completions',
      { model: modelId, messages: [{ role: 'user', content: 'Hello' }], max_tokens: 8, ...fields },
      opts,
    );
  }

  async pool(id) {
    const { json } = await this.get(`/v1/pools/${id}`);
    return json;
  }
  /** The socket of the pool's first replica: where send() reaches the engine with no Corral between. */
  async socketOf(id) {
    return (await this.pool(id)).replicas[0].address.replace(/^unix:/, '');
  }
  /** A sample of /metrics: figure('corral_leases', {pool: 'a'}); undefined when it is not there. */
  async figures() {
    const { text } = await this.get('/metrics');
    return (name, labels = {}) => {
      const line = text
        .split('\n')
        .find(
          (l) =>
            (l.startsWith(`${name}{`) || l.startsWith(`${name} `)) &&
            Object.entries(labels).every(([k, v]) => l.includes(`${k}="${v}"`)),
        );
      return line && Number(line.split(' ').at(-1));
    };
  }
  ready(id, ms = 60000) {
    return until(
      () => `pool ${id} to be ready`,
      async () => (await this.get(`/v1/pools/${id}/health`)).json?.ready,
      ms,
    );
  }
  leases(id) {
    return this.get(`/v1/pools/${id}/health`).then(({ json }) => json.slots_total - json.slots_free);
  }

  // ---- processes
  processes() {
    return processesOf(this.dir, this.child?.pid ? [this.child.pid] : []);
  }
  /** Engine processes: neither the daemons nor a keeper. One that is ending has no program anymore: none. */
  engines() {
    return this.processes().filter((p) => {
      const program = readLink(`/proc/${p.pid}/exe`);
      return !p.daemon && program && ![p.argv[0] ?? '', program].some((w) => /corral-keeper$/.test(w));
    });
  }

  /** The engine of a pool: its command line names the pool or its replica. */
  engineOf(id) {
    const name = new RegExp(`^${id}(-\\d+)?$`);
    return this.engines().find((p) => p.argv.some((word) => name.test(word)));
  }

  counts() {
    const processes = this.processes();
    const daemons = processes.filter((p) => p.daemon);
    return {
      processes: processes.length,
      fds: daemons.reduce((sum, p) => sum + fdCount(p.pid), 0),
      threads: daemons.reduce((sum, p) => sum + p.threads, 0),
    };
  }

  /** Waits until nothing more is there than `before` counted; idle connections need some seconds to close. */
  async settled(before) {
    let now;
    const more = () =>
      Object.keys(before)
        .filter((k) => now[k] > before[k])
        .map((k) => `${k}: ${before[k]} before, ${now[k]} now`);
    await until(
      () => `what the test opened to be gone (${more().join(', ')})`,
      () => {
        now = this.counts();
        return more().length === 0;
      },
      15000,
    );
  }

  kill() {
    for (const p of this.processes()) {
      try {
        process.kill(p.pid, 'SIGKILL');
      } catch {
        /* gone */
      }
    }
  }

  /** SIGTERM; fails when anything of this instance lives on. */
  async stop() {
    if (this.child && this.child.exitCode === null && this.child.signalCode === null)
      this.child.kill('SIGTERM');
    const end = await withDeadline(this.exited, 'corral serve to end after SIGTERM', 30000);
    await until(
      () => `no process left: ${JSON.stringify(this.processes().map((p) => p.argv))}`,
      () => this.processes().length === 0,
      5000,
    );
    return end;
  }

  remove() {
    fs.rmSync(this.dir, { recursive: true, force: true });
  }
}

/**
 * A test body with a running Corral: starts it, warms the pools named, runs, checks for leaks, stops it,
 * and prints its log if anything of that failed.
 */
export function withCorral(config, body, { warm = [], leaks = true, ...opts } = {}) {
  return async (t) => {
    const corral = new Corral(typeof config === 'function' ? config() : config, opts);
    try {
      await corral.start();
      for (const id of warm) {
        const answer = await withDeadline(
          corral.chat(id, { max_tokens: 1 }),
          `the first answer of ${id}`,
          300000,
        );
        assert.equal(answer.status, 200, answer.text);
        await corral.ready(id);
      }
      const before = corral.counts();
      await body(corral, t);
      if (leaks) await corral.settled(before);
      const end = await corral.stop();
      assert.deepEqual(end, { code: 0, signal: null }, 'the end after SIGTERM is a clean one');
    } catch (error) {
      console.error(`---- log of the Corral of "${t?.name ?? ''}"\n${corral.log().slice(-20000)}\n----`);
      throw error;
    } finally {
      corral.kill();
      corral.remove();
    }
  };
}

/** The events of an SSE body: {event, data}, comments left out. */
export function sse(text) {
  return text
    .split(/\r?\n\r?\n/)
    .filter((block) => /^(data|event):/m.test(block))
    .map((block) => ({
      event: /^event: ?(.*)$/m.exec(block)?.[1],
      data: [...block.matchAll(/^data: ?(.*)$/gm)].map((m) => m[1]).join('\n'),
    }));
}
