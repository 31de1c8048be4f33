// SPDX-License-Identifier: Apache-2.0
// Keys: who may ask what from where, and how much. What comes over the network comes from a namespace of its
// own, for loopback is open.
import assert from 'node:assert/strict';
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import test from 'node:test';
import { fileURLToPath } from 'node:url';
import { Corral, corralPath, fakePool, until, withCorral, withDeadline } from './harness.mjs';

const here = path.dirname(fileURLToPath(import.meta.url));
const ip = (...args) => execFileSync('ip', args, { stdio: ['ignore', 'ignore', 'pipe'] });

/** Another machine: a namespace at the other end of a cable. */
class Outside {
  constructor() {
    const n = process.pid % 250;
    this.name = `crl-${process.pid}`;
    this.here = `10.213.${n}.1`;
    this.there = `10.213.${n}.2`;
    this.net = `10.213.${n}.0/24`;
    try {
      ip('netns', 'add', this.name);
      ip('link', 'add', `crl${process.pid}`, 'type', 'veth', 'peer', 'name', 'crl0', 'netns', this.name);
      ip('addr', 'add', `${this.here}/24`, 'dev', `crl${process.pid}`);
      ip('link', 'set', `crl${process.pid}`, 'up');
      ip('-n', this.name, 'addr', 'add', `${this.there}/24`, 'dev', 'crl0');
      ip('-n', this.name, 'link', 'set', 'crl0', 'up');
      ip('-n', this.name, 'link', 'set', 'lo', 'up');
    } catch (e) {
      this.reason = `a network namespace may not be made here: ${String(e.stderr ?? e).trim()}`;
      this.remove();
    }
  }

  remove() {
    try {
      ip('netns', 'del', this.name); // the cable goes with it
    } catch {
      /* it was not made */
    }
  }

  /** Runs a module there; what it hands to answer() comes back. */
  async run(code, env = {}) {
    const whole = `import OpenAI from 'openai';
      import Anthropic from '@anthropic-ai/sdk';
      import { send } from './harness.mjs';
      const answer = (x) => console.log(JSON.stringify(x));
      const failure = async (p) => {
        try { await p; return 'it went well'; } catch (e) {
          return { name: e.constructor.name, status: e.status, code: e.code, text: e.message };
        }
      };
      ${code}`;
    const args = ['netns', 'exec', this.name, process.execPath, '--input-type=module', '-e', whole];
    const child = spawn('ip', args, { cwd: here, env: { ...process.env, ...env } });
    const out = [[], []];
    child.stdout.on('data', (d) => out[0].push(d));
    child.stderr.on('data', (d) => out[1].push(d));
    const status = await withDeadline(new Promise((r) => child.once('close', r)), 'the other machine', 60000);
    assert.equal(status, 0, Buffer.concat(out[1]).toString());
    return JSON.parse(Buffer.concat(out[0]).toString());
  }

  /** One request from there. */
  send(corral, method, target, { body, headers = {} } = {}) {
    const args = JSON.stringify([corral.far, method, target, { body, headers }]);
    return this.run(`const { bytes, ...rest } = await send(...${args}); answer(rest);`);
  }
}

let outside;
test.before(() => (outside = new Outside()));
test.after(() => outside.remove());

const chatBody = (model, more = {}) => ({
  model,
  messages: [{ role: 'user', content: 'Hello' }],
  max_tokens: 4,
  ...more,
});
const bearer = (key) => ({ authorization: `Bearer ${key}` });

/** withCorral, but the threads that read files, which the first reload brings, do not count as a leak. */
const reading = (config, body, opts = {}) =>
  withCorral(
    config,
    async (corral, t) => {
      assert.equal((await corral.cli('config', 'reload', '--dry-run')).code, 0);
      const before = corral.counts();
      await body(corral, t);
      await corral.settled(before);
    },
    { ...opts, leaks: false },
  );

/** A Corral that listens outside too. body(corral, key): an inference key made before the start. */
const reached = (body, { config = {}, trusted, ...opts } = {}) =>
  async (t) => {
    if (outside.reason) return t.skip(outside.reason);
    const auth = trusted ? { auth: { trusted: [outside.net] } } : {};
    const pools = [fakePool('chat', [], { aliases: ['talk'] }), fakePool('other')];
    let key;
    const made = reading(
      { listen: ['127.0.0.1:0', `${outside.here}:0`], pools, ...auth, ...config },
      (corral) => {
        corral.far = corral.urls[1];
        return body(corral, key);
      },
      {
        warm: ['chat', 'other'],
        ...opts,
        wrap: (corral) => {
          if (!trusted) {
            const argv = ['key', 'create', 'first', '--config', corral.configFile];
            key = execFileSync(corralPath, argv).toString().trim();
          }
          return [];
        },
      },
    );
    return made(t);
  };

