// SPDX-License-Identifier: Apache-2.0
// What the official clients make of our errors and of progress: how often they ask, what they throw, and
// that an answer is complete whatever was told before it. Requests are counted where a client sends them.
import assert from 'node:assert/strict';
import test from 'node:test';
import Anthropic from '@anthropic-ai/sdk';
import OpenAI from 'openai';
import { fakeLlamaPool, fakePool, send, stubDriver, until, withCorral } from './harness.mjs';

const hello = [{ role: 'user', content: 'Hello' }];

/** A fetch that keeps what was answered: {status, headers, text} of each; seen() may hold one back. */
function recorder(seen = () => {}) {
  const answers = [];
  const through = async (url, init) => {
    const res = await fetch(url, init);
    const answer = { status: res.status, headers: res.headers, text: '' };
    answers.push(answer);
    await seen(answer, answers.length);
    const [mine, theirs] = res.body.tee();
    answer.read = (async () => {
      const decoder = new TextDecoder();
      for await (const part of mine) answer.text += decoder.decode(part, { stream: true });
    })().catch(() => {});
    return new Response(theirs, { status: res.status, headers: res.headers });
  };
  return { answers, fetch: through };
}

const openai = (corral, { fetch: through }, opts = {}) =>
  new OpenAI({ baseURL: `${corral.url}/v1`, apiKey: 'none', fetch: through, ...opts });
const anthropic = (corral, { fetch: through }, opts = {}) =>
  new Anthropic({ baseURL: corral.url, apiKey: 'none', fetch: through, ...opts });

const thrown = (promise) =>
  promise.then(
    (value) => assert.fail(`nothing was thrown: ${JSON.stringify(value)}`),
    (error) => error,
  );

/** Every way to ask, streamed: run(client, model, fields) gives {text, finish}. */
const ways = {
  'chat, raw': {
    client: openai,
    run: async (client, model, fields) => {
      let text = '';
      let finish;
      const stream = await client.chat.completions.create({
        model,
        messages: hello,
        stream: true,
        ...fields,
      });
      for await (const chunk of stream) {
        text += chunk.choices[0]?.delta?.content ?? '';
        finish = chunk.choices[0]?.finish_reason ?? finish;
      }
      return { text, finish };
    },
  },
  'chat, helper': {
    client: openai,
    run: async (client, model, fields) => {
      const whole = await client.chat.completions
        .stream({ model, messages: hello, ...fields })
        .finalChatCompletion();
      return { text: whole.choices[0].message.content, finish: whole.choices[0].finish_reason };
    },
  },
  completions: {
    client: openai,
    run: async (client, model, fields) => {
      let text = '';
      let finish;
      const stream = await client.completions.create({ model, prompt: 'x', stream: true, ...fields });
      for await (const chunk of stream) {
        text += chunk.choices[0]?.text ?? '';
        finish = chunk.choices[0]?.finish_reason ?? finish;
      }
      return { text, finish };
    },
  },
  'responses, raw': {
    client: openai,
    run: async (client, model, fields) => {
      let text = '';
      let finish;
      const stream = await client.responses.create({ model, input: 'x', stream: true, ...fields });
      for await (const event of stream) {
        if (event.type === 'response.output_text.delta') text += event.delta;
        if (event.type === 'response.failed') throw new Error(event.response.error.message);
        if (event.type === 'response.completed') finish = event.response.status;
      }
      return { text, finish };
    },
  },
  'messages, raw': {
    client: anthropic,
    run: async (client, model, fields) => {
      let text = '';
      let finish;
      const stream = await client.messages.create({
        model,
        max_tokens: 100,
        messages: hello,
        stream: true,
        ...fields,
      });
      for await (const event of stream) {
        if (event.type === 'content_block_delta') text += event.delta.text;
        if (event.type === 'message_delta') finish = event.delta.stop_reason;
      }
      return { text, finish };
    },
  },
  'messages, helper': {
    client: anthropic,
    run: async (client, model, fields) => {
      const whole = await client.messages
        .stream({ model, max_tokens: 100, messages: hello, ...fields })
        .finalMessage();
      return { text: whole.content.map((c) => c.text).join(''), finish: whole.stop_reason };
    },
  },
};

// ---- errors that are a status ------------------------------------------------------------------------

test(
  'overflow: one request, and one error with the words that make an agent compact',
  withCorral(
    () => ({ pools: [fakePool('tiny', ['-c', 32768], { slots: 1 })] }),
    async (corral) => {
      const sentence =
        "This model's maximum context length is 32768 tokens; the request has 33100 (exceeds the available " +
        'context size).';
      const fields = { fake: { prompt_tokens: 33100 } };
      for (const [name, way] of Object.entries(ways)) {
        const seen = recorder();
        const error = await thrown(way.run(way.client(corral, seen), 'tiny', fields));
        assert.equal(seen.answers.length, 1, name);
        assert.equal(error.status, 400, name);
        assert.ok(error.message.includes(sentence), `${name}: ${error.message}`);
        if (way.client === openai) {
          assert.equal(error.code, 'context_length_exceeded', name);
          assert.equal(error.type, 'invalid_request_error', name);
          assert.equal(error.error.n_prompt_tokens, 33100, name);
          assert.equal(error.error.n_ctx, 32768, name);
        } else {
          assert.match(error.message, /prompt is too long: 33100 tokens > 32768 maximum/, name);
          assert.equal(error.error.error.type, 'invalid_request_error', name);
        }
      }
    },
    { warm: ['tiny'] },
  ),
);

