// SPDX-License-Identifier: Apache-2.0
// Requests that are sent again: who may be, how often, and who is to blame.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import test from 'node:test';
import { fakeLlamaPool, fakePath, fakePool, send, sse, until, withCorral } from './harness.mjs';

const user = (content) => ({ messages: [{ role: 'user', content }] });
const code = (answer) => answer.json?.error?.corral?.code;
const pids = (corral, id) => corral.pool(id).then((p) => p.replicas.map((r) => r.pid));

const allReady = (corral, id) =>
  until('all to be ready', async () => (await corral.pool(id)).replicas.every((r) => r.state === 'ready'));

/** Changes how the engine behind a replica behaves from here on. */
async function behave(corral, id, index, what) {
  const { replicas } = await corral.pool(id);
  const socket = replicas[index].address.replace(/^unix:/, '');
  const answer = await send(socket, 'POST', '/fake/behave', { body: what });
  assert.equal(answer.status, 200, answer.text);
}

for (const replicas of [1, 2]) {
  test(
    `a poison request among 20 innocent ones on ${replicas}: 502 after two crashes, the others are answered`,
    withCorral(
      () => ({
        pools: [fakePool('p', ['--abort-on', 'POISON', '--prefill-ms', 100], { replicas, slots: 4 })],
      }),
      async (corral) => {
        const innocent = Array.from({ length: 20 }, (_, i) =>
          corral.chat('p', { ...user(`innocent ${i}`), stream: i % 2 === 0 }),
        );
        const poison = await corral.chat('p', { ...user('POISON'), stream: true });
        assert.equal(poison.status, 502, poison.text);
        assert.equal(code(poison), 'ENGINE_FAILED');
        assert.equal(poison.headers['x-should-retry'], 'false');
        assert.match(poison.json.error.message, /2 engines of pool p crashed/);
        for (const { status, text, complete } of await Promise.all(innocent)) {
          assert.equal(status, 200, text);
          assert.ok(complete);
        }
        const { replicas: now } = await corral.pool('p');
        assert.equal(
          now.reduce((sum, r) => sum + r.restarts, 0),
          2,
          'two crashes and no more',
        );
        assert.ok(now.every((r) => r.state !== 'failed'), 'the breaker is closed');
        assert.equal((await corral.chat('p')).status, 200);
      },
      { warm: ['p'], leaks: false },
    ),
  );
}

test(
  'SIGKILL of an engine with 50 requests without a byte: all are answered',
  withCorral(
    () => ({
      pools: [fakePool('p', ['--prefill-ms', 400], { slots: 50 })],
    }),
    async (corral) => {
      const all = Array.from({ length: 50 }, (_, i) => corral.chat('p', { stream: i % 2 === 0 }));
      await until('all to be in the engine', async () => (await corral.leases('p')) === 50);
      process.kill(corral.engineOf('p').pid, 'SIGKILL');
      for (const { status, text } of await Promise.all(all)) assert.equal(status, 200, text);
      await until('no lease to be left', async () => (await corral.leases('p')) === 0);
    },
    { warm: ['p'], leaks: false },
  ),
);

test(
  'an engine that closes instead of answering, once: answered by the same one, which lives',
  withCorral(
    () => ({ pools: [fakePool('p')] }),
    async (corral) => {
      const [before] = await pids(corral, 'p');
      await behave(corral, 'p', 0, { fault: 'close@request', for_requests: 1 });
      assert.equal((await corral.chat('p')).status, 200);
      assert.deepEqual(await pids(corral, 'p'), [before]);
    },
    { warm: ['p'], leaks: false },
  ),
);

test(
  'an engine that closes every time and lives: ENGINE_FAILED after four, and others go on',
  withCorral(
    () => ({ pools: [fakePool('p')] }),
    async (corral) => {
      const [before] = await pids(corral, 'p');
      const answer = await corral.chat('p', { fake: { fault: 'close@request' } });
      assert.equal(answer.status, 502, answer.text);
      assert.equal(code(answer), 'ENGINE_FAILED');
      assert.equal(answer.headers['x-should-retry'], 'true');
      assert.equal((await corral.chat('p')).status, 200);
      assert.deepEqual(await pids(corral, 'p'), [before]);
    },
    { warm: ['p'], leaks: false },
  ),
);

