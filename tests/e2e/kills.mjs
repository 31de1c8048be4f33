// SPDX-License-Identifier: Apache-2.0
//
// kill -9 at random moments, under load: an engine, a keeper, orchestratord (started again with the same
// configuration, as a supervisor would), engine-provisioner, and several at once. After each kill it looks
// at everything that could have been left wrong: processes, files, threads, which engine kept its pid and
// which one is new; and every request of the load has to have ended as it may. Moments are counted in
// pieces of answers that the load has heard, never in time.
//
//   node tests/e2e/kills.mjs [--kills 300] [--seed N] [--minutes M]
//
// Prints the seed and a table; exit 1 when something was wrong. Descriptors are compared with those of the
// start, with the load paused, every TENTH kill and at the end.

import fs from 'node:fs';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { Corral, fakeLlamaPool, fakePool, isAlive, opened, realPool } from './harness.mjs';
import { sse, until, withDeadline } from './harness.mjs';

const TENTH = 10;
const CLIENTS = 6;

/** Small, seedable, good enough to pick victims (mulberry32). */
export function random(seed) {
  let a = seed >>> 0;
  const next = () => {
    a = (a + 0x6d2b79f5) >>> 0;
    let t = a;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  const below = (n) => Math.floor(next() * n);
  return { below, pick: (list) => list[below(list.length)] };
}

// ---- the load --------------------------------------------------------------------------------------

class Load {
  outcomes = new Map();
  problems = [];
  #heard = 0;
  #waiting = []; // {at, resolve}
  #running = new Set();
  #on = false;

  constructor(corral, pools, rnd) {
    Object.assign(this, { corral, pools, rnd, deaths: 0, down: false, lost: new Map(), dying: [] });
  }

  #hear() {
    this.#heard++;
    this.#waiting = this.#waiting.filter((w) => w.at > this.#heard || void w.resolve());
  }

  /** Resolves when `n` more pieces of answers have come. */
  pieces(n) {
    const all = new Promise((resolve) => this.#waiting.push({ at: this.#heard + n, resolve }));
    return withDeadline(all, `${n} more pieces of answers`, 60000);
  }

  resume() {
    this.#on = true;
    while (this.#running.size < CLIENTS) {
      const client = this.#client().finally(() => this.#running.delete(client));
      this.#running.add(client);
    }
  }

  /** No more requests; waits for those that run. */
  async pause() {
    this.#on = false;
    await withDeadline(Promise.all(this.#running), 'the running requests to end', 120000);
  }

  async #client() {
    while (this.#on) {
      if (this.down) await this.down; // nobody listens: as a client would, later
      const one = {
        pool: this.rnd.pick(this.pools),
        stream: this.rnd.below(3) > 0,
        max_tokens: 1 + this.rnd.below(40),
        prefill_ms: this.rnd.below(4) ? 0 : this.rnd.below(400),
      };
      const deaths = this.deaths;
      const lost = new Map(this.lost);
      const { dying } = this; // killed, and perhaps not dead yet: it may still begin an answer
      const answer = await this.#ask(one);
      const by = answer.headers?.['x-corral-replica'];
      const outcome = this.#judge(one, answer, {
        daemonDied: deaths !== this.deaths || this.down,
        engineDied: dying.includes(by) || lost.get(by) !== this.lost.get(by),
      });
      this.outcomes.set(outcome, (this.outcomes.get(outcome) ?? 0) + 1);
      this.#hear();
    }
  }

  async #ask({ pool, stream, max_tokens, prefill_ms }) {
    const opts = { onData: () => this.#hear() };
    const fields = { stream, max_tokens, fake: { prefill_ms } };
    const asked = this.corral.chat(pool, fields, opts).catch((error) => ({ error }));
    return withDeadline(asked, 'an answer', 120000).catch((error) => ({ error, late: true }));
  }

  /** How it ended, in a word; what may not be goes to problems. */
  #judge(one, answer, { daemonDied, engineDied }) {
    const wrong = (what) => {
      this.problems.push(`${what}: ${JSON.stringify(one)} ${answer.text?.slice(-600) ?? ''}`);
      return 'WRONG';
    };
    if (answer.late) return wrong('never ended');
    if (answer.error)
      return daemonDied ? 'ended with orchestratord' : wrong(`no answer (${answer.error.message})`);
    if (answer.status !== 200) return wrong(`status ${answer.status}`);
    const datas = one.stream ? sse(answer.text).map((e) => e.data) : [];
    const done = datas.includes('[DONE]');
    if (answer.complete && (one.stream ? datas.at(-1) === '[DONE]' : answer.json?.choices)) return 'whole';
    if (answer.complete) return wrong('ended as complete, but is not');
    if (daemonDied && !done) return 'cut with orchestratord';
    if (!engineDied) return wrong('cut, and its engine lives');
    if (!one.stream) return 'body cut visibly';
    if (!done && /"code":"WORKER_RESET"/.test(datas.at(-1) ?? '')) return 'told in the stream';
    return wrong('a stream cut without a word');
  }
}

