#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
// A stand-in for podman and docker, as far as Corral uses them: podman.mjs FOLDER WORDS… keeps images
// and containers as files in FOLDER. A container is a process in a session of its own that outlives the
// client that was killed, with the environment of its --env-file and nothing else. FOLDER/registry.json:
// {image: {digest, program: […]}}; FOLDER/calls: each call's words as a JSON line.
import { spawn } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import process from 'node:process';

const [folder, ...words] = process.argv.slice(2);
const at = (...parts) => path.join(folder, ...parts);
const read = (file) => JSON.parse(fs.readFileSync(file, 'utf8'));
const fail = (text, code = 125) => {
  console.error(`Error: ${text}`);
  process.exit(code);
};
fs.appendFileSync(at('calls'), `${JSON.stringify(words)}\n`);
fs.mkdirSync(at('images'), { recursive: true });
fs.mkdirSync(at('containers'), { recursive: true });

const registry = read(at('registry.json'));
const nameOf = (image) => image.replace(/@.*$/, '').replace(/:[^:/]*$/, '');
const find = (image) =>
  Object.entries(registry).find(
    ([full, { digest }]) => full === image || `${nameOf(full)}@${digest}` === image,
  );
const fileOf = (image) => at('images', encodeURIComponent(find(image)?.[0] ?? image));

function containers(filters) {
  return fs
    .readdirSync(at('containers'))
    .map((name) => ({ name, ...read(at('containers', name)) }))
    .filter((c) => filters.every((f) => c.labels.includes(f)));
}
const alive = (pid) => {
  try {
    process.kill(pid, 0);
    return !/\) Z /.test(fs.readFileSync(`/proc/${pid}/stat`, 'latin1'));
  } catch {
    return false;
  }
};
function end(name, signal) {
  const file = at('containers', name);
  if (!fs.existsSync(file)) return false;
  const { pid } = read(file);
  if (alive(pid)) process.kill(-pid, signal);
  if (signal === 'SIGKILL') fs.rmSync(file, { force: true });
  return true;
}

function run(options) {
  const labels = [];
  let name, envFile, i;
  const published = [];
  for (i = 0; options[i]?.startsWith('-'); i++) {
    const [option, inline] = options[i].split(/=(.*)/s);
    const flag = ['--rm', '--pull', '--log-driver'].includes(option);
    const v = inline ?? (flag ? undefined : options[++i]);
    if (option === '--name') name = v;
    if (option === '--label') labels.push(v);
    if (option === '--env-file') envFile = v;
    if (option === '--publish') published.push(v);
  }
  const image = options[i];
  if (!fs.existsSync(fileOf(image))) fail(`${image}: image not known`);
  if (fs.existsSync(at('containers', name))) fail(`the container name "${name}" is already in use`);
  if (envFile && (fs.statSync(envFile).mode & 0o077)) fail('the environment can be read by others');
  const env = Object.fromEntries(
    (envFile ? fs.readFileSync(envFile, 'utf8').split('\n') : [])
      .filter(Boolean)
      .map((l) => l.split(/=(.*)/s)),
  );
  const [program, ...before] = find(image)[1].program;
  const child = spawn(program, [...before, ...options.slice(i + 1)], {
    detached: true,
    env: { PATH: '/usr/bin:/bin', ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  fs.writeFileSync(at('containers', name), JSON.stringify({ pid: child.pid, labels, published, options }));
  child.stdout.pipe(process.stdout);
  child.stderr.pipe(process.stderr);
  for (const signal of ['SIGTERM', 'SIGINT']) process.on(signal, () => end(name, signal));
  child.on('exit', (code, signal) => {
    fs.rmSync(at('containers', name), { force: true });
    process.exit(code ?? 128 + (signal === 'SIGKILL' ? 9 : 15));
  });
}

const [verb, ...rest] = words;
if (verb === 'version') {
  if (fs.existsSync(at('broken'))) fail('Cannot connect to the daemon. Is it running?', 1);
  console.log('Version: 5.0');
} else if (verb === 'image' && rest[0] === 'inspect') {
  const image = rest.at(-1);
  if (!fs.existsSync(fileOf(image))) fail(`${image}: image not known`);
  const [full, { digest }] = find(image);
  console.log(JSON.stringify(digest ? [`${nameOf(full)}@${digest}`] : []));
} else if (verb === 'pull') {
  if (!find(rest[0])) fail(`initializing source docker://${rest[0]}: manifest unknown`);
  if (fs.existsSync(at('hold'))) fs.readFileSync(at('hold')); // a pipe: until somebody writes to it
  fs.writeFileSync(fileOf(rest[0]), '');
} else if (verb === 'run') {
  run(rest);
} else if (verb === 'stop') {
  if (!end(rest.at(-1), 'SIGTERM')) fail(`no container with name "${rest.at(-1)}"`);
} else if (verb === 'rm') {
  for (const name of rest.slice(1)) end(name, 'SIGKILL');
} else if (verb === 'ps') {
  const filters = rest.flatMap((w, k) => (rest[k - 1] === '--filter' ? [w.replace(/^label=/, '')] : []));
  for (const c of containers(filters)) console.log(c.name);
} else {
  fail(`unknown command ${verb}`);
}
