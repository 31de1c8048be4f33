// SPDX-License-Identifier: Apache-2.0
// What passes through Corral is what was sent: bytes against the fake engine, meaning against the real one.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import test from 'node:test';
import { fakePool, realPool, send, until, withCorral } from './harness.mjs';

const sha256 = (text) => createHash('sha256').update(text).digest('hex');
const says = [{ role: 'user', content: 'Grüße \u{1F600} "quoted"\n\ttab' }];

// Every route that reaches an engine with a body of its own; `streams`: it knows `stream: true`.
const posts = [
  { path: '/v1/chat/completions', streams: true, fields: { messages: says, max_tokens: 9 } },
  { path: '/v1/completions', streams: true, fields: { prompt: 'Grüße', max_tokens: 9 } },
  { path: '/v1/responses', streams: true, fields: { input: 'Grüße', max_output_tokens: 9 } },
  { path: '/v1/messages', streams: true, fields: { messages: says, max_tokens: 9 } },
  { path: '/completion', streams: true, fields: { prompt: 'Grüße', n_predict: 9 } },
  { path: '/infill', streams: true, fields: { input_prefix: 'a', input_suffix: 'b', n_predict: 9 } },
  { path: '/v1/embeddings', fields: { input: ['one', 'two', 'drei'] } },
  { path: '/v1/rerank', fields: { query: 'q', documents: ['one', 'two'] } },
  { path: '/v1/messages/count_tokens', fields: { messages: says } },
  { path: '/tokenize', fields: { content: 'Grüße '.repeat(300) } },
  { path: '/detokenize', fields: { tokens: [71, 114, 195, 188] } },
  { path: '/apply-template', fields: { messages: says } },
  { path: '/upstream/fake/v1/completions', streams: true, fields: { prompt: 'x', max_tokens: 9 } },
];
const shapes = [1, 7, 1000, 65536].flatMap((write_size) => [
  { write_size, framing: 'chunked' },
  { write_size, framing: 'chunked', chunk_size: write_size === 7 ? 3 : 13 },
  { write_size, framing: 'length' },
  { write_size, framing: 'close' },
]);

/** Written as no serializer writes it, `model` the last key: parsed and written again it would differ. */
function oddly(fields) {
  const members = Object.entries(fields).map(([k, v]) => `"${k}" :\t${JSON.stringify(v)}`);
  return `\r\n{ ${members.join(' ,\n  ')},"unknown\\u0021":1e2, "model": "fake" }\n`;
}

/** The same request through Corral and directly; the engine's answer must be the same bytes. */
async function bothWays(corral, socket, method, path, opts, name) {
  const target = path.replace(/^\/upstream\/fake/, '');
  const through = await corral.send(method, path, opts);
  const direct = await send(socket, method, target, { ...opts, headers: { 'x-direct': '1' } });
  assert.equal(through.status, 200, `${name}: ${through.text}`);
  assert.equal(direct.status, 200, `${name}, directly: ${direct.text}`);
  assert.ok(through.complete && direct.complete, `${name}: ended as complete`);
  assert.equal(through.headers['content-type'], direct.headers['content-type'], name);
  if (Buffer.compare(through.bytes, direct.bytes) !== 0)
    assert.equal(through.bytes.toString('latin1'), direct.bytes.toString('latin1'), name);
  return through;
}

const flags = ['--embeddings', '--rerank', '--prompt-tokens', 5];