// ---- what has to be true -----------------------------------------------------------------------------

const isKeeper = (p) => /corral-keeper$/.test(p.argv[0] ?? '');
const isProvisioner = (p) => p.daemon && /engine-provisioner$/.test(p.argv[0] ?? '');

/** Processes of the instance, sorted into what they are. */
function sorted(corral, replicas) {
  const all = corral.processes();
  const found = { serve: [], provisioner: [], probe: [], other: [], replicas: new Map() };
  for (const id of replicas.keys()) found.replicas.set(id, { keepers: [], engines: [], rest: [] });
  for (const p of all) {
    const of = replicaOf(p, found.replicas, all);
    if (p.pid === corral.pid) found.serve.push(p);
    else if (isProvisioner(p)) found.provisioner.push(p);
    else if (p.daemon && p.argv.includes('gpu-probe')) found.probe.push(p);
    else if (of && isKeeper(p)) of.keepers.push(p);
    else if (of && all.some((k) => k.pid === p.ppid && isKeeper(k)) && !of.engines.length) of.engines.push(p);
    else if (of) of.rest.push(p);
    else found.other.push(p);
  }
  return found;
}

function replicaOf(p, replicas) {
  if (isKeeper(p)) return replicas.get(p.argv[1]);
  const socket = p.argv.map((word) => /\/([^/]+)\.\d+\.sock$/.exec(word)?.[1]).find(Boolean);
  return replicas.get(socket);
}

/** What is not as it should be, in words; '' when all is. `now` is filled with the replicas' pids. */
async function unsettled(state, now) {
  const { corral, replicas } = state;
  const found = sorted(corral, replicas);
  const pools = (await corral.get('/v1/pools').catch(() => null))?.json?.pools;
  if (!pools) return 'no answer from /v1/pools';
  if (found.serve.length !== 1 || found.provisioner.length !== 1)
    return `${found.serve.length} orchestratord, ${found.provisioner.length} engine-provisioner`;
  if (found.probe.length > 1) return `${found.probe.length} gpu-probe`;
  if (found.other.length) return `an orphan: ${JSON.stringify(found.other.map((p) => p.argv))}`;
  const told = pools.flatMap((p) => p.replicas);
  if (told.length !== replicas.size) return `${told.length} replicas are told`;
  const files = new Set();
  for (const r of told) {
    const wrong = replicaUnsettled(r, found.replicas.get(r.id), replicas.get(r.id));
    if (wrong) return `${r.id}: ${wrong}`;
    now.set(r.id, { pid: r.pid, generation: r.generation });
    const ends = ['lock', 'record', 'start', 'json', `${r.generation}.sock`];
    for (const end of ends) files.add(`${r.id}.${end}`);
  }
  return filesUnsettled(corral, files);
}

function replicaUnsettled(told, found, conf) {
  if (!found) return 'not in the configuration';
  if (!told.ready || told.state !== 'ready' || !told.pid) return `is ${told.state}`;
  if (found.keepers.length !== 1) return `${found.keepers.length} keepers`;
  if (found.engines.length !== 1) return `${found.engines.length} engines`;
  if (found.rest.length !== conf.grandchildren)
    return `${found.rest.length} further processes: ${JSON.stringify(found.rest)}`;
  if (found.engines[0].pid !== told.pid) return `pid ${told.pid} is told, ${found.engines[0].pid} is there`;
  return '';
}

function filesUnsettled(corral, expected) {
  const there = fs.readdirSync(path.join(corral.runtimeDir, 'engines'));
  const extra = there.filter((name) => !expected.has(name));
  const missing = [...expected].filter((name) => !there.includes(name));
  const spooled = fs.readdirSync(path.join(corral.stateDir, 'spool'));
  const ours = /^(engines|(corral|registry|provisioner)\.sock|(orchestratord|provisioner)\.lock)$/;
  const top = fs.readdirSync(corral.runtimeDir).filter((name) => !ours.test(name));
  if (extra.length || top.length || spooled.length) return `left over: ${[...extra, ...top, ...spooled]}`;
  return missing.length ? `missing: ${missing}` : '';
}