test(
  'no key is 401 in the words of each dialect, a key is 200, a wrong one 401',
  reached(async (corral, key) => {
    const openai = await outside.send(corral, 'POST', '/v1/chat/completions', { body: chatBody('chat') });
    assert.equal(openai.status, 401);
    assert.equal(openai.headers['www-authenticate'], 'Bearer realm="corral"');
    assert.equal(openai.headers['x-should-retry'], 'false');
    assert.ok(openai.headers['x-request-id']);
    assert.equal(openai.json.error.code, 'invalid_api_key');
    assert.equal(openai.json.error.corral.code, 'UNAUTHENTICATED');
    const anthropic = await outside.send(corral, 'POST', '/v1/messages', { body: chatBody('chat') });
    assert.equal(anthropic.status, 401);
    assert.equal(anthropic.json.type, 'error');
    assert.equal(anthropic.json.error.type, 'authentication_error');
    assert.equal(anthropic.json.request_id, anthropic.headers['request-id']);
    const native = await outside.send(corral, 'POST', '/completion', { body: { prompt: 'a' } });
    assert.equal(native.status, 401);
    assert.equal(native.json.error.corral.code, 'UNAUTHENTICATED');
    for (const target of ['/', '/v1/models', '/v1/pools', '/nothing', '/v1/keys', '/upstream/chat/props'])
      assert.equal((await outside.send(corral, 'GET', target)).status, 401, target);
    for (const target of ['/healthz', '/readyz', '/metrics'])
      assert.equal((await outside.send(corral, 'GET', target)).status, 200, target);

    for (const headers of [bearer(key), { 'x-api-key': key }]) {
      const fine = await outside.send(corral, 'POST', '/v1/chat/completions', {
        body: chatBody('chat'),
        headers,
      });
      assert.equal(fine.status, 200, fine.text);
    }
    const control = await outside.send(corral, 'GET', '/v1/pools', { headers: bearer(key) });
    assert.equal(control.status, 403);
    assert.match(control.json.error.message, /first has the scope inference, and this route needs control/);
    assert.equal(
      (await outside.send(corral, 'GET', '/nothing', { headers: bearer(key) })).status,
      404,
    );
    for (const wrong of [`${key.slice(0, -1)}?`, 'sk-none', 'x'.repeat(600)]) {
      const bad = await outside.send(corral, 'GET', '/v1/models', { headers: bearer(wrong) });
      assert.equal(bad.status, 401);
      assert.match(bad.headers['www-authenticate'], /error="invalid_token"/);
      assert.equal(bad.json.error.code, 'invalid_api_key');
    }
  }),
);

test(
  'the command line uses CORRAL_URL with CORRAL_API_KEY',
  reached(async (corral, key) => {
    const with_ = (secret) => (corral.env = { CORRAL_URL: corral.far, CORRAL_API_KEY: secret });
    with_(key);
    const said = await corral.cli('run', 'chat', 'Hello', '--max-tokens', '3');
    assert.deepEqual([said.code, said.stderr], [0, '']);
    assert.match(said.stdout, /tok0/);
    const ps = await corral.cli('ps');
    assert.equal(ps.code, 1);
    assert.match(ps.stderr, /needs control/);
    with_('');
    const none = await corral.cli('models');
    assert.equal(none.code, 1);
    assert.match(none.stderr, /needs an API key/);
  }),
);

