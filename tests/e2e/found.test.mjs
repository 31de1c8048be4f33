// SPDX-License-Identifier: Apache-2.0
// With no pools configured: what lies on the disk already is found, listed and served, and only read.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import test from 'node:test';
import { Corral, fakeLlamaPool, model, realPool, until, withDeadline } from './harness.mjs';

/** A home folder as the programs that fetch models leave it behind. */
class Home {
  constructor() {
    this.dir = fs.mkdtempSync(path.join(os.tmpdir(), 'crl-home-'));
    this.modelsDir = path.join(this.dir, 'models');
    fs.mkdirSync(this.modelsDir);
  }

  #put(name, write) {
    const file = path.join(this.dir, name);
    fs.mkdirSync(path.dirname(file), { recursive: true });
    write(file);
    return file;
  }
  copy(name, from) {
    return this.#put(name, (file) => fs.copyFileSync(from, file));
  }
  text(name, words) {
    return this.#put(name, (file) => fs.writeFileSync(file, words));
  }

  hub(owner, repo, name, from) {
    const dir = `.cache/huggingface/hub/models--${owner}--${repo}`;
    const digest = sha256(from);
    this.copy(`${dir}/blobs/${digest}`, from);
    this.text(`${dir}/refs/main`, 'abc123');
    this.#put(`${dir}/snapshots/abc123/${name}`, (file) => fs.symlinkSync(`../../blobs/${digest}`, file));
  }
  ollama(name, tag, from) {
    const digest = sha256(from);
    this.copy(`.ollama/models/blobs/sha256-${digest}`, from);
    const layer = { mediaType: 'application/vnd.ollama.image.model', digest: `sha256:${digest}` };
    this.text(
      `.ollama/models/manifests/registry.ollama.ai/library/${name}/${tag}`,
      JSON.stringify({ schemaVersion: 2, layers: [layer] }),
    );
  }
  llamacpp(owner, repo, name, from) {
    this.copy(`.cache/llama.cpp/${owner}_${repo}_${name}`, from);
    const manifest = JSON.stringify({ ggufFile: { rfilename: name } });
    this.text(`.cache/llama.cpp/manifest=${owner}=${repo}=latest.json`, manifest);
  }

  /** Every file with what would change if somebody wrote to it. */
  listing() {
    return fs
      .readdirSync(this.dir, { recursive: true })
      .sort()
      .map((name) => {
        const st = fs.lstatSync(path.join(this.dir, name));
        return `${name} ${st.ino} ${st.size} ${st.mtimeMs} ${st.ctimeMs} ${st.mode} ${st.nlink}`;
      });
  }
  remove() {
    fs.rmSync(this.dir, { recursive: true, force: true });
  }
}

const sha256 = (file) => createHash('sha256').update(fs.readFileSync(file)).digest('hex');
const seeded = (n, ...args) => model('random', '--seed', String(n), ...args);

/** A Corral without pools whose stores lie in `home`. */
function corralIn(home, config = {}) {
  const { engine } = realPool('x');
  const env = { HOME: home.dir, OLLAMA_MODELS: path.join(home.dir, '.ollama/models') };
  for (const name of ['HF_HOME', 'HF_HUB_CACHE', 'LLAMA_CACHE']) env[name] = '';
  return new Corral({ models_dir: home.modelsDir, defaults: { engine }, ...config }, { env });
}

async function inHome(t, fill, body, config) {
  const home = new Home();
  const corral = corralIn(home, config);
  try {
    fill(home);
    await corral.start();
    await body(corral, home);
    assert.deepEqual(await corral.stop(), { code: 0, signal: null });
  } catch (error) {
    console.error(`---- log of the Corral of "${t.name}"\n${corral.log().slice(-20000)}\n----`);
    throw error;
  } finally {
    corral.kill();
    corral.remove();
    home.remove();
  }
}

const listed = async (corral) => (await corral.get('/v1/models')).json.data;
const ids = async (corral) => (await listed(corral)).map((m) => m.id);