test(
  'byte for byte: every route, streamed and not, in writes of 1 byte to 64 KiB, in every framing',
  withCorral(
    () => ({ pools: [fakePool('fake', flags, { slots: 1 })] }), // one slot: answers name it
    async (corral) => {
      const socket = await corral.socketOf('fake');
      const sent = [];
      const one = async (post, stream, fake) => {
        const body = oddly({ ...post.fields, ...(stream && { stream }), fake });
        const name = `${post.path} ${stream ? 'streamed ' : ''}${JSON.stringify(fake)}`;
        const id = `case-${sent.length}`;
        sent.push({ name, id, body, path: post.path.replace(/^\/upstream\/fake/, '') });
        await bothWays(corral, socket, 'POST', post.path, { body, headers: { 'x-request-id': id } }, name);
      };
      for (const fake of [...shapes, { write_size: 1, write_gap_us: 50 }]) {
        for (const post of posts) {
          if (!fake.write_gap_us) await one(post, false, fake);
          if (post.streams) await one(post, true, fake);
        }
      }
      const recorded = (await corral.get('/upstream/fake/fake/requests')).json;
      for (const { name, id, body, path } of sent) {
        const got = recorded.filter((r) => new RegExp(`^x-request-id: ${id}\r?$`, 'im').test(r.head));
        assert.equal(got.length, 1, `${name}: one request reached the engine`);
        assert.equal(got[0].path, path, name);
        assert.equal(got[0].body_length, Buffer.byteLength(body), name);
        assert.equal(got[0].body_sha256, sha256(body), `${name}: the body the engine got`);
      }
    },
    { warm: ['fake'] },
  ),
);

test(
  'byte for byte: /props, and bytes and echoes under /upstream, in every shape',
  withCorral(
    () => ({ pools: [fakePool('fake', flags)] }),
    async (corral) => {
      const socket = await corral.socketOf('fake');
      const upstream = '/upstream/fake/fake';
      for (const shape of shapes) {
        const name = JSON.stringify(shape);
        const told = await corral.post(`${upstream}/behave`, shape);
        assert.equal(told.status, 200, told.text);
        const n = shape.write_size === 1 ? 5000 : 300001;
        const body = Buffer.from(Array.from({ length: n }, (_, i) => (i * 7919) % 256));
        const binary = { body, headers: { 'content-type': 'application/octet-stream' } };
        await bothWays(corral, socket, 'GET', '/props', {}, `/props ${name}`);
        await bothWays(corral, socket, 'GET', `${upstream}/bytes?n=${n}`, {}, `bytes ${name}`);
        const echo = await bothWays(corral, socket, 'POST', `${upstream}/echo`, binary, `echo ${name}`);
        assert.equal(Buffer.compare(echo.bytes, body), 0, `${name}: the echo is what was sent`);
        await corral.post(`${upstream}/behave`, { reset: 1 });
      }
    },
    { warm: ['fake'] },
  ),
);

test(
  'byte for byte: a body of 3 MB whose last key is the model, and another in chunks',
  withCorral(
    () => ({ pools: [fakePool('fake', flags), fakePool('other')] }),
    async (corral) => {
      const content = 'é"\\\n{}[],:model '.repeat(200000).slice(0, 3 * 1024 * 1024);
      const body = oddly({ messages: [{ role: 'user', content }], max_tokens: 3 });
      assert.ok(body.length > 3 * 1024 * 1024);
      const ways = [
        ['length', {}],
        ['chunks', { 'transfer-encoding': 'chunked' }],
      ];
      for (const [id, extra] of ways) {
        const headers = { 'content-type': 'application/json', 'x-request-id': id, ...extra };
        const answer = await (extra['transfer-encoding']
          ? fetch(`${corral.url}/v1/chat/completions`, {
              method: 'POST',
              headers: { 'content-type': 'application/json', 'x-request-id': id },
              body: new Blob([body]).stream(),
              duplex: 'half',
            })
          : corral.post('/v1/chat/completions', body, { headers }));
        assert.equal(answer.status, 200, id);
        await answer.body?.cancel();
      }
      const recorded = (await corral.get('/upstream/fake/fake/requests')).json;
      for (const [id] of ways) {
        const got = recorded.find((r) => new RegExp(`^x-request-id: ${id}\r?$`, 'im').test(r.head));
        assert.equal(got?.body_length, Buffer.byteLength(body), id);
        assert.equal(got.body_sha256, sha256(body), id);
      }
    },
    { warm: ['fake'], leaks: false },
  ),
);

// ---- the real engine -------------------------------------------------------------------------------

