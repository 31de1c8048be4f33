// SPDX-License-Identifier: Apache-2.0
//
// A server of files that plays the hub, its CDN, and everything that goes wrong between them. In a test:
//
//   const hub = await startHub({ files: { '/a.bin': { size: 1 << 20 } } });
//   … hub.url, hub.cdn, hub.of('/a.bin').sent … await hub.close();
//
// As a process: node tests/fakes/hub.mjs CONFIG.json (- reads standard input) prints one line of JSON,
// {"url": …, "cdn": …}, and serves until it is ended; with --while-stdin until its standard input ends.
// Over HTTP it has GET /__stats, POST /__config (what is given replaces those keys), POST /__reset.
//
// config.files['/path']: what is there. Contents: text, base64, file (a path on the disk), or size with
// seed (bytes that follow from both: contentOf, digestOf). Faults, each may be left out:
//   ranges: false        the whole file for every request
//   wrongRange           true: a Content-Range that lies, 'short': that says half
//   gated: 401 | 403     unless `token` came as a Bearer
//   token                asked for (401 without)
//   busy: {times, after} 429 (or `status`) with Retry-After: `after`
//   status: N            an error, for ever or `times`
//   resetEvery: N        the connection is cut when N more bytes of this file were sent, `resets` times
//                        at most; cut: 'fin' (all arrive, the default) or 'rst' (what is on its way is lost)
//   truncate: N          no answer is longer than N bytes, whatever its head says; `times`
//   stall: {after, times} nothing more comes after so many bytes; the connection stays open
//   slow: N              bytes a second, over all connections
//   hold: true           nothing, until POST /__go
//   corrupt: true        a byte of it is another one
//   changes: true        another ETag for each request
//   noLength: true       chunked, without Content-Length
//   lieSize: N           what ranges say the size is
//   redirect             'cdn' or a URL; status 302, or `redirectStatus`
//   etag                 instead of the computed one; null: none
//   expires: N           the CDN's address is worth N requests, then 403
// config.repos['org/name']: { commit, files: {NAME: as above}, gated, token, lfs: [NAME] } is served as the
//   hub does: /api/models/org/name[/revision/REV], /org/name/resolve/REV/NAME with a redirect to the CDN.
// config.tls: {cert, key} (PEM): https. Absolute URLs and CONNECT (a proxy) are taken, to ourselves.
//
// More registries are more rows of `routes`: (request, answer, hub) => true when it was theirs.

import crypto from 'node:crypto';
import fs from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import net from 'node:net';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

// ---- contents ---------------------------------------------------------------------------------------------

const BLOCK = 1 << 20;
const blocks = new Map();

function blockOf(seed) {
  if (!blocks.has(seed)) {
    const key = crypto.createHash('sha256').update(String(seed)).digest();
    const cipher = crypto.createCipheriv('aes-256-ctr', key, Buffer.alloc(16));
    blocks.set(seed, cipher.update(Buffer.alloc(BLOCK)));
  }
  return blocks.get(seed);
}

const fixed = (spec) =>
  spec.text !== undefined ? Buffer.from(spec.text) : Buffer.from(spec.base64 ?? '', 'base64');

export function sizeOf(spec) {
  if (spec.file) return fs.statSync(spec.file).size;
  return spec.size !== undefined ? spec.size : fixed(spec).length;
}

/** Bytes [from, to) of what a file's spec stands for. */
export function contentOf(spec, from = 0, to = sizeOf(spec)) {
  if (spec.file) {
    const out = Buffer.alloc(to - from);
    const fd = fs.openSync(spec.file, 'r');
    fs.readSync(fd, out, 0, to - from, from);
    fs.closeSync(fd);
    return out;
  }
  if (spec.size === undefined) return fixed(spec).subarray(from, to);
  const parts = [];
  for (let at = from; at < to;) {
    const index = Math.floor(at / BLOCK);
    const block = Buffer.from(blockOf(spec.seed ?? ''));
    block.writeUInt32LE(index, 0);
    const end = Math.min(to, (index + 1) * BLOCK);
    parts.push(block.subarray(at - index * BLOCK, end - index * BLOCK));
    at = end;
  }
  return parts.length === 1 ? parts[0] : Buffer.concat(parts);
}

