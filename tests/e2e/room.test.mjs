// SPDX-License-Identifier: Apache-2.0
//
// Models that share the memory of a 24 GB and a 12 GB card: who goes where, who leaves for whom, who waits,
// and what is said when nothing can be done. The cards are a stub of NVIDIA's library, which books to each
// engine that runs what its pool says it takes.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { fakeLlamaPool, fakePool, stubDriver, until, withCorral } from './harness.mjs';

const A = 'GPU-aaaa1111-0000-0000-0000-000000000000';
const B = 'GPU-bbbb2222-0000-0000-0000-000000000000';
const card = (uuid, bus, total) =>
  `device|${uuid}|Stub ${total / 1024} GB|00000000:0${bus}:00.0|${total}|0|25|51|8.9|0`;
const cards = [card(A, 1, 24576), card(B, 2, 12288)];
const GIB = 1024;
const takes = (id, gib) => `engine|--alias ${id}-|${gib * GIB}`;
const sized = (id, gib, rest = {}, flags = []) =>
  fakePool(id, flags, { memory: `${gib}GiB`, slots: 1, ...rest });

/** {pool: [uuid, …]} of the engines that run. */
async function where(corral) {
  const { json } = await corral.get('/v1/devices');
  const map = {};
  for (const d of json.devices.filter((x) => x.uuid.startsWith('GPU')))
    for (const r of d.replicas) (map[r.id] ??= []).push(d.uuid);
  return map;
}

/** So that nothing is left that the test had started. */
async function stopAll(corral) {
  const { json } = await corral.get('/v1/pools');
  for (const { id } of json.pools) await corral.post(`/v1/pools/${id}/stop`, {});
  await until('the engines to be gone', async () => corral.engines().length === 0);
}

async function explain(corral, pool) {
  const { status, json, text } = await corral.get(`/v1/explain?pool=${pool}`);
  assert.equal(status, 200, text);
  for (const d of json.devices) assert.ok(d.reserved_bytes <= d.capacity_bytes, JSON.stringify(d));
  return json;
}

{
  const engines = [takes('a', 10), takes('b', 10), takes('c', 8), takes('d', 12)];
  const driver = stubDriver(...cards, 'account', ...engines);
  test(
    'ten GiB here, eight there: each goes where it fits, and the cheapest idle one leaves for who does not',
    withCorral(
      {
        pools: [
          sized('a', 10),
          sized('b', 10, { evict_cost: 100 }),
          sized('c', 8, { evict_cost: 100 }),
          sized('d', 12),
          sized('huge', 30),
        ],
      },
      async (corral) => {
        const serves = async (id) => {
          assert.equal((await corral.chat(id)).status, 200, id);
          await corral.ready(id); // one that is proving itself leaves for nobody
        };
        for (const id of ['a', 'b', 'c']) await serves(id);
        assert.deepEqual(await where(corral), { 'a-0': [A], 'b-0': [B], 'c-0': [A] });
        const before = await explain(corral, 'd');
        assert.deepEqual(
          before.evicts.map((v) => v.replica),
          ['a-0'],
        );

        await serves('d');
        assert.deepEqual(await where(corral), { 'b-0': [B], 'c-0': [A], 'd-0': [A] });
        await serves('a');
        assert.deepEqual(await where(corral), { 'a-0': [A], 'b-0': [B], 'c-0': [A] });
        const figure = await corral.figures();
        assert.equal(figure('corral_evictions_total', { pool: 'a' }), 1);
        assert.equal(figure('corral_evictions_total', { pool: 'd' }), 1);

        const refused = await corral.chat('huge');
        assert.equal(refused.status, 503, refused.text);
        assert.equal(refused.json.error.corral.code, 'NO_CAPACITY');
        assert.equal(refused.json.error.corral.retriable, false);
        assert.equal(refused.headers['x-should-retry'], 'false');
        assert.match(refused.json.error.message, /needs 30\.0 GiB.*device 0 comes closest with 24\.0 GiB/);
        const why = await explain(corral, 'huge');
        assert.equal(why.fits, false);
        assert.deepEqual(
          why.devices.filter((d) => d.kind === 'cuda').map((d) => d.taken),
          [false, false],
        );
        assert.match((await corral.cli('plan')).stdout, /^huge needs 30\.0 GiB and fits nowhere/m);
        assert.equal((await corral.chat('b')).status, 200, 'what runs is not touched by what cannot');
        assert.equal(corral.log().match(/Replica huge-0 is not started/g).length, 1, 'it is told once');
        await stopAll(corral);
      },
      { env: driver.env },
    ),
  );
}

