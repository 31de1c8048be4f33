// SPDX-License-Identifier: Apache-2.0
//
// corral-fetch by itself, against the hub of tests/fakes: JSON in, JSON Lines out, files on the disk.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { test } from 'node:test';

import { digestOf, sizeOf } from '../fakes/hub.mjs';
import { MIB, assertWhole, fetchJob, filesJob, sha, world } from './fetching.mjs';

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

// ---- servers that misbehave ----------------------------------------------------------------------------

test('a connection reset with bytes on their way; a truncated answer; one that stalls', async (t) => {
  const size = 12 * MIB;
  const files = {
    '/rst': { size, seed: 'r', resetEvery: 5 * MIB, resets: 3, cut: 'rst' },
    '/short': { size, seed: 's', truncate: MIB, times: 3 },
    '/stall': { size, seed: 't', stall: { after: 2 * MIB, times: 2 } },
  };
  const { hub, at } = await world(t, { files });
  for (const [name, spec] of Object.entries(files)) {
    const file = { urls: [hub.url + name], to: at(name), sha256: digestOf(spec) };
    const got = await fetchJob(filesJob([file], { stall_ms: 300 }));
    assert.equal(got.why, 'ok', `${name}: ${got.error}`);
    assert.equal(sha(at(name)), digestOf(spec));
    if (name !== '/rst') assert.equal(hub.of(name).sent, size, name);
  }
});

test('no ranges: whole, also after cuts and behind what was there', async (t) => {
  const size = 10 * MIB;
  const spec = { size, seed: 'n', ranges: false, resetEvery: 12 * MIB, resets: 1 };
  const chunked = { size, seed: 'm', ranges: false, noLength: true };
  const { dir, hub, at } = await world(t, { files: { '/a': spec, '/b': chunked } });
  const got = await fetchJob(filesJob([{ urls: [`${hub.url}/a`], to: at('a') }]));
  assert.equal(got.why, 'ok', got.error);
  assertWhole(dir, 'a', spec);
  fs.rmSync(at('a'));
  const unsized = await fetchJob(filesJob([{ urls: [`${hub.url}/b`], to: at('b') }]));
  assert.equal(unsized.why, 'ok', unsized.error);
  assertWhole(dir, 'b', chunked);
});

test('a Content-Range that lies is not believed: whole without ranges, or an error', async (t) => {
  const size = 10 * MIB;
  const files = { '/a': { size, seed: 'l', wrongRange: true }, '/b': { size, seed: 'l', lieSize: size + 5 } };
  const { hub, at } = await world(t, { files });
  const a = await fetchJob(filesJob([{ urls: [`${hub.url}/a`], to: at('a') }]));
  assert.equal(a.why, 'ok', a.error);
  assert.equal(sha(at('a')), digestOf(files['/a']));
  const b = await fetchJob(filesJob([{ urls: [`${hub.url}/b`], to: at('b'), size }]));
  assert.equal(b.why, 'digest');
  assert.match(b.error, /10485765 bytes there, 10485760 were promised/);
  assert.equal(fs.existsSync(at('b')), false);
});

test('wrong bytes: an error with both digests, nothing stays; the next mirror is tried', async (t) => {
  const good = { size: 9 * MIB, seed: 'd' };
  const { dir, hub, at } = await world(t, { files: { '/bad': { ...good, corrupt: true }, '/good': good } });
  const sha256 = digestOf(good);
  const bad = await fetchJob(filesJob([{ urls: [`${hub.url}/bad`], to: at('a'), sha256 }]));
  assert.equal(bad.why, 'digest');
  assert.ok(bad.error.includes(sha256), bad.error);
  assert.deepEqual(fs.readdirSync(dir), []);
  const urls = [`${hub.url}/bad`, `${hub.url}/good`];
  const got = await fetchJob(filesJob([{ urls, to: at('a'), sha256 }]));
  assert.equal(got.why, 'ok', got.error);
  assertWhole(dir, 'a', good);
});

