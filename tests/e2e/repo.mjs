// SPDX-License-Identifier: Apache-2.0
//
// A git repository of llama.cpp's shape, made for a test: CMake, a llama-server target behind
// LLAMA_BUILD_SERVER, ggml as a folder of many small files, a submodule, release tags. Its llama-server is
// the fake engine's source, so that what is built really serves.

import { execFileSync, spawn } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';

import { root, withDeadline } from './harness.mjs';

const identity = ['-c', 'user.name=t', '-c', 'user.email=t@example.org', '-c', 'init.defaultBranch=master'];
export const git = (dir, ...words) =>
  execFileSync('git', ['-C', dir, ...identity, '-c', 'protocol.file.allow=always', ...words], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, GIT_CONFIG_GLOBAL: '/dev/null', GIT_AUTHOR_DATE: '2026-01-01T00:00:00Z',
      GIT_COMMITTER_DATE: '2026-01-01T00:00:00Z' },
  }).trim();

const put = (dir, name, text) => {
  fs.mkdirSync(path.dirname(path.join(dir, name)), { recursive: true });
  fs.writeFileSync(path.join(dir, name), text);
};
const commit = (dir, message) => {
  git(dir, 'add', '-A');
  git(dir, 'commit', '-q', '-m', message);
};

const top = `cmake_minimum_required(VERSION 3.14)
project("llama.cpp" C)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY \${CMAKE_BINARY_DIR}/bin)
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY \${CMAKE_BINARY_DIR}/bin)
option(BUILD_SHARED_LIBS "build shared libraries" ON)
option(LLAMA_BUILD_SERVER "build the server" OFF)
option(LLAMA_BUILD_TESTS "build tests" ON)
if (NOT DEFINED LLAMA_BUILD_NUMBER)
  set(LLAMA_BUILD_NUMBER 0)
endif()
add_subdirectory(ggml)
add_subdirectory(vendor/small)
if (LLAMA_BUILD_SERVER)
  add_subdirectory(tools/server)
endif()
if (LLAMA_BUILD_TESTS)
  message(FATAL_ERROR "tests are not asked for")
endif()
`;
const ggml = `file(GLOB sources *.c)
option(GGML_EXTRA "says so" OFF)
add_library(ggml \${sources})
if (GGML_EXTRA)
  target_compile_definitions(ggml PUBLIC GGML_EXTRA)
endif()
`;
const server = `file(GLOB sources *.c base/*.c)
add_executable(llama-server \${sources})
target_compile_options(llama-server PRIVATE -std=gnu17)
target_compile_definitions(llama-server PRIVATE _GNU_SOURCE)
target_include_directories(llama-server PRIVATE \${CMAKE_CURRENT_SOURCE_DIR})
find_package(Threads REQUIRED)
target_link_libraries(llama-server PRIVATE ggml small Threads::Threads m)
`;

/** Makes <dir>/llama.cpp with its submodule <dir>/small; units: how many small files ggml has. */
export function makeRepo(dir, { units = 200 } = {}) {
  const repo = path.join(dir, 'llama.cpp');
  const small = path.join(dir, 'small');
  for (const d of [repo, small]) {
    fs.mkdirSync(d, { recursive: true });
    git(d, 'init', '-q');
  }
  put(small, 'CMakeLists.txt', 'add_library(small STATIC small.c)\n');
  put(small, 'small.c', 'int small(void);\nint small(void) { return 1; }\n');
  commit(small, 'small');
  put(repo, 'CMakeLists.txt', top);
  put(repo, 'ggml/CMakeLists.txt', ggml);
  for (let i = 0; i < units; i++)
    put(repo, `ggml/ggml_${i}.c`, `int ggml_${i}(void);\nint ggml_${i}(void) { return ${i}; }\n`);
  put(repo, 'tools/server/CMakeLists.txt', server);
  for (const [from, to] of [['tests/fakes', ''], ['src/base', 'base/']])
    for (const name of fs.readdirSync(path.join(root, from)))
      if (/^fake_.*\.[ch]$/.test(name) || (to && /\.[ch]$/.test(name)))
        put(repo, `tools/server/${to}${name}`, fs.readFileSync(path.join(root, from, name)));
  git(repo, 'submodule', '--quiet', 'add', '../small', 'vendor/small');
  commit(repo, 'first');
  git(repo, 'tag', 'b100');
  put(repo, 'README.md', 'second\n');
  commit(repo, 'second');
  git(repo, 'tag', '-a', 'b101', '-m', 'b101');
  return repo;
}

/** A `git daemon` over that folder, on a port of its own; {url, stop}. */
export async function gitDaemon(dir, port) {
  const child = spawn(
    'git',
    ['daemon', '--verbose', '--export-all', '--reuseaddr', '--listen=127.0.0.1', `--port=${port}`,
      `--base-path=${dir}`, dir],
    { stdio: ['ignore', 'pipe', 'pipe'], detached: true },
  );
  await withDeadline(
    new Promise((resolve, reject) => {
      let text = '';
      child.stderr.on('data', (d) => {
        if ((text += d).includes('Ready to rumble')) resolve();
      });
      child.once('exit', () => reject(new Error(`git daemon ended: ${text}`)));
    }),
    'git daemon to listen',
  );
  return { url: `git://127.0.0.1:${port}`, stop: () => process.kill(-child.pid, 'SIGKILL') };
}
