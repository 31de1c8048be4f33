// SPDX-License-Identifier: Apache-2.0
//
// corral-fetch unpacks archives.

import assert from 'node:assert/strict';
import fs from 'node:fs';
import { test } from 'node:test';

import { archive } from './archives.mjs';
import { fetchJob, killedAtPoints, slow, world } from './fetching.mjs';

const unpackJob = (file, into, rest = {}) => ({ op: 'unpack', files: [{ to: file }], into, ...rest });

test('archives of each kind are unpacked, with links inside and no setuid', async (t) => {
  const { dir, at } = await world(t);
  const members = [
    ['top/', 'dir'],
    ['top/bin/run', 'file', 'program', 0o6755],
    ['top/lib/x.so.1', 'file', 'library'],
    ['top/lib/x.so', 'link', 'x.so.1'],
    ['top/bin/lib', 'link', '../lib/x.so'],
  ];
  for (const kind of ['tar', 'tar.gz', 'tar.xz', 'tar.bz2', 'zip']) {
    const file = archive(at(`a.${kind}`), kind === 'zip' ? members.slice(1) : members);
    const got = await fetchJob(unpackJob(file, at('into'), { strip: 1 }));
    assert.equal(got.why, 'ok', `${kind}: ${got.error}`);
    assert.equal(fs.readFileSync(at('into/bin/run'), 'utf8'), 'program');
    assert.equal(fs.statSync(at('into/bin/run')).mode & 0o7777, 0o755);
    assert.equal(fs.readFileSync(at('into/bin/lib'), 'utf8'), 'library');
    assert.equal((await fetchJob(unpackJob(file, at('into')))).why, 'input', 'it is there');
    fs.rmSync(at('into'), { recursive: true });
    fs.rmSync(file);
  }
  assert.deepEqual(fs.readdirSync(dir), []);
});

test('what leads out of the folder, or is no file, is refused; nothing is left', async (t) => {
  const { dir, at } = await world(t);
  const bad = {
    'an absolute name': [['/etc/evil']],
    'a step up': [['a/../../evil']],
    'an absolute link': [['l', 'link', '/etc']],
    'a link out': [['a/l', 'link', '../../x']],
    'a link out by a link': [['s/d', 'link', '.'], ['l', 'link', 's/d/../../x']],
    'through a link': [['d/', 'dir'], ['l', 'link', 'd'], ['l/x']],
    'a hard link out': [['h', 'hard', '../../etc/passwd']],
    'a hard link to a link': [['l', 'link', 'x'], ['h', 'hard', 'l']],
    'a pipe': [['p', 'fifo']],
    'a device': [['c', 'char']],
    'a file where a folder is': [['a/b'], ['a', 'file']],
  };
  for (const [what, members] of Object.entries(bad)) {
    const got = await fetchJob(unpackJob(archive(at('a.tar.gz'), members), at('into')));
    assert.ok(['archive'].includes(got.why), `${what}: ${got.why} ${got.error}`);
    assert.match(got.error, /member ".*"/, what);
    assert.deepEqual(fs.readdirSync(dir), ['a.tar.gz'], what);
  }
  const zip = archive(at('a.zip'), [['../evil'], ['ok']]);
  assert.equal((await fetchJob(unpackJob(zip, at('into')))).why, 'archive');
});

test('bounds of an archive, broken ones, and one that is killed at any point', async (t) => {
  const { dir, at } = await world(t);
  const members = [['big', 'file', 'x'.repeat(100000)], ['d/small'], ['l', 'link', 'big']];
  const file = archive(at('a.tar.gz'), members);
  const over = await fetchJob(unpackJob(file, at('into'), { unpack_max: 50000 }));
  assert.equal(over.why, 'archive');
  assert.match(over.error, /holds more than 48.8 KiB/);
  const bytes = fs.readFileSync(file);
  fs.writeFileSync(at('cut.tar.gz'), bytes.subarray(0, bytes.length - 60));
  const broken = await fetchJob(unpackJob(at('cut.tar.gz'), at('into')));
  assert.equal(broken.why, 'archive');
  fs.writeFileSync(at('cut.tar.gz'), 'this is no archive at all');
  assert.equal((await fetchJob(unpackJob(at('cut.tar.gz'), at('into')))).why, 'archive');
  fs.rmSync(at('cut.tar.gz'));
  assert.deepEqual(fs.readdirSync(dir), ['a.tar.gz']);
  const named = ['flock:1', 'mkdirat:1', 'symlinkat:1', 'syncfs:1', 'renameat2:1', 'fsync:1'];
  await killedAtPoints(t, slow ? 14 : 8, named, (name) => unpackJob(file, at(name)), (name, got, where) => {
    if (got.why !== 'ok') assert.match(got.error, /is there already/, where); // it was past its rename
    assert.equal(fs.readFileSync(at(`${name}/big`), 'utf8').length, 100000, where);
    assert.deepEqual(fs.readdirSync(at(name)).sort(), ['big', 'd', 'l'], where);
    assert.equal(fs.existsSync(at(`${name}.part`)), false, where);
  });
});
