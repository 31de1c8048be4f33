// SPDX-License-Identifier: Apache-2.0
// What clients ask besides chats, and what can be seen and ended of a request while it lives and after.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import crypto from 'node:crypto';
import http from 'node:http';
import test from 'node:test';
import OpenAI, { toFile } from 'openai';
import {
  corralPath,
  fakeLlamaPool,
  fakePool,
  realPool,
  send,
  sse,
  until,
  withCorral,
  withDeadline,
} from './harness.mjs';

const client = (corral) => new OpenAI({ baseURL: `${corral.url}/v1`, apiKey: 'none', maxRetries: 0 });
const sha256 = (bytes) => crypto.createHash('sha256').update(bytes).digest('hex');
/** What the pool's engine got, the newest last. */
const engineGot = async (corral, id) =>
  (await send(await corral.socketOf(id), 'GET', '/fake/requests')).json;

test(
  'the official client transcribes and edits images: the form crosses untouched',
  withCorral(
    () => ({ pools: [fakePool('other'), fakePool('ears')] }),
    async (corral) => {
      const openai = client(corral);
      const sound = crypto.randomBytes(300_000); // beyond what is kept in memory
      const { text } = await openai.audio.transcriptions.create({
        model: 'ears',
        file: await toFile(sound, 'a.wav'),
      });
      const got = (await engineGot(corral, 'ears')).at(-1);
      assert.equal(got.path, '/v1/audio/transcriptions');
      assert.match(got.head, /content-type: multipart\/form-data; ?boundary=/i);
      assert.equal(text, `${got.body_length} bytes, sha256 ${got.body_sha256}`);
      assert.ok(got.body_length > sound.length);

      const edited = await openai.images.edit({
        model: 'ears',
        prompt: 'a hat',
        image: await toFile(sound, 'a.png', { type: 'image/png' }),
      });
      assert.equal(edited.data[0].b64_json, (await engineGot(corral, 'ears')).at(-1).body_sha256);
      const made = await openai.images.generate({ model: 'ears', prompt: 'a hat' });
      assert.ok(made.data[0].b64_json);
      const spoken = await openai.audio.speech.create({ model: 'ears', voice: 'x', input: 'Hello' });
      assert.equal(await spoken.text(), 'Hello');

      await assert.rejects(
        openai.audio.transcriptions.create({ model: 'earz', file: await toFile(sound, 'a.wav') }),
        (e) => e.status === 404 && /did you mean ears/.test(e.message),
      );
      assert.equal((await corral.pool('other')).state, 'unloaded');
    },
    { warm: ['ears'] },
  ),
);

test(
  'an external engine gets the name it knows, in a form too',
  async (t) => {
    const seen = [];
    const engine = http.createServer((req, res) => {
      const parts = [];
      req.on('data', (d) => parts.push(d));
      req.on('end', () => {
        res.setHeader('content-type', 'application/json');
        if (req.url === '/file') res.setHeader('content-length', 12345);
        if (req.method === 'HEAD') return res.end();
        if (req.method === 'GET') return res.end('{"object":"list","data":[{"id":"far/whisper"}]}');
        seen.push({ head: req.headers, body: Buffer.concat(parts) });
        return res.end('{"text":"heard"}');
      });
    });
    await new Promise((resolve) => engine.listen(0, '127.0.0.1', resolve));
    try {
      await withCorral(
        () => ({
          pools: [
            {
              id: 'ears',
              model: 'far/whisper',
              engine: { kind: 'openai', url: `http://127.0.0.1:${engine.address().port}` },
            },
          ],
        }),
        async (corral) => {
          const sound = crypto.randomBytes(100_000);
          const form = new FormData();
          form.set('file', new Blob([sound]), 'a.wav');
          form.set('model', 'ears');
          form.set('language', 'en');
          const sent = new Response(form);
          const bytes = Buffer.from(await sent.arrayBuffer());
          const answer = await corral.post('/v1/audio/transcriptions', bytes, {
            headers: { 'content-type': sent.headers.get('content-type') },
          });
          assert.equal(answer.status, 200, answer.text);
          const at = bytes.indexOf('\r\n\r\nears\r\n') + 4;
          const want = Buffer.concat([
            bytes.subarray(0, at),
            Buffer.from('far/whisper'),
            bytes.subarray(at + 4),
          ]);
          assert.equal(sha256(seen.at(-1).body), sha256(want));
          assert.equal(Number(seen.at(-1).head['content-length']), want.length);

          // What a HEAD says of the body's length is the engine's word: none, where it says none.
          for (const [where, length] of [
            ['file', '12345'],
            ['pipe', undefined],
          ]) {
            const head = await send(corral.url, 'HEAD', `/upstream/ears/${where}`);
            assert.deepEqual([head.status, head.headers['content-length'], head.text], [200, length, '']);
          }
        },
        { leaks: false },
      )(t);
    } finally {
      engine.close();
      engine.closeAllConnections();
    }
  },
);