test('mirrors in turn; when none is left each is named, and the kind is theirs', async (t) => {
  const spec = { size: 9 * MIB, seed: 'm' };
  const config = { files: { '/ok': spec, '/half': { ...spec, truncate: 3 * MIB, status: 500, times: 1 } } };
  const { dir, hub, at } = await world(t, config);
  const none = 'http://127.0.0.1:1/x';
  const urls = [none, `${hub.url}/missing`, `${hub.url}/ok`];
  const got = await fetchJob(filesJob([{ urls, to: at('a'), sha256: digestOf(spec) }], { tries: 2 }));
  assert.equal(got.why, 'ok', got.error);
  assertWhole(dir, 'a', spec);
  const missing = await fetchJob(filesJob([{ urls: [`${hub.url}/m1`, `${hub.url}/m2`], to: at('b') }]));
  assert.equal(missing.why, 'missing');
  assert.match(missing.error, /none of 2 places has it: .*\/m1 answers 404.*\/m2 answers 404/);
  const mixed = await fetchJob(filesJob([{ urls: [none, `${hub.url}/m2`], to: at('b') }], { tries: 1 }));
  assert.equal(mixed.why, 'network');
});

test('too many requests: after the pause it asked for; until the tries ran out', async (t) => {
  const spec = { text: 'x' };
  const files = { '/a': { ...spec, busy: { times: 2, after: 0 } }, '/b': { ...spec, busy: { after: 0 } } };
  const { hub, at } = await world(t, { files });
  const a = await fetchJob(filesJob([{ urls: [`${hub.url}/a`], to: at('a') }]));
  assert.equal(a.why, 'ok', a.error);
  assert.equal(hub.of('/a').requests, 3);
  const b = await fetchJob(filesJob([{ urls: [`${hub.url}/b`], to: at('b') }], { tries: 3 }));
  assert.equal(b.why, 'busy');
  assert.equal(hub.of('/b').requests, 3);
});

test('gated: denied with the reason; a token goes to the first host alone', async (t) => {
  const spec = { size: 9 * MIB, seed: 'g' };
  const commit = 'c'.repeat(40);
  const repos = { 'org/m': { commit, gated: true, token: 'hf_secret', files: { 'm.gguf': spec } } };
  const { dir, hub, at } = await world(t, { repos });
  const url = `${hub.url}/org/m/resolve/${commit}/m.gguf`;
  const denied = await fetchJob(filesJob([{ urls: [url], to: at('a') }]));
  assert.equal(denied.why, 'denied');
  assert.match(denied.error, /answers 401.*restricted/);
  const headers = ['Authorization: Bearer hf_secret'];
  const got = await fetchJob(filesJob([{ urls: [url], headers, to: at('a'), sha256: digestOf(spec) }]));
  assert.equal(got.why, 'ok', got.error);
  assertWhole(dir, 'a', spec);
  const cdn = hub.requests.filter((r) => r.cdn);
  assert.ok(cdn.length >= 1);
  assert.ok(cdn.every((r) => r.headers.authorization === undefined));
  const first = hub.requests.filter((r) => !r.cdn && r.headers.authorization);
  assert.equal(first.length, 1, 'the redirect is asked for once');
});

test('a signed address that expires is asked for again', async (t) => {
  const spec = { size: 40 * MIB, seed: 'e', redirect: 'cdn', expires: 3 };
  const { dir, hub, at } = await world(t, { files: { '/a': spec } });
  const got = await fetchJob(filesJob([{ urls: [`${hub.url}/a`], to: at('a'), sha256: digestOf(spec) }]));
  assert.equal(got.why, 'ok', got.error);
  assertWhole(dir, 'a', spec);
  assert.ok(hub.signed > 1);
});

test('a file that changes is begun anew, and given up when it does not stop', async (t) => {
  const { hub, at } = await world(t, { files: { '/a': { size: 20 * MIB, seed: 'a', changes: true } } });
  const got = await fetchJob(filesJob([{ urls: [`${hub.url}/a`], to: at('a') }]));
  assert.equal(got.why, 'network');
  assert.match(got.error, /changes while it is fetched/);
  assert.equal(fs.existsSync(at('a')), false);
});

test('redirects in a ring end', async (t) => {
  const { hub, at } = await world(t, { files: { '/a': { text: '', redirect: '/a' } } });
  const got = await fetchJob(filesJob([{ urls: [`${hub.url}/a`], to: at('a') }], { tries: 1 }));
  assert.equal(got.why, 'network');
  assert.match(got.error, /more than 8 redirects/);
});

// ---- policy --------------------------------------------------------------------------------------------

