// SPDX-License-Identifier: Apache-2.0
// What a request that cannot be served gets: status, envelope, words.
import assert from 'node:assert/strict';
import test from 'node:test';
import { fakePool, until, withCorral } from './harness.mjs';

const two = () => ({ body: { max: '64KiB' }, pools: [fakePool('coder'), fakePool('chat')] });
const served = (body, opts = {}) => withCorral(two, body, { leaks: true, ...opts });

function envelope(answer, status, code) {
  assert.equal(answer.status, status, answer.text);
  assert.equal(answer.json?.error?.corral?.code, code, answer.text);
  assert.equal(typeof answer.json.error.message, 'string');
  assert.equal(answer.json.error.corral.request_id, answer.headers['x-request-id']);
  assert.equal(typeof answer.json.error.corral.retriable, 'boolean');
  return answer.json.error;
}

test(
  'an unknown model: 404 with the nearest ids',
  served(async (corral) => {
    const error = envelope(await corral.chat('codre'), 404, 'MODEL_NOT_FOUND');
    assert.equal(error.code, 'model_not_found');
    assert.match(error.message, /coder/);
  }),
);

test(
  'no model while two pools are there: 400 naming both',
  served(async (corral) => {
    const error = envelope(
      await corral.post('/v1/chat/completions', { messages: [] }),
      400,
      'INVALID_PARAMS',
    );
    assert.match(error.message, /coder/);
    assert.match(error.message, /chat/);
  }),
);

test(
  'an unknown path, and a method that a path has not',
  served(async (corral) => {
    assert.equal((await corral.get('/v1/nothing')).status, 404);
    const answer = await corral.send('DELETE', '/v1/models');
    envelope(answer, 405, 'INVALID_PARAMS');
    assert.match(answer.headers.allow, /GET/);
  }),
);

test(
  'a body over body.max: 413',
  served(async (corral) => {
    envelope(await corral.chat('coder', { padding: 'x'.repeat(70000) }), 413, 'PAYLOAD_TOO_LARGE');
  }),
);

test(
  'JSON that is none, and one with two models: 400',
  served(async (corral) => {
    envelope(await corral.post('/v1/chat/completions', '{"model": '), 400, 'INVALID_PARAMS');
    envelope(
      await corral.post('/v1/chat/completions', '{"model": "chat", "model": "coder"}'),
      400,
      'INVALID_PARAMS',
    );
  }),
);

test(
  'the browser guard: content type 415, Host 421, Origin 403, and nothing is started',
  served(async (corral) => {
    const body = JSON.stringify({ model: 'coder', messages: [] });
    assert.equal(
      (await corral.post('/v1/chat/completions', body, { headers: { 'content-type': 'text/plain' } }))
        .status,
      415,
    );
    assert.equal(
      (await corral.get('/v1/models', { headers: { host: 'attacker.example' } })).status,
      421,
    );
    for (const origin of ['http://attacker.example', 'null']) {
      const answer = await corral.post('/v1/chat/completions', body, { headers: { origin } });
      assert.equal(answer.status, 403);
      assert.equal(answer.headers['access-control-allow-origin'], undefined);
      assert.equal((await corral.get('/v1/models', { headers: { origin } })).status, 403);
    }
    assert.equal(corral.engines().length, 0, 'no engine was started');
  }),
);

test(
  '/v1/messages has its own envelope',
  served(async (corral) => {
    const answer = await corral.post('/v1/messages', { model: 'nobody', max_tokens: 4, messages: [] });
    assert.equal(answer.status, 404);
    assert.equal(answer.json.type, 'error');
    assert.equal(answer.json.error.type, 'not_found_error');
    assert.equal(answer.json.request_id, answer.headers['request-id']);
  }),
);

test(
  'no GET starts an engine',
  served(async (corral) => {
    for (const target of [
      '/v1/models',
      '/models',
      '/v1/models/coder',
      '/props?model=coder',
      '/v1/pools',
      '/v1/pools/coder',
      '/v1/pools/coder/health',
      '/metrics',
      '/healthz',
      '/readyz',
      '/v1/version',
    ]) {
      assert.equal((await corral.get(target)).status, 200, target);
    }
    assert.equal(corral.engines().length, 0);
    assert.equal((await corral.get('/v1/pools/nobody/health')).status, 404);
  }),
);

test(
  'a full queue: 429 with the policy',
  withCorral(
    () => ({
      pools: [
        fakePool('one', ['--prefill-ms', 600000], {
          slots: 1,
          queue: { capacity: 1, policy: 'reject' },
        }),
      ],
    }),
    async (corral) => {
      const gone = new AbortController();
      const waiting = [0, 1].map(() =>
        fetch(`${corral.url}/v1/chat/completions`, {
          method: 'POST',
          headers: { 'content-type': 'application/json' },
          signal: gone.signal,
          body: JSON.stringify({ model: 'one', messages: [], stream: true }),
        }).catch(() => null),
      );
      await until('one request in its slot and one in the queue', async () => {
        const { text } = await corral.get('/metrics');
        return (
          /corral_requests_waiting\{[^}]*pool="one"[^}]*\} 1\b/.test(text) &&
          /corral_leases\{pool="one"\} 1\b/.test(text)
        );
      });
      const answer = await corral.chat('one');
      envelope(answer, 429, 'ADMISSION_REJECT');
      assert.equal(answer.headers['x-should-retry'], 'true');
      gone.abort();
      await Promise.all(waiting);
    },
    { leaks: false },
  ),
);