/** SHA-256 of it, or another digest. */
export function digestOf(spec, kind = 'sha256') {
  const hash = crypto.createHash(kind);
  const size = sizeOf(spec);
  for (let at = 0; at < size; at += BLOCK) hash.update(contentOf(spec, at, Math.min(size, at + BLOCK)));
  return hash.digest('hex');
}

const digests = new WeakMap();
const digestKept = (spec) => {
  if (!digests.has(spec)) digests.set(spec, digestOf(spec));
  return digests.get(spec);
};
const gitDigest = (spec) => {
  const header = Buffer.from(`blob ${sizeOf(spec)}\0`);
  return crypto.createHash('sha1').update(header).update(contentOf(spec)).digest('hex');
};

// ---- one file over HTTP -----------------------------------------------------------------------------------

/** What is counted of a path. asked: [from, to) of every request that was served; sent: bytes. */
function countsOf(hub, where) {
  hub.counts[where] ??= { requests: 0, sent: 0, cuts: 0, asked: [], statuses: {}, authorized: 0 };
  return hub.counts[where];
}

export function answer(res, status, headers = {}, body = '') {
  const text = typeof body === 'string' || Buffer.isBuffer(body) ? body : JSON.stringify(body);
  const data = Buffer.from(text);
  res.writeHead(status, { 'Content-Length': data.length, ...headers });
  res.end(res.req.method === 'HEAD' ? undefined : data);
  return true;
}

const bearer = (req) => /^Bearer (.*)$/.exec(req.headers.authorization ?? '')?.[1];
const spend = (state, key, limit) => {
  state[key] ??= 0;
  return state[key] < (limit ?? Infinity) && ++state[key] > 0;
};

/** Faults that answer instead of the file. */
function refused(req, res, spec, state) {
  if ((spec.gated || spec.token) && (!spec.token || bearer(req) !== spec.token)) {
    const headers = spec.gated === 403 ? { 'X-Error-Code': 'GatedRepo' } : {};
    return answer(res, spec.gated ?? 401, headers, { error: 'Access to it is restricted' });
  }
  if (spec.busy && spend(state, 'busy', spec.busy.times))
    return answer(res, spec.busy.status ?? 429, { 'Retry-After': String(spec.busy.after ?? 0) }, 'busy');
  if (spec.status && spend(state, 'errors', spec.times)) return answer(res, spec.status, {}, 'an error');
  if (spec.expires !== undefined && /[?&]sig=/.test(req.url)) {
    const sig = /[?&]sig=(\d+)/.exec(req.url)[1];
    if (!spend(state, `sig${sig}`, spec.expires)) return answer(res, 403, {}, 'expired');
  }
  return false;
}

/** [from, to) of the request, or null where the whole is wanted; 'bad' for what is not there. */
function rangeOf(req, size, etag) {
  const m = /^bytes=(\d+)-(\d*)$/.exec(req.headers.range ?? '');
  const still = req.headers['if-range'];
  if (!m || (still && still !== etag)) return null;
  const from = Number(m[1]);
  const to = Math.min(size, m[2] === '' ? size : Number(m[2]) + 1);
  return from >= size || from >= to ? 'bad' : [from, to];
}

function cut(res, how) {
  const { socket } = res;
  if (!socket) return;
  if (how === 'rst') socket.resetAndDestroy();
  else socket.end();
}

/** Waits for what `slow` allows: a bucket of a tenth of a second. */
function allowance(hub, state, rate, n) {
  const now = performance.now();
  state.next = Math.max(state.next ?? now, now) + (n * 1000) / rate;
  return new Promise((resolve) => hub.timers.add(setTimeout(resolve, state.next - now)));
}

/** How many bytes may be sent before the next fault, at most n. */
function beforeFault(spec, state, counts, done, n) {
  let most = n;
  let fault = null;
  const consider = (left, what) => {
    if (left <= most) [most, fault] = [left, what];
  };
  if (spec.resetEvery && (state.resets ?? 0) < (spec.resets ?? Infinity))
    consider((state.resetAt ??= spec.resetEvery) - counts.sent, 'reset');
  if (spec.truncate !== undefined && (state.truncated ?? 0) < (spec.times ?? Infinity))
    consider(spec.truncate - done, 'truncate');
  if (spec.stall && (state.stalls ?? 0) < (spec.stall.times ?? Infinity))
    consider(spec.stall.after - done, 'stall');
  return [Math.max(0, most), fault];
}