test(
  'slots are looked at, saved and erased without starting anything',
  withCorral(
    () => ({ pools: [fakeLlamaPool('chat', [], { slots: 2 })] }),
    async (corral) => {
      const cold = await corral.get('/slots');
      assert.equal(cold.status, 200);
      assert.equal(cold.json.loaded, false);
      const nothing = await corral.post('/slots/0?action=save', { filename: 'a.bin' });
      assert.equal(nothing.status, 503);
      assert.match(nothing.json.error.message, /runs no engine/);
      assert.equal((await corral.pool('chat')).state, 'unloaded');

      assert.equal((await corral.chat('chat')).status, 200);
      await corral.ready('chat'); // the replica was proving: what takes no lease does not go to such a one
      assert.equal((await corral.get('/slots?model=chat')).json.length, 2);
      const saved = await corral.post('/slots/1?action=save&model=chat', { filename: 'a.bin' });
      assert.deepEqual([saved.status, saved.json.filename], [200, 'a.bin']);
      const erased = await corral.send('POST', '/slots/1?action=erase');
      assert.equal(erased.status, 200, erased.text);
      assert.equal((await corral.send('GET', '/slots/1')).status, 405);
    },
    { leaks: false },
  ),
);

test(
  'one model is shown by its id or alias',
  withCorral(
    () => ({ pools: [fakePool('chat', [], { aliases: ['org/chat:q4'] })] }),
    async (corral) => {
      const openai = client(corral);
      assert.equal((await openai.models.retrieve('chat')).id, 'chat');
      assert.equal((await corral.get('/v1/models/org/chat:q4')).json.id, 'chat');
      assert.equal((await corral.get('/v1/models/org%2Fchat%3Aq4')).json.id, 'chat');
      const none = await corral.get('/v1/models/chatt');
      assert.equal(none.status, 404);
      assert.equal(none.json.error.code, 'model_not_found');
      const wrong = await corral.post('/v1/models/chat', {});
      assert.deepEqual([wrong.status, wrong.headers.allow], [405, 'GET, HEAD']);
      assert.ok(wrong.headers['x-request-id']);
    },
  ),
);

// ---- requests have a life ------------------------------------------------------------------------------

/** Starts a streamed chat and resolves once its first event is here: {done, text()}. */
async function streaming(corral, id, headers = {}) {
  let text = '';
  let first;
  const started = new Promise((resolve) => (first = resolve));
  const done = corral.chat(
    id,
    { stream: true, max_tokens: 10000, fake: { tokens: 10000, event_interval_us: 5000 } },
    {
      headers,
      onData: (d) => {
        text += d;
        first();
      },
    },
  );
  await withDeadline(started, 'the first event');
  return { done, text: () => text };
}
const list = async (corral, query = '') => (await corral.get(`/v1/requests${query}`)).json.requests;
const find = async (corral, id) => (await corral.get(`/v1/requests/${id}`)).json;