{
  const driver = stubDriver(...cards, 'account', takes('kept', 10), takes('lost', 10), takes('new', 12));
  const slow = ['--prompt-tokens', 8000, '--prefill-ms', 300];
  const stream_options = { include_usage: true };
  const llama = (id, rest) => fakeLlamaPool(id, slow, { memory: '10GiB', slots: 1, ctx: 8192, ...rest });
  test(
    'of two engines the one leaves whose conversation is kept: the other one would have to be read again',
    withCorral(
      {
        pools: [
          llama('lost', { kv_cache: { save: 'off' }, devices: '0' }),
          llama('kept', { kv_cache: { save: 'on' }, devices: '0', evict_cost: 2 }),
          sized('new', 12, { devices: '0' }),
        ],
      },
      async (corral) => {
        for (const id of ['lost', 'kept'])
          assert.equal((await corral.chat(id, { stream: true, stream_options })).status, 200, id);
        await until('both to be ready and idle', async () => {
          const { pools } = (await corral.get('/v1/pools')).json;
          return pools.filter((p) => p.state === 'ready' && p.leases === 0).length === 2;
        });
        // what the node keeps, and how long the prompts took, is told a little later
        await until('the kept one to be who leaves', async () => {
          const { evicts } = await explain(corral, 'new');
          return evicts.length === 1 && evicts[0].replica === 'kept-0';
        });
        await stopAll(corral);
      },
      { env: driver.env },
    ),
  );
}

{
  const driver = stubDriver(...cards, 'account', takes('busy', 20), takes('other', 20));
  test(
    'a busy engine is never stopped: who needs its memory waits, at most swap.max_wait, and nobody is cut',
    withCorral(
      {
        swap: { max_wait: '300ms' },
        pools: [sized('busy', 20, {}, ['--tokens', 40, '--event-interval-us', 50000]), sized('other', 20)],
      },
      async (corral) => {
        const ends = [];
        const running = corral.chat('busy', { max_tokens: 40 }).then((r) => ends.push(['busy', r.status]));
        await until('the lease', async () => (await corral.pool('busy')).leases === 1);
        const other = corral.chat('other').then((r) => ends.push(['other', r.status]));
        await until('it to wait', async () => (await corral.pool('other')).waiting === 1);
        // those who come meanwhile wait for their turn, behind it
        await until('the bound to be over', async () => (await explain(corral, 'busy')).holds.length === 1);
        await Promise.all([running, other]);
        assert.deepEqual(ends, [['busy', 200], ['other', 200]]);
        assert.equal((await corral.chat('busy')).status, 200, 'and back');
        await stopAll(corral);
      },
      { env: driver.env },
    ),
  );
}

for (const order of [['busy', 'other'], ['other', 'busy']]) {
  const driver = stubDriver(...cards, 'account', takes('busy', 20), takes('other', 20));
  test(
    `one swap is enough for who waits, however many ask for the other one (${order})`,
    withCorral(
      {
        swap: { max_wait: '300ms' },
        pools: order.map((id) => sized(id, 20, {}, ['--tokens', 4, '--event-interval-us', 20000])),
      },
      async (corral) => {
        assert.equal((await corral.chat('busy')).status, 200);
        let over = false;
        let served = 0;
        const keepBusy = async () => {
          for (; !over; served++)
            assert.equal((await corral.chat('busy', { max_tokens: 4 })).status, 200);
        };
        const clients = [keepBusy(), keepBusy(), keepBusy()];
        await until('the lease', async () => (await corral.pool('busy')).leases === 1);
        const before = served;
        const other = corral.chat('other').then((r) => ((over = true), r));
        await until('its turn', () => over || served > before + 100);
        const turnCame = over;
        over = true;
        const figure = await corral.figures();
        assert.ok(turnCame, `overtaken by ${served - before} requests`);
        assert.equal(figure('corral_evictions_total', { pool: 'busy' }), 1);
        assert.equal((await other).status, 200);
        await Promise.all(clients);
        await stopAll(corral);
      },
      { env: driver.env },
    ),
  );
}