function happen(fault, spec, state, counts, res) {
  if (fault === 'reset') {
    state.resets = (state.resets ?? 0) + 1;
    state.resetAt = counts.sent + spec.resetEvery;
  }
  if (fault === 'truncate') state.truncated = (state.truncated ?? 0) + 1;
  if (fault === 'stall') {
    state.stalls = (state.stalls ?? 0) + 1;
    return;
  }
  counts.cuts++;
  cut(res, spec.cut);
}

async function sendBody(hub, res, spec, state, counts, [from, to]) {
  hub.peak = Math.max(hub.peak ?? 0, (hub.underWay = (hub.underWay ?? 0) + 1));
  res.on('close', () => hub.underWay--);
  const piece = spec.slow ? Math.max(1024, Math.min(65536, spec.slow >> 4)) : 256 * 1024;
  for (let at = from; at < to;) {
    if (res.destroyed || res.socket?.destroyed) return;
    const want = Math.min(piece, to - at);
    const [n, fault] = beforeFault(spec, state, counts, at - from, want);
    if (spec.slow) await allowance(hub, state, spec.slow, n);
    if (n) {
      const data = Buffer.from(contentOf(spec, at, at + n));
      if (spec.corrupt && at === 0) data[0] ^= 1;
      counts.sent += n; // before it is known to have gone: two connections must not share a fault's bytes
      await new Promise((resolve) => res.write(data, resolve));
      at += n;
    }
    if (fault && n < want + 1 && (n < want || fault === 'reset' || at < to))
      return happen(fault, spec, state, counts, res);
  }
  res.end();
}

function headOf(spec, state, size, range, etag) {
  const headers = { 'Accept-Ranges': spec.ranges === false ? 'none' : 'bytes', ...spec.headers };
  if (etag) headers.ETag = etag;
  const [from, to] = range ?? [0, size];
  if (!spec.noLength) headers['Content-Length'] = to - from;
  if (range) {
    const shift = spec.wrongRange === true ? 1 : 0;
    const last = spec.wrongRange === 'short' ? from + Math.floor((to - from) / 2) : to - 1;
    headers['Content-Range'] = `bytes ${from + shift}-${last + shift}/${spec.lieSize ?? size}`;
  }
  return headers;
}

/** Serves one spec at `where` (the name it is counted under). For routes of other registries too. */
export async function serveFile(hub, req, res, spec, where) {
  const counts = countsOf(hub, where);
  const state = (hub.states[where] ??= {});
  counts.requests++;
  if (req.headers.authorization) counts.authorized++;
  res.on('finish', () => (counts.statuses[res.statusCode] = (counts.statuses[res.statusCode] ?? 0) + 1));
  if (refused(req, res, spec, state)) return true;
  if (spec.redirect && !req.onCdn) return redirect(hub, req, res, spec, where);
  if (spec.hold) await hub.gone();
  const size = sizeOf(spec);
  const tag = spec.etag ?? (spec.changes ? `c${counts.requests}` : `${size}-${spec.seed ?? ''}`);
  const etag = spec.etag === null ? undefined : `"${tag}"`;
  const range = spec.ranges === false ? null : rangeOf(req, size, etag);
  if (range === 'bad') return answer(res, 416, { 'Content-Range': `bytes */${size}` });
  const head = headOf(spec, state, size, range, etag);
  res.writeHead(range ? 206 : 200, head);
  if (req.method === 'HEAD') return res.end();
  counts.asked.push(range ?? [0, size]);
  await sendBody(hub, res, spec, state, counts, range ?? [0, size]);
  return true;
}

function redirect(hub, req, res, spec, where) {
  hub.signed++;
  const to = spec.redirect === 'cdn' ? `${hub.cdn}/cdn${where}?sig=${hub.signed}` : spec.redirect;
  return answer(res, spec.redirectStatus ?? 302, { Location: to, ...spec.redirectHeaders });
}

