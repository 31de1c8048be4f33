// SPDX-License-Identifier: Apache-2.0
//
// corral-fetch by itself, against the hub of tests/fakes: JSON in, JSON Lines out, files on the disk.

import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import crypto from 'node:crypto';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { test } from 'node:test';

import { contentOf, digestOf, sizeOf, startHub } from '../fakes/hub.mjs';
import { buildDir, deadlineMs, withDeadline } from './harness.mjs';

const MIB = 1 << 20;
const program = path.join(buildDir, 'corral-fetch');
const slow = Boolean(process.env.CORRAL_TEST_SLOW);

/** A folder and a hub of the test's own. */
async function world(t, config = {}) {
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
function begin(job, { env = {}, wrap = [], onLine = () => {} } = {}) {
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

async function fetchJob(job, options) {
  const { result, lines, code, signal } = await begin(job, options).done;
  assert.ok(result, `a result (code ${code}, signal ${signal})`);
  return { ...result, lines };
}

const filesJob = (files, rest = {}) => ({ op: 'files', files, ...rest });
const sha = (file) => crypto.createHash('sha256').update(fs.readFileSync(file)).digest('hex');

/** The file is there as promised, and nothing beside it. */
function assertWhole(dir, name, spec) {
  assert.equal(fs.statSync(path.join(dir, name)).size, sizeOf(spec));
  assert.equal(sha(path.join(dir, name)), digestOf(spec));
  assert.deepEqual(fs.readdirSync(dir), [name]);
}

test('a small file, with its folder, mode and digest; the second time nothing is asked for', async (t) => {
  const spec = { text: 'hello' };
  const { dir, hub, at } = await world(t, { files: { '/a': spec } });
  const file = { urls: [`${hub.url}/a`], to: at('x/y/a'), mode: 0o600 };
  const first = await fetchJob(filesJob([file]));
  assert.equal(first.why, 'ok', first.error);
  assert.deepEqual(first.files, [
    { path: at('x/y/a'), sha256: digestOf(spec), size: 5, bytes_fetched: 5, was_there: false },
  ]);
  assert.equal(fs.readFileSync(at('x/y/a'), 'utf8'), 'hello');
  assert.equal(fs.statSync(at('x/y/a')).mode & 0o777, 0o600);
  assert.deepEqual(fs.readdirSync(path.join(dir, 'x/y')), ['a']);
  const again = await fetchJob(filesJob([{ ...file, sha256: digestOf(spec) }]));
  assert.equal(again.files[0].was_there, true);
  assert.equal(hub.of('/a').requests, 1);
});

test('an empty file, with and without ranges', async (t) => {
  const spec = { text: '' };
  const { at, hub } = await world(t, { files: { '/a': spec, '/b': { ...spec, ranges: false } } });
  const jobs = ['a', 'b'].map((n) => ({ urls: [`${hub.url}/${n}`], to: at(n) }));
  const got = await fetchJob(filesJob(jobs));
  assert.equal(got.why, 'ok', got.error);
  assert.deepEqual(got.files.map((f) => f.size), [0, 0]);
});

test('a large file in parallel ranges: every byte once, in few connections', async (t) => {
  const spec = { size: 48 * MIB + 123, seed: 'p' };
  const { dir, hub, at } = await world(t, { files: { '/a': spec } });
  const got = await fetchJob(filesJob([{ urls: [`${hub.url}/a`], to: at('a'), sha256: digestOf(spec) }]));
  assert.equal(got.why, 'ok', got.error);
  assertWhole(dir, 'a', spec);
  assert.equal(hub.of('/a').sent, sizeOf(spec));
  assert.ok(hub.of('/a').asked.length > 4);
  assert.ok(hub.connections <= 4, `${hub.connections} connections`);
});

test('cuts in the middle: it goes on where it was', async (t) => {
  const spec = { size: 40 * MIB, seed: 'c', resetEvery: 3 * MIB + 7 };
  const { dir, hub, at } = await world(t, { files: { '/a': spec } });
  const got = await fetchJob(filesJob([{ urls: [`${hub.url}/a`], to: at('a'), sha256: digestOf(spec) }]));
  assert.equal(got.why, 'ok', got.error);
  assertWhole(dir, 'a', spec);
  assert.ok(hub.of('/a').cuts >= 10);
  assert.equal(hub.of('/a').sent, sizeOf(spec));
});