for (const replicas of [{ max: 2 }, { min: 1, max: 2 }]) {
  const driver = stubDriver(cards[0], 'account', takes('one', 20));
  test(
    `a second replica that has no room does not harm the first (${JSON.stringify(replicas)})`,
    withCorral(
      {
        swap: { max_wait: '100ms' },
        pools: [sized('one', 20, { replicas }, ['--tokens', 4, '--event-interval-us', 20000])],
      },
      async (corral) => {
        assert.equal((await corral.chat('one')).status, 200);
        for (let i = 0; i < 4; i++) {
          const all = await Promise.all([1, 2, 3].map(() => corral.chat('one', { max_tokens: 4 })));
          assert.deepEqual(all.map((r) => r.status), [200, 200, 200], all.map((r) => r.text).join('\n'));
        }
        const figure = await corral.figures();
        assert.equal(figure('corral_evictions_total', { pool: 'one' }), undefined);
        await corral.post('/v1/pools/one/disable', {});
        await until('its end', async () => corral.engines().length === 0);
      },
      { env: driver.env },
    ),
  );
}

{
  const driver = stubDriver(...cards, 'account', takes('agent', 20), takes('other', 20));
  test(
    'an answer that called tools keeps its model for the turn that follows; a plain one does not',
    withCorral(
      {
        swap: { hold: '3s' },
        pools: [sized('agent', 20, {}, ['--finish', 'tool_calls']), sized('other', 20)],
      },
      async (corral) => {
        const ends = [];
        assert.equal((await corral.chat('agent')).status, 200);
        const other = corral.chat('other').then((r) => ends.push(['other', r.status]));
        await until('it to wait', async () => (await corral.pool('other')).waiting === 1);
        ends.push(['agent', (await corral.chat('agent', { stream: true })).status]);
        const figure = await corral.figures();
        assert.equal(figure('corral_evictions_total', { pool: 'agent' }), undefined, 'it stayed');
        await other;
        assert.deepEqual(ends, [['agent', 200], ['other', 200]]);
        assert.equal((await corral.figures())('corral_evictions_total', { pool: 'agent' }), 1);
        assert.equal((await corral.chat('agent')).status, 200, 'a plain answer holds nothing up');
        await stopAll(corral);
      },
      { env: driver.env },
    ),
  );
}

{
  const driver = stubDriver(...cards, 'account', takes('agent', 20), takes('other', 20));
  const by = (name) => ({ headers: { authorization: `Bearer ${name.repeat(16)}` } });
  test(
    'an answer that called tools holds its model against others, not against the same key',
    withCorral(
      {
        swap: { hold: '1h', max_wait: '1h' }, // whoever is held up is not answered in this test
        pools: [sized('agent', 20, {}, ['--finish', 'tool_calls']), sized('other', 20)],
      },
      async (corral) => {
        assert.equal((await corral.chat('agent', {}, by('a'))).status, 200);
        assert.equal((await corral.chat('other', {}, by('a'))).status, 200, 'its user has moved on');
        assert.equal((await corral.chat('agent', {}, by('a'))).status, 200);

        const leaves = new AbortController();
        const bob = corral.chat('other', {}, { ...by('b'), signal: leaves.signal }).catch((e) => e.name);
        await until('it to wait', async () => (await corral.pool('other')).waiting === 1);
        const { holds } = await explain(corral, 'other');
        assert.equal((await corral.chat('agent', {}, by('a'))).status, 200, JSON.stringify(holds));
        const figure = await corral.figures();
        assert.equal(figure('corral_evictions_total', { pool: 'agent' }), 1, 'for its own user alone');
        leaves.abort();
        await bob;
        await stopAll(corral);
      },
      { env: { ...driver.env, CORRAL_API_KEYS: ['a', 'b'].map((k) => `${k}=${k.repeat(16)}`).join(',') } },
    ),
  );
}