test(
  'a trusted network asks models and does nothing else; what a header says of the peer counts nothing',
  reached(
    async (corral) => {
      const fine = await outside.send(corral, 'POST', '/v1/chat/completions', { body: chatBody('chat') });
      assert.equal(fine.status, 200, fine.text);
      const dummy = await outside.send(corral, 'GET', '/v1/models', { headers: bearer('sk-none') });
      assert.equal(dummy.status, 200);
      for (const [method, target] of [
        ['POST', '/v1/pools/chat/stop'],
        ['GET', '/v1/pools'],
        ['POST', '/v1/keys'],
        ['GET', '/upstream/chat/props'],
        ['GET', '/slots?model=chat'],
      ]) {
        const body = method === 'POST' ? {} : undefined;
        const answer = await outside.send(corral, method, target, { body });
        assert.equal(answer.status, 403, `${method} ${target}: ${answer.text}`);
        assert.equal(answer.json.error.corral.code, 'FORBIDDEN');
      }
      corral.write({
        listen: ['127.0.0.1:0', `${outside.here}:0`],
        auth: { trusted: ['192.0.2.0/24'] },
        pools: [fakePool('chat', [], { aliases: ['talk'] }), fakePool('other')],
      });
      assert.equal((await corral.cli('config', 'reload')).code, 0);
      for (const headers of [
        {},
        { 'x-forwarded-for': '192.0.2.1', 'x-real-ip': '127.0.0.1', forwarded: 'for=127.0.0.1' },
      ])
        assert.equal((await outside.send(corral, 'GET', '/v1/models', { headers })).status, 401);
      assert.equal((await corral.pool('chat')).state, 'ready', 'nobody stopped it');
    },
    { trusted: true },
  ),
);

test(
  'a page of another origin and a name that was rebound are refused, with a key too',
  reached(async (corral, key) => {
    const page = await outside.send(corral, 'POST', '/v1/chat/completions', {
      body: chatBody('chat'),
      headers: { ...bearer(key), origin: 'https://evil.example' },
    });
    assert.equal(page.status, 403);
    const rebound = await outside.send(corral, 'GET', '/v1/models', {
      headers: { ...bearer(key), host: 'evil.example' },
    });
    assert.equal(rebound.status, 421);
  }),
);

test(
  'official clients with a bad key fail at once, and once',
  reached(async (corral) => {
    const answer = await outside.run(`
      const o = new OpenAI({ baseURL: process.env.BASE + '/v1', apiKey: 'sk-corral-wrong' });
      const a = new Anthropic({ baseURL: process.env.BASE, apiKey: 'sk-corral-wrong' });
      const body = ${JSON.stringify(chatBody('chat'))};
      answer([await failure(o.chat.completions.create(body)), await failure(a.messages.create(body))]);`, {
      BASE: corral.far,
    });
    assert.deepEqual(
      answer.map((e) => [e.name, e.status]),
      [
        ['AuthenticationError', 401],
        ['AuthenticationError', 401],
      ],
    );
    assert.equal(answer[0].code, 'invalid_api_key');
    const figure = await corral.figures();
    assert.equal(figure('corral_auth_failures_total', { reason: 'bad_key' }), 2, 'no client tried again');
  }),
);

test(
  'a limit of requests: 429 with the time, and the official client comes back once, then',
  reached(async (corral, key) => {
    const limited = (await corral.cli('key', 'create', 'few', '--limit', 'requests=120/min')).stdout.trim();
    const first = await corral.chat('chat', {}, { headers: bearer(limited) });
    assert.equal(first.status, 200);
    assert.equal(first.headers['x-ratelimit-limit-requests'], '120');
    assert.equal(first.headers['x-ratelimit-remaining-requests'], '119');
    assert.match(first.headers['x-ratelimit-reset-requests'], /^\d+(ms|s)$/);
    assert.equal(first.headers['x-ratelimit-limit-tokens'], undefined);
    let last;
    do last = await corral.chat('chat', {}, { headers: bearer(limited) });
    while (last.status === 200);
    assert.equal(last.status, 429);
    assert.equal(last.json.error.code, 'rate_limit_exceeded');
    assert.equal(last.json.error.corral.code, 'QUOTA_EXCEEDED');
    assert.equal(last.headers['x-should-retry'], 'true');
    assert.equal(last.headers['retry-after'], '1');
    assert.ok(Number(last.headers['retry-after-ms']) <= 500);
    assert.equal(last.headers['x-ratelimit-remaining-requests'], '0');
    const refusals = async () =>
      (await corral.figures())('corral_admission_rejected_total', { reason: 'key_requests' });
    const before = await refusals();
    const answer = await outside.run(`
      const o = new OpenAI({ baseURL: process.env.BASE + '/v1', apiKey: process.env.KEY });
      const all = [];
      o.fetch = async (...args) => { const r = await fetch(...args); all.push(r.status); return r; };
      while (!all.includes(429)) await o.chat.completions.create(${JSON.stringify(chatBody('chat'))});
      answer(all.slice(all.indexOf(429)));`, { BASE: corral.far, KEY: limited });
    assert.deepEqual(answer, [429, 200], 'one refusal, one retry that came late enough');
    assert.equal((await refusals()) - before, 1);
    const free = await corral.chat('chat', {}, { headers: bearer(key) });
    assert.equal(free.status, 200, 'another key has its own');
    assert.equal(free.headers['x-ratelimit-limit-requests'], undefined);
  }),
);