/** What two runs of one request share: not ids, times and what was cached. */
function meaning(value) {
  if (Array.isArray(value)) return value.map(meaning);
  if (value === null || typeof value !== 'object') return value;
  const passing = /^(id|created|timings|prompt_tokens_details|system_fingerprint)$/;
  return Object.fromEntries(
    Object.entries(value)
      .filter(([k]) => !passing.test(k))
      .map(([k, v]) => [k, meaning(v)]),
  );
}

function streamed(text) {
  const datas = [...text.matchAll(/^data: (.*)$/gm)].map((m) => m[1]);
  assert.equal(datas.at(-1), '[DONE]', text);
  const chunks = datas.slice(0, -1).map((d) => JSON.parse(d));
  return {
    text: chunks.map((c) => c.choices[0]?.delta?.content ?? c.choices[0]?.text ?? '').join(''),
    finish: chunks.flatMap((c) => c.choices.map((x) => x.finish_reason)).filter(Boolean),
    usage: meaning(chunks.map((c) => c.usage).filter(Boolean)),
  };
}

test(
  'the real engine: content, finish reason and usage agree with a direct call',
  withCorral(
    () => ({
      pools: [realPool('tiny'), realPool('embed', { args: ['--embeddings', '--pooling', 'mean'] })],
    }),
    async (corral) => {
      const same = { temperature: 0, seed: 7, cache_prompt: false, max_tokens: 24 };
      const tiny = await corral.socketOf('tiny');
      const requests = [
        ['/v1/chat/completions', { model: 'tiny', messages: says, ...same }],
        ['/v1/completions', { model: 'tiny', prompt: 'One two three', ...same }],
      ];
      for (const [path, body] of requests) {
        const through = await corral.post(path, body);
        const direct = await send(tiny, 'POST', path, { body });
        assert.equal(through.status, 200, through.text);
        assert.deepEqual(meaning(through.json), meaning(direct.json), path);
        assert.equal(through.json.choices[0].finish_reason, 'length');
        assert.equal(through.json.usage.completion_tokens, 24);

        const stream = { ...body, stream: true, stream_options: { include_usage: true } };
        const streamThrough = streamed((await corral.post(path, stream)).text);
        assert.deepEqual(streamThrough, streamed((await send(tiny, 'POST', path, { body: stream })).text));
        assert.equal(streamThrough.usage.length, 1);
        const { message, text } = through.json.choices[0];
        assert.equal(streamThrough.text, message?.content ?? text);
      }
      const body = { model: 'embed', input: ['one', 'two'] };
      const through = await corral.post('/v1/embeddings', body);
      assert.equal(through.status, 200, through.text);
      const direct = await send(await corral.socketOf('embed'), 'POST', '/v1/embeddings', { body });
      assert.deepEqual(meaning(through.json), meaning(direct.json));
      assert.ok(through.json.data[0].embedding.length > 0);
    },
    { warm: ['tiny'], leaks: false },
  ),
);

// ---- another origin's page -------------------------------------------------------------------------

const foreign = [
  ['GET', '/v1/models'],
  ['GET', '/v1/pools'],
  ['GET', '/props'],
  ['GET', '/metrics'],
  ['GET', '/v1/events'],
  ['GET', '/upstream/tiny/props'],
  ['POST', '/v1/chat/completions', { model: 'tiny', messages: says, max_tokens: 1 }],
  ['POST', '/tokenize', { model: 'tiny', content: 'x' }],
  ['POST', '/v1/pools/tiny/start', {}],
  ['POST', '/v1/pools/tiny/stop', {}],
  ['POST', '/v1/pools/tiny/restart', {}],
  ['POST', '/upstream/tiny/v1/chat/completions', { messages: says, max_tokens: 1 }],
];

function tellsNoPage(answer, name) {
  const found = Object.keys(answer.headers).filter((h) => h.startsWith('access-control-'));
  assert.deepEqual(found, [], name);
}