/** The circuits of a pool's replicas as the API, and as the metrics say. */
async function circuits(corral, id) {
  const { replicas } = await corral.pool(id);
  const figure = await corral.figures();
  const names = { 0: 'closed', 1: 'half-open', 2: 'open' };
  const of = (r) => names[figure('corral_circuit_state', { pool: id, replica: r.id })];
  return { told: replicas.map((r) => r.circuit), figures: replicas.map(of) };
}

/** The first five answers of p's only engine are failures of its own; those after them as behave says. */
async function openCircuit(corral, more) {
  await behave(corral, 'p', 0, { status: 500, ...more });
  for (let i = 0; i < 5; i++) assert.equal((await corral.chat('p')).status, 500);
  assert.deepEqual((await circuits(corral, 'p')).told, ['open']);
}

/** A test that begins with the open circuit of p's only engine. */
const withOpenCircuit = (pool, more, body) =>
  withCorral(
    () => ({ pools: [fakePool('p', [], pool)] }),
    async (corral) => {
      await openCircuit(corral, more);
      await body(corral);
    },
    { warm: ['p'], leaks: false },
  );

test(
  '500s of one replica: answered by the other, and after five in a row only that one is asked',
  withCorral(
    () => ({ pools: [fakePool('p', [], { replicas: 2, slots: 1 })] }),
    async (corral) => {
      await allReady(corral, 'p');
      await behave(corral, 'p', 0, { status: 500 });
      const answers = [];
      for (let i = 0; i < 25; i++) answers.push(await corral.chat('p')); // p-0 is asked first each time
      assert.deepEqual([...new Set(answers.map((a) => a.status))], [200]);
      assert.ok(answers.every((a) => a.headers['x-corral-replica'] === 'p-1'));
      const now = await circuits(corral, 'p');
      assert.deepEqual(now, { told: ['open', 'closed'], figures: ['open', 'closed'] });
      const figure = await corral.figures();
      assert.equal(figure('corral_request_retries_total', { pool: 'p', reason: 'status' }), 5);
      assert.equal(figure('corral_circuit_opens_total', { pool: 'p', replica: 'p-0' }), 1);
    },
    { warm: ['p'], leaks: false },
  ),
);

test(
  'a circuit that opens: who comes waits, one tries it, fails, and the next one is answered',
  withCorral(
    () => ({ pools: [fakePool('p', [], { slots: 4 })] }),
    async (corral) => {
      const [before] = await pids(corral, 'p');
      const changes = [];
      const gone = new AbortController();
      let text = '';
      const onData = (d) => {
        text += d;
        for (const { data } of sse(text.slice(0, text.lastIndexOf('\n\n') + 2)))
          if (JSON.parse(data).action === 'circuit') changes.push(JSON.parse(data).state);
        text = text.slice(text.lastIndexOf('\n\n') + 2);
      };
      let open = false;
      const heard = corral
        .get('/v1/events', { signal: gone.signal, onData: (d) => ((open = true), onData(d)) })
        .catch((e) => e.name);
      await until('the stream of events', () => open);
      await openCircuit(corral, { for_requests: 6 });
      const waiting = Array.from({ length: 6 }, (_, i) => corral.chat('p', { stream: i % 2 === 0 }));
      const statuses = (await Promise.all(waiting)).map((a) => a.status).sort();
      assert.deepEqual(statuses, [200, 200, 200, 200, 200, 500], 'the one on trial failed');
      await until('the circuit to be closed', async () => (await circuits(corral, 'p')).told[0] === 'closed');
      await until('it to be told', () => changes.length === 5);
      assert.deepEqual(changes, ['open', 'half-open', 'open', 'half-open', 'closed']);
      assert.deepEqual(await pids(corral, 'p'), [before], 'no engine was started for it');
      gone.abort();
      await heard;
    },
    { warm: ['p'], leaks: false },
  ),
);