function fillFour(home) {
  home.hub('ggml-org', 'Hub-GGUF', 'Hub-Q8_0.gguf', seeded(1));
  home.ollama('olly', '3b', seeded(2));
  home.llamacpp('ggml-org', 'Cpp-GGUF', 'Cpp-F16.gguf', seeded(3));
  home.copy('.lmstudio/models/someone/Studio-GGUF/Studio-Q4_K_M.gguf', seeded(4));
  home.copy('models/deep/Loose.gguf', model('says'));
  home.copy('models/again.gguf', seeded(5));
  fs.symlinkSync(path.join(home.modelsDir, 'again.gguf'), path.join(home.modelsDir, 'more.gguf'));
  fs.symlinkSync(home.modelsDir, path.join(home.modelsDir, 'loop'));
  fs.symlinkSync('nowhere', path.join(home.modelsDir, 'gone.gguf'));
  home.text('models/page.gguf', '<html>');
}

test('models of every store are listed, answer when asked, and are only read', async (t) => {
  await inHome(t, fillFour, async (corral, home) => {
    const before = home.listing();
    const models = await listed(corral);
    assert.deepEqual(
      models.map((m) => [m.id, m.corral.source, m.meta.quant, m.status.value]),
      [
        ['again', 'models_dir', 'F32', 'unloaded'],
        ['cpp-f16', 'llama.cpp cache', 'F16', 'unloaded'],
        ['hub-q8_0', 'Hugging Face cache', 'Q8_0', 'unloaded'],
        ['loose', 'models_dir', 'F32', 'unloaded'],
        ['olly-3b', 'Ollama', 'F32', 'unloaded'],
        ['studio-q4_k_m', 'LM Studio', 'Q4_K_M', 'unloaded'],
      ],
    );
    assert.deepEqual(corral.engines(), [], 'nothing is loaded before a request');
    assert.match(corral.log(), /6 models found in 5 places: Hugging Face cache \(1\)/);
    for (const name of ['hub-q8_0', 'cpp-f16', 'studio-q4_k_m', 'olly:3b', 'ggml-org/Hub-GGUF:Q8_0']) {
      const answer = await withDeadline(corral.chat(name, { max_tokens: 4 }), name, 120000);
      assert.equal(answer.status, 200, `${name}: ${answer.text}`);
    }
    const answer = await withDeadline(corral.chat('loose', { max_tokens: 100 }), 'says', 120000);
    assert.match(answer.json.choices[0].message.content, /built-in test model/);
    assert.equal((await corral.pool('again')).state, 'unloaded', 'who was not asked is not loaded');
    const { stdout } = await corral.cli('models');
    assert.match(stdout, /^olly-3b +loaded +.*F32 +text +Ollama$/m);
    assert.match(stdout, /^again +unloaded +.*models_dir$/m);
    assert.deepEqual(home.listing(), before, 'nothing in the stores changed');
  });
});

test('what a found model needs is computed from its header, as for a configured one', async (t) => {
  const fill = (home) => home.copy('models/long.gguf', seeded(6, '--ctx', '65536'));
  const { engine } = fakeLlamaPool('x');
  await inHome(
    t,
    fill,
    async (corral) => {
      const { json } = await corral.get('/v1/explain?pool=long');
      assert.deepEqual([json.need.source, json.need.layers, json.ctx_auto], ['formula', 2, true]);
      assert.ok(json.need.ctx >= 8192 && json.need.ctx <= 65536, `${json.need.ctx}`);
      assert.equal((await corral.chat('long')).status, 200);
      assert.equal((await corral.pool('long')).ctx, json.need.ctx);
    },
    { defaults: { engine } },
  );
});

test('the same disk gives the same ids and engines after a restart', async (t) => {
  await inHome(t, fillFour, async (corral) => {
    const before = await ids(corral);
    const specs = async () => (await listed(corral)).map((m) => m.corral.reference);
    const references = await specs();
    assert.equal((await corral.chat('olly-3b', { max_tokens: 1 })).status, 200);
    const engine = corral.engineOf('olly-3b').pid;
    corral.child.kill('SIGKILL');
    await corral.exited;
    await corral.start();
    assert.deepEqual(await ids(corral), before);
    assert.deepEqual(await specs(), references);
    await corral.ready('olly-3b');
    assert.equal(corral.engineOf('olly-3b').pid, engine, 'its engine serves on');
    assert.equal((await corral.chat('olly-3b', { max_tokens: 1 })).status, 200);
  });
});