async function settle(state) {
  let wrong;
  const now = new Map();
  await until(
    () => `everything to be in its place: ${wrong}`,
    async () => {
      now.clear();
      return !(wrong = await unsettled(state, now));
    },
    60000,
  );
  return now;
}

const countFds = (pid) => opened(pid).length;

function figures(state) {
  const found = sorted(state.corral, state.replicas);
  const of = (p) => ({ threads: p.threads, fds: countFds(p.pid) });
  return { orchestratord: of(found.serve[0]), 'engine-provisioner': of(found.provisioner[0]) };
}

/** Descriptors and threads, once connections that were idle have been closed. */
async function grown(state) {
  let more;
  await until(
    () => `descriptors and threads to be as at the start: ${more}`,
    () => {
      const now = figures(state);
      more = Object.entries(now)
        .flatMap(([who, f]) => Object.entries(f).map(([k, v]) => [`${who} ${k}`, v, state.before[who][k]]))
        .filter(([, v, before]) => v > before)
        .map(([what, v, before]) => `${what}: ${before} before, ${v} now`)
        .join(', ');
      return !more;
    },
    30000,
  );
}

// ---- one kill ----------------------------------------------------------------------------------------

const KINDS = [
  ['engine'],
  ['keeper'],
  ['orchestratord'],
  ['engine-provisioner'],
  ['engine', 'engine-provisioner'],
  ['orchestratord', 'engine-provisioner'],
  ['keeper', 'engine-provisioner'],
  ['engine', 'engine'],
  ['engine', 'orchestratord'],
  ['keeper', 'keeper'],
  ['keeper', 'orchestratord'],
  ['engine', 'keeper', 'orchestratord', 'engine-provisioner'],
];

/** Victims' pids, and the replicas that lose their engine by it. */
function choose(state, kind) {
  const found = sorted(state.corral, state.replicas);
  const left = [...state.replicas.keys()];
  const chosen = { pids: [], replicas: [] };
  for (const what of kind) {
    if (what === 'orchestratord') chosen.pids.push(state.corral.pid);
    else if (what === 'engine-provisioner') chosen.pids.push(found.provisioner[0].pid);
    else {
      const [id] = left.splice(state.rnd.below(left.length), 1);
      const { keepers, engines } = found.replicas.get(id);
      chosen.pids.push((what === 'keeper' ? keepers : engines)[0].pid);
      chosen.replicas.push(id);
    }
  }
  return chosen;
}

async function restartDaemon(state) {
  const { corral, load } = state;
  await withDeadline(corral.exited, 'orchestratord to be dead');
  await corral.start();
  const back = load.back;
  load.down = false;
  back();
  for (const id of state.pools) {
    const answer = await corral.chat(id, { max_tokens: 1 });
    if (answer.status !== 200) state.problems.push(`the successor answered ${answer.status} for ${id}`);
  }
}

async function killOnce(state, kind) {
  const { load } = state;
  const before = await settle(state);
  await load.pieces(1 + state.rnd.below(60));
  const chosen = choose(state, kind);
  const dies = kind.includes('orchestratord');
  if (dies) {
    load.deaths++;
    load.down = new Promise((resolve) => (load.back = resolve));
  }
  for (const id of chosen.replicas) load.lost.set(id, (load.lost.get(id) ?? 0) + 1);
  load.dying = chosen.replicas;
  const start = performance.now();
  for (const pid of chosen.pids) process.kill(pid, 'SIGKILL');
  if (dies) await restartDaemon(state);
  await until('the victims to be gone', () => !chosen.pids.some(isAlive));
  const now = await settle(state);
  const took = performance.now() - start;
  load.dying = [];
  for (const [id, { pid, generation }] of now) {
    const old = before.get(id);
    const lost = chosen.replicas.includes(id);
    if (!lost && old.pid !== pid) state.problems.push(`${id} lost its engine to the kill of ${kind}`);
    if (lost && old.pid === pid) state.problems.push(`${id} has the pid of its dead engine`);
    if (lost && generation <= old.generation) state.problems.push(`${id}: generation ${generation} again`);
  }
  return took;
}