test(
  'the client on trial leaves before a byte: the next has the trial',
  withOpenCircuit({ slots: 4 }, { for_requests: 5 }, async (corral) => {
    const gone = new AbortController();
    const first = corral
      .chat('p', { stream: true, fake: { prefill_ms: 600000 } }, { signal: gone.signal })
      .catch((e) => e.name);
    await until('it to wait', async () => (await corral.pool('p')).waiting === 1);
    const rest = Array.from({ length: 3 }, () => corral.chat('p'));
    await until('the trial', async () => (await circuits(corral, 'p')).told[0] === 'half-open');
    const { leases, waiting } = await corral.pool('p');
    assert.deepEqual({ leases, waiting }, { leases: 1, waiting: 3 }, 'exactly one is let through');
    gone.abort();
    assert.equal(await first, 'AbortError');
    for (const { status } of await Promise.all(rest)) assert.equal(status, 200);
    assert.deepEqual((await circuits(corral, 'p')).told, ['closed']);
  }),
);

test(
  'a trial that lasts: another one is let through, and its answer closes the circuit',
  withOpenCircuit({ slots: 4 }, { for_requests: 5 }, async (corral) => {
    const gone = new AbortController();
    const long = corral
      .chat('p', { fake: { prefill_ms: 600000 } }, { signal: gone.signal })
      .catch((e) => e.name);
    await until('the trial', async () => (await corral.pool('p')).leases === 1);
    assert.equal((await corral.chat('p')).status, 200);
    assert.deepEqual((await circuits(corral, 'p')).told, ['closed']);
    gone.abort();
    assert.equal(await long, 'AbortError');
  }),
);

test(
  'a circuit that stays open: who waits is told so after max_wait',
  withOpenCircuit({ queue: { max_wait: '1s' } }, {}, async (corral) => {
    const answer = await corral.chat('p');
    assert.equal(answer.status, 503, answer.text);
    assert.equal(code(answer), 'POOL_UNREADY');
    assert.match(answer.json.error.message, /queue\.max_wait; its engine lives and fails/);
  }),
);

test(
  'the only engine closes every time and lives: once its circuit is open nobody waits for a second trial',
  withCorral(
    () => ({ pools: [fakePool('p')] }),
    async (corral) => {
      const opens = async () => (await corral.figures())('corral_circuit_opens_total', { pool: 'p' }) ?? 0;
      await behave(corral, 'p', 0, { fault: 'close@request' });
      for (const [times, opened] of [
        ['4 times', 0],
        ['1 time', 1],
      ]) {
        const answer = await corral.chat('p');
        assert.equal(answer.status, 502, answer.text);
        assert.match(answer.json.error.message, new RegExp(`and live \\(${times}\\)`));
        assert.equal(answer.headers['x-should-retry'], 'true');
        await until('it to be counted', async () => (await opens()) === opened);
      }
      await behave(corral, 'p', 0, { reset: true });
      assert.equal((await corral.chat('p')).status, 200, 'the trial');
      assert.equal(await opens(), 1);
    },
    { warm: ['p'], leaks: false },
  ),
);

test(
  'a 500 where there is no other replica, and a 400 where there is: as the engine said it',
  withCorral(
    () => ({ pools: [fakePool('one'), fakePool('two', [], { replicas: 2 })] }),
    async (corral) => {
      const body = '{"error":{"code":500,"message":"so it is","type":"server_error"}}';
      const error_body = body.replaceAll('"', '\\"');
      const failed = await corral.chat('one', { fake: { status: 500, error_body } });
      assert.equal(failed.status, 500);
      assert.match(failed.text, /so it is/);
      assert.equal((await corral.chat('two', { fake: { status: 400 } })).status, 400);
      const figure = await corral.figures();
      assert.equal(figure('corral_request_retries_total', { pool: 'two', reason: 'status' }) ?? 0, 0);
    },
    { warm: ['one', 'two'], leaks: false },
  ),
);

// ---- engines that stand still ------------------------------------------------------------------------

const quick = { stall_timeout: '500ms' };