// ---- routes -----------------------------------------------------------------------------------------------

function plainFiles(req, res, hub) {
  const where = req.onCdn ? req.path.replace(/^\/cdn/, '') : req.path;
  const spec = hub.config.files?.[where] ?? hub.cdnFiles[where];
  if (!spec) return false;
  serveFile(hub, req, res, spec, where);
  return true;
}

const isLfs = (repo, name) => (repo.lfs ? repo.lfs.includes(name) : /\.(gguf|safetensors|bin)$/.test(name));

function hubApi(req, res, hub) {
  const m = /^\/api\/models\/([^/]+\/[^/]+)(?:\/revision\/([^/]+))?$/.exec(req.path);
  if (!m) return false;
  const counts = countsOf(hub, req.path);
  counts.requests++;
  const repo = hub.config.repos?.[m[1]];
  if (!repo) return answer(res, 401, {}, { error: 'Repository not found' });
  if (repo.token && bearer(req) !== repo.token && !repo.gated)
    return answer(res, 401, {}, { error: 'Invalid username or password.' });
  if (repo.busy && spend((hub.states[req.path] ??= {}), 'busy', repo.busy.times))
    return answer(res, 429, { 'Retry-After': String(repo.busy.after ?? 0) }, 'busy');
  const known = [undefined, 'main', repo.commit, ...(repo.revisions ?? [])];
  if (!known.includes(m[2]))
    return answer(res, 404, { 'X-Error-Code': 'RevisionNotFound' }, { error: `Invalid rev id: ${m[2]}` });
  const blobs = new URL(req.url, hub.url).searchParams.get('blobs');
  const siblings = Object.entries(repo.files).map(([rfilename, spec]) => {
    if (!blobs) return { rfilename };
    const size = sizeOf(spec);
    if (!isLfs(repo, rfilename)) return { rfilename, size, blobId: gitDigest(spec) };
    const sha256 = spec.sha256 ?? digestKept(spec);
    return { rfilename, size, blobId: sha256.slice(0, 40), lfs: { sha256, size, pointerSize: 135 } };
  });
  const about = { id: m[1], modelId: m[1], private: false, gated: repo.gated ? 'manual' : false };
  return answer(res, 200, { 'Content-Type': 'application/json' }, { ...about, sha: repo.commit, siblings });
}

function hubResolve(req, res, hub) {
  const m = /^\/([^/]+\/[^/]+)\/resolve\/([^/]+)\/(.+)$/.exec(req.path);
  const repo = m && hub.config.repos?.[m[1]];
  if (!repo) return false;
  countsOf(hub, req.path).requests++;
  if (repo.token && bearer(req) !== repo.token) {
    const code = repo.gated ? 'GatedRepo' : 'RepoNotFound';
    const text = repo.gated
      ? `Access to model ${m[1]} is restricted. You must have access to it and be authenticated to access it.`
      : 'Repository not found';
    const headers = { 'X-Error-Code': code, 'X-Error-Message': text };
    return answer(res, repo.gated && bearer(req) ? 403 : 401, headers, text);
  }
  const spec = repo.files[m[3]];
  const commit = { 'X-Repo-Commit': repo.commit };
  if (!spec) return answer(res, 404, { 'X-Error-Code': 'EntryNotFound', ...commit }, 'Entry not found');
  const where = `/${m[1]}/${m[3]}`;
  if (!isLfs(repo, m[3])) {
    serveFile(hub, req, res, { ...spec, etag: gitDigest(spec), headers: commit }, where);
    return true;
  }
  const sha256 = spec.sha256 ?? digestKept(spec);
  const linked = { ...commit, 'X-Linked-Etag': `"${sha256}"`, 'X-Linked-Size': String(sizeOf(spec)) };
  hub.cdnFiles[where] = spec;
  const redirectHeaders = { ...linked, ETag: `"${sha256}"` };
  return redirect(hub, req, res, { redirect: 'cdn', redirectHeaders }, where);
}

/** The order in which they are asked. */
export const routes = [hubApi, hubResolve, plainFiles];