test(
  'a limit of tokens is charged with what the engine counts; one of concurrency gives its place back',
  reached(async (corral) => {
    const tokens = (await corral.cli('key', 'create', 't', '--limit', 'tokens=60/min')).stdout.trim();
    const first = await corral.chat('chat', { max_tokens: 4 }, { headers: bearer(tokens) });
    assert.equal(first.headers['x-ratelimit-remaining-tokens'], '60');
    const used = first.json.usage.prompt_tokens + 4;
    const spent = (await corral.get('/v1/requests')).json.requests[0];
    assert.equal(spent.prompt_tokens + spent.output_tokens, used);
    let last;
    do last = await corral.chat('chat', { max_tokens: 16 }, { headers: bearer(tokens) });
    while (last.status === 200);
    assert.equal(last.status, 429);
    assert.match(last.json.error.message, /60 tokens a minute/);
    const anthropic = await corral.post('/v1/messages', chatBody('chat'), { headers: bearer(tokens) });
    assert.deepEqual([anthropic.status, anthropic.json.error.type], [429, 'rate_limit_error']);

    const one = (await corral.cli('key', 'create', 'one', '--limit', 'concurrent=1')).stdout.trim();
    const slow = { fake: { event_interval_us: 2e6 }, stream: true, max_tokens: 16 };
    const stop = new AbortController();
    let began;
    const begun = new Promise((resolve) => (began = resolve));
    const running = corral
      .chat('chat', slow, { headers: bearer(one), onData: () => began(), signal: stop.signal })
      .catch(() => 'left');
    await withDeadline(begun, 'the first token');
    const second = await corral.chat('chat', {}, { headers: bearer(one) });
    assert.equal(second.status, 429);
    assert.match(second.json.error.message, /1 requests? at the same time/);
    stop.abort();
    assert.equal(await running, 'left');
    await until('its place', async () => {
      const again = await corral.chat('other', { max_tokens: 1 }, { headers: bearer(one) });
      return again.status === 200;
    });
  }),
);

test(
  'a key with a list of models sees and gets those alone',
  reached(async (corral) => {
    const made = await corral.cli('key', 'create', 'kid', '--models', 'talk', '--scope', 'control');
    const headers = bearer(made.stdout.trim());
    const list = await outside.send(corral, 'GET', '/v1/models', { headers });
    assert.deepEqual(list.json.data.map((m) => m.id), ['chat']);
    const ask = (model) =>
      outside.send(corral, 'POST', '/v1/chat/completions', { body: chatBody(model), headers });
    assert.equal((await ask('chat')).status, 200);
    assert.equal((await ask('talk')).status, 200);
    const other = await ask('other');
    assert.equal(other.status, 403);
    assert.match(other.json.error.message, /kid may not use the model "other"/);
    const unknown = await ask('othe');
    assert.equal(unknown.status, 404);
    assert.doesNotMatch(unknown.text, /did you mean/);
    const none = await ask(undefined);
    assert.equal(none.status, 400);
    assert.match(none.json.error.message, /the models are: chat\./);
    for (const [method, target] of [
      ['GET', '/v1/models/other'],
      ['POST', '/v1/pools/other/stop'],
      ['GET', '/props?model=other'],
      ['GET', '/upstream/other/props'],
    ]) {
      const body = method === 'POST' ? {} : undefined;
      const answer = await outside.send(corral, method, target, { headers, body });
      assert.equal(answer.status, 403, `${target}: ${answer.text}`);
    }
    assert.equal((await outside.send(corral, 'GET', '/v1/pools/chat', { headers })).status, 200);
  }),
);