test('the policy is looked at for every hop, and the line is named', async (t) => {
  const files = {
    '/a': { text: 'a' },
    '/to-evil': { text: '', redirect: 'https://evil.example.org/x?token=abc' },
    '/to-plain': { text: '', redirect: 'http://plain.example.org/x' },
    '/to-file': { text: '', redirect: 'file:///etc/hostname' },
  };
  const { hub, at } = await world(t, { files });
  const port = new URL(hub.url).port;
  const ask = async (where, policy) => {
    const got = await fetchJob(filesJob([{ urls: [hub.url + where], to: at('a') }], { policy, tries: 1 }));
    return `${got.why}: ${got.error}`;
  };
  assert.match(await ask('/a', { offline: true }), /^refused: .*network\.offline/);
  assert.match(await ask('/a', { deny: ['127.0.0.1'] }), /^refused: .*network\.deny: 127\.0\.0\.1/);
  assert.match(await ask('/a', { deny: [`127.0.0.1:${port}`] }), /^refused/);
  assert.match(await ask('/a', { allow_hosts: ['*.hf.co'] }), /^refused: .*network\.allow_hosts/);
  const evil = await ask('/to-evil', { deny: ['*.example.org'] });
  assert.match(evil, /^refused: .*evil\.example\.org.*network\.deny: \*\.example\.org/);
  assert.ok(!evil.includes('abc'), evil);
  assert.match(await ask('/to-evil', { allow_hosts: ['127.0.0.1'] }), /^refused: .*allow_hosts/);
  assert.match(await ask('/to-plain', {}), /^refused: .*network\.plain_http/);
  assert.match(await ask('/to-file', {}), /^network: .*not http/);
  assert.equal(fs.existsSync(at('a')), false);
  assert.match(await ask('/a', { allow_hosts: ['127.0.0.1'], deny: ['127.0.0.1:1'] }), /^ok/);
});

test('a proxy is used, and NO_PROXY; loopback never goes through one', async (t) => {
  const { hub, at } = await world(t, { files: { '/a': { text: 'a' } } });
  const env = { http_proxy: hub.url };
  const policy = { plain_http: true };
  const headers = ['Authorization: Bearer secret', 'X-Plain: 1'];
  const file = { urls: ['http://hub.example.org/a'], headers, to: at('a') };
  const got = await fetchJob(filesJob([file], { policy }), { env });
  assert.equal(got.why, 'ok', got.error);
  assert.deepEqual(hub.proxied, ['http://hub.example.org/a']);
  const seen = hub.requests[0].headers;
  assert.equal(seen.authorization, undefined, 'no credential in the clear');
  assert.equal(seen['x-plain'], '1');
  const direct = await fetchJob(filesJob([{ urls: [`${hub.url}/a`], to: at('b') }]), { env });
  assert.equal(direct.why, 'ok', direct.error);
  assert.equal(hub.proxied.length, 1);
  const not = { ...env, NO_PROXY: '.example.org' };
  const refused = await fetchJob(filesJob([{ ...file, to: at('c') }], { policy, tries: 1 }), { env: not });
  assert.equal(refused.why, 'network');
  assert.equal(hub.proxied.length, 1);
});

test('https: a CA of ones own; without it the certificate is refused with what to do', async (t) => {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'crl-ca-'));
  t.after(() => fs.rmSync(dir, { recursive: true }));
  const [key, cert] = ['key.pem', 'cert.pem'].map((n) => path.join(dir, n));
  const words = 'req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=hub';
  const rest = ['-addext', 'subjectAltName=IP:127.0.0.1', '-keyout', key, '-out', cert];
  execFileSync('openssl', [...words.split(' '), ...rest], { stdio: 'ignore' });
  const tls = { key: fs.readFileSync(key), cert: fs.readFileSync(cert) };
  const { hub, at } = await world(t, { tls, files: { '/a': { text: 'a' } } });
  const job = filesJob([{ urls: [`${hub.url}/a`], to: at('a') }], { tries: 1 });
  const no = await fetchJob(job);
  assert.equal(no.why, 'network');
  assert.match(no.error, /not trusted.*CORRAL_CA_FILE/);
  const yes = await fetchJob(job, { env: { SSL_CERT_FILE: cert } });
  assert.equal(yes.why, 'ok', yes.error);
  fs.rmSync(at('a'));
  const ours = await fetchJob(job, { env: { CORRAL_CA_FILE: cert, SSL_CERT_FILE: '/nonexistent' } });
  assert.equal(ours.why, 'ok', ours.error);
});