test(
  'a request is seen while it streams and after, and its answer tells its times',
  withCorral(
    () => ({ pools: [fakePool('chat'), fakePool('other')] }),
    async (corral) => {
      const first = await corral.chat('chat', {}, { headers: { 'x-request-id': 'mine-1' } });
      assert.equal(first.status, 200);
      assert.match(
        first.headers['server-timing'],
        /^queue;dur=[\d.]+, load;dur=(?!0\.0,)[\d.]+, engine;dur=[\d.]+$/,
      );
      assert.equal(first.headers['x-corral-pool'], 'chat');
      assert.equal(first.headers['x-corral-replica'], 'chat-0');
      const cold = await find(corral, 'mine-1');
      assert.equal(cold.state, 'finished');
      assert.equal(cold.outcome, 'complete');
      assert.equal(cold.status, 200);
      assert.equal(cold.waited_for, 'chat-0');
      assert.ok(cold.load_ms > 0, JSON.stringify(cold));
      assert.equal(cold.output_tokens, first.json.usage.completion_tokens);
      assert.equal(cold.prompt_tokens, first.json.usage.prompt_tokens);
      assert.equal(cold.tokens_from, 'usage');
      assert.match(cold.received_at, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
      assert.match(cold.client, /^127\.0\.0\.1:\d+$/);
      assert.equal(cold.route, '/v1/chat/completions');
      assert.ok(!JSON.stringify(cold).includes('Hello'), 'no body is kept');
      assert.equal((await find(corral, cold.id)).correlation_id, 'mine-1');

      const stream = await streaming(corral, 'chat', { 'x-request-id': 'mine-2' });
      const [live] = await list(corral, '?state=streaming&pool=chat');
      assert.deepEqual(
        [live.correlation_id, live.replica, live.outcome, live.load_ms],
        ['mine-2', 'chat-0', null, 0],
      );
      assert.ok(live.first_token_ms >= 0);
      assert.deepEqual(await list(corral, '?state=streaming&pool=other'), []);
      assert.equal((await list(corral, '?limit=0')).length, 1, 'only what is in flight');
      assert.equal((await corral.get('/v1/requests?state=dreaming')).status, 400);
      assert.equal((await corral.get('/v1/requests?slow=x')).status, 400);
      assert.equal((await corral.get('/v1/requests/none')).status, 404);
      const wrong = await corral.send('POST', '/v1/requests/x', { body: {} });
      assert.equal(wrong.headers.allow, 'GET, HEAD, DELETE');

      const cut = await corral.send('DELETE', '/v1/requests/mine-2', { body: {} });
      assert.deepEqual([cut.status, cut.json], [200, { cancelled: 1 }]);
      const ended = await stream.done;
      assert.equal(ended.complete, false, 'the end is visible');
      const last = JSON.parse(sse(ended.text).at(-1).data);
      assert.equal(last.error.corral.code, 'CANCELLED');
      assert.ok(!ended.text.includes('[DONE]'));
      const after = await find(corral, 'mine-2');
      assert.deepEqual([after.state, after.status, after.error_code], ['finished', 499, 'CANCELLED']);
      assert.equal(after.tokens_from, 'events');
      const again = await corral.send('DELETE', '/v1/requests/mine-2', { body: {} });
      assert.deepEqual([again.status, again.json.error.corral.code], [409, 'CONFLICT']);
      assert.equal((await corral.send('DELETE', '/v1/requests/none', { body: {} })).status, 404);
      assert.equal((await corral.send('DELETE', '/v1/requests/none')).status, 415);
    },
    { leaks: false },
  ),
);

test(
  'one that waits is cancelled in the queue, one in prefill frees the engine',
  withCorral(
    () => ({ pools: [fakePool('chat', [], { slots: 1 })] }),
    async (corral) => {
      const busy = await streaming(corral, 'chat', { 'x-request-id': 'busy' });
      const waiting = corral.chat('chat', {}, { headers: { 'x-request-id': 'waits' } });
      const one = await until('the second one to wait', async () =>
        (await list(corral, '?state=queued')).find((r) => r.correlation_id === 'waits'),
      );
      assert.equal((await corral.cli('requests', 'cancel', one.id)).code, 0);
      const told = await waiting;
      assert.equal(told.status, 499, told.text);
      assert.equal(told.json.error.corral.code, 'CANCELLED');
      assert.equal(told.headers['x-corral-pool'], 'chat');
      assert.equal((await find(corral, 'busy')).state, 'streaming', 'the other one is untouched');
      const gone = await corral.cli('requests', 'cancel', one.id);
      assert.equal(gone.code, 1);
      assert.match(gone.stderr, /has ended already: CANCELLED/);
      await corral.cli('requests', 'cancel', 'busy');
      await busy.done;

      const silent = corral.chat(
        'chat',
        { fake: { prefill_ms: 60000 } },
        { headers: { 'x-request-id': 'silent' } },
      );
      await until('it to be sent', async () => (await list(corral, '?state=sent')).length === 1);
      await corral.cli('requests', 'cancel', 'silent');
      assert.equal((await silent).status, 499);
      assert.equal((await corral.chat('chat')).status, 200, 'the slot is free again');
    },
    { warm: ['chat'], leaks: false },
  ),
);

test(
  'corral requests shows, follows and picks',
  withCorral(
    () => ({ pools: [fakePool('chat')] }),
    async (corral) => {
      const stream = await streaming(corral, 'chat', { 'x-request-id': 'long' });
      const { id } = await find(corral, 'long');
      const shown = await corral.cli('requests');
      assert.equal(shown.code, 0, shown.stderr);
      const lines = shown.stdout.trimEnd().split('\n');
      assert.match(lines[0], /^AGE +ID +POOL +REPLICA +STATE +QUEUE +FIRST TOKEN +TOKENS\/S +STATUS/);
      assert.match(lines.at(-1), new RegExp(`${id} +chat +chat-0 +streaming`));
      assert.match(lines.at(-2), /finished .* 200 +complete$/);
      const picked = await corral.cli('requests', '--json', '--pool', 'chat', '-n', '1');
      const json = JSON.parse(picked.stdout);
      assert.equal(json.requests.length, 2);
      assert.equal((await corral.cli('requests', 'stop')).code, 2);
      assert.match((await corral.cli('requests', '--slow')).stdout, /^AGE/);

      const env = { ...process.env, CORRAL_CONFIG: corral.configFile };
      const follower = spawn(corralPath, ['requests', '-f'], {
        env,
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      try {
        let out = '';
        follower.stdout.on('data', (d) => (out += d));
        await until('the stream to be told', () => new RegExp(`${id} .*streaming`).test(out));
        await corral.cli('requests', 'cancel', id);
        await stream.done;
        const end = new RegExp(`${id} .*finished .*499 +CANCELLED`);
        await until('its end to be told', () => end.test(out));
        assert.equal(out.match(new RegExp(id, 'g')).length, 2, 'a line for each change');
        const exited = new Promise((resolve) => follower.once('exit', resolve));
        follower.kill('SIGINT');
        assert.equal(await withDeadline(exited, 'the follower to end'), 0);
      } finally {
        follower.kill('SIGKILL');
      }
    },
    { warm: ['chat'], leaks: false },
  ),
);

test(
  "tokens are the real llama-server's own count, whatever the dialect",
  withCorral(
    () => ({ pools: [realPool('tiny')] }),
    async (corral) => {
      const messages = [{ role: 'user', content: 'Hello' }];
      const asks = [
        ['/v1/chat/completions', { messages, max_tokens: 12 }],
        ['/v1/chat/completions', { messages, max_tokens: 12, stream: true }],
        ['/v1/completions', { prompt: 'Hello', max_tokens: 12 }],
        ['/v1/messages', { messages, max_tokens: 12 }],
        ['/v1/messages', { messages, max_tokens: 12, stream: true }],
        ['/v1/responses', { input: 'Hello', max_output_tokens: 12, stream: true }],
        ['/completion', { prompt: 'Hello', n_predict: 12, stream: true }],
      ];
      for (const [i, [route, body]] of asks.entries()) {
        const id = `ask-${i}`;
        const answer = await corral.post(
          route,
          { model: 'tiny', ...body, temperature: 0, seed: 1 },
          { headers: { 'x-request-id': id } },
        );
        assert.equal(answer.status, 200, answer.text);
        const record = await find(corral, id);
        const what = `${route} ${JSON.stringify(record)}\n${answer.text.slice(-2000)}`;
        assert.equal(record.output_tokens, 12, what);
        assert.equal(record.tokens_from, 'usage', what);
        assert.ok(record.prompt_tokens > 0 && record.tokens_per_s > 0, what);
        assert.equal(record.first_token_ms === null, !body.stream, what);
      }
      assert.ok((await find(corral, 'ask-6')).usual_tokens_per_s > 0);
      const slots = await corral.get('/slots?model=tiny');
      assert.equal(slots.status, 200, slots.text);
      assert.ok(Array.isArray(slots.json));
      const erased = await corral.send('POST', '/slots/0?action=erase&model=tiny');
      assert.ok(erased.status < 502 && erased.headers['x-corral-replica'], erased.text);
    },
    { warm: ['tiny'], leaks: false },
  ),
);