for (const [name, client, ask, status, type] of [
  [
    'openai',
    openai,
    (c) => c.chat.completions.create({ model: 'one', messages: hello }),
    429,
    'rate_limit_error',
  ],
  [
    'anthropic',
    anthropic,
    (c) => c.messages.create({ model: 'one', max_tokens: 8, messages: hello }),
    529,
    'overloaded_error',
  ],
])
  test(
    `busy: the client of ${name} asks once more, after the time it was given`,
    withCorral(
      () => ({ pools: [fakePool('one', [], { slots: 1, queue: { capacity: 0 } })] }),
      async (corral) => {
        const controller = new AbortController();
        const body = { model: 'one', messages: hello, stream: true, fake: { event_interval_us: 20000 } };
        body.fake.tokens = body.max_tokens = 100000;
        let began;
        const first = new Promise((resolve) => (began = resolve));
        const busy = send(corral.url, 'POST', '/v1/chat/completions', {
          body,
          signal: controller.signal,
          onData: began,
        }).catch(() => {});
        await first;

        // Told that it is busy, the client waits; the slot is free before it asks again.
        const seen = recorder(async (answer, n) => {
          if (n > 1) return;
          controller.abort();
          await busy;
          await until('the slot to be free', async () => (await corral.leases('one')) === 0);
        });
        await ask(client(corral, seen));
        assert.deepEqual(
          seen.answers.map((a) => a.status),
          [status, 200],
        );
        const { headers } = seen.answers[0];
        assert.equal(headers.get('x-should-retry'), 'true');
        assert.equal(headers.get('retry-after'), '1');
        assert.equal(headers.get('retry-after-ms'), '1000');
        await seen.answers[0].read;
        assert.equal(JSON.parse(seen.answers[0].text).error.type, type);
      },
      { warm: ['one'] },
    ),
  );

test(
  'a pool that failed for good: no retry, and the reason',
  withCorral(
    () => ({ pools: [fakeLlamaPool('broken', ['--start-fails', 'bad_model'])] }),
    async (corral) => {
      for (const [name, way] of Object.entries(ways)) {
        const seen = recorder();
        const error = await thrown(way.run(way.client(corral, seen), 'broken'));
        assert.equal(seen.answers.length, 1, name);
        assert.equal(error.status, 503, name);
        assert.equal(seen.answers[0].headers.get('x-should-retry'), 'false', name);
        assert.match(error.message, /Pool broken cannot serve/, name);
      }
    },
    { leaks: false },
  ),
);

{
  const card = 'device|GPU-aaaa1111-0000-0000-0000-000000000000|Stub|00000000:01:00.0|12288|0|25|51|8.9|0';
  const driver = stubDriver(card, 'account');
  test(
    'a model that fits no device: no retry, and what is missing',
    withCorral(
      () => ({ pools: [fakePool('huge', [], { memory: '30GiB' })] }),
      async (corral) => {
        for (const [name, way] of Object.entries(ways)) {
          const seen = recorder();
          const error = await thrown(way.run(way.client(corral, seen), 'huge'));
          assert.equal(seen.answers.length, 1, name);
          assert.equal(error.status, 503, name);
          assert.equal(seen.answers[0].headers.get('x-should-retry'), 'false', name);
          assert.match(error.message, /needs 30\.0 GiB/, name);
        }
        assert.deepEqual(corral.engines(), [], 'nothing was tried');
      },
      { env: driver.env, leaks: false },
    ),
  );
}

// ---- errors in a stream ------------------------------------------------------------------------------

test(
  'a stream that breaks off is an error that is thrown',
  withCorral(
    () => ({ pools: [fakePool('chat')] }),
    async (corral) => {
      for (const [name, way] of Object.entries(ways)) {
        const seen = recorder();
        const error = await thrown(
          way.run(way.client(corral, seen), 'chat', { fake: { fault: 'close@3' } }),
        );
        assert.match(error.message, /ended in the middle of the answer/, name);
        assert.equal(seen.answers.length, 1, name);
        assert.equal(seen.answers[0].status, 200, name);
      }
    },
    { warm: ['chat'], leaks: false },
  ),
);

// ---- progress ----------------------------------------------------------------------------------------

