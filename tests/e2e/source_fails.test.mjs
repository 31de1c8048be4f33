// SPDX-License-Identifier: Apache-2.0
//
// Builds that are killed, that cannot be, and what is told of them; and the plan by what is here.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';

import { pathOf, skip, slow, withWorld } from './building.mjs';
import { corralPath, stubDriver } from './harness.mjs';
import { git } from './repo.mjs';

// ---- killed anywhere -------------------------------------------------------------------------------

test(
  'source: killed at any point, the next run ends as one that nobody disturbed',
  { skip },
  withWorld(async (w, t) => {
    const whole = await w.provision();
    assert.equal(whole.code, 0, whole.stdout);
    const want = w.print();
    const last = whole.lines.length - 1;
    // How many lines there are depends on how busy the machine is; the late ones are named.
    const lines = slow ? 44 : 3;
    const points = ['"verify"', '"configure"', '"build"', 'for its version', 'in its place', 'is ready']
      .slice(slow ? 0 : 4)
      .map((killOn) => ({ killOn }));
    for (let i = 0; i < lines; i++) points.push({ killAt: 1 + Math.floor((i * last * 0.6) / lines) });
    let killed = 0;
    for (const point of points) {
      const where = JSON.stringify(point);
      fs.rmSync(w.engines, { recursive: true });
      const cut = await w.provision(point);
      killed += cut.signal === 'SIGKILL';
      const after = await w.provision();
      assert.equal(after.code, 0, `${where}: ${after.stdout}`);
      assert.equal(w.print(), want, where);
      assert.deepEqual(w.halves(), [], where);
    }
    t.diagnostic(`${killed} of ${points.length} runs were killed`);
    assert.ok(killed >= points.length / 2, `${killed} of ${points.length}`);
    // Killed again and again, it still gets further each time.
    fs.rmSync(w.engines, { recursive: true });
    let tries = 0;
    for (; tries < 60 && (await w.provision({ killAt: 25 })).signal; tries++);
    assert.equal(w.print(), want, `after ${tries} kills`);
  }),
);

// ---- one clear message each ------------------------------------------------------------------------

test(
  'source: a broken compiler, a unit that does not compile, a repository without the target',
  { skip },
  withWorld(async (w) => {
    const broken = pathOf(w, [], {
      cc: `#!/bin/sh
[ "$1" = --version ] && echo "cc (Test) 12.2.0" && exit 0
echo "cc: cannot" >&2
exit 1
`,
    });
    const compiler = await w.provision({ env: { PATH: broken } });
    assert.equal(compiler.code, 1);
    assert.match(compiler.error, /^CMake cannot set the build up: CMake Error at .*The C compiler/);
    assert.match(compiler.error, /is not able to compile a simple test program/);
    const log = /the whole output is in (\S+)$/.exec(compiler.error)[1];
    assert.match(fs.readFileSync(log, 'utf8'), /cc: cannot/);
    assert.deepEqual([w.halves(), w.builds()], [[], []]);

    const dead = pathOf(w, [], { cc: '#!/bin/sh\nexit 1\n' });
    const refused = await w.provision({ env: { PATH: dead } });
    assert.match(refused.error, /cannot be built here: cc, the C compiler, does not run/);

    const unit = path.join(w.repo, 'ggml/ggml_7.c');
    const good = fs.readFileSync(unit, 'utf8');
    fs.writeFileSync(unit, 'int ggml_7(void) { return not_a_name; }\n');
    git(w.repo, 'commit', '-qam', 'broken');
    git(w.repo, 'tag', 'b103');
    const failing = await w.provision();
    assert.equal(failing.code, 1);
    assert.match(failing.error, /^llama-server b103 does not compile: .*_7\.c:1:\d+: error: .*not_a_name/);
    assert.match(failing.error, /the whole output is in \S+-build\.log$/);
    assert.deepEqual(w.builds(), []);
    const stuck = await w.states();
    assert.deepEqual(stuck.all.slice(3, 6), ['configure done', 'build failed', 'install todo']);
    assert.match(stuck.steps[4].detail, /^llama-server b103 does not compile/);
    fs.writeFileSync(unit, good);
    git(w.repo, 'commit', '-qam', 'mended');
    git(w.repo, 'tag', 'b104');
    assert.equal((await w.provision()).code, 0);
  }),
);