// ---- all of it ---------------------------------------------------------------------------------------

export function configuration() {
  const paced = ['--event-interval-us', 5000, '--tokens', 40];
  const two = { replicas: { min: 2, max: 2 }, slots: 4 };
  const pools = [
    fakeLlamaPool('tree', [...paced, '--grandchild', 1], two),
    fakePool('plain', paced, { replicas: { min: 1, max: 1 }, slots: 4 }),
  ];
  if (process.env.CORRAL_TEST_LLAMA_SERVER)
    pools.push(realPool('real', { replicas: { min: 1, max: 1 }, slots: 2 }));
  return { log: { format: 'json', level: 'debug' }, pools };
}

function replicasOf(config) {
  const all = config.pools.flatMap((p) =>
    Array.from({ length: p.replicas.min }, (_, i) => [
      `${p.id}-${i}`,
      { grandchildren: p.id === 'tree' ? 1 : 0 },
    ]),
  );
  return new Map(all);
}

const lastWords = (corral) =>
  corral
    .log()
    .split('\n')
    .filter((l) => !/"action":"(request|admission|placement|stream)"/.test(l))
    .slice(-40)
    .join('\n');

const median = (list) => [...list].sort((a, b) => a - b)[Math.floor(list.length / 2)];

function table(state, times) {
  const rows = [...times].map(
    ([kind, list]) =>
      `  ${kind.padEnd(56)} ${String(list.length).padStart(5)} ${median(list).toFixed(0).padStart(8)} ` +
      `${Math.max(...list).toFixed(0).padStart(8)}`,
  );
  const ends = [...state.load.outcomes].sort().map(([k, n]) => `  ${k.padEnd(56)} ${String(n).padStart(5)}`);
  return [
    `  ${'killed'.padEnd(56)} times median ms   max ms   (until all was in its place)`,
    ...rows,
    '  requests that ended so:',
    ...ends,
  ].join('\n');
}

/** Runs `kills` kills; gives {seed, kills, problems, text}. */
export async function killLoop({ kills, seed, minutes = Infinity, say = () => {} }) {
  const config = configuration();
  const corral = new Corral(config);
  const rnd = random(seed);
  const pools = config.pools.map((p) => p.id);
  const load = new Load(corral, pools, random(seed + 1));
  const state = { corral, rnd, load, pools, replicas: replicasOf(config), problems: load.problems };
  const times = new Map();
  const end = performance.now() + minutes * 60000;
  let done = 0;
  try {
    await corral.start();
    await settle(state);
    state.before = figures(state); // no request has been sent yet: no connection to an engine is open
    load.resume();
    for (; done < kills && performance.now() < end; done++) {
      const kind = KINDS[done % KINDS.length];
      const took = await killOnce(state, kind).catch((error) => {
        throw new Error(`kill ${done} (${kind.join(' + ')}): ${error.message}`);
      });
      const name = kind.join(' + ');
      times.set(name, [...(times.get(name) ?? []), took]);
      say(`${done} ${name}: ${took.toFixed(0)} ms`);
      if (done % TENTH !== TENTH - 1) continue;
      await load.pause();
      await grown(state);
      load.resume();
    }
    await load.pause();
    await settle(state);
    await grown(state);
    const stopped = await corral.stop();
    if (stopped.code !== 0) state.problems.push(`the end after SIGTERM was ${JSON.stringify(stopped)}`);
  } catch (error) {
    state.problems.push(`${error.message}\n${lastWords(corral)}`);
  } finally {
    corral.kill();
    corral.remove();
  }
  return { seed, kills: done, problems: state.problems, text: table(state, times) };
}

const thisFile = fs.realpathSync(new URL(import.meta.url).pathname);
if (process.argv[1] && fs.realpathSync(process.argv[1]) === thisFile) {
  const { values } = parseArgs({
    options: { kills: { type: 'string' }, seed: { type: 'string' }, minutes: { type: 'string' } },
  });
  const seed = Number(values.seed ?? Date.now() % 1000000);
  console.log(`seed ${seed}`);
  const got = await killLoop({
    kills: Number(values.kills ?? 300),
    seed,
    minutes: Number(values.minutes ?? Infinity),
    say: (line) => console.log(line),
  });
  console.log(`${got.kills} kills, seed ${got.seed}\n${got.text}`);
  for (const problem of got.problems) console.error(`WRONG ${problem}`);
  process.exit(got.problems.length ? 1 : 0);
}