async function refusesPages(corral) {
  const names = ['attacker.example', '127.0.0.1.attacker.example', 'localhost.attacker.example'];
  const hosts = names.flatMap((name) => [name, `${name}:${new URL(corral.url).port}`]);
  for (const [method, path, body] of foreign) {
    for (const origin of ['http://attacker.example', 'https://127.0.0.1', 'http://localhost:1', 'null']) {
      const name = `${method} ${path} from ${origin}`;
      const answer = await corral.send(method, path, { body, headers: { origin } });
      assert.equal(answer.status, 403, name);
      assert.equal(answer.json?.error.corral.code, 'FORBIDDEN', name);
      tellsNoPage(answer, name);
      const preflight = await corral.send('OPTIONS', path, {
        headers: {
          origin,
          'access-control-request-method': method,
          'access-control-request-headers': 'content-type',
        },
      });
      assert.equal(preflight.status, 403, `preflight of ${name}`);
      tellsNoPage(preflight, `preflight of ${name}`);
    }
    for (const host of hosts) {
      for (const headers of [{ host }, { host, origin: `http://${host}` }]) {
        const rebound = await corral.send(method, path, { body, headers });
        assert.equal(rebound.status, 421, `${method} ${path} as ${host}`);
        tellsNoPage(rebound, `${method} ${path} as ${host}`);
      }
    }
    if (method === 'POST') {
      for (const type of ['text/plain', 'application/x-www-form-urlencoded', 'multipart/form-data']) {
        const name = `${path} as ${type}`; // what a page may send without a preflight
        const headers = { 'content-type': type, origin: 'http://attacker.example' };
        const answer = await corral.send(method, path, { body, headers });
        assert.equal(answer.status, 403, name);
      }
    }
  }
}

test(
  'a page of another origin reads nothing and starts nothing, with the real engine behind',
  withCorral(
    () => ({ pools: [realPool('tiny')] }),
    async (corral) => {
      await refusesPages(corral);
      for (const [method, path] of foreign) // an image or a frame: no Origin, and nobody reads the answer
        if (method === 'GET' && path !== '/v1/events') tellsNoPage(await corral.get(path), path);
      assert.equal(corral.engines().length, 0, 'no engine was started');
      assert.equal((await corral.pool('tiny')).replicas.filter((r) => r.pid).length, 0);

      assert.equal((await corral.chat('tiny', { max_tokens: 1 })).status, 200);
      await corral.ready('tiny');
      const { pid } = corral.engineOf('tiny');
      await refusesPages(corral);
      assert.equal(corral.engineOf('tiny').pid, pid, 'nothing was stopped or started again');
      assert.equal((await corral.get('/v1/pools/tiny/health')).json.ready, true);

      const socket = await corral.socketOf('tiny');
      const origin = corral.url.replace(/\/$/, '');
      const direct = await send(socket, 'GET', '/props', { headers: { origin } });
      assert.ok(direct.headers['access-control-allow-origin'], 'the engine by itself lets every page in');
      for (const [method, path, body] of foreign) {
        if (/stop|restart|events/.test(path)) continue;
        for (const headers of [{}, { origin }]) {
          const answer = await corral.send(method, path, { body, headers });
          assert.ok(answer.status < 300, `${method} ${path}: ${answer.text}`);
          tellsNoPage(answer, `${method} ${path} from ${headers.origin ?? 'no page'}`);
        }
      }
      const stream = await corral.chat('tiny', { stream: true }, { headers: { origin } });
      tellsNoPage(stream, 'a stream');
      for (const path of ['/upstream/tiny/props', '/upstream/tiny/v1/chat/completions', '/v1/models'])
        tellsNoPage(await corral.send('OPTIONS', path, { headers: { origin } }), `OPTIONS ${path}`);
      const none = await corral.get('/upstream/tiny/nothing', { headers: { origin } });
      assert.equal(none.status, 404);
      tellsNoPage(none, 'an error of the engine');
      assert.equal(corral.engineOf('tiny').pid, pid);
      await until('no lease to be left', async () => (await corral.leases('tiny')) === 0);
    },
    { leaks: false },
  ),
);