test(
  'source: no git, no cmake, nothing at all: what is missing, and the command',
  { skip },
  withWorld(async (w) => {
    const without = async (...names) => {
      const env = { PATH: pathOf(w, names), CORRAL_PREFLIGHT_ROOT: path.join(w.dir, 'machine') };
      return { made: await w.provision({ env }), plan: await w.run(['plan'], { env }) };
    };
    const release = path.join(w.dir, 'machine/etc/os-release');
    fs.mkdirSync(path.dirname(release), { recursive: true });
    fs.writeFileSync(release, 'ID=fedora\n');
    const one = await without('git');
    assert.equal(one.made.code, 1);
    assert.match(one.made.error, /^llama.cpp cannot be built here: git, which gets the sources, is not in/);
    assert.match(one.made.error, /dnf install -y git \(build.allow_package_installs: true does it\)$/);
    fs.writeFileSync(release, 'ID=arch\n');
    const all = await without('git', 'cmake', 'ninja', 'make', 'gmake', 'cc', 'c++');
    assert.match(all.made.error, /git, .* cmake, .* neither ninja nor make, .* cc, .* c\+\+, /);
    assert.match(all.made.error, /pacman -S --needed --noconfirm git cmake ninja gcc/);
    assert.equal(all.plan.code, 1);
    for (const name of ['git,', 'cmake,', 'neither ninja nor make', 'cc,', 'c++,'])
      assert.ok(all.plan.stdout.includes(`missing: ${name}`), all.plan.stdout);
    assert.deepEqual([w.halves(), w.builds()], [[], []]);
  }),
);