test('secrets are in no error: user, password, query', async (t) => {
  const { hub, at } = await world(t, { files: {} });
  const url = `${hub.url.replace('//', '//user:passw0rd@')}/x?sig=s3cret`;
  const headers = ['Authorization: Bearer t0ken'];
  const got = await fetchJob(filesJob([{ urls: [url], headers, to: at('a') }]));
  assert.equal(got.why, 'missing');
  const said = JSON.stringify(got);
  for (const word of ['passw0rd', 's3cret', 't0ken']) assert.ok(!said.includes(word), said);
});

// ---- documents, digests --------------------------------------------------------------------------------

test('a document: any status is an answer, with the headers of each hop', async (t) => {
  const spec = { size: MIB, seed: 'h' };
  const commit = 'a'.repeat(40);
  const { hub } = await world(t, {
    files: { '/busy': { text: 'yes', busy: { times: 1, after: 0 } } },
    repos: { 'org/m': { commit, files: { 'm.gguf': spec } } },
  });
  const ask = (where, rest = {}) => fetchJob({ op: 'text', files: [{ urls: [hub.url + where] }], ...rest });
  const api = await ask('/api/models/org/m/revision/main?blobs=true');
  assert.equal(api.status, 200);
  assert.equal(JSON.parse(api.text).siblings[0].lfs.sha256, digestOf(spec));
  const missing = await ask('/nothing');
  assert.deepEqual([missing.why, missing.status], ['ok', 404]);
  const head = await ask('/org/m/resolve/main/m.gguf', { method: 'HEAD' });
  assert.equal(head.status, 200);
  const lower = head.headers.map((h) => h.toLowerCase());
  assert.ok(lower.includes(`x-repo-commit: ${commit}`), lower.join('\n'));
  assert.ok(lower.includes(`x-linked-etag: "${digestOf(spec)}"`));
  const busy = await ask('/busy');
  assert.deepEqual([busy.status, busy.text], [200, 'yes']);
});

test('digests of what lies there: all are told, the first that is wrong is the error', async (t) => {
  const { at } = await world(t);
  fs.writeFileSync(at('a'), 'hello');
  fs.writeFileSync(at('b'), 'hello');
  const sha256 = digestOf({ text: 'hello' });
  const files = [
    { to: at('a'), sha256: sha256.replace(/./, (c) => (c === '0' ? '1' : '0')) },
    { to: at('b'), sha256 },
    { to: at('c') },
  ];
  const got = await fetchJob({ op: 'hash', files });
  assert.equal(got.why, 'digest');
  assert.deepEqual(got.files.map((f) => f.sha256), [sha256, sha256, '']);
  assert.equal((await fetchJob({ op: 'hash', files: files.slice(1, 2) })).why, 'ok');
  assert.equal((await fetchJob({ op: 'hash', files: files.slice(2) })).why, 'missing');
});

// ---- rate, room, what cannot be written ----------------------------------------------------------------

test('a rate holds over all connections', async (t) => {
  const spec = { size: 12 * MIB, seed: 'v' };
  const { dir, hub, at } = await world(t, { files: { '/a': spec } });
  const job = filesJob([{ urls: [`${hub.url}/a`], to: at('a') }], { rate: 16 * MIB });
  const rates = [];
  const got = await fetchJob(job, { onLine: (l) => l.progress && rates.push(l.progress.rate) });
  assert.equal(got.why, 'ok', got.error);
  assertWhole(dir, 'a', spec);
  assert.ok(rates.length > 2 && rates.every((r) => r < 24 * MIB), rates.join(' '));
});

test('no room: refused before the first byte, nothing left behind', async (t) => {
  const spec = { size: MIB, seed: 'r' };
  const { dir, hub, at } = await world(t, { files: { '/a': spec } });
  for (const size of [MIB, 0]) {
    const job = filesJob([{ urls: [`${hub.url}/a`], to: at('a'), size }], { headroom: 2 ** 52 });
    const got = await fetchJob(job);
    assert.equal(got.why, 'disk');
    assert.match(got.error, /no room in .*: 1.0 MiB are needed and 4.0 PiB must stay free, .* are free;/);
    assert.deepEqual(fs.readdirSync(dir), []);
    assert.equal(hub.of('/a').requests, size ? 0 : 1); // it must be asked how large it is
  }
});

