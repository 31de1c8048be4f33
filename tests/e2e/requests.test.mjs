// SPDX-License-Identifier: Apache-2.0
// What clients ask besides chats, and what can be seen and ended of a request while it lives and after.
import assert from 'node:assert/strict';
import crypto from 'node:crypto';
import http from 'node:http';
import test from 'node:test';
import OpenAI, { toFile } from 'openai';
import { fakeLlamaPool, fakePool, send, withCorral } from './harness.mjs';

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
