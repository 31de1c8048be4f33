// SPDX-License-Identifier: Apache-2.0
//
// The network's policy holds for what git and apt fetch too: whom they asked is counted here.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import http from 'node:http';
import net from 'node:net';
import path from 'node:path';
import { test } from 'node:test';

import { skip, withWorld } from './building.mjs';
import { git } from './repo.mjs';

/** Listens on loopback, and counts who comes; they are hung up on, or answered. */
async function counted(server) {
  const it = { asked: 0, stop: () => server.close() };
  server.on('connection', () => it.asked++);
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  it.host = `127.0.0.1:${server.address().port}`;
  return it;
}
const hangsUp = () => counted(net.createServer((socket) => socket.destroy()));
const redirects = (to) =>
  counted(http.createServer((q, r) => r.writeHead(302, { location: `http://${to.host}${q.url}` }).end()));

/** A commit of dir with that .gitmodules, each path in it a commit id's; tagged as a release. */
function commitModules(dir, text, links, tag) {
  fs.writeFileSync(path.join(dir, '.gitmodules'), text);
  git(dir, 'add', '.gitmodules');
  for (const [at, id] of Object.entries(links))
    git(dir, 'update-index', '--add', '--cacheinfo', `160000,${id},${at}`);
  git(dir, 'commit', '-qm', 'modules');
  if (tag) git(dir, 'tag', tag);
}

test(
  'policy: a submodule is asked only where the policy lets, however it is written and however deep',
  { skip },
  withWorld(
    async (w) => {
      const far = await hangsUp();
      const head = git(w.repo, 'rev-parse', 'HEAD');
      const small = git(path.join(w.dir, 'small'), 'rev-parse', 'HEAD');
      const mine = '[submodule "vendor/small"]\n\tpath = vendor/small\n\turl = ../small\n';
      const bounds = { allow_hosts: ['example.org'], deny: ['127.0.0.1'] };
      const url = `https://${far.host}/x`;
      const written = [`[submodule "x"] url = ${url}\n\tpath = x\n`,
        `[submodule "x"]\n\tpath = x\n\tURL = "${url}" ; so\n`,
        `[submodule "x.url https://example.org/ y"]\n\tpath = x\n\turl = https:\\\n//${far.host}/x\n`];
      for (const [i, text] of written.entries()) {
        commitModules(w.repo, mine + text, { x: head }, `b20${i}`);
        w.write({ top: { network: bounds } });
        const { error } = await w.provision();
        assert.match(error, /^a submodule: 127.0.0.1 was not asked: refused by network.deny: 127.0.0.1$/);
      }
      w.write({ top: { network: { offline: true } } }); // a repository on this machine, which names others
      assert.match((await w.provision()).error, /^a submodule: 127.0.0.1 was not asked: .*network.offline$/);

      const dirs = Object.fromEntries(['small', 'deep'].map((name) => [name, path.join(w.dir, name)]));
      fs.mkdirSync(dirs.deep);
      git(dirs.deep, 'init', '-q');
      fs.writeFileSync(path.join(dirs.deep, 'deep.txt'), 'deep\n');
      git(dirs.deep, 'add', 'deep.txt');
      commitModules(dirs.deep, written[0], { x: head });
      const deepest = git(dirs.deep, 'rev-parse', 'HEAD');
      const below = '[submodule "d d"]\n\tpath = d d\n\turl = ../deep\n';
      commitModules(dirs.small, below, { 'd d': deepest });
      git(w.repo, 'rm', '-q', '--cached', 'x');
      const newer = git(dirs.small, 'rev-parse', 'HEAD');
      assert.notEqual(newer, small);
      commitModules(w.repo, mine, { 'vendor/small': newer }, 'b210');
      w.write({ top: { network: bounds } });
      assert.match((await w.provision()).error, /^a submodule: 127.0.0.1 was not asked: .*network.deny/);
      const trees = fs.readdirSync(w.engines).filter((n) => n.startsWith('.src-'));
      const there = trees.map((n) => path.join(w.engines, n, 'vendor/small/d d/deep.txt'));
      assert.ok(there.some((file) => fs.existsSync(file)), 'the levels that are allowed are fetched');
      assert.equal(far.asked, 0);

      w.write({ top: { network: { allow_hosts: ['127.0.0.1'] } } });
      assert.match((await w.provision()).error, /^the sources cannot be fetched: /);
      assert.ok(far.asked > 0, 'the count counts');
      far.stop();
    },
    { units: 1 },
  ),
);

test(
  'policy: git follows no redirect where hosts are named, and no password reaches a command line',
  { skip },
  withWorld(
    async (w) => {
      const far = await hangsUp();
      const near = await redirects(far);
      const repo = `http://${near.host}/llama.cpp`;
      w.write({ source: { repo }, top: { network: { allow_hosts: [near.host], deny: [far.host] } } });
      const { error } = await w.provision();
      assert.match(error, /^the repository cannot be asked for its tags and branches: .*error: 302: it has /);
      assert.match(error, /no redirect is followed; set engine.source.repo to the address it has now/);
      assert.deepEqual([near.asked > 0, far.asked], [true, 0]);
      w.write({ source: { repo } });
      await w.provision();
      assert.ok(far.asked > 0, 'followed where no host is named');

      const asked = near.asked;
      w.write({ source: { repo: repo.replace('//', '//bob:S3CRET@') } });
      const refused = await w.provision();
      assert.match(refused.error, /leave it out, and let git have it from ~\/.netrc or a credential helper/);
      assert.doesNotMatch(refused.stdout + refused.stderr, /S3CRET/);
      assert.equal(near.asked, asked);
      near.stop();
      far.stop();
    },
    { units: 1 },
  ),
);

const apt = ['apt-get', 'apt-config', 'dpkg'];
const noApt = apt.some((name) => spawnSync(name, ['--version']).error) && 'no apt here';

test(
  'policy: an archive of packages is asked only where the policy lets',
  { skip: skip || noApt },
  withWorld(
    async (w) => {
      const far = await hangsUp();
      const keyring = path.join(w.dir, 'none.gpg'); // nothing comes so far that it would be read
      fs.writeFileSync(keyring, '');
      const write = (network, host = far.host) => {
        const engine = { mode: 'package', package: { archive: `http://${host}/debian`, keyring } };
        fs.writeFileSync(
          w.config,
          JSON.stringify({ state_dir: w.state, runtime_dir: path.join(w.dir, 'r'), network,
            pools: [{ id: 'chat', model: '/nowhere.gguf', engine }] }),
        );
      };
      write({ deny: ['127.0.0.1'] });
      assert.match((await w.provision()).error, /^127.0.0.1 was not asked: refused by network.deny/);
      write({ allow_hosts: ['huggingface.co'] });
      assert.match((await w.provision()).error, /^127.0.0.1 was not asked: network.allow_hosts does not /);
      const near = await redirects(far);
      write({ allow_hosts: [near.host] }, near.host);
      assert.match((await w.provision()).error, /sends to another address, .* in engine.package.archive$/);
      assert.deepEqual([near.asked > 0, far.asked], [true, 0]);
      near.stop();
      far.stop();
    },
    { units: 1 },
  ),
);
