// SPDX-License-Identifier: Apache-2.0
// The fake engine's whole list of vices against the outcomes that docs/reference/faults.md states. Every vice
// of `fake-engine --help` has a row there (checked below). Proven elsewhere and not again here:
// faults.test.mjs: exit, signal, close and reset after some tokens, ignore_term, grandchild,
// slot_linger_ms · load.test.mjs: idle_close_ms, max_requests, a prefill that an engine does not survive ·
// relay.test.mjs: write_size, write_gap_us, chunk_size and framing of healthy answers ·
// disk.test.mjs: log_flood_mb on a full disk · retries.test.mjs: fault hang and stop in a stream beside
// another replica's, with slots and without; hang before the first token; a silent prefill of several times
// stall_timeout.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import test from 'node:test';
import { fakeLlamaPool, fakePath, fakePool, root, sse, until, withCorral } from './harness.mjs';

const page = fs.readFileSync(path.join(root, 'docs/reference/faults.md'), 'utf8');

test('every vice of the fake engine has a row in docs/reference/faults.md, and no row is of another', () => {
  const help = execFileSync(fakePath, ['--help'], { encoding: 'utf8' });
  const vices = help.slice(help.indexOf('Start and health'), help.indexOf('Routes of its own'));
  const names = [...vices.matchAll(/^ {2}([a-z_0-9]+) {2,}/gm)].map((m) => m[1]);
  const list = (from, to) => vices.slice(vices.indexOf(from) + from.length, vices.indexOf(to));
  const whats = list('WHAT  ', 'WHERE request')
    .replace(/\([^)]*\)/g, '')
    .split(/\s+/)
    .map((word) => word.replace(/:[A-Z]+$/, ''))
    .filter(Boolean);
  assert.ok(names.length > 30 && whats.length > 12, 'the help was understood');
  const expected = new Set([...names, ...whats.map((w) => `fault: ${w}`)]);
  for (const value of ['short', 'long', 'overflow', 'bad_chunk', 'no_end', 'both'])
    expected.add(`framing: ${value}`);
  for (const value of ['garbage', 'big', 'many', 'informational', 'http10']) expected.add(`head: ${value}`);
  for (const value of ['oom_vram', 'oom_host', 'bad_model', 'unknown_arch', 'bad_args'])
    expected.add(`start_fails: ${value}`);
  for (const bare of ['fault', 'head', 'start_fails']) expected.delete(bare);
  const rows = page
    .split('\n')
    .filter((line) => line.startsWith('| `'))
    .flatMap((line) => [...line.split('|')[1].matchAll(/`([^`]+)`/g)].map((m) => m[1]));
  assert.deepEqual([...expected].filter((v) => !rows.includes(v)), [], 'without a stated outcome');
  assert.deepEqual(rows.filter((v) => !expected.has(v)), [], 'no vice of the fake engine');
  assert.equal(new Set(rows).size, rows.length, 'each once');
});

// ---- one request's vice ------------------------------------------------------------------------------

const places = ['request', 'head', 2, 'mid:2', 'last', 'done', 'body', 'end'];
const WHOLE = 'whole';
const TOLD = 'told in the stream';
const CUT = 'cut visibly';
const FAILED = '502 ENGINE_FAILED';
/** An answer cut off at each place: before a byte of it (sent again, then 502), in it, or after it. */
const cutOff = (how) => [
  [{ fault: `${how}@request` }, FAILED, FAILED],
  [{ fault: `${how}@head` }, FAILED, FAILED],
  [{ fault: `${how}@2` }, TOLD, FAILED],
  [{ fault: `${how}@mid:2` }, TOLD, WHOLE],
  [{ fault: `${how}@last` }, TOLD, FAILED],
  [{ fault: `${how}@done` }, TOLD, WHOLE],
  [{ fault: `${how}@body` }, WHOLE, CUT],
  [{ fault: `${how}@end` }, WHOLE, WHOLE],
];
/** Bytes put into the answer: they are the engine's own and pass. */
const passes = (what) => places.map((at) => [{ fault: `${what}@${at}` }, WHOLE, 'complete']);

const REQUEST = [
  ...['close', 'reset', 'half_close'].flatMap(cutOff),
  ...['garbage', 'nul', 'bad_utf8', 'long_line:1', 'error', 'comment', 'flood:1', 'delay:20'].flatMap(passes),
  [{ framing: 'short' }, WHOLE, CUT],
  [{ framing: 'long' }, 'complete', 'complete'],
  [{ framing: 'overflow' }, FAILED, CUT],
  [{ framing: 'bad_chunk' }, FAILED, CUT],
  [{ framing: 'no_end' }, WHOLE, CUT],
  [{ framing: 'both' }, FAILED, FAILED],
  [{ head: 'garbage' }, FAILED, FAILED],
  [{ head: 'big' }, FAILED, FAILED],
  [{ head: 'many' }, FAILED, FAILED],
  [{ head: 'informational' }, WHOLE, WHOLE],
  [{ head: 'http10' }, WHOLE, WHOLE],
  ...[400, 404, 429, 500, 502, 503].map((status) => [{ status }, `${status} `, `${status} `]),
  [{ status: 500, error_body: 'no JSON' }, '500 ', '500 '],
  [{ prefill_head: 1, prefill_ms: 100, ping_ms: 20 }, WHOLE, WHOLE],
  [{ finish: 'tool_calls' }, WHOLE, WHOLE],
  [{ tokens: 0 }, WHOLE, WHOLE],
  [{ token_bytes: 100000 }, WHOLE, WHOLE],
  [{ event_interval_us: 20000 }, WHOLE, WHOLE],
  [{ prompt_tokens: 1000000 }, '400 CONTEXT_EXCEEDED', '400 CONTEXT_EXCEEDED'],
];

function outcome(answer, stream) {
  if (answer.status !== 200) return `${answer.status} ${answer.json?.error?.corral?.code ?? ''}`;
  const datas = stream ? sse(answer.text).map((e) => e.data) : [];
  const done = datas.includes('[DONE]');
  if (answer.complete && (stream ? done : answer.json?.choices)) return WHOLE;
  if (answer.complete) return 'complete';
  if (stream && !done && /"code":"WORKER_RESET"/.test(datas.at(-1) ?? '')) return TOLD;
  return stream ? 'cut without a word' : CUT;
}
/** An unstreamed answer with strange bytes in it may be JSON still. */
const agrees = (got, stated) => got === stated || (stated === 'complete' && got === WHOLE);

test(
  'vices of one request, streamed or not: the stated outcome, the engine lives, another pool is unharmed',
  withCorral(
    () => ({
      // statuses are looked at: no stream is told that it waits, however long that takes
      pools: [fakeLlamaPool('bad', [], { slots: 4, progress: { mode: 'off' } }), fakePool('fine')],
    }),
    async (corral) => {
      const { pid } = corral.engineOf('bad');
      const wrong = [];
      for (const [fake, ...stated] of REQUEST) {
        for (const stream of [true, false]) {
          const answer = await corral.chat('bad', { stream, fake, max_tokens: 6 });
          const got = outcome(answer, stream);
          const want = stated[stream ? 0 : 1];
          if (!agrees(got, want)) wrong.push(`${JSON.stringify(fake)} ${stream}: ${got}, not ${want}`);
          // An answer in between: the circuit counts failures in a row, and would have the next one wait.
          assert.equal((await corral.chat('bad', { max_tokens: 1 })).status, 200);
        }
        assert.equal((await corral.chat('fine')).status, 200, `the other pool after ${JSON.stringify(fake)}`);
      }
      assert.deepEqual(wrong, []);
      assert.equal(corral.engineOf('bad').pid, pid, 'none of it is a reason to restart the engine');
      await until('no lease to be left', async () => (await corral.leases('bad')) === 0);
    },
    { warm: ['bad', 'fine'] },
  ),
);

// ---- an engine's vice --------------------------------------------------------------------------------

/** [flags, status of the first request, the pool's last cause or null] */
const START = [
  [['--start-fails', 'oom_vram'], 503, 'oom_vram'],
  [['--start-fails', 'oom_host'], 503, 'oom_host'],
  [['--start-fails', 'bad_model'], 503, 'bad_model'],
  [['--start-fails', 'unknown_arch'], 503, 'bad_model'],
  [['--start-fails', 'bad_args'], 503, 'bad_args'],
  [['--exit-at-start', 3], 503, 'exit'],
  [['--listen-after-ms', 200], 200, null],
  [['--ready-after-ms', 200], 200, null],
  [['--health-lies', 1, '--ready-after-ms', 200], 200, null],
  [['--log-flood-mb', 3], 200, null],
  [['--props-slots', 1], 200, null],
  [['--term-waits', 1], 200, null],
  [['--term-exit', 7], 200, null],
  [['--leave-socket', 1], 200, null],
];

test(
  'vices of a start: the stated status and cause, Failed without a loop where a restart mends nothing',
  withCorral(
    () => ({
      pools: [
        ...START.map(([flags], i) => fakeLlamaPool(`p${i}`, flags)),
        fakeLlamaPool('ctx', ['--props-ctx', 16]),
        fakePool('fine'),
      ],
    }),
    async (corral) => {
      const ask = async ([flags, status, cause], i) => {
        const answer = await corral.chat(`p${i}`);
        const name = flags.join(' ');
        assert.equal(answer.status, status, `${name}: ${answer.text}`);
        const pool = await corral.pool(`p${i}`);
        assert.equal(pool.last_error?.cause ?? null, cause, name);
        if (status === 200) return;
        assert.equal(pool.state, 'failed', name);
        assert.equal(answer.json.error.corral.code, 'POOL_UNAVAILABLE', name);
        assert.equal(answer.json.error.corral.retriable, cause === 'exit', name);
        assert.ok(answer.json.error.corral.hint, name);
      };
      await Promise.all(START.map(ask));
      await corral.chat('ctx');
      await until('the broken promise to be seen', async () => {
        const pool = await corral.pool('ctx');
        return pool.state === 'failed' && pool.last_error.cause === 'bad_args';
      });
      assert.match((await corral.pool('ctx')).last_error.message, /the engine has 16\b/);
      assert.equal((await corral.chat('fine')).status, 200);
      await corral.post('/v1/pools/p13/stop', {}); // leave_socket
      await until('the left socket to be removed', () => {
        const there = fs.readdirSync(path.join(corral.runtimeDir, 'engines'));
        return !there.some((name) => /^p13-.*\.sock$/.test(name));
      });
    },
    { leaks: false },
  ),
);

for (const flags of [
  ['--health-status', 500],
  ['--health-hang', 1],
  ['--accept-silent', 1],
]) {
  test(
    `an engine that is never ready (${flags.join(' ')}): taken out at start_timeout, the other pool unharmed`,
    withCorral(
      () => ({ pools: [fakeLlamaPool('bad', flags, { start_timeout: '1s' }), fakePool('fine')] }),
      async (corral) => {
        const gone = new AbortController();
        const waits = corral.chat('bad', {}, { signal: gone.signal }).catch(() => null);
        await until('its cause', async () => {
          const { last_error: last } = await corral.pool('bad');
          return last?.cause === 'start_timeout';
        });
        assert.equal((await corral.chat('fine')).status, 200);
        gone.abort();
        await waits;
      },
      { leaks: false },
    ),
  );
}

// ---- outcomes that take several engines' ends, or time ------------------------------------------------

test(
  'abort_on: the suspect ends with 502 after two crashes, the others are answered, the breaker stays closed',
  withCorral(
    () => ({ pools: [fakeLlamaPool('bad', ['--abort-on', 'poison'], { slots: 4 }), fakePool('fine')] }),
    async (corral) => {
      const others = [0, 1, 2].map((i) => corral.chat('bad', { stream: i > 0, fake: { prefill_ms: 300 } }));
      await until('the others to be in the engine', async () => (await corral.leases('bad')) === 3);
      const messages = [{ role: 'user', content: 'poison' }];
      const suspect = await corral.chat('bad', { messages });
      assert.equal(suspect.status, 502, suspect.text);
      assert.equal(suspect.json.error.corral.code, 'ENGINE_FAILED');
      assert.equal(suspect.json.error.corral.retriable, false);
      for (const answer of await Promise.all(others)) {
        assert.equal(answer.status, 200, answer.text);
        assert.ok(answer.complete);
      }
      assert.equal((await corral.chat('bad')).status, 200, 'the pool serves on');
      assert.equal((await corral.figures())('corral_breaker_state', { pool: 'bad' }), 0);
      assert.equal((await corral.chat('fine')).status, 200);
    },
    { warm: ['bad', 'fine'], leaks: false },
  ),
);

test(
  'fault: stop: an engine that is stopped is taken out by its silent health, the next answers its request',
  withCorral(
    () => ({ pools: [fakeLlamaPool('bad', [], { slots: 2 }), fakePool('fine')] }),
    async (corral) => {
      const { pid } = corral.engineOf('bad');
      const waits = corral.chat('bad', { fake: { prefill_ms: 1000 } });
      await until('the request to be in the engine', async () => (await corral.leases('bad')) === 1);
      process.kill(pid, 'SIGSTOP');
      assert.equal((await corral.chat('fine')).status, 200);
      const answer = await waits;
      assert.equal(answer.status, 200, answer.text);
      assert.notEqual(corral.engineOf('bad').pid, pid);
    },
    { warm: ['bad', 'fine'], leaks: false },
  ),
);

test(
  'abort_on in the very first request of a pool: 502 after two crashes, not five starts and an open breaker',
  withCorral(
    () => ({ pools: [fakeLlamaPool('bad', ['--abort-on', 'poison'], { slots: 4 })] }),
    async (corral) => {
      const suspect = await corral.chat('bad', { messages: [{ role: 'user', content: 'poison' }] });
      assert.equal(suspect.status, 502, suspect.text);
      assert.equal(suspect.json.error.corral.code, 'ENGINE_FAILED');
      assert.equal((await corral.figures())('corral_breaker_state', { pool: 'bad' }), 0);
      assert.equal((await corral.chat('bad')).status, 200, 'the pool serves on');
    },
    { leaks: false },
  ),
);

// The same with a short stall_timeout is in retries.test.mjs and runs always.
test(
  'prefill_ms: 90 s of silence with the default timeouts, streamed and not: whole, and the engine lives',
  { skip: !process.env.CORRAL_TEST_SLOW && 'takes 90 s: set CORRAL_TEST_SLOW=1' },
  withCorral(
    () => ({ pools: [fakeLlamaPool('bad', [], { slots: 3 })] }),
    async (corral) => {
      const { pid } = corral.engineOf('bad');
      const fake = { prefill_ms: 90000 };
      const asked = [
        [true, fake],
        [true, { ...fake, prefill_head: 1 }],
        [false, fake],
      ].map(async ([stream, how]) => outcome(await corral.chat('bad', { stream, fake: how }), stream));
      assert.deepEqual(await Promise.all(asked), [WHOLE, WHOLE, WHOLE]);
      assert.equal(corral.engineOf('bad').pid, pid);
    },
    { warm: ['bad'], leaks: false },
  ),
);