async function control(req, res, hub) {
  if (req.path === '/__stats') return answer(res, 200, {}, hub.stats());
  const chunks = [];
  for await (const chunk of req) chunks.push(chunk);
  if (req.path === '/__config') Object.assign(hub.config, JSON.parse(Buffer.concat(chunks)));
  if (req.path === '/__reset') hub.reset();
  if (req.path === '/__go') hub.go();
  return answer(res, 200, {}, '{}');
}

function handle(hub, onCdn, req, res) {
  res.on('error', () => {});
  if (/^https?:/.test(req.url)) {
    hub.proxied.push(req.url);
    req.url = req.url.replace(/^https?:\/\/[^/]*/, '');
  }
  req.onCdn = onCdn || req.url.startsWith('/cdn/');
  req.path = decodeURIComponent(req.url.replace(/\?.*/, ''));
  hub.requests.push({ method: req.method, url: req.url, headers: req.headers, cdn: onCdn });
  if (req.path.startsWith('/__')) return control(req, res, hub);
  for (const route of [...(hub.config.routes ?? []), ...routes]) if (route(req, res, hub)) return undefined;
  countsOf(hub, req.path).requests++;
  return answer(res, 404, {}, 'there is no such thing here');
}

// ---- starting ---------------------------------------------------------------------------------------------

function listen(hub, onCdn) {
  const handler = (req, res) => handle(hub, onCdn, req, res);
  const server = hub.config.tls ? https.createServer(hub.config.tls, handler) : http.createServer(handler);
  server.keepAliveTimeout = 60000;
  server.on('connection', (socket) => {
    hub.connections++;
    hub.sockets.add(socket);
    socket.on('error', () => {});
    socket.on('close', () => hub.sockets.delete(socket));
  });
  server.on('clientError', (_, socket) => socket.destroy());
  server.on('connect', (req, socket) => { // a tunnel, to ourselves whatever was asked for
    hub.proxied.push(req.url);
    const to = net.connect(hub.server.address().port, '127.0.0.1', () => {
      socket.write('HTTP/1.1 200 OK\r\n\r\n');
      socket.pipe(to).pipe(socket);
    });
    to.on('error', () => socket.destroy());
  });
  return new Promise((resolve, reject) => {
    server.on('error', reject);
    server.listen(hub.config.port && !onCdn ? hub.config.port : 0, '127.0.0.1', () => resolve(server));
  });
}

export async function startHub(config = {}) {
  const hub = { config, counts: {}, states: {}, cdnFiles: {}, requests: [], proxied: [], signed: 0 };
  Object.assign(hub, { connections: 0, sockets: new Set(), timers: new Set() });
  const waiting = new Promise((resolve) => (hub.go = resolve));
  hub.gone = () => waiting;
  hub.server = await listen(hub, false);
  hub.cdnServer = await listen(hub, true);
  const scheme = config.tls ? 'https' : 'http';
  hub.url = `${scheme}://127.0.0.1:${hub.server.address().port}`;
  hub.cdn = `${scheme}://127.0.0.1:${hub.cdnServer.address().port}`;
  hub.stats = () => {
    const { counts, requests, proxied, connections } = hub;
    return { paths: counts, requests, proxied, connections };
  };
  hub.of = (where) => countsOf(hub, where);
  hub.reset = () => {
    Object.assign(hub, { counts: {}, states: {}, requests: [], proxied: [], connections: 0 });
  };
  hub.close = async () => {
    hub.timers.forEach(clearTimeout);
    for (const socket of hub.sockets) socket.destroy();
    await Promise.all([hub.server, hub.cdnServer].map((s) => new Promise((resolve) => s.close(resolve))));
  };
  return hub;
}

if (process.argv[1] && path.resolve(process.argv[1]) === fileURLToPath(import.meta.url)) {
  const from = process.argv.slice(2).find((word) => word !== '--while-stdin') ?? '-';
  const hub = await startHub(JSON.parse(fs.readFileSync(from === '-' ? 0 : from, 'utf8')));
  process.stdout.write(`${JSON.stringify({ url: hub.url, cdn: hub.cdn })}\n`);
  if (process.argv.includes('--while-stdin')) process.stdin.on('end', () => process.exit(0)).resume();
}
