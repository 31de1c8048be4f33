// SPDX-License-Identifier: Apache-2.0
// The door: TLS with an authority of the test's own, certificates replaced while it serves, pages of other
// origins, and engines that are reached over https.
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import fs from 'node:fs';
import https from 'node:https';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import test from 'node:test';
import tls from 'node:tls';
import { fileURLToPath } from 'node:url';
import { Corral, fakePool, sse, until, withCorral, withDeadline } from './harness.mjs';

const here = path.dirname(fileURLToPath(import.meta.url));

/** An authority and what it signs: issue(name) writes NAME.pem and NAME.key, serve(name) puts them in use. */
class Authority {
  constructor() {
    this.dir = fs.mkdtempSync(path.join(os.tmpdir(), 'crl-ca-'));
    this.ca = this.#file('ca.pem');
    this.cert = this.#file('server.pem');
    this.key = this.#file('server.key');
    const made = ['-out', this.ca, '-days', '30', '-subj', '/CN=test CA'];
    this.#openssl('req', '-x509', ...this.#newKey('ca'), ...made);
  }

  #file(name) {
    return path.join(this.dir, name);
  }
  #openssl(...args) {
    execFileSync('openssl', args, { stdio: ['ignore', 'ignore', 'pipe'] });
  }
  #newKey(name) {
    const curve = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256'];
    return [...curve, '-nodes', '-keyout', this.#file(`${name}.key`)];
  }

  issue(name, days = 30) {
    const ext = this.#file(`${name}.ext`);
    fs.writeFileSync(ext, 'subjectAltName=DNS:localhost,IP:127.0.0.1\n');
    const csr = this.#file(`${name}.csr`);
    this.#openssl('req', ...this.#newKey(name), '-out', csr, '-subj', `/CN=${name}`);
    const signer = ['-CA', this.ca, '-CAkey', this.#file('ca.key'), '-CAcreateserial', '-extfile', ext];
    const out = this.#file(`${name}.pem`);
    this.#openssl('x509', '-req', '-in', csr, ...signer, '-days', String(days), '-out', out);
    return this;
  }

  /** As renewing programs do it: a new file is renamed over the old one, first one, then the other. */
  serve(name) {
    for (const [from, to] of [
      [`${name}.pem`, this.cert],
      [`${name}.key`, this.key],
    ]) {
      fs.copyFileSync(this.#file(from), `${to}.new`);
      fs.chmodSync(`${to}.new`, 0o600);
      fs.renameSync(`${to}.new`, to);
    }
    return this;
  }
  pair(name) {
    const read = (file) => fs.readFileSync(this.#file(file));
    return { cert: read(`${name}.pem`), key: read(`${name}.key`) };
  }

  remove() {
    fs.rmSync(this.dir, { recursive: true, force: true });
  }
}

/** A test with an authority, whose certificate 'first' is served with. */
const withAuthority = (config, body, opts = {}) => async (t) => {
  const authority = new Authority().issue('first').serve('first');
  try {
    const { env, ...rest } = typeof opts === 'function' ? opts(authority) : opts;
    const whole = () => ({
      listen: ['127.0.0.1:0', 'https://127.0.0.1:0'],
      tls: { cert: authority.cert, key: authority.key },
      ...config(authority),
    });
    await withCorral(whole, (corral) => body(corral, authority), { env, ...rest })(t);
  } finally {
    authority.remove();
  }
};

const secureUrl = (corral) => corral.urls.find((u) => u.startsWith('https://'));
const reload = (corral) => corral.post('/v1/config/reload', {});

/** A request over TLS; {status, text, json, subject (of the certificate), complete}. */
function ask(corral, authority, method, target, { body, agent = false, headers = {} } = {}) {
  return new Promise((resolve, reject) => {
    const text = body && JSON.stringify(body);
    const type = text && { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) };
    const req = https.request(
      new URL(target, secureUrl(corral).replace('127.0.0.1', 'localhost')),
      { method, agent, ca: fs.readFileSync(authority.ca), headers: { ...type, ...headers }, family: 4 },
      (res) => {
        const subject = res.socket.getPeerCertificate().subject?.CN ?? res.socket.subjectOnce;
        res.socket.subjectOnce = subject;
        const parts = [];
        const done = () => {
          const whole = Buffer.concat(parts).toString();
          let json;
          try {
            json = JSON.parse(whole);
          } catch {
            /* not JSON */
          }
          const { statusCode: status, complete } = res;
          resolve({ status, headers: res.headers, text: whole, json, subject, complete });
        };
        res.on('data', (d) => parts.push(d));
        res.on('end', done);
        res.on('error', done);
      },
    );
    req.on('error', reject);
    req.end(text);
  });
}

const chat = (fields = {}) => ({
  model: 'fake',
  messages: [{ role: 'user', content: 'Hello' }],
  max_tokens: 8,
  ...fields,
});

const script = `
import OpenAI from 'openai';
const openai = new OpenAI({ baseURL: process.env.BASE, apiKey: 'none', maxRetries: 0 });
const out = { models: (await openai.models.list()).data.map((m) => m.id) };
const fields = { model: 'fake', messages: [{ role: 'user', content: 'Hello' }], max_tokens: 50 };
out.whole = (await openai.chat.completions.create(fields)).choices[0].message.content;
out.streamed = '';
out.events = 0;
for await (const chunk of await openai.chat.completions.create({ ...fields, stream: true })) {
  out.streamed += chunk.choices[0]?.delta?.content ?? '';
  out.events++;
}
console.log(JSON.stringify(out));
`;

/** The official client in a process of its own, which believes the authority from its start. */
async function officialClient(base, ca) {
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
    cwd: here,
    env: { ...process.env, BASE: base, NODE_EXTRA_CA_CERTS: ca, NODE_TEST_CONTEXT: '' },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const out = [[], []];
  child.stdout.on('data', (d) => out[0].push(d));
  child.stderr.on('data', (d) => out[1].push(d));
  const code = await withDeadline(new Promise((r) => child.once('close', r)), 'the client');
  assert.equal(code, 0, Buffer.concat(out[1]).toString());
  return JSON.parse(Buffer.concat(out[0]).toString());
}

const pools = () => ({ pools: [fakePool('fake', ['--tokens', 50], { slots: 8, keep_alive: 'never' })] });

test(
  'the official client over https: models, an answer, a stream, all intact',
  withAuthority(
    pools,
    async (corral, authority) => {
      const base = `${secureUrl(corral).replace('127.0.0.1', 'localhost')}/v1`;
      const got = await officialClient(base, authority.ca);
      assert.deepEqual(got.models, ['fake']);
      assert.equal(got.whole.trim().split(/\s+/).length, 50, got.whole);
      assert.equal(got.streamed, got.whole);
      assert.ok(got.events >= 50, `${got.events} events`);
      const big = await ask(corral, authority, 'GET', '/upstream/fake/fake/bytes?n=20000000');
      assert.equal(big.text.length, 20000000);
      const echo = await ask(corral, authority, 'POST', '/upstream/fake/fake/echo', {
        body: { x: 'y'.repeat(8000000) },
      });
      assert.equal(echo.json.x.length, 8000000);
      const streamed = await ask(corral, authority, 'POST', '/v1/chat/completions', {
        body: chat({ stream: true }),
      });
      assert.equal(streamed.headers['x-accel-buffering'], 'no');
    },
    { warm: ['fake'] },
  ),
);

test(
  'a certificate is replaced under load: no request fails, new connections get the new one',
  withAuthority(
    pools,
    async (corral, authority) => {
      authority.issue('second').issue('third');
      const seen = new Set();
      let answered = 0;
      let stop = false;
      const work = async (agent, stream) => {
        while (!stop) {
          const got = await ask(corral, authority, 'POST', '/v1/chat/completions', {
            agent,
            body: chat({ stream, max_tokens: 30 }),
          });
          assert.equal(got.status, 200, got.text);
          assert.ok(got.complete && (!stream || sse(got.text).at(-1).data === '[DONE]'), got.text);
          seen.add(got.subject);
          answered++;
        }
      };
      const agents = [0, 1].map(() => new https.Agent({ keepAlive: true, maxSockets: 1 }));
      const workers = [work(agents[0], true), work(agents[1], false), work(false, true), work(false, false)];
      const failed = Promise.race(workers).then(() => assert.ok(stop, 'a worker ended'));
      failed.catch(() => {});
      const more = (n, from = answered) =>
        Promise.race([until(`${n} more answers`, () => answered >= from + n), failed]);
      await more(20);
      for (const name of ['second', 'third']) {
        authority.serve(name);
        const answer = await reload(corral);
        assert.equal(answer.status, 200, answer.text);
        assert.deepEqual(answer.json.warnings, []);
        assert.match(answer.json.changes[0].human, /^New connections get the new certificate/);
        assert.deepEqual(answer.json.changes[0].keys, ['tls.cert']);
        assert.equal((await ask(corral, authority, 'GET', '/healthz')).subject, name);
        await more(20);
      }
      stop = true;
      await withDeadline(Promise.all(workers), 'the last answers');
      agents.forEach((a) => a.destroy());
      assert.deepEqual([...seen].sort(), ['first', 'second', 'third']);

      // a broken file keeps the one before, and says so
      fs.writeFileSync(authority.cert, 'nonsense');
      const broken = await reload(corral);
      assert.equal(broken.status, 200, broken.text);
      assert.match(broken.json.warnings[0].message, /holds no certificate.*before goes on being used/);
      const cli = await corral.cli('config', 'reload');
      assert.match(cli.stdout, /! tls: .*holds no certificate/);
      assert.equal((await ask(corral, authority, 'GET', '/healthz')).subject, 'third');
      const figure = await corral.figures();
      assert.equal(figure('corral_tls_handshake_failures_total'), 0);
      const days = (figure('corral_tls_certificate_expiry_timestamp_seconds') - Date.now() / 1000) / 86400;
      assert.ok(days > 29 && days < 31, `${days} days`);
    },
    { warm: ['fake'], leaks: false },
  ),
);

test(
  'watch: a renewed certificate is taken by itself; check and the start say what is wrong with one',
  withAuthority(
    (authority) => ({ ...pools(), watch: true }),
    async (corral, authority) => {
      authority.issue('second').serve('second');
      const now = async () => (await ask(corral, authority, 'GET', '/healthz')).subject;
      await until('the new certificate', async () => (await now()) === 'second');

      const fine = await corral.cli('config', 'check');
      assert.deepEqual([fine.code, fine.stderr], [0, ''], fine.stdout);
      authority.issue('soon', 3).serve('soon');
      await until('the next one', async () => (await now()) === 'soon');
      assert.match((await corral.cli('config', 'check')).stderr, /\(localhost\) expires in [23] days/);
      assert.match(corral.log(), /expires in [23] days/);
      fs.chmodSync(authority.key, 0o644);
      const open = await corral.cli('config', 'check');
      assert.equal(open.code, 2);
      assert.match(open.stderr, /tls: tls.key .* is open to everybody .*chmod o=/);
      const { cert, key } = authority;
      const other = new Corral({ listen: 'https://127.0.0.1:0', tls: { cert, key } });
      try {
        await assert.rejects(other.start(), /ended .*"code":1.*is open to everybody/s);
      } finally {
        other.kill();
        other.remove();
      }
    },
    { leaks: false },
  ),
);

/** What the port says to these bytes, until it closes. */
function raw(corral, bytes) {
  const { hostname, port } = new URL(secureUrl(corral));
  return new Promise((resolve, reject) => {
    const socket = net.connect(Number(port), hostname, () => socket.write(bytes));
    let got = '';
    socket.on('data', (d) => (got += d.toString('latin1')));
    socket.on('close', () => resolve(got));
    socket.on('error', reject);
  });
}

test(
  'a port that speaks https says so to plain HTTP, and refuses old TLS',
  withAuthority(pools, async (corral, authority) => {
    const said = await raw(corral, 'POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n\r\n');
    assert.match(said, /^HTTP\/1.1 400 .*this port speaks https/s);
    const { port } = new URL(secureUrl(corral));
    const dial = (version) =>
      new Promise((resolve, reject) => {
        const socket = tls.connect(
          {
            port: Number(port),
            host: '127.0.0.1',
            ca: fs.readFileSync(authority.ca),
            minVersion: version,
            maxVersion: version,
            ciphers: 'DEFAULT@SECLEVEL=0',
            ALPNProtocols: ['h2', 'http/1.1'],
          },
          () => {
            const got = [socket.getProtocol(), socket.alpnProtocol];
            socket.on('close', () => resolve(got));
            socket.end();
            socket.resume();
          },
        );
        socket.on('error', reject);
      });
    await assert.rejects(dial('TLSv1.1'), /protocol version/i);
    assert.deepEqual(await dial('TLSv1.2'), ['TLSv1.2', 'http/1.1']);
    assert.deepEqual(await dial('TLSv1.3'), ['TLSv1.3', 'http/1.1']);
    const figure = await corral.figures();
    assert.equal(figure('corral_tls_handshake_failures_total'), 2);
  }),
);

test(
  'a page of another origin is refused, a rebound name too; a listed origin may ask models and no more',
  withCorral(
    () => ({
      ...pools(),
      hosts: ['llm.lan'],
      cors: { origins: ['https://chat.example', 'http://localhost:3000'] },
    }),
    async (corral) => {
      const at = (origin, more = {}) => ({ headers: { origin, ...more } });
      const allowed = (r) => r.headers['access-control-allow-origin'];
      const evil = await corral.chat('fake', {}, at('https://evil.example'));
      assert.deepEqual([evil.status, allowed(evil)], [403, undefined], evil.text);
      const rebound = await corral.chat('fake', {}, { headers: { host: 'evil.example' } });
      assert.equal(rebound.status, 421, rebound.text);
      const named = await corral.chat('fake', {}, { headers: { host: 'llm.lan:8080' } });
      assert.equal(named.status, 200, named.text);

      for (const origin of ['https://chat.example', 'http://localhost:3000']) {
        const preflight = await corral.send('OPTIONS', '/v1/chat/completions', {
          ...at(origin, {
            'access-control-request-method': 'POST',
            'access-control-request-headers': 'authorization,content-type',
          }),
        });
        assert.deepEqual([preflight.status, allowed(preflight)], [204, origin]);
        assert.equal(preflight.headers['access-control-allow-headers'], 'authorization,content-type');
        const streamed = await corral.chat('fake', { stream: true }, at(origin));
        assert.deepEqual([streamed.status, allowed(streamed)], [200, origin]);
        assert.equal(streamed.headers['access-control-expose-headers'], '*');
        const wrong = await corral.chat('nobody', {}, at(origin));
        assert.deepEqual([wrong.status, allowed(wrong)], [404, origin], 'errors can be read too');
        const list = await corral.get('/v1/models', at(origin));
        assert.deepEqual([list.status, allowed(list)], [200, origin]);
        const stop = await corral.post('/v1/pools/fake/stop', {}, at(origin));
        assert.deepEqual([stop.status, allowed(stop)], [403, undefined], stop.text);
      }
      const own = await corral.post('/v1/pools/fake/stop', { deadline_ms: 1 }, at(corral.url));
      assert.ok(own.status < 300, own.text);

      // origins and names take effect with a reload
      corral.write({ ...pools(), cors: { origins: ['https://evil.example'] } });
      assert.equal((await reload(corral)).status, 200);
      const answer = await corral.get('/v1/models', at('https://evil.example'));
      assert.deepEqual([answer.status, allowed(answer)], [200, 'https://evil.example']);
      assert.equal((await corral.get('/v1/models', { headers: { host: 'llm.lan' } })).status, 421);
    },
    { warm: ['fake'], leaks: false },
  ),
);

/** A server of the OpenAI API over https. */
async function engine(authority) {
  const server = https.createServer(authority.pair('engine'), (req, res) => {
    let body = '';
    req.on('data', (d) => (body += d));
    req.on('end', () => {
      if (req.url === '/v1/models') {
        res.setHeader('content-type', 'application/json');
        return res.end(JSON.stringify({ object: 'list', data: [{ id: 'far' }] }));
      }
      if (!JSON.parse(body).stream) {
        res.setHeader('content-type', 'application/json');
        const message = { role: 'assistant', content: 'x'.repeat(300000) };
        return res.end(JSON.stringify({ choices: [{ index: 0, message, finish_reason: 'stop' }] }));
      }
      res.setHeader('content-type', 'text/event-stream');
      for (let i = 0; i < 200; i++)
        res.write(`data: {"choices":[{"index":0,"delta":{"content":"${i} "}}]}\n\n`);
      return res.end('data: [DONE]\n\n');
    });
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return server;
}

test('an engine is reached over https, and only where its certificate is believed', async (t) => {
  const authority = new Authority().issue('engine');
  const server = await engine(authority);
  const { port } = server.address();
  const pool = (id, host) => ({
    id,
    engine: { kind: 'openai', urls: [`https://${host}:${port}`] },
    slots: 8,
  });
  try {
    await withCorral(
      () => ({ pools: [pool('far', 'localhost'), pool('other', '127.0.0.2')] }),
      async (corral) => {
        await corral.ready('far');
        for (let i = 0; i < 3; i++) {
          const whole = await corral.chat('far');
          assert.equal(whole.status, 200, whole.text);
          assert.equal(whole.json.choices[0].message.content.length, 300000);
          const stream = await corral.chat('far', { stream: true });
          const words = sse(stream.text).filter((e) => e.data !== '[DONE]');
          assert.equal(words.length, 200);
          assert.ok(stream.text.endsWith('data: [DONE]\n\n'));
        }
      },
      { env: { SSL_CERT_FILE: authority.ca }, leaks: false },
    )(t);
    await withCorral(
      () => ({ pools: [pool('far', 'localhost')] }),
      async (corral) => {
        await until('the reason', () => /its certificate is not believed: /.test(corral.log()));
        assert.equal((await corral.get('/v1/pools/far/health')).json.ready, false);
      },
      { env: { SSL_CERT_FILE: '/dev/null', SSL_CERT_DIR: '/dev/null' }, leaks: false },
    )(t);
  } finally {
    server.closeAllConnections();
    server.close();
    authority.remove();
  }
});