{
  const driver = stubDriver(...cards, 'account', takes('a', 20), takes('b', 20));
  test(
    'a chat, its title, and a chat on another model: it swaps at once, once, whatever hold and max_wait are',
    withCorral(
      {
        swap: { hold: '1h', max_wait: '1h' }, // whoever is held up is not answered in this test
        pools: [sized('a', 20, { slots: 2 }), sized('b', 20)],
      },
      async (corral) => {
        assert.equal((await corral.chat('a', { stream: true })).status, 200);
        assert.equal((await corral.chat('a', { max_tokens: 8 })).status, 200, 'its title');
        assert.equal((await corral.chat('b', { stream: true })).status, 200);
        const figure = await corral.figures();
        assert.equal(figure('corral_evictions_total', { pool: 'a' }), 1);
        assert.equal(figure('corral_evictions_total', { pool: 'b' }), undefined);
        assert.deepEqual(await where(corral), { 'b-0': [A] });
        await stopAll(corral);
      },
      { env: driver.env },
    ),
  );
}

{
  const engines = ['free', 'there', 'shy'].map((id) => takes(id, 8));
  const driver = stubDriver(...cards, 'account', ...engines);
  test(
    'prefer and avoid: wishes among the devices that do, and a device that is not there is named',
    withCorral(
      {
        pools: [
          sized('free', 8),
          sized('there', 8, { prefer: '1' }),
          sized('shy', 8, { avoid: 'GPU-aaaa', evict_cost: 100 }),
          sized('gone', 1, { prefer: '7' }),
          sized('twice', 1, { avoid: '0,GPU-aaaa' }),
        ],
      },
      async (corral) => {
        assert.equal((await corral.chat('there')).status, 200);
        assert.equal((await corral.chat('free')).status, 200);
        assert.deepEqual(await where(corral), { 'there-0': [B], 'free-0': [A] });

        const plan = await explain(corral, 'shy');
        const [a, b] = [A, B].map((id) => plan.devices.find((d) => d.device === id));
        assert.deepEqual([a.taken, b.taken], [false, true]);
        assert.match(a.reason, /avoid/);
        assert.deepEqual(
          plan.evicts.map((v) => v.replica),
          ['there-0'],
        );
        assert.equal((await corral.chat('shy')).status, 200);
        assert.deepEqual(await where(corral), { 'shy-0': [B], 'free-0': [A] });

        const there = /7, which is not on this machine.*0: Stub 24 GB.*1: Stub 12 GB/;
        const again = /avoid names GPU-aaaa, a device .* already named/;
        for (const [id, says] of [['gone', there], ['twice', again]]) {
          const refused = await corral.chat(id);
          assert.equal(refused.status, 503, refused.text);
          assert.match(refused.json.error.message, says);
          assert.equal((await corral.pool(id)).last_error.cause, 'bad_args');
        }
        await stopAll(corral);
      },
      { env: driver.env },
    ),
  );
}

{
  const driver = stubDriver(...cards, 'account', takes('pinned', 20), takes('x', 20));
  test(
    'a pinned pool keeps its memory, and the refusal may be tried again',
    withCorral(
      { pools: [sized('pinned', 20, { pinned: true }), sized('x', 20)] },
      async (corral) => {
        assert.equal((await corral.chat('pinned')).status, 200);
        const refused = await corral.chat('x');
        assert.equal(refused.status, 503, refused.text);
        assert.equal(refused.json.error.corral.code, 'NO_CAPACITY');
        assert.equal(refused.json.error.corral.retriable, true);
        assert.equal((await corral.pool('pinned')).state, 'ready');
        await stopAll(corral);
      },
      { env: driver.env },
    ),
  );
}

{
  const driver = stubDriver(...cards);
  test(
    'llama.cpp gets explicit numbers and one card where one does',
    withCorral({ pools: [fakeLlamaPool('chat')] }, async (corral) => {
      assert.equal((await corral.chat('chat')).status, 200);
      const { argv } = corral.engineOf('chat');
      const value = (name) => argv[argv.indexOf(name) + 1];
      const { need } = await explain(corral, 'chat');
      assert.equal(value('--fit'), 'off');
      assert.equal(Number(value('--gpu-layers')), need.layers + 1);
      assert.deepEqual(await where(corral), { 'chat-0': [A] });
      await stopAll(corral);
    }, { env: driver.env }),
  );
}