test('a bound of all files together: held where a size is told, else when so many came', async (t) => {
  const spec = { size: MIB, seed: 'q' };
  const files = { '/a': spec, '/b': spec, '/c': { ...spec, ranges: false, noLength: true } };
  const { dir, hub, at } = await world(t, { files });
  const job = (names, room) =>
    filesJob(names.map((name) => ({ urls: [`${hub.url}/${name}`], to: at(name) })), { room });
  for (const names of [['a'], ['c'], ['a', 'b'], ['a', 'c']]) {
    const got = await fetchJob(job(names, names.length * MIB - 1));
    assert.equal(got.why, 'disk', names.join());
    assert.match(got.error, /models_quota leaves/);
    for (const name of fs.readdirSync(dir)) fs.rmSync(at(name)); // one of two may have come before
  }
  assert.equal((await fetchJob(job(['a', 'c'], 2 * MIB))).why, 'ok');
  assert.equal((await fetchJob(job(['a', 'c'], 1))).why, 'ok', 'nothing is to come');
  assert.equal((await fetchJob(job(['a', 'b'], 2 * MIB - 1))).why, 'disk', 'what came before counts');
});

const needsRoot = { skip: process.getuid() !== 0 && 'needs root' };

test('a disk that is full: one clear message, nothing left behind', needsRoot, async (t) => {
  const spec = { size: 6 * MIB, seed: 'full' };
  const files = { '/a': spec, '/b': { ...spec, ranges: false, noLength: true } };
  const { hub, at } = await world(t, { files });
  const dir = at('small');
  fs.mkdirSync(dir);
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=4m', 'tmpfs', dir]);
  try {
    for (const name of ['a', 'b']) {
      const got = await fetchJob(filesJob([{ urls: [`${hub.url}/${name}`], to: `${dir}/${name}` }]));
      assert.equal(got.why, 'disk');
      assert.match(got.error, /no room in .*MiB are needed|the disk is full; make room/);
      assert.deepEqual(fs.readdirSync(dir), []);
    }
    execFileSync('mount', ['-o', 'remount,ro', dir]);
    const got = await fetchJob(filesJob([{ urls: [`${hub.url}/a`], to: `${dir}/a` }]));
    assert.equal(got.why, 'disk');
    assert.match(got.error, /read-only; name a folder you may write to/);
  } finally {
    execFileSync('umount', [dir]);
  }
});

test('no network at all: said so', needsRoot, async (t) => {
  const { dir, at } = await world(t);
  const job = filesJob([{ urls: ['https://example.org/a'], to: at('a') }], { tries: 1 });
  const got = await fetchJob(job, { wrap: ['unshare', '-n'] });
  assert.equal(got.why, 'network');
  assert.match(got.error, /https:\/\/example\.org\/a: .*(resolve|reach|connect)/i);
  assert.deepEqual(fs.readdirSync(dir), []);
});

test('what lies there and is another file is replaced; a folder is not', async (t) => {
  const spec = { text: 'new' };
  const { hub, at } = await world(t, { files: { '/a': spec } });
  fs.writeFileSync(at('a'), 'old');
  const got = await fetchJob(filesJob([{ urls: [`${hub.url}/a`], to: at('a'), sha256: digestOf(spec) }]));
  assert.equal(got.why, 'ok', got.error);
  assert.equal(fs.readFileSync(at('a'), 'utf8'), 'new');
  fs.mkdirSync(at('d'));
  const no = await fetchJob(filesJob([{ urls: [`${hub.url}/a`], to: at('d') }]));
  assert.equal(no.why, 'disk');
});

test('many files at once, some there, one that is missing ends the job', async (t) => {
  const files = {};
  for (let i = 0; i < 40; i++) files[`/f${i}`] = { size: 10000 + i, seed: i };
  const { hub, at } = await world(t, { files });
  const wanted = Object.keys(files).map((n) => ({ urls: [hub.url + n], to: at(n.slice(1)) }));
  const got = await fetchJob(filesJob(wanted));
  assert.equal(got.why, 'ok', got.error);
  assert.ok(hub.connections <= 4);
  for (const [name, spec] of Object.entries(files)) assert.equal(sha(at(name.slice(1))), digestOf(spec));
  const bad = await fetchJob(filesJob([...wanted, { urls: [`${hub.url}/no`], to: at('no') }]));
  assert.equal(bad.why, 'missing');
  assert.equal(fs.existsSync(at('no.part')), false);
});