test(
  'source: missing tools are installed where that is allowed',
  { skip },
  withWorld(async (w) => {
    const env = {
      PATH: pathOf(w, ['ninja', 'make', 'gmake', 'sudo']),
      CORRAL_PREFLIGHT_ROOT: path.join(w.dir, 'm'),
    };
    fs.mkdirSync(path.join(w.dir, 'm/etc'), { recursive: true });
    fs.writeFileSync(path.join(w.dir, 'm/etc/os-release'), 'ID=debian\n');
    const manager = (text) =>
      ['apt-get', 'sudo'].forEach((name) => {
        fs.rmSync(path.join(env.PATH, name), { force: true });
        const script = name === 'sudo' ? '#!/bin/sh\nshift\nexec "$@"\n' : `#!/bin/sh\n${text}\n`;
        fs.writeFileSync(path.join(env.PATH, name), script, { mode: 0o755 });
      });
    const build = { allow_package_installs: true };
    w.write({ top: { build } });
    manager('echo "E: Unable to locate package $5" >&2; exit 100');
    const failed = await w.provision({ env });
    assert.match(failed.error, /^the missing packages cannot be installed: .*source-packages\.log$/);
    const ninja = spawnSync('sh', ['-c', 'command -v ninja make']).stdout.toString().split('\n')[0];
    manager(`echo "$@" > ${w.dir}/asked`);
    w.write({ top: { build, network: { deny: ['bad.example'] } } }); // it would ask mirrors of its own
    const bounded = await w.provision({ env });
    assert.match(bounded.error, /apt-get install .*ninja-build \(not run by itself where network\.allow_/);
    assert.ok(!fs.existsSync(path.join(w.dir, 'asked')));
    w.write({ top: { build } });
    manager(`echo "$@" > ${w.dir}/asked; ln -s ${ninja} ${env.PATH}/${path.basename(ninja)}`);
    const made = await w.provision({ env });
    assert.equal(made.code, 0, made.stdout);
    assert.match(fs.readFileSync(path.join(w.dir, 'asked'), 'utf8'), /^install -y .*ninja-build/);
  }),
);

// ---- disks -----------------------------------------------------------------------------------------

const unshare = ['--user', '--map-root-user', '--mount'];
const noMounts =
  spawnSync('unshare', [...unshare, 'mount', '-t', 'tmpfs', 'none', '/mnt']).status !== 0 && 'no mounts here';

/** Provisions with the state folder on a tmpfs of that size, in a namespace; then prints what is left. */
function onTmpfs(w, options) {
  fs.mkdirSync(w.state, { recursive: true });
  const script = `mount -t tmpfs -o ${options} none ${w.state}
${corralPath} engines provision chat --json --config ${w.config}; echo "code $?"
find ${w.state} -mindepth 3 -not -name '*.log' -not -name log -not -name source.lock
df --output=avail ${w.state}`;
  const env = { ...process.env, CORRAL_SYSFS: path.join(w.dir, 'no-sysfs') };
  return spawnSync('unshare', [...unshare, 'sh', '-c', script], { encoding: 'utf8', env });
}

test(
  'source: a disk without room, one that gets full, a folder nobody may write',
  { skip: skip || noMounts },
  withWorld(async (w) => {
    const small = onTmpfs(w, 'size=8m').stdout;
    assert.match(small, /s\/engines\/llamacpp has \S+ MiB free, and a CPU build takes about 1\.0 GiB: make/);
    assert.match(small, /code 1\n\s*Avail/, 'nothing is left');

    const fill = 'execute_process(COMMAND dd if=/dev/zero of=${CMAKE_BINARY_DIR}/fill bs=1M count=1100)\n';
    fs.appendFileSync(path.join(w.repo, 'CMakeLists.txt'), fill);
    git(w.repo, 'commit', '-qam', 'fills');
    git(w.repo, 'tag', 'b105');
    const full = onTmpfs(w, 'size=1040m').stdout;
    assert.match(full, /the disk of \S+ is full; make room and start again/);
    assert.match(full, /code 1\n\s*Avail/, 'nothing is left');

    const fixed = onTmpfs(w, 'ro,size=2g').stdout;
    assert.match(fixed, /state_dir.*(Read-only file system|cannot be)/);
    assert.match(fixed, /code 1\n/);
  }),
);

// ---- the plan --------------------------------------------------------------------------------------

const card = (cc) => `device|GPU-aaaa1111|Stub 24 GB|00000000:01:00.0|24576|0|25|51|${cc}|0`;

test(
  'source: the plan by what is here: no GPU, a GPU, with and without its toolkit',
  { skip },
  withWorld(async (w) => {
    const machine = path.join(w.dir, 'machine');
    fs.mkdirSync(path.join(machine, 'etc'), { recursive: true });
    fs.writeFileSync(path.join(machine, 'etc/os-release'), 'ID=debian\n');
    const nvcc = path.join(machine, 'usr/local/cuda/bin/nvcc');
    const kits = ['nvcc', 'glslc', 'hipcc', 'llama-server'];
    const env = { PATH: pathOf(w, kits), CORRAL_PREFLIGHT_ROOT: machine };
    const plan = async (more = {}) => {
      const r = await w.run(['plan', 'chat', '--json'], { env: { ...env, ...more } });
      return { code: r.code, ...JSON.parse(r.stdout).pools[0] };
    };
    const toolkit = () => {
      fs.mkdirSync(path.dirname(nvcc), { recursive: true });
      fs.mkdirSync(path.join(machine, 'usr/local/cuda/include/crt'), { recursive: true });
      fs.writeFileSync(path.join(machine, 'usr/local/cuda/include/cuda_runtime.h'), '');
      const says = 'echo "release 12.8, V12.8.1"\n[ $1 = --version ] || echo compute_89\n';
      fs.writeFileSync(nvcc, `#!/bin/sh\n${says}`, { mode: 0o755 });
    };
    const driver = stubDriver(card('8.9'));

    const bare = await plan();
    assert.equal(bare.code, 0);
    assert.equal(bare.why, 'source: built with the CPU, because this machine shows no GPU');
    assert.deepEqual(
      bare.steps.map((s) => s.step),
      ['preflight', 'fetch', 'verify', 'configure', 'build', 'install', 'canary'],
    );
    assert.equal((await plan()).plan, bare.plan, 'the same input, the same plan');

    const lacks = await plan(driver.env);
    assert.equal(lacks.code, 1);
    assert.equal(lacks.why, 'source: built with CUDA for Stub 24 GB');
    assert.deepEqual(lacks.missing.map((m) => m.what), ['nvcc']);
    assert.match(lacks.missing[0].command, /apt-get install -y .*nvidia-cuda-toolkit$/);
    assert.equal(lacks.missing[0].packages.Arch, 'cuda');

    w.write({ top: { gpu: 'optional' } });
    const instead = await plan(driver.env);
    assert.equal(instead.why, 'source: built with the CPU, because nvcc is not here: Stub 24 GB is not used');
    assert.equal(instead.code, 0);
    w.write({});

    toolkit();
    const idle = await plan();
    assert.match(idle.why, /this machine shows no GPU \(the CUDA toolkit 12\.8 at .* is not used\)/);
    const cuda = await plan(driver.env);
    assert.equal(cuda.code, 0, JSON.stringify(cuda.missing));
    assert.equal(cuda.why, 'source: built with CUDA 12.8 for Stub 24 GB (8.9)');
    assert.match(cuda.steps[3].text, /GGML_CUDA=ON -DCMAKE_CUDA_COMPILER=\S+ -DCMAKE_CUDA_ARCHITECTURES=89/);
    assert.notEqual(cuda.plan, bare.plan);

    // Of itself too, where no llama-server is installed and a GPU and its toolkit are here.
    w.write({ engine: { mode: 'auto', source: undefined } });
    const auto = await plan(driver.env);
    assert.equal(auto.mode, 'auto');
    assert.equal(auto.why, 'source: built with CUDA 12.8 for Stub 24 GB (8.9)');
    assert.doesNotMatch((await plan()).why, /^source/);
    w.write({});

    const text = (await w.run(['plan', 'chat'], { env: { ...env, ...driver.env } })).stdout;
    assert.match(text, /^Pool chat \(plan [0-9a-f]{16}\): source: built with CUDA 12\.8 for Stub 24 GB/);
    assert.match(text, /^ {2}5\. build {7}todo {4}Build llama-server\.$/m);
  }),
);