test('embedding and rerank models are served as such', async (t) => {
  const fill = (home) => {
    home.copy('models/embed.gguf', seeded(11, '--pooling', '1'));
    home.copy('models/rank.gguf', seeded(12, '--pooling', '4'));
  };
  await inHome(t, fill, async (corral) => {
    assert.deepEqual(
      (await listed(corral)).map((m) => [m.id, m.corral.use]),
      [
        ['embed', 'embedding'],
        ['rank', 'rerank'],
      ],
    );
    await until('the log to say so', () => /embed is an embedding model/.test(corral.log()));
    const body = { model: 'embed', input: 'some words' };
    const { status, json, text } = await withDeadline(corral.post('/v1/embeddings', body), 'it', 120000);
    assert.equal(status, 200, text);
    assert.ok(json.data[0].embedding.some((x) => x !== 0));
    const long = { model: 'embed', input: 'x'.repeat(1500) }; // more than llama-server's own batch
    assert.equal((await corral.post('/v1/embeddings', long)).status, 200);
    const ask = { model: 'rank', query: 'a', documents: ['b', 'c'] };
    const ranked = await withDeadline(corral.post('/v1/rerank', ask), 'the ranking', 120000);
    assert.equal(ranked.status, 200, ranked.text);
    assert.equal(ranked.json.results.length, 2);
  });
});

test('nothing found: it serves without pools and says where it looked and what to do', async (t) => {
  await inHome(
    t,
    () => {},
    async (corral, home) => {
      assert.deepEqual(await listed(corral), []);
      const told = () => /no models were found; looked in /.test(corral.log()) && corral.log();
      const log = await until('what was found to be told', async () => told());
      const caches = ['.cache/huggingface/hub', '.cache/llama.cpp'];
      for (const place of [...caches, '.ollama/models', '.lmstudio/models', 'models'])
        assert.ok(log.includes(path.join(home.dir, place)), place);
      assert.match(log, /corral run FILE\.gguf/);
      const { code, stdout } = await corral.cli('models');
      assert.equal(code, 0);
      assert.match(stdout, /No models are served\..*corral run FILE\.gguf/);
      assert.equal((await corral.chat('any')).status, 404);
    },
  );
});

test('a reload picks up a model that came and drops one that went', async (t) => {
  const fill = (home) => {
    home.copy('models/stays.gguf', seeded(21));
    home.copy('models/goes.gguf', seeded(22));
  };
  await inHome(t, fill, async (corral, home) => {
    for (const id of ['stays', 'goes']) assert.equal((await corral.chat(id, { max_tokens: 1 })).status, 200);
    const engine = corral.engineOf('stays').pid;
    corral.child.kill('SIGHUP');
    await until('the reload', () => /nothing changed/.test(corral.log()));
    assert.deepEqual(await ids(corral), ['goes', 'stays'], 'the same disk, the same models');
    fs.rmSync(path.join(home.modelsDir, 'goes.gguf'));
    home.copy('models/comes.gguf', seeded(23));
    corral.child.kill('SIGHUP');
    await until('the new list', async () => (await ids(corral)).join() === 'comes,stays');
    await until('the engine of the one that went to end', () => !corral.engineOf('goes'), 60000);
    assert.equal(corral.engineOf('stays').pid, engine, 'who stayed serves on');
    assert.equal((await corral.chat('comes', { max_tokens: 1 })).status, 200);
    assert.equal((await corral.chat('goes', { max_tokens: 1 })).status, 404);
    for (const id of ['stays', 'comes']) fs.rmSync(path.join(home.modelsDir, `${id}.gguf`));
    assert.equal((await corral.cli('config', 'reload')).code, 0);
    await until('an empty list', async () => (await ids(corral)).length === 0);
  });
});

test('a configured pool means that nobody looks', async (t) => {
  const fill = (home) => home.copy('models/there.gguf', seeded(31));
  const pools = [realPool('own')];
  await inHome(
    t,
    fill,
    async (corral) => {
      assert.deepEqual(await ids(corral), ['own']);
      assert.doesNotMatch(corral.log(), /models found|models were found/);
    },
    { pools },
  );
});