for (const [name, fault, pool] of [
  ['a stream that hangs', 'hang@3', fakeLlamaPool],
  ['SIGSTOP in the stream', 'stop@3', fakeLlamaPool],
  ['a stream that hangs in an engine without slots', 'hang@3', fakePool],
]) {
  test(
    `${name}: its engine is replaced, the other replica's stream loses nothing`,
    withCorral(
      () => ({
        pools: [pool('p', ['--event-interval-us', 100000], { replicas: 2, slots: 1, ...quick })],
      }),
      async (corral) => {
        await allReady(corral, 'p');
        const before = await pids(corral, 'p');
        const hung = corral.chat('p', { stream: true, max_tokens: 9, fake: { fault } });
        await until('it to be in the engine', async () => (await corral.leases('p')) === 1);
        const other = corral.chat('p', { stream: true, max_tokens: 200 });
        const answer = await hung;
        assert.equal(answer.status, 200);
        assert.equal(answer.complete, false);
        assert.equal(JSON.parse(sse(answer.text).at(-1).data).error.corral.code, 'DECODE_TIMEOUT');
        const whole = await other;
        assert.ok(whole.complete && whole.text.includes('[DONE]'), whole.text.slice(-300));
        await until('the hung one to be replaced', async () => {
          const { replicas } = await corral.pool('p');
          return replicas.every((r) => r.state === 'ready') && replicas.some((r) => !before.includes(r.pid));
        });
        const after = await pids(corral, 'p');
        assert.equal(after.filter((pid) => before.includes(pid)).length, 1, 'one engine is another now');
      },
      { warm: ['p'], leaks: false },
    ),
  );
}

test(
  'an engine that never gets to the first token: replaced after first_token_timeout, the request is answered',
  withCorral(
    () => ({ pools: [fakeLlamaPool('p', [], { first_token_timeout: '1s' })] }),
    async (corral) => {
      const [before] = await pids(corral, 'p');
      await behave(corral, 'p', 0, { fault: 'hang@request' });
      assert.equal((await corral.chat('p')).status, 200);
      assert.notDeepEqual(await pids(corral, 'p'), [before]);
    },
    { warm: ['p'], leaks: false },
  ),
);

/** A fake engine that nobody of Corral's keeps; its URL and how to end it. */
async function outside(...flags) {
  const child = spawn(fakePath, ['--host', '127.0.0.1', '--port', '0', ...flags], {
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  let said = '';
  child.stdout.on('data', (d) => (said += d));
  const port = await until('its port', () => /:(\d+)\s/.exec(said)?.[1]);
  return { url: `http://127.0.0.1:${port}`, end: () => child.kill('SIGKILL') };
}

test(
  'first_token_timeout of an engine that nobody can end: its request moves to the other, as a live failure',
  async (t) => {
    const engines = [await outside('--fault', 'hang@request', '--no-slots'), await outside('--no-slots')];
    const urls = engines.map((e) => e.url);
    const one = { id: 'p', slots: 1, first_token_timeout: '1s', engine: { kind: 'openai', urls } };
    const run = withCorral(
      () => ({ pools: [one] }),
      async (corral) => {
        await allReady(corral, 'p');
        for (const stream of [true, false]) {
          const answer = await corral.chat('p', { stream });
          assert.equal(answer.status, 200, answer.text);
          assert.equal(answer.headers['x-corral-replica'], 'p-1');
        }
        const figure = await corral.figures();
        assert.ok(figure('corral_request_retries_total', { pool: 'p', reason: 'closed' }) >= 1);
      },
      { leaks: false },
    );
    await run(t).finally(() => engines.forEach((e) => e.end()));
  },
);

test(
  'a silent prefill of several times stall_timeout, with pings and without: all is answered',
  withCorral(
    () => ({ pools: [fakeLlamaPool('p', ['--event-interval-us', 50000], { slots: 3, ...quick })] }),
    async (corral) => {
      const before = await pids(corral, 'p');
      const prefill = { prefill_ms: 3000 };
      const answers = await Promise.all([
        corral.chat('p', { stream: true, fake: prefill }),
        corral.chat('p', { stream: true, fake: { ...prefill, prefill_head: 1, ping_ms: 100 } }),
        corral.chat('p', { fake: prefill }),
      ]);
      for (const { status, text, complete } of answers) {
        assert.equal(status, 200, text);
        assert.ok(complete && !text.includes('error'), text);
      }
      assert.deepEqual(await pids(corral, 'p'), before);
    },
    { warm: ['p'], leaks: false },
  ),
);
