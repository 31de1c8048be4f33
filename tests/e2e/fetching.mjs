// SPDX-License-Identifier: Apache-2.0
//
// The frame of the tests of corral-fetch: a folder and a hub, a job, and what became of it.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import crypto from 'node:crypto';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';

import { digestOf, sizeOf, startHub } from '../fakes/hub.mjs';
import { buildDir, fakePath, withDeadline } from './harness.mjs';

export const MIB = 1 << 20;
const program = path.join(buildDir, 'corral-fetch');
export const slow = Boolean(process.env.CORRAL_TEST_SLOW);

/** A folder and a hub of the test's own. */
export async function world(t, config = {}) {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'crl-fetch-'));
  const hub = await startHub(config);
  t.after(async () => {
    await hub.close();
    fs.chmodSync(dir, 0o755);
    fs.rmSync(dir, { recursive: true, force: true });
  });
  return { dir, hub, at: (name) => path.join(dir, name) };
}

/** Starts it. .lines: what it said; .done: {result, code, signal}; onLine is called for each. */
export function begin(job, { env = {}, wrap = [], onLine = () => {} } = {}) {
  const words = [...wrap, program];
  const child = spawn(words[0], words.slice(1), {
    stdio: ['pipe', 'pipe', 'inherit'],
    env: { PATH: process.env.PATH, ...env },
  });
  const lines = [];
  let rest = '';
  child.stdin.on('error', () => {});
  child.stdin.end(JSON.stringify(job));
  child.stdout.on('data', (data) => {
    const parts = (rest + data).split('\n');
    rest = parts.pop();
    for (const part of parts) {
      lines.push(JSON.parse(part));
      onLine(lines.at(-1));
    }
  });
  const done = new Promise((resolve) => {
    child.on('close', (code, signal) => resolve({ code, signal, result: lines.at(-1)?.result, lines }));
  });
  return { child, lines, done: withDeadline(done, 'corral-fetch', 120000) };
}

export async function fetchJob(job, options) {
  const { result, lines, code, signal } = await begin(job, options).done;
  assert.ok(result, `a result (code ${code}, signal ${signal})`);
  return { ...result, lines };
}

export const filesJob = (files, rest = {}) => ({ op: 'files', files, ...rest });

/** In pieces: a file may have more than a buffer may hold. */
export function sha(file) {
  const hash = crypto.createHash('sha256');
  const piece = Buffer.alloc(MIB);
  const fd = fs.openSync(file);
  for (let n; (n = fs.readSync(fd, piece)) > 0; ) hash.update(piece.subarray(0, n));
  fs.closeSync(fd);
  return hash.digest('hex');
}

/** The file is there as promised, and nothing beside it. */
export function assertWhole(dir, name, spec) {
  assert.equal(fs.statSync(path.join(dir, name)).size, sizeOf(spec));
  assert.equal(sha(path.join(dir, name)), digestOf(spec));
  assert.deepEqual(fs.readdirSync(dir), [name]);
}

/**
 * Kills a job at `most` of its changes of the disk, some by name, each in a folder of its own, and looks
 * at what the next run makes of it.
 */
export async function killedAtPoints(t, most, named, make, check) {
  const lib = path.join(path.dirname(fakePath), 'kill-at.so');
  const count = path.join(fs.mkdtempSync(path.join(os.tmpdir(), 'crl-count-')), 'n');
  t.after(() => fs.rmSync(path.dirname(count), { recursive: true }));
  const undisturbed = await begin(make('whole'), { env: { LD_PRELOAD: lib, KILL_COUNT: count } }).done;
  assert.equal(undisturbed.result.why, 'ok', undisturbed.result.error);
  const calls = Number(fs.readFileSync(count, 'utf8')); // the next run may have fewer
  const points = named.map((name) => ({ KILL_ON: name }));
  const left = most - named.length;
  const nth = (i) => String(1 + Math.floor((i * calls * 0.7) / left));
  for (let i = 0; i < left; i++) points.push({ KILL_AT: nth(i) });
  let killed = 0;
  for (const [i, point] of points.entries()) {
    const where = JSON.stringify(point);
    const cut = await begin(make(`p${i}`), { env: { LD_PRELOAD: lib, ...point } }).done;
    killed += cut.signal === 'SIGKILL';
    const got = await fetchJob(make(`p${i}`));
    check(`p${i}`, got, where);
  }
  t.diagnostic(`${killed} of ${points.length} runs were killed, of ${calls} points`);
  assert.ok(killed >= points.length * 0.7, `${killed} of ${points.length}`);
}