const soon = { after: '50ms', every: '50ms' };
const modes = ['auto', 'chunk', 'comment', 'reasoning', 'off'];
const told = {
  auto: /^(data: .*"(delta":\{\}|text":"").*|event: ping)\n/,
  chunk: /^(data: .*"(delta":\{\}|text":"").*|event: ping)\n/,
  comment: /^: \w+ reads the prompt\n/,
  reasoning: /^(data: .*"reasoning_content":"reasoning reads the prompt\\n"|data: .*"text":""|event: ping\n)/,
};

test(
  'progress: each client takes each form, and its answer is the whole one',
  withCorral(
    () => ({ pools: modes.map((mode) => fakePool(mode, [], { progress: { mode, ...soon } })) }),
    async (corral) => {
      for (const [name, way] of Object.entries(ways)) {
        const fields = { fake: { tokens: 5 } };
        const want = await way.run(way.client(corral, recorder()), 'off', fields);
        assert.match(want.text, /tok0 tok1 tok2 tok3 tok4/, name);
        assert.ok(want.finish, name);
        for (const mode of modes) {
          const seen = recorder();
          const slow = { fake: { ...fields.fake, prefill_ms: 400 } };
          assert.deepEqual(await way.run(way.client(corral, seen), mode, slow), want, `${name}, ${mode}`);
          await seen.answers[0].read;
          const silent = mode === 'off' || (name.startsWith('responses') && mode !== 'comment');
          if (silent) assert.doesNotMatch(seen.answers[0].text, /"delta":\{\},"finish_reason":null/);
          else assert.match(seen.answers[0].text, told[mode], `${name}, ${mode}`);
          assert.equal(seen.answers.length, 1, `${name}, ${mode}`);
        }
      }
    },
    { warm: modes },
  ),
);

test(
  'progress: what fails early is a status, what fails later an error that is thrown from the stream',
  withCorral(
    () => ({
      pools: [
        fakePool('early', ['--status', 422], { progress: { after: '1h' } }),
        ...Object.keys(ways).map((name, i) =>
          fakePool(`late-${i}`, ['--ready-after-ms', 600, '--status', 422], {
            progress: { mode: 'comment', ...soon },
          }),
        ),
      ],
    }),
    async (corral) => {
      for (const [i, [name, way]] of Object.entries(ways).entries()) {
        const early = recorder();
        const error = await thrown(way.run(way.client(corral, early), 'early'));
        assert.equal(error.status, 422, name);
        assert.equal(early.answers.length, 1, name);

        const late = recorder();
        const inStream = await thrown(way.run(way.client(corral, late), `late-${i}`));
        assert.match(inStream.message, /as asked/, name);
        assert.equal(inStream.status, undefined, name);
        assert.deepEqual(
          late.answers.map((a) => a.status),
          [200],
          name,
        );
        await late.answers[0].read;
        assert.match(late.answers[0].text, /^: (starting|waiting for) late-/, name);
      }
    },
    { leaks: false },
  ),
);

test(
  'progress: the helper of the Responses API has the failed response',
  withCorral(
    () => ({
      pools: [
        fakePool('late', ['--ready-after-ms', 600, '--status', 422], {
          progress: { mode: 'comment', ...soon },
        }),
      ],
    }),
    async (corral) => {
      const events = [];
      const stream = openai(corral, recorder()).responses.stream({ model: 'late', input: 'x' });
      stream.on('event', (event) => events.push(event));
      const error = await thrown(stream.finalResponse()); // the connection ends without an end
      assert.ok(error instanceof Error);
      assert.deepEqual(
        events.map((e) => [e.type, e.sequence_number, e.response.status, e.response.error?.message]),
        [
          ['response.created', 0, 'in_progress', undefined],
          ['response.failed', 1, 'failed', 'as asked'],
        ],
      );
    },
    { leaks: false },
  ),
);

test(
  'progress: a second start tells how far it is, and who waited in vain when to ask again',
  withCorral(
    () => ({
      pools: [
        fakePool('slow', ['--ready-after-ms', 3000], {
          queue: { max_wait: '20s' },
          progress: { mode: 'comment', ...soon },
        }),
        fakePool('short', ['--ready-after-ms', 2000], { queue: { max_wait: '1s' } }),
      ],
    }),
    async (corral) => {
      const stream = { stream: true };
      const first = await corral.chat('slow', stream);
      assert.match(first.text, /^: starting slow$/m);
      assert.doesNotMatch(first.text, /^: starting slow \d+ %$/m);
      await corral.ready('slow');
      assert.equal((await corral.cli('stop', 'slow')).code, 0);
      await until('the engine to be gone', () => !corral.engineOf('slow'));
      const second = await corral.chat('slow', stream);
      const told = [...second.text.matchAll(/^: starting slow (\d+) %$/gm)].map((m) => Number(m[1]));
      assert.ok(told.length > 1, second.text.slice(0, 2000));
      assert.deepEqual(told, told.toSorted((a, b) => a - b));

      await corral.post('/v1/pools/short/start', {});
      await corral.ready('short');
      assert.equal((await corral.cli('stop', 'short')).code, 0);
      await until('the engine to be gone', () => !corral.engineOf('short'));
      const late = await corral.chat('short');
      assert.equal(late.status, 503, late.text);
      assert.match(late.json.error.message, /starting short \d+ % \(about \d+ s to go\)/);
      const ms = Number(late.headers['retry-after-ms']);
      assert.ok(ms >= 1000 && ms <= 60000, `${ms}`);
      assert.equal(late.headers['retry-after'], String(Math.ceil(ms / 1000)));
      assert.equal(late.headers['x-should-retry'], 'true');
    },
    { leaks: false },
  ),
);