{
  const driver = stubDriver(...cards, 'account', takes('a', 20), takes('b', 20));
  test(
    'killed -9: its memory is booked back, and another pool gets it',
    withCorral({ pools: [sized('a', 20), sized('b', 20)] }, async (corral) => {
      assert.equal((await corral.chat('a')).status, 200);
      process.kill(corral.engineOf('a').pid, 'SIGKILL');
      assert.equal((await corral.chat('a')).status, 200, 'it is started again, where it was');
      assert.equal((await corral.chat('b')).status, 200);
      assert.deepEqual(await where(corral), { 'b-0': [A] });
      const { devices } = await explain(corral, 'b');
      assert.equal(devices.find((d) => d.device === A).foreign_bytes, 0);
      await stopAll(corral);
    }, { env: driver.env }),
  );
}

{
  const engines = [takes('a', 10), takes('b', 10)];
  const driver = stubDriver(cards[0], 'account', 'numbers|1000000', ...engines);
  test(
    'a driver that numbers processes otherwise, as outside of a container: nothing is counted twice',
    withCorral({ pools: [sized('a', 10), sized('b', 10)] }, async (corral) => {
      assert.equal((await corral.chat('a')).status, 200);
      await until('the driver to list it', async () => {
        const { json } = await corral.get('/v1/devices');
        return json.devices.find((d) => d.uuid === A).processes.length === 1;
      });
      const of = (json) => json.devices.find((d) => d.device === A);
      assert.equal(of(await explain(corral, 'b')).foreign_bytes, 0);
      assert.equal((await corral.chat('b')).status, 200);
      assert.equal((await corral.pool('a')).state, 'ready');
      await stopAll(corral);
    }, { env: driver.env }),
  );
}

{
  const driver = stubDriver(`device|${A}|Stub|00000000:01:00.0|1024|0|25|51|8.9|0`);
  test(
    'an engine that runs out of memory is tried once more with a larger reservation, then it has failed',
    withCorral(
      { pools: [fakeLlamaPool('chat', ['--start-fails', 'oom_vram'])] },
      async (corral) => {
        const refused = await corral.chat('chat');
        assert.equal(refused.status, 503, refused.text);
        assert.equal((await corral.pool('chat')).last_error.cause, 'oom_vram');
        const { stdout } = await corral.cli('logs', 'chat', '-n', '100');
        assert.equal(stdout.match(/--- corral: chat-0, generation/g).length, 2, stdout);
        assert.match(corral.log(), /Replica chat-0 ran out of the device's memory/);
        const { need } = await explain(corral, 'chat');
        assert.equal(need.layers, 2);
      },
      { env: driver.env },
    ),
  );
}

{
  const small = (uuid, bus) => `device|${uuid}|Stub|00000000:0${bus}:00.0|500|0|25|51|8.9|0`;
  const replaced = async (corral, slots) => {
    const { pid } = corral.engineOf('chat');
    corral.write({ pools: [fakeLlamaPool('chat', [], { slots })] });
    assert.equal((await corral.post('/v1/config/reload', {})).status, 200);
    await until('the new engine', async () => {
      const pool = await corral.pool('chat');
      return !pool.reloading && pool.state === 'ready' && corral.engineOf('chat').pid !== pid;
    });
    const { argv } = corral.engineOf('chat');
    return (name) => argv[argv.indexOf(name) + 1];
  };
  const row = (cards, name, check) =>
    test(
      name,
      withCorral(
        { pools: [fakeLlamaPool('chat')] },
        async (corral) => {
          assert.equal((await corral.chat('chat')).status, 200);
          const value = await replaced(corral, 3);
          assert.equal(value('--parallel'), '3');
          assert.equal(value('--fit'), 'off', 'it was planned as any start');
          assert.equal(value('--gpu-layers'), '3');
          check(corral, Object.values(await where(corral)).flat());
          await stopAll(corral);
        },
        { env: stubDriver(...cards, 'account', 'engine|--alias chat |320').env, leaks: false },
      ),
    );
  row([small(A, 1), small(B, 2)], 'a reload: beside what serves, where there is room', (corral, on) => {
    assert.deepEqual(on, [B], 'on the card that the old one left free');
    assert.doesNotMatch(corral.log(), /does not fit beside it/);
  });
  row([small(A, 1)], 'a reload: in its place, where there is no room beside it', (corral, on) => {
    assert.deepEqual(on, [A]);
    assert.match(corral.log(), /the new engine does not fit beside it/);
  });
}
