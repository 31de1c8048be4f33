// SPDX-License-Identifier: Apache-2.0
// The official client against the real llama-server behind Corral.
import assert from 'node:assert/strict';
import test from 'node:test';
import OpenAI from 'openai';
import { model, realPool, sse, until, withCorral } from './harness.mjs';

const client = (corral) => new OpenAI({ baseURL: `${corral.url}/v1`, apiKey: 'none', maxRetries: 0 });
const hello = [{ role: 'user', content: 'Hello' }];

test(
  'the client lists models, chats and streams',
  withCorral(
    () => ({ pools: [realPool('tiny', { aliases: ['gpt-4o-mini'] })] }),
    async (corral) => {
      const openai = client(corral);
      const ids = (await openai.models.list()).data.map((m) => m.id);
      assert.ok(ids.includes('tiny'), JSON.stringify(ids));
      assert.equal((await openai.models.retrieve('tiny')).id, 'tiny');

      const fields = { model: 'tiny', messages: hello, max_tokens: 12, seed: 7, temperature: 0 };
      const whole = await openai.chat.completions.create(fields);
      assert.equal(whole.choices[0].finish_reason, 'length');
      assert.equal(whole.usage.completion_tokens, 12);

      const stream = await openai.chat.completions.create({
        ...fields,
        stream: true,
        stream_options: { include_usage: true },
      });
      let text = '';
      let finish;
      let usage;
      for await (const chunk of stream) {
        text += chunk.choices[0]?.delta?.content ?? '';
        finish = chunk.choices[0]?.finish_reason ?? finish;
        usage = chunk.usage ?? usage;
      }
      assert.equal(text, whole.choices[0].message.content);
      assert.equal(finish, 'length');
      assert.equal(usage.completion_tokens, 12);
      assert.equal(
        (await openai.chat.completions.create({ ...fields, model: 'gpt-4o-mini' })).choices[0].message
          .content,
        text,
      );
    },
    { warm: ['tiny'] },
  ),
);

test(
  'the client gets embeddings',
  withCorral(
    () => ({ pools: [realPool('embed', { args: ['--embeddings', '--pooling', 'mean'] })] }),
    async (corral) => {
      const { data } = await client(corral).embeddings.create({
        model: 'embed',
        input: ['one', 'two'],
        encoding_format: 'float',
      });
      assert.equal(data.length, 2);
      assert.ok(data[0].embedding.length > 0 && data[0].embedding.some((x) => x !== 0));
    },
    { leaks: false },
  ),
);

test(
  'a stream that the client aborts frees its slot',
  withCorral(
    () => ({ pools: [realPool('tiny', { slots: 1 })] }),
    async (corral) => {
      const stream = await client(corral).chat.completions.create({
        model: 'tiny',
        messages: hello,
        stream: true,
        max_tokens: 1900,
      });
      for await (const chunk of stream) {
        if (chunk.choices[0]?.delta?.content) break;
      }
      stream.controller.abort();
      await until('the lease to end', async () => (await corral.leases('tiny')) === 0, 10000);
      assert.equal((await corral.chat('tiny')).status, 200);
    },
    { warm: ['tiny'] },
  ),
);

test(
  'a newcomer reads the sentence of `says`',
  withCorral(
    () => ({ pools: [realPool('says', { model: model('says') })] }),
    async (corral) => {
      const answer = await corral.chat('says', { stream: true, max_tokens: 200 });
      const events = sse(answer.text);
      assert.equal(events.at(-1).data, '[DONE]');
      const text = events
        .slice(0, -1)
        .map((e) => JSON.parse(e.data).choices[0]?.delta?.content ?? '')
        .join('');
      assert.match(text, /\w+ \w+ \w+/);
      assert.ok(answer.complete);
    },
    { leaks: false },
  ),
);

test(
  'an overflow is told in the words agents know',
  withCorral(
    () => ({ pools: [realPool('tiny', { ctx: 256 })] }),
    async (corral) => {
      const long = [{ role: 'user', content: 'x'.repeat(400) }];
      const error = await client(corral)
        .chat.completions.create({ model: 'tiny', messages: long })
        .then(
          () => null,
          (e) => e,
        );
      assert.equal(error.status, 400);
      assert.equal(error.code, 'context_length_exceeded');
      assert.match(error.message, /maximum context length is 256 tokens; the request has \d+/);
    },
    { warm: ['tiny'] },
  ),
);