test(
  'a revoked key is refused at once, what it has running goes on; names are in records, secrets nowhere',
  reached(async (corral, key) => {
    let began;
    const begun = new Promise((resolve) => (began = resolve));
    const stream = { stream: true, max_tokens: 12, fake: { event_interval_us: 50000 } };
    const running = corral.chat('chat', stream, { headers: bearer(key), onData: () => began() });
    await withDeadline(begun, 'the first token');
    const listed = (await corral.get('/v1/keys')).json.keys;
    assert.deepEqual(listed.map((k) => [k.name, k.scope, k.source]), [['first', 'inference', 'store']]);
    const gone = await corral.cli('key', 'revoke', listed[0].id);
    assert.equal(gone.code, 0, gone.stderr);
    assert.equal((await corral.get('/v1/models', { headers: bearer(key) })).status, 401);
    assert.equal((await outside.send(corral, 'GET', '/v1/models', { headers: bearer(key) })).status, 401);
    const whole = await running;
    assert.equal(whole.status, 200);
    assert.match(whole.text, /data: \[DONE\]/);
    const record = (await corral.get('/v1/requests')).json.requests.find((r) => r.key);
    assert.equal(record.key, 'first');
    await until('the request in the log', () =>
      /"action":"request".*"key_name":"first"/.test(corral.log()),
    );
    const events = corral.log().split('\n').filter((l) => /"action":"(audit|key|auth_failure)"/.test(l));
    assert.match(events.join('\n'), /"method":"DELETE"/);
    assert.match(events.join('\n'), /Key first is revoked by uid \d+ by unix socket/);
    assert.match(events.join('\n'), /"reason":"bad_key".*"token":"token:[0-9a-f]{6}"/);
  }),
);

test(
  'no secret is in any file or line',
  reached(async (corral, key) => {
    await corral.chat('chat', {}, { headers: bearer(key) });
    const admin = (await corral.cli('key', 'create', 'boss', '--scope', 'admin')).stdout.trim();
    const made = await outside.send(corral, 'POST', '/v1/keys', {
      headers: bearer(admin),
      body: { name: 'more', scope: 'control', expires_at: '2100-01-01' },
    });
    assert.equal(made.status, 201, made.text);
    assert.match(made.json.key, /^sk-corral-[0-9A-Za-z]{33}$/);
    assert.equal(made.json.expires_at, '2100-01-01T00:00:00.000Z');
    assert.equal((await corral.get('/v1/keys')).text.includes(made.json.key), false);
    const again = await corral.post('/v1/keys', { name: 'more' });
    assert.equal(again.status, 409);
    assert.equal((await corral.post('/v1/keys', { name: 'x', scopes: 'admin' })).status, 400);
    assert.equal((await corral.send('DELETE', '/v1/keys/nobody', { body: {} })).status, 404);
    for (const secret of [key, admin, made.json.key]) {
      const found = spawnSync('grep', ['-rlaF', '-D', 'skip', secret, corral.dir], { encoding: 'utf8' });
      assert.deepEqual([found.status, found.stdout], [1, ''], found.stderr);
      assert.equal(corral.log().includes(secret), false);
    }
    const control = await outside.send(corral, 'GET', '/v1/pools', { headers: bearer(made.json.key) });
    assert.equal(control.status, 200);
    const mode = fs.statSync(path.join(corral.stateDir, 'keys.db')).mode & 0o777;
    assert.equal(mode, 0o600);
  }),
);

test(
  'keys of a file and of the environment; one that expired; a reload takes the file again',
  async (t) => {
    if (outside.reason) return t.skip(outside.reason);
    const file = 'sk-corral-000000000000000000000000000000001';
    const old = 'sk-corral-000000000000000000000000000000002';
    const env = { CORRAL_API_KEYS: 'ci:control=0123456789abcdef,fedcba9876543210' };
    const listen = ['127.0.0.1:0', `${outside.here}:0`];
    const config = { listen, keys_file: 'keys', pools: [fakePool('chat')] };
    const write = (dir, text, mode = 0o600) => {
      fs.writeFileSync(path.join(dir, 'keys'), text);
      fs.chmodSync(path.join(dir, 'keys'), mode);
    };
    const both = `alice: ${file}\nold: ${old} expires=2020-01-01\n`;
    await reading(
      config,
      async (corral) => {
        corral.far = corral.urls[1];
        const models = async (key) =>
          (await outside.send(corral, 'GET', '/v1/models', { headers: bearer(key) })).status;
        assert.equal(await models(file), 200);
        assert.equal(await models('0123456789abcdef'), 200);
        assert.equal(await models('fedcba9876543210'), 200);
        const expired = await corral.get('/v1/models', { headers: bearer(old) });
        assert.equal(expired.status, 401);
        assert.match(expired.json.error.message, /has expired/);
        const ls = await corral.cli('key', 'ls');
        assert.match(ls.stdout, /alice +\w+ +inference +all +none +never +keys_file/);
        assert.match(ls.stdout, /old +\w+ +inference +all +none +expired 2020-01-01 +keys_file/);
        assert.match(ls.stdout, /env-2 +\w+ +inference .*CORRAL_API_KEYS/);
        const foreign = await corral.cli('key', 'revoke', 'alice');
        assert.equal(foreign.code, 1);
        assert.match(foreign.stderr, /comes from keys_file/);

        write(corral.dir, `bob: ${old}\n`);
        const reload = await corral.cli('config', 'reload');
        assert.equal(reload.code, 0);
        assert.match(reload.stdout, /keys_file \(1 now\) hold/);
        assert.deepEqual([await models(file), await models(old)], [401, 200]);
        write(corral.dir, 'bob: short\n');
        const mistake = await corral.cli('config', 'reload');
        assert.equal(mistake.code, 2);
        assert.match(mistake.stderr, /keys:1: the key has 5 characters/);
        write(corral.dir, `bob: ${old}\n`, 0o666);
        assert.match((await corral.cli('config', 'reload')).stderr, /chmod 600/);
        assert.equal(await models(old), 200, 'nothing was changed');
      },
      { env, wrap: (corral) => (write(corral.dir, both), []) },
    )(t);
  },
);

test('an address that others reach is refused without a key, and what is printed mends it', async (t) => {
  if (outside.reason) return t.skip(outside.reason);
  const config = { listen: ['127.0.0.1:0', `${outside.here}:0`], pools: [fakePool('chat')] };
  const corral = new Corral(config);
  try {
    const refused = await corral.cli('serve', '--config', corral.configFile);
    assert.equal(refused.code, 2);
    const [make, trust] = refused.stderr.split('\n').filter((l) => l.startsWith('  '));
    assert.match(refused.stderr, new RegExp(`others reach ${outside.here.replaceAll('.', '\\.')}:0`));
    assert.match(trust, /auth: \{trusted: \[192\.168\.1\.0\/24\]\}/);
    const words = make.trim().split(' ');
    assert.equal(words.shift(), 'corral');
    const made = await corral.cli(...words);
    assert.equal(made.code, 0, made.stderr);
    const key = made.stdout.trim();
    await corral.start();
    corral.far = corral.urls[1];
    const answer = await outside.send(corral, 'GET', '/v1/models', { headers: bearer(key) });
    assert.equal(answer.status, 200);
    assert.equal((await corral.cli('key', 'revoke', 'laptop')).code, 0);
    const reload = await corral.cli('config', 'reload');
    assert.equal(reload.code, 2, 'nobody could be let in');
    assert.match(reload.stderr, /corral key create/);
    await corral.stop();
    const dry = await corral.cli('key', 'ls');
    assert.match(dry.stdout, /There is no key/);
  } finally {
    corral.kill();
    corral.remove();
  }
});

test(
  'loopback is open, and a key that is known or looks like ours is looked at all the same',
  reading({ pools: [fakePool('chat')] }, async (corral) => {
    const status = async (headers, target = '/v1/pools') => (await corral.get(target, { headers })).status;
    for (const dummy of ['sk-none', 'none', 'ollama', 'EMPTY', 'sk-proj-abcdefghijklmnop'])
      assert.equal(await status(bearer(dummy)), 200);
    assert.equal(await status({}), 200);
    assert.equal(await status(bearer('sk-corral-nothing')), 401);
    assert.equal(await status({ 'x-api-key': 'sk-corral-nothing' }), 401);
    const made = await corral.cli('key', 'create', 'small', '--expires', '1h', '--json');
    const key = JSON.parse(made.stdout);
    assert.equal(await status(bearer(key.key), '/v1/models'), 200);
    assert.equal(await status(bearer(key.key)), 403);
    const bad = await corral.cli('key', 'create', 'x', '--limit', 'requests=many');
    assert.deepEqual([bad.code, /requests=60\/min/.test(bad.stderr)], [2, true]);
    for (let i = 0; i < 20; i++) await status(bearer(`sk-corral-${i}`));
    const figure = await corral.figures();
    assert.equal(figure('corral_auth_failures_total', { reason: 'bad_key' }), 22);
    const lines = corral.log().match(/"action":"auth_failure"/g).length;
    assert.ok(lines < 10, `${lines} lines for 23 failures`);
  }),
);
